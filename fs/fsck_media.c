/* The checker on what knows blocks and not files: superblocks, per-copy page, the records still in the ring, block table
 * and counts.
 *
 * Of superblocks and page slots there are two, written in turn, so that a power cut may leave one of them torn: the other
 * one counts then, which is worth a note and no finding. */
#include "fsck_impl.h"

#include <stdlib.h>
#include "redo.h"

typedef unsigned long long ull;

/* ---------------------------------------------------------------- superblocks */

#define SLOTS 2u

static const char *const slot_names[SLOTS] = { "A", "B" };

static uint64_t sb_off(unsigned slot)
{
	return media_off(slot ? MEDIA_SB_B_BLK : MEDIA_SB_A_BLK);
}

static bool sb_one(struct fsck *f, unsigned slot, bool alone)
{
	struct media_geom geom;

	if (!copy_sb_check(pm_ptr(f->pm, sb_off(slot)), f->pm->len, &geom))
		return true;
	(alone ? fsck_found : fsck_note)(f, "superblock %s at pool offset %#llx: %s%s", slot_names[slot],
		(ull)sb_off(slot), errmsg_get(), alone ? "" : "; the other one counts");
	return false;
}

/* Two whole ones: what never changes is equal, and one was written behind the other. */
static void sb_both(struct fsck *f)
{
	const struct media_sb_omf *a = pm_ptr(f->pm, sb_off(0)), *b = pm_ptr(f->pm, sb_off(1)), *swap;

	if (le64_get(a->generation) > le64_get(b->generation)) {
		swap = a;
		a = b;
		b = swap;
	}
	if (memcmp(a, b, offsetof(struct media_sb_omf, generation)))
		fsck_found(f, "superblocks: A and B differ in fields that never change");
	if (le64_get(b->generation) - le64_get(a->generation) != 1)
		fsck_found(f, "superblocks: A and B are of generations %llu and %llu", (ull)le64_get(a->generation),
			(ull)le64_get(b->generation));
	if (le64_get(a->tail_seq) > le64_get(b->tail_seq))
		fsck_found(f, "superblocks: the older one's tail %llu is behind the newer one's %llu",
			(ull)le64_get(a->tail_seq), (ull)le64_get(b->tail_seq));
	else if (a->tail_seq.le == b->tail_seq.le && memcmp(a->tail_hash, b->tail_hash, sizeof(a->tail_hash)))
		fsck_found(f, "superblocks: A and B have different histories up to record %llu",
			(ull)le64_get(a->tail_seq));
}

/* ---------------------------------------------------------------- per-copy page */

static uint64_t page_off(unsigned slot)
{
	return media_off(MEDIA_PAGE_BLK) + slot * MEDIA_PAGE_SLOT_BYTES;
}

static const struct media_page_omf *page_at(const struct fsck *f, unsigned slot)
{
	return pm_ptr(f->pm, page_off(slot));
}

static void check_page(struct fsck *f)
{
	uint64_t generation[SLOTS] = { 0 }, newer, older;
	struct copy_page page[SLOTS];
	bool ok[SLOTS];

	for (unsigned slot = 0; slot < SLOTS; slot++)
		ok[slot] = !copy_page_decode(page_at(f, slot), &page[slot], &generation[slot]);
	for (unsigned slot = 0; slot < SLOTS; slot++)
		if (!ok[slot] && (!ok[!slot] || !fsck_all_zero(page_at(f, slot), sizeof(struct media_page_omf))))
			(ok[!slot] ? fsck_note : fsck_found)(f, "per-copy page: slot %u at pool offset %#llx: not valid%s",
				slot, (ull)page_off(slot), ok[!slot] ? "; the other one counts" : "");
	if (!ok[0] && !ok[1])
		return;
	newer = ok[0] && generation[0] > generation[1] ? 0 : ok[1];
	older = !newer;
	if (ok[older] && generation[newer] - generation[older] != 1)
		fsck_found(f, "per-copy page: slots of generations %llu and %llu", (ull)generation[0], (ull)generation[1]);
	if (page[newer].state != MEDIA_CONSISTENT)
		fsck_found(f, "per-copy page: the copy is marked as being overwritten");
}

void fsck_superblocks(struct fsck *f)
{
	struct media_geom geom;
	bool a, b = !copy_sb_check(pm_ptr(f->pm, sb_off(1)), f->pm->len, &geom);

	a = sb_one(f, 0, !b);
	b = sb_one(f, 1, !a);
	if (a && b)
		sb_both(f);
	check_page(f);
}

