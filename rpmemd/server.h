/* The control server: one session over one pair of descriptors. Runs in the main thread. */
#ifndef RPMEMFS_RPMEMD_SERVER_H
#define RPMEMFS_RPMEMD_SERVER_H

#include "config.h"

struct server_cfg {
	int in, out;              /* may be the same descriptor */
	int stop_fd;              /* readable when the session shall end (signalfd); -1: none */
	const struct config *config;
	const char *bind_address; /* of the lanes; NULL: any */
	const char *address;      /* stated to the initiator; "": the host it dialled */
};

/* Writes status 0, then serves until CLOSE, end of input, stop_fd, or the end of the lanes. Everything the session held is
 * released on return. 0: an end in order; negative errno: why the session broke (logged). */
int server_run(const struct server_cfg *cfg);

/* Instead of server_run when the daemon cannot start: the peer reads the errno as status. */
void server_refuse(int out, int err);

#endif
