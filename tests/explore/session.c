/* Pools, core and link of a run; and the starts. The replica is rpmemd's engine behind real lane messages (sim_link): what
 * fs_repl_ops asks for goes to it as a mount's policy would send it, with one replica that is always attached. */
#include "run_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include "errmsg.h"
#include "fs/alloc.h"
#include "pages.h"
#include "repl.h"
#include "tests/support/sim_link.h"

#define REPLICA_NAME "replica"
#define RING_END_BYTES (3u << 10)  /* the next record starts this close to the end */
#define RING_SEAM_BYTES (64u << 10) /* more than pairs and triples put into a ring */
#define TIGHT_BLKS 40u             /* free blocks beside those kept back */
#define FILL_STEP_BYTES (16u << 10)
#define PUT_CHECK 512u             /* of so many runs one is made sure to start from what it should */

static struct pm local_pm;        /* one for all runs of the process */
static struct sim_target *target; /* the same */

/* What a pool holds while no run is under way: between two runs from the same start only what the first one stored to is put
 * back. */
static struct pool_state {
	const uint8_t *bytes; /* NULL: anything */
	struct pages stored;
	unsigned runs;
} states[2];              /* of TRACE_LOCAL, TRACE_REPLICA */

static void pools_make(void)
{
	void *base;

	if (target)
		return;
	base = pages_memory(RUN_POOL_BYTES);
	pm_init(&local_pm, base, RUN_POOL_BYTES, PM_MEMORY);
	target = sim_target_add(REPLICA_NAME, RUN_POOL_BYTES);
	for (unsigned i = 0; i < 2; i++) {
		pages_make(&states[i].stored, RUN_POOL_BYTES);
		states[i].bytes = NULL;
	}
}

void run_pools_free(void)
{
	if (!target)
		return;
	sim_targets_free();
	target = NULL;
	munmap(local_pm.base, local_pm.len);
	for (unsigned i = 0; i < 2; i++)
		pages_free(&states[i].stored);
}

/* Every store was seen: now and then that is looked at. */
static void pool_put(enum trace_pool pool, struct pm *pm, const uint8_t *bytes)
{
	struct pool_state *state = &states[pool];

	if (state->bytes == bytes)
		pages_put_back(&state->stored, pm->base, bytes);
	else
		pages_become(pm->base, bytes, RUN_POOL_BYTES);
	pages_clear(&state->stored);
	state->bytes = bytes;
	if (state->runs++ % PUT_CHECK == 0)
		EXPLORE_MUST(memcmp(pm->base, bytes, RUN_POOL_BYTES) ? -EUCLEAN : 0);
}

static void pools_stored(const struct trace *trace)
{
	for (size_t i = 0; i < trace->events.n; i++) {
		const struct trace_event *e = &trace->events.v[i];

		if (e->type == TRACE_STORE || e->type == TRACE_PUSH)
			pages_add(&states[e->pool].stored, e->off, e->len);
	}
}

/* ---------------------------------------------------------------- replication */

static void link_poll(struct session *s)
{
	EXPLORE_MUST(s->link->ops->poll(s->link) == REPL_UP ? 0 : errmsg_set(-EIO, "%s", s->link->err_text));
	if (s->link->acked > s->answered) {
		s->answered = s->link->acked;
		trace_mark(s->trace, TRACE_ANSWER, s->answered);
	}
}

static void repl_post(void *ctx, const struct repl_commit *commit)
{
	struct session *s = ctx;

	trace_mark(s->trace, TRACE_POST, commit->seq);
	EXPLORE_MUST(s->link->ops->commit(s->link, commit));
	if (s->eager)
		link_poll(s);
}

static bool repl_push(void *ctx, uint64_t off, const void *src, uint32_t len)
{
	struct session *s = ctx;
	struct repl_range range = { .off = off, .len = len, .src = src };

	if (s->link->ops->push(s->link, &range, 1))
		return false;
	trace_push(s->trace, TRACE_REPLICA, off, src, len);
	return true;
}

static uint64_t repl_acked(void *ctx)
{
	struct session *s = ctx;

	link_poll(s);
	return s->link->acked;
}

static uint64_t repl_min_acked(void *ctx)
{
	return ((struct session *)ctx)->link->acked;
}

