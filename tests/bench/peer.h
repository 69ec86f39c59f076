/* One connected libfabric endpoint (provider tcp, FI_EP_MSG) for the programs that stand beside the file system as its
 * limit. They share no code with it on purpose. A failure ends the program with a message: a benchmark that lost its
 * peer has no figure to give. */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <rdma/fabric.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>

#define PEER_KEY 0x6b617075u /* key of a target's region; remote addresses are offsets into it */
#define PEER_YIELD_US 100u   /* spin_us of a connection, when nobody sets another one */

/* Sleep at once; poll with sched_yield for spin_us behind the last completion, and as long as bytes move, as the library does;
 * then sleep. */
enum peer_wait { PEER_BLOCK, PEER_YIELD };

/* How a completion queue wakes a sleeper: through its own descriptor, which costs a write and a read for each completion,
 * whoever sleeps; or not at all, and sleepers sleep on the connection's socket. */
enum peer_cq { PEER_CQ_FD, PEER_CQ_SOCKET };

struct peer {
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_eq *eq;
	struct fid_domain *domain;
	struct fid_cq *cq;
	struct fid_mr *mr; /* the target's region, NULL without one */
	struct fid_ep *ep;
	uint64_t last_ns;  /* of the last completion, or of the last look that found bytes moving; kept by peer_wait */
	uint64_t moved;    /* bytes, both ways, when they were looked at */
	bool looked;       /* since last_ns */
	unsigned spin_us;  /* of PEER_YIELD */
	enum peer_cq kind;
	int sock;          /* PEER_CQ_SOCKET: the connection's */
	unsigned unsent;   /* PEER_CQ_SOCKET: looks at the socket until all that was posted is known to be in it */
};

struct peer_listener {
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_eq *eq;
	struct fid_pep *pep;
};

/* Ends the program with "what: cause" when ret (0 or a negative fi_errno) is not 0. */
void peer_must(const char *what, long ret);

/* Undoes the signal handlers that libfabric's providers install when they are loaded. */
void peer_default_signals(void);

uint64_t peer_now_ns(void);

/* Target: listens on an ephemeral port of 127.0.0.1 and returns it. */
uint16_t peer_listen(struct peer_listener *listener);

/* Target: no further initiator; the connections stay. */
void peer_unlisten(struct peer_listener *listener);

/* Target: waits for one initiator. mem, when not NULL, may be read and written by it as soon as it is connected. */
void peer_accept(struct peer_listener *listener, struct peer *peer, enum peer_cq kind, void *mem, size_t len);

/* Initiator. */
void peer_connect(struct peer *peer, enum peer_cq kind, uint16_t port);
void peer_close(struct peer *peer);

/* Starts this program again with argv and returns the port it listens on. The child ends with its connections,
 * or with this process. */
uint16_t peer_start_target(const char *const argv[], int *pid);

/* Waits for the end of the target, which must be a good one. */
void peer_end_target(int pid);

/* Target: hands the port to the process that started it, and lives from then on as long as the connections. */
void peer_tell_port(uint16_t port);

/* With PEER_CQ_SOCKET: something was posted, and may have to wait for room in the socket; the other end has answered all
 * of it. Forgetting to say so is a hang, saying too little of the latter only costs time. */
static inline void peer_posted(struct peer *peer) { peer->unsent = 2; }
static inline void peer_answered(struct peer *peer) { peer->unsent = 0; }

/* Sleeps until the socket has something for us or takes what waits for it (PEER_CQ_SOCKET, the queue was just empty), or
 * also until fd, when that is not -1, can be read. True: it can. */
bool peer_sleep(struct peer *peer, int fd);

/* Up to max completions of the peer, at least one; 0 when the other end has gone. */
size_t peer_wait(struct peer *peer, struct fi_cq_msg_entry *entries, size_t max, enum peer_wait how);

#endif
