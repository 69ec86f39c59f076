/* The crash-state explorer: explore [--seconds N] [--pairs] [--seed N] [--only WORKLOAD] [--planted POINT | --planted-all]
 *                              [--full]
 *
 *   trace.c     events of the pools of one run        run.c, session.c  a workload on a real core, traced
 *   image.c     crash images of one pool              view.c            a file system as text
 *   model.c     what may be found after a crash       check.c           recovery of one image, and what is asked of it
 *   workload.c  what is run                           cuts.c            which images are looked at
 *
 * --pairs ends when every pair was explored, or after --seconds; --seconds 0 knows no such limit and ends there too. --full
 * takes many more images of each.
 * A workload is named pair:N (local only), replica:N (the same pair with a replica) or random:SEED. Two processes share the
 * work; one that dies or hangs in an image counts as a violation. Exit status 1 if there was one, or if a planted bug was not found. */
#include <errno.h>
#include <getopt.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "cuts.h"
#include "log.h"

#define WORKERS 2u
#define SECONDS_DEFAULT 60u
#define RANDOM_EVERY 8u     /* one in so many workloads is a random one */
#define STRIDE 769u         /* pairs are taken in this stride, so that a short run sees all kinds */

struct job {
	struct workload workload;
	char name[32];
};

struct worker {
	struct job job;             /* under way */
	struct cuts_place place;
	bool busy;
};

struct shared {
	_Atomic uint64_t next, workloads, cuts, images, violations, dropped, pairs, randoms;
	_Atomic bool stop;
	struct worker workers[WORKERS];
	char first[128];            /* the first violation in a line */
};

struct settings {
	unsigned seconds;
	uint64_t seed;
	bool pairs;                 /* only until every pair was explored */
	bool full, quiet;
	enum pm_point planted;
	const char *only;
};

static struct shared *shared;
static struct run_start starts[STARTS];

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---------------------------------------------------------------- jobs */

static void job_pair(struct job *job, unsigned i, bool replica)
{
	workload_pair(&job->workload, i);
	job->workload.replica = replica;
	snprintf(job->name, sizeof(job->name), "%s:%u", replica ? "replica" : "pair", i);
}

static void job_random(struct job *job, uint64_t seed)
{
	workload_random(&job->workload, seed);
	snprintf(job->name, sizeof(job->name), "random:%llu", (unsigned long long)seed);
}

/* Job number n: pairs with and without replica in turn, random ones between and behind them. */
static void job_make(struct job *job, const struct settings *set, uint64_t n)
{
	uint64_t pairs = workload_pairs(), pair = n - n / RANDOM_EVERY;

	if (n % RANDOM_EVERY == RANDOM_EVERY - 1 || pair >= 2 * pairs) {
		job_random(job, set->seed * 1000003u + n);
		shared->randoms++;
		return;
	}
	job_pair(job, (unsigned)((pair / 2 * STRIDE + set->seed) % pairs), pair % 2);
	shared->pairs++;
}

static int job_parse(struct job *job, const char *name)
{
	unsigned long long n;
	char kind[16];

	if (sscanf(name, "%15[a-z]:%llu", kind, &n) != 2)
		return -EINVAL;
	if (!strcmp(kind, "random"))
		job_random(job, n);
	else if (n < workload_pairs() && (!strcmp(kind, "pair") || !strcmp(kind, "replica")))
		job_pair(job, (unsigned)n, kind[0] == 'r');
	else
		return -EINVAL;
	return 0;
}

/* ---------------------------------------------------------------- reports */

static void print_workload(const struct job *job)
{
	static const char *const start_names[STARTS] = { "plain", "ring end", "tight" };
	const struct workload *w = &job->workload;
	char line[128];

	fprintf(stderr, "%s, start %s%s\n", job->name, start_names[w->start],
		!w->replica ? "" : w->eager ? ", replica first" : ", replica behind");
	for (unsigned i = 0; i < w->count; i++) {
		op_print(&w->ops[i], line, sizeof(line));
		fprintf(stderr, "  op %u: %s\n", i, line);
	}
}

static void print_place(const struct cuts_place *p)
{
	fprintf(stderr, "%s pool, event %zu, image: %s store %zu seed %#llx%s\n", p->pool ? "replica's" : "local", p->event,
		image_kind_name(p->variant.kind), p->variant.store, (unsigned long long)p->variant.seed,
		p->second ? ", cut again during recovery" : "");
}

