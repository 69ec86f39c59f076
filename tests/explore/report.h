/* What a violation looks like on stderr: the workload, the image, the events before it, why; then the shortest workload. */
#ifndef RPMEMFS_TESTS_EXPLORE_REPORT_H
#define RPMEMFS_TESTS_EXPLORE_REPORT_H

#include "jobs.h"

void report_workload(const struct job *job);
/* run: NULL when the process that knew it is gone. */
void report_violation(const struct job *job, const struct job_cfg *cfg, const struct cuts_place *place, const struct run *run,
		      const char *why);

#endif
