/* Current content of blocks, and the running commit's changes to them. See block.h and fs_impl.h for the states.
 *
 * Invariants: a shadow with dirty lines is on fs->dirty, any other on fs->clean; fs->running.bytes is at least the size of
 * the record that closing now would build; a block is in running.freed or fresh, never in both.
 *
 * Metadata that is read again and again is kept: a clean shadow without lines, verified when it was made. To verify the
 * state block and a map's nodes at every look was a third of an overwrite's time. Kept ones go with the next checkpoint,
 * or all together when they have become many (blocks_settle). */
#include "block.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include "errmsg.h"
#include "fs_impl.h"
#include "plant.h"

#define RECORD_HEAD_BYTES (sizeof(struct redo_hdr_omf) + MEDIA_LINE_BYTES)
#define LINK_BYTES (sizeof(struct redo_run_omf) + sizeof(le32_t))
#define KEPT_MAX 512u

int blocks_init(struct fs *fs)
{
	TAILQ_INIT(&fs->dirty);
	TAILQ_INIT(&fs->clean);
	fs->running.bytes = RECORD_HEAD_BYTES;
	return 0;
}

void blocks_fini(struct fs *fs)
{
	struct shadow *s, *snext;

	HASH_ITER(hh, fs->shadows, s, snext)
		shadow_delete(fs, s);
	fresh_fini(fs);
	vec_free(&fs->running.links);
	vec_free(&fs->running.freed);
	vec_free(&fs->flying.links);
	vec_free(&fs->flying.freed);
}

/* ---------------------------------------------------------------- shadows */

struct shadow *shadow_find(struct fs *fs, uint64_t blk)
{
	struct shadow *s;

	HASH_FIND(hh, fs->shadows, &blk, sizeof(blk), s);
	return s;
}

static int shadow_new(struct fs *fs, uint64_t blk, uint32_t type, struct shadow **out)
{
	struct shadow *s = aligned_alloc(64, sizeof(*s));

	if (!s)
		return -ENOMEM;
	memset(s, 0, offsetof(struct shadow, content));
	s->blk = blk;
	s->type = type;
	if (hash64_add(fs->shadows, blk, s)) {
		free(s);
		return -ENOMEM;
	}
	TAILQ_INSERT_HEAD(&fs->clean, s, list);
	*out = s;
	return 0;
}

int shadow_load(struct fs *fs, uint64_t blk, uint32_t type, struct shadow **shadow)
{
	struct shadow *s = shadow_find(fs, blk);
	int err = s ? 0 : shadow_new(fs, blk, type, &s);

	if (err)
		return err;
	if (!s->lines_seq)
		memcpy(s->content, pm_ptr(fs->pm, media_off(blk)), MEDIA_BLOCK_BYTES);
	*shadow = s;
	return 0;
}

void shadow_delete(struct fs *fs, struct shadow *s)
{
	TAILQ_REMOVE(s->dirty ? &fs->dirty : &fs->clean, s, list);
	HASH_DEL(fs->shadows, s);
	free(s);
}

void shadow_mark(struct fs *fs, struct shadow *s, uint64_t lines)
{
	uint64_t add = lines & ~s->dirty;

	if (!add)
		return;
	if (!s->dirty) {
		TAILQ_REMOVE(&fs->clean, s, list);
		TAILQ_INSERT_TAIL(&fs->dirty, s, list);
		fs->running.bytes += sizeof(struct redo_lines_omf);
	}
	s->dirty |= add;
	fs->running.bytes += (uint64_t)__builtin_popcountll(add) * MEDIA_LINE_BYTES;
}

void shadow_unmark(struct fs *fs, struct shadow *s, uint64_t lines)
{
	uint64_t gone = lines & s->dirty;

	if (!gone)
		return;
	s->dirty &= ~gone;
	fs->running.bytes -= (uint64_t)__builtin_popcountll(gone) * MEDIA_LINE_BYTES;
	if (!s->dirty) {
		fs->running.bytes -= sizeof(struct redo_lines_omf);
		TAILQ_REMOVE(&fs->dirty, s, list);
		TAILQ_INSERT_TAIL(&fs->clean, s, list);
	}
}

/* The clean list is ordered by lines_seq but for shadows without lines (0: kept, or read for a change that did not come):
 * those go first. */
static void clean_drop(struct fs *fs, uint64_t upto)
{
	struct shadow *s;

	/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): what is deleted has left the list, which the analyzer loses sight of */
	while ((s = TAILQ_FIRST(&fs->clean)) != NULL && s->lines_seq <= upto)
		shadow_delete(fs, s);
	fs->kept = 0;
}

void blocks_checkpointed(struct fs *fs, uint64_t tail)
{
	clean_drop(fs, tail);
	fresh_expire(fs, tail);
}

void blocks_settle(struct fs *fs)
{
	assert(!fs->op.open);
	if (fs->kept >= KEPT_MAX)
		clean_drop(fs, 0);
}

