#!/usr/bin/env bash
# A replica is lost while the file system is in use: the rule holds, it shows, and the return of the replica restores service.
. "$(dirname "$0")/lib.sh"
m=$WORK/mnt/p

# Makes the return of a replica impossible, and possible again.
replica_gate() {
	case $1 in
	shut) mv "$WORK/p/replica/second.set" "$WORK/p/replica/away" ;;
	open) mv "$WORK/p/replica/away" "$WORK/p/replica/second.set" ;;
	esac
}

lose_replica() {
	replica_gate shut
	kill_now KILL "$(rpmemd_pid p)"
}

as_configured() {
	rpmemfs p status "$m" >/dev/null
}

not_as_configured() {
	expect_exit 3 "NOT as configured" rpmemfs p status "$m"
}

test_fsync_waits_then_fails() {
	local begin
	fs_mount p --timeout 1500 --notice 500 --background 3600000
	echo before >"$m/f"
	sync "$m/f"
	as_configured
	echo unsynced >>"$m/f"
	lose_replica
	await "the loss to show" not_as_configured
	expect_exit 3 "BLOCKED" rpmemfs p status "$m"
	begin=${EPOCHREALTIME/./}
	expect_exit 1 "EIO" "$FSIO" sync "$m/f"
	expect_le "microseconds waited, at least" 1400000 $((${EPOCHREALTIME/./} - begin))
	expect_le "microseconds waited, at most" $((${EPOCHREALTIME/./} - begin)) 6000000
	grep -c "error.*fsync" "$WORK/p/rpmemfs.log"
	expect_eq "reading goes on" "$(cat "$m/f")" $'before\nunsynced'
}

# Continues the one above: a change waits, and is there once the replica is back.
test_reconnection_restores_service() {
	(echo after >"$m/g") &
	replica_gate open
	await "the replica to be back" as_configured
	wait $!
	expect_eq content "$(cat "$m/g")" after
	"$FSIO" sync "$m/g"
	fs_umount p
	rpmemfs p verify --quiet "$WORK/p/pool.set"
}

test_continues_alone_visibly() {
	fs_mount p --min-replicas 0 --timeout 20000 --notice 500
	echo before >"$m/h"
	sync "$m/h"
	as_configured
	lose_replica
	echo alone >"$m/alone"
	"$FSIO" sync "$m/alone"
	not_as_configured
	status_is p .may_change true
	status_is p '.replicas[0].recorded' detached
	grep "warn\|error" "$WORK/p/rpmemfs.log"
}

test_detached_replica_catches_up() {
	local i
	for i in {1..20}; do
		echo "$i" >"$m/alone.$i"
		"$FSIO" sync "$m/alone.$i"
	done
	replica_gate open
	await "the replica to be attached again" as_configured
	"$FSIO" sync "$m/alone"
	fs_umount p
	rpmemfs p verify --quiet "$WORK/p/pool.set"
	expect_eq "the rule" "$(rpmemfs p info "$WORK/p/pool.set" | sed -n 's/^rule: *//p')" "at least 0 replicas"
}

test_rule_is_recorded() {
	fs_mount p --min-replicas 1
	echo x >"$m/x"
	sync "$m/x"
	fs_umount p
	expect_exit 0 "at least 1 replica" rpmemfs p info "$WORK/p/pool.set"
}

# A stopped process keeps its connections: only the heartbeats tell.
test_stopped_replica_is_noticed() {
	local pid begin
	fs_mount p --timeout 1000 --notice 500
	as_configured
	pid=$(rpmemd_pid p)
	begin=${EPOCHREALTIME/./}
	kill_now STOP "$pid"
	await "the loss to show" not_as_configured
	expect_le "microseconds to notice" $((${EPOCHREALTIME/./} - begin)) 3000000
	kill_now CONT "$pid" || true
	await "the replica to be back" as_configured
	echo y >"$m/y"
	"$FSIO" sync "$m/y"
	fs_umount p
}

test_mount_without_replica() {
	replica_gate shut
	expect_exit 1 "second" rpmemfs p mount --connect-timeout 1000 "$WORK/p/pool.set" "$m"
	no_process p/
	replica_gate open
	fs_mount p
	as_configured
	fs_umount p
}

# A program killed while it waits goes away: nothing hangs unkillably.
test_waiting_fsync_can_be_killed() {
	local pid
	fs_mount p --timeout 600000 --notice 500
	echo z >"$m/z"
	lose_replica
	await "the loss to show" not_as_configured
	"$FSIO" sync "$m/z" &
	pid=$!
	kill_now KILL $pid
	replica_gate open
	await "the replica to be back" as_configured
	fs_umount p
}

