/* What file_read.c, file_stage.c and file_write.c share: where the content of a file's blocks is now, and how it changes. */
#ifndef RPMEMFS_FS_FILE_IMPL_H
#define RPMEMFS_FS_FILE_IMPL_H

#include "fs_impl.h"

#define BLK MEDIA_BLOCK_BYTES

/* The inode of a regular file; -EISDIR, -EINVAL for any other. */
int file_inode(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode);
/* A damaged block is -EIO to the program; the log says which. Other errors stay as they are. */
int file_damaged(uint64_t ino, uint64_t fblk, int err);
/* Map pointers of count blocks as the stream sees them: nothing at or behind the cut. v may be NULL. */
int file_ptrs(struct fs *fs, const struct vinode *v, const struct fs_inode_omf *inode, uint64_t fblk, unsigned count,
	uint64_t *ptrs);
/* Content of a committed block by its map pointer, verified; NULL: zeros. */
int file_committed(struct fs *fs, uint64_t ptr, const void **content);
/* Content of a staged block, verified: its checksum is known before any table has it. */
int file_staged(struct fs *fs, const struct staged *staged, const void **content);

/* --- file_stage.c --- */
#define STAGE_BLKS_MAX 1025u     /* planned at once; longer writes are split */
#define STAGED_RECORD_BYTES 124u /* one fresh block: link, free, one pointer line with its block's head */
#define NODE_RECORD_BYTES (BLK + 64u)

/* Stages bytes [off, off + len) of at most STAGE_BLKS_MAX blocks: all or nothing. src NULL: zeros. push: large writes may be
 * sent ahead. -ENOSPC: not for this class now; -EBADMSG: content that stays beside the bytes is damaged. */
int file_stage(
	struct fs *fs, struct vinode *v, enum alloc_class class, uint64_t off, const uint8_t *src, uint64_t len, bool push);

#endif
