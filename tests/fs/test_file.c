/* Content of files: staging, linking, truncation, durability, against a plain byte array. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "errmsg.h"
#include "fs/alloc.h"
#include "fs/fs_impl.h"
#include "tests/support/core_rig.h"

#define MIB (1ull << 20)

static struct core_rig rig;
static uint64_t ino;
static const struct fs_cred root_cred;

static void make_file(void)
{
	int err = CORE_RIG_TRY(&rig, fs_create(rig.fs, FS_ROOT_INO, "f", S_IFREG | 0644, 0, &root_cred, &ino));

	cr_assert_eq(err, 0, "create: %d %s", err, errmsg_get());
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
}

static void setup(void)
{
	core_rig_make(&rig, 64 * MIB, 0);
	make_file();
}

static void setup_small_ring(void)
{
	core_rig_make(&rig, 32 * MIB, MEDIA_RING_BYTES_MIN);
	make_file();
}

static void teardown(void)
{
	core_rig_end(&rig);
}

TestSuite(file, .timeout = 120);

static void put(uint64_t off, const void *buf, size_t len)
{
	size_t done = 0;
	int err = CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, off, buf, len, &done));

	cr_assert_eq(err, 0, "write: %d %s", err, errmsg_get());
}

static void expect_content(const uint8_t *want, size_t len)
{
	uint8_t *buf = malloc(len + 1);
	size_t got;
	int err = fs_read(rig.fs, ino, 0, buf, len + 1, &got);

	cr_assert_eq(err, 0, "read: %d %s", err, errmsg_get());
	cr_assert_eq(got, len, "read %zu of %zu", got, len);
	for (size_t i = 0; i < len; i++)
		cr_assert_eq(buf[i], want[i], "byte %zu: %#x, expected %#x", i, buf[i], want[i]);
	free(buf);
}

Test(file, written_bytes_are_read_back, .init = setup, .fini = teardown)
{
	put(0, "hello", 5);
	expect_content((const uint8_t *)"hello", 5);
	put(5, " world", 6);
	expect_content((const uint8_t *)"hello world", 11);
}

Test(file, synced_content_survives_a_crash_and_unsynced_does_not, .init = setup, .fini = teardown)
{
	put(0, "durable", 7);
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	put(0, "lost!!!", 7);
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	expect_content((const uint8_t *)"durable", 7);
}

Test(file, sync_of_one_file_leaves_the_other_unlinked, .init = setup, .fini = teardown)
{
	uint64_t other, size_before;
	uint8_t block[4096] = { 7 };
	struct stat st;

	cr_assert_eq(fs_create(rig.fs, FS_ROOT_INO, "g", S_IFREG | 0644, 0, &root_cred, &other), 0);
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	size_before = copy_ring_used(rig.copy);
	for (unsigned i = 0; i < 256; i++) {
		size_t done = 0;

		cr_assert_eq(fs_write(rig.fs, other, i * 4096ull, block, sizeof(block), &done), 0);
	}
	put(0, "x", 1);
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	cr_expect_leq(copy_ring_used(rig.copy) - size_before, 1024u, "the other file's stream was dragged along");
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	cr_assert_eq(fs_getattr(rig.fs, other, &st, NULL), 0);
	cr_expect_eq(st.st_size, 0);
	expect_content((const uint8_t *)"x", 1);
}

Test(file, eight_bytes_cost_one_line_and_a_little, .init = setup, .fini = teardown)
{
	uint8_t block[4096];
	uint64_t before;

	memset(block, 1, sizeof(block));
	put(0, block, sizeof(block));
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	before = copy_ring_used(rig.copy);
	block[2048] = 9;
	put(0, block, sizeof(block));
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	cr_expect_leq(copy_ring_used(rig.copy) - before, 640u, "%zu bytes", (size_t)(copy_ring_used(rig.copy) - before));
	expect_content(block, sizeof(block));
}

Test(file, truncated_tail_reads_as_zeros_after_growing, .init = setup, .fini = teardown)
{
	uint8_t want[10000] = { 0 }, fill[10000];

	memset(fill, 0xee, sizeof(fill));
	put(0, fill, sizeof(fill));
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_truncate(rig.fs, ino, 100)), 0);
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_truncate(rig.fs, ino, sizeof(want))), 0);
	memset(want, 0xee, 100);
	expect_content(want, sizeof(want));
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	expect_content(want, sizeof(want));
}

Test(file, large_truncation_is_reclaimed_in_steps, .init = setup, .fini = teardown)
{
	uint64_t free_before = alloc_free_blks(rig.fs);
	uint8_t *big = calloc(1, 8 * MIB);

	memset(big, 3, 8 * MIB);
	for (unsigned i = 0; i < 8; i++)
		put(i * MIB, big + i * MIB, MIB);
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_truncate(rig.fs, ino, 5)), 0);
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	core_rig_quiesce(&rig);
	cr_expect_geq(alloc_free_blks(rig.fs) + 8, free_before, "free %zu, before %zu", (size_t)alloc_free_blks(rig.fs),
		      (size_t)free_before);
	expect_content(big, 5);
	free(big);
}

static void setup_groups(void)
{
	core_rig_make(&rig, 400 * MIB, 0); /* three groups and a bit */
	make_file();
}

