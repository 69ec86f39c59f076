/* Tests rpmem/copy_omf.c: golden bytes, round trips, each bit and each field of every structure, geometry at its edges.
 */
#include "copy.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "tests/support/copy_rig.h"
#include "errmsg.h"

/* All golden bytes were made by an independent encoder. */
/* clang-format off */
static const uint8_t golden_entry[] = {
	0x11, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, 0x00, 0xef, 0xbe, 0xad, 0xde, 0x36, 0x21, 0x4b, 0x26,
};
static const uint8_t golden_summary[] = {
	0x03, 0x02, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, 0xb5, 0xee, 0x69, 0x17,
};
static const uint8_t golden_page_head[] = {
	0x52, 0x50, 0x4d, 0x45, 0x4d, 0x43, 0x50, 0x01, 0x12, 0x11, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x02, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07,
	0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x77, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f,
	0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f,
	0x55, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x66, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
};
static const uint8_t golden_sb_head[] = {
	0x52, 0x50, 0x4d, 0x45, 0x4d, 0x53, 0x42, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07,
	0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x05, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,
	0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
};
/* clang-format on */

static void expect_bytes(const void *have, const uint8_t *want, size_t len)
{
	for (size_t i = 0; i < len; i++)
		cr_expect_eq(((const uint8_t *)have)[i], want[i], "byte %zu: 0x%02x, not 0x%02x", i,
			((const uint8_t *)have)[i], want[i]);
}

