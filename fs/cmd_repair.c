/* rpmemfs fsck --repair: what a repair asks of the copies, and how it reaches them.
 *
 *   counts        every copy derives its own: put right in the local one alone, whatever the others are. With this a replica's
 *                 are mended too, on its machine, from its own poolset
 *   all else      contradicts itself under right checksums, so it is in the history. All copies must be there and must be the
 *                 same (verify): else one of them is better than this one, and a restore is the cure. The repair is then a
 *                 commit of a mount without a mount point, acknowledged by every copy, before this says that it is done
 *
 * So copies never diverge by a repair: cut off, the local copy is ahead of a replica by a commit at most, which the next mount
 * sends it, as after any other crash. Each step checks again under its own lock: nothing is repaired by an old report. */
#include "cmd.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include "errmsg.h"
#include "fsck.h"
#include "policy.h"
#include "restore.h"

#define ACK_MS 30000u   /* as a mount waits by default */
#define SLEEP_MS 20u

struct repair {
	const struct poolset *set;
	const char *provider;
	struct cmd_local local;
	struct replication *repl;
	struct fs *fs;
};

struct repair_wait {
	struct fs_waiter waiter;
	bool done;
	int err;
};

/* ---------------------------------------------------------------- refusing */

static int refuse(const struct poolset *set, const struct fsck_report *report, const char *why)
{
	printf("not repaired: %s\n", why);
	cmd_fsck_advise(set, report);
	return CMD_NOT_FINE;
}

/* Which copy is the better one is not known here: no word of overwriting one. */
static int refuse_alone(const struct poolset *set)
{
	printf("not repaired: the copies are not the same, or not all of them were reached\n"
	       "  what verify said above tells which; with all replicas running, a mount brings those up that are only behind:\n"
	       "  rpmemfs mount %s MOUNTPOINT && umount MOUNTPOINT\n", set->path);
	return CMD_NOT_FINE;
}

static uint64_t count_kind(const struct fsck_report *report, enum fsck_fix_kind kind)
{
	uint64_t count = 0;

	for (size_t i = 0; i < report->fix_count; i++)
		count += report->fixes[i].kind == kind;
	return count;
}

static void repaired(uint64_t count, const char *what)
{
	if (count != 0)
		printf("repaired: %" PRIu64 " %s\n", count, what);
}

/* ---------------------------------------------------------------- counts */

/* A replica by the record that may want records of this copy's ring, or have more; false: none. not_in: only one that this
 * poolset does not name. */
static bool member_find(const struct fs_state_omf *state, const struct poolset *not_in, char name[FS_MEMBER_NAME_BYTES + 1])
{
	for (uint32_t i = 1; i < le32_get(state->member_count); i++) {
		const struct fs_member_omf *member = &state->members[i];
		uint32_t known = le32_get(member->state);

		snprintf(name, FS_MEMBER_NAME_BYTES + 1, "%.*s", (int)FS_MEMBER_NAME_BYTES, (const char *)member->name);
		if ((known == FS_MEMBER_ATTACHED || known == FS_MEMBER_DETACHED) &&
		    (not_in == NULL || poolset_find(not_in, name) == NULL))
			return true;
	}
	return false;
}

/* Nothing waits in the ring any more. Records that another copy may lack are not applied here, where nobody asks it: which
 * copies there are, the pool knows, whatever the poolset names. */
static int counts_settle(struct copy *copy, const struct poolset *set)
{
	char name[FS_MEMBER_NAME_BYTES + 1];
	struct fs_state_omf state;
	int err;

	if (copy_head(copy).seq == copy_tail(copy).seq)
		return 0;
	err = attach_peek_state(copy, &state);
	if (err != 0)
		return err;
	if (member_find(&state, NULL, name))
		return errmsg_set(-EBUSY, "%s: commits wait to be replayed, which replica %s may lack\n  first, with all replicas "
				  "running, where the pool is mounted: rpmemfs mount POOLSET MOUNTPOINT && umount MOUNTPOINT",
				  set->path, name);
	return copy_checkpoint(copy, UINT64_MAX, UINT64_MAX);
}

/* Replay counts from what is there, on every copy: no commit is made while a count is wrong. */
static int counts_check(const struct fsck_report *report)
{
	return count_kind(report, FSCK_FIX_COUNT) == 0 ? 0 : errmsg_set(-EIO, "counts of blocks in use do not become right");
}

/* report: in the end, what is left. */
static int counts_mend(struct copy *copy, struct fsck_report *report)
{
	int err = fsck_copy(copy, report);

	if (err == 0 && !fsck_repairable(report))
		err = errmsg_set(-EAGAIN, "the pool has changed since it was checked: check it again");
	if (err == 0)
		err = fsck_repair_counts(copy, report);
	if (err != 0)
		return err;
	repaired(count_kind(report, FSCK_FIX_COUNT), "counts of blocks in use");
	fsck_report_free(report);
	err = fsck_copy(copy, report);
	return err == 0 ? counts_check(report) : err;
}