/* Overwriting goes round in the groups that are in use, also when it leaves one at its very end. */
Test(file, groups_emptied_by_overwriting_come_before_unused_ones, .init = setup_groups, .fini = teardown)
{
	uint8_t *bytes = malloc(MIB);

	for (unsigned round = 0; round < 5; round++) {
		for (unsigned i = 0; i < 100; i++) {
			memset(bytes, (int)(round + i), MIB);
			put(i * MIB, bytes, MIB);
			if (i % 25 == 24)
				cr_assert_eq(core_rig_sync(&rig, ino), 0);
		}
	}
	cr_expect_null(rig.fs->alloc.groups[2].used, "100 MiB and what is not free again fit two groups");
	free(bytes);
}

Test(file, unlinked_open_file_lives_until_closed, .init = setup, .fini = teardown)
{
	struct stat st;

	put(0, "still here", 10);
	cr_assert_eq(fs_unlink(rig.fs, FS_ROOT_INO, "f"), 0);
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	core_rig_quiesce(&rig);
	expect_content((const uint8_t *)"still here", 10);
	fs_released(rig.fs, ino);
	core_rig_quiesce(&rig);
	cr_expect_eq(fs_getattr(rig.fs, ino, &st, NULL), -ESTALE);
}

/* Who serves requests asks after each whether an idle moment is worth waiting for: not after reading, nor after changes that
 * leave nothing behind. */
Test(file, idle_work_is_wanted_only_when_there_is_some, .init = setup, .fini = teardown)
{
	uint8_t buf[4096] = { 1 };
	size_t got;

	cr_expect_not(fs_idle_wanted(rig.fs));
	put(0, buf, sizeof(buf));
	cr_assert_eq(fs_read(rig.fs, ino, 0, buf, sizeof(buf), &got), 0);
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	cr_expect_not(fs_idle_wanted(rig.fs));
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_unlink(rig.fs, FS_ROOT_INO, "f")), 0);
	cr_expect_not(fs_idle_wanted(rig.fs), "it is open");
	fs_released(rig.fs, ino);
	cr_expect(fs_idle_wanted(rig.fs), "an orphan");
	while (fs_idle(rig.fs) || fs_poll(rig.fs))
		;
	cr_expect_not(fs_idle_wanted(rig.fs));
	make_file();
	for (unsigned i = 0; i < 100000 && !fs_idle_wanted(rig.fs); i++) {
		buf[0]++;
		put(0, buf, sizeof(buf));
		cr_assert_eq(core_rig_sync(&rig, ino), 0);
	}
	cr_expect(fs_idle_wanted(rig.fs), "a ring that fills");
}

