/* The name space: names appear and disappear, each change one operation of the running commit.
 *
 * Every call has the same shape: make room in the running commit (-EAGAIN passes through; making room may link streams,
 * so inodes are read behind it), look and refuse (nothing changed yet), op_begin, change, op_end. op_give_up undoes a change that failed half way, so the code between returns on
 * the first error. What is only volatile (handles, streams, the reclaim list) changes after op_end.
 *
 * An inode whose last link goes is put on the orphan list by the same operation: after a crash recovery finds it there,
 * in a running file system inode_gone or the last close starts the reclaiming. Moving names is rename.c, attributes are
 * attr.c. Permissions are the kernel's (default_permissions). */
#include "namei.h"

#include <dirent.h>
#include <errno.h>
#include "errmsg.h"
#include "log.h"
#include "plant.h"

int name_check(const char *name, size_t *len)
{
	size_t n = strnlen(name, FS_NAME_BYTES_MAX + 1);

	if (n > FS_NAME_BYTES_MAX)
		return -ENAMETOOLONG;
	if (n == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || memchr(name, '/', n) != NULL)
		return -EINVAL;
	*len = n;
	return 0;
}

int dir_load(struct fs *fs, uint64_t ino, struct fs_inode_omf *dir)
{
	int err = inode_get(fs, ino, dir);

	if (err != 0)
		return err;
	if (!inode_is_dir(dir))
		return -ENOTDIR;
	return le32_get(dir->nlink) == 0 ? -ENOENT : 0;
}

int dir_find(struct fs *fs, uint64_t ino, struct fs_inode_omf *dir, const char *name, size_t *len,
	     struct dir_entry *entry)
{
	int err = name_check(name, len);

	if (err == 0)
		err = dir_load(fs, ino, dir);
	return err != 0 ? err : dir_lookup(fs, ino, dir, name, *len, entry);
}

/* As dir_find for a name that is to be made: 0 when it is not there. */
static int dir_find_free(struct fs *fs, uint64_t ino, struct fs_inode_omf *dir, const char *name, size_t *len)
{
	struct dir_entry entry;
	struct fs_inode_omf loaded;
	int err = name_check(name, len);

	if (err == 0)
		err = dir_load(fs, ino, &loaded);
	if (err != 0)
		return err;
	err = dir_lookup(fs, ino, &loaded, name, *len, &entry);
	if (err != -ENOENT)
		return err == 0 ? -EEXIST : err;
	*dir = loaded;
	return 0;
}

int op_give_up(struct fs *fs, int err)
{
	return fs_space_wait(fs, op_abort(fs, err));
}

/* ---------------------------------------------------------------- inodes */

void inode_set_mtime(struct fs_inode_omf *inode, struct timespec t)
{
	inode->mtime = le64_put((uint64_t)t.tv_sec);
	inode->mtime_ns = le32_put((uint32_t)t.tv_nsec);
}

void inode_set_ctime(struct fs_inode_omf *inode, struct timespec t)
{
	inode->ctime = le64_put((uint64_t)t.tv_sec);
	inode->ctime_ns = le32_put((uint32_t)t.tv_nsec);
}

void inode_set_atime(struct fs_inode_omf *inode, struct timespec t)
{
	inode->atime = le64_put((uint64_t)t.tv_sec);
	inode->atime_ns = le32_put((uint32_t)t.tv_nsec);
}

void inode_add_links(struct fs_inode_omf *inode, int delta)
{
	inode->nlink = le32_put(le32_get(inode->nlink) + (uint32_t)delta);
}

int inode_drop_link(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode, struct timespec now, bool *gone)
{
	uint32_t links = le32_get(inode->nlink);
	int err = 0;

	if (links == 0)
		return errmsg_set(-EUCLEAN, "inode %lu: a name leads to it but its link count is 0", ino);
	links = inode_is_dir(inode) ? 0 : links - 1;
	inode->nlink = le32_put(links);
	inode_set_ctime(inode, now);
	if (links == 0)
		err = orphan_add(fs, ino, inode);
	if (err == 0)
		err = inode_put(fs, ino, inode);
	if (err == 0)
		*gone = links == 0;
	return err;
}

