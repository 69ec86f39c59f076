/* libfabric, last of four files: how an endpoint sleeps, and the socket beneath a tcp endpoint.
 *
 * A provider's wait object costs its write and its read for every completion: 6 of 40 us of an fsync (tcp 1.17, measured),
 * also while nobody sleeps. So where that is known to work (tcp of libfabric 1.x, whose operations progress only inside
 * calls on the completion queue) the queue has none, and sleepers sleep on the socket. That wakes for all that comes;
 * what goes out needs care, because the provider keeps what the socket did not take and sends it on when polled:
 *
 *   sent     nothing posted since the socket was last found to have taken everything, or the peer has answered it all
 *   unsent   posted: the socket is asked. Writable before and after a poll of the queue: everything is in it -> sent
 *            Full: the sleep also ends when it takes more
 *
 * An end with exposed memory is always unsent: the provider answers one-sided reads, and nobody here hears of them.
 *
 * Elsewhere (verbs, later libraries) wait objects of the provider are used as it wants them to be. */
#include "fabric_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "errmsg.h"

#define STATE_ESTABLISHED 1 /* of tcpi_state; linux/tcp.h does not name it */

/* ---------------------------------------------------------------- the socket */
static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	if (a->ss_family != b->ss_family)
		return false;
	if (a->ss_family == AF_INET) {
		const struct sockaddr_in *x = (const void *)a, *y = (const void *)b;

		return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
	}
	if (a->ss_family == AF_INET6) {
		const struct sockaddr_in6 *x = (const void *)a, *y = (const void *)b;

		return x->sin6_port == y->sin6_port && !memcmp(&x->sin6_addr, &y->sin6_addr, sizeof(x->sin6_addr));
	}
	return false;
}

static bool socket_is(int fd, const struct sockaddr_storage *name, const struct sockaddr_storage *peer)
{
	struct sockaddr_storage other = { 0 };
	socklen_t len = sizeof(other);

	if (getsockname(fd, (struct sockaddr *)&other, &len) || !same_address(&other, name))
		return false;
	len = sizeof(other);
	memset(&other, 0, sizeof(other));
	return !getpeername(fd, (struct sockaddr *)&other, &len) && same_address(&other, peer);
}

/* Newer versions hand the socket out, 1.17 does not: it is the one with the endpoint's two names. -ENOENT: none. */
static int socket_find(struct fab_ep *ep)
{
	struct sockaddr_storage name = { 0 }, peer = { 0 };
	size_t name_len = sizeof(name), peer_len = sizeof(peer);
	struct dirent *entry;
	int found = -ENOENT;
	DIR *dir;

	if (fi_getname(&ep->ep->fid, &name, &name_len) || fi_getpeer(ep->ep, &peer, &peer_len))
		return -ENOENT;
	dir = opendir("/proc/self/fd");
	if (!dir)
		return -errno; /* -EMFILE is no fault of the connection */
	while (found < 0 && (entry = readdir(dir)))
		if (entry->d_name[0] != '.' && socket_is(atoi(entry->d_name), &name, &peer))
			found = atoi(entry->d_name);
	closedir(dir);
	return found;
}

/* libfabric leaves its sockets inheritable and without any time limit. */
static void socket_tune(int fd, unsigned timeout_ms)
{
	int on = 1, second = 1, probes = timeout_ms < 1000 ? 1 : (int)(timeout_ms / 1000);

	fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (!timeout_ms)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &second, sizeof(second));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &second, sizeof(second));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

int fab_wait_init(struct fab_ep *ep)
{
	struct epoll_event event = { .events = EPOLLIN };
	int sock = socket_find(ep);

	if (sock < 0 && sock != -ENOENT)
		return errmsg_set(sock, "fabric: /proc/self/fd: %s", strerror(-sock));
	if (sock >= 0) {
		ep->sock = sock;
		socket_tune(sock, ep->timeout_ms);
	}
	if (!ep->own_wait)
		return 0;
	if (sock < 0)
		return errmsg_set(-EIO, "fabric: the connection's socket cannot be found (is /proc mounted?)");
	ep->wait_fd = epoll_create1(EPOLL_CLOEXEC);
	if (ep->wait_fd < 0 || epoll_ctl(ep->wait_fd, EPOLL_CTL_ADD, ep->sock, &event))
		return errmsg_set(-errno, "fabric: epoll: %s", strerror(errno));
	return 0;
}

void fab_wait_fini(struct fab_ep *ep)
{
	if (ep->wait_fd >= 0)
		close(ep->wait_fd);
	ep->wait_fd = ep->sock = -1;
}

/* ---------------------------------------------------------------- strangers */
static uint16_t port_of(const struct sockaddr_storage *name)
{
	if (name->ss_family == AF_INET)
		return ntohs(((const struct sockaddr_in *)(const void *)name)->sin_port);
	return name->ss_family == AF_INET6 ? ntohs(((const struct sockaddr_in6 *)(const void *)name)->sin6_port) : 0;
}

/* Endpoints have a time limit: socket_tune. One that is being accepted has just said something. */
static bool socket_is_strange(int fd, uint16_t port, unsigned silent_ms)
{
	struct sockaddr_storage name = { 0 };
	struct tcp_info info = { 0 };
	socklen_t name_len = sizeof(name), info_len = sizeof(info), limit_len = sizeof(unsigned);
	unsigned limit = 0;

	if (getsockname(fd, (struct sockaddr *)&name, &name_len) || port_of(&name) != port)
		return false;
	if (getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, &limit_len) || limit)
		return false;
	return !getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &info_len) && info.tcpi_state == STATE_ESTABLISHED &&
	       info.tcpi_last_data_recv > silent_ms;
}

