/* One copy's fixed places and its ring: superblocks, per-copy page, opening, appending.
 *
 *   newest superblock --tail_pos--> record tail+1, tail+2, ... head, each checked against the one before by sequence and
 *   history hash; the first that does not continue the chain ends it. That is either the end of history (a record torn
 *   by the crash, or bytes of an earlier lap), or damage in the middle. What tells them apart is a valid record of a
 *   later sequence elsewhere in the ring: appends are fenced one by one, so nothing can be durable behind a torn one.
 *
 * Ordering of an append, and of a checkpoint's end, is written out at copy_append and sb_write_both. A failed fence is
 * final: what the medium holds is unknown, so every later change is refused with -EIO. */
#include "copy_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errmsg.h"

#define ITEMS_MIN 64u
#define RING_GAP MEDIA_LINE_BYTES /* never used, so that equal positions mean an empty ring */

typedef unsigned long long ull;

static uint64_t sb_off(unsigned slot)
{
	return media_off(slot ? MEDIA_SB_B_BLK : MEDIA_SB_A_BLK);
}

static uint64_t page_off(unsigned slot)
{
	return media_off(MEDIA_PAGE_BLK) + slot * MEDIA_PAGE_SLOT_BYTES;
}

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

static uint64_t ring_dist(const struct copy *copy, uint64_t from, uint64_t to)
{
	return (to + copy->geom.ring_bytes - from) % copy->geom.ring_bytes;
}

/* The whole record at pos, if there is a valid one; the view points into the pool or, when it wraps, into copy->buf. */
static int record_at(const struct copy *copy, uint64_t pos, struct redo_view *view)
{
	struct redo_hdr_omf hdr;
	const void *at = pm_ptr(copy->pm, media_ring_off(pos));
	uint32_t len;

	copy_ring_read(copy, pos, &hdr, sizeof(hdr));
	len = redo_peek_len(&hdr, &copy->geom);
	if (!len)
		return errmsg_set(-EBADMSG, "no record header");
	if (pos + len > copy->geom.ring_bytes) {
		copy_ring_read(copy, pos, copy->buf, len);
		at = copy->buf;
	}
	return redo_parse(at, len, &copy->geom, view);
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
static int item_make(struct copy *copy, const struct redo_view *v, struct copy_item *item)
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
		.freed_count = v->freed_runs, .freed = freed,
	};
	return 0;
}

