/* See faults.h. Suites that fail system calls are linked so that __wrap_x takes the place of x, which is __real_x
 * then. */
#include "faults.h"

#include <assert.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define SITES_MAX 512u
#define EACH_POINTS_MAX 400u
#define EACH_FIRST 3u
#define EACH_STEP 4u

const char *const fault_names[FAULT_KINDS] = {
	[FAULT_ALLOC] = "allocation", [FAULT_MAP] = "mapping", [FAULT_FENCE] = "fence", [FAULT_FILE] = "file",
	[FAULT_FD] = "descriptor", [FAULT_THREAD] = "thread", [FAULT_TALK] = "message", [FAULT_CUT] = "cut",
	[FAULT_TORN] = "torn message", [FAULT_POST] = "post", [FAULT_WAIT] = "wait", [FAULT_EVENT] = "event",
};

static struct {
	bool armed; /* atomic; the rest under the lock */
	pthread_mutex_t lock;
	enum fault_kind kind;
	enum fault_side side;
	const void *site; /* NULL: wherever it is */
	bool hit, learning;
	unsigned at, count, site_count;
	struct fault_point sites[SITES_MAX];
} fault = { .lock = PTHREAD_MUTEX_INITIALIZER };

static _Thread_local enum fault_side my_side;
static long mapped; /* atomic */
static bool on_disk; /* atomic */

enum fault_side fault_side(enum fault_side side)
{
	enum fault_side before = my_side;

	my_side = side;
	return before;
}

/* ---------------------------------------------------------------- arming */
static void arm(enum fault_kind kind, enum fault_side side, const void *site, unsigned at, bool learning)
{
	pthread_mutex_lock(&fault.lock);
	fault.kind = kind;
	fault.side = side;
	fault.site = site;
	fault.at = at;
	fault.learning = learning;
	fault.hit = false;
	fault.count = 0;
	if (learning)
		fault.site_count = 0;
	pthread_mutex_unlock(&fault.lock);
	__atomic_store_n(&fault.armed, true, __ATOMIC_RELEASE);
}

void fault_arm(enum fault_kind kind, unsigned n)
{
	arm(kind, FAULT_ANY, NULL, n, false);
}

void fault_learn(enum fault_kind kind, enum fault_side side)
{
	arm(kind, side, NULL, 0, true);
}

void fault_arm_at(enum fault_kind kind, enum fault_side side, const struct fault_point *point)
{
	arm(kind, side, point->site, point->nth, false);
}

unsigned fault_disarm(bool *hit)
{
	unsigned count;

	__atomic_store_n(&fault.armed, false, __ATOMIC_RELEASE);
	pthread_mutex_lock(&fault.lock);
	if (hit)
		*hit = fault.hit;
	count = fault.count;
	pthread_mutex_unlock(&fault.lock);
	return count;
}

bool fault_hit(void)
{
	bool hit;

	pthread_mutex_lock(&fault.lock);
	hit = fault.hit;
	pthread_mutex_unlock(&fault.lock);
	return hit;
}

static void site_pass(const void *site)
{
	unsigned i = 0;

	while (i < fault.site_count && fault.sites[i].site != site)
		i++;
	assert(i < SITES_MAX);
	if (i == fault.site_count)
		fault.sites[fault.site_count++] = (struct fault_point){ .site = site };
	fault.sites[i].nth++;
}

/* Threads of one side are counted together. */
bool fault_at(enum fault_kind kind, const void *site)
{
	bool now = false;

	if (!__atomic_load_n(&fault.armed, __ATOMIC_ACQUIRE))
		return false;
	pthread_mutex_lock(&fault.lock);
	if (fault.kind == kind && (fault.side == FAULT_ANY || fault.side == my_side) &&
	    (!fault.site || fault.site == site)) {
		if (fault.learning)
			site_pass(site);
		now = ++fault.count == fault.at;
		fault.hit = fault.hit || now;
	}
	pthread_mutex_unlock(&fault.lock);
	return now;
}

