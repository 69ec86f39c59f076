/* librpmem's data calls against a real rpmemd: what arrives, in how many messages, on many threads, by every method. */
#include "tests/support/rpmem_rig.h"

#include <poll.h>
#include <pthread.h>
#include "rpmem/lane_impl.h"
#include "rpmem/rpool.h"

#define LIMIT 60

static struct rpmem_rig rig;

static uint64_t messages(unsigned lane)
{
	return lane_news(rig.pool->lanes[lane].lane)->round_trips;
}

#define OK(call) cr_assert_eq(call, 0, "%s: %s", #call, rpmem_errormsg())

/* Sizes round the bounds of words, cache lines, messages and windows; both ways of persisting; deep; and read back. */
Test(librpmem_data, what_is_persisted_is_there, .timeout = LIMIT)
{
	static const size_t sizes[] = { 1, 7, 8, 63, 64, 65, 4095, 4096, 16383, 16384, 16385, 65536, 69631, 69632, 69633,
					1 << 20, 3 << 20, RIG_BYTES - 4096 };
	char *got = malloc(RIG_BYTES);

	cr_assert(got);
	rig_up(&rig, "");
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (unsigned mode = 0; mode < 3; mode++) {
			size_t off = sizes[i] + 5000 < RIG_BYTES ? 4099 : 4096;

			rig_fill(&rig, off, sizes[i], (unsigned)i * 3 + mode);
			if (mode < 2)
				OK(rpmem_persist(rig.pool, off, sizes[i], 0, mode));
			else
				OK(rpmem_deep_persist(rig.pool, off, sizes[i], 0));
			cr_expect(rig_same(&rig, off, sizes[i]), "%zu bytes, mode %u", sizes[i], mode);
			memset(got, 0, sizes[i]);
			OK(rpmem_read(rig.pool, got, off, sizes[i], 1));
			cr_expect_arr_eq(got, rig.region + off, sizes[i], "%zu bytes, mode %u", sizes[i], mode);
		}
	free(got);
	rig_fini(&rig);
}

/* flags 0 promises whole 8-byte words, so nothing goes one-sided; yet a large range is one train in the window: all its
 * messages are on their way before the first answer is looked at, not a round trip for each 8 KiB. */
Test(librpmem_data, a_large_atomic_persist_is_one_train, .timeout = LIMIT)
{
	size_t len = 1 << 20, most = len / (64 << 10) + 1;
	struct lane *lane;
	uint64_t before;

	rig_up(&rig, "");
	rig_fill(&rig, 4096, len, 1);
	OK(rpmem_persist(rig.pool, 4096, 8, 0, 0));
	lane = rig.pool->lanes[0].lane;
	cr_assert_eq(lane->seq, 1);
	OK(rpmem_flush(rig.pool, 4096, len, 0, 0));
	cr_expect_geq(lane->seq - 1, len / LANE_MSG_BYTES_MAX, "all of it was posted by the flush, none waited for");
	OK(rpmem_drain(rig.pool, 0, 0));
	cr_expect_leq(lane->seq - 1, most);
	cr_expect_leq(messages(0) - 1, 2, "an answer to every message");
	cr_expect_eq(lane->push_ns, 0, "one-sided writes were used");
	cr_expect(rig_same(&rig, 4096, len));
	before = messages(0);
	OK(rpmem_persist(rig.pool, 4096, len, 0, RPMEM_PERSIST_RELAXED));
	cr_expect_neq(lane->push_ns, 0);
	cr_expect_eq(messages(0) - before, 1, "one message behind the writes");
	rig_fini(&rig);
}

