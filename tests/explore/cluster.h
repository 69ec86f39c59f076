/* A primary and two replicas under the real policy: links that are lost and come back, remounts, restores; traced like a run of
 * one pool, and started again from any state the three pools may be in. */
#ifndef RPMEMFS_TESTS_EXPLORE_CLUSTER_H
#define RPMEMFS_TESTS_EXPLORE_CLUSTER_H

#include "fs/restore.h"
#include "run_impl.h"
#include "tests/support/sim_link.h"

#define CLUSTER_REPLICAS 2u

/* One machine that mounts, or may. */
struct primary {
	struct poolset *set;
	char part[64];
	struct pool *pool;
	struct replication *r;
	struct session s;   /* its core, and what the model knows */
	uint64_t acked;     /* newest for which the members were looked at */
	int bad;            /* the membership rule was broken; errmsg text in s.why */
};

/* A directory for the local pools, and its end: by the process that starts all others. */
void cluster_init(void);
void cluster_fini(void);

/* The pools as they were made, for every run. bytes: TRACE_POOLS of them. */
void cluster_start(const uint8_t *bytes[TRACE_POOLS], const struct model **model);

/* Runs the workload, and a takeover behind it. 0, or -1 with run->why. */
int cluster_workload(struct run *run, const struct workload *w, enum pm_point drop);

/* --- for cluster_cuts.c: what is in the pools is mounted as it is --- */

struct primary *cluster_primary(void);
struct sim_target *cluster_target(unsigned i);
/* Puts bytes in place of a pool; NULL: the local one is lost. No session may be under way. */
void cluster_put(enum trace_pool pool, const uint8_t *bytes);
/* 0 or the error of the step that failed, in errmsg. away: bit i: replica i is not reached. */
int primary_mount(struct primary *p, unsigned away);
void primary_kill(struct primary *p);
int primary_restore(struct primary *p, bool replace, unsigned away);
/* Until nothing moves. */
void primary_settle(struct primary *p);
/* All replicas can be reached again, and it notices. Every link is cut. */
void primary_return(struct primary *p);
void primary_lose(struct primary *p);
/* Looks at who has what after an acknowledgement: -1 with p->s.why. */
int primary_members(struct primary *p);
/* Whether the longer one has the history of the other: as far as both rings tell. */
enum history { HISTORY_SAME, HISTORY_DIFFERS, HISTORY_UNKNOWN };
enum history cluster_histories(const struct copy *a, const struct copy *b);
/* What happens to the pools goes to the trace, with the fences left out that the workload left out. */
void cluster_watch(struct trace *trace);
void cluster_unwatch(void);
#endif
