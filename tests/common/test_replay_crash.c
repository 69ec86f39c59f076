/* Power failure during appends, checkpoints and the recovery from it: every image that can be left behind recovers to
 * the state after a whole commit, no older than the last one answered, with blocks, table and summary as a trivial
 * model says.
 *
 * The observer keeps a durable image and the 8-byte words stored since the last fence. `cut_everywhere` explores at
 * each fence the images with none, all, each one and all but one group of these words. `cut_at_random` lives through
 * crashes in a row, also in the middle of recovery. Leaving out any one fence must be noticed, else these tests prove
 * nothing. */
#include "copy.h"

#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "errmsg.h"
#include "tests/support/copy_rig.h"

#define BLKS 20u   /* of the pool that the model uses */
#define GROUPS 24u /* of words, when images are explored */
#define NO_POINT PM_POINT_COUNT

struct model_blk {
	bool used;
	uint32_t type;
	uint64_t seq;       /* of the last change, freeing included */
	uint64_t lines_seq; /* of the last record with lines */
	uint8_t content[MEDIA_BLOCK_BYTES];
};

struct model {
	uint64_t seq;
	uint32_t used;
	struct model_blk blks[BLKS];
};

struct word {
	uint64_t off, value;
};

static struct rig rig;
static struct model acked, pending; /* pending: differs while a commit is under way */
static uint8_t *durable;            /* memfd, so that images are private mappings of it */
static int durable_fd;
static struct word *words; /* stored and not yet fenced */
static size_t word_count, word_cap;
static enum pm_point dropped = NO_POINT;
static unsigned violations, images, crashes;

static void __attribute__((format(printf, 1, 2))) violate(const char *fmt, ...)
{
	va_list ap;

	if (violations++ || dropped != NO_POINT)
		return; /* the first one is worth reading, unless it was asked for */
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, " (%s)\n", errmsg_get());
}

/* ------------------------------------------------------------------------------------------------ the medium */

static void note_stored(void *ctx, uint64_t off, const void *bytes, uint64_t len)
{
	uint64_t first = off & ~7ull, behind = (off + len + 7) & ~7ull;

	(void)ctx;
	(void)bytes;
	for (uint64_t at = first; at < behind; at += 8) {
		if (word_count == word_cap) {
			void *more = realloc(words, (word_cap ? word_cap * 2 : 4096) * sizeof(*words));

			cr_assert_not_null(more);
			words = more;
			word_cap = word_cap ? word_cap * 2 : 4096;
		}
		words[word_count].off = at;
		memcpy(&words[word_count++].value, rig.pm.base + at, 8);
	}
}

static void words_apply(uint8_t *image, size_t from, size_t behind)
{
	for (size_t i = from; i < behind; i++)
		memcpy(image + words[i].off, &words[i].value, 8);
}

/* ------------------------------------------------------------------------------------------------- the model */

static bool blk_check(const struct copy *copy, struct pm *pm, const struct model_blk *want, uint64_t blk)
{
	struct copy_entry entry;
	uint32_t csum = csum_crc32c(0, want->content, MEDIA_BLOCK_BYTES);

	if (copy_entry_get(copy, blk, &entry))
		return false;
	if (!want->used)
		return entry.type == MEDIA_FREE && entry.seq == want->seq && entry.csum == 0;
	return entry.type == want->type && entry.seq == want->seq && entry.csum == csum &&
	       memcmp(pm_ptr(pm, media_off(blk)), want->content, MEDIA_BLOCK_BYTES) == 0;
}

