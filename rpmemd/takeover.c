/* Takeover: finds the process that holds the lock of a pool's first part and ends it.
 *
 *   /proc/locks --pid--> pidfd --checked: same program, same user--> SIGTERM --deadline--> SIGKILL --deadline--> refused
 *
 * The pidfd is opened before the process is looked at, so a process id that is reused in between cannot be hit. Only our own
 * program is ended: the same lock is held by a mount of the pool, and that is not ours to end. */
#include "takeover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "errmsg.h"
#include "log.h"

#define TAKEOVER_HOLDERS_MAX 64u /* read-only sessions share a lock */
#define PROC_PATH_BYTES_MAX 64u
#define DELETED_SUFFIX " (deleted)"

/* Whether the line of /proc/locks (proc(5)) is a held flock of the file. Waiting ones ("->") are not held. */
static bool line_matches(const char *line, const struct stat *st, pid_t *pid)
{
	unsigned dev_major, dev_minor;
	unsigned long long ino;
	long holder;

	if (sscanf(line, "%*u: FLOCK %*s %*s %ld %x:%x:%llu", &holder, &dev_major, &dev_minor, &ino) != 4)
		return false;
	if (holder <= 0 || dev_major != major(st->st_dev) || dev_minor != minor(st->st_dev) || ino != st->st_ino)
		return false;
	*pid = (pid_t)holder;
	return true;
}

/* 1 and *pid: somebody holds it; 0: nobody. */
static int holder_find(const struct stat *st, pid_t *pid)
{
	FILE *locks = fopen("/proc/locks", "re");
	char line[256];
	int found = 0;

	if (!locks)
		return errmsg_set(-errno, "/proc/locks: %s", strerror(errno));
	while (!found && fgets(line, sizeof(line), locks))
		found = line_matches(line, st, pid);
	fclose(locks);
	return found;
}

/* The program's path, without the mark of a file that was replaced on disk since. */
static int exe_path(const char *link, char path[PATH_MAX])
{
	const size_t mark = sizeof(DELETED_SUFFIX) - 1;
	ssize_t n = readlink(link, path, PATH_MAX - 1);

	if (n < 0)
		return -errno;
	path[n] = 0;
	if ((size_t)n > mark && !strcmp(path + n - mark, DELETED_SUFFIX))
		path[(size_t)n - mark] = 0;
	return 0;
}

static bool same_program(pid_t pid)
{
	char link[PROC_PATH_BYTES_MAX], theirs[PATH_MAX], ours[PATH_MAX];

	snprintf(link, sizeof(link), "/proc/%ld/exe", (long)pid);
	return !exe_path(link, theirs) && !exe_path("/proc/self/exe", ours) && !strcmp(theirs, ours);
}

static bool same_user(pid_t pid)
{
	char dir[PROC_PATH_BYTES_MAX];
	struct stat st;

	snprintf(dir, sizeof(dir), "/proc/%ld", (long)pid);
	return !stat(dir, &st) && st.st_uid == geteuid();
}

static int pidfd_wait(int pidfd, int timeout_ms)
{
	struct pollfd pfd = { .fd = pidfd, .events = POLLIN };
	int n;

	do
		n = poll(&pfd, 1, timeout_ms);
	while (n < 0 && errno == EINTR);
	return n > 0 ? 0 : -ETIMEDOUT;
}

static int pidfd_end(int pidfd)
{
	static const struct { int signal; unsigned wait_ms; } steps[] = {
		{ SIGTERM, TAKEOVER_TERM_MS },
		{ SIGKILL, TAKEOVER_KILL_MS },
	};

	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		if (syscall(SYS_pidfd_send_signal, pidfd, steps[i].signal, NULL, 0) && errno != ESRCH)
			return -errno;
		if (!pidfd_wait(pidfd, (int)steps[i].wait_ms))
			return 0;
	}
	return -ETIMEDOUT;
}

static int holder_end(const char *part_path, pid_t pid)
{
	int pidfd, err = 0;

	if (pid == getpid())
		return errmsg_set(-EBUSY, "%s: held by this session itself", part_path);
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return errno == ESRCH ? 0 : errmsg_set(-EBUSY, "%s: process %ld: %s", part_path, (long)pid, strerror(errno));
	if (!pidfd_wait(pidfd, 0)) /* ended meanwhile */
		goto close_pidfd;
	if (!same_user(pid) || !same_program(pid)) {
		err = errmsg_set(-EBUSY, "%s: held by process %ld, which is not a session of this daemon", part_path,
			(long)pid);
		goto close_pidfd;
	}
	log_notice("%s: ending the session of process %ld", part_path, (long)pid);
	err = pidfd_end(pidfd);
	if (err)
		err = errmsg_set(-EBUSY, "%s: process %ld does not end: %s", part_path, (long)pid, strerror(-err));
close_pidfd:
	close(pidfd);
	return err;
}

static int file_end(const char *path, const struct stat *st)
{
	for (unsigned i = 0; i < TAKEOVER_HOLDERS_MAX; i++) {
		pid_t pid = 0;
		int err = holder_find(st, &pid);

		if (err <= 0)
			return err;
		err = holder_end(path, pid);
		if (err)
			return err;
	}
	return errmsg_set(-EBUSY, "%s: too many sessions", path);
}

/* A directory part: its files, whatever they are called. */
static int directory_end(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	struct stat st;
	int err = 0;

	if (!dir)
		return errmsg_set(-errno, "%s: %s", path, strerror(errno));
	while (!err && (entry = readdir(dir))) {
		if (!fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode))
			err = file_end(path, &st);
	}
	closedir(dir);
	return err;
}

int takeover_end(const char *part_path)
{
	struct stat st;

	if (stat(part_path, &st))
		return errno == ENOENT ? 0 : errmsg_set(-errno, "%s: %s", part_path, strerror(errno));
	return S_ISDIR(st.st_mode) ? directory_end(part_path) : file_end(part_path, &st);
}