Test(file, unlinked_open_file_is_reclaimed_after_a_crash, .init = setup, .fini = teardown)
{
	struct stat st;

	put(0, "gone soon", 9);
	cr_assert_eq(fs_unlink(rig.fs, FS_ROOT_INO, "f"), 0);
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	core_rig_quiesce(&rig);
	cr_expect_eq(fs_getattr(rig.fs, ino, &st, NULL), -ESTALE);
}

/* A full pool: new space is refused, overwriting what is there is not, deleting works. */
Test(file, full_pool_overwrites_and_deletes, .init = setup_small_ring, .fini = teardown)
{
	uint8_t *block = malloc(65536);
	uint64_t off = 0;
	int err;

	memset(block, 0x42, 65536);
	do {
		size_t done = 0;

		err = CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, off, block, 65536, &done));
		off += 65536;
	} while (err == 0);
	cr_assert_eq(err, -ENOSPC, "%d %s", err, errmsg_get());
	cr_expect_eq(core_rig_sync(&rig, ino), -ENOSPC, "the failed write is told");
	fs_released(rig.fs, ino);
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	cr_assert_eq(core_rig_sync(&rig, ino), 0, "%s", errmsg_get());
	memset(block, 0x43, 65536);
	for (unsigned round = 0; round < 3; round++)
		for (uint64_t at = 0; at < 4 * MIB; at += 65536)
			put(at, block, 65536);
	cr_assert_eq(core_rig_sync(&rig, ino), 0, "%s", errmsg_get());
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_unlink(rig.fs, FS_ROOT_INO, "f")), 0);
	fs_released(rig.fs, ino);
	core_rig_quiesce(&rig);
	make_file();
	put(0, block, 65536);
	free(block);
}

/* The failed write is told by every fsync until it is made good, and keeps nobody from overwriting what is there. */
Test(file, overwrites_go_on_behind_a_write_that_failed, .init = setup_small_ring, .fini = teardown)
{
	uint8_t *block = malloc(65536);
	uint64_t off = 0;
	size_t done;
	int err;

	memset(block, 0x42, 65536);
	do {
		done = 0;
		err = CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, off, block, 65536, &done));
		off += 65536;
	} while (err == 0);
	cr_assert_eq(err, -ENOSPC, "%d %s", err, errmsg_get());
	memset(block, 0x43, 65536);
	for (uint64_t at = 0; at < 4 * MIB; at += 65536)
		put(at, block, 65536);
	cr_expect_eq(core_rig_sync(&rig, ino), -ENOSPC, "the failed write is told");
	free(block);
}

Test(file, seek_finds_data_and_holes, .init = setup, .fini = teardown)
{
	uint64_t at;

	put(5 * 4096, "x", 1);
	cr_assert_eq(fs_seek(rig.fs, ino, 0, SEEK_DATA, &at), 0);
	cr_expect_eq(at, 5 * 4096);
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	cr_assert_eq(fs_seek(rig.fs, ino, 0, SEEK_DATA, &at), 0);
	cr_expect_eq(at, 5 * 4096);
	cr_assert_eq(fs_seek(rig.fs, ino, 5 * 4096, SEEK_HOLE, &at), 0);
	cr_expect_eq(at, 5 * 4096 + 1);
	cr_expect_eq(fs_seek(rig.fs, ino, 5 * 4096 + 1, SEEK_DATA, &at), -ENXIO);
}

/* ---------------------------------------------------------------- reading in pieces */

#define BLK MEDIA_BLOCK_BYTES

static struct iovec pieces[FS_READ_PIECES(MIB)];
static unsigned piece_count;

static int read_pieces(uint64_t off, size_t len, size_t *got)
{
	cr_assert_leq(len, MIB);
	return fs_read_pieces(rig.fs, ino, off, len, pieces, &piece_count, got);
}

