/* Two ends of a loopback tcp fabric in one process, for test_fabric: the near one is the test's, the far one is driven by a
 * thread that does what messages tell it. */
#ifndef RPMEMFS_TESTS_FAB_PAIR_H
#define RPMEMFS_TESTS_FAB_PAIR_H

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "csum.h"
#include "errmsg.h"
#include "fabric.h"

#define FAR_SILENCE_MS 60000 /* unacknowledged for so long: the connection ends */
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

static inline uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---------------------------------------------------------------- the far end */
static inline int far_answer(const struct order *order, uint32_t csum)
{
	struct answer answer = { order->seq, csum };

	return fab_inject(rig.far, &answer, sizeof(answer));
}

/* Answers come singly and together, as it happens. */
static inline int far_burst(const struct order *order)
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

static inline int far_order(const struct order *order, const uint8_t *payload, size_t len)
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

static inline int far_receive(const struct fab_event *event)
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

static inline void *far_main(void *arg)
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

static inline int far_ended(void)
{
	cr_assert_eq(pthread_join(rig.thread, NULL), 0);
	rig.started = false;
	return rig.far_err;
}

/* ---------------------------------------------------------------- both ends */
static inline struct fab_ep *ep_new(struct fab *fab, bool rma, bool provider_wait)
{
	struct fab_ep_cfg cfg = { .rx_count = SLOTS, .tx_count = SLOTS, .rx_bytes = SLOT_BYTES, .tx_bytes = SLOT_BYTES,
				  .rma = rma, .timeout_ms = FAR_SILENCE_MS, .provider_wait = provider_wait };
	struct fab_ep *ep = NULL;

	cr_assert_eq(fab_ep_new(fab, &cfg, &ep), 0, "%s", errmsg_get());
	return ep;
}

static inline void pair_listen(void)
{
	cr_assert_eq(fab_listen("tcp", "127.0.0.1", &rig.listener, &rig.port), 0, "%s", errmsg_get());
	cr_assert_eq(fab_dial("tcp", "127.0.0.1", rig.port, &rig.dialler), 0, "%s", errmsg_get());
}

/* The near end asks for a connection; the far end's request is in *req. */
static inline void pair_ask(bool provider_wait, struct fab_request *req)
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

static inline void pair_establish(void)
{
	int near, far;

	do {
		near = fab_ep_established(rig.near, STEP_MS);
		far = fab_ep_established(rig.far, STEP_MS);
		cr_assert(near == 0 || near == -EAGAIN, "%s", errmsg_get());
		cr_assert(far == 0 || far == -EAGAIN, "%s", errmsg_get());
	} while (near || far);
}

static inline void pair_up(bool provider_wait, bool writable)
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

static inline void pair_down(void)
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
static inline void near_order(unsigned slot, const struct order *order, size_t payload)
{
	memcpy(fab_tx(rig.near, slot), order, sizeof(*order));
	cr_assert_eq(fab_send(rig.near, slot, sizeof(*order) + payload, false), 0, "%s", errmsg_get());
}

/* Events, sleeping until there are some; what ends the connection is the result. */
static inline int near_events(struct fab_event *events)
{
	int n;

	while (!(n = fab_poll(rig.near, events, FAB_EVENTS_MAX))) {
		n = fab_wait(rig.near, FOREVER_MS);
		if (n)
			return n;
	}
	return n;
}

static inline struct answer near_take(const struct fab_event *event)
{
	struct answer answer;

	cr_assert_eq(event->len, sizeof(answer));
	memcpy(&answer, fab_rx(rig.near, event->slot), sizeof(answer));
	cr_assert_eq(fab_recv(rig.near, event->slot), 0, "%s", errmsg_get());
	return answer;
}

/* The next answer; completions of one-sided operations are passed over. */
static inline struct answer near_answer(void)
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

static inline uint8_t *bytes_new(size_t len, unsigned seed)
{
	uint8_t *bytes = malloc(len);

	cr_assert(bytes);
	for (size_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)(seed + i * 13 + i / 251);
	return bytes;
}

/* Posts segments as room allows and sleeps in between. */
static inline void near_write(uint8_t *bytes, size_t len)
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

static inline void near_read(uint8_t *bytes, size_t len)
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

#endif
