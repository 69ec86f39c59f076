/* The checker over a file system made by the real core: sound at first, then with one lie at a time planted into its
 * pool, checksums made right again, so that only the meaning is wrong. Each has to be told, and nothing may crash. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "errmsg.h"
#include "fs/fsck.h"
#include "fs/tree.h"
#include "tests/support/core_rig.h"

#define MIB (1ull << 20)

static struct core_rig rig;
static const struct fs_cred cred = { 0 };
static uint64_t sub, many, file, sparse, link_ino, orphan;

static uint64_t create(uint64_t dir, const char *name, mode_t mode)
{
	uint64_t ino;

	cr_assert_eq(CORE_RIG_TRY(&rig, fs_create(rig.fs, dir, name, mode, 0, &cred, &ino)), 0, "%s", errmsg_get());
	return ino;
}

static void fill(uint64_t ino, uint64_t off)
{
	uint8_t bytes[8192];
	size_t done = 0;

	memset(bytes, 0x5a, sizeof(bytes));
	cr_assert_eq(
		CORE_RIG_TRY(&rig, fs_write(rig.fs, ino, off, bytes, sizeof(bytes), &done)), 0, "%s", errmsg_get());
}

static void init(void)
{
	char name[200];

	core_rig_make(&rig, 32 * MIB, 0);
	sub = create(FS_ROOT_INO, "sub", S_IFDIR | 0755);
	many = create(sub, "many", S_IFDIR | 0755);
	for (unsigned n = 0; n < 200; n++) {
		snprintf(name, sizeof(name), "name-%u", n);
		create(many, name, S_IFREG | 0644);
	}
	for (unsigned n = 0; n < 5; n++) { /* free numbers */
		snprintf(name, sizeof(name), "name-%u", n * 7);
		cr_assert_eq(CORE_RIG_TRY(&rig, fs_unlink(rig.fs, many, name)), 0);
	}
	core_rig_quiesce(&rig);
	file = create(FS_ROOT_INO, "file", S_IFREG | 0644);
	sparse = create(FS_ROOT_INO, "sparse", S_IFREG | 0644);
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_link(rig.fs, file, sub, "other")), 0);
	for (unsigned n = 0; n < 20; n++)
		fill(file, n * 8192);
	fill(sparse, 3 * MIB);
	memset(name, 't', sizeof(name));
	name[150] = 0;
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_symlink(rig.fs, sub, "link", name, &cred, &link_ino)), 0);
	orphan = create(sub, "gone", S_IFREG | 0600);
	fill(orphan, 0);
	cr_assert_eq(core_rig_sync_all(&rig), 0);
	cr_assert_eq(fs_opened(rig.fs, orphan), 0);
	cr_assert_eq(CORE_RIG_TRY(&rig, fs_unlink(rig.fs, sub, "gone")), 0);
	core_rig_quiesce(&rig);
}

static void fini(void)
{
	core_rig_free(&rig);
}

TestSuite(fsck, .init = init, .fini = fini, .timeout = 60);

/* ---------------------------------------------------------------- planting */

static uint8_t *at(uint64_t blk)
{
	return rig.pm.base + media_off(blk);
}

static struct fs_state_omf *state(void)
{
	return (struct fs_state_omf *)at(le64_get(copy_sb(rig.copy)->root_blk));
}

static uint64_t node_child(uint64_t node, unsigned idx)
{
	return le64_get(((struct fs_node_omf *)at(node))->ptr[idx]);
}

static uint64_t inode_blk(uint64_t ino)
{
	cr_assert_eq(le32_get(state()->itab_height), 1);
	return node_child(le64_get(state()->itab_root), ino / FS_INODES_PER_BLOCK);
}

static struct fs_inode_omf *inode(uint64_t ino)
{
	return (struct fs_inode_omf *)at(inode_blk(ino)) + ino % FS_INODES_PER_BLOCK;
}

