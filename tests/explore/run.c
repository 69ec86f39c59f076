/* See run.h. Every operation goes to the file system first; then the links it made on its own and the operation itself go to
 * the model, and what programs see is compared. The trace says where in between the pools were when. */
#include "run.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include "errmsg.h"
#include "fs/stream.h"
#include "run_impl.h"

#define WAIT_MAX 20000u  /* polls without an end: stuck */
#define HELD_MAX 16u     /* polls until a held replica is let go */
#define WRITE_BYTES_MAX (64u << 10)

/* ---------------------------------------------------------------- waiting */

static bool session_poll(struct session *s)
{
	if (!s->poll)
		return fs_poll(s->fs);
	s->poll(s);
	return false;
}

/* Between two tries of something that has to wait. -ETIMEDOUT: nothing will come of it. */
static int wait_more(struct session *s, unsigned *tries)
{
	if (++*tries == HELD_MAX)
		session_hold(s, false);
	session_poll(s);
	return *tries < WAIT_MAX ? 0 : errmsg_set(-ETIMEDOUT, "still waiting after %u polls", WAIT_MAX);
}

#define TRY(s, expr)                                                                                                   \
	({                                                                                                             \
		unsigned try_count = 0;                                                                                \
		int try_err;                                                                                           \
		while ((try_err = (expr)) == -EAGAIN && (try_err = wait_more(s, &try_count)) == 0)                     \
			;                                                                                              \
		try_err;                                                                                               \
	})

static void sync_done(struct fs_waiter *waiter, int err)
{
	struct sync_wait *w = (struct sync_wait *)waiter;

	w->done = true;
	w->err = err;
	if (!err)
		trace_mark(w->trace, TRACE_ACK, w->op);
}

static int sync_wait(struct session *s, struct sync_wait *w)
{
	unsigned tries = 0;
	int err = 0;

	while (!w->done && !err)
		err = wait_more(s, &tries);
	return err ? err : w->err;
}

/* ---------------------------------------------------------------- operations on the file system */

static int resolve_dir(struct fs *fs, const char *path, uint64_t *dir, const char **name)
{
	char part[MODEL_NAME_BYTES];

	assert(*path == '/');
	*dir = FS_ROOT_INO;
	for (path++;; path += strlen(part) + 1) {
		const char *slash = strchr(path, '/');
		int err;

		if (!slash) {
			*name = path;
			return 0;
		}
		snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
		err = fs_lookup(fs, *dir, part, dir);
		if (err)
			return err;
	}
}

static int resolve(struct session *s, const char *path, uint64_t *ino)
{
	const char *name;
	uint64_t dir;
	int err;

	if (!strcmp(path, OP_HANDLE)) {
		*ino = s->handle_ino;
		return s->handle >= 0 ? 0 : -EBADF;
	}
	err = resolve_dir(s->fs, path, &dir, &name);
	if (err)
		return err;
	*ino = dir;
	return *name ? fs_lookup(s->fs, dir, name, ino) : 0;
}

/* Programs reach these only on regular files: the kernel refuses the rest. */
static int resolve_file(struct session *s, const char *path, uint64_t *ino)
{
	struct stat st;
	int err = resolve(s, path, ino);

	if (!err)
		err = fs_getattr(s->fs, *ino, &st, NULL);
	if (err)
		return err;
	return S_ISREG(st.st_mode) ? 0 : S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
}

static void fill(uint8_t *buf, unsigned op, uint64_t off, uint64_t len)
{
	for (uint64_t i = 0; i < len; i++)
		buf[i] = (uint8_t)((op + 1) * 37 + (off + i) * 11 + (off + i) / 256);
}

