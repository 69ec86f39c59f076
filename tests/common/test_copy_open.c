/* Tests rpmem/copy_open.c: which superblock and page count, where history ends, and what is damage. */
#include "copy.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/copy_rig.h"
#include "errmsg.h"

#define SB_A 0x2000u
#define SB_B 0x3000u

static struct rig rig;

static void setup(void)
{
	rig_init(&rig, RIG_POOL_BYTES, RIG_RING_BYTES);
}

static void teardown(void)
{
	rig_fini(&rig);
}

TestSuite(copy_open, .init = setup, .fini = teardown);

static uint8_t *ring_at(uint64_t pos)
{
	return rig.pm.base + media_ring_off(pos);
}

static void sb_patch(uint64_t sb_off, unsigned off, uint8_t value)
{
	struct media_sb_omf *sb = (struct media_sb_omf *)(rig.pm.base + sb_off);

	((uint8_t *)sb)[off] = value;
	sb->csum = le32_put(csum_crc32c(0, sb, offsetof(struct media_sb_omf, csum)));
}

static void expect_open(int err, const char *text)
{
	cr_expect_eq(rig_reopen(&rig), err, "not %d: %s", err, errmsg_get());
	if (text)
		cr_expect_not_null(strstr(errmsg_get(), text), "\"%s\" is not in \"%s\"", text, errmsg_get());
}

/* ------------------------------------------------------------------------------------------------- superblocks */

Test(copy_open, foreign_bytes_are_no_pool)
{
	memset(rig.pm.base, 0, 0x4000);
	expect_open(-EMEDIUMTYPE, "0x2000");
	memset(rig.pm.base, 0xff, 0x4000);
	expect_open(-EMEDIUMTYPE, NULL);
	rig.pm.len = 4096;
	expect_open(-EMEDIUMTYPE, "too small");
	rig.pm.len = RIG_POOL_BYTES;
}

Test(copy_open, one_damaged_superblock_is_survived_and_mended)
{
	for (unsigned slot = 0; slot < 2; slot++) {
		struct media_sb_omf *sb = (struct media_sb_omf *)(rig.pm.base + (slot ? SB_B : SB_A));

		cr_assert_eq(rig_commit_bytes(&rig, 256), 0);
		cr_assert_eq(copy_checkpoint(rig.copy, UINT64_MAX, UINT64_MAX), 0);
		sb->used_blks.le ^= 1;
		expect_open(0, NULL);
		cr_expect_eq(copy_tail(rig.copy).seq, slot + 1);
		cr_assert_eq(copy_checkpoint(rig.copy, UINT64_MAX, UINT64_MAX), 0);
		((uint8_t *)(rig.pm.base + (slot ? SB_A : SB_B)))[200] = 1; /* now the other one */
		expect_open(0, NULL);
		cr_expect_eq(copy_tail(rig.copy).seq, slot + 1);
		cr_assert_eq(copy_checkpoint(rig.copy, UINT64_MAX, UINT64_MAX), 0);
	}
}

Test(copy_open, both_superblocks_damaged_is_refused)
{
	rig.pm.base[SB_A + 100] ^= 1;
	rig.pm.base[SB_B + 100] ^= 1;
	expect_open(-EBADMSG, "0x2000");
	rig.pm.base[SB_B] ^= 1; /* not even a magic */
	expect_open(-EBADMSG, "0x3000");
}

Test(copy_open, newer_formats)
{
	sb_patch(SB_A, 12, 1); /* compatible: ignored */
	sb_patch(SB_B, 12, 1);
	expect_open(0, NULL);
	sb_patch(SB_A, 16, 4); /* read only */
	sb_patch(SB_B, 16, 4);
	expect_open(-EROFS, "0x4");
	cr_assert_eq(copy_open(&rig.pm, true, &rig.copy), 0);
	sb_patch(SB_B, 20, 8); /* in one superblock is enough */
	expect_open(-EPROTONOSUPPORT, "0x8");
	sb_patch(SB_B, 20, 0);
	sb_patch(SB_A, 8, 2);
	expect_open(-EPROTONOSUPPORT, "version 2");
}

Test(copy_open, superblocks_of_two_pools_are_refused)
{
	sb_patch(SB_A, 30, 99); /* content uuid */
	expect_open(-EBADMSG, "different pools");
}

Test(copy_open, older_superblock_with_a_later_tail_is_refused)
{
	sb_patch(SB_A, 96, 3); /* tail sequence; A is the older one */
	expect_open(-EBADMSG, "not before");
	sb_patch(SB_A, 96, 0);
	sb_patch(SB_A, 104, 64); /* same sequence at another place */
	expect_open(-EBADMSG, "not before");
}

Test(copy_open, no_valid_page_is_refused)
{
	rig.pm.base[0x1000 + 100] ^= 1;
	expect_open(-EBADMSG, "0x1000");
}

