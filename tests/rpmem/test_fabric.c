/* The fabric layer by itself: two ends in one process over a loopback tcp fabric. Each test of waiting runs both ways of sleeping:
 * on the connection's socket, and on the provider's wait objects. Waits are as long as the tests' limits, so that a lost
 * wake-up is a failed test, not a slow one. */
#include "rpmem/fabric_impl.h"
#include "tests/support/fab_pair.h"

#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIMIT 60

#define BOTH_WAYS(name)                                                   \
	static void name(bool provider_wait);                             \
	Test(fabric, name##_on_the_socket, .timeout = LIMIT)              \
	{                                                                 \
		name(false);                                              \
	}                                                                 \
	Test(fabric, name##_on_wait_objects, .timeout = LIMIT)            \
	{                                                                 \
		name(true);                                               \
	}                                                                 \
	static void name(bool provider_wait)

/* ---------------------------------------------------------------- tests */

/* Of every size a slot holds, one by one and as many as there are receives. */
BOTH_WAYS(messages_arrive_whole_and_in_order)
{
	uint8_t *bytes = bytes_new(SLOT_BYTES, 7);
	size_t lens[] = { 0, 1, 63, 64, 4096, 10007, SLOT_BYTES - sizeof(struct order) };
	unsigned count = sizeof(lens) / sizeof(lens[0]);

	pair_up(provider_wait, true);
	for (uint32_t seq = 0; seq < 30 * SLOTS; seq++) {
		unsigned window = seq / SLOTS % 2 ? SLOTS : 1;
		size_t len = lens[seq % count];
		struct order order = { CMD_SUM_PAYLOAD, seq, 0 };

		memcpy((uint8_t *)fab_tx(rig.near, seq % SLOTS) + sizeof(order), bytes, len);
		near_order(seq % SLOTS, &order, len);
		for (uint32_t past = seq + 1 - window; (seq + 1) % window == 0 && past <= seq; past++) {
			struct answer answer = near_answer();

			cr_expect_eq(answer.seq, past);
			cr_expect_eq(answer.csum, csum_crc32c(0, bytes, lens[past % count]));
		}
	}
	pair_down();
	free(bytes);
}

/* What a message behind the writes finds there is all of them; what is read back is what was written. */
BOTH_WAYS(writes_precede_the_message_behind_them)
{
	size_t len = 5000003;
	uint8_t *bytes = bytes_new(len, 3), *got = calloc(1, len);
	struct answer answer;

	cr_assert(got);
	pair_up(provider_wait, true);
	for (uint32_t round = 0; round < 3; round++) {
		bytes[round * 1000] ^= 0xff;
		near_write(bytes, len);
		near_order(0, &(struct order){ CMD_SUM_POOL, round, len }, 0);
		answer = near_answer();
		cr_expect_eq(answer.seq, round);
		cr_expect_eq(answer.csum, csum_crc32c(0, bytes, len), "round %u", round);
	}
	near_read(got, len);
	cr_expect_eq(memcmp(got, bytes, len), 0);
	pair_down();
	free(got);
	free(bytes);
}

/* The receiver does not poll until the sender has slept on a full socket; then everything arrives, although the sender
 * does nothing but sleep. */
BOTH_WAYS(a_full_socket_is_slept_on)
{
	uint8_t *bytes = bytes_new(POOL_BYTES, 5);
	struct fab_event events[FAB_EVENTS_MAX];
	struct fab_seg seg = { 0, bytes, FAB_RMA_CHUNK_BYTES_MAX };
	unsigned rounds = 0;
	uint64_t start = 0;

	pair_up(provider_wait, true);
	seg.raddr = rig.raddr;
	near_order(0, &(struct order){ CMD_PAUSE, 1, 0 }, 0);
	cr_assert_eq(near_answer().seq, 1);
	while (!start || now_ms() - start < 200) { /* until nothing has moved for so long */
		int n = fab_poll(rig.near, events, FAB_EVENTS_MAX);

		cr_assert_geq(n, 0, "%s", errmsg_get());
		if (fab_write_room(rig.near) >= seg.len) {
			cr_assert_eq(fab_write(rig.near, rig.rkey, &seg, 1), 0, "%s", errmsg_get());
			start = now_ms();
			cr_assert_lt(rounds++, 1000u, "a socket without bounds");
		} else if (!n) {
			cr_assert_eq(fab_wait(rig.near, 50), 0, "%s", errmsg_get());
		}
	}
	start = now_ms();
	cr_assert_eq(fab_wait(rig.near, 300), 0, "%s", errmsg_get());
	cr_expect_geq(now_ms() - start, 250u, "it did not sleep");
	cr_assert_eq(sem_post(&rig.go), 0);
	near_write(bytes, POOL_BYTES);
	near_order(1, &(struct order){ CMD_SUM_POOL, 2, POOL_BYTES }, 0);
	cr_expect_eq(near_answer().csum, csum_crc32c(0, bytes, POOL_BYTES));
	pair_down();
	free(bytes);
}

/* The other end only answers one-sided reads, of which it hears nothing. It sleeps on a full socket, and the rest comes when the
 * reader takes what is in it. */
BOTH_WAYS(answers_to_reads_leave_a_sleeper)
{
	const size_t len = 2 * FAB_RMA_CHUNK_BYTES_MAX;
	uint8_t *bytes = bytes_new(len, 11), *got = calloc(1, len);
	struct fab_event events[FAB_EVENTS_MAX];
	int small = 64 << 10;

	cr_assert(got);
	pair_up(provider_wait, true);
	cr_assert_eq(setsockopt(rig.far->sock, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	cr_assert_eq(setsockopt(rig.near->sock, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	memcpy(rig.pool, bytes, len);
	for (unsigned i = 0; i < 2; i++) {
		struct fab_seg seg = { rig.raddr + i * len / 2, got + i * len / 2, len / 2 };

		cr_assert_eq(fab_read(rig.near, rig.rkey, &seg, i), 0, "%s", errmsg_get());
	}
	do
		poll(NULL, 0, 300);
	while (fab_moved(rig.near)); /* nothing goes any more: it has gone to sleep */
	for (int read = 0; read < 2;) {
		int n = near_events(events);

		cr_assert_geq(n, 0, "%s", errmsg_get());
		for (int i = 0; i < n; i++)
			read += events[i].kind == FAB_READ;
	}
	cr_expect_eq(memcmp(got, bytes, len), 0);
	pair_down();
	free(got);
	free(bytes);
}

/* A transfer without an event of its own shows; when nothing moves any more, that shows as well. */
BOTH_WAYS(moved_bytes_are_seen)
{
	uint8_t *bytes = bytes_new(POOL_BYTES, 3);

	pair_up(provider_wait, true);
	near_read(bytes, POOL_BYTES);
	cr_expect(fab_moved(rig.near));
	while (fab_moved(rig.near)) /* the last acknowledgement may come late */
		poll(NULL, 0, 100);
	near_write(bytes, POOL_BYTES);
	cr_expect(fab_moved(rig.near));
	pair_down();
	free(bytes);
}

/* Receives that were given back are posted in groups; however many of them wait for that, rx_count more messages arrive. */
BOTH_WAYS(as_many_receives_as_promised_are_always_posted)
{
	struct fab_event events[FAB_EVENTS_MAX], held[SLOTS];
	struct order order = { CMD_BURST, 0, 0 };

	pair_up(provider_wait, true);
	for (unsigned given = 0; given < 3 * SLOTS; given++) {
		unsigned taken = 0;

		order.len = SLOTS;
		near_order(0, &order, 0);
		while (taken < SLOTS) {
			int n = near_events(events);

			cr_assert_geq(n, 0, "%s", errmsg_get());
			for (int i = 0; i < n; i++) {
				cr_assert_lt(taken, SLOTS);
				held[taken++] = events[i];
			}
		}
		for (unsigned i = 0; i < SLOTS; i++)
			cr_expect_eq(near_take(&held[i]).seq, i);
		order.len = given; /* taken one by one, so that any number of them waits when the next burst comes */
		near_order(1, &order, 0);
		for (unsigned i = 0; i < given; i++)
			cr_expect_eq(near_answer().seq, i);
	}
	pair_down();
}

/* An event loop: poll(2) without a limit of its own, asked about by fab_may_block when nothing was there. */
BOTH_WAYS(an_event_loop_misses_nothing)
{
	struct order order = { CMD_BURST, 0, 3000 };
	struct pollfd fds[2] = { { .events = POLLIN }, { .events = POLLIN } };
	uint32_t next = 0;

	pair_up(provider_wait, true);
	fab_fds(rig.near, &fds[0].fd, &fds[1].fd);
	cr_expect_geq(fds[0].fd, 0);
	cr_expect(provider_wait ? fds[1].fd >= 0 && fds[1].fd != fds[0].fd : fds[1].fd == -1);
	near_order(0, &order, 0);
	while (next < order.len) {
		struct fab_event events[FAB_EVENTS_MAX];
		int n = fab_poll(rig.near, events, FAB_EVENTS_MAX);

		cr_assert_geq(n, 0, "%s", errmsg_get());
		for (int i = 0; i < n; i++)
			if (events[i].kind == FAB_RECV)
				cr_assert_eq(near_take(&events[i]).seq, next++);
		if (!n && fab_may_block(rig.near))
			poll(fds, 2, -1);
	}
	pair_down();
}

/* Taken off the queue by a sleep, an event keeps everybody awake until it is polled. */
BOTH_WAYS(an_event_met_while_sleeping_forbids_sleep)
{
	struct fab_event events[FAB_EVENTS_MAX];
	uint64_t start;

	pair_up(provider_wait, true);
	near_order(0, &(struct order){ CMD_SUM_PAYLOAD, 9, 0 }, 0);
	while (fab_may_block(rig.near))
		cr_assert_eq(fab_wait(rig.near, FOREVER_MS), 0, "%s", errmsg_get());
	start = now_ms();
	cr_expect_eq(fab_wait(rig.near, FOREVER_MS), 0);
	cr_expect_lt(now_ms() - start, 1000u);
	while (fab_poll(rig.near, events, FAB_EVENTS_MAX) != 1 || events[0].kind != FAB_RECV)
		;
	cr_expect_eq(near_take(&events[0]).seq, 9);
	pair_down();
}

/* A sleeper is woken by the peer's end, and learns it from then on from every call. */
static void expect_end(void)
{
	struct fab_event events[FAB_EVENTS_MAX];
	struct order order = { 0 };
	int err;

	do
		err = near_events(events);
	while (err >= 0);
	cr_expect_eq(err, -ECONNRESET, "%s", errmsg_get());
	cr_expect_str_neq(errmsg_get(), "");
	cr_expect_eq(fab_poll(rig.near, events, FAB_EVENTS_MAX), -ECONNRESET);
	cr_expect_eq(fab_wait(rig.near, FOREVER_MS), -ECONNRESET);
	cr_expect_not(fab_may_block(rig.near), "nobody may sleep on a dead connection");
	fab_send(rig.near, 0, sizeof(order), false); /* allowed, and lost */
	fab_inject(rig.near, &order, sizeof(order));
	cr_expect_eq(fab_poll(rig.near, events, FAB_EVENTS_MAX), -ECONNRESET);
}

BOTH_WAYS(a_peer_that_closes_wakes_the_sleeper)
{
	pair_up(provider_wait, true);
	near_order(0, &(struct order){ CMD_CLOSE, 0, 0 }, 0);
	expect_end();
	cr_expect_eq(far_ended(), -ESHUTDOWN);
	pair_down();
}

/* The far end in a process of its own, which is killed while both ends sleep. */
static void far_process(int port_fd)
{
	struct fab_request req;

	if (fab_listen("tcp", "127.0.0.1", &rig.listener, &rig.port) ||
	    write(port_fd, &rig.port, sizeof(rig.port)) != sizeof(rig.port))
		_exit(1);
	while (fab_next(rig.listener, STEP_MS, &req) == -EAGAIN)
		;
	rig.far = ep_new(rig.listener, false, false);
	if (fab_ep_accept(rig.far, &req, WELCOME, sizeof(WELCOME)))
		_exit(1);
	while (fab_ep_established(rig.far, STEP_MS) == -EAGAIN)
		;
	far_main(NULL);
	_exit(0);
}

BOTH_WAYS(a_peer_that_is_killed_wakes_the_sleeper)
{
	int fds[2], err, status;
	pid_t pid;

	cr_assert_eq(pipe(fds), 0);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (!pid)
		far_process(fds[1]);
	cr_assert_eq(read(fds[0], &rig.port, sizeof(rig.port)), (ssize_t)sizeof(rig.port));
	cr_assert_eq(fab_dial("tcp", "127.0.0.1", rig.port, &rig.dialler), 0, "%s", errmsg_get());
	rig.near = ep_new(rig.dialler, true, provider_wait);
	cr_assert_eq(fab_ep_connect(rig.near, HELLO, sizeof(HELLO)), 0, "%s", errmsg_get());
	while ((err = fab_ep_established(rig.near, STEP_MS)) == -EAGAIN)
		;
	cr_assert_eq(err, 0, "%s", errmsg_get());
	near_order(0, &(struct order){ CMD_SUM_PAYLOAD, 4, 0 }, 0);
	cr_assert_eq(near_answer().seq, 4);
	cr_assert_eq(kill(pid, SIGKILL), 0);
	expect_end();
	cr_expect_eq(waitpid(pid, &status, 0), pid);
	fab_ep_delete(rig.near);
	fab_close(rig.dialler);
	close(fds[0]);
	close(fds[1]);
}

Test(fabric, a_refused_connection_says_so, .timeout = LIMIT)
{
	struct fab_request req;
	int err;

	pair_listen();
	pair_ask(false, &req);
	fab_reject(rig.listener, &req);
	while ((err = fab_ep_established(rig.near, STEP_MS)) == -EAGAIN)
		;
	cr_expect_eq(err, -EACCES, "%s", errmsg_get());
	fab_ep_delete(rig.near);
	fab_close(rig.dialler);
	fab_close(rig.listener);
}

/* Takes a connection and closes it at once, or when it was asked something. */
static void *give_up(void *arg)
{
	const int *fds = arg;
	int fd = accept(fds[0], NULL, NULL);
	char byte;

	if (fds[1])
		(void)!recv(fd, &byte, 1, 0);
	close(fd);
	return NULL;
}

Test(fabric, a_peer_that_gives_up_is_told, .timeout = LIMIT)
{
	for (int asked = 0; asked < 2; asked++) {
		struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
		int fds[] = { socket(AF_INET, SOCK_STREAM, 0), asked }, err;
		socklen_t len = sizeof(name);
		pthread_t thread;

		cr_assert(!bind(fds[0], (struct sockaddr *)&name, len) && !listen(fds[0], 1));
		cr_assert_eq(getsockname(fds[0], (struct sockaddr *)&name, &len), 0);
		cr_assert_eq(pthread_create(&thread, NULL, give_up, fds), 0);
		cr_assert_eq(fab_dial("tcp", "127.0.0.1", ntohs(name.sin_port), &rig.dialler), 0, "%s", errmsg_get());
		rig.near = ep_new(rig.dialler, false, false);
		err = fab_ep_connect(rig.near, HELLO, sizeof(HELLO));
		while (!err || err == -EAGAIN)
			err = fab_ep_established(rig.near, STEP_MS);
		cr_expect_eq(err, -ECONNRESET, "asked %d: %d %s", asked, err, errmsg_get());
		cr_expect_not_null(strstr(errmsg_get(), "ended the fabric connection"), "asked %d: %s", asked, errmsg_get());
		fab_ep_delete(rig.near);
		fab_close(rig.dialler);
		pthread_join(thread, NULL);
		close(fds[0]);
	}
}

Test(fabric, nobody_listens, .timeout = LIMIT)
{
	int err;

	pair_listen();
	fab_unlisten(rig.listener);
	rig.near = ep_new(rig.dialler, false, false);
	err = fab_ep_connect(rig.near, HELLO, sizeof(HELLO));
	while (!err || err == -EAGAIN)
		err = fab_ep_established(rig.near, STEP_MS);
	cr_expect_lt(err, 0);
	fab_ep_delete(rig.near);
	fab_close(rig.dialler);
	fab_close(rig.listener);
}

Test(fabric, too_many_bytes_to_inject_are_refused, .timeout = LIMIT)
{
	uint8_t bytes[FAB_INJECT_BYTES_MAX + 1] = { 0 };

	pair_up(false, true);
	cr_expect_eq(fab_inject(rig.near, bytes, sizeof(bytes)), -EMSGSIZE);
	near_order(0, &(struct order){ CMD_SUM_PAYLOAD, 1, 0 }, 0);
	cr_expect_eq(near_answer().seq, 1, "the refusal hurt the connection");
	pair_down();
}

/* What a peer that may connect can try on the memory: nothing of it is stored, and it loses its connection. */
static void expect_refused(bool writable, uint64_t off, uint64_t key_damage, size_t len)
{
	uint8_t bytes[64];
	struct fab_event events[FAB_EVENTS_MAX];
	struct fab_seg seg = { 0, bytes, len };
	int err = 0;

	memset(bytes, 0xee, sizeof(bytes));
	pair_up(false, writable);
	seg.raddr = rig.raddr + off;
	cr_assert_eq(fab_write(rig.near, rig.rkey ^ key_damage, &seg, 1), 0);
	while (err >= 0)
		err = near_events(events);
	cr_expect_lt(far_ended(), 0);
	for (size_t i = 0; i < POOL_BYTES; i += POOL_BYTES - 4096) /* where the tries aimed: start and end */
		for (size_t j = 0; j < 4096; j++)
			cr_assert_eq(rig.pool[i + j], 0);
	pair_down();
}

Test(fabric, a_wrong_key_is_refused, .timeout = LIMIT)
{
	expect_refused(true, 0, 1, 64);
}

Test(fabric, a_range_past_the_end_is_refused, .timeout = LIMIT)
{
	expect_refused(true, POOL_BYTES - 63, 0, 64);
}

Test(fabric, a_write_to_memory_for_reading_is_refused, .timeout = LIMIT)
{
	expect_refused(false, 0, 0, 64);
}
