/* The control channel over SSH: the only file that sees libssh.
 *
 * The user's own world decides: ~/.ssh/config (or the file RPMEM_SSH_CONFIG names), agent and keys, known_hosts. A host key
 * that is unknown or has changed is refused, with the command that puts it right; nothing is ever asked or stored here.
 *
 *   configured -> connecting -> host key checked -> authenticated -> command running -> stream
 *
 * The session never blocks: each step is repeated until it is done or the deadline has passed. libssh is told nothing about
 * time. What it does to look a name up, to ask the agent or to end a proxy command waits all the same, for as long as they
 * like. So a thread of its own takes the steps, and who waits for it leaves when his time is over; the thread then frees
 * everything when it comes back, if ever. The same when a session ends that has a proxy. What the far end says on stderr is
 * kept for messages. */
#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <libssh/callbacks.h>
#include <libssh/libssh.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include "errmsg.h"
#include "target.h"

#define SSH_STEP_MS 20     /* longest sleep between two looks while connecting */
#define SSH_PARTING_MS 500 /* for exit status and last words, when the stream has ended */
#define SSH_GLANCE_MS 5    /* the same for somebody who serves others meanwhile */
#define SSH_LEAVE_MS 200   /* for the thread to say itself why it has not finished, and for a proxy to end */
/* Openings and ends of sessions of one target that wait for somebody who does not answer. */
#define SSH_ABANDONED_MAX 4u
#define SSH_HINT_BYTES 340
#define SSH_STATUS_NO_COMMAND 127
#define KEEPALIVE_IDLE_S 60
#define KEEPALIVE_STEP_S 15
#define KEEPALIVE_PROBES 8

struct sshc {
	struct channel channel;
	ssh_session session;
	ssh_channel stream;
	char hint[SSH_HINT_BYTES]; /* "ssh -p 22 user@host": what to try by hand */
};

/* Openings and ends of sessions that nobody waits for any more, each with a thread and some descriptors: who tries again and
 * again has a few only. */
struct abandoned {
	char hint[SSH_HINT_BYTES];
	struct abandoned *next;
};
static struct abandoned *abandoned;
static pthread_mutex_t abandoned_lock = PTHREAD_MUTEX_INITIALIZER;

static void abandoned_add(struct abandoned *a, const char *hint)
{
	snprintf(a->hint, sizeof(a->hint), "%s", hint);
	pthread_mutex_lock(&abandoned_lock);
	a->next = abandoned;
	abandoned = a;
	pthread_mutex_unlock(&abandoned_lock);
}

static void abandoned_remove(const struct abandoned *a)
{
	struct abandoned **at = &abandoned;

	pthread_mutex_lock(&abandoned_lock);
	while (*at && *at != a)
		at = &(*at)->next;
	if (*at)
		*at = a->next;
	pthread_mutex_unlock(&abandoned_lock);
}

static unsigned abandoned_count(const char *hint)
{
	unsigned count = 0;

	pthread_mutex_lock(&abandoned_lock);
	for (const struct abandoned *a = abandoned; a; a = a->next)
		count += !strcmp(a->hint, hint);
	pthread_mutex_unlock(&abandoned_lock);
	return count;
}

static struct sshc *sshc_of(struct channel *channel)
{
	return (struct sshc *)channel;
}

/* ---------------------------------------------------------------- the stream */
static void stderr_drain(struct sshc *ssh)
{
	char buf[1024];
	int n;

	while ((n = ssh_channel_read_nonblocking(ssh->stream, buf, sizeof(buf), 1)) > 0)
		channel_stderr(&ssh->channel, buf, (size_t)n);
}

static long sshc_read(struct channel *channel, void *buf, size_t len)
{
	struct sshc *ssh = sshc_of(channel);
	int n = ssh_channel_read_nonblocking(ssh->stream, buf, (uint32_t)len, 0);

	if (n > 0)
		return n;
	stderr_drain(ssh);
	if (n == SSH_EOF || n == SSH_ERROR || ssh_channel_is_eof(ssh->stream) || ssh_channel_is_closed(ssh->stream) ||
	    !ssh_is_connected(ssh->session))
		return -ECONNRESET;
	return 0;
}

static long sshc_write(struct channel *channel, const void *buf, size_t len)
{
	int n = ssh_channel_write(sshc_of(channel)->stream, buf, (uint32_t)len);

	if (n >= 0)
		return n;
	return n == SSH_AGAIN ? 0 : -ECONNRESET;
}

