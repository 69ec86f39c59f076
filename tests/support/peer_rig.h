/* A core with a replica that answers when told: it may be slow, lag behind, hold space back, and is given up when the core
 * asks for it. */
#ifndef RPMEMFS_TESTS_PEER_RIG_H
#define RPMEMFS_TESTS_PEER_RIG_H

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "fs/fs_impl.h"
#include "fs/fsck.h"
#include "tests/support/core_rig.h"

#define MIB (1ull << 20)
#define BLK MEDIA_BLOCK_BYTES
#define ROUNDS_MAX 20000u

static struct core_rig rig;
static const struct fs_cred cred;
static bool release_wanted;

/* ---------------------------------------------------------------- a replica that answers when told */

static struct peer {
	uint64_t posted, durable, acked, tail; /* acked: least over copies not released */
	bool slow, released;
} peer;

static inline void peer_post(void *ctx, const struct repl_commit *c)
{
	(void)ctx;
	peer.posted = c->seq;
	if (!peer.slow)
		peer.durable = c->seq;
}

static inline bool peer_push(void *ctx, uint64_t off, const void *src, uint32_t len)
{
	(void)ctx;
	(void)off;
	(void)src;
	(void)len;
	return true;
}

static inline uint64_t peer_durable(void *ctx)
{
	(void)ctx;
	return peer.durable;
}

static inline uint64_t peer_acked(void *ctx)
{
	(void)ctx;
	return peer.released ? UINT64_MAX : peer.acked;
}

static inline uint64_t peer_tail(void *ctx)
{
	(void)ctx;
	return peer.released ? UINT64_MAX : peer.tail;
}

static inline void peer_checkpointed(void *ctx, uint64_t seq)
{
	(void)ctx;
	(void)seq;
}

static inline void peer_need_release(void *ctx)
{
	(void)ctx;
	release_wanted = true;
}

static const struct fs_repl_ops peer_ops = {
	.post = peer_post,
	.push = peer_push,
	.durable = peer_durable,
	.ackable = peer_durable,
	.min_acked = peer_acked,
	.min_tail = peer_tail,
	.checkpointed = peer_checkpointed,
	.need_release = peer_need_release,
};

/* The core again, with the peer, which has everything. */
static inline void peer_attach(void)
{
	uint64_t head = copy_head(rig.copy).seq;

	peer = (struct peer){ .posted = head, .durable = head, .acked = UINT64_MAX, .tail = UINT64_MAX };
	rig.cfg.repl = &peer_ops;
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
}

/* ---------------------------------------------------------------- helpers */

/* Somebody waits: answers come, and a copy that holds space back is given up. */
static inline void peer_hurry(void)
{
	peer.durable = peer.posted;
	if (release_wanted)
		peer.released = true;
}

/* Repeats while -EAGAIN, with everything a mount would do meanwhile; fails when that leads nowhere. */
#define TRY(expr)                                                                                                      \
	({                                                                                                             \
		int try_err;                                                                                           \
		unsigned try_rounds = 0;                                                                               \
		while ((try_err = (expr)) == -EAGAIN && try_rounds++ < ROUNDS_MAX) {                                   \
			peer_hurry();                                                                                  \
			fs_poll(rig.fs);                                                                               \
			fs_idle(rig.fs);                                                                               \
		}                                                                                                      \
		try_err;                                                                                               \
	})

static inline uint64_t make(const char *name)
{
	uint64_t ino = 0;
	int err = TRY(fs_create(rig.fs, FS_ROOT_INO, name, S_IFREG | 0600, 0, &cred, &ino));

	cr_assert_eq(err, 0, "create %s: %d %s", name, err, errmsg_get());
	return ino;
}

static inline int put_try(uint64_t ino, uint64_t off, const void *buf, size_t len)
{
	size_t done = 0;

	return TRY(fs_write(rig.fs, ino, off, buf, len, &done));
}

static inline void put(uint64_t ino, uint64_t off, const void *buf, size_t len)
{
	int err = put_try(ino, off, buf, len);

	cr_assert_eq(err, 0, "write: %d %s", err, errmsg_get());
}

struct wait {
	struct fs_waiter waiter;
	bool done;
	int err;
};

static inline void wait_done(struct fs_waiter *waiter, int err)
{
	((struct wait *)waiter)->done = true;
	((struct wait *)waiter)->err = err;
}

/* fsync, of everything with ino 0. */
static inline int sync_try(uint64_t ino)
{
	struct wait w = { .waiter.done = wait_done };
	int err = TRY(ino ? fs_sync_inode(rig.fs, ino, &w.waiter) : fs_sync_all(rig.fs, &w.waiter));

	for (unsigned i = 0; !err && !w.done && i < ROUNDS_MAX; i++) {
		peer_hurry();
		fs_poll(rig.fs);
		fs_idle(rig.fs);
	}
	cr_assert(err || w.done, "never answered");
	return err ? err : w.err;
}

static inline void check_sound(const char *when)
{
	struct fsck_report report;
	int err = fs_checkpoint(rig.fs);

	cr_assert_eq(err, 0, "%s: checkpoint: %d %s", when, err, errmsg_get());
	err = fsck_run(rig.fs, &report);
	cr_assert_eq(err, 0, "%s: fsck: %d", when, err);
	for (size_t i = 0; i < report.count && i < 10; i++)
		cr_log_error("%s: %s", when, report.lines[i]);
	cr_assert_eq(report.total, 0, "%s: %lu findings", when, report.total);
	fsck_report_free(&report);
}

static inline void fini(void)
{
	if (rig.fs)
		core_rig_free(&rig);
}

#endif
