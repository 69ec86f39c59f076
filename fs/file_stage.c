/* Staging: content of one file, without a word about when it is linked. What a WRITE is made of is in file_write.c.
 *
 * A write is planned whole before it changes anything: which block goes where, every allocation and every buffer. Then it
 * is applied, which cannot fail. Ways a block can go:
 *   FRESH   a new pool block takes the content, the old one is freed when the stream is linked (copy on write)
 *   SAME    the block is staged in a pool block that no message has named yet: changed in place
 *   IMAGE   few lines of a committed block change: a DRAM image, whose changed lines ride in the record
 *   EQUAL   nothing changes
 * Content behind the end of the file in its last block is always zero. */
#include "file_impl.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include "plant.h"

#define IMAGE_LINES_MAX 16u         /* more changed lines than this: a fresh block costs less */
#define IMAGE_WRITE_BYTES_MAX (32u << 10) /* longer writes are not compared with the old content */
#define IMAGE_RECORD_BYTES(lines) (24u + 64u * (lines))

enum way { WAY_EQUAL, WAY_SAME, WAY_IMAGE, WAY_FRESH };

struct plan_blk {
	enum way way;
	uint32_t from, to;     /* bytes of the block that change */
	struct staged *old;    /* staged before */
	struct staged next;    /* FRESH, IMAGE: what will be staged; the plan owns its block and image until applied */
	uint64_t ptr;          /* committed block, 0: none that counts */
};

struct plan {
	struct fs *fs;
	struct vinode *v;
	enum alloc_class class; /* ALLOC_OVER: only content that replaces committed content */
	bool push;
	uint64_t fblk;         /* first */
	unsigned count;
	const uint8_t *src;    /* NULL: zeros */
	uint32_t first_off;    /* of src in the first block */
	uint64_t len;
	uint64_t reserve;      /* index blocks */
	uint64_t reserved_node;
	uint64_t record_bytes;
	uint8_t edges[2][BLK]; /* what the first and the last block hold, when the bytes do not cover them */
	struct plan_blk blks[STAGE_BLKS_MAX];
};

/* ---------------------------------------------------------------- planning */

/* Whether something of the old content stays. */
static bool is_edge(const struct plan_blk *b)
{
	return b->from != 0 || b->to != BLK;
}

/* Content of the block as it stands, into out. */
static int current_content(struct plan *p, const struct plan_blk *b, uint8_t *out)
{
	const void *content;
	int err = 0;

	if (b->old)
		err = file_staged(p->fs, b->old, &content);
	else
		err = file_committed(p->fs, b->ptr, &content);
	if (err)
		return err;
	if (content)
		memcpy(out, content, BLK);
	else
		memset(out, 0, BLK);
	return 0;
}

static const uint8_t *plan_src(const struct plan *p, unsigned i)
{
	if (!p->src)
		return NULL;
	return i == 0 ? p->src : p->src + (uint64_t)i * BLK - p->first_off;
}

static void overlay(struct plan *p, unsigned i, uint8_t *image)
{
	const struct plan_blk *b = &p->blks[i];
	const uint8_t *src = plan_src(p, i);

	if (src)
		memcpy(image + b->from, src, b->to - b->from);
	else
		memset(image + b->from, 0, b->to - b->from);
}

static uint32_t lines_that_differ(const uint8_t *a, const uint8_t *b)
{
	uint32_t n = 0;

	for (uint32_t off = 0; off < BLK; off += MEDIA_LINE_BYTES)
		n += memcmp(a + off, b + off, MEDIA_LINE_BYTES) != 0;
	return n;
}

/* Whether lines of the committed block may ride in a record: not while a commit under way links the block itself. */
static bool image_possible(struct plan *p, const struct plan_blk *b)
{
	return b->ptr && !(b->ptr & FS_PTR_UNWRITTEN) && !(b->old && b->old->blk) && p->len <= IMAGE_WRITE_BYTES_MAX &&
	       !block_is_fresh(p->fs, b->ptr & FS_PTR_BLK_MASK);
}

/* Whether so much of a whole new block differs that its old content need not even be good. */
static bool differs_widely(struct plan *p, unsigned i)
{
	const struct plan_blk *b = &p->blks[i];
	const uint8_t *src = plan_src(p, i), *old;
	uint32_t lines = 0;

	if (is_edge(b) || b->old || !src)
		return false;
	old = block_peek(p->fs, b->ptr & FS_PTR_BLK_MASK);
	for (uint32_t off = 0; old && off < BLK && lines <= IMAGE_LINES_MAX; off += MEDIA_LINE_BYTES)
		lines += memcmp(src + off, old + off, MEDIA_LINE_BYTES) != 0;
	return lines > IMAGE_LINES_MAX;
}

