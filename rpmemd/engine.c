/* The persist engine: turns checked lane requests into stores, flushes and fences on one pool.
 *
 * A COMMIT, as one message or as a train of them (LANE_MORE), goes through these steps:
 *
 *   first message   refuse before any store what the copy would refuse: epoch of the session and sequence; and the whole
 *                   record when it is all here
 *   each message    inline ranges pm_written in place, pushed ones pm_flushed; piece of the record put in place in DRAM
 *   last message    record parsed, content of every linked data block compared with the record's checksum, then
 *                   (1) data fenced, (2) record stored and fenced: both inside copy_append; then the answer
 *
 * If power fails before (2) the old history stands: what was stored lies in blocks that no record links. A refused train
 * takes the rest of its messages, stores nothing of them and answers each with the reason. There is one record buffer, so
 * one train at a time: the commits of a session use one lane.
 *
 * Lines are applied in place only up to `settled`, the newest sequence the initiator called answered by every attached
 * copy; nothing else moves the tail. A damaged block found on the way stops that for good (checkpoint_err): commits go on
 * while the ring has room. A failed fence fails the engine: every later request is answered WIRE_IO.
 *
 * A plain pool (librpmem) has no record and no order between lanes. There each lane has its own view of the pool (struct pm
 * remembers what a fence has to msync) and its own numbers, and requests of different lanes meet nowhere, with one exception:
 * msync(2) reports a failed write-back once for each open file, to whoever asks first. So those of all lanes take turns, and
 * each looks first whether one before it failed: no lane calls durable what another one was told is lost.
 *
 * No allocation and no log line on the way of a good commit or write. */
#include "engine.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "codec.h"
#include "errmsg.h"
#include "log.h"

#define ENGINE_QUIET_MS 100u      /* without requests for this long counts as idle */
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
	struct pm pm;         /* plain pools, from the first message on */
};

struct engine {
	struct engine_cfg cfg; /* but for the copy constant */
	bool plain;
	struct pm plain_pm;    /* what a lane's view of a plain pool begins as */
	uint64_t rx_bytes, rx_msgs; /* atomic */
	int failed;           /* atomic */
	pthread_mutex_t msync_lock; /* plain pools: held over msync(2) and control requests, see above */
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
	pthread_mutex_init(&e->msync_lock, NULL);
	*out = e;
	return 0;
}

