/* Corners of the core found by reading it against its contract: what waits for ever, what a crowded commit does to an
 * operation, what comes between an unlink and its reclaiming, and a random run over all of it with crashes and fsck. */
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

static void peer_post(void *ctx, const struct repl_commit *c)
{
	(void)ctx;
	peer.posted = c->seq;
	if (!peer.slow)
		peer.durable = c->seq;
}

static bool peer_push(void *ctx, uint64_t off, const void *src, uint32_t len)
{
	(void)ctx;
	(void)off;
	(void)src;
	(void)len;
	return true;
}

static uint64_t peer_durable(void *ctx)
{
	(void)ctx;
	return peer.durable;
}

static uint64_t peer_acked(void *ctx)
{
	(void)ctx;
	return peer.released ? UINT64_MAX : peer.acked;
}

static uint64_t peer_tail(void *ctx)
{
	(void)ctx;
	return peer.released ? UINT64_MAX : peer.tail;
}

static void peer_checkpointed(void *ctx, uint64_t seq)
{
	(void)ctx;
	(void)seq;
}

static void peer_need_release(void *ctx)
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
static void peer_attach(void)
{
	uint64_t head = copy_head(rig.copy).seq;

	peer = (struct peer){ .posted = head, .durable = head, .acked = UINT64_MAX, .tail = UINT64_MAX };
	rig.cfg.repl = &peer_ops;
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
}

/* ---------------------------------------------------------------- helpers */

/* Somebody waits: answers come, and a copy that holds space back is given up. */
static void peer_hurry(void)
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

static uint64_t make(const char *name)
{
	uint64_t ino = 0;
	int err = TRY(fs_create(rig.fs, FS_ROOT_INO, name, S_IFREG | 0600, 0, &cred, &ino));

	cr_assert_eq(err, 0, "create %s: %d %s", name, err, errmsg_get());
	return ino;
}

static int put_try(uint64_t ino, uint64_t off, const void *buf, size_t len)
{
	size_t done = 0;

	return TRY(fs_write(rig.fs, ino, off, buf, len, &done));
}

static void put(uint64_t ino, uint64_t off, const void *buf, size_t len)
{
	int err = put_try(ino, off, buf, len);

	cr_assert_eq(err, 0, "write: %d %s", err, errmsg_get());
}

struct wait {
	struct fs_waiter waiter;
	bool done;
	int err;
};

static void wait_done(struct fs_waiter *waiter, int err)
{
	((struct wait *)waiter)->done = true;
	((struct wait *)waiter)->err = err;
}

/* fsync, of everything with ino 0. */
static int sync_try(uint64_t ino)
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

static void check_sound(const char *when)
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

static void fini(void)
{
	if (rig.fs)
		core_rig_free(&rig);
}

TestSuite(review, .fini = fini, .timeout = 120);

/* ---------------------------------------------------------------- between unlink and reclaiming */

/* open() looked the name up, another process unlinked it, then OPEN arrives. */
Test(review, a_file_opened_after_its_unlink_keeps_its_content)
{
	char buf[BLK], got[BLK];
	uint64_t ino;
	size_t n = 0;

	core_rig_make(&rig, 32 * MIB, 0);
	ino = make("f");
	memset(buf, 7, sizeof(buf));
	put(ino, 0, buf, sizeof(buf));
	cr_assert_eq(fs_unlink(rig.fs, FS_ROOT_INO, "f"), 0);
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	core_rig_quiesce(&rig);
	cr_expect_eq(fs_read(rig.fs, ino, 0, got, sizeof(got), &n), 0);
	cr_expect(n == sizeof(got) && !memcmp(buf, got, n));
	fs_released(rig.fs, ino);
	core_rig_quiesce(&rig);
	cr_expect_eq(fs_read(rig.fs, ino, 0, got, sizeof(got), &n), -ESTALE);
	check_sound("after");
}

/* Twice on the way out: the second time must not meet the next file of that number. */
Test(review, a_number_reclaimed_twice_leaves_the_next_file_alone)
{
	char buf[BLK] = "content", got[BLK];
	uint64_t ino, next;
	size_t n = 0;

	core_rig_make(&rig, 32 * MIB, 0);
	ino = make("f");
	cr_assert_eq(fs_unlink(rig.fs, FS_ROOT_INO, "f"), 0);
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	fs_released(rig.fs, ino);
	fs_idle(rig.fs);
	next = make("g");
	cr_assert_eq(next, ino, "the number is used again");
	cr_assert_eq(fs_opened(rig.fs, next), 0);
	put(next, 0, buf, sizeof(buf));
	fs_idle(rig.fs);
	cr_expect_eq(fs_read(rig.fs, next, 0, got, sizeof(got), &n), 0);
	cr_expect(n == sizeof(got) && !memcmp(buf, got, n), "%zu bytes", n);
}

