/* One copy's parts: created, opened, locked and mapped as one contiguous address range.
 *
 * Pool offset 0 is the first part's header; the first 4 KiB of later parts (their headers) are not in the range. An
 * open pool holds an exclusive flock on every part (shared when read-only). */
#ifndef RPMEMFS_POOL_H
#define RPMEMFS_POOL_H

#include <sys/types.h>
#include "persist.h"
#include "poolhdr.h"
#include "poolset.h"

enum pool_flags {
	POOL_RDONLY = 1u,   /* mapped read-only, shared lock */
	POOL_SPARSE = 2u,   /* create: parts get space when it is first used (pm.populate), not at once */
	POOL_REPLACE = 4u,  /* create: unlink existing part files first; they are locked before, so never a pool in use */
	POOL_COLD = 16u,    /* create: space in memory has to be there, is taken as with POOL_SPARSE, up to pool_fill */
	POOL_EMPTY_HEADER = 32u, /* create: an existing part is empty if its first 4 KiB are zero (PMDK); else if all of it is */
	POOL_NOWAIT_LOCK = 8u, /* fail with -EBUSY at once instead of waiting up to POOL_LOCK_WAIT_MS */
};

#define POOL_AHEAD_BYTES (256ull << 20) /* behind what is being written */
#define POOL_LOCK_WAIT_MS 10000u /* umount(2) cannot wait for a FUSE daemon: the next user waits for its lock */

struct pool {
	/* First: pm.populate and pm.ahead cast it back. populate is set when a part has holes, however it came by them. */
	struct pm pm;
	struct pool_attr attr; /* of the headers; zeros for NOHDRS */
	unsigned hdr_made;     /* of a pool just created: headers written */
	struct pool_ahead *ahead; /* NULL: not begun */
	unsigned part_count;
	struct pool_part {
		int fd;
		bool made, grown;  /* of a pool just created: the file was not there, or had no bytes */
		char *path;     /* of the part file (inside the directory for directory parts) */
		uint64_t map_off, map_len; /* pool range it backs */
		uint64_t file_off;         /* where that range begins in the file */
	} *parts;
};

/* Creates the part files of replicas[idx] (mode 0600), maps and locks them and writes headers from attr (random
 * poolset_uuid and uuid where zero). A failed create removes what it made. errmsg names part and cause.
 * -EEXIST: a part exists and is not empty (no POOL_REPLACE); -EBUSY: locked by a live process; -EINVAL: part smaller
 * than POOL_PART_BYTES_MIN or size differs; else from open/fallocate/mmap, -ENOSPC among them. */
int pool_create(const struct poolset *set, unsigned idx, const struct pool_attr *attr, unsigned flags,
		struct pool **out);

/* Bytes that a pool of replicas[idx], whose parts are ours, maps. 0: a device's size is not told before it is opened. */
uint64_t pool_set_bytes(const struct poolset *set, unsigned idx);

/* Opens, locks, maps and checks headers. -ENOENT: a part is missing; -EBUSY; -EINVAL: headers wrong or inconsistent. */
int pool_open(const struct poolset *set, unsigned idx, unsigned flags, struct pool **out);

/* Whether the parts that are there hold no more than a pool_create that was cut off leaves, or the start of a first header of
 * that signature: then POOL_REPLACE loses nothing. -EBUSY; others from open and read. */
int pool_is_unfinished(const struct poolset *set, unsigned idx, const char *signature, bool *unfinished);

/* Gets space behind everything that has none yet. Memory is set aside, not touched. -ENOSPC. */
int pool_fill(struct pool *pool);

/* From now on pages of a pool in memory are mapped by a thread, up to POOL_AHEAD_BYTES ahead of what pm.ahead is told, the
 * pool's beginning at once. A hint: nothing for pools elsewhere or with holes, read-only ones, and without memory for it.
 * Ends with pool_close. Before other threads use the pool. */
void pool_ahead_begin(struct pool *pool);

/* Rewrites the headers of all parts from attr. Durable on return. Power fails within it: a header may be damaged, PMDK's format
 * has one place for each. */
int pool_set_attr(struct pool *pool, const struct pool_attr *attr);

/* Closes a pool that pool_create made and that shall not be: files it made are removed, those of no bytes have none again, and
 * the headers in others are wiped. What cannot be undone is logged. */
void pool_discard(struct pool *pool);

void pool_close(struct pool *pool); /* unmaps, unlocks, frees; NULL is allowed; flushes nothing */

struct stat;
/* The process that holds an flock on the file: 1 and *pid; 0: none that the kernel shows (other namespaces are not shown). */
int pool_lock_holder(const struct stat *st, pid_t *pid);

/* Removes the part files; a part that is locked is -EBUSY and nothing is removed. Missing parts: -ENOENT unless force. */
int pool_remove(const struct poolset *set, unsigned idx, bool force);

#endif
