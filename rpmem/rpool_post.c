/* How debts become operations of a lane, by persistency method.
 *
 *   what is flushed        GPSPM                        APM                          COMMIT
 *   flags 0, deep          inside messages, stored by the target's CPU, answered: 8-byte words stay whole
 *   relaxed, small         inside messages              one-sided                    one-sided
 *   relaxed, large         one-sided, named behind      one-sided                    one-sided
 *   proof at the drain     the answers                  a read behind the writes     the writes' completions
 *
 * Without registered memory at the target everything goes inside messages. Ranges that stand together in the debts
 * become one operation: many small flushes are one message, one large range is a train of them in the window of the
 * lane, and either takes one round trip in effect.
 *
 * A message is handled after everything posted before it has arrived, but a one-sided write may overtake the handling
 * of the message before it. So one that overlaps bytes still inside unanswered messages waits for the answers. */
#include "rpool.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include "errmsg.h"

#define RELAXED_INLINE_BYTES (16u << 10) /* below: a message costs less than a write and a message (measured) */
#define NAMED_MAX 16u                    /* ranges of one push and of the message that names them */
#define PROOF_BYTES 8u

static const struct method {
	uint64_t inline_below; /* relaxed ranges */
	bool named;            /* a message behind the writes has the target flush them */
	bool proof_read;
} methods[] = {
	[WIRE_METHOD_GPSPM] = { .inline_below = RELAXED_INLINE_BYTES, .named = true },
	[WIRE_METHOD_APM] = { .proof_read = true },
	[WIRE_METHOD_COMMIT] = { .inline_below = 0 },
};
static_assert(sizeof(methods) / sizeof(methods[0]) == WIRE_METHOD_LAST + 1, "a method without its row");

static const struct method *method_of(const struct rlane *rl)
{
	return &methods[rl->route->info.method];
}

bool rlane_inline(const struct rlane *rl, enum debt_kind kind, uint64_t len)
{
	if (kind != DEBT_RELAXED || !rl->route)
		return true;
	return !(rl->route->info.caps & CTL_CAP_RMA) || len < method_of(rl)->inline_below;
}

static bool debt_inline(const struct rlane *rl, unsigned i)
{
	return rlane_inline(rl, rl->debts->kinds[i], rl->debts->ranges[i].len);
}

/* Debts from the first unposted one on that make one operation. */
static unsigned run_len(const struct rlane *rl, unsigned max)
{
	const struct debts *debts = rl->debts;
	unsigned first = rl->posted, n = 1;
	bool inside = debt_inline(rl, first);

	while (n < max && first + n < rl->count && debt_inline(rl, first + n) == inside &&
	       (debts->kinds[first + n] == DEBT_DEEP) == (debts->kinds[first] == DEBT_DEEP))
		n++;
	return n;
}

static bool overlap(const struct repl_range *a, const struct repl_range *b)
{
	return a->off < b->off + b->len && b->off < a->off + a->len;
}

/* Whether some message that is not answered may hold bytes of the range. */
static bool overtakes(const struct rlane *rl, const struct repl_range *range)
{
	if (!lane_ops(rl->lane))
		return false;
	for (unsigned i = 0; i < rl->posted; i++)
		if (overlap(&rl->debts->ranges[i], range) && debt_inline(rl, i))
			return true;
	return false;
}

static int post_messages(struct rlane *rl, unsigned *n)
{
	*n = run_len(rl, RPOOL_DEBTS_MAX);
	return lane_write(rl->lane, &rl->debts->ranges[rl->posted], *n, rl->debts->kinds[rl->posted] == DEBT_DEEP);
}

static int post_one_sided(struct rlane *rl, unsigned *n)
{
	const struct repl_range *ranges = &rl->debts->ranges[rl->posted];
	struct repl_range named[NAMED_MAX];
	int err;

	*n = run_len(rl, NAMED_MAX);
	for (unsigned i = 0; i < *n; i++) {
		if (overtakes(rl, &ranges[i]))
			*n = i;
	}
	if (!*n)
		return 0;
	err = lane_push(rl->lane, ranges, *n);
	rl->behind = true;
	rl->behind_off = ranges[*n - 1].off;
	if (err || !method_of(rl)->named)
		return err;
	memcpy(named, ranges, *n * sizeof(named[0]));
	for (unsigned i = 0; i < *n; i++)
		named[i].src = NULL;
	return lane_write(rl->lane, named, *n, false);
}

int rlane_post(struct rlane *rl)
{
	while (rl->posted < rl->count) {
		unsigned n = 0;
		int err;

		if (lane_ops(rl->lane) + 2 > LANE_OPS_MAX)
			return 1;
		err = debt_inline(rl, rl->posted) ? post_messages(rl, &n) : post_one_sided(rl, &n);
		if (err) {
			rl->dead = err != -ENOMEM;
			return err;
		}
		if (!n)
			return 1;
		rl->posted += n;
	}
	rl->gathered = 0;
	return 0;
}

int rlane_post_proof(struct rlane *rl)
{
	uint64_t left = rl->pool->size - rl->behind_off;
	int err;

	if (!rl->behind || !method_of(rl)->proof_read) {
		rl->behind = false;
		return 0;
	}
	if (lane_full(rl->lane))
		return 1;
	err = lane_read(rl->lane, rl->behind_off, rl->scratch, left < PROOF_BYTES ? (uint32_t)left : PROOF_BYTES);
	rl->behind = err;
	rl->dead = err && err != -ENOMEM;
	return err;
}
