/* librpmem: replication of memory to a pool on another machine (or, with the target "@local", of another process).
 *
 *   rpmem_create | rpmem_open -> rpmem_persist ... | rpmem_flush ... rpmem_drain | rpmem_read -> rpmem_close
 *
 * The interface is librpmem 1.3 of PMDK, so that programs made for that library run with this one; extensions stand
 * behind it. A handle connects one region of local memory with one remote pool of the same layout: what is persisted is
 * copied from an offset in the local region to the same offset in the pool. Nothing is ever written to the local region
 * but by rpmem_read into a buffer that lies there.
 *
 * Lanes are independent connections, made when they are first used (lane 0 by opening, to try the way). Any number of
 * threads may use a handle, each on lanes of its own: one lane belongs to one thread at a time, and no order exists
 * between lanes. rpmem_set_attr and rpmem_info may be called by any thread at any time; rpmem_close when no other call
 * is under way.
 *
 * A peer that is dead, stopped or cut off is noticed within RPMEM_NOTICE_MS (5000). Every data call then re-establishes
 * the session by itself, sends again what was not drained, and goes on: the caller sees a delay and no error. That may
 * take RPMEM_RECONNECT_MS (10000; 0: never tried). When it does not succeed, or the pool there has lost its memory or
 * was made anew (ESTALE), the handle has failed for good: from then on every call returns -1 with the same errno and
 * message at once.
 *
 * Functions that return int return 0, or -1 with errno; those that return a pointer, NULL with errno. rpmem_errormsg
 * then explains in words. A wrong argument is EINVAL and leaves the handle as it was. */
#ifndef LIBRPMEM_H
#define LIBRPMEM_H 1

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

#define RPMEM_MAJOR_VERSION 1
#define RPMEM_MINOR_VERSION 3

#define RPMEM_POOL_HDR_SIG_LEN 8
#define RPMEM_POOL_HDR_UUID_LEN 16
#define RPMEM_POOL_USER_FLAGS_LEN 16

#define RPMEM_MIN_POOL ((size_t)(1024 * 8))        /* bytes of a pool, header included */
#define RPMEM_MIN_PART ((size_t)(1024 * 1024 * 2)) /* bytes of a part file at the target */

typedef struct rpmem_pool RPMEMpool;

/* What stands in the pool's header at the target. */
struct rpmem_pool_attr {
	char signature[RPMEM_POOL_HDR_SIG_LEN];
	uint32_t major;
	uint32_t compat_features;
	uint32_t incompat_features;
	uint32_t ro_compat_features;
	unsigned char poolset_uuid[RPMEM_POOL_HDR_UUID_LEN];
	unsigned char uuid[RPMEM_POOL_HDR_UUID_LEN];      /* of the first part */
	unsigned char next_uuid[RPMEM_POOL_HDR_UUID_LEN]; /* of the next replica */
	unsigned char prev_uuid[RPMEM_POOL_HDR_UUID_LEN]; /* of the previous replica */
	unsigned char user_flags[RPMEM_POOL_USER_FLAGS_LEN];
};

/* ---------------------------------------------------------------- life */

/* rpmem_create makes the pool of pool_set_name at the target: from the pool set file of that name below the directory
 * that rpmemd serves, whose parts must not hold a pool. rpmem_open opens one that exists. Both lock it against other
 * sessions.
 *
 * target: [user@]host[:port] by SSH, [user@][ipv6][:port], or "@local". pool_addr, pool_size: the local region, page
 * aligned, its first 4096 bytes being the header's place; it stays the caller's and must stay mapped until rpmem_close.
 * nlanes: in, lanes wanted; out, lanes granted: at most RPMEM_MAX_NLANES and what the target grants.
 * create_attr: goes into the header; NULL or all zero: a pool without headers, whose set must say OPTION NOHDRS.
 * open_attr: filled from the header (zero without headers), may be NULL. Nothing is compared.
 *
 * Durable on return of rpmem_create: headers and size of the parts. A create that fails leaves no parts behind. Blocks
 * up to 30 s.
 *
 * EINVAL: an argument; target or pool_set_name malformed; pool set file or its parts wrong; attributes and OPTION
 * NOHDRS or SINGLEHDR contradict each other. ENOENT: no such pool set or part. EEXIST: a part holds a pool already.
 * EFBIG: the pool there is smaller than pool_size. EBUSY: in use. EACCES: permission there. ENOMEDIUM: no usable fabric
 * provider, or the host is unknown. EMEDIUMTYPE: the provider is not usable at the target. ECONNRESET: the target
 * cannot be reached, or ended before its answer. EPROTO, EPROTONOSUPPORT: not a target of this library. ETIMEDOUT.
 * EREMOTEIO: anything else, its log says what. An rpmemd that cannot start tells its own errno. */
