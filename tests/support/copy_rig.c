/* Pools in memory for suites of redo records, copies and replay. Only what several suites share; each keeps its own
 * idea of what must come out. */
#include "copy_rig.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>

#include "errmsg.h"

void rig_init(struct rig *rig, uint64_t pool_bytes, uint64_t ring_bytes)
{
	struct copy_format fmt = { .hash_seed = 77,
		.ring_bytes = ring_bytes,
		.page = { .role = MEDIA_ROLE_PRIMARY, .state = MEDIA_CONSISTENT } };
	void *base = mmap(NULL, pool_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	cr_assert_neq(base, MAP_FAILED);
	*rig = (struct rig){ .epoch = 1 };
	pm_init(&rig->pm, base, pool_bytes, PM_MEMORY);
	memset(fmt.content_uuid, 0x5c, sizeof(fmt.content_uuid));
	cr_assert_eq(copy_format(&rig->pm, &fmt), 0, "%s", errmsg_get());
	cr_assert_eq(copy_open(&rig->pm, false, &rig->copy), 0, "%s", errmsg_get());
	rig->first = copy_geom(rig->copy)->group0_blk + MEDIA_GROUP_META_BLKS;
	cr_assert_eq(redo_builder_new(copy_geom(rig->copy)->ring_bytes / REDO_RING_SHARE,
					  copy_geom(rig->copy)->pool_seed, &rig->b), 0);
	redo_begin(rig->b);
}

void rig_fini(struct rig *rig)
{
	copy_close(rig->copy);
	redo_builder_delete(rig->b);
	munmap(rig->pm.base, rig->pm.len);
	memset(rig, 0, sizeof(*rig));
}

int rig_reopen(struct rig *rig)
{
	copy_close(rig->copy);
	rig->copy = NULL;
	return copy_open(&rig->pm, false, &rig->copy);
}

void rig_seal(struct rig *rig)
{
	struct copy_point head = copy_head(rig->copy);
	struct hash128 hash;

	cr_assert_eq(redo_finish(rig->b, head.seq + 1, rig->epoch, &head.hash, 0, &rig->rec, &rig->rec_len, &hash), 0,
		"%s", errmsg_get());
	redo_begin(rig->b);
}

int rig_commit(struct rig *rig)
{
	rig_seal(rig);
	return copy_append(rig->copy, rig->rec, rig->rec_len);
}

int rig_commit_data(struct rig *rig, uint64_t blk, uint8_t fill)
{
	uint8_t content[MEDIA_BLOCK_BYTES];

	memset(content, fill, sizeof(content));
	pm_write(&rig->pm, media_off(blk), content, sizeof(content));
	cr_assert_eq(redo_link(rig->b, blk, MEDIA_DATA, csum_crc32c(0, content, sizeof(content))), 0);
	return rig_commit(rig);
}

int rig_commit_meta(struct rig *rig, uint64_t blk, uint8_t fill)
{
	uint8_t content[MEDIA_BLOCK_BYTES];

	memset(content, fill, sizeof(content));
	cr_assert_eq(redo_link(rig->b, blk, MEDIA_META_FIRST, csum_crc32c(0, content, sizeof(content))), 0);
	cr_assert_eq(redo_lines(rig->b, blk, MEDIA_META_FIRST, UINT64_MAX, content), 0);
	return rig_commit(rig);
}

int rig_commit_line(struct rig *rig, uint64_t blk, unsigned line, uint8_t fill)
{
	uint8_t content[MEDIA_BLOCK_BYTES];

	memcpy(content, pm_ptr(&rig->pm, media_off(blk)), sizeof(content));
	memset(content + line * MEDIA_LINE_BYTES, fill, MEDIA_LINE_BYTES);
	cr_assert_eq(redo_lines(rig->b, blk, MEDIA_META_FIRST, 1ull << line, content), 0);
	return rig_commit(rig);
}

int rig_commit_free(struct rig *rig, uint64_t blk)
{
	cr_assert_eq(redo_free(rig->b, blk), 0);
	return rig_commit(rig);
}

int rig_commit_bytes(struct rig *rig, uint32_t bytes)
{
	static const uint8_t zeros[MEDIA_BLOCK_BYTES];
	uint32_t blks = 1, lines;

	cr_assert(bytes % MEDIA_LINE_BYTES == 0);
	/* 24 bytes for each line block, rounded up to lines, and the lines themselves */
	for (;; blks++) {
		uint32_t lists = (128 + blks * 24 + 63) / 64 * 64;

		if (bytes == 128)
			return rig_commit(rig);
		cr_assert_geq(bytes, lists + blks * 64);
		lines = (bytes - lists) / 64;
		if (lines <= blks * MEDIA_LINES_PER_BLOCK)
			break;
	}
	for (uint32_t i = 0; i < blks; i++) {
		uint32_t n = lines - (blks - 1 - i), take = n < 64 ? n : 64;

		cr_assert_eq(redo_lines(rig->b, rig->first + i, MEDIA_DATA,
				     take == 64 ? UINT64_MAX : (1ull << take) - 1, zeros),
			0);
		lines -= take;
	}
	cr_assert_eq(redo_bytes(rig->b), bytes);
	return rig_commit(rig);
}
