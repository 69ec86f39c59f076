/* Checksums and hashes of media and wire: CRC32C (ISA-L, hardware) detects damage of a block, a record or a message;
 * XXH3-128 chains the history of commits. Neither defends against an attacker who can write the media. */
#ifndef RPMEMFS_CSUM_H
#define RPMEMFS_CSUM_H

#include <stddef.h>
#include <stdint.h>

struct hash128 {
	uint8_t b[16];
};

/* CRC32C (Castagnoli, RFC 3720 appendix B.4: crc of 32 zero bytes is 0x8a9136aa) of len bytes continued from crc;
 * start with 0. */
uint32_t csum_crc32c(uint32_t crc, const void *buf, size_t len);

/* XXH3-128 in canonical (big-endian) byte order. */
struct hash128 csum_hash128(const void *buf, size_t len);

/* XXH3-64 of a name under a pool's secret seed. */
uint64_t csum_hash64(const void *buf, size_t len, uint64_t seed);

/* len bytes from the kernel's random generator; never fails (aborts when getrandom(2) does, which Linux rules out). */
void csum_random(void *buf, size_t len);

#endif
