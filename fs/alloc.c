/* See alloc.h. A group's bitmap is built when the group is first used; from then on it is the truth, ahead of the block table
 * by what is staged, linked or pending. A block freed in a group not looked at yet loads it first, while the table still
 * says used.
 *
 * Invariants: alloc.free counts the clear bits of all groups, those not looked at yet by their table; alloc.backed
 * those of groups looked at alone; wait_ack is ordered by freed_by, because commits settle in order. */
#include "alloc.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include "errmsg.h"
#include "fs_impl.h"
#include "log.h"

#define WORD_BITS 64u
#define RETRY_NS 1000000000ull
#define ROOMY_SHARE 8u       /* a group with 1/this of its blocks free is gone through again */
#define CLEAR_SHARE 4u       /* ... with at most 1/this of them in use, before any group is begun that was not in use yet */
#define WAIT_ACK_SLACK 1024u /* settled entries at the front before the list is moved down */

int alloc_init(struct fs *fs)
{
	struct alloc *a = &fs->alloc;

	a->groups = calloc(fs->geom.group_count, sizeof(*a->groups));
	if (!a->groups)
		return -ENOMEM;
	for (uint64_t g = 0; g < fs->geom.group_count; g++) {
		a->groups[g].len = (uint32_t)media_group_len(&fs->geom, g);
		a->total += a->groups[g].len - MEDIA_GROUP_META_BLKS;
	}
	if (copy_used_blks(fs->copy) > a->total)
		return errmsg_set(-EBADMSG, "superblock: %llu blocks in use, the pool has %llu",
				  (unsigned long long)copy_used_blks(fs->copy), (unsigned long long)a->total);
	a->free = a->total - copy_used_blks(fs->copy);
	a->data_blk = a->meta_blk = fs->geom.group0_blk + MEDIA_GROUP_META_BLKS;
	a->wait_tail_min = UINT64_MAX;
	return 0;
}

void alloc_fini(struct fs *fs)
{
	struct alloc *a = &fs->alloc;

	for (uint64_t g = 0; a->groups && g < fs->geom.group_count; g++)
		free(a->groups[g].used);
	free(a->groups);
	vec_free(&a->wait_ack);
	vec_free(&a->wait_tail);
}

/* ---------------------------------------------------------------- bitmaps */

static bool bit_get(const uint64_t *map, uint32_t i)
{
	return map[i / WORD_BITS] >> (i % WORD_BITS) & 1;
}

static void bit_set(uint64_t *map, uint32_t i)
{
	map[i / WORD_BITS] |= 1ull << (i % WORD_BITS);
}

static void bit_clear(uint64_t *map, uint32_t i)
{
	map[i / WORD_BITS] &= ~(1ull << (i % WORD_BITS));
}

/* First clear bit in [from, len), or len. */
static uint32_t bit_find_clear(const uint64_t *map, uint32_t from, uint32_t len)
{
	while (from < len) {
		uint64_t word = ~map[from / WORD_BITS] >> (from % WORD_BITS);

		if (word) {
			from += (uint32_t)__builtin_ctzll(word);
			return from < len ? from : len;
		}
		from = (from / WORD_BITS + 1) * WORD_BITS;
	}
	return len;
}

/* Bits of one group from its table. */
static int group_fill(struct fs *fs, uint64_t g, uint64_t *used, uint32_t *free_count)
{
	uint64_t first = media_group_blk(&fs->geom, g);
	const struct media_entry_omf *table = pm_ptr(fs->pm, media_off(first + 1));
	uint32_t len = fs->alloc.groups[g].len, count = 0;
	struct copy_entry entry;

	for (uint32_t i = 0; i < MEDIA_GROUP_META_BLKS; i++)
		bit_set(used, i);
	for (uint32_t i = MEDIA_GROUP_META_BLKS; i < len; i++) {
		int err;

		if (table[i].seq_type.le == 0 && table[i].check.le == 0) {
			count++;
			continue;
		}
		err = copy_entry_decode(first + i, &table[i], &entry);
		if (err) /* of a block that a record touches, which is taken over behind this (recover.c) */
			err = copy_entry_get_torn(fs->copy, first + i, &entry);
		if (err)
			return err;
		if (entry.type == MEDIA_FREE)
			count++;
		else
			bit_set(used, i);
	}
	*free_count = count;
	return 0;
}

