/* See pools.h. */
#include "pools.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "errmsg.h"
#include "fs/fs.h"
#include "fs/tree.h"

#define RING_BYTES MEDIA_RING_BYTES_MIN
#define BLK MEDIA_BLOCK_BYTES

static struct pool_image images[POOLS];
static const struct fs_cred cred;

/* The pool being made. */
static struct {
	struct pm pm;
	struct copy *copy;
	struct fs *fs;
} p;

/* What the core refuses here is a fault of this file. */
#define MUST(expr)                                                                                            \
	do {                                                                                                  \
		int must_err = (expr);                                                                        \
		if (must_err) {                                                                               \
			fprintf(stderr, "%s:%d: %s: %d %s\n", __FILE__, __LINE__, #expr, must_err, errmsg_get()); \
			abort();                                                                              \
		}                                                                                             \
	} while (0)
#define DO(expr) MUST(POOLS_TRY(p.fs, expr))

/* ---------------------------------------------------------------- making */

struct sync_waiter {
	struct fs_waiter waiter;
	bool done;
	int err;
};

static void sync_done(struct fs_waiter *waiter, int err)
{
	struct sync_waiter *w = (struct sync_waiter *)waiter;

	w->done = true;
	w->err = err;
}

int pools_sync(struct fs *fs)
{
	struct sync_waiter w = { .waiter.done = sync_done };
	int err = POOLS_TRY(fs, fs_sync_all(fs, &w.waiter));

	for (unsigned round = 0; !err && !w.done && round < POOLS_ROUNDS_MAX; round++) {
		fs_poll(fs);
		fs_idle(fs);
	}
	if (!err && !w.done) {
		fs_waiter_cancel(&w.waiter);
		return -EAGAIN;
	}
	return err ? err : w.err;
}

static void core_open(void)
{
	struct fs_cfg cfg = { .dirty_now = true };

	MUST(copy_open(&p.pm, false, &p.copy));
	MUST(fs_open(p.copy, &cfg, &p.fs));
}

/* As a process that is killed. */
static void core_close(void)
{
	fs_close(p.fs);
	copy_close(p.copy);
}

static void members_fill(struct fs_state_omf *state)
{
	static const char *const names[] = { "local", "near", "far" };

	state->member_count = le32_put(3);
	state->min_replicas = le32_put(1);
	for (unsigned i = 0; i < 3; i++) {
		struct fs_member_omf *m = &state->members[i];

		memcpy(m->name, names[i], strlen(names[i]));
		m->state = le32_put(i + 1 < 3 ? FS_MEMBER_ATTACHED : FS_MEMBER_DETACHED);
		m->mode = le32_put(1);
		m->mark = le64_put(i);
	}
}

static void pool_format(struct pool_image *image, bool members)
{
	struct copy_format fmt = { .hash_seed = 0x5eed, .created_ns = 1, .ring_bytes = RING_BYTES,
				   .page = { .role = MEDIA_ROLE_PRIMARY, .state = MEDIA_CONSISTENT } };
	struct fs_state_omf state = { .epoch = le64_put(1) };
	void *base, *rec;
	uint32_t len;

	image->fd = memfd_create("pool", MFD_CLOEXEC);
	MUST(image->fd < 0 || ftruncate(image->fd, POOLS_BYTES));
	base = mmap(NULL, POOLS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, image->fd, 0);
	MUST(base == MAP_FAILED);
	pm_init(&p.pm, base, POOLS_BYTES, PM_MEMORY);
	MUST(copy_format(&p.pm, &fmt));
	MUST(copy_open(&p.pm, false, &p.copy));
	if (members)
		members_fill(&state);
	MUST(fs_format(p.copy, &state, 0755, 0, 0, &rec, &len));
	free(rec);
	copy_close(p.copy);
}

static uint64_t make(uint64_t dir, const char *name, mode_t mode)
{
	uint64_t ino = 0;

	DO(fs_create(p.fs, dir, name, mode, 7, &cred, &ino));
	return ino;
}

static void put(uint64_t ino, uint64_t off, size_t len, uint8_t fill)
{
	static uint8_t buf[64 * BLK];
	size_t done = 0;

	memset(buf, fill, len);
	DO(fs_write(p.fs, ino, off, buf, len, &done));
}

static void settle(void)
{
	MUST(pools_sync(p.fs));
	MUST(fs_checkpoint(p.fs));
}

static void fill_links(uint64_t dir, uint64_t ino, unsigned count, unsigned name_len)
{
	char name[FS_NAME_BYTES_MAX + 1];

	memset(name, 'n', sizeof(name));
	name[name_len] = '\0';
	for (unsigned i = 0; i < count; i++) {
		char digits[8];

		snprintf(digits, sizeof(digits), "%05u", i);
		memcpy(name, digits, strlen(digits));
		DO(fs_link(p.fs, ino, dir, name));
	}
}

static void fill_files(void)
{
	uint64_t dir = make(FS_ROOT_INO, "dir", S_IFDIR | 0755), sub = make(dir, "sub", S_IFDIR | 0700), ino;
	char target[1000];

	ino = make(FS_ROOT_INO, "small", S_IFREG | 0644);
	put(ino, 0, 100, 1);
	ino = make(FS_ROOT_INO, "blocks", S_IFREG | 0644);
	put(ino, 0, 10 * BLK, 2);
	fill_links(dir, ino, 40, 200);
	ino = make(FS_ROOT_INO, "sparse", S_IFREG | 0600);
	put(ino, 3 * BLK, BLK, 3);
	put(ino, 4ull << 20, 2 * BLK, 3);
	put(ino, 1ull << 40, BLK, 3);
	make(FS_ROOT_INO, "fifo", S_IFIFO | 0600);
	make(sub, "device", S_IFCHR | 0600);
	memset(target, 't', sizeof(target) - 1);
	target[sizeof(target) - 1] = '\0';
	DO(fs_symlink(p.fs, sub, "long", target, &cred, &ino));
	DO(fs_symlink(p.fs, sub, "short", "../blocks", &cred, &ino));
}

/* Inodes that a mount before left: free ones, one still open when its name went, the cut-off part of another. */
static void fill_orphans(void)
{
	uint64_t ino = make(FS_ROOT_INO, "open", S_IFREG | 0644), big = make(FS_ROOT_INO, "big", S_IFREG | 0644);

	put(ino, 0, 20 * BLK, 4);
	for (unsigned i = 0; i < 12; i++)
		put(big, (uint64_t)i * 64 * BLK, 64 * BLK, 5);
	make(FS_ROOT_INO, "gone-a", S_IFREG | 0644);
	make(FS_ROOT_INO, "gone-b", S_IFREG | 0644);
	DO(fs_unlink(p.fs, FS_ROOT_INO, "gone-a"));
	DO(fs_unlink(p.fs, FS_ROOT_INO, "gone-b"));
	settle();
	while (fs_idle(p.fs))
		;
	MUST(fs_opened(p.fs, ino));
	MUST(fs_opened(p.fs, big));
	DO(fs_unlink(p.fs, FS_ROOT_INO, "open"));
	DO(fs_unlink(p.fs, FS_ROOT_INO, "big"));
	DO(fs_truncate(p.fs, big, BLK));
	MUST(pools_sync(p.fs));
	MUST(fs_checkpoint(p.fs));
}

/* Commits that stay in the ring: lines of metadata and of data, links, frees, a block freed and given out again. */
static void fill_ring(void)
{
	uint64_t ino = make(FS_ROOT_INO, "new", S_IFREG | 0644), small;

	put(ino, 0, 6 * BLK, 6);
	MUST(pools_sync(p.fs));
	MUST(fs_lookup(p.fs, FS_ROOT_INO, "small", &small));
	put(small, 8, 8, 7);
	MUST(pools_sync(p.fs));
	DO(fs_rename(p.fs, FS_ROOT_INO, "new", FS_ROOT_INO, "small", 0));
	MUST(pools_sync(p.fs));
	put(ino, 0, 6 * BLK, 8);
	make(FS_ROOT_INO, "later", S_IFDIR | 0755);
	MUST(pools_sync(p.fs));
	DO(fs_truncate(p.fs, ino, 100));
	DO(fs_unlink(p.fs, FS_ROOT_INO, "fifo"));
	MUST(pools_sync(p.fs));
}

/* Commits until the records between tail and head go over the ring's end. */
static void fill_wrap(void)
{
	uint64_t ino = make(FS_ROOT_INO, "f", S_IFREG | 0644), last = 0;

	for (unsigned i = 0;; i++) {
		const struct copy_rec *rec;

		put(ino, (uint64_t)(i % 8) * BLK, 9 * BLK, (uint8_t)i);
		make(FS_ROOT_INO, (char[]){ (char)('a' + i / 26 % 26), (char)('a' + i % 26), '\0' }, S_IFREG | 0600);
		MUST(pools_sync(p.fs));
		rec = copy_find(p.copy, copy_head(p.copy).seq);
		if (!rec || rec->pos < last)
			break;
		last = rec->pos;
		if (rec->pos + 4 * rec->len < RING_BYTES)
			MUST(fs_checkpoint(p.fs));
	}
	MUST(pools_sync(p.fs));
}

/* ---------------------------------------------------------------- looking */

static void used_note(struct pool_image *image, uint64_t blk)
{
	for (unsigned i = 0; i < image->used_count; i++)
		if (image->used[i] == blk)
			return;
	MUST(image->used_count == POOLS_BLKS_MAX);
	image->used[image->used_count++] = blk;
}

static void records_note(struct pool_image *image)
{
	static _Alignas(64) uint8_t buf[RING_BYTES / REDO_RING_SHARE];
	struct redo_view v;

	for (uint64_t seq = image->tail.seq + 1; seq <= copy_head(p.copy).seq; seq++) {
		const struct copy_rec *rec = copy_find(p.copy, seq);

		MUST(image->rec_count == POOLS_RECS_MAX);
		image->recs[image->rec_count++] = *rec;
		copy_rec_read(p.copy, rec, buf);
		MUST(redo_parse(buf, rec->len, &image->geom, &v));
		for (uint32_t i = 0; i < v.line_blks; i++)
			used_note(image, le64_get(v.lines[i].blk));
	}
}

static void image_note(struct pool_image *image)
{
	struct copy_entry entry;

	MUST(copy_open(&p.pm, true, &p.copy));
	image->geom = *copy_geom(p.copy);
	image->tail = copy_tail(p.copy);
	for (uint64_t blk = image->geom.group0_blk + MEDIA_GROUP_META_BLKS; blk < image->geom.blk_count; blk++) {
		MUST(copy_entry_get(p.copy, blk, &entry));
		if (entry.type == MEDIA_FREE)
			continue;
		used_note(image, blk);
		if (entry.type >= MEDIA_META_FIRST)
			image->meta[image->meta_count++] = blk;
	}
	records_note(image);
	copy_close(p.copy);
}

void pools_make(void)
{
	for (unsigned i = 0; i < POOLS; i++) {
		pool_format(&images[i], i == 4);
		if (i) {
			core_open();
			if (i == 3)
				fill_links(make(FS_ROOT_INO, "d", S_IFDIR | 0755), make(FS_ROOT_INO, "f", S_IFREG | 0644),
					   3000, 255);
			else if (i == 4)
				fill_wrap();
			else
				fill_files();
			if (i == 1 || i == 2)
				fill_orphans();
			if (i == 2)
				fill_ring();
			if (i == 3)
				settle();
			core_close();
		}
		image_note(&images[i]);
		munmap(p.pm.base, POOLS_BYTES);
	}
}

const struct pool_image *pools_get(unsigned idx)
{
	return &images[idx];
}
