/* Wire codec: golden bytes, computed by an independent encoder from the layout in wire.h, pin every message; then
 * truncation, damage and each field out of range. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "codec.h"
#include "csum.h"
#include "media.h"
#include "persist.h"

#define FILL(array, from) fill_bytes(array, sizeof(array), from)

static void fill_bytes(uint8_t *to, size_t n, unsigned from)
{
	for (size_t i = 0; i < n; i++)
		to[i] = (uint8_t)(from + i);
}

static size_t unhex(const char *hex, uint8_t *to)
{
	size_t n = strlen(hex) / 2;

	for (size_t i = 0; i < n; i++)
		cr_assert(sscanf(hex + 2 * i, "%2hhx", &to[i]) == 1);
	return n;
}

/* ---------------------------------------------------------------- control */

static void fill_attr(struct ctl_attr *a)
{
	*a = (struct ctl_attr){ .signature = "RPMEMFS", .major = 1, .compat = 2, .incompat = 3, .ro_compat = 4 };
	FILL(a->poolset_uuid, 0x10);
	FILL(a->uuid, 0x20);
	FILL(a->next_uuid, 0x30);
	FILL(a->prev_uuid, 0x40);
	FILL(a->user_flags, 0x50);
}

static void fill_point(struct ctl_point *p, uint64_t seq)
{
	*p = (struct ctl_point){ .seq = seq, .epoch = 0x1122 };
	FILL(p->hash, 0x60);
}

static void fill_page(struct ctl_page *p)
{
	*p = (struct ctl_page){ .role = 2, .state = 1, .fence_epoch = 9, .sync_seq = 10, .sync_group = 11 };
	FILL(p->instance, 0x70);
	FILL(p->fence_id, 0x80);
	FILL(p->sync_hash, 0x90);
}

static void fill_open(struct ctl_open *o, bool create)
{
	*o = (struct ctl_open){ .flags = create ? 9 : 3, .lanes = 4, .pool_size = 0x12345678,
				  .epoch = 0x1122334455667788, .session_before = 0x99aabbccddeeff01, .idle_ms = 0x1388,
				  .has_attr = create };
	strcpy(o->provider, "tcp");
	strcpy(o->set_name, "dir/p.set");
	if (create)
		fill_attr(&o->attr);
}

static void fill_session(struct ctl_session *s)
{
	*s = (struct ctl_session){ .session = 0x0102030405060708, .pool_size = 1 << 30, .lanes = 4, .port = 7654,
		.address = "127.0.0.1", .method = WIRE_METHOD_GPSPM, .domain = PM_FILE, .caps = CTL_CAP_RMA,
		.msg_bytes_max = LANE_MSG_BYTES_MAX, .rx_slots = LANE_RX_SLOTS, .raddr = 0xdead, .rkey = 0xbeef,
		.idle_ms = 0x3a98 };
	FILL(s->incarnation, 0xe0);
	FILL(s->token, 0xa0);
	fill_attr(&s->attr);
}

static void fill_copy_info(struct ctl_copy_info *i)
{
	*i = (struct ctl_copy_info){ .blk_count = 100, .ring_bytes = 200, .used_blks = 300 };
	fill_point(&i->tail, 7);
	fill_point(&i->head, 8);
	fill_page(&i->page);
	FILL(i->content_uuid, 0xb0);
}

/* A message of the type with every field set. */
static struct ctl_msg sample(unsigned type)
{
	struct ctl_msg m = { .type = (uint16_t)type };

