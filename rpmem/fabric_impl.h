/* What rpmem/fabric.c (library, providers), rpmem/fabric_ep.c (endpoints, connections), rpmem/fabric_io.c (data) and
 * rpmem/fabric_wait.c (sleeping) share: the only files that see libfabric. */
#ifndef RPMEMFS_RPMEM_FABRIC_IMPL_H
#define RPMEMFS_RPMEM_FABRIC_IMPL_H

#include <dirent.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>
#include "fabric.h"

struct fab {
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_eq *eq;   /* of the passive endpoint */
	struct fid_pep *pep; /* NULL: not listening */
	uint16_t port;       /* listening */
	DIR *fds;            /* listening: /proc/self/fd, open already when no descriptor is left; NULL: not to be had */
	char provider[16];
	bool mr_local, virt_addr, prov_key;
	bool own_wait;       /* endpoints may sleep on their sockets, not on wait objects of the provider */
	size_t iov_max, inject_max, msg_max;
};

/* Contexts of posted operations; the completion queue hands their addresses back. */
enum fab_ctx_kind { CTX_RECV, CTX_SEND, CTX_WRITE, CTX_READ };
struct fab_ctx {
	enum fab_ctx_kind kind;
	unsigned slot;
};

/* One-sided operations complete in the order of their class, so rings hold them. A write without its own completion is
 * confirmed by the next one that has it. */
#define FAB_OPS_MAX 64u /* of each class */
struct fab_op {
	struct fab_ctx ctx; /* slot: index in the ring */
	size_t len, stage;  /* bytes; bytes of the staging ring, padding included */
	void *dst, *staged; /* read */
	uint64_t tag;
};
struct fab_ring {
	struct fab_op ops[FAB_OPS_MAX];
	unsigned first, count;
	size_t bytes;        /* under way */
	size_t head, used;   /* staging ring */
	char *stage;         /* FAB_RMA_FLIGHT_BYTES_MAX, only with mr_local */
	struct fid_mr *mr;
	void *desc;
	size_t quiet_bytes;  /* writes: posted since the last one with a completion */
	unsigned quiet_count;
};

/* tcp of libfabric 1.x wakes a sleeper for each posting of receives, with a write and a read, whether anybody sleeps or not:
 * so there are some more than promised, and these wait until they are posted together. */
#define FAB_RX_SPARE 8u

struct fab_slots {
	char *mem;
	size_t bytes;
	unsigned count;
	struct fab_ctx *ctx;
	struct fid_mr *mr;
	void *desc;
};

struct fab_ep {
	struct fab *fab;
	struct fid_domain *domain;
	struct fid_eq *eq;
	struct fid_cq *cq;
	struct fid_ep *ep;
	struct fid_mr *pool_mr;
	struct fab_slots rx, tx;
	unsigned idle[FAB_RX_SPARE + 1], idle_count, spare; /* receives not posted, and how many may wait so */
	struct fab_ring writes, reads;
	struct fab_event *late; /* completions met while posting: a ring that holds all that can be under way */
	unsigned late_first, late_count, late_max;
	bool commit;         /* writes ask for FI_COMMIT_COMPLETE */
	unsigned timeout_ms;
	unsigned empty_polls;
	bool own_wait;       /* sleeps on its socket */
	int sock, wait_fd;   /* of tcp; own_wait: an epoll set with the socket. -1: none */
	bool unsent;         /* own_wait: something was posted and may not be in the socket yet */
	bool armed;          /* own_wait: wait_fd also wakes when the socket takes more */
	uint64_t moved;      /* bytes in and out when fab_moved was asked */
	int err; /* why the connection ended */
	bool enabled;        /* ep has its queues: without them tcp's fi_shutdown crashes */
	bool connected;
	bool down; /* shut down: atomic */
	size_t reply_len;
	uint8_t reply[64];
};

/* Of an endpoint just connected: finds its socket, closes it to children, gives it the time limit. */
int fab_wait_init(struct fab_ep *ep);
void fab_wait_fini(struct fab_ep *ep);
void fab_event_of(struct fab_ep *ep, const struct fi_cq_data_entry *entry, struct fab_event *event);
int fab_cq_error(struct fab_ep *ep);
int fab_cq_read(struct fab_ep *ep, struct fab_event *events, unsigned max); /* count, 0, or why the connection ended */
void fab_late_put(struct fab_ep *ep, const struct fab_event *event);
int fab_ep_failed(struct fab_ep *ep, int err);

int fab_errno(ssize_t ret);               /* negative errno of a libfabric return value */
const char *fab_strerror(int fi_err);
void fab_freeinfo(struct fi_info *info);
int fab_eq_open(struct fab *fab, struct fid_eq **eq);
int fab_eq_check(struct fab_ep *ep, int timeout_ms); /* 0, or why the connection ended; sets connected */

#endif
