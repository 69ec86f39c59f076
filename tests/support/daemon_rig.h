/* A real rpmemd over a socket pair, with a pool whose every byte is known, for test_hostile and test_hostile_lane. */
#ifndef RPMEMFS_TESTS_DAEMON_RIG_H
#define RPMEMFS_TESTS_DAEMON_RIG_H

#include <criterion/criterion.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "codec.h"
#include "csum.h"
#include "poolhdr.h"

#define END_MS 15000 /* for the daemon to end; far above what it takes, far below its idle time */
#define IDLE_MS "60000"
#define POOL_BYTES (16u << 20)

static char exe[PATH_MAX], dir[64];
static uint32_t pool_csum;

struct daemon {
	pid_t pid;
	int peer; /* its stdin and stdout */
};

/* ---------------------------------------------------------------- the daemon */
static inline void text_file(const char *name, const char *text)
{
	char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "w");
	cr_assert(file && fputs(text, file) >= 0 && !fclose(file), "%s", path);
}

/* What a sanitizer found shows in the exit status. */
static inline void report_status(const char *variable)
{
	const char *before = getenv(variable);
	char options[1024];

	snprintf(options, sizeof(options), "%s%sexitcode=99", before ? before : "", before ? ":" : "");
	setenv(variable, options, 1);
}

static inline struct daemon daemon_start(void)
{
	struct timeval limit = { END_MS / 1000, 0 };
	struct daemon d;
	char log[128];
	uint32_t status = 1;
	int fds[2];

	snprintf(log, sizeof(log), "%s/log", dir);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	d.pid = fork();
	cr_assert_geq(d.pid, 0);
	if (!d.pid) {
		dup2(fds[1], STDIN_FILENO);
		dup2(fds[1], STDOUT_FILENO);
		report_status("ASAN_OPTIONS");
		report_status("TSAN_OPTIONS");
		execl(exe, exe, "--poolset-dir", dir, "--log-file", log, "--idle-ms", IDLE_MS, (char *)NULL);
		_exit(127);
	}
	close(fds[1]);
	d.peer = fds[0];
	cr_assert_eq(setsockopt(d.peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
	cr_assert_eq(recv(d.peer, &status, sizeof(status), MSG_WAITALL), (ssize_t)sizeof(status));
	cr_assert_eq(status, 0);
	return d;
}

/* Waits for its own end and looks how it ended. */
static inline void daemon_ended(struct daemon *d)
{
	int fd = (int)syscall(SYS_pidfd_open, d->pid, 0), status = 0, ready;
	struct pollfd wait = { fd, POLLIN, 0 };

	cr_assert_geq(fd, 0);
	ready = poll(&wait, 1, END_MS);
	close(fd);
	if (!ready)
		kill(d->pid, SIGKILL);
	cr_assert_eq(waitpid(d->pid, &status, 0), d->pid);
	cr_assert_eq(ready, 1, "the daemon did not end");
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) <= 1, "the daemon ended with wait status 0x%x", status);
	if (d->peer >= 0)
		close(d->peer);
}

/* The peer is gone without a word. */
static inline void daemon_left(struct daemon *d)
{
	close(d->peer);
	d->peer = -1;
	daemon_ended(d);
}