static struct media_entry_omf *entry(uint64_t blk)
{
	return (struct media_entry_omf *)(rig.pm.base + media_entry_off(copy_geom(rig.copy), blk));
}

/* Makes the table agree with the block's content. */
static void seal(uint64_t blk)
{
	struct copy_entry e;

	cr_assert_eq(copy_entry_get(rig.copy, blk, &e), 0);
	e.csum = csum_crc32c(0, at(blk), MEDIA_BLOCK_BYTES);
	copy_entry_encode(blk, &e, entry(blk));
}

/* What one run tells. Returns whether some line holds text. */
static bool told(const char *text)
{
	struct fsck_report report;
	bool found = false;

	cr_assert_eq(fsck_run(rig.fs, &report), 0);
	cr_assert_leq(report.count, FSCK_LINES_MAX);
	for (size_t i = 0; i < report.count; i++) {
		found |= strstr(report.lines[i], text) != NULL;
		if (!found && i + 1 == report.count)
			for (size_t j = 0; j < report.count && j < 5; j++)
				fprintf(stderr, "want \"%s\", told: %s\n", text, report.lines[j]);
	}
	fsck_report_free(&report);
	return found;
}

/* Stores len bytes of value at a place of a metadata block, checks that it is told, puts everything back. */
static void plant(void *place, uint64_t value, unsigned len, const char *text)
{
	uint64_t off = (uint8_t *)place - rig.pm.base, blk = off >> MEDIA_BLOCK_SHIFT;
	struct media_entry_omf saved_entry = *entry(blk);
	uint8_t saved[8];
	le64_t omf = le64_put(value);

	memcpy(saved, place, len);
	memcpy(place, &omf, len);
	seal(blk);
	cr_expect(told(text), "%s", text);
	memcpy(place, saved, len);
	*entry(blk) = saved_entry;
}

Test(fsck, a_sound_pool_has_no_findings)
{
	struct fsck_report report;

	cr_assert_eq(fsck_run(rig.fs, &report), 0);
	cr_expect_eq(report.total, 0, "%s", report.count ? report.lines[0] : "");
	cr_expect_eq(report.inodes, 1 + 2 + 195 + 2 + 1 + 1);
	cr_expect_eq(report.used_blks, copy_used_blks(rig.copy));
	fsck_report_free(&report);
	cr_expect_eq(report.total, 0);
}

Test(fsck, records_not_applied_are_refused)
{
	struct fsck_report report;

	create(sub, "late", S_IFREG);
	cr_assert_eq(core_rig_sync(&rig, FS_ROOT_INO), 0);
	cr_assert_neq(copy_head(rig.copy).seq, copy_tail(rig.copy).seq);
	cr_expect_eq(fsck_run(rig.fs, &report), -EBUSY);
}

Test(fsck, lies_of_the_state_block_are_told)
{
	plant(&state()->magic, 0, 1, "wrong magic");
	plant(&state()->ino_count, le64_get(state()->ino_count) - 1, 8, "inodes in use");
	plant(&state()->ino_free, 0, 8, "free, but not on the free list");
	plant(&state()->ino_free, file, 8, "is in use");
	plant(&state()->orphan_head, 0, 8, "marked as orphan, but not on the list");
	plant(&state()->orphan_head, file, 8, "is not marked");
	plant(&state()->ino_next, FS_INO_MAX, 8, "too low");
	plant(&state()->itab_root, inode_blk(1), 8, "used as");
	plant(&state()->member_count, 3, 4, "member");
}

