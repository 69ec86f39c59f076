/* What changes in an open copy: ring and head by appending, tail and superblocks by a checkpoint's end, the per-copy
 * page, all of it by a reset. How a copy comes to be open is in copy_open.c, what a checkpoint applies in replay.c.
 *
 * Each order of stores and fences is written out where it is done: copy_append, sb_write_both, copy_page_set and
 * copy_reset. A failed fence is final: what the medium holds is unknown, so every later change is refused with -EIO. */
#include "copy_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errmsg.h"
#include "plant.h"

#define ITEMS_MIN 64u
#define RING_GAP MEDIA_LINE_BYTES /* never used, so that equal positions mean an empty ring */

typedef unsigned long long ull;

int copy_fence(struct copy *copy, enum pm_point point)
{
	if (pm_fence(copy->pm, point) == 0)
		return 0;
	copy->failed = true;
	return errmsg_set(-EIO, "copy: a fence failed, what is durable is unknown");
}

int copy_writable(const struct copy *copy)
{
	if (copy->failed)
		return errmsg_set(-EIO, "copy: an earlier fence failed");
	if (copy->read_only)
		return errmsg_set(-EROFS, "copy: opened for reading");
	return 0;
}

/* ------------------------------------------------------------------------------------------------------- ring */

void copy_ring_read(const struct copy *copy, uint64_t pos, void *to, uint64_t len)
{
	uint64_t left = copy->geom.ring_bytes - pos, first = len < left ? len : left;

	assert(len <= copy->geom.ring_bytes);
	memcpy(to, pm_ptr(copy->pm, media_ring_off(pos)), first);
	memcpy((uint8_t *)to + first, pm_ptr(copy->pm, media_ring_off(0)), len - first);
}

static void ring_write(struct copy *copy, uint64_t pos, const void *from, uint64_t len)
{
	uint64_t left = copy->geom.ring_bytes - pos, first = len < left ? len : left;

	pm_write(copy->pm, media_ring_off(pos), from, first);
	if (len > first)
		pm_write(copy->pm, media_ring_off(0), (const uint8_t *)from + first, len - first);
}

static uint64_t ring_step(const struct copy *copy, uint64_t pos, uint64_t len)
{
	return (pos + len) % copy->geom.ring_bytes;
}

/* ------------------------------------------------------------------------------------- records known in memory */

static int items_grow(struct copy *copy)
{
	size_t cap = copy->item_cap ? copy->item_cap * 2 : ITEMS_MIN;
	struct copy_item *items = calloc(cap, sizeof(*items));

	if (!items)
		return -ENOMEM;
	for (size_t i = 0; i < copy->item_count; i++)
		items[i] = *copy_item_at(copy, i);
	free(copy->items);
	copy->items = items;
	copy->item_first = 0;
	copy->item_cap = cap;
	return 0;
}

/* A new item for a record that continues the chain at head_pos; nothing is moved yet. */
int copy_item_make(struct copy *copy, const struct redo_view *v, struct copy_item *item)
{
	struct copy_run *freed = NULL;

	if (copy->item_count == copy->item_cap && items_grow(copy))
		return errmsg_set(-ENOMEM, "copy: no memory for record %llu", (ull)v->seq);
	if (v->freed_runs) {
		freed = calloc(v->freed_runs, sizeof(*freed));
		if (!freed)
			return errmsg_set(-ENOMEM, "copy: no memory for record %llu", (ull)v->seq);
	}
	for (uint32_t i = 0; i < v->freed_runs; i++)
		freed[i] = (struct copy_run){ le64_get(v->freed[i].blk), le32_get(v->freed[i].count) };
	*item = (struct copy_item){
		.rec = { .at = { v->seq, v->epoch, v->hash }, .pos = copy->head_pos, .len = v->len },
		.delta = (int64_t)v->linked_blks - (int64_t)v->freed_blks,
		.freed_count = v->freed_runs,
		.freed = freed,
	};
	return 0;
}

