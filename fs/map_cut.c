/* Taking the end off a file's map: freeing it bit by bit (map_trim) or handing it to another inode whole (map_split).
 *
 * map_trim goes from the last block towards the first, so that what is left is always a sound map of a shorter file and
 * the next step finds its place without being told. map_split touches one node per level, whatever the size; only the
 * count of blocks needs a look at the leaf nodes of the smaller side. Both lower the tree when its root has but the
 * first pointer left. */
#include "map_impl.h"

#include <assert.h>

/* While the root node has its first pointer only, that pointer becomes the root. */
static int lower(struct fs *fs, struct fs_inode_omf *inode)
{
	for (;;) {
		uint32_t height = le32_get(inode->height);
		uint64_t root = le64_get(inode->root);
		const struct fs_node_omf *node;
		unsigned i;
		int err;

		if (!root)
			inode->height = le32_put(0);
		if (!root || !height)
			return 0;
		err = map_node_get(fs, root, &node);
		if (err)
			return err;
		for (i = 1; i < FS_NODE_PTRS; i++)
			if (node->ptr[i].le)
				return 0;
		err = map_ptr_check(fs, root, height - 1, le64_get(node->ptr[0]));
		if (err)
			return err;
		inode->root = node->ptr[0];
		inode->height = le32_put(height - 1);
		err = block_free(fs, root);
		if (err)
			return err;
	}
}

/* ---------------------------------------------------------------- trim */

struct trim {
	struct fs *fs;
	uint64_t max, freed; /* data blocks */
	bool more;           /* max was reached with blocks left */
};

/* Frees what lies at or behind from below *ptr, a pointer of that level that is not 0. */
static int trim_below(struct trim *t, uint64_t *ptr, uint32_t level, uint64_t from)
{
	uint64_t span, idx;
	struct map_node node;
	int err;

	if (level == 0) {
		if (t->freed == t->max) {
			t->more = true;
			return 0;
		}
		err = block_free(t->fs, *ptr & FS_PTR_BLK_MASK);
		if (err)
			return err;
		t->freed++;
		*ptr = 0;
		return 0;
	}
	err = map_node_load(t->fs, *ptr, &node);
	if (err)
		return err;
	span = map_span(level - 1);
	for (idx = FS_NODE_PTRS; idx > from / span && !t->more;) {
		uint64_t child = le64_get(node.now[--idx]);

		if (!child)
			continue;
		err = map_ptr_check(t->fs, node.blk, level - 1, child);
		if (!err)
			err = trim_below(t, &child, level - 1, idx == from / span ? from % span : 0);
		if (err)
			return err;
		node.now[idx] = le64_put(child);
	}
	return map_node_store(t->fs, &node, ptr);
}

int map_trim(struct fs *fs, struct fs_inode_omf *inode, uint64_t fblk, uint64_t max, bool *left)
{
	struct trim t = { .fs = fs, .max = max };
	struct fs_inode_omf after = *inode;
	uint64_t root = le64_get(inode->root);
	uint32_t height = le32_get(inode->height);
	int err = map_root_check(fs, inode);

	if (err)
		return err;
	if (root && fblk < map_span(height)) {
		err = trim_below(&t, &root, height, fblk);
		after.root = le64_put(root);
		if (!err)
			err = map_count(&after, -(int64_t)t.freed);
		if (!err && !t.more)
			err = lower(fs, &after);
		if (err)
			return err;
	}
	*left = t.more;
	*inode = after;
	return 0;
}

/* Counts data blocks at or behind from below ptr, a pointer of that level that is not 0, until there are more than max. */
static int tail_count(struct fs *fs, uint64_t ptr, uint32_t level, uint64_t from, uint64_t max, uint64_t *count)
{
	const struct fs_node_omf *node;
	uint64_t span, idx;
	int err;

	if (level == 0) {
		++*count;
		return 0;
	}
	span = map_span(level - 1);
	err = map_node_get(fs, ptr, &node);
	for (idx = from / span; !err && idx < FS_NODE_PTRS && *count <= max; idx++) {
		uint64_t child = le64_get(node->ptr[idx]);

		if (!child)
			continue;
		err = map_ptr_check(fs, ptr, level - 1, child);
		if (!err)
			err = tail_count(fs, child, level - 1, idx == from / span ? from % span : 0, max, count);
	}
	return err;
}

int map_tail_exceeds(struct fs *fs, const struct fs_inode_omf *inode, uint64_t fblk, uint64_t max, bool *exceeds)
{
	uint64_t root = le64_get(inode->root), count = 0;
	uint32_t height = le32_get(inode->height);
	int err = map_root_check(fs, inode);

	if (!err && root && fblk < map_span(height))
		err = tail_count(fs, root, height, fblk, max, &count);
	if (!err)
		*exceeds = count > max;
	return err;
}

/* ---------------------------------------------------------------- split */

/* Counts data blocks in [from, end) below a pointer of that level; more than max are damage, which also bounds the work
 * in a tree whose nodes name each other. */
static int count_below(
	struct fs *fs, uint64_t blk, uint32_t level, uint64_t from, uint64_t end, uint64_t max, uint64_t *count)
{
	uint64_t span = map_span(level - 1), before = *count;
	const struct fs_node_omf *node;
	int err = map_node_get(fs, blk, &node);

