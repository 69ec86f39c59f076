/* What map.c and map_cut.c share: nodes of a file's map, read with every pointer that is followed or handed out checked
 * first. A pointer of level n leads to a node of level n, one of level 0 to a data block; the inode's root is a pointer
 * of level `height`. */
#ifndef RPMEMFS_FS_MAP_IMPL_H
#define RPMEMFS_FS_MAP_IMPL_H

#include "tree_impl.h"

/* A changeable copy of a node; map_node_store writes back what differs. */
struct map_node {
	uint64_t blk;
	le64_t was[FS_NODE_PTRS], now[FS_NODE_PTRS];
};

/* Reads a node for reading only. */
int map_node_get(struct fs *fs, uint64_t blk, const struct fs_node_omf **node);
/* Reads one into a changeable copy. An empty one is damage: nodes go with their last pointer. */
int map_node_load(struct fs *fs, uint64_t blk, struct map_node *node);
/* Stores it back, or frees it when no pointer is left: *ptr 0 then. */
int map_node_store(struct fs *fs, const struct map_node *node, uint64_t *ptr);
/* -EUCLEAN unless ptr, found in block parent, can be a pointer of that level; 0 is one. */
int map_ptr_check(struct fs *fs, uint64_t parent, uint32_t level, uint64_t ptr);
/* The same for the inode's root; height too. */
int map_root_check(struct fs *fs, const struct fs_inode_omf *inode);
/* Adds delta to inode->blocks. -EUCLEAN when it was smaller than what is taken off. */
int map_count(struct fs_inode_omf *inode, int64_t delta);

/* Data blocks below a pointer of that level. */
static inline uint64_t map_span(uint32_t level)
{
	return radix_capacity(level);
}

#endif
