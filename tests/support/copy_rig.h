/* A formatted pool in memory with a copy open on it, and commits of a few blocks. For suites below the file system. */
#ifndef RPMEMFS_TESTS_COPY_RIG_H
#define RPMEMFS_TESTS_COPY_RIG_H

#include "copy.h"

#define RIG_POOL_BYTES (8u << 20)
#define RIG_RING_BYTES (512u << 10)
#define RIG_REC_MAX (RIG_RING_BYTES / REDO_RING_SHARE)

struct rig {
	struct pm pm;
	struct copy *copy;
	struct redo_builder *b;
	uint64_t first;  /* first block that can be allocated */
	uint64_t epoch;  /* of the commits; 1 */
	const void *rec; /* the newest commit's record */
	uint32_t rec_len;
};

/* Anonymous zeroed memory; pool_bytes may be large, untouched pages cost nothing. */
void rig_init(struct rig *rig, uint64_t pool_bytes, uint64_t ring_bytes);
void rig_fini(struct rig *rig);

/* Closes the copy, if any, and opens it again; 0 or copy_open's error, the copy is NULL then. */
int rig_reopen(struct rig *rig);

/* Between redo_begin and here: redo_* on rig->b. Builds the record behind head; rig_commit appends it as well. */
void rig_seal(struct rig *rig);
int rig_commit(struct rig *rig);

/* One commit each: a block of content fill as data (stored first), as metadata; line of a block set to fill, the rest
 * as it is in place; a block freed. */
int rig_commit_data(struct rig *rig, uint64_t blk, uint8_t fill);
int rig_commit_meta(struct rig *rig, uint64_t blk, uint8_t fill);
int rig_commit_line(struct rig *rig, uint64_t blk, unsigned line, uint8_t fill);
int rig_commit_free(struct rig *rig, uint64_t blk);

/* A commit whose record has exactly that many bytes (a multiple of 64: 128, or 256 and up): zeros for the blocks from
 * rig->first on, as data. */
int rig_commit_bytes(struct rig *rig, uint32_t bytes);

#endif
