/* See fault_rig.h. Linked with -Wl,--wrap=spawn_open. The channel is that of rpmem/spawn.c with a thread for the
 * process: when it is closed, the server reads the end of its input, and its end is waited for. */
#include "fault_rig.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "errmsg.h"
#include "faults.h"
#include "rpmem/channel.h"
#include "rpmemd/server.h"

struct near {
	struct channel channel;
	struct server_cfg server;
	pthread_t thread;
};

static struct config config;

void far_serve(const char *pool_dir)
{
	config = (struct config){ .idle_ms = 60000, .persist_general = true };
	snprintf(config.poolset_dir, sizeof(config.poolset_dir), "%s", pool_dir ? pool_dir : "");
}

/* ---------------------------------------------------------------- the far end */
static void *far_main(void *arg)
{
	const struct server_cfg *server = arg;

	fault_side(FAULT_FAR);
	server_run(server); /* how it ended, the initiator was told or will notice */
	fault_connections_end();
	shutdown(server->in, SHUT_RDWR);
	return NULL;
}

/* ---------------------------------------------------------------- the channel */
static long moved(ssize_t n)
{
	if (n >= 0)
		return n;
	return errno == EAGAIN || errno == EINTR ? 0 : -ECONNRESET;
}

static long near_read(struct channel *channel, void *buf, size_t len)
{
	ssize_t n = recv(channel->fd, buf, len, MSG_DONTWAIT);

	return n ? moved(n) : -ECONNRESET;
}

static long near_write(struct channel *channel, const void *buf, size_t len)
{
	return moved(send(channel->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL));
}

static void near_wait(struct channel *channel, bool writable, int timeout_ms)
{
	struct pollfd fd = { channel->fd, writable ? POLLOUT : POLLIN, 0 };

	poll(&fd, 1, timeout_ms);
}

static int near_explain(struct channel *channel, int err, bool patient)
{
	(void)patient;
	return errmsg_set(err, "%s: its stream ended", channel->name);
}

static void near_close(struct channel *channel, bool lost)
{
	struct near *near = (struct near *)channel;

	(void)lost;
	shutdown(channel->fd, SHUT_RDWR);
	pthread_join(near->thread, NULL);
	close(channel->fd);
	close(near->server.in);
	free(near);
}

static const struct channel_ops near_ops = {
	.read = near_read,
	.write = near_write,
	.wait = near_wait,
	.explain = near_explain,
	.close = near_close,
};

static void near_open(struct channel **out)
{
	struct near *near = calloc(1, sizeof(*near));
	int fds[2];

	assert(near);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
		abort();
	near->channel = (struct channel){ .ops = &near_ops, .fd = fds[0], .name = "target", .host = "127.0.0.1" };
	near->server = (struct server_cfg){ .in = fds[1], .out = fds[1], .stop_fd = -1, .config = &config,
					    .bind_address = "127.0.0.1", .address = "127.0.0.1" };
	signal(SIGPIPE, SIG_IGN); /* as rpmemd's main does */
	if (pthread_create(&near->thread, NULL, far_main, &near->server))
		abort();
	*out = &near->channel;
}

int __real_spawn_open(const char *command, struct channel **out);
int __wrap_spawn_open(const char *command, struct channel **out);
int __wrap_spawn_open(const char *command, struct channel **out)
{
	enum fault_side side;

	if (!*config.poolset_dir)
		return __real_spawn_open(command, out);
	side = fault_side(FAULT_ASIDE);
	near_open(out);
	fault_side(side);
	return 0;
}

/* ---------------------------------------------------------------- what is left */
struct leftovers leftovers_now(void)
{
	return (struct leftovers){ fault_fds(), fault_mapped() };
}

bool leftovers_same(const struct leftovers *before)
{
	struct leftovers now = leftovers_now();

	return now.fds == before->fds && now.mapped == before->mapped;
}
