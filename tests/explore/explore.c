/* The crash-state explorer: explore [--seconds N] [--pairs | --triples [--from N] [--count N]] [--seed N] [--only JOB]
 *                                   [--planted NAME | --planted-all] [--full]
 *
 *   trace.c     events of the pools of one run        run.c, session.c  a workload on a real core, traced
 *   image.c     crash images of one pool              view.c            a file system as text
 *   model.c     what may be found after a crash       check.c           recovery of one image, and what is asked of it
 *   workload.c  what is run                           cuts.c            which images are looked at
 *   known.c     images that were recovered before     pages.c           pools put back by what changed
 *   cluster.c, cluster_link.c  a primary and two replicas: losses, remounts, restores
 *   cluster_cuts.c             crashes of all three, and what comes after them
 *   cluster_rot.c, takeover.c  copies that rot or are half overwritten; an old primary that lives on
 *   below.c                    what copies, pool headers and rpmemd's engine promise by themselves
 *   jobs.c      workloads by number and name          plants.c          bugs it has to find
 *   report.c    a violation in words                  minimise.c        the shortest workload that shows one
 *
 * Pairs, triples with their stems, random workloads and clusters share the time; pairs get most of it. It ends after
 * --seconds; with 0, and at the latest, when every pair and every triple was explored. --pairs: only pairs. --triples: only
 * triples, by stems: --count of them from number --from on; what is printed at the end says where to go on. --full takes many
 * more images of each but the triples. Two processes share the work; one that dies or hangs in an image counts as a
 * violation. Exit status 1 if there was one, or if a planted bug was not found. A violation is seen again with the seed and
 * --only JOB, that of a planted bug with its name as well. */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "log.h"
#include "plants.h"
#include "report.h"

#define WORKERS 2u
#define SECONDS_DEFAULT 60u
#define PLANTED_SECONDS 30u

struct worker {
	struct job job;             /* under way */
	struct cuts_place place;
};

struct shared {
	_Atomic uint64_t violations, done[JOB_KINDS];
	_Atomic uint64_t next[JOB_KINDS], spent_us[JOB_KINDS]; /* of the kinds that are taken up */
	_Atomic uint64_t cuts, images, recovered, exhausted, sampled;
	struct worker workers[WORKERS];
};

struct settings {
	unsigned seconds;
	struct job_cfg cfg;
	const char *only, *planted;
	bool planted_all;
	unsigned share[JOB_KINDS];          /* of the time, of the kinds that are taken up */
	uint64_t from, end[JOB_KINDS];      /* numbers; from: of stems */
};

#define SHARES { [JOB_PAIR] = 80, [JOB_STEM] = 8, [JOB_RANDOM] = 4, [JOB_CLUSTER] = 8 } /* all of what pairs leave, then */

static struct shared *shared;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---------------------------------------------------------------- work */

static void stats_share(const struct cuts_stats *stats)
{
	shared->cuts += stats->cuts;
	shared->images += stats->images;
	shared->recovered += stats->recovered;
	shared->exhausted += stats->exhausted;
	shared->sampled += stats->sampled;
}

/* 0, or -1 after a violation. */
static int work(const struct settings *set, struct worker *w)
{
	static char why[CHECK_WHY_BYTES];
	struct cuts_stats stats = { 0 };
	const struct run *run;
	int err = job_run(&w->job, &set->cfg, &stats, &w->place, why, &run);

	shared->done[w->job.kind]++;
	stats_share(&stats);
	if (err) {
		shared->violations++;
		report_violation(&w->job, &set->cfg, &w->place, run, why);
	}
	return err;
}

static bool left(const struct settings *set, enum job_kind kind)
{
	return set->share[kind] && shared->next[kind] < set->end[kind];
}

/* The kind that had least of its share of the time. JOB_KINDS: all that has an end is at it. */
static enum job_kind pick(const struct settings *set)
{
	enum job_kind best = JOB_KINDS;

