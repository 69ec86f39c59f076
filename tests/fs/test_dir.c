/* Directories over a block layer in memory: against a model, at a million names, with names of one hash, with every
 * call below failing once, and damaged. */
#include <criterion/criterion.h>

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "fs/dir_impl.h"
#include "tests/support/fake_block.h"

#define POOL_BLKS 131072u
#define DIR_INO 7u
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MANY 200000u
#else
#define MANY 1000000u
#endif

static struct fs *fs;
static struct fs_inode_omf dir;

static void init(void)
{
	fs = fake_new(POOL_BLKS);
	dir = (struct fs_inode_omf){ .mode = le32_put(S_IFDIR | 0755) };
}

static void fini(void)
{
	cr_expect_eq(fake_counts(fs)->misuse, 0);
	fake_delete(fs);
}

TestSuite(dir, .init = init, .fini = fini, .timeout = 300);

static int try_insert(const char *name, uint64_t ino)
{
	int err;

	op_begin(fs);
	err = dir_insert(fs, DIR_INO, &dir, name, strlen(name), ino, (uint32_t)ino * 3, DT_REG);
	if (err)
		return op_abort(fs, err);
	op_end(fs);
	return 0;
}

static void insert(const char *name, uint64_t ino)
{
	cr_assert_eq(try_insert(name, ino), 0, "%s", errmsg_get());
}

static struct dir_entry lookup(const char *name)
{
	struct dir_entry entry = { 0 };
	int err = dir_lookup(fs, DIR_INO, &dir, name, strlen(name), &entry);

	cr_assert(err == 0 || err == -ENOENT, "%d %s", err, errmsg_get());
	if (!err)
		cr_assert_str_eq(entry.name, name);
	return entry;
}

static void take_out(const char *name)
{
	struct dir_entry entry = lookup(name);

	cr_assert_neq(entry.ino, 0);
	op_begin(fs);
	cr_assert_eq(dir_remove(fs, DIR_INO, &dir, &entry), 0);
	op_end(fs);
}

static uint64_t walk(void)
{
	struct dir_entry entry = { .key = 0 };
	uint64_t count = 0;

	while (!dir_next(fs, DIR_INO, &dir, entry.key, &entry))
		count++;
	return count;
}

static void expect_empty(void)
{
	cr_expect_eq(dir.root.le, 0);
	cr_expect_eq(dir.height.le, 0);
	cr_expect_eq(dir.entries.le, 0);
	cr_expect_eq(dir.size.le, 0);
	cr_expect_eq(fake_counts(fs)->used, 1);
}

static const char *number_name(uint64_t n)
{
	static char name[32];

	snprintf(name, sizeof(name), "file.%llu", (unsigned long long)n);
	return name;
}

Test(dir, first_entry_and_last)
{
	struct dir_entry entry;

	cr_expect_eq(lookup("a").ino, 0);
	cr_expect_eq(dir_next(fs, DIR_INO, &dir, 0, &entry), -ENOENT);
	insert("a", 17);
	entry = lookup("a");
	cr_expect_eq(entry.ino, 17);
	cr_expect_eq(entry.gen, 51);
	cr_expect_eq(entry.type, DT_REG);
	cr_expect_eq(entry.key, dir_name_key(fs, "a", 1));
	cr_expect_eq(le64_get(dir.entries), 1);
	cr_expect_eq(le64_get(dir.size), 64);
	op_begin(fs);
	cr_expect_eq(dir_replace(fs, DIR_INO, &dir, &entry, 18, 5, DT_DIR), 0);
	op_end(fs);
	cr_expect_eq(fake_counts(fs)->op_lines, 1);
	cr_expect_eq(lookup("a").ino, 18);
	cr_expect_eq(lookup("a").type, DT_DIR);
	cr_expect_eq(lookup("b").ino, 0);
	take_out("a");
	expect_empty();
	op_begin(fs);
	cr_expect_eq(dir_remove(fs, DIR_INO, &dir, &entry), -ENOENT);
	op_abort(fs, 0);
}

