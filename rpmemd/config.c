/* Command line and configuration files of rpmemd.
 *
 * Every setting is a key with one parser, whether it comes from a file or an option. The command line is parsed first but
 * laid on top last: its values wait in given[] until the files are read. */
#include "config.h"

#include <errno.h>
#include <ctype.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"

/* ---------------------------------------------------------------- values */

static int text_set(char *to, size_t size, const char *value)
{
	if (strlen(value) >= size)
		return errmsg_set(-EINVAL, "value too long");
	strcpy(to, value);
	return 0;
}

static int bool_set(bool *to, const char *value)
{
	if (strcmp(value, "yes") && strcmp(value, "no"))
		return errmsg_set(-EINVAL, "'%s': must be yes or no", value);
	*to = *value == 'y';
	return 0;
}

static int number_set(unsigned *to, const char *value, unsigned min)
{
	unsigned long n;
	char *end;

	errno = 0;
	n = strtoul(value, &end, 10);
	if (!isdigit((unsigned char)*value) || *end || errno || n < min || n > INT_MAX)
		return errmsg_set(-EINVAL, "'%s': must be a number from %u", value, min);
	*to = (unsigned)n;
	return 0;
}

static int level_set(enum log_level *to, const char *value)
{
	return log_level_parse(value, to) ? errmsg_set(-EINVAL, "'%s': not a log level", value) : 0;
}

static int method_set(enum config_method *to, const char *value)
{
	static const char *const names[] = {
		[CONFIG_METHOD_GENERAL] = "general",
		[CONFIG_METHOD_APM] = "apm",
		[CONFIG_METHOD_COMMIT] = "commit",
		[CONFIG_METHOD_AUTO] = "auto",
	};

	for (unsigned i = CONFIG_METHOD_GENERAL; i <= CONFIG_METHOD_AUTO; i++) {
		if (!strcmp(value, names[i])) {
			*to = (enum config_method)i;
			return 0;
		}
	}
	return errmsg_set(-EINVAL, "'%s': must be general, apm, commit or auto", value);
}

static int value_set(struct config *cfg, enum config_key key, const char *value)
{
	switch (key) {
	case CONFIG_LOG_FILE: return text_set(cfg->log_file, sizeof(cfg->log_file), value);
	case CONFIG_POOLSET_DIR: return text_set(cfg->poolset_dir, sizeof(cfg->poolset_dir), value);
	case CONFIG_PERSIST_APM: return bool_set(&cfg->persist_apm, value);
	case CONFIG_PERSIST_GENERAL: return bool_set(&cfg->persist_general, value);
	case CONFIG_USE_SYSLOG: return bool_set(&cfg->use_syslog, value);
	case CONFIG_LOG_LEVEL: return level_set(&cfg->log_level, value);
	case CONFIG_BIND_ADDRESS: return text_set(cfg->bind_address, sizeof(cfg->bind_address), value);
	case CONFIG_IDLE_MS: return number_set(&cfg->idle_ms, value, CONFIG_IDLE_MS_MIN);
	case CONFIG_NTHREADS: return number_set(&cfg->nthreads, value, 0);
	case CONFIG_PERSIST_METHOD: return method_set(&cfg->persist_method, value);
	case CONFIG_PERSIST_FORCE: return bool_set(&cfg->persist_force, value);
	case CONFIG_KEY_COUNT: break;
	}
	return -EINVAL;
}

static int key_set(struct config *cfg, enum config_key key, const char *value)
{
	int err = value_set(cfg, key, value);

	if (!err && key == CONFIG_LOG_FILE)
		cfg->use_syslog = false; /* of log-file and use-syslog the later one decides */
	if (!err && (key == CONFIG_LOG_FILE || key == CONFIG_USE_SYSLOG))
		cfg->log_told = true;
	return err;
}

static void defaults_set(struct config *cfg)
{
	*cfg = (struct config){
		.log_file = CONFIG_LOG_FILE_DEFAULT,
		.poolset_dir = "$HOME",
		.persist_general = true,
		.use_syslog = true,
		.log_level = LOG_LEVEL_ERROR,
		.idle_ms = CONFIG_IDLE_MS_DEFAULT,
	};
}

/* ---------------------------------------------------------------- command line */

/* Options without a short form are numbered behind the characters. */
enum { OPT_KEY = 256, OPT_YES = 512 };

