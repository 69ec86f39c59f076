/* Hostile peers on the port of a real rpmemd's lanes, and on a lane that they may have. They get nothing they have no token and
 * no key for; what they send is refused whole; the pool's bytes stay as they are, and the daemon serves on or ends by
 * itself. */
#include "tests/support/daemon_rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/resource.h>
#include "errmsg.h"
#include "rpmem/fabric_impl.h"

#define LIMIT 90
#define SLOT_BYTES (LANE_MSG_BYTES_MAX + 8192u) /* more than a target takes */
#define STEP_MS 20
#ifdef __SANITIZE_THREAD__
#define SHADOW_FACTOR 8u /* its own memory for each byte */
#else
#define SHADOW_FACTOR 1u
#endif

TestSuite(hostile_lane, .init = set_up, .fini = tear_down, .timeout = LIMIT);

/* ---------------------------------------------------------------- a lane by hand */
struct lane_peer {
	struct fab *fab;
	struct fab_ep *ep;
	uint64_t raddr, rkey;
};

static struct daemon lanes_start(unsigned lanes, uint32_t flags, struct ctl_session *session)
{
	struct daemon d = daemon_start();
	struct ctl_msg answer;

	hello(&d);
	answer = session_ask(&d, CTL_OPEN, lanes, flags);
	cr_assert_eq(status_of(&answer), WIRE_OK, "%s", answer.type == CTL_ERROR ? answer.u.error.text : "");
	*session = answer.u.session;
	return d;
}

static struct lane_connect_msg ticket(const struct ctl_session *session, unsigned lane)
{
	struct lane_connect_msg msg = { .magic = le32_put(LANE_MAGIC), .version = le16_put(LANE_VERSION),
		.lane = le16_put((uint16_t)lane), .session = le64_put(session->session) };

	memcpy(msg.token, session->token, sizeof(msg.token));
	return msg;
}

static int lane_try(const struct ctl_session *session, const void *data, size_t len, struct lane_peer *p)
{
	const struct fab_ep_cfg cfg = { .rx_count = LANE_RX_SLOTS, .tx_count = 4, .rx_bytes = SLOT_BYTES,
					.tx_bytes = SLOT_BYTES, .rma = true };
	struct lane_accept_msg accept;
	int err;

	cr_assert_eq(fab_dial("tcp", "127.0.0.1", (uint16_t)session->port, &p->fab), 0, "%s", errmsg_get());
	cr_assert_eq(fab_ep_new(p->fab, &cfg, &p->ep), 0, "%s", errmsg_get());
	cr_assert_eq(fab_ep_connect(p->ep, data, len), 0, "%s", errmsg_get());
	for (unsigned ms = 0; (err = fab_ep_established(p->ep, STEP_MS)) == -EAGAIN && ms < END_MS; ms += STEP_MS)
		;
	if (err)
		return err;
	cr_assert_geq(fab_ep_reply(p->ep, &accept, sizeof(accept)), sizeof(accept));
	p->raddr = le64_get(accept.raddr);
	p->rkey = le64_get(accept.rkey);
	return 0;
}

static void lane_leave(struct lane_peer *p)
{
	fab_ep_delete(p->ep);
	fab_close(p->fab);
}

/* The next message that comes, its length; or why the lane ended. */
static int lane_next(struct lane_peer *p, struct lane_ack_msg *ack)
{
	struct fab_event events[FAB_EVENTS_MAX];

	for (unsigned ms = 0; ms < END_MS; ms += STEP_MS) {
		int n = fab_poll(p->ep, events, 1);

		if (n < 0)
			return n;
		if (n && events[0].kind == FAB_RECV)
			return lane_ack_check(fab_rx(p->ep, events[0].slot), events[0].len, ack);
		n = n ? 0 : fab_wait(p->ep, STEP_MS);
		if (n < 0)
			return n;
	}
	return -ETIMEDOUT;
}

static void request_fill(struct lane_peer *p, uint16_t op, uint64_t seq)
{
	struct lane_req_msg *req = fab_tx(p->ep, 0);

	*req = (struct lane_req_msg){ .magic = le32_put(LANE_MAGIC), .op = le16_put(op), .seq = le64_put(seq) };
}

