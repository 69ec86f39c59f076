/* The initiator's lane against the target's lanes and engine, in one process, over a real loopback fabric. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "errmsg.h"
#include "rpmem/lane_impl.h"
#include "rpmemd/engine_impl.h"
#include "rpmemd/lanes.h"
#include "tests/support/chain.h"

#define POOL_BYTES (64ull << 20)
#define LANES 4u
#define LIMIT 60

static struct {
	struct pm pm;
	struct copy *copy;
	struct engine *engine;
	struct lanes *lanes;
	struct ctl_session session;
	struct fab *fab;
	struct lane *lane[LANES];
	struct chain chain;
	_Atomic int ended_err, ended_count;
} rig;

static void on_ended(void *arg, int err)
{
	(void)arg;
	rig.ended_err = err;
	rig.ended_count++;
}

static void target_up(unsigned lanes, unsigned connect_ms, unsigned idle_ms)
{
	struct copy_format fmt = { .hash_seed = CHAIN_SEED, .page = { .role = MEDIA_ROLE_REPLICA, .state = MEDIA_CONSISTENT } };
	struct engine_cfg engine = { .pm = &rig.pm, .floor = 4096 };
	struct lanes_cfg cfg = {
		.provider = "tcp",
		.bind_address = "127.0.0.1",
		.lane_count = lanes,
		.session = 77,
		.pm = &rig.pm,
		.connect_ms = connect_ms,
		.idle_ms = idle_ms,
		.ended = on_ended,
	};
	void *base = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct copy_point head;

	cr_assert_neq(base, MAP_FAILED);
	pm_init(&rig.pm, base, POOL_BYTES, PM_MEMORY);
	cr_assert_eq(copy_format(&rig.pm, &fmt), 0, "%s", errmsg_get());
	cr_assert_eq(copy_open(&rig.pm, false, &rig.copy), 0, "%s", errmsg_get());
	engine.copy = rig.copy;
	cr_assert_eq(engine_new(&engine, &rig.engine), 0);
	cfg.engine = rig.engine;
	memset(cfg.token, 0x5a, sizeof(cfg.token));
	memcpy(rig.session.token, cfg.token, sizeof(cfg.token));
	rig.session.session = cfg.session;
	cr_assert_eq(lanes_open(&cfg, &rig.session, &rig.lanes), 0, "%s", errmsg_get());
	cr_assert_eq(rig.session.caps, CTL_CAP_RMA);
	cr_assert_eq(fab_dial("tcp", "127.0.0.1", (uint16_t)rig.session.port, &rig.fab), 0, "%s", errmsg_get());
	head = copy_head(rig.copy);
	chain_init(&rig.chain, copy_geom(rig.copy), &head);
}

static int lane_up(unsigned index, const struct ctl_session *session, unsigned notice_ms)
{
	struct lane_cfg cfg = { .index = index, .session = session, .notice_ms = notice_ms };
	struct deadline deadline = deadline_in(20000, NULL);

	return lane_connect(rig.fab, &cfg, &deadline, &rig.lane[index]);
}

static void all_up(unsigned lanes)
{
	target_up(lanes, 20000, 20000);
	for (unsigned i = 0; i < lanes; i++)
		cr_assert_eq(lane_up(i, &rig.session, 10000), 0, "%s", errmsg_get());
}

static void initiator_down(void)
{
	for (unsigned i = 0; i < LANES; i++) {
		lane_delete(rig.lane[i]);
		rig.lane[i] = NULL;
	}
	fab_close(rig.fab);
	rig.fab = NULL;
}

static void all_down(void)
{
	initiator_down();
	if (rig.lanes)
		lanes_close(rig.lanes);
	engine_delete(rig.engine);
	copy_close(rig.copy);
	munmap(rig.pm.base, rig.pm.len);
	chain_fini(&rig.chain);
}

/* Polls a lane until nothing is queued or unanswered. */
static int lane_drain(struct lane *lane)
{
	while (lane_ops(lane)) {
		int err = lane_poll(lane);

		if (err)
			return err;
		sched_yield();
	}
	return 0;
}

