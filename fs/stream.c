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

/* Bounds of a stream's share of a record: inode lines, and what a cut adds (up to CUT_TRIM_BLKS frees, the split path's
 * nodes, the orphan that takes the rest). */
#define STREAM_BASE_BYTES 512u
#define STREAM_CUT_BYTES (26u << 10)
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
		HASH_ADD(hh, fs->vinodes, ino, sizeof(v->ino), v);
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

struct staged *stream_find(struct vinode *v, uint64_t fblk)
{
	struct staged *s;

	HASH_FIND(hh, v->staged, &fblk, sizeof(fblk), s);
	return s;
}

/* Takes a staged block out of the stream and frees what it holds. A pushed one may still be on its way to a replica: it waits
 * for the answer to the next commit. */
static void staged_drop(struct fs *fs, struct vinode *v, struct staged *s)
{
	HASH_DEL(v->staged, s);
	if (s->blk) {
		v->staged_blks--;
		if (!s->pushed)
			alloc_undo(fs, s->blk);
		else if (alloc_pend(fs, s->blk, fs->running.seq, 0))
			log_error("block %#llx: leaked until the next mount", (unsigned long long)s->blk);
	}
	free(s->image);
	free(s);
}

void stream_cut(struct fs *fs, struct vinode *v, uint64_t fblk)
{
	struct staged *s, *next;

	HASH_ITER(hh, v->staged, s, next)
		if (s->fblk >= fblk)
			staged_drop(fs, v, s);
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
	v->staged_blks = 0;
	v->dirty = false;
}

void stream_drop(struct fs *fs, struct vinode *v)
{
	struct staged *s, *next;

	if (!v->dirty)
		return;
	HASH_ITER(hh, v->staged, s, next)
		staged_drop(fs, v, s);
	stream_clear(fs, v);
}

void streams_fini(struct fs *fs)
{
	struct vinode *v, *next;

	HASH_ITER(hh, fs->vinodes, v, next) {
		struct staged *s, *snext;

		HASH_ITER(hh, v->staged, s, snext) {
			HASH_DEL(v->staged, s);
			free(s->image);
			free(s);
		}
		HASH_DEL(fs->vinodes, v);
		free(v);
	}
}

/* ---------------------------------------------------------------- linking */

static int staged_by_fblk(const void *a, const void *b)
{
	const struct staged *x = *(struct staged *const *)a, *y = *(struct staged *const *)b;

	return x->fblk < y->fblk ? -1 : x->fblk > y->fblk;
}

/* Cuts the committed map at v->cut. A small rest is freed here; a large one moves to an orphan that is reclaimed in
 * steps, so that the operation stays bounded whatever the file's size. */
static int link_cut(struct fs *fs, struct vinode *v, struct fs_inode_omf *inode)
{
	struct fs_inode_omf tail;
	uint64_t ino;
	bool left;
	int err = map_trim(fs, inode, v->cut, CUT_TRIM_BLKS, &left);

	if (err || !left)
		return err;
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
	if (!err)
		err = vec_reserve(&fs->reclaim, fs->op.reclaim.n + 1);
	return err ? err : vec_push(&fs->op.reclaim, ino);
}

static int link_image(struct fs *fs, const struct fs_inode_omf *inode, const struct staged *s)
{
	struct shadow *shadow;
	uint64_t ptr;
	int err = map_get(fs, inode, s->fblk, &ptr);

	if (!err)
		err = block_edit(fs, ptr & FS_PTR_BLK_MASK, MEDIA_DATA, &shadow);
	return err ? err : block_put(fs, shadow, 0, s->image, MEDIA_BLOCK_BYTES);
}

/* Links a run of neighbouring file blocks and frees what they replace. */
static int link_run(struct fs *fs, struct fs_inode_omf *inode, struct staged *const *run, unsigned count)
{
	uint64_t ptrs[LINK_BATCH_BLKS] = { 0 }, olds[LINK_BATCH_BLKS];
	int err;

	for (unsigned i = 0; i < count; i++)
		ptrs[i] = run[i]->blk;
	err = map_set_run(fs, inode, ALLOC_FREE, run[0]->fblk, count, ptrs, olds);
	for (unsigned i = 0; i < count && !err; i++) {
		err = block_link_data(fs, run[i]->blk, run[i]->csum, run[i]->pushed);
		if (!err && olds[i])
			err = block_free(fs, olds[i] & FS_PTR_BLK_MASK);
	}
	return err;
}

static int link_staged(struct fs *fs, struct vinode *v, struct fs_inode_omf *inode)
{
	size_t n = HASH_COUNT(v->staged), i = 0;
	struct staged **order, *s, *next;
	int err = 0;

	if (n == 0)
		return 0;
	order = malloc(n * sizeof(*order));
	if (!order)
		return -ENOMEM;
	HASH_ITER(hh, v->staged, s, next)
		order[i++] = s;
	qsort(order, n, sizeof(*order), staged_by_fblk);
	for (i = 0; i < n && !err;) {
		unsigned run = 1;

		if (!order[i]->blk) {
			err = link_image(fs, inode, order[i++]);
			continue;
		}
		while (i + run < n && run < LINK_BATCH_BLKS && order[i + run]->blk &&
		       order[i + run]->fblk == order[i]->fblk + run)
			run++;
		err = link_run(fs, inode, order + i, run);
		i += run;
	}
	free(order);
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
	struct staged *s, *next;

	assert(!fs->op.open);
	if (!v->dirty)
		return;
	HASH_ITER(hh, v->staged, s, next) {
		HASH_DEL(v->staged, s);
		free(s->image);
		free(s);
	}
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
	stream_delist(fs, v);
	stream_enlist(fs, v);
	while (fs->all_waiters) {
		struct fs_waiter *waiter = fs->all_waiters;

		fs_waiter_cancel(waiter);
		waiter->done(waiter, err);
	}
}

int streams_link_some(struct fs *fs)
{
	bool some = false;

	while (fs->dirty_streams && fs->dirty_streams->gen <= fs->link_upto) {
		struct vinode *v = fs->dirty_streams;
		uint64_t record_max = FS_RECORD_MAX(fs);
		int err;

		/* no fs_room here: it polls, and this is called by the poll */
		if (fs->running.bytes + v->record_bytes > record_max) {
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
		if (!v->failed && (v->staged || v->cut != UINT64_MAX))
			return true;
	return false;
}
