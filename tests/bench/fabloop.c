/* The limit of librpmem: the same job done by a bare libfabric loop, with nothing but what the job needs. A second process
 * holds the memory; LANES connections lead to it, with a thread each on both sides.
 *
 *   fabloop                        connects, then commands on stdin (meter.h):
 *   persist BYTES METHOD SPIN LANES MS    data into the second process's memory, stored there, and an answer back
 *   read BYTES METHOD SPIN LANES MS       data from there
 *
 * METHOD of persist (what is fastest depends on the size):
 *   inline   messages with at most 64 KiB of data (inline32, inline16: 32, 16 KiB), which the target copies; the last one is
 *            answered. The only one whose stores are the target's own, as flags 0 of rpmem_persist promises
 *   write    one-sided write, a message behind it, its answer
 *   cqdata   one-sided write that announces itself, answer
 *   commit   one-sided write that completes when it is in the target's memory, flushed from its caches
 *   gather   ranges of 256 bytes, BYTES together, each at every other place: copied into one message, which the target copies
 *            to their places
 * METHOD of read: rma (one-sided), message (a request, answered with the data straight from the memory).
 *
 * SPIN: microseconds that both sides poll, yielding, behind what came last or moved, before they sleep; 0 is sleeping at once. The
 * names of methods end in "+fd" for connections whose completion queue has a descriptor of its own to sleep on; the others
 * sleep on the socket.
 *
 * Data is sent from where it lies and stored where it belongs, at offsets that wander through a window for each lane, as in
 * the library's benchmark. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <rdma/fi_rma.h>
#include "meter.h"
#include "peer.h"

#define KINDS 2u /* enum peer_cq: METER_LANES_MAX connections of each */
#define POOL_BYTES (64u << 20)
#define WINDOW_BYTES (4u << 20) /* of a lane: more than the caches of a processor, less than the machine's */
#define CHUNK_BYTES (64u << 10)
#define SLOTS 32u /* receives posted on each side, more than the messages of one operation */
#define ANSWER_BYTES 16u
#define PIECE_BYTES 256u /* of "gather" */

enum kind { ASK_STORE, ASK_FLUSH, ASK_READ, ASK_SCATTER };

struct request {
	uint64_t off;
	uint32_t len, spin_us;
	uint16_t kind, last; /* last: to be answered */
	uint32_t zero[3];
};

struct piece {
	uint64_t off;
	char bytes[PIECE_BYTES];
};

struct lane {
	pthread_t thread;
	struct peer peer;
	struct request request; /* initiator: the one under way */
	struct piece pieces[CHUNK_BYTES / sizeof(struct piece)];
	char *slots;            /* SLOTS receives of slot_bytes */
	size_t slot_bytes;
};

struct job {
	void (*run)(struct lane *lane, const struct job *job, uint64_t off);
	enum peer_cq kind;
	enum peer_wait how;
	unsigned spin_us;
	uint32_t bytes, chunk;
};

static struct lane lanes[KINDS][METER_LANES_MAX];
static char *pool;

static char *map_pool(void)
{
	char *mem = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		peer_must("mmap", -errno);
	madvise(mem, POOL_BYTES, MADV_HUGEPAGE);
	memset(mem, 1, POOL_BYTES);
	return mem;
}

static void post_slot(struct lane *lane, void *slot)
{
	peer_must("fi_recv", fi_recv(lane->peer.ep, slot, lane->slot_bytes, NULL, 0, slot));
}

static void post_slots(struct lane *lane, size_t slot_bytes)
{
	lane->slot_bytes = slot_bytes;
	lane->slots = aligned_alloc(4096, SLOTS * slot_bytes);
	if (!lane->slots)
		peer_must("memory", -FI_ENOMEM);
	memset(lane->slots, 0, SLOTS * slot_bytes);
	for (unsigned i = 0; i < SLOTS; i++)
		post_slot(lane, lane->slots + i * slot_bytes);
}

