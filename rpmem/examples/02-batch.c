/* 2: many ranges, one wait.
 *
 *   02-batch TARGET SET FIRST COUNT
 *
 * Adds COUNT records, the first of them numbered FIRST, to the pool that 01-replicate made. rpmem_flush only starts a copy;
 * rpmem_drain waits until everything that was started on the lane is durable: one round trip instead of COUNT. */
#include <errno.h>
#include <librpmem.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define POOL_BYTES (8u << 20)
#define DATA_OFF 4096u

struct record {
	uint64_t number;
	char text[248];
};
#define RECORDS_MAX ((POOL_BYTES - DATA_OFF) / sizeof(struct record))

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", what, strerror(errno), rpmem_errormsg());
	return 1;
}

/* Texts first and numbers behind a drain: flushes that wait for the same drain may arrive in any order. */
static int batch_put(RPMEMpool *pool, char *region, uint64_t first, uint64_t count)
{
	struct record *records = (struct record *)(region + DATA_OFF) + (first - 1);

	for (uint64_t i = 0; i < count; i++) {
		struct record *record = &records[i];

		snprintf(record->text, sizeof(record->text), "record %lu of a batch", first + i);
		if (rpmem_flush(pool, (size_t)(record->text - region), sizeof(record->text), 0, 0))
			return -1;
	}
	if (rpmem_drain(pool, 0, 0))
		return -1;
	for (uint64_t i = 0; i < count; i++) {
		records[i].number = first + i;
		if (rpmem_flush(pool, (size_t)((char *)&records[i] - region), sizeof(records[i].number), 0, 0))
			return -1;
	}
	return rpmem_drain(pool, 0, 0);
}

int main(int argc, char **argv)
{
	struct rpmem_pool_attr attr;
	uint64_t first = argc == 5 ? strtoul(argv[3], NULL, 10) : 0;
	uint64_t count = argc == 5 ? strtoul(argv[4], NULL, 10) : 0;
	unsigned lanes = 1;
	RPMEMpool *pool;
	char *region;
	int err;

	if (first < 1 || first > RECORDS_MAX || count > RECORDS_MAX - (first - 1)) {
		fprintf(stderr, "usage: %s TARGET SET FIRST COUNT; records are numbered 1 to %zu\n", argv[0], RECORDS_MAX);
		return 2;
	}
	region = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (region == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	pool = rpmem_open(argv[1], argv[2], region, POOL_BYTES, &lanes, &attr);
	if (!pool)
		return fail("rpmem_open");
	if (memcmp(attr.signature, "EXAMPLE", sizeof(attr.signature))) {
		fprintf(stderr, "%s at %s is a pool of another program\n", argv[2], argv[1]);
		rpmem_close(pool);
		return 1;
	}
	err = batch_put(pool, region, first, count);
	if (err)
		fail("batch");
	else
		printf("safe: %lu records\n", count);
	if (rpmem_close(pool) && !err)
		return fail("rpmem_close");
	munmap(region, POOL_BYTES);
	return err ? 1 : 0;
}
