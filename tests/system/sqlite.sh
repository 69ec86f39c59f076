#!/usr/bin/env bash
# SQLite with synchronous=FULL on a mount, in both journal modes.
. "$(dirname "$0")/lib.sh"
m=$WORK/mnt/p

both_modes_hold() {
	local rows=$WORK/rows.$1
	sqlite_load "$m/$1.db" "$rows" 300 "$1"
	expect_eq "rows acknowledged" "$(wc -l <"$rows")" 300
	sqlite_holds "$m/$1.db" "$rows"
}

test_rollback_journal() {
	both_modes_hold DELETE
}

test_write_ahead_log() {
	both_modes_hold WAL
}

test_two_writers() {
	sqlite3 "$m/two.db" "CREATE TABLE t(n)"
	for writer in 1 2; do
		for _ in {1..50}; do echo "INSERT INTO t VALUES($writer);"; done |
			sqlite3 -cmd '.timeout 20000' "$m/two.db" &
	done
	wait
	expect_eq "rows of both" "$(sqlite3 "$m/two.db" 'SELECT count(*) FROM t')" 100
}

test_there_after_a_remount() {
	fs_umount p
	rpmemfs p fsck "$WORK/p/pool.set"
	fs_mount p
	sqlite_holds "$m/DELETE.db" "$WORK/rows.DELETE"
	sqlite_holds "$m/WAL.db" "$WORK/rows.WAL"
}

prepare fs_make p 128M
run_tests