	if (!left(set, JOB_PAIR) && !left(set, JOB_STEM))
		return best;
	for (enum job_kind kind = 0; kind < JOB_KINDS; kind++)
		if (left(set, kind) && (best == JOB_KINDS || shared->spent_us[kind] * set->share[best] <
							     shared->spent_us[best] * set->share[kind]))
			best = kind;
	return best;
}

/* A stem goes with its triples. */
static void work_piece(const struct settings *set, struct worker *w, enum job_kind kind, uint64_t i)
{
	struct job stem;

	job_make(&w->job, &set->cfg, kind, i);
	stem = w->job;
	work(set, w);
	for (uint64_t k = 0; kind == JOB_STEM && k < JOBS_STEM_TRIPLES; k++) {
		job_make_triple(&w->job, &set->cfg, &stem, k);
		work(set, w);
	}
}

/* Each piece that is taken is finished, so that what was done is all below the next number. */
static void worker_run(const struct settings *set, struct worker *w, double until)
{
	enum job_kind kind;

	while (now() < until && (kind = pick(set)) != JOB_KINDS) {
		uint64_t i = shared->next[kind]++;
		double from = now();

		if (i >= set->end[kind])
			continue;
		work_piece(set, w, kind, i);
		shared->spent_us[kind] += (uint64_t)((now() - from) * 1e6);
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
		shared->violations++;
		report_violation(&shared->workers[i].job, &set->cfg, &shared->workers[i].place, NULL, why);
		if (now() < until) {
			pids[i] = worker_start(set, i, until);
			if (pids[i] < 0)
				return -errno;
		} else {
			running--;
		}
	}
	return 0;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

#define ULL(x) ((unsigned long long)(x))

static void print_of(const char *what, uint64_t done, uint64_t all)
{
	printf("%llu of %llu %s (%.1f %%), ", ULL(done), ULL(all), what, (double)done * 100 / (double)all);
}

static void print_done(const struct settings *set, double seconds)
{
	printf("explored: ");
	if (set->share[JOB_PAIR])
		print_of("pairs", shared->done[JOB_PAIR] + shared->done[JOB_REPLICA], jobs_count(JOB_PAIR));
	if (set->share[JOB_STEM])
		print_of("triples", shared->done[JOB_TRIPLE], jobs_count(JOB_TRIPLE));
	if (set->share[JOB_STEM])
		printf("stems from %llu to %llu of %llu, ", ULL(set->from), ULL(least(shared->next[JOB_STEM], set->end[JOB_STEM])),
		       ULL(jobs_count(JOB_STEM)));
	printf("%llu random workloads, %llu clusters; %llu cuts, ", ULL(shared->done[JOB_RANDOM]),
	       ULL(shared->done[JOB_CLUSTER]), ULL(shared->cuts));
	printf("%llu sets of stores with every subset and %llu sampled, ", ULL(shared->exhausted), ULL(shared->sampled));
	printf("%llu images, %llu of them recovered, the others known, ", ULL(shared->images), ULL(shared->recovered));
	printf("%.1f seconds, %llu violations\n", seconds, ULL(shared->violations));
}

static int explore(const struct settings *set)
{
	double from = now(), until = set->seconds ? from + set->seconds : from + 1e9;
	pid_t pids[WORKERS];

	shared->next[JOB_STEM] = set->from;
	for (unsigned i = 0; i < WORKERS; i++) {
		pids[i] = worker_start(set, i, until);
		EXPLORE_MUST(pids[i] < 0 ? -errno : 0);
	}
	EXPLORE_MUST(workers_wait(set, pids, until));
	print_done(set, now() - from);
	return shared->violations ? 1 : 0;
}

static int explore_only(const struct settings *set)
{
	struct worker *w = &shared->workers[0];

	if (log_open("explore", "/dev/null", LOG_LEVEL_ERROR) || job_parse(&w->job, &set->cfg, set->only)) {
		fprintf(stderr, "explore: no such workload: %s\n", set->only);
		return 2;
	}
	if (work(set, w))
		return 1;
	report_workload(&w->job);
	printf("explored: %llu cuts, %llu images, %llu of them recovered, 0 violations\n", ULL(shared->cuts),
	       ULL(shared->images), ULL(shared->recovered));
	return 0;
}

/* ---------------------------------------------------------------- main */

static int usage(void)
{
	fprintf(stderr, "usage: explore [--seconds N] [--pairs | --triples [--from N] [--count N]] [--seed N] [--full]\n"
		"               [--planted NAME | --planted-all]\n"
		"               [--only pair:N|replica:N|stem:N|triple:N|random:SEED|cluster:N|case:NAME]\nplanted: ");
	plants_print_names();
	return 2;
}

/* Only pairs, or only stems. */
static void only_kind(struct settings *set, enum job_kind only)
{
	for (enum job_kind kind = 0; kind < JOB_KINDS; kind++)
		set->share[kind] = kind == only;
}

static int parse_options(int argc, char **argv, struct settings *set, uint64_t *count)
{
	static const struct option options[] = {
		{ "seconds", 1, NULL, 's' }, { "seed", 1, NULL, 'r' }, { "only", 1, NULL, 'o' }, { "full", 0, NULL, 'f' },
		{ "pairs", 0, NULL, 'b' }, { "triples", 0, NULL, 't' }, { "from", 1, NULL, 'm' }, { "count", 1, NULL, 'n' },
		{ "planted", 1, NULL, 'p' }, { "planted-all", 0, NULL, 'a' }, { 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's': set->seconds = (unsigned)strtoul(optarg, NULL, 10); break;
		case 'r': set->cfg.seed = strtoull(optarg, NULL, 10); break;
		case 'o': set->only = optarg; break;
		case 'f': set->cfg.full = true; break;
		case 'b': only_kind(set, JOB_PAIR); break;
		case 't': only_kind(set, JOB_STEM); break;
		case 'm': set->from = strtoull(optarg, NULL, 10); break;
		case 'n': *count = strtoull(optarg, NULL, 10); break;
		case 'a': set->planted_all = true; break;
		case 'p': set->planted = optarg; break;
		default: return -EINVAL;
		}
	}
	return optind == argc ? 0 : -EINVAL;
}

static int parse(int argc, char **argv, struct settings *set)
{
	uint64_t count = UINT64_MAX;
	int err = parse_options(argc, argv, set, &count);

	for (enum job_kind kind = 0; kind < JOB_KINDS; kind++)
		set->end[kind] = jobs_count(kind);
	if (err || set->from > set->end[JOB_STEM] || (set->planted && !plants_bug(set->planted)))
		return -EINVAL;
	if (count < set->end[JOB_STEM] - set->from)
		set->end[JOB_STEM] = set->from + count;
	if (set->planted)
		set->cfg.bug = *plants_bug(set->planted);
	return 0;
}

int main(int argc, char **argv)
{
	struct settings set = { .seconds = SECONDS_DEFAULT, .cfg = { .seed = 1, .bug = JOB_NO_BUG }, .share = SHARES };
	int result;

	if (parse(argc, argv, &set))
		return usage();
	(void)mallopt(M_MMAP_THRESHOLD, 8 << 20); /* no page faults for the buffers of each recovery */
	(void)mallopt(M_TRIM_THRESHOLD, 64 << 20);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	EXPLORE_MUST(shared == MAP_FAILED ? -errno : 0);
	jobs_init();
	if (set.only)
		result = explore_only(&set);
	else if (set.planted_all || set.planted)
		result = plants_find(set.planted, set.cfg.seed, PLANTED_SECONDS);
	else
		result = explore(&set);
	jobs_fini();
	return result;
}
