/* See image.h. Only pages that a variant, a recovery or the run touched are put back, so an image costs what it changes. */
#include "image.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE PAGES_BYTES
#define WORD 8u

uint64_t explore_random(uint64_t *state) /* splitmix64 */
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static void work_stored(void *ctx, uint64_t off, const void *bytes, uint64_t len)
{
	struct image *image = ctx;

	pages_add(&image->touched, off, len);
	if (!image->second)
		return;
	trace_push(image->second, TRACE_LOCAL, off, bytes, len);
	image->second->events.v[image->second->events.n - 1].type = TRACE_STORE;
}

static bool work_fenced(void *ctx, enum pm_point point)
{
	struct image *image = ctx;

	(void)point;
	if (image->second)
		trace_mark(image->second, TRACE_FENCE, 0);
	return true;
}

/* A page's share of the sum: where it lies counts as much as what is in it. */
static void sum_add(uint64_t sum[2], uint64_t page, const struct hash128 *hash, bool add)
{
	uint64_t part[2], place = page;

	memcpy(part, hash->b, sizeof(part));
	for (unsigned i = 0; i < 2; i++) {
		uint64_t mix = part[i] ^ explore_random(&place);

		mix = explore_random(&mix);
		sum[i] += add ? mix : -mix;
	}
}

/* Zeros, all of it. */
static void hashes_make(struct image *image)
{
	uint64_t pages = image->pm.len / PAGE;
	struct hash128 zeros = csum_hash128(image->base, PAGE);

	image->hashes = calloc(pages, sizeof(*image->hashes));
	EXPLORE_MUST(image->hashes ? 0 : -ENOMEM);
	for (uint64_t page = 0; page < pages; page++) {
		image->hashes[page] = zeros;
		sum_add(image->sum, page, &zeros, true);
	}
}

void image_make(struct image *image, uint64_t bytes)
{
	*image = (struct image){ .observer = { .ctx = image, .stored = work_stored, .fence = work_fenced } };
	pm_init(&image->pm, pages_memory(bytes), bytes, PM_MEMORY);
	image->base = pages_memory(bytes);
	image->pm.observer = &image->observer;
	pages_make(&image->moved, bytes);
	pages_make(&image->touched, bytes);
	pages_make(&image->stale, bytes);
	hashes_make(image);
}

void image_free(struct image *image)
{
	munmap(image->pm.base, image->pm.len);
	munmap(image->base, image->pm.len);
	free(image->hashes);
	pages_free(&image->moved);
	pages_free(&image->touched);
	pages_free(&image->stale);
	vec_free(&image->open);
	vec_free(&image->late);
}

static void base_moves(struct image *image, uint64_t off, uint64_t len)
{
	pages_add(&image->moved, off, len);
	pages_add(&image->stale, off, len);
}

void image_start(struct image *image, const void *bytes)
{
	image_reset(image);
	if (image->start != bytes) {
		for (uint64_t off = 0; off < image->pm.len; off += PAGE)
			if (memcmp(image->base + off, (const uint8_t *)bytes + off, PAGE) != 0)
				base_moves(image, off, PAGE);
		image->start = bytes;
	}
	for (size_t i = 0; i < image->moved.list.n; i++) {
		uint64_t off = (uint64_t)image->moved.list.v[i] * PAGE;

		memcpy(image->pm.base + off, image->start + off, PAGE);
		pages_add(&image->stale, off, PAGE);
	}
	pages_put_back(&image->moved, image->base, image->start);
	image->open.n = image->late.n = 0;
}

void image_reset(struct image *image)
{
	pages_put_back(&image->touched, image->pm.base, image->base);
}

struct hash128 image_hash(struct image *image)
{
	struct hash128 hash;
	uint64_t sum[2];

	for (size_t i = 0; i < image->stale.list.n; i++) {
		uint64_t page = image->stale.list.v[i];

		sum_add(image->sum, page, &image->hashes[page], false);
		image->hashes[page] = csum_hash128(image->base + page * PAGE, PAGE);
		sum_add(image->sum, page, &image->hashes[page], true);
	}
	pages_clear(&image->stale);
	memcpy(sum, image->sum, sizeof(sum));
	for (size_t i = 0; i < image->touched.list.n; i++) {
		uint64_t page = image->touched.list.v[i];

		hash = csum_hash128(image->pm.base + page * PAGE, PAGE);
		sum_add(sum, page, &image->hashes[page], false);
		sum_add(sum, page, &hash, true);
	}
	memcpy(hash.b, sum, sizeof(hash.b));
	return hash;
}

void image_poke(struct image *image, uint64_t off, const void *bytes, uint64_t len)
{
	pages_add(&image->touched, off, len);
	memcpy(image->pm.base + off, bytes, len);
}

/* ---------------------------------------------------------------- the cut moves on */

static void open_remove(struct image *image, size_t i)
{
	memmove(image->open.v + i, image->open.v + i + 1, (--image->open.n - i) * sizeof(*image->open.v));
}