void vinode_set_ctime(struct fs *fs, uint64_t ino, struct timespec now)
{
	struct vinode *v = vinode_find(fs, ino);

	if (v != NULL && v->dirty)
		v->ctime = now;
}

void inode_gone(struct fs *fs, uint64_t ino)
{
	struct vinode *v = vinode_find(fs, ino);
	int err;

	if (v != NULL && v->handles != 0 && !PLANTED(PLANT_ORPHAN))
		return;
	err = fs_reclaim_later(fs, ino);
	if (err != 0)
		log_warn("inode %lu: its space comes back only with the next mount: %s", ino, strerror(-err));
}

int inode_link_stream(struct fs *fs, uint64_t ino)
{
	struct vinode *v = vinode_find(fs, ino);

	return v != NULL && v->dirty ? stream_link_now(fs, v) : 0;
}

static uint8_t dirent_type(uint32_t mode)
{
	return (uint8_t)IFTODT(mode);
}

/* ---------------------------------------------------------------- looking */

int fs_lookup(struct fs *fs, uint64_t dir, const char *name, uint64_t *ino)
{
	struct fs_inode_omf inode;
	struct dir_entry entry;
	size_t len;
	int err = dir_find(fs, dir, &inode, name, &len, &entry);

	if (err == 0)
		*ino = entry.ino;
	return err;
}

/* Cookies: 1 is ".", 2 is "..", larger ones are the keys of entries (FS_KEY_MIN and up). */
int fs_readdir(struct fs *fs, uint64_t dir, uint64_t cookie, struct fs_dirent *entry)
{
	struct fs_inode_omf inode;
	struct dir_entry found;
	uint64_t parent;
	int err = inode_get(fs, dir, &inode);

	if (err == 0 && !inode_is_dir(&inode))
		err = -ENOTDIR;
	if (err != 0)
		return err;
	if (cookie < 2) {
		parent = le64_get(inode.parent);
		entry->cookie = cookie + 1;
		entry->ino = cookie == 0 || parent == 0 ? dir : parent;
		entry->type = DT_DIR;
		strcpy(entry->name, cookie == 0 ? "." : "..");
		return 0;
	}
	err = dir_next(fs, dir, &inode, cookie == 2 ? 0 : cookie, &found);
	if (err != 0)
		return err;
	entry->cookie = found.key;
	entry->ino = found.ino;
	entry->type = found.type;
	memcpy(entry->name, found.name, found.name_len);
	entry->name[found.name_len] = '\0';
	return 0;
}

int fs_readlink(struct fs *fs, uint64_t ino, char *buf, size_t size, size_t *len)
{
	struct fs_inode_omf inode;
	const void *target = inode.inline_data;
	uint64_t bytes;
	int err = inode_get(fs, ino, &inode);

	if (err != 0)
		return err;
	if (!S_ISLNK(le32_get(inode.mode)))
		return -EINVAL;
	bytes = le64_get(inode.size);
	if (bytes > FS_INLINE_BYTES)
		err = block_get(fs, le64_get(inode.root), FS_SYMLINK, &target);
	if (err != 0)
		return err;
	*len = bytes < size ? bytes : size;
	memcpy(buf, target, *len);
	return 0;
}

/* ---------------------------------------------------------------- names appear */

/* What fs_create and fs_symlink make. */
struct newborn {
	mode_t mode;
	dev_t rdev;
	const struct fs_cred *cred;
	const char *target; /* of a symbolic link */
	size_t target_len;
};

/* A set-group-id directory hands down its group, and to directories the bit itself (mkdir(2), inode(7)). */
static void newborn_owner(struct fs_inode_omf *inode, const struct fs_inode_omf *dir, const struct fs_cred *cred)
{
	bool inherits = (le32_get(dir->mode) & S_ISGID) != 0;

	inode->uid = le32_put(cred->uid);
	inode->gid = inherits ? dir->gid : le32_put(cred->gid);
	if (inherits && inode_is_dir(inode))
		inode->mode = le32_put(le32_get(inode->mode) | S_ISGID);
}

