/* The engine on a real copy in anonymous memory, driven with real records: requests are laid out piece by piece, sealed and
 * handled in memory of exactly their size. */
#ifndef RPMEMFS_TESTS_ENGINE_RIG_H
#define RPMEMFS_TESTS_ENGINE_RIG_H

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "codec.h"
#include "copy.h"
#include "rpmemd/engine.h"

#define POOL_BYTES (16u << 20)

/* One request being laid out. */
struct msg {
	_Alignas(64) uint8_t bytes[LANE_MSG_BYTES_MAX];
	size_t len;
};

static struct pm pm;
static struct copy *copy;
static struct engine *engine;
static struct redo_builder *builder;
static struct lane_ack_msg ack;
static uint8_t read_buf[LANE_MSG_BYTES_MAX];
static uint64_t lane_seq[2], first_blk;
static struct msg m;
static uint8_t page_of[256][4096]; /* page_of[x] holds bytes x */

static inline void set_up(void)
{
	struct copy_format fmt = { .ring_bytes = MEDIA_RING_BYTES_MIN,
		.page = { .role = MEDIA_ROLE_REPLICA, .state = MEDIA_CONSISTENT } };
	void *mem = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(mem, MAP_FAILED);
	for (unsigned i = 0; i < 256; i++)
		memset(page_of[i], (int)i, 4096);
	pm_init(&pm, mem, POOL_BYTES, PM_MEMORY);
	cr_assert_eq(copy_format(&pm, &fmt), 0);
	cr_assert_eq(copy_open(&pm, false, &copy), 0);
	cr_assert_eq(engine_new(&(struct engine_cfg){ .pm = &pm, .copy = copy, .floor = 4096, .fs = true }, &engine), 0);
	cr_assert_eq(redo_builder_new(MEDIA_RING_BYTES_MIN / REDO_RING_SHARE, copy_geom(copy)->pool_seed, &builder), 0);
	first_blk = copy_geom(copy)->group0_blk + MEDIA_GROUP_META_BLKS;
}

static inline void tear_down(void)
{
	engine_delete(engine);
	copy_close(copy);
	redo_builder_delete(builder);
	munmap(pm.base, POOL_BYTES);
}

static inline void plain_engine(bool read_only, bool fs)
{
	engine_delete(engine);
	lane_seq[0] = 0;
	cr_assert_eq(engine_new(&(struct engine_cfg){ .pm = &pm, .floor = 4096, .read_only = read_only, .fs = fs }, &engine),
		0);
}

/* ---------------------------------------------------------------- requests */

static inline struct lane_req_msg *hdr(void)
{
	return (struct lane_req_msg *)m.bytes;
}

static inline void req(unsigned lane, unsigned op, uint64_t arg)
{
	memset(m.bytes, 0, sizeof(struct lane_req_msg));
	*hdr() = (struct lane_req_msg){ .magic = le32_put(LANE_MAGIC), .op = le16_put((uint16_t)op),
		.seq = le64_put(++lane_seq[lane]), .arg = le64_put(arg) };
	m.len = sizeof(struct lane_req_msg);
}

static inline void append(const void *bytes, size_t n)
{
	cr_assert_leq(m.len + n, sizeof(m.bytes));
	memcpy(m.bytes + m.len, bytes, n);
	m.len += n;
}

/* All ranges come before the first payload(). */
static inline void range(uint64_t off, uint32_t len, uint32_t flags)
{
	struct lane_range_msg r = { le64_put(off), le32_put(len), le32_put(flags) };

	append(&r, sizeof(r));
	hdr()->range_count = le32_put(le32_get(hdr()->range_count) + 1);
}

static inline void payload(const void *bytes, uint32_t n)
{
	append(bytes, n);
	hdr()->inline_bytes = le32_put(le32_get(hdr()->inline_bytes) + n);
}

static inline void piece(const void *rec, uint32_t off, uint32_t n, uint32_t whole)
{
	append((const uint8_t *)rec + off, n);
	hdr()->rec_off = le32_put(off);
	hdr()->rec_bytes = le32_put(n);
	hdr()->rec_len = le32_put(whole);
	hdr()->flags = le16_put(off + n < whole ? LANE_MORE : 0);
}

/* Handles the message in memory of exactly its size; returns the answer's status. */
static inline unsigned send_on(unsigned lane, int want_err)
{
	void *exact = malloc(m.len);
	int err;

	lane_req_seal(m.bytes, m.len);
	memcpy(exact, m.bytes, m.len);
	err = engine_handle(engine, lane, exact, m.len, &ack, read_buf);
	free(exact);
	cr_expect_eq(err, want_err, "err %d", err);
	cr_expect_eq(lane_ack_check(&ack, sizeof(ack), &(struct lane_ack_msg){ 0 }),
		le32_get(ack.read_bytes) ? -EPROTO : 0);
	return le16_get(ack.status);
}

static inline unsigned send_ok(void)
{
	return send_on(0, 0);
}

/* ---------------------------------------------------------------- records */

struct rec {
	const void *bytes;
	uint32_t len;
	uint64_t seq;
};

/* Links count data blocks from blk on with pages of bytes fill, fill + 1 ... */
static inline struct rec record_at(const struct copy_point *head, uint64_t epoch, uint64_t blk, unsigned count, unsigned fill)
{
	struct rec r = { .seq = head->seq + 1 };
	struct hash128 hash;

	redo_begin(builder);
	for (unsigned i = 0; i < count; i++)
		cr_assert_eq(redo_link(builder, blk + i, MEDIA_DATA, csum_crc32c(0, page_of[(fill + i) & 255], 4096)), 0);
	cr_assert_eq(redo_finish(builder, r.seq, epoch, &head->hash, 1, &r.bytes, &r.len, &hash), 0);
	return r;
}

static inline struct rec record(uint64_t blk, unsigned count, unsigned fill)
{
	struct copy_point head = copy_head(copy);

	return record_at(&head, 1, blk, count, fill);
}

/* A whole commit of one inline block in one message. */
static inline void commit_req(const struct rec *r, uint64_t blk, unsigned fill)
{
	req(0, LANE_COMMIT, r->seq);
	range(media_off(blk), 4096, LANE_RANGE_INLINE);
	payload(page_of[fill], 4096);
	piece(r->bytes, 0, r->len, r->len);
}

static inline bool block_is(uint64_t blk, unsigned fill)
{
	return !memcmp(pm_ptr(&pm, media_off(blk)), page_of[fill], 4096);
}

#endif
