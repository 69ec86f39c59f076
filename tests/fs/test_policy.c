/* The replication policy over replicas in this process (sim_link): what is acknowledged when links are lost, come back,
 * are slow or have another history. After each story every copy that is attached must hold the local history. */
#include "tests/support/policy_rig.h"

TestSuite(policy, .timeout = 60, .fini = finish);

/* ---------------------------------------------------------------- the rule */

Test(policy, default_rule_is_a_majority_of_copies)
{
	static const uint32_t want[] = { 0, 1, 1, 2, 2, 3, 3, 4 };

	start(ONE, REPLICATION_MIN_RECORDED, 0);
	for (unsigned i = 0; i < sizeof(want) / sizeof(*want); i++)
		cr_expect_eq(replication_default_min(i), want[i], "%u replicas", i);
}

Test(policy, mkfs_and_mount_attach_all)
{
	struct replication_status s;

	start(TWO, REPLICATION_MIN_RECORDED, 0);
	replication_status(r, &s);
	cr_expect(s.as_configured && s.may_change);
	cr_expect_eq(s.attached, 2);
	cr_expect_eq(s.min_replicas, 1);
	cr_expect_eq(s.replicas[1].state, REPLICATION_ATTACHED);
	cr_expect_eq(s.replicas[1].lag, 0);
	expect_equal(0);
	expect_equal(1);
	expect_same_content(0);
}

Test(policy, replica_on_this_machine_counts_only_alone)
{
	struct replication_status s;

	start(HEAD "REPLICA h1 a.set\nREPLICA @local b.set\n", REPLICATION_MIN_RECORDED, 0);
	replication_status(r, &s);
	cr_expect_eq(s.attached, 1);
	cr_expect(!s.replicas[1].counts && s.replicas[1].same_machine);
	cr_expect_eq(s.replicas[1].state, REPLICATION_ATTACHED);
}

Test(policy, works_without_replicas)
{
	start(HEAD, REPLICATION_MIN_RECORDED, 0);
	write_sync(2);
}

/* ---------------------------------------------------------------- losing */

Test(policy, acknowledges_only_what_every_attached_copy_has)
{
	struct wait w;

	start(TWO, 1, 0);
	sim_targets[1].mute = true;
	write_at(0, 2, 4096);
	sync_start(&w);
	cr_expect_not(w.done);
	sim_target_release(&sim_targets[1]);
	settle();
	cr_expect(w.done && !w.err);
}

/* The commit in flight is acknowledged only together with the commit that records the loss. */
Test(policy, loss_in_flight_is_recorded_before_anything_is_acknowledged)
{
	uint64_t flying, acked;
	struct wait w;

	start(TWO, 1, 0);
	acked = fs_acked_seq(fs);
	sim_targets[0].die_before = copy_head(copy).seq + 1;
	sim_targets[1].mute = true;
	write_at(0, 2, 4096);
	sync_start(&w);
	flying = copy_head(copy).seq;
	cr_expect_not(w.done);
	cr_expect_eq(slot(0)->state, SLOT_DOWN);

	/* The other copy answers for the commit in flight and nothing else. */
	sim_targets[1].mute = false;
	replication_poll(r);
	sim_targets[1].mute = true;
	fs_poll(fs);
	cr_expect_eq(copy_head(copy).seq, flying + 1, "the loss is being recorded");
	settle();
	cr_expect_eq(fs_acked_seq(fs), acked, "durable, but the loss is not");
	cr_expect_not(w.done);

	sim_target_release(&sim_targets[1]);
	settle();
	cr_expect(w.done && !w.err);
	cr_expect_eq(member_state(0), FS_MEMBER_DETACHED);
	cr_expect_eq(slot(0)->mark, flying - 1);
	expect_equal(1);
}