	while (!err && from < end) {
		uint64_t idx = from / span, ptr = le64_get(node->ptr[idx]);
		uint64_t stop = end < (idx + 1) * span ? end : (idx + 1) * span;

		if (ptr && level == 1 && ++*count > max)
			return tree_damaged("file map node", blk, "more blocks than the inode counts");
		if (ptr && level > 1) {
			err = map_ptr_check(fs, blk, level - 1, ptr);
			if (!err)
				err = count_below(fs, ptr, level - 1, from - idx * span, stop - idx * span, max, count);
		}
		from = stop;
	}
	if (!err && end == map_span(level) && from == 0 && *count == before)
		return tree_damaged("file map node", blk, "empty");
	return err;
}

/* Highest mapped block + 1, seen from the top: good enough to choose the smaller side. */
static int extent(struct fs *fs, const struct fs_inode_omf *inode, uint64_t *end)
{
	uint64_t blk = le64_get(inode->root), base = 0;
	uint32_t level;

	for (level = le32_get(inode->height); level; level--) {
		unsigned idx = FS_NODE_PTRS - 1;
		const struct fs_node_omf *node;
		uint64_t parent = blk;
		int err = map_node_get(fs, blk, &node);

		if (err)
			return err;
		while (idx && !node->ptr[idx].le)
			idx--;
		blk = le64_get(node->ptr[idx]);
		if (!blk)
			return tree_damaged("file map node", parent, "empty");
		err = map_ptr_check(fs, parent, level - 1, blk);
		if (err)
			return err;
		base += idx * map_span(level - 1);
	}
	*end = base + 1;
	return 0;
}

/* Data blocks at or behind fblk, by counting the side that covers less. */
static int count_tail(struct fs *fs, const struct fs_inode_omf *inode, uint64_t fblk, uint64_t *tail)
{
	uint64_t end = 0, count = 0, all = le64_get(inode->blocks), root = le64_get(inode->root);
	uint32_t height = le32_get(inode->height);
	int err = extent(fs, inode, &end);

	if (err)
		return err;
	if (fblk >= end) {
		*tail = 0;
		return 0;
	}
	if (fblk <= end - fblk) {
		err = count_below(fs, root, height, 0, fblk, all, &count);
		count = all - count;
	} else {
		err = count_below(fs, root, height, fblk, end, all, &count);
	}
	if (!err)
		*tail = count;
	return err;
}

/* Splits what *left, a pointer of that level, covers: what lies at or behind at goes to *right. A side that gets
 * nothing is 0. A node all of whose pointers go the same way goes with them; only one that is really cut needs a second
 * block. */
static int split_below(struct fs *fs, uint64_t *left, uint32_t level, uint64_t at, uint64_t *right)
{
	uint64_t span = map_span(level - 1), idx = at / span, child, child_right = 0;
	struct map_node node, other;
	struct shadow *shadow;
	unsigned i;
	int err;

	err = map_node_load(fs, *left, &node);
	if (err)
		return err;
	child = le64_get(node.now[idx]);
	err = map_ptr_check(fs, node.blk, level - 1, child);
	if (!err && child && at % span)
		err = split_below(fs, &child, level - 1, at % span, &child_right);
	if (err)
		return err;
	if (child && at % span == 0) {
		child_right = child;
		child = 0;
	}
	memset(&other, 0, sizeof(other));
	for (i = idx; i < FS_NODE_PTRS; i++) {
		other.now[i] = node.now[i];
		node.now[i] = le64_put(0);
	}
	node.now[idx] = le64_put(child);
	other.now[idx] = le64_put(child_right);
	if (!memcmp(other.now, other.was, sizeof(other.now))) {
		*right = 0;
		return 0;
	}
	if (!memcmp(node.now, other.was, sizeof(node.now))) {
		*right = *left;
		*left = 0;
		return 0;
	}
	err = block_new(fs, ALLOC_FREE, FS_MAP_NODE, &other.blk, &shadow);
	if (!err)
		err = map_node_store(fs, &other, right);
	if (!err)
		err = map_node_store(fs, &node, left);
	if (!err)
		*right = other.blk;
	return err;
}

int map_split(struct fs *fs, struct fs_inode_omf *inode, uint64_t fblk, struct fs_inode_omf *tail)
{
	struct fs_inode_omf head = *inode;
	uint64_t left = le64_get(inode->root), right = 0, moved = 0;
	uint32_t height = le32_get(inode->height);
	int err = map_root_check(fs, inode);

	assert(!tail->root.le);
	assert(!tail->blocks.le);
	if (err)
		return err;
	if (!left || fblk >= map_span(height))
		return 0;
	if (fblk == 0) {
		right = left;
		left = 0;
		moved = le64_get(inode->blocks);
	} else {
		err = count_tail(fs, inode, fblk, &moved);
		if (!err)
			err = split_below(fs, &left, height, fblk, &right);
	}
	if (!err)
		err = map_count(&head, -(int64_t)moved);
	head.root = le64_put(left);
	if (!err)
		err = lower(fs, &head);
	if (err)
		return err;
	*inode = head;
	tail->root = le64_put(right);
	tail->height = le32_put(right ? height : 0);
	tail->blocks = le64_put(moved);
	return 0;
}
