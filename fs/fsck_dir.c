/* The checker on directories: each one's tree and names, and what all of them together say about links.
 *
 * An entry counts for the inode it names; at the end every inode must have as many as its link count, every directory
 * exactly one, from the directory it calls its parent, and parents must lead to the root. */
#include "fsck_impl.h"

#include <dirent.h>
#include <sys/stat.h>

typedef unsigned long long ull;

struct dir_walk {
	struct fsck *f;
	uint64_t ino;
	uint64_t entries;
	uint64_t base;                                /* hash of the newest names, in key order ... */
	const struct fs_dirent_omf *run[FS_KEY_SAME]; /* ... all of it so far */
	unsigned run_len;
};

/* ---------------------------------------------------------------- one entry */

/* Names of one hash lie next to each other in key order, perhaps in several leaves. */
static void check_twice(struct dir_walk *w, const struct fs_dirent_omf *omf)
{
	uint64_t key = le64_get(omf->key), base = key & ~(FS_KEY_SAME - 1);
	unsigned i;

	if (base != w->base)
		w->run_len = 0;
	w->base = base;
	for (i = 0; i < w->run_len; i++) {
		if (le64_get(w->run[i]->key) == key)
			fsck_found(w->f, "directory %llu: key %#llx twice", (ull)w->ino, (ull)key);
		if (w->run[i]->name_len == omf->name_len && !memcmp(w->run[i]->name, omf->name, omf->name_len))
			fsck_found(w->f, "directory %llu: one name under keys %#llx and %#llx", (ull)w->ino,
				(ull)le64_get(w->run[i]->key), (ull)key);
	}
	if (w->run_len < FS_KEY_SAME)
		w->run[w->run_len++] = omf;
}

/* The inode an entry names. */
static void check_target(struct dir_walk *w, const struct dir_entry *entry)
{
	struct fsck *f = w->f;
	struct fsck_inode *target = entry->ino < f->ino_next ? &f->inodes[entry->ino] : NULL;

	if (!target || !target->omf) {
		fsck_found(f, "directory %llu: \"%s\" names inode %llu, not in use", (ull)w->ino, entry->name,
			(ull)entry->ino);
		return;
	}
	if (le32_get(target->omf->gen) != entry->gen)
		fsck_found(f, "directory %llu: \"%s\" names generation %u of inode %llu, which has %u", (ull)w->ino,
			entry->name, entry->gen, (ull)entry->ino, le32_get(target->omf->gen));
	if (IFTODT(le32_get(target->omf->mode)) != entry->type)
		fsck_found(f, "directory %llu: \"%s\" has type %u, inode %llu has %u", (ull)w->ino, entry->name,
			entry->type, (ull)entry->ino, IFTODT(le32_get(target->omf->mode)));
	target->refs++;
	if (S_ISDIR(le32_get(target->omf->mode))) {
		target->holder = w->ino;
		f->inodes[w->ino].subdirs++;
	}
}

static void check_entry(struct dir_walk *w, uint64_t blk, const struct fs_dirent_omf *omf)
{
	struct dir_entry entry;

	w->entries++;
	if (dir_entry_out(omf, blk, &entry)) {
		fsck_found(w->f, "directory %llu: %s", (ull)w->ino, errmsg_get());
		return;
	}
	if (dir_seed_key(w->f->geom->pool_seed, entry.name, entry.name_len) != (entry.key & ~(FS_KEY_SAME - 1)))
		fsck_found(w->f, "directory %llu: \"%s\" under key %#llx, not that of its name", (ull)w->ino,
			entry.name, (ull)entry.key);
	check_twice(w, omf);
	check_target(w, &entry);
}

/* ---------------------------------------------------------------- tree */

/* Entries in key order, so that names of one hash meet. */
static void check_leaf(struct dir_walk *w, uint64_t blk, const struct fs_dir_leaf_omf *leaf)
{
	const struct fs_dirent_omf *sorted[FS_DIR_SLOTS];
	unsigned slot, i, count = 0;

	for (slot = dir_leaf_next(leaf, 0); slot < FS_DIR_SLOTS; slot = dir_leaf_next(leaf, slot + 1)) {
		const struct fs_dirent_omf *entry = dir_leaf_entry(leaf, slot);

		for (i = count++; i && le64_get(sorted[i - 1]->key) > le64_get(entry->key); i--)
			sorted[i] = sorted[i - 1];
		sorted[i] = entry;
	}
	for (i = 0; i < count; i++)
		check_entry(w, blk, sorted[i]);
}

static void check_tree(struct dir_walk *w, uint64_t blk, uint32_t level, struct dir_range range, bool root)
{
	const void *content = fsck_claim(w->f, blk, level ? FS_DIR_NODE : FS_DIR_LEAF, "directory", w->ino);
	const struct fs_dir_node_omf *node = content;
	const struct fs_dir_leaf_omf *leaf = content;
	const char *why;
	unsigned i;

	if (!content)
		return;
	why = level ? dir_node_check(node, w->ino, range, w->f->geom) : dir_leaf_check(leaf, w->ino, range);
	if (!why && !level && !root && !leaf->used.le)
		why = "empty";
	if (!why && level && root && le32_get(node->count) < 2)
		why = "root with a single child";
	if (why)
		fsck_found(w->f, "directory %llu: block %#llx: %s", (ull)w->ino, (ull)blk, why);
	else if (!level)
		check_leaf(w, blk, leaf);
	for (i = 0; !why && level && i < le32_get(node->count); i++)
		check_tree(w, le64_get(node->slot[i].blk), level - 1, dir_node_range(node, i, range), false);
}

