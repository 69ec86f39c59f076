/* The engine and commits: what is stored, what is refused and that a refusal stores nothing, and hostile messages. The ring:
 * test_engine_ring.c; pools without commits: test_engine_plain.c. */
#include "tests/support/engine_rig.h"

TestSuite(engine, .init = set_up, .fini = tear_down);

/* ---------------------------------------------------------------- commits */

Test(engine, a_commit_of_one_message_is_stored_and_survives)
{
	struct rec r = record(first_blk, 1, 7);
	struct copy *again;

	commit_req(&r, first_blk, 7);
	cr_expect_eq(send_ok(), WIRE_OK);
	cr_expect_eq(le64_get(ack.head_seq), 1);
	cr_expect_eq(le64_get(ack.tail_seq), 0);
	cr_expect_eq(le64_get(ack.ring_free), copy_ring_free(copy));
	cr_expect(block_is(first_blk, 7));
	cr_assert_eq(copy_open(&pm, true, &again), 0);
	cr_expect_eq(copy_head(again).seq, 1);
	copy_close(again);
}

Test(engine, a_record_behind_an_odd_payload_is_taken_too)
{
	struct rec r = record(first_blk, 1, 7);

	memset(pm.base + media_off(first_blk), 7, 4096);
	req(0, LANE_COMMIT, r.seq);
	range(media_off(first_blk) + 1, 13, LANE_RANGE_INLINE);
	payload(page_of[7], 13);
	piece(r.bytes, 0, r.len, r.len);
	cr_expect_eq(send_ok(), WIRE_OK);
}

Test(engine, a_train_is_stored_as_it_comes_and_linked_at_its_end)
{
	enum { COUNT = 40 };
	struct rec r = record(first_blk, COUNT, 1);
	uint32_t third = r.len / 3;

	for (unsigned i = 0; i < COUNT; i += 10) { /* data first ... */
		req(0, LANE_COMMIT, r.seq);
		for (unsigned j = i; j < i + 10; j++)
			range(media_off(first_blk + j), 4096, LANE_RANGE_INLINE);
		for (unsigned j = i; j < i + 10; j++)
			payload(page_of[1 + j], 4096);
		hdr()->flags = le16_put(LANE_MORE);
		hdr()->rec_len = le32_put(r.len);
		cr_expect_eq(send_ok(), WIRE_OK);
		cr_expect(block_is(first_blk + i, 1 + i));
		cr_expect_eq(le64_get(ack.head_seq), 0);
	}
	for (uint32_t off = 0; off < r.len; off += third) { /* ... then the record in pieces */
		req(0, LANE_COMMIT, r.seq);
		piece(r.bytes, off, off + third < r.len ? third : r.len - off, r.len);
		cr_expect_eq(send_ok(), WIRE_OK);
	}
	cr_expect_eq(le64_get(ack.head_seq), 1);
}

Test(engine, a_lost_push_is_noticed_and_can_be_mended)
{
	struct rec r = record(first_blk, 1, 9);

	req(0, LANE_COMMIT, r.seq);
	range(media_off(first_blk), 4096, 0);
	piece(r.bytes, 0, r.len, r.len);
	cr_expect_eq(send_ok(), WIRE_DAMAGED);
	cr_expect_eq(le64_get(ack.head_seq), 0);
	memcpy(pm.base + media_off(first_blk), page_of[9], 4096);
	req(0, LANE_COMMIT, r.seq);
	range(media_off(first_blk), 4096, 0);
	piece(r.bytes, 0, r.len, r.len);
	cr_expect_eq(send_ok(), WIRE_OK);
}

/* Lines of the same record lie on top of a linked data block. */
Test(engine, lines_of_a_linked_block_count_for_its_checksum)
{
	struct copy_point head = copy_head(copy);
	struct hash128 hash;
	struct rec r = { .seq = 1 };
	uint8_t after[4096];

	memcpy(after, page_of[3], 4096);
	memset(after + 64, 0xaa, 64);
	memset(after + 4032, 0xbb, 64);
	redo_begin(builder);
	cr_assert_eq(redo_link(builder, first_blk, MEDIA_DATA, csum_crc32c(0, after, 4096)), 0);
	cr_assert_eq(redo_lines(builder, first_blk, MEDIA_DATA, 2 | 1ull << 63, after), 0);
	if (redo_finish(builder, 1, 1, &head.hash, 1, &r.bytes, &r.len, &hash))
		cr_skip_test("the record format does not allow it");
	commit_req(&r, first_blk, 3);
	cr_expect_eq(send_ok(), WIRE_OK);
}