unsigned fault_points(struct fault_point points[], unsigned max)
{
	unsigned count = 0;

	for (unsigned i = 0; i < fault.site_count; i++) {
		const struct fault_point *seen = &fault.sites[i];

		for (unsigned nth = 1; nth <= seen->nth;) {
			assert(count < max);
			points[count++] = (struct fault_point){ seen->site, nth };
			if (nth == seen->nth)
				break;
			nth = nth < EACH_FIRST ? nth + 1 : nth * EACH_STEP;
			nth = nth < seen->nth ? nth : seen->nth;
		}
	}
	return count;
}

unsigned fault_each(enum fault_kind kind, enum fault_side side, void (*life)(void), struct fault_point *point)
{
	static const char *const sides[] = {
		[FAULT_NEAR] = "near", [FAULT_FAR] = "far", [FAULT_ASIDE] = "aside", [FAULT_ANY] = "any"
	};
	struct fault_point points[EACH_POINTS_MAX];
	unsigned count, hits = 0;
	struct timespec from, now;
	bool hit;

	clock_gettime(CLOCK_MONOTONIC, &from);
	fault_learn(kind, side);
	life();
	fault_disarm(NULL);
	count = fault_points(points, EACH_POINTS_MAX);
	for (unsigned i = 0; i < count; i++) {
		*point = points[i];
		fault_arm_at(kind, side, &points[i]);
		life();
		fault_disarm(&hit);
		hits += hit;
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	cr_log_info("%s %s: %u of %u points, %ld ms", sides[side], fault_names[kind], hits, count,
		(now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000);
	return hits;
}

unsigned long fault_offset(const struct fault_point *point)
{
	extern const char __executable_start[];

	return (unsigned long)((uintptr_t)point->site - (uintptr_t)__executable_start);
}

/* ---------------------------------------------------------------- wraps */
#define SITE __builtin_return_address(0)

/* WRAP(kind, result when it fails, errno then, type, name, parameters, arguments) */
#define WRAP(kind, bad, err, type, name, params, args) \
	type __real_##name params;                     \
	type __wrap_##name params;                     \
	type __wrap_##name params                      \
	{                                              \
		if (fault_at(kind, SITE)) {            \
			errno = err;                   \
			return bad;                    \
		}                                      \
		return __real_##name args;             \
	}

/* --- memory */
WRAP(FAULT_ALLOC, NULL, ENOMEM, void *, malloc, (size_t size), (size))
WRAP(FAULT_ALLOC, NULL, ENOMEM, void *, calloc, (size_t count, size_t size), (count, size))
WRAP(FAULT_ALLOC, NULL, ENOMEM, void *, realloc, (void *at, size_t size), (at, size))
WRAP(FAULT_ALLOC, NULL, ENOMEM, void *, reallocarray, (void *at, size_t count, size_t size), (at, count, size))
WRAP(FAULT_ALLOC, NULL, ENOMEM, void *, aligned_alloc, (size_t align, size_t size), (align, size))
WRAP(FAULT_ALLOC, NULL, ENOMEM, char *, strdup, (const char *text), (text))
WRAP(FAULT_ALLOC, ENOMEM, errno, int, posix_memalign, (void **at, size_t align, size_t size), (at, align, size))
WRAP(FAULT_ALLOC, -1, ENOMEM, int, vasprintf, (char **text, const char *fmt, va_list args), (text, fmt, args))

int __wrap_asprintf(char **text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int __wrap_asprintf(char **text, const char *fmt, ...)
{
	va_list args;
	int n;

	if (fault_at(FAULT_ALLOC, SITE)) {
		errno = ENOMEM;
		return -1;
	}
	va_start(args, fmt);
	n = __real_vasprintf(text, fmt, args);
	va_end(args);
	return n;
}

static long pages(size_t len)
{
	return (long)((len + 4095) & ~(size_t)4095);
}

void *__real_mmap64(void *at, size_t len, int prot, int flags, int fd, off_t off);
void *__wrap_mmap64(void *at, size_t len, int prot, int flags, int fd, off_t off);
void *__wrap_mmap64(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	void *got = MAP_FAILED;

	if (fault_at(FAULT_MAP, SITE))
		errno = ENOMEM;
	else
		got = __real_mmap64(at, len, prot, flags, fd, off);
	if (got != MAP_FAILED && !(flags & MAP_FIXED))
		__atomic_add_fetch(&mapped, pages(len), __ATOMIC_RELAXED);
	return got;
}

int __real_munmap(void *at, size_t len);
int __wrap_munmap(void *at, size_t len);
int __wrap_munmap(void *at, size_t len)
{
	int ret = __real_munmap(at, len);

	if (!ret)
		__atomic_sub_fetch(&mapped, pages(len), __ATOMIC_RELAXED);
	return ret;
}

long fault_mapped(void)
{
	return __atomic_load_n(&mapped, __ATOMIC_RELAXED);
}

WRAP(FAULT_MAP, -1, EIO, int, msync, (void *at, size_t len, int flags), (at, len, flags))

/* --- files */
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, mode_t mode);
int __wrap_open64(const char *path, int flags, mode_t mode)
{
	if (fault_at(FAULT_FILE, SITE)) {
		errno = EIO;
		return -1;
	}
	return __real_open64(path, flags, mode);
}

WRAP(FAULT_FILE, -1, EIO, int, fstat64, (int fd, struct stat *st), (fd, st))
WRAP(FAULT_FILE, -1, EIO, int, stat64, (const char *path, struct stat *st), (path, st))
WRAP(FAULT_FILE, -1, EIO, int, statx, (int dir, const char *path, int flags, unsigned mask, struct statx *st),
     (dir, path, flags, mask, st))
WRAP(FAULT_FILE, -1, EIO, int, ftruncate64, (int fd, off_t len), (fd, len))
WRAP(FAULT_FILE, -1, EIO, int, fallocate64, (int fd, int mode, off_t off, off_t len), (fd, mode, off, len))
WRAP(FAULT_FILE, EIO, errno, int, posix_fallocate64, (int fd, off_t off, off_t len), (fd, off, len))
WRAP(FAULT_FILE, -1, EIO, ssize_t, pread64, (int fd, void *buf, size_t len, off_t off), (fd, buf, len, off))
WRAP(FAULT_FILE, -1, EIO, off_t, lseek64, (int fd, off_t off, int whence), (fd, off, whence))
WRAP(FAULT_FILE, -1, EIO, int, fsync, (int fd), (fd))
WRAP(FAULT_FILE, -1, EIO, int, unlink, (const char *path), (path))
WRAP(FAULT_FILE, -1, EIO, int, unlinkat, (int dir, const char *path, int flags), (dir, path, flags))
WRAP(FAULT_FILE, -1, ENOLCK, int, flock, (int fd, int what), (fd, what))

int __real_fstatfs64(int fd, struct statfs *fs);
int __wrap_fstatfs64(int fd, struct statfs *fs);
int __wrap_fstatfs64(int fd, struct statfs *fs)
{
	int ret;

	if (fault_at(FAULT_FILE, SITE)) {
		errno = EIO;
		return -1;
	}
	ret = __real_fstatfs64(fd, fs);
	if (!ret && __atomic_load_n(&on_disk, __ATOMIC_RELAXED))
		fs->f_type = 0xef53; /* ext4 */
	return ret;
}

void fault_on_disk(bool yes)
{
	__atomic_store_n(&on_disk, yes, __ATOMIC_RELAXED);
}

/* --- descriptors, threads, processes */
WRAP(FAULT_FD, -1, EMFILE, int, socketpair, (int domain, int type, int protocol, int fds[2]),
     (domain, type, protocol, fds))
WRAP(FAULT_FD, -1, EMFILE, int, pipe2, (int fds[2], int flags), (fds, flags))
WRAP(FAULT_FD, -1, EMFILE, int, eventfd, (unsigned value, int flags), (value, flags))
WRAP(FAULT_FD, -1, EMFILE, int, timerfd_create, (int clock, int flags), (clock, flags))
WRAP(FAULT_FD, -1, EMFILE, int, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP(FAULT_FD, -1, EMFILE, int, epoll_create1, (int flags), (flags))
WRAP(FAULT_FD, -1, ENOMEM, int, epoll_ctl, (int set, int op, int fd, struct epoll_event *event), (set, op, fd, event))
WRAP(FAULT_FD, NULL, EMFILE, DIR *, opendir, (const char *path), (path))
WRAP(FAULT_FD, NULL, EMFILE, FILE *, fopen64, (const char *path, const char *mode), (path, mode))

/* pidfd_open, pidfd_send_signal, openat2 */
long __real_syscall(long number, ...);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	if (fault_at(FAULT_FD, SITE)) {
		errno = EMFILE;
		return -1;
	}
	return __real_syscall(number, a, b, c, d, e, f);
}

int __real_posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *files,
			const posix_spawnattr_t *attr, char *const argv[], char *const env[]);
int __wrap_posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *files,
			const posix_spawnattr_t *attr, char *const argv[], char *const env[]);
