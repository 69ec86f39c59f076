/* Pools that lie under right checksums: each row of the table is one lie, the first operation that meets it, and what that
 * one says. It is refused where it is met, by name, and the core goes on: nothing of the refused operation stays. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "errmsg.h"
#include "tests/support/plant.h"

#define MIB (1ull << 20)
#define BLK MEDIA_BLOCK_BYTES
#define FILLERS 20u /* enough inodes for a node above their blocks */

static struct core_rig rig;
static const struct fs_cred cred;
/* big: a map of two levels; orphan_a, orphan_b: files on the list, b in front; orphan_link, orphan_dir before them */
static uint64_t dir, below, file, far_link, big, other, orphan_a, orphan_b, orphan_link, orphan_dir, freed, filler;

/* ---------------------------------------------------------------- the pool */

static uint64_t create(uint64_t parent, const char *name, mode_t mode)
{
	uint64_t ino;

	cr_assert_eq(CORE_RIG_TRY(&rig, fs_create(rig.fs, parent, name, mode, 0, &cred, &ino)), 0, "%s", errmsg_get());
	return ino;
}

static uint64_t link_make(const char *name)
{
	char target[500];
	uint64_t ino;

	memset(target, 't', sizeof(target) - 1);
	target[sizeof(target) - 1] = '\0';
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_symlink(rig.fs, FS_ROOT_INO, name, target, &cred, &ino)), 0);
	return ino;
}

/* A whole block. */
static int put(uint64_t ino, uint64_t off)
{
	static const char block[BLK] = "content";
	size_t done = 0;

	return CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, off, block, sizeof(block), &done));
}

static void unname(uint64_t ino, const char *name)
{
	cr_assert_eq(fs_opened(rig.fs, ino), 0);
	if (ino == orphan_dir)
		cr_assert_eq(CORE_RIG_TRY(&rig, fs_rmdir(rig.fs, FS_ROOT_INO, name)), 0);
	else
		cr_assert_eq(CORE_RIG_TRY(&rig, fs_unlink(rig.fs, FS_ROOT_INO, name)), 0);
}

static void pool_make(void)
{
	char name[16];

	core_rig_make(&rig, 9 * MIB, 0);
	dir = create(FS_ROOT_INO, "dir", S_IFDIR | 0755);
	below = create(dir, "below", S_IFDIR | 0755);
	other = create(FS_ROOT_INO, "other", S_IFDIR | 0755);
	file = create(dir, "file", S_IFREG | 0644);
	big = create(FS_ROOT_INO, "big", S_IFREG | 0644);
	far_link = link_make("link");
	freed = create(FS_ROOT_INO, "freed", S_IFREG | 0644);
	orphan_dir = create(FS_ROOT_INO, "orphan-dir", S_IFDIR | 0755);
	orphan_link = link_make("orphan-link");
	orphan_a = create(FS_ROOT_INO, "orphan-a", S_IFREG | 0644);
	orphan_b = create(FS_ROOT_INO, "orphan-b", S_IFREG | 0644);
	for (unsigned i = 0; i < FILLERS; i++) {
		snprintf(name, sizeof(name), "filler-%u", i);
		filler = create(FS_ROOT_INO, name, S_IFREG | 0644);
	}
	cr_assert_eq(put(big, 0), 0);
	cr_assert_eq(put(big, BLK), 0);
	cr_assert_eq(put(big, 4 * MIB), 0);
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_unlink(rig.fs, FS_ROOT_INO, "freed")), 0);
	unname(orphan_dir, "orphan-dir");
	unname(orphan_link, "orphan-link");
	unname(orphan_a, "orphan-a");
	unname(orphan_b, "orphan-b");
	core_rig_quiesce(&rig);
}

/* ---------------------------------------------------------------- lies */

static struct fs_inode_omf *inode(uint64_t ino)
{
	return plant_inode(&rig, ino);
}

static uint64_t big_root(void)
{
	return le64_get(inode(big)->root);
}

static le64_t *node_ptr(uint64_t blk, unsigned idx)
{
	return &((struct fs_node_omf *)plant_at(&rig, blk))->ptr[idx];
}

