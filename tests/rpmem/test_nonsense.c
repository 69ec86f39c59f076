/* The initiator against targets that talk nonsense. On the control channel: a child that prints what the test prepared and
 * then hangs or ends. On the fabric: a listener of this process that accepts and answers wrongly. Everything ends in an error
 * with a readable cause, within the link's own time limits, and leaves no child behind. */
#include <criterion/criterion.h>
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "codec.h"
#include "errmsg.h"
#include "fabric.h"
#include "repl.h"
#include "rpmem/channel.h"

#define LIMIT 120
#define CONNECT_MS 1500
#define NOTICE_MS 1500
#define SLACK_MS 8000 /* a loaded machine, a slow sanitizer; a wait that does not end is far longer */
#define POOL_BYTES (64ull << 20)
#define STEP_MS 20

static char dir[64], command[PATH_MAX];
static uint8_t said[8 * CTL_MSG_BYTES_MAX];
static size_t said_len;

/* ---------------------------------------------------------------- what the child says */
static void say(const void *bytes, size_t len)
{
	cr_assert_leq(said_len + len, sizeof(said));
	memcpy(said + said_len, bytes, len);
	said_len += len;
}

static void say_status(uint32_t status)
{
	le32_t wire = le32_put(status);

	say(&wire, sizeof(wire));
}

static void say_msg(const struct ctl_msg *msg)
{
	uint8_t buf[CTL_MSG_BYTES_MAX];
	size_t len = 0;

	cr_assert_eq(ctl_encode(msg, buf, &len), 0);
	say(buf, len);
}

static void say_hello(uint16_t min, uint16_t max, uint32_t features)
{
	struct ctl_msg m = { .type = CTL_HELLO + CTL_ANSWER, .u.hello = { min, max, features } };

	say_msg(&m);
}

/* Start status and HELLO as they should be. */
static void say_begin(void)
{
	say_status(0);
	say_hello(CTL_VERSION, CTL_VERSION, 0);
}

static struct ctl_msg session_good(uint16_t port)
{
	struct ctl_msg m = { .type = CTL_OPEN + CTL_ANSWER, .u.session = { .session = 7, .pool_size = POOL_BYTES, .lanes = 1,
		.port = port, .address = "127.0.0.1", .method = WIRE_METHOD_GPSPM, .msg_bytes_max = LANE_MSG_BYTES_MAX,
		.rx_slots = LANE_RX_SLOTS } };

	return m;
}

static void say_error(uint16_t status, const char *text)
{
	struct ctl_msg m = { .type = CTL_ERROR, .u.error.status = status };

	snprintf(m.u.error.text, sizeof(m.u.error.text), "%s", text);
	say_msg(&m);
}

/* ---------------------------------------------------------------- the link to it */
static void file_put(const char *name, const void *bytes, size_t len)
{
	char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "w");
	cr_assert(file);
	cr_assert_eq(fwrite(bytes, 1, len, file), len);
	cr_assert_eq(fclose(file), 0);
	cr_assert_eq(chmod(path, 0700), 0);
}

static struct repl_link *link_start(bool hangs)
{
	struct poolset_replica replica = { .target = (char *)"@local", .set_name = (char *)"r.set", .name = "r" };
	struct repl_cfg cfg = { .provider = "tcp", .command = command, .lanes = 1, .notice_ms = NOTICE_MS,
				.connect_ms = CONNECT_MS, .pool_size = POOL_BYTES };
	struct repl_link *link = NULL;
	char script[256];

	file_put("said", said, said_len);
	snprintf(script, sizeof(script), "#!/bin/sh\ncat %s/said\n%s\n", dir, hangs ? "exec sleep 600" : "exit 3");
	file_put("fake", script, strlen(script));
	cr_assert_eq(repl_link_open(&replica, &cfg, &link), 0);
	return link;
}

