/* See plants.h. A workload made for the rule comes first; when that shows nothing, those of the ordinary exploration in their
 * order until time is up. A bug is found when a workload breaks the contract, or dies of it. */
#include "plants.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "log.h"

#define HINTS_MAX 2u

static const struct planted {
	const char *name;
	struct job_bug bug;
	const char *hints[HINTS_MAX];
} planted[] = {
	/* Each fence there is, one for each point of persist.h. A call that goes on to another fence before it answers still keeps
	 * what its header promises: those of format superblocks, page, write, repair, header and user are cut right behind it.
	 * The second superblock's is not needed for a crash (appending fences before it stores to the ring): it is what makes
	 * one superblock enough when the other one rots, and what the ring's free space is counted by. */
	{ "clear-fence", { PLANT_NONE, PM_POINT_CLEAR }, { "case:format" } },
	{ "format-fence", { PLANT_NONE, PM_POINT_FORMAT }, { "case:format" } },
	{ "format-sb-fence", { PLANT_NONE, PM_POINT_FORMAT_SB }, { "case:format" } },
	{ "data-fence", { PLANT_NONE, PM_POINT_DATA }, { "case:overwrite" } },
	{ "record-fence", { PLANT_NONE, PM_POINT_RECORD }, { "case:names" } },
	{ "replay-fence", { PLANT_NONE, PM_POINT_REPLAY }, { "case:hands" } },
	{ "superblock-fence", { PLANT_NONE, PM_POINT_SUPERBLOCK }, { "case:checkpoint" } },
	{ "superblock-2-fence", { PLANT_NONE, PM_POINT_SUPERBLOCK_2 }, { "case:checkpoint" } },
	{ "page-fence", { PLANT_NONE, PM_POINT_PAGE }, { "case:page" } },
	{ "resync-fence", { PLANT_NONE, PM_POINT_RESYNC }, { "case:restored" } },
	{ "write-fence", { PLANT_NONE, PM_POINT_WRITE }, { "case:brought" } },
	{ "repair-fence", { PLANT_NONE, PM_POINT_REPAIR }, { "case:repair" } },
	{ "header-fence", { PLANT_NONE, PM_POINT_HEADER }, { "case:headers" } },
	{ "user-fence", { PLANT_NONE, PM_POINT_USER }, { "case:persist" } },
	/* Rules: */
	{ "record-checksum", { PLANT_CSUM, TRACE_DROP_NONE }, { "case:names", "case:overwrite" } },
	{ "reuse", { PLANT_REUSE, TRACE_DROP_NONE }, { "case:freed" } },
	{ "abandoned-push", { PLANT_PUSH, TRACE_DROP_NONE }, { "case:abandoned" } },
	{ "replay-freed", { PLANT_REPLAY, TRACE_DROP_NONE }, { "case:replayed" } },
	{ "freeze", { PLANT_FREEZE, TRACE_DROP_NONE }, { "case:overwrite" } },
	{ "rename-link", { PLANT_RENAME, TRACE_DROP_NONE }, { "case:rename" } },
	{ "chmod-link", { PLANT_CHMOD, TRACE_DROP_NONE }, { "case:chmod" } },
	{ "directory", { PLANT_DIR, TRACE_DROP_NONE }, { "case:names" } },
	{ "restore-epoch", { PLANT_EPOCH, TRACE_DROP_NONE }, { "case:restored" } },
	{ "membership", { PLANT_MEMBER, TRACE_DROP_NONE }, { "case:lost" } },
	{ "min-replicas", { PLANT_RULE, TRACE_DROP_NONE }, { "case:rule" } },
	{ "wait", { PLANT_WAIT, TRACE_DROP_NONE }, { "case:lost" } },
	{ "checkpoint-limit", { PLANT_LIMIT, TRACE_DROP_NONE }, { "case:away" } },
	{ "history", { PLANT_CHAIN, TRACE_DROP_NONE }, { "case:ahead-without" } },
	{ "copy-fence", { PLANT_FENCED, TRACE_DROP_NONE }, { "case:lost" } },
	{ "restore-proof", { PLANT_PROOF, TRACE_DROP_NONE }, { "case:away" } },
	{ "mark", { PLANT_MARK, TRACE_DROP_NONE }, { "case:lost" } },
	{ "restore-content", { PLANT_HEAL, TRACE_DROP_NONE }, { "case:away" } },
	{ "pulled-content", { PLANT_PULL, TRACE_DROP_NONE }, { "case:ahead-rot" } },
	{ "sent-content", { PLANT_SENT, TRACE_DROP_NONE }, { "case:away-rot" } },
	{ "shown-content", { PLANT_READ, TRACE_DROP_NONE }, { "case:away-rot" } },
	{ "slot", { PLANT_SLOT, TRACE_DROP_NONE }, { "case:checkpoint" } },
	{ "summary", { PLANT_SUMMARY, TRACE_DROP_NONE }, { "case:names" } },
	{ "last-change", { PLANT_CHANGED, TRACE_DROP_NONE }, { "case:lost" } },
	{ "orphan", { PLANT_ORPHAN, TRACE_DROP_NONE }, { "case:open" } },
};
#define PLANTED_COUNT (sizeof(planted) / sizeof(*planted))

