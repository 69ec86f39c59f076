/* librpmem measured through its public interface only, to stand beside fabloop.c, which does the same bare.
 *
 *   rpmembench SET                  makes the pool SET at "@local" and takes commands on stdin (meter.h):
 *   persist BYTES FLAGS LANES MS    rpmem_persist; FLAGS 0 or 1 (RPMEM_PERSIST_RELAXED)
 *   flush COUNT BYTES FLAGS LANES MS    COUNT flushes of BYTES, one drain; its times are of all of it
 *   read BYTES LANES MS             rpmem_read
 *   info                            provider, method, domain, lanes granted, lanes connected
 *   rpmembench --open SET           prints milliseconds: rpmem_open, the first persist, which connects its lane, rpmem_close
 *   rpmembench --load               prints milliseconds: loading libfabric, with the first look at its tcp provider
 *
 * Each persist first stores a word into its range. Before the program ends it reads everything back and compares: figures
 * of bytes that did not arrive are none. */
#include <dirent.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <rdma/fabric.h>
#include <rdma/fi_endpoint.h>
#include "librpmem.h"
#include "meter.h"

#define TARGET "@local"
#define POOL_BYTES (64u << 20)
#define WINDOW_BYTES (4u << 20) /* of a lane, as in fabloop.c; the first one holds the header */

static struct {
	RPMEMpool *pool;
	char *mem, *buf; /* the local region, what reads go to */
	int target_pid;
} rb;

static void must(const char *what, bool ok)
{
	if (ok)
		return;
	fprintf(stderr, "%s: %m: %s\n", what, rpmem_errormsg());
	exit(1);
}

static char *map_memory(int fill)
{
	char *mem = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must("mmap", mem != MAP_FAILED);
	madvise(mem, POOL_BYTES, MADV_HUGEPAGE);
	memset(mem, fill, POOL_BYTES);
	return mem;
}

/* ---- operations ---- */

struct job {
	size_t bytes;
	unsigned count, flags;
};

static size_t place(unsigned lane, unsigned nr, size_t bytes)
{
	return (size_t)(lane + 1) * WINDOW_BYTES + (size_t)nr * bytes % WINDOW_BYTES;
}

static void store(size_t off, unsigned nr)
{
	uint64_t word = nr;

	memcpy(rb.mem + off, &word, sizeof(word));
}

static void op_persist(void *arg, unsigned lane, unsigned nr)
{
	const struct job *job = arg;
	size_t off = place(lane, nr, job->bytes);

	store(off, nr);
	must("rpmem_persist", rpmem_persist(rb.pool, off, job->bytes, lane, job->flags) == 0);
}

/* Every other place, so that no two ranges are neighbours. */
static void op_flush(void *arg, unsigned lane, unsigned nr)
{
	const struct job *job = arg;

	for (unsigned i = 0; i < job->count; i++) {
		size_t off = place(lane, 2 * (nr * job->count + i), job->bytes);

		store(off, nr);
		must("rpmem_flush", rpmem_flush(rb.pool, off, job->bytes, lane, job->flags) == 0);
	}
	must("rpmem_drain", rpmem_drain(rb.pool, lane, 0) == 0);
}

static void op_read(void *arg, unsigned lane, unsigned nr)
{
	const struct job *job = arg;
	size_t off = place(lane, nr, job->bytes);

	must("rpmem_read", rpmem_read(rb.pool, rb.buf + off, off, job->bytes, lane) == 0);
}

/* ---- commands ---- */

static void measure(void (*op)(void *, unsigned, unsigned), struct job *job, const char *lanes, const char *ms)
{
	struct meter meter = { .op = op, .arg = job, .lanes = (unsigned)atoi(lanes), .ms = (unsigned)atoi(ms),
	                       .bytes = job->bytes * job->count, .peer_pid = rb.target_pid };

	if (!meter.lanes || meter.lanes > METER_LANES_MAX || !meter.ms || !job->bytes || !job->count ||
	    job->bytes * job->count * 2 > WINDOW_BYTES) {
		fprintf(stderr, "a number is out of range\n");
		exit(2);
	}
	meter_run(&meter);
}

static void show_info(void)
{
	static const char *const methods[] = { "?", "gpspm", "apm", "commit" }, *const domains[] = { "?", "memory", "pmem", "file" };
	struct rpmem_info info;

	must("rpmem_info", rpmem_info(rb.pool, &info, sizeof(info)) == 0);
	printf("%s %s %s %u %u\n", info.provider, methods[info.method & 3], domains[info.domain & 3], info.nlanes,
	       info.connected);
	fflush(stdout);
}

static int command(char *words[METER_WORDS_MAX], unsigned count)
{
	struct job job = { .count = 1 };

	if (count == 5 && !strcmp(words[0], "persist")) {
		job.bytes = (size_t)atoi(words[1]);
		job.flags = (unsigned)atoi(words[2]);
		measure(op_persist, &job, words[3], words[4]);
	} else if (count == 6 && !strcmp(words[0], "flush")) {
		job = (struct job){ (size_t)atoi(words[2]), (unsigned)atoi(words[1]), (unsigned)atoi(words[3]) };
		measure(op_flush, &job, words[4], words[5]);
	} else if (count == 4 && !strcmp(words[0], "read")) {
		job.bytes = (size_t)atoi(words[1]);
		measure(op_read, &job, words[2], words[3]);
	} else if (count == 1 && !strcmp(words[0], "info")) {
		show_info();
	} else {
		return -1;
	}
	return 0;
}

