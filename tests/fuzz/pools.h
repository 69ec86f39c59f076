/* Whole pools that fuzz_image starts from, made by the core itself, so that they are of the format as it is. Each is of the
 * least size and with the least ring, and shows another state: nothing but formatted; all kinds of files at rest; the same
 * with commits in the ring; a deep directory; a ring that wraps, between commits of members that come and go. */
#ifndef RPMEMFS_TESTS_POOLS_H
#define RPMEMFS_TESTS_POOLS_H

#include "copy.h"

#define POOLS 5u
#define POOLS_BYTES (8u << 20)
#define POOLS_BLKS_MAX 2048u
#define POOLS_RECS_MAX 16u

struct pool_image {
	int fd; /* of the bytes, in memory */
	struct media_geom geom;
	struct copy_point tail;
	unsigned meta_count, used_count, rec_count;
	uint64_t meta[POOLS_BLKS_MAX]; /* metadata blocks in place */
	uint64_t used[POOLS_BLKS_MAX]; /* all blocks in use, in place or by a record */
	struct copy_rec recs[POOLS_RECS_MAX]; /* between tail and head, oldest first */
};

void pools_make(void);
const struct pool_image *pools_get(unsigned idx);

/* Repeats while -EAGAIN, as a mount would, but not for ever: -EAGAIN then. */
#define POOLS_ROUNDS_MAX 5000u
#define POOLS_TRY(fs, expr)                                                                 \
	({                                                                                  \
		int pools_err;                                                              \
		unsigned pools_round = 0;                                                   \
		while ((pools_err = (expr)) == -EAGAIN && pools_round++ < POOLS_ROUNDS_MAX) { \
			fs_poll(fs);                                                        \
			fs_idle(fs);                                                        \
		}                                                                           \
		pools_err;                                                                  \
	})

struct fs;
/* fs_sync_all, polled to its end; -EAGAIN when there is none. */
int pools_sync(struct fs *fs);

#endif
