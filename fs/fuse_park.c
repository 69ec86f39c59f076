/* Requests that wait: parked ones for the core to take them, FSYNCs for their commit.
 *
 *   arrived --run--> answered
 *      | -EAGAIN          ^
 *      v                  |  front_retry, in order of arrival, after progress
 *   parked ---------------+
 *
 *   FSYNC --fs_sync_*--> waiting --done--> answered
 *
 * While something is parked, later changes queue behind it, so that nothing starves; FSYNCs do not, they only wait for
 * what was answered before them. A parked change has no deadline: it is not a failure of the file system when its policy
 * makes it wait. An FSYNC has one, which counts only while the policy forbids to acknowledge: EIO then. When another primary
 * has taken over, nothing can be acknowledged any more: EIO at once.
 *
 * FUSE_INTERRUPT comes with any signal, and a program does not expect EINTR from fsync on a file because a timer went
 * off: so the interrupt takes effect only when the answer is not there FRONT_INTERRUPT_GRACE_MS later. A killed process is
 * gone within that time.
 *
 * Write-back WRITEs (dirty pages of mappings) get no INTERRUPT, and the process that waits for them cannot be killed: it sits
 * in msync, munmap or its own end. So they do not wait for the policy, nor behind what does: they are staged at once, which
 * acknowledges nothing (see file_write.c for how far that reaches). The page may hold what an earlier write put into the page
 * cache, whose own WRITE is parked: that one is staged first, unanswered, so that it does not come over the page later. A
 * truncation keeps write-back of its file away by itself, in the kernel. A fence refuses them like every change.
 *
 * Parked requests take memory, so too many of them slow the reading of further ones. It does not end: among what has not
 * been read are the interrupts of killed processes, which the kernel hands out first, and the question for the status. So
 * one request is read every FRONT_FULL_PAUSE_MS, and at once the next one when it did not have to be parked. */
#include "fuse_front.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "log.h"

struct parked {
	TAILQ_ENTRY(parked) list;
	struct request rq;
	size_t bytes;
	uint8_t copies[]; /* name, other, data */
};

struct sync {
	TAILQ_ENTRY(sync) list;
	struct fs_waiter waiter;
	struct request rq;
	bool *finished; /* not NULL while fs_sync_* has not returned */
};

uint64_t front_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* libfuse calls it while it reads the INTERRUPT, or from fuse_req_interrupt_func: it may not answer here. */
static void note_interrupt(fuse_req_t req, void *data)
{
	struct request *rq = data;

	(void)req;
	if (rq->interrupted_ns == 0)
		rq->interrupted_ns = front_now_ns();
}

/* ---------------------------------------------------------------- parking */

static size_t copy_string(uint8_t *to, const char **text)
{
	size_t bytes = *text != NULL ? strlen(*text) + 1 : 0;

	if (bytes != 0 && to != NULL) {
		memcpy(to, *text, bytes);
		*text = (const char *)to;
	}
	return bytes;
}

static bool parked_beyond(const struct front *front, unsigned factor)
{
	return front->parked_count >= factor * FRONT_PARKED_MAX ||
	       front->parked_bytes >= (size_t)factor * FRONT_PARKED_BYTES_MAX;
}

static void park(const struct request *rq)
{
	const char *name = rq->name, *other = rq->other;
	size_t name_bytes = copy_string(NULL, &name), other_bytes = copy_string(NULL, &other);
	size_t bytes = sizeof(struct parked) + name_bytes + other_bytes + rq->len;
	struct parked *parked = malloc(bytes);

	if (parked == NULL) {
		front_reply_err(rq->req, -ENOMEM);
		return;
	}
	parked->rq = *rq;
	parked->bytes = bytes;
	copy_string(parked->copies, &parked->rq.name);
	copy_string(parked->copies + name_bytes, &parked->rq.other);
	if (rq->data != NULL) {
		memcpy(parked->copies + name_bytes + other_bytes, rq->data, rq->len);
		parked->rq.data = parked->copies + name_bytes + other_bytes;
	}
	if (parked->rq.since_ns == 0)
		parked->rq.since_ns = front_now_ns();
	TAILQ_INSERT_TAIL(&rq->front->parked, parked, list);
	rq->front->parked_count++;
	rq->front->parked_bytes += bytes;
	if (parked_beyond(rq->front, 1))
		rq->front->full_until_ns = front_now_ns() + FRONT_FULL_PAUSE_MS * 1000000ull;
	fuse_req_interrupt_func(rq->req, note_interrupt, &parked->rq);
}

