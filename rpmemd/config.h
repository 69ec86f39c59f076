/* Settings of rpmemd: command line over $HOME/.rpmemd.conf over /etc/rpmemd/rpmemd.conf over defaults; --config names the
 * only file instead. Keys, defaults and exit codes as PMDK's rpmemd has them. */
#ifndef RPMEMFS_RPMEMD_CONFIG_H
#define RPMEMFS_RPMEMD_CONFIG_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include "log.h"

#define CONFIG_GLOBAL_PATH "/etc/rpmemd/rpmemd.conf"
#define CONFIG_USER_NAME ".rpmemd.conf"
#define CONFIG_LOG_FILE_DEFAULT "/var/log/rpmemd.log"
#define CONFIG_IDLE_MS_DEFAULT 15000u
#define CONFIG_IDLE_MS_MIN 100u
#define CONFIG_LINE_BYTES_MAX 8192u
#define CONFIG_EXIT_USAGE 255

enum config_action { CONFIG_SERVE, CONFIG_REMOVE, CONFIG_HELP, CONFIG_VERSION };

enum config_key {
	CONFIG_LOG_FILE, CONFIG_POOLSET_DIR, CONFIG_PERSIST_APM, CONFIG_PERSIST_GENERAL, CONFIG_USE_SYSLOG, CONFIG_LOG_LEVEL,
	CONFIG_BIND_ADDRESS, CONFIG_IDLE_MS, CONFIG_NTHREADS, CONFIG_PERSIST_METHOD, CONFIG_PERSIST_FORCE, CONFIG_KEY_COUNT
};

/* rpmemd/method.c says where each of them holds. UNSET: as persist_apm says. */
enum config_method {
	CONFIG_METHOD_UNSET, CONFIG_METHOD_GENERAL, CONFIG_METHOD_APM, CONFIG_METHOD_COMMIT, CONFIG_METHOD_AUTO
};

struct config {
	enum config_action action;
	char log_file[PATH_MAX], poolset_dir[PATH_MAX];
	char bind_address[64];      /* "": chosen by the server */
	bool persist_apm, persist_general, persist_force, use_syslog;
	enum config_method persist_method;
	enum log_level log_level;
	unsigned nthreads;          /* lanes granted at most; 0: no limit of ours */
	unsigned idle_ms;
	const char *remove_set;     /* CONFIG_REMOVE */
	bool force, remove_pool_set;
	bool log_told;              /* destination was chosen by somebody, not by default */
	const char *file;           /* --config */
	const char *given[CONFIG_KEY_COUNT]; /* of the command line; points into argv */
};

/* The command line alone, checked. -EINVAL with errmsg: exit with CONFIG_EXIT_USAGE, nothing on stdout. */
int config_parse_args(int argc, char **argv, struct config *cfg);

/* Files, then the command line on top. home: NULL when unknown. -ENOENT: --config's file is missing; -EINVAL with errmsg
 * naming file and line: the whole configuration is invalid. */
int config_load(struct config *cfg, const char *global_path, const char *home);

/* Opens the log where the settings say. local: started by a program on this machine, not by sshd: then stderr unless
 * somebody chose a destination. A destination nobody chose never fails; one that was chosen gives the open(2) error. */
int config_open_log(const struct config *cfg, bool local);

void config_usage(FILE *to, const char *program);

#endif
