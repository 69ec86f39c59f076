/* The name space: edges of each call, and random operations against a model that is a plain list of names. After each test
 * the format checker must find nothing. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "errmsg.h"
#include "tests/support/core_rig.h"

#define MIB (1ull << 20)
#define ROOT FS_ROOT_INO

static struct core_rig rig;
static const struct fs_cred root_cred, user_cred = { .uid = 1000, .gid = 1001 };

static void setup(void)
{
	core_rig_make(&rig, 64 * MIB, 0);
}

static void teardown(void)
{
	core_rig_end(&rig);
}

TestSuite(namei, .init = setup, .fini = teardown, .timeout = 120);

/* ---------------------------------------------------------------- calls, repeated while they have to wait */

static int make(uint64_t dir, const char *name, mode_t mode, uint64_t *ino)
{
	return CORE_RIG_TRY(&rig, fs_create(rig.fs, dir, name, mode, 0, &root_cred, ino));
}

static uint64_t made(uint64_t dir, const char *name, mode_t mode)
{
	uint64_t ino = 0;
	int err = make(dir, name, mode, &ino);

	cr_assert_eq(err, 0, "%s: %d %s", name, err, errmsg_get());
	return ino;
}

static int ren(uint64_t dir, const char *name, uint64_t new_dir, const char *new_name, unsigned flags)
{
	return CORE_RIG_TRY(&rig, fs_rename(rig.fs, dir, name, new_dir, new_name, flags));
}

static int rm(uint64_t dir, const char *name)
{
	return CORE_RIG_TRY(&rig, fs_unlink(rig.fs, dir, name));
}

static int rmd(uint64_t dir, const char *name)
{
	return CORE_RIG_TRY(&rig, fs_rmdir(rig.fs, dir, name));
}

static int lnk(uint64_t ino, uint64_t dir, const char *name)
{
	return CORE_RIG_TRY(&rig, fs_link(rig.fs, ino, dir, name));
}

static int set(uint64_t ino, unsigned mask, const struct stat *st)
{
	return CORE_RIG_TRY(&rig, fs_setattr(rig.fs, ino, mask, st));
}

static void put(uint64_t ino, const char *text)
{
	size_t done = 0;
	int err = CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, 0, text, strlen(text), &done));

	cr_assert_eq(err, 0, "write: %d %s", err, errmsg_get());
}

static struct stat attr(uint64_t ino)
{
	struct stat st = { 0 };
	int err = fs_getattr(rig.fs, ino, &st, NULL);

	cr_expect_eq(err, 0, "getattr of %lu: %d %s", ino, err, errmsg_get());
	return st;
}

static uint64_t found(uint64_t dir, const char *name)
{
	uint64_t ino = 0;
	int err = fs_lookup(rig.fs, dir, name, &ino);

	cr_expect(err == 0 || err == -ENOENT, "lookup of %s: %d %s", name, err, errmsg_get());
	return err == 0 ? ino : 0;
}

static void expect_content(uint64_t ino, const char *text)
{
	char buf[256] = "";
	size_t got = 0;
	int err = fs_read(rig.fs, ino, 0, buf, sizeof(buf) - 1, &got);

	cr_expect_eq(err, 0);
	cr_expect_eq(got, strlen(text));
	cr_expect_str_eq(buf, text);
}

