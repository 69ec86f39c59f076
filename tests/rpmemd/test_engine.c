/* The engine on a real copy in anonymous memory, driven with real records: what is stored, what is refused and that a
 * refusal stores nothing, room made in the ring, and hostile messages. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "codec.h"
#include "copy.h"
#include "rpmemd/engine.h"

#define POOL_BYTES (16u << 20)

/* One request being laid out. */
struct msg {
	_Alignas(64) uint8_t bytes[LANE_MSG_BYTES_MAX];
	size_t len;
};

static struct pm pm;
static struct copy *copy;
static struct engine *engine;
static struct redo_builder *builder;
static struct lane_ack_msg ack;
static uint8_t read_buf[LANE_MSG_BYTES_MAX];
static uint64_t lane_seq[2], first_blk;
static struct msg m;
static uint8_t page_of[256][4096]; /* page_of[x] holds bytes x */

static void set_up(void)
{
	struct copy_format fmt = { .ring_bytes = MEDIA_RING_BYTES_MIN,
		.page = { .role = MEDIA_ROLE_REPLICA, .state = MEDIA_CONSISTENT } };
	void *mem = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(mem, MAP_FAILED);
	for (unsigned i = 0; i < 256; i++)
		memset(page_of[i], (int)i, 4096);
	pm_init(&pm, mem, POOL_BYTES, PM_MEMORY);
	cr_assert_eq(copy_format(&pm, &fmt), 0);
	cr_assert_eq(copy_open(&pm, false, &copy), 0);
	cr_assert_eq(engine_new(&(struct engine_cfg){ .pm = &pm, .copy = copy, .floor = 4096, .fs = true }, &engine), 0);
	cr_assert_eq(redo_builder_new(MEDIA_RING_BYTES_MIN / REDO_RING_SHARE, copy_geom(copy)->pool_seed, &builder), 0);
	first_blk = copy_geom(copy)->group0_blk + MEDIA_GROUP_META_BLKS;
}

static void tear_down(void)
{
	engine_delete(engine);
	copy_close(copy);
	redo_builder_delete(builder);
	munmap(pm.base, POOL_BYTES);
}

TestSuite(engine, .init = set_up, .fini = tear_down);

/* ---------------------------------------------------------------- requests */

static struct lane_req_msg *hdr(void)
{
	return (struct lane_req_msg *)m.bytes;
}

static void req(unsigned lane, unsigned op, uint64_t arg)
{
	memset(m.bytes, 0, sizeof(struct lane_req_msg));
	*hdr() = (struct lane_req_msg){ .magic = le32_put(LANE_MAGIC), .op = le16_put((uint16_t)op),
		.seq = le64_put(++lane_seq[lane]), .arg = le64_put(arg) };
	m.len = sizeof(struct lane_req_msg);
}

static void append(const void *bytes, size_t n)
{
	cr_assert_leq(m.len + n, sizeof(m.bytes));
	memcpy(m.bytes + m.len, bytes, n);
	m.len += n;
}

/* All ranges come before the first payload(). */
static void range(uint64_t off, uint32_t len, uint32_t flags)
{
	struct lane_range_msg r = { le64_put(off), le32_put(len), le32_put(flags) };

	append(&r, sizeof(r));
	hdr()->range_count = le32_put(le32_get(hdr()->range_count) + 1);
}

static void payload(const void *bytes, uint32_t n)
{
	append(bytes, n);
	hdr()->inline_bytes = le32_put(le32_get(hdr()->inline_bytes) + n);
}

static void piece(const void *rec, uint32_t off, uint32_t n, uint32_t whole)
{
	append((const uint8_t *)rec + off, n);
	hdr()->rec_off = le32_put(off);
	hdr()->rec_bytes = le32_put(n);
	hdr()->rec_len = le32_put(whole);
	hdr()->flags = le16_put(off + n < whole ? LANE_MORE : 0);
}

/* Handles the message in memory of exactly its size; returns the answer's status. */
static unsigned send_on(unsigned lane, int want_err)
{
	void *exact = malloc(m.len);
	int err;

	lane_req_seal(m.bytes, m.len);
	memcpy(exact, m.bytes, m.len);
	err = engine_handle(engine, lane, exact, m.len, &ack, read_buf);
	free(exact);
	cr_expect_eq(err, want_err, "err %d", err);
	cr_expect_eq(lane_ack_check(&ack, sizeof(ack), &(struct lane_ack_msg){ 0 }),
		le32_get(ack.read_bytes) ? -EPROTO : 0);
	return le16_get(ack.status);
}

