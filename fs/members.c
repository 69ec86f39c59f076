/* The member table of the state block: which replicas count, which loss is recorded. Every change of it is an operation
 * of the core like any other, in the running commit, and a commit is asked for at once. */
#include "policy.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include "errmsg.h"
#include "log.h"
#include "stream.h"
#include "tree.h"

#define LOCAL_NAME "local"

static struct slot *slot_by_name(struct replication *r, const uint8_t *name)
{
	for (unsigned i = 0; i < r->slot_count; i++) {
		if (!strncmp(r->slots[i].conf->name, (const char *)name, FS_MEMBER_NAME_BYTES))
			return &r->slots[i];
	}
	return NULL;
}

/* What an attached member is known to have, when nothing is heard of it: what is in place here, since a record leaves the
 * ring only when every copy that is not given up has it. The head tells less than it seems: a commit is closed when every
 * attached copy that is left has answered the one before, and below the rule a loss is not recorded, so that copies recorded
 * as attached may lack any number of the newest ones. */
static uint64_t attached_mark(const struct replication *r)
{
	return copy_tail(r->copy).seq;
}

void members_load(struct replication *r, const struct fs_state_omf *state)
{
	uint32_t count = le32_get(state->member_count);

	for (uint32_t i = 0; i < count && i < FS_MEMBERS_MAX; i++) {
		const struct fs_member_omf *m = &state->members[i];
		struct slot *slot = slot_by_name(r, m->name);

		if (!slot)
			continue;
		slot->member = le32_get(m->state);
		memcpy(slot->instance, m->instance, sizeof(slot->instance));
		if (!slot->link || slot->link->state != REPL_UP)
			slot->mark = slot->tail =
				slot->member == FS_MEMBER_ATTACHED ? attached_mark(r) : le64_get(m->mark);
	}
}

/* ---------------------------------------------------------------- building the table */

/* State the slot is to have in the table. */
static uint32_t member_next(const struct replication *r, const struct slot *slot)
{
	if (slot->state == SLOT_LIVE)
		return FS_MEMBER_ATTACHED;
	if (slot->member == FS_MEMBER_ATTACHED)
		return FS_MEMBER_DETACHED;
	if (slot->member == FS_MEMBER_DETACHED && r->release_wanted && slot->state != SLOT_CATCHING)
		return FS_MEMBER_RELEASED;
	return slot->member;
}

static void member_put(struct fs_member_omf *m, const char *name, const uint8_t instance[16], uint32_t state,
	bool same_machine, uint64_t mark)
{
	size_t len = strlen(name);

	memset(m, 0, sizeof(*m));
	memcpy(m->name, name, len < FS_MEMBER_NAME_BYTES ? len : FS_MEMBER_NAME_BYTES - 1);
	memcpy(m->instance, instance, sizeof(m->instance));
	m->state = le32_put(state);
	m->mode = le32_put(1);
	m->flags = le32_put(same_machine ? FS_MEMBER_SAME_MACHINE : 0);
	m->mark = le64_put(mark);
}

/* A replica that was never attached is no member; one that left the poolset is none any more. */
static void table_build(const struct replication *r, struct fs_state_omf *state)
{
	uint32_t count = 0;

	memset(state->members, 0, sizeof(state->members));
	member_put(&state->members[count++], LOCAL_NAME, copy_page(r->copy)->instance, FS_MEMBER_ATTACHED, false, 0);
	for (unsigned i = 0; i < r->slot_count; i++) {
		const struct slot *slot = &r->slots[i];
		uint32_t next = member_next(r, slot);

		if (next != FS_MEMBER_NONE)
			member_put(&state->members[count++], slot->conf->name, slot->instance, next, slot->same_machine,
				next == FS_MEMBER_ATTACHED ? 0 : slot_acked(slot));
	}
	state->member_count = le32_put(count);
}

/* The commit that was asked for holds the table. */
static void table_stored(struct replication *r)
{
	uint64_t seq = fs_committed_seq(r->fs) + 1;

	for (unsigned i = 0; i < r->slot_count; i++) {
		struct slot *slot = &r->slots[i];
		uint32_t next = member_next(r, slot);

		if (next == slot->member)
			continue;
		if (next == FS_MEMBER_DETACHED)
			r->lost_seq = seq;
		if (next == FS_MEMBER_RELEASED)
			log_warn("replica %s: its records are given up for space: it needs a whole copy",
				slot->conf->name);
		slot->member = next;
		slot->member_seq = seq;
	}
	r->lost = r->members_dirty = r->release_wanted = false;
}

/* ---------------------------------------------------------------- operations */

static int state_change(struct replication *r, void (*change)(struct replication *r, struct fs_state_omf *state))
{
	const struct fs_state_omf *now;
	struct fs_state_omf state;
	int err;

	err = fs_room_state(r->fs);
	if (err)
		return err;
	op_begin(r->fs);
	err = state_get(r->fs, &now);
	if (err)
		return op_abort(r->fs, err);
	state = *now;
	change(r, &state);
	err = state_put(r->fs, &state);
	if (err)
		return op_abort(r->fs, err);
	op_end(r->fs);
	return 0;
}

static void change_members(struct replication *r, struct fs_state_omf *state)
{
	table_build(r, state);
}

int members_store(struct replication *r)
{
	int err = state_change(r, change_members);

	if (err)
		return err;
	table_stored(r);
	fs_commit_soon(r->fs);
	return 0;
}

/* Whether a copy that acknowledgements waited for is not here: what it has beyond our history, nobody knows. */
static bool member_missing(struct replication *r, const struct fs_state_omf *state)
{
	for (uint32_t i = 0; i < le32_get(state->member_count) && i < FS_MEMBERS_MAX; i++) {
		const struct fs_member_omf *m = &state->members[i];
		const struct slot *slot = slot_by_name(r, m->name);

		if (le32_get(m->state) != FS_MEMBER_ATTACHED || !strcmp((const char *)m->name, LOCAL_NAME))
			continue;
		if (!slot || slot->state != SLOT_LIVE)
			return true;
	}
	return false;
}

static void change_mount(struct replication *r, struct fs_state_omf *state)
{
	struct timespec now;

	if (member_missing(r, state)) {
		r->epoch++;
		csum_random(r->epoch_id, sizeof(r->epoch_id));
	}
	state->epoch = le64_put(r->epoch);
	memcpy(state->epoch_id, r->epoch_id, sizeof(state->epoch_id));
	csum_random(state->mount_nonce, sizeof(state->mount_nonce));
	state->mount_count = le64_put(le64_get(state->mount_count) + 1);
	clock_gettime(CLOCK_REALTIME, &now);
	state->mount_ns = le64_put((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
	state->min_replicas = le32_put(r->min_new);
	table_build(r, state);
}

int members_mount(struct replication *r)
{
	int err = state_change(r, change_mount);

	if (err)
		return err;
	table_stored(r);
	r->lost_seq = r->min_seq = fs_committed_seq(r->fs) + 1; /* nothing is acknowledged before this is durable */
	for (unsigned i = 0; i < r->slot_count; i++)
		r->slots[i].member_seq = r->lost_seq;
	fs_commit_soon(r->fs);
	return 0;
}
