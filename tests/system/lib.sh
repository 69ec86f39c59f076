# What every system test uses; sourced, not run. Real processes and real mounts in a private directory.
#
#   BUILD   the build under test        WORK   the private directory, in memory
#
# A test file defines functions test_NAME and ends with run_tests [NAME...]. Each test runs in a subshell of its own, ends
# at its first failing command, and is told as one line: "ok NAME", "not ok NAME" or "skip NAME REASON"; what a failed test
# printed stands before its line. State that tests of one file share (a mount) is made before run_tests.
#
# Layout of a pool P: WORK/P/pool.set and local.part0, the replica's WORK/P/replica/second.set and WORK/P/second.part0,
# logs WORK/P/*.log, the mount WORK/mnt/P. Every process of ours carries WORK on its command line; that is how it is found,
# and it is ended by its id. Nothing waits for a time: await polls a condition until a deadline.

system_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BUILD=$(realpath "${BUILD:-$system_dir/../../build}")
AWAIT_S=${AWAIT_S:-30}
FSIO=$BUILD/tests/system/fsio
POOLHURT=$BUILD/tests/system/poolhurt

# ---------------------------------------------------------------- conditions
say() {
	printf '    %s\n' "$*"
}

# await WHAT COMMAND...: until the command succeeds, at most AWAIT_S seconds
await() {
	local what=$1 deadline=$((SECONDS + AWAIT_S))
	shift
	until "$@" >"$WORK/await.out" 2>&1; do
		if [ "$SECONDS" -ge "$deadline" ]; then
			say "waited $AWAIT_S s in vain for: $what"
			tail -n 20 "$WORK/await.out"
			return 1
		fi
		sleep 0.02
	done
}

# expect_exit CODE TEXT COMMAND...: the command ends with CODE ("any": any but 0) and what it prints holds TEXT
expect_exit() {
	local want=$1 text=$2 status=0 out
	shift 2
	out=$("$@" 2>&1) || status=$?
	if [ "$want" = any ] && [ "$status" -ne 0 ] && [ "$status" -lt 126 ]; then want=$status; fi
	if [ "$status" = "$want" ] && [[ $out == *"$text"* ]]; then return 0; fi
	say "$*: exit status $status, wanted $want with '$text'; it said:"
	say "$out"
	return 1
}

# expect_eq WHAT GOT WANTED
expect_eq() {
	if [ "$2" = "$3" ]; then return 0; fi
	say "$1: got '$2', wanted '$3'"
	return 1
}

# expect_le WHAT GOT LIMIT
expect_le() {
	if [ "$2" -le "$3" ]; then return 0; fi
	say "$1: got $2, the limit is $3"
	return 1
}

# skip REASON: ends the test
skip() {
	echo "$*" >"$WORK/skip"
	exit 0
}

# ---------------------------------------------------------------- processes
# Ids of the processes whose command line begins with $1 and holds $2.
pids_of() {
	pgrep -f "^$1 .*$2" || true
}

fs_pid() {
	pids_of "$BUILD/rpmemfs" "$WORK/$1/pool.set"
}

rpmemd_pid() {
	pids_of "$WORK/rpmemd" "$WORK/$1/replica"
}

# A process nobody has reaped yet has an empty command line.
has_ended() {
	! grep -q . "/proc/$1/cmdline" 2>/dev/null
}

# kill_now SIGNAL PID...: signals and, for KILL, waits until they are gone
kill_now() {
	local signal=$1 pid
	shift
	kill -s "$signal" "$@"
	if [ "$signal" != KILL ]; then return 0; fi
	for pid in "$@"; do await "end of process $pid" has_ended "$pid"; done
}

no_process() {
	[ -z "$(pids_of "($BUILD/rpmemfs|$WORK/rpmemd)" "$WORK/${1:-}")" ]
}

# ---------------------------------------------------------------- pools and mounts
# rpmemfs POOL ARGS...: the program, with the pool's own pool directory for its @local replica
rpmemfs() {
	local pool=$1
	shift
	RPMEM_CMD="$WORK/rpmemd --poolset-dir $WORK/$pool/replica --log-file $WORK/$pool/rpmemd.log --log-level warn" \
		"$BUILD/rpmemfs" "$@"
}