/* ---------------------------------------------------------------- waiting for space */

/* Freed metadata waits for the tail; with nothing else to commit only a checkpoint moves that. */
Test(review, a_name_on_a_full_pool_gets_the_space_of_a_removed_one)
{
	char target[1000], name[32];
	uint64_t ino;
	unsigned i;
	int err = 0;

	core_rig_make(&rig, 8 * MIB, 0);
	memset(target, 'x', sizeof(target) - 1);
	target[sizeof(target) - 1] = '\0';
	for (i = 0; !err; i++) {
		snprintf(name, sizeof(name), "l%u", i);
		err = TRY(fs_symlink(rig.fs, FS_ROOT_INO, name, target, &cred, &ino));
	}
	cr_assert_eq(err, -ENOSPC, "%d", err);
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	cr_assert_eq(fs_checkpoint(rig.fs), 0);
	/* lines of the symlink's block must be in the ring when it is freed */
	cr_assert_eq(TRY(fs_unlink(rig.fs, FS_ROOT_INO, "l1")), 0);
	for (i = 0; i < 10; i++) {
		fs_idle(rig.fs);
		cr_assert_eq(core_rig_sync_all(&rig), 0);
	}
	for (i = 0; i < 5; i++) {
		err = TRY(fs_symlink(rig.fs, FS_ROOT_INO, "new", target, &cred, &ino));
		cr_expect_eq(err, 0, "turn %u: symlink: %d", i, err);
		cr_assert_eq(core_rig_sync_all(&rig), 0);
		cr_assert_eq(TRY(fs_unlink(rig.fs, FS_ROOT_INO, "new")), 0);
		while (fs_idle(rig.fs))
			;
		cr_assert_eq(core_rig_sync_all(&rig), 0);
	}
}

/* ---------------------------------------------------------------- attributes */

/* Making room for the atime links the stream: the mtime given with it must not be lost. */
Test(review, times_set_while_room_is_made_stay)
{
	struct stat st = { .st_atim.tv_sec = 11, .st_mtim.tv_sec = 22 };
	char buf[BLK] = "x", name[32];
	uint64_t ino, other;

	core_rig_make(&rig, 32 * MIB, MEDIA_RING_BYTES_MIN);
	ino = make("f");
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	put(ino, 0, buf, sizeof(buf));
	for (unsigned i = 0; rig.fs->running.bytes + FS_OP_RECORD_BYTES <= FS_RECORD_MAX(rig.fs); i++) {
		snprintf(name, sizeof(name), "n%u", i);
		other = make(name);
		(void)other;
	}
	rig.fs->link_upto = rig.fs->stream_gen; /* a background commit is due */
	cr_assert_eq(TRY(fs_setattr(rig.fs, ino, FS_SET_ATIME | FS_SET_MTIME, &st)), 0);
	cr_assert_eq(fs_getattr(rig.fs, ino, &st, NULL), 0);
	cr_expect_eq(st.st_mtim.tv_sec, 22, "mtime %ld", (long)st.st_mtim.tv_sec);
	cr_expect_eq(st.st_atim.tv_sec, 11);
}

/* ---------------------------------------------------------------- records that fit */

static void spread(uint64_t ino, uint64_t first, uint64_t step, unsigned count)
{
	char buf[BLK];

	memset(buf, 3, sizeof(buf));
	for (unsigned i = 0; i < count; i++)
		put(ino, (first + i * step) * BLK, buf, sizeof(buf));
}