/* Moves head over the item. */
static void head_move(struct copy *copy, const struct copy_item *item)
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
static bool used_ok(const struct copy *copy, const struct redo_view *v)
{
	uint64_t used = copy->used_blks + v->linked_blks;

	return used >= v->freed_blks && used - v->freed_blks <= copy->geom.blk_count;
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

static void sb_seal(struct media_sb_omf *sb)
{
	sb->csum = le32_put(csum_crc32c(0, sb, offsetof(struct media_sb_omf, csum)));
}

static void sb_set_tail(struct media_sb_omf *sb, const struct copy_point *at, uint64_t pos, uint64_t used_blks)
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
 * (4) second slot, fence. From here on the space before the new tail is free. */
static int sb_write_both(struct copy *copy, struct media_sb_omf *sb)
{
	uint64_t generation = le64_get(copy->sb.generation);

	for (unsigned i = 1; i <= 2; i++) {
		unsigned slot = copy->sb_slot ^ 1;
		int err;

		sb->generation = le64_put(generation + i);
		sb_seal(sb);
		pm_write(copy->pm, sb_off(slot), sb, sizeof(*sb));
		err = copy_fence(copy, PM_POINT_SUPERBLOCK);
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
	sb_set_tail(&sb, &tail, pos, used);
	err = sb_write_both(copy, &sb);
	if (err)
		return err;
	copy->tail = tail;
	copy->tail_pos = pos;
	copy->bytes_live -= bytes;
	copy->bytes_held = 0;
	copy->sb_alone = false;
	items_drop(copy, count);
	assert(copy->bytes_live == ring_dist(copy, copy->tail_pos, copy->head_pos));
	return 0;
}

/* ----------------------------------------------------------------------------------------------------- format */

/* The old superblocks and page go first: a pool half formatted is no pool, never the one that was there before. */
int copy_format(struct pm *pm, const struct copy_format *fmt)
{
	static const struct copy_point start;
	struct media_sb_omf sb = { .version = le32_put(MEDIA_VERSION) };
	struct media_page_omf page;
	struct media_geom geom;
	int err = copy_geometry(pm->len, fmt->ring_bytes, &geom);

	if (err)
		return err;
	for (uint64_t blk = MEDIA_PAGE_BLK; blk < MEDIA_RING_BLK; blk++)
		pm_zero(pm, media_off(blk), MEDIA_BLOCK_BYTES);
	err = pm_fence(pm, PM_POINT_FORMAT);
	copy_page_encode(&fmt->page, 1, &page);
	pm_write(pm, page_off(0), &page, sizeof(page));
	if (!err)
		err = pm_fence(pm, PM_POINT_FORMAT);
	memcpy(sb.magic, MEDIA_SB_MAGIC, sizeof(sb.magic));
	memcpy(sb.content_uuid, fmt->content_uuid, sizeof(sb.content_uuid));
	sb.blk_count = le64_put(geom.blk_count);
	sb.ring_bytes = le64_put(geom.ring_bytes);
	sb.group0_blk = le64_put(geom.group0_blk);
	sb.root_blk = le64_put(geom.group0_blk + MEDIA_GROUP_META_BLKS);
	sb.hash_seed = le64_put(fmt->hash_seed);
	sb.created_ns = le64_put(fmt->created_ns);
	sb_set_tail(&sb, &start, 0, 0);
	for (unsigned slot = 0; slot < 2 && !err; slot++) {
		sb.generation = le64_put(slot + 1);
		sb_seal(&sb);
		pm_write(pm, sb_off(slot), &sb, sizeof(sb));
		err = pm_fence(pm, PM_POINT_SUPERBLOCK);
	}
	return err ? errmsg_set(-EIO, "format: a fence failed") : 0;
}

/* ------------------------------------------------------------------------------------------------------- open */

/* Both superblocks describe one pool: all but generation, tail and checksum is equal. */
static bool sb_static_equal(const struct media_sb_omf *a, const struct media_sb_omf *b)
{
	struct media_sb_omf x = *a, y = *b;
	static const struct copy_point none;

	sb_set_tail(&x, &none, 0, 0);
	sb_set_tail(&y, &none, 0, 0);
	x.generation = y.generation = le64_put(0);
	x.csum = y.csum = le32_put(0);
	return memcmp(&x, &y, sizeof(x)) == 0;
}

static bool sb_same_tail(const struct media_sb_omf *a, const struct media_sb_omf *b)
{
	return le64_get(a->tail_pos) == le64_get(b->tail_pos) && le64_get(a->tail_epoch) == le64_get(b->tail_epoch) &&
	       memcmp(a->tail_hash, b->tail_hash, sizeof(a->tail_hash)) == 0;
}

/* An older superblock's tail is behind or at the newest one's, and the ring between them is kept. */
static int sb_hold(struct copy *copy, const struct media_sb_omf *older)
{
	uint64_t old_seq = le64_get(older->tail_seq), seq = le64_get(copy->sb.tail_seq);

	if (!sb_static_equal(&copy->sb, older))
		return errmsg_set(-EBADMSG, "superblocks at 0x%llx and 0x%llx: of different pools", (ull)sb_off(0),
				  (ull)sb_off(1));
	if (copy->page.state == MEDIA_INCONSISTENT)
		return 0; /* cut off in copy_reset, which will be called again: nothing here counts */
	if (old_seq > seq || (old_seq == seq && !sb_same_tail(&copy->sb, older)))
		return errmsg_set(-EBADMSG, "superblock at 0x%llx: older, but its tail %llu is not before %llu",
				  (ull)sb_off(copy->sb_slot ^ 1), (ull)old_seq, (ull)seq);
	copy->bytes_held = ring_dist(copy, le64_get(older->tail_pos), le64_get(copy->sb.tail_pos));
	copy->sb_alone = old_seq != seq;
	return 0;
}

static int sb_load(const struct pm *pm, unsigned slot, struct media_sb_omf *sb, struct media_geom *geom)
{
	int err;

	memcpy(sb, pm_ptr(pm, sb_off(slot)), sizeof(*sb));
	err = copy_sb_check(sb, pm->len, geom);
	return err ? errmsg_prefix(err, "offset 0x%llx", (ull)sb_off(slot)) : 0;
}

/* Picks the newest superblock. A newer format in either slot refuses the pool: its writer knew why. */
static int sb_open(struct copy *copy, struct media_sb_omf *older)
{
	struct media_sb_omf sb[2];
	struct media_geom geom[2];
	int err_a, err_b;
	unsigned newest;
	uint32_t unknown;

	err_b = sb_load(copy->pm, 1, &sb[1], &geom[1]);
	if (err_b == -EPROTONOSUPPORT)
		return err_b;
	err_a = sb_load(copy->pm, 0, &sb[0], &geom[0]);
	if (err_a == -EPROTONOSUPPORT)
		return err_a;
	if (err_a && err_b)
		return err_a == err_b ? err_a : errmsg_set(-EBADMSG, "no valid superblock at 0x%llx or 0x%llx",
							   (ull)sb_off(0), (ull)sb_off(1));
	newest = err_a || (!err_b && le64_get(sb[1].generation) > le64_get(sb[0].generation));
	unknown = le32_get(sb[newest].feat_ro) & ~MEDIA_FEATURES_RO;
	if (unknown && !copy->read_only)
		return errmsg_set(-EROFS, "superblock at 0x%llx: unknown features 0x%x, can only be read",
				  (ull)sb_off(newest), unknown);
	copy->sb = sb[newest];
	copy->sb_slot = newest;
	copy->geom = geom[newest];
	copy->sb_alone = err_a || err_b;
	*older = sb[newest ^ 1];
	return 0;
}

static int page_open(struct copy *copy)
{
	struct copy_page page[2];
	uint64_t generation[2] = { 0, 0 };
	int err[2];
	unsigned newest;

	for (unsigned slot = 0; slot < 2; slot++)
		err[slot] = copy_page_decode(pm_ptr(copy->pm, page_off(slot)), &page[slot], &generation[slot]);
	if (err[0] && err[1])
		return errmsg_set(-EBADMSG, "no valid per-copy page at 0x%llx", (ull)page_off(0));
	newest = err[0] || (!err[1] && generation[1] > generation[0]);
	copy->page = page[newest];
	copy->page_generation = generation[newest];
	copy->page_slot = newest;
	return 0;
}

/* Whether the record continues the chain at head. */
static bool continues(const struct copy *copy, const struct redo_view *v)
{
	return v->seq == copy->head.seq + 1 && v->epoch >= copy->head.epoch &&
	       memcmp(v->prev_hash.b, copy->head.hash.b, sizeof(v->prev_hash.b)) == 0;
}

/* Walks the records from tail to head. */
static int ring_walk(struct copy *copy)
{
	struct copy_item item;
	struct redo_view v;
	int err;

	for (;;) {
		if (record_at(copy, copy->head_pos, &v) || !continues(copy, &v))
			return 0;
		if (v.len > copy_ring_free(copy))
			return 0; /* appending never runs into what is held: the scan will say so */
		if (!used_ok(copy, &v))
			return errmsg_set(-EBADMSG, "ring offset 0x%llx: record %llu does not fit the count of used blocks",
					  (ull)media_ring_off(copy->head_pos), (ull)v.seq);
		err = item_make(copy, &v, &item);
		if (err)
			return err;
		head_move(copy, &item);
	}
}

/* Whether a valid record dist bytes behind head can belong to the history behind head: each record between takes at
 * least a header. */
static bool plausibly_later(const struct copy *copy, const struct redo_view *v, uint64_t dist)
{
	return v->seq > copy->head.seq && v->seq - copy->head.seq - 1 <= dist / sizeof(struct redo_hdr_omf);
}

/* Looks for a later record in everything that was not walked. A valid record of an earlier lap is stepped over whole:
 * what lies in its lines is somebody's data, which may look like anything. */
static int ring_scan(const struct copy *copy)
{
	uint64_t dist = 0, end = copy->geom.ring_bytes - copy->bytes_live, pos = copy->head_pos;
	struct redo_view v;

	while (dist < end) {
		uint64_t step = MEDIA_LINE_BYTES;
		le32_t magic;

		memcpy(&magic, pm_ptr(copy->pm, media_ring_off(pos)), sizeof(magic));
		if (le32_get(magic) == REDO_MAGIC && record_at(copy, pos, &v) == 0) {
			if (plausibly_later(copy, &v, dist))
				return errmsg_set(-EBADMSG, "ring offset 0x%llx: record %llu is damaged, but record %llu at "
						  "0x%llx is whole: heal from a replica or restore",
						  (ull)media_ring_off(copy->head_pos), (ull)copy->head.seq + 1, (ull)v.seq,
						  (ull)media_ring_off(pos));
			step = v.len;
		}
		dist += step;
		pos += step;
		if (pos >= copy->geom.ring_bytes)
			pos -= copy->geom.ring_bytes;
	}
	return 0;
}

/* Takes the newest superblock as tail and finds head. A copy that is being overwritten promises nothing about its ring:
 * it is opened as far as it goes, so that the overwriting can be finished. */
static int ring_open(struct copy *copy)
{
	int err;

	copy->tail.seq = le64_get(copy->sb.tail_seq);
	copy->tail.epoch = le64_get(copy->sb.tail_epoch);
	memcpy(copy->tail.hash.b, copy->sb.tail_hash, sizeof(copy->tail.hash.b));
	copy->tail_pos = le64_get(copy->sb.tail_pos);
	copy->head = copy->tail;
	copy->head_pos = copy->tail_pos;
	copy->used_blks = le64_get(copy->sb.used_blks);
	err = ring_walk(copy);
	if (!err && copy->page.state == MEDIA_CONSISTENT)
		err = ring_scan(copy);
	copy->replay_seq = copy->head.seq;
	return err;
}

int copy_open(struct pm *pm, bool read_only, struct copy **out)
{
	struct copy *copy;
	struct media_sb_omf older;
	int err;

	if (pm->len < MEDIA_POOL_BYTES_MIN)
		return errmsg_set(-EMEDIUMTYPE, "pool of %llu bytes: too small for this format", (ull)pm->len);
	copy = calloc(1, sizeof(*copy));
	if (!copy)
		return errmsg_set(-ENOMEM, "copy: no memory");
	copy->pm = pm;
	copy->read_only = read_only;
	err = sb_open(copy, &older);
	if (!err)
		err = page_open(copy);
	if (!err && !copy->sb_alone)
		err = sb_hold(copy, &older);
	if (err)
		goto close_copy;
	copy->rec_max = copy->geom.ring_bytes / REDO_RING_SHARE;
	copy->buf = aligned_alloc(MEDIA_LINE_BYTES, copy->rec_max);
	if (!copy->buf) {
		err = errmsg_set(-ENOMEM, "copy: no memory");
		goto close_copy;
	}
	err = ring_open(copy);
	if (err)
		goto close_copy;
	errmsg_clear(); /* of the record that ended the walk */
	*out = copy;
	return 0;

close_copy:
	copy_close(copy);
	return err;
}

void copy_close(struct copy *copy)
{
	if (!copy)
		return;
	items_drop(copy, copy->item_count);
	free(copy->items);
	free(copy->buf);
	free(copy);
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
	if (v->epoch < copy->head.epoch || v->epoch < copy->page.fence_epoch)
		return errmsg_set(-ESTALE, "record %llu: epoch %llu, the copy is at %llu and fenced at %llu", (ull)v->seq,
				  (ull)v->epoch, (ull)copy->head.epoch, (ull)copy->page.fence_epoch);
	if (!continues(copy, v))
		return errmsg_set(-EILSEQ, "record %llu: does not continue the history at %llu", (ull)v->seq,
				  (ull)copy->head.seq);
	if (!used_ok(copy, v))
		return errmsg_set(-EBADMSG, "record %llu: does not fit the count of used blocks", (ull)v->seq);
	if (v->len > copy_ring_free(copy))
		return errmsg_set(-ENOSPC, "record %llu: %u bytes, %llu free in the ring", (ull)v->seq, v->len,
				  (ull)copy_ring_free(copy));
	return 0;
}

/* The record is stored in one go, header included: without a fence between, the order of stores says nothing about the
 * order in which they become durable. What keeps a torn record from passing for a whole one is the checksum over all of
 * it, together with the history hash, which bytes of an earlier lap cannot have. */
int copy_append(struct copy *copy, const void *rec, uint32_t len)
{
	struct redo_view v;
	struct copy_item item;
	int err = copy_writable(copy);

	if (!err)
		err = redo_parse(rec, len, &copy->geom, &v);
	if (!err)
		err = append_check(copy, &v);
	if (!err)
		err = item_make(copy, &v, &item);
	if (err)
		return err;

	/* (1) Linked data becomes durable. Power fails before or at it: head is as it was; the data lies in blocks that
	 *     are free. */
	err = copy_fence(copy, PM_POINT_DATA);
	if (err)
		goto free_item;

	/* (2) The record is stored. Power fails: it is there whole, and then so is its data, or it is torn and not
	 *     there: both are states after a whole commit, and nobody was answered yet. */
	ring_write(copy, copy->head_pos, rec, len);

	/* (3) The record becomes durable. From here on recovery finds it, and the commit may be answered. */
	err = copy_fence(copy, PM_POINT_RECORD);
	if (err)
		goto free_item;
	head_move(copy, &item);
	return 0;

free_item:
	free(item.freed);
	return err;
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
	pm_write(copy->pm, page_off(slot), &omf, sizeof(omf));
	err = copy_fence(copy, PM_POINT_PAGE);
	if (err)
		return err;
	copy->page = *page;
	copy->page_generation++;
	copy->page_slot = slot;
	return 0;
}

/* The ring is zeroed whole: a record of the history that is being replaced may have any sequence, so a later scan could
 * not tell it from damage. Power fails anywhere: the page still says inconsistent, and this is called again. */
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
	err = copy_fence(copy, PM_POINT_RESYNC);
	if (err)
		return err;
	sb_set_tail(&sb, at, 0, used_blks);
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