/* Golden bytes: one leaf with two entries. */
Test(dir, leaf_bytes_are_as_documented)
{
	uint8_t want[MEDIA_BLOCK_BYTES] = { 0 };
	le64_t key = le64_put(dir_name_key(fs, "name", 4));
	char name[44];

	memset(name, 'n', 43); /* 22 + 43 bytes: two slots */
	name[43] = 0;
	insert("name", 0x1234);
	insert(name, 0x10);
	want[0] = 7, want[8] = 3;
	memcpy(want + 16, "DIRL", 4);
	want[24] = DIR_INO;
	memcpy(want + 64, &key, 8);
	want[72] = 0x34, want[73] = 0x12;
	want[80] = 0x9c, want[81] = 0x36;
	want[84] = DT_REG, want[85] = 4;
	memcpy(want + 86, "name", 4);
	key = le64_put(dir_name_key(fs, name, 43));
	memcpy(want + 128, &key, 8);
	want[136] = 0x10, want[144] = 0x30, want[148] = DT_REG, want[149] = 43;
	memset(want + 150, 'n', 43);
	cr_expect_arr_eq(fake_content(fs, le64_get(dir.root)), want, sizeof(want));
}

Test(dir, insert_changes_header_and_entry_lines_only)
{
	char name[256];

	memset(name, 'x', 255);
	name[255] = 0;
	insert("first", 2);
	insert("second", 3);
	cr_expect_eq(fake_counts(fs)->op_lines, 2);
	insert(name, 4);
	cr_expect_eq(fake_counts(fs)->op_lines, 6);
	take_out("first");
	cr_expect_eq(fake_counts(fs)->op_lines, 1);
}

/* Names of every length into leaves full of holes: 42 and 43 bytes are the edge between one slot and two. */
Test(dir, names_of_every_length)
{
	char name[256];

	for (unsigned round = 0; round < 3; round++) {
		for (unsigned len = 1; len <= 255; len++) {
			memset(name, (int)('a' + round), len);
			name[len] = 0;
			insert(name, len);
		}
		for (unsigned len = 1 + round; round < 2 && len <= 255; len += 2) {
			memset(name, (int)('a' + round), len);
			name[len] = 0;
			take_out(name);
		}
	}
	for (unsigned len = 1; len <= 255; len++) {
		memset(name, 'c', len);
		name[len] = 0;
		cr_expect_eq(lookup(name).ino, len);
		take_out(name);
	}
	cr_expect_eq(walk(), le64_get(dir.entries));
}

/* A million names: insert, look up, walk, remove; time is what the suite's timeout allows, space what half-full leaves
 * take. */
Test(dir, a_million_names)
{
	for (uint64_t n = 1; n <= MANY; n++)
		insert(number_name(n), n);
	cr_expect_eq(le64_get(dir.entries), MANY);
	cr_expect_leq(le32_get(dir.height), 3);
	cr_expect_leq(fake_counts(fs)->used, MANY / 63 * 2);
	for (uint64_t n = 1; n <= MANY; n++)
		cr_assert_eq(lookup(number_name(n)).ino, n);
	cr_expect_eq(lookup("file.0").ino, 0);
	cr_expect_eq(walk(), MANY);
	for (uint64_t n = 1; n <= MANY; n++)
		take_out(number_name(n));
	expect_empty();
}

/* Random inserts, removals and replacements compared with a table by number. */
Test(dir, behaves_like_a_table)
{
	enum { NAMES = 3000 };
	static uint64_t model[NAMES], keys[NAMES];
	uint64_t count = 0;

	srand(11);
	for (unsigned step = 0; step < 60000; step++) {
		/* Grows first, shrinks at the end, names of all lengths. */
		unsigned n = rand() % NAMES, len = n % 5 ? 1 + n % 40 : 1 + n % 249;
		bool grow = rand() % 60000 > (int)step;
		char name[300];

		memset(name, 'p', len);
		snprintf(name + len, 6, "%u", n);
		struct dir_entry entry = lookup(name);
		cr_assert_eq(entry.ino, model[n]);
		if (entry.ino)
			cr_assert_eq(entry.key, keys[n], "stable while others come and go");
		if (entry.ino && grow) {
			model[n] = 1 + rand();
			op_begin(fs);
			cr_assert_eq(dir_replace(fs, DIR_INO, &dir, &entry, model[n], 1, DT_LNK), 0);
			op_end(fs);
		} else if (entry.ino) {
			take_out(name);
			model[n] = 0;
			count--;
		} else if (grow) {
			model[n] = 1 + rand();
			insert(name, model[n]);
			keys[n] = lookup(name).key;
			count++;
		}
		cr_assert_eq(le64_get(dir.entries), count);
		if (step % 5000 == 0)
			cr_assert_eq(walk(), count);
	}
	cr_expect_eq(walk(), count);
}

