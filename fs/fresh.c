/* See fresh.h. Invariant: a chunk is in the table only while it holds something; min_seq is at most the least seq in it. */
#include "fresh.h"

#include <assert.h>
#include "fs_impl.h"

struct fresh_chunk {
	uint64_t key;              /* block / FRESH_CHUNK_BLKS */
	uint64_t present, pushed;  /* bit i: block key * FRESH_CHUNK_BLKS + i */
	uint64_t min_seq;
	uint64_t seq[FRESH_CHUNK_BLKS];
	uint32_t csum[FRESH_CHUNK_BLKS];
	UT_hash_handle hh;
};

static struct fresh_chunk *chunk_find(struct fs *fs, uint64_t blk)
{
	uint64_t key = blk / FRESH_CHUNK_BLKS;
	struct fresh_chunk *c = fs->fresh_last;

	if (c && c->key == key)
		return c;
	HASH_FIND(hh, fs->fresh, &key, sizeof(key), c);
	if (c)
		fs->fresh_last = c;
	return c;
}

static void chunk_delete(struct fs *fs, struct fresh_chunk *c)
{
	if (fs->fresh_last == c)
		fs->fresh_last = NULL;
	HASH_DEL(fs->fresh, c);
	free(c);
}

int fresh_add(struct fs *fs, uint64_t blk, const struct fresh *fresh)
{
	struct fresh_chunk *c = chunk_find(fs, blk);
	unsigned i = blk % FRESH_CHUNK_BLKS;
	uint64_t bit = 1ull << i;

	if (!c) {
		c = calloc(1, sizeof(*c));
		if (!c)
			return -ENOMEM;
		c->key = blk / FRESH_CHUNK_BLKS;
		c->min_seq = UINT64_MAX;
		if (hash64_add(fs->fresh, key, c)) {
			free(c);
			return -ENOMEM;
		}
		fs->fresh_last = c;
	}
	assert(!(c->present & bit));
	c->present |= bit;
	c->pushed = fresh->pushed ? c->pushed | bit : c->pushed & ~bit;
	c->seq[i] = fresh->seq;
	c->csum[i] = fresh->csum;
	if (fresh->seq < c->min_seq)
		c->min_seq = fresh->seq;
	return 0;
}

bool fresh_find(struct fs *fs, uint64_t blk, struct fresh *fresh)
{
	struct fresh_chunk *c = chunk_find(fs, blk);
	unsigned i = blk % FRESH_CHUNK_BLKS;

	if (!c || !(c->present >> i & 1))
		return false;
	*fresh = (struct fresh){ .seq = c->seq[i], .csum = c->csum[i], .pushed = c->pushed >> i & 1 };
	return true;
}

void fresh_delete(struct fs *fs, uint64_t blk)
{
	struct fresh_chunk *c = chunk_find(fs, blk);

	if (!c)
		return;
	c->present &= ~(1ull << blk % FRESH_CHUNK_BLKS);
	if (!c->present)
		chunk_delete(fs, c);
}

void fresh_expire(struct fs *fs, uint64_t tail)
{
	struct fresh_chunk *c, *next;

	HASH_ITER(hh, fs->fresh, c, next) {
		if (c->min_seq > tail)
			continue;
		c->min_seq = UINT64_MAX;
		for (uint64_t left = c->present; left; left &= left - 1) {
			unsigned i = (unsigned)__builtin_ctzll(left);

			if (c->seq[i] <= tail)
				c->present &= ~(1ull << i);
			else if (c->seq[i] < c->min_seq)
				c->min_seq = c->seq[i];
		}
		if (!c->present)
			chunk_delete(fs, c);
	}
}

void fresh_fini(struct fs *fs)
{
	struct fresh_chunk *c, *next;

	HASH_ITER(hh, fs->fresh, c, next)
		chunk_delete(fs, c);
}
