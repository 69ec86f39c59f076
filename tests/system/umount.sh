#!/usr/bin/env bash
# Every way to end a mount commits everything, leaves no process behind and lets the next mount follow at once.
. "$(dirname "$0")/lib.sh"
m=$WORK/mnt/p

# ends COMMAND...: unsynced changes, the end, no process; and all of it is there after a remount that follows at once
ends() {
	local text="$RANDOM $*"
	echo "$text" >"$m/unsynced"
	mkdir -p "$m/dir/$RANDOM"
	find "$m" | sort >"$WORK/before"
	"$@"
	fs_mount p
	expect_eq "what nobody had synced" "$(cat "$m/unsynced")" "$text"
	expect_eq "names" "$(find "$m" | sort | diff "$WORK/before" -)" ""
	expect_eq "daemons" "$(fs_pid p | wc -w)" 1
}

test_umount() {
	ends umount "$m"
}

test_fusermount() {
	ends fusermount3 -u "$m"
}

terminate() {
	local pid
	pid=$(fs_pid p)
	kill -s "$1" "$pid"
	await "end of the daemon" has_ended "$pid"
	expect_exit any "" mountpoint -q "$m"
}

test_sigterm() {
	ends terminate TERM
}

test_sigint() {
	ends terminate INT
}

test_no_process_left() {
	fs_umount p
	no_process
	rpmemfs p verify --quiet "$WORK/p/pool.set"
	rpmemfs p info "$WORK/p/pool.set" | grep '^state: *clean'
	fs_mount p
}

test_dirty_mapping() {
	head -c 8192 /dev/zero >"$m/map"
	"$FSIO" store "$m/map" 100 mapped
	ends umount "$m"
	expect_eq "stored through a mapping" "$("$FSIO" peek "$m/map" 100 6)" mapped
}

test_busy_mount_is_refused() {
	exec 5>"$m/held"
	expect_exit any "busy" umount "$m"
	echo kept >&5
	exec 5>&-
	expect_eq content "$(cat "$m/held")" kept
}

# The new mount waits for the lock of the daemon that is still at it.
test_remount_right_after_lazy_umount() {
	head -c 30000000 /dev/urandom >"$m/much"
	sha256sum "$m/much" >"$WORK/much.sum"
	umount -l "$m"
	fs_mount p
	sha256sum --quiet -c "$WORK/much.sum"
}

test_second_mount_is_refused() {
	mkdir -p "$WORK/mnt/again"
	expect_exit 1 "rpmemfs status" rpmemfs p mount --log "$WORK/p/again.log" "$WORK/p/pool.set" "$WORK/mnt/again"
	status_is p .as_configured true
}

test_foreground() {
	fs_umount p
	rpmemfs p mount -f "$WORK/p/pool.set" "$m" >"$WORK/p/foreground.log" 2>&1 &
	await "the mount" is_mounted p
	echo x >"$m/x"
	umount "$m"
	wait $!
	fs_mount p
	[ -e "$m/x" ]
}

prepare fs_make p 128M
run_tests
