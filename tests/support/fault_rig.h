/* A target inside the test's process: "@local" reaches a control server on a thread of its own instead of an rpmemd,
 * with everything behind it: pool store, engine, lanes over a loopback fabric. A session costs milliseconds, and each
 * end's calls can fail by themselves (faults.h: FAULT_NEAR the initiator's, FAULT_FAR the target's). */
#ifndef RPMEMFS_TESTS_FAULT_RIG_H
#define RPMEMFS_TESTS_FAULT_RIG_H

#include <stdbool.h>

/* From now on; pool_dir NULL: processes again. */
void far_serve(const char *pool_dir);

/* What is left of a run shows here: descriptors, and bytes mapped. */
struct leftovers {
	unsigned fds;
	long mapped;
};
struct leftovers leftovers_now(void);
bool leftovers_same(const struct leftovers *before);

#endif
