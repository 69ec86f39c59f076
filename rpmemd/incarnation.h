/* The incarnation of a pool: sixteen bytes that stay the same as long as its parts hold what was stored in them. */
#ifndef RPMEMFS_RPMEMD_INCARNATION_H
#define RPMEMFS_RPMEMD_INCARNATION_H

#include <stdint.h>
#include "pool.h"

/* Of an open pool. Any error: a part, or the boot's number, could not be looked at. */
int incarnation_of(const struct pool *pool, uint8_t incarnation[16]);

#endif
