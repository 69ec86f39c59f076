/* Vinodes and their streams. See stream.h for the states.
 *
 * Invariants: a vinode with dirty set is on fs->dirty_streams, which is ordered by gen; every staged block with blk is taken
 * from the allocator and in no commit; reserved index blocks of all streams together are alloc.reserved. */
#include "stream.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include "errmsg.h"
#include "fs_impl.h"
#include "log.h"
#include "plant.h"

#define CUT_TRIM_BLKS 128u
#define LINK_BATCH_BLKS FS_NODE_PTRS

/* ---------------------------------------------------------------- vinodes */

struct vinode *vinode_find(struct fs *fs, uint64_t ino)
{
	struct vinode *v;

	HASH_FIND(hh, fs->vinodes, &ino, sizeof(ino), v);
	return v;
}

int vinode_get(struct fs *fs, uint64_t ino, struct vinode **out)
{
	struct vinode *v = vinode_find(fs, ino);

	if (!v) {
		v = calloc(1, sizeof(*v));
		if (!v)
			return -ENOMEM;
		v->ino = ino;
		v->cut = UINT64_MAX;
		v->reserved_node = UINT64_MAX;
		if (hash64_add(fs->vinodes, ino, v)) {
			free(v);
			return -ENOMEM;
		}
	}
	*out = v;
	return 0;
}

void vinode_put(struct fs *fs, struct vinode *v)
{
	if (v->lookups || v->handles || v->dirty || v->failed)
		return;
	HASH_DEL(fs->vinodes, v);
	free(v);
}

int fs_ref(struct fs *fs, uint64_t ino)
{
	struct vinode *v;
	int err = vinode_get(fs, ino, &v);

	if (!err)
		v->lookups++;
	return err;
}

void fs_forget(struct fs *fs, uint64_t ino, uint64_t count)
{
	struct vinode *v = vinode_find(fs, ino);

	if (!v)
		return;
	v->lookups -= count < v->lookups ? count : v->lookups;
	vinode_put(fs, v);
}

int fs_opened(struct fs *fs, uint64_t ino)
{
	struct vinode *v;
	int err = vinode_get(fs, ino, &v);

	if (!err)
		v->handles++;
	return err;
}

void fs_released(struct fs *fs, uint64_t ino)
{
	struct vinode *v = vinode_find(fs, ino);
	struct fs_inode_omf inode;
	int err;

	if (!v || v->handles == 0)
		return;
	if (--v->handles > 0)
		return;
	v->failed = 0; /* every handle that could have been told is gone */
	err = inode_get(fs, ino, &inode);
	if (!err && le32_get(inode.nlink) == 0)
		err = fs_reclaim_later(fs, ino);
	if (err && err != -ESTALE)
		log_error("inode %llu: not reclaimed before the next mount: %s", (unsigned long long)ino, strerror(-err));
	vinode_put(fs, v);
}

/* ---------------------------------------------------------------- the list of streams */

static void stream_enlist(struct fs *fs, struct vinode *v)
{
	v->gen = ++fs->stream_gen;
	v->dirty_next = NULL;
	v->dirty_prev = fs->dirty_end;
	*fs->dirty_end = v;
	fs->dirty_end = &v->dirty_next;
}

static void stream_delist(struct fs *fs, struct vinode *v)
{
	*v->dirty_prev = v->dirty_next;
	if (v->dirty_next)
		v->dirty_next->dirty_prev = v->dirty_prev;
	else
		fs->dirty_end = v->dirty_prev;
}

int stream_open(struct fs *fs, struct vinode *v)
{
	struct fs_inode_omf inode;
	int err;

	if (v->dirty)
		return 0;
	err = inode_get(fs, v->ino, &inode);
	if (err)
		return err;
	if (!S_ISREG(le32_get(inode.mode))) /* its size is not its content's */
		return S_ISDIR(le32_get(inode.mode)) ? -EISDIR : -EINVAL;
	v->size = le64_get(inode.size);
	v->mtime = (struct timespec){ (time_t)le64_get(inode.mtime), le32_get(inode.mtime_ns) };
	v->ctime = (struct timespec){ (time_t)le64_get(inode.ctime), le32_get(inode.ctime_ns) };
	v->cut = UINT64_MAX;
	v->record_bytes = STREAM_BASE_BYTES;
	v->dirty = true;
	stream_enlist(fs, v);
	if (!fs->background_ns)
		fs->background_ns = fs_clock_ns() + fs->cfg.background_ms * 1000000ull;
	return 0;
}

