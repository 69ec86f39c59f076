/* The persist engine: acts on one lane request after another. Knows messages and copies, no fabric. One engine per
 * session; several lanes may call it, each from one thread at a time. Lanes of a copy take turns under the engine's lock;
 * those of a plain pool share nothing, but for msync(2) of files. */
#ifndef RPMEMFS_RPMEMD_ENGINE_H
#define RPMEMFS_RPMEMD_ENGINE_H

#include "copy.h"
#include "wire.h"

struct engine;

struct engine_cfg {
	struct pm *pm;
	struct copy *copy;  /* NULL and not fs: plain pool (librpmem), COMMIT and CHECKPOINT refused */
	uint64_t floor;     /* least offset a plain write may touch: 4096, or 0 without headers */
	bool read_only;
	uint64_t epoch;     /* of the session: no commit while the copy's fence is above it; 0: records alone are judged */
	bool fs;            /* copy is or will be (engine_set_copy) set: plain writes are refused until it is */
};

int engine_new(const struct engine_cfg *cfg, struct engine **out);
void engine_delete(struct engine *engine);

/* Handles one message of len bytes; lane < WIRE_LANES_MAX keeps trains of different lanes apart. Fills *ack (sealed). For
 * LANE_READ read_buf (LANE_MSG_BYTES_MAX) receives the payload. Returns 0; 1 when the message is silent: the ack is not
 * to be sent; or a negative errno when the session must end (malformed message, medium failed): the ack is then to be sent
 * if possible and the lanes closed. */
int engine_handle(struct engine *engine, unsigned lane, const void *msg, size_t len, struct lane_ack_msg *ack,
		  void *read_buf);

/* Called when no request came for a while: checkpoints in bounded steps. Returns true while there is more to do. */
bool engine_idle(struct engine *engine);

/* Runs fn(arg) with the engine's lock held: control requests that touch the copy, or a plain pool's headers. */
int engine_locked(struct engine *engine, int (*fn)(void *arg), void *arg);

/* The session's copy changed hands (FORMAT made one, RESET moved it): called by such a function, so that no request of a lane
 * meets the new copy with what was known of the old one. */
void engine_set_copy(struct engine *engine, struct copy *copy);

#endif
