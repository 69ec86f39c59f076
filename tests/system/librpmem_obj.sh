#!/usr/bin/env bash
# Programs made for libpmemobj, unmodified, with replicas over SSH: what they committed survives the loss of the local part,
# and they live on when a replica's daemon does not.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/helpers/sshd.sh"
. "$(dirname "$0")/helpers/librpmem.sh"

local_lose_and_sync() {
	rm "$WORK/$1/local.part0"
	over "$1" pmempool sync "$WORK/$1/pool.set"
}

test_create_run_close() {
	objtx p create
	objtx p run 200 4 >"$WORK/p/acks"
	pool_holds p second
	await "end of the sessions" no_process p/
}

test_local_part_lost() {
	local_lose_and_sync p
	acks_hold p
	objtx p run 20 4 >"$WORK/p/acks"
	pool_holds p second
}

test_two_replicas() {
	objtx two create
	objtx two run 200 4 >"$WORK/two/acks"
	pool_holds two second third
	local_lose_and_sync two
	pool_holds two second third
}

# The machine is lost in the middle of transactions: what was committed is in the replica.
test_program_killed_and_local_part_lost() {
	objtx_begin p 2
	kill_now KILL "$(objtx_pid p)"
	await "end of the sessions" no_process p/
	local_lose_and_sync p
	pool_holds p second
}

test_rpmemd_killed_in_transactions() {
	objtx_begin p 2
	for _ in 1 2 3; do
		replicas_kill p
		more_acks p
	done
	objtx_end p
	pool_holds p second
	local_lose_and_sync p
	acks_hold p
}

test_both_replicas_killed_in_transactions() {
	objtx_begin two 2
	for _ in 1 2 3; do
		replicas_kill two
		more_acks two
	done
	objtx_end two
	pool_holds two second third
}

# A stopped daemon holds the pool's lock and answers nothing: the new session ends it.
test_rpmemd_stopped_in_transactions() {
	local pid
	objtx_begin p 2
	pid=$(rpmemd_pid p)
	kill_now STOP "$pid"
	more_acks p
	await "end of the stopped daemon" has_ended "$pid"
	objtx_end p
	pool_holds p second
}

# The SSH connection is cut, not the lanes.
test_ssh_connection_cut_in_transactions() {
	local daemon
	objtx_begin p 2
	daemon=$(rpmemd_pid p)
	kill_now KILL "$(ps -o ppid= -p "$daemon" | tr -d ' ')"
	await "end of the daemon" has_ended "$daemon"
	more_acks p
	objtx_end p
	pool_holds p second
}

# libpmemobj ends the program when a persist fails, by a fault of its own on the way; the pool is none the worse for it. One
# thread: two that fail at once free something of libpmemobj's twice, which the address sanitizer tells instead of the fault.
# The bound leaves a busy machine the time to connect the first lane.
test_rpmemd_gone_for_longer_than_the_bound() {
	local status=0 begin
	export RPMEM_RECONNECT_MS=3000 ASAN_OPTIONS=$ASAN_OPTIONS:handle_segv=0
	objtx_begin p
	trap 'ln -sf "$BUILD/rpmemd" "$WORK/rpmemd"' EXIT
	ln -sf /bin/false "$WORK/rpmemd"
	begin=$SECONDS
	replicas_kill p
	wait "$OBJTX_JOB" || status=$?
	expect_le "seconds until the program had ended" $((SECONDS - begin)) 15
	if [ "$status" -lt 128 ]; then
		say "the program ended with exit status $status and not by a signal"
		return 1
	fi
	ln -sf "$BUILD/rpmemd" "$WORK/rpmemd"
	pool_holds p second
	objtx p run 20 >"$WORK/p/acks"
	pool_holds p second
}

# The replica is on the same machine: a child process that the program is not to notice.
test_local_target() {
	objtx here create
	objtx_begin here 2
	replicas_kill here
	more_acks here
	objtx_end here
	acks_hold here
	local_lose_and_sync here
	pool_holds here second
}

test_pool_in_use_is_refused() {
	objtx_begin p 1
	expect_exit 1 "" objtx p check
	objtx_end p
	acks_hold p
}

if [ ! -x "$OBJTX" ]; then
	echo "skip librpmem_obj not built: make system"
	exit 0
fi
sshd_prepare
host_known host
ssh_wrapper_write
obj_sets_write p 64M "$USER_NAME@127.0.0.1:$PORT" second
obj_sets_write two 64M "$USER_NAME@127.0.0.1:$PORT" second third
obj_sets_write here 64M @local second
run_tests
