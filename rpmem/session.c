/* The handshake, and the end of a session.
 *
 *   channel -> start status -> HELLO -> CREATE|OPEN sent -> [fabric loads here and there at once] -> SESSION
 *           -> way to the lanes looked up -> they connect, STATUS (file system copies) -> open
 *
 * Each step's failure is prefixed with the step. The target's numbers are checked before they size anything. */
#include "session.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"

/* ---------------------------------------------------------------- conversions */
void session_point_get(const struct ctl_point *msg, struct copy_point *point)
{
	point->seq = msg->seq;
	point->epoch = msg->epoch;
	memcpy(point->hash.b, msg->hash, sizeof(point->hash.b));
}

static void page_get(const struct ctl_page *msg, struct copy_page *page)
{
	page->role = msg->role;
	page->state = msg->state;
	page->fence_epoch = msg->fence_epoch;
	page->sync_seq = msg->sync_seq;
	page->sync_group = msg->sync_group;
	memcpy(page->instance, msg->instance, sizeof(page->instance));
	memcpy(page->fence_id, msg->fence_id, sizeof(page->fence_id));
	memcpy(page->sync_hash.b, msg->sync_hash, sizeof(page->sync_hash.b));
}

void session_page_put(const struct copy_page *page, struct ctl_page *msg)
{
	msg->role = page->role;
	msg->state = page->state;
	msg->fence_epoch = page->fence_epoch;
	msg->sync_seq = page->sync_seq;
	msg->sync_group = page->sync_group;
	memcpy(msg->instance, page->instance, sizeof(msg->instance));
	memcpy(msg->fence_id, page->fence_id, sizeof(msg->fence_id));
	memcpy(msg->sync_hash, page->sync_hash.b, sizeof(msg->sync_hash));
}

/* ---------------------------------------------------------------- steps */
static int step_start(struct session *session, const struct deadline *deadline)
{
	int err = channel_start(session->channel, deadline);

	return err ? errmsg_prefix(err, "starting the target") : 0;
}

static int step_hello(struct session *session, const struct deadline *deadline)
{
	struct ctl_msg msg = { .type = CTL_HELLO, .u.hello = { CTL_VERSION, CTL_VERSION, 0 } }, answer;
	int err = channel_request(session->channel, &msg, &answer, deadline);
	if (err)
		return errmsg_prefix(err, "hello");
	if (answer.u.hello.version_min > CTL_VERSION || answer.u.hello.version_max < CTL_VERSION ||
	    answer.u.hello.feat_incompat)
		return errmsg_set(-EPROTONOSUPPORT, "hello: the target speaks versions %u to %u, we speak %u: install one release on both",
				  answer.u.hello.version_min, answer.u.hello.version_max, CTL_VERSION);
	return 0;
}

/* A name would be asked of name servers, which take their time. */
static bool address_is_numeric(const char *address)
{
	struct in6_addr addr;

	return inet_pton(AF_INET, address, &addr) == 1 || inet_pton(AF_INET6, address, &addr) == 1;
}

static int session_check(const struct session_cfg *cfg, const struct ctl_session *info)
{
	bool lanes = !(cfg->open_flags & CTL_OPEN_NO_LANES);

	if (info->pool_size < cfg->pool_size)
		return errmsg_set(-EFBIG, "the pool there has %llu bytes, %llu are needed",
				  (unsigned long long)info->pool_size, (unsigned long long)cfg->pool_size);
	if (!lanes)
		return 0;
	if (!info->lanes || info->lanes > cfg->lanes || !info->port || info->port > UINT16_MAX || !info->rx_slots ||
	    info->msg_bytes_max < LANE_MSG_BYTES_MIN)
		return errmsg_set(-EPROTO, "the target offers %u lanes, port %u, %u slots of %u bytes", info->lanes,
				  info->port, info->rx_slots, info->msg_bytes_max);
	if (*info->address && !address_is_numeric(info->address))
		return errmsg_set(-EPROTO, "the target names an address for its lanes that is not numeric");
	return 0;
}

static int step_open(struct session *session, const struct session_cfg *cfg, const struct deadline *deadline)
{
	struct ctl_msg msg = { .type = cfg->create ? CTL_CREATE : CTL_OPEN }, answer;
	struct ctl_open *open = &msg.u.open;
	int err, loaded = 0;

	open->flags = cfg->open_flags;
	open->lanes = cfg->lanes;
	open->pool_size = cfg->pool_size;
	open->epoch = cfg->epoch;
	open->session_before = cfg->session_before;
	open->idle_ms = cfg->idle_ms;
	open->has_attr = cfg->has_attr;
	open->attr = cfg->attr;
	snprintf(open->provider, sizeof(open->provider), "%s", cfg->provider);
	snprintf(open->set_name, sizeof(open->set_name), "%s", cfg->set_name);
	err = channel_send(session->channel, &msg, deadline);
	if (!err && !(cfg->open_flags & CTL_OPEN_NO_LANES))
		loaded = fab_load();
	if (loaded && cfg->step)
		*cfg->step = SESSION_LANES; /* ours, and not what the target says of its own */
	if (loaded)
		return errmsg_prefix(loaded, "fabric");
	if (!err)
		err = channel_receive(session->channel, msg.type, &answer, deadline);
	if (!err)
		err = session_check(cfg, &answer.u.session);
	if (err)
		return errmsg_prefix(err, "%s pool set %s", cfg->create ? "creating" : "opening", cfg->set_name);
	session->info = answer.u.session;
	return 0;
}