# sets_write POOL SIZE [TARGET]: the poolset files; TARGET "none": no replica
sets_write() {
	local dir=$WORK/$1 size=$2 target=${3:-@local}
	mkdir -p "$dir/replica" "$WORK/mnt/$1"
	printf 'PMEMPOOLSET\n%s %s/local.part0\n' "$size" "$dir" >"$dir/pool.set"
	if [ "$target" = none ]; then return 0; fi
	printf 'REPLICA %s second.set\n' "$target" >>"$dir/pool.set"
	printf 'PMEMPOOLSET\n%s %s/second.part0\n' "$size" "$dir" >"$dir/replica/second.set"
}

# fs_mkfs POOL [options]
fs_mkfs() {
	local pool=$1
	shift
	rpmemfs "$pool" mkfs "$@" "$WORK/$pool/pool.set" >"$WORK/$pool/mkfs.log" 2>&1 && return 0
	say "mkfs of $pool: $(cat "$WORK/$pool/mkfs.log")"
	return 1
}

# fs_mount POOL [options]
fs_mount() {
	local pool=$1
	shift
	rpmemfs "$pool" mount --log "$WORK/$pool/rpmemfs.log" "$@" "$WORK/$pool/pool.set" "$WORK/mnt/$pool" \
		>"$WORK/$pool/mount.log" 2>&1 && return 0
	say "mount of $pool: $(cat "$WORK/$pool/mount.log")"
	return 1
}

# fs_make POOL SIZE [mount options]: sets, mkfs, mount
fs_make() {
	local pool=$1 size=$2
	shift 2
	sets_write "$pool" "$size"
	fs_mkfs "$pool"
	fs_mount "$pool" "$@"
}

is_mounted() {
	mountpoint -q "$WORK/mnt/$1"
}

# fs_umount POOL: and waits for its processes
fs_umount() {
	umount "$WORK/mnt/$1"
	await "end of the processes of $1" no_process "$1/"
}

# fs_kill POOL: SIGKILL for the daemon, the dead mount taken away, its rpmemd ended by the end of its session
fs_kill() {
	local pid
	pid=$(fs_pid "$1")
	kill_now KILL "$pid"
	umount -l "$WORK/mnt/$1"
	await "end of the processes of $1" no_process "$1/"
}

# status_of POOL FILTER: one value of the mount's status
status_of() {
	{ rpmemfs "$1" status --json "$WORK/mnt/$1" || true; } | jq -r "$2"
}

# status_is POOL FILTER VALUE
status_is() {
	[ "$(status_of "$1" "$2")" = "$3" ]
}

counters_of() {
	status_of "$1" ".replicas[${2:-0}].counters | \"\(.commits) \(.round_trips) \(.bytes_sent) \(.peer_rx_bytes)\""
}

# ---------------------------------------------------------------- SQLite under load
# Rows go in one transaction each; what was acknowledged is a line of FILE. Ends at the first error.
# sqlite_load DATABASE FILE COUNT [JOURNAL-MODE [SYNCHRONOUS]]
sqlite_load() {
	{
		echo ".bail on"
		echo "PRAGMA journal_mode=${4:-DELETE};"
		echo "PRAGMA synchronous=${5:-FULL};"
		echo "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, content TEXT);"
		awk -v n="$3" 'BEGIN { for (i = 1; i <= n; i++)
			printf "INSERT INTO t(content) VALUES(printf(\"%%.*c\", 40 + %d %% 400, \"x\"));" \
			       "SELECT \"row \" || last_insert_rowid();\n", i }'
	} | { stdbuf -oL sqlite3 "$1" 2>>"$2.err" || true; } | sed -un 's/^row //p' >>"$2"
}

rows_at_least() {
	[ "$(wc -l <"$1")" -ge "$2" ]
}

# sqlite_holds DATABASE FILE: every acknowledged row is there, the database is whole
sqlite_holds() {
	local lost
	expect_eq "integrity_check" "$(sqlite3 "$1" 'PRAGMA integrity_check')" ok
	lost=$(sort "$2" | comm -23 - <(sqlite3 "$1" 'SELECT id FROM t' | sort) | wc -l)
	expect_eq "acknowledged rows lost, of $(wc -l <"$2")" "$lost" 0
}

