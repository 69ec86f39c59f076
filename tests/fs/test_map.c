/* File maps over a block layer in memory: against a plain array, at the edges of heights, cut in two, trimmed in steps,
 * with every call below failing once, and damaged. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "tests/support/fake_block.h"

#define POOL_BLKS 70000u
#define TOP (1ull << 36) /* first block no map reaches */

static struct fs *fs;
static struct fs_inode_omf inode;

static void init(void)
{
	fs = fake_new(POOL_BLKS);
	inode = (struct fs_inode_omf){ .mode = le32_put(S_IFREG | 0644) };
}

static void fini(void)
{
	fake_delete(fs);
}

TestSuite(map, .init = init, .fini = fini, .timeout = 120);

static uint64_t get(const struct fs_inode_omf *from, uint64_t fblk)
{
	uint64_t ptr = ~0ull;

	cr_assert_eq(map_get(fs, from, fblk, &ptr), 0);
	return ptr;
}

static int set_one(struct fs_inode_omf *to, uint64_t fblk, uint64_t ptr, uint64_t *old)
{
	return map_set_run(fs, to, ALLOC_META, fblk, 1, &ptr, old);
}

static uint64_t set(uint64_t fblk)
{
	uint64_t old, blk;

	op_begin(fs);
	blk = fake_data(fs);
	cr_assert_eq(set_one(&inode, fblk, blk, &old), 0);
	cr_assert_eq(old, 0);
	op_end(fs);
	return blk;
}

/* Trims in steps of max blocks until nothing is left behind fblk; returns how many steps. */
static unsigned trim(struct fs_inode_omf *what, uint64_t fblk, uint64_t max)
{
	unsigned steps = 0;
	bool left = true;

	for (; left; steps++) {
		op_begin(fs);
		cr_assert_eq(map_trim(fs, what, fblk, max, &left), 0);
		op_end(fs);
	}
	return steps;
}

static void expect_empty(void)
{
	cr_expect_eq(inode.root.le, 0);
	cr_expect_eq(inode.height.le, 0);
	cr_expect_eq(inode.blocks.le, 0);
	cr_expect_eq(fake_counts(fs)->used, 1);
	cr_expect_eq(fake_counts(fs)->misuse, 0);
}

/* Each first block of a height, and its last: height, index blocks as map_cost said, neighbours stay holes. */
static const struct {
	uint64_t fblk;
	uint32_t height;
} edges[] = {
	{ 0, 0 },
	{ 1, 1 },
	{ 511, 1 },
	{ 512, 2 },
	{ 262143, 2 },
	{ 262144, 3 },
	{ (1ull << 27) - 1, 3 },
	{ 1ull << 27, 4 },
	{ TOP - 1, 4 },
};

Test(map, grows_to_the_height_that_a_block_needs)
{
	for (unsigned i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
		uint64_t fblk = edges[i].fblk, cost, blk;

		cr_assert_eq(map_cost(fs, &inode, fblk, &cost), 0);
		blk = set(fblk);
		cr_expect_eq(le32_get(inode.height), edges[i].height);
		cr_expect_eq(fake_counts(fs)->used_of[FS_MAP_NODE], cost);
		cr_expect_eq(get(&inode, fblk), blk);
		cr_expect_eq(get(&inode, fblk + 1), 0);
		if (fblk)
			cr_expect_eq(get(&inode, fblk - 1), 0);
		cr_expect_eq(le64_get(inode.blocks), 1);
		cr_assert_eq(map_cost(fs, &inode, fblk, &cost), 0);
		cr_expect_eq(cost, 0);
		trim(&inode, 0, 1);
		expect_empty();
	}
}

Test(map, cost_is_what_a_set_takes_at_most)
{
	for (unsigned i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
		uint64_t cost, before = fake_counts(fs)->used_of[FS_MAP_NODE];

		cr_assert_eq(map_cost(fs, &inode, edges[i].fblk, &cost), 0);
		set(edges[i].fblk);
		cr_expect_eq(fake_counts(fs)->used_of[FS_MAP_NODE] - before, cost);
	}
	trim(&inode, 0, 1000);
	expect_empty();
}

