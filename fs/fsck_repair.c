/* Repair of what the checker found and what needs no guess.
 *
 *   counts       derived from the block table by each copy for itself: stored in place, no commit
 *   leaked       freed by a commit
 *   link counts  stored by a commit
 *   lost         linked into /lost+found, made when it is missing, as "#" and the inode's number
 *
 * What a commit repairs is in the history, and the repair becomes part of it: it reaches every copy as any other change
 * does. Therefore it may only be made where the copies are the same: where they differ, one of them is right, and it is
 * a restore that is wanted. Each fix is an operation of its own or, for leaked blocks, a part of one; a commit takes as
 * many as fit. Nothing is decided here: that every fix follows from what was found is fsck_repairable's word. */
#include "fsck.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include "errmsg.h"
#include "namei.h"

#define LEAKS_PER_OP 512u /* 16 bytes of the record each */
#define NAMES_TRIED 1000u
#define LOST_NAME "lost+found"

typedef unsigned long long ull;

bool fsck_repairable(const struct fsck_report *report)
{
	return report->hiding == 0 && report->total > report->rot;
}

int fsck_repair_counts(struct copy *copy, const struct fsck_report *report)
{
	int err = 0;

	for (size_t i = 0; i < report->fix_count && !err; i++) {
		const struct fsck_fix *fix = &report->fixes[i];

		if (fix->kind != FSCK_FIX_COUNT)
			break;
		err = fix->id == FSCK_POOL ? copy_mend_used(copy, fix->value)
					   : copy_mend_summary(copy, fix->id, (uint32_t)fix->value);
	}
	return err;
}

/* ---------------------------------------------------------------- leaked blocks, link counts */

static int free_leaks(struct fs *fs, const struct fsck_report *report, size_t *next)
{
	size_t i = *next, end = i + LEAKS_PER_OP;
	int err = fs_room(fs, FS_OP_RECORD_BYTES);

	if (err)
		return err;
	op_begin(fs);
	for (; i < end && i < report->fix_count && report->fixes[i].kind == FSCK_FIX_LEAK && !err; i++)
		err = block_free(fs, report->fixes[i].id);
	if (err)
		return op_abort(fs, err);
	op_end(fs);
	*next = i;
	return 0;
}

static int set_links(struct fs *fs, const struct fsck_fix *fix)
{
	struct fs_inode_omf inode;
	int err = fs_room(fs, FS_OP_RECORD_BYTES);

	if (!err)
		err = inode_get(fs, fix->id, &inode);
	if (err)
		return err;
	inode.nlink = le32_put((uint32_t)fix->value);
	op_begin(fs);
	err = inode_put(fs, fix->id, &inode);
	if (err)
		return op_abort(fs, err);
	op_end(fs);
	return 0;
}

/* ---------------------------------------------------------------- lost+found */

/* Found or made; made, it belongs to the root directory's owner and to nobody else. */
static int lost_dir(struct fs *fs, uint64_t *ino)
{
	struct fs_inode_omf root;
	int err = fs_lookup(fs, FS_ROOT_INO, LOST_NAME, ino);

	if (err != -ENOENT)
		return err;
	err = inode_get(fs, FS_ROOT_INO, &root);
	if (err)
		return err;
	return fs_create(fs, FS_ROOT_INO, LOST_NAME, S_IFDIR | 0700, 0,
		&(struct fs_cred){ .uid = le32_get(root.uid), .gid = le32_get(root.gid) }, ino);
}

/* A name for the inode that the directory does not hold. */
static int lost_name(struct fs *fs, uint64_t dir_ino, const struct fs_inode_omf *dir, uint64_t ino, char name[static 48])
{
	struct dir_entry entry;
	int len = snprintf(name, 48, "#%llu", (ull)ino), err;

	for (unsigned i = 1; (err = dir_lookup(fs, dir_ino, dir, name, (size_t)len, &entry)) == 0 && i < NAMES_TRIED; i++)
		len = snprintf(name, 48, "#%llu.%u", (ull)ino, i);
	return err == 0 ? -EEXIST : err == -ENOENT ? 0 : err;
}

/* Inside an operation: the name, what the inode says about it, what the directory says about itself. */
static int lost_insert(struct fs *fs, const struct fsck_fix *fix, uint64_t dir_ino, struct fs_inode_omf *dir, const char *name)
{
	struct timespec now = fs_now(fs);
	struct fs_inode_omf inode;
	int err = inode_get(fs, fix->id, &inode);

	if (!err)
		err = dir_insert(fs, dir_ino, dir, name, strlen(name), fix->id, le32_get(inode.gen),
			(uint8_t)IFTODT(le32_get(inode.mode)));
	if (err)
		return err;
	inode.nlink = le32_put((uint32_t)fix->value);
	inode_set_ctime(&inode, now);
	if (inode_is_dir(&inode)) {
		inode.parent = le64_put(dir_ino);
		inode_add_links(dir, 1);
	}
	inode_set_mtime(dir, now);
	inode_set_ctime(dir, now);
	err = inode_put(fs, fix->id, &inode);
	return err ? err : inode_put(fs, dir_ino, dir);
}

static int link_lost(struct fs *fs, const struct fsck_fix *fix)
{
	struct fs_inode_omf dir;
	uint64_t dir_ino;
	char name[48];
	int err = lost_dir(fs, &dir_ino);

	if (!err)
		err = fs_room(fs, FS_OP_RECORD_BYTES);
	if (!err)
		err = dir_load(fs, dir_ino, &dir);
	if (err == -ENOTDIR)
		return errmsg_set(err, "/" LOST_NAME " is no directory: give it another name first");
	if (!err && le32_get(dir.nlink) >= FS_LINKS_MAX)
		return errmsg_set(-EMLINK, "/" LOST_NAME " holds no more directories: give it another name first");
	if (!err)
		err = lost_name(fs, dir_ino, &dir, fix->id, name);
	if (err)
		return err;
	op_begin(fs);
	err = lost_insert(fs, fix, dir_ino, &dir, name);
	if (err)
		return op_give_up(fs, err);
	op_end(fs);
	return 0;
}

/* ---------------------------------------------------------------- all of it */

int fsck_repair(struct fs *fs, const struct fsck_report *report, size_t *next)
{
	while (*next < report->fix_count) {
		const struct fsck_fix *fix = &report->fixes[*next];
		int err = 0;

		if (fix->kind == FSCK_FIX_LEAK) {
			err = free_leaks(fs, report, next);
			if (!err)
				continue;
		} else if (fix->kind == FSCK_FIX_LINKS) {
			err = set_links(fs, fix);
		} else if (fix->kind == FSCK_FIX_LOST) {
			err = link_lost(fs, fix);
		}
		if (err)
			return err;
		++*next;
	}
	return 0;
}
