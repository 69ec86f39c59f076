/* See cluster_cuts.h. What comes after a crash, by seed:
 *
 *   ALL      everybody is there: mount
 *   WITHOUT  one replica is not reached: mount
 *   RESTORE  the local pool is lost as well: restore from the replicas, mount
 *   AGAIN    as ALL or RESTORE, and everything is cut once more in the middle of it
 *   ROT      a byte of some pool has rotted: everything may be refused then, but what is shown is right
 *
 * A cut within a restore leaves a local pool that may not be mounted: the restore is called again. */
#include "cluster_cuts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "cluster.h"
#include "errmsg.h"
#include "fs/fsck.h"
#include "fs/policy.h"

#define HANG_SECONDS 30u
#define AFTER_NAME "after the crash"
#define AFTER_BYTES 6000u
#define POLLS_MAX 20000u

enum after { AFTER_ALL, AFTER_WITHOUT, AFTER_RESTORE, AFTER_ROT, AFTERS };

struct crash {
	const struct run *run;
	const struct workload *w;
	struct image *images;
	struct cuts_stats *stats;
	struct cuts_place *place;
	char *why;
	uint64_t seed;
	unsigned first, last;
	unsigned op;        /* under way */
	bool restoring;
	enum after after;
};

static int failed(struct crash *c, const char *what, int err)
{
	static const char *const names[AFTERS] = { "mount of all", "mount without a replica", "restore and mount", "rot" };

	snprintf(c->why, CHECK_WHY_BYTES, "%s: %s: %s: %.400s", names[c->after], what, strerror(err < 0 ? -err : 0), errmsg_get());
	return -1;
}

/* ---------------------------------------------------------------- getting it back */

/* Cut off before the pool's headers or its superblocks were there, restore wants to be told that it may overwrite them. */
static int restore(struct crash *c, struct primary *p)
{
	int err = primary_restore(p, false);

	if (err == -ECANCELED && c->restoring &&
	    (strstr(errmsg_get(), "cannot be opened") || strstr(errmsg_get(), "superblock")))
		err = primary_restore(p, true);
	return err;
}

static int come_back(struct crash *c, struct primary *p, unsigned away)
{
	int err;

	if (c->after == AFTER_RESTORE || c->restoring) {
		err = restore(c, p);
		if (err && !c->restoring)
			return err;
		if (err && !strstr(errmsg_get(), "copy is healthy"))
			return err; /* healthy: the restore was at its end */
	}
	return primary_mount(p, away);
}

/* ---------------------------------------------------------------- what is asked of it */

struct after_sync {
	struct fs_waiter waiter;
	bool done;
	int err;
};

static void after_done(struct fs_waiter *waiter, int err)
{
	struct after_sync *s = (struct after_sync *)waiter;

	s->done = true;
	s->err = err;
}

static int sync_all(struct primary *p)
{
	struct after_sync s = { .waiter.done = after_done };
	int err = fs_sync_all(p->s.fs, &s.waiter);

	for (unsigned i = 0; i < POLLS_MAX && !err && !s.done; i++)
		p->s.poll(&p->s);
	if (err)
		return err;
	if (!s.done)
		fs_waiter_cancel(&s.waiter);
	return s.done ? s.err : errmsg_set(-ETIMEDOUT, "never acknowledged");
}

static int new_work(struct primary *p)
{
	static const struct fs_cred cred;
	uint8_t bytes[AFTER_BYTES];
	size_t done = 0;
	uint64_t ino = 0;
	int err = -EAGAIN;

	memset(bytes, 0x5a, sizeof(bytes));
	for (unsigned i = 0; i < POLLS_MAX && err == -EAGAIN; i++) {
		err = fs_create(p->s.fs, FS_ROOT_INO, AFTER_NAME, S_IFREG | 0644, 0, &cred, &ino);
		if (err == -EAGAIN)
			p->s.poll(&p->s);
	}
	for (unsigned i = 0; i < POLLS_MAX && (!err || err == -EAGAIN) && done < sizeof(bytes); i++) {
		err = fs_write(p->s.fs, ino, 0, bytes, sizeof(bytes), &done);
		if (err == -EAGAIN)
			p->s.poll(&p->s);
	}
	return err ? err : sync_all(p);
}

