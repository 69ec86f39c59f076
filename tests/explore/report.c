/* See report.h. */
#include "report.h"

#include <stdio.h>
#include "minimise.h"

#define MINIMISE_SECONDS 60u

void report_workload(const struct job *job)
{
	static const char *const start_names[STARTS] = { "plain", "ring end", "ring seam", "tight" };
	const struct workload *w = &job->workload;
	char line[128];

	fprintf(stderr, "%s, start %s%s\n", job->name, start_names[w->start],
		w->cluster ? ", two replicas" : !w->replica ? "" : w->eager ? ", replica first" : ", replica behind");
	for (unsigned i = 0; i < w->count; i++) {
		op_print(&w->ops[i], line, sizeof(line));
		fprintf(stderr, "  op %u: %s\n", i, line);
	}
}

static void print_place(const struct cuts_place *p)
{
	fprintf(stderr, "%s pool, event %zu, image: %s store %zu seed %#llx%s\n", p->pool ? "replica's" : "local", p->event,
		image_kind_name(p->variant.kind), p->variant.store, (unsigned long long)p->variant.seed,
		p->second ? ", cut again during recovery" : "");
}

/* The events around the cut. */
static void print_events(const struct run *run, const struct cuts_place *p)
{
	size_t from = p->event > 12 ? p->event - 12 : 0;

	for (size_t i = from; i <= p->event && i < run->trace.events.n; i++) {
		const struct trace_event *e = &run->trace.events.v[i];

		fprintf(stderr, "  event %zu: %s %s", i, e->pool ? "replica" : "local", trace_type_name(e->type));
		if (e->type == TRACE_STORE || e->type == TRACE_PUSH || e->type == TRACE_FLUSH)
			fprintf(stderr, " %#llx+%llu", (unsigned long long)e->off, (unsigned long long)e->len);
		else if (e->type == TRACE_FENCE)
			fprintf(stderr, " %s", trace_point_name(e->point));
		else
			fprintf(stderr, " %llu", (unsigned long long)e->op);
		fprintf(stderr, "\n");
	}
}

void report_violation(const struct job *job, const struct job_cfg *cfg, const struct cuts_place *place, const struct run *run,
		      const char *why)
{
	struct job least = *job;

	fprintf(stderr, "\nVIOLATION, seed %llu, in ", (unsigned long long)cfg->seed);
	report_workload(job);
	print_place(place);
	if (run)
		print_events(run, place);
	fprintf(stderr, "%s\n", why);
	minimise(&least, cfg, MINIMISE_SECONDS);
	fprintf(stderr, "shortest workload that shows it: ");
	report_workload(&least);
}
