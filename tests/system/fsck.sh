#!/usr/bin/env bash
# fsck tells damage and what to do about it; --repair repairs what needs no guess, on all copies or on none, and nothing else.
. "$(dirname "$0")/lib.sh"
m=$WORK/mnt/p
set=$WORK/p/pool.set
part=$WORK/p/local.part0
second=$WORK/p/second.part0
BLOCK=4096

fsck() {
	rpmemfs p fsck "$@" "$set"
}

# Both copies alike, as a bug leaves them: it is in the history.
hurt() {
	"$POOLHURT" "$part" "$@"
	"$POOLHURT" "$second" "$@"
}

# kept COMMAND...: the parts are put back after it
kept() {
	cp --sparse=always "$part" "$part.kept"
	cp --sparse=always "$second" "$second.kept"
	"$@"
	mv "$part.kept" "$part"
	mv "$second.kept" "$second"
}

sound_and_same() {
	expect_exit 0 "sound" fsck
	expect_exit 0 "copies are the same" rpmemfs p verify --quiet "$set"
}

# ... and they mount.
all_sound() {
	fs_mount p
	expect_eq "content" "$(cat "$m/dir/file" "$m/other")" "in a directory
beside it"
	status_is p .as_configured true
	fs_umount p
	sound_and_same
}

test_sound_pools_are_not_touched() {
	local seen
	expect_exit 0 "sound" fsck
	seen=$(sha256sum "$part" "$second")
	expect_exit 0 "sound" fsck --repair
	expect_eq "the parts" "$(sha256sum "$part" "$second")" "$seen"
}

test_usage() {
	expect_exit 2 "usage" rpmemfs p fsck --repair
	expect_exit 2 "usage" rpmemfs p fsck --provider tcp "$set"
	expect_exit 2 "usage" rpmemfs p fsck --force "$set"
}

test_mounted_pools_are_refused() {
	fs_mount p
	expect_exit 1 "it is mounted on" fsck
	expect_exit 1 "it is mounted on" fsck --repair
	fs_umount p
}

