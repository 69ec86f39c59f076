/* What the benchmark programs of one lane and more share: a command loop, threads that repeat one operation for a time,
 * and the figures that come of it. A program is told on stdin what to measure, a line each, and answers with one line, so
 * that a runner lets several programs take turns without starting them again. */
#ifndef BENCH_METER_H
#define BENCH_METER_H

#include <stdint.h>

#define METER_LANES_MAX 4u
#define METER_WORDS_MAX 8u

/* One measurement: `lanes` threads, each of which calls op(arg, lane, nr) with nr = 0, 1, ... until the time is over. */
struct meter {
	void (*op)(void *arg, unsigned lane, unsigned nr);
	void *arg;
	unsigned lanes;
	unsigned ms;    /* measured, after a tenth of it to warm up */
	uint64_t bytes; /* of one operation */
	int peer_pid;   /* whose processor time is shown beside ours; 0: nobody's */
};

uint64_t meter_now_ns(void);

/* Runs it and prints `MEDIAN_US P99_US MB/S CPU_US PEER_CPU_US OPS`; times are of one operation. */
void meter_run(const struct meter *meter);

/* Reads lines from stdin until its end, splits each at blanks and hands it over. run returns 0, or -1 for words it does not
 * know, which ends the loop. */
int meter_commands(int (*run)(char *words[METER_WORDS_MAX], unsigned count));

#endif
