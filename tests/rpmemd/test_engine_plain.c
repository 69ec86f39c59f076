/* The engine and what is no commit: writes and reads of plain pools, deep persists, pools in files with several lanes. */
#include "tests/support/engine_rig.h"

TestSuite(engine_plain, .init = set_up, .fini = tear_down);

static unsigned write_req(unsigned op, uint64_t off, int want_err)
{
	req(0, op, 0);
	range(off, 64, LANE_RANGE_INLINE);
	range(off + 64, 64, LANE_RANGE_ZERO);
	payload(page_of[0x5a], 64);
	return send_on(0, want_err);
}

Test(engine_plain, plain_pools_are_written_and_take_no_commits)
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
Test(engine_plain, deep_writes_to_persistent_memory_are_synced)
{
	pm_init(&pm, pm.base, pm.len, PM_PMEM);
	plain_engine(false, false);
	memset(pm.base + 8192, 0xff, 192);
	cr_expect_eq(write_req(LANE_DEEP, 8192 + 64, 0), WIRE_OK);
	cr_expect(!memcmp(pm.base + 8192 + 64, page_of[0x5a], 64) && !memcmp(pm.base + 8192 + 128, page_of[0], 64));
	cr_expect_eq(write_req(LANE_WRITE, 8192, 0), WIRE_OK);
}

Test(engine_plain, read_only_sessions_and_unformatted_pools_store_nothing)
{
	plain_engine(true, false);
	cr_expect_eq(write_req(LANE_WRITE, 8192, 0), WIRE_STATE);
	plain_engine(false, true);
	cr_expect_eq(write_req(LANE_WRITE, 8192, 0), WIRE_STATE);
}

Test(engine_plain, a_consistent_copy_takes_no_plain_write_an_inconsistent_one_only_in_its_groups)
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

Test(engine_plain, reads_bring_bytes_behind_the_answer)
{
	req(0, LANE_READ, 0);
	range(media_off(MEDIA_SB_A_BLK), 512, 0);
	cr_expect_eq(send_ok(), WIRE_OK);
	cr_expect_eq(le32_get(ack.read_bytes), 512);
	cr_expect_arr_eq(read_buf, pm_ptr(&pm, media_off(MEDIA_SB_A_BLK)), 512);
}

Test(engine_plain, counters_count_messages_and_named_bytes_but_no_pings)
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

static bool user_fails;

static int fail_user(enum pm_point point)
{
	return point == PM_POINT_USER && user_fails ? -EIO : 0;
}

/* A lane must not call durable what the kernel told another one is lost: one failed msync ends all. */
Test(engine_plain, a_failed_msync_of_a_plain_pool_fails_every_lane)
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
Test(engine_plain, a_deep_persist_goes_deeper_for_its_own_ranges_on_any_lane)
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
Test(engine_plain, lanes_of_a_pool_in_files_share_fences, .timeout = 30)
{
	cr_expect_eq(file_writers(), FILE_LANES * FILE_WRITES);
	cr_expect_lt(fences, FILE_LANES * FILE_WRITES * 3 / 4, "%u fences", fences);
}

/* From a failed fence on nobody is told that anything is durable: at most what earlier fences covered. */
Test(engine_plain, a_failed_fence_is_everybodys, .timeout = 30)
{
	unsigned good;

	fails_from = 11;
	good = file_writers();
	cr_expect_leq(good, 10 * FILE_LANES);
	cr_expect_geq(good, 5);
	cr_expect_eq(fences, 11, "asked again after a failure: %u", fences);
}
