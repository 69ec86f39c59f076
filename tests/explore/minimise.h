/* The shortest workload that still breaks the contract: operations are left out as long as it does. */
#ifndef RPMEMFS_TESTS_EXPLORE_MINIMISE_H
#define RPMEMFS_TESTS_EXPLORE_MINIMISE_H

#include "jobs.h"

/* job: one that broke it; becomes the shortest found within seconds. Each try is a process of its own. */
void minimise(struct job *job, const struct job_cfg *cfg, unsigned seconds);

#endif