/* The one count against the other: entries that read as zeros say free by themselves, and only this tells that they are lost. */
static int counts_compare(uint64_t g, int64_t told, int64_t used)
{
	if (told == used)
		return 0;
	return errmsg_set(-EBADMSG, "group %llu: %lld blocks in use by its summary, %lld by its table", (unsigned long long)g,
			  (long long)told, (long long)used);
}

static int summary_load(struct fs *fs, uint64_t g, uint32_t free_count)
{
	struct group *group = &fs->alloc.groups[g];
	uint32_t told;
	int err = copy_summary_get(fs->copy, g, &group->told_seq, &told);

	if (err) /* torn by a checkpoint that was cut off; lines alone do that, too, and no group is loaded for them */
		err = copy_summary_get_torn(fs->copy, g, &group->told_seq, &told);
	group->told = told;
	if (err || fs->alloc.recovering)
		return err;
	/* no record that waited when the pool was opened links or frees in it: neither count is ahead of the other */
	return counts_compare(g, told, (int64_t)group->len - MEDIA_GROUP_META_BLKS - free_count);
}

static int group_load(struct fs *fs, uint64_t g)
{
	struct group *group = &fs->alloc.groups[g];
	uint64_t *used;
	int err;

	if (group->used)
		return 0;
	err = copy_back_group(fs->copy, g);
	if (err)
		return err;
	used = calloc(2 * MEDIA_GROUP_BLKS / WORD_BITS, sizeof(*used));
	if (!used)
		return -ENOMEM;
	err = group_fill(fs, g, used, &group->free);
	if (!err)
		err = summary_load(fs, g, group->free);
	if (err) {
		free(used);
		return err;
	}
	group->used = used;
	group->leaving = used + MEDIA_GROUP_BLKS / WORD_BITS;
	group->full = group->free == 0;
	fs->alloc.backed += group->free;
	return 0;
}

/* Whether the group may have a free block, without loading it. */
static int group_has_room(struct fs *fs, uint64_t g, bool *room)
{
	struct group *group = &fs->alloc.groups[g];
	uint64_t seq;
	uint32_t used;
	int err;

	*room = !group->full;
	if (group->used || group->full)
		return 0;
	err = copy_back_group(fs->copy, g);
	if (err)
		return err;
	if (copy_summary_get(fs->copy, g, &seq, &used) == 0)
		group->full = used >= group->len - MEDIA_GROUP_META_BLKS;
	else /* torn by a checkpoint that was cut off: the table tells. Damaged: nothing a checkpoint could count from later */
		err = copy_summary_get_torn(fs->copy, g, &seq, &used);
	*room = !group->full;
	return err;
}

/* ---------------------------------------------------------------- giving out */

/* In a sparse pool only what has space behind it counts, so that what is kept back and reserved can be relied on. */
static uint64_t alloc_usable(const struct fs *fs, enum alloc_class class)
{
	const struct alloc *a = &fs->alloc;
	uint64_t free = fs->pm->populate ? a->backed : a->free, keep = 0;

	if (class == ALLOC_OVER)
		keep = a->reserved + ALLOC_KEEP / 2;
	else if (class != ALLOC_FREE)
		keep = a->reserved + ALLOC_KEEP;
	return free > keep ? free - keep : 0;
}

/* First free block of a group at or behind idx. */
static bool group_search(struct fs *fs, uint64_t g, uint32_t idx, uint64_t *blk)
{
	const struct group *group = &fs->alloc.groups[g];
	uint32_t i = group->full || !group->used ? group->len : bit_find_clear(group->used, idx, group->len);

	if (i == group->len)
		return false;
	*blk = media_group_blk(&fs->geom, g) + i;
	return true;
}

/* Whether a group in use has enough free blocks to be worth going through again. */
static bool group_is_roomy(const struct group *group)
{
	return group->used && group->free >= group->len / ROOMY_SHARE;
}