/* Cut off between the two superblocks of a checkpoint: the newer counts, but the ring from the older one's tail on is
 * not given out until a checkpoint has written both. */
Test(copy_open, older_tail_holds_the_ring)
{
	uint8_t old[4096];
	unsigned older;

	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(rig_commit_bytes(&rig, 4096), 0);
	memcpy(old, rig.pm.base + SB_A, sizeof(old));
	cr_assert_eq(copy_checkpoint(rig.copy, 4, UINT64_MAX), 0);
	older = le64_get(((struct media_sb_omf *)(rig.pm.base + SB_A))->generation) == 3 ? SB_A : SB_B;
	memcpy(rig.pm.base + older, old, sizeof(old));
	expect_open(0, NULL);
	cr_expect_eq(copy_tail(rig.copy).seq, 4);
	cr_expect_eq(copy_head(rig.copy).seq, 6);
	cr_expect_eq(copy_ring_used(rig.copy), 6 * 4096);
	while (rig_commit_bytes(&rig, 8192) == 0)
		;
	cr_expect_lt(copy_ring_free(rig.copy), 8192);
	for (uint64_t pos = 0; pos < 4 * 4096; pos += 4096)
		cr_expect_eq(*(uint32_t *)ring_at(pos), REDO_MAGIC);
	rig.pm.base[(older == SB_A ? SB_B : SB_A) + 100] ^= 1; /* and the newer one rots: everything is still there */
	expect_open(0, NULL);
	cr_expect_eq(copy_tail(rig.copy).seq, 0);
	cr_expect_gt(copy_head(rig.copy).seq, 50);
	cr_assert_eq(copy_checkpoint(rig.copy, 1, 1), 0);
	cr_expect_eq(copy_ring_used(rig.copy) + 4096, (copy_head(rig.copy).seq - 6) * 8192 + 6 * 4096);
}

/* Held by an older superblock alone, with nothing left to apply: a checkpoint still frees the ring. */
Test(copy_open, empty_checkpoint_releases_the_ring)
{
	uint8_t old[4096];

	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(rig_commit_bytes(&rig, 4096), 0);
	memcpy(old, rig.pm.base + SB_A, sizeof(old));
	cr_assert_eq(copy_checkpoint(rig.copy, UINT64_MAX, UINT64_MAX), 0);
	memcpy(rig.pm.base + SB_A, old, sizeof(old));
	expect_open(0, NULL);
	cr_expect_eq(copy_tail(rig.copy).seq, 6);
	cr_expect_eq(copy_ring_used(rig.copy), 6 * 4096);
	cr_assert_eq(copy_checkpoint(rig.copy, UINT64_MAX, UINT64_MAX), 0);
	cr_expect_eq(copy_ring_used(rig.copy), 0);
}

/* -------------------------------------------------------------------------------------------------------- ring */

/* A record of which only a part reached the medium: everything before it counts, and the next one takes its place. */
Test(copy_open, torn_record_is_no_record)
{
	const uint32_t len = 512;
	uint8_t whole[512];
	struct copy_point head;

	cr_assert_eq(rig_commit_bytes(&rig, 256), 0);
	head = copy_head(rig.copy);
	cr_assert_eq(rig_commit_data(&rig, rig.first, 0x77), 0);
	cr_assert_eq(rig_reopen(&rig), 0);
	memset(ring_at(256), 0, len);
	cr_assert_eq(rig_reopen(&rig), 0);
	memset(whole, 0x99, sizeof(whole));
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(redo_link(rig.b, rig.first + 10 + 2 * i, MEDIA_DATA, 5), 0);
		cr_assert_eq(
			redo_lines(rig.b, rig.first + 100 + i, MEDIA_DATA, 1, rig.pm.base + media_off(rig.first)), 0);
	}
	rig_seal(&rig);
	cr_assert_leq(rig.rec_len, len + 128);
	for (uint32_t cut = 0; cut < rig.rec_len; cut += 8) { /* a prefix; then all but one word */
		memset(ring_at(256), 0xee, rig.rec_len);
		memcpy(ring_at(256), rig.rec, cut);
		cr_assert_eq(rig_reopen(&rig), 0, "prefix %u: %s", cut, errmsg_get());
		cr_assert_eq(copy_head(rig.copy).seq, head.seq, "prefix %u", cut);
		memcpy(ring_at(256), rig.rec, rig.rec_len);
		memset(ring_at(256 + cut), 0xee, 8);
		cr_assert_eq(rig_reopen(&rig), 0, "hole %u: %s", cut, errmsg_get());
		cr_assert_eq(copy_head(rig.copy).seq, head.seq, "hole %u", cut);
	}
	cr_assert_eq(copy_append(rig.copy, rig.rec, rig.rec_len), 0);
	cr_assert_eq(rig_reopen(&rig), 0);
	cr_expect_eq(copy_head(rig.copy).seq, head.seq + 1);
}

