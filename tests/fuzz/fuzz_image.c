/* The file system core on hostile pools. The input is a list of choices: a pool, changes of its structures under right
 * checksums (mutate.h), how it is opened, what is done with it. It may be refused or be told to be damaged at any step; what
 * was opened is walked, read, written to, committed, checkpointed, checked, and opened again.
 *
 * Beside what the sanitizers see: nothing waits for ever, a directory ends, and a pool that the checker calls sound stays
 * sound and opens again, whatever was done to it; a repair leaves less in each round, and in the end nothing but rot. */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <sys/mman.h>
#include "errmsg.h"
#include "fs/fs.h"
#include "fs/fsck.h"
#include "fs/tree.h"
#include "log.h"
#include "mutate.h"
#include "repl.h"

#define OPS_MAX 24u
#define DIRS_MAX 32u
#define ENTRIES_MAX 300u
#define SEEKS_MAX 4u
#define IO_BYTES (20u << 10)

static uint8_t *pool; /* between two pages that nothing may touch */
static const struct fs_cred cred;
static bool tell; /* what happens, for a look at one input */

static struct {
	struct draw d;
	struct pm pm;
	struct copy *copy;
	struct fs *fs;
	struct fs_cfg cfg;
	/* names seen on the way: what operations are tried on */
	unsigned count;
	struct seen {
		uint64_t dir, ino;
		mode_t mode;
		char name[FS_NAME_BYTES_MAX + 1];
	} seen[ENTRIES_MAX];
} s;

static uint32_t choose(uint32_t below)
{
	return draw(&s.d, below);
}

