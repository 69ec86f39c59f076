/* The target's lanes: who may connect, and the loop that receives, hands to the engine and answers.
 *
 *   lanes_open:  listen; per lane domain, slots and registration of the pool -> acceptor thread
 *   acceptor:    request -> magic, session, token, lane free? -> accept, lane thread | reject
 *                all lanes up, or connect_ms over -> listening ends, thread ends
 *   lane:        connecting -> serving -> ended (peer gone, engine's error, silence for idle_ms, lanes_close)
 *
 * Lazy lanes (plain sessions) differ: listening lasts as long as the session; a lane is made when its request has been found
 * good, the first one ahead, which tells whether the pool can be registered; it may be silent for ever; and when its
 * connection ends, only the lane does. Its index is not given again, so that nothing sent on the old connection can arrive
 * among what is sent on a new one: who lost a lane replaces the session.
 *
 * Memory is registered before a request is accepted, so that an accepted connection meets a complete lane. If the pool cannot
 * be registered (DAX or file memory on verbs) on any lane, no lane offers one-sided access, and all bytes come in messages.
 *
 * A lane polls while requests come back to back and sleeps otherwise: a sleeping peer costs a busy one more than two
 * sleeping ones cost each other, so the polling phase is short. It answers only after reposting the receive, so a peer
 * that keeps to LANE_RX_SLOTS outstanding requests never finds none. The answer to a read is built in the send slots in turn,
 * one for each request: the peer has had its previous answer when a slot comes round again. */
#include "lanes.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "errmsg.h"
#include "fabric.h"
#include "log.h"
#include "persist.h"

#define LANE_SPIN_NS 100000ull    /* polling after a request */
#define LANE_PAUSE_MS 120         /* no request for so long (more than the engine calls quiet): it may use the time */
#define LANE_WAIT_MS 200          /* at most asleep: stop and event queue are looked at so often */
#define LANE_UNREAD_MAX 1024u     /* answers between two looks at the socket: many, because it is a system call */
#define LANE_TURN_COST 16u        /* one-sided reads are answered unseen, up to some hundred at one poll: it counts as so many */
#define LANE_DOZE_MS 1000         /* the same for a lazy lane after LANE_DOZE_AFTER_NS: there may be a thousand of them */
#define LANE_DOZE_AFTER_NS 10000000000ull
#define ACCEPT_WAIT_MS 50
#define ACCEPT_LAZY_WAIT_MS 20    /* the session's end waits for it */
#define REFUSED_LOGGED_MAX 16u    /* strangers cannot fill the log */
#define STRANGERS_NS 1000000000ull /* between two looks whether they fill the table of descriptors */
#define STRANGER_SILENT_MS 3000u
#define TCP_TIMEOUT_MS 15000u

struct tlane {
	struct lanes *lanes;
	unsigned index;
	struct fab_ep *ep;
	uint64_t raddr, rkey;
	pthread_t thread;
	bool taken, started; /* acceptor's, then lanes_close's */
	bool up;             /* atomic */
	bool refused;        /* the engine ended the session */
	uint64_t heard_ns;   /* last message */
	uint64_t woken_ns;   /* lazy: last sleep that something ended, or bytes that moved */
	bool measured;       /* lazy: fab_moved was asked since the last message or wake-up */
	uint64_t moved_ns;   /* not lazy: last message, or bytes that moved */
	bool idle_work;      /* the engine may have something to do */
	bool held;           /* the peer does not take its answers: nothing is taken from it */
	unsigned unseen;     /* answers, and turns that may have given some, since the peer was last seen to take them */
	unsigned tx_slot;    /* of the next request's answer */
};