static int repair_counts(const struct poolset *set, struct fsck_report *report)
{
	struct cmd_local local;
	int err = cmd_local_open(set, 0, &local);

	if (err != 0)
		return err;
	err = counts_settle(local.copy, set);
	if (err == 0)
		err = counts_mend(local.copy, report);
	cmd_local_close(&local);
	return err;
}

/* ---------------------------------------------------------------- core and replicas */

static void wait_done(struct fs_waiter *waiter, int err)
{
	struct repair_wait *w = (struct repair_wait *)waiter;

	w->done = true;
	w->err = err;
}

/* Moves everything once, or sleeps until a link has something. True: something moved. */
static bool pump(struct repair *r)
{
	struct pollfd fds[REPLICATION_FDS_MAX];
	int links[REPLICATION_FDS_MAX];
	bool answers = replication_poll(r->repl), moved = fs_poll(r->fs);
	unsigned count;

	if (answers || moved)
		return true;
	count = replication_fds(r->repl, links);
	for (unsigned i = 0; i < count; i++)
		fds[i] = (struct pollfd){ .fd = links[i], .events = POLLIN };
	poll(fds, count, replication_may_block(r->repl) ? (int)SLEEP_MS : 0);
	return false;
}

/* What only grows while commits are made, answered and applied. */
static uint64_t way_gone(const struct repair *r)
{
	uint64_t sum = fs_committed_seq(r->fs) + copy_tail(r->local.copy).seq;
	struct replication_status status;

	replication_status(r->repl, &status);
	for (unsigned i = 0; i < status.replica_count; i++)
		sum += status.replicas[i].acked_seq + status.replicas[i].tail_seq;
	return sum;
}

/* How long a repair may stand still: as long as a commit may take, from the last that moved. */
struct patience {
	uint64_t by, gone;
};

static struct patience patience_begin(const struct repair *r)
{
	return (struct patience){ .by = policy_now_ms() + ACK_MS, .gone = way_gone(r) };
}

/* Pumps once; false: it stands still. */
static bool goes_on(struct repair *r, struct patience *p)
{
	uint64_t gone = pump(r) ? way_gone(r) : p->gone;

	if (gone != p->gone)
		*p = (struct patience){ .by = policy_now_ms() + ACK_MS, .gone = gone };
	return policy_now_ms() < p->by;
}

static bool all_in_place(const struct repair *r)
{
	return copy_tail(r->local.copy).seq == copy_head(r->local.copy).seq;
}

/* Everything committed, acknowledged by all copies, and applied in place. */
static int settle(struct repair *r)
{
	struct repair_wait w = { .waiter.done = wait_done };
	struct patience p = patience_begin(r);
	int err = fs_sync_all(r->fs, &w.waiter);

	if (err != 0)
		return err;
	while (!w.done && goes_on(r, &p))
		;
	if (!w.done) {
		fs_waiter_cancel(&w.waiter);
		return errmsg_set(-ETIMEDOUT, "the repair is not acknowledged by all copies: the next mount sends it to them");
	}
	err = w.err;
	while (err == 0 && !all_in_place(r)) {
		err = fs_checkpoint(r->fs);
		if (!goes_on(r, &p))
			break;
	}
	if (err == 0 && !all_in_place(r))
		err = errmsg_set(-ETIMEDOUT, "a replica was lost meanwhile: check the pool again after the next mount");
	return err;
}

/* Every replica of the poolset takes part. */
static int attached_check(const struct repair *r)
{
	struct replication_status status;

	replication_status(r->repl, &status);
	for (unsigned i = 0; i < status.replica_count; i++)
		if (status.replicas[i].state != REPLICATION_ATTACHED)
			return errmsg_set(-ENOTCONN, "replica %s: %s: a repair has to reach every copy", status.replicas[i].name,
					  status.replicas[i].reason);
	return 0;
}

/* As a mount begins. */
static int repair_open(struct repair *r)
{
	struct replication_cfg rc = {
		.provider = r->provider, .command = cmd_rpmemd(r->set), .min_replicas = REPLICATION_MIN_RECORDED, .spin = true,
	};
	struct fs_cfg fc = { .repl = &replication_ops, .push_bytes_min = FS_PUSH_BYTES_MIN };
	int err = cmd_local_open(r->set, 0, &r->local);

	if (err == 0)
		err = replication_epoch(r->local.copy, &rc.epoch);
	if (err == 0)
		err = replication_open(r->set, &rc, &r->repl);
	if (err != 0)
		return err;
	fc.repl_ctx = r->repl;
	replication_wait(r->repl, REPL_CONNECT_MS_DEFAULT);
	err = replication_compare(r->repl, r->local.copy);
	if (err == 0)
		err = fs_open(r->local.copy, &fc, &r->fs);
	if (err == 0)
		err = replication_start(r->repl, r->fs);
	if (err == 0)
		err = settle(r);
	return err == 0 ? attached_check(r) : err;
}

