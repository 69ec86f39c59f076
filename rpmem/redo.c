/* The redo record: putting one together, and checking one that came from media or from a peer.
 *
 * The builder keeps what it is given as runs in order of arrival, so that a long sequential write costs one run while
 * it is collected, and redo_bytes is exact but for runs that only meet when sorted. redo_finish sorts, merges, seals.
 *
 * The parser believes nothing: lengths are computed in 64 bits before a list is looked at, each list is walked once,
 * and only a record that passed everything is shown to others, who then act without checks of their own. */
#include "redo.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errmsg.h"
#include "plant.h"

#define REDO_ALIGN 8u /* of records in memory: their structures are read in place */

/* --------------------------------------------------------------------------------------------------- building */

struct build_run {
	uint64_t blk;
	uint32_t count, type;
	uint32_t first; /* linked: index of its first checksum */
};

struct build_lines {
	uint64_t blk, mask;
	uint32_t type, csum;
	uint64_t first; /* index of its first line */
};

struct vec { /* grows by doubling, never shrinks */
	void *at;
	size_t count, cap, item_bytes;
};

struct redo_builder {
	uint64_t pool_seed;
	uint64_t max_bytes;
	struct vec linked, csums, freed, lines, line_bytes;
	uint8_t *rec; /* max_bytes */
};

static void *vec_add(struct vec *vec, size_t count)
{
	if (vec->count + count > vec->cap) {
		size_t cap = vec->cap ? vec->cap : 64;
		void *at;

		while (cap < vec->count + count)
			cap *= 2;
		at = reallocarray(vec->at, cap, vec->item_bytes);
		if (!at)
			return NULL;
		vec->at = at;
		vec->cap = cap;
	}
	vec->count += count;
	return (uint8_t *)vec->at + (vec->count - count) * vec->item_bytes;
}

int redo_builder_new(uint64_t max_bytes, uint64_t pool_seed, struct redo_builder **out)
{
	struct redo_builder *b = calloc(1, sizeof(*b));

	assert(max_bytes >= sizeof(struct redo_hdr_omf) && max_bytes % MEDIA_LINE_BYTES == 0);
	assert(max_bytes <= MEDIA_RING_BYTES_MAX / REDO_RING_SHARE);
	if (!b)
		return -ENOMEM;
	b->rec = aligned_alloc(MEDIA_LINE_BYTES, max_bytes);
	if (!b->rec) {
		free(b);
		return -ENOMEM;
	}
	b->max_bytes = max_bytes;
	b->pool_seed = pool_seed;
	b->linked.item_bytes = b->freed.item_bytes = sizeof(struct build_run);
	b->csums.item_bytes = sizeof(uint32_t);
	b->lines.item_bytes = sizeof(struct build_lines);
	b->line_bytes.item_bytes = MEDIA_LINE_BYTES;
	*out = b;
	return 0;
}

void redo_builder_delete(struct redo_builder *b)
{
	if (!b)
		return;
	free(b->linked.at);
	free(b->csums.at);
	free(b->freed.at);
	free(b->lines.at);
	free(b->line_bytes.at);
	free(b->rec);
	free(b);
}

void redo_begin(struct redo_builder *b)
{
	b->linked.count = b->csums.count = b->freed.count = b->lines.count = b->line_bytes.count = 0;
}

/* Extends the newest run or opens one. */
static int run_add(struct vec *vec, uint64_t blk, uint32_t type, uint32_t first)
{
	struct build_run *run;

	if (vec->count) {
		run = (struct build_run *)vec->at + vec->count - 1;
		if (run->blk + run->count == blk && run->type == type) {
			run->count++;
			return 0;
		}
	}
	run = vec_add(vec, 1);
	if (!run)
		return -ENOMEM;
	*run = (struct build_run){ .blk = blk, .count = 1, .type = type, .first = first };
	return 0;
}

int redo_link(struct redo_builder *b, uint64_t blk, uint32_t type, uint32_t csum)
{
	uint32_t *slot = vec_add(&b->csums, 1);
	int err;

	assert(type != MEDIA_FREE && type <= MEDIA_TYPE_MAX);
	assert(type != MEDIA_UNWRITTEN || csum == 0);
	if (!slot)
		return -ENOMEM;
	*slot = csum;
	err = run_add(&b->linked, blk, type, (uint32_t)(b->csums.count - 1));
	if (err)
		b->csums.count--;
	return err;
}

