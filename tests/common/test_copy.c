/* Tests rpmem/copy.c: appending, ring space, per-copy page, reset, and what a failed fence leaves behind. */
#include "copy.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/copy_rig.h"
#include "errmsg.h"

static struct rig rig;
static unsigned stores;

static void setup(void)
{
	rig_init(&rig, RIG_POOL_BYTES, RIG_RING_BYTES);
}

static void teardown(void)
{
	rig.pm.fail = NULL;
	rig.pm.observer = NULL;
	rig_fini(&rig);
}

TestSuite(copy, .init = setup, .fini = teardown);

static void count_store(void *ctx, uint64_t off, const void *bytes, uint64_t len)
{
	(void)ctx;
	(void)off;
	(void)bytes;
	(void)len;
	stores++;
}

static bool keep_fence(void *ctx, enum pm_point point)
{
	(void)ctx;
	(void)point;
	return true;
}

static void expect_head_hash(const struct hash128 *want)
{
	struct copy_point head = copy_head(rig.copy);

	cr_expect_eq(memcmp(&head.hash, want, sizeof(*want)), 0);
}

static const struct pm_observer counter = { .stored = count_store, .fence = keep_fence };

Test(copy, fresh_copy_is_empty)
{
	struct copy_point tail = copy_tail(rig.copy), head = copy_head(rig.copy);

	cr_expect(tail.seq == 0 && head.seq == 0 && head.epoch == 0);
	cr_expect_eq(copy_used_blks(rig.copy), 0);
	cr_expect_eq(copy_ring_used(rig.copy), 0);
	cr_expect_eq(copy_ring_free(rig.copy), RIG_RING_BYTES - 64);
	cr_expect_null(copy_find(rig.copy, 0));
	cr_expect_null(copy_find(rig.copy, 1));
	cr_expect_eq(copy_checkpoint(rig.copy, UINT64_MAX, UINT64_MAX), 0);
	cr_expect_eq(rig.first, le64_get(copy_sb(rig.copy)->root_blk));
}

Test(copy, append_moves_head_and_survives)
{
	struct copy_point head;

	cr_assert_eq(rig_commit_data(&rig, rig.first + 3, 0x11), 0);
	cr_assert_eq(rig_commit_data(&rig, rig.first + 4, 0x12), 0);
	cr_assert_eq(rig_commit_free(&rig, rig.first + 3), 0);
	head = copy_head(rig.copy);
	cr_expect_eq(head.seq, 3);
	cr_expect_eq(head.epoch, 1);
	cr_expect_eq(copy_used_blks(rig.copy), 1);
	cr_assert_eq(rig_reopen(&rig), 0);
	cr_expect_eq(copy_head(rig.copy).seq, 3);
	expect_head_hash(&head.hash);
	cr_expect_eq(copy_used_blks(rig.copy), 1);
	cr_expect_eq(copy_tail(rig.copy).seq, 0);
}

/* Data is fenced before the record is stored, the record before head moves. */
static unsigned order[8], order_count;

static bool note_fence(void *ctx, enum pm_point point)
{
	(void)ctx;
	order[order_count++ % 8] = point << 8 | stores;
	return true;
}

Test(copy, append_order)
{
	static const struct pm_observer watch = { .stored = count_store, .fence = note_fence };

	rig.pm.observer = &watch;
	cr_assert_eq(rig_commit_data(&rig, rig.first, 1), 0);
	cr_assert_eq(order_count, 2);
	cr_expect_eq(order[0], PM_POINT_DATA << 8 | 1);
	cr_expect_eq(order[1], PM_POINT_RECORD << 8 | 2);
}

/* Each refusal happens before a store, and the copy goes on working. */
static void expect_refused(const void *rec, uint32_t len, int err)
{
	struct copy_point head = copy_head(rig.copy);

	stores = 0;
	rig.pm.observer = &counter;
	cr_expect_eq(copy_append(rig.copy, rec, len), err, "not %d: %s", err, errmsg_get());
	rig.pm.observer = NULL;
	cr_expect_eq(stores, 0);
	cr_expect_eq(copy_head(rig.copy).seq, head.seq);
}