static const struct option options[] = {
	{ "config", required_argument, NULL, 'c' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ "remove", required_argument, NULL, 'r' },
	{ "force", no_argument, NULL, 'f' },
	{ "pool-set", no_argument, NULL, 's' },
	{ "nthreads", required_argument, NULL, 't' },
	{ "log-file", required_argument, NULL, OPT_KEY + CONFIG_LOG_FILE },
	{ "poolset-dir", required_argument, NULL, OPT_KEY + CONFIG_POOLSET_DIR },
	{ "persist-apm", no_argument, NULL, OPT_YES + CONFIG_PERSIST_APM },
	{ "persist-general", no_argument, NULL, OPT_YES + CONFIG_PERSIST_GENERAL },
	{ "persist-method", required_argument, NULL, OPT_KEY + CONFIG_PERSIST_METHOD },
	{ "persist-force", no_argument, NULL, OPT_YES + CONFIG_PERSIST_FORCE },
	{ "use-syslog", no_argument, NULL, OPT_YES + CONFIG_USE_SYSLOG },
	{ "log-level", required_argument, NULL, OPT_KEY + CONFIG_LOG_LEVEL },
	{ "bind-address", required_argument, NULL, OPT_KEY + CONFIG_BIND_ADDRESS },
	{ "idle-ms", required_argument, NULL, OPT_KEY + CONFIG_IDLE_MS },
	{ 0 },
};

/* Remembers a value for later and tries it on a scratch copy, so that a bad one is the command line's fault. */
static int given_set(struct config *cfg, enum config_key key, const char *value)
{
	struct config scratch = *cfg;

	/* cppcheck-suppress arrayIndexOutOfBoundsCond ; all keys come from the option table */
	cfg->given[key] = value;
	if (key == CONFIG_LOG_FILE)
		cfg->given[CONFIG_USE_SYSLOG] = "no"; /* the later of --log-file and --use-syslog decides */
	return value_set(&scratch, key, value);
}

static int option_take(struct config *cfg, int opt, const char *arg)
{
	switch (opt) {
	case 'c': cfg->file = arg; return 0;
	case 'h': cfg->action = CONFIG_HELP; return 0;
	case 'V': cfg->action = CONFIG_VERSION; return 0;
	case 'r':
		cfg->action = CONFIG_REMOVE;
		cfg->remove_set = arg;
		return 0;
	case 'f': cfg->force = true; return 0;
	case 's': cfg->remove_pool_set = true; return 0;
	case 't': return given_set(cfg, CONFIG_NTHREADS, arg);
	default: break;
	}
	if (opt >= OPT_YES)
		return given_set(cfg, (enum config_key)(opt - OPT_YES), "yes");
	if (opt >= OPT_KEY)
		return given_set(cfg, (enum config_key)(opt - OPT_KEY), arg);
	return errmsg_set(-EINVAL, "unknown option or missing argument");
}

int config_parse_args(int argc, char **argv, struct config *cfg)
{
	int opt, err = 0;

	defaults_set(cfg);
	optind = 0; /* start over, also when called again (getopt(3)) */
	opterr = 0;
	while (!err && (opt = getopt_long(argc, argv, "c:hVr:fst:", options, NULL)) != -1) {
		err = option_take(cfg, opt, optarg);
		if (!err && (opt == 'h' || opt == 'V'))
			return 0;
	}
	if (err)
		return errmsg_prefix(err, "%s", argv[optind > 0 ? optind - 1 : 0]);
	if (optind < argc)
		return errmsg_set(-EINVAL, "%s: unexpected argument", argv[optind]);
	if (cfg->action != CONFIG_REMOVE && (cfg->force || cfg->remove_pool_set))
		return errmsg_set(-EINVAL, "--force and --pool-set go with --remove");
	return 0;
}

void config_usage(FILE *to, const char *program)
{
	fprintf(to,
		"usage: %s [options]\n"
		"  -c, --config <path>       the only configuration file\n"
		"  -r, --remove <set>        remove a pool and exit\n"
		"  -f, --force               with --remove: what is missing is no error\n"
		"  -s, --pool-set            with --remove: the pool set file as well\n"
		"  -t, --nthreads <count>    lanes granted at most, one thread each (0: no limit)\n"
		"      --log-file <path>     log there, not to syslog\n"
		"      --use-syslog          log to syslog\n"
		"      --log-level <level>   err, warn, notice, info or debug\n"
		"      --poolset-dir <path>  directory of the pool sets, absolute\n"
		"      --persist-apm         appliance persistency method where it holds\n"
		"      --persist-general     general purpose persistency method\n"
		"      --persist-method <m>  general, apm, commit or auto\n"
		"      --persist-force       that method, whether it proves persistence or not\n"
		"      --bind-address <ip>   address the lanes listen on\n"
		"      --idle-ms <count>     end a session that is silent for so long\n"
		"  -h, --help                this text\n"
		"  -V, --version             version\n",
		program);
}

/* ---------------------------------------------------------------- files */

static const char *const key_names[CONFIG_KEY_COUNT] = {
	[CONFIG_LOG_FILE] = "log-file",
	[CONFIG_POOLSET_DIR] = "poolset-dir",
	[CONFIG_PERSIST_APM] = "persist-apm",
	[CONFIG_PERSIST_GENERAL] = "persist-general",
	[CONFIG_USE_SYSLOG] = "use-syslog",
	[CONFIG_LOG_LEVEL] = "log-level",
	[CONFIG_BIND_ADDRESS] = "bind-address",
	[CONFIG_IDLE_MS] = "idle-ms",
	[CONFIG_NTHREADS] = "nthreads",
	[CONFIG_PERSIST_METHOD] = "persist-method",
	[CONFIG_PERSIST_FORCE] = "persist-force",
};

