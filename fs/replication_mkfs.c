/* mkfs of the replicas, in two steps: all are connected and created; then each is formatted with the local copy's
 * identity and given the first commit. Whoever replaces local parts does so between them, so that a replica that cannot
 * be reached leaves those as they were. */
#include "replication.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "redo.h"
#include "wire.h"

#define LOCAL_NAME "local"

struct replication_made {
	const struct poolset *set;
	struct repl_link *links[POOLSET_REPLICAS_MAX]; /* by index in the poolset */
};

/* ---------------------------------------------------------------- the member table */

static void member_fill(struct fs_member_omf *m, const char *name, bool same_machine, const uint8_t *instance)
{
	size_t len = strlen(name);

	memcpy(m->name, name, len < FS_MEMBER_NAME_BYTES ? len : FS_MEMBER_NAME_BYTES - 1);
	if (instance)
		memcpy(m->instance, instance, sizeof(m->instance));
	else
		csum_random(m->instance, sizeof(m->instance));
	m->state = le32_put(FS_MEMBER_ATTACHED);
	m->mode = le32_put(1);
	m->flags = le32_put(same_machine ? FS_MEMBER_SAME_MACHINE : 0);
}

/* Remote replicas of the poolset, and how many of them count towards the rule. */
static int replicas_count(const struct poolset *set, unsigned *replicas, unsigned *counting)
{
	unsigned same = 0;

	for (unsigned i = 1; i < set->replica_count; i++) {
		if (!set->replicas[i].target)
			return errmsg_set(-EINVAL,
				"%s:%u: a second local replica is not supported; use REPLICA @local <set>", set->path,
				set->replicas[i].line);
		same += !strcmp(set->replicas[i].target, "@local");
	}
	*replicas = set->replica_count - 1;
	*counting = same == *replicas ? same : *replicas - same;
	return 0;
}

int replication_plan(
	const struct poolset *set, uint32_t min_replicas, const uint8_t local_instance[16], struct fs_state_omf *state)
{
	unsigned replicas = 0, counting = 0;
	int err = replicas_count(set, &replicas, &counting);

	if (err)
		return err;
	if (min_replicas == REPLICATION_MIN_RECORDED)
		min_replicas = replication_default_min(counting);
	if (min_replicas > counting)
		return errmsg_set(-EINVAL, "%s: %" PRIu32 " replicas are to be required, %u count", set->path,
			min_replicas, counting);
	state->epoch = le64_put(1);
	csum_random(state->epoch_id, sizeof(state->epoch_id));
	state->min_replicas = le32_put(min_replicas);
	state->member_count = le32_put(replicas + 1);
	memset(state->members, 0, sizeof(state->members));
	member_fill(&state->members[0], LOCAL_NAME, false, local_instance);
	for (unsigned i = 1; i < set->replica_count; i++)
		member_fill(
			&state->members[i], set->replicas[i].name, !strcmp(set->replicas[i].target, "@local"), NULL);
	return 0;
}

/* ---------------------------------------------------------------- creating */

/* A target gets space behind every byte before it answers CREATE: memory has to be zeroed, a slow disk written. So the time it
 * is given grows with the pool: 250 MiB a second is below what both do. */
