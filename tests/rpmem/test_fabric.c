/* The fabric layer by itself: two ends in one process over a loopback tcp fabric, the far one driven by a thread of its own
 * that does what messages tell it. Each test of waiting runs both ways of sleeping: on the connection's socket, and on the
 * provider's wait objects. Waits are as long as the tests' limits, so that a lost wake-up is a failed test, not a slow one. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "csum.h"
#include "errmsg.h"
#include "fabric.h"

#define LIMIT 60
#define FOREVER_MS 600000 /* longer than any limit */
#define STEP_MS 20
#define SLOTS 8u
#define SLOT_BYTES (64u << 10)
#define POOL_BYTES (8u << 20)
#define HELLO "may I come in"
#define WELCOME "yes"

enum cmd { CMD_SUM_PAYLOAD, CMD_SUM_POOL, CMD_PAUSE, CMD_BURST, CMD_CLOSE };
struct order {
	uint32_t cmd, seq;
	uint64_t len; /* SUM_POOL: bytes from the pool's start; BURST: answers */
};
struct answer {
	uint32_t seq, csum;
};

static struct {
	struct fab *listener, *dialler;
	struct fab_ep *near, *far;
	uint8_t *pool;       /* the far end's; the near one never looks at it */
	uint64_t raddr, rkey;
	uint16_t port;
	pthread_t thread;
	bool started;
	sem_t go;            /* ends a PAUSE */
	_Atomic int far_err; /* why the far end's loop ended */
} rig;

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---------------------------------------------------------------- the far end */
static int far_answer(const struct order *order, uint32_t csum)
{
	struct answer answer = { order->seq, csum };

	return fab_inject(rig.far, &answer, sizeof(answer));
}

/* Answers come singly and together, as it happens. */
static int far_burst(const struct order *order)
{
	struct order each = *order;
	int err = 0;

	for (uint64_t i = 0; i < order->len && !err; i++) {
		each.seq = (uint32_t)i;
		err = far_answer(&each, 0);
		for (uint64_t turn = 0; turn < i * 7 % 23; turn++)
			sched_yield();
	}
	return err;
}

static int far_order(const struct order *order, const uint8_t *payload, size_t len)
{
	int err;

	switch (order->cmd) {
	case CMD_SUM_PAYLOAD:
		return far_answer(order, csum_crc32c(0, payload, len));
	case CMD_SUM_POOL:
		return far_answer(order, csum_crc32c(0, rig.pool, order->len));
	case CMD_PAUSE:
		err = far_answer(order, 0);
		while (!err && sem_wait(&rig.go))
			;
		return err;
	case CMD_BURST:
		return far_burst(order);
	default:
		fab_ep_shutdown(rig.far);
		return -ESHUTDOWN;
	}
}

static int far_receive(const struct fab_event *event)
{
	const uint8_t *msg = fab_rx(rig.far, event->slot);
	struct order order;
	int err;

	if (event->kind != FAB_RECV || event->len < sizeof(order))
		return event->kind == FAB_RECV ? -EPROTO : 0;
	memcpy(&order, msg, sizeof(order));
	err = far_order(&order, msg + sizeof(order), event->len - sizeof(order));
	return err ? err : fab_recv(rig.far, event->slot);
}

static void *far_main(void *arg)
{
	struct fab_event events[FAB_EVENTS_MAX];
	int err = 0;

	(void)arg;
	while (!err) {
		int n = fab_poll(rig.far, events, FAB_EVENTS_MAX);

		err = n < 0 ? n : 0;
		for (int i = 0; i < n && !err; i++)
			err = far_receive(&events[i]);
		if (!n)
			err = fab_wait(rig.far, FOREVER_MS);
	}
	rig.far_err = err;
	return NULL;
}

static int far_ended(void)
{
	cr_assert_eq(pthread_join(rig.thread, NULL), 0);
	rig.started = false;
	return rig.far_err;
}

/* ---------------------------------------------------------------- both ends */
static struct fab_ep *ep_new(struct fab *fab, bool rma, bool provider_wait)
{
	struct fab_ep_cfg cfg = { .rx_count = SLOTS, .tx_count = SLOTS, .rx_bytes = SLOT_BYTES, .tx_bytes = SLOT_BYTES,
				  .rma = rma, .timeout_ms = LIMIT * 1000, .provider_wait = provider_wait };
	struct fab_ep *ep = NULL;

	cr_assert_eq(fab_ep_new(fab, &cfg, &ep), 0, "%s", errmsg_get());
	return ep;
}

static void pair_listen(void)
{
	cr_assert_eq(fab_listen("tcp", "127.0.0.1", &rig.listener, &rig.port), 0, "%s", errmsg_get());
	cr_assert_eq(fab_dial("tcp", "127.0.0.1", rig.port, &rig.dialler), 0, "%s", errmsg_get());
}

/* The near end asks for a connection; the far end's request is in *req. */
static void pair_ask(bool provider_wait, struct fab_request *req)
{
	int err;

	rig.near = ep_new(rig.dialler, true, provider_wait);
	cr_assert_eq(fab_ep_connect(rig.near, HELLO, sizeof(HELLO)), 0, "%s", errmsg_get());
	do {
		err = fab_next(rig.listener, STEP_MS, req);
		cr_assert_eq(fab_ep_established(rig.near, 0), -EAGAIN, "%s", errmsg_get());
	} while (err == -EAGAIN);
	cr_assert_eq(err, 0, "%s", errmsg_get());
	cr_assert_geq(req->len, sizeof(HELLO));
	cr_assert_str_eq((char *)req->data, HELLO);
}

