/* Space and pages of a pool made ready by a thread, ahead of what arrives in them. */
#ifndef RPMEMFS_FS_WARM_H
#define RPMEMFS_FS_WARM_H

#include "persist.h"

struct warm;

/* A thread for a pool. NULL: nothing to gain, or no memory: all works without, slower. NULL is allowed below. */
struct warm *warm_begin(struct pm *pm);

/* [off, off + len) will be needed: space behind it. It lies behind what was asked for before. */
void warm_back(struct warm *warm, uint64_t off, uint64_t len);
/* Waits until there is space behind everything below end that was asked for. -ENOSPC and whatever else pm.populate says. */
int warm_backed(struct warm *warm, uint64_t end);

/* Bytes will arrive in [off, off + len), which has space or was asked for, later than in what was touched before. A hint. */
void warm_touch(struct warm *warm, uint64_t off, uint64_t len);

/* Stops at once; before the pool is closed. */
void warm_end(struct warm *warm);

#endif