/* The whole record comes first, its data behind it: the last message has no piece and the record is still known. */
Test(engine, a_whole_record_ahead_of_its_data_is_kept)
{
	struct rec r = record(first_blk, 1, 7);

	req(0, LANE_COMMIT, r.seq);
	piece(r.bytes, 0, r.len, r.len);
	hdr()->flags = le16_put(LANE_MORE);
	cr_expect_eq(send_ok(), WIRE_OK);
	req(0, LANE_COMMIT, r.seq);
	range(media_off(first_blk), 4096, LANE_RANGE_INLINE);
	payload(page_of[7], 4096);
	piece(r.bytes, r.len, 0, r.len);
	cr_expect_eq(send_ok(), WIRE_OK);
	cr_expect_eq(le64_get(ack.head_seq), 1);
	cr_expect(block_is(first_blk, 7));
}

static int fail_record(enum pm_point point)
{
	return point == PM_POINT_RECORD ? -EIO : 0;
}

Test(engine, a_failed_fence_fails_the_engine)
{
	struct rec r = record(first_blk, 1, 7);

	pm.fail = fail_record;
	commit_req(&r, first_blk, 7);
	cr_expect_eq(send_on(0, -EIO), WIRE_IO);
	pm.fail = NULL;
	req(0, LANE_PING, 0);
	cr_expect_eq(send_on(0, -EIO), WIRE_IO);
}

/* ---------------------------------------------------------------- refusals */

Test(engine, an_old_epoch_is_fenced_before_a_byte_is_stored)
{
	struct copy_page page = *copy_page(copy);
	struct rec r = record(first_blk, 1, 7);

	page.fence_epoch = 5;
	cr_assert_eq(copy_page_set(copy, &page), 0);
	commit_req(&r, first_blk, 7);
	cr_expect_eq(send_ok(), WIRE_FENCED);
	cr_expect(block_is(first_blk, 0));
	cr_expect_eq(le64_get(ack.head_seq), 0);
}

/* The session's epoch is known before the record is: the first message of a train stores nothing either. */
Test(engine, a_train_of_a_fenced_session_stores_nothing)
{
	struct copy_page page = *copy_page(copy);
	struct rec r = record(first_blk, 1, 7);

	engine_delete(engine);
	cr_assert_eq(engine_new(&(struct engine_cfg){ .pm = &pm, .copy = copy, .floor = 4096, .fs = true, .epoch = 4 },
				&engine), 0);
	page.fence_epoch = 5;
	cr_assert_eq(copy_page_set(copy, &page), 0);
	for (unsigned i = 0; i < 2; i++) {
		req(0, LANE_COMMIT, 1);
		range(media_off(first_blk), 4096, LANE_RANGE_INLINE);
		payload(page_of[7], 4096);
		piece(r.bytes, i ? 64 : 0, i ? r.len - 64 : 64, r.len);
		cr_expect_eq(send_ok(), WIRE_FENCED);
		cr_expect(block_is(first_blk, 0));
	}
	page.fence_epoch = 4; /* not above the session's: the record's own epoch decides */
	cr_assert_eq(copy_page_set(copy, &page), 0);
	commit_req(&r, first_blk, 7);
	cr_expect_eq(send_ok(), WIRE_FENCED);
	cr_expect(block_is(first_blk, 0));
	{
		struct copy_point head = copy_head(copy);

		r = record_at(&head, 4, first_blk, 1, 7);
	}
	commit_req(&r, first_blk, 7);
	cr_expect_eq(send_ok(), WIRE_OK);
}

Test(engine, another_history_is_refused_before_a_byte_is_stored)
{
	struct copy_point fork = copy_head(copy);
	struct rec r;

	fork.hash.b[3] ^= 1;
	r = record_at(&fork, 1, first_blk, 1, 7);
	commit_req(&r, first_blk, 7);
	cr_expect_eq(send_ok(), WIRE_HISTORY);
	cr_expect(block_is(first_blk, 0));
	fork = copy_head(copy);
	fork.seq = 1; /* one commit too far */
	r = record_at(&fork, 1, first_blk, 1, 7);
	commit_req(&r, first_blk, 7);
	cr_expect_eq(send_ok(), WIRE_HISTORY);
	cr_expect(block_is(first_blk, 0));
}

