/* Encoding and checking of the single structures of a copy: table entries, group summaries, per-copy page, superblock,
 * and the geometry a superblock stands for. Pure functions; nothing here touches a pool. */
#include "copy.h"

#include <errno.h>
#include <string.h>

#include "errmsg.h"

static bool all_zero(const void *p, size_t len)
{
	const uint8_t *at = p;

	for (size_t i = 0; i < len; i++)
		if (at[i])
			return false;
	return true;
}

/* --------------------------------------------------------------------------------------------------- geometry */

uint64_t copy_ring_bytes_default(uint64_t pool_bytes)
{
	uint64_t bytes = pool_bytes / 32 / MEDIA_BLOCK_BYTES * MEDIA_BLOCK_BYTES;

	if (bytes < MEDIA_RING_BYTES_MIN)
		return MEDIA_RING_BYTES_MIN;
	return bytes < MEDIA_RING_BYTES_MAX ? bytes : MEDIA_RING_BYTES_MAX;
}

int copy_geometry(uint64_t pool_bytes, uint64_t ring_bytes, struct media_geom *geom)
{
	struct media_geom g = { .blk_count = pool_bytes / MEDIA_BLOCK_BYTES };
	uint64_t left, rest;

	if (pool_bytes < MEDIA_POOL_BYTES_MIN || pool_bytes > MEDIA_POOL_BYTES_MAX)
		return errmsg_set(-EINVAL, "pool of %llu bytes: must be %llu to %llu", (unsigned long long)pool_bytes,
			(unsigned long long)MEDIA_POOL_BYTES_MIN, (unsigned long long)MEDIA_POOL_BYTES_MAX);
	g.ring_bytes = ring_bytes ? ring_bytes : copy_ring_bytes_default(pool_bytes);
	if (g.ring_bytes < MEDIA_RING_BYTES_MIN || g.ring_bytes > MEDIA_RING_BYTES_MAX ||
		g.ring_bytes % MEDIA_BLOCK_BYTES)
		return errmsg_set(-EINVAL, "ring of %llu bytes: must be whole blocks, %u to %u bytes",
			(unsigned long long)g.ring_bytes, MEDIA_RING_BYTES_MIN, MEDIA_RING_BYTES_MAX);
	g.group0_blk = MEDIA_RING_BLK + g.ring_bytes / MEDIA_BLOCK_BYTES;
	if (g.blk_count < g.group0_blk + MEDIA_GROUP_BLKS_MIN)
		return errmsg_set(-EINVAL, "pool of %llu bytes: too small for a ring of %llu bytes",
			(unsigned long long)pool_bytes, (unsigned long long)g.ring_bytes);
	left = g.blk_count - g.group0_blk;
	g.group_count = left / MEDIA_GROUP_BLKS;
	rest = left % MEDIA_GROUP_BLKS;
	if (rest >= MEDIA_GROUP_BLKS_MIN)
		g.group_count++;
	else
		g.blk_count -= rest; /* too short for a group of its own */
	*geom = g;
	return 0;
}

/* ------------------------------------------------------------------------------------------------ table entry */

static uint32_t entry_check(uint64_t blk, const struct media_entry_omf *omf)
{
	le64_t number = le64_put(blk);
	uint32_t crc = csum_crc32c(0, &number, sizeof(number));

	return csum_crc32c(crc, omf, offsetof(struct media_entry_omf, check));
}

void copy_entry_encode(uint64_t blk, const struct copy_entry *entry, struct media_entry_omf *omf)
{
	assert(entry->seq <= MEDIA_SEQ_MAX);
	assert(entry->type <= MEDIA_TYPE_MAX);
	omf->seq_type = le64_put(entry->seq << 8 | entry->type);
	omf->csum = le32_put(entry->csum);
	omf->check = le32_put(0);
	if (!all_zero(omf, sizeof(*omf)))
		omf->check = le32_put(entry_check(blk, omf));
}