struct lanes {
	struct lanes_cfg cfg;
	struct fab *fab;
	bool rma, told; /* told: the session's answer has said so */
	bool asked;     /* for a lane, with the right token; the acceptor's, then lanes_close's */
	pthread_t acceptor;
	bool stop, ended; /* atomic */
	unsigned refused_count; /* requests; the acceptor's */
	uint64_t strangers_ns;  /* newest look; the acceptor's */
	unsigned count;
	struct tlane lane[];
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static bool stopping(struct lanes *lanes)
{
	return __atomic_load_n(&lanes->stop, __ATOMIC_ACQUIRE);
}

/* The first failure ends the session; what follows from it is silent. */
static void lanes_ended(struct lanes *lanes, int err)
{
	if (!stopping(lanes) && !__atomic_exchange_n(&lanes->ended, true, __ATOMIC_ACQ_REL))
		lanes->cfg.ended(lanes->cfg.arg, err);
}

/* ---------------------------------------------------------------- serving */
static int lane_answer(struct tlane *lane, unsigned slot, struct lane_ack_msg *ack)
{
	uint32_t payload = le32_get(ack->read_bytes);

	lane->unseen++;
	if (!payload)
		return fab_inject(lane->ep, ack, sizeof(*ack));
	memcpy(fab_tx(lane->ep, slot), ack, sizeof(*ack));
	return fab_send(lane->ep, slot, sizeof(*ack) + payload, false);
}

static int lane_request(struct tlane *lane, unsigned slot, size_t len)
{
	unsigned tx_slot = lane->tx_slot;
	char *read_buf = (char *)fab_tx(lane->ep, tx_slot) + sizeof(struct lane_ack_msg);
	struct lane_ack_msg ack = { 0 };
	int end, err;

	lane->tx_slot = (tx_slot + 1) % LANE_RX_SLOTS;
	end = engine_handle(lane->lanes->cfg.engine, lane->index, fab_rx(lane->ep, slot), len, &ack, read_buf);
	err = fab_recv(lane->ep, slot);
	if (!err && end <= 0)
		err = lane_answer(lane, tx_slot, &ack);
	if (end < 0) {
		lane->refused = true;
		log_error("lane %u: request refused: %s: %s", lane->index, errmsg_get(), strerror(-end));
	}
	return end < 0 ? end : err;
}

/* Of a peer that asks and does not read the answers no more requests are taken: they would pile up here. */
static bool answers_taken(struct tlane *lane)
{
	lane->unseen += lane->lanes->rma ? LANE_TURN_COST : 0;
	if (lane->unseen < LANE_UNREAD_MAX)
		return true;
	lane->held = !fab_taken(lane->ep, LANE_WAIT_MS);
	if (!lane->held)
		lane->unseen = 0;
	return !lane->held;
}

#ifdef __SANITIZE_THREAD__
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
#endif

/* One-sided operations on a plain pool happen in here, on tcp. Any lane may be used for any byte: it is the initiator that
 * orders them, by answers it has received, which ThreadSanitizer cannot see. */
static int lane_poll(struct tlane *lane, struct fab_event *events)
{
#ifdef __SANITIZE_THREAD__
	int n;

	if (lane->lanes->cfg.lazy) {
		AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
		AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
		n = fab_poll(lane->ep, events, FAB_EVENTS_MAX);
		AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
		AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
		return n;
	}
#endif
	return fab_poll(lane->ep, events, FAB_EVENTS_MAX);
}

/* Handles what has arrived. Number of requests, or why the lane ends. */
static int lane_serve(struct tlane *lane)
{
	struct fab_event events[FAB_EVENTS_MAX];
	int n, requests = 0;
	unsigned unseen;

	if (!answers_taken(lane))
		return 0;
	unseen = lane->unseen;
	n = lane_poll(lane, events);
	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		int err;

		if (events[i].kind != FAB_RECV)
			continue;
		err = lane_request(lane, events[i].slot, events[i].len);
		if (err)
			return err;
		requests++;
	}
	if (lane->unseen > unseen)
		sched_yield(); /* who waits for the answer may need this processor before he asks again */
	return requests;
}

static void lazy_woken(struct tlane *lane, uint64_t now)
{
	lane->woken_ns = now;
	lane->measured = false;
}

/* Other methods, reads and large writes bring no message: on tcp they need this processor all the same, so polling goes on
 * while their bytes move, which is measured over the later half of the time. */
static int lazy_rest(struct tlane *lane, uint64_t now)
{
	int wait_ms = now - lane->heard_ns > LANE_DOZE_AFTER_NS ? LANE_DOZE_MS : LANE_WAIT_MS, err;
	uint64_t polled_ns = now - (lane->heard_ns > lane->woken_ns ? lane->heard_ns : lane->woken_ns);

	if (!lane->measured && polled_ns > LANE_SPIN_NS / 2) {
		lane->measured = true;
		fab_moved(lane->ep);
	}
	if (polled_ns < LANE_SPIN_NS) {
		sched_yield();
		return 0;
	}
	if (fab_moved(lane->ep)) {
		lazy_woken(lane, now);
		return 0;
	}
	err = fab_wait(lane->ep, wait_ms);
	if (!err && now_ns() - now < (uint64_t)wait_ms * 1000000u)
		lazy_woken(lane, now_ns());
	return err;
}

