/* The pool store: pool sets by name below the pool directory, and nothing outside it. A set here has exactly one replica
 * and that one is local. Any thread; each stored pool belongs to one at a time. */
#ifndef RPMEMFS_RPMEMD_STORE_H
#define RPMEMFS_RPMEMD_STORE_H

#include "pool.h"
#include "wire.h"

struct stored {
	struct poolset *set;
	struct pool *pool;
};

/* Reads and parses the set of that name. -EBADF: empty, absolute or leading out of the directory ("..", symlink);
 * -ENOENT; -EINVAL: not a pool set, or not exactly one local replica; -E2BIG: over a bound of poolset.h. */
int store_set_read(const char *pool_dir, const char *name, struct poolset **out);

/* CREATE and OPEN as asked by req (checked by the codec); ends a running session first with CTL_OPEN_TAKEOVER. *out is
 * closed by store_close. Errors, with errmsg: those above and of pool_create/pool_open; -EFBIG: smaller than
 * req->pool_size; -EINVAL: attributes and OPTION NOHDRS/SINGLEHDR of the set contradict each other. */
int store_create(const char *pool_dir, const struct ctl_open *req, struct stored *out);
int store_open(const char *pool_dir, const struct ctl_open *req, struct stored *out);

/* Unmaps and unlocks; allowed on a zeroed structure. */
void store_close(struct stored *stored);
/* The same, and undoes what store_create made: a CREATE that failed behind it leaves the parts as they were. */
void store_discard(struct stored *stored);

/* New headers. -EINVAL: zero attributes for a pool with headers, or others for one without. */
int store_set_attr(struct stored *stored, const struct pool_attr *attr);

enum store_remove_flags { STORE_REMOVE_FORCE = 1u, STORE_REMOVE_SET = 2u }; /* as in ctl_remove and rpmem_remove */
/* Removes the parts, with STORE_REMOVE_SET the set file too; FORCE: what is missing is no error. -EBUSY: in use. */
int store_remove(const char *pool_dir, const char *name, unsigned flags);

void store_attr_get(const struct ctl_attr *wire, struct pool_attr *attr);
void store_attr_put(const struct pool_attr *attr, struct ctl_attr *wire);

#endif
