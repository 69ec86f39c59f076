/* Commits: closing the running one, waiting for its durability, checkpointing. Who waits for one: sync.c.
 *
 *   running --commit_close--> flying --durable on every attached copy--> settled --rule fulfilled--> acknowledged
 *
 * One commit flies at a time; the next one fills meanwhile, and everybody waiting for it shares it. Closing copies every
 * dirty line into the record, so the running commit may go on changing the same blocks. Order on the local copy: see
 * copy_append; the replicas get theirs before it, so that both work at the same time. */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include "errmsg.h"
#include "fs_impl.h"
#include "log.h"
#include "plant.h"

#define CHECKPOINT_STEP_BYTES (256u << 10)
#define CHECKPOINT_START_SHARE 8u /* checkpointing starts when 1/this of the ring is used ... */
#define CHECKPOINT_LOAD_SHARE 4u  /* ... and goes on under load beyond 1/this */

int commit_init(struct fs *fs)
{
	fs->running.seq = copy_head(fs->copy).seq + 1;
	fs->settled = fs->acked = fs->running.seq - 1;
	waiters_init(fs);
	return redo_builder_new(FS_RECORD_MAX(fs), fs->geom.pool_seed, &fs->builder);
}

void commit_fini(struct fs *fs)
{
	redo_builder_delete(fs->builder);
	free(fs->ranges);
}

bool commit_is_empty(const struct fs *fs)
{
	return TAILQ_EMPTY(&fs->dirty) && fs->running.links.n == 0 && fs->running.freed.n == 0;
}

void fs_commit_soon(struct fs *fs)
{
	if (!commit_is_empty(fs))
		fs->wanted = fs->running.seq;
}

void fs_fail(struct fs *fs, int err)
{
	if (fs->failed)
		return;
	fs->failed = err;
	log_error("pool: no change is taken any more: %s: %s", errmsg_get(), strerror(-err));
	waiters_fail(&fs->waiters, -EIO);
	waiters_fail(&fs->all_waiters, -EIO);
}

/* ---------------------------------------------------------------- closing */

static int ranges_room(struct fs *fs, size_t count)
{
	return vec_grow((void **)&fs->ranges, &fs->range_cap, count, sizeof(*fs->ranges));
}

static int blk_compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Large writes link in order already. */
static void links_sort(struct commit *c)
{
	for (size_t i = 1; i < c->links.n; i++)
		if (c->links.v[i - 1] >= c->links.v[i]) {
			qsort(c->links.v, c->links.n, sizeof(*c->links.v), blk_compare);
			return;
		}
}

static bool range_continues(const struct repl_range *last, uint64_t off, bool pushed)
{
	return last->off + last->len == off && !last->src == pushed && last->len < UINT32_MAX - MEDIA_BLOCK_BYTES;
}

/* One more block of the commit's message: inline with its bytes, a pushed one by name; neighbours of a kind make one range. */
static void range_add(struct fs *fs, unsigned *count, uint64_t blk, bool pushed)
{
	uint64_t off = media_off(blk);

	if (*count && range_continues(&fs->ranges[*count - 1], off, pushed))
		fs->ranges[*count - 1].len += MEDIA_BLOCK_BYTES;
	else
		fs->ranges[(*count)++] = (struct repl_range){ .off = off, .len = MEDIA_BLOCK_BYTES,
							      .src = pushed ? NULL : pm_ptr(fs->pm, off) };
}

/* The linked data blocks, into the record and as ranges of the message. */
static int commit_links(struct fs *fs, unsigned *count)
{
	struct commit *c = &fs->running;
	uint64_t before = 0;
	int err = ranges_room(fs, c->links.n);

	*count = 0;
	links_sort(c);
	for (size_t i = 0; i < c->links.n && !err; i++) {
		uint64_t blk = c->links.v[i];
		struct fresh f;

		if (blk == before || !fresh_find(fs, blk, &f) || f.seq != c->seq)
			continue; /* left the commit again, perhaps to come back */
		before = blk;
		range_add(fs, count, blk, f.pushed);
		err = redo_link(fs->builder, blk, MEDIA_DATA, f.csum);
	}
	return err;
}

static int record_fill(struct fs *fs, unsigned *range_count)
{
	struct redo_builder *b = fs->builder;
	struct shadow *s;
	int err;

	redo_begin(b);
	err = commit_links(fs, range_count);
	for (size_t i = 0; i < fs->running.freed.n && !err; i++)
		err = redo_free(b, fs->running.freed.v[i].blk);
	TAILQ_FOREACH(s, &fs->dirty, list) {
		if (!err && s->fresh)
			err = redo_link(b, s->blk, s->type, csum_crc32c(0, s->content, MEDIA_BLOCK_BYTES));
		if (!err)
			err = redo_lines(b, s->blk, s->type, s->dirty, s->content);
	}
	return err;
}

