/* 1: replicate a region of memory.
 *
 *   01-replicate TARGET SET TEXT...
 *
 * Creates the pool that the poolset file SET describes on TARGET (user@host, or @local) and stores every TEXT as a record
 * there. A record is safe from the loss of this process and machine when its line "safe:" appears. */
#include <errno.h>
#include <librpmem.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define POOL_BYTES (8u << 20)
#define DATA_OFF 4096u /* the first page belongs to the pool's header at the target */

struct record {
	uint64_t number; /* from 1; 0: no record */
	char text[248];
};

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", what, strerror(errno), rpmem_errormsg());
	return 1;
}

static struct record *record_at(char *region, uint64_t number)
{
	return (struct record *)(region + DATA_OFF) + (number - 1);
}

/* Stores locally, then makes the same bytes durable at the target. */
static int record_put(RPMEMpool *pool, char *region, uint64_t number, const char *text)
{
	struct record *record = record_at(region, number);

	snprintf(record->text, sizeof(record->text), "%s", text);
	if (rpmem_persist(pool, (size_t)(record->text - region), sizeof(record->text), 0, 0))
		return -1;
	/* The number comes last: whoever finds it also finds the whole text. Eight bytes never arrive by halves. */
	record->number = number;
	return rpmem_persist(pool, (size_t)((char *)record - region), sizeof(record->number), 0, 0);
}

int main(int argc, char **argv)
{
	struct rpmem_pool_attr attr = { .signature = "EXAMPLE", .major = 1 };
	unsigned lanes = 1;
	RPMEMpool *pool;
	char *region;

	if (argc < 3) {
		fprintf(stderr, "usage: %s TARGET SET TEXT...\n", argv[0]);
		return 2;
	}
	region = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (region == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	pool = rpmem_create(argv[1], argv[2], region, POOL_BYTES, &lanes, &attr);
	if (!pool)
		return fail("rpmem_create");
	for (int i = 3; i < argc; i++) {
		if (record_put(pool, region, (uint64_t)i - 2, argv[i])) {
			fail("rpmem_persist");
			rpmem_close(pool);
			return 1;
		}
		printf("safe: %s\n", argv[i]);
	}
	if (rpmem_close(pool))
		return fail("rpmem_close");
	munmap(region, POOL_BYTES);
	return 0;
}