int redo_free(struct redo_builder *b, uint64_t blk)
{
	return run_add(&b->freed, blk, MEDIA_FREE, 0);
}

int redo_lines(struct redo_builder *b, uint64_t blk, uint32_t type, uint64_t mask, const void *content)
{
	size_t first = b->line_bytes.count;
	const uint8_t *from = content;
	uint8_t *to = vec_add(&b->line_bytes, (size_t)__builtin_popcountll(mask));
	struct build_lines *lines = to ? vec_add(&b->lines, 1) : NULL;

	assert(mask);
	assert(type != MEDIA_FREE && type != MEDIA_UNWRITTEN && type <= MEDIA_TYPE_MAX);
	if (!lines) {
		b->line_bytes.count = first;
		return -ENOMEM;
	}
	*lines = (struct build_lines){ .blk = blk,
		.mask = mask,
		.type = type,
		.first = first,
		.csum = csum_crc32c(0, content, MEDIA_BLOCK_BYTES) };
	for (uint64_t left = mask; left; left &= left - 1, to += MEDIA_LINE_BYTES)
		memcpy(to, from + (size_t)__builtin_ctzll(left) * MEDIA_LINE_BYTES, MEDIA_LINE_BYTES);
	return 0;
}

/* Bytes in front of the lines, padding included. No overflow: the counts are 32-bit. */
static uint64_t lists_bytes(uint64_t runs, uint64_t csums, uint64_t line_blks)
{
	uint64_t bytes = sizeof(struct redo_hdr_omf) + runs * sizeof(struct redo_run_omf) +
			 line_blks * sizeof(struct redo_lines_omf) + csums * sizeof(le32_t);

	return (bytes + MEDIA_LINE_BYTES - 1) / MEDIA_LINE_BYTES * MEDIA_LINE_BYTES;
}

uint64_t redo_bytes(const struct redo_builder *b)
{
	return lists_bytes(b->linked.count + b->freed.count, b->csums.count, b->lines.count) +
	       b->line_bytes.count * MEDIA_LINE_BYTES;
}

/* Works for build_run and build_lines: both start with the block. */
static int blk_compare(const void *a, const void *b)
{
	uint64_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return x < y ? -1 : x > y;
}

/* qsort(3) of glibc allocates; most commits arrive sorted, so look first. */
static void vec_sort(struct vec *vec)
{
	const uint8_t *at = vec->at;

	for (size_t i = 1; i < vec->count; i++) {
		if (blk_compare(at + (i - 1) * vec->item_bytes, at + i * vec->item_bytes) > 0) {
			qsort(vec->at, vec->count, vec->item_bytes, blk_compare);
			return;
		}
	}
}

static bool runs_overlap(const struct vec *vec)
{
	const struct build_run *run = vec->at;

	for (size_t i = 1; i < vec->count; i++)
		if (run[i - 1].blk + run[i - 1].count > run[i].blk)
			return true;
	return false;
}

static bool runs_meet(const struct vec *a, const struct vec *b)
{
	const struct build_run *x = a->at, *y = b->at;

	for (size_t i = 0, j = 0; i < a->count && j < b->count;) {
		if (x[i].blk + x[i].count <= y[j].blk)
			i++;
		else if (y[j].blk + y[j].count <= x[i].blk)
			j++;
		else
			return true;
	}
	return false;
}

static bool lines_repeat(const struct vec *vec)
{
	const struct build_lines *lines = vec->at;

	for (size_t i = 1; i < vec->count; i++)
		if (lines[i - 1].blk == lines[i].blk)
			return true;
	return false;
}

/* Writes sorted runs with neighbours merged; returns how many. */
static uint32_t runs_emit(const struct vec *vec, struct redo_run_omf *out)
{
	const struct build_run *run = vec->at;
	uint32_t n = 0;

	for (size_t i = 0; i < vec->count;) {
		uint64_t blk = run[i].blk;
		uint32_t type = run[i].type, count = 0;

		for (; i < vec->count && run[i].blk == blk + count && run[i].type == type; i++)
			count += run[i].count;
		out[n++] = (struct redo_run_omf){ le64_put(blk), le32_put(count), le32_put(type) };
	}
	return n;
}

