/* The receiving half of a lane: connecting, answers, heartbeats and deadlines. rpmem/lane_post.c is the sending half.
 *
 * Answers come in order, one for each message, or for a train of writes. Nothing the fabric reports proves that the target
 * lives: a stopped one swallows megabytes. So answers count, and every message has its time:
 *
 *   a request     notice_ms after it was posted, or after the answer before it when that came later
 *   a PING        posted when no message is unanswered and none was posted for notice_ms / 4, at most 3 s; what is left of
 *                 notice_ms, so that a target that stops right after an answer is dead notice_ms later
 *   reads         one-sided, as requests
 *   writes        one-sided, as requests where their completion proves persistence (WIRE_METHOD_COMMIT)
 *
 * On a slow link megabytes are ahead of a request, or of its answer, and take longer than notice_ms. So bytes that move count
 * as well, but only as many as may have been ahead when the waiting began: a stopped target is dead notice_ms after the
 * last byte that its host took, and one that takes bytes for ever without an answer is dead, too.
 *
 * What has arrived is taken before deadlines are looked at, so an owner that was away for long does not take its own
 * absence for the target's. */
#include "lane.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "codec.h"
#include "errmsg.h"
#include "lane_impl.h"
#include "log.h"

#define FIRST_RANGES 16u /* of each operation, so that small ones never allocate */
#define LOOKS_PER_NOTICE 16u /* at bytes on their way: each is a system call, and one interval is the error of what it sees */

const struct lane_news *lane_news(const struct lane *lane)
{
	return &lane->news;
}

struct fab_ep *lane_ep(struct lane *lane)
{
	return lane->ep;
}

bool lane_full(const struct lane *lane)
{
	return lane->op_count == LANE_OPS_MAX;
}

unsigned lane_ops(const struct lane *lane)
{
	return lane->op_count;
}

bool lane_committing(const struct lane *lane)
{
	return lane->commit && fab_writes(lane->ep);
}

int lane_settled(struct lane *lane)
{
	int err = lane->news.first_err;

	lane->news.first_err = 0;
	return err;
}

/* ---------------------------------------------------------------- answers */
/* An answer other than OK. A refused commit ends the lane: what follows it would be refused as well. */
static int answer_refused(struct lane *lane, const struct lane_sent *sent, uint16_t status)
{
	int err = wire_status_err(status);

	switch (sent->op) {
	case LANE_PING:
		return errmsg_set(err, "the target ended the session: %s", wire_status_name(status));
	case LANE_READ:
	case LANE_WRITE:
	case LANE_DEEP:
		if (!lane->news.first_err)
			lane->news.first_err = err;
		return status == WIRE_BAD_PROTO || status == WIRE_IO ? errmsg_set(err, "the target ended the session: %s",
										wire_status_name(status)) : 0;
	case LANE_CHECKPOINT:
		log_warn("lane %u: the target refused to checkpoint up to %" PRIu64 ": %s", lane->index, sent->arg,
			 wire_status_name(status));
		return 0;
	default:
		return errmsg_set(err, "the target refused commit %" PRIu64 ": %s (its log says why)", sent->arg,
				  wire_status_name(status));
	}
}

static int read_arrived(struct lane *lane, struct lane_op_queued *op, uint32_t len)
{
	if (op->kind != KIND_READ || len > op->unread)
		return errmsg_set(-EPROTO, "lane %u: bytes that nobody asked for", lane->index);
	op->unread -= len;
	return 0;
}

static int answer_read(struct lane *lane, const struct lane_sent *sent, const void *payload, uint32_t len, bool refused)
{
	if (refused)
		return read_arrived(lane, &lane->ops[sent->op_idx], sent->len);
	if (len != sent->len)
		return errmsg_set(-EPROTO, "lane %u: a read of %u bytes brought %u", lane->index, sent->len, len);
	memcpy(sent->dst, payload, len);
	return read_arrived(lane, &lane->ops[sent->op_idx], len);
}

/* A request that could not be read is answered without its operation. */
static bool answer_fits(const struct lane_ack_msg *ack, const struct lane_sent *sent)
{
	return le16_get(ack->op) == sent->op || (!le16_get(ack->op) && le16_get(ack->status) == WIRE_BAD_PROTO);
}

/* Whether it is the answer that is due: to the oldest message that was not silent, and to the silent ones before it. A
 * silent one is answered only when that is the session's end. */
static bool answer_due(const struct lane *lane, uint64_t seq, uint16_t status)
{
	uint64_t due = lane->seq_acked + 1;

	if (seq > lane->seq)
		return false;
	while (due < seq && lane->sent[due % lane->window].silent)
		due++;
	return seq == due && (!lane->sent[due % lane->window].silent || status == WIRE_BAD_PROTO || status == WIRE_IO);
}