static int do_names(struct session *s, const struct op *op, uint64_t *ino)
{
	static const struct fs_cred cred;
	uint64_t dir, to_dir, from;
	const char *name, *to;
	int err = resolve_dir(s->fs, op->path, &dir, &name);

	if (!err && op->kind == OP_LINK)
		err = resolve(s, op->path, &from);
	if (!err && (op->kind == OP_LINK || op->kind == OP_RENAME || op->kind == OP_EXCHANGE))
		err = resolve_dir(s->fs, op->to, &to_dir, &to);
	if (err)
		return err;
	switch (op->kind) {
	case OP_CREATE:
		return TRY(s, fs_create(s->fs, dir, name, S_IFREG | 0644, 0, &cred, ino));
	case OP_MKDIR:
		return TRY(s, fs_create(s->fs, dir, name, S_IFDIR | 0755, 0, &cred, ino));
	case OP_SYMLINK:
		return TRY(s, fs_symlink(s->fs, dir, name, op->to, &cred, ino));
	case OP_LINK:
		return TRY(s, fs_link(s->fs, from, to_dir, to));
	case OP_UNLINK:
		return TRY(s, fs_unlink(s->fs, dir, name));
	case OP_RMDIR:
		return TRY(s, fs_rmdir(s->fs, dir, name));
	default:
		return TRY(s, fs_rename(s->fs, dir, name, to_dir, to, op->kind == OP_EXCHANGE ? RENAME_EXCHANGE : 0));
	}
}

static int do_content(struct session *s, const struct op *op, unsigned idx)
{
	uint8_t buf[WRITE_BYTES_MAX];
	struct stat st = { .st_mode = (mode_t)op->len };
	size_t done = 0;
	uint64_t ino;
	int err = op->kind == OP_CHMOD ? resolve(s, op->path, &ino) : resolve_file(s, op->path, &ino);

	if (err)
		return err;
	switch (op->kind) {
	case OP_WRITE:
		fill(buf, idx, op->off, op->len);
		return TRY(s, fs_write(s->fs, ino, op->off, buf, op->len, &done));
	case OP_TRUNCATE:
		return TRY(s, fs_truncate(s->fs, ino, op->off));
	case OP_CHMOD:
		return TRY(s, fs_setattr(s->fs, ino, FS_SET_MODE, &st));
	default: /* OP_OPEN */
		if (s->handle >= 0)
			return -EBUSY;
		s->handle_ino = ino;
		return fs_opened(s->fs, ino);
	}
}

static int do_sync(struct session *s, const struct op *op, unsigned idx)
{
	struct sync_wait *w = &s->waits[idx];
	uint64_t ino;
	int err = op->kind == OP_SYNC_ALL ? 0 : resolve(s, op->path, &ino);

	*w = (struct sync_wait){ .waiter.done = sync_done, .trace = s->trace, .op = idx };
	if (!err)
		err = op->kind == OP_SYNC_ALL ? TRY(s, fs_sync_all(s->fs, &w->waiter)) :
						TRY(s, fs_sync_inode(s->fs, ino, &w->waiter));
	if (err || op->kind == OP_FSYNC_START)
		return err;
	return sync_wait(s, w);
}

static int do_rest(struct session *s, const struct op *op)
{
	switch (op->kind) {
	case OP_CLOSE:
		if (s->handle >= 0)
			fs_released(s->fs, s->handle_ino);
		return 0;
	case OP_IDLE:
		for (unsigned i = 0; i < WAIT_MAX && (fs_idle(s->fs) || session_poll(s)); i++)
			;
		return 0;
	case OP_CHECKPOINT:
		return fs_checkpoint(s->fs);
	default: /* OP_HOLD, OP_RELEASE */
		session_hold(s, op->kind == OP_HOLD);
		return 0;
	}
}

/* ---------------------------------------------------------------- the same on the model */

static int model_path(const struct session *s, const struct op *op)
{
	if (!op->path)
		return -ENOENT;
	return !strcmp(op->path, OP_HANDLE) ? s->handle >= 0 ? s->handle : -EBADF : model_find(s->model, op->path);
}

