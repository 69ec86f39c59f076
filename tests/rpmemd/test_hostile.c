/* Hostile peers on a real rpmemd's control channel. Whatever they say, the pool's bytes stay as they are, the daemon answers or
 * ends within a bounded time and by itself (no signal, no sanitizer's report), and the next session opens the pool. */
#include "tests/support/daemon_rig.h"

#define LIMIT 90

TestSuite(hostile, .init = set_up, .fini = tear_down, .timeout = LIMIT);

/* ---------------------------------------------------------------- on the control channel */
enum damage { MAGIC, VERSION, LENGTH, CHECKSUM, TYPE_UNKNOWN, TYPE_ANSWER, TYPE_ERROR, TRAILING, DAMAGE_COUNT };

/* A HELLO with one thing wrong, its checksum right unless that is what is wrong. Its length. */
static size_t hello_damaged(enum damage damage, uint8_t buf[CTL_MSG_BYTES_MAX])
{
	struct ctl_msg m = { .type = CTL_HELLO, .u.hello = { CTL_VERSION, CTL_VERSION, 0 } };
	struct ctl_hdr_msg *hdr = (struct ctl_hdr_msg *)buf;
	size_t len = encoded(&m, buf);

	if (damage == TRAILING)
		buf[len++] = 0;
	switch (damage) {
	case MAGIC: hdr->magic = le32_put(0x20544547); break;
	case VERSION: hdr->version = le16_put(CTL_VERSION + 8); break;
	case LENGTH: hdr->len = le32_put(UINT32_MAX); break;
	case TRAILING: hdr->len = le32_put((uint32_t)(len - sizeof(*hdr))); break;
	case TYPE_UNKNOWN: hdr->type = le16_put(99); break;
	case TYPE_ANSWER: hdr->type = le16_put(CTL_HELLO + CTL_ANSWER); break;
	case TYPE_ERROR: hdr->type = le16_put(CTL_ERROR); break;
	default: break;
	}
	hdr->csum = le32_put(0);
	hdr->csum = le32_put(csum_crc32c(0, buf, len) + (damage == CHECKSUM));
	return len;
}

Test(hostile, a_damaged_message_is_refused_and_ends_the_session)
{
	_Alignas(8) uint8_t buf[CTL_MSG_BYTES_MAX];

	for (unsigned damage = 0; damage < DAMAGE_COUNT; damage++) {
		unsigned want = damage == VERSION ? WIRE_BAD_VERSION : WIRE_BAD_PROTO;
		struct daemon d = daemon_start();
		struct ctl_msg answer;

		raw_send(&d, buf, hello_damaged(damage, buf));
		answer = receive(&d);
		cr_expect_eq(status_of(&answer), want, "damage %u", damage);
		daemon_ended(&d);
	}
	pool_intact();
}

/* Nothing but the message at hand is ever held. */
Test(hostile, a_flood_of_junk_ends_the_session)
{
	static uint8_t junk[1 << 20];
	struct daemon d = daemon_start();
	ssize_t n = 1;

	csum_random(junk, sizeof(junk));
	for (unsigned i = 0; i < 64 && n > 0; i++)
		n = send(d.peer, junk, sizeof(junk), MSG_NOSIGNAL);
	cr_expect_lt(n, 0, "64 MiB of junk were taken");
	daemon_ended(&d);
	pool_intact();
}

/* Cut at every length, with a session that holds the pool: its lock is free afterwards. */
Test(hostile, a_message_cut_short_ends_the_session)
{
	struct ctl_msg m = { .type = CTL_SET_ATTR };
	uint8_t buf[CTL_MSG_BYTES_MAX];
	size_t len = encoded(&m, buf);

	for (size_t cut = 1; cut < len; cut += cut < 20 ? 3 : 29) {
		struct daemon d = daemon_start();
		struct ctl_msg answer;

		hello(&d);
		answer = session_ask(&d, CTL_OPEN, 0, 0);
		cr_assert_eq(status_of(&answer), WIRE_OK);
		raw_send(&d, buf, cut);
		daemon_left(&d);
	}
	pool_intact();
}

