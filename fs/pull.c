/* Bringing the local copy up from a replica that is ahead: records read out of the replica's ring, with the data they
 * link.
 *
 * The replica's session is ours and quiet, so its superblock and ring stand still. Records behind its tail are not
 * applied in place there, and a block they link cannot have been given out again before the local copy had them: so its
 * content is what the record speaks of, and is checked against it. Locally such a block is free, since the history up
 * to our head is the same. A crash in between leaves whole records only: copy_append's order. */
#include "policy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "plant.h"

#define RUN_BLKS_MAX 256u /* 1 MiB a read */

struct pull {
	struct repl_link *link;
	struct media_geom geom; /* of the replica */
	uint64_t root_blk;
	uint64_t pos, seq; /* ring byte of the next record, and its sequence */
	uint8_t *rec;
};

static int pull_bytes(struct pull *p, uint64_t off, void *dst, uint32_t len)
{
	int err = p->link->ops->read(p->link, off, dst, len);

	return err ? err : p->link->ops->settle(p->link);
}

static int pull_ring(struct pull *p, uint64_t pos, void *dst, uint32_t len)
{
	uint64_t left = p->geom.ring_bytes - pos;
	uint32_t first = len < left ? len : (uint32_t)left;
	int err = pull_bytes(p, media_ring_off(pos), dst, first);

	if (!err && len > first)
		err = pull_bytes(p, media_ring_off(0), (uint8_t *)dst + first, len - first);
	return err;
}

/* Where the replica's ring starts: its newest valid superblock. */
static int pull_begin(struct pull *p, struct repl_link *link)
{
	struct media_sb_omf sb[2];
	struct media_geom geom[2];
	int bad[2], err;
	unsigned newest;

	*p = (struct pull){ .link = link };
	for (unsigned i = 0; i < 2; i++) {
		err = pull_bytes(p, media_off(i ? MEDIA_SB_B_BLK : MEDIA_SB_A_BLK), &sb[i], sizeof(sb[i]));
		if (err)
			return err;
		bad[i] = copy_sb_check(&sb[i], p->link->peer.pool_size, &geom[i]);
	}
	if (bad[0] && bad[1])
		return errmsg_set(-EBADMSG, "no valid superblock there");
	newest = bad[0] || (!bad[1] && le64_get(sb[1].generation) > le64_get(sb[0].generation));
	p->geom = geom[newest];
	p->pos = le64_get(sb[newest].tail_pos);
	p->seq = le64_get(sb[newest].tail_seq) + 1;
	p->root_blk = le64_get(sb[newest].root_blk);
	p->rec = aligned_alloc(MEDIA_LINE_BYTES, p->geom.ring_bytes / REDO_RING_SHARE);
	return p->rec ? 0 : errmsg_set(-ENOMEM, "no memory for a record");
}

/* The next record of the ring into p->rec. */
static int pull_record(struct pull *p, struct redo_view *v)
{
	struct redo_hdr_omf hdr;
	uint32_t len;
	int err = pull_ring(p, p->pos, &hdr, sizeof(hdr));

	if (err)
		return err;
	len = redo_peek_len(&hdr, &p->geom);
	if (!len)
		return errmsg_set(-EBADMSG, "no record %" PRIu64 " in its ring", p->seq);
	err = pull_ring(p, p->pos, p->rec, len);
	if (!err)
		err = redo_parse(p->rec, len, &p->geom, v);
	if (!err && v->seq != p->seq)
		err = errmsg_set(-EBADMSG, "record %" PRIu64 " where %" PRIu64 " should be", v->seq, p->seq);
	if (err)
		return err;
	p->pos = (p->pos + len) % p->geom.ring_bytes;
	p->seq++;
	return 0;
}

/* ---------------------------------------------------------------- records seen */

int pull_walk(struct repl_link *link, int (*see)(void *arg, const struct redo_view *v), void *arg)
{
	struct pull p;
	struct redo_view v;
	int err = pull_begin(&p, link);

	while (!err && p.seq <= link->peer.head.seq) {
		err = pull_record(&p, &v);
		if (!err)
			err = see(arg, &v);
	}
	free(p.rec);
	return err;
}

