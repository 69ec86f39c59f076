/* One call of a kind fails, of those that code under test makes: suites linked with -Wl,--wrap see theirs go through
 * here. What libraries call among themselves is not counted, nor what a thread calls that belongs to another side
 * than the one armed.
 *
 *   the nth call      fault_arm(kind, n) ... fault_disarm
 *   by call site      fault_each(kind, side, life, point), which is
 *                     fault_learn(kind, side), a run without faults, fault_disarm, fault_points
 *                     then for each point: fault_arm_at(kind, side, point) ... fault_disarm
 *
 * The second way is for code with threads and polls, where numbers change from run to run: a point is a place in the
 * program and how often it has been passed. */
#ifndef RPMEMFS_TESTS_FAULTS_H
#define RPMEMFS_TESTS_FAULTS_H

#include <stdbool.h>

enum fault_kind {
	FAULT_ALLOC,  /* malloc and its relatives, strdup, vasprintf: NULL, ENOMEM */
	FAULT_MAP,    /* mmap: ENOMEM; msync: EIO */
	FAULT_FENCE,  /* of the persist layer: -EIO; pm.fail is fault_fence */
	FAULT_FILE,   /* system calls on files: EIO; flock: ENOLCK */
	FAULT_FD,     /* what makes a descriptor, and directories to look into: EMFILE; epoll_ctl: ENOMEM */
	FAULT_THREAD, /* threads and processes: EAGAIN */
	FAULT_TALK,   /* sockets: EIO; poll: ENOMEM */
	FAULT_CUT,    /* sockets: they end here, in both directions */
	FAULT_TORN,   /* sockets: half of the bytes still go through, then they end */
	FAULT_POST,   /* libfabric: what is made, connected, posted: -FI_EIO */
	FAULT_WAIT,   /* libfabric: what is waited for and looked at: -FI_EIO */
	FAULT_EVENT,  /* the same: an error entry, FI_ECONNABORTED */
	FAULT_KINDS
};
extern const char *const fault_names[FAULT_KINDS];

/* Call number n of the kind from now on fails, 1 being the next; 0: none does, all are counted. */
void fault_arm(enum fault_kind kind, unsigned n);
/* How many there were; *hit (if given): one has failed. */
unsigned fault_disarm(bool *hit);
/* Whether one has failed since then. */
bool fault_hit(void);
/* For whoever stands in a call's way: whether this one fails. site: where it is called from. */
bool fault_at(enum fault_kind kind, const void *site);
#define fault_now(kind) fault_at(kind, __builtin_return_address(0))

/* --- sides --- */
/* Threads belong to the side of the thread that started them; the first one to FAULT_NEAR. */
enum fault_side { FAULT_NEAR, FAULT_FAR, FAULT_ASIDE /* never fails */, FAULT_ANY };
/* Of the calling thread from now on; the one it had. */
enum fault_side fault_side(enum fault_side side);

/* --- points --- */
struct fault_point {
	const void *site;
	unsigned nth; /* time it is passed, 1 being the first */
};
void fault_learn(enum fault_kind kind, enum fault_side side);
/* Of what was learned: each site's first three times, then each fourfold, and the last. How many. */
unsigned fault_points(struct fault_point points[], unsigned max);
void fault_arm_at(enum fault_kind kind, enum fault_side side, const struct fault_point *point);
/* Learns from one run of life, then has each of its points fail in turn, with *point being that one. Tells how many there
 * were and were hit, which is returned. */
unsigned fault_each(enum fault_kind kind, enum fault_side side, void (*life)(void), struct fault_point *point);
/* For messages: "malloc's caller" as an offset in the binary, for addr2line. */
unsigned long fault_offset(const struct fault_point *point);

/* --- what is left --- */
/* Bytes that mmap gave to our code and munmap has not taken back. */
long fault_mapped(void);
/* Open descriptors of this process. */
unsigned fault_fds(void);
/* Closes connections to the port that this thread has listened on, which the end of its process would: those that
 * were on their way when listening ended are nobody's. */
void fault_connections_end(void);
/* fstatfs says that every file lies on a disk, so that pools in memory are made durable by msync. */
void fault_on_disk(bool yes);

#endif
