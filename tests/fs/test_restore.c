/* Restore and verify over replicas in this process: local parts are real files, thrown away and rebuilt. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "errmsg.h"
#include "fs/policy.h"
#include "fs/restore.h"
#include "tests/support/foreign.h"
#include "tests/support/sim_link.h"

#define MIB (1ull << 20)
#define POOL_BYTES (192 * MIB) /* more than one group */

static char dir[] = "/dev/shm/test_restore.XXXXXX";
static char set_path[64], part_path[64];
static struct poolset *set;
static struct pool *pool;
static struct copy *copy;
static struct fs *fs;
static struct replication *r;
static struct replication_cfg cfg;
static struct restore_cfg rc;
static uint64_t ino;
static const struct fs_cred cred;

/* ---------------------------------------------------------------- rig */

static void mkfs(void)
{
	struct pool_attr attr = { .signature = POOLHDR_FS_SIGNATURE, .major = POOLHDR_FS_MAJOR };
	struct copy_format fmt = { .hash_seed = 1 };
	struct fs_state_omf state = { .magic = "" };
	struct replication_made *made;
	void *rec;
	uint32_t len;

	fmt.page = (struct copy_page){ .role = MEDIA_ROLE_PRIMARY, .state = MEDIA_CONSISTENT };
	csum_random(fmt.content_uuid, sizeof(fmt.content_uuid));
	cr_assert_eq(replication_plan(set, cfg.min_replicas, fmt.page.instance, &state), 0, "%s", errmsg_get());
	fmt.page.fence_epoch = le64_get(state.epoch);
	memcpy(fmt.page.fence_id, state.epoch_id, sizeof(fmt.page.fence_id));
	cr_assert_eq(pool_create(set, 0, &attr, 0, &pool), 0, "%s", errmsg_get());
	cr_assert_eq(copy_format(&pool->pm, &fmt), 0, "%s", errmsg_get());
	cr_assert_eq(copy_open(&pool->pm, false, &copy), 0, "%s", errmsg_get());
	cr_assert_eq(fs_format(copy, &state, 0755, 0, 0, &rec, &len), 0, "%s", errmsg_get());
	cr_assert_eq(replication_make(set, &cfg, copy_pm(copy)->len, false, &made), 0, "%s", errmsg_get());
	cr_assert_eq(replication_format(made, copy, &state, rec, len), 0, "%s", errmsg_get());
	replication_made_close(made);
	free(rec);
	copy_close(copy);
	pool_close(pool);
}

static void settle(void)
{
	bool moved = true;

	while (moved) {
		moved = replication_poll(r);
		moved |= fs_poll(fs);
	}
}

/* mount(2): the name is taken by the pool's. */
static long mount_fs(const char *from, const char *to, const char *type, unsigned long flags, const char *options)
{
	return syscall(SYS_mount, from, to, type, flags, options);
}

static void mount_pool(void)
{
	struct fs_cfg fc = { .repl = &replication_ops, .dirty_now = true };

	cr_assert_eq(pool_open(set, 0, 0, &pool), 0, "%s", errmsg_get());
	cr_assert_eq(copy_open(&pool->pm, false, &copy), 0, "%s", errmsg_get());
	cr_assert_eq(replication_open(set, &cfg, &r), 0, "%s", errmsg_get());
	replication_wait(r, 1000);
	cr_assert_eq(replication_compare(r, copy), 0, "%s", errmsg_get());
	fc.repl_ctx = r;
	cr_assert_eq(fs_open(copy, &fc, &fs), 0, "%s", errmsg_get());
	cr_assert_eq(replication_start(r, fs), 0, "%s", errmsg_get());
	settle();
}

/* As SIGKILL would: nothing more is committed. */
static void unmount(void)
{
	replication_close(r);
	fs_close(fs);
	copy_close(copy);
	pool_close(pool);
	r = NULL;
}

static uint8_t byte_at(uint64_t off, uint8_t salt)
{
	return (uint8_t)(off * 7 + off / 4096 * 13 + salt);
}

static void done(struct fs_waiter *w, int err)
{
	(void)err;
	w->seq = UINT64_MAX;
}

static void put(uint64_t off, size_t len, uint8_t salt)
{
	struct fs_waiter w = { .done = done };
	uint8_t *buf = malloc(len);
	size_t at = 0;
	int err;

	for (size_t i = 0; i < len; i++)
		buf[i] = byte_at(off + i, salt);
	while ((err = fs_write(fs, ino, off, buf, len, &at)) == -EAGAIN)
		settle();
	cr_assert_eq(err, 0);
	while ((err = fs_sync_inode(fs, ino, &w)) == -EAGAIN)
		settle();
	cr_assert_eq(err, 0);
	settle();
	cr_assert_eq(w.seq, UINT64_MAX, "not acknowledged");
	free(buf);
}

