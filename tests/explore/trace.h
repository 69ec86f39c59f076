/* What happened to the pools of one run, in order: every store, flush and fence, what went over the link to the replica,
 * and where the workload stood. The explorer cuts between any two events. */
#ifndef RPMEMFS_TESTS_EXPLORE_TRACE_H
#define RPMEMFS_TESTS_EXPLORE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/vec.h"
#include "persist.h"

enum trace_pool { TRACE_LOCAL, TRACE_REPLICA, TRACE_REPLICA_2, TRACE_POOLS };

enum trace_type {
	TRACE_STORE,  /* bytes at off, their write-back started */
	TRACE_PUSH,   /* bytes at off put there by a one-sided write: durable only after a flush and a fence */
	TRACE_FLUSH,  /* write-back of pushed bytes started */
	TRACE_FENCE,
	TRACE_POST,   /* commit `op` handed to the link */
	TRACE_ANSWER, /* the replica answered for commit `op` */
	TRACE_OP,     /* operation `op` of the workload begins */
	TRACE_WIPE,   /* the pool was made anew: zeros */
	TRACE_ACK,    /* the sync that is operation `op` was acknowledged */
	TRACE_TYPES
};

struct trace_event {
	enum trace_type type;
	enum trace_pool pool;
	enum pm_point point; /* FENCE */
	uint64_t off, len;
	size_t bytes;        /* STORE, PUSH: where in the arena */
	uint64_t op;
};

struct trace {
	VEC(struct trace_event) events;
	VEC(uint8_t) arena;
};

#define TRACE_DROP_NONE PM_POINT_COUNT

/* Watches one pool. Fences of the point `drop` are left out, as a planted bug. */
struct trace_watch {
	struct trace *trace;
	enum trace_pool pool;
	enum pm_point drop;
	uint64_t dropped;
	const struct pm *pm; /* NULL: whichever is opened, not known here */
	size_t fenced;       /* events before the newest fence of this pool */
	struct pm_observer observer;
};

void trace_watch(struct trace_watch *watch, struct trace *trace, enum trace_pool pool, enum pm_point drop, struct pm *pm);
void trace_clear(struct trace *trace);
void trace_free(struct trace *trace);
void trace_push(struct trace *trace, enum trace_pool pool, uint64_t off, const void *bytes, uint64_t len);
/* POST, ANSWER, OP, ACK. */
void trace_mark(struct trace *trace, enum trace_type type, uint64_t op);
void trace_wipe(struct trace *trace, enum trace_pool pool);

const char *trace_type_name(enum trace_type type);
const char *trace_point_name(enum pm_point point);
/* The point of that name; TRACE_DROP_NONE: no such point. */
enum pm_point trace_point_parse(const char *name);

/* Aborts: the explorer goes on only with what it has recorded whole. */
#define EXPLORE_MUST(expr) explore_must((expr), #expr)
void explore_must(int err, const char *what);

#endif