/* ---- life ---- */

/* The one child of ours is the target. */
static int find_target(void)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	int found = 0;

	must("/proc", dir != NULL);
	while (!found && (entry = readdir(dir))) {
		char path[64];
		int parent = 0;
		FILE *stat;

		snprintf(path, sizeof(path), "/proc/%d/stat", atoi(entry->d_name));
		stat = atoi(entry->d_name) ? fopen(path, "r") : NULL;
		if (!stat)
			continue;
		if (fscanf(stat, "%*d (%*[^)]) %*c %d", &parent) == 1 && parent == getpid())
			found = atoi(entry->d_name);
		fclose(stat);
	}
	closedir(dir);
	return found;
}

static void verify(void)
{
	size_t len = (METER_LANES_MAX + 1) * (size_t)WINDOW_BYTES - 4096;

	must("rpmem_read", rpmem_read(rb.pool, rb.buf + 4096, 4096, len, 0) == 0);
	if (memcmp(rb.mem + 4096, rb.buf + 4096, len)) {
		fprintf(stderr, "the pool does not hold what was persisted\n");
		exit(1);
	}
}

static int serve(const char *set)
{
	static const struct rpmem_pool_attr attr = { .signature = "BENCH", .major = 1 };
	unsigned lanes = METER_LANES_MAX;
	int ret;

	rb.pool = rpmem_create(TARGET, set, rb.mem, POOL_BYTES, &lanes, &attr);
	must("rpmem_create", rb.pool != NULL);
	must("lanes", lanes == METER_LANES_MAX);
	rb.target_pid = find_target();
	must("rpmem_persist", rpmem_persist(rb.pool, 4096, POOL_BYTES - 4096, 0, 0) == 0);
	ret = meter_commands(command);
	verify();
	must("rpmem_close", rpmem_close(rb.pool) == 0);
	return ret ? 2 : 0;
}

static double ms_since(uint64_t *since)
{
	uint64_t before = *since;

	*since = meter_now_ns();
	return (double)(*since - before) / 1e6;
}

static int time_open(const char *set)
{
	struct rpmem_pool_attr attr;
	uint64_t since = meter_now_ns();
	double open_ms, first_ms;
	unsigned lanes = METER_LANES_MAX;

	rb.pool = rpmem_open(TARGET, set, rb.mem, POOL_BYTES, &lanes, &attr);
	must("rpmem_open", rb.pool != NULL);
	open_ms = ms_since(&since);
	must("rpmem_persist", rpmem_persist(rb.pool, WINDOW_BYTES, 64, 0, 0) == 0);
	first_ms = ms_since(&since);
	must("rpmem_close", rpmem_close(rb.pool) == 0);
	printf("%.1f %.1f %.1f\n", open_ms, first_ms, ms_since(&since));
	return 0;
}

/* By hand and not through librpmem, so that nothing of it is counted; with the settings that keep the provider's libraries
 * from slowing it down. */
static int time_load(void)
{
	int (*getinfo)(uint32_t, const char *, const char *, uint64_t, const struct fi_info *, struct fi_info **);
	struct fi_info *(*dupinfo)(const struct fi_info *);
	struct fi_info *hints, *info;
	uint64_t since;
	void *handle;

	setenv("FI_MR_CACHE_MAX_COUNT", "0", 0);
	setenv("IPATH_NO_BACKTRACE", "1", 0);
	setenv("HFI_NO_BACKTRACE", "1", 0);
	since = meter_now_ns();
	handle = dlopen("libfabric.so.1", RTLD_NOW | RTLD_LOCAL);
	must("libfabric.so.1", handle != NULL);
	*(void **)&getinfo = dlsym(handle, "fi_getinfo");
	*(void **)&dupinfo = dlsym(handle, "fi_dupinfo");
	must("libfabric.so.1", getinfo && dupinfo && (hints = dupinfo(NULL)));
	hints->ep_attr->type = FI_EP_MSG;
	hints->fabric_attr->prov_name = strdup("tcp");
	must("fi_getinfo", getinfo(FI_VERSION(1, 17), "127.0.0.1", NULL, FI_SOURCE, hints, &info) == 0);
	printf("%.1f\n", ms_since(&since));
	return 0; /* cppcheck-suppress resourceLeak ; the library stays, as it does in a program */
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--load"))
		return time_load();
	if (argc < 2 || argc > 3 || (argc == 3 && strcmp(argv[1], "--open") != 0)) {
		fprintf(stderr, "usage: rpmembench [--open] SET | --load\n");
		return 2;
	}
	rb.mem = map_memory(1);
	rb.buf = map_memory(0);
	return argc == 3 ? time_open(argv[2]) : serve(argv[1]);
}
