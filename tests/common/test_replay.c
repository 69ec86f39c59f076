/* Tests rpmem/replay.c: what a checkpoint leaves in blocks, table and summaries, and what it refuses to do. Cutting it
 * off is test_replay_crash. */
#include "copy.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/copy_rig.h"
#include "errmsg.h"

#define ALL UINT64_MAX

static struct rig rig;

static void setup(void)
{
	rig_init(&rig, RIG_POOL_BYTES, RIG_RING_BYTES);
}

static void teardown(void)
{
	rig_fini(&rig);
}

TestSuite(replay, .init = setup, .fini = teardown);

static uint8_t *block(uint64_t blk)
{
	return rig.pm.base + media_off(blk);
}

static uint32_t block_crc(uint64_t blk)
{
	return csum_crc32c(0, block(blk), MEDIA_BLOCK_BYTES);
}

static void expect_entry(uint64_t blk, uint64_t seq, uint32_t type, uint32_t csum)
{
	struct copy_entry entry;

	cr_assert_eq(copy_entry_get(rig.copy, blk, &entry), 0, "%s", errmsg_get());
	cr_expect(entry.seq == seq && entry.type == type && entry.csum == csum,
		"block %llu: %llu %u %08x, not %llu %u %08x", (unsigned long long)blk, (unsigned long long)entry.seq,
		entry.type, entry.csum, (unsigned long long)seq, type, csum);
}

static void expect_summary(uint64_t group, uint64_t seq, uint32_t used)
{
	uint64_t got_seq;
	uint32_t got;

	cr_assert_eq(copy_summary_get(rig.copy, group, &got_seq, &got), 0, "%s", errmsg_get());
	cr_expect(got_seq == seq && got == used, "group %llu: %llu %u, not %llu %u", (unsigned long long)group,
		(unsigned long long)got_seq, got, (unsigned long long)seq, used);
}

static void checkpoint(uint64_t upto)
{
	cr_assert_eq(copy_checkpoint(rig.copy, upto, ALL), 0, "%s", errmsg_get());
}

static bool block_is(uint64_t blk, uint8_t fill)
{
	for (unsigned i = 0; i < MEDIA_BLOCK_BYTES; i++)
		if (block(blk)[i] != fill)
			return false;
	return true;
}

Test(replay, puts_lines_table_and_summary_in_place)
{
	uint64_t data = rig.first, meta = rig.first + 1, gone = rig.first + 2;

	cr_assert_eq(rig_commit_data(&rig, data, 0x11), 0);
	cr_assert_eq(rig_commit_meta(&rig, meta, 0x22), 0);
	cr_assert_eq(rig_commit_data(&rig, gone, 0x33), 0);
	cr_assert_eq(rig_commit_free(&rig, gone), 0);
	cr_expect(block_is(meta, 0), "nothing is in place before the checkpoint");
	expect_entry(data, 0, MEDIA_FREE, 0);
	checkpoint(ALL);
	cr_expect(block_is(data, 0x11));
	cr_expect(block_is(meta, 0x22));
	expect_entry(data, 1, MEDIA_DATA, block_crc(data));
	expect_entry(meta, 2, MEDIA_META_FIRST, block_crc(meta));
	expect_entry(gone, 4, MEDIA_FREE, 0);
	expect_summary(0, 4, 2);
	cr_expect_eq(le64_get(copy_sb(rig.copy)->used_blks), 2);
	cr_assert_eq(rig_commit_line(&rig, meta, 63, 0x44), 0);
	checkpoint(ALL);
	cr_expect_eq(block(meta)[4096 - 65], 0x22);
	cr_expect_eq(block(meta)[4096 - 64], 0x44);
	expect_entry(meta, 5, MEDIA_META_FIRST, block_crc(meta));
	expect_summary(0, 5, 2);
	cr_assert_eq(rig_reopen(&rig), 0);
	cr_expect_eq(copy_used_blks(rig.copy), 2);
	cr_expect_eq(copy_tail(rig.copy).seq, 5);
}

