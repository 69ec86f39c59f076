/* The background commit: what nobody synced is durable a while later. Nothing here depends on how long that takes. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include "errmsg.h"
#include "tests/support/core_rig.h"

#define MIB (1ull << 20)

static struct core_rig rig;
static const struct fs_cred cred;

static void start(uint32_t background_ms)
{
	core_rig_make(&rig, 64 * MIB, 0);
	rig.cfg.background_ms = background_ms;
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	core_rig_quiesce(&rig);
}

static void end(void)
{
	core_rig_end(&rig);
}

TestSuite(background, .timeout = 60, .fini = end);

static uint64_t file_make(const char *name)
{
	uint64_t ino;

	cr_assert_eq(CORE_RIG_TRY(&rig, fs_create(rig.fs, FS_ROOT_INO, name, S_IFREG | 0644, 0, &cred, &ino)), 0);
	return ino;
}

static void file_write(uint64_t ino, const char *text)
{
	size_t done = 0;

	cr_assert_eq(CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, 0, text, strlen(text), &done)), 0);
}

/* As the loop does: it is told how long it may sleep, and polls. */
static void await_commit(uint64_t before)
{
	while (copy_head(rig.copy).seq == before) {
		int left = fs_timeout_ms(rig.fs);

		cr_assert_geq(left, 0, "nothing is due");
		fs_poll(rig.fs);
	}
}

static void expect_content(const char *name, const char *text)
{
	char buf[64] = "";
	uint64_t ino;
	size_t got = 0;

	cr_assert_eq(fs_lookup(rig.fs, FS_ROOT_INO, name, &ino), 0, "%s", name);
	cr_assert_eq(fs_read(rig.fs, ino, 0, buf, sizeof(buf) - 1, &got), 0, "%s", errmsg_get());
	cr_expect_str_eq(buf, text);
}

Test(background, changes_of_the_name_space_are_committed)
{
	uint64_t before;

	start(1);
	cr_expect_eq(fs_timeout_ms(rig.fs), -1, "nothing to commit");
	before = copy_head(rig.copy).seq;
	file_make("f");
	await_commit(before);
	cr_expect_eq(fs_timeout_ms(rig.fs), -1);
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	expect_content("f", "");
}

/* The file is committed already: only its stream is dirty. */
Test(background, written_content_is_linked_and_committed)
{
	uint64_t ino, before;

	start(1);
	ino = file_make("f");
	cr_assert_eq(core_rig_sync(&rig, FS_ROOT_INO), 0);
	before = copy_head(rig.copy).seq;
	file_write(ino, "nobody synced this");
	await_commit(before);
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	expect_content("f", "nobody synced this");
}

/* Another file's sync carries the name space along, but no content: that stays due. */
Test(background, content_stays_due_when_another_file_is_synced)
{
	uint64_t a, b, before;

	start(1);
	a = file_make("a");
	b = file_make("b");
	file_write(a, "of a");
	file_write(b, "of b");
	cr_assert_eq(core_rig_sync(&rig, b), 0);
	before = copy_head(rig.copy).seq;
	if (fs_timeout_ms(rig.fs) >= 0) /* else it came while b was synced */
		await_commit(before);
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	expect_content("a", "of a");
	expect_content("b", "of b");
}

Test(background, switched_off_nothing_is_committed_unasked)
{
	uint64_t before, ino;

	start(0);
	before = copy_head(rig.copy).seq;
	file_make("f");
	while (fs_poll(rig.fs))
		;
	cr_expect_eq(fs_timeout_ms(rig.fs), -1);
	cr_expect_eq(copy_head(rig.copy).seq, before);
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	cr_expect_eq(fs_lookup(rig.fs, FS_ROOT_INO, "f", &ino), -ENOENT);
}
