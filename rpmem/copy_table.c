/* The block table and the group summaries in place: single entries and words, read and stored. When which of them is stored
 * is replay's business (replay.c) and, on a copy that is being overwritten, restore's and resync's.
 *
 * An entry is one store of 16 bytes that may be torn, a summary two of 8 bytes; each has a check of its own. What a wrong
 * check can mean while records wait in the ring is known from them. */
#include "copy_impl.h"

#include <assert.h>
#include <errno.h>
#include "errmsg.h"

typedef unsigned long long ull;

static uint64_t summary_off(const struct copy *copy, uint64_t group)
{
	return media_off(media_group_blk(&copy->geom, group));
}

uint64_t copy_group_room(const struct copy *copy, uint64_t group)
{
	return media_group_len(&copy->geom, group) - MEDIA_GROUP_META_BLKS;
}

int copy_entry_get(const struct copy *copy, uint64_t blk, struct copy_entry *entry)
{
	assert(media_blk_valid(&copy->geom, blk));
	return copy_entry_decode(blk, pm_ptr(copy->pm, media_entry_off(&copy->geom, blk)), entry);
}

void copy_entry_store(struct copy *copy, uint64_t blk, const struct copy_entry *entry)
{
	struct media_entry_omf omf;

	assert(media_blk_valid(&copy->geom, blk));
	copy_entry_encode(blk, entry, &omf);
	pm_write(copy->pm, media_entry_off(&copy->geom, blk), &omf, sizeof(omf));
}

void copy_entry_put(struct copy *copy, uint64_t blk, const struct copy_entry *entry)
{
	assert(copy->page.state == MEDIA_INCONSISTENT);
	copy_entry_store(copy, blk, entry);
}

int copy_summary_get(const struct copy *copy, uint64_t group, uint64_t *seq, uint32_t *used)
{
	int err;

	assert(group < copy->geom.group_count);
	err = copy_summary_decode(group, pm_ptr(copy->pm, summary_off(copy, group)), seq, used);
	if (!err && *used > copy_group_room(copy, group))
		err = errmsg_set(-EBADMSG, "group %llu: %u used of %llu blocks", (ull)group, *used,
			(ull)copy_group_room(copy, group));
	return err;
}

/* With a wrong check it is still the old or the new word, provided that a replay that was cut off may have been here; a
 * sequence beyond what any replay reached is damage. */
int copy_summary_get_torn(const struct copy *copy, uint64_t group, uint64_t *seq, uint32_t *used)
{
	const struct media_summary_omf *omf = pm_ptr(copy->pm, summary_off(copy, group));
	uint64_t word = le64_get(omf->word);
	int err = copy_summary_get(copy, group, seq, used);

	if (!err)
		return 0;
	if (!copy->item_count || (word & 0xffff) > copy_group_room(copy, group) || word >> 16 > copy->replay_seq)
		return err;
	*used = word & 0xffff;
	*seq = word >> 16;
	return 0;
}

/* The word goes first and alone, as one 8-byte store. Power fails between it and the check: the word is the old or the
 * new one, both right for replay, which mends the check. */
void copy_summary_store(struct copy *copy, uint64_t group, uint64_t seq, uint32_t used)
{
	const size_t at = offsetof(struct media_summary_omf, check);
	struct media_summary_omf omf;

	copy_summary_encode(group, seq, used, &omf);
	pm_write(copy->pm, summary_off(copy, group), &omf.word, sizeof(omf.word));
	pm_write(copy->pm, summary_off(copy, group) + at, (const uint8_t *)&omf + at, sizeof(le64_t));
}

void copy_summary_put(struct copy *copy, uint64_t group, uint64_t seq, uint32_t used)
{
	assert(copy->page.state == MEDIA_INCONSISTENT);
	assert(group < copy->geom.group_count);
	copy_summary_store(copy, group, seq, used);
}

/* The sequence becomes the tail's: a group may be told as changed too late, never too early. */
int copy_mend_summary(struct copy *copy, uint64_t group, uint32_t used)
{
	int err = copy_writable(copy);

	if (err)
		return err;
	if (copy->item_count)
		return errmsg_set(-EBUSY, "copy: records wait in the ring");
	if (group >= copy->geom.group_count || used > copy_group_room(copy, group))
		return errmsg_set(-EINVAL, "copy: group %llu cannot have %u blocks in use", (ull)group, used);
	pm_zero(copy->pm, summary_off(copy, group) + offsetof(struct media_summary_omf, zero),
		sizeof(((struct media_summary_omf *)0)->zero));
	copy_summary_store(copy, group, copy->tail.seq, used);
	return copy_fence(copy, PM_POINT_REPAIR);
}
