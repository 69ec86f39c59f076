/* What the files of the checker share: one run, claiming blocks, reporting findings. */
#ifndef RPMEMFS_FS_FSCK_IMPL_H
#define RPMEMFS_FS_FSCK_IMPL_H

#include "dir_impl.h"
#include "fsck.h"

/* What a number of the inode table stands for, and what was found about it. */
struct fsck_inode {
	const struct fs_inode_omf *omf;                         /* in the mapped pool; NULL: free or never used */
	uint64_t holder;                                        /* directory: the one whose entry names it last */
	uint32_t refs;                                          /* entries that name it */
	uint32_t subdirs;                                       /* directory: directories among its entries */
	enum { FSCK_UNKNOWN, FSCK_ON_WAY, FSCK_REACHED } reach; /* directory: its parents lead to the root */
	bool listed;                                            /* on the free or the orphan list */
	bool rotten;                                            /* blocks of its content are damaged */
};

struct fsck {
	struct copy *copy;
	const struct pm *pm;
	const struct media_geom *geom;
	struct fsck_report *report;
	const struct fs_state_omf *state; /* NULL: damaged, nothing behind it can be checked */
	uint8_t *claims;                  /* by block: enum media_type of who was found to own it */
	uint64_t used;                    /* blocks claimed */
	uint64_t file_off;                /* of the data block that is claimed now; FSCK_NO_OFF: none */
	struct fsck_inode *inodes;        /* by number, ino_next of them */
	uint64_t ino_next, ino_used;
	uint64_t leaves;                  /* blocks of the inode table by the block table: bounds ino_next */
};
#define FSCK_NO_OFF UINT64_MAX

/* Findings, see fsck.h: hiding, rot, fixable; and what is none. */
void fsck_found(struct fsck *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void fsck_rot(struct fsck *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void fsck_fixable(struct fsck *f, enum fsck_fix_kind kind, uint64_t id, uint64_t value, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
void fsck_note(struct fsck *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The block named by what/id, which owns it from now on. NULL, with a finding, when it cannot be one, is owned already
 * or is not what its table entry says. Owned once, a block is never walked twice, which ends every loop. */
const void *fsck_claim(struct fsck *f, uint64_t blk, uint32_t type, const char *what, uint64_t id);

bool fsck_all_zero(const void *bytes, size_t len);

void fsck_superblocks(struct fsck *f); /* fsck_media.c: both, and the per-copy page */
void fsck_history(struct fsck *f);     /* records that are still in the ring lead to the tail */
void fsck_tables_scan(struct fsck *f); /* counts leaves */
void fsck_tables(struct fsck *f);      /* the block table against what was claimed; counts */

int fsck_table_walk(struct fsck *f); /* fsck_inodes.c: inode table: fills inodes. -ENOMEM */
void fsck_contents(struct fsck *f);  /* blocks of every inode, names in every directory */
void fsck_lists(struct fsck *f);     /* free inodes, orphans, their count */
void fsck_dir(struct fsck *f, uint64_t ino);
void fsck_links(struct fsck *f);     /* fsck_dir.c: link counts, parents, reachability */

#endif
