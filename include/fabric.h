/* Connections over libfabric, the same for both ends and for the providers "tcp" and "verbs": the only interface behind
 * which libfabric exists. The library is loaded when first needed, not linked.
 *
 *   target:     fab_listen -> fab_ep_new, fab_ep_expose (per lane) -> fab_next -> fab_ep_accept | fab_reject
 *   initiator:  fab_dial   -> fab_ep_new                           -> fab_ep_connect
 *   both:       post ... fab_poll, fab_wait ... fab_ep_shutdown -> fab_ep_delete -> fab_close
 *
 * An endpoint has its own domain, completion queue, event queue and slots, and belongs to one thread at a time; only
 * fab_ep_shutdown may come from another one. No call waits longer than it says: nothing in libfabric ends by itself.
 * Errors are negative errnos with errmsg set; -ECONNRESET and others from fab_poll and fab_wait mean that the connection is
 * gone for good. */
#ifndef RPMEMFS_FABRIC_H
#define RPMEMFS_FABRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fab;
struct fab_ep;

#define FAB_INJECT_BYTES_MAX 128u           /* what every provider can send without a slot: tcp 128, verbs more */
#define FAB_CM_BYTES_MAX 55u                /* private data of connect and accept: verbs */
#define FAB_RMA_FLIGHT_BYTES_MAX (2u << 20) /* one-sided bytes under way; more is slower (measured) */
#define FAB_RMA_CHUNK_BYTES_MAX (1u << 20)  /* of one segment */
#define FAB_SEGS_MAX 4u                     /* segments of one fab_write */
#define FAB_EVENTS_MAX 16u

/* Sets the variables libfabric looks at while it is loaded, where the user has not: call it while few threads exist.
 * fab_load does it as well. */
void fab_prepare_env(void);

/* Loads the library, half a second the first time; the signal handlers it installs are removed again. Any thread.
 * -ENOMEDIUM: it cannot be loaded. */
int fab_load(void);

/* Listens on a numeric address (NULL: any IPv4) and an ephemeral port. -ENOMEDIUM: no such provider here. -EADDRNOTAVAIL:
 * the address is not local, or the provider would use another one. */
int fab_listen(const char *provider, const char *address, struct fab **out, uint16_t *port);
/* Looks the way to a listening target up; connects nothing. -ENOMEDIUM as above, or the host is unknown. */
int fab_dial(const char *provider, const char *host, uint16_t port, struct fab **out);
/* When more than planned descriptors are open in this process: ends connections to the listening port of which nothing has
 * come for silent_ms and that never became an endpoint's. Who calls fab_next calls it now and then; tcp only. */
void fab_strangers_end(struct fab *fab, unsigned planned, unsigned silent_ms);
/* Ends listening; established connections live on. */
void fab_unlisten(struct fab *fab);
/* All its endpoints are deleted before. NULL is allowed. */
void fab_close(struct fab *fab);

struct fab_ep_cfg {
	unsigned rx_count, tx_count; /* receives that are always posted; slots to send from */
	size_t rx_bytes, tx_bytes;   /* of one slot */
	bool rma;                    /* this end starts one-sided operations */
	bool commit;                 /* each of its writes completes when it is persistent there (FI_COMMIT_COMPLETE) */
	unsigned timeout_ms;         /* tcp: unacknowledged bytes for so long end the connection; 0: the system's default */
	bool provider_wait;          /* sleeps on wait objects of the provider, also where the socket would do (fabric_wait.c) */
};

/* Domain, queues and slots; not connected. -ENOMEM: memory, or its registration is limited (ulimit -l). */
int fab_ep_new(struct fab *fab, const struct fab_ep_cfg *cfg, struct fab_ep **out);
/* Lets the peer read, and write, len bytes at base. raddr: what the peer adds to offsets. Any error: this memory cannot be
 * registered (-EOPNOTSUPP for DAX without on-demand paging, -EFAULT for files, -ENOMEM for the lock limit). */
int fab_ep_expose(struct fab_ep *ep, void *base, uint64_t len, bool write, uint64_t *raddr, uint64_t *rkey);
void fab_ep_shutdown(struct fab_ep *ep);
/* After it no operation of the peer can touch the exposed memory. NULL is allowed. */
void fab_ep_delete(struct fab_ep *ep);

/* A connection request: answer it by fab_reject or fab_ep_accept, exactly one of them. */
struct fab_request {
	void *info;
	size_t len;
	uint8_t data[64];
};
/* -EAGAIN: none within timeout_ms. */
int fab_next(struct fab *fab, int timeout_ms, struct fab_request *req);
void fab_reject(struct fab *fab, struct fab_request *req);
/* Posts every receive slot and accepts. The connection stands when fab_ep_established says so. */
int fab_ep_accept(struct fab_ep *ep, struct fab_request *req, const void *data, size_t len);
/* Waits up to timeout_ms. 0, -EAGAIN: not yet, or the failure. */
int fab_ep_established(struct fab_ep *ep, int timeout_ms);

