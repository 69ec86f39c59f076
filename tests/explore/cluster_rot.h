/* Where a pool of a cluster may rot, or be left half overwritten. */
#ifndef RPMEMFS_TESTS_EXPLORE_CLUSTER_ROT_H
#define RPMEMFS_TESTS_EXPLORE_CLUSTER_ROT_H

#include "image.h"

enum rot_kind {
	ROT_BLOCK,      /* of those in use, by the table or by a record of the ring: the newest ones most often */
	ROT_RING,       /* a record in it */
	ROT_SUPERBLOCK, /* one of two that are both whole */
	ROT_ANYWHERE
};

/* Byte of the pool where it rots; kind becomes ROT_ANYWHERE where there is no such place. */
uint64_t rot_pick(const struct pm *pm, enum rot_kind *kind, uint64_t *seed);

/* As something that overwrites the copy leaves it when it is cut off: marked, and with blocks of something else. false: the
 * image is no copy. */
bool rot_half_overwrite(struct image *image, uint64_t *seed);

#endif
