/* One copy of a pool: superblocks, per-copy page, ring, and the one replay function. The primary has one for its local
 * parts, rpmemd one for each session; both run this same code.
 *
 *   tail: everything up to tail_seq is applied in place; both superblocks say so before ring space is reused
 *   head: newest record durable in the ring
 *
 *   copy_append:      data (already pm_written) -- fence DATA -- record -- fence RECORD          head moves
 *   copy_checkpoint:  lines, table, summaries -- fence REPLAY -- sb A -- fence -- sb B -- fence   tail moves
 *
 * Recovery is copy_open (finds head) and copy_checkpoint up to head. Belongs to one thread at a time. */
#ifndef RPMEMFS_COPY_H
#define RPMEMFS_COPY_H

#include "persist.h"
#include "redo.h"

struct copy_point { /* a place in the history */
	uint64_t seq, epoch;
	struct hash128 hash;
};

struct copy_rec { /* a record in the ring */
	struct copy_point at;
	uint64_t pos;
	uint32_t len;
};

struct copy_page { /* decoded per-copy page */
	uint32_t role, state;
	uint8_t instance[16];
	uint64_t fence_epoch;
	uint8_t fence_id[16];
	struct hash128 sync_hash;
	uint64_t sync_seq, sync_group;
};

struct copy_format {
	uint8_t content_uuid[16];
	uint64_t hash_seed, created_ns;
	uint64_t ring_bytes; /* 0: copy_ring_bytes_default */
	struct copy_page page;
};

struct copy_entry { /* decoded table entry */
	uint64_t seq;
	uint32_t type, csum;
};

struct copy;

/* Ring for a pool of that size: a 32nd of it, whole blocks, within MEDIA_RING_BYTES_MIN..MAX. */
uint64_t copy_ring_bytes_default(uint64_t pool_bytes);

/* Geometry for a pool of pool_bytes: whole groups and, when it is long enough, a short last one. -EINVAL: too small or
 * too large. root_blk is the first block of group 0 behind its table. */
int copy_geometry(uint64_t pool_bytes, uint64_t ring_bytes, struct media_geom *geom);

/* Writes per-copy page and superblocks at sequence 0 with the zero hash. Ring, summaries and tables must be zero, as
 * in a fresh file. Durable on return. */
int copy_format(struct pm *pm, const struct copy_format *fmt);

/* Finds newest superblock and page, walks the ring from tail to head. Writes nothing. Errors, with errmsg naming offset:
 * -EMEDIUMTYPE: not a pool of this format; -EPROTONOSUPPORT: unknown incompat feature or version;
 * -EROFS: unknown ro feature (pass read_only to get it); -EBADMSG: no valid superblock or page, or a valid record
 * behind a damaged one. */
int copy_open(struct pm *pm, bool read_only, struct copy **out);
void copy_close(struct copy *copy);

/* Before the first store to a group, or load from one that may be empty, by whoever opened the copy: in a sparse pool, gets
 * space behind the whole group, once. -ENOSPC: the file system of the parts is full; nothing was taken. */
int copy_back_group(struct copy *copy, uint64_t group);

const struct media_geom *copy_geom(const struct copy *copy);
const struct media_sb_omf *copy_sb(const struct copy *copy); /* newest, as on media */
struct pm *copy_pm(struct copy *copy);
struct copy_point copy_tail(const struct copy *copy);
struct copy_point copy_head(const struct copy *copy);
uint64_t copy_used_blks(const struct copy *copy); /* at head */
uint64_t copy_ring_used(const struct copy *copy); /* bytes of records not yet releasable */
uint64_t copy_ring_free(const struct copy *copy);

/* The record of that sequence, NULL when it is not in the ring (checkpointed or not yet written). */
const struct copy_rec *copy_find(const struct copy *copy, uint64_t seq);
/* Copies its bytes (rec->len) out of the ring. */
void copy_rec_read(const struct copy *copy, const struct copy_rec *rec, void *buf);

