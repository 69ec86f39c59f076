/* See below.h. A case is a start, a run that says when a change begins and when it is promised, and what is asked of an image:
 *
 *   kept == begun   nothing is under way: exactly what was promised last is there
 *   kept < begun    power failed within a change: what each check allows
 *
 * Images are drawn at every event: none, all, and of what is open any words. */
#include "below.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "cluster.h"
#include "codec.h"
#include "errmsg.h"
#include "pool.h"
#include "rpmemd/engine.h"

#define ROUNDS 3u
#define MSG_BYTES 512u
#define DRAWN 6u /* of each event, beside none and all */

struct below {
	struct pm pm;        /* where it runs */
	struct trace *trace;
	struct trace_watch watch;
	unsigned changes;
	uint64_t ring_free[ROUNDS + 1]; /* promised by checkpoint number i */
};

static struct below now;

static void begin(void)
{
	trace_mark(now.trace, TRACE_OP, ++now.changes);
}

static void promise(void)
{
	trace_mark(now.trace, TRACE_ACK, now.changes);
}

static int wrong(char *why, const char *what)
{
	snprintf(why, CHECK_WHY_BYTES, "%s: %s", what, errmsg_get());
	return -1;
}

/* ---------------------------------------------------------------- a copy to start from */

static uint64_t data_blk(const struct copy *copy, unsigned n)
{
	return copy_geom(copy)->group0_blk + MEDIA_GROUP_META_BLKS + 1 + n;
}

/* Record number n links one block of zeros. */
static void commit(struct copy *copy, unsigned n)
{
	static const uint8_t zeros[MEDIA_BLOCK_BYTES];
	struct copy_point head = copy_head(copy);
	struct redo_builder *builder;
	struct hash128 hash;
	const void *rec;
	uint32_t len;

	EXPLORE_MUST(redo_builder_new(MEDIA_RING_BYTES_MIN / REDO_RING_SHARE, copy_geom(copy)->pool_seed, &builder));
	redo_begin(builder);
	EXPLORE_MUST(redo_link(builder, data_blk(copy, n), MEDIA_DATA, csum_crc32c(0, zeros, sizeof(zeros))));
	EXPLORE_MUST(redo_finish(builder, head.seq + 1, 1, &head.hash, 1, &rec, &len, &hash));
	EXPLORE_MUST(copy_append(copy, rec, len));
	redo_builder_delete(builder);
}

static void format(uint8_t content, uint32_t state)
{
	struct copy_format fmt = { .hash_seed = 0x5eed, .created_ns = 1, .ring_bytes = MEDIA_RING_BYTES_MIN,
				   .page = { .role = MEDIA_ROLE_REPLICA, .state = state, .fence_epoch = content } };

	memset(fmt.content_uuid, content, sizeof(fmt.content_uuid));
	EXPLORE_MUST(copy_format(&now.pm, &fmt));
}

static struct copy *open_copy(void)
{
	struct copy *copy;

	EXPLORE_MUST(copy_open(&now.pm, false, &copy));
	return copy;
}

static void start_copy(void)
{
	struct copy *copy;

	format(1, MEDIA_CONSISTENT);
	copy = open_copy();
	commit(copy, 0);
	EXPLORE_MUST(copy_checkpoint(copy, UINT64_MAX, UINT64_MAX));
	copy_close(copy);
}

static void start_inconsistent(void)
{
	format(1, MEDIA_INCONSISTENT);
}

static void start_nothing(void)
{
}

/* ---------------------------------------------------------------- format, over a pool that was there before */

static void run_format(void)
{
	begin();
	format(2, MEDIA_CONSISTENT);
	promise();
}

static bool new_superblock(const struct pm *pm, uint64_t blk)
{
	const struct media_sb_omf *sb = pm_ptr(pm, media_off(blk));
	struct media_geom geom;

	return copy_sb_check(sb, pm->len, &geom) == 0 && sb->content_uuid[0] == 2;
}

