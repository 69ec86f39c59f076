/* The file system core: a library that a test drives without FUSE, network or persistent memory.
 *
 * One thread owns a struct fs and calls everything here. Nothing blocks: what has to wait for a commit takes a waiter,
 * which fs_poll calls back. A call that cannot go on now because the commit in flight must land first returns -EAGAIN: it
 * changed nothing and is to be repeated after the next fs_poll that returned true.
 *
 * Durability: fs_sync_inode, fs_sync_all and the waiters say when something is durable; everything else is volatile until
 * a commit holds it. Content of files lives in per-inode streams (stream.h) until linked; the name space and attributes are
 * part of the running commit at once. */
#ifndef RPMEMFS_FS_FS_H
#define RPMEMFS_FS_FS_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include "copy.h"
#include "fsmedia.h"

struct fs;
struct repl_commit;
struct repl_range;

/* How the core reaches replicas; policy.c implements it, NULL in fs_cfg means local only. All calls by the owner. */
struct fs_repl_ops {
	/* Posts a commit to every attached replica. The record, ranges' bytes stay stable until settled() covers it. */
	void (*post)(void *ctx, const struct repl_commit *commit);
	/* Offers freshly written data for pushing ahead of its commit; true: pushed to every attached replica. */
	bool (*push)(void *ctx, uint64_t off, const void *src, uint32_t len);
	/* Newest sequence durable on every attached copy: the commit in flight is done when it is covered. */
	uint64_t (*durable)(void *ctx);
	/* Newest sequence that may be acknowledged: durable, membership recorded, rule fulfilled. Never above durable(). */
	uint64_t (*ackable)(void *ctx);
	/* Least acknowledged sequence, and least tail, over all copies not released, the local one not counted. */
	uint64_t (*min_acked)(void *ctx);
	uint64_t (*min_tail)(void *ctx);
	/* The local copy checkpointed up to seq: the others may follow. */
	void (*checkpointed)(void *ctx, uint64_t seq);
	/* Ring or space is held back by a detached replica: give it up if there is one. */
	void (*need_release)(void *ctx);
	/* 0, or the errno with which changes are refused for now (-EAGAIN: to wait). */
	int (*may_change)(void *ctx);
};

struct fs_cfg {
	const struct fs_repl_ops *repl; /* NULL: local only */
	void *repl_ctx;
	uint32_t push_bytes_min;        /* WRITEs at least this long are pushed as they arrive; default FS_PUSH_BYTES_MIN */
	uint32_t background_ms;         /* everything is committed at least this often; 0: only when asked */
	bool read_only;
	bool dirty_now;                 /* tests: no time stamps from the clock, fs_now() counts 1 ns a call */
};
#define FS_PUSH_BYTES_MIN (32u << 10)
#define FS_BACKGROUND_MS_DEFAULT 3000u

/* Opens the core on a copy (copy_open done). Records in the ring are applied in place up to cfg->repl's min_acked, all of
 * them without replicas; the rest is taken over into memory and stays in the ring. read_only changes nothing. The copy stays
 * the caller's. -EBADMSG: damaged; errmsg says where. */
int fs_open(struct copy *copy, const struct fs_cfg *cfg, struct fs **out);

/* Writes the first content (state block, root directory) into a freshly formatted copy: commit 1. members: the state block's
 * member table and rule as they shall be. On return durable locally; rec/len (malloc'ed, caller frees) is the record for the replicas. */
int fs_format(struct copy *copy, const struct fs_state_omf *initial, mode_t root_mode, uid_t uid, gid_t gid, void **rec,
	      uint32_t *len);

/* Frees everything; nothing is committed or flushed (fs_sync_all first). */
void fs_close(struct fs *fs);

struct copy *fs_copy(struct fs *fs);
uint64_t fs_hash_seed(const struct fs *fs);
uint64_t fs_root_blk(const struct fs *fs);

/* ---------------------------------------------------------------- progress (commit.c) */

struct fs_waiter {
	void (*done)(struct fs_waiter *waiter, int err); /* called once, from fs_poll or from the call that took it */
	uint64_t seq;             /* filled in: the commit waited for */
	struct fs *fs;            /* filled in, with the links below; zero when not waiting */
	struct fs_waiter *next, **prev;
};

/* Completes, closes, checkpoints, reclaims: whatever can go on now. True when something moved, so that calls that
 * returned -EAGAIN are worth repeating. */
bool fs_poll(struct fs *fs);
/* Whether an answer of a replica is being waited for: poll again at once instead of sleeping. */
bool fs_busy(const struct fs *fs);
/* Milliseconds until fs_poll has to be called for its timers; -1: none. */
int fs_timeout_ms(const struct fs *fs);
/* Bounded background work (checkpoint step, orphan step) while idle; true when there is more. */
bool fs_idle(struct fs *fs);
/* Whether it may find something to do. Cheap: asked after every request. */
bool fs_idle_wanted(const struct fs *fs);

/* Waits for everything of the inode: links its stream, commits the running metadata of everyone. datasync is advice only.
 * 0: the waiter was taken. Else nothing was taken: -EAGAIN; -EIO/-ENOSPC: an earlier WRITE of the inode failed and was
 * not made good. */