static void expect_bytes(uint64_t off, size_t len, uint8_t salt)
{
	uint8_t *buf = malloc(len);
	size_t got;

	cr_assert_eq(fs_lookup(fs, FS_ROOT_INO, "f", &ino), 0);
	cr_assert_eq(fs_read(fs, ino, off, buf, len, &got), 0, "%s", errmsg_get());
	cr_assert_eq(got, len);
	for (size_t i = 0; i < len; i++)
		cr_assert_eq(buf[i], byte_at(off + i, salt), "at %zu", i);
	free(buf);
}

static void setup(void)
{
	char text[256];
	FILE *file;

	cr_assert_not_null(mkdtemp(dir));
	snprintf(set_path, sizeof(set_path), "%s/pool.set", dir);
	snprintf(part_path, sizeof(part_path), "%s/part", dir);
	snprintf(text, sizeof(text), "PMEMPOOLSET\n192M %s\nREPLICA h1 a.set\nREPLICA h2 b.set\n", part_path);
	file = fopen(set_path, "w");
	fputs(text, file);
	fclose(file);
	cr_assert_eq(poolset_read(set_path, &set), 0, "%s", errmsg_get());
	sim_target_add("a", POOL_BYTES);
	sim_target_add("b", POOL_BYTES);
	cfg = (struct replication_cfg){ .min_replicas = 2, .link_open = sim_link_open };
	rc = (struct restore_cfg){ .set = set, .link_open = sim_link_open, .quiet = true };
	mkfs();
	cfg.min_replicas = REPLICATION_MIN_RECORDED;
	mount_pool();
	cr_assert_eq(fs_create(fs, FS_ROOT_INO, "f", S_IFREG | 0644, 0, &cred, &ino), 0);
	cr_assert_eq(fs_opened(fs, ino), 0);
	put(0, 3 * MIB, 1);
	put(MIB, 100000, 1);
}

static void teardown(void)
{
	sim_targets_free();
	poolset_free(set);
	unlink(part_path);
	unlink(set_path);
	rmdir(dir);
}

TestSuite(restore, .timeout = 60, .init = setup, .fini = teardown);

/* ---------------------------------------------------------------- the main job */

Test(restore, brings_everything_back)
{
	unmount();
	unlink(part_path);
	cr_assert_eq(restore_run(&rc), RESTORE_DONE, "%s", errmsg_get());
	mount_pool();
	expect_bytes(0, 3 * MIB, 1);
	put(8 * MIB, 5000, 3);
	cr_expect_eq(r->slots[0].state, SLOT_LIVE, "%s", r->slots[0].reason);
	cr_expect_eq(r->slots[1].state, SLOT_LIVE, "%s", r->slots[1].reason);
	cr_expect_gt(copy_head(copy).epoch, 1, "a new epoch");
	unmount();
	cr_expect_eq(verify_run(&rc), RESTORE_DONE);
}

Test(restore, newest_replica_wins_and_the_other_catches_up)
{
	void *before = malloc(POOL_BYTES);

	memcpy(before, sim_targets[0].pm.base, POOL_BYTES);
	put(10 * MIB, 50000, 9);
	unmount();
	memcpy(sim_targets[0].pm.base, before, POOL_BYTES);
	free(before);
	unlink(part_path);
	cr_assert_eq(restore_run(&rc), RESTORE_DONE, "%s", errmsg_get());
	mount_pool();
	expect_bytes(10 * MIB, 50000, 9);
	cr_expect_eq(r->slots[1].state, SLOT_LIVE, "%s", r->slots[1].reason);
	unmount();
}

/* Found by the explorer: it was asked for its fence all the same, which failed the whole restore. */
Test(restore, replica_lost_while_it_is_levelled_is_as_one_not_reached)
{
	struct copy *behind;
	void *before = malloc(POOL_BYTES);
	uint64_t fence;

	memcpy(before, sim_targets[0].pm.base, POOL_BYTES);
	put(10 * MIB, 50000, 9);
	unmount();
	memcpy(sim_targets[0].pm.base, before, POOL_BYTES);
	free(before);
	unlink(part_path);
	behind = sim_copy_get(&sim_targets[0]);
	sim_targets[0].die_before = copy_head(behind).seq + 1;
	fence = copy_page(behind)->fence_epoch;
	sim_copy_put(&sim_targets[0], behind);
	cr_assert_eq(restore_run(&rc), RESTORE_DONE, "two are required, so one that is reached proves it: %s", errmsg_get());
	behind = sim_copy_get(&sim_targets[0]);
	cr_expect_eq(copy_page(behind)->fence_epoch, fence);
	sim_copy_put(&sim_targets[0], behind);
}

