/* What a link to a replica and its target call fails once, in turn, as in test_faults.c: at the initiator rpmem/link.c,
 * link_ops.c and what they stand on, at the target the control server and its engine on a file system's copy. Both run
 * in this process (tests/support/fault_rig.h).
 *
 * A run creates a replica, formats it, pushes data, commits three records that link it, checkpoints, reads it back,
 * overwrites and resets the copy as a resync does, fences it and closes. An owner drives it as the file system does: a
 * link that is DOWN is replaced, and what the copy has not got is sent again. A fault is told once, with errno and
 * cause, or not noticed at all; what was acknowledged is in the copy, byte by byte, there and after opening again;
 * descriptors, mappings and threads are those of before, and the next run works. */
#include "tests/support/link_rig.h"

#include <errno.h>
#include <sched.h>
#include "fabric.h"
#include "tests/support/fault_rig.h"
#include "tests/support/faults.h"

#define LIMIT 120
#define COMMITS 3u
#define POOL_BYTES (8u << 20) /* the least */
#define EPOCH 5u
#define STEP_TRIES 4u
#define GONE_MS 10000u /* an ended thread is listed until the kernel has put it away */

static struct link_rig rig;
static const uint8_t fence_id[16] = { 1, 2, 3 };

/* The history that every run makes, each record linking one block. */
static struct {
	struct repl_commit commit;
	struct repl_range range; /* with its bytes */
	uint8_t block[MEDIA_BLOCK_BYTES];
} history[COMMITS];

static struct {
	struct leftovers some;
	unsigned threads;
} before;

static unsigned threads_now(void)
{
	enum fault_side side = fault_side(FAULT_ASIDE);
	DIR *dir = opendir("/proc/self/task");
	unsigned count = 0;

	cr_assert(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	fault_side(side);
	return count - 2;
}

/* ---------------------------------------------------------------- one run */
static struct {
	enum fault_kind kind;
	enum fault_side side;
	struct fault_point point; /* site NULL: none */
	unsigned failures;
	uint64_t acked;
} now;

#define WHERE "%s %s +0x%lx time %u: "
#define HERE now.side == FAULT_NEAR ? "near" : "far", fault_names[now.kind], fault_offset(&now.point), now.point.nth

/* What an owner may be told, by what failed and where. A fabric connection that the other end gives up is lost or refused. */
#define FEW 5u
#define LOST ECONNRESET, EACCES
static bool errno_right(int err)
{
	static const struct {
		enum fault_kind kind;
		int near[FEW], far[FEW];
	} known[] = {
		{ FAULT_ALLOC, { ENOMEM }, { ENOMEM } },
		{ FAULT_MAP, { ENOMEM }, { ENOMEM, EIO, ECONNRESET } },
		{ FAULT_FILE, { EIO }, { EIO, EREMOTEIO } },
		{ FAULT_FD, { EMFILE, ENOMEM, EAGAIN }, { EREMOTEIO, ENOMEM, EMFILE, LOST } },
		{ FAULT_THREAD, { EAGAIN }, { EREMOTEIO, LOST } },
		{ FAULT_TALK, { ECONNRESET }, { ECONNRESET } },
		{ FAULT_CUT, { ECONNRESET }, { ECONNRESET } },
		{ FAULT_TORN, { ECONNRESET }, { ECONNRESET } },
		{ FAULT_POST, { EIO, ENOMEDIUM, ECONNRESET }, { EIO, ENOMEDIUM, LOST } },
		{ FAULT_WAIT, { EIO, ECONNRESET }, { LOST } },
		{ FAULT_EVENT, { ECONNABORTED, ECONNRESET }, { LOST } },
	};

	for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		for (unsigned j = 0; j < FEW && known[i].kind == now.kind; j++)
			if (err && err == (now.side == FAULT_NEAR ? known[i].near[j] : known[i].far[j]))
				return true;
	return false;
}

/* Something has failed: for the fault, once, and rightly so. */
static void failed(const char *what, int err, const char *text)
{
	bool hit;

	fault_disarm(&hit);
	cr_assert(hit, WHERE "%s: %d %s", HERE, what, err, text);
	cr_assert_eq(now.failures++, 0, WHERE "%s fails again: %d %s", HERE, what, err, text);
	cr_assert(errno_right(-err), WHERE "%s: errno %d %s", HERE, what, err, text);
	cr_assert(*text, WHERE "%s: no message", HERE, what);
}

static bool nothing_left(void)
{
	uint64_t end = channel_now_ns() + GONE_MS * 1000000ull;

	while (threads_now() != before.threads && channel_now_ns() < end)
		sched_yield();
	return leftovers_same(&before.some) && threads_now() == before.threads;
}

static void end_link(void)
{
	if (rig.link)
		rig.link->ops->close(rig.link);
	rig.link = NULL;
	cr_assert(nothing_left(), WHERE "%u descriptors, %ld bytes, %u threads, were %u, %ld, %u", HERE, fault_fds(),
		  fault_mapped(), threads_now(), before.some.fds, before.some.mapped, before.threads);
}

/* ---------------------------------------------------------------- what is in the copy */
static bool part_there(void)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/part", rig.dir);
	return !access(path, F_OK);
}

