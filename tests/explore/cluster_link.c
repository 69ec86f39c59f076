/* See cluster_link.h. */
#include "cluster_link.h"

#include <string.h>
#include "cluster.h"

static const struct repl_link_ops *sim_ops;
static struct trace *trace;
static bool eager;
static uint64_t answered[CLUSTER_REPLICAS];

void cluster_link_trace(struct trace *to, bool replicas_first)
{
	trace = to;
	eager = replicas_first;
}

static unsigned index_of(const struct repl_link *link)
{
	unsigned i = 0;

	while (strcmp(cluster_target(i)->name, link->name) != 0)
		i++;
	return i;
}

/* Notes what became of a replica's link, when its pool is watched. */
static void note(unsigned i, enum trace_type type, uint64_t seq)
{
	if (!trace || !cluster_target(i)->pm.observer)
		return;
	trace_mark(trace, type, seq);
	trace->events.v[trace->events.n - 1].pool = TRACE_REPLICA + i;
}

static void note_answer(unsigned i, uint64_t seq)
{
	if (seq <= answered[i])
		return;
	answered[i] = seq;
	note(i, TRACE_ANSWER, seq);
}

/* One-sided writes pass the target's persist layer by. */
static int traced_push(struct repl_link *link, const struct repl_range *ranges, unsigned count)
{
	unsigned i = index_of(link);
	int err = sim_ops->push(link, ranges, count);

	for (unsigned k = 0; k < count && !err && trace && cluster_target(i)->pm.observer; k++)
		trace_push(trace, TRACE_REPLICA + i, ranges[k].off, ranges[k].src, ranges[k].len);
	return err;
}

static enum repl_state traced_poll(struct repl_link *link)
{
	unsigned i = index_of(link);
	bool begins = link->state == REPL_CONNECTING;
	enum repl_state state = sim_ops->poll(link);

	if (begins && state == REPL_UP) { /* a session begins when nothing of the one before can land any more */
		note(i, TRACE_POST, UINT64_MAX);
		note(i, TRACE_ANSWER, UINT64_MAX);
		answered[i] = link->acked;
	}
	note_answer(i, link->acked);
	return state;
}

static int traced_commit(struct repl_link *link, const struct repl_commit *commit)
{
	int err;

	note(index_of(link), TRACE_POST, commit->seq);
	err = sim_ops->commit(link, commit);
	if (!err && eager)
		(void)traced_poll(link); /* who is lost by it shows at the next poll as well */
	return err;
}

int cluster_link_open(const struct poolset_replica *replica, const struct repl_cfg *cfg, struct repl_link **out)
{
	static struct repl_link_ops ops;
	int err = sim_link_open(replica, cfg, out);

	if (err)
		return err;
	if (!sim_ops) {
		sim_ops = (*out)->ops;
		ops = *sim_ops;
		ops.push = traced_push;
		ops.poll = traced_poll;
		ops.commit = traced_commit;
	}
	(*out)->ops = &ops;
	return 0;
}
