/* Pages of a pool in memory mapped ahead of who writes to it.
 *
 *   owner: pm.ahead(what is being written) --pieces nobody asked for yet--> queue --thread--> mapped
 *
 * A part file's pages are there and zeroed since the pool was made. Still each of them costs whoever touches it first a
 * page fault, in the middle of storing or receiving; where the kernel had no huge pages that is one for every 4 KiB, and
 * the first round through a pool runs at half the speed of later ones. Memory files are not told of first writes, so that
 * a read fault maps a page writable, and its neighbours with it: asking for the pages as if to read them
 * (MADV_POPULATE_READ) costs a third of touching them one by one, and asking as if to write two thirds.
 *
 * Only pools without holes: elsewhere such a fault would take space. So nothing grows but page tables, and no byte
 * changes, whoever writes meanwhile. Kernels before 5.14 refuse the advice. */
#include "pool_ahead.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PIECE_BYTES (16ull << 20)
#define STEP_BYTES (1ull << 20) /* of a piece; one hold of the process's memory map */
#define QUEUE_MAX 24u           /* more than are asked for at once */
#define WORD_BITS 64u

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

static_assert(POOL_AHEAD_BYTES / PIECE_BYTES + 2 <= QUEUE_MAX, "a small write's pieces fit the queue");

struct pool_ahead {
	uint8_t *base;
	uint64_t len;
	pthread_t thread;
	uint64_t *asked; /* the owner's: a bit for each piece */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* protected by lock */
	uint64_t queue[QUEUE_MAX]; /* ring */
	unsigned first, count;
	bool stop;
};

/* ---------------------------------------------------------------- the thread */

static bool stopped(struct pool_ahead *a)
{
	bool stop;

	pthread_mutex_lock(&a->lock);
	stop = a->stop;
	pthread_mutex_unlock(&a->lock);
	return stop;
}

static void piece_map(struct pool_ahead *a, uint64_t piece)
{
	uint64_t off = piece * PIECE_BYTES, end = a->len - off < PIECE_BYTES ? a->len : off + PIECE_BYTES;

	for (; off < end && !stopped(a); off += STEP_BYTES)
		if (madvise(a->base + off, end - off < STEP_BYTES ? end - off : STEP_BYTES, MADV_POPULATE_READ))
			return; /* pages become ready when they are touched */
}

static void *ahead_main(void *arg)
{
	struct pool_ahead *a = arg;

	pthread_mutex_lock(&a->lock);
	while (!a->stop) {
		uint64_t piece;

		if (!a->count) {
			pthread_cond_wait(&a->changed, &a->lock);
			continue;
		}
		piece = a->queue[a->first];
		a->first = (a->first + 1) % QUEUE_MAX;
		a->count--;
		pthread_mutex_unlock(&a->lock);
		piece_map(a, piece);
		pthread_mutex_lock(&a->lock);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

/* ---------------------------------------------------------------- the owner */

static bool piece_queue(struct pool_ahead *a, uint64_t piece)
{
	bool room;

	pthread_mutex_lock(&a->lock);
	room = a->count < QUEUE_MAX;
	if (room) {
		a->queue[(a->first + a->count++) % QUEUE_MAX] = piece;
		pthread_cond_signal(&a->changed);
	}
	pthread_mutex_unlock(&a->lock);
	return room;
}

/* pm.ahead. A piece that finds the queue full is asked for again by a later write. */
static void ahead_ask(struct pm *pm, uint64_t off, uint64_t len)
{
	struct pool_ahead *a = ((struct pool *)pm)->ahead;
	uint64_t left = a->len - off, end = off + (len + POOL_AHEAD_BYTES < left ? len + POOL_AHEAD_BYTES : left);

	assert(off <= a->len);
	for (uint64_t piece = off / PIECE_BYTES; piece * PIECE_BYTES < end; piece++) {
		uint64_t *word = &a->asked[piece / WORD_BITS], bit = 1ull << piece % WORD_BITS;

		if (*word & bit)
			continue;
		if (!piece_queue(a, piece))
			return;
		*word |= bit;
	}
}

/* Signals are for the threads that were there before. */
static int thread_begin(struct pool_ahead *a)
{
	sigset_t all, before;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&a->thread, NULL, ahead_main, a);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}

static void ahead_free(struct pool_ahead *a)
{
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->lock);
	free(a->asked);
	free(a);
}

void pool_ahead_begin(struct pool *pool)
{
	struct pm *pm = &pool->pm;
	struct pool_ahead *a;

	if (pm->domain != PM_MEMORY || pm->read_only || pm->populate || pool->ahead)
		return;
	a = calloc(1, sizeof(*a));
	if (!a)
		return;
	a->base = pm->base;
	a->len = pm->len;
	a->asked = calloc(pm->len / PIECE_BYTES / WORD_BITS + 1, sizeof(*a->asked));
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->changed, NULL);
	if (!a->asked || thread_begin(a)) {
		ahead_free(a);
		return;
	}
	pool->ahead = a;
	pm->ahead = ahead_ask;
	pm_ahead(pm, 0, 0);
}

void pool_ahead_end(struct pool *pool)
{
	struct pool_ahead *a = pool->ahead;

	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->stop = true;
	pthread_cond_signal(&a->changed);
	pthread_mutex_unlock(&a->lock);
	pthread_join(a->thread, NULL);
	ahead_free(a);
	pool->ahead = NULL;
	pool->pm.ahead = NULL;
}
