/* See pages.h. */
#include "pages.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "trace.h"

void pages_make(struct pages *set, uint64_t bytes)
{
	*set = (struct pages){ .in = calloc(1, bytes / PAGES_BYTES) };
	EXPLORE_MUST(set->in ? 0 : -ENOMEM);
}

void pages_free(struct pages *set)
{
	free(set->in);
	set->in = NULL;
	vec_free(&set->list);
}

void pages_add(struct pages *set, uint64_t off, uint64_t len)
{
	for (uint64_t page = off / PAGES_BYTES; len && page <= (off + len - 1) / PAGES_BYTES; page++) {
		if (set->in[page])
			continue;
		set->in[page] = 1;
		EXPLORE_MUST(vec_push(&set->list, (uint32_t)page));
	}
}

void pages_clear(struct pages *set)
{
	for (size_t i = 0; i < set->list.n; i++)
		set->in[set->list.v[i]] = 0;
	set->list.n = 0;
}

void pages_put_back(struct pages *set, uint8_t *to, const uint8_t *from)
{
	for (size_t i = 0; i < set->list.n; i++) {
		uint64_t off = (uint64_t)set->list.v[i] * PAGES_BYTES;

		memcpy(to + off, from + off, PAGES_BYTES);
	}
	pages_clear(set);
}

uint8_t *pages_memory(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	EXPLORE_MUST(p == MAP_FAILED ? -ENOMEM : 0);
	(void)madvise(p, bytes, MADV_NOHUGEPAGE); /* one of zeros is 2 MiB to read; -EINVAL: a kernel without them */
	return p;
}

void pages_become(uint8_t *to, const uint8_t *from, uint64_t bytes)
{
	for (uint64_t off = 0; off < bytes; off += PAGES_BYTES)
		if (memcmp(to + off, from + off, PAGES_BYTES) != 0)
			memcpy(to + off, from + off, PAGES_BYTES);
}