int fs_sync_inode(struct fs *fs, uint64_t ino, struct fs_waiter *waiter);
/* The same for all streams and metadata. */
int fs_sync_all(struct fs *fs, struct fs_waiter *waiter);
/* Applies every settled record in place (clean end, before fsck): -EIO, -EBADMSG. */
int fs_checkpoint(struct fs *fs);
/* Gives up waiting (interrupt, timeout); the commit goes on. */
void fs_waiter_cancel(struct fs_waiter *waiter);
/* Closes the running commit as soon as the one in flight is done, without waiting (membership changes). */
void fs_commit_soon(struct fs *fs);

uint64_t fs_committed_seq(const struct fs *fs); /* newest closed commit */
uint64_t fs_acked_seq(const struct fs *fs);     /* newest acknowledged one */
int fs_failed(const struct fs *fs);             /* negative errno: the local copy failed, no change is taken; 0: it did not */

/* ---------------------------------------------------------------- inodes in use (stream.c) */

/* Kernel references and open handles; an inode without links is reclaimed when its last handle is closed. */
int fs_ref(struct fs *fs, uint64_t ino);                    /* one lookup more; -ENOMEM */
void fs_forget(struct fs *fs, uint64_t ino, uint64_t count);
int fs_opened(struct fs *fs, uint64_t ino);                 /* one handle more; -ENOMEM */
void fs_released(struct fs *fs, uint64_t ino);

/* ---------------------------------------------------------------- files (file_read.c, file_write.c) */

#define FS_READ_PIECES(len) ((len) / MEDIA_BLOCK_BYTES + 2) /* at most so many for a read of len bytes, wherever it begins */

/* Where up to len bytes are in memory, in order: pieces has room for FS_READ_PIECES(len). Readable until the next call
 * that changes anything, fs_poll and fs_idle among them. *got, their sum, is less than len only at end of file. Checksums
 * verified: -EIO names the block in the log. */
int fs_read_pieces(struct fs *fs, uint64_t ino, uint64_t off, size_t len, struct iovec *pieces, unsigned *count,
		   size_t *got);
/* The same, copied into buf. */
int fs_read(struct fs *fs, uint64_t ino, uint64_t off, void *buf, size_t len, size_t *got);
/* *done: bytes staged so far, 0 before the first call. -EAGAIN: to be called again with the same arguments and *done as it
 * is; -ENOSPC: no space and none coming; -EFBIG. A failure is remembered for fs_sync_inode. */
int fs_write(struct fs *fs, uint64_t ino, uint64_t off, const void *buf, size_t len, size_t *done);
/* The same for what the kernel writes back by itself: staged also while the policy makes changes wait, as far as one record
 * and the free blocks reach. Commits nothing then. */
int fs_write_back(struct fs *fs, uint64_t ino, uint64_t off, const void *buf, size_t len, size_t *done);
int fs_truncate(struct fs *fs, uint64_t ino, uint64_t size);
/* SEEK_DATA / SEEK_HOLE; -ENXIO. */
int fs_seek(struct fs *fs, uint64_t ino, uint64_t off, int whence, uint64_t *found);

/* ---------------------------------------------------------------- name space (namei.c) */

struct fs_cred {
	uid_t uid;
	gid_t gid;
};
/* What fs_setattr changes. */
enum fs_setattr_mask {
	FS_SET_MODE = 1, FS_SET_UID = 2, FS_SET_GID = 4, FS_SET_SIZE = 8, FS_SET_ATIME = 16, FS_SET_MTIME = 32,
	FS_SET_CTIME = 64, FS_SET_ATIME_NOW = 128, FS_SET_MTIME_NOW = 256,
};

int fs_getattr(struct fs *fs, uint64_t ino, struct stat *st, uint32_t *gen);
int fs_setattr(struct fs *fs, uint64_t ino, unsigned mask, const struct stat *st);
int fs_lookup(struct fs *fs, uint64_t dir, const char *name, uint64_t *ino);
/* Regular file, fifo, socket, device or directory by mode. -EEXIST, -ENAMETOOLONG, -ENOSPC, -EMLINK. */
int fs_create(struct fs *fs, uint64_t dir, const char *name, mode_t mode, dev_t rdev, const struct fs_cred *cred,
	      uint64_t *ino);
int fs_symlink(struct fs *fs, uint64_t dir, const char *name, const char *target, const struct fs_cred *cred,
	       uint64_t *ino);
int fs_readlink(struct fs *fs, uint64_t ino, char *buf, size_t size, size_t *len);
int fs_link(struct fs *fs, uint64_t ino, uint64_t dir, const char *name);
int fs_unlink(struct fs *fs, uint64_t dir, const char *name);
int fs_rmdir(struct fs *fs, uint64_t dir, const char *name);
/* flags: RENAME_NOREPLACE, RENAME_EXCHANGE; others -EINVAL. Links the streams of the files it touches. */
int fs_rename(struct fs *fs, uint64_t dir, const char *name, uint64_t new_dir, const char *new_name, unsigned flags);
/* Next entry behind cookie (0: start): "." and ".." included. -ENOENT: end. */
struct fs_dirent {
	uint64_t cookie, ino;
	uint8_t type;
	char name[FS_NAME_BYTES_MAX + 1];
};
int fs_readdir(struct fs *fs, uint64_t dir, uint64_t cookie, struct fs_dirent *entry);
int fs_statfs(struct fs *fs, struct statvfs *st);

#endif
