#!/usr/bin/env bash
# SIGKILL of the mount daemon while SQLite commits: after a remount every acknowledged row is there, and the pool is sound.
# In its DELETE journal mode SQLite commits by an unlink that synchronous=FULL does not make durable (EXTRA does, by an
# fsync of the directory): so FULL is tried with the other modes, and DELETE with EXTRA.
. "$(dirname "$0")/lib.sh"
m=$WORK/mnt/p

# kill_during_load NAME JOURNAL-MODE ROWS [SYNCHRONOUS]: kills after at least ROWS rows were acknowledged; the newest
# $excused rows (none unless set) may be gone
kill_during_load() {
	local rows=$WORK/rows.$1 load
	sqlite_load "$m/$1.db" "$rows" 1000000 "$2" "${4:-FULL}" &
	load=$!
	await "$3 rows" rows_at_least "$rows" "$3"
	fs_kill p
	wait $load || true
	say "$(wc -l <"$rows") rows were acknowledged"
	fs_mount p
	head -n "-${excused:-0}" "$rows" >"$rows.held"
	sqlite_holds "$m/$1.db" "$rows.held"
}

# SQLite acknowledges a row although it could not open the directory to sync it (unixDelete): the newest row may be one whose
# unlink was answered when the daemon was killed.
test_rollback_journal() {
	excused=1 kill_during_load delete DELETE 150 EXTRA
}

test_truncated_journal() {
	kill_during_load truncate TRUNCATE 150
}

test_kept_journal() {
	kill_during_load persist PERSIST 150
}

test_write_ahead_log() {
	kill_during_load wal WAL 300
}

test_again_and_again() {
	for round in 1 2 3; do kill_during_load again WAL $((round * 100)); done
}

# Killed, and not mounted: the journal waits for its replay. Looking at the pool replays it in memory only.
test_looking_before_the_remount() {
	local seen
	sqlite_load "$m/looked.db" "$WORK/rows.looked" 50 WAL
	fs_kill p
	seen=$(sha256sum "$WORK/p/local.part0")
	rpmemfs p info "$WORK/p/pool.set" | grep 'wait in the journal'
	rpmemfs p fsck "$WORK/p/pool.set"
	rpmemfs p verify --quiet "$WORK/p/pool.set"
	expect_eq "the part, looked at" "$(sha256sum "$WORK/p/local.part0")" "$seen"
	fs_mount p
	sqlite_holds "$m/looked.db" "$WORK/rows.looked"
}

test_sound_at_the_end() {
	fs_umount p
	rpmemfs p fsck "$WORK/p/pool.set"
	rpmemfs p verify --quiet "$WORK/p/pool.set"
}

prepare fs_make p 128M
run_tests