int __wrap_posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *files,
			const posix_spawnattr_t *attr, char *const argv[], char *const env[])
{
	return fault_at(FAULT_THREAD, SITE) ? EAGAIN : __real_posix_spawnp(pid, file, files, attr, argv, env);
}

struct beginning {
	void *(*run)(void *arg);
	void *arg;
	enum fault_side side;
};

static void *begin(void *arg)
{
	struct beginning b = *(struct beginning *)arg;

	free(arg);
	my_side = b.side;
	return b.run(b.arg);
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
	struct beginning *b;
	int err;

	if (fault_at(FAULT_THREAD, SITE))
		return EAGAIN;
	b = __real_malloc(sizeof(*b));
	assert(b);
	*b = (struct beginning){ run, arg, my_side };
	err = __real_pthread_create(thread, attr, begin, b);
	if (err)
		free(b);
	return err;
}

/* --- sockets */
static bool is_socket(int fd)
{
	struct stat st;

	return !__real_fstat64(fd, &st) && S_ISSOCK(st.st_mode);
}

/* What becomes of a transfer of len bytes: all of them, -1 with errno, or fewer, and then the end. */
struct moved {
	bool faulty;
	size_t len;
};

static struct moved move_faulty(int fd, size_t len, const void *site)
{
	if (fault_at(FAULT_TALK, site)) {
		errno = EIO;
		return (struct moved){ true, 0 };
	}
	if (fault_at(FAULT_CUT, site)) {
		shutdown(fd, SHUT_RDWR);
		return (struct moved){ false, len };
	}
	return (struct moved){ false, len > 1 && fault_at(FAULT_TORN, site) ? len / 2 : len };
}