/* No pool, the old one or the new one: never a superblock without its page. */
static int check_format(struct image *image, unsigned kept, unsigned begun, char *why)
{
	struct copy *copy;
	uint8_t content;
	int err = copy_open(&image->pm, true, &copy);

	if (err && (kept || new_superblock(&image->pm, MEDIA_SB_A_BLK) || new_superblock(&image->pm, MEDIA_SB_B_BLK)))
		return wrong(why, "half formatted");
	if (err)
		return 0;
	content = copy_sb(copy)->content_uuid[0];
	if (content != copy_page(copy)->fence_epoch || content > 1 + begun || content < 1 + kept)
		err = wrong(why, "superblock and page of different pools");
	copy_close(copy);
	return err;
}

/* ---------------------------------------------------------------- per-copy page */

static void run_page(void)
{
	struct copy *copy = open_copy();
	struct copy_page page = *copy_page(copy);

	for (unsigned i = 1; i <= ROUNDS; i++) {
		begin();
		page.fence_epoch = 1 + i;
		EXPLORE_MUST(copy_page_set(copy, &page));
		promise();
	}
	copy_close(copy);
}

static int check_page(struct image *image, unsigned kept, unsigned begun, char *why)
{
	struct copy *copy;
	uint64_t epoch;

	if (copy_open(&image->pm, true, &copy))
		return wrong(why, "copy_open");
	epoch = copy_page(copy)->fence_epoch;
	copy_close(copy);
	if (epoch >= 1 + kept && epoch <= 1 + begun)
		return 0;
	snprintf(why, CHECK_WHY_BYTES, "the page says epoch %llu, %u was promised", (unsigned long long)epoch, 1 + kept);
	return -1;
}

/* ---------------------------------------------------------------- checkpoint */

static void run_checkpoint(void)
{
	struct copy *copy = open_copy();

	for (unsigned i = 1; i <= ROUNDS; i++) {
		begin();
		commit(copy, i);
		EXPLORE_MUST(copy_checkpoint(copy, UINT64_MAX, UINT64_MAX));
		now.ring_free[i] = copy_ring_free(copy);
		promise();
	}
	copy_close(copy);
}

/* What a checkpoint gave back in the ring stays free: both superblocks say so. */
static int check_checkpoint(struct image *image, unsigned kept, unsigned begun, char *why)
{
	struct copy *copy;
	int err = copy_open(&image->pm, true, &copy);

	if (err)
		return wrong(why, "copy_open");
	if (copy_head(copy).seq < 1 + kept || copy_head(copy).seq > 1 + begun)
		err = wrong(why, "a commit is lost");
	else if (kept == begun && kept && copy_ring_free(copy) < now.ring_free[kept])
		err = wrong(why, "ring space given back is held again");
	copy_close(copy);
	return err;
}

/* ---------------------------------------------------------------- a summary mended */

static void run_repair(void)
{
	struct copy *copy = open_copy();

	for (unsigned i = 1; i <= ROUNDS; i++) {
		begin();
		EXPLORE_MUST(copy_mend_summary(copy, 0, 1 + i));
		promise();
	}
	copy_close(copy);
}

static int check_repair(struct image *image, unsigned kept, unsigned begun, char *why)
{
	struct copy *copy;
	uint64_t seq;
	uint32_t used;
	int err = copy_open(&image->pm, true, &copy);

	if (err)
		return wrong(why, "copy_open");
	err = copy_summary_get(copy, 0, &seq, &used);
	copy_close(copy);
	if (err)
		return kept == begun ? wrong(why, "summary") : 0;
	return used >= 1 + kept && used <= 1 + begun ? 0 : wrong(why, "the summary is not what it was mended to");
}

/* ---------------------------------------------------------------- requests of peers */

#define PUT_OFF (MEDIA_POOL_BYTES_MIN / 2)
#define PUT_BYTES 200u

static void put_fill(uint8_t bytes[PUT_BYTES], unsigned n)
{
	memset(bytes, (int)(0x40 + n), PUT_BYTES);
}

