#!/usr/bin/env bash
# Debian's pmempool against our library and daemon, over SSH: what it does to pools with a remote replica.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/helpers/sshd.sh"
. "$(dirname "$0")/helpers/librpmem.sh"
dir=$WORK/p
set=$dir/pool.set

# The pool without its replica: the same local part.
local_set_write() {
	printf 'PMEMPOOLSET\n32M %s/local.part0\n' "$dir" >"$dir/local.set"
}

# header_of FIELD FILE: a word of what pmempool info says of a part
header_of() {
	pmempool info "$2" | sed -n "s/^$1 *: \([^ ]*\).*/\1/p"
}

test_create() {
	over p pmempool create --layout objtx obj "$set"
	expect_eq "size of the remote part" "$(stat -c %s "$dir/second.part0")" $((32 << 20))
	expect_exit any "" over p pmempool create --layout objtx obj "$set"
	objtx p run 100 2 >"$dir/acks"
	acks_hold p
	sides_equal p second
}

test_info() {
	expect_exit 0 "second.set" over p pmempool info "$set"
	expect_exit 0 "$USER_NAME@127.0.0.1:$PORT" over p pmempool info "$set"
	expect_exit 0 "[OK]" over p pmempool info "$set"
}

# What rpmemd wrote in front of its part is a header of a pool to its eyes, and belongs to this one.
test_info_of_the_remote_part() {
	local part
	for part in local second; do
		expect_eq "signature of $part" "$(header_of Signature "$dir/$part.part0")" PMEMOBJ
		pmempool info "$dir/$part.part0" | grep -q '^Checksum .*\[OK\]'
	done
	expect_eq "pool set" "$(header_of "Pool set UUID" "$dir/second.part0")" "$(header_of "Pool set UUID" "$dir/local.part0")"
	expect_eq "replica ring" "$(header_of "Next replica UUID" "$dir/local.part0")" "$(header_of UUID "$dir/second.part0")"
	expect_eq "replica ring" "$(header_of "Previous replica UUID" "$dir/second.part0")" "$(header_of UUID "$dir/local.part0")"
}

test_sync_of_a_healthy_pool() {
	expect_exit 0 "synchronized" over p pmempool sync -v "$set"
	acks_hold p
}

test_sync_local_part_lost() {
	rm "$dir/local.part0"
	over p pmempool sync "$set"
	acks_hold p
	sides_equal p second
}

test_sync_local_part_overwritten() {
	dd if=/dev/urandom of="$dir/local.part0" bs=4096 count=1 conv=notrunc status=none
	over p pmempool sync "$set"
	acks_hold p
	sides_equal p second
}

test_sync_remote_part_lost() {
	rm "$dir/second.part0"
	over p pmempool sync "$set"
	acks_hold p
	sides_equal p second
}

# pmempool has rpmemd remove what is left of the replica, over ssh, before it makes it anew.
test_sync_remote_part_overwritten() {
	dd if=/dev/urandom of="$dir/second.part0" bs=4096 count=1 conv=notrunc status=none
	over p pmempool sync "$set"
	acks_hold p
	sides_equal p second
}

test_sync_has_nothing_to_start_from() {
	mkdir "$dir/away"
	mv "$dir"/*.part0 "$dir/away"
	expect_exit any "" over p pmempool sync "$set"
	mv "$dir"/away/*.part0 "$dir"
	rmdir "$dir/away"
	acks_hold p
}

test_transform_removes_a_replica() {
	over p pmempool transform "$set" "$dir/local.set"
	expect_eq "remote part" "$(find "$dir" -name second.part0)" ""
	over p "$OBJTX" check "$dir/local.set"
}

test_transform_adds_a_replica() {
	over p pmempool transform "$dir/local.set" "$set"
	acks_hold p
	sides_equal p second
}

test_transform_adds_another_replica() {
	cp "$set" "$dir/three.set"
	echo "REPLICA $USER_NAME@127.0.0.1:$PORT third.set" >>"$dir/three.set"
	replica_write p 32M third
	over p pmempool transform "$set" "$dir/three.set"
	cp "$dir/three.set" "$set"
	objtx p run 50 2 >"$dir/acks"
	acks_hold p
	sides_equal p second third
}

test_rm_of_a_pool_in_use() {
	objtx_begin p
	expect_exit any "" over p pmempool rm "$set"
	more_acks p
	kill_now KILL "$(objtx_pid p)"
	await "end of the sessions" no_process p/
}

test_rm() {
	obj_sets_write p 32M "$USER_NAME@127.0.0.1:$PORT" second
	rm -f "$dir"/*.part0
	over p pmempool create --layout objtx obj "$set"
	over p pmempool rm "$set"
	expect_eq "parts" "$(find "$dir" -name '*.part0')" ""
	expect_eq "sets" "$(cd "$dir" && ls pool.set replica/second.set)" "$(printf 'pool.set\nreplica/second.set')"
	expect_exit any "" over p pmempool rm "$set"
	over p pmempool rm --force "$set"
}

test_rm_all() {
	over p pmempool create --layout objtx obj "$set"
	over p pmempool rm --all "$set"
	expect_eq "left" "$(find "$dir" -name '*.part0' -o -name pool.set -o -name second.set)" ""
}

if [ ! -x "$OBJTX" ]; then
	echo "skip librpmem_pmempool not built: make system"
	exit 0
fi
sshd_prepare
host_known host
ssh_wrapper_write
obj_sets_write p 32M "$USER_NAME@127.0.0.1:$PORT" second
local_set_write
run_tests