static int model_content(struct session *s, const struct op *op, unsigned idx)
{
	uint8_t buf[WRITE_BYTES_MAX];
	int inode = model_path(s, op);
	mode_t mode;

	if (inode < 0)
		return inode;
	mode = s->model->inodes[inode].mode;
	if (op->kind == OP_CHMOD) {
		model_chmod(s->model, inode, (mode_t)op->len);
		return 0;
	}
	if (!S_ISREG(mode))
		return S_ISDIR(mode) ? -EISDIR : -EINVAL;
	if (op->kind == OP_TRUNCATE) {
		model_truncate(s->model, inode, op->off);
	} else if (op->kind == OP_WRITE) {
		fill(buf, idx, op->off, op->len);
		model_write(s->model, inode, op->off, buf, op->len);
	} else {
		if (s->handle >= 0)
			return -EBUSY;
		s->handle = inode;
	}
	return 0;
}

static int model_sync(struct session *s, const struct op *op)
{
	int inode = op->kind == OP_SYNC_ALL ? 0 : model_path(s, op);

	if (inode < 0)
		return inode;
	if (op->kind == OP_SYNC_ALL)
		model_link_all(s->model);
	else
		model_link_content(s->model, inode);
	return 0;
}

static int model_op(struct session *s, const struct op *op, unsigned idx, uint64_t ino)
{
	switch (op->kind) {
	case OP_CREATE:
		return model_create(s->model, op->path, S_IFREG | 0644, NULL, ino);
	case OP_MKDIR:
		return model_create(s->model, op->path, S_IFDIR | 0755, NULL, ino);
	case OP_SYMLINK:
		return model_create(s->model, op->path, S_IFLNK | 0777, op->to, ino);
	case OP_LINK:
		return model_link(s->model, op->path, op->to);
	case OP_UNLINK:
	case OP_RMDIR:
		return model_unlink(s->model, op->path, op->kind == OP_RMDIR);
	case OP_RENAME:
	case OP_EXCHANGE:
		return model_rename(s->model, op->path, op->to, op->kind == OP_EXCHANGE);
	case OP_WRITE:
	case OP_TRUNCATE:
	case OP_CHMOD:
	case OP_OPEN:
		return model_content(s, op, idx);
	case OP_FSYNC:
	case OP_FSYNC_START:
	case OP_SYNC_ALL:
		return model_sync(s, op);
	case OP_CLOSE:
		s->handle = -1;
		return 0;
	default:
		return 0;
	}
}

/* ---------------------------------------------------------------- one operation on both */

/* Streams as they are before an operation: those that are gone or new behind it were linked on the way. */
static void streams_note(struct session *s)
{
	for (unsigned i = 0; i < MODEL_INODES_MAX; i++) {
		struct vinode *v = s->model->inodes[i].pending ? vinode_find(s->fs, s->model->inodes[i].ino) : NULL;

		s->gens[i] = v && v->dirty ? v->gen : 0;
	}
}

/* The core links on its own when a stream's share of the ring is used up or space is short. Links that the operation
 * itself has to make are the model's business. */
static void streams_linked(struct session *s, int one, int two)
{
	for (;;) {
		int oldest = -1;

		for (int i = 0; i < (int)MODEL_INODES_MAX; i++) {
			const struct model_inode *n = &s->model->inodes[i];
			struct vinode *v = n->used && n->pending ? vinode_find(s->fs, n->ino) : NULL;

			if (!n->used || !n->pending || i == one || i == two || (v && v->dirty && v->gen == s->gens[i]))
				continue;
			if (oldest < 0 || n->order < s->model->inodes[oldest].order)
				oldest = i;
		}
		if (oldest < 0)
			return;
		model_link_content(s->model, oldest);
	}
}

static bool links_explicitly(const struct op *op)
{
	return op->kind == OP_RENAME || op->kind == OP_EXCHANGE || op->kind == OP_LINK || op->kind == OP_CHMOD ||
	       op_syncs(op);
}

static int fs_op(struct session *s, const struct op *op, unsigned idx, uint64_t *ino)
{
	if (op->kind <= OP_EXCHANGE)
		return do_names(s, op, ino);
	if (op->kind <= OP_OPEN)
		return do_content(s, op, idx);
	return op_syncs(op) ? do_sync(s, op, idx) : do_rest(s, op);
}

