/* Directories: a B+tree from the keys of names to entries.
 *
 *   inode.root -> nodes (inode.height levels, dir_node.c) -> leaves (dir_leaf.c)
 *
 * A key is the hash of the name with an ordinal in its low 8 bits; it is the entry's readdir cookie for as long as the
 * entry lives. Names of one hash differ by ordinal: a new one takes the smallest that is free, so keys are unique, and
 * entries that stay keep theirs whatever comes and goes around them.
 *
 * There are no links between leaves: a walk forward goes down again with the least key behind the leaf it has read. So
 * each step of a walk moves forward or stops, in a damaged tree too. A leaf is freed with its last entry and a node
 * with its last child; a root with one child gives way to it. Separators stay when the entry they came from goes. */
#include "dir_impl.h"

#include <assert.h>
#include "csum.h"

#define ORDINAL_WORDS (FS_KEY_SAME / 64)

uint64_t dir_seed_key(uint64_t seed, const char *name, size_t len)
{
	uint64_t key = (csum_hash64(name, len, seed) >> 2) & ~(FS_KEY_SAME - 1);

	return key < FS_KEY_MIN ? FS_KEY_MIN : key;
}

uint64_t dir_name_key(struct fs *fs, const char *name, size_t len)
{
	return dir_seed_key(fs_hash_seed(fs), name, len);
}

/* ---------------------------------------------------------------- going down */

/* The way from the root to the leaf for one key. */
struct dir_path {
	uint64_t blk[FS_DIR_HEIGHT_MAX + 1]; /* by level: 0 is the leaf */
	unsigned idx[FS_DIR_HEIGHT_MAX + 1]; /* by level, of nodes: slot taken */
	uint32_t height;
	struct dir_range range;             /* of the leaf */
	const struct fs_dir_leaf_omf *leaf; /* checked; until the next change */
};

static int dir_damaged(uint64_t dir_ino, const char *why)
{
	return errmsg_set(-EUCLEAN, "directory %llu: %s", (unsigned long long)dir_ino, why);
}

/* The directory has a root. */
static int path_find(
	struct fs *fs, uint64_t dir_ino, const struct fs_inode_omf *dir, uint64_t key, struct dir_path *path)
{
	uint64_t blk = le64_get(dir->root);
	uint32_t level;
	int err;

	path->height = le32_get(dir->height);
	path->range = (struct dir_range){ .lo = 0, .hi = DIR_KEY_END };
	if (path->height > FS_DIR_HEIGHT_MAX || !tree_blk_ok(fs, blk))
		return dir_damaged(dir_ino, "root or height out of range");
	for (level = path->height; level; level--) {
		const struct fs_dir_node_omf *node;

		err = dir_node_get(fs, blk, dir_ino, path->range, &node);
		if (err)
			return err;
		path->blk[level] = blk;
		path->idx[level] = dir_node_search(node, key);
		path->range = dir_node_range(node, path->idx[level], path->range);
		blk = le64_get(node->slot[path->idx[level]].blk);
	}
	path->blk[0] = blk;
	err = dir_leaf_get(fs, blk, dir_ino, path->range, &path->leaf);
	if (!err && path->height && !path->leaf->used.le)
		return tree_damaged("directory leaf", blk, "empty");
	return err;
}

/* ---------------------------------------------------------------- names of one hash */

/* One search for a name among all entries of its hash. */
struct name_search {
	const char *name;
	size_t len;
	uint64_t base;                    /* key with ordinal 0 */
	uint64_t ordinals[ORDINAL_WORDS]; /* taken */
	const struct fs_dirent_omf *found;
	struct dir_path path; /* of the leaf read last */
};

static void search_leaf(struct name_search *s)
{
	const struct fs_dir_leaf_omf *leaf = s->path.leaf;
	unsigned slot;

	for (slot = dir_leaf_next(leaf, 0); slot < FS_DIR_SLOTS; slot = dir_leaf_next(leaf, slot + 1)) {
		const struct fs_dirent_omf *entry = dir_leaf_entry(leaf, slot);
		uint64_t ordinal = le64_get(entry->key) - s->base;

		if (ordinal >= FS_KEY_SAME)
			continue;
		s->ordinals[ordinal / 64] |= 1ull << ordinal % 64;
		if (entry->name_len == s->len && !memcmp(entry->name, s->name, s->len))
			s->found = entry;
	}
}

/* Walks the leaves that can hold the name's hash until the name is found: nearly always one. */
static int search_run(struct fs *fs, uint64_t dir_ino, const struct fs_inode_omf *dir, const char *name, size_t len,
	struct name_search *s)
{
	uint64_t key = dir_name_key(fs, name, len);
	int err;

