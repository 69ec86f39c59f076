/* A lane's trains of writes, seen from the other end: what arrives there, how often an answer is asked for, and what becomes
 * of answers that no target would give. The other end is a fabric endpoint that the test drives by hand. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "codec.h"
#include "errmsg.h"
#include "rpmem/fabric_impl.h"
#include "rpmem/lane_impl.h"

#define LIMIT 60
#define STEP_MS 20
#define POOL_BYTES (8u << 20)
#define NOTICE_MS 10000u
#define SLOW_NOTICE_MS 600u
#define SLOW_BYTES (1u << 20) /* of the link in a second: a MiB takes longer than SLOW_NOTICE_MS */

static struct {
	struct fab *far_fab, *fab;
	struct fab_ep *far;
	struct lane *lane;
	uint8_t *pool, *src; /* what arrived; what was sent */
	unsigned messages, bare, silent, asked; /* asked: messages to be answered, those that were not included */
	uint64_t newest;
	bool answers;        /* it behaves */
} t;

static void *far_accept(void *arg)
{
	struct fab_ep_cfg cfg = { .rx_count = LANE_RX_SLOTS, .tx_count = 1, .rx_bytes = LANE_MSG_BYTES_MAX,
				  .tx_bytes = LANE_MSG_BYTES_MAX };
	struct lane_accept_msg accept = { .magic = le32_put(LANE_MAGIC), .version = le16_put(LANE_VERSION) };
	uint64_t raddr = 0, rkey = 0;
	struct fab_request req;
	int err;

	(void)arg;
	while ((err = fab_next(t.far_fab, STEP_MS, &req)) == -EAGAIN)
		;
	if (!err)
		err = fab_ep_new(t.far_fab, &cfg, &t.far);
	if (!err)
		err = fab_ep_expose(t.far, t.pool, POOL_BYTES, true, &raddr, &rkey);
	accept.raddr = le64_put(raddr);
	accept.rkey = le64_put(rkey);
	if (!err)
		err = fab_ep_accept(t.far, &req, &accept, sizeof(accept));
	while (!err && (err = fab_ep_established(t.far, STEP_MS)) == -EAGAIN)
		err = 0;
	return err ? arg : &t;
}

static void up_noticing(uint32_t caps, unsigned window, unsigned notice_ms)
{
	struct ctl_session session = { .session = 1, .caps = caps, .method = WIRE_METHOD_GPSPM, .rx_slots = LANE_RX_SLOTS,
				       .msg_bytes_max = LANE_MSG_BYTES_MAX };
	struct lane_cfg cfg = { .session = &session, .notice_ms = notice_ms, .window = window };
	struct deadline deadline = deadline_in(20000, NULL);
	pthread_t thread;
	uint16_t port;
	void *ok;

	t.answers = true;
	t.pool = calloc(1, POOL_BYTES);
	t.src = malloc(POOL_BYTES);
	cr_assert(t.pool && t.src);
	for (size_t i = 0; i < POOL_BYTES; i++)
		t.src[i] = (uint8_t)(i * 13 + i / 251);
	cr_assert_eq(fab_listen("tcp", "127.0.0.1", &t.far_fab, &port), 0, "%s", errmsg_get());
	cr_assert_eq(pthread_create(&thread, NULL, far_accept, NULL), 0);
	cr_assert_eq(fab_dial("tcp", "127.0.0.1", port, &t.fab), 0, "%s", errmsg_get());
	cr_assert_eq(lane_connect(t.fab, &cfg, &deadline, &t.lane), 0, "%s", errmsg_get());
	cr_assert_eq(pthread_join(thread, &ok), 0);
	cr_assert(ok);
}

static void up(uint32_t caps, unsigned window)
{
	up_noticing(caps, window, NOTICE_MS);
}

static void down(void)
{
	lane_delete(t.lane);
	fab_close(t.fab);
	fab_ep_delete(t.far);
	fab_close(t.far_fab);
	free(t.pool);
	free(t.src);
}

static void far_say(uint64_t seq, unsigned status)
{
	struct lane_ack_msg ack = { .magic = le32_put(LANE_MAGIC), .op = le16_put(LANE_WRITE), .seq = le64_put(seq),
				    .status = le16_put((uint16_t)status) };

	lane_ack_seal(&ack);
	cr_assert_eq(fab_inject(t.far, &ack, sizeof(ack)), 0);
}

