/* Stores, flushes and fences of a pool, by persistence domain.
 *
 *              pm_write, pm_zero        pm_flush                pm_fence
 *   PM_MEMORY  plain copy               -                       store fence
 *   PM_PMEM    copy past the cache      write back cache lines  store fence
 *   PM_FILE    plain copy, remembered   remembered              msync(2) of what was remembered
 *
 * memcpy(3) stores some bytes twice where its pieces overlap, so a word may be seen half new: pm_write_words does not use it.
 *
 * PM_FILE keeps a table of page ranges, sorted, with a gap between each two (touching ones are one). When it is full,
 * the two with the smallest gap become one: an msync over clean pages costs little and is never wrong. */
#include "persist.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <linux/magic.h>

#include "errmsg.h"
#include "plant.h"
#include "pmem.h"

#define PAGE_BYTES 4096u

#ifdef PM_OBSERVE
enum plant plant_now;
const struct pm_observer *pm_observer_new;
#define OBSERVE(pm, event, ...)                                                      \
	do {                                                                         \
		if ((pm)->observer && (pm)->observer->event)                         \
			(pm)->observer->event((pm)->observer->ctx, __VA_ARGS__);     \
	} while (0)
#else
#define OBSERVE(pm, event, ...) do { } while (0)
#endif

void pm_init(struct pm *pm, void *base, uint64_t len, enum pm_domain domain)
{
	assert(base);
	assert(domain != PM_FILE || (uintptr_t)base % PAGE_BYTES == 0); /* msync(2) wants it */
	*pm = (struct pm){ .base = base, .len = len, .domain = domain };
#ifdef PM_OBSERVE
	pm->observer = pm_observer_new;
#endif
}

/* MAP_SYNC and device dax are the two promises of the kernel that flushed cache lines are enough. */
enum pm_domain pm_detect(int fd, const void *base, uint64_t len, bool map_sync)
{
	struct statfs fs;

	(void)base;
	(void)len;
	if (map_sync || pmdev_is_devdax(fd))
		return PM_PMEM;
	if (fstatfs(fd, &fs))
		return PM_FILE;
	switch ((unsigned long)fs.f_type) {
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
	case HUGETLBFS_MAGIC:
		return PM_MEMORY;
	default:
		return PM_FILE;
	}
}

const char *pm_domain_name(enum pm_domain domain)
{
	switch (domain) {
	case PM_MEMORY:
		return "memory";
	case PM_PMEM:
		return "pmem";
	case PM_FILE:
		return "file";
	}
	return "unknown";
}

static inline void assert_inside(const struct pm *pm, uint64_t off, uint64_t len)
{
	assert(off <= pm->len);
	assert(len <= pm->len - off);
}

/* Makes ranges[idx] and its right neighbour one. */
static void ranges_join(struct pm *pm, unsigned idx)
{
	struct pm_range *left = &pm->ranges[idx], *right = left + 1;
	uint64_t left_end = left->off + left->len, right_end = right->off + right->len;

	left->len = (left_end > right_end ? left_end : right_end) - left->off;
	pm->range_count--;
	memmove(right, right + 1, (pm->range_count - idx - 1) * sizeof(*right));
}

/* Makes room for one more: joins the two neighbours with the smallest gap. */
static void ranges_squeeze(struct pm *pm)
{
	uint64_t best_gap = UINT64_MAX;
	unsigned best = 0;

	for (unsigned i = 0; i + 1 < pm->range_count; i++) {
		uint64_t gap = pm->ranges[i + 1].off - (pm->ranges[i].off + pm->ranges[i].len);

		if (gap < best_gap) {
			best_gap = gap;
			best = i;
		}
	}
	ranges_join(pm, best);
}

