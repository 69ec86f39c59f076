/* Takeover: finds the process that holds the lock of a pool's first part and ends it.
 *
 *   /proc/locks --pid--> pidfd --checked: same program, same user--> SIGTERM --deadline--> SIGKILL --deadline--> refused
 *
 * The pidfd is opened before the process is looked at, so a process id that is reused in between cannot be hit. Only our own
 * program is ended: the same lock is held by a mount of the pool, and that is not ours to end.
 *
 * A plain session shows which one it is: it keeps memory files (memfd_create(2)) open, named after its own id and the id of
 * the session that it replaced itself, and processes of the same user see the names in /proc/PID/fd, also of a stopped
 * process. Who asks for the end of one session gets that one's process ended, or none. The session that was replaced is
 * shown because its initiator may not have heard that the replacement stands, and then still asks by the old number. */
#include "takeover.h"

#include <assert.h>
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
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "errmsg.h"
#include "log.h"
#include "pool.h"

#define TAKEOVER_HOLDERS_MAX 64u /* read-only sessions share a lock */
#define PROC_PATH_BYTES_MAX 64u
#define DELETED_SUFFIX " (deleted)"
#define MARK_FORMAT "rpmemd-session-%016llx"
#define MARK_BYTES_MAX 64u

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

static int pidfd_end(int pidfd, unsigned term_ms)
{
	const struct { int signal; unsigned wait_ms; } steps[] = {
		{ SIGTERM, term_ms },
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

int takeover_mark(uint64_t session)
{
	char name[MARK_BYTES_MAX];
	int fd;

	snprintf(name, sizeof(name), MARK_FORMAT, (unsigned long long)session);
	fd = memfd_create(name, MFD_CLOEXEC);
	return fd < 0 ? errmsg_set(-errno, "mark of the session: %s", strerror(errno)) : fd;
}

/* Whether the process shows the session's mark. */
static bool shows_mark(pid_t pid, uint64_t session)
{
	char want[MARK_BYTES_MAX + 32], path[PROC_PATH_BYTES_MAX], link[PATH_MAX];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(want, sizeof(want), "/memfd:" MARK_FORMAT DELETED_SUFFIX, (unsigned long long)session);
	snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);

		found = n > 0 && (size_t)n == strlen(want) && !memcmp(link, want, (size_t)n);
	}
	closedir(dir);
	return found;
}

/* session 0: whichever it serves. */
static int holder_end(const char *part_path, pid_t pid, uint64_t session)
{
	unsigned term_ms = session ? TAKEOVER_SESSION_TERM_MS : TAKEOVER_TERM_MS;
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
	if (session && !shows_mark(pid, session)) {
		err = errmsg_set(-EBUSY, "%s: process %ld serves another session", part_path, (long)pid);
		goto close_pidfd;
	}
	log_notice("%s: ending the session of process %ld", part_path, (long)pid);
	err = pidfd_end(pidfd, term_ms);
	if (err)
		err = errmsg_set(-EBUSY, "%s: process %ld does not end: %s", part_path, (long)pid, strerror(-err));
close_pidfd:
	close(pidfd);
	return err;
}

static int file_end(const char *path, const struct stat *st, uint64_t session)
{
	for (unsigned i = 0; i < TAKEOVER_HOLDERS_MAX; i++) {
		pid_t pid = 0;
		int err = pool_lock_holder(st, &pid);

		if (err <= 0)
			return err;
		err = holder_end(path, pid, session);
		if (err)
			return err;
	}
	return errmsg_set(-EBUSY, "%s: too many sessions", path);
}

/* A directory part: its files, whatever they are called. */
static int directory_end(const char *path, uint64_t session)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	struct stat st;
	int err = 0;

	if (!dir)
		return errmsg_set(-errno, "%s: %s", path, strerror(errno));
	while (!err && (entry = readdir(dir))) {
		if (!fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode))
			err = file_end(path, &st, session);
	}
	closedir(dir);
	return err;
}

static int part_end(const char *part_path, uint64_t session)
{
	struct stat st;

	if (stat(part_path, &st))
		return errno == ENOENT ? 0 : errmsg_set(-errno, "%s: %s", part_path, strerror(errno));
	return S_ISDIR(st.st_mode) ? directory_end(part_path, session) : file_end(part_path, &st, session);
}

int takeover_end(const char *part_path)
{
	return part_end(part_path, 0);
}

int takeover_end_session(const char *part_path, uint64_t session)
{
	assert(session);
	return part_end(part_path, session);
}
