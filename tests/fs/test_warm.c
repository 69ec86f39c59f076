/* The thread that makes a pool ready ahead of what arrives: over a pool whose space is given by this file. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "errmsg.h"
#include "fs/warm.h"

#define MIB (1ull << 20)
#define POOL_BYTES (64 * MIB - 4096) /* not whole huge pages */
#define GOES_BAD (40 * MIB)

static struct pm pm;
static uint64_t given_from, given_end; /* by the thread; read behind warm_backed or warm_end */
static bool goes_bad;

/* Space is given piece behind piece. */
static int give(struct pm *of, uint64_t off, uint64_t len)
{
	cr_assert_eq(of, &pm);
	if (!given_end)
		given_from = given_end = off;
	cr_assert_leq(off + len, POOL_BYTES);
	cr_assert_geq(off, given_end, "given twice");
	if (goes_bad && off + len > GOES_BAD)
		return errmsg_set(-ENOSPC, "full at 0x%llx", (unsigned long long)off);
	given_end = off + len;
	return 0;
}

static void setup(void)
{
	void *base = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(base, MAP_FAILED);
	pm_init(&pm, base, POOL_BYTES, PM_MEMORY);
	pm.populate = give;
}

static void teardown(void)
{
	munmap(pm.base, POOL_BYTES);
}

TestSuite(warm, .timeout = 60, .init = setup, .fini = teardown);

/* Ranges are given whole huge pages, up to the pool's end, and nothing twice. */
Test(warm, space_is_there_when_it_was_waited_for)
{
	struct warm *w = warm_begin(&pm);

	cr_assert_not_null(w);
	warm_back(w, 5 * MIB, 10 * MIB);
	cr_expect_eq(warm_backed(w, 15 * MIB), 0);
	cr_expect_eq(given_from, 4 * MIB);
	cr_expect_eq(given_end, 16 * MIB);
	for (uint64_t off = 15 * MIB; off < POOL_BYTES; off += 7 * MIB) /* more than are remembered at a time */
		warm_back(w, off, off + 7 * MIB < POOL_BYTES ? 7 * MIB : POOL_BYTES - off);
	cr_expect_eq(warm_backed(w, 30 * MIB), 0);
	cr_expect_eq(warm_backed(w, POOL_BYTES), 0);
	cr_expect_eq(given_end, POOL_BYTES);
	warm_end(w);
}

/* What nobody asked for is not waited for. */
Test(warm, waiting_ends_where_asking_did)
{
	struct warm *w = warm_begin(&pm);

	cr_expect_eq(warm_backed(w, POOL_BYTES), 0);
	warm_back(w, 0, 2 * MIB);
	cr_expect_eq(warm_backed(w, POOL_BYTES), 0);
	cr_expect_eq(given_end, 2 * MIB);
	warm_end(w);
}

/* No space: whoever waits is told, in the words of who found out, now and later; nothing more is asked for. */
Test(warm, no_space_is_told_to_who_waits)
{
	struct warm *w = warm_begin(&pm);

	goes_bad = true;
	for (uint64_t off = 0; off < 60 * MIB; off += 6 * MIB)
		warm_back(w, off, 6 * MIB);
	cr_expect_eq(warm_backed(w, 60 * MIB), -ENOSPC);
	cr_expect(strstr(errmsg_get(), "full at 0x"), "%s", errmsg_get());
	errmsg_clear();
	cr_expect_eq(warm_backed(w, 60 * MIB), -ENOSPC);
	cr_expect_leq(given_end, GOES_BAD);
	warm_end(w);
}

/* What has arrived is not changed, and the end does not wait for hints. */
Test(warm, touching_changes_nothing)
{
	struct warm *w = warm_begin(&pm);

	memset(pm.base + MIB, 0xa5, MIB);
	warm_touch(w, 0, 32 * MIB);
	memset(pm.base + 8 * MIB, 0x5a, MIB);
	warm_back(w, 0, 2 * MIB);
	cr_expect_eq(warm_backed(w, 2 * MIB), 0);
	warm_end(w);
	for (uint64_t i = 0; i < MIB; i++) {
		cr_assert_eq(pm.base[MIB + i], 0xa5);
		cr_assert_eq(pm.base[8 * MIB + i], 0x5a);
	}
	cr_expect_eq(pm.base[0], 0);
}

/* A pool that has its space and is no memory gains nothing; without the thread all calls are allowed. */
Test(warm, without_a_thread)
{
	pm.populate = NULL;
	pm.domain = PM_FILE;
	cr_expect_null(warm_begin(&pm));
	warm_back(NULL, 0, MIB);
	warm_touch(NULL, 0, MIB);
	cr_expect_eq(warm_backed(NULL, MIB), 0);
	warm_end(NULL);
}
