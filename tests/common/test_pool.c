/* Tests rpmem/pool.c and rpmem/pool_part.c on real files: layout, locks, refusals, and that failures leave nothing. */
#include "pool.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "errmsg.h"

#define MIB (1ull << 20)

static char dir[64];

static void setup(void)
{
	strcpy(dir, access("/dev/shm", W_OK) ? "/tmp/test_pool.XXXXXX" : "/dev/shm/test_pool.XXXXXX");
	cr_assert(mkdtemp(dir));
}

static void teardown(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	cr_assert_eq(system(command), 0);
}

TestSuite(pool, .init = setup, .fini = teardown, .timeout = 60);

static const char *in_dir(const char *name)
{
	static char path[4][128];
	static unsigned next;
	char *at = path[next++ % 4];

	snprintf(at, sizeof(path[0]), "%s/%s", dir, name);
	return at;
}

/* A set from "<size> <name>" words, names under dir. */
static struct poolset *make_set(const char *options, const char *const *parts)
{
	char text[1024];
	struct poolset *set;
	size_t used = (size_t)snprintf(text, sizeof(text), "PMEMPOOLSET\n%s", options);

	for (; *parts; parts += 2)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s %s/%s\n", parts[0], dir, parts[1]);
	cr_assert_eq(poolset_parse("t.set", text, used, &set), 0, "%s", errmsg_get());
	return set;
}

#define SET(options, ...) make_set(options, (const char *const[]){ __VA_ARGS__, NULL })

static const struct pool_attr fs_attr = { .signature = POOLHDR_FS_SIGNATURE, .major = POOLHDR_FS_MAJOR,
					  .incompat = POOLHDR_INCOMPAT_CKSUM_2K };

static struct pool *created(const struct poolset *set, const struct pool_attr *attr, unsigned flags)
{
	struct pool *pool = NULL;

	cr_assert_eq(pool_create(set, 0, attr, flags, &pool), 0, "%s", errmsg_get());
	return pool;
}

static struct pool *opened(const struct poolset *set, unsigned flags)
{
	struct pool *pool = NULL;

	cr_assert_eq(pool_open(set, 0, flags, &pool), 0, "%s", errmsg_get());
	return pool;
}

static unsigned file_count(void)
{
	DIR *d = opendir(dir);
	unsigned count = 0;

	for (struct dirent *e = readdir(d); e; e = readdir(d))
		count += e->d_name[0] != '.';
	closedir(d);
	return count;
}

static void put_file(const char *name, off_t size, off_t byte_at)
{
	int fd = open(in_dir(name), O_RDWR | O_CREAT | O_TRUNC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, size), 0);
	if (byte_at >= 0)
		cr_assert_eq(pwrite(fd, "x", 1, byte_at), 1);
	close(fd);
}

static char byte_of(const char *name, off_t off)
{
	int fd = open(in_dir(name), O_RDONLY);
	char byte = 0;

	cr_assert_eq(pread(fd, &byte, 1, off), 1);
	close(fd);
	return byte;
}

/* Every byte of the pool is backed by the right byte of the right part, the headers of later parts left out. */
static void check_layout(const char *options, uint64_t skip, unsigned headers)
{
	struct poolset *set = SET(options, "2M", "a", "2101247", "b", "3M", "c");
	struct pool *pool = created(set, headers ? &fs_attr : NULL, 0);
	uint64_t b_len = 2 * MIB - skip, c_off = 2 * MIB + b_len;
	struct stat st;

	cr_expect_eq(pool->pm.len, poolset_replica_bytes(set, &set->replicas[0]));
	cr_expect_eq((uintptr_t)pool->pm.base % (2 * MIB), 0);
	cr_expect_eq(pool->parts[1].map_off, 2 * MIB);
	cr_expect_eq(pool->parts[1].map_len, b_len);
	cr_expect_eq(pool->parts[2].map_off, c_off);
	pm_write(&pool->pm, 2 * MIB - 1, "123", 3);   /* a | b */
	pm_write(&pool->pm, c_off - 1, "45", 2);      /* b | c */
	pm_write(&pool->pm, pool->pm.len - 1, "6", 1);
	cr_expect_eq(pm_fence(&pool->pm, PM_POINT_DATA), 0);
	pool_close(pool);

	cr_expect_eq(byte_of("a", 2 * MIB - 1), '1');
	cr_expect_eq(byte_of("b", (off_t)skip), '2');
	cr_expect_eq(byte_of("b", (off_t)skip + 1), '3');
	cr_expect_eq(byte_of("b", 2 * MIB - 1), '4');
	cr_expect_eq(byte_of("c", (off_t)skip), '5');
	cr_expect_eq(byte_of("c", 3 * MIB - 1), '6');
	cr_expect_eq(byte_of("a", 0), headers ? 'R' : 0);
	cr_expect_eq(byte_of("b", 0), headers > 1 ? 'R' : skip ? 0 : '2');
	cr_assert_eq(stat(in_dir("b"), &st), 0);
	cr_expect_eq(st.st_size, 2101247, "size as in the set");
	cr_expect_eq(st.st_mode & 0777, 0600);
	cr_expect_geq(st.st_blocks * 512, 2101247, "space is behind every byte");

	pool = opened(set, 0);
	cr_expect_eq(memcmp(pm_ptr(&pool->pm, 2 * MIB - 1), "123", 3), 0);
	cr_expect_eq(pool->attr.major, headers ? 1 : 0);
	pool_close(pool);
	poolset_free(set);
}