	switch (type) {
	case CTL_HELLO:
	case CTL_HELLO + CTL_ANSWER: m.u.hello = (struct ctl_hello){ 1, 2, 0x80 }; break;
	case CTL_CREATE:
	case CTL_OPEN: fill_open(&m.u.open, type == CTL_CREATE); break;
	case CTL_CREATE + CTL_ANSWER:
	case CTL_OPEN + CTL_ANSWER: fill_session(&m.u.session); break;
	case CTL_STATUS + CTL_ANSWER: fill_copy_info(&m.u.copy_info); break;
	case CTL_CHAIN: m.u.chain.seq = 77; break;
	case CTL_CHAIN + CTL_ANSWER: fill_point(&m.u.point, 77); break;
	case CTL_FORMAT:
		m.u.format = (struct ctl_format){ .hash_seed = 1, .created_ns = 2, .ring_bytes = 3 };
		FILL(m.u.format.content_uuid, 0xc0);
		fill_page(&m.u.format.page);
		break;
	case CTL_FENCE:
		m.u.fence = (struct ctl_fence){ .expected_epoch = 4, .epoch = 5 };
		FILL(m.u.fence.id, 0xd0);
		break;
	case CTL_PAGE: fill_page(&m.u.page); break;
	case CTL_CHECKPOINT: m.u.checkpoint.upto = UINT64_MAX; break;
	case CTL_RESET:
		fill_point(&m.u.reset.at, 78);
		m.u.reset.used_blks = 79;
		break;
	case CTL_SET_ATTR: fill_attr(&m.u.attr); break;
	case CTL_REMOVE: m.u.remove = (struct ctl_remove){ 3, "a.set" }; break;
	case CTL_ERROR: m.u.error = (struct ctl_error){ WIRE_BUSY, "busy" }; break;
	default: break;
	}
	return m;
}

static const struct {
	unsigned type;
	const char *hex;
} golden[] = {
	{ CTL_HELLO,
	  "5243544c0100010008000000e5b2a9610100020080000000" },
	{ CTL_HELLO + CTL_ANSWER,
	  "5243544c010041000800000036a3ddb50100020080000000" },
	{ CTL_CREATE,
	  "5243544c010002009d000000d726c31109000000040000007856341200000000887766554433221101ffeeddccbbaa9988130000"
	  "030074637009006469722f702e7365740152504d454d46530001000000020000000300000004000000101112131415161718191a"
	  "1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e"
	  "4f505152535455565758595a5b5c5d5e5f" },
	{ CTL_OPEN,
	  "5243544c010003009d00000013cf9e5203000000040000007856341200000000887766554433221101ffeeddccbbaa9988130000"
	  "030074637009006469722f702e736574000000000000000000000000000000000000000000000000000000000000000000000000"
	  "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
	  "0000000000000000000000000000000000" },
	{ CTL_CREATE + CTL_ANSWER,
	  "5243544c01004200e300000014c22ebe0807060504030201000000400000000004000000e61d000009003132372e302e302e31a0"
	  "a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf0100000002000000010000000010010020000000ad"
	  "de000000000000efbe000000000000983a0000e0e1e2e3e4e5e6e7e8e9eaebecedeeef52504d454d465300010000000200000003"
	  "00000004000000101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c"
	  "3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f" },
	{ CTL_OPEN + CTL_ANSWER,
	  "5243544c01004300e3000000c5a6e4300807060504030201000000400000000004000000e61d000009003132372e302e302e31a0"
	  "a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf0100000002000000010000000010010020000000ad"
	  "de000000000000efbe000000000000983a0000e0e1e2e3e4e5e6e7e8e9eaebecedeeef52504d454d465300010000000200000003"
	  "00000004000000101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c"
	  "3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f" },
	{ CTL_STATUS,
	  "5243544c0100040000000000615dbdc6" },
	{ CTL_STATUS + CTL_ANSWER,
	  "5243544c01004400b8000000e335bf9307000000000000002211000000000000606162636465666768696a6b6c6d6e6f08000000"
	  "000000002211000000000000606162636465666768696a6b6c6d6e6f0200000001000000707172737475767778797a7b7c7d7e7f"
	  "0900000000000000808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f0a000000000000000b000000"
	  "000000006400000000000000c8000000000000002c01000000000000b0b1b2b3b4b5b6b7b8b9babbbcbdbebf" },
	{ CTL_CHAIN,
	  "5243544c0100050008000000309e07ac4d00000000000000" },
	{ CTL_CHAIN + CTL_ANSWER,
	  "5243544c010045002000000067b71fc14d000000000000002211000000000000606162636465666768696a6b6c6d6e6f" },
	{ CTL_FORMAT,
	  "5243544c0100060078000000cfb44c0ec0c1c2c3c4c5c6c7c8c9cacbcccdcecf0100000000000000020000000000000003000000"
	  "000000000200000001000000707172737475767778797a7b7c7d7e7f0900000000000000808182838485868788898a8b8c8d8e8f"
	  "909192939495969798999a9b9c9d9e9f0a000000000000000b00000000000000" },
	{ CTL_FORMAT + CTL_ANSWER,
	  "5243544c01004600000000004869f268" },
	{ CTL_FENCE,
	  "5243544c010007002000000075b34cea04000000000000000500000000000000d0d1d2d3d4d5d6d7d8d9dadbdcdddedf" },
	{ CTL_FENCE + CTL_ANSWER,
	  "5243544c0100470000000000ed12a4a3" },
	{ CTL_PAGE,
	  "5243544c01000800500000003e01984e0200000001000000707172737475767778797a7b7c7d7e7f090000000000000080818283"
	  "8485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f0a000000000000000b00000000000000" },
	{ CTL_PAGE + CTL_ANSWER,
	  "5243544c01004800000000007a76059e" },
	{ CTL_CHECKPOINT,
	  "5243544c01000900080000002b4ebe1effffffffffffffff" },
	{ CTL_CHECKPOINT + CTL_ANSWER,
	  "5243544c0100490000000000df0d5355" },
	{ CTL_RESET,
	  "5243544c01000a0028000000abf986444e000000000000002211000000000000606162636465666768696a6b6c6d6e6f4f000000"
	  "00000000" },
	{ CTL_RESET + CTL_ANSWER,
	  "5243544c01004a0000000000c1f7450d" },
	{ CTL_SET_ATTR,
	  "5243544c01000b00680000006749a7e752504d454d46530001000000020000000300000004000000101112131415161718191a1b"
	  "1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f"
	  "505152535455565758595a5b5c5d5e5f" },
	{ CTL_SET_ATTR + CTL_ANSWER,
	  "5243544c01004b0000000000648c13c6" },
	{ CTL_CLOSE,
	  "5243544c01000c00000000006fb66780" },
	{ CTL_CLOSE + CTL_ANSWER,
	  "5243544c01004c0000000000fd0368bd" },
	{ CTL_REMOVE,
	  "5243544c01000d000b000000353cd3fa030000000500612e736574" },
	{ CTL_REMOVE + CTL_ANSWER,
	  "5243544c01004d000000000058783e76" },
	{ CTL_PING,
	  "5243544c01000e0000000000d4372713" },
	{ CTL_PING + CTL_ANSWER,
	  "5243544c01004e00000000004682282e" },
	{ CTL_ERROR,
	  "5243544c01007f0008000000f55e31a60900040062757379" },
};
#define GOLDEN_COUNT (sizeof(golden) / sizeof(golden[0]))