/* Closes a link that is down: its cause is readable, closing waits for nobody, the child is gone. */
static void link_end(struct repl_link *link, const char *what)
{
	uint64_t start = channel_now_ns();
	siginfo_t child;

	cr_expect_eq(link->state, REPL_DOWN, "%s", what);
	cr_expect_str_neq(link->err_text, "", "%s", what);
	for (const char *c = link->err_text; *c; c++)
		cr_expect(isprint((unsigned char)*c) || (*c & 0x80), "%s: control character 0x%02x", what, *c);
	link->ops->close(link);
	cr_expect_lt((channel_now_ns() - start) / 1000000, (uint64_t)SLACK_MS, "%s", what);
	while (!waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) && (channel_now_ns() - start) / 1000000 < SLACK_MS)
		poll(NULL, 0, 1); /* the link's own thread reaps what it killed */
	cr_expect(waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) && errno == ECHILD, "%s: a child is left", what);
	said_len = 0;
}

/* What was said so far leads to this error; want 0: to any. */
static void expect_failure(int want, bool hangs, const char *what)
{
	uint64_t start = channel_now_ns(), ms;
	struct repl_link *link = link_start(hangs);
	int err = repl_link_wait(link);

	ms = (channel_now_ns() - start) / 1000000;
	cr_expect_lt(err, 0, "%s", what);
	cr_expect(!want || err == want, "%s: %d (%s), wanted %d", what, err, link->err_text, want);
	cr_expect_lt(ms, (uint64_t)CONNECT_MS + SLACK_MS, "%s", what);
	link_end(link, what);
}

static void set_up(void)
{
	signal(SIGPIPE, SIG_IGN);
	strcpy(dir, "/dev/shm/test_nonsense.XXXXXX");
	cr_assert(mkdtemp(dir));
	snprintf(command, sizeof(command), "%s/fake", dir);
}

static void tear_down(void)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/said", dir);
	unlink(path);
	unlink(command);
	cr_expect_eq(rmdir(dir), 0);
}

TestSuite(nonsense, .init = set_up, .fini = tear_down, .timeout = LIMIT);

/* ---------------------------------------------------------------- control channel */
Test(nonsense, start_status)
{
	expect_failure(0, false, "nothing, and an end");
	expect_failure(-ETIMEDOUT, true, "nothing, and no end");
	say("\0\0", 2);
	expect_failure(-ETIMEDOUT, true, "half a status");
	say_status(EACCES);
	expect_failure(-EACCES, false, "an errno");
	say("Welcome to this host\n", 21);
	expect_failure(-EPROTO, true, "a greeting");
	say_status(UINT32_MAX);
	expect_failure(-EPROTO, true, "a number that is no errno");
}

Test(nonsense, hello)
{
	struct ctl_hdr_msg hdr = { .magic = le32_put(CTL_MAGIC), .version = le16_put(CTL_VERSION),
				   .type = le16_put(CTL_HELLO + CTL_ANSWER), .len = le32_put(UINT32_MAX) };

	say_status(0);
	expect_failure(-ETIMEDOUT, true, "no hello");
	say_status(0);
	say("GET / HTTP/1.0\r\n\r\n", 18);
	expect_failure(-EPROTO, true, "another protocol");
	say_status(0);
	say(&hdr, sizeof(hdr));
	expect_failure(-EPROTO, true, "an endless message");
	hdr.len = le32_put(8);
	say_status(0);
	say(&hdr, sizeof(hdr));
	say("12345678", 8);
	expect_failure(-EPROTO, true, "a wrong checksum");
	say_status(0);
	say(&hdr, sizeof(hdr));
	say("1234", 4);
	expect_failure(-ETIMEDOUT, true, "half a message");
	say_status(0);
	say(&hdr, sizeof(hdr));
	say("1234", 4);
	expect_failure(-ECONNRESET, false, "half a message and an end");
	hdr.version = le16_put(CTL_VERSION + 1);
	say_status(0);
	say(&hdr, sizeof(hdr));
	expect_failure(-EPROTONOSUPPORT, true, "another header version");
	say_status(0);
	say_hello(CTL_VERSION + 1, CTL_VERSION + 9, 0);
	expect_failure(-EPROTONOSUPPORT, true, "later versions only");
	say_status(0);
	say_hello(CTL_VERSION, CTL_VERSION, 1);
	expect_failure(-EPROTONOSUPPORT, true, "an unknown feature");
}

