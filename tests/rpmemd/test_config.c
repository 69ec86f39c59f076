/* Command line and configuration files: precedence, every way a line can be wrong, and what goes to which exit. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "errmsg.h"
#include "rpmemd/config.h"

static char dir[] = "/tmp/test_config.XXXXXX";
static char global_path[64], user_path[64];

static void set_up(void)
{
	cr_assert(mkdtemp(dir));
	snprintf(global_path, sizeof(global_path), "%s/global.conf", dir);
	snprintf(user_path, sizeof(user_path), "%s/%s", dir, CONFIG_USER_NAME);
}

static void tear_down(void)
{
	unlink(global_path);
	unlink(user_path);
	rmdir(dir);
}

TestSuite(config, .init = set_up, .fini = tear_down);

static void put(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	cr_assert(f && fputs(text, f) >= 0 && !fclose(f));
}

/* argv of the words, NULL-terminated in the call. */
#define PARSE(cfg, ...)                                                                          \
	({                                                                                       \
		char *argv_[] = { (char *)"rpmemd", ##__VA_ARGS__, NULL };                       \
		config_parse_args((int)(sizeof(argv_) / sizeof(argv_[0])) - 1, argv_, cfg);      \
	})

static int load(struct config *cfg)
{
	return config_load(cfg, global_path, dir);
}

Test(config, defaults_are_those_of_the_original)
{
	struct config cfg;

	cr_assert_eq(PARSE(&cfg), 0);
	cr_assert_eq(load(&cfg), 0);
	cr_expect_eq(cfg.action, CONFIG_SERVE);
	cr_expect_str_eq(cfg.log_file, "/var/log/rpmemd.log");
	cr_expect_str_eq(cfg.poolset_dir, dir);
	cr_expect(!cfg.persist_apm && cfg.persist_general && cfg.use_syslog && !cfg.log_told);
	cr_expect_eq(cfg.log_level, LOG_LEVEL_ERROR);
	cr_expect_eq(cfg.nthreads, 0);
}

Test(config, command_line_beats_user_file_beats_global_file)
{
	struct config cfg;

	put(global_path, "log-level = warn\npersist-apm = yes # comment\n\n  poolset-dir=/global\t\nidle-ms = 700\n");
	put(user_path, "# only a comment\nlog-level = info\npoolset-dir = /user\n");
	cr_assert_eq(PARSE(&cfg, (char *)"--log-level", (char *)"debug"), 0);
	cr_assert_eq(load(&cfg), 0, "%s", errmsg_get());
	cr_expect_eq(cfg.log_level, LOG_LEVEL_DEBUG);
	cr_expect_str_eq(cfg.poolset_dir, "/user");
	cr_expect(cfg.persist_apm);
	cr_expect_eq(cfg.idle_ms, 700);
}

Test(config, a_named_file_replaces_both_and_must_exist)
{
	struct config cfg;

	put(global_path, "log-level = nonsense\n");
	put(user_path, "poolset-dir = /named\n");
	cr_assert_eq(PARSE(&cfg, (char *)"-c", user_path), 0);
	cr_assert_eq(load(&cfg), 0);
	cr_expect_str_eq(cfg.poolset_dir, "/named");
	cr_assert_eq(PARSE(&cfg, (char *)"--config=/nonexistent/rpmemd.conf"), 0);
	cr_expect_eq(load(&cfg), -ENOENT);
}

Test(config, a_wrong_line_makes_the_whole_configuration_invalid)
{
	static const char *const lines[] = { "unknown-key = 1", "log-level", "log-level =", "= yes", "persist-apm = true",
		"persist-general = 1", "use-syslog = YES", "log-level = loud", "idle-ms = 5", "idle-ms = 1e3", "nthreads = -1",
		"poolset-dir = relative", "persist-method = gpspm", "persist-force = 1" };

	for (unsigned i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		struct config cfg;
		char text[128];

		snprintf(text, sizeof(text), "log-level = info\n%s\n", lines[i]);
		put(global_path, text);
		cr_assert_eq(PARSE(&cfg), 0);
		cr_expect_eq(load(&cfg), -EINVAL, "%s", lines[i]);
	}
}

Test(config, errors_name_file_and_line)
{
	struct config cfg;

	put(global_path, "\n\nbad\n");
	cr_assert_eq(PARSE(&cfg), 0);
	cr_assert_eq(load(&cfg), -EINVAL);
	cr_expect(strstr(errmsg_get(), "global.conf:3: "), "%s", errmsg_get());
}

Test(config, home_is_put_into_the_pool_directory_only_as_a_word)
{
	static const struct { const char *value, *want; } cases[] = {
		{ "$HOME", "H" }, { "$HOME/pools", "H/pools" }, { "/a$HOME", "/aH" }, { "/x/$HOMEs", "/x/$HOMEs" },
		{ "/$HOMEs/$HOME/$HOME", "/$HOMEs/H/$HOME" },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct config cfg;
		char want[256];
		const char *h = strchr(cases[i].want, 'H');

		while (h && h > cases[i].want && h[-1] == '$')
			h = strchr(h + 1, 'H');
		if (h)
			snprintf(want, sizeof(want), "%.*s%s%s", (int)(h - cases[i].want), cases[i].want, dir, h + 1);
		else
			snprintf(want, sizeof(want), "%s", cases[i].want);
		cr_assert_eq(PARSE(&cfg, (char *)"--poolset-dir", (char *)cases[i].value), 0);
		cr_assert_eq(load(&cfg), 0, "%s", errmsg_get());
		cr_expect_str_eq(cfg.poolset_dir, want);
	}
}

Test(config, an_unknown_home_is_refused_where_it_is_needed)
{
	struct config cfg;

	cr_assert_eq(PARSE(&cfg), 0);
	cr_expect_eq(config_load(&cfg, global_path, NULL), -EINVAL);
	cr_assert_eq(PARSE(&cfg, (char *)"--poolset-dir=/x"), 0);
	cr_expect_eq(config_load(&cfg, global_path, NULL), 0);
}

Test(config, remove_takes_its_two_flags)
{
	struct config cfg;

	cr_assert_eq(PARSE(&cfg, (char *)"--remove", (char *)"a.set", (char *)"--force", (char *)"--pool-set"), 0);
	cr_expect_eq(cfg.action, CONFIG_REMOVE);
	cr_expect_str_eq(cfg.remove_set, "a.set");
	cr_expect(cfg.force && cfg.remove_pool_set);
	cr_expect_eq(PARSE(&cfg, (char *)"-f"), -EINVAL);
	cr_expect_eq(PARSE(&cfg, (char *)"-s"), -EINVAL);
}

Test(config, usage_errors_are_told_from_help)
{
	struct config cfg;

	cr_expect_eq(PARSE(&cfg, (char *)"--unknown"), -EINVAL);
	cr_expect_eq(PARSE(&cfg, (char *)"-r"), -EINVAL);
	cr_expect_eq(PARSE(&cfg, (char *)"stray"), -EINVAL);
	cr_expect_eq(PARSE(&cfg, (char *)"-t", (char *)"many"), -EINVAL);
	cr_expect_eq(PARSE(&cfg, (char *)"--log-level", (char *)"loud"), -EINVAL);
	cr_expect_eq(PARSE(&cfg, (char *)"-h"), 0);
	cr_expect_eq(cfg.action, CONFIG_HELP);
	cr_expect_eq(PARSE(&cfg, (char *)"--version"), 0);
	cr_expect_eq(cfg.action, CONFIG_VERSION);
}

Test(config, a_log_file_turns_syslog_off_and_the_later_option_decides)
{
	struct config cfg;

	cr_assert_eq(PARSE(&cfg, (char *)"--log-file", (char *)"/x"), 0);
	cr_assert_eq(load(&cfg), 0);
	cr_expect(!cfg.use_syslog && cfg.log_told);
	cr_assert_eq(PARSE(&cfg, (char *)"--log-file", (char *)"/x", (char *)"--use-syslog"), 0);
	cr_assert_eq(load(&cfg), 0);
	cr_expect(cfg.use_syslog);
}

/* In files as on the command line: the later line decides, and that of the user's file is later than that of the global one. */
Test(config, a_log_file_in_a_file_turns_syslog_off_and_the_later_line_decides)
{
	static const struct { const char *global, *user; bool syslog; } cases[] = {
		{ "log-file = /x\n", "", false },
		{ "log-file = /x\nuse-syslog = yes\n", "", true },
		{ "use-syslog = yes\nlog-file = /x\n", "", false },
		{ "use-syslog = no\n", "", false },
		{ "log-file = /x\n", "use-syslog = yes\n", true },
		{ "use-syslog = yes\n", "log-file = /x\n", false },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct config cfg;

		put(global_path, cases[i].global);
		put(user_path, cases[i].user);
		cr_assert_eq(PARSE(&cfg), 0);
		cr_assert_eq(load(&cfg), 0);
		cr_expect(cfg.log_told && cfg.use_syslog == cases[i].syslog, "row %u", i);
		cr_assert_eq(PARSE(&cfg, (char *)"--use-syslog"), 0);
		cr_assert_eq(load(&cfg), 0);
		cr_expect(cfg.use_syslog, "the command line has the last word: row %u", i);
	}
}

Test(config, only_a_chosen_log_destination_can_fail)
{
	struct config cfg;

	cr_assert_eq(PARSE(&cfg), 0);
	cr_assert_eq(load(&cfg), 0);
	cr_expect_eq(config_open_log(&cfg, true), 0);
	cr_expect_eq(config_open_log(&cfg, false), 0);
	cr_assert_eq(PARSE(&cfg, (char *)"--log-file", (char *)"/nonexistent/x.log"), 0);
	cr_assert_eq(load(&cfg), 0);
	cr_expect_eq(config_open_log(&cfg, false), -ENOENT);
	cr_expect_eq(config_open_log(&cfg, true), -ENOENT);
}

Test(config, a_method_is_chosen_by_name)
{
	static const struct { const char *value; enum config_method want; } cases[] = {
		{ "general", CONFIG_METHOD_GENERAL }, { "apm", CONFIG_METHOD_APM }, { "commit", CONFIG_METHOD_COMMIT },
		{ "auto", CONFIG_METHOD_AUTO },
	};
	struct config cfg;

	cr_assert_eq(PARSE(&cfg), 0);
	cr_assert_eq(load(&cfg), 0);
	cr_expect(cfg.persist_method == CONFIG_METHOD_UNSET && !cfg.persist_force);
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(PARSE(&cfg, (char *)"--persist-force", (char *)"--persist-method", (char *)cases[i].value), 0);
		cr_assert_eq(load(&cfg), 0);
		cr_expect(cfg.persist_method == cases[i].want && cfg.persist_force);
	}
	put(user_path, "persist-method = commit\npersist-force = yes\n");
	cr_assert_eq(PARSE(&cfg), 0);
	cr_assert_eq(load(&cfg), 0);
	cr_expect(cfg.persist_method == CONFIG_METHOD_COMMIT && cfg.persist_force);
}
