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

# header_of FIELD PART: what pmempool info says of a part
header_of() {
	pmempool info "$dir/$2.part0" | sed -n "s/^$1 *: //p"
}

# ring_is PART PART...: each replica's header names its neighbours, and a part alone in its replica itself
ring_is() {
	local parts=("$@") count=$# i part
	for ((i = 0; i < count; i++)); do
		part=${parts[i]}
		expect_eq "behind $part" "$(header_of "Next replica UUID" "$part")" "$(header_of UUID "${parts[(i + 1) % count]}")"
		expect_eq "before $part" "$(header_of "Previous replica UUID" "$part")" \
			"$(header_of UUID "${parts[(i + count - 1) % count]}")"
		expect_eq "next part" "$(header_of "Next part UUID" "$part")" "$(header_of UUID "$part")"
		expect_eq "previous part" "$(header_of "Previous part UUID" "$part")" "$(header_of UUID "$part")"
	done
}

# pmempool says only that it failed; our log says where, what and why.
test_the_log_says_why() {
	local cause
	host_known other
	cause="librpmem: error $USER_NAME@127.0.0.1:$PORT second.set: ssh: host key CHANGED"
	RPMEM_LOG_LEVEL=1 expect_exit any "$cause" over p pmempool create --layout objtx obj "$set"
	host_known host
	mv "$dir/replica/second.set" "$dir/replica/away"
	cause="pool set $dir/replica/second.set: No such file or directory"
	RPMEM_LOG_LEVEL=1 expect_exit any "$cause" over p pmempool create --layout objtx obj "$set"
	mv "$dir/replica/away" "$dir/replica/second.set"
	truncate -s 32M "$dir/second.part0"
	cause="part $dir/second.part0: in use by process"
	(
		flock 7
		RPMEM_LOG_LEVEL=1 expect_exit any "$cause" over p pmempool create --layout objtx obj "$set"
	) 7<>"$dir/second.part0"
	rm "$dir/second.part0"
	expect_eq "parts" "$(find "$dir" -name '*.part0')" ""
}

test_create() {
	over p pmempool create --layout objtx obj "$set"
	expect_eq "size of the remote part" "$(stat -c %s "$dir/second.part0")" $((32 << 20))
	expect_exit any "" over p pmempool create --layout objtx obj "$set"
	objtx p run 100 2 >"$dir/acks"
	pool_holds p second
}

test_info() {
	local word
	over p pmempool info "$set" >"$dir/info"
	for word in "second.set" "$USER_NAME@127.0.0.1:$PORT" "[OK]"; do grep -qF "$word" "$dir/info"; done
}

# What rpmemd wrote in front of its part is a header of a pool to its eyes, and belongs to this one.
test_info_of_the_remote_part() {
	local field
	for field in Signature Major "Mandatory features" "Not mandatory features" "Forced RO" "Pool set UUID" "Alignment Descriptor" \
		Class Data Machine "Last shutdown"; do
		expect_eq "$field" "$(header_of "$field" second)" "$(header_of "$field" local)"
	done
	header_of Checksum second | grep -qF "[OK]"
	expect_eq "major and features of libpmemobj 1.12" \
		"$(header_of Major second) $(header_of "Mandatory features" second) $(header_of "Not mandatory features" second)" \
		"6 0x6 [CKSUM_2K, SHUTDOWN_STATE] 0x1"
	ring_is local second
}

test_sync_of_a_healthy_pool() {
	expect_exit 0 "synchronized" over p pmempool sync -v "$set"
	acks_hold p
}

test_sync_local_part_lost() {
	rm "$dir/local.part0"
	over p pmempool sync "$set"
	pool_holds p second
}

test_sync_local_part_overwritten() {
	dd if=/dev/urandom of="$dir/local.part0" bs=4096 count=1 conv=notrunc status=none
	over p pmempool sync "$set"
	pool_holds p second
}

test_sync_remote_part_lost() {
	rm "$dir/second.part0"
	over p pmempool sync "$set"
	pool_holds p second
}

# pmempool has rpmemd remove what is left of the replica, over ssh, before it makes it anew.
test_sync_remote_part_overwritten() {
	dd if=/dev/urandom of="$dir/second.part0" bs=4096 count=1 conv=notrunc status=none
	over p pmempool sync "$set"
	pool_holds p second
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
	expect_eq "content" "$(over p "$OBJTX" check "$dir/local.set")" "$(cat "$dir/found")"
	ring_is local
}

test_transform_adds_a_replica() {
	over p pmempool transform "$dir/local.set" "$set"
	pool_holds p second
}

test_transform_adds_another_replica() {
	cp "$set" "$dir/three.set"
	echo "REPLICA $USER_NAME@127.0.0.1:$PORT third.set" >>"$dir/three.set"
	replica_write p 32M third
	over p pmempool transform "$set" "$dir/three.set"
	cp "$dir/three.set" "$set"
	objtx p run 50 2 >"$dir/acks"
	pool_holds p second third
	ring_is local second third
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

# shape_holds OPTIONS PARTS: a pool whose replica is laid out so is made, used, lost here and brought back from there
shape_holds() {
	local at=$WORK/shape
	rm -rf "$at"
	mkdir -p "$at/replica" "$at/dir"
	printf 'PMEMPOOLSET\n%b32M %s/local.part0\nREPLICA %s second.set\n' "$1" "$at" "$USER_NAME@127.0.0.1:$PORT" >"$at/pool.set"
	printf 'PMEMPOOLSET\n%b%b' "$1" "${2//@/$at}" >"$at/replica/second.set"
	over shape pmempool create --layout objtx obj "$at/pool.set"
	objtx shape run 50 2 >"$at/acks"
	rm "$at/local.part0"
	over shape pmempool sync "$at/pool.set"
	acks_hold shape
	over shape pmempool rm "$at/pool.set"
	expect_eq "parts" "$(find "$at" -name '*.part?' -o -name '*.pmem')" ""
}

# Headers in front of each part: they cost the pool a page, which the set has to have.
test_replica_of_two_parts() {
	shape_holds "" '16M @/second.part0\n16388K @/second.part1\n'
}

test_replica_with_one_header() {
	shape_holds 'OPTION SINGLEHDR\n' '16M @/second.part0\n16M @/second.part1\n'
}

test_replica_in_a_directory() {
	shape_holds 'OPTION SINGLEHDR\n' '32M @/dir\n'
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
