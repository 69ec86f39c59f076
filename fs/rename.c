/* rename(2): a name moves, replaces another one, or two names change places, as one operation of the running commit.
 *
 * First look and refuse, then link the streams of the files touched, then change. A stream is linked by an operation of
 * its own ahead of the rename, in the same commit or an earlier one: so whatever commit shows the file under its new
 * name also holds its content, and replace-by-rename never shows an empty file. A rename that fails behind that point
 * has merely linked content early.
 *
 * Directories: the link counts of both parents and the parent pointer of what moves change with the names; a directory
 * never comes to lie below itself. */
#include "namei.h"

#include <errno.h>
#include <stdio.h>
#include "errmsg.h"
#include "plant.h"

/* One end of a rename. */
struct place {
	uint64_t dir_ino;
	struct fs_inode_omf dir_own;
	struct fs_inode_omf *dir; /* dir_own, or the other end's when both names are in one directory */
	const char *name;
	size_t len;
	bool there;               /* the name exists: entry and inode are valid */
	struct dir_entry entry;
	struct fs_inode_omf inode;
};

/* 0 also when the directory has no such name: there tells. */
static int place_load(struct fs *fs, struct place *p)
{
	int err = name_check(p->name, &p->len);

	p->there = false;
	if (err == 0)
		err = dir_load(fs, p->dir_ino, &p->dir_own);
	if (err != 0)
		return err;
	err = dir_lookup(fs, p->dir_ino, &p->dir_own, p->name, p->len, &p->entry);
	if (err != 0)
		return err == -ENOENT ? 0 : err;
	p->there = true;
	return inode_get(fs, p->entry.ino, &p->inode);
}

/* -EINVAL when directory ino is dir or one of the directories above it. */
static int refuse_below(struct fs *fs, uint64_t ino, uint64_t dir)
{
	const struct fs_state_omf *state;
	struct fs_inode_omf inode;
	uint64_t hops;
	int err = state_get(fs, &state);

	if (err != 0)
		return err;
	for (hops = le64_get(state->ino_count); hops != 0; hops--) {
		if (dir == ino)
			return -EINVAL;
		if (dir == FS_ROOT_INO)
			return 0;
		err = inode_get(fs, dir, &inode);
		if (err != 0)
			return err;
		dir = le64_get(inode.parent);
	}
	return errmsg_set(-EUCLEAN, "directory %lu: its parents never lead to the root", dir);
}

/* What lies at the target stands in the way of what moves there. */
static int replace_check(const struct place *from, const struct place *to)
{
	if (inode_is_dir(&from->inode) && !inode_is_dir(&to->inode))
		return -ENOTDIR;
	if (!inode_is_dir(&from->inode) && inode_is_dir(&to->inode))
		return -EISDIR;
	return inode_is_dir(&to->inode) && le64_get(to->inode.entries) != 0 ? -ENOTEMPTY : 0;
}

/* Directories that come to the place less those that leave it. */
static int links_gained(const struct place *at, const struct place *other)
{
	int gained = inode_is_dir(&other->inode) ? 1 : 0;

	return at->there && inode_is_dir(&at->inode) ? gained - 1 : gained;
}

static int rename_check(struct fs *fs, const struct place *from, const struct place *to, unsigned flags)
{
	bool exchange = (flags & RENAME_EXCHANGE) != 0;
	int err = 0;

	if (exchange && !to->there)
		return -ENOENT;
	if ((flags & RENAME_NOREPLACE) != 0 && to->there)
		return -EEXIST;
	if (from->dir_ino != to->dir_ino) {
		if (inode_is_dir(&from->inode))
			err = refuse_below(fs, from->entry.ino, to->dir_ino);
		if (err == 0 && exchange && inode_is_dir(&to->inode))
			err = refuse_below(fs, to->entry.ino, from->dir_ino);
		if (err != 0)
			return err;
		if (links_gained(to, from) > 0 && le32_get(to->dir->nlink) >= FS_LINKS_MAX)
			return -EMLINK;
		if (exchange && links_gained(from, to) > 0 && le32_get(from->dir->nlink) >= FS_LINKS_MAX)
			return -EMLINK;
	}
	return !exchange && to->there ? replace_check(from, to) : 0;
}

/* What moved to a place: its parent, if it is a directory, and its ctime. */
static int moved(struct fs *fs, const struct place *to, const struct dir_entry *entry, struct fs_inode_omf *inode,
		 struct timespec now)
{
	if (inode_is_dir(inode))
		inode->parent = le64_put(to->dir_ino);
	inode_set_ctime(inode, now);
	return inode_put(fs, entry->ino, inode);
}

