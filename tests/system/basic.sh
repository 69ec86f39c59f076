#!/usr/bin/env bash
# What POSIX promises about files, seen through a mount. One mount for all tests; the last one checks the pool behind it.
. "$(dirname "$0")/lib.sh"
m=$WORK/mnt/p

test_write_read_append() {
	echo one >"$m/f"
	echo two >>"$m/f"
	expect_eq content "$(cat "$m/f")" $'one\ntwo'
	head -c 3000000 /dev/urandom >"$WORK/big"
	cp "$WORK/big" "$m/big"
	cmp "$WORK/big" "$m/big"
	printf X | dd of="$m/big" bs=1 seek=1234567 conv=notrunc status=none
	printf X | dd of="$WORK/big" bs=1 seek=1234567 conv=notrunc status=none
	cmp "$WORK/big" "$m/big"
	expect_eq size "$(stat -c %s "$m/big")" 3000000
}

test_directories() {
	mkdir -p "$m/a/b/c"
	expect_eq "links of a" "$(stat -c %h "$m/a")" 3
	expect_exit any "File exists" mkdir "$m/a"
	expect_exit any "not empty" rmdir "$m/a"
	rmdir "$m/a/b/c" "$m/a/b"
	expect_eq "links of a, emptied" "$(stat -c %h "$m/a")" 2
	touch "$m/a/x"
	expect_exit any "Not a directory" ls "$m/a/x/y"
	expect_exit any "No such file" cat "$m/a/none"
	rm -r "$m/a"
	[ ! -e "$m/a" ]
}

test_names() {
	local long
	long=$(printf 'n%.0s' {1..255})
	touch "$m/$long" "$m/ leading blank" "$m/ümläut" "$m/"$'new\nline'
	[ -e "$m/$long" ] && [ -e "$m/ümläut" ] && [ -e "$m/"$'new\nline' ]
	expect_exit any "too long" touch "$m/${long}x"
	rm "$m/$long" "$m/ leading blank" "$m/ümläut" "$m/"$'new\nline'
}

test_rename() {
	mkdir "$m/r" "$m/r/d1" "$m/r/d2"
	echo old >"$m/r/old"
	echo new >"$m/r/new"
	mv "$m/r/new" "$m/r/old"
	expect_eq replaced "$(cat "$m/r/old")" new
	mv "$m/r/old" "$m/r/d1/moved"
	mv "$m/r/d1" "$m/r/d2/"
	expect_eq "moved with its directory" "$(cat "$m/r/d2/d1/moved")" new
	expect_eq "links of r" "$(stat -c %h "$m/r")" 3
	expect_exit any "subdirectory of itself" mv "$m/r/d2" "$m/r/d2/d1/"
	mkdir "$m/r/empty"
	mv -T "$m/r/empty" "$m/r/d2/d1/e"
	expect_exit any "not empty" mv -T "$m/r/d2/d1/e" "$m/r/d2"
	rm -r "$m/r"
}

test_links() {
	echo text >"$m/l1"
	ln "$m/l1" "$m/l2"
	expect_eq "link count" "$(stat -c %h "$m/l1")" 2
	expect_eq "same inode" "$(stat -c %i "$m/l1")" "$(stat -c %i "$m/l2")"
	rm "$m/l1"
	expect_eq "link count after unlink" "$(stat -c '%h' "$m/l2")" 1
	expect_eq content "$(cat "$m/l2")" text
	rm "$m/l2"
}

test_symlinks() {
	local long
	long=$(printf '/x%.0s' {1..1000})
	ln -s l-target "$m/s1"
	ln -s "$long" "$m/s2"
	echo via >"$m/l-target"
	expect_eq "through the link" "$(cat "$m/s1")" via
	expect_eq "long target" "$(readlink "$m/s2")" "$long"
	ln -s loop "$m/loop"
	expect_exit any "symbolic links" cat "$m/loop"
	rm "$m/s1" "$m/s2" "$m/loop" "$m/l-target"
}

test_truncate() {
	printf 0123456789 >"$m/t"
	truncate -s 4 "$m/t"
	truncate -s 8 "$m/t"
	expect_eq "zeros where it was cut" "$(od -An -tx1 "$m/t" | tr -d ' ')" 3031323300000000
	truncate -s 1M "$m/t"
	truncate -s 0 "$m/t"
	expect_eq size "$(stat -c '%s %b' "$m/t")" "0 0"
	rm "$m/t"
}

test_sparse_file() {
	printf end | dd of="$m/sparse" bs=1 seek=100G conv=notrunc status=none
	expect_eq size "$(stat -c %s "$m/sparse")" $(((100 << 30) + 3))
	expect_le "sectors used" "$(stat -c %b "$m/sparse")" 64
	expect_eq "zeros in the middle" "$(dd if="$m/sparse" bs=1 skip=50G count=4 status=none | od -An -tx1 | tr -d ' ')" 00000000
	expect_eq "its end" "$(tail -c 3 "$m/sparse")" end
	rm "$m/sparse"
}

