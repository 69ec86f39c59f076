/* The control server: reads whole messages, judges them by the session's state, answers each.
 *
 *   HELLO --hello--> READY --create, open--> SERVING --close--> over
 *                      |  ^--failed--'
 *                      '--remove--> REMOVED --close--> over
 *
 * A request that fails gets ERROR with status and cause, and the session goes on; a message that is malformed or out of place
 * and a failed medium end it. One poll(2) waits for input, for the stop descriptor and for the lanes' end.
 *
 * The lanes of a plain session come and go and may be silent, so its sign of life is the control channel: no message for idle_ms
 * ends it. So it is where there are no lanes, and before there is a session at all: nobody holds a pool or a process who is not
 * heard. Nor does who is heard and does not read: an answer of which nothing is taken for that long ends every session. What
 * has arrived is read before the clock is looked at: who was stopped himself does not blame the peer. CLOSE is answered when
 * lanes, copy and lock are gone, so that whoever reads the answer can open at once. */
#include "server.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include "codec.h"
#include "errmsg.h"
#include "log.h"
#include "served.h"
#include "store.h"

enum state { AT_HELLO = 1, AT_READY = 2, AT_SERVING = 4, AT_REMOVED = 8 };

struct server {
	const struct server_cfg *cfg;
	enum state state;
	bool over;
	int err;                /* why it is over, 0: in order */
	struct served *served;
	unsigned idle_ms;       /* 0: the channel may be silent */
	unsigned patience_ms;   /* of an answer that is not taken */
	uint64_t heard_ms;      /* newest message, CLOCK_MONOTONIC */
	int wake;               /* eventfd: the lanes ended */
	_Atomic int lanes_err;
	size_t have;
	_Alignas(8) uint8_t in[CTL_MSG_BYTES_MAX];
	uint8_t out[CTL_MSG_BYTES_MAX];
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void end(struct server *s, int err)
{
	if (!s->over)
		s->err = err;
	s->over = true;
}

/* ---------------------------------------------------------------- output */

/* Pieces of at most PIPE_BUF: what poll(2) called writable takes them without blocking. */
static int write_piece(int fd, const uint8_t *buf, size_t len)
{
	ssize_t n = write(fd, buf, len < PIPE_BUF ? len : PIPE_BUF);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	return (int)n;
}

/* Writes all; stops when the session shall end, or when nothing was taken for patience_ms, so that a peer that does not read
 * cannot hold the pool. */
static int write_all(int fd, int stop_fd, unsigned patience_ms, const void *buf, size_t len)
{
	struct pollfd fds[] = {
		{ .fd = fd, .events = POLLOUT },
		{ .fd = stop_fd, .events = POLLIN },
	};
	size_t at = 0;

	while (at < len) {
		int n = poll(fds, 2, (int)patience_ms);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n)
			return -ETIMEDOUT;
		if (n > 0 && fds[1].revents)
			return -ECANCELED;
		n = n > 0 ? write_piece(fd, (const uint8_t *)buf + at, len - at) : 0;
		if (n < 0)
			return n;
		at += (size_t)n;
	}
	return 0;
}

static int answer_send(struct server *s, const struct ctl_msg *answer)
{
	size_t len = 0;
	int err = ctl_encode(answer, s->out, &len);

	if (err) {
		log_error("control: answer %u cannot be encoded", answer->type);
		return -EPROTO;
	}
	err = write_all(s->cfg->out, s->cfg->stop_fd, s->patience_ms, s->out, len);
	if (err)
		log_warn("control: write: %s", strerror(-err));
	return err;
}

static int error_send(struct server *s, unsigned type, int err)
{
	struct ctl_msg answer = { .type = CTL_ERROR, .u.error.status = (uint16_t)wire_status_of(err) };
	const char *cause = *errmsg_get() ? errmsg_get() : strerror(-err);

	log_error("control: request %u: %s: %s", type, wire_status_name(answer.u.error.status), cause);
	strncpy(answer.u.error.text, cause, sizeof(answer.u.error.text) - 1);
	return answer_send(s, &answer);
}

/* ---------------------------------------------------------------- requests */

static void lanes_ended(void *arg, int err)
{
	struct server *s = arg;
	uint64_t one = 1;

	atomic_store(&s->lanes_err, err);
	if (write(s->wake, &one, sizeof(one)) != (ssize_t)sizeof(one))
		log_error("control: eventfd: %s", strerror(errno)); /* cannot be: one write of 1 fits */
}