/* A cut through full nodes on every level is the largest change a stream can ask for. */
Test(review, a_cut_through_full_nodes_fits_its_estimate)
{
	const uint64_t span1 = FS_NODE_PTRS, span2 = span1 * FS_NODE_PTRS, span3 = span2 * FS_NODE_PTRS;
	uint64_t ino, before, estimate, cut = span3 + span2 + span1 + 1;
	struct vinode *v;

	core_rig_make(&rig, 64 * MIB, MEDIA_RING_BYTES_MIN * 4);
	ino = make("f");
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	spread(ino, 0, span3, 3);
	spread(ino, span3, span2, FS_NODE_PTRS);
	spread(ino, span3 + span2, span1, FS_NODE_PTRS);
	spread(ino, span3 + span2 + span1, 1, FS_NODE_PTRS);
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	cr_assert_eq(TRY(fs_truncate(rig.fs, ino, cut * BLK)), 0);
	v = vinode_find(rig.fs, ino);
	cr_assert(v && v->dirty);
	before = rig.fs->running.bytes;
	estimate = v->record_bytes;
	cr_assert_eq(stream_link_now(rig.fs, v), 0);
	cr_expect_leq(rig.fs->running.bytes - before, estimate, "%lu bytes, %lu estimated",
		rig.fs->running.bytes - before, estimate);
	core_rig_quiesce(&rig);
	check_sound("after");
}

/* ---------------------------------------------------------------- records taken over */

/* Blocks change hands while a replica is caught up; the core ends before that is recorded, and the next mount takes the
 * replica for as old as the table says. */
Test(review, blocks_freed_more_than_once_in_the_ring_are_taken_over)
{
	char buf[BLK];
	uint64_t ino, mark;

	core_rig_make(&rig, 8 * MIB, MEDIA_RING_BYTES_MIN * 2);
	peer_attach();
	mark = copy_head(rig.copy).seq;
	peer.tail = UINT64_MAX;
	ino = make("f");
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	rig.fs->alloc.data_blk = rig.fs->geom.group0_blk + MEDIA_GROUP_META_BLKS;
	for (unsigned i = 0; i < 12; i++) {
		memset(buf, (int)i + 1, sizeof(buf));
		rig.fs->alloc.data_blk = rig.fs->geom.group0_blk + MEDIA_GROUP_META_BLKS;
		put(ino, 0, buf, sizeof(buf));
		cr_assert_eq(core_rig_sync(&rig, ino), 0);
	}
	cr_assert_leq(copy_tail(rig.copy).seq, mark, "nothing was applied");
	peer.acked = peer.tail = mark;
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	peer.acked = peer.tail = UINT64_MAX;
	core_rig_quiesce(&rig);
	check_sound("after");
}

/* ---------------------------------------------------------------- giving a replica up */

#define SMALL 700u

/* A replica that is away holds the ring until a commit records that it is given up: there must be room for that, however
 * many small streams crowd into the commit that waits. */
Test(review, a_crowded_commit_has_room_for_the_member_table)
{
	struct fs_state_omf state;
	const struct fs_state_omf *now;
	uint64_t ino, small[SMALL];
	char name[32];
	int err = 0;

	core_rig_make(&rig, 32 * MIB, MEDIA_RING_BYTES_MIN);
	peer_attach();
	for (unsigned i = 0; i < SMALL; i++) {
		snprintf(name, sizeof(name), "s%u", i);
		small[i] = make(name);
	}
	cr_assert_eq(sync_try(0), 0);
	peer.acked = peer.tail = copy_head(rig.copy).seq;
	for (unsigned i = 0; i < 3000 && err == 0; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		err = fs_create(rig.fs, FS_ROOT_INO, name, S_IFREG | 0600, 0, &cred, &ino);
		fs_commit_soon(rig.fs);
		fs_poll(rig.fs);
	}
	cr_assert_eq(err, -EAGAIN, "the ring is held: %d", err);
	cr_assert(release_wanted);
	err = 0;
	for (unsigned i = 0; i < SMALL && !err; i++) {
		size_t done = 0;

		err = fs_write(rig.fs, small[i], 0, "x", 1, &done);
		if (!err)
			err = stream_link_now(rig.fs, vinode_find(rig.fs, small[i]));
	}
	cr_assert_eq(err, -EAGAIN, "the commit is full: %d", err);
	cr_assert_eq(fs_room_state(rig.fs), 0);
	op_begin(rig.fs);
	cr_assert_eq(state_get(rig.fs, &now), 0);
	state = *now;
	memset(state.members, 0x5a, sizeof(state.members));
	cr_assert_eq(state_put(rig.fs, &state), 0);
	op_end(rig.fs);
	cr_expect_leq(rig.fs->running.bytes, FS_RECORD_MAX(rig.fs));
	peer.released = true;
	cr_expect_eq(sync_try(0), 0);
}

/* ---------------------------------------------------------------- hostile images */

