/* What the commands share. Messages are for a person at three in the morning: what failed, where, and what to do next. */
#include "cmd.h"

#include <errno.h>
#include <limits.h>
#include <mntent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "errmsg.h"

static const char *command = "";

void cmd_begin(const char *name)
{
	command = name;
	errmsg_clear();
}

int cmd_error(const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "rpmemfs %s: ", command);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	return CMD_FAILED;
}

int cmd_failed(int err)
{
	const char *why = errmsg_get();

	return cmd_error("%s", why[0] != '\0' ? why : strerror(-err));
}

int cmd_usage(const char *usage)
{
	fprintf(stderr, "usage: rpmemfs %s %s\n", command, usage);
	return CMD_USAGE;
}

bool cmd_number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || value < min || value > max) {
		cmd_error("--%s %s: a whole number from %llu to %llu is wanted", option, text, (unsigned long long)min,
			  (unsigned long long)max);
		return false;
	}
	*out = value;
	return true;
}

const char *cmd_rpmemd(const struct poolset *set)
{
	static char path[PATH_MAX + sizeof("/rpmemd")];
	ssize_t len;
	char *slash;

	if (getenv("RPMEM_CMD") != NULL)
		return NULL;
	for (unsigned i = 1; i < set->replica_count; i++) {
		if (set->replicas[i].target != NULL && strcmp(set->replicas[i].target, "@local") != 0)
			return NULL;
	}
	len = readlink("/proc/self/exe", path, PATH_MAX - 1);
	if (len <= 0)
		return NULL;
	path[len] = '\0';
	slash = strrchr(path, '/');
	if (slash == NULL || strpbrk(path, " \t'\"\\") != NULL) /* it will be split into words */
		return NULL;
	memcpy(slash, "/rpmemd", sizeof("/rpmemd")); /* there is room for it behind PATH_MAX */
	return access(path, X_OK) == 0 ? path : NULL;
}

bool cmd_has_replica(const struct poolset *set)
{
	for (unsigned i = 1; i < set->replica_count; i++)
		if (set->replicas[i].target != NULL)
			return true;
	return false;
}

/* ---------------------------------------------------------------- the local copy */

/* Whether a mount of the pool is there, and where. */
static bool pool_mounted(const char *pool, char *where, size_t size)
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	char line[2 * PATH_MAX], *absolute = realpath(pool, NULL);
	struct mntent entry;
	bool found = false;

	while (mounts != NULL && absolute != NULL && !found && getmntent_r(mounts, &entry, line, sizeof(line)) != NULL)
		found = strcmp(entry.mnt_type, "fuse.rpmemfs") == 0 && strcmp(entry.mnt_fsname, absolute) == 0;
	if (found)
		snprintf(where, size, "%s", entry.mnt_dir);
	if (mounts != NULL)
		endmntent(mounts);
	free(absolute);
	return found;
}

int cmd_explain(const char *path, int err)
{
	char where[PATH_MAX];

	switch (err) {
	case -ENOENT:
		return errmsg_set(err, "%s\n  is the pool made (rpmemfs mkfs %s), or its local part lost (rpmemfs restore %s)?",
				  errmsg_get(), path, path);
	case -EBUSY:
		if (pool_mounted(path, where, sizeof(where)))
			return errmsg_set(err, "%s\n  it is mounted on %s; rpmemfs status %s shows how it is", errmsg_get(), where,
					  where);
		return errmsg_set(err, "%s\n  a mount that is ending, one elsewhere, or a command works on it", errmsg_get());
	case -EINVAL: /* headers that do not fit */
	case -EBADMSG:
	case -EMEDIUMTYPE:
		return errmsg_set(err, "%s\n  if a replica is good, rpmemfs restore %s rebuilds the local copy", errmsg_get(),
				  path);
	default:
		return err;
	}
}

