/* See jobs.h. */
#include "jobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "below.h"
#include "cluster.h"
#include "cluster_cuts.h"

#define STRIDE 769u        /* pairs are taken in this stride, so that a short run sees all kinds */
#define TRIPLE_STRIDE 1299709u /* the same for triples; both share no factor with their number */
#define TURN 8u            /* of so many jobs ... */
#define TURN_TRIPLES 2u    /* ... these are triples, one is a cluster and one is random */
#define CLUSTER_CUTS 24u
#define CLUSTER_CUTS_CASE 120u
#define CLUSTER_CUTS_FULL 400u

static struct run_start starts[STARTS];

uint64_t jobs_pairs(void)
{
	return 2 * workload_pairs();
}

uint64_t jobs_triples(void)
{
	return workload_triples();
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
	snprintf(job->name, sizeof(job->name), "%s:%u", replica ? "replica" : "pair", i);
}

static void job_triple(struct job *job, uint64_t i)
{
	workload_triple(&job->workload, i);
	job->kind = JOB_TRIPLE;
	snprintf(job->name, sizeof(job->name), "triple:%llu", (unsigned long long)i);
}

static void job_random(struct job *job, uint64_t seed)
{
	workload_random(&job->workload, seed);
	job->kind = JOB_RANDOM;
	snprintf(job->name, sizeof(job->name), "random:%llu", (unsigned long long)seed);
}

static void job_cluster(struct job *job, uint64_t i)
{
	workload_cluster(&job->workload, i);
	job->kind = JOB_CLUSTER;
	snprintf(job->name, sizeof(job->name), "cluster:%llu", (unsigned long long)i);
}

static int job_case(struct job *job, const char *name)
{
	const char *found;

	for (unsigned i = 0; (found = workload_case(&job->workload, i)) != NULL; i++) {
		if (strcmp(found, name) != 0)
			continue;
		job->kind = JOB_CASE;
		snprintf(job->name, sizeof(job->name), "case:%s", name);
		return 0;
	}
	return -EINVAL;
}

/* Number of the job among those of its kind. */
static uint64_t among(uint64_t n, uint64_t first, uint64_t of)
{
	return n / TURN * of + n % TURN - first;
}

void job_make(struct job *job, const struct job_cfg *cfg, uint64_t n)
{
	const uint64_t pairs_of = TURN - TURN_TRIPLES - 2, pairs_end = (jobs_pairs() + pairs_of - 1) / pairs_of * TURN;
	uint64_t i = among(n, 0, pairs_of), turn = n % TURN;

	if (turn == TURN - 1) {
		job_random(job, cfg->seed * 1000003u + n);
	} else if (turn == TURN - 2) {
		job_cluster(job, cfg->seed * 1000003u + n);
	} else if (n < pairs_end && turn < pairs_of && i < jobs_pairs()) {
		job_pair(job, (unsigned)((i / 2 * STRIDE + cfg->seed) % workload_pairs()), i % 2);
	} else {
		i = n < pairs_end ? among(n, pairs_of, TURN_TRIPLES) :
				    pairs_end / TURN * TURN_TRIPLES + among(n - pairs_end, 0, TURN - 2);
		if (i < workload_triples())
			job_triple(job, (i * TRIPLE_STRIDE + cfg->seed) % workload_triples());
		else
			job_random(job, cfg->seed * 1000003u + n);
	}
	job_seed(job, cfg);
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
	struct cuts_cfg cuts = { .seed = job->seed, .singles = 12, .torn = 3, .random = 1, .second = 24 };

	if (job->kind == JOB_TRIPLE)
		cuts = (struct cuts_cfg){ .seed = job->seed, .singles = 4, .torn = 1, .random = 1, .second = 32 };
	if (job->kind == JOB_RANDOM)
		cuts = (struct cuts_cfg){ .seed = job->seed, .singles = 6, .torn = 3, .random = 1, .second = 32 };
	if (cfg->full)
		cuts = (struct cuts_cfg){ .seed = job->seed, .singles = 4096, .torn = 32, .random = 8, .second = 8 };
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

int job_run(const struct job *job, const struct job_cfg *cfg, struct cuts_stats *stats, struct cuts_place *place, char *why,
	    const struct run **result)
{
	static struct run run;
	static struct image image;
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
	if (!image.base)
		image_make(&image, RUN_POOL_BYTES);
	err = run_workload(&run, load, start, cfg->bug.drop);
	if (err)
		snprintf(why, CHECK_WHY_BYTES, "%.*s", (int)CHECK_WHY_BYTES - 1, run.why);
	for (enum trace_pool p = TRACE_LOCAL; !err && p <= (load->replica ? TRACE_REPLICA : TRACE_LOCAL); p++)
		err = cuts_explore(&image, &run, p, start->bytes[p], &cuts, stats, place, why);
	return err;
}
