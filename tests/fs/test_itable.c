/* State block, inode table and orphan list over a block layer in memory. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "errmsg.h"
#include "tests/support/fake_block.h"

static struct fs *fs;

static void init(void)
{
	fs = fake_new(60000);
}

static void fini(void)
{
	fake_delete(fs);
}

TestSuite(itable, .init = init, .fini = fini, .timeout = 120);

static uint64_t create(uint32_t mode)
{
	struct fs_inode_omf inode;
	uint64_t ino;

	op_begin(fs);
	cr_assert_eq(inode_new(fs, mode, ALLOC_META, &ino, &inode), 0, "%s", errmsg_get());
	op_end(fs);
	return ino;
}

static int release(uint64_t ino)
{
	int err;

	op_begin(fs);
	err = inode_free(fs, ino);
	if (err)
		return op_abort(fs, err);
	op_end(fs);
	return 0;
}

static const struct fs_state_omf *state(void)
{
	const struct fs_state_omf *now;

	cr_assert_eq(state_get(fs, &now), 0, "%s", errmsg_get());
	return now;
}

Test(itable, first_inode_is_the_root)
{
	struct fs_inode_omf inode, want = { .mode = le32_put(S_IFDIR | 0755), .gen = le32_put(1) };

	cr_expect_eq(inode_get(fs, FS_ROOT_INO, &inode), -ESTALE);
	cr_expect_eq(create(S_IFDIR | 0755), FS_ROOT_INO);
	cr_assert_eq(inode_get(fs, FS_ROOT_INO, &inode), 0);
	cr_expect_arr_eq(&inode, &want, sizeof(want));
	cr_expect_eq(le64_get(state()->ino_count), 1);
	cr_expect_eq(inode_get(fs, 0, &inode), -ESTALE);
	cr_expect_eq(inode_get(fs, 2, &inode), -ESTALE);
	cr_expect_eq(inode_get(fs, UINT64_MAX, &inode), -ESTALE);
	cr_expect_eq(release(2), -ESTALE);
}

Test(itable, numbers_come_back_with_a_new_generation)
{
	struct fs_inode_omf inode;

	for (uint64_t ino = 1; ino <= 40; ino++)
		cr_assert_eq(create(S_IFREG), ino);
	cr_assert_eq(release(7), 0);
	cr_assert_eq(release(33), 0);
	cr_expect_eq(release(7), -ESTALE);
	cr_expect_eq(inode_get(fs, 7, &inode), -ESTALE);
	cr_expect_eq(le64_get(state()->ino_count), 38);
	cr_expect_eq(create(S_IFREG), 33);
	cr_expect_eq(create(S_IFREG), 7);
	cr_expect_eq(create(S_IFREG), 41);
	cr_assert_eq(inode_get(fs, 7, &inode), 0);
	cr_expect_eq(le32_get(inode.gen), 2);
	cr_expect_eq(inode.free_next.le, 0);
}

/* Past 16, 16 * 512 and 16 * 512 * 512 inodes a level more; the last by putting the counter forward is not possible
 * without its blocks, so the table really grows to 9000. */
Test(itable, grows_by_levels)
{
	struct fs_inode_omf inode;

	for (uint64_t ino = 1; ino <= 9000; ino++) {
		cr_assert_eq(create(S_IFREG | (ino & 0777)), ino);
		cr_assert_eq(le32_get(state()->itab_height), ino < 16 ? 0 : ino < 16 * 512 ? 1 : 2);
	}
	for (uint64_t ino = 1; ino <= 9000; ino++) {
		cr_assert_eq(inode_get(fs, ino, &inode), 0);
		cr_assert_eq(le32_get(inode.mode), S_IFREG | (ino & 0777));
	}
	cr_expect_eq(fake_counts(fs)->used_of[FS_ITAB_LEAF], 9000 / 16 + 1);
	cr_expect_eq(fake_counts(fs)->used_of[FS_ITAB_NODE], 3);
}

Test(itable, put_changes_the_lines_that_differ)
{
	struct fs_inode_omf inode;
	uint64_t ino = create(S_IFREG);

	cr_assert_eq(inode_get(fs, ino, &inode), 0);
	inode.size = le64_put(5);
	op_begin(fs);
	cr_assert_eq(inode_put(fs, ino, &inode), 0);
	op_end(fs);
	cr_expect_eq(fake_counts(fs)->op_lines, 1);
	cr_assert_eq(inode_get(fs, ino, &inode), 0);
	cr_expect_eq(le64_get(inode.size), 5);
}

