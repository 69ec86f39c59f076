/* Lane messages: laid out by their sender in place (wire.h), sealed and checked here. A request that passes
 * lane_req_check is acted on without further checks of its form; whether a copy allows it is the engine's question. */
#include "codec.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include "csum.h"

/* Which parts a request of each operation may carry. */
static const struct lane_shape {
	bool known, ranges, payload, record;
	uint16_t flags;
} lane_shapes[LANE_OP_LAST + 1] = {
	[LANE_PING] = { .known = true },
	[LANE_COMMIT] = { .known = true, .ranges = true, .payload = true, .record = true,
			  .flags = LANE_MORE },
	[LANE_WRITE] = { .known = true, .ranges = true, .payload = true, .flags = LANE_MORE | LANE_BARE },
	[LANE_READ] = { .known = true, .ranges = true },
	[LANE_CHECKPOINT] = { .known = true },
	[LANE_DEEP] = { .known = true, .ranges = true, .payload = true },
};

/* CRC32C of a message with its four checksum bytes at off taken as zero. */
static uint32_t csum_around(const uint8_t *msg, size_t len, size_t off)
{
	static const uint8_t zero[4];
	uint32_t crc = csum_crc32c(0, msg, off);

	crc = csum_crc32c(crc, zero, sizeof(zero));
	return csum_crc32c(crc, msg + off + sizeof(zero), len - off - sizeof(zero));
}

/* Bytes of the message that its checksum covers; wrong numbers are found by the checks behind it. */
static size_t sealed_len(const struct lane_req_msg *req, size_t len)
{
	uint64_t heads = sizeof(*req) + (uint64_t)le32_get(req->range_count) * sizeof(struct lane_range_msg);

	return le16_get(req->flags) & LANE_BARE && heads < len ? heads : len;
}

void lane_req_seal(void *buf, size_t len)
{
	struct lane_req_msg *req = buf;

	assert(len >= sizeof(*req));
	req->csum = le32_put(csum_around(buf, sealed_len(req, len), offsetof(struct lane_req_msg, csum)));
}

static void view_of(const struct lane_req_msg *req, struct lane_view *view)
{
	*view = (struct lane_view){
		.op = le16_get(req->op),
		.flags = le16_get(req->flags),
		.seq = le64_get(req->seq),
		.arg = le64_get(req->arg),
		.tail = le64_get(req->tail),
		.range_count = le32_get(req->range_count),
		.inline_bytes = le32_get(req->inline_bytes),
		.rec_bytes = le32_get(req->rec_bytes),
		.rec_off = le32_get(req->rec_off),
		.rec_len = le32_get(req->rec_len),
	};
}

/* Operation, flags and which parts there are. */
static bool shape_ok(const struct lane_view *v)
{
	const struct lane_shape *shape;

	if (v->op > LANE_OP_LAST || !lane_shapes[v->op].known)
		return false;
	shape = &lane_shapes[v->op];
	if (v->flags & ~shape->flags)
		return false;
	if (!shape->ranges && v->range_count)
		return false;
	if (!shape->payload && v->inline_bytes)
		return false;
	if (!shape->record)
		return !v->rec_bytes && !v->rec_off && !v->rec_len;
	return true;
}

/* The piece of the record lies within it, and the last message of a train completes it. */
static bool record_ok(const struct lane_view *v)
{
	uint64_t end = (uint64_t)v->rec_off + v->rec_bytes;

	if (v->op != LANE_COMMIT)
		return true;
	if (!v->rec_len || v->rec_len > LANE_RECORD_BYTES_MAX || end > v->rec_len)
		return false;
	return (v->flags & LANE_MORE) || end == v->rec_len;
}

static bool ranges_ok(const struct lane_view *v, uint64_t floor, uint64_t pool_size)
{
	uint64_t inline_bytes = 0;

	for (uint32_t i = 0; i < v->range_count; i++) {
		uint64_t off = le64_get(v->ranges[i].off);
		uint32_t len = le32_get(v->ranges[i].len), flags = le32_get(v->ranges[i].flags);

		if (!len || off < floor || off > pool_size || len > pool_size - off)
			return false;
		if (flags && flags != LANE_RANGE_INLINE && flags != LANE_RANGE_ZERO)
			return false;
		if (flags == LANE_RANGE_INLINE)
			inline_bytes += len;
	}
	return inline_bytes == v->inline_bytes;
}

/* A read names one range, and its answer fits one message. Nothing is stored, so the floor does not hold. */
static bool read_ok(const struct lane_view *v, uint64_t pool_size)
{
	return v->range_count == 1 && !v->ranges->flags.le && ranges_ok(v, 0, pool_size) &&
	       le32_get(v->ranges->len) <= LANE_MSG_BYTES_MAX - sizeof(struct lane_ack_msg);
}

int lane_req_check(const void *buf, size_t len, uint64_t floor, uint64_t pool_size, struct lane_view *view)
{
	static const uint8_t zero[sizeof(((struct lane_req_msg *)0)->zero)];
	const struct lane_req_msg *req = buf;
	struct lane_view v;

	assert((uintptr_t)buf % _Alignof(struct lane_req_msg) == 0);
	if (len < sizeof(*req) || len > LANE_MSG_BYTES_MAX || le32_get(req->magic) != LANE_MAGIC)
		return -EPROTO;
	if (le32_get(req->csum) != csum_around(buf, sealed_len(req, len), offsetof(struct lane_req_msg, csum)))
		return -EPROTO;
	view_of(req, &v);
	if (memcmp(req->zero, zero, sizeof(zero)) || !shape_ok(&v) || !record_ok(&v) || v.range_count > LANE_RANGES_MAX)
		return -EPROTO;
	if (sizeof(*req) + (uint64_t)v.range_count * sizeof(struct lane_range_msg) + v.inline_bytes + v.rec_bytes != len)
		return -EPROTO;
	v.ranges = (const struct lane_range_msg *)(req + 1);
	v.payload = (const uint8_t *)(v.ranges + v.range_count);
	v.rec = v.payload + v.inline_bytes;
	if (v.op == LANE_READ ? !read_ok(&v, pool_size) : !ranges_ok(&v, floor, pool_size))
		return -EPROTO;
	*view = v;
	return 0;
}

void lane_ack_seal(struct lane_ack_msg *ack)
{
	ack->csum = le32_put(csum_around((const uint8_t *)ack, sizeof(*ack), offsetof(struct lane_ack_msg, csum)));
}

int lane_ack_check(const void *buf, size_t len, struct lane_ack_msg *ack)
{
	struct lane_ack_msg a;
	uint16_t op;

	if (len < sizeof(a))
		return -EPROTO;
	memcpy(&a, buf, sizeof(a));
	op = le16_get(a.op);
	if (le32_get(a.magic) != LANE_MAGIC || op > LANE_OP_LAST)
		return -EPROTO;
	if (!lane_shapes[op].known && le16_get(a.status) != WIRE_BAD_PROTO) /* 0: the request could not be read */
		return -EPROTO;
	if (le32_get(a.csum) != csum_around((const uint8_t *)&a, sizeof(a), offsetof(struct lane_ack_msg, csum)))
		return -EPROTO;
	if (le16_get(a.status) >= WIRE_STATUS_COUNT || len - sizeof(a) != le32_get(a.read_bytes))
		return -EPROTO;
	if (op != LANE_READ && a.read_bytes.le)
		return -EPROTO;
	*ack = a;
	return 0;
}
