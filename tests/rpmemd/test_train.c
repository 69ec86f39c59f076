/* Trains of writes: messages of LANE_WRITE with LANE_MORE, which are answered by the last one. What is stored, fenced and told,
 * and what no honest initiator sends. The engine alone, on a plain pool in anonymous memory. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "codec.h"
#include "errmsg.h"
#include "rpmemd/engine.h"

#define POOL_BYTES (1u << 20)
#define BYTES 512u
#define FULL_OFF (POOL_BYTES / 2) /* of a sparse pool that is full: no space from here on */

static struct {
	struct pm pm;
	struct engine *engine;
	struct lane_ack_msg ack;
	uint64_t seq[2];
	unsigned stores, fences, stores_fenced;
	uint8_t read_buf[LANE_MSG_BYTES_MAX];
} t;

static void on_stored(void *ctx, uint64_t off, const void *bytes, uint64_t len)
{
	(void)ctx;
	(void)off;
	(void)bytes;
	(void)len;
	t.stores++;
}

static bool on_fence(void *ctx, enum pm_point point)
{
	(void)ctx;
	cr_expect_eq(point, PM_POINT_USER);
	t.fences++;
	t.stores_fenced = t.stores;
	return true;
}

static const struct pm_observer observer = { .stored = on_stored, .fence = on_fence };

static int populate_half(struct pm *pm, uint64_t off, uint64_t len)
{
	(void)pm;
	return off + len > FULL_OFF ? errmsg_set(-ENOSPC, "full") : 0;
}

static int fence_fails(enum pm_point point)
{
	(void)point;
	return -EIO;
}

static void engine_up(struct engine_cfg cfg)
{
	engine_delete(t.engine);
	memset(t.seq, 0, sizeof(t.seq));
	cfg.pm = &t.pm;
	cfg.floor = 4096;
	cr_assert_eq(engine_new(&cfg, &t.engine), 0);
}

static void set_up(void)
{
	void *mem = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(mem, MAP_FAILED);
	pm_init(&t.pm, mem, POOL_BYTES, PM_MEMORY);
	t.pm.observer = &observer;
	engine_up((struct engine_cfg){ 0 });
}

static void tear_down(void)
{
	engine_delete(t.engine);
	munmap(t.pm.base, POOL_BYTES);
}

TestSuite(train, .init = set_up, .fini = tear_down, .timeout = 30);

struct write_msg {
	struct lane_req_msg hdr;
	struct lane_range_msg range;
	uint8_t payload[BYTES];
};

static struct write_msg message(unsigned lane, unsigned op, unsigned flags, uint64_t off, uint8_t fill)
{
	struct write_msg m = {
		.hdr = { .magic = le32_put(LANE_MAGIC), .op = le16_put((uint16_t)op), .flags = le16_put((uint16_t)flags),
			 .seq = le64_put(++t.seq[lane]), .range_count = le32_put(1), .inline_bytes = le32_put(BYTES) },
		.range = { le64_put(off), le32_put(BYTES), le32_put(LANE_RANGE_INLINE) },
	};

	memset(m.payload, fill, BYTES);
	return m;
}

static int handle(unsigned lane, struct write_msg *m)
{
	return engine_handle(t.engine, lane, m, sizeof(*m), &t.ack, t.read_buf);
}

/* What the engine returns for one sealed message. */
static int give_on(unsigned lane, unsigned op, unsigned flags, uint64_t off, uint8_t fill)
{
	struct write_msg m = message(lane, op, flags, off, fill);

	lane_req_seal(&m, sizeof(m));
	return handle(lane, &m);
}

static int give(unsigned flags, uint64_t off, uint8_t fill)
{
	return give_on(0, LANE_WRITE, flags, off, fill);
}

static bool holds(uint64_t off, uint8_t fill)
{
	for (unsigned i = 0; i < BYTES; i++)
		if (t.pm.base[off + i] != fill)
			return false;
	return true;
}

static void expect_answer(unsigned status)
{
	cr_expect_eq(lane_ack_check(&t.ack, sizeof(t.ack), &(struct lane_ack_msg){ 0 }), 0);
	cr_expect_eq(le16_get(t.ack.status), status, "status %u", le16_get(t.ack.status));
	cr_expect_eq(le64_get(t.ack.seq), t.seq[0]);
}

/* Bare messages and others; one fence, behind everything that the train has stored. */
Test(train, is_stored_as_it_comes_and_fenced_at_its_end)
{
	cr_expect_eq(give(LANE_MORE, 8192, 1), 1);
	cr_expect_eq(give(LANE_MORE | LANE_BARE, 16384, 2), 1);
	cr_expect(holds(8192, 1) && holds(16384, 2));
	cr_expect_eq(t.fences, 0);
	cr_expect_eq(give(LANE_BARE, 32768, 3), 0);
	expect_answer(WIRE_OK);
	cr_expect(holds(32768, 3));
	cr_expect_eq(t.fences, 1);
	cr_expect_eq(t.stores_fenced, 3);
	cr_expect_eq(le64_get(t.ack.rx_msgs), 3);
}

