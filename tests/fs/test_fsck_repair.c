/* Repair: what needs no guess is put right by a commit like any other, everything else is left as it is. Lies are planted
 * into a pool of the real core; after the repair the checker has no findings, and what was there before still is. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "errmsg.h"
#include "fs/fsck.h"
#include "tests/support/plant.h"

#define MIB (1ull << 20)
#define SNAPSHOTS_MAX 32u

static struct core_rig rig;
static const struct fs_cred cred = { .uid = 5, .gid = 6 };
static uint64_t dir, file, lost;

static uint64_t create(uint64_t parent, const char *name, mode_t mode)
{
	uint64_t ino;

	cr_assert_eq(CORE_RIG_TRY(&rig, fs_create(rig.fs, parent, name, mode, 0, &cred, &ino)), 0, "%s", errmsg_get());
	return ino;
}

static void write_text(uint64_t ino, const char *text)
{
	size_t done = 0;

	cr_assert_eq(CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, 0, text, strlen(text), &done)), 0, "%s", errmsg_get());
}

static void init(void)
{
	core_rig_make(&rig, 9 * MIB, 0);
	dir = create(FS_ROOT_INO, "dir", S_IFDIR | 0755);
	create(dir, "below", S_IFDIR | 0755);
	file = create(dir, "file", S_IFREG | 0644);
	lost = create(dir, "gone", S_IFREG | 0600);
	write_text(file, "a file with a name");
	write_text(lost, "a file that loses its name");
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	cr_assert_eq(fs_opened(rig.fs, lost), 0);
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_unlink(rig.fs, dir, "gone")), 0);
	core_rig_quiesce(&rig);
}

static void fini(void)
{
	core_rig_end(&rig); /* sound again, whatever the test planted */
}

TestSuite(fsck_repair, .init = init, .fini = fini, .timeout = 600);

/* ---------------------------------------------------------------- planting, repairing */

static uint64_t free_blk(unsigned nth)
{
	const struct media_geom *geom = copy_geom(rig.copy);

	return geom->blk_count - 1 - nth;
}

/* What the core holds in memory of the pool is forgotten. */
static void reopen(void)
{
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
}

/* The findings of the pool as it is; they are to be freed. */
static struct fsck_report check(void)
{
	struct fsck_report report;

	cr_assert_eq(fsck_run(rig.fs, &report), 0);
	return report;
}

static int repair_run(const struct fsck_report *report)
{
	size_t next = 0;

	return CORE_RIG_TRY(&rig, fsck_repair(rig.fs, report, &next));
}

/* Checks, repairs all of it as the command does; the pool is sound then. */
static void repair(uint64_t findings)
{
	struct fsck_report report = check();
	int err;

	cr_assert_eq(report.total, findings, "%llu findings: %s", (unsigned long long)report.total,
		report.count ? report.lines[0] : "");
	cr_assert(fsck_repairable(&report));
	cr_assert_eq(fsck_repair_counts(rig.copy, &report), 0);
	reopen();
	err = repair_run(&report);
	cr_assert_eq(err, 0, "%d %s", err, errmsg_get());
	fsck_report_free(&report);
	core_rig_quiesce(&rig);
	report = check();
	cr_expect_eq(report.total, 0, "after the repair: %s", report.count ? report.lines[0] : "");
	cr_expect_not(fsck_repairable(&report));
	fsck_report_free(&report);
}

static uint64_t look(uint64_t parent, const char *name)
{
	uint64_t ino = 0;

	cr_expect_eq(fs_lookup(rig.fs, parent, name, &ino), 0, "%s", name);
	return ino;
}

static const char *lost_text(uint64_t ino)
{
	static char name[32];

	snprintf(name, sizeof(name), "#%llu", (unsigned long long)ino);
	return name;
}

