/* Which images of a run are looked at: a cut at every event of the pool's trace, and at each cut the variants of what was not
 * fenced. */
#ifndef RPMEMFS_TESTS_EXPLORE_CUTS_H
#define RPMEMFS_TESTS_EXPLORE_CUTS_H

#include "check.h"
#include "run.h"

/* How many images of each kind; of larger sets so many are drawn by the seed. */
struct cuts_cfg {
	uint64_t seed;
	unsigned units;     /* up to so many words that change anything: every subset of them; of more those below */
	unsigned singles;   /* stores taken alone and left out alone, between two fences */
	unsigned torn;      /* a store in part */
	unsigned random;    /* each of RANDOM and WORDS */
	unsigned pages;     /* of PAGES */
	unsigned quiet;     /* operations before the first that is cut */
	unsigned second;    /* of so many images one is cut again during its recovery; 0: none */
};

/* Where the explorer is, in memory that outlives the process. */
struct cuts_place {
	enum trace_pool pool;
	size_t event;
	struct image_variant variant;
	bool second;
};

struct cuts_stats {
	uint64_t cuts, images;
	uint64_t recovered;           /* images whose like was not known yet */
	uint64_t exhausted, sampled;  /* sets of open stores of which every subset was looked at, or some */
};
void cuts_stats_add(struct cuts_stats *to, const struct cuts_stats *more);

/* 0, or -1 with why (CHECK_WHY_BYTES) and place at the first image that breaks the contract. */
int cuts_explore(struct image *image, const struct run *run, enum trace_pool pool, const uint8_t *start,
		 const struct cuts_cfg *cfg, struct cuts_stats *stats, struct cuts_place *place, char *why);

#endif
