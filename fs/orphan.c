/* Inodes that are to go: no name leads to them, and their content is given back in bounded steps.
 *
 *   named --last unlink--> orphan, still open --last close--> reclaimed: orphan_step until done --> free
 *   big truncate: the cut-off part becomes an inode of its own (FS_INODE_CUT), an orphan from birth
 *
 * The list is on media, doubly linked through the inodes, so that what a crash interrupts goes on at the next mount.
 * Every step leaves a sound, smaller orphan. */
#include "tree_impl.h"

#include <sys/stat.h>

/* ---------------------------------------------------------------- the list */

static int list_damaged(uint64_t ino)
{
	return errmsg_set(-EUCLEAN, "orphan list broken at inode %llu", (unsigned long long)ino);
}

/* The neighbour of an orphan; both must agree about it. */
static int neighbour_get(struct fs *fs, uint64_t ino, uint64_t neighbour, struct fs_inode_omf *inode)
{
	int err;

	if (neighbour == ino)
		return list_damaged(ino);
	err = inode_get(fs, neighbour, inode);
	if (err == -ESTALE)
		return list_damaged(ino);
	if (!err && !(le32_get(inode->flags) & FS_INODE_ORPHAN))
		return list_damaged(neighbour);
	return err;
}

static int head_set(struct fs *fs, uint64_t ino)
{
	const struct fs_state_omf *state;
	struct fs_state_omf after;
	int err = state_get(fs, &state);

	if (err)
		return err;
	after = *state;
	after.orphan_head = le64_put(ino);
	return state_put(fs, &after);
}

int orphan_add(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode)
{
	const struct fs_state_omf *state;
	struct fs_inode_omf next;
	uint64_t head;
	int err;

	if (le32_get(inode->flags) & FS_INODE_ORPHAN)
		return -EINVAL;
	err = state_get(fs, &state);
	if (err)
		return err;
	head = le64_get(state->orphan_head);
	if (head) {
		err = neighbour_get(fs, ino, head, &next);
		if (err)
			return err;
		if (le64_get(next.orphan_prev))
			return list_damaged(head);
		next.orphan_prev = le64_put(ino);
		err = inode_put(fs, head, &next);
		if (err)
			return err;
	}
	err = head_set(fs, ino);
	if (err)
		return err;
	inode->orphan_prev = le64_put(0);
	inode->orphan_next = le64_put(head);
	inode->flags = le32_put(le32_get(inode->flags) | FS_INODE_ORPHAN);
	return 0;
}

/* What led to ino now leads to next. */
static int unlink_before(struct fs *fs, uint64_t ino, uint64_t prev, uint64_t next)
{
	const struct fs_state_omf *state;
	struct fs_inode_omf inode;
	int err;

	if (prev) {
		err = neighbour_get(fs, ino, prev, &inode);
		if (err)
			return err;
		if (le64_get(inode.orphan_next) != ino)
			return list_damaged(prev);
		inode.orphan_next = le64_put(next);
		return inode_put(fs, prev, &inode);
	}
	err = state_get(fs, &state);
	if (err)
		return err;
	return le64_get(state->orphan_head) == ino ? head_set(fs, next) : list_damaged(ino);
}

int orphan_remove(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode)
{
	uint64_t prev = le64_get(inode->orphan_prev), next = le64_get(inode->orphan_next);
	struct fs_inode_omf behind;
	int err;

	if (!(le32_get(inode->flags) & FS_INODE_ORPHAN))
		return -EINVAL;
	err = unlink_before(fs, ino, prev, next);
	if (err)
		return err;
	if (next) {
		err = neighbour_get(fs, ino, next, &behind);
		if (err)
			return err;
		if (le64_get(behind.orphan_prev) != ino)
			return list_damaged(next);
		behind.orphan_prev = le64_put(prev);
		err = inode_put(fs, next, &behind);
		if (err)
			return err;
	}
	inode->orphan_prev = inode->orphan_next = le64_put(0);
	inode->flags = le32_put(le32_get(inode->flags) & ~FS_INODE_ORPHAN);
	return 0;
}

/* ---------------------------------------------------------------- giving content back */

/* A block the inode names itself, freed once its type proves the pointer. */
static int free_own(struct fs *fs, le64_t *ptr, uint32_t type)
{
	uint64_t blk = le64_get(*ptr);
	const void *content;
	int err;

	if (!blk)
		return 0;
	if (!tree_blk_ok(fs, blk))
		return tree_damaged("block", blk, "pointer of an inode out of range");
	err = block_get(fs, blk, type, &content);
	if (!err)
		err = block_free(fs, blk);
	if (!err)
		*ptr = le64_put(0);
	return err;
}

/* A directory is reclaimed only when it holds no name: then it has no block for names either. */
static int check_empty_dir(uint64_t ino, const struct fs_inode_omf *inode)
{
	if (le64_get(inode->entries) || le64_get(inode->root))
		return errmsg_set(-EUCLEAN, "orphan directory %llu is not empty", (unsigned long long)ino);
	return 0;
}

/* One step; *left tells that more of the map is there. */
static int free_content(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode, bool *left)
{
	*left = false;
	switch (le32_get(inode->mode) & S_IFMT) {
	case S_IFREG:
		return map_trim(fs, inode, 0, ORPHAN_STEP_BLKS, left);
	case S_IFLNK:
		return free_own(fs, &inode->root, FS_SYMLINK);
	case S_IFDIR:
		return check_empty_dir(ino, inode);
	default:
		return 0;
	}
}

/* The inode has no content left: attributes, list, number. */
static int free_rest(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode)
{
	int err = free_own(fs, &inode->xattr, FS_XATTR);

	if (!err)
		err = free_own(fs, &inode->acl_access, FS_XATTR);
	if (!err)
		err = free_own(fs, &inode->acl_default, FS_XATTR);
	if (!err)
		err = orphan_remove(fs, ino, inode);
	if (!err)
		err = inode_free(fs, ino);
	return err;
}

int orphan_step(struct fs *fs, uint64_t ino, bool *done)
{
	struct fs_inode_omf inode;
	bool left = false;
	int err;

	op_begin(fs);
	err = inode_get(fs, ino, &inode);
	if (!err && !(le32_get(inode.flags) & FS_INODE_ORPHAN))
		err = -EINVAL;
	if (!err)
		err = free_content(fs, ino, &inode, &left);
	if (!err)
		err = left ? inode_put(fs, ino, &inode) : free_rest(fs, ino, &inode);
	if (err)
		return op_abort(fs, err);
	op_end(fs);
	*done = !left;
	return 0;
}
