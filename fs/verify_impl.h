/* What the files of verify share: one copy as it is compared. */
#ifndef RPMEMFS_FS_VERIFY_IMPL_H
#define RPMEMFS_FS_VERIFY_IMPL_H

#include "hash64.h"
#include "policy.h"
#include "vec.h"

struct lay { /* what the ring's records make of a block */
	uint64_t blk;
	uint32_t type, csum;
	uint64_t mask; /* lines laid over the content */
	uint8_t lines[MEDIA_BLOCK_BYTES];
	UT_hash_handle hh;
};

struct change { /* of the blocks in use of a group, by one record */
	uint64_t group, seq;
	int64_t blks;
};

/* DIFF_OTHER: whole by itself, and not what the first copy is. */
enum difference { DIFF_CONTENT, DIFF_OTHER, DIFF_COUNT, DIFF_BEHIND, DIFF_HISTORY, DIFF_UNREAD, DIFF_KINDS };

struct side { /* one copy */
	const char *name;
	struct copy *copy;      /* local, or ... */
	struct repl_link *link; /* ... remote */
	struct copy_point head;
	struct media_geom geom;
	struct lay *lays;
	VEC(struct change) changes;
	struct media_entry_omf *table; /* of the group under way */
	uint64_t differences, of[DIFF_KINDS];
	uint64_t used; /* blocks, by the tables of the groups seen; UINT64_MAX: one of them cannot be read */
};

/* verify_ring.c: fills lays and changes from the records that wait in the copy's ring; geometry and head are known. */
int side_ring_load(struct side *s);
void side_ring_free(struct side *s);

#endif
