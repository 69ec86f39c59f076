/* Part files: the system calls on one of them, with the path in every message.
 *
 * The lock is flock(2) on the part itself: it goes away with the process and never stays behind. flock has no time
 * limit, so a held lock is asked for again every LOCK_POLL_MS until the wait is over. Between open and lock the file may
 * have been replaced or removed by the process that had the lock; then the path names another file, and we start over. */
#include "pool_part.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>
#include <linux/magic.h>

#include "errmsg.h"
#include "pmem.h"
#include "pool.h"
#include "pool_huge.h"

#define LOCK_POLL_MS 5u
#define REPLACED_TRIES_MAX 100u
#define DIRECTORY_PART_NAME "000000.pmem" /* PMDK's name for the first file of a directory */
#define PART_HEADER_BYTES 4096u
#define STAT_BLOCK_BYTES 512u /* of st_blocks, on every file system */
#define ZERO_CHECK_BYTES (1u << 20)

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct part_wait part_wait_start(unsigned ms)
{
	return (struct part_wait){ .deadline_ms = now_ms() + ms };
}

static int fail(const char *path, const char *step)
{
	int err = -errno;

	return errmsg_set(err, "part %.300s: %s: %s", path, step, strerror(-err));
}

char *part_path(const struct poolset_part *part)
{
	char *path;

	if (!part->is_dir)
		return strdup(part->path);
	return asprintf(&path, "%s/" DIRECTORY_PART_NAME, part->path) < 0 ? NULL : path;
}

static int fail_busy(int fd, const char *path)
{
	char comm_path[64], comm[32] = "";
	struct stat st;
	pid_t holder = 0;
	FILE *file;

	if (fstat(fd, &st) || pool_lock_holder(&st, &holder) <= 0)
		return errmsg_set(-EBUSY, "part %.300s: in use by another process", path);
	snprintf(comm_path, sizeof(comm_path), "/proc/%d/comm", (int)holder);
	file = fopen(comm_path, "re");
	if (file) {
		if (fgets(comm, sizeof(comm), file))
			comm[strcspn(comm, "\n")] = '\0';
		fclose(file);
	}
	return errmsg_set(-EBUSY, "part %.300s: in use by process %d%s%s%s", path, (int)holder, comm[0] ? " (" : "", comm,
			  comm[0] ? ")" : "");
}

