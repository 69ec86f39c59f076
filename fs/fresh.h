/* Checksums of data blocks linked by commits that the local tail has not passed: the block table does not hold them yet. It is
 * not touched ahead of the checkpoint: replay of an older record would put an older entry of the same block back.
 * Kept in chunks of FRESH_CHUNK_BLKS neighbouring blocks, because large writes link long runs. Owner: the core's thread. */
#ifndef RPMEMFS_FS_FRESH_H
#define RPMEMFS_FS_FRESH_H

#include <stdbool.h>
#include <stdint.h>

struct fs;

#define FRESH_CHUNK_BLKS 64u

struct fresh {
	uint64_t seq;  /* of the commit that links the block */
	uint32_t csum;
	bool pushed;   /* went to the replicas ahead of the commit */
};

int fresh_add(struct fs *fs, uint64_t blk, const struct fresh *fresh); /* not there yet; -ENOMEM */
bool fresh_find(struct fs *fs, uint64_t blk, struct fresh *fresh);
void fresh_delete(struct fs *fs, uint64_t blk); /* also when not there */
void fresh_expire(struct fs *fs, uint64_t tail); /* forgets all with seq <= tail */
void fresh_fini(struct fs *fs);

#endif