/* Number n, inline or pushed: at a place of its own. */
static void put(struct engine *engine, unsigned n)
{
	static _Alignas(64) uint8_t msg[MSG_BYTES];
	struct lane_req_msg *req = (struct lane_req_msg *)msg;
	struct lane_range_msg range = { le64_put(PUT_OFF + n * 4096), le32_put(PUT_BYTES), le32_put(0) };
	size_t len = sizeof(*req) + sizeof(range);
	struct lane_ack_msg ack;
	uint8_t bytes[PUT_BYTES];

	put_fill(bytes, n);
	*req = (struct lane_req_msg){ .magic = le32_put(LANE_MAGIC), .op = le16_put(LANE_WRITE), .seq = le64_put(n),
				      .range_count = le32_put(1) };
	if (n & 1) {
		range.flags = le32_put(LANE_RANGE_INLINE);
		req->inline_bytes = le32_put(PUT_BYTES);
		memcpy(msg + len, bytes, PUT_BYTES);
		len += PUT_BYTES;
	} else {
		memcpy(now.pm.base + le64_get(range.off), bytes, PUT_BYTES);
		trace_push(now.trace, TRACE_LOCAL, le64_get(range.off), bytes, PUT_BYTES);
	}
	memcpy(msg + sizeof(*req), &range, sizeof(range));
	lane_req_seal(msg, len);
	EXPLORE_MUST(engine_handle(engine, 0, msg, len, &ack, NULL));
	EXPLORE_MUST(wire_status_err(le16_get(ack.status)));
}

static void puts_run(struct copy *copy)
{
	struct engine_cfg cfg = { .pm = &now.pm, .copy = copy, .floor = MEDIA_BLOCK_BYTES, .fs = copy != NULL };
	struct engine *engine;

	EXPLORE_MUST(engine_new(&cfg, &engine));
	for (unsigned i = 1; i <= ROUNDS; i++) {
		begin();
		put(engine, i);
		promise();
	}
	engine_delete(engine);
}

static void run_persist(void)
{
	puts_run(NULL);
}

static void run_brought(void)
{
	struct copy *copy = open_copy();

	puts_run(copy);
	copy_close(copy);
}

static int check_puts(struct image *image, unsigned kept, unsigned begun, char *why)
{
	uint8_t bytes[PUT_BYTES];

	(void)begun;
	for (unsigned n = 1; n <= kept; n++) {
		put_fill(bytes, n);
		if (memcmp(image->pm.base + PUT_OFF + n * 4096, bytes, PUT_BYTES) == 0)
			continue;
		snprintf(why, CHECK_WHY_BYTES, "what write %u put there and was answered for is lost", n);
		return -1;
	}
	return 0;
}

/* ---------------------------------------------------------------- pool headers */

static struct pool_attr attr_of(unsigned n)
{
	struct pool_attr attr = { .signature = "BELOW", .major = 1, .poolset_uuid = { 1 }, .uuid = { 2 } };

	memset(attr.user_flags, (int)n, sizeof(attr.user_flags));
	return attr;
}

static void run_headers(void)
{
	const struct poolset *set = cluster_primary()->set;
	struct pool_attr attr = attr_of(1);
	struct pool *pool;

	cluster_put(TRACE_LOCAL, NULL);
	pm_observer_new = &now.watch.observer;
	begin();
	EXPLORE_MUST(pool_create(set, 0, &attr, 0, &pool));
	promise();
	pm_observer_new = NULL;
	for (unsigned i = 2; i <= ROUNDS; i++) {
		attr = attr_of(i);
		begin();
		EXPLORE_MUST(pool_set_attr(pool, &attr));
		promise();
	}
	pool_close(pool);
	cluster_put(TRACE_LOCAL, NULL);
}

