#!/usr/bin/env bash
# A full pool: ENOSPC and nothing else; what is there can be overwritten, deleting works, the space comes back.
. "$(dirname "$0")/lib.sh"
m=$WORK/mnt/p

fill() {
	local out
	out=$(dd if=/dev/urandom of="$m/$1" bs=64K 2>&1 || true)
	[[ $out == *"No space left"* ]]
}

test_enospc() {
	head -c 4M /dev/urandom >"$m/kept"
	sync "$m/kept"
	sha256sum "$m/kept" >"$WORK/kept.sum"
	fill full
	sync "$m/full"
	expect_exit any "No space left" dd if=/dev/urandom of="$m/more" bs=1M count=8
	sha256sum --quiet -c "$WORK/kept.sum"
	status_is p .as_configured true
}

test_overwriting_works() {
	local i
	for i in 1 2 3; do
		head -c 4M /dev/urandom >"$WORK/fresh"
		dd if="$WORK/fresh" of="$m/kept" bs=256K conv=notrunc,fsync status=none
		cmp "$WORK/fresh" "$m/kept"
	done
	"$FSIO" store "$m/kept" 4096 "through a mapping"
	"$FSIO" rewrite "$m/kept" 8192 4096 20
	sha256sum "$m/kept" >"$WORK/kept.sum"
}

test_deleting_works() {
	rm -f "$m/more"
	rm "$m/full"
	[ ! -e "$m/full" ]
}

roomy() {
	sync "$m"
	[ $(($(stat -f -c '%f * %S' "$m"))) -ge $((40 << 20)) ]
}

test_space_comes_back() {
	await "40 MiB of space" roomy
	head -c 32M /dev/urandom >"$m/again"
	sync "$m/again"
	rm "$m/again"
}

test_full_of_small_files() {
	local count
	mkdir "$m/small"
	fill ballast
	(cd "$m/small" && for ((i = 0; i < 200000; i++)); do : >$i || break; done) 2>"$WORK/touch.err" || true
	grep -q "No space left" "$WORK/touch.err"
	count=$(ls -U "$m/small" | wc -l)
	say "$count names fitted"
	rm -r "$m/small"
	rm "$m/ballast"
	await "40 MiB of space" roomy
}

test_many_times() {
	local round
	for round in 1 2 3 4; do
		fill round
		sync "$m/round" || true
		rm "$m/round"
		await "40 MiB of space, round $round" roomy
	done
	sha256sum --quiet -c "$WORK/kept.sum"
}

test_full_over_a_kill() {
	fill full
	rpmemfs p sync "$m"
	fs_kill p
	fs_mount p
	sha256sum --quiet -c "$WORK/kept.sum"
	rm "$m/full"
	await "40 MiB of space" roomy
	fs_umount p
	rpmemfs p fsck "$WORK/p/pool.set"
	rpmemfs p verify --quiet "$WORK/p/pool.set"
}

prepare fs_make p 64M
run_tests
