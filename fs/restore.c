/* Restore: the local parts are gone, a replica has everything. Prove it, fence, copy.
 *
 *   1 look     restore_look.c; healthy local parts are not overwritten unasked, an interrupted restore is continued
 *   2 take     every replica is connected to; running sessions are ended, their locks are ours from here on
 *   3 prove    the recorded rule (of the newest copy) says how many replicas an acknowledgement needed; when the
 * replicas not reached are too few to have acknowledged anything alone, the newest reached one has everything. Else
 *              --force, naming the copies not asked
 *   4 compare  all reached histories are prefixes of the newest; else refused, unless --from names one
 *   5 level    copies that are a little behind get the records they lack, while their epoch is still allowed; who is lost
 *              by that was not reached after all: proven once more
 *   6 fence    the epoch of every reached copy is raised by compare-and-set: an old primary changes nothing any more
 *   7 copy     restore_copy.c; parts that hold something are replaced when every table is known to be whole on some source,
 *              and what is used to have its place here; the local copy is marked inconsistent until the end
 *
 * Comparing and proving come before fencing because the locks keep every reached copy still: a restore refused for lack
 * of proof leaves even the fences as they were. The new epoch is written into the local page as its fence; the first
 * mount takes it over into the state block, so that its first commit is the first of the new epoch. */
#include "restore_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "log.h"
#include "plant.h"
#include "policy.h"
#include "wire.h"

#define NAMES_BYTES_MAX 1024u

struct again again(const struct restore *rs, const char *more)
{
	const struct restore_cfg *cfg = rs->cfg;
	struct again a;

	snprintf(a.text, sizeof(a.text), "rpmemfs restore%s%s%s%s%s%s %s", cfg->replace ? " --replace" : "",
		cfg->sparse ? " --sparse" : "", cfg->from ? " --from " : "", cfg->from ? cfg->from : "", *more ? " " : "",
		more, rs->set->path);
	return a;
}

static enum restore_exit exit_of(int err)
{
	return err == 0 ? RESTORE_DONE : err == -ECANCELED ? RESTORE_REFUSED : RESTORE_FAILED;
}

/* ---------------------------------------------------------------- 2 take */

static int open_links(struct restore *rs, unsigned flags)
{
	struct repl_cfg rc = {
		.provider = rs->cfg->provider,
		.command = rs->cfg->command,
		.lanes = REPL_RESTORE_LANES,
		.notice_ms = REPL_NOTICE_MS_DEFAULT,
		.connect_ms = REPL_CONNECT_MS_DEFAULT,
		.open_flags = flags,
		.spin = true, /* for as long as it lasts, answers come back to back */
	};

	for (unsigned i = 1; i < rs->set->replica_count; i++) {
		int err;

		if (!rs->set->replicas[i].target)
			return errmsg_set(-EINVAL, "%s:%u: a second local replica is not supported", rs->set->path,
				rs->set->replicas[i].line);
		err = (rs->cfg->link_open ? rs->cfg->link_open : repl_link_open)(
			&rs->set->replicas[i], &rc, &rs->links[i]);
		if (err)
			return errmsg_set(err, "replica %s: %s", rs->set->replicas[i].name, strerror(-err));
	}
	return 0;
}

static void drop_link(struct restore *rs, unsigned i)
{
	if (rs->links[i])
		rs->links[i]->ops->close(rs->links[i]);
	rs->links[i] = NULL;
}

/* Links that are up stay; what is wrong with the others is told. */
static void wait_links(struct restore *rs)
{
	repl_links_wait(rs->links, rs->set->replica_count);
	for (unsigned i = 1; i < rs->set->replica_count; i++) {
		struct repl_link *link = rs->links[i];

		if (repl_link_wait(link)) {
			log_warn("replica %s: not reached: %s", link->name, link->err_text);
			drop_link(rs, i);
		} else if (!link->peer.formatted) {
			log_warn("replica %s: the pool there is not formatted", link->name);
			drop_link(rs, i);
		}
	}
}