/* ---------------------------------------------------------------- proof */

Test(restore, too_few_reached_is_refused_unless_forced)
{
	struct copy *other;
	uint64_t fence;

	unmount();
	unlink(part_path);
	/* Two required: one alone cannot have acknowledged anything, so one reached proves it. */
	sim_targets[1].unreachable = true;
	cr_expect_eq(restore_run(&rc), RESTORE_DONE, "%s", errmsg_get());
	unlink(part_path);

	/* With one required it can. */
	sim_targets[1].unreachable = false;
	cr_assert_eq(restore_run(&rc), RESTORE_DONE, "%s", errmsg_get());
	cfg.min_replicas = 1;
	mount_pool();
	unmount();
	unlink(part_path);
	sim_targets[1].unreachable = true;
	other = sim_copy_get(&sim_targets[0]);
	fence = copy_page(other)->fence_epoch;
	sim_copy_put(&sim_targets[0], other);
	cr_expect_eq(restore_run(&rc), RESTORE_REFUSED);
	cr_expect_not_null(strstr(errmsg_get(), "--force --without b"), "%s", errmsg_get());
	other = sim_copy_get(&sim_targets[0]);
	cr_expect_eq(copy_page(other)->fence_epoch, fence, "refused without a trace");
	sim_copy_put(&sim_targets[0], other);
	rc.force = true;
	rc.without = "a";
	cr_expect_eq(restore_run(&rc), RESTORE_REFUSED, "the wrong name");
	rc.without = "b";
	cr_expect_eq(restore_run(&rc), RESTORE_DONE, "%s", errmsg_get());
}

Test(restore, healthy_local_parts_are_not_overwritten)
{
	unmount();
	cr_expect_eq(restore_run(&rc), RESTORE_REFUSED);
	cr_expect_not_null(strstr(errmsg_get(), "healthy"), "%s", errmsg_get());
	rc.replace = true;
	cr_expect_eq(restore_run(&rc), RESTORE_REFUSED);
	rc.from = "b";
	cr_expect_eq(restore_run(&rc), RESTORE_DONE, "%s", errmsg_get());
	mount_pool();
	expect_bytes(0, 3 * MIB, 1);
	unmount();
}

Test(restore, parts_in_use_are_refused)
{
	cr_expect_eq(restore_run(&rc), RESTORE_REFUSED);
	cr_expect_eq(r->slots[0].state, SLOT_LIVE, "the running session was left alone");
	unmount();
}

static void damage_local(void)
{
	FILE *file = fopen(part_path, "r+");

	fseek(file, 4096, SEEK_SET);
	for (unsigned i = 0; i < 3 * 4096; i++)
		fputc(0xff, file);
	fclose(file);
}

Test(restore, damaged_parts_need_replace)
{
	unmount();
	damage_local();
	cr_expect_eq(restore_run(&rc), RESTORE_REFUSED);
	cr_expect_not_null(strstr(errmsg_get(), "--replace"), "%s", errmsg_get());
	rc.replace = true;
	cr_expect_eq(restore_run(&rc), RESTORE_DONE, "%s", errmsg_get());
	mount_pool();
	expect_bytes(0, 3 * MIB, 1);
	unmount();
}

/* ---------------------------------------------------------------- which history */

static struct hash128 head_hash(struct pm *where)
{
	struct copy *other;
	struct hash128 hash;

	cr_assert_eq(copy_open(where, true, &other), 0, "%s", errmsg_get());
	hash = copy_head(other).hash;
	copy_close(other);
	return hash;
}

static void expect_restore_refused(const char *reason)
{
	cr_expect_eq(restore_run(&rc), RESTORE_REFUSED);
	cr_expect_not_null(strstr(errmsg_get(), reason), "'%s' has no '%s'", errmsg_get(), reason);
	cr_expect_neq(access(part_path, F_OK), 0, "nothing was made");
}

/* The local parts are made again and hold the history of that target. */
static void expect_restored_from(unsigned target)
{
	struct hash128 want = head_hash(&sim_targets[target].pm), got;

	cr_assert_eq(restore_run(&rc), RESTORE_DONE, "%s", errmsg_get());
	cr_assert_eq(pool_open(set, 0, POOL_RDONLY, &pool), 0, "%s", errmsg_get());
	got = head_hash(&pool->pm);
	pool_close(pool);
	cr_expect_arr_eq(got.b, want.b, sizeof(got.b));
}

Test(restore, different_histories_need_a_choice_and_force)
{
	unmount();
	unlink(part_path);
	foreign_commit(&sim_targets[0].pm, 1);
	foreign_commit(&sim_targets[1].pm, 2);
	expect_restore_refused("different histories");
	rc.from = "b";
	expect_restore_refused("--force --from b");
	rc.force = true;
	expect_restored_from(1);
}