static bool later(struct timespec a, struct timespec b)
{
	return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

/* ---------------------------------------------------------------- names */

Test(namei, refuses_names_that_are_none)
{
	char longest[FS_NAME_BYTES_MAX + 2];
	uint64_t ino;

	cr_expect_eq(make(ROOT, "", S_IFREG | 0600, &ino), -EINVAL);
	cr_expect_eq(make(ROOT, ".", S_IFREG | 0600, &ino), -EINVAL);
	cr_expect_eq(make(ROOT, "..", S_IFDIR | 0700, &ino), -EINVAL);
	cr_expect_eq(make(ROOT, "a/b", S_IFREG | 0600, &ino), -EINVAL);
	memset(longest, 'n', sizeof(longest));
	longest[FS_NAME_BYTES_MAX + 1] = '\0';
	cr_expect_eq(make(ROOT, longest, S_IFREG | 0600, &ino), -ENAMETOOLONG);
	cr_expect_eq(fs_lookup(rig.fs, ROOT, longest, &ino), -ENAMETOOLONG);
	longest[FS_NAME_BYTES_MAX] = '\0';
	cr_expect_eq(make(ROOT, longest, S_IFREG | 0600, &ino), 0);
	cr_expect_eq(found(ROOT, longest), ino);
	cr_expect_eq(make(ROOT, longest, S_IFREG | 0600, &ino), -EEXIST);
	cr_expect_eq(make(ino, "below_a_file", S_IFREG | 0600, &ino), -ENOTDIR);
	cr_expect_eq(make(ROOT, "no_type", 0600, &ino), -EINVAL);
	cr_expect_eq(make(12345, "x", S_IFREG | 0600, &ino), -ESTALE);
}

Test(namei, create_fills_the_inode)
{
	uint64_t ino, first = made(ROOT, "first", S_IFREG | 0644); /* from here on the root's times are the rig's */
	struct stat st, before = attr(ROOT), after;
	int err = CORE_RIG_TRY(&rig, fs_create(rig.fs, ROOT, "dev", S_IFCHR | 0640, makedev(5, 300), &user_cred, &ino));

	cr_assert_eq(err, 0);
	cr_expect_neq(ino, first);
	st = attr(ino);
	cr_expect_eq(st.st_mode, S_IFCHR | 0640);
	cr_expect_eq(st.st_rdev, makedev(5, 300));
	cr_expect_eq(st.st_uid, 1000);
	cr_expect_eq(st.st_gid, 1001);
	cr_expect_eq(st.st_nlink, 1);
	cr_expect_eq(st.st_size, 0);
	cr_expect_eq(st.st_ino, ino);
	after = attr(ROOT);
	cr_expect(later(after.st_mtim, before.st_mtim));
	cr_expect(later(after.st_ctim, before.st_ctim));
}

Test(namei, set_group_id_directory_hands_its_group_down)
{
	struct stat st = { .st_mode = 02775, .st_gid = 77 };
	uint64_t dir = made(ROOT, "sg", S_IFDIR | 0755), sub, file;

	cr_assert_eq(set(dir, FS_SET_GID | FS_SET_MODE, &st), 0);
	sub = made(dir, "sub", S_IFDIR | 0755);
	file = made(dir, "file", S_IFREG | 0644);
	cr_expect_eq(attr(sub).st_gid, 77);
	cr_expect_eq(attr(sub).st_mode, S_IFDIR | 02755);
	cr_expect_eq(attr(file).st_gid, 77);
	cr_expect_eq(attr(file).st_mode, S_IFREG | 0644);
}

Test(namei, symlinks_of_every_interesting_length)
{
	static const size_t lens[] = { 1, 63, 64, 65, 4094, 4095 };
	char target[4200], got[4200], name[16];
	uint64_t ino;
	size_t len;
	int err;

	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		memset(target, 'a' + (int)i, lens[i]);
		target[lens[i]] = '\0';
		snprintf(name, sizeof(name), "l%zu", lens[i]);
		err = CORE_RIG_TRY(&rig, fs_symlink(rig.fs, ROOT, name, target, &root_cred, &ino));
		cr_assert_eq(err, 0);
		cr_expect_eq(attr(ino).st_size, (off_t)lens[i]);
		cr_expect_eq(fs_readlink(rig.fs, ino, got, sizeof(got), &len), 0);
		cr_expect_eq(len, lens[i]);
		cr_expect_eq(memcmp(got, target, len), 0);
		cr_expect_eq(fs_readlink(rig.fs, ino, got, 1, &len), 0);
		cr_expect_eq(len, 1);
	}
	memset(target, 'x', 4096);
	target[4096] = '\0';
	cr_expect_eq(fs_symlink(rig.fs, ROOT, "long", target, &root_cred, &ino), -ENAMETOOLONG);
	cr_expect_eq(fs_symlink(rig.fs, ROOT, "empty", "", &root_cred, &ino), -ENOENT);
	cr_expect_eq(fs_readlink(rig.fs, ROOT, got, sizeof(got), &len), -EINVAL);
	cr_expect_eq(rm(ROOT, "l4095"), 0);
}

