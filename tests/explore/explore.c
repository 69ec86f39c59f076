/* The crash-state explorer: explore [--seconds N] [--pairs] [--seed N] [--only JOB] [--planted NAME | --planted-all] [--full]
 *
 *   trace.c     events of the pools of one run        run.c, session.c  a workload on a real core, traced
 *   image.c     crash images of one pool              view.c            a file system as text
 *   model.c     what may be found after a crash       check.c           recovery of one image, and what is asked of it
 *   workload.c  what is run                           cuts.c            which images are looked at
 *   cluster.c, cluster_cuts.c                         a primary and two replicas: losses, remounts, restores, crashes of all
 *   jobs.c      workloads by number and name          plants.c          bugs it has to find
 *   report.c    a violation in words                  minimise.c        the shortest workload that shows one
 *
 * Ends after --seconds; 0: when every pair and every triple was explored; --pairs: at the latest when every pair was.
 * --full takes many more images of each. Two processes share the work; one that dies or hangs in an image counts as a
 * violation. Exit status 1 if there was one, or if a planted bug was not found. A violation is seen again with the seed and --only JOB, that of a planted bug with its
 * name as well. */
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
	_Atomic uint64_t next, cuts, images, violations, done[JOB_KINDS];
	_Atomic bool stop;
	struct worker workers[WORKERS];
};

struct settings {
	unsigned seconds;
	struct job_cfg cfg;
	const char *only, *planted;
	bool pairs, planted_all;
};

static struct shared *shared;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---------------------------------------------------------------- work */

/* 0, or -1 after a violation. */
static int work(const struct settings *set, struct worker *w)
{
	static char why[CHECK_WHY_BYTES];
	struct cuts_stats stats = { 0 };
	const struct run *run;
	int err = job_run(&w->job, &set->cfg, &stats, &w->place, why, &run);

	shared->done[w->job.kind]++;
	shared->cuts += stats.cuts;
	shared->images += stats.images;
	if (err) {
		shared->violations++;
		report_violation(&w->job, &set->cfg, &w->place, run, why);
	}
	return err;
}

/* Every pair and, unless those are all that is wanted, every triple. */
static bool all_done(const struct settings *set)
{
	return shared->done[JOB_PAIR] + shared->done[JOB_REPLICA] >= jobs_pairs() &&
	       (set->pairs || shared->done[JOB_TRIPLE] >= jobs_triples());
}

static void worker_run(const struct settings *set, struct worker *w, double until)
{
	while (!shared->stop && now() < until && !all_done(set)) {
		job_make(&w->job, &set->cfg, shared->next++);
		work(set, w);
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

static void print_done(double seconds)
{
	uint64_t pairs = shared->done[JOB_PAIR] + shared->done[JOB_REPLICA], triples = shared->done[JOB_TRIPLE];

	printf("explored: %llu of %llu pairs (%.1f %%), %llu of %llu triples (%.3f %%), %llu random workloads, %llu clusters; "
	       "%llu cuts, %llu images, %.1f seconds, %llu violations\n", (unsigned long long)pairs, (unsigned long long)jobs_pairs(),
	       (double)pairs * 100 / (double)jobs_pairs(), (unsigned long long)triples, (unsigned long long)jobs_triples(),
	       (double)triples * 100 / (double)jobs_triples(), (unsigned long long)shared->done[JOB_RANDOM],
	       (unsigned long long)shared->done[JOB_CLUSTER],
	       (unsigned long long)shared->cuts, (unsigned long long)shared->images, seconds,
	       (unsigned long long)shared->violations);
}

static int explore(const struct settings *set)
{
	double from = now(), until = set->seconds ? from + set->seconds : from + 1e9;
	pid_t pids[WORKERS];

	for (unsigned i = 0; i < WORKERS; i++) {
		pids[i] = worker_start(set, i, until);
		EXPLORE_MUST(pids[i] < 0 ? -errno : 0);
	}
	EXPLORE_MUST(workers_wait(set, pids, until));
	print_done(now() - from);
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
	printf("explored: %llu cuts, %llu images, 0 violations\n", (unsigned long long)shared->cuts,
	       (unsigned long long)shared->images);
	return 0;
}

/* ---------------------------------------------------------------- main */

static int usage(void)
{
	fprintf(stderr, "usage: explore [--seconds N] [--pairs] [--seed N] [--full] [--planted NAME | --planted-all]\n"
		"               [--only pair:N|replica:N|triple:N|random:SEED|cluster:N|case:NAME]\nplanted: ");
	plants_print_names();
	return 2;
}

static int parse(int argc, char **argv, struct settings *set)
{
	static const struct option options[] = {
		{ "seconds", 1, NULL, 's' }, { "seed", 1, NULL, 'r' }, { "only", 1, NULL, 'o' }, { "full", 0, NULL, 'f' },
		{ "pairs", 0, NULL, 'b' },
		{ "planted", 1, NULL, 'p' }, { "planted-all", 0, NULL, 'a' }, { 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's': set->seconds = (unsigned)strtoul(optarg, NULL, 10); break;
		case 'r': set->cfg.seed = strtoull(optarg, NULL, 10); break;
		case 'o': set->only = optarg; break;
		case 'f': set->cfg.full = true; break;
		case 'b': set->pairs = true; break;
		case 'a': set->planted_all = true; break;
		case 'p': set->planted = optarg; break;
		default: return -EINVAL;
		}
	}
	if (optind != argc || (set->planted && !plants_bug(set->planted)))
		return -EINVAL;
	if (set->planted)
		set->cfg.bug = *plants_bug(set->planted);
	return 0;
}

int main(int argc, char **argv)
{
	struct settings set = { .seconds = SECONDS_DEFAULT, .cfg = { .seed = 1, .bug = JOB_NO_BUG } };
	int result;

	if (parse(argc, argv, &set))
		return usage();
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
