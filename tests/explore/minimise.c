/* See minimise.h. */
#include "minimise.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TRY_SECONDS 60u

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void try_child(const struct job *job, const struct job_cfg *cfg)
{
	static char why[CHECK_WHY_BYTES];
	struct cuts_place place;
	struct cuts_stats stats;
	const struct run *run;
	int null = open("/dev/null", O_WRONLY);

	if (null >= 0)
		dup2(null, STDERR_FILENO);
	_exit(job_run(job, cfg, &stats, &place, why, &run) ? 1 : 0);
}

/* Whether the job breaks the contract, or dies. */
static bool breaks(const struct job *job, const struct job_cfg *cfg)
{
	pid_t pid = fork();
	int status = 0;

	EXPLORE_MUST(pid < 0 ? -errno : 0);
	if (pid == 0)
		try_child(job, cfg);
	for (unsigned tick = 0; tick < TRY_SECONDS * 100; tick++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status != 0;
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return false;
}

static void drop_op(struct workload *w, unsigned i)
{
	memmove(&w->ops[i], &w->ops[i + 1], (w->count - i - 1) * sizeof(*w->ops));
	w->count--;
	w->quiet -= w->quiet > i;
}

void minimise(struct job *job, const struct job_cfg *cfg, unsigned seconds)
{
	double until = now() + seconds;
	bool shorter = true;

	while (shorter) {
		shorter = false;
		for (unsigned i = job->workload.count; i-- > 0 && now() < until;) {
			struct job one = *job;

			drop_op(&one.workload, i);
			if (!breaks(&one, cfg))
				continue;
			*job = one;
			shorter = true;
		}
		shorter &= now() < until;
	}
}
