/* A handle of librpmem: the session with the target, its replacement when it is lost, and the lanes.
 *
 *   session:  STANDS --a lane or PING fails--> LOST --some call re-establishes it--> STANDS (next serial)
 *                                               `--bound passed, or another pool--> FAILED, for good
 *
 * All of that is one atomic word, so that a thread on its lane looks at nothing else: as long as the word is the one
 * its lane was connected under, the lane is good. Everything else about sessions happens under the handle's lock, on
 * the slow path; who waits there waits for the one thread that is replacing the session.
 *
 * A lane (struct rlane) belongs to one thread at a time. Its connection uses a route, which outlives the session it
 * came with until the last lane has let go of it: an idle lane notices a replacement only when it is used again. */
#ifndef RPMEMFS_RPMEM_RPOOL_H
#define RPMEMFS_RPMEM_RPOOL_H

#include <pthread.h>
#include <stdatomic.h>
#include "errmsg.h"
#include "librpmem.h"
#include "rpmem_env.h"
#include "session.h"

#define RPOOL_OPEN_MS 30000u
#define RPOOL_DEBTS_MAX LANE_RANGES_MAX   /* ranges of a lane that are not known to be durable */
#define RPOOL_RANGE_BYTES_MAX (1u << 30)  /* of one of them */

/* The state word. */
#define RPOOL_LOST 1u
#define RPOOL_FAILED 2u
#define RPOOL_SERIAL 4u /* one session */

/* The way to the lanes of one session. */
struct route {
	struct fab *fab;
	struct ctl_session info;
	unsigned refs; /* under the handle's lock */
};

enum debt_kind { DEBT_ATOMIC, DEBT_RELAXED, DEBT_DEEP };

/* What a lane owes: ranges flushed and not known to be durable, in order. Sent again whole when the session was
 * replaced. */
struct debts {
	struct repl_range ranges[RPOOL_DEBTS_MAX];
	uint8_t kinds[RPOOL_DEBTS_MAX]; /* enum debt_kind */
};

struct rlane {
	_Alignas(64) struct rpmem_pool *pool;
	struct lane *lane;      /* NULL: not connected */
	uint64_t state;         /* the word it was connected under; 0: not connected */
	struct debts *debts;    /* NULL until first used */
	unsigned count, posted; /* debts; those that were given to the lane */
	uint64_t gathered;      /* inline bytes of those that were not */
	bool dead;              /* the step under way met the connection's end */
	bool draining;          /* rpmem_drain_start */
	int refused;            /* what the target answered to flushed ranges before the drain that tells it */
	bool behind;            /* APM: one-sided writes were posted and no read behind them */
	uint64_t behind_off;
	uint64_t bound_ns;      /* when reconnecting ends; 0: nothing was lost since the last success */
	uint8_t scratch[8];     /* APM: what was read behind */
	unsigned index;
	struct route *route;
	int epoll_fd, event_fd; /* rpmem_lane_fd; -1: nobody asked. event_fd under the handle's lock */
};

struct rpmem_pool {
	/* constant */
	struct session_cfg cfg;         /* of replacements; its strings are below */
	char *set_name, *command, provider[16];
	char name[700];                 /* for messages: target and set */
	char *base;
	uint64_t size, remote_size;
	uint64_t floor;                 /* least offset that may be written */
	uint32_t notice_ms, reconnect_ms;
	unsigned window, lane_count;
	uint8_t incarnation[16];
	uint32_t method, domain;

	_Atomic uint64_t state;         /* written under lock */
	_Atomic unsigned connected;     /* lanes */
	bool cancel;                    /* atomic: ends the control request under way */

	pthread_mutex_t control;        /* first: the session's channel */
	pthread_mutex_t lock;           /* second: everything below */
	pthread_cond_t changed;
	struct session *session;        /* NULL while LOST and given up */
	struct route *route;
	bool recovering, wanted;
	bool stop;                      /* atomic as well: no lock while waiting for a target */
	uint64_t reconnections;
	int err;                        /* FAILED: why */
	char cause[256], text[ERRMSG_BYTES_MAX];
	pthread_t monitor;
	struct rlane lanes[];
};

