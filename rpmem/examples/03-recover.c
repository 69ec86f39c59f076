/* 3: the machine is gone; what is left?
 *
 *   03-recover TARGET SET
 *
 * Reads the whole pool back into fresh memory and prints every record in it. */
#include <errno.h>
#include <librpmem.h>
#include <stdint.h>
#include <stdio.h>
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

/* What is read is not trusted more than any other input. */
static int records_print(const char *region)
{
	const struct record *records = (const struct record *)(region + DATA_OFF);

	for (uint64_t i = 0; i < RECORDS_MAX; i++) {
		if (!records[i].number)
			continue;
		if (records[i].number != i + 1 || !memchr(records[i].text, '\0', sizeof(records[i].text))) {
			fprintf(stderr, "record %lu is damaged\n", i + 1);
			return 1;
		}
		printf("%lu: %s\n", records[i].number, records[i].text);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct rpmem_pool_attr attr;
	unsigned lanes = 1;
	RPMEMpool *pool;
	char *region;
	int err;

	if (argc != 3) {
		fprintf(stderr, "usage: %s TARGET SET\n", argv[0]);
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
	err = rpmem_read(pool, region + DATA_OFF, DATA_OFF, POOL_BYTES - DATA_OFF, 0);
	if (err)
		fail("rpmem_read");
	else
		err = records_print(region);
	rpmem_close(pool);
	munmap(region, POOL_BYTES);
	return err ? 1 : 0;
}
