/* Fences of plain pools, and what lies deeper.
 *
 * In memory and persistent memory a fence is the lane's own. In files it is msync(2), and there the lanes meet: the kernel
 * reports a failed write-back once for each open file, to whoever asks first. So one thread at a time has the turn to ask, and
 * nobody is told "durable" before he has looked whether one before him was told "lost".
 *
 *   lane: ranges -> waiting -- turn free: takes all that wait, msyncs, ends the turn -- done
 *                           `- else sleeps; a fence that began after it came covers it
 *
 * So lanes that come while an msync runs share the next one, which costs about as much as that of a single range. Control
 * requests that store (SET_ATTR), and deep persists, which sync as well, take the same turn. */
#include "engine_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "errmsg.h"

void engine_sync_init(struct engine *e)
{
	pthread_mutex_init(&e->sync.lock, NULL);
	pthread_cond_init(&e->sync.over, NULL);
	e->sync.waiting = e->plain_pm;
	e->sync.next = 1;
}

void engine_sync_fini(struct engine *e)
{
	pthread_cond_destroy(&e->sync.over);
	pthread_mutex_destroy(&e->sync.lock);
}

/* ---------------------------------------------------------------- turns */

static void turn_over(struct engine *e, int err)
{
	if (err == -EIO)
		engine_fail(e, err);
	e->sync.turn = false;
	pthread_cond_broadcast(&e->sync.over);
}

int engine_turn_begin(struct engine *e)
{
	int err;

	pthread_mutex_lock(&e->sync.lock);
	while (e->sync.turn)
		pthread_cond_wait(&e->sync.over, &e->sync.lock);
	err = engine_failed(e);
	e->sync.turn = !err;
	pthread_mutex_unlock(&e->sync.lock);
	return err ? errmsg_set(err, "the medium failed before") : 0;
}

int engine_turn_end(struct engine *e, int err)
{
	pthread_mutex_lock(&e->sync.lock);
	turn_over(e, err);
	pthread_mutex_unlock(&e->sync.lock);
	return err;
}

/* ---------------------------------------------------------------- fences */

static void ranges_hand_over(struct pm *from, struct pm *to)
{
	for (unsigned i = 0; i < from->range_count; i++)
		pm_flush(to, from->ranges[i].off, from->ranges[i].len);
	from->range_count = 0;
}

/* Has the turn: one fence for all that wait. Called with the lock held, which it gives up meanwhile. */
static void fence_waiting(struct engine *e)
{
	struct pm taken = e->sync.waiting;
	uint64_t number = e->sync.next++;
	int err = engine_failed(e);

	e->sync.turn = true;
	e->sync.waiting.range_count = 0;
	pthread_mutex_unlock(&e->sync.lock);
	if (!err)
		err = pm_fence(&taken, PM_POINT_USER);
	pthread_mutex_lock(&e->sync.lock);
	e->sync.done = number;
	turn_over(e, err);
}

static int file_fence(struct engine *e, struct pm *pm)
{
	uint64_t number;
	int err;

	pthread_mutex_lock(&e->sync.lock);
	ranges_hand_over(pm, &e->sync.waiting);
	number = e->sync.next;
	while (e->sync.done < number) {
		if (e->sync.turn)
			pthread_cond_wait(&e->sync.over, &e->sync.lock);
		else
			fence_waiting(e);
	}
	err = engine_failed(e);
	pthread_mutex_unlock(&e->sync.lock);
	return err ? errmsg_set(err, "the medium failed") : 0;
}

int engine_plain_fence(struct call *c)
{
	return c->pm->domain == PM_FILE ? file_fence(c->e, c->pm) : pm_fence(c->pm, PM_POINT_USER);
}

/* ---------------------------------------------------------------- deeper */

static int ranges_msync(const struct call *c)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	for (uint32_t i = 0; i < c->v.range_count; i++) {
		uint64_t off = le64_get(c->v.ranges[i].off), from = off & ~(page - 1);

		if (msync(c->pm->base + from, off + le32_get(c->v.ranges[i].len) - from, MS_SYNC))
			return errmsg_set(-EIO, "msync of 0x%" PRIx64 ": %s", off, strerror(errno));
	}
	return 0;
}

/* Persistent memory may keep bytes in buffers of the platform beyond the fence; msync(2) of a DAX mapping has the driver
 * empty them (kernel: blkdev flush, nvdimm_flush). Files were synced by the fence, memory has nothing deeper. */
int engine_deep(struct call *c)
{
	int err;

	if (c->pm->domain != PM_PMEM)
		return 0;
	err = engine_turn_begin(c->e);
	return err ? err : engine_turn_end(c->e, ranges_msync(c));
}
