/* The persist engine: acts on one lane request after another. Knows messages and copies, no fabric. One engine per
 * session; its calls are serialised by the engine's lock, so several lanes may call it. */
#ifndef RPMEMFS_RPMEMD_ENGINE_H
#define RPMEMFS_RPMEMD_ENGINE_H

#include "copy.h"
#include "wire.h"

struct engine;

struct engine_cfg {
	struct pm *pm;
	struct copy *copy;  /* NULL: plain pool (librpmem), COMMIT and CHECKPOINT refused */
	uint64_t floor;     /* least offset a plain write may touch: 4096, or 0 without headers */
	bool read_only;
	uint64_t epoch;     /* of the session: no commit while the copy's fence is above it; 0: records alone are judged */
	bool fs;            /* copy is or will be (engine_set_copy) set: plain writes are refused until it is */
};

int engine_new(const struct engine_cfg *cfg, struct engine **out);
void engine_delete(struct engine *engine);

/* Handles one message of len bytes; lane < WIRE_LANES_MAX keeps trains of different lanes apart. Fills *ack (sealed). For
 * LANE_READ read_buf (LANE_MSG_BYTES_MAX) receives the payload. Returns 0, or a negative errno when the session must
 * end (malformed message, medium failed): the ack is then to be sent if possible and the lanes closed. */
int engine_handle(struct engine *engine, unsigned lane, const void *msg, size_t len, struct lane_ack_msg *ack,
		  void *read_buf);

/* Called when no request came for a while: checkpoints in bounded steps. Returns true while there is more to do. */
bool engine_idle(struct engine *engine);

/* The session's copy changed hands (FORMAT made one, RESET moved it): call with lanes quiet. */
void engine_set_copy(struct engine *engine, struct copy *copy);

/* Runs fn(arg) with the engine's lock held: control requests that touch the copy. */
int engine_locked(struct engine *engine, int (*fn)(void *arg), void *arg);

#endif
