/* See cuts.h. A crash that loses some stores of a set looks the same at this event and at any later one before the fence, so
 * the subsets are drawn once, where the set is largest: at the fence. In between, each event is cut with all stores so far.
 * What changes without a fence is what is allowed: an acknowledgement raises the first allowed state, and the subsets of
 * what is open then are looked at once more. Of a set of few words every subset is looked at; of others none, all, each
 * store alone and left out, parts of stores, and words at random.
 *
 * An image that was recovered before, in this run or in another one, is only asked whether the state it recovers to is among
 * those allowed here. */
#include "cuts.h"

#include <string.h>
#include <unistd.h>
#include "known.h"

#define HANG_SECONDS 30u /* for one image: SIGALRM ends the process, which counts as a violation */
#define ACK_SINGLES 8u

struct cuts {
	struct image *image;
	const struct run *run;
	const struct cuts_cfg *cfg;
	struct cuts_stats *stats;
	struct cuts_place *place;
	char *why;
	unsigned first, last; /* allowed states */
	unsigned quiet_ops;
	bool quiet;           /* the events so far only lead to what is looked at */
	uint64_t seed;
	struct trace recovery;
};

void cuts_stats_add(struct cuts_stats *to, const struct cuts_stats *more)
{
	to->cuts += more->cuts;
	to->images += more->images;
	to->recovered += more->recovered;
	to->exhausted += more->exhausted;
	to->sampled += more->sampled;
}

/* ---------------------------------------------------------------- one image */

static struct hash128 state_hash(const struct cuts *c, unsigned state)
{
	const char *text = c->run->model.states.v[state];

	return csum_hash128(text, strlen(text));
}

/* The same bytes were recovered before, to a state that is allowed now. */
static bool known_good(const struct cuts *c, const struct hash128 *image)
{
	struct hash128 known, allowed;

	if (!known_find(image, &known))
		return false;
	for (unsigned at = c->first; at <= c->last; at++) {
		allowed = state_hash(c, at);
		if (!memcmp(&allowed, &known, sizeof(known)))
			return true;
	}
	return false;
}

/* Work as it is now; it is put back when all is well. */
static int verify(struct cuts *c)
{
	struct hash128 image = image_hash(c->image), state;
	unsigned found;

	c->stats->images++;
	if (!known_good(c, &image)) {
		c->stats->recovered++;
		alarm(HANG_SECONDS);
		if (check_image(c->image, &c->run->model, c->first, c->last, &found, c->why))
			return -1;
		state = state_hash(c, found);
		known_add(&image, &state);
	}
	image_reset(c->image);
	return 0;
}

/* The recovery of this variant, cut somewhere: what it fenced is there, of the rest any words. */
static int look_again(struct cuts *c, const struct image_variant *v)
{
	struct image *image = c->image;
	size_t cut, fenced = 0;

	trace_clear(&c->recovery);
	image_apply(image, v);
	image->second = &c->recovery;
	check_recover(image);
	image->second = NULL;
	image_reset(image);
	if (!c->recovery.events.n)
		return 0;
	cut = explore_random(&c->seed) % c->recovery.events.n;
	for (size_t i = 0; i <= cut; i++)
		if (c->recovery.events.v[i].type == TRACE_FENCE)
			fenced = i;
	image_apply(image, v);
	for (size_t i = 0; i <= cut; i++) {
		const struct trace_event *e = &c->recovery.events.v[i];
		const uint8_t *bytes = c->recovery.arena.v + e->bytes;

		for (uint64_t at = 0; e->type == TRACE_STORE && at < e->len; at += 8)
			if (i < fenced || explore_random(&c->seed) & 1)
				image_poke(image, e->off + at, bytes + at, e->len - at < 8 ? e->len - at : 8);
	}
	c->place->second = true;
	if (verify(c))
		return -1;
	c->place->second = false;
	return 0;
}

static int look(struct cuts *c, struct image_variant v)
{
	if (c->quiet)
		return 0;
	if (v.kind != IMAGE_SUBSET)
		v.seed = explore_random(&c->seed);
	c->place->variant = v;
	image_apply(c->image, &v);
	if (verify(c))
		return -1;
	if (c->cfg->second && explore_random(&c->seed) % c->cfg->second == 0)
		return look_again(c, &v);
	return 0;
}

/* ---------------------------------------------------------------- one set of open stores */

/* Every subset, where the words are few. 1: they are not. */
static int look_subsets(struct cuts *c)
{
	unsigned count = image_units(c->image, c->cfg->units);

	if (count > c->cfg->units)
		return 1;
	for (uint64_t subset = 0; subset < 1ull << count; subset++)
		if (look(c, (struct image_variant){ .kind = IMAGE_SUBSET, .seed = subset }))
			return -1;
	return 0;
}

