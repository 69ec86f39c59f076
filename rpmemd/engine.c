/* The persist engine: turns checked lane requests into stores, flushes and fences on one pool. Commits of a copy are in
 * rpmemd/engine_commit.c, what has to be synced in rpmemd/engine_sync.c; here are the messages, the checkpoint, plain writes
 * and reads.
 *
 * Lines are applied in place only up to `settled`, the newest sequence the initiator called answered by every attached
 * copy; nothing else moves the tail. A damaged block found on the way stops that for good (checkpoint_err): commits go on
 * while the ring has room. A failed fence fails the engine: every later request is answered WIRE_IO.
 *
 * A plain pool (librpmem) has no record and no order between lanes. There each lane has its own view of the pool (struct pm
 * remembers what a fence has to msync) and its own numbers, and requests of different lanes meet nowhere, but for msync(2):
 * rpmemd/engine_sync.c.
 *
 * No allocation and no log line on the way of a good commit or write. */
#include "engine_impl.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "errmsg.h"
#include "log.h"

#define ENGINE_QUIET_MS 100u      /* without requests for this long counts as idle */
#define FETCH_AHEAD 8u            /* ranges of a message whose memory is fetched before they are stored ... */
#define FETCH_BYTES 512u          /* ... and as much of each; the processor fetches what follows by itself */

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---------------------------------------------------------------- life */

int engine_new(const struct engine_cfg *cfg, struct engine **out)
{
	struct engine *e = calloc(1, sizeof(*e));

	assert(cfg->pm);
	if (!e)
		return -ENOMEM;
	e->plain = !cfg->fs && !cfg->copy;
	if (!e->plain)
		e->rec = aligned_alloc(MEDIA_BLOCK_BYTES, LANE_RECORD_BYTES_MAX);
	if (!e->plain && !e->rec) {
		free(e);
		return -ENOMEM;
	}
	e->cfg = *cfg;
	e->plain_pm = *cfg->pm;
	e->plain_pm.range_count = 0;
	e->last_ms = now_ms();
	pthread_mutex_init(&e->lock, NULL);
	engine_sync_init(e);
	*out = e;
	return 0;
}

void engine_delete(struct engine *e)
{
	if (!e)
		return;
	pthread_mutex_destroy(&e->lock);
	engine_sync_fini(e);
	free(e->rec);
	free(e);
}

void engine_set_copy(struct engine *e, struct copy *copy)
{
	assert(!e->plain);
	e->cfg.copy = copy;
	e->settled = 0;
	e->checkpoint_err = 0;
	e->train = (struct train){ 0 };
}

int engine_locked(struct engine *e, int (*fn)(void *arg), void *arg)
{
	int err;

	if (e->plain) {
		err = engine_turn_begin(e);
		return err ? err : engine_turn_end(e, fn(arg));
	}
	pthread_mutex_lock(&e->lock);
	err = fn(arg);
	pthread_mutex_unlock(&e->lock);
	return err;
}

/* ---------------------------------------------------------------- checkpoint */

/* What every attached copy answered for, this one did as well: more than its head is not believed. */
void engine_settle(struct engine *e, uint64_t seq)
{
	uint64_t head = copy_head(e->cfg.copy).seq;

	if (seq > head)
		seq = head;
	if (seq > e->settled)
		e->settled = seq;
}

/* Something may be applied, and is there to be applied: a copy may have been put back behind what was settled before. */
bool engine_settle_pending(const struct engine *e)
{
	uint64_t tail = copy_tail(e->cfg.copy).seq;

	return !e->checkpoint_err && !engine_failed(e) && tail < e->settled && tail < copy_head(e->cfg.copy).seq;
}

/* One bounded step towards `settled`. Remembers the first error; a failed fence fails the engine. */
int engine_checkpoint_step(struct engine *e, uint64_t bytes_max)
{
	int err = copy_checkpoint(e->cfg.copy, e->settled, bytes_max);

	if (err) {
		log_error("checkpoint: %s", errmsg_get());
		e->checkpoint_err = err;
		if (err == -EIO)
			engine_fail(e, err);
	}
	return err;
}

