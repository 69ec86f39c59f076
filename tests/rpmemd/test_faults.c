/* What the pool store calls fails once, in turn: allocations, mappings and msync, system calls on files, descriptors.
 * A set of two parts, one of which is an empty file that was there before, lies on what says that it is a disk.
 *
 * A run creates, changes the attributes, opens, stores and removes. What fails says so with the errno of the fault,
 * leaves no descriptor, mapping, lock or part behind, and works when it is tried again; a change of attributes that
 * failed has changed none. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "errmsg.h"
#include "log.h"
#include "rpmemd/store.h"
#include "tests/support/fault_rig.h"
#include "tests/support/faults.h"

#define LIMIT 60
#define PARTS 2u
#define OLD_PART 1u /* the one that is there before */

static char dir[] = "/dev/shm/store-faults-XXXXXX";
static struct leftovers before;

static struct {
	enum fault_kind kind;
	struct fault_point point;
	unsigned failures;
	uint32_t major; /* the pool's attribute */
} now;

#define WHERE "%s +0x%lx time %u: "
#define HERE fault_names[now.kind], fault_offset(&now.point), now.point.nth

static void path_of(unsigned part, char path[128])
{
	snprintf(path, 128, "%s/part%u", dir, part);
}

static void set_up(void)
{
	char path[128];
	FILE *file;

	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/a.set", dir);
	file = fopen(path, "w");
	cr_assert(file && fputs("PMEMPOOLSET\n", file) >= 0);
	for (unsigned i = 0; i < PARTS; i++)
		cr_assert_gt(fprintf(file, "2M %s/part%u\n", dir, i), 0);
	cr_assert_eq(fclose(file), 0);
	fault_on_disk(true);
	log_open("test", "/dev/null", LOG_LEVEL_ERROR);
}

static void tear_down(void)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	cr_assert_eq(system(cmd), 0);
}

TestSuite(store_faults, .init = set_up, .fini = tear_down, .timeout = LIMIT);

/* ---------------------------------------------------------------- one run */
static bool errno_right(int err)
{
	switch (now.kind) {
	case FAULT_ALLOC:
		return err == -ENOMEM;
	case FAULT_MAP:
		return err == -ENOMEM || err == -EIO;
	case FAULT_FILE:
		return err == -EIO || err == -ENOLCK;
	default:
		return err == -EMFILE;
	}
}

static void check_left(const char *call)
{
	cr_assert(leftovers_same(&before), WHERE "%s: %u descriptors, %ld bytes, were %u, %ld", HERE, call, fault_fds(),
		  fault_mapped(), before.fds, before.mapped);
}

static void failed(const char *call, int err)
{
	bool hit;

	fault_disarm(&hit);
	cr_assert(hit, WHERE "%s: %d %s", HERE, call, err, errmsg_get());
	cr_assert_eq(now.failures++, 0, WHERE "%s fails again: %d %s", HERE, call, err, errmsg_get());
	cr_assert(errno_right(err), WHERE "%s: %d %s", HERE, call, err, errmsg_get());
}

/* -1: no such file. */
static long part_bytes(unsigned part)
{
	enum fault_side side = fault_side(FAULT_ASIDE);
	char path[128];
	struct stat st;
	long bytes;

	path_of(part, path);
	bytes = stat(path, &st) ? -1 : (long)st.st_size;
	fault_side(side);
	return bytes;
}

static void check_none(const char *call)
{
	for (unsigned i = 0; i < PARTS; i++)
		cr_assert_eq(part_bytes(i), i == OLD_PART ? 0 : -1, WHERE "%s: part %u has %ld bytes", HERE, call, i,
			     part_bytes(i));
}

static void old_part_make(void)
{
	enum fault_side side = fault_side(FAULT_ASIDE);
	char path[128];

	path_of(OLD_PART, path);
	close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	fault_side(side);
}

static void parts_unlink(void)
{
	enum fault_side side = fault_side(FAULT_ASIDE);
	char path[128];

	for (unsigned i = 0; i < PARTS; i++) {
		path_of(i, path);
		unlink(path);
	}
	fault_side(side);
}

static void create(struct stored *s)
{
	struct ctl_open req = { .has_attr = 1, .pool_size = 3u << 20, .set_name = "a.set",
				.attr = { .signature = "FAULTY", .major = 1 } };
	int err;

	now.major = 1;
	while ((err = store_create(dir, &req, s))) {
		failed("create", err);
		check_left("create");
		check_none("create");
	}
}

static void open_it(struct stored *s)
{
	struct ctl_open req = { .pool_size = 3u << 20, .set_name = "a.set" };
	int err;

	while ((err = store_open(dir, &req, s))) {
		failed("open", err);
		check_left("open");
	}
	cr_assert_eq(s->pool->attr.major, now.major, WHERE "attributes of %u, not %u", HERE, s->pool->attr.major, now.major);
}

/* A change that failed ends the pool's session, and the next one finds the attributes of before: all headers, or no
 * pool. */
static void change(struct stored *s)
{
	struct pool_attr attr = s->pool->attr;
	int err;

	attr.major++;
	err = store_set_attr(s, &attr);
	if (err) {
		failed("set_attr", err);
		store_close(s);
		open_it(s);
		err = store_set_attr(s, &attr);
	}
	cr_assert_eq(err, 0, WHERE "set_attr: %d %s", HERE, err, errmsg_get());
	now.major++;
}

static void store_some(struct stored *s)
{
	struct pm *pm = &s->pool->pm;
	uint64_t word = 0x5a5a5a5a5a5a5a5aull;
	int err;

	pm_write(pm, pm->len - 4096, &word, sizeof(word));
	err = pm_fence(pm, PM_POINT_USER);
	if (!err)
		return;
	failed("fence", err);
	store_close(s);
	open_it(s);
}

static void remove_it(void)
{
	int err = store_remove(dir, "a.set", 0);

	if (err) {
		failed("remove", err);
		check_left("remove");
		err = store_remove(dir, "a.set", STORE_REMOVE_FORCE);
	}
	cr_assert_eq(err, 0, WHERE "remove: %d %s", HERE, err, errmsg_get());
	for (unsigned i = 0; i < PARTS; i++)
		cr_assert_eq(part_bytes(i), -1, WHERE "part %u is still there", HERE, i);
}

/* What cannot be taken away stays, and the log says so. */
static void discard(struct stored *s)
{
	store_discard(s);
	if (fault_hit() && !now.failures) {
		parts_unlink();
		old_part_make();
	}
	check_none("discard");
}

static void life(void)
{
	struct stored s;

	now.failures = 0;
	old_part_make();
	create(&s);
	discard(&s);
	create(&s);
	change(&s);
	store_close(&s);
	open_it(&s);
	change(&s);
	store_some(&s);
	store_close(&s);
	check_left("close");
	open_it(&s);
	store_close(&s);
	remove_it();
	check_left("remove");
}

static void each(enum fault_kind kind, unsigned least)
{
	now.kind = kind;
	before = leftovers_now();
	cr_expect_geq(fault_each(kind, FAULT_NEAR, life, &now.point), least);
}

Test(store_faults, allocations)
{
	each(FAULT_ALLOC, 20);
}

Test(store_faults, mappings_and_msync)
{
	each(FAULT_MAP, 20);
}

Test(store_faults, files)
{
	each(FAULT_FILE, 60);
}

Test(store_faults, descriptors)
{
	each(FAULT_FD, 4);
}