Test(nonsense, answers_to_open)
{
	static const uint16_t others[] = { CTL_HELLO + CTL_ANSWER, CTL_STATUS + CTL_ANSWER, CTL_CLOSE + CTL_ANSWER, CTL_STATUS };
	struct ctl_msg m;

	say_begin();
	expect_failure(-ETIMEDOUT, true, "no session");
	say_begin();
	expect_failure(-ECONNRESET, false, "an end instead of a session");
	for (unsigned i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		m = (struct ctl_msg){ .type = others[i] };
		say_begin();
		say_msg(&m);
		expect_failure(-EPROTO, true, "the answer to another question");
	}
	for (unsigned status = 1; status < WIRE_STATUS_COUNT; status++) {
		say_begin();
		say_error((uint16_t)status, "\033[2Jbeware\r\n\tof\a this");
		expect_failure(wire_status_err(status), true, wire_status_name((uint16_t)status));
	}
}

/* A session that is well formed and cannot be. */
Test(nonsense, numbers_of_a_session)
{
	struct ctl_msg m = session_good(1);

	m.u.session.lanes = 0;
	say_begin();
	say_msg(&m);
	expect_failure(-EPROTO, true, "no lanes");
	m = session_good(1);
	m.u.session.lanes = WIRE_LANES_MAX;
	say_begin();
	say_msg(&m);
	expect_failure(-EPROTO, true, "more lanes than asked for");
	m = session_good(0);
	say_begin();
	say_msg(&m);
	expect_failure(-EPROTO, true, "no port");
	m = session_good(1);
	m.u.session.pool_size = POOL_BYTES - 1;
	say_begin();
	say_msg(&m);
	expect_failure(-EFBIG, true, "a small pool");
	m = session_good(1);
	say_begin();
	say_msg(&m);
	expect_failure(0, true, "a port nobody listens on");
	strcpy(m.u.session.address, "no address, but words");
	say_begin();
	say_msg(&m);
	expect_failure(-EPROTO, true, "no address");
	strcpy(m.u.session.address, "localhost");
	say_begin();
	say_msg(&m);
	expect_failure(-EPROTO, true, "a name, which a name server would be asked for");
}

