#!/usr/bin/env bash
# A replica over SSH: a real sshd on a loopback port with throwaway keys, the user's side configured by a file of its own.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/helpers/sshd.sh"
m=$WORK/mnt/p

test_unknown_host_key_is_refused() {
	expect_exit 1 "the host key is not known" rpmemfs p mkfs "$WORK/p/pool.set"
	expect_exit 1 "ssh " rpmemfs p mkfs "$WORK/p/pool.set"
	expect_eq "parts made" "$(find "$WORK/p" -name '*.part0')" ""
	expect_eq "keys accepted" "$(cat "$WORK/ssh/known")" ""
}

test_changed_host_key_is_refused() {
	host_known other
	expect_exit 1 "ssh-keygen -R" rpmemfs p mkfs "$WORK/p/pool.set"
	expect_eq "parts made" "$(find "$WORK/p" -name '*.part0')" ""
}

test_mount_write_status_umount() {
	host_known host
	fs_mkfs p
	fs_mount p
	echo "over the network" >"$m/f"
	sync "$m/f"
	expect_eq "as configured" "$(status_of p .as_configured)" true
	expect_eq "target" "$(status_of p '.replicas[0].target')" "$USER_NAME@127.0.0.1:$PORT second.set"
	expect_eq "state" "$(status_of p '.replicas[0].state')" attached
	rpmemfs p status "$m"
	fs_umount p
	rpmemfs p verify --quiet "$WORK/p/pool.set"
}

test_no_key_is_accepted() {
	mv "$WORK/ssh/authorized" "$WORK/ssh/authorized.away"
	expect_exit 1 "no key or agent was accepted" rpmemfs p mount --connect-timeout 3000 "$WORK/p/pool.set" "$m"
	mv "$WORK/ssh/authorized.away" "$WORK/ssh/authorized"
}

test_lost_and_restored() {
	local rows=$WORK/rows load
	fs_mount p
	sqlite_load "$m/load.db" "$rows" 1000000 WAL &
	load=$!
	await "100 rows" rows_at_least "$rows" 100
	fs_kill p
	wait $load || true
	rm "$WORK/p/local.part0"
	rpmemfs p restore "$WORK/p/pool.set"
	fs_mount p
	sqlite_holds "$m/load.db" "$rows"
	expect_eq content "$(cat "$m/f")" "over the network"
	fs_umount p
}

# The SSH session is cut while the mount is at work: noticed, then connected again.
test_cut_session() {
	local session
	fs_mount p
	session=$(rpmemd_pid p)
	kill_now KILL "$session"
	await "the loss to show" status_is p .as_configured false
	await "the replica to be back" status_is p .as_configured true
	echo again >"$m/again"
	sync "$m/again"
	fs_umount p
	rpmemfs p verify --quiet "$WORK/p/pool.set"
}

sshd_prepare
prepare sets_write p 64M "$USER_NAME@127.0.0.1:$PORT"
run_tests
