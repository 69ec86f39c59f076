/* Damage that a checksum does not show: structures of a pool changed where they stand, and every checksum over them made right
 * again - of blocks in the table, of table and summary, of superblocks and page, of records with the contents they leave
 * behind, and the history from record to record. */
#ifndef RPMEMFS_TESTS_MUTATE_H
#define RPMEMFS_TESTS_MUTATE_H

#include "draw.h"
#include "pools.h"

/* Changes the pool at base, which holds the image's bytes, as the input chooses. Gently: only as a repair can mend. */
void mutate(uint8_t *base, const struct pool_image *image, struct draw *d, bool gently);

#endif
