/* The checker on inodes: the table, what each inode holds, the two lists through them.
 *
 * The table is walked first, so that directories can be held against all inodes. A number below ino_next must have its
 * place; places behind it must be zero. */
#include "fsck_impl.h"

#include <stdlib.h>
#include <sys/stat.h>

typedef unsigned long long ull;

/* ---------------------------------------------------------------- table */

static bool all_zero(const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	while (len--)
		if (*p++)
			return false;
	return true;
}

/* A free inode keeps its generation and its place in the list, nothing else. */
static bool free_inode_clean(const struct fs_inode_omf *inode)
{
	struct fs_inode_omf copy = *inode;

	copy.gen = le32_put(0);
	copy.free_next = le64_put(0);
	return all_zero(&copy, sizeof(copy));
}

static void table_inode(struct fsck *f, uint64_t ino, const struct fs_inode_omf *inode)
{
	const char *why;

	if (ino < FS_ROOT_INO || ino >= f->ino_next) {
		if (!all_zero(inode, sizeof(*inode)))
			fsck_found(f, "inode %llu: never given out, but not zero", (ull)ino);
		return;
	}
	if (!le32_get(inode->mode)) {
		if (!free_inode_clean(inode))
			fsck_found(f, "inode %llu: free, but not empty", (ull)ino);
		return;
	}
	f->ino_used++;
	why = inode_check(inode, f->geom->blk_count);
	if (why)
		fsck_found(f, "inode %llu: %s", (ull)ino, why);
	else
		f->inodes[ino].omf = inode;
}

/* leaf: number of the first inode block below blk. */
static void table_block(struct fsck *f, uint64_t blk, uint32_t level, uint64_t leaf)
{
	const void *content = fsck_claim(f, blk, level ? FS_ITAB_NODE : FS_ITAB_LEAF, "inode table", leaf);
	uint64_t end = (f->ino_next + FS_INODES_PER_BLOCK - 1) / FS_INODES_PER_BLOCK;
	unsigned i;

	for (i = 0; content && !level && i < FS_INODES_PER_BLOCK; i++)
		table_inode(f, leaf * FS_INODES_PER_BLOCK + i, (const struct fs_inode_omf *)content + i);
	for (i = 0; content && level && i < FS_NODE_PTRS; i++) {
		uint64_t child = le64_get(((const struct fs_node_omf *)content)->ptr[i]),
			 first = leaf + i * radix_span(level);

		if ((child != 0) != (first < end))
			fsck_found(f, "inode table node %#llx: pointer %u %s", (ull)blk, i,
				child ? "behind the last inode" : "missing");
		if (child)
			table_block(f, child, level - 1, first);
	}
}

int fsck_table_walk(struct fsck *f)
{
	uint64_t root = le64_get(f->state->itab_root);

	/* Every number given out lies in a block of the pool: a counter beyond that is damage, not a size to allocate.
	 */
	f->ino_next = le64_get(f->state->ino_next);
	if (f->ino_next > f->geom->blk_count * FS_INODES_PER_BLOCK) {
		fsck_found(f, "state block: next inode number %llu is more than the pool holds", (ull)f->ino_next);
		f->ino_next = FS_ROOT_INO;
	}
	f->inodes = calloc(f->ino_next, sizeof(*f->inodes));
	if (!f->inodes)
		return errmsg_set(-ENOMEM, "check: no memory for %llu inodes", (ull)f->ino_next);
	if (root)
		table_block(f, root, le32_get(f->state->itab_height), 0);
	if (f->ino_used != le64_get(f->state->ino_count))
		fsck_found(f, "state block: %llu inodes in use, %llu in the table", (ull)le64_get(f->state->ino_count),
			(ull)f->ino_used);
	return 0;
}

/* ---------------------------------------------------------------- content */

struct file_walk {
	struct fsck *f;
	uint64_t ino;
	uint64_t end_blk; /* first file block behind the end of file */
	uint64_t blocks;
};

static void file_block(struct file_walk *w, uint64_t ptr, uint64_t fblk)
{
	uint32_t type = ptr & FS_PTR_UNWRITTEN ? MEDIA_UNWRITTEN : MEDIA_DATA;

	w->blocks++;
	if (fblk >= w->end_blk)
		fsck_found(w->f, "inode %llu: file block %llu is mapped behind the end", (ull)w->ino, (ull)fblk);
	fsck_claim(w->f, ptr & ~FS_PTR_UNWRITTEN, type, "inode", w->ino);
}

static void file_ptr(struct file_walk *w, uint64_t ptr, uint32_t level, uint64_t fblk)
{
	const struct fs_node_omf *node;
	bool empty = true;
	unsigned i;

	if (level == 0) {
		file_block(w, ptr, fblk);
		return;
	}
	node = fsck_claim(w->f, ptr, FS_MAP_NODE, "inode", w->ino);
	if (!node)
		return;
	for (i = 0; i < FS_NODE_PTRS; i++) {
		uint64_t child = le64_get(node->ptr[i]);

		if (!child)
			continue;
		empty = false;
		file_ptr(w, child, level - 1, fblk + i * radix_span(level));
	}
	if (empty)
		fsck_found(w->f, "inode %llu: empty map node %#llx", (ull)w->ino, (ull)ptr);
}

/* The cut-off part of a truncated file keeps the places its blocks had: its size says nothing about them. Nor does
 * that of an orphan on its way out. */