/* Moves head over the item. */
void copy_head_move(struct copy *copy, const struct copy_item *item)
{
	assert(copy->item_count < copy->item_cap);
	copy->item_count++;
	*copy_item_at(copy, copy->item_count - 1) = *item;
	copy->head = item->rec.at;
	copy->head_pos = ring_step(copy, copy->head_pos, item->rec.len);
	copy->bytes_live += item->rec.len;
	copy->used_blks += (uint64_t)item->delta;
}

static void items_drop(struct copy *copy, size_t count)
{
	for (; count; count--) {
		free(copy_item_at(copy, 0)->freed);
		copy->item_first = (copy->item_first + 1) & (copy->item_cap - 1);
		copy->item_count--;
	}
}

/* Whether the pool can be in the state the record leaves behind. */
bool copy_used_ok(const struct copy *copy, const struct redo_view *v)
{
	uint64_t used = copy->used_blks + v->linked_blks;

	return used >= v->freed_blks && used - v->freed_blks <= copy->geom.blk_count;
}

/* Whether the record continues the chain at head. */
bool copy_continues(const struct copy *copy, const struct redo_view *v)
{
	return v->seq == copy->head.seq + 1 && v->epoch >= copy->head.epoch &&
	       memcmp(v->prev_hash.b, copy->head.hash.b, sizeof(v->prev_hash.b)) == 0;
}

const struct copy_rec *copy_find(const struct copy *copy, uint64_t seq)
{
	if (seq <= copy->tail.seq || seq > copy->head.seq)
		return NULL;
	return &copy_item_at(copy, (size_t)(seq - copy->tail.seq - 1))->rec;
}

void copy_rec_read(const struct copy *copy, const struct copy_rec *rec, void *buf)
{
	copy_ring_read(copy, rec->pos, buf, rec->len);
}

/* ------------------------------------------------------------------------------------------------- superblocks */

void copy_sb_seal(struct media_sb_omf *sb)
{
	sb->csum = le32_put(csum_crc32c(0, sb, offsetof(struct media_sb_omf, csum)));
}

void copy_sb_set_tail(struct media_sb_omf *sb, const struct copy_point *at, uint64_t pos, uint64_t used_blks)
{
	sb->tail_seq = le64_put(at->seq);
	sb->tail_pos = le64_put(pos);
	sb->tail_epoch = le64_put(at->epoch);
	memcpy(sb->tail_hash, at->hash.b, sizeof(sb->tail_hash));
	sb->used_blks = le64_put(used_blks);
}

/* Writes *sb to the older slot, then to the other, so that one whole superblock is there at every instant.
 *
 * (3) What they will say is durable in place (the caller's fence); power fails: the old tail, the same records are
 *     applied again.
 * (4) first slot, fence. Torn: the other slot's old tail counts. Whole: the new tail counts, while the other slot still
 *     names the old one, whose records are all still there.
 * (5) second slot, fence. From here on the space before the new tail is free, and each of the two alone is enough. */
static int sb_write_both(struct copy *copy, struct media_sb_omf *sb)
{
	uint64_t generation = le64_get(copy->sb.generation);

	for (unsigned i = 1; i <= 2; i++) {
		unsigned slot = copy->sb_slot ^ !PLANTED(PLANT_SLOT);
		int err;

		sb->generation = le64_put(generation + i);
		copy_sb_seal(sb);
		pm_write(copy->pm, copy_sb_off(slot), sb, sizeof(*sb));
		err = copy_fence(copy, i == 1 ? PM_POINT_SUPERBLOCK : PM_POINT_SUPERBLOCK_2);
		if (err)
			return err;
		copy->sb = *sb;
		copy->sb_slot = slot;
	}
	return 0;
}

int copy_tail_advance(struct copy *copy, size_t count)
{
	struct media_sb_omf sb = copy->sb;
	struct copy_point tail = copy->tail;
	uint64_t used = le64_get(sb.used_blks), bytes = 0, pos;
	int err;

	assert(count <= copy->item_count);
	for (size_t i = 0; i < count; i++) {
		used += (uint64_t)copy_item_at(copy, i)->delta;
		bytes += copy_item_at(copy, i)->rec.len;
		tail = copy_item_at(copy, i)->rec.at;
	}
	pos = ring_step(copy, copy->tail_pos, bytes);
	copy_sb_set_tail(&sb, &tail, pos, used);
	err = sb_write_both(copy, &sb);
	if (err)
		return err;
	copy->tail = tail;
	copy->tail_pos = pos;
	copy->bytes_live -= bytes;
	copy->bytes_held = 0;
	copy->sb_alone = false;
	items_drop(copy, count);
	assert(copy->bytes_live == copy_ring_dist(copy, copy->tail_pos, copy->head_pos));
	return 0;
}