RPMEMpool *rpmem_create(const char *target, const char *pool_set_name, void *pool_addr, size_t pool_size,
			unsigned *nlanes, const struct rpmem_pool_attr *create_attr);
RPMEMpool *rpmem_open(const char *target, const char *pool_set_name, void *pool_addr, size_t pool_size,
		      unsigned *nlanes, struct rpmem_pool_attr *open_attr);

/* Stores new attributes in the headers, durable on return. NULL: all zero, which only a pool without headers takes, and
 * which is all it takes: EINVAL. Blocks as data calls do. */
int rpmem_set_attr(RPMEMpool *rpp, const struct rpmem_pool_attr *attr);

/* Ends the session. What was flushed and not drained may or may not arrive. -1: the target was gone (ECONNRESET) or the
 * handle had failed; the handle is freed in any case. */
int rpmem_close(RPMEMpool *rpp);

#define RPMEM_REMOVE_FORCE 0x1    /* what is missing is no error */
#define RPMEM_REMOVE_POOL_SET 0x2 /* the pool set file as well */

/* Removes the part files of a pool at the target, with RPMEM_REMOVE_POOL_SET the pool set file too. EINVAL: unknown
 * flags, target, name. ENOENT; EAGAIN: in use; else as rpmem_open. */
int rpmem_remove(const char *target, const char *pool_set_name, int flags);

/* ---------------------------------------------------------------- data
 * Offsets count from pool_addr. offset + length must not exceed pool_size, lane must be below *nlanes, flags known:
 * else EINVAL. In a pool with headers an offset below 4096 is EINVAL for everything that writes. Errors besides: see
 * the top of this file; ECONNRESET when the session could not be re-established; EIO: the target's medium failed. */

#define RPMEM_PERSIST_RELAXED (1U << 0) /* no 8-byte atomicity */
#define RPMEM_FLUSH_RELAXED (1U << 0)

/* Copies the range to the pool; durable there on return. flags 0: an aligned 8-byte word is, whatever fails, there
 * whole or not at all: the target's CPU stores it. RPMEM_PERSIST_RELAXED gives that up: large ranges are then written
 * one-sided. */
int rpmem_persist(RPMEMpool *rpp, size_t offset, size_t length, unsigned lane, unsigned flags);
/* Starts the copy and does not wait for it (but for room: RPMEM_WORK_QUEUE_SIZE messages are under way at most). The
 * local bytes are read between this call and the drain and must not change meanwhile. Nothing is durable before the
 * drain. */
int rpmem_flush(RPMEMpool *rpp, size_t offset, size_t length, unsigned lane, unsigned flags);
/* Waits: everything flushed on this lane before is durable on return. flags: 0. */
int rpmem_drain(RPMEMpool *rpp, unsigned lane, unsigned flags);
/* As rpmem_persist with flags 0, and also out of the buffers of the target's platform. offset: never below 4096. */
int rpmem_deep_persist(RPMEMpool *rpp, size_t offset, size_t length, unsigned lane);
/* Copies from the pool to buff. Sees what was persisted or drained before. */
int rpmem_read(RPMEMpool *rpp, void *buff, size_t offset, size_t length, unsigned lane);

/* ---------------------------------------------------------------- version, messages */