static void lane_works(struct lane_peer *p, uint64_t seq)
{
	struct lane_ack_msg ack;

	request_fill(p, LANE_PING, seq);
	lane_req_seal(fab_tx(p->ep, 0), sizeof(struct lane_req_msg));
	cr_assert_eq(fab_send(p->ep, 0, sizeof(struct lane_req_msg), false), 0);
	cr_assert_eq(lane_next(p, &ack), 0, "%s", errmsg_get());
	cr_expect_eq(le16_get(ack.status), WIRE_OK);
	cr_expect_eq(le64_get(ack.seq), seq);
}

static int port_connect(uint16_t port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_geq(fd, 0);
	cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

/* Who says nothing and who says anything does not keep out the one who has the token. */
Test(hostile_lane, silent_and_babbling_connections_disturb_nobody)
{
	enum { SILENT = 50, BABBLING = 30 };
	int fds[SILENT + BABBLING];
	struct ctl_session session;
	struct daemon d = lanes_start(1, 0, &session);
	struct lane_connect_msg msg = ticket(&session, 0);
	struct lane_peer lane;
	uint8_t junk[4096];

	csum_random(junk, sizeof(junk));
	for (unsigned i = 0; i < SILENT + BABBLING; i++) {
		fds[i] = port_connect((uint16_t)session.port);
		if (i >= SILENT) /* of every length, some of it the fabric's own header cut short */
			send(fds[i], junk, 1 + i * 37 % sizeof(junk), MSG_NOSIGNAL);
	}
	cr_assert_eq(lane_try(&session, &msg, sizeof(msg), &lane), 0, "%s", errmsg_get());
	lane_works(&lane, 1);
	for (unsigned i = 0; i < SILENT + BABBLING; i++)
		close(fds[i]);
	lane_works(&lane, 2);
	lane_leave(&lane);
	daemon_left(&d);
	pool_intact();
}

/* Nor when they are as many as the daemon may have descriptors. */
Test(hostile_lane, strangers_do_not_take_all_descriptors)
{
	enum { STRANGERS = 200 };
	const struct rlimit few = { STRANGERS, STRANGERS };
	struct ctl_session session;
	struct daemon d = lanes_start(2, 0, &session);
	struct lane_connect_msg msg = ticket(&session, 0);
	struct lane_peer lane, other;
	int fds[STRANGERS];

	cr_assert_eq(lane_try(&session, &msg, sizeof(msg), &other), 0, "%s", errmsg_get());
	lane_works(&other, 1);
	cr_assert_eq(prlimit(d.pid, RLIMIT_NOFILE, &few, NULL), 0);
	for (unsigned i = 0; i < STRANGERS; i++)
		fds[i] = port_connect((uint16_t)session.port);
	msg = ticket(&session, 1);
	cr_assert_eq(lane_try(&session, &msg, sizeof(msg), &lane), 0, "%s", errmsg_get());
	lane_works(&lane, 1);
	lane_works(&other, 2);
	for (unsigned i = 0; i < STRANGERS; i++)
		close(fds[i]);
	lane_leave(&lane);
	lane_leave(&other);
	daemon_left(&d);
	pool_intact();
}

Test(hostile_lane, a_wrong_ticket_is_refused)
{
	struct ctl_session session;
	struct daemon d = lanes_start(2, 0, &session);
	struct lane_connect_msg right = ticket(&session, 1), wrong[7];
	struct lane_peer refused = { 0 }, lane;

	for (unsigned i = 0; i < 7; i++)
		wrong[i] = right;
	wrong[0].token[0] ^= 1;
	wrong[1].token[WIRE_TOKEN_BYTES - 1] ^= 0x80;
	memset(wrong[2].token, 0, WIRE_TOKEN_BYTES);
	wrong[3].session = le64_put(session.session + 1);
	wrong[4].lane = le16_put(2);
	wrong[5].lane = le16_put(UINT16_MAX);
	wrong[6].version = le16_put(LANE_VERSION + 1);
	for (unsigned i = 0; i < 7; i++) {
		cr_expect_eq(lane_try(&session, &wrong[i], sizeof(right), &refused), -EACCES, "ticket %u", i);
		lane_leave(&refused);
	}
	cr_expect_eq(lane_try(&session, &right, 7, &refused), -EACCES, "a short ticket");
	lane_leave(&refused);
	cr_assert_eq(lane_try(&session, &right, sizeof(right), &lane), 0, "%s", errmsg_get());
	cr_expect_eq(lane_try(&session, &right, sizeof(right), &refused), -EACCES, "a ticket used twice");
	lane_leave(&refused);
	lane_works(&lane, 1);
	lane_leave(&lane);
	daemon_left(&d);
	pool_intact();
}

/* ---------------------------------------------------------------- on a lane of one's own */
static struct daemon lane_start(uint32_t flags, struct lane_peer *lane)
{
	struct ctl_session session;
	struct daemon d = lanes_start(1, flags, &session);
	struct lane_connect_msg msg = ticket(&session, 0);

	cr_assert_eq(lane_try(&session, &msg, sizeof(msg), lane), 0, "%s", errmsg_get());
	lane_works(lane, 1);
	return d;
}

enum request { SHORT, EMPTY, OVERSIZE, UNSEALED, BAD_MAGIC, BAD_SEQ, BAD_OP, PAST_END, WRAPS, BELOW_FLOOR, NO_RECORD,
	       RANGES_MANY, INLINE_LESS, REQUEST_COUNT };

/* A request with one thing wrong; its length. */
static size_t request_damaged(struct lane_peer *p, enum request what)
{
	struct lane_req_msg *req = fab_tx(p->ep, 0);
	struct lane_range_msg *range = (struct lane_range_msg *)(req + 1);
	size_t len = sizeof(*req) + sizeof(*range) + 64;
	uint64_t off = 8192;

	request_fill(p, what == BAD_OP ? 77 : what == NO_RECORD ? LANE_COMMIT : LANE_WRITE, what == BAD_SEQ ? 9 : 2);
	switch (what) {
	case PAST_END: off = POOL_BYTES - 63; break;
	case WRAPS: off = UINT64_MAX - 31; break;
	case BELOW_FLOOR: off = 4096 - 64; break;
	case BAD_MAGIC: req->magic = le32_put(1); break;
	default: break;
	}
	req->range_count = le32_put(what == RANGES_MANY ? UINT32_MAX : 1);
	req->inline_bytes = le32_put(what == INLINE_LESS ? 32 : 64);
	*range = (struct lane_range_msg){ le64_put(off), le32_put(64), le32_put(LANE_RANGE_INLINE) };
	memset(range + 1, 0xee, 64);
	if (what == EMPTY || what == SHORT)
		return what == EMPTY ? 1 : sizeof(*req) - 1;
	if (what == OVERSIZE)
		return SLOT_BYTES;
	if (what != UNSEALED)
		lane_req_seal(req, len);
	return len;
}

/* Refused by an answer, by the end of the lane, or both; nothing of it is stored. */
Test(hostile_lane, malformed_requests_store_nothing)
{
	for (unsigned what = 0; what < REQUEST_COUNT; what++) {
		struct lane_ack_msg ack = { 0 };
		struct lane_peer lane;
		struct daemon d = lane_start(0, &lane);
		int err;

		cr_assert_eq(fab_send(lane.ep, 0, request_damaged(&lane, what), false), 0);
		err = lane_next(&lane, &ack);
		cr_expect(err == -ECONNRESET || (!err && le16_get(ack.status)), "request %u: %d, status %u", what, err,
			  le16_get(ack.status));
		lane_leave(&lane);
		daemon_left(&d);
		cr_expect_eq(part_csum(), pool_csum, "request %u was stored", what);
	}
	pool_intact();
}

enum guess { WRONG_KEY, ZERO_KEY, BEYOND, ACROSS_END, READ_ONLY, READ_WRONG_KEY, GUESS_COUNT };

/* One-sided access with what the peer was not given: it loses the lane, the pool loses nothing. */
Test(hostile_lane, guessed_keys_and_ranges_reach_nothing)
{
	for (unsigned guess = 0; guess < GUESS_COUNT; guess++) {
		struct lane_ack_msg ack;
		struct lane_peer lane;
		struct daemon d = lane_start(guess == READ_ONLY ? CTL_OPEN_RDONLY : 0, &lane);
		uint8_t bytes[64] = { 0xee };
		struct fab_seg seg = { lane.raddr + 8192, bytes, sizeof(bytes) };
		uint64_t key = lane.rkey;

		if (guess == WRONG_KEY || guess == READ_WRONG_KEY)
			key ^= 1;
		else if (guess == ZERO_KEY)
			key = 0;
		else if (guess == BEYOND)
			seg.raddr = lane.raddr + POOL_BYTES;
		else if (guess == ACROSS_END)
			seg.raddr = lane.raddr + POOL_BYTES - 63;
		if (guess == READ_WRONG_KEY)
			cr_assert_eq(fab_read(lane.ep, key, &seg, 0), 0);
		else
			cr_assert_eq(fab_write(lane.ep, key, &seg, 1), 0);
		cr_expect_eq(lane_next(&lane, &ack), -ECONNRESET, "guess %u", guess);
		lane_leave(&lane);
		daemon_left(&d);
		cr_expect_eq(part_csum(), pool_csum, "guess %u reached the pool", guess);
	}
	pool_intact();
}

static unsigned long resident_kb(pid_t pid)
{
	char path[64], line[256];
	unsigned long kb = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "r");
	cr_assert(file);
	while (!kb && fgets(line, sizeof(line), file))
		sscanf(line, "VmRSS: %lu", &kb);
	fclose(file);
	return kb;
}

/* Until it has not grown for a while. */
static unsigned long resident_settled_kb(pid_t pid)
{
	unsigned long before, now = resident_kb(pid);

	do {
		before = now;
		poll(NULL, 0, 500);
		now = resident_kb(pid);
	} while (now > before);
	return now;
}

/* Many more answers than sockets hold: they do not pile up in the daemon. */
Test(hostile_lane, unread_answers_do_not_fill_the_memory)
{
	struct lane_peer lane;
	struct daemon d = lane_start(0, &lane);
	unsigned long before = resident_settled_kb(d.pid), after;

	for (unsigned i = 0; i < 300000; i++) {
		struct lane_req_msg *req = fab_tx(lane.ep, 0);

		request_fill(&lane, LANE_PING, 2 + i);
		lane_req_seal(req, sizeof(*req));
		cr_assert_eq(fab_inject(lane.ep, req, sizeof(*req)), 0);
	}
	after = resident_settled_kb(d.pid);
	cr_expect_lt(after, before + (32u << 10), "grown from %lu to %lu KiB", before, after);
	cr_assert_eq(kill(d.pid, SIGTERM), 0);
	daemon_ended(&d);
	lane_leave(&lane);
	pool_intact();
}

/* Reads whose answers are never taken: more than a socket holds. The daemon still ends when it is told to. */
Test(hostile_lane, unread_answers_do_not_hold_the_daemon)
{
	struct lane_peer lane;
	struct daemon d = lane_start(0, &lane);

	for (unsigned i = 0; i < 4 * LANE_RX_SLOTS; i++) {
		struct lane_req_msg *req = fab_tx(lane.ep, 0);
		struct lane_range_msg *range = (struct lane_range_msg *)(req + 1);

		request_fill(&lane, LANE_READ, 2 + i);
		req->range_count = le32_put(1);
		*range = (struct lane_range_msg){ le64_put(4096), le32_put(60000), le32_put(0) };
		lane_req_seal(req, sizeof(*req) + sizeof(*range));
		cr_assert_eq(fab_inject(lane.ep, req, sizeof(*req) + sizeof(*range)), 0);
	}
	cr_assert_eq(kill(d.pid, SIGTERM), 0);
	daemon_ended(&d);
	lane_leave(&lane);
	pool_intact();
}

