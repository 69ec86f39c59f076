/* Bringing a whole copy over: summaries, block tables and used blocks of every group that was ever used.
 *
 *   all summaries -> table of the first group -> for each group: table of the next one, blocks straight into the pool
 *                                                            |
 *        queue of reads, READS_MAX at most:  newest --------------------------------> oldest --reap-->
 *             a table: every entry checked     blocks: compared with their checksums, written back
 *             a group's last: table and summary stored -> fence -> page: this group is complete
 *
 * Reads run over all lanes and across groups without a pause: what has come is checked while later reads are on their
 * way. They are reaped in the order they were started, so groups are completed in order. Three groups are at hand at a
 * time: one whose reads are being started, the one before it, and the one whose table is read ahead.
 *
 * Before anything is overwritten, all of the source's tables can be judged (restore_check).
 *
 * Interrupted anywhere, the page names the groups that are complete; those under way are done again whole. A block
 * that does not match its checksum is taken from another source that holds the same, one by one. */
#include "restore.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "log.h"
#include "plant.h"
#include "warm.h"

#define RUN_BLKS_MAX 128u /* 512 KiB a read: still in the processor's cache when it is checked */
#define READS_MAX 16u     /* two on their way on each lane, and two that follow at once */
#define GROUPS_AT_HAND 3u

struct group {
	struct media_entry_omf *table; /* MEDIA_GROUP_BLKS */
	uint64_t group, first, len;    /* its blocks on the source */
	uint64_t seq;                  /* summary */
	uint32_t used;
	unsigned reads;                /* not yet reaped */
	bool table_there;              /* and checked */
	bool busy;                     /* until it is complete, or needs nothing */
};

struct read {
	struct group *group;
	uint64_t blk;
	uint32_t count; /* blocks; 0: the group's table */
};

struct copying {
	struct copy *copy;             /* NULL: the tables are only judged */
	const struct media_geom *here; /* of the local copy */
	struct restore_source *source;
	struct progress *progress;
	struct warm *warm;
	struct media_summary_omf *summaries; /* of all groups, as the first source has them */
	struct group groups[GROUPS_AT_HAND]; /* group n is at n-th used group % GROUPS_AT_HAND */
	struct read reads[READS_MAX];        /* ring */
	unsigned read_first, read_count;
};

static int source_read(struct repl_link *link, uint64_t off, void *dst, uint32_t len)
{
	int err = link->ops->read(link, off, dst, len);

	if (!err)
		err = link->ops->settle(link);
	return err ? errmsg_prefix(err, "replica %s", link->name) : 0;
}

/* ---------------------------------------------------------------- table of a group */

static int entry_at(const struct group *g, uint64_t blk, struct copy_entry *entry)
{
	return copy_entry_decode(blk, &g->table[blk - g->first], entry);
}

/* Every entry decodes, used ones lie in the local pool, and their number is the summary's. */
static int table_check(const struct group *g, uint64_t limit)
{
	uint32_t used = 0;

	for (uint64_t blk = g->first + MEDIA_GROUP_META_BLKS; blk < g->first + g->len; blk++) {
		struct copy_entry entry;
		int err = entry_at(g, blk, &entry);

		if (err)
			return errmsg_set(-EBADMSG, "table entry of block 0x%" PRIx64 " is damaged", blk);
		if (entry.type == MEDIA_FREE)
			continue;
		if (blk >= limit)
			return errmsg_set(-ENOSPC,
				"block 0x%" PRIx64 " is in use, the local pool ends at 0x%" PRIx64
				": make its parts larger",
				blk, limit);
		used++;
	}
	if (used != g->used)
		return errmsg_set(-EBADMSG,
			"group %" PRIu64 ": its table has %" PRIu32 " used blocks, its summary %" PRIu32, g->group,
			used, g->used);
	return 0;
}

/* Summary and table have arrived: are they whole? */
static int table_accept(
	struct copying *c, struct group *g, const char *name, const struct media_summary_omf *summary)
{
	int err = 0;

	if (copy_summary_decode(g->group, summary, &g->seq, &g->used))
		err = errmsg_set(-EBADMSG, "replica %s: summary of group %" PRIu64 " is damaged", name, g->group);
	if (!err && g->seq) {
		err = table_check(g, c->here->blk_count);
		if (err)
			errmsg_prefix(err, "replica %s", name);
	}
	if (err == -EBADMSG)
		log_warn("restore: %s", errmsg_get());
	return err;
}

