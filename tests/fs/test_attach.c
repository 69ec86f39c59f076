/* What a mount does with the copies it finds before its first commit: those that cannot be used, those of another history,
 * and links that are lost while histories are compared and copies caught up. */
#include "tests/support/policy_rig.h"

TestSuite(attach, .timeout = 60, .fini = finish);

static uint8_t *saved(const struct pm *where)
{
	uint8_t *bytes = malloc(POOL_BYTES);

	cr_assert_not_null(bytes);
	memcpy(bytes, where->base, POOL_BYTES);
	return bytes;
}

static void put_back(const struct pm *where, uint8_t *bytes)
{
	memcpy(where->base, bytes, POOL_BYTES);
	free(bytes);
}

static uint64_t head_of(struct pm *where)
{
	struct copy *other;
	uint64_t seq;

	cr_assert_eq(copy_open(where, true, &other), 0, "%s", errmsg_get());
	seq = copy_head(other).seq;
	copy_close(other);
	return seq;
}

/* Replica 0 is told from the others by its reason; the mount goes on without it and acknowledges. */
static void expect_refused_alone(const char *reason)
{
	cr_assert_eq(mount(), 0, "%s", errmsg_get());
	settle();
	cr_expect_eq(slot(0)->state, SLOT_REFUSED, "%s: state %d", reason, slot(0)->state);
	cr_expect_not_null(strstr(slot(0)->reason, reason), "'%s' has no '%s'", slot(0)->reason, reason);
	cr_expect_eq(slot(1)->state, SLOT_LIVE, "%s", slot(1)->reason);
	write_sync(7);
	expect_equal(1);
}

/* The mount is refused, and no copy has changed. */
static void expect_mount_refused(int want, const char *reason)
{
	uint8_t *local = saved(&pm), *first = saved(&sim_targets[0].pm), *second = saved(&sim_targets[1].pm);
	int err = mount();

	cr_expect_eq(err, want, "%d: %s", err, errmsg_get());
	cr_expect_not_null(strstr(errmsg_get(), reason), "'%s' has no '%s'", errmsg_get(), reason);
	cr_expect_eq(memcmp(pm.base, local, POOL_BYTES), 0);
	cr_expect_eq(memcmp(sim_targets[0].pm.base, first, POOL_BYTES), 0);
	cr_expect_eq(memcmp(sim_targets[1].pm.base, second, POOL_BYTES), 0);
	free(local);
	free(first);
	free(second);
}

/* ---------------------------------------------------------------- copies that cannot be used */

/* A pool of other content, or of the same content with another ring, where replica 0 was. */
static void format_other(bool same_content, uint64_t ring_bytes)
{
	struct pm *where = &sim_targets[0].pm;
	const struct media_sb_omf *sb = pm_ptr(&pm, media_off(MEDIA_SB_A_BLK));
	struct copy_format fmt = { .hash_seed = 1, .ring_bytes = ring_bytes,
				   .page = { .role = MEDIA_ROLE_REPLICA, .state = MEDIA_CONSISTENT } };

	memset(where->base, 0, POOL_BYTES);
	if (same_content)
		memcpy(fmt.content_uuid, sb->content_uuid, sizeof(fmt.content_uuid));
	else
		csum_random(fmt.content_uuid, sizeof(fmt.content_uuid));
	cr_assert_eq(copy_format(where, &fmt), 0, "%s", errmsg_get());
}

Test(attach, unformatted_pool_is_refused_alone)
{
	start(TWO, 1, 0);
	unmount();
	memset(sim_targets[0].pm.base, 0, POOL_BYTES);
	expect_refused_alone("not formatted");
}

Test(attach, copy_of_other_content_is_refused_alone)
{
	start(TWO, 1, 0);
	unmount();
	format_other(false, 0);
	expect_refused_alone("a copy of something else");
}

Test(attach, copy_of_another_shape_is_refused_alone)
{
	start(TWO, 1, 0);
	unmount();
	format_other(true, 2 * MIB);
	expect_refused_alone("and a ring of 2097152 bytes");
}

Test(attach, copy_that_was_being_overwritten_is_refused_alone)
{
	struct copy_page page;
	struct copy *other;

	start(TWO, 1, 0);
	unmount();
	cr_assert_eq(copy_open(&sim_targets[0].pm, false, &other), 0);
	page = *copy_page(other);
	page.state = MEDIA_INCONSISTENT;
	cr_assert_eq(copy_page_set(other, &page), 0);
	copy_close(other);
	expect_refused_alone("marked inconsistent");
}

Test(attach, local_copy_without_a_state_block_is_refused)
{
	start(TWO, 1, 0);
	fs_checkpoint(fs);
	unmount();
	cr_assert_eq(copy_open(&pm, false, &copy), 0);
	cr_assert_eq(copy_checkpoint(copy, copy_head(copy).seq, UINT64_MAX), 0);
	memset((uint8_t *)pm.base + media_off(le64_get(copy_sb(copy)->root_blk)), 0xff, 64);
	copy_close(copy);
	expect_mount_refused(-EBADMSG, "not a state block");
}