Test(namei, links_count_and_the_last_one_frees)
{
	uint64_t ino = made(ROOT, "a", S_IFREG | 0644), dir = made(ROOT, "d", S_IFDIR | 0755);
	struct stat st;

	cr_expect_eq(lnk(dir, ROOT, "d2"), -EPERM);
	cr_expect_eq(lnk(ino, dir, "b"), 0);
	cr_expect_eq(lnk(ino, dir, "b"), -EEXIST);
	cr_expect_eq(attr(ino).st_nlink, 2);
	cr_expect_eq(rm(ROOT, "a"), 0);
	cr_expect_eq(attr(ino).st_nlink, 1);
	cr_expect_eq(found(dir, "b"), ino);
	cr_expect_eq(rm(dir, "b"), 0);
	core_rig_quiesce(&rig);
	cr_expect_eq(fs_getattr(rig.fs, ino, &st, NULL), -ESTALE);
}

Test(namei, unlinked_file_lives_until_its_last_close)
{
	uint64_t ino = made(ROOT, "f", S_IFREG | 0644);
	struct stat st;

	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	put(ino, "still here");
	cr_expect_eq(rm(ROOT, "f"), 0);
	cr_expect_eq(attr(ino).st_nlink, 0);
	cr_expect_eq(lnk(ino, ROOT, "again"), -ENOENT);
	core_rig_quiesce(&rig);
	expect_content(ino, "still here");
	fs_released(rig.fs, ino);
	core_rig_quiesce(&rig);
	cr_expect_eq(fs_getattr(rig.fs, ino, &st, NULL), -ESTALE);
}

Test(namei, unlinked_open_file_is_reclaimed_after_a_crash)
{
	uint64_t ino = made(ROOT, "f", S_IFREG | 0644);
	struct stat st;

	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	put(ino, "lost with its last user");
	cr_expect_eq(rm(ROOT, "f"), 0);
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	cr_assert_eq(core_rig_crash(&rig), 0);
	core_rig_quiesce(&rig);
	cr_expect_eq(fs_getattr(rig.fs, ino, &st, NULL), -ESTALE);
}

Test(namei, directories_go_only_when_empty)
{
	uint64_t dir = made(ROOT, "d", S_IFDIR | 0755), ino;

	made(dir, "f", S_IFREG | 0644);
	cr_expect_eq(attr(ROOT).st_nlink, 3);
	cr_expect_eq(rmd(ROOT, "d"), -ENOTEMPTY);
	cr_expect_eq(rm(ROOT, "d"), -EISDIR);
	cr_expect_eq(rmd(dir, "f"), -ENOTDIR);
	cr_expect_eq(rm(dir, "f"), 0);
	cr_assert_eq(fs_opened(rig.fs, dir), 0);
	cr_expect_eq(rmd(ROOT, "d"), 0);
	cr_expect_eq(attr(ROOT).st_nlink, 2);
	cr_expect_eq(make(dir, "late", S_IFREG | 0644, &ino), -ENOENT);
	cr_expect_eq(rmd(ROOT, "d"), -ENOENT);
	fs_released(rig.fs, dir);
}

/* ---------------------------------------------------------------- rename */

