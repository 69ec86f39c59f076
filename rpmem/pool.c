/* Pools out of parts: created, opened, their headers changed, removed. Create and open go through a struct build, which
 * knows how to undo what was done so far:
 *
 *   create   claim existing parts (open, lock, must be empty) - make files - map - sync sizes and names - headers
 *   open     open, lock, compare sizes                                    - map - read and check headers
 *
 * Nothing is changed before every existing part is locked and found fit. A power failure before the headers are durable
 * leaves parts without a valid header, which open refuses. So does one while pool_set_attr rewrites them: header changes
 * are not atomic, as in PMDK. */
#include "pool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "errmsg.h"
#include "log.h"
#include "pool_ahead.h"
#include "pool_map.h"
#include "pool_part.h"

#define PAGE_BYTES 4096u

struct build {
	struct pool *pool;
	const struct poolset *set;
	const struct poolset_replica *replica;
	unsigned flags; /* enum pool_flags */
	unsigned hdr_count;
	struct part_wait wait;
	struct build_part {
		uint64_t size;
		int old_fd; /* create: the locked file that is to be replaced */
	} *parts;
};

static int fail_memory(void)
{
	return errmsg_set(-ENOMEM, "out of memory");
}

static bool attr_is_zero(const struct pool_attr *attr)
{
	static const struct pool_attr zero;

	return !attr || !memcmp(attr, &zero, sizeof(zero));
}

/* Headers of an open pool: none, the first part's, or one each. */
static unsigned pool_hdr_count(const struct pool *pool)
{
	if (attr_is_zero(&pool->attr))
		return 0;
	return pool->attr.incompat & POOLHDR_INCOMPAT_SINGLEHDR ? 1 : pool->part_count;
}

static unsigned set_hdr_count(const struct poolset *set, unsigned part_count)
{
	if (set->options & POOLSET_NOHDRS)
		return 0;
	return set->options & POOLSET_SINGLEHDR ? 1 : part_count;
}

void pool_close(struct pool *pool)
{
	if (!pool)
		return;
	pool_ahead_end(pool);
	pool_unmap(pool);
	for (unsigned i = 0; i < pool->part_count; i++) {
		part_close(pool->parts[i].fd);
		free(pool->parts[i].path);
	}
	free(pool->parts);
	free(pool);
}

/* ---------------------------------------------------------------- build */

/* Frees the build; the pool as well unless it was handed over. */
static void build_end(struct build *b)
{
	if (b->parts)
		for (unsigned i = 0; i < b->replica->part_count; i++)
			part_close(b->parts[i].old_fd);
	free(b->parts);
	pool_close(b->pool);
}

/* A header in a file that was there before, which was zero then. */
static int header_wipe(struct pool *pool, unsigned idx)
{
	static const struct poolhdr_omf none;

	if (idx)
		return pool_write_beside(&pool->parts[idx], &none, sizeof(none), PM_POINT_HEADER);
	pm_zero(&pool->pm, 0, sizeof(none));
	return pm_fence(&pool->pm, PM_POINT_HEADER);
}

/* Undoes what create did, newest first, while the parts are still locked. */
static void create_undo(struct pool *pool)
{
	for (unsigned i = pool->part_count; i-- > 0;) {
		struct pool_part *part = &pool->parts[i];

		if (i < pool->hdr_made && !part->made && !part->grown && header_wipe(pool, i))
			log_warn("part %s: left with a header: %s", part->path, errmsg_get());
		if (part->made && unlink(part->path))
			log_warn("part %s: left behind: %s", part->path, strerror(errno));
		if (part->grown && ftruncate(part->fd, 0))
			log_warn("part %s: left at its new size: %s", part->path, strerror(errno));
	}
}

void pool_discard(struct pool *pool)
{
	create_undo(pool);
	pool_close(pool);
}

