/* Recovery of what may not be applied in place yet: records of the ring that a copy not released lacks. They stay in the ring, so
 * that the copy can be caught up from there, and the core continues as if the process had never ended: their lines become
 * shadows, checksums of linked blocks fresh entries, freed blocks pending.
 *
 * Content may be ahead of the tail: a process before may have been cut off while it applied some of these records. So a
 * block is checked against the newest record only, after all of them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "fs_impl.h"

struct loaded {
	struct fs *fs;
	VEC(struct pending) freed;
};

static int load_freed(struct loaded *l, const struct redo_view *v)
{
	for (uint32_t i = 0; i < v->freed_runs; i++) {
		uint64_t blk = le64_get(v->freed[i].blk), end = blk + le32_get(v->freed[i].count);

		for (; blk < end; blk++) {
			struct shadow *s = shadow_find(l->fs, blk);
			struct pending p = { .blk = blk, .freed_by = v->seq, .lines_seq = s ? s->lines_seq : 0 };
			int err = vec_push(&l->freed, p);

			if (!err)
				err = alloc_recover_count(l->fs, blk, v->seq, -1);
			if (err)
				return err;
			fresh_delete(l->fs, blk);
			if (s)
				shadow_delete(l->fs, s);
		}
	}
	return 0;
}

static int load_linked(struct loaded *l, const struct redo_view *v)
{
	const le32_t *csum = v->csums;

	for (uint32_t i = 0; i < v->linked_runs; i++) {
		uint64_t blk = le64_get(v->linked[i].blk), end = blk + le32_get(v->linked[i].count);

		for (; blk < end; blk++, csum++) {
			struct fresh f = { .seq = v->seq, .csum = le32_get(*csum) }, there;
			int err = alloc_recover_link(l->fs, blk);

			if (!err)
				err = alloc_recover_count(l->fs, blk, v->seq, 1);
			if (!err && (shadow_find(l->fs, blk) || fresh_find(l->fs, blk, &there)))
				err = errmsg_set(-EBADMSG, "block %#llx is linked while it is in use",
						 (unsigned long long)blk);
			if (!err && le32_get(v->linked[i].type) == MEDIA_DATA)
				err = fresh_add(l->fs, blk, &f);
			if (err)
				return err;
		}
	}
	return 0;
}

static int load_lines(struct loaded *l, const struct redo_view *v)
{
	const uint8_t *bytes = v->line_bytes;

	for (uint32_t i = 0; i < v->line_blks; i++) {
		struct shadow *s;
		int err = shadow_load(l->fs, le64_get(v->lines[i].blk), le32_get(v->lines[i].type), &s);

		if (err)
			return err;
		for (uint64_t left = le64_get(v->lines[i].mask); left; left &= left - 1, bytes += MEDIA_LINE_BYTES)
			memcpy(s->content + (size_t)__builtin_ctzll(left) * MEDIA_LINE_BYTES, bytes, MEDIA_LINE_BYTES);
		s->lines_seq = v->seq;
		s->csum = le32_get(v->lines[i].csum);
		TAILQ_REMOVE(&l->fs->clean, s, list);
		TAILQ_INSERT_TAIL(&l->fs->clean, s, list);
	}
	return 0;
}

static int load_record(struct loaded *l, const struct copy_rec *rec, void *buf)
{
	struct redo_view v;
	int err;

	copy_rec_read(l->fs->copy, rec, buf);
	err = redo_parse(buf, rec->len, &l->fs->geom, &v);
	if (!err)
		err = load_freed(l, &v);
	if (!err)
		err = load_linked(l, &v);
	if (!err)
		err = load_lines(l, &v);
	return err ? errmsg_prefix(err, "commit %llu", (unsigned long long)rec->at.seq) : 0;
}

static int check_shadows(struct fs *fs)
{
	struct shadow *s;

	TAILQ_FOREACH(s, &fs->clean, list)
		if (csum_crc32c(0, s->content, MEDIA_BLOCK_BYTES) != s->csum)
			return errmsg_set(-EBADMSG, "block %#llx: content does not match commit %llu",
					  (unsigned long long)s->blk, (unsigned long long)s->lines_seq);
	return 0;
}

static int by_blk_newest_first(const void *a, const void *b)
{
	const struct pending *x = a, *y = b;

	if (x->blk != y->blk)
		return x->blk < y->blk ? -1 : 1;
	return x->freed_by > y->freed_by ? -1 : x->freed_by < y->freed_by;
}

static int by_seq(const void *a, const void *b)
{
	const struct pending *x = a, *y = b;

	return x->freed_by < y->freed_by ? -1 : x->freed_by > y->freed_by;
}

/* Of a block freed more than once (it was given out again between) the newest time counts. */
static void freed_unique(struct loaded *l)
{
	size_t kept = 0;

	if (l->freed.n < 2)
		return;
	qsort(l->freed.v, l->freed.n, sizeof(*l->freed.v), by_blk_newest_first);
	for (size_t i = 0; i < l->freed.n; i++)
		if (i == 0 || l->freed.v[i].blk != l->freed.v[kept - 1].blk)
			l->freed.v[kept++] = l->freed.v[i];
	l->freed.n = kept;
	qsort(l->freed.v, l->freed.n, sizeof(*l->freed.v), by_seq);
}

/* Freed blocks that no later record links again are not given out before their conditions hold. */
static int pend_freed(struct loaded *l)
{
	struct fresh f;

	freed_unique(l);
	for (size_t i = 0; i < l->freed.n; i++) {
		const struct pending *p = &l->freed.v[i];
		int err;

		if (shadow_find(l->fs, p->blk) || fresh_find(l->fs, p->blk, &f))
			continue;
		err = alloc_recover_free(l->fs, p->blk, p->freed_by, p->lines_seq);
		if (err)
			return err;
	}
	return 0;
}

int records_load(struct fs *fs)
{
	uint64_t head = copy_head(fs->copy).seq;
	struct loaded l = { .fs = fs };
	void *buf;
	int err = 0;

	if (copy_tail(fs->copy).seq == head)
		return 0;
	buf = aligned_alloc(MEDIA_LINE_BYTES, FS_RECORD_MAX(fs));
	if (!buf)
		return -ENOMEM;
	alloc_recover_begin(fs);
	for (uint64_t seq = copy_tail(fs->copy).seq + 1; seq <= head && !err; seq++)
		err = load_record(&l, copy_find(fs->copy, seq), buf);
	if (!err)
		err = check_shadows(fs);
	if (!err)
		err = pend_freed(&l);
	if (!err)
		err = alloc_recover_end(fs);
	vec_free(&l.freed);
	free(buf);
	return err;
}
