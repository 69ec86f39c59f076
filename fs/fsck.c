/* The checker's run: superblocks and page, then the file system from its state block down (fsck_inodes.c, fsck_dir.c),
 * and last the block table, which has to say the same as what was found.
 *
 * Nothing is read through the block layer: content comes from the mapped pool and is held against the block table here,
 * so that a bug up there cannot hide itself. Each block found is claimed by its owner; a second owner is a finding. At
 * the end a block in use by the table that nobody claimed is leaked, one claimed but free by the table is in danger. */
#include "fsck_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "csum.h"

typedef unsigned long long ull;

/* ---------------------------------------------------------------- report */

void fsck_found(struct fsck *f, const char *fmt, ...)
{
	struct fsck_report *report = f->report;
	char *line = NULL;
	va_list args;

	report->total++;
	if (report->count == FSCK_LINES_MAX)
		return;
	va_start(args, fmt);
	if (vasprintf(&line, fmt, args) < 0)
		line = NULL; /* counted, though not told */
	va_end(args);
	if (line)
		report->lines[report->count++] = line;
}

void fsck_report_free(struct fsck_report *report)
{
	while (report->count)
		free(report->lines[--report->count]);
	*report = (struct fsck_report){ 0 };
}

/* ---------------------------------------------------------------- blocks */

/* Whether type and checksum in the table fit the block. */
static bool entry_fits(struct fsck *f, uint64_t blk, uint32_t type, const char *what, uint64_t id)
{
	struct copy_entry entry;
	uint32_t csum;

	if (copy_entry_get(f->copy, blk, &entry)) {
		fsck_found(f, "%s %llu: block %#llx: %s", what, (ull)id, (ull)blk, errmsg_get());
		return false;
	}
	if (entry.type != type) {
		fsck_found(f, "%s %llu: block %#llx: type %u in the table, used as %u", what, (ull)id, (ull)blk,
			entry.type, type);
		return false;
	}
	csum = type == MEDIA_UNWRITTEN ? 0 : csum_crc32c(0, pm_ptr(f->pm, media_off(blk)), MEDIA_BLOCK_BYTES);
	if (entry.csum != csum) {
		fsck_found(f, "%s %llu: block %#llx: checksum of content %08x, in the table %08x", what, (ull)id,
			(ull)blk, csum, entry.csum);
		return false;
	}
	return true;
}

const void *fsck_claim(struct fsck *f, uint64_t blk, uint32_t type, const char *what, uint64_t id)
{
	if (!media_blk_valid(f->geom, blk)) {
		fsck_found(f, "%s %llu: block %#llx is none of the pool", what, (ull)id, (ull)blk);
		return NULL;
	}
	if (f->claims[blk]) {
		fsck_found(f, "%s %llu: block %#llx has another owner too", what, (ull)id, (ull)blk);
		return NULL;
	}
	f->claims[blk] = type;
	f->used++;
	return entry_fits(f, blk, type, what, id) ? pm_ptr(f->pm, media_off(blk)) : NULL;
}

/* ---------------------------------------------------------------- superblocks, page, state */

/* A superblock that a power cut tore is no finding, the other one counts; two that differ in what never changes are. */
static void check_superblocks(struct fsck *f)
{
	const struct media_sb_omf *a = pm_ptr(f->pm, media_off(MEDIA_SB_A_BLK));
	const struct media_sb_omf *b = pm_ptr(f->pm, media_off(MEDIA_SB_B_BLK));
	bool a_ok, b_ok;
	struct media_geom geom;

	a_ok = !copy_sb_check(a, f->pm->len, &geom);
	b_ok = !copy_sb_check(b, f->pm->len, &geom);
	if (!a_ok && !b_ok)
		fsck_found(f, "superblocks: %s", errmsg_get());
	if (a_ok && b_ok && memcmp(a, b, offsetof(struct media_sb_omf, generation)))
		fsck_found(f, "superblocks: A and B differ in fields that never change");
	if (a_ok && b_ok && a->generation.le == b->generation.le && memcmp(a, b, sizeof(*a)))
		fsck_found(f, "superblocks: A and B of one generation differ");
	if (copy_page(f->copy)->state != MEDIA_CONSISTENT)
		fsck_found(f, "per-copy page: the copy is marked as being overwritten");
}

static void check_members(struct fsck *f)
{
	uint32_t i, count = le32_get(f->state->member_count);

	for (i = 0; i < FS_MEMBERS_MAX; i++) {
		const struct fs_member_omf *m = &f->state->members[i];
		uint32_t state = le32_get(m->state);

		if (i < count ? state < FS_MEMBER_ATTACHED || state > FS_MEMBER_RELEASED : state != FS_MEMBER_NONE)
			fsck_found(f, "state block: member %u of %u in state %u", i, count, state);
		if (i < count && (!m->name[0] || memchr(m->name, 0, sizeof(m->name)) == NULL))
			fsck_found(f, "state block: member %u without a proper name", i);
	}
}

