/* A file system core on anonymous memory: made, closed, reopened from what its pool holds. */
#ifndef RPMEMFS_TESTS_CORE_RIG_H
#define RPMEMFS_TESTS_CORE_RIG_H

#include "fs/fs.h"

struct core_rig {
	struct pm pm;
	struct copy *copy;
	struct fs *fs;
	struct fs_cfg cfg;
};

/* A formatted, opened core on a pool of bytes with a ring of ring_bytes (0: default). Aborts the test on failure. */
void core_rig_make(struct core_rig *rig, uint64_t bytes, uint64_t ring_bytes);
void core_rig_free(struct core_rig *rig);

/* Throws the running core away, as SIGKILL would, and opens what the pool holds. 0 or fs_open's error. */
int core_rig_crash(struct core_rig *rig);

/* fs_sync_inode / fs_sync_all, polled to the end. */
int core_rig_sync(struct core_rig *rig, uint64_t ino);
int core_rig_sync_all(struct core_rig *rig);

/* Repeats an expression that may give -EAGAIN, polling between. */
#define CORE_RIG_TRY(rig, expr)                                                                                        \
	({                                                                                                             \
		int rig_err;                                                                                           \
		while ((rig_err = (expr)) == -EAGAIN)                                                                  \
			fs_poll((rig)->fs);                                                                            \
		rig_err;                                                                                               \
	})

/* Idle work until there is none, everything committed and checkpointed. */
void core_rig_quiesce(struct core_rig *rig);

/* core_rig_quiesce; then everything the format checker can find wrong fails the test. */
void core_rig_check(struct core_rig *rig);
/* core_rig_check, core_rig_free: for .fini. */
void core_rig_end(struct core_rig *rig);

#endif