/* Remembers the pages of a range for the next fence. */
static void ranges_add(struct pm *pm, uint64_t off, uint64_t len)
{
	uint64_t start = off & ~(uint64_t)(PAGE_BYTES - 1);
	uint64_t end = (off + len + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
	struct pm_range *at;
	unsigned idx = pm->range_count;

	if (!len)
		return;
	while (idx && pm->ranges[idx - 1].off > start)
		idx--;
	at = &pm->ranges[idx];
	if (idx && at[-1].off + at[-1].len >= start) { /* touches the left neighbour: grow that */
		at = &pm->ranges[--idx];
		if (at->off + at->len < end)
			at->len = end - at->off;
	} else {
		if (pm->range_count == PM_FILE_RANGES_MAX) {
			ranges_squeeze(pm);
			ranges_add(pm, off, len); /* once: there is room now */
			return;
		}
		memmove(at + 1, at, (pm->range_count - idx) * sizeof(*at));
		*at = (struct pm_range){ start, end - start };
		pm->range_count++;
	}
	while (idx + 1 < pm->range_count && pm->ranges[idx + 1].off <= end)
		ranges_join(pm, idx);
}

void pm_write(struct pm *pm, uint64_t off, const void *src, uint64_t len)
{
	assert(!pm->read_only);
	assert_inside(pm, off, len);
	if (pm->domain == PM_PMEM) {
		pmdev_copy(pm->base + off, src, len);
	} else {
		memcpy(pm->base + off, src, len);
		if (pm->domain == PM_FILE)
			ranges_add(pm, off, len);
	}
	OBSERVE(pm, stored, off, pm->base + off, len);
}

/* Single bytes up to the first whole word and behind the last one. Lanes may store to the same bytes: what order they do it
 * in is known to their initiator alone, not to ThreadSanitizer. */
__attribute__((no_sanitize("thread"))) static void words_copy(uint8_t *dst, const uint8_t *src, uint64_t len)
{
	uint64_t word;

	for (; len && (uintptr_t)dst % sizeof(word); len--)
		*dst++ = *src++;
	for (; len >= sizeof(word); len -= sizeof(word)) {
		memcpy(&word, src, sizeof(word));
		__atomic_store_n((uint64_t *)(void *)dst, word, __ATOMIC_RELAXED);
		dst += sizeof(word);
		src += sizeof(word);
	}
	while (len--)
		*dst++ = *src++;
}

void pm_write_words(struct pm *pm, uint64_t off, const void *src, uint64_t len)
{
	assert(!pm->read_only);
	assert_inside(pm, off, len);
	words_copy(pm->base + off, src, len);
	OBSERVE(pm, stored, off, pm->base + off, len);
	if (pm->domain == PM_PMEM)
		pmdev_flush(pm->base + off, len);
	else if (pm->domain == PM_FILE)
		ranges_add(pm, off, len);
}

void pm_zero(struct pm *pm, uint64_t off, uint64_t len)
{
	assert(!pm->read_only);
	assert_inside(pm, off, len);
	if (pm->domain == PM_PMEM) {
		pmdev_zero(pm->base + off, len);
	} else {
		memset(pm->base + off, 0, len);
		if (pm->domain == PM_FILE)
			ranges_add(pm, off, len);
	}
	OBSERVE(pm, stored, off, pm->base + off, len);
}

void pm_flush(struct pm *pm, uint64_t off, uint64_t len)
{
	assert(!pm->read_only);
	assert_inside(pm, off, len);
	OBSERVE(pm, flushed, off, len);
	if (pm->domain == PM_PMEM)
		pmdev_flush(pm->base + off, len);
	else if (pm->domain == PM_FILE)
		ranges_add(pm, off, len);
}

/* msync of every remembered range. After a failure the kernel may count the pages as clean, so a second try would prove
 * nothing: the table stays, and the caller gives the pool up. */
static int fence_file(struct pm *pm)
{
	for (unsigned i = 0; i < pm->range_count; i++) {
		const struct pm_range *range = &pm->ranges[i];

		if (msync(pm->base + range->off, range->len, MS_SYNC)) {
			int cause = errno;

			return errmsg_set(-EIO, "pool bytes 0x%llx+0x%llx: msync: %s", (unsigned long long)range->off,
					  (unsigned long long)range->len, strerror(cause));
		}
	}
	pm->range_count = 0;
	return 0;
}

int pm_fence(struct pm *pm, enum pm_point point)
{
	assert(point < PM_POINT_COUNT);
	if (pm->fail) {
		int err = pm->fail(point);

		if (err)
			return err;
	}
#ifdef PM_OBSERVE
	if (pm->observer && pm->observer->fence && !pm->observer->fence(pm->observer->ctx, point))
		return 0;
#endif
	if (pm->domain == PM_FILE)
		return fence_file(pm);
	pmdev_drain();
	return 0;
}
