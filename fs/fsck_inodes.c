/* The checker on inodes: the table, what each inode holds, the two lists through them.
 *
 * The table is walked first, so that directories can be held against all inodes. A number below ino_next must have its
 * place; places behind it must be zero. */
#include "fsck_impl.h"

#include <stdlib.h>
#include <sys/stat.h>

typedef unsigned long long ull;

/* ---------------------------------------------------------------- table */

/* A free inode keeps its generation and its place in the list, nothing else. */
static bool free_inode_clean(const struct fs_inode_omf *inode)
{
	struct fs_inode_omf copy = *inode;

	copy.gen = le32_put(0);
	copy.free_next = le64_put(0);
	return fsck_all_zero(&copy, sizeof(copy));
}

/* What an inode of its kind never holds. */
static const char *kind_check(const struct fs_inode_omf *inode, uint32_t kind)
{
	bool links = kind == S_IFLNK && le64_get(inode->size) <= FS_INLINE_BYTES;
	size_t text = links ? le64_get(inode->size) : 0;

	if (kind != S_IFREG && inode->blocks.le)
		return "counts data blocks, but is no file";
	if (kind != S_IFREG && kind != S_IFDIR && inode->height.le)
		return "height of a map, but has none";
	if (kind != S_IFDIR && (inode->entries.le || inode->parent.le))
		return "entries or a parent, but is no directory";
	if (kind != S_IFCHR && kind != S_IFBLK && inode->rdev.le)
		return "device number, but is no device";
	if (!fsck_all_zero(inode->inline_data + text, FS_INLINE_BYTES - text))
		return "inline bytes that are no symlink's target";
	return NULL;
}

/* What inode_check, which every access makes, leaves out. */
static const char *inode_strict(const struct fs_inode_omf *inode)
{
	uint32_t mode = le32_get(inode->mode), flags = le32_get(inode->flags);

	if (inode->free_next.le)
		return "in use, but with a place in the free list";
	if (!(flags & FS_INODE_ORPHAN) && (inode->orphan_prev.le || inode->orphan_next.le))
		return "no orphan, but with a place in their list";
	if ((flags & FS_INODE_CUT) && !S_ISREG(mode))
		return "cut-off part of something that is no file";
	if (!inode->gen.le)
		return "in use with generation 0";
	if (mode & ~(uint32_t)(S_IFMT | 07777))
		return "unknown mode bits";
	if (le32_get(inode->nlink) > FS_LINKS_MAX)
		return "more links than there can be";
	if (!fsck_all_zero(inode->zero0, sizeof(inode->zero0)) || !fsck_all_zero(inode->zero1, sizeof(inode->zero1)))
		return "reserved bytes in use";
	return kind_check(inode, mode & S_IFMT);
}

static void table_inode(struct fsck *f, uint64_t ino, const struct fs_inode_omf *inode)
{
	const char *why;

	if (ino < FS_ROOT_INO || ino >= f->ino_next) {
		if (!fsck_all_zero(inode, sizeof(*inode)))
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
	if (!why)
		f->inodes[ino].omf = inode;
	if (!why)
		why = inode_strict(inode);
	if (why)
		fsck_found(f, "inode %llu: %s", (ull)ino, why);
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

	/* Every number given out has its place: a counter beyond that is damage, not a size to allocate. */
	f->ino_next = le64_get(f->state->ino_next);
	if (f->ino_next > f->leaves * FS_INODES_PER_BLOCK && f->ino_next > FS_ROOT_INO) {
		fsck_found(f, "state block: next inode number %llu, the inode table has %llu blocks", (ull)f->ino_next,
			(ull)f->leaves);
		f->ino_next = f->leaves ? f->leaves * FS_INODES_PER_BLOCK : FS_ROOT_INO;
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
	uint64_t end; /* of file, bytes; UINT64_MAX: unknown */
	uint64_t blocks;
};

/* Content behind the end of the file in its last block is always zero: growing shows zeros. */
static void file_tail(struct file_walk *w, const uint8_t *content, uint64_t off)
{
	uint64_t in_file = w->end - off;

	if (in_file < MEDIA_BLOCK_BYTES && !fsck_all_zero(content + in_file, MEDIA_BLOCK_BYTES - in_file))
		fsck_rot(w->f, "inode %llu, file offset 0x%llx: content behind the end is not zero", (ull)w->ino,
			(ull)w->end);
}

static void file_block(struct file_walk *w, uint64_t ptr, uint64_t fblk)
{
	uint32_t type = ptr & FS_PTR_UNWRITTEN ? MEDIA_UNWRITTEN : MEDIA_DATA;
	uint64_t off = fblk * MEDIA_BLOCK_BYTES, rot = w->f->report->rot;
	const void *content;

	w->blocks++;
	w->f->file_off = off;
	if (off >= w->end)
		fsck_found(w->f, "inode %llu, file offset 0x%llx: mapped behind the end", (ull)w->ino, (ull)off);
	content = fsck_claim(w->f, ptr & ~FS_PTR_UNWRITTEN, type, "inode", w->ino);
	w->f->file_off = FSCK_NO_OFF;
	if (content && type == MEDIA_DATA && off < w->end)
		file_tail(w, content, off);
	w->f->inodes[w->ino].rotten |= w->f->report->rot != rot;
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
	struct file_walk w = { .f = f, .ino = ino, .end = UINT64_MAX };
	uint64_t root = le64_get(inode->root);

	if (!(le32_get(inode->flags) & (FS_INODE_CUT | FS_INODE_ORPHAN)))
		w.end = le64_get(inode->size);
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
	if (!target)
		return;
	if (memchr(target, 0, le64_get(inode->size)))
		fsck_found(f, "inode %llu: symlink target shorter than its length", (ull)ino);
	if (target != inode->inline_data && !fsck_all_zero((const uint8_t *)target + le64_get(inode->size),
						    MEDIA_BLOCK_BYTES - le64_get(inode->size)))
		fsck_found(f, "inode %llu: symlink target longer than its length", (ull)ino);
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
