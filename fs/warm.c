/* Warming the part of a pool that is being filled from the network: a thread works ahead of the receiver.
 *
 *   back    holes of the part files get space (pm.populate): huge pages, zeroed, where the kernel has them; a must, the receiver
 *           waits for it (warm_backed)
 *   touch   small pages are zeroed and mapped; a hint, nobody waits for it
 *
 * Zeroing new memory costs as much time as receiving into it. Done by the receiver, it stands between two reads. A small page of an
 * allocated tmpfs file is zeroed when it is first touched; one by one, in the middle of receiving, that costs more than the
 * bytes themselves; asked for in large steps (MADV_POPULATE_WRITE) it costs half. Touching changes no byte, whatever arrives
 * meanwhile. What the receiver is about to use goes first, so touching comes before backing more; and what is zeroed only a
 * little ahead is still in the processor's cache when the receiver overwrites it. */
#include "warm.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "errmsg.h"

#define TOUCH_STEP_BYTES (1ull << 20)
#define BACK_STEP_BYTES (16ull << 20)
#define BACK_AHEAD_BYTES (32ull << 20) /* of what was waited for */
#define HUGE_BYTES (2ull << 20)
#define ASKED_MAX 4u /* ranges of each kind */

struct range {
	uint64_t off, len;
};

struct queue {
	struct range asked[ASKED_MAX]; /* ring */
	unsigned first, count;
};

struct warm {
	struct pm *pm; /* base, len and populate only: the rest is the receiver's */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t asked_for, backed;
	/* protected by lock */
	struct queue touch, back;
	uint64_t asked_end, needed_end, backed_end; /* of back: asked for, waited for, done */
	int err;                        /* of back: why it ended */
	char why[ERRMSG_BYTES_MAX];
	bool stop;
};

static bool queue_add(struct queue *q, uint64_t off, uint64_t len)
{
	if (q->count == ASKED_MAX)
		return false;
	q->asked[(q->first + q->count++) % ASKED_MAX] = (struct range){ off, len };
	return true;
}

/* The next piece of the oldest range, up to a multiple of `step` bytes of the pool: huge pages are cut nowhere. */
static struct range queue_step(struct queue *q, uint64_t step)
{
	struct range *oldest = &q->asked[q->first], piece;
	uint64_t len = step - oldest->off % step;

	assert(q->count);
	piece = (struct range){ oldest->off, oldest->len < len ? oldest->len : len };
	oldest->off += piece.len;
	oldest->len -= piece.len;
	if (oldest->len == 0) {
		q->first = (q->first + 1) % ASKED_MAX;
		q->count--;
	}
	return piece;
}

/* ---------------------------------------------------------------- the thread */

/* A kernel before 5.14 refuses: then pages become ready when they are touched. */
static void touch_step(struct warm *w)
{
	struct range piece = queue_step(&w->touch, TOUCH_STEP_BYTES);
	bool refused;

	pthread_mutex_unlock(&w->lock);
	refused = madvise(w->pm->base + piece.off, piece.len, MADV_POPULATE_WRITE);
	pthread_mutex_lock(&w->lock);
	if (refused)
		w->touch.count = 0;
}

static void back_step(struct warm *w)
{
	struct range piece = queue_step(&w->back, BACK_STEP_BYTES);
	int err;

	pthread_mutex_unlock(&w->lock);
	err = w->pm->populate(w->pm, piece.off, piece.len);
	pthread_mutex_lock(&w->lock);
	if (err) {
		w->err = err;
		w->back.count = 0;
		snprintf(w->why, sizeof(w->why), "%s", errmsg_get());
	}
	w->backed_end = piece.off + piece.len;
	pthread_cond_signal(&w->backed);
}

/* Not before its space is there, which would then be small pages. */
static bool touch_due(const struct warm *w)
{
	const struct range *oldest = &w->touch.asked[w->touch.first];
	uint64_t len = oldest->len < TOUCH_STEP_BYTES ? oldest->len : TOUCH_STEP_BYTES;

	return w->touch.count && (!w->pm->populate || oldest->off + len <= w->backed_end);
}

static bool back_due(const struct warm *w)
{
	return w->back.count && w->back.asked[w->back.first].off < w->needed_end + BACK_AHEAD_BYTES;
}

static void *warm_main(void *arg)
{
	struct warm *w = arg;

	pthread_mutex_lock(&w->lock);
	while (!w->stop) {
		if (touch_due(w))
			touch_step(w);
		else if (back_due(w))
			back_step(w);
		else
			pthread_cond_wait(&w->asked_for, &w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* ---------------------------------------------------------------- the receiver */

struct warm *warm_begin(struct pm *pm)
{
	struct warm *w = pm->domain == PM_MEMORY || pm->populate ? calloc(1, sizeof(*w)) : NULL;

	if (!w)
		return NULL;
	w->pm = pm;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->asked_for, NULL);
	pthread_cond_init(&w->backed, NULL);
	if (pthread_create(&w->thread, NULL, warm_main, w) == 0)
		return w;
	pthread_cond_destroy(&w->backed);
	pthread_cond_destroy(&w->asked_for);
	pthread_mutex_destroy(&w->lock);
	free(w);
	return NULL;
}

/* Ranges grow to whole huge pages: one that ends in the middle of a piece would leave small pages on both sides. */
void warm_back(struct warm *w, uint64_t off, uint64_t len)
{
	uint64_t end = (off + len + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);

	if (!w || !w->pm->populate || !len)
		return;
	assert(off <= w->pm->len && len <= w->pm->len - off);
	end = end < w->pm->len ? end : w->pm->len;
	pthread_mutex_lock(&w->lock);
	off &= ~(HUGE_BYTES - 1);
	off = off > w->asked_end ? off : w->asked_end;
	if (!w->asked_end || w->back.count == ASKED_MAX) { /* the first piece is due, or all that is remembered */
		w->needed_end = off > w->needed_end ? off : w->needed_end;
		pthread_cond_signal(&w->asked_for);
	}
	while (w->back.count == ASKED_MAX && !w->err)
		pthread_cond_wait(&w->backed, &w->lock);
	if (!w->err && end > off)
		(void)queue_add(&w->back, off, end - off);
	w->asked_end = end > off ? end : off;
	pthread_cond_signal(&w->asked_for);
	pthread_mutex_unlock(&w->lock);
}

int warm_backed(struct warm *w, uint64_t end)
{
	int err;

	if (!w || !w->pm->populate)
		return 0;
	pthread_mutex_lock(&w->lock);
	end = end < w->asked_end ? end : w->asked_end;
	if (end > w->needed_end) {
		w->needed_end = end;
		pthread_cond_signal(&w->asked_for);
	}
	while (!w->err && w->backed_end < end)
		pthread_cond_wait(&w->backed, &w->lock);
	err = w->err ? errmsg_set(w->err, "%s", w->why) : 0;
	pthread_mutex_unlock(&w->lock);
	return err;
}

void warm_touch(struct warm *w, uint64_t off, uint64_t len)
{
	if (!w || w->pm->domain != PM_MEMORY || !len)
		return;
	pthread_mutex_lock(&w->lock);
	(void)queue_add(&w->touch, off, len); /* more than fit are not remembered */
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
	pthread_cond_destroy(&w->backed);
	pthread_cond_destroy(&w->asked_for);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
