/* See cluster.h. The local pool is a file in /dev/shm, because restore makes it; replicas are sim_link's. All of it is made once
 * a process. Times of the core count on from zero with each mount, and so show only in what a state holds, never in its order. */
#include "cluster.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "errmsg.h"
#include "fs/policy.h"

#define STEPS_MAX 20000u
#define WHY_BYTES RUN_WHY_BYTES

static struct primary first, second; /* second: that of a takeover */
static struct sim_target *targets[CLUSTER_REPLICAS];
static uint8_t *start_bytes[TRACE_POOLS];
static struct model start_model;
static struct trace no_trace;
static char no_why[WHY_BYTES];

static char dir[32]; /* of all processes' local pools */

void cluster_init(void)
{
	snprintf(dir, sizeof(dir), "/dev/shm/explore.XXXXXX");
	EXPLORE_MUST(mkdtemp(dir) ? 0 : -errno);
}

void cluster_fini(void)
{
	DIR *d = opendir(dir);
	const struct dirent *entry;

	while (d && (entry = readdir(d)) != NULL)
		(void)unlinkat(dirfd(d), entry->d_name, 0); /* "." and ".." stay */
	if (d)
		closedir(d);
	(void)rmdir(dir);
}

struct primary *cluster_primary(void)
{
	return &first;
}

struct sim_target *cluster_target(unsigned i)
{
	return targets[i];
}

/* ---------------------------------------------------------------- links that are traced */

static const struct repl_link_ops *sim_ops;

/* One-sided writes pass the target's persist layer by. */
static int traced_push(struct repl_link *link, const struct repl_range *ranges, unsigned count)
{
	int err = sim_ops->push(link, ranges, count);

	for (unsigned i = 0; i < CLUSTER_REPLICAS && !err; i++)
		for (unsigned k = 0; k < count && !strcmp(targets[i]->name, link->name) && targets[i]->pm.observer; k++)
			trace_push(first.s.trace, TRACE_REPLICA + i, ranges[k].off, ranges[k].src, ranges[k].len);
	return err;
}

static int link_open(const struct poolset_replica *replica, const struct repl_cfg *cfg, struct repl_link **out)
{
	static struct repl_link_ops ops;
	int err = sim_link_open(replica, cfg, out);

	if (err)
		return err;
	if (!sim_ops) {
		sim_ops = (*out)->ops;
		ops = *sim_ops;
		ops.push = traced_push;
	}
	(*out)->ops = &ops;
	return 0;
}

/* ---------------------------------------------------------------- a primary */

static void primary_make(struct primary *p, const char *name)
{
	char text[256];

	EXPLORE_MUST(dir[0] ? 0 : -ENOENT);
	snprintf(p->part, sizeof(p->part), "%s/%d.%s", dir, getpid(), name);
	snprintf(text, sizeof(text), "PMEMPOOLSET\n%lluM %s\nREPLICA h1 a.set\nREPLICA h2 b.set\n",
		 (unsigned long long)(RUN_POOL_BYTES >> 20), p->part);
	EXPLORE_MUST(poolset_parse("cluster.set", text, strlen(text), &p->set));
}

static void away_set(unsigned away)
{
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++) {
		targets[i]->unreachable = away >> i & 1;
		targets[i]->die_before = targets[i]->die_after = 0;
	}
}

static void primary_poll(struct session *s)
{
	struct primary *p = (struct primary *)((char *)s - offsetof(struct primary, s));

	replication_poll(p->r);
	fs_poll(s->fs);
	if (!p->bad)
		p->bad = primary_members(p);
}

void primary_settle(struct primary *p)
{
	for (unsigned i = 0; i < STEPS_MAX; i++) {
		bool moved = replication_poll(p->r);

		if (!(fs_poll(p->s.fs) | moved))
			return;
	}
	EXPLORE_MUST(-ETIMEDOUT);
}

int primary_mount(struct primary *p, unsigned away)
{
	struct replication_cfg rc = { .min_replicas = REPLICATION_MIN_RECORDED, .link_open = link_open };
	struct fs_cfg fc = { .repl = &replication_ops, .dirty_now = true };
	int err;

	away_set(away);
	err = pool_open(p->set, 0, 0, &p->pool);
	if (!err)
		err = copy_open(&p->pool->pm, false, &p->s.copy);
	if (!err)
		err = replication_open(p->set, &rc, &p->r);
	if (err)
		return err;
	replication_wait(p->r, 1000);
	err = replication_compare(p->r, p->s.copy);
	fc.repl_ctx = p->r;
	if (!err)
		err = fs_open(p->s.copy, &fc, &p->s.fs);
	if (!err)
		err = replication_start(p->r, p->s.fs);
	if (err)
		return err;
	p->s.poll = primary_poll;
	p->s.handle = -1;
	p->acked = 0;
	primary_settle(p);
	return 0;
}

