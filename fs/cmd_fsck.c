/* rpmemfs fsck: every invariant of the local copy's content, checked without changing it. Commits that wait in the ring are
 * replayed in a private mapping of the parts only.
 *
 *   opened, records replayed --check--> findings
 *   damage in superblocks, ring or replay: a finding too; checked is then what lies in place, without the records
 *   no superblock or page that counts: these are told, nothing behind them can be found
 *
 * With --repair, what can be is repaired (cmd_repair.c), from findings of a check of its own. */
#include "cmd.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include "errmsg.h"
#include "fsck.h"

#define FSCK_USAGE "[--repair [--provider NAME]] POOLSET"

struct fsck_args {
	const char *set, *provider;
	bool repair;
};

/* ---------------------------------------------------------------- telling */

int cmd_fsck_tell(const struct poolset *set, const struct fsck_report *report)
{
	uint64_t told = report->count - report->notes;

	for (size_t i = 0; i < report->count; i++)
		printf("%s\n", report->lines[i]);
	if (report->total > told)
		printf("... and %" PRIu64 " more\n", report->total - told);
	if (report->total == 0) {
		printf("%s: sound: %" PRIu64 " inodes, %" PRIu64 " blocks in use\n", set->path, report->inodes,
		       report->used_blks);
		return CMD_OK;
	}
	printf("%s: DAMAGED: %" PRIu64 " finding%s\n", set->path, report->total, report->total == 1 ? "" : "s");
	return CMD_NOT_FINE;
}

static bool counts_alone(const struct fsck_report *report)
{
	for (size_t i = 0; i < report->fix_count; i++)
		if (report->fixes[i].kind != FSCK_FIX_COUNT)
			return false;
	return true;
}

/* What a repair would leave is damage of this copy, or of all of them. */
static void advise_restore(const struct poolset *set, const struct fsck_report *report)
{
	const char *path = set->path;

	if (!cmd_has_replica(set)) {
		printf("  if this is a replica of another machine's pool, it needs a whole copy: NOTES of rpmemfs(1) say how\n"
		       "  otherwise %s names no replica to restore from: mount it, copy away what can be read, and make it anew:\n"
		       "  rpmemfs mkfs --force %s\n", path, path);
		return;
	}
	printf("  restore from a replica if one is good: rpmemfs verify %s tells\n  rpmemfs restore --replace --from %s %s\n", path,
	       set->replicas[1].name, path);
	for (unsigned i = 2; i < set->replica_count; i++)
		printf("  rpmemfs restore --replace --from %s %s\n", set->replicas[i].name, path);
	if (report->hiding != 0)
		printf("  if verify finds them the same, all have this damage: mount it and copy away what can be read\n");
}

void cmd_fsck_advise(const struct poolset *set, const struct fsck_report *report)
{
	if (report->total == 0)
		return;
	if (fsck_repairable(report))
		printf("  rpmemfs fsck --repair %s repairs %" PRIu64 " of them%s\n", set->path, report->total - report->rot,
		       cmd_has_replica(set) && !counts_alone(report) ? ", if every replica is reached and all copies are the same" :
								      "");
	if (report->hiding + report->rot != 0)
		advise_restore(set, report);
}

/* ---------------------------------------------------------------- opening */

/* Whether an error of opening a copy means damage, which is what a check is for. */
static bool is_damage(int err)
{
	return err == -EBADMSG || err == -EMEDIUMTYPE;
}

static int private_open(struct cmd_local *local)
{
	copy_close(local->copy);
	local->copy = NULL;
	if (local->private_base != NULL)
		munmap(local->private_base, local->pool->pm.len);
	local->private_base = NULL;
	return cmd_map_private(local);
}

/* The copy with everything applied that waits in its ring, in this process only. */
static int open_replayed(struct cmd_local *local)
{
	int err = copy_open(&local->pool->pm, true, &local->copy);

	if (err != 0 || copy_head(local->copy).seq == copy_tail(local->copy).seq)
		return err;
	err = private_open(local);
	if (err == 0)
		err = copy_open(&local->private_pm, false, &local->copy);
	return err == 0 ? copy_checkpoint(local->copy, copy_head(local->copy).seq, UINT64_MAX) : err;
}

/* What lies in place, as if no record had come behind it. */
static int open_without_ring(struct cmd_local *local)
{
	struct pm *pm = &local->private_pm;
	struct media_geom geom;
	int err = private_open(local);

	if (err != 0)
		return err;
	if (copy_sb_check(pm_ptr(pm, media_off(MEDIA_SB_A_BLK)), pm->len, &geom) != 0 &&
	    copy_sb_check(pm_ptr(pm, media_off(MEDIA_SB_B_BLK)), pm->len, &geom) != 0)
		return -EBADMSG;
	pm_zero(pm, media_ring_off(0), geom.ring_bytes);
	return copy_open(pm, false, &local->copy);
}

/* 0 with the copy open, or closed when nothing of it can be: then the report says why. */
static int fsck_open(struct cmd_local *local, struct fsck_report *report)
{
	int err = pool_open(local->set, 0, POOL_RDONLY | POOL_NOWAIT_LOCK, &local->pool);

	if (err != 0)
		return err;
	err = open_replayed(local);
	if (!is_damage(err))
		return err;
	fsck_report_add(report, errmsg_get());
	err = open_without_ring(local);
	if (!is_damage(err))
		return err;
	copy_close(local->copy);
	local->copy = NULL;
	fsck_front(&local->pool->pm, report);
	return 0;
}

static int fsck_check(const struct poolset *set, struct fsck_report *report)
{
	struct cmd_local local = { .set = set };
	int err = fsck_open(&local, report);

	if (err == 0 && local.copy != NULL && copy_page(local.copy)->state != MEDIA_CONSISTENT)
		err = errmsg_set(-EUCLEAN, "%s: the local copy was being rebuilt and that was not finished\n"
				 "  run rpmemfs restore %s again: it goes on where it was", set->path, set->path);
	if (err != 0)
		err = cmd_explain(set->path, err);
	else if (local.copy != NULL)
		err = fsck_copy(local.copy, report);
	cmd_local_close(&local);
	return err;
}

/* ---------------------------------------------------------------- command */

static bool parse_args(int argc, char **argv, struct fsck_args *args)
{
	static const struct option options[] = {
		{ "repair", no_argument, NULL, 'r' }, { "provider", required_argument, NULL, 'p' }, { NULL, 0, NULL, 0 },
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'r')
			args->repair = true;
		else if (opt == 'p')
			args->provider = optarg;
		else
			return false;
	}
	args->set = argv[optind];
	return optind == argc - 1 && (args->repair || args->provider == NULL);
}

static int fsck_set(const struct poolset *set, const struct fsck_args *args)
{
	struct fsck_report report = { .total = 0 };
	int result = fsck_check(set, &report);

	if (result == 0)
		result = cmd_fsck_tell(set, &report);
	if (result == CMD_NOT_FINE && args->repair)
		result = cmd_repair(set, args->provider, &report);
	else if (result == CMD_NOT_FINE)
		cmd_fsck_advise(set, &report);
	fsck_report_free(&report);
	return result;
}

int cmd_fsck(int argc, char **argv)
{
	struct fsck_args args = { .set = NULL };
	struct poolset *set;
	int result;

	if (!parse_args(argc, argv, &args))
		return cmd_usage(FSCK_USAGE);
	result = poolset_read(args.set, &set);
	if (result != 0)
		return cmd_failed(result);
	result = fsck_set(set, &args);
	poolset_free(set);
	return result < 0 ? cmd_failed(result) : result;
}