/* Polls until the lane dies; how long that took goes to *ms. */
static int lane_death(struct lane *lane, uint64_t *ms)
{
	uint64_t start = channel_now_ns();
	int err;

	while (!(err = lane_poll(lane)))
		lane_wait(lane, 10);
	*ms = (channel_now_ns() - start) / 1000000;
	return err;
}

static uint8_t *bytes_new(size_t len, unsigned seed)
{
	uint8_t *bytes = malloc(len);

	cr_assert(bytes);
	for (size_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)(seed + i * 13 + i / 251);
	return bytes;
}

/* The hot path: one block and its record are one message and one answer. */
Test(lane, commit_is_one_message_and_one_answer, .timeout = LIMIT)
{
	uint8_t block[MEDIA_BLOCK_BYTES];

	all_up(1);
	for (uint64_t seq = 1; seq <= 50; seq++) {
		struct repl_range range = { .len = sizeof(block), .src = block };
		struct repl_commit commit = { .seq = seq, .ranges = &range, .range_count = 1 };
		void *rec;

		chain_content(seq, block);
		range.off = chain_next(&rig.chain, block, 1, &rec, &commit.rec_len);
		commit.rec = rec;
		cr_assert_eq(lane_commit(rig.lane[0], &commit), 0, "%s", errmsg_get());
		cr_assert_eq(lane_drain(rig.lane[0]), 0, "%s", errmsg_get());
		cr_expect_eq(lane_news(rig.lane[0])->acked, seq);
		cr_expect_eq(lane_news(rig.lane[0])->round_trips, seq);
		cr_expect_eq(lane_news(rig.lane[0])->rx_msgs, seq);
		cr_expect_arr_eq(rig.pm.base + range.off, block, sizeof(block));
		free(rec);
	}
	cr_expect_eq(lane_news(rig.lane[0])->bytes_sent, lane_news(rig.lane[0])->rx_bytes);
	cr_expect_eq(copy_head(rig.copy).seq, 50);
	all_down();
}

/* Blocks go ahead one-sided; the commit names them; all of it is there when the answer comes. */
Test(lane, pushed_ranges_arrive_before_their_commit, .timeout = LIMIT)
{
	unsigned blocks = 2000; /* more than may be under way at once */
	size_t len = (size_t)blocks * MEDIA_BLOCK_BYTES;
	uint8_t *bytes;
	struct repl_range ranges[3];
	struct repl_commit commit = { .seq = 1, .range_count = 1 };
	uint64_t off;
	void *rec;

	all_up(1);
	bytes = bytes_new(len, 3);
	off = chain_next(&rig.chain, bytes, blocks, &rec, &commit.rec_len);
	ranges[0] = (struct repl_range){ off, 4096, bytes };
	ranges[1] = (struct repl_range){ off + 4096, 12288, bytes + 4096 };
	ranges[2] = (struct repl_range){ off + 16384, (uint32_t)len - 16384, bytes + 16384 };
	cr_assert_eq(lane_push(rig.lane[0], ranges, 3), 0, "%s", errmsg_get());
	commit.rec = rec;
	commit.ranges = &(struct repl_range){ off, (uint32_t)len, NULL };
	cr_assert_eq(lane_commit(rig.lane[0], &commit), 0);
	cr_assert_eq(lane_drain(rig.lane[0]), 0, "%s", errmsg_get());
	cr_expect_eq(lane_news(rig.lane[0])->acked, 1);
	cr_expect_eq(lane_news(rig.lane[0])->rx_msgs, 1);
	cr_expect_eq(memcmp(rig.pm.base + off, bytes, len), 0);
	cr_expect_eq(lane_news(rig.lane[0])->rx_bytes, lane_news(rig.lane[0])->bytes_sent);
	free(rec);
	free(bytes);
	all_down();
}