Test(replay, unwritten_blocks_have_no_checksum)
{
	for (unsigned i = 0; i < 5; i++)
		cr_assert_eq(redo_link(rig.b, rig.first + i, MEDIA_UNWRITTEN, 0), 0);
	cr_assert_eq(rig_commit(&rig), 0);
	checkpoint(ALL);
	expect_entry(rig.first + 4, 1, MEDIA_UNWRITTEN, 0);
	expect_summary(0, 1, 5);
}

/* upto and bytes_max bound one call; at least one record is applied. */
Test(replay, bounds)
{
	for (unsigned i = 0; i < 10; i++)
		cr_assert_eq(rig_commit_bytes(&rig, 1024), 0);
	cr_assert_eq(copy_checkpoint(rig.copy, 0, ALL), 0);
	cr_expect_eq(copy_tail(rig.copy).seq, 0);
	cr_assert_eq(copy_checkpoint(rig.copy, ALL, 0), 0);
	cr_expect_eq(copy_tail(rig.copy).seq, 1);
	cr_assert_eq(copy_checkpoint(rig.copy, ALL, 2047), 0);
	cr_expect_eq(copy_tail(rig.copy).seq, 2);
	cr_assert_eq(copy_checkpoint(rig.copy, ALL, 2048), 0);
	cr_expect_eq(copy_tail(rig.copy).seq, 4);
	cr_assert_eq(copy_checkpoint(rig.copy, 5, ALL), 0);
	cr_expect_eq(copy_tail(rig.copy).seq, 5);
	checkpoint(ALL);
	cr_expect_eq(copy_tail(rig.copy).seq, 10);
}

/* More than one batch: the ring is larger than the memory one batch takes. */
Test(replay, whole_ring_in_one_call)
{
	unsigned n = 0;

	while (rig_commit_meta(&rig, rig.first + n, (uint8_t)(n + 1)) == 0)
		n++;
	cr_assert_gt(n, 100);
	checkpoint(ALL);
	cr_expect_eq(copy_tail(rig.copy).seq, n);
	for (unsigned i = 0; i < n; i++) {
		cr_expect(block_is(rig.first + i, (uint8_t)(i + 1)));
		expect_entry(rig.first + i, i + 1, MEDIA_META_FIRST, block_crc(rig.first + i));
	}
	expect_summary(0, n, n);
}

/* Runs over several table blocks, in three groups of which the last is short; the very last block of the pool. */
Test(replay, runs_across_table_blocks_and_groups)
{
	const uint64_t group = 32768, len = (4 + 128 + 2 * group + 500) * 4096;
	uint64_t second, third, last;

	teardown();
	rig_init(&rig, len, RIG_RING_BYTES);
	second = rig.first + group;
	third = second + group;
	last = third + 500 - 129 - 1;
	for (uint64_t blk = rig.first + 100; blk < rig.first + 100 + 3000; blk++)
		cr_assert_eq(redo_link(rig.b, blk, MEDIA_DATA, (uint32_t)blk), 0);
	for (uint64_t blk = second - 129 - 300; blk < second - 129; blk++)
		cr_assert_eq(redo_link(rig.b, blk, MEDIA_UNWRITTEN, 0), 0);
	for (uint64_t blk = second; blk < second + 700; blk++)
		cr_assert_eq(redo_link(rig.b, blk, MEDIA_DATA, ~(uint32_t)blk), 0);
	cr_assert_eq(redo_link(rig.b, last, MEDIA_DATA, 7), 0);
	cr_assert_eq(rig_commit(&rig), 0, "%s", errmsg_get());
	for (uint64_t blk = rig.first + 200; blk < rig.first + 1000; blk++)
		cr_assert_eq(redo_free(rig.b, blk), 0);
	cr_assert_eq(rig_commit(&rig), 0);
	checkpoint(ALL);
	for (uint64_t blk = rig.first; blk < rig.first + 3200; blk++) {
		if (blk < rig.first + 100 || blk >= rig.first + 3100)
			expect_entry(blk, 0, MEDIA_FREE, 0);
		else if (blk >= rig.first + 200 && blk < rig.first + 1000)
			expect_entry(blk, 2, MEDIA_FREE, 0);
		else
			expect_entry(blk, 1, MEDIA_DATA, (uint32_t)blk);
	}
	expect_entry(second - 130, 1, MEDIA_UNWRITTEN, 0);
	expect_entry(second, 1, MEDIA_DATA, ~(uint32_t)second);
	expect_entry(second + 699, 1, MEDIA_DATA, ~(uint32_t)(second + 699));
	expect_entry(second + 700, 0, MEDIA_FREE, 0);
	expect_entry(last, 1, MEDIA_DATA, 7);
	expect_summary(0, 2, 3000 + 300 - 800);
	expect_summary(1, 1, 700);
	expect_summary(2, 1, 1);
	cr_expect_eq(copy_used_blks(rig.copy), 3000 + 300 - 800 + 700 + 1);
}

