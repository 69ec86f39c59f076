/* The persist layer: every store, flush and fence on a pool goes through here.
 *
 *   pm_write --> written back on its way --pm_fence--> durable in the pool's persistence domain
 *   (bytes put by a one-sided write of a peer) --pm_flush--> on its way --pm_fence--> durable
 *
 * Nothing is durable before the fence behind it has returned 0. Until then any subset of the 8-byte words of what was
 * written may or may not be there after a power failure. How flush and fence work depends on the domain:
 *   PM_MEMORY  tmpfs, hugetlbfs: survives the process, not the power; flush and fence only order stores.
 *   PM_PMEM    libpmem: cache lines written back, store fence.
 *   PM_FILE    page-cache file: flush remembers the range, fence msyncs what was remembered.
 *
 * A build with -DPM_OBSERVE lets a test watch every event and drop one fence (planted bug); other builds carry
 * no trace of it. A pool's struct pm belongs to one thread at a time. */
#ifndef RPMEMFS_PERSIST_H
#define RPMEMFS_PERSIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pm_domain { PM_MEMORY, PM_PMEM, PM_FILE };

/* Why a fence stands where it stands: one point for each. The explorer reports and drops fences by these
 * (tests/explore/plants.c says which workload finds the loss of each). */
enum pm_point {
	PM_POINT_CLEAR,         /* format: page and superblocks of what was there before are gone      */
	PM_POINT_FORMAT,        /* format: the page, before a superblock says that there is a pool     */
	PM_POINT_FORMAT_SB,     /* format: both superblocks                                            */
	PM_POINT_DATA,          /* (1) linked data of a commit                                         */
	PM_POINT_RECORD,        /* (2) its record in the ring                                          */
	PM_POINT_REPLAY,        /* (3) lines, table and summaries applied in place                     */
	PM_POINT_SUPERBLOCK,    /* (4) the older superblock                                            */
	PM_POINT_SUPERBLOCK_2,  /* (5) the other one                                                   */
	PM_POINT_PAGE,          /* per-copy page                                                       */
	PM_POINT_RESYNC,        /* restore: a group brought over, before the page counts it            */
	PM_POINT_WRITE,         /* blocks that a peer writes to a copy marked inconsistent             */
	PM_POINT_REPAIR,        /* a summary that fsck mended                                          */
	PM_POINT_HEADER,        /* pool headers                                                        */
	PM_POINT_USER,          /* a persist asked for by a librpmem program                           */
	PM_POINT_COUNT
};

struct pm_range {
	uint64_t off, len;
};

#define PM_FILE_RANGES_MAX 64u /* remembered ranges of a PM_FILE pool before neighbours are merged */

#ifdef PM_OBSERVE
/* All calls come before the event takes effect, except stored, which comes after it. */
struct pm_observer {
	void *ctx;
	void (*stored)(void *ctx, uint64_t off, const void *bytes, uint64_t len); /* pm_write, pm_zero */
	void (*flushed)(void *ctx, uint64_t off, uint64_t len);                   /* pm_flush */
	bool (*fence)(void *ctx, enum pm_point point); /* false: the fence is left out (planted bug) */
};
extern const struct pm_observer *pm_observer_new; /* what pm_init gives to every pool; NULL: none */
#endif

struct pm {
	uint8_t *base;          /* the mapped pool; NULL when closed */
	uint64_t len;           /* bytes */
	enum pm_domain domain;
	bool read_only;         /* a store is an assertion failure */
	/* Sparse pools: gets space behind a range, where a store (or a load of a hole in memory) might raise SIGBUS.
	 * -ENOSPC: the file system of the parts is full. NULL: the space is there. */
	int (*populate)(struct pm *pm, uint64_t off, uint64_t len);
	/* The bytes are being written, those behind them probably soon. A hint, by the owner. NULL: nothing to gain. */
	void (*ahead)(struct pm *pm, uint64_t off, uint64_t len);
	unsigned range_count;   /* PM_FILE only */
	struct pm_range ranges[PM_FILE_RANGES_MAX];
	int (*fail)(enum pm_point point); /* tests: a non-zero result makes that fence fail with it; NULL otherwise */
#ifdef PM_OBSERVE
	const struct pm_observer *observer;
#endif
};

void pm_init(struct pm *pm, void *base, uint64_t len, enum pm_domain domain);

/* The domain of memory mapped at base from fd (facts: MAP_SYNC or devdax -> PM_PMEM, tmpfs/hugetlbfs -> PM_MEMORY,
 * anything else -> PM_FILE). Never guesses upwards. */
enum pm_domain pm_detect(int fd, const void *base, uint64_t len, bool map_sync);
const char *pm_domain_name(enum pm_domain domain); /* "memory", "pmem", "file" */

static inline void pm_ahead(struct pm *pm, uint64_t off, uint64_t len)
{
	if (pm->ahead)
		pm->ahead(pm, off, len);
}

static inline const void *pm_ptr(const struct pm *pm, uint64_t off) { return pm->base + off; }

/* Copies len bytes to off and starts their write-back. off + len <= pm->len is the caller's duty (asserted). */
void pm_write(struct pm *pm, uint64_t off, const void *src, uint64_t len);
void pm_zero(struct pm *pm, uint64_t off, uint64_t len);
/* As pm_write, and every aligned word of 8 bytes that lies whole in the range is stored at once: whoever looks, at whatever
 * moment, also after a crash, finds the old word or the new one. */
void pm_write_words(struct pm *pm, uint64_t off, const void *src, uint64_t len);

/* Starts write-back of bytes that a peer's one-sided write put there. */
void pm_flush(struct pm *pm, uint64_t off, uint64_t len);

/* Waits until everything written or flushed before is durable. -EIO: the medium refused (PM_FILE: msync(2) failed);
 * the ranges stay remembered, and the pool must be treated as failed. */
int pm_fence(struct pm *pm, enum pm_point point);

#endif