/* Both ways of reading give the bytes of want, a file of size bytes, for any range. */
static void expect_range(const uint8_t *want, size_t size, uint64_t off, size_t len)
{
	size_t expected = off >= size ? 0 : len < size - off ? len : size - off, got, at = 0;
	uint8_t *buf = malloc(len + 1);

	cr_assert_eq(read_pieces(off, len, &got), 0, "%s", errmsg_get());
	cr_assert_eq(got, expected, "%zu bytes at %zu: %zu", len, (size_t)off, got);
	cr_assert_leq(piece_count, FS_READ_PIECES(len));
	for (unsigned i = 0; i < piece_count; i++) {
		cr_assert_leq(at + pieces[i].iov_len, expected);
		cr_assert_eq(memcmp(pieces[i].iov_base, want + off + at, pieces[i].iov_len), 0, "piece %u at %zu", i, at);
		at += pieces[i].iov_len;
	}
	cr_assert_eq(at, expected);
	cr_assert_eq(fs_read(rig.fs, ino, off, buf, len, &got), 0, "%s", errmsg_get());
	cr_assert_eq(got, expected);
	cr_assert_eq(memcmp(buf, want + off, expected), 0, "%zu bytes at %zu", len, (size_t)off);
	free(buf);
}

#define MIX_BLKS 200u
#define MIX_BYTES (MIX_BLKS * BLK - 1000u)

/* A file of every kind of block: committed, whole and by lines, staged anew and as an image, holes. */
static uint8_t *make_mixed(void)
{
	uint8_t *want = calloc(1, MIX_BLKS * BLK), block[BLK];
	const uint32_t few = 0xfe3f1e1d;

	cr_assert(want);
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_truncate(rig.fs, ino, MIX_BYTES)), 0);
	for (unsigned i = 0; i < MIX_BLKS - 1; i++) {
		if (i == MIX_BLKS / 2)
			cr_assert_eq(core_rig_sync(&rig, ino), 0);
		if (i % 5 == 1)
			continue; /* a hole */
		memset(block, (int)(1 + i % 255), BLK);
		put(i * BLK, block, BLK);
		memcpy(want + i * BLK, block, BLK);
	}
	for (unsigned i = 0; i < MIX_BLKS - 1; i += 3) { /* few lines of some */
		put(i * BLK + 100, &few, sizeof(few));
		memcpy(want + i * BLK + 100, &few, sizeof(few));
	}
	return want;
}

Test(file, any_range_reads_alike_in_pieces_and_copied, .init = setup, .fini = teardown)
{
	static const size_t lens[] = { 0, 1, 2, 4095, 4096, 4097, 8191, 8192, 8193, 62 * 4096 - 1, 62 * 4096,
				       62 * 4096 + 1, 64 * 4096, 65 * 4096, 130 * 4096 + 5, MIB };
	static const uint64_t offs[] = { 0, 1, 63, 100, 4095, 4096, 4097, 3 * 4096, 62 * 4096, 64 * 4096 - 1, 100 * 4096 + 7,
					 MIX_BYTES - 4097, MIX_BYTES - 1, MIX_BYTES, MIX_BYTES + 1, MIX_BYTES + MIB };
	uint8_t *want = make_mixed();

	for (unsigned round = 0; round < 3; round++) { /* half staged; committed; in place after a crash */
		for (unsigned o = 0; o < sizeof(offs) / sizeof(offs[0]); o++)
			for (unsigned l = 0; l < sizeof(lens) / sizeof(lens[0]); l++)
				expect_range(want, MIX_BYTES, offs[o], lens[l]);
		cr_assert_eq(core_rig_sync(&rig, ino), 0, "%s", errmsg_get());
		if (round == 1)
			cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	}
	free(want);
}