Test(restore, older_source_needs_force)
{
	unmount();
	unlink(part_path);
	foreign_commit(&sim_targets[0].pm, 1);
	rc.from = "b";
	expect_restore_refused("replica a is newer");
	rc.force = true;
	expect_restored_from(1);
}

/* A replica whose ring does not know the other's place any more takes its word. */
Test(restore, copy_too_old_to_be_compared_is_left_behind)
{
	void *before = malloc(POOL_BYTES);
	struct copy *other;

	memcpy(before, sim_targets[1].pm.base, POOL_BYTES);
	put(5 * MIB, MIB, 4);
	cr_assert_eq(fs_checkpoint(fs), 0, "%s", errmsg_get());
	unmount();
	unlink(part_path);
	memcpy(sim_targets[1].pm.base, before, POOL_BYTES);
	free(before);
	cr_assert_eq(copy_open(&sim_targets[0].pm, false, &other), 0);
	cr_assert_eq(copy_checkpoint(other, copy_head(other).seq, UINT64_MAX), 0, "%s", errmsg_get());
	copy_close(other);
	expect_restored_from(0);
}

/* An empty pool of other content where a replica was. */
static void format_other(unsigned target)
{
	struct copy_format fmt = { .hash_seed = 2, .content_uuid = { 0xee }, .page = { .role = MEDIA_ROLE_REPLICA, .state = MEDIA_CONSISTENT } };

	memset(sim_targets[target].pm.base, 0, POOL_BYTES);
	cr_assert_eq(copy_format(&sim_targets[target].pm, &fmt), 0, "%s", errmsg_get());
}

static uint8_t *bytes_of(unsigned target)
{
	uint8_t *bytes = malloc(POOL_BYTES);

	cr_assert_not_null(bytes);
	return memcpy(bytes, sim_targets[target].pm.base, POOL_BYTES);
}

static void expect_untouched(unsigned target, uint8_t *before)
{
	cr_expect_eq(memcmp(sim_targets[target].pm.base, before, POOL_BYTES), 0, "%s was changed", sim_targets[target].name);
	free(before);
}

/* A slip in the poolset must not fence the primary of another pool. */
Test(restore, copies_of_different_pools_need_a_choice)
{
	uint8_t *ours, *other;

	unmount();
	unlink(part_path);
	format_other(1);
	ours = bytes_of(0);
	other = bytes_of(1);
	expect_restore_refused("copies of different pools");
	rc.from = "a";
	expect_restore_refused("--from a --force --without b");
	rc.from = "b";
	expect_restore_refused("copies of different pools");
	expect_untouched(0, ours);
	rc.from = "a";
	rc.force = true;
	rc.without = "b";
	expect_restored_from(0);
	expect_untouched(1, other);
}

Test(restore, copy_of_another_pool_does_not_replace_a_healthy_one)
{
	uint8_t *first, *second;

	unmount();
	format_other(0);
	format_other(1);
	first = bytes_of(0);
	second = bytes_of(1);
	rc.replace = rc.force = true;
	rc.from = "a";
	rc.without = "b";
	cr_expect_eq(restore_run(&rc), RESTORE_REFUSED);
	cr_expect_not_null(strstr(errmsg_get(), "another pool than the healthy local one"), "%s", errmsg_get());
	expect_untouched(0, first);
	expect_untouched(1, second);
}

Test(restore, unformatted_replica_is_passed_over)
{
	unmount();
	unlink(part_path);
	memset(sim_targets[1].pm.base, 0, POOL_BYTES);
	expect_restored_from(0);
}

/* ---------------------------------------------------------------- damage and interruption */

/* A used data block of a replica, rotten. */
static uint64_t rot(unsigned target)
{
	struct copy *other = sim_copy_get(&sim_targets[target]);
	const struct media_geom *geom = copy_geom(other);
	uint64_t blk = geom->group0_blk + MEDIA_GROUP_META_BLKS;
	struct copy_entry entry = { .type = MEDIA_FREE };

	cr_assert_eq(copy_entry_get(copy, blk, &entry), 0);
	while (entry.type != MEDIA_DATA)
		cr_assert_eq(copy_entry_get(copy, ++blk, &entry), 0);
	sim_targets[target].pm.base[media_off(blk) + 77] ^= 1;
	sim_copy_put(&sim_targets[target], other);
	return blk;
}

