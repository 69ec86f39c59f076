/* What librpmem programs are told by their environment: names and meanings of PMDK's librpmem where it has them.
 *
 * RPMEM_ENABLE_SOCKETS speaks of the provider that stands on TCP sockets, which here is "tcp" and on by default: there
 * is no other one for machines without RDMA. RPMEM_SSH has no meaning: SSH is spoken by the library itself. */
#include "rpmem_env.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "errmsg.h"
#include "log.h"
#include "wire.h"

#define VERBS_DEVICES "/sys/class/infiniband"
#define LOG_NOTHING (-1)

/* ---------------------------------------------------------------- numbers */
static unsigned number(const char *name, unsigned min, unsigned max, unsigned otherwise)
{
	const char *text = getenv(name);
	unsigned long value;
	char *end;

	if (!text || !*text)
		return otherwise;
	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || *end || *text == '-' || value < min || value > max) {
		log_warn("%s: '%s' is not a number from %u to %u: %u is used", name, text, min, max, otherwise);
		return otherwise;
	}
	return (unsigned)value;
}

void env_read(struct env *env)
{
	env->lanes_max = number("RPMEM_MAX_NLANES", 1, UINT_MAX, WIRE_LANES_MAX);
	if (env->lanes_max > WIRE_LANES_MAX)
		env->lanes_max = WIRE_LANES_MAX;
	env->work_queue = number("RPMEM_WORK_QUEUE_SIZE", 1, UINT_MAX, ENV_WORK_QUEUE_DEFAULT);
	env->reconnect_ms = number("RPMEM_RECONNECT_MS", 0, ENV_MS_MAX, ENV_RECONNECT_MS_DEFAULT);
	env->notice_ms = number("RPMEM_NOTICE_MS", ENV_NOTICE_MS_MIN, ENV_MS_MAX, ENV_NOTICE_MS_DEFAULT);
}

/* ---------------------------------------------------------------- command */
int env_command(char command[ENV_COMMAND_BYTES_MAX])
{
	static _Atomic unsigned turns;
	const char *all = getenv("RPMEM_CMD"), *at, *end;
	unsigned count = 1, turn;
	size_t len;

	if (!all || !*all)
		all = "rpmemd";
	for (at = all; *at; at++)
		count += *at == '|';
	turn = atomic_fetch_add(&turns, 1) % count;
	for (at = all; turn; turn--)
		at = strchr(at, '|') + 1;
	end = strchrnul(at, '|');
	len = (size_t)(end - at);
	if (len >= ENV_COMMAND_BYTES_MAX)
		return errmsg_set(-E2BIG, "RPMEM_CMD: a command of %zu bytes", len);
	memcpy(command, at, len);
	command[len] = '\0';
	return 0;
}

/* ---------------------------------------------------------------- providers */
static bool switched_off(const char *name)
{
	const char *text = getenv(name);

	return text && *text && strtol(text, NULL, 10) == 0;
}

static bool has_verbs(void)
{
	DIR *dir = opendir(VERBS_DEVICES);
	struct dirent *entry;
	bool found = false;

	if (!dir)
		return false;
	while (!found && (entry = readdir(dir)))
		found = entry->d_name[0] != '.';
	closedir(dir);
	return found;
}

/* FI_PROVIDER is a list of names with commas between them, '^' before it turns its meaning round; "verbs;ofi_rxm" is
 * about another provider, layered on verbs. */
static bool filtered(const char *provider)
{
	const char *list = getenv("FI_PROVIDER"), *at;
	size_t len = strlen(provider);
	bool listed = false, exclude;

	if (!list || !*list)
		return false;
	exclude = *list == '^';
	for (at = list + exclude; *at && !listed; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ','))
		listed = strcspn(at, ",") == len && !strncmp(at, provider, len);
	return listed == exclude;
}

unsigned env_providers(const char *providers[ENV_PROVIDERS_MAX])
{
	unsigned count = 0;

	if (!switched_off("RPMEM_ENABLE_VERBS") && !filtered("verbs") && has_verbs())
		providers[count++] = "verbs";
	if (!switched_off("RPMEM_ENABLE_SOCKETS") && !filtered("tcp"))
		providers[count++] = "tcp";
	return count;
}

/* ---------------------------------------------------------------- log */
static int log_level_of(const char *text)
{
	static const int levels[] = { LOG_NOTHING, LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
	enum log_level level;
	char *end;
	unsigned long value;

	if (!text || !*text)
		return LOG_NOTHING;
	if (!log_level_parse(text, &level))
		return (int)level;
	value = strtoul(text, &end, 10);
	if (*end)
		return LOG_NOTHING;
	return value < sizeof(levels) / sizeof(levels[0]) ? levels[value] : LOG_LEVEL_DEBUG;
}

static void log_start(void)
{
	int level = log_level_of(getenv("RPMEM_LOG_LEVEL"));
	const char *file = getenv("RPMEM_LOG_FILE");
	char path[PATH_MAX];
	size_t len = file ? strlen(file) : 0;

	if (len > 1 && len < sizeof(path) && file[len - 1] == '-') {
		snprintf(path, sizeof(path), "%.*s%d", (int)len, file, (int)getpid());
		file = path;
	}
	if (log_open("librpmem", len ? file : NULL, (enum log_level)level))
		log_open("librpmem", NULL, (enum log_level)level); /* stderr then; the program itself is not disturbed */
}

void env_log(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, log_start);
}
