/* The control channel to rpmemd on this machine: a child process, its stdin and stdout one socket pair, its stderr a pipe.
 *
 * The child is started by posix_spawn, which neither copies the parent's page tables nor runs its code. It gets no other
 * descriptor, default signals, and a session of its own, so that a terminal's interrupt does not end it before us. It ends
 * when its stdin does. Its end of the stderr pipe does not block: a full pipe costs it log lines, not time. We reap it
 * by its process id when the channel closes, waiting a while before SIGKILL; nobody needs SIGCHLD. A child that is lost is
 * killed at once: a copy survives that, and a stopped process would hold its pool's lock for ever. One that does not even end
 * then, or that somebody traces, is left to a thread: no caller waits for it. */
#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "errmsg.h"

#define SPAWN_END_MS 3000     /* for the child to end by itself, after it has said that it will */
#define SPAWN_FAILED_MS 100   /* the same when it has not */
#define SPAWN_KILLED_MS 1000  /* after SIGKILL */
#define SPAWN_PARTING_MS 300  /* for its exit status, when its stream has ended */
#define SPAWN_GLANCE_MS 5     /* the same for somebody who serves others meanwhile */

extern char **environ;

struct spawn {
	struct channel channel;
	pid_t pid;      /* 0: reaped */
	int pidfd, err_fd;
	int status;     /* wait status */
};

static struct spawn *spawn_of(struct channel *channel)
{
	return (struct spawn *)channel;
}

/* ---------------------------------------------------------------- the stream */
static void stderr_drain(struct spawn *spawn)
{
	char buf[4096];
	ssize_t n;

	while ((n = read(spawn->err_fd, buf, sizeof(buf))) > 0)
		channel_stderr(&spawn->channel, buf, (size_t)n);
}

static long stream_result(ssize_t n)
{
	if (n >= 0)
		return n;
	return errno == EAGAIN || errno == EINTR ? 0 : -ECONNRESET;
}

static long spawn_read(struct channel *channel, void *buf, size_t len)
{
	ssize_t n = recv(channel->fd, buf, len, MSG_DONTWAIT);

	stderr_drain(spawn_of(channel));
	return n ? stream_result(n) : -ECONNRESET;
}

static long spawn_write(struct channel *channel, const void *buf, size_t len)
{
	return stream_result(send(channel->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL));
}

static void spawn_wait(struct channel *channel, bool writable, int timeout_ms)
{
	struct pollfd fd = { channel->fd, writable ? POLLOUT : POLLIN, 0 };

	poll(&fd, 1, timeout_ms);
}

/* ---------------------------------------------------------------- the child's end */
/* Whether the child has ended, waiting for it. Signals do not end the wait. */
static bool child_ended(const struct spawn *spawn, int timeout_ms)
{
	uint64_t end = channel_now_ns() + (uint64_t)timeout_ms * 1000000u, now;
	struct pollfd fd = { spawn->pidfd, POLLIN, 0 };
	int n;

	while ((n = poll(&fd, 1, timeout_ms)) < 0 && errno == EINTR) {
		now = channel_now_ns();
		timeout_ms = now < end ? (int)((end - now) / 1000000) + 1 : 0;
	}
	return n > 0;
}

static bool spawn_reap(struct spawn *spawn, int timeout_ms)
{
	pid_t got;

	if (!spawn->pid)
		return true;
	if (!child_ended(spawn, timeout_ms))
		return false;
	got = waitpid(spawn->pid, &spawn->status, WNOHANG);
	if (!got)
		return false; /* its tracer has it first */
	if (got < 0)
		spawn->status = 0; /* somebody else reaped it: its status is lost */
	spawn->pid = 0;
	return true;
}

static int spawn_explain(struct channel *channel, int err, bool patient)
{
	struct spawn *spawn = spawn_of(channel);
	char end[64] = "its stream ended";

	if (err == -ETIMEDOUT)
		snprintf(end, sizeof(end), "it does not answer");
	else if (!spawn_reap(spawn, patient ? SPAWN_PARTING_MS : SPAWN_GLANCE_MS))
		snprintf(end, sizeof(end), err == -ECONNRESET ? "it closed its stream" : "it could not start");
	else if (WIFSIGNALED(spawn->status))
		snprintf(end, sizeof(end), "it was ended by signal %d", WTERMSIG(spawn->status));
	else
		snprintf(end, sizeof(end), "it ended with exit status %d", WEXITSTATUS(spawn->status));
	stderr_drain(spawn);
	return errmsg_set(err, "%s: %s%s%s", channel->name, end, *channel->last_line ? ": " : "", channel->last_line);
}

static void *reaper_main(void *arg)
{
	while (waitpid((pid_t)(intptr_t)arg, NULL, 0) < 0 && errno == EINTR)
		;
	return NULL;
}

/* A killed child still takes time to unmap its pool, more when it sits in an uninterruptible wait: after a while a thread waits
 * for it, and where there is none nobody does. */