/* A push under a store that is durable now cannot come back: what the medium holds there is the newer one. */
static void open_cover(struct image *image, uint64_t off, uint64_t len)
{
	for (size_t i = 0; i < image->open.n; i++) {
		struct image_store s = image->open.v[i], right = s;
		uint64_t end = s.off + s.len;

		if (s.flushed || s.off >= off + len || end <= off)
			continue;
		image->open.v[i].len = s.off < off ? off - s.off : 0;
		if (end > off + len) {
			right.off = off + len;
			right.len = end - right.off;
			right.bytes += right.off - s.off;
			EXPLORE_MUST(vec_push(&image->open, right));
		}
	}
}

/* Something else than what was pushed is durable where the push may still land. */
static void late_cover(struct image *image, uint64_t off, uint64_t len)
{
	for (size_t i = 0; i < image->late.n; i++) {
		struct image_late *l = &image->late.v[i];
		uint64_t from = l->off > off ? l->off : off, to = l->off + l->len < off + len ? l->off + l->len : off + len;

		if (from < to && memcmp(image->base + from, l->bytes + (from - l->off), to - from) != 0)
			l->covered = true;
	}
}

/* A commit was posted, or is answered: then what was pushed before it has landed. */
static void late_post(struct image *image, uint64_t seq)
{
	for (size_t i = 0; i < image->late.n; i++)
		if (!image->late.v[i].until)
			image->late.v[i].until = seq;
}

static void late_answer(struct image *image, uint64_t seq)
{
	size_t kept = 0;

	for (size_t i = 0; i < image->late.n; i++)
		if (!image->late.v[i].until || image->late.v[i].until > seq)
			image->late.v[kept++] = image->late.v[i];
	image->late.n = kept;
}

bool image_has_late(const struct image *image)
{
	for (size_t i = 0; i < image->late.n; i++)
		if (image->late.v[i].covered)
			return true;
	return false;
}

static void fence(struct image *image)
{
	for (size_t i = 0; i < image->open.n; i++) {
		struct image_store s = image->open.v[i];

		if (!s.flushed)
			continue;
		base_moves(image, s.off, s.len);
		memcpy(image->base + s.off, s.bytes, s.len);
		memcpy(image->pm.base + s.off, s.bytes, s.len);
		open_cover(image, s.off, s.len);
		late_cover(image, s.off, s.len);
	}
	for (size_t i = image->open.n; i-- > 0;)
		if (image->open.v[i].flushed || !image->open.v[i].len)
			open_remove(image, i);
}

static void flush(struct image *image, uint64_t off, uint64_t len)
{
	for (size_t i = 0; i < image->open.n; i++) {
		struct image_store *s = &image->open.v[i];

		if (s->off >= off && s->off + s->len <= off + len)
			s->flushed = true;
	}
}

/* Pushes are taken block by block, as they are flushed and reused. */
static void open_push(struct image *image, const struct trace_event *event, const uint8_t *bytes)
{
	EXPLORE_MUST(vec_push(&image->late, ((struct image_late){ .off = event->off, .len = event->len, .bytes = bytes })));
	for (uint64_t at = 0; at < event->len; at += PAGE) {
		uint64_t len = event->len - at < PAGE ? event->len - at : PAGE;

		EXPLORE_MUST(vec_push(&image->open, ((struct image_store){ event->off + at, len, bytes + at, false })));
	}
}

void image_step(struct image *image, const struct trace *trace, const struct trace_event *event)
{
	const uint8_t *bytes = trace->arena.v + event->bytes;

	assert(image->touched.list.n == 0);
	switch (event->type) {
	case TRACE_STORE:
		EXPLORE_MUST(vec_push(&image->open, ((struct image_store){ event->off, event->len, bytes, true })));
		break;
	case TRACE_PUSH:
		open_push(image, event, bytes);
		break;
	case TRACE_FLUSH:
		flush(image, event->off, event->len);
		break;
	case TRACE_FENCE:
		fence(image);
		break;
	case TRACE_WIPE:
		image->open.n = image->late.n = 0;
		base_moves(image, 0, image->pm.len);
		memset(image->base, 0, image->pm.len);
		memset(image->pm.base, 0, image->pm.len);
		break;
	case TRACE_POST:
		late_post(image, event->op);
		break;
	case TRACE_ANSWER:
		late_answer(image, event->op);
		break;
	default:
		break;
	}
}

/* ---------------------------------------------------------------- variants */

enum part { PART_NONE, PART_ALL, PART_PREFIX, PART_SUFFIX, PART_ONE_WORD, PART_BUT_ONE_WORD, PART_WORDS, PARTS };

/* The words of a store that a part takes; words lie where the pool's 8-byte units do. */
static void put_part(struct image *image, const struct image_store *s, enum part part, uint64_t *seed)
{
	uint64_t first = s->off / WORD, count = (s->off + s->len - 1) / WORD - first + 1;
	uint64_t pick = explore_random(seed) % count;

	if (part == PART_NONE)
		return;
	if (part == PART_ALL) {
		image_poke(image, s->off, s->bytes, s->len);
		return;
	}
	for (uint64_t i = 0; i < count; i++) {
		uint64_t from = (first + i) * WORD, to = from + WORD;
		bool take = part == PART_PREFIX ? i < pick : part == PART_SUFFIX ? i >= pick :
			    part == PART_ONE_WORD ? i == pick : part == PART_BUT_ONE_WORD ? i != pick :
			    explore_random(seed) & 1;

		if (from < s->off)
			from = s->off;
		if (to > s->off + s->len)
			to = s->off + s->len;
		if (take)
			image_poke(image, from, s->bytes + (from - s->off), to - from);
	}
}