static void session_wait(ssh_session session, int timeout_ms)
{
	struct pollfd fd = { ssh_get_fd(session), POLLIN, 0 };

	if (ssh_get_poll_flags(session) & SSH_WRITE_PENDING)
		fd.events |= POLLOUT;
	poll(&fd, fd.fd < 0 ? 0 : 1, timeout_ms);
}

static void sshc_wait(struct channel *channel, bool writable, int timeout_ms)
{
	/* Writing waits for window, which arrives as input. */
	session_wait(sshc_of(channel)->session, writable && timeout_ms > SSH_STEP_MS ? SSH_STEP_MS : timeout_ms);
}

static int sshc_explain(struct channel *channel, int err, bool patient)
{
	struct sshc *ssh = sshc_of(channel);
	struct deadline parting = deadline_in(err == -ETIMEDOUT ? 0 : patient ? SSH_PARTING_MS : SSH_GLANCE_MS, NULL);
	char end[64] = "its stream ended";
	int status = -1, slice;

	for (;;) {
		stderr_drain(ssh);
		status = ssh_channel_get_exit_status(ssh->stream);
		slice = deadline_slice(&parting);
		if (status >= 0 || slice < 0 || ssh_channel_is_closed(ssh->stream) || !ssh_is_connected(ssh->session))
			break;
		session_wait(ssh->session, slice < SSH_STEP_MS ? slice : SSH_STEP_MS);
	}
	if (err == -ETIMEDOUT)
		snprintf(end, sizeof(end), "it does not answer");
	else if (status == SSH_STATUS_NO_COMMAND)
		snprintf(end, sizeof(end), "the command is not found there (RPMEM_CMD names it)");
	else if (status >= 0)
		snprintf(end, sizeof(end), "it ended with exit status %d", status);
	else if (!ssh_is_connected(ssh->session))
		snprintf(end, sizeof(end), "the SSH connection was lost");
	return errmsg_set(err, "%s: %s%s%s", channel->name, end, *channel->last_line ? ": " : "", channel->last_line);
}

/* The program's signal handlers run in the program's threads. */
static int thread_quiet(pthread_t *thread, void *(*main)(void *), void *arg)
{
	sigset_t all, saved;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	err = pthread_create(thread, NULL, main, arg);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	return -err;
}

/* Of the thread that ends a session and of who waits for that; the last one frees it. */
struct parting {
	_Atomic int parties;
	ssh_session session;
	bool lost;
	int done_fd; /* eventfd */
	struct abandoned abandoned;
};

static void session_end(ssh_session session, bool lost)
{
	if (lost)
		ssh_silent_disconnect(session); /* frees the stream as well */
	ssh_disconnect(session);
	ssh_free(session);
}

static void parting_put(struct parting *p)
{
	if (atomic_fetch_sub(&p->parties, 1) > 1)
		return;
	abandoned_remove(&p->abandoned);
	close(p->done_fd);
	free(p);
}

static void *parting_main(void *arg)
{
	struct parting *p = arg;

	session_end(p->session, p->lost);
	eventfd_write(p->done_fd, 1);
	parting_put(p);
	return NULL;
}

/* NULL: no memory, descriptor or thread for it. */
static struct parting *parting_start(ssh_session session, bool lost, pthread_t *thread)
{
	struct parting *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	*p = (struct parting){ .parties = 2, .session = session, .lost = lost, .done_fd = eventfd(0, EFD_CLOEXEC) };
	if (p->done_fd >= 0 && !thread_quiet(thread, parting_main, p))
		return p;
	if (p->done_fd >= 0)
		close(p->done_fd);
	free(p);
	return NULL;
}

static bool has_proxy(ssh_session session)
{
	char *proxy = NULL;

	if (ssh_options_get(session, SSH_OPTIONS_PROXYCOMMAND, &proxy) != SSH_OK || !proxy)
		return false;
	ssh_string_free_char(proxy);
	return true;
}

/* With a proxy that is stopped, or does not listen to SIGTERM, a thread waits for its end, if need be when we have left. */
static void session_leave(struct sshc *ssh, bool lost)
{
	pthread_t thread;
	struct parting *p = has_proxy(ssh->session) ? parting_start(ssh->session, lost, &thread) : NULL;
	struct pollfd fd = { .events = POLLIN };

	if (!p) {
		session_end(ssh->session, lost);
		return;
	}
	fd.fd = p->done_fd;
	if (poll(&fd, 1, SSH_LEAVE_MS) > 0) {
		pthread_join(thread, NULL);
	} else {
		abandoned_add(&p->abandoned, ssh->hint);
		pthread_detach(thread);
	}
	parting_put(p);
}