/* Makes everything pm_written before durable, then the record, then moves head. len bytes are a record that redo_parse
 * accepts. Refused without a store: -ESTALE: epoch below head's or the page's fence; -EILSEQ: seq or prev_hash do not
 * continue head; -ENOSPC: no ring space; -EBADMSG: malformed. -EIO: a fence failed: the copy is unusable from then on. */
int copy_append(struct copy *copy, const void *rec, uint32_t len);
/* The same for a record that redo_parse has just taken apart, into *view. */
int copy_append_parsed(struct copy *copy, const void *rec, const struct redo_view *view);

/* Applies records up to seq upto, at most bytes_max of them but at least one, and moves tail. Lines of a block that the
 * same or a later record in the ring freed are skipped. -EBADMSG: content after replay does not match the record's
 * checksum (rot): errmsg names block and sequence, tail stays. -EIO: a fence failed. */
int copy_checkpoint(struct copy *copy, uint64_t upto, uint64_t bytes_max);

/* Table entry of a block, as in place now (records in the ring not counted). -EBADMSG: its check is wrong. */
int copy_entry_get(const struct copy *copy, uint64_t blk, struct copy_entry *entry);
/* The same where a checkpoint that was cut off may have torn the entry: seq and type are what the newest record in the ring
 * that touches the block makes of it, csum is unknown (0). -EBADMSG: none does, or the entry is no torn one. */
int copy_entry_get_torn(const struct copy *copy, uint64_t blk, struct copy_entry *entry);
/* Group summary; -EBADMSG as above. */
int copy_summary_get(const struct copy *copy, uint64_t group, uint64_t *seq, uint32_t *used);
/* The same where it may be torn: the old or the new one. -EBADMSG: the ring is empty, or it cannot be either. */
int copy_summary_get_torn(const struct copy *copy, uint64_t group, uint64_t *seq, uint32_t *used);

/* Repair (fs/fsck.h): used blocks of a group or of the whole pool, put to what the block table says. Only while no record waits
 * in the ring (-EBUSY). Durable on return. Power fails in it: old or new; the summary's check may be wrong then. -EIO. */
int copy_mend_summary(struct copy *copy, uint64_t group, uint32_t used);
int copy_mend_used(struct copy *copy, uint64_t used_blks);

const struct copy_page *copy_page(const struct copy *copy);
/* Durable on return; the other slot is left as it was, so a torn write falls back to the old page. */
int copy_page_set(struct copy *copy, const struct copy_page *page);

/* Resync and restore, only while the page says MEDIA_INCONSISTENT (-EPERM otherwise): */
/* One table entry or summary word as it is on the source, pm_written. */
void copy_entry_put(struct copy *copy, uint64_t blk, const struct copy_entry *entry);
void copy_summary_put(struct copy *copy, uint64_t group, uint64_t seq, uint32_t used);
/* Empties the ring and puts tail and head to this point, both superblocks. Durable on return. */
int copy_reset(struct copy *copy, const struct copy_point *at, uint64_t used_blks);

/* Encoders of single structures, for golden-byte tests and for reading another copy's bytes. */
void copy_entry_encode(uint64_t blk, const struct copy_entry *entry, struct media_entry_omf *omf);
int copy_entry_decode(uint64_t blk, const struct media_entry_omf *omf, struct copy_entry *entry);
void copy_summary_encode(uint64_t group, uint64_t seq, uint32_t used, struct media_summary_omf *omf);
int copy_summary_decode(uint64_t group, const struct media_summary_omf *omf, uint64_t *seq, uint32_t *used);
void copy_page_encode(const struct copy_page *page, uint64_t generation, struct media_page_omf *omf);
int copy_page_decode(const struct media_page_omf *omf, struct copy_page *page, uint64_t *generation);
int copy_sb_check(const struct media_sb_omf *sb, uint64_t pool_bytes, struct media_geom *geom);

#endif
