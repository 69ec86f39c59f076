/* Warming the part of a pool that is being filled from the network.
 *
 * A page of an allocated tmpfs file is zeroed and mapped when it is first touched. One by one, in the middle of receiving,
 * that costs the receiver more than the bytes themselves; asked for in large steps (MADV_POPULATE_WRITE) it costs half, and
 * on another processor. It changes no byte, whatever arrives meanwhile, so nobody waits for it. */
#include "warm.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#define STEP_BYTES (1ull << 20)
#define ASKED_MAX 4u /* ranges; more are not remembered */

struct range {
	uint64_t off, len;
};

struct warm {
	uint8_t *base;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t asked_for;
	/* protected by lock */
	struct range asked[ASKED_MAX]; /* ring */
	unsigned first, count;
	bool stop;
};

/* Takes the next step off the oldest range, waiting for one. False: it is over. */
static bool next_step(struct warm *w, struct range *step)
{
	struct range *oldest;
	bool go;

	pthread_mutex_lock(&w->lock);
	while (!w->stop && w->count == 0)
		pthread_cond_wait(&w->asked_for, &w->lock);
	go = !w->stop;
	if (go) {
		oldest = &w->asked[w->first];
		*step = (struct range){ oldest->off, oldest->len < STEP_BYTES ? oldest->len : STEP_BYTES };
		oldest->off += step->len;
		oldest->len -= step->len;
		if (oldest->len == 0) {
			w->first = (w->first + 1) % ASKED_MAX;
			w->count--;
		}
	}
	pthread_mutex_unlock(&w->lock);
	return go;
}

/* A kernel before 5.14 refuses: then pages become ready when they are touched. */
static void *warm_main(void *arg)
{
	struct warm *w = arg;
	struct range step;

	while (next_step(w, &step) && madvise(w->base + step.off, step.len, MADV_POPULATE_WRITE) == 0)
		;
	return NULL;
}

struct warm *warm_begin(const struct pm *pm)
{
	struct warm *w = pm->domain == PM_MEMORY ? calloc(1, sizeof(*w)) : NULL;

	if (!w)
		return NULL;
	w->base = pm->base;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->asked_for, NULL);
	if (pthread_create(&w->thread, NULL, warm_main, w) == 0)
		return w;
	pthread_cond_destroy(&w->asked_for);
	pthread_mutex_destroy(&w->lock);
	free(w);
	return NULL;
}

void warm_ask(struct warm *w, uint64_t off, uint64_t len)
{
	if (!w || !len)
		return;
	pthread_mutex_lock(&w->lock);
	if (w->count < ASKED_MAX)
		w->asked[(w->first + w->count++) % ASKED_MAX] = (struct range){ off, len };
	pthread_cond_signal(&w->asked_for);
	pthread_mutex_unlock(&w->lock);
}

void warm_end(struct warm *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_signal(&w->asked_for);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	pthread_cond_destroy(&w->asked_for);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