int copy_mend_used(struct copy *copy, uint64_t used_blks)
{
	struct media_sb_omf sb = copy->sb;
	int err = copy_writable(copy);

	if (err)
		return err;
	if (copy->item_count)
		return errmsg_set(-EBUSY, "copy: records wait in the ring");
	if (used_blks > copy->geom.blk_count)
		return errmsg_set(-EINVAL, "copy: %llu blocks in use of %llu", (ull)used_blks, (ull)copy->geom.blk_count);
	sb.used_blks = le64_put(used_blks);
	err = sb_write_both(copy, &sb);
	if (!err)
		copy->used_blks = used_blks;
	return err;
}

void copy_close(struct copy *copy)
{
	if (!copy)
		return;
	items_drop(copy, copy->item_count);
	free(copy->items);
	free(copy->buf);
	free(copy->backed);
	free(copy);
}

int copy_back_group(struct copy *copy, uint64_t group)
{
	uint8_t bit = (uint8_t)(1u << group % 8);
	int err;

	assert(group < copy->geom.group_count);
	if (!copy->pm->populate)
		return 0;
	if (!copy->backed)
		copy->backed = calloc(copy->geom.group_count / 8 + 1, 1);
	if (!copy->backed)
		return errmsg_set(-ENOMEM, "copy: no memory");
	if (copy->backed[group / 8] & bit)
		return 0;
	err = copy->pm->populate(copy->pm, media_off(media_group_blk(&copy->geom, group)),
				 media_off(media_group_len(&copy->geom, group)));
	if (err)
		return errmsg_prefix(err, "group %llu", (ull)group);
	copy->backed[group / 8] |= bit;
	return 0;
}

/* ---------------------------------------------------------------------------------------------------- queries */

const struct media_geom *copy_geom(const struct copy *copy)
{
	return &copy->geom;
}

const struct media_sb_omf *copy_sb(const struct copy *copy)
{
	return &copy->sb;
}

struct pm *copy_pm(struct copy *copy)
{
	return copy->pm;
}

struct copy_point copy_tail(const struct copy *copy)
{
	return copy->tail;
}

struct copy_point copy_head(const struct copy *copy)
{
	return copy->head;
}

uint64_t copy_used_blks(const struct copy *copy)
{
	return copy->used_blks;
}

uint64_t copy_ring_used(const struct copy *copy)
{
	return copy->bytes_held + copy->bytes_live;
}

uint64_t copy_ring_free(const struct copy *copy)
{
	uint64_t used = copy_ring_used(copy) + RING_GAP;

	return copy->geom.ring_bytes > used ? copy->geom.ring_bytes - used : 0;
}

const struct copy_page *copy_page(const struct copy *copy)
{
	return &copy->page;
}

/* ----------------------------------------------------------------------------------------------------- append */

/* Everything that can be wrong with a record for this copy, found before a store. */
static int append_check(const struct copy *copy, const struct redo_view *v)
{
	if (v->epoch < copy->head.epoch || (v->epoch < copy->page.fence_epoch && !PLANTED(PLANT_FENCED)))
		return errmsg_set(-ESTALE, "record %llu: epoch %llu, the copy is at %llu, fenced at %llu", (ull)v->seq,
			(ull)v->epoch, (ull)copy->head.epoch, (ull)copy->page.fence_epoch);
	if (!copy_continues(copy, v))
		return errmsg_set(-EILSEQ, "record %llu: does not continue the history at %llu", (ull)v->seq,
			(ull)copy->head.seq);
	if (!copy_used_ok(copy, v))
		return errmsg_set(-EBADMSG, "record %llu: does not fit the count of used blocks", (ull)v->seq);
	if (v->len > copy_ring_free(copy))
		return errmsg_set(-ENOSPC, "record %llu: %u bytes, %llu free in the ring", (ull)v->seq, v->len,
			(ull)copy_ring_free(copy));
	return 0;
}