/* The events around the cut. */
static void print_events(const struct run *run, const struct cuts_place *p)
{
	size_t from = p->event > 12 ? p->event - 12 : 0;

	for (size_t i = from; i <= p->event && i < run->trace.events.n; i++) {
		const struct trace_event *e = &run->trace.events.v[i];

		fprintf(stderr, "  event %zu: %s %s", i, e->pool ? "replica" : "local", trace_type_name(e->type));
		if (e->type == TRACE_STORE || e->type == TRACE_PUSH || e->type == TRACE_FLUSH)
			fprintf(stderr, " %#llx+%llu", (unsigned long long)e->off, (unsigned long long)e->len);
		else if (e->type == TRACE_FENCE)
			fprintf(stderr, " %s", trace_point_name(e->point));
		else
			fprintf(stderr, " %llu", (unsigned long long)e->op);
		fprintf(stderr, "\n");
	}
}

static void violation(const struct settings *set, const struct worker *w, const struct run *run, const char *why)
{
	if (shared->violations++ == 0)
		snprintf(shared->first, sizeof(shared->first), "%s: %.90s", w->job.name, why);
	if (set->planted != TRACE_DROP_NONE)
		shared->stop = true;
	if (set->quiet)
		return;
	fprintf(stderr, "\nVIOLATION in ");
	print_workload(&w->job);
	print_place(&w->place);
	if (run)
		print_events(run, &w->place);
	fprintf(stderr, "%s\n", why);
}

/* ---------------------------------------------------------------- work */

static struct cuts_cfg cuts_of(const struct settings *set, const struct job *job, uint64_t n)
{
	bool is_random = job->workload.seed != 0;
	struct cuts_cfg cfg = { .seed = set->seed + n, .singles = 12, .torn = 3, .random = 1, .second = 24 };

	if (is_random)
		cfg = (struct cuts_cfg){ .seed = set->seed + n, .singles = 6, .torn = 3, .random = 1, .second = 32 };
	if (set->full)
		cfg = (struct cuts_cfg){ .seed = set->seed + n, .singles = 4096, .torn = 32, .random = 8, .second = 8 };
	cfg.quiet = job->workload.quiet;
	return cfg;
}

/* 0, or -1 after a violation. */
static int job_run(const struct settings *set, struct worker *w, uint64_t n)
{
	static struct run run;
	static struct image image;
	static char why[CHECK_WHY_BYTES];
	const struct workload *load = &w->job.workload;
	const struct run_start *start = &starts[load->start];
	struct cuts_cfg cfg = cuts_of(set, &w->job, n);
	struct cuts_stats stats = { 0 };
	int err;

	if (!image.base)
		image_make(&image, RUN_POOL_BYTES);
	w->place = (struct cuts_place){ 0 };
	err = run_workload(&run, load, start, set->planted);
	if (err)
		snprintf(why, sizeof(why), "%.*s", (int)sizeof(why) - 1, run.why);
	for (enum trace_pool p = TRACE_LOCAL; !err && p <= (load->replica ? TRACE_REPLICA : TRACE_LOCAL); p++)
		err = cuts_explore(&image, &run, p, start->bytes[p], &cfg, &stats, &w->place, why);
	shared->dropped += run.dropped;
	shared->workloads++;
	shared->cuts += stats.cuts;
	shared->images += stats.images;
	if (err)
		violation(set, w, &run, why);
	return err;
}

static void worker_run(const struct settings *set, struct worker *w, double until)
{
	while (!shared->stop && now() < until) {
		uint64_t n = shared->next++;

		if ((set->pairs || !set->seconds) && n - n / RANDOM_EVERY >= 2 * workload_pairs())
			return;
		job_make(&w->job, set, n);
		w->busy = true;
		job_run(set, w, n);
		w->busy = false;
	}
}

/* Starts a worker in the slot; -1 when it cannot be. */
static pid_t worker_start(const struct settings *set, unsigned i, double until)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		if (log_open("explore", "/dev/null", LOG_LEVEL_ERROR))
			_exit(2);
		worker_run(set, &shared->workers[i], until);
		_exit(0);
	}
	return pid;
}

/* A worker that died did so in an image: reported, and replaced by another one. */
static int workers_wait(const struct settings *set, pid_t pids[WORKERS], double until)
{
	unsigned running = WORKERS;
	char why[64];
	int status;

	while (running) {
		pid_t pid = wait(&status);
		unsigned i = 0;

		if (pid < 0)
			return -errno;
		while (i < WORKERS && pids[i] != pid)
			i++;
		if (i == WORKERS)
			continue;
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
			running--;
			continue;
		}
		snprintf(why, sizeof(why), WIFSIGNALED(status) ? "ended by signal %d" : "ended with status %d",
			 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		violation(set, &shared->workers[i], NULL, why);
		if (now() < until && !shared->stop) {
			pids[i] = worker_start(set, i, until);
			if (pids[i] < 0)
				return -errno;
		} else {
			running--;
		}
	}
	return 0;
}

