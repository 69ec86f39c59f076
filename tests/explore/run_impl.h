/* One core under way: what run.c's operations and session.c's pools and link share. */
#ifndef RPMEMFS_TESTS_EXPLORE_RUN_IMPL_H
#define RPMEMFS_TESTS_EXPLORE_RUN_IMPL_H

#include "run.h"

struct repl_link;

struct sync_wait {
	struct fs_waiter waiter;
	struct trace *trace;
	unsigned op;
	bool done;
	int err;
};

struct session {
	struct pm *pm;
	struct copy *copy;
	struct fs *fs;
	struct repl_link *link;   /* NULL: no replica */
	void (*poll)(struct session *s); /* instead of fs_poll, where more than the core has to be polled */
	bool eager;
	uint64_t answered;        /* by the replica */
	struct trace *trace;
	struct trace_watch watch[TRACE_POOLS];
	struct model *model;
	char *why;
	int handle;               /* model inode opened by OP_OPEN, -1: none */
	uint64_t handle_ino;
	uint64_t gens[MODEL_INODES_MAX];
	struct sync_wait waits[WORKLOAD_OPS_MAX];
};

/* Opens what the start left, and watches it. Aborts on failure. */
void session_begin(struct session *s, const struct run_start *start, const struct workload *w, struct trace *trace,
		  struct model *model, enum pm_point drop, char *why);
/* Fences left out. */
uint64_t session_end(struct session *s);
/* The replica stops handling messages, or goes on. */
void session_hold(struct session *s, bool hold);

/* One operation on file system and model: 0, or -1 with why. */
int session_op(struct session *s, const struct op *op, unsigned idx);

#endif
