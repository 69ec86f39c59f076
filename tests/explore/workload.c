/* See workload.h. The set-up leaves: /a of three blocks, /d with /d/b of two blocks in it, /e empty. */
#include "workload.h"

#include <stdio.h>
#include <string.h>
#include "below.h"
#include "image.h"

#define LONG_TARGET "a/target/that/is/longer/than/the/inode/holds/and/so/goes/to/a/block/of/its/own/somewhere"

const struct op workload_setup[] = {
	{ OP_MKDIR, "/d", NULL, 0, 0 },
	{ OP_MKDIR, "/e", NULL, 0, 0 },
	{ OP_CREATE, "/a", NULL, 0, 0 },
	{ OP_WRITE, "/a", NULL, 0, 10000 },
	{ OP_CREATE, "/d/b", NULL, 0, 0 },
	{ OP_WRITE, "/d/b", NULL, 0, 5000 },
	{ OP_SYNC_ALL, NULL, NULL, 0, 0 },
};
const unsigned workload_setup_count = sizeof(workload_setup) / sizeof(*workload_setup);

static const struct op pair_ops[] = {
	{ OP_CREATE, "/n", NULL, 0, 0 },
	{ OP_CREATE, "/d/n", NULL, 0, 0 },
	{ OP_MKDIR, "/m", NULL, 0, 0 },
	{ OP_MKDIR, "/d/m", NULL, 0, 0 },
	{ OP_UNLINK, "/a", NULL, 0, 0 },
	{ OP_UNLINK, "/d/b", NULL, 0, 0 },
	{ OP_RMDIR, "/e", NULL, 0, 0 },
	{ OP_RENAME, "/a", "/d/b", 0, 0 },
	{ OP_RENAME, "/a", "/n", 0, 0 },
	{ OP_RENAME, "/d/b", "/a", 0, 0 },
	{ OP_RENAME, "/d", "/e", 0, 0 },
	{ OP_RENAME, "/e", "/d/m", 0, 0 },
	{ OP_EXCHANGE, "/a", "/d/b", 0, 0 },
	{ OP_LINK, "/a", "/d/n", 0, 0 },
	{ OP_LINK, "/d/b", "/n", 0, 0 },
	{ OP_SYMLINK, "/n", "short", 0, 0 },
	{ OP_SYMLINK, "/d/n", LONG_TARGET, 0, 0 },
	{ OP_WRITE, "/a", NULL, 100, 8 },         /* lines in place */
	{ OP_WRITE, "/a", NULL, 4096, 4096 },     /* a whole block */
	{ OP_WRITE, "/a", NULL, 10000, 300 },     /* append */
	{ OP_WRITE, "/a", NULL, 40960, 100 },     /* beyond the end */
	{ OP_WRITE, "/a", NULL, 100, 8000 },      /* across blocks */
	{ OP_WRITE, "/a", NULL, 0, 40960 },       /* long enough to be pushed */
	{ OP_WRITE, "/d/b", NULL, 4000, 200 },
	{ OP_WRITE, "/d/b", NULL, 5000, 6000 },
	{ OP_WRITE, "/n", NULL, 0, 700 },
	{ OP_TRUNCATE, "/a", NULL, 100, 0 },
	{ OP_TRUNCATE, "/a", NULL, 20000, 0 },
	{ OP_TRUNCATE, "/a", NULL, 0, 0 },
	{ OP_CHMOD, "/a", NULL, 0, 0600 },
	{ OP_CHMOD, "/d", NULL, 0, 0700 },
	{ OP_OPEN, "/a", NULL, 0, 0 },
	{ OP_FSYNC, "/a", NULL, 0, 0 },
	{ OP_FSYNC, "/d/b", NULL, 0, 0 },
	{ OP_FSYNC, "/d", NULL, 0, 0 },
	{ OP_FSYNC_START, "/a", NULL, 0, 0 },
	{ OP_SYNC_ALL, NULL, NULL, 0, 0 },
	{ OP_CHECKPOINT, NULL, NULL, 0, 0 },
};
#define PAIR_OPS (sizeof(pair_ops) / sizeof(*pair_ops))