/* The provider keeps a connection of which no request comes for ever. It is not ours to close, but shut down it ends there, too;
 * nobody but the caller, by fab_next, closes one. */
void fab_strangers_end(struct fab *fab, unsigned planned, unsigned silent_ms)
{
	struct dirent *entry;
	int free_fd;

	if (!fab->fds)
		return;
	free_fd = fcntl(dirfd(fab->fds), F_DUPFD_CLOEXEC, 0); /* the lowest: as many are open, or more */
	if (free_fd >= 0)
		close(free_fd);
	if (free_fd >= 0 && (unsigned)free_fd < planned)
		return;
	rewinddir(fab->fds);
	while ((entry = readdir(fab->fds)))
		if (entry->d_name[0] != '.' && socket_is_strange(atoi(entry->d_name), fab->port, silent_ms))
			shutdown(atoi(entry->d_name), SHUT_RDWR);
}

/* ---------------------------------------------------------------- sleeping */
bool fab_taken(const struct fab_ep *ep, int timeout_ms)
{
	struct pollfd fd = { .fd = ep->sock, .events = POLLOUT };

	return ep->sock < 0 || poll(&fd, 1, timeout_ms);
}

static bool bytes_moved(const struct fab_ep *ep, uint64_t *bytes)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	if (ep->sock < 0 || getsockopt(ep->sock, IPPROTO_TCP, TCP_INFO, &info, &len))
		return false;
	*bytes = info.tcpi_bytes_acked + info.tcpi_bytes_received;
	return true;
}

bool fab_moved(struct fab_ep *ep)
{
	uint64_t before = ep->moved;

	return bytes_moved(ep, &ep->moved) && ep->moved != before;
}

bool fab_flow(const struct fab_ep *ep, uint64_t *moved, uint64_t *ahead)
{
	int queued;

	if (!bytes_moved(ep, moved) || ioctl(ep->sock, SIOCOUTQ, &queued))
		return false;
	*ahead = (uint64_t)queued + ep->tx.count * ep->tx.bytes + ep->rx.count * ep->rx.bytes + ep->writes.bytes +
		 ep->reads.bytes;
	return true;
}

static bool socket_full(const struct fab_ep *ep)
{
	return !fab_taken(ep, 0);
}

static void socket_arm(struct fab_ep *ep, bool out)
{
	struct epoll_event event = { .events = EPOLLIN | (out ? EPOLLOUT : 0) };

	if (ep->armed == out)
		return;
	epoll_ctl(ep->wait_fd, EPOLL_CTL_MOD, ep->sock, &event);
	ep->armed = out;
}

/* Reads one completion ahead of the next fab_poll. */
static int poll_ahead(struct fab_ep *ep)
{
	struct fab_event event;
	int n = fab_cq_read(ep, &event, 1);

	if (n > 0)
		fab_late_put(ep, &event);
	return n < 0 ? fab_ep_failed(ep, n) : n;
}

static bool socket_may_block(struct fab_ep *ep)
{
	if (!ep->unsent && !ep->pool_mr) {
		socket_arm(ep, false);
		return true;
	}
	if (!socket_full(ep)) {
		if (poll_ahead(ep))
			return false;
		if (!socket_full(ep)) {
			socket_arm(ep, false);
			ep->unsent = false;
			return true;
		}
	}
	socket_arm(ep, true);
	return true;
}

bool fab_may_block(struct fab_ep *ep)
{
	struct fid *fids[] = { &ep->cq->fid, &ep->eq->fid };

	if (ep->late_count || ep->err)
		return false;
	return ep->wait_fd >= 0 ? socket_may_block(ep) : fi_trywait(ep->fab->fabric, fids, 2) == FI_SUCCESS;
}

/* 0, or why the connection ended; a completion that comes with the sleep's end goes to the late ones. */
static int provider_wait(struct fab_ep *ep, int timeout_ms)
{
	struct fi_cq_data_entry entry;
	ssize_t ret = fi_cq_sread(ep->cq, &entry, 1, NULL, timeout_ms);
	struct fab_event event;

	if (ret > 0) {
		fab_event_of(ep, &entry, &event);
		fab_late_put(ep, &event);
		return 0;
	}
	if (ret == -FI_EAVAIL)
		return fab_cq_error(ep);
	if (ret < 0 && ret != -FI_EAGAIN && ret != -FI_EINTR && ret != -FI_ETIMEDOUT)
		return errmsg_set(fab_errno(ret), "fabric wait: %s", fab_strerror((int)-ret));
	return 0;
}

static int socket_wait(struct fab_ep *ep, int timeout_ms)
{
	struct pollfd fd = { .fd = ep->wait_fd, .events = POLLIN };

	if (poll_ahead(ep) || !socket_may_block(ep))
		return ep->err;
	poll(&fd, 1, timeout_ms); /* whatever ends it, the queue is polled next */
	return 0;
}

int fab_wait(struct fab_ep *ep, int timeout_ms)
{
	int err;

	if (ep->late_count)
		return 0;
	if (ep->err)
		return errmsg_set(ep->err, "the fabric connection has ended");
	err = ep->wait_fd >= 0 ? socket_wait(ep, timeout_ms) : provider_wait(ep, timeout_ms);
	if (!err && !ep->late_count) {
		ep->empty_polls = 0;
		err = fab_eq_check(ep, 0);
	}
	return err ? fab_ep_failed(ep, err) : 0;
}

void fab_fds(const struct fab_ep *ep, int *data_fd, int *eq_fd)
{
	*data_fd = ep->wait_fd;
	*eq_fd = -1;
	if (ep->wait_fd >= 0)
		return; /* events of the connection come by way of the socket, too */
	fi_control(&ep->cq->fid, FI_GETWAIT, data_fd);
	fi_control(&ep->eq->fid, FI_GETWAIT, eq_fd);
}