/* Many flushes and one drain are one message and one answer. */
Test(librpmem_data, flushes_share_a_message, .timeout = LIMIT)
{
	struct rpmem_range ranges[64];
	uint64_t before;

	rig_up(&rig, "");
	OK(rpmem_persist(rig.pool, 4096, 64, 0, 0));
	before = messages(0);
	rig_fill(&rig, 4096, 1 << 18, 7);
	for (unsigned i = 0; i < 64; i++)
		OK(rpmem_flush(rig.pool, 4096 + i * 512, 256, 0, 0));
	OK(rpmem_drain(rig.pool, 0, 0));
	cr_expect_eq(messages(0) - before, 1);
	for (unsigned i = 0; i < 64; i++)
		cr_expect(rig_same(&rig, 4096 + i * 512, 256), "flush %u", i);
	before = messages(0);
	for (unsigned i = 0; i < 64; i++)
		ranges[i] = (struct rpmem_range){ 65536 + i * 1024, 100 };
	OK(rpmem_flushv(rig.pool, ranges, 64, 0, 0));
	OK(rpmem_drain(rig.pool, 0, 0));
	cr_expect_eq(messages(0) - before, 1);
	for (unsigned i = 0; i < 64; i++)
		cr_expect(rig_same(&rig, 65536 + i * 1024, 100), "range %u", i);
	before = messages(0);
	ranges[63].offset = RIG_BYTES;
	cr_expect_eq(rpmem_flushv(rig.pool, ranges, 64, 0, 0), -1);
	cr_expect_eq(errno, EINVAL);
	OK(rpmem_drain(rig.pool, 0, 0));
	cr_expect_eq(messages(0), before, "nothing was started");
	rig_fini(&rig);
}

/* More flushes than a lane remembers, some of them large, of both kinds, overlapping: the newest bytes win. */
Test(librpmem_data, more_flushes_than_are_remembered, .timeout = LIMIT)
{
	rig_up(&rig, "");
	for (unsigned i = 0; i < 3000; i++) {
		size_t off = 4096 + (size_t)(i * 7919 % 200) * 60000, len = i % 10 ? 1 + i % 3000 : 50000;

		rig_fill(&rig, off, len, i);
		OK(rpmem_flush(rig.pool, off, len, 0, i & 1 ? RPMEM_FLUSH_RELAXED : 0));
		if (i % 500 == 499)
			OK(rpmem_drain(rig.pool, 0, 0));
	}
	OK(rpmem_drain(rig.pool, 0, 0));
	cr_expect(rig_same(&rig, 4096, RIG_BYTES - 4096));
	rig_fini(&rig);
}

Test(librpmem_data, work_queue_bounds_what_is_under_way, .timeout = LIMIT)
{
	setenv("RPMEM_WORK_QUEUE_SIZE", "2", 1);
	rig_up(&rig, "");
	rig_fill(&rig, 4096, 1 << 20, 1);
	OK(rpmem_persist(rig.pool, 4096, 8, 0, 0));
	OK(rpmem_flush(rig.pool, 4096, 1 << 20, 0, 0));
	cr_expect_leq(rig.pool->lanes[0].lane->seq - rig.pool->lanes[0].lane->seq_acked, 2);
	OK(rpmem_drain(rig.pool, 0, 0));
	cr_expect(rig_same(&rig, 4096, 1 << 20));
	rig_fini(&rig);
}

/* Lanes are connected by their first use, each by itself. */
Test(librpmem_data, lanes_connect_when_used, .timeout = LIMIT)
{
	struct rpmem_info info;

	rig_init(&rig, "");
	rig.lanes = 64;
	cr_assert_eq(rig_create(&rig), 0, "%s", rpmem_errormsg());
	cr_expect_eq(rig.lanes, 64);
	OK(rpmem_info(rig.pool, &info, sizeof(info)));
	cr_expect_eq(info.connected, 1, "the one by which opening tries the way");
	cr_expect_eq(info.nlanes, 64);
	cr_expect_str_eq(info.provider, "tcp");
	cr_expect_eq(info.method, RPMEM_METHOD_GPSPM);
	cr_expect_eq(info.domain, RPMEM_DOMAIN_MEMORY);
	cr_expect_eq(info.pool_size, RIG_BYTES);
	cr_expect_eq(info.reconnections, 0);
	OK(rpmem_persist(rig.pool, 4096, 64, 63, 0));
	OK(rpmem_persist(rig.pool, 4096, 64, 17, 0));
	OK(rpmem_info(rig.pool, &info, sizeof(info)));
	cr_expect_eq(info.connected, 3);
	memset(&info, 0xff, sizeof(info));
	OK(rpmem_info(rig.pool, &info, sizeof(info.provider)));
	cr_expect_eq(info.nlanes, UINT_MAX, "a caller of an older version gets what it knows");
	cr_expect_eq(rpmem_info(rig.pool, NULL, 8), -1);
	rig_fini(&rig);
}