/* Tries the image way: *way stays WAY_FRESH when too much changes. */
static int plan_image(struct plan *p, unsigned i)
{
	struct plan_blk *b = &p->blks[i];
	const void *committed;
	uint8_t *image;
	uint32_t lines;
	int err;

	if (differs_widely(p, i))
		return 0;
	err = block_get_data(p->fs, b->ptr & FS_PTR_BLK_MASK, &committed);
	if (err)
		return err == -EBADMSG && !is_edge(b) ? 0 : err; /* covered: that makes the damage good */
	image = malloc(BLK);
	if (!image)
		return -ENOMEM;
	if (is_edge(b))
		memcpy(image, b->old ? b->old->image : committed, BLK);
	overlay(p, i, image);
	lines = lines_that_differ(image, committed);
	if (lines > IMAGE_LINES_MAX || (lines == 0 && !b->old)) {
		free(image);
		b->way = lines ? WAY_FRESH : WAY_EQUAL;
		return 0;
	}
	b->next.image = image;
	b->way = WAY_IMAGE;
	p->record_bytes += IMAGE_RECORD_BYTES(lines);
	return 0;
}

/* Index blocks the link of a fresh block may need: once for each map node. */
static int plan_reserve(struct plan *p, const struct fs_inode_omf *inode, uint64_t fblk)
{
	uint64_t node = fblk >> FS_NODE_SHIFT, blks;
	int err;

	if (node == p->reserved_node)
		return 0;
	/* a cut may take the nodes that are there now; the first one behind it may also need new roots */
	blks = p->reserved_node == UINT64_MAX ? 2 * FS_HEIGHT_MAX - 1 : FS_HEIGHT_MAX;
	err = p->v->cut == UINT64_MAX ? map_cost(p->fs, inode, fblk, &blks) : 0;
	if (err)
		return err;
	p->reserved_node = node;
	p->reserve += blks;
	p->record_bytes += blks * NODE_RECORD_BYTES;
	return 0;
}

/* What stays beside the bytes is taken, and its checksum verified, while the write can still be refused: a new checksum over
 * damage would hide it for good. */
static int plan_edge(struct plan *p, unsigned i)
{
	return is_edge(&p->blks[i]) ? current_content(p, &p->blks[i], p->edges[i != 0]) : 0;
}

static int plan_blk(struct plan *p, const struct fs_inode_omf *inode, unsigned i)
{
	struct plan_blk *b = &p->blks[i];
	int err;

	if (b->old && b->old->blk && !b->old->pushed) {
		b->way = WAY_SAME;
		return plan_edge(p, i);
	}
	if (!stream_place(p->v, p->fblk + i))
		return -ENOMEM;
	b->way = WAY_FRESH;
	if (image_possible(p, b)) {
		err = plan_image(p, i);
		if (err || b->way != WAY_FRESH)
			return err;
	}
	if (p->class == ALLOC_OVER && !b->ptr)
		return -ENOSPC;
	err = plan_edge(p, i);
	if (err)
		return err;
	p->record_bytes += STAGED_RECORD_BYTES;
	return plan_reserve(p, inode, p->fblk + i);
}

/* Pool blocks for every FRESH one, in runs as long as the allocator has them. */
static int plan_alloc(struct plan *p)
{
	uint64_t blk = 0, got = 0;
	unsigned want = 0;

	for (unsigned i = 0; i < p->count; i++)
		want += p->blks[i].way == WAY_FRESH;
	for (unsigned i = 0; i < p->count; i++) {
		int err;

		if (p->blks[i].way != WAY_FRESH)
			continue;
		if (got == 0) {
			err = alloc_run(p->fs, p->class, want, &blk, &got);
			if (err)
				return err;
		}
		p->blks[i].next.blk = blk++;
		got--;
		want--;
	}
	return 0;
}

static void plan_undo(struct plan *p)
{
	for (unsigned i = 0; i < p->count; i++) {
		struct staged *s = &p->blks[i].next;

		if (s->blk)
			alloc_undo(p->fs, s->blk);
		free(s->image);
	}
}