struct peek {
	uint64_t root;
	struct fs_state_omf *state;
};

static int see_state(void *arg, const struct redo_view *v)
{
	struct peek *peek = arg;

	attach_lines_apply(v, peek->root, (uint8_t *)peek->state);
	return 0;
}

int pull_peek_state(struct repl_link *link, struct fs_state_omf *state)
{
	struct peek peek = { .state = state };
	struct pull p;
	int err = pull_begin(&p, link);

	if (!err)
		err = pull_bytes(&p, media_off(p.root_blk), state, sizeof(*state));
	peek.root = p.root_blk;
	free(p.rec);
	if (!err)
		err = pull_walk(link, see_state, &peek);
	if (!err && (memcmp(state->magic, FS_STATE_MAGIC, sizeof(state->magic)) ||
			    le32_get(state->member_count) > FS_MEMBERS_MAX))
		err = errmsg_set(-EBADMSG, "no state block at 0x%" PRIx64 " there", media_off(peek.root));
	return err;
}

/* ---------------------------------------------------------------- records taken over */

struct taker {
	struct repl_link *link;
	struct copy *copy;
	uint8_t *buf; /* RUN_BLKS_MAX blocks */
};

/* Whether count blocks from blk on, at content, are what a record links. */
static int blks_check(uint64_t seq, uint64_t blk, uint32_t count, const uint8_t *content, const le32_t *csums)
{
	for (uint32_t i = 0; i < count; i++, content += MEDIA_BLOCK_BYTES)
		if (csum_crc32c(0, content, MEDIA_BLOCK_BYTES) != le32_get(csums[i]) && !PLANTED(PLANT_PULL))
			return errmsg_set(-EBADMSG, "block 0x%" PRIx64 " there is not what commit %" PRIu64 " says",
				blk + i, seq);
	return 0;
}

/* The data of one linked run into the local pool, a buffer at a time. */
static int take_run(struct taker *t, uint64_t seq, uint64_t blk, uint32_t count, const le32_t *csums)
{
	int err = copy_back_group(t->copy, media_group_of(copy_geom(t->copy), blk)); /* a run lies in one group */

	while (count && !err) {
		uint32_t part = count < RUN_BLKS_MAX ? count : RUN_BLKS_MAX, bytes = part * MEDIA_BLOCK_BYTES;

		err = t->link->ops->read(t->link, media_off(blk), t->buf, bytes);
		if (!err)
			err = t->link->ops->settle(t->link);
		if (!err)
			err = blks_check(seq, blk, part, t->buf, csums);
		if (!err)
			pm_write(copy_pm(t->copy), media_off(blk), t->buf, bytes);
		blk += part;
		csums += part;
		count -= part;
	}
	return err;
}

static int take_data(struct taker *t, const struct redo_view *v)
{
	const le32_t *csums = v->csums;

	for (uint32_t i = 0; i < v->linked_runs; i++) {
		uint32_t count = le32_get(v->linked[i].count);
		uint64_t blk = le64_get(v->linked[i].blk);
		int err;

		if (blk + count > copy_geom(t->copy)->blk_count)
			return errmsg_set(
				-ENOSPC, "block 0x%" PRIx64 " lies behind the end of the local pool", blk + count - 1);
		if (le32_get(v->linked[i].type) == MEDIA_DATA) {
			err = take_run(t, v->seq, blk, count, csums);
			if (err)
				return err;
		}
		csums += count;
	}
	return 0;
}

/* Appends; when the ring is full, what is in it is applied first. */
static int take_record(void *arg, const struct redo_view *v)
{
	struct taker *t = arg;
	/* A view points into its record, whose first part is the header before the linked runs. */
	const void *rec = (const uint8_t *)v->linked - sizeof(struct redo_hdr_omf);
	int err;

	if (v->seq <= copy_head(t->copy).seq)
		return 0;
	err = take_data(t, v);
	if (!err)
		err = copy_append(t->copy, rec, v->len);
	if (err != -ENOSPC)
		return err;
	err = copy_checkpoint(t->copy, copy_head(t->copy).seq, UINT64_MAX);
	return err ? err : copy_append(t->copy, rec, v->len);
}

