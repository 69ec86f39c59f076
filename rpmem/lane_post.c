/* The sending half of a lane: operations become messages and one-sided transfers, strictly in the order they were queued.
 *
 * A commit that fits one message is one fi_send out of a slot of ours; a larger one becomes a train, cut at cache lines. Order
 * is all that ties pushes to the commit behind them: the target handles a message after everything posted before it has
 * arrived. So nothing overtakes: an operation that has to wait for window or room holds the ones behind it.
 *
 * A write of many messages is a train, too, where the session has them: most of it is silent, so that the way back costs one
 * answer, and the window moves by those that are not. Its large ranges are not copied but sent out of the caller's memory, and
 * not sealed: a store of another thread between sealing and sending would make the message a wrong one. As much payload of
 * small ranges is not sealed either: the two checksums would be a tenth of its way.
 *
 * An operation leaves the queue when it needs nothing of ours any more: a push when it is posted (its source stays in use
 * until a later answer), the others when they are answered. Its range array stays for the next one, so that in the long
 * run nothing is allocated. */
#include "lane_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "codec.h"
#include "errmsg.h"

#define BARE_BYTES_MIN (16u << 10) /* of what is left of a range, less is copied; of a message, less is sealed */
#define BARE_PIECE_BYTES (64u << 10)
#define ROOM_BYTES_MIN (64u << 10) /* one-sided pieces are not cut smaller just to fill the last room */

/* ---------------------------------------------------------------- messages */
static bool window_open(const struct lane *lane)
{
	return lane->seq - lane->seq_acked < lane->window;
}

struct bare {
	const uint8_t *src;
	uint32_t len; /* 0: none */
};

/* Sends the message of len bytes built in the slot that message_begin chose, and the bare bytes behind it. */
static int message_send(struct lane *lane, struct lane_req_msg *req, size_t len, struct bare bare, struct lane_sent sent,
			uint64_t now)
{
	uint64_t seq = lane->seq + 1;
	int err;

	req->magic = le32_put(LANE_MAGIC);
	req->op = le16_put(sent.op);
	req->seq = le64_put(seq);
	lane_req_seal(req, len);
	err = bare.len ? fab_send_more(lane->ep, lane->slot, len, bare.src, bare.len) :
			 fab_send(lane->ep, lane->slot, len, false);
	if (err)
		return err;
	lane->seq = seq;
	lane->silent = sent.silent ? lane->silent + 1 : 0;
	lane->post_ns = sent.posted_ns = now;
	lane->sent[seq % lane->window] = sent;
	if (!lane_op_is_upkeep(sent.op))
		lane->news.bytes_sent += len + bare.len;
	return 0;
}

/* All slots together are larger than a processor's cache: with nothing unanswered it is the first one again. */
static struct lane_req_msg *message_begin(struct lane *lane)
{
	struct lane_req_msg *req;

	assert(window_open(lane));
	lane->slot = lane->seq == lane->seq_acked ? 0 : (lane->slot + 1) % lane->window;
	req = fab_tx(lane->ep, lane->slot);
	memset(req, 0, sizeof(*req));
	return req;
}

int lane_ping(struct lane *lane, uint64_t now)
{
	return message_send(lane, message_begin(lane), sizeof(struct lane_req_msg), (struct bare){ 0 },
			    (struct lane_sent){ .op = LANE_PING }, now);
}

/* How much of a range fits into space bytes: all, or a piece that ends at a cache line of the pool. */
static uint32_t piece_len(uint64_t off, uint32_t left, uint32_t space)
{
	uint64_t end;

	if (left <= space)
		return left;
	end = (off + space) & ~(uint64_t)63;
	return end > off ? (uint32_t)(end - off) : 0;
}

/* Whether what is left of the range at the cursor goes out of its own memory. */
static bool bare_next(const struct lane *lane, const struct lane_op_queued *op)
{
	const struct repl_range *range = &op->ranges[op->range_idx];

	return lane->bare && op->op == LANE_WRITE && op->range_idx < op->range_count && range->src &&
	       range->len - op->range_off >= BARE_BYTES_MIN;
}

static void cursor_move(struct lane_op_queued *op, uint32_t len)
{
	op->range_off += len;
	if (op->range_off < op->ranges[op->range_idx].len)
		return;
	op->range_idx++;
	op->range_off = 0;
}

