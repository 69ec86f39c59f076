/* The file map: a radix tree from file block to data block, height in the inode.
 *
 *   height 0   the root is the pointer of file block 0
 *   height n   the root names a node of level n; its pointers name nodes of level n - 1; those of level 1 data blocks
 *
 * Invariants: no node is empty (it goes with its last pointer); root 0 means height 0; the tree is high enough for its
 * last block. It grows by a new root above the old one. Every function walks each node it needs once, with one
 * block_put per changed node: writing 256 neighbouring blocks costs one node, not 256. Taking the end off is map_cut.c.
 */
#include "map_impl.h"

#include <assert.h>

/* ---------------------------------------------------------------- nodes */

int map_ptr_check(struct fs *fs, uint64_t parent, uint32_t level, uint64_t ptr)
{
	if (level == 0)
		ptr &= ~FS_PTR_UNWRITTEN;
	if (ptr == 0 || tree_blk_ok(fs, ptr))
		return 0;
	return tree_damaged("file map node", parent, "pointer out of range");
}

int map_root_check(struct fs *fs, const struct fs_inode_omf *inode)
{
	uint32_t height = le32_get(inode->height);

	if (height > FS_HEIGHT_MAX)
		return errmsg_set(-EUCLEAN, "file map of height %u", height);
	return map_ptr_check(fs, 0, height, le64_get(inode->root));
}

int map_node_get(struct fs *fs, uint64_t blk, const struct fs_node_omf **node)
{
	const void *content;
	int err = block_get(fs, blk, FS_MAP_NODE, &content);

	if (!err)
		*node = content;
	return err;
}

static bool all_zero(const le64_t ptrs[FS_NODE_PTRS])
{
	unsigned i;

	for (i = 0; i < FS_NODE_PTRS; i++)
		if (ptrs[i].le)
			return false;
	return true;
}

int map_node_load(struct fs *fs, uint64_t blk, struct map_node *node)
{
	const struct fs_node_omf *omf;
	int err = map_node_get(fs, blk, &omf);

	if (err)
		return err;
	if (all_zero(omf->ptr))
		return tree_damaged("file map node", blk, "empty");
	node->blk = blk;
	memcpy(node->was, omf->ptr, sizeof(node->was));
	memcpy(node->now, omf->ptr, sizeof(node->now));
	return 0;
}

int map_node_store(struct fs *fs, const struct map_node *node, uint64_t *ptr)
{
	unsigned first = 0, end = FS_NODE_PTRS;
	struct shadow *shadow;
	int err;

	while (first < end && node->was[first].le == node->now[first].le)
		first++;
	if (first == end)
		return 0;
	if (all_zero(node->now)) {
		err = block_free(fs, node->blk);
		if (!err)
			*ptr = 0;
		return err;
	}
	while (node->was[end - 1].le == node->now[end - 1].le)
		end--;
	err = block_edit(fs, node->blk, FS_MAP_NODE, &shadow);
	if (err)
		return err;
	return block_put(fs, shadow, first * sizeof(le64_t), &node->now[first], (end - first) * sizeof(le64_t));
}

int map_count(struct fs_inode_omf *inode, int64_t delta)
{
	int64_t blocks = (int64_t)le64_get(inode->blocks) + delta;

	if (blocks < 0)
		return errmsg_set(-EUCLEAN, "inode counts fewer blocks than its map has");
	inode->blocks = le64_put(blocks);
	return 0;
}

/* ---------------------------------------------------------------- reading */

