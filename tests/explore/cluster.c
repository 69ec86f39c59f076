/* See cluster.h. The local pool is a file in /dev/shm, because restore makes it; replicas are sim_link's. All of it is made once
 * a process. Times of the core count on from zero with each mount, and so show only in what a state holds, never in its order. */
#include "cluster.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "cluster_link.h"
#include "errmsg.h"
#include "fs/policy.h"
#include "takeover.h"

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
	struct replication_cfg rc = { .min_replicas = REPLICATION_MIN_RECORDED, .link_open = cluster_link_open };
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

int primary_restore(struct primary *p, bool replace, unsigned away)
{
	struct restore_cfg rc = { .set = p->set, .link_open = cluster_link_open, .quiet = true, .replace = replace,
				  .from = replace ? targets[0]->name : NULL };
	enum restore_exit end;

	away_set(away);
	end = restore_run(&rc);
	return end == RESTORE_DONE ? 0 : end == RESTORE_REFUSED ? -ECANCELED : -EIO;
}

static bool history_at(const struct copy *copy, uint64_t seq, struct hash128 *hash)
{
	const struct copy_rec *rec = copy_find(copy, seq);

	if (!rec && seq != copy_tail(copy).seq)
		return false;
	*hash = rec ? rec->at.hash : copy_tail(copy).hash;
	return true;
}

enum history cluster_histories(const struct copy *a, const struct copy *b)
{
	uint64_t seq = copy_head(a).seq < copy_head(b).seq ? copy_head(a).seq : copy_head(b).seq;
	struct hash128 x, y;

	if (!history_at(a, seq, &x) || !history_at(b, seq, &y))
		return HISTORY_UNKNOWN;
	return memcmp(&x, &y, sizeof(x)) == 0 ? HISTORY_SAME : HISTORY_DIFFERS;
}

/* Bit i: replica i has all that was acknowledged. */
static unsigned who_has(const struct primary *p, uint64_t acked)
{
	unsigned has = 0;

	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++) {
		struct copy *copy = sim_copy_get(targets[i]);

		if (copy && copy_head(copy).seq >= acked && cluster_histories(p->s.copy, copy) != HISTORY_DIFFERS)
			has |= 1u << i;
		if (copy)
			sim_copy_put(targets[i], copy);
	}
	return has;
}

/* Who a copy records as attached lacks nothing that was acknowledged. */
static int members_of(struct primary *p, const struct copy *of, uint64_t acked, unsigned has)
{
	struct fs_state_omf state;

	if (attach_peek_state(of, &state))
		return 0; /* its ring has rotted: it says nothing any more */
	for (uint32_t m = 0; m < le32_get(state.member_count); m++) {
		for (unsigned i = 0; i < CLUSTER_REPLICAS; i++) {
			if (strcmp((const char *)state.members[m].name, targets[i]->name) != 0 ||
			    le32_get(state.members[m].state) != FS_MEMBER_ATTACHED || has >> i & 1)
				continue;
			snprintf(p->s.why, WHY_BYTES, "commit %llu was acknowledged, %s does not have it and is recorded as attached",
				 (unsigned long long)acked, targets[i]->name);
			return -1;
		}
	}
	if ((unsigned)__builtin_popcount(has) >= le32_get(state.min_replicas))
		return 0;
	snprintf(p->s.why, WHY_BYTES, "commit %llu was acknowledged with %d replicas", (unsigned long long)acked,
		 __builtin_popcount(has));
	return -1;
}

int primary_members(struct primary *p)
{
	uint64_t acked = fs_acked_seq(p->s.fs);
	unsigned has;
	int err;

	if (acked <= p->acked)
		return 0;
	p->acked = acked;
	has = who_has(p, acked);
	err = members_of(p, p->s.copy, acked, has);
	for (unsigned i = 0; i < CLUSTER_REPLICAS && !err; i++)
		if (p->r->slots[i].state == SLOT_LIVE && targets[i]->copy)
			err = members_of(p, targets[i]->copy, acked, has);
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
	struct replication_cfg rc = { .min_replicas = 1, .link_open = cluster_link_open };
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
static enum pm_point dropped; /* fences left out */

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

void primary_return(struct primary *p)
{
	away_set(0);
	primary_settle(p); /* who was lost is noticed first: only that makes a time to try again */
	for (unsigned i = 0; i < p->r->slot_count; i++)
		p->r->slots[i].retry_at_ms = 0;
	primary_settle(p);
}

void primary_lose(struct primary *p)
{
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++)
		sim_target_cut(targets[i], -ECONNRESET);
	replication_poll(p->r);
}

/* Nobody who came back is turned away, unless it was released or has another history. */
static int op_return(struct primary *p)
{
	primary_return(p);
	for (unsigned i = 0; i < p->r->slot_count; i++) {
		const struct slot *slot = &p->r->slots[i];

		if (slot->state == SLOT_LIVE || slot->member == FS_MEMBER_RELEASED)
			continue;
		snprintf(p->s.why, WHY_BYTES, "replica %u came back and is not taken: %s", i, slot->reason);
		return -1;
	}
	return 0;
}

static unsigned away_now(void)
{
	return targets[0]->unreachable | (unsigned)targets[1]->unreachable << 1;
}

/* Acknowledged like a sync: from then on the pool mounts. */
static int op_restore(struct primary *p, unsigned idx)
{
	struct trace_watch *w = &watches[TRACE_LOCAL];
	int err;

	primary_kill(p);
	unlink(p->part);
	trace_wipe(w->trace, TRACE_LOCAL);
	pm_observer_new = &w->observer;
	err = primary_restore(p, false, 0);
	pm_observer_new = NULL;
	if (!err)
		trace_mark(p->s.trace, TRACE_ACK, idx);
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
		err = op_restore(p, idx);
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

void cluster_watch(struct trace *trace)
{
	trace_watch(&watches[TRACE_LOCAL], trace, TRACE_LOCAL, dropped, NULL);
	watches[TRACE_LOCAL].observer.flushed = brought;
	pm_observer_new = &watches[TRACE_LOCAL].observer;
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++)
		trace_watch(&watches[TRACE_REPLICA + i], trace, TRACE_REPLICA + i, dropped, &targets[i]->pm);
}

void cluster_unwatch(void)
{
	pm_observer_new = NULL;
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++)
		targets[i]->pm.observer = NULL;
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
	dropped = drop;
	cluster_link_trace(&run->trace, w->eager);
	cluster_watch(&run->trace);
	EXPLORE_MUST(primary_mount(p, 0));
	pm_observer_new = NULL;
	model_observe(&run->model, p->s.fs, -1);
	for (unsigned i = 0; i < w->count && !err; i++) {
		err = cluster_op(p, &w->ops[i], i);
		if (!err)
			err = p->bad;
		run->state_after[i] = (unsigned)run->model.states.n - 1;
	}
	if (!err && w->takeover) {
		size_t before = run->trace.events.n;

		unlink(second.part);
		err = takeover(p, &second, run, bytes);
		unlink(second.part);
		run->trace.events.n = before; /* crashes of the primary are of the time before */
	}
	cluster_unwatch();
	cluster_link_trace(NULL, w->eager);
	primary_kill(p);
	return err;
}