/* The payload of a bare message is the transport's; all else of it is checked. */
Test(train, bare_bytes_are_not_under_the_checksum)
{
	for (size_t at = 0; at < sizeof(struct write_msg); at += at < 80 ? 1 : 97) {
		struct write_msg m = message(0, LANE_WRITE, LANE_BARE, 8192, 5);
		size_t heads = offsetof(struct write_msg, payload);

		lane_req_seal(&m, at % 2 ? sizeof(m) : heads);
		((uint8_t *)&m)[at] ^= 0x10;
		if (at >= heads) {
			cr_expect_eq(handle(0, &m), 0, "byte %zu", at);
			continue;
		}
		cr_expect_eq(handle(0, &m), -EPROTO, "byte %zu", at);
		t.seq[0]--;
	}
}

/* The first error is what the answer tells, and nothing behind it is stored; the next train is a new one. */
Test(train, of_which_a_part_is_refused)
{
	t.pm.populate = populate_half;
	engine_up((struct engine_cfg){ 0 });
	cr_expect_eq(give(LANE_MORE, 8192, 1), 1);
	cr_expect_eq(give(LANE_MORE, FULL_OFF, 2), 1);
	cr_expect_eq(give(LANE_MORE, 16384, 3), 1);
	cr_expect_eq(give(0, 32768, 4), 0);
	expect_answer(WIRE_NO_SPACE);
	cr_expect(holds(8192, 1) && holds(FULL_OFF, 0) && holds(16384, 0) && holds(32768, 0));
	cr_expect_eq(give(LANE_MORE, 16384, 3), 1);
	cr_expect_eq(give(0, 32768, 4), 0);
	expect_answer(WIRE_OK);
	cr_expect(holds(16384, 3) && holds(32768, 4));
}

Test(train, of_a_read_only_session_stores_nothing)
{
	engine_up((struct engine_cfg){ .read_only = true });
	cr_expect_eq(give(LANE_MORE, 8192, 1), 1);
	cr_expect_eq(give(0, 16384, 1), 0);
	expect_answer(WIRE_STATE);
	cr_expect(holds(8192, 0) && holds(16384, 0));
}

Test(train, whose_fence_fails_ends_the_session)
{
	t.pm.fail = fence_fails;
	engine_up((struct engine_cfg){ 0 });
	cr_expect_eq(give(LANE_MORE, 8192, 1), 1);
	cr_expect_eq(give(0, 16384, 1), -EIO);
	expect_answer(WIRE_IO);
	cr_expect_eq(give(LANE_MORE, 8192, 1), -EIO, "a silent message of a failed engine");
	expect_answer(WIRE_IO);
}

Test(train, of_one_lane_is_not_broken_by_another)
{
	cr_expect_eq(give(LANE_MORE, 8192, 1), 1);
	cr_expect_eq(give_on(1, LANE_DEEP, 0, 16384, 2), 0);
	cr_expect_eq(give(0, 32768, 3), 0);
	expect_answer(WIRE_OK);
}

/* Nothing but a write continues it. */
Test(train, broken_by_another_operation_ends_the_session)
{
	static const unsigned ops[] = { LANE_DEEP, LANE_PING, LANE_READ, LANE_CHECKPOINT };

	for (unsigned i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		struct write_msg m;

		engine_up((struct engine_cfg){ 0 });
		cr_expect_eq(give(LANE_MORE, 8192, 1), 1);
		m = message(0, ops[i], 0, 16384, 2);
		if (ops[i] != LANE_DEEP) {
			m.hdr.inline_bytes = le32_put(0);
			m.hdr.range_count = le32_put(ops[i] == LANE_READ);
			m.range.flags = le32_put(0);
			lane_req_seal(&m, ops[i] == LANE_READ ? 80 : 64);
			cr_expect_eq(engine_handle(t.engine, 0, &m, ops[i] == LANE_READ ? 80 : 64, &t.ack, t.read_buf),
				     -EPROTO, "operation %u", ops[i]);
		} else {
			lane_req_seal(&m, sizeof(m));
			cr_expect_eq(handle(0, &m), -EPROTO);
		}
		cr_expect(holds(16384, 0), "operation %u", ops[i]);
		expect_answer(WIRE_BAD_PROTO);
	}
}

/* As long as it may be; and an initiator that never ends one. */
Test(train, without_end_is_refused)
{
	for (unsigned i = 0; i < LANE_SILENT_MAX; i++)
		cr_expect_eq(give(LANE_MORE, 8192, 1), 1);
	cr_expect_eq(give(0, 8192, 2), 0);
	expect_answer(WIRE_OK);
	for (unsigned i = 0; i < LANE_SILENT_MAX; i++)
		cr_expect_eq(give(LANE_MORE, 8192, 3), 1);
	cr_expect_eq(give(LANE_MORE, 8192, 4), -EPROTO);
	expect_answer(WIRE_BAD_PROTO);
	cr_expect(holds(8192, 3));
}

/* Only where the session has said that it takes them. */
Test(train, of_another_kind_is_refused)
{
	static const struct { unsigned op, flags; bool fs; } cases[] = {
		{ LANE_WRITE, LANE_MORE, true },  { LANE_WRITE, LANE_BARE, true }, { LANE_DEEP, LANE_MORE, false },
		{ LANE_DEEP, LANE_BARE, false }, { LANE_WRITE, 4, false },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		engine_up((struct engine_cfg){ .fs = cases[i].fs });
		cr_expect_eq(give_on(0, cases[i].op, cases[i].flags, 8192, 1), -EPROTO, "case %u", i);
		cr_expect(holds(8192, 0), "case %u", i);
	}
}
