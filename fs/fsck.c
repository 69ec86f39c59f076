/* The checker's run: superblocks, page and history (fsck_media.c), then the file system from its state block down
 * (fsck_inodes.c, fsck_dir.c), and last the block table, which has to say the same as what was found.
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

static void line_keep(struct fsck_report *report, char *line)
{
	if (line && report->count < FSCK_LINES_MAX)
		report->lines[report->count++] = line;
	else
		free(line); /* counted, though not told */
}

__attribute__((format(printf, 2, 0))) static char *line_make(const struct fsck_report *report, const char *fmt,
							     va_list args)
{
	char *line = NULL;

	return report->count < FSCK_LINES_MAX && vasprintf(&line, fmt, args) >= 0 ? line : NULL;
}

#define LINE_ADD(report, fmt)                                                                                          \
	do {                                                                                                           \
		va_list args;                                                                                          \
		va_start(args, fmt);                                                                                   \
		line_keep(report, line_make(report, fmt, args));                                                       \
		va_end(args);                                                                                          \
	} while (0)

void fsck_found(struct fsck *f, const char *fmt, ...)
{
	f->report->total++;
	f->report->hiding++;
	LINE_ADD(f->report, fmt);
}

void fsck_rot(struct fsck *f, const char *fmt, ...)
{
	f->report->total++;
	f->report->rot++;
	LINE_ADD(f->report, fmt);
}

void fsck_note(struct fsck *f, const char *fmt, ...)
{
	size_t before = f->report->count;

	LINE_ADD(f->report, fmt);
	f->report->notes += f->report->count - before;
}

/* Without memory for the fix it is a finding still, and the next run finds it again. Counts are always kept: they are few,
 * come last, and have to be right before anything else is repaired. */
static void fix_keep(struct fsck_report *report, const struct fsck_fix *fix)
{
	if (report->fix_count >= FSCK_FIXES_MAX && fix->kind != FSCK_FIX_COUNT)
		return;
	if (report->fix_count == report->fix_cap) {
		size_t cap = report->fix_cap ? report->fix_cap * 2 : 16;
		struct fsck_fix *fixes = realloc(report->fixes, cap * sizeof(*fixes));

		if (!fixes)
			return;
		report->fixes = fixes;
		report->fix_cap = cap;
	}
	report->fixes[report->fix_count++] = *fix;
}

void fsck_fixable(struct fsck *f, enum fsck_fix_kind kind, uint64_t id, uint64_t value, const char *fmt, ...)
{
	f->report->total++;
	fix_keep(f->report, &(struct fsck_fix){ kind, id, value });
	LINE_ADD(f->report, fmt);
}