static int build_begin(struct build *b, const struct poolset *set, unsigned idx, unsigned flags)
{
	const struct poolset_replica *replica = &set->replicas[idx];
	unsigned count = replica->part_count;

	assert(idx < set->replica_count);
	if (replica->target)
		return errmsg_set(-EINVAL, "replica %s is remote: its parts are the target's", replica->name);
	*b = (struct build){ .set = set, .replica = replica, .flags = flags, .hdr_count = set_hdr_count(set, count) };
	b->wait = part_wait_start(flags & POOL_NOWAIT_LOCK ? 0 : POOL_LOCK_WAIT_MS);
	b->parts = calloc(count, sizeof(*b->parts));
	b->pool = calloc(1, sizeof(*b->pool));
	if (b->pool)
		b->pool->parts = calloc(count, sizeof(*b->pool->parts));
	if (!b->parts || !b->pool || !b->pool->parts)
		goto no_memory;
	for (unsigned i = 0; i < count; i++) {
		b->parts[i].old_fd = -1;
		b->parts[i].size = replica->parts[i].size;
		b->pool->parts[i].fd = -1;
		b->pool->parts[i].path = part_path(&replica->parts[i]);
	}
	b->pool->part_count = count;
	for (unsigned i = 0; i < count; i++)
		if (!b->pool->parts[i].path)
			goto no_memory;
	return 0;

no_memory:
	if (b->parts)
		for (unsigned i = 0; i < count; i++)
			b->parts[i].old_fd = -1;
	build_end(b);
	return fail_memory();
}

static bool is_device(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISCHR(st.st_mode);
}

/* Size and kind of an opened part against what the set says; AUTO takes the device's size. */
static int check_size(struct build *b, unsigned i)
{
	const struct pool_part *part = &b->pool->parts[i];
	uint64_t *size = &b->parts[i].size, bytes;
	int err = part_size(part->fd, part->path, &bytes);

	if (err)
		return err;
	if (is_device(part->fd)) {
		if (i && b->hdr_count > 1)
			return errmsg_set(-EINVAL, "part %s: device dax behind another part needs OPTION SINGLEHDR",
					  part->path);
		if (!*size)
			*size = bytes;
	}
	if (*size != bytes)
		return errmsg_set(-EINVAL, "part %s: has %llu bytes, the set says %llu", part->path,
				  (unsigned long long)bytes, (unsigned long long)*size);
	return 0;
}

static int check_min(const struct build *b, unsigned i)
{
	if (b->parts[i].size >= POOL_PART_BYTES_MIN)
		return 0;
	return errmsg_set(-EINVAL, "part %s: %llu bytes, less than %llu", b->pool->parts[i].path,
			  (unsigned long long)b->parts[i].size, (unsigned long long)POOL_PART_BYTES_MIN);
}

/* Headers behind the first part's are not mapped. */
static uint64_t hdr_skip(unsigned hdr_count)
{
	return hdr_count > 1 ? POOLHDR_BYTES : 0;
}

static uint64_t map_len(uint64_t part_bytes, unsigned i, uint64_t skip)
{
	return (part_bytes & ~(uint64_t)(PAGE_BYTES - 1)) - (i ? skip : 0);
}

uint64_t pool_set_bytes(const struct poolset *set, unsigned idx)
{
	const struct poolset_replica *replica = &set->replicas[idx];
	uint64_t skip = hdr_skip(set_hdr_count(set, replica->part_count)), bytes = 0;

	for (unsigned i = 0; i < replica->part_count; i++) {
		if (!replica->parts[i].size)
			return 0;
		bytes += map_len(replica->parts[i].size, i, skip);
	}
	return bytes;
}

/* Lays the parts out and maps them; the sizes are final. */
static int build_map(struct build *b)
{
	uint64_t skip = hdr_skip(b->hdr_count), off = 0;

	for (unsigned i = 0; i < b->pool->part_count; i++) {
		struct pool_part *part = &b->pool->parts[i];

		part->map_off = off;
		part->map_len = map_len(b->parts[i].size, i, skip);
		off += part->map_len;
	}
	return pool_map(b->pool, skip, b->flags & POOL_RDONLY);
}