void fsck_dir(struct fsck *f, uint64_t ino)
{
	const struct fs_inode_omf *inode = f->inodes[ino].omf;
	const struct dir_range all = { .lo = 0, .hi = DIR_KEY_END };
	struct dir_walk w = { .f = f, .ino = ino };

	if (inode->root.le)
		check_tree(&w, le64_get(inode->root), le32_get(inode->height), all, true);
	else if (le32_get(inode->height))
		fsck_found(f, "directory %llu: height %u without a root", (ull)ino, le32_get(inode->height));
	if (w.entries != le64_get(inode->entries))
		fsck_found(f, "directory %llu: counts %llu entries, has %llu", (ull)ino, (ull)le64_get(inode->entries),
			(ull)w.entries);
	if (le64_get(inode->size) != le64_get(inode->entries) * MEDIA_LINE_BYTES)
		fsck_found(f, "directory %llu: size %llu with %llu entries", (ull)ino, (ull)le64_get(inode->size),
			(ull)le64_get(inode->entries));
}

/* ---------------------------------------------------------------- links */

/* What the directories say counts, if the inode can say it too. */
#define wrong_links(f, ino, links, ...)                                                                                \
	((links) <= FS_LINKS_MAX ? fsck_fixable(f, FSCK_FIX_LINKS, ino, links, __VA_ARGS__) : fsck_found(f, __VA_ARGS__))

/* A file nobody names: with all of its content it comes back under a new name. */
static void check_lost(struct fsck *f, uint64_t ino, const struct fsck_inode *i)
{
	if (i->rotten)
		fsck_rot(f, "inode %llu: no name leads to it, and its content is damaged", (ull)ino);
	else
		fsck_fixable(f, FSCK_FIX_LOST, ino, 1, "inode %llu: no name leads to it, and it is no orphan", (ull)ino);
}

static void check_dir_links(struct fsck *f, uint64_t ino, const struct fsck_inode *i)
{
	uint32_t nlink = le32_get(i->omf->nlink), want = 2 + i->subdirs;
	uint64_t parent = le64_get(i->omf->parent), holder = ino == FS_ROOT_INO ? ino : i->holder;

	if (!i->refs && ino != FS_ROOT_INO)
		fsck_fixable(f, FSCK_FIX_LOST, ino, want, "directory %llu: no entry names it", (ull)ino);
	else if (i->refs != (ino != FS_ROOT_INO))
		fsck_found(f, "directory %llu: %u entries name it", (ull)ino, i->refs);
	else if (parent != holder)
		fsck_found(f, "directory %llu: parent %llu, but %llu holds it", (ull)ino, (ull)parent, (ull)holder);
	if (nlink != want)
		wrong_links(f, ino, want, "directory %llu: link count %u instead of %u", (ull)ino, nlink, want);
}

static void check_inode_links(struct fsck *f, uint64_t ino)
{
	const struct fsck_inode *i = &f->inodes[ino];
	uint32_t nlink = le32_get(i->omf->nlink), flags = le32_get(i->omf->flags);

	if ((flags & FS_INODE_CUT) && !(flags & FS_INODE_ORPHAN))
		fsck_found(f, "inode %llu: cut-off part, but no orphan", (ull)ino);
	if (flags & FS_INODE_ORPHAN) {
		if (i->refs || nlink)
			fsck_found(f, "inode %llu: orphan with link count %u and %u names", (ull)ino, nlink, i->refs);
	} else if (S_ISDIR(le32_get(i->omf->mode))) {
		check_dir_links(f, ino, i);
	} else if (!i->refs) {
		check_lost(f, ino, i);
	} else if (nlink != i->refs) {
		wrong_links(f, ino, i->refs, "inode %llu: link count %u, %u names", (ull)ino, nlink, i->refs);
	}
}

/* Follows parents until a directory known to lead to the root, marking the way; a second walk along the way settles
 * it, so that each directory is passed a bounded number of times. */
static void check_reach(struct fsck *f, uint64_t ino)
{
	uint64_t at = ino;

	while (f->inodes[at].reach == FSCK_UNKNOWN && f->inodes[at].omf && f->inodes[at].holder) {
		f->inodes[at].reach = FSCK_ON_WAY;
		at = f->inodes[at].holder;
	}
	if (f->inodes[at].reach == FSCK_ON_WAY)
		fsck_found(f, "directory %llu: its parents lead back to %llu, not to the root", (ull)ino, (ull)at);
	while (f->inodes[ino].reach == FSCK_ON_WAY) {
		f->inodes[ino].reach = FSCK_REACHED;
		ino = f->inodes[ino].holder;
	}
}

void fsck_links(struct fsck *f)
{
	uint64_t ino;

	if (f->ino_next <= FS_ROOT_INO || !f->inodes[FS_ROOT_INO].omf ||
		!S_ISDIR(le32_get(f->inodes[FS_ROOT_INO].omf->mode)))
		fsck_found(f, "inode %u: no root directory", FS_ROOT_INO);
	else
		f->inodes[FS_ROOT_INO].reach = FSCK_REACHED;
	for (ino = FS_ROOT_INO; ino < f->ino_next; ino++) {
		if (!f->inodes[ino].omf)
			continue;
		check_inode_links(f, ino);
		if (S_ISDIR(le32_get(f->inodes[ino].omf->mode)))
			check_reach(f, ino);
	}
}