/* Every used block of a copy that is attached is what it is here. */
static int copies_equal(struct crash *c, const struct primary *p, unsigned i)
{
	struct sim_target *t = cluster_target(i);
	struct copy *ours = p->s.copy;
	const struct media_geom *geom = copy_geom(ours);
	int err;

	if (t->unreachable || strstr(p->r->slots[i].reason, "whole copy"))
		return 0;
	if (!t->copy)
		return failed(c, p->r->slots[i].reason, -ENOTCONN);
	err = copy_checkpoint(t->copy, copy_head(t->copy).seq, UINT64_MAX);
	if (!err && copy_head(t->copy).seq != copy_head(ours).seq)
		err = errmsg_set(-EILSEQ, "replica %u is not at the same commit", i);
	if (err)
		return failed(c, "checkpoint of a replica", err);
	for (uint64_t blk = geom->group0_blk + MEDIA_GROUP_META_BLKS; blk < geom->blk_count; blk++) {
		struct copy_entry a, b;

		if (copy_entry_get(ours, blk, &a) || copy_entry_get(t->copy, blk, &b) || a.type != b.type || a.csum != b.csum ||
		    (a.type != MEDIA_FREE && a.type != MEDIA_UNWRITTEN &&
		     csum_crc32c(0, pm_ptr(&t->pm, media_off(blk)), MEDIA_BLOCK_BYTES) != a.csum)) {
			snprintf(c->why, CHECK_WHY_BYTES, "block 0x%llx: another content on replica %u",
				 (unsigned long long)blk, i);
			return -1;
		}
	}
	return 0;
}

static int sound(struct crash *c, struct primary *p)
{
	struct fsck_report report = { 0 };
	int err;

	for (unsigned i = 0; i < POLLS_MAX && fs_idle(p->s.fs); i++)
		;
	err = sync_all(p);
	if (!err)
		err = fs_checkpoint(p->s.fs);
	if (!err && copy_tail(p->s.copy).seq != copy_head(p->s.copy).seq)
		err = copy_checkpoint(p->s.copy, copy_head(p->s.copy).seq, UINT64_MAX); /* held back for who is away */
	if (!err)
		err = fsck_copy(p->s.copy, &report);
	if (err)
		err = failed(c, "before fsck", err);
	else if (report.total) {
		snprintf(c->why, CHECK_WHY_BYTES, "fsck: %s", report.lines[0]);
		err = -1;
	}
	fsck_report_free(&report);
	for (unsigned i = 0; i < CLUSTER_REPLICAS && !err; i++)
		err = copies_equal(c, p, i);
	return err;
}

static int verdict(struct crash *c, struct primary *p, unsigned away)
{
	int err = come_back(c, p, away);

	if (err && c->after == AFTER_ROT)
		return 0; /* refused */
	if (err)
		return failed(c, "does not come back", err);
	err = check_states(p->s.fs, &c->run->model, c->first, c->last, NULL, c->why);
	if (c->after == AFTER_ROT)
		return err && strstr(c->why, "walk after recovery") ? 0 : err; /* an error is no lie */
	if (err)
		return err;
	err = new_work(p);
	if (err)
		return failed(c, "new work", err);
	return p->bad ? p->bad : sound(c, p);
}

/* ---------------------------------------------------------------- one crash */

static struct image_variant variant_of(struct crash *c, const struct image *image)
{
	static const enum image_kind kinds[] = { IMAGE_NONE, IMAGE_ALL, IMAGE_RANDOM, IMAGE_WORDS, IMAGE_ONLY, IMAGE_BUT };
	struct image_variant v = { .kind = kinds[explore_random(&c->seed) % 6], .seed = explore_random(&c->seed) };

	if (image->open.n)
		v.store = explore_random(&c->seed) % image->open.n;
	if (image->open.n && explore_random(&c->seed) % 4 == 0) { /* the newest one alone: it is what speaks of the others */
		v.kind = IMAGE_ONLY;
		v.store = image->open.n - 1;
	}
	return v;
}

