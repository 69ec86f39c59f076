/* Hash tables of the core: uthash over 8-byte keys, with one multiplication for a hash (Fibonacci hashing: 2^64 divided by the
 * golden ratio) instead of uthash's byte-wise default, which showed in profiles of large writes. */
#ifndef RPMEMFS_FS_HASH64_H
#define RPMEMFS_FS_HASH64_H

#include <errno.h>
#include <stdint.h>
#include <string.h>

static inline unsigned hash64(const void *key)
{
	uint64_t k;

	memcpy(&k, key, sizeof(k));
	return (unsigned)(k * 0x9e3779b97f4a7c15ull >> 32);
}

#define HASH_FUNCTION(key, len, hashv) ((hashv) = hash64(key))
#define HASH_KEYCMP(a, b, len) memcmp(a, b, sizeof(uint64_t))
#define HASH_NONFATAL_OOM 1 /* its default is exit(3) */
#include <uthash.h>

/* Adds an entry by its member: 0, or -ENOMEM, and the entry is not in the table. */
#define hash64_add(head, member, entry)                                      \
	({                                                                   \
		HASH_ADD(hh, head, member, sizeof((entry)->member), entry);  \
		(entry)->hh.tbl ? 0 : -ENOMEM;                               \
	})

#ifdef __clang_analyzer__ /* it forgets how entries are linked, and takes their neighbours for freed ones */
#undef HASH_DEL
#define HASH_DEL(head, entry) ((void)(head), (void)(entry))
#endif

#endif
