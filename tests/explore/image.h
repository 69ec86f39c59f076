/* What one pool may look like after a power failure: everything fenced, and of what was not, any subset of its 8-byte words.
 *
 *   base   what is durable at the cut; moves on with image_step
 *   work   base plus one variant of the open stores: recovered in place, then put back by the pages that were touched
 *
 * The hash of an image is a sum over its pages, so that it costs what changed as well. */
#ifndef RPMEMFS_TESTS_EXPLORE_IMAGE_H
#define RPMEMFS_TESTS_EXPLORE_IMAGE_H

#include "csum.h"
#include "pages.h"
#include "trace.h"

struct image_store { /* not durable yet */
	uint64_t off, len;
	const uint8_t *bytes;
	bool flushed;   /* the next fence makes it durable */
};

/* A one-sided write that may still be on its way: it lands at any time until something posted behind it is answered. */
struct image_late {
	uint64_t off, len, until; /* until: the commit posted behind it, 0: none yet */
	const uint8_t *bytes;
	bool covered;             /* something else is durable where it may land */
};

enum image_kind {
	IMAGE_NONE,
	IMAGE_ALL,
	IMAGE_ONLY,     /* one store alone */
	IMAGE_BUT,      /* all but one */
	IMAGE_TORN,     /* one in part, the others all or none of them: both by seed */
	IMAGE_RANDOM,   /* each whole, not at all or in part, by seed */
	IMAGE_WORDS,    /* each word by the seed */
	IMAGE_PAGES,    /* of each page what was stored up to some moment: a file that the kernel writes back as it likes */
	IMAGE_LATE,     /* all, and one-sided writes that land behind it */
	IMAGE_SUBSET,   /* the units (image_units) whose bit of the seed is set: where they are few, every subset is looked at */
	IMAGE_KINDS
};

struct image_variant {
	enum image_kind kind;
	size_t store;
	uint64_t seed;
};

struct image {
	struct pm pm;                  /* of work */
	uint8_t *base;
	VEC(struct image_store) open;  /* in the order of storing */
	VEC(struct image_late) late;   /* in the order of pushing */
	const uint8_t *start;          /* what it started with; NULL: zeros */
	struct pages moved;            /* of base, against the start */
	struct pages touched;          /* of work, against base */
	struct pages stale;            /* of base, since sum was made */
	struct hash128 *hashes;        /* of base's pages */
	uint64_t sum[2];               /* over them */
	struct trace *second;          /* what recovery did to work; NULL: not recorded */
	struct pm_observer observer;
};

/* Memory for pools of bytes. */
void image_make(struct image *image, uint64_t bytes);
void image_free(struct image *image);
/* Both base and work are these bytes, which stay as they are until the next start; nothing is open. Costs little when it
 * started with the same ones before. */
void image_start(struct image *image, const void *bytes);
/* Takes over an event of the pool. */
void image_step(struct image *image, const struct trace *trace, const struct trace_event *event);

/* work = base + variant. image_reset comes first whenever work was touched. */
void image_apply(struct image *image, const struct image_variant *variant);
void image_reset(struct image *image);
/* Whether IMAGE_LATE differs from IMAGE_ALL. */
bool image_has_late(const struct image *image);
/* Puts bytes into work, to be put back by the reset. */
void image_poke(struct image *image, uint64_t off, const void *bytes, uint64_t len);

#define IMAGE_UNITS_MAX 16u
/* How many words of the open stores change anything where they land: what a subset is a subset of. max + 1: more than max.
 * A word that is stored as it was already is none. work is to be untouched. */
unsigned image_units(struct image *image, unsigned max);

/* Of work as it is: the same for equal images, whichever run they come from. */
struct hash128 image_hash(struct image *image);

const char *image_kind_name(enum image_kind kind);

/* A small generator: the same seed gives the same images everywhere. */
uint64_t explore_random(uint64_t *state);

#endif
