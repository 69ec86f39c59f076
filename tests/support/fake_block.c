/* The block layer of fake_block.h: a table of blocks, an undo log of lines, allocations and frees. */
#include "fake_block.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "csum.h"
#include "errmsg.h"

#define LINES MEDIA_LINES_PER_BLOCK

struct shadow {
	uint64_t blk;
	uint64_t op;       /* newest operation that changed a line ... */
	uint64_t op_lines; /* ... and which */
	uint8_t content[MEDIA_BLOCK_BYTES];
};

struct slot {
	struct shadow *shadow; /* metadata only */
	uint8_t type;
	bool freed; /* by the open operation */
};

struct undo {
	enum { UNDO_LINE, UNDO_NEW, UNDO_FREE } what;
	uint64_t blk;
	unsigned line;
	uint8_t bytes[MEDIA_LINE_BYTES];
};

struct fs {
	struct media_geom geom;
	struct slot *slots;
	uint64_t next, root_blk, op;
	bool op_open;
	struct undo *undo;
	size_t undo_count, undo_max;
	unsigned fail_calls;
	uint64_t fail_nth;
	int fail_err;
	bool failed;
	struct fake_counts counts;
};

/* ---------------------------------------------------------------- what the core would say */

struct copy *fs_copy(struct fs *fs)
{
	return (struct copy *)fs;
}
const struct media_geom *copy_geom(const struct copy *copy)
{
	return &((const struct fs *)copy)->geom;
}
uint64_t fs_hash_seed(const struct fs *fs)
{
	(void)fs;
	return FAKE_HASH_SEED;
}
uint64_t fs_root_blk(const struct fs *fs)
{
	return fs->root_blk;
}

/* ---------------------------------------------------------------- life */

static uint64_t find_free(struct fs *fs)
{
	uint64_t tries;

	for (tries = 0; tries < fs->geom.blk_count; tries++) {
		uint64_t blk = fs->next;

		fs->next = fs->next + 1 < fs->geom.blk_count ? fs->next + 1 : fs->geom.group0_blk;
		if (media_blk_valid(&fs->geom, blk) && fs->slots[blk].type == MEDIA_FREE)
			return blk;
	}
	return 0;
}

static uint64_t take(struct fs *fs, uint32_t type)
{
	uint64_t blk = find_free(fs);

	if (!blk)
		return 0;
	fs->slots[blk].type = type;
	if (type >= MEDIA_META_FIRST) {
		fs->slots[blk].shadow = calloc(1, sizeof(struct shadow));
		fs->slots[blk].shadow->blk = blk;
	}
	fs->counts.used++;
	fs->counts.used_of[type]++;
	return blk;
}

static void give_back(struct fs *fs, uint64_t blk)
{
	fs->counts.used--;
	fs->counts.used_of[fs->slots[blk].type]--;
	free(fs->slots[blk].shadow);
	fs->slots[blk] = (struct slot){ 0 };
}

struct fs *fake_new(uint64_t blk_count)
{
	struct fs *fs = calloc(1, sizeof(*fs));
	struct fs_state_omf state = { .version = le32_put(1), .ino_next = le64_put(FS_ROOT_INO) };

	fs->geom = (struct media_geom){ .blk_count = blk_count,
		.group0_blk = 4,
		.group_count = (blk_count - 4 + MEDIA_GROUP_BLKS - 1) / MEDIA_GROUP_BLKS };
	fs->slots = calloc(blk_count, sizeof(*fs->slots));
	fs->next = fs->geom.group0_blk;
	fs->root_blk = take(fs, FS_STATE);
	memcpy(state.magic, FS_STATE_MAGIC, sizeof(state.magic));
	memcpy(fs->slots[fs->root_blk].shadow->content, &state, sizeof(state));
	return fs;
}

void fake_delete(struct fs *fs)
{
	uint64_t blk;

	for (blk = 0; blk < fs->geom.blk_count; blk++)
		free(fs->slots[blk].shadow);
	free(fs->slots);
	free(fs->undo);
	free(fs);
}

/* ---------------------------------------------------------------- faults and facts */

void fake_fail(struct fs *fs, unsigned calls, uint64_t nth, int err)
{
	fs->fail_calls = calls;
	fs->fail_nth = nth;
	fs->fail_err = err;
	fs->failed = false;
}

bool fake_failed(const struct fs *fs)
{
	return fs->failed;
}

static int fault(struct fs *fs, unsigned call)
{
	if (!fs->fail_nth || !(fs->fail_calls & call) || --fs->fail_nth)
		return 0;
	fs->failed = true;
	return fs->fail_err;
}

const struct fake_counts *fake_counts(const struct fs *fs)
{
	return &fs->counts;
}
void *fake_content(struct fs *fs, uint64_t blk)
{
	return fs->slots[blk].shadow->content;
}
uint32_t fake_type(const struct fs *fs, uint64_t blk)
{
	return fs->slots[blk].type;
}

uint64_t fake_digest(const struct fs *fs)
{
	uint64_t blk, digest = 1;

	for (blk = 0; blk < fs->geom.blk_count; blk++) {
		uint64_t head[2] = { blk, fs->slots[blk].type };

		if (!fs->slots[blk].type)
			continue;
		digest = csum_hash64(head, sizeof(head), digest);
		if (fs->slots[blk].shadow)
			digest = csum_hash64(fs->slots[blk].shadow->content, MEDIA_BLOCK_BYTES, digest);
	}
	return digest;
}

/* ---------------------------------------------------------------- operations */

