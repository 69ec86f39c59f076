/* Tests rpmem/pool_ahead.c: pages of a pool in memory are mapped ahead of what is written, as far as promised, no further. */
#include "pool.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "errmsg.h"

#define MIB (1ull << 20)
#define POOL_MIB 321 /* not whole pieces of what is mapped at a time */

static const struct pool_attr attr = { .signature = POOLHDR_FS_SIGNATURE, .major = POOLHDR_FS_MAJOR };
static char dir[] = "/dev/shm/test_pool_ahead.XXXXXX", part[64];
static struct poolset *set;
static struct pool *pool;

static void setup(void)
{
	char text[128];

	(void)prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* small pages, of which none brings its far neighbours */
	cr_assert(mkdtemp(dir));
	snprintf(part, sizeof(part), "%s/part", dir);
	snprintf(text, sizeof(text), "PMEMPOOLSET\n%dM %s\n", POOL_MIB, part);
	cr_assert_eq(poolset_parse("t.set", text, strlen(text), &set), 0);
}

static void teardown(void)
{
	pool_close(pool);
	poolset_free(set);
	unlink(part);
	rmdir(dir);
}

TestSuite(pool_ahead, .timeout = 60, .init = setup, .fini = teardown);

static void make_and_open(unsigned create_flags, unsigned open_flags)
{
	cr_assert_eq(pool_create(set, 0, &attr, create_flags, &pool), 0, "%s", errmsg_get());
	pool_close(pool);
	pool = NULL;
	cr_assert_eq(pool_open(set, 0, open_flags, &pool), 0, "%s", errmsg_get());
}

/* Whether the page has an entry in this process's page table: bit 63 in proc_pid_pagemap(5). */
static bool is_mapped(uint64_t off)
{
	uint64_t entry = 0, page = (uint64_t)(uintptr_t)(pool->pm.base + off) / 4096;
	int fd = open("/proc/self/pagemap", O_RDONLY);
	ssize_t got = fd < 0 ? -1 : pread(fd, &entry, sizeof(entry), (off_t)(page * sizeof(entry)));

	if (fd >= 0)
		close(fd);
	if (got != sizeof(entry))
		cr_skip_test("no /proc/self/pagemap");
	return entry >> 63;
}

static void await_mapped(uint64_t off)
{
	while (!is_mapped(off))
		sched_yield();
}

/* The pool's beginning first, then what lies ahead of each write, up to the pool's end; content stays. */
Test(pool_ahead, pages_ahead_of_writes_are_mapped)
{
	make_and_open(0, 0);
	pool_ahead_begin(pool);
	if (!pool->pm.ahead)
		cr_skip_test("no memory file system");
	memset(pool->pm.base + 64 * MIB, 0xa5, MIB);
	for (uint64_t off = 8192; off < POOL_AHEAD_BYTES; off += MIB)
		await_mapped(off);
	cr_expect_not(is_mapped(POOL_AHEAD_BYTES + 32 * MIB), "behind the lead");
	pm_ahead(&pool->pm, 30 * MIB, 2 * MIB);
	await_mapped(POOL_AHEAD_BYTES + 16 * MIB);
	await_mapped(POOL_AHEAD_BYTES + 32 * MIB - 4096);
	cr_expect_not(is_mapped(POOL_AHEAD_BYTES + 32 * MIB), "behind the lead");
	pm_ahead(&pool->pm, 100 * MIB, 4096);
	await_mapped(pool->pm.len - 4096);
	pm_ahead(&pool->pm, pool->pm.len, 0);
	for (uint64_t i = 0; i < MIB; i++)
		cr_assert_eq(pool->pm.base[64 * MIB + i], 0xa5);
	cr_expect_eq(pool->pm.base[63 * MIB], 0);
	cr_expect_eq(pool->pm.base[65 * MIB], 0);
}

/* The end waits for no lead, with pieces asked for and not. */
Test(pool_ahead, closing_ends_it_at_once)
{
	make_and_open(0, 0);
	for (unsigned i = 0; i < 20; i++) {
		pool_ahead_begin(pool);
		pm_ahead(&pool->pm, i * MIB, MIB);
		pool_close(pool);
		cr_assert_eq(pool_open(set, 0, 0, &pool), 0, "%s", errmsg_get());
	}
}

/* Where asking for a page might take space it is not asked for: memory use follows what is used. */
Test(pool_ahead, holes_get_no_space)
{
	make_and_open(POOL_SPARSE, 0);
	pool_ahead_begin(pool);
	cr_expect_null(pool->pm.ahead);
	pm_ahead(&pool->pm, 0, MIB);
}

Test(pool_ahead, who_only_reads_needs_none)
{
	make_and_open(0, POOL_RDONLY);
	pool_ahead_begin(pool);
	cr_expect_null(pool->pm.ahead);
}