uint64_t engine_ring_share(const struct engine *e, unsigned share)
{
	return copy_geom(e->cfg.copy)->ring_bytes / share;
}

bool engine_idle(struct engine *e)
{
	bool more = false;

	pthread_mutex_lock(&e->lock);
	if (e->cfg.copy && !e->cfg.read_only && engine_settle_pending(e) &&
	    (now_ms() - e->last_ms >= ENGINE_QUIET_MS || copy_ring_used(e->cfg.copy) > engine_ring_share(e, 4))) {
		engine_checkpoint_step(e, engine_ring_share(e, ENGINE_STEP_SHARE));
		more = engine_settle_pending(e);
	}
	pthread_mutex_unlock(&e->lock);
	return more;
}

/* ---------------------------------------------------------------- ranges */

/* What a resync may overwrite: groups with their tables. Page, superblocks and ring have their own requests. */
static bool ranges_in_groups(const struct media_geom *g, const struct lane_view *v)
{
	for (uint32_t i = 0; i < v->range_count; i++) {
		uint64_t off = le64_get(v->ranges[i].off);

		if (off < media_off(g->group0_blk) || off + le32_get(v->ranges[i].len) > media_off(g->blk_count))
			return false;
	}
	return true;
}

int engine_range_back(const struct engine *e, uint64_t off, uint64_t len)
{
	const struct media_geom *g;
	uint64_t group, last;
	int err = 0;

	if (!e->cfg.pm->populate || !len)
		return 0;
	if (!e->cfg.copy)
		return e->cfg.pm->populate(e->cfg.pm, off, len);
	g = copy_geom(e->cfg.copy);
	last = media_group_of(g, (off + len - 1) >> MEDIA_BLOCK_SHIFT);
	for (group = media_group_of(g, off >> MEDIA_BLOCK_SHIFT); group <= last && !err; group++)
		err = copy_back_group(e->cfg.copy, group);
	return err;
}

int engine_ranges_back(const struct engine *e, const struct lane_view *v)
{
	int err = 0;

	for (uint32_t i = 0; i < v->range_count && e->cfg.pm->populate && !err; i++)
		err = engine_range_back(e, le64_get(v->ranges[i].off), le32_get(v->ranges[i].len));
	return err;
}

/* Small ranges lie far apart, and a processor waits for each by itself unless it is told early. */
static void range_fetch(const struct pm *pm, const struct lane_range_msg *range)
{
	const uint8_t *at = pm_ptr(pm, le64_get(range->off));

	for (uint32_t line = 0; line < le32_get(range->len) && line < FETCH_BYTES; line += 64)
		__builtin_prefetch(at + line, 1);
}

void engine_ranges_store(struct pm *pm, const struct lane_view *v, bool words)
{
	const uint8_t *src = v->payload;

	for (uint32_t i = 0; i < v->range_count && i < FETCH_AHEAD; i++)
		range_fetch(pm, &v->ranges[i]);
	for (uint32_t i = 0; i < v->range_count; i++) {
		uint64_t off = le64_get(v->ranges[i].off);
		uint32_t len = le32_get(v->ranges[i].len);

		if (i + FETCH_AHEAD < v->range_count)
			range_fetch(pm, &v->ranges[i + FETCH_AHEAD]);
		switch (le32_get(v->ranges[i].flags)) {
		case LANE_RANGE_INLINE:
			(words ? pm_write_words : pm_write)(pm, off, src, len);
			src += len;
			break;
		case LANE_RANGE_ZERO: pm_zero(pm, off, len); break;
		default: pm_flush(pm, off, len);
		}
	}
}

/* ---------------------------------------------------------------- other operations */

static int op_ping(struct call *c)
{
	(void)c;
	return 0;
}