/* A reader in the middle sees each entry that stays exactly once, whatever comes and goes meanwhile. */
Test(dir, cookies_stay_while_names_come_and_go)
{
	enum { STAY = 5000 };
	static bool seen[STAY + 1];
	struct dir_entry entry = { .key = 0 };
	uint64_t last = 0;
	unsigned extra = 0;

	for (unsigned n = 1; n <= STAY; n++)
		insert(number_name(n), n);
	for (unsigned step = 0; !dir_next(fs, DIR_INO, &dir, entry.key, &entry); step++) {
		cr_assert_gt(entry.key, last);
		last = entry.key;
		if (entry.ino <= STAY) {
			cr_assert_not(seen[entry.ino]);
			seen[entry.ino] = true;
		}
		for (unsigned i = 0; i < 3; i++, extra++)
			insert(number_name(100000 + extra), 100000 + extra);
		if (step % 2)
			for (unsigned i = 0; i < 5; i++, extra--)
				take_out(number_name(100000 + extra - 1));
	}
	for (unsigned n = 1; n <= STAY; n++)
		cr_assert(seen[n]);
}

/* Names of one hash cannot be found by trying: entries are put in under ordinals by hand, as many as there are. */
static struct dir_entry same(unsigned n, uint64_t key)
{
	struct dir_entry entry = { .key = key, .ino = 1000 + n, .gen = 1, .type = DT_REG };

	entry.name_len = snprintf(entry.name, sizeof(entry.name), "twin-%u", n);
	return entry;
}

/* A directory of two leaves made by hand, with all names of "twin"'s hash but those in [from, to). */
static void fill_hash(uint64_t base, unsigned from, unsigned to)
{
	uint64_t leaf, right, root, split;

	op_begin(fs);
	cr_assert_eq(dir_leaf_new(fs, DIR_INO, &leaf), 0);
	dir.root = le64_put(leaf);
	for (unsigned n = 0; n < FS_KEY_SAME; n++) {
		struct dir_entry entry = same(n, base + n);

		if (n >= from && n < to)
			continue;
		/* Ascending keys: the last leaf takes them until it is full. */
		if (dir_leaf_insert(fs, leaf, &entry) == -EOVERFLOW) {
			cr_assert_eq(dir_leaf_split(fs, leaf, DIR_INO, &right, &split), 0);
			if (!le32_get(dir.height)) {
				cr_assert_eq(dir_node_new_root(fs, DIR_INO, leaf, split, right, &root), 0);
				dir.root = le64_put(root);
				dir.height = le32_put(1);
			} else {
				const struct fs_dir_node_omf *node = fake_content(fs, le64_get(dir.root));
				uint64_t none;

				cr_assert_eq(dir_node_insert(fs, le64_get(dir.root), DIR_INO, le32_get(node->count) - 1,
						     split, right, &none, &none),
					0);
			}
			leaf = right;
			cr_assert_eq(dir_leaf_insert(fs, leaf, &entry), 0);
		}
		dir.entries = le64_put(le64_get(dir.entries) + 1);
	}
	op_end(fs);
}

