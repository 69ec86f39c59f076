/* One inner node of a directory: up to 255 children ordered by the least key below each.
 *
 * The first slot's key is always 0 and means "from where this node starts", so that taking the first child out or
 * moving the lower bound of a node never has to be told to its parents. What the keys of a node may be follows from its
 * place; a node that does not fit its place is refused, which also makes every walk through damaged nodes that name
 * each other end. */
#include "dir_impl.h"

#include <assert.h>

#define NODE_HEAD_BYTES offsetof(struct fs_dir_node_omf, slot)
#define NODE_SLOT_BYTES (sizeof(((struct fs_dir_node_omf *)0)->slot[0]))

/* Both loops run through whole nodes on every visit: they gather instead of branching. */
static bool keys_ordered(const struct fs_dir_node_omf *node, uint32_t count, struct dir_range range)
{
	uint64_t prev = range.lo;
	unsigned bad = 0;
	uint32_t i;

	for (i = 1; i < count; i++) {
		uint64_t key = le64_get(node->slot[i].key);

		bad |= key <= prev;
		prev = key;
	}
	return !bad && prev < range.hi && !node->slot[0].key.le;
}

static bool children_valid(const struct fs_dir_node_omf *node, uint32_t count, const struct media_geom *geom)
{
	unsigned bad = 0;
	uint32_t i;

	for (i = 0; i < count; i++)
		bad |= !media_blk_valid(geom, le64_get(node->slot[i].blk));
	return !bad;
}

const char *dir_node_check(
	const struct fs_dir_node_omf *node, uint64_t dir_ino, struct dir_range range, const struct media_geom *geom)
{
	uint32_t count = le32_get(node->count);

	if (le32_get(node->magic) != FS_DIR_NODE_MAGIC)
		return "wrong magic";
	if (le64_get(node->ino) != dir_ino)
		return "node of another directory";
	if (count < 1 || count > FS_DIR_NODE_PTRS)
		return "child count out of range";
	if (!keys_ordered(node, count, range))
		return "keys out of order";
	return children_valid(node, count, geom) ? NULL : "child pointer out of range";
}

int dir_node_get(
	struct fs *fs, uint64_t blk, uint64_t dir_ino, struct dir_range range, const struct fs_dir_node_omf **node)
{
	const void *content;
	const char *why;
	int err;

	err = block_get(fs, blk, FS_DIR_NODE, &content);
	if (err)
		return err;
	why = dir_node_check(content, dir_ino, range, copy_geom(fs_copy(fs)));
	if (why)
		return tree_damaged("directory node", blk, why);
	*node = content;
	return 0;
}

unsigned dir_node_search(const struct fs_dir_node_omf *node, uint64_t key)
{
	unsigned low = 0, high = le32_get(node->count);

	while (high - low > 1) {
		unsigned mid = (low + high) / 2;

		if (le64_get(node->slot[mid].key) <= key)
			low = mid;
		else
			high = mid;
	}
	return low;
}

struct dir_range dir_node_range(const struct fs_dir_node_omf *node, unsigned idx, struct dir_range range)
{
	if (idx)
		range.lo = le64_get(node->slot[idx].key);
	if (idx + 1 < le32_get(node->count))
		range.hi = le64_get(node->slot[idx + 1].key);
	return range;
}

/* ---------------------------------------------------------------- changes */

/* Stores head and slots from `from` on of an image; the slots behind the last one become zero. */
static int image_put(
	struct fs *fs, struct shadow *shadow, struct fs_dir_node_omf *image, unsigned from, unsigned old_count)
{
	uint32_t count = le32_get(image->count), end = count > old_count ? count : old_count;
	int err;

	memset(&image->slot[count], 0, (FS_DIR_NODE_PTRS - count) * NODE_SLOT_BYTES);
	err = block_put(fs, shadow, 0, image, NODE_HEAD_BYTES);
	if (err || from >= end)
		return err;
	return block_put(fs, shadow, NODE_HEAD_BYTES + from * NODE_SLOT_BYTES, &image->slot[from],
		(end - from) * NODE_SLOT_BYTES);
}