static int table_read_from(struct copying *c, struct group *g, struct repl_link *link)
{
	struct media_summary_omf summary;
	uint64_t off = media_off(g->first);
	int err = source_read(link, off, &summary, sizeof(summary));

	if (!err)
		err = source_read(link, off + MEDIA_BLOCK_BYTES, g->table, MEDIA_TABLE_BLKS * MEDIA_BLOCK_BYTES);
	return err ? err : table_accept(c, g, link->name, &summary);
}

/* err is what became of it so far, not 0: from the first source that has it whole. */
static int table_read(struct copying *c, struct group *g, int err)
{
	for (unsigned i = 0; i < c->source->count && err && err != -ENOSPC; i++)
		err = table_read_from(c, g, c->source->links[i]);
	if (!err && g->used && g->group >= c->here->group_count)
		err = errmsg_set(-ENOSPC, "group %" PRIu64 " is in use and lies behind the end of the local pool",
			g->group);
	return err;
}

/* What has come, else another source's. */
static int table_reap(struct copying *c, struct group *g)
{
	int err = table_read(c, g, table_accept(c, g, c->source->links[0]->name, &c->summaries[g->group]));

	g->table_there = !err;
	return err;
}

/* ---------------------------------------------------------------- content */

static bool has_content(const struct copy_entry *entry)
{
	return entry->type != MEDIA_FREE && entry->type != MEDIA_UNWRITTEN;
}

/* Blocks with content in a row from blk on. */
static uint32_t run_len(const struct group *g, uint64_t blk)
{
	uint32_t count = 0;

	for (; count < RUN_BLKS_MAX && blk + count < g->first + g->len; count++) {
		struct copy_entry entry;

		(void)entry_at(g, blk + count, &entry); /* table_check has decoded every one */
		if (!has_content(&entry))
			break;
	}
	return count;
}

static bool content_good(const struct pm *pm, uint64_t blk, uint32_t csum)
{
	return csum_crc32c(0, pm_ptr(pm, media_off(blk)), MEDIA_BLOCK_BYTES) == csum || PLANTED(PLANT_HEAL);
}

/* The block from another source, the bad one being where it belongs already. */
static int block_heal(struct copying *c, uint64_t blk, uint32_t csum)
{
	struct pm *pm = copy_pm(c->copy);

	log_warn("restore: block 0x%" PRIx64 " of replica %s does not match its checksum", blk,
		c->source->links[0]->name);
	for (unsigned i = 1; i < c->source->count; i++) {
		struct repl_link *link = c->source->links[i];

		if (!source_read(link, media_off(blk), pm->base + media_off(blk), MEDIA_BLOCK_BYTES) &&
			content_good(pm, blk, csum))
			return 0;
	}
	return errmsg_set(-EBADMSG, "block 0x%" PRIx64 " matches its checksum on no replica", blk);
}

static int run_reap(struct copying *c, const struct read *read)
{
	struct pm *pm = copy_pm(c->copy);
	uint64_t bytes = (uint64_t)read->count * MEDIA_BLOCK_BYTES;

	for (uint64_t blk = read->blk; blk < read->blk + read->count; blk++) {
		struct copy_entry entry;
		int err = 0;

		(void)entry_at(read->group, blk, &entry);
		if (!content_good(pm, blk, entry.csum))
			err = block_heal(c, blk, entry.csum);
		if (err)
			return err;
	}
	pm_flush(pm, media_off(read->blk), bytes);
	progress_add(c->progress, bytes);
	return 0;
}

/* ---------------------------------------------------------------- the queue of reads */

/* One that falls silent is ended over there. */
static void stand_ins_poll(const struct copying *c)
{
	for (unsigned i = 1; i < c->source->count; i++)
		(void)c->source->links[i]->ops->poll(c->source->links[i]);
}

/* Waits for the oldest read and looks at what it brought. */
static int reap(struct copying *c)
{
	struct repl_link *link = c->source->links[0];
	struct read *read = &c->reads[c->read_first];
	int err = link->ops->settle_old(link, c->read_count - 1);

	if (err)
		return errmsg_prefix(err, "replica %s", link->name);
	stand_ins_poll(c);
	c->read_first = (c->read_first + 1) % READS_MAX;
	c->read_count--;
	read->group->reads--;
	return read->count ? run_reap(c, read) : table_reap(c, read->group);
}

