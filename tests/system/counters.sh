#!/usr/bin/env bash
# Cost follows the change: round trips and bytes of small fsyncs, as counted here and as reported by rpmemd.
# MANY=n: files of the large pool, 100000 unless the build is a slow one.
. "$(dirname "$0")/lib.sh"
m=$WORK/mnt/p
case $BUILD in
*/address | */thread | */undefined) MANY=${MANY:-20000} ;;
*) MANY=${MANY:-100000} ;;
esac
ROUNDS=50

# costs LIMIT COMMAND...: the command does ROUNDS syncs; each takes one commit, one round trip and at most LIMIT bytes
costs() {
	local limit=$1 a b
	shift
	"$@" # what is new in the file is paid for before
	a=($(counters_of p))
	"$@"
	b=($(counters_of p))
	say "$*: $((b[0] - a[0])) commits, $((b[1] - a[1])) round trips, $(((b[3] - a[3]) / ROUNDS)) bytes each"
	expect_eq "commits" $((b[0] - a[0])) $ROUNDS
	expect_eq "round trips" $((b[1] - a[1])) $ROUNDS
	expect_le "bytes a sync, sent" $(((b[2] - a[2]) / ROUNDS)) "$limit"
	expect_le "bytes a sync, as rpmemd received them" $(((b[3] - a[3]) / ROUNDS)) "$limit"
	expect_eq "bytes sent and received" $((b[2] - a[2])) $((b[3] - a[3]))
}

block_overwrite() {
	costs 5120 "$FSIO" rewrite "$m/f" 8192 4096 $ROUNDS
	costs 5120 "$FSIO" rewrite "$m/f" 8192 4096 $ROUNDS fdatasync
	costs 5120 "$FSIO" rewrite "$m/f" 8192 4096 $ROUNDS dsync
}

small_store() {
	costs 1024 "$FSIO" stores "$m/f" 12304 $ROUNDS
	costs 1024 "$FSIO" rewrite "$m/f" 100 8 $ROUNDS
}

test_block_overwrite() {
	block_overwrite
}

test_small_store() {
	small_store
}

test_nothing_to_sync_costs_nothing() {
	local a b
	sync "$m/f"
	a=($(counters_of p))
	"$FSIO" sync "$m/f"
	"$FSIO" sync "$m/f"
	b=($(counters_of p))
	expect_eq "round trips" $((b[1] - a[1])) 0
}

# Another file's unsynced content stays where it is.
test_staged_content_stays_behind() {
	local a b holder bytes=$((64 << 20))
	mkfifo "$WORK/release"
	"$FSIO" stage "$m/staged" $bytes <"$WORK/release" >"$WORK/staged.log" &
	holder=$!
	exec 5>"$WORK/release"
	await "64 MiB staged" grep -q staged "$WORK/staged.log"
	costs 5120 "$FSIO" rewrite "$m/f" 8192 4096 $ROUNDS
	a=($(counters_of p))
	exec 5>&-
	wait $holder
	"$FSIO" sync "$m/staged"
	b=($(counters_of p))
	say "then its own fsync: $((b[2] - a[2])) bytes"
	rm "$m/staged"
	sync "$m"
}

test_same_with_many_files() {
	mkdir "$m/many"
	(cd "$m/many" && seq -f 'file-%.0f' "$MANY" | xargs touch)
	rpmemfs p sync "$m"
	say "$MANY files"
	block_overwrite
	small_store
}

# No background commit comes in between: what is counted is what the sync did.
shared() {
	sets_write p 512M
	fs_mkfs p
	fs_mount p --background 3600000
	head -c 65536 /dev/urandom >"$m/f"
	sync "$m/f"
}

prepare shared
run_tests