Test(policy, below_the_rule_nothing_changes_or_is_acknowledged)
{
	struct replication_status s;
	struct wait w;

	start(ONE, 1, 0);
	write_at(0, 2, 4096);
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	sync_start(&w);
	cr_expect_not(w.done);
	cr_expect_eq(fs_create(fs, FS_ROOT_INO, "g", S_IFREG | 0644, 0, &cred, &(uint64_t){ 0 }), -EAGAIN);
	replication_status(r, &s);
	cr_expect(!s.may_change && s.why_not[0] && !s.as_configured);
	cr_expect_eq(s.replicas[0].state, REPLICATION_CONNECTING);
	cr_expect_eq(member_state(0), FS_MEMBER_ATTACHED, "nothing to record: nobody goes on without it");

	retry();
	replication_status(r, &s);
	cr_expect(s.may_change && s.as_configured, "%s", s.why_not);
	settle();
	cr_expect(w.done && !w.err);
	expect_equal(0);
	expect_same_content(0);
}

Test(policy, zero_required_goes_on_alone)
{
	start(ONE, 0, 0);
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	settle();
	write_sync(2);
	cr_expect_eq(member_state(0), FS_MEMBER_DETACHED);
}

Test(policy, answer_lost_after_the_commit_was_handled)
{
	struct wait w;

	start(TWO, 1, 0);
	sim_targets[0].die_after = copy_head(copy).seq + 1;
	write_at(0, 2, 4096);
	sync_start(&w);
	cr_expect(w.done && !w.err);
	sim_targets[0].die_after = 0;
	retry();
	cr_expect_eq(member_state(0), FS_MEMBER_ATTACHED);
	expect_equal(0);
}

/* ---------------------------------------------------------------- coming back */

Test(policy, returning_replica_catches_up_from_the_ring)
{
	start(TWO, 1, 0);
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	for (uint8_t i = 2; i < 30; i++)
		write_sync(i);
	write_at(0, 77, 300000);
	write_sync(31);
	sim_targets[0].unreachable = false;
	retry();
	cr_expect_eq(slot(0)->state, SLOT_LIVE, "%s", slot(0)->reason);
	cr_expect_eq(member_state(0), FS_MEMBER_ATTACHED);
	expect_equal(0);
	expect_same_content(0);
}

/* A record's data may lie in blocks that the record before freed: never two at once. */
Test(policy, catching_up_sends_one_record_at_a_time)
{
	uint64_t before;

	start(TWO, 1, 0);
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	for (uint8_t i = 2; i < 10; i++)
		write_sync(i);
	sim_targets[0].unreachable = false;
	sim_targets[0].hold = true;
	before = slot(0)->mark;
	retry();
	cr_expect_eq(slot(0)->state, SLOT_CATCHING);
	cr_expect_eq(slot(0)->sent, before + 1);
	sim_target_release(&sim_targets[0]);
	settle();
	cr_expect_eq(slot(0)->state, SLOT_LIVE, "%s", slot(0)->reason);
	expect_equal(0);
}

/* What was pushed to the others before it went live reaches it inside the commit. */
Test(policy, pushes_made_before_it_went_live_are_sent_inside)
{
	struct wait w;

	start(TWO, 1, 0);
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	settle();
	write_at(0, 9, 256 << 10);
	cr_assert_gt(sim_targets[1].pushes, 0);
	sim_targets[0].unreachable = false;
	retry();
	sync_start(&w);
	cr_expect(w.done && !w.err);
	cr_expect_eq(slot(0)->state, SLOT_LIVE, "%s", slot(0)->reason);
	expect_equal(0);
	expect_same_content(0);
}

Test(policy, different_history_is_refused)
{
	char hash[9];
	struct copy_point theirs;
	struct copy *other;

	start(TWO, 1, 0);
	/* The replica alone takes a commit that the others never see. */
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	settle();
	foreign_commit(&sim_targets[0].pm, 99);
	cr_assert_not_null(other = sim_copy_get(&sim_targets[0]));
	theirs = copy_head(other);
	sim_copy_put(&sim_targets[0], other);
	write_sync(2);
	sim_targets[0].unreachable = false;
	retry();
	cr_expect_eq(slot(0)->state, SLOT_REFUSED);
	snprintf(hash, sizeof(hash), "%02x%02x%02x%02x", theirs.hash.b[0], theirs.hash.b[1], theirs.hash.b[2],
		theirs.hash.b[3]);
	cr_expect_not_null(strstr(slot(0)->reason, hash), "names its short hash: %s", slot(0)->reason);
	cr_expect_not_null(strstr(slot(0)->reason, "restore"), "names a remedy");
	write_sync(3);
}

