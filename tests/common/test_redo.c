/* Tests rpmem/redo.c: bytes of a record, sorting and merging of the builder, and that the parser accepts nothing but
 * whole, well-formed records. */
#include "redo.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RING (512u << 10)
#define REC_MAX (RING / REDO_RING_SHARE)
#define FIRST 261u /* first block that can be allocated */

static const struct media_geom geom = {
	.blk_count = 132 + 2 * 32768, .group0_blk = 132, .group_count = 2, .ring_bytes = RING
};
static struct redo_builder *b;
static uint8_t meta[4096], data[4096];

static void setup(void)
{
	cr_assert_eq(redo_builder_new(REC_MAX, 0, &b), 0);
	redo_begin(b);
	for (unsigned i = 0; i < 4096; i++) {
		meta[i] = (uint8_t)(i * 7 + i / 64);
		data[i] = (uint8_t)(i * 3 + 5);
	}
}

static void teardown(void)
{
	redo_builder_delete(b);
}

TestSuite(redo, .init = setup, .fini = teardown);

static uint32_t crc(const void *content)
{
	return csum_crc32c(0, content, 4096);
}

/* Stores the right checksum, so that what a test changed is judged for itself. */
static void reseal(uint8_t *rec, size_t len)
{
	uint32_t sum;

	memset(rec + 12, 0, 4);
	sum = csum_crc32c(0, rec, len);
	for (unsigned i = 0; i < 4; i++)
		rec[12 + i] = (uint8_t)(sum >> 8 * i);
}

static void *aligned_copy(const void *from, size_t len, size_t room)
{
	void *buf = aligned_alloc(64, (room + 63) / 64 * 64);

	cr_assert_not_null(buf);
	memset(buf, 0, (room + 63) / 64 * 64);
	memcpy(buf, from, len);
	return buf;
}

/* The sample record of these tests: metadata 261, data 300 and 301 linked; 310, 312, 313 freed; three lines of 290.
 * Given in disorder. */
static uint32_t sample(const void **rec, struct hash128 *hash)
{
	struct hash128 prev;
	uint32_t len;

	for (unsigned i = 0; i < 16; i++)
		prev.b[i] = (uint8_t)(0xa0 + i);
	cr_assert_eq(redo_link(b, 301, MEDIA_DATA, 0x22222222), 0);
	cr_assert_eq(redo_free(b, 313), 0);
	cr_assert_eq(redo_lines(b, 290, MEDIA_DATA, 1ull << 63 | 5, data), 0);
	cr_assert_eq(redo_link(b, 300, MEDIA_DATA, 0x11111111), 0);
	cr_assert_eq(redo_link(b, FIRST, MEDIA_META_FIRST, crc(meta)), 0);
	cr_assert_eq(redo_free(b, 310), 0);
	cr_assert_eq(redo_free(b, 312), 0);
	cr_assert_eq(redo_lines(b, FIRST, MEDIA_META_FIRST, UINT64_MAX, meta), 0);
	cr_assert_eq(redo_finish(b, 7, 3, &prev, 0x1122334455667788, rec, &len, hash), 0);
	return len;
}

/* Made by an independent encoder: header, linked runs, freed runs, line blocks, checksums, padding. */
/* clang-format off */
static const uint8_t golden_lists[] = {
	0x52, 0x45, 0x44, 0x4f, 0x01, 0x00, 0x00, 0x00, 0xc0, 0x11, 0x00, 0x00, 0xe5, 0x59, 0xee, 0x56,
	0x07, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf,
	0x02, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00,
	0x02, 0x00, 0x00, 0x00, 0x43, 0x00, 0x00, 0x00, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x05, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00,
	0x2c, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,
	0x36, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x38, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x05, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	0x2c, 0x7a, 0x39, 0x71, 0x10, 0x00, 0x00, 0x00, 0x22, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x05, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x80, 0xcb, 0x12, 0x95, 0x1a, 0x01, 0x00, 0x00, 0x00,
	0x2c, 0x7a, 0x39, 0x71, 0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x22, 0x22, 0x00, 0x00, 0x00, 0x00,
};
/* clang-format on */