static int fix_compare(const void *a, const void *b)
{
	const struct fsck_fix *x = a, *y = b;

	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static void fixes_sort(struct fsck_report *report)
{
	if (report->fix_count)
		qsort(report->fixes, report->fix_count, sizeof(*report->fixes), fix_compare);
}

void fsck_report_add(struct fsck_report *report, const char *line)
{
	report->total++;
	report->hiding++;
	line_keep(report, strdup(line));
}

void fsck_report_free(struct fsck_report *report)
{
	while (report->count)
		free(report->lines[--report->count]);
	free(report->fixes);
	*report = (struct fsck_report){ 0 };
}

/* ---------------------------------------------------------------- blocks */

/* The first byte is zero and each one equals the one before it: memcmp is the fast way to say so. */
bool fsck_all_zero(const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* Who claims, for a finding: "inode 7, file offset 0x3000". */
struct owner_text {
	char s[96];
};

static struct owner_text owner_text(const struct fsck *f, const char *what, uint64_t id)
{
	struct owner_text t;
	int n = snprintf(t.s, sizeof(t.s), "%s %llu", what, (ull)id);

	if (f->file_off != FSCK_NO_OFF)
		snprintf(t.s + n, sizeof(t.s) - (size_t)n, ", file offset 0x%llx", (ull)f->file_off);
	return t;
}

/* Whether type and checksum in the table fit the block. */
static bool entry_fits(struct fsck *f, uint64_t blk, uint32_t type, const char *what, uint64_t id)
{
	struct owner_text owner = owner_text(f, what, id);
	struct copy_entry entry;
	uint32_t csum;

	if (copy_entry_get(f->copy, blk, &entry)) {
		fsck_found(f, "%s: block %#llx: %s", owner.s, (ull)blk, errmsg_get());
		return false;
	}
	if (entry.type != type) {
		fsck_found(f, "%s: block %#llx: type %u in the table, used as %u", owner.s, (ull)blk, entry.type, type);
		return false;
	}
	csum = type == MEDIA_UNWRITTEN ? 0 : csum_crc32c(0, pm_ptr(f->pm, media_off(blk)), MEDIA_BLOCK_BYTES);
	if (entry.csum != csum) {
		(type == MEDIA_DATA ? fsck_rot : fsck_found)(f,
			"%s: block %#llx (pool offset %#llx): checksum of content %08x, in the table %08x", owner.s,
			(ull)blk, (ull)media_off(blk), csum, entry.csum);
		return false;
	}
	return true;
}

const void *fsck_claim(struct fsck *f, uint64_t blk, uint32_t type, const char *what, uint64_t id)
{
	if (!media_blk_valid(f->geom, blk)) {
		fsck_found(f, "%s: block %#llx is none of the pool", owner_text(f, what, id).s, (ull)blk);
		return NULL;
	}
	if (f->claims[blk]) {
		fsck_found(f, "%s: block %#llx has another owner too", owner_text(f, what, id).s, (ull)blk);
		return NULL;
	}
	f->claims[blk] = type;
	f->used++;
	return entry_fits(f, blk, type, what, id) ? pm_ptr(f->pm, media_off(blk)) : NULL;
}

/* ---------------------------------------------------------------- state block */

static const char *member_check(const struct fs_member_omf *m, uint64_t head)
{
	uint32_t state = le32_get(m->state);

	if (state < FS_MEMBER_ATTACHED || state > FS_MEMBER_RELEASED)
		return "unknown state";
	if (!m->name[0] || !memchr(m->name, 0, sizeof(m->name)))
		return "without a proper name";
	if (le32_get(m->mode) < 1 || le32_get(m->mode) > 2)
		return "unknown mode";
	if (le32_get(m->flags) & ~FS_MEMBER_SAME_MACHINE)
		return "unknown flag";
	if (m->reserved.le || !fsck_all_zero(m->zero, sizeof(m->zero)))
		return "reserved bytes in use";
	return le64_get(m->mark) > head ? "has commits that this history does not" : NULL;
}

static void check_members(struct fsck *f)
{
	const struct fs_member_omf *members = f->state->members;
	uint32_t i, j, count = le32_get(f->state->member_count);

	for (i = 0; i < count; i++) {
		const char *why = member_check(&members[i], copy_head(f->copy).seq);

		for (j = 0; j < i && !why; j++)
			if (!strncmp((const char *)members[i].name, (const char *)members[j].name, FS_MEMBER_NAME_BYTES))
				why = "named twice";
		if (why)
			fsck_found(f, "state block: member %u of %u: %s", i, count, why);
	}
	for (; i < FS_MEMBERS_MAX; i++)
		if (!fsck_all_zero(&members[i], sizeof(members[i])))
			fsck_found(f, "state block: member %u of %u: not zero", i, count);
	if (le32_get(f->state->min_replicas) >= FS_MEMBERS_MAX)
		fsck_found(f, "state block: rule of %u replicas", le32_get(f->state->min_replicas));
}

static void check_state(struct fsck *f)
{
	uint64_t blk = le64_get(copy_sb(f->copy)->root_blk), epoch = copy_tail(f->copy).epoch;
	const struct fs_state_omf *state = fsck_claim(f, blk, FS_STATE, "superblock", 0);
	const char *why = state ? state_check(state) : NULL;

	if (why)
		fsck_found(f, "state block %#llx: %s", (ull)blk, why);
	if (!state || why)
		return;
	f->state = state;
	if (!fsck_all_zero(state->zero0, sizeof(state->zero0)) || !fsck_all_zero(state->zero1, sizeof(state->zero1)) ||
		!fsck_all_zero(state->zero2, sizeof(state->zero2)) || !fsck_all_zero(state->zero3, sizeof(state->zero3)))
		fsck_found(f, "state block %#llx: reserved bytes in use", (ull)blk);
	if (le64_get(state->epoch) != epoch)
		fsck_found(f, "state block %#llx: epoch %llu, the newest commit is of %llu", (ull)blk,
			(ull)le64_get(state->epoch), (ull)epoch);
	check_members(f);
}

/* ---------------------------------------------------------------- run */

static int check_files(struct fsck *f)
{
	int err = fsck_table_walk(f);

	if (err)
		return err;
	fsck_contents(f);
	fsck_links(f);
	fsck_lists(f);
	return 0;
}

int fsck_copy(struct copy *copy, struct fsck_report *report)
{
	struct fsck f = { .copy = copy, .pm = copy_pm(copy), .geom = copy_geom(copy), .report = report,
			  .file_off = FSCK_NO_OFF };
	int err = 0;

	if (copy_head(copy).seq != copy_tail(copy).seq)
		return errmsg_set(-EBUSY, "check: records up to %llu are not applied yet, tail is %llu",
			(ull)copy_head(copy).seq, (ull)copy_tail(copy).seq);
	f.claims = calloc(f.geom->blk_count, 1);
	if (!f.claims)
		return errmsg_set(-ENOMEM, "check: no memory for %llu blocks", (ull)f.geom->blk_count);
	fsck_superblocks(&f);
	fsck_history(&f);
	fsck_tables_scan(&f);
	check_state(&f);
	if (f.state)
		err = check_files(&f);
	if (!err)
		fsck_tables(&f);
	fixes_sort(report);
	report->inodes = f.ino_used;
	report->used_blks = f.used;
	free(f.inodes);
	free(f.claims);
	return err;
}

int fsck_run(struct fs *fs, struct fsck_report *report)
{
	*report = (struct fsck_report){ 0 };
	return fsck_copy(fs_copy(fs), report);
}