int attach_pull(struct copy *copy, struct repl_link *link)
{
	struct taker t = { .link = link, .copy = copy, .buf = malloc(RUN_BLKS_MAX * MEDIA_BLOCK_BYTES) };
	int err = t.buf ? pull_walk(link, take_record, &t) : errmsg_set(-ENOMEM, "no memory for blocks");

	free(t.buf);
	return err;
}

/* ---------------------------------------------------------------- records handed on */

struct forward {
	struct repl_link *from, *to;
};

/* Starts reading a run into buf, which is to be sent on block by block. */
static int forward_start(struct forward *f, uint64_t blk, uint32_t count, uint8_t *buf, struct repl_range *ranges)
{
	int err = 0;

	for (uint32_t i = 0; i < count && !err; i += RUN_BLKS_MAX) {
		uint32_t part = count - i < RUN_BLKS_MAX ? count - i : RUN_BLKS_MAX;

		err = f->from->ops->read(
			f->from, media_off(blk + i), buf + media_off(i), part * MEDIA_BLOCK_BYTES);
	}
	for (uint32_t i = 0; i < count; i++)
		ranges[i] = (struct repl_range){
			.off = media_off(blk + i), .len = MEDIA_BLOCK_BYTES, .src = buf + media_off(i)
		};
	return err;
}

/* All data the record links, one run behind the other in buf, each block checked. */
static int forward_read(
	struct forward *f, const struct redo_view *v, uint8_t *buf, struct repl_range *ranges, unsigned *count)
{
	const le32_t *csums = v->csums;
	int err = 0, settled;

	for (uint32_t i = 0; i < v->linked_runs && !err; i++) {
		uint32_t blks = le32_get(v->linked[i].count);

		if (le32_get(v->linked[i].type) != MEDIA_DATA)
			continue;
		err = forward_start(f, le64_get(v->linked[i].blk), blks, buf + media_off(*count), ranges + *count);
		*count += blks;
	}
	settled = f->from->ops->settle(f->from); /* after a failure as well: buf is freed then */
	err = err ? err : settled;
	for (uint32_t i = 0; i < v->linked_runs && !err; i++) {
		uint32_t blks = le32_get(v->linked[i].count);

		if (le32_get(v->linked[i].type) == MEDIA_DATA) {
			err = blks_check(v->seq, le64_get(v->linked[i].blk), blks, buf, csums);
			buf += media_off(blks);
		}
		csums += blks;
	}
	return err;
}

static int forward_wait(struct repl_link *to, uint64_t seq)
{
	while (to->acked < seq) {
		if (to->ops->poll(to) == REPL_DOWN)
			return errmsg_set(to->err, "%s", to->err_text);
	}
	return 0;
}

static int forward_record(void *arg, const struct redo_view *v)
{
	struct forward *f = arg;
	struct repl_commit commit = { .seq = v->seq,
		.settled = f->to->acked,
		.rec_len = v->len,
		.rec = (const uint8_t *)v->linked - sizeof(struct redo_hdr_omf) };
	struct repl_range *ranges;
	uint8_t *buf;
	int err = -ENOMEM;

	if (v->seq <= f->to->acked)
		return 0;
	buf = calloc((size_t)v->linked_blks + 1, MEDIA_BLOCK_BYTES);
	ranges = calloc((size_t)v->linked_blks + 1, sizeof(*ranges));
	if (buf && ranges)
		err = forward_read(f, v, buf, ranges, &commit.range_count);
	commit.ranges = ranges;
	if (!err)
		err = f->to->ops->commit(f->to, &commit);
	if (!err)
		err = forward_wait(f->to, v->seq);
	free(ranges);
	free(buf);
	return err;
}

int pull_forward(struct repl_link *from, struct repl_link *to)
{
	struct forward f = { .from = from, .to = to };

	return pull_walk(from, forward_record, &f);
}
