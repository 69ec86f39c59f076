/* What file_read.c and file_write.c share: where the content of a file's blocks is now. */
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
/* Content of a staged block. */
const void *file_staged(struct fs *fs, const struct staged *staged);

#endif
