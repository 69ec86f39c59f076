/* See jobs.h. */
#include "jobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "below.h"
#include "cluster.h"
#include "cluster_cuts.h"

#define STRIDE 769u        /* pairs and stems are taken in these strides, so that a short run sees all kinds; */
#define STEM_STRIDE 7919u  /* they share no factor with the numbers of both */
#define TURN 8u            /* of so many jobs of a mix four are pairs */
#define CLUSTER_CUTS 24u
#define CLUSTER_CUTS_CASE 120u
#define CLUSTER_CUTS_FULL 400u

static struct run_start starts[STARTS];

uint64_t jobs_count(enum job_kind kind)
{
	switch (kind) {
	case JOB_PAIR:
		return 2 * workload_pairs();
	case JOB_STEM:
		return workload_stems();
	case JOB_TRIPLE:
		return workload_triples();
	default:
		return UINT64_MAX;
	}
}

/* The same workload gets the same images however it was come by. */
static void job_seed(struct job *job, const struct job_cfg *cfg)
{
	job->seed = cfg->seed * 0x9e3779b97f4a7c15ull + view_hash(job->name, strlen(job->name));
}

static void job_pair(struct job *job, unsigned i, bool replica)
{
	workload_pair(&job->workload, i);
	job->workload.replica = replica;
	job->kind = replica ? JOB_REPLICA : JOB_PAIR;
	job->number = i;
	snprintf(job->name, sizeof(job->name), "%s:%u", replica ? "replica" : "pair", i);
}

static void job_stem(struct job *job, unsigned i)
{
	workload_stem(&job->workload, i);
	job->kind = JOB_STEM;
	job->number = i;
	snprintf(job->name, sizeof(job->name), "stem:%u", i);
}

static void job_triple(struct job *job, uint64_t i)
{
	workload_triple(&job->workload, i);
	job->kind = JOB_TRIPLE;
	job->number = i;
	snprintf(job->name, sizeof(job->name), "triple:%llu", (unsigned long long)i);
}

static void job_random(struct job *job, uint64_t seed)
{
	workload_random(&job->workload, seed);
	job->kind = JOB_RANDOM;
	job->number = seed;
	snprintf(job->name, sizeof(job->name), "random:%llu", (unsigned long long)seed);
}

static void job_cluster(struct job *job, uint64_t i)
{
	workload_cluster(&job->workload, i);
	job->kind = JOB_CLUSTER;
	job->number = i;
	snprintf(job->name, sizeof(job->name), "cluster:%llu", (unsigned long long)i);
}

static int job_case(struct job *job, const char *name)
{
	const char *found;

	for (unsigned i = 0; (found = workload_case(&job->workload, i)) != NULL; i++) {
		if (strcmp(found, name) != 0)
			continue;
		job->kind = JOB_CASE;
		job->number = i;
		snprintf(job->name, sizeof(job->name), "case:%s", name);
		return 0;
	}
	return -EINVAL;
}

void job_make(struct job *job, const struct job_cfg *cfg, enum job_kind kind, uint64_t i)
{
	switch (kind) {
	case JOB_PAIR:
		job_pair(job, (unsigned)((i / 2 * STRIDE + cfg->seed) % workload_pairs()), i % 2);
		break;
	case JOB_STEM:
		job_stem(job, (unsigned)((i * STEM_STRIDE + cfg->seed) % workload_stems()));
		break;
	case JOB_CLUSTER:
		job_cluster(job, cfg->seed * 1000003u + i);
		break;
	default: /* JOB_RANDOM */
		job_random(job, cfg->seed * 1000003u + i);
	}
	job_seed(job, cfg);
}

void job_make_triple(struct job *job, const struct job_cfg *cfg, const struct job *stem, uint64_t k)
{
	job_triple(job, stem->number + k * workload_stems());
	job_seed(job, cfg);
}

void job_make_any(struct job *job, const struct job_cfg *cfg, uint64_t n)
{
	static const enum job_kind kinds[TURN] = {
		JOB_PAIR, JOB_PAIR, JOB_PAIR, JOB_PAIR, JOB_STEM, JOB_STEM, JOB_CLUSTER, JOB_RANDOM
	};
	enum job_kind kind = kinds[n % TURN];
	struct job stem;

	if (kind == JOB_PAIR)
		n = n / TURN * 4 + n % TURN;
	job_make(job, cfg, kind, n);
	if (kind != JOB_STEM || n % 2)
		return;
	stem = *job;
	job_make_triple(job, cfg, &stem, n % JOBS_STEM_TRIPLES);
}

int job_parse(struct job *job, const struct job_cfg *cfg, const char *name)
{
	unsigned long long n;
	char kind[16];

	int err = 0;

	if (!strncmp(name, "case:", 5))
		err = job_case(job, name + 5);
	else if (sscanf(name, "%15[a-z]:%llu", kind, &n) != 2)
		err = -EINVAL;
	else if (!strcmp(kind, "random"))
		job_random(job, n);
	else if (!strcmp(kind, "cluster"))
		job_cluster(job, n);
	else if (!strcmp(kind, "stem") && n < workload_stems())
		job_stem(job, (unsigned)n);
	else if (!strcmp(kind, "triple") && n < workload_triples())
		job_triple(job, n);
	else if (n < workload_pairs() && (!strcmp(kind, "pair") || !strcmp(kind, "replica")))
		job_pair(job, (unsigned)n, kind[0] == 'r');
	else
		err = -EINVAL;
	if (!err)
		job_seed(job, cfg);
	return err;
}