static void check_state(struct fsck *f)
{
	uint64_t blk = le64_get(copy_sb(f->copy)->root_blk);
	const struct fs_state_omf *state = fsck_claim(f, blk, FS_STATE, "superblock", 0);
	const char *why = state ? state_check(state) : NULL;

	if (why)
		fsck_found(f, "state block %#llx: %s", (ull)blk, why);
	if (!state || why)
		return;
	f->state = state;
	check_members(f);
}

/* ---------------------------------------------------------------- block table */

/* One table entry against what was claimed; returns 1 when the table says used. */
static unsigned check_entry(struct fsck *f, uint64_t blk)
{
	struct copy_entry entry;

	if (copy_entry_get(f->copy, blk, &entry)) {
		if (!f->claims[blk]) /* else told when it was claimed */
			fsck_found(f, "block %#llx: %s", (ull)blk, errmsg_get());
		return f->claims[blk] != 0;
	}
	if (entry.seq > le64_get(copy_sb(f->copy)->tail_seq))
		fsck_found(f, "block %#llx: last changed by record %llu, applied are those up to %llu", (ull)blk,
			(ull)entry.seq, (ull)le64_get(copy_sb(f->copy)->tail_seq));
	/* With the state block gone nobody could claim anything. */
	if (entry.type != MEDIA_FREE && !f->claims[blk] && f->state)
		fsck_found(f, "block %#llx: leaked: type %u in the table, no owner", (ull)blk, entry.type);
	return entry.type != MEDIA_FREE;
}

/* Entries of the group's own summary and table blocks stay zero. */
static void check_own_entries(struct fsck *f, uint64_t group)
{
	static const struct media_entry_omf zero;
	uint64_t blk = media_group_blk(f->geom, group), end = blk + MEDIA_GROUP_META_BLKS;

	for (; blk < end; blk++)
		if (memcmp(pm_ptr(f->pm, media_entry_off(f->geom, blk)), &zero, sizeof(zero)))
			fsck_found(f, "group %llu: table entry of its own block %#llx in use", (ull)group, (ull)blk);
}

static uint64_t check_group(struct fsck *f, uint64_t group)
{
	uint64_t start = media_group_blk(f->geom, group), end = start + media_group_len(f->geom, group), blk, seq;
	uint32_t used = 0, summary;

	check_own_entries(f, group);
	for (blk = start + MEDIA_GROUP_META_BLKS; blk < end; blk++)
		used += check_entry(f, blk);
	if (copy_summary_get(f->copy, group, &seq, &summary)) {
		fsck_found(f, "group %llu: %s", (ull)group, errmsg_get());
		return used;
	}
	if (summary != used)
		fsck_found(
			f, "group %llu: %u blocks in use by its summary, %u by its table", (ull)group, summary, used);
	if (seq > le64_get(copy_sb(f->copy)->tail_seq))
		fsck_found(f, "group %llu: summary of record %llu, applied are those up to %llu", (ull)group, (ull)seq,
			(ull)le64_get(copy_sb(f->copy)->tail_seq));
	return used;
}

static void check_tables(struct fsck *f)
{
	uint64_t group, used = 0, told = le64_get(copy_sb(f->copy)->used_blks);

	for (group = 0; group < f->geom->group_count; group++)
		used += check_group(f, group);
	if (used != told)
		fsck_found(f, "superblock: %llu blocks in use, %llu by the tables", (ull)told, (ull)used);
}

/* ---------------------------------------------------------------- run */

int fsck_run(struct fs *fs, struct fsck_report *report)
{
	struct copy *copy = fs_copy(fs);
	struct fsck f = { .fs = fs, .copy = copy, .pm = copy_pm(copy), .geom = copy_geom(copy), .report = report };
	int err = 0;

	*report = (struct fsck_report){ 0 };
	if (copy_head(copy).seq != copy_tail(copy).seq)
		return errmsg_set(-EBUSY, "check: records up to %llu are not applied yet, tail is %llu",
			(ull)copy_head(copy).seq, (ull)copy_tail(copy).seq);
	f.claims = calloc(f.geom->blk_count, 1);
	if (!f.claims)
		return errmsg_set(-ENOMEM, "check: no memory for %llu blocks", (ull)f.geom->blk_count);
	check_superblocks(&f);
	check_state(&f);
	if (f.state) {
		err = fsck_table_walk(&f);
		if (err)
			goto free_claims;
		fsck_contents(&f);
		fsck_links(&f);
		fsck_lists(&f);
	}
	check_tables(&f);
	report->inodes = f.ino_used;
	report->used_blks = f.used;
free_claims:
	free(f.inodes);
	free(f.claims);
	return err;
}