void fsck_front(const struct pm *pm, struct fsck_report *report)
{
	struct fsck f = { .pm = pm, .report = report, .file_off = FSCK_NO_OFF };

	if (pm->len >= media_off(MEDIA_RING_BLK))
		fsck_superblocks(&f);
}

/* ---------------------------------------------------------------- history */

struct history {
	struct fsck *f;
	uint8_t *buf;        /* of the record that wraps */
	struct redo_view at; /* the one before, when it ends where the next begins */
	uint64_t end;        /* ring byte behind it; UINT64_MAX: none */
};

/* The whole record at pos. */
static bool record_at(struct history *h, uint64_t pos, struct redo_view *v)
{
	uint64_t ring = h->f->geom->ring_bytes, left = ring - pos;
	const uint8_t *at = pm_ptr(h->f->pm, media_ring_off(pos)), *start = pm_ptr(h->f->pm, media_ring_off(0));
	struct redo_hdr_omf hdr;
	size_t first = left < sizeof(hdr) ? left : sizeof(hdr);
	uint32_t len;

	memcpy(&hdr.magic, at, sizeof(hdr.magic)); /* most lines are no header: a ring is gone through at memory speed */
	if (le32_get(hdr.magic) != REDO_MAGIC)
		return false;
	memcpy(&hdr, at, first);
	memcpy((uint8_t *)&hdr + first, start, sizeof(hdr) - first);
	len = redo_peek_len(&hdr, h->f->geom);
	if (!len)
		return false;
	if (len > left) {
		memcpy(h->buf, at, left);
		memcpy(h->buf + left, start, len - left);
		at = h->buf;
	}
	return !redo_parse(at, len, h->f->geom, v);
}

/* A record against the one before and against the tail. */
static void check_record(struct history *h, uint64_t pos, const struct redo_view *v)
{
	const struct copy_point tail = copy_tail(h->f->copy);
	uint64_t end = (pos + v->len) % h->f->geom->ring_bytes;

	if (h->end == pos && v->seq == h->at.seq + 1 &&
		(memcmp(&v->prev_hash, &h->at.hash, sizeof(v->prev_hash)) || v->epoch < h->at.epoch))
		fsck_found(h->f, "ring offset %#llx: record %llu does not continue record %llu",
			(ull)media_ring_off(pos), (ull)v->seq, (ull)h->at.seq);
	if (v->seq == tail.seq && (memcmp(&v->hash, &tail.hash, sizeof(v->hash)) || v->epoch != tail.epoch))
		fsck_found(h->f, "ring offset %#llx: record %llu is of another history than the superblock's tail",
			(ull)media_ring_off(pos), (ull)v->seq);
	else if (v->seq == tail.seq && end != le64_get(copy_sb(h->f->copy)->tail_pos))
		fsck_found(h->f, "ring offset %#llx: record %llu ends at %#llx, the superblock's tail is at %#llx",
			(ull)media_ring_off(pos), (ull)v->seq, (ull)media_ring_off(end),
			(ull)media_ring_off(le64_get(copy_sb(h->f->copy)->tail_pos)));
	h->at = *v;
	h->end = end;
}

/* Records stay in the ring until it wraps: those that are whole, from the oldest, have to lead to the tail. */
void fsck_history(struct fsck *f)
{
	uint64_t ring = f->geom->ring_bytes, dist = 0, pos = le64_get(copy_sb(f->copy)->tail_pos);
	struct history h = { .f = f, .end = UINT64_MAX };
	struct redo_view v;

	h.buf = aligned_alloc(MEDIA_LINE_BYTES, ring / REDO_RING_SHARE);
	if (!h.buf) {
		fsck_note(f, "ring: no memory to check its history");
		return;
	}
	while (dist < ring) {
		bool whole = record_at(&h, pos, &v);
		uint64_t step = whole ? v.len : MEDIA_LINE_BYTES;

		if (whole)
			check_record(&h, pos, &v);
		dist += step;
		pos += step;
		if (pos >= ring)
			pos -= ring;
	}
	free(h.buf);
}

/* ---------------------------------------------------------------- block table */

/* Whole entries only, so that memory is bounded by what the pool holds, not by what it says. */
void fsck_tables_scan(struct fsck *f)
{
	struct copy_entry entry;

	for (uint64_t blk = f->geom->group0_blk; blk < f->geom->blk_count; blk++) {
		const struct media_entry_omf *omf = pm_ptr(f->pm, media_entry_off(f->geom, blk));

		if ((le64_get(omf->seq_type) & 0xff) == FS_ITAB_LEAF && media_blk_valid(f->geom, blk) &&
			!copy_entry_decode(blk, omf, &entry))
			f->leaves++;
	}
}

