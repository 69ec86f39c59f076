/* The redo record: one commit, in terms of blocks. Built by the primary, stored in every copy's ring, applied by the one
 * replay function (copy.h). Knows no files.
 *
 *   header 128 | linked runs 16 each | freed runs 16 each | line blocks 24 each | checksums 4 each | pad to 64 | lines 64 each
 *
 * Runs and line blocks are sorted by block and do not overlap within their list; linked and freed are disjoint. Checksums
 * are those of the linked blocks' content after this commit, in order. A linked metadata block is also a line block with
 * all 64 lines. A line block's checksum is that of its whole content after this commit. The whole record is a multiple of
 * MEDIA_LINE_BYTES and at most an eighth of the ring. */
#ifndef RPMEMFS_REDO_H
#define RPMEMFS_REDO_H

#include "csum.h"
#include "media.h"

#define REDO_MAGIC 0x4f444552u /* "REDO" */
#define REDO_VERSION 1u
#define REDO_RING_SHARE 8u     /* a record takes at most ring_bytes / this */

struct redo_hdr_omf {
	le32_t  magic;        /*   0 */
	le16_t  version;      /*   4 */
	le16_t  flags;        /*   6  zero */
	le32_t  len;          /*   8  bytes of the whole record */
	le32_t  csum;         /*  12  CRC32C of the record with this field zero */
	le64_t  seq;          /*  16  previous + 1 */
	le64_t  epoch;        /*  24  never falls */
	uint8_t prev_hash[16];/*  32  history hash before this record */
	le32_t  linked_runs;  /*  48 */
	le32_t  linked_blks;  /*  52  sum over the runs = number of checksums */
	le32_t  freed_runs;   /*  56 */
	le32_t  freed_blks;   /*  60 */
	le32_t  line_blks;    /*  64 */
	le32_t  line_count;   /*  68  sum of mask bits */
	le64_t  time_ns;      /*  72  when it was closed, since 1970; informative */
	le64_t  pool_seed;    /*  80  the pool's secret: bytes of a user's file in a line cannot pass for a record */
	uint8_t zero[40];     /*  88 */
};
static_assert(sizeof(struct redo_hdr_omf) == 128, "redo_hdr_omf size");

struct redo_run_omf {
	le64_t blk;   /*  0 */
	le32_t count; /*  8  1.. */
	le32_t type;  /* 12  enum media_type; MEDIA_FREE in the freed list */
};
static_assert(sizeof(struct redo_run_omf) == 16, "redo_run_omf size");

struct redo_lines_omf {
	le64_t blk;   /*  0 */
	le64_t mask;  /*  8  bit i: line i (bytes 64 * i ..) follows in the line section */
	le32_t csum;  /* 16 */
	le32_t type;  /* 20  enum media_type of the block */
};
static_assert(sizeof(struct redo_lines_omf) == 24, "redo_lines_omf size");

/* --- building (one builder is reused for all commits; memory grows, bounded by max_bytes) --- */

struct redo_builder;

/* max_bytes: the record bound of the ring; pool_seed: of its geometry. -ENOMEM. */
int redo_builder_new(uint64_t max_bytes, uint64_t pool_seed, struct redo_builder **out);
void redo_builder_delete(struct redo_builder *b);
void redo_begin(struct redo_builder *b);
/* In any order; each block at most once per list. -ENOMEM only; the size bound is checked by redo_bytes' callers. */
int redo_link(struct redo_builder *b, uint64_t blk, uint32_t type, uint32_t csum);
int redo_free(struct redo_builder *b, uint64_t blk);
/* content: the block's 4 KiB now; lines of mask are copied, csum is computed here. */
int redo_lines(struct redo_builder *b, uint64_t blk, uint32_t type, uint64_t mask, const void *content);
uint64_t redo_bytes(const struct redo_builder *b); /* upper bound of the record as it stands */
/* Sorts, seals. *rec is owned by the builder until the next redo_begin. hash: history hash after the record.
 * -E2BIG: over max_bytes. -EINVAL: a block twice in a list, or linked and freed. */
int redo_finish(struct redo_builder *b, uint64_t seq, uint64_t epoch, const struct hash128 *prev, uint64_t time_ns,
		const void **rec, uint32_t *len, struct hash128 *hash);

/* --- reading --- */

/* A validated record; pointers into the caller's buffer. */
struct redo_view {
	uint32_t len;
	uint64_t seq, epoch, time_ns;
	struct hash128 prev_hash, hash; /* hash: after it, over all its bytes */
	uint32_t linked_runs, linked_blks, freed_runs, freed_blks, line_blks, line_count;
	const struct redo_run_omf *linked, *freed;
	const struct redo_lines_omf *lines;
	const le32_t *csums;
	const uint8_t *line_bytes;
};

/* Length of the record whose header is at hdr (128 bytes), or 0 when magic, version, length or the pool's mark are not a
 * record's. */
uint32_t redo_peek_len(const void *hdr, const struct media_geom *geom);

/* Validates the whole record against geom: bounds, order, types, counts, checksum. buf: aligned to 8 bytes. -EBADMSG:
 * damaged or malformed. */
int redo_parse(const void *buf, uint64_t len, const struct media_geom *geom, struct redo_view *view);

#endif
