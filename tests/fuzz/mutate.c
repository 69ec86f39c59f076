/* See mutate.h. */
#include "mutate.h"

#include <string.h>
#include "csum.h"
#include "fsmedia.h"

#define BLK MEDIA_BLOCK_BYTES
#define REC_MAX (MEDIA_RING_BYTES_MIN / REDO_RING_SHARE)
#define MUTATIONS_MAX 6u
#define CONTENTS_MAX 256u

static struct {
	uint8_t *base;
	const struct pool_image *image;
	struct draw *d;
} m;

static uint32_t choose(uint32_t below)
{
	return draw(m.d, below);
}

/* ---------------------------------------------------------------- values */
static uint64_t any_block(void)
{
	const struct media_geom *g = &m.image->geom;

	switch (choose(8)) {
	case 0: return g->blk_count;
	case 1: return g->blk_count - 1;
	case 2: return g->group0_blk + MEDIA_GROUP_META_BLKS;
	case 3: return choose((uint32_t)g->blk_count);
	default: return m.image->used[choose(m.image->used_count)];
	}
}

static uint64_t any_value(uint64_t old)
{
	switch (choose(14)) {
	case 0: return 0;
	case 1: return UINT64_MAX;
	case 2: return old + 1;
	case 3: return old - 1;
	case 4: return old ^ 1ull << choose(64);
	case 5: return 1ull << choose(64);
	case 6: return (1ull << choose(64)) - 1;
	case 7: return choose(256);
	case 8: return choose(1u << 16);
	case 9: return (uint64_t)choose(1u << 16) << choose(48);
	case 10: return old << 1;
	default: return any_block();
	}
}

/* Changes one field of 1, 2, 4 or 8 bytes in len bytes at p; most often one that is not zero. */
static void change(uint8_t *p, uint32_t len)
{
	uint32_t width = 1u << choose(4), off = choose(len / width) * width;
	uint64_t value = 0;

	if (choose(4))
		for (uint32_t i = 0; i < len / 8 && value == 0; i++) {
			memcpy(&value, p + (off & ~7u), 8);
			if (!value)
				off = (off + 8) % (len & ~7u);
		}
	value = 0;
	memcpy(&value, p + off, width);
	value = any_value(value);
	memcpy(p + off, &value, width);
}

/* ---------------------------------------------------------------- structures in place */
static uint8_t *at_block(uint64_t blk)
{
	return m.base + media_off(blk);
}

/* The block's entry again, right for what it holds now. */
static void entry_repair(uint64_t blk)
{
	uint8_t *at = m.base + media_entry_off(&m.image->geom, blk);
	struct media_entry_omf omf;
	struct copy_entry entry;

	memcpy(&omf, at, sizeof(omf));
	if (copy_entry_decode(blk, &omf, &entry) || entry.type == MEDIA_FREE || entry.type == MEDIA_UNWRITTEN)
		return;
	entry.csum = csum_crc32c(0, at_block(blk), BLK);
	copy_entry_encode(blk, &entry, &omf);
	memcpy(at, &omf, sizeof(omf));
}

static void change_metadata(void)
{
	uint64_t blk;

	if (!m.image->meta_count)
		return;
	blk = m.image->meta[choose(m.image->meta_count)];
	for (unsigned n = choose(3) + 1; n; n--)
		change(at_block(blk), BLK);
	entry_repair(blk);
}

/* The state block and what it leads to are few among many. */
static void change_state(void)
{
	uint64_t blk = m.image->geom.group0_blk + MEDIA_GROUP_META_BLKS;

	change(at_block(blk), choose(2) ? 64 : BLK);
	entry_repair(blk);
}

static void change_inode(void)
{
	for (unsigned tries = 0; tries < 64 && m.image->meta_count; tries++) {
		uint64_t blk = m.image->meta[choose(m.image->meta_count)];
		struct media_entry_omf omf;

		memcpy(&omf, m.base + media_entry_off(&m.image->geom, blk), sizeof(omf));
		if ((le64_get(omf.seq_type) & 0xff) != FS_ITAB_LEAF)
			continue;
		change(at_block(blk) + choose(FS_INODES_PER_BLOCK) * FS_INODE_BYTES, FS_INODE_BYTES);
		entry_repair(blk);
		return;
	}
}

