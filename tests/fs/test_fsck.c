/* The checker over a file system made by the real core: sound at first, then with one lie at a time planted into its
 * pool, checksums made right again, so that only the meaning is wrong. Each has to be told, and nothing may crash. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "errmsg.h"
#include "fs/fsck.h"
#include "redo.h"
#include "tests/support/plant.h"

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

TestSuite(fsck, .init = init, .fini = fini, .timeout = 600);

/* ---------------------------------------------------------------- planting */

#define at(blk) plant_at(&rig, blk)
#define state() plant_state(&rig)
#define node_child(node, idx) plant_child(&rig, node, idx)
#define inode_blk(ino) plant_inode_blk(&rig, ino)
#define inode(ino) plant_inode(&rig, ino)
#define entry(blk) plant_entry(&rig, blk)
#define seal(blk) plant_seal(&rig, blk)

enum kind { HIDING, ROT, FIXABLE, NOTE };
static const char *const kind_names[] = { "hiding", "rot", "fixable", "a note" };

/* Of what kind the findings of a run are: the gravest. */
static enum kind gravest(const struct fsck_report *report)
{
	if (report->hiding)
		return HIDING;
	if (report->total > report->rot)
		return FIXABLE;
	return report->rot ? ROT : NOTE;
}

/* What one run over the copy tells. Returns whether some line holds text; *kind: the gravest of all its findings. */
static bool copy_told(struct copy *copy, const char *text, enum kind *kind)
{
	struct fsck_report report = { 0 };
	bool found = false;

	cr_assert_eq(fsck_copy(copy, &report), 0);
	*kind = gravest(&report);
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

static bool told(const char *text)
{
	enum kind kind;

	return copy_told(rig.copy, text, &kind);
}

static void expect_told(const char *text, enum kind want)
{
	enum kind kind;

	cr_expect(copy_told(rig.copy, text, &kind), "%s", text);
	cr_expect_eq(kind, want, "%s: %s instead of %s", text, kind_names[kind], kind_names[want]);
}

/* Stores len bytes of value at a place of a metadata block, checks that it is told, puts everything back. */
static void plant_kind(void *place, uint64_t value, unsigned len, const char *text, enum kind kind)
{
	uint64_t off = (uint8_t *)place - rig.pm.base, blk = off >> MEDIA_BLOCK_SHIFT;
	struct media_entry_omf saved_entry = *entry(blk);
	uint8_t saved[8];
	le64_t omf = le64_put(value);

	memcpy(saved, place, len);
	memcpy(place, &omf, len);
	seal(blk);
	expect_told(text, kind);
	memcpy(place, saved, len);
	*entry(blk) = saved_entry;
}

static void plant(void *place, uint64_t value, unsigned len, const char *text)
{
	plant_kind(place, value, len, text, HIDING);
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
	plant(&state()->ino_next, le64_get(state()->ino_next) + 300, 8, "the inode table has 13 blocks");
	plant(&state()->ino_next, le64_get(state()->ino_next) - 1, 8, "never given out");
	plant(&state()->itab_height, 0, 4, "too low");
	plant(&state()->version, 2, 4, "unknown version");
	plant(&state()->epoch, 2, 8, "epoch 2, the newest commit is of 1");
	plant(&state()->zero0[7], 1, 1, "reserved bytes");
	plant(&state()->zero1[0], 1, 1, "reserved bytes");
	plant(&state()->zero2[119], 1, 1, "reserved bytes");
	plant(&state()->zero3[1791], 1, 1, "reserved bytes");
	plant(&state()->itab_root, inode_blk(1), 8, "used as");
	plant(&state()->member_count, 3, 4, "member");
}

/* The table of a pool with a replica that is away. */
Test(fsck, lies_of_the_membership_are_told)
{
	struct fs_member_omf *m = state()->members;

	for (unsigned i = 0; i < 2; i++) {
		strcpy((char *)m[i].name, i ? "second" : "local");
		m[i].state = le32_put(i ? FS_MEMBER_DETACHED : FS_MEMBER_ATTACHED);
		m[i].mode = le32_put(1);
	}
	m[1].mark = le64_put(1);
	state()->member_count = le32_put(2);
	state()->min_replicas = le32_put(1);
	seal(le64_get(copy_sb(rig.copy)->root_blk));
	cr_assert_not(told("state block"));
	plant(&state()->member_count, 17, 4, "too many members");
	plant(&state()->member_count, 1, 4, "member 1 of 1: not zero");
	plant(&state()->member_count, 3, 4, "member 2 of 3: unknown state");
	plant(&state()->min_replicas, 16, 4, "rule of 16");
	plant(&m[1].state, 4, 4, "member 1 of 2: unknown state");
	plant(&m[1].mode, 0, 4, "member 1 of 2: unknown mode");
	plant(&m[1].flags, 2, 4, "member 1 of 2: unknown flag");
	plant(&m[1].reserved, 1, 4, "member 1 of 2: reserved");
	plant(&m[1].zero[39], 1, 1, "member 1 of 2: reserved");
	plant(&m[1].name[0], 0, 1, "member 1 of 2: without a proper name");
	plant(&m[1].mark, copy_tail(rig.copy).seq + 1, 8, "member 1 of 2: has commits");
	plant(&m[1].name, 0x6c61636f6cull, 8, "member 1 of 2: named twice");
}

Test(fsck, lies_of_inodes_are_told)
{
	plant(&inode(file)->size, 4096, 8, "file offset 0x1000: mapped behind the end");
	plant(&inode(file)->blocks, 7, 8, "counts 7 blocks");
	uint64_t free_ino = le64_get(state()->ino_free);

	cr_assert_neq(free_ino, 0);
	plant_kind(&inode(file)->nlink, 1, 4, "link count 1, 2 names", FIXABLE);
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
	plant_kind(&inode(sub)->nlink, 2, 4, "link count 2 instead of 3", FIXABLE);
	plant(&inode(many)->entries, 3, 8, "counts 3 entries");
	plant(&inode(many)->size, 3, 8, "size 3");
	plant(&inode(orphan)->nlink, 1, 4, "orphan with link count");
	plant(&inode(orphan)->orphan_next, orphan, 8, "met twice");
	plant(&inode(orphan)->orphan_prev, file, 8, "comes behind 0, says");
	plant(&inode(orphan)->orphan_next, FS_INO_MAX, 8, "never given out");
	plant(&inode(le64_get(state()->ino_next))->gen, 1, 4, "never given out");
	plant(&inode(file)->mode, 0150000 | 0600, 4, "unknown file type");
	plant(&inode(file)->mode, 0200000 | S_IFREG | 0600, 4, "unknown mode bits");
	plant(&inode(file)->flags, 4, 4, "unknown flag");
	plant(&inode(sub)->flags, FS_INODE_CUT, 4, "cut-off part of something");
	plant(&inode(file)->mtime_ns, 1000000000, 4, "nanoseconds");
	plant(&inode(file)->size, FS_FILE_BYTES_MAX + 1, 8, "too long");
	plant(&inode(file)->height, FS_HEIGHT_MAX + 1, 4, "map too high");
	plant(&inode(many)->height, FS_DIR_HEIGHT_MAX + 1, 4, "directory too high");
	plant(&inode(file)->blocks, 1ull << 40, 8, "more blocks than the pool");
	plant(&inode(file)->nlink, FS_LINKS_MAX + 1, 4, "more links");
	plant(&inode(file)->gen, 0, 4, "generation 0");
	plant(&inode(file)->rdev, 1, 4, "device number");
	plant(&inode(file)->parent, sub, 8, "a parent");
	plant(&inode(file)->entries, 1, 8, "entries");
	plant(&inode(file)->free_next, 1, 8, "free list");
	plant(&inode(file)->orphan_next, orphan, 8, "no orphan, but");
	plant(&inode(file)->orphan_prev, orphan, 8, "no orphan, but");
	plant(&inode(file)->zero0, 1, 1, "reserved bytes");
	plant(&inode(file)->zero1[15], 1, 1, "reserved bytes");
	plant(&inode(file)->inline_data[63], 1, 1, "inline bytes");
	plant(&inode(link_ino)->height, 1, 4, "height of a map");
	plant(&inode(link_ino)->blocks, 1, 8, "counts data blocks");
	plant(&inode(link_ino)->root, file, 8, "none of the pool");
	plant(&inode(link_ino)->size, 120, 8, "longer than its length");
	plant(&inode(FS_ROOT_INO)->parent, sub, 8, "parent");
	plant(&inode(FS_ROOT_INO)->mode, S_IFREG | 0600, 4, "no root directory");
	plant(&inode(free_ino)->free_next, file, 8, "is in use");
	plant(&inode(free_ino)->free_next, FS_INO_MAX, 8, "never given out");
	plant(&inode(free_ino)->free_next, free_ino, 8, "met twice");
	plant(&inode(free_ino)->uid, 1, 4, "free, but not empty");
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
	plant(&ptrs[1], node | FS_PTR_UNWRITTEN, 8, "none of the pool");
	ptrs = ((struct fs_node_omf *)at(node))->ptr;
	cr_assert_neq(ptrs[256].le, 0);
	plant(&ptrs[256], le64_get(ptrs[256]) | FS_PTR_UNWRITTEN, 8, "file offset 0x300000: block");
	plant(&ptrs[256], le64_get(ptrs[256]) | 1ull << 50, 8, "file offset 0x300000: block");
	plant(&ptrs[256], 0, 8, "counts 2 blocks, has 1");
	plant(&ptrs[300], le64_get(ptrs[256]), 8, "file offset 0x32c000: mapped behind");
	ptrs = ((struct fs_node_omf *)at(le64_get(state()->itab_root)))->ptr;
	plant(&ptrs[0], 0, 8, "pointer 0 missing");
	plant(&ptrs[20], le64_get(ptrs[0]), 8, "pointer 20 behind the last inode");
}

/* A block that is allocated and reads as zeros: by its pointer and by the table, or by neither. */
Test(fsck, unwritten_extents_are_understood)
{
	uint64_t root = le64_get(inode(file)->root), blk = node_child(root, 3);
	struct copy_entry e = plant_entry_get(&rig, blk);

	((struct fs_node_omf *)at(root))->ptr[3] = le64_put(blk | FS_PTR_UNWRITTEN);
	seal(root);
	expect_told("type 1 in the table, used as 2", HIDING);
	e.type = MEDIA_UNWRITTEN;
	e.csum = 0;
	copy_entry_encode(blk, &e, entry(blk));
	cr_expect_not(told("block"));
	((struct fs_node_omf *)at(root))->ptr[3] = le64_put(blk);
	seal(root);
	expect_told("type 2 in the table, used as 1", HIDING);
}

Test(fsck, lies_of_directories_are_told)
{
	uint64_t root = le64_get(inode(many)->root), leaf, last;
	struct fs_dir_node_omf *node = (struct fs_dir_node_omf *)at(root);
	struct fs_dir_leaf_omf *omf;
	struct fs_dirent_omf *first, *second;
	uint64_t starts;

	cr_assert_eq(le32_get(inode(many)->height), 1);
	leaf = le64_get(node->slot[0].blk);
	last = le64_get(node->slot[1].blk);
	omf = (struct fs_dir_leaf_omf *)at(leaf);
	starts = le64_get(omf->start);
	first = (struct fs_dirent_omf *)omf->slots[__builtin_ctzll(starts)];
	second = (struct fs_dirent_omf *)omf->slots[__builtin_ctzll(starts & (starts - 1))];
	plant(&node->slot[1].blk, leaf, 8, "another owner");
	plant(&node->slot[0].blk, last, 8, "key outside");
	plant(&node->slot[1].key, UINT64_MAX, 8, "keys out of order");
	plant(&node->count, 1, 4, "single child");
	plant(&omf->ino, many + 1, 8, "another directory");
	plant(&omf->used, 0, 8, "bitmaps");
	plant(&first->key, le64_get(first->key) ^ 0x100, 8, "not that of its name");
	plant(&second->key, le64_get(first->key), 8, "twice");
	plant(&first->ino, orphan, 8, "orphan with link count 0 and 1 names");
	plant(&first->ino, le64_get(state()->ino_next), 8, "not in use");
	plant(&first->ino, sub, 8, "entries name it");
	plant(&first->type, 4, 1, "has type 4");
	plant(&first->type, 33, 1, "type unknown");
	plant(&first->gen, 77, 4, "names generation 77");
	plant(&first->ino, 0, 8, "inode number out of range");
	plant(&first->name_len, 0, 1, "without a name");
	plant(&omf->magic, 0, 4, "wrong magic");
	plant(&omf->start, le64_get(omf->start) & (le64_get(omf->start) - 1), 8, "no entry covers");
	plant(&omf->reserved, 1, 4, "bitmaps");
	plant(&omf->zero[31], 1, 1, "reserved bytes");
	plant(&node->magic, 0, 4, "wrong magic");
	plant(&node->ino, sub, 8, "node of another directory");
	plant(&node->count, 256, 4, "count out of range");
	plant(&node->slot[0].key, 1, 8, "out of order");
	plant(&node->slot[1].blk, 3, 8, "pointer out of range");
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
	expect_told("file offset 0x0: block", ROT);
	expect_told("checksum of content", ROT);
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
	expect_told("leaked", FIXABLE);
	expect_told("by its summary", FIXABLE);
	expect_told("by the tables", FIXABLE);
	*entry(unused) = saved;
	cr_expect_not(told("block"));
}

Test(fsck, content_behind_the_end_of_a_file_is_told)
{
	uint64_t data = node_child(le64_get(inode(file)->root), 39);

	inode(file)->size = le64_put(40 * MEDIA_BLOCK_BYTES - 1);
	seal(inode_blk(file));
	expect_told("file offset 0x27fff: content behind the end", ROT);
	at(data)[MEDIA_BLOCK_BYTES - 1] = 0;
	seal(data);
	cr_expect_not(told("inode"));
}

Test(fsck, lies_of_summaries_are_told)
{
	const struct media_geom *geom = copy_geom(rig.copy);
	struct media_summary_omf *omf = (struct media_summary_omf *)at(media_group_blk(geom, 0)), saved = *omf;
	struct media_entry_omf *table = (struct media_entry_omf *)at(media_group_blk(geom, 0) + 1);
	uint64_t seq;
	uint32_t used;

	cr_assert_eq(copy_summary_get(rig.copy, 0, &seq, &used), 0);
	copy_summary_encode(0, seq, used + 1, omf);
	expect_told("group 0: ", FIXABLE);
	copy_summary_encode(0, copy_tail(rig.copy).seq + 1, used, omf);
	expect_told("group 0: summary of record", FIXABLE);
	copy_summary_encode(0, 1, used, omf);
	expect_told("group 0: summary of record 1, a table entry is of", FIXABLE);
	*omf = saved;
	omf->check.le ^= 1;
	expect_told("group 0: summary damaged", FIXABLE);
	*omf = saved;
	omf->zero[51] = 1;
	expect_told("group 0: summary malformed", FIXABLE);
	table[MEDIA_GROUP_META_BLKS].csum.le ^= 1; /* what the table says is not known */
	expect_told("group 0: summary malformed", HIDING);
	table[MEDIA_GROUP_META_BLKS].csum.le ^= 1;
	*omf = saved;
	table[MEDIA_GROUP_META_BLKS - 1].csum = le32_put(1);
	expect_told("group 0: table entry of its own block", HIDING);
	table[MEDIA_GROUP_META_BLKS - 1].csum = le32_put(0);
	cr_assert_lt(media_group_len(geom, 0), MEDIA_GROUP_BLKS);
	table[media_group_len(geom, 0)].csum = le32_put(1);
	expect_told("group 0: table entry of the missing block", HIDING);
	table[media_group_len(geom, 0)].csum = le32_put(0);
	cr_expect_not(told("group"));
}

/* ---------------------------------------------------------------- superblocks, page, history */

static struct media_sb_omf *sb(unsigned slot)
{
	return (struct media_sb_omf *)at(slot ? MEDIA_SB_B_BLK : MEDIA_SB_A_BLK);
}

static void sb_seal(unsigned slot)
{
	sb(slot)->csum = le32_put(csum_crc32c(0, sb(slot), offsetof(struct media_sb_omf, csum)));
}

/* What a run over the pool says that is opened as it is now. */
static void reopened_told(const char *text, enum kind want)
{
	struct copy *copy;
	enum kind kind;

	cr_assert_eq(copy_open(&rig.pm, true, &copy), 0, "%s", errmsg_get());
	cr_expect(copy_told(copy, text, &kind), "%s", text);
	cr_expect_eq(kind, want, "%s: %s instead of %s", text, kind_names[kind], kind_names[want]);
	copy_close(copy);
}

Test(fsck, lies_of_superblocks_are_told)
{
	unsigned newer = le64_get(sb(1)->generation) > le64_get(sb(0)->generation), older = !newer;
	struct media_sb_omf saved[2] = { *sb(0), *sb(1) };

	sb(older)->hash_seed.le ^= 1;
	sb_seal(older);
	expect_told("never change", HIDING);
	*sb(older) = saved[older];
	sb(older)->generation = le64_put(le64_get(sb(older)->generation) - 1);
	sb_seal(older);
	expect_told("A and B are of generations", HIDING);
	sb(older)->generation = sb(newer)->generation;
	sb_seal(older);
	expect_told("A and B are of generations", HIDING);
	*sb(older) = saved[older];
	sb(older)->tail_seq = le64_put(le64_get(sb(newer)->tail_seq) + 1);
	sb_seal(older);
	expect_told("the older one's tail", HIDING);
	*sb(older) = saved[older];
	sb(older)->tail_hash[0] ^= 1;
	sb_seal(older);
	expect_told("different histories", HIDING);
	*sb(older) = saved[older];
	for (unsigned slot = 0; slot < 2; slot++) {
		sb(slot)->used_blks = le64_put(le64_get(sb(slot)->used_blks) + 1);
		sb_seal(slot);
	}
	reopened_told("by the tables", FIXABLE);
	for (unsigned slot = 0; slot < 2; slot++) { /* torn: the other one counts */
		*sb(0) = saved[0];
		*sb(1) = saved[1];
		sb(slot)->zero[7] = 1;
		expect_told("the other one counts", NOTE);
		expect_told(slot ? "superblock B at pool offset 0x3000" : "superblock A at pool offset 0x2000", NOTE);
	}
	sb(0)->zero[7] = 1;
	expect_told("superblock A at pool offset 0x2000", HIDING);
	expect_told("superblock B at pool offset 0x3000", HIDING);
}

Test(fsck, lies_of_the_page_are_told)
{
	struct media_page_omf *slot = (struct media_page_omf *)at(MEDIA_PAGE_BLK), first,
			      *other = (struct media_page_omf *)(at(MEDIA_PAGE_BLK) + MEDIA_PAGE_SLOT_BYTES);
	struct copy_page page = *copy_page(rig.copy);

	cr_assert_eq(copy_page_set(rig.copy, &page), 0);
	first = *slot;
	cr_expect_not(told("page"));
	copy_page_encode(&page, 2, slot);
	expect_told("slots of generations 2 and 2", HIDING);
	page.state = MEDIA_INCONSISTENT;
	copy_page_encode(&page, 3, slot);
	expect_told("being overwritten", HIDING);
	*slot = first;
	slot->zero[3] = 1;
	expect_told("slot 0 at pool offset 0x1000: not valid; the other", NOTE);
	other->role = le32_put(9);
	expect_told("slot 0 at pool offset 0x1000", HIDING);
	expect_told("slot 1 at pool offset 0x1800", HIDING);
}

/* Ring byte of the record of a sequence. */
static uint64_t record_of(uint64_t seq)
{
	const struct media_geom *geom = copy_geom(rig.copy);

	for (uint64_t pos = 0; pos < geom->ring_bytes; pos += MEDIA_LINE_BYTES) {
		const struct redo_hdr_omf *hdr = pm_ptr(&rig.pm, media_ring_off(pos));

		if (redo_peek_len(hdr, geom) && le64_get(hdr->seq) == seq)
			return pos;
	}
	cr_assert(false, "no record %llu", (unsigned long long)seq);
	return 0;
}

Test(fsck, lies_of_the_history_are_told)
{
	uint64_t tail = copy_tail(rig.copy).seq;
	struct media_sb_omf saved[2] = { *sb(0), *sb(1) };
	struct redo_hdr_omf *hdr = (struct redo_hdr_omf *)(rig.pm.base + media_ring_off(record_of(tail - 1)));

	for (unsigned slot = 0; slot < 2; slot++) {
		sb(slot)->tail_hash[15] ^= 1;
		sb_seal(slot);
	}
	reopened_told("is of another history than the superblock's tail", HIDING);
	for (unsigned slot = 0; slot < 2; slot++) {
		*sb(slot) = saved[slot];
		sb(slot)->tail_epoch = le64_put(2);
		sb_seal(slot);
	}
	reopened_told("is of another history than the superblock's tail", HIDING);
	for (unsigned slot = 0; slot < 2; slot++) {
		*sb(slot) = saved[slot];
		sb(slot)->tail_pos = le64_put(le64_get(sb(slot)->tail_pos) + MEDIA_LINE_BYTES);
		sb_seal(slot);
	}
	reopened_told("the superblock's tail is at", HIDING);
	*sb(0) = saved[0];
	*sb(1) = saved[1];
	cr_expect_not(told("record"));
	hdr->time_ns.le ^= 1;
	hdr->csum = le32_put(0);
	hdr->csum = le32_put(csum_crc32c(0, hdr, le32_get(hdr->len)));
	expect_told("does not continue record", HIDING);
}

/* What cannot be opened is told as far as it goes. */
Test(fsck, a_front_of_any_bytes_is_told)
{
	struct fsck_report report = { 0 };

	fsck_front(&rig.pm, &report);
	cr_expect_eq(report.total, 0);
	for (unsigned i = 0; i < 4 * MEDIA_BLOCK_BYTES; i++)
		rig.pm.base[i] = (uint8_t)(i * 37);
	fsck_front(&rig.pm, &report);
	cr_expect_eq(report.total, 4);
	rig.pm.len = 4096;
	fsck_front(&rig.pm, &report);
	cr_expect_eq(report.total, 4);
	rig.pm.len = 32 * MIB;
	fsck_report_free(&report);
}

/* ---------------------------------------------------------------- any damage */

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

/* The metadata blocks in use, for damage of many at once. */
static unsigned metadata(uint64_t *blks, unsigned max)
{
	const struct media_geom *geom = copy_geom(rig.copy);
	unsigned count = 0;

	for (uint64_t blk = geom->group0_blk; blk < geom->blk_count && count < max; blk++)
		if (media_blk_valid(geom, blk) && plant_entry_get(&rig, blk).type >= MEDIA_META_FIRST)
			blks[count++] = blk;
	return count;
}

/* Hostile pools: words that look like others, several at once, in metadata and in the block table. */
Test(fsck, hostile_pools_are_told)
{
	static uint8_t saved[4][MEDIA_BLOCK_BYTES];
	struct media_entry_omf saved_entry[4];
	struct fsck_report report;
	uint64_t blks[256], seed = 1;
	unsigned count = metadata(blks, 256), told_of = 0;

	cr_assert_gt(count, 0);
	for (unsigned round = 0; round < 1500; round++) {
		uint64_t hit[4], n = 1 + round % 4;

		for (unsigned i = 0; i < n; i++) {
			uint64_t word, from, a;

			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			a = seed >> 16;
			hit[i] = blks[a % count];
			memcpy(saved[i], at(hit[i]), MEDIA_BLOCK_BYTES);
			saved_entry[i] = *entry(hit[i]);
			from = blks[(a >> 8) % count];
			memcpy(&word, at(from) + (a >> 20) % 512 * 8, 8);
			if (a >> 40 & 1)
				word = a >> 41 & 1 ? from : ~0ull << (a >> 42) % 64;
			memcpy(at(hit[i]) + (a >> 30) % (round % 2 ? 32 : 512) * 8, &word, 8);
			seal(hit[i]);
		}
		cr_assert_eq(fsck_run(rig.fs, &report), 0);
		told_of += report.total != 0;
		fsck_report_free(&report);
		while (n--) {
			memcpy(at(hit[n]), saved[n], MEDIA_BLOCK_BYTES);
			*entry(hit[n]) = saved_entry[n];
		}
	}
	cr_expect_gt(told_of, 500);
	cr_expect_not(told("block"));
}
