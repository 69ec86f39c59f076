/* librpmem and a target that dies, stops, comes back, or comes back as another one. */
#include "tests/support/child_signal.h"
#include "tests/support/rpmem_rig.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#define LIMIT 90

static struct rpmem_rig rig;

/* Bound of the tests that need a short one: a new target has to be there within it on a busy machine. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define BOUND_MS 4000
#else
#define BOUND_MS 1500
#endif

#define OK(call) cr_assert_eq(call, 0, "%s: %s", #call, rpmem_errormsg())

static void target_signal(int sig)
{
	pid_t pid = rig_child();

	cr_assert_gt(pid, 0);
	child_signal(pid, sig);
}

static uint64_t reconnections(void)
{
	struct rpmem_info info;

	OK(rpmem_info(rig.pool, &info, sizeof(info)));
	return info.reconnections;
}

static void bound_set(unsigned ms)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", ms);
	setenv("RPMEM_RECONNECT_MS", text, 1);
}

static void set_away(bool away)
{
	char here[PATH_MAX], there[PATH_MAX];

	rig_path(&rig, "r.set", here);
	rig_path(&rig, "away.set", there);
	cr_assert_eq(away ? rename(here, there) : rename(there, here), 0);
}

/* Every data call meets a dead target and does its work all the same. */
Test(librpmem_loss, killed_between_calls, .timeout = LIMIT)
{
	char got[1000];

	rig_up(&rig, "");
	for (unsigned i = 0; i < 5; i++) {
		rig_fill(&rig, 4096, 100000, i);
		for (size_t off = 0; i == 1 && off < 50000; off += 1000) /* gathered: what is under way may be answered yet */
			OK(rpmem_flush(rig.pool, 4096 + off, 1000, 1, 0));
		target_signal(SIGKILL);
		switch (i) {
		case 0: OK(rpmem_persist(rig.pool, 4096, 100000, 1, 0)); break;
		case 1: OK(rpmem_drain(rig.pool, 1, 0)); break;
		case 2: OK(rpmem_persist(rig.pool, 4096, 100000, 1, RPMEM_PERSIST_RELAXED)); break;
		case 3: OK(rpmem_deep_persist(rig.pool, 4096, 100000, 1)); break;
		case 4:
			OK(rpmem_read(rig.pool, got, 4096, sizeof(got), 1));
			continue;
		}
		cr_expect(rig_same(&rig, 4096, i == 1 ? 50000 : 100000), "call %u", i);
		cr_expect_eq(reconnections(), i + 1, "call %u: %llu", i, (unsigned long long)reconnections());
	}
	target_signal(SIGKILL);
	rig.attr.major = 42;
	OK(rpmem_set_attr(rig.pool, &rig.attr));
	OK(rpmem_close(rig.pool));
	rig.pool = NULL;
	rig_fini(&rig);
}

/* Flushes that were not drained are sent again, those the dead target had answered included. */
Test(librpmem_loss, undrained_flushes_are_sent_again, .timeout = LIMIT)
{
	rig_up(&rig, "");
	for (unsigned i = 0; i < 900; i++) {
		rig_fill(&rig, 4096 + i * 8192, 3000, i);
		OK(rpmem_flush(rig.pool, 4096 + i * 8192, 3000, 0, i % 2));
	}
	target_signal(SIGKILL);
	OK(rpmem_drain(rig.pool, 0, 0));
	for (unsigned i = 0; i < 900; i++)
		cr_assert(rig_same(&rig, 4096 + i * 8192, 3000), "flush %u", i);
	rig_fini(&rig);
}

/* A stopped target holds its connection open and the pool's lock: it is noticed in time, and ended. */
Test(librpmem_loss, stopped_target, .timeout = LIMIT)
{
	uint64_t start;

	setenv("RPMEM_NOTICE_MS", "500", 1);
	rig_up(&rig, "");
	OK(rpmem_persist(rig.pool, 4096, 64, 0, 0));
	rig_fill(&rig, 4096, 4096, 3);
	target_signal(SIGSTOP);
	start = rig_now_ms();
	OK(rpmem_persist(rig.pool, 4096, 4096, 0, 0));
	cr_expect_lt(rig_now_ms() - start, 5000);
	cr_expect(rig_same(&rig, 4096, 4096));
	cr_expect_eq(reconnections(), 1, "%llu", (unsigned long long)reconnections());
	rig_fini(&rig);
}

static void *set_returns(void *arg)
{
	(void)arg;
	usleep(700000);
	set_away(false);
	return NULL;
}