Test(pool, parts_follow_without_their_headers) { check_layout("", 4096, 3); }
Test(pool, singlehdr_parts_follow_whole) { check_layout("OPTION SINGLEHDR\n", 0, 1); }
Test(pool, nohdrs_parts_follow_whole) { check_layout("OPTION NOHDRS\n", 0, 0); }

Test(pool, directory_part_is_a_file_in_it)
{
	struct poolset *set;
	struct pool *pool;

	cr_assert_eq(mkdir(in_dir("d"), 0700), 0);
	set = SET("OPTION SINGLEHDR\n", "2M", "d");
	pool = created(set, &fs_attr, 0);
	cr_expect_eq(pool->pm.len, 2 * MIB);
	cr_expect_eq(byte_of("d/000000.pmem", 0), 'R');
	pool_close(pool);
	cr_expect_eq(pool_remove(set, 0, false), 0);
	cr_expect_neq(access(in_dir("d/000000.pmem"), F_OK), 0);
	cr_expect_eq(access(in_dir("d"), F_OK), 0);
	poolset_free(set);
}

Test(pool, create_and_open_agree_on_attributes)
{
	struct poolset *set = SET("", "2M", "a", "2M", "b");
	struct pool *pool = created(set, &fs_attr, POOL_SPARSE);
	struct pool_attr made = pool->attr, next = pool->attr;
	static const uint8_t zero[16];

	cr_expect_arr_neq(made.uuid, zero, 16);
	pool_close(pool);
	pool = opened(set, 0);
	cr_expect_eq(memcmp(&pool->attr, &made, sizeof(made)), 0);

	next.uuid[3] ^= 1;
	next.user_flags[0] ^= 1;
	cr_assert_eq(pool_set_attr(pool, &next), 0, "%s", errmsg_get());
	cr_expect_eq(pool_set_attr(pool, NULL), -EINVAL);
	pool_close(pool);
	pool = opened(set, POOL_RDONLY);
	cr_expect_eq(memcmp(&pool->attr, &next, sizeof(next)), 0);
	pool_close(pool);
	poolset_free(set);
}

Test(pool, nohdrs_takes_no_attributes)
{
	struct poolset *set = SET("OPTION NOHDRS\n", "2M", "a"), *with = SET("", "2M", "b");
	struct pool *pool;

	cr_expect_eq(pool_create(set, 0, &fs_attr, 0, &pool), -EINVAL);
	cr_expect_eq(pool_create(with, 0, NULL, 0, &pool), -EINVAL);
	cr_expect_eq(file_count(), 0);
	pool = created(set, NULL, 0);
	cr_expect_eq(pool_set_attr(pool, NULL), 0);
	cr_expect_eq(pool_set_attr(pool, &fs_attr), -EINVAL);
	pool_close(pool);
	poolset_free(set);
	poolset_free(with);
}

