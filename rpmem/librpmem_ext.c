/* librpmem's extensions: many ranges at once, drains that do not wait, groups of handles.
 *
 * Who waits here polls as long as answers come back to back, and then sleeps on the lanes' descriptors: a slice at a
 * time, because deadlines are looked at by polling. */
#include "librpmem.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "errmsg.h"
#include "librpmem_impl.h"
#include "persist.h"

#define SPIN_NS 100000ull
#define SLICE_MS 50
#define STEPS_MAX 16u /* of one poll, while the connection has more to do at once */

static_assert((int)RPMEM_METHOD_GPSPM == WIRE_METHOD_GPSPM && (int)RPMEM_METHOD_APM == WIRE_METHOD_APM &&
	      (int)RPMEM_METHOD_COMMIT == WIRE_METHOD_COMMIT, "methods of header and wire");

/* ---------------------------------------------------------------- many ranges */
int rpmem_flushv(RPMEMpool *rpp, const struct rpmem_range *ranges, unsigned count, unsigned lane, unsigned flags)
{
	struct rlane *rl = NULL;
	int err = api_lane(rpp, lane, &rl);

	if (!err && count && !ranges)
		err = errmsg_set(-EINVAL, "no ranges");
	for (unsigned i = 0; i < count && !err; i++) {
		err = api_write_check(rpp, ranges[i].offset, ranges[i].length, lane, flags, &rl);
		if (err)
			errmsg_prefix(err, "range %u", i);
	}
	for (unsigned i = 0; i < count && !err; i++)
		err = rlane_flush(rl, ranges[i].offset, ranges[i].length, api_kind(flags));
	return api_result(err);
}

/* ---------------------------------------------------------------- sleeping */
/* Lanes whose drains are under way. */
struct waiting {
	struct rlane *lanes[RPMEM_GROUP_MAX];
	int fds[RPMEM_GROUP_MAX];
	unsigned count;
	uint64_t since_ns; /* newest progress */
};