static unsigned send_ok(void)
{
	return send_on(0, 0);
}

/* ---------------------------------------------------------------- records */

struct rec {
	const void *bytes;
	uint32_t len;
	uint64_t seq;
};

/* Links count data blocks from blk on with pages of bytes fill, fill + 1 ... */
static struct rec record_at(const struct copy_point *head, uint64_t epoch, uint64_t blk, unsigned count, unsigned fill)
{
	struct rec r = { .seq = head->seq + 1 };
	struct hash128 hash;

	redo_begin(builder);
	for (unsigned i = 0; i < count; i++)
		cr_assert_eq(redo_link(builder, blk + i, MEDIA_DATA, csum_crc32c(0, page_of[(fill + i) & 255], 4096)), 0);
	cr_assert_eq(redo_finish(builder, r.seq, epoch, &head->hash, 1, &r.bytes, &r.len, &hash), 0);
	return r;
}

static struct rec record(uint64_t blk, unsigned count, unsigned fill)
{
	struct copy_point head = copy_head(copy);

	return record_at(&head, 1, blk, count, fill);
}

/* A whole commit of one inline block in one message. */
static void commit_req(const struct rec *r, uint64_t blk, unsigned fill)
{
	req(0, LANE_COMMIT, r->seq);
	range(media_off(blk), 4096, LANE_RANGE_INLINE);
	payload(page_of[fill], 4096);
	piece(r->bytes, 0, r->len, r->len);
}

static bool block_is(uint64_t blk, unsigned fill)
{
	return !memcmp(pm_ptr(&pm, media_off(blk)), page_of[fill], 4096);
}

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

/* ---------------------------------------------------------------- ring */

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

Test(engine, the_ring_wraps_as_long_as_commits_settle)
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

Test(engine, unsettled_records_are_never_applied)
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
Test(engine, rot_under_changed_lines_stops_the_tail_and_in_the_end_commits)
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

Test(engine, idle_time_settles_in_bounded_steps)
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

/* ---------------------------------------------------------------- other requests */

static void plain_engine(bool read_only, bool fs)
{
	engine_delete(engine);
	lane_seq[0] = 0;
	cr_assert_eq(engine_new(&(struct engine_cfg){ .pm = &pm, .floor = 4096, .read_only = read_only, .fs = fs }, &engine),
		0);
}

static unsigned write_req(unsigned op, uint64_t off, int want_err)
{
	req(0, op, 0);
	range(off, 64, LANE_RANGE_INLINE);
	range(off + 64, 64, LANE_RANGE_ZERO);
	payload(page_of[0x5a], 64);
	return send_on(0, want_err);
}

Test(engine, plain_pools_are_written_and_take_no_commits)
{
	struct rec r = record(first_blk, 1, 7);

	plain_engine(false, false);
	memset(pm.base + 8192, 0xff, 128);
	cr_expect_eq(write_req(LANE_WRITE, 8192, 0), WIRE_OK);
	cr_expect(!memcmp(pm.base + 8192, page_of[0x5a], 64) && !memcmp(pm.base + 8256, page_of[0], 64));
	cr_expect_eq(le64_get(ack.head_seq), 0);
	cr_expect_eq(write_req(LANE_DEEP, 8192, 0), WIRE_OK);
	commit_req(&r, first_blk, 7);
	cr_expect_eq(send_ok(), WIRE_STATE);
	req(0, LANE_CHECKPOINT, 1);
	cr_expect_eq(send_ok(), WIRE_STATE);
	cr_expect_eq(write_req(LANE_WRITE, 0, -EPROTO), WIRE_BAD_PROTO);
}

/* Persistent memory is asked for more than a fence: the ranges, from the start of their pages, go through msync(2). */
Test(engine, deep_writes_to_persistent_memory_are_synced)
{
	pm_init(&pm, pm.base, pm.len, PM_PMEM);
	plain_engine(false, false);
	memset(pm.base + 8192, 0xff, 192);
	cr_expect_eq(write_req(LANE_DEEP, 8192 + 64, 0), WIRE_OK);
	cr_expect(!memcmp(pm.base + 8192 + 64, page_of[0x5a], 64) && !memcmp(pm.base + 8192 + 128, page_of[0], 64));
	cr_expect_eq(write_req(LANE_WRITE, 8192, 0), WIRE_OK);
}

Test(engine, read_only_sessions_and_unformatted_pools_store_nothing)
{
	plain_engine(true, false);
	cr_expect_eq(write_req(LANE_WRITE, 8192, 0), WIRE_STATE);
	plain_engine(false, true);
	cr_expect_eq(write_req(LANE_WRITE, 8192, 0), WIRE_STATE);
}