/* ---- the second process ---- */

static void send_data(struct lane *lane, const struct request *request)
{
	struct iovec iov = { pool + request->off, request->len };
	struct fi_msg msg = { .msg_iov = &iov, .iov_count = 1 };

	peer_must("fi_sendmsg", fi_sendmsg(lane->peer.ep, &msg, 0));
	peer_posted(&lane->peer);
}

static void send_answer(struct lane *lane)
{
	static const char answer[ANSWER_BYTES];

	peer_must("fi_inject", fi_inject(lane->peer.ep, answer, ANSWER_BYTES, 0));
	peer_posted(&lane->peer);
}

static void scatter(const char *data, uint32_t len)
{
	struct piece piece;

	for (; len >= sizeof(piece); len -= (uint32_t)sizeof(piece), data += sizeof(piece)) {
		memcpy(&piece.off, data, sizeof(piece.off));
		memcpy(pool + piece.off, data + sizeof(piece.off), PIECE_BYTES);
	}
}

/* One request. How its sender waits is how we wait for the next one. */
static void serve_request(struct lane *lane, char *slot)
{
	struct request request;

	memcpy(&request, slot, sizeof(request));
	lane->peer.spin_us = request.spin_us;
	if (request.kind == ASK_STORE)
		memcpy(pool + request.off, slot + sizeof(request), request.len);
	if (request.kind == ASK_SCATTER)
		scatter(slot + sizeof(request), request.len);
	post_slot(lane, slot);
	if (request.kind == ASK_READ)
		send_data(lane, &request);
	else if (request.last)
		send_answer(lane);
}

static void *serve_lane(void *arg)
{
	struct fi_cq_msg_entry entries[SLOTS];
	struct lane *lane = arg;
	size_t count;

	while ((count = peer_wait(&lane->peer, entries, SLOTS, PEER_YIELD)) > 0)
		for (size_t i = 0; i < count; i++) {
			if (entries[i].flags & FI_REMOTE_WRITE)
				send_answer(lane); /* of "cqdata": it takes no receive */
			else
				serve_request(lane, entries[i].op_context);
		}
	return NULL;
}

static int target(void)
{
	struct peer_listener listener;

	pool = map_pool();
	peer_tell_port(peer_listen(&listener));
	for (unsigned kind = 0; kind < KINDS; kind++)
		for (unsigned i = 0; i < METER_LANES_MAX; i++) {
			struct lane *lane = &lanes[kind][i];

			peer_accept(&listener, &lane->peer, kind, pool, POOL_BYTES);
			post_slots(lane, sizeof(struct request) + CHUNK_BYTES);
			peer_must("thread", -pthread_create(&lane->thread, NULL, serve_lane, lane));
		}
	peer_unlisten(&listener);
	for (unsigned kind = 0; kind < KINDS; kind++)
		for (unsigned i = 0; i < METER_LANES_MAX; i++)
			pthread_join(lanes[kind][i].thread, NULL);
	return 0;
}

/* ---- the initiator: pieces ---- */

/* Waits for one completion, which is the one asked for: nothing else completes. */
static void wait_one(struct lane *lane, const struct job *job)
{
	struct fi_cq_msg_entry entry;

	lane->peer.spin_us = job->spin_us;
	lane->peer.last_ns = meter_now_ns();
	if (peer_wait(&lane->peer, &entry, 1, job->how) == 0)
		peer_must("target", -FI_ECONNABORTED);
	peer_answered(&lane->peer);
	if (entry.flags & FI_RECV)
		post_slot(lane, entry.op_context);
}

/* data: request.len bytes, or NULL */
static void send_request(struct lane *lane, const struct job *job, struct request request, void *data)
{
	struct iovec iov[2] = { { &lane->request, sizeof(lane->request) }, { data, request.len } };
	struct fi_msg msg = { .msg_iov = iov, .iov_count = data ? 2 : 1 };

	lane->request = request;
	lane->request.spin_us = job->spin_us;
	peer_must("fi_sendmsg", fi_sendmsg(lane->peer.ep, &msg, 0));
	peer_posted(&lane->peer);
}