Test(codec, control_messages_have_their_golden_bytes)
{
	for (unsigned i = 0; i < GOLDEN_COUNT; i++) {
		uint8_t want[CTL_MSG_BYTES_MAX], got[CTL_MSG_BYTES_MAX];
		struct ctl_msg msg = sample(golden[i].type), back;
		size_t want_len = unhex(golden[i].hex, want), len = 0;

		cr_assert_eq(ctl_encode(&msg, got, &len), 0, "type %u", golden[i].type);
		cr_expect(len == want_len && !memcmp(got, want, len), "type %u", golden[i].type);
		cr_assert_eq(ctl_decode(want, want_len, &back), 0, "type %u", golden[i].type);
		cr_expect_arr_eq(&back, &msg, sizeof(msg), "type %u", golden[i].type);
	}
}

Test(codec, every_type_has_a_sample)
{
	for (unsigned type = 0; type < 256; type++) {
		struct ctl_msg msg = { .type = (uint16_t)type };
		unsigned known = 0;
		uint8_t buf[CTL_MSG_BYTES_MAX];
		size_t len;

		for (unsigned i = 0; i < GOLDEN_COUNT; i++)
			known += golden[i].type == type;
		cr_expect_leq(known, 1);
		if (!known)
			cr_expect_eq(ctl_encode(&msg, buf, &len), -EINVAL, "type %u", type);
	}
}

/* Copied into a block of exactly that size, so that a sanitizer sees a read behind it. */
static int decode_exact(const uint8_t *bytes, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	struct ctl_msg msg;
	int err;

	memcpy(copy, bytes, len);
	err = ctl_decode(copy, len, &msg);
	free(copy);
	return err;
}

Test(codec, control_messages_are_refused_at_every_truncation_and_with_a_byte_more)
{
	for (unsigned i = 0; i < GOLDEN_COUNT; i++) {
		uint8_t buf[CTL_MSG_BYTES_MAX + 1];
		size_t len = unhex(golden[i].hex, buf);

		for (size_t cut = 0; cut < len; cut++)
			cr_expect_eq(decode_exact(buf, cut), -EPROTO, "type %u cut %zu", golden[i].type, cut);
		buf[len] = 0;
		cr_expect_eq(decode_exact(buf, len + 1), -EPROTO);
	}
}