static uint64_t repl_min_tail(void *ctx)
{
	return ((struct session *)ctx)->link->tail_seq;
}

static void repl_checkpointed(void *ctx, uint64_t seq)
{
	struct session *s = ctx;

	EXPLORE_MUST(s->link->ops->checkpoint(s->link, seq));
}

static const struct fs_repl_ops repl_ops = {
	.post = repl_post, .push = repl_push, .durable = repl_acked, .ackable = repl_acked, .min_acked = repl_min_acked,
	.min_tail = repl_min_tail, .checkpointed = repl_checkpointed,
};

void session_hold(struct session *s, bool hold)
{
	if (!s->link)
		return;
	target->hold = hold;
}

/* ---------------------------------------------------------------- life */

static void link_open(struct session *s, const uint8_t *bytes, enum pm_point drop)
{
	const struct poolset_replica replica = { .name = REPLICA_NAME };
	const struct repl_cfg cfg = { 0 };

	pool_put(TRACE_REPLICA, &target->pm, bytes);
	EXPLORE_MUST(sim_link_open(&replica, &cfg, &s->link));
	target->hold = false;
	link_poll(s);
	s->answered = s->link->acked;
	trace_watch(&s->watch[TRACE_REPLICA], s->trace, TRACE_REPLICA, drop, &target->pm);
}

void session_begin(struct session *s, const struct run_start *start, const struct workload *w, struct trace *trace,
		  struct model *model, enum pm_point drop, char *why)
{
	struct fs_cfg cfg = { .dirty_now = true };

	pools_make();
	local_pm.domain = target->pm.domain = w->file ? PM_FILE : PM_MEMORY;
	local_pm.range_count = target->pm.range_count = 0;
	memset(s, 0, sizeof(*s));
	s->trace = trace;
	s->model = model;
	s->why = why;
	s->handle = -1;
	s->eager = w->eager;
	s->pm = &local_pm;
	pool_put(TRACE_LOCAL, s->pm, start->bytes[TRACE_LOCAL]);
	if (w->replica) {
		link_open(s, start->bytes[TRACE_REPLICA], drop);
		cfg.repl = &repl_ops;
		cfg.repl_ctx = s;
	}
	EXPLORE_MUST(copy_open(s->pm, false, &s->copy));
	trace_watch(&s->watch[TRACE_LOCAL], trace, TRACE_LOCAL, drop, s->pm);
	EXPLORE_MUST(fs_open(s->copy, &cfg, &s->fs));
}

/* What the target does at the end of a session is none of the run's events. */
static void link_close(struct session *s)
{
	static struct trace closing;

	trace_clear(&closing);
	s->watch[TRACE_REPLICA].trace = &closing;
	s->link->ops->close(s->link);
	target->pm.observer = NULL;
	pools_stored(&closing);
}

uint64_t session_end(struct session *s)
{
	uint64_t dropped = s->watch[TRACE_LOCAL].dropped + s->watch[TRACE_REPLICA].dropped;

	pools_stored(s->trace);
	fs_close(s->fs);
	s->pm->observer = NULL;
	copy_close(s->copy);
	if (s->link)
		link_close(s);
	return dropped;
}

/* ---------------------------------------------------------------- starts */

/* The least ring is where wrapping is seen; a larger one lets streams grow before their share is used up. */
static uint64_t ring_bytes(enum start which)
{
	return which == START_RING_END || which == START_RING_SEAM ? MEDIA_RING_BYTES_MIN : 2 * MEDIA_RING_BYTES_MIN;
}

static void format(struct pm *pm, enum start which)
{
	struct copy_format fmt = { .hash_seed = 0x5eed, .created_ns = 1, .ring_bytes = ring_bytes(which) };
	struct fs_state_omf state = { .epoch = le64_put(1) };
	struct copy *copy;
	uint32_t len;
	void *rec;

	fmt.page.role = MEDIA_ROLE_PRIMARY;
	fmt.page.state = MEDIA_CONSISTENT;
	EXPLORE_MUST(copy_format(pm, &fmt));
	EXPLORE_MUST(copy_open(pm, false, &copy));
	EXPLORE_MUST(fs_format(copy, &state, 0755, 0, 0, &rec, &len));
	free(rec);
	copy_close(copy);
}

