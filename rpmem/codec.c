/* Control messages: encoding and decoding, and the wire's status numbers.
 *
 * Each payload structure has one function here that walks its fields in wire order; the same walk reads or writes,
 * depending on the cursor, so the two directions cannot drift apart. The walk also holds the bounds of each field. A cursor
 * that ran out of bytes or met a bad field stays bad, and nothing it touched is given out. What depends on the state of a
 * session or of a copy is not judged here. Lane messages are codec_lane.c's. */
#include "codec.h"

#include <errno.h>
#include <string.h>
#include "csum.h"
#include "media.h"
#include "persist.h"

/* ---------------------------------------------------------------- status */

enum wire_status wire_status_of(int err)
{
	switch (-err) {
	case 0: return WIRE_OK;
	case EPROTO: return WIRE_BAD_PROTO;
	case EPROTONOSUPPORT: return WIRE_BAD_VERSION;
	case EBADF: return WIRE_BAD_NAME;
	case EINVAL: return WIRE_BAD_SET;
	case EFBIG: return WIRE_BAD_SIZE;
	case ERANGE: return WIRE_BAD_ARG;
	case ENOENT: return WIRE_NO_POOL;
	case EEXIST: return WIRE_EXISTS;
	case EBUSY: return WIRE_BUSY;
	case EACCES: return WIRE_NO_ACCESS;
	case ENOMEDIUM: return WIRE_NO_PROVIDER;
	case ENOSPC: return WIRE_NO_SPACE;
	case ENOMEM: return WIRE_NO_MEMORY;
	case ESTALE: return WIRE_FENCED;
	case EILSEQ: return WIRE_HISTORY;
	case EBADMSG: return WIRE_DAMAGED;
	case EPERM: return WIRE_STATE;
	case EMEDIUMTYPE: return WIRE_NOT_FS;
	case EIO: return WIRE_IO;
	default: return WIRE_FATAL;
	}
}

int wire_status_err(enum wire_status status)
{
	switch (status) {
	case WIRE_OK: return 0;
	case WIRE_BAD_PROTO: return -EPROTO;
	case WIRE_BAD_VERSION: return -EPROTONOSUPPORT;
	case WIRE_BAD_NAME: return -EBADF;
	case WIRE_BAD_SET: return -EINVAL;
	case WIRE_BAD_SIZE: return -EFBIG;
	case WIRE_BAD_ARG: return -ERANGE;
	case WIRE_NO_POOL: return -ENOENT;
	case WIRE_EXISTS: return -EEXIST;
	case WIRE_BUSY: return -EBUSY;
	case WIRE_NO_ACCESS: return -EACCES;
	case WIRE_NO_PROVIDER: return -ENOMEDIUM;
	case WIRE_NO_SPACE: return -ENOSPC;
	case WIRE_NO_MEMORY: return -ENOMEM;
	case WIRE_FENCED: return -ESTALE;
	case WIRE_HISTORY: return -EILSEQ;
	case WIRE_DAMAGED: return -EBADMSG;
	case WIRE_STATE: return -EPERM;
	case WIRE_NOT_FS: return -EMEDIUMTYPE;
	case WIRE_IO: return -EIO;
	case WIRE_FATAL:
	case WIRE_STATUS_COUNT: break;
	}
	return -EREMOTEIO;
}

const char *wire_status_name(uint16_t status)
{
	static const char *const names[WIRE_STATUS_COUNT] = {
		[WIRE_OK] = "ok",
		[WIRE_BAD_PROTO] = "malformed message",
		[WIRE_BAD_VERSION] = "no common version",
		[WIRE_BAD_NAME] = "invalid pool set name",
		[WIRE_BAD_SET] = "invalid pool set configuration",
		[WIRE_BAD_SIZE] = "invalid pool size",
		[WIRE_BAD_ARG] = "argument out of range",
		[WIRE_NO_POOL] = "pool set or its part does not exist or is unavailable",
		[WIRE_EXISTS] = "pool already exists",
		[WIRE_BUSY] = "pool already in use",
		[WIRE_NO_ACCESS] = "pool set permission denied",
		[WIRE_NO_PROVIDER] = "fabric provider not usable",
		[WIRE_NO_SPACE] = "no space",
		[WIRE_NO_MEMORY] = "out of memory",
		[WIRE_FENCED] = "fenced by a newer epoch",
		[WIRE_HISTORY] = "different history",
		[WIRE_DAMAGED] = "damaged",
		[WIRE_STATE] = "not allowed in this state of the copy",
		[WIRE_NOT_FS] = "not a pool of the file system",
		[WIRE_IO] = "input/output error",
		[WIRE_FATAL] = "fatal error",
	};

	return status < WIRE_STATUS_COUNT ? names[status] : "unknown status";
}