# ---------------------------------------------------------------- the private directory
work_begin() {
	WORK=$(mktemp -d /dev/shm/rpmemfs-system.XXXXXX)
	export WORK BUILD
}

# Unmounts, ends what still runs, removes everything. Safe to call twice.
work_end() {
	local dir pid
	if [ ! -d "$WORK" ]; then return 0; fi
	for dir in "$WORK"/mnt/*; do
		if [ -d "$dir" ] || ! [ -e "$dir" ]; then umount -l "$dir" 2>/dev/null || true; fi
	done
	for pid in $(pids_of "$BUILD/(tests/system|examples)/[^ ]*" "$WORK/"); do kill -KILL "$pid" 2>/dev/null; done
	for pid in $(pgrep -f "$WORK/"); do
		if [ "$pid" != $$ ] && [ "$pid" != "$PPID" ]; then kill -CONT "$pid" 2>/dev/null; fi
	done
	if ! AWAIT_S=10 await "end of the daemons" no_process >/dev/null; then
		for pid in $(pids_of "($BUILD/rpmemfs|$WORK/rpmemd)" "$WORK/"); do kill -KILL "$pid" 2>/dev/null; done
	fi
	if [ -e "$WORK/sshd.pid" ]; then kill "$(cat "$WORK/sshd.pid")" 2>/dev/null; fi
	rm -rf --one-file-system "$WORK"
}

# ---------------------------------------------------------------- running
# What a sanitizer found anywhere, in a daemon too, is a failure of the test during which it was found.
sanitizers_quiet() {
	local report
	for report in "$WORK"/san.*; do
		[ -e "$report" ] || continue
		head -n 40 "$report"
		rm "$report"
		return 1
	done
}

run_test() {
	local name=$1 status
	rm -f "$WORK/skip"
	# not in a condition: set -e would mean nothing in it
	(
		set -eE -o pipefail
		trap 'say "failed at ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND" >&2' ERR
		"test_$name"
	) >"$WORK/output" 2>&1 </dev/null
	status=$?
	if ! sanitizers_quiet >>"$WORK/output" 2>&1; then status=1; fi
	if [ -e "$WORK/skip" ]; then
		echo "skip $name $(cat "$WORK/skip")"
	elif [ "$status" -eq 0 ]; then
		echo "ok $name"
	else
		cat "$WORK/output"
		echo "not ok $name"
	fi
}

# The local parts of the pools that this file's tests leave, of one part each.
pools_left() {
	local part
	for part in "$WORK"/*/local.part0; do
		if [ "$(head -c 7 "$part" 2>/dev/null)" = RPMEMFS ]; then basename "$(dirname "$part")"; fi
	done
}

# Whatever was done to a pool, it is sound in the end.
test_every_pool_is_sound() {
	local pool
	for pool in $(pools_left); do
		if is_mounted "$pool"; then fs_umount "$pool"; fi
		rpmemfs "$pool" fsck "$WORK/$pool/pool.set"
	done
}

# run_tests [NAME...]: all tests of the file in their order in it, and fsck of what they leave
run_tests() {
	local names=("$@") name
	if [ $# -eq 0 ]; then mapfile -t names < <(sed -n 's/^test_\([a-z0-9_]*\)().*/\1/p' "$0"); fi
	for name in "${names[@]}"; do run_test "$name"; done
	if [ -n "$(pools_left)" ]; then run_test every_pool_is_sound; fi
}

# prepare COMMAND...: state shared by the file's tests; without it there is nothing to test
prepare() {
	local out
	if out=$("$@" 2>&1 </dev/null); then return 0; fi
	printf '%s\n' "$out"
	echo "not ok prepare"
	exit 1
}

if [ -z "${WORK:-}" ]; then
	work_begin
	trap work_end EXIT
	trap 'exit 1' INT TERM
fi
ln -sf "$BUILD/rpmemd" "$WORK/rpmemd"
export ASAN_OPTIONS="log_path=$WORK/san:detect_stack_use_after_return=0"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$WORK/san"
export TSAN_OPTIONS="log_path=$WORK/san"
export LC_ALL=C