/* A copy with everything applied against the model. */
static void model_check(const struct copy *copy, struct pm *pm, const struct model *model)
{
	uint64_t seq;
	uint32_t used;

	if (copy_tail(copy).seq != model->seq || copy_used_blks(copy) != model->used)
		violate("tail %llu with %llu used, not %llu with %u", (unsigned long long)copy_tail(copy).seq,
			(unsigned long long)copy_used_blks(copy), (unsigned long long)model->seq, model->used);
	if (copy_summary_get(copy, 0, &seq, &used) || used != model->used)
		violate("summary wrong at %llu", (unsigned long long)model->seq);
	for (unsigned i = 0; i < BLKS; i++)
		if (!blk_check(copy, pm, &model->blks[i], rig.first + i))
			violate("block %u wrong at %llu", i, (unsigned long long)model->seq);
}

/* Which state the copy recovered to; NULL when it is none that may be. */
static const struct model *model_of(const struct copy *copy)
{
	uint64_t seq = copy_head(copy).seq;

	if (seq == acked.seq)
		return &acked;
	if (seq == pending.seq)
		return &pending;
	violate("head %llu, answered %llu", (unsigned long long)seq, (unsigned long long)acked.seq);
	return NULL;
}

/* --------------------------------------------------------------------------------------------- looking at images */

/* Recovers the image, in one go or in steps, and checks it. */
static void image_check(uint8_t *image)
{
	struct copy *copy;
	struct pm pm;
	const struct model *model;
	int err;

	images++;
	pm_init(&pm, image, RIG_POOL_BYTES, PM_MEMORY);
	err = copy_open(&pm, false, &copy);
	if (err) {
		violate("open: %d", err);
		return;
	}
	model = model_of(copy);
	if (images % 2 == 0) /* two small steps first */
		for (unsigned i = 0; i < 2 && !err; i++)
			err = copy_checkpoint(copy, UINT64_MAX, 1);
	if (!err)
		err = copy_checkpoint(copy, UINT64_MAX, UINT64_MAX);
	if (err)
		violate("checkpoint: %d", err);
	else if (model)
		model_check(copy, &pm, model);
	copy_close(copy);
}

/* The durable image with a part of the words: groups [from, behind) of group words each, or all but those. */
static void image_explore(size_t group, size_t from, size_t behind, bool inverse)
{
	size_t lo = from * group, hi = behind * group < word_count ? behind * group : word_count;
	uint8_t *image = mmap(NULL, RIG_POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, durable_fd, 0);

	cr_assert_neq(image, MAP_FAILED);
	if (inverse) {
		words_apply(image, 0, lo);
		words_apply(image, hi, word_count);
	} else {
		words_apply(image, lo, hi);
	}
	image_check(image);
	munmap(image, RIG_POOL_BYTES);
}

/* Every second word: nothing that was stored is whole. */
static void image_torn(size_t first)
{
	uint8_t *image = mmap(NULL, RIG_POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, durable_fd, 0);

	cr_assert_neq(image, MAP_FAILED);
	for (size_t i = first; i < word_count; i += 2)
		words_apply(image, i, i + 1);
	image_check(image);
	munmap(image, RIG_POOL_BYTES);
}

static void explore(void)
{
	size_t group = (word_count + GROUPS - 1) / GROUPS;

	image_explore(group, 0, 0, false);
	image_explore(group, 0, 0, true);
	image_torn(0);
	image_torn(1);
	for (size_t i = 0; i * group < word_count; i++) {
		image_explore(group, i, i + 1, false);
		image_explore(group, i, i + 1, true);
		image_explore(group, 0, i, false);
	}
}

static bool fence_exploring(void *ctx, enum pm_point point)
{
	(void)ctx;
	if (point == dropped)
		return false;
	if (word_count)
		explore();
	words_apply(durable, 0, word_count);
	word_count = 0;
	return true;
}

/* ------------------------------------------------------------------------------------------------ the workload */

/* A block may be used again when no record still to be applied has lines for it. */
static bool reusable(const struct model_blk *blk)
{
	return !blk->used && blk->lines_seq <= copy_tail(rig.copy).seq;
}

static void random_lines(struct model_blk *blk, uint64_t mask)
{
	for (unsigned line = 0; line < MEDIA_LINES_PER_BLOCK; line++)
		if (mask >> line & 1)
			memset(blk->content + line * MEDIA_LINE_BYTES, (int)random(), MEDIA_LINE_BYTES);
}

