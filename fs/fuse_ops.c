/* FUSE callbacks: decode a request, call the core, answer. No policy here: what waits and how long is fuse_park.c, what
 * is listed is fuse_dir.c.
 *
 * What the kernel is asked to do (measured): cache entries, absences and attributes for a day, since all changes pass
 * through this mount; keep page cache over opens; no writeback cache, everything that syncs loses by it; O_TRUNC with
 * OPEN, one request instead of two; check permissions; strip set-user-id bits itself. No FLUSH (not in the table: the
 * kernel stops sending it), locks stay in the kernel. A WRITE through O_DIRECT with O_DSYNC is not followed by an FSYNC: it
 * waits for its commit itself. */
#include "fuse_front.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "log.h"
#include "status.h"

void front_reply_err(fuse_req_t req, int err)
{
	if (err == -EBADMSG || err == -EUCLEAN) {
		log_error("pool: damaged: %s", errmsg_get());
		err = -EIO;
	}
	(void)fuse_reply_err(req, -err); /* fails only when the kernel has given the request up */
}

int front_entry(struct front *front, uint64_t ino, struct fuse_entry_param *entry)
{
	uint32_t gen;
	int err;

	memset(entry, 0, sizeof(*entry));
	err = fs_getattr(front->fs, ino, &entry->attr, &gen);
	if (err == 0)
		err = fs_ref(front->fs, ino);
	if (err != 0)
		return err;
	entry->ino = ino;
	entry->generation = gen;
	entry->attr_timeout = entry->entry_timeout = FRONT_CACHE_S;
	return 0;
}

/* Answers with the entry of ino. The kernel did not take it: nothing will be forgotten either. */
static int reply_entry(const struct request *rq, uint64_t ino)
{
	struct fuse_entry_param entry;
	int err = front_entry(rq->front, ino, &entry);

	if (err != 0)
		return err;
	if (fuse_reply_entry(rq->req, &entry) == -ENOENT)
		fs_forget(rq->front->fs, ino, 1);
	return 0;
}

static struct request request_of(fuse_req_t req, int (*run)(struct request *rq), fuse_ino_t ino)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return (struct request){
		.run = run, .front = fuse_req_userdata(req), .req = req, .ino = ino,
		.cred = { .uid = ctx->uid, .gid = ctx->gid },
	};
}

/* ---------------------------------------------------------------- session */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct front *front = userdata;

	conn->max_write = FRONT_WRITE_BYTES_MAX;
	/* ASYNC_DIO: background requests get no INTERRUPT, so a direct writer that waits for the policy could not be killed */
	conn->want &= ~(unsigned)(FUSE_CAP_ASYNC_DIO | FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_HANDLE_KILLPRIV |
				  FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	conn->want |= conn->capable & (FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_PARALLEL_DIROPS |
				       FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_IOCTL_DIR);
	front->ready = true;
}

/* ---------------------------------------------------------------- looking */