static void add(struct workload *w, struct op op)
{
	if (w->count < WORKLOAD_OPS_MAX)
		w->ops[w->count++] = op;
}

unsigned workload_pairs(void)
{
	return PAIR_OPS * PAIR_OPS;
}

void workload_pair(struct workload *w, unsigned i)
{
	const struct op *first = &pair_ops[i / PAIR_OPS], *second = &pair_ops[i % PAIR_OPS];

	*w = (struct workload){ .eager = i & 1, .file = i % 4 == 3, .start = i % 5 == 0 ? START_RING_SEAM : START_PLAIN };
	add(w, *first);
	add(w, *second);
	add(w, (struct op){ .kind = OP_FSYNC, .path = "/" }); /* the name space alone: no content but what the two linked */
	add(w, (struct op){ .kind = OP_FSYNC, .path = i & 2 ? "/a" : "/d/b" });
	if (first->kind == OP_OPEN)
		add(w, (struct op){ .kind = OP_CLOSE });
	add(w, (struct op){ .kind = OP_IDLE });
	add(w, (struct op){ .kind = OP_SYNC_ALL });
	add(w, (struct op){ .kind = OP_CHECKPOINT });
}

/* ---------------------------------------------------------------- triples */

static const struct op triple_ops[] = {
	{ OP_CREATE, "/n", NULL, 0, 0 },
	{ OP_MKDIR, "/d/m", NULL, 0, 0 },
	{ OP_UNLINK, "/a", NULL, 0, 0 },
	{ OP_UNLINK, "/d/b", NULL, 0, 0 },
	{ OP_RMDIR, "/e", NULL, 0, 0 },
	{ OP_RENAME, "/a", "/d/b", 0, 0 },
	{ OP_RENAME, "/d/b", "/e/f", 0, 0 },
	{ OP_RENAME, "/d", "/e", 0, 0 },
	{ OP_EXCHANGE, "/a", "/d/b", 0, 0 },
	{ OP_LINK, "/a", "/e/f", 0, 0 },
	{ OP_SYMLINK, "/d/n", LONG_TARGET, 0, 0 },
	{ OP_WRITE, "/a", NULL, 100, 8 },
	{ OP_WRITE, "/a", NULL, 4096, 5000 },
	{ OP_WRITE, "/a", NULL, 0, 40960 },
	{ OP_WRITE, "/d/b", NULL, 4000, 3000 },
	{ OP_WRITE, "/n", NULL, 0, 700 },
	{ OP_TRUNCATE, "/a", NULL, 100, 0 },
	{ OP_TRUNCATE, "/d/b", NULL, 20000, 0 },
	{ OP_CHMOD, "/a", NULL, 0, 0600 },
	{ OP_CHMOD, "/d", NULL, 0, 0700 },
};
#define TRIPLE_OPS (sizeof(triple_ops) / sizeof(*triple_ops))

static const struct op triple_syncs[] = {
	{ .kind = OP_IDLE }, /* none */
	{ OP_FSYNC, "/a", NULL, 0, 0 },
	{ OP_FSYNC, "/d/b", NULL, 0, 0 },
	{ OP_FSYNC, "/d", NULL, 0, 0 },
	{ OP_FSYNC_START, "/a", NULL, 0, 0 },
	{ .kind = OP_SYNC_ALL },
	{ .kind = OP_CHECKPOINT },
};
#define TRIPLE_SYNCS (sizeof(triple_syncs) / sizeof(*triple_syncs))

unsigned workload_stems(void)
{
	return TRIPLE_OPS * TRIPLE_SYNCS * TRIPLE_OPS * TRIPLE_SYNCS;
}

uint64_t workload_triples(void)
{
	return workload_stems() * TRIPLE_OPS;
}

/* How it is run is drawn for each stem, so that all ways meet all operations. */
void workload_stem(struct workload *w, unsigned i)
{
	uint64_t state = i, draw = explore_random(&state);

	*w = (struct workload){ .start = draw % 3 == 0 ? START_RING_SEAM : START_PLAIN, .replica = draw >> 8 & 1,
				.eager = draw >> 9 & 1, .file = (draw >> 10) % 8 == 0 };
	for (unsigned part = 0; part < 2; part++) {
		add(w, triple_ops[i % TRIPLE_OPS]);
		i /= TRIPLE_OPS;
		add(w, triple_syncs[i % TRIPLE_SYNCS]);
		i /= TRIPLE_SYNCS;
	}
}

