/* The pool store and takeover: names never leave the pool directory, wrong sets and attributes are refused, a failed create
 * leaves nothing, and a session of this program is ended while another program's lock is left alone. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "errmsg.h"
#include "rpmemd/store.h"
#include "rpmemd/takeover.h"

static char base[] = "/dev/shm/test_store.XXXXXX";
static char dir[64], part[64];

static void path_of(char *to, size_t size, const char *name)
{
	snprintf(to, size, "%s/%s", base, name);
}

static void put(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	path_of(path, sizeof(path), name);
	f = fopen(path, "w");
	cr_assert(f && fputs(text, f) >= 0 && !fclose(f));
}

static void put_set(const char *name, const char *options, const char *size)
{
	char text[256];

	snprintf(text, sizeof(text), "PMEMPOOLSET\n%s%s %s\n", options, size, part);
	put(name, text);
}

static void set_up(void)
{
	char path[128];

	cr_assert(mkdtemp(base));
	path_of(dir, sizeof(dir), "pools");
	path_of(part, sizeof(part), "part0");
	cr_assert(!mkdir(dir, 0700));
	path_of(path, sizeof(path), "pools/sub");
	cr_assert(!mkdir(path, 0700));
	put_set("pools/a.set", "", "8M");
}

static void tear_down(void)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", base);
	cr_assert(!system(cmd));
}

TestSuite(store, .init = set_up, .fini = tear_down, .timeout = 30);

static struct ctl_open request(const char *name)
{
	struct ctl_open r = { .lanes = 1, .has_attr = 1, .attr = { .signature = "TESTSIG", .major = 1 } };

	strcpy(r.set_name, name);
	return r;
}

static int create(const char *name)
{
	struct ctl_open r = request(name);
	struct stored s;
	int err = store_create(dir, &r, &s);

	if (!err)
		store_close(&s);
	return err;
}

/* ---------------------------------------------------------------- names */

Test(store, names_stay_below_the_pool_directory)
{
	char absolute[128], link_path[128];
	struct poolset *set;

	put_set("outside.set", "", "8M");
	put_set("pools/sub/b.set", "", "8M");
	path_of(absolute, sizeof(absolute), "pools/a.set");
	path_of(link_path, sizeof(link_path), "pools/link.set");
	cr_assert(!symlink("../outside.set", link_path));
	path_of(link_path, sizeof(link_path), "pools/abs.set");
	cr_assert(!symlink(absolute, link_path));
	path_of(link_path, sizeof(link_path), "pools/inner.set");
	cr_assert(!symlink("sub/b.set", link_path));
	path_of(link_path, sizeof(link_path), "pools/up");
	cr_assert(!symlink("..", link_path));

	const struct { const char *name; int want; } cases[] = {
		{ "a.set", 0 }, { "./a.set", 0 }, { "sub/b.set", 0 }, { "sub/../a.set", 0 }, { "inner.set", 0 },
		{ "", -EBADF }, { absolute, -EBADF }, { "../outside.set", -EBADF }, { "sub/../../outside.set", -EBADF },
		{ "../pools/a.set", -EBADF }, { "link.set", -EBADF }, { "abs.set", -EBADF }, { "up/outside.set", -EBADF },
		{ "missing.set", -ENOENT }, { "sub", -EINVAL }, { ".", -EINVAL },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int err = store_set_read(dir, cases[i].name, &set);

		cr_expect_eq(err, cases[i].want, "'%s': %d, %s", cases[i].name, err, errmsg_get());
		if (!err)
			poolset_free(set);
	}
}

static bool renaming;

static void *renamer(void *arg)
{
	char from[128], to[128];

	path_of(from, sizeof(from), "one");
	path_of(to, sizeof(to), "other");
	while (__atomic_load_n(&renaming, __ATOMIC_ACQUIRE))
		if (rename(from, to) || rename(to, from))
			return arg;
	return NULL;
}

