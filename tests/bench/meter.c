/* Repeating, timing and the arithmetic behind one line of figures, see meter.h.
 *
 * Samples are kept whole, so that the 99th percentile is one that happened; a thread that has filled its room goes on
 * measuring over the oldest. Threads begin together and each stops by itself when the time is over. */
#include "meter.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SAMPLES_MAX (1u << 18) /* of a thread */
#define WARM_SHARE 10u

struct worker {
	pthread_t thread;
	const struct meter *meter;
	unsigned lane;
	uint64_t count;      /* operations measured */
	uint64_t end_ns;
	uint32_t *samples;   /* ns */
};

static struct worker workers[METER_LANES_MAX];
static pthread_barrier_t start;
static uint64_t begin_ns, cpu_ns[2];

uint64_t meter_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t cpu_time(int pid)
{
	struct timespec ts = { 0 };
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &ts))
		return 0;
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void cpu_times(int peer_pid, uint64_t out[2])
{
	out[0] = cpu_time(0);
	out[1] = peer_pid ? cpu_time(peer_pid) : 0;
}

/* ---- the threads ---- */

static void *work(void *arg)
{
	struct worker *worker = arg;
	const struct meter *meter = worker->meter;
	uint64_t now = meter_now_ns(), end = now + meter->ms * 1000000ull / WARM_SHARE;
	unsigned nr = 0;

	for (; now < end; now = meter_now_ns())
		meter->op(meter->arg, worker->lane, nr++);
	/* NOLINTNEXTLINE(bugprone-posix-return): this one does return a negative constant, to one thread */
	if (pthread_barrier_wait(&start) == PTHREAD_BARRIER_SERIAL_THREAD) {
		cpu_times(meter->peer_pid, cpu_ns);
		begin_ns = meter_now_ns();
	}
	pthread_barrier_wait(&start);
	now = meter_now_ns();
	for (end = now + meter->ms * 1000000ull; now < end; worker->count++) {
		uint64_t before = now;

		meter->op(meter->arg, worker->lane, nr++);
		now = meter_now_ns();
		worker->samples[worker->count % SAMPLES_MAX] = (uint32_t)(now - before);
	}
	worker->end_ns = now;
	return NULL;
}

static void worker_start(struct worker *worker, const struct meter *meter, unsigned lane)
{
	worker->meter = meter;
	worker->lane = lane;
	worker->count = 0;
	if (!worker->samples)
		worker->samples = calloc(SAMPLES_MAX, sizeof(*worker->samples));
	if (!worker->samples || pthread_create(&worker->thread, NULL, work, worker)) {
		fprintf(stderr, "no memory or no thread\n");
		exit(1);
	}
}

/* ---- the figures ---- */

static int compare_samples(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static size_t samples_sorted(unsigned lanes, uint32_t **out)
{
	uint32_t *all = lanes ? calloc(lanes, SAMPLES_MAX * sizeof(*all)) : NULL;
	size_t count = 0;

	if (!all)
		exit(1);
	for (unsigned i = 0; i < lanes; i++) {
		size_t kept = workers[i].count < SAMPLES_MAX ? workers[i].count : SAMPLES_MAX;

		memcpy(all + count, workers[i].samples, kept * sizeof(*all));
		count += kept;
	}
	qsort(all, count, sizeof(*all), compare_samples);
	*out = all;
	return count;
}

void meter_run(const struct meter *meter)
{
	uint64_t end_ns = 0, ops = 0, cpu_end[2];
	uint32_t *samples;
	size_t count, median, p99;

	pthread_barrier_init(&start, NULL, meter->lanes);
	for (unsigned i = 0; i < meter->lanes; i++)
		worker_start(&workers[i], meter, i);
	for (unsigned i = 0; i < meter->lanes; i++) {
		pthread_join(workers[i].thread, NULL);
		ops += workers[i].count;
		if (workers[i].end_ns > end_ns)
			end_ns = workers[i].end_ns;
	}
	cpu_times(meter->peer_pid, cpu_end);
	pthread_barrier_destroy(&start);
	count = samples_sorted(meter->lanes, &samples);
	median = count / 2;
	p99 = count * 99 / 100;
	printf("%.2f %.2f %.0f %.2f %.2f %llu\n", samples[median] / 1e3, samples[p99] / 1e3,
	       (double)(ops * meter->bytes) * 1e3 / (double)(end_ns - begin_ns), (double)(cpu_end[0] - cpu_ns[0]) / 1e3 / (double)ops,
	       (double)(cpu_end[1] - cpu_ns[1]) / 1e3 / (double)ops, (unsigned long long)ops);
	fflush(stdout);
	free(samples);
}

/* ---- commands ---- */

int meter_commands(int (*run)(char *words[METER_WORDS_MAX], unsigned count))
{
	char line[256], *words[METER_WORDS_MAX], *rest;
	unsigned count;

	while (fgets(line, sizeof(line), stdin)) {
		count = 0;
		for (char *word = strtok_r(line, " \n", &rest); word && count < METER_WORDS_MAX; word = strtok_r(NULL, " \n", &rest))
			words[count++] = word;
		if (count && run(words, count)) {
			fprintf(stderr, "unknown command: %s\n", words[0]);
			return -1;
		}
	}
	return 0;
}
