/* What the persist layer uses of libpmem. The names keep clear of libpmem's own. */
#ifndef RPMEMFS_RPMEM_PMEM_H
#define RPMEMFS_RPMEM_PMEM_H

#include <stdbool.h>
#include <stddef.h>

/* Stores and starts write-back: non-temporal where that is faster, cache lines flushed otherwise. */
void pmdev_copy(void *dst, const void *src, size_t len);
void pmdev_zero(void *dst, size_t len);

/* Starts write-back of cache lines stored by someone else. */
void pmdev_flush(const void *addr, size_t len);

/* Waits for the write-backs started by this thread; also a plain store fence. */
void pmdev_drain(void);

/* Whether fd is a device dax character device. */
bool pmdev_is_devdax(int fd);

#endif