/* ---------------------------------------------------------------- headers */

/* The first is read through the mapping (device dax has no read(2)), the others lie outside of it. */
static int headers_read(const struct pool *pool, unsigned count, struct poolhdr_omf *hdrs)
{
	memcpy(hdrs, pm_ptr(&pool->pm, 0), sizeof(*hdrs));
	for (unsigned i = 1; i < count; i++) {
		ssize_t got = pread(pool->parts[i].fd, &hdrs[i], sizeof(hdrs[i]), 0);

		if (got == (ssize_t)sizeof(hdrs[i]))
			continue;
		return errmsg_set(got < 0 ? -errno : -EIO, "part %s: cannot read the header", pool->parts[i].path);
	}
	return 0;
}

/* Last the first part's, which is looked at first. */
static int headers_write(struct pool *pool, unsigned count, const struct poolhdr_omf *hdrs)
{
	for (unsigned i = 1; i < count; i++) {
		int err = pool_write_beside(&pool->parts[i], &hdrs[i], sizeof(hdrs[i]), PM_POINT_HEADER);

		if (err)
			return err;
	}
	pm_write(&pool->pm, 0, hdrs, sizeof(*hdrs));
	return pm_fence(&pool->pm, PM_POINT_HEADER);
}

static int headers_check(struct build *b)
{
	struct poolhdr_omf *hdrs;
	struct pool_attr attr;
	int err;

	if (!b->hdr_count)
		return 0;
	hdrs = calloc(b->hdr_count, sizeof(*hdrs));
	if (!hdrs)
		return fail_memory();
	err = headers_read(b->pool, b->hdr_count, hdrs);
	if (!err)
		err = poolhdr_check(hdrs, b->hdr_count, &attr);
	free(hdrs);
	if (err)
		return errmsg_prefix(err, "%s", b->pool->parts[0].path);
	if (!(attr.incompat & POOLHDR_INCOMPAT_SINGLEHDR) != !(b->set->options & POOLSET_SINGLEHDR))
		return errmsg_set(-EINVAL, "part %s: SINGLEHDR of set and pool header differ", b->pool->parts[0].path);
	b->pool->attr = attr;
	return 0;
}

static int headers_create(struct build *b, const struct pool_attr *attr)
{
	struct poolhdr_omf *hdrs;
	int err;

	if (!b->hdr_count)
		return 0;
	hdrs = calloc(b->hdr_count, sizeof(*hdrs));
	if (!hdrs)
		return fail_memory();
	b->pool->hdr_made = b->hdr_count;
	poolhdr_fill(hdrs, b->hdr_count, attr, b->set->options & POOLSET_SINGLEHDR, (uint64_t)time(NULL));
	err = headers_write(b->pool, b->hdr_count, hdrs);
	if (!err)
		err = poolhdr_check(hdrs, b->hdr_count, &b->pool->attr);
	free(hdrs);
	return err;
}

/* Headers of before and of after beside each other are no pool. */
static void headers_undo(struct pool *pool, unsigned count, const struct poolhdr_omf *old)
{
	char text[ERRMSG_BYTES_MAX];

	snprintf(text, sizeof(text), "%s", errmsg_get());
	if (headers_write(pool, count, old))
		log_error("part %s: the old headers cannot be put back, and the pool not be opened: %s", pool->parts[0].path,
			  errmsg_get());
	errmsg_set(0, "%s", text);
}