static void one_sided(struct lane *lane, const struct job *job, uint64_t off, uint64_t flags)
{
	struct iovec iov = { pool + off, job->bytes };
	struct fi_rma_iov remote = { .addr = off, .len = job->bytes, .key = PEER_KEY };
	struct fi_msg_rma msg = { .msg_iov = &iov, .iov_count = 1, .rma_iov = &remote, .rma_iov_count = 1, .data = 1 };

	peer_must("fi_writemsg", fi_writemsg(lane->peer.ep, &msg, flags));
	peer_posted(&lane->peer);
}

/* ---- the initiator: methods ---- */

static void persist_inline(struct lane *lane, const struct job *job, uint64_t off)
{
	uint32_t left = job->bytes, len;

	for (; left; left -= len, off += len) {
		len = left < job->chunk ? left : job->chunk;
		send_request(lane, job, (struct request){ .off = off, .len = len, .kind = ASK_STORE, .last = len == left },
			pool + off);
	}
	wait_one(lane, job);
}

static void persist_write(struct lane *lane, const struct job *job, uint64_t off)
{
	one_sided(lane, job, off, 0);
	send_request(lane, job, (struct request){ .off = off, .len = job->bytes, .kind = ASK_FLUSH, .last = 1 }, NULL);
	wait_one(lane, job);
}

static void persist_cqdata(struct lane *lane, const struct job *job, uint64_t off)
{
	one_sided(lane, job, off, FI_REMOTE_CQ_DATA);
	wait_one(lane, job);
}

static void persist_commit(struct lane *lane, const struct job *job, uint64_t off)
{
	one_sided(lane, job, off, FI_COMMIT_COMPLETE | FI_COMPLETION);
	wait_one(lane, job);
}

/* Each range begins with a word of its own, as in the library's benchmark. */
static void persist_gather(struct lane *lane, const struct job *job, uint64_t off)
{
	uint32_t count = job->bytes / PIECE_BYTES;

	assert(count);
	for (uint32_t i = 0; i < count; i++) {
		uint64_t at = off + (uint64_t)2 * i * PIECE_BYTES;

		memcpy(pool + at, &at, sizeof(at));
		lane->pieces[i].off = at;
		memcpy(lane->pieces[i].bytes, pool + at, PIECE_BYTES);
	}
	send_request(lane, job, (struct request){ .len = count * (uint32_t)sizeof(struct piece), .kind = ASK_SCATTER, .last = 1 },
		lane->pieces);
	wait_one(lane, job);
}

static void read_rma(struct lane *lane, const struct job *job, uint64_t off)
{
	struct iovec iov = { pool + off, job->bytes };
	struct fi_rma_iov remote = { .addr = off, .len = job->bytes, .key = PEER_KEY };
	struct fi_msg_rma msg = { .msg_iov = &iov, .iov_count = 1, .rma_iov = &remote, .rma_iov_count = 1 };

	peer_must("fi_readmsg", fi_readmsg(lane->peer.ep, &msg, FI_COMPLETION));
	peer_posted(&lane->peer);
	wait_one(lane, job);
}

/* Its own receive, in place, before the slots that are posted already: so the data goes to a slot and is copied when it is
 * small, as a program would that has other answers to expect on the connection. */
static void read_message(struct lane *lane, const struct job *job, uint64_t off)
{
	struct fi_cq_msg_entry entry;

	send_request(lane, job, (struct request){ .off = off, .len = job->bytes, .kind = ASK_READ }, NULL);
	lane->peer.spin_us = job->spin_us;
	lane->peer.last_ns = meter_now_ns();
	if (peer_wait(&lane->peer, &entry, 1, job->how) == 0)
		peer_must("target", -FI_ECONNABORTED);
	peer_answered(&lane->peer);
	memcpy(pool + off, entry.op_context, job->bytes);
	post_slot(lane, entry.op_context);
}