static int newborn_target(struct fs *fs, struct fs_inode_omf *inode, const struct newborn *want)
{
	struct shadow *shadow;
	uint64_t blk;
	int err;

	inode->size = le64_put(want->target_len);
	if (want->target_len <= FS_INLINE_BYTES) {
		memcpy(inode->inline_data, want->target, want->target_len);
		return 0;
	}
	err = block_new(fs, ALLOC_META, FS_SYMLINK, &blk, &shadow);
	if (err != 0)
		return err;
	inode->root = le64_put(blk);
	return block_put(fs, shadow, 0, want->target, (uint32_t)want->target_len);
}

/* Inside an operation: the inode, whole. */
static int newborn_make(struct fs *fs, uint64_t dir_ino, const struct fs_inode_omf *dir, const struct newborn *want,
			struct timespec now, uint64_t *ino, struct fs_inode_omf *inode)
{
	int err = inode_new(fs, want->mode, ALLOC_META, ino, inode);

	if (err != 0)
		return err;
	newborn_owner(inode, dir, want->cred);
	inode->nlink = le32_put(inode_is_dir(inode) ? 2 : 1);
	inode->rdev = le32_put((uint32_t)want->rdev);
	inode->btime = le64_put((uint64_t)now.tv_sec);
	inode->btime_ns = le32_put((uint32_t)now.tv_nsec);
	inode_set_atime(inode, now);
	inode_set_mtime(inode, now);
	inode_set_ctime(inode, now);
	if (inode_is_dir(inode))
		inode->parent = le64_put(dir_ino);
	if (want->target != NULL)
		err = newborn_target(fs, inode, want);
	return err != 0 ? err : inode_put(fs, *ino, inode);
}

/* Inside an operation: the name, and what the directory says about itself. */
static int dir_enter(struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir, const char *name, size_t len,
		     uint64_t ino, const struct fs_inode_omf *inode, struct timespec now)
{
	int err = dir_insert(fs, dir_ino, dir, name, len, ino, le32_get(inode->gen), dirent_type(le32_get(inode->mode)));

	if (err != 0)
		return err;
	if (inode_is_dir(inode))
		inode_add_links(dir, 1);
	inode_set_mtime(dir, now);
	inode_set_ctime(dir, now);
	return inode_put(fs, dir_ino, dir);
}

static int newborn_add(struct fs *fs, uint64_t dir_ino, const char *name, const struct newborn *want, uint64_t *out)
{
	struct fs_inode_omf dir, inode;
	struct timespec now;
	uint64_t ino;
	size_t len;
	int err = fs_room(fs, FS_OP_RECORD_BYTES);

	if (err == 0)
		err = dir_find_free(fs, dir_ino, &dir, name, &len);
	if (err != 0)
		return err;
	if (S_ISDIR(want->mode) && le32_get(dir.nlink) >= FS_LINKS_MAX)
		return -EMLINK;
	now = fs_now(fs);
	op_begin(fs);
	err = newborn_make(fs, dir_ino, &dir, want, now, &ino, &inode);
	if (err == 0)
		err = dir_enter(fs, dir_ino, &dir, name, len, ino, &inode, now);
	if (err != 0)
		return op_give_up(fs, err);
	op_end(fs);
	*out = ino;
	return 0;
}

int fs_create(struct fs *fs, uint64_t dir, const char *name, mode_t mode, dev_t rdev, const struct fs_cred *cred,
	      uint64_t *ino)
{
	bool device = S_ISCHR(mode) || S_ISBLK(mode);
	const struct newborn want = { .mode = mode, .rdev = device ? rdev : 0, .cred = cred };

	if (!device && !S_ISREG(mode) && !S_ISDIR(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode))
		return -EINVAL;
	if (want.rdev > UINT32_MAX)
		return -EINVAL;
	return newborn_add(fs, dir, name, &want, ino);
}