/* ---------------------------------------------------------------- threads */
#define THREADS 8u
#define SHARE ((size_t)256 << 10)

static void *worker(void *arg)
{
	unsigned lane = (unsigned)(uintptr_t)arg;
	size_t base = 4096 + lane * SHARE;
	char got[512];

	for (unsigned i = 0; i < 200; i++) {
		size_t off = base + (i * 509) % (SHARE - 8192);

		rig_fill(&rig, off, 500, i);
		if (rpmem_flush(rig.pool, off, 200, lane, 0) || rpmem_flush(rig.pool, off + 200, 300, lane, 0) ||
		    rpmem_drain(rig.pool, lane, 0) || rpmem_read(rig.pool, got, off, 500, lane) ||
		    memcmp(got, rig.region + off, 500))
			return (void *)(uintptr_t)(i + 1);
	}
	return rpmem_persist(rig.pool, base, SHARE, lane, lane & 1) ? (void *)(uintptr_t)1000 : NULL;
}

Test(librpmem_data, a_thread_on_each_lane, .timeout = LIMIT)
{
	pthread_t threads[THREADS];
	void *result;

	rig_init(&rig, "");
	rig.lanes = THREADS;
	cr_assert_eq(rig_create(&rig), 0, "%s", rpmem_errormsg());
	for (unsigned i = 0; i < THREADS; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, worker, (void *)(uintptr_t)i), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &result);
		cr_expect_null(result, "lane %u: round %u", i, (unsigned)(uintptr_t)result);
	}
	cr_expect(rig_same(&rig, 4096, THREADS * SHARE));
	rig_fini(&rig);
}

/* ---------------------------------------------------------------- drains that do not wait */
static int drain_by_poll(unsigned lane)
{
	struct pollfd fd = { .fd = rpmem_lane_fd(rig.pool, lane), .events = POLLIN };
	int ret;

	cr_assert_geq(fd.fd, 0, "%s", rpmem_errormsg());
	while ((ret = rpmem_drain_poll(rig.pool, lane)) == 1)
		cr_assert_gt(poll(&fd, 1, 20000), 0, "nothing wakes the sleeper"); /* the descriptor must be enough */
	return ret;
}

Test(librpmem_data, drain_in_an_event_loop, .timeout = LIMIT)
{
	rig_up(&rig, "");
	cr_expect_eq(rpmem_drain_poll(rig.pool, 0), -1);
	cr_expect_eq(errno, EINVAL, "no drain was started");
	for (unsigned i = 0; i < 50; i++) {
		size_t len = i % 2 ? 1 << 20 : 300;

		rig_fill(&rig, 4096, len, i);
		OK(rpmem_flush(rig.pool, 4096, len, i % 4, 0));
		OK(rpmem_drain_start(rig.pool, i % 4));
		cr_assert_eq(drain_by_poll(i % 4), 0, "%s", rpmem_errormsg());
		cr_expect(rig_same(&rig, 4096, len), "round %u", i);
	}
	rig_fill(&rig, 4096, 8192, 77);
	OK(rpmem_flush(rig.pool, 4096, 8192, 1, 0));
	OK(rpmem_drain_start(rig.pool, 1));
	OK(rpmem_drain_wait(rig.pool, 1, -1));
	cr_expect(rig_same(&rig, 4096, 8192));
	OK(rpmem_drain_start(rig.pool, 2));
	OK(rpmem_persist(rig.pool, 4096, 64, 2, 0));
	cr_expect_eq(rpmem_drain_poll(rig.pool, 2), 0, "another call has ended it");
	cr_expect_eq(rpmem_drain_poll(rig.pool, 2), -1);
	rig_fini(&rig);
}

