/* How a copy comes to be: formatting an empty pool, and finding tail and head of one that was used.
 *
 *   newest superblock --tail_pos--> record tail+1, tail+2, ... head, each checked against the one before by sequence
 *   and history hash; the first that does not continue the chain ends it. That is either the end of history (a record
 *   torn by the crash, or bytes of an earlier lap), or damage in the middle. What tells them apart is a valid record of
 *   a later sequence elsewhere in the ring: appends are fenced one by one, so nothing can be durable behind a torn one.
 *
 * Opening stores nothing. The older superblock may name an earlier tail (a checkpoint was cut off between the two):
 * then the ring from there on is held until the next checkpoint. */
#include "copy_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errmsg.h"

typedef unsigned long long ull;

/* ----------------------------------------------------------------------------------------------------- format */

/* Space behind everything before the groups, which is stored to at any time. */
static int front_back(struct pm *pm, const struct media_geom *geom)
{
	int err = pm->populate ? pm->populate(pm, 0, media_off(geom->group0_blk)) : 0;

	return err ? errmsg_prefix(err, "journal") : 0;
}

/* The old superblocks and page go first, then comes the new page: a pool half formatted is no pool, never the one that was
 * there before, nor one whose page says what another's said. Either superblock is enough, so both share a fence. */
int copy_format(struct pm *pm, const struct copy_format *fmt)
{
	static const struct copy_point start;
	struct media_sb_omf sb = { .version = le32_put(MEDIA_VERSION) };
	struct media_page_omf page;
	struct media_geom geom;
	int err = copy_geometry(pm->len, fmt->ring_bytes, &geom);

	if (!err)
		err = front_back(pm, &geom);
	if (err)
		return err;
	for (uint64_t blk = MEDIA_PAGE_BLK; blk < MEDIA_RING_BLK; blk++)
		pm_zero(pm, media_off(blk), MEDIA_BLOCK_BYTES);
	err = pm_fence(pm, PM_POINT_CLEAR);
	copy_page_encode(&fmt->page, 1, &page);
	pm_write(pm, copy_page_off(0), &page, sizeof(page));
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
	copy_sb_set_tail(&sb, &start, 0, 0);
	for (unsigned slot = 0; slot < 2 && !err; slot++) {
		sb.generation = le64_put(slot + 1);
		copy_sb_seal(&sb);
		pm_write(pm, copy_sb_off(slot), &sb, sizeof(sb));
	}
	if (!err)
		err = pm_fence(pm, PM_POINT_FORMAT_SB);
	return err ? errmsg_set(-EIO, "format: a fence failed") : 0;
}

/* ---------------------------------------------------------------------------------------- superblock and page */

/* Both superblocks describe one pool: all but generation, tail and checksum is equal. */
static bool sb_static_equal(const struct media_sb_omf *a, const struct media_sb_omf *b)
{
	struct media_sb_omf x = *a, y = *b;
	static const struct copy_point none;

	copy_sb_set_tail(&x, &none, 0, 0);
	copy_sb_set_tail(&y, &none, 0, 0);
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
		return errmsg_set(-EBADMSG, "superblocks at 0x%llx and 0x%llx: of different pools", (ull)copy_sb_off(0),
			(ull)copy_sb_off(1));
	if (copy->page.state == MEDIA_INCONSISTENT)
		return 0; /* cut off in copy_reset, which will be called again: nothing here counts */
	if (old_seq > seq || (old_seq == seq && !sb_same_tail(&copy->sb, older)))
		return errmsg_set(-EBADMSG, "superblock at 0x%llx: older, but its tail %llu is not before %llu",
			(ull)copy_sb_off(copy->sb_slot ^ 1), (ull)old_seq, (ull)seq);
	copy->bytes_held = copy_ring_dist(copy, le64_get(older->tail_pos), le64_get(copy->sb.tail_pos));
	copy->sb_alone = old_seq != seq;
	return 0;
}

static int sb_load(const struct pm *pm, unsigned slot, struct media_sb_omf *sb, struct media_geom *geom)
{
	int err;

	memcpy(sb, pm_ptr(pm, copy_sb_off(slot)), sizeof(*sb));
	err = copy_sb_check(sb, pm->len, geom);
	return err ? errmsg_prefix(err, "offset 0x%llx", (ull)copy_sb_off(slot)) : 0;
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
		return err_a == err_b ? err_a
				      : errmsg_set(-EBADMSG, "no valid superblock at 0x%llx or 0x%llx",
						(ull)copy_sb_off(0), (ull)copy_sb_off(1));
	newest = err_a || (!err_b && le64_get(sb[1].generation) > le64_get(sb[0].generation));
	unknown = le32_get(sb[newest].feat_ro) & ~MEDIA_FEATURES_RO;
	if (unknown && !copy->read_only)
		return errmsg_set(-EROFS, "superblock at 0x%llx: unknown features 0x%x, can only be read",
			(ull)copy_sb_off(newest), unknown);
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
		err[slot] = copy_page_decode(pm_ptr(copy->pm, copy_page_off(slot)), &page[slot], &generation[slot]);
	if (err[0] && err[1])
		return errmsg_set(-EBADMSG, "no valid per-copy page at 0x%llx", (ull)copy_page_off(0));
	newest = err[0] || (!err[1] && generation[1] > generation[0]);
	copy->page = page[newest];
	copy->page_generation = generation[newest];
	copy->page_slot = newest;
	return 0;
}

/* ------------------------------------------------------------------------------------------------------- ring */

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

/* Walks the records from tail to head. */
static int ring_walk(struct copy *copy)
{
	struct copy_item item;
	struct redo_view v;
	int err;

	for (;;) {
		if (record_at(copy, copy->head_pos, &v) || !copy_continues(copy, &v))
			return 0;
		if (v.len > copy_ring_free(copy))
			return 0; /* appending never runs into what is held: the scan will say so */
		if (!copy_used_ok(copy, &v))
			return errmsg_set(-EBADMSG, "ring offset 0x%llx: record %llu does not fit the used blocks",
				(ull)media_ring_off(copy->head_pos), (ull)v.seq);
		err = copy_item_make(copy, &v, &item);
		if (err)
			return err;
		copy_head_move(copy, &item);
	}
}

/* Whether a valid record dist bytes behind head can belong to the history behind head: each record between takes at
 * least a header. */
static bool plausibly_later(const struct copy *copy, const struct redo_view *v, uint64_t dist)
{
	return v->seq > copy->head.seq && v->seq - copy->head.seq - 1 <= dist / sizeof(struct redo_hdr_omf);
}

static int damage(const struct copy *copy, uint64_t later_seq, uint64_t later_pos)
{
	return errmsg_set(-EBADMSG,
		"ring offset 0x%llx: record %llu is damaged, but record %llu at 0x%llx is whole: "
		"heal from a replica or restore",
		(ull)media_ring_off(copy->head_pos), (ull)copy->head.seq + 1, (ull)later_seq,
		(ull)media_ring_off(later_pos));
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
				return damage(copy, v.seq, pos);
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
	if (!read_only)
		err = front_back(pm, &copy->geom);
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