Test(map, refuses_blocks_beyond_its_greatest_height)
{
	uint64_t ptrs[2] = { 5000, 5001 }, olds[2], found;

	op_begin(fs);
	cr_expect_eq(set_one(&inode, TOP, ptrs[0], olds), -EFBIG);
	cr_expect_eq(map_set_run(fs, &inode, ALLOC_META, TOP - 1, 2, ptrs, olds), -EFBIG);
	op_abort(fs, 0);
	cr_expect_eq(get(&inode, TOP), 0);
	cr_expect_eq(get(&inode, UINT64_MAX), 0);
	cr_expect_eq(map_next(fs, &inode, UINT64_MAX, &found), -ENXIO);
	expect_empty();
}

Test(map, run_of_256_stores_each_node_once)
{
	uint64_t ptrs[256], olds[256], back[256];

	set(3000);
	op_begin(fs);
	for (unsigned i = 0; i < 256; i++)
		ptrs[i] = fake_data(fs);
	uint64_t puts = fake_counts(fs)->puts;
	cr_assert_eq(map_set_run(fs, &inode, ALLOC_META, 1024 + 100, 256, ptrs, olds), 0);
	cr_expect_eq(fake_counts(fs)->puts - puts, 2, "one leaf node, one pointer to it");
	op_end(fs);
	cr_assert_eq(map_get_run(fs, &inode, 1024 + 100, 256, back), 0);
	cr_expect_arr_eq(ptrs, back, sizeof(ptrs));
	cr_expect_eq(le64_get(inode.blocks), 257);
	trim(&inode, 0, 1000);
	expect_empty();
}

/* Runs of random pointers and holes, trims and searches, compared with an array after each. */
#define MODEL_BLKS 3000u
static uint64_t model[MODEL_BLKS];

static void model_set(unsigned from, unsigned count, unsigned holes)
{
	uint64_t ptrs[700], olds[700];

	op_begin(fs);
	for (unsigned i = 0; i < count; i++)
		ptrs[i] = (unsigned)rand() % 100 < holes ? 0 : fake_data(fs);
	cr_assert_eq(map_set_run(fs, &inode, ALLOC_META, from, count, ptrs, olds), 0);
	for (unsigned i = 0; i < count; i++) {
		cr_assert_eq(olds[i], model[from + i]);
		model[from + i] = ptrs[i];
		if (olds[i])
			cr_assert_eq(block_free(fs, olds[i]), 0);
	}
	op_end(fs);
}

static void model_compare(void)
{
	uint64_t ptrs[MODEL_BLKS + 10], found, next = 0, blocks = 0;

	cr_assert_eq(map_get_run(fs, &inode, 0, MODEL_BLKS + 10, ptrs), 0);
	for (unsigned i = 0; i < MODEL_BLKS; i++) {
		cr_assert_eq(ptrs[i], model[i]);
		blocks += model[i] != 0;
	}
	cr_assert_eq(le64_get(inode.blocks), blocks);
	cr_assert_eq(fake_counts(fs)->used_of[MEDIA_DATA], blocks);
	for (unsigned i = 0; i < MODEL_BLKS; i++) {
		if (!model[i])
			continue;
		cr_assert_eq(map_next(fs, &inode, next, &found), 0);
		cr_assert_eq(found, i);
		next = i + 1;
	}
	cr_assert_eq(map_next(fs, &inode, next, &found), -ENXIO);
}

Test(map, behaves_like_an_array)
{
	srand(7);
	for (unsigned round = 0; round < 400; round++) {
		unsigned from = rand() % MODEL_BLKS, count = 1 + rand() % 699;
		static const unsigned holes[] = { 0, 50, 100 };

		if (rand() % 10 == 0) {
			trim(&inode, from, 1 + rand() % 200);
			memset(&model[from], 0, (MODEL_BLKS - from) * sizeof(model[0]));
		} else {
			model_set(from, count < MODEL_BLKS - from ? count : MODEL_BLKS - from, holes[rand() % 3]);
		}
		model_compare();
	}
	trim(&inode, 0, 100);
	expect_empty();
}