void engine_delete(struct engine *e)
{
	if (!e)
		return;
	pthread_mutex_destroy(&e->lock);
	pthread_mutex_destroy(&e->msync_lock);
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

static int engine_failed(const struct engine *e)
{
	return __atomic_load_n(&e->failed, __ATOMIC_ACQUIRE);
}

static void engine_fail(struct engine *e, int err)
{
	__atomic_store_n(&e->failed, err, __ATOMIC_RELEASE);
}

/* One msync(2) of all lanes at a time; see above. */
static int turn_begin(struct engine *e)
{
	int err;

	pthread_mutex_lock(&e->msync_lock);
	err = engine_failed(e);
	if (!err)
		return 0;
	pthread_mutex_unlock(&e->msync_lock);
	return errmsg_set(err, "the medium failed before");
}

static int turn_end(struct engine *e, int err)
{
	if (err == -EIO)
		engine_fail(e, err);
	pthread_mutex_unlock(&e->msync_lock);
	return err;
}

int engine_locked(struct engine *e, int (*fn)(void *arg), void *arg)
{
	int err;

	if (e->plain) {
		err = turn_begin(e);
		return err ? err : turn_end(e, fn(arg));
	}
	pthread_mutex_lock(&e->lock);
	err = fn(arg);
	pthread_mutex_unlock(&e->lock);
	return err;
}

/* ---------------------------------------------------------------- checkpoint */

/* What every attached copy answered for, this one did as well: more than its head is not believed. */
static void settle(struct engine *e, uint64_t seq)
{
	uint64_t head = copy_head(e->cfg.copy).seq;

	if (seq > head)
		seq = head;
	if (seq > e->settled)
		e->settled = seq;
}

/* Something may be applied, and is there to be applied: a copy may have been put back behind what was settled before. */
static bool settle_pending(const struct engine *e)
{
	uint64_t tail = copy_tail(e->cfg.copy).seq;

	return !e->checkpoint_err && !engine_failed(e) && tail < e->settled && tail < copy_head(e->cfg.copy).seq;
}

/* One bounded step towards `settled`. Remembers the first error; a failed fence fails the engine. */
static int checkpoint_step(struct engine *e, uint64_t bytes_max)
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

static uint64_t ring_share(const struct engine *e, unsigned share)
{
	return copy_geom(e->cfg.copy)->ring_bytes / share;
}

/* Room for a record that did not fit: steps until it does, or until nothing more may be applied. */
static int append_making_room(struct engine *e, const void *rec, uint32_t len)
{
	int err = copy_append(e->cfg.copy, rec, len);

	while (err == -ENOSPC && settle_pending(e)) {
		err = checkpoint_step(e, ring_share(e, ENGINE_FULL_SHARE));
		if (!err)
			err = copy_append(e->cfg.copy, rec, len);
	}
	return err == -ENOSPC && e->checkpoint_err ? e->checkpoint_err : err;
}

bool engine_idle(struct engine *e)
{
	bool more = false;

	pthread_mutex_lock(&e->lock);
	if (e->cfg.copy && !e->cfg.read_only && settle_pending(e) &&
	    (now_ms() - e->last_ms >= ENGINE_QUIET_MS || copy_ring_used(e->cfg.copy) > ring_share(e, 4))) {
		checkpoint_step(e, ring_share(e, ENGINE_STEP_SHARE));
		more = settle_pending(e);
	}
	pthread_mutex_unlock(&e->lock);
	return more;
}

/* ---------------------------------------------------------------- ranges */

/* The pool range lies in blocks that a record may link, all of one group. */
static bool range_linkable(const struct media_geom *g, uint64_t off, uint32_t len)
{
	uint64_t first = off >> MEDIA_BLOCK_SHIFT, last = (off + len - 1) >> MEDIA_BLOCK_SHIFT;

	return media_blk_valid(g, first) && media_blk_valid(g, last) && media_group_of(g, first) == media_group_of(g, last);
}

static bool ranges_linkable(const struct media_geom *g, const struct lane_view *v)
{
	for (uint32_t i = 0; i < v->range_count; i++) {
		if (!range_linkable(g, le64_get(v->ranges[i].off), le32_get(v->ranges[i].len)))
			return false;
	}
	return true;
}

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

/* Space behind a range that is to be touched; for a copy behind its whole groups. */
static int range_back(const struct engine *e, uint64_t off, uint64_t len)
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

static int ranges_back(const struct engine *e, const struct lane_view *v)
{
	int err = 0;

	for (uint32_t i = 0; i < v->range_count && e->cfg.pm->populate && !err; i++)
		err = range_back(e, le64_get(v->ranges[i].off), le32_get(v->ranges[i].len));
	return err;
}

/* The blocks a record links: replay will store to them and to their tables, and cannot be refused then. */
static int linked_back(const struct engine *e, const struct redo_view *r)
{
	int err = 0;

	for (uint32_t i = 0; i < r->linked_runs && e->cfg.pm->populate && !err; i++)
		err = range_back(e, media_off(le64_get(r->linked[i].blk)), media_off(le32_get(r->linked[i].count)));
	return err;
}

/* words: librpmem's promise that aligned words of 8 bytes are old or new. */
static void ranges_store(struct pm *pm, const struct lane_view *v, bool words)
{
	const uint8_t *src = v->payload;

	for (uint32_t i = 0; i < v->range_count; i++) {
		uint64_t off = le64_get(v->ranges[i].off);
		uint32_t len = le32_get(v->ranges[i].len);

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

/* ---------------------------------------------------------------- commit */

/* Takes the message's piece of the record in; -EPROTO when it is not the next one of the train. */
static int train_take(struct call *c)
{
	struct train *t = &c->e->train;
	const struct lane_view *v = &c->v;

	if (!t->open)
		*t = (struct train){ .open = true, .lane = c->lane, .arg = v->arg, .len = v->rec_len };
	if (t->lane != c->lane || t->arg != v->arg || t->len != v->rec_len || t->have != v->rec_off)
		return errmsg_set(-EPROTO, "does not continue the commit %" PRIu64 " of lane %u", t->arg, t->lane);
	t->have += v->rec_bytes;
	return 0;
}

/* The record where it can be parsed: in the message when it is whole and aligned there, else in the buffer. */
static const void *record_put(struct call *c)
{
	const struct lane_view *v = &c->v;

	if (v->rec_bytes == v->rec_len && !(v->flags & LANE_MORE) && (uintptr_t)v->rec % _Alignof(struct redo_hdr_omf) == 0)
		return v->rec;
	if (v->rec_bytes)
		memcpy(c->e->rec + v->rec_off, v->rec, v->rec_bytes);
	return c->e->rec;
}

/* Whether the record continues this copy's history, asked before its data is stored; copy_append asks again. */
static int record_admit(const struct copy *copy, const struct redo_view *r)
{
	struct copy_point head = copy_head(copy);

	if (r->epoch < head.epoch || r->epoch < copy_page(copy)->fence_epoch)
		return errmsg_set(-ESTALE, "epoch %" PRIu64 " is below head's %" PRIu64 " or the fence %" PRIu64, r->epoch,
			head.epoch, copy_page(copy)->fence_epoch);
	if (r->seq != head.seq + 1 || memcmp(&r->prev_hash, &head.hash, sizeof(head.hash)))
		return errmsg_set(-EILSEQ, "does not continue head %" PRIu64, head.seq);
	return 0;
}

/* CRC32C of a block as it will be after the record: in place, lines of the record on top. */
static uint32_t block_csum(const struct pm *pm, const struct redo_view *r, uint64_t blk, uint32_t *line_blk,
	uint32_t *line)
{
	const uint8_t *content = pm_ptr(pm, media_off(blk));
	uint8_t merged[MEDIA_BLOCK_BYTES];
	uint64_t mask;

	for (; *line_blk < r->line_blks && le64_get(r->lines[*line_blk].blk) < blk; ++*line_blk)
		*line += (uint32_t)__builtin_popcountll(le64_get(r->lines[*line_blk].mask));
	if (*line_blk == r->line_blks || le64_get(r->lines[*line_blk].blk) != blk)
		return csum_crc32c(0, content, MEDIA_BLOCK_BYTES);
	memcpy(merged, content, sizeof(merged));
	mask = le64_get(r->lines[*line_blk].mask);
	for (uint32_t from = *line; mask; mask &= mask - 1)
		memcpy(merged + (size_t)__builtin_ctzll(mask) * MEDIA_LINE_BYTES,
			r->line_bytes + (size_t)from++ * MEDIA_LINE_BYTES, MEDIA_LINE_BYTES);
	return csum_crc32c(0, merged, sizeof(merged));
}

/* Linked data must be in place with the content the record speaks of: a push that was lost shows here. */
static int linked_verify(const struct pm *pm, const struct redo_view *r)
{
	uint32_t at = 0, line_blk = 0, line = 0;

	for (uint32_t i = 0; i < r->linked_runs; i++) {
		uint64_t blk = le64_get(r->linked[i].blk);
		uint32_t count = le32_get(r->linked[i].count), type = le32_get(r->linked[i].type);

		for (uint32_t j = 0; j < count; j++, at++) {
			if (type == MEDIA_UNWRITTEN || type > MEDIA_DATA_LAST)
				continue;
			if (block_csum(pm, r, blk + j, &line_blk, &line) != le32_get(r->csums[at]))
				return errmsg_set(-EBADMSG, "block 0x%" PRIx64 " is not the content that was sent", blk + j);
		}
	}
	return 0;
}

static int commit_finish(struct call *c, const void *rec, const struct redo_view *r, bool stored)
{
	struct engine *e = c->e;
	int err;

	if (r->seq != c->v.arg)
		return errmsg_set(-EPROTO, "record %" PRIu64 " was announced as %" PRIu64, r->seq, c->v.arg);
	err = record_admit(e->cfg.copy, r);
	if (!err)
		err = linked_back(e, r);
	if (err)
		return err;
	if (!stored)
		ranges_store(e->cfg.pm, &c->v, false);
	err = linked_verify(e->cfg.pm, r);
	if (!err)
		err = append_making_room(e, rec, r->len);
	if (err)
		return err;
	if (copy_ring_used(e->cfg.copy) > ring_share(e, 2) && settle_pending(e))
		checkpoint_step(e, ring_share(e, ENGINE_STEP_SHARE)); /* the commit itself is durable whatever comes of it */
	return 0;
}

/* One message of a commit that is not refused yet. */
static int commit_step(struct call *c)
{
	struct engine *e = c->e;
	const struct media_geom *geom = copy_geom(e->cfg.copy);
	const struct lane_view *v = &c->v;
	bool whole = v->rec_bytes == v->rec_len && !(v->flags & LANE_MORE);
	const void *rec = record_put(c);
	struct redo_view r;
	int err;

	if (e->cfg.epoch && copy_page(e->cfg.copy)->fence_epoch > e->cfg.epoch)
		return errmsg_set(-ESTALE, "the session's epoch %" PRIu64 " is below the fence %" PRIu64, e->cfg.epoch,
			copy_page(e->cfg.copy)->fence_epoch);
	if (v->arg != copy_head(e->cfg.copy).seq + 1)
		return errmsg_set(-EILSEQ, "does not continue head %" PRIu64, copy_head(e->cfg.copy).seq);
	err = ranges_back(e, v);
	if (err)
		return err;
	if (!whole)
		ranges_store(e->cfg.pm, v, false);
	if (v->flags & LANE_MORE)
		return 0;
	err = redo_parse(rec, v->rec_len, geom, &r);
	return err ? err : commit_finish(c, rec, &r, !whole);
}

static int op_commit(struct call *c)
{
	struct engine *e = c->e;
	struct train *t = &e->train;
	const struct lane_view *v = &c->v;
	int err;

	if (!e->cfg.copy)
		return errmsg_set(-EPERM, "not a copy of a file system, or not formatted yet");
	if (v->rec_len > ring_share(e, REDO_RING_SHARE))
		return errmsg_set(-EPROTO, "record of %u bytes is over the ring's bound", v->rec_len);
	if (!ranges_linkable(copy_geom(e->cfg.copy), v))
		return errmsg_set(-EPROTO, "a range lies outside what a record may link");
	err = train_take(c);
	if (err)
		return err;
	settle(e, v->tail);
	if (!t->err)
		t->err = commit_step(c);
	t->open = v->flags & LANE_MORE;
	return t->err;
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
	settle(e, c->v.arg);
	while (!err && settle_pending(e))
		err = checkpoint_step(e, ring_share(e, ENGINE_STEP_SHARE));
	return err ? err : e->checkpoint_err;
}

static int plain_fence(struct call *c)
{
	int err;

	if (c->pm->domain != PM_FILE)
		return pm_fence(c->pm, PM_POINT_USER);
	err = turn_begin(c->e);
	return err ? err : turn_end(c->e, pm_fence(c->pm, PM_POINT_USER));
}

static int op_write(struct call *c)
{
	struct engine *e = c->e;
	struct copy *copy = e->cfg.copy;
	int err;

	if (e->cfg.fs && !copy)
		return errmsg_set(-EPERM, "not formatted yet");
	if (copy && copy_page(copy)->state != MEDIA_INCONSISTENT)
		return errmsg_set(-EPERM, "a consistent copy changes by commits only");
	if (copy && !ranges_in_groups(copy_geom(copy), &c->v))
		return errmsg_set(-EPROTO, "a range lies outside the groups");
	err = ranges_back(e, &c->v);
	if (err)
		return err;
	ranges_store(c->pm, &c->v, e->plain);
	return e->plain ? plain_fence(c) : pm_fence(c->pm, PM_POINT_RESYNC);
}

static int ranges_msync(const struct call *c)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	for (uint32_t i = 0; i < c->v.range_count; i++) {
		uint64_t off = le64_get(c->v.ranges[i].off), from = off & ~(page - 1);

		if (msync(c->pm->base + from, off + le32_get(c->v.ranges[i].len) - from, MS_SYNC))
			return errmsg_set(-EIO, "msync of 0x%" PRIx64 ": %s", off, strerror(errno));
	}
	return 0;
}

/* Persistent memory may keep bytes in buffers of the platform beyond the fence; msync(2) of a DAX mapping has the driver
 * empty them (kernel: blkdev flush, nvdimm_flush). Files were synced by the fence, memory has nothing deeper. */
static int op_deep(struct call *c)
{
	int err = op_write(c);

	if (err || c->pm->domain != PM_PMEM)
		return err;
	err = turn_begin(c->e);
	return err ? err : turn_end(c->e, ranges_msync(c));
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
	[LANE_COMMIT] = { .run = op_commit, .stores = true },
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
	count(e, &c->v, len);
	if (engine_failed(e))
		return errmsg_set(-EIO, "the medium failed before");
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

/* One message to its answer. Why the session must end, or 0. */
static int serve(struct call *c, const void *msg, size_t len, struct lane_ack_msg *ack)
{
	int err = handle(c, msg, len);

	ack_fill(c, err, ack);
	if (err)
		log_warn("lane %u: message %" PRIu64 ": %s: %s", c->lane, c->v.seq,
			wire_status_name((uint16_t)wire_status_of(err)), errmsg_get());
	if (engine_failed(c->e))
		return engine_failed(c->e); /* also behind a commit that was durable before a checkpoint failed */
	return err == -EPROTO || err == -EIO ? err : 0;
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
