/* Tests rpmem/poolhdr.c: golden bytes, PMDK's checksum, and every field that must agree. */
#include "poolhdr.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "errmsg.h"

static struct pool_attr sample_attr(void)
{
	struct pool_attr attr = { .signature = POOLHDR_FS_SIGNATURE, .major = 1, .compat = 2,
				  .incompat = POOLHDR_INCOMPAT_CKSUM_2K, .ro_compat = 0x80000001u };

	for (unsigned i = 0; i < 16; i++) {
		attr.poolset_uuid[i] = (uint8_t)(0x10 + i);
		attr.uuid[i] = (uint8_t)(0x20 + i);
		attr.next_uuid[i] = (uint8_t)(0x30 + i);
		attr.prev_uuid[i] = (uint8_t)(0x40 + i);
	}
	return attr;
}

/* The checksum as the description has it: 32-bit words, those of the checksum and from skip on count as zero. */
static uint64_t naive_fletcher(const uint8_t *bytes, size_t len, size_t csum_off, size_t skip)
{
	uint64_t lo = 0, hi = 0;

	for (size_t i = 0; i < len; i += 4) {
		uint64_t word = bytes[i] | bytes[i + 1] << 8 | bytes[i + 2] << 16 | (uint64_t)bytes[i + 3] << 24;

		if (i >= skip || i == csum_off || i == csum_off + 4)
			word = 0;
		lo = (lo + word) % (1ull << 32);
		hi = (hi + lo) % (1ull << 32);
	}
	return hi << 32 | lo;
}

Test(poolhdr, fletcher64)
{
	uint8_t bytes[256];

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 37 + 200);
	for (size_t csum = 0; csum <= 248; csum += 4)
		for (size_t skip = 0; skip <= 256; skip += 4)
			cr_assert_eq(poolhdr_fletcher64(bytes, 256, csum, skip), naive_fletcher(bytes, 256, csum, skip));
	memset(bytes, 0, sizeof(bytes));
	cr_expect_eq(poolhdr_fletcher64(bytes, 256, 248, 256), 0);
}

/* Bytes of a header of the file system on x86-64, those not listed are zero. The checksum was computed apart from this
 * code, from the description of the algorithm. */
Test(poolhdr, golden_bytes)
{
#if !defined(__x86_64__)
	cr_skip_test("arch flags of another machine");
#endif
	static const uint8_t head[144] = {
		'R', 'P', 'M', 'E', 'M', 'F', 'S', 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0x80,
		0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f,
		0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f,
		0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f,
		0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f,
		0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f,
		0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
		8, 7, 6, 5, 4, 3, 2, 1,
		0x10, 0x73, 0x77, 0x37, 0xf7, 0x07, 0, 0, 2, 1, 0, 0, 0, 0, 62, 0,
	};
	static const uint8_t csum[8] = { 0xca, 0x48, 0xa2, 0x5f, 0x87, 0xa2, 0x49, 0x8c };
	struct pool_attr attr = sample_attr();
	struct poolhdr_omf hdr;
	const uint8_t *bytes = (const uint8_t *)&hdr;

	memset(&hdr, 0xff, sizeof(hdr));
	poolhdr_fill(&hdr, 1, &attr, false, 0x0102030405060708u);
	cr_expect_arr_eq(bytes, head, sizeof(head));
	for (size_t i = sizeof(head); i < 4088; i++)
		cr_assert_eq(bytes[i], 0, "byte %zu", i);
	cr_expect_arr_eq(bytes + 4088, csum, 8);
}

/* What libpmemobj of PMDK 1.12 asks rpmem_create for, on a target with two parts: the bytes that its checks look at. The checksum
 * was computed apart from this code. */
