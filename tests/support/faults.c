/* See faults.h. Suites that fail system calls are linked so that __wrap_x takes the place of x, which is __real_x then. */
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include "fabric.h"

static struct {
	enum fault_kind kind;
	bool armed, hit;
	unsigned at, count;
} fault;

void fault_arm(enum fault_kind kind, unsigned n)
{
	fault.kind = kind;
	fault.at = n;
	fault.hit = false;
	__atomic_store_n(&fault.count, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&fault.armed, true, __ATOMIC_RELEASE);
}

unsigned fault_disarm(bool *hit)
{
	__atomic_store_n(&fault.armed, false, __ATOMIC_RELEASE);
	if (hit)
		*hit = __atomic_load_n(&fault.hit, __ATOMIC_ACQUIRE);
	return __atomic_load_n(&fault.count, __ATOMIC_ACQUIRE);
}

/* Threads of what is tested are counted together. */
bool fault_now(enum fault_kind kind)
{
	if (!__atomic_load_n(&fault.armed, __ATOMIC_ACQUIRE) || fault.kind != kind)
		return false;
	if (__atomic_add_fetch(&fault.count, 1, __ATOMIC_ACQ_REL) != fault.at)
		return false;
	__atomic_store_n(&fault.hit, true, __ATOMIC_RELEASE);
	return true;
}

/* WRAP(kind, result when it fails, errno then, type, name, parameters, arguments) */
#define WRAP(kind, bad, err, type, name, params, args) \
	type __real_##name params;                     \
	type __wrap_##name params;                     \
	type __wrap_##name params                      \
	{                                              \
		if (fault_now(kind)) {                 \
			errno = err;                   \
			return bad;                    \
		}                                      \
		return __real_##name args;             \
	}

/* ---------------------------------------------------------------- memory */
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

	va_start(args, fmt);
	n = __wrap_vasprintf(text, fmt, args);
	va_end(args);
	return n;
}

WRAP(FAULT_MAP, MAP_FAILED, ENOMEM, void *, mmap64, (void *at, size_t len, int prot, int flags, int fd, off_t off),
     (at, len, prot, flags, fd, off))
WRAP(FAULT_MAP, -1, EIO, int, msync, (void *at, size_t len, int flags), (at, len, flags))

/* ---------------------------------------------------------------- files */
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, mode_t mode);
int __wrap_open64(const char *path, int flags, mode_t mode)
{
	if (fault_now(FAULT_FILE)) {
		errno = EIO;
		return -1;
	}
	return __real_open64(path, flags, mode);
}

struct stat;
WRAP(FAULT_FILE, -1, EIO, int, fstat64, (int fd, struct stat *st), (fd, st))
WRAP(FAULT_FILE, -1, EIO, int, ftruncate64, (int fd, off_t len), (fd, len))
WRAP(FAULT_FILE, -1, EIO, int, fallocate64, (int fd, int mode, off_t off, off_t len), (fd, mode, off, len))
WRAP(FAULT_FILE, EIO, errno, int, posix_fallocate64, (int fd, off_t off, off_t len), (fd, off, len))
WRAP(FAULT_FILE, -1, EIO, ssize_t, pread64, (int fd, void *buf, size_t len, off_t off), (fd, buf, len, off))
WRAP(FAULT_FILE, -1, EIO, int, fsync, (int fd), (fd))

/* ---------------------------------------------------------------- control channel */
WRAP(FAULT_TALK, -1, EIO, ssize_t, send, (int fd, const void *buf, size_t len, int flags), (fd, buf, len, flags))
WRAP(FAULT_TALK, -1, EIO, ssize_t, recv, (int fd, void *buf, size_t len, int flags), (fd, buf, len, flags))
WRAP(FAULT_TALK, -1, EMFILE, int, socketpair, (int domain, int type, int protocol, int fds[2]),
     (domain, type, protocol, fds))
WRAP(FAULT_TALK, -1, EMFILE, int, pipe2, (int fds[2], int flags), (fds, flags))
WRAP(FAULT_TALK, -1, EMFILE, int, eventfd, (unsigned value, int flags), (value, flags))

/* ---------------------------------------------------------------- fabric */
WRAP(FAULT_POST, -EIO, errno, int, fab_load, (void), ())
WRAP(FAULT_POST, -EIO, errno, int, fab_dial, (const char *provider, const char *host, uint16_t port, struct fab **out),
     (provider, host, port, out))
WRAP(FAULT_POST, -EIO, errno, int, fab_ep_new, (struct fab *fab, const struct fab_ep_cfg *cfg, struct fab_ep **out),
     (fab, cfg, out))
WRAP(FAULT_POST, -EIO, errno, int, fab_ep_connect, (struct fab_ep *ep, const void *data, size_t len), (ep, data, len))
WRAP(FAULT_WAIT, -EIO, errno, int, fab_ep_established, (struct fab_ep *ep, int timeout_ms), (ep, timeout_ms))
WRAP(FAULT_POST, -EIO, errno, int, fab_recv, (struct fab_ep *ep, unsigned slot), (ep, slot))
WRAP(FAULT_POST, -EIO, errno, int, fab_send, (struct fab_ep *ep, unsigned slot, size_t len, bool notify),
     (ep, slot, len, notify))
WRAP(FAULT_POST, -EIO, errno, int, fab_inject, (struct fab_ep *ep, const void *buf, size_t len), (ep, buf, len))
WRAP(FAULT_POST, -EIO, errno, int, fab_write,
     (struct fab_ep *ep, uint64_t rkey, const struct fab_seg *segs, unsigned count), (ep, rkey, segs, count))
WRAP(FAULT_POST, -EIO, errno, int, fab_read, (struct fab_ep *ep, uint64_t rkey, const struct fab_seg *seg, uint64_t tag),
     (ep, rkey, seg, tag))
WRAP(FAULT_WAIT, -EIO, errno, int, fab_poll, (struct fab_ep *ep, struct fab_event *events, unsigned max),
     (ep, events, max))
WRAP(FAULT_WAIT, -EIO, errno, int, fab_wait, (struct fab_ep *ep, int timeout_ms), (ep, timeout_ms))
