/* The allocator: which blocks are free, in DRAM bitmaps built from a group's block table when the group is first used.
 *
 *   free --alloc--> staged (DRAM only) --linked by a commit--> used --freed by a commit--> pending --> free
 *
 * A pending block is given out again when on every copy not released the freeing commit is durable and the tail has passed
 * the last record with lines for it. Blocks kept back for metadata (ALLOC_KEEP) let deletes and commits work on a full pool. */
#ifndef RPMEMFS_FS_ALLOC_H
#define RPMEMFS_FS_ALLOC_H

#include <stdbool.h>
#include <stdint.h>

struct fs;

enum alloc_class {
	ALLOC_DATA,  /* file content that needs more space */
	ALLOC_OVER,  /* file content that replaces committed content: may use half of what is kept back */
	ALLOC_META,  /* metadata of an operation that needs more space */
	ALLOC_FREE,  /* metadata of an operation that gives space back: may use the last blocks */
};

int alloc_init(struct fs *fs);
void alloc_fini(struct fs *fs);

/* One free block, near the last one given out for data. -ENOSPC: none for this class now (fs_space_coming() tells
 * whether a commit will bring some); -EBADMSG: the group's table is damaged. */
int alloc_block(struct fs *fs, enum alloc_class class, uint64_t *blk);

/* Up to want free blocks in a row for data, at least one: *got. */
int alloc_run(struct fs *fs, enum alloc_class class, uint64_t want, uint64_t *blk, uint64_t *got);

/* A block in use is about to be freed; -EUCLEAN: it is not in use, or freed already (a damaged pointer). alloc_stay takes
 * that back. */
int alloc_leave(struct fs *fs, uint64_t blk);
void alloc_stay(struct fs *fs, uint64_t blk);

/* A block that no commit ever linked and no message named: free at once. */
void alloc_undo(struct fs *fs, uint64_t blk);

/* A block freed by the commit of sequence freed_by (0: never linked, but a push of it may be under way: then pass the
 * sequence of a commit behind the push), whose newest lines are in record lines_seq (0: none). -ENOMEM. */
int alloc_pend(struct fs *fs, uint64_t blk, uint64_t freed_by, uint64_t lines_seq);

/* Recovery, before anything was allocated, between begin and end: a block that a record in the ring links, or frees for good;
 * and, for every one that record seq links (1) or frees (-1), whether for good or not, what the group's summary is to count.
 * end: -EBADMSG: a table and its summary do not say the same. */
void alloc_recover_begin(struct fs *fs);
int alloc_recover_link(struct fs *fs, uint64_t blk);
int alloc_recover_free(struct fs *fs, uint64_t blk, uint64_t freed_by, uint64_t lines_seq);
int alloc_recover_count(struct fs *fs, uint64_t blk, uint64_t seq, int delta);
int alloc_recover_end(struct fs *fs);

/* Gives out pending blocks whose conditions hold now. */
void alloc_settle(struct fs *fs, uint64_t min_acked, uint64_t min_tail);

uint64_t alloc_free_blks(const struct fs *fs);    /* can be given out now, kept-back ones included */
uint64_t alloc_pending_blks(const struct fs *fs);
uint64_t alloc_total_blks(const struct fs *fs);

/* Metadata blocks that staged writes will need when they are linked; taken off what ALLOC_DATA and ALLOC_META may use. */
int alloc_reserve(struct fs *fs, uint64_t blks); /* -ENOSPC */
void alloc_unreserve(struct fs *fs, uint64_t blks);

#define ALLOC_KEEP 64u

#endif
