/* One call of a kind fails, the nth of those that code under test makes: suites linked with -Wl,--wrap see theirs go through
 * here. Counting is on between fault_arm and fault_disarm. What libraries call among themselves is not counted. */
#ifndef RPMEMFS_TESTS_FAULTS_H
#define RPMEMFS_TESTS_FAULTS_H

#include <stdbool.h>

enum fault_kind {
	FAULT_ALLOC, /* malloc and its relatives, strdup, vasprintf: NULL, ENOMEM */
	FAULT_MAP,   /* mmap: ENOMEM; msync: EIO */
	FAULT_FENCE, /* of the persist layer: -EIO; pm.fail is fault_fence */
	FAULT_FILE,  /* system calls on files: EIO */
	FAULT_POST,  /* rpmem/fabric: what is made, connected, posted: -EIO */
	FAULT_WAIT,  /* ... and what is waited for and looked at: -EIO */
	FAULT_TALK,  /* control channel and target's process: -EIO, EIO */
	FAULT_KINDS
};

/* Call number n of the kind from now on fails, 1 being the next; 0: none does, all are counted. */
void fault_arm(enum fault_kind kind, unsigned n);
/* How many there were; *hit (if given): one has failed. */
unsigned fault_disarm(bool *hit);
/* For whoever stands in a call's way: whether this one fails. */
bool fault_now(enum fault_kind kind);

#endif
