/* libfabric, third of four files: messages, one-sided operations and their completions on an established endpoint.
 *
 * What a completion means differs by provider (tcp: copied to a socket buffer), so nothing here speaks of arrival: only
 * an answer of the peer does. What is bounded here, because libfabric does not: inject length, segment counts, bytes and
 * operations under way, the time a post may be refused.
 *
 * One-sided operations sit in a ring per class (write, read), completed in order. Providers that need local memory
 * registered (verbs) get a copy in a registered staging ring: sources and destinations may then be any memory.
 * Completions that show up while a post is refused wait in ep->late for the next fab_poll. */
#include "fabric_impl.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include "errmsg.h"

#define POST_REFUSED_NS 1000000000ull
#define EQ_EVERY_POLLS 64u              /* empty ones: the event queue tells verbs' ends, and costs a system call */
#define QUIET_BYTES_MAX (256u << 10)    /* of writes between two with a completion, each of which costs a wake-up */
#define QUIET_COUNT_MAX 16u

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---------------------------------------------------------------- completions */
/* Frees the ring's operations up to and including index last. */
static void ring_done(struct fab_ring *ring, unsigned last)
{
	unsigned n = (last + FAB_OPS_MAX - ring->first) % FAB_OPS_MAX + 1;

	if (n > ring->count)
		return;
	for (; n; n--) {
		struct fab_op *op = &ring->ops[ring->first];

		ring->bytes -= op->len;
		ring->used -= op->stage;
		ring->first = (ring->first + 1) % FAB_OPS_MAX;
		ring->count--;
	}
}

void fab_event_of(struct fab_ep *ep, const struct fi_cq_data_entry *entry, struct fab_event *event)
{
	struct fab_ctx *ctx = entry->op_context;
	struct fab_op *op;

	*event = (struct fab_event){ .slot = ctx->slot };
	switch (ctx->kind) {
	case CTX_RECV:
		event->kind = FAB_RECV;
		event->len = entry->len;
		break;
	case CTX_SEND:
		event->kind = FAB_SENT;
		break;
	case CTX_WRITE:
		event->kind = FAB_WRITTEN;
		ring_done(&ep->writes, ctx->slot);
		break;
	case CTX_READ:
		op = &ep->reads.ops[ctx->slot];
		event->kind = FAB_READ;
		event->len = op->len;
		event->tag = op->tag;
		if (op->staged)
			memcpy(op->dst, op->staged, op->len);
		ring_done(&ep->reads, ctx->slot);
		break;
	}
}

int fab_cq_error(struct fab_ep *ep)
{
	struct fi_cq_err_entry error = { 0 };
	int err;

	if (fi_cq_readerr(ep->cq, &error, 0) < 0)
		return errmsg_set(-EIO, "fabric completion queue failed");
	err = fab_errno(error.err);
	return errmsg_set(err ? err : -EIO, "fabric connection: %s", fab_strerror(error.err));
}

int fab_cq_read(struct fab_ep *ep, struct fab_event *events, unsigned max)
{
	struct fi_cq_data_entry entries[FAB_EVENTS_MAX];
	ssize_t ret = fi_cq_read(ep->cq, entries, max < FAB_EVENTS_MAX ? max : FAB_EVENTS_MAX);

	if (ret > 0) {
		for (ssize_t i = 0; i < ret; i++)
			fab_event_of(ep, &entries[i], &events[i]);
		return (int)ret;
	}
	if (ret == -FI_EAGAIN || ret == -FI_EINTR || !ret)
		return 0;
	if (ret == -FI_EAVAIL)
		return fab_cq_error(ep);
	return errmsg_set(fab_errno(ret), "fabric completion queue: %s", fab_strerror((int)-ret));
}

int fab_ep_failed(struct fab_ep *ep, int err)
{
	ep->err = err;
	return err;
}

void fab_late_put(struct fab_ep *ep, const struct fab_event *event)
{
	ep->late[(ep->late_first + ep->late_count) % ep->late_max] = *event;
	ep->late_count++;
}

static unsigned late_take(struct fab_ep *ep, struct fab_event *events, unsigned max)
{
	unsigned n;

	for (n = 0; n < max && ep->late_count; n++) {
		events[n] = ep->late[ep->late_first];
		ep->late_first = (ep->late_first + 1) % ep->late_max;
		ep->late_count--;
	}
	return n;
}

int fab_poll(struct fab_ep *ep, struct fab_event *events, unsigned max)
{
	int n;

	assert(max);
	if (ep->late_count)
		return (int)late_take(ep, events, max);
	if (ep->err)
		return errmsg_set(ep->err, "the fabric connection has ended");
	n = fab_cq_read(ep, events, max);
	if (n > 0)
		return n;
	if (!n && ++ep->empty_polls >= EQ_EVERY_POLLS) {
		ep->empty_polls = 0;
		n = fab_eq_check(ep, 0);
	}
	return n < 0 ? fab_ep_failed(ep, n) : 0;
}

/* ---------------------------------------------------------------- posting */
/* After a refused post (send queue full: verbs only): makes room by reading completions. 0: try again. */
static int post_retry(struct fab_ep *ep, ssize_t ret, uint64_t *since)
{
	struct fab_event event;
	uint64_t now;
	int n;

	if (ret != -FI_EAGAIN)
		return errmsg_set(fab_errno(ret), "fabric post: %s", fab_strerror((int)-ret));
	now = now_ns();
	if (!*since)
		*since = now;
	if (now - *since > POST_REFUSED_NS)
		return errmsg_set(-ETIMEDOUT, "fabric: send queue full for a second");
	n = fab_cq_read(ep, &event, 1);
	if (n < 0)
		return fab_ep_failed(ep, n);
	if (n && ep->late_count == ep->late_max)
		return errmsg_set(-EOVERFLOW, "fabric: more completions than operations");
	if (n) {
		fab_late_put(ep, &event);
	} else {
		sched_yield();
	}
	return 0;
}

#define POST(ep, call) \
	({ \
		uint64_t since_ = 0; \
		int err_ = 0; \
		for (;;) { \
			ssize_t ret_ = (call); \
			if (!ret_) \
				break; \
			err_ = post_retry(ep, ret_, &since_); \
			if (err_) \
				break; \
		} \
		err_; \
	})

void fab_all_arrived(struct fab_ep *ep)
{
	ep->unsent = false;
}

void *fab_tx(struct fab_ep *ep, unsigned slot)
{
	assert(slot < ep->tx.count);
	return ep->tx.mem + slot * ep->tx.bytes;
}

void *fab_rx(struct fab_ep *ep, unsigned slot)
{
	assert(slot < ep->rx.count);
	return ep->rx.mem + slot * ep->rx.bytes;
}

static int recv_post(struct fab_ep *ep, unsigned slot)
{
	return POST(ep, fi_recv(ep->ep, fab_rx(ep, slot), ep->rx.bytes, ep->rx.desc, 0, &ep->rx.ctx[slot]));
}

int fab_recv(struct fab_ep *ep, unsigned slot)
{
	int err = 0;

	ep->idle[ep->idle_count++] = slot;
	if (ep->idle_count <= ep->spare)
		return 0;
	for (unsigned i = 0; i < ep->idle_count && !err; i++)
		err = recv_post(ep, ep->idle[i]);
	ep->idle_count = 0;
	return err;
}

int fab_send(struct fab_ep *ep, unsigned slot, size_t len, bool notify)
{
	struct iovec iov = { fab_tx(ep, slot), len };
	struct fi_msg msg = { .msg_iov = &iov, .desc = &ep->tx.desc, .iov_count = 1, .context = &ep->tx.ctx[slot] };

	assert(len <= ep->tx.bytes);
	ep->unsent = true;
	return POST(ep, fi_sendmsg(ep->ep, &msg, notify ? FI_COMPLETION : 0));
}

bool fab_sends_any(const struct fab_ep *ep)
{
	return !ep->fab->mr_local && ep->fab->iov_max >= 2;
}

int fab_send_more(struct fab_ep *ep, unsigned slot, size_t len, const void *more, size_t more_len)
{
	struct iovec iov[2] = { { fab_tx(ep, slot), len }, { (void *)(uintptr_t)more, more_len } };
	void *desc[2] = { NULL, NULL };
	struct fi_msg msg = { .msg_iov = iov, .desc = desc, .iov_count = 2, .context = &ep->tx.ctx[slot] };

	assert(len <= ep->tx.bytes);
	assert(fab_sends_any(ep));
	ep->unsent = true;
	return POST(ep, fi_sendmsg(ep->ep, &msg, 0));
}

int fab_inject(struct fab_ep *ep, const void *buf, size_t len)
{
	if (len > FAB_INJECT_BYTES_MAX || len > ep->fab->inject_max)
		return errmsg_set(-EMSGSIZE, "fabric: %zu bytes are too many to inject", len);
	ep->unsent = true;
	return POST(ep, fi_inject(ep->ep, buf, len, 0));
}

/* ---------------------------------------------------------------- one-sided */
/* Bytes free in one piece at the head of the staging ring, counting the skip to its start. */
static size_t stage_room(const struct fab_ring *ring)
{
	size_t free_bytes = FAB_RMA_FLIGHT_BYTES_MAX - ring->used;
	size_t to_end = FAB_RMA_FLIGHT_BYTES_MAX - ring->head;

	if (!ring->used)
		return FAB_RMA_FLIGHT_BYTES_MAX;
	if (free_bytes <= to_end)
		return free_bytes;
	return to_end > free_bytes - to_end ? to_end : free_bytes - to_end;
}

static size_t ring_room(const struct fab_ring *ring)
{
	if (ring->count + FAB_SEGS_MAX > FAB_OPS_MAX)
		return 0;
	return ring->stage ? stage_room(ring) : FAB_RMA_FLIGHT_BYTES_MAX - ring->bytes;
}

