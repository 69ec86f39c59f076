/* Pools whose structures are wrong under right checksums: what the fuzzer of whole pools (tests/fuzz/fuzz_image.c) found, each
 * with the least damage that shows it, and what the core does about it now. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "csum.h"
#include "errmsg.h"
#include "fs/tree.h"
#include "tests/support/core_rig.h"

#define POOL_BYTES MEDIA_POOL_BYTES_MIN
#define LIMIT 20

static struct core_rig rig;
static const struct fs_cred cred;

static void make_pool(void)
{
	core_rig_make(&rig, POOL_BYTES, MEDIA_RING_BYTES_MIN);
}

static void free_pool(void)
{
	core_rig_free(&rig);
}

TestSuite(hostile, .init = make_pool, .fini = free_pool, .timeout = LIMIT);

/* Both superblocks changed alike, and sealed. */
static void superblocks_change(void (*change)(struct media_sb_omf *sb))
{
	for (uint64_t blk = MEDIA_SB_A_BLK; blk <= MEDIA_SB_B_BLK; blk++) {
		struct media_sb_omf *sb = (struct media_sb_omf *)(rig.pm.base + media_off(blk));

		change(sb);
		sb->csum = le32_put(csum_crc32c(0, sb, offsetof(struct media_sb_omf, csum)));
	}
}

static void epoch_later(struct media_sb_omf *sb)
{
	sb->tail_epoch = le64_put(1ull << 40);
}

/* Every commit would have been refused, the first one when somebody waited for it already. */
Test(hostile, records_of_a_later_epoch_than_the_state_blocks_are_refused_at_once)
{
	core_rig_quiesce(&rig);
	superblocks_change(epoch_later);
	cr_expect_eq(core_rig_crash(&rig), -EUCLEAN);
	cr_expect(strstr(errmsg_get(), "epoch"), "%s", errmsg_get());
	copy_close(rig.copy);
	rig.copy = NULL;
}

/* It left a stream of the directory, whose size then stood in for the directory's own. */
Test(hostile, writing_to_a_directory_is_refused_and_leaves_nothing)
{
	size_t done = 0;
	uint64_t dir, ino;

	cr_assert_eq(CORE_RIG_TRY(&rig, fs_create(rig.fs, FS_ROOT_INO, "d", S_IFDIR | 0755, 0, &cred, &dir)), 0);
	cr_expect_eq(fs_write(rig.fs, dir, 0, "x", 1, &done), -EISDIR);
	cr_expect_eq(fs_truncate(rig.fs, dir, 0), -EISDIR);
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_create(rig.fs, dir, "f", S_IFREG | 0600, 0, &cred, &ino)), 0);
	cr_expect_eq(core_rig_sync(&rig, dir), 0, "the refused write is not a write that failed");
	core_rig_check(&rig);
}

/* The number may come to a file later. */
Test(hostile, writing_to_a_number_without_an_inode_is_forgotten)
{
	size_t done = 0;
	uint64_t ino;

	cr_expect_eq(fs_write(rig.fs, FS_ROOT_INO + 1, 0, "x", 1, &done), -ESTALE);
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_create(rig.fs, FS_ROOT_INO, "f", S_IFREG | 0600, 0, &cred, &ino)), 0);
	cr_assert_eq(ino, FS_ROOT_INO + 1);
	cr_expect_eq(core_rig_sync(&rig, ino), 0);
	core_rig_check(&rig);
}
