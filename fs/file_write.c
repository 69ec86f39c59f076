/* Content of regular files: staging writes and truncation. Reading is in file_read.c.
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

#define IMAGE_LINES_MAX 16u         /* more changed lines than this: a fresh block costs less */
#define IMAGE_WRITE_BYTES_MAX (32u << 10) /* longer writes are not compared with the old content */
#define SCARCE_BLKS 8u              /* a piece of a write on a full pool */
#define WRITE_BLKS_MAX 1025u        /* planned at once; longer writes are split */
#define STAGED_RECORD_BYTES 124u    /* one fresh block: link, free, one pointer line with its block's head */
#define NODE_RECORD_BYTES (BLK + 64u)
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
	uint64_t fblk;         /* first */
	unsigned count;
	const uint8_t *src;    /* NULL: zeros */
	uint32_t first_off;    /* of src in the first block */
	uint64_t len;
	uint64_t reserve;      /* index blocks */
	uint64_t reserved_node;
	uint64_t record_bytes;
	struct plan_blk blks[WRITE_BLKS_MAX];
};

/* ---------------------------------------------------------------- planning */

/* Content of the block as it stands, into out. */
static int current_content(struct plan *p, const struct plan_blk *b, uint8_t *out)
{
	const void *content;
	int err = 0;

	if (b->old)
		content = file_staged(p->fs, b->old);
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

/* Tries the image way: *way stays WAY_FRESH when too much changes. */
static int plan_image(struct plan *p, unsigned i)
{
	struct plan_blk *b = &p->blks[i];
	uint8_t *image = malloc(BLK);
	const void *committed;
	uint32_t lines;
	int err;

	if (!image)
		return -ENOMEM;
	err = current_content(p, b, image);
	if (!err)
		err = block_get_data(p->fs, b->ptr & FS_PTR_BLK_MASK, &committed);
	if (err) {
		free(image);
		return err;
	}
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

static int plan_blk(struct plan *p, const struct fs_inode_omf *inode, unsigned i)
{
	struct plan_blk *b = &p->blks[i];
	int err;

	if (b->old && b->old->blk && !b->old->pushed) {
		b->way = WAY_SAME;
		return 0;
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
	uint64_t ptrs[WRITE_BLKS_MAX];
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
	const struct plan_blk *b = &p->blks[i];
	const uint8_t *content = plan_src(p, i);
	uint8_t image[BLK];

	if (!content || b->from != 0 || b->to != BLK) {
		/* planning read it already: damage would have shown there */
		if (current_content(p, b, image))
			memset(image, 0, BLK);
		overlay(p, i, image);
		content = image;
	}
	*csum = csum_crc32c(0, content, BLK);
	pm_write(p->fs->pm, media_off(blk), content, BLK);
}

/* Offers neighbouring fresh blocks to the replicas ahead of their commit. */
static void push_runs(struct plan *p)
{
	const struct fs_repl_ops *repl = p->fs->cfg.repl;

	if (!repl || !repl->push || p->len < p->fs->cfg.push_bytes_min)
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

/* ---------------------------------------------------------------- writing */

/* Stages bytes [off, off + len) of at most WRITE_BLKS_MAX blocks: all or nothing. */
static int stage(struct fs *fs, struct vinode *v, enum alloc_class class, uint64_t off, const uint8_t *src, uint64_t len)
{
	struct fs_inode_omf inode;
	struct plan *p = malloc(sizeof(*p));
	int err;

	if (!p)
		return -ENOMEM;
	p->fs = fs;
	p->v = v;
	p->class = class;
	p->fblk = off >> MEDIA_BLOCK_SHIFT;
	p->first_off = (uint32_t)(off % BLK);
	p->count = (unsigned)((p->first_off + len + BLK - 1) >> MEDIA_BLOCK_SHIFT);
	p->src = src;
	p->len = len;
	p->reserve = p->record_bytes = 0;
	p->reserved_node = v->reserved_node;
	assert(p->count >= 1 && p->count <= WRITE_BLKS_MAX);
	err = file_inode(fs, v->ino, &inode);
	if (!err)
		err = plan_make(p, &inode);
	if (!err)
		plan_apply(p);
	free(p);
	return err;
}

/* Map nodes that a write of the blocks first..last may add to the stream's share. */
static int share_nodes(struct fs *fs, const struct vinode *v, uint64_t first, uint64_t last, uint64_t *nodes)
{
	struct fs_inode_omf inode;
	int err = file_inode(fs, v->ino, &inode);

	*nodes = 0;
	for (uint64_t node = first >> FS_NODE_SHIFT; node <= last >> FS_NODE_SHIFT && !err; node++) {
		uint64_t blks = FS_HEIGHT_MAX;

		if (node == v->reserved_node)
			continue;
		if (v->cut == UINT64_MAX)
			err = map_cost(fs, &inode, node << FS_NODE_SHIFT, &blks);
		*nodes += blks;
	}
	return err;
}

/* Links the stream first when a write of [at, at + len) would make its share of the ring too large. */
static int share_keep(struct fs *fs, struct vinode *v, uint64_t at, uint64_t len)
{
	uint64_t first = at >> MEDIA_BLOCK_SHIFT, last = (at + (len ? len - 1 : 0)) >> MEDIA_BLOCK_SHIFT, nodes;
	uint64_t share = fs->geom.ring_bytes / STREAM_RING_SHARE, more = (last - first + 1) * STAGED_RECORD_BYTES;
	int err;

	if (!v->dirty)
		return 0;
	nodes = ((last >> FS_NODE_SHIFT) - (first >> FS_NODE_SHIFT) + 1) * FS_HEIGHT_MAX;
	if (v->record_bytes + more + nodes * NODE_RECORD_BYTES <= share)
		return 0; /* even if every node were new */
	err = share_nodes(fs, v, first, last, &nodes);
	if (err || v->record_bytes + more + nodes * NODE_RECORD_BYTES <= share)
		return err;
	return stream_link_now(fs, v);
}

/* The same before a cut. */
static int share_keep_cut(struct fs *fs, struct vinode *v)
{
	if (!v->dirty || v->cut != UINT64_MAX || v->record_bytes + STREAM_CUT_BYTES <= fs->geom.ring_bytes / STREAM_RING_SHARE)
		return 0;
	return stream_link_now(fs, v);
}

static void write_failed(struct vinode *v, uint64_t off, uint64_t len, int err)
{
	if (v->failed && (off < v->failed_off || off + len > v->failed_off + v->failed_len)) {
		v->failed_off = 0; /* a second hole: only a rewrite of everything makes both good */
		v->failed_len = UINT64_MAX;
	} else if (!v->failed) {
		v->failed_off = off;
		v->failed_len = len;
	}
	v->failed = err;
}

static void write_made_good(struct vinode *v, uint64_t off, uint64_t len)
{
	if (v->failed && off <= v->failed_off && off + len >= v->failed_off + v->failed_len)
		v->failed = 0;
}

/* Blocks one WRITE may plan on this ring. */
static uint64_t write_blks_max(const struct fs *fs)
{
	uint64_t share = fs->geom.ring_bytes / STREAM_RING_SHARE / 2 / STAGED_RECORD_BYTES;

	return share < WRITE_BLKS_MAX - 1 ? share : WRITE_BLKS_MAX - 1;
}

/* Stages as much of [at, at + len) as there is room for, at least something: *part. On a full pool a few blocks that replace
 * committed content may still go, out of what is kept back: their commit gives as many back. */
static int stage_some(struct fs *fs, struct vinode *v, uint64_t at, const uint8_t *src, uint64_t len, uint64_t *part)
{
	int err = stage(fs, v, ALLOC_DATA, at, src, len);

	*part = len;
	if (err != -ENOSPC)
		return err;
	if (len > SCARCE_BLKS * BLK - at % BLK)
		*part = SCARCE_BLKS * BLK - at % BLK;
	return fs_space_wait(fs, stage(fs, v, ALLOC_OVER, at, src, *part));
}

/* One piece of a write. The stream's size follows each piece: a link between two must not leave content behind the end. */
static int write_piece(struct fs *fs, uint64_t ino, uint64_t at, const uint8_t *src, uint64_t len, uint64_t *part)
{
	struct vinode *v;
	int err = vinode_get(fs, ino, &v);

	if (!err)
		err = share_keep(fs, v, at, len);
	if (!err)
		err = vinode_get(fs, ino, &v); /* linking may have let it go */
	if (!err)
		err = stream_open(fs, v);
	if (!err)
		err = stage_some(fs, v, at, src, len, part);
	if (err)
		return err;
	if (at + *part > v->size)
		v->size = at + *part;
	v->mtime = v->ctime = fs_now(fs);
	return 0;
}

int fs_write(struct fs *fs, uint64_t ino, uint64_t off, const void *buf, size_t len, size_t *done)
{
	uint64_t piece_max = write_blks_max(fs) * BLK, part;
	struct vinode *v;
	int err;

	assert(*done <= len);
	if (off > FS_FILE_BYTES_MAX || len > FS_FILE_BYTES_MAX - off)
		return -EFBIG;
	err = fs_room(fs, 0);
	while (!err && *done < len) {
		uint64_t at = off + *done;

		part = piece_max - at % BLK;
		if (part > len - *done)
			part = len - *done;
		err = write_piece(fs, ino, at, (const uint8_t *)buf + *done, part, &part);
		if (!err)
			*done += part;
	}
	if (err == -EAGAIN)
		return err;
	if (err == -EBADMSG || err == -EUCLEAN)
		err = file_damaged(ino, off >> MEDIA_BLOCK_SHIFT, err);
	if (vinode_get(fs, ino, &v))
		return -ENOMEM;
	if (err)
		write_failed(v, off, len, err);
	else
		write_made_good(v, off, len);
	vinode_put(fs, v);
	return err;
}

/* Zeros behind the new end in its block, so that growing again shows zeros. */
static int zero_tail(struct fs *fs, struct vinode *v, uint64_t size)
{
	uint64_t end = (size + BLK - 1) / BLK * BLK, ptr;
	struct fs_inode_omf inode;
	int err;

	if (size % BLK == 0)
		return 0;
	err = file_inode(fs, v->ino, &inode);
	if (!err)
		err = file_ptrs(fs, v, &inode, size >> MEDIA_BLOCK_SHIFT, 1, &ptr);
	if (err)
		return err;
	if (!ptr && !stream_find(v, size >> MEDIA_BLOCK_SHIFT))
		return 0; /* a hole */
	return stage(fs, v, ptr ? ALLOC_OVER : ALLOC_DATA, size, NULL, end - size);
}

int fs_truncate(struct fs *fs, uint64_t ino, uint64_t size)
{
	struct fs_inode_omf inode;
	struct vinode *v;
	int err;

	if (size > FS_FILE_BYTES_MAX)
		return -EFBIG;
	err = fs_room(fs, 0);
	if (!err)
		err = file_inode(fs, ino, &inode);
	if (!err)
		err = vinode_get(fs, ino, &v);
	if (err)
		return err;
	err = share_keep(fs, v, size, 1);
	if (!err)
		err = vinode_get(fs, ino, &v);
	if (!err && v->dirty && size < v->size)
		err = share_keep_cut(fs, v);
	if (!err)
		err = vinode_get(fs, ino, &v);
	if (!err)
		err = stream_open(fs, v);
	if (!err && size < v->size) {
		err = fs_space_wait(fs, zero_tail(fs, v, size));
		if (!err && !vinode_get(fs, ino, &v) && !stream_open(fs, v))
			stream_cut(fs, v, (size + BLK - 1) >> MEDIA_BLOCK_SHIFT);
	}
	if (!err) {
		v->size = size;
		v->mtime = v->ctime = fs_now(fs);
	} else if (err == -EBADMSG || err == -EUCLEAN) {
		err = file_damaged(ino, size >> MEDIA_BLOCK_SHIFT, err);
	}
	v = vinode_find(fs, ino);
	if (v)
		vinode_put(fs, v);
	return err;
}
