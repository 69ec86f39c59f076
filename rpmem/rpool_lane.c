/* A lane of a handle: flush, drain and read, and coming back after a loss.
 *
 *   not connected --first use--> connected --error, or the handle's word has changed--> not connected
 *
 * What was flushed stays among the debts until a drain has been answered. Small ranges only gather there, so that many
 * flushes are one message; what fills a message, or is large, is given to the lane at once. When the connection comes
 * back all debts are given again: the bytes are the caller's own, and storing them twice does no harm, as the drain
 * that allows the caller to change them has not returned.
 *
 * The thread that owns the lane takes no lock and writes nothing that others read, as long as the session stands. A
 * call is made of steps; a step that meets the connection's end leaves rl->dead, and the call connects and takes it
 * again. */
#include "rpool.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "errmsg.h"

#define SPIN_NS 100000ull  /* polling, from the last answer or byte that moved on; then asleep */
#define SLEEP_MS 50        /* at most asleep: deadlines and the handle's word are looked at so often */
#define FETCH_BYTES 512u   /* of a range; longer ones are fetched well enough by the processor itself */
#define GATHER_BYTES (60u << 10) /* inline bytes that make a message worth sending before the drain */

/* ---------------------------------------------------------------- connection */
static void rlane_detach(struct rlane *rl)
{
	if (!rl->lane)
		return;
	lane_delete(rl->lane);
	rl->lane = NULL;
	rl->state = 0;
	rl->posted = 0;
	rl->behind = false;
	atomic_fetch_sub(&rl->pool->connected, 1);
	rpool_route_put(rl->pool, rl->route);
	rl->route = NULL;
}

/* Some of our own is short: another session would not be better off. */
static bool is_shortage(int err)
{
	return err == -ENOMEM || err == -EMFILE || err == -ENFILE;
}

/* The session known by that word is lost. 0: it may be tried again; else the handle has failed. */
static int rlane_lost(struct rlane *rl, uint64_t state)
{
	struct rpmem_pool *pool = rl->pool;

	rpool_lost(pool, state);
	rlane_detach(rl);
	if (!rl->bound_ns)
		rl->bound_ns = rpool_bound(pool);
	if (pool->reconnect_ms && channel_now_ns() < rl->bound_ns)
		return 0;
	return rpool_fail(pool, -ECONNRESET, "the connection was lost: %.400s", errmsg_get());
}

/* A step has met the connection's end. As rlane_lost. */
static int rlane_died(struct rlane *rl)
{
	if (lane_settled(rl->lane) != -EIO)
		return rlane_lost(rl, rl->state);
	rlane_detach(rl);
	return rpool_fail(rl->pool, -EIO, "the target's medium failed (its log says more)");
}

static int epoll_lane(struct rlane *rl)
{
	struct epoll_event event = { .events = EPOLLIN };
	int data_fd, eq_fd;

	if (rl->epoll_fd < 0 || !rl->lane)
		return 0;
	fab_fds(lane_ep(rl->lane), &data_fd, &eq_fd);
	if (epoll_ctl(rl->epoll_fd, EPOLL_CTL_ADD, data_fd, &event) ||
	    (eq_fd >= 0 && epoll_ctl(rl->epoll_fd, EPOLL_CTL_ADD, eq_fd, &event)))
		return errmsg_set(-errno, "lane %u: epoll: %s", rl->index, strerror(errno));
	return 0;
}

static int rlane_attach(struct rlane *rl, struct route *route, uint64_t state)
{
	struct rpmem_pool *pool = rl->pool;
	struct lane_cfg cfg = { .index = rl->index, .session = &route->info, .notice_ms = pool->notice_ms,
				.window = pool->window };
	struct deadline deadline = deadline_in(pool->notice_ms, NULL);
	int err = lane_connect(route->fab, &cfg, &deadline, &rl->lane);

	if (err) {
		errmsg_prefix(err, "lane %u", rl->index);
		rpool_route_put(pool, route);
		return err;
	}
	rl->route = route;
	rl->state = state;
	atomic_fetch_add(&pool->connected, 1);
	err = epoll_lane(rl);
	if (err)
		rlane_detach(rl);
	return err;
}