void workload_triple(struct workload *w, uint64_t i)
{
	workload_stem(w, (unsigned)(i % workload_stems()));
	w->quiet = WORKLOAD_STEM_OPS;
	add(w, triple_ops[i / workload_stems()]);
	add(w, (struct op){ OP_FSYNC, "/a", NULL, 0, 0 });
	add(w, (struct op){ .kind = OP_SYNC_ALL });
}

/* ---------------------------------------------------------------- cases */

#define W(path, off, len) { OP_WRITE, path, NULL, off, len }
#define ALL { .kind = OP_SYNC_ALL }

static const struct op case_names[] = { { OP_CREATE, "/n", NULL, 0, 0 }, ALL, { OP_UNLINK, "/n", NULL, 0, 0 }, ALL };
static const struct op case_overwrite[] = { W("/a", 0, 9000), { OP_FSYNC, "/a", NULL, 0, 0 }, W("/a", 0, 9000), ALL };
static const struct op case_rename[] = { W("/a", 0, 9000), { OP_RENAME, "/a", "/n", 0, 0 }, { OP_FSYNC, "/", NULL, 0, 0 } };
static const struct op case_chmod[] = { W("/a", 0, 9000), { OP_CHMOD, "/a", NULL, 0, 0600 }, { OP_FSYNC, "/", NULL, 0, 0 } };
/* Searches go round the pool: so much has to be staged and given up until the next free block is one of the first again. */
#define GIVEN_UP(path, len) W(path, 0, len), { OP_TRUNCATE, path, NULL, 0, 0 }
#define FOUR_PUSHES GIVEN_UP("/a", 36864), GIVEN_UP("/a", 36864), GIVEN_UP("/a", 36864), GIVEN_UP("/a", 36864)
#define FOUR_SHORT GIVEN_UP("/n", 28672), GIVEN_UP("/n", 28672), GIVEN_UP("/n", 28672), GIVEN_UP("/n", 28672)

static const struct op case_abandoned[] = {
	FOUR_PUSHES, FOUR_PUSHES, FOUR_PUSHES, W("/d/b", 0, 24576), { OP_FSYNC, "/d/b", NULL, 0, 0 }, ALL,
};
/* Blocks are freed by a commit that the replica has not got yet, and pushes come round to them. */
static const struct op case_freed[] = {
	{ OP_CREATE, "/n", NULL, 0, 0 }, W("/a", 0, 36864), ALL, { .kind = OP_HOLD }, W("/a", 0, 36864),
	{ OP_FSYNC_START, "/a", NULL, 0, 0 }, FOUR_SHORT, FOUR_SHORT, GIVEN_UP("/n", 28672), GIVEN_UP("/n", 28672),
	GIVEN_UP("/n", 28672), W("/d/b", 0, 36864), W("/n", 0, 36864), W("/a", 0, 36864), { .kind = OP_RELEASE }, ALL,
};
/* The same by every way a block changes hands, with the ring full of lines. */
static const struct op case_hands[] = {
	W("/a", 100, 8), ALL, W("/a", 0, 9000), ALL, { OP_SYMLINK, "/n", LONG_TARGET, 0, 0 }, ALL, { OP_UNLINK, "/n", NULL, 0, 0 },
	ALL, W("/a", 0, 40960), ALL, { OP_TRUNCATE, "/a", NULL, 0, 0 }, ALL, W("/d/b", 0, 40960), ALL, W("/d/b", 4200, 8), ALL,
	W("/a", 0, 40960), ALL, { OP_TRUNCATE, "/d/b", NULL, 100, 0 }, ALL, { .kind = OP_CHECKPOINT },
};

/* The primary's tail passes records that the replicas' tails have not: what those freed is free for the next mount, while the
 * replicas still have lines of it in their rings. */