Test(redo, golden_bytes)
{
	const uint8_t *rec;
	struct hash128 hash, want;
	uint32_t len = sample((const void **)&rec, &hash);

	cr_assert_eq(len, 4544);
	for (size_t i = 0; i < sizeof(golden_lists); i++)
		cr_expect_eq(rec[i], golden_lists[i], "byte %zu: 0x%02x, not 0x%02x", i, rec[i], golden_lists[i]);
	cr_expect_eq(memcmp(rec + 256, meta, 4096), 0);
	cr_expect_eq(memcmp(rec + 256 + 4096, data, 64), 0);
	cr_expect_eq(memcmp(rec + 256 + 4160, data + 128, 64), 0);
	cr_expect_eq(memcmp(rec + 256 + 4224, data + 63 * 64, 64), 0);
	want = csum_hash128(rec, len);
	cr_expect_eq(memcmp(&hash, &want, sizeof(hash)), 0);
}

Test(redo, parse_shows_what_was_built)
{
	const void *rec;
	struct hash128 hash;
	uint32_t len = sample(&rec, &hash);
	struct redo_view v;

	cr_assert_eq(redo_peek_len(rec, &geom), len);
	cr_assert_eq(redo_parse(rec, len, &geom, &v), 0);
	cr_expect_eq(v.len, len);
	cr_expect_eq(v.seq, 7);
	cr_expect_eq(v.epoch, 3);
	cr_expect_eq(v.time_ns, 0x1122334455667788);
	cr_expect_eq(v.prev_hash.b[15], 0xaf);
	cr_expect_eq(memcmp(&v.hash, &hash, sizeof(hash)), 0);
	cr_expect_eq(v.linked_runs, 2);
	cr_expect_eq(v.linked_blks, 3);
	cr_expect_eq(v.freed_runs, 2);
	cr_expect_eq(v.freed_blks, 3);
	cr_expect_eq(v.line_blks, 2);
	cr_expect_eq(v.line_count, 67);
	cr_expect_eq(le64_get(v.linked[1].blk), 300);
	cr_expect_eq(le32_get(v.linked[1].count), 2);
	cr_expect_eq(le64_get(v.freed[0].blk), 310);
	cr_expect_eq(le64_get(v.lines[1].blk), 290);
	cr_expect_eq(le32_get(v.lines[1].csum), crc(data));
	cr_expect_eq(le32_get(v.csums[2]), 0x22222222);
	cr_expect_eq(memcmp(v.line_bytes + 4096, data, 64), 0);
}

/* Whole record with any other length, and the record cut off at every length: also where the header itself is cut. */
Test(redo, truncated_at_every_length)
{
	const void *rec;
	struct hash128 hash;
	uint32_t len = sample(&rec, &hash);
	struct redo_view v;

	for (uint32_t cut = 0; cut < len; cut++) {
		uint8_t *piece = aligned_copy(rec, cut, cut ? cut : 1);

		cr_expect_eq(redo_parse(piece, cut, &geom, &v), -EBADMSG, "length %u", cut);
		if (cut >= 256 && cut % 64 == 0) { /* a header that claims just what is there */
			piece[8] = (uint8_t)cut;
			piece[9] = (uint8_t)(cut >> 8);
			reseal(piece, cut);
			cr_expect_eq(redo_parse(piece, cut, &geom, &v), -EBADMSG, "length %u, sealed", cut);
		}
		free(piece);
	}
}

