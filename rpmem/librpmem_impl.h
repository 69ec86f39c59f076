/* Shared by rpmem/librpmem.c (PMDK's functions) and rpmem/librpmem_ext.c (extensions): checks of arguments, and errno.
 */
#ifndef RPMEMFS_RPMEM_LIBRPMEM_IMPL_H
#define RPMEMFS_RPMEM_LIBRPMEM_IMPL_H

#include "rpool.h"

/* Below 0: -1 with errno. */
int api_result(int err);
int api_lane(RPMEMpool *rpp, unsigned lane, struct rlane **rl);
int api_write_check(RPMEMpool *rpp, size_t offset, size_t length, unsigned lane, unsigned flags, struct rlane **rl);

static inline enum debt_kind api_kind(unsigned flags)
{
	return flags & RPMEM_PERSIST_RELAXED ? DEBT_RELAXED : DEBT_ATOMIC;
}

#endif
