/* See image.h. Only pages that a variant or a recovery touched are put back, so an image costs what it changes. */
#include "image.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096u
#define WORD 8u

uint64_t explore_random(uint64_t *state) /* splitmix64 */
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static void touch(struct image *image, uint64_t off, uint64_t len)
{
	for (uint64_t page = off / PAGE; len && page <= (off + len - 1) / PAGE; page++) {
		if (image->touched[page])
			continue;
		image->touched[page] = 1;
		EXPLORE_MUST(vec_push(&image->pages, (uint32_t)page));
	}
}

static void work_stored(void *ctx, uint64_t off, const void *bytes, uint64_t len)
{
	struct image *image = ctx;

	touch(image, off, len);
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

static uint8_t *memory(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	EXPLORE_MUST(p == MAP_FAILED ? -ENOMEM : 0);
	return p;
}

void image_make(struct image *image, uint64_t bytes)
{
	*image = (struct image){ .observer = { .ctx = image, .stored = work_stored, .fence = work_fenced } };
	pm_init(&image->pm, memory(bytes), bytes, PM_MEMORY);
	image->base = memory(bytes);
	image->pm.observer = &image->observer;
	image->touched = calloc(1, bytes / PAGE);
	EXPLORE_MUST(image->touched ? 0 : -ENOMEM);
}

void image_free(struct image *image)
{
	munmap(image->pm.base, image->pm.len);
	munmap(image->base, image->pm.len);
	free(image->touched);
	vec_free(&image->open);
	vec_free(&image->late);
	vec_free(&image->pages);
}

void image_start(struct image *image, const void *bytes)
{
	image_reset(image);
	memcpy(image->base, bytes, image->pm.len);
	memcpy(image->pm.base, bytes, image->pm.len);
	image->open.n = image->late.n = 0;
}

void image_reset(struct image *image)
{
	for (size_t i = 0; i < image->pages.n; i++) {
		uint32_t page = image->pages.v[i];

		memcpy(image->pm.base + (uint64_t)page * PAGE, image->base + (uint64_t)page * PAGE, PAGE);
		image->touched[page] = 0;
	}
	image->pages.n = 0;
}

void image_poke(struct image *image, uint64_t off, const void *bytes, uint64_t len)
{
	touch(image, off, len);
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

	assert(image->pages.n == 0);
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

void image_apply(struct image *image, const struct image_variant *v)
{
	uint64_t seed = v->seed;
	enum part others = explore_random(&seed) & 1 ? PART_ALL : PART_NONE;
	enum part torn = PART_PREFIX + explore_random(&seed) % (PARTS - PART_PREFIX);

	assert(image->pages.n == 0);
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
		[IMAGE_LATE] = "late",
	};

	return names[kind];
}
