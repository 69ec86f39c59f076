/* Whether one image keeps the contract: recovered with the real code, compared with the model, worked on, opened again and
 * checked by fsck. */
#ifndef RPMEMFS_TESTS_EXPLORE_CHECK_H
#define RPMEMFS_TESTS_EXPLORE_CHECK_H

#include "image.h"
#include "model.h"

#define CHECK_WHY_BYTES 8192u

/* States first..last of the model are allowed. 0 with the one that was found, or -1 with why (CHECK_WHY_BYTES). The image is to be
 * reset after it. */
int check_image(struct image *image, const struct model *model, unsigned first, unsigned last, unsigned *found, char *why);

/* The tree of a running core is one of those states: *found, which may be NULL. */
int check_states(struct fs *fs, const struct model *model, unsigned first, unsigned last, unsigned *found, char *why);

/* Recovery alone, for what it does to the image; whatever comes of it. */
void check_recover(struct image *image);

#endif