Test(namei, rename_replaces_what_it_may)
{
	uint64_t a = made(ROOT, "a", S_IFREG | 0644), d = made(ROOT, "d", S_IFDIR | 0755);
	uint64_t e = made(ROOT, "e", S_IFDIR | 0755), full = made(ROOT, "full", S_IFDIR | 0755);

	made(ROOT, "b", S_IFREG | 0644);
	made(full, "x", S_IFREG | 0644);
	cr_expect_eq(ren(ROOT, "a", ROOT, "b", RENAME_NOREPLACE), -EEXIST);
	cr_expect_eq(ren(ROOT, "a", ROOT, "b", 0), 0);
	cr_expect_eq(found(ROOT, "b"), a);
	cr_expect_eq(found(ROOT, "a"), 0);
	cr_expect_eq(ren(ROOT, "b", ROOT, "d", 0), -EISDIR);
	cr_expect_eq(ren(ROOT, "d", ROOT, "b", 0), -ENOTDIR);
	cr_expect_eq(ren(ROOT, "d", ROOT, "full", 0), -ENOTEMPTY);
	cr_expect_eq(attr(ROOT).st_nlink, 5);
	cr_expect_eq(ren(ROOT, "d", ROOT, "e", 0), 0);
	cr_expect_eq(found(ROOT, "e"), d);
	cr_expect_eq(attr(ROOT).st_nlink, 4);
	cr_expect_neq(d, e);
	cr_expect_eq(ren(ROOT, "none", ROOT, "b", 0), -ENOENT);
	cr_expect_eq(ren(ROOT, "b", ROOT, "c", 1u << 2), -EINVAL);
	cr_expect_eq(ren(ROOT, "b", ROOT, "c", RENAME_NOREPLACE | RENAME_EXCHANGE), -EINVAL);
	cr_expect_eq(ren(ROOT, "b", ROOT, "b", 0), 0);
	cr_expect_eq(lnk(a, ROOT, "b2"), 0);
	cr_expect_eq(ren(ROOT, "b", ROOT, "b2", 0), 0);
	cr_expect_eq(found(ROOT, "b"), a);
}

Test(namei, rename_never_puts_a_directory_below_itself)
{
	uint64_t a = made(ROOT, "a", S_IFDIR | 0755), b = made(a, "b", S_IFDIR | 0755), c = made(b, "c", S_IFDIR | 0755);

	cr_expect_eq(ren(ROOT, "a", a, "x", 0), -EINVAL);
	cr_expect_eq(ren(ROOT, "a", c, "x", 0), -EINVAL);
	cr_expect_eq(ren(ROOT, "a", b, "c", RENAME_EXCHANGE), -EINVAL);
	cr_expect_eq(ren(b, "c", ROOT, "a", RENAME_EXCHANGE), -EINVAL);
	cr_expect_eq(ren(a, "b", ROOT, "b", 0), 0);
	cr_expect_eq(ren(ROOT, "a", c, "a", 0), 0, "no longer below it");
	cr_expect_eq(found(c, "a"), a);
}

Test(namei, rename_moves_directories_with_parent_and_link_counts)
{
	uint64_t a = made(ROOT, "a", S_IFDIR | 0755), b = made(ROOT, "b", S_IFDIR | 0755);
	uint64_t sub = made(a, "sub", S_IFDIR | 0755), file = made(b, "file", S_IFREG | 0644);
	struct fs_dirent entry;

	cr_expect_eq(ren(a, "sub", b, "file", RENAME_EXCHANGE), 0);
	cr_expect_eq(found(a, "sub"), file);
	cr_expect_eq(found(b, "file"), sub);
	cr_expect_eq(attr(a).st_nlink, 2);
	cr_expect_eq(attr(b).st_nlink, 3);
	cr_assert_eq(fs_readdir(rig.fs, sub, 1, &entry), 0);
	cr_expect_str_eq(entry.name, "..");
	cr_expect_eq(entry.ino, b);
	cr_expect_eq(ren(b, "file", a, "none", RENAME_EXCHANGE), -ENOENT);
	cr_expect_eq(ren(b, "file", a, "back", 0), 0);
	cr_expect_eq(attr(a).st_nlink, 3);
	cr_expect_eq(attr(b).st_nlink, 2);
}

/* The case every editor and package manager relies on: whatever the crash leaves, the name has one whole content. */
Test(namei, replace_by_rename_never_shows_an_empty_file)
{
	uint64_t old = made(ROOT, "conf", S_IFREG | 0644), new;

	put(old, "old content");
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	new = made(ROOT, "conf.new", S_IFREG | 0644);
	put(new, "new content, longer");
	cr_expect_eq(ren(ROOT, "conf.new", ROOT, "conf", 0), 0);
	/* a commit of the name space alone, asked for by somebody else */
	cr_assert_eq(core_rig_sync(&rig, made(ROOT, "other", S_IFREG | 0644)), 0);
	cr_assert_eq(core_rig_crash(&rig), 0);
	cr_expect_eq(found(ROOT, "conf"), new);
	expect_content(new, "new content, longer");
	cr_expect_eq(found(ROOT, "conf.new"), 0);
}

/* ---------------------------------------------------------------- attributes */

