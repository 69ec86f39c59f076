#!/usr/bin/env bash
# A replica over SSH: a real sshd on a loopback port with throwaway keys, the user's side configured by a file of its own.
. "$(dirname "$0")/lib.sh"
m=$WORK/mnt/p
SSHD=/usr/sbin/sshd

# The port is free when sshd gets it: another one is tried otherwise.
sshd_start() {
	local try
	mkdir -p /run/sshd "$WORK/ssh"
	ssh-keygen -q -t ed25519 -N '' -f "$WORK/ssh/host"
	ssh-keygen -q -t ed25519 -N '' -f "$WORK/ssh/other"
	ssh-keygen -q -t ed25519 -N '' -f "$WORK/ssh/user"
	cp "$WORK/ssh/user.pub" "$WORK/ssh/authorized"
	for try in {1..20}; do
		PORT=$((20000 + RANDOM % 10000))
		cat >"$WORK/ssh/sshd_config" <<-END
			ListenAddress 127.0.0.1
			Port $PORT
			HostKey $WORK/ssh/host
			AuthorizedKeysFile $WORK/ssh/authorized
			PidFile $WORK/sshd.pid
			StrictModes no
			UsePAM no
			PasswordAuthentication no
			KbdInteractiveAuthentication no
			PermitRootLogin prohibit-password
			SetEnv ASAN_OPTIONS=$ASAN_OPTIONS UBSAN_OPTIONS=$UBSAN_OPTIONS
		END
		"$SSHD" -f "$WORK/ssh/sshd_config" -E "$WORK/ssh/sshd.log" || continue
		if await "sshd" test -s "$WORK/sshd.pid"; then return 0; fi
	done
	return 1
}

user_configure() {
	cat >"$WORK/ssh/config" <<-END
		Host 127.0.0.1
		  IdentityFile $WORK/ssh/user
		  UserKnownHostsFile $WORK/ssh/known
		  GlobalKnownHostsFile /dev/null
	END
	: >"$WORK/ssh/known"
}

# host_known KEY: that key is the one accepted for the server
host_known() {
	awk -v host="[127.0.0.1]:$PORT" '{ print host, $1, $2 }' "$WORK/ssh/$1.pub" >"$WORK/ssh/known"
}

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

ssh_prepare() {
	sshd_start
	user_configure
	sets_write p 64M "$USER_NAME@127.0.0.1:$PORT"
}

if [ ! -x "$SSHD" ]; then
	echo "skip ssh no $SSHD"
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	echo "skip ssh an sshd of our own has to run as root"
	exit 0
fi
USER_NAME=$(id -un)
export RPMEM_SSH_CONFIG=$WORK/ssh/config
unset SSH_AUTH_SOCK
if ! ssh_prepare >"$WORK/prepare.log" 2>&1; then
	cat "$WORK/prepare.log" "$WORK/ssh/sshd.log"
	echo "not ok prepare"
	exit 1
fi
run_tests
