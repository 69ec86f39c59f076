/* See workload.h. The set-up leaves: /a of three blocks, /d with /d/b of two blocks in it, /e empty. */
#include "workload.h"

#include <stdio.h>
#include <string.h>
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

unsigned workload_op_count(void)
{
	return PAIR_OPS;
}

unsigned workload_pairs(void)
{
	return PAIR_OPS * PAIR_OPS;
}

void workload_pair(struct workload *w, unsigned i)
{
	const struct op *first = &pair_ops[i / PAIR_OPS], *second = &pair_ops[i % PAIR_OPS];

	*w = (struct workload){ .eager = i & 1, .start = i % 5 == 0 ? START_RING_END : START_PLAIN };
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

	*w = (struct workload){ .seed = seed, .start = explore_random(&state) % STARTS, .eager = explore_random(&state) & 1,
				.replica = explore_random(&state) & 1 };
	if (explore_random(&state) % 3)
		random_mixed(w, &state);
	else
		random_reuse(w, &state);
	add(w, (struct op){ .kind = OP_SYNC_ALL });
	add(w, (struct op){ .kind = OP_CHECKPOINT });
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
		[OP_RELEASE] = "release replica",
	};
	int n = snprintf(buf, size, "%s", names[op->kind]);

	if (op->path)
		n += snprintf(buf + n, size - (size_t)n, " %s", op->path);
	if (op->to)
		n += snprintf(buf + n, size - (size_t)n, " %.16s", op->to);
	if (op->kind == OP_WRITE)
		snprintf(buf + n, size - (size_t)n, " %llu+%llu", (unsigned long long)op->off, (unsigned long long)op->len);
	if (op->kind == OP_TRUNCATE)
		snprintf(buf + n, size - (size_t)n, " to %llu", (unsigned long long)op->off);
	if (op->kind == OP_CHMOD)
		snprintf(buf + n, size - (size_t)n, " %o", (unsigned)op->len);
}
