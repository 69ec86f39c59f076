/* The twelve functions of librpmem 1.3: arguments are checked here, in PMDK's order, then rpool does the work. Errors
 * become -1 or NULL with errno here and nowhere else. A wrong argument never fails a handle. */
#include "librpmem.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "errmsg.h"
#include "librpmem_impl.h"
#include "log.h"
#include "poolhdr.h"

static_assert(sizeof(struct rpmem_pool_attr) == 104, "rpmem_pool_attr size");
static_assert(offsetof(struct rpmem_pool_attr, major) == 8, "rpmem_pool_attr major");
static_assert(offsetof(struct rpmem_pool_attr, poolset_uuid) == 24, "rpmem_pool_attr poolset_uuid");
static_assert(offsetof(struct rpmem_pool_attr, next_uuid) == 56, "rpmem_pool_attr next_uuid");
static_assert(offsetof(struct rpmem_pool_attr, user_flags) == 88, "rpmem_pool_attr user_flags");

int api_result(int err)
{
	if (err >= 0)
		return 0;
	errno = -err;
	return -1;
}

/* libpmemobj and libpmempool show nobody our message: the log does, if asked to. Not on the data path: there a handle that
 * failed has said so once. */
static int told_result(int err)
{
	if (err < 0)
		log_error("%s", errmsg_get());
	return api_result(err);
}

/* ---------------------------------------------------------------- life */
static int region_check(const void *addr, size_t size, const unsigned *nlanes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	if (!addr)
		return errmsg_set(-EINVAL, "invalid pool address");
	if ((uintptr_t)addr % page)
		return errmsg_set(-EINVAL, "pool address must be aligned to page size (%zu)", page);
	if (size % page)
		return errmsg_set(-EINVAL, "pool size must be aligned to page size (%zu)", page);
	if (!size)
		return errmsg_set(-EINVAL, "invalid pool size");
	if (!nlanes)
		return errmsg_set(-EINVAL, "lanes pointer cannot be NULL");
	if (!*nlanes)
		return errmsg_set(-EINVAL, "number of lanes must be positive");
	return 0;
}

static int names_check(const char *target, const char *set_name)
{
	if (!target || !*target)
		return errmsg_set(-EINVAL, "invalid target");
	if (!set_name || !*set_name || strlen(set_name) >= WIRE_SET_NAME_BYTES_MAX)
		return errmsg_set(-EINVAL, "invalid pool set name (1 to %u bytes)", WIRE_SET_NAME_BYTES_MAX - 1);
	return 0;
}

/* Who promises libfabric not to fork has no promise from us: with @local a child is started. */
static int fork_check(void)
{
	if (!getenv("FI_FORK_UNSAFE"))
		return 0;
	return errmsg_set(-ENOTSUP, "libfabric is initialized without fork() support (unset FI_FORK_UNSAFE)");
}

static RPMEMpool *open_any(struct rpool_cfg *cfg, unsigned *nlanes, struct rpmem_pool_attr *attr)
{
	RPMEMpool *pool = NULL;
	int err;

	env_log();
	err = fork_check();
	if (!err)
		err = region_check(cfg->base, cfg->size, nlanes);
	if (!err)
		err = names_check(cfg->target, cfg->set_name);
	if (!err) {
		cfg->lanes = *nlanes < WIRE_LANES_MAX ? *nlanes : WIRE_LANES_MAX;
		err = rpool_open(cfg, &pool, attr);
	}
	if (told_result(err))
		return NULL;
	*nlanes = pool->lane_count;
	return pool;
}

RPMEMpool *rpmem_create(const char *target, const char *pool_set_name, void *pool_addr, size_t pool_size,
			unsigned *nlanes, const struct rpmem_pool_attr *create_attr)
{
	struct rpool_cfg cfg = { .target = target, .set_name = pool_set_name, .base = pool_addr, .size = pool_size,
				 .create = true, .attr = create_attr };

	return open_any(&cfg, nlanes, NULL);
}

RPMEMpool *rpmem_open(const char *target, const char *pool_set_name, void *pool_addr, size_t pool_size,
		      unsigned *nlanes, struct rpmem_pool_attr *open_attr)
{
	struct rpool_cfg cfg = { .target = target, .set_name = pool_set_name, .base = pool_addr, .size = pool_size };

	return open_any(&cfg, nlanes, open_attr);
}

int rpmem_set_attr(RPMEMpool *rpp, const struct rpmem_pool_attr *attr)
{
	static const struct rpmem_pool_attr zero;
	bool none = !attr || !memcmp(attr, &zero, sizeof(zero));

	if (none && rpp->floor)
		return api_result(errmsg_set(-EINVAL, "a pool with headers needs attributes"));
	if (!none && !rpp->floor)
		return api_result(errmsg_set(-EINVAL, "a pool without headers has no attributes"));
	return told_result(rpool_set_attr(rpp, attr));
}