/* A group without used blocks may lie behind the end of the local pool. */
static bool has_place(const struct copying *c, const struct group *g)
{
	return g->seq && g->group < c->here->group_count;
}

static void table_store(struct copying *c, const struct group *g)
{
	uint64_t limit = c->here->blk_count;

	for (uint64_t blk = g->first + MEDIA_GROUP_META_BLKS; blk < g->first + g->len && blk < limit; blk++) {
		struct copy_entry entry;

		(void)entry_at(g, blk, &entry);
		copy_entry_put(c->copy, blk, &entry);
	}
	copy_summary_put(c->copy, g->group, g->seq, g->used);
}

/* (1) content, table and summary durable; power fails before: the page does not count the group, it is copied again.
 * (2) the page counts it. */
static int group_finish(struct copying *c, struct group *g)
{
	struct copy_page page = *copy_page(c->copy);
	int err;

	g->busy = false;
	if (!has_place(c, g))
		return 0;
	table_store(c, g);
	err = pm_fence(copy_pm(c->copy), PM_POINT_RESYNC);
	if (err)
		return errmsg_set(err, "the local medium refused to make blocks durable");
	page.sync_group = g->group + 1;
	return copy_page_set(c->copy, &page);
}

/* Reaps until the group, all of whose reads were started, is complete. */
static int group_complete(struct copying *c, struct group *g)
{
	int err = 0;

	while (!err && g->reads)
		err = reap(c);
	return err || !g->busy ? err : group_finish(c, g);
}

static int read_start(struct copying *c, struct group *g, uint64_t blk, uint32_t count)
{
	struct repl_link *link = c->source->links[0];
	uint64_t off = count ? media_off(blk) : media_off(g->first + 1);
	void *dst = count ? (void *)(copy_pm(c->copy)->base + off) : g->table;
	int err = c->read_count == READS_MAX ? reap(c) : 0;

	if (!err && count)
		err = warm_backed(c->warm, off + media_off(count));
	if (!err)
		err = link->ops->read(link, off, dst, (count ? count : MEDIA_TABLE_BLKS) * MEDIA_BLOCK_BYTES);
	if (err)
		return err;
	c->reads[(c->read_first + c->read_count++) % READS_MAX] = (struct read){ g, blk, count };
	g->reads++;
	return 0;
}

/* ---------------------------------------------------------------- groups */

/* A group that was never used has an all-zero summary, in the first source's own words. */
static bool never_used(const struct copying *c, uint64_t group)
{
	static const struct media_summary_omf zero;

	return !memcmp(&c->summaries[group], &zero, sizeof(zero));
}

/* Space for a group whose table is not known yet, while the group before it is being received. */
static void group_back(struct copying *c, uint64_t group)
{
	if (group < c->here->group_count)
		warm_back(c->warm, media_off(media_group_blk(c->here, group)),
			media_off(media_group_len(c->here, group)));
}

/* g becomes the first used group from *group on, which *group then is behind of. False: there is none. */
static bool group_next(const struct copying *c, struct group *g, uint64_t *group)
{
	const struct media_geom *geom = &c->source->geom;

	while (*group < geom->group_count && never_used(c, *group))
		++*group;
	if (*group == geom->group_count)
		return false;
	g->group = *group;
	g->first = media_group_blk(geom, *group);
	g->len = media_group_len(geom, *group);
	++*group;
	return true;
}

static int group_begin(struct copying *c, struct group *g, uint64_t *group)
{
	assert(!g->busy);
	assert(!g->reads);
	g->table_there = false;
	g->busy = group_next(c, g, group);
	if (!g->busy)
		return 0;
	group_back(c, g->group);
	return read_start(c, g, 0, 0);
}

/* Bytes from the group's first block with content to behind its last one: nearly all of them are read. */
static void group_warm(const struct copying *c, const struct group *g)
{
	uint64_t first = g->first + MEDIA_GROUP_META_BLKS, end = g->first + g->len;

	while (first < end && !run_len(g, first))
		first++;
	while (end > first && !run_len(g, end - 1))
		end--;
	warm_touch(c->warm, media_off(first), media_off(end) - media_off(first));
}