/* The record is stored in one go, header included: without a fence between, the order of stores says nothing about the
 * order in which they become durable. What keeps a torn record from passing for a whole one is the checksum over all of
 * it, together with the history hash, which bytes of an earlier lap cannot have. */
int copy_append_parsed(struct copy *copy, const void *rec, const struct redo_view *view)
{
	struct copy_item item;
	int err = copy_writable(copy);

	if (!err)
		err = append_check(copy, view);
	if (!err)
		err = copy_item_make(copy, view, &item);
	if (err)
		return err;

	/* (1) Linked data becomes durable. Power fails before or at it: head is as it was; the data lies in blocks that
	 *     are free. */
	err = copy_fence(copy, PM_POINT_DATA);
	if (err)
		goto free_item;

	/* (2) The record is stored. Power fails: it is there whole, and then so is its data, or it is torn and not
	 *     there: both are states after a whole commit, and nobody was answered yet. */
	ring_write(copy, copy->head_pos, rec, view->len);

	/* (3) The record becomes durable. From here on recovery finds it, and the commit may be answered. */
	err = copy_fence(copy, PM_POINT_RECORD);
	if (err)
		goto free_item;
	copy_head_move(copy, &item);
	return 0;

free_item:
	free(item.freed);
	return err;
}

int copy_append(struct copy *copy, const void *rec, uint32_t len)
{
	struct redo_view view;
	int err = copy_writable(copy);

	if (!err)
		err = redo_parse(rec, len, &copy->geom, &view);
	return err ? err : copy_append_parsed(copy, rec, &view);
}

/* ----------------------------------------------------------------------------------------------- page and reset */

/* Power fails before the fence: the new page is whole or its checksum is wrong, and then the other slot's counts. */
int copy_page_set(struct copy *copy, const struct copy_page *page)
{
	unsigned slot = copy->page_slot ^ 1;
	struct media_page_omf omf;
	int err = copy_writable(copy);

	if (err)
		return err;
	copy_page_encode(page, copy->page_generation + 1, &omf);
	pm_write(copy->pm, copy_page_off(slot), &omf, sizeof(omf));
	err = copy_fence(copy, PM_POINT_PAGE);
	if (err)
		return err;
	copy->page = *page;
	copy->page_generation++;
	copy->page_slot = slot;
	return 0;
}

/* The ring is zeroed whole: a record of the history that is being replaced may have any sequence, so a later scan could
 * not tell it from damage. Power fails anywhere: the page still says inconsistent, and this is called again; so the ring
 * needs no fence of its own, that of the first superblock makes it durable before any page that says consistent. */
int copy_reset(struct copy *copy, const struct copy_point *at, uint64_t used_blks)
{
	struct media_sb_omf sb = copy->sb;
	int err = copy_writable(copy);

	if (err)
		return err;
	if (copy->page.state != MEDIA_INCONSISTENT)
		return errmsg_set(-EPERM, "copy: not marked inconsistent, cannot be reset");
	if (at->seq > MEDIA_SEQ_MAX || used_blks > copy->geom.blk_count)
		return errmsg_set(-EINVAL, "copy: cannot be reset to sequence %llu with %llu used blocks", (ull)at->seq,
			(ull)used_blks);
	pm_zero(copy->pm, media_ring_off(0), copy->geom.ring_bytes);
	copy_sb_set_tail(&sb, at, 0, used_blks);
	err = sb_write_both(copy, &sb);
	if (err)
		return err;
	items_drop(copy, copy->item_count);
	copy->tail = copy->head = *at;
	copy->tail_pos = copy->head_pos = 0;
	copy->bytes_held = copy->bytes_live = 0;
	copy->sb_alone = false;
	copy->used_blks = used_blks;
	copy->replay_seq = at->seq;
	return 0;
}
