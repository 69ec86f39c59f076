/* Before the first new commit of a mount: histories compared, copies brought together.
 *
 *   peer's head in our history      it lacks records: it is caught up from our ring (catchup.c)
 *   our head in the peer's history  we lack records: pulled from its ring, with the data they link
 *   neither                         different histories: refused, nothing is dropped
 *
 * Which epoch is ours: the state block's or the fence of the local page, the greater one. Restore fences the replicas
 * and the new local copy alike, and the first mount after it raises the state block's epoch to that fence. A copy
 * fenced beyond belongs to a primary that came after us.
 *
 * Everything is decided from records and pages; nothing is stored anywhere before all reachable copies were judged. */
#include "policy.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "log.h"
#include "plant.h"

#define WAIT_STEP_MS 20 /* a connecting link may have no descriptor to wait on */

/* ---------------------------------------------------------------- the state block without the core */

void attach_lines_apply(const struct redo_view *v, uint64_t blk, uint8_t *content)
{
	const uint8_t *line = v->line_bytes;

	for (uint32_t i = 0; i < v->line_blks; i++) {
		bool ours = le64_get(v->lines[i].blk) == blk;

		for (uint64_t mask = le64_get(v->lines[i].mask); mask; mask &= mask - 1, line += MEDIA_LINE_BYTES) {
			if (ours)
				memcpy(content + (size_t)__builtin_ctzll(mask) * MEDIA_LINE_BYTES, line,
					MEDIA_LINE_BYTES);
		}
	}
}

int attach_peek_state(const struct copy *copy, struct fs_state_omf *state)
{
	uint64_t root = le64_get(copy_sb(copy)->root_blk), head = copy_head(copy).seq;
	uint8_t *rec = aligned_alloc(MEDIA_LINE_BYTES, copy_geom(copy)->ring_bytes / REDO_RING_SHARE);
	struct redo_view v;
	int err = 0;

	if (!rec)
		return errmsg_set(-ENOMEM, "state block: no memory");
	memcpy(state, pm_ptr(copy_pm((struct copy *)copy), media_off(root)), sizeof(*state));
	for (uint64_t seq = copy_tail(copy).seq + 1; seq <= head && !err; seq++) {
		const struct copy_rec *at = copy_find(copy, seq);

		copy_rec_read(copy, at, rec);
		err = redo_parse(rec, at->len, copy_geom(copy), &v);
		if (!err)
			attach_lines_apply(&v, root, (uint8_t *)state);
	}
	free(rec);
	if (!err && (memcmp(state->magic, FS_STATE_MAGIC, sizeof(state->magic)) ||
			    le32_get(state->member_count) > FS_MEMBERS_MAX))
		err = errmsg_set(-EBADMSG, "block 0x%" PRIx64 ": not a state block", root);
	return err;
}

/* ---------------------------------------------------------------- judging one replica */

/* First 8 hex digits of a history hash, as every message shows it. */
static const char *short_hash(const struct hash128 *hash, char text[9])
{
	snprintf(text, 9, "%02x%02x%02x%02x", hash->b[0], hash->b[1], hash->b[2], hash->b[3]);
	return text;
}

/* Our history at seq, when the ring still knows it. */
static bool point_at(const struct copy *copy, uint64_t seq, struct copy_point *point)
{
	const struct copy_rec *rec = copy_find(copy, seq);
	struct copy_point tail = copy_tail(copy);

	if (seq != tail.seq && !rec)
		return false;
	*point = seq == tail.seq ? tail : rec->at;
	return true;
}

static bool point_equal(const struct copy_point *a, const struct copy_point *b)
{
	return a->seq == b->seq && a->epoch == b->epoch && !memcmp(&a->hash, &b->hash, sizeof(a->hash));
}