Test(dir, equal_hashes_take_the_smallest_free_ordinal)
{
	uint64_t base = dir_name_key(fs, "twin", 4);

	fill_hash(base, 100, 103);
	insert("twin", 5);
	cr_expect_eq(lookup("twin").key, base + 100);
	cr_expect_eq(walk(), 254);
	take_out("twin");
	insert("twin", 6);
	cr_expect_eq(lookup("twin").key, base + 100);
	/* An earlier one goes: the name keeps its key, and comes back under the smaller one only when put in anew. */
	struct dir_entry early = same(3, base + 3);

	op_begin(fs);
	cr_assert_eq(dir_remove(fs, DIR_INO, &dir, &early), 0);
	op_end(fs);
	cr_expect_eq(lookup("twin").key, base + 100);
	take_out("twin");
	insert("twin", 7);
	cr_expect_eq(lookup("twin").key, base + 3);
	cr_expect_eq(lookup("twin").ino, 7);
}

Test(dir, a_hash_used_up_is_enospc)
{
	uint64_t digest;

	fill_hash(dir_name_key(fs, "twin", 4), 0, 0);
	digest = fake_digest(fs);
	cr_expect_eq(try_insert("twin", 5), -ENOSPC);
	cr_expect_eq(fake_digest(fs), digest);
	insert("other", 5);
	cr_expect_eq(walk(), 257);
}

/* Every call below fails once in turn while leaves and nodes split and go. */
Test(dir, undoes_whatever_call_fails)
{
	char name[256];

	memset(name, 'z', 255);
	name[255] = 0;
	for (unsigned n = 0; n < 4000; n++) {
		uint64_t digest = n % 40 ? 0 : fake_digest(fs);

		snprintf(name + 240, 16, "%u", n);
		for (uint64_t nth = 1; n % 40 == 0; nth++) {
			struct fs_inode_omf before = dir;

			fake_fail(fs, FAKE_ANY, nth, -ENOMEM);
			int err = try_insert(name, 1 + n);
			bool failed = fake_failed(fs);

			fake_fail(fs, 0, 0, 0);
			if (!failed) {
				cr_assert_eq(err, 0);
				break;
			}
			cr_assert_eq(err, -ENOMEM);
			cr_assert_eq(fake_digest(fs), digest);
			cr_assert_arr_eq(&dir, &before, sizeof(dir));
		}
		if (n % 40)
			insert(name, 1 + n);
	}
	cr_assert_geq(le32_get(dir.height), 2);
	for (unsigned n = 0; n < 4000; n++) {
		snprintf(name + 240, 16, "%u", n);
		struct dir_entry entry = lookup(name);

		for (uint64_t nth = 1;; nth++) {
			struct fs_inode_omf before = dir;
			uint64_t digest = n > 3900 ? fake_digest(fs) : 0;

			op_begin(fs);
			fake_fail(fs, FAKE_ANY, n > 3900 ? nth : 0, -ENOMEM);
			int err = dir_remove(fs, DIR_INO, &dir, &entry);
			bool failed = fake_failed(fs);

			fake_fail(fs, 0, 0, 0);
			if (!failed) {
				cr_assert_eq(err, 0);
				op_end(fs);
				break;
			}
			op_abort(fs, err);
			cr_assert_eq(fake_digest(fs), digest);
			cr_assert_arr_eq(&dir, &before, sizeof(dir));
		}
	}
	expect_empty();
}

/* One byte after the other of a leaf and of a root node takes wrong values: nothing crashes or loops, and what is
 * refused is refused as damage. Runs on copies, so that each byte stands alone. */
static void poke_block(uint64_t blk, unsigned end)
{
	uint8_t *bytes = fake_content(fs, blk);
	struct dir_entry entry = lookup("file.9");

	for (unsigned at = 0; at < end; at++) {
		static const uint8_t flips[] = { 1, 0x80, 0xff };

		for (unsigned f = at % sizeof(flips), runs = 0; runs < 1; runs++) {
			struct fs_inode_omf copy = dir;
			struct dir_entry next = { .key = 0 };
			uint64_t steps = 0;
			int err;

			bytes[at] ^= flips[f];
			op_begin(fs);
			while (!(err = dir_next(fs, DIR_INO, &copy, next.key, &next)))
				steps++;
			cr_assert(err == -ENOENT || err == -EUCLEAN || err == -EBADMSG);
			cr_assert_leq(steps, le64_get(dir.entries));
			err = dir_remove(fs, DIR_INO, &copy, &entry);
			cr_assert(err == 0 || err == -ENOENT || err == -EUCLEAN || err == -EBADMSG);
			op_abort(fs, 0);
			op_begin(fs);
			copy = dir;
			err = dir_lookup(fs, DIR_INO, &copy, "new", 3, &next);
			if (err == -ENOENT)
				err = dir_insert(fs, DIR_INO, &copy, "new", 3, 9, 9, DT_REG);
			cr_assert(err == 0 || err == -EUCLEAN || err == -EBADMSG);
			op_abort(fs, 0);
			bytes[at] ^= flips[f];
		}
	}
}