/* Damage of any record but the last is told from the end of history by what follows, wherever in the ring it lies. */
Test(copy_open, damaged_record_before_others_is_refused)
{
	for (unsigned turn = 0; turn < 3; turn++) { /* the second and third across the ring's end */
		uint64_t tail = copy_tail(rig.copy).seq;

		while (rig_commit_bytes(&rig, 20032) == 0)
			;
		for (uint64_t seq = tail + 1; seq <= copy_head(rig.copy).seq; seq++) {
			struct copy_rec rec = *copy_find(rig.copy, seq);
			uint64_t last = copy_head(rig.copy).seq;
			uint8_t *at = ring_at((rec.pos + 64 * (seq % 300)) % RIG_RING_BYTES);
			char place[64];

			*at ^= 0x10;
			if (seq == last) {
				expect_open(0, NULL);
				cr_expect_eq(copy_head(rig.copy).seq, last - 1);
			} else {
				snprintf(place, sizeof(place), "offset 0x%llx: record %llu is damaged",
					(unsigned long long)media_ring_off(rec.pos), (unsigned long long)seq);
				expect_open(-EBADMSG, place);
				cr_expect_not_null(strstr(errmsg_get(), "heal"));
				cr_expect_eq(copy_open(&rig.pm, true, &rig.copy), -EBADMSG);
			}
			*at ^= 0x10;
			cr_assert_eq(rig_reopen(&rig), 0);
		}
		cr_assert_eq(copy_checkpoint(rig.copy, copy_head(rig.copy).seq - 1, UINT64_MAX), 0);
	}
}

/* A damaged header, and several damaged in a row. */
Test(copy_open, later_record_is_found_far_behind)
{
	for (unsigned i = 0; i < 20; i++)
		cr_assert_eq(rig_commit_bytes(&rig, 256 + 64 * i), 0);
	for (uint64_t seq = 3; seq <= 19; seq++)
		memset(ring_at(copy_find(rig.copy, seq)->pos), 0, 128);
	expect_open(-EBADMSG, "but record 20");
}

/* Files may hold anything, a pool of this very format included: what lies in lines of a record of an earlier lap is not
 * taken for one. */
Test(copy_open, record_inside_a_stale_record_is_data)
{
	struct copy_point head = copy_head(rig.copy);
	uint8_t content[4096] = { 0 };
	struct hash128 hash;
	const void *fake;
	uint32_t len;

	cr_assert_eq(redo_finish(rig.b, 5, 1, &head.hash, 0, &fake, &len, &hash), 0);
	memcpy(content + 64, fake, len);
	redo_begin(rig.b);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(redo_lines(rig.b, rig.first, MEDIA_DATA, UINT64_MAX, content), 0);
		cr_assert_eq(rig_commit(&rig), 0);
	}
	cr_assert_eq(copy_checkpoint(rig.copy, 2, UINT64_MAX), 0);
	expect_open(0, NULL);
	cr_expect_eq(copy_head(rig.copy).seq, 3);
}

/* A whole record of the right place and sequence, but of another history. */
Test(copy_open, record_of_another_history_is_refused)
{
	static const struct hash128 other = { { 3 } };
	struct hash128 hash;
	const void *rec;
	uint32_t len;

	cr_assert_eq(rig_commit_bytes(&rig, 256), 0);
	cr_assert_eq(redo_finish(rig.b, 2, 1, &other, 0, &rec, &len, &hash), 0);
	memcpy(ring_at(256), rec, len);
	expect_open(-EBADMSG, "record 2");
}

/* Epochs never fall: such a record is whole, so it is damage, not the end. */
Test(copy_open, record_of_an_older_epoch_is_refused)
{
	struct copy_point head;
	struct hash128 hash;
	const void *rec;
	uint32_t len;

	rig.epoch = 5;
	cr_assert_eq(rig_commit_bytes(&rig, 256), 0);
	head = copy_head(rig.copy);
	cr_assert_eq(redo_finish(rig.b, 2, 4, &head.hash, 0, &rec, &len, &hash), 0);
	memcpy(ring_at(256), rec, len);
	expect_open(-EBADMSG, "record 2");
}

/* Opening a copy stores nothing: its memory may be mapped for reading only. Any bytes in the ring are survived. */
Test(copy_open, random_ring_bytes)
{
	srandom(4);
	for (unsigned round = 0; round < 300; round++) {
		for (unsigned i = 0; i < 6; i++)
			cr_assert_eq(rig_commit_bytes(&rig, 256 + 64 * ((uint32_t)random() % 8)), 0);
		for (unsigned i = 0; i < 3; i++)
			*ring_at((uint64_t)random() % 8192) = (uint8_t)random();
		if (rig_reopen(&rig))
			cr_assert_eq(copy_open(&rig.pm, false, &rig.copy), -EBADMSG);
		teardown();
		setup();
	}
}