/* The target is away for a while, within the bound. */
Test(librpmem_loss, target_comes_back_within_the_bound, .timeout = LIMIT)
{
	pthread_t thread;

	rig_up(&rig, "");
	rig_fill(&rig, 4096, 4096, 9);
	set_away(true);
	target_signal(SIGKILL);
	cr_assert_eq(pthread_create(&thread, NULL, set_returns, NULL), 0);
	OK(rpmem_persist(rig.pool, 4096, 4096, 0, 0));
	pthread_join(thread, NULL);
	cr_expect(rig_same(&rig, 4096, 4096));
	rig_fini(&rig);
}

/* Behind the bound the handle has failed: the same answer at once, for good, on every lane; the pool stays openable. */
Test(librpmem_loss, bound_passed, .timeout = LIMIT)
{
	char got[64], text[600];
	uint64_t start;

	setenv("RPMEM_RECONNECT_MS", "800", 1);
	rig_up(&rig, "");
	rig_fill(&rig, 4096, 4096, 9);
	OK(rpmem_persist(rig.pool, 4096, 4096, 0, 0));
	set_away(true);
	target_signal(SIGKILL);
	start = rig_now_ms();
	cr_expect_eq(rpmem_persist(rig.pool, 4096, 64, 0, 0), -1);
	cr_expect_eq(errno, ECONNRESET, "%s", strerror(errno));
	cr_expect_lt(rig_now_ms() - start, 3000);
	cr_expect(strstr(rpmem_errormsg(), "@local r.set") && strstr(rpmem_errormsg(), "800 ms"), "%s", rpmem_errormsg());
	snprintf(text, sizeof(text), "%s", rpmem_errormsg());
	set_away(false);
	start = rig_now_ms();
#define FAILED(call) \
	do { \
		errno = 0; \
		cr_expect_eq(call, -1, #call); \
		cr_expect_eq(errno, ECONNRESET, #call ": %s", strerror(errno)); \
		cr_expect_str_eq(rpmem_errormsg(), text); \
	} while (0)
	FAILED(rpmem_persist(rig.pool, 4096, 64, 0, 0));
	FAILED(rpmem_persist(rig.pool, 4096, 64, 3, 0));
	FAILED(rpmem_flush(rig.pool, 4096, 64, 1, 0));
	FAILED(rpmem_drain(rig.pool, 1, 0));
	FAILED(rpmem_deep_persist(rig.pool, 4096, 64, 1));
	FAILED(rpmem_read(rig.pool, got, 4096, 64, 2));
	FAILED(rpmem_set_attr(rig.pool, &rig.attr));
	FAILED(rpmem_drain_start(rig.pool, 1));
	FAILED(rpmem_close(rig.pool));
#undef FAILED
	cr_expect_lt(rig_now_ms() - start, 500);
	rig.pool = rpmem_open("@local", "r.set", rig.region, RIG_BYTES, &rig.lanes, NULL);
	cr_assert(rig.pool, "%s", rpmem_errormsg());
	cr_expect(rig_same(&rig, 4096, 4096));
	rig_fini(&rig);
}

Test(librpmem_loss, no_reconnection_when_switched_off, .timeout = LIMIT)
{
	setenv("RPMEM_RECONNECT_MS", "0", 1);
	rig_up(&rig, "");
	target_signal(SIGKILL);
	cr_expect_eq(rpmem_persist(rig.pool, 4096, 64, 0, 0), -1);
	cr_expect_eq(errno, ECONNRESET);
	cr_expect_eq(rpmem_close(rig.pool), -1);
	cr_expect_eq(errno, ECONNRESET);
	rig.pool = NULL;
	rig_fini(&rig);
}

Test(librpmem_loss, close_tells_that_the_target_was_gone, .timeout = LIMIT)
{
	rig_up(&rig, "");
	target_signal(SIGKILL);
	cr_expect_eq(rpmem_close(rig.pool), -1);
	cr_expect_eq(errno, ECONNRESET);
	rig.pool = NULL;
	rig_fini(&rig);
}

/* The same bytes in another file are not the pool: it may lack what was drained into the first. */
Test(librpmem_loss, replaced_part_is_refused, .timeout = LIMIT)
{
	char command[256];

	rig_up(&rig, "");
	rig_fill(&rig, 4096, 4096, 9);
	OK(rpmem_persist(rig.pool, 4096, 4096, 0, 0));
	target_signal(SIGKILL);
	snprintf(command, sizeof(command), "cd %s && cp --sparse=never part copy && mv copy part", rig.dir);
	cr_assert_eq(system(command), 0);
	cr_expect_eq(rpmem_persist(rig.pool, 4096, 64, 0, 0), -1);
	cr_expect_eq(errno, ESTALE, "%s: %s", strerror(errno), rpmem_errormsg());
	cr_expect(strstr(rpmem_errormsg(), "pmempool sync"), "%s", rpmem_errormsg());
	cr_expect_eq(rpmem_drain(rig.pool, 3, 0), -1);
	cr_expect_eq(errno, ESTALE);
	rig_fini(&rig);
}

/* ---------------------------------------------------------------- threads */
#define THREADS 4u
#define SHARE ((size_t)512 << 10)

static _Atomic bool stop;

static void *worker(void *arg)
{
	unsigned lane = (unsigned)(uintptr_t)arg, i;
	size_t base = 4096 + lane * SHARE;

	for (i = 0; !stop; i++) {
		size_t off = base + (i * 4099) % (SHARE - 70000), len = i % 5 ? 64 + i % 1000 : 65536;

		rig_fill(&rig, off, len, i + lane);
		if (rpmem_persist(rig.pool, off, len, lane, i & 1))
			return (void *)"persist failed";
	}
	return rpmem_persist(rig.pool, base, SHARE, lane, 0) ? (void *)"last persist failed" : NULL;
}

/* rpmemd is killed again and again while threads persist: they never notice, and both sides are equal. */
Test(librpmem_loss, killed_under_load, .timeout = LIMIT)
{
	pthread_t threads[THREADS];
	const char *result;

	rig_init(&rig, "");
	rig.lanes = THREADS;
	cr_assert_eq(rig_create(&rig), 0, "%s", rpmem_errormsg());
	for (unsigned i = 0; i < THREADS; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, worker, (void *)(uintptr_t)i), 0);
	for (unsigned i = 0; i < 4; i++) {
		uint64_t until = rig_now_ms() + 20000;

		usleep(200000);
		target_signal(SIGKILL);
		while (reconnections() <= i && rig_now_ms() < until)
			usleep(10000);
		cr_assert_eq(reconnections(), i + 1, "kill %u", i);
	}
	stop = true;
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(threads[i], (void **)&result);
		cr_expect_null(result, "lane %u: %s", i, result);
	}
	cr_expect(rig_same(&rig, 4096, THREADS * SHARE));
	rig_fini(&rig);
}

