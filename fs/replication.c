/* Life of the links of a poolset: opened, waited for, polled together, shown, closed. What they mean for
 * acknowledgements is in policy.c, what a mount does with them in attach.c. */
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
#include "wire.h"

#define CONNECTING_STEP_MS 20 /* a handshake runs on a thread and may have no descriptor to wait on */

uint32_t replication_default_min(unsigned replica_count)
{
	unsigned copies = replica_count + 1, majority = copies / 2 + 1;

	return replica_count ? majority - 1 : 0;
}

/* ---------------------------------------------------------------- open */

static bool is_same_machine(const struct poolset_replica *conf)
{
	return !strcmp(conf->target, "@local");
}

static int slots_init(struct replication *r)
{
	bool remote = false;

	for (unsigned i = 1; i < r->set->replica_count; i++) {
		const struct poolset_replica *conf = &r->set->replicas[i];
		struct slot *slot = &r->slots[r->slot_count];

		if (!conf->target)
			return errmsg_set(-EINVAL,
				"%s:%u: a second local replica is not supported; use REPLICA @local <set>",
				r->set->path, conf->line);
		*slot = (struct slot){ .conf = conf, .state = SLOT_DOWN, .same_machine = is_same_machine(conf) };
		remote |= !slot->same_machine;
		r->slot_count++;
	}
	for (unsigned i = 0; i < r->slot_count; i++)
		r->slots[i].counts = !remote || !r->slots[i].same_machine;
	return 0;
}

static unsigned counting(const struct replication *r)
{
	unsigned count = 0;

	for (unsigned i = 0; i < r->slot_count; i++)
		count += r->slots[i].counts;
	return count;
}

static void cfg_init(struct replication *r, const struct replication_cfg *cfg)
{
	r->cfg = *cfg;
	if (cfg->provider) {
		snprintf(r->provider, sizeof(r->provider), "%s", cfg->provider);
		r->cfg.provider = r->provider;
	}
	if (cfg->command) {
		snprintf(r->command, sizeof(r->command), "%s", cfg->command);
		r->cfg.command = r->command;
	}
	if (!r->cfg.notice_ms)
		r->cfg.notice_ms = REPL_NOTICE_MS_DEFAULT;
	if (!r->cfg.connect_ms)
		r->cfg.connect_ms = REPL_CONNECT_MS_DEFAULT;
	if (!r->cfg.link_open)
		r->cfg.link_open = repl_link_open;
}

int slot_connect(struct replication *r, struct slot *slot)
{
	struct repl_cfg cfg = {
		.provider = r->cfg.provider,
		.command = r->cfg.command,
		.lanes = 1,
		.notice_ms = r->cfg.notice_ms,
		.connect_ms = r->cfg.connect_ms,
		.open_flags = r->cfg.read_only ? CTL_OPEN_RDONLY : 0,
		.epoch = r->copy ? r->epoch : r->cfg.epoch,
		.spin = r->cfg.spin,
	};
	int err = r->cfg.link_open(slot->conf, &cfg, &slot->link);

	if (err) {
		slot->link = NULL;
		slot_down(slot, strerror(-err));
		return err;
	}
	slot->state = SLOT_CONNECTING;
	return 0;
}

int replication_open(const struct poolset *set, const struct replication_cfg *cfg, struct replication **out)
{
	struct replication *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return errmsg_set(-ENOMEM, "replication: no memory");
	r->set = set;
	cfg_init(r, cfg);
	err = slots_init(r);
	if (!err && cfg->min_replicas != REPLICATION_MIN_RECORDED && cfg->min_replicas > counting(r))
		err = errmsg_set(-EINVAL, "%s: %" PRIu32 " replicas are to be required, %u count", set->path,
			cfg->min_replicas, counting(r));
	for (unsigned i = 0; i < r->slot_count && !err; i++)
		err = slot_connect(r, &r->slots[i]);
	if (err) {
		replication_close(r);
		return err;
	}
	*out = r;
	return 0;
}

/* ---------------------------------------------------------------- waiting */

unsigned replication_fds(struct replication *r, int *fds)
{
	unsigned count = 0;

	for (unsigned i = 0; i < r->slot_count; i++) {
		if (r->slots[i].link)
			count += r->slots[i].link->ops->fds(r->slots[i].link, fds + count);
	}
	assert(count <= REPLICATION_FDS_MAX);
	return count;
}

bool replication_may_block(struct replication *r)
{
	for (unsigned i = 0; i < r->slot_count; i++) {
		if (r->slots[i].link && !r->slots[i].link->ops->may_block(r->slots[i].link))
			return false;
	}
	return true;
}

static bool any_connecting(const struct replication *r)
{
	for (unsigned i = 0; i < r->slot_count; i++) {
		if (r->slots[i].link && r->slots[i].link->state == REPL_CONNECTING)
			return true;
	}
	return false;
}

int replication_timeout_ms(const struct replication *r)
{
	uint64_t now = policy_now_ms();
	int least = any_connecting(r) ? CONNECTING_STEP_MS : -1;

	if (r->cfg.read_only || r->fenced)
		return least;
	for (unsigned i = 0; i < r->slot_count; i++) {
		const struct slot *slot = &r->slots[i];
		int left;

		if (slot->state != SLOT_DOWN)
			continue;
		left = slot->retry_at_ms <= now ? 0 : (int)(slot->retry_at_ms - now);
		if (least < 0 || left < least)
			least = left;
	}
	return least;
}

