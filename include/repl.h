/* Replication as the file system sees it: links to replicas, and groups of them. The file system's only way to reach
 * another copy. rpmem/ implements it over control channel and fabric; tests implement it in process.
 *
 * A link:   CONNECTING --handshake done--> UP --error, deadline, close--> DOWN
 * connecting runs on a thread of the implementation; everything else is called by one thread, the owner, and only
 * repl_poll moves state. A DOWN link stays down; a new one is made to try again. */
#ifndef RPMEMFS_REPL_H
#define RPMEMFS_REPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "copy.h"
#include "poolset.h"

enum repl_state { REPL_CONNECTING, REPL_UP, REPL_DOWN };

/* What the handshake learned; valid while UP. */
struct repl_peer {
	char provider[16];          /* "tcp", "verbs" */
	uint32_t method;            /* enum wire_method */
	uint32_t domain;            /* enum pm_domain */
	bool same_machine;          /* @local */
	bool rma;                   /* one-sided writes possible; else push is refused with -EOPNOTSUPP */
	uint64_t pool_size;
	bool formatted;             /* tail, head, page and the rest below are valid */
	struct copy_point tail, head;
	struct copy_page page;
	uint64_t blk_count, ring_bytes, used_blks;
	uint8_t content_uuid[16];
};

struct repl_counters {
	uint64_t commits, round_trips, bytes_sent;   /* as counted here; a round trip is a request and its answer; upkeep not (lane_op_is_upkeep) */
	uint64_t peer_rx_bytes, peer_rx_msgs;        /* as reported by the target in its newest answer */
};

struct repl_range {
	uint64_t off;    /* pool bytes */
	uint32_t len;
	const void *src; /* bytes to send inline, stable until the commit is answered; NULL: pushed before */
};

struct repl_commit {
	uint64_t seq;            /* of the record */
	uint64_t settled;        /* up to here every attached copy has answered */
	const void *rec;         /* stable until answered */
	uint32_t rec_len;
	const struct repl_range *ranges; /* copied by the call */
	unsigned range_count;
};

struct repl_link;
struct repl_link_ops {
	/* Progress and state. Cheap when nothing happens. After it the fields of repl_link below are up to date. */
	enum repl_state (*poll)(struct repl_link *link);
	/* Descriptors to wait on while idle; returns how many (<= 2). may_block: false when events may already be pending. */
	unsigned (*fds)(struct repl_link *link, int fds[2]);
	bool (*may_block)(struct repl_link *link);
	/* Starts one-sided writes, unflushed; src must stay unchanged until a later commit is answered. */
	int (*push)(struct repl_link *link, const struct repl_range *ranges, unsigned count);
	/* Posts a commit; answered when acked >= seq. Several may be outstanding (catching up), in order. */
	int (*commit)(struct repl_link *link, const struct repl_commit *commit);
	/* Asks the target to checkpoint up to seq; its answer moves tail_seq. */
	int (*checkpoint)(struct repl_link *link, uint64_t upto);
	/* Starts a read of len bytes into dst on one of the link's lanes; reads may be outstanding in any number (bounded
	 * inside: then it blocks, at most the link's deadline). done counts completed reads. */
	int (*read)(struct repl_link *link, uint64_t off, void *dst, uint32_t len);
	/* Writes ranges durably outside any commit (resync; the copy must be inconsistent). Asynchronous like read. */
	int (*write)(struct repl_link *link, const struct repl_range *ranges, unsigned count);
	/* Waits for every outstanding read and write. 0, or the first failure. Blocks at most the link's deadline after the
	 * last progress. */
	int (*settle)(struct repl_link *link);
	/* As settle, but for those that were started before the newest `young` ones; reads and writes only are outstanding. */
	int (*settle_old)(struct repl_link *link, unsigned young);
	/* One control request, blocking at most the link's deadline; those that change the copy, connect_ms. */
	int (*chain)(struct repl_link *link, uint64_t seq, struct copy_point *point);
	int (*format)(struct repl_link *link, const struct copy_format *fmt);
	int (*fence)(struct repl_link *link, uint64_t expected, uint64_t epoch, const uint8_t id[16]);
	int (*page)(struct repl_link *link, const struct copy_page *page);
	int (*checkpoint_all)(struct repl_link *link);
	int (*reset)(struct repl_link *link, const struct copy_point *at, uint64_t used_blks);
	int (*refresh)(struct repl_link *link); /* STATUS again: peer is up to date */
	/* Ends the session in order (CLOSE) and frees the link. Blocks at most the deadline, and not at all when DOWN. */
	void (*close)(struct repl_link *link);
	/* Ends the session without a word and frees the link; waits for no answer. The target sees the channel end. */
	void (*drop)(struct repl_link *link);
};

struct repl_link {
	const struct repl_link_ops *ops;
	char name[POOLSET_NAME_BYTES_MAX];
	char target[300];            /* for humans: "user@host:port set" or "same machine" */
	enum repl_state state;
	int err;                     /* DOWN: negative errno ... */
	char err_text[256];          /* ... and why */
	struct repl_peer peer;
	uint64_t acked;              /* newest commit sequence durable there */
	uint64_t tail_seq, ring_free;/* from its newest answer */
	struct repl_counters count;
};

struct repl_cfg {
	const char *provider;        /* NULL: FI_PROVIDER or "tcp" */
	const char *command;         /* rpmemd command; NULL: RPMEM_CMD or "rpmemd" */
	uint32_t lanes;              /* 1 for a mount, more for restore */
	uint32_t notice_ms;          /* a dead, stopped or cut-off peer is DOWN after this; default 5000 */
	uint32_t connect_ms;         /* the whole handshake; default 30000 */
	unsigned open_flags;         /* enum ctl_open_flags, CTL_OPEN_FS is added */
	bool create;                 /* CREATE instead of OPEN */
	struct pool_attr const *attr;/* create */
	uint64_t pool_size;          /* bytes needed, 0: any */
	uint64_t epoch;              /* newest of the local copy: one fenced above it gives -ESTALE (wire.h: ctl_open) */
	bool spin;                   /* polling with sched_yield while an answer is expected, else blocking */
};
#define REPL_NOTICE_MS_DEFAULT 5000u
#define REPL_CONNECT_MS_DEFAULT 30000u
#define REPL_RESTORE_LANES 4u

struct pool_attr;

/* Starts connecting to a remote replica of a poolset. *out is CONNECTING. cfg and replica are copied. -ENOMEM, -EAGAIN
 * (no thread). Everything else shows as DOWN with err and err_text: name of the target, the failing step, the remedy. */
int repl_link_open(const struct poolset_replica *replica, const struct repl_cfg *cfg, struct repl_link **out);

/* Polls until the link is UP or DOWN. 0 or link->err. */
int repl_link_wait(struct repl_link *link);
/* Polls all of them (NULL is allowed) until none is CONNECTING. Who waits for one after the other lets those that are UP
 * fall silent, and their targets end such a session. */
void repl_links_wait(struct repl_link *const links[], unsigned count);

#endif
