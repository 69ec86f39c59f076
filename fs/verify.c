/* Verify: are all copies the same? Everything is opened for reading and nothing is changed, so what stands in a copy's
 * ring is not applied: its effect is laid over the tables and blocks in memory (verify_ring.c). Then, group by group, every
 * copy's table must equal the first copy's, and its own table must be matched by the content of every used block and by the
 * counts of them, which each copy derives for itself. */
#include "restore.h"
#include "verify_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "log.h"
#include "wire.h"

#define RUN_BLKS 256u  /* 1 MiB a read */
#define BATCH_RUNS 32u /* reads under way together */
#define SHOWN_MAX 10u  /* differences named for each copy */

struct run {
	uint64_t blk;
	uint32_t count;
};

struct verify {
	const struct restore_cfg *cfg;
	const struct poolset *set;
	struct pool *pool;
	struct side sides[POOLSET_REPLICAS_MAX];
	unsigned count;
	unsigned missing; /* copies that could not be asked */
	struct run runs[BATCH_RUNS];
	unsigned run_count;
	uint8_t *batch; /* RUN_BLKS blocks for each run */
	uint64_t blks;  /* content compared, all copies */
	struct progress *progress;
};

static void differ(struct side *s, enum difference kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void differ(struct side *s, enum difference kind, const char *fmt, ...)
{
	va_list args;

	s->of[kind]++;
	if (s->differences++ >= SHOWN_MAX)
		return;
	printf("%s: ", s->name);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
}

/* ---------------------------------------------------------------- reading a side */

static int side_read(struct side *s, uint64_t off, void *dst, uint32_t len)
{
	int err;

	if (s->copy) {
		memcpy(dst, pm_ptr(copy_pm(s->copy), off), len);
		return 0;
	}
	err = s->link->ops->read(s->link, off, dst, len);
	return err ? err : s->link->ops->settle(s->link);
}

/* Type and checksum of a block at head; -EBADMSG: its table entry is damaged. */
static int entry_of(const struct side *s, uint64_t first, uint64_t blk, struct copy_entry *entry)
{
	const struct lay *lay;

	HASH_FIND(hh, s->lays, &blk, sizeof(blk), lay);
	if (!lay)
		return copy_entry_decode(blk, &s->table[blk - first], entry);
	*entry = (struct copy_entry){ .type = lay->type, .csum = lay->csum };
	return 0;
}

static void lines_lay(const struct side *s, uint64_t blk, uint8_t *content)
{
	const struct lay *lay;

	HASH_FIND(hh, s->lays, &blk, sizeof(blk), lay);
	for (uint64_t mask = lay ? lay->mask : 0; mask; mask &= mask - 1) {
		size_t off = (size_t)__builtin_ctzll(mask) * MEDIA_LINE_BYTES;

		memcpy(content + off, lay->lines + off, MEDIA_LINE_BYTES);
	}
}

/* Heartbeats of all: a target takes a link for dead that is silent while another copy is read. */
static void links_poll(const struct verify *v)
{
	for (unsigned i = 0; i < v->count; i++)
		if (v->sides[i].link)
			(void)v->sides[i].link->ops->poll(v->sides[i].link); /* a lost one is noticed when it is read */
}

/* ---------------------------------------------------------------- one group */

static bool has_content(const struct copy_entry *entry)
{
	return entry->type != MEDIA_FREE && entry->type != MEDIA_UNWRITTEN;
}

static void run_check(struct verify *v, struct side *s, uint64_t first, const struct run *run, uint8_t *content)
{
	for (uint32_t i = 0; i < run->count; i++, content += MEDIA_BLOCK_BYTES) {
		struct copy_entry entry;

		(void)entry_of(s, first, run->blk + i, &entry);
		lines_lay(s, run->blk + i, content);
		if (csum_crc32c(0, content, MEDIA_BLOCK_BYTES) != entry.csum)
			differ(s, DIFF_CONTENT, "block 0x%" PRIx64 ": content does not match its checksum", run->blk + i);
	}
	v->blks += run->count;
	progress_add(v->progress, (uint64_t)run->count * MEDIA_BLOCK_BYTES);
}

/* Waits for the batch's reads and looks at what they brought. */
static int batch_check(struct verify *v, struct side *s, uint64_t first)
{
	int err = s->link ? s->link->ops->settle(s->link) : 0;

	for (unsigned i = 0; i < v->run_count && !err; i++)
		run_check(v, s, first, &v->runs[i], v->batch + (size_t)i * RUN_BLKS * MEDIA_BLOCK_BYTES);
	links_poll(v);
	v->run_count = 0;
	return err;
}

/* Starts reading a run; a full batch is waited for. */
static int run_start(struct verify *v, struct side *s, uint64_t first, uint64_t blk, uint32_t count)
{
	uint8_t *dst = v->batch + (size_t)v->run_count * RUN_BLKS * MEDIA_BLOCK_BYTES;
	uint32_t len = count * MEDIA_BLOCK_BYTES;
	int err = 0;

	v->runs[v->run_count++] = (struct run){ blk, count };
	if (s->copy)
		memcpy(dst, pm_ptr(copy_pm(s->copy), media_off(blk)), len);
	else
		err = s->link->ops->read(s->link, media_off(blk), dst, len);
	return err || v->run_count < BATCH_RUNS ? err : batch_check(v, s, first);
}

static int content_check(struct verify *v, struct side *s, uint64_t first, uint64_t len)
{
	uint64_t blk = first + MEDIA_GROUP_META_BLKS;
	int err = 0;

	v->run_count = 0;
	while (blk < first + len && !err) {
		uint32_t count = 0;
		struct copy_entry entry;

		while (count < RUN_BLKS && blk + count < first + len && !entry_of(s, first, blk + count, &entry) &&
			has_content(&entry))
			count++;
		if (count)
			err = run_start(v, s, first, blk, count);
		blk += count ? count : 1;
	}
	return err ? err : batch_check(v, s, first);
}

static void table_compare(struct verify *v, struct side *s, uint64_t first, uint64_t len)
{
	struct side *ref = &v->sides[0];

	for (uint64_t blk = first + MEDIA_GROUP_META_BLKS; blk < first + len; blk++) {
		struct copy_entry a, b;

		if (entry_of(s, first, blk, &b)) {
			differ(s, DIFF_CONTENT, "block 0x%" PRIx64 ": table entry is damaged", blk);
			continue;
		}
		if (s == ref || s->head.seq != ref->head.seq || entry_of(ref, first, blk, &a))
			continue;
		if (a.type != b.type || a.csum != b.csum)
			differ(s, DIFF_OTHER, "block 0x%" PRIx64 ": not the same as in copy %s", blk, ref->name);
	}
}

/* Blocks in use by the table, at head; false: not all of it can be read. */
static bool table_count(const struct side *s, uint64_t first, uint64_t len, int64_t *used)
{
	*used = 0;
	for (uint64_t blk = first + MEDIA_GROUP_META_BLKS; blk < first + len; blk++) {
		struct copy_entry entry;

		if (entry_of(s, first, blk, &entry))
			return false;
		*used += entry.type != MEDIA_FREE;
	}
	return true;
}

/* ... and by the summary. While records wait, a replay that was cut off may have torn its check, as copy_summary_get_torn
 * explains; the word says by itself up to which of them it counts. */
static int summary_count(struct side *s, uint64_t group, int64_t *told)
{
	struct media_summary_omf omf;
	uint64_t word, seq;
	uint32_t used;
	int err = side_read(s, media_off(media_group_blk(&s->geom, group)), &omf, sizeof(omf));

	if (err)
		return err;
	word = le64_get(omf.word);
	seq = word >> 16;
	used = word & 0xffff;
	*told = -1;
	if (copy_summary_decode(group, &omf, &seq, &used) && (!s->lays || seq > s->head.seq))
		return 0;
	*told = used;
	for (size_t i = 0; i < s->changes.n; i++)
		if (s->changes.v[i].group == group && s->changes.v[i].seq > seq)
			*told += s->changes.v[i].blks;
	return 0;
}

static int counts_check(struct side *s, uint64_t group, uint64_t first, uint64_t len)
{
	int64_t used, told;
	bool whole = table_count(s, first, len, &used);
	int err = summary_count(s, group, &told);

	if (err)
		return err;
	s->used = whole && s->used != UINT64_MAX ? s->used + (uint64_t)used : UINT64_MAX;
	if (told < 0)
		differ(s, DIFF_COUNT, "group %" PRIu64 ": summary damaged", group);
	else if (whole && told != used)
		differ(s, DIFF_COUNT, "group %" PRIu64 ": %" PRId64 " blocks in use by its summary, %" PRId64 " by its table",
			group, told, used);
	return 0;
}

static int group_check(struct verify *v, struct side *s, uint64_t group)
{
	uint64_t first = media_group_blk(&s->geom, group), len = media_group_len(&s->geom, group);
	uint64_t common = media_group_len(&v->sides[0].geom, group);
	int err = side_read(s, media_off(first + 1), s->table, MEDIA_TABLE_BLKS * MEDIA_BLOCK_BYTES);

	if (err)
		return err;
	table_compare(v, s, first, len < common ? len : common);
	err = counts_check(s, group, first, len);
	return err ? err : content_check(v, s, first, len);
}

/* ---------------------------------------------------------------- histories */

static int history_check(struct verify *v, struct side *s)
{
	struct side *ref = &v->sides[0], *longer = s->head.seq > ref->head.seq ? s : ref;
	const struct copy_point *shorter = longer == s ? &ref->head : &s->head;
	struct copy_point at = longer->head;
	bool known = shorter->seq == longer->head.seq;

	if (!known && longer->link) {
		int err = longer->link->ops->chain(longer->link, shorter->seq, &at);

		if (err && err != -ERANGE)
			return err;
		known = err == 0;
	} else if (!known) {
		const struct copy_rec *rec = copy_find(longer->copy, shorter->seq);

		known = rec || shorter->seq == copy_tail(longer->copy).seq;
		at = rec ? rec->at : copy_tail(longer->copy);
	}
	if (known && (at.epoch != shorter->epoch || memcmp(&at.hash, &shorter->hash, sizeof(at.hash))))
		differ(s, DIFF_HISTORY, "different history at commit %" PRIu64, shorter->seq);
	else if (s->head.seq != ref->head.seq)
		differ(s, DIFF_BEHIND, "at commit %" PRIu64 ", copy %s is at %" PRIu64, s->head.seq, ref->name, ref->head.seq);
	return 0;
}

/* ---------------------------------------------------------------- copies */

static void side_missing(struct verify *v, const char *name, const char *why)
{
	printf("%s: %s\n", name, why);
	v->missing++;
}

/* Waits for the lock: after umount(2) the daemon may still be on its way out. */
static void open_local(struct verify *v)
{
	struct side *s = &v->sides[v->count];
	int err = pool_open(v->set, 0, POOL_RDONLY, &v->pool);

	if (!err)
		err = copy_open(&v->pool->pm, true, &s->copy);
	if (err) {
		side_missing(v, "local", err == -EBUSY ? "in use: unmount it first" : errmsg_get());
		return;
	}
	s->name = "local";
	s->head = copy_head(s->copy);
	s->geom = *copy_geom(s->copy);
	v->count++;
}

static int link_start(struct verify *v, unsigned i, struct repl_link **link)
{
	struct repl_cfg rc = {
		.provider = v->cfg->provider,
		.command = v->cfg->command,
		.lanes = REPL_RESTORE_LANES,
		.notice_ms = REPL_NOTICE_MS_DEFAULT,
		.connect_ms = REPL_CONNECT_MS_DEFAULT,
		.open_flags = CTL_OPEN_RDONLY,
		.spin = true, /* for as long as it lasts, answers come back to back */
	};

	if (!v->set->replicas[i].target)
		return -EINVAL;
	return (v->cfg->link_open ? v->cfg->link_open : repl_link_open)(&v->set->replicas[i], &rc, link);
}

/* Takes the link in as a side, or closes it. */
static void link_take(struct verify *v, struct repl_link *link)
{
	struct side *s = &v->sides[v->count];
	char why[320];

	if (repl_link_wait(link)) {
		snprintf(why, sizeof(why), "not reached: %s", link->err_text);
	} else if (!link->peer.formatted || link->peer.page.state != MEDIA_CONSISTENT) {
		snprintf(why, sizeof(why), "%s", link->peer.formatted ? "marked inconsistent" : "not formatted");
	} else {
		s->name = link->name;
		s->link = link;
		s->head = link->peer.head;
		v->count++;
		return;
	}
	side_missing(v, link->name, why);
	link->ops->close(link);
}

static void open_links(struct verify *v)
{
	struct repl_link *links[POOLSET_REPLICAS_MAX] = { NULL };

	for (unsigned i = 1; i < v->set->replica_count; i++) {
		int err = link_start(v, i, &links[i]);

		if (err) {
			links[i] = NULL;
			side_missing(v, v->set->replicas[i].name, strerror(-err));
		}
	}
	repl_links_wait(links, v->set->replica_count);
	for (unsigned i = 1; i < v->set->replica_count; i++) {
		if (links[i])
			link_take(v, links[i]);
	}
}

/* Geometry and ring of a side. */
static int side_load(struct side *s)
{
	struct media_sb_omf sb;
	int err;

	s->table = calloc(MEDIA_TABLE_BLKS, MEDIA_BLOCK_BYTES);
	if (!s->table)
		return -ENOMEM;
	if (s->link) {
		err = side_read(s, media_off(MEDIA_SB_A_BLK), &sb, sizeof(sb));
		if (!err && copy_sb_check(&sb, s->link->peer.pool_size, &s->geom))
			err = side_read(s, media_off(MEDIA_SB_B_BLK), &sb, sizeof(sb));
		if (!err)
			err = copy_sb_check(&sb, s->link->peer.pool_size, &s->geom);
		if (err)
			return err;
	}
	return side_ring_load(s);
}

static void side_close(struct side *s)
{
	side_ring_free(s);
	free(s->table);
	copy_close(s->copy);
	if (s->link)
		s->link->ops->close(s->link);
}

/* ---------------------------------------------------------------- all of it */

static uint64_t used_told(const struct side *s)
{
	return s->copy ? copy_used_blks(s->copy) : s->link->peer.used_blks;
}

static int side_check(struct verify *v, struct side *s)
{
	int err = s == &v->sides[0] ? 0 : history_check(v, s);

	if (!err && s != &v->sides[0] && s->geom.group0_blk != v->sides[0].geom.group0_blk)
		differ(s, DIFF_HISTORY, "not the same geometry as copy %s", v->sides[0].name);
	for (uint64_t group = 0; group < s->geom.group_count && !err; group++) {
		if (group >= v->sides[0].geom.group_count) {
			s->used = UINT64_MAX;
			break;
		}
		if (s != &v->sides[0])
			err = side_read(&v->sides[0], media_off(media_group_blk(&s->geom, group) + 1),
				v->sides[0].table, MEDIA_TABLE_BLKS * MEDIA_BLOCK_BYTES);
		if (!err)
			err = group_check(v, s, group);
	}
	if (!err && s->used != UINT64_MAX && s->used != used_told(s))
		differ(s, DIFF_COUNT, "superblock: %" PRIu64 " blocks in use, %" PRIu64 " by the tables", used_told(s), s->used);
	return err;
}

/* ---------------------------------------------------------------- what to do */

/* By what it says itself. */
static bool damaged(const struct side *s)
{
	return s->of[DIFF_CONTENT] || s->of[DIFF_COUNT] || s->of[DIFF_UNREAD] || s->of[DIFF_HISTORY];
}

static bool others_differ(const struct verify *v)
{
	for (unsigned i = 1; i < v->count; i++)
		if (v->sides[i].of[DIFF_OTHER])
			return true;
	return false;
}

/* A replica that could take the place of a damaged local copy. */
static const struct side *good_replica(const struct verify *v)
{
	const struct side *good = NULL;

	for (unsigned i = 0; i < v->count; i++) {
		const struct side *s = &v->sides[i];

		if (s->link && !damaged(s) && (!good || s->head.seq > good->head.seq))
			good = s;
	}
	return good;
}

static void advise_damaged(const struct verify *v, const struct side *s)
{
	const struct side *good = good_replica(v);
	bool counts_alone = s->of[DIFF_COUNT] == s->differences;

	if (s == &v->sides[0] && others_differ(v)) /* lost entries say free: the counts are right then, and the table is not */
		counts_alone = false;
	if (counts_alone && s->copy)
		printf("  its counts follow from its tables: rpmemfs fsck --repair %s\n", v->set->path);
	else if (counts_alone)
		printf("  its counts follow from its tables: on its machine, rpmemfs fsck --repair of its own poolset\n");
	else if (s->copy && good)
		printf("  replica %s is good; this copy can be rebuilt from it: rpmemfs restore --replace --from %s %s\n", good->name,
			good->name, v->set->path);
	else if (s->copy)
		printf("  no replica that was reached is good: mount it to copy away what can be read\n");
	else
		printf("  it needs a whole copy: NOTES of rpmemfs(1) say how\n");
}

static void advise(const struct verify *v, const struct side *s)
{
	if (s->of[DIFF_HISTORY])
		printf("  rpmemfs mount %s MOUNTPOINT says which commands choose one of the two histories\n", v->set->path);
	else if (damaged(s))
		advise_damaged(v, s);
	else if (s->of[DIFF_OTHER] && damaged(&v->sides[0]))
		printf("  copy %s is damaged, nothing of this one by itself: do not overwrite this one\n", v->sides[0].name);
	else if (s->of[DIFF_OTHER])
		printf("  neither of the two is damaged by itself, so which is right is not known: overwrite none of them\n");
	else if (s->of[DIFF_BEHIND])
		printf("  a mount brings the copy that is behind up: rpmemfs mount %s MOUNTPOINT\n", v->set->path);
}

static enum restore_exit check_all(struct verify *v)
{
	bool same = v->missing == 0;
	uint64_t used = 0;

	for (unsigned i = 0; i < v->count; i++)
		used += used_told(&v->sides[i]);
	v->progress = progress_new("verify", used * MEDIA_BLOCK_BYTES, v->cfg->quiet);
	for (unsigned i = 0; i < v->count; i++) {
		struct side *s = &v->sides[i];
		int err = side_load(s);

		if (!err)
			err = side_check(v, s);
		if (err)
			differ(s, DIFF_UNREAD, "cannot be read: %s: %s", errmsg_get(), strerror(-err));
		same &= s->differences == 0;
	}
	progress_end(v->progress, same);
	for (unsigned i = 0; i < v->count; i++) {
		const struct side *s = &v->sides[i];

		if (!s->differences)
			continue;
		printf("%s: %" PRIu64 " difference%s\n", s->name, s->differences, s->differences == 1 ? "" : "s");
		advise(v, s);
	}
	if (same)
		printf("%u copies are the same: commit %" PRIu64 ", %" PRIu64 " blocks checked\n", v->count,
			v->sides[0].head.seq, v->blks);
	return same ? RESTORE_DONE : RESTORE_FAILED;
}

enum restore_exit verify_run(const struct restore_cfg *cfg)
{
	struct verify v = { .cfg = cfg, .set = cfg->set };
	enum restore_exit result = RESTORE_FAILED;

	v.batch = calloc((size_t)BATCH_RUNS * RUN_BLKS, MEDIA_BLOCK_BYTES);
	if (v.batch) {
		open_local(&v);
		open_links(&v);
		if (v.count)
			result = check_all(&v);
	}
	for (unsigned i = 0; i < v.count; i++)
		side_close(&v.sides[i]);
	pool_close(v.pool);
	free(v.batch);  /* after the links: a read that failed may still have been on its way */
	errmsg_clear(); /* everything was told on stdout */
	return result;
}
