/* What librpmem takes from the environment: numbers in and out of range, alternatives of the command, where and how much it
 * logs. */
#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "errmsg.h"
#include "log.h"
#include "rpmem/rpmem_env.h"
#include "wire.h"

TestSuite(rpmem_env, .timeout = 30);

/* ---------------------------------------------------------------- numbers */

Test(rpmem_env, nothing_set_gives_the_defaults)
{
	struct env env;

	unsetenv("RPMEM_MAX_NLANES");
	setenv("RPMEM_WORK_QUEUE_SIZE", "", 1);
	env_read(&env);
	cr_expect_eq(env.lanes_max, WIRE_LANES_MAX);
	cr_expect_eq(env.work_queue, ENV_WORK_QUEUE_DEFAULT);
	cr_expect_eq(env.reconnect_ms, ENV_RECONNECT_MS_DEFAULT);
	cr_expect_eq(env.notice_ms, ENV_NOTICE_MS_DEFAULT);
}

Test(rpmem_env, numbers_out_of_range_count_as_not_set)
{
	static const struct {
		const char *text;
		unsigned want;
	} cases[] = {
		{ "100", 100 },
		{ "99", ENV_NOTICE_MS_DEFAULT },
		{ "3600000", ENV_MS_MAX },
		{ "3600001", ENV_NOTICE_MS_DEFAULT },
		{ "-200", ENV_NOTICE_MS_DEFAULT },
		{ "18446744073709551616", ENV_NOTICE_MS_DEFAULT },
		{ "200ms", ENV_NOTICE_MS_DEFAULT },
		{ "x", ENV_NOTICE_MS_DEFAULT },
		{ "", ENV_NOTICE_MS_DEFAULT },
	};
	struct env env;

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		setenv("RPMEM_NOTICE_MS", cases[i].text, 1);
		env_read(&env);
		cr_expect_eq(env.notice_ms, cases[i].want, "'%s' gave %u", cases[i].text, env.notice_ms);
	}
}

Test(rpmem_env, more_lanes_than_the_wire_knows_are_cut)
{
	struct env env;
	char text[32];

	snprintf(text, sizeof(text), "%u", WIRE_LANES_MAX + 1);
	setenv("RPMEM_MAX_NLANES", text, 1);
	env_read(&env);
	cr_expect_eq(env.lanes_max, WIRE_LANES_MAX);
	setenv("RPMEM_MAX_NLANES", "1", 1);
	env_read(&env);
	cr_expect_eq(env.lanes_max, 1);
	setenv("RPMEM_MAX_NLANES", "0", 1);
	env_read(&env);
	cr_expect_eq(env.lanes_max, WIRE_LANES_MAX);
}

/* ---------------------------------------------------------------- command */

Test(rpmem_env, alternatives_of_the_command_take_turns)
{
	static const char *const want[] = { "one -a", "two", "", "one -a" };
	char command[ENV_COMMAND_BYTES_MAX];

	setenv("RPMEM_CMD", "one -a|two|", 1);
	for (unsigned i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		cr_assert_eq(env_command(command), 0);
		cr_expect_str_eq(command, want[i]);
	}
}

Test(rpmem_env, without_a_command_it_is_rpmemd)
{
	char command[ENV_COMMAND_BYTES_MAX];

	unsetenv("RPMEM_CMD");
	cr_assert_eq(env_command(command), 0);
	cr_expect_str_eq(command, "rpmemd");
	setenv("RPMEM_CMD", "", 1);
	cr_assert_eq(env_command(command), 0);
	cr_expect_str_eq(command, "rpmemd");
}

Test(rpmem_env, longest_command_fits_and_a_longer_one_is_refused)
{
	static char text[ENV_COMMAND_BYTES_MAX + 1];
	char command[ENV_COMMAND_BYTES_MAX];

	memset(text, 'x', ENV_COMMAND_BYTES_MAX - 1);
	setenv("RPMEM_CMD", text, 1);
	cr_expect_eq(env_command(command), 0);
	cr_expect_str_eq(command, text);
	text[ENV_COMMAND_BYTES_MAX - 1] = 'x';
	setenv("RPMEM_CMD", text, 1);
	cr_expect_eq(env_command(command), -E2BIG);
}

/* ---------------------------------------------------------------- providers */

Test(rpmem_env, tcp_can_be_switched_off_and_filtered)
{
	static const struct {
		const char *sockets, *filter;
		bool want;
	} cases[] = {
		{ "", "", true },	  { "1", "", true },	  { "0", "", false },
		{ "", "tcp", true },	  { "", "verbs", false }, { "", "sockets,tcp", true },
		{ "", "tcp;ofi_rxm", false }, { "", "^tcp", false },	  { "", "^verbs", true },
	};

	setenv("RPMEM_ENABLE_VERBS", "0", 1);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *providers[ENV_PROVIDERS_MAX];
		unsigned count;

		setenv("RPMEM_ENABLE_SOCKETS", cases[i].sockets, 1);
		setenv("FI_PROVIDER", cases[i].filter, 1);
		count = env_providers(providers);
		cr_assert_eq(count, cases[i].want, "case %u: %u providers", i, count);
		if (count)
			cr_expect_str_eq(providers[0], "tcp");
	}
}

/* ---------------------------------------------------------------- log */

static char dir[] = "/dev/shm/rpmem-env-XXXXXX";

/* Opens the log as level and name (behind which '-' asks for the process id) say, writes a line of each level but debug, and
 * tells how many of them came: -1 when there is no file. */
static int logged(const char *level, const char *name)
{
	char path[128], line[256];
	FILE *file;
	int lines = 0;

	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	setenv("RPMEM_LOG_FILE", path, 1);
	setenv("RPMEM_LOG_LEVEL", level, 1);
	env_log();
	log_error("a line");
	log_warn("a line");
	log_info("a line");
	log_close();
	if (name[strlen(name) - 1] == '-')
		snprintf(path, sizeof(path), "%s/%s%d", dir, name, (int)getpid());
	file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file))
		lines += strstr(line, "a line") != NULL;
	if (file)
		fclose(file);
	unlink(path);
	cr_expect_eq(rmdir(dir), 0);
	return file ? lines : -1;
}

Test(rpmem_env, log_level_is_a_number)
{
	cr_expect_eq(logged("2", "log"), 2);
}

Test(rpmem_env, log_level_is_a_word)
{
	cr_expect_eq(logged("error", "log"), 1);
}

Test(rpmem_env, log_level_beyond_all_is_everything)
{
	cr_expect_eq(logged("9", "log"), 3);
}

Test(rpmem_env, log_level_that_is_neither_logs_nothing)
{
	cr_expect_leq(logged("2x", "log"), 0);
}

Test(rpmem_env, log_file_with_the_process_id)
{
	cr_expect_eq(logged("info", "log-"), 3);
}

/* Then it goes to stderr: the program is not disturbed. */
Test(rpmem_env, log_file_that_cannot_be_made)
{
	cr_expect_eq(logged("error", "none/log"), -1);
}