/* Pointers of count blocks from first on, relative to what the node covers. */
static int read_node(struct fs *fs, uint64_t blk, uint32_t level, uint64_t first, uint64_t count, uint64_t *ptrs)
{
	uint64_t span = map_span(level - 1), end = first + count;
	const struct fs_node_omf *node;
	int err = map_node_get(fs, blk, &node);

	while (!err && first < end) {
		uint64_t ptr = le64_get(node->ptr[first / span]), sub = first % span;
		uint64_t n = end - first < span - sub ? end - first : span - sub;

		err = map_ptr_check(fs, blk, level - 1, ptr);
		if (err)
			break;
		if (level == 1)
			*ptrs = ptr;
		else if (!ptr)
			memset(ptrs, 0, n * sizeof(*ptrs));
		else
			err = read_node(fs, ptr, level - 1, sub, n, ptrs);
		first += n;
		ptrs += n;
	}
	return err;
}

int map_get_run(struct fs *fs, const struct fs_inode_omf *inode, uint64_t fblk, uint64_t count, uint64_t *ptrs)
{
	uint64_t root = le64_get(inode->root), reach, n;
	uint32_t height = le32_get(inode->height);
	int err = map_root_check(fs, inode);

	if (err)
		return err;
	reach = root ? map_span(height) : 0;
	n = fblk >= reach ? 0 : reach - fblk < count ? reach - fblk : count;
	memset(ptrs + n, 0, (count - n) * sizeof(*ptrs));
	if (!n)
		return 0;
	if (height)
		return read_node(fs, root, height, fblk, n, ptrs);
	*ptrs = root;
	return 0;
}

int map_get(struct fs *fs, const struct fs_inode_omf *inode, uint64_t fblk, uint64_t *ptr)
{
	return map_get_run(fs, inode, fblk, 1, ptr);
}

/* First mapped block at or behind from, both relative to what the node covers. Nodes are never empty, so at most one
 * subtree per level is searched in vain. */
static int next_in_node(struct fs *fs, uint64_t blk, uint32_t level, uint64_t from, uint64_t *found)
{
	uint64_t span = map_span(level - 1), idx, sub = from % span;
	const struct fs_node_omf *node;
	int err = map_node_get(fs, blk, &node);

	if (err)
		return err;
	for (idx = from / span; idx < FS_NODE_PTRS; idx++, sub = 0) {
		uint64_t ptr = le64_get(node->ptr[idx]);

		if (!ptr)
			continue;
		err = map_ptr_check(fs, blk, level - 1, ptr);
		if (!err && level > 1)
			err = next_in_node(fs, ptr, level - 1, sub, &sub);
		if (err == -ENXIO && sub)
			continue;
		if (!err)
			*found = idx * span + sub;
		return err;
	}
	return from ? -ENXIO : tree_damaged("file map node", blk, "empty");
}

int map_next(struct fs *fs, const struct fs_inode_omf *inode, uint64_t fblk, uint64_t *found)
{
	uint32_t height = le32_get(inode->height);
	int err = map_root_check(fs, inode);

	if (err)
		return err;
	if (!le64_get(inode->root) || fblk >= map_span(height))
		return -ENXIO;
	if (height)
		return next_in_node(fs, le64_get(inode->root), height, fblk, found);
	*found = 0;
	return 0;
}

/* ---------------------------------------------------------------- setting */

/* One map_set_run on its way down. */
struct set {
	struct fs *fs;
	enum alloc_class class;
	int64_t delta; /* data blocks gained */
};

static bool no_ptrs(const uint64_t *ptrs, uint64_t count)
{
	while (count--)
		if (ptrs[count])
			return false;
	return true;
}

/* The node behind *ptr, changeable; made when it is not there. */
static int set_load(struct set *s, uint64_t *ptr, struct map_node *node)
{
	struct shadow *shadow;
	int err;

	if (*ptr)
		return map_node_load(s->fs, *ptr, node);
	err = block_new(s->fs, s->class, FS_MAP_NODE, ptr, &shadow);
	if (err)
		return err;
	memset(node, 0, sizeof(*node));
	node->blk = *ptr;
	return 0;
}