static struct stage_chunk *chunk_find(struct vinode *v, uint64_t fblk)
{
	uint64_t key = fblk / STAGE_CHUNK_BLKS;
	struct stage_chunk *c = v->staged_last;

	if (c && c->key == key)
		return c;
	HASH_FIND(hh, v->staged, &key, sizeof(key), c);
	if (c)
		v->staged_last = c;
	return c;
}

struct staged *stream_find(struct vinode *v, uint64_t fblk)
{
	struct stage_chunk *c = chunk_find(v, fblk);
	unsigned i = fblk % STAGE_CHUNK_BLKS;

	return c && c->present >> i & 1 ? &c->at[i] : NULL;
}

struct staged *stream_place(struct vinode *v, uint64_t fblk)
{
	struct stage_chunk *c = chunk_find(v, fblk);

	if (!c) {
		c = malloc(sizeof(*c));
		if (!c)
			return NULL;
		c->key = fblk / STAGE_CHUNK_BLKS;
		c->present = 0;
		if (hash64_add(v->staged, key, c)) {
			free(c);
			return NULL;
		}
		v->staged_last = c;
	}
	return &c->at[fblk % STAGE_CHUNK_BLKS];
}

/* Takes a staged block out of the stream and frees what it holds. A pushed one may still be on its way to a replica: it waits
 * for the answer to the next commit. */
static void staged_drop(struct fs *fs, struct vinode *v, struct stage_chunk *c, unsigned i)
{
	struct staged *s = &c->at[i];

	c->present &= ~(1ull << i);
	v->staged_count--;
	free(s->image);
	if (!s->blk)
		return;
	v->staged_blks--;
	if (!s->pushed || PLANTED(PLANT_PUSH))
		alloc_undo(fs, s->blk);
	else if (alloc_pend(fs, s->blk, fs->running.seq, 0))
		log_error("block %#llx: leaked until the next mount", (unsigned long long)s->blk);
}

void stream_put(struct fs *fs, struct vinode *v, uint64_t fblk, const struct staged *staged)
{
	struct stage_chunk *c = chunk_find(v, fblk);
	unsigned i = fblk % STAGE_CHUNK_BLKS;

	if (c->present >> i & 1)
		staged_drop(fs, v, c, i);
	c->at[i] = *staged;
	c->present |= 1ull << i;
	v->staged_count++;
	v->staged_blks += staged->blk != 0;
}

bool stream_next(struct vinode *v, uint64_t fblk, uint64_t *found)
{
	uint64_t best = UINT64_MAX;
	struct stage_chunk *c, *next;

	HASH_ITER(hh, v->staged, c, next) {
		uint64_t first = c->key * STAGE_CHUNK_BLKS, bits = c->present;

		if (first >= best || first + STAGE_CHUNK_BLKS <= fblk)
			continue;
		if (fblk > first)
			bits &= ~0ull << (fblk - first);
		if (bits)
			best = first + (unsigned)__builtin_ctzll(bits) < best ? first + (unsigned)__builtin_ctzll(bits) : best;
	}
	*found = best;
	return best != UINT64_MAX;
}

static void chunks_free(struct vinode *v)
{
	struct stage_chunk *c, *next;

	HASH_ITER(hh, v->staged, c, next) {
		HASH_DEL(v->staged, c);
		free(c);
	}
	v->staged_last = NULL;
	v->staged_count = v->staged_blks = 0;
}

/* Drops every staged block at or behind fblk. */
static void staged_drop_from(struct fs *fs, struct vinode *v, uint64_t fblk)
{
	struct stage_chunk *c, *next;

	HASH_ITER(hh, v->staged, c, next)
		for (uint64_t left = c->present; left; left &= left - 1) {
			unsigned i = (unsigned)__builtin_ctzll(left);

			if (c->key * STAGE_CHUNK_BLKS + i >= fblk)
				staged_drop(fs, v, c, i);
		}
}

void stream_cut(struct fs *fs, struct vinode *v, uint64_t fblk)
{
	staged_drop_from(fs, v, fblk);
	if (v->cut == UINT64_MAX)
		v->record_bytes += STREAM_CUT_BYTES;
	v->reserved_node = UINT64_MAX;
	if (fblk < v->cut)
		v->cut = fblk;
}

static void stream_clear(struct fs *fs, struct vinode *v)
{
	stream_delist(fs, v);
	alloc_unreserve(fs, v->reserved);
	v->reserved = 0;
	v->reserved_node = UINT64_MAX;
	v->cut = UINT64_MAX;
	chunks_free(v);
	v->dirty = v->stuck = false;
}

