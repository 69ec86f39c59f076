/* The environment of librpmem programs, read anew for each handle. Any thread; nothing here writes the environment. */
#ifndef RPMEMFS_RPMEM_ENV_H
#define RPMEMFS_RPMEM_ENV_H

#include <stddef.h>
#include <stdint.h>

#define ENV_RECONNECT_MS_DEFAULT 10000u
#define ENV_NOTICE_MS_DEFAULT 5000u
#define ENV_NOTICE_MS_MIN 100u
#define ENV_MS_MAX 3600000u
#define ENV_WORK_QUEUE_DEFAULT 50u
#define ENV_COMMAND_BYTES_MAX 4096u
#define ENV_PROVIDERS_MAX 2u

struct env {
	unsigned lanes_max;    /* RPMEM_MAX_NLANES; else WIRE_LANES_MAX */
	unsigned work_queue;   /* RPMEM_WORK_QUEUE_SIZE: messages under way on a lane */
	uint32_t reconnect_ms; /* RPMEM_RECONNECT_MS; 0: never */
	uint32_t notice_ms;    /* RPMEM_NOTICE_MS */
};

/* A value that is no number, or out of range, counts as not set and is logged. */
void env_read(struct env *env);
/* The rpmemd command of this call: RPMEM_CMD's alternatives ('|' between them) take turns; "rpmemd" without it. -E2BIG.
 */
int env_command(char command[ENV_COMMAND_BYTES_MAX]);
/* Providers to try, in order: verbs where this machine has such a device and RPMEM_ENABLE_VERBS is not 0, tcp unless
 * RPMEM_ENABLE_SOCKETS is 0; of them those that FI_PROVIDER lets through. May be none. */
unsigned env_providers(const char *providers[ENV_PROVIDERS_MAX]);
/* Opens the log as RPMEM_LOG_LEVEL (0 nothing, 1 errors ... 4 all, or a word of log.h) and RPMEM_LOG_FILE (behind a '-'
 * at its end comes the process id) say; nothing is written without them. Once for each process. */
void env_log(void);

#endif
