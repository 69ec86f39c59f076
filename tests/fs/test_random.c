/* Everything at once: random operations on a core with tiny rings, with and without a replica that lags, crashes in between;
 * each file holds nothing but its own bytes, and the checker is content. RANDOM_SEEDS runs more of them. */
#include <dirent.h>
#include "tests/support/peer_rig.h"

TestSuite(random, .fini = fini);

#define FILES 24u
#define HANDLES 8u

static uint64_t rng;

static uint32_t rnd(uint32_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)((rng >> 11) % below);
}

static bool may_fail(int err)
{
	return err == 0 || err == -ENOSPC || err == -EEXIST || err == -ENOENT || err == -ENOTEMPTY || err == -EISDIR ||
	       err == -ENOTDIR || err == -EINVAL || err == -EPERM || err == -ESTALE;
}

static void name_of(char *name, unsigned i)
{
	if (i % 4 == 3)
		snprintf(name, 200, "n%u-%0*d", i, 20 + (int)(i % 3) * 60, 0);
	else
		snprintf(name, 200, "n%u", i);
}

static uint64_t pick_dir(void)
{
	uint64_t ino;
	char name[16];

	snprintf(name, sizeof(name), "d%u", rnd(4));
	return rnd(2) && fs_lookup(rig.fs, FS_ROOT_INO, name, &ino) == 0 ? ino : FS_ROOT_INO;
}

static void step_names(uint64_t dir, char name[256])
{
	static char target[3002];
	uint64_t to = pick_dir(), ino;
	char other[256];
	int err = 0;

	name_of(other, rnd(FILES));
	switch (rnd(8)) {
	case 0:
		snprintf(name, 256, "d%u", rnd(4));
		err = TRY(fs_create(rig.fs, rnd(3) ? FS_ROOT_INO : dir, name, S_IFDIR | 0700, 0, &cred, &ino));
		break;
	case 1:
	case 2:
		err = TRY(fs_create(rig.fs, dir, name, S_IFREG | 0600, 0, &cred, &ino));
		break;
	case 3:
		memset(target, 't', sizeof(target));
		target[1 + rnd(3000)] = 0;
		err = TRY(fs_symlink(rig.fs, dir, name, target, &cred, &ino));
		break;
	case 4:
		err = TRY(fs_unlink(rig.fs, dir, name));
		break;
	case 5:
		snprintf(name, 256, "d%u", rnd(4));
		err = TRY(fs_rmdir(rig.fs, dir, name));
		break;
	case 6:
		if (rnd(4) == 0) {
			snprintf(name, 256, "d%u", rnd(4));
			snprintf(other, sizeof(other), "d%u", rnd(4));
		}
		err = TRY(fs_rename(rig.fs, dir, name, to, other, rnd(3) == 0 ? RENAME_EXCHANGE : 0));
		break;
	default:
		if (!fs_lookup(rig.fs, dir, name, &ino))
			err = TRY(fs_link(rig.fs, ino, to, other));
		break;
	}
	cr_assert(may_fail(err), "%d %s", err, errmsg_get());
}

/* One handle more or less. */
static void step_handles(uint64_t dir, const char *name, unsigned *opened, uint64_t *handles)
{
	uint64_t ino;

	if (rnd(2)) {
		if (*opened < HANDLES && !fs_lookup(rig.fs, dir, name, &ino) && !fs_opened(rig.fs, ino))
			handles[(*opened)++] = ino;
	} else if (*opened) {
		unsigned i = rnd(*opened);

		fs_released(rig.fs, handles[i]);
		handles[i] = handles[--*opened];
	}
}

static int step_write(uint64_t ino)
{
	static uint8_t buf[600 << 10];
	uint64_t off = rnd(8) ? rnd(2u << 20) : (uint64_t)rnd(1u << 30) << rnd(10);
	size_t len = rnd(3) == 0 ? 1 + rnd(sizeof(buf) - 1) : rnd(2) ? 1 + rnd(200) : BLK * (1 + rnd(8));

	if (rnd(2))
		off &= ~(uint64_t)(BLK - 1);
	memset(buf, (int)(1 + ino % 250), len);
	return put_try(ino, off, buf, len);
}

static void step_content(uint64_t dir, const char *name, unsigned opened, const uint64_t *handles)
{
	struct stat st = { .st_mode = 0640, .st_mtim.tv_sec = 5 };
	uint64_t ino;
	bool there = !fs_lookup(rig.fs, dir, name, &ino);
	int err = 0;

	switch (rnd(6)) {
	case 0:
		if (there)
			err = TRY(fs_truncate(rig.fs, ino, rnd(2) ? rnd(3u << 20) : (uint64_t)rnd(1u << 30) << rnd(10)));
		break;
	case 1:
		if (there)
			err = TRY(fs_setattr(rig.fs, ino, 1u << rnd(3) | (rnd(2) ? FS_SET_MTIME | FS_SET_ATIME : 0), &st));
		break;
	default:
		if (there || opened)
			err = step_write(there ? ino : handles[rnd(opened)]);
		break;
	}
	cr_assert(may_fail(err), "%d %s", err, errmsg_get());
}