/* What is in the way of create, the answer, and that nothing new is left. */
Test(pool, create_refuses)
{
	static const struct {
		const char *options, *size;
		off_t b_size, b_byte; /* second part as it was; -1: absent, no byte */
		unsigned flags;
		int err;
	} cases[] = {
		{ "", "2M", 4 * MIB, 0, 0, -EEXIST },
		{ "", "4M", 4 * MIB, 4 * MIB - 1, 0, -EEXIST }, /* PMDK looks at the header only */
		{ "OPTION NOHDRS\n", "4M", 4 * MIB, 3 * MIB, 0, -EEXIST }, /* PMDK does not look */
		{ "", "2M", 4 * MIB, -1, 0, -EINVAL },          /* zeros, but another size */
		{ "", "2097151", -1, -1, 0, -EINVAL },          /* below the least part */
		{ "", "AUTO", 4 * MIB, -1, 0, -EINVAL },        /* no device */
		{ "", "AUTO", -1, -1, 0, -EINVAL },
		{ "", "2M", -1, -1, POOL_RDONLY, -EINVAL },
		{ "", "4000P", -1, -1, 0, -EFBIG },             /* more than a file system takes */
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct poolset *set = SET(cases[i].options, "2M", "a", cases[i].size, "b", "2M", "c");
		struct pool *pool = (struct pool *)&set;
		bool hdrs = !cases[i].options[0];
		int err;

		if (cases[i].b_size >= 0)
			put_file("b", cases[i].b_size, cases[i].b_byte);
		err = pool_create(set, 0, hdrs ? &fs_attr : NULL, cases[i].flags, &pool);
		if (cases[i].err == -EFBIG)
			cr_expect(err == -EFBIG || err == -ENOSPC || err == -EINVAL, "%d", err);
		else
			cr_expect_eq(err, cases[i].err, "case %zu: %d %s", i, err, errmsg_get());
		cr_expect_eq((void *)pool, (void *)&set);
		cr_expect_eq(file_count(), cases[i].b_size >= 0 ? 1 : 0, "case %zu left files", i);
		unlink(in_dir("b"));
		poolset_free(set);
	}
}

Test(pool, create_takes_empty_files)
{
	struct poolset *set = SET("", "2M", "a", "2M", "b");

	put_file("a", 0, -1);
	put_file("b", 2 * MIB, -1);
	pool_close(created(set, &fs_attr, 0));
	pool_close(opened(set, 0));
	poolset_free(set);
}

/* A failing create gives an empty file of the user's back as it was. */
Test(pool, failed_create_restores_empty_files)
{
	struct poolset *set = SET("", "2M", "a", "2M", "missing/b");
	struct pool *pool;
	struct stat st;

	put_file("a", 0, -1);
	cr_expect_eq(pool_create(set, 0, &fs_attr, 0, &pool), -ENOENT);
	cr_assert_eq(stat(in_dir("a"), &st), 0);
	cr_expect_eq(st.st_size, 0);
	poolset_free(set);
}

Test(pool, replace_makes_new_files)
{
	struct poolset *set = SET("", "2M", "a", "2M", "b");
	struct pool *pool = created(set, &fs_attr, 0), *other;

	pm_write(&pool->pm, 3 * MIB, "old", 3);
	cr_expect_eq(pool_create(set, 0, &fs_attr, POOL_REPLACE | POOL_NOWAIT_LOCK, &other), -EBUSY, "never one in use");
	pool_close(pool);
	cr_expect_eq(pool_create(set, 0, &fs_attr, 0, &pool), -EEXIST);
	pool = created(set, &fs_attr, POOL_REPLACE);
	cr_expect_eq(memcmp(pm_ptr(&pool->pm, 3 * MIB), "\0\0\0", 3), 0);
	pool_close(pool);
	poolset_free(set);
}

Test(pool, open_refuses)
{
	struct poolset *set = SET("", "2M", "a", "2M", "b"), *single = SET("OPTION SINGLEHDR\n", "2M", "a", "2M", "b");
	struct pool_attr single_attr = fs_attr;
	struct pool *pool;
	char byte;
	int fd;

	single_attr.incompat |= POOLHDR_INCOMPAT_SINGLEHDR;

	cr_expect_eq(pool_open(set, 0, 0, &pool), -ENOENT);
	pool_close(created(set, &fs_attr, 0));
	cr_expect_eq(pool_open(single, 0, 0, &pool), -EINVAL, "the headers say otherwise");
	cr_expect_eq(pool_create(set, 0, &single_attr, POOL_REPLACE, &pool), -EINVAL, "the attributes say otherwise");
	cr_assert_eq(pool_open(set, 0, 0, &pool), 0, "%s", errmsg_get());
	cr_expect_eq(pool_set_attr(pool, &single_attr), -EINVAL, "nor can they change it");
	pool_close(pool);

	fd = open(in_dir("b"), O_RDWR);
	cr_assert_eq(pread(fd, &byte, 1, 100), 1); /* of a random uuid: any fixed byte might be there already */
	byte ^= 1;
	cr_assert_eq(pwrite(fd, &byte, 1, 100), 1);
	cr_expect_eq(pool_open(set, 0, 0, &pool), -EINVAL);
	cr_expect(strstr(errmsg_get(), "part 1") && strstr(errmsg_get(), "checksum"), "'%s'", errmsg_get());
	cr_assert_eq(ftruncate(fd, 3 * MIB), 0);
	cr_expect_eq(pool_open(set, 0, 0, &pool), -EINVAL);
	cr_expect(strstr(errmsg_get(), in_dir("b")), "'%s'", errmsg_get());
	close(fd);
	unlink(in_dir("b"));
	cr_expect_eq(pool_open(set, 0, 0, &pool), -ENOENT);
	cr_assert_eq(mkfifo(in_dir("b"), 0600), 0);
	cr_expect_eq(pool_open(set, 0, 0, &pool), -EINVAL);
	poolset_free(set);
	poolset_free(single);
}

