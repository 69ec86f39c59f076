/* The control server over a socket pair, without lanes: a whole conversation on a real pool, order of messages, and how
 * a session ends. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "codec.h"
#include "copy.h"
#include "poolhdr.h"
#include "rpmemd/server.h"

static char base[] = "/dev/shm/test_server.XXXXXX";
static struct config config = { .idle_ms = 1000 };
static struct server_cfg server = { .config = &config, .address = "127.0.0.1" };
static pthread_t thread;
static int peer = -1;
static int result;

static void *run(void *arg)
{
	(void)arg;
	result = server_run(&server);
	close(server.in);
	return NULL;
}

static void start(void)
{
	uint32_t status = 1;
	int fds[2];

	cr_assert(!socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	server.in = server.out = fds[0];
	peer = fds[1];
	cr_assert(!pthread_create(&thread, NULL, run, NULL));
	cr_assert_eq(read(peer, &status, 4), 4);
	cr_assert_eq(status, 0);
}

/* Waits for the server's own end. */
static int ended(void)
{
	cr_assert(!pthread_join(thread, NULL));
	close(peer);
	return result;
}

static void set_up(void)
{
	char path[128];
	FILE *f;

	signal(SIGPIPE, SIG_IGN);
	cr_assert(mkdtemp(base));
	snprintf(config.poolset_dir, sizeof(config.poolset_dir), "%s", base);
	snprintf(path, sizeof(path), "%s/a.set", base);
	f = fopen(path, "w");
	cr_assert(f && fprintf(f, "PMEMPOOLSET\n16M %s/part\n", base) > 0 && !fclose(f));
	server.stop_fd = eventfd(0, 0);
	start();
}

static void tear_down(void)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", base);
	cr_assert(!system(cmd));
	close(server.stop_fd);
}

TestSuite(server, .init = set_up, .fini = tear_down, .timeout = 30);

/* ---------------------------------------------------------------- messages */

static void receive(struct ctl_msg *answer)
{
	uint8_t buf[CTL_MSG_BYTES_MAX];
	uint32_t n = 0;

	cr_assert_eq(recv(peer, buf, sizeof(struct ctl_hdr_msg), MSG_WAITALL), sizeof(struct ctl_hdr_msg));
	cr_assert_eq(ctl_peek((struct ctl_hdr_msg *)buf, &n), 0);
	if (n)
		cr_assert_eq(recv(peer, buf + sizeof(struct ctl_hdr_msg), n, MSG_WAITALL), (ssize_t)n);
	cr_assert_eq(ctl_decode(buf, sizeof(struct ctl_hdr_msg) + n, answer), 0);
}

/* Sends msg, receives the answer; the status it carries. */
static unsigned ask(const struct ctl_msg *msg, struct ctl_msg *answer)
{
	uint8_t buf[CTL_MSG_BYTES_MAX];
	size_t len = 0;

	cr_assert_eq(ctl_encode(msg, buf, &len), 0);
	cr_assert_eq(write(peer, buf, len), (ssize_t)len);
	receive(answer);
	if (answer->type == CTL_ERROR)
		return answer->u.error.status;
	cr_expect_eq(answer->type, msg->type + CTL_ANSWER);
	return WIRE_OK;
}

static struct ctl_msg answer;

static unsigned ask_plain(unsigned type)
{
	struct ctl_msg m = { .type = (uint16_t)type };

	return ask(&m, &answer);
}

static unsigned hello(unsigned min, unsigned max, uint32_t features)
{
	struct ctl_msg m = { .type = CTL_HELLO, .u.hello = { (uint16_t)min, (uint16_t)max, features } };

	return ask(&m, &answer);
}

static unsigned open_pool(unsigned type, uint32_t flags)
{
	struct ctl_msg m = { .type = (uint16_t)type, .u.open = { .flags = flags | CTL_OPEN_NO_LANES, .set_name = "a.set" } };

	if (type == CTL_CREATE) {
		m.u.open.has_attr = 1;
		m.u.open.attr.major = POOLHDR_FS_MAJOR;
		strcpy((char *)m.u.open.attr.signature, flags & CTL_OPEN_FS ? POOLHDR_FS_SIGNATURE : "OTHER");
	}
	return ask(&m, &answer);
}

static unsigned format(uint64_t ring_bytes)
{
	struct ctl_msg m = { .type = CTL_FORMAT, .u.format = { .content_uuid = { 1, 2, 3 }, .ring_bytes = ring_bytes,
		.page = { .role = MEDIA_ROLE_REPLICA, .state = MEDIA_CONSISTENT } } };

	return ask(&m, &answer);
}