/* ---------------------------------------------------------------- other histories */

/* Both took a commit of their own behind the same one, as after a split: nobody knows which one was acknowledged. */
Test(attach, member_of_another_history_refuses_the_mount)
{
	start(TWO, 1, 0);
	unmount();
	foreign_commit(&pm, 1);
	foreign_commit(&sim_targets[0].pm, 2);
	expect_mount_refused(-EILSEQ, "different history");
	cr_expect_not_null(strstr(errmsg_get(), "restore"), "names a remedy: %s", errmsg_get());
}

Test(attach, longer_member_of_another_history_refuses_the_mount)
{
	start(TWO, 1, 0);
	unmount();
	foreign_commit(&pm, 1);
	for (unsigned i = 2; i < 5; i++)
		foreign_commit(&sim_targets[0].pm, i);
	expect_mount_refused(-EILSEQ, "different history");
}

/* It was dropped before anything was acknowledged without it: its commits are its own affair. */
Test(attach, dropped_replica_of_another_history_is_refused_alone)
{
	start(TWO, 1, 0);
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	settle();
	write_sync(2);
	unmount();
	foreign_commit(&sim_targets[0].pm, 99);
	sim_targets[0].unreachable = false;
	expect_refused_alone("different history");
	cr_expect(slot(0)->differs);
}

/* The replica's ring has no place left that knows where the local copy stands. */
Test(attach, local_copy_too_far_behind_is_told_to_be_restored)
{
	uint8_t *before;

	start(TWO, 1, MEDIA_RING_BYTES_MIN);
	before = saved(&pm);
	for (unsigned i = 0; i < 3000 && copy_tail(sim_targets[0].copy).seq < 100; i++)
		write_sync((uint8_t)i);
	cr_assert_geq(copy_tail(sim_targets[0].copy).seq, 100);
	unmount();
	put_back(&pm, before);
	expect_mount_refused(-EILSEQ, "too far behind to be brought up");
}

/* ---------------------------------------------------------------- only looking */

Test(attach, comparing_read_only_fetches_nothing)
{
	uint8_t *before;
	uint64_t head;

	start(TWO, 1, 0);
	before = saved(&pm);
	head = copy_head(copy).seq;
	write_sync(4);
	unmount();
	put_back(&pm, before);
	cfg.read_only = true;
	cr_assert_eq(copy_open(&pm, true, &copy), 0);
	cr_assert_eq(replication_open(set, &cfg, &r), 0);
	replication_wait(r, 1000);
	cr_expect_eq(replication_compare(r, copy), 0, "%s", errmsg_get());
	cr_expect_eq(copy_head(copy).seq, head);
	cr_expect_eq(replication_timeout_ms(r), -1, "nothing is tried again");
}

/* ---------------------------------------------------------------- poolsets that cannot be served */

Test(attach, more_replicas_wanted_than_count_is_refused)
{
	start(TWO, 1, 0);
	unmount();
	cfg.min_replicas = 3;
	cr_expect_eq(replication_open(set, &cfg, &r), -EINVAL);
	cr_expect_not_null(strstr(errmsg_get(), "2 count"), "%s", errmsg_get());
	cr_expect_null(r);
}

Test(attach, second_local_replica_is_refused)
{
	static const char text[] = HEAD "REPLICA\n32M /nowhere/other.part\n";
	struct poolset *local;
	struct fs_state_omf state;

	start(TWO, 1, 0);
	unmount();
	cr_assert_eq(poolset_parse("pool.set", text, strlen(text), &local), 0, "%s", errmsg_get());
	cr_expect_eq(replication_open(local, &cfg, &r), -EINVAL);
	cr_expect_not_null(strstr(errmsg_get(), "pool.set:3"), "%s", errmsg_get());
	cr_expect_eq(replication_plan(local, REPLICATION_MIN_RECORDED, (const uint8_t[16]){ 0 }, &state), -EINVAL);
	cr_expect_not_null(strstr(errmsg_get(), "pool.set:3"), "%s", errmsg_get());
	poolset_free(local);
}

/* ---------------------------------------------------------------- lost on the way */

/* The first commit it is sent to catch up with kills it: the others go on, and it is tried again. */
Test(attach, replica_that_dies_while_it_catches_up_is_tried_again)
{
	uint8_t *before;

	start(TWO, 1, 0);
	before = saved(&sim_targets[0].pm);
	write_sync(4);
	write_sync(5);
	unmount();
	put_back(&sim_targets[0].pm, before);
	sim_targets[0].die_before = head_of(&sim_targets[0].pm) + 2;
	cr_assert_eq(mount(), 0, "%s", errmsg_get());
	settle();
	cr_expect_neq(slot(0)->state, SLOT_LIVE);
	write_sync(6);
	sim_targets[0].die_before = 0;
	retry();
	cr_expect_eq(slot(0)->state, SLOT_LIVE, "%s", slot(0)->reason);
	write_sync(8);
	expect_equal(0);
	expect_same_content(0);
}
