/* Shared by rpmem/lane.c (connecting, answers, deadlines) and rpmem/lane_post.c (queueing and posting). */
#ifndef RPMEMFS_RPMEM_LANE_IMPL_H
#define RPMEMFS_RPMEM_LANE_IMPL_H

#include "lane.h"

enum lane_kind { KIND_PUSH, KIND_COMMIT, KIND_WRITE, KIND_READ, KIND_CHECKPOINT };

/* One queued operation. The cursor says how far it has been posted. */
struct lane_op_queued {
	enum lane_kind kind;
	uint16_t op;             /* enum lane_op of its messages */
	uint64_t arg, tail;
	const uint8_t *rec;
	uint32_t rec_len;
	struct repl_range *ranges;
	unsigned range_count, range_max;
	unsigned range_idx;      /* cursor: range, bytes of it, bytes of the record */
	uint32_t range_off, rec_off;
	uint64_t last_seq;       /* of its newest message */
	uint8_t *dst;            /* READ */
	uint32_t unread;         /* READ: bytes not yet there */
	bool posted;             /* completely */
};

/* An unanswered message; the ring is indexed by sequence number. */
struct lane_sent {
	uint64_t posted_ns;
	uint16_t op;
	bool last;               /* COMMIT: the record is complete with it */
	bool silent;             /* a later answer is for it as well */
	uint64_t arg;
	unsigned op_idx;         /* READ */
	uint8_t *dst;
	uint32_t len;
};

struct lane {
	struct fab_ep *ep;
	unsigned index, window;  /* messages that may be unanswered, and slots */
	uint32_t msg_max;
	bool rma, commit;
	unsigned silent_max;     /* messages of a train of writes between two answers; 0: the session has no trains */
	unsigned silent;         /* such messages since the newest one that will be answered */
	bool bare;               /* large ranges go out of their own memory, unsealed */
	uint64_t raddr, rkey;
	uint64_t notice_ns;
	uint64_t polled_ns;      /* newest lane_poll */
	uint64_t seq, seq_acked; /* newest message posted, answered */
	unsigned slot;           /* of the newest message */
	uint64_t post_ns;        /* newest message */
	uint64_t heard_ns;       /* newest answer, or bytes of a read */
	uint64_t looked_ns;      /* newest look at the bytes on their way, and ... */
	uint64_t looked_heard_ns; /* ... heard_ns then */
	uint64_t moved;          /* bytes that had moved then */
	uint64_t moved_max;      /* from there on others move than those the peer has to take before it can answer */
	uint64_t moved_ns;       /* bytes moved after it: the look before the one that saw it */
	uint64_t read_ns;        /* newest one-sided read posted */
	uint32_t reading;        /* one-sided reads under way */
	uint64_t push_ns;        /* newest one-sided write posted */
	uint64_t push_seq;       /* the answer that proves that the newest push has arrived */
	struct lane_news news;
	unsigned op_first, op_next, op_count; /* ring: oldest, first not completely posted (offset from oldest), number */
	struct lane_op_queued ops[LANE_OPS_MAX];
	struct lane_sent sent[LANE_RX_SLOTS];
};

static inline struct lane_op_queued *lane_op_at(struct lane *lane, unsigned offset)
{
	return &lane->ops[(lane->op_first + offset) % LANE_OPS_MAX];
}

/* Posts queued operations as far as window and room allow, and drops those that are complete. */
int lane_pump(struct lane *lane, uint64_t now);
/* One PING; there is room in the window. */
int lane_ping(struct lane *lane, uint64_t now);

#endif