Test(fsck, lies_of_inodes_are_told)
{
	plant(&inode(file)->nlink, 1, 4, "link count 1, 2 names");
	plant(&inode(file)->size, 4096, 8, "mapped behind the end");
	plant(&inode(file)->blocks, 7, 8, "counts 7 blocks");
	plant(&inode(file)->root, 0, 8, "without a root");
	plant(&inode(file)->root, le64_get(inode(sparse)->root), 8, "another owner");
	plant(&inode(file)->root, 5, 8, "none of the pool");
	plant(&inode(file)->height, 0, 4, "used as 1");
	plant(&inode(file)->gen, 77, 4, "names generation");
	plant(&inode(file)->mode, S_IFIFO | 0600, 4, "special file with content");
	plant(&inode(file)->mode, 0, 4, "free, but not empty");
	plant(&inode(file)->flags, FS_INODE_ORPHAN, 4, "orphan with link count 2");
	plant(&inode(file)->flags, FS_INODE_CUT, 4, "cut-off part");
	plant(&inode(file)->xattr, le64_get(inode(file)->root), 8, "another owner");
	plant(&inode(link_ino)->size, 160, 8, "shorter than its length");
	plant(&inode(link_ino)->size, 20, 8, "symlink block does not fit");
	plant(&inode(sub)->parent, many, 8, "parent");
	plant(&inode(sub)->nlink, 2, 4, "link count 2 instead of 3");
	plant(&inode(many)->entries, 3, 8, "counts 3 entries");
	plant(&inode(many)->size, 3, 8, "size 3");
	plant(&inode(orphan)->nlink, 1, 4, "orphan with link count");
	plant(&inode(orphan)->orphan_next, orphan, 8, "met twice");
	plant(&inode(le64_get(state()->ino_next))->gen, 1, 4, "never given out");
}

Test(fsck, lies_of_maps_are_told)
{
	uint64_t root = le64_get(inode(sparse)->root), node = node_child(root, 1);
	le64_t *ptrs = ((struct fs_node_omf *)at(root))->ptr;

	cr_assert_eq(le32_get(inode(sparse)->height), 2);
	plant(&ptrs[1], root, 8, "another owner");
	plant(&ptrs[0], node, 8, "another owner");
	plant(&ptrs[1], 0, 8, "leaked");
	plant(&ptrs[1], 0, 8, "empty map node");
	plant(&ptrs[1], le64_get(state()->itab_root), 8, "another owner");
}

Test(fsck, lies_of_directories_are_told)
{
	uint64_t root = le64_get(inode(many)->root), leaf, last;
	struct fs_dir_node_omf *node = (struct fs_dir_node_omf *)at(root);
	struct fs_dir_leaf_omf *omf;
	struct fs_dirent_omf *first;

	cr_assert_eq(le32_get(inode(many)->height), 1);
	leaf = le64_get(node->slot[0].blk);
	last = le64_get(node->slot[1].blk);
	omf = (struct fs_dir_leaf_omf *)at(leaf);
	first = (struct fs_dirent_omf *)omf->slots[__builtin_ctzll(le64_get(omf->start))];
	plant(&node->slot[1].blk, leaf, 8, "another owner");
	plant(&node->slot[0].blk, last, 8, "key outside");
	plant(&node->slot[1].key, UINT64_MAX, 8, "keys out of order");
	plant(&node->count, 1, 4, "single child");
	plant(&omf->ino, many + 1, 8, "another directory");
	plant(&omf->used, 0, 8, "bitmaps");
	plant(&first->key, le64_get(first->key) ^ 0x100, 8, "not that of its name");
	plant(&first->ino, orphan, 8, "orphan with link count 0 and 1 names");
	plant(&first->ino, le64_get(state()->ino_next), 8, "not in use");
	plant(&first->ino, sub, 8, "entries name it");
	plant(&first->type, 4, 1, "has type 4");
	plant(&first->name, '/', 1, "cannot be one");
	plant(&first->name, 'N', 1, "not that of its name");
}

