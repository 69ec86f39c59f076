/* Checksums, hashes and random bytes, each a thin skin over the library that does it: ISA-L, xxHash, getrandom(2).
 * Holds no state; what the functions promise stands in include/csum.h. */
#include "csum.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <isa-l/crc.h>
#include <xxhash.h>

/* crc32_iscsi() takes an int. A multiple of the block size keeps every piece but the last on the fast path. */
#define CRC_PIECE_BYTES_MAX ((size_t)1 << 30)
static_assert(CRC_PIECE_BYTES_MAX <= INT_MAX, "crc32_iscsi length");
static_assert(sizeof(XXH128_canonical_t) == sizeof(struct hash128), "hash128 size");

/* ISA-L leaves the initial and the final inversion of RFC 3720 to the caller. Inverting on both sides makes the result
 * of one call the right start of the next. */
uint32_t csum_crc32c(uint32_t crc, const void *buf, size_t len)
{
	const uint8_t *bytes = buf;
	uint32_t state = ~crc;

	while (len) {
		size_t piece = len < CRC_PIECE_BYTES_MAX ? len : CRC_PIECE_BYTES_MAX;

		state = crc32_iscsi((unsigned char *)bytes, (int)piece, state); /* not const in ISA-L; only read */
		bytes += piece;
		len -= piece;
	}
	return ~state;
}

struct hash128 csum_hash128(const void *buf, size_t len)
{
	XXH128_canonical_t canonical;
	struct hash128 hash;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits(buf, len));
	memcpy(hash.b, canonical.digest, sizeof(hash.b));
	return hash;
}

uint64_t csum_hash64(const void *buf, size_t len, uint64_t seed)
{
	return XXH3_64bits_withSeed(buf, len, seed);
}

void csum_random(void *buf, size_t len)
{
	uint8_t *bytes = buf;

	while (len) {
		ssize_t got = getrandom(bytes, len, 0);

		if (got < 0) {
			if (errno != EINTR)
				abort();
			continue;
		}
		bytes += got;
		len -= (size_t)got;
	}
}
