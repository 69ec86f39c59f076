/* What one session serves: a pool, its copy of a file system if it has one, the engine, the lanes. Belongs to the control
 * server's thread; shares the copy with the lane threads under the engine's lock. */
#ifndef RPMEMFS_RPMEMD_SERVED_H
#define RPMEMFS_RPMEMD_SERVED_H

#include "codec.h"
#include "config.h"

#define SERVED_CONNECT_MS 30000u /* all lanes must be connected by then */

struct served;

struct served_cfg {
	const struct config *config;
	const char *bind_address;           /* numeric, NULL: any */
	const char *address;                /* stated to the initiator; "": the host it dialled */
	void (*lanes_ended)(void *arg, int err); /* from a lane thread */
	void *arg;
};

/* Acts on CREATE or OPEN (req->type) and fills session. A failed CREATE leaves no files. Errors with errmsg: store.h's,
 * copy_open's and lanes_open's; -EMEDIUMTYPE: CTL_OPEN_FS for a pool that is none of the file system's; -EPERM: without
 * CTL_OPEN_FS for one that is, except read-only; -ESTALE: fenced above the session's epoch; -ERANGE: flags that exclude each other. */
int served_open(const struct served_cfg *cfg, const struct ctl_msg *req, struct ctl_session *session,
		struct served **out);

/* Acts on STATUS, CHAIN, FORMAT, FENCE, PAGE, CHECKPOINT, RESET or SET_ATTR; fills answer->u where the answer has a payload.
 * What it changed is durable on return. Errors with errmsg: as wire.h says; -EIO: the medium failed, end the session. */
int served_handle(struct served *served, const struct ctl_msg *req, struct ctl_msg *answer);

/* The initiator has heard of the session: it sent another message. Until then, or until a lane was asked for, a plain pool that
 * CREATE made for lanes is removed again when the session ends: whoever asked for it does not know that it is there. */
void served_heard(struct served *served);

/* Ends lanes, then releases copy and pool: after it no write of the session can arrive and the lock is free. NULL is
 * allowed. */
void served_close(struct served *served);

/* Removes what a CREATE made, whose answer could not be given. Closes as well. */
void served_discard(struct served *served);

#endif
