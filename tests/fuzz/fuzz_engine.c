/* The target's engine under sealed messages of a peer that has the token and means harm. The input is a list of choices, a
 * few bytes each: a pool, then messages that are nearly right, of one lane or several. Whatever comes, every answer is well
 * formed, the pool's header is not touched, and a consistent copy opens again with the history it answered for. */
#include "fuzz.h"

#include <sys/mman.h>
#include "codec.h"
#include "copy.h"
#include "csum.h"
#include "log.h"
#include "rpmemd/engine.h"

#define POOL_BYTES (16u << 20)
#define RING_BYTES (1u << 20)
#define POOL_SEED 7u
#define FLOOR 4096u
#define LANES 4u
#define MESSAGES_MAX 64u
#define RANGES_MAX 6u
#define PAYLOAD_BYTES_MAX 8192u

static uint8_t *pool;
static _Alignas(64) uint8_t msg[LANE_MSG_BYTES_MAX];
static uint8_t read_buf[LANE_MSG_BYTES_MAX];

/* ---------------------------------------------------------------- choices */
static struct {
	const uint8_t *at;
	size_t left;
} input;

/* 0 .. below - 1; all zero when the input is used up. */
static uint32_t draw(uint32_t below)
{
	uint32_t value = 0;

	for (uint32_t reach = 1; reach < below && input.left && reach; reach <<= 8, input.left--)
		value = value << 8 | *input.at++;
	return value % below;
}

/* A number on one of the edges of 0 .. max, or anywhere. */
static uint64_t draw_edge(uint64_t max)
{
	switch (draw(6)) {
	case 0: return max;
	case 1: return max - 1;
	case 2: return max + 1;
	case 3: return UINT64_MAX - draw(100);
	case 4: return max ? draw(1u << 24) % max : 0;
	default: return 0;
	}
}

/* ---------------------------------------------------------------- the session */
static struct {
	struct pm pm;
	struct copy *copy;
	struct engine *engine;
	bool has_copy, consistent;
	uint64_t seq[LANES];
	struct redo_builder *builder;
	struct copy_point at;   /* the history as the peer would go on with it */
	uint64_t next_blk;
	uint8_t rec[2 * MEDIA_BLOCK_BYTES];
	uint32_t rec_len, rec_off;
	uint64_t rec_blk;
	uint8_t content[MEDIA_BLOCK_BYTES];
} s;

static void session_begin(void)
{
	struct copy_format fmt = { .hash_seed = POOL_SEED, .ring_bytes = RING_BYTES, .page = { .role = MEDIA_ROLE_REPLICA } };
	struct engine_cfg cfg = { .pm = &s.pm, .floor = FLOOR };

	memset(&s, 0, sizeof(s));
	FUZZ_CHECK(!madvise(pool, POOL_BYTES, MADV_DONTNEED));
	pm_init(&s.pm, pool, POOL_BYTES, PM_MEMORY);
	s.consistent = draw(4);
	fmt.page.state = s.consistent ? MEDIA_CONSISTENT : MEDIA_INCONSISTENT;
	FUZZ_CHECK(!copy_format(&s.pm, &fmt) && !copy_open(&s.pm, false, &s.copy));
	FUZZ_CHECK(!redo_builder_new(RING_BYTES / REDO_RING_SHARE, POOL_SEED, &s.builder));
	s.at = copy_head(s.copy);
	s.next_blk = copy_geom(s.copy)->group0_blk + MEDIA_GROUP_META_BLKS;
	s.has_copy = draw(8);
	cfg.copy = s.has_copy ? s.copy : NULL;
	cfg.fs = draw(2);
	cfg.epoch = draw(3);
	cfg.read_only = !draw(16);
	FUZZ_CHECK(!engine_new(&cfg, &s.engine));
}