static void pair_establish(void)
{
	int near, far;

	do {
		near = fab_ep_established(rig.near, STEP_MS);
		far = fab_ep_established(rig.far, STEP_MS);
		cr_assert(near == 0 || near == -EAGAIN, "%s", errmsg_get());
		cr_assert(far == 0 || far == -EAGAIN, "%s", errmsg_get());
	} while (near || far);
}

static void pair_up(bool provider_wait, bool writable)
{
	struct fab_request req;
	char reply[64];

	sem_init(&rig.go, 0, 0);
	rig.pool = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert(rig.pool != MAP_FAILED);
	pair_listen();
	pair_ask(provider_wait, &req);
	rig.far = ep_new(rig.listener, false, provider_wait);
	cr_assert_eq(fab_ep_expose(rig.far, rig.pool, POOL_BYTES, writable, &rig.raddr, &rig.rkey), 0, "%s", errmsg_get());
	cr_assert_eq(fab_ep_accept(rig.far, &req, WELCOME, sizeof(WELCOME)), 0, "%s", errmsg_get());
	pair_establish();
	fab_unlisten(rig.listener);
	cr_assert_geq(fab_ep_reply(rig.near, reply, sizeof(reply)), sizeof(WELCOME));
	cr_assert_str_eq(reply, WELCOME);
	cr_assert_eq(pthread_create(&rig.thread, NULL, far_main, NULL), 0);
	rig.started = true;
}

static void pair_down(void)
{
	fab_ep_delete(rig.near);
	rig.near = NULL;
	if (rig.started)
		cr_expect_eq(far_ended(), -ECONNRESET, "the far end ended otherwise");
	fab_ep_delete(rig.far);
	fab_close(rig.dialler);
	fab_close(rig.listener);
	munmap(rig.pool, POOL_BYTES);
	sem_destroy(&rig.go);
}

/* ---------------------------------------------------------------- the near end */
static void near_order(unsigned slot, const struct order *order, size_t payload)
{
	memcpy(fab_tx(rig.near, slot), order, sizeof(*order));
	cr_assert_eq(fab_send(rig.near, slot, sizeof(*order) + payload, false), 0, "%s", errmsg_get());
}

/* Events, sleeping until there are some; what ends the connection is the result. */
static int near_events(struct fab_event *events)
{
	int n;

	while (!(n = fab_poll(rig.near, events, FAB_EVENTS_MAX))) {
		n = fab_wait(rig.near, FOREVER_MS);
		if (n)
			return n;
	}
	return n;
}

static struct answer near_take(const struct fab_event *event)
{
	struct answer answer;

	cr_assert_eq(event->len, sizeof(answer));
	memcpy(&answer, fab_rx(rig.near, event->slot), sizeof(answer));
	cr_assert_eq(fab_recv(rig.near, event->slot), 0, "%s", errmsg_get());
	return answer;
}

/* The next answer; completions of one-sided operations are passed over. */
static struct answer near_answer(void)
{
	for (;;) {
		struct fab_event events[1];
		int n = fab_poll(rig.near, events, 1);

		if (!n)
			n = fab_wait(rig.near, FOREVER_MS);
		cr_assert_geq(n, 0, "%s", errmsg_get());
		if (n > 0 && events[0].kind == FAB_RECV)
			return near_take(&events[0]);
	}
}

static uint8_t *bytes_new(size_t len, unsigned seed)
{
	uint8_t *bytes = malloc(len);

	cr_assert(bytes);
	for (size_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)(seed + i * 13 + i / 251);
	return bytes;
}

/* Posts segments as room allows and sleeps in between. */
static void near_write(uint8_t *bytes, size_t len)
{
	for (size_t at = 0; at < len;) {
		size_t left = len - at, chunk = left < FAB_RMA_CHUNK_BYTES_MAX ? left : FAB_RMA_CHUNK_BYTES_MAX;
		struct fab_seg seg = { rig.raddr + at, bytes + at, chunk };
		struct fab_event events[FAB_EVENTS_MAX];

		if (fab_write_room(rig.near) < chunk) {
			cr_assert_geq(near_events(events), 0, "%s", errmsg_get());
			continue;
		}
		cr_assert_eq(fab_write(rig.near, rig.rkey, &seg, 1), 0, "%s", errmsg_get());
		at += chunk;
	}
}

static void near_read(uint8_t *bytes, size_t len)
{
	const size_t step = 300000; /* no power of two */
	size_t posted = 0, done = 0;

	while (done < len) {
		size_t chunk = len - posted < step ? len - posted : step;
		struct fab_seg seg = { rig.raddr + posted, bytes + posted, chunk };
		struct fab_event events[FAB_EVENTS_MAX];
		int n = 0;

		if (chunk && fab_read_room(rig.near) >= chunk) {
			cr_assert_eq(fab_read(rig.near, rig.rkey, &seg, posted), 0, "%s", errmsg_get());
			posted += chunk;
			continue;
		}
		n = near_events(events);
		cr_assert_geq(n, 0, "%s", errmsg_get());
		for (int i = 0; i < n; i++) {
			if (events[i].kind != FAB_READ)
				continue;
			cr_expect_eq(events[i].tag, done, "reads complete in order");
			done += events[i].len;
		}
	}
}

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
