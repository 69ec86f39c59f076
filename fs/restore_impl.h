/* What the steps of a restore share. */
#ifndef RPMEMFS_FS_RESTORE_IMPL_H
#define RPMEMFS_FS_RESTORE_IMPL_H

#include <errno.h>
#include "errmsg.h"
#include "pool.h"
#include "restore.h"

struct restore {
	const struct restore_cfg *cfg;
	const struct poolset *set;
	struct repl_link *links[POOLSET_REPLICAS_MAX]; /* by index in the poolset; NULL: not reached */
	struct repl_link *source;
	struct fs_state_omf state; /* the source's */
	uint64_t epoch;
	uint8_t epoch_id[16];
	bool local_healthy;
	bool local_blank;    /* parts are there, and hold no more than a restore that was cut off early */
	struct copy_point local_head;
	uint8_t local_content[16];
	struct pool *pool;
	struct copy *copy;
};

#define refused(...) errmsg_set(-ECANCELED, __VA_ARGS__)

/* This command once more, with what it was given and more. */
struct again {
	char text[512];
};
struct again again(const struct restore *rs, const char *more);

/* restore_look.c: what is there of the local parts. -ECANCELED: in use, or nothing that may be overwritten unasked. */
int restore_look(struct restore *rs);

#endif