/* A message may have megabytes ahead of it on a slow link: while they come, the peer is not silent. */
static bool lane_idle(struct tlane *lane, uint64_t now)
{
	uint64_t idle_ns = lane->lanes->cfg.idle_ms * 1000000ull;

	if (now - lane->heard_ns <= idle_ns / 4)
		return false;
	if (lane->moved_ns < lane->heard_ns) {
		fab_moved(lane->ep); /* from here on it counts */
		lane->moved_ns = lane->heard_ns;
	} else if (fab_moved(lane->ep)) {
		lane->moved_ns = now;
	}
	return now - lane->moved_ns > idle_ns;
}

/* Nothing has arrived: poll on, work or sleep, by how long ago the last message was. */
static int lane_rest(struct tlane *lane)
{
	struct lanes *lanes = lane->lanes;
	uint64_t now = now_ns(), silent_ns = now - lane->heard_ns;

	if (lanes->cfg.lazy)
		return lane->held ? 0 : lazy_rest(lane, now);
	if (!lane->held && silent_ns < LANE_SPIN_NS) {
		sched_yield();
		return 0;
	}
	if (lane_idle(lane, now))
		return errmsg_set(-ETIMEDOUT, "no message for %u ms", lanes->cfg.idle_ms);
	if (lane->held) /* asleep already, until it takes some; the queue is not looked at, because that takes requests */
		return 0;
	if (lane->idle_work && silent_ns > LANE_PAUSE_MS * 1000000ull) {
		lane->idle_work = engine_idle(lanes->cfg.engine);
		return 0;
	}
	return fab_wait(lane->ep, lane->idle_work ? LANE_PAUSE_MS : LANE_WAIT_MS);
}

static int lane_connected(struct tlane *lane)
{
	uint64_t deadline = now_ns() + lane->lanes->cfg.connect_ms * 1000000ull;

	while (!stopping(lane->lanes)) {
		int err = fab_ep_established(lane->ep, ACCEPT_WAIT_MS);

		if (err != -EAGAIN)
			return err;
		if (now_ns() > deadline)
			return errmsg_set(-ETIMEDOUT, "not connected within %u ms", lane->lanes->cfg.connect_ms);
	}
	return 0;
}

/* Without its connection a lazy lane is over, and the session goes on. */
static void lane_over(struct tlane *lane, int err)
{
	if (!stopping(lane->lanes))
		log_info("lane %u: ended: %s", lane->index, errmsg_get());
	if (lane->lanes->cfg.lazy)
		fab_ep_shutdown(lane->ep);
	if (!lane->lanes->cfg.lazy || lane->refused)
		lanes_ended(lane->lanes, err);
}

static void *lane_main(void *arg)
{
	struct tlane *lane = arg;
	struct lanes *lanes = lane->lanes;
	int ret = lane_connected(lane);

	if (!ret)
		__atomic_store_n(&lane->up, true, __ATOMIC_RELEASE);
	lane->heard_ns = now_ns();
	while (ret >= 0 && !stopping(lanes)) {
		ret = lane_serve(lane);
		if (ret > 0) {
			lane->heard_ns = now_ns();
			lane->measured = false;
			lane->idle_work = lane->index == 0 && !lanes->cfg.lazy;
		} else if (!ret) {
			ret = lane_rest(lane);
		}
	}
	if (ret < 0)
		lane_over(lane, ret);
	return NULL;
}