/* The epoch in force is the state block's, which the running commit may have changed. */
static void epoch_refresh(struct fs *fs)
{
	struct shadow *s = shadow_find(fs, fs->root_blk);

	if (s)
		fs->epoch = le64_get(((const struct fs_state_omf *)s->content)->epoch);
}

/* Everything the running commit held now flies. */
static void commit_launch(struct fs *fs)
{
	struct shadow *s;

	TAILQ_FOREACH(s, &fs->dirty, list) {
		s->dirty = 0;
		s->fresh = false;
		s->lines_seq = fs->running.seq;
	}
	TAILQ_CONCAT(&fs->clean, &fs->dirty, list);
	assert(fs->flying.seq == 0 && fs->flying.links.n == 0 && fs->flying.freed.n == 0);
	struct commit empty = fs->flying;

	fs->flying = fs->running;
	fs->flying.links.n = 0;
	fs->running = empty;
	fs->running.seq = fs->flying.seq + 1;
	fs->running.bytes = sizeof(struct redo_hdr_omf) + MEDIA_LINE_BYTES;
	fs->running.meta_links = 0;
}

/* The planted bug: what the flying commit frees is given out again before any copy has it. */
static void freed_reuse(struct fs *fs)
{
	for (size_t i = 0; i < fs->flying.freed.n; i++)
		alloc_undo(fs, fs->flying.freed.v[i].blk);
	fs->flying.freed.n = 0;
}

/* Makes the ring take the record. -EAGAIN: what could be checkpointed does not suffice now. */
static int ring_make_room(struct fs *fs, uint64_t bytes)
{
	while (copy_ring_free(fs->copy) < bytes) {
		uint64_t before = copy_tail(fs->copy).seq;
		int err = commit_checkpoint(fs, CHECKPOINT_STEP_BYTES);

		if (err)
			return err;
		if (copy_tail(fs->copy).seq == before) {
			if (fs->cfg.repl && fs->cfg.repl->need_release)
				fs->cfg.repl->need_release(fs->cfg.repl_ctx);
			return -EAGAIN;
		}
	}
	return 0;
}

int commit_close(struct fs *fs)
{
	struct hash128 prev = copy_head(fs->copy).hash, hash;
	struct repl_commit post = { .seq = fs->running.seq, .settled = fs->settled };
	const void *rec;
	uint32_t len;
	int err;

	assert(!fs->op.open);
	assert(fs->flying.seq == 0);
	if (fs->failed)
		return -EIO;
	err = ring_make_room(fs, fs->running.bytes);
	if (err == -EAGAIN)
		return err;
	epoch_refresh(fs);
	if (!err)
		err = record_fill(fs, &post.range_count);
	if (!err)
		err = redo_finish(fs->builder, fs->running.seq, fs->epoch, &prev,
				  fs->cfg.dirty_now ? fs->fake_ns : fs_clock_ns(), &rec, &len, &hash);
	if (err) {
		errmsg_prefix(err, "commit %llu", (unsigned long long)fs->running.seq);
		fs_fail(fs, err);
		return -EIO;
	}
	post.rec = rec;
	post.rec_len = len;
	post.ranges = fs->ranges;
	if (fs->cfg.repl)
		fs->cfg.repl->post(fs->cfg.repl_ctx, &post);
	err = copy_append(fs->copy, rec, len);
	commit_launch(fs);
	if (PLANTED(PLANT_REUSE))
		freed_reuse(fs);
	if (err) {
		errmsg_prefix(err, "commit %llu, local copy", (unsigned long long)fs->flying.seq);
		fs_fail(fs, err);
		return -EIO;
	}
	fs->background_ns = fs->dirty_streams ? fs_clock_ns() + fs->cfg.background_ms * 1000000ull : 0;
	return 0;
}

/* ---------------------------------------------------------------- settling */

static uint64_t repl_min(const struct fs *fs, uint64_t (*get)(void *ctx), uint64_t local)
{
	uint64_t other = fs->cfg.repl ? get(fs->cfg.repl_ctx) : UINT64_MAX;

	return other < local ? other : local;
}

