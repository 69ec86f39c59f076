/* The file system's structures over blocks: inode table, inodes, file maps, directories, orphans. All of them change things
 * only inside an operation (block.h); errors leave undoing to op_abort. Owner: the core's one thread. */
#ifndef RPMEMFS_FS_TREE_H
#define RPMEMFS_FS_TREE_H

#include "alloc.h"
#include "block.h"

/* ---------------------------------------------------------------- state block (itable.c) */
int state_get(struct fs *fs, const struct fs_state_omf **state);
/* Stores the whole changed state; only lines that differ become dirty. */
int state_put(struct fs *fs, const struct fs_state_omf *state);

/* ---------------------------------------------------------------- inodes (itable.c) */
/* Copies the inode out. -ESTALE: number never used or free. -EBADMSG as block_get. */
int inode_get(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode);
/* Stores it back; lines that did not change do not become dirty. */
int inode_put(struct fs *fs, uint64_t ino, const struct fs_inode_omf *inode);
/* Gives out a number (from the free list, else the next one), generation raised, all else zero but mode: mode is stored as
 * given (must not be 0), so that the inode counts as used. -ENOSPC. */
int inode_new(struct fs *fs, uint32_t mode, enum alloc_class class, uint64_t *ino, struct fs_inode_omf *inode);
/* Puts the number on the free list; content must have been freed. Generation stays. */
int inode_free(struct fs *fs, uint64_t ino);

/* Orphan list: doubly linked through inodes, FS_INODE_ORPHAN set. The inode itself changes in memory: the caller stores
 * it. Its neighbours and the list head are stored. -EINVAL: already on the list, not on it. */
int orphan_add(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode);
int orphan_remove(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode);

/* Reclaims up to ORPHAN_STEP_BLKS blocks of an orphan, the inode itself with the last step: one operation of its own
 * (op_begin/op_end inside). *done when the inode is gone. */
#define ORPHAN_STEP_BLKS 512u
int orphan_step(struct fs *fs, uint64_t ino, bool *done);

/* ---------------------------------------------------------------- file map (map.c) */
/* Pointer of file block fblk; 0 is a hole. */
int map_get(struct fs *fs, const struct fs_inode_omf *inode, uint64_t fblk, uint64_t *ptr);
/* Pointers of count blocks from fblk on into ptrs: one walk per node, not per block. */
int map_get_run(struct fs *fs, const struct fs_inode_omf *inode, uint64_t fblk, uint64_t count, uint64_t *ptrs);
/* Sets the pointers of count neighbouring blocks (0 makes a hole), growing the tree, each node walked and stored once:
 * ptrs[i] for fblk + i; olds[i] is what was there. inode->root, height and blocks change in memory: the caller stores the
 * inode. Blocks are neither linked nor freed here. Index blocks are taken as class. */
int map_set_run(struct fs *fs, struct fs_inode_omf *inode, enum alloc_class class, uint64_t fblk, uint64_t count,
		const uint64_t *ptrs, uint64_t *olds);
/* Most index blocks that map_set_run of fblk alone may allocate: 0 when its leaf node is there. */
int map_cost(struct fs *fs, const struct fs_inode_omf *inode, uint64_t fblk, uint64_t *blks);
/* Frees data and index blocks from fblk on, walking from the end, at most max data blocks; *left tells whether more
 * remain. Empty index blocks go with their last pointer. The caller stores the inode. */
int map_trim(struct fs *fs, struct fs_inode_omf *inode, uint64_t fblk, uint64_t max, bool *left);
/* Whether more than max data blocks lie at or behind fblk. */
int map_tail_exceeds(struct fs *fs, const struct fs_inode_omf *inode, uint64_t fblk, uint64_t max, bool *exceeds);
/* Moves everything from fblk on, at the same file blocks, into tail (an inode with an empty map): one node per level is
 * changed, whatever the size, and the leaf nodes of the smaller side are read to count its blocks. Needs at most
 * FS_HEIGHT_MAX index blocks of ALLOC_FREE. Both inodes change in memory. */
int map_split(struct fs *fs, struct fs_inode_omf *inode, uint64_t fblk, struct fs_inode_omf *tail);
/* First mapped block at or behind fblk; -ENXIO: none. */
int map_next(struct fs *fs, const struct fs_inode_omf *inode, uint64_t fblk, uint64_t *found);

/* ---------------------------------------------------------------- directories (dir.c) */
struct dir_entry {
	uint64_t key, ino;
	uint32_t gen;
	uint8_t type, name_len;
	char name[FS_NAME_BYTES_MAX + 1];
};
/* -ENOENT when the name is not there. */
int dir_lookup(struct fs *fs, uint64_t dir_ino, const struct fs_inode_omf *dir, const char *name, size_t len,
	       struct dir_entry *entry);
/* The caller has looked the name up (absent). dir->root, height, entries, size change in memory. -ENOSPC. */
int dir_insert(struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir, const char *name, size_t len, uint64_t ino,
	       uint32_t gen, uint8_t type);
int dir_remove(struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir, const struct dir_entry *entry);
/* Points the existing entry to another inode, in place. */
int dir_replace(struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir, const struct dir_entry *entry, uint64_t ino,
		uint32_t gen, uint8_t type);
/* First entry with a key above after; -ENOENT at the end. */
int dir_next(struct fs *fs, uint64_t dir_ino, const struct fs_inode_omf *dir, uint64_t after, struct dir_entry *entry);
/* Most blocks one dir_insert may allocate. */
#define DIR_INSERT_BLKS_MAX (FS_DIR_HEIGHT_MAX + 2u)

#endif