Test(pool, remote_replica_has_no_parts)
{
	static const char text[] = "PMEMPOOLSET\n2M /none/a\nREPLICA h s\n";
	struct poolset *set;
	struct pool *pool;

	cr_assert_eq(poolset_parse("t.set", text, sizeof(text) - 1, &set), 0);
	cr_expect_eq(pool_open(set, 1, 0, &pool), -EINVAL);
	poolset_free(set);
}

Test(pool, readers_share_writers_do_not)
{
	struct poolset *set = SET("", "2M", "a");
	struct pool *pool = created(set, &fs_attr, 0), *one, *two;
	char pid[32];

	snprintf(pid, sizeof(pid), "process %d", (int)getpid());
	cr_expect_eq(pool_open(set, 0, POOL_NOWAIT_LOCK, &one), -EBUSY);
	cr_expect(strstr(errmsg_get(), pid), "'%s' names the holder", errmsg_get());
	cr_expect_eq(pool_open(set, 0, POOL_RDONLY | POOL_NOWAIT_LOCK, &one), -EBUSY);
	cr_expect_eq(pool_remove(set, 0, true), -EBUSY);
	pool_close(pool);
	one = opened(set, POOL_RDONLY);
	two = opened(set, POOL_RDONLY);
	cr_expect(one->pm.read_only);
	cr_expect_eq(pool_open(set, 0, POOL_NOWAIT_LOCK, &pool), -EBUSY);
	pool_close(one);
	pool_close(two);
	pool_close(opened(set, POOL_NOWAIT_LOCK));
	poolset_free(set);
}

