/* The event loop of a mount.
 *
 *   serving --SIGTERM: a helper thread starts unmounting--> leaving --ENODEV, or LEAVE_MS passed--> ended
 *      '------------- unmounted by somebody: ENODEV on the FUSE descriptor ---------------------------^
 *
 * One thread does everything, because a request served on the caller's CPU costs 5 us and on another CPU 30 us. While a
 * replica's answer is awaited (fs_busy) it polls in turn with sched_yield, looking at the FUSE descriptor every few rounds;
 * a wait that turns out long goes to sleep on the links' descriptors. Otherwise it sleeps in ppoll until something comes or
 * a timer is due. Background work (checkpoints, reclaiming) is done in steps, when nothing has come for IDLE_MS: a timer
 * that goes on running beside requests tells, because to arm and disarm one for every sleep costs more than the sleep
 * (a virtual machine leaves to its host for it).
 *
 * Unmounting sends requests to this very process (dirty pages of mappings), so umount(2) is called by a helper thread
 * while the loop goes on serving. */
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "errmsg.h"
#include "log.h"

#define READ_ROUNDS 4u         /* while busy the FUSE descriptor is read every so many rounds ... */
#define CROWD_ROUNDS 16u       /* ... but in so many rounds on end after a request has come, since others may be about */
#define SERVE_MAX 16u          /* requests served in one such round, and on end without looking at anything else */
#define LOOK_ROUNDS 256u       /* signals and timers are looked at so often, however much there is to do */
#define SPIN_NS 20000000ull    /* a busy wait longer than this sleeps */
#define BUSY_SLEEP_MS 5        /* at most so long, links' timers apart */
#define IDLE_MS 2
#define LEAVE_MS 10000u

enum { FD_FUSE, FD_SIGNAL, FD_LEAVE, FD_IDLE, FD_LINKS };

struct loop {
	struct front *front;
	const struct loop_cfg *cfg;
	struct fuse_buf buf;
	int signal_fd, leave_fd, idle_fd;
	bool told;              /* cfg->ready was called */
	bool idle_work;         /* fs_idle may have something to do */
	bool idling;            /* in the middle of it: nothing has come since its last step */
	bool idle_armed;        /* idle_fd is running */
	bool active;            /* something came since it was armed */
	bool leaving;
	uint64_t leave_by_ns;
	pthread_t unmounter;
	unsigned rounds;        /* of the present busy wait */
	unsigned crowd;         /* rounds left in which the descriptor is read at once */
	unsigned unlooked;      /* rounds since the last poll of all descriptors */
	uint64_t busy_since_ns; /* 0: not busy */
};

void loop_block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static int signal_open(void)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	return fd >= 0 ? fd : -errno;
}

/* ---------------------------------------------------------------- leaving */

/* Brings dirty pages of mappings in, then unmounts; lazily when the mount is in use: who uses it gets ENOTCONN, as after
 * any end of a FUSE daemon. */
static void *unmount_thread(void *arg)
{
	struct loop *loop = arg;
	const char *mnt = loop->front->mountpoint;
	uint64_t one = 1;
	int fd = open(mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0) {
		if (syncfs(fd) != 0)
			log_warn("unmounting %s: dirty pages: %s", mnt, strerror(errno));
		close(fd);
	}
	if (umount2(mnt, UMOUNT_NOFOLLOW) != 0 && errno == EBUSY) {
		log_warn("unmounting %s: in use, detached", mnt);
		umount2(mnt, MNT_DETACH | UMOUNT_NOFOLLOW);
	}
	/* without the right to unmount (EPERM) the end of the session does it, through fusermount3 */
	if (write(loop->leave_fd, &one, sizeof(one)) != sizeof(one))
		log_error("unmounting %s: event: %s", mnt, strerror(errno));
	return NULL;
}

static void leave(struct loop *loop)
{
	int err;

	if (loop->leaving)
		return;
	err = pthread_create(&loop->unmounter, NULL, unmount_thread, loop);
	if (err != 0) {
		log_error("unmounting %s: no thread: %s", loop->front->mountpoint, strerror(err));
		fuse_session_exit(loop->front->session);
		return;
	}
	loop->leaving = true;
	loop->leave_by_ns = front_now_ns() + LEAVE_MS * 1000000ull;
}

static void take_signals(struct loop *loop)
{
	struct signalfd_siginfo info;

	while (read(loop->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGHUP) {
			loop->cfg->reopen_log(loop->cfg->ctx);
		} else {
			log_info("%s: signal %u, unmounting", loop->front->mountpoint, info.ssi_signo);
			leave(loop);
		}
	}
}

/* ---------------------------------------------------------------- one round */

static bool progress(struct loop *loop)
{
	struct front *front = loop->front;
	bool moved = replication_poll(front->repl);

	moved |= fs_poll(front->fs);
	if (moved)
		front_retry(front);
	return moved;
}