static enum verdict different(const struct replication *r, const struct slot *slot, const struct copy_point *ours,
	const struct copy_point *theirs)
{
	char a[9], b[9];

	errmsg_set(-EILSEQ,
		"different history: at commit %" PRIu64 " it is %s there (epoch %" PRIu64
		") and %s here (epoch %" PRIu64 "); to go on with that one: rpmemfs restore %s --from %s --replace; to "
						"go on with this one: take the replica "
		"out of %s",
		ours->seq, short_hash(&theirs->hash, b), theirs->epoch, short_hash(&ours->hash, a), ours->epoch,
		r->set->path, slot->conf->name, r->set->path);
	return VERDICT_DIFFERENT;
}

static enum verdict judge_content(const struct replication *r, const struct repl_peer *peer)
{
	const struct media_sb_omf *sb = copy_sb(r->copy);
	const struct media_geom *geom = copy_geom(r->copy);

	if (!peer->formatted)
		errmsg_set(-EMEDIUMTYPE, "the pool there is not formatted");
	else if (memcmp(peer->content_uuid, sb->content_uuid, sizeof(sb->content_uuid)))
		errmsg_set(-EMEDIUMTYPE, "the pool there is a copy of something else");
	else if (peer->page.state != MEDIA_CONSISTENT && !PLANTED(PLANT_MARK))
		errmsg_set(-EUCLEAN,
			"the copy there is marked inconsistent: it was being overwritten and needs a whole copy");
	else if (peer->ring_bytes != geom->ring_bytes || peer->blk_count < geom->blk_count)
		errmsg_set(-EFBIG,
			"the copy there has %" PRIu64 " blocks and a ring of %" PRIu64 " bytes, here it is %" PRIu64
			" and %" PRIu64,
			peer->blk_count, peer->ring_bytes, geom->blk_count, geom->ring_bytes);
	else
		return VERDICT_IN_LINE;
	return VERDICT_UNUSABLE;
}

static enum verdict judge_fence(const struct replication *r, const struct slot *slot)
{
	const struct repl_peer *peer = &slot->link->peer;
	uint64_t fence = peer->page.fence_epoch;

	if (fence < r->epoch || (fence == r->epoch && !memcmp(peer->page.fence_id, r->epoch_id, sizeof(r->epoch_id))))
		return VERDICT_IN_LINE;
	errmsg_set(-ESTALE,
		"fenced at epoch %" PRIu64 ", this copy is of epoch %" PRIu64
		": another primary has taken over, this is "
		"an old one; to make it a copy of that one: rpmemfs restore %s --from %s --replace",
		fence, r->epoch, r->set->path, slot->conf->name);
	return VERDICT_FENCED;
}

/* The peer says it is ahead: is our head in its history? In a running mount it is refused whatever the answer: the loop
 * does not wait for one. */
static enum verdict judge_ahead(const struct replication *r, struct slot *slot)
{
	struct copy_point ours = copy_head(r->copy), theirs;
	int err;

	if (r->fs)
		return VERDICT_AHEAD;
	err = slot->link->ops->chain(slot->link, ours.seq, &theirs);
	if (err == -ERANGE) {
		errmsg_set(-EUCLEAN,
			"the copy there is at commit %" PRIu64 ", this one at %" PRIu64
			", too far behind to be brought up; rpmemfs restore %s --from %s --replace",
			slot->link->peer.head.seq, ours.seq, r->set->path, slot->conf->name);
		return VERDICT_DIFFERENT;
	}
	if (err)
		return VERDICT_FAILED;
	return point_equal(&ours, &theirs) ? VERDICT_AHEAD : different(r, slot, &ours, &theirs);
}

static enum verdict judge_behind(const struct replication *r, struct slot *slot)
{
	const struct copy_point *theirs = &slot->link->peer.head;
	struct copy_point ours;

	if (!point_at(r->copy, theirs->seq, &ours)) {
		errmsg_set(-ENODATA,
			"the copy there is at commit %" PRIu64 ", the ring here starts behind %" PRIu64
			": it needs a whole copy",
			theirs->seq, copy_tail(r->copy).seq);
		return VERDICT_UNUSABLE;
	}
	if (point_equal(&ours, theirs) || PLANTED(PLANT_CHAIN))
		return VERDICT_IN_LINE;
	return different(r, slot, &ours, theirs);
}

