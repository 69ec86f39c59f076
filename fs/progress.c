/* Progress of something long, for a human: a bar that is redrawn on a terminal, plain lines for logs; one line with the
 * sum at the end. */
#include "restore.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define BAR_CELLS 30u
#define REDRAW_MS 100u

struct progress {
	const char *what;
	uint64_t total, done, start_ms, drawn_ms;
	unsigned tenth;
	bool tty;
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

struct progress *progress_new(const char *what, uint64_t total, bool quiet)
{
	struct progress *p = quiet ? NULL : calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	*p = (struct progress){ .what = what, .total = total, .start_ms = now_ms(), .tty = isatty(STDERR_FILENO) };
	return p;
}

static unsigned percent(const struct progress *p)
{
	uint64_t done = p->done < p->total ? p->done : p->total;

	return p->total ? (unsigned)(done * 100 / p->total) : 0;
}

/* MiB a second and seconds left. */
static void rate(const struct progress *p, double *mib, uint64_t *left_s)
{
	uint64_t ms = now_ms() - p->start_ms;

	*mib = ms ? (double)p->done / 1048.576 / (double)ms : 0;
	*left_s = p->done && p->total > p->done
			  ? (uint64_t)((double)(p->total - p->done) * (double)ms / (double)p->done / 1000)
			  : 0;
}

static void draw(struct progress *p)
{
	unsigned full = percent(p) * BAR_CELLS / 100;
	char bar[BAR_CELLS + 1];
	uint64_t left;
	double mib;

	rate(p, &mib, &left);
	for (unsigned i = 0; i < BAR_CELLS; i++)
		bar[i] = i < full ? '#' : '.';
	bar[BAR_CELLS] = '\0';
	fprintf(stderr, "\r%s [%s] %3u%%  %.0f MiB/s  %" PRIu64 ":%02" PRIu64 " left ", p->what, bar, percent(p), mib,
		left / 60, left % 60);
	fflush(stderr);
	p->drawn_ms = now_ms();
}

static void line(const struct progress *p)
{
	uint64_t left;
	double mib;

	rate(p, &mib, &left);
	fprintf(stderr, "%s: %u%%, %.0f MiB/s, %" PRIu64 " s left\n", p->what, percent(p), mib, left);
}

static void last_line(const struct progress *p)
{
	uint64_t left;
	double mib;

	rate(p, &mib, &left);
	fprintf(stderr, "%s: %.0f MiB in %.3f s, %.0f MiB/s\n", p->what, (double)p->done / 1048576,
		(double)(now_ms() - p->start_ms) / 1000, mib);
}

void progress_add(struct progress *p, uint64_t bytes)
{
	if (!p)
		return;
	p->done += bytes;
	if (p->tty) {
		if (now_ms() - p->drawn_ms >= REDRAW_MS)
			draw(p);
	} else if (percent(p) / 10 > p->tenth && percent(p) < 100) {
		p->tenth = percent(p) / 10;
		line(p);
	}
}

void progress_end(struct progress *p, bool done)
{
	if (!p)
		return;
	if (p->tty) {
		if (done)
			p->total = p->done;
		draw(p);
		fputc('\n', stderr);
	}
	if (done)
		last_line(p);
	free(p);
}