static void session_end(void)
{
	struct copy_point head = copy_head(s.copy), again_head;
	struct copy *again = NULL;
	int err;

	engine_delete(s.engine);
	copy_close(s.copy);
	redo_builder_delete(s.builder);
	for (size_t i = 0; i < FLOOR; i++)
		FUZZ_CHECK(!pool[i]);
	err = copy_open(&s.pm, true, &again);
	if (s.has_copy && s.consistent) {
		FUZZ_CHECK(!err);
		again_head = copy_head(again);
		FUZZ_CHECK(again_head.seq == head.seq && !memcmp(&again_head.hash, &head.hash, sizeof(head.hash)));
	}
	if (!err)
		copy_close(again);
}

/* ---------------------------------------------------------------- messages */
/* The next commit's record: a block of data, or one of its lines in the record as well. */
static void record_make(void)
{
	struct hash128 hash;
	const void *rec;
	uint32_t csum;

	s.rec_blk = s.next_blk++;
	memset(s.content, (int)s.at.seq + 1, sizeof(s.content));
	csum = csum_crc32c(0, s.content, sizeof(s.content));
	redo_begin(s.builder);
	FUZZ_CHECK(!redo_link(s.builder, s.rec_blk, MEDIA_DATA, csum));
	if (!draw(4) && s.rec_blk > copy_geom(s.copy)->group0_blk + MEDIA_GROUP_META_BLKS)
		FUZZ_CHECK(!redo_free(s.builder, s.rec_blk - 1));
	if (!draw(4))
		FUZZ_CHECK(!redo_lines(s.builder, s.rec_blk, MEDIA_DATA, 1ull << draw(64), s.content));
	FUZZ_CHECK(!redo_finish(s.builder, s.at.seq + 1, s.at.epoch, &s.at.hash, 1, &rec, &s.rec_len, &hash));
	FUZZ_CHECK(s.rec_len <= sizeof(s.rec));
	memcpy(s.rec, rec, s.rec_len);
	s.at.seq++;
	s.at.hash = hash;
	s.rec_off = 0;
	if (!draw(6))
		s.rec[draw(s.rec_len)] ^= (uint8_t)(1u << draw(8));
}

static void range_put(struct lane_req_msg *req, uint32_t idx, uint64_t off, uint32_t len, uint32_t flags)
{
	struct lane_range_msg *ranges = (struct lane_range_msg *)(req + 1);

	ranges[idx] = (struct lane_range_msg){ le64_put(off), le32_put(len), le32_put(flags) };
}

/* The next piece of a commit, with its block in the first one or again. */
static size_t commit_put(struct lane_req_msg *req)
{
	uint32_t ranges, piece, left;
	uint8_t *at;

	if (!s.rec_len)
		record_make();
	left = s.rec_len - s.rec_off;
	ranges = !s.rec_off || !draw(3) ? draw(8) != 1 : 0;
	piece = draw(2) ? draw(left + 1) : left;
	at = (uint8_t *)(req + 1) + ranges * sizeof(struct lane_range_msg);
	if (ranges) {
		range_put(req, 0, media_off(s.rec_blk), MEDIA_BLOCK_BYTES, LANE_RANGE_INLINE);
		memcpy(at, s.content, MEDIA_BLOCK_BYTES);
		at += MEDIA_BLOCK_BYTES;
	}
	memcpy(at, s.rec + s.rec_off, piece);
	req->range_count = le32_put(ranges);
	req->inline_bytes = le32_put(ranges * MEDIA_BLOCK_BYTES);
	req->rec_len = le32_put(s.rec_len);
	req->rec_off = le32_put(s.rec_off);
	req->rec_bytes = le32_put(piece);
	req->arg = le64_put(s.at.seq);
	req->tail = le64_put(draw_edge(s.at.seq));
	s.rec_off += piece;
	if (s.rec_off < s.rec_len || draw(8) == 1)
		req->flags = le16_put(LANE_MORE);
	else
		s.rec_len = 0;
	return (size_t)(at + piece - msg);
}