#define MOVE(name, fd, call)                                                    \
	({                                                                      \
		size_t whole_ = len;                                            \
		struct moved m_ = move_faulty(fd, len, SITE);                   \
		ssize_t n_ = -1;                                                \
		if (!m_.faulty) {                                               \
			len = m_.len;                                           \
			n_ = (call);                                            \
			if (len < whole_)                                       \
				shutdown(fd, SHUT_RDWR);                        \
		}                                                               \
		n_;                                                             \
	})

ssize_t __real_send(int fd, const void *buf, size_t len, int flags);
ssize_t __wrap_send(int fd, const void *buf, size_t len, int flags);
ssize_t __wrap_send(int fd, const void *buf, size_t len, int flags)
{
	return MOVE(send, fd, __real_send(fd, buf, len, flags));
}

ssize_t __real_recv(int fd, void *buf, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *buf, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *buf, size_t len, int flags)
{
	return MOVE(recv, fd, __real_recv(fd, buf, len, flags));
}

/* A file's read may fail; writes to files are those of the log. */
ssize_t __real_read(int fd, void *buf, size_t len);
ssize_t __wrap_read(int fd, void *buf, size_t len);
ssize_t __wrap_read(int fd, void *buf, size_t len)
{
	if (is_socket(fd))
		return MOVE(read, fd, __real_read(fd, buf, len));
	if (fault_at(FAULT_FILE, SITE)) {
		errno = EIO;
		return -1;
	}
	return __real_read(fd, buf, len);
}

ssize_t __real_write(int fd, const void *buf, size_t len);
ssize_t __wrap_write(int fd, const void *buf, size_t len);
ssize_t __wrap_write(int fd, const void *buf, size_t len)
{
	return is_socket(fd) ? MOVE(write, fd, __real_write(fd, buf, len)) : __real_write(fd, buf, len);
}

WRAP(FAULT_TALK, -1, ENOMEM, int, poll, (struct pollfd *fds, nfds_t count, int timeout_ms), (fds, count, timeout_ms))

/* ---------------------------------------------------------------- what is left */
unsigned fault_fds(void)
{
	DIR *dir = __real_opendir("/proc/self/fd");
	unsigned count = 0;

	assert(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count - 3; /* ".", "..", and the directory itself */
}