/* PMDK's header has one place: power may fail within its change, and then it is refused. */
static int check_headers(struct image *image, unsigned kept, unsigned begun, char *why)
{
	struct pool *pool;
	unsigned flags;
	int err;

	cluster_put(TRACE_LOCAL, image->pm.base);
	err = pool_open(cluster_primary()->set, 0, POOL_NOWAIT_LOCK, &pool);
	if (err)
		return kept && kept == begun ? wrong(why, "pool_open") : 0;
	flags = pool->attr.user_flags[0];
	pool_close(pool);
	return flags >= kept && flags <= begun ? 0 : wrong(why, "attributes that were not promised last");
}

/* ---------------------------------------------------------------- all of them */

static const struct {
	const char *name;
	void (*start)(void);
	void (*run)(void);
	int (*check)(struct image *image, unsigned kept, unsigned begun, char *why);
} cases[] = {
	{ "format", start_copy, run_format, check_format },
	{ "page", start_copy, run_page, check_page },
	{ "checkpoint", start_copy, run_checkpoint, check_checkpoint },
	{ "repair", start_copy, run_repair, check_repair },
	{ "persist", start_nothing, run_persist, check_puts },
	{ "brought", start_inconsistent, run_brought, check_puts },
	{ "headers", start_nothing, run_headers, check_headers },
};

const char *below_name(unsigned i)
{
	return i < sizeof(cases) / sizeof(*cases) ? cases[i].name : NULL;
}

/* The pool before the first event, at one place in every run. */
static void prepare(struct trace *trace, struct image *image, unsigned i, enum pm_point drop)
{
	const uint8_t *unused[TRACE_POOLS];
	const struct model *model;
	static void *base;

	cluster_start(unused, &model);
	if (!base) {
		base = mmap(NULL, RUN_POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		EXPLORE_MUST(base == MAP_FAILED ? -ENOMEM : 0);
	}
	memset(base, 0, RUN_POOL_BYTES);
	now = (struct below){ .trace = trace };
	pm_init(&now.pm, base, RUN_POOL_BYTES, PM_MEMORY);
	cases[i].start();
	image->start = NULL; /* other bytes at the same place */
	image_start(image, base);
	trace_watch(&now.watch, trace, TRACE_LOCAL, drop, &now.pm);
}

static int look(struct image *image, unsigned i, unsigned kept, unsigned begun, uint64_t *seed, struct cuts_stats *stats,
		struct cuts_place *place, char *why)
{
	static const enum image_kind kinds[] = { IMAGE_NONE, IMAGE_ALL, IMAGE_WORDS, IMAGE_TORN, IMAGE_ONLY, IMAGE_BUT };
	unsigned count = image->open.n ? 2 + DRAWN : 1;
	int err = 0;

	for (unsigned k = 0; k < count && !err; k++) {
		struct image_variant v = { .kind = kinds[k < 2 ? k : 2 + k % 4], .seed = explore_random(seed) };

		v.store = image->open.n ? explore_random(seed) % image->open.n : 0;
		place->variant = v;
		stats->images++;
		image_apply(image, &v);
		err = cases[i].check(image, kept, begun, why);
		image_reset(image);
	}
	return err;
}

int below_explore(struct run *run, unsigned i, enum pm_point drop, uint64_t seed, struct cuts_stats *stats,
		  struct cuts_place *place, char *why)
{
	static struct image image;
	unsigned kept = 0, begun = 0;
	int err = 0;

	if (!image.base)
		image_make(&image, RUN_POOL_BYTES);
	trace_clear(&run->trace);
	prepare(&run->trace, &image, i, drop);
	cases[i].run();
	for (size_t e = 0; e < run->trace.events.n && !err; e++) {
		const struct trace_event *event = &run->trace.events.v[e];

		if (event->type == TRACE_OP)
			begun = (unsigned)event->op;
		else if (event->type == TRACE_ACK)
			kept = (unsigned)event->op;
		else
			image_step(&image, &run->trace, event);
		stats->cuts++;
		place->event = e;
		err = look(&image, i, kept, begun, &seed, stats, place, why);
	}
	cluster_put(TRACE_LOCAL, NULL);
	return err;
}