/* The piece at the cursor as the only range of a message. */
static struct bare message_bare(struct lane_op_queued *op, struct lane_req_msg *req, uint32_t space)
{
	const struct repl_range *range = &op->ranges[op->range_idx];
	struct lane_range_msg *head = (struct lane_range_msg *)(req + 1);
	uint64_t off = range->off + op->range_off;
	struct bare bare = { (const uint8_t *)range->src + op->range_off, 0 };

	space -= (uint32_t)sizeof(*head);
	bare.len = piece_len(off, range->len - op->range_off, space < BARE_PIECE_BYTES ? space : BARE_PIECE_BYTES);
	*head = (struct lane_range_msg){ le64_put(off), le32_put(bare.len), le32_put(LANE_RANGE_INLINE) };
	req->range_count = le32_put(1);
	req->inline_bytes = le32_put(bare.len);
	cursor_move(op, bare.len);
	return bare;
}

/* Takes ranges from the operation's cursor on, as many as fit: their headers at once, their payload behind the headers.
 * Returns the bytes of both. */
static uint32_t message_ranges(const struct lane *lane, struct lane_op_queued *op, struct lane_req_msg *req, uint32_t space)
{
	struct lane_range_msg *heads = (struct lane_range_msg *)(req + 1);
	struct { const uint8_t *src; uint32_t len; } pieces[LANE_RANGES_MAX];
	uint32_t inline_bytes = 0, count = 0;
	uint8_t *payload;

	while (op->range_idx < op->range_count && count < LANE_RANGES_MAX && space > sizeof(*heads) && !bare_next(lane, op)) {
		const struct repl_range *range = &op->ranges[op->range_idx];
		uint64_t off = range->off + op->range_off;
		uint32_t left = range->len - op->range_off, len = left;

		if (range->src)
			len = piece_len(off, left, space - (uint32_t)sizeof(*heads));
		if (!len)
			break;
		heads[count] = (struct lane_range_msg){
			.off = le64_put(off),
			.len = le32_put(len),
			.flags = le32_put(range->src ? LANE_RANGE_INLINE : 0),
		};
		pieces[count].src = range->src ? (const uint8_t *)range->src + op->range_off : NULL;
		pieces[count].len = len;
		count++;
		space -= (uint32_t)sizeof(*heads) + (range->src ? len : 0);
		inline_bytes += range->src ? len : 0;
		cursor_move(op, len);
		if (len < left)
			break;
	}
	payload = (uint8_t *)(heads + count);
	for (uint32_t i = 0; i < count; i++) {
		if (!pieces[i].src)
			continue;
		memcpy(payload, pieces[i].src, pieces[i].len);
		payload += pieces[i].len;
	}
	req->range_count = le32_put(count);
	req->inline_bytes = le32_put(inline_bytes);
	return count * (uint32_t)sizeof(*heads) + inline_bytes;
}

/* The next piece of the record, once all ranges are on their way. */
static uint32_t message_record(struct lane_op_queued *op, struct lane_req_msg *req, uint32_t used, uint32_t space)
{
	uint32_t left = op->rec_len - op->rec_off, len = left < space ? left : space;

	req->rec_len = le32_put(op->rec_len);
	req->rec_off = le32_put(op->rec_off);
	if (op->range_idx < op->range_count)
		return 0;
	memcpy((uint8_t *)(req + 1) + used, op->rec + op->rec_off, len);
	req->rec_bytes = le32_put(len);
	op->rec_off += len;
	return len;
}