static void repair_close(struct repair *r)
{
	replication_close(r->repl);
	if (r->fs != NULL)
		fs_close(r->fs);
	cmd_local_close(&r->local);
}

static int repair_apply(struct repair *r, const struct fsck_report *report)
{
	struct patience p = patience_begin(r);
	size_t next = 0;
	int err;

	do
		err = fsck_repair(r->fs, report, &next);
	while (err == -EAGAIN && goes_on(r, &p));
	if (err == -EAGAIN)
		return errmsg_set(-ETIMEDOUT, "a replica does not answer: what was repaired until here the next mount sends it");
	return err == 0 ? settle(r) : err;
}

/* Rounds until nothing is left, for one report keeps FSCK_FIXES_MAX. report: in the end, what is left. */
static int repair_rounds(struct repair *r, struct fsck_report *report)
{
	int err = fsck_run(r->fs, report);

	while (err == 0 && fsck_repairable(report)) {
		uint64_t before = report->total;

		err = counts_check(report);
		if (err == 0)
			err = repair_apply(r, report);
		if (err == 0)
			err = attached_check(r);
		if (err != 0)
			break;
		repaired(count_kind(report, FSCK_FIX_LEAK), "leaked blocks freed");
		repaired(count_kind(report, FSCK_FIX_LINKS), "link counts");
		repaired(count_kind(report, FSCK_FIX_LOST), "inodes without a name, now in /lost+found");
		fsck_report_free(report);
		err = fsck_run(r->fs, report);
		if (err == 0 && report->total >= before)
			err = errmsg_set(-EIO, "findings do not become fewer by repairing them");
	}
	return err;
}

static int repair_commits(const struct poolset *set, const char *provider)
{
	struct repair r = { .set = set, .provider = provider };
	struct fsck_report left = { .total = 0 };
	int result = repair_open(&r);

	if (result == 0)
		result = repair_rounds(&r, &left);
	if (result == 0) {
		result = cmd_fsck_tell(set, &left);
		cmd_fsck_advise(set, &left);
	}
	fsck_report_free(&left);
	repair_close(&r);
	return result;
}

/* ---------------------------------------------------------------- all of it */

/* Who the pool knows has to be here, not only who the poolset names: a repair that a copy never hears of is a fork. */
static int members_check(const struct poolset *set)
{
	char name[FS_MEMBER_NAME_BYTES + 1];
	struct fs_state_omf state;
	struct cmd_local local;
	int err = cmd_local_open(set, 0, &local);

	if (err != 0)
		return err;
	err = attach_peek_state(local.copy, &state);
	if (err == 0 && copy_page(local.copy)->role == MEDIA_ROLE_REPLICA)
		err = errmsg_set(-EPERM, "%s: this is the copy of a replica, where only counts are repaired\n"
				 "  repair the pool where it is mounted; a repair there reaches this copy too", set->path);
	else if (err == 0 && member_find(&state, set, name))
		err = errmsg_set(-ENOTCONN, "%s: replica %s of this pool is not in it, and a repair has to reach every copy\n"
				 "  add its REPLICA line; if it is gone for good, mount the pool once without it", set->path, name);
	cmd_local_close(&local);
	return err;
}

/* Counts first: the core relies on them. left: what it leaves. */
static int repair_parts(const struct poolset *set, const char *provider, bool counts, struct fsck_report *left)
{
	const struct restore_cfg compare = {
		.set = set, .provider = provider, .command = cmd_rpmemd(set), .quiet = true,
	};

	int err;

	if (counts) {
		err = repair_counts(set, left);
		if (err != 0)
			return err;
		if (!fsck_repairable(left)) {
			cmd_fsck_advise(set, left);
			return cmd_fsck_tell(set, left);
		}
	}
	err = members_check(set);
	if (err != 0)
		return err;
	fflush(stdout);
	if (cmd_has_replica(set) && verify_run(&compare) != RESTORE_DONE)
		return refuse_alone(set);
	fflush(stdout);
	return repair_commits(set, provider);
}

int cmd_repair(const struct poolset *set, const char *provider, const struct fsck_report *report)
{
	struct fsck_report left = { .total = 0 };
	int result;

	if (report->hiding != 0)
		return refuse(set, report, "the damage hides what belongs where");
	if (!fsck_repairable(report))
		return refuse(set, report, "what the damaged blocks of files held is known to no other block");
	result = repair_parts(set, provider, count_kind(report, FSCK_FIX_COUNT) != 0, &left);
	fsck_report_free(&left);
	return result;
}
