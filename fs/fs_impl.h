/* struct fs: what the core's files share. Each member is changed by the file named beside it only.
 *
 *   running commit:  changes made since the last close            (block.c, op.c)
 *   flying commit:   closed, in the local ring, posted to replicas (commit.c); at most one
 *   settled:         durable on every attached copy               (commit.c)
 *
 * A shadow is on the running commit's dirty list while it has dirty lines; else on the clean list, ordered by the newest
 * record that holds lines of it, until the checkpoint has passed that record. One without lines is kept for reading. */
#ifndef RPMEMFS_FS_IMPL_H
#define RPMEMFS_FS_IMPL_H

#include <sys/queue.h>
#include "fresh.h"
#include "fs.h"
#include "hash64.h"
#include "redo.h"
#include "repl.h"
#include "stream.h"
#include "tree.h"
#include "vec.h"

struct shadow {
	uint64_t blk;
	uint32_t type;
	bool fresh;         /* linked by the running commit: goes with all lines */
	uint64_t dirty;     /* lines the running commit carries */
	uint64_t op_saved;  /* lines the open operation has saved for undo */
	uint64_t lines_seq; /* newest closed record with lines of it, 0: none */
	uint32_t csum;      /* recover.c: of the content after that record */
	TAILQ_ENTRY(shadow) list;
	UT_hash_handle hh;
	uint8_t content[MEDIA_BLOCK_BYTES] __attribute__((aligned(64)));
};
TAILQ_HEAD(shadow_list, shadow);

struct freed {
	uint64_t blk, lines_seq;
};

struct undo_line {
	struct shadow *shadow;
	uint8_t line;
	bool was_dirty;
	uint8_t bytes[MEDIA_LINE_BYTES];
};

struct op { /* op.c */
	bool open;
	VEC(struct undo_line) lines;
	VEC(struct shadow *) touched; /* op_saved != 0 */
	VEC(uint64_t) fresh_meta, fresh_data, freed, reclaim;
};

struct commit { /* block.c fills the running one, commit.c the flying one */
	uint64_t seq;
	uint64_t bytes;                /* record estimate */
	VEC(uint64_t) links;           /* running: data blocks it links; some may have left it again (fresh.h tells) */
	VEC(struct freed) freed;
	uint64_t meta_links;           /* fresh shadows on the dirty list */
};

struct pending {
	uint64_t blk, freed_by, lines_seq;
};

struct group { /* alloc.c */
	uint64_t *used;     /* bitmap, NULL: not looked at yet */
	uint64_t *leaving;  /* bitmap behind it: freed by an operation, not given out again yet */
	uint32_t free, len; /* free: valid with used */
	bool full;          /* nothing free when last looked at, or the summary says so */
	uint64_t told_seq;  /* while records are loaded: record up to which the summary counts ... */
	int64_t told;       /* ... and blocks in use by it and by those behind it */
};

struct alloc { /* alloc.c */
	struct group *groups;
	bool recovering; /* records are being loaded: tables and summaries are compared in the end */
	uint64_t total, free, reserved;
	uint64_t backed;   /* of free: in groups looked at, which in a sparse pool have their space */
	uint64_t retry_ns; /* sparse: a group was refused its space, not asked for again before this */
	uint64_t data_blk, meta_blk; /* where the next search starts */
	VEC(struct pending) wait_ack; /* ordered by freed_by; index wait_ack_head is the oldest */
	size_t wait_ack_head;
	VEC(struct pending) wait_tail;
	uint64_t wait_tail_min;       /* least lines_seq in wait_tail */
};

#define FS_SEEN_BLKS 256u

struct fs {
	struct copy *copy;
	struct pm *pm;
	struct media_geom geom;
	uint64_t root_blk, hash_seed;
	struct fs_cfg cfg;
	int failed;             /* the local copy failed: nothing is changed or acknowledged any more */

	struct shadow *shadows; /* by blk */
	struct shadow_list dirty, clean;
	uint64_t seen[FS_SEEN_BLKS]; /* metadata blocks looked at in place, by a hash of their number */
	unsigned kept;               /* shadows made for reading since the last were dropped */
	struct fresh_chunk *fresh, *fresh_last; /* fresh.c */
	struct op op;
	struct commit running, flying; /* flying.seq == 0: none */
	struct alloc alloc;

