/* Pieces of work: one workload, run and cut at every event. Named pair:N (local only), replica:N (the same pair with a replica),
 * triple:N, random:SEED, cluster:N (a primary and two replicas), case:NAME. */
#ifndef RPMEMFS_TESTS_EXPLORE_JOBS_H
#define RPMEMFS_TESTS_EXPLORE_JOBS_H

#include "cuts.h"
#include "plant.h"

enum job_kind { JOB_PAIR, JOB_REPLICA, JOB_TRIPLE, JOB_RANDOM, JOB_CLUSTER, JOB_CASE, JOB_KINDS };

struct job {
	enum job_kind kind;
	uint64_t seed;              /* of the images */
	struct workload workload;
	char name[40];
};

/* What is wrong with the build: a rule that is dropped, fences of one point, or nothing. */
struct job_bug {
	enum plant plant;
	enum pm_point drop;
};
#define JOB_NO_BUG ((struct job_bug){ PLANT_NONE, TRACE_DROP_NONE })

struct job_cfg {
	uint64_t seed;
	bool full;
	struct job_bug bug;
};

/* How many there are of what is gone through from end to end; pairs with and without replica. */
uint64_t jobs_pairs(void);
uint64_t jobs_triples(void);
/* Job number n: pairs, triples and random ones in turn; as triples when all pairs are done, as random ones behind those. */
void job_make(struct job *job, const struct job_cfg *cfg, uint64_t n);
/* -EINVAL: no such one. */
int job_parse(struct job *job, const struct job_cfg *cfg, const char *name);

/* Makes what jobs start from; before the first, and before a fork. */
void jobs_init(void);
void jobs_fini(void);
/* 0, or -1 with why (CHECK_WHY_BYTES), place, and the run as it was. stats are added to. */
int job_run(const struct job *job, const struct job_cfg *cfg, struct cuts_stats *stats, struct cuts_place *place, char *why,
	    const struct run **run);

#endif
