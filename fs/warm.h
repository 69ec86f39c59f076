/* Pages of a pool in memory made ready by a thread, ahead of what arrives in them. */
#ifndef RPMEMFS_FS_WARM_H
#define RPMEMFS_FS_WARM_H

#include "persist.h"

struct warm;

/* A thread for a pool. NULL: nothing to gain, or no memory: all works without, slower. */
struct warm *warm_begin(const struct pm *pm);
/* Bytes will arrive in [off, off + len), which has space behind it, later than in what was asked for before. NULL is allowed. */
void warm_ask(struct warm *warm, uint64_t off, uint64_t len);
/* Stops at once; before the pool is closed. NULL is allowed. */
void warm_end(struct warm *warm);

#endif
