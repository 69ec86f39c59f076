/* Shared by rpmemd/engine.c (life, checkpoint, messages, plain requests) and rpmemd/engine_commit.c (commits of a copy). */
#ifndef RPMEMFS_RPMEMD_ENGINE_IMPL_H
#define RPMEMFS_RPMEMD_ENGINE_IMPL_H

#include <pthread.h>
#include "codec.h"
#include "engine.h"

#define ENGINE_STEP_SHARE 64u     /* a checkpoint step beside commits takes at most ring_bytes / this */
#define ENGINE_FULL_SHARE 4u      /* ... and one that a commit has to wait for ring_bytes / this */

struct train {
	bool open;
	unsigned lane;
	int err; /* why it is refused, 0 while it is not */
	uint64_t arg;
	uint32_t have, len;
};

/* Of a plain pool the lane's own, else protected by the lock. */
struct engine_lane {
	uint64_t seq;
	uint32_t silent;      /* messages of the train of writes under way */
	int train_err;        /* the first error among them */
	struct pm pm;         /* plain pools, from the first message on */
};

/* Who may msync, and for whom; see engine_sync.c. */
struct engine_sync {
	pthread_mutex_t lock; /* protects the rest */
	pthread_cond_t over;  /* a turn is */
	bool turn;            /* somebody has it */
	struct pm waiting;    /* ranges that the next fence takes */
	uint64_t next, done;  /* fences: number of the next one, and of the newest that is over */
};

struct engine {
	struct engine_cfg cfg; /* but for the copy constant */
	bool plain;
	struct pm plain_pm;    /* what a lane's view of a plain pool begins as */
	uint64_t rx_bytes, rx_msgs; /* atomic */
	int failed;           /* atomic */
	struct engine_sync sync;
	pthread_mutex_t lock; /* copies: protects the copy and everything below */
	uint64_t settled;
	uint64_t last_ms;     /* of the newest request, coarse */
	int checkpoint_err;
	struct train train;
	uint8_t *rec;         /* copies: LANE_RECORD_BYTES_MAX, aligned; touched only as far as records reach */
	struct engine_lane lanes[WIRE_LANES_MAX];
};

/* One request on its way. */
struct call {
	struct engine *e;
	unsigned lane;
	struct pm *pm;
	struct lane_view v;
	void *read_buf;
	uint32_t read_bytes;
};

/* The medium failed: every later request is refused with this. 0: it has not. */
static inline int engine_failed(const struct engine *e)
{
	return __atomic_load_n(&e->failed, __ATOMIC_ACQUIRE);
}

static inline void engine_fail(struct engine *e, int err)
{
	__atomic_store_n(&e->failed, err, __ATOMIC_RELEASE);
}

/* --- of engine.c; a copy's, under the lock --- */
void engine_settle(struct engine *e, uint64_t seq);
bool engine_settle_pending(const struct engine *e);
int engine_checkpoint_step(struct engine *e, uint64_t bytes_max);
uint64_t engine_ring_share(const struct engine *e, unsigned share);
/* Space behind ranges that are to be touched; of a copy behind its whole groups. -ENOSPC. */
int engine_range_back(const struct engine *e, uint64_t off, uint64_t len);
int engine_ranges_back(const struct engine *e, const struct lane_view *v);
/* Stores a message's ranges. words: librpmem's promise that aligned words of 8 bytes are old or new. */
void engine_ranges_store(struct pm *pm, const struct lane_view *v, bool words);

/* --- of engine_sync.c --- */
void engine_sync_init(struct engine *e);
void engine_sync_fini(struct engine *e);
/* Begins what must not run beside an msync of another thread. -EIO: the medium failed before. */
int engine_turn_begin(struct engine *e);
/* Ends it, returns err; -EIO fails the engine. */
int engine_turn_end(struct engine *e, int err);
/* Makes durable what a lane of a plain pool has stored and flushed. */
int engine_plain_fence(struct call *c);
/* Behind a fence: gets the request's ranges out of the platform's own buffers. */
int engine_deep(struct call *c);

/* --- of engine_commit.c --- */
/* LANE_COMMIT: one message of it. */
int engine_commit(struct call *c);

#endif
