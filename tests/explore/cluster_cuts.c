/* See cluster_cuts.h. What comes after a crash, by seed:
 *
 *   ALL       everybody is there: mount
 *   WITHOUT   one replica is not reached: mount; perhaps it comes back then
 *   RESTORE   the local pool is lost as well: restore from the replicas, mount
 *   UNPROVEN  it is, and one replica is not reached: refused, or everything acknowledged is there
 *   MARKED    a copy was being overwritten: it is not used as if it were whole
 *   ROT       a bit of some pool has rotted, before the mount or under it: everything may be refused then, but what is shown is
 *             right, no other copy suffers from it, and one superblock is enough
 *   HEAL      a block of a replica has rotted and the local pool is lost: refused, or restored whole
 *
 * ALL, WITHOUT and RESTORE may be cut once more in the middle of it: mount, catching up, checkpoint or restore. A cut within a
 * restore leaves a local pool that may not be mounted: the restore is called again. */
#include "cluster_cuts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "cluster.h"
#include "cluster_link.h"
#include "cluster_rot.h"
#include "errmsg.h"
#include "fs/fsck.h"
#include "fs/policy.h"

#define HANG_SECONDS 30u
#define AFTER_NAME "after the crash"
#define AFTER_BYTES 6000u
#define POLLS_MAX 20000u

#define NO_POOL TRACE_POOLS
#define AGAIN 4u /* of so many crashes one is followed by another */

enum after { AFTER_ALL, AFTER_WITHOUT, AFTER_RESTORE, AFTER_UNPROVEN, AFTER_MARKED, AFTER_ROT, AFTER_HEAL, AFTERS };

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
	enum trace_pool hurt;    /* rotten or half overwritten */
	enum rot_kind rot;
	bool rot_late;           /* only when it is mounted */
	struct trace recovery;   /* what came after the first crash, when there are two */
};

static int failed(struct crash *c, const char *what, int err)
{
	static const char *const names[AFTERS] = { "mount of all", "mount without a replica", "restore and mount",
						     "restore without a replica", "half overwritten", "rot", "rot and restore" };

	snprintf(c->why, CHECK_WHY_BYTES, "%s: %s: %s: %.400s", names[c->after], what, strerror(err < 0 ? -err : 0), errmsg_get());
	return -1;
}

/* ---------------------------------------------------------------- getting it back */

/* Cut off before the pool's headers or its superblocks were there, restore wants to be told that it may overwrite them. */
static int restore(struct crash *c, struct primary *p)
{
	int err = primary_restore(p, false, 0);

	if (err == -ECANCELED && c->restoring &&
	    (strstr(errmsg_get(), "cannot be opened") || strstr(errmsg_get(), "superblock")))
		err = primary_restore(p, true, 0);
	return err;
}

