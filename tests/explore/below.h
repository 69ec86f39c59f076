/* Cases below the file system: what copy.h, pool.h and rpmemd's engine promise by themselves, each promise with the fence
 * behind it. Some of these calls have no caller in a mount yet, or one that goes on to another fence at once; their promises
 * are kept all the same. */
#ifndef RPMEMFS_TESTS_EXPLORE_BELOW_H
#define RPMEMFS_TESTS_EXPLORE_BELOW_H

#include "cuts.h"

/* Name of case i; NULL: no such one. */
const char *below_name(unsigned i);

/* Runs case i and cuts it at every event. 0, or -1 with why (CHECK_WHY_BYTES) and place. stats are added to. */
int below_explore(struct run *run, unsigned i, enum pm_point drop, uint64_t seed, struct cuts_stats *stats,
		  struct cuts_place *place, char *why);

#endif
