/* rpmemd: the target of one replica, for one session.
 *
 *   main.c           command line to session: environment, log, signals, --remove
 *   config.c         command line and configuration files
 *   server.c         control channel: messages, states
 *   served.c         the pool of a session; control requests on its copy
 *   store.c          pool sets by name below the pool directory
 *   takeover.c       ends the running session of a pool
 *   incarnation.c    what tells a pool from one that lost its memory
 *   method.c         persistency methods and where they hold
 *   report.c         log lines about requests and sessions
 *   engine.c         lane requests to stores, flushes and fences
 *   engine_commit.c  commits of a copy
 *   engine_sync.c    fences of plain pools
 *   lanes.c          fabric endpoints, one thread each */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include "config.h"
#include "errmsg.h"
#include "log.h"
#include "method.h"
#include "server.h"
#include "store.h"

#define RPMEMD_VERSION "1.0"
#define LOCAL_ADDRESS "127.0.0.1"
#define ADDRESS_BYTES_MAX 64u

static const char *home_dir(void)
{
	const char *home = getenv("HOME");
	const struct passwd *user;

	if (home && *home)
		return home;
	user = getpwuid(getuid()); /* cppcheck-suppress getpwuidCalled ; no second thread yet */
	return user ? user->pw_dir : NULL;
}

/* Third field of "client-ip client-port server-ip server-port" (sshd(8)): where the peer reached this machine. */
static int ssh_address(const char *connection, char address[ADDRESS_BYTES_MAX])
{
	if (sscanf(connection, "%*s %*s %63s", address) != 1)
		return errmsg_set(-EINVAL, "SSH_CONNECTION '%s': no server address", connection);
	return 0;
}

static void config_log(const struct config *cfg, const char *ssh)
{
	const struct passwd *user = getpwuid(getuid()); /* cppcheck-suppress getpwuidCalled ; as above */

	log_info("rpmemd version %s", RPMEMD_VERSION);
	log_info("ssh connection: %s", ssh ? ssh : "none, local child");
	log_info("user: %s", user ? user->pw_name : "unknown");
	log_info("configuration");
	log_info("    pool set directory: '%s'", cfg->poolset_dir);
	log_info("    persist method: %s", method_wish_title(cfg));
	log_info("    number of threads: %u", cfg->nthreads);
}

/* SIGTERM and friends end the session in order; blocked before the first thread, so that all inherit it. A lost peer is
 * seen by write(2), not by SIGPIPE. */
static int stop_signals(void)
{
	sigset_t set;
	int fd;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return -errno;
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

/* A lane takes some descriptors, and libpmemobj asks for a thousand lanes: what is allowed is used. */
static void files_raise(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files))
		return;
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files))
		log_debug("limit of open files: %s", strerror(errno));
}

static int serve(const struct config *cfg, const char *ssh)
{
	char address[ADDRESS_BYTES_MAX] = LOCAL_ADDRESS;
	struct server_cfg server = {
		.in = STDIN_FILENO,
		.out = STDOUT_FILENO,
		.config = cfg,
		.bind_address = address,
		.address = ssh ? "" : LOCAL_ADDRESS,
	};
	int err = ssh ? ssh_address(ssh, address) : 0;

	if (*cfg->bind_address)
		server.bind_address = server.address = cfg->bind_address;
	server.stop_fd = err ? err : stop_signals();
	if (server.stop_fd < 0) {
		server_refuse(STDOUT_FILENO, server.stop_fd);
		return server.stop_fd;
	}
	config_log(cfg, ssh);
	files_raise();
	err = server_run(&server);
	close(server.stop_fd);
	return err;
}

/* rpmem_remove(3) and pmempool(1) take the exit status for an errno; "in use" was EAGAIN in the original. */
static int remove_exit_status(int err)
{
	return err == -EBUSY ? EAGAIN : -err & 0xff;
}

/* Where whoever started us closed a standard descriptor, the next file opened would take its place, and what is printed would
 * go into it: into a pool, perhaps. */
static int standard_fill(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return -errno;
	return 0;
}

static int remove_set(const struct config *cfg)
{
	unsigned flags = (cfg->force ? STORE_REMOVE_FORCE : 0) | (cfg->remove_pool_set ? STORE_REMOVE_SET : 0);
	int err = store_remove(cfg->poolset_dir, cfg->remove_set, flags);

	if (err)
		fprintf(stderr, "rpmemd: %s\n", *errmsg_get() ? errmsg_get() : strerror(-err));
	return remove_exit_status(err);
}

/* The cause last: an initiator shows its user the last line. */
static int usage_error(const char *program)
{
	config_usage(stderr, program);
	fprintf(stderr, "%s: %s\n", program, errmsg_get());
	return CONFIG_EXIT_USAGE;
}

static int start_failed(const struct config *cfg, int err)
{
	fprintf(stderr, "rpmemd: %s\n", errmsg_get());
	if (cfg->action == CONFIG_REMOVE)
		return remove_exit_status(err);
	server_refuse(STDOUT_FILENO, err);
	return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	static struct config cfg;
	const char *ssh = getenv("SSH_CONNECTION");
	int err;

	if (standard_fill())
		return EXIT_FAILURE;
	if (config_parse_args(argc, argv, &cfg))
		return usage_error(argv[0]);
	if (cfg.action == CONFIG_HELP) {
		config_usage(stderr, argv[0]);
		return EXIT_SUCCESS;
	}
	if (cfg.action == CONFIG_VERSION) {
		fprintf(stderr, "rpmemd version %s\n", RPMEMD_VERSION);
		return EXIT_SUCCESS;
	}
	err = config_load(&cfg, CONFIG_GLOBAL_PATH, home_dir());
	if (!err)
		err = config_open_log(&cfg, !ssh);
	if (err)
		return start_failed(&cfg, err);
	err = cfg.action == CONFIG_REMOVE ? remove_set(&cfg) : serve(&cfg, ssh) ? EXIT_FAILURE : EXIT_SUCCESS;
	log_close();
	return err;
}