/* Each store alone and each left out alone; the newest ones always. */
static int look_singles(struct cuts *c, unsigned max)
{
	size_t n = c->image->open.n;

	if (n < 2)
		return 0;
	for (size_t i = 0; i < n; i++) {
		if (n > max && i + 4 < n && explore_random(&c->seed) % n >= max)
			continue;
		if (look(c, (struct image_variant){ .kind = IMAGE_ONLY, .store = i }))
			return -1;
		if (n > 2 && look(c, (struct image_variant){ .kind = IMAGE_BUT, .store = i }))
			return -1;
	}
	return 0;
}

static int look_parts(struct cuts *c)
{
	size_t n = c->image->open.n;

	for (unsigned i = 0; n && i < c->cfg->torn; i++)
		if (look(c, (struct image_variant){ .kind = IMAGE_TORN, .store = explore_random(&c->seed) % n }))
			return -1;
	for (unsigned i = 0; n && i < c->cfg->random; i++)
		if (look(c, (struct image_variant){ .kind = IMAGE_RANDOM }) ||
		    look(c, (struct image_variant){ .kind = IMAGE_WORDS }))
			return -1;
	for (unsigned i = 0; n > 1 && i < c->cfg->pages; i++)
		if (look(c, (struct image_variant){ .kind = IMAGE_PAGES }))
			return -1;
	return 0;
}

/* A one-sided write lands now, over what is durable. */
static int look_late(struct cuts *c)
{
	return image_has_late(c->image) ? look(c, (struct image_variant){ .kind = IMAGE_LATE }) : 0;
}

/* Some of the subsets of what is open. */
static int look_sampled(struct cuts *c, bool acknowledged)
{
	if (look(c, (struct image_variant){ .kind = IMAGE_NONE }))
		return -1;
	if (!acknowledged)
		return look_singles(c, c->cfg->singles) || look_parts(c) ? -1 : 0;
	if (c->image->open.n && look(c, (struct image_variant){ .kind = IMAGE_ALL }))
		return -1;
	return look_singles(c, ACK_SINGLES);
}

/* Before a fence and at the end, or when something was acknowledged. */
static int look_set(struct cuts *c, bool acknowledged)
{
	int err;

	if (c->quiet)
		return 0;
	err = look_subsets(c);
	if (err > 0) {
		c->stats->sampled++;
		err = look_sampled(c, acknowledged);
	} else {
		c->stats->exhausted += c->image->open.n != 0;
	}
	return err || acknowledged ? err : look_late(c);
}

/* ---------------------------------------------------------------- the whole trace */

static int step_event(struct cuts *c, const struct trace_event *e)
{
	switch (e->type) {
	case TRACE_OP:
		c->last = c->run->state_after[e->op];
		c->quiet = e->op < c->quiet_ops;
		return 0;
	case TRACE_ACK:
		if (c->run->state_after[e->op] <= c->first)
			return 0;
		c->first = c->run->state_after[e->op];
		return look_set(c, true);
	case TRACE_FENCE:
		if (look_set(c, false))
			return -1;
		image_step(c->image, &c->run->trace, e);
		return 0;
	case TRACE_STORE:
	case TRACE_PUSH:
		image_step(c->image, &c->run->trace, e);
		return look(c, (struct image_variant){ .kind = IMAGE_ALL });
	case TRACE_ANSWER:
		if (look_late(c))
			return -1;
		image_step(c->image, &c->run->trace, e);
		return 0;
	default:
		image_step(c->image, &c->run->trace, e);
		return 0;
	}
}

/* What happened to the pool, what the workload did, and what the link to the pool carried. */
static bool concerns(const struct trace_event *e, enum trace_pool pool)
{
	if (e->type == TRACE_OP || e->type == TRACE_ACK)
		return true;
	if (e->type == TRACE_POST || e->type == TRACE_ANSWER)
		return pool == TRACE_REPLICA;
	return e->pool == pool;
}

int cuts_explore(struct image *image, const struct run *run, enum trace_pool pool, const uint8_t *start,
		 const struct cuts_cfg *cfg, struct cuts_stats *stats, struct cuts_place *place, char *why)
{
	struct cuts c = { .image = image, .run = run, .cfg = cfg, .stats = stats, .place = place, .why = why,
			  .seed = cfg->seed, .quiet_ops = cfg->quiet, .quiet = cfg->quiet != 0 };
	int err = 0;

	*place = (struct cuts_place){ .pool = pool };
	image_start(image, start);
	for (size_t i = 0; i < run->trace.events.n && !err; i++) {
		const struct trace_event *e = &run->trace.events.v[i];

		if (!concerns(e, pool))
			continue;
		place->event = i;
		err = step_event(&c, e);
		stats->cuts += !c.quiet;
	}
	if (!err)
		err = look_set(&c, false);
	image_reset(image);
	alarm(0);
	trace_free(&c.recovery);
	return err;
}
