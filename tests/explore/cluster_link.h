/* Links of a cluster: sim_link's, with what goes over them in the trace, so that one-sided writes may land late. */
#ifndef RPMEMFS_TESTS_EXPLORE_CLUSTER_LINK_H
#define RPMEMFS_TESTS_EXPLORE_CLUSTER_LINK_H

#include "repl.h"
#include "trace.h"

/* Where to; noted is what concerns replicas whose pool is watched. NULL: nowhere. replicas_first: they handle a commit while it
 * is posted, before the local copy stores it. */
void cluster_link_trace(struct trace *to, bool replicas_first);

/* For replication_cfg.link_open. */
int cluster_link_open(const struct poolset_replica *replica, const struct repl_cfg *cfg, struct repl_link **out);

#endif
