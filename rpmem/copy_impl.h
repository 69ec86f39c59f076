/* What copy_open.c, copy.c, copy_table.c and replay.c share. Private to these four.
 *
 *   release <= tail <= head         positions in the ring; bytes_* count the distance, so that a wrap needs no thought
 *   |--applied--|--records--|--free--------|
 *               `- items[0 .. item_count)  one for each record, seq tail + 1 ..
 *
 * release is the older superblock's tail: ring space behind it may still be needed to recover. It equals tail but
 * between opening a copy whose superblocks differ and the next checkpoint. */
#ifndef RPMEMFS_RPMEM_COPY_IMPL_H
#define RPMEMFS_RPMEM_COPY_IMPL_H

#include "copy.h"

struct copy_run { /* of freed blocks */
	uint64_t blk;
	uint32_t count;
};

/* A record in the ring, and what is asked about it too often to read it again. */
struct copy_item {
	struct copy_rec rec;
	int64_t delta; /* linked - freed blocks */
	uint32_t freed_count;
	struct copy_run *freed; /* freed_count of them, owned */
};

struct copy {
	struct pm *pm;
	bool read_only;
	bool failed; /* a fence failed: what is durable is not known any more */
	struct media_geom geom;
	struct media_sb_omf sb; /* newest */
	unsigned sb_slot;       /* where it is: 0 is A, 1 is B */
	bool sb_alone;          /* the other slot is damaged or has an older tail, until the next checkpoint */
	struct copy_page page;
	uint64_t page_generation;
	unsigned page_slot; /* where the newest is */
	struct copy_point tail, head;
	uint64_t tail_pos, head_pos;
	uint64_t bytes_held;     /* release .. tail */
	uint64_t bytes_live;     /* tail .. head */
	uint64_t used_blks;      /* at head */
	uint64_t replay_seq;     /* no record behind this one was ever applied in place, not even in part and by a
				  * process before or a call that failed */
	struct copy_item *items; /* circular, item_cap a power of two */
	size_t item_first, item_count, item_cap;
	uint8_t *buf; /* rec_max bytes: a record, or a batch of them */
	uint64_t rec_max;
	uint8_t *backed; /* sparse pools: bit for each group that has its space; NULL: none was asked for yet */
};

static inline struct copy_item *copy_item_at(const struct copy *copy, size_t idx)
{
	return &copy->items[(copy->item_first + idx) & (copy->item_cap - 1)];
}

static inline uint64_t copy_sb_off(unsigned slot)
{
	return media_off(slot ? MEDIA_SB_B_BLK : MEDIA_SB_A_BLK);
}

static inline uint64_t copy_page_off(unsigned slot)
{
	return media_off(MEDIA_PAGE_BLK) + slot * MEDIA_PAGE_SLOT_BYTES;
}

/* Bytes from ring byte from to ring byte to, going forward; 0 when equal, since the ring is never full. */
static inline uint64_t copy_ring_dist(const struct copy *copy, uint64_t from, uint64_t to)
{
	return (to + copy->geom.ring_bytes - from) % copy->geom.ring_bytes;
}

/* Copies len bytes from ring byte pos on, wrapping. */
void copy_ring_read(const struct copy *copy, uint64_t pos, void *to, uint64_t len);

/* Tail fields; the checksum, when all fields are set. */
void copy_sb_set_tail(struct media_sb_omf *sb, const struct copy_point *at, uint64_t pos, uint64_t used_blks);
void copy_sb_seal(struct media_sb_omf *sb);

/* Table entry and summary of a block and a group, in place; not durable before the next fence. */
void copy_entry_store(struct copy *copy, uint64_t blk, const struct copy_entry *entry);
void copy_summary_store(struct copy *copy, uint64_t group, uint64_t seq, uint32_t used);
/* Blocks of the group that can be used. */
uint64_t copy_group_room(const struct copy *copy, uint64_t group);

/* Whether the record continues the history at head; whether the count of used blocks can be what it leaves behind. */
bool copy_continues(const struct copy *copy, const struct redo_view *v);
bool copy_used_ok(const struct copy *copy, const struct redo_view *v);

/* Fills *item for a record at head_pos and makes room for it (-ENOMEM); head_move takes it and cannot fail. */
int copy_item_make(struct copy *copy, const struct redo_view *v, struct copy_item *item);
void copy_head_move(struct copy *copy, const struct copy_item *item);

/* After what was written in place is durable: both superblocks, each with its fence, say that tail is behind the first
 * count items; then their ring space is free. count 0 makes both alike. -EIO: the copy has failed. */
int copy_tail_advance(struct copy *copy, size_t count);

/* A fence; its failure makes the copy unusable and is -EIO. */
int copy_fence(struct copy *copy, enum pm_point point);

/* 0, or why this copy cannot be changed: -EIO failed, -EROFS opened for reading. */
int copy_writable(const struct copy *copy);

#endif