static int answer_take(struct lane *lane, const void *buf, size_t len)
{
	const struct lane_sent *sent;
	struct lane_ack_msg ack;
	int err = lane_ack_check(buf, len, &ack);
	uint16_t status;

	if (err)
		return errmsg_set(err, "lane %u: malformed answer of %zu bytes", lane->index, len);
	status = le16_get(ack.status);
	if (!answer_due(lane, le64_get(ack.seq), status))
		return errmsg_set(-EPROTO, "lane %u: answer %" PRIu64 " after %" PRIu64, lane->index, le64_get(ack.seq),
				  lane->seq_acked);
	lane->seq_acked = le64_get(ack.seq);
	sent = &lane->sent[lane->seq_acked % lane->window];
	if (!answer_fits(&ack, sent))
		return errmsg_set(-EPROTO, "lane %u: answer %" PRIu64 " is to operation %u, the request was %u", lane->index,
				  lane->seq_acked, le16_get(ack.op), sent->op);
	if (!lane_op_is_upkeep(sent->op))
		lane->news.round_trips++;
	lane->news.answered = true;
	lane->news.tail_seq = le64_get(ack.tail_seq);
	lane->news.ring_free = le64_get(ack.ring_free);
	lane->news.rx_bytes = le64_get(ack.rx_bytes);
	lane->news.rx_msgs = le64_get(ack.rx_msgs);
	if (sent->op == LANE_READ)
		err = answer_read(lane, sent, (const uint8_t *)buf + sizeof(ack), le32_get(ack.read_bytes), status);
	if (status)
		return err ? err : answer_refused(lane, sent, status);
	if (sent->op == LANE_COMMIT && sent->last)
		lane->news.acked = sent->arg;
	return err;
}

static int event_take(struct lane *lane, const struct fab_event *event)
{
	int err;

	switch (event->kind) {
	case FAB_RECV:
		err = answer_take(lane, fab_rx(lane->ep, event->slot), event->len);
		return err ? err : fab_recv(lane->ep, event->slot);
	case FAB_READ:
		lane->reading--;
		return read_arrived(lane, &lane->ops[event->tag], (uint32_t)event->len);
	default:
		return 0;
	}
}