static bool candidate(const struct repl_link *link)
{
	return link && (link->peer.page.state == MEDIA_CONSISTENT || PLANTED(PLANT_MARK));
}

static void names_add(char *names, const char *name)
{
	size_t len = strlen(names);

	snprintf(names + len, NAMES_BYTES_MAX - len, "%s%s", len ? "," : "", name);
}

/* The names of all replicas, for who gave a wrong one. */
static const char *all_names(const struct restore *rs, char names[static NAMES_BYTES_MAX])
{
	names[0] = '\0';
	for (unsigned i = 1; i < rs->set->replica_count; i++)
		names_add(names, rs->set->replicas[i].name);
	return names;
}

static int no_source(const struct restore *rs)
{
	char names[NAMES_BYTES_MAX];
	const char *from = rs->cfg->from, *path = rs->set->path;

	if (rs->set->replica_count == 1)
		return errmsg_set(-ENOENT, "%s: it names no replica: add the REPLICA line of the one to restore from", path);
	if (from && !poolset_find(rs->set, from))
		return errmsg_set(-ENOENT, "--from %s: %s names no such replica, it has %s", from, path, all_names(rs, names));
	return errmsg_set(-ENOENT,
		"%s%s: no replica to restore from was reached: each one's reason stands above\n"
		"  start or connect them, then again: %s",
		from ? "--from " : "", from ? from : path, again(rs, "").text);
}

static int choose_source(struct restore *rs)
{
	for (unsigned i = 1; i < rs->set->replica_count; i++) {
		struct repl_link *link = rs->links[i];

		if (!candidate(link) || (rs->cfg->from && strcmp(rs->cfg->from, link->name)))
			continue;
		if (!rs->source || link->peer.head.seq > rs->source->peer.head.seq)
			rs->source = link;
	}
	return rs->source ? 0 : no_source(rs);
}