static char *trim(char *text)
{
	size_t n;

	while (isspace((unsigned char)*text))
		text++;
	for (n = strlen(text); n && isspace((unsigned char)text[n - 1]); n--)
		;
	text[n] = 0;
	return text;
}

static int line_take(struct config *cfg, char *line)
{
	char *equals, *key, *value;

	line[strcspn(line, "#")] = 0;
	line = trim(line);
	if (!*line)
		return 0;
	equals = strchr(line, '=');
	if (!equals)
		return errmsg_set(-EINVAL, "'%s': no '='", line);
	*equals = 0;
	key = trim(line);
	value = trim(equals + 1);
	if (!*value)
		return errmsg_set(-EINVAL, "%s: value missing", key);
	for (unsigned i = 0; i < CONFIG_KEY_COUNT; i++) {
		if (!strcmp(key, key_names[i]))
			return key_set(cfg, (enum config_key)i, value);
	}
	return errmsg_set(-EINVAL, "'%s': unknown key", key);
}

static int file_read(struct config *cfg, FILE *file, const char *path)
{
	char line[CONFIG_LINE_BYTES_MAX];
	int err = 0;

	for (unsigned number = 1; !err && fgets(line, sizeof(line), file); number++) {
		if (!strchr(line, '\n') && !feof(file))
			err = errmsg_set(-EINVAL, "line too long");
		else
			err = line_take(cfg, line);
		if (err)
			errmsg_prefix(err, "%s:%u", path, number);
	}
	if (!err && ferror(file))
		err = errmsg_set(-EIO, "%s: read error", path);
	return err;
}

static int file_load(struct config *cfg, const char *path, bool must_exist)
{
	FILE *file = fopen(path, "re");
	int err;

	if (!file) {
		err = -errno;
		return err == -ENOENT && !must_exist ? 0 : errmsg_set(err, "%s: %s", path, strerror(-err));
	}
	err = file_read(cfg, file, path);
	fclose(file);
	return err;
}

/* The first $HOME that is a whole word; only in the pool directory, as it always was. */
static int home_expand(char path[PATH_MAX], const char *home)
{
	const size_t word = sizeof("$HOME") - 1;
	char out[PATH_MAX], *at = path;

	do
		at = strstr(at, "$HOME");
	while (at && isalnum((unsigned char)at[word]) && (at += word));
	if (!at)
		return 0;
	if (!home)
		return errmsg_set(-EINVAL, "poolset-dir: the home directory is not known");
	if (snprintf(out, sizeof(out), "%.*s%s%s", (int)(at - path), path, home, at + word) >= PATH_MAX)
		return errmsg_set(-EINVAL, "poolset-dir: too long");
	strcpy(path, out);
	return 0;
}

static int files_load(struct config *cfg, const char *global_path, const char *home)
{
	char path[PATH_MAX];
	int err;

	if (cfg->file)
		return file_load(cfg, cfg->file, true);
	err = file_load(cfg, global_path, false);
	if (err || !home)
		return err;
	if (snprintf(path, sizeof(path), "%s/%s", home, CONFIG_USER_NAME) >= PATH_MAX)
		return errmsg_set(-EINVAL, "the home directory's name is too long");
	return file_load(cfg, path, false);
}

int config_load(struct config *cfg, const char *global_path, const char *home)
{
	int err = files_load(cfg, global_path, home);

	for (unsigned i = 0; !err && i < CONFIG_KEY_COUNT; i++) {
		if (cfg->given[i])
			err = key_set(cfg, (enum config_key)i, cfg->given[i]);
	}
	if (!err)
		err = home_expand(cfg->poolset_dir, home);
	if (!err && *cfg->poolset_dir != '/')
		err = errmsg_set(-EINVAL, "poolset-dir '%s': must be absolute", cfg->poolset_dir);
	return err;
}

/* ---------------------------------------------------------------- log */

/* PMDK fails the start when its default log file cannot be written; here only a destination somebody chose can fail. */
int config_open_log(const struct config *cfg, bool local)
{
	int err;

	if (local && !cfg->log_told)
		return log_open("rpmemd", NULL, cfg->log_level);
	if (cfg->use_syslog)
		return log_open("rpmemd", "syslog:", cfg->log_level);
	err = log_open("rpmemd", cfg->log_file, cfg->log_level);
	if (err && !strcmp(cfg->log_file, CONFIG_LOG_FILE_DEFAULT))
		return log_open("rpmemd", NULL, cfg->log_level);
	return err ? errmsg_set(err, "log file %s: %s", cfg->log_file, strerror(-err)) : 0;
}