Test(poolhdr, golden_bytes_of_a_pool_of_libpmemobj)
{
#if !defined(__x86_64__)
	cr_skip_test("arch flags of another machine");
#endif
	static const uint8_t arch[16] = { 0x10, 0x73, 0x77, 0x37, 0xf7, 0x07, 0, 0, 2, 1, 0, 0, 0, 0, 62, 0 };
	struct pool_attr attr = { .signature = "PMEMOBJ", .major = 6, .compat = 1,
				  .incompat = POOLHDR_INCOMPAT_CKSUM_2K | POOLHDR_INCOMPAT_SDS };
	struct poolhdr_omf hdrs[2];
	const uint8_t *bytes = (const uint8_t *)&hdrs[0];

	for (unsigned i = 0; i < 16; i++) {
		attr.poolset_uuid[i] = (uint8_t)(0xa0 + i);
		attr.uuid[i] = (uint8_t)(0xb0 + i);
		attr.next_uuid[i] = (uint8_t)(0xc0 + i);
		attr.prev_uuid[i] = (uint8_t)(0xd0 + i);
		attr.user_flags[i] = arch[i];
	}
	poolhdr_fill(hdrs, 2, &attr, false, 0x61626364);
	memcpy(hdrs[1].uuid, attr.next_uuid, 16); /* random in reality */
	memcpy(hdrs[0].prev_part_uuid, attr.next_uuid, 16);
	memcpy(hdrs[0].next_part_uuid, attr.next_uuid, 16);
	poolhdr_seal(&hdrs[0]);
	poolhdr_seal(&hdrs[1]);
	cr_expect_arr_eq(bytes, "PMEMOBJ\0\6\0\0\0\1\0\0\0\6\0\0\0\0\0\0\0", 24);
	cr_expect_arr_eq(bytes + 24, attr.poolset_uuid, 16);
	cr_expect_arr_eq(bytes + 40, attr.uuid, 16);
	cr_expect_arr_eq(bytes + 56, attr.next_uuid, 16); /* parts: a ring of two */
	cr_expect_arr_eq(bytes + 72, attr.next_uuid, 16);
	cr_expect_arr_eq(bytes + 88, attr.prev_uuid, 16);
	cr_expect_arr_eq(bytes + 104, attr.next_uuid, 16);
	cr_expect_arr_eq(bytes + 120, "\x64\x63\x62\x61\0\0\0\0", 8);
	cr_expect_arr_eq(bytes + 128, arch, 16);
	for (size_t i = 144; i < 4088; i++)
		cr_assert_eq(bytes[i], 0, "byte %zu: unused, and a shutdown state that is clean", i);
	cr_expect_eq(le64_get(hdrs[0].csum), 0xc049b82750f9a929ull);
	cr_expect_eq(poolhdr_check(hdrs, 2, &attr), 0, "%s", errmsg_get());
}

/* The attributes rpmem_create has for replica `at` of `count`: libpmemobj writes the ring of its replicas by it. */
static struct pool_attr replica_attr(unsigned at, unsigned count)
{
	struct pool_attr attr = { .signature = "PMEMOBJ", .major = 6, .compat = 1,
				  .incompat = POOLHDR_INCOMPAT_CKSUM_2K | POOLHDR_INCOMPAT_SDS };

	memset(attr.poolset_uuid, 0xa0, 16);
	memset(attr.uuid, 0x10 + (int)at, 16);
	memset(attr.next_uuid, 0x10 + (int)((at + 1) % count), 16);
	memset(attr.prev_uuid, 0x10 + (int)((at + count - 1) % count), 16);
	return attr;
}

static bool bytes_are(const uint8_t *bytes, unsigned value)
{
	return bytes[0] == value && !memcmp(bytes, bytes + 1, 15);
}

/* One, two and three replicas of one, two and three parts: what libpmemobj looks at, by its place in the header. */
Test(poolhdr, golden_chain_of_replicas_and_parts)
{
	for (unsigned replicas = 1; replicas <= 3; replicas++)
		for (unsigned at = 0; at < replicas; at++)
			for (unsigned parts = 1; parts <= 3; parts++) {
				struct pool_attr attr = replica_attr(at, replicas), got;
				struct poolhdr_omf hdrs[3];
				const uint8_t *hdr[3] = { (uint8_t *)&hdrs[0], (uint8_t *)&hdrs[1], (uint8_t *)&hdrs[2] };

				poolhdr_fill(hdrs, parts, &attr, false, 1);
				cr_expect(bytes_are(hdr[0] + 40, 0x10 + at), "uuid of the first part");
				for (unsigned i = 0; i < parts; i++) {
					cr_expect(bytes_are(hdr[i] + 24, 0xa0), "pool set");
					cr_expect_arr_eq(hdr[i] + 56, hdr[(i + parts - 1) % parts] + 40, 16, "part before");
					cr_expect_arr_eq(hdr[i] + 72, hdr[(i + 1) % parts] + 40, 16, "part behind");
					cr_expect(bytes_are(hdr[i] + 88, 0x10 + (at + replicas - 1) % replicas), "replica before");
					cr_expect(bytes_are(hdr[i] + 104, 0x10 + (at + 1) % replicas), "replica behind");
				}
				cr_expect_eq(poolhdr_check(hdrs, parts, &got), 0, "%s", errmsg_get());
				memcpy(attr.user_flags, got.user_flags, 16);
				cr_expect_eq(memcmp(&got, &attr, sizeof(attr)), 0);
			}
}