static struct undo *undo_add(struct fs *fs, int what, uint64_t blk)
{
	assert(fs->op_open);
	if (fs->undo_count == fs->undo_max) {
		fs->undo_max = fs->undo_max ? fs->undo_max * 2 : 64;
		fs->undo = realloc(fs->undo, fs->undo_max * sizeof(*fs->undo));
	}
	fs->undo[fs->undo_count] = (struct undo){ .what = what, .blk = blk };
	return &fs->undo[fs->undo_count++];
}

void op_begin(struct fs *fs)
{
	assert(!fs->op_open);
	fs->op_open = true;
	fs->op++;
	fs->undo_count = 0;
	fs->counts.op_lines = 0;
}

void op_end(struct fs *fs)
{
	size_t i;

	assert(fs->op_open);
	for (i = 0; i < fs->undo_count; i++)
		if (fs->undo[i].what == UNDO_FREE)
			give_back(fs, fs->undo[i].blk);
	fs->op_open = false;
}

int op_abort(struct fs *fs, int err)
{
	assert(fs->op_open);
	while (fs->undo_count) {
		const struct undo *u = &fs->undo[--fs->undo_count];
		struct slot *slot = &fs->slots[u->blk];

		if (u->what == UNDO_LINE)
			memcpy(slot->shadow->content + u->line * MEDIA_LINE_BYTES, u->bytes, MEDIA_LINE_BYTES);
		else if (u->what == UNDO_NEW)
			give_back(fs, u->blk);
		else
			slot->freed = false;
	}
	fs->op_open = false;
	return err;
}

uint64_t fake_data(struct fs *fs)
{
	uint64_t blk = take(fs, MEDIA_DATA);

	assert(blk);
	undo_add(fs, UNDO_NEW, blk);
	return blk;
}

/* ---------------------------------------------------------------- content */

static int resolve(struct fs *fs, uint64_t blk, uint32_t type, struct shadow **shadow)
{
	if (!media_blk_valid(&fs->geom, blk))
		return errmsg_set(-EUCLEAN, "block %#llx: out of range", (unsigned long long)blk);
	if (fs->slots[blk].type != type || fs->slots[blk].freed) {
		fs->counts.misuse++;
		return errmsg_set(-EBADMSG, "block %#llx: type %u instead of %u", (unsigned long long)blk,
			fs->slots[blk].type, type);
	}
	*shadow = fs->slots[blk].shadow;
	return 0;
}

int block_get(struct fs *fs, uint64_t blk, uint32_t type, const void **content)
{
	struct shadow *shadow;
	int err = fault(fs, FAKE_GET);

	fs->counts.gets++;
	if (!err)
		err = resolve(fs, blk, type, &shadow);
	if (!err)
		*content = shadow->content;
	return err;
}

int block_edit(struct fs *fs, uint64_t blk, uint32_t type, struct shadow **shadow)
{
	int err = fault(fs, FAKE_EDIT);

	assert(fs->op_open);
	fs->counts.edits++;
	return err ? err : resolve(fs, blk, type, shadow);
}

const void *block_content(const struct shadow *shadow)
{
	return shadow->content;
}

static void count_line(struct fs *fs, struct shadow *shadow, unsigned line)
{
	if (shadow->op != fs->op)
		shadow->op_lines = 0;
	shadow->op = fs->op;
	if (!(shadow->op_lines & 1ull << line))
		fs->counts.op_lines++;
	shadow->op_lines |= 1ull << line;
}

int block_put(struct fs *fs, struct shadow *shadow, uint32_t off, const void *src, uint32_t len)
{
	unsigned line;
	int err = fault(fs, FAKE_PUT);

	assert(fs->op_open);
	assert(off + len <= MEDIA_BLOCK_BYTES);
	fs->counts.puts++;
	if (err)
		return err;
	for (line = off / MEDIA_LINE_BYTES; line * MEDIA_LINE_BYTES < off + len; line++) {
		uint32_t from = line * MEDIA_LINE_BYTES > off ? line * MEDIA_LINE_BYTES : off;
		uint32_t end = (line + 1) * MEDIA_LINE_BYTES < off + len ? (line + 1) * MEDIA_LINE_BYTES : off + len;
		const uint8_t *bytes = (const uint8_t *)src + (from - off);

		if (!memcmp(shadow->content + from, bytes, end - from))
			continue;
		struct undo *u = undo_add(fs, UNDO_LINE, shadow->blk);
		u->line = line;
		memcpy(u->bytes, shadow->content + line * MEDIA_LINE_BYTES, MEDIA_LINE_BYTES);
		memcpy(shadow->content + from, bytes, end - from);
		count_line(fs, shadow, line);
	}
	return 0;
}

int block_new(struct fs *fs, enum alloc_class class, uint32_t type, uint64_t *blk, struct shadow **shadow)
{
	uint64_t got;
	int err = fault(fs, FAKE_NEW);

	(void)class;
	if (err)
		return err;
	got = take(fs, type);
	if (!got)
		return -ENOSPC;
	undo_add(fs, UNDO_NEW, got);
	*blk = got;
	*shadow = fs->slots[got].shadow;
	return 0;
}

int block_free(struct fs *fs, uint64_t blk)
{
	int err = fault(fs, FAKE_FREE);

	if (err)
		return err;
	if (!media_blk_valid(&fs->geom, blk) || fs->slots[blk].type == MEDIA_FREE || fs->slots[blk].freed) {
		fs->counts.misuse++;
		return errmsg_set(-EUCLEAN, "block %#llx: freed but not in use", (unsigned long long)blk);
	}
	fs->slots[blk].freed = true;
	undo_add(fs, UNDO_FREE, blk);
	return 0;
}