/* Somewhere in ring, table or the blocks in use first. */
static void rot(struct crash *c)
{
	struct image *image = &c->images[explore_random(&c->seed) % TRACE_POOLS];
	uint64_t off = media_off(MEDIA_RING_BLK) + explore_random(&c->seed) % (64u << 10);
	uint8_t byte;

	if (explore_random(&c->seed) & 1)
		off = image->pm.len / 16 + explore_random(&c->seed) % (image->pm.len / 4);
	byte = image->pm.base[off] ^ (uint8_t)(1u << explore_random(&c->seed) % 8);
	image_poke(image, off, &byte, 1);
}

static int look(struct crash *c, size_t event)
{
	struct primary *p = cluster_primary();
	struct model unused = { .states = { 0 } };
	unsigned away = 0;
	int err;

	c->after = explore_random(&c->seed) % AFTERS;
	c->place->event = event;
	c->stats->images++;
	alarm(HANG_SECONDS);
	for (unsigned i = 0; i < TRACE_POOLS; i++) {
		struct image_variant v = variant_of(c, &c->images[i]);

		image_apply(&c->images[i], &v);
	}
	if (c->after == AFTER_ROT)
		rot(c);
	if (c->after == AFTER_WITHOUT && !c->restoring)
		away = 1u + explore_random(&c->seed) % CLUSTER_REPLICAS;
	for (unsigned i = 0; i < TRACE_POOLS; i++) {
		cluster_put(i, i == TRACE_LOCAL && c->after == AFTER_RESTORE && !c->restoring ? NULL : c->images[i].pm.base);
		image_reset(&c->images[i]);
	}
	p->s.model = &unused;
	p->s.why = c->why;
	p->bad = 0;
	err = verdict(c, p, away);
	primary_kill(p);
	return err;
}

/* ---------------------------------------------------------------- the whole trace */

#define LOOKS_SHARE 8u /* a good cut of a restore gets 1/this of the cuts as images of its own */
#define BETWEEN 32u /* of so many events that are no good place for a cut one is weighed as a good one */

/* Before a fence most is open, behind an acknowledgement most is promised; restores are long and get more. */
static bool good_place(const struct run *run, size_t i)
{
	const struct trace_event *e = &run->trace.events.v[i];

	return e->type == TRACE_ACK || i + 1 == run->trace.events.n || e[1].type == TRACE_FENCE || e[1].type == TRACE_OP;
}

static size_t good_places(const struct run *run)
{
	size_t count = run->trace.events.n / BETWEEN + 1;

	for (size_t i = 0; i < run->trace.events.n; i++)
		count += good_place(run, i);
	return count;
}

static void step(struct crash *c, const struct trace_event *e)
{
	switch (e->type) {
	case TRACE_OP:
		c->op = (unsigned)e->op;
		c->last = c->run->state_after[e->op];
		c->restoring = c->w->ops[e->op].kind == OP_RESTORE;
		break;
	case TRACE_ACK:
		if (c->run->state_after[e->op] > c->first)
			c->first = c->run->state_after[e->op];
		break;
	default:
		image_step(&c->images[e->pool], &c->run->trace, e);
	}
}

int cluster_cuts_explore(const struct run *run, const struct workload *w, uint64_t seed, unsigned cuts, struct cuts_stats *stats,
			 struct cuts_place *place, char *why)
{
	static struct image images[TRACE_POOLS];
	struct crash c = { .run = run, .w = w, .images = images, .stats = stats, .place = place, .why = why, .seed = seed };
	const uint8_t *bytes[TRACE_POOLS];
	const struct model *model;
	size_t n = run->trace.events.n, every = good_places(run) / cuts + 1;
	unsigned looks = cuts / LOOKS_SHARE + 1;
	int err = 0;

	cluster_start(bytes, &model);
	for (unsigned i = 0; i < TRACE_POOLS; i++) {
		if (!images[i].base)
			image_make(&images[i], RUN_POOL_BYTES);
		image_start(&images[i], bytes[i]);
	}
	for (size_t i = 0; i < n && !err; i++) {
		bool good = good_place(run, i);
		bool cut = explore_random(&c.seed) % (good ? every : every * BETWEEN) == 0 || i + 1 == n;

		step(&c, &run->trace.events.v[i]);
		if (!cut)
			continue;
		stats->cuts++;
		for (unsigned k = 0; k < (c.restoring && good ? looks : 1) && !err; k++)
			err = look(&c, i);
	}
	alarm(0);
	return err;
}
