/* See cluster_rot.h. */
#include "cluster_rot.h"

#include <stdlib.h>
#include <string.h>
#include "copy.h"

#define BLKS_MAX 4096u

struct used {
	uint64_t blks[BLKS_MAX];
	unsigned count;
};

static void used_add(struct used *u, uint64_t blk)
{
	if (u->count < BLKS_MAX)
		u->blks[u->count++] = blk;
}

/* What records link comes last. */
static void used_linked(const struct copy *copy, struct used *u)
{
	uint8_t *rec = aligned_alloc(MEDIA_LINE_BYTES, copy_geom(copy)->ring_bytes);
	struct redo_view v;

	EXPLORE_MUST(rec ? 0 : -ENOMEM);
	for (uint64_t seq = copy_tail(copy).seq + 1; seq <= copy_head(copy).seq; seq++) {
		const struct copy_rec *at = copy_find(copy, seq);

		copy_rec_read(copy, at, rec);
		if (redo_parse(rec, at->len, copy_geom(copy), &v))
			continue;
		for (uint32_t i = 0; i < v.linked_runs; i++)
			for (uint32_t k = 0; k < le32_get(v.linked[i].count) && le32_get(v.linked[i].type) == MEDIA_DATA; k++)
				used_add(u, le64_get(v.linked[i].blk) + k);
	}
	free(rec);
}

static void used_find(const struct copy *copy, struct used *u)
{
	const struct media_geom *geom = copy_geom(copy);

	u->count = 0;
	for (uint64_t blk = geom->group0_blk + MEDIA_GROUP_META_BLKS; blk < geom->blk_count; blk++) {
		struct copy_entry entry;

		if (media_blk_valid(geom, blk) && !copy_entry_get(copy, blk, &entry) && entry.type != MEDIA_FREE &&
		    entry.type != MEDIA_UNWRITTEN)
			used_add(u, blk);
	}
	used_linked(copy, u);
}

static uint64_t block_pick(const struct copy *copy, enum rot_kind *kind, uint64_t *seed)
{
	static struct used u;
	unsigned newest;

	used_find(copy, &u);
	if (!u.count) {
		*kind = ROT_ANYWHERE;
		return 0;
	}
	newest = u.count < 12 ? u.count : 12;
	return media_off(u.blks[explore_random(seed) & 1 ? u.count - 1 - explore_random(seed) % newest :
							   explore_random(seed) % u.count]) +
	       explore_random(seed) % MEDIA_BLOCK_BYTES;
}

static uint64_t ring_pick(const struct copy *copy, enum rot_kind *kind, uint64_t *seed)
{
	uint64_t span = copy_head(copy).seq - copy_tail(copy).seq;
	const struct copy_rec *rec;

	if (!span) {
		*kind = ROT_ANYWHERE;
		return 0;
	}
	rec = copy_find(copy, copy_tail(copy).seq + 1 + explore_random(seed) % span);
	return media_ring_off((rec->pos + explore_random(seed) % rec->len) % copy_geom(copy)->ring_bytes);
}

static uint64_t superblock_pick(const struct pm *pm, enum rot_kind *kind, uint64_t *seed)
{
	static const uint64_t blks[] = { MEDIA_SB_A_BLK, MEDIA_SB_B_BLK };
	struct media_geom geom;

	for (unsigned i = 0; i < 2; i++)
		if (copy_sb_check(pm_ptr(pm, media_off(blks[i])), pm->len, &geom))
			*kind = ROT_ANYWHERE;
	return media_off(blks[explore_random(seed) & 1]) + explore_random(seed) % sizeof(struct media_sb_omf);
}

uint64_t rot_pick(const struct pm *pm, enum rot_kind *kind, uint64_t *seed)
{
	struct pm look;
	struct copy *copy;
	uint64_t off = 0;

	pm_init(&look, pm->base, pm->len, PM_MEMORY);
	look.observer = NULL;
	if (*kind != ROT_ANYWHERE && copy_open(&look, true, &copy)) {
		*kind = ROT_ANYWHERE;
	} else if (*kind != ROT_ANYWHERE) {
		off = *kind == ROT_BLOCK ? block_pick(copy, kind, seed) : *kind == ROT_RING ? ring_pick(copy, kind, seed) :
		      superblock_pick(pm, kind, seed);
		copy_close(copy);
	}
	if (*kind != ROT_ANYWHERE)
		return off;
	return explore_random(seed) & 1 ? pm->len / 16 + explore_random(seed) % (pm->len / 4) :
					  media_off(MEDIA_RING_BLK) + explore_random(seed) % (64u << 10);
}

bool rot_half_overwrite(struct image *image, uint64_t *seed)
{
	static struct used u;
	uint8_t bytes[MEDIA_BLOCK_BYTES];
	struct copy_page page;
	struct copy *copy;

	if (copy_open(&image->pm, false, &copy))
		return false;
	page = *copy_page(copy);
	page.state = MEDIA_INCONSISTENT;
	EXPLORE_MUST(copy_page_set(copy, &page));
	used_find(copy, &u);
	memset(bytes, 0xee, sizeof(bytes));
	for (unsigned i = 0; i < u.count; i++)
		if (explore_random(seed) & 1)
			image_poke(image, media_off(u.blks[i]), bytes, sizeof(bytes));
	copy_close(copy);
	return true;
}