Test(namei, explicit_times_join_the_stream)
{
	struct stat st = { .st_mtim = { 1000, 5 }, .st_atim = { 2000, 6 } };
	uint64_t ino = made(ROOT, "f", S_IFREG | 0644);

	put(ino, "content");
	cr_expect_eq(set(ino, FS_SET_MTIME | FS_SET_ATIME, &st), 0);
	cr_expect_eq(attr(ino).st_mtim.tv_sec, 1000);
	cr_expect_eq(attr(ino).st_atim.tv_sec, 2000);
	cr_assert_eq(core_rig_sync(&rig, ino), 0);
	cr_assert_eq(core_rig_crash(&rig), 0);
	cr_expect_eq(attr(ino).st_mtim.tv_sec, 1000);
	cr_expect_eq(attr(ino).st_mtim.tv_nsec, 5);
	cr_expect_eq(attr(ino).st_atim.tv_nsec, 6);
	st.st_mtim.tv_nsec = 1000000000;
	cr_expect_eq(set(ino, FS_SET_MTIME, &st), -EINVAL);
}

Test(namei, chmod_takes_the_content_along)
{
	struct stat st = { .st_mode = 0600 };
	uint64_t ino = made(ROOT, "f", S_IFREG | 0644);

	put(ino, "written before");
	cr_expect_eq(set(ino, FS_SET_MODE, &st), 0);
	cr_assert_eq(core_rig_sync(&rig, made(ROOT, "other", S_IFREG | 0644)), 0);
	cr_assert_eq(core_rig_crash(&rig), 0);
	cr_expect_eq(attr(ino).st_mode, S_IFREG | 0600);
	expect_content(ino, "written before");
}

Test(namei, setattr_size_only_on_files)
{
	struct stat st = { .st_size = 10 };
	uint64_t dir = made(ROOT, "d", S_IFDIR | 0755), fifo = made(ROOT, "p", S_IFIFO | 0644);
	uint64_t file = made(ROOT, "f", S_IFREG | 0644);

	cr_expect_eq(set(dir, FS_SET_SIZE, &st), -EISDIR);
	cr_expect_eq(set(fifo, FS_SET_SIZE, &st), -EINVAL);
	cr_expect_eq(set(file, FS_SET_SIZE, &st), 0);
	cr_expect_eq(attr(file).st_size, 10);
	st.st_size = -1;
	cr_expect_eq(set(file, FS_SET_SIZE, &st), -EINVAL);
	st.st_size = (off_t)FS_FILE_BYTES_MAX + 1;
	cr_expect_eq(set(file, FS_SET_SIZE, &st), -EFBIG);
}

Test(namei, statfs_counts_what_is_used)
{
	struct statvfs before, after;
	uint64_t ino;

	cr_assert_eq(fs_statfs(rig.fs, &before), 0);
	ino = made(ROOT, "f", S_IFREG | 0644);
	put(ino, "a block");
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	cr_assert_eq(fs_statfs(rig.fs, &after), 0);
	cr_expect_eq(after.f_bsize, 4096);
	cr_expect_eq(after.f_namemax, 255);
	cr_expect_lt(after.f_bfree, before.f_bfree);
	cr_expect_eq((after.f_files - after.f_ffree) - (before.f_files - before.f_ffree), 1);
	cr_expect_lt(after.f_bavail, after.f_bfree);
}

Test(namei, a_full_pool_still_deletes)
{
	char name[32];
	uint64_t ino;
	int count = 0;

	while (make(ROOT, (snprintf(name, sizeof(name), "d%d", count), name), S_IFDIR | 0755, &ino) == 0) {
		if (make(ino, "child", S_IFREG | 0644, &ino) != 0)
			break;
		count++;
	}
	cr_expect_gt(count, 1000);
	for (int i = 0; i < count; i++) {
		int err;

		snprintf(name, sizeof(name), "d%d", i);
		ino = found(ROOT, name);
		err = rm(ino, "child");
		cr_assert_eq(err, 0, "%s/child: %d %s", name, err, errmsg_get());
		err = rmd(ROOT, name);
		cr_assert_eq(err, 0, "%s: %d %s", name, err, errmsg_get());
	}
}

