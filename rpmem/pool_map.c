/* Mapping of a pool's parts into one range of addresses.
 *
 *   offset   0            map_len[0]        map_len[0] + map_len[1]
 *            | header ... | ...             | ...                       one range of addresses
 *   part     0 from byte 0  1 from byte 4096  2 from byte 4096           (from 0 when it has no header)
 *
 * The range is reserved without access first, then each part is put over its piece, so no other mapping can get between.
 * MAP_SYNC is used wherever the kernel grants it: with it, flushed cache lines are durable without a system call. */
#include "pool_map.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "errmsg.h"
#include "pmem.h"
#include "pool_part.h"

#define PAGE_BYTES 4096u
#define MAP_ALIGN (2ull << 20) /* a huge page of x86-64 and arm64 */

/* len bytes of addresses nobody else gets, aligned for huge pages. */
static int reserve(uint64_t len, uint8_t **base)
{
	uint8_t *got = mmap(NULL, len + MAP_ALIGN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *aligned;

	if (got == MAP_FAILED) {
		int err = -errno;

		return errmsg_set(err, "cannot reserve %llu bytes of addresses: %s", (unsigned long long)len,
				  strerror(-err));
	}
	aligned = (uint8_t *)(((uintptr_t)got + MAP_ALIGN - 1) & ~(uintptr_t)(MAP_ALIGN - 1));
	if (aligned > got)
		munmap(got, (size_t)(aligned - got));
	munmap(aligned + len, (size_t)(got + MAP_ALIGN - aligned));
	*base = aligned;
	return 0;
}

/* Asked beside the range: where MAP_SYNC is refused, MAP_FIXED may have unmapped the reservation already. */
static bool map_sync_works(int fd, int prot)
{
	void *probe = mmap(NULL, PAGE_BYTES, prot, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);

	if (probe == MAP_FAILED)
		return false;
	munmap(probe, PAGE_BYTES);
	return true;
}

/* What holds for all parts: one in memory makes the whole no better than memory; msync works on pmem as well. */
static enum pm_domain weaker(enum pm_domain a, enum pm_domain b)
{
	if (a == PM_MEMORY || b == PM_MEMORY)
		return PM_MEMORY;
	return a == PM_FILE || b == PM_FILE ? PM_FILE : PM_PMEM;
}

static int map_part(const struct pool *pool, const struct pool_part *part, bool read_only, enum pm_domain *domain)
{
	int prot = read_only ? PROT_READ : PROT_READ | PROT_WRITE;
	bool sync = map_sync_works(part->fd, prot);
	int flags = MAP_FIXED | (sync ? MAP_SHARED_VALIDATE | MAP_SYNC : MAP_SHARED);
	void *base = mmap(pool->pm.base + part->map_off, part->map_len, prot, flags, part->fd,
			  (off_t)part->file_off);

	if (base == MAP_FAILED) {
		int err = -errno;

		return errmsg_set(err, "part %s: mmap: %s", part->path, strerror(-err));
	}
	*domain = pm_detect(part->fd, base, part->map_len, sync);
	return 0;
}

/* pm.populate of a pool with holes. */
static int pool_populate(struct pm *pm, uint64_t off, uint64_t len)
{
	struct pool *pool = (struct pool *)pm;

	assert(off <= pm->len && len <= pm->len - off);
	for (unsigned i = 0; i < pool->part_count; i++) {
		const struct pool_part *part = &pool->parts[i];
		uint64_t from = off > part->map_off ? off : part->map_off, end = off + len;
		int err;

		if (end > part->map_off + part->map_len)
			end = part->map_off + part->map_len;
		if (from >= end || pmdev_is_devdax(part->fd))
			continue;
		err = part_back(part->fd, part->path, part->file_off + from - part->map_off, end - from);
		if (err)
			return err;
	}
	return 0;
}

static int holes_look(struct pool *pool)
{
	bool holes = false;
	int err = 0;

	for (unsigned i = 0; i < pool->part_count && !err && !holes; i++)
		err = part_holes(pool->parts[i].fd, pool->parts[i].path, &holes);
	if (holes)
		pool->pm.populate = pool_populate;
	return err;
}

int pool_map(struct pool *pool, uint64_t skip, bool read_only)
{
	const struct pool_part *last = &pool->parts[pool->part_count - 1];
	enum pm_domain domain = PM_PMEM, part_domain = PM_PMEM;
	uint8_t *base = NULL;
	int err = reserve(last->map_off + last->map_len, &base);

	if (err)
		return err;
	pm_init(&pool->pm, base, last->map_off + last->map_len, PM_PMEM);
	for (unsigned i = 0; i < pool->part_count; i++) {
		pool->parts[i].file_off = i ? skip : 0;
		err = map_part(pool, &pool->parts[i], read_only, &part_domain);
		if (err)
			return err;
		domain = i ? weaker(domain, part_domain) : part_domain;
	}
	pool->pm.domain = domain;
	pool->pm.read_only = read_only;
	return read_only ? 0 : holes_look(pool);
}

void pool_unmap(struct pool *pool)
{
	if (pool->pm.base)
		munmap(pool->pm.base, pool->pm.len);
	pool->pm.base = NULL;
}

int pool_write_beside(const struct pool_part *part, const void *bytes, size_t len, enum pm_point point)
{
	bool sync = map_sync_works(part->fd, PROT_READ | PROT_WRITE);
	void *base = mmap(NULL, len, PROT_READ | PROT_WRITE, sync ? MAP_SHARED_VALIDATE | MAP_SYNC : MAP_SHARED,
			  part->fd, 0);
	struct pm pm;
	int err;

	if (base == MAP_FAILED) {
		err = -errno;
		return errmsg_set(err, "part %s: mmap of the header: %s", part->path, strerror(-err));
	}
	pm_init(&pm, base, len, pm_detect(part->fd, base, len, sync));
	pm_write(&pm, 0, bytes, len);
	err = pm_fence(&pm, point);
	munmap(base, len);
	return err;
}