/* ---------------------------------------------------------------- reading */

static int damaged_pointer(uint64_t blk)
{
	return errmsg_set(-EUCLEAN, "block %#llx cannot hold content: a pointer to it is damaged", (unsigned long long)blk);
}

/* In-place content checked against its table entry. */
static int block_verify(struct fs *fs, uint64_t blk, uint32_t type, const void **content)
{
	const void *p = pm_ptr(fs->pm, media_off(blk));
	struct copy_entry entry;
	int err = copy_entry_get(fs->copy, blk, &entry);

	if (err)
		return err;
	if (entry.type != type)
		return errmsg_set(-EBADMSG, "block %#llx is of type %u, expected %u", (unsigned long long)blk, entry.type,
				  type);
	if (csum_crc32c(0, p, MEDIA_BLOCK_BYTES) != entry.csum && !PLANTED(PLANT_READ))
		return errmsg_set(-EBADMSG, "block %#llx (pool offset %#llx): content does not match its checksum",
				  (unsigned long long)blk, (unsigned long long)media_off(blk));
	*content = p;
	return 0;
}

/* Keeps a verified block from its second look on, so that a walk over everything keeps nothing. Without memory it goes on
 * being read in place. */
static void block_keep(struct fs *fs, uint64_t blk, uint32_t type, const void **content)
{
	uint64_t *seen = &fs->seen[hash64(&blk) % FS_SEEN_BLKS];
	struct shadow *s;

	if (*seen != blk || fs->kept >= KEPT_MAX || shadow_new(fs, blk, type, &s)) {
		*seen = blk;
		return;
	}
	fs->kept++;
	memcpy(s->content, *content, MEDIA_BLOCK_BYTES);
	*content = s->content;
}

int block_get(struct fs *fs, uint64_t blk, uint32_t type, const void **content)
{
	struct shadow *s;
	int err;

	if (!media_blk_valid(&fs->geom, blk))
		return damaged_pointer(blk);
	s = shadow_find(fs, blk);
	if (!s) {
		err = block_verify(fs, blk, type, content);
		if (!err && type > MEDIA_DATA_LAST)
			block_keep(fs, blk, type, content);
		return err;
	}
	if (s->type != type)
		return errmsg_set(-EBADMSG, "block %#llx is of type %u, expected %u", (unsigned long long)blk, s->type, type);
	*content = s->content;
	return 0;
}

int block_get_data(struct fs *fs, uint64_t blk, const void **content)
{
	struct fresh f;

	if (!media_blk_valid(&fs->geom, blk))
		return damaged_pointer(blk);
	if (!fresh_find(fs, blk, &f) || shadow_find(fs, blk)) /* a shadow has lines on top of it */
		return block_get(fs, blk, MEDIA_DATA, content);
	*content = pm_ptr(fs->pm, media_off(blk));
	if (csum_crc32c(0, *content, MEDIA_BLOCK_BYTES) != f.csum)
		return errmsg_set(-EBADMSG, "block %#llx (pool offset %#llx): content changed before its commit was settled",
				  (unsigned long long)blk, (unsigned long long)media_off(blk));
	return 0;
}

const void *block_peek(struct fs *fs, uint64_t blk)
{
	const struct shadow *s;

	if (!media_blk_valid(&fs->geom, blk))
		return NULL;
	s = shadow_find(fs, blk);
	return s ? s->content : pm_ptr(fs->pm, media_off(blk));
}

bool block_is_fresh(struct fs *fs, uint64_t blk)
{
	struct fresh f;

	return fresh_find(fs, blk, &f) && f.seq > fs->settled;
}

const void *block_content(const struct shadow *shadow)
{
	return shadow->content;
}

/* ---------------------------------------------------------------- changing */

/* Metadata without lines of its own: a copy of what is in place. */
static bool only_kept(const struct shadow *s)
{
	return s->type > MEDIA_DATA_LAST && !s->fresh && !s->dirty && !s->lines_seq;
}

int block_edit(struct fs *fs, uint64_t blk, uint32_t type, struct shadow **shadow)
{
	const void *content;
	struct shadow *s;
	int err;

	assert(fs->op.open);
	err = type == MEDIA_DATA ? block_get_data(fs, blk, &content) : block_get(fs, blk, type, &content);
	if (err)
		return err;
	s = shadow_find(fs, blk);
	if (s && only_kept(s)) { /* what the checkpoint will lay the lines over must be good now, not when it was kept */
		err = block_verify(fs, blk, type, &content);
		if (err)
			return err;
	} else if (!s) {
		err = shadow_new(fs, blk, type, &s);
		if (err)
			return err;
		memcpy(s->content, content, MEDIA_BLOCK_BYTES);
	}
	*shadow = s;
	return 0;
}

