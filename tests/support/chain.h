/* A history of small commits for tests of replication: each links one data block with content made from its sequence. */
#ifndef RPMEMFS_TESTS_CHAIN_H
#define RPMEMFS_TESTS_CHAIN_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include "copy.h"
#include "csum.h"
#include "redo.h"

#define CHAIN_SEED 7u /* hash_seed of the copies it goes to */

struct chain {
	struct redo_builder *builder;
	struct copy_point at;  /* newest commit made */
	uint64_t first_blk;    /* data blocks are used from here on */
};

static inline void chain_init(struct chain *chain, const struct media_geom *geom, const struct copy_point *at)
{
	cr_assert_eq(redo_builder_new(4u << 20, CHAIN_SEED, &chain->builder), 0);
	chain->at = *at;
	chain->first_blk = geom->group0_blk + MEDIA_GROUP_META_BLKS;
}

static inline void chain_content(uint64_t seq, uint8_t block[MEDIA_BLOCK_BYTES])
{
	for (unsigned i = 0; i < MEDIA_BLOCK_BYTES; i++)
		block[i] = (uint8_t)(seq * 31 + i * 7 + i / 256);
}

/* The next record, linking count blocks from the chain's next free one, with the bytes of content. *rec is malloc'ed. */
static inline uint64_t chain_next(struct chain *chain, const uint8_t *content, unsigned count, void **rec, uint32_t *len)
{
	uint64_t blk = chain->first_blk;
	struct hash128 hash;
	const void *built;

	redo_begin(chain->builder);
	for (unsigned i = 0; i < count; i++)
		cr_assert_eq(redo_link(chain->builder, blk + i, MEDIA_DATA,
				       csum_crc32c(0, content + i * MEDIA_BLOCK_BYTES, MEDIA_BLOCK_BYTES)), 0);
	cr_assert_eq(redo_finish(chain->builder, chain->at.seq + 1, chain->at.epoch, &chain->at.hash, 1, &built, len, &hash), 0);
	*rec = malloc(*len);
	cr_assert(*rec);
	memcpy(*rec, built, *len);
	chain->at.seq++;
	chain->at.hash = hash;
	chain->first_blk += count;
	return blk * MEDIA_BLOCK_BYTES;
}

static inline void chain_fini(struct chain *chain)
{
	redo_builder_delete(chain->builder);
}

#endif
