/* The workloads, run on any mounted directory:
 *
 *   w4k        4 KiB overwrite at a random aligned offset of a 64 MiB file, fsync
 *   msync8     8-byte store into a mapped 64 MiB file, msync(MS_SYNC) of its page
 *   append200  200-byte append, fdatasync
 *   mt4        four threads, each with a file of its own: 4 KiB overwrite, fsync
 *   seq64      sequential 1 MiB writes, one fsync for each 64 MiB
 *   rr4k       4 KiB reads at random offsets, nothing in the kernel's cache
 *   seqread    sequential 1 MiB reads, nothing in the kernel's cache
 *
 *   fsbench MODE DIRECTORY [ROUNDS]
 *
 * prints one line, `MODE median_us p99_us rate unit`: the median over the rounds of each round's median, p99
 * and rate (ops/s or MB/s). Rounds are short, so that a neighbour's burst spoils one and not the result. A round checks
 * nothing; whether data is right is for tests. Every byte written differs from what was there, so that a file system
 * that compares gains nothing. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define MIB (1u << 20)
#define FILE_BYTES (64u * MIB)
#define SEQ_BYTES (256u * MIB)   /* seq64 goes through a file of this size again and again */
#define SEQ_SYNC_BYTES (64u * MIB)
#define APPEND_BYTES 200u
#define OPS 2000u                /* of one latency round */
#define WARM_OPS 200u
#define READ_OPS 4096u
#define WRITERS 4u
#define WRITER_BYTES (16u * MIB)
#define ROUNDS_MAX 100u

struct result { double median_us, p99_us, rate; };

struct workload {
	const char *name, *unit;
	uint64_t file_bytes;
	struct result (*round)(int fd, const char *path);
};

