/* A librpmem program's surroundings: a pool directory of its own, a region, and a real rpmemd for "@local". */
#ifndef RPMEMFS_TESTS_RPMEM_RIG_H
#define RPMEMFS_TESTS_RPMEM_RIG_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "librpmem.h"

#define RIG_BYTES ((size_t)16 << 20)

struct rpmem_rig {
	char dir[64], build[PATH_MAX], command[PATH_MAX + 512];
	char *region;
	struct rpmem_pool_attr attr;
	unsigned lanes;
	RPMEMpool *pool;
};

static inline uint64_t rig_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static inline void rig_path(const struct rpmem_rig *rig, const char *name, char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, "%s/%s", rig->dir, name);
}

__attribute__((format(printf, 3, 4))) static inline void rig_file(const struct rpmem_rig *rig, const char *name,
								 const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list args;
	FILE *file;

	rig_path(rig, name, path);
	file = fopen(path, "w");
	cr_assert(file, "%s", path);
	va_start(args, fmt);
	vfprintf(file, fmt, args);
	va_end(args);
	fclose(file);
}

/* options: more of rpmemd's command line. Sets: r.set of one part, and of the same size with the name given by rig_set.
 */
static inline void rig_init(struct rpmem_rig *rig, const char *options)
{
	ssize_t n = readlink("/proc/self/exe", rig->build, sizeof(rig->build) - 1);

	cr_assert_gt(n, 0);
	rig->build[n] = '\0';
	for (unsigned i = 0; i < 3; i++) { /* build/tests/rpmem/test_x -> build */
		char *slash = strrchr(rig->build, '/');

		cr_assert(slash);
		*slash = '\0';
	}
	strcpy(rig->dir, "/dev/shm/librpmem-XXXXXX");
	cr_assert(mkdtemp(rig->dir));
	rig_file(rig, "r.set", "PMEMPOOLSET\n%zu %s/part\n", RIG_BYTES, rig->dir);
	snprintf(rig->command, sizeof(rig->command), "%.3000s/rpmemd --poolset-dir %s --log-file %s/log --log-level info %s",
		 rig->build, rig->dir, rig->dir, options);
	setenv("RPMEM_CMD", rig->command, 1);
	rig->region = mmap(NULL, RIG_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(rig->region, MAP_FAILED);
	memcpy(rig->attr.signature, "RIGTEST", 8);
	rig->attr.major = 5;
	rig->lanes = 4;
}

static inline int rig_create(struct rpmem_rig *rig)
{
	rig->pool = rpmem_create("@local", "r.set", rig->region, RIG_BYTES, &rig->lanes, &rig->attr);
	return rig->pool ? 0 : -1;
}

static inline void rig_up(struct rpmem_rig *rig, const char *options)
{
	rig_init(rig, options);
	cr_assert_eq(rig_create(rig), 0, "%s", rpmem_errormsg());
}

static inline void rig_fini(struct rpmem_rig *rig)
{
	char path[PATH_MAX];
	struct dirent *entry;
	DIR *dir;

	if (rig->pool)
		rpmem_close(rig->pool);
	rig->pool = NULL;
	dir = opendir(rig->dir);
	while (dir && (entry = readdir(dir))) {
		rig_path(rig, entry->d_name, path);
		unlink(path);
	}
	if (dir)
		closedir(dir);
	cr_expect_eq(rmdir(rig->dir), 0, "something was left in %s", rig->dir);
	munmap(rig->region, RIG_BYTES);
}

static inline void rig_fill(struct rpmem_rig *rig, size_t off, size_t len, unsigned seed)
{
	for (size_t i = off; i < off + len; i++)
		rig->region[i] = (char)(seed + i * 7 + i / 253);
}

/* Whether the part file (of a set with one part) holds the region's bytes. */
static inline bool rig_same(const struct rpmem_rig *rig, size_t off, size_t len)
{
	char path[PATH_MAX], *got = malloc(len);
	FILE *file;
	bool same;

	rig_path(rig, "part", path);
	file = fopen(path, "r");
	cr_assert(file && got);
	same = !fseek(file, (long)off, SEEK_SET) && fread(got, 1, len, file) == len && !memcmp(got, rig->region + off, len);
	fclose(file);
	free(got);
	return same;
}

/* State letter and parent of an rpmemd; 0: there is none of that id. */
static inline char rig_process(pid_t pid, int *ppid)
{
	char path[64], line[512] = "", *paren, state = 0;
	FILE *stat;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	stat = fopen(path, "r");
	if (!stat)
		return 0;
	if (!fgets(line, sizeof(line), stat) || !strstr(line, "(rpmemd)") || !(paren = strrchr(line, ')')) ||
	    sscanf(paren + 1, " %c %d", &state, ppid) != 2)
		state = 0;
	fclose(stat);
	return state;
}

/* The rpmemd that serves the newest session: our child with that command. 0: none. */
static inline pid_t rig_child(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	cr_assert(proc);
	while ((entry = readdir(proc))) {
		pid_t pid = atoi(entry->d_name);
		int ppid = 0;
		char state = pid ? rig_process(pid, &ppid) : 0;

		if (state && state != 'Z' && ppid == getpid() && pid > found)
			found = pid;
	}
	closedir(proc);
	return found;
}

#endif