/* Connects under the session there is. bound_ns as for rpool_route_get. 1: none, or it was lost meanwhile. */
static int rlane_try(struct rlane *rl, uint64_t bound_ns)
{
	struct route *route;
	uint64_t state;
	int err;

	rlane_detach(rl);
	err = rpool_route_get(rl->pool, bound_ns, &route, &state);
	if (err)
		return err;
	err = rlane_attach(rl, route, state);
	if (!err || is_shortage(err))
		return err;
	err = rlane_lost(rl, state);
	return err ? err : 1;
}

int rlane_connect(struct rlane *rl)
{
	int ret = 0;

	while (ret >= 0 && rl->state != rpool_state(rl->pool))
		ret = rlane_try(rl, rl->bound_ns ? rl->bound_ns : rpool_bound(rl->pool));
	return ret < 0 ? ret : 0;
}

/* ---------------------------------------------------------------- waiting */
static int step_ended(struct rlane *rl, int err)
{
	rl->dead = true;
	return err;
}

struct pace {
	uint64_t since_ns, trips;
	bool measured; /* fab_moved was asked since */
};

/* Polls on: yields first, because what is waited for may need this processor. */
static void rlane_spin(struct rlane *rl, struct pace *pace, uint64_t now)
{
	if (!pace->measured && now - pace->since_ns > SPIN_NS / 2) {
		pace->measured = true;
		fab_moved(lane_ep(rl->lane));
	}
	sched_yield();
}

/* Takes what has come; then yields, or sleeps when nothing has come for long. */
static int rlane_rest(struct rlane *rl, struct pace *pace)
{
	uint64_t now, trips = lane_news(rl->lane)->round_trips;
	int err;

	now = channel_now_ns();
	if (!pace->since_ns || trips != pace->trips)
		*pace = (struct pace){ .since_ns = now, .trips = trips };
	if (now - pace->since_ns < SPIN_NS) {
		rlane_spin(rl, pace, now);
	} else if (fab_moved(lane_ep(rl->lane))) {
		pace->since_ns = now;
	} else {
		if (rpool_state(rl->pool) != rl->state)
			return step_ended(rl, errmsg_set(-ECONNRESET, "the session has ended"));
		err = lane_wait(rl->lane, SLEEP_MS);
		if (err)
			return step_ended(rl, err);
	}
	err = lane_poll(rl->lane);
	return err ? step_ended(rl, err) : 0;
}

static bool rlane_busy(const struct rlane *rl)
{
	return lane_ops(rl->lane) || lane_committing(rl->lane);
}

/* Until everything posted is answered. An error without rl->dead is the target's answer to some of it. */
static int rlane_settle(struct rlane *rl)
{
	struct pace pace = { 0 };

	while (rlane_busy(rl)) {
		int err = rlane_rest(rl, &pace);

		if (err)
			return err;
	}
	return lane_settled(rl->lane);
}

/* post until it is done, waiting for room. */
static int rlane_give(struct rlane *rl, int (*post)(struct rlane *rl))
{
	struct pace pace = { 0 };
	int ret;

	while ((ret = post(rl)) > 0) {
		ret = rlane_rest(rl, &pace);
		if (ret)
			return ret;
	}
	return ret;
}

static int rlane_run(struct rlane *rl, int (*step)(struct rlane *rl, void *arg), void *arg)
{
	int err;

	for (;;) {
		err = rlane_connect(rl);
		if (err)
			return err;
		rl->dead = false;
		err = step(rl, arg);
		if (!rl->dead)
			return err;
		err = rlane_died(rl);
		if (err)
			return err;
	}
}

/* ---------------------------------------------------------------- flush and drain */
static void debts_clear(struct rlane *rl)
{
	rl->count = rl->posted = 0;
	rl->gathered = 0;
	rl->bound_ns = 0;
}

static int step_drain(struct rlane *rl, void *arg)
{
	int err = rlane_give(rl, rlane_post);

	(void)arg;
	if (!err)
		err = rlane_give(rl, rlane_post_proof);
	if (err)
		return err;
	err = rlane_settle(rl);
	if (!rl->dead)
		debts_clear(rl);
	return err;
}

static int refused_take(struct rlane *rl, int err)
{
	int refused = rl->refused;

	rl->refused = 0;
	return err ? err : refused;
}

