/* The state block and the inode table: where inodes are and which numbers are free.
 *
 *   number never used (>= ino_next) --inode_new--> used (mode != 0) --inode_free--> on the free list (mode == 0)
 *                                                      ^--------------inode_new-------------|
 *
 * The table is a radix tree: inode / 16 selects a block of 16 inodes, through itab_height levels of nodes. It grows by
 * a new root whose first pointer is the old one, and never shrinks: generations of free inodes stay, so that an old
 * handle never meets a newer file. Every number below ino_next therefore has its block; a hole there is damage. */
#include "tree_impl.h"

#include <assert.h>
#include <sys/stat.h>

#define NSEC 1000000000u

/* ---------------------------------------------------------------- checks */

const char *state_check(const struct fs_state_omf *state)
{
	uint64_t next = le64_get(state->ino_next);

	if (memcmp(state->magic, FS_STATE_MAGIC, sizeof(state->magic)))
		return "wrong magic";
	if (le32_get(state->version) != 1)
		return "unknown version";
	if (next < FS_ROOT_INO || next > FS_INO_MAX)
		return "next inode number out of range";
	if (le32_get(state->itab_height) > FS_HEIGHT_MAX)
		return "inode table too high";
	if ((next > FS_ROOT_INO) != (le64_get(state->itab_root) != 0))
		return "inode table root does not fit the next inode number";
	if (next > FS_ROOT_INO && (next - 1) / FS_INODES_PER_BLOCK >= radix_capacity(le32_get(state->itab_height)))
		return "inode table too low for the next inode number";
	if (le64_get(state->ino_free) >= next || le64_get(state->orphan_head) >= next)
		return "list head is no inode number given out";
	if (le64_get(state->ino_count) >= next)
		return "more inodes than numbers given out";
	if (le32_get(state->member_count) > FS_MEMBERS_MAX)
		return "too many members";
	return NULL;
}

/* Height and size limits by what the inode is. */
static const char *content_check(const struct fs_inode_omf *inode, uint64_t blk_count)
{
	uint64_t size = le64_get(inode->size);
	uint32_t height = le32_get(inode->height);

	switch (le32_get(inode->mode) & S_IFMT) {
	case S_IFREG:
		if (size > FS_FILE_BYTES_MAX)
			return "file too long";
		return height > FS_HEIGHT_MAX ? "file map too high" : NULL;
	case S_IFDIR:
		/* A name takes at least one 64-byte slot. */
		if (le64_get(inode->entries) > blk_count * FS_DIR_SLOTS)
			return "more directory entries than fit the pool";
		return height > FS_DIR_HEIGHT_MAX ? "directory too high" : NULL;
	case S_IFLNK:
		if (size == 0 || size > FS_SYMLINK_BYTES_MAX)
			return "symlink length out of range";
		return (size > FS_INLINE_BYTES) != (le64_get(inode->root) != 0)
			       ? "symlink block does not fit its length"
			       : NULL;
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return inode->root.le ? "special file with content" : NULL;
	default:
		return "unknown file type";
	}
}

const char *inode_check(const struct fs_inode_omf *inode, uint64_t blk_count)
{
	if (le32_get(inode->flags) & ~(FS_INODE_ORPHAN | FS_INODE_CUT))
		return "unknown flag";
	if (le32_get(inode->mtime_ns) >= NSEC || le32_get(inode->ctime_ns) >= NSEC ||
		le32_get(inode->btime_ns) >= NSEC || le32_get(inode->atime_ns) >= NSEC)
		return "nanoseconds out of range";
	if (le64_get(inode->blocks) > blk_count)
		return "more blocks than the pool has";
	return content_check(inode, blk_count);
}

/* ---------------------------------------------------------------- state block */

int state_get(struct fs *fs, const struct fs_state_omf **state)
{
	const void *content;
	const char *why;
	int err;

	err = block_get(fs, fs_root_blk(fs), FS_STATE, &content);
	if (err)
		return err;
	why = state_check(content);
	if (why)
		return tree_damaged("state block", fs_root_blk(fs), why);
	*state = content;
	return 0;
}

int state_put(struct fs *fs, const struct fs_state_omf *state)
{
	const char *why = state_check(state);
	struct shadow *shadow;
	int err;

	if (why) /* it was sound, but its numbers do not fit what the rest of the media led to */
		return tree_damaged("state block", fs_root_blk(fs), why);
	err = block_edit(fs, fs_root_blk(fs), FS_STATE, &shadow);
	if (err)
		return err;
	return block_put(fs, shadow, 0, state, sizeof(*state));
}