/* The kernel does not follow ".." while anything is renamed anywhere: that is no reason to refuse a name. */
Test(store, renames_elsewhere_refuse_no_name)
{
	struct poolset *set;
	pthread_t thread;
	void *failed;

	put("one", "");
	renaming = true;
	cr_assert_eq(pthread_create(&thread, NULL, renamer, &renaming), 0);
	for (unsigned i = 0; i < 20000; i++) {
		int err = store_set_read(dir, "sub/../a.set", &set);

		cr_assert_eq(err, 0, "%u: %d %s", i, err, errmsg_get());
		poolset_free(set);
	}
	__atomic_store_n(&renaming, false, __ATOMIC_RELEASE);
	pthread_join(thread, &failed);
	cr_expect_null(failed);
}

Test(store, a_fifo_does_not_hold_the_daemon)
{
	struct poolset *set;
	char path[128];

	path_of(path, sizeof(path), "pools/fifo");
	cr_assert(!mkfifo(path, 0600));
	cr_expect_eq(store_set_read(dir, "fifo", &set), -EINVAL);
}

Test(store, a_set_here_has_exactly_one_replica)
{
	char text[256];

	snprintf(text, sizeof(text), "PMEMPOOLSET\n8M %s\nREPLICA host other.set\n", part);
	put("pools/two.set", text);
	cr_expect_eq(create("two.set"), -EINVAL);
	put("pools/none.set", "PMEMPOOLSET\n");
	cr_expect_eq(create("none.set"), -EINVAL);
	put("pools/text.set", "hello\n");
	cr_expect_eq(create("text.set"), -EINVAL);
	cr_expect_neq(access(part, F_OK), 0);
}

/* ---------------------------------------------------------------- pools */

Test(store, a_pool_is_created_opened_and_removed)
{
	struct ctl_open r = request("a.set");
	struct stored s;

	r.pool_size = 8u << 20;
	cr_assert_eq(store_create(dir, &r, &s), 0, "%s", errmsg_get());
	cr_expect_eq(s.pool->pm.len, 8u << 20);
	store_close(&s);
	cr_expect_eq(create("a.set"), -EEXIST);
	r.has_attr = 0;
	cr_assert_eq(store_open(dir, &r, &s), 0, "%s", errmsg_get());
	cr_expect_str_eq((char *)s.pool->attr.signature, "TESTSIG");
	cr_expect_eq(store_remove(dir, "a.set", 0), -EBUSY);
	store_close(&s);
	cr_expect_eq(store_remove(dir, "a.set", 0), 0);
	cr_expect_eq(store_open(dir, &r, &s), -ENOENT);
	cr_expect_eq(store_remove(dir, "a.set", 0), -ENOENT);
	cr_expect_eq(store_remove(dir, "a.set", STORE_REMOVE_FORCE | STORE_REMOVE_SET), 0);
	cr_expect_eq(store_remove(dir, "a.set", 0), -ENOENT);
	cr_expect_eq(store_remove(dir, "a.set", STORE_REMOVE_FORCE), 0);
}

Test(store, a_pool_smaller_than_asked_for_is_refused_before_it_is_made)
{
	struct ctl_open r = request("a.set");
	struct stored s;

	r.pool_size = (8u << 20) + 1;
	cr_expect_eq(store_create(dir, &r, &s), -EFBIG);
	cr_expect_neq(access(part, F_OK), 0);
	cr_assert_eq(create("a.set"), 0);
	cr_expect_eq(store_open(dir, &r, &s), -EFBIG);
}

Test(store, attributes_and_options_of_the_set_must_agree)
{
	struct ctl_open r = request("single.set"), none = request("a.set");
	struct stored s;

	put_set("pools/single.set", "OPTION SINGLEHDR\n", "8M");
	cr_expect_eq(create("single.set"), -EINVAL);
	r.attr.incompat = POOLHDR_INCOMPAT_SINGLEHDR;
	cr_assert_eq(store_create(dir, &r, &s), 0, "%s", errmsg_get());
	store_discard(&s);
	cr_expect_neq(access(part, F_OK), 0);
	put_set("pools/nohdrs.set", "OPTION NOHDRS\n", "8M");
	cr_expect_eq(create("nohdrs.set"), -EINVAL);
	none.has_attr = 0;
	memset(&none.attr, 0, sizeof(none.attr));
	cr_expect_eq(store_create(dir, &none, &s), -EINVAL);
	strcpy(none.set_name, "nohdrs.set");
	cr_assert_eq(store_create(dir, &none, &s), 0, "%s", errmsg_get());
	store_close(&s);
}

