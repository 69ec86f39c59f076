/* Memory of pools that is put back page by page: costs go with what changed, not with the size of the pool. */
#ifndef RPMEMFS_TESTS_EXPLORE_PAGES_H
#define RPMEMFS_TESTS_EXPLORE_PAGES_H

#include <stdint.h>
#include "fs/vec.h"

#define PAGES_BYTES 4096u

struct pages { /* a set of pages of one pool */
	uint8_t *in;
	VEC(uint32_t) list;
};

void pages_make(struct pages *set, uint64_t bytes);
void pages_free(struct pages *set);
void pages_add(struct pages *set, uint64_t off, uint64_t len);
void pages_clear(struct pages *set);
/* The pages of the set become those of from; the set is left empty. */
void pages_put_back(struct pages *set, uint8_t *to, const uint8_t *from);

/* Zeros. A page that is never stored to is the kernel's one page of zeros: it takes no memory, and reading it no time. */
uint8_t *pages_memory(uint64_t bytes);
/* Makes to the same as from, and stores only to pages that differ. */
void pages_become(uint8_t *to, const uint8_t *from, uint64_t bytes);

#endif