/* ---------------------------------------------------------------- space */

Test(policy, detached_replica_is_released_when_the_ring_is_full)
{
	start(TWO, 1, MEDIA_RING_BYTES_MIN);
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	settle();
	for (unsigned i = 0; i < 3000 && slot(0)->member != FS_MEMBER_RELEASED; i++)
		write_sync((uint8_t)i);
	cr_expect_eq(slot(0)->member, FS_MEMBER_RELEASED);
	cr_expect_eq(member_state(0), FS_MEMBER_RELEASED);
	for (unsigned i = 0; i < 1000; i++)
		write_sync((uint8_t)i);
	sim_targets[0].unreachable = false;
	retry();
	cr_expect_eq(slot(0)->state, SLOT_REFUSED);
	cr_expect_not_null(strstr(slot(0)->reason, "whole copy"), "%s", slot(0)->reason);
	expect_equal(1);
}

/* ---------------------------------------------------------------- mounting again */

/* A commit that reached only the replicas is fetched from them. */
Test(policy, local_copy_behind_is_brought_up)
{
	uint8_t *before = malloc(POOL_BYTES);
	uint64_t head;

	start(TWO, 1, 0);
	memcpy(before, pm.base, POOL_BYTES);
	write_at(4096, 5, 100000);
	write_sync(6);
	head = copy_head(copy).seq;
	unmount();
	memcpy(pm.base, before, POOL_BYTES);
	free(before);
	cr_assert_eq(mount(), 0, "%s", errmsg_get());
	settle();
	cr_expect_eq(copy_head(copy).seq, head + 1, "and the mount's own commit");
	expect_equal(0);
	expect_equal(1);
	expect_same_content(1);
}

Test(policy, replica_behind_is_caught_up_before_the_first_commit)
{
	uint8_t *before = malloc(POOL_BYTES);

	start(TWO, 1, 0);
	memcpy(before, sim_targets[1].pm.base, POOL_BYTES);
	write_at(4096, 5, 100000);
	write_sync(6);
	unmount();
	memcpy(sim_targets[1].pm.base, before, POOL_BYTES);
	free(before);
	cr_assert_eq(mount(), 0, "%s", errmsg_get());
	settle();
	cr_expect_eq(epoch(), 1, "nobody is missing");
	expect_equal(1);
	expect_same_content(1);
}

Test(policy, mount_without_a_member_raises_the_epoch)
{
	start(TWO, 1, 0);
	unmount();
	sim_targets[0].unreachable = true;
	cr_assert_eq(mount(), 0, "%s", errmsg_get());
	settle();
	cr_expect_eq(epoch(), 2);
	cr_expect_eq(member_state(0), FS_MEMBER_DETACHED);
	sim_targets[0].unreachable = false;
	retry();
	cr_expect_eq(slot(0)->state, SLOT_LIVE, "%s", slot(0)->reason);
	expect_equal(0);
}

Test(policy, mount_below_the_rule_is_refused)
{
	start(THREE, REPLICATION_MIN_RECORDED, 0);
	unmount();
	sim_targets[0].unreachable = sim_targets[2].unreachable = true;
	cr_expect_eq(mount(), -ENOTCONN);
	cr_expect_not_null(strstr(errmsg_get(), "not reached"), "%s", errmsg_get());
}

Test(policy, fenced_replica_makes_this_an_old_primary)
{
	struct copy *other;
	struct copy_page page;

	start(TWO, 1, 0);
	unmount();
	cr_assert_eq(copy_open(&sim_targets[1].pm, false, &other), 0);
	page = *copy_page(other);
	page.fence_epoch = 7;
	cr_assert_eq(copy_page_set(other, &page), 0);
	copy_close(other);
	cr_expect_eq(mount(), -ESTALE);
	cr_expect_not_null(strstr(errmsg_get(), "old"), "%s", errmsg_get());
}