static int plan_make(struct plan *p, const struct fs_inode_omf *inode)
{
	uint64_t ptrs[STAGE_BLKS_MAX];
	int err = file_ptrs(p->fs, p->v, inode, p->fblk, p->count, ptrs);

	if (!err) /* room for blocks replaced while pushed, so that applying cannot fail */
		err = vec_reserve(&p->fs->alloc.wait_ack, p->fs->running.freed.n + p->count);
	for (unsigned i = 0; i < p->count; i++) {
		struct plan_blk *b = &p->blks[i];
		uint64_t end = p->first_off + p->len - (uint64_t)i * BLK;

		*b = (struct plan_blk){ .from = i == 0 ? p->first_off : 0, .to = end < BLK ? (uint32_t)end : BLK,
					.old = stream_find(p->v, p->fblk + i) };
		if (!err) {
			b->ptr = ptrs[i];
			err = plan_blk(p, inode, i);
		}
	}
	if (!err)
		err = alloc_reserve(p->fs, p->reserve);
	if (err)
		goto undo;
	err = plan_alloc(p);
	if (err)
		goto unreserve;
	return 0;
unreserve:
	alloc_unreserve(p->fs, p->reserve);
undo:
	plan_undo(p);
	return err;
}

/* ---------------------------------------------------------------- applying */

/* Content of a pool block: straight from the source when it is whole, else over what was there. */
static void fill_block(struct plan *p, unsigned i, uint64_t blk, uint32_t *csum)
{
	static const uint8_t zeros[BLK];
	const uint8_t *content = plan_src(p, i);

	if (is_edge(&p->blks[i])) {
		overlay(p, i, p->edges[i != 0]);
		content = p->edges[i != 0];
	} else if (!content) {
		content = zeros;
	}
	*csum = csum_crc32c(0, content, BLK);
	pm_write(p->fs->pm, media_off(blk), content, BLK);
}

/* Offers neighbouring fresh blocks to the replicas ahead of their commit. */
static void push_runs(struct plan *p)
{
	const struct fs_repl_ops *repl = p->fs->cfg.repl;

	if (!p->push || !repl || !repl->push || p->len < p->fs->cfg.push_bytes_min)
		return;
	for (unsigned i = 0; i < p->count;) {
		const struct staged *first = &p->blks[i].next;
		unsigned n = 1;
		bool pushed;

		if (p->blks[i].way != WAY_FRESH) {
			i++;
			continue;
		}
		while (i + n < p->count && p->blks[i + n].way == WAY_FRESH && p->blks[i + n].next.blk == first->blk + n)
			n++;
		pushed = repl->push(p->fs->cfg.repl_ctx, media_off(first->blk), pm_ptr(p->fs->pm, media_off(first->blk)),
				    n * BLK);
		for (unsigned k = 0; k < n; k++)
			p->blks[i + k].next.pushed = pushed;
		i += n;
	}
}

static void plan_apply(struct plan *p)
{
	for (unsigned i = 0; i < p->count; i++) {
		struct plan_blk *b = &p->blks[i];

		switch (b->way) {
		case WAY_SAME:
			fill_block(p, i, b->old->blk, &b->old->csum);
			break;
		case WAY_FRESH:
			if (PLANTED(PLANT_FREEZE) && b->ptr && !b->old)
				fill_block(p, i, b->ptr & FS_PTR_BLK_MASK, &b->next.csum);
			fill_block(p, i, b->next.blk, &b->next.csum);
			break;
		case WAY_EQUAL:
		case WAY_IMAGE:
			break;
		}
	}
	push_runs(p);
	for (unsigned i = 0; i < p->count; i++)
		if (p->blks[i].way == WAY_FRESH || p->blks[i].way == WAY_IMAGE)
			stream_put(p->fs, p->v, p->fblk + i, &p->blks[i].next);
	p->v->reserved += p->reserve;
	p->v->reserved_node = p->reserved_node;
	p->v->record_bytes += p->record_bytes;
}

/* ---------------------------------------------------------------- both */

int file_stage(
	struct fs *fs, struct vinode *v, enum alloc_class class, uint64_t off, const uint8_t *src, uint64_t len, bool push)
{
	struct fs_inode_omf inode;
	struct plan *p = malloc(sizeof(*p));
	int err;

	if (!p)
		return -ENOMEM;
	p->fs = fs;
	p->v = v;
	p->class = class;
	p->push = push;
	p->fblk = off >> MEDIA_BLOCK_SHIFT;
	p->first_off = (uint32_t)(off % BLK);
	p->count = (unsigned)((p->first_off + len + BLK - 1) >> MEDIA_BLOCK_SHIFT);
	p->src = src;
	p->len = len;
	p->reserve = p->record_bytes = 0;
	p->reserved_node = v->reserved_node;
	assert(p->count >= 1 && p->count <= STAGE_BLKS_MAX);
	err = file_inode(fs, v->ino, &inode);
	if (!err)
		err = plan_make(p, &inode);
	if (!err)
		plan_apply(p);
	free(p);
	return err;
}