/* An operation's result: it came to an end, and is an errno or none. */
#define TRY(expr)                                      \
	({                                             \
		int try_err = POOLS_TRY(s.fs, expr);   \
		FUZZ_CHECK(try_err != -EAGAIN);        \
		FUZZ_CHECK(try_err <= 0);              \
		if (tell)                              \
			fprintf(stderr, "%s = %d %s\n", #expr, try_err, try_err ? errmsg_get() : ""); \
		try_err;                               \
	})

/* ---------------------------------------------------------------- a replica that has everything up to a point */
static struct {
	uint64_t posted, acked, behind;
	bool released;
} peer;

static void peer_post(void *ctx, const struct repl_commit *commit)
{
	(void)ctx;
	peer.posted = commit->seq;
}

static bool peer_push(void *ctx, uint64_t off, const void *src, uint32_t len)
{
	(void)ctx;
	(void)off;
	(void)src;
	(void)len;
	return true;
}

static uint64_t peer_durable(void *ctx)
{
	(void)ctx;
	return peer.posted;
}

static uint64_t peer_least(void *ctx)
{
	(void)ctx;
	return peer.released ? UINT64_MAX : peer.acked;
}

static void peer_checkpointed(void *ctx, uint64_t seq)
{
	(void)ctx;
	(void)seq;
}

static void peer_release(void *ctx)
{
	(void)ctx;
	peer.released = true;
}

static const struct fs_repl_ops peer_ops = {
	.post = peer_post,
	.push = peer_push,
	.durable = peer_durable,
	.ackable = peer_durable,
	.min_acked = peer_least,
	.min_tail = peer_least,
	.checkpointed = peer_checkpointed,
	.need_release = peer_release,
};

/* ---------------------------------------------------------------- looking */
static uint8_t io[IO_BYTES];

static void read_at(uint64_t ino, uint64_t off)
{
	size_t got = 0;

	if (!fs_read(s.fs, ino, off, io, sizeof(io), &got))
		FUZZ_CHECK(got <= sizeof(io));
}

static void read_file(uint64_t ino, uint64_t size)
{
	uint64_t at = 0;

	read_at(ino, 0);
	read_at(ino, size > 5000 ? size - 5000 : 1);
	for (unsigned i = 0; i < SEEKS_MAX && !fs_seek(s.fs, ino, at, SEEK_DATA, &at); i++) {
		uint64_t hole;

		read_at(ino, at);
		if (fs_seek(s.fs, ino, at, SEEK_HOLE, &hole))
			break;
		FUZZ_CHECK(hole > at);
		at = hole;
	}
}

static void look_inode(uint64_t ino, mode_t *mode)
{
	struct stat st = { 0 };
	uint32_t gen;
	size_t len;

	*mode = 0;
	if (fs_getattr(s.fs, ino, &st, &gen))
		return;
	*mode = st.st_mode;
	if (S_ISREG(st.st_mode))
		read_file(ino, (uint64_t)st.st_size);
	if (S_ISLNK(st.st_mode) && !fs_readlink(s.fs, ino, (char *)io, sizeof(io), &len))
		FUZZ_CHECK(len <= sizeof(io));
}

static void look_entry(uint64_t dir, const struct fs_dirent *entry)
{
	struct seen *at = &s.seen[s.count];
	uint64_t ino = 0;

	FUZZ_CHECK(memchr(entry->name, '\0', sizeof(entry->name)));
	if (!strcmp(entry->name, ".") || !strcmp(entry->name, ".."))
		return;
	fs_lookup(s.fs, dir, entry->name, &ino);
	at->dir = dir;
	at->ino = entry->ino;
	at->mode = 0;
	strcpy(at->name, entry->name);
	for (unsigned i = 0; i < s.count; i++)
		if (s.seen[i].ino == entry->ino)
			at->mode = s.seen[i].mode;
	if (!at->mode)
		look_inode(entry->ino, &at->mode);
	s.count++;
}

static void look_dir(uint64_t dir, unsigned end)
{
	struct fs_dirent entry;
	uint64_t cookie = 0;

	while (s.count < end && !fs_readdir(s.fs, dir, cookie, &entry)) {
		FUZZ_CHECK(entry.cookie > cookie);
		cookie = entry.cookie;
		look_entry(dir, &entry);
	}
}

/* Everything, as far as there is room to note it; a directory may well hold itself. */
static void look(void)
{
	struct statvfs st;
	mode_t mode;

	s.count = 0;
	fs_statfs(s.fs, &st);
	look_inode(FS_ROOT_INO, &mode);
	look_dir(FS_ROOT_INO, ENTRIES_MAX / 2);
	for (unsigned i = 0, dirs = 0; i < s.count && dirs < DIRS_MAX; i++)
		if (S_ISDIR(s.seen[i].mode)) {
			look_dir(s.seen[i].ino, s.count + 60 < ENTRIES_MAX ? s.count + 60 : ENTRIES_MAX);
			dirs++;
		}
}

/* ---------------------------------------------------------------- doing */
static const struct seen *any_seen(void)
{
	static const struct seen none = { .dir = FS_ROOT_INO, .ino = FS_ROOT_INO, .name = "none" };

	return s.count ? &s.seen[choose(s.count)] : &none;
}

static uint64_t any_dir(void)
{
	for (unsigned tries = choose(4); tries; tries--) {
		const struct seen *at = any_seen();

		if (S_ISDIR(at->mode))
			return at->ino;
	}
	return FS_ROOT_INO;
}

static void any_name(char name[32])
{
	snprintf(name, 32, "new-%u-%.*s", choose(16), (int)choose(20), "nnnnnnnnnnnnnnnnnnnnn");
}

static void do_write(uint64_t ino)
{
	static const uint64_t offs[] = { 0, 1, 4096, 100000, 2ull << 20, 1ull << 40, (1ull << 48) - 8192 };
	size_t done = 0, len = choose(3) ? choose(300) + 1 : choose(IO_BYTES) + 1;
	uint64_t off = offs[choose(sizeof(offs) / sizeof(offs[0]))] + choose(5000);

	memset(io, (int)choose(256), len);
	if (choose(8))
		TRY(fs_write(s.fs, ino, off, io, len, &done));
	else
		TRY(fs_write_back(s.fs, ino, off, io, len, &done));
}

static void do_setattr(uint64_t ino)
{
	struct stat st = { .st_mode = choose(07777), .st_size = (off_t)choose(1u << 24) << choose(24) };

	TRY(fs_setattr(s.fs, ino, choose(512), &st));
}

static void sync_done(struct fs_waiter *waiter, int err)
{
	(void)err;
	waiter->seq = UINT64_MAX;
}

static void do_sync(uint64_t ino)
{
	struct fs_waiter waiter = { .done = sync_done };

	if (TRY(fs_sync_inode(s.fs, ino, &waiter)))
		return;
	for (unsigned i = 0; i < POOLS_ROUNDS_MAX && waiter.seq != UINT64_MAX; i++)
		fs_poll(s.fs);
	FUZZ_CHECK(waiter.seq == UINT64_MAX);
}

static void do_rename(const struct seen *at)
{
	static const unsigned flags[] = { 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE };
	const struct seen *to = any_seen();
	char name[32];

	any_name(name);
	if (choose(2))
		TRY(fs_rename(s.fs, at->dir, at->name, any_dir(), name, flags[choose(4)]));
	else
		TRY(fs_rename(s.fs, at->dir, at->name, to->dir, to->name, flags[choose(4)]));
}

static void do_new(void)
{
	static const mode_t modes[] = { S_IFREG | 0600, S_IFREG | 0600, S_IFDIR | 0700, S_IFIFO | 0600 };
	uint64_t dir = any_dir(), ino = 0;
	char name[32];
	int err;

	any_name(name);
	if (choose(4))
		err = TRY(fs_create(s.fs, dir, name, modes[choose(4)], 0, &cred, &ino));
	else
		err = TRY(fs_symlink(s.fs, dir, name, choose(2) ? "short" : (char *)memset(io, 'l', 500), &cred, &ino));
	if (!err && choose(2))
		do_write(ino);
}

/* Open, perhaps changed and without a name meanwhile, and closed. */
static void do_open(const struct seen *at)
{
	if (fs_opened(s.fs, at->ino))
		return;
	if (choose(2))
		TRY(fs_unlink(s.fs, at->dir, at->name));
	if (choose(2))
		do_write(at->ino);
	fs_released(s.fs, at->ino);
}

static void do_one(void)
{
	const struct seen *at = any_seen();
	char name[32];

	switch (choose(16)) {
	case 0: TRY(fs_unlink(s.fs, at->dir, at->name)); break;
	case 1: TRY(fs_rmdir(s.fs, at->dir, at->name)); break;
	case 2:
	case 3: do_rename(at); break;
	case 4:
		any_name(name);
		TRY(fs_link(s.fs, at->ino, any_dir(), name));
		break;
	case 5: TRY(fs_truncate(s.fs, at->ino, choose(2) ? choose(1u << 16) : (uint64_t)choose(1u << 24) << 24)); break;
	case 6: do_setattr(at->ino); break;
	case 7: do_sync(at->ino); break;
	case 8: do_open(at); break;
	case 9: look_inode(choose(300), &(mode_t){ 0 }); break;
	case 10: pools_sync(s.fs); break;
	case 11: fs_idle(s.fs); break;
	case 12:
	case 13: do_new(); break;
	default: do_write(at->ino); break;
	}
}

/* ---------------------------------------------------------------- sessions */
static int pool_open(bool read_only)
{
	int err = copy_open(&s.pm, read_only, &s.copy);

	if (err)
		return err;
	s.cfg.read_only = read_only;
	peer.posted = copy_head(s.copy).seq;
	peer.acked = copy_tail(s.copy).seq + peer.behind;
	err = fs_open(s.copy, &s.cfg, &s.fs);
	if (err)
		copy_close(s.copy);
	return err;
}

static void pool_close(void)
{
	fs_close(s.fs);
	copy_close(s.copy);
}

/* A fenced pool refuses every commit. */
static bool fenced(void)
{
	return copy_page(s.copy)->fence_epoch > copy_head(s.copy).epoch;
}

/* All background work done, and everything in place. */
static bool settle(void)
{
	peer.released = true;
	if (fenced())
		return false;
	for (unsigned i = 0; i < POOLS_ROUNDS_MAX && fs_idle(s.fs); i++)
		;
	if (pools_sync(s.fs) || fs_checkpoint(s.fs)) {
		if (tell)
			fprintf(stderr, "sync: %s\n", errmsg_get());
		return false;
	}
	return true;
}

/* Everything in place and checked; whether it is sound. */
static bool pool_sound(void)
{
	struct fsck_report report = { 0 };
	bool sound;

	if (!settle())
		return false;
	sound = !fsck_run(s.fs, &report) && !report.total;
	if (!sound && report.count && tell)
		fprintf(stderr, "check: %s\n", report.lines[0]);
	fsck_report_free(&report);
	return sound;
}

static void peer_choose(void)
{
	s.cfg = (struct fs_cfg){ .dirty_now = true };
	if (choose(3) != 1)
		return;
	peer.released = false;
	peer.behind = choose(4);
	s.cfg.repl = &peer_ops;
}

/* A pool opened for reading may be looked at, and refuses every change. */
static void session_read_only(void)
{
	struct fsck_report report = { 0 };
	uint64_t ino;

	if (pool_open(true))
		return;
	look();
	FUZZ_CHECK(fs_create(s.fs, FS_ROOT_INO, "refused", S_IFREG | 0600, 0, &cred, &ino));
	fsck_run(s.fs, &report);
	fsck_report_free(&report);
	pool_close();
}

static void session(void)
{
	bool sound = false;

	if (pool_open(false))
		return;
	look();
	if (choose(2))
		sound = pool_sound();
	for (unsigned i = 0; i < OPS_MAX && s.d.left; i++)
		do_one();
	if (sound)
		FUZZ_CHECK(pool_sound());
	else if (choose(4))
		pool_sound();
	pool_close();
	s.cfg.repl = NULL;
	if (pool_open(false)) {
		FUZZ_CHECK(!sound);
		return;
	}
	look();
	FUZZ_CHECK(pool_sound() || !sound);
	pool_close();
}

/* ---------------------------------------------------------------- repair */

static void told(const char *when, const struct fsck_report *report)
{
	for (size_t i = 0; i < report->count && tell; i++)
		fprintf(stderr, "%s: %s\n", when, report->lines[i]);
}

static uint64_t wrong_counts(const struct fsck_report *report)
{
	uint64_t count = 0;

	for (size_t i = 0; i < report->fix_count; i++)
		count += report->fixes[i].kind == FSCK_FIX_COUNT;
	return count;
}

/* What cannot be opened is checked part by part, and behind a damaged ring what lies in place. */
static void check_parts(void)
{
	struct fsck_report report = { 0 };
	struct media_geom geom;

	fsck_front(&s.pm, &report);
	if (!copy_sb_check(pm_ptr(&s.pm, media_off(MEDIA_SB_A_BLK)), POOLS_BYTES, &geom)) {
		pm_zero(&s.pm, media_ring_off(0), geom.ring_bytes);
		if (!copy_open(&s.pm, false, &s.copy)) {
			FUZZ_CHECK(!fsck_copy(s.copy, &report));
			copy_close(s.copy);
		}
	}
	fsck_report_free(&report);
}

/* The first part of a repair, before the core is opened; whether there may be more to repair. */
static bool repair_counts(void)
{
	struct fsck_report before = { 0 }, after = { 0 };
	bool repairable = false;

	if (!copy_checkpoint(s.copy, UINT64_MAX, UINT64_MAX)) {
		FUZZ_CHECK(!fsck_copy(s.copy, &before));
		told("before", &before);
		repairable = fsck_repairable(&before);
	}
	if (repairable) {
		FUZZ_CHECK(!fsck_repair_counts(s.copy, &before));
		FUZZ_CHECK(!fsck_copy(s.copy, &after));
		told("counts mended", &after);
		FUZZ_CHECK(after.total == before.total - wrong_counts(&before));
		FUZZ_CHECK(!wrong_counts(&after));
	}
	fsck_report_free(&before);
	fsck_report_free(&after);
	return repairable;
}

/* What stands in the way of a repair without being damage: a file of the name lost+found, a full pool or directory. */
static bool in_the_way(int err)
{
	return err == -ENOTDIR || err == -ENOSPC || err == -EMLINK || err == -EEXIST;
}

/* The rest, in rounds as the command does it: each leaves less, and in the end nothing but rot. */
static void repair_rounds(void)
{
	uint64_t before = UINT64_MAX;
	bool more = true;

	while (more && settle()) {
		struct fsck_report report = { 0 };
		size_t next = 0;
		int err;

		FUZZ_CHECK(!fsck_run(s.fs, &report));
		told("round", &report);
		FUZZ_CHECK(!report.hiding);
		FUZZ_CHECK(report.total < before);
		FUZZ_CHECK(!wrong_counts(&report));
		before = report.total;
		more = fsck_repairable(&report);
		for (unsigned i = 0; (err = fsck_repair(s.fs, &report, &next)) == -EAGAIN && i < POOLS_ROUNDS_MAX; i++)
			fs_poll(s.fs);
		if (err && tell)
			fprintf(stderr, "repair: %d %s\n", err, errmsg_get());
		FUZZ_CHECK(!err || in_the_way(err));
		fsck_report_free(&report);
		if (err)
			return;
	}
}

static void session_repair(void)
{
	bool repairable;

	if (copy_open(&s.pm, false, &s.copy)) {
		check_parts();
		return;
	}
	repairable = repair_counts();
	copy_close(s.copy);
	s.cfg.repl = NULL;
	if (!repairable || pool_open(false))
		return;
	repair_rounds();
	look();
	pool_close();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_open("fuzz", "/dev/null", LOG_LEVEL_ERROR);
	tell = getenv("FUZZ_TELL");
	pools_make();
	pool = mmap(NULL, POOLS_BYTES + 2 * MEDIA_BLOCK_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FUZZ_CHECK(pool != MAP_FAILED);
	pool += MEDIA_BLOCK_BYTES;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct pool_image *image;
	unsigned kind;

	s.d = (struct draw){ data, size };
	image = pools_get(choose(POOLS));
	/* cppcheck-suppress leakReturnValNotUsed ; into the range at pool, which is kept */
	FUZZ_CHECK(mmap(pool, POOLS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, image->fd, 0) == pool);
	pm_init(&s.pm, pool, POOLS_BYTES, PM_MEMORY);
	kind = choose(8);
	mutate(pool, image, &s.d, kind == 1 || kind == 2);
	peer_choose();
	switch (kind) {
	case 0: session_read_only(); break;
	case 1:
	case 2:
	case 3: session_repair(); break;
	default: session(); break;
	}
	return 0;
}
