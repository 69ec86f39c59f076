/* Reopening while a copy that lacks records holds the ring: they are taken over, not applied. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "fs/alloc.h"
#include "tests/support/core_rig.h"

#define MIB (1ull << 20)
#define FILES 4u
#define FILE_BYTES (512u << 10)

static struct core_rig rig;
static uint64_t held = UINT64_MAX; /* what the absent copy has */

static uint64_t all(void *ctx)
{
	(void)ctx;
	return UINT64_MAX;
}

static uint64_t held_seq(void *ctx)
{
	(void)ctx;
	return held;
}

static void post_nothing(void *ctx, const struct repl_commit *commit)
{
	(void)ctx;
	(void)commit;
}

static void checkpointed(void *ctx, uint64_t seq)
{
	(void)ctx;
	(void)seq;
}

static const struct fs_repl_ops absent_copy = {
	.post = post_nothing,
	.durable = all,
	.ackable = all,
	.min_acked = held_seq,
	.min_tail = held_seq,
	.checkpointed = checkpointed,
};

static void setup(void)
{
	core_rig_make(&rig, 64 * MIB, 0);
	rig.cfg.repl = &absent_copy;
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
}

static void reopen(void)
{
	int err = core_rig_crash(&rig);

	cr_assert_eq(err, 0, "reopen: %d %s", err, errmsg_get());
}

static uint64_t make(const char *name)
{
	static const struct fs_cred cred;
	uint64_t ino;
	int err = CORE_RIG_TRY(&rig, fs_create(rig.fs, FS_ROOT_INO, name, S_IFREG | 0600, 0, &cred, &ino));

	cr_assert_eq(err, 0, "create: %d %s", err, errmsg_get());
	return ino;
}

static void put(uint64_t ino, uint64_t off, const void *buf, size_t len)
{
	size_t done = 0;
	int err;

	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	err = CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, off, buf, len, &done));
	cr_assert_eq(err, 0, "write: %d %s", err, errmsg_get());
	cr_assert_eq(core_rig_sync(&rig, ino), 0, "%s", errmsg_get());
	fs_released(rig.fs, ino);
}

static void expect(uint64_t ino, const uint8_t *want, size_t len)
{
	uint8_t *buf = malloc(len + 1);
	size_t got;
	int err = fs_read(rig.fs, ino, 0, buf, len + 1, &got);

	cr_assert_eq(err, 0, "read: %d %s", err, errmsg_get());
	cr_assert_eq(got, len);
	cr_assert_eq(memcmp(buf, want, len), 0);
	free(buf);
}

static void check_media(void)
{
	held = UINT64_MAX;
	core_rig_end(&rig);
}

TestSuite(recover, .init = setup, .timeout = 120);

Test(recover, held_records_stay_in_the_ring)
{
	uint64_t ino = make("f"), tail, free_before;

	put(ino, 0, "first", 5);
	held = fs_committed_seq(rig.fs);
	tail = held;
	put(ino, 0, "second", 6);
	reopen();
	cr_expect_eq(copy_tail(rig.copy).seq, tail);
	cr_expect_neq(copy_find(rig.copy, tail + 1), NULL);
	expect(ino, (const uint8_t *)"second", 6);
	free_before = alloc_free_blks(rig.fs);
	put(ino, 0, "third", 5);
	reopen();
	expect(ino, (const uint8_t *)"thirdd", 6);
	cr_expect_eq(alloc_free_blks(rig.fs), free_before);
	check_media();
}

