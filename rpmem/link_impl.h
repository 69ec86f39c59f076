/* Shared by rpmem/link.c (connecting, polling, waiting) and rpmem/link_ops.c (what an owner asks of a link). */
#ifndef RPMEMFS_RPMEM_LINK_IMPL_H
#define RPMEMFS_RPMEM_LINK_IMPL_H

#include <pthread.h>
#include "repl.h"
#include "session.h"

struct link {
	struct repl_link pub;        /* first: ops cast it back */
	struct session_cfg cfg;
	char *set_name, *provider, *command;
	uint32_t connect_ms;
	bool spin;
	pthread_t connector;
	bool joined;
	bool cancel, finished;       /* atomic */
	struct session *session;     /* NULL: not UP */
	int connect_err;
	char connect_text[sizeof(((struct repl_link *)0)->err_text)];
	int event_fd, rest_fd, timer_fd, cq_fd;
	uint64_t tick_ns, next_tick_ns;
	bool slept;                  /* the owner may have slept: look at the rest */
	unsigned turn;               /* lane of the next read or write */
	unsigned idle_polls;
};

static inline struct link *link_of(struct repl_link *pub)
{
	return (struct link *)pub;
}

/* DOWN with err and the text of errmsg. */
enum repl_state link_failed(struct link *link, int err);
/* A rest, then one poll: the way of waiting of every call that blocks. 0, or pub.err. */
int link_rest(struct link *link, bool progress);
struct deadline link_deadline(const struct link *link);

/* Entries of struct repl_link_ops. */
int link_push(struct repl_link *pub, const struct repl_range *ranges, unsigned count);
int link_commit(struct repl_link *pub, const struct repl_commit *commit);
int link_checkpoint(struct repl_link *pub, uint64_t upto);
int link_read(struct repl_link *pub, uint64_t off, void *dst, uint32_t len);
int link_write(struct repl_link *pub, const struct repl_range *ranges, unsigned count);
int link_settle(struct repl_link *pub);
int link_settle_old(struct repl_link *pub, unsigned young);
int link_chain(struct repl_link *pub, uint64_t seq, struct copy_point *point);
int link_format(struct repl_link *pub, const struct copy_format *fmt);
int link_fence(struct repl_link *pub, uint64_t expected, uint64_t epoch, const uint8_t id[16]);
int link_page(struct repl_link *pub, const struct copy_page *page);
int link_checkpoint_all(struct repl_link *pub);
int link_reset(struct repl_link *pub, const struct copy_point *at, uint64_t used_blks);
int link_refresh(struct repl_link *pub);

#endif