static unsigned fence_as(uint64_t expected, uint64_t epoch, uint8_t id)
{
	struct ctl_msg m = { .type = CTL_FENCE, .u.fence = { expected, epoch, { id } } };

	return ask(&m, &answer);
}

static unsigned fence(uint64_t expected, uint64_t epoch)
{
	return fence_as(expected, epoch, 9);
}

static unsigned page(uint32_t state, uint64_t fence_epoch)
{
	struct ctl_msg m = { .type = CTL_PAGE, .u.page = { .role = MEDIA_ROLE_REPLICA, .state = state,
		.fence_epoch = fence_epoch, .fence_id = { fence_epoch ? 9 : 0 } } };

	return ask(&m, &answer);
}

static unsigned chain(uint64_t seq)
{
	struct ctl_msg m = { .type = CTL_CHAIN, .u.chain.seq = seq };

	return ask(&m, &answer);
}

static unsigned reset(uint64_t seq, uint64_t used_blks)
{
	struct ctl_msg m = { .type = CTL_RESET, .u.reset = { .at = { seq, 3, { 7 } }, .used_blks = used_blks } };

	return ask(&m, &answer);
}

static void close_session(void)
{
	cr_expect_eq(ask_plain(CTL_CLOSE), WIRE_OK);
	cr_expect_eq(ended(), 0);
}

/* ---------------------------------------------------------------- conversations */

Test(server, a_copy_is_created_formatted_fenced_reset_and_found_again)
{
	cr_assert_eq(hello(0, 5, 0), WIRE_OK);
	cr_expect_eq(answer.u.hello.version_max, CTL_VERSION);
	cr_assert_eq(open_pool(CTL_CREATE, CTL_OPEN_FS), WIRE_OK);
	cr_expect_eq(answer.u.session.pool_size, 16u << 20);
	cr_expect_eq(answer.u.session.port, 0);
	cr_assert_eq(ask_plain(CTL_STATUS), WIRE_OK);
	cr_expect(answer.u.copy_info.blk_count == 0 && answer.u.copy_info.tail.seq == 0);
	cr_expect_eq(chain(0), WIRE_STATE); /* no copy yet */
	cr_expect_eq(format(123), WIRE_BAD_ARG);
	cr_expect_eq(format(0), WIRE_OK);
	cr_expect_eq(format(0), WIRE_STATE);
	cr_assert_eq(ask_plain(CTL_STATUS), WIRE_OK);
	cr_expect_eq(answer.u.copy_info.content_uuid[2], 3);
	cr_expect_eq(answer.u.copy_info.ring_bytes, copy_ring_bytes_default(16u << 20));
	cr_expect_eq(chain(0), WIRE_OK);
	cr_expect_eq(chain(1), WIRE_BAD_ARG);
	cr_expect_eq(reset(5, 1), WIRE_STATE); /* consistent */
	cr_expect_eq(fence(1, 2), WIRE_FENCED);
	cr_expect_eq(fence(0, 2), WIRE_OK);
	cr_expect_eq(fence(0, 3), WIRE_FENCED); /* lost the race */
	cr_expect_eq(fence(2, 1), WIRE_BAD_ARG);
	cr_expect_eq(fence(2, 2), WIRE_OK); /* the same again */
	cr_expect_eq(fence_as(2, 2, 8), WIRE_BAD_ARG); /* another promotion of the same epoch */
	cr_expect_eq(page(MEDIA_INCONSISTENT, 0), WIRE_FENCED); /* would undo the fence */
	cr_expect_eq(page(MEDIA_INCONSISTENT, 2), WIRE_OK);
	cr_expect_eq(reset(5, UINT64_MAX), WIRE_BAD_ARG);
	cr_expect_eq(reset(5, 1), WIRE_OK);
	cr_expect_eq(page(MEDIA_CONSISTENT, 2), WIRE_OK);
	close_session();

	start();
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_pool(CTL_OPEN, CTL_OPEN_FS), WIRE_OK);
	cr_assert_eq(ask_plain(CTL_STATUS), WIRE_OK);
	cr_expect_eq(answer.u.copy_info.head.seq, 5);
	cr_expect_eq(answer.u.copy_info.page.fence_epoch, 2);
	cr_expect_eq(answer.u.copy_info.page.fence_id[0], 9);
	cr_expect_eq(chain(5), WIRE_OK);
	cr_expect_eq(answer.u.point.hash[0], 7);
	close_session();
}

