/* On-media layout of one copy, the part that knows blocks and not files. All little-endian, all in 4 KiB blocks:
 *
 *   block 0        pool header (poolhdr.h)
 *   block 1        per-copy page: two slots, newest valid one counts
 *   block 2, 3     superblock A, B: newest valid one counts
 *   ring_blk ...   journal ring: redo records (redo.h), a byte ring in units of MEDIA_LINE_BYTES
 *   group0_blk ... groups of MEDIA_GROUP_BLKS blocks: summary | block table | blocks
 *
 * Groups follow each other without a gap, so a pool grows by appending groups. The last group may be short, never
 * shorter than MEDIA_GROUP_BLKS_MIN. An all-zero summary and table mean a free group. Changed only by copy.c and
 * replay.c; in place only from records that are durable in the ring. */
#ifndef RPMEMFS_MEDIA_H
#define RPMEMFS_MEDIA_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include "le.h"

#define MEDIA_BLOCK_BYTES 4096u
#define MEDIA_BLOCK_SHIFT 12u
#define MEDIA_LINE_BYTES 64u
#define MEDIA_LINES_PER_BLOCK 64u
#define MEDIA_VERSION 1u

#define MEDIA_PAGE_BLK 1u
#define MEDIA_SB_A_BLK 2u
#define MEDIA_SB_B_BLK 3u
#define MEDIA_RING_BLK 4u

#define MEDIA_GROUP_BLKS 32768u   /* 128 MiB */
#define MEDIA_TABLE_BLKS 128u     /* 256 entries each: one for every block of the group */
#define MEDIA_GROUP_META_BLKS (1u + MEDIA_TABLE_BLKS)
#define MEDIA_GROUP_BLKS_MIN (MEDIA_GROUP_META_BLKS + 64u)
#define MEDIA_RING_BYTES_MIN (512u << 10) /* an eighth holds the largest operation */
#define MEDIA_RING_BYTES_MAX (64u << 20)
#define MEDIA_POOL_BYTES_MIN (8ull << 20)
#define MEDIA_POOL_BYTES_MAX (1ull << 47) /* block numbers stay below 2^35 */

/* Feature masks: unknown compat bits are ignored, unknown ro bits allow reading only, unknown incompat bits refuse. */
#define MEDIA_FEATURES_COMPAT 0u
#define MEDIA_FEATURES_RO 0u
#define MEDIA_FEATURES_INCOMPAT 0u

/* What a used block holds; in table entries and records. Types above MEDIA_DATA_LAST are metadata: any first use
 * carries all lines in the record. Values above MEDIA_UNWRITTEN are named by who owns the content. */
enum media_type {
	MEDIA_FREE = 0,
	MEDIA_DATA = 1,
	MEDIA_UNWRITTEN = 2, /* allocated, reads as zeros, checksum 0 */
	MEDIA_DATA_LAST = 15,
	MEDIA_META_FIRST = 16,
	MEDIA_TYPE_MAX = 63,
};

/* Block table entry, 16 bytes. Owner: replay.c. Torn stores are mended by replay, which rewrites each entry a record in
 * the ring touches; check catches rot of the others. An all-zero entry is a block never used. */
struct media_entry_omf {
	le64_t seq_type; /*  0  sequence of the last change << 8 | enum media_type                    */
	le32_t csum;     /*  8  CRC32C of the block's content; 0 when free or unwritten                */
	le32_t check;    /* 12  CRC32C of block number (le64) and bytes 0..11; 0 when all else is zero */
};
static_assert(sizeof(struct media_entry_omf) == 16, "media_entry_omf size");
#define MEDIA_ENTRIES_PER_BLOCK 256u
#define MEDIA_SEQ_MAX ((1ull << 48) - 1) /* also fits the summary */

/* First line of a group. word changes as one 8-byte store, so that applying a record twice counts once. */
struct media_summary_omf {
	le64_t  word;  /* 0  sequence of the last record applied to the group << 16 | used blocks       */
	le32_t  check; /* 8  CRC32C of group index (le64) and word; 0 when word is 0                     */
	uint8_t zero[52];
};
static_assert(sizeof(struct media_summary_omf) == 64, "media_summary_omf size");