Test(file, file_written_in_one_go_reads_as_few_pieces, .init = setup, .fini = teardown)
{
	uint8_t *buf = malloc(MIB);
	size_t got;

	memset(buf, 6, MIB);
	put(0, buf, MIB);
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	cr_assert_eq(read_pieces(0, MIB, &got), 0);
	cr_expect_eq(got, MIB);
	cr_expect_leq(piece_count, 4u, "%u pieces of 256 blocks", piece_count);
	free(buf);
}

/* Flips a byte of a block where it lies. */
static void damage_block(uint64_t off)
{
	size_t got;

	cr_assert_eq(read_pieces(off, BLK, &got), 0, "%s", errmsg_get());
	cr_assert_eq(piece_count, 1);
	((uint8_t *)pieces[0].iov_base)[77] ^= 1;
}

static void expect_damaged(uint64_t off, size_t len)
{
	uint8_t *buf = malloc(len);
	size_t got = 12345;

	piece_count = 54321;
	cr_expect_eq(read_pieces(off, len, &got), -EIO);
	cr_expect_eq(fs_read(rig.fs, ino, off, buf, len, &got), -EIO);
	cr_expect_eq(got, 12345, "nothing is given out");
	cr_expect_eq(piece_count, 54321);
	free(buf);
}

/* Whether a block is staged, linked and not yet settled in place, or in place: damage is told, and only there. */
Test(file, damaged_block_is_refused_and_its_neighbours_are_read, .init = setup, .fini = teardown)
{
	uint8_t *buf = malloc(4 * BLK), *other = malloc(4 * BLK);
	size_t got;

	memset(buf, 9, 4 * BLK);
	for (unsigned round = 0; round < 3; round++) {
		put(0, buf, 4 * BLK);
		if (round > 0)
			cr_assert_eq(core_rig_sync(&rig, ino), 0);
		if (round > 1)
			cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
		damage_block(2 * BLK);
		expect_damaged(2 * BLK, BLK);
		expect_damaged(2 * BLK + 4095, 1);
		expect_damaged(0, 4 * BLK);
		cr_expect_eq(read_pieces(0, 2 * BLK, &got), 0);
		cr_expect_eq(got, 2 * BLK);
		cr_expect_eq(read_pieces(3 * BLK, BLK, &got), 0);
		cr_assert_eq(fs_read(rig.fs, ino, 0, other, 2 * BLK, &got), 0);
		cr_expect_eq(memcmp(other, buf, 2 * BLK), 0);
		cr_assert_eq(CORE_RIG_TRY(&rig, fs_truncate(rig.fs, ino, 0)), 0); /* gets rid of it */
		cr_assert_eq(core_rig_sync(&rig, ino), 0);
		buf[0]++;
	}
	free(buf);
	free(other);
}

/* A few bytes over a damaged block, by a short write and as the edge of a long one: refused, and the damage stays visible
 * instead of getting a checksum of its own. A write that covers the block makes it good. */
Test(file, damage_is_not_sealed_by_a_write_beside_it, .init = setup, .fini = teardown)
{
	uint8_t *buf = malloc(20 * BLK), *other = malloc(20 * BLK);
	size_t got, len = 0;

	for (unsigned round = 0; round < 6; round++) {
		size_t done = 0;

		memset(buf, 9 + (int)round, 20 * BLK);
		put(0, buf, 20 * BLK);
		if (round > 1)
			cr_assert_eq(core_rig_sync(&rig, ino), 0);
		if (round > 3)
			cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
		damage_block(2 * BLK);
		len = round % 2 ? 16 * BLK : 100;
		memset(other, 77, len);
		cr_expect_eq(CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, 2 * BLK + 500, other, len, &done)), -EIO, "round %u",
			round);
		expect_damaged(2 * BLK, BLK);
		expect_damaged(2 * BLK + 4095, 1);
		put(2 * BLK, buf, BLK + 500 + len); /* also what the failed write was to hold */
		cr_assert_eq(core_rig_sync(&rig, ino), 0);
		cr_assert_eq(fs_read(rig.fs, ino, 0, other, 20 * BLK, &got), 0);
		cr_expect_eq(memcmp(other, buf, 20 * BLK), 0, "round %u", round);
	}
	free(buf);
	free(other);
}