/* NULL: a program made for that version runs with this library. Else why not; static text. */
const char *rpmem_check_version(unsigned major_required, unsigned minor_required);
/* Why the newest call of this thread failed; "" before the first failure. Valid until the thread's next call. */
const char *rpmem_errormsg(void);

/* ---------------------------------------------------------------- extensions
 * Not part of PMDK's librpmem; version node LIBRPMEM_EXT_1.0. */
#define RPMEM_EXTENSIONS 1

struct rpmem_range {
	size_t offset;
	size_t length;
};

/* rpmem_flush of count ranges; all are checked before any is started. EINVAL as rpmem_flush. */
int rpmem_flushv(RPMEMpool *rpp, const struct rpmem_range *ranges, unsigned count, unsigned lane, unsigned flags);

/* A drain for event loops, one at a time for each lane:
 *
 *   rpmem_drain_start -> sleep on rpmem_lane_fd -> rpmem_drain_poll: 1, sleep again | 0, durable | -1
 *
 * start posts everything flushed before and never waits for an answer. poll makes progress and does not wait either: 1
 * while the drain is under way, also while a lost session is re-established in the background; 0: everything flushed
 * before start is durable; -1 with errno: as rpmem_drain. One may sleep on the descriptor after poll has returned 1,
 * until it is readable (level). What is flushed after start is part of the same drain. wait is poll and sleep until
 * done or, after timeout_ms (negative: no limit), -1 with ETIMEDOUT, the drain being still under way. poll and wait
 * without start: EINVAL. Every other data call of the lane ends the drain as well: it waits for all before it. */
int rpmem_drain_start(RPMEMpool *rpp, unsigned lane);
int rpmem_drain_poll(RPMEMpool *rpp, unsigned lane);
int rpmem_drain_wait(RPMEMpool *rpp, unsigned lane, int timeout_ms);
/* The lane's descriptor, the same until rpmem_close, which closes it; only to sleep on. -1: EINVAL, EMFILE, ENFILE,
 * ENOMEM. */
int rpmem_lane_fd(RPMEMpool *rpp, unsigned lane);

#define RPMEM_GROUP_MAX 32u

/* The same range of several handles at once, each on its lane of that number: posted to all, then waited for all, so
 * that it takes as long as the slowest and not the sum. 0: durable on all. -1 with the errno of the first that failed,
 * in order; on all others it is durable all the same. EINVAL (any handle, before any is started): as rpmem_persist;
 * count 0 or over RPMEM_GROUP_MAX; a handle given twice. rpmem_group_drain is rpmem_drain likewise. */
int rpmem_group_persist(RPMEMpool *const rpps[], unsigned count, size_t offset, size_t length, unsigned lane,
			unsigned flags);
int rpmem_group_drain(RPMEMpool *const rpps[], unsigned count, unsigned lane);

enum rpmem_method {
	RPMEM_METHOD_GPSPM = 1, /* the target's CPU makes bytes persistent and answers */
	RPMEM_METHOD_APM,       /* relaxed writes: one read behind them proves persistence */
	RPMEM_METHOD_COMMIT,    /* relaxed writes: the provider's commit completion does */
};
enum rpmem_domain {
	RPMEM_DOMAIN_MEMORY = 1, /* survives the target's processes, not its power */
	RPMEM_DOMAIN_PMEM,       /* persistent memory */
	RPMEM_DOMAIN_FILE,       /* files, written back by msync(2) */
};
struct rpmem_info {
	char provider[16];       /* "tcp", "verbs" */
	enum rpmem_method method;
	enum rpmem_domain domain;
	unsigned nlanes;         /* granted */
	unsigned connected;      /* lanes that are connected now */
	uint64_t pool_size;      /* at the target */
	uint64_t reconnections;  /* sessions that were lost and replaced */
};
/* What the session agreed on. info_size: sizeof(struct rpmem_info) as compiled; a shorter one gets the fields it knows.
 */
int rpmem_info(RPMEMpool *rpp, struct rpmem_info *info, size_t info_size);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif
