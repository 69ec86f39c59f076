/* The target's lanes: listens for the session's lanes, checks token before an endpoint exists, receives requests, hands
 * them to the engine and answers. One thread per lane; each drives its own completion queue (facts: the tcp provider
 * makes no progress unless polled). */
#ifndef RPMEMFS_RPMEMD_LANES_H
#define RPMEMFS_RPMEMD_LANES_H

#include "engine.h"
#include "wire.h"

#define LANE_FDS_MAX 10u  /* descriptors of one lane at most: 9 with tcp of libfabric 1.17 (measured) */
#define LANES_FDS_REST 64u /* of everything else in the process */

struct lanes;

struct lanes_cfg {
	const char *provider;     /* "tcp" or "verbs" */
	const char *bind_address; /* numeric, NULL: any */
	unsigned lane_count;
	uint64_t session;
	uint8_t token[WIRE_TOKEN_BYTES];
	struct pm *pm;
	struct engine *engine;
	bool read_only;           /* registered for remote reads only */
	bool lazy;                /* plain sessions: a lane is connected when first used, any time; each index once */
	unsigned connect_ms;      /* all lanes must be connected within this; then listening ends. lazy: one that was accepted */
	unsigned idle_ms;         /* a lane without any message for this long ends the session (the initiator PINGs); not lazy */
	/* Called once, from a lane's or the accepting thread, when a lane failed or was closed. lazy: only when the engine
	 * ended the session; a lane whose connection ends is nobody else's business. */
	void (*ended)(void *arg, int err);
	void *arg;
};

/* Loads the fabric, listens and starts the threads. out->session fields port, raddr, rkey, caps are filled in.
 * -ENOMEDIUM: provider not usable (errmsg says why). */
int lanes_open(const struct lanes_cfg *cfg, struct ctl_session *session, struct lanes **out);

/* Shuts every endpoint down, joins the threads, destroys every endpoint and memory region: after it no write of the old
 * session can arrive. Whether a lane was ever asked for with the session's token: by somebody who has heard of the session,
 * then, and may take the lane for connected whatever became of it here. */
bool lanes_close(struct lanes *lanes);

#endif