/* A target that refuses our epoch was reached, and says that this is an old primary: replication_compare tells. */
static void slot_unreached(struct replication *r, struct slot *slot)
{
	if (slot->link->err != -ESTALE) {
		slot_down(slot, slot->link->err_text);
		return;
	}
	slot_refuse(r, slot, slot->link->err_text);
	r->fenced = true;
}

void replication_wait(struct replication *r, uint32_t timeout_ms)
{
	uint64_t end = policy_now_ms() + timeout_ms;

	for (;;) {
		struct pollfd fds[REPLICATION_FDS_MAX];
		int raw[REPLICATION_FDS_MAX];
		unsigned count;

		for (unsigned i = 0; i < r->slot_count; i++) {
			struct slot *slot = &r->slots[i];

			if (slot->link && slot->link->ops->poll(slot->link) == REPL_DOWN)
				slot_unreached(r, slot);
		}
		if (!any_connecting(r) || policy_now_ms() >= end)
			return;
		count = replication_fds(r, raw);
		for (unsigned i = 0; i < count; i++)
			fds[i] = (struct pollfd){ .fd = raw[i], .events = POLLIN };
		(void)poll(fds, count, CONNECTING_STEP_MS); /* whatever ends it, the links are polled again */
	}
}

/* ---------------------------------------------------------------- status */

const char *replication_state_name(enum replication_state state)
{
	static const char *const names[] = {
		[REPLICATION_CONNECTING] = "connecting",
		[REPLICATION_CATCHING_UP] = "catching-up",
		[REPLICATION_ATTACHED] = "attached",
		[REPLICATION_REFUSED] = "refused",
	};

	assert((unsigned)state < sizeof(names) / sizeof(*names));
	return names[state];
}

static enum replication_state state_shown(const struct replication *r, const struct slot *slot)
{
	static const enum replication_state shown[] = {
		[SLOT_DOWN] = REPLICATION_CONNECTING,
		[SLOT_CONNECTING] = REPLICATION_CONNECTING,
		[SLOT_CATCHING] = REPLICATION_CATCHING_UP,
		[SLOT_LIVE] = REPLICATION_ATTACHED,
		[SLOT_REFUSED] = REPLICATION_REFUSED,
	};

	if (slot->state == SLOT_LIVE && r->fs && slot->member_seq > policy_all_durable(r))
		return REPLICATION_CATCHING_UP; /* the commit that attaches it is on its way */
	return shown[slot->state];
}

static void counters_sum(const struct slot *slot, struct repl_counters *sum)
{
	*sum = slot->past;
	if (!slot->link)
		return;
	sum->commits += slot->link->count.commits;
	sum->round_trips += slot->link->count.round_trips;
	sum->bytes_sent += slot->link->count.bytes_sent;
	sum->peer_rx_bytes += slot->link->count.peer_rx_bytes;
	sum->peer_rx_msgs += slot->link->count.peer_rx_msgs;
}

static void replica_status(const struct replication *r, const struct slot *slot, struct replication_replica_status *s)
{
	const struct repl_peer *peer = slot->link && slot->link->state == REPL_UP ? &slot->link->peer : &slot->peer;
	uint64_t head = r->copy ? copy_head(r->copy).seq : 0;

	*s = (struct replication_replica_status){
		.same_machine = slot->same_machine,
		.counts = slot->counts,
		.state = state_shown(r, slot),
		.member = slot->member,
		.method = peer->method,
		.domain = peer->domain,
		.acked_seq = slot_acked(slot),
		.tail_seq = slot->link ? slot->link->tail_seq : slot->tail,
	};
	s->lag = head > s->acked_seq ? head - s->acked_seq : 0;
	snprintf(s->name, sizeof(s->name), "%s", slot->conf->name);
	if (slot->same_machine)
		snprintf(s->target, sizeof(s->target), "same machine");
	else
		snprintf(s->target, sizeof(s->target), "%s %s", slot->conf->target, slot->conf->set_name);
	snprintf(s->reason, sizeof(s->reason), "%s", slot->reason);
	snprintf(s->provider, sizeof(s->provider), "%s", peer->provider);
	counters_sum(slot, &s->count);
}

static void may_change_status(const struct replication *r, struct replication_status *s)
{
	int err = replication_ops.may_change((void *)r);

	s->may_change = err == 0;
	if (r->fenced)
		snprintf(s->why_not, sizeof(s->why_not), "this is an old primary: another one has taken over");
	else if (err)
		snprintf(s->why_not, sizeof(s->why_not), "%u of the %" PRIu32 " replicas needed are attached",
			s->attached, s->min_replicas);
}

void replication_status(const struct replication *r, struct replication_status *s)
{
	*s = (struct replication_status){
		.replica_count = r->slot_count, .as_configured = true, .min_wanted = r->min_new
	};
	for (unsigned i = 0; i < r->slot_count; i++) {
		replica_status(r, &r->slots[i], &s->replicas[i]);
		if (s->replicas[i].state != REPLICATION_ATTACHED)
			s->as_configured = false;
	}
	if (r->copy) {
		s->min_replicas = policy_min(r);
		s->attached = policy_live(r, r->fs != NULL);
		may_change_status(r, s);
	}
}

/* ---------------------------------------------------------------- close */

void replication_close(struct replication *r)
{
	if (!r)
		return;
	for (unsigned i = 0; i < r->slot_count; i++) {
		struct slot *slot = &r->slots[i];

		if (slot->sync_taken)
			fs_waiter_cancel(&slot->sync);
		if (slot->link)
			slot->link->ops->close(slot->link);
		free(slot->rec);
	}
	free(r);
}
