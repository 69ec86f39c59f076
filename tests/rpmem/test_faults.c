/* What librpmem and its target call fails once, in turn: allocations, descriptors, threads, mappings, system calls on
 * files, messages of the control channel (refused, cut off, torn), everything posted to the fabric and each look at
 * what came of it; at the initiator and at the target. Both run in this process (tests/support/fault_rig.h).
 *
 * A run creates a pool, persists, flushes and drains in every way on two lanes, changes its attributes, reads,
 * closes, opens, compares and removes. A call that fails says so with the right errno, leaves nothing behind, and
 * works when it is tried again; what was acknowledged is in the pool, byte by byte; a data call fails for want of
 * memory or descriptors and for a medium that failed only, because sessions are replaced. */
#include "tests/support/rpmem_rig.h"

#include <poll.h>
#include "fabric.h"
#include "tests/support/fault_rig.h"
#include "tests/support/faults.h"

#define LIMIT 120
#define LANES 2u
#define PIECE (96u << 10) /* one-sided when relaxed, and more than one message */
#define SMALL 200u
#define FIRST_OFF 8192u
#define WAIT_MS 30000
#define POOL_BYTES ((size_t)2 << 20) /* the least: most of a run's time goes into making it */

static struct rpmem_rig rig;
static struct leftovers before;

static void set_up(void)
{
	rig_init(&rig, "");
	rig_file(&rig, "r.set", "PMEMPOOLSET\n%zu %s/part\n", POOL_BYTES, rig.dir);
	rig.lanes = LANES;
	far_serve(rig.dir);
	cr_assert_eq(fab_load(), 0);
}

static void tear_down(void)
{
	rig_fini(&rig);
}

TestSuite(rpmem_faults, .init = set_up, .fini = tear_down, .timeout = LIMIT);

/* ---------------------------------------------------------------- one run */
static struct {
	enum fault_kind kind;
	enum fault_side side;
	struct fault_point point; /* site NULL: none */
	unsigned failures;
	unsigned seed;
} now;

#define WHERE "%s %s +0x%lx time %u: "
#define HERE now.side == FAULT_NEAR ? "near" : "far", fault_names[now.kind], fault_offset(&now.point), now.point.nth

/* What a caller may be told, by what failed and where. */
static bool errno_right(int err)
{
	static const struct {
		enum fault_kind kind;
		int near[4], far[4];
	} known[] = {
		{ FAULT_ALLOC, { ENOMEM }, { ENOMEM } },
		{ FAULT_MAP, { ENOMEM }, { ENOMEM, EIO } },
		{ FAULT_FILE, { EIO }, { EIO, EREMOTEIO } },
		{ FAULT_FD, { EMFILE, ENOMEM }, { EREMOTEIO, ENOMEM, EMFILE /* it cannot start */, ECONNRESET } },
		{ FAULT_THREAD, { EAGAIN }, { EREMOTEIO, ECONNRESET } },
		{ FAULT_TALK, { ECONNRESET }, { ECONNRESET } },
		{ FAULT_CUT, { ECONNRESET }, { ECONNRESET } },
		{ FAULT_TORN, { ECONNRESET }, { ECONNRESET } },
		{ FAULT_POST, { EIO, ENOMEDIUM, ECONNRESET }, { EIO, EMEDIUMTYPE, ECONNRESET } },
		{ FAULT_WAIT, { ECONNRESET }, { ECONNRESET } },
		{ FAULT_EVENT, { ECONNRESET }, { ECONNRESET } },
	};

	for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		for (unsigned j = 0; j < 4 && known[i].kind == now.kind; j++)
			if (err == (now.side == FAULT_NEAR ? known[i].near[j] : known[i].far[j]))
				return err;
	return false;
}

/* A call has failed: for the fault, once, and rightly so. */
static void failed(const char *call)
{
	int err = errno;
	bool hit;

	fault_disarm(&hit);
	cr_assert(hit, WHERE "%s: %d %s", HERE, call, err, rpmem_errormsg());
	cr_assert_eq(now.failures++, 0, WHERE "%s fails again: %d %s", HERE, call, err, rpmem_errormsg());
	cr_assert(errno_right(err), WHERE "%s: errno %d %s", HERE, call, err, rpmem_errormsg());
	cr_assert(*rpmem_errormsg(), WHERE "%s: no message", HERE, call);
}