static void space_settle(struct fs *fs)
{
	const struct fs_repl_ops *repl = fs->cfg.repl;

	alloc_settle(fs, repl_min(fs, repl ? repl->min_acked : NULL, fs->settled),
		     repl_min(fs, repl ? repl->min_tail : NULL, copy_tail(fs->copy).seq));
}

/* The flying commit is durable on every attached copy. */
static void commit_settle(struct fs *fs)
{
	struct commit *c = &fs->flying;

	for (size_t i = 0; i < c->freed.n; i++) {
		int err = alloc_pend(fs, c->freed.v[i].blk, c->seq, c->freed.v[i].lines_seq);

		if (err)
			log_error("block %#llx: leaked until the next mount: %s", (unsigned long long)c->freed.v[i].blk,
				  strerror(-err));
	}
	c->freed.n = 0;
	fs->settled = c->seq;
	c->seq = 0;
	space_settle(fs);
}

uint64_t commit_limit(const struct fs *fs)
{
	if (PLANTED(PLANT_LIMIT))
		return fs->settled;
	return repl_min(fs, fs->cfg.repl ? fs->cfg.repl->min_acked : NULL, fs->settled);
}

int commit_checkpoint(struct fs *fs, uint64_t bytes)
{
	uint64_t limit = commit_limit(fs), tail = copy_tail(fs->copy).seq;
	int err;

	assert(!fs->op.open);
	if (limit <= tail) {
		space_settle(fs); /* the other copies' tails may have moved */
		return 0;
	}
	err = copy_checkpoint(fs->copy, limit, bytes);
	if (err) {
		errmsg_prefix(err, "checkpoint behind %llu", (unsigned long long)tail);
		fs_fail(fs, err);
		return -EIO;
	}
	tail = copy_tail(fs->copy).seq;
	blocks_checkpointed(fs, tail);
	if (fs->cfg.repl)
		fs->cfg.repl->checkpointed(fs->cfg.repl_ctx, tail);
	space_settle(fs);
	return 0;
}

/* Everything dirty is committed first, then orphans are reclaimed. What then is pending waits for a tail, or for a copy that
 * is away. */
int fs_space_wait(struct fs *fs, int err)
{
	const struct fs_repl_ops *repl = fs->cfg.repl;

	if (err != -ENOSPC || !fs_space_coming(fs))
		return err;
	fs->link_upto = fs->stream_gen;
	if (fs->reclaim.n)
		orphans_step(fs); /* who waits for space does not wait for an idle moment too */
	if (fs->dirty_streams || !commit_is_empty(fs))
		fs->wanted = fs->running.seq;
	fs_poll(fs);
	if (fs->failed || fs->flying.seq || !commit_is_empty(fs))
		return -EAGAIN;
	if (fs->reclaim.n) { /* not left to idle times: whoever waits may leave none */
		(void)orphans_step(fs);
		fs->wanted = fs->running.seq;
	} else if (alloc_pending_blks(fs)) {
		(void)commit_checkpoint(fs, UINT64_MAX); /* a failure is kept in fs->failed */
		if (alloc_pending_blks(fs) && repl && repl->need_release)
			repl->need_release(fs->cfg.repl_ctx);
	}
	return -EAGAIN;
}

/* ---------------------------------------------------------------- progress */

static bool settle_progress(struct fs *fs)
{
	const struct fs_repl_ops *repl = fs->cfg.repl;
	uint64_t ackable, before = fs->acked;
	bool moved = false;

	if (fs->flying.seq && (!repl || repl->durable(fs->cfg.repl_ctx) >= fs->flying.seq)) {
		commit_settle(fs);
		moved = true;
	}
	ackable = repl ? repl->ackable(fs->cfg.repl_ctx) : fs->settled;
	if (ackable > fs->settled)
		ackable = fs->settled;
	if (ackable > fs->acked)
		fs->acked = ackable;
	return moved || fs->acked != before;
}

/* The background commit links everything that is dirty at its time. */
static void background_due(struct fs *fs)
{
	if (!fs->cfg.background_ms || !fs->background_ns || fs_clock_ns() < fs->background_ns)
		return;
	fs->background_ns = 0;
	fs->link_upto = fs->stream_gen;
	if (!commit_is_empty(fs))
		fs->wanted = fs->running.seq;
	else if (fs->dirty_streams)
		fs->wanted = fs->running.seq;
}

static bool checkpoint_under_load(struct fs *fs)
{
	uint64_t tail = copy_tail(fs->copy).seq;

	if (copy_ring_used(fs->copy) < fs->geom.ring_bytes / CHECKPOINT_LOAD_SHARE)
		return false;
	(void)commit_checkpoint(fs, CHECKPOINT_STEP_BYTES); /* a failure is kept in fs->failed */
	return copy_tail(fs->copy).seq != tail;
}

