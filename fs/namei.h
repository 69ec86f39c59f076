/* What the files of the name space (namei.c, rename.c, attr.c) share. */
#ifndef RPMEMFS_FS_NAMEI_H
#define RPMEMFS_FS_NAMEI_H

#include <string.h>
#include "fs_impl.h"

/* Length of a name that may be created or looked up. -EINVAL: empty, ".", ".." or with '/'; -ENAMETOOLONG. */
int name_check(const char *name, size_t *len);

/* op_abort, then fs_space_wait. */
int op_give_up(struct fs *fs, int err);

/* The inode of a directory that still has a name (or is the root). -ENOTDIR; -ENOENT: it was removed. */
int dir_load(struct fs *fs, uint64_t ino, struct fs_inode_omf *dir);

/* name_check, dir_load and dir_lookup. */
int dir_find(struct fs *fs, uint64_t ino, struct fs_inode_omf *dir, const char *name, size_t *len,
	     struct dir_entry *entry);

void inode_set_mtime(struct fs_inode_omf *inode, struct timespec t);
void inode_set_ctime(struct fs_inode_omf *inode, struct timespec t);
void inode_set_atime(struct fs_inode_omf *inode, struct timespec t);
static inline bool inode_is_dir(const struct fs_inode_omf *inode) { return S_ISDIR(le32_get(inode->mode)); }
/* Adds to the link count. */
void inode_add_links(struct fs_inode_omf *inode, int delta);

/* One link of the inode goes, at now; with the last one (a directory's ".." counts for it) it becomes an orphan.
 * Part of the running operation; stored. *gone: no link is left. */
int inode_drop_link(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode, struct timespec now, bool *gone);

/* After the operation: a stream that is still open must not bring back an older ctime when it is linked. */
void vinode_set_ctime(struct fs *fs, uint64_t ino, struct timespec now);
/* After the operation: reclaims the inode unless somebody has it open. */
void inode_gone(struct fs *fs, uint64_t ino);

/* Links the inode's stream, if there is one, ahead of an operation that must not become visible without the content. */
int inode_link_stream(struct fs *fs, uint64_t ino);

#endif
