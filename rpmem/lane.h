/* One lane of the initiator: a queue of operations, posted in order over one fabric endpoint, and their answers.
 *
 *   lane_connect -> lane_push, lane_commit ... (queue) -- lane_poll posts and completes --> ... lane_delete
 *
 * Belongs to one thread at a time and takes no lock. Calls that queue never wait: lane_full says when they would fail. Any
 * error of lane_poll means that the lane is dead. */
#ifndef RPMEMFS_RPMEM_LANE_H
#define RPMEMFS_RPMEM_LANE_H

#include <stdbool.h>
#include <stdint.h>
#include "channel.h"
#include "fabric.h"
#include "repl.h"
#include "wire.h"

#define LANE_OPS_MAX 128u       /* queued and unanswered operations */
#define LANE_OP_RANGES_MAX (1u << 20)
#define LANE_PING_SHARE 4u      /* an idle lane is asked every notice_ms / this ... */
#define LANE_PING_NS_MAX 3000000000ull /* ... and not less often: targets end a session that is silent (15 s by default) */

struct lane_cfg {
	unsigned index;
	const struct ctl_session *session;
	uint32_t notice_ms;
	unsigned window;               /* messages that may be unanswered; 0: as many as the session has slots */
};

/* What answers have told so far. */
struct lane_news {
	uint64_t acked;                /* newest commit answered with success */
	bool answered;                 /* once at least: until then the next line says nothing */
	uint64_t tail_seq, ring_free;
	uint64_t rx_bytes, rx_msgs;
	uint64_t round_trips, bytes_sent;
	int first_err;                 /* of a read or write that the target refused; cleared by lane_settled */
};

struct lane;

int lane_connect(struct fab *fab, const struct lane_cfg *cfg, const struct deadline *deadline, struct lane **out);
void lane_delete(struct lane *lane); /* NULL is allowed */

/* Posts what can be posted, takes what has come, PINGs, checks deadlines. 0, or why the lane is dead: -ETIMEDOUT: the target
 * has not answered for notice_ms; -ECONNRESET; a refused commit: the errno of its status. */
int lane_poll(struct lane *lane);
/* The target is busy for us elsewhere: what it has not answered until now does not count as silence. */
void lane_excuse(struct lane *lane);
/* Sleeps until something may have come, at most timeout_ms. */
int lane_wait(struct lane *lane, int timeout_ms);
const struct lane_news *lane_news(const struct lane *lane);
struct fab_ep *lane_ep(struct lane *lane);

bool lane_full(const struct lane *lane);   /* no operation may be queued now */
unsigned lane_ops(const struct lane *lane); /* operations that are queued or unanswered */
/* WIRE_METHOD_COMMIT: pushed bytes are on their way to persistence. */
bool lane_committing(const struct lane *lane);
int lane_settled(struct lane *lane);       /* first_err, which it clears */

/* Each queues one operation; -ENOMEM only. Memory named by the arguments stays as repl.h says. */
int lane_push(struct lane *lane, const struct repl_range *ranges, unsigned count);
int lane_commit(struct lane *lane, const struct repl_commit *commit);
int lane_write(struct lane *lane, const struct repl_range *ranges, unsigned count, bool deep);
int lane_checkpoint(struct lane *lane, uint64_t upto);
int lane_read(struct lane *lane, uint64_t off, void *dst, uint32_t len);

#endif