Test(map, trim_takes_bounded_steps_from_the_end)
{
	uint64_t ptrs[600], olds[600];
	bool left;

	op_begin(fs);
	for (unsigned i = 0; i < 600; i++)
		ptrs[i] = fake_data(fs);
	cr_assert_eq(map_set_run(fs, &inode, ALLOC_META, 0, 600, ptrs, olds), 0);
	op_end(fs);
	op_begin(fs);
	cr_assert_eq(map_trim(fs, &inode, 10, 100, &left), 0);
	op_end(fs);
	cr_expect(left);
	cr_expect_eq(get(&inode, 500), 0);
	cr_expect_eq(get(&inode, 499), ptrs[499]);
	cr_expect_eq(trim(&inode, 10, 100), 5);
	cr_expect_eq(get(&inode, 9), ptrs[9]);
	cr_expect_eq(le32_get(inode.height), 1, "lowered");
	cr_expect_eq(fake_counts(fs)->used_of[FS_MAP_NODE], 1);
	trim(&inode, 1, 100);
	cr_expect_eq(le32_get(inode.height), 0);
	cr_expect_eq(le64_get(inode.root), ptrs[0]);
	trim(&inode, 0, 100);
	expect_empty();
}

Test(map, unwritten_marks_survive_growing_and_lowering)
{
	uint64_t old, blk;

	op_begin(fs);
	blk = fake_data(fs);
	cr_assert_eq(set_one(&inode, 0, blk | FS_PTR_UNWRITTEN, &old), 0);
	op_end(fs);
	set(1ull << 27);
	cr_expect_eq(get(&inode, 0), blk | FS_PTR_UNWRITTEN);
	trim(&inode, 1, 10);
	cr_expect_eq(le32_get(inode.height), 0);
	cr_expect_eq(get(&inode, 0), blk | FS_PTR_UNWRITTEN);
	trim(&inode, 0, 10);
	expect_empty();
}

/* Cuts at every interesting place: each side has its blocks at the same file blocks, no index block is lost. */
Test(map, split_moves_the_tail_whole)
{
	static const uint64_t at[] = { 0, 1, 5, 511, 512, 513, 1024, 262143, 262144, 262145, 524288, 1ull << 27,
		(1ull << 27) + 1, TOP - 1, TOP };
	static const uint64_t mapped[] = { 0, 4, 5, 6, 511, 512, 513, 1023, 1024, 262143, 262144, 262145, 600000,
		1ull << 27, (1ull << 27) + 5, TOP - 1 };
	const unsigned count = sizeof(mapped) / sizeof(mapped[0]);

	for (unsigned subset = 1; subset < 1u << count; subset = subset * 3 + 1) {
		for (unsigned a = 0; a < sizeof(at) / sizeof(at[0]); a++) {
			struct fs_inode_omf tail = { .mode = inode.mode };
			uint64_t blks[16] = { 0 }, in_tail = 0, nodes;

			for (unsigned i = 0; i < count; i++)
				if (subset >> i & 1)
					blks[i] = set(mapped[i]);
			nodes = fake_counts(fs)->used_of[FS_MAP_NODE];
			op_begin(fs);
			cr_assert_eq(map_split(fs, &inode, at[a], &tail), 0);
			op_end(fs);
			for (unsigned i = 0; i < count; i++) {
				bool behind = mapped[i] >= at[a];

				cr_expect_eq(get(behind ? &tail : &inode, mapped[i]), blks[i]);
				cr_expect_eq(get(behind ? &inode : &tail, mapped[i]), 0);
				in_tail += behind && blks[i];
			}
			cr_expect_eq(le64_get(tail.blocks), in_tail);
			cr_expect_leq(fake_counts(fs)->used_of[FS_MAP_NODE], nodes + FS_HEIGHT_MAX);
			trim(&inode, 0, 3);
			trim(&tail, 0, 3);
			expect_empty();
		}
	}
}