Test(server, kinds_of_pools_are_not_mixed_up)
{
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_pool(CTL_CREATE, 0), WIRE_OK);
	cr_expect_eq(ask_plain(CTL_STATUS), WIRE_NOT_FS);
	close_session();
	start();
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_expect_eq(open_pool(CTL_OPEN, CTL_OPEN_FS), WIRE_NOT_FS);
	cr_expect_eq(open_pool(CTL_CREATE, CTL_OPEN_FS), WIRE_EXISTS); /* the session goes on after a failure */
	cr_expect_eq(open_pool(CTL_CREATE, CTL_OPEN_FS | CTL_OPEN_REPLACE), WIRE_OK);
	close_session();
	start();
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_expect_eq(open_pool(CTL_OPEN, 0), WIRE_STATE);
	cr_expect_eq(open_pool(CTL_OPEN, CTL_OPEN_RDONLY | CTL_OPEN_FS), WIRE_OK);
	cr_expect_eq(format(0), WIRE_STATE);
	close_session();
}

Test(server, remove_is_a_session_of_its_own)
{
	struct ctl_msg m = { .type = CTL_REMOVE, .u.remove = { 0, "a.set" } };

	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_expect_eq(ask(&m, &answer), WIRE_NO_POOL);
	m.u.remove.flags = 3;
	cr_expect_eq(ask(&m, &answer), WIRE_OK);
	cr_expect_eq(ask(&m, &answer), WIRE_BAD_PROTO);
	cr_expect_eq(ended(), -EPROTO);
}

/* ---------------------------------------------------------------- ends */

Test(server, nothing_comes_before_hello)
{
	cr_expect_eq(open_pool(CTL_OPEN, 0), WIRE_BAD_PROTO);
	cr_expect_eq(ended(), -EPROTO);
}

Test(server, hello_comes_once)
{
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_expect_eq(hello(1, 1, 0), WIRE_BAD_PROTO);
	cr_expect_eq(ended(), -EPROTO);
}

Test(server, unknown_versions_and_features_are_refused)
{
	cr_expect_eq(hello(2, 9, 0), WIRE_BAD_VERSION);
	cr_expect_eq(ended(), -EPROTONOSUPPORT);
	start();
	cr_expect_eq(hello(1, 1, 1), WIRE_BAD_VERSION);
	cr_expect_eq(ended(), -EPROTONOSUPPORT);
}

Test(server, requests_on_a_pool_need_one)
{
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_expect_eq(ask_plain(CTL_STATUS), WIRE_BAD_PROTO);
	cr_expect_eq(ended(), -EPROTO);
}

Test(server, junk_ends_the_session)
{
	struct ctl_msg m;

	cr_assert_eq(write(peer, "GET / HTTP/1.0\r\n", 16), 16);
	receive(&m);
	cr_expect_eq(m.u.error.status, WIRE_BAD_PROTO);
	cr_expect_eq(ended(), -EPROTO);
}

/* Every byte comes alone, which is also every possible cut. */
Test(server, messages_may_come_in_pieces)
{
	struct ctl_msg m = { .type = CTL_HELLO, .u.hello = { 1, 1, 0 } };
	uint8_t buf[CTL_MSG_BYTES_MAX];
	size_t len;

	cr_assert_eq(ctl_encode(&m, buf, &len), 0);
	for (size_t i = 0; i < len; i++)
		cr_assert_eq(write(peer, buf + i, 1), 1);
	receive(&answer);
	cr_expect_eq(answer.type, CTL_HELLO + CTL_ANSWER);
	cr_assert_eq(write(peer, buf, len - 1), (ssize_t)len - 1);
	shutdown(peer, SHUT_WR);
	cr_expect_eq(ended(), -EPROTO); /* torn */
}

Test(server, a_closed_channel_frees_the_pool)
{
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_pool(CTL_CREATE, 0), WIRE_OK);
	shutdown(peer, SHUT_RDWR);
	cr_expect_eq(ended(), 0);
	start();
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_expect_eq(open_pool(CTL_OPEN, 0), WIRE_OK);
	close_session();
}

Test(server, the_stop_descriptor_ends_it_in_order)
{
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert(!eventfd_write(server.stop_fd, 1));
	cr_expect_eq(ended(), 0);
}

