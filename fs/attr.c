/* Attributes: what stat(2) and statfs(2) show, and what chmod, chown, utimensat and truncate change.
 *
 * While an inode has a stream, its size, mtime and ctime are the stream's and the inode holds the committed ones. chmod and
 * chown link the stream first, so that content never comes to lie under a mode it was not written under; explicit times
 * join the stream, because they belong behind the writes before them. */
#include "namei.h"

#include <errno.h>
#include "plant.h"

#define ATTR_INODE (FS_SET_MODE | FS_SET_UID | FS_SET_GID)
#define ATTR_ATIME (FS_SET_ATIME | FS_SET_ATIME_NOW)
#define ATTR_MTIME (FS_SET_MTIME | FS_SET_MTIME_NOW)
#define SECTORS_PER_BLOCK (MEDIA_BLOCK_BYTES / 512u)

static struct timespec timespec_of(le64_t sec, le32_t ns)
{
	return (struct timespec){ .tv_sec = (time_t)le64_get(sec), .tv_nsec = (long)le32_get(ns) };
}

/* Blocks of a file with a stream: an estimate from above, exact again once it is linked. Staged blocks may replace
 * committed ones, hence never more than the size explains, unless the committed ones alone are. */
static uint64_t stream_blocks(const struct vinode *v, uint64_t committed)
{
	uint64_t explained = (v->size + MEDIA_BLOCK_BYTES - 1) >> MEDIA_BLOCK_SHIFT;
	uint64_t blks;

	if (committed > v->cut)
		committed = v->cut;
	blks = committed + v->staged_blks;
	if (blks > explained)
		blks = explained;
	return blks < committed ? committed : blks;
}

static void stat_merge(const struct vinode *v, uint64_t committed, struct stat *st)
{
	st->st_size = (off_t)v->size;
	st->st_mtim = v->mtime;
	st->st_ctim = v->ctime;
	st->st_blocks = (blkcnt_t)(stream_blocks(v, committed) * SECTORS_PER_BLOCK);
}

int fs_getattr(struct fs *fs, uint64_t ino, struct stat *st, uint32_t *gen)
{
	const struct vinode *v = vinode_find(fs, ino);
	struct fs_inode_omf inode;
	int err = inode_get(fs, ino, &inode);

	if (err != 0)
		return err;
	*st = (struct stat){
		.st_ino = ino,
		.st_mode = le32_get(inode.mode),
		.st_nlink = le32_get(inode.nlink),
		.st_uid = le32_get(inode.uid),
		.st_gid = le32_get(inode.gid),
		.st_rdev = le32_get(inode.rdev),
		.st_size = (off_t)le64_get(inode.size),
		.st_blksize = MEDIA_BLOCK_BYTES,
		.st_blocks = (blkcnt_t)(le64_get(inode.blocks) * SECTORS_PER_BLOCK),
		.st_atim = timespec_of(inode.atime, inode.atime_ns),
		.st_mtim = timespec_of(inode.mtime, inode.mtime_ns),
		.st_ctim = timespec_of(inode.ctime, inode.ctime_ns),
	};
	if (v != NULL && v->dirty)
		stat_merge(v, le64_get(inode.blocks), st);
	if (gen != NULL)
		*gen = le32_get(inode.gen);
	return 0;
}

/* ---------------------------------------------------------------- changing */

static bool time_valid(struct timespec t)
{
	return t.tv_nsec >= 0 && t.tv_nsec < 1000000000;
}

static int setattr_check(unsigned mask, const struct stat *st, const struct fs_inode_omf *inode)
{
	uint32_t mode = le32_get(inode->mode);

	if ((mask & FS_SET_SIZE) != 0 && !S_ISREG(mode))
		return S_ISDIR(mode) ? -EISDIR : -EINVAL;
	if ((mask & FS_SET_SIZE) != 0 && (st->st_size < 0 || (uint64_t)st->st_size > FS_FILE_BYTES_MAX))
		return st->st_size < 0 ? -EINVAL : -EFBIG;
	if ((mask & FS_SET_ATIME) != 0 && !time_valid(st->st_atim))
		return -EINVAL;
	if ((mask & FS_SET_MTIME) != 0 && !time_valid(st->st_mtim))
		return -EINVAL;
	return (mask & FS_SET_CTIME) != 0 && !time_valid(st->st_ctim) ? -EINVAL : 0;
}