/* ---------------------------------------------------------------- accepting */
/* Domain, queues, slots and registration; no endpoint yet. */
static int lane_init(struct tlane *lane)
{
	const struct fab_ep_cfg cfg = {
		.rx_count = LANE_RX_SLOTS,
		.tx_count = LANE_RX_SLOTS,
		.rx_bytes = LANE_MSG_BYTES_MAX,
		.tx_bytes = sizeof(struct lane_ack_msg) + LANE_MSG_BYTES_MAX,
		.timeout_ms = TCP_TIMEOUT_MS,
	};
	struct lanes *lanes = lane->lanes;
	const struct pm *pm = lanes->cfg.pm;
	int err = fab_ep_new(lanes->fab, &cfg, &lane->ep);

	if (err || !lanes->rma)
		return err;
	err = fab_ep_expose(lane->ep, pm->base, pm->len, !lanes->cfg.read_only, &lane->raddr, &lane->rkey);
	if (err && lanes->told) { /* the initiator counts on it */
		fab_ep_delete(lane->ep);
		lane->ep = NULL;
		return err;
	}
	if (err) {
		log_notice("lane %u: no one-sided access: %s", lane->index, errmsg_get());
		lanes->rma = false;
	}
	return 0;
}

/* Takes as long for a wrong token as for the right one. */
static bool token_equal(const uint8_t a[WIRE_TOKEN_BYTES], const uint8_t b[WIRE_TOKEN_BYTES])
{
	volatile uint8_t diff = 0;

	for (unsigned i = 0; i < WIRE_TOKEN_BYTES; i++)
		diff |= a[i] ^ b[i];
	return !diff;
}

/* The lane a request may have, or NULL. Providers may pad private data. */
static struct tlane *request_lane(struct lanes *lanes, const struct fab_request *req)
{
	struct lane_connect_msg msg;
	bool token_ok;
	unsigned index;

	if (req->len < sizeof(msg))
		return NULL;
	memcpy(&msg, req->data, sizeof(msg));
	token_ok = token_equal(msg.token, lanes->cfg.token);
	index = le16_get(msg.lane);
	if (!token_ok || le32_get(msg.magic) != LANE_MAGIC || le16_get(msg.version) != LANE_VERSION ||
	    le64_get(msg.session) != lanes->cfg.session || index >= lanes->count || lanes->lane[index].taken)
		return NULL;
	return &lanes->lane[index];
}

static int lane_accept(struct tlane *lane, struct fab_request *req)
{
	struct lane_accept_msg msg = {
		.magic = le32_put(LANE_MAGIC),
		.version = le16_put(LANE_VERSION),
		.lane = le16_put((uint16_t)lane->index),
		.raddr = le64_put(lane->raddr),
		.rkey = le64_put(lane->rkey),
	};
	int err;

	lane->taken = true;
	err = fab_ep_accept(lane->ep, req, &msg, sizeof(msg));
	if (err)
		return errmsg_prefix(err, "lane %u", lane->index);
	err = -pthread_create(&lane->thread, NULL, lane_main, lane);
	if (err)
		return errmsg_set(err, "lane %u: no thread", lane->index);
	lane->started = true;
	return 0;
}

/* Makes the lane and accepts. Whatever fails costs this request, and the lane only if it was on its way already. */
static void lane_accept_lazy(struct tlane *lane, struct fab_request *req)
{
	int err = lane->ep ? 0 : lane_init(lane);

	if (err) { /* rejected before there is an endpoint */
		log_error("lane %u: cannot be had: %s", lane->index, errmsg_get());
		fab_reject(lane->lanes->fab, req);
		return;
	}
	err = lane_accept(lane, req);
	if (!err)
		return;
	log_warn("lane %u: not accepted: %s", lane->index, errmsg_get());
	fab_ep_delete(lane->ep);
	lane->ep = NULL;
}

static bool lanes_up(const struct lanes *lanes)
{
	for (unsigned i = 0; i < lanes->count; i++)
		if (!__atomic_load_n(&lanes->lane[i].up, __ATOMIC_ACQUIRE))
			return false;
	return true;
}

/* Who connects and says nothing takes a descriptor. Asked only while no request waits: who waits for an answer to one looks the
 * same. */
static void strangers_end(struct lanes *lanes)
{
	unsigned planned = LANES_FDS_REST + LANE_FDS_MAX;
	uint64_t now = now_ns();

	if (now - lanes->strangers_ns < STRANGERS_NS)
		return;
	lanes->strangers_ns = now;
	for (unsigned i = 0; i < lanes->count; i++)
		planned += lanes->lane[i].ep ? LANE_FDS_MAX : 0;
	fab_strangers_end(lanes->fab, planned, STRANGER_SILENT_MS);
}

