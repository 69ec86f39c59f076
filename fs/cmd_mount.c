/* rpmemfs mount: from a poolset to a served mount, and back.
 *
 *   parent: arguments, mount point -- fork --> waits for one byte, the exit code
 *   child:  local copy opened -> connecting -> histories compared -> core -> first commit -> FUSE mount -> loop
 *           the kernel's first request answered: byte 0 to the parent, standard streams let go
 *
 * Until that byte the child's messages go to the caller's stderr, so that a mount that fails says why where it was asked
 * for; afterwards they go to the log. The fork comes first of all: links have threads.
 *
 * SIGTERM and SIGINT are blocked in every thread, for the loop takes them from a descriptor. Until there is something to
 * unmount a thread of its own takes them: nothing is lost by leaving at once, whatever the start is waiting for, and the pool
 * is as after a power failure at worst. When the parent dies first, the child gets a SIGTERM, until the mount answers. */
#include "cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "errmsg.h"
#include "log.h"
#include "loop.h"

#define MOUNT_USAGE                                                                                                   \
	"[-f] [-o OPTION,...] [--min-replicas N] [--timeout MS] [--connect-timeout MS] [--notice MS]\n"               \
	"                     [--force --without NAME,...]\n"                                                         \
	"                     [--wait=yield|block] [--provider NAME] [--background MS] [--log FILE] [--log-level LEVEL]\n" \
	"                     POOLSET MOUNTPOINT"
#define TIMEOUT_MS_DEFAULT 30000u
#define TIMEOUT_MS_MAX 86400000u

struct mount_args {
	char *pool, *mountpoint; /* absolute */
	char *fuse_options;      /* as given by -o, comma-separated; NULL: none */
	char *log;               /* absolute, "syslog:" or "-" */
	const char *provider, *without;
	enum log_level level;
	bool foreground, spin, force;
	uint64_t min_replicas, timeout_ms, connect_ms, notice_ms, background_ms;
};

struct mount {
	const struct mount_args *args;
	int parent_fd;           /* where the exit code goes; -1: foreground, or told already */
	struct poolset *set;
	struct cmd_local local;
	struct replication *repl;
	struct fs *fs;
	struct front front;
};

/* ---------------------------------------------------------------- arguments */

enum {
	OPT_MIN = 256, OPT_TIMEOUT, OPT_CONNECT, OPT_NOTICE, OPT_WAIT, OPT_PROVIDER, OPT_BACKGROUND, OPT_LOG, OPT_LEVEL,
	OPT_FORCE, OPT_WITHOUT
};

