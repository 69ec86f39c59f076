/* Tests rpmem/pool_huge.c: holes of files in memory get huge pages, full of zeros; anything else is left as it is. */
#include "rpmem/pool_huge.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "errmsg.h"
#include "pool.h"

#define MIB (1ull << 20)

TestSuite(pool_huge, .timeout = 60);

static int file_in(const char *where, off_t size)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/test_pool_huge.XXXXXX", where);
	fd = mkstemp(path);
	if (fd < 0)
		cr_skip_test("no file can be made here");
	unlink(path);
	cr_assert_eq(ftruncate(fd, size), 0);
	return fd;
}

static uint64_t bytes_behind(int fd)
{
	struct stat st;

	cr_assert_eq(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static long faults(void)
{
	struct rusage usage;

	cr_assert_eq(getrusage(RUSAGE_SELF, &usage), 0);
	return usage.ru_minflt;
}

/* Writes each page of zeros; false: there was something else. Not instrumented: shadow memory costs page faults of its own. */
__attribute__((no_sanitize("thread", "address"))) static bool pages_touched(volatile char *at, uint64_t len)
{
	bool zero = true;

	for (uint64_t off = 0; off < len; off += 4096) {
		zero &= !at[off] && !at[off + 4095];
		at[off] = 1;
	}
	return zero;
}

/* Bytes at the end that make no huge page are the caller's. Aligned like a pool, so that huge pages can be mapped whole. */
Test(pool_huge, new_file_in_memory_is_mapped_by_few_faults)
{
	int fd = file_in("/dev/shm", 10 * MIB + 4096);
	char *room = mmap(NULL, 12 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at;
	bool zero;
	long before;

	cr_assert_neq(room, MAP_FAILED);
	at = (char *)(((uintptr_t)room + 2 * MIB - 1) & ~(uintptr_t)(2 * MIB - 1));
	huge_fill(fd, 0, 10 * MIB + 4096);
	if (bytes_behind(fd) < 10 * MIB)
		cr_skip_test("no huge pages for tmpfs on this system");
	cr_expect_eq(bytes_behind(fd), 10 * MIB);
	cr_assert_neq(mmap(at, 10 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), MAP_FAILED);
	before = faults();
	zero = pages_touched(at, 10 * MIB);
	cr_expect_leq(faults() - before, 1000, "2560 pages");
	cr_expect(zero);
	close(fd);
}

/* Only the holes of a range that are whole huge pages: content in between stays, bytes outside get nothing. */
Test(pool_huge, holes_of_a_range_are_filled)
{
	int fd = file_in("/dev/shm", 16 * MIB);
	char byte = 0;

	cr_assert_eq(pwrite(fd, "x", 1, 7 * MIB), 1);
	huge_fill(fd, 3 * MIB, 10 * MIB);
	if (bytes_behind(fd) == 4096)
		cr_skip_test("no huge pages for tmpfs on this system");
	cr_expect_eq(bytes_behind(fd), 6 * MIB + 4096, "4 to 6, 8 to 12");
	cr_expect_eq(pread(fd, &byte, 1, 7 * MIB), 1);
	cr_expect_eq(byte, 'x');
	huge_fill(fd, 3 * MIB, 10 * MIB);
	cr_expect_eq(bytes_behind(fd), 6 * MIB + 4096, "nothing is left to fill");
	close(fd);
}

Test(pool_huge, file_on_disk_stays)
{
	int fd = file_in(".", 4 * MIB);

	huge_fill(fd, 0, 4 * MIB);
	cr_expect_eq(bytes_behind(fd), 0);
	close(fd);
}

/* In a mount namespace of its own. Also space that is given later must be there at once. */
Test(pool_huge, memory_that_is_too_small_is_told_and_given_back)
{
	static const struct pool_attr attr = { .signature = POOLHDR_FS_SIGNATURE, .major = POOLHDR_FS_MAJOR };
	static const unsigned flags[] = { 0, POOL_COLD };
	char dir[] = "/tmp/test_pool_huge.XXXXXX", text[256], part[64];
	struct poolset *set;
	struct pool *pool = NULL;

	cr_assert(mkdtemp(dir));
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", dir, "tmpfs", 0, "size=6m")) {
		rmdir(dir);
		cr_skip_test("may not mount here");
	}
	snprintf(part, sizeof(part), "%s/part", dir);
	snprintf(text, sizeof(text), "PMEMPOOLSET\n16M %s\n", part);
	cr_assert_eq(poolset_parse("t.set", text, strlen(text), &set), 0);
	for (unsigned i = 0; i < 2; i++) {
		int err = pool_create(set, 0, &attr, flags[i], &pool);

		cr_expect_eq(err, -ENOSPC, "%d %s", err, errmsg_get());
		cr_expect_eq(access(part, F_OK), -1);
	}
	poolset_free(set);
	cr_assert_eq(umount(dir), 0);
	rmdir(dir);
}