static void die(const char *what)
{
	fprintf(stderr, "fsbench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void fill(char *buf, size_t len, uint64_t *state)
{
	for (size_t i = 0; i + 8 <= len; i += 8) {
		uint64_t word = next_random(state);

		memcpy(buf + i, &word, 8);
	}
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* Of one round: each operation's nanoseconds (sorted here) and what the round did in how long. */
static struct result summarize(uint32_t *ns, size_t count, double amount, uint64_t total_ns)
{
	size_t median = count / 2, p99 = count * 99 / 100;

	qsort(ns, count, sizeof(*ns), compare_u32);
	return (struct result){ ns[median] / 1e3, ns[p99] / 1e3, amount * 1e9 / (double)total_ns };
}

static char *page_buffer(size_t len)
{
	char *buf = aligned_alloc(PAGE, len);

	if (!buf)
		die("memory");
	memset(buf, 1, len); /* a buffer not faulted in would split its first write */
	return buf;
}

/* ---- latencies ---- */

typedef void (*step_fn)(int fd, void *buf, uint64_t *random);

/* Runs prepare (not timed) and act (timed) OPS times behind a short warm-up. */
static struct result time_ops(int fd, void *buf, step_fn prepare, step_fn act, unsigned ops)
{
	static uint64_t random = 88172645463325252u;
	uint32_t *ns = malloc(ops * sizeof(*ns));
	uint64_t total = 0;
	struct result result;

	if (!ns)
		die("memory");
	random ^= now_ns() << 1;
	for (unsigned i = 0; i < WARM_OPS + ops; i++) {
		uint64_t start, end;

		prepare(fd, buf, &random);
		start = now_ns();
		act(fd, buf, &random);
		end = now_ns();
		if (i < WARM_OPS)
			continue;
		ns[i - WARM_OPS] = (uint32_t)(end - start);
		total += end - start;
	}
	result = summarize(ns, ops, ops, total);
	free(ns);
	return result;
}

static void prepare_page(int fd, void *buf, uint64_t *random)
{
	(void)fd;
	fill(buf, PAGE, random);
}

static void prepare_nothing(int fd, void *buf, uint64_t *random)
{
	(void)fd, (void)buf, (void)random;
}

static void act_w4k(int fd, void *buf, uint64_t *random)
{
	off_t off = (off_t)(next_random(random) % (FILE_BYTES / PAGE) * PAGE);

	if (pwrite(fd, buf, PAGE, off) != (ssize_t)PAGE || fsync(fd) != 0)
		die("w4k");
}

static struct result round_w4k(int fd, const char *path)
{
	char *buf = page_buffer(PAGE);
	struct result result = time_ops(fd, buf, prepare_page, act_w4k, OPS);

	(void)path;
	free(buf);
	return result;
}

static void act_msync8(int fd, void *map, uint64_t *random)
{
	char *page = (char *)map + next_random(random) % (FILE_BYTES / PAGE) * PAGE;
	uint64_t word = next_random(random);

	(void)fd;
	memcpy(page + word % (PAGE / 8) * 8, &word, 8);
	if (msync(page, PAGE, MS_SYNC) != 0)
		die("msync8");
}

static struct result round_msync8(int fd, const char *path)
{
	void *map = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct result result;

	(void)path;
	if (map == MAP_FAILED)
		die("mmap");
	for (size_t off = 0; off < FILE_BYTES; off += PAGE)
		(void)((volatile char *)map)[off];
	result = time_ops(fd, map, prepare_nothing, act_msync8, OPS);
	munmap(map, FILE_BYTES);
	return result;
}

static void act_append200(int fd, void *buf, uint64_t *random)
{
	(void)random;
	if (write(fd, buf, APPEND_BYTES) != (ssize_t)APPEND_BYTES || fdatasync(fd) != 0)
		die("append200");
}

static struct result round_append200(int fd, const char *path)
{
	char *buf = page_buffer(PAGE);
	struct result result;
	int append = open(path, O_WRONLY | O_APPEND | O_TRUNC);

	(void)fd;
	if (append < 0)
		die(path);
	result = time_ops(append, buf, prepare_page, act_append200, OPS);
	close(append);
	free(buf);
	return result;
}

/* ---- throughput ---- */

static struct result round_seq64(int fd, const char *path)
{
	static uint64_t random = 2463534242u;
	uint32_t ns[SEQ_BYTES / SEQ_SYNC_BYTES];
	char *buf = page_buffer(MIB);
	uint64_t begin = now_ns(), from = begin;

	(void)path;
	fill(buf, MIB, &random);
	for (uint64_t off = 0; off < SEQ_BYTES; off += MIB) {
		if (pwrite(fd, buf, MIB, (off_t)off) != (ssize_t)MIB)
			die("seq64");
		if ((off + MIB) % SEQ_SYNC_BYTES)
			continue;
		if (fsync(fd) != 0)
			die("seq64");
		ns[off / SEQ_SYNC_BYTES] = (uint32_t)(now_ns() - from);
		from = now_ns();
	}
	free(buf);
	return summarize(ns, SEQ_BYTES / SEQ_SYNC_BYTES, SEQ_BYTES / 1e6, now_ns() - begin);
}

static void drop_cache(int fd)
{
	if (fsync(fd) != 0)
		die("fsync");
	if ((errno = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)) != 0)
		die("fadvise");
}

static void act_rr4k(int fd, void *buf, uint64_t *random)
{
	static unsigned step; /* an odd stride visits every page once before any comes again */

	(void)random;
	step = (step + 7919) % (FILE_BYTES / PAGE);
	if (pread(fd, buf, PAGE, (off_t)step * PAGE) != (ssize_t)PAGE)
		die("rr4k");
}

static struct result round_rr4k(int fd, const char *path)
{
	char *buf = page_buffer(PAGE);
	struct result result;

	(void)path;
	drop_cache(fd);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	result = time_ops(fd, buf, prepare_nothing, act_rr4k, READ_OPS);
	free(buf);
	return result;
}

static struct result round_seqread(int fd, const char *path)
{
	uint32_t ns[FILE_BYTES / MIB];
	char *buf = page_buffer(MIB);
	uint64_t begin;

	(void)path;
	drop_cache(fd);
	begin = now_ns();
	for (unsigned i = 0; i < FILE_BYTES / MIB; i++) {
		uint64_t from = now_ns();

		if (pread(fd, buf, MIB, (off_t)i * MIB) != (ssize_t)MIB)
			die("seqread");
		ns[i] = (uint32_t)(now_ns() - from);
	}
	free(buf);
	return summarize(ns, FILE_BYTES / MIB, FILE_BYTES / 1e6, now_ns() - begin);
}

/* ---- four writers ---- */

struct writer {
	pthread_t thread;
	pthread_barrier_t *start;
	int fd;
	uint64_t random;
	uint32_t ns[OPS];
};

static void prepare_file(int fd, const char *path, uint64_t bytes);

static void *run_writer(void *arg)
{
	struct writer *writer = arg;
	char *buf = page_buffer(PAGE);

	pthread_barrier_wait(writer->start);
	for (unsigned i = 0; i < OPS; i++) {
		uint64_t from = now_ns();
		off_t off = (off_t)(next_random(&writer->random) % (WRITER_BYTES / PAGE) * PAGE);

		fill(buf, PAGE, &writer->random);
		if (pwrite(writer->fd, buf, PAGE, off) != (ssize_t)PAGE || fsync(writer->fd) != 0)
			die("mt4");
		writer->ns[i] = (uint32_t)(now_ns() - from);
	}
	free(buf);
	return NULL;
}

static struct result round_mt4(int fd, const char *path)
{
	static struct writer writers[WRITERS];
	static uint32_t ns[WRITERS * OPS];
	pthread_barrier_t start;
	uint64_t begin;

	(void)fd;
	pthread_barrier_init(&start, NULL, WRITERS + 1);
	for (unsigned i = 0; i < WRITERS; i++) {
		char name[4096];

		snprintf(name, sizeof(name), "%s.%u", path, i);
		writers[i].fd = open(name, O_RDWR | O_CREAT, 0644);
		if (writers[i].fd < 0)
			die(name);
		prepare_file(writers[i].fd, name, WRITER_BYTES);
		writers[i].start = &start;
		writers[i].random = now_ns() | 1;
		if ((errno = pthread_create(&writers[i].thread, NULL, run_writer, &writers[i])) != 0)
			die("thread");
	}
	pthread_barrier_wait(&start);
	begin = now_ns();
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(writers[i].thread, NULL);
	begin = now_ns() - begin;
	for (unsigned i = 0; i < WRITERS; i++) {
		memcpy(ns + i * OPS, writers[i].ns, sizeof(writers[i].ns));
		close(writers[i].fd);
	}
	pthread_barrier_destroy(&start);
	return summarize(ns, WRITERS * OPS, WRITERS * OPS, begin);
}

/* ---- driver ---- */

static const struct workload workloads[] = {
	{ "w4k", "ops/s", FILE_BYTES, round_w4k },        { "msync8", "ops/s", FILE_BYTES, round_msync8 },
	{ "append200", "ops/s", 0, round_append200 },     { "mt4", "ops/s", 0, round_mt4 },
	{ "seq64", "MB/s", SEQ_BYTES, round_seq64 },      { "rr4k", "ops/s", FILE_BYTES, round_rr4k },
	{ "seqread", "MB/s", FILE_BYTES, round_seqread },
};

/* Gives the file its content once; later runs on the same mount find it. */
static void prepare_file(int fd, const char *path, uint64_t bytes)
{
	static uint64_t random = 362436069u;
	struct stat st;
	char *buf;

	if (fstat(fd, &st) != 0)
		die(path);
	if ((uint64_t)st.st_size >= bytes)
		return;
	buf = page_buffer(MIB);
	for (uint64_t off = 0; off < bytes; off += MIB) {
		fill(buf, MIB, &random);
		if (pwrite(fd, buf, MIB, (off_t)off) != (ssize_t)MIB)
			die(path);
	}
	if (fsync(fd) != 0)
		die(path);
	free(buf);
}

static double median(double *values, size_t count)
{
	qsort(values, count, sizeof(*values), compare_double);
	return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static void run(const struct workload *work, int fd, const char *path, unsigned rounds)
{
	double medians[ROUNDS_MAX] = { 0 }, p99s[ROUNDS_MAX] = { 0 }, rates[ROUNDS_MAX] = { 0 };

	for (unsigned i = 0; i < rounds; i++) {
		struct result result = work->round(fd, path);

		medians[i] = result.median_us;
		p99s[i] = result.p99_us;
		rates[i] = result.rate;
	}
	printf("%s %.2f %.2f %.0f %s\n", work->name, median(medians, rounds), median(p99s, rounds),
	       median(rates, rounds), work->unit);
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 3;
	const struct workload *work = NULL;
	char path[4000];
	int fd;

	for (size_t i = 0; argc > 2 && i < sizeof(workloads) / sizeof(workloads[0]); i++)
		if (strcmp(argv[1], workloads[i].name) == 0)
			work = &workloads[i];
	if (!work || rounds == 0 || rounds > ROUNDS_MAX) {
		fprintf(stderr, "usage: fsbench w4k|msync8|append200|mt4|seq64|rr4k|seqread DIRECTORY [ROUNDS]\n");
		return 2;
	}
	if ((size_t)snprintf(path, sizeof(path), "%s/%s", argv[2], work->name) >= sizeof(path)) {
		errno = ENAMETOOLONG;
		die(argv[2]);
	}
	fd = open(path, O_RDWR | O_CREAT, 0644);
	if (fd < 0)
		die(path);
	prepare_file(fd, path, work->file_bytes);
	run(work, fd, path, rounds);
	close(fd);
	return 0;
}