static int do_hello(struct server *s, const struct ctl_msg *req, struct ctl_msg *answer)
{
	const struct ctl_hello *m = &req->u.hello;

	if (m->version_min > CTL_VERSION || m->version_max < CTL_VERSION || m->feat_incompat) {
		end(s, -EPROTONOSUPPORT);
		return errmsg_set(-EPROTONOSUPPORT, "peer speaks versions %u..%u with features 0x%x, this is version %u",
			m->version_min, m->version_max, m->feat_incompat, CTL_VERSION);
	}
	answer->u.hello = (struct ctl_hello){ .version_min = CTL_VERSION, .version_max = CTL_VERSION };
	s->state = AT_READY;
	return 0;
}

static int do_open(struct server *s, const struct ctl_msg *req, struct ctl_msg *answer)
{
	struct served_cfg cfg = {
		.config = s->cfg->config,
		.bind_address = s->cfg->bind_address,
		.address = s->cfg->address,
		.lanes_ended = lanes_ended,
		.arg = s,
	};
	int err = served_open(&cfg, req, &answer->u.session, &s->served);

	if (err)
		return err;
	s->state = AT_SERVING;
	s->patience_ms = answer->u.session.idle_ms;
	s->idle_ms = !(req->u.open.flags & CTL_OPEN_FS) || req->u.open.flags & CTL_OPEN_NO_LANES ? s->patience_ms : 0;
	return 0;
}

static int do_ping(struct server *s, const struct ctl_msg *req, struct ctl_msg *answer)
{
	(void)req;
	(void)answer;
	if (s->served)
		served_heard(s->served);
	return 0;
}

static int do_served(struct server *s, const struct ctl_msg *req, struct ctl_msg *answer)
{
	int err;

	served_heard(s->served);
	err = served_handle(s->served, req, answer);
	if (err == -EIO)
		end(s, err);
	return err;
}

static int do_remove(struct server *s, const struct ctl_msg *req, struct ctl_msg *answer)
{
	int err = store_remove(s->cfg->config->poolset_dir, req->u.remove.set_name, req->u.remove.flags);

	(void)answer;
	if (err)
		return err;
	log_info("remove: '%s'", req->u.remove.set_name);
	s->state = AT_REMOVED;
	return 0;
}

static int do_close(struct server *s, const struct ctl_msg *req, struct ctl_msg *answer)
{
	(void)req;
	(void)answer;
	if (s->served)
		served_heard(s->served);
	served_close(s->served);
	s->served = NULL;
	end(s, 0);
	return 0;
}

static const struct request {
	int (*run)(struct server *s, const struct ctl_msg *req, struct ctl_msg *answer);
	unsigned states;
} requests[CTL_REQUEST_LAST + 1] = {
	[CTL_HELLO] = { do_hello, AT_HELLO },
	[CTL_CREATE] = { do_open, AT_READY },
	[CTL_OPEN] = { do_open, AT_READY },
	[CTL_STATUS] = { do_served, AT_SERVING },
	[CTL_CHAIN] = { do_served, AT_SERVING },
	[CTL_FORMAT] = { do_served, AT_SERVING },
	[CTL_FENCE] = { do_served, AT_SERVING },
	[CTL_PAGE] = { do_served, AT_SERVING },
	[CTL_CHECKPOINT] = { do_served, AT_SERVING },
	[CTL_RESET] = { do_served, AT_SERVING },
	[CTL_SET_ATTR] = { do_served, AT_SERVING },
	[CTL_CLOSE] = { do_close, AT_READY | AT_SERVING | AT_REMOVED },
	[CTL_REMOVE] = { do_remove, AT_READY },
	[CTL_PING] = { do_ping, AT_READY | AT_SERVING | AT_REMOVED },
};

/* A CREATE whose answer was not delivered must not leave a pool nobody knows of. */
static void answer_lost(struct server *s, unsigned type, int err)
{
	if (type == CTL_CREATE && s->served) {
		served_discard(s->served);
		s->served = NULL;
	}
	end(s, err);
}

static void request_run(struct server *s, const struct ctl_msg *req)
{
	struct ctl_msg answer = { .type = (uint16_t)(req->type + CTL_ANSWER) };
	int err;

	if (!req->type || req->type > CTL_REQUEST_LAST || !(requests[req->type].states & s->state)) {
		errmsg_set(-EPROTO, "request %u is out of place", req->type);
		error_send(s, req->type, -EPROTO);
		end(s, -EPROTO);
		return;
	}
	errmsg_clear();
	err = requests[req->type].run(s, req, &answer);
	err = err ? error_send(s, req->type, err) : answer_send(s, &answer);
	if (err)
		answer_lost(s, req->type, err);
	s->heard_ms = now_ms(); /* what took long here was no silence of the peer */
}

