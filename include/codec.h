/* Encoding and decoding of control payloads and checking of lane messages: the only code that turns wire bytes into
 * structures. Pure functions; any thread. */
#ifndef RPMEMFS_CODEC_H
#define RPMEMFS_CODEC_H

#include <stdbool.h>
#include "wire.h"

/* One control message of any type, decoded. */
struct ctl_msg {
	uint16_t type; /* enum ctl_type; answers with CTL_ANSWER added */
	union {
		struct ctl_hello hello;           /* HELLO and its answer */
		struct ctl_open open;             /* CREATE, OPEN */
		struct ctl_session session;       /* answers to CREATE, OPEN */
		struct ctl_copy_info copy_info;   /* answer to STATUS */
		struct ctl_chain chain;
		struct ctl_point point;           /* answer to CHAIN */
		struct ctl_format format;
		struct ctl_fence fence;
		struct ctl_page page;             /* PAGE */
		struct ctl_checkpoint checkpoint;
		struct ctl_reset reset;
		struct ctl_attr attr;             /* SET_ATTR */
		struct ctl_remove remove;
		struct ctl_error error;           /* ERROR */
	} u; /* STATUS, CLOSE and DONE answers carry nothing */
};

#define CTL_MSG_BYTES_MAX (sizeof(struct ctl_hdr_msg) + CTL_PAYLOAD_BYTES_MAX)

/* Encodes header and payload into buf (CTL_MSG_BYTES_MAX bytes); *len is what to send. -EINVAL: a field out of range. */
int ctl_encode(const struct ctl_msg *msg, void *buf, size_t *len);
/* Payload length announced by a header, after checking magic, version and bound. -EPROTO, -EPROTONOSUPPORT. */
int ctl_peek(const struct ctl_hdr_msg *hdr, uint32_t *payload_len);
/* Decodes a whole message (header and payload, len bytes). -EPROTO: malformed, trailing or missing bytes, checksum. */
int ctl_decode(const void *buf, size_t len, struct ctl_msg *msg);

/* A lane request, checked whole: pointers into buf. */
struct lane_view {
	uint16_t op, flags;
	uint64_t seq, arg, tail;
	uint32_t range_count, inline_bytes, rec_bytes, rec_off, rec_len;
	const struct lane_range_msg *ranges;
	const uint8_t *payload, *rec;
};
/* Fills csum of a request laid out in buf. With LANE_BARE buf may end behind the ranges. */
void lane_req_seal(void *buf, size_t len);
/* Checks length, magic, op, flags, counts, checksum, that ranges lie within [floor, pool_size) without overflow and that
 * the inline lengths add up. -EPROTO otherwise. */
int lane_req_check(const void *buf, size_t len, uint64_t floor, uint64_t pool_size, struct lane_view *view);
void lane_ack_seal(struct lane_ack_msg *ack);
int lane_ack_check(const void *buf, size_t len, struct lane_ack_msg *ack); /* copies it out */

/* "tcp"/"verbs", "GPSPM"/"APM" for humans. */
const char *wire_method_name(uint32_t method);
const char *wire_status_name(uint16_t status);

#endif
