/* librpmem and a target that takes its time: waits that end before the answer comes, and groups of which one member fails. The
 * target is stopped, so nothing here depends on how long anything takes. */
#include "tests/support/child_signal.h"
#include "tests/support/rpmem_rig.h"

#include <poll.h>

#define LIMIT 90

static struct rpmem_rig rig;

#define OK(call) cr_assert_eq(call, 0, "%s: %s", #call, rpmem_errormsg())

static void expect_timed_out(int timeout_ms)
{
	errno = 0;
	cr_expect_eq(rpmem_drain_wait(rig.pool, 1, timeout_ms), -1);
	cr_expect_eq(errno, ETIMEDOUT, "%s", rpmem_errormsg());
}

/* A pool whose lane 1 is connected and whose target is stopped, with a drain under way. */
static pid_t stopped_in_a_drain(void)
{
	pid_t target;

	setenv("RPMEM_NOTICE_MS", "80000", 1);
	rig_up(&rig, "");
	rig_fill(&rig, 4096, 50000, 1);
	OK(rpmem_persist(rig.pool, 4096, 64, 1, 0));
	target = rig_child();
	cr_assert_gt(target, 0);
	child_signal(target, SIGSTOP);
	OK(rpmem_flush(rig.pool, 4096, 50000, 1, 0));
	OK(rpmem_drain_start(rig.pool, 1));
	return target;
}

Test(librpmem_wait, drain_wait_ends_at_its_time_and_goes_on, .timeout = LIMIT)
{
	pid_t target = stopped_in_a_drain();

	expect_timed_out(0);
	expect_timed_out(30);
	expect_timed_out(30);
	child_signal(target, SIGCONT);
	OK(rpmem_drain_wait(rig.pool, 1, -1));
	cr_expect(rig_same(&rig, 4096, 50000));
	cr_expect_eq(rpmem_drain_wait(rig.pool, 1, 0), -1);
	cr_expect_eq(errno, EINVAL, "nothing is under way");
	rig_fini(&rig);
}

/* As an event loop does it: the descriptor is silent while there is no answer, and readable when there is one. */
Test(librpmem_wait, descriptor_tells_the_answer, .timeout = LIMIT)
{
	pid_t target = stopped_in_a_drain();
	struct pollfd fd = { .fd = rpmem_lane_fd(rig.pool, 1), .events = POLLIN };
	unsigned silent = 0;
	int ret = 1;

	cr_assert_geq(fd.fd, 0, "%s", rpmem_errormsg());
	cr_expect_eq(rpmem_lane_fd(rig.pool, 1), fd.fd, "the same one");
	while (silent < 2) { /* what came in before the target stopped may wake it up a few times */
		cr_assert_eq(rpmem_drain_poll(rig.pool, 1), 1, "%s", rpmem_errormsg());
		silent += poll(&fd, 1, 10) == 0;
	}
	child_signal(target, SIGCONT);
	while (ret == 1) {
		cr_assert_eq(poll(&fd, 1, -1), 1);
		ret = rpmem_drain_poll(rig.pool, 1);
	}
	cr_expect_eq(ret, 0, "%s", rpmem_errormsg());
	cr_expect(rig_same(&rig, 4096, 50000));
	rig_fini(&rig);
}

/* The first that failed is told; the others have the data. */
Test(librpmem_wait, group_goes_on_without_a_dead_member, .timeout = LIMIT)
{
	struct rpmem_pool_attr attr = { .signature = "SECOND", .major = 1 };
	unsigned lanes = 4;
	RPMEMpool *second, *both[2];
	pid_t target;

	setenv("RPMEM_RECONNECT_MS", "0", 1);
	rig_init(&rig, "");
	rig_file(&rig, "two.set", "PMEMPOOLSET\n%zu %s/part2\n", RIG_BYTES, rig.dir);
	second = rpmem_create("@local", "two.set", rig.region, RIG_BYTES, &lanes, &attr);
	cr_assert_not_null(second, "%s", rpmem_errormsg());
	target = rig_child();
	cr_assert_eq(rig_create(&rig), 0, "%s", rpmem_errormsg());
	both[0] = second;
	both[1] = rig.pool;
	rig_fill(&rig, 4096, 1000, 5);
	OK(rpmem_group_persist(both, 2, 4096, 1000, 1, 0));
	child_signal(target, SIGKILL);
	rig_fill(&rig, 4096, 1000, 6);
	cr_expect_eq(rpmem_group_persist(both, 2, 4096, 1000, 1, 0), -1);
	cr_expect_eq(errno, ECONNRESET, "%d: %s", errno, rpmem_errormsg());
	cr_expect_not_null(strstr(rpmem_errormsg(), "two.set"), "names the one: %s", rpmem_errormsg());
	cr_expect(rig_same(&rig, 4096, 1000), "the other has it");
	rig_fill(&rig, 8192, 1000, 7);
	cr_expect_eq(rpmem_group_persist(both, 2, 8192, 1000, 1, 0), -1, "it stays lost");
	cr_expect(rig_same(&rig, 8192, 1000));
	rpmem_close(second);
	rig_fini(&rig);
}

Test(librpmem_wait, ranges_and_info_of_other_sizes, .timeout = LIMIT)
{
	struct {
		struct rpmem_info info;
		char newer[16];
	} grown;

	rig_up(&rig, "");
	cr_expect_eq(rpmem_flushv(rig.pool, NULL, 1, 0, 0), -1);
	cr_expect_eq(errno, EINVAL);
	OK(rpmem_flushv(rig.pool, NULL, 0, 0, 0));
	memset(&grown, 0xff, sizeof(grown));
	OK(rpmem_info(rig.pool, &grown.info, sizeof(grown)));
	cr_expect_eq(grown.info.pool_size, RIG_BYTES);
	for (unsigned i = 0; i < sizeof(grown.newer); i++)
		cr_expect_eq(grown.newer[i], 0, "a field this library does not know");
	rig_fini(&rig);
}