static int lock(int fd, const char *path, bool shared, const struct part_wait *wait)
{
	const struct timespec pause = { .tv_nsec = LOCK_POLL_MS * 1000000L };

	while (flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB)) {
		if (errno == EINTR)
			continue;
		if (errno != EWOULDBLOCK)
			return fail(path, "flock");
		if (now_ms() >= wait->deadline_ms)
			return fail_busy(fd, path);
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* Whether path still names the file behind fd. */
static bool still_there(int fd, const char *path)
{
	struct stat held, named;

	return !fstat(fd, &held) && !stat(path, &named) && held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

static int check_kind(int fd, const char *path)
{
	struct stat st;

	if (fstat(fd, &st))
		return fail(path, "fstat");
	if (S_ISREG(st.st_mode) || pmdev_is_devdax(fd))
		return 0;
	return errmsg_set(-EINVAL, "part %.300s: neither a regular file nor device dax", path);
}

int part_open(const char *path, bool read_only, const struct part_wait *wait, int *fd)
{
	for (unsigned tries = 0; tries < REPLACED_TRIES_MAX; tries++) {
		int err, next = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

		if (next < 0)
			return fail(path, "open");
		err = check_kind(next, path);
		if (!err)
			err = lock(next, path, read_only, wait);
		if (!err && still_there(next, path)) {
			*fd = next;
			return 0;
		}
		part_close(next);
		if (err)
			return err;
	}
	return errmsg_set(-EBUSY, "part %.300s: replaced again and again while being opened", path);
}

int part_create(const char *path, const struct part_wait *wait, int *fd)
{
	int err, next = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (next < 0)
		return fail(path, "create");
	err = lock(next, path, false, wait);
	if (err) {
		unlink(path);
		part_close(next);
		return err;
	}
	*fd = next;
	return 0;
}

/* The lock is given up in so many words: a forked child may still hold the descriptor. */
void part_close(int fd)
{
	if (fd < 0)
		return;
	flock(fd, LOCK_UN);
	close(fd);
}

static int devdax_size(int fd, const char *path, uint64_t *bytes)
{
	char name[64];
	struct stat st;
	unsigned long long value;
	FILE *file;
	int got;

	if (fstat(fd, &st))
		return fail(path, "fstat");
	snprintf(name, sizeof(name), "/sys/dev/char/%u:%u/size", major(st.st_rdev), minor(st.st_rdev));
	file = fopen(name, "re");
	if (!file)
		return fail(path, "size of the device");
	got = fscanf(file, "%llu", &value);
	fclose(file);
	if (got != 1)
		return errmsg_set(-EIO, "part %.300s: %s holds no number", path, name);
	*bytes = value;
	return 0;
}

int part_size(int fd, const char *path, uint64_t *bytes)
{
	struct stat st;

	if (fstat(fd, &st))
		return fail(path, "fstat");
	if (S_ISCHR(st.st_mode))
		return devdax_size(fd, path, bytes);
	*bytes = (uint64_t)st.st_size;
	return 0;
}

/* In memory, where the kernel tells holes exactly and fallocate(2) looks at every small page of a huge one. */
static bool has_space(int fd, uint64_t off, uint64_t len)
{
	struct statfs fs;
	off_t hole;

	if (fstatfs(fd, &fs) || (unsigned long)fs.f_type != TMPFS_MAGIC)
		return false;
	hole = lseek(fd, (off_t)off, SEEK_HOLE);
	return hole >= 0 && (uint64_t)hole >= off + len;
}

int part_back(int fd, const char *path, uint64_t off, uint64_t len)
{
	huge_fill(fd, off, len);
	return has_space(fd, off, len) ? 0 : part_fill(fd, path, off, len);
}

int part_fill(int fd, const char *path, uint64_t off, uint64_t len)
{
	while (fallocate(fd, 0, (off_t)off, (off_t)len)) {
		if (errno == EOPNOTSUPP)
			return 0; /* nothing can be promised here; as every program that maps files we hope for space */
		if (errno != EINTR)
			return fail(path, "allocate");
	}
	return 0;
}

int part_holes(int fd, const char *path, bool *holes)
{
	struct stat st;

	if (fstat(fd, &st))
		return fail(path, "fstat");
	*holes = S_ISREG(st.st_mode) && (uint64_t)st.st_blocks * STAT_BLOCK_BYTES < (uint64_t)st.st_size;
	return 0;
}

/* An empty file in memory whose file system has room for all of it. *late: it need not be given at once. */
static int part_room(int fd, const char *path, uint64_t size, bool *late)
{
	struct statfs fs;
	struct stat st;

	if (fstatfs(fd, &fs) || fstat(fd, &st))
		return fail(path, "fstatfs");
	*late = (unsigned long)fs.f_type == TMPFS_MAGIC && st.st_blocks == 0;
	if (!*late || !fs.f_blocks || size / (uint64_t)fs.f_bsize <= fs.f_bavail)
		return 0;
	errno = ENOSPC;
	return fail(path, "allocate");
}

static int allocate_now(int fd, uint64_t size)
{
	struct stat st;

	if (!fstat(fd, &st) && st.st_blocks == 0) /* pages that are there would only be copied */
		huge_fill(fd, 0, size);
	return posix_fallocate(fd, 0, (off_t)size); /* returns its error */
}

int part_allocate(int fd, const char *path, uint64_t size, enum part_space space)
{
	bool late = space == PART_SPARSE;
	int err = space == PART_LATE ? part_room(fd, path, size, &late) : 0;

	if (err)
		return err;
	do {
		errno = 0;
		if (ftruncate(fd, (off_t)size))
			continue;
		if (late)
			return part_fill(fd, path, 0, PART_HEADER_BYTES);
		errno = allocate_now(fd, size);
	} while (errno == EINTR);
	return errno ? fail(path, "allocate") : 0;
}

static bool bytes_zero(const char *bytes, size_t len)
{
	return !bytes[0] && !memcmp(bytes, bytes + 1, len - 1);
}

/* Reads [off, end) with pread. */
static int range_is_zero(int fd, const char *path, off_t off, off_t end, char *buf, bool *zero)
{
	while (off < end) {
		off_t left = end - off;
		ssize_t got = pread(fd, buf, left < (off_t)ZERO_CHECK_BYTES ? (size_t)left : ZERO_CHECK_BYTES, off);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return fail(path, "read");
		if (!got)
			break;
		if (!bytes_zero(buf, (size_t)got)) {
			*zero = false;
			return 0;
		}
		off += got;
	}
	return 0;
}

int part_is_zero(int fd, const char *path, uint64_t from, uint64_t to, bool *zero)
{
	char *buf = malloc(ZERO_CHECK_BYTES);
	off_t data = 0, hole = (off_t)from, end = (off_t)to;
	bool all = true;
	int err = 0;

	if (!buf)
		return errmsg_set(-ENOMEM, "out of memory");
	while (all && !err && hole < end) {
		data = lseek(fd, hole, SEEK_DATA);
		if ((data < 0 && errno == ENXIO) || data >= end)
			break; /* nothing but a hole up to the end */
		hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
		if (hole < 0) {
			err = fail(path, "lseek");
			break;
		}
		err = range_is_zero(fd, path, data, hole < end ? hole : end, buf, &all);
	}
	free(buf);
	if (!err)
		*zero = all;
	return err;
}

int part_sync_dir(const char *path)
{
	char copy[PATH_MAX];
	int fd, err = 0;

	if (strlen(path) >= sizeof(copy)) {
		errno = ENAMETOOLONG;
		return fail(path, "directory");
	}
	strcpy(copy, path);
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail(path, "open the directory");
	if (fsync(fd) && errno != EINVAL) /* EINVAL: this kind of file system has nothing to sync */
		err = fail(path, "sync the directory");
	close(fd);
	return err;
}