static void replica_remove(void)
{
	enum fault_side side = fault_side(FAULT_ASIDE);
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/part", rig.dir);
	unlink(path);
	fault_side(side);
}

/* The part file holds the bytes of every acknowledged commit. */
static void acked_is_there(void)
{
	enum fault_side side = fault_side(FAULT_ASIDE);
	uint8_t got[MEDIA_BLOCK_BYTES];
	char path[PATH_MAX];
	FILE *part;

	snprintf(path, sizeof(path), "%s/part", rig.dir);
	part = fopen(path, "r");
	cr_assert(part);
	for (uint64_t i = 0; i < now.acked; i++) {
		cr_assert_eq(fseek(part, (long)history[i].range.off, SEEK_SET), 0);
		cr_assert_eq(fread(got, 1, sizeof(got), part), sizeof(got));
		cr_assert_eq(memcmp(got, history[i].block, sizeof(got)), 0,
			     WHERE "commit %lu is acknowledged and not there", HERE, i + 1);
	}
	fclose(part);
	fault_side(side);
}

/* ---------------------------------------------------------------- the owner */
/* Until the link is UP: connected again when that failed. A pool that a failed creation has left is opened. */
static void connect_it(void)
{
	bool up = rig.link && rig.link->state == REPL_UP;

	while (!up) {
		int err;

		rig.cfg.create = !part_there();
		errmsg_clear();
		err = repl_link_open(&rig.replica, &rig.cfg, &rig.link);
		if (err) {
			rig.link = NULL;
			failed("repl_link_open", err, strerror(-err)); /* the errno is all that it says */
		} else if (repl_link_wait(rig.link)) {
			failed("connecting", rig.link->err, rig.link->err_text);
		} else {
			up = true;
			continue;
		}
		end_link();
	}
	if (rig.link->peer.formatted)
		cr_assert_geq(rig.link->acked, now.acked, WHERE "of %lu acknowledged %lu are there", HERE, now.acked,
			      rig.link->acked);
	else
		cr_assert_eq(now.acked, 0);
}

/* Sleeps on the link's descriptors, without a timeout: they must be enough. Then looks what came. */
static int turn(void)
{
	struct pollfd fds[2] = { { -1, POLLIN, 0 }, { -1, POLLIN, 0 } };
	enum fault_side side;
	int raw[2];

	if (rig.link->ops->may_block(rig.link)) {
		for (unsigned i = rig.link->ops->fds(rig.link, raw); i--;)
			fds[i].fd = raw[i];
		side = fault_side(FAULT_ASIDE);
		poll(fds, 2, -1);
		fault_side(side);
	}
	return rig.link->ops->poll(rig.link) == REPL_DOWN ? rig.link->err : 0;
}

/* ---------------------------------------------------------------- steps: each is repeated until it has come about */
/* Who formats makes a replica that was left half formatted anew. */
static int step_format(void)
{
	struct copy_format fmt = { .hash_seed = CHAIN_SEED, .ring_bytes = LINK_RIG_RING,
				   .page = { .role = MEDIA_ROLE_REPLICA, .state = MEDIA_CONSISTENT } };
	int err;

	if (rig.link->peer.formatted)
		return 0;
	memset(fmt.content_uuid, 0x11, sizeof(fmt.content_uuid));
	err = rig.link->ops->format(rig.link, &fmt);
	if (!err)
		err = rig.link->ops->refresh(rig.link);
	if (err)
		replica_remove();
	return err;
}