Test(engine, a_refused_train_stores_nothing_and_answers_every_message)
{
	for (unsigned i = 0; i < 3; i++) {
		req(0, LANE_COMMIT, 2); /* head is 0 */
		range(media_off(first_blk), 4096, LANE_RANGE_INLINE);
		payload(page_of[7], 4096);
		hdr()->rec_len = le32_put(128);
		hdr()->flags = le16_put(i < 2 ? LANE_MORE : 0);
		if (i == 2)
			piece(page_of[0], 0, 128, 128);
		cr_expect_eq(send_ok(), WIRE_HISTORY);
		cr_expect(block_is(first_blk, 0));
	}
	struct rec r = record(first_blk, 1, 7);
	commit_req(&r, first_blk, 7);
	cr_expect_eq(send_ok(), WIRE_OK);
}

Test(engine, a_record_that_does_not_parse_is_damage)
{
	struct rec r = record(first_blk, 1, 7);
	uint8_t bad[4096];

	memcpy(bad, r.bytes, r.len);
	bad[r.len - 1] ^= 1;
	req(0, LANE_COMMIT, 1);
	piece(bad, 0, r.len, r.len);
	cr_expect_eq(send_ok(), WIRE_DAMAGED);
}

/* Nothing but blocks behind the tables may be touched by a commit's ranges. */
Test(engine, ranges_outside_linkable_blocks_end_the_session)
{
	const struct media_geom *g = copy_geom(copy);
	const struct { uint64_t off; uint32_t len; } cases[] = {
		{ media_off(MEDIA_PAGE_BLK), 64 }, { media_off(MEDIA_SB_A_BLK), 64 }, { media_ring_off(0), 4096 },
		{ media_off(g->group0_blk), 4096 }, { media_off(first_blk) - 1, 2 },
		{ media_off(first_blk - 1), 4096 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rec r = record(first_blk, 1, 0);
		void *before = malloc(cases[i].len);

		memcpy(before, pm_ptr(&pm, cases[i].off), cases[i].len);
		req(0, LANE_COMMIT, r.seq);
		range(cases[i].off, cases[i].len, LANE_RANGE_INLINE);
		payload(page_of[0xee], cases[i].len);
		piece(r.bytes, 0, r.len, r.len);
		cr_expect_eq(send_on(0, -EPROTO), WIRE_BAD_PROTO, "case %u", i);
		cr_expect_arr_eq(before, pm_ptr(&pm, cases[i].off), cases[i].len);
		free(before);
	}
}

Test(engine, lane_sequence_counts_by_one_for_each_lane)
{
	req(0, LANE_PING, 0);
	cr_expect_eq(send_on(0, 0), WIRE_OK);
	req(1, LANE_PING, 0);
	cr_expect_eq(send_on(1, 0), WIRE_OK);
	lane_seq[0]++;
	req(0, LANE_PING, 0);
	cr_expect_eq(send_on(0, -EPROTO), WIRE_BAD_PROTO);
	lane_seq[0] = 0;
	req(0, LANE_PING, 0);
	cr_expect_eq(send_on(0, -EPROTO), WIRE_BAD_PROTO);
}

/* One message of a train, then one that does not continue it. */
static void train_broken_by(unsigned lane, uint64_t arg, uint32_t off, uint32_t whole)
{
	req(0, LANE_COMMIT, 1);
	piece(page_of[0], 0, 128, 384);
	cr_expect_eq(send_ok(), WIRE_OK);
	req(lane, LANE_COMMIT, arg);
	piece(page_of[0], off, 128, whole);
	cr_expect_eq(send_on(lane, -EPROTO), WIRE_BAD_PROTO);
}

Test(engine, a_train_broken_by_another_lane) { train_broken_by(1, 1, 128, 384); }
Test(engine, a_train_broken_by_another_sequence) { train_broken_by(0, 2, 128, 384); }
Test(engine, a_train_broken_by_a_gap) { train_broken_by(0, 1, 192, 384); }
Test(engine, a_train_broken_by_an_overlap) { train_broken_by(0, 1, 64, 384); }
Test(engine, a_train_broken_by_another_length) { train_broken_by(0, 1, 128, 448); }

Test(engine, a_record_over_the_rings_bound_is_refused)
{
	req(0, LANE_COMMIT, 1);
	piece(page_of[0], 0, 128, MEDIA_RING_BYTES_MIN / REDO_RING_SHARE + 64);
	cr_expect_eq(send_on(0, -EPROTO), WIRE_BAD_PROTO);
}

/* ---------------------------------------------------------------- hostile messages */

/* Every byte of a good commit changed to some values, sealed again: answered somehow, and only good commits move head. */
Test(engine, mutated_messages_never_crash, .timeout = 60)
{
	static const uint8_t values[] = { 0x00, 0x01, 0x40, 0x80, 0xff };
	struct rec r = record(first_blk, 2, 7);
	struct msg good;

	req(0, LANE_COMMIT, r.seq);
	range(media_off(first_blk), 96, LANE_RANGE_INLINE);
	range(media_off(first_blk + 1), 4096, LANE_RANGE_ZERO);
	payload(page_of[7], 96);
	piece(r.bytes, 0, r.len, r.len);
	good = m;
	for (size_t at = 0; at < good.len; at++) {
		for (unsigned i = 0; i < sizeof(values); i++) {
			void *exact = malloc(good.len);
			int err;

			memcpy(exact, good.bytes, good.len);
			((uint8_t *)exact)[at] = values[i];
			lane_req_seal(exact, good.len);
			err = engine_handle(engine, 1, exact, good.len, &ack, read_buf);
			cr_expect(err == 0 || err == -EPROTO);
			cr_expect_eq(copy_head(copy).seq, 0, "byte %zu", at);
			free(exact);
			plain_engine(false, true);
			engine_set_copy(engine, copy);
		}
	}
}

Test(engine, truncated_messages_never_crash)
{
	struct rec r = record(first_blk, 1, 7);

	commit_req(&r, first_blk, 7);
	for (size_t cut = 0; cut < m.len; cut++) {
		void *exact = malloc(cut ? cut : 1);

		memcpy(exact, m.bytes, cut);
		if (cut >= sizeof(struct lane_req_msg))
			lane_req_seal(exact, cut);
		cr_expect_eq(engine_handle(engine, 0, exact, cut, &ack, read_buf), -EPROTO);
		cr_expect_eq(le16_get(ack.status), WIRE_BAD_PROTO);
		free(exact);
	}
	cr_expect(block_is(first_blk, 0));
}

static bool no_space;
static unsigned space_asked;

static int limited_populate(struct pm *of, uint64_t off, uint64_t len)
{
	(void)of;
	(void)off;
	(void)len;
	space_asked++;
	return no_space ? -ENOSPC : 0;
}

/* A sparse pool whose file system is full takes no byte of a commit, as one message or as a train, and goes on when there is
 * space again; a group's space is asked for once. */
Test(engine, a_full_file_system_below_a_sparse_pool_is_no_space)
{
	struct rec r = record(first_blk, 1, 7);

	pm.populate = limited_populate;
	no_space = true;
	commit_req(&r, first_blk, 7);
	cr_expect_eq(send_ok(), WIRE_NO_SPACE);
	cr_expect(block_is(first_blk, 0));
	for (unsigned i = 0; i < 2; i++) {
		req(0, LANE_COMMIT, 1);
		range(media_off(first_blk), 4096, LANE_RANGE_INLINE);
		payload(page_of[7], 4096);
		piece(r.bytes, i ? 64 : 0, i ? r.len - 64 : 64, r.len);
		cr_expect_eq(send_ok(), WIRE_NO_SPACE);
		cr_expect(block_is(first_blk, 0));
	}
	no_space = false;
	commit_req(&r, first_blk, 7);
	cr_expect_eq(send_ok(), WIRE_OK);
	space_asked = 0;
	r = record(first_blk + 1, 1, 8);
	commit_req(&r, first_blk + 1, 8);
	cr_expect_eq(send_ok(), WIRE_OK);
	cr_expect_eq(space_asked, 0);
}