#define FAR_NODES 600u
#define FAR_STEP (FS_NODE_PTRS * (uint64_t)BLK)

/* Nodes of a map that are read again and again are kept in memory: not ever more of them, and a commit changes them like
 * any other. */
Test(file, nodes_read_again_are_kept_until_they_are_many, .init = setup, .fini = teardown)
{
	unsigned most = 0;
	uint8_t byte;
	size_t got;

	for (unsigned i = 0; i < FAR_NODES; i++)
		put(i * FAR_STEP, &(uint8_t){ (uint8_t)i }, 1);
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	core_rig_quiesce(&rig);
	cr_assert_eq(rig.fs->kept, 0, "a checkpoint forgets them");
	for (unsigned i = 0; i < 2 * FAR_NODES; i++) { /* each twice on end */
		cr_assert_eq(fs_read(rig.fs, ino, i / 2 * FAR_STEP, &byte, 1, &got), 0, "%s", errmsg_get());
		cr_expect_eq(byte, (uint8_t)(i / 2));
		most = rig.fs->kept > most ? rig.fs->kept : most;
	}
	cr_expect_gt(most, 0);
	cr_expect_lt(most, FAR_NODES);
	fs_poll(rig.fs);
	cr_expect_eq(rig.fs->kept, 0);
	for (unsigned i = 0; i < FAR_NODES; i++) {
		cr_assert_eq(fs_read(rig.fs, ino, i * FAR_STEP, &byte, 1, &got), 0);
		put(i * FAR_STEP, &(uint8_t){ (uint8_t)(i + 1) }, 1);
		cr_assert_eq(core_rig_sync(&rig, ino), 0);
	}
	cr_assert_eq(core_rig_crash(&rig), 0);
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	for (unsigned i = 0; i < FAR_NODES; i++) {
		cr_assert_eq(fs_read(rig.fs, ino, i * FAR_STEP, &byte, 1, &got), 0);
		cr_expect_eq(byte, (uint8_t)(i + 1), "byte %u", i);
	}
}

Test(file, only_regular_files_are_read, .init = setup, .fini = teardown)
{
	uint8_t byte;
	size_t got;

	cr_expect_eq(fs_read(rig.fs, FS_ROOT_INO, 0, &byte, 1, &got), -EISDIR);
	cr_expect_eq(fs_read(rig.fs, 4711, 0, &byte, 1, &got), -ESTALE);
}

/* ---------------------------------------------------------------- random, against a byte array */

#define MODEL_BYTES (3 * MIB)
struct model {
	uint8_t *now, *synced;
	size_t size, synced_size;
};

static void model_write(struct model *m, size_t off, size_t len, unsigned seed)
{
	uint8_t *buf = malloc(len);

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(seed + i / 64);
	put(off, buf, len);
	memcpy(m->now + off, buf, len);
	if (off + len > m->size)
		m->size = off + len;
	free(buf);
}

static void model_truncate(struct model *m, size_t size)
{
	int err = CORE_RIG_TRY(&rig, fs_truncate(rig.fs, ino, size));

	cr_assert_eq(err, 0, "truncate: %d %s", err, errmsg_get());
	if (size < m->size)
		memset(m->now + size, 0, m->size - size);
	m->size = size;
}

static void model_sync(struct model *m)
{
	int err = core_rig_sync(&rig, ino);

	cr_assert_eq(err, 0, "sync: %d %s", err, errmsg_get());
	memcpy(m->synced, m->now, MODEL_BYTES);
	m->synced_size = m->size;
}

static void model_crash(struct model *m)
{
	int err;

	model_sync(m);
	err = core_rig_crash(&rig);
	cr_assert_eq(err, 0, "crash: %d %s", err, errmsg_get());
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	expect_content(m->synced, m->synced_size);
}