/* ---------------------------------------------------------------- running */

void jobs_init(void)
{
	for (enum start s = 0; s < STARTS; s++)
		run_start_make(&starts[s], s);
	run_pools_free();
	cluster_init();
}

void jobs_fini(void)
{
	cluster_fini();
}

static struct cuts_cfg cuts_of(const struct job *job, const struct job_cfg *cfg)
{
	struct cuts_cfg cuts = { .units = 6, .singles = 12, .torn = 3, .random = 1, .second = 24 };

	if (job->kind == JOB_TRIPLE)
		cuts = (struct cuts_cfg){ .units = 6, .singles = 4, .torn = 1, .random = 1, .second = 32 };
	if (job->kind == JOB_RANDOM)
		cuts = (struct cuts_cfg){ .units = 6, .singles = 6, .torn = 3, .random = 1, .second = 32 };
	if (cfg->full && job->kind != JOB_TRIPLE)
		cuts = (struct cuts_cfg){ .units = 10, .singles = 4096, .torn = 32, .random = 8, .second = 8 };
	cuts.seed = job->seed;
	cuts.pages = job->workload.file ? 3 * cuts.random : 0;
	cuts.quiet = job->workload.quiet;
	return cuts;
}

static int run_cluster(const struct job *job, const struct job_cfg *cfg, struct run *run, struct cuts_stats *stats,
		       struct cuts_place *place, char *why)
{
	unsigned cuts = cfg->full ? CLUSTER_CUTS_FULL : job->kind == JOB_CASE ? CLUSTER_CUTS_CASE : CLUSTER_CUTS;
	int err = cluster_workload(run, &job->workload, cfg->bug.drop);

	if (err)
		snprintf(why, CHECK_WHY_BYTES, "%.*s", (int)CHECK_WHY_BYTES - 1, run->why);
	else
		err = cluster_cuts_explore(run, &job->workload, job->seed, cuts, stats, place, why);
	return err;
}

static bool stem_equal(const struct workload *a, const struct workload *b)
{
	struct workload x = *a, y = *b;

	x.count = y.count = x.quiet = y.quiet = 0;
	return a->count == b->count && !memcmp(&x, &y, offsetof(struct workload, ops)) &&
	       !memcmp(a->ops, b->ops, a->count * sizeof(*a->ops));
}

/* 0, or -1: the triple's run did not begin as its stem did, whose cuts then say nothing of it. A triple that is being
 * minimised has a stem of its own. */
static int stem_check(const struct run *run, const struct workload *w, const struct run_start *start, enum pm_point drop,
		      char *why)
{
	static struct run stem_run;
	static struct workload stem;
	struct workload now = *w;

	now.count = w->quiet;
	now.quiet = 0;
	if (now.count == 0)
		return 0;
	if (!stem_equal(&now, &stem)) {
		stem = now;
		if (run_workload(&stem_run, &stem, start, drop)) {
			stem.count = 0;
			snprintf(why, CHECK_WHY_BYTES, "%.*s", (int)CHECK_WHY_BYTES - 1, stem_run.why);
			return -1;
		}
	}
	if (run_begins_as(run, &stem_run, stem.count))
		return 0;
	snprintf(why, CHECK_WHY_BYTES, "the first %u operations did something else than when nothing followed", stem.count);
	return -1;
}

int job_run(const struct job *job, const struct job_cfg *cfg, struct cuts_stats *stats, struct cuts_place *place, char *why,
	    const struct run **result)
{
	static struct run run;
	static struct image images[STARTS][2]; /* one for each that runs start from: what differs from it stays little */
	const struct workload *load = &job->workload;
	const struct run_start *start = &starts[load->start];
	struct cuts_cfg cuts = cuts_of(job, cfg);
	int err;

	*place = (struct cuts_place){ 0 };
	*result = &run;
	plant_now = cfg->bug.plant;
	if (load->below)
		return below_explore(&run, load->below - 1, cfg->bug.drop, job->seed, stats, place, why);
	if (load->cluster)
		return run_cluster(job, cfg, &run, stats, place, why);
	err = run_workload(&run, load, start, cfg->bug.drop);
	if (err)
		snprintf(why, CHECK_WHY_BYTES, "%.*s", (int)CHECK_WHY_BYTES - 1, run.why);
	else if (job->kind == JOB_TRIPLE)
		err = stem_check(&run, load, start, cfg->bug.drop, why);
	for (enum trace_pool p = TRACE_LOCAL; !err && p <= (load->replica ? TRACE_REPLICA : TRACE_LOCAL); p++) {
		struct image *image = &images[load->start][p];

		if (!image->base)
			image_make(image, RUN_POOL_BYTES);
		err = cuts_explore(image, &run, p, start->bytes[p], &cuts, stats, place, why);
	}
	return err;
}