static void csums_emit(const struct redo_builder *b, le32_t *out)
{
	const struct build_run *run = b->linked.at;
	const uint32_t *csums = b->csums.at;

	for (size_t i = 0; i < b->linked.count; i++)
		for (uint32_t j = 0; j < run[i].count; j++)
			*out++ = le32_put(csums[run[i].first + j]);
}

static void lines_emit(const struct redo_builder *b, struct redo_lines_omf *out, uint8_t *bytes)
{
	const struct build_lines *lines = b->lines.at;
	const uint8_t *from = b->line_bytes.at;

	for (size_t i = 0; i < b->lines.count; i++) {
		size_t len = (size_t)__builtin_popcountll(lines[i].mask) * MEDIA_LINE_BYTES;

		out[i] = (struct redo_lines_omf){ le64_put(lines[i].blk), le64_put(lines[i].mask),
			le32_put(lines[i].csum), le32_put(lines[i].type) };
		memcpy(bytes, from + lines[i].first * MEDIA_LINE_BYTES, len);
		bytes += len;
	}
}

/* CRC32C of the record with its csum field as zero. */
static uint32_t record_csum(const void *buf, uint32_t len)
{
	static const le32_t zero;
	const size_t at = offsetof(struct redo_hdr_omf, csum), behind = at + sizeof(zero);
	uint32_t crc = csum_crc32c(0, buf, at);

	crc = csum_crc32c(crc, &zero, sizeof(zero));
	return csum_crc32c(crc, (const uint8_t *)buf + behind, len - behind);
}

/* Lays the lists and lines out behind the header, whose counts are set; returns the length of the whole. */
static uint32_t record_emit(struct redo_builder *b, struct redo_hdr_omf *hdr)
{
	uint8_t *at = b->rec + sizeof(*hdr), *lines_at, *end;
	struct redo_lines_omf *lines;
	uint32_t linked_runs, freed_runs;

	linked_runs = runs_emit(&b->linked, (struct redo_run_omf *)at);
	at += linked_runs * sizeof(struct redo_run_omf);
	freed_runs = runs_emit(&b->freed, (struct redo_run_omf *)at);
	at += freed_runs * sizeof(struct redo_run_omf);
	lines = (struct redo_lines_omf *)at;
	at += b->lines.count * sizeof(struct redo_lines_omf);
	csums_emit(b, (le32_t *)at);
	at += b->csums.count * sizeof(le32_t);
	lines_at = b->rec + lists_bytes(linked_runs + freed_runs, b->csums.count, b->lines.count);
	memset(at, 0, (size_t)(lines_at - at));
	lines_emit(b, lines, lines_at);
	end = lines_at + b->line_bytes.count * MEDIA_LINE_BYTES;
	hdr->linked_runs = le32_put(linked_runs);
	hdr->linked_blks = le32_put((uint32_t)b->csums.count);
	hdr->freed_runs = le32_put(freed_runs);
	hdr->line_blks = le32_put((uint32_t)b->lines.count);
	hdr->line_count = le32_put((uint32_t)b->line_bytes.count);
	return (uint32_t)(end - b->rec);
}

int redo_finish(struct redo_builder *b, uint64_t seq, uint64_t epoch, const struct hash128 *prev, uint64_t time_ns,
	const void **rec, uint32_t *len, struct hash128 *hash)
{
	struct redo_hdr_omf hdr = { .magic = le32_put(REDO_MAGIC),
		.version = le16_put(REDO_VERSION),
		.seq = le64_put(seq),
		.epoch = le64_put(epoch),
		.time_ns = le64_put(time_ns),
		.pool_seed = le64_put(b->pool_seed) };
	uint64_t freed_blks = 0;
	uint32_t bytes;

	assert(seq >= 1);
	if (seq > MEDIA_SEQ_MAX) /* a hostile superblock can start there */
		return errmsg_set(-EOVERFLOW, "record %llu: sequence numbers are used up", (unsigned long long)seq);
	if (redo_bytes(b) > b->max_bytes)
		return errmsg_set(-E2BIG, "record %llu: %llu bytes, at most %llu", (unsigned long long)seq,
			(unsigned long long)redo_bytes(b), (unsigned long long)b->max_bytes);
	vec_sort(&b->linked);
	vec_sort(&b->freed);
	vec_sort(&b->lines);
	if (runs_overlap(&b->linked) || runs_overlap(&b->freed) || lines_repeat(&b->lines))
		return errmsg_set(-EINVAL, "record %llu: a block twice in one list", (unsigned long long)seq);
	if (runs_meet(&b->linked, &b->freed))
		return errmsg_set(-EINVAL, "record %llu: a block both linked and freed", (unsigned long long)seq);

	for (size_t i = 0; i < b->freed.count; i++)
		freed_blks += ((const struct build_run *)b->freed.at)[i].count;
	bytes = record_emit(b, &hdr);
	hdr.len = le32_put(bytes);
	hdr.freed_blks = le32_put((uint32_t)freed_blks);
	memcpy(hdr.prev_hash, prev->b, sizeof(hdr.prev_hash));
	memcpy(b->rec, &hdr, sizeof(hdr));
	hdr.csum = le32_put(record_csum(b->rec, bytes));
	memcpy(b->rec, &hdr, sizeof(hdr));
	*rec = b->rec;
	*len = bytes;
	*hash = csum_hash128(b->rec, bytes);
	return 0;
}