/* Takes the entry of an inode out of the only leaf of its directory. */
static void entry_drop(uint64_t parent, uint64_t ino)
{
	uint64_t blk = le64_get(plant_inode(&rig, parent)->root), bit;
	struct fs_dir_leaf_omf *leaf = (struct fs_dir_leaf_omf *)plant_at(&rig, blk);
	struct fs_inode_omf *inode = plant_inode(&rig, parent);
	unsigned slot = 0;

	while (slot < FS_DIR_SLOTS && (!(le64_get(leaf->start) >> slot & 1) ||
					      le64_get(((struct fs_dirent_omf *)leaf->slots[slot])->ino) != ino))
		slot++;
	cr_assert_lt(slot, FS_DIR_SLOTS);
	bit = 1ull << slot;
	leaf->start = le64_put(le64_get(leaf->start) & ~bit);
	leaf->used = le64_put(le64_get(leaf->used) & ~bit);
	inode->entries = le64_put(le64_get(inode->entries) - 1);
	inode->size = le64_put(le64_get(inode->size) - MEDIA_LINE_BYTES);
	plant_seal(&rig, blk);
	plant_seal(&rig, plant_inode_blk(&rig, parent));
}

/* ---------------------------------------------------------------- each kind */

Test(fsck_repair, leaked_blocks_are_freed)
{
	uint64_t used = copy_used_blks(rig.copy);

	for (unsigned n = 0; n < 700; n++) /* more than one operation's */
		plant_leak(&rig, free_blk(n));
	repair(700);
	cr_expect_eq(copy_used_blks(rig.copy), used - 1); /* the orphan's block is free now too */
	cr_expect_eq(plant_entry_get(&rig, free_blk(699)).type, MEDIA_FREE);
}

Test(fsck_repair, wrong_counts_are_put_right)
{
	uint64_t used = copy_used_blks(rig.copy), seq, blk = media_group_blk(copy_geom(rig.copy), 0);
	struct media_summary_omf *omf = (struct media_summary_omf *)plant_at(&rig, blk);
	uint32_t told;

	cr_assert_eq(copy_mend_used(rig.copy, used + 3), 0);
	cr_assert_eq(copy_mend_summary(rig.copy, 0, 1), 0);
	repair(2);
	used--; /* the orphan is reclaimed */
	cr_expect_eq(copy_used_blks(rig.copy), used);
	omf->check.le ^= 1;
	repair(1);
	omf->zero[51] = 1;
	repair(1);
	memset(omf, 0, sizeof(*omf));
	repair(1);
	cr_assert_eq(copy_summary_get(rig.copy, 0, &seq, &told), 0);
	cr_expect_eq(told, used);
	cr_expect_gt(seq, 0);
}

Test(fsck_repair, counts_are_not_touched_while_records_wait)
{
	create(dir, "waiting", S_IFREG | 0600);
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	cr_expect_eq(copy_mend_used(rig.copy, 1), -EBUSY);
	cr_expect_eq(copy_mend_summary(rig.copy, 0, 1), -EBUSY);
	core_rig_quiesce(&rig);
	cr_expect_eq(copy_mend_used(rig.copy, 1 << 20), -EINVAL);
	cr_expect_eq(copy_mend_summary(rig.copy, 1, 1), -EINVAL);
	cr_expect_eq(copy_mend_summary(rig.copy, 0, 32768), -EINVAL);
}

Test(fsck_repair, link_counts_are_put_right)
{
	struct stat st;

	plant_inode(&rig, file)->nlink = le32_put(4);
	plant_inode(&rig, dir)->nlink = le32_put(9);
	plant_seal(&rig, plant_inode_blk(&rig, file));
	repair(2);
	cr_assert_eq(fs_getattr(rig.fs, file, &st, NULL), 0);
	cr_expect_eq(st.st_nlink, 1);
	cr_assert_eq(fs_getattr(rig.fs, dir, &st, NULL), 0);
	cr_expect_eq(st.st_nlink, 3);
}

