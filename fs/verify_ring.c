/* The effect of the records that wait in a copy's ring, which verify does not apply: what each block they touch is at head,
 * and by how much each of them changes a group's count of blocks in use. */
#include "verify_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct lay *lay_get(struct side *s, uint64_t blk)
{
	struct lay *lay;

	HASH_FIND(hh, s->lays, &blk, sizeof(blk), lay);
	if (lay)
		return lay;
	lay = calloc(1, sizeof(*lay));
	if (!lay)
		return NULL;
	lay->blk = blk;
	if (hash64_add(s->lays, blk, lay)) {
		free(lay);
		return NULL;
	}
	return lay;
}

/* The runs' blocks start over as type; csums NULL: zero. */
static int lay_runs(struct side *s, const struct redo_run_omf *runs, uint32_t count, const le32_t *csums)
{
	for (uint32_t i = 0; i < count; i++) {
		for (uint32_t j = 0; j < le32_get(runs[i].count); j++) {
			struct lay *lay = lay_get(s, le64_get(runs[i].blk) + j);

			if (!lay)
				return -ENOMEM;
			lay->type = le32_get(runs[i].type);
			lay->csum = csums ? le32_get(*csums++) : 0;
			lay->mask = 0;
		}
	}
	return 0;
}

/* A run lies in one group. */
static int count_runs(struct side *s, uint64_t seq, const struct redo_run_omf *runs, uint32_t count, int sign)
{
	for (uint32_t i = 0; i < count; i++) {
		int64_t blks = le32_get(runs[i].count);
		const struct change change = {
			media_group_of(&s->geom, le64_get(runs[i].blk)), seq, sign < 0 ? -blks : blks
		};

		if (vec_push(&s->changes, change))
			return -ENOMEM;
	}
	return 0;
}

static int see_record(void *arg, const struct redo_view *v)
{
	struct side *s = arg;
	const uint8_t *line = v->line_bytes;
	int err = lay_runs(s, v->linked, v->linked_runs, v->csums);

	if (!err)
		err = lay_runs(s, v->freed, v->freed_runs, NULL);
	if (!err)
		err = count_runs(s, v->seq, v->linked, v->linked_runs, 1);
	if (!err)
		err = count_runs(s, v->seq, v->freed, v->freed_runs, -1);
	for (uint32_t i = 0; i < v->line_blks && !err; i++) {
		uint64_t mask = le64_get(v->lines[i].mask);
		struct lay *lay = lay_get(s, le64_get(v->lines[i].blk));

		if (!lay)
			return -ENOMEM;
		lay->type = le32_get(v->lines[i].type);
		lay->csum = le32_get(v->lines[i].csum);
		lay->mask |= mask;
		for (; mask; mask &= mask - 1, line += MEDIA_LINE_BYTES)
			memcpy(lay->lines + (size_t)__builtin_ctzll(mask) * MEDIA_LINE_BYTES, line, MEDIA_LINE_BYTES);
	}
	return err;
}

static int ring_local(struct side *s)
{
	uint8_t *rec = aligned_alloc(MEDIA_LINE_BYTES, s->geom.ring_bytes / REDO_RING_SHARE);
	struct redo_view v;
	int err = rec ? 0 : -ENOMEM;

	for (uint64_t seq = copy_tail(s->copy).seq + 1; !err && seq <= s->head.seq; seq++) {
		const struct copy_rec *at = copy_find(s->copy, seq);

		copy_rec_read(s->copy, at, rec);
		err = redo_parse(rec, at->len, &s->geom, &v);
		if (!err)
			err = see_record(s, &v);
	}
	free(rec);
	return err;
}

int side_ring_load(struct side *s)
{
	return s->copy ? ring_local(s) : pull_walk(s->link, see_record, s);
}

void side_ring_free(struct side *s)
{
	struct lay *lay, *next;

	HASH_ITER(hh, s->lays, lay, next)
	{
		HASH_DEL(s->lays, lay);
		free(lay);
	}
	vec_free(&s->changes);
}