void stream_drop(struct fs *fs, struct vinode *v)
{
	if (!v->dirty)
		return;
	staged_drop_from(fs, v, 0);
	stream_clear(fs, v);
}

/* Images of a stream that was linked or is thrown away whole. */
static void images_free(struct vinode *v)
{
	struct stage_chunk *c, *next;

	HASH_ITER(hh, v->staged, c, next)
		for (uint64_t left = c->present; left; left &= left - 1)
			free(c->at[__builtin_ctzll(left)].image);
}

void streams_fini(struct fs *fs)
{
	struct vinode *v, *next;

	HASH_ITER(hh, fs->vinodes, v, next) {
		images_free(v);
		chunks_free(v);
		HASH_DEL(fs->vinodes, v);
		free(v);
	}
}

/* ---------------------------------------------------------------- linking */

/* Cuts the committed map at v->cut. A small rest is freed here; a large one moves to an orphan that is reclaimed in
 * steps, so that the operation stays bounded whatever the file's size. */
static int link_cut(struct fs *fs, struct vinode *v, struct fs_inode_omf *inode)
{
	struct fs_inode_omf tail;
	uint64_t ino;
	bool many, left;
	int err = map_tail_exceeds(fs, inode, v->cut, CUT_TRIM_BLKS, &many);

	if (err)
		return err;
	if (!many) /* never both: together they would not fit the smallest ring's record */
		return map_trim(fs, inode, v->cut, CUT_TRIM_BLKS, &left);
	err = inode_new(fs, S_IFREG, ALLOC_FREE, &ino, &tail);
	if (!err)
		err = map_split(fs, inode, v->cut, &tail);
	if (err)
		return err;
	tail.flags = le32_put(le32_get(tail.flags) | FS_INODE_CUT);
	tail.size = le64_put(FS_FILE_BYTES_MAX);
	err = orphan_add(fs, ino, &tail);
	if (!err)
		err = inode_put(fs, ino, &tail);
	return err ? err : fs_reclaim_later(fs, ino);
}

static int link_image(struct fs *fs, const struct fs_inode_omf *inode, uint64_t fblk, const uint8_t *image)
{
	struct shadow *shadow;
	uint64_t ptr;
	int err = map_get(fs, inode, fblk, &ptr);

	if (!err)
		err = block_edit(fs, ptr & FS_PTR_BLK_MASK, MEDIA_DATA, &shadow);
	return err ? err : block_put(fs, shadow, 0, image, MEDIA_BLOCK_BYTES);
}

/* Neighbouring file blocks on their way into the map. */
struct link_run {
	uint64_t fblk;
	unsigned count;
	uint64_t ptrs[LINK_BATCH_BLKS];
	const struct staged *staged[LINK_BATCH_BLKS];
};

/* Links the run and frees what it replaces. */
static int link_run(struct fs *fs, struct fs_inode_omf *inode, struct link_run *run)
{
	uint64_t olds[LINK_BATCH_BLKS];
	int err = 0;

	if (run->count)
		err = map_set_run(fs, inode, ALLOC_FREE, run->fblk, run->count, run->ptrs, olds);
	for (unsigned i = 0; i < run->count && !err; i++) {
		const struct staged *s = run->staged[i];

		err = block_link_data(fs, s->blk, s->csum, s->pushed);
		if (!err && olds[i])
			err = block_free(fs, olds[i] & FS_PTR_BLK_MASK);
	}
	run->count = 0;
	return err;
}

static int link_chunk(struct fs *fs, struct fs_inode_omf *inode, const struct stage_chunk *c, struct link_run *run)
{
	int err = 0;

	for (uint64_t left = c->present; left && !err; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctzll(left);
		const struct staged *s = &c->at[i];
		uint64_t fblk = c->key * STAGE_CHUNK_BLKS + i;

		if (!s->blk) {
			err = link_image(fs, inode, fblk, s->image);
			continue;
		}
		if (run->count == LINK_BATCH_BLKS || (run->count && run->fblk + run->count != fblk))
			err = link_run(fs, inode, run);
		if (!run->count)
			run->fblk = fblk;
		run->ptrs[run->count] = s->blk;
		run->staged[run->count++] = s;
	}
	return err;
}

static int chunk_compare(const void *a, const void *b)
{
	uint64_t x = (*(struct stage_chunk *const *)a)->key, y = (*(struct stage_chunk *const *)b)->key;

	return x < y ? -1 : x > y;
}