/* A commit made of anything. */
static size_t junk_record_put(struct lane_req_msg *req, size_t len)
{
	uint32_t piece = draw(1000);

	req->rec_bytes = le32_put(piece);
	req->rec_len = le32_put(draw(2) ? piece : (uint32_t)draw_edge(LANE_RECORD_BYTES_MAX));
	req->rec_off = le32_put((uint32_t)draw_edge(1000));
	req->flags = le16_put((uint16_t)draw(2));
	memset(msg + len, 0xaa, piece);
	return len + piece;
}

static size_t ranges_put(struct lane_req_msg *req, unsigned op)
{
	uint32_t count = op == LANE_READ ? 1 : draw(RANGES_MAX), payload = 0;
	size_t len;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t flags = op == LANE_READ ? 0 : draw(3), bytes = draw(3) ? draw(2000) + 1 : (uint32_t)draw_edge(4096);

		if (flags == LANE_RANGE_INLINE && bytes > PAYLOAD_BYTES_MAX)
			bytes = PAYLOAD_BYTES_MAX;
		payload += flags == LANE_RANGE_INLINE ? bytes : 0;
		range_put(req, i, draw(4) ? draw(POOL_BYTES) : draw_edge(POOL_BYTES), bytes, flags);
	}
	len = sizeof(*req) + count * sizeof(struct lane_range_msg) + payload;
	memset(msg + len - payload, 0xbb, payload);
	req->range_count = le32_put(count);
	req->inline_bytes = le32_put(payload);
	req->arg = le64_put(draw_edge(10));
	req->tail = le64_put(draw_edge(10));
	if (op == LANE_WRITE)
		req->flags = le16_put((uint16_t)draw(4));
	return op == LANE_COMMIT ? junk_record_put(req, len) : len;
}

/* Everything but the sequence number and the checksum. Its length. */
static size_t message_put(struct lane_req_msg *req)
{
	unsigned op = draw(10) == 1 ? draw(LANE_OP_LAST + 3) : draw(3) ? LANE_COMMIT : draw(LANE_OP_LAST) + 1;

	memset(req, 0, sizeof(*req));
	req->magic = le32_put(LANE_MAGIC);
	req->op = le16_put((uint16_t)op);
	if (op == LANE_COMMIT && draw(8) != 1)
		return commit_put(req);
	if (op != LANE_PING && op != LANE_CHECKPOINT)
		return ranges_put(req, op);
	req->arg = le64_put(draw_edge(10));
	return sizeof(*req);
}

/* One message and its answer. Whether the session goes on. */
static bool message_send(void)
{
	struct lane_req_msg *req = (struct lane_req_msg *)msg;
	unsigned lane = draw(16) == 1 ? draw(LANES) : 0;
	struct lane_ack_msg ack, checked;
	uint8_t *answer;
	size_t len = message_put(req), answer_len;
	int err;

	req->seq = le64_put(s.seq[lane] + 1 + (draw(100) == 1));
	if (draw(100) == 1)
		msg[draw((uint32_t)len)] ^= (uint8_t)(1u << draw(8));
	if (draw(100) == 1)
		len = draw((uint32_t)len);
	if (len >= sizeof(*req) && draw(100) != 1)
		lane_req_seal(msg, len);
	err = engine_handle(s.engine, lane, msg, len, &ack, read_buf);
	answer_len = sizeof(ack) + le32_get(ack.read_bytes);
	FUZZ_CHECK(answer_len <= LANE_MSG_BYTES_MAX);
	answer = fuzz_copy((const uint8_t *)&ack, sizeof(ack), answer_len);
	FUZZ_CHECK(!lane_ack_check(answer, answer_len, &checked));
	free(answer);
	s.seq[lane]++;
	if (draw(20) == 1)
		engine_idle(s.engine);
	return err >= 0; /* 1: silent */
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_open("fuzz", "/dev/null", LOG_LEVEL_ERROR);
	pool = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FUZZ_CHECK(pool != MAP_FAILED);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned messages = 0;

	input.at = data;
	input.left = size;
	session_begin();
	while (input.left && messages++ < MESSAGES_MAX && message_send())
		;
	session_end();
	return 0;
}