/* The request was answered, or waits elsewhere. */
static void unpark(struct front *front, struct parked *parked)
{
	TAILQ_REMOVE(&front->parked, parked, list);
	front->parked_count--;
	front->parked_bytes -= parked->bytes;
	free(parked);
}

void front_take_sync(struct request *rq)
{
	int err = rq->run(rq);

	if (err == -EAGAIN)
		park(rq);
	else if (err != 0)
		front_reply_err(rq->req, err);
}

void front_take(struct request *rq)
{
	if (TAILQ_EMPTY(&rq->front->parked))
		front_take_sync(rq);
	else
		park(rq);
}

void front_take_back(struct request *rq)
{
	if (replication_ops.may_change(rq->front->repl) == -EAGAIN)
		front_take_sync(rq);
	else
		front_take(rq);
}

static bool overlaps(const struct request *a, const struct request *b)
{
	return a->ino == b->ino && a->off < b->off + b->len && b->off < a->off + a->len;
}

int front_write_back(struct request *rq)
{
	struct parked *parked;
	int err;

	TAILQ_FOREACH(parked, &rq->front->parked, list) {
		struct request *before = &parked->rq;

		if (before == rq)
			break;
		if (before->data == NULL || !overlaps(before, rq))
			continue;
		/* what it fails with is its own answer, when its turn comes */
		err = fs_write_back(before->front->fs, before->ino, before->off, before->data, before->len, &before->done);
		if (err == -EAGAIN)
			return err;
	}
	return fs_write_back(rq->front->fs, rq->ino, rq->off, rq->data, rq->len, &rq->done);
}

void front_retry(struct front *front)
{
	struct parked *parked, *next;
	int err;

	for (parked = TAILQ_FIRST(&front->parked); parked != NULL; parked = next) {
		next = TAILQ_NEXT(parked, list);
		err = parked->rq.run(&parked->rq);
		if (err == -EAGAIN)
			continue; /* what stands behind it may be what frees the space it needs */
		if (err != 0)
			front_reply_err(parked->rq.req, err);
		unpark(front, parked);
	}
}

bool front_full(const struct front *front)
{
	if (!parked_beyond(front, 1))
		return false;
	return parked_beyond(front, FRONT_FULL_FACTOR) || front_now_ns() < front->full_until_ns;
}

/* ---------------------------------------------------------------- FSYNC */

static void sync_answer(struct sync *sync, int err)
{
	if (sync->finished != NULL)
		*sync->finished = true;
	TAILQ_REMOVE(&sync->rq.front->syncs, sync, list);
	if (err == 0 && sync->rq.written != 0)
		fuse_reply_write(sync->rq.req, sync->rq.written);
	else
		front_reply_err(sync->rq.req, err);
	free(sync);
}

static void sync_done(struct fs_waiter *waiter, int err)
{
	struct sync *sync = (struct sync *)((char *)waiter - offsetof(struct sync, waiter));

	if (err == 0)
		sync->rq.front->policy_logged = false;
	sync_answer(sync, err);
}

/* Once per outage. */
static void log_policy(struct front *front, const char *what)
{
	struct replication_status *status;

	if (front->policy_logged)
		return;
	front->policy_logged = true;
	status = calloc(1, sizeof(*status));
	if (status != NULL)
		replication_status(front->repl, status);
	log_error("fsync: %s, answering EIO: %s", what,
		  status != NULL && status->why_not[0] != '\0' ? status->why_not : "too few replicas");
	free(status);
}

/* Whether nothing will ever be acknowledged again. */
static bool is_fenced(const struct front *front)
{
	return replication_ops.may_change(front->repl) == -EROFS;
}

/* The core takes no change: its own reason is in the log, a fence's is the policy's. */
static int sync_refused(struct front *front)
{
	if (is_fenced(front))
		log_policy(front, "cannot be acknowledged");
	return -EIO;
}

int front_run_sync(struct request *rq)
{
	struct front *front = rq->front;
	struct sync *sync = calloc(1, sizeof(*sync));
	bool finished = false;
	int err;

	if (sync == NULL)
		return -ENOMEM;
	sync->rq = *rq;
	sync->waiter.done = sync_done;
	sync->finished = &finished;
	TAILQ_INSERT_TAIL(&front->syncs, sync, list);
	if (rq->ino == 0)
		err = fs_sync_all(front->fs, &sync->waiter);
	else
		err = fs_sync_inode(front->fs, rq->ino, &sync->waiter);
	if (finished)
		return 0;
	if (err != 0) {
		TAILQ_REMOVE(&front->syncs, sync, list);
		free(sync);
		return err == -EROFS ? sync_refused(front) : err;
	}
	sync->finished = NULL;
	if (sync->rq.since_ns == 0)
		sync->rq.since_ns = front_now_ns();
	fuse_req_interrupt_func(rq->req, note_interrupt, &sync->rq);
	return 0;
}