/* Whether it is nearly empty again: no other has longer rows of free blocks. */
static bool group_is_clear(const struct group *group)
{
	return group->used && group->free >= group->len - group->len / CLEAR_SHARE;
}

/* First free block of the lowest group that has the quality. */
static bool search_groups(struct fs *fs, bool (*quality)(const struct group *group), uint64_t *blk)
{
	for (uint64_t g = 0; g < fs->geom.group_count; g++)
		if (quality(&fs->alloc.groups[g]) && group_search(fs, g, 0, blk))
			return true;
	return false;
}

/* A group not looked at yet that has room, loaded. -ENOSPC: none. */
static int search_unseen(struct fs *fs, uint64_t *blk)
{
	for (uint64_t g = 0; g < fs->geom.group_count; g++) {
		bool room;
		int err;

		if (fs->alloc.groups[g].used)
			continue;
		err = group_has_room(fs, g, &room);
		if (!err && room)
			err = group_load(fs, g);
		if (err)
			return err;
		if (room && group_search(fs, g, 0, blk))
			return 0;
	}
	return -ENOSPC;
}

/* Free blocks for the class, at least want if there are that many. A sparse pool takes another group into use for them; when
 * its file system is full, that is tried again RETRY_NS later. */
static uint64_t alloc_obtain(struct fs *fs, enum alloc_class class, uint64_t want)
{
	struct alloc *a = &fs->alloc;
	uint64_t usable = alloc_usable(fs, class), blk;

	while (fs->pm->populate && usable < want && a->backed < a->free && fs_clock_ns() >= a->retry_ns) {
		int err = search_unseen(fs, &blk);

		if (err) {
			log_warn("sparse pool: no further group can be used: %s: %s", errmsg_get(), strerror(-err));
			a->retry_ns = fs_clock_ns() + RETRY_NS;
		}
		usable = alloc_usable(fs, class);
	}
	return usable;
}

/* Finds a free block near `from`. Memory that was in use lately is warm (page tables, caches) and a group already looked at costs
 * nothing, so that groups in use are gone through again, from the lowest, before a new one is begun. The group that
 * follows in the pool is begun all the same when those in use have their free blocks scattered. */
static int alloc_search(struct fs *fs, uint64_t from, uint64_t *blk)
{
	uint64_t home = media_group_of(&fs->geom, from);
	bool sparse = fs->pm->populate; /* then alloc_obtain has taken groups into use as needed */
	bool begun = fs->alloc.groups[home].used;
	int err;

	if (!begun && search_groups(fs, group_is_clear, blk))
		return 0;
	err = sparse && !begun ? -ENOSPC : group_load(fs, home);
	if (err && err != -ENOSPC)
		return err;
	if (!err && group_search(fs, home, (uint32_t)(from - media_group_blk(&fs->geom, home)), blk))
		return 0;
	if (search_groups(fs, group_is_roomy, blk))
		return 0;
	err = sparse ? -ENOSPC : search_unseen(fs, blk);
	if (err != -ENOSPC)
		return err;
	for (uint64_t g = 0; g < fs->geom.group_count; g++)
		if (group_search(fs, g, 0, blk))
			return 0;
	return -ENOSPC;
}

static void alloc_mark(struct fs *fs, uint64_t blk)
{
	uint64_t g = media_group_of(&fs->geom, blk);
	struct group *group = &fs->alloc.groups[g];
	uint32_t i = (uint32_t)(blk - media_group_blk(&fs->geom, g));

	assert(group->used);
	assert(!bit_get(group->used, i));
	bit_set(group->used, i);
	group->free--;
	group->full = group->free == 0;
	fs->alloc.free--;
	fs->alloc.backed--;
}

static void alloc_clear(struct fs *fs, uint64_t blk)
{
	uint64_t g = media_group_of(&fs->geom, blk);
	struct group *group = &fs->alloc.groups[g];
	uint32_t i = (uint32_t)(blk - media_group_blk(&fs->geom, g));

	assert(group->used);
	assert(bit_get(group->used, i));
	bit_clear(group->used, i);
	bit_clear(group->leaving, i);
	group->free++;
	group->full = false;
	fs->alloc.free++;
	fs->alloc.backed++;
}