/* ---------------------------------------------------------------- rpool.c: life. Negative errnos, errmsg set */
struct rpool_cfg {
	const char *target, *set_name;
	void *base;
	uint64_t size;
	unsigned lanes;
	bool create;
	const struct rpmem_pool_attr *attr; /* NULL: none */
};
int rpool_open(const struct rpool_cfg *cfg, struct rpmem_pool **out, struct rpmem_pool_attr *attr);
int rpool_close(struct rpmem_pool *pool);
int rpool_remove(const char *target, const char *set_name, unsigned flags);
void rpool_attr_put(const struct rpmem_pool_attr *attr, struct ctl_attr *msg);

/* ---------------------------------------------------------------- rpool_session.c: sessions and their loss */
/* The session's route under *state, replaced first when it is lost: until bound_ns at most, after which the handle
 * fails. bound_ns 0: nothing is waited for, 1 when it is lost. Given back by rpool_route_put. Negative errno: the
 * handle has failed. */
int rpool_route_get(struct rpmem_pool *pool, uint64_t bound_ns, struct route **route, uint64_t *state);
void rpool_route_put(struct rpmem_pool *pool, struct route *route);
/* The session known by that word is lost; errmsg says why. Nothing, if it has been replaced already. */
void rpool_lost(struct rpmem_pool *pool, uint64_t state);
/* Fails the handle, for the first time only. Returns its error, errmsg set. */
int rpool_fail(struct rpmem_pool *pool, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The error of a handle that has failed, with errmsg. */
int rpool_error(struct rpmem_pool *pool);
/* Has the monitor replace a lost session; the lanes' descriptors wake when that is over. */
void rpool_want(struct rpmem_pool *pool);
int rpool_set_attr(struct rpmem_pool *pool, const struct rpmem_pool_attr *attr);
/* Takes a session over as the handle's: the first, or another one. */
int rpool_adopt(struct rpmem_pool *pool, struct session *session);
void *rpool_monitor(void *pool);
uint64_t rpool_bound(const struct rpmem_pool *pool);

/* ---------------------------------------------------------------- rpool_lane.c: data. Arguments are checked before */
void rlane_init(struct rpmem_pool *pool, unsigned index);
void rlane_fini(struct rlane *rl); /* may be repeated */
int rlane_connect(struct rlane *rl); /* ready for use, whatever it takes */
int rlane_flush(struct rlane *rl, uint64_t off, uint64_t len, enum debt_kind kind);
int rlane_drain(struct rlane *rl);
int rlane_read(struct rlane *rl, void *buf, uint64_t off, uint64_t len);

/* The drain that does not wait. 0 done, 1 under way. */
int rlane_drain_begin(struct rlane *rl);
int rlane_drain_step(struct rlane *rl, bool *progress);
int rlane_fd(struct rlane *rl);
/* Makes sure that the lane's descriptor wakes for whatever comes next. False: step again at once. */
bool rlane_may_sleep(struct rlane *rl);

/* ---------------------------------------------------------------- rpool_post.c: debts become operations */
/* Gives debts to the lane as far as it takes them. 1: it is full; 0: all are given. A negative errno with rl->dead: the
 * connection has ended. */
int rlane_post(struct rlane *rl);
/* Behind all debts: what proves the persistence of one-sided writes, if the method has such a thing. As rlane_post. */
int rlane_post_proof(struct rlane *rl);
/* Whether the range goes inside messages. */
bool rlane_inline(const struct rlane *rl, enum debt_kind kind, uint64_t len);

static inline uint64_t rpool_state(const struct rpmem_pool *pool)
{
	return atomic_load_explicit(&pool->state, memory_order_acquire);
}

#endif
