/* Damage to a pool of one part, for the system tests of fsck: what is there contradicts itself, under right checksums, as a
 * bug would leave it. Several copies of a pool are hurt alike when each is given the same.
 *
 *   poolhurt PART leak COUNT        COUNT free blocks are in use, from the end of the pool
 *   poolhurt PART counts            the counts of used blocks are wrong
 *   poolhurt PART drop NAME         the root directory (of one leaf) does not hold NAME any more
 *   poolhurt PART links NAME COUNT  what NAME leads to has COUNT links
 *   poolhurt PART blocks NAME       what NAME leads to counts one block more than it has
 *   poolhurt PART rot NAME          a byte of the first block of NAME is another one: here the checksum is wrong */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "copy.h"
#include "csum.h"
#include "errmsg.h"
#include "fsmedia.h"

static struct pm pm;
static struct copy *copy;

static void need(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "poolhurt: %s: %s\n", what, errmsg_get());
	exit(1);
}

/* ---------------------------------------------------------------- finding */

static void *block(uint64_t blk)
{
	return pm.base + media_off(blk);
}

static struct copy_entry entry_of(uint64_t blk)
{
	struct copy_entry entry;

	need(copy_entry_get(copy, blk, &entry) == 0, "table entry");
	return entry;
}

static void entry_set(uint64_t blk, const struct copy_entry *entry)
{
	copy_entry_encode(blk, entry, (struct media_entry_omf *)(pm.base + media_entry_off(copy_geom(copy), blk)));
}

static void seal(uint64_t blk)
{
	struct copy_entry entry = entry_of(blk);

	entry.csum = csum_crc32c(0, block(blk), MEDIA_BLOCK_BYTES);
	entry_set(blk, &entry);
}

/* The inode block that holds ino. */
static uint64_t table_leaf(uint64_t ino)
{
	const struct fs_state_omf *state = block(le64_get(copy_sb(copy)->root_blk));
	uint64_t blk = le64_get(state->itab_root), leaf = ino / FS_INODES_PER_BLOCK;

	for (uint32_t level = le32_get(state->itab_height); level != 0; level--) {
		const struct fs_node_omf *node = block(blk);

		blk = le64_get(node->ptr[leaf >> (FS_NODE_SHIFT * (level - 1)) & (FS_NODE_PTRS - 1)]);
	}
	return blk;
}

static struct fs_inode_omf *inode(uint64_t ino)
{
	return (struct fs_inode_omf *)block(table_leaf(ino)) + ino % FS_INODES_PER_BLOCK;
}

static uint64_t root_leaf(void)
{
	need(inode(FS_ROOT_INO)->height.le == 0, "a root directory of one leaf");
	return le64_get(inode(FS_ROOT_INO)->root);
}

static unsigned root_slot(const char *name, uint64_t *ino)
{
	const struct fs_dir_leaf_omf *leaf = block(root_leaf());

	for (unsigned slot = 0; slot < FS_DIR_SLOTS; slot++) {
		const struct fs_dirent_omf *entry = (const struct fs_dirent_omf *)leaf->slots[slot];

		if ((le64_get(leaf->start) >> slot & 1) == 0 || entry->name_len != strlen(name) ||
		    memcmp(entry->name, name, entry->name_len) != 0)
			continue;
		*ino = le64_get(entry->ino);
		return slot;
	}
	need(0, name);
	return 0;
}

/* ---------------------------------------------------------------- hurting */

static void leak(uint64_t count)
{
	const struct media_geom *geom = copy_geom(copy);
	struct copy_entry used = { .seq = 1, .type = MEDIA_UNWRITTEN };
	uint64_t seq, group, blk = geom->blk_count;
	uint32_t told;

	while (count != 0) {
		need(media_blk_valid(geom, --blk), "free blocks");
		if (entry_of(blk).type != MEDIA_FREE)
			continue;
		entry_set(blk, &used);
		group = media_group_of(geom, blk);
		need(copy_summary_get(copy, group, &seq, &told) == 0 && copy_mend_summary(copy, group, told + 1) == 0, "summary");
		need(copy_mend_used(copy, copy_used_blks(copy) + 1) == 0, "superblock");
		count--;
	}
}

static void counts(void)
{
	need(copy_mend_summary(copy, 0, 3) == 0 && copy_mend_used(copy, 5) == 0, "counts");
}

static void drop(const char *name)
{
	struct fs_inode_omf *root = inode(FS_ROOT_INO);
	struct fs_dir_leaf_omf *leaf = block(root_leaf());
	uint64_t ino, bit = 1ull << root_slot(name, &ino);

	leaf->start = le64_put(le64_get(leaf->start) & ~bit);
	leaf->used = le64_put(le64_get(leaf->used) & ~bit);
	root->entries = le64_put(le64_get(root->entries) - 1);
	root->size = le64_put(le64_get(root->size) - MEDIA_LINE_BYTES);
	seal(root_leaf());
	seal(table_leaf(FS_ROOT_INO));
}

static void links(const char *name, uint32_t count)
{
	uint64_t ino;

	root_slot(name, &ino);
	inode(ino)->nlink = le32_put(count);
	seal(table_leaf(ino));
}

static void blocks(const char *name)
{
	uint64_t ino;

	root_slot(name, &ino);
	inode(ino)->blocks = le64_put(le64_get(inode(ino)->blocks) + 1);
	seal(table_leaf(ino));
}

static void rot(const char *name)
{
	uint64_t ino, blk;

	root_slot(name, &ino);
	blk = le64_get(inode(ino)->root);
	for (uint32_t level = le32_get(inode(ino)->height); level != 0; level--)
		blk = le64_get(((const struct fs_node_omf *)block(blk))->ptr[0]);
	*(uint8_t *)block(blk) ^= 1;
}

/* ---------------------------------------------------------------- command */

/* With every record applied, so that all copies stand where the newest one does. */
static void pool_load(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct stat st;
	void *base;

	need(fd >= 0 && fstat(fd, &st) == 0, path);
	base = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	need(base != MAP_FAILED, path);
	pm_init(&pm, base, (uint64_t)st.st_size, PM_MEMORY);
	need(copy_open(&pm, false, &copy) == 0 && copy_checkpoint(copy, UINT64_MAX, UINT64_MAX) == 0, path);
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[2] : "";

	if (argc > 2)
		pool_load(argv[1]);
	if (argc == 4 && strcmp(what, "leak") == 0)
		leak(strtoul(argv[3], NULL, 10));
	else if (argc == 3 && strcmp(what, "counts") == 0)
		counts();
	else if (argc == 4 && strcmp(what, "drop") == 0)
		drop(argv[3]);
	else if (argc == 5 && strcmp(what, "links") == 0)
		links(argv[3], (uint32_t)strtoul(argv[4], NULL, 10));
	else if (argc == 4 && strcmp(what, "blocks") == 0)
		blocks(argv[3]);
	else if (argc == 4 && strcmp(what, "rot") == 0)
		rot(argv[3]);
	else
		need(0, "usage: see the source");
	return 0;
}