static void no_links(void) { inode(file)->nlink = le32_put(0); }
static void empty_target(void) { inode(far_link)->size = le64_put(0); }
static void few_blocks(void) { inode(big)->blocks = le64_put(1); }
static void file_as_names(void) { inode(dir)->root = *node_ptr(le64_get(*node_ptr(big_root(), 0)), 0); }
static void no_entries(void) { inode(dir)->entries = le64_put(0); }
static void parents_in_a_ring(void) { inode(dir)->parent = le64_put(below); }
static void no_inodes(void) { plant_state(&rig)->ino_count = le64_put(0); }
static void other_magic(void) { plant_state(&rig)->magic[0] ^= 1; }
static void orphan_ring(void) { inode(orphan_a)->orphan_next = le64_put(orphan_b); }
static void orphan_unknown(void) { plant_state(&rig)->orphan_head = le64_put(filler + 100); }
static void orphan_freed(void) { plant_state(&rig)->orphan_head = le64_put(freed); }
static void orphan_before_itself(void) { inode(orphan_a)->orphan_prev = le64_put(orphan_a); }
static void orphan_behind_a_file(void) { inode(orphan_a)->orphan_prev = le64_put(file); }
static void orphan_behind_nothing(void) { inode(orphan_a)->orphan_prev = le64_put(freed); }
static void orphan_not_behind(void) { inode(orphan_b)->orphan_next = le64_put(orphan_link); }
static void orphan_with_names(void) { inode(orphan_dir)->entries = le64_put(1); }
static void orphan_root_outside(void) { inode(orphan_link)->root = le64_put(1ull << 40); }

static void inode_block_outside(void)
{
	*node_ptr(le64_get(plant_state(&rig)->itab_root), filler / FS_INODES_PER_BLOCK) = le64_put(1);
}

static void empty_node(void)
{
	memset(plant_at(&rig, big_root()), 0, BLK);
	plant_seal(&rig, big_root());
}

static void child_outside(void)
{
	*node_ptr(big_root(), 0) = le64_put(1ull << 40);
	plant_seal(&rig, big_root());
}

/* Two places of a file in one block. */
static void block_twice(void)
{
	uint64_t leaf = le64_get(*node_ptr(big_root(), 0));

	*node_ptr(leaf, 1) = *node_ptr(leaf, 0);
	plant_seal(&rig, leaf);
}

/* ---------------------------------------------------------------- what meets them */

static int mounting(void) { return 0; }
static int unlinking(void) { return CORE_RIG_TRY(&rig, fs_unlink(rig.fs, dir, "file")); }
static int stepping_a(void) { return orphan_step(rig.fs, orphan_a, &(bool){ false }); }
static int stepping_link(void) { return orphan_step(rig.fs, orphan_link, &(bool){ false }); }
static int stepping_dir(void) { return orphan_step(rig.fs, orphan_dir, &(bool){ false }); }
static int looking(void) { return fs_getattr(rig.fs, filler, &(struct stat){ 0 }, NULL); }
static int finding(void) { return fs_lookup(rig.fs, dir, "file", &(uint64_t){ 0 }); }

static int reading(void)
{
	char text[8];

	return fs_read(rig.fs, big, 0, text, sizeof(text), &(size_t){ 0 });
}

static int seeking(void)
{
	return fs_seek(rig.fs, big, 0, SEEK_DATA, &(uint64_t){ 0 });
}

static int following(void)
{
	char text[8];

	return fs_readlink(rig.fs, far_link, text, sizeof(text), &(size_t){ 0 });
}

static int moving(void)
{
	return CORE_RIG_TRY(&rig, fs_rename(rig.fs, FS_ROOT_INO, "other", below, "other", 0));
}

static int cutting(void)
{
	int err = CORE_RIG_TRY(&rig, fs_truncate(rig.fs, big, 0));

	return err ? err : core_rig_sync(&rig, big);
}

static int overwriting(void)
{
	static char blocks[2 * BLK];
	size_t done = 0;
	int err;

	memset(blocks, 'x', sizeof(blocks)); /* few lines would travel as such, and free nothing */
	err = CORE_RIG_TRY(&rig, fs_write(rig.fs, big, 0, blocks, sizeof(blocks), &done));
	return err ? err : core_rig_sync(&rig, big);
}

