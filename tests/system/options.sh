#!/usr/bin/env bash
# Options of the commands: what each one does can be seen, and a wrong word is refused with what is wanted.
. "$(dirname "$0")/lib.sh"
set=$WORK/p/pool.set
m=$WORK/mnt/p

test_wrong_words() {
	expect_exit 2 "auto_unmount is refused" rpmemfs p mount -o auto_unmount "$set" "$m"
	expect_exit 2 "yield or block" rpmemfs p mount --wait long "$set" "$m"
	expect_exit 2 "debug is wanted" rpmemfs p mount --log-level loud "$set" "$m"
	expect_exit 2 "--notice" rpmemfs p mount --notice 99 "$set" "$m"
	expect_exit 1 "$WORK/none/log" rpmemfs p mount --log "$WORK/none/log" "$set" "$m"
	expect_eq "mounted" "$(is_mounted p && echo yes)" ""
}

test_options_of_fuse_reach_it() {
	fs_mount p -o ro,noexec --wait yield --provider tcp
	findmnt -no OPTIONS "$m" | tr , '\n' | grep -qx ro
	findmnt -no OPTIONS "$m" | tr , '\n' | grep -qx noexec
	expect_exit any "Read-only" touch "$m/f"
	fs_umount p
	expect_exit 1 "libfuse refuses the options" rpmemfs p mount -o no_such_option "$set" "$m"
	await "end of the processes of p" no_process p/
	expect_eq "mounted" "$(is_mounted p && echo yes)" ""
}

# A path of the log is where the command was given, though the daemon leaves that directory. With SIGHUP the file is opened anew.
test_log_with_a_relative_path() {
	(cd "$WORK/p" && rpmemfs p mount --log here.log --log-level debug --wait block "$set" "$m")
	grep -q 'mounted on' "$WORK/p/here.log"
	mv "$WORK/p/here.log" "$WORK/p/moved.log"
	kill_now HUP "$(fs_pid p)"
	await "a new log" test -e "$WORK/p/here.log"
	fs_umount p
	grep -q 'unmounted at commit' "$WORK/p/here.log"
}

# Nobody syncs the file: what was written is committed by itself, and survives the daemon. The sync of another one only waits
# for the commit that was seen.
test_background_commit() {
	fs_mount p --background 20
	echo unsynced >"$m/f"
	await "the content at the replica" grep -aq unsynced "$WORK/p/second.part0"
	dd if=/dev/null of="$m/other" conv=fsync status=none
	fs_kill p
	fs_mount p
	expect_eq "the file" "$(cat "$m/f")" unsynced
	fs_umount p
}

# Without RPMEM_CMD the rpmemd beside this program serves @local, and an option names another command.
test_command_of_the_replica() {
	local command="$WORK/rpmemd --poolset-dir $WORK/p/replica"
	(unset RPMEM_CMD; expect_exit any "" "$BUILD/rpmemfs" verify --quiet "$set")
	"$BUILD/rpmemfs" verify --quiet --provider tcp --command "$command" "$set"
	rm "$WORK/p/local.part0"
	"$BUILD/rpmemfs" restore --quiet --sparse --provider tcp --command "$command" "$set"
	"$BUILD/rpmemfs" verify --quiet --command "$command" "$set"
	expect_exit 2 "usage" "$BUILD/rpmemfs" verify --sparse "$set"
}

prepare eval 'sets_write p 64M && fs_mkfs p'
run_tests