/* ---------------------------------------------------------------------------------------------------- reading */

static bool all_zero(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

uint32_t redo_peek_len(const void *hdr, const struct media_geom *geom)
{
	struct redo_hdr_omf h;
	uint32_t len;

	memcpy(&h, hdr, sizeof(h));
	len = le32_get(h.len);
	if (le32_get(h.magic) != REDO_MAGIC || le16_get(h.version) != REDO_VERSION ||
		le64_get(h.pool_seed) != geom->pool_seed)
		return 0;
	if (len < sizeof(h) || len % MEDIA_LINE_BYTES || len > geom->ring_bytes / REDO_RING_SHARE)
		return 0;
	return len;
}

/* Header fields that need nothing else; sets up the view's numbers and pointers. */
static bool header_ok(const uint8_t *buf, uint64_t len, struct redo_view *v)
{
	const struct redo_hdr_omf *hdr = (const struct redo_hdr_omf *)buf;
	const uint8_t *at = buf + sizeof(*hdr), *lists_end;
	uint64_t lists;

	if (le16_get(hdr->flags) || !all_zero(hdr->zero, sizeof(hdr->zero)))
		return false;
	*v = (struct redo_view){
		.len = (uint32_t)len,
		.seq = le64_get(hdr->seq),
		.epoch = le64_get(hdr->epoch),
		.time_ns = le64_get(hdr->time_ns),
		.linked_runs = le32_get(hdr->linked_runs),
		.linked_blks = le32_get(hdr->linked_blks),
		.freed_runs = le32_get(hdr->freed_runs),
		.freed_blks = le32_get(hdr->freed_blks),
		.line_blks = le32_get(hdr->line_blks),
		.line_count = le32_get(hdr->line_count),
	};
	if (v->seq < 1 || v->seq > MEDIA_SEQ_MAX)
		return false;
	lists = lists_bytes((uint64_t)v->linked_runs + v->freed_runs, v->linked_blks, v->line_blks);
	if (lists + (uint64_t)v->line_count * MEDIA_LINE_BYTES != len)
		return false;
	memcpy(v->prev_hash.b, hdr->prev_hash, sizeof(hdr->prev_hash));
	v->linked = (const struct redo_run_omf *)at;
	v->freed = v->linked + v->linked_runs;
	v->lines = (const struct redo_lines_omf *)(v->freed + v->freed_runs);
	v->csums = (const le32_t *)(v->lines + v->line_blks);
	v->line_bytes = buf + lists;
	lists_end = (const uint8_t *)(v->csums + v->linked_blks);
	return all_zero(lists_end, (size_t)(v->line_bytes - lists_end));
}

/* Inside the pool, behind its group's table, not across groups. */
static bool run_place_ok(const struct media_geom *geom, uint64_t blk, uint32_t count)
{
	uint64_t last = blk + count - 1;

	return count >= 1 && count <= MEDIA_GROUP_BLKS && media_blk_valid(geom, blk) && media_blk_valid(geom, last) &&
	       media_group_of(geom, blk) == media_group_of(geom, last);
}

static bool run_type_ok(uint32_t type, bool linked)
{
	return linked ? type != MEDIA_FREE && type <= MEDIA_TYPE_MAX : type == MEDIA_FREE;
}

static bool runs_ok(
	const struct redo_run_omf *runs, uint32_t count, uint32_t blks, bool linked, const struct media_geom *geom)
{
	uint64_t sum = 0, behind = 0; /* first block behind the run before */

	for (uint32_t i = 0; i < count; i++) {
		uint64_t blk = le64_get(runs[i].blk);
		uint32_t n = le32_get(runs[i].count);

		if (!run_place_ok(geom, blk, n) || blk < behind || !run_type_ok(le32_get(runs[i].type), linked))
			return false;
		behind = blk + n;
		sum += n;
	}
	return sum == blks;
}

static bool lists_disjoint(const struct redo_view *v)
{
	for (uint32_t i = 0, j = 0; i < v->linked_runs && j < v->freed_runs;) {
		uint64_t x = le64_get(v->linked[i].blk), y = le64_get(v->freed[j].blk);

		if (x + le32_get(v->linked[i].count) <= y)
			i++;
		else if (y + le32_get(v->freed[j].count) <= x)
			j++;
		else
			return false;
	}
	return true;
}

static bool lines_ok(const struct redo_view *v, const struct media_geom *geom)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < v->line_blks; i++) {
		uint64_t blk = le64_get(v->lines[i].blk), mask = le64_get(v->lines[i].mask);
		uint32_t type = le32_get(v->lines[i].type);

		if (!media_blk_valid(geom, blk) || !mask || (i && blk <= le64_get(v->lines[i - 1].blk)))
			return false;
		/* an unwritten block has no content, hence no checksum, hence no lines */
		if (!run_type_ok(type, true) || type == MEDIA_UNWRITTEN)
			return false;
		sum += (uint64_t)__builtin_popcountll(mask);
	}
	return sum == v->line_count;
}