/* Somebody takes over while we run: nothing more is acknowledged, with however few replicas. */
Test(policy, takeover_under_way_stops_everything)
{
	struct copy *other;
	struct copy_page page;
	struct wait w;

	start(ONE, 0, 0);
	sim_target_cut(&sim_targets[0], -ESTALE);
	replication_poll(r);
	cr_assert_eq(copy_open(&sim_targets[0].pm, false, &other), 0);
	page = *copy_page(other);
	page.fence_epoch = 7;
	cr_assert_eq(copy_page_set(other, &page), 0);
	copy_close(other);
	cr_expect(r->fenced);
	cr_expect_eq(fs_create(fs, FS_ROOT_INO, "g", S_IFREG | 0644, 0, &cred, &(uint64_t){ 0 }), -EROFS);
	w = (struct wait){ .w.done = wait_done };
	(void)fs_sync_all(fs, &w.w);
	settle();
}

Test(policy, changed_rule_is_recorded)
{
	struct replication_status s;
	struct fs_state_omf state;

	start(TWO, 1, 0);
	unmount();
	cfg.min_replicas = 2;
	cr_assert_eq(mount(), 0, "%s", errmsg_get());
	settle();
	replication_status(r, &s);
	cr_expect_eq(s.min_replicas, 2);
	cr_assert_eq(attach_peek_state(copy, &state), 0);
	cr_expect_eq(le32_get(state.min_replicas), 2);
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	settle();
	replication_status(r, &s);
	cr_expect_not(s.may_change);
}

/* The only replica is gone for good: the way out is to say so by name, with the rule that then holds. */
Test(policy, members_declared_dead_by_name_are_gone_on_without)
{
	struct replication_status s;
	static const char *const wrong[] = { NULL, "b", "", "a,b", "a,", ",a", "aa" };

	start(ONE, 1, 0);
	write_sync(7);
	unmount();
	sim_targets[0].unreachable = true;
	cfg.min_replicas = 0;
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		cfg.without = wrong[i];
		cr_expect_eq(mount(), -ENOTCONN, "%s", wrong[i]);
		cr_expect_not_null(strstr(errmsg_get(), "--min-replicas 0 --force --without a"), "%s", errmsg_get());
		unmount();
	}
	cfg.without = "a";
	cfg.min_replicas = REPLICATION_MIN_RECORDED;
	cr_expect_eq(mount(), -ENOTCONN, "the recorded rule would never be fulfilled");
	unmount();

	cfg.min_replicas = 0;
	cr_assert_eq(mount(), 0, "%s", errmsg_get());
	settle();
	cr_expect_eq(epoch(), 2);
	cr_expect_eq(member_state(0), FS_MEMBER_DETACHED);
	replication_status(r, &s);
	cr_expect(s.may_change && !s.as_configured);
	cr_expect_eq(s.min_replicas, 0);
	cr_expect_eq(fs_opened(fs, ino), 0);
	write_sync(8);
	unmount();

	cfg = (struct replication_cfg){ .min_replicas = REPLICATION_MIN_RECORDED, .link_open = sim_link_open };
	cr_assert_eq(mount(), 0, "recorded: %s", errmsg_get());
	settle();
	sim_targets[0].unreachable = false;
	retry();
	cr_expect_eq(slot(0)->state, SLOT_LIVE, "not so dead, and in line: %s", slot(0)->reason);
	expect_equal(0);
}

/* Whoever is alive need not be named; a member that the poolset no longer names must. */
Test(policy, member_taken_out_of_the_poolset_is_declared_dead_too)
{
	struct poolset *one;

	start(TWO, 2, 0);
	unmount();
	cr_assert_eq(poolset_parse("pool.set", ONE, strlen(ONE), &one), 0);
	poolset_free(set);
	set = one;
	cfg.min_replicas = 1;
	cr_expect_eq(mount(), -ENOTCONN);
	cr_expect_not_null(strstr(errmsg_get(), "--min-replicas 1 --force --without b"), "%s", errmsg_get());
	unmount();
	cfg.without = "b";
	cr_assert_eq(mount(), 0, "%s", errmsg_get());
	settle();
	cr_expect_eq(fs_opened(fs, ino), 0);
	write_sync(8);
	expect_equal(0);
}