enum verdict attach_judge(struct replication *r, struct slot *slot)
{
	const struct repl_peer *peer = &slot->link->peer;
	enum verdict verdict = judge_content(r, peer);

	slot->peer = *peer;
	if (verdict == VERDICT_IN_LINE)
		verdict = judge_fence(r, slot);
	if (verdict != VERDICT_IN_LINE)
		return verdict;
	memcpy(slot->instance, peer->page.instance, sizeof(slot->instance));
	slot->mark = slot->sent = peer->head.seq;
	slot->tail = peer->tail.seq;
	return peer->head.seq > copy_head(r->copy).seq ? judge_ahead(r, slot) : judge_behind(r, slot);
}

/* ---------------------------------------------------------------- a mount compares */

/* Refuses the slot; the mount too, when acknowledgements were waiting for this copy. */
static int refuse_differing(struct replication *r, struct slot *slot)
{
	slot->differs = true;
	slot_refuse(r, slot, errmsg_get());
	if (slot->member != FS_MEMBER_ATTACHED)
		return 0;
	return errmsg_set(-EILSEQ, "replica %s: %s", slot->conf->name, slot->reason);
}

static int compare_slot(struct replication *r, struct slot *slot, bool *ahead)
{
	*ahead = false;
	switch (attach_judge(r, slot)) {
	case VERDICT_IN_LINE:
		slot->state = SLOT_CATCHING;
		return 0;
	case VERDICT_AHEAD:
		*ahead = true;
		return 0;
	case VERDICT_UNUSABLE:
		slot_refuse(r, slot, errmsg_get());
		return 0;
	case VERDICT_FAILED:
		slot_down(slot, slot->link->err_text);
		return 0;
	case VERDICT_FENCED:
		slot_refuse(r, slot, errmsg_get());
		return errmsg_set(-ESTALE, "replica %s: %s", slot->conf->name, slot->reason);
	case VERDICT_DIFFERENT:
		return refuse_differing(r, slot);
	}
	return -EINVAL;
}

/* One pass over the connected replicas. *newest: the one farthest ahead of us, NULL: none is. */
static int compare_all(struct replication *r, struct slot **newest)
{
	*newest = NULL;
	for (unsigned i = 0; i < r->slot_count; i++) {
		struct slot *slot = &r->slots[i];
		bool ahead;
		int err;

		if (!slot->link || slot->link->state != REPL_UP)
			continue;
		err = compare_slot(r, slot, &ahead);
		if (err)
			return err;
		if (ahead && (!*newest || slot->link->peer.head.seq > (*newest)->link->peer.head.seq))
			*newest = slot;
	}
	return 0;
}

int replication_epoch(const struct copy *copy, uint64_t *epoch)
{
	struct fs_state_omf state;
	uint64_t fence = copy_page(copy)->fence_epoch;
	int err = attach_peek_state(copy, &state);

	if (err)
		return err;
	*epoch = le64_get(state.epoch) > fence ? le64_get(state.epoch) : fence;
	return 0;
}

/* A replica did not let us open it, being fenced above our epoch. */
static int refuse_fenced(const struct replication *r)
{
	const struct slot *slot = r->slots;

	while (slot->state != SLOT_REFUSED)
		slot++;
	return errmsg_set(-ESTALE, "replica %s: %s; to make this a copy of that one: rpmemfs restore %s --from %s --replace",
		slot->conf->name, slot->reason, r->set->path, slot->conf->name);
}

