/* The plain way to use libfabric's tcp provider, see peer.h.
 *
 * The sockets of tcp 1.x are not handed out: they are found by the endpoint's two names.
 *
 * What the provider asks for: progress happens only inside calls on the endpoint's own completion queue, so whoever
 * expects something must keep reading it; completions that nobody waits for are not asked for, since each costs a
 * write() to a wake-up descriptor; addresses are offsets and keys are ours (no mr_mode bit is offered, none needed). */
#include "peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <rdma/fi_cm.h>

#define PEER_FI_VERSION FI_VERSION(1, 17)
#define PEER_CQ_ENTRIES 1024
#define PEER_CONNECT_MS 10000
#define PEER_FDS_MAX 1024

void peer_must(const char *what, long ret)
{
	if (ret == 0)
		return;
	fprintf(stderr, "%s: %s\n", what, fi_strerror((int)-ret));
	exit(1);
}

static void must_os(const char *what, int ret)
{
	if (ret < 0)
		peer_must(what, -errno);
}

void peer_default_signals(void)
{
	static const int taken[] = { SIGSEGV, SIGBUS, SIGILL, SIGABRT, SIGINT, SIGTERM };

	for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++)
		signal(taken[i], SIG_DFL);
}

uint64_t peer_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static struct fi_info *get_info(const char *port, uint64_t flags)
{
	struct fi_info *hints = fi_allocinfo(), *info;

	peer_must("fi_allocinfo", hints ? 0 : -FI_ENOMEM);
	hints->ep_attr->type = FI_EP_MSG;
	hints->caps = FI_MSG | FI_RMA;
	hints->addr_format = FI_SOCKADDR_IN;
	hints->domain_attr->threading = FI_THREAD_SAFE;
	hints->fabric_attr->prov_name = strdup("tcp");
	peer_must("fi_getinfo(tcp)", fi_getinfo(PEER_FI_VERSION, "127.0.0.1", port, flags, hints, &info));
	fi_freeinfo(hints);
	return info;
}

static void open_eq(struct fid_fabric *fabric, struct fid_eq **eq)
{
	struct fi_eq_attr attr = { .wait_obj = FI_WAIT_FD };

	peer_must("fi_eq_open", fi_eq_open(fabric, &attr, eq, NULL));
}

/* Waits for one event of the connection manager, which must be the wanted one. */
static void expect_event(struct fid_eq *eq, uint32_t wanted, struct fi_eq_cm_entry *entry)
{
	struct fi_eq_err_entry err = { 0 };
	uint32_t event;
	ssize_t ret;

	do
		ret = fi_eq_sread(eq, &event, entry, sizeof(*entry), PEER_CONNECT_MS, 0);
	while (ret == -FI_EINTR);
	if (ret == -FI_EAVAIL && fi_eq_readerr(eq, &err, 0) > 0)
		peer_must("connection", -(long)err.err);
	peer_must("connection", ret < 0 ? ret : 0);
	peer_must("connection event", event == wanted ? 0 : -FI_EOTHER);
}

static void open_endpoint(struct peer *peer)
{
	struct fi_cq_attr attr = { .size = PEER_CQ_ENTRIES, .format = FI_CQ_FORMAT_MSG,
	                           .wait_obj = peer->kind == PEER_CQ_FD ? FI_WAIT_FD : FI_WAIT_NONE };

	peer->spin_us = PEER_YIELD_US;
	peer_must("fi_domain", fi_domain(peer->fabric, peer->info, &peer->domain, NULL));
	peer_must("fi_cq_open", fi_cq_open(peer->domain, &attr, &peer->cq, NULL));
	peer_must("fi_endpoint", fi_endpoint(peer->domain, peer->info, &peer->ep, NULL));
	peer_must("bind eq", fi_ep_bind(peer->ep, &peer->eq->fid, 0));
	peer_must("bind cq", fi_ep_bind(peer->ep, &peer->cq->fid, FI_TRANSMIT | FI_SELECTIVE_COMPLETION));
	peer_must("bind cq", fi_ep_bind(peer->ep, &peer->cq->fid, FI_RECV));
	peer_must("fi_enable", fi_enable(peer->ep));
}