/* One-sided reads in any number, whose answers are never taken: the daemon makes them, and hears of none. */
Test(hostile_lane, unread_reads_do_not_fill_the_memory)
{
	static char sink[64 << 10];
	struct iovec iov = { sink, sizeof(sink) };
	struct fi_rma_iov remote = { 0, sizeof(sink), 0 };
	struct fi_msg_rma msg = { .msg_iov = &iov, .iov_count = 1, .rma_iov = &remote, .rma_iov_count = 1 };
	struct lane_peer lane;
	struct daemon d = lane_start(0, &lane);
	unsigned long before = resident_settled_kb(d.pid), after;

	remote.addr = lane.raddr + 8192;
	remote.key = lane.rkey;
	for (unsigned i = 0; i < 300000; i++) /* beneath our own layer, which bounds them */
		cr_assert_eq(fi_readmsg(lane.ep->ep, &msg, 0), 0);
	after = resident_settled_kb(d.pid);
	cr_expect(!fab_taken(lane.ep, 0), "it goes on taking requests");
	cr_expect_lt(after, before + (SHADOW_FACTOR * 32u << 10), "grown from %lu to %lu KiB", before, after);
	cr_assert_eq(kill(d.pid, SIGTERM), 0);
	daemon_ended(&d);
	lane_leave(&lane);
	pool_intact();
}