int fs_symlink(struct fs *fs, uint64_t dir, const char *name, const char *target, const struct fs_cred *cred,
	       uint64_t *ino)
{
	const struct newborn want = {
		.mode = S_IFLNK | 0777, .cred = cred, .target = target,
		.target_len = strnlen(target, FS_SYMLINK_BYTES_MAX + 1),
	};

	if (want.target_len > FS_SYMLINK_BYTES_MAX)
		return -ENAMETOOLONG;
	if (want.target_len == 0)
		return -ENOENT; /* symlink(2) */
	return newborn_add(fs, dir, name, &want, ino);
}

/* Inside an operation: one link and name more. */
static int link_apply(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode, uint64_t dir_ino, struct fs_inode_omf *dir,
		      const char *name, size_t len, struct timespec now)
{
	int err;

	inode_add_links(inode, 1);
	inode_set_ctime(inode, now);
	err = inode_put(fs, ino, inode);
	return err != 0 ? err : dir_enter(fs, dir_ino, dir, name, len, ino, inode, now);
}

int fs_link(struct fs *fs, uint64_t ino, uint64_t dir_ino, const char *name)
{
	struct fs_inode_omf dir, inode;
	struct timespec now;
	size_t len;
	int err = dir_find_free(fs, dir_ino, &dir, name, &len);

	if (err == 0)
		err = inode_get(fs, ino, &inode);
	if (err != 0)
		return err;
	if (inode_is_dir(&inode))
		return -EPERM;
	if (le32_get(inode.nlink) == 0)
		return -ENOENT;
	if (le32_get(inode.nlink) >= FS_LINKS_MAX)
		return -EMLINK;
	err = inode_link_stream(fs, ino);
	if (err == 0)
		err = fs_room(fs, FS_OP_RECORD_BYTES);
	if (err == 0)
		err = inode_get(fs, ino, &inode); /* linking the stream changed it */
	if (err != 0)
		return err;
	now = fs_now(fs);
	op_begin(fs);
	err = link_apply(fs, ino, &inode, dir_ino, &dir, name, len, now);
	if (err != 0)
		return op_give_up(fs, err);
	op_end(fs);
	return 0;
}

/* ---------------------------------------------------------------- names go */

/* Inside an operation: the name and one link of its inode. */
static int remove_apply(struct fs *fs, uint64_t dir_ino, struct fs_inode_omf *dir, const struct dir_entry *entry,
			struct fs_inode_omf *inode, struct timespec now, bool *gone)
{
	int err = dir_remove(fs, dir_ino, dir, entry);

	if (err != 0)
		return err;
	if (inode_is_dir(inode))
		inode_add_links(dir, -1);
	inode_set_mtime(dir, now);
	inode_set_ctime(dir, now);
	err = inode_put(fs, dir_ino, dir);
	return err != 0 ? err : inode_drop_link(fs, entry->ino, inode, now, gone);
}

static int remove_name(struct fs *fs, uint64_t dir_ino, const char *name, bool want_dir)
{
	struct fs_inode_omf dir, inode;
	struct dir_entry entry;
	struct timespec now;
	bool gone = false;
	size_t len;
	int err = fs_room(fs, FS_OP_RECORD_BYTES);

	if (err == 0)
		err = dir_find(fs, dir_ino, &dir, name, &len, &entry);
	if (err == 0)
		err = inode_get(fs, entry.ino, &inode);
	if (err != 0)
		return err;
	if (want_dir != inode_is_dir(&inode))
		return want_dir ? -ENOTDIR : -EISDIR;
	if (want_dir && le64_get(inode.entries) != 0)
		return -ENOTEMPTY;
	now = fs_now(fs);
	op_begin(fs);
	err = remove_apply(fs, dir_ino, &dir, &entry, &inode, now, &gone);
	if (err != 0)
		return op_give_up(fs, err);
	op_end(fs);
	vinode_set_ctime(fs, entry.ino, now);
	if (gone)
		inode_gone(fs, entry.ino);
	return 0;
}

int fs_unlink(struct fs *fs, uint64_t dir, const char *name)
{
	return remove_name(fs, dir, name, false);
}

int fs_rmdir(struct fs *fs, uint64_t dir, const char *name)
{
	return remove_name(fs, dir, name, true);
}