static void change_new(struct model_blk *blk, uint64_t at, bool meta)
{
	uint32_t csum;

	random_lines(blk, UINT64_MAX);
	csum = csum_crc32c(0, blk->content, MEDIA_BLOCK_BYTES);
	blk->used = true;
	blk->type = meta ? MEDIA_META_FIRST : MEDIA_DATA;
	blk->seq = pending.seq;
	pending.used++;
	cr_assert_eq(redo_link(rig.b, at, blk->type, csum), 0);
	if (meta) {
		blk->lines_seq = pending.seq;
		cr_assert_eq(redo_lines(rig.b, at, blk->type, UINT64_MAX, blk->content), 0);
	} else {
		pm_write(&rig.pm, media_off(at), blk->content, MEDIA_BLOCK_BYTES);
	}
}

static void change_used(struct model_blk *blk, uint64_t at)
{
	uint64_t mask = (uint64_t)random() << 33 ^ (uint64_t)random();

	blk->seq = pending.seq;
	if (random() % 4 == 0) {
		blk->used = false;
		pending.used--;
		cr_assert_eq(redo_free(rig.b, at), 0);
		return;
	}
	mask = random() % 3 ? 1ull << random() % 64 : mask | 1;
	random_lines(blk, mask);
	blk->lines_seq = pending.seq;
	cr_assert_eq(redo_lines(rig.b, at, blk->type, mask, blk->content), 0);
}

/* Written and never linked: what a crash or an error leaves in free blocks. */
static void abandon(uint64_t at)
{
	uint8_t junk[MEDIA_BLOCK_BYTES];

	memset(junk, (int)random(), sizeof(junk));
	pm_write(&rig.pm, media_off(at), junk, sizeof(junk));
}

static void workload_commit(void)
{
	unsigned first = (unsigned)random() % BLKS, count = 1 + (unsigned)random() % 4;

	pending = acked;
	pending.seq++;
	for (unsigned i = 0; i < count; i++) {
		unsigned n = (first + i * 3) % BLKS;
		struct model_blk *blk = &pending.blks[n];

		if (blk->used)
			change_used(blk, rig.first + n);
		else if (reusable(blk) && random() % 5 == 0)
			abandon(rig.first + n);
		else if (reusable(blk))
			change_new(blk, rig.first + n, random() % 3 == 0);
	}
	rig_seal(&rig);
	if (rig.rec_len > copy_ring_free(rig.copy)) {
		pending = acked; /* no room: as if it had not been tried */
		return;
	}
	cr_assert_eq(copy_append(rig.copy, rig.rec, rig.rec_len), 0, "%s", errmsg_get());
}

static void workload_checkpoint(void)
{
	uint64_t tail = copy_tail(rig.copy).seq, span = copy_head(rig.copy).seq - tail;
	uint64_t upto = random() % 2 ? UINT64_MAX : tail + 1 + (uint64_t)random() % (span + 1);
	int err = copy_checkpoint(rig.copy, upto, random() % 2 ? UINT64_MAX : (uint64_t)random() % 20000);

	if (err)
		violate("live checkpoint: %d", err);
}

static void setup(void)
{
	rig_init(&rig, RIG_POOL_BYTES, RIG_RING_BYTES);
	durable_fd = memfd_create("durable", 0);
	cr_assert_geq(durable_fd, 0);
	cr_assert_eq(ftruncate(durable_fd, RIG_POOL_BYTES), 0);
	durable = mmap(NULL, RIG_POOL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, durable_fd, 0);
	cr_assert_neq(durable, MAP_FAILED);
	memcpy(durable, rig.pm.base, RIG_POOL_BYTES);
}

static void teardown(void)
{
	munmap(durable, RIG_POOL_BYTES);
	close(durable_fd);
	free(words);
	rig_fini(&rig);
}