/* One metadata block becomes another one's twin. */
static void copy_metadata(void)
{
	uint64_t to;

	if (!m.image->meta_count)
		return;
	to = m.image->meta[choose(m.image->meta_count)];
	memmove(at_block(to), at_block(m.image->meta[choose(m.image->meta_count)]), BLK);
	entry_repair(to);
}

static void change_entry(void)
{
	uint64_t blk = choose(4) ? m.image->used[choose(m.image->used_count)] : any_block();
	struct media_entry_omf omf;
	struct copy_entry entry;
	uint8_t *at;

	if (!media_blk_valid(&m.image->geom, blk))
		return;
	at = m.base + media_entry_off(&m.image->geom, blk);
	memcpy(&omf, at, sizeof(omf));
	if (copy_entry_decode(blk, &omf, &entry))
		return;
	switch (choose(3)) {
	case 0: entry.type = choose(MEDIA_TYPE_MAX + 1); break;
	case 1: entry.seq = any_value(entry.seq) & MEDIA_SEQ_MAX; break;
	default: entry.csum = (uint32_t)any_value(entry.csum); break;
	}
	copy_entry_encode(blk, &entry, &omf);
	memcpy(at, &omf, sizeof(omf));
}

static void change_summary(void)
{
	uint8_t *at = at_block(m.image->geom.group0_blk);
	struct media_summary_omf omf;
	uint64_t seq;
	uint32_t used;

	memcpy(&omf, at, sizeof(omf));
	if (copy_summary_decode(0, &omf, &seq, &used))
		return;
	if (choose(2))
		used = (uint32_t)(any_value(used) % (MEDIA_GROUP_BLKS - MEDIA_GROUP_META_BLKS + 1));
	else
		seq = any_value(seq) & MEDIA_SEQ_MAX;
	copy_summary_encode(0, seq, used, &omf);
	memcpy(at, &omf, sizeof(omf));
}

static void sb_seal(uint64_t blk)
{
	struct media_sb_omf sb;

	memcpy(&sb, at_block(blk), sizeof(sb));
	sb.csum = le32_put(csum_crc32c(0, &sb, offsetof(struct media_sb_omf, csum)));
	memcpy(at_block(blk), &sb, sizeof(sb));
}

static void change_superblock(void)
{
	uint64_t blk = choose(2) ? MEDIA_SB_A_BLK : MEDIA_SB_B_BLK;

	change(at_block(blk) + 8, 136);
	sb_seal(blk);
	if (choose(2)) { /* both tell the same, but for their generation */
		uint64_t other = blk ^ 1;
		struct media_sb_omf sb;
		le64_t generation;

		memcpy(&sb, at_block(other), sizeof(sb));
		generation = sb.generation;
		memcpy(&sb, at_block(blk), sizeof(sb));
		sb.generation = generation;
		memcpy(at_block(other), &sb, sizeof(sb));
		sb_seal(other);
	}
}

static void change_page(void)
{
	uint8_t *at = at_block(MEDIA_PAGE_BLK) + choose(2) * MEDIA_PAGE_SLOT_BYTES;
	struct media_page_omf omf;

	change(at + 8, 88);
	memcpy(&omf, at, sizeof(omf));
	omf.csum = le32_put(csum_crc32c(0, &omf, offsetof(struct media_page_omf, csum)));
	memcpy(at, &omf, sizeof(omf));
}

/* Without any repair. */
static void flip(void)
{
	uint64_t blk = choose(2) ? m.image->used[choose(m.image->used_count)] : choose((uint32_t)m.image->geom.blk_count);

	at_block(blk)[choose(BLK)] ^= (uint8_t)(1u << choose(8));
}

/* ---------------------------------------------------------------- what a repair mends */
static bool entry_get(uint64_t blk, struct copy_entry *entry)
{
	struct media_entry_omf omf;

	if (!media_blk_valid(&m.image->geom, blk))
		return false;
	memcpy(&omf, m.base + media_entry_off(&m.image->geom, blk), sizeof(omf));
	return !copy_entry_decode(blk, &omf, entry);
}