int copy_entry_decode(uint64_t blk, const struct media_entry_omf *omf, struct copy_entry *entry)
{
	uint64_t seq_type = le64_get(omf->seq_type), seq = seq_type >> 8;
	uint32_t type = seq_type & 0xff, csum = le32_get(omf->csum);

	if (all_zero(omf, sizeof(*omf))) {
		*entry = (struct copy_entry){ 0 };
		return 0;
	}
	if (le32_get(omf->check) != entry_check(blk, omf))
		return errmsg_set(-EBADMSG, "block 0x%llx: table entry damaged", (unsigned long long)blk);
	if (type > MEDIA_TYPE_MAX || seq == 0 || seq > MEDIA_SEQ_MAX ||
		((type == MEDIA_FREE || type == MEDIA_UNWRITTEN) && csum))
		return errmsg_set(-EBADMSG, "block 0x%llx: table entry malformed", (unsigned long long)blk);
	*entry = (struct copy_entry){ .seq = seq, .type = type, .csum = csum };
	return 0;
}

/* -------------------------------------------------------------------------------------------------- summary */

static uint32_t summary_check(uint64_t group, le64_t word)
{
	le64_t index = le64_put(group);
	uint32_t crc = csum_crc32c(0, &index, sizeof(index));

	return csum_crc32c(crc, &word, sizeof(word));
}

void copy_summary_encode(uint64_t group, uint64_t seq, uint32_t used, struct media_summary_omf *omf)
{
	assert(seq <= MEDIA_SEQ_MAX);
	assert(used <= MEDIA_GROUP_BLKS - MEDIA_GROUP_META_BLKS);
	memset(omf, 0, sizeof(*omf));
	omf->word = le64_put(seq << 16 | used);
	if (le64_get(omf->word))
		omf->check = le32_put(summary_check(group, omf->word));
}

int copy_summary_decode(uint64_t group, const struct media_summary_omf *omf, uint64_t *seq, uint32_t *used)
{
	uint64_t word = le64_get(omf->word);
	uint32_t n = word & 0xffff;

	if (le32_get(omf->check) != (word ? summary_check(group, omf->word) : 0))
		return errmsg_set(-EBADMSG, "group %llu: summary damaged", (unsigned long long)group);
	if (n > MEDIA_GROUP_BLKS - MEDIA_GROUP_META_BLKS || (word && word >> 16 == 0) ||
		!all_zero(omf->zero, sizeof(omf->zero)))
		return errmsg_set(-EBADMSG, "group %llu: summary malformed", (unsigned long long)group);
	*seq = word >> 16;
	*used = n;
	return 0;
}

/* --------------------------------------------------------------------------------------------- per-copy page */

void copy_page_encode(const struct copy_page *page, uint64_t generation, struct media_page_omf *omf)
{
	memset(omf, 0, sizeof(*omf));
	memcpy(omf->magic, MEDIA_PAGE_MAGIC, sizeof(omf->magic));
	omf->generation = le64_put(generation);
	omf->role = le32_put(page->role);
	omf->state = le32_put(page->state);
	memcpy(omf->instance, page->instance, sizeof(omf->instance));
	omf->fence_epoch = le64_put(page->fence_epoch);
	memcpy(omf->fence_id, page->fence_id, sizeof(omf->fence_id));
	memcpy(omf->sync_hash, page->sync_hash.b, sizeof(omf->sync_hash));
	omf->sync_seq = le64_put(page->sync_seq);
	omf->sync_group = le64_put(page->sync_group);
	omf->csum = le32_put(csum_crc32c(0, omf, offsetof(struct media_page_omf, csum)));
}