/* Starts reading all of the group's content to where it belongs. */
static int blocks_start(struct copying *c, struct group *g)
{
	uint64_t blk = g->first + MEDIA_GROUP_META_BLKS;
	int err = 0;

	if (!has_place(c, g))
		return 0;
	err = c->warm ? warm_backed(c->warm, media_off(blk)) : copy_back_group(c->copy, g->group);
	if (!err)
		group_warm(c, g);
	while (!err && blk < g->first + g->len) {
		uint32_t count = run_len(g, blk);

		if (count)
			err = read_start(c, g, blk, count);
		blk += count ? count : 1;
	}
	return err;
}

static int groups_copy(struct copying *c)
{
	uint64_t next = copy_page(c->copy)->sync_group;
	unsigned at = 0;
	int err = group_begin(c, &c->groups[0], &next);

	while (!err && c->groups[at].busy) {
		struct group *g = &c->groups[at], *ahead, *before;

		at = (at + 1) % GROUPS_AT_HAND;
		ahead = &c->groups[at];
		before = &c->groups[(at + 1) % GROUPS_AT_HAND];
		while (!err && !g->table_there)
			err = reap(c);
		if (!err)
			err = group_begin(c, ahead, &next);
		if (!err)
			err = blocks_start(c, g);
		if (!err)
			err = group_complete(c, before);
	}
	for (unsigned i = 1; i <= GROUPS_AT_HAND && !err; i++)
		err = group_complete(c, &c->groups[(at + i) % GROUPS_AT_HAND]);
	return err;
}

/* Every summary from a group on. */
static int summaries_read(struct copying *c, uint64_t group)
{
	struct repl_link *link = c->source->links[0];
	const struct media_geom *geom = &c->source->geom;
	int err = 0;

	for (; group < geom->group_count && !err; group++)
		err = link->ops->read(
			link, media_off(media_group_blk(geom, group)), &c->summaries[group], sizeof(*c->summaries));
	if (!err)
		err = link->ops->settle(link);
	return err ? errmsg_prefix(err, "replica %s", link->name) : 0;
}

/* ---------------------------------------------------------------- public */

static int copying_init(struct copying *c, unsigned tables)
{
	struct media_entry_omf *table = calloc((size_t)tables * MEDIA_GROUP_BLKS, sizeof(*table));

	c->groups[0].table = table;
	c->summaries = calloc(c->source->geom.group_count, sizeof(*c->summaries));
	if (!table || !c->summaries)
		return errmsg_set(-ENOMEM, "no memory for block tables");
	for (unsigned i = 1; i < tables; i++)
		c->groups[i].table = table + (size_t)i * MEDIA_GROUP_BLKS;
	return 0;
}

static void copying_fini(struct copying *c)
{
	free(c->groups[0].table);
	free(c->summaries);
}

int restore_check(const struct media_geom *here, struct restore_source *source)
{
	struct copying c = { .here = here, .source = source };
	uint64_t group = 0;
	int err = copying_init(&c, 1);

	if (!err)
		err = summaries_read(&c, 0);
	while (!err && group_next(&c, &c.groups[0], &group)) {
		err = table_read(&c, &c.groups[0], -ENODATA);
		stand_ins_poll(&c);
	}
	/* others may have stood in for all its tables, its content comes from it alone */
	if (!err && source->links[0]->ops->settle(source->links[0]))
		err = errmsg_set(-ECONNRESET, "replica %s: lost while its tables were read", source->links[0]->name);
	copying_fini(&c);
	return err;
}

int restore_copy(struct copy *copy, struct restore_source *source, struct progress *progress)
{
	struct copying c = { .copy = copy, .here = copy_geom(copy), .source = source, .progress = progress };
	int err = copying_init(&c, GROUPS_AT_HAND);

	if (!err) {
		c.warm = warm_begin(copy_pm(copy));
		err = summaries_read(&c, copy_page(copy)->sync_group);
		if (!err)
			err = groups_copy(&c);
		warm_end(c.warm);
		(void)source->links[0]->ops->settle(source->links[0]); /* nothing may arrive in what is freed now */
	}
	copying_fini(&c);
	return err;
}
