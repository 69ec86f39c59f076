/* Pieces of work: one workload, run and cut at every event. Named pair:N (local only), replica:N (the same pair with a replica),
 * stem:N (what 20 triples begin with), triple:N, random:SEED, cluster:N (a primary and two replicas), case:NAME.
 *
 * Triples are a tree: those of one stem (workload.h) are run from the start each, and cut only behind the stem, where they
 * differ; the stem is cut once. That this leaves nothing out is made sure of at each triple: its run begins as its stem's
 * did, event by event and byte by byte, with the same states of the model. */
#ifndef RPMEMFS_TESTS_EXPLORE_JOBS_H
#define RPMEMFS_TESTS_EXPLORE_JOBS_H

#include "cuts.h"
#include "plant.h"

enum job_kind { JOB_PAIR, JOB_REPLICA, JOB_STEM, JOB_TRIPLE, JOB_RANDOM, JOB_CLUSTER, JOB_CASE, JOB_KINDS };

struct job {
	enum job_kind kind;
	uint64_t number;
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

/* How many there are of what is gone through from end to end: JOB_PAIR, with and without replica, JOB_STEM, JOB_TRIPLE;
 * UINT64_MAX of others. */
uint64_t jobs_count(enum job_kind kind);
/* Number i of JOB_PAIR, JOB_STEM, JOB_RANDOM or JOB_CLUSTER, in an order in which a short run sees all sorts. */
void job_make(struct job *job, const struct job_cfg *cfg, enum job_kind kind, uint64_t i);
/* Triple k, below JOBS_STEM_TRIPLES, of those that begin as the stem does. */
#define JOBS_STEM_TRIPLES (jobs_count(JOB_TRIPLE) / jobs_count(JOB_STEM))
void job_make_triple(struct job *job, const struct job_cfg *cfg, const struct job *stem, uint64_t k);
/* Number n of a mix of all kinds. */
void job_make_any(struct job *job, const struct job_cfg *cfg, uint64_t n);
/* -EINVAL: no such one. */
int job_parse(struct job *job, const struct job_cfg *cfg, const char *name);

/* Makes what jobs start from; before the first, and before a fork. */
void jobs_init(void);
void jobs_fini(void);
/* 0, or -1 with why (CHECK_WHY_BYTES), place, and the run as it was. stats are added to. */
int job_run(const struct job *job, const struct job_cfg *cfg, struct cuts_stats *stats, struct cuts_place *place, char *why,
	    const struct run **run);

#endif