int copy_page_decode(const struct media_page_omf *omf, struct copy_page *page, uint64_t *generation)
{
	uint32_t role = le32_get(omf->role), state = le32_get(omf->state);

	if (memcmp(omf->magic, MEDIA_PAGE_MAGIC, sizeof(omf->magic)) != 0)
		return errmsg_set(-EBADMSG, "per-copy page: not there");
	if (le32_get(omf->csum) != csum_crc32c(0, omf, offsetof(struct media_page_omf, csum)))
		return errmsg_set(-EBADMSG, "per-copy page: checksum wrong");
	if ((role != MEDIA_ROLE_PRIMARY && role != MEDIA_ROLE_REPLICA) ||
		(state != MEDIA_CONSISTENT && state != MEDIA_INCONSISTENT) || !all_zero(omf->zero, sizeof(omf->zero)))
		return errmsg_set(-EBADMSG, "per-copy page: malformed");
	*page = (struct copy_page){
		.role = role,
		.state = state,
		.fence_epoch = le64_get(omf->fence_epoch),
		.sync_seq = le64_get(omf->sync_seq),
		.sync_group = le64_get(omf->sync_group),
	};
	memcpy(page->instance, omf->instance, sizeof(page->instance));
	memcpy(page->fence_id, omf->fence_id, sizeof(page->fence_id));
	memcpy(page->sync_hash.b, omf->sync_hash, sizeof(omf->sync_hash));
	*generation = le64_get(omf->generation);
	return 0;
}

/* ------------------------------------------------------------------------------------------------- superblock */

static bool sb_places_ok(const struct media_sb_omf *sb, const struct media_geom *geom)
{
	return le64_get(sb->group0_blk) == geom->group0_blk &&
	       le64_get(sb->root_blk) == geom->group0_blk + MEDIA_GROUP_META_BLKS &&
	       le64_get(sb->tail_seq) <= MEDIA_SEQ_MAX && le64_get(sb->tail_pos) < geom->ring_bytes &&
	       le64_get(sb->tail_pos) % MEDIA_LINE_BYTES == 0 && le64_get(sb->used_blks) <= geom->blk_count &&
	       all_zero(sb->zero, sizeof(sb->zero));
}

/* A superblock is judged by its checksum before its version: all versions keep size and place of both, so that damage
 * is not taken for a newer format. Unknown read-only features are left to the caller, who knows what it wants to do. */
int copy_sb_check(const struct media_sb_omf *sb, uint64_t pool_bytes, struct media_geom *geom)
{
	uint64_t blk_count = le64_get(sb->blk_count), ring_bytes = le64_get(sb->ring_bytes);
	uint32_t unknown = le32_get(sb->feat_incompat) & ~MEDIA_FEATURES_INCOMPAT;
	struct media_geom g;

	if (memcmp(sb->magic, MEDIA_SB_MAGIC, sizeof(sb->magic)) != 0)
		return errmsg_set(-EMEDIUMTYPE, "superblock: not there");
	if (le32_get(sb->csum) != csum_crc32c(0, sb, offsetof(struct media_sb_omf, csum)))
		return errmsg_set(-EBADMSG, "superblock: checksum wrong");
	if (le32_get(sb->version) != MEDIA_VERSION)
		return errmsg_set(-EPROTONOSUPPORT, "superblock: version %u, this program knows %u",
			le32_get(sb->version), MEDIA_VERSION);
	if (unknown)
		return errmsg_set(-EPROTONOSUPPORT, "superblock: unknown features 0x%x", unknown);
	if (blk_count > pool_bytes / MEDIA_BLOCK_BYTES)
		return errmsg_set(-EBADMSG, "superblock: %llu blocks, the pool has %llu", (unsigned long long)blk_count,
			(unsigned long long)(pool_bytes / MEDIA_BLOCK_BYTES));
	/* zero would mean the default; the product cannot overflow behind the check above */
	if (!ring_bytes || copy_geometry(blk_count * MEDIA_BLOCK_BYTES, ring_bytes, &g) || g.blk_count != blk_count ||
		!sb_places_ok(sb, &g))
		return errmsg_set(-EBADMSG, "superblock: malformed");
	g.pool_seed = le64_get(sb->hash_seed);
	*geom = g;
	return 0;
}
