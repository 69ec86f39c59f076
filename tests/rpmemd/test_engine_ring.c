/* The engine and its ring: room is made as commits settle, never beyond what settled, and never past damage. */
#include "tests/support/engine_rig.h"

TestSuite(engine_ring, .init = set_up, .fini = tear_down);

/* Commits with one metadata block each, until count or a refusal; returns how many were taken. */
static unsigned fill_ring(unsigned count, uint64_t settled_lag, unsigned *status)
{
	unsigned done = 0;

	for (*status = WIRE_OK; done < count; done++) {
		struct copy_point head = copy_head(copy);
		uint64_t blk = first_blk + 100 + done % 8;
		struct rec r = { .seq = head.seq + 1 };
		struct hash128 hash;

		redo_begin(builder);
		if (done < 8)
			redo_link(builder, blk, MEDIA_META_FIRST, csum_crc32c(0, page_of[done & 255], 4096));
		redo_lines(builder, blk, MEDIA_META_FIRST, UINT64_MAX, page_of[done & 255]);
		cr_assert_eq(redo_finish(builder, r.seq, 1, &head.hash, 1, &r.bytes, &r.len, &hash), 0);
		req(0, LANE_COMMIT, r.seq);
		hdr()->tail = le64_put(r.seq > settled_lag ? r.seq - settled_lag : 0);
		piece(r.bytes, 0, r.len, r.len);
		*status = send_ok();
		if (*status != WIRE_OK)
			break;
	}
	return done;
}

/* Commits lines of a block, which is in place as it was. */
static unsigned commit_lines(uint64_t blk, uint64_t mask, const uint8_t *page)
{
	struct copy_point head = copy_head(copy);
	struct rec r = { .seq = head.seq + 1 };
	struct hash128 hash;
	uint8_t after[4096];

	memcpy(after, pm_ptr(&pm, media_off(blk)), sizeof(after));
	for (unsigned i = 0; i < 64; i++)
		if (mask >> i & 1)
			memcpy(after + i * 64, page + i * 64, 64);
	redo_begin(builder);
	redo_lines(builder, blk, MEDIA_META_FIRST, mask, after);
	cr_assert_eq(redo_finish(builder, r.seq, 1, &head.hash, 1, &r.bytes, &r.len, &hash), 0);
	req(0, LANE_COMMIT, r.seq);
	hdr()->tail = le64_put(head.seq);
	piece(r.bytes, 0, r.len, r.len);
	return send_ok();
}

Test(engine_ring, the_ring_wraps_as_long_as_commits_settle)
{
	unsigned status, done = fill_ring(500, 1, &status);
	struct copy_point head, again_head;
	struct copy *again;

	cr_assert_eq(done, 500, "stopped at %u: %s", done, wire_status_name((uint16_t)status));
	cr_expect_eq(copy_head(copy).seq, 500);
	cr_expect_leq(copy_tail(copy).seq, 499);
	cr_assert_eq(copy_open(&pm, true, &again), 0);
	cr_expect_eq(copy_head(again).seq, 500);
	head = copy_head(copy);
	again_head = copy_head(again);
	cr_expect_arr_eq(&again_head.hash, &head.hash, sizeof(head.hash));
	copy_close(again);
}

Test(engine_ring, unsettled_records_are_never_applied)
{
	unsigned status, done = fill_ring(500, UINT64_MAX, &status);

	cr_expect_eq(status, WIRE_NO_SPACE);
	cr_expect_lt(done, 500);
	cr_expect_eq(copy_tail(copy).seq, 0);
	cr_expect(!engine_idle(engine));
	cr_expect_eq(copy_tail(copy).seq, 0);
	req(0, LANE_CHECKPOINT, 10); /* settled, says the initiator */
	cr_expect_eq(send_ok(), WIRE_OK);
	cr_expect_eq(le64_get(ack.tail_seq), 10);
	while (engine_idle(engine))
		;
	cr_expect_eq(copy_tail(copy).seq, 10);
	cr_expect_eq(fill_ring(1, UINT64_MAX, &status), 1);
}

/* What lies in place rots below changed lines: what the records make of it is not what they say, so nothing is applied from
 * then on, nothing in the ring is given up, and once it is full every commit is told why it is refused. */
Test(engine_ring, rot_under_changed_lines_stops_the_tail_and_in_the_end_commits)
{
	unsigned status;
	uint64_t tail;

	cr_assert_eq(fill_ring(8, 0, &status), 8);
	req(0, LANE_CHECKPOINT, 8);
	cr_assert_eq(send_ok(), WIRE_OK);
	cr_assert_eq(le64_get(ack.tail_seq), 8);
	commit_lines(first_blk + 100, 1, page_of[1]);
	*(uint8_t *)pm_ptr(&pm, media_off(first_blk + 100) + 4000) ^= 1;
	req(0, LANE_CHECKPOINT, 9);
	cr_expect_eq(send_ok(), WIRE_DAMAGED);
	cr_expect_eq(le64_get(ack.tail_seq), 8);
	cr_expect(!engine_idle(engine));
	for (tail = 9, status = WIRE_OK; status == WIRE_OK && tail < 1000; tail++)
		status = commit_lines(first_blk + 101, UINT64_MAX, page_of[tail & 255]);
	cr_expect_eq(status, WIRE_DAMAGED);
	cr_expect_eq(copy_tail(copy).seq, 8);
}

Test(engine_ring, idle_time_settles_in_bounded_steps)
{
	unsigned status, steps = 0, count = (unsigned)(copy_geom(copy)->ring_bytes / 4 / 4096) + 4;
	uint64_t tail = 0;

	cr_assert_eq(fill_ring(count, 1, &status), count); /* over a quarter of the ring */
	while (engine_idle(engine)) {
		cr_expect_gt(copy_tail(copy).seq, tail);
		tail = copy_tail(copy).seq;
		steps++;
	}
	cr_expect_gt(steps, 1);
	cr_expect_gt(copy_tail(copy).seq, 0);
	cr_expect_lt(copy_tail(copy).seq, count);
}

/* A copy put back behind what was settled: there is nothing to apply up to it, and nobody may wait for that. */
Test(engine_ring, a_checkpoint_beyond_the_head_of_a_copy_that_was_put_back_ends, .timeout = 20)
{
	struct copy_page page = *copy_page(copy);
	struct copy_point start = copy_head(copy);
	unsigned status;

	cr_assert_eq(fill_ring(6, 0, &status), 6);
	page.state = MEDIA_INCONSISTENT;
	cr_assert_eq(copy_page_set(copy, &page), 0);
	cr_assert_eq(copy_reset(copy, &start, 1), 0); /* behind the engine's back: it knows of 5 settled ones */
	req(0, LANE_CHECKPOINT, 5);
	cr_expect_eq(send_ok(), WIRE_OK);
	cr_expect(!engine_idle(engine));
	cr_expect_eq(copy_head(copy).seq, 0);
}
