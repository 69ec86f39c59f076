/* Crashes of a cluster: at some events every pool is cut at once, each with a variant of its own of what was not fenced; then
 * what is left is mounted in one of several ways and compared with the model, and all copies with each other. */
#ifndef RPMEMFS_TESTS_EXPLORE_CLUSTER_CUTS_H
#define RPMEMFS_TESTS_EXPLORE_CLUSTER_CUTS_H

#include "cuts.h"

/* cuts: about how many events. Else as cuts_explore. */
int cluster_cuts_explore(const struct run *run, const struct workload *w, uint64_t seed, unsigned cuts, struct cuts_stats *stats,
			 struct cuts_place *place, char *why);

#endif
