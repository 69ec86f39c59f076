/* The replication policy: what may be acknowledged, what must wait, and when a replica's loss or return is recorded.
 *
 * Two numbers govern the core. durable() is the least sequence over live links: commits go on as soon as the copies
 * that are left have them. ackable() is what programs may be told; it stops (at `cap`, the newest value it ever had)
 * when
 *
 *   a link is lost        until a commit that records the loss is durable on every copy that is left
 *   the rule is broken    until enough live replicas, recorded as attached, count
 *   we are fenced         for good
 *
 * A loss is recorded only when the rule holds without the replica: below the rule nothing is acknowledged anyway, and
 * if the replica comes back first, nothing has to be recorded at all. A replica that comes back is sent what it lacks
 * from the local ring (catchup.c); once everything posted is on its way it goes live, from then on every commit is
 * posted to it and waits for it, and a commit records it as attached before it counts.
 *
 * Every change of the state block happens in replication_poll, never inside a call of the core: those only leave
 * wishes. */
#include "policy.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "errmsg.h"
#include "log.h"
#include "plant.h"

#define POST_RANGES_STACK 64u

uint64_t policy_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---------------------------------------------------------------- the numbers */

uint64_t slot_acked(const struct slot *slot)
{
	return slot->link && slot->link->acked > slot->mark ? slot->link->acked : slot->mark;
}

static uint64_t slot_tail(const struct slot *slot)
{
	return slot->link && slot->link->tail_seq > slot->tail ? slot->link->tail_seq : slot->tail;
}

static uint64_t live_durable(const struct replication *r)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < r->slot_count; i++) {
		const struct slot *slot = &r->slots[i];

		if (slot->state == SLOT_LIVE && slot_acked(slot) < least && !PLANTED(PLANT_WAIT))
			least = slot_acked(slot);
	}
	return least;
}

uint64_t policy_all_durable(const struct replication *r)
{
	uint64_t local = copy_head(r->copy).seq, live = live_durable(r);

	return local < live ? local : live;
}

unsigned policy_live(const struct replication *r, bool recorded)
{
	uint64_t durable = recorded ? policy_all_durable(r) : 0;
	unsigned count = 0;

	for (unsigned i = 0; i < r->slot_count; i++) {
		const struct slot *slot = &r->slots[i];

		if (slot->state != SLOT_LIVE || !slot->counts)
			continue;
		if (!recorded || (slot->member == FS_MEMBER_ATTACHED && slot->member_seq <= durable))
			count++;
	}
	return count;
}

static uint32_t both_rules(const struct replication *r)
{
	return r->min_old > r->min_new ? r->min_old : r->min_new;
}

/* Whether the change of the rule is durable under both: on every copy that is left, and on enough of them. */
static bool rule_changed(const struct replication *r)
{
	return r->min_seq && policy_all_durable(r) >= r->min_seq && policy_live(r, true) >= both_rules(r);
}

uint32_t policy_min(const struct replication *r)
{
	if (PLANTED(PLANT_RULE))
		return 0;
	return rule_changed(r) ? r->min_new : both_rules(r);
}

/* Whether acknowledgements are held back at the cap. */
static bool held_back(const struct replication *r)
{
	bool unrecorded = (r->lost || r->lost_seq > policy_all_durable(r)) && !PLANTED(PLANT_MEMBER);

	return r->fenced || !r->fs || unrecorded || policy_live(r, true) < policy_min(r);
}

uint64_t policy_ackable(struct replication *r)
{
	uint64_t durable;

	if (!r->copy)
		return 0;
	durable = policy_all_durable(r);
	if (!held_back(r)) {
		if (durable > r->cap)
			r->cap = durable;
		return durable;
	}
	return r->cap < durable ? r->cap : durable;
}

/* Whether the slot's copy holds back ring and blocks: it may come back and be caught up. A released one does not, from
 * the moment that is decided: the commit that records it may be the one that needs the space. Until that is durable a
 * crash finds it recorded as detached and the ring too short, which catching up notices. */
static bool slot_holds(const struct slot *slot)
{
	if (slot->state == SLOT_LIVE || slot->state == SLOT_CATCHING)
		return true;
	return slot->member == FS_MEMBER_ATTACHED || slot->member == FS_MEMBER_DETACHED;
}