/* ---------------------------------------------------------------- against a model */

#define MODEL_NAMES 400
#define MODEL_STEPS 20000

struct model_name {
	uint64_t dir, ino; /* ino 0: not there */
	mode_t type;
	char name[8];
};
static struct model_name model[MODEL_NAMES];

static struct model_name *model_find(uint64_t dir, const char *name)
{
	for (size_t i = 0; i < MODEL_NAMES; i++) {
		if (model[i].ino != 0 && model[i].dir == dir && strcmp(model[i].name, name) == 0)
			return &model[i];
	}
	return NULL;
}

static struct model_name *model_of(uint64_t ino)
{
	for (size_t i = 0; i < MODEL_NAMES; i++) {
		if (model[i].ino == ino)
			return &model[i];
	}
	return NULL;
}

static unsigned model_count(uint64_t dir, mode_t type)
{
	unsigned count = 0;

	for (size_t i = 0; i < MODEL_NAMES; i++)
		count += model[i].ino != 0 && model[i].dir == dir && (type == 0 || model[i].type == type);
	return count;
}

static unsigned model_links(uint64_t ino)
{
	unsigned count = 0;

	for (size_t i = 0; i < MODEL_NAMES; i++)
		count += model[i].ino == ino;
	return count;
}

static void model_add(uint64_t dir, const char *name, uint64_t ino, mode_t type)
{
	struct model_name *at = model_of(0);

	cr_assert_not_null(at, "more names than the model holds");
	at->dir = dir;
	at->ino = ino;
	at->type = type;
	strcpy(at->name, name);
}

/* Whether directory ino is dir or above it. */
static bool model_above(uint64_t ino, uint64_t dir)
{
	for (; dir != ROOT; dir = model_of(dir)->dir) {
		if (dir == ino)
			return true;
	}
	return ino == ROOT;
}

static uint64_t model_dir(void)
{
	for (int tries = 0; tries < 20; tries++) {
		struct model_name *at = &model[rand() % MODEL_NAMES];

		if (at->ino != 0 && at->type == S_IFDIR)
			return at->ino;
	}
	return ROOT;
}

static int model_remove(struct model_name *at, bool want_dir)
{
	if (at == NULL)
		return -ENOENT;
	if (want_dir != (at->type == S_IFDIR))
		return want_dir ? -ENOTDIR : -EISDIR;
	if (want_dir && model_count(at->ino, 0) != 0)
		return -ENOTEMPTY;
	at->ino = 0;
	return 0;
}

static int model_rename(struct model_name *from, struct model_name *to, uint64_t new_dir, const char *name, unsigned flags)
{
	struct model_name was;

	if (from == NULL || (flags == RENAME_EXCHANGE && to == NULL))
		return -ENOENT;
	if (flags == RENAME_NOREPLACE && to != NULL)
		return -EEXIST;
	if (from->dir != new_dir && from->type == S_IFDIR && model_above(from->ino, new_dir))
		return -EINVAL;
	if (flags == RENAME_EXCHANGE && from->dir != new_dir && to->type == S_IFDIR && model_above(to->ino, from->dir))
		return -EINVAL;
	if (flags != RENAME_EXCHANGE && to != NULL && (from->type == S_IFDIR) != (to->type == S_IFDIR))
		return from->type == S_IFDIR ? -ENOTDIR : -EISDIR;
	if (flags != RENAME_EXCHANGE && to != NULL && to->type == S_IFDIR && model_count(to->ino, 0) != 0)
		return -ENOTEMPTY;
	if (to != NULL && to->ino == from->ino)
		return 0;
	if (flags == RENAME_EXCHANGE) {
		was = *from;
		from->ino = to->ino, from->type = to->type;
		to->ino = was.ino, to->type = was.type;
		return 0;
	}
	if (to != NULL)
		to->ino = 0;
	from->dir = new_dir;
	strcpy(from->name, name);
	return 0;
}

static int step_make(uint64_t dir, const char *name, int *expected)
{
	static const mode_t types[] = { S_IFREG, S_IFREG, S_IFDIR, S_IFIFO };
	mode_t type = types[rand() % 4];
	uint64_t ino = 0;
	int err;

	*expected = model_find(dir, name) != NULL ? -EEXIST : 0;
	err = make(dir, name, type | 0644, &ino);
	if (err == 0)
		model_add(dir, name, ino, type);
	return err;
}