static void sshc_close(struct channel *channel, bool lost)
{
	struct sshc *ssh = sshc_of(channel);

	if (!lost && ssh->stream) {
		ssh_channel_send_eof(ssh->stream);
		ssh_channel_close(ssh->stream);
		ssh_channel_free(ssh->stream);
	}
	if (ssh->session)
		session_leave(ssh, lost);
	free(ssh);
}

static const struct channel_ops ssh_ops = {
	.read = sshc_read,
	.write = sshc_write,
	.wait = sshc_wait,
	.explain = sshc_explain,
	.close = sshc_close,
};

/* ---------------------------------------------------------------- connecting */
static int ssh_fail(struct sshc *ssh, int err, const char *step)
{
	return errmsg_set(err, "ssh: %s failed: %s; try: %s", step, ssh_get_error(ssh->session), ssh->hint);
}

/* Sleeps between two tries of a step. */
static int step_wait(struct sshc *ssh, const struct deadline *deadline, const char *step)
{
	int slice = deadline_slice(deadline);

	if (slice < 0)
		return errmsg_set(slice, "ssh: %s: %s; try: %s", step,
				  slice == -ECANCELED ? "given up" : "no answer in time", ssh->hint);
	session_wait(ssh->session, slice < SSH_STEP_MS ? slice : SSH_STEP_MS);
	return 0;
}

/* A key with a passphrase that no agent holds is not ours to use. Without this, OpenSSL's reader of PEM keys asks on the
 * terminal or stdin by itself, and waits for ever. */
static int passphrase_refuse(const char *prompt, char *buf, size_t len, int echo, int verify, void *arg)
{
	(void)prompt;
	(void)buf;
	(void)len;
	(void)echo;
	(void)verify;
	(void)arg;
	return -1;
}

static struct ssh_callbacks_struct callbacks = { .size = sizeof(callbacks), .auth_function = passphrase_refuse };

static int target_set(struct sshc *ssh, const struct target *target)
{
	unsigned port = target->port;
	int err = 0;

	if (*target->user)
		err = ssh_options_set(ssh->session, SSH_OPTIONS_USER, target->user);
	if (!err && port)
		err = ssh_options_set(ssh->session, SSH_OPTIONS_PORT, &port);
	return err;
}

static int ssh_configure(struct sshc *ssh, const struct target *target)
{
	const char *config = getenv("RPMEM_SSH_CONFIG");
	int err = ssh_options_set(ssh->session, SSH_OPTIONS_HOST, target->host);

	/* Before the configuration, which may ask for the user, and after it, because its Port would replace ours. */
	if (!err)
		err = target_set(ssh, target);
	if (!err)
		err = ssh_options_parse_config(ssh->session, config);
	if (!err)
		err = target_set(ssh, target);
	if (!err)
		err = ssh_set_callbacks(ssh->session, &callbacks);
	if (err)
		return ssh_fail(ssh, -EINVAL, "reading the SSH configuration");
	ssh_set_blocking(ssh->session, 0);
	return 0;
}

/* The control channel is silent for months: what lies on its way (firewalls, address translation) forgets a connection
 * without traffic, and then the target would lose a session that stands. */
static void socket_tune(int fd)
{
	int on = 1, idle = KEEPALIVE_IDLE_S, step = KEEPALIVE_STEP_S, probes = KEEPALIVE_PROBES;

	fcntl(fd, F_SETFD, FD_CLOEXEC);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)); /* no socket behind a proxy command: its own matter */
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &step, sizeof(step));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

static int ssh_reach(struct sshc *ssh, const struct deadline *deadline)
{
	int ret, err;

	while ((ret = ssh_connect(ssh->session)) == SSH_AGAIN) {
		err = step_wait(ssh, deadline, "connecting");
		if (err)
			return err;
	}
	if (ret != SSH_OK)
		return ssh_fail(ssh, -EHOSTUNREACH, "connecting");
	socket_tune(ssh_get_fd(ssh->session));
	return 0;
}

/* The name known_hosts has for the server: [host]:port unless the port is 22. */
static void known_name(struct sshc *ssh, char *name, size_t bytes)
{
	char *host = NULL;
	unsigned port = 22;

	ssh_options_get(ssh->session, SSH_OPTIONS_HOST, &host);
	ssh_options_get_port(ssh->session, &port);
	snprintf(name, bytes, port == 22 ? "%s" : "'[%s]:%u'", host ? host : "host", port);
	ssh_string_free_char(host);
}

static int ssh_check_host(struct sshc *ssh)
{
	char name[300];

	known_name(ssh, name, sizeof(name));
	switch (ssh_session_is_known_server(ssh->session)) {
	case SSH_KNOWN_HOSTS_OK:
		return 0;
	case SSH_KNOWN_HOSTS_CHANGED:
	case SSH_KNOWN_HOSTS_OTHER:
		return errmsg_set(-EKEYREJECTED,
				  "ssh: host key CHANGED (reinstalled, or an attack); if you know why: ssh-keygen -R %s; %s",
				  name, ssh->hint);
	case SSH_KNOWN_HOSTS_UNKNOWN:
	case SSH_KNOWN_HOSTS_NOT_FOUND:
		return errmsg_set(-EKEYREJECTED, "ssh: the host key is not known; check and accept it once by: %s",
				  ssh->hint);
	default:
		return ssh_fail(ssh, -EKEYREJECTED, "checking known_hosts");
	}
}

static int ssh_login(struct sshc *ssh, const struct deadline *deadline)
{
	int ret, err;

	while ((ret = ssh_userauth_publickey_auto(ssh->session, NULL, NULL)) == SSH_AUTH_AGAIN) {
		err = step_wait(ssh, deadline, "authentication");
		if (err)
			return err;
	}
	if (ret == SSH_AUTH_SUCCESS)
		return 0;
	if (ret == SSH_AUTH_ERROR)
		return ssh_fail(ssh, -EACCES, "authentication");
	return errmsg_set(-EACCES, "ssh: no key or agent was accepted; this must work without a password: %s", ssh->hint);
}

static int ssh_run(struct sshc *ssh, const char *command, const struct deadline *deadline)
{
	int ret, err;

	ssh->stream = ssh_channel_new(ssh->session);
	if (!ssh->stream)
		return -ENOMEM;
	while ((ret = ssh_channel_open_session(ssh->stream)) == SSH_AGAIN) {
		err = step_wait(ssh, deadline, "opening a session");
		if (err)
			return err;
	}
	while (ret == SSH_OK && (ret = ssh_channel_request_exec(ssh->stream, command)) == SSH_AGAIN) {
		err = step_wait(ssh, deadline, "starting the command");
		if (err)
			return err;
		ret = SSH_OK;
	}
	return ret == SSH_OK ? 0 : ssh_fail(ssh, -ECONNREFUSED, "starting the command");
}

/* The address the session goes to; behind a proxy command, the configured name. */
static void host_find(struct sshc *ssh)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	char *host = NULL;

	if (!getpeername(ssh_get_fd(ssh->session), (struct sockaddr *)&addr, &len) &&
	    !getnameinfo((struct sockaddr *)&addr, len, ssh->channel.host, sizeof(ssh->channel.host), NULL, 0,
			 NI_NUMERICHOST))
		return;
	ssh_options_get(ssh->session, SSH_OPTIONS_HOST, &host);
	snprintf(ssh->channel.host, sizeof(ssh->channel.host), "%s", host ? host : "");
	ssh_string_free_char(host);
}

static void hint_make(struct sshc *ssh, const struct target *target)
{
	const char *config = getenv("RPMEM_SSH_CONFIG");
	char port[16] = "";

	if (target->port)
		snprintf(port, sizeof(port), "-p %u ", target->port);
	snprintf(ssh->hint, sizeof(ssh->hint), "ssh %s%.40s%s%s%s%s%.255s", config ? "-F " : "", config ? config : "",
		 config ? " " : "", port, target->user, *target->user ? "@" : "", target->host);
}

/* ---------------------------------------------------------------- opening */
/* Of the thread that takes the steps and of who waits for it; the last one frees it. */
struct opening {
	_Atomic int parties;
	pthread_t thread;
	int done_fd;     /* eventfd: err, text and ssh are the waiter's */
	bool cancel;     /* atomic */
	struct deadline deadline;
	struct target target;
	char *command;
	struct sshc *ssh;
	int err;
	char text[ERRMSG_BYTES_MAX];
	struct abandoned abandoned;
};

static void opening_put(struct opening *o)
{
	if (atomic_fetch_sub(&o->parties, 1) > 1)
		return;
	abandoned_remove(&o->abandoned);
	if (o->ssh)
		sshc_close(&o->ssh->channel, false);
	if (o->done_fd >= 0)
		close(o->done_fd);
	free(o->command);
	free(o);
}

static int opening_steps(struct opening *o)
{
	struct sshc *ssh = o->ssh;
	int err = ssh_configure(ssh, &o->target);

	if (!err)
		err = ssh_reach(ssh, &o->deadline);
	if (!err)
		err = ssh_check_host(ssh);
	if (!err)
		err = ssh_login(ssh, &o->deadline);
	if (!err)
		err = ssh_run(ssh, o->command, &o->deadline);
	if (err)
		return err;
	host_find(ssh);
	ssh->channel.fd = ssh_get_fd(ssh->session);
	return 0;
}

static __thread bool in_opening;

/* libssh starts the configuration's proxy with fork(2), and ends it with SIGTERM and a wait without end: so it must not
 * inherit that this thread blocks all signals. */
static void child_hears_signals(void)
{
	sigset_t none;

	sigemptyset(&none);
	if (in_opening)
		pthread_sigmask(SIG_SETMASK, &none, NULL);
}

static pthread_once_t atfork_once = PTHREAD_ONCE_INIT;
static int atfork_err;

static void atfork_set(void)
{
	atfork_err = pthread_atfork(NULL, NULL, child_hears_signals);
}

static void *opening_main(void *arg)
{
	struct opening *o = arg;
	uint64_t one = 1;

	in_opening = true;
	errmsg_clear();
	o->err = opening_steps(o);
	snprintf(o->text, sizeof(o->text), "%s", *errmsg_get() ? errmsg_get() : strerror(-o->err));
	if (write(o->done_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		o->err = -errno; /* cannot be: one write of 1 fits */
	opening_put(o);
	return NULL;
}

static bool opening_done(struct opening *o, int timeout_ms)
{
	struct pollfd fd = { o->done_fd, POLLIN, 0 };
	uint64_t count;

	return poll(&fd, 1, timeout_ms) > 0 && read(o->done_fd, &count, sizeof(count)) == (ssize_t)sizeof(count);
}

/* Until the thread has ended, or there is no more time for it. */
static int opening_wait(struct opening *o, const struct deadline *deadline)
{
	int slice = 0, done = 0;

	while (!done && (slice = deadline_slice(deadline)) > 0)
		done = opening_done(o, slice);
	if (!done && slice == -ECANCELED)
		__atomic_store_n(&o->cancel, true, __ATOMIC_RELEASE);
	if (done || opening_done(o, SSH_LEAVE_MS)) {
		pthread_join(o->thread, NULL);
		return o->err ? errmsg_set(o->err, "%s", o->text) : 0;
	}
	pthread_detach(o->thread);
	abandoned_add(&o->abandoned, o->ssh->hint);
	return errmsg_set(slice, "ssh: %s, waiting for a name server, an agent or a proxy; try: %s",
			  slice == -ECANCELED ? "given up" : "no answer in time", o->ssh->hint);
}

static int opening_start(struct opening *o)
{
	int err;

	pthread_once(&atfork_once, atfork_set);
	if (atfork_err)
		return errmsg_set(-atfork_err, "ssh: pthread_atfork: %s", strerror(atfork_err));
	o->parties = 2;
	err = thread_quiet(&o->thread, opening_main, o);
	if (!err)
		return 0;
	o->parties = 1;
	return errmsg_set(err, "ssh: no thread: %s", strerror(-err));
}

static struct opening *opening_new(const struct target *target, const char *command, const struct deadline *deadline)
{
	struct opening *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->parties = 1;
	o->target = *target;
	o->deadline = (struct deadline){ .ns = deadline->ns, .cancel = &o->cancel };
	o->done_fd = eventfd(0, EFD_CLOEXEC);
	o->command = strdup(command);
	o->ssh = calloc(1, sizeof(*o->ssh));
	if (o->ssh) {
		o->ssh->channel.ops = &ssh_ops;
		o->ssh->session = ssh_new();
	}
	if (o->done_fd >= 0 && o->command && o->ssh && o->ssh->session)
		return o;
	opening_put(o);
	return NULL;
}

int ssh_open(const struct target *target, const char *command, const struct deadline *deadline, struct channel **out)
{
	struct opening *o = opening_new(target, command, deadline);
	unsigned waiting;
	int err;

	if (!o)
		return errmsg_set(-ENOMEM, "ssh: no memory or descriptor");
	hint_make(o->ssh, target);
	snprintf(o->ssh->channel.name, sizeof(o->ssh->channel.name), "%s", command);
	waiting = abandoned_count(o->ssh->hint);
	if (waiting >= SSH_ABANDONED_MAX)
		err = errmsg_set(-ETIMEDOUT, "ssh: %u earlier attempts still wait for a name server, an agent or a proxy that does "
				 "not answer", waiting);
	else
		err = opening_start(o);
	if (!err)
		err = opening_wait(o, deadline);
	if (!err) {
		*out = &o->ssh->channel;
		o->ssh = NULL;
	}
	opening_put(o);
	return err;
}