static int step_lanes(struct session *session, const struct session_cfg *cfg, const struct deadline *deadline)
{
	const char *host = *session->info.address ? session->info.address : session->channel->host;
	struct lane_cfg lane = { .session = &session->info, .notice_ms = cfg->notice_ms };
	int err = fab_dial(cfg->provider, host, (uint16_t)session->info.port, &session->fab);

	for (; !err && cfg->open_flags & CTL_OPEN_FS && lane.index < session->info.lanes; lane.index++) {
		err = lane_connect(session->fab, &lane, deadline, &session->lanes[lane.index]);
		if (!err)
			session->lane_count++;
	}
	return err ? errmsg_prefix(err, "fabric connection by %s to %s port %u (open in its firewall?)", cfg->provider,
				   host, session->info.port) : 0;
}

int session_status(struct session *session, const struct deadline *deadline)
{
	struct ctl_msg msg = { .type = CTL_STATUS }, answer;
	const struct ctl_copy_info *info = &answer.u.copy_info;
	struct repl_peer *peer = &session->peer;
	int err = channel_request(session->channel, &msg, &answer, deadline);

	if (err)
		return errmsg_prefix(err, "status");
	peer->formatted = info->blk_count;
	session_point_get(&info->tail, &peer->tail);
	session_point_get(&info->head, &peer->head);
	page_get(&info->page, &peer->page);
	peer->blk_count = info->blk_count;
	peer->ring_bytes = info->ring_bytes;
	peer->used_blks = info->used_blks;
	memcpy(peer->content_uuid, info->content_uuid, sizeof(peer->content_uuid));
	return 0;
}

static void peer_fill(struct session *session, const struct session_cfg *cfg)
{
	struct repl_peer *peer = &session->peer;

	snprintf(peer->provider, sizeof(peer->provider), "%s", cfg->provider);
	peer->method = session->info.method;
	peer->domain = session->info.domain;
	peer->same_machine = cfg->target.local;
	peer->rma = session->info.caps & CTL_CAP_RMA;
	peer->pool_size = session->info.pool_size;
}

/* ---------------------------------------------------------------- opening and closing */
static int session_steps(struct session *session, const struct session_cfg *cfg, const struct deadline *deadline)
{
	enum session_step unasked = SESSION_REACH, *step = cfg->step ? cfg->step : &unasked;
	int err;

	*step = SESSION_REACH;
	err = channel_open(&cfg->target, cfg->command, deadline, &session->channel);
	if (err)
		return err;
	*step = SESSION_START;
	err = step_start(session, deadline);
	if (err)
		return err;
	*step = SESSION_HELLO;
	err = step_hello(session, deadline);
	if (err)
		return err;
	*step = SESSION_POOL;
	err = step_open(session, cfg, deadline);
	if (err)
		return err;
	*step = SESSION_LANES;
	if (!(cfg->open_flags & CTL_OPEN_NO_LANES))
		err = step_lanes(session, cfg, deadline);
	if (err)
		return err;
	peer_fill(session, cfg);
	return cfg->open_flags & CTL_OPEN_FS ? session_status(session, deadline) : 0;
}

int session_open(const struct session_cfg *cfg, const struct deadline *deadline, struct session **out)
{
	struct session *session;
	int err;

	assert(cfg->lanes && cfg->lanes <= WIRE_LANES_MAX);
	session = calloc(1, sizeof(*session) + cfg->lanes * sizeof(session->lanes[0]));
	if (!session)
		return -ENOMEM;
	err = session_steps(session, cfg, deadline);
	if (err)
		session_close(session, NULL);
	else
		*out = session;
	return err;
}

void session_cut(struct session *session)
{
	for (unsigned i = 0; i < session->lane_count; i++)
		lane_delete(session->lanes[i]);
	session->lane_count = 0;
	fab_close(session->fab);
	session->fab = NULL;
}

int session_close(struct session *session, const struct deadline *deadline)
{
	struct ctl_msg msg = { .type = CTL_CLOSE }, answer;
	int err = 0;

	/* Whatever comes of CLOSE, the channel's end means the same. */
	if (deadline && session->channel) {
		err = channel_request(session->channel, &msg, &answer, deadline);
		session->channel->farewell = !err;
	}
	session_cut(session);
	channel_end(session->channel);
	free(session);
	return err;
}

void session_drop(struct session *session)
{
	session_cut(session);
	channel_drop(session->channel);
	free(session);
}