Test(dir, damage_is_refused)
{
	struct dir_entry entry;

	for (unsigned n = 1; n <= 500; n++)
		insert(number_name(n), n);
	cr_assert_eq(le32_get(dir.height), 1);
	const struct fs_dir_node_omf *root = fake_content(fs, le64_get(dir.root));
	uint64_t before = le64_get(root->slot[0].blk);

	poke_block(before, MEDIA_BLOCK_BYTES);
	poke_block(le64_get(dir.root), 16 + 16 * (le32_get(root->count) + 1));
	cr_expect_eq(walk(), 500);
	dir.height = le32_put(FS_DIR_HEIGHT_MAX + 1);
	cr_expect_eq(dir_next(fs, DIR_INO, &dir, 0, &entry), -EUCLEAN);
	dir.height = le32_put(2); /* leaves taken for nodes */
	cr_expect_eq(dir_next(fs, DIR_INO, &dir, 0, &entry), -EBADMSG);
	/* The suite's end expects no misuse; here it was the point. */
	fake_delete(fs);
	fs = fake_new(POOL_BLKS);
}

Test(dir, a_leaf_of_another_directory_is_refused)
{
	struct dir_entry entry;

	insert("x", 2);
	cr_expect_eq(dir_lookup(fs, DIR_INO + 1, &dir, "x", 1, &entry), -EUCLEAN);
	cr_expect(strstr(errmsg_get(), "another directory"));
}

/* A full node splits for a new child at each of its places: both halves are sound in their ranges, and the child and
 * its neighbours are found where they belong. */
Test(dir, full_nodes_split_soundly_at_every_place)
{
	const struct dir_range all = { .lo = 0, .hi = DIR_KEY_END };
	const struct media_geom *geom = copy_geom(fs_copy(fs));
	uint64_t blk, split, split_key, child = fs_root_blk(fs);

	op_begin(fs);
	cr_assert_eq(dir_node_new_root(fs, DIR_INO, child, 1000, child + 1, &blk), 0);
	for (unsigned i = 2; i < FS_DIR_NODE_PTRS; i++) {
		cr_assert_eq(dir_node_insert(fs, blk, DIR_INO, i - 1, i * 1000, child + i, &split, &split_key), 0);
		cr_assert_eq(split, 0);
	}
	op_end(fs);
	for (unsigned at = 0; at < FS_DIR_NODE_PTRS; at++) {
		const struct fs_dir_node_omf *half;
		struct dir_range low = all, high = all;

		op_begin(fs);
		cr_assert_eq(
			dir_node_insert(fs, blk, DIR_INO, at, at * 1000 + 500, child + 900, &split, &split_key), 0);
		cr_assert_neq(split, 0);
		low.hi = high.lo = split_key;
		cr_expect_null(dir_node_check(fake_content(fs, blk), DIR_INO, low, geom));
		cr_expect_null(dir_node_check(fake_content(fs, split), DIR_INO, high, geom));
		for (unsigned i = 0; i < 2 * FS_DIR_NODE_PTRS; i++) {
			uint64_t want = i == 2 * at + 1 ? child + 900 : child + i / 2;

			half = fake_content(fs, i * 500 < split_key ? blk : split);
			cr_expect_eq(le64_get(half->slot[dir_node_search(half, i * 500)].blk), want);
		}
		op_abort(fs, 0);
	}
}
