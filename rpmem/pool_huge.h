/* Huge pages behind a new part file in memory. */
#ifndef RPMEMFS_RPMEM_POOL_HUGE_H
#define RPMEMFS_RPMEM_POOL_HUGE_H

#include <stdint.h>

/* Puts zeroed huge pages behind a tmpfs file that has its size and no space yet, as far as they go. Never fails: what it
 * leaves out has no space behind it still. Other files are left as they are. */
void huge_fill(int fd, uint64_t size);

#endif