/* One message of COMMIT, WRITE, DEEP or CHECKPOINT. */
static int post_message(struct lane *lane, struct lane_op_queued *op, uint64_t now)
{
	struct lane_req_msg *req = message_begin(lane);
	uint32_t space = lane->msg_max - (uint32_t)sizeof(*req), used;
	struct lane_sent sent = { .op = op->op, .arg = op->arg };
	struct bare bare = { 0 };
	int err;

	if (bare_next(lane, op)) {
		bare = message_bare(op, req, space);
		used = sizeof(struct lane_range_msg);
	} else {
		used = message_ranges(lane, op, req, space);
	}
	if (op->kind == KIND_COMMIT)
		used += message_record(op, req, used, space - used);
	if (bare.len || (lane->bare && op->op == LANE_WRITE && le32_get(req->inline_bytes) >= BARE_BYTES_MIN))
		req->flags = le16_put(LANE_BARE);
	op->posted = op->range_idx == op->range_count && op->rec_off == op->rec_len;
	sent.last = op->posted;
	sent.silent = op->op == LANE_WRITE && !op->posted && lane->silent < lane->silent_max;
	if (sent.silent || (op->kind == KIND_COMMIT && !op->posted))
		req->flags = le16_put(le16_get(req->flags) | LANE_MORE);
	req->arg = le64_put(op->arg);
	req->tail = le64_put(op->tail);
	err = message_send(lane, req, sizeof(*req) + used, bare, sent, now);
	op->last_seq = lane->seq;
	return err;
}

/* A read of one message, for targets whose memory is not registered. */
static int post_read_message(struct lane *lane, struct lane_op_queued *op, uint64_t now)
{
	struct lane_req_msg *req = message_begin(lane);
	struct lane_range_msg *head = (struct lane_range_msg *)(req + 1);
	uint32_t left = op->ranges->len - op->range_off, most = lane->msg_max - (uint32_t)sizeof(struct lane_ack_msg);
	struct lane_sent sent = { .op = LANE_READ, .dst = op->dst + op->range_off, .len = left < most ? left : most };
	int err;

	sent.op_idx = (unsigned)(op - lane->ops);
	*head = (struct lane_range_msg){ .off = le64_put(op->ranges->off + op->range_off), .len = le32_put(sent.len) };
	req->range_count = le32_put(1);
	err = message_send(lane, req, sizeof(*req) + sizeof(*head), (struct bare){ 0 }, sent, now);
	op->range_off += sent.len;
	op->posted = op->range_off == op->ranges->len;
	op->last_seq = lane->seq;
	return err;
}

/* ---------------------------------------------------------------- one-sided */
static uint32_t chunk_len(uint32_t left, size_t room)
{
	uint32_t want = left < FAB_RMA_CHUNK_BYTES_MAX ? left : FAB_RMA_CHUNK_BYTES_MAX;

	if (want <= room)
		return want;
	return room >= ROOM_BYTES_MIN ? (uint32_t)room : 0;
}

/* Up to FAB_SEGS_MAX segments in one post. False: no room. */
static bool post_push(struct lane *lane, struct lane_op_queued *op, uint64_t now, int *err)
{
	struct fab_seg segs[FAB_SEGS_MAX];
	size_t room = fab_write_room(lane->ep);
	unsigned count = 0;

	while (count < FAB_SEGS_MAX && op->range_idx < op->range_count) {
		const struct repl_range *range = &op->ranges[op->range_idx];
		uint32_t len = chunk_len(range->len - op->range_off, room);

		if (!len)
			break;
		segs[count++] = (struct fab_seg){ lane->raddr + range->off + op->range_off,
						  (uint8_t *)(uintptr_t)range->src + op->range_off, len };
		room -= len;
		lane->news.bytes_sent += len;
		op->range_off += len;
		if (op->range_off == range->len) {
			op->range_idx++;
			op->range_off = 0;
		}
	}
	op->posted = op->range_idx == op->range_count;
	lane->push_seq = lane->seq + 1;
	lane->push_ns = now;
	*err = count ? fab_write(lane->ep, lane->rkey, segs, count) : 0;
	return count;
}

static bool post_read(struct lane *lane, struct lane_op_queued *op, uint64_t now, int *err)
{
	uint32_t len = chunk_len(op->ranges->len - op->range_off, fab_read_room(lane->ep));
	struct fab_seg seg = { lane->raddr + op->ranges->off + op->range_off, op->dst + op->range_off, len };

	*err = 0;
	if (!len)
		return false;
	*err = fab_read(lane->ep, lane->rkey, &seg, (uint64_t)(op - lane->ops));
	lane->reading++;
	lane->read_ns = now;
	op->range_off += len;
	op->posted = op->range_off == op->ranges->len;
	return true;
}