/* A private copy, to be changed and stored back. */
static int state_copy(struct fs *fs, struct fs_state_omf *state)
{
	const struct fs_state_omf *now;
	int err = state_get(fs, &now);

	if (!err)
		*state = *now;
	return err;
}

/* ---------------------------------------------------------------- table walk */

static int table_leaf(struct fs *fs, const struct fs_state_omf *state, uint64_t ino, uint64_t *leaf)
{
	uint64_t blk = le64_get(state->itab_root), idx = ino / FS_INODES_PER_BLOCK;
	uint32_t level;

	for (level = le32_get(state->itab_height); level; level--) {
		const struct fs_node_omf *node;
		const void *content;
		uint64_t parent = blk;
		int err = block_get(fs, blk, FS_ITAB_NODE, &content);

		if (err)
			return err;
		node = content;
		blk = le64_get(node->ptr[radix_idx(idx, level)]);
		if (!tree_blk_ok(fs, blk))
			return tree_damaged("inode table node", parent, "pointer out of range");
	}
	*leaf = blk;
	return 0;
}

static uint32_t slot_off(uint64_t ino)
{
	return ino % FS_INODES_PER_BLOCK * FS_INODE_BYTES;
}

/* The inode as it stands in the table, free or used; unchecked but for its place. */
static int table_read(
	struct fs *fs, const struct fs_state_omf *state, uint64_t ino, struct fs_inode_omf *inode, uint64_t *leaf)
{
	const void *content;
	int err;

	err = table_leaf(fs, state, ino, leaf);
	if (!err)
		err = block_get(fs, *leaf, FS_ITAB_LEAF, &content);
	if (!err)
		memcpy(inode, (const uint8_t *)content + slot_off(ino), sizeof(*inode));
	return err;
}

static int table_write(struct fs *fs, uint64_t leaf, uint64_t ino, const struct fs_inode_omf *inode)
{
	struct shadow *shadow;
	int err = block_edit(fs, leaf, FS_ITAB_LEAF, &shadow);

	if (err)
		return err;
	return block_put(fs, shadow, slot_off(ino), inode, sizeof(*inode));
}

static int inode_damaged(uint64_t ino, uint64_t leaf, const char *why)
{
	return errmsg_set(
		-EUCLEAN, "inode %llu in block %#llx: %s", (unsigned long long)ino, (unsigned long long)leaf, why);
}

/* ---------------------------------------------------------------- inodes */

int inode_get(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode)
{
	const struct fs_state_omf *state;
	struct fs_inode_omf found;
	const char *why;
	uint64_t leaf;
	int err;

	err = state_get(fs, &state);
	if (err)
		return err;
	if (ino < FS_ROOT_INO || ino >= le64_get(state->ino_next))
		return -ESTALE;
	err = table_read(fs, state, ino, &found, &leaf);
	if (err)
		return err;
	if (!le32_get(found.mode))
		return -ESTALE;
	why = inode_check(&found, copy_geom(fs_copy(fs))->blk_count);
	if (why)
		return inode_damaged(ino, leaf, why);
	*inode = found;
	return 0;
}

int inode_put(struct fs *fs, uint64_t ino, const struct fs_inode_omf *inode)
{
	const struct fs_state_omf *state;
	uint64_t leaf;
	int err;

	assert(le32_get(inode->mode));
	err = state_get(fs, &state);
	if (err)
		return err;
	if (ino < FS_ROOT_INO || ino >= le64_get(state->ino_next))
		return -ESTALE;
	err = table_leaf(fs, state, ino, &leaf);
	if (err)
		return err;
	return table_write(fs, leaf, ino, inode);
}

/* ---------------------------------------------------------------- giving numbers out */

/* One level more above the root. */
static int table_raise(struct fs *fs, enum alloc_class class, struct fs_state_omf *state)
{
	struct shadow *shadow;
	uint64_t blk;
	int err = block_new(fs, class, FS_ITAB_NODE, &blk, &shadow);

	if (!err)
		err = node_put(fs, shadow, 0, le64_get(state->itab_root));
	if (err)
		return err;
	state->itab_root = le64_put(blk);
	state->itab_height = le32_put(le32_get(state->itab_height) + 1);
	return 0;
}

/* The block behind a pointer of a node, made when it is not there. */
static int table_child(
	struct fs *fs, enum alloc_class class, uint64_t parent, unsigned idx, uint32_t type, uint64_t *blk)
{
	const struct fs_node_omf *node;
	struct shadow *shadow, *child;
	const void *content;
	int err;