	struct redo_builder *builder;
	struct repl_range *ranges;
	size_t range_cap;
	uint64_t epoch;
	uint64_t settled;       /* newest seq durable on every attached copy */
	uint64_t acked;         /* newest seq that may be acknowledged */
	uint64_t wanted;        /* close the running commit if its seq is <= this */
	struct fs_waiter *waiters, **waiters_end; /* ordered by seq */

	struct vinode *vinodes; /* by ino; stream.c */
	struct vinode *dirty_streams, **dirty_end;
	uint64_t stream_gen;    /* +1 for each stream opened */
	uint64_t link_upto;     /* streams up to this generation are to be linked */
	struct fs_waiter *all_waiters, **all_end; /* fs_sync_all: waiting for streams up to seq (a generation) */
	uint64_t background_ns; /* when the background commit is due; 0: nothing dirty */
	VEC(uint64_t) reclaim;  /* orphans to be reclaimed; orphan work in fs.c */
	uint64_t fake_ns;
};

#define FS_RECORD_MAX(fs) ((fs)->geom.ring_bytes / REDO_RING_SHARE)

/* block.c */
struct shadow *shadow_find(struct fs *fs, uint64_t blk);
void shadow_delete(struct fs *fs, struct shadow *shadow);
void shadow_mark(struct fs *fs, struct shadow *shadow, uint64_t lines); /* they become dirty */
void shadow_unmark(struct fs *fs, struct shadow *shadow, uint64_t lines);
void block_unlink_fresh_meta(struct fs *fs, struct shadow *shadow); /* undo of block_new */
void block_unlink_fresh_data(struct fs *fs, uint64_t blk);
/* Forgets shadows and checksums that the block table holds now. */
void blocks_checkpointed(struct fs *fs, uint64_t tail);
/* Forgets shadows kept for reading when they are many. No content handed out before may be used behind it. */
void blocks_settle(struct fs *fs);
int block_free_now(struct fs *fs, uint64_t blk);
int blocks_init(struct fs *fs);
void blocks_fini(struct fs *fs);

/* The shadow of a block, made from what is in place, unchecked: only for recovery, which checks at its end. */
int shadow_load(struct fs *fs, uint64_t blk, uint32_t type, struct shadow **shadow);

/* recover.c: takes the records between tail and head over. -EBADMSG, -ENOMEM */
int records_load(struct fs *fs);

/* op.c */
int op_save_line(struct fs *fs, struct shadow *shadow, unsigned line);
void op_fini(struct fs *fs);

/* commit.c */
bool commit_is_empty(const struct fs *fs); /* nothing in the running commit */
int commit_close(struct fs *fs);
int commit_init(struct fs *fs);
void commit_fini(struct fs *fs);
bool commit_fits(struct fs *fs, uint64_t record_bytes); /* room for an operation, without closing */
/* err, but -ENOSPC is -EAGAIN while a commit or a checkpoint will bring space: both are asked for. Polls. */
int fs_space_wait(struct fs *fs, int err);
/* Replays settled records of at least bytes into place (at most what may be applied now). 0 or -EBADMSG/-EIO. */
int commit_checkpoint(struct fs *fs, uint64_t bytes);
uint64_t commit_limit(const struct fs *fs); /* newest seq that may be applied in place */
/* The local copy failed: log once, fail every waiter. */
void fs_fail(struct fs *fs, int err);

/* sync.c */
void waiters_init(struct fs *fs);
bool waiters_move(struct fs *fs);   /* fs_sync_all's whose streams are all linked now wait for the commit */
bool waiters_answer(struct fs *fs); /* those of acknowledged commits */
void waiters_fail(struct fs_waiter **list, int err);

/* fs.c: one step of the oldest orphan; true when there is more to do now */
bool orphans_step(struct fs *fs);

/* stream.c */
int streams_link_some(struct fs *fs); /* towards link_upto; -EAGAIN */
void streams_fini(struct fs *fs);
/* Whether a commit would bring free blocks. */
bool fs_space_coming(const struct fs *fs);
uint64_t fs_clock_ns(void);

#endif