Test(restore, rotten_block_comes_from_another_replica)
{
	unsigned source = 0;

	cr_assert_eq(fs_checkpoint(fs), 0);
	rot(source);
	unmount();
	unlink(part_path);
	rc.from = "a";
	cr_assert_eq(restore_run(&rc), RESTORE_DONE, "%s", errmsg_get());
	mount_pool();
	expect_bytes(0, 3 * MIB, 1);
	unmount();
	cr_expect_eq(verify_run(&rc), RESTORE_FAILED, "the replica is still rotten");
}

Test(restore, rot_everywhere_fails_and_names_the_block)
{
	char name[32];

	cr_assert_eq(fs_checkpoint(fs), 0);
	snprintf(name, sizeof(name), "0x%llx", (unsigned long long)rot(0));
	rot(1);
	unmount();
	unlink(part_path);
	cr_assert_eq(restore_run(&rc), RESTORE_FAILED);
	cr_expect_not_null(strstr(errmsg_get(), name), "%s", errmsg_get());

	/* What is there may not be mounted; restored again it goes on, and fails again. */
	cr_assert_eq(pool_open(set, 0, 0, &pool), 0);
	cr_assert_eq(copy_open(&pool->pm, false, &copy), 0);
	cr_expect_eq(copy_page(copy)->state, MEDIA_INCONSISTENT);
	cr_assert_eq(replication_open(set, &cfg, &r), 0);
	replication_wait(r, 1000);
	cr_expect_eq(replication_compare(r, copy), -EUCLEAN);
	replication_close(r);
	copy_close(copy);
	pool_close(pool);
	sim_targets[1].pm.base[strtoull(name, NULL, 16) * 4096 + 77] ^= 1;
	cr_expect_eq(restore_run(&rc), RESTORE_DONE, "%s", errmsg_get());
	mount_pool();
	expect_bytes(0, 3 * MIB, 1);
	unmount();
}

/* Tables and summaries are each copy's own: a damaged one is read from another copy, and named when there is none. */
static void entry_damage(unsigned target)
{
	uint64_t blk = copy_geom(copy)->group0_blk + MEDIA_GROUP_META_BLKS;

	sim_targets[target].pm.base[media_entry_off(copy_geom(copy), blk)] ^= 1;
}

static void summary_damage(unsigned target)
{
	sim_targets[target].pm.base[media_off(copy_geom(copy)->group0_blk)] ^= 1;
}

/* The ring of each replica is empty, so that nothing mends what is damaged then. Unmounts. */
static void targets_damage(void (*damage)(unsigned target), bool both)
{
	cr_assert_eq(fs_checkpoint(fs), 0);
	for (unsigned i = 0; i < 2; i++) {
		struct copy *other = sim_targets[i].copy;

		cr_assert_eq(copy_checkpoint(other, copy_head(other).seq, UINT64_MAX), 0, "%s", errmsg_get());
		if (damage && (i == 0 || both))
			damage(i);
	}
	unmount();
}

static void restore_damaged(void (*damage)(unsigned target), bool both)
{
	targets_damage(damage, both);
	unlink(part_path);
	rc.from = "a";
	cr_assert_eq(restore_run(&rc), both ? RESTORE_FAILED : RESTORE_DONE, "%s", errmsg_get());
	if (both)
		return;
	mount_pool();
	expect_bytes(0, 3 * MIB, 1);
	unmount();
}

Test(restore, damaged_entry_comes_from_another_replica) { restore_damaged(entry_damage, false); }
Test(restore, damaged_summary_comes_from_another_replica) { restore_damaged(summary_damage, false); }

Test(restore, tables_damaged_everywhere_fail_and_are_named)
{
	restore_damaged(summary_damage, true);
	cr_expect_not_null(strstr(errmsg_get(), "summary of group 0 is damaged"), "'%s'", errmsg_get());
}

/* A restore over parts that hold something fails, and they are what they were. */
static void expect_left_alone(const char *why)
{
	struct stat before, now;

	cr_assert_eq(stat(part_path, &before), 0);
	rc.replace = true;
	rc.from = "a";
	cr_expect_eq(restore_run(&rc), RESTORE_FAILED);
	cr_expect_not_null(strstr(errmsg_get(), "left as they were"), "%s", errmsg_get());
	cr_expect_not_null(strstr(errmsg_get(), why), "%s", errmsg_get());
	cr_assert_eq(stat(part_path, &now), 0);
	cr_expect(now.st_ino == before.st_ino && now.st_size == before.st_size && now.st_mtime == before.st_mtime);
}

Test(restore, parts_are_not_overwritten_from_damaged_tables)
{
	targets_damage(summary_damage, true);
	damage_local();
	expect_left_alone("summary of group 0 is damaged");
}

static const struct repl_link_ops *sim_ops;