/* ---------------------------------------------------------------- input */

/* Bytes the message at hand needs: a header, then header and payload. An error when the header is bad. */
static int message_bytes(const struct server *s, size_t *bytes)
{
	const struct ctl_hdr_msg *hdr = (const struct ctl_hdr_msg *)s->in;
	uint32_t payload;
	int err;

	*bytes = sizeof(*hdr);
	if (s->have < sizeof(*hdr))
		return 0;
	err = ctl_peek(hdr, &payload);
	if (!err)
		*bytes += payload;
	return err;
}

static void refuse(struct server *s, int err)
{
	errmsg_set(err, "malformed control message");
	error_send(s, 0, err);
	end(s, err);
}

/* Acts on the message when it is whole. */
static void input_act(struct server *s)
{
	struct ctl_msg msg;
	size_t bytes;
	int err = message_bytes(s, &bytes);

	if (!err && s->have < bytes)
		return;
	if (!err)
		err = ctl_decode(s->in, s->have, &msg);
	s->have = 0;
	if (err)
		refuse(s, err);
	else
		request_run(s, &msg);
}

static void input_read(struct server *s)
{
	size_t bytes;
	ssize_t n;

	message_bytes(s, &bytes); /* a bad header never stays: input_act refused it */
	n = read(s->cfg->in, s->in + s->have, bytes - s->have);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n < 0 && errno != ECONNRESET) {
		log_error("control: read: %s", strerror(errno));
		end(s, -errno);
		return;
	}
	if (n <= 0) {
		log_info("control: the peer is gone");
		end(s, s->have ? -EPROTO : 0);
		return;
	}
	s->have += (size_t)n;
	input_act(s);
}

/* ---------------------------------------------------------------- session */

/* For poll(2): until the peer has been silent for too long. */
static int time_left(const struct server *s)
{
	uint64_t silent = now_ms() - s->heard_ms;

	if (!s->idle_ms)
		return -1;
	return silent < s->idle_ms ? (int)(s->idle_ms - silent) : 0;
}

static void wait_once(struct server *s)
{
	struct pollfd fds[] = {
		{ .fd = s->cfg->stop_fd, .events = POLLIN },
		{ .fd = s->wake, .events = POLLIN },
		{ .fd = s->cfg->in, .events = POLLIN },
	};
	int n = poll(fds, 3, time_left(s));

	if (n < 0) {
		if (errno != EINTR)
			end(s, -errno);
		return;
	}
	if (!n && !time_left(s)) {
		log_warn("control: no message for %u ms: the session ends", s->idle_ms);
		end(s, -ETIMEDOUT);
	} else if (fds[0].revents) {
		log_info("session: told to end");
		if (s->served)
			served_heard(s->served); /* by the initiator's next session, perhaps */
		end(s, 0);
	} else if (fds[2].revents) { /* before the lanes: a peer that sent CLOSE may have closed them already */
		input_read(s);
	} else if (fds[1].revents) {
		log_info("session: lanes ended: %s", strerror(-atomic_load(&s->lanes_err)));
		end(s, atomic_load(&s->lanes_err));
	}
}

static int status_write(int out, int stop_fd, unsigned patience_ms, int err)
{
	le32_t status = le32_put((uint32_t)-err);

	return write_all(out, stop_fd, patience_ms, &status, sizeof(status));
}

int server_run(const struct server_cfg *cfg)
{
	unsigned idle_ms = cfg->config->idle_ms;
	struct server s = { .cfg = cfg, .state = AT_HELLO, .idle_ms = idle_ms, .patience_ms = idle_ms, .heard_ms = now_ms() };
	int err;

	s.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s.wake < 0) {
		err = -errno;
		server_refuse(cfg->out, err);
		return err;
	}
	err = status_write(cfg->out, cfg->stop_fd, idle_ms, 0);
	if (err)
		end(&s, err);
	while (!s.over)
		wait_once(&s);
	served_close(s.served);
	close(s.wake);
	return s.err;
}

void server_refuse(int out, int err)
{
	if (status_write(out, -1, CONFIG_IDLE_MS_DEFAULT, err))
		log_error("control: the peer did not take status %d", -err);
}