static const struct lie {
	const char *text;
	void (*plant)(void);
	int (*meet)(void);
	int err;
} lies[] = {
	{ "link count is 0", no_links, unlinking, -EUCLEAN },
	{ "symlink length out of range", empty_target, following, -EUCLEAN },
	{ "fewer blocks than its map has", few_blocks, cutting, -EUCLEAN },
	{ "is of type", file_as_names, finding, -EBADMSG },
	{ "more entries than it counts", no_entries, unlinking, -EUCLEAN },
	{ "never lead to the root", parents_in_a_ring, moving, -EUCLEAN },
	{ "it has a loop", no_inodes, mounting, -EUCLEAN },
	{ "wrong magic", other_magic, mounting, -EUCLEAN },
	{ "it has a loop", orphan_ring, mounting, -EUCLEAN },
	{ "no inode number given out", orphan_unknown, mounting, -EUCLEAN },
	{ "orphan list, inode", orphan_freed, mounting, -ESTALE },
	{ "orphan list broken", orphan_before_itself, stepping_a, -EUCLEAN },
	{ "orphan list broken", orphan_behind_a_file, stepping_a, -EUCLEAN },
	{ "orphan list broken", orphan_behind_nothing, stepping_a, -EUCLEAN },
	{ "orphan list broken", orphan_not_behind, stepping_a, -EUCLEAN },
	{ "is not empty", orphan_with_names, stepping_dir, -EUCLEAN },
	{ "pointer of an inode out of range", orphan_root_outside, stepping_link, -EUCLEAN },
	{ "pointer out of range", inode_block_outside, looking, -EUCLEAN },
	{ "empty", empty_node, seeking, -EUCLEAN },
	{ "pointer out of range", child_outside, reading, -EIO },
	{ "is not in use", block_twice, overwriting, -EUCLEAN },
};

/* Planted in the inodes' blocks and the state block, whichever it was. */
static void seal_all(void)
{
	uint64_t root = le64_get(plant_state(&rig)->itab_root);

	for (unsigned i = 0; i < FS_NODE_PTRS; i++)
		if (le64_get(*node_ptr(root, i)) > 1)
			plant_seal(&rig, le64_get(*node_ptr(root, i)));
	plant_seal(&rig, root);
	plant_seal(&rig, le64_get(copy_sb(rig.copy)->root_blk));
}

Test(damage, each_lie_is_refused_by_name_where_it_is_met, .timeout = 120)
{
	for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++) {
		const struct lie *lie = &lies[i];
		int err;

		pool_make();
		lie->plant();
		seal_all();
		errmsg_clear();
		err = core_rig_crash(&rig);
		cr_assert(!err || lie->meet == mounting, "%zu, %s: not opened: %d %s", i, lie->text, err, errmsg_get());
		if (!err)
			err = lie->meet();
		cr_expect_eq(err, lie->err, "%zu, %s: %d %s", i, lie->text, err, errmsg_get());
		cr_expect(strstr(errmsg_get(), lie->text), "%zu, %s: '%s'", i, lie->text, errmsg_get());
		cr_expect(!rig.fs || !CORE_RIG_TRY(&rig, fs_setattr(rig.fs, FS_ROOT_INO, FS_SET_MODE, &(struct stat){ .st_mode = 0700 })),
			"%zu, %s: nothing else can be done: %s", i, lie->text, errmsg_get());
		core_rig_free(&rig);
	}
}

/* No lie: as many links as there may be. Moving on the spot, or one directory for another, needs none more. */
Test(damage, the_limit_of_links_holds_for_every_way_to_gain_one)
{
	uint64_t ino;

	pool_make();
	inode(file)->nlink = inode(dir)->nlink = le32_put(FS_LINKS_MAX);
	seal_all();
	cr_assert_eq(core_rig_crash(&rig), 0, "%s", errmsg_get());
	cr_expect_eq(CORE_RIG_TRY(&rig, fs_link(rig.fs, file, FS_ROOT_INO, "one-more")), -EMLINK);
	cr_expect_eq(CORE_RIG_TRY(&rig, fs_create(rig.fs, dir, "one-more", S_IFDIR, 0, &cred, &ino)), -EMLINK);
	cr_expect_eq(CORE_RIG_TRY(&rig, fs_rename(rig.fs, FS_ROOT_INO, "other", dir, "other", 0)), -EMLINK);
	cr_expect_eq(CORE_RIG_TRY(&rig, fs_rename(rig.fs, FS_ROOT_INO, "other", dir, "file", RENAME_EXCHANGE)), -EMLINK);
	cr_expect_eq(CORE_RIG_TRY(&rig, fs_rename(rig.fs, dir, "file", FS_ROOT_INO, "other", RENAME_EXCHANGE)), -EMLINK);
	cr_expect_eq(CORE_RIG_TRY(&rig, fs_rename(rig.fs, dir, "below", dir, "moved", 0)), 0);
	cr_expect_eq(CORE_RIG_TRY(&rig, fs_rename(rig.fs, dir, "moved", FS_ROOT_INO, "other", RENAME_EXCHANGE)), 0);
	core_rig_free(&rig);
}