Test(fsck_repair, a_file_without_a_name_comes_into_lost_and_found)
{
	char text[64] = "";
	uint64_t ino, home;
	struct stat st;
	size_t got;

	plant_lost(&rig, lost);
	repair(1);
	home = look(FS_ROOT_INO, "lost+found");
	cr_assert_eq(fs_getattr(rig.fs, home, &st, NULL), 0);
	cr_expect_eq(st.st_mode, S_IFDIR | 0700);
	cr_expect_eq(st.st_nlink, 2);
	ino = look(home, lost_text(lost));
	cr_expect_eq(ino, lost);
	cr_assert_eq(fs_read(rig.fs, ino, 0, text, sizeof(text), &got), 0);
	cr_expect_str_eq(text, "a file that loses its name");
	cr_assert_eq(fs_getattr(rig.fs, ino, &st, NULL), 0);
	cr_expect_eq(st.st_nlink, 1);
	cr_expect_eq(st.st_uid, 5);
}

Test(fsck_repair, a_name_that_is_taken_is_left_alone)
{
	uint64_t home = create(FS_ROOT_INO, "lost+found", S_IFDIR | 0755), taken = create(home, lost_text(lost), S_IFREG);

	core_rig_quiesce(&rig);
	plant_lost(&rig, lost);
	repair(1);
	cr_expect_eq(look(home, lost_text(lost)), taken);
	cr_expect_eq(look(home, strcat((char *)lost_text(lost), ".1")), lost);
}

/* A directory comes back with all below it; who holds it now is its parent. */
Test(fsck_repair, a_directory_without_a_name_comes_back_whole)
{
	struct stat st;
	uint64_t home;

	plant_lost(&rig, lost);
	entry_drop(FS_ROOT_INO, dir);
	repair(3); /* the root's link count too */
	home = look(FS_ROOT_INO, "lost+found");
	cr_expect_eq(look(home, lost_text(lost)), lost);
	cr_expect_eq(look(home, lost_text(dir)), dir);
	cr_expect_eq(look(dir, "file"), file);
	cr_assert_eq(fs_getattr(rig.fs, dir, &st, NULL), 0);
	cr_expect_eq(st.st_nlink, 3);
	cr_assert_eq(fs_getattr(rig.fs, home, &st, NULL), 0);
	cr_expect_eq(st.st_nlink, 3);
	cr_expect_eq(le64_get(plant_inode(&rig, dir)->parent), home);
}

Test(fsck_repair, lost_and_found_that_is_a_file_is_refused)
{
	struct fsck_report report;
	uint64_t taken = create(FS_ROOT_INO, "lost+found", S_IFREG | 0644);

	core_rig_quiesce(&rig);
	plant_lost(&rig, lost);
	reopen();
	report = check();
	cr_expect_eq(repair_run(&report), -ENOTDIR);
	cr_expect(strstr(errmsg_get(), "no directory"));
	fsck_report_free(&report);
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_rename(rig.fs, FS_ROOT_INO, "lost+found", FS_ROOT_INO, "other", 0)), 0);
	core_rig_quiesce(&rig);
	repair(1);
	cr_expect_eq(look(FS_ROOT_INO, "other"), taken);
}

/* ---------------------------------------------------------------- what is not repaired */

/* One finding that hides something, and nothing is repaired. */
Test(fsck_repair, nothing_is_repaired_beside_damage_that_hides)
{
	struct fsck_report report;

	plant_leak(&rig, free_blk(0));
	plant_inode(&rig, file)->blocks = le64_put(7);
	plant_seal(&rig, plant_inode_blk(&rig, file));
	report = check();
	cr_expect_eq(report.total, 2);
	cr_expect_eq(report.hiding, 1);
	cr_expect_not(fsck_repairable(&report));
	fsck_report_free(&report);
	plant_inode(&rig, file)->blocks = le64_put(1);
	plant_seal(&rig, plant_inode_blk(&rig, file));
	repair(1);
}

