/* The one replay function: puts what records of the ring say in place, and the table and summaries that follow from
 * them. Used by every checkpoint and by every recovery; the ring is its only source.
 *
 * A batch of records (tail, last] is copied out of the ring, checked again, and then:
 *
 *   collect     the blocks with lines and the groups touched, each once, sorted
 *   mark        per block: the newest record anywhere in the ring that frees it
 *   summaries   new words computed and checked; nothing is stored before that
 *   lines       newest record first, so that a line changed often is stored once
 *   entries     oldest record first, the newest word wins
 *   check       each block's content against the newest checksum
 *   fence, superblocks
 *
 * Invariants. A block freed by the same or a later record is not touched, since its new owner may already have written
 * there. All of it may be cut off anywhere and is then done again from the start, possibly in other batches: lines and
 * entries are absolute, a summary's word names the last record it counts. Entries in place are never read here. How the
 * words of both are laid down: copy_table.c. */
#include "copy_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errmsg.h"
#include "plant.h"

typedef unsigned long long ull;

struct touched_blk { /* has lines in the batch */
	uint64_t blk;
	uint64_t done;      /* lines already stored, by a newer record */
	uint64_t freed_seq; /* newest record in the ring that frees it, 0 when none */
	uint64_t seq;       /* newest record with lines for it that count, 0 when none ... */
	uint32_t csum;      /* ... and the block's checksum after it */
	bool mixed;         /* may already hold lines of a record behind the batch: content is checked with that one */
};

struct touched_group {
	uint64_t group;
	uint64_t word_seq; /* as on media: records up to here are counted */
	uint64_t seq;      /* after the batch */
	int64_t used;
};

struct replay {
	struct copy *copy;
	size_t count; /* records: the first items of the ring */
	uint64_t last_seq;
	struct redo_view *views;  /* count of them, into copy->buf */
	struct touched_blk *blks; /* sorted */
	size_t blk_count;
	struct touched_group *groups; /* sorted */
	size_t group_count;
};

/* --------------------------------------------------------------------------------------------------- the batch */

/* How many records from tail on have a sequence up to upto and together at most limit bytes. */
static size_t batch_count(const struct copy *copy, uint64_t upto, uint64_t limit)
{
	uint64_t bytes = 0;
	size_t n = 0;

	for (; n < copy->item_count; n++) {
		const struct copy_rec *rec = &copy_item_at(copy, n)->rec;

		bytes += rec->len;
		if (rec->at.seq > upto || bytes > limit)
			break;
	}
	return n;
}

/* Copies one record out of the ring and checks that it still is what was appended or found there. */
static int record_reread(const struct copy *copy, const struct copy_rec *rec, void *buf, struct redo_view *view)
{
	int err;

	copy_rec_read(copy, rec, buf);
	err = redo_parse(buf, rec->len, &copy->geom, view);
	if (!err && (view->seq != rec->at.seq || memcmp(&view->hash, &rec->at.hash, sizeof(view->hash)) != 0))
		err = errmsg_set(-EBADMSG, "another record than %llu", (ull)rec->at.seq);
	if (err)
		return errmsg_prefix(
			err, "ring offset 0x%llx: changed since it was checked", (ull)media_ring_off(rec->pos));
	return 0;
}

static int batch_read(struct replay *r)
{
	uint8_t *at = r->copy->buf;

	r->views = calloc(r->count, sizeof(*r->views));
	if (!r->views)
		return errmsg_set(-ENOMEM, "checkpoint: no memory for %zu records", r->count);
	for (size_t i = 0; i < r->count; i++) {
		const struct copy_rec *rec = &copy_item_at(r->copy, i)->rec;
		int err = record_reread(r->copy, rec, at, &r->views[i]);

		if (err)
			return err;
		at += rec->len;
		r->last_seq = rec->at.seq;
	}
	return 0;
}

