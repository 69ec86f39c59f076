/* What the structures of tree.h share with each other: how damage is named, how pointers are checked, how a node is
 * read and changed. */
#ifndef RPMEMFS_FS_TREE_IMPL_H
#define RPMEMFS_FS_TREE_IMPL_H

#include <errno.h>
#include <string.h>
#include "copy.h"
#include "errmsg.h"
#include "fs.h"
#include "tree.h"

/* Whether a pointer read from media can be that of a block in use. */
static inline bool tree_blk_ok(struct fs *fs, uint64_t blk)
{
	return media_blk_valid(copy_geom(fs_copy(fs)), blk);
}

/* -EUCLEAN: a block whose checksum is right holds what this code never writes. */
static inline int tree_damaged(const char *what, uint64_t blk, const char *why)
{
	return errmsg_set(-EUCLEAN, "%s %#llx: %s", what, (unsigned long long)blk, why);
}

/* Radix nodes: levels above the leaves, 1 being the level whose pointers name leaves. */
static inline uint64_t radix_capacity(uint32_t height)
{
	return 1ull << (FS_NODE_SHIFT * height);
}

/* Leaves below one pointer of a node of that level. */
static inline uint64_t radix_span(uint32_t level)
{
	return 1ull << (FS_NODE_SHIFT * (level - 1));
}

static inline unsigned radix_idx(uint64_t leaf, uint32_t level)
{
	return (leaf >> (FS_NODE_SHIFT * (level - 1))) & (FS_NODE_PTRS - 1);
}

/* Least height whose tree reaches leaf. */
static inline uint32_t radix_height(uint64_t leaf)
{
	uint32_t height = 0;

	while (leaf >= radix_capacity(height))
		height++;
	return height;
}

/* Stores one pointer of a node. */
static inline int node_put(struct fs *fs, struct shadow *shadow, unsigned idx, uint64_t ptr)
{
	le64_t omf = le64_put(ptr);

	return block_put(fs, shadow, idx * sizeof(omf), &omf, sizeof(omf));
}

/* --- checks of whole structures by content alone; NULL when sound, else what is wrong. fsck.c uses them too. --- */
const char *state_check(const struct fs_state_omf *state);
const char *inode_check(const struct fs_inode_omf *inode, uint64_t blk_count);

#endif