static enum part part_of(const struct image_variant *v, size_t i, enum part others, enum part torn, uint64_t *seed)
{
	switch (v->kind) {
	case IMAGE_NONE:
		return PART_NONE;
	case IMAGE_ALL:
	case IMAGE_LATE:
		return PART_ALL;
	case IMAGE_ONLY:
		return i == v->store ? PART_ALL : PART_NONE;
	case IMAGE_BUT:
		return i == v->store ? PART_NONE : PART_ALL;
	case IMAGE_TORN:
		return i == v->store ? torn : others;
	case IMAGE_RANDOM:
		return explore_random(seed) % PARTS;
	default:
		return PART_WORDS;
	}
}

/* How many of n stores the page has seen: any number, none and all more often than others. */
static size_t page_moment(uint64_t page, size_t n, uint64_t seed)
{
	uint64_t state = seed ^ page * 0x2545f4914f6cdd1dull, draw = explore_random(&state);

	return draw % 4 == 0 ? 0 : draw % 4 == 1 ? n : explore_random(&state) % (n + 1);
}

static void put_pages(struct image *image, size_t i, uint64_t seed)
{
	const struct image_store *s = &image->open.v[i];

	for (uint64_t at = s->off, end = s->off + s->len, next; at < end; at = next) {
		next = (at / PAGE + 1) * PAGE < end ? (at / PAGE + 1) * PAGE : end;
		if (i < page_moment(at / PAGE, image->open.n, seed))
			image_poke(image, at, s->bytes + (at - s->off), next - at);
	}
}

/* Goes through the words of the open stores in the order of storing, over base with all before: those that differ from what
 * lies there count. With take, only those whose bit is set stay. Any subset of the words gives the image of some subset of
 * these: one that is stored as it was can be left out, or replaced by the one that stored the same before. */
static unsigned units(struct image *image, unsigned max, const uint64_t *take)
{
	VEC(struct image_store) taken = { NULL, 0, 0 };
	unsigned count = 0;

	for (size_t i = 0; i < image->open.n && count <= max; i++) {
		const struct image_store *s = &image->open.v[i];

		for (uint64_t at = s->off, end = s->off + s->len, next; at < end && count <= max; at = next) {
			const uint8_t *bytes = s->bytes + (at - s->off);

			next = (at / WORD + 1) * WORD < end ? (at / WORD + 1) * WORD : end;
			if (memcmp(image->pm.base + at, bytes, next - at) == 0)
				continue;
			if (take && *take >> count & 1)
				EXPLORE_MUST(vec_push(&taken, ((struct image_store){ at, next - at, bytes, true })));
			image_poke(image, at, bytes, next - at);
			count++;
		}
	}
	image_reset(image);
	for (size_t i = 0; i < taken.n; i++)
		image_poke(image, taken.v[i].off, taken.v[i].bytes, taken.v[i].len);
	vec_free(&taken);
	return count;
}

unsigned image_units(struct image *image, unsigned max)
{
	assert(max <= IMAGE_UNITS_MAX);
	assert(image->touched.list.n == 0);
	return units(image, max, NULL);
}

void image_apply(struct image *image, const struct image_variant *v)
{
	uint64_t seed = v->seed;
	enum part others = explore_random(&seed) & 1 ? PART_ALL : PART_NONE;
	enum part torn = PART_PREFIX + explore_random(&seed) % (PARTS - PART_PREFIX);

	assert(image->touched.list.n == 0);
	if (v->kind == IMAGE_SUBSET) {
		units(image, IMAGE_UNITS_MAX, &v->seed);
		return;
	}
	for (size_t i = 0; i < image->open.n; i++) {
		if (v->kind == IMAGE_PAGES)
			put_pages(image, i, v->seed);
		else
			put_part(image, &image->open.v[i], part_of(v, i, others, torn, &seed), &seed);
	}
	for (size_t i = 0; i < image->late.n && v->kind == IMAGE_LATE; i++)
		image_poke(image, image->late.v[i].off, image->late.v[i].bytes, image->late.v[i].len);
}

const char *image_kind_name(enum image_kind kind)
{
	static const char *const names[IMAGE_KINDS] = {
		[IMAGE_NONE] = "none", [IMAGE_ALL] = "all", [IMAGE_ONLY] = "only", [IMAGE_BUT] = "all but",
		[IMAGE_TORN] = "torn", [IMAGE_RANDOM] = "random", [IMAGE_WORDS] = "words", [IMAGE_PAGES] = "pages",
		[IMAGE_LATE] = "late", [IMAGE_SUBSET] = "subset",
	};

	return names[kind];
}
