/* A link to a replica: struct repl_link over a session; its life. rpmem/link_ops.c holds what is asked of it.
 *
 *   repl_link_open:  copies, starts the connector thread                  CONNECTING
 *   connector:       session_open, result into struct link, eventfd, exit
 *   poll (owner):    result there -> joined; taken over                   UP | DOWN
 *   poll (owner):    lanes polled; control channel and clock by the tick  UP -> DOWN on the first failure
 *
 * Until `finished` is set the connector owns session, err and text; afterwards the owner does. There is no lock. DOWN cuts the
 * lanes at once, so that memory of unfinished operations is the caller's again; the control channel goes with close.
 *
 * What an owner sleeps on: lane 0's completion queue, and one epoll set with everything else: event queues, other
 * lanes, control channel, and a timer that fires when heartbeats are due. */
#include "repl.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "errmsg.h"
#include "link_impl.h"
#include "poolhdr.h"

#define TICKS_PER_NOTICE 8u     /* looks at the control channel and at idle lanes within notice_ms */
#define TICK_MS_MAX 100u
#define TICK_MS_MIN 5u
#define SPINS_PER_SLEEP 2000u   /* spin: yields without progress before sleeping: the peer is not answering back to back */
#define CONNECT_STEP_MS 100
#define CONNECT_LOOK_MS 5         /* the same when several connect and others are to be served */

/* ---------------------------------------------------------------- connecting */
static void *connector_main(void *arg)
{
	struct link *link = arg;
	struct deadline deadline = deadline_in(link->connect_ms, &link->cancel);
	uint64_t one = 1;

	errmsg_clear();
	link->connect_err = session_open(&link->cfg, &deadline, &link->session);
	if (link->connect_err)
		snprintf(link->connect_text, sizeof(link->connect_text), "%s",
			 *errmsg_get() ? errmsg_get() : strerror(-link->connect_err));
	__atomic_store_n(&link->finished, true, __ATOMIC_RELEASE);
	if (write(link->event_fd, &one, sizeof(one)) < 0)
		return NULL; /* an eventfd at zero takes one */
	return NULL;
}

static enum repl_state link_down(struct link *link, int err, const char *text)
{
	struct repl_link *pub = &link->pub;

	pub->state = REPL_DOWN;
	pub->err = err;
	snprintf(pub->err_text, sizeof(pub->err_text), "%.80s: %.170s", pub->target, text);
	if (link->session)
		session_cut(link->session);
	return REPL_DOWN;
}

enum repl_state link_failed(struct link *link, int err)
{
	return link_down(link, err, *errmsg_get() ? errmsg_get() : strerror(-err));
}