int rpmem_close(RPMEMpool *rpp)
{
	return told_result(rpool_close(rpp));
}

int rpmem_remove(const char *target, const char *pool_set_name, int flags)
{
	int err;

	if (flags & ~(RPMEM_REMOVE_FORCE | RPMEM_REMOVE_POOL_SET))
		return api_result(errmsg_set(-EINVAL, "invalid flags (0x%x)", (unsigned)flags));
	err = names_check(target, pool_set_name);
	if (err)
		return api_result(err);
	env_log();
	return told_result(rpool_remove(target, pool_set_name, (unsigned)flags));
}

/* ---------------------------------------------------------------- data */
int api_lane(RPMEMpool *rpp, unsigned lane, struct rlane **rl)
{
	if (lane >= rpp->lane_count)
		return errmsg_set(-EINVAL, "lane number (%u) is not below the number of lanes (%u)", lane, rpp->lane_count);
	*rl = &rpp->lanes[lane];
	return 0;
}

static int range_check(const RPMEMpool *rpp, size_t offset, size_t length)
{
	if (offset >= rpp->size || length > rpp->size - offset)
		return errmsg_set(-EINVAL, "range at offset %zu of %zu bytes is outside the pool of %" PRIu64 " bytes", offset,
				  length, rpp->size);
	return 0;
}

static int floor_check(size_t offset, uint64_t floor)
{
	if (offset >= floor)
		return 0;
	return errmsg_set(-EINVAL, "offset (%zu) in pool is less than %" PRIu64 " bytes", offset, floor);
}

int api_write_check(RPMEMpool *rpp, size_t offset, size_t length, unsigned lane, unsigned flags, struct rlane **rl)
{
	int err = 0;

	if (flags & ~RPMEM_PERSIST_RELAXED)
		err = errmsg_set(-EINVAL, "invalid flags (0x%x)", flags);
	if (!err)
		err = floor_check(offset, rpp->floor);
	if (!err)
		err = range_check(rpp, offset, length);
	return err ? err : api_lane(rpp, lane, rl);
}

int rpmem_flush(RPMEMpool *rpp, size_t offset, size_t length, unsigned lane, unsigned flags)
{
	struct rlane *rl = NULL;
	int err = api_write_check(rpp, offset, length, lane, flags, &rl);

	if (!err)
		err = rlane_flush(rl, offset, length, api_kind(flags));
	return api_result(err);
}

int rpmem_drain(RPMEMpool *rpp, unsigned lane, unsigned flags)
{
	struct rlane *rl = NULL;
	int err = flags ? errmsg_set(-EINVAL, "invalid flags (0x%x)", flags) : api_lane(rpp, lane, &rl);

	return api_result(err ? err : rlane_drain(rl));
}

int rpmem_persist(RPMEMpool *rpp, size_t offset, size_t length, unsigned lane, unsigned flags)
{
	struct rlane *rl = NULL;
	int err = api_write_check(rpp, offset, length, lane, flags, &rl);

	if (!err)
		err = rlane_flush(rl, offset, length, api_kind(flags));
	if (!err)
		err = rlane_drain(rl);
	return api_result(err);
}

/* PMDK never deep-persists below 4096, whether there are headers or not. */
int rpmem_deep_persist(RPMEMpool *rpp, size_t offset, size_t length, unsigned lane)
{
	struct rlane *rl = NULL;
	int err = floor_check(offset, POOLHDR_BYTES);

	if (!err)
		err = api_write_check(rpp, offset, length, lane, 0, &rl);
	if (!err)
		err = rlane_flush(rl, offset, length, DEBT_DEEP);
	if (!err)
		err = rlane_drain(rl);
	return api_result(err);
}

int rpmem_read(RPMEMpool *rpp, void *buff, size_t offset, size_t length, unsigned lane)
{
	struct rlane *rl = NULL;
	int err = range_check(rpp, offset, length);

	if (!err)
		err = api_lane(rpp, lane, &rl);
	if (!err && !buff)
		err = errmsg_set(-EINVAL, "invalid buffer address");
	return api_result(err ? err : rlane_read(rl, buff, offset, length));
}

/* ---------------------------------------------------------------- version, messages */
const char *rpmem_check_version(unsigned major_required, unsigned minor_required)
{
	static _Thread_local char text[96];

	if (major_required != RPMEM_MAJOR_VERSION) {
		snprintf(text, sizeof(text), "librpmem major version mismatch (need %u, found %d)", major_required,
			 RPMEM_MAJOR_VERSION);
		errmsg_set(0, "%s", text);
		return text;
	}
	if (minor_required > RPMEM_MINOR_VERSION) {
		snprintf(text, sizeof(text), "librpmem minor version mismatch (need %u, found %d)", minor_required,
			 RPMEM_MINOR_VERSION);
		errmsg_set(0, "%s", text);
		return text;
	}
	return NULL;
}

const char *rpmem_errormsg(void)
{
	return errmsg_get();
}
