/* The pool store: which files a peer may name.
 *
 * A name is resolved by openat2(2) with RESOLVE_BENEATH, so that "..", absolute names and symlinks cannot lead out of the
 * pool directory, and the file that was opened is the one that is parsed. What the set file lists is its author's business:
 * parts may lie anywhere that user may write. */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "errmsg.h"
#include "log.h"
#include "takeover.h"

#define RENAMED_TRIES_MAX 1000u

/* ---------------------------------------------------------------- names */

static int beneath_open(int dir, const char *name, uint64_t flags)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	long fd;

	/* EAGAIN: somebody renamed something while ".." was followed, openat2(2) */
	for (unsigned tries = 0; (fd = syscall(SYS_openat2, dir, name, &how, sizeof(how))) < 0 && errno == EAGAIN; tries++)
		if (tries == RENAMED_TRIES_MAX)
			break;
	if (fd >= 0)
		return (int)fd;
	return errno == EXDEV || errno == ELOOP || errno == ENAMETOOLONG ? -EBADF : -errno;
}

static int name_check(const char *name)
{
	if (!*name || *name == '/')
		return errmsg_set(-EBADF, "pool set name '%s': must be relative to the pool directory", name);
	return 0;
}

static int dir_open(const char *pool_dir)
{
	int fd = open(pool_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return errmsg_set(-errno, "pool directory %s: %s", pool_dir, strerror(errno));
	return fd;
}

static int file_open(const char *pool_dir, const char *name)
{
	int dir, fd, err = name_check(name);

	if (err)
		return err;
	dir = dir_open(pool_dir);
	if (dir < 0)
		return dir;
	fd = beneath_open(dir, name, O_RDONLY | O_NONBLOCK); /* a FIFO must not hold us */
	close(dir);
	if (fd >= 0)
		return fd;
	return errmsg_set(fd, "pool set %s/%s: %s", pool_dir, name,
		fd == -EBADF ? "leads out of the pool directory" : strerror(-fd));
}

/* ---------------------------------------------------------------- set files */

static int text_read(int fd, char *text, size_t size)
{
	size_t at = 0;
	ssize_t n;

	do {
		n = read(fd, text + at, size - at);
		if (n > 0)
			at += (size_t)n;
	} while ((n > 0 && at < size) || (n < 0 && errno == EINTR));
	return n < 0 ? -errno : (int)at;
}

static int set_check(const struct poolset *set)
{
	if (set->replica_count != 1)
		return errmsg_set(-EINVAL, "%s: a set on the target has exactly one replica", set->path);
	return 0;
}

static int set_parse(int fd, const char *path, struct poolset **out)
{
	struct poolset *set;
	struct stat st;
	char *text;
	int n, err;

	if (fstat(fd, &st))
		return errmsg_set(-errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return errmsg_set(-EINVAL, "%s: not a regular file", path);
	if ((uint64_t)st.st_size > POOLSET_FILE_BYTES_MAX)
		return errmsg_set(-E2BIG, "%s: longer than a pool set may be", path);
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return -ENOMEM;
	n = text_read(fd, text, (size_t)st.st_size);
	err = n < 0 ? errmsg_set(n, "%s: %s", path, strerror(-n)) : poolset_parse(path, text, (size_t)n, &set);
	free(text);
	if (err)
		return err;
	err = set_check(set);
	if (err)
		poolset_free(set);
	else
		*out = set;
	return err;
}

int store_set_read(const char *pool_dir, const char *name, struct poolset **out)
{
	char path[PATH_MAX];
	int fd, err;

	fd = file_open(pool_dir, name);
	if (fd < 0)
		return fd;
	if ((size_t)snprintf(path, sizeof(path), "%s/%s", pool_dir, name) >= sizeof(path))
		err = errmsg_set(-EBADF, "pool set name: too long");
	else
		err = set_parse(fd, path, out);
	close(fd);
	return err;
}

/* ---------------------------------------------------------------- attributes */

void store_attr_get(const struct ctl_attr *wire, struct pool_attr *attr)
{
	attr->major = wire->major;
	attr->compat = wire->compat;
	attr->incompat = wire->incompat;
	attr->ro_compat = wire->ro_compat;
	memcpy(attr->signature, wire->signature, sizeof(attr->signature));
	memcpy(attr->poolset_uuid, wire->poolset_uuid, sizeof(attr->poolset_uuid));
	memcpy(attr->uuid, wire->uuid, sizeof(attr->uuid));
	memcpy(attr->next_uuid, wire->next_uuid, sizeof(attr->next_uuid));
	memcpy(attr->prev_uuid, wire->prev_uuid, sizeof(attr->prev_uuid));
	memcpy(attr->user_flags, wire->user_flags, sizeof(attr->user_flags));
}

void store_attr_put(const struct pool_attr *attr, struct ctl_attr *wire)
{
	wire->major = attr->major;
	wire->compat = attr->compat;
	wire->incompat = attr->incompat;
	wire->ro_compat = attr->ro_compat;
	memcpy(wire->signature, attr->signature, sizeof(wire->signature));
	memcpy(wire->poolset_uuid, attr->poolset_uuid, sizeof(wire->poolset_uuid));
	memcpy(wire->uuid, attr->uuid, sizeof(wire->uuid));
	memcpy(wire->next_uuid, attr->next_uuid, sizeof(wire->next_uuid));
	memcpy(wire->prev_uuid, attr->prev_uuid, sizeof(wire->prev_uuid));
	memcpy(wire->user_flags, attr->user_flags, sizeof(wire->user_flags));
}

static bool attr_is_zero(const struct pool_attr *attr)
{
	static const struct pool_attr zero;

	return !memcmp(attr, &zero, sizeof(zero));
}

/* As rpmem_create(3) has it: attributes go with headers, and SINGLEHDR is said on both sides or on none. The file system
 * does not ask how the target's headers are laid out; there the set decides. */
static int attr_agree(const struct poolset *set, struct pool_attr *attr, bool fs)
{
	bool single = set->options & POOLSET_SINGLEHDR;

	if ((set->options & POOLSET_NOHDRS) && !attr_is_zero(attr))
		return errmsg_set(-EINVAL, "%s: attributes given for a pool without headers", set->path);
	if (!(set->options & POOLSET_NOHDRS) && attr_is_zero(attr))
		return errmsg_set(-EINVAL, "%s: no attributes given for a pool with headers", set->path);
	if (fs && single)
		attr->incompat |= POOLHDR_INCOMPAT_SINGLEHDR;
	if (single != !!(attr->incompat & POOLHDR_INCOMPAT_SINGLEHDR))
		return errmsg_set(-EINVAL, "%s: OPTION SINGLEHDR and the attributes contradict each other", set->path);
	return 0;
}

/* ---------------------------------------------------------------- pools */

static int size_check(const struct poolset *set, uint64_t bytes, uint64_t wanted)
{
	if (bytes < wanted)
		return errmsg_set(-EFBIG, "%s: %llu bytes, %llu are needed", set->path, (unsigned long long)bytes,
			(unsigned long long)wanted);
	return 0;
}

static bool size_is_auto(const struct poolset_replica *replica)
{
	for (unsigned i = 0; i < replica->part_count; i++) {
		if (!replica->parts[i].size)
			return true;
	}
	return false;
}

/* Ends the session that the request may end: whichever there is, or the initiator's own lost one. */
static int session_end(const char *part_path, const struct ctl_open *req)
{
	if (req->flags & CTL_OPEN_TAKEOVER)
		return takeover_end(part_path);
	return req->session_before ? takeover_end_session(part_path, req->session_before) : 0;
}

/* Reads the set a request names; afterwards its pool is free of the session that the request names. */
static int set_claim(const char *pool_dir, const struct ctl_open *req, struct poolset **out)
{
	struct poolset *set;
	int err = store_set_read(pool_dir, req->set_name, &set);

	if (err)
		return err;
	if (!size_is_auto(&set->replicas[0]))
		err = size_check(set, poolset_replica_bytes(set, &set->replicas[0]), req->pool_size);
	if (!err)
		err = session_end(set->replicas[0].parts[0].path, req);
	if (err)
		poolset_free(set);
	else
		*out = set;
	return err;
}

/* A librpmem program is told at once that a pool is in use, as it always was. A file system's session waits for the one
 * before it, which may just be ending; not after a takeover, which has waited. */
static unsigned lock_flags(const struct ctl_open *req)
{
	return (req->flags & CTL_OPEN_FS) && !(req->flags & CTL_OPEN_TAKEOVER) ? 0 : POOL_NOWAIT_LOCK;
}

/* The line that scripts look for. The peer is told the cause alone: its text has little room. */
static int failed(int err, const char *what, const char *pool_dir, const struct ctl_open *req)
{
	log_error("cannot %s pool set -- '%s/%s': %s", what, pool_dir, req->set_name, strerror(-err));
	return err;
}

int store_create(const char *pool_dir, const struct ctl_open *req, struct stored *out)
{
	unsigned flags = lock_flags(req) | (req->flags & CTL_OPEN_REPLACE ? POOL_REPLACE : 0) |
			 (req->flags & CTL_OPEN_SPARSE ? POOL_SPARSE : 0) |
			 (req->flags & CTL_OPEN_FS ? 0 : POOL_EMPTY_HEADER);
	struct stored s = { 0 };
	struct pool_attr attr;
	int err = set_claim(pool_dir, req, &s.set);

	if (err)
		return failed(err, "create", pool_dir, req);
	store_attr_get(&req->attr, &attr);
	err = attr_agree(s.set, &attr, req->flags & CTL_OPEN_FS);
	if (!err)
		err = pool_create(s.set, 0, &attr, flags, &s.pool);
	if (err)
		goto close_set;
	err = size_check(s.set, s.pool->pm.len, req->pool_size);
	if (err)
		goto discard;
	*out = s;
	return 0;
discard:
	store_discard(&s);
	return failed(err, "create", pool_dir, req);
close_set:
	store_close(&s);
	return failed(err, "create", pool_dir, req);
}

int store_open(const char *pool_dir, const struct ctl_open *req, struct stored *out)
{
	unsigned flags = lock_flags(req) | (req->flags & CTL_OPEN_RDONLY ? POOL_RDONLY : 0);
	struct stored s = { 0 };
	int err = set_claim(pool_dir, req, &s.set);

	if (err)
		return failed(err, "open", pool_dir, req);
	err = pool_open(s.set, 0, flags, &s.pool);
	if (!err)
		err = size_check(s.set, s.pool->pm.len, req->pool_size);
	if (err) {
		store_close(&s);
		return failed(err, "open", pool_dir, req);
	}
	*out = s;
	return 0;
}

void store_close(struct stored *stored)
{
	pool_close(stored->pool);
	poolset_free(stored->set);
	*stored = (struct stored){ 0 };
}

void store_discard(struct stored *stored)
{
	pool_discard(stored->pool);
	stored->pool = NULL;
	store_close(stored);
}

int store_set_attr(struct stored *stored, const struct pool_attr *attr)
{
	bool headers = !(stored->set->options & POOLSET_NOHDRS);

	if (headers == attr_is_zero(attr))
		return errmsg_set(-EINVAL, "%s: %s", stored->set->path,
			headers ? "headers need attributes" : "a pool without headers has no attributes");
	return headers ? pool_set_attr(stored->pool, attr) : 0;
}

/* ---------------------------------------------------------------- remove */

/* Unlinks the set file itself by its parent, found beneath the pool directory. */
static int set_unlink(const char *pool_dir, const char *name)
{
	const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
	char parent[WIRE_SET_NAME_BYTES_MAX + 1] = ".";
	int dir, fd, err = 0;

	if (slash && (size_t)(slash - name) >= sizeof(parent))
		return -EBADF;
	if (slash)
		snprintf(parent, sizeof(parent), "%.*s", (int)(slash - name), name);
	dir = dir_open(pool_dir);
	if (dir < 0)
		return dir;
	fd = beneath_open(dir, parent, O_PATH | O_DIRECTORY);
	close(dir);
	if (fd < 0)
		return errmsg_set(fd, "%s/%s: %s", pool_dir, parent, strerror(-fd));
	if (unlinkat(fd, base, 0))
		err = errmsg_set(-errno, "%s/%s: %s", pool_dir, name, strerror(errno));
	close(fd);
	return err;
}

int store_remove(const char *pool_dir, const char *name, unsigned flags)
{
	bool force = flags & STORE_REMOVE_FORCE;
	struct poolset *set;
	int err = store_set_read(pool_dir, name, &set);

	if (err)
		return err == -ENOENT && force ? 0 : err;
	err = pool_remove(set, 0, force);
	poolset_free(set);
	if (!err && (flags & STORE_REMOVE_SET))
		err = set_unlink(pool_dir, name);
	return err == -ENOENT && force ? 0 : err;
}