/* Lines of a block that a later record freed are never stored, whichever step the checkpoint takes: the block may have
 * another owner's bytes in it by then. The entry still is that of the record applied. */
Test(replay, lines_of_a_freed_block_are_skipped)
{
	uint64_t blk = rig.first + 7;

	cr_assert_eq(rig_commit_meta(&rig, blk, 0x21), 0);
	cr_assert_eq(rig_commit_free(&rig, blk), 0);
	memset(block(blk), 0x99, MEDIA_BLOCK_BYTES);
	cr_assert_eq(copy_checkpoint(rig.copy, 1, ALL), 0);
	cr_expect(block_is(blk, 0x99));
	expect_summary(0, 1, 1);
	checkpoint(ALL);
	cr_expect(block_is(blk, 0x99));
	expect_entry(blk, 2, MEDIA_FREE, 0);
	expect_summary(0, 2, 0);
}

/* Changed and freed by one record. */
Test(replay, lines_and_free_in_one_record)
{
	uint64_t blk = rig.first + 7;
	uint8_t content[4096] = { 1 };

	cr_assert_eq(rig_commit_meta(&rig, blk, 0x21), 0);
	checkpoint(ALL);
	cr_assert_eq(redo_lines(rig.b, blk, MEDIA_META_FIRST, 1, content), 0);
	cr_assert_eq(redo_free(rig.b, blk), 0);
	cr_assert_eq(rig_commit(&rig), 0);
	checkpoint(ALL);
	cr_expect(block_is(blk, 0x21));
	expect_entry(blk, 2, MEDIA_FREE, 0);
}

/* Freed and used again within the ring: only lines behind the newest freeing count. */
Test(replay, reused_block_gets_only_its_new_lines)
{
	uint64_t blk = rig.first;

	cr_assert_eq(rig_commit_meta(&rig, blk, 0x21), 0);
	cr_assert_eq(rig_commit_free(&rig, blk), 0);
	cr_assert_eq(rig_commit_meta(&rig, blk, 0x43), 0);
	checkpoint(ALL);
	cr_expect(block_is(blk, 0x43));
	expect_entry(blk, 3, MEDIA_META_FIRST, block_crc(blk));
	expect_summary(0, 3, 1);
}

Test(replay, later_lines_win)
{
	uint8_t content[4096];
	uint64_t blk = rig.first;

	cr_assert_eq(rig_commit_meta(&rig, blk, 0), 0);
	memset(content, 0, sizeof(content));
	for (unsigned i = 0; i < 300; i++) { /* overlapping masks, runs at both ends, whole blocks */
		uint64_t mask = i % 17 == 0 ? UINT64_MAX : i % 5 == 0 ? 1ull << 63 | 7 : 0xffull << (i % 57);

		for (unsigned line = 0; line < 64; line++)
			if (mask >> line & 1)
				memset(content + line * 64, (int)(i + line), 64);
		cr_assert_eq(redo_lines(rig.b, blk, MEDIA_META_FIRST, mask, content), 0);
		cr_assert_eq(rig_commit(&rig), 0);
		if (i % 40 == 39) {
			checkpoint(copy_head(rig.copy).seq - (i % 80 == 79 ? 0 : 11));
			if (i % 80 == 79)
				cr_expect_eq(memcmp(block(blk), content, 4096), 0, "%u", i);
		}
	}
	checkpoint(ALL);
	cr_expect_eq(memcmp(block(blk), content, 4096), 0);
}