const char *wire_method_name(uint32_t method)
{
	switch (method) {
	case WIRE_METHOD_GPSPM: return "GPSPM";
	case WIRE_METHOD_APM: return "APM";
	default: return "unknown";
	}
}

/* ---------------------------------------------------------------- cursor */

struct cursor {
	uint8_t *at;
	size_t left;
	bool decoding, bad;
};

/* The next n bytes of the message, NULL (and the cursor bad) when there are fewer. */
static uint8_t *take(struct cursor *c, size_t n)
{
	uint8_t *p = c->at;

	if (c->bad || n > c->left) {
		c->bad = true;
		return NULL;
	}
	c->at += n;
	c->left -= n;
	return p;
}

static void check(struct cursor *c, bool holds)
{
	c->bad = c->bad || !holds;
}

static void walk_int(struct cursor *c, uint64_t *value, unsigned bytes)
{
	uint8_t *p = take(c, bytes);

	if (!p)
		return;
	if (c->decoding)
		*value = 0;
	for (unsigned i = 0; i < bytes; i++) {
		if (c->decoding)
			*value |= (uint64_t)p[i] << (8 * i);
		else
			p[i] = (uint8_t)(*value >> (8 * i));
	}
}

static void walk_u8(struct cursor *c, uint8_t *value)
{
	uint64_t v = *value;

	walk_int(c, &v, 1);
	*value = (uint8_t)v;
}

static void walk_u16(struct cursor *c, uint16_t *value)
{
	uint64_t v = *value;

	walk_int(c, &v, 2);
	*value = (uint16_t)v;
}

static void walk_u32(struct cursor *c, uint32_t *value)
{
	uint64_t v = *value;

	walk_int(c, &v, 4);
	*value = (uint32_t)v;
}

static void walk_u64(struct cursor *c, uint64_t *value)
{
	walk_int(c, value, 8);
}

static void walk_bytes(struct cursor *c, uint8_t *bytes, size_t n)
{
	uint8_t *p = take(c, n);

	if (!p)
		return;
	if (c->decoding)
		memcpy(bytes, p, n);
	else
		memcpy(p, bytes, n);
}

/* A string of at most size - 1 bytes; the structure was zeroed before decoding, so it ends with a NUL. */
static void walk_string(struct cursor *c, char *text, size_t size)
{
	uint16_t n = c->decoding ? 0 : (uint16_t)strnlen(text, size);

	walk_u16(c, &n);
	check(c, n < size);
	if (c->bad)
		return;
	walk_bytes(c, (uint8_t *)text, n);
	check(c, !memchr(text, 0, n));
}

/* ---------------------------------------------------------------- payloads, in the order of wire.h */

static void walk_hello(struct cursor *c, struct ctl_hello *m)
{
	walk_u16(c, &m->version_min);
	walk_u16(c, &m->version_max);
	walk_u32(c, &m->feat_incompat);
	check(c, m->version_min <= m->version_max);
}

static void walk_error(struct cursor *c, struct ctl_error *m)
{
	walk_u16(c, &m->status);
	check(c, m->status != WIRE_OK && m->status < WIRE_STATUS_COUNT);
	walk_string(c, m->text, sizeof(m->text));
}

static void walk_attr(struct cursor *c, struct ctl_attr *m)
{
	walk_bytes(c, m->signature, sizeof(m->signature));
	walk_u32(c, &m->major);
	walk_u32(c, &m->compat);
	walk_u32(c, &m->incompat);
	walk_u32(c, &m->ro_compat);
	walk_bytes(c, m->poolset_uuid, sizeof(m->poolset_uuid));
	walk_bytes(c, m->uuid, sizeof(m->uuid));
	walk_bytes(c, m->next_uuid, sizeof(m->next_uuid));
	walk_bytes(c, m->prev_uuid, sizeof(m->prev_uuid));
	walk_bytes(c, m->user_flags, sizeof(m->user_flags));
}

static void walk_open(struct cursor *c, struct ctl_open *m, bool create)
{
	static const struct ctl_attr zero;

	walk_u32(c, &m->flags);
	check(c, !(m->flags & ~CTL_OPEN_FLAGS_ALL));
	walk_u32(c, &m->lanes);
	check(c, m->lanes <= WIRE_LANES_MAX && (m->lanes || (m->flags & CTL_OPEN_NO_LANES)));
	walk_u64(c, &m->pool_size);
	walk_u64(c, &m->epoch);
	walk_u64(c, &m->session_before);
	walk_u32(c, &m->idle_ms);
	walk_string(c, m->provider, sizeof(m->provider));
	walk_string(c, m->set_name, sizeof(m->set_name));
	walk_u8(c, &m->has_attr);
	check(c, m->has_attr <= create);
	walk_attr(c, &m->attr);
	check(c, m->has_attr || !memcmp(&m->attr, &zero, sizeof(zero)));
}