Test(redo, every_flipped_bit_is_found)
{
	const void *rec;
	struct hash128 hash;
	uint32_t len = sample(&rec, &hash);
	uint8_t *copy = aligned_copy(rec, len, len);
	struct redo_view v;

	for (uint32_t bit = 0; bit < len * 8; bit++) {
		copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_assert_eq(redo_parse(copy, len, &geom, &v), -EBADMSG, "bit %u", bit);
		copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	cr_expect_eq(redo_parse(copy, len, &geom, &v), 0);
	free(copy);
}

/* One field of the sample changed and the checksum made right again. */
static const struct bad_field {
	const char *what;
	unsigned off, bytes;
	uint64_t value;
} bad_fields[] = {
	{ "magic", 0, 4, 0x4f444553 },
	{ "version 0", 4, 2, 0 },
	{ "version 2", 4, 2, 2 },
	{ "flags", 6, 2, 1 },
	{ "length short", 8, 4, 4544 - 64 },
	{ "length long", 8, 4, 4544 + 64 },
	{ "length odd", 8, 4, 4545 },
	{ "length over the share", 8, 4, REC_MAX + 64 },
	{ "length all ones", 8, 4, UINT32_MAX },
	{ "sequence 0", 16, 8, 0 },
	{ "sequence too large", 16, 8, MEDIA_SEQ_MAX + 1 },
	{ "linked runs fewer", 48, 4, 1 },
	{ "linked runs more", 48, 4, 3 },
	{ "linked runs huge", 48, 4, UINT32_MAX },
	{ "linked blocks fewer", 52, 4, 2 },
	{ "linked blocks more", 52, 4, 4 },
	{ "linked blocks huge", 52, 4, UINT32_MAX },
	{ "freed runs fewer", 56, 4, 1 },
	{ "freed runs huge", 56, 4, UINT32_MAX },
	{ "freed blocks fewer", 60, 4, 2 },
	{ "freed blocks more", 60, 4, 4 },
	{ "line blocks fewer", 64, 4, 1 },
	{ "line blocks huge", 64, 4, UINT32_MAX },
	{ "line count fewer", 68, 4, 66 },
	{ "line count more", 68, 4, 68 },
	{ "line count huge", 68, 4, UINT32_MAX },
	{ "reserved first", 80, 1, 1 },
	{ "reserved last", 127, 1, 1 },
	{ "linked: in the table", 128, 8, 260 },
	{ "linked: in the ring", 128, 8, 5 },
	{ "linked: behind the pool", 128, 8, 132 + 2 * 32768 },
	{ "linked: huge", 128, 8, UINT64_MAX },
	{ "linked: not sorted", 128, 8, 400 },
	{ "linked: overlaps the next", 128, 8, 301 },
	{ "linked: equal to the next", 128, 8, 300 },
	{ "linked: not the line block", 128, 8, 262 },
	{ "linked: count 0", 136, 4, 0 },
	{ "linked: count more than checksums", 136, 4, 2 },
	{ "linked: count huge", 136, 4, UINT32_MAX },
	{ "linked: free", 140, 4, MEDIA_FREE },
	{ "linked: type unknown", 140, 4, MEDIA_TYPE_MAX + 1 },
	{ "linked: other type than its lines", 140, 4, MEDIA_META_FIRST + 1 },
	{ "linked: unwritten with a checksum", 156, 4, MEDIA_UNWRITTEN },
	{ "linked: metadata without lines", 156, 4, MEDIA_META_FIRST },
	{ "linked: across groups", 144, 8, 132 + 32767 },
	{ "linked: out of the pool's end", 144, 8, 132 + 2 * 32768 - 1 },
	{ "linked: also freed", 144, 8, 309 },
	{ "freed: in the summary", 160, 8, 132 },
	{ "freed: not sorted", 160, 8, 320 },
	{ "freed: overlaps the next", 160, 8, 313 },
	{ "freed: also linked", 160, 8, 300 },
	{ "freed: count 0", 168, 4, 0 },
	{ "freed: count wrong", 168, 4, 2 },
	{ "freed: type", 172, 4, MEDIA_DATA },
	{ "lines: in the table", 192, 8, 260 },
	{ "lines: not sorted", 192, 8, 291 },
	{ "lines: twice", 192, 8, 290 },
	{ "lines: linked metadata not whole", 200, 8, UINT64_MAX >> 1 },
	{ "lines: other checksum than linked", 208, 4, 1 },
	{ "lines: other type than linked", 212, 4, MEDIA_META_FIRST + 2 },
	{ "lines: behind the pool", 216, 8, 132 + 2 * 32768 },
	{ "lines: no mask", 224, 8, 0 },
	{ "lines: mask with more", 224, 8, 15 },
	{ "lines: mask with fewer", 224, 8, 3 },
	{ "lines: free", 236, 4, MEDIA_FREE },
	{ "lines: unwritten", 236, 4, MEDIA_UNWRITTEN },
	{ "lines: type unknown", 236, 4, MEDIA_TYPE_MAX + 1 },
	{ "checksum of linked metadata", 240, 4, 1 },
	{ "padding", 252, 1, 1 },
	{ "padding last", 255, 1, 1 },
};

/* The same method with harmless values, so that the table above is known to fail for its own reasons. */
static const struct bad_field good_fields[] = {
	{ "epoch", 24, 8, UINT64_MAX },
	{ "sequence largest", 16, 8, MEDIA_SEQ_MAX },
	{ "time", 72, 8, 0 },
	{ "previous hash", 40, 8, 0 },
	{ "linked data elsewhere", 144, 8, 132 + 32768 + 129 },
	{ "freed elsewhere", 160, 8, 261 + 1 },
	{ "line block elsewhere", 216, 8, 132 + 2 * 32768 - 1 },
	{ "data checksum", 244, 4, 1 },
	{ "line block of another kind", 236, 4, MEDIA_TYPE_MAX },
	{ "a line's byte", 300, 1, 0 },
};

static int parse_changed(const struct bad_field *field)
{
	const void *rec;
	struct hash128 hash;
	uint32_t len;
	uint8_t *copy;
	struct redo_view v;
	int err;

	redo_begin(b);
	len = sample(&rec, &hash);
	copy = aligned_copy(rec, len, len);
	for (unsigned i = 0; i < field->bytes; i++)
		copy[field->off + i] = (uint8_t)(field->value >> 8 * i);
	reseal(copy, len);
	err = redo_parse(copy, len, &geom, &v);
	free(copy);
	return err;
}

Test(redo, every_field_out_of_range)
{
	for (size_t i = 0; i < sizeof(bad_fields) / sizeof(bad_fields[0]); i++)
		cr_expect_eq(parse_changed(&bad_fields[i]), -EBADMSG, "%s", bad_fields[i].what);
	for (size_t i = 0; i < sizeof(good_fields) / sizeof(good_fields[0]); i++)
		cr_expect_eq(parse_changed(&good_fields[i]), 0, "%s", good_fields[i].what);
}

/* Random changes with a right checksum: whatever is accepted is inside the pool and the buffer (sanitizers watch). */
Test(redo, random_damage_with_a_right_checksum)
{
	const void *rec;
	struct hash128 hash;
	uint32_t len = sample(&rec, &hash);
	uint8_t *copy = aligned_copy(rec, len, len);
	struct redo_view v;

	srandom(1);
	for (unsigned round = 0; round < 100000; round++) {
		unsigned n = 1 + (unsigned)random() % 3;

		memcpy(copy, rec, 256);
		for (; n; n--)
			copy[16 + random() % 240] = (uint8_t)(random() % 4 ? random() % 8 : random());
		reseal(copy, len);
		if (redo_parse(copy, len, &geom, &v) == 0)
			for (uint32_t i = 0; i < v.linked_runs; i++)
				cr_assert(media_blk_valid(&geom, le64_get(v.linked[i].blk)));
	}
	free(copy);
}

Test(redo, empty_record_is_a_header)
{
	static const struct hash128 prev;
	struct hash128 hash;
	const void *rec;
	uint32_t len;
	struct redo_view v;

	cr_expect_eq(redo_bytes(b), 128);
	cr_assert_eq(redo_finish(b, 1, 0, &prev, 0, &rec, &len, &hash), 0);
	cr_expect_eq(len, 128);
	cr_expect_eq(redo_parse(rec, len, &geom, &v), 0);
}

/* 10000 blocks of a sequential write are one run; redo_bytes is right to the byte. */
Test(redo, long_runs_stay_short)
{
	static const struct hash128 prev;
	struct hash128 hash;
	const void *rec;
	uint32_t len;
	struct redo_view v;

	for (uint64_t blk = FIRST; blk < FIRST + 10000; blk++)
		cr_assert_eq(redo_link(b, blk, MEDIA_DATA, (uint32_t)blk), 0);
	for (uint64_t blk = 30000; blk < 32900; blk++)
		cr_assert_eq(redo_free(b, blk), 0);
	cr_expect_eq(redo_bytes(b), (128 + 32 + 40000 + 63) / 64 * 64);
	cr_assert_eq(redo_finish(b, 1, 0, &prev, 0, &rec, &len, &hash), 0);
	cr_expect_eq(len, redo_bytes(b));
	cr_assert_eq(redo_parse(rec, len, &geom, &v), 0);
	cr_expect_eq(v.linked_runs, 1);
	cr_expect_eq(v.freed_runs, 1);
	cr_expect_eq(v.freed_blks, 2900);
}

/* In any order and with neighbours of other types: what comes out is sorted, merged, and never longer than foretold. */
Test(redo, random_order_is_sorted_and_bounded)
{
	static const struct hash128 prev;
	uint64_t blks[500];
	struct hash128 hash;
	const void *rec;
	uint32_t len;
	struct redo_view v;

	srandom(2);
	for (unsigned round = 0; round < 200; round++) {
		unsigned n = 1 + (unsigned)random() % 500, seen = 0;
		uint64_t bytes;

		redo_begin(b);
		for (unsigned i = 0; i < n; i++)
			blks[i] = FIRST + 2000 + i + i / 7;
		for (unsigned left = n; left > 1; left--) {
			unsigned i = left - 1, j = (unsigned)random() % left;
			uint64_t swap = blks[i];

			blks[i] = blks[j];
			blks[j] = swap;
		}
		for (unsigned i = 0; i < n; i++) {
			cr_assert_eq(
				redo_link(b, blks[i], blks[i] % 5 ? MEDIA_DATA : 2 + MEDIA_DATA, (uint32_t)blks[i]), 0);
			cr_assert_eq(redo_free(b, blks[i] - 1000), 0);
			if (i < 300)
				cr_assert_eq(redo_lines(b, blks[i] + 1000, MEDIA_DATA, 1ull << i % 64, data), 0);
		}
		bytes = redo_bytes(b);
		cr_assert_eq(redo_finish(b, 1 + round, 0, &prev, 0, &rec, &len, &hash), 0);
		cr_assert_leq(len, bytes);
		cr_assert_eq(redo_parse(rec, len, &geom, &v), 0);
		for (uint32_t i = 0; i < v.linked_runs; i++)
			for (uint32_t j = 0; j < le32_get(v.linked[i].count); j++, seen++)
				cr_assert_eq(le32_get(v.csums[seen]), le64_get(v.linked[i].blk) + j);
		cr_assert_eq(seen, n);
		for (uint32_t i = 0; i < v.line_blks; i++) {
			unsigned line = (unsigned)__builtin_ctzll(le64_get(v.lines[i].mask));

			cr_assert_eq(memcmp(v.line_bytes + i * 64, data + line * 64, 64), 0);
		}
	}
}

static int finish(void)
{
	static const struct hash128 prev;
	struct hash128 hash;
	const void *rec;
	uint32_t len;

	return redo_finish(b, 1, 0, &prev, 0, &rec, &len, &hash);
}

Test(redo, a_block_twice_is_refused)
{
	redo_link(b, 300, MEDIA_DATA, 1);
	redo_link(b, 302, MEDIA_DATA, 1);
	redo_link(b, 300, MEDIA_DATA, 1);
	cr_expect_eq(finish(), -EINVAL);
	redo_begin(b);
	redo_free(b, 300);
	redo_free(b, 301);
	redo_free(b, 300);
	cr_expect_eq(finish(), -EINVAL);
	redo_begin(b);
	redo_lines(b, 300, MEDIA_DATA, 1, data);
	redo_lines(b, 300, MEDIA_DATA, 2, data);
	cr_expect_eq(finish(), -EINVAL);
	redo_begin(b);
	redo_link(b, 300, MEDIA_DATA, 1);
	redo_free(b, 299);
	redo_free(b, 300);
	cr_expect_eq(finish(), -EINVAL);
	redo_begin(b);
	redo_link(b, 300, MEDIA_DATA, 1);
	redo_free(b, 299);
	cr_expect_eq(finish(), 0);
}

Test(redo, over_the_bound_is_refused)
{
	uint64_t blk = FIRST;

	while (redo_bytes(b) + 4096 + 64 <= REC_MAX)
		cr_assert_eq(redo_lines(b, blk++, MEDIA_DATA, UINT64_MAX, data), 0);
	cr_expect_eq(finish(), 0);
	cr_assert_eq(redo_lines(b, blk, MEDIA_DATA, UINT64_MAX, data), 0);
	cr_expect_eq(finish(), -E2BIG);
}

/* Lengths a header may announce. */
Test(redo, peek)
{
	static const struct {
		uint32_t len;
		bool good;
	} lens[] = {
		{ 0, false },
		{ 64, false },
		{ 127, false },
		{ 128, true },
		{ 129, false },
		{ 192, true },
		{ REC_MAX, true },
		{ REC_MAX + 64, false },
		{ UINT32_MAX, false },
		{ UINT32_MAX - 63, false },
	};

	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		struct redo_hdr_omf hdr = {
			.magic = le32_put(REDO_MAGIC), .version = le16_put(REDO_VERSION), .len = le32_put(lens[i].len)
		};

		cr_expect_eq(redo_peek_len(&hdr, &geom), lens[i].good ? lens[i].len : 0, "length %u", lens[i].len);
	}
}