/* One that catches up keeps in its ring what one farther behind still lacks: should the local copy be lost, the other is
 * brought up from it. */
Test(policy, caught_up_replica_keeps_records_that_another_one_lacks)
{
	const uint64_t enough = MEDIA_RING_BYTES_MIN / 3; /* for the engine not to wait for a quiet moment */
	uint64_t behind;

	start(TWO, 0, MEDIA_RING_BYTES_MIN);
	sim_targets[1].unreachable = true;
	sim_target_cut(&sim_targets[1], -ECONNRESET);
	settle();
	behind = slot(1)->mark;
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	for (unsigned i = 0; i < 3000 && copy_ring_used(copy) < enough; i++)
		write_sync((uint8_t)i);
	sim_targets[0].unreachable = false;
	retry();
	cr_expect_eq(slot(0)->state, SLOT_LIVE, "%s", slot(0)->reason);
	for (unsigned i = 0; i < 100 && engine_idle(sim_targets[0].engine); i++)
		;
	cr_expect_leq(copy_tail(sim_targets[0].copy).seq, behind);
	sim_targets[1].unreachable = false;
	retry();
	expect_equal(1);
}

static unsigned asked;

static int chain_asked(struct repl_link *link, uint64_t seq, struct copy_point *point)
{
	(void)link, (void)seq, (void)point;
	asked++;
	return -ETIMEDOUT;
}

static struct repl_link_ops ops;

static int open_counting(const struct poolset_replica *replica, const struct repl_cfg *rc, struct repl_link **out)
{
	int err = sim_link_open(replica, rc, out);

	if (err)
		return err;
	ops = *(*out)->ops;
	ops.chain = chain_asked;
	(*out)->ops = &ops;
	return 0;
}

/* A replica that returns with more than we ever made is refused; the loop does not wait for its answers. */
Test(policy, returning_replica_that_is_ahead_is_refused_unasked)
{
	struct copy *other;
	struct copy_page page;
	struct copy_point at;

	start(TWO, 1, 0);
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	settle();
	cr_assert_eq(copy_open(&sim_targets[0].pm, false, &other), 0);
	page = *copy_page(other);
	page.state = MEDIA_INCONSISTENT;
	cr_assert_eq(copy_page_set(other, &page), 0);
	at = copy_head(other);
	at.seq += 100;
	cr_assert_eq(copy_reset(other, &at, copy_used_blks(other)), 0, "%s", errmsg_get());
	page.state = MEDIA_CONSISTENT;
	cr_assert_eq(copy_page_set(other, &page), 0);
	copy_close(other);
	sim_targets[0].unreachable = false;
	r->cfg.link_open = open_counting;
	retry();
	cr_expect_eq(slot(0)->state, SLOT_REFUSED);
	cr_expect_not_null(strstr(slot(0)->reason, "never made"), "%s", slot(0)->reason);
	cr_expect_eq(asked, 0);
	write_sync(2);
}

/* Somebody took the copy over while it was away: this is an old primary, and acknowledges nothing more. */
Test(policy, returning_replica_that_is_fenced_makes_this_an_old_primary)
{
	struct copy *other;
	struct copy_page page;
	struct wait w = { .w.done = wait_done };

	start(TWO, 1, 0);
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	settle();
	write_sync(2);
	cr_assert_eq(copy_open(&sim_targets[0].pm, false, &other), 0);
	page = *copy_page(other);
	page.fence_epoch = 7;
	cr_assert_eq(copy_page_set(other, &page), 0);
	copy_close(other);
	sim_targets[0].unreachable = false;
	write_at(0, 3, 4096);
	retry();
	cr_expect_eq(slot(0)->state, SLOT_REFUSED);
	cr_expect(r->fenced);
	cr_expect_eq(fs_create(fs, FS_ROOT_INO, "g", S_IFREG | 0644, 0, &cred, &(uint64_t){ 0 }), -EROFS);
	(void)fs_sync_all(fs, &w.w);
	settle();
	cr_expect(!w.done || w.err, "acknowledged by an old primary");
}

