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

static const char restore_usage[] =
	"POOLSET [options]\n"
	"  --from NAME          the replica to restore from; default: the newest\n"
	"  --replace            overwrite local parts that exist\n"
	"  --sparse             parts that are made get space when it is first used\n"
	"  --force --without NAME,...\n"
	"                       restore although these copies, which were not asked, may have newer commits\n"
	"  --provider NAME      tcp or verbs\n"
	"  --quiet              no progress\n";

int cmd_restore(int argc, char **argv)
{
	static const struct option options[] = {
		{ "from", required_argument, NULL, OPT_FROM },
		{ "without", required_argument, NULL, OPT_WITHOUT },
		{ "force", no_argument, NULL, OPT_FORCE },
		{ "replace", no_argument, NULL, OPT_REPLACE },
		{ "sparse", no_argument, NULL, OPT_SPARSE },
		{ "provider", required_argument, NULL, OPT_PROVIDER },
		{ "command", required_argument, NULL, OPT_COMMAND },
		{ "quiet", no_argument, NULL, OPT_QUIET },
		{ NULL, 0, NULL, 0 },
	};
	struct restore_cfg cfg = { .set = NULL };
	int opt;

	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case OPT_FROM:
			cfg.from = optarg;
			break;
		case OPT_WITHOUT:
			cfg.without = optarg;
			break;
		case OPT_FORCE:
			cfg.force = true;
			break;
		case OPT_REPLACE:
			cfg.replace = true;
			break;
		case OPT_SPARSE:
			cfg.sparse = true;
			break;
		case OPT_PROVIDER:
			cfg.provider = optarg;
			break;
		case OPT_COMMAND:
			cfg.command = optarg;
			break;
		case OPT_QUIET:
			cfg.quiet = true;
			break;
		default:
			return cmd_usage(restore_usage);
		}
	}
	if (optind + 1 != argc)
		return cmd_usage(restore_usage);
	return run(argv[optind], &cfg, restore_run);
}

static const char verify_usage[] = "POOLSET [options]\n"
				   "  --provider NAME      tcp or verbs\n"
				   "  --quiet              no progress\n";

int cmd_verify(int argc, char **argv)
{
	static const struct option options[] = {
		{ "provider", required_argument, NULL, OPT_PROVIDER },
		{ "command", required_argument, NULL, OPT_COMMAND },
		{ "quiet", no_argument, NULL, OPT_QUIET },
		{ NULL, 0, NULL, 0 },
	};
	struct restore_cfg cfg = { .set = NULL };
	int opt;

	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case OPT_PROVIDER:
			cfg.provider = optarg;
			break;
		case OPT_COMMAND:
			cfg.command = optarg;
			break;
		case OPT_QUIET:
			cfg.quiet = true;
			break;
		default:
			return cmd_usage(verify_usage);
		}
	}
	if (optind + 1 != argc)
		return cmd_usage(verify_usage);
	return run(argv[optind], &cfg, verify_run);
}
