/* Lazy lanes of a plain session over a real loopback fabric: connected when used, each index once, silent for ever, and the
 * end of one is the end of that one only. The initiator's own lane stands at the other end. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "errmsg.h"
#include "rpmem/lane.h"
#include "rpmemd/engine.h"
#include "rpmemd/lanes.h"

#define POOL_BYTES (16ull << 20)
#define LANES 8u
#define LIMIT 60

static struct pm pm;
static struct engine *engine;
static struct lanes *lanes;
static struct ctl_session session;
static struct fab *fab;
static struct lane *lane[LANES];
static _Atomic int ended_err, ended_count;

static void on_ended(void *arg, int err)
{
	(void)arg;
	ended_err = err;
	ended_count++;
}

static void set_up(void)
{
	struct lanes_cfg cfg = { .provider = "tcp", .bind_address = "127.0.0.1", .lane_count = LANES, .session = 77,
		.pm = &pm, .lazy = true, .connect_ms = 20000, .idle_ms = 100, .ended = on_ended };
	void *base = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(base, MAP_FAILED);
	pm_init(&pm, base, POOL_BYTES, PM_MEMORY);
	cr_assert_eq(engine_new(&(struct engine_cfg){ .pm = &pm, .floor = 4096 }, &engine), 0);
	cfg.engine = engine;
	memset(cfg.token, 0x5a, sizeof(cfg.token));
	memcpy(session.token, cfg.token, sizeof(cfg.token));
	session.session = cfg.session;
	cr_assert_eq(lanes_open(&cfg, &session, &lanes), 0, "%s", errmsg_get());
	cr_assert_eq(session.caps & CTL_CAP_RMA, CTL_CAP_RMA);
	cr_assert_eq(session.lanes, LANES);
	cr_assert_eq(fab_dial("tcp", "127.0.0.1", (uint16_t)session.port, &fab), 0, "%s", errmsg_get());
}

static void tear_down(void)
{
	for (unsigned i = 0; i < LANES; i++)
		lane_delete(lane[i]);
	fab_close(fab);
	if (lanes)
		lanes_close(lanes);
	engine_delete(engine);
	munmap(pm.base, pm.len);
}

TestSuite(lanes, .init = set_up, .fini = tear_down, .timeout = LIMIT);

static int up(unsigned index)
{
	struct lane_cfg cfg = { .index = index, .session = &session, .notice_ms = 10000 };
	struct deadline deadline = deadline_in(20000, NULL);

	return lane_connect(fab, &cfg, &deadline, &lane[index]);
}

static int drain(struct lane *l)
{
	int err = 0;

	while (!err && lane_ops(l)) {
		err = lane_poll(l);
		sched_yield();
	}
	return err ? err : lane_settled(l);
}

static int put(unsigned index, uint64_t off, const void *src, uint32_t len)
{
	struct repl_range range = { .off = off, .len = len, .src = src };
	int err = lane_write(lane[index], &range, 1, false);

	return err ? err : drain(lane[index]);
}

Test(lanes, a_lane_is_connected_when_it_is_used_in_any_order)
{
	static const unsigned order[] = { 5, 0, 7, 2 };
	uint8_t bytes[3000];

	for (unsigned i = 0; i < 4; i++) {
		memset(bytes, (int)order[i] + 1, sizeof(bytes));
		cr_assert_eq(up(order[i]), 0, "%s", errmsg_get());
		cr_expect_eq(put(order[i], 4096 * (order[i] + 1), bytes, sizeof(bytes)), 0, "%s", errmsg_get());
		cr_expect_arr_eq(pm.base + 4096 * (order[i] + 1), bytes, sizeof(bytes));
		usleep(60000);
	}
	cr_expect_eq(ended_count, 0);
	cr_expect(lanes_close(lanes), "somebody has asked for a lane");
	lanes = NULL;
}

Test(lanes, one_sided_writes_and_reads_work_on_every_lane)
{
	static uint8_t bytes[300000], back[300000];

	for (unsigned i = 0; i < LANES; i++) {
		struct repl_range range = { .off = 8192 + i * 512 * 1024, .len = sizeof(bytes), .src = bytes };

		memset(bytes, (int)i + 1, sizeof(bytes));
		cr_assert_eq(up(i), 0, "%s", errmsg_get());
		cr_assert_eq(lane_push(lane[i], &range, 1), 0);
		range.src = NULL;
		cr_assert_eq(lane_write(lane[i], &range, 1, true), 0);
		cr_assert_eq(drain(lane[i]), 0, "%s", errmsg_get());
		cr_expect_arr_eq(pm.base + range.off, bytes, sizeof(bytes));
		cr_assert_eq(lane_read(lane[i], range.off, back, sizeof(back)), 0);
		cr_assert_eq(drain(lane[i]), 0);
		cr_expect_arr_eq(back, bytes, sizeof(bytes));
	}
}

static unsigned fds_open(void)
{
	unsigned count = 0;
	DIR *dir = opendir("/proc/self/fd");

	cr_assert(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* What is granted goes by this number; both ends of each lane are counted here. */