/* ---------------------------------------------------------------- groups */
Test(librpmem_data, group_goes_to_all, .timeout = LIMIT)
{
	RPMEMpool *pools[3];
	struct rpmem_rig other = { 0 };
	char path[PATH_MAX], set[16], *got = malloc(1 << 20);

	cr_assert(got);
	rig_up(&rig, "");
	pools[0] = rig.pool;
	for (unsigned i = 1; i < 3; i++) {
		snprintf(set, sizeof(set), "%u.set", i);
		snprintf(path, sizeof(path), "part%u", i);
		rig_file(&rig, set, "PMEMPOOLSET\n%zu %s/%s\n", RIG_BYTES, rig.dir, path);
		other.lanes = 2;
		pools[i] = rpmem_create("@local", set, rig.region, RIG_BYTES, &other.lanes, &rig.attr);
		cr_assert(pools[i], "%s", rpmem_errormsg());
	}
	for (unsigned round = 0; round < 20; round++) {
		size_t len = round % 3 ? 100 : 1 << 20;

		rig_fill(&rig, 4096, len, round);
		if (round & 1) {
			for (unsigned i = 0; i < 3; i++)
				OK(rpmem_flush(pools[i], 4096, len, 1, 0));
			OK(rpmem_group_drain(pools, 3, 1));
		} else {
			OK(rpmem_group_persist(pools, 3, 4096, len, 1, round & 2 ? RPMEM_PERSIST_RELAXED : 0));
		}
		for (unsigned i = 0; i < 3; i++) {
			OK(rpmem_read(pools[i], got, 4096, len, 0));
			cr_expect_arr_eq(got, rig.region + 4096, len, "replica %u, round %u", i, round);
		}
	}
	cr_expect_eq(rpmem_group_persist(pools, 0, 4096, 64, 0, 0), -1);
	cr_expect_eq(errno, EINVAL);
	cr_expect_eq(rpmem_group_persist(pools, 3, 0, 64, 0, 0), -1);
	cr_expect_eq(errno, EINVAL);
	cr_expect_eq(rpmem_group_drain((RPMEMpool *[]){ pools[0], pools[0] }, 2, 0), -1);
	cr_expect_eq(errno, EINVAL);
	rpmem_close(pools[1]);
	rpmem_close(pools[2]);
	free(got);
	rig_fini(&rig);
}

/* ---------------------------------------------------------------- methods */
/* What the target's configuration chooses, forced where memory proves nothing by it: the ways are the same. */
static void method_works(const char *options, enum rpmem_method method)
{
	struct rpmem_info info;

	rig_up(&rig, options);
	OK(rpmem_info(rig.pool, &info, sizeof(info)));
	if (info.method != method) {
		rig_fini(&rig);
		cr_skip_test("this rpmemd does not give method %d for: %s", method, options);
	}
	for (unsigned i = 0; i < 200; i++) {
		size_t len = i % 7 == 6 ? 1 << 20 : 1 + i * 37;

		rig_fill(&rig, 4096 + i, len, i);
		OK(rpmem_persist(rig.pool, 4096 + i, len, 0, i % 3 ? RPMEM_PERSIST_RELAXED : 0));
		cr_expect(rig_same(&rig, 4096 + i, len), "round %u", i);
	}
	for (unsigned i = 0; i < 300; i++) {
		rig_fill(&rig, 4096 + i * 4096, 1000, i);
		OK(rpmem_flush(rig.pool, 4096 + i * 4096, 1000, 0, i % 5 ? RPMEM_FLUSH_RELAXED : 0));
	}
	OK(rpmem_drain_start(rig.pool, 0));
	cr_expect_eq(drain_by_poll(0), 0, "%s", rpmem_errormsg());
	for (unsigned i = 0; i < 300; i++)
		cr_expect(rig_same(&rig, 4096 + i * 4096, 1000), "flush %u", i);
	OK(rpmem_deep_persist(rig.pool, 4096, 1 << 18, 0));
	rig_fini(&rig);
}

Test(librpmem_data, read_behind_the_writes, .timeout = LIMIT)
{
	method_works("--persist-method apm --persist-force", RPMEM_METHOD_APM);
}

Test(librpmem_data, commit_completion, .timeout = LIMIT)
{
	method_works("--persist-method commit --persist-force", RPMEM_METHOD_COMMIT);
}