/* ----------------------------------------------------------------------------------------------------- damage */

/* A byte of a block rots: lines on top of it do not give the content the record speaks of. Tail stays, nothing is
 * forgotten, and with the byte healed the same call succeeds. */
Test(replay, rotten_block_stops_the_checkpoint)
{
	uint64_t blk = rig.first + 5;

	cr_assert_eq(rig_commit_meta(&rig, blk, 0x21), 0);
	checkpoint(ALL);
	cr_assert_eq(rig_commit_line(&rig, blk, 3, 0x22), 0);
	block(blk)[1000] ^= 1;
	cr_expect_eq(copy_checkpoint(rig.copy, ALL, ALL), -EBADMSG);
	cr_expect_not_null(strstr(errmsg_get(), "block 0x10a: content is not what record 2"), "%s", errmsg_get());
	cr_expect_eq(copy_tail(rig.copy).seq, 1);
	cr_assert_eq(rig_reopen(&rig), 0);
	cr_expect_eq(copy_tail(rig.copy).seq, 1);
	cr_expect_eq(copy_checkpoint(rig.copy, ALL, ALL), -EBADMSG);
	block(blk)[1000] ^= 1;
	checkpoint(ALL);
	cr_expect_eq(copy_tail(rig.copy).seq, 2);
}

/* A record that changes in the ring after it was checked is not applied, nor is anything else. */
Test(replay, record_changed_in_the_ring)
{
	uint64_t blk = rig.first + 5;

	cr_assert_eq(rig_commit_meta(&rig, blk, 0x21), 0);
	cr_assert_eq(rig_commit_bytes(&rig, 512), 0);
	rig.pm.base[media_ring_off(copy_find(rig.copy, 2)->pos) + 300] ^= 1;
	cr_expect_eq(copy_checkpoint(rig.copy, ALL, ALL), -EBADMSG);
	cr_expect(block_is(blk, 0));
	cr_expect_eq(copy_checkpoint(rig.copy, 1, ALL), 0);
	cr_expect(block_is(blk, 0x21));
}

/* Another whole record of the same sequence in its place. */
Test(replay, record_replaced_in_the_ring)
{
	static const struct hash128 prev;
	struct hash128 hash;
	const void *rec;
	uint32_t len;

	cr_assert_eq(rig_commit_bytes(&rig, 128), 0);
	cr_assert_eq(redo_finish(rig.b, 1, 1, &prev, 99, &rec, &len, &hash), 0);
	memcpy(rig.pm.base + media_ring_off(0), rec, len);
	cr_expect_eq(copy_checkpoint(rig.copy, ALL, ALL), -EBADMSG);
	cr_expect_not_null(strstr(errmsg_get(), "changed"), "%s", errmsg_get());
}

/* A call that failed has stored lines of its last record; smaller steps afterwards do not take these for rot. */
Test(replay, smaller_steps_after_a_failed_call)
{
	uint64_t good = rig.first, bad = rig.first + 1;
	uint8_t content[4096];

	cr_assert_eq(rig_commit_meta(&rig, good, 0x10), 0);
	cr_assert_eq(rig_commit_meta(&rig, bad, 0x10), 0);
	checkpoint(ALL);
	memset(content, 0x10, sizeof(content));
	for (unsigned i = 0; i < 2; i++) {
		memset(content + i * 64, 0x20, 64);
		cr_assert_eq(redo_lines(rig.b, good, MEDIA_META_FIRST, 1ull << i, content), 0);
		cr_assert_eq(rig_commit(&rig), 0);
	}
	cr_assert_eq(rig_commit_line(&rig, bad, 0, 0x33), 0);
	block(bad)[4000] ^= 1;
	cr_assert_eq(copy_checkpoint(rig.copy, ALL, ALL), -EBADMSG);
	cr_expect_eq(copy_checkpoint(rig.copy, 3, ALL), 0, "%s", errmsg_get());
	cr_expect_eq(copy_checkpoint(rig.copy, 4, ALL), 0, "%s", errmsg_get());
	cr_expect_eq(copy_checkpoint(rig.copy, ALL, ALL), -EBADMSG);
}

static uint8_t *summary(uint64_t group)
{
	return rig.pm.base + media_off(media_group_blk(copy_geom(rig.copy), group));
}

/* The two 8-byte words of a summary reach the medium one by one: replay takes either word and mends the check. */
Test(replay, torn_summary_is_mended)
{
	uint8_t before[64], after[64];

	cr_assert_eq(rig_commit_data(&rig, rig.first, 1), 0);
	checkpoint(ALL);
	memcpy(before, summary(0), 64);
	cr_assert_eq(rig_commit_data(&rig, rig.first + 1, 1), 0);
	cr_assert_eq(rig_commit_data(&rig, rig.first + 2, 1), 0);
	copy_close(rig.copy);
	rig.copy = NULL;
	for (unsigned turn = 0; turn < 2; turn++) {
		uint8_t *sbs = rig.pm.base + 0x2000, old_sbs[8192];
		uint64_t seq;
		uint32_t used;

		memcpy(old_sbs, sbs, sizeof(old_sbs));
		cr_assert_eq(rig_reopen(&rig), 0);
		checkpoint(ALL);
		memcpy(after, summary(0), 64);
		memcpy(sbs, old_sbs, sizeof(old_sbs));
		memcpy(summary(0), turn ? before : after, 8);
		memcpy(summary(0) + 8, turn ? after + 8 : before + 8, 8);
		cr_assert_eq(rig_reopen(&rig), 0);
		cr_expect_eq(copy_summary_get(rig.copy, 0, &seq, &used), -EBADMSG, "readers wait for the replay");
		checkpoint(ALL);
		expect_summary(0, 3, 3);
		memcpy(sbs, old_sbs, sizeof(old_sbs));
	}
}

/* A word no replay can have written is damage, and nothing is stored. */
Test(replay, impossible_summary_is_damage)
{
	cr_assert_eq(rig_commit_meta(&rig, rig.first, 0x21), 0);
	checkpoint(ALL);
	cr_assert_eq(rig_commit_meta(&rig, rig.first + 1, 0x21), 0);
	summary(0)[4] ^= 1; /* sequence far ahead, check wrong */
	cr_expect_eq(copy_checkpoint(rig.copy, ALL, ALL), -EBADMSG);
	cr_expect_not_null(strstr(errmsg_get(), "group 0"));
	cr_expect(block_is(rig.first + 1, 0));
	summary(0)[4] ^= 1;
	checkpoint(ALL);
}

Test(replay, group_with_too_few_or_too_many_used)
{
	struct media_summary_omf omf;
	uint64_t room = media_group_len(copy_geom(rig.copy), 0) - MEDIA_GROUP_META_BLKS;

	cr_assert_eq(rig_commit_data(&rig, rig.first, 1), 0);
	checkpoint(ALL);
	cr_assert_eq(rig_commit_free(&rig, rig.first), 0);
	copy_summary_encode(0, 1, 0, &omf);
	memcpy(summary(0), &omf, sizeof(omf));
	cr_expect_eq(copy_checkpoint(rig.copy, ALL, ALL), -EBADMSG);
	copy_summary_encode(0, 1, 1, &omf);
	memcpy(summary(0), &omf, sizeof(omf));
	checkpoint(ALL);
	cr_assert_eq(rig_commit_data(&rig, rig.first, 1), 0);
	copy_summary_encode(0, 2, (uint32_t)room, &omf);
	memcpy(summary(0), &omf, sizeof(omf));
	cr_expect_eq(copy_checkpoint(rig.copy, ALL, ALL), -EBADMSG);
	expect_summary(0, 2, (uint32_t)room);
}