static void random_run(unsigned seed, unsigned steps)
{
	struct model m = { calloc(1, MODEL_BYTES), calloc(1, MODEL_BYTES), 0, 0 };

	srandom(seed);
	for (unsigned i = 0; i < steps; i++) {
		unsigned what = (unsigned)random() % 100;
		size_t off = (size_t)random() % (MODEL_BYTES / 2), len = 1 + (size_t)random() % 300;

		if (what < 40)
			model_write(&m, off, len, i);
		else if (what < 60)
			model_write(&m, off & ~4095ull, 4096, i);
		else if (what < 70)
			model_write(&m, off, 1 + (size_t)random() % MIB, i);
		else if (what < 80)
			model_truncate(&m, (size_t)random() % MODEL_BYTES);
		else if (what < 95)
			model_sync(&m);
		else if (what < 98)
			expect_content(m.now, m.size);
		else
			model_crash(&m);
	}
	expect_content(m.now, m.size);
	free(m.now);
	free(m.synced);
}

Test(file, random_operations_match_a_byte_array, .init = setup, .fini = teardown)
{
	random_run(1, 1500);
}

Test(file, random_operations_on_a_small_ring, .init = setup_small_ring, .fini = teardown)
{
	random_run(2, 1500);
}

#define SPARSE_POOL (640 * MIB)

static uint64_t space_limit; /* no space behind pool bytes from here on */
static unsigned space_asked;

static int limited_populate(struct pm *pm, uint64_t off, uint64_t len)
{
	cr_assert_leq(off + len, pm->len);
	space_asked++;
	return off + len > space_limit ? errmsg_set(-ENOSPC, "allocate: no space") : 0;
}

static void setup_sparse(void)
{
	core_rig_make(&rig, SPARSE_POOL, 0);
	rig.pm.populate = limited_populate;
	space_limit = 300 * MIB; /* journal and two groups */
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	make_file();
}

/* A full file system below a sparse pool: ENOSPC where SIGBUS would come, what was acknowledged stays, deleting works, and
 * space that comes back is used. */
Test(file, sparse_pool_without_space_behind_it_is_full, .init = setup_sparse, .fini = teardown)
{
	size_t chunk = 1 * MIB, written = 0, done = 0;
	uint8_t *buf = malloc(chunk);
	unsigned asked;
	int err = 0;

#ifdef __SANITIZE_THREAD__
	cr_skip_test("one thread and 600 MiB of writes: minutes under ThreadSanitizer");
#endif
	cr_assert(buf);
	memset(buf, 0x5a, chunk);
	while (!err && written < SPARSE_POOL) {
		done = 0;
		err = CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, written, buf, chunk, &done));
		written += err ? 0 : chunk;
	}
	cr_assert_eq(err, -ENOSPC, "%d %s", err, errmsg_get());
	cr_expect_geq(written, 240 * MIB, "only %zu MiB went in", written / (size_t)MIB);
	cr_expect_lt(written, space_limit);
	asked = space_asked;
	for (unsigned i = 0; i < 100; i++) {
		done = 0;
		cr_expect_eq(CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, written, buf, chunk, &done)), -ENOSPC);
	}
	cr_expect_leq(space_asked, asked + 2, "asked %u times more", space_asked - asked);
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_truncate(rig.fs, ino, chunk)), 0);
	put(0, buf, chunk);
	cr_expect_eq(core_rig_sync(&rig, ino), -ENOSPC, "failed writes are told until the file is closed");
	fs_released(rig.fs, ino);
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	cr_expect_eq(core_rig_sync(&rig, ino), 0, "%s", errmsg_get());
	core_rig_quiesce(&rig); /* what was cut off is reclaimed */
	space_limit = UINT64_MAX;
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	for (written = chunk; written < 400 * MIB; written += chunk)
		put(written, buf, chunk);
	free(buf);
}