/* Without CKSUM_2K the whole header counts, with it only the first half. */
Test(poolhdr, checksum_covers_what_the_feature_says)
{
	struct pool_attr attr = sample_attr();
	struct poolhdr_omf hdr;
	uint8_t *bytes = (uint8_t *)&hdr;

	for (unsigned half = 0; half < 2; half++) {
		attr.incompat = half ? POOLHDR_INCOMPAT_CKSUM_2K : 0;
		poolhdr_fill(&hdr, 1, &attr, false, 1);
		cr_assert(poolhdr_sealed(&hdr));
		for (size_t i = 0; i < sizeof(hdr); i++) {
			bool counts = !half || i < 2048 || i >= 4088;

			bytes[i] ^= 0x40;
			cr_assert_eq(poolhdr_sealed(&hdr), !counts, "byte %zu, half %u", i, half);
			bytes[i] ^= 0x40;
		}
	}
}

Test(poolhdr, seal_without_cksum_2k_is_pmdks)
{
	struct pool_attr attr = sample_attr();
	struct poolhdr_omf hdr;

	attr.incompat = 0;
	poolhdr_fill(&hdr, 1, &attr, false, 0x0102030405060708u);
	((uint8_t *)&hdr)[4000] = 9;
	poolhdr_seal(&hdr);
#if defined(__x86_64__)
	cr_expect_eq(le64_get(hdr.csum), 0x8c499b675fa248d1ull);
#endif
}

Test(poolhdr, rings_and_defaults)
{
	struct pool_attr attr = { .signature = "SIG", .major = 1 }, got;
	struct poolhdr_omf hdrs[3];
	static const uint8_t zero[16];

	poolhdr_fill(hdrs, 3, &attr, false, 5);
	cr_assert_eq(poolhdr_check(hdrs, 3, &got), 0, "%s", errmsg_get());
	for (unsigned i = 0; i < 3; i++) {
		cr_expect_arr_neq(hdrs[i].uuid, zero, 16);
		cr_expect_arr_neq(hdrs[i].uuid, hdrs[(i + 1) % 3].uuid, 16);
		cr_expect_arr_eq(hdrs[i].next_part_uuid, hdrs[(i + 1) % 3].uuid, 16);
		cr_expect_arr_eq(hdrs[i].prev_part_uuid, hdrs[(i + 2) % 3].uuid, 16);
		cr_expect_arr_eq(hdrs[i].prev_repl_uuid, hdrs[0].uuid, 16, "alone in the ring");
		cr_expect_arr_eq(hdrs[i].next_repl_uuid, hdrs[0].uuid, 16);
		cr_expect_eq(le64_get(hdrs[i].crtime), 5);
	}
	cr_expect_arr_neq(got.poolset_uuid, zero, 16);
	cr_expect_arr_neq(got.user_flags, zero, 16, "own arch flags where the caller has none");
}

Test(poolhdr, attributes_come_back)
{
	struct pool_attr attr = sample_attr(), got;
	struct poolhdr_omf hdrs[2];

	memset(attr.user_flags, 0xee, sizeof(attr.user_flags));
	poolhdr_fill(hdrs, 2, &attr, false, 5);
	cr_assert_eq(poolhdr_check(hdrs, 2, &got), 0);
	cr_expect_eq(memcmp(&got, &attr, sizeof(attr)), 0);

	poolhdr_fill(hdrs, 1, &attr, true, 5);
	cr_assert_eq(poolhdr_check(hdrs, 1, &got), 0);
	cr_expect_eq(got.incompat, POOLHDR_INCOMPAT_CKSUM_2K | POOLHDR_INCOMPAT_SINGLEHDR);
}

