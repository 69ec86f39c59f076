/* A pool's parts as one range of addresses. */
#ifndef RPMEMFS_RPMEM_POOL_MAP_H
#define RPMEMFS_RPMEM_POOL_MAP_H

#include "pool.h"

/* Maps the open parts as map_off and map_len say (without gaps, from 0); parts after the first from file byte skip on.
 * Sets pool->pm, whose domain is that of the weakest part. After a failure pool_unmap is due as well. */
int pool_map(struct pool *pool, uint64_t skip, bool read_only);
void pool_unmap(struct pool *pool); /* of a pool not mapped: nothing */

/* Writes the first len bytes of a part's file, which are outside the range (its header). Durable on return. */
int pool_write_beside(const struct pool_part *part, const void *bytes, size_t len, enum pm_point point);

#endif