test_repairs_on_all_copies() {
	hurt leak 700
	hurt drop dir
	hurt links other 4
	expect_exit 3 "leaked" fsck
	expect_exit 3 "fsck --repair $set repairs 70" fsck
	expect_exit 0 "700 leaked blocks freed" fsck --repair
	fs_mount p
	mv "$m"/lost+found/* "$m/dir"
	rmdir "$m/lost+found"
	expect_eq "links" "$(stat -c %h "$m/other" "$m/dir" | xargs)" "1 2"
	fs_umount p
	all_sound
}

# killed_when WHAT COMMAND...: a repair gets SIGKILL as soon as the command succeeds
killed_when() {
	local pid what=$1
	shift
	rpmemfs p fsck --repair "$set" >"$WORK/repair.out" 2>&1 &
	pid=$!
	await "$what" eval "$* || ! kill -0 $pid"
	pkill -KILL -P $pid -x rpmemfs || true
	wait $pid || true
	await "end of its rpmemd" no_process p/
}

# A repair that is killed is not there, or it is there whole.
test_killed_repairs() {
	hurt leak 300
	cp --sparse=always "$part" "$part.before"
	killed_when "the findings" grep -q DAMAGED "$WORK/repair.out"
	killed_when "the comparison" grep -q "'copies are the same'" "$WORK/repair.out"
	killed_when "the first commit" ! cmp -s "$part" "$part.before"
	fsck >"$WORK/fsck.out" || grep -q "300 findings" "$WORK/fsck.out"
	killed_when "the repair" grep -q "'leaked blocks freed'" "$WORK/repair.out"
	fsck >"$WORK/fsck.out" || grep -q "300 findings" "$WORK/fsck.out"
	rm "$part.before"
	fs_mount p # which sends the replica a commit that it may lack
	fs_umount p
	fsck --repair
	all_sound
}

test_counts_are_each_copys_own() {
	"$POOLHURT" "$part" counts
	expect_exit 3 "in use by its summary" fsck
	mv "$second" "$second.away"
	expect_exit 0 "2 counts" fsck --repair
	mv "$second.away" "$second"
	sound_and_same
}

# Those of a replica are told by verify, and mended on its machine.
test_counts_of_a_replica() {
	"$POOLHURT" "$second" counts
	expect_exit 1 "second: group 0: 3 blocks in use by its summary" rpmemfs p verify --quiet "$set"
	expect_exit 1 "second: superblock: 5 blocks in use" rpmemfs p verify --quiet "$set"
	expect_exit 1 "on its machine, rpmemfs fsck --repair of its own poolset" rpmemfs p verify --quiet "$set"
	expect_exit 0 "2 counts" rpmemfs p fsck --repair "$WORK/p/replica/second.set"
	sound_and_same
}

# Who has to hear of a repair the pool knows, whatever the poolset says.
test_repair_asks_who_is_recorded() {
	local alone=$WORK/p/alone.set seen
	grep -v REPLICA "$set" >"$alone"
	kept repair_alone
	hurt leak 5
	expect_exit 1 "this is the copy of a replica" rpmemfs p fsck --repair "$WORK/p/replica/second.set"
	seen=$(sha256sum "$part")
	expect_exit 1 "replica second of this pool is not in it" rpmemfs p fsck --repair "$alone"
	expect_eq "the part" "$(sha256sum "$part")" "$seen"
	expect_exit 0 "5 leaked blocks freed" fsck --repair
	sound_and_same
}

repair_alone() {
	"$POOLHURT" "$part" counts
	fs_mount p
	fs_kill p
	expect_exit 1 "commits wait to be replayed, which replica second may lack" rpmemfs p fsck --repair "$alone"
}

# What only one copy has is damage of that copy: the other one is better.
test_damage_of_one_copy_is_not_repaired() {
	local seen
	"$POOLHURT" "$part" leak 5
	seen=$(sha256sum "$part" "$second")
	expect_exit 3 "not repaired: the copies are not the same, or not all of them were reached" \
		fsck --repair
	expect_eq "the parts" "$(sha256sum "$part" "$second")" "$seen"
	rpmemfs p restore --quiet --replace --from second "$set"
	all_sound
}

test_repair_wants_every_copy() {
	hurt leak 5
	mv "$second" "$second.away"
	expect_exit 3 "not all of them were reached" fsck --repair
	mv "$second.away" "$second"
	expect_exit 0 "5 leaked blocks freed" fsck --repair
	sound_and_same
}

test_what_hides_more_is_not_repaired() {
	local seen
	cp --sparse=always "$part" "$part.kept"
	"$POOLHURT" "$part" leak 5
	"$POOLHURT" "$part" blocks other
	seen=$(sha256sum "$part")
	expect_exit 3 "counts 2 blocks, has 1" fsck --repair
	expect_exit 3 "not repaired: the damage hides what belongs where" fsck --repair
	expect_exit 3 "restore --replace --from second $set" fsck --repair
	expect_exit 3 "if verify finds them the same" fsck
	expect_eq "the part" "$(sha256sum "$part")" "$seen"
	mv "$part.kept" "$part"
}

test_rot_is_not_repaired() {
	cp --sparse=always "$part" "$part.kept"
	"$POOLHURT" "$part" rot other
	expect_exit 3 "file offset 0x0: block" fsck
	expect_exit 3 "not repaired: what the damaged blocks" fsck --repair
	expect_exit 3 "restore from a replica" fsck --repair
	expect_exit 1 "this copy can be rebuilt from it: rpmemfs restore --replace --from second $set" rpmemfs p verify "$set"
	mv "$part.kept" "$part"
}

# Where there is no replica nobody is told to restore from one.
test_advice_without_replicas() {
	sets_write lone 32M none
	fs_mkfs lone
	fs_mount lone
	echo "beside it" >"$WORK/mnt/lone/other"
	fs_umount lone
	"$POOLHURT" "$WORK/lone/local.part0" blocks other
	expect_exit 3 "names no replica to restore from: mount it, copy away" rpmemfs lone fsck "$WORK/lone/pool.set"
	expect_exit 3 "rpmemfs mkfs --force $WORK/lone/pool.set" rpmemfs lone fsck --repair "$WORK/lone/pool.set"
	rpmemfs lone fsck "$WORK/lone/pool.set" | grep -q "restore --replace" && return 1
	rpmemfs lone mkfs --force "$WORK/lone/pool.set"
	expect_exit 0 "sound" rpmemfs lone fsck "$WORK/lone/pool.set"
	rm -r "$WORK/lone"
}

# Records that wait are replayed for the check; damage among them is told, and what lies in place is checked all the same.
test_damage_in_the_ring_is_told() {
	local line
	fs_mount p
	for line in 1 2 3 4 5 6 7 8; do
		echo "line $line" >>"$m/waiting"
		sync "$m/waiting"
	done
	fs_kill p
	expect_exit 0 "sound" fsck
	kept ring_damaged
	fs_mount p
	rm "$m/waiting"
	fs_umount p
	sound_and_same
}

ring_damaged() {
	local pos
	pos=$(grep -obUa "REDO" "$part" | tail -n 4 | head -n 1 | cut -d: -f1)
	printf 'x' | dd of="$part" bs=1 seek=$((pos + 130)) conv=notrunc status=none
	expect_exit 3 "restore from a replica" fsck
	expect_exit 3 "is damaged, but record" fsck
	expect_exit 3 "not repaired" fsck --repair
}

test_damaged_superblocks_are_told() {
	kept superblocks_damaged
}

superblocks_damaged() {
	dd if=/dev/zero of="$part" bs=$BLOCK seek=2 count=1 conv=notrunc status=none
	expect_exit 0 "superblock A at pool offset 0x2000" fsck
	dd if=/dev/zero of="$part" bs=$BLOCK seek=3 count=1 conv=notrunc status=none
	expect_exit 3 "superblock B at pool offset 0x3000" fsck
	dd if=/dev/zero of="$part" bs=$BLOCK seek=1 count=1 conv=notrunc status=none
	expect_exit 3 "per-copy page: slot 0 at pool offset 0x1000" fsck
	printf 'x' | dd of="$part" bs=1 seek=60 conv=notrunc status=none
	expect_exit 1 "$part" fsck
}

shared() {
	fs_make p 32M
	mkdir "$m/dir"
	echo "in a directory" >"$m/dir/file"
	echo "beside it" >"$m/other"
	fs_umount p
}

prepare shared
run_tests
