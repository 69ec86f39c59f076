/* The control channel to one target: a byte stream with deadlines, and on it one request and one answer at a time.
 *
 *   channel_open: "@local" -> rpmemd as a child over a socket pair (spawn.c), else over SSH (ssh.c)
 *   channel_start: the target's four status bytes -> channel_send, channel_receive ... -> channel_end
 *
 * A channel belongs to one thread at a time. Every wait ends at its deadline, or soon after *cancel becomes true. */
#ifndef RPMEMFS_RPMEM_CHANNEL_H
#define RPMEMFS_RPMEM_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "codec.h"

#define CHANNEL_SLICE_MS 100      /* no wait is longer in one piece, so that cancel is seen */
#define CHANNEL_COMMAND_WORDS_MAX 32u
#define CHANNEL_STDERR_BYTES_MAX 240u

struct target;
struct channel;

/* Until when, and what ends a wait before. */
struct deadline {
	uint64_t ns;        /* CLOCK_MONOTONIC */
	const bool *cancel; /* read atomically; NULL: nothing */
	void (*tend)(void *arg); /* called before each slice, by who waits; NULL: nothing to tend */
	void *arg;
};
uint64_t channel_now_ns(void);
struct deadline deadline_in(unsigned ms, const bool *cancel);
/* Milliseconds of the next slice, 1..CHANNEL_SLICE_MS; -ETIMEDOUT or -ECANCELED. */
int deadline_slice(const struct deadline *deadline);

struct channel_ops {
	/* Moves at most len bytes without waiting: how many, 0: none now, -ECONNRESET: the stream has ended. */
	long (*read)(struct channel *channel, void *buf, size_t len);
	long (*write)(struct channel *channel, const void *buf, size_t len);
	/* Waits for readability (or writability) at most timeout_ms. */
	void (*wait)(struct channel *channel, bool writable, int timeout_ms);
	/* Waits for the far end's parting words, a few milliseconds unless patient, and returns err with errmsg naming them and
	 * its exit. */
	int (*explain)(struct channel *channel, int err, bool patient);
	/* Frees. lost: the far end may be stopped or cut off, and nothing may wait for it. */
	void (*close)(struct channel *channel, bool lost);
};

struct channel {
	const struct channel_ops *ops;
	int fd;         /* readable when the stream has something, its end included */
	bool farewell;  /* set by the owner: CLOSE was answered, the far end is ending by itself */
	char name[300]; /* for messages */
	char host[256]; /* where the fabric is dialled unless the target says otherwise */
	char last_line[CHANNEL_STDERR_BYTES_MAX]; /* newest whole line of the far end's stderr */
	size_t line_len;
	char line[CHANNEL_STDERR_BYTES_MAX];
};

/* command: words of the rpmemd command, NULL: RPMEM_CMD or "rpmemd". */
int channel_open(const struct target *target, const char *command, const struct deadline *deadline,
		 struct channel **out);
int spawn_open(const char *command, struct channel **out);
int ssh_open(const struct target *target, const char *command, const struct deadline *deadline, struct channel **out);
void channel_end(struct channel *channel); /* NULL is allowed */
/* The same without waiting for anybody; a far end that is our child is killed. NULL is allowed. */
void channel_drop(struct channel *channel);

/* Reads the target's start status: 0, or the errno that kept it from starting. */
int channel_start(struct channel *channel, const struct deadline *deadline);
int channel_send(struct channel *channel, const struct ctl_msg *msg, const struct deadline *deadline);
/* Receives the answer to a request of that type. An ERROR answer becomes its errno, its text the errmsg. */
int channel_receive(struct channel *channel, uint16_t request, struct ctl_msg *answer, const struct deadline *deadline);
int channel_request(struct channel *channel, const struct ctl_msg *msg, struct ctl_msg *answer,
		    const struct deadline *deadline);
/* Between requests nothing may come; for a thread that serves others, so it does not wait: 0, or that the stream has ended (-ECONNRESET) or talks out of turn (-EPROTO). */
int channel_check(struct channel *channel);

/* For the implementations: collects the far end's stderr, keeping its newest line. */
void channel_stderr(struct channel *channel, const char *bytes, size_t len);

#endif