Test(copy, append_refuses_what_does_not_continue)
{
	static const struct hash128 other = { { 1 } };
	struct copy_point head;
	struct hash128 hash;
	const void *rec;
	uint32_t len;

	rig.epoch = 5;
	cr_assert_eq(rig_commit_bytes(&rig, 256), 0);
	head = copy_head(rig.copy);
	cr_assert_eq(redo_finish(rig.b, 3, 5, &head.hash, 0, &rec, &len, &hash), 0);
	expect_refused(rec, len, -EILSEQ);
	cr_assert_eq(redo_finish(rig.b, 1, 5, &head.hash, 0, &rec, &len, &hash), 0);
	expect_refused(rec, len, -EILSEQ);
	cr_assert_eq(redo_finish(rig.b, 2, 5, &other, 0, &rec, &len, &hash), 0);
	expect_refused(rec, len, -EILSEQ);
	cr_assert_eq(redo_finish(rig.b, 2, 4, &head.hash, 0, &rec, &len, &hash), 0);
	expect_refused(rec, len, -ESTALE);
	cr_assert_eq(redo_finish(rig.b, 2, 5, &head.hash, 0, &rec, &len, &hash), 0);
	expect_refused(rec, len - 64, -EBADMSG);
	expect_refused(rec, 0, -EBADMSG);
	cr_expect_eq(copy_append(rig.copy, rec, len), 0);
}

Test(copy, fence_epoch_refuses_older_records)
{
	struct copy_page page = *copy_page(rig.copy);

	page.fence_epoch = 7;
	cr_assert_eq(copy_page_set(rig.copy, &page), 0);
	rig.epoch = 6;
	rig_seal(&rig);
	expect_refused(rig.rec, rig.rec_len, -ESTALE);
	rig.epoch = 7;
	cr_expect_eq(rig_commit_bytes(&rig, 128), 0);
	cr_assert_eq(rig_reopen(&rig), 0);
	rig.epoch = 6;
	rig_seal(&rig);
	expect_refused(rig.rec, rig.rec_len, -ESTALE);
}

Test(copy, append_refuses_impossible_use)
{
	cr_assert_eq(redo_free(rig.b, rig.first), 0);
	rig_seal(&rig);
	expect_refused(rig.rec, rig.rec_len, -EBADMSG);
	cr_assert_eq(rig_commit_data(&rig, rig.first, 1), 0);
	cr_expect_eq(rig_commit_free(&rig, rig.first), 0);
}

/* Appends until full, checkpoints, and again: the ring is never overrun, space comes back with the tail. */
Test(copy, full_ring_refuses_until_checkpoint)
{
	for (unsigned lap = 0; lap < 3; lap++) {
		uint64_t seq = copy_head(rig.copy).seq, before;
		int err;

		do {
			before = copy_ring_free(rig.copy);
			err = rig_commit_bytes(&rig, 16384);
			if (!err)
				cr_assert_eq(copy_ring_free(rig.copy), before - 16384);
		} while (!err);
		cr_assert_eq(err, -ENOSPC);
		cr_assert_eq(before, 16384 - 64);
		cr_expect_eq(rig_commit_bytes(&rig, 16384 - 64), 0);
		cr_expect_eq(copy_ring_free(rig.copy), 0);
		rig_seal(&rig);
		expect_refused(rig.rec, rig.rec_len, -ENOSPC);
		cr_assert_eq(rig_reopen(&rig), 0);
		cr_expect_eq(copy_head(rig.copy).seq, seq + 32);
		cr_assert_eq(copy_checkpoint(rig.copy, seq + 1, 1), 0);
		cr_expect_eq(copy_ring_free(rig.copy), 16384);
		cr_assert_eq(copy_checkpoint(rig.copy, UINT64_MAX, UINT64_MAX), 0);
		cr_expect_eq(copy_ring_free(rig.copy), RIG_RING_BYTES - 64);
	}
}

/* A record across the ring's end, cut at every line. */
Test(copy, wraps_at_every_alignment)
{
	const uint32_t len = 640;

	for (uint32_t before = 64; before < len; before += 64) {
		uint8_t *got = aligned_alloc(64, RIG_REC_MAX);
		uint64_t pos = 0;

		teardown();
		setup();
		while (pos < RIG_RING_BYTES - before) {
			uint64_t left = RIG_RING_BYTES - before - pos;
			uint32_t take = left > 20000 ? 16384 : (uint32_t)left;

			cr_assert_eq(rig_commit_bytes(&rig, take), 0, "%s", errmsg_get());
			cr_assert_eq(copy_checkpoint(rig.copy, UINT64_MAX, UINT64_MAX), 0);
			pos += take;
		}
		cr_assert_eq(rig_commit_bytes(&rig, len), 0);
		cr_assert_eq(copy_find(rig.copy, copy_head(rig.copy).seq)->pos, pos % RIG_RING_BYTES);
		cr_assert_eq(rig_commit_bytes(&rig, 256), 0);
		cr_assert_eq(rig_reopen(&rig), 0, "%u: %s", before, errmsg_get());
		cr_assert_eq(copy_ring_used(rig.copy), len + 256);
		copy_rec_read(rig.copy, copy_find(rig.copy, copy_tail(rig.copy).seq + 2), got);
		cr_expect_eq(memcmp(got, rig.rec, rig.rec_len), 0);
		cr_expect_eq(copy_checkpoint(rig.copy, UINT64_MAX, UINT64_MAX), 0, "%u: %s", before, errmsg_get());
		free(got);
	}
}