Test(engine, a_consistent_copy_takes_no_plain_write_an_inconsistent_one_only_in_its_groups)
{
	struct copy_page page = *copy_page(copy);
	uint64_t group0 = media_off(copy_geom(copy)->group0_blk);

	cr_expect_eq(write_req(LANE_WRITE, media_off(first_blk), 0), WIRE_STATE);
	page.state = MEDIA_INCONSISTENT;
	cr_assert_eq(copy_page_set(copy, &page), 0);
	cr_expect_eq(write_req(LANE_WRITE, media_off(first_blk), 0), WIRE_OK);
	cr_expect_eq(write_req(LANE_WRITE, group0, 0), WIRE_OK);
	cr_expect_eq(write_req(LANE_WRITE, group0 - 64, -EPROTO), WIRE_BAD_PROTO);
}

Test(engine, reads_bring_bytes_behind_the_answer)
{
	req(0, LANE_READ, 0);
	range(media_off(MEDIA_SB_A_BLK), 512, 0);
	cr_expect_eq(send_ok(), WIRE_OK);
	cr_expect_eq(le32_get(ack.read_bytes), 512);
	cr_expect_arr_eq(read_buf, pm_ptr(&pm, media_off(MEDIA_SB_A_BLK)), 512);
}

Test(engine, counters_count_messages_and_named_bytes_but_no_pings)
{
	uint64_t bytes;

	plain_engine(false, false);
	req(0, LANE_PING, 0);
	send_ok();
	cr_expect_eq(le64_get(ack.rx_msgs), 0);
	cr_expect_eq(le64_get(ack.rx_bytes), 0);
	req(0, LANE_WRITE, 0);
	range(8192, 100, LANE_RANGE_INLINE);
	range(12288, 1000, 0);
	range(16384, 5000, LANE_RANGE_ZERO);
	payload(page_of[1], 100);
	bytes = m.len;
	send_ok();
	cr_expect_eq(le64_get(ack.rx_msgs), 1);
	cr_expect_eq(le64_get(ack.rx_bytes), bytes + 1000);
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

/* ---------------------------------------------------------------- findings of reviews */

/* A copy put back behind what was settled: there is nothing to apply up to it, and nobody may wait for that. */
Test(engine, a_checkpoint_beyond_the_head_of_a_copy_that_was_put_back_ends, .timeout = 20)
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

static bool user_fails;

static int fail_user(enum pm_point point)
{
	return point == PM_POINT_USER && user_fails ? -EIO : 0;
}

/* A lane must not call durable what the kernel told another one is lost: one failed msync ends all. */
Test(engine, a_failed_msync_of_a_plain_pool_fails_every_lane)
{
	pm.domain = PM_FILE;
	pm.fail = fail_user;
	plain_engine(false, false);
	cr_expect_eq(write_req(LANE_WRITE, 8192, 0), WIRE_OK);
	user_fails = true;
	cr_expect_eq(write_req(LANE_WRITE, 8192, -EIO), WIRE_IO);
	user_fails = false;
	req(1, LANE_WRITE, 0);
	range(16384, 64, LANE_RANGE_ZERO);
	cr_expect_eq(send_on(1, -EIO), WIRE_IO);
	pm.domain = PM_MEMORY;
}

/* ---------------------------------------------------------------- deep persist */
static bool msync_watched, msync_fails;
static unsigned msync_count;
static struct { uint64_t off, len; } msyncs[8];

/* In the place of libc's. */
int msync(void *addr, size_t len, int flags)
{
	if (!msync_watched)
		return (int)syscall(SYS_msync, addr, len, flags);
	cr_assert_lt(msync_count, 8);
	cr_expect_eq(flags, MS_SYNC);
	msyncs[msync_count].off = (uint64_t)((uint8_t *)addr - pm.base);
	msyncs[msync_count++].len = len;
	errno = EIO;
	return msync_fails ? -1 : 0;
}

static unsigned deep_req(unsigned lane, int want_err)
{
	req(lane, LANE_DEEP, 0);
	range(8192 + 100, 64, LANE_RANGE_INLINE);
	range(20000, 5000, 0); /* written one-sided */
	payload(page_of[0x5a], 64);
	return send_on(lane, want_err);
}

/* Persistent memory: the kernel is asked for exactly the pages of the request, whichever lane it came on, and only for a deep
 * persist. Its failure is the medium's. */
Test(engine, a_deep_persist_goes_deeper_for_its_own_ranges_on_any_lane)
{
	pm.domain = PM_PMEM;
	plain_engine(false, false);
	msync_watched = true;
	cr_expect_eq(write_req(LANE_WRITE, 8192, 0), WIRE_OK);
	cr_expect_eq(msync_count, 0);
	for (unsigned lane = 0; lane < 2; lane++) {
		msync_count = 0;
		cr_expect_eq(deep_req(lane, 0), WIRE_OK);
		cr_assert_eq(msync_count, 2);
		cr_expect(msyncs[0].off == 8192 && msyncs[0].len == 164);
		cr_expect(msyncs[1].off == 16384 && msyncs[1].len == 25000 - 16384);
		cr_expect(!memcmp(pm.base + 8292, page_of[0x5a], 64));
	}
	msync_count = 0;
	msync_fails = true;
	cr_expect_eq(deep_req(1, -EIO), WIRE_IO);
	msync_fails = false;
	cr_expect_eq(deep_req(0, -EIO), WIRE_IO, "nobody is told durable after that");
	pm.domain = PM_MEMORY;
	plain_engine(false, false);
	lane_seq[1] = msync_count = 0;
	cr_expect_eq(deep_req(1, 0), WIRE_OK);
	cr_expect_eq(msync_count, 0, "memory has nothing deeper");
	msync_watched = false;
}

/* ---------------------------------------------------------------- plain pools in files, several lanes */

#define FILE_LANES 4u
#define FILE_WRITES 40u

static _Atomic unsigned fences;
static _Atomic unsigned fails_from; /* number of the first fence that fails; 0: none does */

/* As long as a disk may take, so that others come meanwhile. */
static int slow_fence(enum pm_point point)
{
	unsigned number = ++fences;

	(void)point;
	usleep(2000);
	return fails_from && number >= fails_from ? -EIO : 0;
}

/* Writes over a lane of its own, each answered before the next; how many were called durable. */
static void *file_writer(void *arg)
{
	unsigned lane = (unsigned)(uintptr_t)arg;
	_Alignas(64) uint8_t msg[sizeof(struct lane_req_msg) + sizeof(struct lane_range_msg) + 64];
	struct lane_req_msg *r = (struct lane_req_msg *)msg;
	struct lane_ack_msg answer;
	uintptr_t good = 0;

	for (unsigned i = 0; i < FILE_WRITES; i++) {
		struct lane_range_msg range_msg = { le64_put(8192 + (lane * FILE_WRITES + i) * 4096ull), le32_put(64),
			le32_put(LANE_RANGE_INLINE) };

		memset(msg, (int)i, sizeof(msg));
		*r = (struct lane_req_msg){ .magic = le32_put(LANE_MAGIC), .op = le16_put(LANE_WRITE), .seq = le64_put(i + 1),
			.range_count = le32_put(1), .inline_bytes = le32_put(64) };
		memcpy(r + 1, &range_msg, sizeof(range_msg));
		lane_req_seal(msg, sizeof(msg));
		if (engine_handle(engine, lane, msg, sizeof(msg), &answer, NULL))
			break;
		good += le16_get(answer.status) == WIRE_OK;
	}
	return (void *)good;
}

static unsigned file_writers(void)
{
	pthread_t threads[FILE_LANES];
	unsigned good = 0;

	pm.domain = PM_FILE;
	pm.fail = slow_fence;
	plain_engine(false, false);
	for (uintptr_t i = 0; i < FILE_LANES; i++)
		cr_assert(!pthread_create(&threads[i], NULL, file_writer, (void *)i));
	for (unsigned i = 0; i < FILE_LANES; i++) {
		void *count;

		pthread_join(threads[i], &count);
		good += (unsigned)(uintptr_t)count;
	}
	pm.domain = PM_MEMORY;
	pm.fail = NULL;
	return good;
}

/* Lanes that come while an msync runs share the next one. */
Test(engine, lanes_of_a_pool_in_files_share_fences, .timeout = 30)
{
	cr_expect_eq(file_writers(), FILE_LANES * FILE_WRITES);
	cr_expect_lt(fences, FILE_LANES * FILE_WRITES * 3 / 4, "%u fences", fences);
}

/* From a failed fence on nobody is told that anything is durable: at most what earlier fences covered. */
Test(engine, a_failed_fence_is_everybodys, .timeout = 30)
{
	unsigned good;

	fails_from = 11;
	good = file_writers();
	cr_expect_leq(good, 10 * FILE_LANES);
	cr_expect_geq(good, 5);
	cr_expect_eq(fences, 11, "asked again after a failure: %u", fences);
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