/* Reads and serves one request; false when there was none. */
static bool serve(struct loop *loop)
{
	struct front *front = loop->front;
	int len;

	if (front_full(front))
		return false;
	len = fuse_session_receive_buf(front->session, &loop->buf);
	if (len <= 0) {
		if (len != 0 && len != -EAGAIN && len != -EINTR) {
			log_error("%s: reading requests: %s", front->mountpoint, strerror(-len));
			fuse_session_exit(front->session);
		}
		return false;
	}
	fuse_session_process_buf(front->session, &loop->buf);
	loop->active = true;
	/* a parked one may wait for what an idle step frees */
	loop->idle_work |= front->parked_count > 0 || fs_idle_wanted(front->fs);
	if (front->ready && !loop->told && !loop->leaving) {
		loop->told = true;
		loop->cfg->ready(loop->cfg->ctx);
	}
	return true;
}

static int min_ms(int a, int b)
{
	if (a < 0 || b < 0)
		return a < 0 ? b : a;
	return a < b ? a : b;
}

/* Requests come in trains: on one processor the next is often there when the answer to the last has been written, and to
 * read is cheaper than to ask. Ends at a request that needs the links, so their answers never wait behind others. */
static bool serve_train(struct loop *loop)
{
	unsigned served = 0;

	while (served < SERVE_MAX && serve(loop)) {
		served++;
		if (fs_busy(loop->front->fs))
			break;
	}
	return served > 0;
}

static void idle_arm(struct loop *loop)
{
	struct itimerspec in = { .it_value.tv_nsec = IDLE_MS * 1000000l };

	if (loop->idle_armed)
		return;
	timerfd_settime(loop->idle_fd, 0, &in, NULL);
	loop->idle_armed = true;
	loop->active = false;
}

/* The timer has fired: whether nothing else has come all that time. */
static bool idle_take(struct loop *loop)
{
	uint64_t fired;

	if (read(loop->idle_fd, &fired, sizeof(fired)) != sizeof(fired))
		return false;
	loop->idle_armed = false;
	return !loop->active;
}

/* Sleeps until a descriptor or a timer wants something, at most limit_ms (-1: no limit), and serves what came. True when
 * something came but the idle timer. */
static bool sleep_for(struct loop *loop, int limit_ms)
{
	struct front *front = loop->front;
	struct pollfd fds[FD_LINKS + REPLICATION_FDS_MAX];
	int links[REPLICATION_FDS_MAX], timeout, count;
	unsigned link_count = replication_fds(front->repl, links);

	timeout = min_ms(limit_ms, min_ms(fs_timeout_ms(front->fs), replication_timeout_ms(front->repl)));
	timeout = min_ms(timeout, front_timeout_ms(front));
	if (loop->leaving)
		timeout = min_ms(timeout, IDLE_MS * 50);
	if (!replication_may_block(front->repl))
		timeout = 0;
	fds[FD_FUSE] = (struct pollfd){ .fd = front_full(front) ? -1 : fuse_session_fd(front->session), .events = POLLIN };
	fds[FD_SIGNAL] = (struct pollfd){ .fd = loop->signal_fd, .events = POLLIN };
	fds[FD_LEAVE] = (struct pollfd){ .fd = loop->leave_fd, .events = POLLIN };
	fds[FD_IDLE] = (struct pollfd){ .fd = loop->idle_armed ? loop->idle_fd : -1, .events = POLLIN };
	for (unsigned i = 0; i < link_count; i++)
		fds[FD_LINKS + i] = (struct pollfd){ .fd = links[i], .events = POLLIN };
	loop->unlooked = 0;
	count = poll(fds, FD_LINKS + link_count, timeout);
	if (count <= 0)
		return false;
	if (count == 1 && fds[FD_IDLE].revents != 0)
		return !idle_take(loop);
	if (fds[FD_SIGNAL].revents != 0)
		take_signals(loop);
	if (fds[FD_LEAVE].revents != 0)
		fuse_session_exit(front->session);
	if (fds[FD_FUSE].revents != 0)
		serve_train(loop);
	return true;
}

/* An answer is awaited and nothing has moved. */
static void wait_busy(struct loop *loop)
{
	if (loop->cfg->spin && (loop->rounds % 64 != 0 || front_now_ns() - loop->busy_since_ns < SPIN_NS))
		sched_yield();
	else
		sleep_for(loop, BUSY_SLEEP_MS);
}

/* While a commit flies only others than its waiters send requests: all that are there go into the next commit together.
 * One client alone never does, and is spared the reading. */
static bool serve_some(struct loop *loop)
{
	unsigned served = 0;

	while (served < SERVE_MAX && serve(loop))
		served++;
	if (served > 0)
		loop->crowd = CROWD_ROUNDS;
	else if (loop->crowd > 0)
		loop->crowd--;
	return served > 0;
}

static void round_busy(struct loop *loop, bool moved)
{
	bool served = false;

	if (loop->busy_since_ns == 0 || moved) {
		loop->busy_since_ns = front_now_ns();
		loop->rounds = 0;
	}
	loop->rounds++;
	if (loop->crowd > 0 || loop->rounds % READ_ROUNDS == 0)
		served = serve_some(loop);
	if (!moved && !served)
		wait_busy(loop);
}

