/* Command lines of restore and verify. Exit codes: 0 done, 1 failed, 2 usage, 3 refused (nothing was overwritten). */
#include "restore.h"

#include <getopt.h>
#include <stdio.h>
#include "errmsg.h"
#include "log.h"

static int usage(const char *text)
{
	fputs(text, stderr);
	return RESTORE_USAGE;
}

static int tell(const char *command, enum restore_exit code)
{
	if (code != RESTORE_DONE && errmsg_get()[0])
		fprintf(stderr, "rpmemfs %s: %s%s\n", command, code == RESTORE_REFUSED ? "refused: " : "", errmsg_get());
	return (int)code;
}

enum { OPT_FROM = 256, OPT_WITHOUT, OPT_FORCE, OPT_REPLACE, OPT_PROVIDER, OPT_COMMAND, OPT_QUIET };

static const char restore_usage[] =
	"usage: rpmemfs restore POOLSET [options]\n"
	"  --from NAME          the replica to restore from; default: the newest\n"
	"  --replace            overwrite local parts that exist\n"
	"  --force --without NAME,...\n"
	"                       restore although these copies, which were not asked, may have newer commits\n"
	"  --provider NAME      tcp or verbs\n"
	"  --quiet              no progress\n";

int cmd_restore(int argc, char **argv)
{
	static const struct option options[] = {
		{ "from", required_argument, NULL, OPT_FROM },       { "without", required_argument, NULL, OPT_WITHOUT },
		{ "force", no_argument, NULL, OPT_FORCE },           { "replace", no_argument, NULL, OPT_REPLACE },
		{ "provider", required_argument, NULL, OPT_PROVIDER }, { "command", required_argument, NULL, OPT_COMMAND },
		{ "quiet", no_argument, NULL, OPT_QUIET },           { NULL, 0, NULL, 0 },
	};
	struct restore_cfg cfg = { .set_path = NULL };
	int opt;

	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case OPT_FROM: cfg.from = optarg; break;
		case OPT_WITHOUT: cfg.without = optarg; break;
		case OPT_FORCE: cfg.force = true; break;
		case OPT_REPLACE: cfg.replace = true; break;
		case OPT_PROVIDER: cfg.provider = optarg; break;
		case OPT_COMMAND: cfg.command = optarg; break;
		case OPT_QUIET: cfg.quiet = true; break;
		default: return usage(restore_usage);
		}
	}
	if (optind + 1 != argc)
		return usage(restore_usage);
	cfg.set_path = argv[optind];
	return tell("restore", restore_run(&cfg));
}

static const char verify_usage[] =
	"usage: rpmemfs verify POOLSET [options]\n"
	"  --provider NAME      tcp or verbs\n"
	"  --quiet              no progress\n";

int cmd_verify(int argc, char **argv)
{
	static const struct option options[] = {
		{ "provider", required_argument, NULL, OPT_PROVIDER }, { "command", required_argument, NULL, OPT_COMMAND },
		{ "quiet", no_argument, NULL, OPT_QUIET },             { NULL, 0, NULL, 0 },
	};
	struct restore_cfg cfg = { .set_path = NULL };
	int opt;

	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case OPT_PROVIDER: cfg.provider = optarg; break;
		case OPT_COMMAND: cfg.command = optarg; break;
		case OPT_QUIET: cfg.quiet = true; break;
		default: return usage(verify_usage);
		}
	}
	if (optind + 1 != argc)
		return usage(verify_usage);
	cfg.set_path = argv[optind];
	return tell("verify", verify_run(&cfg));
}