static void check_file(struct fsck *f, uint64_t ino, const struct fs_inode_omf *inode)
{
	struct file_walk w = { .f = f, .ino = ino, .end_blk = UINT64_MAX };
	uint64_t root = le64_get(inode->root);

	if (!(le32_get(inode->flags) & (FS_INODE_CUT | FS_INODE_ORPHAN)))
		w.end_blk = (le64_get(inode->size) + MEDIA_BLOCK_BYTES - 1) / MEDIA_BLOCK_BYTES;
	if (root)
		file_ptr(&w, root, le32_get(inode->height), 0);
	else if (le32_get(inode->height))
		fsck_found(f, "inode %llu: map of height %u without a root", (ull)ino, le32_get(inode->height));
	if (w.blocks != le64_get(inode->blocks))
		fsck_found(f, "inode %llu: counts %llu blocks, has %llu", (ull)ino, (ull)le64_get(inode->blocks),
			(ull)w.blocks);
}

static void check_symlink(struct fsck *f, uint64_t ino, const struct fs_inode_omf *inode)
{
	const void *target = inode->inline_data;

	if (le64_get(inode->size) > FS_INLINE_BYTES)
		target = fsck_claim(f, le64_get(inode->root), FS_SYMLINK, "inode", ino);
	if (target && memchr(target, 0, le64_get(inode->size)))
		fsck_found(f, "inode %llu: symlink target shorter than its length", (ull)ino);
}

static void check_content(struct fsck *f, uint64_t ino)
{
	const struct fs_inode_omf *inode = f->inodes[ino].omf;
	const le64_t *attrs[] = { &inode->xattr, &inode->acl_access, &inode->acl_default };
	unsigned i;

	switch (le32_get(inode->mode) & S_IFMT) {
	case S_IFREG:
		check_file(f, ino, inode);
		break;
	case S_IFDIR:
		fsck_dir(f, ino);
		break;
	case S_IFLNK:
		check_symlink(f, ino, inode);
		break;
	default:
		break;
	}
	for (i = 0; i < sizeof(attrs) / sizeof(attrs[0]); i++)
		if (attrs[i]->le)
			fsck_claim(f, le64_get(*attrs[i]), FS_XATTR, "inode", ino);
}

void fsck_contents(struct fsck *f)
{
	uint64_t ino;

	for (ino = FS_ROOT_INO; ino < f->ino_next; ino++)
		if (f->inodes[ino].omf)
			check_content(f, ino);
}

/* ---------------------------------------------------------------- lists */

/* The place of an inode in the mapped table, free ones too; NULL: the table is damaged there (told before). */
static const struct fs_inode_omf *place(struct fsck *f, uint64_t ino)
{
	uint64_t blk = le64_get(f->state->itab_root), leaf = ino / FS_INODES_PER_BLOCK;
	uint32_t level;

	for (level = le32_get(f->state->itab_height);; level--) {
		const void *content;

		if (!media_blk_valid(f->geom, blk) || f->claims[blk] != (level ? FS_ITAB_NODE : FS_ITAB_LEAF))
			return NULL;
		content = pm_ptr(f->pm, media_off(blk));
		if (!level)
			return (const struct fs_inode_omf *)content + ino % FS_INODES_PER_BLOCK;
		blk = le64_get(((const struct fs_node_omf *)content)->ptr[radix_idx(leaf, level)]);
	}
}

/* Whether the next member of a list is a number that was not met before; tells otherwise. */
static bool list_step(struct fsck *f, const char *list, uint64_t prev, uint64_t ino)
{
	if (ino >= f->ino_next) {
		fsck_found(f, "%s list: inode %llu leads to number %llu, never given out", list, (ull)prev, (ull)ino);
		return false;
	}
	if (f->inodes[ino].listed) {
		fsck_found(f, "%s list: inode %llu met twice", list, (ull)ino);
		return false;
	}
	f->inodes[ino].listed = true;
	return true;
}

static void check_free_list(struct fsck *f)
{
	uint64_t ino = le64_get(f->state->ino_free), prev = 0, next;

	for (; ino && list_step(f, "free", prev, ino); prev = ino, ino = next) {
		const struct fs_inode_omf *inode = place(f, ino);

		if (!inode)
			return;
		if (le32_get(inode->mode)) {
			fsck_found(f, "free list: inode %llu is in use", (ull)ino);
			return;
		}
		next = le64_get(inode->free_next);
	}
}

static void check_orphan_list(struct fsck *f)
{
	uint64_t ino = le64_get(f->state->orphan_head), prev = 0, next;

	for (; ino && list_step(f, "orphan", prev, ino); prev = ino, ino = next) {
		const struct fs_inode_omf *inode = f->inodes[ino].omf;

		if (!inode) {
			fsck_found(f, "orphan list: inode %llu is not in use", (ull)ino);
			return;
		}
		if (!(le32_get(inode->flags) & FS_INODE_ORPHAN))
			fsck_found(f, "orphan list: inode %llu is not marked", (ull)ino);
		if (le64_get(inode->orphan_prev) != prev)
			fsck_found(f, "orphan list: inode %llu comes behind %llu, says %llu", (ull)ino, (ull)prev,
				(ull)le64_get(inode->orphan_prev));
		next = le64_get(inode->orphan_next);
	}
}

void fsck_lists(struct fsck *f)
{
	uint64_t ino;

	check_free_list(f);
	check_orphan_list(f);
	for (ino = FS_ROOT_INO; ino < f->ino_next; ino++) {
		const struct fs_inode_omf *inode = place(f, ino);

		if (!inode || f->inodes[ino].listed)
			continue;
		if (!le32_get(inode->mode))
			fsck_found(f, "inode %llu: free, but not on the free list", (ull)ino);
		else if (le32_get(inode->flags) & FS_INODE_ORPHAN)
			fsck_found(f, "inode %llu: marked as orphan, but not on the list", (ull)ino);
	}
}