static void step(unsigned *opened, uint64_t *handles)
{
	uint64_t dir = pick_dir();
	char name[256];

	name_of(name, rnd(FILES));
	switch (rnd(8)) {
	case 0: step_handles(dir, name, opened, handles); break;
	case 1:
	case 2:
	case 3: step_content(dir, name, *opened, handles); break;
	default: step_names(dir, name); break;
	}
	cr_assert_eq(fs_failed(rig.fs), 0, "%s", errmsg_get());
}

/* Every byte of every file is a hole or its own. */
static void check_content(void)
{
	static uint8_t got[64 << 10];
	const struct fs_state_omf *state;
	struct stat st;
	uint64_t last;

	cr_assert_eq(state_get(rig.fs, &state), 0);
	last = le64_get(state->ino_next);
	for (uint64_t ino = 2; ino < last; ino++) {
		uint64_t off = 0, at;
		size_t n;

		if (fs_getattr(rig.fs, ino, &st, NULL) || !S_ISREG(st.st_mode) || st.st_nlink == 0)
			continue;
		while (!fs_seek(rig.fs, ino, off, SEEK_DATA, &at)) {
			cr_assert_eq(fs_read(rig.fs, ino, at, got, BLK, &n), 0, "%s", errmsg_get());
			for (size_t i = 0; i < n; i++)
				cr_assert(got[i] == 0 || got[i] == 1 + ino % 250, "inode %lu at %lu: %u", ino, at + i, got[i]);
			off = (at / BLK + 1) * BLK;
		}
	}
}

static void peer_step(void)
{
	if (rnd(3) == 0)
		peer.durable = peer.posted;
	if (peer.acked == UINT64_MAX)
		return;
	if (rnd(8) == 0 && peer.acked < peer.durable)
		peer.acked += 1 + rnd((uint32_t)(peer.durable - peer.acked));
	if (rnd(8) == 0 && peer.tail < peer.acked)
		peer.tail += 1 + rnd((uint32_t)(peer.acked - peer.tail));
}

static void maybe_sync(void)
{
	uint64_t ino;
	char name[256];

	if (rnd(40) == 0)
		cr_assert(may_fail(sync_try(0)));
	name_of(name, rnd(FILES));
	if (rnd(8) == 0 && !fs_lookup(rig.fs, FS_ROOT_INO, name, &ino)) {
		int err = sync_try(ino);

		cr_assert(may_fail(err) || err == -EIO, "%d", err);
	}
	if (rnd(4) == 0)
		fs_idle(rig.fs);
	if (rnd(100) == 0) {
		rig.fs->link_upto = rig.fs->stream_gen;
		fs_poll(rig.fs);
	}
}

static void random_run(uint64_t seed, bool with_peer, unsigned crashes, unsigned steps)
{
	char when[64];

	rng = seed * 0x9e3779b97f4a7c15ull + 1;
	core_rig_make(&rig, (8 + rnd(3) * 4) * MIB, rnd(2) ? MEDIA_RING_BYTES_MIN : 0);
	if (with_peer)
		peer_attach();
	for (unsigned c = 0; c < crashes; c++) {
		uint64_t handles[HANDLES], head;
		unsigned opened = 0;
		int err;

		for (unsigned i = 0, n = 1 + rnd(steps); i < n; i++) {
			step(&opened, handles);
			maybe_sync();
			if (with_peer)
				peer_step();
		}
		snprintf(when, sizeof(when), "seed %lu crash %u", seed, c);
		head = copy_head(rig.copy).seq;
		peer.durable = peer.posted;
		if (with_peer && rnd(2)) /* known to have less than it has */
			peer.acked = peer.tail = head - rnd(head < 30 ? (uint32_t)head : 30);
		err = core_rig_crash(&rig);
		cr_assert_eq(err, 0, "%s: %d %s", when, err, errmsg_get());
		if (with_peer)
			peer.posted = peer.durable = head, peer.released = release_wanted = false;
		check_content();
		if (rnd(2)) {
			peer.acked = peer.tail = UINT64_MAX;
			check_sound(when);
			check_content();
			if (with_peer && rnd(2))
				peer.acked = peer.tail = copy_head(rig.copy).seq;
		}
	}
	peer.acked = peer.tail = UINT64_MAX;
	core_rig_quiesce(&rig);
	check_sound("end");
	core_rig_free(&rig);
	rig.fs = NULL;
}

static unsigned seeds(void)
{
	const char *text = getenv("RANDOM_SEEDS");

	return text ? (unsigned)atoi(text) : 3;
}

Test(random, changes_crashes_and_tiny_rings, .timeout = 600)
{
	for (unsigned seed = 1; seed <= seeds(); seed++)
		random_run(seed, false, 12, 250);
}

Test(random, changes_crashes_and_a_copy_that_lags, .timeout = 600)
{
	for (unsigned seed = 1; seed <= seeds(); seed++)
		random_run(seed + 1000, true, 12, 250);
}