/* Header and checksum right, payload too short or too long: the payload's own walk refuses. */
Test(codec, payloads_of_a_wrong_length_are_refused)
{
	for (unsigned i = 0; i < GOLDEN_COUNT; i++) {
		uint8_t buf[CTL_MSG_BYTES_MAX + 1] = { 0 };
		struct ctl_hdr_msg *hdr = (struct ctl_hdr_msg *)buf;
		size_t payload = unhex(golden[i].hex, buf) - sizeof(*hdr);

		for (size_t n = 0; n <= payload + 1; n++) {
			hdr->len = le32_put((uint32_t)n);
			hdr->csum = le32_put(0);
			hdr->csum = le32_put(csum_crc32c(0, buf, sizeof(*hdr) + n));
			cr_expect_eq(decode_exact(buf, sizeof(*hdr) + n), n == payload ? 0 : -EPROTO, "type %u: %zu of %zu",
				golden[i].type, n, payload);
		}
	}
}

Test(codec, a_flipped_bit_anywhere_is_noticed)
{
	for (unsigned i = 0; i < GOLDEN_COUNT; i++) {
		uint8_t buf[CTL_MSG_BYTES_MAX];
		size_t len = unhex(golden[i].hex, buf);

		for (size_t bit = 0; bit < 8 * len; bit++) {
			buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
			cr_expect_lt(decode_exact(buf, len), 0, "type %u bit %zu", golden[i].type, bit);
			buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
}

Test(codec, headers_announce_bounded_payloads)
{
	struct ctl_hdr_msg hdr = { .magic = le32_put(CTL_MAGIC), .version = le16_put(CTL_VERSION),
		.len = le32_put(CTL_PAYLOAD_BYTES_MAX) };
	uint32_t n = 0;

	cr_expect_eq(ctl_peek(&hdr, &n), 0);
	cr_expect_eq(n, CTL_PAYLOAD_BYTES_MAX);
	hdr.len = le32_put(CTL_PAYLOAD_BYTES_MAX + 1);
	cr_expect_eq(ctl_peek(&hdr, &n), -EPROTO);
	hdr.len = le32_put(0);
	hdr.version = le16_put(CTL_VERSION + 1);
	cr_expect_eq(ctl_peek(&hdr, &n), -EPROTONOSUPPORT);
	hdr.magic = le32_put(CTL_MAGIC + 1);
	cr_expect_eq(ctl_peek(&hdr, &n), -EPROTO);
}

/* One statement makes the sample invalid; encode refuses it. */
#define REFUSED(ctl_type, ...)                                                   \
	do {                                                                     \
		struct ctl_msg m = sample(ctl_type);                             \
		uint8_t buf[CTL_MSG_BYTES_MAX];                                  \
		size_t len = 0;                                                  \
		__VA_ARGS__;                                                     \
		cr_expect_eq(ctl_encode(&m, buf, &len), -EINVAL, #__VA_ARGS__);  \
		cr_expect_eq(len, 0);                                            \
	} while (0)

Test(codec, fields_out_of_range_are_not_encoded)
{
	REFUSED(CTL_HELLO, m.u.hello.version_min = 3);
	REFUSED(CTL_CREATE, m.u.open.flags = CTL_OPEN_FLAGS_ALL + 1);
	REFUSED(CTL_CREATE, m.u.open.lanes = 0);
	REFUSED(CTL_CREATE, m.u.open.lanes = WIRE_LANES_MAX + 1);
	REFUSED(CTL_CREATE, m.u.open.has_attr = 2);
	REFUSED(CTL_CREATE, m.u.open.has_attr = 0);
	REFUSED(CTL_OPEN, m.u.open.has_attr = 1);
	REFUSED(CTL_CREATE, memset(m.u.open.provider, 'a', sizeof(m.u.open.provider)));
	REFUSED(CTL_CREATE, memset(m.u.open.set_name, 'a', sizeof(m.u.open.set_name)));
	REFUSED(CTL_OPEN + CTL_ANSWER, m.u.session.lanes = WIRE_LANES_MAX + 1);
	REFUSED(CTL_OPEN + CTL_ANSWER, m.u.session.port = 65536);
	REFUSED(CTL_OPEN + CTL_ANSWER, memset(m.u.session.address, '1', sizeof(m.u.session.address)));
	REFUSED(CTL_OPEN + CTL_ANSWER, m.u.session.method = 0);
	REFUSED(CTL_OPEN + CTL_ANSWER, m.u.session.method = WIRE_METHOD_LAST + 1);
	REFUSED(CTL_OPEN + CTL_ANSWER, m.u.session.domain = PM_FILE + 1);
	REFUSED(CTL_OPEN + CTL_ANSWER, m.u.session.caps = 4);
	REFUSED(CTL_OPEN + CTL_ANSWER, m.u.session.msg_bytes_max = LANE_MSG_BYTES_MIN - 1);
	REFUSED(CTL_OPEN + CTL_ANSWER, m.u.session.msg_bytes_max = LANE_MSG_BYTES_MAX + 1);
	REFUSED(CTL_OPEN + CTL_ANSWER, m.u.session.rx_slots = 0);
	REFUSED(CTL_OPEN + CTL_ANSWER, m.u.session.rx_slots = LANE_RX_SLOTS + 1);
	REFUSED(CTL_STATUS + CTL_ANSWER, m.u.copy_info.head.seq = 6);
	REFUSED(CTL_STATUS + CTL_ANSWER, m.u.copy_info.page.state = 0);
	REFUSED(CTL_CHAIN + CTL_ANSWER, m.u.point.seq = MEDIA_SEQ_MAX + 1);
	REFUSED(CTL_FORMAT, m.u.format.page.role = 0);
	REFUSED(CTL_PAGE, m.u.page.role = 0);
	REFUSED(CTL_PAGE, m.u.page.role = MEDIA_ROLE_REPLICA + 1);
	REFUSED(CTL_PAGE, m.u.page.state = 0);
	REFUSED(CTL_PAGE, m.u.page.state = MEDIA_INCONSISTENT + 1);
	REFUSED(CTL_PAGE, m.u.page.role = m.u.page.state = 0);
	REFUSED(CTL_RESET, m.u.reset.at.seq = MEDIA_SEQ_MAX + 1);
	REFUSED(CTL_REMOVE, m.u.remove.flags = 4);
	REFUSED(CTL_ERROR, m.u.error.status = WIRE_OK);
	REFUSED(CTL_ERROR, m.u.error.status = WIRE_STATUS_COUNT);
	REFUSED(CTL_ERROR, memset(m.u.error.text, 'a', sizeof(m.u.error.text)));
}

/* The same bounds hold for what comes in: each payload byte set to each of some values, checksum made right. */
Test(codec, what_decodes_also_encodes_to_the_same_bytes)
{
	static const uint8_t values[] = { 0, 1, 2, 5, 0x7f, 0x80, 0xff };

	for (unsigned i = 0; i < GOLDEN_COUNT; i++) {
		uint8_t buf[CTL_MSG_BYTES_MAX], again[CTL_MSG_BYTES_MAX];
		size_t len = unhex(golden[i].hex, buf);

		for (size_t at = sizeof(struct ctl_hdr_msg); at < len * sizeof(values); at++) {
			struct ctl_hdr_msg *hdr = (struct ctl_hdr_msg *)buf;
			size_t where = at % len, out = 0;
			uint8_t old = buf[where];
			struct ctl_msg msg;

			if (where < sizeof(*hdr))
				continue;
			buf[where] = values[at / len];
			hdr->csum = le32_put(0);
			hdr->csum = le32_put(csum_crc32c(0, buf, len));
			if (!ctl_decode(buf, len, &msg)) {
				cr_assert_eq(ctl_encode(&msg, again, &out), 0);
				cr_expect(out == len && !memcmp(buf, again, len), "type %u byte %zu", golden[i].type, where);
			}
			buf[where] = old;
		}
	}
}

Test(codec, strings_hold_no_nul)
{
	uint8_t buf[CTL_MSG_BYTES_MAX];
	struct ctl_hdr_msg *hdr = (struct ctl_hdr_msg *)buf;
	struct ctl_msg msg = sample(CTL_REMOVE);
	size_t len;

	cr_assert_eq(ctl_encode(&msg, buf, &len), 0);
	buf[len - 2] = 0;
	hdr->csum = le32_put(0);
	hdr->csum = le32_put(csum_crc32c(0, buf, len));
	cr_expect_eq(ctl_decode(buf, len, &msg), -EPROTO);
}

/* ---------------------------------------------------------------- status */

Test(codec, every_status_has_its_errno_and_back)
{
	static const int errs[WIRE_STATUS_COUNT] = { 0, EPROTO, EPROTONOSUPPORT, EBADF, EINVAL, EFBIG, ERANGE, ENOENT,
		EEXIST, EBUSY, EACCES, ENOMEDIUM, ENOSPC, ENOMEM, ESTALE, EILSEQ, EBADMSG, EPERM, EMEDIUMTYPE, EIO,
		EREMOTEIO };

	for (unsigned status = 0; status < WIRE_STATUS_COUNT; status++) {
		cr_expect_eq(wire_status_err((enum wire_status)status), -errs[status], "status %u", status);
		cr_expect_eq(wire_status_of(-errs[status]), status, "status %u", status);
		cr_expect_str_neq(wire_status_name((uint16_t)status), "unknown status");
	}
	cr_expect_eq(wire_status_of(-ENOTTY), WIRE_FATAL);
	cr_expect_eq(wire_status_err((enum wire_status)999), -EREMOTEIO);
	cr_expect_str_eq(wire_status_name(WIRE_STATUS_COUNT), "unknown status");
	cr_expect_str_eq(wire_method_name(WIRE_METHOD_GPSPM), "GPSPM");
	cr_expect_str_eq(wire_method_name(WIRE_METHOD_APM), "APM");
	cr_expect_str_eq(wire_method_name(0), "unknown");
}

/* ---------------------------------------------------------------- lanes */

#define POOL_BYTES (1u << 20)

static const char req_hex[] =
	"4c414e4502000100050000000000000003000000080000004000000040000000c0000000c6c4e294090000000000000008000000"
	"00000000000000000000000000000100000000000800000001000000000002000000000000100000000000000000030000000000"
	"40000000020000000102030405060708e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff00010203"
	"0405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
static const char ack_hex[] =
	"4c414e4504000000050000000000000006000000000000000700000000000000080000000000000009000000000000000a000000"
	"0000000093659dac03000000";
static const char connect_hex[] =
	"4c414e45010003000807060504030201a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf";
static const char accept_hex[] =
	"4c414e4501000300adde000000000000efbe000000000000";

/* A commit with an inline, a pushed and a zero range and the middle third of a record. */
struct req {
	struct lane_req_msg hdr;
	struct lane_range_msg ranges[3];
	uint8_t payload[8], rec[64];
};

static struct req req_sample(void)
{
	struct req r = {
		.hdr = { .magic = le32_put(LANE_MAGIC), .op = le16_put(LANE_COMMIT), .flags = le16_put(LANE_MORE),
			.seq = le64_put(5), .range_count = le32_put(3), .inline_bytes = le32_put(8), .rec_bytes = le32_put(64),
			.rec_off = le32_put(64), .rec_len = le32_put(192), .arg = le64_put(9), .tail = le64_put(8) },
		.ranges = {
			{ le64_put(0x10000), le32_put(8), le32_put(LANE_RANGE_INLINE) },
			{ le64_put(0x20000), le32_put(4096), le32_put(0) },
			{ le64_put(0x30000), le32_put(64), le32_put(LANE_RANGE_ZERO) },
		},
	};

	FILL(r.payload, 1);
	FILL(r.rec, 0xe0);
	lane_req_seal(&r, sizeof(r));
	return r;
}

Test(codec, lane_structures_have_their_golden_bytes)
{
	struct req r = req_sample();
	struct lane_ack_msg ack = { .magic = le32_put(LANE_MAGIC), .op = le16_put(LANE_READ), .seq = le64_put(5),
		.head_seq = le64_put(6), .tail_seq = le64_put(7), .ring_free = le64_put(8), .rx_bytes = le64_put(9),
		.rx_msgs = le64_put(10), .read_bytes = le32_put(3) };
	struct lane_connect_msg connect = { le32_put(LANE_MAGIC), le16_put(LANE_VERSION), le16_put(3),
		le64_put(0x0102030405060708), { 0 } };
	struct lane_accept_msg accept = { le32_put(LANE_MAGIC), le16_put(LANE_VERSION), le16_put(3), le64_put(0xdead),
		le64_put(0xbeef) };
	uint8_t want[512];

	FILL(connect.token, 0xa0);
	lane_ack_seal(&ack);
	cr_assert_eq(unhex(req_hex, want), sizeof(r));
	cr_expect_arr_eq(&r, want, sizeof(r));
	cr_assert_eq(unhex(ack_hex, want), sizeof(ack));
	cr_expect_arr_eq(&ack, want, sizeof(ack));
	cr_assert_eq(unhex(connect_hex, want), sizeof(connect));
	cr_expect_arr_eq(&connect, want, sizeof(connect));
	cr_assert_eq(unhex(accept_hex, want), sizeof(accept));
	cr_expect_arr_eq(&accept, want, sizeof(accept));
}

Test(codec, a_checked_request_shows_all_its_parts)
{
	struct req r = req_sample();
	struct lane_view v;

	cr_assert_eq(lane_req_check(&r, sizeof(r), 4096, POOL_BYTES, &v), 0);
	cr_expect(v.op == LANE_COMMIT && v.flags == LANE_MORE && v.seq == 5 && v.arg == 9 && v.tail == 8);
	cr_expect(v.range_count == 3 && v.inline_bytes == 8 && v.rec_bytes == 64 && v.rec_off == 64 && v.rec_len == 192);
	cr_expect_eq((const void *)v.ranges, (const void *)r.ranges);
	cr_expect_eq(v.payload, r.payload);
	cr_expect_eq(v.rec, r.rec);
}

static int check_exact(const void *msg, size_t len)
{
	void *copy = malloc(len ? len : 1);
	struct lane_view v;
	int err;

	memcpy(copy, msg, len);
	err = lane_req_check(copy, len, 4096, POOL_BYTES, &v);
	free(copy);
	return err;
}

Test(codec, requests_are_refused_at_every_truncation_and_flipped_bit)
{
	struct req r = req_sample();
	uint8_t *bytes = (uint8_t *)&r;

	for (size_t cut = 0; cut < sizeof(r); cut++)
		cr_expect_eq(check_exact(&r, cut), -EPROTO, "cut %zu", cut);
	for (size_t cut = sizeof(r.hdr); cut < sizeof(r); cut++) { /* even with the checksum of what is left */
		struct req shorter = r;

		lane_req_seal(&shorter, cut);
		cr_expect_eq(check_exact(&shorter, cut), -EPROTO, "cut %zu", cut);
	}
	for (size_t bit = 0; bit < 8 * sizeof(r); bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_expect_eq(check_exact(&r, sizeof(r)), -EPROTO, "bit %zu", bit);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

/* One statement changes the sample, which is sealed again. */
#define CHECKED(want, ...)                                                            \
	do {                                                                          \
		struct req r = req_sample();                                          \
		__VA_ARGS__;                                                          \
		lane_req_seal(&r, sizeof(r));                                         \
		cr_expect_eq(check_exact(&r, sizeof(r)), want, #__VA_ARGS__);         \
	} while (0)

Test(codec, request_fields_out_of_range_are_refused)
{
	CHECKED(-EPROTO, r.hdr.magic = le32_put(0));
	CHECKED(-EPROTO, r.hdr.op = le16_put(0));
	CHECKED(-EPROTO, r.hdr.op = le16_put(LANE_OP_LAST + 1));
	CHECKED(-EPROTO, r.hdr.op = le16_put(LANE_WRITE));
	CHECKED(-EPROTO, r.hdr.op = le16_put(LANE_PING));
	CHECKED(-EPROTO, r.hdr.flags = le16_put(2));
	CHECKED(-EPROTO, r.hdr.flags = le16_put(0)); /* last message, but the record is not complete */
	CHECKED(0, r.hdr.flags = le16_put(0), r.hdr.rec_len = le32_put(128));
	CHECKED(-EPROTO, r.hdr.rec_len = le32_put(127));
	CHECKED(-EPROTO, r.hdr.rec_len = le32_put(LANE_RECORD_BYTES_MAX + 1));
	CHECKED(-EPROTO, r.hdr.rec_off = le32_put(UINT32_MAX));
	CHECKED(-EPROTO, r.hdr.range_count = le32_put(2));
	CHECKED(-EPROTO, r.hdr.range_count = le32_put(UINT32_MAX));
	CHECKED(-EPROTO, r.hdr.inline_bytes = le32_put(72), r.hdr.rec_bytes = le32_put(0));
	CHECKED(-EPROTO, r.hdr.inline_bytes = le32_put(0), r.hdr.rec_bytes = le32_put(72));
	CHECKED(-EPROTO, r.hdr.zero[7] = 1);
	CHECKED(-EPROTO, r.ranges[0].len = le32_put(9));
	CHECKED(-EPROTO, r.ranges[0].flags = le32_put(0));
	CHECKED(-EPROTO, r.ranges[0].flags = le32_put(3));
	CHECKED(-EPROTO, r.ranges[1].flags = le32_put(4));
	CHECKED(-EPROTO, r.ranges[1].len = le32_put(0));
	CHECKED(-EPROTO, r.ranges[1].off = le64_put(4095));
	CHECKED(0, r.ranges[1].off = le64_put(4096));
	CHECKED(0, r.ranges[1].off = le64_put(POOL_BYTES - 4096));
	CHECKED(-EPROTO, r.ranges[1].off = le64_put(POOL_BYTES - 4095));
	CHECKED(-EPROTO, r.ranges[1].off = le64_put(POOL_BYTES + 1));
	CHECKED(-EPROTO, r.ranges[1].off = le64_put(UINT64_MAX - 4095));
}

Test(codec, a_read_names_one_range_that_fits_an_answer)
{
	static const struct { uint64_t off; uint32_t count, len, flags; int want; } cases[] = {
		{ 0, 1, 64, 0, 0 }, /* the header may be read though not written */
		{ 4096, 1, LANE_MSG_BYTES_MAX - 64, 0, 0 },
		{ 4096, 1, LANE_MSG_BYTES_MAX - 63, 0, -EPROTO },
		{ POOL_BYTES - 64, 1, 65, 0, -EPROTO },
		{ 4096, 1, 64, LANE_RANGE_ZERO, -EPROTO },
		{ 4096, 1, 0, 0, -EPROTO },
		{ 4096, 0, 64, 0, -EPROTO },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct { struct lane_req_msg hdr; struct lane_range_msg range; } r = {
			.hdr = { .magic = le32_put(LANE_MAGIC), .op = le16_put(LANE_READ), .seq = le64_put(1),
				.range_count = le32_put(cases[i].count) },
			.range = { le64_put(cases[i].off), le32_put(cases[i].len), le32_put(cases[i].flags) },
		};
		size_t len = sizeof(r.hdr) + cases[i].count * sizeof(r.range);

		lane_req_seal(&r, len);
		cr_expect_eq(check_exact(&r, len), cases[i].want, "case %u", i);
	}
}

Test(codec, answers_are_refused_when_cut_damaged_or_mislabelled)
{
	uint8_t buf[80];
	struct lane_ack_msg ack, *a = (struct lane_ack_msg *)buf;
	size_t len = unhex(ack_hex, buf) + 3;

	cr_expect_eq(lane_ack_check(buf, len, &ack), 0);
	cr_expect_eq(le32_get(ack.read_bytes), 3);
	for (size_t cut = 0; cut < len + 5; cut++)
		cr_expect_eq(lane_ack_check(buf, cut, &ack), cut == len ? 0 : -EPROTO, "cut %zu", cut);
	for (size_t bit = 0; bit < 8 * sizeof(ack); bit++) {
		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_expect_eq(lane_ack_check(buf, len, &ack), -EPROTO, "bit %zu", bit);
		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	a->status = le16_put(WIRE_STATUS_COUNT);
	lane_ack_seal(a);
	cr_expect_eq(lane_ack_check(buf, len, &ack), -EPROTO);
	a->status = le16_put(WIRE_OK);
	a->op = le16_put(LANE_PING); /* only READ brings bytes */
	lane_ack_seal(a);
	cr_expect_eq(lane_ack_check(buf, len, &ack), -EPROTO);
	a->op = le16_put(0); /* an unreadable request, answered as that and nothing else */
	a->read_bytes = le32_put(0);
	lane_ack_seal(a);
	cr_expect_eq(lane_ack_check(buf, sizeof(ack), &ack), -EPROTO);
	a->status = le16_put(WIRE_BAD_PROTO);
	lane_ack_seal(a);
	cr_expect_eq(lane_ack_check(buf, sizeof(ack), &ack), 0);
}