/* A free block is in use by its entry: nobody owns it, and no count knows of it. */
static void plant_leak(void)
{
	uint64_t blk = m.image->geom.blk_count - 1 - choose(256);
	struct media_entry_omf omf;
	struct copy_entry entry;

	if (!entry_get(blk, &entry) || entry.type != MEDIA_FREE)
		return;
	entry = (struct copy_entry){ .seq = m.image->tail.seq, .csum = csum_crc32c(0, at_block(blk), BLK),
				     .type = choose(4) ? MEDIA_DATA : FS_MAP_NODE };
	copy_entry_encode(blk, &entry, &omf);
	memcpy(m.base + media_entry_off(&m.image->geom, blk), &omf, sizeof(omf));
}

/* An inode in place, whose block is to be repaired; NULL: the way to it is not as it was. */
static struct fs_inode_omf *inode_at(uint64_t ino, uint64_t *blk)
{
	const struct fs_state_omf *state = (const void *)at_block(m.image->geom.group0_blk + MEDIA_GROUP_META_BLKS);
	uint64_t idx = ino / FS_INODES_PER_BLOCK;
	struct copy_entry entry;

	*blk = le64_get(state->itab_root);
	if (le32_get(state->itab_height) == 1 && idx < FS_NODE_PTRS && media_blk_valid(&m.image->geom, *blk))
		*blk = le64_get(((const struct fs_node_omf *)at_block(*blk))->ptr[idx]);
	else if (le32_get(state->itab_height) || idx)
		return NULL;
	if (!entry_get(*blk, &entry) || entry.type != FS_ITAB_LEAF)
		return NULL;
	return (struct fs_inode_omf *)at_block(*blk) + ino % FS_INODES_PER_BLOCK;
}

static void plant_links(void)
{
	uint64_t blk;
	struct fs_inode_omf *inode = inode_at(FS_ROOT_INO + choose(40), &blk);

	if (!inode || !le32_get(inode->mode))
		return;
	inode->nlink = le32_put(choose(4) ? choose(5) : (uint32_t)any_value(le32_get(inode->nlink)));
	entry_repair(blk);
}

/* A leaf of names; more often the root's, where each inode has one name only. 0: none. */
static uint64_t any_leaf(void)
{
	struct copy_entry entry;
	uint64_t blk;
	const struct fs_inode_omf *root = choose(3) ? inode_at(FS_ROOT_INO, &blk) : NULL;

	if (root && !le32_get(root->height))
		blk = le64_get(root->root);
	else
		blk = m.image->meta_count ? m.image->meta[choose(m.image->meta_count)] : 0;
	return entry_get(blk, &entry) && entry.type == FS_DIR_LEAF ? blk : 0;
}

/* A name goes, what it led to stays. */
static void plant_lost(void)
{
	uint64_t blk = any_leaf(), inode_blk, start, slots;
	struct fs_dir_leaf_omf *leaf = (struct fs_dir_leaf_omf *)at_block(blk);
	unsigned slot = choose(FS_DIR_SLOTS);
	const struct fs_dirent_omf *name;
	struct fs_inode_omf *dir;

	if (!blk)
		return;
	start = le64_get(leaf->start) & ((1ull << FS_DIR_SLOTS) - 1);
	dir = inode_at(le64_get(leaf->ino), &inode_blk);
	if (!dir || !(start & (start - 1)))
		return;
	while (!(start >> slot & 1))
		slot = (slot + 1) % FS_DIR_SLOTS;
	name = (const struct fs_dirent_omf *)leaf->slots[slot];
	slots = (FS_DIRENT_HEAD_BYTES + name->name_len + MEDIA_LINE_BYTES - 1) / MEDIA_LINE_BYTES;
	leaf->start = le64_put(start & ~(1ull << slot));
	leaf->used = le64_put(le64_get(leaf->used) & ~(((1ull << slots) - 1) << slot));
	dir->entries = le64_put(le64_get(dir->entries) - 1);
	dir->size = le64_put(le64_get(dir->size) - MEDIA_LINE_BYTES);
	entry_repair(blk);
	entry_repair(inode_blk);
}

/* ---------------------------------------------------------------- records */
static _Alignas(64) uint8_t rec[REC_MAX];

