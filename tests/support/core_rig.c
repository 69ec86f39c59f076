/* See core_rig.h. */
#include "core_rig.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "errmsg.h"
#include "fs/fsck.h"

static void rig_open(struct core_rig *rig)
{
	int err = copy_open(&rig->pm, false, &rig->copy);

	cr_assert_eq(err, 0, "copy_open: %d %s", err, errmsg_get());
	err = fs_open(rig->copy, &rig->cfg, &rig->fs);
	cr_assert_eq(err, 0, "fs_open: %d %s", err, errmsg_get());
}

void core_rig_make(struct core_rig *rig, uint64_t bytes, uint64_t ring_bytes)
{
	struct copy_format fmt = { .hash_seed = 0x5eed, .created_ns = 1, .ring_bytes = ring_bytes };
	struct fs_state_omf state = { 0 };
	void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	void *rec;
	uint32_t len;
	int err;

	cr_assert_neq(base, MAP_FAILED);
	memset(rig, 0, sizeof(*rig));
	rig->cfg.dirty_now = true;
	fmt.page.role = MEDIA_ROLE_PRIMARY;
	fmt.page.state = MEDIA_CONSISTENT;
	pm_init(&rig->pm, base, bytes, PM_MEMORY);
	err = copy_format(&rig->pm, &fmt);
	cr_assert_eq(err, 0, "copy_format: %d %s", err, errmsg_get());
	err = copy_open(&rig->pm, false, &rig->copy);
	cr_assert_eq(err, 0, "copy_open: %d %s", err, errmsg_get());
	state.epoch = le64_put(1);
	err = fs_format(rig->copy, &state, 0755, 0, 0, &rec, &len);
	cr_assert_eq(err, 0, "fs_format: %d %s", err, errmsg_get());
	free(rec);
	copy_close(rig->copy);
	rig_open(rig);
}

void core_rig_free(struct core_rig *rig)
{
	fs_close(rig->fs);
	copy_close(rig->copy);
	munmap(rig->pm.base, rig->pm.len);
}

int core_rig_crash(struct core_rig *rig)
{
	int err;

	fs_close(rig->fs);
	copy_close(rig->copy);
	rig->fs = NULL;
	rig->copy = NULL;
	err = copy_open(&rig->pm, false, &rig->copy);
	return err ? err : fs_open(rig->copy, &rig->cfg, &rig->fs);
}

struct rig_waiter {
	struct fs_waiter waiter;
	bool done;
	int err;
};

static void rig_done(struct fs_waiter *waiter, int err)
{
	struct rig_waiter *w = (struct rig_waiter *)waiter;

	w->done = true;
	w->err = err;
}

static int rig_wait(struct core_rig *rig, struct rig_waiter *w)
{
	while (!w->done)
		fs_poll(rig->fs);
	return w->err;
}

int core_rig_sync(struct core_rig *rig, uint64_t ino)
{
	struct rig_waiter w = { .waiter.done = rig_done };
	int err = CORE_RIG_TRY(rig, fs_sync_inode(rig->fs, ino, &w.waiter));

	return err ? err : rig_wait(rig, &w);
}

int core_rig_sync_all(struct core_rig *rig)
{
	struct rig_waiter w = { .waiter.done = rig_done };
	int err = CORE_RIG_TRY(rig, fs_sync_all(rig->fs, &w.waiter));

	return err ? err : rig_wait(rig, &w);
}

void core_rig_quiesce(struct core_rig *rig)
{
	int err;

	while (fs_idle(rig->fs) || fs_poll(rig->fs))
		;
	err = core_rig_sync_all(rig);
	cr_assert_eq(err, 0, "sync: %d %s", err, errmsg_get());
	while (fs_idle(rig->fs) || fs_poll(rig->fs))
		;
	err = core_rig_sync_all(rig);
	cr_assert_eq(err, 0, "sync: %d %s", err, errmsg_get());
	err = fs_checkpoint(rig->fs);
	cr_assert_eq(err, 0, "checkpoint: %d %s", err, errmsg_get());
}

void core_rig_check(struct core_rig *rig)
{
	struct fsck_report report = { 0 };
	int err;

	core_rig_quiesce(rig);
	err = fsck_run(rig->fs, &report);
	cr_assert_eq(err, 0, "fsck: %d %s", err, errmsg_get());
	cr_expect_eq(report.total, 0, "%zu findings, first: %s", (size_t)report.total, report.count ? report.lines[0] : "");
	fsck_report_free(&report);
}

void core_rig_end(struct core_rig *rig)
{
	core_rig_check(rig);
	core_rig_free(rig);
}
