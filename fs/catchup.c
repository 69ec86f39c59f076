/* Catching up: the records a replica lacks, from the local ring, with the data they link from the local pool.
 *
 * One record at a time, each only after the one before is answered: its data may lie in blocks that the record before
 * freed. A linked block's content is compared with the record's checksum before it is sent: once the replica is
 * released its blocks may have been given out again, and then the history cannot be replayed there any more. */
#include "policy.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include "errmsg.h"
#include "plant.h"

void catchup_settle(struct slot *slot)
{
	if (slot->rec && slot_acked(slot) >= slot->sent) {
		free(slot->rec);
		slot->rec = NULL;
	}
}

/* The content of a run of linked data blocks, as the record speaks of it. */
static int run_verify(struct copy *copy, uint64_t seq, uint64_t blk, uint32_t count, const le32_t *csums)
{
	for (uint32_t i = 0; i < count; i++) {
		const void *content = pm_ptr(copy_pm(copy), media_off(blk + i));

		if (csum_crc32c(0, content, MEDIA_BLOCK_BYTES) != le32_get(csums[i]) && !PLANTED(PLANT_SENT))
			return errmsg_set(-ENODATA,
				"commit %" PRIu64 ": block 0x%" PRIx64 " has been used again since: the "
				"replica needs a whole copy",
				seq, blk + i);
	}
	return 0;
}

/* Ranges of all data blocks the record links; unwritten ones have no content, metadata travels as lines. */
static int data_ranges(struct copy *copy, const struct redo_view *v, struct repl_range *ranges, unsigned *count)
{
	const le32_t *csums = v->csums;

	*count = 0;
	for (uint32_t i = 0; i < v->linked_runs; i++) {
		uint64_t blk = le64_get(v->linked[i].blk);
		uint32_t blks = le32_get(v->linked[i].count), type = le32_get(v->linked[i].type);
		int err;

		if (type == MEDIA_DATA) {
			err = run_verify(copy, v->seq, blk, blks, csums);
			if (err)
				return err;
			ranges[(*count)++] = (struct repl_range){ .off = media_off(blk),
				.len = blks * MEDIA_BLOCK_BYTES,
				.src = pm_ptr(copy_pm(copy), media_off(blk)) };
		}
		csums += blks;
	}
	return 0;
}

/* Settled is what every copy has that may come back, as for the core's commits: one that is farther behind than this one
 * may have to be brought up from here when the local copy is gone, and needs what a checkpoint here would give up. */
static int send(struct replication *r, struct slot *slot, const struct redo_view *v, const void *rec)
{
	struct repl_range *ranges = calloc((size_t)v->linked_runs + 1, sizeof(*ranges));
	struct repl_commit commit = { .seq = v->seq,
		.settled = replication_ops.min_acked(r),
		.rec = rec,
		.rec_len = v->len,
		.ranges = ranges };
	int err;

	if (!ranges)
		return errmsg_set(-ENOMEM, "commit %" PRIu64 ": no memory to send it", v->seq);
	err = data_ranges(r->copy, v, ranges, &commit.range_count);
	if (!err)
		err = slot->link->ops->commit(slot->link, &commit);
	free(ranges);
	return err;
}

int catchup_step(struct replication *r, struct slot *slot)
{
	const struct copy_rec *at;
	struct redo_view v;
	void *rec;
	int err;

	catchup_settle(slot);
	if (slot_acked(slot) < slot->sent || slot->sent == copy_head(r->copy).seq)
		return 0;
	assert(!slot->rec);
	at = copy_find(r->copy, slot->sent + 1);
	if (!at)
		return errmsg_set(-ENODATA,
			"commit %" PRIu64 " is no longer in the ring: the replica needs a whole copy", slot->sent + 1);
	rec = aligned_alloc(MEDIA_LINE_BYTES, at->len);
	if (!rec)
		return errmsg_set(-ENOMEM, "commit %" PRIu64 ": no memory to send it", slot->sent + 1);
	copy_rec_read(r->copy, at, rec);
	err = redo_parse(rec, at->len, copy_geom(r->copy), &v);
	if (!err)
		err = send(r, slot, &v, rec);
	if (err) {
		free(rec);
		return err;
	}
	slot->rec = rec;
	slot->sent = v.seq;
	return 0;
}