int block_put(struct fs *fs, struct shadow *s, uint32_t off, const void *src, uint32_t len)
{
	const uint8_t *from = src;

	assert(fs->op.open);
	assert(off <= MEDIA_BLOCK_BYTES && len <= MEDIA_BLOCK_BYTES - off);
	while (len > 0) {
		unsigned line = off / MEDIA_LINE_BYTES;
		uint32_t part = MEDIA_LINE_BYTES - off % MEDIA_LINE_BYTES;

		if (part > len)
			part = len;
		if (memcmp(s->content + off, from, part) != 0) {
			int err = op_save_line(fs, s, line);

			if (err)
				return err;
			memcpy(s->content + off, from, part);
			if (!PLANTED(PLANT_DIR) || s->type != FS_DIR_LEAF)
				shadow_mark(fs, s, 1ull << line);
		}
		off += part;
		from += part;
		len -= part;
	}
	return 0;
}

int block_new(struct fs *fs, enum alloc_class class, uint32_t type, uint64_t *blk, struct shadow **shadow)
{
	struct shadow *s;
	uint64_t b;
	int err;

	assert(fs->op.open);
	err = vec_reserve(&fs->op.fresh_meta, 1);
	if (err)
		return err;
	err = alloc_block(fs, class, &b);
	if (err)
		return err;
	s = shadow_find(fs, b);
	if (s) /* of the block's former life, already checkpointed */
		shadow_delete(fs, s);
	err = shadow_new(fs, b, type, &s);
	if (err) {
		alloc_undo(fs, b);
		return err;
	}
	memset(s->content, 0, sizeof(s->content));
	s->fresh = true;
	shadow_mark(fs, s, ~0ull);
	fs->running.meta_links++;
	fs->running.bytes += LINK_BYTES;
	(void)vec_push(&fs->op.fresh_meta, b);
	*blk = b;
	*shadow = s;
	return 0;
}

/* Takes a block that the running commit links out of it again and gives it back. */
void block_unlink_fresh_meta(struct fs *fs, struct shadow *s)
{
	uint64_t blk = s->blk;

	assert(s->fresh);
	shadow_unmark(fs, s, ~0ull);
	fs->running.meta_links--;
	fs->running.bytes -= LINK_BYTES;
	shadow_delete(fs, s);
	alloc_undo(fs, blk);
}

int block_link_data(struct fs *fs, uint64_t blk, uint32_t csum, bool pushed)
{
	struct shadow *s = shadow_find(fs, blk);
	int err;

	assert(fs->op.open);
	if (vec_reserve(&fs->running.links, 1) || vec_reserve(&fs->op.fresh_data, 1))
		return -ENOMEM;
	err = fresh_add(fs, blk, &(struct fresh){ .seq = fs->running.seq, .csum = csum, .pushed = pushed });
	if (err)
		return err;
	if (s) /* of the block's former life, already checkpointed */
		shadow_delete(fs, s);
	(void)vec_push(&fs->running.links, blk);
	(void)vec_push(&fs->op.fresh_data, blk);
	fs->running.bytes += LINK_BYTES;
	return 0;
}

/* The block stays on running.links; closing skips what is not fresh any more. */
void block_unlink_fresh_data(struct fs *fs, uint64_t blk)
{
	fs->running.bytes -= LINK_BYTES;
	fresh_delete(fs, blk);
}

int block_free(struct fs *fs, uint64_t blk)
{
	int err;

	assert(fs->op.open);
	if (!media_blk_valid(&fs->geom, blk))
		return damaged_pointer(blk);
	/* room for what block_free_now will note, so that the end of the operation cannot fail */
	if (vec_reserve(&fs->running.freed, fs->op.freed.n + 1) || vec_reserve(&fs->op.freed, 1) ||
	    vec_reserve(&fs->alloc.wait_ack, fs->running.freed.n + fs->op.freed.n + 1))
		return -ENOMEM;
	err = alloc_leave(fs, blk);
	return err ? err : vec_push(&fs->op.freed, blk);
}

/* A block the running commit links is simply taken out of it; its pushed copy may still be on the way to a replica, so it
 * waits for the next commit's answer. Any other block is freed by the record. */
int block_free_now(struct fs *fs, uint64_t blk)
{
	struct shadow *s = shadow_find(fs, blk);
	struct fresh f;
	uint64_t lines_seq = 0;

	if (s && s->fresh) {
		block_unlink_fresh_meta(fs, s);
		return 0;
	}
	if (fresh_find(fs, blk, &f) && f.seq == fs->running.seq) {
		block_unlink_fresh_data(fs, blk);
		if (f.pushed && !PLANTED(PLANT_PUSH))
			return alloc_pend(fs, blk, fs->running.seq, 0);
		alloc_undo(fs, blk);
		return 0;
	}
	fresh_delete(fs, blk);
	if (s) {
		lines_seq = s->lines_seq;
		shadow_unmark(fs, s, ~0ull);
		shadow_delete(fs, s);
	}
	fs->running.bytes += sizeof(struct redo_run_omf);
	return vec_push(&fs->running.freed, ((struct freed){ blk, lines_seq }));
}