static int link_staged(struct fs *fs, struct vinode *v, struct fs_inode_omf *inode)
{
	size_t n = HASH_COUNT(v->staged), i = 0;
	struct stage_chunk **order, *c, *next;
	struct link_run *run;
	int err = 0;

	if (n == 0)
		return 0;
	order = malloc(n * sizeof(*order));
	run = malloc(sizeof(*run));
	if (!order || !run) {
		err = -ENOMEM;
		goto free;
	}
	run->count = 0;
	HASH_ITER(hh, v->staged, c, next)
		order[i++] = c;
	qsort(order, n, sizeof(struct stage_chunk *), chunk_compare);
	for (i = 0; i < n && !err; i++)
		err = link_chunk(fs, inode, order[i], run);
	if (!err)
		err = link_run(fs, inode, run);
free:
	free(order);
	free(run);
	return err;
}

int stream_link(struct fs *fs, struct vinode *v, struct fs_inode_omf *inode)
{
	int err = 0;

	assert(fs->op.open);
	if (!v->dirty)
		return 0;
	if (v->cut != UINT64_MAX)
		err = link_cut(fs, v, inode);
	if (!err)
		err = link_staged(fs, v, inode);
	if (err)
		return err;
	inode->size = le64_put(v->size);
	inode->mtime = le64_put((uint64_t)v->mtime.tv_sec);
	inode->mtime_ns = le32_put((uint32_t)v->mtime.tv_nsec);
	inode->ctime = le64_put((uint64_t)v->ctime.tv_sec);
	inode->ctime_ns = le32_put((uint32_t)v->ctime.tv_nsec);
	return 0;
}

void stream_linked(struct fs *fs, struct vinode *v)
{
	assert(!fs->op.open);
	if (!v->dirty)
		return;
	images_free(v);
	stream_clear(fs, v);
	v->linked_seq = fs->running.seq;
	vinode_put(fs, v);
}

int stream_link_now(struct fs *fs, struct vinode *v)
{
	struct fs_inode_omf inode;
	uint64_t ino = v->ino;
	int err;

	if (!v->dirty)
		return 0;
	err = fs_room(fs, v->record_bytes);
	if (err)
		return err;
	v = vinode_find(fs, ino); /* making room may have linked it already, and let it go */
	if (!v || !v->dirty)
		return 0;
	op_begin(fs);
	err = inode_get(fs, v->ino, &inode);
	if (!err)
		err = stream_link(fs, v, &inode);
	if (!err)
		err = inode_put(fs, v->ino, &inode);
	if (err)
		return op_abort(fs, err);
	op_end(fs);
	stream_linked(fs, v);
	return 0;
}

/* A stream that cannot be linked is told to its own fsync and to whoever waits for everything, and lets the others pass. */
static void stream_failed(struct fs *fs, struct vinode *v, int err)
{
	log_error("inode %llu: its changes cannot be committed: %s: %s", (unsigned long long)v->ino, errmsg_get(),
		  strerror(-err));
	v->failed = err;
	v->failed_off = 0;
	v->failed_len = UINT64_MAX;
	v->stuck = true;
	stream_delist(fs, v);
	stream_enlist(fs, v);
	waiters_fail(&fs->all_waiters, err);
}

int streams_link_some(struct fs *fs)
{
	bool some = false;

	while (fs->dirty_streams && fs->dirty_streams->gen <= fs->link_upto) {
		struct vinode *v = fs->dirty_streams;
		int err;

		/* no fs_room here: it polls, and this is called by the poll */
		if (!commit_fits(fs, v->record_bytes)) {
			fs->wanted = fs->running.seq;
			break;
		}
		err = stream_link_now(fs, v);
		if (err == -EAGAIN)
			break;
		if (err)
			stream_failed(fs, v, err);
		some = true;
	}
	return some ? 0 : -EAGAIN;
}

/* ---------------------------------------------------------------- reclaiming */

int fs_reclaim_later(struct fs *fs, uint64_t ino)
{
	if (!fs->op.open)
		return vec_push(&fs->reclaim, ino);
	if (vec_reserve(&fs->reclaim, fs->op.reclaim.n + 1))
		return -ENOMEM;
	return vec_push(&fs->op.reclaim, ino);
}

bool fs_space_coming(const struct fs *fs)
{
	if (fs->flying.seq || fs->running.freed.n || fs->reclaim.n || alloc_pending_blks(fs))
		return true;
	for (const struct vinode *v = fs->dirty_streams; v; v = v->dirty_next)
		if (!v->stuck && (v->staged_count || v->cut != UINT64_MAX))
			return true;
	return false;
}