/* Random work, crash and reopen again and again while the hold advances now and then: content, space and format stay right. */
Test(recover, random_work_across_reopens)
{
	static uint8_t want[FILES][FILE_BYTES], buf[FILE_BYTES];
	uint64_t ino[FILES];
	size_t size[FILES] = { 0 };

	srandom(7);
	for (unsigned f = 0; f < FILES; f++)
		ino[f] = make((const char[]){ (char)('a' + f), 0 });
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	for (unsigned step = 0; step < 400; step++) {
		unsigned f = (unsigned)random() % FILES, what = (unsigned)random() % 100;
		size_t off = (size_t)random() % (FILE_BYTES / 2), len = 1 + (size_t)random() % (what < 50 ? 200 : 60000);

		if (what < 80) {
			for (size_t i = 0; i < len; i++)
				buf[i] = (uint8_t)(step + i / 97);
			put(ino[f], off, buf, len);
			memcpy(want[f] + off, buf, len);
			if (off + len > size[f])
				size[f] = off + len;
		} else if (what < 88) {
			cr_assert_eq(CORE_RIG_TRY(&rig, fs_truncate(rig.fs, ino[f], off)), 0);
			cr_assert_eq(core_rig_sync(&rig, ino[f]), 0);
			memset(want[f] + off, 0, FILE_BYTES - off);
			size[f] = off;
		} else if (what < 94) {
			held = fs_committed_seq(rig.fs);
		} else {
			reopen();
			for (unsigned k = 0; k < FILES; k++)
				expect(ino[k], want[k], size[k]);
		}
		if (copy_ring_used(rig.copy) > copy_geom(rig.copy)->ring_bytes / 2)
			held = fs_committed_seq(rig.fs);
	}
	reopen();
	for (unsigned k = 0; k < FILES; k++)
		expect(ino[k], want[k], size[k]);
	check_media();
}

/* First word of a block's entry as a checkpoint of the records in the ring leaves it when it is cut off behind it. */
static void tear_entry(uint64_t blk, uint64_t seq, uint32_t type)
{
	struct media_entry_omf *entry = (void *)(rig.pm.base + media_entry_off(copy_geom(rig.copy), blk));

	entry->seq_type = le64_put(seq << 8 | type);
}

static void tear_summary(uint64_t group)
{
	struct media_summary_omf *summary =
		(void *)(rig.pm.base + media_off(media_group_blk(copy_geom(rig.copy), group)));

	summary->check = le32_put(le32_get(summary->check) ^ 1);
}

/* A power failure tore table entries in the middle of a checkpoint, and the next mount may not do it again, since a copy that
 * is away lacks the records: they say what the entries are. Found by the explorer. */
Test(recover, mounts_over_entries_torn_by_a_checkpoint_while_a_copy_is_away)
{
	uint64_t ino = make("f"), root = fs_root_blk(rig.fs), seq;
	struct copy_entry entry;
	uint8_t bytes[5000];

	cr_assert_eq(core_rig_sync_all(&rig), 0);
	cr_assert_eq(fs_checkpoint(rig.fs), 0);
	held = copy_tail(rig.copy).seq;
	memset(bytes, 0x77, sizeof(bytes));
	put(ino, 0, bytes, sizeof(bytes));
	seq = copy_head(rig.copy).seq;
	cr_assert_gt(seq, held);
	cr_assert_eq(fs_truncate(rig.fs, ino, 100), 0); /* lines, links and frees are in the ring */
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	for (uint64_t blk = root; blk < root + 64; blk++) {
		if (copy_entry_get_torn(rig.copy, blk, &entry) == 0)
			tear_entry(blk, seq, entry.type ? entry.type : MEDIA_DATA);
	}
	reopen();
	expect(ino, bytes, 100);
	check_media();
}

/* A record with lines of a block says that it is in use: an entry that says it is free is damage, not the old or the new one,
 * and the block is not given out again. */
Test(recover, damaged_entry_of_a_changed_block_is_not_a_free_one)
{
	uint64_t ino = make("f"), root = fs_root_blk(rig.fs);
	struct copy_entry entry;
	uint32_t types = 0;

	cr_assert_eq(core_rig_sync_all(&rig), 0);
	cr_assert_eq(fs_checkpoint(rig.fs), 0);
	held = copy_tail(rig.copy).seq;
	put(ino, 0, "changed", 7);
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	for (uint64_t blk = root; blk < root + 64; blk++) {
		if (copy_entry_get_torn(rig.copy, blk, &entry) || !entry.type || entry.type <= MEDIA_DATA_LAST)
			continue;
		types++;
		tear_entry(blk, 0, MEDIA_FREE);
		cr_expect_eq(copy_entry_get_torn(rig.copy, blk, &entry), 0);
		cr_expect_neq(entry.type, MEDIA_FREE, "block %#llx", (unsigned long long)blk);
	}
	cr_expect_gt(types, 0);
	reopen();
	for (unsigned i = 0; i < 20; i++)
		put(make((const char[]){ (char)('A' + i), 0 }), 0, "new", 3);
	expect(ino, (const uint8_t *)"changed", 7);
	check_media();
}