static const struct option mount_options[] = {
	{ "min-replicas", required_argument, NULL, OPT_MIN }, { "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "connect-timeout", required_argument, NULL, OPT_CONNECT }, { "notice", required_argument, NULL, OPT_NOTICE },
	{ "wait", required_argument, NULL, OPT_WAIT }, { "provider", required_argument, NULL, OPT_PROVIDER },
	{ "background", required_argument, NULL, OPT_BACKGROUND }, { "log", required_argument, NULL, OPT_LOG },
	{ "log-level", required_argument, NULL, OPT_LEVEL }, { "force", no_argument, NULL, OPT_FORCE },
	{ "without", required_argument, NULL, OPT_WITHOUT }, { NULL, 0, NULL, 0 },
};

static bool add_fuse_options(struct mount_args *args, const char *text)
{
	if (strstr(text, "auto_unmount") != NULL) {
		cmd_error("-o auto_unmount is refused: when the process died, programs would go on writing to the directory "
			  "underneath");
		return false;
	}
	return fuse_opt_add_opt(&args->fuse_options, text) == 0;
}

static bool parse_wait(const char *word, bool *spin)
{
	*spin = strcmp(word, "yield") == 0;
	if (*spin || strcmp(word, "block") == 0)
		return true;
	cmd_error("--wait %s: yield or block is wanted", word);
	return false;
}

static bool parse_level(const char *word, enum log_level *level)
{
	if (log_level_parse(word, level) == 0)
		return true;
	cmd_error("--log-level %s: error, warn, notice, info or debug is wanted", word);
	return false;
}

/* A log file's path must outlive chdir. */
static bool parse_log(const char *path, char **out)
{
	char cwd[PATH_MAX];

	free(*out); /* the last of several --log counts */
	if (path[0] == '/' || strcmp(path, "-") == 0 || strcmp(path, "syslog:") == 0)
		*out = strdup(path);
	else if (getcwd(cwd, sizeof(cwd)) == NULL || asprintf(out, "%s/%s", cwd, path) < 0)
		*out = NULL;
	return *out != NULL;
}

static bool parse_option(int opt, struct mount_args *args)
{
	switch (opt) {
	case 'f':
		args->foreground = true;
		return true;
	case 'o':
		return add_fuse_options(args, optarg);
	case OPT_MIN:
		return cmd_number("min-replicas", optarg, 0, POOLSET_REPLICAS_MAX - 1, &args->min_replicas);
	case OPT_TIMEOUT:
		return cmd_number("timeout", optarg, 1, TIMEOUT_MS_MAX, &args->timeout_ms);
	case OPT_CONNECT:
		return cmd_number("connect-timeout", optarg, 0, TIMEOUT_MS_MAX, &args->connect_ms);
	case OPT_NOTICE:
		return cmd_number("notice", optarg, 100, TIMEOUT_MS_MAX, &args->notice_ms);
	case OPT_BACKGROUND:
		return cmd_number("background", optarg, 0, TIMEOUT_MS_MAX, &args->background_ms);
	case OPT_WAIT:
		return parse_wait(optarg, &args->spin);
	case OPT_PROVIDER:
		args->provider = optarg;
		return true;
	case OPT_LOG:
		return parse_log(optarg, &args->log);
	case OPT_LEVEL:
		return parse_level(optarg, &args->level);
	case OPT_FORCE:
		args->force = true;
		return true;
	case OPT_WITHOUT:
		args->without = optarg;
		return true;
	default:
		return false;
	}
}

/* Both paths, absolute; the mount point is a directory that answers. */
static int resolve_paths(const char *pool, const char *mountpoint, struct mount_args *args)
{
	struct stat st;

	args->pool = realpath(pool, NULL);
	if (args->pool == NULL)
		return cmd_error("%s: %s", pool, strerror(errno));
	args->mountpoint = realpath(mountpoint, NULL);
	if (args->mountpoint == NULL && errno == ENOTCONN)
		return cmd_error("%s: a mount without its process is left there; umount %s first", mountpoint, mountpoint);
	if (args->mountpoint == NULL || stat(args->mountpoint, &st) != 0)
		return cmd_error("mount point %s: %s", mountpoint, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return cmd_error("mount point %s: not a directory", mountpoint);
	return CMD_OK;
}

static int parse_args(int argc, char **argv, struct mount_args *args)
{
	int opt;

	*args = (struct mount_args){
		.level = LOG_LEVEL_INFO, .spin = true, .min_replicas = REPLICATION_MIN_RECORDED,
		.timeout_ms = TIMEOUT_MS_DEFAULT, .connect_ms = REPL_CONNECT_MS_DEFAULT,
		.notice_ms = REPL_NOTICE_MS_DEFAULT, .background_ms = FS_BACKGROUND_MS_DEFAULT,
	};
	while ((opt = getopt_long(argc, argv, "fo:", mount_options, NULL)) != -1) {
		if (!parse_option(opt, args))
			return cmd_usage(MOUNT_USAGE);
	}
	if (optind != argc - 2 || args->force != (args->without != NULL)) /* one is the confirmation of the other */
		return cmd_usage(MOUNT_USAGE);
	if (args->log == NULL)
		args->log = strdup(args->foreground ? "-" : "syslog:");
	if (args->log == NULL)
		return cmd_failed(-ENOMEM);
	return resolve_paths(argv[optind], argv[optind + 1], args);
}

static void free_args(struct mount_args *args)
{
	free(args->pool);
	free(args->mountpoint);
	free(args->fuse_options);
	free(args->log);
}

/* ---------------------------------------------------------------- start */

static void tell_parent(struct mount *m, int code)
{
	char byte = (char)code;

	if (m->parent_fd < 0)
		return;
	if (write(m->parent_fd, &byte, 1) != 1)
		log_warn("mount %s: nobody waits for it any more", m->args->mountpoint);
	close(m->parent_fd);
	m->parent_fd = -1;
}

/* The mount answers: from here on this is a daemon. */
static void on_ready(void *ctx)
{
	struct mount *m = ctx;
	int fd;

	log_info("%s: mounted on %s", m->args->pool, m->args->mountpoint);
	if (m->args->foreground)
		return;
	(void)prctl(PR_SET_PDEATHSIG, 0);
	(void)setsid(); /* never fails: a forked child leads no group */
	if (chdir("/") != 0)
		log_warn("chdir /: %s", strerror(errno));
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; fd >= 0 && i <= 2; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
	tell_parent(m, CMD_OK);
}

static void on_reopen_log(void *ctx)
{
	const struct mount *m = ctx;
	int err = log_open("rpmemfs", m->args->log, m->args->level);

	if (err != 0)
		log_error("log %s: cannot be opened again: %s", m->args->log, strerror(-err));
}

__attribute__((format(printf, 2, 0))) static void log_fuse(enum fuse_log_level level, const char *fmt, va_list args)
{
	char line[512];

	vsnprintf(line, sizeof(line), fmt, args);
	line[strcspn(line, "\n")] = '\0';
	log_write(level <= FUSE_LOG_ERR ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO, "libfuse: %s", line);
}

/* Ends the process with the first signal. */
static void *watch_signals(void *arg)
{
	struct mount *m = arg;
	sigset_t set;
	int number;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	if (sigwait(&set, &number) != 0)
		return NULL;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	cmd_error("%s: signal %d (%s): not mounted", m->args->pool, number, strsignal(number));
	tell_parent(m, CMD_FAILED);
	_exit(CMD_FAILED);
}

/* Local copy, replicas and core, ready to serve. */
static int start_core(struct mount *m)
{
	const struct mount_args *args = m->args;
	struct replication_cfg rc = {
		.provider = args->provider, .command = cmd_rpmemd(m->set), .notice_ms = (uint32_t)args->notice_ms,
		.min_replicas = (uint32_t)args->min_replicas, .without = args->without, .mountpoint = args->mountpoint,
		.spin = args->spin,
	};
	struct fs_cfg fc = {
		.repl = &replication_ops, .push_bytes_min = FS_PUSH_BYTES_MIN, .background_ms = (uint32_t)args->background_ms,
	};
	int err = cmd_local_open(m->set, args->timeout_ms, &m->local);

	if (err == 0)
		pool_ahead_begin(m->local.pool);
	if (err == 0)
		err = replication_epoch(m->local.copy, &rc.epoch);
	if (err == 0)
		err = replication_open(m->set, &rc, &m->repl);
	if (err != 0)
		return err;
	fc.repl_ctx = m->repl;
	replication_wait(m->repl, (uint32_t)args->connect_ms);
	err = replication_compare(m->repl, m->local.copy);
	if (err == 0)
		err = fs_open(m->local.copy, &fc, &m->fs);
	return err != 0 ? err : replication_start(m->repl, m->fs);
}

/* The same, as long as a signal leaves it. */
static int start_watched(struct mount *m)
{
	pthread_t watch;
	int err = pthread_create(&watch, NULL, watch_signals, m);

	if (err != 0)
		return -err;
	err = start_core(m);
	pthread_cancel(watch);
	pthread_join(watch, NULL);
	return err;
}

static int session_new(struct mount *m)
{
	struct fuse_args fa = FUSE_ARGS_INIT(0, NULL);
	char *options = NULL, *fsname = NULL;
	int err = -ENOMEM;

	if (asprintf(&fsname, "fsname=%s", m->args->pool) < 0) {
		fsname = NULL;
		goto out;
	}
	if (fuse_opt_add_opt(&options, "default_permissions,subtype=rpmemfs") != 0 ||
	    fuse_opt_add_opt_escaped(&options, fsname) != 0 ||
	    (m->args->fuse_options != NULL && fuse_opt_add_opt(&options, m->args->fuse_options) != 0))
		goto out;
	if (fuse_opt_add_arg(&fa, "rpmemfs") != 0 || fuse_opt_add_arg(&fa, "-o") != 0 ||
	    fuse_opt_add_arg(&fa, options) != 0)
		goto out;
	m->front.session = fuse_session_new(&fa, &front_ops, sizeof(front_ops), &m->front);
	err = m->front.session != NULL ? 0 : errmsg_set(-EINVAL, "libfuse refuses the options -o %s", options);
out:
	fuse_opt_free_args(&fa);
	free(options);
	free(fsname);
	return err;
}

static int start_fuse(struct mount *m)
{
	int err;

	m->front.fs = m->fs;
	m->front.repl = m->repl;
	m->front.pool = m->args->pool;
	m->front.mountpoint = m->args->mountpoint;
	m->front.timeout_ms = (uint32_t)m->args->timeout_ms;
	err = session_new(m);
	if (err != 0)
		return err;
	if (fuse_session_mount(m->front.session, m->args->mountpoint) != 0)
		return errmsg_set(-EIO, "mounting on %s failed (is /dev/fuse there, and may you use it?)",
				  m->args->mountpoint);
	fuse_set_log_func(log_fuse);
	return 0;
}

/* ---------------------------------------------------------------- life and end */

static void stop(struct mount *m)
{
	front_fini(&m->front);
	if (m->front.session != NULL) {
		fuse_session_unmount(m->front.session);
		fuse_session_destroy(m->front.session);
	}
	replication_close(m->repl);
	if (m->fs != NULL)
		fs_close(m->fs);
	cmd_local_close(&m->local);
	poolset_free(m->set);
}

static int serve(struct mount *m)
{
	const struct loop_cfg cfg = {
		.spin = m->args->spin, .ready = on_ready, .reopen_log = on_reopen_log, .ctx = m,
	};
	int err = front_init(&m->front);

	if (err == 0)
		err = start_fuse(m);
	return err == 0 ? loop_run(&m->front, &cfg) : err;
}

/* The whole life of the daemon; returns the exit code. */
static int mount_run(const struct mount_args *args, int parent_fd)
{
	struct mount m = { .args = args, .parent_fd = parent_fd };
	int code = CMD_OK, err = log_open("rpmemfs", args->log, args->level);

	if (err != 0) {
		code = cmd_error("log %s: %s", args->log, strerror(-err));
		tell_parent(&m, code);
		return code;
	}
	loop_block_signals();
	err = poolset_read(args->pool, &m.set);
	if (err == 0)
		err = start_watched(&m);
	if (err == 0)
		err = serve(&m);
	if (err != 0)
		code = cmd_failed(err);
	stop(&m);
	tell_parent(&m, code);
	log_close();
	return code;
}

/* Waits for the daemon to serve, or to fail. */
static int await_daemon(int fd, pid_t child)
{
	char byte;
	ssize_t got;

	do
		got = read(fd, &byte, 1);
	while (got < 0 && errno == EINTR);
	close(fd);
	if (got == 1 && byte == CMD_OK)
		return CMD_OK;
	(void)waitpid(child, NULL, 0); /* what it started has ended when this returns */
	return got == 1 ? byte : cmd_error("the mount process ended without a word; see the log");
}

static int mount_background(const struct mount_args *args)
{
	pid_t child, parent = getpid();
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) != 0)
		return cmd_failed(-errno);
	fflush(NULL);
	child = fork();
	if (child < 0)
		return cmd_failed(-errno);
	if (child == 0) {
		close(fds[0]);
		loop_block_signals();
		if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent)
			_exit(CMD_FAILED);
		_exit(mount_run(args, fds[1]));
	}
	close(fds[1]);
	return await_daemon(fds[0], child);
}

int cmd_mount(int argc, char **argv)
{
	struct mount_args args;
	int code = parse_args(argc, argv, &args);

	if (code == CMD_OK)
		code = args.foreground ? mount_run(&args, -1) : mount_background(&args);
	free_args(&args);
	return code;
}