/* All but the second are pushed first, where the target offers it; the second carries its bytes with it. */
static int post_commit(unsigned i)
{
	struct repl_commit commit = history[i].commit;
	struct repl_range range = history[i].range;
	int err = 0;

	if (i != 1 && rig.link->peer.rma) {
		err = rig.link->ops->push(rig.link, &range, 1);
		range.src = NULL;
	}
	commit.ranges = &range;
	return err ? err : rig.link->ops->commit(rig.link, &commit);
}

static int step_commits(void)
{
	int err = 0;

	for (unsigned i = (unsigned)rig.link->acked; i < COMMITS && !err; i++)
		err = post_commit(i);
	while (!err && rig.link->acked < COMMITS)
		err = turn();
	now.acked = rig.link->acked > now.acked ? rig.link->acked : now.acked;
	acked_is_there();
	return err;
}

/* Its answer is waited for, not the tail_seq that it moves: a refusal leaves the tail where it was, and no more than a
 * line in the log: asked on the control channel, the target does it or says why. */
static int step_checkpoint(void)
{
	int err = rig.link->ops->checkpoint(rig.link, COMMITS);

	if (!err)
		err = rig.link->ops->settle(rig.link);
	if (!err)
		err = rig.link->ops->refresh(rig.link);
	if (err || rig.link->tail_seq == COMMITS)
		return err;
	cr_assert(fault_hit(), WHERE "tail is %lu, and nothing is amiss", HERE, rig.link->tail_seq);
	err = rig.link->ops->checkpoint_all(rig.link);
	if (!err)
		err = rig.link->ops->refresh(rig.link);
	cr_assert(err || rig.link->tail_seq == COMMITS, WHERE "tail stays %lu", HERE, rig.link->tail_seq);
	return err;
}

static int step_checkpoint_all(void)
{
	return rig.link->ops->checkpoint_all(rig.link);
}

static int step_read(void)
{
	static uint8_t got[COMMITS][MEDIA_BLOCK_BYTES];
	int err = 0;

	memset(got, 0, sizeof(got));
	for (unsigned i = 0; i < COMMITS && !err; i++)
		err = rig.link->ops->read(rig.link, history[i].range.off, got[i], sizeof(got[i]));
	if (!err)
		err = rig.link->ops->settle(rig.link);
	for (unsigned i = 0; i < COMMITS && !err; i++)
		cr_assert_eq(memcmp(got[i], history[i].block, sizeof(got[i])), 0, WHERE "other bytes are read", HERE);
	return err;
}

static int page_state(uint32_t state)
{
	struct copy_page page = rig.link->peer.page;

	page.state = state;
	return rig.link->ops->page(rig.link, &page);
}

/* As a resync that changes nothing: whatever comes between, the next one begins again. */
static int step_resync(void)
{
	struct copy_point at = { .seq = COMMITS, .hash = rig.chain.at.hash };
	int err = page_state(MEDIA_INCONSISTENT);

	for (unsigned i = 0; i < COMMITS && !err; i++)
		err = rig.link->ops->write(rig.link, &history[i].range, 1);
	if (!err)
		err = rig.link->ops->settle(rig.link);
	if (!err)
		err = rig.link->ops->reset(rig.link, &at, COMMITS);
	return err ? err : page_state(MEDIA_CONSISTENT);
}

static int step_fence(void)
{
	int err = rig.link->ops->refresh(rig.link);

	if (err || rig.link->peer.page.fence_epoch == EPOCH)
		return err;
	return rig.link->ops->fence(rig.link, 0, EPOCH, fence_id);
}

static const struct step {
	const char *name;
	int (*run)(void);
} steps[] = {
	{ "format", step_format }, { "commits", step_commits }, { "checkpoint", step_checkpoint },
	{ "read", step_read }, { "resync", step_resync }, { "checkpoint_all", step_checkpoint_all },
	{ "fence", step_fence }, { "read", step_read },
};

/* Refused, the link stays UP and errmsg says why; lost, it is DOWN and does itself. */
static void do_step(const struct step *step)
{
	for (unsigned i = 0; i < STEP_TRIES; i++) {
		int err;

		connect_it();
		errmsg_clear();
		err = step->run();
		if (!err)
			return;
		if (rig.link->state != REPL_DOWN) {
			failed(step->name, err, errmsg_get());
			/* The target ends this session, or checkpoints no more in it; or the pool is gone. */
			if (err == -EIO || step->run == step_format || step->run == step_checkpoint)
				end_link();
			continue;
		}
		cr_assert_eq(rig.link->err, err, WHERE "%s says %d, the link %d %s", HERE, step->name, err,
			     rig.link->err, rig.link->err_text);
		failed(step->name, err, rig.link->err_text);
		end_link();
	}
	cr_assert_fail(WHERE "%s does not come about", HERE, step->name);
}