static void rec_load(unsigned idx)
{
	uint64_t pos = m.image->recs[idx].pos, ring = m.image->geom.ring_bytes;
	uint32_t len = m.image->recs[idx].len, first = pos + len > ring ? (uint32_t)(ring - pos) : len;

	memcpy(rec, m.base + media_ring_off(pos), first);
	memcpy(rec + first, m.base + media_ring_off(0), len - first);
}

static void rec_store(unsigned idx)
{
	uint64_t pos = m.image->recs[idx].pos, ring = m.image->geom.ring_bytes;
	uint32_t len = m.image->recs[idx].len, first = pos + len > ring ? (uint32_t)(ring - pos) : len;

	memcpy(m.base + media_ring_off(pos), rec, first);
	memcpy(m.base + media_ring_off(0), rec + first, len - first);
}

/* A record, as far as its lists lie within it. */
struct rec_lists {
	struct redo_run_omf *linked, *freed;
	struct redo_lines_omf *lines;
	le32_t *csums;
	uint8_t *line_bytes;
	uint32_t linked_runs, linked_blks, freed_runs, line_blks, line_count;
};

static bool rec_lists(struct rec_lists *l, uint32_t len)
{
	const struct redo_hdr_omf *hdr = (const struct redo_hdr_omf *)rec;
	uint64_t bytes = sizeof(*hdr);

	l->linked_runs = le32_get(hdr->linked_runs);
	l->linked_blks = le32_get(hdr->linked_blks);
	l->freed_runs = le32_get(hdr->freed_runs);
	l->line_blks = le32_get(hdr->line_blks);
	l->line_count = le32_get(hdr->line_count);
	l->linked = (struct redo_run_omf *)(rec + bytes);
	bytes += (uint64_t)l->linked_runs * sizeof(*l->linked);
	l->freed = (struct redo_run_omf *)(rec + (bytes < len ? bytes : 0));
	bytes += (uint64_t)l->freed_runs * sizeof(*l->freed);
	l->lines = (struct redo_lines_omf *)(rec + (bytes < len ? bytes : 0));
	bytes += (uint64_t)l->line_blks * sizeof(*l->lines);
	l->csums = (le32_t *)(rec + (bytes < len ? bytes : 0));
	bytes += (uint64_t)l->linked_blks * sizeof(*l->csums);
	bytes = (bytes + MEDIA_LINE_BYTES - 1) / MEDIA_LINE_BYTES * MEDIA_LINE_BYTES;
	l->line_bytes = rec + (bytes < len ? bytes : 0);
	return bytes + (uint64_t)l->line_count * MEDIA_LINE_BYTES == len;
}

/* One field of one of its parts. */
static void change_record(void)
{
	struct rec_lists l;
	unsigned idx;
	uint32_t len;

	if (!m.image->rec_count)
		return;
	idx = choose(m.image->rec_count);
	len = m.image->recs[idx].len;
	rec_load(idx);
	if (!rec_lists(&l, len))
		return;
	switch (choose(6)) {
	case 0: change(rec + 16, 72); break;
	case 1:
		if (l.linked_runs)
			change((uint8_t *)&l.linked[choose(l.linked_runs)], sizeof(*l.linked));
		break;
	case 2:
		if (l.freed_runs)
			change((uint8_t *)&l.freed[choose(l.freed_runs)], sizeof(*l.freed));
		break;
	case 3:
		if (l.line_blks)
			change((uint8_t *)&l.lines[choose(l.line_blks)], sizeof(*l.lines));
		break;
	default:
		if (l.line_count)
			change(l.line_bytes, l.line_count * MEDIA_LINE_BYTES);
		break;
	}
	rec_store(idx);
}

/* ---------------------------------------------------------------- what records leave behind */
static struct {
	unsigned count;
	uint64_t blk[CONTENTS_MAX];
	uint8_t bytes[CONTENTS_MAX][BLK];
} contents;

static unsigned content_find(uint64_t blk)
{
	unsigned i = 0;

	while (i < contents.count && contents.blk[i] != blk)
		i++;
	return i;
}