static int local_check(const struct cmd_local *local)
{
	const char *path = local->set->path;

	if (copy_page(local->copy)->state == MEDIA_CONSISTENT)
		return 0;
	return errmsg_set(-EUCLEAN, "%s: the local copy was being rebuilt and that was not finished\n"
			  "  run rpmemfs restore %s again: it goes on where it was", path, path);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* umount(2) does not wait for a FUSE daemon: the last one may still be at it, in an outage of its replicas as long as its
 * --timeout. That of a mount which is there is not waited for longer than an ending one takes to be gone. */
static int pool_await(const struct poolset *set, uint64_t finish_ms, struct pool **pool)
{
	uint64_t until = now_ms() + finish_ms;
	char where[PATH_MAX];
	int err = pool_open(set, 0, POOL_NOWAIT_LOCK, pool);

	if (err == -EBUSY && !pool_mounted(set->path, where, sizeof(where)))
		cmd_error("%s; waiting: an earlier mount that ends commits its last changes first", errmsg_get());
	while (err == -EBUSY) {
		bool last = now_ms() >= until || pool_mounted(set->path, where, sizeof(where));

		err = pool_open(set, 0, 0, pool);
		if (last)
			break;
	}
	return err;
}

int cmd_local_open(const struct poolset *set, uint64_t finish_ms, struct cmd_local *local)
{
	int err;

	*local = (struct cmd_local){ .set = set };
	err = pool_await(set, finish_ms, &local->pool);
	if (err == 0)
		err = copy_open(&local->pool->pm, false, &local->copy);
	if (err == 0)
		err = local_check(local);
	if (err == 0)
		return 0;
	cmd_explain(set->path, err);
	cmd_local_close(local);
	return err;
}

int cmd_map_private(struct cmd_local *local)
{
	const struct pool *pool = local->pool;
	bool headers = (local->set->options & (POOLSET_SINGLEHDR | POOLSET_NOHDRS)) == 0;
	uint8_t *base = mmap(NULL, pool->pm.len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED)
		return errmsg_set(-errno, "%s: no address space for a second mapping", local->set->path);
	local->private_base = base;
	for (unsigned i = 0; i < pool->part_count; i++) {
		const struct pool_part *part = &pool->parts[i];
		off_t off = i != 0 && headers ? POOLHDR_BYTES : 0;

		/* cppcheck-suppress leakReturnValNotUsed ; into the range at base, which is kept */
		if (mmap(base + part->map_off, part->map_len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, part->fd, off) == MAP_FAILED)
			return errmsg_set(-errno, "part %s: records wait to be replayed, and it cannot be mapped privately for "
					  "that: mount the pool once", part->path);
	}
	pm_init(&local->private_pm, base, pool->pm.len, PM_MEMORY);
	return 0;
}

static int local_look(const struct poolset *set, struct cmd_local *local, uint64_t *waiting)
{
	int err;

	*local = (struct cmd_local){ .set = set };
	err = pool_open(set, 0, POOL_RDONLY | POOL_NOWAIT_LOCK, &local->pool);
	if (err != 0)
		goto close;
	err = copy_open(&local->pool->pm, true, &local->copy);
	if (err == 0)
		err = local_check(local);
	if (err != 0)
		goto close;
	*waiting = copy_head(local->copy).seq - copy_tail(local->copy).seq;
	if (*waiting == 0)
		return 0;
	err = cmd_map_private(local);
	if (err != 0)
		goto close;
	copy_close(local->copy);
	local->copy = NULL;
	err = copy_open(&local->private_pm, false, &local->copy);
	if (err == 0)
		err = copy_checkpoint(local->copy, copy_head(local->copy).seq, UINT64_MAX);
	if (err == 0)
		return 0;
close:
	cmd_explain(set->path, err);
	cmd_local_close(local);
	return err;
}

void cmd_local_close(struct cmd_local *local)
{
	if (local->copy != NULL)
		copy_close(local->copy);
	if (local->private_base != NULL)
		munmap(local->private_base, local->pool->pm.len);
	pool_close(local->pool);
	*local = (struct cmd_local){ .set = NULL };
}

int cmd_look(int argc, char **argv, int (*look)(const struct cmd_local *local, uint64_t waiting))
{
	struct cmd_local local;
	struct poolset *set;
	uint64_t waiting;
	int result;

	if (argc != 2 || argv[1][0] == '-')
		return cmd_usage("POOLSET");
	result = poolset_read(argv[1], &set);
	if (result != 0)
		return cmd_failed(result);
	result = local_look(set, &local, &waiting);
	if (result == 0) {
		result = look(&local, waiting);
		cmd_local_close(&local);
	}
	poolset_free(set);
	return result < 0 ? cmd_failed(result) : result;
}
