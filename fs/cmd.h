/* What the commands share: how they fail, read their arguments, and open a poolset and its local copy. */
#ifndef RPMEMFS_FS_CMD_H
#define RPMEMFS_FS_CMD_H

#include "pool.h"
#include "replication.h"

enum cmd_exit {
	CMD_OK = 0,
	CMD_FAILED = 1,   /* stderr says what, where, and what to do */
	CMD_USAGE = 2,
	CMD_NOT_FINE = 3, /* status: not as configured; fsck: damage found */
};

/* Commands: exit code as above. argv[0] is the command's name. */
int cmd_mkfs(int argc, char **argv);
int cmd_mount(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_sync(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_fsck(int argc, char **argv);

/* "rpmemfs <command>: <errmsg, or the errno's text>" to stderr; returns CMD_FAILED. The command's name is that of the newest
 * cmd_begin. */
int cmd_failed(int err);
/* The same with a text of its own. */
int cmd_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Usage to stderr; returns CMD_USAGE. */
int cmd_usage(const char *usage);
void cmd_begin(const char *name);

/* A whole number within min..max from an option's argument; false with a message otherwise. */
bool cmd_number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *out);

/* The rpmemd to start for @local replicas when the user names none: the one beside this program, if it is there and no
 * replica is on another machine. NULL: the default. The result is static. */
const char *cmd_rpmemd(const struct poolset *set);

/* The local copy of a poolset, which stays the caller's. */
struct cmd_local {
	const struct poolset *set;
	struct pool *pool;
	struct copy *copy;
	void *private_base; /* of a private mapping, see cmd_look */
	struct pm private_pm;
};

/* Locks, maps and opens it for a mount. While somebody else works on it without it being mounted, that is waited for at least
 * finish_ms, so long as an earlier mount may need to end, and stderr says so. Errors with errmsg, which says what to do;
 * nothing is left open. */
int cmd_local_open(const struct poolset *set, uint64_t finish_ms, struct cmd_local *local);
void cmd_local_close(struct cmd_local *local);

/* A command whose one argument is a poolset, for looking at its local copy only: the files are not changed; records that wait
 * in the ring are replayed in a private mapping of them. look gets the copy and how many those are, and returns the exit code,
 * or a negative errno. */
int cmd_look(int argc, char **argv, int (*look)(const struct cmd_local *local, uint64_t waiting));

/* err of opening a local copy, with what to do added to its text. */
int cmd_explain(const char *path, int err);
/* Maps the parts of local->pool once more, as local->private_pm: stores stay in this process. */
int cmd_map_private(struct cmd_local *local);

/* cmd_repair.c: repairs what report, the findings of a check, says can be. Exit code as of fsck, told. provider: of libfabric,
 * NULL: the default. */
struct fsck_report;
int cmd_repair(const struct poolset *set, const char *provider, const struct fsck_report *report);
/* cmd_fsck.c: the findings to stdout; exit code. Then, for who is not repairing, what can be done about those it has. */
int cmd_fsck_tell(const struct poolset *set, const struct fsck_report *report);
void cmd_fsck_advise(const struct poolset *set, const struct fsck_report *report);

/* Whether the poolset names a replica. */
bool cmd_has_replica(const struct poolset *set);

#endif
