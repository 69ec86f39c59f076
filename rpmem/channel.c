/* The control channel above its two carriers: deadlines, whole messages, answers matched to requests. */
#include "channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "errmsg.h"
#include "target.h"

/* ---------------------------------------------------------------- deadlines */
uint64_t channel_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct deadline deadline_in(unsigned ms, const bool *cancel)
{
	return (struct deadline){ .ns = channel_now_ns() + ms * 1000000ull, .cancel = cancel };
}

int deadline_slice(const struct deadline *deadline)
{
	uint64_t now, left_ms;

	if (deadline->tend)
		deadline->tend(deadline->arg);
	now = channel_now_ns();
	if (deadline->cancel && __atomic_load_n(deadline->cancel, __ATOMIC_ACQUIRE))
		return errmsg_set(-ECANCELED, "given up");
	if (now >= deadline->ns)
		return errmsg_set(-ETIMEDOUT, "no answer in time");
	left_ms = (deadline->ns - now) / 1000000 + 1;
	return left_ms < CHANNEL_SLICE_MS ? (int)left_ms : CHANNEL_SLICE_MS;
}

/* ---------------------------------------------------------------- bytes */
/* What the far end says reaches terminals: one line of it, and no control characters. */
static char printable(char c)
{
	if ((unsigned char)c < ' ' || c == 127)
		return '?';
	return c;
}

void channel_stderr(struct channel *channel, const char *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		char c = bytes[i];

		if (c == '\n' && channel->line_len) {
			channel->line[channel->line_len] = '\0';
			memcpy(channel->last_line, channel->line, channel->line_len + 1);
			channel->line_len = 0;
		} else if (c != '\n' && c != '\r' && channel->line_len + 1 < sizeof(channel->line)) {
			channel->line[channel->line_len++] = printable(c);
		}
	}
}

/* Moves exactly len bytes in one direction. */
static int channel_move(struct channel *channel, char *buf, size_t len, bool sending, const struct deadline *deadline)
{
	while (len) {
		long n = sending ? channel->ops->write(channel, buf, len) : channel->ops->read(channel, buf, len);
		int slice;

		if (n < 0)
			return channel->ops->explain(channel, (int)n, true);
		buf += n;
		len -= (size_t)n;
		if (n)
			continue;
		slice = deadline_slice(deadline);
		if (slice < 0)
			return slice == -ETIMEDOUT ? channel->ops->explain(channel, slice, true) : slice;
		channel->ops->wait(channel, sending, slice);
	}
	return 0;
}

/* ---------------------------------------------------------------- messages */
int channel_start(struct channel *channel, const struct deadline *deadline)
{
	le32_t status;
	int err = channel_move(channel, (char *)&status, sizeof(status), false, deadline);

	if (err)
		return err;
	if (!le32_get(status))
		return 0;
	if (le32_get(status) > 4095) /* no errno: something else talks, a shell's greeting for example */
		return errmsg_set(-EPROTO, "what was started there is not rpmemd: its output starts with 0x%08x",
				  le32_get(status));
	return channel->ops->explain(channel, -(int)le32_get(status), true);
}

int channel_send(struct channel *channel, const struct ctl_msg *msg, const struct deadline *deadline)
{
	char buf[CTL_MSG_BYTES_MAX];
	size_t len;
	int err = ctl_encode(msg, buf, &len);

	if (err)
		return errmsg_set(err, "control request %u cannot be encoded", msg->type);
	return channel_move(channel, buf, len, true, deadline);
}

int channel_receive(struct channel *channel, uint16_t request, struct ctl_msg *answer, const struct deadline *deadline)
{
	char buf[CTL_MSG_BYTES_MAX];
	struct ctl_hdr_msg hdr;
	uint32_t len;
	int err = channel_move(channel, buf, sizeof(hdr), false, deadline);

	if (err)
		return err;
	memcpy(&hdr, buf, sizeof(hdr));
	err = ctl_peek(&hdr, &len);
	if (err)
		return errmsg_set(err, "the target's answer is malformed");
	err = channel_move(channel, buf + sizeof(hdr), len, false, deadline);
	if (err)
		return err;
	err = ctl_decode(buf, sizeof(hdr) + len, answer);
	if (err)
		return errmsg_set(err, "the target's answer is malformed");
	if (answer->type == CTL_ERROR) {
		for (char *c = answer->u.error.text; *c; c++)
			*c = printable(*c);
		err = wire_status_err(answer->u.error.status);
		return errmsg_set(err ? err : -EPROTO, "%s", answer->u.error.text);
	}
	if (answer->type != request + CTL_ANSWER)
		return errmsg_set(-EPROTO, "the target answered %u to request %u", answer->type, request);
	return 0;
}

int channel_request(struct channel *channel, const struct ctl_msg *msg, struct ctl_msg *answer,
		    const struct deadline *deadline)
{
	int err = channel_send(channel, msg, deadline);

	return err ? err : channel_receive(channel, msg->type, answer, deadline);
}

int channel_check(struct channel *channel)
{
	char byte;
	long n = channel->ops->read(channel, &byte, 1);

	if (n < 0)
		return channel->ops->explain(channel, (int)n, false);
	return n ? errmsg_set(-EPROTO, "the target talks out of turn") : 0;
}

/* ---------------------------------------------------------------- opening */
int channel_open(const struct target *target, const char *command, const struct deadline *deadline,
		 struct channel **out)
{
	if (!command)
		command = getenv("RPMEM_CMD");
	if (!command || !*command)
		command = "rpmemd";
	return target->local ? spawn_open(command, out) : ssh_open(target, command, deadline, out);
}

void channel_end(struct channel *channel)
{
	if (channel)
		channel->ops->close(channel, false);
}

void channel_drop(struct channel *channel)
{
	if (channel)
		channel->ops->close(channel, true);
}