/* Random lengths over many laps, checkpoints to random points, reopened again and again: every record in the ring is
 * found with its bytes, and the points agree. */
Test(copy, many_laps)
{
	enum { COUNT = 6000 };
	static struct {
		struct hash128 hash;
		uint32_t len;
	} sent[COUNT + 1];
	uint8_t *got = aligned_alloc(64, RIG_REC_MAX);

	srandom(3);
	for (unsigned seq = 1; seq <= COUNT; seq++) {
		uint32_t len = random() % 8 ? 256 + 64 * ((uint32_t)random() % 60) : 128;
		int err = rig_commit_bytes(&rig, len);

		if (err == -ENOSPC || random() % 50 == 0) {
			uint64_t tail = copy_tail(rig.copy).seq, span = copy_head(rig.copy).seq - tail;

			cr_assert_eq(copy_checkpoint(rig.copy, tail + 1 + (uint64_t)random() % (span + 1),
					     (uint64_t)random() % 300000),
				0, "%s", errmsg_get());
			cr_assert(!span || copy_tail(rig.copy).seq > tail);
			while (err == -ENOSPC) {
				err = copy_append(rig.copy, rig.rec, rig.rec_len);
				if (err)
					cr_assert_eq(copy_checkpoint(rig.copy, UINT64_MAX, 1), 0);
			}
		}
		cr_assert_eq(err, 0, "%s", errmsg_get());
		sent[seq].hash = copy_head(rig.copy).hash;
		sent[seq].len = len;
		if (random() % 20)
			continue;
		cr_assert_eq(rig_reopen(&rig), 0, "%u: %s", seq, errmsg_get());
		cr_assert_eq(copy_head(rig.copy).seq, seq);
		for (uint64_t at = copy_tail(rig.copy).seq + 1; at <= seq; at++) {
			const struct copy_rec *rec = copy_find(rig.copy, at);
			struct hash128 hash;

			cr_assert_not_null(rec);
			cr_assert(rec->at.seq == at && rec->len == sent[at].len);
			copy_rec_read(rig.copy, rec, got);
			hash = csum_hash128(got, rec->len);
			cr_assert_eq(memcmp(&hash, &sent[at].hash, sizeof(hash)), 0);
		}
		cr_assert_null(copy_find(rig.copy, copy_tail(rig.copy).seq));
		cr_assert_null(copy_find(rig.copy, seq + 1));
	}
	free(got);
}

/* ---------------------------------------------------------------------------------------------- failed fences */

static enum pm_point failing;

static int fail_one(enum pm_point point)
{
	return point == failing ? -EIO : 0;
}

/* Whatever fence failed, nothing works afterwards; a fresh open does. */
Test(copy, failed_fence_is_final)
{
	static const enum pm_point points[] = { PM_POINT_DATA, PM_POINT_RECORD, PM_POINT_REPLAY, PM_POINT_SUPERBLOCK,
		PM_POINT_PAGE };

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		struct copy_page page = *copy_page(rig.copy);
		int err = rig_commit_bytes(&rig, 256);

		cr_assert_eq(err, 0);
		failing = points[i];
		rig.pm.fail = fail_one;
		if (failing == PM_POINT_DATA || failing == PM_POINT_RECORD)
			err = rig_commit_bytes(&rig, 256);
		else if (failing == PM_POINT_PAGE)
			err = copy_page_set(rig.copy, &page);
		else
			err = copy_checkpoint(rig.copy, UINT64_MAX, UINT64_MAX);
		cr_expect_eq(err, -EIO);
		rig.pm.fail = NULL;
		cr_expect_eq(copy_append(rig.copy, rig.rec, rig.rec_len), -EIO);
		cr_expect_eq(copy_checkpoint(rig.copy, UINT64_MAX, UINT64_MAX), -EIO);
		cr_expect_eq(copy_page_set(rig.copy, &page), -EIO);
		cr_expect_eq(copy_reset(rig.copy, &(struct copy_point){ 0 }, 0), -EIO);
		cr_assert_eq(rig_reopen(&rig), 0, "%s", errmsg_get());
	}
}

Test(copy, read_only_refuses_changes)
{
	struct copy_page page = *copy_page(rig.copy);

	cr_assert_eq(rig_commit_bytes(&rig, 256), 0);
	copy_close(rig.copy);
	rig.pm.read_only = true;
	cr_assert_eq(copy_open(&rig.pm, true, &rig.copy), 0);
	cr_expect_eq(copy_head(rig.copy).seq, 1);
	rig_seal(&rig);
	cr_expect_eq(copy_append(rig.copy, rig.rec, rig.rec_len), -EROFS);
	cr_expect_eq(copy_checkpoint(rig.copy, UINT64_MAX, UINT64_MAX), -EROFS);
	cr_expect_eq(copy_page_set(rig.copy, &page), -EROFS);
	cr_expect_eq(copy_reset(rig.copy, &(struct copy_point){ 0 }, 0), -EROFS);
}