int rlane_drain(struct rlane *rl)
{
	if (rpool_state(rl->pool) & RPOOL_FAILED)
		return rpool_error(rl->pool);
	return refused_take(rl, rl->count ? rlane_run(rl, step_drain, NULL) : 0);
}

static int step_post(struct rlane *rl, void *arg)
{
	int err = rlane_give(rl, rlane_post);

	(void)arg;
	if (!err)
		err = lane_poll(rl->lane);
	else
		return err;
	return err ? step_ended(rl, err) : 0;
}

/* The range continues the newest debt, which was not given away yet. */
static bool debt_grow(struct rlane *rl, uint64_t off, uint64_t len, enum debt_kind kind)
{
	struct repl_range *last = &rl->debts->ranges[rl->count - 1];

	if (rl->posted == rl->count || rl->debts->kinds[rl->count - 1] != kind || last->off + last->len != off ||
	    len > RPOOL_RANGE_BYTES_MAX - last->len)
		return false;
	last->len += (uint32_t)len;
	return true;
}

/* At most RPOOL_RANGE_BYTES_MAX. */
static int debt_add(struct rlane *rl, uint64_t off, uint64_t len, enum debt_kind kind)
{
	int err;

	if (rl->count && debt_grow(rl, off, len, kind))
		return 0;
	if (rl->count == RPOOL_DEBTS_MAX) {
		err = rlane_drain(rl);
		if (err)
			return err;
	}
	rl->debts->ranges[rl->count] = (struct repl_range){ off, (uint32_t)len, rl->pool->base + off };
	rl->debts->kinds[rl->count++] = kind;
	return 0;
}

/* A small range is copied when it is sent, and by then its lines shall be near: many of them come at once that way. */
static void debt_fetch(const struct rlane *rl, uint64_t off, uint64_t len)
{
	for (uint64_t line = 0; line < len && line < FETCH_BYTES; line += 64)
		__builtin_prefetch(rl->pool->base + off + line);
}

int rlane_flush(struct rlane *rl, uint64_t off, uint64_t len, enum debt_kind kind)
{
	bool large = len >= GATHER_BYTES || !rlane_inline(rl, kind, len);

	if (rpool_state(rl->pool) & RPOOL_FAILED)
		return rpool_error(rl->pool);
	assert(rl->debts || !rl->count);
	if (!rl->debts)
		rl->debts = malloc(sizeof(*rl->debts));
	if (!rl->debts)
		return errmsg_set(-ENOMEM, "lane %u: no memory", rl->index);
	if (!large) {
		rl->gathered += len + sizeof(struct lane_range_msg);
		debt_fetch(rl, off, len);
	}
	while (len) {
		uint64_t piece = len < RPOOL_RANGE_BYTES_MAX ? len : RPOOL_RANGE_BYTES_MAX;
		int err = debt_add(rl, off, piece, kind);

		if (err)
			return err;
		off += piece;
		len -= piece;
	}
	return large || rl->gathered >= GATHER_BYTES ? rlane_run(rl, step_post, NULL) : 0;
}

/* ---------------------------------------------------------------- read */
struct reading {
	char *buf;
	uint64_t off, len;
};

static int step_read(struct rlane *rl, void *arg)
{
	struct reading r = *(struct reading *)arg;
	struct pace pace = { 0 };
	int err = 0;

	if (rl->count) {
		err = rlane_give(rl, rlane_post);
		if (!err)
			err = rlane_settle(rl);
		if (rl->dead || err == -ENOMEM)
			return err;
		if (err && !rl->refused)
			rl->refused = err;
	}
	while (r.len) {
		uint32_t piece = r.len < RPOOL_RANGE_BYTES_MAX ? (uint32_t)r.len : RPOOL_RANGE_BYTES_MAX;

		while (lane_full(rl->lane)) {
			err = rlane_rest(rl, &pace);
			if (err)
				return err;
		}
		err = lane_read(rl->lane, r.off, r.buf, piece);
		if (err)
			return err == -ENOMEM ? err : step_ended(rl, err);
		r.buf += piece;
		r.off += piece;
		r.len -= piece;
	}
	return rlane_settle(rl);
}

int rlane_read(struct rlane *rl, void *buf, uint64_t off, uint64_t len)
{
	struct reading reading = { buf, off, len };
	int err = rlane_run(rl, step_read, &reading);

	if (!err && !rl->count)
		rl->bound_ns = 0;
	return err;
}