static int step_link(uint64_t dir, const char *name, int *expected)
{
	struct model_name *at = &model[rand() % MODEL_NAMES];
	int err;

	if (at->ino == 0)
		return *expected = 0;
	*expected = model_find(dir, name) != NULL ? -EEXIST : at->type == S_IFDIR ? -EPERM : 0;
	err = lnk(at->ino, dir, name);
	if (err == 0)
		model_add(dir, name, at->ino, at->type);
	return err;
}

static int step_rename(uint64_t dir, const char *name, int *expected)
{
	static const unsigned flags[] = { 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE };
	struct model_name *from = &model[rand() % MODEL_NAMES];
	struct model_name was = *from;
	unsigned flag = flags[rand() % 4];

	if (from->ino == 0)
		return *expected = 0;
	*expected = model_rename(from, model_find(dir, name), dir, name, flag);
	return ren(was.dir, was.name, dir, name, flag);
}

static int step_remove(uint64_t dir, const char *name, int *expected)
{
	bool want_dir = rand() % 3 == 0;

	*expected = model_remove(model_find(dir, name), want_dir);
	return want_dir ? rmd(dir, name) : rm(dir, name);
}

/* Reads a whole directory: every entry is one of the model's, and as many. */
static void compare_dir(uint64_t dir)
{
	struct fs_dirent entry = { .cookie = 0 };
	const struct model_name *at;
	unsigned count = 0;
	int err;

	while ((err = fs_readdir(rig.fs, dir, entry.cookie, &entry)) == 0) {
		if (entry.cookie <= 2)
			continue;
		at = model_find(dir, entry.name);
		cr_assert_not_null(at, "%lu/%s should not be there", dir, entry.name);
		cr_expect_eq(entry.ino, at->ino);
		cr_expect_eq((mode_t)DTTOIF(entry.type), at->type);
		count++;
	}
	cr_assert_eq(err, -ENOENT);
	cr_assert_eq(count, model_count(dir, 0), "directory %lu", dir);
	cr_expect_eq(attr(dir).st_nlink, 2 + model_count(dir, S_IFDIR), "directory %lu", dir);
}

static void compare_all(void)
{
	compare_dir(ROOT);
	for (size_t i = 0; i < MODEL_NAMES; i++) {
		if (model[i].ino == 0)
			continue;
		cr_assert_eq(found(model[i].dir, model[i].name), model[i].ino);
		if (model[i].type == S_IFDIR)
			compare_dir(model[i].ino);
		else
			cr_expect_eq(attr(model[i].ino).st_nlink, model_links(model[i].ino));
	}
}

static void play(unsigned seed)
{
	static int (*const steps[])(uint64_t dir, const char *name, int *expected) = {
		step_make, step_make, step_link, step_rename, step_rename, step_remove, step_remove,
	};
	int err, expected;
	char name[8];
	unsigned kind;
	uint64_t dir;

	srand(seed);
	for (unsigned i = 0; i < MODEL_STEPS; i++) {
		dir = rand() % 2 ? ROOT : model_dir();
		snprintf(name, sizeof(name), "n%d", rand() % 12);
		kind = (unsigned)rand() % 7;
		if (model_of(0) == NULL && kind < 3)
			continue;
		err = steps[kind](dir, name, &expected);
		cr_assert_eq(err, expected, "seed %u, step %u, kind %u, %lu/%s: %d, expected %d: %s", seed, i, kind, dir, name, err,
			     expected, errmsg_get());
		if (i % 1000 == 999) {
			cr_assert_eq(core_rig_sync_all(&rig), 0);
			if (i % 4000 == 3999)
				cr_assert_eq(core_rig_crash(&rig), 0);
			compare_all();
		}
	}
}

Test(namei, random_operations_match_the_model)
{
	play(1);
}

Test(namei, random_operations_match_the_model_on_the_smallest_ring)
{
	core_rig_free(&rig);
	core_rig_make(&rig, 32 * MIB, MEDIA_RING_BYTES_MIN);
	play(2);
}
