/* A core with the replication policy over replicas in this process (sim_link), on anonymous memory: made, mounted,
 * unmounted, each copy compared with the local one. */
#ifndef RPMEMFS_TESTS_POLICY_RIG_H
#define RPMEMFS_TESTS_POLICY_RIG_H

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "errmsg.h"
#include "fs/policy.h"
#include "fs/tree.h"
#include "rpmemd/engine.h"
#include "tests/support/foreign.h"
#include "tests/support/sim_link.h"

#define MIB (1ull << 20)
#define POOL_BYTES (32 * MIB)
#define STEPS_MAX 10000

#define HEAD "PMEMPOOLSET\n32M /nowhere/local.part\n"
#define ONE HEAD "REPLICA @local a.set\n"
#define TWO HEAD "REPLICA h1 a.set\nREPLICA h2 b.set\n"
#define THREE HEAD "REPLICA h1 a.set\nREPLICA h2 b.set\nREPLICA h3 c.set\n"

static struct poolset *set;
static struct pm pm;
static struct copy *copy;
static struct fs *fs;
static struct replication *r;
static struct replication_cfg cfg;
static uint64_t ino;
static const struct fs_cred cred;

static inline void mkfs(uint64_t ring_bytes)
{
	struct copy_format fmt = { .hash_seed = 1, .ring_bytes = ring_bytes };
	struct fs_state_omf state = { .magic = "" };
	struct replication_made *made;
	void *rec;
	uint32_t len;

	fmt.page = (struct copy_page){ .role = MEDIA_ROLE_PRIMARY, .state = MEDIA_CONSISTENT };
	csum_random(fmt.content_uuid, sizeof(fmt.content_uuid));
	csum_random(fmt.page.instance, sizeof(fmt.page.instance));
	cr_assert_eq(replication_plan(set, cfg.min_replicas, fmt.page.instance, &state), 0, "%s", errmsg_get());
	fmt.page.fence_epoch = le64_get(state.epoch);
	memcpy(fmt.page.fence_id, state.epoch_id, sizeof(fmt.page.fence_id));
	cr_assert_eq(copy_format(&pm, &fmt), 0, "%s", errmsg_get());
	cr_assert_eq(copy_open(&pm, false, &copy), 0, "%s", errmsg_get());
	cr_assert_eq(fs_format(copy, &state, 0755, 0, 0, &rec, &len), 0, "%s", errmsg_get());
	cr_assert_eq(replication_make(set, &cfg, copy_pm(copy)->len, false, &made), 0, "%s", errmsg_get());
	cr_assert_eq(replication_format(made, copy, &state, rec, len), 0, "%s", errmsg_get());
	replication_made_close(made);
	free(rec);
	copy_close(copy);
	copy = NULL;
}

static inline int mount(void)
{
	struct fs_cfg fc = { .repl = &replication_ops, .dirty_now = true };
	int err;

	cr_assert_eq(copy_open(&pm, false, &copy), 0, "%s", errmsg_get());
	cr_assert_eq(replication_open(set, &cfg, &r), 0, "%s", errmsg_get());
	replication_wait(r, 1000);
	err = replication_compare(r, copy);
	if (err)
		return err;
	fc.repl_ctx = r;
	err = fs_open(copy, &fc, &fs);
	return err ? err : replication_start(r, fs);
}

static inline void unmount(void)
{
	replication_close(r);
	if (fs)
		fs_close(fs);
	copy_close(copy);
	r = NULL;
	fs = NULL;
	copy = NULL;
}

/* Until nothing moves any more. */
static inline void settle(void)
{
	for (unsigned i = 0; i < STEPS_MAX; i++) {
		bool moved = replication_poll(r);

		moved |= fs_poll(fs);
		if (!moved)
			return;
	}
	cr_assert_fail("does not come to rest");
}

struct wait {
	struct fs_waiter w;
	bool done;
	int err;
};

static inline void wait_done(struct fs_waiter *w, int err)
{
	((struct wait *)w)->done = true;
	((struct wait *)w)->err = err;
}

static inline void write_at(uint64_t off, uint8_t byte, size_t len)
{
	uint8_t *buf = malloc(len);
	size_t done = 0;
	int err;

	memset(buf, byte, len);
	while ((err = fs_write(fs, ino, off, buf, len, &done)) == -EAGAIN)
		settle();
	cr_assert_eq(err, 0, "write: %d", err);
	free(buf);
}

