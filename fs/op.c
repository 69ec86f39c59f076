/* Operations: all or nothing changes of the running commit. op_abort restores each saved line and its dirty bit, gives new
 * blocks back and forgets frees and links; op_end carries the frees out. */
#include <assert.h>
#include <string.h>
#include "fs_impl.h"
#include "log.h"

void op_begin(struct fs *fs)
{
	assert(!fs->op.open);
	assert(fs->op.lines.n == 0 && fs->op.freed.n == 0);
	fs->op.open = true;
}

/* Saves a line before its first change in the operation. Lines of blocks new in this operation go with the block. */
int op_save_line(struct fs *fs, struct shadow *s, unsigned line)
{
	struct undo_line *undo;
	uint64_t bit = 1ull << line;

	if (s->op_saved & bit)
		return 0;
	if (vec_reserve(&fs->op.lines, 1) || vec_reserve(&fs->op.touched, 1))
		return -ENOMEM;
	if (!s->op_saved)
		(void)vec_push(&fs->op.touched, s);
	s->op_saved |= bit;
	undo = &fs->op.lines.v[fs->op.lines.n++];
	undo->shadow = s;
	undo->line = (uint8_t)line;
	undo->was_dirty = s->dirty & bit;
	memcpy(undo->bytes, s->content + line * MEDIA_LINE_BYTES, MEDIA_LINE_BYTES);
	return 0;
}

static void op_clear(struct fs *fs)
{
	for (size_t i = 0; i < fs->op.touched.n; i++)
		fs->op.touched.v[i]->op_saved = 0;
	fs->op.touched.n = 0;
	fs->op.lines.n = 0;
	fs->op.fresh_meta.n = 0;
	fs->op.fresh_data.n = 0;
	fs->op.freed.n = 0;
	fs->op.reclaim.n = 0;
	fs->op.open = false;
}

void op_end(struct fs *fs)
{
	assert(fs->op.open);
	/* before the frees: they may delete shadows that are on the touched list */
	for (size_t i = 0; i < fs->op.touched.n; i++)
		fs->op.touched.v[i]->op_saved = 0;
	fs->op.touched.n = 0;
	for (size_t i = 0; i < fs->op.freed.n; i++) {
		int err = block_free_now(fs, fs->op.freed.v[i]);

		/* block_free made room; what is left is a group table that cannot be read */
		if (err)
			log_error("block %#llx: leaked until the next mount: %s", (unsigned long long)fs->op.freed.v[i],
				  strerror(-err));
	}
	for (size_t i = 0; i < fs->op.reclaim.n; i++)
		(void)vec_push(&fs->reclaim, fs->op.reclaim.v[i]); /* fs_reclaim_later made room */
	op_clear(fs);
	if (!fs->background_ns)
		fs->background_ns = fs_clock_ns() + fs->cfg.background_ms * 1000000ull;
}

int op_abort(struct fs *fs, int err)
{
	assert(fs->op.open);
	for (size_t i = fs->op.lines.n; i-- > 0;) {
		struct undo_line *undo = &fs->op.lines.v[i];

		memcpy(undo->shadow->content + undo->line * MEDIA_LINE_BYTES, undo->bytes, MEDIA_LINE_BYTES);
		if (!undo->was_dirty)
			shadow_unmark(fs, undo->shadow, 1ull << undo->line);
	}
	for (size_t i = 0; i < fs->op.touched.n; i++)
		fs->op.touched.v[i]->op_saved = 0;
	fs->op.touched.n = 0;
	for (size_t i = fs->op.fresh_meta.n; i-- > 0;)
		block_unlink_fresh_meta(fs, shadow_find(fs, fs->op.fresh_meta.v[i]));
	/* the staged content stays the stream's: only the link is undone */
	for (size_t i = fs->op.fresh_data.n; i-- > 0;)
		block_unlink_fresh_data(fs, fs->op.fresh_data.v[i]);
	for (size_t i = 0; i < fs->op.freed.n; i++)
		alloc_stay(fs, fs->op.freed.v[i]);
	op_clear(fs);
	return err;
}

void op_fini(struct fs *fs)
{
	vec_free(&fs->op.lines);
	vec_free(&fs->op.touched);
	vec_free(&fs->op.fresh_meta);
	vec_free(&fs->op.fresh_data);
	vec_free(&fs->op.freed);
	vec_free(&fs->op.reclaim);
}