/* Keeps a cursor inside the pool. */
static uint64_t cursor_after(struct fs *fs, uint64_t blk)
{
	return blk + 1 < fs->geom.blk_count ? blk + 1 : fs->geom.group0_blk + MEDIA_GROUP_META_BLKS;
}

int alloc_block(struct fs *fs, enum alloc_class class, uint64_t *blk)
{
	struct alloc *a = &fs->alloc;
	uint64_t *cursor = class == ALLOC_DATA ? &a->data_blk : &a->meta_blk;
	int err;

	if (!alloc_obtain(fs, class, 1))
		return -ENOSPC;
	err = alloc_search(fs, *cursor, blk);
	if (err)
		return err;
	alloc_mark(fs, *blk);
	pm_ahead(fs->pm, media_off(*blk), media_off(1));
	*cursor = cursor_after(fs, *blk);
	return 0;
}

int alloc_run(struct fs *fs, enum alloc_class class, uint64_t want, uint64_t *blk, uint64_t *got)
{
	struct alloc *a = &fs->alloc;
	uint64_t usable = alloc_obtain(fs, class, want), g, n;
	struct group *group;
	uint32_t i;
	int err;

	if (!usable)
		return -ENOSPC;
	if (want > usable)
		want = usable;
	err = alloc_search(fs, a->data_blk, blk);
	if (err)
		return err;
	g = media_group_of(&fs->geom, *blk);
	group = &a->groups[g];
	i = (uint32_t)(*blk - media_group_blk(&fs->geom, g));
	for (n = 0; n < want && i + n < group->len && !bit_get(group->used, i + (uint32_t)n); n++)
		alloc_mark(fs, *blk + n);
	*got = n;
	pm_ahead(fs->pm, media_off(*blk), media_off(n));
	a->data_blk = cursor_after(fs, *blk + n - 1);
	return 0;
}

void alloc_undo(struct fs *fs, uint64_t blk)
{
	alloc_clear(fs, blk);
}

int alloc_reserve(struct fs *fs, uint64_t blks)
{
	if (blks > alloc_obtain(fs, ALLOC_META, blks))
		return -ENOSPC;
	fs->alloc.reserved += blks;
	return 0;
}

void alloc_unreserve(struct fs *fs, uint64_t blks)
{
	assert(blks <= fs->alloc.reserved);
	fs->alloc.reserved -= blks;
}

/* ---------------------------------------------------------------- taking back */

int alloc_leave(struct fs *fs, uint64_t blk)
{
	uint64_t g = media_group_of(&fs->geom, blk);
	struct group *group = &fs->alloc.groups[g];
	uint32_t i = (uint32_t)(blk - media_group_blk(&fs->geom, g));
	int err = group_load(fs, g);

	if (err)
		return err;
	if (!bit_get(group->used, i) || bit_get(group->leaving, i))
		return errmsg_set(-EUCLEAN, "block %#llx to be freed is not in use: a pointer to it is damaged",
				  (unsigned long long)blk);
	bit_set(group->leaving, i);
	return 0;
}

void alloc_stay(struct fs *fs, uint64_t blk)
{
	uint64_t g = media_group_of(&fs->geom, blk);

	bit_clear(fs->alloc.groups[g].leaving, (uint32_t)(blk - media_group_blk(&fs->geom, g)));
}

int alloc_pend(struct fs *fs, uint64_t blk, uint64_t freed_by, uint64_t lines_seq)
{
	struct alloc *a = &fs->alloc;

	if (a->wait_ack_head > WAIT_ACK_SLACK && a->wait_ack_head > a->wait_ack.n / 2) {
		a->wait_ack.n -= a->wait_ack_head;
		memmove(a->wait_ack.v, a->wait_ack.v + a->wait_ack_head, a->wait_ack.n * sizeof(*a->wait_ack.v));
		a->wait_ack_head = 0;
	}
	return vec_push(&a->wait_ack, ((struct pending){ blk, freed_by, lines_seq }));
}

void alloc_recover_begin(struct fs *fs)
{
	fs->alloc.recovering = true;
}