second_passed() {
	[ "$SECONDS" -ge "$1" ]
}

# Unmounted in an outage, the daemon waits for the replica as long as its --timeout: the next mount says so and waits as well.
# A pool of its own, unmounted before the first test, so that the other tests are done while this one waits.
OUTAGE_S=12 # longer than a lock is waited for

outage_begin() {
	sets_write q 64M
	fs_mkfs q
	fs_mount q --timeout 600000 --notice 500 --background 3600000
	echo waits >"$WORK/mnt/q/waits"
	mv "$WORK/q/replica/second.set" "$WORK/q/replica/away"
	kill_now KILL "$(rpmemd_pid q)"
	await "the loss to show" status_is q .as_configured false
	umount "$WORK/mnt/q"
	(
		fs_mount q --timeout 600000
		echo $? >"$WORK/q/mounted"
	) >/dev/null 2>&1 &
	await "a word about it" grep "in use by process.*waiting" "$WORK/q/mount.log"
	echo $((SECONDS + OUTAGE_S)) >"$WORK/q/late"
}

test_mount_waits_for_an_unmounted_one() {
	await "longer than any lock is waited for" second_passed "$(cat "$WORK/q/late")"
	[ ! -e "$WORK/q/mounted" ]
	mv "$WORK/q/replica/away" "$WORK/q/replica/second.set"
	await "the mount" test -s "$WORK/q/mounted"
	expect_eq "exit status of the mount" "$(cat "$WORK/q/mounted")" 0
	expect_eq content "$(cat "$WORK/mnt/q/waits")" waits
	rpmemfs q status "$WORK/mnt/q" >/dev/null
	fs_umount q
}

# mount_deaf SIGNAL PATTERN: a signal to the process of that name while its replica's daemon does not say a word
mount_deaf() {
	local pid begin status=0
	printf '#!/bin/sh\nexec cat >/dev/null\n' >"$WORK/deaf"
	chmod +x "$WORK/deaf"
	RPMEM_CMD="$WORK/deaf" "$BUILD/rpmemfs" mount "$WORK/p/pool.set" "$m" >"$WORK/deaf.out" 2>&1 &
	pid=$!
	await "the daemon to be started" pgrep -P "$(pgrep -P $pid || echo 1)"
	begin=${EPOCHREALTIME/./}
	if [ "$2" = child ]; then kill -s "$1" "$(pgrep -P $pid)"; else kill -s "$1" $pid; fi
	wait $pid || status=$?
	expect_le "microseconds to the end" $((${EPOCHREALTIME/./} - begin)) 3000000
	[ $status -ne 0 ]
	AWAIT_S=3 await "end of the processes" no_process p/
	expect_exit any "" mountpoint -q "$m"
}

# Until it is mounted a signal ends it at once, whatever it waits for, and nobody is told that it is mounted.
test_signal_while_connecting() {
	mount_deaf TERM child
	grep "signal 15.*not mounted" "$WORK/deaf.out"
	mount_deaf INT child
	grep "signal 2.*not mounted" "$WORK/deaf.out"
	mount_deaf TERM parent
	fs_mount p
	as_configured
	fs_umount p
}