Test(review, inode_count_that_does_not_fit_the_free_list_is_told)
{
	struct fs_state_omf state;
	const struct fs_state_omf *now;
	uint64_t ino;

	core_rig_make(&rig, 32 * MIB, 0);
	make("a");
	ino = make("b");
	cr_assert_eq(fs_unlink(rig.fs, FS_ROOT_INO, "b"), 0);
	core_rig_quiesce(&rig);
	op_begin(rig.fs);
	cr_assert_eq(state_get(rig.fs, &now), 0);
	state = *now;
	cr_assert_eq(le64_get(state.ino_free), ino);
	state.ino_count = le64_put(le64_get(state.ino_next) - 1);
	cr_assert_eq(state_put(rig.fs, &state), 0);
	op_end(rig.fs);
	cr_expect_eq(fs_create(rig.fs, FS_ROOT_INO, "c", S_IFREG | 0600, 0, &cred, &ino), -EUCLEAN);
}

/* A ring whose records link one block twice without freeing it. */
Test(review, a_ring_that_links_a_block_twice_is_refused)
{
	struct redo_builder *b;
	struct hash128 hash;
	const void *rec;
	uint32_t len;
	uint64_t blk;

	core_rig_make(&rig, 32 * MIB, 0);
	peer_attach();
	blk = rig.fs->geom.group0_blk + MEDIA_GROUP_META_BLKS + 100;
	cr_assert_eq(redo_builder_new(FS_RECORD_MAX(rig.fs), rig.fs->geom.pool_seed, &b), 0);
	for (unsigned i = 0; i < 2; i++) {
		struct copy_point head = copy_head(rig.copy);

		redo_begin(b);
		cr_assert_eq(redo_link(b, blk, MEDIA_DATA, i), 0);
		cr_assert_eq(redo_finish(b, head.seq + 1, head.epoch, &head.hash, 1, &rec, &len, &hash), 0);
		cr_assert_eq(copy_append(rig.copy, rec, len), 0, "%s", errmsg_get());
	}
	redo_builder_delete(b);
	peer.acked = peer.tail = copy_head(rig.copy).seq - 2;
	cr_expect_eq(core_rig_crash(&rig), -EBADMSG);
	copy_close(rig.copy);
	rig.fs = NULL;
}

/* ---------------------------------------------------------------- everything at once */

#define FILES 24u

static uint64_t rng;

static uint32_t rnd(uint32_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)((rng >> 11) % below);
}

static bool may_fail(int err)
{
	return err == 0 || err == -ENOSPC || err == -EEXIST || err == -ENOENT || err == -ENOTEMPTY || err == -EISDIR ||
	       err == -ENOTDIR || err == -EINVAL || err == -EPERM || err == -ESTALE;
}

static void name_of(char *name, unsigned i)
{
	if (i % 4 == 3)
		snprintf(name, 200, "n%u-%0*d", i, 20 + (int)(i % 3) * 60, 0);
	else
		snprintf(name, 200, "n%u", i);
}

static uint64_t pick_dir(void)
{
	uint64_t ino;
	char name[16];

	snprintf(name, sizeof(name), "d%u", rnd(4));
	return rnd(2) && fs_lookup(rig.fs, FS_ROOT_INO, name, &ino) == 0 ? ino : FS_ROOT_INO;
}

