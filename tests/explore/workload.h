/* Workloads: short lists of operations over two files and two directories, with every kind of sync. A workload is a value:
 * the same one always does the same. */
#ifndef RPMEMFS_TESTS_EXPLORE_WORKLOAD_H
#define RPMEMFS_TESTS_EXPLORE_WORKLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum op_kind {
	OP_CREATE, OP_MKDIR, OP_SYMLINK, OP_LINK, OP_UNLINK, OP_RMDIR, OP_RENAME, OP_EXCHANGE,
	OP_WRITE, OP_TRUNCATE, OP_CHMOD, OP_OPEN, OP_CLOSE,
	OP_FSYNC,        /* waits */
	OP_FSYNC_START,  /* goes on while the commit flies */
	OP_SYNC_ALL,
	OP_IDLE,         /* background work: orphans, checkpoint when it is due */
	OP_CHECKPOINT,   /* everything settled is put in place */
	OP_HOLD,         /* the replica stops handling ... */
	OP_RELEASE,      /* ... and goes on */
	/* Of clusters only: */
	OP_LOSE,         /* replica off goes: len 0 at once, 1 before it handles the next commit, 2 behind that */
	OP_RETURN,       /* ... and is back */
	OP_REMOUNT,      /* the primary is killed and mounts again */
	OP_RESTORE,      /* its pool is lost: restored and mounted */
	OP_KINDS
};

#define OP_HANDLE "@" /* instead of a path: the file opened by OP_OPEN */

struct op {
	enum op_kind kind;
	const char *path, *to;  /* to: link, rename; a symlink's target */
	uint64_t off, len;      /* write; truncate: off is the size; chmod: len is the mode */
};

enum start {
	START_PLAIN,    /* ring empty, its position at the start */
	START_RING_END, /* the next records wrap around */
	START_RING_SEAM, /* the same, with old records only where pairs and triples come to: quicker to recover */
	START_TIGHT,    /* few free blocks: freed ones are used again soon */
	STARTS
};

/* What comes after a crash of a cluster more often than by chance. */
enum focus { FOCUS_ANY, FOCUS_ROT, FOCUS_WITHOUT };

#define WORKLOAD_OPS_MAX 96u

struct workload {
	enum start start;
	unsigned below;    /* none of the file system's: number of below.c's case + 1 */
	bool cluster;      /* with two, under the real policy */
	bool takeover;     /* ... and in the end a restore elsewhere while the primary lives */
	enum focus focus;
	bool replica;      /* with a replica */
	bool file;         /* pools are page-cache files: durable is what was msynced */
	bool eager;        /* the replica handles a commit before the local copy stores it, else after */
	uint64_t seed;     /* of a random one, else 0 */
	unsigned quiet;    /* operations before the first that is cut */
	unsigned count;
	struct op ops[WORKLOAD_OPS_MAX];
};

/* Set-up that every start has been through. */
extern const struct op workload_setup[];
extern const unsigned workload_setup_count;

/* Pair number i of workload_pairs(), each followed by syncs, idle work and a checkpoint. */
unsigned workload_pairs(void);
void workload_pair(struct workload *w, unsigned i);
/* Triple number i of workload_triples(): three operations with each kind of sync, or none, behind the first and the second.
 * The first two with their syncs are its stem: number i % workload_stems(), a workload of its own, whose crash points are
 * those of every triple that has it. */
uint64_t workload_triples(void);
void workload_triple(struct workload *w, uint64_t i);
unsigned workload_stems(void);
void workload_stem(struct workload *w, unsigned i);
#define WORKLOAD_STEM_OPS 4u
/* Cluster number i, of any: operations, losses, returns, remounts and restores by seed. */
void workload_cluster(struct workload *w, uint64_t i);
/* Short ones made for one rule each. NULL: no such one. */
const char *workload_case(struct workload *w, unsigned i);
/* A longer one by seed. */
void workload_random(struct workload *w, uint64_t seed);

bool op_syncs(const struct op *op);
/* One line. */
void op_print(const struct op *op, char *buf, size_t size);

#endif