/* Every name of `list` stands in `given`. */
static bool all_named(const char *list, const char *given)
{
	char copy[NAMES_BYTES_MAX], *save = NULL;

	snprintf(copy, sizeof(copy), "%s", list);
	for (char *name = strtok_r(copy, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
		size_t len = strlen(name);
		const char *at = given;

		while (at && (strncmp(at, name, len) || (at[len] && at[len] != ','))) {
			at = strchr(at, ',');
			at = at ? at + 1 : NULL;
		}
		if (!at)
			return false;
	}
	return true;
}

/* Copies of another pool are none of ours: they are not fenced, and only who names them goes on beside them. */
static int part_foreign(struct restore *rs)
{
	const struct restore_cfg *cfg = rs->cfg;
	const struct repl_link *source = rs->source;

	if (rs->local_healthy && memcmp(rs->local_content, source->peer.content_uuid, sizeof(rs->local_content)))
		return refused("replica %s is a copy of another pool than the healthy local one\n"
			       "  take its line out of %s; if that pool is wanted here, move the local parts away first",
			source->name, rs->set->path);
	for (unsigned i = 1; i < rs->set->replica_count; i++) {
		struct repl_link *link = rs->links[i];

		if (!link || !memcmp(link->peer.content_uuid, source->peer.content_uuid, sizeof(link->peer.content_uuid)))
			continue;
		if (candidate(link) && !(cfg->from && cfg->force && cfg->without && all_named(link->name, cfg->without)))
			return refused("replicas %s and %s are copies of different pools\n"
				       "  take the wrong one's line out of %s; or choose: --from %s --force --without %s, or "
				       "--from %s --force --without %s",
				source->name, link->name, rs->set->path, source->name, link->name, link->name, source->name);
		log_warn("replica %s: a copy of another pool: left as it is", link->name);
		drop_link(rs, i);
	}
	return 0;
}

static char *hex(const struct copy_point *at, char text[9])
{
	snprintf(text, 9, "%02x%02x%02x%02x", at->hash.b[0], at->hash.b[1], at->hash.b[2], at->hash.b[3]);
	return text;
}

/* A healthy local copy is overwritten only when that was asked for twice. */
static int protect_local(const struct restore *rs)
{
	char ours[9], theirs[9];

	if (!rs->local_healthy || (rs->cfg->replace && rs->cfg->from))
		return 0;
	return refused("the local copy is healthy, at commit %" PRIu64 " (%s); replica %s is at %" PRIu64
		       " (%s)%s\n  mount it, or overwrite it: rpmemfs restore --replace --from %s %s",
		rs->local_head.seq, hex(&rs->local_head, ours), rs->source->name, rs->source->peer.head.seq,
		hex(&rs->source->peer.head, theirs),
		rs->local_head.seq >= rs->source->peer.head.seq ? ", not newer" : "", rs->source->name, rs->set->path);
}

/* ---------------------------------------------------------------- 3 prove */

static bool counts(const struct poolset *set, unsigned idx)
{
	bool remote = false;

	for (unsigned i = 1; i < set->replica_count; i++)
		remote |= strcmp(set->replicas[i].target, "@local") != 0;
	return !remote || strcmp(set->replicas[idx].target, "@local");
}

/* Members of the record that the poolset no longer names: nobody asked them either. */
static unsigned members_unnamed(const struct restore *rs, char *names)
{
	unsigned count = 0;

	for (uint32_t i = 1; i < le32_get(rs->state.member_count); i++) {
		char name[FS_MEMBER_NAME_BYTES + 1] = { 0 };

		memcpy(name, rs->state.members[i].name, FS_MEMBER_NAME_BYTES);
		if (le32_get(rs->state.members[i].state) == FS_MEMBER_NONE || poolset_find(rs->set, name))
			continue;
		names_add(names, name);
		count++;
	}
	return count;
}

/* The copies not asked, and whether they could have acknowledged something by themselves, with the lost local one. */
static bool proven(const struct restore *rs, char *names)
{
	uint32_t rule = le32_get(rs->state.min_replicas);
	unsigned away;

	names[0] = '\0';
	if (!rule)
		names_add(names, "local"); /* it could acknowledge alone */
	away = members_unnamed(rs, names);
	for (unsigned i = 1; i < rs->set->replica_count; i++) {
		if (candidate(rs->links[i]))
			continue;
		names_add(names, rs->set->replicas[i].name);
		away += counts(rs->set, i);
	}
	return away < rule;
}

static int prove(struct restore *rs)
{
	char names[NAMES_BYTES_MAX], more[NAMES_BYTES_MAX + 32];
	int err = pull_peek_state(rs->source, &rs->state);

	if (err)
		return errmsg_prefix(err, "replica %s", rs->source->name);
	if (proven(rs, names) || PLANTED(PLANT_PROOF))
		return 0;
	if (rs->cfg->force && rs->cfg->without && all_named(names, rs->cfg->without)) {
		log_warn("restore: what %s may have acknowledged is given up", names);
		return 0;
	}
	snprintf(more, sizeof(more), "--force --without %s", names);
	return refused("not proven that replica %s has everything: with %" PRIu32
		       " replicas required, these copies were not asked and may have more: %s\n"
		       "  start or connect them; if they are lost for good: %s",
		rs->source->name, le32_get(rs->state.min_replicas), names, again(rs, more).text);
}

/* ---------------------------------------------------------------- 4 compare */

/* Whether the other copy's head lies in the source's history. */
static int compare_one(const struct restore *rs, struct repl_link *other)
{
	const struct copy_point *head = &other->peer.head;
	struct copy_point at;
	char ours[9], theirs[9];
	int err;

	if (head->seq > rs->source->peer.head.seq && !rs->cfg->force)
		return refused("replica %s is newer: commit %" PRIu64 ", %s has %" PRIu64
			       "\n  leave out --from for the newest; to give its newer commits up: %s",
			other->name, head->seq, rs->source->name, rs->source->peer.head.seq, again(rs, "--force").text);
	if (head->seq > rs->source->peer.head.seq)
		return 0;
	err = rs->source->ops->chain(rs->source, head->seq, &at);
	if (err == -ERANGE) {
		log_warn("replica %s: at commit %" PRIu64 ", too old to be compared", other->name, head->seq);
		return 0;
	}
	if (err)
		return errmsg_prefix(err, "replica %s", rs->source->name);
	if (at.epoch == head->epoch && !memcmp(&at.hash, &head->hash, sizeof(at.hash)))
		return 0;
	if (rs->cfg->from && rs->cfg->force)
		return 0;
	return refused("different histories: at commit %" PRIu64 " replica %s is %s, replica %s is %s\n"
		       "  choose one, the other's changes are given up: rpmemfs restore%s --force --from %s %s, or --from %s",
		head->seq, rs->source->name, hex(&at, ours), other->name, hex(head, theirs),
		rs->cfg->replace ? " --replace" : "", rs->source->name, rs->set->path, other->name);
}

static int compare(struct restore *rs)
{
	for (unsigned i = 1; i < rs->set->replica_count; i++) {
		struct repl_link *other = rs->links[i];
		int err;

		if (!candidate(other) || other == rs->source)
			continue;
		err = compare_one(rs, other);
		if (err)
			return err;
	}
	return 0;
}

/* ---------------------------------------------------------------- 5 level */

/* A copy that cannot be brought up is told about and stays as it is; one that is lost by it was not reached after all. */
static void level(struct restore *rs)
{
	for (unsigned i = 1; i < rs->set->replica_count; i++) {
		struct repl_link *link = rs->links[i];

		if (!candidate(link) || link->peer.head.seq >= rs->source->peer.head.seq ||
			link->peer.head.seq < rs->source->peer.tail.seq)
			continue;
		if (!pull_forward(rs->source, link))
			continue;
		log_warn("replica %s: stays behind at commit %" PRIu64 ": %s", link->name, link->acked, errmsg_get());
		if (link->state == REPL_DOWN)
			drop_link(rs, i);
	}
}

/* ---------------------------------------------------------------- 6 fence */

static int fence(struct restore *rs)
{
	int err;

	rs->epoch = le64_get(rs->state.epoch);
	for (unsigned i = 1; i < rs->set->replica_count; i++) {
		const struct repl_peer *peer = rs->links[i] ? &rs->links[i]->peer : NULL;

		if (peer && peer->page.fence_epoch > rs->epoch)
			rs->epoch = peer->page.fence_epoch;
		if (peer && peer->head.epoch > rs->epoch)
			rs->epoch = peer->head.epoch;
	}
	rs->epoch++;
	csum_random(rs->epoch_id, sizeof(rs->epoch_id));
	for (unsigned i = 1; i < rs->set->replica_count; i++) {
		struct repl_link *link = rs->links[i];

		if (!link || PLANTED(PLANT_EPOCH))
			continue;
		err = link->ops->fence(link, link->peer.page.fence_epoch, rs->epoch, rs->epoch_id);
		if (!err)
			err = link->ops->refresh(link);
		if (err)
			return errmsg_prefix(err, "replica %s: fence", link->name);
	}
	return 0;
}

/* ---------------------------------------------------------------- 7 copy */

/* The source, and after it every copy that is the same; rings emptied so that everything stands in place. */
static int gather(struct restore *rs, struct restore_source *source)
{
	source->links[source->count++] = rs->source;
	for (unsigned i = 1; i < rs->set->replica_count; i++) {
		struct repl_link *link = rs->links[i];

		if (candidate(link) && link != rs->source && link->peer.head.seq == rs->source->peer.head.seq &&
			!memcmp(&link->peer.head.hash, &rs->source->peer.head.hash, sizeof(link->peer.head.hash)))
			source->links[source->count++] = link;
	}
	for (unsigned i = 0; i < source->count; i++) {
		int err = source->links[i]->ops->checkpoint_all(source->links[i]);

		if (!err)
			err = source->links[i]->ops->refresh(source->links[i]);
		if (!err)
			continue;
		if (i == 0)
			return errmsg_prefix(err, "replica %s", rs->source->name);
		log_warn("replica %s: cannot stand in: %s", source->links[i]->name, errmsg_get());
		source->links[i--] = source->links[--source->count];
	}
	return 0;
}

/* Superblock of the source: what the local copy takes over. */
static int source_superblock(struct restore *rs, struct restore_source *source, struct copy_format *fmt)
{
	struct repl_link *link = rs->source;
	struct media_sb_omf sb;
	int err = link->ops->read(link, media_off(MEDIA_SB_A_BLK), &sb, sizeof(sb));

	if (!err)
		err = link->ops->settle(link);
	if (!err)
		err = copy_sb_check(&sb, link->peer.pool_size, &source->geom);
	if (err)
		return errmsg_prefix(err, "replica %s: superblock", link->name);
	memcpy(fmt->content_uuid, sb.content_uuid, sizeof(fmt->content_uuid));
	fmt->hash_seed = le64_get(sb.hash_seed);
	fmt->created_ns = le64_get(sb.created_ns);
	fmt->ring_bytes = le64_get(sb.ring_bytes);
	return 0;
}

static void page_fill(const struct restore *rs, struct copy_page *page)
{
	page->role = MEDIA_ROLE_PRIMARY;
	page->state = MEDIA_INCONSISTENT;
	page->fence_epoch = rs->epoch;
	memcpy(page->fence_id, rs->epoch_id, sizeof(page->fence_id));
	page->sync_seq = rs->source->peer.head.seq;
	page->sync_hash = rs->source->peer.head.hash;
}

/* Whether the inconsistent local copy is a restore of this very state. */
static bool resumable(const struct restore *rs, const struct copy_format *fmt)
{
	const struct copy_page *page = copy_page(rs->copy);

	return page->sync_seq == rs->source->peer.head.seq &&
	       !memcmp(&page->sync_hash, &rs->source->peer.head.hash, sizeof(page->sync_hash)) &&
	       !memcmp(copy_sb(rs->copy)->content_uuid, fmt->content_uuid, sizeof(fmt->content_uuid)) &&
	       copy_geom(rs->copy)->ring_bytes == fmt->ring_bytes;
}

static int resume(struct restore *rs)
{
	struct copy_page page = *copy_page(rs->copy);

	page_fill(rs, &page);
	log_notice("restore: goes on at group %" PRIu64, page.sync_group);
	return copy_page_set(rs->copy, &page);
}

static int create(struct restore *rs, struct copy_format *fmt, bool replace)
{
	struct pool_attr attr = { .signature = POOLHDR_FS_SIGNATURE, .major = POOLHDR_FS_MAJOR };
	unsigned flags = POOL_COLD | (replace || rs->local_blank ? POOL_REPLACE : 0) | (rs->cfg->sparse ? POOL_SPARSE : 0);
	int err = pool_create(rs->set, 0, &attr, flags, &rs->pool);

	if (err == -EEXIST)
		return refused("%s\n  to overwrite it: %s", errmsg_get(), again(rs, "--replace").text);
	if (err)
		return err;
	page_fill(rs, &fmt->page);
	csum_random(fmt->page.instance, sizeof(fmt->page.instance));
	err = copy_format(&rs->pool->pm, fmt);
	return err ? err : copy_open(&rs->pool->pm, false, &rs->copy);
}

/* What is overwritten is gone: not before the source is known to be whole, and to fit. */
static int judge(const struct restore *rs, struct restore_source *source, const struct copy_format *fmt)
{
	uint64_t bytes = pool_set_bytes(rs->set, 0);
	struct media_geom here = source->geom;
	int err = bytes ? copy_geometry(bytes, fmt->ring_bytes, &here) : 0;

	if (!err)
		err = restore_check(&here, source);
	return err ? errmsg_prefix(err, "the local parts are left as they were") : 0;
}

/* The local copy, formatted and marked inconsistent: the one an interrupted restore left, or a new one. */
static int local_copy(struct restore *rs, struct restore_source *source, struct copy_format *fmt)
{
	bool ours = rs->copy != NULL;
	int err = 0;

	if (ours && resumable(rs, fmt))
		return resume(rs);
	if (rs->cfg->replace && !ours && !rs->local_blank)
		err = judge(rs, source, fmt);
	if (err)
		return err;
	copy_close(rs->copy);
	pool_close(rs->pool);
	rs->copy = NULL;
	rs->pool = NULL;
	return create(rs, fmt, ours || rs->cfg->replace);
}

/* The parts have all their space: the page says consistent, and from here on the copy may be mounted. */
static int finish(struct restore *rs)
{
	struct copy_page page = *copy_page(rs->copy);
	int err = rs->cfg->sparse ? 0 : pool_fill(rs->pool);

	if (err)
		return err;
	page.state = MEDIA_CONSISTENT;
	page.sync_seq = page.sync_group = 0;
	memset(&page.sync_hash, 0, sizeof(page.sync_hash));
	return copy_page_set(rs->copy, &page);
}

static int copy_over(struct restore *rs)
{
	struct restore_source source = { .count = 0 };
	struct copy_format fmt = { .ring_bytes = 0 };
	struct progress *progress;
	char hash[9];
	int err = gather(rs, &source);

	if (!err)
		err = source_superblock(rs, &source, &fmt);
	if (!err)
		err = local_copy(rs, &source, &fmt);
	if (err)
		return err;
	log_notice("restore: from replica %s, commit %" PRIu64 " (%s)", rs->source->name, rs->source->peer.head.seq,
		hex(&rs->source->peer.head, hash));
	progress = progress_new("restore", rs->source->peer.used_blks * MEDIA_BLOCK_BYTES, rs->cfg->quiet);
	err = restore_copy(rs->copy, &source, progress);
	if (!err) /* ring and superblocks say the restored state */
		err = copy_reset(rs->copy, &rs->source->peer.head, rs->source->peer.used_blks);
	if (!err)
		err = finish(rs);
	progress_end(progress, err == 0);
	return err;
}

/* ---------------------------------------------------------------- all of it */

static int run(struct restore *rs)
{
	int err = restore_look(rs);

	if (!err)
		err = open_links(rs, CTL_OPEN_TAKEOVER);
	if (err)
		return err;
	wait_links(rs);
	err = choose_source(rs);
	if (!err)
		err = part_foreign(rs);
	if (!err)
		err = protect_local(rs);
	if (!err)
		err = prove(rs);
	if (!err)
		err = compare(rs);
	if (err)
		return err;
	level(rs);
	err = prove(rs); /* again, without who was lost meanwhile */
	if (!err)
		err = fence(rs);
	return err ? err : copy_over(rs);
}

enum restore_exit restore_run(const struct restore_cfg *cfg)
{
	struct restore rs = { .cfg = cfg, .set = cfg->set };
	char why[ERRMSG_BYTES_MAX];
	int err = run(&rs);

	snprintf(why, sizeof(why), "%s", errmsg_get());
	for (unsigned i = 1; i < rs.set->replica_count; i++)
		drop_link(&rs, i);
	copy_close(rs.copy);
	pool_close(rs.pool);
	errmsg_set(err, "%s", why); /* closing may have had troubles of its own */
	return exit_of(err);
}