/* Fields of an inode out of range, one at a time: refused as a whole. */
static const struct {
	uint32_t mode;
	unsigned off;
	uint64_t value;
} wrong_fields[] = {
	{ S_IFREG, 0, FS_FILE_BYTES_MAX + 1 },
	{ S_IFREG, 8, 60001 },
	{ S_IFREG, 32, 1000000000u },
	{ S_IFREG, 48, FS_HEIGHT_MAX + 1 },
	{ S_IFDIR, 48, FS_DIR_HEIGHT_MAX + 1 },
	{ S_IFREG, 48, 4ull << 32 },
	{ S_IFDIR, 56, 1ull << 40 },
	{ S_IFLNK, 0, 0 },
	{ S_IFLNK, 0, 65 },
	{ S_IFLNK, 0, 4096 },
	{ S_IFIFO, 40, 200 },
	{ S_IFREG, 64, 0644 },
};

Test(itable, inodes_out_of_range_are_refused)
{
	for (unsigned i = 0; i < sizeof(wrong_fields) / sizeof(wrong_fields[0]); i++) {
		uint64_t ino = create(wrong_fields[i].mode);
		struct fs_inode_omf inode;
		le64_t value = le64_put(wrong_fields[i].value);

		memset(&inode, 0, sizeof(inode));
		inode.mode = le32_put(wrong_fields[i].mode);
		memcpy((uint8_t *)&inode + wrong_fields[i].off, &value, sizeof(value));
		op_begin(fs);
		cr_assert_eq(inode_put(fs, ino, &inode), 0);
		op_end(fs);
		cr_expect_eq(inode_get(fs, ino, &inode), -EUCLEAN, "field %u", i);
	}
}

static const struct {
	unsigned off, len;
	uint64_t value;
} wrong_state[] = {
	{ 0, 1, 'X' },
	{ 8, 4, 2 },
	{ 12, 4, FS_HEIGHT_MAX + 1 },
	{ 12, 4, 0 },
	{ 16, 8, 0 },
	{ 16, 8, 3 },
	{ 16, 8, 1ull << 60 },
	{ 24, 8, 0 },
	{ 24, 8, 1 },
	{ 24, 8, FS_INO_MAX + 1 },
	{ 24, 8, 40 * 512 },
	{ 32, 8, 1000 },
	{ 40, 8, 1000 },
	{ 48, 8, 1000 },
	{ 132, 4, FS_MEMBERS_MAX + 1 },
};

Test(itable, damaged_state_is_refused)
{
	struct fs_inode_omf inode;

	for (unsigned i = 0; i < 100; i++)
		create(S_IFREG);
	for (unsigned i = 0; i < sizeof(wrong_state) / sizeof(wrong_state[0]); i++) {
		uint8_t *bytes = fake_content(fs, fs_root_blk(fs)), saved[8];
		le64_t value = le64_put(wrong_state[i].value);

		memcpy(saved, bytes + wrong_state[i].off, 8);
		memcpy(bytes + wrong_state[i].off, &value, wrong_state[i].len);
		cr_expect_eq(inode_get(fs, 5, &inode), -EUCLEAN, "field %u", i);
		memcpy(bytes + wrong_state[i].off, saved, 8);
	}
	cr_expect_eq(inode_get(fs, 5, &inode), 0);
}

Test(itable, a_free_list_through_used_inodes_is_refused)
{
	struct fs_state_omf changed;
	uint64_t digest, ino = create(S_IFREG);
	struct fs_inode_omf inode;

	changed = *state();
	changed.ino_free = le64_put(ino);
	op_begin(fs);
	cr_assert_eq(state_put(fs, &changed), 0);
	op_end(fs);
	digest = fake_digest(fs);
	op_begin(fs);
	cr_expect_eq(op_abort(fs, inode_new(fs, S_IFREG, ALLOC_META, &ino, &inode)), -EUCLEAN);
	cr_expect_eq(fake_digest(fs), digest);
}

/* 16 and 16 * 512 need the most: a leaf and new levels. */
Test(itable, undoes_whatever_call_fails)
{
	for (uint64_t ino = 1; ino < 16 * 512 + 2; ino++) {
		for (uint64_t nth = 1; ino == 1 || ino == 16 || ino == 32 || ino == 16 * 512; nth++) {
			uint64_t digest = fake_digest(fs), got;
			struct fs_inode_omf inode;
			int err;

			op_begin(fs);
			fake_fail(fs, FAKE_ANY, nth, -ENOSPC);
			err = inode_new(fs, S_IFREG, ALLOC_META, &got, &inode);
			op_abort(fs, 0);
			bool failed = fake_failed(fs);

			fake_fail(fs, 0, 0, 0);
			cr_assert_eq(fake_digest(fs), digest);
			cr_assert_eq(err, failed ? -ENOSPC : 0);
			if (!failed)
				break;
		}
		cr_assert_eq(create(S_IFREG), ino);
	}
}

/* ---------------------------------------------------------------- orphans */

static void orphan(uint64_t ino, bool add)
{
	struct fs_inode_omf inode;

	op_begin(fs);
	cr_assert_eq(inode_get(fs, ino, &inode), 0);
	cr_assert_eq(add ? orphan_add(fs, ino, &inode) : orphan_remove(fs, ino, &inode), 0, "%s", errmsg_get());
	cr_assert_eq(inode_put(fs, ino, &inode), 0);
	op_end(fs);
}