static void start_op(struct session *s, struct op op)
{
	if (session_op(s, &op, 0)) {
		fprintf(stderr, "%s\n", s->why);
		EXPLORE_MUST(-EINVAL);
	}
}

/* Where the next record goes. */
static uint64_t ring_pos(const struct session *s)
{
	const struct copy_rec *rec = copy_find(s->copy, copy_head(s->copy).seq);

	return rec ? rec->pos + rec->len : le64_get(copy_sb(s->copy)->tail_pos);
}

/* Small commits until the ring's end is near. */
static void run_to_ring_end(struct session *s)
{
	unsigned mode = 0600;

	do {
		start_op(s, (struct op){ OP_CHMOD, "/a", NULL, 0, mode ^= 0100 });
		start_op(s, (struct op){ .kind = OP_SYNC_ALL });
	} while (ring_pos(s) + RING_END_BYTES < copy_geom(s->copy)->ring_bytes);
}

/* The old records in the middle of the ring go: a workload of a few commits never comes to them, and each recovery parses them
 * all. Those that it writes over and next to stay. */
static void empty_middle(struct pm *pm, enum start which)
{
	memset(pm->base + media_ring_off(RING_SEAM_BYTES), 0, ring_bytes(which) - 2 * RING_SEAM_BYTES);
}

static void fill_up(struct session *s)
{
	uint64_t off = 0;

	start_op(s, (struct op){ OP_CREATE, "/fill", NULL, 0, 0 });
	while (alloc_free_blks(s->fs) > ALLOC_KEEP + TIGHT_BLKS + FILL_STEP_BYTES / MEDIA_BLOCK_BYTES) {
		start_op(s, (struct op){ OP_WRITE, "/fill", NULL, off, FILL_STEP_BYTES });
		start_op(s, (struct op){ .kind = OP_SYNC_ALL });
		start_op(s, (struct op){ .kind = OP_CHECKPOINT });
		off += FILL_STEP_BYTES;
	}
}

static uint8_t *bytes_of(const struct pm *pm)
{
	uint8_t *bytes = pages_memory(pm->len);

	pages_become(bytes, pm->base, pm->len);
	return bytes;
}

static void make_replica(struct run_start *start)
{
	struct copy_page page;
	struct copy *copy;

	states[TRACE_REPLICA].bytes = NULL;
	memcpy(target->pm.base, start->bytes[TRACE_LOCAL], RUN_POOL_BYTES);
	EXPLORE_MUST(copy_open(&target->pm, false, &copy));
	page = *copy_page(copy);
	page.role = MEDIA_ROLE_REPLICA;
	EXPLORE_MUST(copy_page_set(copy, &page));
	copy_close(copy);
	start->bytes[TRACE_REPLICA] = bytes_of(&target->pm);
}

void run_start_make(struct run_start *start, enum start which)
{
	static const struct workload plain;
	static char why[RUN_WHY_BYTES];
	struct trace trace = { 0 };
	struct session s;

	pools_make();
	states[TRACE_LOCAL].bytes = NULL;
	memset(local_pm.base, 0, RUN_POOL_BYTES);
	format(&local_pm, which);
	model_init(&start->model);
	start->bytes[TRACE_LOCAL] = bytes_of(&local_pm);
	session_begin(&s, start, &plain, &trace, &start->model, TRACE_DROP_NONE, why);
	for (unsigned i = 0; i < workload_setup_count; i++)
		start_op(&s, workload_setup[i]);
	if (which == START_RING_END || which == START_RING_SEAM)
		run_to_ring_end(&s);
	if (which == START_TIGHT)
		fill_up(&s);
	start_op(&s, (struct op){ .kind = OP_SYNC_ALL });
	start_op(&s, (struct op){ .kind = OP_CHECKPOINT });
	session_end(&s);
	states[TRACE_LOCAL].bytes = NULL;
	if (which == START_RING_SEAM)
		empty_middle(&local_pm, which);
	pages_become(start->bytes[TRACE_LOCAL], local_pm.base, RUN_POOL_BYTES);
	make_replica(start);
	trace_free(&trace);
}

void run_start_free(struct run_start *start)
{
	munmap(start->bytes[TRACE_LOCAL], RUN_POOL_BYTES);
	munmap(start->bytes[TRACE_REPLICA], RUN_POOL_BYTES);
	model_free(&start->model);
}
