/* Blocks as the file system sees them: current content of any block, and changes that become durable with the running
 * commit. Committed blocks are never changed in place before their commit: changes live in shadow blocks, 4 KiB of DRAM,
 * present while dirty or not yet checkpointed, with a mask of the 64-byte lines the running commit changed.
 *
 * Every change happens inside an operation: op_begin ... op_end, or op_abort, which puts every line, allocation and free
 * of the operation back as it was. So code may return on the first error and leave the undoing to op_abort.
 * Owner: the core's one thread. */
#ifndef RPMEMFS_FS_BLOCK_H
#define RPMEMFS_FS_BLOCK_H

#include "alloc.h"
#include "fsmedia.h"

struct fs;
struct shadow;

/* --- operations (op.c) --- */

/* Starts an operation; operations do not nest. */
void op_begin(struct fs *fs);
/* Keeps the changes: they are part of the running commit. */
void op_end(struct fs *fs);
/* Undoes everything since op_begin. Returns err, for `return op_abort(fs, err);`. */
int op_abort(struct fs *fs, int err);

/* --- content (block.c) --- */

/* Current content of a used block, checksum verified; readable until the operation ends or the next change of the
 * block. -EBADMSG: checksum or type wrong on media, errmsg names the block; -EUCLEAN: not a block number that can be
 * in use (a damaged pointer). */
int block_get(struct fs *fs, uint64_t blk, uint32_t type, const void **content);

/* The block's shadow, for changing. Errors as block_get, -ENOMEM. */
int block_edit(struct fs *fs, uint64_t blk, uint32_t type, struct shadow **shadow);

/* Current content of a shadow; changed only through block_put. */
const void *block_content(const struct shadow *shadow);

/* Changes len bytes at off; lines whose content stays equal do not become dirty. -ENOMEM. */
int block_put(struct fs *fs, struct shadow *shadow, uint32_t off, const void *src, uint32_t len);

/* Allocates a metadata block, content zero. -ENOSPC: none left for that class, -ENOMEM. */
int block_new(struct fs *fs, enum alloc_class class, uint32_t type, uint64_t *blk, struct shadow **shadow);

/* Frees a block of any type, at the end of the operation. -EUCLEAN: it is not in use; -EBADMSG: its group's table is
 * damaged; -ENOMEM. */
int block_free(struct fs *fs, uint64_t blk);

/* Links a staged data block (allocated by alloc_data, content in place and pm_written) into the running commit. It is
 * part of the commit's message unless pushed. -ENOMEM. */
int block_link_data(struct fs *fs, uint64_t blk, uint32_t csum, bool pushed);

/* Content of a committed or linked data block, verified; *content as in block_get. */
int block_get_data(struct fs *fs, uint64_t blk, const void **content);

/* The same unverified, for comparing only; NULL where there can be no content. */
const void *block_peek(struct fs *fs, uint64_t blk);

/* Whether the running or the flying commit links the block: its content must not be changed by lines then. */
bool block_is_fresh(struct fs *fs, uint64_t blk);

#endif
