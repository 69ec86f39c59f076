/* The format checker: every invariant of one copy's content, looked at block by block. Offline and read-only: it runs
 * on an opened core that nobody changes meanwhile, with all records applied (fs_checkpoint). It repairs nothing: what
 * it finds is either a bug or rot, and the cure for both is another copy. */
#ifndef RPMEMFS_FS_FSCK_H
#define RPMEMFS_FS_FSCK_H

#include <stddef.h>
#include <stdint.h>

struct fs;

#define FSCK_LINES_MAX 200u

struct fsck_report {
	uint64_t total;              /* findings; 0: the copy is sound */
	size_t count;                /* lines kept, the first FSCK_LINES_MAX */
	char *lines[FSCK_LINES_MAX]; /* one finding each, naming block or inode; malloc'ed */
	uint64_t inodes, used_blks;  /* seen on the way */
};

/* Reads everything in use once; memory: about 1 byte a block and 40 an inode. 0: checked, see the report, which
 * fsck_report_free empties. -EBUSY: records wait in the ring; -ENOMEM. The report holds what was found until then. */
int fsck_run(struct fs *fs, struct fsck_report *report);
void fsck_report_free(struct fsck_report *report);

#endif
