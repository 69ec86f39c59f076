/* Bringing a whole copy over: summaries, block tables and used blocks of every group that was ever used, group by
 * group.
 *
 *   for each group:  table read and checked -> blocks read straight into the pool, pipelined over all lanes -> each
 *                    compared with its checksum -> table and summary stored -> fence -> page: this group is complete
 *
 * All summaries are read first, and the table of the next group along with the blocks of this one: a lone read costs a
 * round trip and more, many at once cost their bytes.
 *
 * Interrupted anywhere, the page names the groups that are complete; the one under way is done again whole. A block
 * that does not match its checksum is taken from another source that holds the same, one by one. */
#include "restore.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "log.h"

#define RUN_BLKS_MAX 256u /* 1 MiB a read */

struct group_copy {
	struct copy *copy;
	struct restore_source *source;
	struct progress *progress;
	struct media_summary_omf *summaries; /* of all groups, as the first source has them */
	struct media_entry_omf *table;       /* MEDIA_GROUP_BLKS */
	struct media_entry_omf *ahead;       /* table of group ahead_group, on its way or there */
	uint64_t ahead_group;                /* UINT64_MAX: none */
	uint64_t group, first, len;          /* its blocks on the source */
	uint64_t seq;                        /* summary */
	uint32_t used;
};

static int source_read(struct repl_link *link, uint64_t off, void *dst, uint32_t len)
{
	int err = link->ops->read(link, off, dst, len);

	if (!err)
		err = link->ops->settle(link);
	return err ? errmsg_prefix(err, "replica %s", link->name) : 0;
}

/* ---------------------------------------------------------------- table of a group */

static int entry_at(const struct group_copy *g, uint64_t blk, struct copy_entry *entry)
{
	return copy_entry_decode(blk, &g->table[blk - g->first], entry);
}