# Its memory goes before its last mapping is written back: only the end of its state tells.
is_gone() {
	[ ! -e "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status"
}

# A killed process writes its dirty mapping back before it is gone, and nothing can interrupt it there. It does not wait for
# replicas that are stopped. Another one with a dirty mapping lives, and its msync is right when they are back.
test_dirty_mapping_can_be_killed() {
	local killed survivor
	fs_mount p --timeout 600000 --notice 500 --background 3600000
	truncate -s 4M "$m/map"
	sync "$m/map"
	"$FSIO" sync "$m/map"
	as_configured
	mkfifo "$WORK/hold"
	"$FSIO" dirty "$m/map" 0 2000000 <"$WORK/hold" >"$WORK/killed.out" &
	killed=$!
	"$FSIO" dirty "$m/map" 2100000 2000000 <"$WORK/hold" >"$WORK/survivor.out" &
	survivor=$!
	exec 6>"$WORK/hold"
	await "the mappings" grep -q dirty "$WORK/killed.out"
	await "the mappings" grep -q dirty "$WORK/survivor.out"
	replica_gate shut
	kill_now STOP "$(rpmemd_pid p)"
	await "the loss to show" not_as_configured
	kill -KILL $killed
	AWAIT_S=5 await "the end of the killed process" is_gone $killed
	exec 6>&-
	expect_exit 3 "BLOCKED" rpmemfs p status "$m"
	[ -e "/proc/$survivor" ]
	replica_gate open
	await "the replica to be back" as_configured
	wait $survivor
	wait $killed || true
	fs_umount p
	rpmemfs p verify --quiet "$WORK/p/pool.set"
	fs_mount p
	expect_eq "stored through mappings" "$(tr -dc d <"$m/map" | wc -c)" 4000000
	fs_umount p
}

writers_parked() {
	[ "$(status_of p .parked_requests)" -ge "$1" ]
}

# More changes wait than the daemon is willing to hold: status still answers, and whoever is killed goes away.
test_crowd_that_waits_can_be_killed() {
	local i pids=()
	fs_mount p --timeout 600000 --notice 500
	for i in {1..270}; do truncate -s 2M "$m/crowd.$i"; done
	sync "$m"
	"$FSIO" sync "$m/crowd.1"
	lose_replica
	await "the loss to show" not_as_configured
	for i in {1..270}; do
		dd if=/dev/zero of="$m/crowd.$i" bs=1M count=2 conv=notrunc status=none 2>/dev/null &
		pids+=($!)
	done
	AWAIT_S=60 await "the crowd to wait" writers_parked 270
	kill_now KILL "${pids[@]}"
	replica_gate open
	await "the replica to be back" as_configured
	rm "$m"/crowd.*
	fs_umount p
}

# The only replica is lost for good: the way out is to say so, by name.
test_declared_dead() {
	local set=$WORK/p/pool.set
	fs_mount p
	as_configured
	echo last >"$m/last"
	"$FSIO" sync "$m/last"
	fs_umount p
	replica_gate shut
	expect_exit 1 "--force --without second" rpmemfs p mount --min-replicas 0 "$set" "$m"
	expect_exit 1 "--force --without second" rpmemfs p mount --min-replicas 0 --force --without other "$set" "$m"
	expect_exit 2 "usage" rpmemfs p mount --min-replicas 0 --force "$set" "$m"
	expect_exit 2 "usage" rpmemfs p mount --min-replicas 0 --without second "$set" "$m"
	fs_mount p --min-replicas 0 --force --without second
	expect_eq content "$(cat "$m/last")" last
	echo alone >"$m/last"
	"$FSIO" sync "$m/last"
	not_as_configured
	fs_umount p
	fs_mount p
	expect_eq content "$(cat "$m/last")" alone
	replica_gate open
	await "the replica to be back after all" as_configured
}

whole_copy_needed() {
	status_of w '.replicas[0].reason' | grep -q "whole copy"
}

# A replica that was away for too long gets a whole copy by a restore with the roles exchanged, and is in line again.
test_whole_copy_by_exchanged_roles() {
	local set=$WORK/w/pool.set mw=$WORK/mnt/w i sum
	sets_write w 64M
	fs_mkfs w --ring 512K --min-replicas 0
	fs_mount w --notice 500
	mv "$WORK/w/replica/second.set" "$WORK/w/replica/away"
	kill_now KILL "$(rpmemd_pid w)"
	for i in {1..60}; do
		head -c 3000000 /dev/urandom >"$mw/f$((i % 5))"
		"$FSIO" sync "$mw/f$((i % 5))"
	done
	sum=$(cat "$mw"/f* | sha256sum)
	fs_umount w
	mv "$WORK/w/replica/away" "$WORK/w/replica/second.set"
	fs_mount w
	whole_copy_needed
	fs_umount w
	mkdir -p "$WORK/x/replica"
	printf 'PMEMPOOLSET\n64M %s/second.part0\nREPLICA @local first.set\n' "$WORK/w" >"$WORK/x/pool.set"
	printf 'PMEMPOOLSET\n64M %s/local.part0\n' "$WORK/w" >"$WORK/x/replica/first.set"
	expect_exit 3 "--force --without local,second" rpmemfs x restore --replace --from first "$WORK/x/pool.set"
	rpmemfs x restore --replace --from first --force --without local,second "$WORK/x/pool.set"
	fs_mount w
	expect_eq content "$(cat "$mw"/f* | sha256sum)" "$sum"
	status_is w .as_configured true
	fs_umount w
	rpmemfs w verify --quiet "$set"
}

shared() {
	sets_write p 64M
	fs_mkfs p
	outage_begin
}

prepare shared
run_tests
