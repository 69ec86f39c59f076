/* Pages of a pool in memory mapped ahead of who writes to it; pool_ahead_begin is in include/pool.h. */
#ifndef RPMEMFS_RPMEM_POOL_AHEAD_H
#define RPMEMFS_RPMEM_POOL_AHEAD_H

#include "pool.h"

/* Stops at once; before the pool is unmapped. Nothing when it was not begun. */
void pool_ahead_end(struct pool *pool);

#endif