static int load_state(struct replication *r)
{
	struct fs_state_omf state;
	const struct copy_page *page = copy_page(r->copy);
	int err;

	if (page->state != MEDIA_CONSISTENT && !PLANTED(PLANT_MARK))
		return errmsg_set(-EUCLEAN,
			"the local copy is marked inconsistent: a restore was interrupted; rpmemfs restore %s",
			r->set->path);
	err = attach_peek_state(r->copy, &state);
	if (err)
		return err;
	r->epoch = le64_get(state.epoch);
	memcpy(r->epoch_id, state.epoch_id, sizeof(r->epoch_id));
	if (page->fence_epoch > r->epoch) {
		r->epoch = page->fence_epoch;
		memcpy(r->epoch_id, page->fence_id, sizeof(r->epoch_id));
	}
	r->min_old = le32_get(state.min_replicas);
	r->min_new = r->cfg.min_replicas == REPLICATION_MIN_RECORDED ? r->min_old : r->cfg.min_replicas;
	members_load(r, &state);
	return 0;
}

/* Pulls until no copy that belongs to our history is ahead of us. */
static int compare_and_pull(struct replication *r)
{
	struct slot *newest;
	int err;

	for (;;) {
		err = load_state(r);
		if (!err)
			err = compare_all(r, &newest);
		if (err || !newest)
			return err;
		if (r->cfg.read_only) {
			log_warn("replica %s: has newer commits than the local copy", newest->conf->name);
			return 0;
		}
		log_info("replica %s: has commits up to %" PRIu64 ", the local copy up to %" PRIu64
			 ": fetched from there",
			newest->conf->name, newest->link->peer.head.seq, copy_head(r->copy).seq);
		err = attach_pull(r->copy, newest->link);
		if (err)
			return errmsg_prefix(err, "replica %s", newest->conf->name);
	}
}

/* ---------------------------------------------------------------- catching up before fs_open */

static void wait_links(struct replication *r)
{
	struct pollfd fds[REPLICATION_FDS_MAX];
	int raw[REPLICATION_FDS_MAX];
	unsigned count = replication_fds(r, raw);

	if (!replication_may_block(r))
		return;
	for (unsigned i = 0; i < count; i++)
		fds[i] = (struct pollfd){ .fd = raw[i], .events = POLLIN };
	(void)poll(fds, count, WAIT_STEP_MS); /* whatever ends it, the links are polled again */
}

/* One step of a slot; true while it still lacks something. */
static bool catch_up_step(struct replication *r, struct slot *slot)
{
	int err;

	if (slot->link->ops->poll(slot->link) == REPL_DOWN) {
		slot_down(slot, slot->link->err_text);
		return false;
	}
	catchup_settle(slot);
	if (slot_acked(slot) == copy_head(r->copy).seq) {
		slot->state = SLOT_LIVE;
		slot->sent = slot_acked(slot);
		slot->backoff_ms = 0;
		return false;
	}
	err = catchup_step(r, slot);
	if (err == -ENODATA)
		slot_refuse(r, slot, errmsg_get());
	else if (err)
		slot_down(slot, slot->link->err_text[0] ? slot->link->err_text : errmsg_get());
	return err == 0;
}

static void catch_up_all(struct replication *r)
{
	bool more = true;

	while (more) {
		more = false;
		for (unsigned i = 0; i < r->slot_count; i++) {
			if (r->slots[i].state == SLOT_CATCHING)
				more |= catch_up_step(r, &r->slots[i]);
		}
		if (more)
			wait_links(r);
	}
}

/* ---------------------------------------------------------------- enough of them? */

/* Whether the comma-separated list holds the name. */
static bool list_names(const char *list, const char *name)
{
	size_t len = strlen(name);

	while (list && (strncmp(list, name, len) || (list[len] && list[len] != ','))) {
		list = strchr(list, ',');
		list = list ? list + 1 : NULL;
	}
	return list != NULL;
}