/* The list from its head, checked link by link. */
static unsigned list_len(void)
{
	uint64_t ino = le64_get(state()->orphan_head), prev = 0;
	struct fs_inode_omf inode;
	unsigned len = 0;

	for (; ino; len++) {
		cr_assert_eq(inode_get(fs, ino, &inode), 0);
		cr_assert_eq(le64_get(inode.orphan_prev), prev);
		cr_assert(le32_get(inode.flags) & FS_INODE_ORPHAN);
		prev = ino;
		ino = le64_get(inode.orphan_next);
	}
	return len;
}

Test(itable, orphans_leave_from_every_place)
{
	for (unsigned first = 1; first <= 3; first++) {
		for (uint64_t ino = 1; ino <= 3; ino++) {
			if (first == 1)
				create(S_IFREG);
			orphan(ino, true);
		}
		cr_expect_eq(list_len(), 3);
		for (unsigned i = 0; i < 3; i++) {
			orphan((first + i - 1) % 3 + 1, false);
			cr_expect_eq(list_len(), 2 - i);
		}
	}
}

/* Every call below fails once during each step; at the end nothing is left but the table. */
static void reclaim(uint64_t ino, unsigned want_steps)
{
	unsigned steps = 0;
	bool done = false;

	while (!done) {
		for (uint64_t nth = 1;; nth++) {
			uint64_t digest = nth % 16 == 1 ? fake_digest(fs) : 0;

			fake_fail(fs, FAKE_ANY, nth, -ENOMEM);
			int err = orphan_step(fs, ino, &done);
			bool failed = fake_failed(fs);

			fake_fail(fs, 0, 0, 0);
			if (!failed) {
				cr_assert_eq(err, 0, "%s", errmsg_get());
				break;
			}
			cr_assert_eq(err, -ENOMEM);
			if (digest)
				cr_assert_eq(fake_digest(fs), digest);
		}
		steps++;
	}
	cr_expect_eq(steps, want_steps);
}

Test(itable, orphans_are_reclaimed_in_steps)
{
	uint64_t file = create(S_IFREG), link = create(S_IFLNK), dir = create(S_IFDIR), fifo = create(S_IFIFO), used,
		 blk;
	static uint64_t ptrs[1200], olds[1200];
	struct fs_inode_omf inode;
	struct shadow *shadow;

	used = fake_counts(fs)->used;
	op_begin(fs);
	cr_assert_eq(inode_get(fs, file, &inode), 0);
	for (unsigned i = 0; i < 1200; i++)
		ptrs[i] = fake_data(fs);
	cr_assert_eq(map_set_run(fs, &inode, ALLOC_META, 70, 1200, ptrs, olds), 0);
	cr_assert_eq(inode_put(fs, file, &inode), 0);
	cr_assert_eq(inode_get(fs, dir, &inode), 0);
	cr_assert_eq(inode_put(fs, dir, &inode), 0);
	memset(&inode, 0, sizeof(inode));
	cr_assert_eq(block_new(fs, ALLOC_META, FS_SYMLINK, &blk, &shadow), 0);
	inode.mode = le32_put(S_IFLNK);
	inode.size = le64_put(100);
	inode.root = le64_put(blk);
	cr_assert_eq(inode_put(fs, link, &inode), 0);
	op_end(fs);
	for (uint64_t ino = file; ino <= fifo; ino++)
		orphan(ino, true);
	reclaim(dir, 1);
	reclaim(file, 3);
	reclaim(fifo, 1);
	reclaim(link, 1);
	cr_expect_eq(fake_counts(fs)->used, used);
	cr_expect_eq(le64_get(state()->ino_count), 0);
	cr_expect_eq(list_len(), 0);
	cr_expect_eq(fake_counts(fs)->misuse, 0);
}

Test(itable, a_broken_orphan_list_is_refused)
{
	struct fs_inode_omf inode;
	uint64_t digest;
	bool done;

	for (uint64_t ino = 1; ino <= 3; ino++) {
		create(S_IFREG);
		orphan(ino, true);
	}
	/* 3 <-> 2 <-> 1; 2 now claims to come from itself. */
	op_begin(fs);
	cr_assert_eq(inode_get(fs, 2, &inode), 0);
	inode.orphan_prev = le64_put(2);
	cr_assert_eq(inode_put(fs, 2, &inode), 0);
	op_end(fs);
	digest = fake_digest(fs);
	cr_expect_eq(orphan_step(fs, 2, &done), -EUCLEAN);
	cr_expect_eq(orphan_step(fs, 3, &done), -EUCLEAN);
	cr_expect_eq(orphan_step(fs, 4, &done), -ESTALE);
	cr_expect_eq(fake_digest(fs), digest);
}