/* Sets count pointers from first on below *ptr, a pointer of that level; *ptr changes when its node comes or goes. */
static int set_below(struct set *s, uint64_t *ptr, uint32_t level, uint64_t first, uint64_t count, const uint64_t *ptrs,
	uint64_t *olds)
{
	uint64_t span, end = first + count;
	struct map_node node;
	int err;

	if (level == 0) {
		*olds = *ptr;
		*ptr = *ptrs;
		s->delta += (*ptr != 0) - (*olds != 0);
		return 0;
	}
	if (!*ptr && no_ptrs(ptrs, count)) {
		memset(olds, 0, count * sizeof(*olds));
		return 0;
	}
	err = set_load(s, ptr, &node);
	for (span = map_span(level - 1); !err && first < end;) {
		uint64_t idx = first / span, sub = first % span, child = le64_get(node.now[idx]);
		uint64_t n = end - first < span - sub ? end - first : span - sub;

		err = map_ptr_check(s->fs, node.blk, level - 1, child);
		if (!err)
			err = set_below(s, &child, level - 1, sub, n, ptrs, olds);
		node.now[idx] = le64_put(child);
		first += n;
		ptrs += n;
		olds += n;
	}
	return err ? err : map_node_store(s->fs, &node, ptr);
}

/* New roots above the old one until the tree has that height. */
static int raise(struct set *s, uint64_t *root, uint32_t *height, uint32_t want)
{
	int err = 0;

	if (!*root)
		*height = want;
	for (; !err && *height < want; ++*height) {
		struct shadow *shadow;
		uint64_t blk;

		err = block_new(s->fs, s->class, FS_MAP_NODE, &blk, &shadow);
		if (!err)
			err = node_put(s->fs, shadow, 0, *root);
		if (!err)
			*root = blk;
	}
	return err;
}

int map_set_run(struct fs *fs, struct fs_inode_omf *inode, enum alloc_class class, uint64_t fblk, uint64_t count,
	const uint64_t *ptrs, uint64_t *olds)
{
	struct set s = { .fs = fs, .class = class };
	uint64_t root = le64_get(inode->root), reach;
	uint32_t height = le32_get(inode->height), want;
	int err = map_root_check(fs, inode);

	if (err)
		return err;
	/* Holes behind what the tree covers are there already. */
	for (reach = root ? map_span(height) : 0; count && !ptrs[count - 1] && fblk + count > reach; count--)
		olds[count - 1] = 0;
	if (!count)
		return 0;
	if (fblk >= map_span(FS_HEIGHT_MAX) || count > map_span(FS_HEIGHT_MAX) - fblk)
		return -EFBIG;
	want = radix_height(fblk + count - 1);
	err = raise(&s, &root, &height, want);
	if (!err)
		err = set_below(&s, &root, height, fblk, count, ptrs, olds);
	if (!err)
		err = map_count(inode, s.delta);
	if (err)
		return err;
	inode->root = le64_put(root);
	inode->height = le32_put(root ? height : 0);
	return 0;
}

int map_cost(struct fs *fs, const struct fs_inode_omf *inode, uint64_t fblk, uint64_t *blks)
{
	uint64_t ptr = le64_get(inode->root), parent = 0;
	uint32_t height = le32_get(inode->height), want, level;
	int err = map_root_check(fs, inode);

	if (err)
		return err;
	if (fblk >= map_span(FS_HEIGHT_MAX))
		return -EFBIG;
	want = radix_height(fblk);
	if (!ptr) {
		*blks = want;
		return 0;
	}
	if (want > height) { /* new roots, and below the topmost one a path of its own */
		*blks = want - height + want - 1;
		return 0;
	}
	for (level = height; level; level--) {
		const struct fs_node_omf *node;

		err = map_ptr_check(fs, parent, level, ptr);
		if (err)
			return err;
		if (!ptr)
			break;
		err = map_node_get(fs, ptr, &node);
		if (err)
			return err;
		parent = ptr;
		ptr = le64_get(node->ptr[radix_idx(fblk, level)]);
	}
	*blks = level;
	return 0;
}