static uint64_t least_held(const struct replication *r, uint64_t (*value)(const struct slot *slot))
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < r->slot_count; i++) {
		if (slot_holds(&r->slots[i]) && value(&r->slots[i]) < least)
			least = value(&r->slots[i]);
	}
	return least;
}

/* ---------------------------------------------------------------- what the core calls */

/* Ranges pushed before the slot went live are not there: name the bytes, which stand in the local pool. */
static int post_inlined(struct replication *r, struct slot *slot, const struct repl_commit *commit)
{
	struct repl_range stack[POST_RANGES_STACK], *ranges = stack;
	struct repl_commit full = *commit;
	int err;

	if (commit->range_count > POST_RANGES_STACK) {
		ranges = calloc(commit->range_count, sizeof(*ranges));
		if (!ranges)
			return -ENOMEM;
	}
	for (unsigned i = 0; i < commit->range_count; i++) {
		ranges[i] = commit->ranges[i];
		if (!ranges[i].src)
			ranges[i].src = pm_ptr(copy_pm(r->copy), ranges[i].off);
	}
	full.ranges = ranges;
	err = slot->link->ops->commit(slot->link, &full);
	if (ranges != stack)
		free(ranges);
	return err;
}

static void op_post(void *ctx, const struct repl_commit *commit)
{
	struct replication *r = ctx;
	struct repl_commit c = *commit;
	uint64_t held = least_held(r, slot_acked);

	if (held < c.settled)
		c.settled = held; /* a copy that is behind may still need content that later lines would replace */
	r->posted = c.seq;
	for (unsigned i = 0; i < r->slot_count; i++) {
		struct slot *slot = &r->slots[i];
		int err;

		if (slot->state != SLOT_LIVE || slot->post_err)
			continue;
		err = c.seq <= slot->inline_until ? post_inlined(r, slot, &c) : slot->link->ops->commit(slot->link, &c);
		slot->sent = c.seq;
		slot->post_err = err; /* replication_poll treats it as a loss */
	}
}

static bool op_push(void *ctx, uint64_t off, const void *src, uint32_t len)
{
	struct replication *r = ctx;
	struct repl_range range = { .off = off, .len = len, .src = src };
	bool any = false;

	for (unsigned i = 0; i < r->slot_count; i++) {
		if (r->slots[i].state == SLOT_LIVE && (r->slots[i].post_err || !r->slots[i].link->peer.rma))
			return false; /* it then travels inside the commit */
	}
	for (unsigned i = 0; i < r->slot_count; i++) {
		struct slot *slot = &r->slots[i];

		if (slot->state != SLOT_LIVE)
			continue;
		/* not "not pushed" then: the write to another one may be on its way already, so that the block must not
		 * be given out again before an answer; who refuses is treated as lost, as for a commit */
		slot->post_err = slot->link->ops->push(slot->link, &range, 1);
		any |= !slot->post_err;
	}
	return any;
}

static uint64_t op_durable(void *ctx)
{
	return live_durable(ctx);
}

static uint64_t op_ackable(void *ctx)
{
	return policy_ackable(ctx);
}

static uint64_t op_min_acked(void *ctx)
{
	return least_held(ctx, slot_acked);
}

static uint64_t op_min_tail(void *ctx)
{
	return least_held(ctx, slot_tail);
}

static void op_checkpointed(void *ctx, uint64_t seq)
{
	struct replication *r = ctx;
	uint64_t held = least_held(r, slot_acked);

	if (held < seq)
		seq = held;
	for (unsigned i = 0; i < r->slot_count; i++) {
		struct slot *slot = &r->slots[i];

		if (slot->state == SLOT_LIVE && !slot->post_err && slot_tail(slot) < seq)
			slot->post_err = slot->link->ops->checkpoint(slot->link, seq);
	}
}

static void op_need_release(void *ctx)
{
	((struct replication *)ctx)->release_wanted = true;
}

static int op_may_change(void *ctx)
{
	struct replication *r = ctx;

	if (r->fenced)
		return -EROFS;
	return r->fs && policy_live(r, false) < policy_min(r) ? -EAGAIN : 0;
}

const struct fs_repl_ops replication_ops = {
	.post = op_post,
	.push = op_push,
	.durable = op_durable,
	.ackable = op_ackable,
	.min_acked = op_min_acked,
	.min_tail = op_min_tail,
	.checkpointed = op_checkpointed,
	.need_release = op_need_release,
	.may_change = op_may_change,
};