Test(store, set_attr_never_leaves_a_pool_without_signature)
{
	struct ctl_open r = request("a.set");
	struct pool_attr attr = { 0 };
	struct stored s;

	cr_assert_eq(store_create(dir, &r, &s), 0);
	cr_expect_eq(store_set_attr(&s, &attr), -EINVAL);
	memcpy(attr.signature, "OTHERSIG", 8);
	attr.major = 2;
	cr_expect_eq(store_set_attr(&s, &attr), 0, "%s", errmsg_get());
	store_close(&s);
	cr_assert_eq(store_open(dir, &r, &s), 0, "%s", errmsg_get());
	cr_expect_arr_eq(s.pool->attr.signature, "OTHERSIG", 8);
	store_close(&s);
}

/* ---------------------------------------------------------------- takeover */

/* A child that holds the pool until it is ended; ignores SIGTERM when stubborn. */
static pid_t holder_of(const struct ctl_open *r, bool stubborn)
{
	struct stored s;
	int ready[2];
	char c = 0;
	pid_t pid;

	cr_assert(!pipe(ready));
	pid = fork();
	if (!pid) {
		signal(SIGTERM, stubborn ? SIG_IGN : SIG_DFL);
		if (store_open(dir, r, &s) || write(ready[1], &c, 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	cr_assert_eq(read(ready[0], &c, 1), 1);
	close(ready[0]);
	return pid;
}

static pid_t holder(bool stubborn)
{
	struct ctl_open r = request("a.set");

	return holder_of(&r, stubborn);
}

static void taken_over(struct ctl_open r, bool stubborn, int want_signal)
{
	struct stored s;
	int status;
	pid_t pid;

	cr_assert_eq(store_create(dir, &r, &s), 0, "%s", errmsg_get());
	store_close(&s);
	pid = holder_of(&r, stubborn);
	cr_expect_eq(store_open(dir, &r, &s), -EBUSY);
	r.flags = CTL_OPEN_TAKEOVER;
	cr_assert_eq(store_open(dir, &r, &s), 0, "%s", errmsg_get());
	store_close(&s);
	cr_assert_eq(waitpid(pid, &status, WNOHANG), pid);
	cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == want_signal);
}

Test(store, takeover_ends_the_running_session_and_gets_the_lock) { taken_over(request("a.set"), false, SIGTERM); }
Test(store, takeover_kills_a_session_that_does_not_end) { taken_over(request("a.set"), true, SIGKILL); }

Test(store, takeover_leaves_other_programs_alone)
{
	struct ctl_open r = request("a.set");
	struct stored s;
	int status;
	pid_t pid;

	cr_assert_eq(create("a.set"), 0);
	pid = fork();
	if (!pid) {
		execlp("flock", "flock", "-F", part, "sleep", "20", NULL);
		_exit(1);
	}
	for (int fd = open(part, O_RDWR), held = 0; !held; usleep(1000)) { /* until the other program has it */
		held = flock(fd, LOCK_EX | LOCK_NB) != 0;
		if (!held)
			flock(fd, LOCK_UN);
		else
			close(fd);
	}
	r.flags = CTL_OPEN_TAKEOVER;
	cr_expect_eq(store_open(dir, &r, &s), -EBUSY);
	cr_expect(strstr(errmsg_get(), "not a session"), "%s", errmsg_get());
	cr_expect_eq(waitpid(pid, &status, WNOHANG), 0);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
}

Test(store, takeover_of_a_free_or_missing_part_is_nothing)
{
	cr_expect_eq(takeover_end(part), 0);
	cr_assert_eq(create("a.set"), 0);
	cr_expect_eq(takeover_end(part), 0);
}

Test(store, a_sparse_pool_takes_no_space_before_it_is_used)
{
	struct ctl_open r = request("a.set");
	struct stored s;
	struct stat st;

	r.flags = CTL_OPEN_FS | CTL_OPEN_SPARSE;
	cr_assert_eq(store_create(dir, &r, &s), 0);
	cr_expect(s.pool->pm.populate);
	store_close(&s);
	cr_assert_eq(stat(part, &st), 0);
	cr_expect_eq(st.st_size, 8 << 20);
	cr_expect_lt(st.st_blocks, 256);
}

/* ---------------------------------------------------------------- what a create leaves */

/* A session's end by number: see test_program for the real thing. Here: nobody's mark is everybody's refusal. */
Test(store, a_session_is_ended_only_by_the_number_it_shows)
{
	struct ctl_open r = request("a.set");
	struct stored s;
	int status, mark;
	pid_t pid;

	cr_assert_eq(create("a.set"), 0);
	mark = takeover_mark(0x1122334455667788);
	cr_assert_geq(mark, 0);
	pid = holder(false); /* inherits the mark */
	close(mark);
	r.session_before = 0x1122334455667789;
	cr_expect_eq(store_open(dir, &r, &s), -EBUSY);
	cr_expect(strstr(errmsg_get(), "another session"), "%s", errmsg_get());
	cr_expect_eq(waitpid(pid, &status, WNOHANG), 0);
	cr_assert(!kill(pid, SIGSTOP));
	r.session_before = 0x1122334455667788;
	cr_assert_eq(store_open(dir, &r, &s), 0, "%s", errmsg_get());
	store_close(&s);
	cr_expect_eq(waitpid(pid, &status, WNOHANG), pid);
}

static void file_put(const char *path, size_t size, size_t at, int byte)
{
	FILE *f = fopen(path, "w");

	cr_assert(f);
	if (size)
		cr_assert(!fseek(f, (long)size - 1, SEEK_SET) && fputc(0, f) == 0);
	if (byte)
		cr_assert(!fseek(f, (long)at, SEEK_SET) && fputc(byte, f) == byte);
	cr_assert(!fclose(f));
}

static long file_size(const char *path)
{
	struct stat st;

	return stat(path, &st) ? -1 : (long)st.st_size;
}

static bool header_zero(const char *path)
{
	uint8_t page[4096], zero[4096] = { 0 };
	int fd = open(path, O_RDONLY);
	ssize_t n = pread(fd, page, sizeof(page), 0);

	close(fd);
	return n == (ssize_t)sizeof(page) && !memcmp(page, zero, sizeof(page));
}

/* A create that is given up leaves each part as it was: missing, empty, or full of zeros. */
Test(store, a_discarded_create_leaves_the_users_files)
{
	struct ctl_open r = request("three.set");
	char text[400], missing[80], empty[80], zeros[80];
	struct stored s;

	path_of(missing, sizeof(missing), "missing");
	path_of(empty, sizeof(empty), "empty");
	path_of(zeros, sizeof(zeros), "zeros");
	snprintf(text, sizeof(text), "PMEMPOOLSET\n4M %s\n4M %s\n4M %s\n", zeros, missing, empty);
	put("pools/three.set", text);
	file_put(empty, 0, 0, 0);
	file_put(zeros, 4 << 20, 0, 0);
	cr_assert_eq(store_create(dir, &r, &s), 0, "%s", errmsg_get());
	cr_expect(!header_zero(zeros) && !header_zero(missing) && !header_zero(empty));
	store_discard(&s);
	cr_expect_eq(file_size(missing), -1);
	cr_expect_eq(file_size(empty), 0);
	cr_expect_eq(file_size(zeros), 4 << 20);
	cr_expect(header_zero(zeros));
	cr_expect_eq(create("three.set"), 0, "%s", errmsg_get());
}

/* A librpmem pool is made over a file whose first 4 KiB are zero, as it always was; a file system's wants all of it. */
Test(store, a_part_is_empty_when_its_header_is)
{
	struct ctl_open fs = request("a.set");
	struct stored s;

	memcpy(fs.attr.signature, POOLHDR_FS_SIGNATURE, 8);
	fs.flags = CTL_OPEN_FS;
	file_put(part, 8 << 20, 5000, 'x');
	cr_expect_eq(store_create(dir, &fs, &s), -EEXIST);
	cr_expect_eq(create("a.set"), 0, "%s", errmsg_get());
	file_put(part, 8 << 20, 4095, 'x');
	cr_expect_eq(create("a.set"), -EEXIST);
	put_set("pools/nohdrs.set", "OPTION NOHDRS\n", "8M");
	fs = request("nohdrs.set");
	fs.has_attr = 0;
	memset(&fs.attr, 0, sizeof(fs.attr));
	cr_expect_eq(store_create(dir, &fs, &s), -EEXIST);
	cr_expect_eq(file_size(part), 8 << 20);
}

/* A set whose part is a directory, which is made. */
static struct ctl_open directory_request(void)
{
	struct ctl_open r = request("dir.set");
	char path[128], text[256];

	path_of(path, sizeof(path), "parts");
	cr_assert(!mkdir(path, 0700));
	snprintf(text, sizeof(text), "PMEMPOOLSET\nOPTION SINGLEHDR\n8M %s\n", path);
	put("pools/dir.set", text);
	r.attr.incompat = POOLHDR_INCOMPAT_SINGLEHDR;
	return r;
}

Test(store, takeover_of_a_directory_finds_its_file) { taken_over(directory_request(), false, SIGTERM); }

/* A directory as part: its first file has PMDK's name. */
Test(store, a_directory_is_a_part)
{
	struct ctl_open r = directory_request();
	char path[128];
	struct stored s;

	cr_assert_eq(store_create(dir, &r, &s), 0, "%s", errmsg_get());
	path_of(path, sizeof(path), "parts/000000.pmem");
	cr_expect_eq(file_size(path), 8 << 20);
	store_close(&s);
	cr_assert_eq(store_open(dir, &r, &s), 0);
	cr_expect_eq(store_remove(dir, "dir.set", 0), -EBUSY);
	store_close(&s);
	cr_expect_eq(store_remove(dir, "dir.set", 0), 0);
	cr_expect_eq(file_size(path), -1);
}

/* Where a file system has several device numbers (btrfs subvolumes; here an overlay of two), /proc/locks names another one than
 * stat(2) does. The holder is found all the same, and ended by a takeover. */
Test(store, a_lock_is_found_where_the_device_numbers_differ)
{
	static const char mounts[] = "cd %s && mkdir low up mnt && mount -t tmpfs low low && mount -t tmpfs up up && mkdir up/u up/w"
		" && mount -t overlay over -o lowerdir=low,upperdir=up/u,workdir=up/w mnt";
	struct ctl_open r = request("a.set");
	struct stat st, root;
	char cmd[300];
	struct stored s;
	pid_t pid, found = 0;

	snprintf(cmd, sizeof(cmd), mounts, base);
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) || system(cmd))
		cr_skip_test("no mounts of our own here");
	path_of(part, sizeof(part), "mnt/part0");
	put_set("pools/a.set", "", "8M");
	cr_assert_eq(create("a.set"), 0, "%s", errmsg_get());
	path_of(cmd, sizeof(cmd), "mnt");
	cr_assert(!stat(part, &st) && !stat(cmd, &root));
	if (st.st_dev == root.st_dev)
		cr_skip_test("one device number for all of an overlay");
	pid = holder(false);
	cr_expect_eq(pool_lock_holder(&st, &found), 1);
	cr_expect_eq(found, pid);
	r.flags = CTL_OPEN_TAKEOVER;
	cr_assert_eq(store_open(dir, &r, &s), 0, "%s", errmsg_get());
	store_close(&s);
	cr_expect_eq(waitpid(pid, NULL, WNOHANG), pid);
	snprintf(cmd, sizeof(cmd), "umount %s/mnt %s/up %s/low", base, base, base);
	cr_expect(!system(cmd));
}

/* The holder is told by inode and device; another file with the same inode number is not it. */
Test(store, a_lock_is_found_by_file_not_by_inode_alone)
{
	pid_t pid, found = 0;
	struct stat st;

	cr_assert_eq(create("a.set"), 0);
	pid = holder(false);
	cr_assert(!stat(part, &st));
	cr_expect_eq(pool_lock_holder(&st, &found), 1);
	cr_expect_eq(found, pid);
	st.st_dev ^= 1;
	cr_expect_eq(pool_lock_holder(&st, &found), 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}
