/* The pool is restored elsewhere while its primary lives. */
#ifndef RPMEMFS_TESTS_EXPLORE_TAKEOVER_H
#define RPMEMFS_TESTS_EXPLORE_TAKEOVER_H

#include "cluster.h"

/* From then on the old primary changes no copy that was reached and acknowledges nothing, even when all replicas lose power in
 * between, and also one that does not look. start: the pools at the beginning of run's trace. 0, or -1 with run->why. */
int takeover(struct primary *old, struct primary *second, struct run *run, const uint8_t *start[TRACE_POOLS]);

#endif