	err = block_get(fs, parent, FS_ITAB_NODE, &content);
	if (err)
		return err;
	node = content;
	*blk = le64_get(node->ptr[idx]);
	if (*blk)
		return tree_blk_ok(fs, *blk) ? 0 : tree_damaged("inode table node", parent, "pointer out of range");
	err = block_new(fs, class, type, blk, &child);
	if (!err)
		err = block_edit(fs, parent, FS_ITAB_NODE, &shadow);
	if (!err)
		err = node_put(fs, shadow, idx, *blk);
	return err;
}

/* Makes the block that will hold ino, the next number: its path exists up to some level. */
static int table_extend(struct fs *fs, enum alloc_class class, struct fs_state_omf *state, uint64_t ino)
{
	uint64_t blk, idx = ino / FS_INODES_PER_BLOCK;
	struct shadow *shadow;
	uint32_t level;
	int err = 0;

	if (!le64_get(state->itab_root)) {
		err = block_new(fs, class, FS_ITAB_LEAF, &blk, &shadow);
		if (err)
			return err;
		state->itab_root = le64_put(blk);
		state->itab_height = le32_put(0);
	}
	while (!err && idx >= radix_capacity(le32_get(state->itab_height)))
		err = table_raise(fs, class, state);
	blk = le64_get(state->itab_root);
	for (level = le32_get(state->itab_height); !err && level; level--)
		err = table_child(fs, class, blk, radix_idx(idx, level), level > 1 ? FS_ITAB_NODE : FS_ITAB_LEAF, &blk);
	return err;
}

/* Takes the head of the free list, or the next number. *inode is what its place holds: generation and list. */
static int number_take(struct fs *fs, enum alloc_class class, struct fs_state_omf *state, uint64_t *ino,
	struct fs_inode_omf *inode, uint64_t *leaf)
{
	int err;

	*ino = le64_get(state->ino_free);
	if (*ino) {
		err = table_read(fs, state, *ino, inode, leaf);
		if (err)
			return err;
		if (le32_get(inode->mode) || le64_get(inode->free_next) >= le64_get(state->ino_next))
			return inode_damaged(*ino, *leaf, "on the free list, but not a free inode");
		state->ino_free = inode->free_next;
		return 0;
	}
	*ino = le64_get(state->ino_next);
	if (*ino >= FS_INO_MAX)
		return errmsg_set(-ENOSPC, "inode numbers are used up");
	err = table_extend(fs, class, state, *ino);
	if (err)
		return err;
	state->ino_next = le64_put(*ino + 1);
	return table_read(fs, state, *ino, inode, leaf);
}

int inode_new(struct fs *fs, uint32_t mode, enum alloc_class class, uint64_t *ino, struct fs_inode_omf *inode)
{
	struct fs_state_omf state;
	struct fs_inode_omf fresh;
	uint64_t leaf, number;
	uint32_t gen;
	int err;

	assert(mode);
	err = state_copy(fs, &state);
	if (err)
		return err;
	err = number_take(fs, class, &state, &number, &fresh, &leaf);
	if (err)
		return err;
	gen = le32_get(fresh.gen) + 1;
	memset(&fresh, 0, sizeof(fresh));
	fresh.mode = le32_put(mode);
	fresh.gen = le32_put(gen);
	state.ino_count = le64_put(le64_get(state.ino_count) + 1);
	err = table_write(fs, leaf, number, &fresh);
	if (!err)
		err = state_put(fs, &state);
	if (err)
		return err;
	*ino = number;
	*inode = fresh;
	return 0;
}

int inode_free(struct fs *fs, uint64_t ino)
{
	struct fs_inode_omf inode;
	struct fs_state_omf state;
	uint64_t leaf;
	uint32_t gen;
	int err;

	err = state_copy(fs, &state);
	if (err)
		return err;
	if (ino < FS_ROOT_INO || ino >= le64_get(state.ino_next))
		return -ESTALE;
	err = table_read(fs, &state, ino, &inode, &leaf);
	if (err)
		return err;
	if (!le32_get(inode.mode))
		return -ESTALE;
	if (!le64_get(state.ino_count))
		return tree_damaged("state block", fs_root_blk(fs), "inode count too small");
	gen = le32_get(inode.gen);
	memset(&inode, 0, sizeof(inode));
	inode.gen = le32_put(gen);
	inode.free_next = state.ino_free;
	state.ino_free = le64_put(ino);
	state.ino_count = le64_put(le64_get(state.ino_count) - 1);
	err = table_write(fs, leaf, ino, &inode);
	if (!err)
		err = state_put(fs, &state);
	return err;
}