static void step(unsigned *opened, uint64_t *handles)
{
	static uint8_t buf[600 << 10];
	uint64_t dir = pick_dir(), to = pick_dir(), ino, off;
	char name[256], other[256];
	struct stat st;
	size_t len;
	int err = 0;

	name_of(name, rnd(FILES));
	name_of(other, rnd(FILES));
	switch (rnd(16)) {
	case 0:
		snprintf(name, sizeof(name), "d%u", rnd(4));
		err = TRY(fs_create(rig.fs, rnd(3) ? FS_ROOT_INO : dir, name, S_IFDIR | 0700, 0, &cred, &ino));
		break;
	case 1:
	case 2:
		err = TRY(fs_create(rig.fs, dir, name, S_IFREG | 0600, 0, &cred, &ino));
		break;
	case 3:
		memset(buf, 't', sizeof(buf));
		buf[1 + rnd(3000)] = 0;
		err = TRY(fs_symlink(rig.fs, dir, name, (char *)buf, &cred, &ino));
		break;
	case 4:
		err = TRY(fs_unlink(rig.fs, dir, name));
		break;
	case 5:
		snprintf(name, sizeof(name), "d%u", rnd(4));
		err = TRY(fs_rmdir(rig.fs, dir, name));
		break;
	case 6:
		if (rnd(4) == 0) {
			snprintf(name, sizeof(name), "d%u", rnd(4));
			snprintf(other, sizeof(other), "d%u", rnd(4));
		}
		err = TRY(fs_rename(rig.fs, dir, name, to, other, rnd(3) == 0 ? 2u : 0));
		break;
	case 7:
		if (!fs_lookup(rig.fs, dir, name, &ino))
			err = TRY(fs_link(rig.fs, ino, to, other));
		break;
	case 8:
		if (*opened < 8 && !fs_lookup(rig.fs, dir, name, &ino) && !fs_opened(rig.fs, ino))
			handles[(*opened)++] = ino;
		break;
	case 9:
		if (*opened) {
			unsigned i = rnd(*opened);

			fs_released(rig.fs, handles[i]);
			handles[i] = handles[--*opened];
		}
		break;
	case 10:
		if (!fs_lookup(rig.fs, dir, name, &ino))
			err = TRY(fs_truncate(rig.fs, ino, rnd(2) ? rnd(3u << 20) : (uint64_t)rnd(1u << 30) << rnd(10)));
		break;
	case 11:
		if (!fs_lookup(rig.fs, dir, name, &ino)) {
			memset(&st, 0, sizeof(st));
			st.st_mode = 0640;
			st.st_mtim.tv_sec = 5;
			err = TRY(fs_setattr(rig.fs, ino, 1u << rnd(3) | (rnd(2) ? FS_SET_MTIME | FS_SET_ATIME : 0), &st));
		}
		break;
	default:
		if (fs_lookup(rig.fs, dir, name, &ino) && *opened)
			ino = handles[rnd(*opened)];
		else if (fs_lookup(rig.fs, dir, name, &ino))
			break;
		off = rnd(8) ? rnd(2u << 20) : (uint64_t)rnd(1u << 30) << rnd(10);
		len = rnd(3) == 0 ? 1 + rnd(sizeof(buf) - 1) : rnd(2) ? 1 + rnd(200) : BLK * (1 + rnd(8));
		if (rnd(2))
			off &= ~(uint64_t)(BLK - 1);
		memset(buf, (int)(1 + ino % 250), len);
		buf[rnd((uint32_t)len)] = (uint8_t)(1 + ino % 250);
		err = put_try(ino, off, buf, len);
		break;
	}
	cr_assert(may_fail(err), "%d %s", err, errmsg_get());
	cr_assert_eq(fs_failed(rig.fs), 0, "%s", errmsg_get());
}

/* Every byte of every file is a hole or its own. */
static void check_content(void)
{
	static uint8_t got[64 << 10];
	const struct fs_state_omf *state;
	struct stat st;
	uint64_t last;

	cr_assert_eq(state_get(rig.fs, &state), 0);
	last = le64_get(state->ino_next);
	for (uint64_t ino = 2; ino < last; ino++) {
		uint64_t off = 0, at;
		size_t n;

		if (fs_getattr(rig.fs, ino, &st, NULL) || !S_ISREG(st.st_mode) || st.st_nlink == 0)
			continue;
		while (!fs_seek(rig.fs, ino, off, SEEK_DATA, &at)) {
			cr_assert_eq(fs_read(rig.fs, ino, at, got, BLK, &n), 0, "%s", errmsg_get());
			for (size_t i = 0; i < n; i++)
				cr_assert(got[i] == 0 || got[i] == 1 + ino % 250, "inode %lu at %lu: %u", ino, at + i, got[i]);
			off = (at / BLK + 1) * BLK;
		}
	}
}

static void peer_step(void)
{
	if (rnd(3) == 0)
		peer.durable = peer.posted;
	if (peer.acked == UINT64_MAX)
		return;
	if (rnd(8) == 0 && peer.acked < peer.durable)
		peer.acked += 1 + rnd((uint32_t)(peer.durable - peer.acked));
	if (rnd(8) == 0 && peer.tail < peer.acked)
		peer.tail += 1 + rnd((uint32_t)(peer.acked - peer.tail));
}