static int explore(const struct settings *set)
{
	double from = now(), until = set->seconds ? from + set->seconds : from + 1e9;
	pid_t pids[WORKERS];

	memset(shared, 0, sizeof(*shared));
	for (unsigned i = 0; i < WORKERS; i++) {
		pids[i] = worker_start(set, i, until);
		EXPLORE_MUST(pids[i] < 0 ? -errno : 0);
	}
	EXPLORE_MUST(workers_wait(set, pids, until));
	if (!set->quiet)
		printf("explored: %llu workloads (%llu of %u pairs: %llu %%; %llu random), %llu cuts, %llu images, %.1f seconds, "
		       "%llu violations\n", (unsigned long long)shared->workloads, (unsigned long long)shared->pairs,
		       2 * workload_pairs(), (unsigned long long)shared->pairs * 100 / (2 * workload_pairs()),
		       (unsigned long long)shared->randoms, (unsigned long long)shared->cuts,
		       (unsigned long long)shared->images, now() - from, (unsigned long long)shared->violations);
	return shared->violations ? 1 : 0;
}

static int explore_only(const struct settings *set)
{
	struct worker *w = &shared->workers[0];

	if (job_parse(&w->job, set->only)) {
		fprintf(stderr, "explore: no such workload: %s\n", set->only);
		return 2;
	}
	if (job_run(set, w, 0))
		return 1;
	print_workload(&w->job);
	printf("explored: %llu cuts, %llu images, 0 violations\n", (unsigned long long)shared->cuts,
	       (unsigned long long)shared->images);
	return 0;
}

/* ---------------------------------------------------------------- planted bugs */

/* 0 when the explorer finds what is wrong with a build that lacks these fences. */
static int planted(struct settings set, enum pm_point point)
{
	double from = now();

	set.planted = point;
	set.quiet = true;
	explore(&set);
	if (shared->violations)
		printf("planted %s: caught after %llu workloads, %.1f seconds: %s\n", trace_point_name(point),
		       (unsigned long long)shared->workloads, now() - from, shared->first);
	else
		printf("planted %s: NOT CAUGHT (%llu fences left out)\n", trace_point_name(point),
		       (unsigned long long)shared->dropped);
	return shared->violations ? 0 : 1;
}

static int planted_all(const struct settings *set)
{
	static const enum pm_point points[] = { PM_POINT_DATA, PM_POINT_RECORD, PM_POINT_REPLAY, PM_POINT_SUPERBLOCK };
	int missed = 0;

	for (size_t i = 0; i < sizeof(points) / sizeof(*points); i++)
		missed += planted(*set, points[i]);
	return missed ? 1 : 0;
}

/* ---------------------------------------------------------------- main */

static int usage(void)
{
	fprintf(stderr, "usage: explore [--seconds N] [--pairs] [--seed N] [--only pair:N|replica:N|random:SEED] [--full]\n"
		"               [--planted data|record|replay|superblock | --planted-all]\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seconds", 1, NULL, 's' }, { "seed", 1, NULL, 'r' }, { "only", 1, NULL, 'o' }, { "full", 0, NULL, 'f' },
		{ "pairs", 0, NULL, 'b' }, { "planted", 1, NULL, 'p' }, { "planted-all", 0, NULL, 'a' }, { 0 },
	};
	struct settings set = { .seconds = SECONDS_DEFAULT, .seed = 1, .planted = TRACE_DROP_NONE };
	bool all = false, one = false;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's': set.seconds = (unsigned)strtoul(optarg, NULL, 10); break;
		case 'r': set.seed = strtoull(optarg, NULL, 10); break;
		case 'o': set.only = optarg; break;
		case 'f': set.full = true; break;
		case 'b': set.pairs = true; break;
		case 'a': all = true; break;
		case 'p':
			one = true;
			set.planted = trace_point_parse(optarg);
			if (set.planted == TRACE_DROP_NONE)
				return usage();
			break;
		default: return usage();
		}
	}
	if (optind != argc)
		return usage();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	EXPLORE_MUST(shared == MAP_FAILED ? -errno : 0);
	for (enum start s = 0; s < STARTS; s++)
		run_start_make(&starts[s], s);
	run_pools_free();
	if (set.only)
		return explore_only(&set);
	if (all)
		return planted_all(&set);
	return one ? planted(set, set.planted) : explore(&set);
}
