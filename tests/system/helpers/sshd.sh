# An sshd of our own on a loopback port, with throwaway keys; sourced by the tests that reach a replica over SSH. The
# user's side is configured by a file of its own: RPMEM_SSH_CONFIG names it to us, a wrapper hands it to the ssh program.
#
#   sshd_prepare    starts it: PORT, USER_NAME; the host's key is not known yet
#   host_known KEY  that key ("host": the right one) is the one accepted for the server
SSHD=/usr/sbin/sshd
USER_NAME=$(id -un)
export RPMEM_SSH_CONFIG=$WORK/ssh/config
unset SSH_AUTH_SOCK

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

host_known() {
	awk -v host="[127.0.0.1]:$PORT" '{ print host, $1, $2 }' "$WORK/ssh/$1.pub" >"$WORK/ssh/known"
}

# Ends the whole file when an sshd cannot be had.
sshd_prepare() {
	if [ ! -x "$SSHD" ]; then
		echo "skip ssh no $SSHD"
		exit 0
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "skip ssh an sshd of our own has to run as root"
		exit 0
	fi
	if ! { sshd_start && user_configure; } >"$WORK/prepare.log" 2>&1; then
		cat "$WORK/prepare.log" "$WORK/ssh/sshd.log"
		echo "not ok prepare"
		exit 1
	fi
}