/* Superblock, the first 512 bytes of blocks 2 and 3. Owner: copy.c. Static fields are equal in both. */
#define MEDIA_SB_MAGIC "RPMEMSB\1"
struct media_sb_omf {
	uint8_t magic[8];          /*   0 */
	le32_t  version;           /*   8 */
	le32_t  feat_compat;       /*  12 */
	le32_t  feat_ro;           /*  16 */
	le32_t  feat_incompat;     /*  20 */
	uint8_t content_uuid[16];  /*  24  of the content, equal on all copies */
	le64_t  blk_count;         /*  40  whole blocks of the pool used by the format */
	le64_t  ring_bytes;        /*  48  multiple of the block size */
	le64_t  group0_blk;        /*  56 */
	le64_t  root_blk;          /*  64  where the file system's own metadata starts */
	le64_t  hash_seed;         /*  72  random secret of the pool: directory hashes, mark of its records */
	le64_t  created_ns;        /*  80  since 1970 */
	le64_t  generation;        /*  88  the greater one counts */
	le64_t  tail_seq;          /*  96  all records up to here are applied in place */
	le64_t  tail_pos;          /* 104  ring byte where record tail_seq + 1 starts */
	le64_t  tail_epoch;        /* 112  of record tail_seq */
	uint8_t tail_hash[16];     /* 120  history hash up to tail_seq */
	le64_t  used_blks;         /* 136  data and metadata blocks in use at tail_seq */
	uint8_t zero[364];         /* 144 */
	le32_t  csum;              /* 508  CRC32C of bytes 0..507 */
};
static_assert(sizeof(struct media_sb_omf) == 512, "media_sb_omf size");
static_assert(offsetof(struct media_sb_omf, tail_hash) == 120, "media_sb_omf tail_hash");
static_assert(offsetof(struct media_sb_omf, csum) == 508, "media_sb_omf csum");

/* Per-copy page: what belongs to this copy and not to the content. Two slots at offsets 0 and 2048 of block 1. */
#define MEDIA_PAGE_MAGIC "RPMEMCP\1"
#define MEDIA_PAGE_SLOT_BYTES 2048u
enum media_role { MEDIA_ROLE_PRIMARY = 1, MEDIA_ROLE_REPLICA = 2 };
enum media_state {
	MEDIA_CONSISTENT = 1,
	MEDIA_INCONSISTENT = 2, /* being overwritten (resync, restore): may not be mounted or promoted */
};
struct media_page_omf {
	uint8_t magic[8];         /*   0 */
	le64_t  generation;       /*   8  the greater one counts */
	le32_t  role;             /*  16  enum media_role */
	le32_t  state;            /*  20  enum media_state */
	uint8_t instance[16];     /*  24  new at mkfs, restore, resync, discard */
	le64_t  fence_epoch;      /*  40  records of an older epoch are refused */
	uint8_t fence_id[16];     /*  48  random id of that epoch */
	uint8_t sync_hash[16];    /*  64  inconsistent: history hash being copied in ... */
	le64_t  sync_seq;         /*  80  ... its sequence */
	le64_t  sync_group;       /*  88  ... groups below this are complete */
	uint8_t zero[412];        /*  96 */
	le32_t  csum;             /* 508  CRC32C of bytes 0..507 */
};
static_assert(sizeof(struct media_page_omf) == 512, "media_page_omf size");
static_assert(offsetof(struct media_page_omf, csum) == 508, "media_page_omf csum");

/* Geometry derived from a superblock; the only way code computes places. */
struct media_geom {
	uint64_t blk_count, group0_blk, group_count;
	uint64_t ring_bytes;
	uint64_t pool_seed; /* hash_seed of the superblock */
};

static inline uint64_t media_off(uint64_t blk) { return blk << MEDIA_BLOCK_SHIFT; }
static inline uint64_t media_ring_off(uint64_t pos) { return media_off(MEDIA_RING_BLK) + pos; }

static inline uint64_t media_group_of(const struct media_geom *g, uint64_t blk)
{
	return (blk - g->group0_blk) / MEDIA_GROUP_BLKS;
}

static inline uint64_t media_group_blk(const struct media_geom *g, uint64_t group)
{
	return g->group0_blk + group * MEDIA_GROUP_BLKS;
}

/* Blocks of the group, its summary and table included. */
static inline uint64_t media_group_len(const struct media_geom *g, uint64_t group)
{
	uint64_t left = g->blk_count - media_group_blk(g, group);

	return left < MEDIA_GROUP_BLKS ? left : MEDIA_GROUP_BLKS;
}

/* Whether blk may be allocated: inside a group and behind its table. */
static inline bool media_blk_valid(const struct media_geom *g, uint64_t blk)
{
	return blk >= g->group0_blk && blk < g->blk_count &&
	       (blk - g->group0_blk) % MEDIA_GROUP_BLKS >= MEDIA_GROUP_META_BLKS;
}

/* Pool offset of blk's table entry. */
static inline uint64_t media_entry_off(const struct media_geom *g, uint64_t blk)
{
	uint64_t group = media_group_of(g, blk), idx = (blk - g->group0_blk) % MEDIA_GROUP_BLKS;

	return media_off(media_group_blk(g, group) + 1) + idx * sizeof(struct media_entry_omf);
}

#endif