/* ---------------------------------------------------------------- the queue */
/* Posts one step of an operation. False: it has to wait. */
static bool post_step(struct lane *lane, struct lane_op_queued *op, uint64_t now, int *err)
{
	if (op->kind == KIND_PUSH)
		return post_push(lane, op, now, err);
	if (op->kind == KIND_READ && lane->rma)
		return post_read(lane, op, now, err);
	*err = 0;
	if (!window_open(lane))
		return false;
	*err = op->kind == KIND_READ ? post_read_message(lane, op, now) : post_message(lane, op, now);
	return true;
}

static bool op_done(const struct lane *lane, const struct lane_op_queued *op)
{
	if (!op->posted)
		return false;
	if (op->kind == KIND_READ)
		return !op->unread;
	return op->kind == KIND_PUSH || lane->seq_acked >= op->last_seq;
}

int lane_pump(struct lane *lane, uint64_t now)
{
	int err;

	while (lane->op_next < lane->op_count) {
		struct lane_op_queued *op = lane_op_at(lane, lane->op_next);

		while (!op->posted) {
			if (!post_step(lane, op, now, &err))
				break;
			if (err)
				return err;
		}
		if (!op->posted)
			break;
		lane->op_next++;
	}
	while (lane->op_next && op_done(lane, lane_op_at(lane, 0))) {
		lane->op_first = (lane->op_first + 1) % LANE_OPS_MAX;
		lane->op_next--;
		lane->op_count--;
	}
	return 0;
}

/* A fresh operation at the end of the queue with a copy of the ranges that are not empty. */
static int op_new(struct lane *lane, enum lane_kind kind, uint16_t wire_op, const struct repl_range *ranges,
		  unsigned count, struct lane_op_queued **out)
{
	struct lane_op_queued *op = lane_op_at(lane, lane->op_count);
	struct repl_range *kept = op->ranges;
	unsigned max = op->range_max;

	assert(!lane_full(lane));
	if (count > max) {
		kept = realloc(kept, count * sizeof(*kept));
		if (!kept)
			return -ENOMEM;
		max = count;
	}
	*op = (struct lane_op_queued){ .kind = kind, .op = wire_op, .ranges = kept, .range_max = max };
	for (unsigned i = 0; i < count; i++)
		if (ranges[i].len)
			op->ranges[op->range_count++] = ranges[i];
	*out = op;
	return 0;
}

/* Puts the operation at work at once, behind pushes that were left to the next poll. */
static int op_queue(struct lane *lane)
{
	lane->op_count++;
	return lane_pump(lane, channel_now_ns());
}

int lane_push(struct lane *lane, const struct repl_range *ranges, unsigned count)
{
	struct lane_op_queued *op;
	int err = op_new(lane, KIND_PUSH, 0, ranges, count, &op);

	/* posted by the next poll: who writes is answered before its bytes go to the network */
	if (!err && op->range_count)
		lane->op_count++;
	return err;
}

int lane_commit(struct lane *lane, const struct repl_commit *commit)
{
	struct lane_op_queued *op;
	int err = op_new(lane, KIND_COMMIT, LANE_COMMIT, commit->ranges, commit->range_count, &op);

	if (err)
		return err;
	op->arg = commit->seq;
	op->tail = commit->settled;
	op->rec = commit->rec;
	op->rec_len = commit->rec_len;
	return op_queue(lane);
}

int lane_write(struct lane *lane, const struct repl_range *ranges, unsigned count, bool deep)
{
	struct lane_op_queued *op;
	int err = op_new(lane, KIND_WRITE, deep ? LANE_DEEP : LANE_WRITE, ranges, count, &op);

	if (err || !op->range_count)
		return err;
	return op_queue(lane);
}

int lane_checkpoint(struct lane *lane, uint64_t upto)
{
	struct lane_op_queued *op;
	int err = op_new(lane, KIND_CHECKPOINT, LANE_CHECKPOINT, NULL, 0, &op);

	if (err)
		return err;
	op->arg = upto;
	return op_queue(lane);
}

int lane_read(struct lane *lane, uint64_t off, void *dst, uint32_t len)
{
	struct repl_range range = { .off = off, .len = len };
	struct lane_op_queued *op;
	int err = op_new(lane, KIND_READ, LANE_READ, &range, 1, &op);

	if (err || !len)
		return err;
	op->dst = dst;
	op->unread = len;
	return op_queue(lane);
}