static void spawn_kill(struct spawn *spawn, int wait_ms)
{
	sigset_t all, saved;
	pthread_t reaper;

	if (spawn_reap(spawn, 0))
		return;
	kill(spawn->pid, SIGKILL);
	if (spawn_reap(spawn, wait_ms))
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	if (!pthread_create(&reaper, NULL, reaper_main, (void *)(intptr_t)spawn->pid))
		pthread_detach(reaper);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

static void spawn_close(struct channel *channel, bool lost)
{
	struct spawn *spawn = spawn_of(channel);

	close(channel->fd);
	if (lost)
		spawn_kill(spawn, 0);
	else if (!spawn_reap(spawn, channel->farewell ? SPAWN_END_MS : SPAWN_FAILED_MS))
		spawn_kill(spawn, SPAWN_KILLED_MS);
	close(spawn->pidfd);
	close(spawn->err_fd);
	free(spawn);
}

static const struct channel_ops spawn_ops = {
	.read = spawn_read,
	.write = spawn_write,
	.wait = spawn_wait,
	.explain = spawn_explain,
	.close = spawn_close,
};

/* ---------------------------------------------------------------- starting it */
/* Splits at blanks, in place. -E2BIG, -EINVAL when there is no word. */
static int words_split(char *text, char *argv[CHANNEL_COMMAND_WORDS_MAX + 1])
{
	unsigned count = 0;
	char *save, *word;

	for (word = strtok_r(text, " \t", &save); word; word = strtok_r(NULL, " \t", &save)) {
		if (count == CHANNEL_COMMAND_WORDS_MAX)
			return errmsg_set(-E2BIG, "the rpmemd command has more than %u words", count);
		argv[count++] = word;
	}
	argv[count] = NULL;
	return count ? 0 : errmsg_set(-EINVAL, "the rpmemd command is empty");
}

static int child_attributes(posix_spawnattr_t *attr)
{
	sigset_t all, none;
	int err;

	sigfillset(&all);
	sigdelset(&all, SIGKILL);
	sigdelset(&all, SIGSTOP);
	sigemptyset(&none);
	err = posix_spawnattr_setsigdefault(attr, &all);
	if (!err)
		err = posix_spawnattr_setsigmask(attr, &none);
	if (!err)
		err = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
	return err;
}

/* The ends become 0, 1 and 2 by dup2, which also clears close-on-exec; they are above 2 before. */
static int child_files(posix_spawn_file_actions_t *files, int stream, int err_fd)
{
	int err = posix_spawn_file_actions_adddup2(files, stream, 0);

	if (!err)
		err = posix_spawn_file_actions_adddup2(files, stream, 1);
	if (!err)
		err = posix_spawn_file_actions_adddup2(files, err_fd, 2);
	if (!err)
		err = posix_spawn_file_actions_addclosefrom_np(files, 3);
	return err;
}

/* Our environment without SSH_CONNECTION: somebody logged in over SSH is no reason for the child to take itself for a
 * command of sshd. The strings stay ours. */
static char **child_environ(void)
{
	size_t count = 0, kept = 0;
	char **env;

	while (environ[count])
		count++;
	env = calloc(count + 1, sizeof(*env));
	for (size_t i = 0; env && i < count; i++)
		if (strncmp(environ[i], "SSH_CONNECTION=", strlen("SSH_CONNECTION=")))
			env[kept++] = environ[i];
	return env;
}

static int child_start(char *argv[], int stream, int err_fd, pid_t *pid)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	char **env = child_environ();
	int err = env ? posix_spawnattr_init(&attr) : ENOMEM;

	if (err)
		goto free_env;
	err = posix_spawn_file_actions_init(&files);
	if (err)
		goto destroy_attr;
	err = child_attributes(&attr);
	if (!err)
		err = child_files(&files, stream, err_fd);
	if (!err)
		err = posix_spawnp(pid, argv[0], &files, &attr, argv, env);
	posix_spawn_file_actions_destroy(&files);
destroy_attr:
	posix_spawnattr_destroy(&attr);
free_env:
	free(env);
	return err ? errmsg_set(-err, "cannot start %s: %s (RPMEM_CMD names the command)", argv[0], strerror(err)) : 0;
}

/* A descriptor above 2 for a process whose own standard ones are closed. */
static int fd_lift(int *fd)
{
	int lifted;

	if (*fd > 2)
		return 0;
	lifted = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
	if (lifted < 0)
		return -errno;
	close(*fd);
	*fd = lifted;
	return 0;
}

static int fds_make(int stream[2], int errors[2])
{
	int err = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream))
		return -errno;
	if (pipe2(errors, O_CLOEXEC | O_NONBLOCK)) {
		err = -errno;
		close(stream[0]);
		close(stream[1]);
		return err;
	}
	for (unsigned i = 0; i < 2 && !err; i++) {
		err = fd_lift(&stream[i]);
		if (!err)
			err = fd_lift(&errors[i]);
	}
	if (err)
		for (unsigned i = 0; i < 2; i++) {
			close(stream[i]);
			close(errors[i]);
		}
	return err;
}

int spawn_open(const char *command, struct channel **out)
{
	char *argv[CHANNEL_COMMAND_WORDS_MAX + 1], *text = strdup(command);
	struct spawn *spawn = calloc(1, sizeof(*spawn));
	int stream[2] = { -1, -1 }, errors[2] = { -1, -1 };
	int err = text && spawn ? words_split(text, argv) : -ENOMEM;

	if (err)
		goto free_spawn;
	err = fds_make(stream, errors);
	if (err)
		goto free_spawn;
	err = child_start(argv, stream[1], errors[1], &spawn->pid);
	close(stream[1]);
	close(errors[1]);
	if (err)
		goto close_fds;
	spawn->pidfd = (int)syscall(SYS_pidfd_open, spawn->pid, 0);
	if (spawn->pidfd < 0) {
		err = errmsg_set(-errno, "pidfd_open: %s", strerror(errno));
		kill(spawn->pid, SIGKILL);
		waitpid(spawn->pid, NULL, 0);
		goto close_fds;
	}
	spawn->channel.ops = &spawn_ops;
	spawn->channel.fd = stream[0];
	spawn->err_fd = errors[0];
	snprintf(spawn->channel.name, sizeof(spawn->channel.name), "%s", argv[0]);
	strcpy(spawn->channel.host, "127.0.0.1");
	free(text);
	*out = &spawn->channel;
	return 0;
close_fds:
	close(stream[0]);
	close(errors[0]);
free_spawn:
	free(spawn);
	free(text);
	return err;
}