static void setattr_inode(struct fs_inode_omf *inode, unsigned mask, const struct stat *st, struct timespec now)
{
	if ((mask & FS_SET_MODE) != 0)
		inode->mode = le32_put((le32_get(inode->mode) & S_IFMT) | (st->st_mode & 07777));
	if ((mask & FS_SET_UID) != 0)
		inode->uid = le32_put(st->st_uid);
	if ((mask & FS_SET_GID) != 0)
		inode->gid = le32_put(st->st_gid);
	if ((mask & ATTR_ATIME) != 0)
		inode_set_atime(inode, (mask & FS_SET_ATIME_NOW) != 0 ? now : st->st_atim);
	if ((mask & ATTR_MTIME) != 0)
		inode_set_mtime(inode, (mask & FS_SET_MTIME_NOW) != 0 ? now : st->st_mtim);
	inode_set_ctime(inode, (mask & FS_SET_CTIME) != 0 ? st->st_ctim : now);
}

static int setattr_apply(struct fs *fs, uint64_t ino, unsigned mask, const struct stat *st, struct timespec now)
{
	struct fs_inode_omf inode;
	int err = fs_room(fs, FS_OP_RECORD_BYTES);

	if (err == 0)
		err = inode_get(fs, ino, &inode);
	if (err != 0)
		return err;
	op_begin(fs);
	setattr_inode(&inode, mask, st, now);
	err = inode_put(fs, ino, &inode);
	if (err != 0)
		return op_give_up(fs, err);
	op_end(fs);
	return 0;
}

/* Times of an inode with a stream: all but atime, which streams do not have. */
static void setattr_stream(struct vinode *v, unsigned mask, const struct stat *st, struct timespec now)
{
	if ((mask & ATTR_MTIME) != 0)
		v->mtime = (mask & FS_SET_MTIME_NOW) != 0 ? now : st->st_mtim;
	v->ctime = (mask & FS_SET_CTIME) != 0 ? st->st_ctim : now;
}

static int setattr_rest(struct fs *fs, uint64_t ino, unsigned mask, const struct stat *st)
{
	struct vinode *v;
	struct timespec now;
	bool links = (mask & ATTR_INODE) != 0 && !PLANTED(PLANT_CHMOD);
	int err = links ? inode_link_stream(fs, ino) : 0;

	if (err == 0)
		err = fs_room(fs, FS_OP_RECORD_BYTES); /* first: making room may link the stream and let the vinode go */
	if (err != 0)
		return err;
	now = fs_now(fs);
	v = vinode_find(fs, ino);
	if (v == NULL || !v->dirty || PLANTED(PLANT_CHMOD))
		return setattr_apply(fs, ino, mask, st, now);
	if ((mask & ATTR_ATIME) != 0)
		err = setattr_apply(fs, ino, mask & (ATTR_ATIME | FS_SET_CTIME), st, now);
	if (err == 0)
		setattr_stream(v, mask, st, now);
	return err;
}

/* May be repeated after -EAGAIN: truncating to the same size again changes nothing. */
int fs_setattr(struct fs *fs, uint64_t ino, unsigned mask, const struct stat *st)
{
	struct fs_inode_omf inode;
	int err = inode_get(fs, ino, &inode);

	if (err == 0)
		err = setattr_check(mask, st, &inode);
	if (err == 0 && (mask & FS_SET_SIZE) != 0)
		err = fs_truncate(fs, ino, (uint64_t)st->st_size);
	if (err != 0 || (mask & ~(unsigned)FS_SET_SIZE) == 0)
		return err;
	return setattr_rest(fs, ino, mask & ~(unsigned)FS_SET_SIZE, st);
}

/* ---------------------------------------------------------------- the whole file system */

int fs_failed(const struct fs *fs)
{
	return fs->failed;
}

int fs_statfs(struct fs *fs, struct statvfs *st)
{
	const struct fs_state_omf *state;
	uint64_t free, avail, inodes, more;
	int err = state_get(fs, &state);

	if (err != 0)
		return err;
	free = alloc_free_blks(fs) + alloc_pending_blks(fs);
	avail = free > ALLOC_KEEP ? free - ALLOC_KEEP : 0;
	inodes = le64_get(state->ino_count);
	more = avail * FS_INODES_PER_BLOCK; /* inodes are made as needed: what the space would hold */
	if (more > FS_INO_MAX - inodes)
		more = FS_INO_MAX - inodes;
	*st = (struct statvfs){
		.f_bsize = MEDIA_BLOCK_BYTES,
		.f_frsize = MEDIA_BLOCK_BYTES,
		.f_blocks = alloc_total_blks(fs),
		.f_bfree = free,
		.f_bavail = avail,
		.f_files = inodes + more,
		.f_ffree = more,
		.f_favail = more,
		.f_namemax = FS_NAME_BYTES_MAX,
	};
	return 0;
}
