/* One connected libfabric endpoint (provider tcp, FI_EP_MSG) for the programs that stand beside the file system as its
 * limit. They share no code with it on purpose. A failure ends the program with a message: a benchmark that lost its
 * peer has no figure to give. */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

#include <stddef.h>
#include <stdint.h>
#include <rdma/fabric.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>

#define PEER_KEY 0x6b617075u /* key of a target's region; remote addresses are offsets into it */
#define PEER_YIELD_US 100u   /* a yielding target polls this long behind the last completion, then sleeps */

enum peer_wait { PEER_BLOCK, PEER_YIELD };

struct peer {
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_eq *eq;
	struct fid_domain *domain;
	struct fid_cq *cq;
	struct fid_mr *mr; /* the target's region, NULL without one */
	struct fid_ep *ep;
	uint64_t last_ns; /* of the last completion, kept by peer_wait */
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
void peer_accept(struct peer_listener *listener, struct peer *peer, void *mem, size_t len);

/* Initiator. */
void peer_connect(struct peer *peer, uint16_t port);
void peer_close(struct peer *peer);

/* Starts this program again with argv and returns the port it listens on. The child ends with its connections,
 * or with this process. */
uint16_t peer_start_target(const char *const argv[], int *pid);

/* Waits for the end of the target, which must be a good one. */
void peer_end_target(int pid);

/* Target: hands the port to the process that started it, and lives from then on as long as the connections. */
void peer_tell_port(uint16_t port);

/* Up to max completions of the peer, at least one; 0 when the other end has gone. */
size_t peer_wait(struct peer *peer, struct fi_cq_msg_entry *entries, size_t max, enum peer_wait how);

#endif
