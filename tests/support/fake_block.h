/* A small block layer in memory with the contract of fs/block.h, for testing the structures above it without media,
 * ring or commits. Counts what is done, fails the Nth call on demand, and notices misuse: changes outside an operation,
 * freeing twice, reading what was freed. */
#ifndef RPMEMFS_TESTS_FAKE_BLOCK_H
#define RPMEMFS_TESTS_FAKE_BLOCK_H

#include "fs/fs.h"
#include "fs/tree.h"

#define FAKE_HASH_SEED 0x5eed5eed5eedull

/* A pool of blk_count blocks with an empty state block. */
struct fs *fake_new(uint64_t blk_count);
void fake_delete(struct fs *fs);

/* A data block in use; undone by op_abort. */
uint64_t fake_data(struct fs *fs);

/* The Nth of the calls that can fail from now on (1: the next one) fails with err: block_new -ENOSPC-like, block_get,
 * block_edit, block_put, block_free. 0: none. */
enum fake_call { FAKE_NEW = 1, FAKE_GET = 2, FAKE_EDIT = 4, FAKE_PUT = 8, FAKE_FREE = 16, FAKE_ANY = 31 };
void fake_fail(struct fs *fs, unsigned calls, uint64_t nth, int err);
/* Whether the failure asked for has happened. */
bool fake_failed(const struct fs *fs);

struct fake_counts {
	uint64_t used; /* blocks in use, state block included */
	uint64_t used_of[MEDIA_TYPE_MAX + 1];
	uint64_t gets, edits, puts;
	uint64_t op_lines; /* lines changed by the newest operation, each once */
	uint64_t misuse;   /* double frees, reads of free blocks: pointers that only damage explains */
};
const struct fake_counts *fake_counts(const struct fs *fs);

/* Hash over all blocks in use, their numbers, types and content. */
uint64_t fake_digest(const struct fs *fs);
/* Content of a metadata block, to damage it. */
void *fake_content(struct fs *fs, uint64_t blk);
uint32_t fake_type(const struct fs *fs, uint64_t blk); /* MEDIA_FREE when not in use */

#endif
