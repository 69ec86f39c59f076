/* The session of a handle: who notices its loss, who replaces it, and when the handle is given up.
 *
 * A lane that ends, a PING that is not answered or a control request that breaks marks the session LOST, by the word it
 * knew it by, so that news of an older session do no harm. The next data call replaces it; others that need it wait for
 * that one. The monitor replaces it only when a drain that may not block asks. A handle nobody uses stays LOST until it
 * is used: how long its target is away then does not matter.
 *
 * A replacement is a new control channel and a new rpmemd. It names the lost session, which the target ends first if it
 * still runs there, stopped ones included. The pool must have the same incarnation: bytes that were drained are in that
 * memory and nowhere else, so one that lost them must not pass for it.
 *
 * The monitor sends PINGs, which keep the target from taking a silent session for a dead one. Its thread has all
 * signals blocked: the program's handlers run in the program's threads.
 *
 * Lock order: control (the channel, held during a request), lock (short, never held while waiting for the target). */
#include "rpool.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "errmsg.h"
#include "log.h"

#define RETRY_MS_FIRST 20u
#define RETRY_MS_MAX 500u
#define PINGS_PER_IDLE 4u
#define MONITOR_MS_MAX 60000u

uint64_t rpool_bound(const struct rpmem_pool *pool)
{
	return channel_now_ns() + pool->reconnect_ms * 1000000ull;
}

/* Waits on changed for at most ms; the lock is held. */
static void changed_wait(struct rpmem_pool *pool, unsigned ms)
{
	uint64_t until = channel_now_ns() + ms * 1000000ull;
	struct timespec at = { (time_t)(until / 1000000000u), (long)(until % 1000000000u) };

	pthread_cond_timedwait(&pool->changed, &pool->lock, &at);
}

/* ---------------------------------------------------------------- the word */
/* Those who sleep look again. The lock is held. */
static void wake_all(struct rpmem_pool *pool)
{
	uint64_t one = 1;

	pthread_cond_broadcast(&pool->changed);
	for (unsigned i = 0; i < pool->lane_count; i++)
		if (pool->lanes[i].event_fd >= 0 && write(pool->lanes[i].event_fd, &one, sizeof(one)) < 0)
			log_debug("lane %u: eventfd: %s", i, strerror(errno)); /* full: it wakes already */
}

static void state_set(struct rpmem_pool *pool, uint64_t state)
{
	atomic_store_explicit(&pool->state, state, memory_order_release);
	wake_all(pool);
}

int rpool_error(struct rpmem_pool *pool)
{
	int err;

	pthread_mutex_lock(&pool->lock);
	err = errmsg_set(pool->err, "%s", pool->text);
	pthread_mutex_unlock(&pool->lock);
	return err;
}