static int op_checkpoint(struct call *c)
{
	struct engine *e = c->e;
	int err = 0;

	if (!e->cfg.copy)
		return errmsg_set(-EPERM, "not a copy of a file system");
	engine_settle(e, c->v.arg);
	while (!err && engine_settle_pending(e))
		err = engine_checkpoint_step(e, engine_ring_share(e, ENGINE_STEP_SHARE));
	return err ? err : e->checkpoint_err;
}

/* A message whose answer is that of a later one. */
static bool silent(const struct call *c)
{
	return c->v.op == LANE_WRITE && (c->v.flags & LANE_MORE);
}

static int op_write(struct call *c)
{
	struct engine *e = c->e;
	struct copy *copy = e->cfg.copy;
	int err;

	if (!e->plain && c->v.flags)
		return errmsg_set(-EPROTO, "trains of writes are for plain pools");
	if (e->cfg.fs && !copy)
		return errmsg_set(-EPERM, "not formatted yet");
	if (copy && copy_page(copy)->state != MEDIA_INCONSISTENT)
		return errmsg_set(-EPERM, "a consistent copy changes by commits only");
	if (copy && !ranges_in_groups(copy_geom(copy), &c->v))
		return errmsg_set(-EPROTO, "a range lies outside the groups");
	err = engine_ranges_back(e, &c->v);
	if (err)
		return err;
	engine_ranges_store(c->pm, &c->v, e->plain);
	if (silent(c))
		return 0; /* the fence of the last one is for all */
	return e->plain ? engine_plain_fence(c) : pm_fence(c->pm, PM_POINT_WRITE);
}

static int op_deep(struct call *c)
{
	int err = op_write(c);

	return err ? err : engine_deep(c);
}

static int op_read(struct call *c)
{
	uint32_t len = le32_get(c->v.ranges->len);
	struct pm *pm = c->e->cfg.pm;
	int err = pm->populate ? pm->populate(pm, le64_get(c->v.ranges->off), len) : 0; /* a hole in memory costs a page */

	if (err)
		return err;
	memcpy(c->read_buf, pm_ptr(pm, le64_get(c->v.ranges->off)), len);
	c->read_bytes = len;
	return 0;
}

static const struct op {
	int (*run)(struct call *c);
	bool stores;
} ops[LANE_OP_LAST + 1] = {
	[LANE_PING] = { .run = op_ping },
	[LANE_COMMIT] = { .run = engine_commit, .stores = true },
	[LANE_WRITE] = { .run = op_write, .stores = true },
	[LANE_READ] = { .run = op_read },
	[LANE_CHECKPOINT] = { .run = op_checkpoint, .stores = true },
	[LANE_DEEP] = { .run = op_deep, .stores = true },
};

/* ---------------------------------------------------------------- messages */

static void count(struct engine *e, const struct lane_view *v, size_t len)
{
	if (lane_op_is_upkeep(v->op))
		return;
	for (uint32_t i = 0; v->op != LANE_READ && i < v->range_count; i++) {
		if (!v->ranges[i].flags.le)
			len += le32_get(v->ranges[i].len);
	}
	__atomic_fetch_add(&e->rx_msgs, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&e->rx_bytes, len, __ATOMIC_RELAXED);
}

/* What may follow a silent message, and how often there may be one. */
static int train_check(const struct call *c, const struct engine_lane *lane)
{
	if (lane->silent && c->v.op != LANE_WRITE)
		return errmsg_set(-EPROTO, "operation %u in a train of writes", c->v.op);
	if (silent(c) && lane->silent == LANE_SILENT_MAX)
		return errmsg_set(-EPROTO, "a train of writes without end");
	return 0;
}

/* The error that the answer has, if there is to be one. */
static int train_step(const struct call *c, int err)
{
	struct engine_lane *lane = &c->e->lanes[c->lane];

	if (lane->train_err)
		err = lane->train_err;
	lane->train_err = silent(c) ? err : 0;
	lane->silent = silent(c) ? lane->silent + 1 : 0;
	return err;
}

