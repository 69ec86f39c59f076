#!/usr/bin/env bash
# What is wrong is named: file and line, part and offset; the exit status says it too; nothing is changed by a refusal.
. "$(dirname "$0")/lib.sh"
set=$WORK/p/pool.set
part=$WORK/p/local.part0
BLOCK=4096

# lines_refused LINE TEXT POOLSET-LINES...: mkfs names the file, LINE and TEXT
lines_refused() {
	local line=$1 text=$2
	shift 2
	mkdir -p "$WORK/wrong"
	printf '%s\n' "$@" >"$WORK/wrong/pool.set"
	expect_exit 1 "wrong/pool.set:$line: $text" rpmemfs wrong mkfs "$WORK/wrong/pool.set"
	expect_eq "files made" "$(ls "$WORK/wrong")" pool.set
}

test_wrong_poolsets() {
	lines_refused 1 "" "POOLSET" "64M $WORK/wrong/part0"
	lines_refused 2 "" "PMEMPOOLSET" "64Q $WORK/wrong/part0"
	lines_refused 2 "" "PMEMPOOLSET" "64M relative/part0"
	lines_refused 3 "" "PMEMPOOLSET" "64M $WORK/wrong/part0" "REPLICA @local"
	lines_refused 3 "" "PMEMPOOLSET" "64M $WORK/wrong/part0" "OPTION NONSENSE"
}

test_missing_files() {
	expect_exit 1 "$WORK/none.set" rpmemfs p mkfs "$WORK/none.set"
	expect_exit 1 "$WORK/none.set" rpmemfs p mount "$WORK/none.set" "$WORK/mnt/p"
	expect_exit 1 "$WORK/none.set" rpmemfs p info "$WORK/none.set"
	expect_exit 1 "$WORK/none.set" rpmemfs p fsck "$WORK/none.set"
	sets_write unmade 64M
	expect_exit 1 "rpmemfs mkfs" rpmemfs unmade mount "$WORK/unmade/pool.set" "$WORK/mnt/unmade"
	expect_exit 1 "rpmemfs mkfs" rpmemfs unmade info "$WORK/unmade/pool.set"
	expect_exit 1 "$WORK/nowhere" rpmemfs p mount "$set" "$WORK/nowhere"
	expect_exit 1 "not a directory" rpmemfs p mount "$set" "$set"
}

test_usage() {
	expect_exit 2 "mkfs" rpmemfs p
	expect_exit 2 "no such command" rpmemfs p frobnicate
	expect_exit 2 "usage" rpmemfs p mkfs
	expect_exit 2 "usage" rpmemfs p mount "$set"
	expect_exit 2 "usage" rpmemfs p mount --no-such-option "$set" "$WORK/mnt/p"
	expect_exit 2 "--timeout" rpmemfs p mount --timeout soon "$set" "$WORK/mnt/p"
	expect_exit 2 "usage" rpmemfs p status
	expect_exit 2 "usage" rpmemfs p fsck
	expect_exit 0 "restore" rpmemfs p help
}

test_not_a_mount() {
	expect_exit 1 "not the root of an rpmemfs mount" rpmemfs p status "$WORK"
	expect_exit 1 "not the root of an rpmemfs mount" rpmemfs p sync "$WORK"
	expect_exit 1 "No such file" rpmemfs p status "$WORK/nowhere"
}

test_mkfs_over_a_pool_is_refused() {
	local seen
	seen=$(sha256sum "$part")
	expect_exit 1 "--force" rpmemfs p mkfs "$set"
	expect_eq "the part" "$(sha256sum "$part")" "$seen"
}

# The local parts are gone, the replica is not: mkfs must not take what may be the last copy.
test_mkfs_over_a_replica_is_refused() {
	local seen
	seen=$(sha256sum "$WORK/p/second.part0")
	mv "$part" "$part.away"
	expect_exit 1 "--force" rpmemfs p mkfs "$set"
	expect_eq "the replica's part" "$(sha256sum "$WORK/p/second.part0")" "$seen"
	[ ! -e "$part" ]
	mv "$part.away" "$part"
}