/* A CREATE that may replace a pool, but cannot have its lanes, is refused before the pool is gone. */
Test(server, a_replacing_create_without_lanes_loses_nothing)
{
	struct ctl_msg m = { .type = CTL_CREATE, .u.open = { .flags = CTL_OPEN_FS | CTL_OPEN_REPLACE, .lanes = 1,
		.provider = "tcp", .set_name = "a.set", .has_attr = 1, .attr.major = POOLHDR_FS_MAJOR } };
	struct stat before, after;
	char part[128];

	strcpy((char *)m.u.open.attr.signature, POOLHDR_FS_SIGNATURE);
	snprintf(part, sizeof(part), "%s/part", base);
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_pool(CTL_CREATE, CTL_OPEN_FS), WIRE_OK);
	close_session();
	cr_assert(!stat(part, &before));
	server.bind_address = "192.0.2.1"; /* of documentation (RFC 5737): nobody's */
	start();
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_expect_neq(ask(&m, &answer), WIRE_OK);
	cr_expect(strstr(answer.u.error.text, "192.0.2.1"), "%s", answer.u.error.text);
	cr_expect(!stat(part, &after) && after.st_ino == before.st_ino, "the pool is gone");
	close_session();
	server.bind_address = NULL;
}

/* ---------------------------------------------------------------- plain sessions */

static unsigned open_lanes(unsigned type, uint32_t flags, uint32_t idle_ms)
{
	struct ctl_msg m = { .type = (uint16_t)type, .u.open = { .flags = flags, .lanes = 2, .provider = "tcp",
		.idle_ms = idle_ms, .set_name = "a.set" } };

	if (type == CTL_CREATE) {
		m.u.open.has_attr = 1;
		m.u.open.attr.major = 1;
		strcpy((char *)m.u.open.attr.signature, "OTHER");
	}
	return ask(&m, &answer);
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static bool part_there(void)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/part", base);
	return !access(path, F_OK);
}

Test(server, patience_is_granted_up_to_the_configurations)
{
	static const struct { uint32_t asked, granted; } cases[] = { { 0, 1000 }, { 500, 500 }, { 1, 100 }, { 5000, 1000 } };

	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_lanes(CTL_CREATE, CTL_OPEN_NO_LANES, 0), WIRE_OK);
	close_session();
	for (unsigned i = 0; i < 4; i++) {
		start();
		cr_assert_eq(hello(1, 1, 0), WIRE_OK);
		cr_assert_eq(open_lanes(CTL_OPEN, CTL_OPEN_NO_LANES, cases[i].asked), WIRE_OK);
		cr_expect_eq(answer.u.session.idle_ms, cases[i].granted);
		close_session();
	}
}

/* PINGs keep it alive for far longer than silence would, and then silence ends it. */
Test(server, a_silent_plain_session_ends_and_a_ping_is_a_sign_of_life)
{
	uint64_t from;

	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_lanes(CTL_CREATE, CTL_OPEN_NO_LANES, 1000), WIRE_OK);
	for (unsigned i = 0; i < 15; i++) {
		usleep(100000);
		cr_assert_eq(ask_plain(CTL_PING), WIRE_OK);
	}
	from = now_ms();
	cr_expect_eq(ended(), -ETIMEDOUT);
	cr_expect_geq(now_ms() - from, 900);
	cr_expect(part_there());
}

/* Silence on the control channel is none of a file system's session, whose lanes are heard instead; without lanes it is. */
Test(server, a_silent_session_of_a_file_system_stays_while_it_has_lanes)
{
	struct ctl_msg m = { .type = CTL_OPEN, .u.open = { .flags = CTL_OPEN_FS, .lanes = 1, .provider = "tcp",
		.set_name = "a.set" } };

	config.idle_ms = 200;
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_pool(CTL_CREATE, CTL_OPEN_FS), WIRE_OK);
	cr_expect_eq(ended(), -ETIMEDOUT, "nobody is heard, and the pool is held");
	start();
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(ask(&m, &answer), WIRE_OK, "%s", answer.u.error.text);
	usleep(600000);
	cr_expect_eq(ask_plain(CTL_PING), WIRE_OK);
	close_session();
	config.idle_ms = 1000;
}