test_ten_thousand_files() {
	mkdir "$m/many"
	(cd "$m/many" && seq -f 'file-%.0f' 10000 | xargs touch)
	expect_eq "entries listed" "$(ls -U "$m/many" | sort -u | wc -l)" 10000
	(cd "$m/many" && seq -f 'file-%.0f' 2 2 10000 | xargs rm)
	expect_eq "entries left" "$(ls -U "$m/many" | sort -u | wc -l)" 5000
	[ -e "$m/many/file-4999" ]
	[ ! -e "$m/many/file-5000" ]
	rm -r "$m/many"
	[ ! -e "$m/many" ]
}

# A listing that is under way while entries go: none twice, none of those that stayed missing.
test_removing_while_listing() {
	mkdir "$m/going"
	(cd "$m/going" && seq 3000 | xargs touch)
	find "$m/going" -type f -delete
	expect_eq "left over" "$(ls -A "$m/going")" ""
	rmdir "$m/going"
}

test_permissions() {
	local user=(setpriv --reuid 65534 --regid 65534 --clear-groups)
	expect_eq "mode by umask" "$(umask 027; touch "$m/perm"; stat -c %a "$m/perm")" 640
	chmod 4755 "$m/perm"
	chown 1000:1000 "$m/perm"
	expect_eq "owner, set-user-id gone" "$(stat -c '%u:%g %a' "$m/perm")" "1000:1000 755"
	chmod 600 "$m/perm"
	if ! "${user[@]}" true 2>/dev/null; then skip "no right to run as another user"; fi
	expect_exit any "ermission denied" "${user[@]}" cat "$m/perm"
	rm "$m/perm"
}

test_times() {
	local before after
	touch -d '2001-02-03 04:05:06.789 UTC' "$m/time"
	expect_eq mtime "$(TZ=UTC stat -c %y "$m/time")" "2001-02-03 04:05:06.789000000 +0000"
	before=$(stat -c %Y "$m/time")
	echo x >>"$m/time"
	after=$(stat -c %Y "$m/time")
	[ "$after" -gt "$before" ]
	before=$(stat -c %Z "$m")
	rm "$m/time"
	[ "$(stat -c %Z "$m")" -ge "$before" ]
}

test_special_files() {
	mkfifo "$m/fifo"
	expect_eq type "$(stat -c %F "$m/fifo")" fifo
	rm "$m/fifo"
}

test_statfs() {
	local free now
	sync "$m"
	free=$(stat -f -c %f "$m")
	head -c 4M /dev/zero | tr '\0' z >"$m/space"
	sync "$m/space"
	now=$(stat -f -c %f "$m")
	[ $((free - now)) -ge 1024 ]
	expect_le "blocks taken by 4 MiB" $((free - now)) 1100
	expect_eq "name length" "$(stat -f -c %l "$m")" 255
	rm "$m/space"
	sync "$m"
	await "the blocks to come back" space_is_back "$free"
}

space_is_back() {
	sync "$m"
	[ "$(stat -f -c %f "$m")" -ge $(($1 - 8)) ]
}

test_open_unlinked_file() {
	"$FSIO" unlinked "$m/nameless"
	[ ! -e "$m/nameless" ]
}

test_mmap_and_msync() {
	head -c 20000 /dev/zero >"$m/map"
	"$FSIO" store "$m/map" 5000 hello
	expect_eq "read(2) sees the mapping" "$(dd if="$m/map" bs=1 skip=5000 count=5 status=none)" hello
	printf world | dd of="$m/map" bs=1 seek=8190 conv=notrunc status=none
	expect_eq "the mapping sees write(2)" "$("$FSIO" peek "$m/map" 8190 5)" world
	"$FSIO" stores "$m/map" 12288 50
	rm "$m/map"
}

test_synchronous_writes() {
	local flag
	head -c 8192 /dev/zero >"$m/sync"
	for flag in fsync fdatasync sync dsync direct; do "$FSIO" rewrite "$m/sync" 4096 4096 5 $flag; done
	echo line | dd of="$m/sync" oflag=append,dsync conv=notrunc status=none
	expect_eq size "$(stat -c %s "$m/sync")" 8197
	"$FSIO" append "$m/appended" 200 20
	expect_eq "appended" "$(stat -c %s "$m/appended")" 4000
	"$FSIO" syncdir "$m"
	rm "$m/sync" "$m/appended"
}

test_seek_hole() {
	printf x | dd of="$m/holes" bs=1 seek=1M conv=notrunc status=none
	cp --sparse=always "$m/holes" "$WORK/holes"
	cmp "$m/holes" "$WORK/holes"
	rm "$m/holes"
}

test_replace_by_rename() {
	"$FSIO" replace "$m/config" first
	"$FSIO" replace "$m/config" second
	expect_eq content "$(cat "$m/config")" second
	rm "$m/config"
}

test_everything_is_sound_afterwards() {
	local before
	before=$(cd "$m" && find . -type f -exec sha256sum {} + | sort)
	fs_umount p
	rpmemfs p fsck "$WORK/p/pool.set"
	rpmemfs p verify --quiet "$WORK/p/pool.set"
	fs_mount p
	expect_eq "content after a remount" "$(cd "$m" && find . -type f -exec sha256sum {} + | sort)" "$before"
}

prepare fs_make p 256M
run_tests
