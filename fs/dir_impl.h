/* What dir.c, dir_leaf.c and dir_node.c share: one leaf, one inner node, each checked whole before it is used. fsck.c
 * reads directories through the same checks. */
#ifndef RPMEMFS_FS_DIR_IMPL_H
#define RPMEMFS_FS_DIR_IMPL_H

#include "tree_impl.h"

#define DIR_KEY_END (1ull << 62) /* all keys are below: cookies stay positive */

/* The keys a block may hold by its place in the tree: lo <= key < hi. */
struct dir_range {
	uint64_t lo, hi;
};

/* Key of a name with ordinal 0; the same from the pool's hash seed alone. */
uint64_t dir_seed_key(uint64_t seed, const char *name, size_t len);
uint64_t dir_name_key(struct fs *fs, const char *name, size_t len);

/* ---------------------------------------------------------------- leaves (dir_leaf.c) */

/* NULL when sound, else what is wrong. */
const char *dir_leaf_check(const struct fs_dir_leaf_omf *leaf, uint64_t dir_ino, struct dir_range range);
/* Reads and checks. */
int dir_leaf_get(
	struct fs *fs, uint64_t blk, uint64_t dir_ino, struct dir_range range, const struct fs_dir_leaf_omf **leaf);
/* An empty leaf, as the first of a directory or the right half of a split. */
int dir_leaf_new(struct fs *fs, uint64_t dir_ino, uint64_t *blk);
/* Entry that starts in slot. */
const struct fs_dirent_omf *dir_leaf_entry(const struct fs_dir_leaf_omf *leaf, unsigned slot);
/* Next slot from `slot` on that starts an entry, FS_DIR_SLOTS: none. */
unsigned dir_leaf_next(const struct fs_dir_leaf_omf *leaf, unsigned slot);
/* Slot of the entry with that key, FS_DIR_SLOTS: none. */
unsigned dir_leaf_find(const struct fs_dir_leaf_omf *leaf, uint64_t key);
/* Puts the entry in, moving others together when the free slots are scattered. -EOVERFLOW: no room, nothing changed. */
int dir_leaf_insert(struct fs *fs, uint64_t blk, const struct dir_entry *entry);
/* Takes the entry at slot out; *empty tells whether it was the last. */
int dir_leaf_remove(struct fs *fs, uint64_t blk, unsigned slot, bool *empty);
/* Stores another inode into the entry at slot. */
int dir_leaf_replace(struct fs *fs, uint64_t blk, unsigned slot, uint64_t ino, uint32_t gen, uint8_t type);
/* Moves the upper half of the used slots, by key, into a new leaf; *key is the least key there. */
int dir_leaf_split(struct fs *fs, uint64_t blk, uint64_t dir_ino, uint64_t *right, uint64_t *key);
/* Copies an entry out. -EUCLEAN: its name cannot be one. */
int dir_entry_out(const struct fs_dirent_omf *omf, uint64_t blk, struct dir_entry *entry);

/* ---------------------------------------------------------------- inner nodes (dir_node.c) */

/* NULL when sound, else what is wrong. */
const char *dir_node_check(
	const struct fs_dir_node_omf *node, uint64_t dir_ino, struct dir_range range, const struct media_geom *geom);
int dir_node_get(
	struct fs *fs, uint64_t blk, uint64_t dir_ino, struct dir_range range, const struct fs_dir_node_omf **node);
/* Child whose range holds key. */
unsigned dir_node_search(const struct fs_dir_node_omf *node, uint64_t key);
/* Range of a child. */
struct dir_range dir_node_range(const struct fs_dir_node_omf *node, unsigned idx, struct dir_range range);
/* A root above two children. */
int dir_node_new_root(struct fs *fs, uint64_t dir_ino, uint64_t left, uint64_t key, uint64_t right, uint64_t *blk);
/* Puts child, with least key `key`, behind slot idx. When the node is full its upper half moves to a new node first:
 * *split its block and *split_key its least key, else *split 0. */
int dir_node_insert(struct fs *fs, uint64_t blk, uint64_t dir_ino, unsigned idx, uint64_t key, uint64_t child,
	uint64_t *split, uint64_t *split_key);
/* Takes slot idx out; *count is how many are left. The neighbour before it, or behind it for the first, takes the
 * range. */
int dir_node_remove(struct fs *fs, uint64_t blk, unsigned idx, uint32_t *count);

#endif