static bool runs_hold(const struct redo_run_omf *runs, uint32_t count, uint64_t blk)
{
	for (uint32_t i = 0; i < count; i++)
		if (blk - le64_get(runs[i].blk) < le32_get(runs[i].count))
			return true;
	return false;
}

/* What the record makes of the block, if it touches it. */
static bool record_types(const struct redo_view *v, uint64_t blk, uint32_t *type)
{
	bool touched = false;

	if (runs_hold(v->freed, v->freed_runs, blk)) {
		*type = MEDIA_FREE;
		touched = true;
	}
	for (uint32_t i = 0; i < v->linked_runs; i++)
		if (runs_hold(&v->linked[i], 1, blk)) {
			*type = le32_get(v->linked[i].type);
			touched = true;
		}
	for (uint32_t i = 0; i < v->line_blks; i++)
		if (le64_get(v->lines[i].blk) == blk) {
			*type = le32_get(v->lines[i].type);
			touched = true;
		}
	return touched;
}

/* The two words of an entry become durable each by itself; the first one holds sequence and type. Its type is looked at
 * but not believed: it may be damage. */
int copy_entry_get_torn(const struct copy *copy, uint64_t blk, struct copy_entry *entry)
{
	const struct media_entry_omf *omf = pm_ptr(copy->pm, media_entry_off(&copy->geom, blk));
	uint64_t word = le64_get(omf->seq_type);
	struct redo_view v;
	void *buf = aligned_alloc(MEDIA_LINE_BYTES, copy->rec_max);
	struct copy_entry newest = { 0 };
	bool touched = false;
	int err = buf ? 0 : errmsg_set(-ENOMEM, "copy: no memory");

	for (size_t i = 0; i < copy->item_count && !err; i++) {
		err = record_reread(copy, &copy_item_at(copy, i)->rec, buf, &v);
		if (!err && record_types(&v, blk, &newest.type)) {
			newest.seq = v.seq;
			touched = true;
		}
	}
	free(buf);
	if (err)
		return err;
	if (!touched || (word & 0xff) > MEDIA_TYPE_MAX || word >> 8 > copy->replay_seq)
		return errmsg_set(-EBADMSG, "block 0x%llx: table entry damaged", (ull)blk);
	*entry = newest;
	return 0;
}

/* --------------------------------------------------------------------------------------------------- collect */

/* Both touched structures start with what they are sorted by. */
static int first_compare(const void *a, const void *b)
{
	uint64_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return x < y ? -1 : x > y;
}

/* Sorts, leaves one of each; returns how many remain. */
static size_t sort_unique(void *items, size_t count, size_t bytes)
{
	uint8_t *at = items;
	size_t n = 0;

	if (!count)
		return 0;
	qsort(items, count, bytes, first_compare);
	for (size_t i = 1; i < count; i++)
		if (first_compare(at + n * bytes, at + i * bytes) != 0)
			memmove(at + ++n * bytes, at + i * bytes, bytes);
	return n + 1;
}

static void group_note(struct replay *r, uint64_t blk)
{
	uint64_t group = media_group_of(&r->copy->geom, blk);

	if (!r->group_count || r->groups[r->group_count - 1].group != group)
		r->groups[r->group_count++].group = group;
}

static void collect_record(struct replay *r, const struct redo_view *v)
{
	for (uint32_t i = 0; i < v->linked_runs; i++)
		group_note(r, le64_get(v->linked[i].blk));
	for (uint32_t i = 0; i < v->freed_runs; i++)
		group_note(r, le64_get(v->freed[i].blk));
	for (uint32_t i = 0; i < v->line_blks; i++) {
		group_note(r, le64_get(v->lines[i].blk));
		r->blks[r->blk_count++].blk = le64_get(v->lines[i].blk);
	}
}