static void op_lookup(fuse_req_t req, fuse_ino_t dir, const char *name)
{
	struct request rq = request_of(req, NULL, dir);
	struct fuse_entry_param absent = { .entry_timeout = FRONT_CACHE_S };
	uint64_t ino;
	int err = fs_lookup(rq.front->fs, dir, name, &ino);

	if (err == -ENOENT) {
		fuse_reply_entry(req, &absent);
		return;
	}
	if (err == 0)
		err = reply_entry(&rq, ino);
	if (err != 0)
		front_reply_err(req, err);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	struct front *front = fuse_req_userdata(req);

	fs_forget(front->fs, ino, count);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct front *front = fuse_req_userdata(req);

	for (size_t i = 0; i < count; i++)
		fs_forget(front->fs, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

static int reply_attr(struct front *front, fuse_req_t req, uint64_t ino)
{
	struct stat st;
	int err = fs_getattr(front->fs, ino, &st, NULL);

	if (err == 0)
		fuse_reply_attr(req, &st, FRONT_CACHE_S);
	return err;
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	int err = reply_attr(fuse_req_userdata(req), req, ino);

	(void)fi;
	if (err != 0)
		front_reply_err(req, err);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct front *front = fuse_req_userdata(req);
	char target[FS_SYMLINK_BYTES_MAX + 1];
	size_t len;
	int err = fs_readlink(front->fs, ino, target, FS_SYMLINK_BYTES_MAX, &len);

	if (err != 0) {
		front_reply_err(req, err);
		return;
	}
	target[len] = '\0';
	fuse_reply_readlink(req, target);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct front *front = fuse_req_userdata(req);
	struct statvfs st;
	int err = fs_statfs(front->fs, &st);

	(void)ino;
	if (err != 0)
		front_reply_err(req, err);
	else
		fuse_reply_statfs(req, &st);
}

/* ---------------------------------------------------------------- attributes */

static int run_setattr(struct request *rq)
{
	int err = fs_setattr(rq->front->fs, rq->ino, rq->flags, &rq->st);

	return err != 0 ? err : reply_attr(rq->front, rq->req, rq->ino);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set, struct fuse_file_info *fi)
{
	static const struct {
		int fuse;
		unsigned ours;
	} map[] = {
		{ FUSE_SET_ATTR_MODE, FS_SET_MODE }, { FUSE_SET_ATTR_UID, FS_SET_UID }, { FUSE_SET_ATTR_GID, FS_SET_GID },
		{ FUSE_SET_ATTR_SIZE, FS_SET_SIZE }, { FUSE_SET_ATTR_CTIME, FS_SET_CTIME },
		{ FUSE_SET_ATTR_ATIME, FS_SET_ATIME }, { FUSE_SET_ATTR_ATIME_NOW, FS_SET_ATIME_NOW },
		{ FUSE_SET_ATTR_MTIME, FS_SET_MTIME }, { FUSE_SET_ATTR_MTIME_NOW, FS_SET_MTIME_NOW },
	};
	struct request rq = request_of(req, run_setattr, ino);

	(void)fi;
	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++) {
		if ((to_set & map[i].fuse) != 0)
			rq.flags |= map[i].ours;
	}
	rq.st = *st;
	front_take(&rq);
}

/* ---------------------------------------------------------------- name space */

static int run_make(struct request *rq)
{
	uint64_t ino;
	int err;

	if (S_ISLNK(rq->mode))
		err = fs_symlink(rq->front->fs, rq->ino, rq->name, rq->other, &rq->cred, &ino);
	else
		err = fs_create(rq->front->fs, rq->ino, rq->name, rq->mode, rq->rdev, &rq->cred, &ino);
	return err != 0 ? err : reply_entry(rq, ino);
}

static void take_make(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, dev_t rdev, const char *target)
{
	struct request rq = request_of(req, run_make, dir);

	rq.name = name;
	rq.other = target;
	rq.mode = mode;
	rq.rdev = rdev;
	front_take(&rq);
}

static void op_mknod(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, dev_t rdev)
{
	take_make(req, dir, name, mode, rdev, NULL);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode)
{
	take_make(req, dir, name, S_IFDIR | (mode & 07777), 0, NULL);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t dir, const char *name)
{
	take_make(req, dir, name, S_IFLNK | 0777, 0, target);
}

static int run_link(struct request *rq)
{
	int err = fs_link(rq->front->fs, rq->ino, rq->new_dir, rq->name);

	return err != 0 ? err : reply_entry(rq, rq->ino);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_dir, const char *name)
{
	struct request rq = request_of(req, run_link, ino);

	rq.new_dir = new_dir;
	rq.name = name;
	front_take(&rq);
}

static int run_unlink(struct request *rq)
{
	int err = fs_unlink(rq->front->fs, rq->ino, rq->name);

	if (err == 0)
		fuse_reply_err(rq->req, 0);
	return err;
}

static int run_rmdir(struct request *rq)
{
	int err = fs_rmdir(rq->front->fs, rq->ino, rq->name);

	if (err == 0)
		fuse_reply_err(rq->req, 0);
	return err;
}

static void op_unlink(fuse_req_t req, fuse_ino_t dir, const char *name)
{
	struct request rq = request_of(req, run_unlink, dir);

	rq.name = name;
	front_take(&rq);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t dir, const char *name)
{
	struct request rq = request_of(req, run_rmdir, dir);

	rq.name = name;
	front_take(&rq);
}

static int run_rename(struct request *rq)
{
	int err = fs_rename(rq->front->fs, rq->ino, rq->name, rq->new_dir, rq->other, rq->flags);

	if (err == 0)
		fuse_reply_err(rq->req, 0);
	return err;
}

static void op_rename(fuse_req_t req, fuse_ino_t dir, const char *name, fuse_ino_t new_dir, const char *new_name,
		      unsigned flags)
{
	struct request rq = request_of(req, run_rename, dir);

	rq.name = name;
	rq.new_dir = new_dir;
	rq.other = new_name;
	rq.flags = flags;
	front_take(&rq);
}

/* ---------------------------------------------------------------- files */

static void handle_init(struct fuse_file_info *fi)
{
	fi->fh = 0;
	fi->keep_cache = 1;
}

static int run_open(struct request *rq)
{
	struct fuse_file_info fi = rq->fi;
	int err = 0;

	if ((fi.flags & O_TRUNC) != 0)
		err = fs_truncate(rq->front->fs, rq->ino, 0);
	if (err == 0)
		err = fs_opened(rq->front->fs, rq->ino);
	if (err != 0)
		return err;
	handle_init(&fi);
	if (fuse_reply_open(rq->req, &fi) == -ENOENT)
		fs_released(rq->front->fs, rq->ino);
	return 0;
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct request rq = request_of(req, run_open, ino);

	rq.fi = *fi;
	if ((fi->flags & O_TRUNC) != 0)
		front_take(&rq);
	else
		front_take_sync(&rq); /* changes nothing: never waits */
}

static int run_create(struct request *rq)
{
	struct front *front = rq->front;
	struct fuse_file_info fi = rq->fi;
	struct fuse_entry_param entry;
	uint64_t ino;
	int err = fs_create(front->fs, rq->ino, rq->name, rq->mode, 0, &rq->cred, &ino);

	if (err == 0)
		err = front_entry(front, ino, &entry);
	if (err != 0)
		return err;
	err = fs_opened(front->fs, ino);
	if (err != 0) {
		fs_forget(front->fs, ino, 1);
		return err;
	}
	handle_init(&fi);
	if (fuse_reply_create(rq->req, &entry, &fi) == -ENOENT) {
		fs_released(front->fs, ino);
		fs_forget(front->fs, ino, 1);
	}
	return 0;
}

static void op_create(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct request rq = request_of(req, run_create, dir);

	rq.name = name;
	rq.mode = S_IFREG | (mode & 07777);
	rq.fi = *fi;
	front_take(&rq);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct front *front = fuse_req_userdata(req);

	(void)fi;
	fs_released(front->fs, ino);
	fuse_reply_err(req, 0);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct front *front = fuse_req_userdata(req);
	unsigned count;
	size_t got;
	int err;

	(void)fi;
	if (size > FRONT_WRITE_BYTES_MAX)
		size = FRONT_WRITE_BYTES_MAX;
	err = fs_read_pieces(front->fs, ino, (uint64_t)off, size, front->pieces, &count, &got);
	if (err != 0)
		front_reply_err(req, err);
	else
		fuse_reply_iov(req, front->pieces, (int)count); /* the kernel copies out of the pool */
}

/* Waits for the commit behind a WRITE and answers its length; errors as FSYNC's. */
static bool write_syncs(const struct request *rq)
{
	return !rq->fi.writepage && (rq->fi.flags & O_DIRECT) != 0 && (rq->fi.flags & O_DSYNC) != 0;
}

static int run_write(struct request *rq)
{
	struct request sync = *rq;
	int err;

	if (rq->fi.writepage)
		err = front_write_back(rq);
	else
		err = fs_write(rq->front->fs, rq->ino, rq->off, rq->data, rq->len, &rq->done);
	if (err != 0)
		return err;
	if (write_syncs(rq)) {
		sync.run = front_run_sync;
		sync.written = rq->len;
		sync.data = NULL;
		sync.len = 0;
		front_take_sync(&sync);
	} else {
		fuse_reply_write(rq->req, rq->len);
	}
	return 0;
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		     struct fuse_file_info *fi)
{
	struct request rq = request_of(req, run_write, ino);

	rq.data = buf;
	rq.len = size;
	rq.off = (uint64_t)off;
	rq.fi = *fi;
	if (fi->writepage)
		front_take_back(&rq);
	else
		front_take(&rq);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct front *front = fuse_req_userdata(req);
	uint64_t found;
	int err = off < 0 ? -ENXIO : fs_seek(front->fs, ino, (uint64_t)off, whence, &found);

	(void)fi;
	if (err != 0)
		front_reply_err(req, err);
	else
		fuse_reply_lseek(req, (off_t)found);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct request rq = request_of(req, front_run_sync, ino);

	(void)datasync, (void)fi;
	front_take_sync(&rq);
}

/* fsync of the root directory commits everything: what syncfs(2) would do if it reached a FUSE daemon. */
static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct request rq = request_of(req, front_run_sync, ino == FS_ROOT_INO ? 0 : ino);

	(void)datasync, (void)fi;
	front_take_sync(&rq);
}