/* A linked block and its lines, when it has any, must tell the same story; metadata must have them all. */
static bool link_ok(uint64_t blk, uint32_t type, uint32_t csum, const struct redo_lines_omf *lines)
{
	if (type == MEDIA_UNWRITTEN)
		return csum == 0 && !lines;
	if (!lines)
		return type <= MEDIA_DATA_LAST;
	assert(le64_get(lines->blk) == blk);
	if (type > MEDIA_DATA_LAST && le64_get(lines->mask) != UINT64_MAX)
		return false;
	return le32_get(lines->type) == type && le32_get(lines->csum) == csum;
}

static bool links_ok(const struct redo_view *v)
{
	const le32_t *csum = v->csums;
	uint32_t j = 0;

	for (uint32_t i = 0; i < v->linked_runs; i++) {
		uint64_t blk = le64_get(v->linked[i].blk), behind = blk + le32_get(v->linked[i].count);

		for (; blk < behind; blk++, csum++) {
			bool has;

			while (j < v->line_blks && le64_get(v->lines[j].blk) < blk)
				j++;
			has = j < v->line_blks && le64_get(v->lines[j].blk) == blk;
			if (!link_ok(blk, le32_get(v->linked[i].type), le32_get(*csum), has ? &v->lines[j] : NULL))
				return false;
		}
	}
	return true;
}

int redo_parse(const void *buf, uint64_t len, const struct media_geom *geom, struct redo_view *view)
{
	const struct redo_hdr_omf *hdr = buf;
	struct redo_view v;

	assert((uintptr_t)buf % REDO_ALIGN == 0);
	if (len < sizeof(*hdr) || redo_peek_len(buf, geom) != len)
		return errmsg_set(-EBADMSG, "record: no header of a record of %llu bytes", (unsigned long long)len);
	if (le32_get(hdr->csum) != record_csum(buf, (uint32_t)len) && !PLANTED(PLANT_CSUM))
		return errmsg_set(-EBADMSG, "record %llu: checksum wrong", (unsigned long long)le64_get(hdr->seq));
	if (!header_ok(buf, len, &v))
		return errmsg_set(-EBADMSG, "record %llu: header malformed", (unsigned long long)le64_get(hdr->seq));
	if (!runs_ok(v.linked, v.linked_runs, v.linked_blks, true, geom) ||
		!runs_ok(v.freed, v.freed_runs, v.freed_blks, false, geom) || !lists_disjoint(&v))
		return errmsg_set(-EBADMSG, "record %llu: linked or freed blocks malformed", (unsigned long long)v.seq);
	if (!lines_ok(&v, geom) || !links_ok(&v))
		return errmsg_set(-EBADMSG, "record %llu: lines malformed", (unsigned long long)v.seq);
	v.hash = csum_hash128(buf, len);
	*view = v;
	return 0;
}
