/* Tests rpmem/csum.c against published values and a bit-by-bit CRC. */
#include "csum.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* CRC32C from its definition: reflected polynomial 0x1edc6f41, inverted before and after. */
static uint32_t naive_crc32c(const uint8_t *bytes, size_t len)
{
	uint32_t crc = ~0u;

	for (size_t i = 0; i < len; i++) {
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}

/* RFC 3720, appendix B.4, and the check value of the CRC catalogues. */
Test(csum, crc32c_published_values)
{
	uint8_t bytes[32];

	memset(bytes, 0, sizeof(bytes));
	cr_expect_eq(csum_crc32c(0, bytes, 32), 0x8a9136aau);
	memset(bytes, 0xff, sizeof(bytes));
	cr_expect_eq(csum_crc32c(0, bytes, 32), 0x62a8ab43u);
	for (unsigned i = 0; i < 32; i++)
		bytes[i] = (uint8_t)i;
	cr_expect_eq(csum_crc32c(0, bytes, 32), 0x46dd794eu);
	for (unsigned i = 0; i < 32; i++)
		bytes[i] = (uint8_t)(31 - i);
	cr_expect_eq(csum_crc32c(0, bytes, 32), 0x113fdb5cu);
	cr_expect_eq(csum_crc32c(0, "123456789", 9), 0xe3069283u);
	cr_expect_eq(csum_crc32c(0, "", 0), 0u);
}

Test(csum, crc32c_every_length_and_alignment)
{
	uint8_t bytes[700];

	srandom(1);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)random();
	for (size_t off = 0; off < 9; off++)
		for (size_t len = 0; len + off <= sizeof(bytes); len += len < 80 ? 1 : 37)
			cr_assert_eq(csum_crc32c(0, bytes + off, len), naive_crc32c(bytes + off, len), "off %zu len %zu",
				     off, len);
}

Test(csum, crc32c_continues)
{
	static const char text[] = "a block may be checksummed in pieces, as it is copied";
	uint32_t whole = csum_crc32c(0, text, sizeof(text));

	for (size_t cut = 0; cut <= sizeof(text); cut++)
		cr_expect_eq(csum_crc32c(csum_crc32c(0, text, cut), text + cut, sizeof(text) - cut), whole);
}

/* Published test value of XXH3 (xxhsum -H2 of "abc"), most significant byte first. */
Test(csum, hash128_is_canonical_xxh3)
{
	static const uint8_t abc[16] = { 0x06, 0xb0, 0x5a, 0xb6, 0x73, 0x3a, 0x61, 0x85,
					 0x78, 0xaf, 0x5f, 0x94, 0x89, 0x2f, 0x39, 0x50 };
	static const uint8_t empty[16] = { 0x99, 0xaa, 0x06, 0xd3, 0x01, 0x47, 0x98, 0xd8,
					   0x60, 0x01, 0xc3, 0x24, 0x46, 0x8d, 0x49, 0x7f };
	struct hash128 hash = csum_hash128("abc", 3);

	cr_expect_arr_eq(hash.b, abc, 16);
	hash = csum_hash128("", 0);
	cr_expect_arr_eq(hash.b, empty, 16);
}

Test(csum, hash64_depends_on_the_seed)
{
	cr_expect_eq(csum_hash64("", 0, 0), 0x2d06800538d394c2ull); /* XXH3_64bits of nothing */
	cr_expect_eq(csum_hash64("name", 4, 7), csum_hash64("name", 4, 7));
	cr_expect_neq(csum_hash64("name", 4, 7), csum_hash64("name", 4, 8));
	cr_expect_neq(csum_hash64("name", 4, 7), csum_hash64("nama", 4, 7));
}

Test(csum, random_fills_every_byte)
{
	uint8_t seen[600] = { 0 }, bytes[600];

	for (unsigned round = 0; round < 8; round++) {
		csum_random(bytes, sizeof(bytes));
		for (size_t i = 0; i < sizeof(bytes); i++)
			seen[i] |= bytes[i];
	}
	for (size_t i = 0; i < sizeof(seen); i++)
		cr_expect_neq(seen[i], 0, "byte %zu stayed zero eight times", i);
}