static int come_back(struct crash *c, struct primary *p, unsigned away)
{
	int err;

	if (c->after == AFTER_RESTORE || c->after == AFTER_HEAL || c->restoring) {
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

/* Why a replica may not be attached. */
static bool may_stay_away(const struct crash *c, const struct primary *p, unsigned i)
{
	struct sim_target *t = cluster_target(i);
	const struct slot *slot = &p->r->slots[i];
	struct copy *copy;
	bool same;

	if (t->unreachable || c->hurt == TRACE_REPLICA + i || slot->member == FS_MEMBER_RELEASED || strstr(slot->reason, "whole copy"))
		return true;
	copy = sim_copy_get(t);
	same = copy && cluster_histories(p->s.copy, copy) == HISTORY_SAME;
	if (copy)
		sim_copy_put(t, copy);
	return slot->state == SLOT_REFUSED && slot->differs && !same;
}

/* Every used block of an attached copy is what its table says. */
static int copy_whole(struct crash *c, struct primary *p, unsigned i)
{
	struct sim_target *t = cluster_target(i);
	const struct media_geom *geom = copy_geom(p->s.copy);
	int err = copy_checkpoint(t->copy, copy_head(t->copy).seq, UINT64_MAX);

	if (err)
		return failed(c, "checkpoint of a replica", err);
	for (uint64_t blk = geom->group0_blk + MEDIA_GROUP_META_BLKS; blk < geom->blk_count; blk++) {
		struct copy_entry entry;

		err = copy_entry_get(t->copy, blk, &entry);
		if (!err && (entry.type == MEDIA_FREE || entry.type == MEDIA_UNWRITTEN ||
			     csum_crc32c(0, pm_ptr(&t->pm, media_off(blk)), MEDIA_BLOCK_BYTES) == entry.csum))
			continue;
		snprintf(c->why, CHECK_WHY_BYTES, "block 0x%llx: not what its checksum says on replica %u",
			 (unsigned long long)blk, i);
		return -1;
	}
	return 0;
}

/* Every used block of a copy that is attached is what it is here. */
static int copies_equal(struct crash *c, struct primary *p, unsigned i)
{
	struct sim_target *t = cluster_target(i);
	struct copy *ours = p->s.copy;
	const struct media_geom *geom = copy_geom(ours);
	int err;

	if (p->r->slots[i].state != SLOT_LIVE)
		return may_stay_away(c, p, i) ? 0 : failed(c, p->r->slots[i].reason, -ENOTCONN);
	if (c->hurt == TRACE_REPLICA + i && c->after != AFTER_MARKED)
		return 0; /* rot that nothing has looked at yet */
	err = copy_whole(c, p, i);
	if (!err && copy_head(t->copy).seq != copy_head(ours).seq)
		err = failed(c, "a replica is not at the same commit", -EILSEQ);
	for (uint64_t blk = geom->group0_blk + MEDIA_GROUP_META_BLKS; blk < geom->blk_count && !err; blk++) {
		struct copy_entry a, b;

		if (!copy_entry_get(ours, blk, &a) && !copy_entry_get(t->copy, blk, &b) && a.type == b.type && a.csum == b.csum)
			continue;
		snprintf(c->why, CHECK_WHY_BYTES, "block 0x%llx: another content on replica %u", (unsigned long long)blk, i);
		err = -1;
	}
	return err;
}

/* What changed since the start says so: that is what a resync goes by. */
static int changes_told(struct crash *c, struct primary *p)
{
	const uint8_t *bytes[TRACE_POOLS];
	const struct media_geom *geom = copy_geom(p->s.copy);
	const struct model *model;
	struct media_sb_omf sb;

	cluster_start(bytes, &model);
	memcpy(&sb, bytes[TRACE_LOCAL] + media_off(MEDIA_SB_A_BLK), sizeof(sb));
	for (uint64_t blk = geom->group0_blk + MEDIA_GROUP_META_BLKS; blk < geom->blk_count; blk++) {
		struct media_entry_omf omf;
		struct copy_entry now, then;

		memcpy(&omf, bytes[TRACE_LOCAL] + media_entry_off(geom, blk), sizeof(omf));
		if (copy_entry_get(p->s.copy, blk, &now) || copy_entry_decode(blk, &omf, &then) ||
		    (now.type == then.type && now.csum == then.csum) || now.seq > le64_get(sb.tail_seq))
			continue;
		snprintf(c->why, CHECK_WHY_BYTES, "block 0x%llx changed, and its last change is told as commit %llu",
			 (unsigned long long)blk, (unsigned long long)now.seq);
		return -1;
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
	return err ? err : changes_told(c, p);
}

/* ---------------------------------------------------------------- verdicts */

/* Mounted, as if nothing were wrong with it. */
static int works(struct crash *c, struct primary *p)
{
	int err = check_states(p->s.fs, &c->run->model, c->first, c->last, NULL, c->why);

	if (err)
		return err;
	err = new_work(p);
	if (err)
		return failed(c, "new work", err);
	if (p->bad)
		return p->bad;
	if (c->after == AFTER_WITHOUT && explore_random(&c->seed) & 1) {
		primary_return(p);
		if (p->bad)
			return p->bad;
	}
	return sound(c, p);
}

static int verdict_unproven(struct crash *c, struct primary *p, unsigned away)
{
	int err = primary_restore(p, false, away);

	if (err)
		return 0; /* refused */
	err = primary_mount(p, away);
	return err ? failed(c, "does not come back", err) :
		     check_states(p->s.fs, &c->run->model, c->first, c->last, NULL, c->why);
}

/* A local copy that is marked is not mounted; a restore brings it back. */
static int verdict_marked(struct crash *c, struct primary *p)
{
	int err;

	if (c->hurt == TRACE_LOCAL) {
		err = primary_mount(p, 0);
		if (!err) {
			snprintf(c->why, CHECK_WHY_BYTES, "mounted a copy that is half overwritten");
			return -1;
		}
		primary_kill(p);
		err = primary_restore(p, false, 0);
		if (err)
			return failed(c, "restore", err);
	}
	err = primary_mount(p, 0);
	return err ? failed(c, "does not come back", err) : works(c, p);
}

static void rot_now(struct crash *c, struct primary *p)
{
	struct pm *pm = c->hurt == TRACE_LOCAL ? &p->pool->pm : &cluster_target(c->hurt - TRACE_REPLICA)->pm;

	pm->base[rot_pick(pm, &c->rot, &c->seed)] ^= (uint8_t)(1u << explore_random(&c->seed) % 8);
}

/* An error is no lie, where the local copy is the rotten one. What it may have handed on is looked at. */
static int verdict_rot(struct crash *c, struct primary *p)
{
	bool one_superblock = c->rot == ROT_SUPERBLOCK && !c->rot_late;
	int err = come_back(c, p, 0);

	if (err)
		return one_superblock && !c->restoring ? failed(c, "one superblock is not enough", err) : 0;
	if (c->rot_late)
		rot_now(c, p);
	if (one_superblock || c->hurt != TRACE_LOCAL)
		return works(c, p);
	err = check_states(p->s.fs, &c->run->model, c->first, c->last, NULL, c->why);
	if (err && !strstr(c->why, "walk after recovery"))
		return err;
	if (new_work(p) == 0)
		(void)fs_checkpoint(p->s.fs);
	err = p->bad;
	for (unsigned i = 0; i < CLUSTER_REPLICAS && !err; i++)
		if (p->r->slots[i].state == SLOT_LIVE)
			err = copy_whole(c, p, i);
	return err;
}

static int verdict(struct crash *c, struct primary *p, unsigned away)
{
	int err;

	switch (c->after) {
	case AFTER_UNPROVEN:
		return verdict_unproven(c, p, away);
	case AFTER_MARKED:
		return verdict_marked(c, p);
	case AFTER_ROT:
	case AFTER_HEAL:
		return verdict_rot(c, p);
	default:
		err = come_back(c, p, away);
		return err ? failed(c, "does not come back", err) : works(c, p);
	}
}

/* ---------------------------------------------------------------- one crash */

static struct image_variant variant_of(struct crash *c, const struct image *image)
{
	static const enum image_kind kinds[] = { IMAGE_NONE, IMAGE_ALL, IMAGE_RANDOM, IMAGE_WORDS, IMAGE_ONLY, IMAGE_BUT };
	struct image_variant v = { .kind = kinds[explore_random(&c->seed) % 6], .seed = explore_random(&c->seed) };

	if (image_has_late(image) && explore_random(&c->seed) & 1) {
		v.kind = IMAGE_LATE;
		return v;
	}
	if (image->open.n)
		v.store = explore_random(&c->seed) % image->open.n;
	if (image->open.n && explore_random(&c->seed) % 4 == 0) { /* the newest one alone: it is what speaks of the others */
		v.kind = IMAGE_ONLY;
		v.store = image->open.n - 1;
	}
	return v;
}

static void hurt(struct crash *c)
{
	static const enum rot_kind kinds[] = { ROT_BLOCK, ROT_BLOCK, ROT_BLOCK, ROT_RING, ROT_SUPERBLOCK, ROT_ANYWHERE };
	uint64_t off;
	uint8_t byte;

	if (c->after == AFTER_MARKED) {
		c->hurt = explore_random(&c->seed) % TRACE_POOLS;
		if (!rot_half_overwrite(&c->images[c->hurt], &c->seed))
			c->after = AFTER_ALL;
	} else if (c->after == AFTER_ROT || c->after == AFTER_HEAL) {
		struct image *image;

		c->hurt = c->after == AFTER_ROT ? explore_random(&c->seed) % TRACE_POOLS :
						  TRACE_REPLICA + explore_random(&c->seed) % CLUSTER_REPLICAS;
		c->rot = c->after == AFTER_ROT ? kinds[explore_random(&c->seed) % 6] : ROT_BLOCK;
		c->rot_late = c->after == AFTER_ROT && explore_random(&c->seed) % 4 == 0;
		image = &c->images[c->hurt];
		if (c->rot_late)
			return;
		off = rot_pick(&image->pm, &c->rot, &c->seed);
		byte = image->pm.base[off] ^ (uint8_t)(1u << explore_random(&c->seed) % 8);
		image_poke(image, off, &byte, 1);
	}
	if (c->hurt == NO_POOL && c->after >= AFTER_MARKED)
		c->after = AFTER_ALL;
}

static void put(struct image *images, bool local_lost)
{
	for (unsigned i = 0; i < TRACE_POOLS; i++) {
		cluster_put(i, i == TRACE_LOCAL && local_lost ? NULL : images[i].pm.base);
		image_reset(&images[i]);
	}
}

static void draw(struct crash *c, struct image *images)
{
	for (unsigned i = 0; i < TRACE_POOLS; i++) {
		struct image_variant v = variant_of(c, &images[i]);

		image_apply(&images[i], &v);
	}
}

/* Coming back is cut off somewhere, and what is left of that put in place. -1: it failed. */
static int crash_again(struct crash *c, struct primary *p, unsigned away, bool local_lost)
{
	static struct image again[TRACE_POOLS];
	size_t upto;
	int err;

	for (unsigned i = 0; i < TRACE_POOLS; i++) {
		if (!again[i].base)
			image_make(&again[i], RUN_POOL_BYTES);
		again[i].start = NULL; /* other bytes at the same place */
		image_start(&again[i], c->images[i].pm.base);
	}
	if (local_lost)
		image_step(&again[TRACE_LOCAL], &c->recovery, &(struct trace_event){ .type = TRACE_WIPE });
	put(c->images, local_lost);
	trace_clear(&c->recovery);
	cluster_link_trace(&c->recovery, c->w->eager);
	cluster_watch(&c->recovery);
	p->s.trace = &c->recovery;
	err = come_back(c, p, away);
	cluster_unwatch();
	primary_kill(p);
	cluster_link_trace(NULL, c->w->eager);
	if (err)
		return failed(c, "does not come back", err);
	upto = c->recovery.events.n ? explore_random(&c->seed) % c->recovery.events.n : 0;
	for (size_t i = 0; i < upto; i++)
		image_step(&again[c->recovery.events.v[i].pool], &c->recovery, &c->recovery.events.v[i]);
	draw(c, again);
	put(again, false);
	c->place->second = true;
	c->stats->images++;
	return 0;
}

static int look(struct crash *c, size_t event)
{
	struct primary *p = cluster_primary();
	struct model unused = { .states = { 0 } };
	bool restoring = c->restoring, local_lost;
	unsigned away = 0;
	int err = 0;

	c->after = explore_random(&c->seed) % AFTERS;
	if (c->w->focus && explore_random(&c->seed) & 1)
		c->after = c->w->focus == FOCUS_ROT ? AFTER_ROT : AFTER_WITHOUT;
	if (c->restoring && c->after != AFTER_ROT)
		c->after = AFTER_ALL;
	c->hurt = NO_POOL;
	c->place->event = event;
	c->place->second = false;
	c->stats->images++;
	alarm(HANG_SECONDS);
	draw(c, c->images);
	hurt(c);
	if (c->after == AFTER_WITHOUT || c->after == AFTER_UNPROVEN)
		away = 1u + explore_random(&c->seed) % CLUSTER_REPLICAS;
	local_lost = c->after == AFTER_RESTORE || c->after == AFTER_UNPROVEN || c->after == AFTER_HEAL;
	p->s.model = &unused;
	p->s.why = c->why;
	p->bad = 0;
	if (c->after <= AFTER_RESTORE && explore_random(&c->seed) % AGAIN == 0) {
		err = crash_again(c, p, away, local_lost);
		c->restoring |= local_lost;
	} else {
		put(c->images, local_lost);
	}
	if (!err)
		err = verdict(c, p, away);
	primary_kill(p);
	c->restoring = restoring;
	return err;
}

/* ---------------------------------------------------------------- the whole trace */

#define LOOKS_SHARE 8u /* a good cut of a restore gets 1/this of the cuts as images of its own */
#define FOCUS_LOOKS 4u /* so many times more of a workload that is after something */
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
		c->restoring = false; /* its restore is done */
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
	unsigned looks = cuts / (unsigned)good_places(run) + 1, restore_looks = cuts / LOOKS_SHARE + 1;
	int err = 0;

	if (w->focus)
		looks *= FOCUS_LOOKS;
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
		for (unsigned k = 0; k < (c.restoring && good ? restore_looks : looks) && !err; k++)
			err = look(&c, i);
	}
	alarm(0);
	trace_free(&c.recovery);
	return err;
}