static uint32_t create_ms(const struct replication_cfg *cfg, uint64_t bytes)
{
	uint64_t ms = cfg->connect_ms ? cfg->connect_ms : REPL_CONNECT_MS_DEFAULT;

	ms += bytes >> 18;
	return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

static int links_open(
	struct replication_made *m, const struct replication_cfg *cfg, const struct pool_attr *attr, uint64_t bytes, bool replace)
{
	struct repl_cfg rc = {
		.provider = cfg->provider,
		.command = cfg->command,
		.lanes = 1,
		.notice_ms = cfg->notice_ms ? cfg->notice_ms : REPL_NOTICE_MS_DEFAULT,
		.connect_ms = create_ms(cfg, bytes),
		.open_flags = (replace ? CTL_OPEN_REPLACE : 0) | (cfg->sparse ? CTL_OPEN_SPARSE : 0),
		.create = true,
		.attr = attr,
		.pool_size = bytes,
	};

	for (unsigned i = 1; i < m->set->replica_count; i++) {
		int err = (cfg->link_open ? cfg->link_open : repl_link_open)(&m->set->replicas[i], &rc, &m->links[i]);

		if (err)
			return errmsg_prefix(err, "replica %s", m->set->replicas[i].name);
	}
	return 0;
}

static int link_failed(const struct repl_link *link)
{
	return errmsg_set(link->err, "replica %s: %s", link->name, link->err_text);
}

static int links_wait(struct replication_made *m)
{
	int err = 0;

	repl_links_wait(m->links, m->set->replica_count);
	for (unsigned i = 1; i < m->set->replica_count; i++) {
		if (repl_link_wait(m->links[i]) && !err)
			err = link_failed(m->links[i]);
	}
	return err;
}

static int replica_format(
	struct repl_link *link, struct copy *copy, const struct fs_state_omf *state, const uint8_t instance[16])
{
	const struct media_sb_omf *sb = copy_sb(copy);
	struct copy_format fmt = {
		.hash_seed = le64_get(sb->hash_seed),
		.created_ns = le64_get(sb->created_ns),
		.ring_bytes = le64_get(sb->ring_bytes),
		.page = { .role = MEDIA_ROLE_REPLICA,
			.state = MEDIA_CONSISTENT,
			.fence_epoch = le64_get(state->epoch) },
	};
	int err;

	memcpy(fmt.content_uuid, sb->content_uuid, sizeof(fmt.content_uuid));
	memcpy(fmt.page.instance, instance, sizeof(fmt.page.instance));
	memcpy(fmt.page.fence_id, state->epoch_id, sizeof(fmt.page.fence_id));
	err = link->ops->format(link, &fmt);
	return err ? errmsg_prefix(err, "replica %s: format", link->name) : 0;
}

/* The first commit: metadata only, so all its bytes are lines of the record. */
static int commit_first(struct replication_made *m, const void *rec, uint32_t len)
{
	struct repl_commit commit = { .seq = 1, .rec = rec, .rec_len = len };
	int err;

	for (unsigned i = 1; i < m->set->replica_count; i++) {
		err = m->links[i]->ops->commit(m->links[i], &commit);
		if (err)
			return errmsg_prefix(err, "replica %s: first commit", m->links[i]->name);
	}
	for (unsigned i = 1; i < m->set->replica_count; i++) {
		while (m->links[i]->acked < 1) {
			if (m->links[i]->ops->poll(m->links[i]) == REPL_DOWN)
				return link_failed(m->links[i]);
		}
	}
	return 0;
}

void replication_made_close(struct replication_made *m)
{
	if (!m)
		return;
	for (unsigned i = 1; i < m->set->replica_count; i++) {
		if (m->links[i])
			m->links[i]->ops->close(m->links[i]);
	}
	free(m);
}

int replication_make(const struct poolset *set, const struct replication_cfg *cfg, uint64_t bytes, bool replace,
	struct replication_made **out)
{
	struct replication_made *m = calloc(1, sizeof(*m));
	struct pool_attr attr = { .signature = POOLHDR_FS_SIGNATURE, .major = POOLHDR_FS_MAJOR };
	int err;

	if (!m)
		return -ENOMEM;
	m->set = set;
	csum_random(attr.poolset_uuid, sizeof(attr.poolset_uuid));
	csum_random(attr.uuid, sizeof(attr.uuid));
	err = links_open(m, cfg, &attr, bytes, replace);
	if (!err)
		err = links_wait(m);
	if (err)
		replication_made_close(m);
	else
		*out = m;
	return err;
}

/* The local pool's length may be known only now: that of a device. */
static int lengths_check(const struct replication_made *m, uint64_t bytes)
{
	for (unsigned i = 1; i < m->set->replica_count; i++) {
		const struct repl_link *link = m->links[i];

		if (link->peer.pool_size < bytes)
			return errmsg_set(-EFBIG, "replica %s: the pool there has %" PRIu64 " bytes, %" PRIu64 " are needed",
				link->name, link->peer.pool_size, bytes);
	}
	return 0;
}

int replication_format(struct replication_made *m, struct copy *copy, const struct fs_state_omf *state, const void *rec,
	uint32_t len)
{
	int err = lengths_check(m, copy_pm(copy)->len);

	for (unsigned i = 1; i < m->set->replica_count && !err; i++)
		err = replica_format(m->links[i], copy, state, state->members[i].instance);
	return err ? err : commit_first(m, rec, len);
}