static const struct op case_tails[] = {
	W("/a", 100, 8), ALL, W("/a", 0, 9000), ALL, { .kind = OP_CHECKPOINT }, { .kind = OP_REMOUNT }, W("/d/b", 0, 40960), ALL,
	ALL,
};
/* The same without a mount: a record that frees a block is in a replica's ring behind one that has lines for it. */
static const struct op case_replayed[] = {
	W("/d/b", 4090, 4100), ALL, { OP_CREATE, "/n", NULL, 0, 0 }, { OP_TRUNCATE, "/d/b", NULL, 4096, 0 }, ALL,
};
static const struct op case_lost[] = {
	W("/a", 0, 9000), { OP_LOSE, NULL, NULL, 0, 1 }, { OP_FSYNC, "/a", NULL, 0, 0 }, W("/d/b", 0, 40960), ALL,
	{ .kind = OP_RETURN }, W("/a", 100, 8), ALL,
};
/* Both replicas are lost before they have it: the sync waits until one is back. */
static const struct op case_rule[] = {
	W("/a", 0, 9000), { OP_LOSE, NULL, NULL, 0, 1 }, { OP_LOSE, NULL, NULL, 1, 1 }, { OP_FSYNC_START, "/a", NULL, 0, 0 },
	{ .kind = OP_IDLE }, { .kind = OP_IDLE }, { .kind = OP_RETURN }, ALL,
};
/* One is away while blocks are linked, lines in them change and a checkpoint is asked for. */
static const struct op case_away[] = {
	{ OP_LOSE, NULL, NULL, 0, 0 }, W("/d/b", 0, 36864), ALL, W("/d/b", 100, 8), ALL, { .kind = OP_CHECKPOINT },
	{ .kind = OP_RETURN }, ALL,
};
/* The replicas have commits that the local copy has not. */
static const struct op case_ahead[] = { W("/a", 0, 9000), ALL, W("/d/b", 0, 36864), ALL };
static const struct op case_open[] = {
	{ OP_OPEN, "/a", NULL, 0, 0 }, { OP_UNLINK, "/a", NULL, 0, 0 }, ALL, { .kind = OP_IDLE }, W(OP_HANDLE, 0, 9000),
	{ OP_FSYNC, OP_HANDLE, NULL, 0, 0 }, { .kind = OP_CLOSE }, { .kind = OP_IDLE }, ALL,
};
static const struct op case_restored[] = {
	W("/a", 0, 40960), { OP_CREATE, "/n", NULL, 0, 0 }, ALL, { .kind = OP_RESTORE }, W("/d/b", 100, 8), ALL,
};

#define CASE_OF(name, ops) name, ops, sizeof(ops) / sizeof(*(ops))
#define CASE(name) CASE_OF(#name, case_##name)
static const struct {
	const char *name;
	const struct op *ops;
	unsigned count;
	enum start start;
	enum { LOCAL, REPLICA, CLUSTER, CLUSTER_EAGER } who;
	enum focus focus;
} cases[] = {
	{ CASE(names), START_PLAIN, LOCAL, FOCUS_ANY },
	{ CASE(overwrite), START_PLAIN, LOCAL, FOCUS_ANY },
	{ CASE(rename), START_PLAIN, LOCAL, FOCUS_ANY },
	{ CASE(chmod), START_PLAIN, LOCAL, FOCUS_ANY },
	{ CASE(open), START_PLAIN, LOCAL, FOCUS_ANY },
	{ CASE(abandoned), START_TIGHT, REPLICA, FOCUS_ANY },
	{ CASE(freed), START_TIGHT, REPLICA, FOCUS_ANY },
	{ CASE(hands), START_TIGHT, REPLICA, FOCUS_ANY },
	{ CASE(tails), START_PLAIN, CLUSTER, FOCUS_ANY },
	{ CASE(replayed), START_PLAIN, CLUSTER, FOCUS_ANY },
	{ CASE(lost), START_PLAIN, CLUSTER, FOCUS_ANY },
	{ CASE(rule), START_PLAIN, CLUSTER, FOCUS_ANY },
	{ CASE(away), START_PLAIN, CLUSTER, FOCUS_ANY },
	{ CASE_OF("away-rot", case_away), START_PLAIN, CLUSTER, FOCUS_ROT },
	{ CASE_OF("ahead-rot", case_ahead), START_PLAIN, CLUSTER_EAGER, FOCUS_ROT },
	{ CASE_OF("ahead-without", case_ahead), START_PLAIN, CLUSTER_EAGER, FOCUS_WITHOUT },
	{ CASE(restored), START_PLAIN, CLUSTER, FOCUS_ANY },
};