static void image_insert(struct fs_dir_node_omf *image, unsigned at, uint64_t key, uint64_t child)
{
	uint32_t count = le32_get(image->count);

	assert(count < FS_DIR_NODE_PTRS);
	memmove(&image->slot[at + 1], &image->slot[at], (count - at) * NODE_SLOT_BYTES);
	image->slot[at].key = le64_put(key);
	image->slot[at].blk = le64_put(child);
	image->count = le32_put(count + 1);
}

static void image_init(struct fs_dir_node_omf *image, uint64_t dir_ino)
{
	memset(image, 0, sizeof(*image));
	image->magic = le32_put(FS_DIR_NODE_MAGIC);
	image->ino = le64_put(dir_ino);
}

int dir_node_new_root(struct fs *fs, uint64_t dir_ino, uint64_t left, uint64_t key, uint64_t right, uint64_t *blk)
{
	struct fs_dir_node_omf image;
	struct shadow *shadow;
	int err;

	image_init(&image, dir_ino);
	image_insert(&image, 0, 0, left);
	image_insert(&image, 1, key, right);
	err = block_new(fs, ALLOC_META, FS_DIR_NODE, blk, &shadow);
	if (err)
		return err;
	return image_put(fs, shadow, &image, 0, 0);
}

/* The upper half of a full node into a new one, the child into the half where it belongs. */
static int insert_split(struct fs *fs, struct shadow *shadow, uint64_t dir_ino, unsigned at, uint64_t key,
	uint64_t child, uint64_t *split, uint64_t *split_key)
{
	struct fs_dir_node_omf low, high;
	unsigned keep = FS_DIR_NODE_PTRS / 2;
	struct shadow *fresh;
	int err = block_new(fs, ALLOC_META, FS_DIR_NODE, split, &fresh);

	if (err)
		return err;
	memcpy(&low, block_content(shadow), sizeof(low));
	image_init(&high, dir_ino);
	memcpy(high.slot, &low.slot[keep], (FS_DIR_NODE_PTRS - keep) * NODE_SLOT_BYTES);
	high.count = le32_put(FS_DIR_NODE_PTRS - keep);
	low.count = le32_put(keep);
	*split_key = le64_get(high.slot[0].key);
	high.slot[0].key = le64_put(0);
	if (at <= keep)
		image_insert(&low, at, key, child);
	else
		image_insert(&high, at - keep, key, child);
	err = image_put(fs, fresh, &high, 0, 0);
	if (!err)
		err = image_put(fs, shadow, &low, 0, FS_DIR_NODE_PTRS);
	return err;
}

int dir_node_insert(struct fs *fs, uint64_t blk, uint64_t dir_ino, unsigned idx, uint64_t key, uint64_t child,
	uint64_t *split, uint64_t *split_key)
{
	struct fs_dir_node_omf image;
	struct shadow *shadow;
	uint32_t count;
	int err = block_edit(fs, blk, FS_DIR_NODE, &shadow);

	if (err)
		return err;
	memcpy(&image, block_content(shadow), sizeof(image));
	count = le32_get(image.count);
	if (count == FS_DIR_NODE_PTRS)
		return insert_split(fs, shadow, dir_ino, idx + 1, key, child, split, split_key);
	*split = 0;
	image_insert(&image, idx + 1, key, child);
	return image_put(fs, shadow, &image, idx + 1, count);
}

int dir_node_remove(struct fs *fs, uint64_t blk, unsigned idx, uint32_t *count)
{
	struct fs_dir_node_omf image;
	struct shadow *shadow;
	uint32_t left;
	int err = block_edit(fs, blk, FS_DIR_NODE, &shadow);

	if (err)
		return err;
	memcpy(&image, block_content(shadow), sizeof(image));
	left = le32_get(image.count) - 1;
	memmove(&image.slot[idx], &image.slot[idx + 1], (left - idx) * NODE_SLOT_BYTES);
	image.slot[0].key = le64_put(0);
	image.count = le32_put(left);
	*count = left;
	return image_put(fs, shadow, &image, idx, left + 1);
}