/* Stores as a target would, and answers what is to be answered. */
static void far_take(const struct fab_event *event)
{
	struct lane_view v;
	const uint8_t *at;

	cr_assert_eq(lane_req_check(fab_rx(t.far, event->slot), event->len, 0, POOL_BYTES, &v), 0);
	cr_assert_eq(v.op, LANE_WRITE);
	cr_assert_eq(v.seq, ++t.newest);
	at = v.payload;
	for (uint32_t i = 0; i < v.range_count; i++) {
		memcpy(t.pool + le64_get(v.ranges[i].off), at, le32_get(v.ranges[i].len));
		at += le32_get(v.ranges[i].len);
	}
	t.messages++;
	t.bare += v.flags & LANE_BARE ? 1 : 0;
	t.silent += v.flags & LANE_MORE ? 1 : 0;
	t.asked += v.flags & LANE_MORE ? 0 : 1;
	cr_assert_eq(fab_recv(t.far, event->slot), 0);
	if (t.answers && !(v.flags & LANE_MORE))
		far_say(v.seq, WIRE_OK);
}

static bool far_step(void)
{
	struct fab_event event;
	int n = fab_poll(t.far, &event, 1);

	cr_assert_geq(n, 0, "%s", errmsg_get());
	if (n && event.kind == FAB_RECV)
		far_take(&event);
	return n;
}

/* Both ends in turn until all is answered, or the lane is dead. */
static int run(void)
{
	int err = 0;

	while (!err && lane_ops(t.lane)) {
		far_step();
		err = lane_poll(t.lane);
	}
	return err;
}

static struct repl_range part(uint64_t off, uint32_t len)
{
	return (struct repl_range){ off, len, t.src + off };
}

/* Large ranges and small ones: all arrive, large ones uncopied, and the window moves on one answer for half of it. */
Test(lane_train, brings_every_byte_and_asks_seldom, .timeout = LIMIT)
{
	struct repl_range ranges[40];

	up(CTL_CAP_TRAINS, 0);
	for (unsigned i = 0; i < 40; i++)
		ranges[i] = part(i * 200000ull + i, i % 3 ? 100u + i : i % 2 ? 16384u : 199000u);
	cr_assert_eq(lane_write(t.lane, ranges, 40, false), 0);
	cr_assert_eq(run(), 0, "%s", errmsg_get());
	for (unsigned i = 0; i < 40; i++)
		cr_expect_eq(memcmp(t.pool + ranges[i].off, t.src + ranges[i].off, ranges[i].len), 0, "range %u", i);
	cr_expect_gt(t.bare, 14u);
	cr_expect_leq(t.asked, t.messages / 16 + 1);
	cr_expect_eq(lane_news(t.lane)->round_trips, t.asked);
	cr_expect_eq(lane_settled(t.lane), 0);
	t.messages = t.asked = 0;
	ranges[0] = part(0, 4 << 20);
	cr_assert_eq(lane_write(t.lane, ranges, 1, false), 0);
	cr_assert_eq(run(), 0, "%s", errmsg_get());
	cr_expect_eq(memcmp(t.pool, t.src, 4 << 20), 0);
	cr_expect_eq(t.messages, 64);
	cr_expect_eq(t.asked, 4);
	down();
}

/* Small ranges are one message; its payload is sealed as long as that costs little, and where the session has nothing else. */
Test(lane_train, much_payload_is_not_sealed, .timeout = LIMIT)
{
	static const struct { uint32_t caps; unsigned count, bare; } cases[] = {
		{ CTL_CAP_TRAINS, 64, 1 }, { CTL_CAP_TRAINS, 63, 0 }, { 0, 64, 0 },
	};
	struct repl_range ranges[64];

	for (unsigned i = 0; i < 3; i++) {
		memset(&t, 0, sizeof(t));
		up(cases[i].caps, 0);
		for (unsigned k = 0; k < 64; k++)
			ranges[k] = part(512 * k, 256);
		cr_assert_eq(lane_write(t.lane, ranges, cases[i].count, false), 0);
		cr_assert_eq(run(), 0, "%s", errmsg_get());
		cr_expect_eq(t.messages, 1, "case %u", i);
		cr_expect_eq(t.bare, cases[i].bare, "case %u", i);
		for (unsigned k = 0; k < cases[i].count; k++)
			cr_expect_eq(memcmp(t.pool + 512 * k, t.src + 512 * k, 256), 0, "case %u, range %u", i, k);
		down();
	}
}

/* A deep persist, a session without trains and a window without room for them are answered message by message. */
Test(lane_train, is_not_sent_where_it_may_not_be, .timeout = LIMIT)
{
	static const struct { uint32_t caps; unsigned window; } cases[] = { { 0, 0 }, { CTL_CAP_TRAINS, 1 }, { CTL_CAP_TRAINS, 2 } };
	struct repl_range range;

	for (unsigned i = 0; i < 3; i++) {
		memset(&t, 0, sizeof(t));
		up(cases[i].caps, cases[i].window);
		range = part(4096, 1 << 20);
		cr_assert_eq(lane_write(t.lane, &range, 1, false), 0);
		cr_assert_eq(run(), 0, "%s", errmsg_get());
		cr_expect_eq(t.silent, 0, "case %u", i);
		cr_expect_eq(!t.bare, !cases[i].caps, "case %u", i);
		cr_expect_eq(memcmp(t.pool + 4096, t.src + 4096, 1 << 20), 0);
		down();
	}
}

