/* Images that were recovered and kept the contract, by their content: the same bytes recover to the same state again, and take
 * new work as well as they did. Bounded: an image that was forgotten is recovered once more. */
#ifndef RPMEMFS_TESTS_EXPLORE_KNOWN_H
#define RPMEMFS_TESTS_EXPLORE_KNOWN_H

#include <stdbool.h>
#include "csum.h"

/* Whether that image is known; *state: hash of the text of the state that it recovers to. */
bool known_find(const struct hash128 *image, struct hash128 *state);
void known_add(const struct hash128 *image, const struct hash128 *state);

#endif