static void walk_session(struct cursor *c, struct ctl_session *m)
{
	walk_u64(c, &m->session);
	walk_u64(c, &m->pool_size);
	walk_u32(c, &m->lanes);
	check(c, m->lanes <= WIRE_LANES_MAX);
	walk_u32(c, &m->port);
	check(c, m->port <= UINT16_MAX);
	walk_string(c, m->address, sizeof(m->address));
	walk_bytes(c, m->token, sizeof(m->token));
	walk_u32(c, &m->method);
	check(c, m->method >= WIRE_METHOD_GPSPM && m->method <= WIRE_METHOD_LAST);
	walk_u32(c, &m->domain);
	check(c, m->domain <= PM_FILE);
	walk_u32(c, &m->caps);
	check(c, !(m->caps & ~(uint32_t)CTL_CAPS_ALL));
	walk_u32(c, &m->msg_bytes_max);
	check(c, m->msg_bytes_max >= LANE_MSG_BYTES_MIN && m->msg_bytes_max <= LANE_MSG_BYTES_MAX);
	walk_u32(c, &m->rx_slots);
	check(c, m->rx_slots >= 1 && m->rx_slots <= LANE_RX_SLOTS);
	walk_u64(c, &m->raddr);
	walk_u64(c, &m->rkey);
	walk_u32(c, &m->idle_ms);
	walk_bytes(c, m->incarnation, sizeof(m->incarnation));
	walk_attr(c, &m->attr);
}

static void walk_point(struct cursor *c, struct ctl_point *m)
{
	walk_u64(c, &m->seq);
	check(c, m->seq <= MEDIA_SEQ_MAX);
	walk_u64(c, &m->epoch);
	walk_bytes(c, m->hash, sizeof(m->hash));
}

/* In STATUS of a pool that is not formatted yet the page is all zero; elsewhere role and state are set. */
static void walk_page(struct cursor *c, struct ctl_page *m, bool may_be_none)
{
	walk_u32(c, &m->role);
	check(c, m->role <= MEDIA_ROLE_REPLICA && (m->role || may_be_none));
	walk_u32(c, &m->state);
	check(c, m->state <= MEDIA_INCONSISTENT && !m->state == !m->role);
	walk_bytes(c, m->instance, sizeof(m->instance));
	walk_u64(c, &m->fence_epoch);
	walk_bytes(c, m->fence_id, sizeof(m->fence_id));
	walk_bytes(c, m->sync_hash, sizeof(m->sync_hash));
	walk_u64(c, &m->sync_seq);
	walk_u64(c, &m->sync_group);
}

static void walk_copy_info(struct cursor *c, struct ctl_copy_info *m)
{
	walk_point(c, &m->tail);
	walk_point(c, &m->head);
	check(c, m->tail.seq <= m->head.seq);
	walk_page(c, &m->page, true);
	walk_u64(c, &m->blk_count);
	walk_u64(c, &m->ring_bytes);
	walk_u64(c, &m->used_blks);
	walk_bytes(c, m->content_uuid, sizeof(m->content_uuid));
}

static void walk_format(struct cursor *c, struct ctl_format *m)
{
	walk_bytes(c, m->content_uuid, sizeof(m->content_uuid));
	walk_u64(c, &m->hash_seed);
	walk_u64(c, &m->created_ns);
	walk_u64(c, &m->ring_bytes);
	walk_page(c, &m->page, false);
}

static void walk_fence(struct cursor *c, struct ctl_fence *m)
{
	walk_u64(c, &m->expected_epoch);
	walk_u64(c, &m->epoch);
	walk_bytes(c, m->id, sizeof(m->id));
}

static void walk_reset(struct cursor *c, struct ctl_reset *m)
{
	walk_point(c, &m->at);
	walk_u64(c, &m->used_blks);
}

static void walk_remove(struct cursor *c, struct ctl_remove *m)
{
	walk_u32(c, &m->flags);
	check(c, m->flags <= 3);
	walk_string(c, m->set_name, sizeof(m->set_name));
}

