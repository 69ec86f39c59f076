/* Who holds a part: the kernel's table of locks, /proc/locks (proc(5)). A line of it:
 *
 *   1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF        process, device in hex, inode
 *
 * Waiting ones have "->" behind the number. The device is the superblock's, which differs from the one stat(2) tells where a
 * file system has several (btrfs subvolumes): then the inode alone decides who is asked, and one of the files that process
 * has open must be this one. */
#include "pool.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "errmsg.h"

#define PROC_PATH_BYTES_MAX 64u
#define LOCK_LINE_BYTES_MAX 256u

/* Whether the process has this very file open. */
static bool has_open(pid_t pid, const struct stat *st)
{
	char path[PROC_PATH_BYTES_MAX];
	struct dirent *entry;
	struct stat other;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir)))
		found = !fstatat(dirfd(dir), entry->d_name, &other, 0) && other.st_dev == st->st_dev &&
			other.st_ino == st->st_ino;
	closedir(dir);
	return found;
}

static bool line_matches(const char *line, const struct stat *st, pid_t *pid)
{
	unsigned dev_major, dev_minor;
	unsigned long long ino;
	long holder;

	if (sscanf(line, "%*u: FLOCK %*s %*s %ld %x:%x:%llu", &holder, &dev_major, &dev_minor, &ino) != 4)
		return false;
	if (holder <= 0 || ino != st->st_ino)
		return false;
	if ((dev_major != major(st->st_dev) || dev_minor != minor(st->st_dev)) && !has_open((pid_t)holder, st))
		return false;
	*pid = (pid_t)holder;
	return true;
}

int pool_lock_holder(const struct stat *st, pid_t *pid)
{
	FILE *locks = fopen("/proc/locks", "re");
	char line[LOCK_LINE_BYTES_MAX];
	int found = 0;

	if (!locks)
		return errmsg_set(-errno, "/proc/locks: %s", strerror(errno));
	while (!found && fgets(line, sizeof(line), locks))
		found = line_matches(line, st, pid);
	fclose(locks);
	return found;
}
