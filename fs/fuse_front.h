/* The FUSE adapter: what its files share. Callbacks (fuse_ops.c, fuse_dir.c) turn kernel requests into fs_* calls; what cannot
 * be answered at once waits in fuse_park.c. File handles hold no pointers and node ids are inode numbers, so that nothing
 * the kernel remembers depends on this process. Belongs to the thread of the event loop. */
#ifndef RPMEMFS_FS_FUSE_FRONT_H
#define RPMEMFS_FS_FUSE_FRONT_H

#include <fuse_lowlevel.h>
#include <sys/queue.h>
#include "fs.h"
#include "replication.h"

#define FRONT_WRITE_BYTES_MAX (1u << 20)
#define FRONT_CACHE_S 86400.0              /* entries and attributes: one mount changes them, this one */
#define FRONT_INTERRUPT_GRACE_MS 1000u
#define FRONT_PARKED_MAX 4096u             /* beyond either the FUSE descriptor is read only every so often ... */
#define FRONT_PARKED_BYTES_MAX (256u << 20)
#define FRONT_FULL_PAUSE_MS 50u
#define FRONT_FULL_FACTOR 4u               /* ... and beyond so many times either not until requests are answered */

struct front;

/* One kernel request that changes something or waits, with everything needed to repeat it. run answers it and returns 0;
 * -EAGAIN: nothing was done, to be repeated; any other error is answered by the caller. */
struct request {
	int (*run)(struct request *rq);
	struct front *front;
	fuse_req_t req;
	uint64_t since_ns;         /* when it arrived; 0 until it has to wait */
	uint64_t interrupted_ns;   /* 0: not */
	uint64_t ino, new_dir, off;
	unsigned flags;            /* of rename; attributes to set */
	mode_t mode;
	dev_t rdev;
	struct fs_cred cred;
	struct stat st;
	struct fuse_file_info fi;
	const char *name, *other;  /* NULL: none; other: new name, or symlink target */
	const void *data;          /* WRITE; NULL: none */
	size_t len;
	size_t done;               /* WRITE: bytes taken so far, kept while it is parked */
	size_t written;            /* a synchronous WRITE waiting for its commit: its answer; 0: an FSYNC */
};

struct parked;
struct sync;

struct front {
	struct fs *fs;
	struct replication *repl;
	const char *pool;          /* for status */
	const char *mountpoint;
	struct fuse_session *session;
	uint32_t timeout_ms;       /* FSYNC waits so long for the policy */
	bool ready;                /* the kernel said INIT */
	bool policy_logged;        /* the present outage of FSYNCs is in the log */
	uint8_t *list_buf;         /* listings, FRONT_WRITE_BYTES_MAX */
	struct iovec pieces[FS_READ_PIECES(FRONT_WRITE_BYTES_MAX)]; /* of a READ */
	char *status;              /* text being read by ioctls */
	size_t status_len;
	uint32_t status_serial;
	TAILQ_HEAD(parked_list, parked) parked;
	TAILQ_HEAD(sync_list, sync) syncs;
	unsigned parked_count;
	size_t parked_bytes;
	uint64_t full_until_ns;    /* no further request is read before, while too much is parked */
};

extern const struct fuse_lowlevel_ops front_ops; /* userdata: the struct front */

int front_init(struct front *front); /* -ENOMEM */
/* Answers ENOTCONN to whatever still waits. May be called again, and on zeros. */
void front_fini(struct front *front);

/* Answers with an error: what only media damage explains becomes EIO, the log says why. */
void front_reply_err(fuse_req_t req, int err);
/* Answers with an entry, one lookup counted. -ENOMEM and errors of fs_getattr: not answered. */
int front_entry(struct front *front, uint64_t ino, struct fuse_entry_param *entry);

/* --- fuse_park.c --- */
/* Runs a request, or parks a copy when it has to wait or others do. */
void front_take(struct request *rq);
/* FSYNC: never waits behind parked requests. */
void front_take_sync(struct request *rq);
/* A WRITE that is the kernel's write-back: waits behind others only while changes need not wait. */
void front_take_back(struct request *rq);
/* Stages it behind earlier WRITEs of the same bytes that are parked. Errors of fs_write_back. */
int front_write_back(struct request *rq);
int front_run_sync(struct request *rq); /* ino 0: everything */
/* Repeats parked requests in order. */
void front_retry(struct front *front);
/* Gives up what waits too long: interrupted requests, FSYNCs the policy does not let through. */
void front_tick(struct front *front);
int front_timeout_ms(const struct front *front); /* until front_tick, or until front_full is to be asked again; -1: none */
bool front_full(const struct front *front);      /* no further request may be read now */

/* --- fuse_dir.c --- */
void front_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void front_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void front_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);

uint64_t front_now_ns(void);

#endif