/* The part file holds the region's bytes. */
static bool part_same(size_t off, size_t len)
{
	enum fault_side side = fault_side(FAULT_ASIDE);
	bool same = rig_same(&rig, off, len);

	fault_side(side);
	return same;
}

static bool part_there(void)
{
	char path[PATH_MAX];

	rig_path(&rig, "part", path);
	return !access(path, F_OK);
}

static void create(void)
{
	while (!(rig.pool = rpmem_create("@local", "r.set", rig.region, POOL_BYTES, &rig.lanes, &rig.attr))) {
		failed("rpmem_create");
		cr_assert_not(part_there(), WHERE "a create that failed has left its part", HERE);
		cr_assert(leftovers_same(&before), WHERE "%u descriptors, %ld bytes, were %u, %ld", HERE, fault_fds(),
			  fault_mapped(), before.fds, before.mapped);
		rig.lanes = LANES;
	}
}

static void open_again(void)
{
	struct rpmem_pool_attr attr;

	rig.lanes = LANES;
	while (!(rig.pool = rpmem_open("@local", "r.set", rig.region, POOL_BYTES, &rig.lanes, &attr)))
		failed("rpmem_open");
	cr_assert(attr.major == rig.attr.major, WHERE "attributes of %u, not %u", HERE, attr.major, rig.attr.major);
}

static void close_it(void)
{
	if (rpmem_close(rig.pool))
		failed("rpmem_close");
	rig.pool = NULL;
	cr_assert(leftovers_same(&before), WHERE "%u descriptors, %ld bytes, were %u, %ld", HERE, fault_fds(),
		  fault_mapped(), before.fds, before.mapped);
}

/* A medium that failed ends the handle; any other failure is one of that call. */
static void failed_data(const char *call)
{
	bool medium = errno == EIO && now.side == FAULT_FAR && now.kind == FAULT_MAP;

	cr_assert(medium || errno == ENOMEM || errno == EMFILE, WHERE "%s: errno %d %s", HERE, call, errno, rpmem_errormsg());
	failed(call);
	if (!medium)
		return;
	cr_assert_eq(rpmem_persist(rig.pool, FIRST_OFF, 8, 0, 0), -1);
	cr_assert_eq(errno, EIO, "an ended handle says why");
	cr_assert_eq(rpmem_close(rig.pool), -1);
	open_again();
}

/* ---------------------------------------------------------------- data */
static size_t piece_off(unsigned i)
{
	return FIRST_OFF + (size_t)i * PIECE;
}

static int drain_polled(unsigned lane)
{
	int ret = rpmem_drain_start(rig.pool, lane), fd = ret ? -1 : rpmem_lane_fd(rig.pool, lane);

	if (ret || fd < 0)
		return -1;
	while ((ret = rpmem_drain_poll(rig.pool, lane)) == 1)
		poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, WAIT_MS);
	return ret;
}

/* One range made durable, each in another way. */
static int put(unsigned way)
{
	const unsigned relaxed = RPMEM_PERSIST_RELAXED, lane = way % LANES;
	size_t off = piece_off(way);
	struct rpmem_range pieces[] = { { off, SMALL }, { off + PIECE / 2, PIECE / 2 }, { off + SMALL, PIECE / 2 - SMALL } };

	switch (way) {
	case 0:
		return rpmem_persist(rig.pool, off, PIECE, lane, 0);
	case 1:
		return rpmem_persist(rig.pool, off, PIECE, lane, relaxed);
	case 2:
		return rpmem_deep_persist(rig.pool, off, PIECE, lane);
	case 3:
		return rpmem_flushv(rig.pool, pieces, 3, lane, 0) ? -1 : rpmem_drain(rig.pool, lane, 0);
	case 4:
		return rpmem_flush(rig.pool, off, PIECE, lane, relaxed) ? -1 : drain_polled(lane);
	case 5:
		return rpmem_flush(rig.pool, off, PIECE, lane, 0) || rpmem_drain_start(rig.pool, lane) ? -1 :
			       rpmem_drain_wait(rig.pool, lane, WAIT_MS);
	default:
		return rpmem_group_persist(&rig.pool, 1, off, PIECE, lane, 0);
	}
}
#define WAYS 7u