struct group_walk {
	struct fsck *f;
	uint64_t group, newest; /* sequence of an entry */
	uint32_t used;
	bool whole;             /* every entry could be read */
};

/* One table entry against what was claimed. */
static void check_entry(struct group_walk *w, uint64_t blk)
{
	uint64_t tail = le64_get(copy_sb(w->f->copy)->tail_seq);
	struct fsck *f = w->f;
	struct copy_entry entry;

	if (copy_entry_get(f->copy, blk, &entry)) {
		if (!f->claims[blk]) /* else told when it was claimed */
			fsck_found(f, "block %#llx: %s", (ull)blk, errmsg_get());
		w->used += f->claims[blk] != 0;
		w->whole = false;
		return;
	}
	if (entry.seq > tail)
		fsck_found(f, "block %#llx: last changed by record %llu, applied are those up to %llu", (ull)blk,
			(ull)entry.seq, (ull)tail);
	if (entry.seq > w->newest)
		w->newest = entry.seq;
	/* With the state block gone nobody could claim anything. */
	if (entry.type != MEDIA_FREE && !f->claims[blk] && f->state)
		fsck_fixable(f, FSCK_FIX_LEAK, blk, 0, "block %#llx: leaked: type %u in the table, no owner", (ull)blk,
			entry.type);
	w->used += entry.type != MEDIA_FREE;
}

static void idle_entries(struct fsck *f, uint64_t group, uint64_t from, uint64_t to, const char *what)
{
	ull start = media_group_blk(f->geom, group);
	const struct media_entry_omf *table = pm_ptr(f->pm, media_off(start + 1));

	if (fsck_all_zero(&table[from], (to - from) * sizeof(*table)))
		return;
	for (; from < to; from++)
		if (!fsck_all_zero(&table[from], sizeof(*table)))
			fsck_found(f, "group %llu: table entry of %s block %#llx in use", (ull)group, what,
				start + from);
}

/* Entries of the group's own summary and table blocks, and those behind a short group's end, stay zero. */
static void check_idle_entries(struct fsck *f, uint64_t group)
{
	idle_entries(f, group, 0, MEDIA_GROUP_META_BLKS, "its own");
	idle_entries(f, group, media_group_len(f->geom, group), MEDIA_GROUP_BLKS, "the missing");
}

/* The table says what the summary must be, if all of it can be read. */
#define summary_wrong(w, ...)                                                                                          \
	((w)->whole ? fsck_fixable((w)->f, FSCK_FIX_COUNT, (w)->group, (w)->used, __VA_ARGS__)                         \
		    : fsck_found((w)->f, __VA_ARGS__))

static void check_summary(struct group_walk *w)
{
	uint64_t tail = le64_get(copy_sb(w->f->copy)->tail_seq), seq;
	uint32_t told;

	if (copy_summary_get(w->f->copy, w->group, &seq, &told))
		summary_wrong(w, "%s", errmsg_get());
	else if (told != w->used)
		summary_wrong(w, "group %llu: %u blocks in use by its summary, %u by its table", (ull)w->group, told,
			w->used);
	else if (seq > tail)
		summary_wrong(w, "group %llu: summary of record %llu, applied are those up to %llu", (ull)w->group,
			(ull)seq, (ull)tail);
	else if (seq < w->newest)
		summary_wrong(w, "group %llu: summary of record %llu, a table entry is of %llu", (ull)w->group, (ull)seq,
			(ull)w->newest);
}

static uint64_t check_group(struct fsck *f, uint64_t group)
{
	uint64_t start = media_group_blk(f->geom, group), end = start + media_group_len(f->geom, group);
	struct group_walk w = { .f = f, .group = group, .whole = true };

	check_idle_entries(f, group);
	for (uint64_t blk = start + MEDIA_GROUP_META_BLKS; blk < end; blk++)
		check_entry(&w, blk);
	check_summary(&w);
	return w.used;
}

void fsck_tables(struct fsck *f)
{
	uint64_t group, used = 0, told = le64_get(copy_sb(f->copy)->used_blks);

	for (group = 0; group < f->geom->group_count; group++)
		used += check_group(f, group);
	if (used != told)
		fsck_fixable(f, FSCK_FIX_COUNT, FSCK_POOL, used, "superblock: %llu blocks in use, %llu by the tables",
			(ull)told, (ull)used);
}
