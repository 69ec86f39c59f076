#!/usr/bin/env bash
# The example programs of librpmem, in the order a reader tries them, with a replica on the same machine.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/helpers/librpmem.sh"

# example NAME ARGS...
example() {
	local name=$1
	shift
	over p "$BUILD/examples/$name" @local "$@"
}

test_1_replicate() {
	expect_exit 0 "safe: second text" example 01-replicate second.set "first text" "second text"
}

test_1_replicate_finds_a_pool_there() {
	expect_exit 1 "second.set" example 01-replicate second.set "another text"
}

test_2_batch() {
	expect_exit 0 "safe: 500 records" example 02-batch second.set 3 500
	expect_exit 2 "usage" example 02-batch second.set 3 1000000
}

test_3_recover() {
	example 03-recover second.set >"$WORK/p/recovered"
	expect_eq "records" "$(wc -l <"$WORK/p/recovered")" 502
	expect_eq "the first" "$(head -n 1 "$WORK/p/recovered")" "1: first text"
	expect_eq "the last" "$(tail -n 1 "$WORK/p/recovered")" "502: record 502 of a batch"
}

test_3_recover_finds_nothing() {
	rm "$WORK/p/second.part0"
	expect_exit 1 "rpmem_open: No such file" example 03-recover second.set
}

if [ ! -x "$BUILD/examples/01-replicate" ]; then
	echo "skip librpmem_examples not built: make system"
	exit 0
fi
replica_write p 8M second
run_tests
