/* See trace.h. The bytes of all events lie in one arena, so that recording a store is two copies and no allocation. */
#include "trace.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "errmsg.h"

void explore_must(int err, const char *what)
{
	if (!err)
		return;
	fprintf(stderr, "explore: %s: %s: %s\n", what, strerror(err < 0 ? -err : err), errmsg_get());
	abort();
}

static void record(struct trace *trace, struct trace_event event, const void *bytes)
{
	if (bytes) {
		EXPLORE_MUST(vec_reserve(&trace->arena, event.len));
		event.bytes = trace->arena.n;
		memcpy(trace->arena.v + trace->arena.n, bytes, event.len);
		trace->arena.n += event.len;
	}
	EXPLORE_MUST(vec_push(&trace->events, event));
}

static void stored(void *ctx, uint64_t off, const void *bytes, uint64_t len)
{
	struct trace_watch *w = ctx;

	record(w->trace, (struct trace_event){ .type = TRACE_STORE, .pool = w->pool, .off = off, .len = len }, bytes);
}

static void flushed(void *ctx, uint64_t off, uint64_t len)
{
	struct trace_watch *w = ctx;

	record(w->trace, (struct trace_event){ .type = TRACE_FLUSH, .pool = w->pool, .off = off, .len = len }, NULL);
}

static bool in_ranges(const struct pm *pm, uint64_t off, uint64_t len)
{
	for (unsigned i = 0; i < pm->range_count; i++)
		if (off >= pm->ranges[i].off && off + len <= pm->ranges[i].off + pm->ranges[i].len)
			return true;
	return false;
}

/* A fence of a page-cache file is an msync of what was remembered: all that was stored must be among it. */
static void fence_covers(struct trace_watch *w)
{
	for (size_t i = w->fenced; i < w->trace->events.n; i++) {
		const struct trace_event *e = &w->trace->events.v[i];

		if (e->pool == w->pool && e->len && (e->type == TRACE_STORE || e->type == TRACE_FLUSH))
			EXPLORE_MUST(in_ranges(w->pm, e->off, e->len) ? 0 : errmsg_set(-EIO, "not msynced: 0x%llx", (unsigned long long)e->off));
	}
	w->fenced = w->trace->events.n;
}

static bool fence(void *ctx, enum pm_point point)
{
	struct trace_watch *w = ctx;

	if (point == w->drop) {
		w->dropped++;
		return false;
	}
	if (w->pm && w->pm->domain == PM_FILE)
		fence_covers(w);
	record(w->trace, (struct trace_event){ .type = TRACE_FENCE, .pool = w->pool, .point = point }, NULL);
	return true;
}

void trace_watch(struct trace_watch *watch, struct trace *trace, enum trace_pool pool, enum pm_point drop, struct pm *pm)
{
	*watch = (struct trace_watch){
		.trace = trace, .pool = pool, .drop = drop, .pm = pm, .fenced = trace->events.n,
		.observer = { .ctx = watch, .stored = stored, .flushed = flushed, .fence = fence },
	};
	if (pm)
		pm->observer = &watch->observer;
}

void trace_clear(struct trace *trace)
{
	trace->events.n = 0;
	trace->arena.n = 0;
}

void trace_free(struct trace *trace)
{
	vec_free(&trace->events);
	vec_free(&trace->arena);
}

void trace_push(struct trace *trace, enum trace_pool pool, uint64_t off, const void *bytes, uint64_t len)
{
	record(trace, (struct trace_event){ .type = TRACE_PUSH, .pool = pool, .off = off, .len = len }, bytes);
}

void trace_mark(struct trace *trace, enum trace_type type, uint64_t op)
{
	record(trace, (struct trace_event){ .type = type, .op = op }, NULL);
}

void trace_wipe(struct trace *trace, enum trace_pool pool)
{
	record(trace, (struct trace_event){ .type = TRACE_WIPE, .pool = pool }, NULL);
}

const char *trace_type_name(enum trace_type type)
{
	static const char *const names[TRACE_TYPES] = {
		[TRACE_STORE] = "store", [TRACE_PUSH] = "push", [TRACE_FLUSH] = "flush", [TRACE_FENCE] = "fence",
		[TRACE_POST] = "post", [TRACE_ANSWER] = "answer", [TRACE_OP] = "op", [TRACE_ACK] = "ack", [TRACE_WIPE] = "made anew",
	};

	return names[type];
}

static const char *const point_names[PM_POINT_COUNT] = {
	[PM_POINT_CLEAR] = "clear", [PM_POINT_FORMAT] = "format", [PM_POINT_FORMAT_SB] = "format superblocks",
	[PM_POINT_DATA] = "data", [PM_POINT_RECORD] = "record", [PM_POINT_REPLAY] = "replay",
	[PM_POINT_SUPERBLOCK] = "superblock", [PM_POINT_SUPERBLOCK_2] = "other superblock", [PM_POINT_PAGE] = "page",
	[PM_POINT_RESYNC] = "resync", [PM_POINT_WRITE] = "write", [PM_POINT_REPAIR] = "repair",
	[PM_POINT_HEADER] = "header", [PM_POINT_USER] = "user",
};

const char *trace_point_name(enum pm_point point)
{
	return point < PM_POINT_COUNT ? point_names[point] : "none";
}

enum pm_point trace_point_parse(const char *name)
{
	enum pm_point point = 0;

	while (point < PM_POINT_COUNT && strcmp(point_names[point], name) != 0)
		point++;
	return point;
}