const char *workload_case(struct workload *w, unsigned i)
{
	const unsigned count = sizeof(cases) / sizeof(*cases);

	if (i >= count) {
		*w = (struct workload){ .below = i - count + 1 };
		return below_name(i - count);
	}
	*w = (struct workload){ .start = cases[i].start, .replica = cases[i].who == REPLICA, .cluster = cases[i].who >= CLUSTER,
				.takeover = cases[i].who >= CLUSTER, .eager = cases[i].who == CLUSTER_EAGER,
				.focus = cases[i].focus };
	for (unsigned k = 0; k < cases[i].count; k++)
		add(w, cases[i].ops[k]);
	return cases[i].name;
}

/* ---------------------------------------------------------------- random ones */

static const char *const files[] = { "/a", "/d/b", "/n", "/e/f", "/d/n" };
static const char *const dirs[] = { "/d", "/e", "/m", "/e/m" };
#define PICK(seed, table) ((table)[explore_random(seed) % (sizeof(table) / sizeof(*(table)))])

static struct op random_write(uint64_t *seed)
{
	static const uint64_t offs[] = { 0, 0, 60, 100, 4096, 4090, 8192, 12000, 30000, 65536 };
	static const uint64_t lens[] = { 8, 64, 200, 1000, 4096, 4100, 8192, 20000, 36864 };

	return (struct op){ OP_WRITE, explore_random(seed) % 8 ? PICK(seed, files) : OP_HANDLE, NULL, PICK(seed, offs),
			    PICK(seed, lens) };
}

static struct op random_truncate(uint64_t *seed)
{
	static const uint64_t sizes[] = { 0, 1, 100, 4096, 5000, 8192, 30000, 90000 };

	return (struct op){ OP_TRUNCATE, PICK(seed, files), NULL, PICK(seed, sizes), 0 };
}

static struct op random_name_op(uint64_t *seed)
{
	switch (explore_random(seed) % 12) {
	case 0: case 1:
		return (struct op){ OP_CREATE, PICK(seed, files), NULL, 0, 0 };
	case 2:
		return (struct op){ OP_MKDIR, PICK(seed, dirs), NULL, 0, 0 };
	case 3:
		return (struct op){ OP_SYMLINK, PICK(seed, files), explore_random(seed) & 1 ? "short" : LONG_TARGET, 0, 0 };
	case 4:
		return (struct op){ OP_LINK, PICK(seed, files), PICK(seed, files), 0, 0 };
	case 5: case 6:
		return (struct op){ OP_UNLINK, PICK(seed, files), NULL, 0, 0 };
	case 7:
		return (struct op){ OP_RMDIR, PICK(seed, dirs), NULL, 0, 0 };
	case 8:
		return (struct op){ OP_RENAME, PICK(seed, dirs), PICK(seed, dirs), 0, 0 };
	case 9:
		return (struct op){ OP_EXCHANGE, PICK(seed, files), PICK(seed, files), 0, 0 };
	default:
		return (struct op){ OP_RENAME, PICK(seed, files), PICK(seed, files), 0, 0 };
	}
}

static struct op random_sync(uint64_t *seed)
{
	switch (explore_random(seed) % 6) {
	case 0:
		return (struct op){ .kind = OP_SYNC_ALL };
	case 1:
		return (struct op){ OP_FSYNC, PICK(seed, dirs), NULL, 0, 0 };
	case 2:
		return (struct op){ OP_FSYNC_START, PICK(seed, files), NULL, 0, 0 };
	case 3:
		return (struct op){ OP_FSYNC, OP_HANDLE, NULL, 0, 0 };
	default:
		return (struct op){ OP_FSYNC, PICK(seed, files), NULL, 0, 0 };
	}
}