/* The process ends: nothing that it still had to send goes out. */
void primary_kill(struct primary *p)
{
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++)
		sim_target_cut(targets[i], -ECONNRESET);
	replication_close(p->r);
	if (p->s.fs)
		fs_close(p->s.fs);
	copy_close(p->s.copy);
	pool_close(p->pool);
	p->r = NULL;
	p->s.fs = NULL;
	p->s.copy = NULL;
	p->pool = NULL;
}

int primary_restore(struct primary *p, bool replace)
{
	struct restore_cfg rc = { .set = p->set, .link_open = link_open, .quiet = true, .replace = replace,
				  .from = replace ? targets[0]->name : NULL };
	enum restore_exit end;

	away_set(0);
	end = restore_run(&rc);
	return end == RESTORE_DONE ? 0 : end == RESTORE_REFUSED ? -ECANCELED : -EIO;
}

/* Who one copy records as attached lacks nothing that was acknowledged. */
static int members_of(struct primary *p, const struct copy *of, uint64_t acked)
{
	struct fs_state_omf state;

	EXPLORE_MUST(attach_peek_state(of, &state));
	for (uint32_t m = 0; m < le32_get(state.member_count); m++) {
		for (unsigned i = 0; i < CLUSTER_REPLICAS; i++) {
			struct copy *copy;
			uint64_t head;

			if (strcmp((const char *)state.members[m].name, targets[i]->name) != 0 ||
			    le32_get(state.members[m].state) != FS_MEMBER_ATTACHED)
				continue;
			copy = sim_copy_get(targets[i]);
			EXPLORE_MUST(copy ? 0 : -EBADMSG);
			head = copy_head(copy).seq;
			sim_copy_put(targets[i], copy);
			if (head >= acked)
				continue;
			snprintf(p->s.why, WHY_BYTES, "commit %llu was acknowledged, %s has %llu and is recorded as attached",
				 (unsigned long long)acked, targets[i]->name, (unsigned long long)head);
			return -1;
		}
	}
	return 0;
}

int primary_members(struct primary *p)
{
	uint64_t acked = fs_acked_seq(p->s.fs);
	int err;

	if (acked <= p->acked)
		return 0;
	p->acked = acked;
	err = members_of(p, p->s.copy, acked);
	for (unsigned i = 0; i < CLUSTER_REPLICAS && !err; i++)
		if (p->r->slots[i].state == SLOT_LIVE && targets[i]->copy)
			err = members_of(p, targets[i]->copy, acked);
	return err;
}

/* ---------------------------------------------------------------- pools */

static void part_write(const uint8_t *bytes)
{
	int fd = open(first.part, O_RDWR | O_CREAT | O_TRUNC, 0600);

	EXPLORE_MUST(fd < 0 ? -errno : 0);
	EXPLORE_MUST(write(fd, bytes, RUN_POOL_BYTES) == (ssize_t)RUN_POOL_BYTES ? 0 : -EIO);
	close(fd);
}

void cluster_put(enum trace_pool pool, const uint8_t *bytes)
{
	if (pool != TRACE_LOCAL)
		memcpy(targets[pool - TRACE_REPLICA]->pm.base, bytes, RUN_POOL_BYTES);
	else if (bytes)
		part_write(bytes);
	else
		unlink(first.part);
}

static uint8_t *pool_bytes(const void *base)
{
	uint8_t *bytes = malloc(RUN_POOL_BYTES);

	EXPLORE_MUST(bytes ? 0 : -ENOMEM);
	memcpy(bytes, base, RUN_POOL_BYTES);
	return bytes;
}

/* ---------------------------------------------------------------- made once */

