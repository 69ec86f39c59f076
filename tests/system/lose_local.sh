#!/usr/bin/env bash
# The machine is lost: SIGKILL during an SQLite load, the local parts deleted. A restore from the replica brings back every
# acknowledged row; what should not be overwritten is not.
. "$(dirname "$0")/lib.sh"
m=$WORK/mnt/p
set=$WORK/p/pool.set

test_every_acknowledged_row_is_back() {
	local load rows=$WORK/rows
	head -c 20000000 /dev/urandom >"$m/data"
	sync "$m/data"
	sha256sum "$m/data" >"$WORK/data.sum"
	sqlite_load "$m/load.db" "$rows" 1000000 WAL &
	load=$!
	await "200 rows" rows_at_least "$rows" 200
	fs_kill p
	wait $load || true
	say "$(wc -l <"$rows") rows were acknowledged"
	rm "$WORK/p/local.part0"
	rpmemfs p restore "$set"
	fs_mount p
	sqlite_holds "$m/load.db" "$rows"
	sha256sum --quiet -c "$WORK/data.sum"
	status_is p .as_configured true
}

test_whole_afterwards() {
	fs_umount p
	rpmemfs p fsck "$set"
	rpmemfs p verify --quiet "$set"
}

test_refused_over_a_healthy_pool() {
	local seen
	seen=$(sha256sum "$WORK/p/local.part0")
	expect_exit 3 "healthy" rpmemfs p restore "$set"
	expect_exit 3 "healthy" rpmemfs p restore --replace "$set"
	expect_eq "the part" "$(sha256sum "$WORK/p/local.part0")" "$seen"
}

test_refused_while_mounted() {
	fs_mount p
	echo alive >"$m/alive"
	sync "$m/alive"
	expect_exit 3 "in use" rpmemfs p restore "$set"
	status_is p .as_configured true
	fs_umount p
}

test_replaced_when_asked_twice() {
	rpmemfs p restore --replace --from second "$set"
	fs_mount p
	expect_eq content "$(cat "$m/alive")" alive
	fs_umount p
}

test_wrong_requests() {
	expect_exit 2 "usage" rpmemfs p restore
	expect_exit 2 "usage" rpmemfs p restore --no-such-option "$set"
	rm "$WORK/p/local.part0"
	expect_exit 1 "nobody" rpmemfs p restore --from nobody "$set"
	[ ! -e "$WORK/p/local.part0" ]
}

test_no_replica_to_restore_from() {
	mv "$WORK/p/second.part0" "$WORK/p/second.away"
	expect_exit 1 "second" rpmemfs p restore "$set"
	mv "$WORK/p/second.away" "$WORK/p/second.part0"
	rpmemfs p restore "$set"
	rpmemfs p fsck "$set"
}

# A killed restore leaves a copy marked inconsistent: the next restore goes on. Killed before there was a superblock, or a whole
# header, it leaves its own unfinished parts, which the next one makes anew; killed after the end, a healthy copy, which stays.
test_interrupted_restore_goes_on() {
	local pid
	rm "$WORK/p/local.part0"
	rpmemfs p restore "$set" >"$WORK/p/restore.log" 2>&1 &
	await "the local part" test -s "$WORK/p/local.part0"
	pid=$(pids_of "$BUILD/rpmemfs restore" "$set")
	if [ -n "$pid" ]; then kill -KILL "$pid" || true; fi
	wait
	await "the end of its rpmemd" no_process p/
	rpmemfs p restore "$set" || expect_exit 3 "is healthy" rpmemfs p restore "$set"
	rpmemfs p fsck "$set"
	fs_mount p
	sha256sum --quiet -c "$WORK/data.sum"
	sqlite_holds "$m/load.db" "$WORK/rows"
}

prepare fs_make p 256M
run_tests