struct verdict { /* in memory that outlives the process that looks */
	bool found;
	unsigned workloads;
	double seconds;
	char job[40], why[160];
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static bool shows(const struct job *job, const struct job_cfg *cfg, struct verdict *v)
{
	static char why[CHECK_WHY_BYTES];
	struct cuts_place place;
	struct cuts_stats stats = { 0 };
	const struct run *run;

	v->workloads++;
	snprintf(v->job, sizeof(v->job), "%s", job->name);
	snprintf(v->why, sizeof(v->why), "the process died");
	if (!job_run(job, cfg, &stats, &place, why, &run))
		return false;
	snprintf(v->why, sizeof(v->why), "%.*s", (int)strcspn(why, "\n"), why);
	return true;
}

/* Of a process of its own. */
static void look(const struct planted *p, uint64_t seed, unsigned seconds, struct verdict *v)
{
	struct job_cfg cfg = { .seed = seed, .bug = p->bug };
	double until = now() + seconds;
	struct job job;

	for (unsigned i = 0; i < HINTS_MAX && p->hints[i]; i++) {
		EXPLORE_MUST(job_parse(&job, &cfg, p->hints[i]));
		if (shows(&job, &cfg, v))
			_exit(1);
	}
	for (uint64_t n = 0; now() < until; n++) {
		job_make_any(&job, &cfg, n);
		if (shows(&job, &cfg, v))
			_exit(1);
	}
	_exit(0);
}

static pid_t look_start(const struct planted *p, uint64_t seed, unsigned seconds, struct verdict *v)
{
	pid_t pid;
	int null;

	fflush(NULL);
	pid = fork();
	EXPLORE_MUST(pid < 0 ? -errno : 0);
	if (pid)
		return pid;
	null = open("/dev/null", O_WRONLY); /* a failed assertion is a finding like any other */
	if (log_open("explore", "/dev/null", LOG_LEVEL_ERROR) || null < 0 || dup2(null, STDERR_FILENO) < 0)
		_exit(0);
	look(p, seed, seconds, v);
	_exit(0);
}

static void verdict_print(const struct planted *p, const struct verdict *v)
{
	if (v->found)
		printf("planted %-16s caught by %s, workload %u, %.1f s: %s\n", p->name, v->job, v->workloads, v->seconds, v->why);
	else
		printf("planted %-16s NOT CAUGHT by %u workloads\n", p->name, v->workloads);
}

/* Waits for the end of one of them. */
static void reap(const struct planted *const *list, pid_t *pids, double *from, struct verdict *verdicts, size_t count)
{
	int status;
	pid_t pid = wait(&status);
	size_t i = 0;

	EXPLORE_MUST(pid < 0 ? -errno : 0);
	while (i < count && pids[i] != pid)
		i++;
	EXPLORE_MUST(i == count ? -ECHILD : 0);
	verdicts[i].found = status != 0;
	verdicts[i].seconds = now() - from[i];
	verdict_print(list[i], &verdicts[i]);
}

int plants_find(const char *name, uint64_t seed, unsigned seconds_each)
{
	const struct planted *list[PLANTED_COUNT];
	pid_t pids[PLANTED_COUNT];
	double from[PLANTED_COUNT], begin = now();
	size_t count = 0, started = 0, ended = 0, found = 0;
	struct verdict *verdicts = mmap(NULL, sizeof(*verdicts) * PLANTED_COUNT, PROT_READ | PROT_WRITE,
					MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	EXPLORE_MUST(verdicts == MAP_FAILED ? -errno : 0);
	for (size_t i = 0; i < PLANTED_COUNT; i++)
		if (!name || !strcmp(name, planted[i].name))
			list[count++] = &planted[i];
	for (; ended < count; ended++) {
		for (; started < count && started < ended + PLANTS_WORKERS; started++) {
			from[started] = now();
			pids[started] = look_start(list[started], seed, seconds_each, &verdicts[started]);
		}
		reap(list, pids, from, verdicts, started);
	}
	for (size_t i = 0; i < count; i++)
		found += verdicts[i].found;
	munmap(verdicts, sizeof(*verdicts) * PLANTED_COUNT);
	printf("planted bugs: %zu of %zu caught, %.1f seconds\n", found, count, now() - begin);
	return found < count;
}

const struct job_bug *plants_bug(const char *name)
{
	for (size_t i = 0; i < PLANTED_COUNT; i++)
		if (!strcmp(name, planted[i].name))
			return &planted[i].bug;
	return NULL;
}

void plants_print_names(void)
{
	for (size_t i = 0; i < PLANTED_COUNT; i++)
		fprintf(stderr, "%s%s", i ? ", " : "", planted[i].name);
	fprintf(stderr, "\n");
}
