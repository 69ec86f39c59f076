/* Huge pages behind part files in memory. */
#ifndef RPMEMFS_RPMEM_POOL_HUGE_H
#define RPMEMFS_RPMEM_POOL_HUGE_H

#include <stdint.h>

/* Puts zeroed huge pages behind the holes of a tmpfs file's range, as far as they go: a piece that holds any data, or is no
 * whole huge page, is left as it is. Never fails: what it leaves out has no space behind it still. Other files are not
 * touched. Content never changes, whoever uses the file meanwhile. */
void huge_fill(int fd, uint64_t off, uint64_t len);

#endif