/* ---------------------------------------------------------------- a port that is no fabric */
static int port_listen(uint16_t *port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(at);

	cr_assert_geq(fd, 0);
	cr_assert_eq(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	cr_assert_eq(listen(fd, 8), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	*port = ntohs(at.sin_port);
	return fd;
}

static void *babble(void *arg)
{
	static const char junk[] = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n and then some more of it";
	int fd = accept(*(int *)arg, NULL, NULL);

	if (fd >= 0) {
		(void)!send(fd, junk, sizeof(junk), MSG_NOSIGNAL);
		close(fd);
	}
	return NULL;
}

Test(nonsense, ports_that_are_no_fabric)
{
	struct ctl_msg m;
	pthread_t thread;
	uint16_t port;
	int fd = port_listen(&port);

	m = session_good(port);
	say_begin();
	say_msg(&m);
	expect_failure(-ETIMEDOUT, true, "a port that says nothing");
	close(fd);
	fd = port_listen(&port);
	m = session_good(port);
	say_begin();
	say_msg(&m);
	cr_assert_eq(pthread_create(&thread, NULL, babble, &fd), 0);
	expect_failure(0, true, "a port that speaks something else");
	pthread_join(thread, NULL);
	close(fd);
}

/* ---------------------------------------------------------------- a lane that answers nonsense */
enum nonsense { ACCEPT_SHORT, ACCEPT_MAGIC, ACCEPT_LANE, ANSWER_NONE, ANSWER_JUNK, ANSWER_SHORT, ANSWER_SEQ, ANSWER_TWICE,
		ANSWER_LONG, ANSWER_OVERSIZE, ANSWER_STATUS, ANSWER_UNASKED, LANE_CLOSES, NONSENSE_COUNT };
static const char *const nonsense_names[NONSENSE_COUNT] = { "short accept", "accept's magic", "accept's lane", "no answers",
	"junk", "short answer", "another sequence number", "an answer twice", "bytes nobody asked for", "an oversized message",
	"an unknown status", "an answer to nothing", "the lane's end" };

static struct {
	enum nonsense what;
	struct fab *fab;
	struct fab_ep *ep;
	uint16_t port;
	bool stop; /* atomic */
} far;

static void far_reply(uint64_t seq, size_t len)
{
	struct lane_ack_msg *ack = fab_tx(far.ep, 0);

	memset(ack, 0x77, sizeof(*ack) + 4096);
	*ack = (struct lane_ack_msg){ .magic = le32_put(LANE_MAGIC), .op = le16_put(LANE_PING), .seq = le64_put(seq) };
	if (far.what == ANSWER_LONG) {
		ack->op = le16_put(LANE_READ);
		ack->read_bytes = le32_put(4096);
		len = sizeof(*ack) + 4096;
	}
	if (far.what == ANSWER_STATUS)
		ack->status = le16_put(WIRE_STATUS_COUNT);
	lane_ack_seal(ack);
	if (far.what == ANSWER_JUNK)
		memset(ack, 0xa5, sizeof(*ack));
	fab_send(far.ep, 0, len, false);
}

static void far_answer(uint64_t seq)
{
	switch (far.what) {
	case ANSWER_NONE: break;
	case ANSWER_SHORT: far_reply(seq, sizeof(struct lane_ack_msg) - 1); break;
	case ANSWER_SEQ: far_reply(seq + 1, sizeof(struct lane_ack_msg)); break;
	case ANSWER_OVERSIZE: far_reply(seq, 2 * LANE_MSG_BYTES_MAX); break;
	case LANE_CLOSES: fab_ep_shutdown(far.ep); break;
	case ANSWER_TWICE:
		far_reply(seq, sizeof(struct lane_ack_msg));
		/* fall through */
	default: far_reply(seq, sizeof(struct lane_ack_msg));
	}
}

static bool far_stopped(void)
{
	return __atomic_load_n(&far.stop, __ATOMIC_ACQUIRE);
}

static int far_accept(void)
{
	struct fab_ep_cfg cfg = { .rx_count = LANE_RX_SLOTS, .tx_count = 1, .rx_bytes = LANE_MSG_BYTES_MAX,
				  .tx_bytes = 2 * LANE_MSG_BYTES_MAX };
	struct lane_accept_msg accept = { .magic = le32_put(LANE_MAGIC), .version = le16_put(LANE_VERSION) };
	struct fab_request req;
	int err = -EAGAIN;

	while (err == -EAGAIN && !far_stopped())
		err = fab_next(far.fab, STEP_MS, &req);
	if (err || fab_ep_new(far.fab, &cfg, &far.ep))
		return -ECANCELED;
	if (far.what == ACCEPT_MAGIC)
		accept.magic = le32_put(1);
	if (far.what == ACCEPT_LANE)
		accept.lane = le16_put(5);
	err = fab_ep_accept(far.ep, &req, &accept, far.what == ACCEPT_SHORT ? 8 : sizeof(accept));
	while (!err && (err = fab_ep_established(far.ep, STEP_MS)) == -EAGAIN && !far_stopped())
		err = 0;
	return err;
}

static void *far_main(void *arg)
{
	struct fab_event events[1];
	int err = far_accept(), n;

	(void)arg;
	if (!err && far.what == ANSWER_UNASKED)
		far_reply(1, sizeof(struct lane_ack_msg));
	while (!err && !far_stopped()) {
		n = fab_poll(far.ep, events, 1);
		if (n > 0 && events[0].kind == FAB_RECV)
			far_answer(le64_get(((const struct lane_req_msg *)fab_rx(far.ep, events[0].slot))->seq));
		if (n > 0 && events[0].kind == FAB_RECV)
			n = fab_recv(far.ep, events[0].slot);
		else if (!n)
			n = fab_wait(far.ep, STEP_MS);
		err = n < 0 ? n : 0;
	}
	return NULL;
}

/* Polls as an owner does until the link is down; how long it was up goes to *ms. */
static void await_down(struct repl_link *link, uint64_t *ms)
{
	uint64_t start = channel_now_ns();

	while (link->ops->poll(link) == REPL_UP && (channel_now_ns() - start) / 1000000 < 10ull * NOTICE_MS + SLACK_MS)
		poll(NULL, 0, 5);
	*ms = (channel_now_ns() - start) / 1000000;
}

/* rma: the initiator's receives hold an answer and no more. */
static void lane_nonsense(enum nonsense what, bool rma)
{
	struct ctl_msg m, status = { .type = CTL_STATUS + CTL_ANSWER };
	struct repl_link *link;
	pthread_t thread;
	uint64_t ms = 0;

	memset(&far, 0, sizeof(far));
	far.what = what;
	cr_assert_eq(fab_listen("tcp", "127.0.0.1", &far.fab, &far.port), 0, "%s", errmsg_get());
	cr_assert_eq(pthread_create(&thread, NULL, far_main, NULL), 0);
	m = session_good(far.port);
	m.u.session.caps = rma ? CTL_CAP_RMA : 0;
	say_begin();
	say_msg(&m);
	say_msg(&status);
	link = link_start(true);
	if (!repl_link_wait(link))
		await_down(link, &ms);
	cr_expect_lt(ms, (uint64_t)NOTICE_MS + SLACK_MS, "%s", nonsense_names[what]);
	link_end(link, nonsense_names[what]);
	__atomic_store_n(&far.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	fab_ep_delete(far.ep);
	fab_close(far.fab);
}

Test(nonsense, lanes_that_answer_nonsense)
{
	for (unsigned what = 0; what < NONSENSE_COUNT; what++)
		lane_nonsense(what, false);
}

Test(nonsense, lanes_for_one_sided_operations_that_answer_nonsense)
{
	for (unsigned what = 0; what < NONSENSE_COUNT; what++)
		lane_nonsense(what, true);
}

/* Bytes on the control channel that no request asked for. */
Test(nonsense, talk_out_of_turn)
{
	struct ctl_msg m, status = { .type = CTL_STATUS + CTL_ANSWER };
	struct repl_link *link;
	pthread_t thread;
	uint64_t ms = 0;

	far.what = ANSWER_NONE;
	cr_assert_eq(fab_listen("tcp", "127.0.0.1", &far.fab, &far.port), 0, "%s", errmsg_get());
	cr_assert_eq(pthread_create(&thread, NULL, far_main, NULL), 0);
	m = session_good(far.port);
	say_begin();
	say_msg(&m);
	say_msg(&status);
	say("psst", 4);
	link = link_start(true);
	if (!repl_link_wait(link))
		await_down(link, &ms);
	cr_expect_eq(link->err, -EPROTO, "%s", link->err_text);
	cr_expect_lt(ms, (uint64_t)NOTICE_MS + SLACK_MS);
	link_end(link, "talk");
	__atomic_store_n(&far.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	fab_ep_delete(far.ep);
	fab_close(far.fab);
}