/* What the owner has been told is what there is. */
static void look_again(void)
{
	fault_disarm(NULL);
	acked_is_there();
	connect_it();
	cr_assert_eq(rig.link->peer.head.seq, COMMITS, WHERE "head is %lu", HERE, rig.link->peer.head.seq);
	cr_assert_eq(memcmp(rig.link->peer.head.hash.b, rig.chain.at.hash.b, 16), 0, WHERE "another history", HERE);
	cr_assert_eq(rig.link->peer.tail.seq, COMMITS);
	cr_assert_eq(rig.link->peer.page.state, MEDIA_CONSISTENT);
	cr_assert_eq(rig.link->peer.page.fence_epoch, EPOCH);
	cr_assert_eq(step_read(), 0, WHERE "%s", HERE, errmsg_get());
	end_link();
}

static void life(void)
{
	now.failures = 0;
	now.acked = 0;
	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		do_step(&steps[i]);
	end_link();
	look_again();
	replica_remove();
}

/* ---------------------------------------------------------------- each in turn */
static void history_make(void)
{
	struct copy_point start = { 0 };
	struct media_geom geom;

	cr_assert_eq(copy_geometry(POOL_BYTES, LINK_RIG_RING, &geom), 0, "%s", errmsg_get());
	chain_init(&rig.chain, &geom, &start);
	for (unsigned i = 0; i < COMMITS; i++) {
		struct repl_commit *commit = &history[i].commit;
		void *rec;

		chain_content(i + 1, history[i].block);
		history[i].range = (struct repl_range){ .len = MEDIA_BLOCK_BYTES, .src = history[i].block };
		history[i].range.off = chain_next(&rig.chain, history[i].block, 1, &rec, &commit->rec_len);
		commit->seq = i + 1;
		commit->rec = rec;
		commit->range_count = 1;
	}
}

static void set_up(void)
{
	char text[256];

	link_rig_init(&rig, "");
	snprintf(text, sizeof(text), "PMEMPOOLSET\n8M %s/part\n", rig.dir);
	file_write(rig.dir, "r.set", text, 0600);
	rig.cfg.attr = &rig.attr;
	rig.cfg.epoch = EPOCH;
	far_serve(rig.dir);
	fault_on_disk(true); /* so that a fence is a call that can fail */
	cr_assert_eq(fab_load(), 0);
	history_make();
}

static void tear_down(void)
{
	for (unsigned i = 0; i < COMMITS; i++)
		free((void *)history[i].commit.rec);
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

TestSuite(rpmem_faults_link, .init = set_up, .fini = tear_down, .timeout = LIMIT);

static void before_take(void)
{
	before.some = leftovers_now();
	before.threads = threads_now();
}

static void first_life(void)
{
	cr_assert_eq(link_rig_open(&rig, true), 0, "%s", rig.link->err_text);
	link_rig_close(&rig);
}

static void each(enum fault_kind kind, enum fault_side side, unsigned least)
{
	first_life(); /* what stays for ever does so from here on */
	before_take();
	life();
	now.kind = kind;
	now.side = side;
	cr_expect_geq(fault_each(kind, side, life, &now.point), least);
}

/* Few tests of several kinds: each begins a process. */
#define EACH(kind, near, far)                \
	do {                                 \
		each(kind, FAULT_NEAR, near); \
		each(kind, FAULT_FAR, far);  \
	} while (0)

Test(rpmem_faults_link, allocations)
{
	EACH(FAULT_ALLOC, 10, 10);
}

Test(rpmem_faults_link, mappings_files_descriptors_threads)
{
	EACH(FAULT_MAP, 1, 1);
	EACH(FAULT_FILE, 0, 1);
	EACH(FAULT_FD, 1, 1);
	EACH(FAULT_THREAD, 1, 1);
}

Test(rpmem_faults_link, messages)
{
	EACH(FAULT_TALK, 1, 1);
	EACH(FAULT_CUT, 1, 1);
	EACH(FAULT_TORN, 1, 1);
}

Test(rpmem_faults_link, posts_waits_events)
{
	EACH(FAULT_POST, 1, 1);
	EACH(FAULT_WAIT, 1, 1);
	EACH(FAULT_EVENT, 1, 1);
}
