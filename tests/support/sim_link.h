/* A replica in this process: memory with a copy on it, rpmemd's engine in front, and links to it that can be cut, muted
 * or made to die at a chosen commit. The memory stays when a link goes, as a machine's would. */
#ifndef RPMEMFS_TESTS_SIM_LINK_H
#define RPMEMFS_TESTS_SIM_LINK_H

#include "repl.h"

#define SIM_TARGETS_MAX 4u

struct engine;
struct sim_link;

struct sim_target {
	char name[POOLSET_NAME_BYTES_MAX]; /* of the replica in the poolset */
	struct pm pm;
	struct copy *copy;
	struct engine *engine;
	struct sim_link *link; /* the session, NULL: none */
	bool rma;

	bool unreachable;         /* connecting fails */
	bool mute;                /* requests are handled, their answers held back */
	bool hold;                /* requests are not even handled */
	uint64_t die_before;      /* the link dies when this commit is posted, before it is handled; 0: never */
	uint64_t die_after;       /* ... after it is handled, before the answer */
	uint64_t commits, pushes; /* seen by the target, all sessions */
	uint64_t polls;           /* of its links, all sessions */
};

extern struct sim_target sim_targets[SIM_TARGETS_MAX];

/* A target of that name with bytes of zeroed memory. */
struct sim_target *sim_target_add(const char *name, uint64_t bytes);
void sim_targets_free(void);
/* Cuts the link as a dead peer would: it is DOWN at the next poll. */
void sim_target_cut(struct sim_target *target, int err);
/* Handles what was held, hands out answers that were held back. */
void sim_target_release(struct sim_target *target);
/* The copy as it is now, opened for reading when there is no session; closed by sim_copy_put. */
struct copy *sim_copy_get(struct sim_target *target);
void sim_copy_put(struct sim_target *target, struct copy *copy);

/* What repl_link_open does, for replication_cfg.link_open: the target is found by the replica's name. */
int sim_link_open(const struct poolset_replica *replica, const struct repl_cfg *cfg, struct repl_link **out);

#endif
