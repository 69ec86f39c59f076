/* Every allocation and every fence of the core fails once, in turn: first, second, third ... until a run meets no fault. The
 * run makes, opens, changes, commits, checkpoints, closes and reopens a pool, step by step. A step that fails says so with
 * the right errno and may be repeated when memory is there again; when the core gave up (a commit or a fence that failed),
 * the pool is opened again and holds the state of the last acknowledged step, or of the one that was cut off, whole. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "csum.h"
#include "errmsg.h"
#include "fs/fs.h"
#include "fs/fsck.h"
#include "fs/tree.h"
#include "log.h"
#include "tests/support/faults.h"

#define POOL_BYTES (8u << 20)
#define BLK MEDIA_BLOCK_BYTES
#define FAULTS_MAX 20000u
#define ROUNDS_MAX 20000u
#define LIMIT 120

static struct {
	struct pm pm;
	struct copy *copy;
	struct fs *fs;
	unsigned next; /* step */
	bool formatted;
} t;

static const struct fs_cred cred;
static uint8_t buf[64 * BLK];

/* ---------------------------------------------------------------- the operations of a step */
static void learn_state(void);

#define TRY(expr)                                                                      \
	({                                                                             \
		int try_err;                                                           \
		unsigned try_round = 0;                                                \
		while ((try_err = (expr)) == -EAGAIN && try_round++ < ROUNDS_MAX) {    \
			fs_poll(t.fs);                                                 \
			fs_idle(t.fs);                                                 \
		}                                                                      \
		cr_assert_neq(try_err, -EAGAIN, "%s: waits for ever", #expr);          \
		learn_state();                                                         \
		try_err;                                                               \
	})

struct waiter {
	struct fs_waiter waiter;
	bool done;
	int err;
};

static void waiter_done(struct fs_waiter *waiter, int err)
{
	struct waiter *w = (struct waiter *)waiter;

	w->done = true;
	w->err = err;
}

static int wait_for(struct waiter *w, int err)
{
	for (unsigned round = 0; !err && !w->done; round++) {
		cr_assert_lt(round, ROUNDS_MAX, "a sync without an answer");
		fs_poll(t.fs);
		fs_idle(t.fs);
	}
	return err ? err : w->err;
}

static int sync_all(void)
{
	struct waiter w = { .waiter.done = waiter_done };

	return wait_for(&w, TRY(fs_sync_all(t.fs, &w.waiter)));
}

static int sync_file(uint64_t ino)
{
	struct waiter w = { .waiter.done = waiter_done };

	return wait_for(&w, TRY(fs_sync_inode(t.fs, ino, &w.waiter)));
}

/* A step may be done again after it failed half-way: what is there already is no failure. */
static int create(uint64_t dir, const char *name, mode_t mode, uint64_t *ino)
{
	int err = TRY(fs_create(t.fs, dir, name, mode, 0, &cred, ino));

	return err == -EEXIST ? fs_lookup(t.fs, dir, name, ino) : err;
}

static int again(int err, int done)
{
	return err == done ? 0 : err;
}

static int put(uint64_t ino, uint64_t off, size_t len, uint8_t fill)
{
	size_t done = 0;

	memset(buf, fill, len);
	return TRY(fs_write(t.fs, ino, off, buf, len, &done));
}

static int put_name(const char *name, uint64_t off, size_t len, uint8_t fill)
{
	uint64_t ino;
	int err = fs_lookup(t.fs, FS_ROOT_INO, name, &ino);

	if (!err)
		err = put(ino, off, len, fill);
	return err ? err : sync_file(ino);
}

/* ---------------------------------------------------------------- steps */
static int core_open(void)
{
	struct fs_cfg cfg = { .dirty_now = true };
	int err = copy_open(&t.pm, false, &t.copy);

	if (err)
		return err;
	err = fs_open(t.copy, &cfg, &t.fs);
	if (err) {
		copy_close(t.copy);
		t.copy = NULL;
	}
	return err;
}

static void core_close(void)
{
	fs_close(t.fs);
	copy_close(t.copy);
	t.fs = NULL;
	t.copy = NULL;
}

static int format(void)
{
	struct copy_format fmt = { .hash_seed = 0x5eed, .created_ns = 1, .ring_bytes = MEDIA_RING_BYTES_MIN,
				   .page = { .role = MEDIA_ROLE_PRIMARY, .state = MEDIA_CONSISTENT } };
	struct fs_state_omf state = { .epoch = le64_put(1) };
	struct copy *copy;
	void *rec = NULL;
	uint32_t len;
	int err;

	cr_assert_eq(madvise(t.pm.base, POOL_BYTES, MADV_DONTNEED), 0);
	err = copy_format(&t.pm, &fmt);
	if (err)
		return err;
	err = copy_open(&t.pm, false, &copy);
	if (err)
		return err;
	err = fs_format(copy, &state, 0755, 0, 0, &rec, &len);
	copy_close(copy);
	if (!err)
		free(rec);
	return err;
}

static int step_files(void)
{
	uint64_t a, d, b;
	int err = create(FS_ROOT_INO, "a", S_IFREG | 0644, &a);

	if (!err)
		err = put(a, 0, 3 * BLK, 'a');
	if (!err)
		err = sync_file(a);
	if (!err)
		err = create(FS_ROOT_INO, "d", S_IFDIR | 0755, &d);
	if (!err)
		err = create(d, "b", S_IFREG | 0600, &b);
	return err ? err : put(b, 100, 500, 'b');
}

static int step_overwrite(void)
{
	return put_name("a", BLK + 8, 8, 'A');
}

static int step_names(void)
{
	uint64_t a, d, ino;
	char target[300];
	int err = fs_lookup(t.fs, FS_ROOT_INO, "a", &a);

	if (!err)
		err = fs_lookup(t.fs, FS_ROOT_INO, "d", &d);
	memset(target, 'x', sizeof(target) - 1);
	target[sizeof(target) - 1] = '\0';
	if (!err)
		err = again(TRY(fs_link(t.fs, a, d, "a2")), -EEXIST);
	if (!err)
		err = again(TRY(fs_symlink(t.fs, d, "s", target, &cred, &ino)), -EEXIST);
	if (!err)
		err = again(TRY(fs_rename(t.fs, d, "b", FS_ROOT_INO, "c", 0)), -ENOENT);
	for (char name[8] = "n00"; !err && name[2] <= '9'; name[2]++)
		err = again(TRY(fs_symlink(t.fs, d, name, "t", &cred, &ino)), -EEXIST);
	return err;
}

/* Deep maps: holes, nodes. */
static int step_sparse(void)
{
	uint64_t ino;
	int err = create(FS_ROOT_INO, "sparse", S_IFREG | 0600, &ino);

	if (!err)
		err = put(ino, 10 * BLK, BLK, 's');
	if (!err)
		err = put(ino, 3ull << 20, 40 * BLK, 's');
	if (!err)
		err = put(ino, 1ull << 32, 10, 's');
	if (!err)
		err = TRY(fs_setattr(t.fs, ino, FS_SET_MODE, &(struct stat){ .st_mode = 0400 }));
	return err;
}

static int step_cut(void)
{
	uint64_t ino;
	int err = create(FS_ROOT_INO, "big", S_IFREG | 0600, &ino);

	for (unsigned i = 0; i < 4 && !err; i++)
		err = put(ino, (uint64_t)i * 64 * BLK, 64 * BLK, 'g');
	if (!err)
		err = sync_file(ino);
	if (!err)
		err = TRY(fs_truncate(t.fs, ino, 5 * BLK + 7));
	return err;
}

static int step_remove(void)
{
	uint64_t ino, d;
	int err = fs_lookup(t.fs, FS_ROOT_INO, "d", &d);

	if (err)
		return err;
	if (!fs_lookup(t.fs, FS_ROOT_INO, "sparse", &ino)) {
		err = fs_opened(t.fs, ino);
		if (err)
			return err;
		err = TRY(fs_unlink(t.fs, FS_ROOT_INO, "sparse"));
		fs_released(t.fs, ino);
	}
	if (!err)
		err = again(TRY(fs_unlink(t.fs, d, "s")), -ENOENT);
	return err;
}

static int step_checkpoint(void)
{
	int err = sync_all();

	for (unsigned round = 0; !err && fs_idle(t.fs); round++)
		cr_assert_lt(round, ROUNDS_MAX);
	return err ? err : fs_checkpoint(t.fs);
}

static int step_replace(void)
{
	uint64_t ino;
	int err = create(FS_ROOT_INO, "tmp", S_IFREG | 0600, &ino);

	if (!err)
		err = put(ino, 0, 2 * BLK, 'r');
	return err ? err : TRY(fs_rename(t.fs, FS_ROOT_INO, "tmp", FS_ROOT_INO, "c", 0));
}

static int step_reopen(void)
{
	core_close();
	return core_open();
}

static int (*const steps[])(void) = { step_files, step_overwrite, step_names, step_sparse, step_cut, step_reopen,
				      step_remove, step_checkpoint, step_replace, step_overwrite, step_reopen };
#define STEPS (sizeof(steps) / sizeof(steps[0]))

/* One step and everything of it acknowledged. */
static int step_run(unsigned idx)
{
	int err = steps[idx]();

	return err ? err : sync_all();
}

/* ---------------------------------------------------------------- what is there */
#define STATES_MAX 200u

/* Learned by a run without faults: what the next mount may find is the state after a commit, hence after an operation. */
static struct {
	bool learning;
	unsigned count, after[STEPS + 1]; /* after[i]: behind i steps */
	uint64_t state[STATES_MAX];
} seen;

static uint64_t fold(uint64_t state, const void *bytes, size_t len)
{
	return csum_hash64(bytes, len, state);
}

static uint64_t content_state(uint64_t state, uint64_t ino, uint64_t size)
{
	uint64_t at = 0;
	size_t got;

	while (at < size && !fs_seek(t.fs, ino, at, SEEK_DATA, &at)) {
		cr_assert_eq(fs_read(t.fs, ino, at, buf, BLK - at % BLK, &got), 0, "%s", errmsg_get());
		state = fold(fold(state, &at, sizeof(at)), buf, got);
		at += got;
	}
	return state;
}

/* Names, kinds, modes, links, sizes, content; not times and numbers. */
static uint64_t tree_state(uint64_t dir, uint64_t state)
{
	struct fs_dirent e;
	struct stat st;
	size_t len;

	for (e.cookie = 2; !fs_readdir(t.fs, dir, e.cookie, &e);) {
		cr_assert_eq(fs_getattr(t.fs, e.ino, &st, NULL), 0, "%s: %s", e.name, errmsg_get());
		state = fold(state, e.name, strlen(e.name));
		state = fold(state, &st.st_mode, sizeof(st.st_mode));
		state = fold(state, &st.st_nlink, sizeof(st.st_nlink));
		state = fold(state, &st.st_size, sizeof(st.st_size));
		if (S_ISREG(st.st_mode))
			state = content_state(state, e.ino, (uint64_t)st.st_size);
		if (S_ISLNK(st.st_mode)) {
			cr_assert_eq(fs_readlink(t.fs, e.ino, (char *)buf, sizeof(buf), &len), 0);
			state = fold(state, buf, len);
		}
		if (S_ISDIR(st.st_mode))
			state = tree_state(e.ino, state);
	}
	return state;
}

static uint64_t state_now(void)
{
	return tree_state(FS_ROOT_INO, 1);
}

static void learn_state(void)
{
	if (!seen.learning)
		return;
	cr_assert_lt(seen.count, STATES_MAX);
	seen.state[seen.count++] = state_now();
}

static bool state_known(uint64_t state, unsigned acked)
{
	for (unsigned i = seen.after[acked]; i <= seen.after[acked < STEPS ? acked + 1 : STEPS]; i++)
		if (seen.state[i] == state)
			return true;
	return false;
}

static void check_sound(const char *what, unsigned n)
{
	struct fsck_report report = { 0 };
	int err = step_checkpoint();

	cr_assert_eq(err, 0, "%s %u: checkpoint: %d %s", what, n, err, errmsg_get());
	err = sync_all();
	if (!err)
		err = fs_checkpoint(t.fs);
	cr_assert_eq(err, 0, "%s %u: checkpoint: %d %s", what, n, err, errmsg_get());
	err = fsck_run(t.fs, &report);
	cr_assert_eq(err, 0, "%s %u: fsck: %d %s", what, n, err, errmsg_get());
	cr_assert_eq(report.total, 0, "%s %u: %s", what, n, report.count ? report.lines[0] : "");
	fsck_report_free(&report);
}

/* ---------------------------------------------------------------- a run with one fault */
/* The pool as it is found by the next mount: that of step `acked`, or of the one behind it. */
static void recover(const char *what, unsigned n, unsigned acked)
{
	int err;

	core_close();
	err = core_open();
	cr_assert_eq(err, 0, "%s %u: opened again behind step %u: %d %s", what, n, acked, err, errmsg_get());
	cr_assert(state_known(state_now(), acked), "%s %u: not a state of step %u or the next", what, n, acked);
	check_sound(what, n);
}

/* Whether the run goes on behind a failure of the step. */
static bool survived(const char *what, unsigned n, unsigned step, int err, int expected)
{
	bool open = t.fs;

	cr_assert(err == expected || err == -EIO, "%s %u, step %u: %d %s", what, n, step, err, errmsg_get());
	if (!open)
		return true; /* opening is tried again */
	cr_assert(err == expected || fs_failed(t.fs), "%s %u, step %u: -EIO, and nothing has failed", what, n, step);
	return !fs_failed(t.fs);
}

static int run_format(const char *what, unsigned n, int expected)
{
	int err = format();

	if (err) {
		cr_assert(err == expected || err == -EIO, "%s %u: format: %d %s", what, n, err, errmsg_get());
		err = format();
		cr_assert_eq(err, 0, "%s %u: format again: %d %s", what, n, err, errmsg_get());
	}
	err = core_open();
	if (!err)
		return 0;
	cr_assert_eq(err, expected, "%s %u: open: %d %s", what, n, err, errmsg_get());
	err = core_open();
	cr_assert_eq(err, 0, "%s %u: open again: %d %s", what, n, err, errmsg_get());
	return 0;
}

/* Whoever had a file open was told and has closed it: what could not be written is forgotten, and may be written again. */
static void all_told(uint64_t dir)
{
	struct fs_dirent e;

	for (e.cookie = 2; !fs_readdir(t.fs, dir, e.cookie, &e);) {
		if (e.type == DT_DIR)
			all_told(e.ino);
		if (e.type != DT_REG)
			continue;
		cr_assert_eq(fs_opened(t.fs, e.ino), 0);
		fs_released(t.fs, e.ino);
	}
}

/* Every step, one that failed again; false: the core gave up, and what the pool holds was checked. */
static bool run_steps(const char *what, unsigned n, int expected)
{
	for (unsigned step = 0; step < STEPS; step++) {
		int err = t.fs ? step_run(step) : core_open();

		for (unsigned tries = 0; err && tries < 3; tries++) {
			if (!survived(what, n, step, err, expected)) {
				fault_disarm(NULL);
				recover(what, n, step);
				return false;
			}
			if (t.fs)
				all_told(FS_ROOT_INO);
			err = t.fs ? step_run(step) : core_open();
		}
		cr_assert_eq(err, 0, "%s %u, step %u again: %d %s", what, n, step, err, errmsg_get());
	}
	return true;
}

/* Whether the nth call of the kind failed: if not, there are fewer. */
static bool run(const char *what, enum fault_kind kind, unsigned n, int expected)
{
	bool hit;

	fault_arm(kind, n);
	run_format(what, n, expected);
	if (run_steps(what, n, expected)) {
		fault_disarm(&hit);
		cr_assert_eq(state_now(), seen.state[seen.after[STEPS]], "%s %u: not the state of the last step", what, n);
		check_sound(what, n);
		recover(what, n, STEPS);
	} else {
		hit = true;
	}
	core_close();
	return hit;
}

static void learn(void)
{
	cr_assert_eq(format(), 0, "%s", errmsg_get());
	cr_assert_eq(core_open(), 0, "%s", errmsg_get());
	seen.learning = true;
	learn_state();
	for (unsigned i = 0; i < STEPS; i++) {
		int err = step_run(i);

		cr_assert_eq(err, 0, "step %u: %d %s", i, err, errmsg_get());
		learn_state();
		seen.after[i + 1] = seen.count - 1;
	}
	seen.learning = false;
	core_close();
}

static int fence_fault(enum pm_point point)
{
	(void)point;
	return fault_now(FAULT_FENCE) ? -EIO : 0;
}

static void set_up(void)
{
	void *base = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(base, MAP_FAILED);
	log_open("test", "/dev/null", LOG_LEVEL_ERROR);
	memset(&t, 0, sizeof(t));
	pm_init(&t.pm, base, POOL_BYTES, PM_MEMORY);
	learn();
}

static void tear_down(void)
{
	munmap(t.pm.base, POOL_BYTES);
}

static void run_all(const char *what, enum fault_kind kind, int expected)
{
	unsigned n = 1;

	while (run(what, kind, n, expected))
		cr_assert_lt(n++, FAULTS_MAX);
	cr_expect_gt(n, 20, "%u of %s only", n, what);
	cr_log_info("%s: %u in turn", what, n - 1);
}

TestSuite(faults, .init = set_up, .fini = tear_down, .timeout = LIMIT);

Test(faults, every_allocation_fails_once)
{
	run_all("allocation", FAULT_ALLOC, -ENOMEM);
}

Test(faults, every_fence_fails_once)
{
	t.pm.fail = fence_fault;
	run_all("fence", FAULT_FENCE, -EIO);
}

/* The same in a pool whose fences are msync(2). */
Test(faults, every_msync_fails_once)
{
	t.pm.domain = PM_FILE;
	run_all("msync", FAULT_MAP, -EIO);
}