uint16_t peer_listen(struct peer_listener *listener)
{
	struct sockaddr_in addr;
	size_t len = sizeof(addr);

	listener->info = get_info("0", FI_SOURCE);
	peer_must("fi_fabric", fi_fabric(listener->info->fabric_attr, &listener->fabric, NULL));
	open_eq(listener->fabric, &listener->eq);
	peer_must("fi_passive_ep", fi_passive_ep(listener->fabric, listener->info, &listener->pep, NULL));
	peer_must("fi_pep_bind", fi_pep_bind(listener->pep, &listener->eq->fid, 0));
	peer_must("fi_listen", fi_listen(listener->pep));
	peer_must("fi_getname", fi_getname(&listener->pep->fid, &addr, &len));
	return ntohs(addr.sin_port);
}

void peer_unlisten(struct peer_listener *listener)
{
	fi_close(&listener->pep->fid);
	fi_close(&listener->eq->fid);
	fi_freeinfo(listener->info);
}

static bool same_end(const struct sockaddr_in *a, const struct sockaddr_in *b)
{
	return a->sin_family == AF_INET && a->sin_port == b->sin_port && a->sin_addr.s_addr == b->sin_addr.s_addr;
}

static void find_socket(struct peer *peer)
{
	struct sockaddr_in ours = { 0 }, theirs = { 0 }, name = { 0 }, other = { 0 };
	size_t ours_len = sizeof(ours), theirs_len = sizeof(theirs);

	if (peer->kind == PEER_CQ_FD)
		return;
	peer_must("fi_getname", fi_getname(&peer->ep->fid, &ours, &ours_len));
	peer_must("fi_getpeer", fi_getpeer(peer->ep, &theirs, &theirs_len));
	for (peer->sock = 0; peer->sock < PEER_FDS_MAX; peer->sock++) {
		socklen_t name_len = sizeof(name), other_len = sizeof(other);

		if (getsockname(peer->sock, (struct sockaddr *)&name, &name_len) == 0 && same_end(&name, &ours) &&
		    getpeername(peer->sock, (struct sockaddr *)&other, &other_len) == 0 && same_end(&other, &theirs))
			return;
	}
	peer_must("socket", -FI_ENODATA);
}

void peer_accept(struct peer_listener *listener, struct peer *peer, enum peer_cq kind, void *mem, size_t len)
{
	struct fi_eq_cm_entry entry;

	memset(peer, 0, sizeof(*peer));
	peer->kind = kind;
	expect_event(listener->eq, FI_CONNREQ, &entry);
	peer->info = entry.info;
	peer->fabric = listener->fabric;
	open_eq(peer->fabric, &peer->eq);
	open_endpoint(peer);
	if (mem)
		peer_must("fi_mr_reg", fi_mr_reg(peer->domain, mem, len, FI_REMOTE_READ | FI_REMOTE_WRITE, 0, PEER_KEY,
		                                 0, &peer->mr, NULL));
	peer_must("fi_accept", fi_accept(peer->ep, NULL, 0));
	expect_event(peer->eq, FI_CONNECTED, &entry);
	find_socket(peer);
}

void peer_connect(struct peer *peer, enum peer_cq kind, uint16_t port)
{
	struct fi_eq_cm_entry entry;
	char service[8];

	memset(peer, 0, sizeof(*peer));
	peer->kind = kind;
	snprintf(service, sizeof(service), "%u", port);
	peer->info = get_info(service, 0);
	peer_must("fi_fabric", fi_fabric(peer->info->fabric_attr, &peer->fabric, NULL));
	open_eq(peer->fabric, &peer->eq);
	open_endpoint(peer);
	peer_must("fi_connect", fi_connect(peer->ep, peer->info->dest_addr, NULL, 0));
	expect_event(peer->eq, FI_CONNECTED, &entry);
	find_socket(peer);
}

void peer_close(struct peer *peer)
{
	fi_shutdown(peer->ep, 0);
	fi_close(&peer->ep->fid);
	if (peer->mr)
		fi_close(&peer->mr->fid);
	fi_close(&peer->cq->fid);
	fi_close(&peer->domain->fid);
	fi_close(&peer->eq->fid);
	fi_close(&peer->fabric->fid); /* refused while another connection still uses it */
	fi_freeinfo(peer->info);
}