/* A commit of many messages, queued behind and in front of small ones; more messages than the window. */
Test(lane, trains_larger_than_the_window, .timeout = LIMIT)
{
	unsigned blocks = 1500;
	size_t len = (size_t)blocks * MEDIA_BLOCK_BYTES;
	uint8_t *bytes;
	void *recs[5];
	uint64_t offs[5];

	all_up(1);
	bytes = bytes_new(len, 9);
	for (unsigned i = 0; i < 5; i++) {
		unsigned count = i % 2 ? blocks : 1;
		struct repl_range range = { .len = count * MEDIA_BLOCK_BYTES, .src = bytes };
		struct repl_commit commit = { .seq = i + 1, .settled = i, .ranges = &range, .range_count = 1 };

		offs[i] = range.off = chain_next(&rig.chain, bytes, count, &recs[i], &commit.rec_len);
		commit.rec = recs[i];
		cr_assert_eq(lane_commit(rig.lane[0], &commit), 0, "%s", errmsg_get());
	}
	cr_assert_eq(lane_drain(rig.lane[0]), 0, "%s", errmsg_get());
	cr_expect_eq(lane_news(rig.lane[0])->acked, 5);
	cr_expect_gt(lane_news(rig.lane[0])->rx_msgs, 2 * LANE_RX_SLOTS);
	cr_expect_eq(memcmp(rig.pm.base + offs[1], bytes, len), 0);
	cr_expect_eq(memcmp(rig.pm.base + offs[3], bytes, len), 0);
	cr_expect_eq(copy_head(rig.copy).seq, 5);
	for (unsigned i = 0; i < 5; i++)
		free(recs[i]);
	free(bytes);
	all_down();
}

static void reads(bool rma)
{
	size_t len = 16u << 20;
	uint8_t *want, *got;

	target_up(LANES, 20000, 20000);
	if (!rma)
		rig.session.caps = 0;
	for (unsigned i = 0; i < LANES; i++)
		cr_assert_eq(lane_up(i, &rig.session, 10000), 0, "%s", errmsg_get());
	want = bytes_new(len, 5);
	got = calloc(1, len);
	cr_assert(got);
	memcpy(rig.pm.base + (32u << 20), want, len);
	for (unsigned i = 0; i < 64; i++) {
		size_t part = len / 64;

		cr_assert_eq(lane_read(rig.lane[i % LANES], (32u << 20) + i * part, got + i * part, (uint32_t)part), 0);
	}
	for (unsigned i = 0; i < LANES; i++)
		cr_assert_eq(lane_drain(rig.lane[i]), 0, "%s", errmsg_get());
	cr_expect_eq(memcmp(got, want, len), 0);
	free(want);
	free(got);
	all_down();
}

Test(lane, one_sided_reads_over_four_lanes, .timeout = LIMIT)
{
	reads(true);
}

/* What a target without registered memory offers instead. */
Test(lane, reads_by_messages_over_four_lanes, .timeout = LIMIT)
{
	reads(false);
}

/* A refused write is its caller's business, not the lane's end. */
Test(lane, writes_only_while_inconsistent, .timeout = LIMIT)
{
	struct copy_page page;
	uint8_t *bytes;
	struct repl_range range = { .len = 300000 };

	all_up(1);
	bytes = bytes_new(range.len, 1);
	range.src = bytes;
	range.off = copy_geom(rig.copy)->group0_blk * MEDIA_BLOCK_BYTES + 8192;
	cr_assert_eq(lane_write(rig.lane[0], &range, 1, false), 0);
	cr_assert_eq(lane_drain(rig.lane[0]), 0, "%s", errmsg_get());
	cr_expect_eq(lane_settled(rig.lane[0]), -EPERM);
	cr_expect_eq(lane_settled(rig.lane[0]), 0, "told twice");
	page = *copy_page(rig.copy);
	page.state = MEDIA_INCONSISTENT;
	cr_assert_eq(copy_page_set(rig.copy, &page), 0);
	cr_assert_eq(lane_write(rig.lane[0], &range, 1, false), 0);
	cr_assert_eq(lane_drain(rig.lane[0]), 0, "%s", errmsg_get());
	cr_expect_eq(lane_settled(rig.lane[0]), 0);
	cr_expect_eq(memcmp(rig.pm.base + range.off, bytes, range.len), 0);
	free(bytes);
	all_down();
}

