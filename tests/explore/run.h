/* Runs a workload on a real core, traced, with the model beside it: locally, or with a replica that is rpmemd's engine behind
 * real lane messages. */
#ifndef RPMEMFS_TESTS_EXPLORE_RUN_H
#define RPMEMFS_TESTS_EXPLORE_RUN_H

#include "model.h"
#include "trace.h"
#include "workload.h"

#define RUN_POOL_BYTES MEDIA_POOL_BYTES_MIN
#define RUN_WHY_BYTES 8192u

/* A pool after the set-up, everything in place; made once, started from by every workload. */
struct run_start {
	uint8_t *bytes[TRACE_POOLS];
	struct model model;
};
void run_start_make(struct run_start *start, enum start which);
void run_start_free(struct run_start *start);
/* Gives up the pools that runs of this process use, part of which would be shared with a child: before fork. */
void run_pools_free(void);

/* What a run left behind. State `state_after[i]` is the newest that operation i can have made. */
struct run {
	struct trace trace;
	struct model model;
	unsigned state_after[WORKLOAD_OPS_MAX];
	uint64_t dropped;          /* fences left out */
	char why[RUN_WHY_BYTES];   /* the running file system differed from the model */
};

/* 0, or -1 with why. run is zeroed before the first one; run_free at the end. */
int run_workload(struct run *run, const struct workload *w, const struct run_start *start, enum pm_point drop);
void run_free(struct run *run);
/* Whether the run began as the other one, which has ops operations, did from beginning to end: the same events with the same
 * bytes, and the same states of the model. Then a crash within that part looks the same in both. */
bool run_begins_as(const struct run *run, const struct run *other, unsigned ops);

#endif