static struct op random_other(uint64_t *seed)
{
	switch (explore_random(seed) % 8) {
	case 0:
		return (struct op){ OP_CHMOD, PICK(seed, files), NULL, 0, 0600 + explore_random(seed) % 64 };
	case 1:
		return (struct op){ OP_CHMOD, PICK(seed, dirs), NULL, 0, 0700 + explore_random(seed) % 64 };
	case 2:
		return (struct op){ OP_OPEN, PICK(seed, files), NULL, 0, 0 };
	case 3:
		return (struct op){ .kind = OP_CLOSE };
	case 4:
		return (struct op){ .kind = OP_HOLD };
	case 5:
		return (struct op){ .kind = OP_RELEASE };
	case 6:
		return (struct op){ .kind = OP_IDLE };
	default:
		return (struct op){ .kind = OP_CHECKPOINT };
	}
}

static void random_mixed(struct workload *w, uint64_t *seed)
{
	unsigned count = 12 + explore_random(seed) % 40;

	for (unsigned i = 0; i < count; i++) {
		unsigned what = explore_random(seed) % 16;

		add(w, what < 5 ? random_write(seed) : what < 6 ? random_truncate(seed) :
		       what < 10 ? random_name_op(seed) : what < 13 ? random_sync(seed) : random_other(seed));
	}
}

/* Blocks change hands: data overwritten as a whole, lines changed in what was just committed, metadata blocks (long symbolic
 * links, directories) made and freed, and rarely a checkpoint, so that the ring is full of lines of blocks that were freed. */
static void random_reuse(struct workload *w, uint64_t *seed)
{
	static const struct op ops[] = {
		{ OP_WRITE, "/a", NULL, 0, 36864 }, { OP_WRITE, "/a", NULL, 0, 20480 }, { OP_WRITE, "/a", NULL, 8192, 20480 },
		{ OP_WRITE, "/a", NULL, 100, 8 }, { OP_WRITE, "/a", NULL, 12300, 64 }, { OP_WRITE, "/d/b", NULL, 0, 8192 },
		{ OP_WRITE, "/d/b", NULL, 4200, 8 }, { OP_SYMLINK, "/n", LONG_TARGET, 0, 0 }, { OP_UNLINK, "/n", NULL, 0, 0 },
		{ OP_SYMLINK, "/d/n", LONG_TARGET, 0, 0 }, { OP_UNLINK, "/d/n", NULL, 0, 0 }, { OP_MKDIR, "/m", NULL, 0, 0 },
		{ OP_CREATE, "/m/f", NULL, 0, 0 }, { OP_UNLINK, "/m/f", NULL, 0, 0 }, { OP_RMDIR, "/m", NULL, 0, 0 },
		{ OP_RENAME, "/a", "/d/b", 0, 0 }, { OP_CREATE, "/a", NULL, 0, 0 }, { .kind = OP_IDLE },
	};
	unsigned count = 70;

	w->start = START_TIGHT;
	w->quiet = 40;
	for (unsigned i = 0; i < count; i++) {
		unsigned what = explore_random(seed) % 8;

		if (what < 5)
			add(w, PICK(seed, ops));
		else if (what == 5 && explore_random(seed) % 4 == 0)
			add(w, (struct op){ .kind = OP_CHECKPOINT });
		else
			add(w, (struct op){ .kind = OP_SYNC_ALL });
	}
}

void workload_random(struct workload *w, uint64_t seed)
{
	uint64_t state = seed;

	*w = (struct workload){ .seed = seed, .file = seed % 4 == 0, .start = explore_random(&state) % STARTS, .eager = explore_random(&state) & 1,
				.replica = explore_random(&state) & 1 };
	if (explore_random(&state) % 3)
		random_mixed(w, &state);
	else
		random_reuse(w, &state);
	add(w, (struct op){ .kind = OP_SYNC_ALL });
	add(w, (struct op){ .kind = OP_CHECKPOINT });
}