/* A commit that does not continue the copy's history is refused and ends the lane. */
Test(lane, refused_commit_ends_the_lane, .timeout = LIMIT)
{
	uint8_t block[MEDIA_BLOCK_BYTES];
	struct repl_range range = { .len = sizeof(block), .src = block };
	struct repl_commit commit = { .seq = 1, .ranges = &range, .range_count = 1 };
	void *rec;

	all_up(1);
	chain_content(1, block);
	range.off = chain_next(&rig.chain, block, 1, &rec, &commit.rec_len);
	commit.rec = rec;
	commit.seq = 2;
	cr_assert_eq(lane_commit(rig.lane[0], &commit), 0);
	cr_expect_lt(lane_drain(rig.lane[0]), 0);
	cr_expect_eq(lane_news(rig.lane[0])->acked, 0);
	cr_expect(strstr(errmsg_get(), "refused commit 2"), "%s", errmsg_get());
	free(rec);
	all_down();
}

/* A medium that failed at the target is met by a heartbeat first: the message says that, and not something about a commit. */
Test(lane, a_refused_heartbeat_says_what_the_target_said, .timeout = LIMIT)
{
	uint64_t ms;

	target_up(1, 20000, 20000);
	cr_assert_eq(lane_up(0, &rig.session, 1000), 0, "%s", errmsg_get());
	engine_fail(rig.engine, -EIO);
	cr_expect_eq(lane_death(rig.lane[0], &ms), -EIO);
	cr_expect(strstr(errmsg_get(), "the target ended the session: "), "%s", errmsg_get());
	cr_expect(!strstr(errmsg_get(), "commit"), "%s", errmsg_get());
	all_down();
}

/* Each wrong field is refused before an endpoint exists; the right request is accepted afterwards, and only once. */
Test(lane, only_the_token_opens_a_lane, .timeout = LIMIT)
{
	struct ctl_session wrong;

	target_up(2, 20000, 20000);
	wrong = rig.session;
	wrong.token[31] ^= 1;
	cr_expect_eq(lane_up(0, &wrong, 10000), -EACCES, "%s", errmsg_get());
	wrong = rig.session;
	wrong.session++;
	cr_expect_eq(lane_up(0, &wrong, 10000), -EACCES);
	cr_expect_eq(lane_up(2, &rig.session, 10000), -EACCES, "a lane that was not granted");
	cr_assert_eq(lane_up(0, &rig.session, 10000), 0, "%s", errmsg_get());
	lane_delete(rig.lane[0]);
	rig.lane[0] = NULL;
	cr_expect_eq(lane_up(0, &rig.session, 10000), -EACCES, "a lane given before");
	all_down();
}

/* Bytes that are no request: the session ends with the reason, nothing is stored. */
Test(lane, garbage_ends_the_session, .timeout = LIMIT)
{
	uint64_t ms;

	all_up(1);
	memset(fab_tx(lane_ep(rig.lane[0]), 1), 0xa5, 5000);
	cr_assert_eq(fab_send(lane_ep(rig.lane[0]), 1, 5000, false), 0);
	cr_expect_lt(lane_death(rig.lane[0], &ms), 0);
	for (unsigned i = 0; i < 1000 && !rig.ended_count; i++)
		nanosleep(&(struct timespec){ 0, 5000000 }, NULL);
	cr_expect_eq(rig.ended_err, -EPROTO);
	cr_expect_eq(rig.ended_count, 1);
	cr_expect_eq(copy_head(rig.copy).seq, 0);
	all_down();
}