/* ---------------------------------------------------------------- giving up */

static bool is_sync(const struct request *rq)
{
	return rq->run == front_run_sync;
}

/* When a waiting request is to be looked at again; UINT64_MAX: never. */
static uint64_t request_due(const struct request *rq)
{
	uint64_t due = UINT64_MAX, at;

	if (is_sync(rq))
		due = rq->since_ns + rq->front->timeout_ms * 1000000ull;
	if (rq->interrupted_ns != 0) {
		at = rq->interrupted_ns + FRONT_INTERRUPT_GRACE_MS * 1000000ull;
		due = at < due ? at : due;
	}
	return due;
}

/* The error with which a request stops waiting now, 0: it goes on. */
static int request_verdict(struct request *rq, bool fenced, uint64_t now)
{
	struct front *front = rq->front;
	char what[64];

	if (fenced && is_sync(rq))
		return sync_refused(front);
	if (now < request_due(rq))
		return 0;
	if (rq->interrupted_ns != 0 && now >= rq->interrupted_ns + FRONT_INTERRUPT_GRACE_MS * 1000000ull)
		return -EINTR;
	if (replication_ops.may_change(front->repl) == 0) {
		rq->since_ns = now; /* slow, but on its way */
		return 0;
	}
	snprintf(what, sizeof(what), "not acknowledged within %u ms", front->timeout_ms);
	log_policy(front, what);
	return -EIO;
}

void front_tick(struct front *front)
{
	struct parked *parked, *next_parked;
	struct sync *sync, *next_sync;
	uint64_t now;
	bool fenced;
	int err;

	if (TAILQ_EMPTY(&front->parked) && TAILQ_EMPTY(&front->syncs))
		return;
	now = front_now_ns();
	fenced = is_fenced(front);
	for (parked = TAILQ_FIRST(&front->parked); parked != NULL; parked = next_parked) {
		next_parked = TAILQ_NEXT(parked, list);
		err = request_verdict(&parked->rq, fenced, now);
		if (err == 0)
			continue;
		front_reply_err(parked->rq.req, err);
		unpark(front, parked);
	}
	for (sync = TAILQ_FIRST(&front->syncs); sync != NULL; sync = next_sync) {
		next_sync = TAILQ_NEXT(sync, list);
		err = request_verdict(&sync->rq, fenced, now);
		if (err == 0)
			continue;
		fs_waiter_cancel(&sync->waiter);
		sync_answer(sync, err);
	}
}

int front_timeout_ms(const struct front *front)
{
	const struct parked *parked;
	const struct sync *sync;
	uint64_t due = UINT64_MAX, now, at;

	if (front_full(front) && !parked_beyond(front, FRONT_FULL_FACTOR))
		due = front->full_until_ns;
	TAILQ_FOREACH(parked, &front->parked, list) {
		at = request_due(&parked->rq);
		due = at < due ? at : due;
	}
	TAILQ_FOREACH(sync, &front->syncs, list) {
		at = request_due(&sync->rq);
		due = at < due ? at : due;
	}
	if (due == UINT64_MAX)
		return -1;
	now = front_now_ns();
	return due <= now ? 0 : (int)((due - now) / 1000000u + 1);
}

/* ---------------------------------------------------------------- life */

int front_init(struct front *front)
{
	TAILQ_INIT(&front->parked);
	TAILQ_INIT(&front->syncs);
	front->list_buf = malloc(FRONT_WRITE_BYTES_MAX);
	return front->list_buf != NULL ? 0 : -ENOMEM;
}

void front_fini(struct front *front)
{
	struct parked *parked, *next_parked;
	struct sync *sync, *next_sync;

	for (parked = TAILQ_FIRST(&front->parked); parked != NULL; parked = next_parked) {
		next_parked = TAILQ_NEXT(parked, list);
		front_reply_err(parked->rq.req, -ENOTCONN);
		unpark(front, parked);
	}
	for (sync = TAILQ_FIRST(&front->syncs); sync != NULL; sync = next_sync) {
		next_sync = TAILQ_NEXT(sync, list);
		fs_waiter_cancel(&sync->waiter);
		sync_answer(sync, -ENOTCONN);
	}
	free(front->list_buf);
	free(front->status);
	front->list_buf = NULL;
	front->status = NULL;
}
