/* The core as a whole: opening on a recovered copy, closing, clocks, and the reclaiming of orphans. */
#include "fs.h"

#include <errno.h>
#include <string.h>
#include "errmsg.h"
#include "fs_impl.h"
#include "log.h"
#include "plant.h"

#define REPLAY_STEP_BYTES (4u << 20)

struct copy *fs_copy(struct fs *fs)
{
	return fs->copy;
}

uint64_t fs_hash_seed(const struct fs *fs)
{
	return fs->hash_seed;
}

uint64_t fs_root_blk(const struct fs *fs)
{
	return fs->root_blk;
}

uint64_t fs_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct timespec fs_now(struct fs *fs)
{
	struct timespec ts;

	if (fs->cfg.dirty_now) {
		fs->fake_ns++;
		return (struct timespec){ (time_t)(fs->fake_ns / 1000000000u), (long)(fs->fake_ns % 1000000000u) };
	}
	clock_gettime(CLOCK_REALTIME, &ts);
	return ts;
}

/* ---------------------------------------------------------------- opening */

/* Applies records in place, as far as no copy needs them in the ring any more. */
static int replay(struct copy *copy, const struct fs_cfg *cfg)
{
	uint64_t upto = copy_head(copy).seq, least = UINT64_MAX;

	if (cfg->read_only)
		return 0;
	if (cfg->repl)
		least = cfg->repl->min_acked(cfg->repl_ctx);
	if (least < upto)
		upto = least;
	while (copy_tail(copy).seq < upto) {
		int err = copy_checkpoint(copy, upto, REPLAY_STEP_BYTES);

		if (err)
			return errmsg_prefix(err, "replay");
	}
	return 0;
}

/* Every orphan of the state block's list is reclaimed by this mount. */
static int orphans_collect(struct fs *fs)
{
	const struct fs_state_omf *state;
	struct fs_inode_omf inode;
	uint64_t ino, count = 0, max;
	int err = state_get(fs, &state);

	if (err)
		return err;
	ino = le64_get(state->orphan_head);
	max = le64_get(state->ino_count);
	while (ino) {
		if (++count > max)
			return errmsg_set(-EUCLEAN, "orphan list: longer than the number of inodes: it has a loop");
		err = inode_get(fs, ino, &inode);
		if (err)
			return errmsg_prefix(err, "orphan list, inode %llu", (unsigned long long)ino);
		err = vec_push(&fs->reclaim, ino);
		if (err)
			return err;
		ino = le64_get(inode.orphan_next);
	}
	return 0;
}

static int state_load(struct fs *fs)
{
	const struct fs_state_omf *state;
	int err = state_get(fs, &state);

	if (err)
		return errmsg_prefix(err, "state block");
	fs->epoch = le64_get(state->epoch);
	if (fs->epoch < copy_head(fs->copy).epoch) /* every record carries that of its state block */
		return errmsg_set(-EUCLEAN, "state block: epoch %llu, but the newest record's is %llu",
				  (unsigned long long)fs->epoch, (unsigned long long)copy_head(fs->copy).epoch);
	return 0;
}

/* Everything but content: memory, allocator, commits. */
static int fs_new(struct copy *copy, const struct fs_cfg *cfg, struct fs **out)
{
	struct fs *fs = calloc(1, sizeof(*fs));
	int err;

	if (!fs)
		return -ENOMEM;
	fs->copy = copy;
	fs->pm = copy_pm(copy);
	fs->geom = *copy_geom(copy);
	fs->root_blk = le64_get(copy_sb(copy)->root_blk);
	fs->hash_seed = le64_get(copy_sb(copy)->hash_seed);
	fs->cfg = *cfg;
	if (!fs->cfg.push_bytes_min)
		fs->cfg.push_bytes_min = FS_PUSH_BYTES_MIN;
	fs->dirty_end = &fs->dirty_streams;
	err = blocks_init(fs);
	if (!err)
		err = alloc_init(fs);
	if (!err)
		err = commit_init(fs);
	if (err) {
		fs_close(fs);
		return err;
	}
	*out = fs;
	return 0;
}

int fs_open(struct copy *copy, const struct fs_cfg *cfg, struct fs **out)
{
	struct fs *fs;
	int err = replay(copy, cfg);

	if (!err && copy_head(copy).seq == 0)
		err = errmsg_set(-EMEDIUMTYPE, "no file system: formatting was not finished");
	if (!err)
		err = fs_new(copy, cfg, &fs);
	if (err)
		return err;
	err = records_load(fs);
	if (!err)
		err = state_load(fs);
	if (!err && !cfg->read_only)
		err = orphans_collect(fs);
	if (err) {
		fs_close(fs);
		return err;
	}
	*out = fs;
	return 0;
}

void fs_close(struct fs *fs)
{
	if (!fs)
		return;
	streams_fini(fs);
	blocks_fini(fs);
	op_fini(fs);
	commit_fini(fs);
	alloc_fini(fs);
	vec_free(&fs->reclaim);
	free(fs);
}

