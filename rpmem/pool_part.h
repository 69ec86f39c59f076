/* One part file: found, locked, checked, made, removed. Knows no headers and maps nothing; pool.c puts parts together. */
#ifndef RPMEMFS_RPMEM_POOL_PART_H
#define RPMEMFS_RPMEM_POOL_PART_H

#include <stdbool.h>
#include <stdint.h>
#include "poolset.h"

/* How long locks may be waited for, shared by all parts of one call. */
struct part_wait {
	uint64_t deadline_ms; /* of CLOCK_MONOTONIC */
};
struct part_wait part_wait_start(unsigned ms);

/* Path of the part file, to be freed; for a directory the file in it. NULL: out of memory. */
char *part_path(const struct poolset_part *part);

/* Opens and locks (shared when read_only). On return the path still names the locked file. -ENOENT; -EBUSY: locked until
 * the wait was over, errmsg names the holder where the kernel tells; -EINVAL: neither file nor device dax. */
int part_open(const char *path, bool read_only, const struct part_wait *wait, int *fd);

/* Makes and locks a new file of no bytes. -EEXIST. */
int part_create(const char *path, const struct part_wait *wait, int *fd);

/* Unlocks and closes; -1 is allowed. */
void part_close(int fd);

/* Bytes of a file or device dax. */
int part_size(int fd, const char *path, uint64_t *bytes);

enum part_space {
	PART_NOW,    /* behind every byte; in memory that is huge pages where the kernel has them */
	PART_LATE,   /* a new file in memory: as sparse, if there is enough by now; others at once */
	PART_SPARSE, /* behind the header alone */
};

/* Gives the file its size, with space behind it. -ENOSPC, -EFBIG ... */
int part_allocate(int fd, const char *path, uint64_t size, enum part_space space);

/* Gets space behind a range of the file that keeps what it holds; nothing where the file system cannot. -ENOSPC. The
 * range is about to be used: in memory, its holes get zeroed huge pages. */
int part_back(int fd, const char *path, uint64_t off, uint64_t len);

/* The same for a range that may never be used: memory is set aside, not touched. */
int part_fill(int fd, const char *path, uint64_t off, uint64_t len);

/* Whether some of the file has no space behind it. */
int part_holes(int fd, const char *path, bool *holes);

/* Whether the bytes from..to read as zero; holes are not read. */
int part_is_zero(int fd, const char *path, uint64_t from, uint64_t to, bool *zero);

/* Makes a name that came or went in the part's directory durable. */
int part_sync_dir(const char *path);

#endif