TestSuite(replay_crash, .init = setup, .fini = teardown, .timeout = 300);

static void cut_everywhere(unsigned commits)
{
	static const struct pm_observer watch = { .stored = note_stored, .fence = fence_exploring };

	srandom(11);
	rig.pm.observer = &watch;
	for (unsigned i = 0; i < commits && !(violations && dropped != NO_POINT); i++) {
		workload_commit();
		acked = pending;
		if (i % 5 == 4 || copy_ring_free(rig.copy) < RIG_REC_MAX)
			workload_checkpoint();
	}
}

Test(replay_crash, cut_everywhere)
{
	cut_everywhere(60);
	cr_expect_eq(violations, 0, "%u of %u images", violations, images);
	cr_expect_gt(images, 2000);
}

/* ---------------------------------------------------------------------------------------------- crash after crash */

static uint8_t *crash_image; /* what the crash left; NULL while none is under way */

static bool fence_crashing(void *ctx, enum pm_point point)
{
	(void)ctx;
	if (crash_image)
		return true; /* the machine is off; what runs on has no medium any more */
	if (random() % 12 == 0) {
		unsigned kind = (unsigned)random() % 3;
		size_t prefix = word_count ? (size_t)random() % word_count : 0;

		crash_image = malloc(RIG_POOL_BYTES);
		cr_assert_not_null(crash_image);
		memcpy(crash_image, durable, RIG_POOL_BYTES);
		for (size_t i = 0; i < word_count; i++)
			if (kind == 0 ? i < prefix : kind == 1 ? random() % 2 : random() % 20)
				words_apply(crash_image, i, i + 1);
		crashes++;
		return true;
	}
	if (point == dropped)
		return false;
	words_apply(durable, 0, word_count);
	word_count = 0;
	return true;
}

/* The machine comes back with what the crash left. */
static bool reboot(void)
{
	const struct model *model;
	int err;

	memcpy(rig.pm.base, crash_image, RIG_POOL_BYTES);
	memcpy(durable, crash_image, RIG_POOL_BYTES);
	free(crash_image);
	crash_image = NULL;
	word_count = 0;
	redo_begin(rig.b);
	err = rig_reopen(&rig);
	if (err) {
		violate("open: %d", err);
		return false;
	}
	model = model_of(rig.copy);
	if (!model)
		return false;
	acked = *model;
	pending = acked;
	return true;
}

static void cut_at_random(unsigned steps)
{
	static const struct pm_observer watch = { .stored = note_stored, .fence = fence_crashing };

	srandom(12);
	rig.pm.observer = &watch;
	for (unsigned i = 0; i < steps && !violations; i++) {
		if (random() % 5 == 0 || copy_ring_free(rig.copy) < RIG_REC_MAX)
			workload_checkpoint();
		else
			workload_commit();
		if (!crash_image && copy_tail(rig.copy).seq == copy_head(rig.copy).seq)
			model_check(rig.copy, &rig.pm, &pending);
		if (!crash_image)
			acked = pending;
		else if (!reboot())
			return;
	}
}

Test(replay_crash, cut_at_random)
{
	cut_at_random(4000);
	cr_expect_eq(violations, 0);
	cr_expect_gt(crashes, 300);
	cr_expect_gt(acked.seq, 1500);
}

/* ------------------------------------------------------------------------------------------------ planted bugs */

Test(replay_crash, a_missing_fence_is_noticed_when_exploring)
{
	static const enum pm_point points[] = { PM_POINT_DATA, PM_POINT_RECORD, PM_POINT_REPLAY, PM_POINT_SUPERBLOCK };

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		if (i) {
			teardown();
			words = NULL;
			word_count = word_cap = 0;
			memset(&acked, 0, sizeof(acked));
			setup();
		}
		violations = 0;
		dropped = points[i];
		cut_everywhere(60);
		cr_expect_gt(violations, 0, "fence %u was left out, and nothing was noticed", points[i]);
	}
}