static int point_entry(struct fs *fs, struct place *at, const struct dir_entry *to)
{
	return dir_replace(fs, at->dir_ino, at->dir, &at->entry, to->ino, to->gen, to->type);
}

static int touch_dirs(struct fs *fs, struct place *from, struct place *to, struct timespec now)
{
	int err;

	inode_set_mtime(from->dir, now);
	inode_set_ctime(from->dir, now);
	inode_set_mtime(to->dir, now);
	inode_set_ctime(to->dir, now);
	err = inode_put(fs, from->dir_ino, from->dir);
	return err != 0 || to->dir == from->dir ? err : inode_put(fs, to->dir_ino, to->dir);
}

static int exchange_apply(struct fs *fs, struct place *from, struct place *to, struct timespec now)
{
	int err = point_entry(fs, to, &from->entry);

	if (err == 0)
		err = point_entry(fs, from, &to->entry);
	if (err != 0)
		return err;
	inode_add_links(to->dir, links_gained(to, from));
	inode_add_links(from->dir, links_gained(from, to));
	err = moved(fs, to, &from->entry, &from->inode, now);
	if (err == 0)
		err = moved(fs, from, &to->entry, &to->inode, now);
	return err != 0 ? err : touch_dirs(fs, from, to, now);
}

static int move_apply(struct fs *fs, struct place *from, struct place *to, struct timespec now, bool *gone)
{
	int err = dir_remove(fs, from->dir_ino, from->dir, &from->entry);

	if (err == 0 && to->there)
		err = point_entry(fs, to, &from->entry);
	else if (err == 0)
		err = dir_insert(fs, to->dir_ino, to->dir, to->name, to->len, from->entry.ino, from->entry.gen,
				 from->entry.type);
	if (err != 0)
		return err;
	inode_add_links(to->dir, links_gained(to, from));
	if (inode_is_dir(&from->inode))
		inode_add_links(from->dir, -1);
	err = moved(fs, to, &from->entry, &from->inode, now);
	if (err == 0 && to->there)
		err = inode_drop_link(fs, to->entry.ino, &to->inode, now, gone);
	return err != 0 ? err : touch_dirs(fs, from, to, now);
}

/* Both names, and the inodes they lead to, as they are now. */
static int rename_load(struct fs *fs, struct place *from, struct place *to)
{
	int err = place_load(fs, from);

	if (err == 0)
		err = place_load(fs, to);
	if (err != 0)
		return err;
	from->dir = &from->dir_own;
	to->dir = from->dir_ino == to->dir_ino ? &from->dir_own : &to->dir_own;
	return from->there ? 0 : -ENOENT;
}

static int rename_link_streams(struct fs *fs, const struct place *from, const struct place *to)
{
	int err = PLANTED(PLANT_RENAME) ? 0 : inode_link_stream(fs, from->entry.ino);

	return err == 0 && to->there ? inode_link_stream(fs, to->entry.ino) : err;
}

int fs_rename(struct fs *fs, uint64_t dir, const char *name, uint64_t new_dir, const char *new_name, unsigned flags)
{
	struct place from = { .dir_ino = dir, .name = name }, to = { .dir_ino = new_dir, .name = new_name };
	bool exchange = (flags & RENAME_EXCHANGE) != 0, gone = false;
	struct timespec now;
	int err;

	if ((flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0 ||
	    (exchange && (flags & RENAME_NOREPLACE) != 0))
		return -EINVAL;
	err = rename_load(fs, &from, &to);
	if (err == 0)
		err = rename_check(fs, &from, &to, flags);
	if (err != 0)
		return err;
	if (to.there && to.entry.ino == from.entry.ino)
		return 0; /* two names of one file: rename(2) does nothing */
	err = rename_link_streams(fs, &from, &to);
	if (err == 0)
		err = fs_room(fs, FS_OP_RECORD_BYTES);
	if (err == 0)
		err = rename_load(fs, &from, &to); /* linking changed the inodes */
	if (err != 0)
		return err;
	now = fs_now(fs);
	op_begin(fs);
	err = exchange ? exchange_apply(fs, &from, &to, now) : move_apply(fs, &from, &to, now, &gone);
	if (err != 0)
		return op_give_up(fs, err);
	op_end(fs);
	if (gone) {
		vinode_set_ctime(fs, to.entry.ino, now);
		inode_gone(fs, to.entry.ino);
	}
	return 0;
}