/* Every entry decodes, used ones lie in the local pool, and their number is the summary's. */
static int table_check(const struct group_copy *g)
{
	uint64_t limit = copy_geom(g->copy)->blk_count;
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
static int table_accept(struct group_copy *g, const char *name, const struct media_summary_omf *summary)
{
	int err = 0;

	if (copy_summary_decode(g->group, summary, &g->seq, &g->used))
		err = errmsg_set(-EBADMSG, "replica %s: summary of group %" PRIu64 " is damaged", name, g->group);
	if (!err && g->seq) {
		err = table_check(g);
		if (err)
			errmsg_prefix(err, "replica %s", name);
	}
	if (err == -EBADMSG)
		log_warn("restore: %s", errmsg_get());
	return err;
}

static int table_read_from(struct group_copy *g, struct repl_link *link)
{
	struct media_summary_omf summary;
	uint64_t off = media_off(g->first);
	int err = source_read(link, off, &summary, sizeof(summary));

	if (!err)
		err = source_read(link, off + MEDIA_BLOCK_BYTES, g->table, MEDIA_TABLE_BLKS * MEDIA_BLOCK_BYTES);
	return err ? err : table_accept(g, link->name, &summary);
}

/* A group that was never used has an all-zero summary, in the first source's own words. */
static bool never_used(const struct group_copy *g, uint64_t group)
{
	static const struct media_summary_omf zero;

	return !memcmp(&g->summaries[group], &zero, sizeof(zero));
}

/* Starts reading the table of the next used group behind this one. */
static int table_ahead(struct group_copy *g, uint64_t group)
{
	struct repl_link *link = g->source->links[0];

	g->ahead_group = UINT64_MAX;
	while (group < g->source->geom.group_count && never_used(g, group))
		group++;
	if (group >= g->source->geom.group_count)
		return 0;
	g->ahead_group = group;
	return link->ops->read(link, media_off(media_group_blk(&g->source->geom, group) + 1), g->ahead,
		MEDIA_TABLE_BLKS * MEDIA_BLOCK_BYTES);
}

/* What was read ahead, else from the first source that has it whole. */
static int table_read(struct group_copy *g)
{
	int err = -EBADMSG;

	if (g->ahead_group == g->group) {
		struct media_entry_omf *table = g->ahead;

		g->ahead = g->table;
		g->table = table;
		err = table_accept(g, g->source->links[0]->name, &g->summaries[g->group]);
	}
	for (unsigned i = 0; i < g->source->count && err && err != -ENOSPC; i++)
		err = table_read_from(g, g->source->links[i]);
	return err;
}

/* Every summary, and the first table. */
static int summaries_read(struct group_copy *g)
{
	struct repl_link *link = g->source->links[0];
	const struct media_geom *geom = &g->source->geom;
	int err = 0;

	for (uint64_t group = g->group; group < geom->group_count && !err; group++)
		err = link->ops->read(
			link, media_off(media_group_blk(geom, group)), &g->summaries[group], sizeof(*g->summaries));
	if (!err)
		err = link->ops->settle(link);
	if (!err)
		err = table_ahead(g, g->group);
	if (!err)
		err = link->ops->settle(link);
	return err ? errmsg_prefix(err, "replica %s", link->name) : 0;
}

/* ---------------------------------------------------------------- blocks of a group */

static bool has_content(const struct copy_entry *entry)
{
	return entry->type != MEDIA_FREE && entry->type != MEDIA_UNWRITTEN;
}

/* Blocks with content in a row from blk on. */
static uint32_t run_len(const struct group_copy *g, uint64_t blk)
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

/* Starts reading all of the group's content to where it belongs. */
static int blocks_read(struct group_copy *g)
{
	struct repl_link *link = g->source->links[0];
	struct pm *pm = copy_pm(g->copy);
	uint64_t blk = g->first + MEDIA_GROUP_META_BLKS;
	int err = 0;

	while (!err && blk < g->first + g->len) {
		uint32_t count = run_len(g, blk);

		if (count)
			err = link->ops->read(
				link, media_off(blk), pm->base + media_off(blk), count * MEDIA_BLOCK_BYTES);
		blk += count ? count : 1;
	}
	if (!err)
		err = table_ahead(g, g->group + 1);
	if (!err)
		err = link->ops->settle(link);
	return err ? errmsg_prefix(err, "replica %s", link->name) : 0;
}

static bool content_good(const struct pm *pm, uint64_t blk, uint32_t csum)
{
	return csum_crc32c(0, pm_ptr(pm, media_off(blk)), MEDIA_BLOCK_BYTES) == csum;
}

/* The block from another source, the bad one being where it belongs already. */
static int block_heal(struct group_copy *g, uint64_t blk, uint32_t csum)
{
	struct pm *pm = copy_pm(g->copy);

	log_warn("restore: block 0x%" PRIx64 " of replica %s does not match its checksum", blk,
		g->source->links[0]->name);
	for (unsigned i = 1; i < g->source->count; i++) {
		struct repl_link *link = g->source->links[i];

		if (!source_read(link, media_off(blk), pm->base + media_off(blk), MEDIA_BLOCK_BYTES) &&
			content_good(pm, blk, csum))
			return 0;
	}
	return errmsg_set(-EBADMSG, "block 0x%" PRIx64 " matches its checksum on no replica", blk);
}

static int blocks_verify(struct group_copy *g)
{
	struct pm *pm = copy_pm(g->copy);

	for (uint64_t blk = g->first + MEDIA_GROUP_META_BLKS; blk < g->first + g->len; blk++) {
		struct copy_entry entry;
		int err = 0;

		(void)entry_at(g, blk, &entry);
		if (!has_content(&entry))
			continue;
		if (!content_good(pm, blk, entry.csum))
			err = block_heal(g, blk, entry.csum);
		if (err)
			return err;
		pm_flush(pm, media_off(blk), MEDIA_BLOCK_BYTES);
		progress_add(g->progress, MEDIA_BLOCK_BYTES);
	}
	return 0;
}

/* ---------------------------------------------------------------- groups */

static void table_store(struct group_copy *g)
{
	uint64_t limit = copy_geom(g->copy)->blk_count;

	for (uint64_t blk = g->first + MEDIA_GROUP_META_BLKS; blk < g->first + g->len && blk < limit; blk++) {
		struct copy_entry entry;

		(void)entry_at(g, blk, &entry);
		copy_entry_put(g->copy, blk, &entry);
	}
	copy_summary_put(g->copy, g->group, g->seq, g->used);
}

/* (1) content, table and summary durable; power fails before: the page does not count the group, it is copied again.
 * (2) the page counts it. */
static int group_finish(struct group_copy *g)
{
	struct copy_page page = *copy_page(g->copy);
	int err = pm_fence(copy_pm(g->copy), PM_POINT_RESYNC);

	if (err)
		return errmsg_set(err, "the local medium refused to make blocks durable");
	page.sync_group = g->group + 1;
	return copy_page_set(g->copy, &page);
}

static int group_copy(struct group_copy *g)
{
	const struct media_geom *geom = &g->source->geom;
	int err;

	g->first = media_group_blk(geom, g->group);
	g->len = media_group_len(geom, g->group);
	if (never_used(g, g->group))
		return 0;
	err = table_read(g);
	if (err || !g->seq)
		return err;
	if (g->group >= copy_geom(g->copy)->group_count)
		return g->used ? errmsg_set(-ENOSPC,
					 "group %" PRIu64 " is in use and lies behind the end of the local pool",
					 g->group)
			       : 0;
	err = blocks_read(g);
	if (!err)
		err = blocks_verify(g);
	if (err)
		return err;
	table_store(g);
	return group_finish(g);
}

int restore_copy(struct copy *copy, struct restore_source *source, struct progress *progress)
{
	struct group_copy g = { .copy = copy, .source = source, .progress = progress, .ahead_group = UINT64_MAX };
	int err = -ENOMEM;

	g.group = copy_page(copy)->sync_group;
	g.summaries = calloc(source->geom.group_count, sizeof(*g.summaries));
	g.table = calloc(MEDIA_TABLE_BLKS, MEDIA_BLOCK_BYTES);
	g.ahead = calloc(MEDIA_TABLE_BLKS, MEDIA_BLOCK_BYTES);
	if (g.summaries && g.table && g.ahead)
		err = summaries_read(&g);
	for (; g.group < source->geom.group_count && !err; g.group++)
		err = group_copy(&g);
	(void)source->links[0]->ops->settle(source->links[0]); /* nothing may arrive in what is freed now */
	free(g.ahead);
	free(g.table);
	free(g.summaries);
	return err == -ENOMEM ? errmsg_set(err, "no memory for block tables") : err;
}