static inline void sync_start(struct wait *w)
{
	int err;

	*w = (struct wait){ .w.done = wait_done };
	while ((err = fs_sync_inode(fs, ino, &w->w)) == -EAGAIN)
		settle();
	cr_assert_eq(err, 0, "sync: %d", err);
	settle();
}

static inline void write_sync(uint8_t byte)
{
	struct wait w;

	write_at(0, byte, 4096);
	sync_start(&w);
	cr_assert(w.done && !w.err, "not acknowledged");
}

static inline void make_file(void)
{
	cr_assert_eq(fs_create(fs, FS_ROOT_INO, "f", S_IFREG | 0644, 0, &cred, &ino), 0);
	cr_assert_eq(fs_opened(fs, ino), 0);
	write_sync(1);
}

static inline void start(const char *text, uint32_t min, uint64_t ring_bytes)
{
	int err;

	cr_assert_eq(poolset_parse("pool.set", text, strlen(text), &set), 0, "%s", errmsg_get());
	pm_init(&pm, mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), POOL_BYTES,
		PM_MEMORY);
	for (unsigned i = 1; i < set->replica_count; i++)
		sim_target_add((char[]){ (char)('a' + i - 1), '\0' }, POOL_BYTES);
	cfg = (struct replication_cfg){ .min_replicas = min, .link_open = sim_link_open };
	mkfs(ring_bytes);
	cfg.min_replicas = REPLICATION_MIN_RECORDED;
	err = mount();
	cr_assert_eq(err, 0, "mount: %d %s", err, errmsg_get());
	settle();
	make_file();
}

static inline void finish(void)
{
	unmount();
	sim_targets_free();
	munmap(pm.base, pm.len);
	poolset_free(set);
}

static inline struct slot *slot(unsigned i)
{
	return &r->slots[i];
}

/* The timer of a lost link has run out. */
static inline void retry(void)
{
	for (unsigned i = 0; i < r->slot_count; i++)
		r->slots[i].retry_at_ms = 0;
	settle();
}

static inline uint32_t member_state(unsigned i)
{
	const struct fs_state_omf *state;
	uint32_t member = FS_MEMBER_NONE;

	op_begin(fs);
	cr_assert_eq(state_get(fs, &state), 0);
	for (uint32_t m = 0; m < le32_get(state->member_count); m++) {
		if (!strcmp((const char *)state->members[m].name, sim_targets[i].name))
			member = le32_get(state->members[m].state);
	}
	op_end(fs);
	return member;
}

static inline uint64_t epoch(void)
{
	struct fs_state_omf state;

	cr_assert_eq(attach_peek_state(copy, &state), 0);
	return le64_get(state.epoch);
}

static inline void expect_equal(unsigned i)
{
	struct copy *other = sim_copy_get(&sim_targets[i]);

	cr_assert_not_null(other);
	cr_expect_eq(copy_head(other).seq, copy_head(copy).seq, "%s", sim_targets[i].name);
	cr_expect_arr_eq(copy_head(other).hash.b, copy_head(copy).hash.b, 16);
	sim_copy_put(&sim_targets[i], other);
}

/* Every used block there has the content here: both applied up to head. */
static inline void expect_same_content(unsigned i)
{
	const struct media_geom *geom = copy_geom(copy);
	struct copy *other = sim_targets[i].copy;

	cr_assert_not_null(other);
	cr_assert_eq(copy_checkpoint(copy, copy_head(copy).seq, UINT64_MAX), 0, "%s", errmsg_get());
	cr_assert_eq(copy_checkpoint(other, copy_head(other).seq, UINT64_MAX), 0, "%s", errmsg_get());
	for (uint64_t blk = geom->group0_blk + MEDIA_GROUP_META_BLKS; blk < geom->blk_count; blk++) {
		struct copy_entry a, b;

		cr_assert_eq(copy_entry_get(copy, blk, &a), 0);
		cr_assert_eq(copy_entry_get(other, blk, &b), 0);
		cr_assert_eq(a.type, b.type, "block %llu", (unsigned long long)blk);
		cr_assert_eq(a.csum, b.csum, "block %llu", (unsigned long long)blk);
		if (a.type != MEDIA_FREE && a.type != MEDIA_UNWRITTEN)
			cr_assert_eq(memcmp(pm_ptr(&pm, media_off(blk)), pm_ptr(&sim_targets[i].pm, media_off(blk)),
					     MEDIA_BLOCK_BYTES),
				0, "block %llu", (unsigned long long)blk);
	}
}

#endif
