/* See takeover.h. What a replica has after the restore and a power failure is what its trace made durable. */
#include "takeover.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cluster_link.h"
#include "errmsg.h"
#include "fs/policy.h"
#include "image.h"

#define OLD_POLLS 200u

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

	for (unsigned i = 0; i < OLD_POLLS; i++) {
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

/* One that does not look at the copy's fence sends the next commit of its own epoch. */
static bool blind_commit(struct sim_target *t, const struct copy *local)
{
	struct poolset_replica conf = { .line = 0 };
	const struct repl_cfg cfg = { 0 };
	struct repl_commit commit = { 0 };
	struct redo_builder *builder;
	struct copy_point head;
	struct repl_link *link;
	struct hash128 hash;
	bool answered;

	snprintf(conf.name, sizeof(conf.name), "%s", t->name);
	EXPLORE_MUST(cluster_link_open(&conf, &cfg, &link));
	EXPLORE_MUST(link->ops->poll(link) == REPL_UP && t->copy ? 0 : -ENOTCONN);
	head = copy_head(t->copy);
	EXPLORE_MUST(redo_builder_new(MEDIA_RING_BYTES_MIN / REDO_RING_SHARE, copy_geom(local)->pool_seed, &builder));
	redo_begin(builder);
	EXPLORE_MUST(redo_finish(builder, head.seq + 1, head.epoch, &head.hash, 1, &commit.rec, &commit.rec_len, &hash));
	commit.seq = head.seq + 1;
	EXPLORE_MUST(link->ops->commit(link, &commit));
	(void)link->ops->poll(link);
	answered = link->acked > head.seq;
	link->ops->close(link);
	redo_builder_delete(builder);
	return answered;
}

/* Only what its trace made durable is left of a replica. */
static void power_fails(const struct run *run, const uint8_t *start, enum trace_pool pool)
{
	static struct image image;

	if (!image.base)
		image_make(&image, RUN_POOL_BYTES);
	image_start(&image, start);
	for (size_t i = 0; i < run->trace.events.n; i++)
		if (run->trace.events.v[i].pool == pool)
			image_step(&image, &run->trace, &run->trace.events.v[i]);
	cluster_put(pool, image.base);
}

static uint8_t *bytes_of(const struct sim_target *t)
{
	uint8_t *bytes = malloc(RUN_POOL_BYTES);

	EXPLORE_MUST(bytes ? 0 : -ENOMEM);
	memcpy(bytes, t->pm.base, RUN_POOL_BYTES);
	return bytes;
}

static int violated(struct run *run, const char *what)
{
	snprintf(run->why, RUN_WHY_BYTES, "%s", what);
	return -1;
}

int takeover(struct primary *old, struct primary *second, struct run *run, const uint8_t *start[TRACE_POOLS])
{
	uint8_t *before[CLUSTER_REPLICAS];
	int err;

	primary_return(old);
	old->pool->pm.observer = NULL;
	err = primary_restore(second, false, 0);
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++)
		cluster_target(i)->pm.observer = NULL;
	if (err) {
		snprintf(run->why, RUN_WHY_BYTES, "restore over a living primary: %.400s", errmsg_get());
		return -1;
	}
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++) {
		power_fails(run, start[TRACE_REPLICA + i], TRACE_REPLICA + i);
		before[i] = bytes_of(cluster_target(i));
	}
	if (old_goes_on(old))
		err = violated(run, "an old primary acknowledged after a restore elsewhere");
	primary_lose(old);
	for (unsigned i = 0; i < CLUSTER_REPLICAS; i++) {
		if (!err && blind_commit(cluster_target(i), old->s.copy))
			err = violated(run, "a fenced copy took a commit of the old epoch");
		if (!err && memcmp(before[i], cluster_target(i)->pm.base, RUN_POOL_BYTES) != 0)
			err = violated(run, "an old primary changed a fenced copy");
		free(before[i]);
	}
	return err;
}