int pool_set_attr(struct pool *pool, const struct pool_attr *attr)
{
	unsigned count = pool_hdr_count(pool);
	struct poolhdr_omf *hdrs, *old;
	int err;

	if (!count)
		return attr_is_zero(attr) ? 0 : errmsg_set(-EINVAL, "a pool without headers takes no attributes");
	if (attr_is_zero(attr))
		return errmsg_set(-EINVAL, "a pool with headers needs attributes");
	if ((attr->incompat ^ pool->attr.incompat) & POOLHDR_INCOMPAT_SINGLEHDR)
		return errmsg_set(-EINVAL, "SINGLEHDR cannot change");
	hdrs = calloc(2 * (size_t)count, sizeof(*hdrs));
	if (!hdrs)
		return fail_memory();
	old = hdrs + count;
	err = headers_read(pool, count, hdrs);
	if (err)
		goto free_hdrs;
	memcpy(old, hdrs, count * sizeof(*hdrs));
	poolhdr_update(hdrs, count, attr);
	err = headers_write(pool, count, hdrs);
	if (err)
		headers_undo(pool, count, old);
	else
		err = poolhdr_check(hdrs, count, &pool->attr);
free_hdrs:
	free(hdrs);
	return err;
}

/* ---------------------------------------------------------------- open */

int pool_open(const struct poolset *set, unsigned idx, unsigned flags, struct pool **out)
{
	struct build b;
	int err = build_begin(&b, set, idx, flags);

	if (err)
		return err;
	for (unsigned i = 0; i < b.pool->part_count && !err; i++) {
		struct pool_part *part = &b.pool->parts[i];

		err = part_open(part->path, flags & POOL_RDONLY, &b.wait, &part->fd);
		if (!err)
			err = check_size(&b, i);
		if (!err)
			err = check_min(&b, i);
	}
	if (!err)
		err = build_map(&b);
	if (!err)
		err = headers_check(&b);
	if (!err) {
		*out = b.pool;
		b.pool = NULL;
	}
	build_end(&b);
	return err;
}

/* Zeros, but for a header that may be cut off anywhere: one of a file that has the part's size and starts with the signature,
 * as it is stored from its start on. */
static int part_is_unfinished(const struct build *b, unsigned i, const char *signature, bool *unfinished)
{
	const struct pool_part *part = &b->pool->parts[i];
	struct poolhdr_omf hdr = { .signature = "" };
	uint64_t bytes = 0;
	int err = part_size(part->fd, part->path, &bytes);

	*unfinished = !err && !bytes;
	if (err || bytes != b->parts[i].size)
		return err;
	err = part_is_zero(part->fd, part->path, 0, bytes, unfinished);
	if (err || *unfinished)
		return err;
	if (pread(part->fd, &hdr, sizeof(hdr), 0) != (ssize_t)sizeof(hdr))
		return errmsg_set(-EIO, "part %s: cannot read the header", part->path);
	if (strncmp((const char *)hdr.signature, signature, sizeof(hdr.signature)))
		return 0;
	return part_is_zero(part->fd, part->path, POOLHDR_BYTES, bytes, unfinished);
}

int pool_is_unfinished(const struct poolset *set, unsigned idx, const char *signature, bool *unfinished)
{
	bool all = true;
	struct build b;
	int err = build_begin(&b, set, idx, POOL_RDONLY | POOL_NOWAIT_LOCK);

	if (err)
		return err;
	for (unsigned i = 0; i < b.pool->part_count && !err && all; i++) {
		struct pool_part *part = &b.pool->parts[i];

		err = part_open(part->path, true, &b.wait, &part->fd);
		if (err == -ENOENT)
			err = 0;
		else if (!err && is_device(part->fd))
			all = false; /* never made, nothing can be told */
		else if (!err)
			err = part_is_unfinished(&b, i, signature, &all);
	}
	build_end(&b);
	if (!err)
		*unfinished = all;
	return err;
}

/* ---------------------------------------------------------------- create */