int alloc_recover_count(struct fs *fs, uint64_t blk, uint64_t seq, int delta)
{
	uint64_t g = media_group_of(&fs->geom, blk);
	struct group *group = &fs->alloc.groups[g];
	int err = group_load(fs, g);

	if (!err && seq > group->told_seq)
		group->told += delta;
	return err;
}

/* All that the records touch is loaded. */
int alloc_recover_end(struct fs *fs)
{
	int err = 0;

	fs->alloc.recovering = false;
	for (uint64_t g = 0; g < fs->geom.group_count && !err; g++) {
		const struct group *group = &fs->alloc.groups[g];
		int64_t leaving = 0;

		if (!group->used)
			continue;
		for (uint32_t word = 0; word < MEDIA_GROUP_BLKS / WORD_BITS; word++)
			leaving += __builtin_popcountll(group->leaving[word]);
		err = counts_compare(g, group->told, (int64_t)group->len - MEDIA_GROUP_META_BLKS - group->free - leaving);
	}
	return err;
}

int alloc_recover_link(struct fs *fs, uint64_t blk)
{
	uint64_t g = media_group_of(&fs->geom, blk);
	struct group *group = &fs->alloc.groups[g];
	uint32_t i = (uint32_t)(blk - media_group_blk(&fs->geom, g));
	int err = group_load(fs, g);

	if (err || bit_get(group->used, i))
		return err;
	bit_set(group->used, i);
	group->free--; /* alloc.free counts it as used already: it is that of the head */
	fs->alloc.backed--;
	group->full = group->free == 0;
	return 0;
}

int alloc_recover_free(struct fs *fs, uint64_t blk, uint64_t freed_by, uint64_t lines_seq)
{
	int err = alloc_recover_link(fs, blk);

	if (!err)
		err = alloc_leave(fs, blk);
	if (err)
		return err;
	fs->alloc.free--;
	return alloc_pend(fs, blk, freed_by, lines_seq);
}

/* Blocks whose freeing commit is durable everywhere: free, unless a tail still has lines of them before it. */
static void settle_acked(struct fs *fs, uint64_t min_acked, uint64_t min_tail)
{
	struct alloc *a = &fs->alloc;

	while (a->wait_ack_head < a->wait_ack.n) {
		struct pending *p = &a->wait_ack.v[a->wait_ack_head];

		if (p->freed_by > min_acked)
			return;
		if (p->lines_seq <= min_tail) {
			alloc_clear(fs, p->blk);
		} else {
			if (vec_push(&a->wait_tail, *p))
				return; /* no memory: it stays where it is until the next settling */
			if (p->lines_seq < a->wait_tail_min)
				a->wait_tail_min = p->lines_seq;
		}
		a->wait_ack_head++;
	}
	a->wait_ack_head = a->wait_ack.n = 0;
}

static void settle_tail(struct fs *fs, uint64_t min_tail)
{
	struct alloc *a = &fs->alloc;
	size_t kept = 0;

	if (a->wait_tail_min > min_tail)
		return;
	a->wait_tail_min = UINT64_MAX;
	for (size_t i = 0; i < a->wait_tail.n; i++) {
		struct pending p = a->wait_tail.v[i];

		if (p.lines_seq <= min_tail) {
			alloc_clear(fs, p.blk);
			continue;
		}
		a->wait_tail.v[kept++] = p;
		if (p.lines_seq < a->wait_tail_min)
			a->wait_tail_min = p.lines_seq;
	}
	a->wait_tail.n = kept;
}

void alloc_settle(struct fs *fs, uint64_t min_acked, uint64_t min_tail)
{
	settle_tail(fs, min_tail);
	settle_acked(fs, min_acked, min_tail);
}

uint64_t alloc_free_blks(const struct fs *fs)
{
	return fs->alloc.free;
}

uint64_t alloc_pending_blks(const struct fs *fs)
{
	return fs->alloc.wait_ack.n - fs->alloc.wait_ack_head + fs->alloc.wait_tail.n;
}

uint64_t alloc_total_blks(const struct fs *fs)
{
	return fs->alloc.total;
}