/* ---------------------------------------------------------------- slots that come and go */

static void counters_add(struct repl_counters *sum, const struct repl_counters *c)
{
	sum->commits += c->commits;
	sum->round_trips += c->round_trips;
	sum->bytes_sent += c->bytes_sent;
	sum->peer_rx_bytes += c->peer_rx_bytes;
	sum->peer_rx_msgs += c->peer_rx_msgs;
}

static void slot_unlink(struct slot *slot)
{
	if (!slot->link)
		return;
	slot->mark = slot_acked(slot);
	slot->tail = slot_tail(slot);
	counters_add(&slot->past, &slot->link->count);
	slot->link->ops->drop(slot->link); /* the loop serves others, and waits for nobody who may be stopped */
	slot->link = NULL;
	slot->post_err = 0;
	if (slot->sync_taken)
		fs_waiter_cancel(&slot->sync);
	slot->sync_taken = false;
	free(slot->rec);
	slot->rec = NULL;
}

void slot_down(struct slot *slot, const char *reason)
{
	snprintf(slot->reason, sizeof(slot->reason), "%s", reason); /* it may be the link's own text */
	slot_unlink(slot);
	slot->state = SLOT_DOWN;
	slot->backoff_ms = slot->backoff_ms ? 2 * slot->backoff_ms : REPLICATION_RETRY_MS_MIN;
	if (slot->backoff_ms > REPLICATION_RETRY_MS_MAX)
		slot->backoff_ms = REPLICATION_RETRY_MS_MAX;
	slot->retry_at_ms = policy_now_ms() + slot->backoff_ms;
}

void slot_refuse(struct replication *r, struct slot *slot, const char *reason)
{
	(void)r;
	snprintf(slot->reason, sizeof(slot->reason), "%s", reason);
	slot_unlink(slot);
	slot->state = SLOT_REFUSED;
	log_error("replica %s: refused: %s", slot->conf->name, slot->reason);
}

static void become_fenced(struct replication *r, const struct slot *slot, const char *why)
{
	if (!r->fenced)
		log_error(
			"replica %s: this is an old primary, nothing more is acknowledged: %s", slot->conf->name, why);
	policy_ackable(r);
	r->fenced = true;
}

/* Why a link failed, in words that outlive it. */
static int link_error(const struct slot *slot, char *text, size_t size)
{
	const struct repl_link *link = slot->link;
	int err = link->state == REPL_DOWN ? link->err : slot->post_err;

	if (link->state == REPL_DOWN && link->err_text[0])
		snprintf(text, size, "%s", link->err_text);
	else
		snprintf(text, size, "%s", strerror(-err));
	return err;
}

static void slot_lost(struct replication *r, struct slot *slot)
{
	char why[300];
	int err = link_error(slot, why, sizeof(why));
	bool was_live = slot->state == SLOT_LIVE;

	policy_ackable(r); /* what may be acknowledged without regard to this loss */
	if (err == -ESTALE)
		become_fenced(r, slot, why);
	if (was_live)
		r->lost = true;
	slot->backoff_ms = was_live ? 0 : slot->backoff_ms;
	slot_down(slot, why);
	if (was_live)
		log_warn("replica %s: lost at commit %" PRIu64 ": %s; %u of the %" PRIu32 " needed are left%s",
			slot->conf->name, slot->mark, why, policy_live(r, false), policy_min(r),
			policy_live(r, false) < policy_min(r) ? ": changes wait" : "");
}

/* A handshake succeeded while the file system runs. */
static void slot_arrived(struct replication *r, struct slot *slot)
{
	enum verdict verdict = attach_judge(r, slot);

	switch (verdict) {
	case VERDICT_IN_LINE:
		slot->state = SLOT_CATCHING;
		break;
	case VERDICT_FAILED:
		slot_lost(r, slot);
		break;
	case VERDICT_FENCED:
		become_fenced(r, slot, errmsg_get());
		slot_refuse(r, slot, errmsg_get());
		break;
	case VERDICT_AHEAD:
		slot->differs = true;
		slot_refuse(r, slot, "has commits that this mount never made: somebody else has written to it");
		break;
	case VERDICT_DIFFERENT:
	case VERDICT_UNUSABLE:
		slot->differs = verdict == VERDICT_DIFFERENT;
		slot_refuse(r, slot, errmsg_get());
		break;
	}
}