Test(replay, damaged_entry_is_refused_to_readers_and_overwritten)
{
	struct copy_entry entry;
	uint8_t *at = rig.pm.base + media_entry_off(copy_geom(rig.copy), rig.first);

	cr_assert_eq(rig_commit_meta(&rig, rig.first, 1), 0);
	checkpoint(ALL);
	at[3] ^= 1;
	cr_expect_eq(copy_entry_get(rig.copy, rig.first, &entry), -EBADMSG);
	cr_assert_eq(rig_commit_line(&rig, rig.first, 0, 2), 0);
	checkpoint(ALL);
	expect_entry(rig.first, 2, MEDIA_META_FIRST, block_crc(rig.first));
}

/* A replay cut off after lines of a later record were stored, then done again in small steps: the mixture in between is
 * not taken for rot, and the end is right. */
Test(replay, cut_off_replay_in_smaller_steps)
{
	uint64_t blk = rig.first;
	uint8_t content[4096];

	cr_assert_eq(rig_commit_meta(&rig, blk, 0x10), 0);
	checkpoint(ALL);
	memset(content, 0x10, sizeof(content));
	for (unsigned i = 0; i < 4; i++) {
		memset(content + i * 64, 0x20 + (int)i, 64);
		cr_assert_eq(redo_lines(rig.b, blk, MEDIA_META_FIRST, 1ull << i, content), 0);
		cr_assert_eq(rig_commit(&rig), 0);
	}
	memcpy(block(blk) + 3 * 64, content + 3 * 64, 64); /* the last record's line got there */
	cr_assert_eq(rig_reopen(&rig), 0);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(copy_checkpoint(rig.copy, ALL, 1), 0, "%u: %s", i, errmsg_get());
	cr_expect_eq(memcmp(block(blk), content, sizeof(content)), 0);
	block(blk)[5] ^= 1; /* with nothing of it left in the ring, rot is found again */
	cr_assert_eq(redo_lines(rig.b, blk, MEDIA_META_FIRST, 1ull << 9, content), 0);
	cr_assert_eq(rig_commit(&rig), 0);
	cr_expect_eq(copy_checkpoint(rig.copy, ALL, 1), -EBADMSG);
}

/* ------------------------------------------------------------------------------------------- stores of others */

Test(replay, put_while_inconsistent)
{
	struct copy_page page = *copy_page(rig.copy);
	struct copy_entry entry = { .seq = 9, .type = MEDIA_DATA, .csum = 0xabc };
	struct copy_point at = { .seq = 10, .epoch = 1 };

	page.state = MEDIA_INCONSISTENT;
	cr_assert_eq(copy_page_set(rig.copy, &page), 0);
	copy_entry_put(rig.copy, rig.first + 9, &entry);
	copy_summary_put(rig.copy, 0, 9, 1);
	cr_assert_eq(copy_reset(rig.copy, &at, 1), 0);
	page.state = MEDIA_CONSISTENT;
	cr_assert_eq(copy_page_set(rig.copy, &page), 0);
	cr_assert_eq(rig_reopen(&rig), 0);
	expect_entry(rig.first + 9, 9, MEDIA_DATA, 0xabc);
	expect_summary(0, 9, 1);
	cr_assert_eq(rig_commit_data(&rig, rig.first, 1), 0);
	checkpoint(ALL);
	expect_summary(0, 11, 2);
}

Test(replay, put_into_a_consistent_copy_is_a_bug, .signal = SIGABRT)
{
	copy_summary_put(rig.copy, 0, 9, 1);
}