test_too_small_a_pool() {
	sets_write small 64K
	expect_exit 1 "small" rpmemfs small mkfs "$WORK/small/pool.set"
	[ ! -e "$WORK/small/local.part0" ]
}

# overwritten BLOCK [COUNT] COMMAND...: runs the command with those blocks of the local part overwritten
overwritten() {
	local block=$1 count=$2 status=0
	shift 2
	cp --sparse=always "$part" "$part.whole"
	head -c $((count * BLOCK)) /dev/urandom | dd of="$part" bs=$BLOCK seek="$block" conv=notrunc status=none
	"$@" || status=$?
	mv "$part.whole" "$part"
	return $status
}

test_damaged_pool_header() {
	overwritten 0 1 expect_exit 1 "$part" rpmemfs p info "$set"
	overwritten 0 1 expect_exit 1 "restore" rpmemfs p mount "$set" "$WORK/mnt/p"
}

# Blocks 2 and 3 are the superblocks: one may be damaged, both may not.
test_damaged_superblocks() {
	overwritten 2 1 rpmemfs p info "$set"
	overwritten 3 1 rpmemfs p info "$set"
	overwritten 2 2 expect_exit 1 "0x2000" rpmemfs p info "$set"
	overwritten 2 2 expect_exit 1 "restore" rpmemfs p mount "$set" "$WORK/mnt/p"
	expect_eq "mounted" "$(is_mounted p && echo yes)" ""
}

# A block whose file says what it holds, found in the part by its content.
damage_content() {
	local at
	at=$(grep -abo -m 1 'needle in the data' "$part" | head -n 1 | cut -d: -f1)
	say "content at byte $at"
	printf X | dd of="$part" bs=1 seek=$((at + 3)) conv=notrunc status=none
	expect_exit 1 "local" rpmemfs p verify --quiet "$set"
	fs_mount p
	expect_exit any "Input/output error" cat "$WORK/mnt/p/needle"
	expect_eq "the other file" "$(cat "$WORK/mnt/p/other")" other
	grep -i "block.*$(printf '0x%x' $((at / BLOCK * BLOCK)))" "$WORK/p/rpmemfs.log"
	fs_umount p
}

test_damaged_content() {
	cp --sparse=always "$part" "$part.kept"
	damage_content
	mv "$part.kept" "$part"
}

# The replica is good: a restore repairs what was damaged.
test_restore_after_damage() {
	overwritten 2 2 expect_exit 3 "--replace" rpmemfs p restore "$set"
	cp --sparse=always "$part" "$part.kept"
	head -c 8192 /dev/urandom | dd of="$part" bs=$BLOCK seek=2 conv=notrunc status=none
	rpmemfs p restore --replace "$set"
	rpmemfs p fsck "$set"
	rpmemfs p verify --quiet "$set"
}

# Damaged group tables and inodes must be found by fsck, with no crash.
test_fsck_finds_damage() {
	local geometry block found=0
	geometry=$(rpmemfs p info "$set" | sed -n 's/^geometry: *\([0-9]*\) blocks.*journal \([0-9]*\).*/\1 \2/p')
	say "geometry: $geometry"
	local first=$((4 + ${geometry#* } * 256))
	for block in $(seq $first $((first + 12))); do
		overwritten "$block" 1 damage_told && found=$((found + 1))
	done
	say "damage told for $found of 13 blocks"
	[ "$found" -ge 3 ]
}

# 0: fsck told damage; 1: the block mattered to nobody. A crash is neither.
damage_told() {
	local status=0
	rpmemfs p fsck "$set" >"$WORK/fsck.out" 2>&1 || status=$?
	case $status in
	0) return 1 ;;
	1 | 3) return 0 ;;
	*)
		say "fsck ended with $status: $(cat "$WORK/fsck.out")"
		kill -s ABRT $BASHPID
		;;
	esac
}

shared() {
	fs_make p 64M
	echo "needle in the data" >"$WORK/mnt/p/needle"
	echo other >"$WORK/mnt/p/other"
	fs_umount p
}

prepare shared
run_tests