	*s = (struct name_search){ .name = name, .len = len, .base = key };
	if (!le64_get(dir->root))
		return 0;
	do {
		err = path_find(fs, dir_ino, dir, key, &s->path);
		if (err)
			return err;
		search_leaf(s);
		key = s->path.range.hi;
	} while (!s->found && key < s->base + FS_KEY_SAME && key < DIR_KEY_END);
	return 0;
}

int dir_lookup(struct fs *fs, uint64_t dir_ino, const struct fs_inode_omf *dir, const char *name, size_t len,
	struct dir_entry *entry)
{
	struct name_search s;
	int err;

	if (len < 1 || len > FS_NAME_BYTES_MAX)
		return -ENOENT;
	err = search_run(fs, dir_ino, dir, name, len, &s);
	if (err)
		return err;
	return s.found ? dir_entry_out(s.found, s.path.blk[0], entry) : -ENOENT;
}

/* ---------------------------------------------------------------- insert */

static void entries_set(struct fs_inode_omf *dir, uint64_t entries)
{
	dir->entries = le64_put(entries);
	dir->size = le64_put(entries * MEDIA_LINE_BYTES);
}

/* Smallest ordinal not taken. */
static int ordinal_take(const struct name_search *s, uint64_t *ordinal)
{
	unsigned i;

	for (i = 0; i < ORDINAL_WORDS; i++) {
		if (~s->ordinals[i]) {
			*ordinal = i * 64 + __builtin_ctzll(~s->ordinals[i]);
			return 0;
		}
	}
	return errmsg_set(-ENOSPC, "%u names of one hash in a directory", (unsigned)FS_KEY_SAME);
}

/* Hands a new right neighbour of the leaf up the path: nodes that are full split in turn, the root under a new one. */
static int path_add(struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir, const struct dir_path *path,
	uint64_t key, uint64_t child)
{
	uint64_t blk, split, split_key;
	uint32_t level;
	int err;

	for (level = 1; level <= path->height; level++) {
		err = dir_node_insert(fs, path->blk[level], dir_ino, path->idx[level], key, child, &split, &split_key);
		if (err || !split)
			return err;
		key = split_key;
		child = split;
	}
	if (path->height == FS_DIR_HEIGHT_MAX)
		return errmsg_set(-ENOSPC, "directory %llu: tree at its greatest height", (unsigned long long)dir_ino);
	err = dir_node_new_root(fs, dir_ino, le64_get(dir->root), key, child, &blk);
	if (err)
		return err;
	dir->root = le64_put(blk);
	dir->height = le32_put(path->height + 1);
	return 0;
}

/* Halves the leaf; the entry goes where its key belongs, and fits there. */
static int insert_split(struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir, const struct dir_path *path,
	const struct dir_entry *entry)
{
	uint64_t right, key;
	int err = dir_leaf_split(fs, path->blk[0], dir_ino, &right, &key);

	if (!err)
		err = path_add(fs, dir_ino, dir, path, key, right);
	if (!err)
		err = dir_leaf_insert(fs, entry->key < key ? path->blk[0] : right, entry);
	assert(err != -EOVERFLOW);
	return err;
}

/* path: of the leaf that the search for the name ended in, nearly always the one the entry belongs to. */
static int insert_entry(
	struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir, struct dir_path *path, const struct dir_entry *entry)
{
	uint64_t blk;
	int err;

	if (!le64_get(dir->root)) {
		err = dir_leaf_new(fs, dir_ino, &blk);
		if (err)
			return err;
		dir->root = le64_put(blk);
		dir->height = le32_put(0);
		return dir_leaf_insert(fs, blk, entry);
	}
	if (entry->key < path->range.lo || entry->key >= path->range.hi) {
		err = path_find(fs, dir_ino, dir, entry->key, path);
		if (err)
			return err;
	}
	err = dir_leaf_insert(fs, path->blk[0], entry);
	return err == -EOVERFLOW ? insert_split(fs, dir_ino, dir, path, entry) : err;
}

int dir_insert(struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir, const char *name, size_t len, uint64_t ino,
	uint32_t gen, uint8_t type)
{
	struct dir_entry entry = { .ino = ino, .gen = gen, .type = type, .name_len = len };
	struct fs_inode_omf after = *dir;
	struct name_search s;
	uint64_t ordinal = 0;
	int err;

	assert(len >= 1);
	assert(len <= FS_NAME_BYTES_MAX);
	memcpy(entry.name, name, len);
	entry.name[len] = '\0';
	err = search_run(fs, dir_ino, dir, name, len, &s);
	if (err)
		return err;
	assert(!s.found);
	err = ordinal_take(&s, &ordinal);
	if (err)
		return err;
	entry.key = s.base + ordinal;
	err = insert_entry(fs, dir_ino, &after, &s.path, &entry);
	if (err)
		return err;
	entries_set(&after, le64_get(dir->entries) + 1);
	*dir = after;
	return 0;
}