/* The source is lost with the first of its tables. */
static int read_then_lost(struct repl_link *link, uint64_t off, void *dst, uint32_t len)
{
	if (len == MEDIA_TABLE_BLKS * MEDIA_BLOCK_BYTES && !strcmp(link->name, sim_targets[0].name)) {
		sim_target_cut(&sim_targets[0], -ECONNRESET);
		cr_expect_eq(sim_ops->poll(link), REPL_DOWN);
	}
	return sim_ops->read(link, off, dst, len);
}

static int open_to_be_lost(const struct poolset_replica *replica, const struct repl_cfg *repl, struct repl_link **out)
{
	static struct repl_link_ops ops;
	int err = sim_link_open(replica, repl, out);

	if (err)
		return err;
	sim_ops = (*out)->ops;
	ops = *sim_ops;
	ops.read = read_then_lost;
	(*out)->ops = &ops;
	return 0;
}

/* Another copy has the tables as well, but is not what is copied from. */
Test(restore, parts_are_not_overwritten_from_a_source_that_is_lost)
{
	targets_damage(NULL, false);
	damage_local();
	rc.link_open = open_to_be_lost;
	expect_left_alone("lost while its tables were read");
}

Test(restore, parts_are_not_overwritten_by_smaller_ones)
{
	FILE *file = fopen(set_path, "w");

	for (unsigned i = 0; i < 20; i++)
		put(i * 2 * MIB, 2 * MIB, 2);
	unmount();
	damage_local();
	fprintf(file, "PMEMPOOLSET\n32M %s\nREPLICA h1 a.set\nREPLICA h2 b.set\n", part_path);
	fclose(file);
	poolset_free(set);
	cr_assert_eq(poolset_read(set_path, &set), 0, "%s", errmsg_get());
	rc.set = set;
	expect_left_alone("make its parts larger");
}

/* Parts as a restore leaves them that is cut off before its first superblock, with that much behind the header. */
static void cut_off(enum media_state state, const char *superblock_a)
{
	struct pool_attr attr = { .signature = POOLHDR_FS_SIGNATURE, .major = POOLHDR_FS_MAJOR };
	struct copy_format fmt = { .hash_seed = 1, .page = { .role = MEDIA_ROLE_PRIMARY, .state = state, .fence_epoch = 2 } };

	unlink(part_path);
	cr_assert_eq(pool_create(set, 0, &attr, POOL_COLD, &pool), 0, "%s", errmsg_get());
	cr_assert_eq(copy_format(&pool->pm, &fmt), 0, "%s", errmsg_get());
	memset(pool->pm.base + media_off(MEDIA_SB_A_BLK), 0, 2 * MEDIA_BLOCK_BYTES);
	strcpy((char *)pool->pm.base + media_off(MEDIA_SB_A_BLK), superblock_a);
	pool_close(pool);
}

static void expect_done_again(const char *what)
{
	cr_expect_eq(restore_run(&rc), RESTORE_DONE, "%s: %s", what, errmsg_get());
	cr_expect_eq(verify_run(&rc), RESTORE_DONE, "%s", what);
	unlink(part_path);
}

Test(restore, cut_off_before_its_first_superblock_it_is_done_again)
{
	unmount();
	cut_off(MEDIA_INCONSISTENT, "");
	expect_done_again("page");
	cut_off(MEDIA_INCONSISTENT, "RPMEM");
	expect_done_again("page and a part of superblock A");
	cut_off(MEDIA_CONSISTENT, "RPMEM");
	cr_expect_eq(restore_run(&rc), RESTORE_REFUSED, "what is not marked may be a damaged pool");
	cr_expect_not_null(strstr(errmsg_get(), "rpmemfs restore --replace /"), "%s", errmsg_get());
}