Test(lanes, a_lane_takes_no_more_descriptors_than_planned)
{
	unsigned before;

	cr_assert_eq(up(0), 0);
	before = fds_open();
	for (unsigned i = 1; i < LANES; i++)
		cr_assert_eq(up(i), 0);
	cr_expect_leq(fds_open() - before, 2 * (LANES - 1) * LANE_FDS_MAX);
	cr_log_info("descriptors of a lane, both ends: %g", (double)(fds_open() - before) / (LANES - 1));
}

/* Longer than idle_ms, and nobody PINGs. */
Test(lanes, a_silent_lane_stays)
{
	uint8_t bytes[64] = { 7 };

	cr_assert_eq(up(1), 0);
	usleep(600000);
	cr_expect_eq(ended_count, 0);
	cr_expect_eq(put(1, 4096, bytes, sizeof(bytes)), 0, "%s", errmsg_get());
}

Test(lanes, the_end_of_a_lane_is_not_the_sessions_and_its_index_is_spent)
{
	uint8_t bytes[64] = { 9 };

	cr_assert_eq(up(0), 0);
	cr_assert_eq(up(3), 0);
	lane_delete(lane[3]);
	lane[3] = NULL;
	cr_expect_eq(up(3), -EACCES);
	cr_expect_eq(put(0, 4096, bytes, sizeof(bytes)), 0);
	cr_expect_eq(up(4), 0);
	cr_expect_eq(put(4, 8192, bytes, sizeof(bytes)), 0);
	cr_expect_eq(ended_count, 0);
}

Test(lanes, strangers_are_refused_and_change_nothing)
{
	struct ctl_session right = session;
	uint8_t bytes[64] = { 9 };

	for (unsigned i = 0; i < 3; i++) {
		session = right;
		if (i == 0)
			session.token[31] ^= 1;
		else if (i == 1)
			session.session++;
		cr_expect_eq(up(i == 2 ? 0 : 2), i == 2 ? 0 : -EACCES);
	}
	cr_expect_eq(up(2), 0, "refused requests spend no index");
	cr_expect_eq(put(2, 4096, bytes, sizeof(bytes)), 0);
	cr_expect_eq(ended_count, 0);
}

/* What only a broken or hostile initiator sends ends the whole session. */
Test(lanes, a_range_outside_the_pool_ends_the_session)
{
	uint8_t bytes[64] = { 1 };

	cr_assert_eq(up(0), 0);
	cr_assert_eq(up(1), 0);
	cr_expect_neq(put(1, POOL_BYTES - 32, bytes, sizeof(bytes)), 0);
	for (unsigned i = 0; i < 500 && !ended_count; i++)
		usleep(10000);
	cr_expect_eq(ended_count, 1);
	cr_expect_eq(ended_err, -EPROTO);
}

Test(lanes, closing_waits_for_nobody)
{
	uint64_t start;

	cr_assert_eq(up(0), 0);
	cr_assert_eq(up(6), 0);
	usleep(300000); /* asleep */
	start = channel_now_ns();
	lanes_close(lanes);
	lanes = NULL;
	cr_expect_lt(channel_now_ns() - start, 2000000000ull);
	cr_expect_eq(ended_count, 0);
}

/* Each thread writes its own part over its own lane, and sees its own numbers; TSan looks for what they share. */
static void *writer(void *arg)
{
	unsigned index = (unsigned)(uintptr_t)arg;
	uint64_t off = 1u << 20;
	uint8_t bytes[2000];
	int err = up(index);

	for (unsigned round = 0; round < 200 && !err; round++) {
		memset(bytes, (int)(round + index), sizeof(bytes));
		err = put(index, off * (index + 1) + round * 16, bytes, sizeof(bytes));
		if (!err && memcmp(pm.base + off * (index + 1) + round * 16, bytes, sizeof(bytes)))
			err = -EIO;
	}
	return (void *)(intptr_t)err;
}

Test(lanes, threads_do_not_meet)
{
	pthread_t threads[LANES];

	for (uintptr_t i = 0; i < LANES; i++)
		cr_assert(!pthread_create(&threads[i], NULL, writer, (void *)i));
	for (unsigned i = 0; i < LANES; i++) {
		void *err;

		pthread_join(threads[i], &err);
		cr_expect_eq((intptr_t)err, 0);
	}
	cr_expect_eq(ended_count, 0);
}