/* Two directories that hold each other: each has one name and a fitting parent, none is reachable. */
Test(fsck, directories_off_the_tree_are_told)
{
	uint64_t blk = le64_get(inode(FS_ROOT_INO)->root);
	struct fs_dir_leaf_omf *root = (struct fs_dir_leaf_omf *)at(blk);
	struct fs_dir_leaf_omf *omf = (struct fs_dir_leaf_omf *)at(le64_get(inode(sub)->root));
	struct fs_dirent_omf *in_root = NULL, *in_sub = NULL;

	for (unsigned i = 0; i < FS_DIR_SLOTS; i++) {
		struct fs_dirent_omf *e = (struct fs_dirent_omf *)root->slots[i];

		if ((le64_get(root->start) >> i & 1) && le64_get(e->ino) == sub)
			in_root = e;
		e = (struct fs_dirent_omf *)omf->slots[i];
		if ((le64_get(omf->start) >> i & 1) && le64_get(e->ino) == many)
			in_sub = e;
	}
	cr_assert(in_root);
	cr_assert(in_sub);
	/* sub's entry now names itself; the root's names many. */
	in_root->ino = le64_put(many);
	in_sub->ino = le64_put(sub);
	seal(blk);
	seal(le64_get(inode(sub)->root));
	cr_expect(told("not to the root"));
}

Test(fsck, rot_and_lies_of_the_table_are_told)
{
	uint64_t data = node_child(le64_get(inode(file)->root), 0),
		 unused = media_group_len(copy_geom(rig.copy), 0) + media_group_blk(copy_geom(rig.copy), 0) - 1;
	struct media_entry_omf saved = *entry(data);
	struct copy_entry e;

	at(data)[100] ^= 1;
	cr_expect(told("checksum of content"));
	at(data)[100] ^= 1;
	entry(data)->csum.le ^= 1;
	cr_expect(told("block"));
	*entry(data) = saved;
	cr_assert_eq(copy_entry_get(rig.copy, data, &e), 0);
	e.type = FS_XATTR;
	copy_entry_encode(data, &e, entry(data));
	cr_expect(told("used as 1"));
	*entry(data) = saved;
	cr_assert_eq(copy_entry_get(rig.copy, data, &e), 0);
	e.seq = copy_tail(rig.copy).seq + 1;
	copy_entry_encode(data, &e, entry(data));
	cr_expect(told("last changed by record"));
	*entry(data) = saved;
	saved = *entry(unused);
	e.seq = 1;
	copy_entry_encode(unused, &e, entry(unused));
	cr_expect(told("leaked"));
	cr_expect(told("by its summary"));
	cr_expect(told("by the tables"));
	*entry(unused) = saved;
	cr_expect_not(told("block"));
}

Test(fsck, lies_of_superblocks_and_page_are_told)
{
	struct media_sb_omf *b = (struct media_sb_omf *)at(MEDIA_SB_B_BLK), saved = *b;

	b->hash_seed.le ^= 1;
	b->csum = le32_put(csum_crc32c(0, b, offsetof(struct media_sb_omf, csum)));
	cr_expect(told("never change"));
	*b = saved;
	b->zero[7] = 1; /* torn: the other one counts */
	cr_expect_not(told("superblock"));
	*b = saved;
}

/* Every byte of the metadata flipped, one block at a time in strides, checksums made right: no crash, no endless walk.
 */
Test(fsck, no_damage_brings_it_down)
{
	const struct media_geom *geom = copy_geom(rig.copy);
	struct fsck_report report;
	struct copy_entry e;

	for (uint64_t blk = geom->group0_blk; blk < geom->blk_count; blk++) {
		if (!media_blk_valid(geom, blk) || copy_entry_get(rig.copy, blk, &e) || e.type < MEDIA_META_FIRST)
			continue;
		for (unsigned off = blk % 7; off < MEDIA_BLOCK_BYTES; off += 37) {
			struct media_entry_omf saved = *entry(blk);

			at(blk)[off] ^= 0x81;
			seal(blk);
			cr_assert_eq(fsck_run(rig.fs, &report), 0);
			fsck_report_free(&report);
			at(blk)[off] ^= 0x81;
			*entry(blk) = saved;
		}
	}
	cr_assert_eq(fsck_run(rig.fs, &report), 0);
	cr_expect_eq(report.total, 0);
	fsck_report_free(&report);
}