/* ---------------------------------------------------------------- status */

/* `rpmemfs status` reads the status text in pieces through the root directory; see status.h. */
static int status_piece(struct front *front, const struct status_ioctl *in, struct status_ioctl *out)
{
	if (in->off == 0) {
		free(front->status);
		front->status = status_text(front);
		front->status_len = front->status != NULL ? strlen(front->status) : 0;
		front->status_serial++;
	} else if (in->serial != front->status_serial || in->off > front->status_len) {
		return -ESTALE; /* somebody else began to read: begin again */
	}
	if (front->status == NULL)
		return -ENOMEM;
	out->serial = front->status_serial;
	out->off = in->off;
	out->total = (uint32_t)front->status_len;
	out->len = out->total - in->off;
	if (out->len > sizeof(out->text))
		out->len = sizeof(out->text);
	memcpy(out->text, front->status + in->off, out->len);
	return 0;
}

static void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi, unsigned flags,
		     const void *in_buf, size_t in_len, size_t out_len)
{
	struct front *front = fuse_req_userdata(req);
	struct status_ioctl out = { .off = 0 };
	int err = -ENOTTY;

	(void)arg, (void)fi, (void)flags;
	if (ino == FS_ROOT_INO && cmd == (unsigned)STATUS_IOCTL && in_len == sizeof(out) && out_len == sizeof(out))
		err = status_piece(front, in_buf, &out);
	if (err != 0)
		front_reply_err(req, err);
	else
		fuse_reply_ioctl(req, 0, &out, sizeof(out));
}

const struct fuse_lowlevel_ops front_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.open = op_open,
	.create = op_create,
	.read = op_read,
	.write = op_write,
	.release = op_release,
	.fsync = op_fsync,
	.opendir = front_opendir,
	.readdir = front_readdir,
	.readdirplus = front_readdirplus,
	.releasedir = op_release,
	.fsyncdir = op_fsyncdir,
	.statfs = op_statfs,
	.lseek = op_lseek,
	.ioctl = op_ioctl,
};