/* ---------------------------------------------------------------- time */
static int silent(const struct lane *lane)
{
	return errmsg_set(-ETIMEDOUT, "the target has not answered for %" PRIu64 " ms: stopped, overloaded or cut off",
			  lane->notice_ns / 1000000);
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Bytes that moved since the last look did so after it: never later than that is assumed. */
static void lane_look(struct lane *lane, uint64_t now)
{
	uint64_t moved, ahead;

	if (now - lane->looked_ns < lane->notice_ns / LOOKS_PER_NOTICE || !fab_flow(lane->ep, &moved, &ahead))
		return;
	if (lane->looked_heard_ns != lane->heard_ns) {
		lane->looked_heard_ns = lane->heard_ns;
		lane->moved_max = moved + ahead;
	} else if (moved != lane->moved && moved <= lane->moved_max) {
		lane->moved_ns = lane->looked_ns;
	}
	lane->moved = moved;
	lane->looked_ns = now;
}

static uint64_t ping_after(const struct lane *lane)
{
	uint64_t share = lane->notice_ns / LANE_PING_SHARE;

	return share < LANE_PING_NS_MAX ? share : LANE_PING_NS_MAX;
}

static bool lane_waits(const struct lane *lane)
{
	return lane->seq_acked != lane->seq || lane->reading || lane_committing(lane);
}

static int lane_clock(struct lane *lane, uint64_t now)
{
	uint64_t quarter = ping_after(lane), limit = lane->notice_ns, life;
	const struct lane_sent *oldest;

	if (lane_waits(lane))
		lane_look(lane, now);
	life = later(lane->heard_ns, lane->moved_ns);
	if (lane->reading && now - later(lane->read_ns, life) > lane->notice_ns)
		return silent(lane);
	if (lane_committing(lane) && now - later(lane->push_ns, life) > lane->notice_ns)
		return silent(lane);
	if (lane->seq_acked == lane->seq)
		return now - lane->post_ns >= quarter ? lane_ping(lane, now) : 0;
	oldest = &lane->sent[(lane->seq_acked + 1) % lane->window];
	if (oldest->op == LANE_PING)
		limit -= quarter;
	return now - later(oldest->posted_ns, life) > limit ? silent(lane) : 0;
}

void lane_excuse(struct lane *lane)
{
	uint64_t now = channel_now_ns();

	lane->heard_ns = now;
	if (lane->seq_acked != lane->seq)
		lane->sent[(lane->seq_acked + 1) % lane->window].posted_ns = now;
}

/* Whether it shows that the target lives. */
static bool event_speaks(const struct lane *lane, const struct fab_event *event)
{
	return event->kind == FAB_RECV || event->kind == FAB_READ || (event->kind == FAB_WRITTEN && lane->commit);
}

int lane_poll(struct lane *lane)
{
	struct fab_event events[FAB_EVENTS_MAX];
	bool heard = false, absent;
	uint64_t now;
	int n, err;

	do {
		n = fab_poll(lane->ep, events, FAB_EVENTS_MAX);
		if (n < 0)
			return n;
		for (int i = 0; i < n; i++) {
			err = event_take(lane, &events[i]);
			if (err)
				return err;
			heard = heard || event_speaks(lane, &events[i]);
		}
	} while (n == FAB_EVENTS_MAX);
	now = channel_now_ns();
	absent = now - lane->polled_ns > lane->notice_ns;
	lane->polled_ns = now;
	if (heard)
		lane->heard_ns = now;
	if (heard && lane->seq_acked == lane->seq && lane->seq_acked >= lane->push_seq && !lane->reading)
		fab_all_arrived(lane->ep);
	if (lane->op_count) {
		err = lane_pump(lane, now);
		if (err)
			return err;
	}
	if (!heard && absent) /* nobody listened, and what a full socket kept back may only be leaving now */
		lane_excuse(lane);
	return heard || absent ? 0 : lane_clock(lane, now);
}

int lane_wait(struct lane *lane, int timeout_ms)
{
	return fab_wait(lane->ep, timeout_ms);
}

/* ---------------------------------------------------------------- connecting */
static int lane_establish(struct lane *lane, const struct lane_cfg *cfg, const struct deadline *deadline)
{
	struct lane_connect_msg msg = {
		.magic = le32_put(LANE_MAGIC),
		.version = le16_put(LANE_VERSION),
		.lane = le16_put((uint16_t)cfg->index),
		.session = le64_put(cfg->session->session),
	};
	struct lane_accept_msg accept;
	int err;

	memcpy(msg.token, cfg->session->token, sizeof(msg.token));
	err = fab_ep_connect(lane->ep, &msg, sizeof(msg));
	while (!err) {
		int slice = deadline_slice(deadline);

		if (slice < 0)
			return slice;
		err = fab_ep_established(lane->ep, slice);
		if (!err)
			break;
		if (err == -EAGAIN)
			err = 0;
	}
	if (err)
		return err;
	if (fab_ep_reply(lane->ep, &accept, sizeof(accept)) != sizeof(accept) || le32_get(accept.magic) != LANE_MAGIC ||
	    le16_get(accept.version) != LANE_VERSION || le16_get(accept.lane) != cfg->index)
		return errmsg_set(-EPROTO, "lane %u: the target accepts in another protocol", cfg->index);
	lane->raddr = le64_get(accept.raddr);
	lane->rkey = le64_get(accept.rkey);
	return 0;
}

static int ops_init(struct lane *lane)
{
	for (unsigned i = 0; i < LANE_OPS_MAX; i++) {
		lane->ops[i].ranges = calloc(FIRST_RANGES, sizeof(struct repl_range));
		if (!lane->ops[i].ranges)
			return -ENOMEM;
		lane->ops[i].range_max = FIRST_RANGES;
	}
	return 0;
}

int lane_connect(struct fab *fab, const struct lane_cfg *cfg, const struct deadline *deadline, struct lane **out)
{
	const struct ctl_session *session = cfg->session;
	struct lane *lane = calloc(1, sizeof(*lane));
	struct fab_ep_cfg ep = { .timeout_ms = cfg->notice_ms };
	int err;

	if (!lane)
		return -ENOMEM;
	lane->index = cfg->index;
	lane->rma = session->caps & CTL_CAP_RMA;
	lane->msg_max = session->msg_bytes_max < LANE_MSG_BYTES_MAX ? session->msg_bytes_max : LANE_MSG_BYTES_MAX;
	lane->window = session->rx_slots < LANE_RX_SLOTS ? session->rx_slots : LANE_RX_SLOTS;
	if (cfg->window && cfg->window < lane->window)
		lane->window = cfg->window;
	lane->silent_max = session->caps & CTL_CAP_TRAINS ? lane->window / 2 - (lane->window > 1) : 0;
	lane->commit = session->method == WIRE_METHOD_COMMIT;
	lane->notice_ns = cfg->notice_ms * 1000000ull;
	ep.rx_count = ep.tx_count = lane->window;
	ep.tx_bytes = lane->msg_max;
	ep.rx_bytes = lane->rma ? sizeof(struct lane_ack_msg) : lane->msg_max;
	ep.rma = lane->rma;
	ep.commit = lane->commit;
	err = ops_init(lane);
	if (!err)
		err = fab_ep_new(fab, &ep, &lane->ep);
	if (!err)
		err = lane_establish(lane, cfg, deadline);
	if (err) {
		lane_delete(lane);
		return err;
	}
	lane->bare = session->caps & CTL_CAP_TRAINS && fab_sends_any(lane->ep);
	lane->post_ns = lane->heard_ns = channel_now_ns();
	*out = lane;
	return 0;
}

void lane_delete(struct lane *lane)
{
	if (!lane)
		return;
	fab_ep_delete(lane->ep);
	for (unsigned i = 0; i < LANE_OPS_MAX; i++)
		free(lane->ops[i].ranges);
	free(lane);
}