Test(copy_omf, entry_golden_and_every_bit)
{
	struct copy_entry entry = { .seq = 0x123456789abc, .type = 17, .csum = 0xdeadbeef }, got;
	struct media_entry_omf omf;

	copy_entry_encode(0x12345, &entry, &omf);
	expect_bytes(&omf, golden_entry, sizeof(omf));
	cr_assert_eq(copy_entry_decode(0x12345, &omf, &got), 0);
	cr_expect_eq(got.seq, entry.seq);
	cr_expect_eq(got.type, entry.type);
	cr_expect_eq(got.csum, entry.csum);
	cr_expect_eq(copy_entry_decode(0x12346, &omf, &got), -EBADMSG);
	for (unsigned bit = 0; bit < 8 * sizeof(omf); bit++) {
		((uint8_t *)&omf)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_expect_eq(copy_entry_decode(0x12345, &omf, &got), -EBADMSG, "bit %u", bit);
		((uint8_t *)&omf)[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

Test(copy_omf, entry_edges)
{
	static const struct copy_entry good[] = {
		{ 0, 0, 0 },
		{ 1, MEDIA_FREE, 0 },
		{ 5, MEDIA_UNWRITTEN, 0 },
		{ MEDIA_SEQ_MAX, MEDIA_TYPE_MAX, UINT32_MAX },
	};
	static const struct {
		uint64_t seq_type;
		uint32_t csum;
	} bad[] = {
		{ 1ull << 8 | (MEDIA_TYPE_MAX + 1), 0 },
		{ 1ull << 8 | 255, 0 },
		{ MEDIA_DATA, 0 },
		{ (MEDIA_SEQ_MAX + 1) << 8 | MEDIA_DATA, 0 },
		{ 1ull << 8 | MEDIA_FREE, 1 },
		{ 1ull << 8 | MEDIA_UNWRITTEN, 1 },
		{ 0, 1 },
	};
	struct media_entry_omf omf;
	struct copy_entry got;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		copy_entry_encode(300, &good[i], &omf);
		cr_assert_eq(copy_entry_decode(300, &omf, &got), 0);
		cr_expect(got.seq == good[i].seq && got.type == good[i].type && got.csum == good[i].csum);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) { /* with the right check */
		le64_t blk = le64_put(300);

		omf.seq_type = le64_put(bad[i].seq_type);
		omf.csum = le32_put(bad[i].csum);
		omf.check = le32_put(csum_crc32c(csum_crc32c(0, &blk, 8), &omf, 12));
		cr_expect_eq(copy_entry_decode(300, &omf, &got), -EBADMSG, "%zu", i);
	}
}

Test(copy_omf, summary_golden_and_every_bit)
{
	struct media_summary_omf omf;
	uint64_t seq;
	uint32_t used;

	copy_summary_encode(9, 0x123456789abc, 0x203, &omf);
	expect_bytes(&omf, golden_summary, sizeof(golden_summary));
	cr_assert_eq(copy_summary_decode(9, &omf, &seq, &used), 0);
	cr_expect_eq(seq, 0x123456789abc);
	cr_expect_eq(used, 0x203);
	cr_expect_eq(copy_summary_decode(8, &omf, &seq, &used), -EBADMSG);
	for (unsigned bit = 0; bit < 8 * sizeof(omf); bit++) {
		((uint8_t *)&omf)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_expect_eq(copy_summary_decode(9, &omf, &seq, &used), -EBADMSG, "bit %u", bit);
		((uint8_t *)&omf)[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	memset(&omf, 0, sizeof(omf));
	cr_assert_eq(copy_summary_decode(9, &omf, &seq, &used), 0);
	cr_expect(seq == 0 && used == 0);
}

static struct copy_page sample_page(void)
{
	struct copy_page page = { .role = MEDIA_ROLE_REPLICA,
		.state = MEDIA_INCONSISTENT,
		.fence_epoch = 0x77,
		.sync_seq = 0x55,
		.sync_group = 0x66 };

	for (uint8_t i = 0; i < 16; i++) {
		page.instance[i] = i;
		page.fence_id[i] = 16 + i;
		page.sync_hash.b[i] = 32 + i;
	}
	return page;
}

static void page_reseal(struct media_page_omf *omf)
{
	omf->csum = le32_put(csum_crc32c(0, omf, 508));
}

Test(copy_omf, page_golden_and_every_bit)
{
	struct copy_page page = sample_page(), got;
	struct media_page_omf omf;
	uint64_t generation;

	copy_page_encode(&page, 0x1112, &omf);
	expect_bytes(&omf, golden_page_head, sizeof(golden_page_head));
	cr_expect_eq(le32_get(omf.csum), 0x35803d21);
	memset(&got, 0, sizeof(got));
	cr_assert_eq(copy_page_decode(&omf, &got, &generation), 0);
	cr_expect_eq(memcmp(&got, &page, sizeof(got)), 0);
	cr_expect_eq(generation, 0x1112);
	for (unsigned bit = 0; bit < 8 * sizeof(omf); bit++) {
		((uint8_t *)&omf)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_expect_eq(copy_page_decode(&omf, &got, &generation), -EBADMSG, "bit %u", bit);
		((uint8_t *)&omf)[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

Test(copy_omf, page_fields_out_of_range)
{
	static const struct {
		unsigned off;
		uint8_t value;
	} bad[] = {
		{ 0, 'X' },
		{ 16, 0 },
		{ 16, 3 },
		{ 20, 0 },
		{ 20, 3 },
		{ 19, 1 },
		{ 96, 1 },
		{ 507, 1 },
	};
	struct copy_page page = sample_page(), got;
	uint64_t generation;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct media_page_omf omf;

		copy_page_encode(&page, 1, &omf);
		((uint8_t *)&omf)[bad[i].off] = bad[i].value;
		page_reseal(&omf);
		cr_expect_eq(copy_page_decode(&omf, &got, &generation), -EBADMSG, "byte %u", bad[i].off);
	}
}

/* The superblocks a format leaves behind. */
static void formatted(struct media_sb_omf *a, struct media_sb_omf *b)
{
	static uint8_t pool[16u << 20];
	struct copy_format fmt = { .hash_seed = 0x0102030405060708,
		.created_ns = 0x1112131415161718,
		.ring_bytes = RIG_RING_BYTES,
		.page = { .role = MEDIA_ROLE_PRIMARY, .state = MEDIA_CONSISTENT } };
	struct pm pm;

	for (uint8_t i = 0; i < 16; i++)
		fmt.content_uuid[i] = i;
	pm_init(&pm, pool, sizeof(pool), PM_MEMORY);
	cr_assert_eq(copy_format(&pm, &fmt), 0);
	memcpy(a, pool + 0x2000, sizeof(*a));
	memcpy(b, pool + 0x3000, sizeof(*b));
}

Test(copy_omf, superblock_golden_and_every_bit)
{
	struct media_sb_omf a, b;
	struct media_geom geom;

	formatted(&a, &b);
	expect_bytes(&b, golden_sb_head, sizeof(golden_sb_head));
	cr_expect_eq(le32_get(b.csum), 0xb91a20d6);
	cr_expect_eq(le32_get(a.csum), 0x9dc0bca6);
	cr_assert_eq(copy_sb_check(&a, 16u << 20, &geom), 0);
	cr_expect(geom.blk_count == 4096 && geom.group0_blk == 132 && geom.group_count == 1);
	for (unsigned bit = 0; bit < 8 * sizeof(a); bit++) {
		((uint8_t *)&a)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_expect_eq(copy_sb_check(&a, 16u << 20, &geom), bit < 64 ? -EMEDIUMTYPE : -EBADMSG, "bit %u", bit);
		((uint8_t *)&a)[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

Test(copy_omf, superblock_fields_out_of_range)
{
	static const struct {
		unsigned off, bytes;
		uint64_t value;
		int err;
	} cases[] = {
		{ 8, 4, 0, -EPROTONOSUPPORT },
		{ 8, 4, 2, -EPROTONOSUPPORT },
		{ 20, 4, 1, -EPROTONOSUPPORT },
		{ 20, 4, 1u << 31, -EPROTONOSUPPORT },
		{ 12, 4, UINT32_MAX, 0 },
		{ 16, 4, 1, 0 },
		{ 40, 8, 4097, -EBADMSG },
		{ 40, 8, UINT64_MAX, -EBADMSG },
		{ 40, 8, 0, -EBADMSG },
		{ 40, 8, 300, -EBADMSG },
		{ 48, 8, 0, -EBADMSG },
		{ 48, 8, RIG_RING_BYTES + 4096, -EBADMSG },
		{ 48, 8, 1u << 20, -EBADMSG },
		{ 48, 8, RIG_RING_BYTES - 4096, -EBADMSG },
		{ 48, 8, UINT64_MAX, -EBADMSG },
		{ 56, 8, 133, -EBADMSG },
		{ 64, 8, 262, -EBADMSG },
		{ 96, 8, MEDIA_SEQ_MAX, 0 },
		{ 96, 8, MEDIA_SEQ_MAX + 1, -EBADMSG },
		{ 104, 8, RIG_RING_BYTES - 64, 0 },
		{ 104, 8, RIG_RING_BYTES, -EBADMSG },
		{ 104, 8, 32, -EBADMSG },
		{ 136, 8, 4096, 0 },
		{ 136, 8, 4097, -EBADMSG },
		{ 144, 1, 1, -EBADMSG },
		{ 507, 1, 1, -EBADMSG },
		{ 40, 8, 2048, 0 },
	};
	struct media_sb_omf a, b;
	struct media_geom geom;

	formatted(&a, &b);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct media_sb_omf sb = a;

		for (unsigned j = 0; j < cases[i].bytes; j++)
			((uint8_t *)&sb)[cases[i].off + j] = (uint8_t)(cases[i].value >> 8 * j);
		sb.csum = le32_put(csum_crc32c(0, &sb, 508));
		cr_expect_eq(copy_sb_check(&sb, 16u << 20, &geom), cases[i].err, "byte %u value %llu", cases[i].off,
			(unsigned long long)cases[i].value);
	}
	cr_expect_eq(copy_sb_check(&a, (16u << 20) - 1, &geom), -EBADMSG);
	cr_expect_eq(copy_sb_check(&a, (16u << 20) + 5000, &geom), 0);
}

Test(copy_omf, geometry_edges)
{
	const uint64_t block = 4096, group = 32768 * block, ring = RIG_RING_BYTES, front = 4 * block + ring;
	const struct {
		uint64_t pool, ring, blks, groups;
	} good[] = {
		{ MEDIA_POOL_BYTES_MIN, ring, 2048, 1 },
		{ front + group, ring, (front + group) / block, 1 },
		{ front + group + 4095, ring, (front + group) / block, 1 },
		{ front + group + 192 * block, ring, (front + group) / block, 1 }, /* too short for a group */
		{ front + group + 193 * block, ring, (front + group) / block + 193, 2 },
		{ front + 2 * group, ring, (front + 2 * group) / block, 2 },
		{ MEDIA_POOL_BYTES_MAX, MEDIA_RING_BYTES_MAX, 0, 0 },
	};
	const struct {
		uint64_t pool, ring;
	} bad[] = {
		{ 0, ring },
		{ MEDIA_POOL_BYTES_MIN - 1, ring },
		{ MEDIA_POOL_BYTES_MAX + 1, ring },
		{ UINT64_MAX, ring },
		{ 64 << 20, MEDIA_RING_BYTES_MIN - 4096 },
		{ 1ull << 32, MEDIA_RING_BYTES_MAX + 4096 },
		{ 64 << 20, ring + 1 },
		{ 8 << 20, 8 << 20 },
		{ 8 << 20, 64 << 20 },
		{ 64 << 20, UINT64_MAX },
		{ 8 << 20, (8 << 20) - (4 + 192) * 4096 },
	};
	struct media_geom geom;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		cr_assert_eq(copy_geometry(good[i].pool, good[i].ring, &geom), 0, "%zu: %s", i, errmsg_get());
		if (good[i].blks)
			cr_expect(geom.blk_count == good[i].blks && geom.group_count == good[i].groups, "%zu", i);
		cr_expect_leq(geom.blk_count * block, good[i].pool);
		cr_expect_geq(media_group_len(&geom, geom.group_count - 1), MEDIA_GROUP_BLKS_MIN);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_expect_eq(copy_geometry(bad[i].pool, bad[i].ring, &geom), -EINVAL, "%zu", i);
	cr_expect_eq(copy_geometry(8 << 20, (8 << 20) - (4 + 193) * 4096, &geom), 0);
}

Test(copy_omf, default_ring)
{
	struct media_geom geom;

	cr_expect_eq(copy_ring_bytes_default(MEDIA_POOL_BYTES_MIN), MEDIA_RING_BYTES_MIN);
	cr_expect_eq(copy_ring_bytes_default((64 << 20) + 4095), 2 << 20);
	cr_expect_eq(copy_ring_bytes_default((64 << 20) + 100000), 2 << 20);
	cr_expect_eq(copy_ring_bytes_default(1ull << 31), MEDIA_RING_BYTES_MAX);
	cr_expect_eq(copy_ring_bytes_default(MEDIA_POOL_BYTES_MAX), MEDIA_RING_BYTES_MAX);
	for (uint64_t pool = MEDIA_POOL_BYTES_MIN; pool < 1ull << 33; pool += pool / 3 + 12345)
		cr_expect_eq(copy_geometry(pool, 0, &geom), 0, "%llu", (unsigned long long)pool);
}
