/* Corners of the core found by reading it against its contract: what waits for ever, what a crowded commit does to an
 * operation, what comes between an unlink and its reclaiming. */
#include "tests/support/peer_rig.h"

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