static void maybe_sync(void)
{
	uint64_t ino;
	char name[256];

	if (rnd(40) == 0)
		cr_assert(may_fail(sync_try(0)));
	name_of(name, rnd(FILES));
	if (rnd(8) == 0 && !fs_lookup(rig.fs, FS_ROOT_INO, name, &ino)) {
		int err = sync_try(ino);

		cr_assert(may_fail(err) || err == -EIO, "%d", err);
	}
	if (rnd(4) == 0)
		fs_idle(rig.fs);
	if (rnd(100) == 0) {
		rig.fs->link_upto = rig.fs->stream_gen;
		fs_poll(rig.fs);
	}
}

static void random_run(uint64_t seed, bool with_peer, unsigned crashes, unsigned steps)
{
	char when[64];

	rng = seed * 0x9e3779b97f4a7c15ull + 1;
	core_rig_make(&rig, (8 + rnd(3) * 4) * MIB, rnd(2) ? MEDIA_RING_BYTES_MIN : 0);
	if (with_peer)
		peer_attach();
	for (unsigned c = 0; c < crashes; c++) {
		uint64_t handles[8], head;
		unsigned opened = 0;
		int err;

		for (unsigned i = 0, n = 1 + rnd(steps); i < n; i++) {
			step(&opened, handles);
			maybe_sync();
			if (with_peer)
				peer_step();
		}
		snprintf(when, sizeof(when), "seed %lu crash %u", seed, c);
		head = copy_head(rig.copy).seq;
		peer.durable = peer.posted;
		if (with_peer && rnd(2)) /* known to have less than it has */
			peer.acked = peer.tail = head - rnd(head < 30 ? (uint32_t)head : 30);
		err = core_rig_crash(&rig);
		cr_assert_eq(err, 0, "%s: %d %s", when, err, errmsg_get());
		if (with_peer)
			peer.posted = peer.durable = head, peer.released = release_wanted = false;
		check_content();
		if (rnd(2)) {
			peer.acked = peer.tail = UINT64_MAX;
			check_sound(when);
			check_content();
			if (with_peer && rnd(2))
				peer.acked = peer.tail = copy_head(rig.copy).seq;
		}
	}
	peer.acked = peer.tail = UINT64_MAX;
	core_rig_quiesce(&rig);
	check_sound("end");
	core_rig_free(&rig);
	rig.fs = NULL;
}

static unsigned seeds(void)
{
	const char *text = getenv("REVIEW_SEEDS");

	return text ? (unsigned)atoi(text) : 3;
}

Test(review, random_changes_crashes_and_tiny_rings, .timeout = 600)
{
	for (unsigned seed = 1; seed <= seeds(); seed++)
		random_run(seed, false, 12, 250);
}

Test(review, random_changes_crashes_and_a_copy_that_lags, .timeout = 600)
{
	for (unsigned seed = 1; seed <= seeds(); seed++)
		random_run(seed + 1000, true, 12, 250);
}

/* Bytes of a user's file travel as lines of records. What looks like a record of this file system there, with a sequence number
 * soon to come, must not be taken for one when the ring is searched behind its head: the pool would be called damaged. */
Test(review, user_bytes_do_not_pass_for_a_record)
{
	struct hash128 any = { { 1 } }, hash;
	struct redo_builder *b;
	uint8_t buf[4096] = { 0 };
	const void *rec;
	struct copy *c;
	uint64_t ino;
	uint32_t len;

	core_rig_make(&rig, 32 * MIB, MEDIA_RING_BYTES_MIN);
	cr_assert_eq(fs_create(rig.fs, FS_ROOT_INO, "user", S_IFREG | 0600, 0, &cred, &ino), 0);
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	cr_assert_eq(redo_builder_new(FS_RECORD_MAX(rig.fs), 0, &b), 0);
	for (unsigned round = 0; round < 60; round++) {
		for (unsigned f = 0; f < 20; f++) {
			size_t done = 0;

			for (unsigned k = 0; round > 0 && k < 7; k++) {
				redo_begin(b);
				cr_assert_eq(redo_finish(b, copy_head(rig.copy).seq + 8 + k * 5, 1, &any, round, &rec, &len, &hash), 0);
				memcpy(buf + 128 * k, rec, 128);
			}
			cr_assert_eq(CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, f * 4096ull, buf, sizeof(buf), &done)), 0);
		}
		cr_assert_eq(core_rig_sync(&rig, ino), 0);
		while (fs_idle(rig.fs))
			;
		cr_assert_eq(copy_open(&rig.pm, true, &c), 0, "round %u: %s", round, errmsg_get());
		copy_close(c);
	}
	redo_builder_delete(b);
}