/* Everything posted is sent: from here on the core's posts reach it, and every commit waits for it. */
static void slot_go_live(struct replication *r, struct slot *slot)
{
	policy_ackable(r);
	slot->state = SLOT_LIVE;
	slot->backoff_ms = 0;
	slot->reason[0] = '\0';
	slot->inline_until = UINT64_MAX;
	if (slot->member != FS_MEMBER_ATTACHED)
		r->members_dirty = true;
	log_info("replica %s: caught up at commit %" PRIu64, slot->conf->name, slot->sent);
}

static void slot_catch_up(struct replication *r, struct slot *slot)
{
	int err;

	catchup_settle(slot);
	if (slot->sent == r->posted && slot->sent == copy_head(r->copy).seq) {
		slot_go_live(r, slot);
		return;
	}
	err = catchup_step(r, slot);
	if (err == -ENODATA) {
		slot_refuse(r, slot, errmsg_get());
	} else if (err) {
		slot->post_err = err;
		slot_lost(r, slot);
	}
}

/* ---------------------------------------------------------------- poll */

static void sync_done(struct fs_waiter *waiter, int err)
{
	struct slot *slot = (struct slot *)((char *)waiter - offsetof(struct slot, sync));

	slot->sync_taken = false;
	if (!err)
		slot->inline_until = waiter->seq;
}

/* Links everything staged before the slot went live, so that from some commit on all pushes were made to it too. */
static void slot_bound_inline(struct replication *r, struct slot *slot)
{
	if (slot->sync_taken)
		return;
	slot->sync.done = sync_done;
	slot->sync_taken = true;
	if (fs_sync_all(r->fs, &slot->sync))
		slot->sync_taken = false; /* next time */
}

static bool slot_poll(struct replication *r, struct slot *slot)
{
	enum slot_state state = slot->state;
	uint64_t acked = slot_acked(slot), sent = slot->sent;

	if (state == SLOT_REFUSED)
		return false;
	if (state == SLOT_DOWN) {
		if (r->cfg.read_only || r->fenced || policy_now_ms() < slot->retry_at_ms)
			return false;
		return !slot_connect(r, slot);
	}
	if (slot->link->ops->poll(slot->link) == REPL_DOWN || slot->post_err)
		slot_lost(r, slot);
	else if (state == SLOT_CONNECTING && slot->link->state == REPL_UP && r->fs)
		slot_arrived(r, slot);
	if (slot->state == SLOT_CATCHING && r->fs)
		slot_catch_up(r, slot);
	if (slot->state == SLOT_LIVE) {
		catchup_settle(slot);
		if (r->fs && slot->inline_until == UINT64_MAX)
			slot_bound_inline(r, slot);
	}
	return slot->state != state || slot_acked(slot) != acked || slot->sent != sent;
}

/* Whether somebody recorded as attached is away. */
static bool loss_unrecorded(const struct replication *r)
{
	for (unsigned i = 0; i < r->slot_count; i++) {
		if (r->slots[i].member == FS_MEMBER_ATTACHED && r->slots[i].state != SLOT_LIVE)
			return true;
	}
	return false;
}

/* Records what changed, when it may be recorded. */
static bool record_members(struct replication *r)
{
	bool holds = policy_live(r, false) >= policy_min(r), lost;

	if (r->lost && !loss_unrecorded(r))
		r->lost = false; /* it came back before anything was acknowledged without it */
	if (!holds)
		r->release_wanted = false; /* changes wait anyhow, for whom it would make useless; asked for again */
	lost = r->lost && holds;
	if (!r->fs || r->fenced || (!lost && !r->members_dirty && !r->release_wanted))
		return false;
	return members_store(r) == 0;
}

/* The change of the rule is durable under both. */
static void settle_rule(struct replication *r)
{
	if (rule_changed(r)) {
		r->min_old = r->min_new;
		r->min_seq = 0;
	}
}

bool replication_poll(struct replication *r)
{
	bool moved = false;

	for (unsigned i = 0; i < r->slot_count; i++)
		moved |= slot_poll(r, &r->slots[i]);
	if (r->copy) {
		moved |= record_members(r);
		settle_rule(r);
		policy_ackable(r);
	}
	return moved;
}
