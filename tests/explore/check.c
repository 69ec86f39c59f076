/* See check.h. */
#include "check.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "errmsg.h"
#include "fs/fsck.h"

#define POLLS_MAX 20000u
#define NEW_NAME "new after recovery"
#define NEW_BYTES 5000u

struct opened {
	struct copy *copy;
	struct fs *fs;
};

static int failed(char *why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int failed(char *why, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, CHECK_WHY_BYTES, fmt, args);
	va_end(args);
	return -1;
}

static int failed_call(char *why, const char *what, int err)
{
	failed(why, "%s: %s: %s", what, strerror(-err), errmsg_get());
	return -1;
}

/* ---------------------------------------------------------------- recovery */

static int image_open(struct image *image, struct opened *o, const char **what)
{
	const struct fs_cfg cfg = { .dirty_now = true };
	int err = copy_open(&image->pm, false, &o->copy);

	*what = "copy_open";
	if (err)
		return err;
	*what = "fs_open";
	err = fs_open(o->copy, &cfg, &o->fs);
	if (err)
		copy_close(o->copy);
	return err;
}

static void image_close(struct opened *o)
{
	fs_close(o->fs);
	copy_close(o->copy);
}

void check_recover(struct image *image)
{
	struct opened o;
	const char *what;

	if (image_open(image, &o, &what) == 0)
		image_close(&o);
}

/* ---------------------------------------------------------------- work */

struct done_waiter {
	struct fs_waiter waiter;
	bool done;
	int err;
};

static void sync_done(struct fs_waiter *waiter, int err)
{
	struct done_waiter *w = (struct done_waiter *)waiter;

	w->done = true;
	w->err = err;
}

static int sync_all(struct fs *fs)
{
	struct done_waiter w = { .waiter.done = sync_done };
	int err = -EAGAIN;

	for (unsigned i = 0; i < POLLS_MAX && err == -EAGAIN; i++) {
		err = fs_sync_all(fs, &w.waiter);
		fs_poll(fs);
	}
	for (unsigned i = 0; i < POLLS_MAX && !err && !w.done; i++)
		fs_poll(fs);
	if (err)
		return err;
	if (!w.done)
		fs_waiter_cancel(&w.waiter);
	return w.done ? w.err : errmsg_set(-ETIMEDOUT, "never acknowledged");
}

static int idle(struct fs *fs)
{
	for (unsigned i = 0; i < POLLS_MAX; i++)
		if (!fs_idle(fs) && !fs_poll(fs))
			return 0;
	return errmsg_set(-ETIMEDOUT, "background work without an end");
}

#define AGAIN(fs, expr)                                                                                                \
	({                                                                                                             \
		int again_err = -EAGAIN;                                                                               \
		for (unsigned again_i = 0; again_i < POLLS_MAX && again_err == -EAGAIN; again_i++) {                   \
			again_err = (expr);                                                                            \
			if (again_err == -EAGAIN)                                                                      \
				fs_poll(fs);                                                                           \
		}                                                                                                      \
		again_err;                                                                                             \
	})

/* What a program could do next: space comes back, a file is made, written and synced. */
static int new_work(struct fs *fs, const char **what)
{
	static const struct fs_cred cred;
	uint8_t bytes[NEW_BYTES];
	size_t done = 0;
	uint64_t ino;
	int err = idle(fs);

	*what = "idle after recovery";
	memset(bytes, 0xa5, sizeof(bytes));
	if (err)
		return err;
	*what = "create after recovery";
	err = AGAIN(fs, fs_create(fs, FS_ROOT_INO, NEW_NAME, S_IFREG | 0644, 0, &cred, &ino));
	if (err)
		return err;
	*what = "write after recovery";
	err = AGAIN(fs, fs_write(fs, ino, 0, bytes, sizeof(bytes), &done));
	if (err)
		return err;
	*what = "sync after recovery";
	return sync_all(fs);
}

/* ---------------------------------------------------------------- verdicts */

int check_states(struct fs *fs, const struct model *m, unsigned first, unsigned last, unsigned *found, char *why)
{
	char *got;
	int err = view_walk(fs, true, &got);
	unsigned at;

	if (err)
		return failed_call(why, "walk after recovery", err);
	for (at = first; at <= last && strcmp(got, m->states.v[at]) != 0; at++)
		;
	if (at > last) {
		for (at = 0; at < m->states.n && strcmp(got, m->states.v[at]) != 0; at++)
			;
		failed(why, "recovered state %s (%u), allowed are %u..%u\n--- recovered\n%.2000s--- first allowed\n%.2000s"
		       "--- last allowed\n%.2000s", at < m->states.n ? "is one of another time" : "never was", at, first, last,
		       got, m->states.v[first], m->states.v[last]);
		free(got);
		return -1;
	}
	free(got);
	if (found)
		*found = at;
	return 0;
}

static int check_format(struct fs *fs, char *why)
{
	struct fsck_report report = { 0 };
	int err = idle(fs);

	if (!err)
		err = sync_all(fs);
	if (!err)
		err = fs_checkpoint(fs);
	if (err)
		return failed_call(why, "settling before fsck", err);
	err = fsck_run(fs, &report);
	if (err)
		failed_call(why, "fsck", err);
	else if (report.total)
		err = failed(why, "fsck: %llu findings, first: %s", (unsigned long long)report.total, report.lines[0]);
	fsck_report_free(&report);
	return err;
}

/* What was synced after recovery is there when it is opened once more. */
static int check_reopen(struct image *image, const char *text, char *why)
{
	struct opened o;
	const char *what;
	char *again;
	int err = image_open(image, &o, &what);

	if (err)
		return failed(why, "opened again after new work: %s: %s: %s", what, strerror(-err), errmsg_get());
	err = view_walk(o.fs, true, &again);
	if (err) {
		failed_call(why, "walk when opened again", err);
	} else {
		if (strcmp(again, text) != 0)
			err = failed(why, "opened again: another state\n--- now\n%.3000s--- before\n%.3000s", again, text);
		free(again);
	}
	if (!err)
		err = check_format(o.fs, why);
	image_close(&o);
	return err;
}

int check_image(struct image *image, const struct model *m, unsigned first, unsigned last, unsigned *found, char *why)
{
	struct opened o;
	const char *what;
	char *text = NULL;
	int err = image_open(image, &o, &what);

	if (err)
		return failed_call(why, what, err);
	err = check_states(o.fs, m, first, last, found, why);
	if (!err) {
		err = new_work(o.fs, &what);
		if (!err) {
			what = "walk after new work";
			err = view_walk(o.fs, true, &text);
		}
		if (err)
			err = failed_call(why, what, err);
	}
	image_close(&o);
	if (!err)
		err = check_reopen(image, text, why);
	free(text);
	return err ? -1 : 0;
}