int rpool_fail(struct rpmem_pool *pool, int err, const char *fmt, ...)
{
	char text[ERRMSG_BYTES_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	pthread_mutex_lock(&pool->lock);
	if (!(rpool_state(pool) & RPOOL_FAILED)) {
		pool->err = err;
		snprintf(pool->text, sizeof(pool->text), "%.150s: %.350s", pool->name, text);
		log_error("%s", pool->text);
		state_set(pool, rpool_state(pool) | RPOOL_LOST | RPOOL_FAILED);
	}
	pthread_mutex_unlock(&pool->lock);
	return rpool_error(pool);
}

void rpool_lost(struct rpmem_pool *pool, uint64_t state)
{
	pthread_mutex_lock(&pool->lock);
	if (rpool_state(pool) == state) {
		snprintf(pool->cause, sizeof(pool->cause), "%.255s", errmsg_get());
		log_warn("%s: lost: %s", pool->name, pool->cause);
		state_set(pool, state | RPOOL_LOST);
	}
	pthread_mutex_unlock(&pool->lock);
}

void rpool_want(struct rpmem_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->wanted = true;
	pthread_cond_broadcast(&pool->changed);
	pthread_mutex_unlock(&pool->lock);
}

/* ---------------------------------------------------------------- routes */
static void route_release(struct route *route)
{
	fab_close(route->fab);
	free(route);
}

static void route_put_locked(struct rpmem_pool *pool, struct route *route)
{
	(void)pool;
	if (route && !--route->refs)
		route_release(route);
}

void rpool_route_put(struct rpmem_pool *pool, struct route *route)
{
	pthread_mutex_lock(&pool->lock);
	route_put_locked(pool, route);
	pthread_mutex_unlock(&pool->lock);
}

int rpool_adopt(struct rpmem_pool *pool, struct session *session)
{
	struct route *route = malloc(sizeof(*route));
	uint64_t serial;

	if (!route)
		return errmsg_set(-ENOMEM, "no memory");
	*route = (struct route){ .fab = session->fab, .info = session->info, .refs = 1 };
	session->fab = NULL; /* goes when the last lane has let go of it */
	pthread_mutex_lock(&pool->lock);
	serial = rpool_state(pool) / RPOOL_SERIAL + 1;
	route_put_locked(pool, pool->route);
	pool->route = route;
	pool->session = session;
	pool->cfg.session_before = session->info.session;
	pool->reconnections += serial > 1;
	state_set(pool, serial * RPOOL_SERIAL);
	pthread_mutex_unlock(&pool->lock);
	return 0;
}

/* ---------------------------------------------------------------- replacement */
/* Nobody talks to it any more. */
static void session_give_up(struct rpmem_pool *pool)
{
	struct session *session;

	__atomic_store_n(&pool->cancel, true, __ATOMIC_RELEASE);
	pthread_mutex_lock(&pool->control);
	__atomic_store_n(&pool->cancel, false, __ATOMIC_RELEASE);
	pthread_mutex_lock(&pool->lock);
	session = pool->session;
	pool->session = NULL;
	pthread_mutex_unlock(&pool->lock);
	pthread_mutex_unlock(&pool->control);
	if (session)
		session_drop(session);
}

/* What came back is the pool that was lost. -ESTALE is for good. */
static int replacement_check(const struct rpmem_pool *pool, const struct session *session)
{
	const struct ctl_session *info = &session->info;

	if (memcmp(info->incarnation, pool->incarnation, sizeof(pool->incarnation)))
		return errmsg_set(-ESTALE, "the pool at the target is not the one this session was opened with: it lost its"
				  " memory or was made anew; bring it back (pmempool sync)");
	if (info->pool_size < pool->size || info->lanes < pool->lane_count)
		return errmsg_set(-EREMOTEIO, "the target now grants %u lanes and %" PRIu64 " bytes", info->lanes,
				  info->pool_size);
	return 0;
}

/* One attempt. */
static int replace_once(struct rpmem_pool *pool, uint64_t bound_ns)
{
	struct deadline deadline = { .ns = bound_ns, .cancel = &pool->stop };
	struct session *session;
	int err = session_open(&pool->cfg, &deadline, &session);

	if (err)
		return err;
	err = replacement_check(pool, session);
	if (!err)
		err = rpool_adopt(pool, session);
	if (err)
		session_close(session, &deadline);
	return err;
}

/* A pause between two attempts, short against what they cost. False: the bound has passed. */
static bool retry_pause(struct rpmem_pool *pool, unsigned *ms, uint64_t bound_ns)
{
	uint64_t now = channel_now_ns(), until = now + *ms * 1000000ull;

	if (until >= bound_ns)
		return false;
	pthread_mutex_lock(&pool->lock);
	while (!pool->stop && (now = channel_now_ns()) < until)
		changed_wait(pool, (unsigned)((until - now) / 1000000) + 1);
	pthread_mutex_unlock(&pool->lock);
	*ms = *ms * 2 < RETRY_MS_MAX ? *ms * 2 : RETRY_MS_MAX;
	return true;
}

/* Without the lock, by the one thread that has set recovering. */
static void replace(struct rpmem_pool *pool, uint64_t bound_ns)
{
	unsigned pause_ms = RETRY_MS_FIRST;
	int err;

	session_give_up(pool);
	if (!pool->reconnect_ms) {
		rpool_fail(pool, -ECONNRESET, "the connection was lost: %.250s", pool->cause);
		return;
	}
	do {
		err = replace_once(pool, bound_ns);
		if (!err) {
			log_notice("%s: session re-established", pool->name);
			return;
		}
		log_info("%s: not re-established yet: %s", pool->name, errmsg_get());
	} while (err != -ESTALE && err != -ECANCELED && retry_pause(pool, &pause_ms, bound_ns));
	if (err == -ESTALE)
		rpool_fail(pool, -ESTALE, "%.340s", errmsg_get());
	else
		rpool_fail(pool, -ECONNRESET, "lost (%.120s) and not re-established within %u ms: %.180s", pool->cause,
			   pool->reconnect_ms, errmsg_get());
}

int rpool_route_get(struct rpmem_pool *pool, uint64_t bound_ns, struct route **route, uint64_t *state)
{
	int ret = 0;

	pthread_mutex_lock(&pool->lock);
	while (!ret && (rpool_state(pool) & RPOOL_LOST)) {
		if (rpool_state(pool) & RPOOL_FAILED) {
			ret = errmsg_set(pool->err, "%s", pool->text);
		} else if (!bound_ns) {
			ret = 1;
		} else if (pool->recovering) {
			pthread_cond_wait(&pool->changed, &pool->lock);
		} else {
			pool->recovering = true;
			pthread_mutex_unlock(&pool->lock);
			replace(pool, bound_ns);
			pthread_mutex_lock(&pool->lock);
			pool->recovering = false;
			wake_all(pool);
		}
	}
	if (!ret) {
		pool->route->refs++;
		*route = pool->route;
		*state = rpool_state(pool);
	}
	pthread_mutex_unlock(&pool->lock);
	return ret;
}

/* ---------------------------------------------------------------- control requests */
/* One request of the session that stands. 1: there is none, or it broke and is lost now. */
static int control_request(struct rpmem_pool *pool, const struct ctl_msg *msg, unsigned ms)
{
	struct deadline deadline = deadline_in(ms, &pool->cancel);
	struct ctl_msg answer = { 0 };
	struct session *session;
	uint64_t state;
	int err = 0;

	pthread_mutex_lock(&pool->control);
	pthread_mutex_lock(&pool->lock);
	session = pool->session;
	state = rpool_state(pool);
	pthread_mutex_unlock(&pool->lock);
	if (session && !(state & RPOOL_LOST))
		err = channel_request(session->channel, msg, &answer, &deadline);
	pthread_mutex_unlock(&pool->control);
	if (!session || (state & RPOOL_LOST))
		return 1;
	if (!err || (answer.type == CTL_ERROR && msg->type != CTL_PING))
		return err;
	errmsg_prefix(err, "control channel");
	rpool_lost(pool, state);
	return 1;
}

int rpool_set_attr(struct rpmem_pool *pool, const struct rpmem_pool_attr *attr)
{
	struct ctl_msg msg = { .type = CTL_SET_ATTR };
	uint64_t bound_ns = rpool_bound(pool), state;
	unsigned ms = pool->notice_ms > RPOOL_OPEN_MS ? pool->notice_ms : RPOOL_OPEN_MS;
	struct route *route;
	int ret;

	if (attr)
		rpool_attr_put(attr, &msg.u.attr);
	while ((ret = control_request(pool, &msg, ms)) == 1) {
		ret = rpool_route_get(pool, bound_ns, &route, &state);
		if (ret)
			return ret;
		rpool_route_put(pool, route);
	}
	return ret;
}

/* ---------------------------------------------------------------- monitor */
static unsigned ping_ms(struct rpmem_pool *pool)
{
	unsigned idle_ms = pool->route->info.idle_ms;

	if (!idle_ms || idle_ms / PINGS_PER_IDLE > MONITOR_MS_MAX)
		return MONITOR_MS_MAX;
	return idle_ms / PINGS_PER_IDLE ? idle_ms / PINGS_PER_IDLE : 1;
}

static void monitor_ping(struct rpmem_pool *pool)
{
	const struct ctl_msg ping = { .type = CTL_PING };

	control_request(pool, &ping, pool->notice_ms);
}

static void monitor_replace(struct rpmem_pool *pool)
{
	struct route *route;
	uint64_t state;

	if (!rpool_route_get(pool, rpool_bound(pool), &route, &state))
		rpool_route_put(pool, route);
}

void *rpool_monitor(void *arg)
{
	struct rpmem_pool *pool = arg;
	uint64_t due, now;

	pthread_mutex_lock(&pool->lock);
	due = channel_now_ns() + ping_ms(pool) * 1000000ull;
	while (!pool->stop) {
		void (*act)(struct rpmem_pool *pool) = NULL;

		now = channel_now_ns();
		if (pool->wanted && rpool_state(pool) & RPOOL_LOST)
			act = monitor_replace;
		else if (now >= due && pool->route->info.idle_ms)
			act = monitor_ping;
		pool->wanted = false;
		if (act) {
			pthread_mutex_unlock(&pool->lock);
			act(pool);
			pthread_mutex_lock(&pool->lock);
		}
		now = channel_now_ns();
		if (act || now >= due)
			due = now + ping_ms(pool) * 1000000ull;
		if (!pool->stop && !pool->wanted)
			changed_wait(pool, (unsigned)((due - now) / 1000000) + 1);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}
