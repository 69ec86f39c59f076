/* Commits of a copy.
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
 * one train at a time: the commits of a session use one lane. */
#include "engine_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "errmsg.h"
#include "plant.h"

/* ---------------------------------------------------------------- what a commit touches */

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

/* The blocks a record links: replay will store to them and to their tables, and cannot be refused then. */
static int linked_back(const struct engine *e, const struct redo_view *r)
{
	int err = 0;

	for (uint32_t i = 0; i < r->linked_runs && e->cfg.pm->populate && !err; i++)
		err = engine_range_back(e, media_off(le64_get(r->linked[i].blk)), media_off(le32_get(r->linked[i].count)));
	return err;
}

/* Room for a record that did not fit: steps until it does, or until nothing more may be applied. */
static int append_making_room(struct engine *e, const void *rec, const struct redo_view *r)
{
	int err = copy_append_parsed(e->cfg.copy, rec, r);

	while (err == -ENOSPC && engine_settle_pending(e)) {
		err = engine_checkpoint_step(e, engine_ring_share(e, ENGINE_FULL_SHARE));
		if (!err)
			err = copy_append_parsed(e->cfg.copy, rec, r);
	}
	return err == -ENOSPC && e->checkpoint_err ? e->checkpoint_err : err;
}

/* ---------------------------------------------------------------- messages */

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

	if (r->epoch < head.epoch || (r->epoch < copy_page(copy)->fence_epoch && !PLANTED(PLANT_FENCED)))
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
			if (type == MEDIA_UNWRITTEN || type > MEDIA_DATA_LAST || PLANTED(PLANT_SENT))
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
		engine_ranges_store(e->cfg.pm, &c->v, false);
	err = linked_verify(e->cfg.pm, r);
	if (!err)
		err = append_making_room(e, rec, r);
	if (err)
		return err;
	for (uint32_t i = 0; i < r->linked_runs; i++)
		pm_ahead(e->cfg.pm, media_off(le64_get(r->linked[i].blk)), media_off(le32_get(r->linked[i].count)));
	if (copy_ring_used(e->cfg.copy) > engine_ring_share(e, 2) && engine_settle_pending(e))
		engine_checkpoint_step(e, engine_ring_share(e, ENGINE_STEP_SHARE)); /* the commit itself is durable whatever comes of it */
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
	err = engine_ranges_back(e, v);
	if (err)
		return err;
	if (!whole)
		engine_ranges_store(e->cfg.pm, v, false);
	if (v->flags & LANE_MORE)
		return 0;
	err = redo_parse(rec, v->rec_len, geom, &r);
	return err ? err : commit_finish(c, rec, &r, !whole);
}

int engine_commit(struct call *c)
{
	struct engine *e = c->e;
	struct train *t = &e->train;
	const struct lane_view *v = &c->v;
	int err;

	if (!e->cfg.copy)
		return errmsg_set(-EPERM, "not a copy of a file system, or not formatted yet");
	if (v->rec_len > engine_ring_share(e, REDO_RING_SHARE))
		return errmsg_set(-EPROTO, "record of %u bytes is over the ring's bound", v->rec_len);
	if (!ranges_linkable(copy_geom(e->cfg.copy), v))
		return errmsg_set(-EPROTO, "a range lies outside what a record may link");
	err = train_take(c);
	if (err)
		return err;
	engine_settle(e, v->tail);
	if (!t->err)
		t->err = commit_step(c);
	t->open = v->flags & LANE_MORE;
	return t->err;
}