size_t fab_write_room(const struct fab_ep *ep)
{
	return ring_room(&ep->writes);
}

size_t fab_read_room(const struct fab_ep *ep)
{
	return ring_room(&ep->reads);
}

unsigned fab_writes(const struct fab_ep *ep)
{
	return ep->writes.count;
}

static char *stage_take(struct fab_ring *ring, struct fab_op *op, size_t len)
{
	size_t to_end;
	char *at;

	if (!ring->used)
		ring->head = 0;
	to_end = FAB_RMA_FLIGHT_BYTES_MAX - ring->head;
	op->stage = len;
	if (len > to_end) {
		op->stage += to_end;
		ring->head = 0;
	}
	assert(ring->used + op->stage <= FAB_RMA_FLIGHT_BYTES_MAX);
	at = ring->stage + ring->head;
	ring->head = (ring->head + len) % FAB_RMA_FLIGHT_BYTES_MAX;
	ring->used += op->stage;
	return at;
}

static struct fab_op *ring_push(struct fab_ring *ring, size_t len)
{
	struct fab_op *op = &ring->ops[(ring->first + ring->count) % FAB_OPS_MAX];

	assert(ring->count < FAB_OPS_MAX);
	assert(len <= ring_room(ring));
	op->len = len;
	op->stage = 0;
	op->staged = NULL;
	ring->count++;
	ring->bytes += len;
	return op;
}

/* One fi_writemsg of count segments; with staging they are copied first and count is 1 remote range. */
static int write_post(struct fab_ep *ep, uint64_t rkey, const struct fab_seg *segs, unsigned count)
{
	struct fab_ring *ring = &ep->writes;
	struct iovec iov[FAB_SEGS_MAX];
	struct fi_rma_iov remote[FAB_SEGS_MAX];
	void *desc[FAB_SEGS_MAX];
	struct fi_msg_rma msg = { .msg_iov = iov, .desc = desc, .iov_count = count, .rma_iov = remote,
				  .rma_iov_count = count };
	struct fab_op *op;
	size_t len = 0, at = 0;
	char *staged;
	bool quiet;
	uint64_t flags;

	for (unsigned i = 0; i < count; i++)
		len += segs[i].len;
	op = ring_push(ring, len);
	staged = ring->stage ? stage_take(ring, op, len) : NULL;
	for (unsigned i = 0; i < count; i++) {
		void *src = staged ? staged + at : segs[i].buf;

		if (staged)
			memcpy(src, segs[i].buf, segs[i].len);
		iov[i] = (struct iovec){ src, segs[i].len };
		remote[i] = (struct fi_rma_iov){ segs[i].raddr, segs[i].len, rkey };
		desc[i] = ring->desc;
		at += segs[i].len;
	}
	ring->quiet_bytes += len;
	quiet = !ep->commit && ring->quiet_bytes < QUIET_BYTES_MAX && ++ring->quiet_count < QUIET_COUNT_MAX;
	if (!quiet)
		ring->quiet_bytes = ring->quiet_count = 0;
	/* a commit covers the ranges of its own operation only (util providers), so each write asks for it */
	flags = ep->commit ? FI_COMPLETION | FI_COMMIT_COMPLETE : quiet ? 0 : FI_COMPLETION;
	msg.context = &op->ctx;
	ep->unsent = true;
	return POST(ep, fi_writemsg(ep->ep, &msg, flags));
}

int fab_write(struct fab_ep *ep, uint64_t rkey, const struct fab_seg *segs, unsigned count)
{
	unsigned step = ep->fab->iov_max < FAB_SEGS_MAX ? (unsigned)ep->fab->iov_max : FAB_SEGS_MAX;

	assert(count && count <= FAB_SEGS_MAX);
	for (unsigned i = 0; i < count; i += step) {
		int err = write_post(ep, rkey, segs + i, count - i < step ? count - i : step);

		if (err)
			return err;
	}
	return 0;
}

int fab_read(struct fab_ep *ep, uint64_t rkey, const struct fab_seg *seg, uint64_t tag)
{
	struct fab_op *op = ring_push(&ep->reads, seg->len);
	struct iovec iov = { seg->buf, seg->len };
	struct fi_rma_iov remote = { seg->raddr, seg->len, rkey };
	struct fi_msg_rma msg = { .msg_iov = &iov, .desc = &ep->reads.desc, .iov_count = 1, .rma_iov = &remote,
				  .rma_iov_count = 1, .context = &op->ctx };

	op->dst = seg->buf;
	op->tag = tag;
	if (ep->reads.stage) {
		op->staged = stage_take(&ep->reads, op, seg->len);
		iov.iov_base = op->staged;
	}
	ep->unsent = true;
	return POST(ep, fi_readmsg(ep->ep, &msg, FI_COMPLETION));
}