/* ---- commands ---- */

static const struct method {
	const char *verb, *name;
	void (*run)(struct lane *lane, const struct job *job, uint64_t off);
	uint32_t bytes_max, chunk;
} methods[] = {
	{ "persist", "inline", persist_inline, 1u << 20, CHUNK_BYTES },
	{ "persist", "inline32", persist_inline, 1u << 20, CHUNK_BYTES / 2 },
	{ "persist", "inline16", persist_inline, 512u << 10, CHUNK_BYTES / 4 },
	{ "persist", "write", persist_write, 1u << 20, 0 },
	{ "persist", "cqdata", persist_cqdata, 1u << 20, 0 },
	{ "persist", "commit", persist_commit, 1u << 20, 0 },
	{ "persist", "gather", persist_gather, CHUNK_BYTES / 2, 0 },
	{ "read", "rma", read_rma, 1u << 20, 0 },
	{ "read", "message", read_message, CHUNK_BYTES, 0 },
};

static void run_job(void *arg, unsigned lane, unsigned nr)
{
	const struct job *job = arg;
	uint64_t room = job->run == persist_gather ? 2 * job->bytes : job->bytes;
	uint64_t off = (uint64_t)lane * WINDOW_BYTES + nr * room % WINDOW_BYTES, word = nr;

	memcpy(pool + off, &word, sizeof(word));
	job->run(&lanes[job->kind][lane], job, off);
}

static const struct method *find_method(const char *verb, const char *name)
{
	size_t len = strcspn(name, "+");

	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
		if (!strcmp(methods[i].verb, verb) && strlen(methods[i].name) == len && !strncmp(methods[i].name, name, len))
			return &methods[i];
	return NULL;
}

static int target_pid;

static int command(char *words[METER_WORDS_MAX], unsigned count)
{
	const struct method *method = count == 6 ? find_method(words[0], words[2]) : NULL;
	struct meter meter = { .op = run_job, .peer_pid = target_pid };
	struct job job;

	if (!method)
		return -1;
	job = (struct job){ .run = method->run, .kind = strchr(words[2], '+') ? PEER_CQ_FD : PEER_CQ_SOCKET,
	                    .spin_us = (unsigned)atoi(words[3]), .bytes = (uint32_t)atoi(words[1]), .chunk = method->chunk };
	job.how = job.spin_us ? PEER_YIELD : PEER_BLOCK;
	meter.arg = &job;
	meter.bytes = job.bytes;
	meter.lanes = (unsigned)atoi(words[4]);
	meter.ms = (unsigned)atoi(words[5]);
	if (!job.bytes || job.bytes > method->bytes_max || !meter.lanes || meter.lanes > METER_LANES_MAX || !meter.ms)
		return -1;
	meter_run(&meter);
	return 0;
}

static void connect_lanes(void)
{
	const char *argv[] = { "fabloop", "--target", NULL };
	uint16_t port = peer_start_target(argv, &target_pid);

	for (unsigned kind = 0; kind < KINDS; kind++)
		for (unsigned i = 0; i < METER_LANES_MAX; i++) {
			peer_connect(&lanes[kind][i].peer, kind, port);
			post_slots(&lanes[kind][i], CHUNK_BYTES);
		}
}

int main(int argc, char **argv)
{
	int ret;

	peer_default_signals();
	if (argc > 1 && !strcmp(argv[1], "--target"))
		return target();
	pool = map_pool();
	connect_lanes();
	ret = meter_commands(command);
	for (unsigned kind = 0; kind < KINDS; kind++)
		for (unsigned i = 0; i < METER_LANES_MAX; i++)
			peer_close(&lanes[kind][i].peer);
	peer_end_target(target_pid);
	return ret ? 2 : 0;
}
