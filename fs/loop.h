/* The event loop of a mount: one thread that owns the FUSE descriptor, the links to the replicas and the core. */
#ifndef RPMEMFS_FS_LOOP_H
#define RPMEMFS_FS_LOOP_H

#include "fuse_front.h"

struct loop_cfg {
	bool spin;                    /* waiting for a replica's answer: poll with sched_yield; else sleep on its descriptors */
	void (*ready)(void *ctx);     /* once, when the mount answers */
	void (*reopen_log)(void *ctx);/* SIGHUP */
	void *ctx;
};

/* Blocks the signals the loop takes (SIGTERM, SIGINT, SIGHUP) and ignores SIGPIPE: before any thread exists. */
void loop_block_signals(void);

/* Serves until the file system is unmounted (by whomever) or SIGTERM/SIGINT, which unmounts it. Then commits everything,
 * waiting at most front->timeout_ms, and brings the pool up to date. The session stays the caller's to destroy. 0; -EIO:
 * not everything could be committed; -EINTR: ended before cfg->ready was called; else errors of the set-up. */
int loop_run(struct front *front, const struct loop_cfg *cfg);

#endif