/* Recorded members that are not in line, whether the poolset still names them or not. */
static int absent_members(const struct replication *r, char *names, size_t size)
{
	struct fs_state_omf state;
	size_t len = 0;
	int err = attach_peek_state(r->copy, &state);

	names[0] = '\0';
	for (uint32_t m = 1; !err && m < le32_get(state.member_count) && len < size; m++) {
		char name[FS_MEMBER_NAME_BYTES + 1];
		bool live = false;

		snprintf(name, sizeof(name), "%.*s", FS_MEMBER_NAME_BYTES, (const char *)state.members[m].name);
		for (unsigned i = 0; i < r->slot_count; i++)
			live |= r->slots[i].state == SLOT_LIVE && !strcmp(r->slots[i].conf->name, name);
		if (!live)
			len += (size_t)snprintf(names + len, size - len, "%s%s", len ? "," : "", name);
	}
	return err;
}

/* Every name of absent stands in without, and nothing else does: a slip of the pen must not declare anybody dead. */
static bool declared_dead(const char *absent, const char *without)
{
	char one[POOLSET_NAME_BYTES_MAX];

	for (const char *at = without; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
		snprintf(one, sizeof(one), "%.*s", (int)strcspn(at, ","), at);
		if (!list_names(absent, one))
			return false;
	}
	for (const char *at = absent; *at; at += strspn(at, ",")) {
		snprintf(one, sizeof(one), "%.*s", (int)strcspn(at, ","), at);
		if (!list_names(without, one))
			return false;
		at += strcspn(at, ",");
	}
	return without && *absent;
}

/* What is missing, for the message: every replica that is not in line with its reason, and at the end what can be done,
 * for which reasons are cut short. */
static int too_few(const struct replication *r, uint32_t need, const char *absent)
{
	char text[ERRMSG_BYTES_MAX], remedy[ERRMSG_BYTES_MAX - 96] = "";
	unsigned live = policy_live(r, false);
	size_t size = sizeof(text), len;

	if (*absent)
		snprintf(remedy, sizeof(remedy),
			"\n  if those are lost for good, and promoted nowhere: "
			"rpmemfs mount --min-replicas %u --force --without %s %s %s",
			live, absent, r->set->path, r->cfg.mountpoint ? r->cfg.mountpoint : "MOUNTPOINT");
	size -= strlen(remedy);
	len = (size_t)snprintf(text, size, "%u of the %" PRIu32 " replicas needed are in line", live, need);
	for (unsigned i = 0; i < r->slot_count && len < size; i++) {
		const struct slot *slot = &r->slots[i];

		if (slot->state != SLOT_LIVE)
			len += (size_t)snprintf(text + len, size - len, "; %s: %s", slot->conf->name,
				slot->reason[0] ? slot->reason : "not connected yet");
	}
	return errmsg_set(-ENOTCONN, "%s%s", text, remedy);
}

/* The rule recorded and the one asked for are fulfilled, or the members that are away were declared dead. */
static int rule_check(struct replication *r)
{
	char absent[POOLSET_REPLICAS_MAX * (FS_MEMBER_NAME_BYTES + 1)];
	uint32_t need = r->min_old > r->min_new ? r->min_old : r->min_new;
	unsigned live = policy_live(r, false);
	int err;

	if (live >= need)
		return 0;
	err = absent_members(r, absent, sizeof(absent));
	if (err)
		return err;
	if (live < r->min_new || !declared_dead(absent, r->cfg.without))
		return too_few(r, need, absent);
	log_warn("pool: mounted without %s, declared dead: the rule is %" PRIu32 " from now on, it was %" PRIu32, absent,
		r->min_new, r->min_old);
	r->min_old = r->min_new;
	return 0;
}

int replication_compare(struct replication *r, struct copy *copy)
{
	int err;

	assert(!r->fs);
	r->copy = copy;
	if (r->fenced)
		return refuse_fenced(r);
	err = compare_and_pull(r);
	if (err)
		return err;
	r->posted = r->cap = copy_head(copy).seq;
	if (r->cfg.read_only)
		return 0;
	catch_up_all(r);
	return rule_check(r);
}

int replication_start(struct replication *r, struct fs *fs)
{
	int err;

	assert(r->copy && fs_copy(fs) == r->copy);
	r->fs = fs;
	err = members_mount(r);
	if (err)
		r->fs = NULL;
	return err;
}