/* The replica falls silent between the comparison and the mount's first commit: what lowers the rule is on the local copy
 * alone, and the copy that is gone still records the old rule: a restore from it would call itself proven. */
Test(policy, lowered_rule_is_not_in_force_before_the_old_one_is_fulfilled)
{
	struct replication_status s;
	struct wait w;

	start(ONE, 1, 0);
	unmount();
	cfg.min_replicas = 0;
	cr_assert_eq(mount(), 0, "%s", errmsg_get());
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ETIMEDOUT);
	settle();
	replication_status(r, &s);
	cr_expect_eq(s.min_replicas, 1);
	cr_expect_not(s.may_change);
	w = (struct wait){ .w.done = wait_done };
	(void)fs_sync_all(fs, &w.w);
	settle();
	cr_expect_not(w.done, "acknowledged by the local copy alone");

	sim_targets[0].unreachable = false;
	retry();
	cr_expect(w.done && !w.err);
	replication_status(r, &s);
	cr_expect_eq(s.min_replicas, 0);
	cr_expect_eq(fs_opened(fs, ino), 0);
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ETIMEDOUT);
	settle();
	write_sync(3);
}

/* Below the rule nothing that is given up would help: changes wait in any case. */
Test(policy, nobody_is_released_below_the_rule)
{
	start(ONE, 1, 0);
	sim_targets[0].unreachable = true;
	sim_target_cut(&sim_targets[0], -ECONNRESET);
	settle();
	for (unsigned i = 0; i < 3; i++) {
		replication_ops.need_release(r);
		settle();
	}
	cr_expect_eq(slot(0)->member, FS_MEMBER_ATTACHED);
	cr_expect_eq(member_state(0), FS_MEMBER_ATTACHED);
	sim_targets[0].unreachable = false;
	retry();
	cr_expect_eq(slot(0)->state, SLOT_LIVE, "%s", slot(0)->reason);
	write_sync(2);
	expect_equal(0);
}

/* Two are lost together, below the rule, with a commit in flight and the next one waiting: both are closed, neither loss is
 * recorded, and the machine dies. The next mount goes on without one of them, and keeps the records that it lacks: more than
 * the newest one. */
Test(policy, copies_lost_together_before_a_crash_are_caught_up)
{
	struct wait first, second;
	uint64_t had;

	start(THREE, REPLICATION_MIN_RECORDED, 0);
	had = copy_head(copy).seq;
	sim_targets[0].hold = sim_targets[1].hold = true;
	write_at(0, 2, 4096);
	sync_start(&first);
	write_at(0, 3, 4096);
	sync_start(&second);
	for (unsigned i = 0; i < 2; i++) {
		sim_targets[i].unreachable = true;
		sim_target_cut(&sim_targets[i], -ECONNRESET);
	}
	settle();
	cr_assert(!first.done && !second.done, "below the rule");
	cr_assert_eq(copy_head(copy).seq, had + 2);
	unmount();

	sim_targets[0].unreachable = sim_targets[0].hold = sim_targets[1].hold = false;
	cr_assert_eq(mount(), 0, "%s", errmsg_get());
	settle();
	cr_expect_eq(member_state(1), FS_MEMBER_DETACHED);
	cr_expect_leq(slot(1)->mark, had);
	cr_assert_eq(fs_opened(fs, ino), 0);
	write_sync(4);
	cr_assert_eq(fs_checkpoint(fs), 0, "%s", errmsg_get());
	sim_targets[1].unreachable = false;
	retry();
	cr_expect_eq(slot(1)->state, SLOT_LIVE, "%s", slot(1)->reason);
	expect_equal(0);
	expect_equal(1);
	expect_same_content(1);
}
