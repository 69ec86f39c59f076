/* rpmemfs fsck: every invariant of the local copy's content, checked without changing it. Commits that wait in the ring are
 * replayed in memory only. */
#include "cmd.h"

#include <inttypes.h>
#include <stdio.h>
#include "fsck.h"

static int fsck_check(const struct cmd_local *local, struct fsck_report *report)
{
	const struct fs_cfg cfg = { .read_only = true };
	struct fs *fs;
	int err = fs_open(local->copy, &cfg, &fs);

	if (err != 0)
		return err;
	err = fsck_run(fs, report);
	fs_close(fs);
	return err;
}

static int fsck_tell(const char *path, const struct fsck_report *report)
{
	for (size_t i = 0; i < report->count; i++)
		printf("%s\n", report->lines[i]);
	if (report->total > report->count)
		printf("... and %" PRIu64 " more\n", report->total - report->count);
	if (report->total == 0) {
		printf("%s: sound: %" PRIu64 " inodes, %" PRIu64 " blocks in use\n", path, report->inodes, report->used_blks);
		return CMD_OK;
	}
	printf("%s: DAMAGED: %" PRIu64 " finding%s\n  rpmemfs verify %s tells which replica is good, rpmemfs restore %s "
	       "rebuilds from it\n", path, report->total, report->total == 1 ? "" : "s", path, path);
	return CMD_NOT_FINE;
}

static int fsck_look(const struct cmd_local *local, uint64_t waiting)
{
	struct fsck_report report = { .total = 0 };
	int result = fsck_check(local, &report);

	(void)waiting;
	if (result == 0)
		result = fsck_tell(local->set->path, &report);
	fsck_report_free(&report);
	return result;
}

int cmd_fsck(int argc, char **argv)
{
	return cmd_look(argc, argv, fsck_look);
}