static uint8_t *content_get(uint64_t blk)
{
	unsigned i = content_find(blk);

	if (i == CONTENTS_MAX)
		return NULL;
	if (i == contents.count) {
		contents.count++;
		contents.blk[i] = blk;
		memcpy(contents.bytes[i], at_block(blk), BLK);
	}
	return contents.bytes[i];
}

static void freed_forget(const struct rec_lists *l)
{
	for (uint32_t i = 0; i < l->freed_runs; i++)
		for (unsigned k = 0; k < contents.count; k++)
			if (contents.blk[k] - le64_get(l->freed[i].blk) < le32_get(l->freed[i].count))
				memcpy(contents.bytes[k], at_block(contents.blk[k]), BLK);
}

static bool lines_repair(struct rec_lists *l, uint32_t len)
{
	const uint8_t *from = l->line_bytes, *end = rec + len;

	for (uint32_t i = 0; i < l->line_blks; i++) {
		uint64_t blk = le64_get(l->lines[i].blk), mask = le64_get(l->lines[i].mask);
		uint8_t *to = blk < m.image->geom.blk_count ? content_get(blk) : NULL;

		if (!to)
			return false;
		for (; mask; mask &= mask - 1, from += MEDIA_LINE_BYTES) {
			if (from == end)
				return false;
			memcpy(to + (size_t)__builtin_ctzll(mask) * MEDIA_LINE_BYTES, from, MEDIA_LINE_BYTES);
		}
		l->lines[i].csum = le32_put(csum_crc32c(0, to, BLK));
	}
	return true;
}

static void links_repair(struct rec_lists *l)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < l->linked_runs; i++)
		for (uint32_t k = 0; k < le32_get(l->linked[i].count) && n < l->linked_blks; k++, n++) {
			uint64_t blk = le64_get(l->linked[i].blk) + k;
			unsigned c = content_find(blk);

			if (le32_get(l->linked[i].type) == MEDIA_UNWRITTEN || blk >= m.image->geom.blk_count)
				l->csums[n] = le32_put(0);
			else
				l->csums[n] = le32_put(csum_crc32c(
					0, c < contents.count ? contents.bytes[c] : at_block(blk), BLK));
		}
}

/* All records again, oldest first. */
static void records_repair(void)
{
	struct hash128 hash = m.image->tail.hash;
	struct rec_lists l;

	contents.count = 0;
	for (unsigned i = 0; i < m.image->rec_count; i++) {
		struct redo_hdr_omf *hdr = (struct redo_hdr_omf *)rec;
		uint32_t len = m.image->recs[i].len;

		rec_load(i);
		if (rec_lists(&l, len)) {
			freed_forget(&l);
			if (lines_repair(&l, len))
				links_repair(&l);
		}
		memcpy(hdr->prev_hash, hash.b, sizeof(hdr->prev_hash));
		hdr->csum = le32_put(0);
		hdr->csum = le32_put(csum_crc32c(0, rec, len));
		hash = csum_hash128(rec, len);
		rec_store(i);
	}
}

static void change_any(void)
{
	switch (choose(19)) {
	case 0: change_state(); break;
	case 1: change_entry(); break;
	case 2: change_summary(); break;
	case 3: change_superblock(); break;
	case 4: change_page(); break;
	case 5: flip(); break;
	case 6: copy_metadata(); break;
	case 7:
	case 8:
	case 9: change_inode(); break;
	case 10:
	case 11:
	case 12: change_record(); break;
	case 13: plant_leak(); break;
	case 14: plant_links(); break;
	case 15: plant_lost(); break;
	default: change_metadata(); break;
	}
}

/* No more than what a repair mends. */
static void change_gently(void)
{
	switch (choose(4)) {
	case 0: change_summary(); break;
	case 1: plant_leak(); break;
	case 2: plant_links(); break;
	default: plant_lost(); break;
	}
}

void mutate(uint8_t *base, const struct pool_image *image, struct draw *d, bool gently)
{
	unsigned count;

	m.base = base;
	m.image = image;
	m.d = d;
	count = choose(MUTATIONS_MAX + 1);
	for (unsigned i = 0; i < count; i++)
		(gently ? change_gently : change_any)();
	if (count && image->rec_count && choose(16) != 1)
		records_repair();
}