/* What the lane makes of one answer to a train of 48 messages, of which the first 32 are on their way: the 16th and the 32nd
 * are to be answered. */
static int answered(uint64_t seq, unsigned status)
{
	struct repl_range range;
	int err = 0;

	memset(&t, 0, sizeof(t));
	up(CTL_CAP_TRAINS, 0);
	t.answers = false;
	range = part(0, 3 << 20);
	cr_assert_eq(lane_write(t.lane, &range, 1, false), 0);
	while (t.newest < LANE_RX_SLOTS) {
		far_step();
		cr_assert_eq(lane_poll(t.lane), 0, "%s", errmsg_get());
	}
	cr_assert_eq(t.asked, 2);
	far_say(seq, status);
	while (!err && !lane_news(t.lane)->round_trips) {
		far_step();
		err = lane_poll(t.lane);
	}
	down();
	return err;
}

Test(lane_train, takes_no_answer_that_is_not_due, .timeout = LIMIT)
{
	cr_expect_eq(answered(16, WIRE_OK), 0);
	cr_expect_eq(answered(16, WIRE_NO_SPACE), 0);
	cr_expect_eq(answered(0, WIRE_OK), -EPROTO);
	cr_expect_eq(answered(1, WIRE_OK), -EPROTO, "a silent one");
	cr_expect_eq(answered(15, WIRE_NO_SPACE), -EPROTO, "a silent one refused");
	cr_expect_eq(answered(17, WIRE_OK), -EPROTO, "one was skipped");
	cr_expect_eq(answered(32, WIRE_OK), -EPROTO, "one was skipped");
	cr_expect_eq(answered(33, WIRE_OK), -EPROTO, "not sent yet");
	cr_expect_eq(answered(UINT64_MAX, WIRE_OK), -EPROTO);
	cr_expect_eq(answered(7, WIRE_IO), -EIO, "the session's end");
	cr_expect_eq(answered(1, WIRE_BAD_PROTO), -EPROTO, "the session's end");
}

/* ---------------------------------------------------------------- a slow link */
/* The kernel paces what leaves the lane's socket. */
static void up_slowly(uint32_t caps, unsigned rate)
{
	up_noticing(caps, 0, SLOW_NOTICE_MS);
	cr_assert_eq(setsockopt(t.lane->ep->sock, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate)), 0);
}

/* Between two answers lies more than the link carries within the notice time. */
Test(lane_train, a_slow_link_is_no_dead_target, .timeout = LIMIT)
{
	struct repl_range range;
	uint64_t start;

	up_slowly(CTL_CAP_TRAINS, SLOW_BYTES);
	range = part(0, 3 << 20);
	start = channel_now_ns();
	cr_assert_eq(lane_write(t.lane, &range, 1, false), 0);
	cr_expect_eq(run(), 0, "%s", errmsg_get());
	cr_expect_gt((channel_now_ns() - start) / 1000000, 3 * SLOW_NOTICE_MS, "it was not slow");
	cr_expect_eq(memcmp(t.pool, t.src, 3 << 20), 0);
	down();
}

/* A stopped one: what its host takes of the 2 MiB that are on their way is all that prolongs its life. */
Test(lane_train, a_stopped_target_behind_a_slow_link_is_dead, .timeout = LIMIT)
{
	struct repl_range range;
	int err;

	up_slowly(CTL_CAP_TRAINS, SLOW_BYTES);
	range = part(0, 3 << 20);
	cr_assert_eq(lane_write(t.lane, &range, 1, false), 0);
	while (!(err = lane_poll(t.lane)))
		sched_yield();
	cr_expect_eq(err, -ETIMEDOUT, "%s", errmsg_get());
	down();
}

/* It takes every byte, and there is always another one behind the request: it is dead long before the last. */
Test(lane_train, a_target_that_only_takes_is_dead, .timeout = LIMIT)
{
	struct repl_range range;
	unsigned pushes = 0;
	int err;

	up_slowly(CTL_CAP_RMA, 16 * SLOW_BYTES);
	t.answers = false;
	range = part(0, 64);
	cr_assert_eq(lane_write(t.lane, &range, 1, false), 0);
	range = part(0, 1 << 20);
	while (!(err = lane_poll(t.lane))) {
		far_step();
		if (lane_ops(t.lane) == t.lane->op_next && !lane_full(t.lane)) {
			cr_assert_eq(lane_push(t.lane, &range, 1), 0);
			pushes++;
		}
	}
	cr_expect_eq(err, -ETIMEDOUT, "%s", errmsg_get());
	cr_expect_lt(pushes, LANE_OPS_MAX / 2);
	down();
}
