/* The format checker: every invariant of one copy's content, looked at block by block. Offline: it runs on a copy that
 * nobody changes meanwhile, with all records applied (copy_checkpoint, fs_checkpoint), and stores nothing. It reads
 * untrusted bytes: whatever they are, it ends, in bounded memory, and goes on behind a finding.
 *
 * Damage with a wrong checksum is rot of this one copy, and the cure is another copy. What contradicts itself under right
 * checksums is in the history and so on every copy: of that fsck_repair mends what needs no guess. A finding is one of
 *
 *   fixable  fsck_repair knows what is right: a fix in the report
 *   rot      a file's content is damaged, which hides nothing of the structure
 *   hiding   structure is damaged: what it led to is unknown, so nothing that follows from it may be repaired */
#ifndef RPMEMFS_FS_FSCK_H
#define RPMEMFS_FS_FSCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct copy;
struct fs;
struct pm;

#define FSCK_LINES_MAX 200u
#define FSCK_FIXES_MAX 65536u /* kept of one run, and all counts; the others are found again by the next */

enum fsck_fix_kind {
	FSCK_FIX_COUNT, /* used blocks of group id are value; FSCK_POOL: of the pool, in the superblock */
	FSCK_FIX_LEAK,  /* block id has no owner */
	FSCK_FIX_LINKS, /* inode id has value names; a directory: is to have that link count */
	FSCK_FIX_LOST,  /* inode id is whole, but no name leads to it; value: its link count once it has one */
};
#define FSCK_POOL UINT64_MAX

struct fsck_fix {
	enum fsck_fix_kind kind;
	uint64_t id, value;
};

struct fsck_report {
	uint64_t total;              /* findings; 0: the copy is sound */
	uint64_t rot, hiding;        /* of them; the others are fixable */
	size_t count;                /* lines kept, the first FSCK_LINES_MAX */
	size_t notes;                /* of them: no findings, but worth knowing */
	char *lines[FSCK_LINES_MAX]; /* one finding each, naming block or inode; malloc'ed */
	struct fsck_fix *fixes;      /* by kind, in the order of the enum */
	size_t fix_count, fix_cap;
	uint64_t inodes, used_blks;  /* seen on the way */
};

/* Reads everything in use once; memory: about 1 byte a block, 40 an inode in use and 24 a fix. 0: checked, see the report,
 * which is added to and which fsck_report_free empties; it starts zeroed. -EBUSY: records wait in the ring; -ENOMEM. The
 * report holds what was found until then. */
int fsck_copy(struct copy *copy, struct fsck_report *report);
/* The same on the copy of an open core. */
int fsck_run(struct fs *fs, struct fsck_report *report);

/* Superblocks and per-copy page of a pool whose copy cannot be opened, each by itself. */
void fsck_front(const struct pm *pm, struct fsck_report *report);

/* One more hiding finding, of something that kept the check from going on. -ENOMEM: counted, not kept. */
void fsck_report_add(struct fsck_report *report, const char *line);
void fsck_report_free(struct fsck_report *report);

/* ---------------------------------------------------------------- repair (fsck_repair.c) */

/* Whether everything but rot in the report can be repaired, and there is something. */
bool fsck_repairable(const struct fsck_report *report);

/* Counts of used blocks, which every copy derives for itself: put right in place, before the core is opened. No record
 * waits in the ring. Each is one store of a word or of one superblock: cut off, those not reached are as they were, and at
 * most one summary has a wrong check, which the next run mends. -EIO: the medium. */
int fsck_repair_counts(struct copy *copy, const struct fsck_report *report);

/* Everything else, as operations of the core's running commit, from fix *next on, which is moved. -EAGAIN: the commit in
 * flight must land first, to be called again after fs_poll. Nothing is durable before fs_sync_all; each commit holds whole
 * fixes, so that a crash leaves some done and the others not begun. The report is that of this very state. -ENOTDIR: the
 * name lost+found is taken; -ENOSPC, -EUCLEAN and others of the core: this fix was not made, *next names it. */
int fsck_repair(struct fs *fs, const struct fsck_report *report, size_t *next);

#endif
