/* Bare fabric read bandwidth, the limit of a restore: LANES connections to a second process, each with reads of 1 MiB
 * out of its memory, two of them under way. Prints one line, `fabread MB/s MB/s MB/s`, medians of ROUNDS rounds each:
 *
 *   dropped  what arrives is not kept: each lane reads into the same 2 MiB again and again, in the processor's cache
 *   again    it is kept, in a file in memory whose pages are there already
 *   new      the same, and the file is made within the round: the kernel gives its pages as they are read into
 *
 * One thread for each connection on both sides, each with a domain and a completion queue of its own; tcp moves data
 * only inside calls on that queue, so both sides poll it and give the processor away in between. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <rdma/fi_rma.h>
#include "peer.h"

#define LANES 4u
#define READ_BYTES (1u << 20)
#define UNDER_WAY 2u              /* 2 MiB: more for each connection is slower on tcp */
#define MEMORY_BYTES (1ull << 30) /* read once in each round, a quarter by each lane */
#define LANE_READS (MEMORY_BYTES / READ_BYTES / LANES)
#define ROUNDS 3u

struct lane {
	pthread_t thread;
	struct peer peer;
	unsigned idx;
	char *buf[UNDER_WAY];
	char *keep; /* this lane's quarter of the new memory, or NULL */
};

static struct lane lanes[LANES];

static void run_lanes(void *(*run)(void *))
{
	for (unsigned i = 0; i < LANES; i++)
		peer_must("thread", -pthread_create(&lanes[i].thread, NULL, run, &lanes[i]));
	for (unsigned i = 0; i < LANES; i++)
		pthread_join(lanes[i].thread, NULL);
}

/* ---- the second process ---- */

/* Moves data until the connection ends. Nothing completes here but the one receive, when that happens. */
static void *serve_lane(void *arg)
{
	struct lane *lane = arg;
	struct fi_cq_msg_entry entry;
	static char end;

	peer_must("fi_recv", fi_recv(lane->peer.ep, &end, 1, NULL, 0, NULL));
	lane->peer.last_ns = UINT64_MAX / 2; /* never sleeps: a read does not show as a completion */
	peer_wait(&lane->peer, &entry, 1, PEER_YIELD);
	return NULL;
}

static int target(void)
{
	struct peer_listener listener;
	char *mem = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		peer_must("mmap", -errno);
	memset(mem, 1, MEMORY_BYTES);
	peer_tell_port(peer_listen(&listener));
	for (unsigned i = 0; i < LANES; i++)
		peer_accept(&listener, &lanes[i].peer, PEER_CQ_FD, mem, MEMORY_BYTES);
	peer_unlisten(&listener);
	run_lanes(serve_lane);
	for (unsigned i = 0; i < LANES; i++)
		peer_close(&lanes[i].peer);
	return 0;
}

/* ---- the reader ---- */

static void post_read(struct lane *lane, unsigned nr)
{
	uint64_t from = ((uint64_t)lane->idx * LANE_READS + nr) * READ_BYTES;
	char *to = lane->keep ? lane->keep + (uint64_t)nr * READ_BYTES : lane->buf[nr % UNDER_WAY];
	struct iovec iov = { to, READ_BYTES };
	struct fi_rma_iov remote = { .addr = from, .len = READ_BYTES, .key = PEER_KEY };
	struct fi_msg_rma msg = { .msg_iov = &iov, .iov_count = 1, .rma_iov = &remote, .rma_iov_count = 1 };

	peer_must("fi_readmsg", fi_readmsg(lane->peer.ep, &msg, FI_COMPLETION));
}

static void *read_lane(void *arg)
{
	struct fi_cq_msg_entry entries[UNDER_WAY];
	struct lane *lane = arg;
	unsigned posted = 0, done = 0;

	while (posted < UNDER_WAY)
		post_read(lane, posted++);
	while (done < LANE_READS) {
		size_t count = peer_wait(&lane->peer, entries, UNDER_WAY, PEER_YIELD);

		if (count == 0)
			peer_must("target", -FI_ECONNABORTED);
		done += (unsigned)count;
		while (posted < LANE_READS && posted < done + UNDER_WAY)
			post_read(lane, posted++);
	}
	return NULL;
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double rate_since(uint64_t begin_ns)
{
	return MEMORY_BYTES / 1e6 * 1e9 / (double)(peer_now_ns() - begin_ns);
}

static double read_all(void)
{
	uint64_t begin = peer_now_ns();

	run_lanes(read_lane);
	return rate_since(begin);
}

/* Making the file counts, removing it does not. */
static void read_all_into_file(double *new, double *again)
{
	uint64_t begin = peer_now_ns();
	int fd = memfd_create("fabread", MFD_CLOEXEC);
	char *mem;

	if (fd < 0 || ftruncate(fd, MEMORY_BYTES))
		peer_must("memory file", -errno);
	mem = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		peer_must("mmap", -errno);
	for (unsigned i = 0; i < LANES; i++)
		lanes[i].keep = mem + i * (MEMORY_BYTES / LANES);
	run_lanes(read_lane);
	*new = rate_since(begin);
	*again = read_all();
	for (unsigned i = 0; i < LANES; i++)
		lanes[i].keep = NULL;
	munmap(mem, MEMORY_BYTES);
	close(fd);
}

static double median(double rates[ROUNDS])
{
	qsort(rates, ROUNDS, sizeof(rates[0]), compare_double);
	return rates[ROUNDS / 2];
}

static void open_lanes(int *pid)
{
	const char *argv[] = { "fabread", "--target", NULL };
	uint16_t port = peer_start_target(argv, pid);

	for (unsigned i = 0; i < LANES; i++) {
		lanes[i].idx = i;
		peer_connect(&lanes[i].peer, PEER_CQ_FD, port);
		for (unsigned k = 0; k < UNDER_WAY; k++) {
			lanes[i].buf[k] = aligned_alloc(4096, READ_BYTES);
			if (!lanes[i].buf[k])
				peer_must("memory", -FI_ENOMEM);
			memset(lanes[i].buf[k], 0, READ_BYTES);
		}
	}
}

int main(int argc, char **argv)
{
	double dropped[ROUNDS], again[ROUNDS], new[ROUNDS];
	int pid;

	peer_default_signals();
	if (argc > 1 && strcmp(argv[1], "--target") == 0)
		return target();
	open_lanes(&pid);
	for (unsigned i = 0; i < ROUNDS; i++) {
		dropped[i] = read_all();
		read_all_into_file(&new[i], &again[i]);
	}
	printf("fabread %.0f %.0f %.0f\n", median(dropped), median(again), median(new));
	for (unsigned i = 0; i < LANES; i++) {
		peer_close(&lanes[i].peer);
		for (unsigned k = 0; k < UNDER_WAY; k++)
			free(lanes[i].buf[k]);
	}
	peer_end_target(pid);
	return 0;
}
