/* The incarnation of a pool: the same for every opening of it, another one for every other pool under its name. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "rpmemd/incarnation.h"

static char dir[64];

static void set_up(const char *where)
{
	snprintf(dir, sizeof(dir), "%s/test_incarnation.XXXXXX", where);
	cr_assert(mkdtemp(dir));
}

static void tear_down(void)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	cr_assert(!system(cmd));
}

TestSuite(incarnation, .fini = tear_down, .timeout = 30);

static struct poolset *set_of(const char *options, unsigned parts)
{
	char text[512];
	int n = snprintf(text, sizeof(text), "PMEMPOOLSET\n%s", options);
	struct poolset *set;

	for (unsigned i = 0; i < parts; i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n, "2M %s/part%u\n", dir, i);
	cr_assert_eq(poolset_parse("test.set", text, (size_t)n, &set), 0, "%s", errmsg_get());
	return set;
}

/* Opens, or creates with the flags, and tells the incarnation. */
static void look(const struct poolset *set, bool create, unsigned flags, uint8_t out[16])
{
	struct pool_attr attr = { .signature = "TESTSIG", .major = 1 };
	struct pool *pool;
	int err;

	if (set->options & POOLSET_NOHDRS)
		memset(&attr, 0, sizeof(attr));
	err = create ? pool_create(set, 0, &attr, flags, &pool) : pool_open(set, 0, flags, &pool);
	cr_assert_eq(err, 0, "%s", errmsg_get());
	cr_assert_eq(incarnation_of(pool, out), 0, "%s", errmsg_get());
	pool_close(pool);
}

static void life(const char *where, const char *options)
{
	uint8_t made[16], opened[16], again[16];
	struct poolset *set;

	set_up(where);
	set = set_of(options, 2);
	look(set, true, 0, made);
	look(set, false, 0, opened);
	cr_expect_arr_eq(made, opened, 16);
	look(set, false, POOL_RDONLY, opened);
	cr_expect_arr_eq(made, opened, 16);
	look(set, true, POOL_REPLACE, again);
	cr_expect_arr_neq(made, again, 16, "replaced");
	cr_assert_eq(pool_remove(set, 0, false), 0);
	look(set, true, 0, opened);
	cr_expect_arr_neq(opened, again, 16, "removed and made");
	cr_expect_arr_neq(opened, made, 16);
	poolset_free(set);
}

Test(incarnation, of_a_pool_in_memory) { life("/dev/shm", ""); }
Test(incarnation, of_a_pool_in_files) { life("/tmp", ""); }
Test(incarnation, of_a_pool_without_headers) { life("/dev/shm", "OPTION NOHDRS\n"); }

/* One part of several made anew is enough, and so is another order. */
Test(incarnation, of_every_part)
{
	uint8_t one[16], two[16];
	struct poolset *set;
	char path[80];
	FILE *f;

	set_up("/dev/shm");
	set = set_of("OPTION NOHDRS\n", 2);
	look(set, true, 0, one);
	snprintf(path, sizeof(path), "%s/part1", dir);
	cr_assert(!remove(path));
	f = fopen(path, "w");
	cr_assert(f && !fseek(f, (2 << 20) - 1, SEEK_SET) && fputc(0, f) == 0 && !fclose(f));
	look(set, false, 0, two);
	cr_expect_arr_neq(one, two, 16);
	poolset_free(set);
}
