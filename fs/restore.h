/* What restore and verify share, and their commands. */
#ifndef RPMEMFS_FS_RESTORE_H
#define RPMEMFS_FS_RESTORE_H

#include "replication.h"

enum restore_exit { RESTORE_DONE = 0, RESTORE_FAILED = 1, RESTORE_USAGE = 2, RESTORE_REFUSED = 3 };

struct restore_cfg {
	const struct poolset *set;
	const char *provider, *command; /* as in repl_cfg */
	const char *from;               /* NULL: the newest */
	const char *without;            /* with force: comma-separated names of the copies not asked */
	bool force, replace;
	bool sparse; /* local parts that are made get space when it is first used */
	bool quiet; /* no progress */
	int (*link_open)(
		const struct poolset_replica *replica, const struct repl_cfg *cfg, struct repl_link **out); /* tests */
};

/* Rebuilds the local parts of a poolset from a replica: prove, fence, copy. What it refuses changed nothing but the
 * fences. Interrupted, it goes on where it was when called again. Errors are told through errmsg.
 * After it the local copy is what the source was, fenced at a new epoch: the first mount takes that epoch over. */
enum restore_exit restore_run(const struct restore_cfg *cfg);

/* Compares the local copy and every replica: histories, tables, content of used blocks. 0: all the same; 1: not, or not
 * all could be asked; what and where is written to stdout. */
enum restore_exit verify_run(const struct restore_cfg *cfg);

int cmd_restore(int argc, char **argv);
int cmd_verify(int argc, char **argv);

/* --- restore_copy.c --- */

struct restore_source {
	struct repl_link
		*links[POOLSET_REPLICAS_MAX]; /* [0] is read; the others hold the same and stand in for bad blocks */
	unsigned count;
	struct media_geom geom;
};

struct progress; /* progress.c */

/* Whether every table is whole on some source, and what is used has its place in a local copy of that geometry. Reads tables
 * only: 0.4 % of what a full pool holds. -EBADMSG, -ENOSPC: not; -ECONNRESET: the first source is lost; errmsg names what. */
int restore_check(const struct media_geom *here, struct restore_source *source);

/* Copies summaries, tables and used blocks of all groups from the one in the copy's page on, and keeps the page's
 * sync_group up to date. The copy is inconsistent and stays so. -EBADMSG: a block is good on no source; errmsg names
 * it. */
int restore_copy(struct copy *copy, struct restore_source *source, struct progress *progress);

/* --- progress.c --- */

/* Shows on stderr how far something is: a bar with percent, rate and time left on a terminal, else a line for each
 * tenth. total 0: unknown. NULL from progress_new (no memory, quiet) is allowed everywhere. */
struct progress *progress_new(const char *what, uint64_t total, bool quiet);
void progress_add(struct progress *p, uint64_t bytes);
void progress_end(struct progress *p, bool done);

#endif
