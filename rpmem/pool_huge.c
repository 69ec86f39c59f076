/* Huge pages behind a new part file in memory, whatever the system's setting for tmpfs is.
 *
 *   each piece of 2 MiB: its first page allocated --MADV_COLLAPSE--> one zeroed huge page, the first page's place included
 *
 * Measured for 1 GiB: 0.07 s, against 0.25 s for allocating small pages and 0.28 s for zeroing them one by one. A mapping of
 * it then costs 512 page faults instead of 262,144, each of which costs 1.6 us in the middle of a write or of receiving one.
 *
 * A piece that consists of a hole alone is refused by the kernel, hence the first page. Pieces that were allocated whole are
 * not worth it: they would be copied. Kernels before 6.1 refuse the advice; memory may have no huge pages left. Then the
 * rest stays as it is, for the caller to allocate in small pages. */
#include "pool_huge.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <linux/magic.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1, newer than the C library's headers may be */
#endif

#define HUGE_BYTES (2ull << 20)
#define STEP_BYTES (64ull << 20) /* one advice; each costs a look at all processors' lists of pages */
#define PAGE_BYTES 4096u

static bool is_new_in_memory(int fd)
{
	struct statfs fs;
	struct stat st;

	return !fstatfs(fd, &fs) && (unsigned long)fs.f_type == TMPFS_MAGIC && !fstat(fd, &st) && st.st_blocks == 0;
}

static bool step_fill(int fd, uint8_t *base, uint64_t off, uint64_t len)
{
	for (uint64_t at = off; at < off + len; at += HUGE_BYTES)
		if (fallocate(fd, 0, (off_t)at, PAGE_BYTES))
			return false;
	return !madvise(base + off, len, MADV_COLLAPSE);
}

void huge_fill(int fd, uint64_t size)
{
	uint64_t len = size & ~(HUGE_BYTES - 1);
	uint8_t *room, *base;
	void *map;

	if (!len || !is_new_in_memory(fd))
		return;
	room = mmap(NULL, len + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return;
	base = (uint8_t *)(((uintptr_t)room + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
	map = mmap(base, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	for (uint64_t off = 0; map != MAP_FAILED && off < len; off += STEP_BYTES)
		if (!step_fill(fd, base, off, len - off < STEP_BYTES ? len - off : STEP_BYTES))
			break;
	munmap(room, len + HUGE_BYTES);
}