static void walk_payload(struct cursor *c, struct ctl_msg *msg)
{
	switch (msg->type) {
	case CTL_HELLO:
	case CTL_HELLO + CTL_ANSWER: walk_hello(c, &msg->u.hello); break;
	case CTL_CREATE:
	case CTL_OPEN: walk_open(c, &msg->u.open, msg->type == CTL_CREATE); break;
	case CTL_CREATE + CTL_ANSWER:
	case CTL_OPEN + CTL_ANSWER: walk_session(c, &msg->u.session); break;
	case CTL_STATUS + CTL_ANSWER: walk_copy_info(c, &msg->u.copy_info); break;
	case CTL_CHAIN: walk_u64(c, &msg->u.chain.seq); break;
	case CTL_CHAIN + CTL_ANSWER: walk_point(c, &msg->u.point); break;
	case CTL_FORMAT: walk_format(c, &msg->u.format); break;
	case CTL_FENCE: walk_fence(c, &msg->u.fence); break;
	case CTL_PAGE: walk_page(c, &msg->u.page, false); break;
	case CTL_CHECKPOINT: walk_u64(c, &msg->u.checkpoint.upto); break;
	case CTL_RESET: walk_reset(c, &msg->u.reset); break;
	case CTL_SET_ATTR: walk_attr(c, &msg->u.attr); break;
	case CTL_REMOVE: walk_remove(c, &msg->u.remove); break;
	case CTL_ERROR: walk_error(c, &msg->u.error); break;
	case CTL_STATUS:
	case CTL_PING:
	case CTL_PING + CTL_ANSWER:
	case CTL_CLOSE:
	case CTL_FORMAT + CTL_ANSWER:
	case CTL_FENCE + CTL_ANSWER:
	case CTL_PAGE + CTL_ANSWER:
	case CTL_CHECKPOINT + CTL_ANSWER:
	case CTL_RESET + CTL_ANSWER:
	case CTL_SET_ATTR + CTL_ANSWER:
	case CTL_CLOSE + CTL_ANSWER:
	case CTL_REMOVE + CTL_ANSWER: break;
	default: check(c, false);
	}
}

/* ---------------------------------------------------------------- messages */

static uint32_t ctl_csum(struct ctl_hdr_msg hdr, const uint8_t *payload, size_t len)
{
	hdr.csum = le32_put(0);
	return csum_crc32c(csum_crc32c(0, &hdr, sizeof(hdr)), payload, len);
}

int ctl_encode(const struct ctl_msg *msg, void *buf, size_t *len)
{
	uint8_t *payload = (uint8_t *)buf + sizeof(struct ctl_hdr_msg);
	struct cursor c = { .at = payload, .left = CTL_PAYLOAD_BYTES_MAX };
	struct ctl_msg copy = *msg; /* the walk takes writable fields; encoding leaves them as they are */
	struct ctl_hdr_msg hdr;
	size_t n;

	walk_payload(&c, &copy);
	if (c.bad)
		return -EINVAL;
	n = CTL_PAYLOAD_BYTES_MAX - c.left;
	hdr = (struct ctl_hdr_msg){
		.magic = le32_put(CTL_MAGIC),
		.version = le16_put(CTL_VERSION),
		.type = le16_put(msg->type),
		.len = le32_put((uint32_t)n),
	};
	hdr.csum = le32_put(ctl_csum(hdr, payload, n));
	memcpy(buf, &hdr, sizeof(hdr));
	*len = sizeof(hdr) + n;
	return 0;
}

int ctl_peek(const struct ctl_hdr_msg *hdr, uint32_t *payload_len)
{
	uint32_t n = le32_get(hdr->len);

	if (le32_get(hdr->magic) != CTL_MAGIC || n > CTL_PAYLOAD_BYTES_MAX)
		return -EPROTO;
	if (le16_get(hdr->version) != CTL_VERSION)
		return -EPROTONOSUPPORT;
	*payload_len = n;
	return 0;
}

int ctl_decode(const void *buf, size_t len, struct ctl_msg *msg)
{
	uint8_t *payload = (uint8_t *)buf + sizeof(struct ctl_hdr_msg); /* only read: the cursor decodes */
	struct cursor c = { .at = payload, .decoding = true };
	struct ctl_msg out = { 0 };
	struct ctl_hdr_msg hdr;
	uint32_t n;
	int err;

	if (len < sizeof(hdr))
		return -EPROTO;
	memcpy(&hdr, buf, sizeof(hdr));
	err = ctl_peek(&hdr, &n);
	if (err)
		return err;
	if (len != sizeof(hdr) + n || le32_get(hdr.csum) != ctl_csum(hdr, payload, n))
		return -EPROTO;
	out.type = le16_get(hdr.type);
	c.left = n;
	walk_payload(&c, &out);
	if (c.bad || c.left)
		return -EPROTO;
	*msg = out;
	return 0;
}
