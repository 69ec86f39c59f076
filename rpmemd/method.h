/* Which persistency method a session gets: what was wished for, where it proves persistence, else the general one. */
#ifndef RPMEMFS_RPMEMD_METHOD_H
#define RPMEMFS_RPMEMD_METHOD_H

#include <stdbool.h>
#include <stdint.h>
#include "config.h"
#include "persist.h"

struct method_case {
	const char *provider;   /* "tcp", "verbs" */
	enum pm_domain domain;
	bool one_sided;         /* the pool is registered for writes of the peer; the other methods need that */
};

/* An enum wire_method. Says in the log (notice) when a wish is not met, and why. */
uint32_t method_choose(const struct config *config, const struct method_case *at);

/* For logs: "General Purpose Server Persistency Method" ... */
const char *method_title(uint32_t method);
/* What the configuration wishes for, for logs as above. */
const char *method_wish_title(const struct config *config);

/* How the target's CPU makes bytes persistent: "pmem_persist", "pmem_msync" or "none". */
const char *method_flush_name(uint32_t method, enum pm_domain domain);

#endif