static int accept_one(struct lanes *lanes)
{
	struct fab_request req;
	struct tlane *lane;

	if (fab_next(lanes->fab, lanes->cfg.lazy ? ACCEPT_LAZY_WAIT_MS : ACCEPT_WAIT_MS, &req)) {
		strangers_end(lanes);
		return 0;
	}
	lane = request_lane(lanes, &req);
	lanes->asked = lanes->asked || lane;
	if (lane && lanes->cfg.lazy) {
		lane_accept_lazy(lane, &req);
		return 0;
	}
	if (lane)
		return lane_accept(lane, &req);
	if (lanes->refused_count++ < REFUSED_LOGGED_MAX)
		log_warn("lanes: connection refused: wrong token, session or lane");
	fab_reject(lanes->fab, &req);
	return 0;
}

static void *acceptor_main(void *arg)
{
	struct lanes *lanes = arg;
	uint64_t deadline = now_ns() + lanes->cfg.connect_ms * 1000000ull;
	int err = 0;

	while (!err && !stopping(lanes) && (lanes->cfg.lazy || !lanes_up(lanes))) {
		err = accept_one(lanes);
		if (!err && !lanes->cfg.lazy && now_ns() > deadline)
			err = errmsg_set(-ETIMEDOUT, "lanes not connected within %u ms", lanes->cfg.connect_ms);
	}
	fab_unlisten(lanes->fab);
	if (err) {
		log_error("lanes: %s", errmsg_get());
		lanes_ended(lanes, err);
	}
	return NULL;
}

/* ---------------------------------------------------------------- opening and closing */
static void lanes_free(struct lanes *lanes)
{
	for (unsigned i = 0; i < lanes->count; i++)
		fab_ep_delete(lanes->lane[i].ep);
	fab_close(lanes->fab);
	free(lanes);
}

int lanes_open(const struct lanes_cfg *cfg, struct ctl_session *session, struct lanes **out)
{
	struct lanes *lanes;
	uint16_t port;
	int err;

	assert(cfg->lane_count && cfg->lane_count <= WIRE_LANES_MAX);
	lanes = calloc(1, sizeof(*lanes) + cfg->lane_count * sizeof(lanes->lane[0]));
	if (!lanes)
		return -ENOMEM;
	lanes->cfg = *cfg;
	lanes->count = cfg->lane_count;
	for (unsigned i = 0; i < lanes->count; i++) {
		lanes->lane[i].lanes = lanes;
		lanes->lane[i].index = i;
	}
	lanes->rma = !cfg->pm->populate; /* a one-sided write into a hole would be for the medium to refuse, by SIGBUS */
	err = fab_listen(cfg->provider, cfg->bind_address, &lanes->fab, &port);
	if (err)
		goto free_lanes;
	for (unsigned i = 0; i < (cfg->lazy ? 1 : lanes->count); i++) {
		err = lane_init(&lanes->lane[i]);
		if (err)
			goto free_lanes;
	}
	lanes->told = true;
	err = -pthread_create(&lanes->acceptor, NULL, acceptor_main, lanes);
	if (err) {
		errmsg_set(err, "lanes: no thread: %s", strerror(-err));
		goto free_lanes;
	}
	session->port = port;
	session->lanes = lanes->count;
	session->caps = (lanes->rma ? CTL_CAP_RMA : 0) | (cfg->lazy ? CTL_CAP_TRAINS : 0);
	session->raddr = lanes->rma ? lanes->lane[0].raddr : 0;
	session->rkey = lanes->rma ? lanes->lane[0].rkey : 0;
	session->msg_bytes_max = LANE_MSG_BYTES_MAX;
	session->rx_slots = LANE_RX_SLOTS;
	*out = lanes;
	return 0;
free_lanes:
	lanes_free(lanes);
	return err;
}

bool lanes_close(struct lanes *lanes)
{
	bool asked;

	__atomic_store_n(&lanes->stop, true, __ATOMIC_RELEASE);
	pthread_join(lanes->acceptor, NULL);
	for (unsigned i = 0; i < lanes->count; i++)
		if (lanes->lane[i].ep)
			fab_ep_shutdown(lanes->lane[i].ep);
	for (unsigned i = 0; i < lanes->count; i++)
		if (lanes->lane[i].started)
			pthread_join(lanes->lane[i].thread, NULL);
	asked = lanes->asked;
	lanes_free(lanes);
	return asked;
}