/* The second user gets the lock when the first one ends, killed or not. */
Test(pool, open_waits_for_the_lock)
{
	struct poolset *set = SET("", "2M", "a");
	struct timespec begin, end;
	int ready[2];
	char byte;
	pid_t child;

	pool_close(created(set, &fs_attr, 0));
	cr_assert_eq(pipe(ready), 0);
	child = fork();
	if (!child) {
		struct pool *pool;

		if (pool_open(set, 0, 0, &pool) || write(ready[1], "r", 1) != 1)
			_exit(1);
		usleep(300000); /* holds it for a while */
		kill(getpid(), SIGKILL);
	}
	cr_assert_eq(read(ready[0], &byte, 1), 1);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	pool_close(opened(set, 0));
	clock_gettime(CLOCK_MONOTONIC, &end);
	cr_expect_gt((end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000, 150);
	waitpid(child, NULL, 0);
	poolset_free(set);
}

/* A file that is replaced while its lock is waited for is not the one to use. */
Test(pool, open_follows_a_replaced_file)
{
	struct poolset *set = SET("", "2M", "a");
	struct stat now, mapped;
	struct pool *pool;
	int ready[2];
	char byte;
	pid_t child;
	int status;

	pool_close(created(set, &fs_attr, 0));
	cr_assert_eq(pipe(ready), 0);
	child = fork();
	if (!child) {
		if (pool_open(set, 0, 0, &pool) || write(ready[1], "r", 1) != 1)
			_exit(1);
		usleep(200000);
		if (rename(in_dir("a"), in_dir("old")) || pool_create(set, 0, &fs_attr, 0, &pool))
			_exit(1);
		_exit(0);
	}
	cr_assert_eq(read(ready[0], &byte, 1), 1);
	pool = opened(set, 0);
	cr_assert_eq(stat(in_dir("a"), &now), 0);
	cr_assert_eq(fstat(pool->parts[0].fd, &mapped), 0);
	cr_expect_eq(now.st_ino, mapped.st_ino);
	pool_close(pool);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_expect_eq(status, 0);
	poolset_free(set);
}

Test(pool, remove_is_all_or_nothing)
{
	struct poolset *set = SET("", "2M", "a", "2M", "b");

	cr_expect_eq(pool_remove(set, 0, false), -ENOENT);
	cr_expect_eq(pool_remove(set, 0, true), 0);
	pool_close(created(set, &fs_attr, 0));
	unlink(in_dir("b"));
	cr_expect_eq(pool_remove(set, 0, false), -ENOENT);
	cr_expect_eq(file_count(), 1, "nothing was removed");
	cr_expect_eq(pool_remove(set, 0, true), 0);
	cr_expect_eq(file_count(), 0);
	poolset_free(set);
}

Test(pool, domain_is_that_of_the_weakest_part)
{
	char other[] = "./test_pool.XXXXXX", text[512], path[256];
	struct poolset *set;
	struct pool *pool;

	if (strncmp(dir, "/dev/shm", 8))
		cr_skip_test("/dev/shm is not there");
	cr_assert(mkdtemp(other));
	cr_assert(realpath(other, path));
	snprintf(text, sizeof(text), "PMEMPOOLSET\n2M %s/a\n2M %s/b\n", path, dir);
	cr_assert_eq(poolset_parse("t.set", text, strlen(text), &set), 0);
	pool = created(set, &fs_attr, 0);
	cr_expect_eq(pool->pm.domain, PM_MEMORY);
	pool_close(pool);
	cr_expect_eq(pool_remove(set, 0, false), 0);
	rmdir(path);
	poolset_free(set);
}

Test(pool, close_of_nothing)
{
	pool_close(NULL);
}

static uint64_t bytes_behind(const struct pool *pool, unsigned part)
{
	struct stat st;

	cr_assert_eq(fstat(pool->parts[part].fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* Space is asked for across the border of two parts, and again after the pool was opened anew; a full pool never asks. */
Test(pool, sparse_parts_get_space_where_it_is_asked_for)
{
	struct poolset *set = SET("", "8M", "a", "8M", "b");
	struct pool *pool = created(set, &fs_attr, POOL_SPARSE);
	uint64_t before = bytes_behind(pool, 0);

	cr_expect_leq(before, 65536, "the header's page, rounded as the file system does");
	cr_assert(pool->pm.populate);
	cr_assert_eq(pool->pm.populate(&pool->pm, 7 * MIB, 2 * MIB), 0, "%s", errmsg_get());
	cr_expect_geq(bytes_behind(pool, 0), before + MIB);
	cr_expect_leq(bytes_behind(pool, 0), before + MIB + 65536);
	cr_expect_geq(bytes_behind(pool, 1), MIB);
	cr_expect_leq(bytes_behind(pool, 1), MIB + 2 * 65536);
	pool_close(pool);
	pool = opened(set, POOL_RDONLY);
	cr_expect_null(pool->pm.populate, "nothing is stored through a read-only mapping");
	pool_close(pool);
	pool = opened(set, 0);
	cr_assert(pool->pm.populate);
	cr_assert_eq(pool->pm.populate(&pool->pm, 0, pool->pm.len), 0);
	pool_close(pool);
	pool = opened(set, 0);
	cr_expect_null(pool->pm.populate, "no hole is left");
	pool_close(pool);
	cr_assert_eq(pool_remove(set, 0, false), 0);
	pool = created(set, &fs_attr, 0);
	cr_expect_null(pool->pm.populate);
	pool_close(pool);
	poolset_free(set);
}

/* Cold parts in memory take space where it is asked for, and the rest at the end; on disk they have it at once. */
Test(pool, cold_parts_are_filled_up_at_the_end)
{
	struct poolset *set = SET("", "8M", "a", "8M", "b");
	struct pool *pool = created(set, &fs_attr, POOL_COLD);

	if (pool->pm.populate) {
		cr_expect_leq(bytes_behind(pool, 0), 65536);
		cr_assert_eq(pool->pm.populate(&pool->pm, 0, 4 * MIB), 0, "%s", errmsg_get());
		cr_expect_leq(bytes_behind(pool, 0), 4 * MIB + 65536);
	}
	cr_assert_eq(pool_fill(pool), 0, "%s", errmsg_get());
	cr_expect_null(pool->pm.populate);
	cr_expect_geq(bytes_behind(pool, 0), 8 * MIB);
	cr_expect_geq(bytes_behind(pool, 1), 8 * MIB);
	cr_assert_eq(pool_fill(pool), 0);
	pool_close(pool);
	pool = opened(set, 0);
	cr_expect_null(pool->pm.populate);
	pool_close(pool);
	poolset_free(set);
}