static int rest_add(struct link *link, int fd)
{
	struct epoll_event event = { .events = EPOLLIN };

	return epoll_ctl(link->rest_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static void timer_arm(struct link *link)
{
	struct itimerspec at = { .it_value = { (time_t)(link->next_tick_ns / 1000000000),
					       (long)(link->next_tick_ns % 1000000000) } };

	timerfd_settime(link->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

/* Collects what the owner sleeps on. */
static int rest_build(struct link *link)
{
	struct session *session = link->session;
	int err = rest_add(link, link->timer_fd);

	if (!err)
		err = rest_add(link, session->channel->fd);
	for (unsigned i = 0; i < session->lane_count && !err; i++) {
		int cq_fd, eq_fd;

		fab_fds(lane_ep(session->lanes[i]), &cq_fd, &eq_fd);
		if (eq_fd >= 0)
			err = rest_add(link, eq_fd);
		if (!i)
			link->cq_fd = cq_fd;
		else if (!err)
			err = rest_add(link, cq_fd);
	}
	return err ? errmsg_set(err, "epoll: %s", strerror(-err)) : 0;
}

static enum repl_state link_takeover(struct link *link)
{
	struct repl_link *pub = &link->pub;
	int err;

	if (!__atomic_load_n(&link->finished, __ATOMIC_ACQUIRE))
		return REPL_CONNECTING;
	pthread_join(link->connector, NULL);
	link->joined = true;
	if (link->connect_err)
		return link_down(link, link->connect_err, link->connect_text);
	pub->peer = link->session->peer;
	pub->acked = pub->peer.head.seq;
	pub->tail_seq = pub->peer.tail.seq;
	link->next_tick_ns = channel_now_ns() + link->tick_ns;
	timer_arm(link);
	err = rest_build(link);
	if (err)
		return link_failed(link, err);
	return pub->state = REPL_UP;
}

/* ---------------------------------------------------------------- polling */
static void news_take(struct link *link)
{
	struct repl_link *pub = &link->pub;
	const struct lane_news *news;
	struct repl_counters *count = &pub->count;

	if (!link->session->lane_count)
		return;
	news = lane_news(link->session->lanes[0]);
	if (news->acked > pub->acked)
		pub->acked = news->acked;
	if (news->answered) {
		pub->tail_seq = news->tail_seq > pub->tail_seq ? news->tail_seq : pub->tail_seq;
		pub->ring_free = news->ring_free;
	}
	count->round_trips = count->bytes_sent = 0;
	for (unsigned i = 0; i < link->session->lane_count; i++) {
		news = lane_news(link->session->lanes[i]);
		count->round_trips += news->round_trips;
		count->bytes_sent += news->bytes_sent;
		count->peer_rx_bytes = news->rx_bytes > count->peer_rx_bytes ? news->rx_bytes : count->peer_rx_bytes;
		count->peer_rx_msgs = news->rx_msgs > count->peer_rx_msgs ? news->rx_msgs : count->peer_rx_msgs;
	}
}

/* The slow part: control channel and timer; when the tick is due or the owner has slept. */
static int link_tick(struct link *link, uint64_t now)
{
	int err = channel_check(link->session->channel);

	link->slept = false;
	if (now >= link->next_tick_ns) {
		link->next_tick_ns = now + link->tick_ns;
		timer_arm(link);
	}
	return err ? errmsg_prefix(err, "control channel") : 0;
}

static bool rest_has_events(const struct link *link)
{
	struct pollfd fd = { link->rest_fd, POLLIN, 0 };

	return poll(&fd, 1, 0) > 0;
}

static enum repl_state link_poll(struct repl_link *pub)
{
	struct link *link = link_of(pub);
	struct session *session;
	uint64_t now;
	int err = 0;

	if (pub->state == REPL_CONNECTING)
		return link_takeover(link);
	if (pub->state == REPL_DOWN)
		return REPL_DOWN;
	session = link->session;
	for (unsigned i = 0; i < session->lane_count && !err; i++)
		err = lane_poll(session->lanes[i]);
	news_take(link);
	now = channel_now_ns();
	if (!err && (now >= link->next_tick_ns || (link->slept && rest_has_events(link))))
		err = link_tick(link, now);
	link->slept = false;
	return err ? link_failed(link, err) : REPL_UP;
}

static unsigned link_fds(struct repl_link *pub, int fds[2])
{
	struct link *link = link_of(pub);

	if (pub->state == REPL_DOWN)
		return 0;
	if (pub->state == REPL_CONNECTING) {
		fds[0] = link->event_fd;
		return 1;
	}
	fds[0] = link->rest_fd;
	fds[1] = link->cq_fd;
	return link->session->lane_count ? 2 : 1;
}

static bool link_may_block(struct repl_link *pub)
{
	struct link *link = link_of(pub);

	if (pub->state == REPL_DOWN)
		return true;
	if (pub->state == REPL_CONNECTING)
		return !__atomic_load_n(&link->finished, __ATOMIC_ACQUIRE);
	for (unsigned i = 0; i < link->session->lane_count; i++)
		if (!fab_may_block(lane_ep(link->session->lanes[i])))
			return false;
	link->slept = true;
	return true;
}

/* Sleeps for up to CONNECT_STEP_MS. */
static void link_sleep(struct link *link)
{
	struct pollfd fds[2] = { { .events = POLLIN }, { .events = POLLIN } };
	int raw[2];
	unsigned count = link_fds(&link->pub, raw);

	for (unsigned i = 0; i < count; i++)
		fds[i].fd = raw[i];
	poll(fds, count, CONNECT_STEP_MS);
}

/* Looks last: sleeping after a look would sleep through what it has just brought. */
int link_rest(struct link *link, bool progress)
{
	struct repl_link *pub = &link->pub;

	if (progress)
		link->idle_polls = 0;
	if (link->spin && ++link->idle_polls < SPINS_PER_SLEEP)
		sched_yield();
	else if (link_may_block(pub))
		link_sleep(link);
	return pub->ops->poll(pub) == REPL_DOWN ? pub->err : 0;
}

int repl_link_wait(struct repl_link *pub)
{
	struct pollfd fd = { .events = POLLIN };
	enum repl_state state;

	while ((state = pub->ops->poll(pub)) == REPL_CONNECTING) {
		int fds[2];

		if (!pub->ops->may_block(pub) || !pub->ops->fds(pub, fds))
			continue;
		fd.fd = fds[0];
		poll(&fd, 1, CONNECT_STEP_MS);
	}
	return state == REPL_UP ? 0 : pub->err;
}

void repl_links_wait(struct repl_link *const links[], unsigned count)
{
	bool connecting = true;

	while (connecting) {
		connecting = false;
		for (unsigned i = 0; i < count; i++)
			connecting = (links[i] && links[i]->ops->poll(links[i]) == REPL_CONNECTING) || connecting;
		if (connecting)
			poll(NULL, 0, CONNECT_LOOK_MS);
	}
}

/* ---------------------------------------------------------------- opening and closing */
static void link_free(struct link *link)
{
	int fds[] = { link->event_fd, link->rest_fd, link->timer_fd };

	for (unsigned i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(link->set_name);
	free(link->provider);
	free(link->command);
	free(link);
}

static void connector_end(struct link *link)
{
	__atomic_store_n(&link->cancel, true, __ATOMIC_RELEASE);
	if (!link->joined)
		pthread_join(link->connector, NULL);
	link->joined = true;
}

static void link_drop(struct repl_link *pub)
{
	struct link *link = link_of(pub);

	connector_end(link);
	if (link->session)
		session_drop(link->session);
	link_free(link);
}

static void link_close(struct repl_link *pub)
{
	struct link *link = link_of(pub);
	struct deadline deadline;

	if (pub->state == REPL_DOWN) {
		link_drop(pub);
		return;
	}
	connector_end(link);
	deadline = link_deadline(link);
	if (link->session)
		session_close(link->session, &deadline);
	link_free(link);
}

static const struct repl_link_ops link_ops = {
	.poll = link_poll,
	.fds = link_fds,
	.may_block = link_may_block,
	.push = link_push,
	.commit = link_commit,
	.checkpoint = link_checkpoint,
	.read = link_read,
	.write = link_write,
	.settle = link_settle,
	.settle_old = link_settle_old,
	.chain = link_chain,
	.format = link_format,
	.fence = link_fence,
	.page = link_page,
	.checkpoint_all = link_checkpoint_all,
	.reset = link_reset,
	.refresh = link_refresh,
	.close = link_close,
	.drop = link_drop,
};

static void attr_copy(const struct pool_attr *attr, struct ctl_attr *msg)
{
	memcpy(msg->signature, attr->signature, sizeof(msg->signature));
	msg->major = attr->major;
	msg->compat = attr->compat;
	msg->incompat = attr->incompat;
	msg->ro_compat = attr->ro_compat;
	memcpy(msg->poolset_uuid, attr->poolset_uuid, sizeof(msg->poolset_uuid));
	memcpy(msg->uuid, attr->uuid, sizeof(msg->uuid));
	memcpy(msg->next_uuid, attr->next_uuid, sizeof(msg->next_uuid));
	memcpy(msg->prev_uuid, attr->prev_uuid, sizeof(msg->prev_uuid));
	memcpy(msg->user_flags, attr->user_flags, sizeof(msg->user_flags));
}

/* Copies names and settings; defaults fill what is not given. */
static int link_configure(struct link *link, const struct poolset_replica *replica, const struct repl_cfg *cfg)
{
	const char *provider = cfg->provider ? cfg->provider : getenv("FI_PROVIDER");
	struct session_cfg *out = &link->cfg;

	if (!provider || (strcmp(provider, "tcp") && strcmp(provider, "verbs")))
		provider = cfg->provider ? cfg->provider : "tcp";
	link->set_name = strdup(replica->set_name);
	link->provider = strdup(provider);
	link->command = cfg->command ? strdup(cfg->command) : NULL;
	if (!link->set_name || !link->provider || (cfg->command && !link->command))
		return -ENOMEM;
	out->set_name = link->set_name;
	out->provider = link->provider;
	out->command = link->command;
	out->lanes = cfg->lanes ? cfg->lanes : 1;
	out->notice_ms = cfg->notice_ms ? cfg->notice_ms : REPL_NOTICE_MS_DEFAULT;
	out->open_flags = cfg->open_flags | CTL_OPEN_FS;
	out->create = cfg->create;
	out->has_attr = cfg->create && cfg->attr;
	if (out->has_attr)
		attr_copy(cfg->attr, &out->attr);
	out->pool_size = cfg->pool_size;
	out->epoch = cfg->epoch;
	link->connect_ms = cfg->connect_ms ? cfg->connect_ms : REPL_CONNECT_MS_DEFAULT;
	link->spin = cfg->spin;
	link->tick_ns = out->notice_ms / TICKS_PER_NOTICE;
	link->tick_ns = link->tick_ns > TICK_MS_MAX ? TICK_MS_MAX : link->tick_ns < TICK_MS_MIN ? TICK_MS_MIN : link->tick_ns;
	link->tick_ns *= 1000000;
	return 0;
}

static int link_fds_open(struct link *link)
{
	link->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	link->rest_fd = epoll_create1(EPOLL_CLOEXEC);
	link->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	return link->event_fd < 0 || link->rest_fd < 0 || link->timer_fd < 0 ? -EAGAIN : 0;
}

int repl_link_open(const struct poolset_replica *replica, const struct repl_cfg *cfg, struct repl_link **out)
{
	struct link *link = calloc(1, sizeof(*link));
	struct repl_link *pub;
	int err;

	if (!link)
		return -ENOMEM;
	pub = &link->pub;
	pub->ops = &link_ops;
	link->event_fd = link->rest_fd = link->timer_fd = -1;
	memcpy(pub->name, replica->name, sizeof(pub->name));
	snprintf(pub->target, sizeof(pub->target), "%.200s %.90s", replica->target, replica->set_name);
	err = link_configure(link, replica, cfg);
	if (!err)
		err = link_fds_open(link);
	if (err)
		goto free_link;
	*out = pub;
	err = target_parse(replica->target, &link->cfg.target);
	if (err) {
		link->joined = true;
		link_failed(link, err);
		return 0;
	}
	fab_prepare_env();
	err = -pthread_create(&link->connector, NULL, connector_main, link);
	if (!err)
		return 0;
	*out = NULL;
free_link:
	link_free(link);
	return err;
}