/* ---------------------------------------------------------------- clusters */

static struct op random_plain(uint64_t *seed)
{
	unsigned what = explore_random(seed) % 8;

	return what < 4 ? random_write(seed) : what < 5 ? random_truncate(seed) : random_name_op(seed);
}

/* One replica may be away at a time, so that every sync is acknowledged; nothing is open across a remount. */
void workload_cluster(struct workload *w, uint64_t i)
{
	uint64_t state = i ^ 0xc105;
	unsigned steps = 3 + explore_random(&state) % 4;
	bool away = false;

	*w = (struct workload){ .cluster = true, .takeover = i % 4 == 0, .eager = i % 3 == 0, .seed = i };
	for (unsigned step = 0; step < steps; step++) {
		unsigned event = explore_random(&state) % 6;

		for (unsigned k = explore_random(&state) % 4; k > 0; k--)
			add(w, random_plain(&state));
		if (event == 0 && !away)
			add(w, (struct op){ OP_LOSE, NULL, NULL, explore_random(&state) % 2, explore_random(&state) % 3 });
		away |= event == 0;
		add(w, random_plain(&state));
		add(w, (struct op){ .kind = OP_SYNC_ALL });
		if (event == 1)
			add(w, (struct op){ .kind = OP_CHECKPOINT });
		if (event == 1 || event == 2)
			add(w, (struct op){ .kind = OP_REMOUNT });
		if (event == 3 && !away)
			add(w, (struct op){ .kind = OP_RESTORE });
		if (event == 4 && away) {
			add(w, (struct op){ .kind = OP_RETURN });
			away = false;
		}
	}
	add(w, (struct op){ .kind = OP_RETURN });
	add(w, random_plain(&state));
	add(w, (struct op){ .kind = OP_SYNC_ALL });
}

/* ---------------------------------------------------------------- words */

bool op_syncs(const struct op *op)
{
	return op->kind == OP_FSYNC || op->kind == OP_FSYNC_START || op->kind == OP_SYNC_ALL;
}

void op_print(const struct op *op, char *buf, size_t size)
{
	static const char *const names[OP_KINDS] = {
		[OP_CREATE] = "create", [OP_MKDIR] = "mkdir", [OP_SYMLINK] = "symlink", [OP_LINK] = "link",
		[OP_UNLINK] = "unlink", [OP_RMDIR] = "rmdir", [OP_RENAME] = "rename", [OP_EXCHANGE] = "exchange",
		[OP_WRITE] = "write", [OP_TRUNCATE] = "truncate", [OP_CHMOD] = "chmod", [OP_OPEN] = "open",
		[OP_CLOSE] = "close", [OP_FSYNC] = "fsync", [OP_FSYNC_START] = "start fsync", [OP_SYNC_ALL] = "sync all",
		[OP_IDLE] = "idle", [OP_CHECKPOINT] = "checkpoint", [OP_HOLD] = "hold replica",
		[OP_RELEASE] = "release replica", [OP_LOSE] = "lose replica", [OP_RETURN] = "replicas return",
		[OP_REMOUNT] = "kill and remount", [OP_RESTORE] = "lose the pool and restore",
	};
	int n = snprintf(buf, size, "%s", names[op->kind]);

	if (op->path)
		n += snprintf(buf + n, size - (size_t)n, " %s", op->path);
	if (op->to)
		n += snprintf(buf + n, size - (size_t)n, " %.16s", op->to);
	if (op->kind == OP_WRITE)
		snprintf(buf + n, size - (size_t)n, " %llu+%llu", (unsigned long long)op->off, (unsigned long long)op->len);
	if (op->kind == OP_LOSE)
		snprintf(buf + n, size - (size_t)n, " %llu%s", (unsigned long long)op->off,
			 op->len == 0 ? "" : op->len == 1 ? " before the next commit" : " behind the next commit");
	if (op->kind == OP_TRUNCATE)
		snprintf(buf + n, size - (size_t)n, " to %llu", (unsigned long long)op->off);
	if (op->kind == OP_CHMOD)
		snprintf(buf + n, size - (size_t)n, " %o", (unsigned)op->len);
}
