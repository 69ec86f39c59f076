/* Planted bugs: each is to be found by the explorer, and how long that took is printed. */
#ifndef RPMEMFS_TESTS_EXPLORE_PLANTS_H
#define RPMEMFS_TESTS_EXPLORE_PLANTS_H

#include "jobs.h"

#define PLANTS_WORKERS 2u

/* One of them, by name; NULL: all. Exit status: 0: found; 1: at least one was not. */
int plants_find(const char *name, uint64_t seed, unsigned seconds_each);
/* NULL: no such one. */
const struct job_bug *plants_bug(const char *name);
/* "data-fence, ..." */
void plants_print_names(void);

#endif
