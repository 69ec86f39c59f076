/* The first step of a restore: the local parts as they are.
 *
 *   none                            the usual case
 *   a consistent copy               healthy: not overwritten unless that is asked for twice
 *   an inconsistent copy            of an earlier restore: kept open, gone on with if the source is the same
 *   no copy yet                     a restore (or mkfs) was cut off before its first superblock: made anew, nothing is lost.
 *                                   Either no commit was ever stored, or the per-copy page says so, or not even headers are whole
 *   anything else                   damaged, or somebody's: --replace */
#include "restore_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "copy.h"

/* Whether superblocks and the start of the ring are zero: no commit was ever stored there, and none restored. */
static bool never_formatted(const struct pm *pm)
{
	const uint8_t *at = pm_ptr(pm, media_off(MEDIA_SB_A_BLK));
	size_t len = media_off(MEDIA_RING_BLK - MEDIA_SB_A_BLK) + MEDIA_RING_BYTES_MIN;

	return !at[0] && !memcmp(at, at + 1, len - 1);
}

/* The per-copy page is written ahead of the superblocks and says then already whose work this is. */
static bool marked_unfinished(const struct pm *pm)
{
	uint64_t newest = 0, generation;
	bool unfinished = false;
	struct copy_page page;

	for (unsigned slot = 0; slot < 2; slot++) {
		if (copy_page_decode(pm_ptr(pm, media_off(MEDIA_PAGE_BLK) + slot * MEDIA_PAGE_SLOT_BYTES), &page, &generation) ||
			generation < newest)
			continue;
		newest = generation;
		unfinished = page.state == MEDIA_INCONSISTENT;
	}
	return unfinished;
}

/* Parts that open and hold an inconsistent copy are kept open: an earlier restore made them. */
static int look_copy(struct restore *rs)
{
	struct pm *pm = &rs->pool->pm;
	int err = copy_open(pm, false, &rs->copy);

	rs->local_blank = err && pm->len >= MEDIA_POOL_BYTES_MIN && (never_formatted(pm) || marked_unfinished(pm));
	if (err && !rs->cfg->replace && !rs->local_blank)
		return refused("the local parts hold no healthy copy (%s)\n  to overwrite them: %s", errmsg_get(),
			again(rs, "--replace").text);
	if (!err && copy_page(rs->copy)->state == MEDIA_INCONSISTENT)
		return 0;
	if (!err) {
		rs->local_healthy = true;
		rs->local_head = copy_head(rs->copy);
		memcpy(rs->local_content, copy_sb(rs->copy)->content_uuid, sizeof(rs->local_content));
	}
	copy_close(rs->copy);
	rs->copy = NULL;
	return 0;
}

/* Parts without whole headers: of a restore that was cut off while it made them, or somebody's. */
static int look_unopened(struct restore *rs)
{
	char why[ERRMSG_BYTES_MAX / 2];
	int err;

	if (rs->cfg->replace)
		return 0;
	snprintf(why, sizeof(why), "%s", errmsg_get());
	err = pool_is_unfinished(rs->set, 0, POOLHDR_FS_SIGNATURE, &rs->local_blank);
	if (err || rs->local_blank)
		return err;
	return refused("the local parts cannot be opened (%s)\n  to overwrite them: %s", why, again(rs, "--replace").text);
}

int restore_look(struct restore *rs)
{
	int err = pool_open(rs->set, 0, POOL_NOWAIT_LOCK, &rs->pool);

	if (err == -ENOENT)
		return 0; /* gone, the usual case; parts that are left are judged by pool_create */
	if (err == -EBUSY)
		return refused("the local parts are in use: %s", errmsg_get());
	if (err)
		return look_unopened(rs);
	err = look_copy(rs);
	if (!rs->copy) {
		pool_close(rs->pool);
		rs->pool = NULL;
	}
	return err;
}