/* Every call below fails once in turn; after the abort all blocks are as before, and the operation works again. */
static int work(struct fs_inode_omf *what, struct fs_inode_omf *tail, unsigned kind)
{
	uint64_t ptrs[600] = { 0 }, olds[600];
	bool left;

	switch (kind) {
	case 0:
		for (unsigned i = 0; i < 600; i++)
			ptrs[i] = fake_data(fs);
		return map_set_run(fs, what, ALLOC_META, 262144 - 300, 600, ptrs, olds);
	case 1:
		return map_set_run(fs, what, ALLOC_META, 0, 600, ptrs, olds);
	case 2:
		return map_split(fs, what, 262145, tail);
	default:
		return map_trim(fs, what, 3, 1000, &left);
	}
}

Test(map, undoes_whatever_call_fails)
{
	for (unsigned i = 0; i < 20; i++)
		set(i);
	set(262144 + 600);
	for (unsigned kind = 0; kind < 4; kind++) {
		uint64_t digest = fake_digest(fs);

		for (uint64_t nth = 1;; nth++) {
			struct fs_inode_omf copy = inode, tail = { .mode = inode.mode };

			op_begin(fs);
			fake_fail(fs, FAKE_ANY, nth, -ENOMEM);
			int err = work(&copy, &tail, kind);
			bool failed = fake_failed(fs);

			fake_fail(fs, 0, 0, 0);
			op_abort(fs, 0);
			cr_assert_eq(fake_digest(fs), digest);
			cr_assert_eq(err, failed ? -ENOMEM : 0);
			if (failed)
				cr_assert_arr_eq(&copy, &inode, sizeof(copy));
			else
				break;
		}
	}
}

/* A child pointer replaced by each kind of wrong value: every function refuses, none loops or crashes. */
Test(map, refuses_damaged_nodes)
{
	uint64_t ptr, found, old, root;
	bool left;

	set(0);
	set(512 * 512);
	root = le64_get(inode.root);
	const uint64_t wrong[] = { 1, 4, POOL_BLKS, 1ull << 48, FS_PTR_UNWRITTEN | 200, UINT64_MAX, root,
		fs_root_blk(fs) };

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct fs_inode_omf tail = { .mode = inode.mode }, copy = inode;
		struct fs_node_omf *node = fake_content(fs, root);
		le64_t saved = node->ptr[0];

		node->ptr[0] = le64_put(wrong[i]);
		op_begin(fs);
		if (wrong[i] != root) {
			cr_expect_lt(map_get(fs, &copy, 0, &ptr), 0);
			cr_expect_lt(map_next(fs, &copy, 0, &found), 0);
			cr_expect_lt(set_one(&copy, 0, 0, &old), 0);
		}
		cr_expect_lt(map_trim(fs, &copy, 0, 100, &left), 0);
		cr_expect_lt(map_split(fs, &copy, 1, &tail), 0);
		op_abort(fs, 0);
		node->ptr[0] = saved;
	}
	inode.height = le32_put(FS_HEIGHT_MAX + 1);
	cr_expect_eq(map_get(fs, &inode, 0, &ptr), -EUCLEAN);
	cr_expect_eq(map_next(fs, &inode, 0, &found), -EUCLEAN);
}

Test(map, empty_nodes_do_not_make_a_search_endless)
{
	struct fs_node_omf *node;
	uint64_t found;
	bool left;

	set(TOP - 1);
	node = fake_content(fs, le64_get(inode.root));
	/* The root's pointers all name one node, which names itself: 512^4 visits for who does not look out. */
	for (unsigned i = 0; i < FS_NODE_PTRS; i++)
		node->ptr[i] = node->ptr[FS_NODE_PTRS - 1];
	memset(fake_content(fs, le64_get(node->ptr[0])), 0, MEDIA_BLOCK_BYTES);
	cr_expect_eq(map_next(fs, &inode, 0, &found), -EUCLEAN);
	op_begin(fs);
	cr_expect_eq(map_trim(fs, &inode, 0, 10, &left), -EUCLEAN);
	op_abort(fs, 0);
}