/* ---------------------------------------------------------------- remove, replace */

/* The leaf and slot of an entry that was looked up before; the name must still be there under its key. */
static int entry_find(struct fs *fs, uint64_t dir_ino, const struct fs_inode_omf *dir, const struct dir_entry *entry,
	struct dir_path *path, unsigned *slot)
{
	const struct fs_dirent_omf *omf;
	int err;

	if (!le64_get(dir->root))
		return -ENOENT;
	err = path_find(fs, dir_ino, dir, entry->key, path);
	if (err)
		return err;
	*slot = dir_leaf_find(path->leaf, entry->key);
	if (*slot == FS_DIR_SLOTS)
		return -ENOENT;
	omf = dir_leaf_entry(path->leaf, *slot);
	return omf->name_len == entry->name_len && !memcmp(omf->name, entry->name, entry->name_len) ? 0 : -ENOENT;
}

/* A root node with one child gives way to it. */
static int lower(struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir)
{
	const struct dir_range all = { .lo = 0, .hi = DIR_KEY_END };

	while (le32_get(dir->height)) {
		const struct fs_dir_node_omf *node;
		uint64_t root = le64_get(dir->root);
		int err = dir_node_get(fs, root, dir_ino, all, &node);

		if (err)
			return err;
		if (le32_get(node->count) > 1)
			return 0;
		dir->root = node->slot[0].blk;
		dir->height = le32_put(le32_get(dir->height) - 1);
		err = block_free(fs, root);
		if (err)
			return err;
	}
	return 0;
}

/* Frees the leaf, which is empty, and every node that loses its last child. */
static int path_drop(struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir, const struct dir_path *path)
{
	uint32_t level, count = 0;
	int err = block_free(fs, path->blk[0]);

	for (level = 1; !err && !count && level <= path->height; level++) {
		err = dir_node_remove(fs, path->blk[level], path->idx[level], &count);
		if (!err && !count)
			err = block_free(fs, path->blk[level]);
	}
	if (err)
		return err;
	if (count)
		return lower(fs, dir_ino, dir);
	dir->root = le64_put(0);
	dir->height = le32_put(0);
	return 0;
}

int dir_remove(struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir, const struct dir_entry *entry)
{
	struct fs_inode_omf after = *dir;
	struct dir_path path;
	unsigned slot = 0;
	bool empty;
	int err;

	err = entry_find(fs, dir_ino, dir, entry, &path, &slot);
	if (err)
		return err;
	if (!le64_get(dir->entries))
		return dir_damaged(dir_ino, "has more entries than it counts");
	err = dir_leaf_remove(fs, path.blk[0], slot, &empty);
	if (!err && empty)
		err = path_drop(fs, dir_ino, &after, &path);
	if (err)
		return err;
	entries_set(&after, le64_get(dir->entries) - 1);
	*dir = after;
	return 0;
}

int dir_replace(struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir, const struct dir_entry *entry, uint64_t ino,
	uint32_t gen, uint8_t type)
{
	struct dir_path path;
	unsigned slot = 0;
	int err = entry_find(fs, dir_ino, dir, entry, &path, &slot);

	if (err)
		return err;
	return dir_leaf_replace(fs, path.blk[0], slot, ino, gen, type);
}

/* ---------------------------------------------------------------- readdir */

/* Entry with the least key above after, NULL: none here. */
static const struct fs_dirent_omf *leaf_above(const struct fs_dir_leaf_omf *leaf, uint64_t after)
{
	const struct fs_dirent_omf *best = NULL;
	unsigned slot;

	for (slot = dir_leaf_next(leaf, 0); slot < FS_DIR_SLOTS; slot = dir_leaf_next(leaf, slot + 1)) {
		const struct fs_dirent_omf *entry = dir_leaf_entry(leaf, slot);
		uint64_t key = le64_get(entry->key);

		if (key > after && (!best || key < le64_get(best->key)))
			best = entry;
	}
	return best;
}

int dir_next(struct fs *fs, uint64_t dir_ino, const struct fs_inode_omf *dir, uint64_t after, struct dir_entry *entry)
{
	struct dir_path path = { .range.hi = after + 1 };

	if (!le64_get(dir->root))
		return -ENOENT;
	while (after < DIR_KEY_END && path.range.hi < DIR_KEY_END) {
		const struct fs_dirent_omf *next;
		int err = path_find(fs, dir_ino, dir, path.range.hi, &path);

		if (err)
			return err;
		next = leaf_above(path.leaf, after);
		if (next)
			return dir_entry_out(next, path.blk[0], entry);
	}
	return -ENOENT;
}