/* ---------------------------------------------------------------- control messages */
static inline void raw_send(const struct daemon *d, const void *bytes, size_t len)
{
	cr_assert_eq(send(d->peer, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
}

static inline struct ctl_msg receive(const struct daemon *d)
{
	_Alignas(8) uint8_t buf[CTL_MSG_BYTES_MAX];
	struct ctl_hdr_msg *hdr = (struct ctl_hdr_msg *)buf;
	struct ctl_msg msg = { 0 };
	uint32_t len = 0;

	cr_assert_eq(recv(d->peer, buf, sizeof(*hdr), MSG_WAITALL), (ssize_t)sizeof(*hdr), "no answer");
	cr_assert_eq(ctl_peek(hdr, &len), 0);
	if (len)
		cr_assert_eq(recv(d->peer, buf + sizeof(*hdr), len, MSG_WAITALL), (ssize_t)len);
	cr_assert_eq(ctl_decode(buf, sizeof(*hdr) + len, &msg), 0);
	return msg;
}

static inline size_t encoded(const struct ctl_msg *msg, uint8_t buf[CTL_MSG_BYTES_MAX])
{
	size_t len = 0;

	cr_assert_eq(ctl_encode(msg, buf, &len), 0);
	return len;
}

static inline struct ctl_msg ask(const struct daemon *d, const struct ctl_msg *msg)
{
	uint8_t buf[CTL_MSG_BYTES_MAX];
	size_t len = encoded(msg, buf);

	raw_send(d, buf, len);
	return receive(d);
}

static inline unsigned status_of(const struct ctl_msg *answer)
{
	return answer->type == CTL_ERROR ? answer->u.error.status : WIRE_OK;
}

static inline void hello(const struct daemon *d)
{
	struct ctl_msg m = { .type = CTL_HELLO, .u.hello = { CTL_VERSION, CTL_VERSION, 0 } }, answer = ask(d, &m);

	cr_assert_eq(status_of(&answer), WIRE_OK);
}

/* A plain session; lanes 0: none. */
static inline struct ctl_msg session_ask(const struct daemon *d, unsigned type, unsigned lanes, uint32_t flags)
{
	struct ctl_msg m = { .type = (uint16_t)type, .u.open = { .lanes = lanes, .provider = "tcp", .set_name = "a.set",
		.flags = flags | (lanes ? 0 : CTL_OPEN_NO_LANES), .has_attr = type == CTL_CREATE } };

	if (type == CTL_CREATE)
		memcpy(m.u.open.attr.signature, "HOSTILE", 8);
	return ask(d, &m);
}

static inline void close_session(struct daemon *d)
{
	struct ctl_msg m = { .type = CTL_CLOSE }, answer = ask(d, &m);

	cr_expect_eq(status_of(&answer), WIRE_OK);
	daemon_ended(d);
}

/* ---------------------------------------------------------------- the pool */
static inline uint32_t part_csum(void)
{
	uint8_t *bytes = malloc(POOL_BYTES);
	char path[PATH_MAX];
	uint32_t csum;
	FILE *file;

	snprintf(path, sizeof(path), "%s/part", dir);
	file = fopen(path, "r");
	cr_assert(bytes && file);
	cr_assert_eq(fread(bytes, 1, POOL_BYTES, file), POOL_BYTES);
	csum = csum_crc32c(0, bytes, POOL_BYTES);
	fclose(file);
	free(bytes);
	return csum;
}

static inline void part_fill(void)
{
	uint8_t *bytes = malloc(POOL_BYTES);
	char path[PATH_MAX];
	FILE *file;

	cr_assert(bytes);
	for (size_t i = 0; i < POOL_BYTES; i++)
		bytes[i] = (uint8_t)(i * 13 + i / 4099);
	snprintf(path, sizeof(path), "%s/part", dir);
	file = fopen(path, "r+");
	cr_assert(file && !fseek(file, POOLHDR_BYTES, SEEK_SET));
	cr_assert_eq(fwrite(bytes, 1, POOL_BYTES - POOLHDR_BYTES, file), POOL_BYTES - POOLHDR_BYTES);
	cr_assert_eq(fclose(file), 0);
	free(bytes);
}

/* The bytes are what they were, and the next session gets the pool. */
static inline void pool_intact(void)
{
	struct daemon d = daemon_start();
	struct ctl_msg answer;

	hello(&d);
	answer = session_ask(&d, CTL_OPEN, 0, 0);
	cr_expect_eq(status_of(&answer), WIRE_OK, "%s", answer.type == CTL_ERROR ? answer.u.error.text : "");
	close_session(&d);
	cr_expect_eq(part_csum(), pool_csum, "the pool was changed");
}

static inline void set_up(void)
{
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	struct ctl_msg answer;
	struct daemon d;
	char text[128];

	cr_assert_gt(n, 0);
	for (unsigned i = 0; i < 3; i++) /* build/tests/rpmemd/test_hostile -> build */
		*strrchr(exe, '/') = '\0';
	strcat(exe, "/rpmemd");
	signal(SIGPIPE, SIG_IGN);
	strcpy(dir, "/dev/shm/test_hostile.XXXXXX");
	cr_assert(mkdtemp(dir));
	snprintf(text, sizeof(text), "PMEMPOOLSET\n16M %s/part\n", dir);
	text_file("a.set", text);
	d = daemon_start();
	hello(&d);
	answer = session_ask(&d, CTL_CREATE, 0, 0);
	cr_assert_eq(status_of(&answer), WIRE_OK);
	close_session(&d);
	part_fill();
	pool_csum = part_csum();
}

static inline void tear_down(void)
{
	static const char *const names[] = { "a.set", "part", "log" };
	char path[PATH_MAX];

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	cr_expect_eq(rmdir(dir), 0, "something was left in %s", dir);
}

#endif
