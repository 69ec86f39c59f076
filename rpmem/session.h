/* A session with one target: control channel, what the handshake agreed on, and the connected lanes. Those of a file system
 * are connected with it; a plain one (without CTL_OPEN_FS) only looks the way up, and whoever needs a lane connects it. */
#ifndef RPMEMFS_RPMEM_SESSION_H
#define RPMEMFS_RPMEM_SESSION_H

#include "channel.h"
#include "lane.h"
#include "repl.h"
#include "target.h"

/* How far an opening came; its failure belongs to that step. */
enum session_step { SESSION_REACH, SESSION_START, SESSION_HELLO, SESSION_POOL, SESSION_LANES };

struct session_cfg {
	struct target target;
	const char *set_name, *provider, *command;
	uint32_t lanes, notice_ms;
	uint32_t open_flags;         /* enum ctl_open_flags */
	bool create, has_attr;
	struct ctl_attr attr;
	uint64_t pool_size, epoch;
	uint64_t session_before;     /* plain: our own lost session of that pool, 0: none */
	uint32_t idle_ms;            /* plain */
	enum session_step *step;     /* NULL: not asked for */
};

struct session {
	struct channel *channel;
	struct fab *fab;             /* NULL with CTL_OPEN_NO_LANES */
	struct ctl_session info;
	struct repl_peer peer;
	unsigned lane_count;
	struct lane *lanes[];
};

/* The whole handshake, until the deadline. On failure errmsg names the failing step; nothing is left behind. */
int session_open(const struct session_cfg *cfg, const struct deadline *deadline, struct session **out);
/* STATUS: puts page, tail, head and sizes into session->peer. */
int session_status(struct session *session, const struct deadline *deadline);
/* Deletes the lanes: the memory of unfinished operations is not used any more. */
void session_cut(struct session *session);
/* CLOSE while the deadline lasts (NULL: without a word), then everything goes, whatever the outcome: why CLOSE was not
 * answered. */
int session_close(struct session *session, const struct deadline *deadline);
/* Of a target that is lost: everything goes and nothing is waited for. */
void session_drop(struct session *session);

void session_point_get(const struct ctl_point *msg, struct copy_point *point);
void session_page_put(const struct copy_page *page, struct ctl_page *msg);

#endif