/* A summary may be torn only while records wait in the ring. */
Test(recover, damaged_summary_is_not_counted_from)
{
	uint64_t seq;
	uint32_t used;

	cr_assert_eq(core_rig_sync_all(&rig), 0);
	cr_assert_eq(fs_checkpoint(rig.fs), 0);
	tear_summary(0);
	cr_expect_eq(copy_summary_get_torn(rig.copy, 0, &seq, &used), -EBADMSG, "nothing was cut off");
	tear_summary(0);
	check_media();
}

/* Lines alone change the summary of their group, too (its table's checksum), and no group is loaded for them at a mount: it
 * is when a block of it is wanted. */
Test(recover, torn_summary_behind_lines_alone_is_no_damage)
{
	uint64_t ino = make("f");

	put(ino, 0, "before", 6);
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	cr_assert_eq(fs_checkpoint(rig.fs), 0);
	held = copy_tail(rig.copy).seq;
	put(ino, 0, "after!", 6);
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	tear_summary(0);
	reopen();
	put(make("g"), 0, "new", 3);
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	expect(ino, (const uint8_t *)"after!", 6);
	tear_summary(0);
	check_media();
}

/* A block of the table of group 0, all of whose entries are of data, reads as zeros: "free", which needs no check. */
static void lose_table_block(void)
{
	uint64_t first = copy_geom(rig.copy)->group0_blk, data = 0, at = 1;
	struct copy_entry entry;

	for (; at < MEDIA_TABLE_BLKS && data < MEDIA_ENTRIES_PER_BLOCK; at++) {
		data = 0;
		for (uint64_t blk = first + at * MEDIA_ENTRIES_PER_BLOCK; blk < first + (at + 1) * MEDIA_ENTRIES_PER_BLOCK; blk++)
			data += !copy_entry_get(rig.copy, blk, &entry) && entry.type == MEDIA_DATA;
	}
	cr_assert_eq(data, MEDIA_ENTRIES_PER_BLOCK);
	memset(rig.pm.base + media_off(first + at), 0, MEDIA_BLOCK_BYTES);
}

static uint64_t make_large(void)
{
	static const uint8_t bytes[4 * MIB];
	uint64_t ino = make("f");

	put(ino, 0, bytes, sizeof(bytes));
	core_rig_quiesce(&rig);
	return ino;
}

/* Blocks in use whose entries are lost are not given out as free ones. */
Test(recover, lost_part_of_a_table_is_not_free_space)
{
	uint8_t *before = malloc(rig.pm.len), byte = 1;
	uint64_t ino = make_large();
	size_t done = 0;
	int err;

	cr_assert_not_null(before);
	lose_table_block();
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	memcpy(before, rig.pm.base, rig.pm.len);
	err = CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, 8 * MIB, &byte, 1, &done));
	cr_expect_eq(err, -EIO, "%d %s", err, errmsg_get());
	cr_expect_not_null(strstr(errmsg_get(), "by its table"), "%s", errmsg_get());
	cr_expect_eq(memcmp(before, rig.pm.base, rig.pm.len), 0);
	free(before);
	core_rig_free(&rig);
}

/* The same while records wait for a copy that is away: what they touch is known, all else has to fit the summary. */
Test(recover, lost_part_of_a_table_is_told_behind_records)
{
	uint64_t ino = make_large();

	held = copy_tail(rig.copy).seq;
	put(ino, 8 * MIB, "new", 3);
	lose_table_block();
	cr_expect_eq(core_rig_crash(&rig), -EBADMSG);
	cr_expect_not_null(strstr(errmsg_get(), "by its table"), "%s", errmsg_get());
	core_rig_free(&rig);
}

Test(recover, entry_that_no_record_touches_is_damaged)
{
	struct copy_entry entry;
	uint64_t blk = fs_root_blk(rig.fs) + 1000;

	cr_assert_eq(copy_entry_get(rig.copy, blk, &entry), 0);
	tear_entry(blk, 1, MEDIA_DATA);
	cr_expect_eq(copy_entry_get(rig.copy, blk, &entry), -EBADMSG);
	cr_expect_eq(copy_entry_get_torn(rig.copy, blk, &entry), -EBADMSG);
	tear_entry(blk, 0, 0);
	core_rig_end(&rig);
}