static int differs(struct session *s, const struct op *op, const char *what, const char *got, const char *want)
{
	char line[128];

	op_print(op, line, sizeof(line));
	snprintf(s->why, RUN_WHY_BYTES, "running: %s: %s\n--- got\n%.3000s\n--- model\n%.3000s", line, what, got, want);
	return -1;
}

static int compare_seen(struct session *s, const struct op *op)
{
	char *got, *want = model_seen(s->model);
	int err = view_walk(s->fs, false, &got);

	if (err) {
		err = differs(s, op, "walk failed", errmsg_get(), want);
	} else {
		if (strcmp(got, want) != 0)
			err = differs(s, op, "another tree", got, want);
		free(got);
	}
	free(want);
	return err;
}

/* The inode that loses a name while its content is not linked: its ctime changes at once. */
static int loses_name(struct session *s, const struct op *op)
{
	return op->kind == OP_UNLINK ? model_find(s->model, op->path) : -1;
}

int session_op(struct session *s, const struct op *op, unsigned idx)
{
	char got[96], want[96];
	int loser = loses_name(s, op), one = -1, two = -1, err, model_err;
	uint64_t ino = 0;

	if (links_explicitly(op)) {
		one = model_path(s, op);
		two = op->kind == OP_RENAME || op->kind == OP_EXCHANGE ? model_find(s->model, op->to) : -1;
	}
	streams_note(s);
	trace_mark(s->trace, TRACE_OP, idx);
	err = fs_op(s, op, idx, &ino);
	if (op->kind != OP_SYNC_ALL)
		streams_linked(s, one, two);
	model_err = model_op(s, op, idx, ino);
	if (err != model_err) {
		snprintf(got, sizeof(got), "%d %.80s", err, errmsg_get());
		snprintf(want, sizeof(want), "%d", model_err);
		return differs(s, op, "another result", got, want);
	}
	model_observe(s->model, s->fs, loser);
	model_state(s->model);
	return compare_seen(s, op);
}

/* ---------------------------------------------------------------- a whole workload */

int run_workload(struct run *run, const struct workload *w, const struct run_start *start, enum pm_point drop)
{
	struct session s;
	int err = 0;

	model_free(&run->model);
	model_copy(&run->model, &start->model);
	trace_clear(&run->trace);
	session_begin(&s, start, w, &run->trace, &run->model, drop, run->why);
	model_observe(&run->model, s.fs, -1);
	for (unsigned i = 0; i < w->count && !err; i++) {
		err = session_op(&s, &w->ops[i], i);
		run->state_after[i] = (unsigned)run->model.states.n - 1;
	}
	run->dropped = session_end(&s);
	return err;
}

static bool event_equal(const struct trace_event *a, const struct trace_event *b)
{
	return a->type == b->type && a->pool == b->pool && a->point == b->point && a->off == b->off && a->len == b->len &&
	       a->bytes == b->bytes && a->op == b->op;
}

bool run_begins_as(const struct run *run, const struct run *other, unsigned ops)
{
	const struct trace *a = &run->trace, *b = &other->trace;
	unsigned states = other->state_after[ops - 1] + 1;

	if (a->events.n < b->events.n || a->arena.n < b->arena.n || run->model.states.n < states)
		return false;
	for (size_t i = 0; i < b->events.n; i++)
		if (!event_equal(&a->events.v[i], &b->events.v[i]))
			return false;
	for (unsigned i = 0; i < states; i++)
		if (strcmp(run->model.states.v[i], other->model.states.v[i]) != 0)
			return false;
	return (!b->arena.n || !memcmp(a->arena.v, b->arena.v, b->arena.n)) &&
	       !memcmp(run->state_after, other->state_after, ops * sizeof(*run->state_after));
}

void run_free(struct run *run)
{
	trace_free(&run->trace);
	model_free(&run->model);
}
