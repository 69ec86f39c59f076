/* Requests that wait while the policy forbids changes, and what does not wait: the callbacks of the FUSE adapter over a core
 * whose only replica comes and goes. libfuse is not there: what it would send is noted in the request. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "fs/fs_impl.h"
#include "fs/fuse_front.h"
#include "fs/policy.h"
#include "tests/support/core_rig.h"

#define MIB (1ull << 20)
#define BLK MEDIA_BLOCK_BYTES

struct fuse_req {
	bool answered;
	int err;        /* negative errno, 0 */
	size_t written; /* answered with so many bytes */
};

static struct core_rig rig;
static struct front front;
static struct replication repl;
static struct poolset_replica conf = { .name = "second" };
static const struct fs_cred cred;
static uint64_t ino;

/* ---------------------------------------------------------------- instead of libfuse */

int fuse_reply_err(fuse_req_t req, int err)
{
	cr_assert_not(req->answered, "answered twice");
	*req = (struct fuse_req){ .answered = true, .err = -err };
	return 0;
}

int fuse_reply_write(fuse_req_t req, size_t count)
{
	cr_assert_not(req->answered, "answered twice");
	*req = (struct fuse_req){ .answered = true, .written = count };
	return 0;
}

void *fuse_req_userdata(fuse_req_t req)
{
	(void)req;
	return &front;
}

const struct fuse_ctx *fuse_req_ctx(fuse_req_t req)
{
	static const struct fuse_ctx ctx;

	(void)req;
	return &ctx;
}

void fuse_req_interrupt_func(fuse_req_t req, fuse_interrupt_func_t func, void *data)
{
	(void)req, (void)func, (void)data;
}

/* ---------------------------------------------------------------- rig */

/* A replica that has everything at once, while it is there. */
static void replica(bool there)
{
	repl.slots[0].state = there ? SLOT_LIVE : SLOT_DOWN;
}

static void start(uint64_t bytes, uint64_t ring_bytes)
{
	core_rig_make(&rig, bytes, ring_bytes);
	repl = (struct replication){ .slot_count = 1, .min_old = 1, .min_new = 1 };
	repl.slots[0] = (struct slot){
		.conf = &conf, .counts = true, .member = FS_MEMBER_ATTACHED, .mark = UINT64_MAX, .tail = UINT64_MAX,
		.post_err = -ENOTCONN, /* there is no link: posts pass it by */
	};
	replica(true);
	rig.cfg.repl = &replication_ops;
	rig.cfg.repl_ctx = &repl;
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	repl.copy = rig.copy;
	repl.fs = rig.fs;
	front = (struct front){ .fs = rig.fs, .repl = &repl, .timeout_ms = 600000 };
	cr_assert_eq(front_init(&front), 0);
	cr_assert_eq(fs_create(rig.fs, FS_ROOT_INO, "f", S_IFREG | 0644, 0, &cred, &ino), 0);
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
}

static void setup(void)
{
	start(64 * MIB, 0);
}

static void setup_small_ring(void)
{
	start(64 * MIB, MEDIA_RING_BYTES_MIN);
}

static void teardown(void)
{
	front_fini(&front);
	core_rig_free(&rig);
}

TestSuite(park, .init = setup, .fini = teardown, .timeout = 60);

/* What the loop does in each round. */
static void rounds(void)
{
	for (unsigned i = 0; i < 1000; i++) {
		bool moved = fs_poll(rig.fs);

		front_retry(&front);
		front_tick(&front);
		if (!moved && i > 10)
			return;
	}
	cr_assert_fail("does not come to rest");
}

static void put(struct fuse_req *req, uint64_t off, uint8_t byte, size_t len, bool back)
{
	struct fuse_file_info fi = { .writepage = back };
	char *buf = malloc(len);

	*req = (struct fuse_req){ .answered = false };
	memset(buf, byte, len);
	front_ops.write(req, ino, buf, len, (off_t)off, &fi);
	free(buf);
}

static void sync_file(struct fuse_req *req)
{
	struct fuse_file_info fi = { .flags = 0 };

	*req = (struct fuse_req){ .answered = false };
	front_ops.fsync(req, ino, 0, &fi);
}

static void expect_bytes(uint64_t off, uint8_t byte, size_t len)
{
	uint8_t *buf = malloc(len);
	size_t got = 0;

	cr_assert_eq(fs_read(rig.fs, ino, off, buf, len, &got), 0, "%s", errmsg_get());
	cr_assert_eq(got, len);
	for (size_t i = 0; i < len; i++)
		cr_assert_eq(buf[i], byte, "byte %zu: %#x, expected %#x", i, buf[i], byte);
	free(buf);
}

/* ---------------------------------------------------------------- write-back */

