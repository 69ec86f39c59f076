/* The initiator's end of a control channel, for tests: messages over a descriptor. */
#ifndef RPMEMFS_TESTS_CTL_PEER_H
#define RPMEMFS_TESTS_CTL_PEER_H

#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "codec.h"

/* One message; false: the channel ended. */
static inline bool ctl_peer_receive(int fd, struct ctl_msg *answer)
{
	_Alignas(8) uint8_t buf[CTL_MSG_BYTES_MAX];
	uint32_t n = 0;

	if (recv(fd, buf, sizeof(struct ctl_hdr_msg), MSG_WAITALL) != sizeof(struct ctl_hdr_msg))
		return false;
	cr_assert_eq(ctl_peek((struct ctl_hdr_msg *)buf, &n), 0);
	if (n)
		cr_assert_eq(recv(fd, buf + sizeof(struct ctl_hdr_msg), n, MSG_WAITALL), (ssize_t)n);
	cr_assert_eq(ctl_decode(buf, sizeof(struct ctl_hdr_msg) + n, answer), 0);
	return true;
}

/* Sends msg, receives the answer: the status it carries, WIRE_STATUS_COUNT when the channel ended. */
static inline unsigned ctl_peer_ask(int fd, const struct ctl_msg *msg, struct ctl_msg *answer)
{
	uint8_t buf[CTL_MSG_BYTES_MAX];
	size_t len = 0;

	cr_assert_eq(ctl_encode(msg, buf, &len), 0);
	if (send(fd, buf, len, MSG_NOSIGNAL) != (ssize_t)len || !ctl_peer_receive(fd, answer))
		return WIRE_STATUS_COUNT;
	if (answer->type == CTL_ERROR)
		return answer->u.error.status;
	cr_expect_eq(answer->type, msg->type + CTL_ANSWER);
	return WIRE_OK;
}

static inline unsigned ctl_peer_plain(int fd, unsigned type, struct ctl_msg *answer)
{
	struct ctl_msg m = { .type = (uint16_t)type };

	return ctl_peer_ask(fd, &m, answer);
}

static inline unsigned ctl_peer_hello(int fd)
{
	struct ctl_msg m = { .type = CTL_HELLO, .u.hello = { 1, 1, 0 } }, answer;

	return ctl_peer_ask(fd, &m, &answer);
}

#endif
