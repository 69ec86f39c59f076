/* Content of regular files: writing and truncation. How content is staged is in file_stage.c, reading in file_read.c.
 *
 * A program's write waits while the policy makes changes wait. What the kernel writes back by itself (dirty pages of mappings)
 * does not, for somebody who cannot be interrupted waits for it: a process that was killed and is closing its mappings. It is
 * staged then, which commits nothing and acknowledges nothing; FSYNC does. A stream that grows so is not linked while the
 * policy forbids it: it may take what one record holds instead of a sixteenth of the ring. Nothing is sent ahead either, so
 * that a page written back again and again takes one block. Beyond that record, or without a free block, write-back waits
 * as well: only a commit brings more. */
#include "file_impl.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define SCARCE_BLKS 8u              /* a piece of a write on a full pool */
#define HELD_SLACK_BYTES (8u << 10) /* of a record, for what is not a stream: header, state block */

/* ---------------------------------------------------------------- a stream's share of the ring */

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

/* Links the stream first when a write of [at, at + len) would make its share of the ring too large. held: it cannot be linked
 * now, -EAGAIN when one record would not hold it. */
static int share_keep(struct fs *fs, struct vinode *v, uint64_t at, uint64_t len, bool held)
{
	uint64_t first = at >> MEDIA_BLOCK_SHIFT, last = (at + (len ? len - 1 : 0)) >> MEDIA_BLOCK_SHIFT, nodes;
	uint64_t share = held ? FS_RECORD_MAX(fs) - HELD_SLACK_BYTES : fs->geom.ring_bytes / STREAM_RING_SHARE, more = (last - first + 1) * STAGED_RECORD_BYTES;
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

/* ---------------------------------------------------------------- writing */

/* What no write can make good is not kept: the number leads to no file, or to one of another kind. */
static void write_failed(struct vinode *v, uint64_t off, uint64_t len, int err)
{
	if (err == -ESTALE || err == -EISDIR || err == -EINVAL)
		return;
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

	return share < STAGE_BLKS_MAX - 1 ? share : STAGE_BLKS_MAX - 1;
}

/* Stages as much of [at, at + len) as there is room for, at least something: *part. On a full pool a few blocks that replace
 * committed content may still go, out of what is kept back: their commit gives as many back. */
static int stage_some(
	struct fs *fs, struct vinode *v, uint64_t at, const uint8_t *src, uint64_t len, uint64_t *part, bool held)
{
	int err = file_stage(fs, v, ALLOC_DATA, at, src, len, !held);

	*part = len;
	if (err != -ENOSPC)
		return err;
	if (len > SCARCE_BLKS * BLK - at % BLK)
		*part = SCARCE_BLKS * BLK - at % BLK;
	err = file_stage(fs, v, ALLOC_OVER, at, src, *part, !held);
	if (held)
		return err == -ENOSPC ? -EAGAIN : err; /* no commit is asked for now; then it will show */
	return fs_space_wait(fs, err);
}

/* One piece of a write. The stream's size follows each piece: a link between two must not leave content behind the end. */
static int write_piece(
	struct fs *fs, uint64_t ino, uint64_t at, const uint8_t *src, uint64_t len, uint64_t *part, bool held)
{
	struct vinode *v;
	int err = vinode_get(fs, ino, &v);

	if (!err)
		err = share_keep(fs, v, at, len, held);
	if (!err)
		err = vinode_get(fs, ino, &v); /* linking may have let it go */
	if (!err)
		err = stream_open(fs, v);
	if (!err)
		err = stage_some(fs, v, at, src, len, part, held);
	if (err)
		return err;
	if (at + *part > v->size)
		v->size = at + *part;
	v->mtime = v->ctime = fs_now(fs);
	return 0;
}

/* Stages the rest of [off, off + len) behind *done. */
static int write_pieces(
	struct fs *fs, uint64_t ino, uint64_t off, const uint8_t *buf, size_t len, size_t *done, bool held)
{
	uint64_t piece_max = write_blks_max(fs) * BLK, part;

	while (*done < len) {
		uint64_t at = off + *done;
		int err;

		part = piece_max - at % BLK;
		if (part > len - *done)
			part = len - *done;
		err = write_piece(fs, ino, at, buf + *done, part, &part, held);
		if (err)
			return err;
		*done += part;
	}
	return 0;
}

/* Whether changes wait now; not whether they are refused for good. */
static bool changes_wait(const struct fs *fs)
{
	const struct fs_repl_ops *repl = fs->cfg.repl;

	return repl && repl->may_change && repl->may_change(fs->cfg.repl_ctx) == -EAGAIN;
}

static int write_any(
	struct fs *fs, uint64_t ino, uint64_t off, const void *buf, size_t len, size_t *done, bool back)
{
	struct vinode *v;
	bool held;
	int err;

	assert(*done <= len);
	if (off > FS_FILE_BYTES_MAX || len > FS_FILE_BYTES_MAX - off)
		return -EFBIG;
	err = fs_room(fs, 0);
	held = err == -EAGAIN && back && changes_wait(fs);
	if (!err || held)
		err = write_pieces(fs, ino, off, buf, len, done, held);
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

int fs_write(struct fs *fs, uint64_t ino, uint64_t off, const void *buf, size_t len, size_t *done)
{
	return write_any(fs, ino, off, buf, len, done, false);
}

int fs_write_back(struct fs *fs, uint64_t ino, uint64_t off, const void *buf, size_t len, size_t *done)
{
	return write_any(fs, ino, off, buf, len, done, true);
}

/* ---------------------------------------------------------------- truncation */

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
	return file_stage(fs, v, ptr ? ALLOC_OVER : ALLOC_DATA, size, NULL, end - size, true);
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
	err = share_keep(fs, v, size, 1, false);
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
		if (!err)
			err = vinode_get(fs, ino, &v);
		if (!err)
			err = stream_open(fs, v);
		if (!err)
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
