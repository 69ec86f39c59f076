/* Lane messages: requests as a target checks them, answers as an initiator does. Input: a byte that chooses the pool, then
 * the message. Whatever is accepted lies in the pool and in the message. */
#include "fuzz.h"

#include "codec.h"
#include "csum.h"

static void request_holds(const struct lane_view *v, const uint8_t *msg, size_t len, uint64_t floor, uint64_t pool_size)
{
	uint64_t inline_bytes = 0;

	FUZZ_CHECK(v->op >= LANE_PING && v->op <= LANE_OP_LAST);
	FUZZ_CHECK(v->range_count <= LANE_RANGES_MAX && v->rec_len <= LANE_RECORD_BYTES_MAX);
	FUZZ_CHECK((uint64_t)v->rec_off + v->rec_bytes <= v->rec_len);
	for (uint32_t i = 0; i < v->range_count; i++) {
		uint64_t off = le64_get(v->ranges[i].off), bytes = le32_get(v->ranges[i].len), end;

		FUZZ_CHECK(!__builtin_add_overflow(off, bytes, &end) && bytes && end <= pool_size);
		FUZZ_CHECK(off >= floor || v->op == LANE_READ);
		FUZZ_CHECK(v->op != LANE_READ || bytes + sizeof(struct lane_ack_msg) <= LANE_MSG_BYTES_MAX);
		inline_bytes += le32_get(v->ranges[i].flags) & LANE_RANGE_INLINE ? bytes : 0;
	}
	FUZZ_CHECK(inline_bytes == v->inline_bytes);
	FUZZ_CHECK(v->rec + v->rec_bytes == msg + len);
	fuzz_touch(v->payload, v->inline_bytes);
	fuzz_touch(v->rec, v->rec_bytes);
}

static void request(const uint8_t *msg, size_t len, uint64_t floor, uint64_t pool_size)
{
	struct lane_view view;

	if (!lane_req_check(msg, len, floor, pool_size, &view))
		request_holds(&view, msg, len, floor, pool_size);
}

static void answer(const uint8_t *msg, size_t len)
{
	struct lane_ack_msg ack;

	if (lane_ack_check(msg, len, &ack))
		return;
	FUZZ_CHECK(le16_get(ack.op) <= LANE_OP_LAST && le16_get(ack.status) < WIRE_STATUS_COUNT);
	FUZZ_CHECK(sizeof(ack) + le32_get(ack.read_bytes) == len);
}

static void answer_sealed(uint8_t *msg, size_t len)
{
	struct lane_ack_msg ack;

	if (len < sizeof(ack))
		return;
	memcpy(&ack, msg, sizeof(ack));
	lane_ack_seal(&ack);
	memcpy(msg, &ack, sizeof(ack));
	answer(msg, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint64_t pool_sizes[] = { 64u << 20, 1ull << 47, 4096, UINT64_MAX };
	uint64_t floor, pool_size;
	uint8_t *msg;
	size_t len;

	if (!size)
		return 0;
	floor = data[0] & 1 ? 4096 : 0;
	pool_size = pool_sizes[data[0] >> 1 & 3];
	len = size - 1;
	msg = fuzz_copy(data + 1, len, len);
	request(msg, len, floor, pool_size);
	answer(msg, len);
	if (len >= sizeof(struct lane_req_msg)) {
		lane_req_seal(msg, len);
		request(msg, len, floor, pool_size);
	}
	answer_sealed(msg, len);
	free(msg);
	return 0;
}