static void format(struct primary *p)
{
	struct pool_attr attr = { .signature = POOLHDR_FS_SIGNATURE, .major = POOLHDR_FS_MAJOR };
	struct copy_format fmt = { .hash_seed = 0x5eed, .created_ns = 1, .ring_bytes = MEDIA_RING_BYTES_MIN,
				   .page = { .role = MEDIA_ROLE_PRIMARY, .state = MEDIA_CONSISTENT } };
	struct replication_cfg rc = { .min_replicas = 1, .link_open = link_open };
	struct fs_state_omf state = { .magic = "" };
	struct replication_made *made;
	struct copy *copy;
	uint32_t len;
	void *rec;

	EXPLORE_MUST(replication_plan(p->set, 1, fmt.page.instance, &state));
	fmt.page.fence_epoch = le64_get(state.epoch);
	memcpy(fmt.page.fence_id, state.epoch_id, sizeof(fmt.page.fence_id));
	EXPLORE_MUST(pool_create(p->set, 0, &attr, 0, &p->pool));
	EXPLORE_MUST(copy_format(&p->pool->pm, &fmt));
	EXPLORE_MUST(copy_open(&p->pool->pm, false, &copy));
	EXPLORE_MUST(fs_format(copy, &state, 0755, 0, 0, &rec, &len));
	EXPLORE_MUST(replication_make(p->set, &rc, copy_pm(copy)->len, false, &made));
	EXPLORE_MUST(replication_format(made, copy, &state, rec, len));
	replication_made_close(made);
	free(rec);
	copy_close(copy);
	pool_close(p->pool);
	p->pool = NULL;
}

static void setup(struct primary *p)
{
	p->s.trace = &no_trace;
	p->s.model = &start_model;
	p->s.why = no_why;
	EXPLORE_MUST(primary_mount(p, 0));
	for (unsigned i = 0; i < workload_setup_count; i++)
		EXPLORE_MUST(session_op(&p->s, &workload_setup[i], 0) ? errmsg_set(-EINVAL, "%.200s", no_why) : 0);
	EXPLORE_MUST(fs_checkpoint(p->s.fs));
	primary_settle(p);
	start_bytes[TRACE_LOCAL] = pool_bytes(p->pool->pm.base);
	primary_kill(p);
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++)
		start_bytes[TRACE_REPLICA + i] = pool_bytes(targets[i]->pm.base);
}

static void make(void)
{
	static const char *const names[] = { "a", "b" };

	if (first.set)
		return;
	primary_make(&first, "1");
	primary_make(&second, "2");
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++)
		targets[i] = sim_target_add(names[i], RUN_POOL_BYTES);
	model_init(&start_model);
	format(&first);
	setup(&first);
	unlink(first.part);
}

void cluster_start(const uint8_t *bytes[TRACE_POOLS], const struct model **model)
{
	make();
	for (unsigned i = 0; i < TRACE_POOLS; i++)
		bytes[i] = start_bytes[i];
	*model = &start_model;
}

/* ---------------------------------------------------------------- a workload */

static struct trace_watch watches[TRACE_POOLS];

static int op_lose(struct primary *p, const struct op *op)
{
	struct sim_target *t = targets[op->off];

	t->unreachable = true;
	if (op->len == 0)
		sim_target_cut(t, -ECONNRESET);
	else if (op->len == 1)
		t->die_before = copy_head(p->s.copy).seq + 1;
	else
		t->die_after = copy_head(p->s.copy).seq + 1;
	primary_settle(p);
	return 0;
}

static int op_return(struct primary *p)
{
	away_set(0);
	for (unsigned i = 0; i < p->r->slot_count; i++)
		p->r->slots[i].retry_at_ms = 0;
	primary_settle(p);
	return 0;
}

static unsigned away_now(void)
{
	return targets[0]->unreachable | (unsigned)targets[1]->unreachable << 1;
}

static int op_restore(struct primary *p)
{
	struct trace_watch *w = &watches[TRACE_LOCAL];
	int err;

	primary_kill(p);
	unlink(p->part);
	trace_wipe(w->trace, TRACE_LOCAL);
	pm_observer_new = &w->observer;
	err = primary_restore(p, false);
	pm_observer_new = NULL;
	return err;
}

static int cluster_op(struct primary *p, const struct op *op, unsigned idx)
{
	int err = 0;

	if (op->kind < OP_LOSE)
		return session_op(&p->s, op, idx);
	trace_mark(p->s.trace, TRACE_OP, idx);
	if (op->kind == OP_LOSE)
		err = op_lose(p, op);
	else if (op->kind == OP_RETURN)
		err = op_return(p);
	else if (op->kind == OP_REMOUNT)
		primary_kill(p);
	else
		err = op_restore(p);
	if (op->kind != OP_REMOUNT && op->kind != OP_RESTORE)
		return err;
	pm_observer_new = &watches[TRACE_LOCAL].observer;
	if (!err)
		err = primary_mount(p, away_now());
	pm_observer_new = NULL;
	if (err)
		snprintf(p->s.why, WHY_BYTES, "running: operation %u: %s: %.400s", idx, strerror(-err), errmsg_get());
	return err ? -1 : 0;
}