/* Bytes that never become a message are no sign of life. */
Test(server, half_a_message_is_no_sign_of_life)
{
	struct ctl_msg m = { .type = CTL_SET_ATTR };
	uint8_t buf[CTL_MSG_BYTES_MAX];
	size_t len = 0;

	cr_assert_eq(ctl_encode(&m, buf, &len), 0);
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_lanes(CTL_CREATE, CTL_OPEN_NO_LANES, 500), WIRE_OK);
	for (size_t i = 0; i + 1 < len && send(peer, buf + i, 1, MSG_NOSIGNAL) == 1; i++)
		usleep(20000); /* all of it would take longer than the session's patience */
	cr_expect_eq(ended(), -ETIMEDOUT);
	cr_expect(part_there());
}

/* Who asks and does not read holds the pool no longer than who says nothing. */
Test(server, a_peer_that_does_not_read_is_silent)
{
	struct ctl_msg m = { .type = CTL_PING };
	uint8_t buf[CTL_MSG_BYTES_MAX];
	size_t len = 0;

	cr_assert_eq(ctl_encode(&m, buf, &len), 0);
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_lanes(CTL_CREATE, CTL_OPEN_NO_LANES, 500), WIRE_OK);
	while (send(peer, buf, len, MSG_NOSIGNAL) == (ssize_t)len)
		;
	cr_expect_eq(ended(), -ETIMEDOUT);
	start();
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_expect_eq(open_lanes(CTL_OPEN, CTL_OPEN_NO_LANES, 0), WIRE_OK, "the pool is free");
	close_session();
}

/* Nor does it hold a file system's pool, though its lanes are silent for a good reason. */
Test(server, a_peer_that_does_not_read_holds_no_pool_with_lanes)
{
	struct ctl_msg m = { .type = CTL_OPEN, .u.open = { .flags = CTL_OPEN_FS, .lanes = 1, .provider = "tcp",
		.set_name = "a.set" } };
	uint8_t buf[CTL_MSG_BYTES_MAX];
	size_t len = 0;

	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_pool(CTL_CREATE, CTL_OPEN_FS), WIRE_OK);
	close_session();
	start();
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(ask(&m, &answer), WIRE_OK, "%s", answer.u.error.text);
	m = (struct ctl_msg){ .type = CTL_STATUS };
	cr_assert_eq(ctl_encode(&m, buf, &len), 0);
	while (send(peer, buf, len, MSG_NOSIGNAL) == (ssize_t)len)
		;
	cr_expect_eq(ended(), -ETIMEDOUT);
	start();
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_expect_eq(open_pool(CTL_OPEN, CTL_OPEN_FS), WIRE_OK, "the pool is free");
	close_session();
}

Test(server, who_never_opens_a_pool_holds_no_process)
{
	cr_expect_eq(ended(), -ETIMEDOUT, "no hello");
	start();
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_expect_eq(ended(), -ETIMEDOUT, "no open");
}

/* A pool made for lanes by an initiator that never said another word is not left behind. */
Test(server, a_pool_nobody_knows_of_is_removed_again)
{
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_lanes(CTL_CREATE, 0, 0), WIRE_OK);
	cr_assert(part_there());
	shutdown(peer, SHUT_RDWR);
	cr_expect_eq(ended(), 0);
	cr_expect(!part_there());
	start();
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_lanes(CTL_CREATE, 0, 0), WIRE_OK);
	cr_assert_eq(ask_plain(CTL_PING), WIRE_OK);
	shutdown(peer, SHUT_RDWR);
	cr_expect_eq(ended(), 0);
	cr_expect(part_there());
}

Test(server, only_plain_sessions_are_replaced_by_number_and_only_by_an_open)
{
	struct ctl_msg m = { .type = CTL_OPEN, .u.open = { .flags = CTL_OPEN_NO_LANES, .session_before = 5,
		.set_name = "a.set" } };

	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	cr_assert_eq(open_pool(CTL_CREATE, 0), WIRE_OK);
	close_session();
	start();
	cr_assert_eq(hello(1, 1, 0), WIRE_OK);
	m.u.open.flags = CTL_OPEN_NO_LANES | CTL_OPEN_FS;
	cr_expect_eq(ask(&m, &answer), WIRE_BAD_ARG);
	m.u.open.flags = CTL_OPEN_NO_LANES | CTL_OPEN_TAKEOVER;
	cr_expect_eq(ask(&m, &answer), WIRE_BAD_ARG);
	m.u.open.flags = CTL_OPEN_NO_LANES;
	cr_expect_eq(ask(&m, &answer), WIRE_OK, "nobody holds it any more");
	close_session();
}