/* Who waits for it cannot be killed: it is answered while everything else waits, and commits and acknowledges nothing. */
Test(park, write_back_is_taken_while_changes_wait)
{
	struct fuse_req write, back, sync;
	uint64_t before;

	replica(false);
	before = fs_committed_seq(rig.fs);
	put(&write, 0, 'a', BLK, false);
	put(&back, 4 * BLK, 'b', 64 * BLK, true);
	cr_expect(back.answered && back.written == 64 * BLK);
	cr_expect_not(write.answered, "a program's change waits");
	sync_file(&sync);
	rounds();
	cr_expect(!write.answered && !sync.answered);
	cr_expect_eq(fs_committed_seq(rig.fs), before, "nothing is committed below the rule");
	expect_bytes(4 * BLK, 'b', 64 * BLK);

	replica(true);
	rounds();
	cr_expect(write.answered && write.written == BLK);
	cr_expect(sync.answered && sync.err == 0);
	cr_expect_gt(fs_committed_seq(rig.fs), before);
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	repl.copy = rig.copy;
	front.fs = repl.fs = rig.fs;
	expect_bytes(4 * BLK, 'b', 64 * BLK);
}

/* A page written back again and again takes one block: nothing of it was sent ahead. */
Test(park, write_back_of_the_same_pages_takes_no_more_space)
{
	struct fuse_req back;
	uint64_t free_blks = 0;

	replica(false);
	for (unsigned i = 0; i < 100; i++) {
		put(&back, 0, (uint8_t)i, 64 * BLK, true);
		cr_assert(back.answered && back.written == 64 * BLK);
		if (i == 0)
			free_blks = alloc_free_blks(rig.fs);
	}
	cr_expect_eq(alloc_free_blks(rig.fs), free_blks);
}

/* The page cache held the bytes of the waiting write when its page was written back: they do not come over it afterwards. */
Test(park, an_earlier_write_does_not_come_over_a_page_written_back)
{
	struct fuse_req write, beside, back, sync;

	put(&write, 0, 'x', 2 * BLK, false);
	replica(false);
	put(&write, 100, 'a', BLK, false);
	put(&beside, 8 * BLK, 'c', BLK, false);
	put(&back, 0, 'b', BLK, true);
	cr_expect(back.answered && back.written == BLK);
	cr_expect_not(write.answered);
	replica(true);
	rounds();
	cr_expect(write.answered && write.written == BLK);
	cr_expect(beside.answered && beside.written == BLK);
	sync_file(&sync);
	rounds();
	cr_expect(sync.answered && sync.err == 0);
	expect_bytes(0, 'b', BLK);
	expect_bytes(BLK, 'a', 100);
	expect_bytes(BLK + 100, 'x', BLK - 100);
	expect_bytes(8 * BLK, 'c', BLK);
}

/* More than one record holds waits for the commit that it needs, and goes on when there may be one. */
Test(park, write_back_beyond_one_record_waits, .init = setup_small_ring)
{
	struct fuse_req back[32], sync;
	unsigned taken = 0;
	uint64_t before;

	replica(false);
	before = fs_committed_seq(rig.fs);
	for (unsigned i = 0; i < 32; i++) {
		put(&back[i], (uint64_t)i * 64 * BLK, (uint8_t)(i + 1), 64 * BLK, true);
		taken += back[i].answered;
	}
	rounds();
	cr_expect_geq(taken * 64 * BLK, MIB, "more than the stream's usual share");
	cr_expect_lt(taken, 32);
	cr_expect_eq(fs_committed_seq(rig.fs), before);
	replica(true);
	rounds();
	sync_file(&sync);
	rounds();
	cr_expect(sync.answered && sync.err == 0);
	for (unsigned i = 0; i < 32; i++) {
		cr_expect(back[i].answered && back[i].written == 64 * BLK, "piece %u", i);
		expect_bytes((uint64_t)i * 64 * BLK, (uint8_t)(i + 1), 64 * BLK);
	}
}

/* ---------------------------------------------------------------- fence */

/* Nothing will be acknowledged any more: nobody waits for the timeout, and write-back is refused like every change. */
Test(park, fence_answers_every_waiting_fsync_at_once)
{
	struct fuse_req write, clean, dirty, parked, late, back;
	struct replication_status status;

	put(&write, 0, 'a', BLK, false);
	sync_file(&clean); /* its commit flies ... */
	cr_assert(write.answered && clean.answered);
	put(&write, 0, 'b', BLK, false);
	repl.slots[0].mark = 0; /* ... and from here on no answer comes */
	sync_file(&dirty);
	replica(false);
	put(&write, 0, 'c', BLK, true);
	sync_file(&parked);
	rounds();
	cr_expect(!dirty.answered && !parked.answered);

	repl.fenced = true;
	rounds();
	cr_expect(dirty.answered && dirty.err == -EIO);
	cr_expect(parked.answered && parked.err == -EIO);
	sync_file(&late);
	rounds();
	cr_expect(late.answered && late.err == -EIO);
	put(&back, 0, 'd', BLK, true);
	cr_expect(back.answered && back.err == -EROFS);
	replication_status(&repl, &status);
	cr_expect(!status.may_change && strstr(status.why_not, "old primary"));
}
