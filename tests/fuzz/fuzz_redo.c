/* Redo records: as a target receives and recovery meets them. Input: a record. What the reader accepts lies in the record and
 * in the pool; put behind the head of a copy it is stored or refused, applied or found to be rot, and the copy opens again. */
#include "fuzz.h"

#include <errno.h>
#include <sys/mman.h>
#include "copy.h"
#include "csum.h"
#include "log.h"
#include "redo.h"

#define POOL_BYTES (16u << 20)
#define RING_BYTES (1u << 20)
#define POOL_SEED 0x5eedull

static uint8_t *pool;
static struct media_geom geom;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_open("fuzz", "/dev/null", LOG_LEVEL_ERROR);
	pool = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FUZZ_CHECK(pool != MAP_FAILED);
	FUZZ_CHECK(!copy_geometry(POOL_BYTES, RING_BYTES, &geom));
	geom.pool_seed = POOL_SEED;
	return 0;
}

static void seal(uint8_t *rec, size_t len, const struct copy_point *head)
{
	struct redo_hdr_omf hdr;

	memcpy(&hdr, rec, sizeof(hdr));
	hdr.magic = le32_put(REDO_MAGIC);
	hdr.version = le16_put(REDO_VERSION);
	hdr.len = le32_put((uint32_t)len);
	hdr.pool_seed = le64_put(POOL_SEED);
	if (head) {
		hdr.seq = le64_put(head->seq + 1);
		memcpy(hdr.prev_hash, head->hash.b, sizeof(hdr.prev_hash));
	}
	hdr.csum = le32_put(0);
	memcpy(rec, &hdr, sizeof(hdr));
	hdr.csum = le32_put(csum_crc32c(0, rec, len));
	memcpy(rec, &hdr, sizeof(hdr));
}

static void runs_hold(const struct redo_run_omf *runs, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint64_t blk = le64_get(runs[i].blk);

		for (uint32_t n = 0; n < le32_get(runs[i].count); n++)
			FUZZ_CHECK(media_blk_valid(&geom, blk + n));
	}
}

static void view_holds(const struct redo_view *v, const uint8_t *rec, size_t len)
{
	FUZZ_CHECK(v->len == len && v->line_bytes + (size_t)v->line_count * MEDIA_LINE_BYTES == rec + len);
	runs_hold(v->linked, v->linked_runs);
	runs_hold(v->freed, v->freed_runs);
	for (uint32_t i = 0; i < v->line_blks; i++)
		FUZZ_CHECK(media_blk_valid(&geom, le64_get(v->lines[i].blk)) && le64_get(v->lines[i].mask));
	fuzz_touch(v->csums, (size_t)v->linked_blks * sizeof(v->csums[0]));
	fuzz_touch(v->line_bytes, (size_t)v->line_count * MEDIA_LINE_BYTES);
}

static bool parse(const uint8_t *rec, size_t len)
{
	struct redo_view view;

	if (redo_parse(rec, len, &geom, &view))
		return false;
	view_holds(&view, rec, len);
	return true;
}

/* A copy without history, in zeroed memory. */
static struct copy *copy_new(struct pm *pm)
{
	struct copy_format fmt = { .hash_seed = POOL_SEED, .ring_bytes = RING_BYTES,
				   .page = { .role = MEDIA_ROLE_REPLICA, .state = MEDIA_CONSISTENT } };
	struct copy *copy = NULL;

	FUZZ_CHECK(!madvise(pool, POOL_BYTES, MADV_DONTNEED));
	pm_init(pm, pool, POOL_BYTES, PM_MEMORY);
	FUZZ_CHECK(!copy_format(pm, &fmt) && !copy_open(pm, false, &copy));
	return copy;
}

static void replay(uint8_t *rec, uint32_t len)
{
	struct pm pm;
	struct copy *copy = copy_new(&pm), *again;
	struct copy_point head = copy_head(copy);
	int err;

	seal(rec, len, &head);
	err = copy_append(copy, rec, len);
	FUZZ_CHECK(!err || err == -EBADMSG || err == -ESTALE || err == -EILSEQ || err == -ENOSPC);
	FUZZ_CHECK(copy_head(copy).seq == head.seq + !err);
	if (!err) {
		err = copy_checkpoint(copy, UINT64_MAX, UINT64_MAX);
		FUZZ_CHECK(!err || err == -EBADMSG);
	}
	head = copy_head(copy);
	copy_close(copy);
	FUZZ_CHECK(!copy_open(&pm, false, &again));
	FUZZ_CHECK(copy_head(again).seq == head.seq);
	copy_close(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t len = (size + MEDIA_LINE_BYTES - 1) / MEDIA_LINE_BYTES * MEDIA_LINE_BYTES;
	uint8_t *rec = fuzz_copy(data, size, size);

	parse(rec, size);
	free(rec);
	if (len < sizeof(struct redo_hdr_omf))
		return 0;
	rec = fuzz_copy(data, size, len);
	redo_peek_len(rec, &geom);
	seal(rec, len, NULL);
	if (parse(rec, len))
		replay(rec, (uint32_t)len);
	free(rec);
	return 0;
}