Test(hostile, requests_out_of_order_end_the_session)
{
	static const uint16_t before_open[] = { CTL_HELLO, CTL_STATUS, CTL_CHAIN, CTL_FENCE, CTL_CHECKPOINT, CTL_RESET,
						CTL_SET_ATTR };
	struct ctl_msg m = { 0 }, answer;
	struct daemon d;

	for (unsigned i = 0; i < sizeof(before_open) / sizeof(before_open[0]); i++) {
		m.type = before_open[i];
		d = daemon_start();
		hello(&d);
		answer = ask(&d, &m);
		cr_expect_eq(status_of(&answer), WIRE_BAD_PROTO, "request %u", m.type);
		daemon_ended(&d);
	}
	for (unsigned type = CTL_CREATE; type <= CTL_OPEN; type++) {
		d = daemon_start();
		hello(&d);
		answer = session_ask(&d, CTL_OPEN, 0, 0);
		cr_assert_eq(status_of(&answer), WIRE_OK);
		answer = session_ask(&d, type, 0, CTL_OPEN_REPLACE);
		cr_expect_eq(status_of(&answer), WIRE_BAD_PROTO);
		daemon_ended(&d);
	}
	m = (struct ctl_msg){ .type = CTL_REMOVE, .u.remove = { 3, "a.set" } };
	d = daemon_start();
	hello(&d);
	session_ask(&d, CTL_OPEN, 0, 0);
	answer = ask(&d, &m);
	cr_expect_eq(status_of(&answer), WIRE_BAD_PROTO, "removed while it is open");
	daemon_ended(&d);
	pool_intact();
}

Test(hostile, names_do_not_leave_the_pool_directory)
{
	static const char *const names[] = { "../a.set", "/etc/passwd", "", ".", "x/../../a.set", "a.set/../../x" };
	struct daemon d = daemon_start();

	hello(&d);
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct ctl_msg m = { .type = CTL_OPEN, .u.open.flags = CTL_OPEN_NO_LANES }, answer;

		strcpy(m.u.open.set_name, names[i]);
		answer = ask(&d, &m);
		cr_expect_neq(status_of(&answer), WIRE_OK, "'%s'", names[i]);
		m = (struct ctl_msg){ .type = CTL_REMOVE, .u.remove.flags = 2 };
		strcpy(m.u.remove.set_name, names[i]);
		answer = ask(&d, &m);
		cr_expect_neq(status_of(&answer), WIRE_OK, "'%s'", names[i]);
	}
	daemon_left(&d);
	pool_intact();
}

/* Requests whose answers nobody reads, until nothing more goes. */
static void stop_reading(const struct daemon *d)
{
	struct ctl_msg m = { .type = CTL_STATUS };
	uint8_t buf[CTL_MSG_BYTES_MAX];
	size_t len = encoded(&m, buf);
	struct pollfd fd = { d->peer, POLLOUT, 0 };

	while (poll(&fd, 1, 300) == 1)
		cr_assert_geq(send(d->peer, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT), 0);
}

static struct daemon deaf_peer(void)
{
	struct daemon d = daemon_start();
	struct ctl_msg answer;

	hello(&d);
	answer = session_ask(&d, CTL_OPEN, 0, 0);
	cr_assert_eq(status_of(&answer), WIRE_OK);
	stop_reading(&d);
	return d;
}

Test(hostile, a_peer_that_stops_reading_cannot_hold_the_pool)
{
	struct daemon d = deaf_peer(), taker;
	struct ctl_msg answer;

	daemon_left(&d);
	d = deaf_peer();
	cr_assert_eq(kill(d.pid, SIGTERM), 0);
	daemon_ended(&d);
	d = deaf_peer();
	taker = daemon_start();
	hello(&taker);
	answer = session_ask(&taker, CTL_OPEN, 0, CTL_OPEN_TAKEOVER);
	cr_expect_eq(status_of(&answer), WIRE_OK, "%s", answer.type == CTL_ERROR ? answer.u.error.text : "");
	daemon_ended(&d);
	close_session(&taker);
	pool_intact();
}