/* An event loop's drain goes on by itself behind a loss; the descriptor wakes for all of it. */
Test(librpmem_loss, drain_poll_over_a_loss, .timeout = LIMIT)
{
	struct pollfd fd = { .events = POLLIN };
	int ret;

	rig_up(&rig, "");
	fd.fd = rpmem_lane_fd(rig.pool, 2);
	cr_assert_geq(fd.fd, 0, "%s", rpmem_errormsg());
	OK(rpmem_persist(rig.pool, 4096, 64, 2, 0));
	rig_fill(&rig, 4096, 50000, 4);
	OK(rpmem_flush(rig.pool, 4096, 50000, 2, 0)); /* gathered: what is under way may be answered yet */
	target_signal(SIGKILL);
	OK(rpmem_drain_start(rig.pool, 2));
	while ((ret = rpmem_drain_poll(rig.pool, 2)) == 1)
		cr_assert_gt(poll(&fd, 1, 20000), 0, "nothing wakes the sleeper");
	cr_expect_eq(ret, 0, "%s", rpmem_errormsg());
	cr_expect(rig_same(&rig, 4096, 50000));
	cr_expect_eq(reconnections(), 1, "%llu", (unsigned long long)reconnections());
	rig_fini(&rig);
}

/* An idle program's target dies: nothing happens until the handle is used, however long that takes. */
Test(librpmem_loss, idle_handle_outlives_the_bound, .timeout = LIMIT)
{
	bound_set(BOUND_MS);
	rig_up(&rig, "");
	OK(rpmem_persist(rig.pool, 4096, 64, 0, 0));
	set_away(true);
	target_signal(SIGKILL);
	poll(NULL, 0, BOUND_MS + 500);
	set_away(false);
	OK(rpmem_persist(rig.pool, 4096, 64, 0, 0));
	rig_fini(&rig);
}

/* A session nobody uses stays: PINGs keep the target from taking it for dead. */
Test(librpmem_loss, silent_session_stays, .timeout = LIMIT)
{
	bound_set(BOUND_MS); /* asks for an idle time of half of it */
	rig_up(&rig, "");
	OK(rpmem_persist(rig.pool, 4096, 64, 0, 0));
	poll(NULL, 0, BOUND_MS + 500);
	OK(rpmem_persist(rig.pool, 4096, 64, 0, 0));
	OK(rpmem_persist(rig.pool, 4096, 64, 3, 0));
	cr_expect_eq(reconnections(), 0);
	rig_fini(&rig);
}