uint16_t peer_start_target(const char *const argv[], int *pid)
{
	uint16_t port;
	int ends[2];

	must_os("pipe", pipe(ends));
	*pid = fork();
	must_os("fork", *pid);
	if (*pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		must_os("dup2", dup2(ends[1], STDOUT_FILENO));
		close(ends[0]);
		close(ends[1]);
		execv("/proc/self/exe", (char *const *)argv);
		must_os("exec", -1);
	}
	close(ends[1]);
	if (read(ends[0], &port, sizeof(port)) != sizeof(port))
		peer_must("target", -FI_ECONNREFUSED);
	close(ends[0]);
	return port;
}

void peer_end_target(int pid)
{
	int status;

	must_os("waitpid", waitpid(pid, &status, 0));
	peer_must("target", WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -FI_EOTHER);
}

void peer_tell_port(uint16_t port)
{
	/* An interrupt from the terminal is for the initiator, whose end ends us. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	if (write(STDOUT_FILENO, &port, sizeof(port)) != sizeof(port))
		peer_must("pipe", -errno);
	close(STDOUT_FILENO);
}

/* The provider keeps what the socket did not take until the next read of the queue. So with something posted, the socket
 * must be found writable before and after one: two looks, the caller reads the queue in between. */
bool peer_sleep(struct peer *peer, int fd)
{
	struct pollfd fds[2] = { { .fd = peer->sock, .events = POLLIN }, { .fd = fd, .events = POLLIN } };

	if (peer->unsent)
		fds[0].events |= POLLOUT;
	poll(fds, 2, -1);
	if (peer->unsent && (fds[0].revents & POLLOUT))
		peer->unsent--;
	return fds[1].revents != 0;
}

static bool bytes_move(struct peer *peer)
{
	uint64_t before = peer->moved;
	struct tcp_info info;
	socklen_t len = sizeof(info);

	if (peer->kind != PEER_CQ_SOCKET)
		return false;
	must_os("TCP_INFO", getsockopt(peer->sock, IPPROTO_TCP, TCP_INFO, &info, &len));
	peer->moved = info.tcpi_bytes_acked + info.tcpi_bytes_received;
	return peer->moved != before;
}

/* Whether to look again. The bytes are looked at from half of the time on, because a look costs as much as some polls. */
static bool poll_on(struct peer *peer)
{
	uint64_t now = peer_now_ns(), spin_ns = peer->spin_us * 1000ull;

	if (!peer->looked && now > peer->last_ns + spin_ns / 2) {
		peer->looked = true;
		bytes_move(peer);
	}
	if (now < peer->last_ns + spin_ns)
		return true;
	if (!bytes_move(peer))
		return false;
	peer->last_ns = now;
	return true;
}

/* The queue was just empty: sleep, or look again. As fi_cq_read. */
static ssize_t wait_more(struct peer *peer, struct fi_cq_msg_entry *entries, size_t max, enum peer_wait how)
{
	if (how == PEER_YIELD && poll_on(peer)) {
		sched_yield();
		return -FI_EAGAIN;
	}
	if (peer->kind == PEER_CQ_FD)
		return fi_cq_sread(peer->cq, entries, max, NULL, -1);
	peer_sleep(peer, -1);
	return -FI_EAGAIN;
}

size_t peer_wait(struct peer *peer, struct fi_cq_msg_entry *entries, size_t max, enum peer_wait how)
{
	for (;;) {
		ssize_t ret = fi_cq_read(peer->cq, entries, max);

		if (ret == -FI_EAGAIN)
			ret = wait_more(peer, entries, max, how);
		if (ret > 0) {
			if (how == PEER_YIELD)
				peer->last_ns = peer_now_ns();
			peer->looked = false;
			return (size_t)ret;
		}
		/* An error entry means that the connection is gone: nothing else fails here. */
		if (ret == -FI_EAVAIL)
			return 0;
		if (ret != -FI_EAGAIN && ret != -FI_EINTR)
			peer_must("fi_cq_sread", ret);
	}
}