/* Sleeps until one of them may go on. */
static int waiting_sleep(const struct waiting *w, int timeout_ms)
{
	struct pollfd fds[RPMEM_GROUP_MAX];

	for (unsigned i = 0; i < w->count; i++) {
		int fd = rlane_fd(w->lanes[i]);

		if (fd < 0)
			return fd;
		if (!rlane_may_sleep(w->lanes[i]))
			return 0;
		fds[i] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	poll(fds, w->count, timeout_ms);
	return 0;
}

/* One rest among polls, at most timeout_ms. */
static int waiting_rest(struct waiting *w, bool progress, int timeout_ms)
{
	uint64_t now = channel_now_ns();

	if (progress || !w->since_ns)
		w->since_ns = now;
	if (now - w->since_ns >= SPIN_NS)
		return waiting_sleep(w, timeout_ms < SLICE_MS ? timeout_ms : SLICE_MS);
	sched_yield();
	return 0;
}

/* ---------------------------------------------------------------- drains that do not wait */
int rpmem_drain_start(RPMEMpool *rpp, unsigned lane)
{
	struct rlane *rl = NULL;
	int err = api_lane(rpp, lane, &rl);

	return api_result(err ? err : rlane_drain_begin(rl));
}

static int draining_lane(RPMEMpool *rpp, unsigned lane, struct rlane **rl)
{
	int err = api_lane(rpp, lane, rl);

	if (!err && !(*rl)->draining)
		err = errmsg_set(-EINVAL, "lane %u: no drain was started", lane);
	return err;
}

int rpmem_drain_poll(RPMEMpool *rpp, unsigned lane)
{
	struct rlane *rl = NULL;
	int ret = draining_lane(rpp, lane, &rl);
	uint64_t one = 1;
	bool progress;

	if (ret)
		return api_result(ret);
	for (unsigned i = 0; i < STEPS_MAX; i++) {
		ret = rlane_drain_step(rl, &progress);
		if (ret <= 0)
			return api_result(ret);
		if (rl->epoll_fd < 0 || rlane_may_sleep(rl))
			return 1;
	}
	/* still not to be slept on: the descriptor brings the caller back at once */
	return write(rl->event_fd, &one, sizeof(one)) < 0 && errno != EAGAIN ? api_result(-errno) : 1;
}

int rpmem_drain_wait(RPMEMpool *rpp, unsigned lane, int timeout_ms)
{
	struct waiting w = { .count = 1 };
	int ret = draining_lane(rpp, lane, &w.lanes[0]), left = SLICE_MS;
	uint64_t end = channel_now_ns() + (timeout_ms > 0 ? timeout_ms : 0) * 1000000ull;
	bool progress;

	if (ret)
		return api_result(ret);
	while ((ret = rlane_drain_step(w.lanes[0], &progress)) > 0) {
		uint64_t now = channel_now_ns();

		if (timeout_ms >= 0 && now >= end)
			return api_result(errmsg_set(-ETIMEDOUT, "lane %u: not drained within %d ms", lane, timeout_ms));
		if (timeout_ms >= 0 && end - now < SLICE_MS * 1000000ull)
			left = (int)((end - now) / 1000000) + 1;
		ret = waiting_rest(&w, progress, left);
		if (ret)
			break;
	}
	return api_result(ret);
}

int rpmem_lane_fd(RPMEMpool *rpp, unsigned lane)
{
	struct rlane *rl = NULL;
	int fd = api_lane(rpp, lane, &rl);

	if (!fd)
		fd = rlane_fd(rl);
	return fd < 0 ? api_result(fd) : fd;
}

/* ---------------------------------------------------------------- groups */
static int group_check(RPMEMpool *const rpps[], unsigned count)
{
	if (!count || count > RPMEM_GROUP_MAX)
		return errmsg_set(-EINVAL, "a group of %u handles (1 to %u)", count, RPMEM_GROUP_MAX);
	for (unsigned i = 0; i < count; i++)
		for (unsigned j = 0; j < i; j++)
			if (rpps[i] == rpps[j])
				return errmsg_set(-EINVAL, "handle %u is given twice", i);
	return 0;
}

/* Errors of the members; that of the lowest one is told, with its text. */
struct outcome {
	int err;
	unsigned member;
	char text[ERRMSG_BYTES_MAX];
};

static void outcome_add(struct outcome *o, unsigned member, int err)
{
	if (!err || (o->err && o->member < member))
		return;
	o->err = err;
	o->member = member;
	snprintf(o->text, sizeof(o->text), "%s", errmsg_get());
}

static int outcome_tell(const struct outcome *o)
{
	if (!o->err)
		return 0;
	errmsg_set(o->err, "%s", o->text);
	return api_result(o->err);
}

/* Steps those that are not done; what is done leaves the set. */
static bool group_step(struct rlane *pending[], unsigned count, struct waiting *w, struct outcome *o)
{
	bool progress = false;

	w->count = 0;
	for (unsigned i = 0; i < count; i++) {
		bool moved;
		int ret;

		if (!pending[i])
			continue;
		ret = rlane_drain_step(pending[i], &moved);
		progress = progress || moved || ret <= 0;
		if (ret > 0) {
			w->lanes[w->count++] = pending[i];
			continue;
		}
		pending[i] = NULL;
		outcome_add(o, i, ret);
	}
	return progress;
}

/* Waits for all; a lack of descriptors to sleep on costs processor time and nothing else. */
static void group_wait(struct rlane *pending[], unsigned count, struct outcome *o)
{
	struct waiting w = { 0 };

	for (;;) {
		bool progress = group_step(pending, count, &w, o);

		if (!w.count)
			return;
		if (waiting_rest(&w, progress, SLICE_MS))
			sched_yield();
	}
}

static int group_finish(struct rlane *lanes[], unsigned count, struct outcome *o)
{
	for (unsigned i = 0; i < count; i++) {
		int err = lanes[i] ? rlane_drain_begin(lanes[i]) : 0;

		outcome_add(o, i, err);
		if (err)
			lanes[i] = NULL;
	}
	group_wait(lanes, count, o);
	return outcome_tell(o);
}

int rpmem_group_persist(RPMEMpool *const rpps[], unsigned count, size_t offset, size_t length, unsigned lane,
			unsigned flags)
{
	struct rlane *lanes[RPMEM_GROUP_MAX];
	struct outcome outcome = { 0 };
	int err = group_check(rpps, count);

	for (unsigned i = 0; i < count && !err; i++)
		err = api_write_check(rpps[i], offset, length, lane, flags, &lanes[i]);
	if (err)
		return api_result(err);
	for (unsigned i = 0; i < count; i++) {
		err = rlane_flush(lanes[i], offset, length, api_kind(flags));
		outcome_add(&outcome, i, err);
		if (err)
			lanes[i] = NULL;
	}
	return group_finish(lanes, count, &outcome);
}

int rpmem_group_drain(RPMEMpool *const rpps[], unsigned count, unsigned lane)
{
	struct rlane *lanes[RPMEM_GROUP_MAX];
	struct outcome outcome = { 0 };
	int err = group_check(rpps, count);

	for (unsigned i = 0; i < count && !err; i++)
		err = api_lane(rpps[i], lane, &lanes[i]);
	return err ? api_result(err) : group_finish(lanes, count, &outcome);
}

/* ---------------------------------------------------------------- what was agreed on */
int rpmem_info(RPMEMpool *rpp, struct rpmem_info *info, size_t info_size)
{
	static const enum rpmem_domain domains[] = {
		[PM_MEMORY] = RPMEM_DOMAIN_MEMORY,
		[PM_PMEM] = RPMEM_DOMAIN_PMEM,
		[PM_FILE] = RPMEM_DOMAIN_FILE,
	};
	struct rpmem_info all = { 0 };

	if (!info || !info_size)
		return api_result(errmsg_set(-EINVAL, "invalid info address or size"));
	memcpy(all.provider, rpp->provider, sizeof(all.provider));
	pthread_mutex_lock(&rpp->lock);
	all.method = (enum rpmem_method)rpp->route->info.method;
	all.domain = domains[rpp->route->info.domain];
	all.reconnections = rpp->reconnections;
	pthread_mutex_unlock(&rpp->lock);
	all.nlanes = rpp->lane_count;
	all.connected = atomic_load(&rpp->connected);
	all.pool_size = rpp->remote_size;
	if (info_size > sizeof(all))
		memset((char *)info + sizeof(all), 0, info_size - sizeof(all));
	memcpy(info, &all, info_size < sizeof(all) ? info_size : sizeof(all));
	return 0;
}