/* What reads of other copies brought to the local pool is stored when it is flushed. */
static void brought(void *ctx, uint64_t off, uint64_t len)
{
	struct trace_watch *w = ctx;
	uint8_t *bytes = malloc(len);
	int fd = open(first.part, O_RDONLY);

	EXPLORE_MUST(fd < 0 || !bytes ? -EIO : 0);
	EXPLORE_MUST(pread(fd, bytes, len, (off_t)off) == (ssize_t)len ? 0 : -EIO);
	w->observer.stored(w, off, bytes, len);
	close(fd);
	free(bytes);
}

static void watch(struct trace *trace, enum pm_point drop)
{
	trace_watch(&watches[TRACE_LOCAL], trace, TRACE_LOCAL, drop, NULL);
	watches[TRACE_LOCAL].observer.flushed = brought;
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++)
		trace_watch(&watches[TRACE_REPLICA + i], trace, TRACE_REPLICA + i, drop, &targets[i]->pm);
}

/* ---------------------------------------------------------------- another primary */

struct late_sync {
	struct fs_waiter waiter;
	bool acknowledged;
};

static void late_done(struct fs_waiter *waiter, int err)
{
	((struct late_sync *)waiter)->acknowledged = err == 0;
}

/* The old primary goes on as if nothing had happened: it reconnects, changes and syncs. */
static bool old_goes_on(struct primary *p)
{
	static const struct fs_cred cred;
	struct late_sync sync = { .waiter.done = late_done };
	bool made = false, asked = false;
	uint64_t ino;

	for (unsigned i = 0; i < 200; i++) {
		for (unsigned k = 0; k < p->r->slot_count; k++)
			p->r->slots[k].retry_at_ms = 0;
		replication_poll(p->r);
		fs_poll(p->s.fs);
		if (!made)
			made = fs_create(p->s.fs, FS_ROOT_INO, "late", S_IFREG | 0644, 0, &cred, &ino) == 0;
		if (made && !asked)
			asked = fs_sync_all(p->s.fs, &sync.waiter) == 0;
	}
	if (asked)
		fs_waiter_cancel(&sync.waiter);
	return made && sync.acknowledged;
}

/* Restored elsewhere while this primary lives: from then on it changes no copy and acknowledges nothing. */
static int takeover(struct primary *old, struct run *run)
{
	uint8_t *before[CLUSTER_REPLICAS];
	int err;

	op_return(old);
	unlink(second.part);
	old->pool->pm.observer = NULL;
	err = primary_restore(&second, false);
	if (err) {
		snprintf(run->why, WHY_BYTES, "restore over a living primary: %.400s", errmsg_get());
		return -1;
	}
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++)
		before[i] = pool_bytes(targets[i]->pm.base);
	if (old_goes_on(old)) {
		snprintf(run->why, WHY_BYTES, "an old primary acknowledged after a restore elsewhere");
		err = -1;
	}
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++) {
		if (!err && memcmp(before[i], targets[i]->pm.base, RUN_POOL_BYTES) != 0) {
			snprintf(run->why, WHY_BYTES, "an old primary changed a fenced copy");
			err = -1;
		}
		free(before[i]);
	}
	unlink(second.part);
	return err;
}

/* ---------------------------------------------------------------- all of it */

int cluster_workload(struct run *run, const struct workload *w, enum pm_point drop)
{
	const uint8_t *bytes[TRACE_POOLS];
	const struct model *model;
	struct primary *p = &first;
	int err = 0;

	cluster_start(bytes, &model);
	for (unsigned i = 0; i < TRACE_POOLS; i++)
		cluster_put(i, bytes[i]);
	model_free(&run->model);
	model_copy(&run->model, model);
	trace_clear(&run->trace);
	p->s.trace = &run->trace;
	p->s.model = &run->model;
	p->s.why = run->why;
	p->bad = 0;
	watch(&run->trace, drop);
	pm_observer_new = &watches[TRACE_LOCAL].observer;
	EXPLORE_MUST(primary_mount(p, 0));
	pm_observer_new = NULL;
	model_observe(&run->model, p->s.fs, -1);
	for (unsigned i = 0; i < w->count && !err; i++) {
		err = cluster_op(p, &w->ops[i], i);
		if (!err)
			err = p->bad;
		run->state_after[i] = (unsigned)run->model.states.n - 1;
	}
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++)
		targets[i]->pm.observer = NULL;
	if (!err && w->takeover)
		err = takeover(p, run);
	primary_kill(p);
	return err;
}
