/* Huge pages behind part files in memory, whatever the system's setting for tmpfs is.
 *
 *   each hole of 2 MiB: its first page allocated --MADV_COLLAPSE--> one zeroed huge page, the first page's place included
 *
 * Measured for 1 GiB: 0.07 s, against 0.25 s for allocating small pages and 0.28 s for zeroing them one by one. A mapping of
 * it then costs 512 page faults instead of 262,144, each of which costs 1.6 us in the middle of a write or of receiving one.
 *
 * A piece that consists of a hole alone is refused by the kernel, hence the first page. Pieces that have pages already are
 * not worth it: they would be copied. Kernels before 6.1 refuse the advice; memory may have no huge pages left. Then the
 * rest stays as it is, for the caller to allocate in small pages. */
#include "pool_huge.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/magic.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1, newer than the C library's headers may be */
#endif

#define HUGE_BYTES (2ull << 20)
#define STEP_BYTES (64ull << 20) /* one advice; each costs a look at all processors' lists of pages */
#define PAGE_BYTES 4096u

static bool in_memory(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) && (unsigned long)fs.f_type == TMPFS_MAGIC;
}

/* Bytes of whole pieces from off on in which there is no data, one step at most. */
static uint64_t hole_len(int fd, uint64_t off, uint64_t end)
{
	off_t data = lseek(fd, (off_t)off, SEEK_DATA);

	if (data >= 0 && (uint64_t)data < end)
		end = (uint64_t)data;
	else if (data < 0 && errno != ENXIO)
		return 0;
	return (end - off < STEP_BYTES ? end - off : STEP_BYTES) & ~(HUGE_BYTES - 1);
}

static bool hole_fill(int fd, uint8_t *at, uint64_t off, uint64_t len)
{
	for (uint64_t piece = off; piece < off + len; piece += HUGE_BYTES)
		if (fallocate(fd, 0, (off_t)piece, PAGE_BYTES))
			return false;
	return !madvise(at, len, MADV_COLLAPSE);
}

void huge_fill(int fd, uint64_t off, uint64_t len)
{
	uint64_t from = (off + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1), end = (off + len) & ~(HUGE_BYTES - 1), hole;
	uint8_t *room, *base;
	void *map;

	if (from >= end || !in_memory(fd))
		return;
	room = mmap(NULL, end - from + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return;
	base = (uint8_t *)(((uintptr_t)room + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
	map = mmap(base, end - from, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)from);
	for (uint64_t at = from; map != MAP_FAILED && at < end; at += hole ? hole : HUGE_BYTES) {
		hole = hole_len(fd, at, end);
		if (hole && !hole_fill(fd, base + (at - from), at, hole))
			break;
	}
	munmap(room, end - from + HUGE_BYTES);
}
