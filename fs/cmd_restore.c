/* Command lines of restore and verify. Exit codes: 0 done, 1 failed, 2 usage, 3 refused (nothing was overwritten). */
#include "restore.h"

#include <getopt.h>
#include "cmd.h"
#include "errmsg.h"

static int tell(enum restore_exit code)
{
	if (code == RESTORE_REFUSED)
		cmd_error("refused: %s", errmsg_get());
	else if (code != RESTORE_DONE && errmsg_get()[0])
		cmd_error("%s", errmsg_get());
	return (int)code;
}

/* Reads the poolset, runs, tells. */
static int run(const char *set_path, struct restore_cfg *cfg, enum restore_exit (*what)(const struct restore_cfg *cfg))
{
	struct poolset *set;
	enum restore_exit code;
	int err = poolset_read(set_path, &set);

	if (err)
		return cmd_failed(err);
	cfg->set = set;
	if (!cfg->command)
		cfg->command = cmd_rpmemd(set);
	code = what(cfg);
	poolset_free(set);
	return tell(code);
}

enum { OPT_FROM = 256, OPT_WITHOUT, OPT_FORCE, OPT_REPLACE, OPT_SPARSE, OPT_PROVIDER, OPT_COMMAND, OPT_QUIET };

static bool option_take(int opt, struct restore_cfg *cfg)
{
	switch (opt) {
	case OPT_FROM:
		cfg->from = optarg;
		return true;
	case OPT_WITHOUT:
		cfg->without = optarg;
		return true;
	case OPT_FORCE:
		return cfg->force = true;
	case OPT_REPLACE:
		return cfg->replace = true;
	case OPT_SPARSE:
		return cfg->sparse = true;
	case OPT_PROVIDER:
		cfg->provider = optarg;
		return true;
	case OPT_COMMAND:
		cfg->command = optarg;
		return true;
	case OPT_QUIET:
		return cfg->quiet = true;
	default:
		return false;
	}
}

/* One of the two commands: its options, its usage, and what it does. */
static int command(int argc, char **argv, const struct option *options, const char *usage,
	enum restore_exit (*what)(const struct restore_cfg *cfg))
{
	struct restore_cfg cfg = { .set = NULL };
	int opt;

	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (!option_take(opt, &cfg))
			return cmd_usage(usage);
	}
	if (optind + 1 != argc)
		return cmd_usage(usage);
	return run(argv[optind], &cfg, what);
}

/* Both commands have these. */
#define COMMON_OPTIONS                                                                                                 \
	{ "provider", required_argument, NULL, OPT_PROVIDER }, { "command", required_argument, NULL, OPT_COMMAND },    \
	{ "quiet", no_argument, NULL, OPT_QUIET }, { NULL, 0, NULL, 0 }
#define COMMON_USAGE                                                                                                   \
	"  --provider NAME      tcp or verbs\n"                                                                        \
	"  --quiet              no progress\n"

int cmd_restore(int argc, char **argv)
{
	static const struct option options[] = {
		{ "from", required_argument, NULL, OPT_FROM },
		{ "without", required_argument, NULL, OPT_WITHOUT },
		{ "force", no_argument, NULL, OPT_FORCE },
		{ "replace", no_argument, NULL, OPT_REPLACE },
		{ "sparse", no_argument, NULL, OPT_SPARSE },
		COMMON_OPTIONS,
	};
	static const char usage[] =
		"POOLSET [options]\n"
		"  --from NAME          the replica to restore from; default: the newest\n"
		"  --replace            overwrite local parts that exist\n"
		"  --sparse             parts that are made get space when it is first used\n"
		"  --force --without NAME,...\n"
		"                       restore although these copies, which were not asked, may have newer commits\n"
		COMMON_USAGE;

	return command(argc, argv, options, usage, restore_run);
}

int cmd_verify(int argc, char **argv)
{
	static const struct option options[] = { COMMON_OPTIONS };

	return command(argc, argv, options, "POOLSET [options]\n" COMMON_USAGE, verify_run);
}