static int batch_collect(struct replay *r)
{
	size_t blks = 0, groups = 0;

	for (size_t i = 0; i < r->count; i++) {
		const struct redo_view *v = &r->views[i];

		blks += v->line_blks;
		groups += (size_t)v->linked_runs + v->freed_runs + v->line_blks;
	}
	r->blks = calloc(blks + 1, sizeof(*r->blks)); /* + 1: never of size 0 */
	r->groups = calloc(groups + 1, sizeof(*r->groups));
	if (!r->blks || !r->groups)
		return errmsg_set(-ENOMEM, "checkpoint: no memory for %zu blocks", blks);
	for (size_t i = 0; i < r->count; i++)
		collect_record(r, &r->views[i]);
	r->blk_count = sort_unique(r->blks, r->blk_count, sizeof(*r->blks));
	r->group_count = sort_unique(r->groups, r->group_count, sizeof(*r->groups));
	return 0;
}

/* Index of the first touched block that is not before blk. */
static size_t blk_lower(const struct replay *r, uint64_t blk)
{
	size_t lo = 0, hi = r->blk_count;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (r->blks[mid].blk < blk)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct touched_group *group_find(const struct replay *r, uint64_t blk)
{
	uint64_t group = media_group_of(&r->copy->geom, blk);
	struct touched_group *at = bsearch(&group, r->groups, r->group_count, sizeof(*at), first_compare);

	assert(at);
	return at;
}

/* ------------------------------------------------------------------------------------------------------- mark */

static void mark_freed(struct replay *r)
{
	for (size_t i = 0; i < r->copy->item_count; i++) {
		const struct copy_item *item = copy_item_at(r->copy, i);

		for (uint32_t j = 0; j < item->freed_count; j++) {
			const struct copy_run *run = &item->freed[j];

			for (size_t k = blk_lower(r, run->blk);
				k < r->blk_count && r->blks[k].blk < run->blk + run->count; k++)
				r->blks[k].freed_seq = item->rec.at.seq;
		}
	}
}

/* A replay that was cut off may have stored lines of records behind this batch. What they belong to can be checked only
 * together with those records. */
static int mark_mixed(struct replay *r)
{
	struct copy *copy = r->copy;
	struct redo_view v;
	uint8_t *buf;
	int err = 0;

	if (r->last_seq >= copy->replay_seq || r->count == copy->item_count)
		return 0;
	buf = aligned_alloc(MEDIA_LINE_BYTES, copy->rec_max);
	if (!buf)
		return errmsg_set(-ENOMEM, "checkpoint: no memory");
	for (size_t i = r->count; i < copy->item_count; i++) {
		const struct copy_rec *rec = &copy_item_at(copy, i)->rec;

		if (rec->at.seq > copy->replay_seq)
			break;
		err = record_reread(copy, rec, buf, &v);
		if (err)
			break;
		for (uint32_t j = 0; j < v.line_blks; j++) {
			size_t k = blk_lower(r, le64_get(v.lines[j].blk));

			if (k < r->blk_count && r->blks[k].blk == le64_get(v.lines[j].blk))
				r->blks[k].mixed = true;
		}
	}
	free(buf);
	return err;
}

/* -------------------------------------------------------------------------------------------------- summaries */

/* The word as it counts for replay. */
static int summary_load(const struct copy *copy, struct touched_group *at)
{
	uint32_t used;
	int err = copy_summary_get_torn(copy, at->group, &at->word_seq, &used);

	if (err)
		return err;
	at->seq = at->word_seq;
	at->used = used;
	return 0;
}

static void summary_count(struct replay *r, const struct redo_view *v, uint64_t blk, int64_t delta)
{
	struct touched_group *at = group_find(r, blk);

	if (v->seq <= at->word_seq)
		return;
	at->used += delta;
	at->seq = v->seq;
}

static int summaries_compute(struct replay *r)
{
	for (size_t i = 0; i < r->group_count; i++) {
		int err = summary_load(r->copy, &r->groups[i]);

		if (err)
			return err;
	}
	for (size_t i = 0; i < r->count; i++) {
		const struct redo_view *v = &r->views[i];

		for (uint32_t j = 0; j < v->linked_runs; j++)
			summary_count(r, v, le64_get(v->linked[j].blk), le32_get(v->linked[j].count));
		for (uint32_t j = 0; j < v->freed_runs; j++)
			summary_count(r, v, le64_get(v->freed[j].blk), -(int64_t)le32_get(v->freed[j].count));
		for (uint32_t j = 0; j < v->line_blks; j++)
			summary_count(r, v, le64_get(v->lines[j].blk), 0);
	}
	for (size_t i = 0; i < r->group_count; i++) {
		const struct touched_group *at = &r->groups[i];

		if (at->used < 0 || (uint64_t)at->used > copy_group_room(r->copy, at->group))
			return errmsg_set(-EBADMSG, "group %llu: %lld blocks used after record %llu, has %llu",
				(ull)at->group, (long long)at->used, (ull)at->seq, (ull)copy_group_room(r->copy, at->group));
	}
	return 0;
}

static void summaries_apply(struct replay *r)
{
	for (size_t i = 0; i < r->group_count && !PLANTED(PLANT_SUMMARY); i++)
		copy_summary_store(r->copy, r->groups[i].group, r->groups[i].seq, (uint32_t)r->groups[i].used);
}

/* ------------------------------------------------------------------------------------------------------ lines */

/* Stores the lines of todo, neighbours together. bytes holds the lines of mask, of which todo is a part. */
static void lines_store(struct copy *copy, uint64_t blk, uint64_t mask, uint64_t todo, const uint8_t *bytes)
{
	while (todo) {
		unsigned first = (unsigned)__builtin_ctzll(todo);
		uint64_t from = todo >> first, below = mask & ((1ull << first) - 1);
		unsigned count = ~from ? (unsigned)__builtin_ctzll(~from) : MEDIA_LINES_PER_BLOCK;

		pm_write(copy->pm, media_off(blk) + first * MEDIA_LINE_BYTES,
			bytes + (size_t)__builtin_popcountll(below) * MEDIA_LINE_BYTES, count * MEDIA_LINE_BYTES);
		if (first + count == MEDIA_LINES_PER_BLOCK)
			break;
		todo = todo >> (first + count) << (first + count);
	}
}

static void record_apply_lines(struct replay *r, const struct redo_view *v)
{
	const uint8_t *bytes = v->line_bytes;

	for (uint32_t i = 0; i < v->line_blks; i++) {
		uint64_t blk = le64_get(v->lines[i].blk), mask = le64_get(v->lines[i].mask);
		struct touched_blk *at = &r->blks[blk_lower(r, blk)];

		assert(at->blk == blk);
		if (at->freed_seq < v->seq || PLANTED(PLANT_REPLAY)) {
			if (!at->seq) {
				at->seq = v->seq;
				at->csum = le32_get(v->lines[i].csum);
			}
			lines_store(r->copy, blk, mask, mask & ~at->done, bytes);
			at->done |= mask;
		}
		bytes += (size_t)__builtin_popcountll(mask) * MEDIA_LINE_BYTES;
	}
}

static int contents_check(const struct replay *r)
{
	for (size_t i = 0; i < r->blk_count; i++) {
		const struct touched_blk *at = &r->blks[i];

		if (!at->seq || at->mixed)
			continue;
		if (csum_crc32c(0, pm_ptr(r->copy->pm, media_off(at->blk)), MEDIA_BLOCK_BYTES) != at->csum)
			return errmsg_set(-EBADMSG,
				"block 0x%llx: content is not what record %llu left there: "
				"heal from a replica or restore",
				(ull)at->blk, (ull)at->seq);
	}
	return 0;
}

/* ---------------------------------------------------------------------------------------------------- entries */

/* Entries of a run, one store for each table block it reaches into. csums: of its blocks, NULL for zeros. */
static void run_apply(struct copy *copy, uint64_t seq, const struct redo_run_omf *run, const le32_t *csums)
{
	struct media_entry_omf omf[MEDIA_ENTRIES_PER_BLOCK];
	uint64_t blk = le64_get(run->blk), behind = blk + le32_get(run->count);

	while (blk < behind) {
		uint64_t off = media_entry_off(&copy->geom, blk);
		size_t room = (MEDIA_BLOCK_BYTES - off % MEDIA_BLOCK_BYTES) / sizeof(*omf), n = 0;

		for (; n < room && blk < behind; n++, blk++) {
			struct copy_entry entry = {
				.seq = seq, .type = le32_get(run->type), .csum = csums ? le32_get(*csums++) : 0
			};

			copy_entry_encode(blk, &entry, &omf[n]);
		}
		pm_write(copy->pm, off, omf, n * sizeof(*omf));
	}
}

static void record_apply_entries(struct copy *copy, const struct redo_view *v)
{
	uint64_t seq = PLANTED(PLANT_CHANGED) ? 1 : v->seq;
	const le32_t *csums = v->csums;

	for (uint32_t i = 0; i < v->linked_runs; i++) {
		run_apply(copy, seq, &v->linked[i], csums);
		csums += le32_get(v->linked[i].count);
	}
	for (uint32_t i = 0; i < v->line_blks; i++) {
		struct copy_entry entry = {
			.seq = seq, .type = le32_get(v->lines[i].type), .csum = le32_get(v->lines[i].csum)
		};

		copy_entry_store(copy, le64_get(v->lines[i].blk), &entry);
	}
	for (uint32_t i = 0; i < v->freed_runs; i++)
		run_apply(copy, seq, &v->freed[i], NULL);
}

/* ------------------------------------------------------------------------------------------------- checkpoint */

/* Everything that can fail for another reason than the content of blocks, before the first store. */
static int batch_prepare(struct replay *r)
{
	int err = batch_read(r);

	if (!err)
		err = batch_collect(r);
	if (err)
		return err;
	mark_freed(r);
	err = mark_mixed(r);
	return err ? err : summaries_compute(r);
}

static int batch_apply(struct replay *r)
{
	struct copy *copy = r->copy;
	int err;

	if (copy->replay_seq < r->last_seq)
		copy->replay_seq = r->last_seq;
	for (size_t i = r->count; i-- > 0;)
		record_apply_lines(r, &r->views[i]);
	for (size_t i = 0; i < r->count; i++)
		record_apply_entries(copy, &r->views[i]);
	summaries_apply(r);
	err = contents_check(r);
	if (err)
		return err;

	/* (3) All of it becomes durable. Power fails before or at it: any part may be in place, tail is as it was, and
	 *     all records are in the ring: the same is done again. The superblocks follow (copy.c). */
	return copy_fence(copy, PM_POINT_REPLAY);
}

static int batch_run(struct copy *copy, size_t count)
{
	struct replay r = { .copy = copy, .count = count };
	int err = batch_prepare(&r);

	if (!err)
		err = batch_apply(&r);
	if (!err)
		err = copy_tail_advance(copy, count);
	free(r.views);
	free(r.blks);
	free(r.groups);
	return err;
}

/* Goes in batches of what copy->buf holds, so that memory does not depend on how much there is to do. */
int copy_checkpoint(struct copy *copy, uint64_t upto, uint64_t bytes_max)
{
	int err = copy_writable(copy);
	bool first = true;

	while (!err && copy->item_count && copy->tail.seq < upto) {
		uint64_t limit = bytes_max < copy->rec_max ? bytes_max : copy->rec_max, before = copy->bytes_live;
		size_t count = batch_count(copy, upto, limit);

		if (!count && !first)
			break;
		err = batch_run(copy, count ? count : 1);
		first = false;
		bytes_max -= before - copy->bytes_live < bytes_max ? before - copy->bytes_live : bytes_max;
	}
	if (!err && copy->sb_alone) /* nothing to apply, but the ring is held by an older or damaged superblock */
		err = copy_tail_advance(copy, 0);
	return err;
}
