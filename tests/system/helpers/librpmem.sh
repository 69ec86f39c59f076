# Unmodified programs over our librpmem.so.1, for the tests of it; sourced after lib.sh, and after sshd.sh where replicas are
# reached over SSH. Such a program finds the library through LD_LIBRARY_PATH, as a user's does.
#
# A pool P: WORK/P/pool.set and WORK/P/local.part0; each replica R: WORK/P/replica/R.set and WORK/P/R.part0.
# What a libpmemobj program of ours said was committed stands in WORK/P/acks.
OBJTX=$BUILD/tests/system/objtx

# A library that was built with a sanitizer wants its runtime to be the first one in a process. Leaks are then those of
# programs that are not ours.
sanitizer_runtime() {
	ldd "$BUILD/librpmem.so.1" 2>/dev/null | awk '$1 ~ /^lib[at]san/ { print $3 }'
}
SANITIZER=$(sanitizer_runtime)

# libpmempool runs ssh by itself and knows only how the program is called.
ssh_wrapper_write() {
	cat >"$WORK/ssh/ssh" <<-END
		#!/bin/sh
		unset LD_PRELOAD LD_LIBRARY_PATH
		exec ssh -F "$WORK/ssh/config" "\$@"
	END
	chmod +x "$WORK/ssh/ssh"
}

# over POOL COMMAND...: the command finds our library, and our rpmemd serves the pool directory of POOL
over() {
	local pool=$1 settings
	shift
	settings=(RPMEM_SSH="$WORK/ssh/ssh" LD_LIBRARY_PATH="$BUILD")
	settings+=(RPMEM_CMD="$WORK/rpmemd --poolset-dir $WORK/$pool/replica --log-file $WORK/$pool/rpmemd.log --log-level info")
	if [ -n "$SANITIZER" ]; then
		settings+=(LD_PRELOAD="$SANITIZER" ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0")
	fi
	env "${settings[@]}" "$@"
}

# replica_write POOL SIZE NAME: a replica's pool set file
replica_write() {
	mkdir -p "$WORK/$1/replica"
	printf 'PMEMPOOLSET\n%s %s/%s.part0\n' "$2" "$WORK/$1" "$3" >"$WORK/$1/replica/$3.set"
}

# obj_sets_write POOL SIZE TARGET NAME...: the local part and its replicas at TARGET
obj_sets_write() {
	local dir=$WORK/$1 pool=$1 size=$2 target=$3 name
	shift 3
	mkdir -p "$dir"
	printf 'PMEMPOOLSET\n%s %s/local.part0\n' "$size" "$dir" >"$dir/pool.set"
	for name in "$@"; do
		printf 'REPLICA %s %s.set\n' "$target" "$name" >>"$dir/pool.set"
		replica_write "$pool" "$size" "$name"
	done
}

objtx() {
	local pool=$1 command=$2
	shift 2
	over "$pool" "$OBJTX" "$command" "$WORK/$pool/pool.set" "$@"
}

# Every thread's newest transaction that was told is in the pool, and all that is in it is whole.
acks_hold() {
	local pool=$1 thread count newest
	objtx "$pool" check "$WORK/$pool/live" >"$WORK/$pool/found"
	while read -r thread newest; do
		count=$(awk -v t="$thread" '$1 == t { print $2 }' "$WORK/$pool/found")
		expect_le "thread $thread: newest transaction told" "$newest" "${count:-0}"
	done < <(awk '$2 > newest[$1] { newest[$1] = $2 } END { for (t in newest) print t, newest[t] }' "$WORK/$pool/acks")
}

# pool_holds POOL NAME...: acks_hold, and byte for byte every object of the pool is the same in the replicas' parts as in the
# local one. (Not all else is: libpmemobj keeps volatile state between the objects.)
pool_holds() {
	local pool=$1 name
	acks_hold "$pool"
	shift
	for name in "$@"; do
		python3 -c "$PARTS_COMPARE" "$WORK/$pool/local.part0" "$WORK/$pool/$name.part0" <"$WORK/$pool/live"
	done
}

PARTS_COMPARE='
import sys
local, copy = (open(path, "rb").read() for path in sys.argv[1:])
ranges = [tuple(map(int, line.split())) for line in sys.stdin]
differ = [(off, size) for off, size in ranges if local[off:off + size] != copy[off:off + size]]
if differ or not ranges:
    sys.exit(f"{sys.argv[2]}: {len(differ)} of {len(ranges)} objects differ, offset and size: {differ[:4]}")
'

# ---------------------------------------------------------------- transactions under way
# objtx_begin POOL [THREADS]: transactions in the background until objtx_end, told in POOL/acks
objtx_begin() {
	: >"$WORK/$1/acks"
	objtx "$1" run 20000 "${2:-1}" >>"$WORK/$1/acks" 2>"$WORK/$1/objtx.log" &
	OBJTX_JOB=$!
	more_acks "$1"
}

objtx_pid() {
	pids_of "$OBJTX" "$WORK/$1/pool.set"
}

# more_acks POOL: the transactions go on
more_acks() {
	await "transactions" rows_at_least "$WORK/$1/acks" $(($(wc -l <"$WORK/$1/acks") + 50))
}

# objtx_end POOL: it finishes the transactions it is at, closes the pool, and nothing went wrong
objtx_end() {
	local status=0
	kill "$(objtx_pid "$1")"
	wait "$OBJTX_JOB" || status=$?
	cat "$WORK/$1/objtx.log"
	expect_eq "exit status of the program" "$status" 0
}

# replicas_kill POOL: SIGKILL for every rpmemd that serves it
replicas_kill() {
	local pids
	await "a session" rpmemd_runs "$1"
	mapfile -t pids < <(rpmemd_pid "$1")
	kill_now KILL "${pids[@]}"
}

rpmemd_runs() {
	rpmemd_pid "$1" | grep -q .
}