static void put_all(void)
{
	for (unsigned way = 0; way < WAYS; way++) {
		rig_fill(&rig, piece_off(way), PIECE, now.seed + way);
		if (put(way)) {
			failed_data("persist");
			cr_assert_eq(put(way), 0, WHERE "way %u again: %d %s", HERE, way, errno, rpmem_errormsg());
		}
		cr_assert(part_same(piece_off(way), PIECE), WHERE "acknowledged and not there: way %u", HERE, way);
	}
}

static void read_all(void)
{
	static char back[WAYS * PIECE];

	for (unsigned lane = 0; lane < LANES; lane++) {
		memset(back, 0, sizeof(back));
		if (rpmem_read(rig.pool, back, FIRST_OFF, sizeof(back), lane)) {
			failed_data("rpmem_read");
			cr_assert_eq(rpmem_read(rig.pool, back, FIRST_OFF, sizeof(back), lane), 0, "%s", rpmem_errormsg());
		}
		cr_assert_eq(memcmp(back, rig.region + FIRST_OFF, sizeof(back)), 0, WHERE "other bytes are read", HERE);
	}
}

static void change_attr(void)
{
	rig.attr.major++;
	if (rpmem_set_attr(rig.pool, &rig.attr)) {
		failed_data("rpmem_set_attr");
		cr_assert_eq(rpmem_set_attr(rig.pool, &rig.attr), 0, WHERE "%d %s", HERE, errno, rpmem_errormsg());
	}
}

static void remove_it(void)
{
	if (rpmem_remove("@local", "r.set", 0)) {
		failed("rpmem_remove");
		cr_assert_eq(rpmem_remove("@local", "r.set", RPMEM_REMOVE_FORCE), 0, WHERE "%s", HERE, rpmem_errormsg());
	}
	cr_assert_not(part_there(), WHERE "removed and there", HERE);
}

static void life(void)
{
	now.failures = 0;
	now.seed++;
	create();
	put_all();
	change_attr();
	read_all();
	close_it();
	open_again();
	read_all();
	close_it();
	remove_it();
}

/* ---------------------------------------------------------------- each in turn */
static void each(enum fault_kind kind, enum fault_side side, unsigned least)
{
	before = leftovers_now();
	life(); /* what stays for ever does so from here on */
	before = leftovers_now();
	now.kind = kind;
	now.side = side;
	cr_expect_geq(fault_each(kind, side, life, &now.point), least);
}

/* Found by them: far_descriptors, a pool removed although its create had succeeded, because the lane that its
 * initiator had connected failed at the target; far_posts, a crash and an initiator left waiting when an endpoint
 * could not be made; near_descriptors, a session given up for want of a descriptor. */
#define EACH(name, kind, near, far)              \
	Test(rpmem_faults, near_##name)          \
	{                                        \
		each(kind, FAULT_NEAR, near);    \
	}                                        \
	Test(rpmem_faults, far_##name)           \
	{                                        \
		each(kind, FAULT_FAR, far);      \
	}

EACH(allocations, FAULT_ALLOC, 10, 10)
EACH(mappings, FAULT_MAP, 1, 1)
EACH(files, FAULT_FILE, 0, 1)
EACH(descriptors, FAULT_FD, 1, 1)
EACH(threads, FAULT_THREAD, 1, 1)
EACH(messages_refused, FAULT_TALK, 1, 1)
EACH(messages_cut_off, FAULT_CUT, 1, 1)
EACH(messages_torn, FAULT_TORN, 1, 1)
EACH(posts, FAULT_POST, 1, 1)
EACH(waits, FAULT_WAIT, 1, 1)
EACH(events, FAULT_EVENT, 1, 1)