/* A file at the part's place, of so many bytes, that starts with this. */
static void file_there(off_t bytes, const void *start, size_t len)
{
	int fd = open(part_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert(fd >= 0);
	cr_assert_eq(ftruncate(fd, bytes), 0);
	cr_assert_eq(pwrite(fd, start, len, 0), (ssize_t)len);
	close(fd);
}

Test(restore, cut_off_before_its_header_is_whole_it_is_done_again)
{
	unmount();
	file_there(0, "", 0);
	expect_done_again("name");
	file_there(POOL_BYTES, "", 0);
	expect_done_again("space");
	file_there(POOL_BYTES, POOLHDR_FS_SIGNATURE "\0a part of a header", 26);
	expect_done_again("start of a header");
	file_there(12, "a user's file", 12);
	cr_expect_eq(restore_run(&rc), RESTORE_REFUSED, "small");
	file_there(POOL_BYTES / 2, "", 0);
	cr_expect_eq(restore_run(&rc), RESTORE_REFUSED, "zeros of another size");
	file_there(POOL_BYTES, "a user's file", 13);
	cr_expect_eq(restore_run(&rc), RESTORE_REFUSED, "of the part's size");
}

/* ---------------------------------------------------------------- progress */

static int ballast = -1;
static struct repl_link_ops filling_ops;
static const struct repl_link_ops *plain_ops;

/* From the first content on there is no room for what has no space yet. */
static int fill_then_settle(struct repl_link *link, unsigned young)
{
	static const char junk[65536] = { 1 };

	while (write(ballast, junk, sizeof(junk)) > 0)
		;
	return plain_ops->settle_old(link, young);
}

static int filling_link_open(const struct poolset_replica *replica, const struct repl_cfg *cfg_link, struct repl_link **out)
{
	int err = sim_link_open(replica, cfg_link, out);

	if (err)
		return err;
	plain_ops = (*out)->ops;
	filling_ops = *plain_ops;
	filling_ops.settle_old = fill_then_settle;
	(*out)->ops = &filling_ops;
	return 0;
}

/* What restore_run says on stderr. */
static void run_telling(enum restore_exit want, char *text, size_t size)
{
	FILE *file = tmpfile();
	int err = dup(STDERR_FILENO);
	size_t len;

	cr_assert(file && err >= 0);
	dup2(fileno(file), STDERR_FILENO);
	rc.quiet = false;
	cr_expect_eq(restore_run(&rc), want, "%s", errmsg_get());
	dup2(err, STDERR_FILENO);
	close(err);
	rewind(file);
	len = fread(text, 1, size - 1, file);
	text[len] = '\0';
	fclose(file);
}

/* The last line says that it is done: so it comes when all parts have their space and the page says consistent. */
Test(restore, last_line_comes_when_it_is_done)
{
	char text[4096], small[64], path[80], line[192];
	struct poolset *roomy = set;

	unmount();
	unlink(part_path);
	snprintf(small, sizeof(small), "%s/small", dir);
	snprintf(path, sizeof(path), "%s/ballast", small);
	snprintf(line, sizeof(line), "PMEMPOOLSET\n192M %s/part\nREPLICA h1 a.set\nREPLICA h2 b.set\n", small);
	cr_assert_eq(mkdir(small, 0700), 0);
	if (unshare(CLONE_NEWNS) || mount_fs("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
		mount_fs("tmpfs", small, "tmpfs", 0, "size=200M")) {
		rmdir(small);
		cr_skip_test("needs the right to mount a tmpfs");
	}
	ballast = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	cr_assert(ballast >= 0);
	cr_assert_eq(poolset_parse(set_path, line, strlen(line), &set), 0, "%s", errmsg_get());
	rc.set = set;
	rc.link_open = filling_link_open;
	run_telling(RESTORE_FAILED, text, sizeof(text));
	cr_expect_null(strstr(text, "MiB in "), "%s", text);
	cr_assert_eq(ftruncate(ballast, 0), 0);
	rc.link_open = sim_link_open;
	run_telling(RESTORE_DONE, text, sizeof(text));
	cr_expect_not_null(strstr(text, "MiB in "), "%s", text);
	close(ballast);
	umount2(small, MNT_DETACH);
	rmdir(small);
	poolset_free(set);
	set = roomy;
}

/* ---------------------------------------------------------------- verify */

Test(restore, verify_says_where_copies_differ)
{
	unmount();
	cr_expect_eq(verify_run(&rc), RESTORE_DONE);
	sim_targets[1].unreachable = true;
	cr_expect_eq(verify_run(&rc), RESTORE_FAILED, "not all were asked");
	sim_targets[1].unreachable = false;
	cr_expect_eq(verify_run(&rc), RESTORE_DONE);
}

/* While one copy is read the others' links are heard of: a target ends a session that is silent for long. */
Test(restore, verify_keeps_all_links_alive)
{
	uint64_t before;

	unmount();
	before = sim_targets[1].polls;
	cr_expect_eq(verify_run(&rc), RESTORE_DONE);
	cr_expect_geq(sim_targets[1].polls - before, 4, "two groups of each of two other copies");
}

/* verify finds the copies different and says this. */
static void expect_verify_says(const char *what)
{
	char text[4096];
	FILE *file = tmpfile();
	int out = dup(STDOUT_FILENO);
	size_t len;

	cr_assert(file && out >= 0);
	fflush(stdout);
	dup2(fileno(file), STDOUT_FILENO);
	cr_expect_eq(verify_run(&rc), RESTORE_FAILED, "%s", what);
	fflush(stdout);
	dup2(out, STDOUT_FILENO);
	close(out);
	rewind(file);
	len = fread(text, 1, sizeof(text) - 1, file);
	text[len] = '\0';
	fclose(file);
	cr_expect_not_null(strstr(text, what), "it says '%s', not '%s'", text, what);
}

Test(restore, verify_tells_copies_that_are_ahead)
{
	char what[64];
	uint64_t head = copy_head(copy).seq;

	unmount();
	foreign_commit(&sim_targets[0].pm, 1);
	snprintf(what, sizeof(what), "a: at commit %llu, copy local is at", (unsigned long long)head + 1);
	expect_verify_says(what);
}

Test(restore, verify_tells_a_local_copy_that_is_ahead)
{
	char what[64];
	uint64_t head = copy_head(copy).seq;

	unmount();
	cr_assert_eq(pool_open(set, 0, 0, &pool), 0, "%s", errmsg_get());
	foreign_commit(&pool->pm, 1);
	pool_close(pool);
	snprintf(what, sizeof(what), "b: at commit %llu, copy local is at", (unsigned long long)head);
	expect_verify_says(what);
}

Test(restore, verify_tells_different_histories)
{
	unmount();
	cr_assert_eq(pool_open(set, 0, 0, &pool), 0, "%s", errmsg_get());
	foreign_commit(&pool->pm, 1);
	pool_close(pool);
	foreign_commit(&sim_targets[0].pm, 2);
	expect_verify_says("a: different history at commit");
	foreign_commit(&sim_targets[0].pm, 3);
	expect_verify_says("a: different history at commit");
}

Test(restore, verify_tells_copies_that_cannot_be_compared)
{
	struct copy_page page;
	struct copy *other;

	unmount();
	cr_assert_eq(copy_open(&sim_targets[0].pm, false, &other), 0);
	page = *copy_page(other);
	page.state = MEDIA_INCONSISTENT;
	cr_assert_eq(copy_page_set(other, &page), 0);
	copy_close(other);
	expect_verify_says("a: marked inconsistent");
	memset(sim_targets[0].pm.base, 0, POOL_BYTES);
	expect_verify_says("a: not formatted");
	unlink(part_path);
	expect_verify_says("local: ");
}

/* Counts are each copy's own: no history and no table tells those of a replica. */
Test(restore, verify_tells_wrong_counts)
{
	struct copy *other = sim_targets[0].copy;
	uint64_t seq;
	uint32_t used;

	cr_assert_eq(fs_checkpoint(fs), 0);
	cr_assert_eq(copy_checkpoint(other, copy_head(other).seq, UINT64_MAX), 0, "%s", errmsg_get());
	cr_assert_eq(copy_summary_get(other, 0, &seq, &used), 0);
	cr_assert_eq(copy_mend_summary(other, 0, used + 1), 0);
	unmount();
	expect_verify_says("blocks in use by its summary");
	cr_assert_eq(copy_open(&sim_targets[0].pm, false, &other), 0);
	cr_assert_eq(copy_mend_summary(other, 0, used), 0);
	cr_assert_eq(verify_run(&rc), RESTORE_DONE);
	cr_assert_eq(copy_mend_used(other, used + 1), 0);
	copy_close(other);
	expect_verify_says("by the tables");
}

Test(restore, verify_tells_a_damaged_table)
{
	struct copy *other = sim_targets[0].copy;
	char what[64];
	uint64_t blk;

	cr_assert_eq(fs_checkpoint(fs), 0);
	cr_assert_eq(copy_checkpoint(other, copy_head(other).seq, UINT64_MAX), 0, "%s", errmsg_get());
	blk = rot(0);
	sim_targets[0].pm.base[media_off(blk) + 77] ^= 1; /* not its content */
	sim_targets[0].pm.base[media_entry_off(copy_geom(copy), blk)] ^= 1;
	unmount();
	snprintf(what, sizeof(what), "a: block 0x%llx: table entry is damaged", (unsigned long long)blk);
	expect_verify_says(what);
}

/* An entry that reads as zeros says free by itself: the copy that has it is not the one to rebuild the other from. */
Test(restore, verify_sends_nobody_to_overwrite_the_whole_copy)
{
	uint64_t blk = copy_geom(copy)->group0_blk + MEDIA_GROUP_META_BLKS;
	struct copy_entry entry;

	cr_assert_eq(fs_checkpoint(fs), 0);
	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(copy_checkpoint(sim_targets[i].copy, copy_head(sim_targets[i].copy).seq, UINT64_MAX), 0);
	while (copy_entry_get(copy, blk, &entry) || entry.type != MEDIA_DATA)
		blk++;
	memset(pool->pm.base + media_entry_off(copy_geom(copy), blk), 0, sizeof(struct media_entry_omf));
	unmount();
	expect_verify_says("do not overwrite this one");
	expect_verify_says("replica a is good; this copy can be rebuilt from it");
}