/* The PINGs of a polled lane keep a session alive that would end by silence, and silence ends it. */
Test(lane, silence_ends_the_session_and_heartbeats_keep_it, .timeout = LIMIT)
{
	uint64_t start;

	target_up(1, 20000, 1500);
	cr_assert_eq(lane_up(0, &rig.session, 1000), 0, "%s", errmsg_get());
	for (start = channel_now_ns(); channel_now_ns() - start < 4000000000ull;) {
		cr_assert_eq(lane_poll(rig.lane[0]), 0, "%s", errmsg_get());
		lane_wait(rig.lane[0], 20);
	}
	cr_expect_eq(rig.ended_count, 0);
	cr_expect_eq(lane_news(rig.lane[0])->rx_msgs, 0, "PINGs were counted");
	for (start = channel_now_ns(); !rig.ended_count && channel_now_ns() - start < 10000000000ull;)
		nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
	cr_expect_eq(rig.ended_err, -ETIMEDOUT);
	all_down();
}

/* Who did not look for longer than the notice time has not noticed anything: the target has its time from then on. */
Test(lane, an_owner_that_was_away_is_no_loss, .timeout = LIMIT)
{
	enum { NOTICE_MS = 2000 };
	struct lane *lane;
	uint64_t ms;

	target_up(1, 20000, 20000);
	cr_assert_eq(lane_up(0, &rig.session, NOTICE_MS), 0, "%s", errmsg_get());
	lane = rig.lane[0];
	pthread_mutex_lock(&rig.engine->lock); /* nothing is answered */
	while (lane->seq == lane->seq_acked) {
		cr_assert_eq(lane_poll(lane), 0, "%s", errmsg_get());
		lane_wait(lane, 20);
	}
	poll(NULL, 0, NOTICE_MS + 200);
	cr_expect_eq(lane_poll(lane), 0, "%s", errmsg_get());
	pthread_mutex_unlock(&rig.engine->lock);
	while (lane->seq != lane->seq_acked) {
		cr_assert_eq(lane_poll(lane), 0, "%s", errmsg_get());
		lane_wait(lane, 20);
	}
	pthread_mutex_lock(&rig.engine->lock);
	cr_expect_eq(lane_death(lane, &ms), -ETIMEDOUT, "one that looks does notice");
	pthread_mutex_unlock(&rig.engine->lock);
	all_down();
}

Test(lane, lanes_that_never_connect_end_the_session, .timeout = LIMIT)
{
	target_up(2, 300, 20000);
	cr_assert_eq(lane_up(0, &rig.session, 10000), 0, "%s", errmsg_get());
	for (unsigned i = 0; i < 1000 && !rig.ended_count; i++)
		nanosleep(&(struct timespec){ 0, 5000000 }, NULL);
	cr_expect_eq(rig.ended_err, -ETIMEDOUT);
	cr_expect_lt(lane_up(1, &rig.session, 10000), 0, "it still listens");
	all_down();
}

/* An initiator that goes away, and a target that does. */
Test(lane, either_end_notices_the_other_leaving, .timeout = LIMIT)
{
	uint64_t ms;

	all_up(2);
	lane_delete(rig.lane[1]);
	rig.lane[1] = NULL;
	for (unsigned i = 0; i < 1000 && !rig.ended_count; i++)
		nanosleep(&(struct timespec){ 0, 5000000 }, NULL);
	cr_expect_eq(rig.ended_count, 1);
	lanes_close(rig.lanes);
	rig.lanes = NULL;
	cr_expect_eq(lane_death(rig.lane[0], &ms), -ECONNRESET, "%s", errmsg_get());
	cr_expect_lt(ms, 1000);
	all_down();
}