/* ---------------------------------------------------------------- formatting */

static int root_make(struct fs *fs, mode_t mode, uid_t uid, gid_t gid)
{
	struct timespec now = fs_now(fs);
	struct fs_inode_omf inode;
	uint64_t ino;
	int err = inode_new(fs, S_IFDIR | (mode & 07777), ALLOC_META, &ino, &inode);

	if (err)
		return err;
	if (ino != FS_ROOT_INO)
		return errmsg_set(-EUCLEAN, "root directory got inode %llu", (unsigned long long)ino);
	inode.nlink = le32_put(2);
	inode.uid = le32_put(uid);
	inode.gid = le32_put(gid);
	inode.parent = le64_put(FS_ROOT_INO);
	inode.mtime = inode.ctime = inode.btime = inode.atime = le64_put((uint64_t)now.tv_sec);
	inode.mtime_ns = inode.ctime_ns = inode.btime_ns = inode.atime_ns = le32_put((uint32_t)now.tv_nsec);
	return inode_put(fs, ino, &inode);
}

static int content_make(struct fs *fs, const struct fs_state_omf *initial, mode_t mode, uid_t uid, gid_t gid)
{
	struct fs_state_omf state = *initial;
	struct shadow *shadow;
	uint64_t blk;
	int err;

	memcpy(state.magic, FS_STATE_MAGIC, sizeof(state.magic));
	state.version = le32_put(1);
	state.itab_height = le32_put(0);
	state.itab_root = state.ino_free = state.orphan_head = state.ino_count = le64_put(0);
	state.ino_next = le64_put(FS_ROOT_INO);
	op_begin(fs);
	err = block_new(fs, ALLOC_META, FS_STATE, &blk, &shadow);
	if (!err && blk != fs->root_blk)
		err = errmsg_set(-EUCLEAN, "state block got block %#llx", (unsigned long long)blk);
	if (!err)
		err = block_put(fs, shadow, 0, &state, sizeof(state));
	if (!err)
		err = root_make(fs, mode, uid, gid);
	if (err)
		return op_abort(fs, err);
	op_end(fs);
	return 0;
}

int fs_format(struct copy *copy, const struct fs_state_omf *initial, mode_t root_mode, uid_t uid, gid_t gid, void **rec,
	      uint32_t *len)
{
	const struct copy_rec *r;
	struct fs_cfg cfg = { 0 };
	struct fs *fs;
	int err = fs_new(copy, &cfg, &fs);

	if (err)
		return err;
	err = content_make(fs, initial, root_mode, uid, gid);
	if (!err)
		err = commit_close(fs);
	if (err)
		goto close;
	r = copy_find(copy, 1);
	*rec = malloc(r->len);
	if (!*rec) {
		err = -ENOMEM;
		goto close;
	}
	copy_rec_read(copy, r, *rec);
	*len = r->len;
close:
	fs_close(fs);
	return err;
}

/* ---------------------------------------------------------------- orphans */

/* Whether the inode is still to go: it may have been opened since it lost its name (the last close puts it on the list
 * again), or it is gone already, and its number may belong to another file. */
static bool orphan_waits(struct fs *fs, uint64_t ino)
{
	const struct vinode *v = vinode_find(fs, ino);
	struct fs_inode_omf inode;
	int err = inode_get(fs, ino, &inode);

	if (err || !(le32_get(inode.flags) & FS_INODE_ORPHAN))
		return err && err != -ESTALE; /* damage is told by the step */
	return !v || !v->handles || PLANTED(PLANT_ORPHAN);
}

static void reclaim_drop_first(struct fs *fs)
{
	memmove(fs->reclaim.v, fs->reclaim.v + 1, --fs->reclaim.n * sizeof(*fs->reclaim.v));
}

/* One step of the oldest orphan. True when there is more to do now. */
bool orphans_step(struct fs *fs)
{
	uint64_t ino = fs->reclaim.v[0];
	struct vinode *v = vinode_find(fs, ino);
	bool done = false;
	int err;

	if (!orphan_waits(fs, ino)) {
		reclaim_drop_first(fs);
		return fs->reclaim.n > 0;
	}
	if (v)
		stream_drop(fs, v);
	err = fs_room(fs, FS_OP_RECORD_BYTES);
	if (!err)
		err = orphan_step(fs, ino, &done);
	if (err == -EAGAIN)
		return false;
	if (err)
		log_error("inode %llu: not reclaimed before the next mount: %s: %s", (unsigned long long)ino, errmsg_get(),
			  strerror(-err));
	if (err || done) {
		reclaim_drop_first(fs);
		v = vinode_find(fs, ino);
		if (v) {
			v->failed = 0; /* nobody is left to be told, and the number may come to another file */
			vinode_put(fs, v);
		}
	}
	return fs->reclaim.n > 0;
}