static void round_idle(struct loop *loop, bool moved)
{
	bool came;

	loop->busy_since_ns = 0;
	loop->idle_work |= moved; /* a commit that landed may be what a step waited for */
	if (moved) {
		/* Who was answered may be back already, or sit on this processor and be back when it has had it: that is
		 * sooner than to sleep and to be woken. */
		if (!serve_train(loop) && loop->cfg->spin) {
			sched_yield();
			serve_train(loop);
		}
		return;
	}
	if (loop->idle_work && !loop->idling)
		idle_arm(loop);
	came = sleep_for(loop, loop->idling ? 0 : -1);
	loop->idling = false;
	if (!came && loop->idle_work) {
		loop->idling = loop->idle_work = fs_idle(loop->front->fs);
		/* a step frees space without a commit: nothing else would wake what is parked for it */
		front_retry(loop->front);
	}
}

static bool over(const struct loop *loop)
{
	return fuse_session_exited(loop->front->session) || (loop->leaving && front_now_ns() >= loop->leave_by_ns);
}

/* ---------------------------------------------------------------- the end */

struct last_sync {
	struct fs_waiter waiter;
	bool done;
	int err;
};

static void last_sync_done(struct fs_waiter *waiter, int err)
{
	struct last_sync *sync = (struct last_sync *)((char *)waiter - offsetof(struct last_sync, waiter));

	sync->done = true;
	sync->err = err;
}

/* Commits everything, at most timeout_ms. */
static int commit_all(struct front *front)
{
	struct last_sync sync = { .waiter = { .done = last_sync_done } };
	uint64_t by = front_now_ns() + front->timeout_ms * 1000000ull;
	int links[REPLICATION_FDS_MAX], err = fs_sync_all(front->fs, &sync.waiter);
	struct pollfd fds[REPLICATION_FDS_MAX];
	unsigned count;

	if (err != 0)
		return err;
	while (!sync.done && front_now_ns() < by) {
		bool answers = replication_poll(front->repl), moved = fs_poll(front->fs);

		if (answers || moved)
			continue;
		count = replication_fds(front->repl, links);
		for (unsigned i = 0; i < count; i++)
			fds[i] = (struct pollfd){ .fd = links[i], .events = POLLIN };
		poll(fds, count, replication_may_block(front->repl) ? BUSY_SLEEP_MS : 0);
	}
	if (!sync.done) {
		fs_waiter_cancel(&sync.waiter);
		return -ETIMEDOUT;
	}
	return sync.err;
}

static int finish(struct front *front)
{
	unsigned given_up = front->parked_count;
	int err;

	front_fini(front); /* first: its waiters stand before ours */
	err = commit_all(front);
	if (err != 0) {
		log_error("%s: unmounted, but changes since commit %lu are not acknowledged: %s", front->mountpoint,
			  fs_acked_seq(front->fs), strerror(-err));
		return -EIO;
	}
	err = fs_checkpoint(front->fs);
	if (err != 0)
		log_error("%s: bringing the pool up to date: %s; the next mount replays the journal", front->mountpoint,
			  strerror(-err));
	log_info("%s: unmounted at commit %lu", front->mountpoint, fs_committed_seq(front->fs));
	if (given_up == 0)
		return 0;
	log_error("%s: %u changes that waited were given up: their callers got ENOTCONN", front->mountpoint, given_up);
	return -EIO;
}

int loop_run(struct front *front, const struct loop_cfg *cfg)
{
	struct loop loop = { .front = front, .cfg = cfg, .idle_work = true };
	int fd = fuse_session_fd(front->session), err = 0;
	bool moved;

	loop.signal_fd = signal_open();
	if (loop.signal_fd < 0)
		return loop.signal_fd;
	loop.leave_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop.idle_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (loop.leave_fd < 0 || loop.idle_fd < 0 || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) {
		err = -errno;
		goto close_signal;
	}
	while (!over(&loop)) {
		moved = progress(&loop);
		front_tick(front);
		if (++loop.unlooked >= LOOK_ROUNDS)
			sleep_for(&loop, 0);
		else if (fs_busy(front->fs))
			round_busy(&loop, moved);
		else
			round_idle(&loop, moved);
	}
	fuse_session_unmount(front->session); /* also ends a connection that was only detached */
	if (loop.leaving)
		pthread_join(loop.unmounter, NULL);
	err = finish(front);
	if (err == 0 && !loop.told)
		err = errmsg_set(-EINTR, "%s: unmounted, or ended by a signal, before it answered", front->mountpoint);
	free(loop.buf.mem);
close_signal:
	if (loop.idle_fd >= 0)
		close(loop.idle_fd);
	if (loop.leave_fd >= 0)
		close(loop.leave_fd);
	close(loop.signal_fd);
	return err;
}
