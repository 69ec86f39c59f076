/* The command mkfs on real files and real replicas: what it refuses has touched nothing that was there; and who may mount
 * what it made. */
#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "csum.h"
#include "errmsg.h"
#include "fs/cmd.h"
#include "wire.h"

#define PART_BYTES (32u << 20)

static char dir[] = "/dev/shm/test_mkfs.XXXXXX";
static char set_path[64];

static void put_set(const char *name, const char *part, const char *rest)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	cr_assert(f && fprintf(f, "PMEMPOOLSET\n%u %s/%s\n%s", PART_BYTES, dir, part, rest) > 0 && !fclose(f));
}

/* The rpmemd beside this test's build: build/tests/fs/test_mkfs -> build/rpmemd. */
static void use_rpmemd(void)
{
	char exe[PATH_MAX] = "", command[PATH_MAX + 128], *slash;

	cr_assert_gt(readlink("/proc/self/exe", exe, sizeof(exe) - 1), 0);
	for (unsigned i = 0; i < 3; i++) {
		slash = strrchr(exe, '/');
		cr_assert(slash);
		*slash = '\0';
	}
	snprintf(command, sizeof(command), "%s/rpmemd --poolset-dir %s --log-file %s/log", exe, dir, dir);
	cr_assert_eq(setenv("RPMEM_CMD", command, 1), 0);
}

static void setup(void)
{
	cr_assert(mkdtemp(dir));
	snprintf(set_path, sizeof(set_path), "%s/pool.set", dir);
	put_set("pool.set", "local", "REPLICA @local a.set\nREPLICA @local b.set\n");
	put_set("a.set", "a", "");
	put_set("b.set", "b", "");
	use_rpmemd();
	cmd_begin("mkfs");
}

static void teardown(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	cr_assert_eq(system(command), 0);
}

TestSuite(mkfs, .init = setup, .fini = teardown, .timeout = 60);

static int mkfs(const char *option)
{
	char *argv[] = { (char *)"mkfs", (char *)option, set_path, NULL };

	optind = 0;
	return cmd_mkfs(3, argv);
}

/* Checksum and inode of a part: replaced, removed or changed, one of them differs. */
static uint64_t part_now(const char *name, ino_t *ino)
{
	char path[128];
	uint8_t *buf = malloc(PART_BYTES);
	struct stat st;
	uint32_t csum;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	cr_assert(f && buf, "%s is gone", path);
	cr_assert_eq(fread(buf, 1, PART_BYTES, f), PART_BYTES);
	cr_assert_eq(fstat(fileno(f), &st), 0);
	csum = csum_crc32c(0, buf, PART_BYTES);
	fclose(f);
	free(buf);
	*ino = st.st_ino;
	return csum;
}

Test(mkfs, force_replaces_nothing_while_a_replica_cannot_be_reached)
{
	ino_t ino, later_ino;
	uint64_t csum;
	char path[128];

	cr_assert_eq(mkfs("--sparse"), CMD_OK);
	csum = part_now("local", &ino);
	snprintf(path, sizeof(path), "%s/b.set", dir);
	cr_assert_eq(unlink(path), 0);
	cr_expect_eq(mkfs("--force"), CMD_FAILED);
	cr_expect_eq(part_now("local", &later_ino), csum);
	cr_expect_eq(later_ino, ino);
	put_set("b.set", "b", "");
	cr_expect_eq(mkfs("--force"), CMD_OK);
	part_now("local", &later_ino);
	cr_expect_neq(later_ino, ino);
}

/* A replica that was created while another failed is replaced the next time; without --force local parts go again. */
Test(mkfs, a_failed_mkfs_leaves_no_local_parts)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/b.set", dir);
	cr_assert_eq(unlink(path), 0);
	cr_expect_eq(mkfs("--sparse"), CMD_FAILED);
	snprintf(path, sizeof(path), "%s/local", dir);
	cr_expect_neq(access(path, F_OK), 0);
	put_set("b.set", "b", "");
	cr_expect_eq(mkfs("--sparse"), CMD_FAILED, "replica a exists");
	cr_expect_eq(mkfs("--force"), CMD_OK);
}

static uint32_t given_ms;

static int open_timed(const struct poolset_replica *replica, const struct repl_cfg *rc, struct repl_link **out)
{
	(void)replica, (void)out;
	cr_assert(rc->create);
	given_ms = rc->connect_ms;
	return -ENOTCONN;
}

/* To get space behind a large pool takes longer than to connect. */
Test(mkfs, a_large_replica_is_given_time_to_get_its_space)
{
	static const struct {
		uint64_t bytes;
		uint32_t asked_ms, ms;
	} table[] = {
		{ 0, 0, REPL_CONNECT_MS_DEFAULT }, { 1ull << 32, 0, REPL_CONNECT_MS_DEFAULT + 16384 },
		{ 1ull << 40, 5000, 5000 + (4u << 20) }, { UINT64_MAX, 0, UINT32_MAX },
	};
	struct replication_made *made = NULL;
	struct poolset *set;

	cr_assert_eq(poolset_read(set_path, &set), 0);
	for (unsigned i = 0; i < sizeof(table) / sizeof(*table); i++) {
		const struct replication_cfg cfg = { .connect_ms = table[i].asked_ms, .link_open = open_timed };

		cr_expect_eq(replication_make(set, &cfg, table[i].bytes, false, &made), -ENOTCONN);
		cr_expect_eq(given_ms, table[i].ms, "%llu bytes", (unsigned long long)table[i].bytes);
	}
	poolset_free(set);
}

/* Raises the fence of a replica, as a promotion elsewhere does. */
static void fence(const struct poolset_replica *replica, uint64_t epoch)
{
	const struct repl_cfg rc = { .lanes = 1, .open_flags = CTL_OPEN_TAKEOVER | CTL_OPEN_NO_LANES };
	const uint8_t id[16] = { 7 };
	struct repl_link *link;

	cr_assert_eq(repl_link_open(replica, &rc, &link), 0);
	cr_assert_eq(repl_link_wait(link), 0, "%s", link->err_text);
	cr_assert_eq(link->ops->fence(link, link->peer.page.fence_epoch, epoch, id), 0, "%s", errmsg_get());
	link->ops->close(link);
}

static int compare(const struct poolset *set)
{
	struct replication_cfg cfg = { .min_replicas = REPLICATION_MIN_RECORDED };
	struct cmd_local local;
	struct replication *r;
	int err;

	cr_assert_eq(cmd_local_open(set, 0, &local), 0, "%s", errmsg_get());
	cr_assert_eq(replication_epoch(local.copy, &cfg.epoch), 0, "%s", errmsg_get());
	cr_assert_eq(replication_open(set, &cfg, &r), 0, "%s", errmsg_get());
	replication_wait(r, 30000);
	err = replication_compare(r, local.copy);
	replication_close(r);
	cmd_local_close(&local);
	return err;
}

/* The replica does not even let the old primary in; its mount is refused all the same, with the way out. */
Test(mkfs, an_old_primary_is_told_that_it_is_one)
{
	struct poolset *set;

	cr_assert_eq(mkfs("--sparse"), CMD_OK);
	cr_assert_eq(poolset_read(set_path, &set), 0);
	cr_expect_eq(compare(set), 0, "%s", errmsg_get());
	fence(poolset_find(set, "a"), 2);
	cr_expect_eq(compare(set), -ESTALE, "%s", errmsg_get());
	cr_expect(strstr(errmsg_get(), "fenced at epoch 2"), "%s", errmsg_get());
	cr_expect(strstr(errmsg_get(), "rpmemfs restore"), "%s", errmsg_get());
	poolset_free(set);
}