Test(poolhdr, update_keeps_parts_and_birth)
{
	struct pool_attr attr = sample_attr(), next = sample_attr(), got;
	struct poolhdr_omf hdrs[3], old[3];

	poolhdr_fill(hdrs, 3, &attr, false, 5);
	memcpy(old, hdrs, sizeof(old));
	next.uuid[0] ^= 1;
	next.next_uuid[0] ^= 1;
	next.major = 9;
	poolhdr_update(hdrs, 3, &next);
	cr_assert_eq(poolhdr_check(hdrs, 3, &got), 0, "%s", errmsg_get());
	cr_expect_arr_eq(got.uuid, next.uuid, 16);
	cr_expect_arr_eq(got.next_uuid, next.next_uuid, 16);
	cr_expect_eq(got.major, 9);
	cr_expect_arr_eq(hdrs[1].prev_part_uuid, next.uuid, 16);
	cr_expect_arr_eq(hdrs[2].next_part_uuid, next.uuid, 16);
	cr_expect_arr_eq(hdrs[1].uuid, old[1].uuid, 16);
	cr_expect_eq(le64_get(hdrs[2].crtime), 5);
}

/* Each field of the second of three headers changed and sealed again: refused, part and field named, attr untouched. */
Test(poolhdr, every_field_is_checked)
{
	static const struct {
		const char *field;
		size_t off;
	} fields[] = {
		{ "signature", 7 }, { "major", 8 }, { "compat", 12 }, { "incompat", 19 }, { "ro_compat", 20 },
		{ "poolset_uuid", 39 }, { "prev_part_uuid", 56 }, { "next_part_uuid", 87 }, { "prev_repl_uuid", 88 },
		{ "next_repl_uuid", 119 }, { "arch_flags", 143 },
	};
	struct pool_attr attr = sample_attr(), got, untouched;
	struct poolhdr_omf hdrs[3];

	memset(&got, 0x77, sizeof(got));
	untouched = got;
	poolhdr_fill(hdrs, 3, &attr, false, 5);
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		uint8_t *byte = (uint8_t *)&hdrs[1] + fields[i].off;

		*byte ^= 0x10;
		poolhdr_seal(&hdrs[1]);
		cr_expect_eq(poolhdr_check(hdrs, 3, &got), -EINVAL, "%s", fields[i].field);
		cr_expect(strstr(errmsg_get(), "part 1") && strstr(errmsg_get(), fields[i].field), "'%s'", errmsg_get());
		*byte ^= 0x10;
		poolhdr_seal(&hdrs[1]);
	}
	hdrs[1].uuid[0] ^= 1;
	poolhdr_seal(&hdrs[1]);
	cr_expect_eq(poolhdr_check(hdrs, 3, &got), -EINVAL, "uuid: the neighbours do not name it any more");
	hdrs[1].uuid[0] ^= 1;
	poolhdr_seal(&hdrs[1]);
	hdrs[2].csum = le64_put(le64_get(hdrs[2].csum) + 1);
	cr_expect_eq(poolhdr_check(hdrs, 3, &got), -EINVAL);
	cr_expect(strstr(errmsg_get(), "part 2: pool header: wrong checksum"));
	memset(&hdrs[2], 0, sizeof(hdrs[2]));
	cr_expect_eq(poolhdr_check(hdrs, 3, &got), -EINVAL);
	cr_expect(strstr(errmsg_get(), "part 2: pool header is zero"));
	cr_expect_eq(memcmp(&got, &untouched, sizeof(got)), 0);
}

Test(poolhdr, singlehdr_does_not_go_with_more_headers)
{
	struct pool_attr attr = sample_attr(), got;
	struct poolhdr_omf hdrs[2];

	attr.incompat |= POOLHDR_INCOMPAT_SINGLEHDR;
	poolhdr_fill(hdrs, 2, &attr, false, 5);
	cr_expect_eq(poolhdr_check(hdrs, 2, &got), -EINVAL);
}

Test(poolhdr, zero_is_seen)
{
	struct poolhdr_omf hdr = { 0 };

	cr_expect(poolhdr_is_zero(&hdr));
	cr_expect(poolhdr_sealed(&hdr), "zeros sum to zero, so zero is asked for first");
	for (size_t i = 0; i < sizeof(hdr); i += 511) {
		((uint8_t *)&hdr)[i] = 1;
		cr_expect(!poolhdr_is_zero(&hdr));
		((uint8_t *)&hdr)[i] = 0;
	}
}
