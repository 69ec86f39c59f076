/* Links to a real rpmemd started as a child: the whole way from handshake to restore, and every way to lose it. */
#include "tests/support/child_signal.h"
#include "tests/support/link_rig.h"

#include <errno.h>
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/wait.h>

#define LIMIT 90

static struct link_rig rig;

static uint64_t now_ms(void)
{
	return channel_now_ns() / 1000000;
}

/* Create, format, commit, close; then open again: the copy is where it was. */
Test(link, commits_survive_the_session, .timeout = LIMIT)
{
	struct copy_point point;
	uint8_t want[MEDIA_BLOCK_BYTES], got[MEDIA_BLOCK_BYTES];
	uint64_t off = 0;

	link_rig_init(&rig, "");
	link_rig_format(&rig);
	cr_expect(rig.link->peer.same_machine);
	cr_expect(rig.link->peer.rma);
	cr_expect_str_eq(rig.link->peer.provider, "tcp");
	cr_expect_eq(rig.link->peer.domain, PM_MEMORY);
	for (unsigned i = 0; i < 20; i++)
		off = link_rig_commit(&rig);
	cr_assert_eq(rig.link->state, REPL_UP, "%s", rig.link->err_text);
	cr_expect_eq(rig.link->acked, 20);
	cr_expect_eq(rig.link->count.commits, 20);
	cr_expect_eq(rig.link->count.round_trips, 20);
	cr_expect_eq(rig.link->count.peer_rx_msgs, 20);
	cr_expect_eq(rig.link->count.peer_rx_bytes, rig.link->count.bytes_sent);
	cr_expect_eq(rig.link->ops->chain(rig.link, 20, &point), 0, "%s", errmsg_get());
	cr_expect_arr_eq(point.hash.b, rig.chain.at.hash.b, sizeof(point.hash.b));
	cr_expect_lt(rig.link->ops->chain(rig.link, 21, &point), 0);
	cr_expect_eq(rig.link->ops->poll(rig.link), REPL_UP, "a refused request is no failure of the link");
	link_rig_close(&rig);
	rig.cfg.lanes = REPL_RESTORE_LANES;
	cr_assert_eq(link_rig_open(&rig, false), 0, "%s", rig.link->err_text);
	cr_expect_eq(rig.link->peer.head.seq, 20);
	cr_expect_arr_eq(rig.link->peer.head.hash.b, rig.chain.at.hash.b, 16);
	cr_assert_eq(rig.link->ops->read(rig.link, off, got, sizeof(got)), 0);
	cr_assert_eq(rig.link->ops->settle(rig.link), 0, "%s", errmsg_get());
	chain_content(20, want);
	cr_expect_arr_eq(got, want, sizeof(want));
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

/* A new link that has had nothing but upkeep tells the tail, too: its owner may wait for room in the ring. */
Test(link, tail_is_told_by_the_answer_to_a_checkpoint_alone, .timeout = LIMIT)
{
	link_rig_init(&rig, "");
	link_rig_format(&rig);
	link_rig_commit(&rig);
	link_rig_close(&rig);
	cr_assert_eq(link_rig_open(&rig, false), 0, "%s", rig.link->err_text);
	cr_assert_eq(rig.link->tail_seq, 0);
	cr_assert_eq(rig.link->ops->checkpoint(rig.link, 1), 0);
	while (rig.link->tail_seq < 1)
		cr_assert_eq(rig.link->ops->poll(rig.link), REPL_UP, "%s", rig.link->err_text);
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

/* Pushes, checkpoint on request, all of it seen in the answers. */
Test(link, push_commit_checkpoint, .timeout = LIMIT)
{
	uint8_t block[MEDIA_BLOCK_BYTES];
	struct repl_range range = { .len = sizeof(block), .src = block };
	struct repl_commit commit = { .seq = 1, .ranges = &range, .range_count = 1 };
	void *rec;

	link_rig_init(&rig, "");
	link_rig_format(&rig);
	chain_content(1, block);
	range.off = chain_next(&rig.chain, block, 1, &rec, &commit.rec_len);
	commit.rec = rec;
	cr_assert_eq(rig.link->ops->push(rig.link, &range, 1), 0, "%s", errmsg_get());
	range.src = NULL;
	cr_assert_eq(rig.link->ops->commit(rig.link, &commit), 0);
	cr_assert_eq(link_rig_await(rig.link, 1), REPL_UP, "%s", rig.link->err_text);
	cr_expect_eq(rig.link->tail_seq, 0);
	cr_expect_gt(rig.link->ring_free, 0);
	cr_assert_eq(rig.link->ops->checkpoint(rig.link, 1), 0);
	cr_assert_eq(rig.link->ops->settle(rig.link), 0, "%s", errmsg_get());
	cr_expect_eq(rig.link->tail_seq, 1);
	range.off = rig.link->peer.pool_size - 1;
	range.src = block;
	cr_expect_eq(rig.link->ops->push(rig.link, &range, 1), -EINVAL);
	range.off = UINT64_MAX - 10;
	cr_expect_eq(rig.link->ops->push(rig.link, &range, 1), -EINVAL);
	free(rec);
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

/* A copy is overwritten while it says so: page, writes over four lanes, reset, page; and read back. */
Test(link, resync_over_four_lanes, .timeout = LIMIT)
{
	size_t len = 8u << 20, step = 100000;
	uint8_t *want = malloc(len), *got = calloc(1, len);
	struct copy_page page;
	struct copy_point at = { .seq = 500, .epoch = 3 };
	uint64_t off;

	cr_assert(want && got);
	for (size_t i = 0; i < len; i++)
		want[i] = (uint8_t)(i * 11 + i / 4096);
	link_rig_init(&rig, "");
	rig.cfg.lanes = REPL_RESTORE_LANES;
	rig.cfg.spin = true;
	link_rig_format(&rig);
	off = rig.chain.first_blk * MEDIA_BLOCK_BYTES;
	page = rig.link->peer.page;
	page.state = MEDIA_INCONSISTENT;
	cr_assert_eq(rig.link->ops->page(rig.link, &page), 0, "%s", errmsg_get());
	for (size_t i = 0; i < len; i += step) {
		struct repl_range range = { off + i, (uint32_t)(len - i < step ? len - i : step), want + i };

		cr_assert_eq(rig.link->ops->write(rig.link, &range, 1), 0, "%s", errmsg_get());
	}
	cr_assert_eq(rig.link->ops->settle(rig.link), 0, "%s", errmsg_get());
	for (size_t i = 0; i < len; i += step)
		cr_assert_eq(rig.link->ops->read(rig.link, off + i, got + i, (uint32_t)(len - i < step ? len - i : step)), 0);
	cr_assert_eq(rig.link->ops->settle(rig.link), 0, "%s", errmsg_get());
	cr_expect_eq(memcmp(got, want, len), 0);
	cr_assert_eq(rig.link->ops->reset(rig.link, &at, 2048), 0, "%s", errmsg_get());
	cr_assert_eq(rig.link->ops->refresh(rig.link), 0);
	cr_expect_eq(rig.link->peer.head.seq, 500);
	cr_expect_eq(rig.link->acked, 500);
	page.state = MEDIA_CONSISTENT;
	cr_assert_eq(rig.link->ops->page(rig.link, &page), 0, "%s", errmsg_get());
	free(want);
	free(got);
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

/* Reads over several lanes are waited for in the order they were started: whatever the number of lanes, what is older
 * than the newest `young` ones is there. What the pool holds is zero, so a piece that is there has lost its mark. */
static void reaped_in_order(unsigned lanes)
{
	enum { PIECES = 40 };
	size_t piece = 500000;
	uint8_t *got = malloc(PIECES * piece);

	cr_assert(got);
	memset(got, 0xee, PIECES * piece);
	link_rig_init(&rig, "");
	rig.cfg.lanes = lanes;
	rig.cfg.spin = true;
	link_rig_format(&rig);
	for (unsigned i = 0; i < PIECES; i++)
		cr_assert_eq(rig.link->ops->read(rig.link, rig.chain.first_blk * MEDIA_BLOCK_BYTES, got + i * piece,
						 (uint32_t)piece), 0, "%s", errmsg_get());
	for (unsigned done = 1; done <= PIECES; done++) {
		cr_assert_eq(rig.link->ops->settle_old(rig.link, PIECES - done), 0, "%s", errmsg_get());
		for (unsigned i = 0; i < done; i++) {
			cr_expect_eq(got[i * piece], 0, "%u lanes: piece %u of %u", lanes, i, done);
			cr_expect_eq(got[(i + 1) * piece - 1], 0, "%u lanes: end of piece %u of %u", lanes, i, done);
		}
	}
	cr_assert_eq(rig.link->ops->settle(rig.link), 0, "%s", errmsg_get());
	cr_expect_eq(got[PIECES * piece - 1], 0);
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
	free(got);
}

Test(link, old_reads_are_there_before_young_ones_on_one_lane, .timeout = LIMIT)
{
	reaped_in_order(1);
}

Test(link, old_reads_are_there_before_young_ones_on_four_lanes, .timeout = LIMIT)
{
	reaped_in_order(REPL_RESTORE_LANES);
}

/* A fence is a compare-and-set; records of an older epoch are refused afterwards, and that is the end of the link. */
Test(link, fenced_copy_refuses_the_old_epoch, .timeout = LIMIT)
{
	uint8_t id[16] = { 1, 2, 3 };

	link_rig_init(&rig, "");
	link_rig_format(&rig);
	cr_expect_eq(rig.link->ops->fence(rig.link, 4, 5, id), -ESTALE, "%s", errmsg_get());
	cr_assert_eq(rig.link->ops->fence(rig.link, 0, 5, id), 0, "%s", errmsg_get());
	link_rig_commit(&rig);
	cr_expect_eq(rig.link->state, REPL_DOWN);
	cr_expect_eq(rig.link->err, -ESTALE, "%s", rig.link->err_text);
	cr_expect_eq(rig.link->acked, 0);
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

/* Contract: an old primary gets no session that could change a byte of a fenced copy. Who only looks, or has come to fence, does. */
Test(link, a_session_below_the_fence_is_refused, .timeout = LIMIT)
{
	static const struct {
		uint64_t epoch;
		unsigned flags;
		int err;
	} table[] = {
		{ 0, 0, -ESTALE }, { 4, 0, -ESTALE }, { 5, 0, 0 }, { 6, 0, 0 }, { 4, CTL_OPEN_RDONLY, 0 },
		{ 4, CTL_OPEN_NO_LANES, 0 }, { 4, CTL_OPEN_TAKEOVER, 0 },
	};
	uint8_t id[16] = { 1, 2, 3 };

	link_rig_init(&rig, "");
	link_rig_format(&rig);
	cr_assert_eq(rig.link->ops->fence(rig.link, 0, 5, id), 0, "%s", errmsg_get());
	link_rig_close(&rig);
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		rig.cfg.epoch = table[i].epoch;
		rig.cfg.open_flags = table[i].flags;
		cr_expect_eq(link_rig_open(&rig, false), table[i].err, "%zu: %d %s", i, rig.link->err, rig.link->err_text);
		if (table[i].err)
			cr_expect(strstr(rig.link->err_text, "fenced at epoch 5"), "%zu: %s", i, rig.link->err_text);
		link_rig_close(&rig);
	}
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

/* Nothing but the link's own descriptors wakes the owner, and the target, which ends after a second of silence, stays. */
Test(link, an_idle_link_keeps_itself_alive, .timeout = LIMIT)
{
	uint64_t end;

	link_rig_init(&rig, "--idle-ms 1000");
	rig.cfg.notice_ms = 2000;
	link_rig_format(&rig);
	for (end = now_ms() + 3000; now_ms() < end;) {
		struct pollfd fds[2] = { { .events = POLLIN }, { .events = POLLIN } };
		int raw[2];
		unsigned count = rig.link->ops->fds(rig.link, raw);

		for (unsigned i = 0; i < count; i++)
			fds[i].fd = raw[i];
		if (rig.link->ops->may_block(rig.link))
			poll(fds, count, 3000);
		cr_assert_eq(rig.link->ops->poll(rig.link), REPL_UP, "%s", rig.link->err_text);
	}
	link_rig_commit(&rig);
	cr_expect_eq(rig.link->acked, 1);
	cr_expect_eq(rig.link->count.peer_rx_msgs, 1, "PINGs were counted");
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

/* The target's patience is its own: an initiator that would wait for a minute is heard all the same. */
Test(link, a_patient_initiator_is_heard, .timeout = LIMIT)
{
	uint64_t end;

	link_rig_init(&rig, "--idle-ms 4000");
	rig.cfg.notice_ms = 60000;
	link_rig_format(&rig);
	for (end = now_ms() + 6000; now_ms() < end;) {
		cr_assert_eq(rig.link->ops->poll(rig.link), REPL_UP, "%s", rig.link->err_text);
		poll(NULL, 0, 10);
	}
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

/* While one of several is waited for, the others stay. */
Test(link, links_that_stand_stay_while_others_connect, .timeout = LIMIT)
{
	struct repl_cfg slow = { .command = "sleep 100", .lanes = 1, .connect_ms = 3000 };
	struct repl_link *links[3] = { NULL };

	link_rig_init(&rig, "--idle-ms 1000");
	rig.cfg.notice_ms = 2000;
	rig.cfg.create = true;
	rig.cfg.attr = &rig.attr;
	cr_assert_eq(repl_link_open(&rig.replica, &rig.cfg, &links[0]), 0);
	cr_assert_eq(repl_link_open(&rig.replica, &slow, &links[2]), 0);
	repl_links_wait(links, 3);
	cr_expect_eq(links[0]->ops->poll(links[0]), REPL_UP, "%s", links[0]->err_text);
	cr_expect_eq(links[2]->err, -ETIMEDOUT, "%s", links[2]->err_text);
	links[0]->ops->close(links[0]);
	links[2]->ops->close(links[2]);
	link_rig_fini(&rig);
}

static void *wake_later(void *arg)
{
	poll(NULL, 0, 1500);
	kill(*(pid_t *)arg, SIGCONT);
	return NULL;
}

/* A request that takes the target longer than notice_ms, during which it answers no lane either. Made slow by stopping it. */
Test(link, a_slow_control_request_is_no_loss, .timeout = LIMIT)
{
	struct copy_page page;
	pthread_t waker;
	uint64_t start;
	pid_t pid;

	link_rig_init(&rig, "");
	rig.cfg.notice_ms = 500;
	link_rig_format(&rig);
	link_rig_commit(&rig);
	pid = child_find();
	cr_assert_gt(pid, 0);
	child_signal(pid, SIGSTOP);
	start = now_ms();
	cr_assert_eq(pthread_create(&waker, NULL, wake_later, &pid), 0);
	cr_expect_eq(rig.link->ops->checkpoint_all(rig.link), 0, "%s", errmsg_get());
	cr_expect_geq(now_ms() - start, 1000);
	pthread_join(waker, NULL);
	page = rig.link->peer.page;
	cr_expect_eq(rig.link->ops->page(rig.link, &page), 0, "%s", errmsg_get());
	link_rig_commit(&rig);
	cr_expect_eq(rig.link->state, REPL_UP, "%s", rig.link->err_text);
	cr_expect_eq(rig.link->acked, 2);
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

/* A target that ends during a request is noticed at once, not when the request's longer time is over. */
Test(link, a_target_killed_during_a_request_is_noticed_at_once, .timeout = LIMIT)
{
	uint64_t start;
	pid_t pid;

	link_rig_init(&rig, "");
	link_rig_format(&rig);
	pid = child_find();
	cr_assert_gt(pid, 0);
	child_signal(pid, SIGKILL);
	start = now_ms();
	cr_expect_lt(rig.link->ops->checkpoint_all(rig.link), 0);
	cr_expect_lt(now_ms() - start, 1000);
	cr_expect_eq(rig.link->state, REPL_DOWN);
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

/* What a busy machine may add to the time of noticing: the scheduler's share, several times that under a sanitizer. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLACK_MS 4000
#define KILL_MS SLACK_MS
#else
#define SLACK_MS 400
#define KILL_MS 500
#endif
#define NOTICE_MS 1500

static void target_lost(int signal_number, int idle, uint64_t within_ms)
{
	uint64_t start;
	pid_t pid;

	link_rig_init(&rig, "");
	rig.cfg.notice_ms = NOTICE_MS;
	link_rig_format(&rig);
	link_rig_commit(&rig);
	cr_assert_eq(rig.link->acked, 1);
	pid = child_find();
	cr_assert_gt(pid, 0);
	start = now_ms();
	child_signal(pid, signal_number);
	if (idle)
		link_rig_await(rig.link, UINT64_MAX);
	else
		link_rig_commit(&rig);
	cr_expect_eq(rig.link->state, REPL_DOWN);
	cr_expect_leq(now_ms() - start, within_ms, "took %llu ms", (unsigned long long)(now_ms() - start));
	cr_expect_eq(rig.link->acked, 1, "acknowledged by nobody");
	cr_expect(strstr(rig.link->err_text, "@local r.set"), "%s", rig.link->err_text);
	if (signal_number == SIGSTOP) {
		cr_expect_eq(rig.link->err, -ETIMEDOUT, "%s", rig.link->err_text);
		cr_expect_geq(now_ms() - start, 500);
	} else {
		cr_expect_eq(rig.link->err, -ECONNRESET, "%s", rig.link->err_text);
	}
	cr_expect_eq(rig.link->ops->checkpoint(rig.link, 1), rig.link->err, "a DOWN link stays down");
	start = now_ms();
	link_rig_close(&rig);
	cr_expect_leq(now_ms() - start, 50, "closing took %llu ms", (unsigned long long)(now_ms() - start));
	while (child_find() && now_ms() - start < 5000)
		poll(NULL, 0, 5);
	cr_expect_eq(child_find(), 0, "the child was left behind");
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

/* The owner gives up a link that is UP, and whose target will not answer any more: that takes no deadline. */
Test(link, dropping_waits_for_nobody, .timeout = LIMIT)
{
	uint64_t start;
	pid_t pid;

	link_rig_init(&rig, "");
	rig.cfg.notice_ms = 30000;
	link_rig_format(&rig);
	link_rig_commit(&rig);
	pid = child_find();
	cr_assert_gt(pid, 0);
	cr_assert_eq(kill(pid, SIGSTOP), 0);
	cr_assert_eq(rig.link->state, REPL_UP);
	start = now_ms();
	rig.link->ops->drop(rig.link);
	rig.link = NULL;
	cr_expect_leq(now_ms() - start, 10000, "dropping took %llu ms", (unsigned long long)(now_ms() - start));
	while (child_find() && now_ms() - start < 20000)
		poll(NULL, 0, 5);
	cr_expect_eq(child_find(), 0, "the child was left behind");
	chain_fini(&rig.chain);
	link_rig_fini(&rig);
}

Test(link, stopped_target_is_noticed_while_idle, .timeout = LIMIT)
{
	target_lost(SIGSTOP, true, NOTICE_MS + SLACK_MS);
}

Test(link, stopped_target_is_noticed_during_a_commit, .timeout = LIMIT)
{
	target_lost(SIGSTOP, false, NOTICE_MS + SLACK_MS);
}

Test(link, killed_target_is_noticed_at_once_while_idle, .timeout = LIMIT)
{
	target_lost(SIGKILL, true, KILL_MS);
}

Test(link, killed_target_is_noticed_at_once_during_a_commit, .timeout = LIMIT)
{
	target_lost(SIGKILL, false, KILL_MS);
}

/* What goes wrong at the start is told with target, step and cause; every cause has its errno. */
Test(link, start_failures_say_what_and_where, .timeout = LIMIT)
{
	static const struct {
		const char *target, *set, *command; /* command NULL: the real one */
		int err;
		const char *says;
	} table[] = {
		{ "@local", "no.set", NULL, -ENOENT, "no.set" },
		{ "@local", "../r.set", NULL, -EBADF, "r.set" },
		{ "@local", "r.set", "/no/such/rpmemd", -ENOENT, "RPMEM_CMD" },
		{ "@local", "r.set", "%/fail", -ECONNRESET, "status 7: boom happened" },
		{ "@local", "r.set", "echo hello", -EPROTO, "not rpmemd" },
		{ "@local", "r.set", "true", -ECONNRESET, "status 0" },
		{ "@local", "r.set", " ", -EINVAL, "empty" },
		{ "@local", "r.set", "sleep 100", -ETIMEDOUT, "does not answer" },
		{ "host:0", "r.set", NULL, -EINVAL, "port" },
	};

	link_rig_init(&rig, "");
	file_write(rig.dir, "fail", "#!/bin/sh\necho first >&2\necho boom happened >&2\nexit 7\n", 0700);
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		char command[sizeof(rig.command)];

		if (table[i].command && *table[i].command == '%')
			snprintf(command, sizeof(command), "%s%s", rig.dir, table[i].command + 1);
		else
			snprintf(command, sizeof(command), "%s", table[i].command ? table[i].command : rig.command);
		rig.cfg.command = command;
		rig.cfg.connect_ms = table[i].err == -ETIMEDOUT ? 500 : 30000;
		rig.replica.target = (char *)(uintptr_t)table[i].target;
		rig.replica.set_name = (char *)(uintptr_t)table[i].set;
		cr_expect_eq(link_rig_open(&rig, false), table[i].err, "%zu: %d %s", i, rig.link->err, rig.link->err_text);
		cr_expect_eq(rig.link->state, REPL_DOWN);
		cr_expect(strstr(rig.link->err_text, table[i].says), "%zu: %s", i, rig.link->err_text);
		cr_expect(strstr(rig.link->err_text, table[i].target), "%zu: %s", i, rig.link->err_text);
		link_rig_close(&rig);
		cr_expect_eq(child_find(), 0, "%zu: the child was left behind", i);
	}
	link_rig_fini(&rig);
}

/* Closing a link that is still connecting does not wait for the connection. */
Test(link, close_while_connecting, .timeout = LIMIT)
{
	uint64_t start;

	link_rig_init(&rig, "");
	rig.cfg.command = "sleep 100";
	cr_assert_eq(repl_link_open(&rig.replica, &rig.cfg, &rig.link), 0);
	cr_expect_eq(rig.link->ops->poll(rig.link), REPL_CONNECTING);
	cr_expect_eq(rig.link->ops->push(rig.link, NULL, 0), -ENOTCONN);
	start = now_ms();
	link_rig_close(&rig);
	cr_expect_lt(now_ms() - start, 5000);
	link_rig_fini(&rig);
}

static void nothing(int signal_number)
{
	(void)signal_number;
}

/* Signals of the program neither cut short the time a child has to end, nor leave it unreaped. */
Test(link, signals_do_not_hurry_the_child, .timeout = LIMIT)
{
	struct itimerval often = { { 0, 10000 }, { 0, 10000 } }, never = { 0 };
	struct sigaction action = { .sa_handler = nothing }; /* no SA_RESTART */
	struct channel *channel;
	char path[PATH_MAX];

	link_rig_init(&rig, "");
	snprintf(path, sizeof(path), "#!/bin/sh\ncat >/dev/null\nsleep 0.5\necho ended > %s/log\n", rig.dir);
	file_write(rig.dir, "fail", path, 0700);
	snprintf(path, sizeof(path), "%s/fail", rig.dir);
	cr_assert_eq(spawn_open(path, &channel), 0, "%s", errmsg_get());
	channel->farewell = true;
	cr_assert_eq(sigaction(SIGALRM, &action, NULL), 0);
	cr_assert_eq(setitimer(ITIMER_REAL, &often, NULL), 0);
	channel_end(channel);
	cr_assert_eq(setitimer(ITIMER_REAL, &never, NULL), 0);
	snprintf(path, sizeof(path), "%s/log", rig.dir);
	cr_expect_eq(access(path, F_OK), 0, "it was not waited for");
	cr_expect_eq(child_find(), 0, "the child was left behind");
	link_rig_fini(&rig);
}

/* A process that traces the child, and says so by one byte: nobody else reaps the child before it. */
static pid_t tracer_start(pid_t child)
{
	char byte = 0;
	int fds[2];
	pid_t pid;

	cr_assert_eq(pipe(fds), 0);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (!pid) {
		byte = ptrace(PTRACE_SEIZE, child, NULL, NULL) == 0 ? 1 : 0;
		if (write(fds[1], &byte, 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	cr_assert_eq(read(fds[0], &byte, 1), 1);
	close(fds[0]);
	close(fds[1]);
	if (byte)
		return pid;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return 0;
}

/* Nor is one waited for that SIGKILL does not end soon; it is reaped later. */
Test(link, a_child_that_cannot_be_reaped_holds_nobody, .timeout = 30)
{
	struct channel *channel;
	uint64_t start;
	pid_t tracer;

	cr_assert_eq(spawn_open("sleep 100", &channel), 0, "%s", errmsg_get());
	tracer = tracer_start(child_find());
	if (!tracer) {
		channel_end(channel);
		cr_skip_test("ptrace(2) is not allowed here");
	}
	start = now_ms();
	channel_end(channel);
	cr_expect_lt(now_ms() - start, 10000);
	kill(tracer, SIGKILL);
	cr_assert_eq(waitpid(tracer, NULL, 0), tracer);
	while (child_find()) /* the thread */
		poll(NULL, 0, 5);
}

static char said[CTL_MSG_BYTES_MAX];
static size_t said_len, said_at;

static long said_read(struct channel *channel, void *buf, size_t len)
{
	(void)channel;
	cr_assert_leq(len, said_len - said_at);
	memcpy(buf, said + said_at, len);
	said_at += len;
	return (long)len;
}

/* What a target says is shown on terminals. */
Test(link, words_of_the_target_are_printable)
{
	static const struct channel_ops ops = { .read = said_read };
	struct channel channel = { .ops = &ops };
	struct deadline deadline = deadline_in(1000, NULL);
	struct ctl_msg msg = { .type = CTL_ERROR, .u.error = { WIRE_NO_POOL, "a\033[2Jb\nc\177d" } }, answer;

	cr_assert_eq(ctl_encode(&msg, said, &said_len), 0);
	cr_expect_eq(channel_receive(&channel, CTL_STATUS, &answer, &deadline), -ENOENT);
	cr_expect_str_eq(errmsg_get(), "a?[2Jb?c?d");
}