static int handle(struct call *c, const void *msg, size_t len)
{
	struct engine *e = c->e;
	struct engine_lane *lane = &e->lanes[c->lane];
	int err = lane_req_check(msg, len, e->cfg.floor, e->cfg.pm->len, &c->v);

	if (err)
		return errmsg_set(err, "malformed message of %zu bytes", len);
	if (c->v.seq != lane->seq + 1)
		return errmsg_set(-EPROTO, "message %" PRIu64 " after %" PRIu64, c->v.seq, lane->seq);
	lane->seq = c->v.seq;
	err = train_check(c, lane);
	if (err)
		return err;
	count(e, &c->v, len);
	if (engine_failed(e))
		return errmsg_set(-EIO, "the medium failed before");
	if (lane->train_err)
		return 0; /* the answer will tell */
	if (ops[c->v.op].stores && e->cfg.read_only)
		return errmsg_set(-EPERM, "opened read-only");
	errmsg_clear();
	err = ops[c->v.op].run(c);
	if (err == -EIO)
		engine_fail(e, err);
	return err;
}

static void ack_fill(const struct call *c, int err, struct lane_ack_msg *ack)
{
	const struct engine *e = c->e;

	*ack = (struct lane_ack_msg){
		.magic = le32_put(LANE_MAGIC),
		.op = le16_put(c->v.op),
		.status = le16_put((uint16_t)wire_status_of(err)),
		.seq = le64_put(c->v.seq),
		.rx_bytes = le64_put(__atomic_load_n(&e->rx_bytes, __ATOMIC_RELAXED)),
		.rx_msgs = le64_put(__atomic_load_n(&e->rx_msgs, __ATOMIC_RELAXED)),
		.read_bytes = le32_put(c->read_bytes),
	};
	if (e->cfg.copy) {
		ack->head_seq = le64_put(copy_head(e->cfg.copy).seq);
		ack->tail_seq = le64_put(copy_tail(e->cfg.copy).seq);
		ack->ring_free = le64_put(copy_ring_free(e->cfg.copy));
	}
	lane_ack_seal(ack);
}

/* One message to its answer. As engine_handle. */
static int serve(struct call *c, const void *msg, size_t len, struct lane_ack_msg *ack)
{
	int err = handle(c, msg, len), end = err == -EPROTO || err == -EIO ? err : 0;

	if (!end && silent(c))
		end = engine_failed(c->e); /* by another lane: what would have been silent is the session's end */
	ack_fill(c, end ? end : train_step(c, err), ack);
	if (err)
		log_warn("lane %u: message %" PRIu64 ": %s: %s", c->lane, c->v.seq,
			wire_status_name((uint16_t)wire_status_of(err)), errmsg_get());
	if (engine_failed(c->e))
		return engine_failed(c->e); /* also behind a commit that was durable before a checkpoint failed */
	return end ? end : silent(c);
}

/* The lane's own view of a plain pool. */
static struct pm *lane_pm(struct engine *e, unsigned lane)
{
	struct pm *pm = &e->lanes[lane].pm;

	if (!pm->base)
		*pm = e->plain_pm;
	return pm;
}

int engine_handle(struct engine *e, unsigned lane, const void *msg, size_t len, struct lane_ack_msg *ack, void *read_buf)
{
	struct call c = { .e = e, .lane = lane, .read_buf = read_buf, .pm = e->cfg.pm };
	int err;

	assert(lane < WIRE_LANES_MAX);
	if (e->plain) {
		c.pm = lane_pm(e, lane);
		return serve(&c, msg, len, ack);
	}
	pthread_mutex_lock(&e->lock);
	e->last_ms = now_ms();
	err = serve(&c, msg, len, ack);
	pthread_mutex_unlock(&e->lock);
	return err;
}