bool fs_poll(struct fs *fs)
{
	bool moved = false, again = true;

	assert(!fs->op.open);
	if (fs->failed)
		return false;
	background_due(fs);
	while (again && !fs->failed) {
		again = settle_progress(fs);
		if (fs->dirty_streams && fs->dirty_streams->gen <= fs->link_upto && streams_link_some(fs) == 0)
			again = true;
		again |= waiters_move(fs);
		if (!fs->flying.seq && !commit_is_empty(fs) && fs->running.seq <= fs->wanted && commit_close(fs) == 0)
			again = true;
		moved |= again;
	}
	moved |= waiters_answer(fs);
	if (!fs->failed)
		moved |= checkpoint_under_load(fs);
	blocks_settle(fs);
	return moved;
}

bool fs_busy(const struct fs *fs)
{
	return fs->flying.seq != 0 && !fs->failed;
}

int fs_timeout_ms(const struct fs *fs)
{
	uint64_t now;

	if (!fs->background_ns || !fs->cfg.background_ms || fs->failed)
		return -1;
	now = fs_clock_ns();
	return fs->background_ns <= now ? 0 : (int)((fs->background_ns - now) / 1000000u + 1);
}

static bool checkpoint_wanted(const struct fs *fs)
{
	return copy_ring_used(fs->copy) > fs->geom.ring_bytes / CHECKPOINT_START_SHARE;
}

bool fs_idle_wanted(const struct fs *fs)
{
	return !fs->failed && !fs->cfg.read_only && (fs->reclaim.n != 0 || checkpoint_wanted(fs));
}

bool fs_idle(struct fs *fs)
{
	bool more = false;

	if (!fs_idle_wanted(fs))
		return false;
	if (fs->reclaim.n) {
		more = orphans_step(fs);
		if (!more)
			fs_commit_soon(fs); /* the space is free with the commit */
	}
	if (!fs->failed && checkpoint_wanted(fs)) {
		uint64_t tail = copy_tail(fs->copy).seq;

		(void)commit_checkpoint(fs, CHECKPOINT_STEP_BYTES);
		more |= copy_tail(fs->copy).seq != tail;
	}
	return more;
}

int fs_checkpoint(struct fs *fs)
{
	uint64_t tail;

	do {
		int err;

		tail = copy_tail(fs->copy).seq;
		err = commit_checkpoint(fs, CHECKPOINT_STEP_BYTES);
		if (err)
			return err;
	} while (copy_tail(fs->copy).seq != tail);
	return 0;
}

/* What the state block may still add to the running commit. Everybody else leaves that free: a change of the member table
 * may be what gives the ring back that a full commit waits for. */
static uint64_t state_left(struct fs *fs)
{
	const struct shadow *s = shadow_find(fs, fs->root_blk);
	uint64_t dirty = s ? s->dirty : 0;
	uint64_t lines = MEDIA_LINES_PER_BLOCK - (uint64_t)__builtin_popcountll(dirty);

	return lines * MEDIA_LINE_BYTES + (dirty ? 0 : sizeof(struct redo_lines_omf));
}

bool commit_fits(struct fs *fs, uint64_t record_bytes)
{
	return fs->running.bytes + record_bytes + state_left(fs) <= FS_RECORD_MAX(fs);
}

int fs_room_state(struct fs *fs)
{
	assert(!fs->op.open);
	if (fs->failed)
		return -EIO;
	return fs->cfg.read_only ? -EROFS : 0;
}

int fs_room(struct fs *fs, uint64_t record_bytes)
{
	int err;

	assert(!fs->op.open);
	if (fs->failed)
		return -EIO;
	if (fs->cfg.read_only)
		return -EROFS;
	if (fs->cfg.repl && fs->cfg.repl->may_change) {
		err = fs->cfg.repl->may_change(fs->cfg.repl_ctx);
		if (err)
			return err;
	}
	if (commit_fits(fs, record_bytes))
		return 0;
	fs->wanted = fs->running.seq;
	fs_poll(fs);
	if (fs->failed)
		return -EIO;
	return commit_fits(fs, record_bytes) ? 0 : -EAGAIN;
}

uint64_t fs_committed_seq(const struct fs *fs)
{
	return fs->running.seq - 1;
}

uint64_t fs_acked_seq(const struct fs *fs)
{
	return fs->acked;
}