/* Posts every receive slot and starts connecting; fab_ep_established then tells the outcome, and fab_ep_reply the peer's
 * private data. -EACCES from it: the target refused. */
int fab_ep_connect(struct fab_ep *ep, const void *data, size_t len);
size_t fab_ep_reply(const struct fab_ep *ep, void *data, size_t len);

/* --- data ---
 * Posting never fails for lack of queue space for longer than a second; success says nothing about arrival. */
void *fab_tx(struct fab_ep *ep, unsigned slot);
/* The slot of a FAB_RECV, of which there are more than rx_count: its bytes stay until it is given back by fab_recv. */
void *fab_rx(struct fab_ep *ep, unsigned slot);
int fab_recv(struct fab_ep *ep, unsigned slot);
/* Sends len bytes of a slot. notify: FAB_SENT follows; without it the slot is free when the peer has answered. */
int fab_send(struct fab_ep *ep, unsigned slot, size_t len, bool notify);
/* As fab_send without notify, and behind the slot's bytes more_len others that stay where they are until the peer has
 * answered. Only with fab_sends_any: elsewhere memory that is sent has to be registered. */
int fab_send_more(struct fab_ep *ep, unsigned slot, size_t len, const void *more, size_t more_len);
bool fab_sends_any(const struct fab_ep *ep);
/* At most FAB_INJECT_BYTES_MAX bytes, copied by the call. */
int fab_inject(struct fab_ep *ep, const void *buf, size_t len);

struct fab_seg {
	uint64_t raddr; /* remote address: fab_ep_expose's raddr + offset */
	void *buf;      /* local bytes; stable until a later answer (write), filled when FAB_READ comes (read) */
	size_t len;     /* <= FAB_RMA_CHUNK_BYTES_MAX */
};
/* The peer has answered what was posted last, so nothing is on its way: spares the next sleep a look at the socket. */
void fab_all_arrived(struct fab_ep *ep);

/* One-sided bytes that may be posted now. */
size_t fab_write_room(const struct fab_ep *ep);
size_t fab_read_room(const struct fab_ep *ep);
/* Starts one-sided writes, at most FAB_SEGS_MAX segments and fab_write_room bytes. They arrive in order and before what is
 * sent later. */
int fab_write(struct fab_ep *ep, uint64_t rkey, const struct fab_seg *segs, unsigned count);
/* One-sided writes that are not known to be complete; with fab_ep_cfg.commit: not known to be persistent there. */
unsigned fab_writes(const struct fab_ep *ep);
/* Starts one one-sided read of at most fab_read_room bytes; FAB_READ with its tag follows. */
int fab_read(struct fab_ep *ep, uint64_t rkey, const struct fab_seg *seg, uint64_t tag);

enum fab_event_kind { FAB_RECV, FAB_SENT, FAB_READ, FAB_WRITTEN /* room has grown */ };
struct fab_event {
	enum fab_event_kind kind;
	unsigned slot; /* RECV, SENT */
	size_t len;    /* RECV, READ: bytes */
	uint64_t tag;  /* READ */
};
/* Makes progress; number of events, 0 when there are none, or why the connection ended. */
int fab_poll(struct fab_ep *ep, struct fab_event *events, unsigned max);
/* Sleeps until there may be events, at most timeout_ms. 0, or why the connection ended. */
int fab_wait(struct fab_ep *ep, int timeout_ms);
/* Whether the peer takes what is sent to it, waiting for that at most timeout_ms: false when the connection's socket stays
 * full. What is posted then is kept by the provider, in any number. Always true where there is no socket. */
bool fab_taken(const struct fab_ep *ep, int timeout_ms);
/* Whether bytes went in or out since this was asked last: who waits for a large transfer sees no event of it. tcp only, false
 * elsewhere. A system call. */
bool fab_moved(struct fab_ep *ep);
/* The same for who keeps count: *moved bytes since the connection began, sent ones when the peer's host has taken them;
 * *ahead: at most so many are still to move for all that is posted now. */
bool fab_flow(const struct fab_ep *ep, uint64_t *moved, uint64_t *ahead);
/* For an event loop: descriptors that wake for data and for the connection's events (-1: the first does both), and whether
 * one may sleep on them: only when fab_poll has just returned 0. */
void fab_fds(const struct fab_ep *ep, int *data_fd, int *eq_fd);
bool fab_may_block(struct fab_ep *ep);

#endif