/* ---------------------------------------------------------------------------------------------- page and reset */

/* Slots take turns; when the newest is torn at any byte, the one before counts. */
Test(copy, page_falls_back_when_torn)
{
	for (unsigned round = 1; round < 6; round++) {
		struct copy_page page = *copy_page(rig.copy);
		uint8_t *block = rig.pm.base + 4096, before[4096];

		memcpy(before, block, sizeof(before));
		page.fence_epoch = round;
		page.instance[0] = (uint8_t)round;
		cr_assert_eq(copy_page_set(rig.copy, &page), 0);
		cr_expect_eq(copy_page(rig.copy)->fence_epoch, round);
		for (unsigned cut = 0; cut <= 4096; cut += 8) {
			uint8_t after[4096];

			memcpy(after, block, sizeof(after));
			memcpy(block + cut, before + cut, sizeof(before) - cut);
			cr_assert_eq(rig_reopen(&rig), 0);
			cr_assert(copy_page(rig.copy)->fence_epoch == round ||
				  copy_page(rig.copy)->fence_epoch == round - 1);
			memcpy(block, after, sizeof(after));
		}
		cr_assert_eq(rig_reopen(&rig), 0);
		cr_expect_eq(copy_page(rig.copy)->fence_epoch, round);
		cr_expect_eq(copy_page(rig.copy)->instance[0], round);
	}
}

static void set_state(uint32_t state)
{
	struct copy_page page = *copy_page(rig.copy);

	page.state = state;
	cr_assert_eq(copy_page_set(rig.copy, &page), 0);
}

Test(copy, reset_only_while_inconsistent)
{
	struct copy_point at = { .seq = 1000, .epoch = 9, .hash = { { 1, 2, 3 } } };

	cr_assert_eq(rig_commit_bytes(&rig, 256), 0);
	cr_expect_eq(copy_reset(rig.copy, &at, 5), -EPERM);
	set_state(MEDIA_INCONSISTENT);
	cr_expect_eq(copy_reset(rig.copy, &at, UINT64_MAX), -EINVAL);
	cr_assert_eq(copy_reset(rig.copy, &at, 5), 0);
	cr_expect_eq(copy_head(rig.copy).seq, 1000);
	cr_expect_eq(copy_used_blks(rig.copy), 5);
	cr_expect_eq(copy_ring_used(rig.copy), 0);
	set_state(MEDIA_CONSISTENT);
	cr_assert_eq(rig_reopen(&rig), 0);
	cr_expect_eq(copy_tail(rig.copy).seq, 1000);
	cr_expect_eq(copy_head(rig.copy).epoch, 9);
	expect_head_hash(&at.hash);
	rig.epoch = 9;
	cr_expect_eq(rig_commit_bytes(&rig, 256), 0);
	for (uint64_t at_byte = 256; at_byte < RIG_RING_BYTES; at_byte += 8)
		cr_assert_eq(*(const uint64_t *)pm_ptr(&rig.pm, media_ring_off(at_byte)), 0);
}

/* Back to an earlier point, cut off between the superblocks, or with the ring half zeroed: the copy still opens, since
 * its page says what it is, and the reset can be done again. */
Test(copy, interrupted_reset_opens_and_is_repeated)
{
	struct copy_point at = { .seq = 2, .epoch = 1, .hash = { { 7 } } };
	uint8_t *sbs = rig.pm.base + 0x2000, before[8192];

	for (unsigned i = 0; i < 10; i++)
		cr_assert_eq(rig_commit_bytes(&rig, 256), 0);
	cr_assert_eq(copy_checkpoint(rig.copy, 5, UINT64_MAX), 0);
	set_state(MEDIA_INCONSISTENT);
	memset(rig.pm.base + media_ring_off(5 * 256), 0, 256);
	cr_assert_eq(rig_reopen(&rig), 0);
	memcpy(before, sbs, sizeof(before));
	for (unsigned slot = 0; slot < 2; slot++) {
		cr_assert_eq(copy_reset(rig.copy, &at, 0), 0);
		memcpy(sbs + slot * 4096, before + slot * 4096, 4096);
		cr_assert_eq(rig_reopen(&rig), 0, "%s", errmsg_get());
	}
	cr_assert_eq(copy_reset(rig.copy, &at, 0), 0);
	set_state(MEDIA_CONSISTENT);
	cr_assert_eq(rig_reopen(&rig), 0, "%s", errmsg_get());
	cr_expect_eq(copy_head(rig.copy).seq, 2);
}