static int check_create(const struct build *b, const struct pool_attr *attr)
{
	if (b->flags & POOL_RDONLY)
		return errmsg_set(-EINVAL, "a pool cannot be created read-only");
	if (attr_is_zero(attr) && b->hdr_count)
		return errmsg_set(-EINVAL, "%s: a pool with headers needs attributes", b->set->path);
	if (!attr_is_zero(attr) && !b->hdr_count)
		return errmsg_set(-EINVAL, "%s: OPTION NOHDRS, but attributes for headers", b->set->path);
	if (attr && attr->incompat & POOLHDR_INCOMPAT_SINGLEHDR && !(b->set->options & POOLSET_SINGLEHDR))
		return errmsg_set(-EINVAL, "%s: attributes say SINGLEHDR, the set does not", b->set->path);
	for (unsigned i = 0; i < b->pool->part_count; i++) {
		int err = b->parts[i].size ? check_min(b, i) : 0; /* AUTO: when the device is open */

		if (err)
			return err;
	}
	return 0;
}

/* How much of a part of so many bytes must be zero. */
static uint64_t empty_bytes(const struct build *b, uint64_t bytes)
{
	return b->flags & POOL_EMPTY_HEADER && bytes > POOLHDR_BYTES ? POOLHDR_BYTES : bytes;
}

/* An existing file that stays must hold nothing. All of it is looked at where the format relies on zeros, else the header alone
 * as in PMDK; also without headers, where PMDK does not look at all and takes a file full of somebody's bytes. */
static int check_empty(struct build *b, unsigned i)
{
	struct pool_part *part = &b->pool->parts[i];
	uint64_t bytes;
	bool zero;
	int err = part_size(part->fd, part->path, &bytes);

	if (!err)
		err = part_is_zero(part->fd, part->path, 0, empty_bytes(b, bytes), &zero);
	if (err)
		return err;
	if (!zero)
		return errmsg_set(-EEXIST, "part %s: exists and is not empty", part->path);
	part->grown = !bytes;
	return bytes ? check_size(b, i) : 0;
}

/* Opens and locks a part that is there already; a missing one is left for make_part. */
static int claim_part(struct build *b, unsigned i)
{
	struct pool_part *part = &b->pool->parts[i];
	int err = part_open(part->path, false, &b->wait, &part->fd);

	if (err == -ENOENT)
		return b->parts[i].size ? 0 : errmsg_set(-EINVAL, "part %s: AUTO, but no device dax", part->path);
	if (err)
		return err;
	if (is_device(part->fd)) {
		err = check_size(b, i);
		return err ? err : check_min(b, i);
	}
	if (!b->parts[i].size)
		return errmsg_set(-EINVAL, "part %s: AUTO, but no device dax", part->path);
	if (!(b->flags & POOL_REPLACE))
		return check_empty(b, i);
	b->parts[i].old_fd = part->fd; /* keeps the lock until the new file stands */
	part->fd = -1;
	return 0;
}

static int make_part(struct build *b, unsigned i)
{
	struct pool_part *part = &b->pool->parts[i];
	int err;

	if (b->parts[i].old_fd >= 0 && unlink(part->path)) {
		err = -errno;
		return errmsg_set(err, "part %s: unlink: %s", part->path, strerror(-err));
	}
	if (part->fd < 0) {
		err = part_create(part->path, &b->wait, &part->fd);
		if (err)
			return err;
		part->made = true;
	} else if (is_device(part->fd)) {
		return 0;
	}
	return part_allocate(part->fd, part->path, b->parts[i].size,
			     b->flags & POOL_SPARSE ? PART_SPARSE : b->flags & POOL_COLD ? PART_LATE : PART_NOW);
}

/* Device dax is read through the mapping only. */
static int check_devices(const struct build *b)
{
	static const uint8_t zero[PAGE_BYTES];

	for (unsigned i = 0; i < b->pool->part_count; i++) {
		const struct pool_part *part = &b->pool->parts[i];

		if (!is_device(part->fd))
			continue;
		for (uint64_t off = 0; off < empty_bytes(b, part->map_len); off += PAGE_BYTES)
			if (memcmp(pm_ptr(&b->pool->pm, part->map_off + off), zero, PAGE_BYTES))
				return errmsg_set(-EEXIST, "part %s: device is not empty; `daxio -z -o %s` clears it", part->path,
						  part->path);
	}
	return 0;
}