/* Content of a file that is rotten hides nothing; the file itself, lost, is not whole and stays so. */
Test(fsck_repair, rot_is_left_and_what_is_beside_it_repaired)
{
	uint64_t data = le64_get(plant_inode(&rig, lost)->root);
	struct fsck_report report;

	plant_leak(&rig, free_blk(0));
	plant_lost(&rig, lost);
	plant_at(&rig, data)[5] ^= 1;
	report = check();
	cr_expect_eq(report.total, 3);
	cr_expect_eq(report.rot, 2);
	cr_assert(fsck_repairable(&report));
	reopen();
	cr_expect_eq(repair_run(&report), 0);
	fsck_report_free(&report);
	core_rig_quiesce(&rig);
	report = check();
	cr_expect_eq(report.total, 2);
	cr_expect_eq(report.rot, 2);
	cr_expect_not(fsck_repairable(&report));
	fsck_report_free(&report);
	plant_at(&rig, data)[5] ^= 1;
	repair(1);
}

/* ---------------------------------------------------------------- cut off */

static struct {
	uint8_t *images[SNAPSHOTS_MAX];
	unsigned count;
} cuts;

static bool snapshot(void *ctx, enum pm_point point)
{
	(void)ctx;
	(void)point;
	cr_assert_lt(cuts.count, SNAPSHOTS_MAX);
	cuts.images[cuts.count] = malloc(rig.pm.len);
	memcpy(cuts.images[cuts.count++], rig.pm.base, rig.pm.len);
	return true;
}

/* Findings after recovery of what the pool held at a fence. */
static uint64_t findings_at(uint8_t *image)
{
	struct fsck_report report = { 0 };
	struct copy *copy;
	uint64_t total;
	struct pm pm;

	pm_init(&pm, image, rig.pm.len, PM_MEMORY);
	cr_assert_eq(copy_open(&pm, false, &copy), 0, "%s", errmsg_get());
	cr_assert_eq(copy_checkpoint(copy, UINT64_MAX, UINT64_MAX), 0, "%s", errmsg_get());
	cr_assert_eq(fsck_copy(copy, &report), 0);
	total = report.total;
	fsck_report_free(&report);
	copy_close(copy);
	return total;
}

/* Ended at any fence, all of it is done or nothing: the repair is one commit. */
Test(fsck_repair, cut_off_anywhere_it_is_whole_or_not_there)
{
	struct pm_observer observer = { .fence = snapshot };
	unsigned before = 0, after = 0;
	struct fsck_report report;

	plant_lost(&rig, lost);
	plant_inode(&rig, file)->nlink = le32_put(4);
	plant_seal(&rig, plant_inode_blk(&rig, file));
	for (unsigned n = 0; n < 5; n++)
		plant_leak(&rig, free_blk(n));
	reopen();
	report = check();
	cr_assert_eq(report.total, 7);
	rig.pm.observer = &observer;
	cr_expect_eq(repair_run(&report), 0);
	core_rig_quiesce(&rig);
	rig.pm.observer = NULL;
	fsck_report_free(&report);
	for (unsigned i = 0; i < cuts.count; i++) {
		uint64_t total = findings_at(cuts.images[i]);

		cr_expect(total == 7 || total == 0, "fence %u: %llu findings", i, (unsigned long long)total);
		before += total == 7;
		after += total == 0;
		free(cuts.images[i]);
	}
	cr_expect_gt(before, 0);
	cr_expect_gt(after, 0);
}

/* Counts are put right one by one: cut off, the next run mends what is left. */
Test(fsck_repair, counts_cut_off_are_mended_by_the_next_run)
{
	struct pm_observer observer = { .fence = snapshot };
	struct fsck_report report;

	cr_assert_eq(copy_mend_used(rig.copy, 1), 0);
	cr_assert_eq(copy_mend_summary(rig.copy, 0, 1), 0);
	report = check();
	rig.pm.observer = &observer;
	cr_expect_eq(fsck_repair_counts(rig.copy, &report), 0);
	rig.pm.observer = NULL;
	fsck_report_free(&report);
	cr_expect_eq(cuts.count, 3);
	cr_expect_eq(findings_at(cuts.images[0]), 1); /* the summary's word is there, the superblocks are not */
	cr_expect_eq(findings_at(cuts.images[2]), 0);
	while (cuts.count)
		free(cuts.images[--cuts.count]);
	reopen();
}