/* ---------------------------------------------------------------- the drain that does not wait */
static int drain_over(struct rlane *rl, int err)
{
	rl->draining = false;
	return refused_take(rl, err);
}

/* The connection has ended, or was not there: the monitor makes a new session, the step after it a new lane. */
static int drain_later(struct rlane *rl, int err)
{
	if (err < 0)
		return drain_over(rl, err);
	rpool_want(rl->pool);
	return 1;
}

static int drain_post(struct rlane *rl)
{
	int ret = rlane_post(rl);

	return ret ? ret : rlane_post_proof(rl);
}

static void events_take(const struct rlane *rl)
{
	uint64_t count;

	if (rl->event_fd >= 0 && read(rl->event_fd, &count, sizeof(count)) < 0)
		return; /* nothing was there */
}

int rlane_drain_begin(struct rlane *rl)
{
	bool progress;
	int ret;

	if (rpool_state(rl->pool) & RPOOL_FAILED)
		return rpool_error(rl->pool);
	rl->draining = true;
	if (!rl->count)
		return 0; /* nothing to post; the poll tells what was refused */
	ret = rlane_drain_step(rl, &progress);
	if (!ret)
		rl->draining = true; /* done already: the poll says so */
	return ret < 0 ? ret : 0;
}

int rlane_drain_step(struct rlane *rl, bool *progress)
{
	uint64_t trips;
	int ret;

	*progress = false;
	events_take(rl);
	if (rpool_state(rl->pool) & RPOOL_FAILED)
		return drain_over(rl, rpool_error(rl->pool));
	if (!rl->count)
		return drain_over(rl, 0);
	if (rl->state != rpool_state(rl->pool)) {
		ret = rlane_try(rl, 0);
		if (ret)
			return drain_later(rl, ret);
	}
	rl->dead = false;
	trips = lane_news(rl->lane)->round_trips;
	ret = drain_post(rl);
	if (!rl->dead && ret >= 0) {
		int err = lane_poll(rl->lane);

		if (err)
			ret = step_ended(rl, err);
	}
	if (rl->dead)
		return drain_later(rl, rlane_died(rl));
	if (ret < 0)
		return drain_over(rl, ret);
	*progress = trips != lane_news(rl->lane)->round_trips;
	if (ret || rlane_busy(rl))
		return 1;
	debts_clear(rl);
	return drain_over(rl, lane_settled(rl->lane));
}

bool rlane_may_sleep(struct rlane *rl)
{
	return !rl->lane || fab_may_block(lane_ep(rl->lane));
}

int rlane_fd(struct rlane *rl)
{
	struct epoll_event event = { .events = EPOLLIN };
	int fd, err;

	if (rl->epoll_fd >= 0)
		return rl->epoll_fd;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return errmsg_set(-errno, "eventfd: %s", strerror(errno));
	rl->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (rl->epoll_fd < 0 || epoll_ctl(rl->epoll_fd, EPOLL_CTL_ADD, fd, &event))
		err = errmsg_set(-errno, "epoll: %s", strerror(errno));
	else
		err = epoll_lane(rl);
	if (err) {
		if (rl->epoll_fd >= 0)
			close(rl->epoll_fd);
		rl->epoll_fd = -1;
		close(fd);
		return err;
	}
	pthread_mutex_lock(&rl->pool->lock);
	rl->event_fd = fd;
	pthread_mutex_unlock(&rl->pool->lock);
	return rl->epoll_fd;
}

/* ---------------------------------------------------------------- life */
void rlane_init(struct rpmem_pool *pool, unsigned index)
{
	struct rlane *rl = &pool->lanes[index];

	rl->pool = pool;
	rl->index = index;
	rl->epoll_fd = rl->event_fd = -1;
}

void rlane_fini(struct rlane *rl)
{
	rlane_detach(rl);
	free(rl->debts);
	if (rl->epoll_fd >= 0)
		close(rl->epoll_fd);
	if (rl->event_fd >= 0)
		close(rl->event_fd);
	rl->debts = NULL;
	rl->count = rl->posted = 0;
	rl->epoll_fd = rl->event_fd = -1;
}