/* Sizes, space and names durable, before a header says that there is a pool. */
static int sync_files(const struct build *b)
{
	for (unsigned i = 0; i < b->pool->part_count; i++) {
		const struct pool_part *part = &b->pool->parts[i];
		int err;

		if (is_device(part->fd))
			continue;
		if (fsync(part->fd)) {
			err = -errno;
			return errmsg_set(err, "part %s: fsync: %s", part->path, strerror(-err));
		}
		err = part->made ? part_sync_dir(part->path) : 0;
		if (err)
			return err;
	}
	return 0;
}

static int create_parts(struct build *b, const struct pool_attr *attr)
{
	int err = check_create(b, attr);

	for (unsigned i = 0; i < b->pool->part_count && !err; i++)
		err = claim_part(b, i);
	for (unsigned i = 0; i < b->pool->part_count && !err; i++)
		err = make_part(b, i);
	if (!err)
		err = build_map(b);
	if (!err)
		err = check_devices(b);
	if (!err)
		err = sync_files(b);
	return err ? err : headers_create(b, attr);
}

/* tmpfs zeroes a small page of an allocated file only when it is first touched, which would otherwise happen in the middle of
 * somebody's fsync. Huge pages are zeroed already. Only a hint: an error (no such advice before Linux 5.14) costs nothing
 * but that time. */
static void pool_warm(const struct pool *pool, unsigned flags)
{
	if (pool->pm.domain == PM_MEMORY && !(flags & (POOL_SPARSE | POOL_COLD)))
		(void)madvise(pool->pm.base, pool->pm.len, MADV_POPULATE_WRITE);
}

int pool_create(const struct poolset *set, unsigned idx, const struct pool_attr *attr, unsigned flags,
		struct pool **out)
{
	struct build b;
	int err = build_begin(&b, set, idx, flags);

	if (err)
		return err;
	err = create_parts(&b, attr);
	if (!err)
		pool_warm(b.pool, flags);
	if (err) {
		create_undo(b.pool);
	} else {
		*out = b.pool;
		b.pool = NULL;
	}
	build_end(&b);
	return err;
}

int pool_fill(struct pool *pool)
{
	int err = 0;

	if (!pool->pm.populate)
		return 0;
	for (unsigned i = 0; i < pool->part_count && !err; i++) {
		const struct pool_part *part = &pool->parts[i];

		if (!is_device(part->fd))
			err = part_fill(part->fd, part->path, 0, part->file_off + part->map_len);
	}
	if (!err)
		pool->pm.populate = NULL;
	return err;
}

/* ---------------------------------------------------------------- remove */

static int remove_parts(struct build *b)
{
	for (unsigned i = 0; i < b->pool->part_count; i++) {
		const struct pool_part *part = &b->pool->parts[i];
		int err = 0;

		if (part->fd < 0)
			continue;
		if (unlink(part->path)) {
			err = -errno;
			errmsg_set(err, "part %s: unlink: %s", part->path, strerror(-err));
		}
		if (!err)
			err = part_sync_dir(part->path);
		if (err)
			return err;
	}
	return 0;
}

int pool_remove(const struct poolset *set, unsigned idx, bool force)
{
	struct build b;
	int err = build_begin(&b, set, idx, POOL_NOWAIT_LOCK);

	if (err)
		return err;
	for (unsigned i = 0; i < b.pool->part_count && !err; i++) {
		struct pool_part *part = &b.pool->parts[i];

		err = part_open(part->path, false, &b.wait, &part->fd);
		if (err == -ENOENT && force)
			err = 0;
		else if (!err && is_device(part->fd))
			err = errmsg_set(-EINVAL, "part %s: device dax cannot be removed; `daxio -z -o %s` clears it", part->path,
					 part->path);
	}
	if (!err)
		err = remove_parts(&b);
	build_end(&b);
	return err;
}
