/* librpmem's life and its errors: each row of the errno table, against a real rpmemd. */
#include "tests/support/rpmem_rig.h"
#include "codec.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define LIMIT 60

static struct rpmem_rig rig;

static void set_made(const char *name, const char *text)
{
	rig_file(&rig, name, "PMEMPOOLSET\n%s", text);
}

/* A create that must fail; any thread-local text is better than none. */
static int create_errno(const char *target, const char *set, size_t size, const struct rpmem_pool_attr *attr)
{
	unsigned lanes = 2;

	errno = 0;
	cr_assert_null(rpmem_create(target, set, rig.region, size, &lanes, attr));
	cr_expect_str_not_empty(rpmem_errormsg());
	return errno;
}

static int open_errno(const char *target, const char *set, size_t size)
{
	unsigned lanes = 2;

	errno = 0;
	cr_assert_null(rpmem_open(target, set, rig.region, size, &lanes, NULL));
	cr_expect_str_not_empty(rpmem_errormsg());
	return errno;
}

Test(librpmem, version_check)
{
	cr_expect_null(rpmem_check_version(1, 0));
	cr_expect_null(rpmem_check_version(1, 3));
	cr_expect_str_eq(rpmem_check_version(2, 0), "librpmem major version mismatch (need 2, found 1)");
	cr_expect_str_eq(rpmem_check_version(1, 4), "librpmem minor version mismatch (need 4, found 3)");
}

Test(librpmem, message_is_empty_at_first)
{
	cr_expect_str_empty(rpmem_errormsg());
}

Test(librpmem, arguments_in_order, .timeout = LIMIT)
{
	static char page[8192] __attribute__((aligned(4096)));
	unsigned one = 1, none = 0;
	const struct {
		void *addr;
		size_t size;
		unsigned *lanes;
		const char *target, *set, *text;
	} rows[] = {
		{ NULL, 8192, &one, "@local", "r.set", "invalid pool address" },
		{ page + 8, 8192, &one, "@local", "r.set", "pool address must be aligned" },
		{ page, 8191, &one, "@local", "r.set", "pool size must be aligned" },
		{ page, 0, &one, "@local", "r.set", "invalid pool size" },
		{ page, 8192, NULL, "@local", "r.set", "lanes pointer cannot be NULL" },
		{ page, 8192, &none, "@local", "r.set", "number of lanes must be positive" },
		{ page, 8192, &one, NULL, "r.set", "invalid target" },
		{ page, 8192, &one, "", "r.set", "invalid target" },
		{ page, 8192, &one, "[::1", "r.set", "]" },
		{ page, 8192, &one, "user@", "r.set", "host" },
		{ page, 8192, &one, "host:", "r.set", "port" },
		{ page, 8192, &one, "host:0", "r.set", "port" },
		{ page, 8192, &one, "host:65536", "r.set", "port" },
		{ page, 8192, &one, "host:ssh", "r.set", "port" },
		{ page, 8192, &one, "-oProxyCommand=x", "r.set", "" },
		{ page, 8192, &one, "@local", NULL, "invalid pool set name" },
		{ page, 8192, &one, "@local", "", "invalid pool set name" },
	};

	setenv("RPMEM_CMD", "false", 1);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		errno = 0;
		cr_expect_null(rpmem_create(rows[i].target, rows[i].set, rows[i].addr, rows[i].size, rows[i].lanes, NULL));
		cr_expect_eq(errno, EINVAL, "row %zu: %s", i, strerror(errno));
		cr_expect(strstr(rpmem_errormsg(), rows[i].text), "row %zu: %s", i, rpmem_errormsg());
		errno = 0;
		cr_expect_null(rpmem_open(rows[i].target, rows[i].set, rows[i].addr, rows[i].size, rows[i].lanes, NULL));
		cr_expect_eq(errno, EINVAL, "row %zu: %s", i, strerror(errno));
	}
	cr_expect_eq(rpmem_remove("@local", "r.set", 4), -1);
	cr_expect_eq(errno, EINVAL);
	cr_expect_eq(rpmem_remove("user@", "r.set", 0), -1);
	cr_expect_eq(errno, EINVAL);
}

/* What the target answers, as PMDK's library told it. */
Test(librpmem, errnos_of_the_target, .timeout = LIMIT)
{
	char text[PATH_MAX], path[PATH_MAX];
	int fd;

	rig_init(&rig, "");
	cr_expect_eq(open_errno("@local", "none.set", RIG_BYTES), ENOENT);
	cr_expect_eq(create_errno("@local", "none.set", RIG_BYTES, &rig.attr), ENOENT);
	cr_expect_eq(open_errno("@local", "r.set", RIG_BYTES), ENOENT, "the part is missing");
	cr_expect(strstr(rpmem_errormsg(), "pmempool sync"), "%s", rpmem_errormsg());
	cr_expect_eq(create_errno("@local", "/r.set", RIG_BYTES, &rig.attr), EINVAL, "absolute");
	cr_expect_eq(create_errno("@local", "../r.set", RIG_BYTES, &rig.attr), EINVAL, "leaves the directory");
	set_made("bad.set", "not a part\n");
	cr_expect_eq(create_errno("@local", "bad.set", RIG_BYTES, &rig.attr), EINVAL);
	set_made("small.set", "1M /dev/shm/x\n");
	cr_expect_eq(create_errno("@local", "small.set", 8192, &rig.attr), EINVAL, "below RPMEM_MIN_PART");
	cr_expect_eq(create_errno("@local", "r.set", 2 * RIG_BYTES, &rig.attr), EFBIG);
	cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, NULL), EINVAL, "no attributes, and headers");
	snprintf(text, sizeof(text), "OPTION NOHDRS\n16M %s/nohdr\n", rig.dir);
	set_made("nohdr.set", text);
	cr_expect_eq(create_errno("@local", "nohdr.set", RIG_BYTES, &rig.attr), EINVAL, "attributes, and no headers");
	rig_path(&rig, "part", path);
	cr_expect_neq(access(path, F_OK), 0, "failed creates leave no parts");
	rig_path(&rig, "nohdr", path);
	cr_expect_neq(access(path, F_OK), 0);
	cr_assert_eq(rig_create(&rig), 0, "%s", rpmem_errormsg());
	cr_expect_eq(open_errno("@local", "r.set", RIG_BYTES), EBUSY);
	cr_expect_eq(rpmem_remove("@local", "r.set", 0), -1);
	cr_expect_eq(errno, EAGAIN, "%s", strerror(errno));
	cr_expect_eq(rpmem_close(rig.pool), 0, "%s", rpmem_errormsg());
	rig.pool = NULL;
	cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, &rig.attr), EEXIST);
	cr_expect(strstr(rpmem_errormsg(), "pmempool rm"), "the way out is told: %s", rpmem_errormsg());
	cr_expect_eq(open_errno("@local", "r.set", 2 * RIG_BYTES), EFBIG);
	rig_path(&rig, "part", path);
	fd = open(path, O_RDWR);
	cr_assert_geq(fd, 0);
	cr_assert_eq(pwrite(fd, "damage", 6, 16), 6);
	close(fd);
	cr_expect_eq(open_errno("@local", "r.set", RIG_BYTES), EINVAL, "a damaged header");
	cr_expect(strstr(rpmem_errormsg(), "checksum"), "%s", rpmem_errormsg());
	cr_expect_eq(rpmem_remove("@local", "r.set", 0), 0, "%s", rpmem_errormsg());
	cr_expect_neq(access(path, F_OK), 0);
	cr_expect_eq(rpmem_remove("@local", "r.set", 0), -1);
	cr_expect_eq(errno, ENOENT);
	cr_expect_eq(rpmem_remove("@local", "r.set", RPMEM_REMOVE_FORCE | RPMEM_REMOVE_POOL_SET), 0, "%s", rpmem_errormsg());
	rig_path(&rig, "r.set", path);
	cr_expect_neq(access(path, F_OK), 0);
	rig_fini(&rig);
}

/* What keeps a target from starting, or from being reached. */
Test(librpmem, errnos_of_the_way, .timeout = LIMIT)
{
	rig_init(&rig, "");
	setenv("RPMEM_CMD", "/nonexistent/rpmemd", 1);
	cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, &rig.attr), ECONNRESET);
	setenv("RPMEM_CMD", "true", 1);
	cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, &rig.attr), ECONNRESET);
	setenv("RPMEM_CMD", "cat /etc/os-release", 1);
	cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, &rig.attr), EPROTO, "%s", rpmem_errormsg());
	snprintf(rig.command, sizeof(rig.command), "%.3000s/rpmemd --config /nonexistent/conf", rig.build);
	setenv("RPMEM_CMD", rig.command, 1);
	cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, &rig.attr), ENOENT);
	rig_file(&rig, "bad.conf", "nonsense\n");
	snprintf(rig.command, sizeof(rig.command), "%.3000s/rpmemd --config %s/bad.conf", rig.build, rig.dir);
	setenv("RPMEM_CMD", rig.command, 1);
	cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, &rig.attr), EINVAL);
	cr_expect(strstr(rpmem_errormsg(), "bad.conf:1"), "what it said last is told: %s", rpmem_errormsg());
	snprintf(rig.command, sizeof(rig.command), "%.3000s/rpmemd --poolset-dir relative", rig.build);
	setenv("RPMEM_CMD", rig.command, 1);
	cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, &rig.attr), EINVAL);
	cr_expect_eq(create_errno("127.0.0.1:1", "r.set", RIG_BYTES, &rig.attr), ECONNRESET);
	cr_expect(strstr(rpmem_errormsg(), "127.0.0.1"), "%s", rpmem_errormsg());
	cr_expect_eq(create_errno("no-such-host.invalid", "r.set", RIG_BYTES, &rig.attr), ENOMEDIUM);
	setenv("RPMEM_ENABLE_SOCKETS", "0", 1);
	setenv("RPMEM_ENABLE_VERBS", "0", 1);
	cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, &rig.attr), ENOMEDIUM);
	cr_expect(strstr(rpmem_errormsg(), "RPMEM_ENABLE_SOCKETS"));
	unsetenv("RPMEM_ENABLE_SOCKETS");
	setenv("FI_PROVIDER", "^tcp", 1);
	cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, &rig.attr), ENOMEDIUM);
	unsetenv("FI_PROVIDER");
	setenv("FI_FORK_UNSAFE", "1", 1);
	create_errno("@local", "r.set", RIG_BYTES, &rig.attr);
	cr_expect_str_eq(rpmem_errormsg(), "libfabric is initialized without fork() support (unset FI_FORK_UNSAFE)");
	rig_fini(&rig);
}

/* ---------------------------------------------------------------- answers of a target that is none */

/* Start status 0 and these answers are all the target says. */
static void target_says(const struct ctl_msg *answers, unsigned count)
{
	uint8_t buf[CTL_MSG_BYTES_MAX];
	char path[PATH_MAX], command[PATH_MAX];
	FILE *file;

	rig_path(&rig, "said", path);
	file = fopen(path, "w");
	cr_assert(file);
	cr_assert_eq(fwrite("\0\0\0\0", 1, 4, file), 4);
	for (unsigned i = 0; i < count; i++) {
		size_t len = 0;

		cr_assert_eq(ctl_encode(&answers[i], buf, &len), 0);
		cr_assert_eq(fwrite(buf, 1, len, file), len);
	}
	cr_assert_eq(fclose(file), 0);
	rig_path(&rig, "fake", command);
	rig_file(&rig, "fake", "#!/bin/sh\ncat %s\nexec cat >/dev/null\n", path);
	cr_assert_eq(chmod(command, 0700), 0);
	setenv("RPMEM_CMD", command, 1);
}

/* Each status of the wire, as an answer to CREATE and to OPEN. */
Test(librpmem, errnos_of_refusals, .timeout = LIMIT)
{
	static const struct { enum wire_status status; int want; } rows[] = {
		{ WIRE_BAD_PROTO, EPROTO }, { WIRE_BAD_VERSION, EPROTONOSUPPORT }, { WIRE_BAD_NAME, EINVAL },
		{ WIRE_BAD_SET, EINVAL }, { WIRE_BAD_SIZE, EFBIG }, { WIRE_BAD_ARG, EINVAL }, { WIRE_NO_POOL, ENOENT },
		{ WIRE_EXISTS, EEXIST }, { WIRE_BUSY, EBUSY }, { WIRE_NO_ACCESS, EACCES }, { WIRE_NO_PROVIDER, EMEDIUMTYPE },
		{ WIRE_NO_SPACE, ENOSPC }, { WIRE_NO_MEMORY, ENOMEM }, { WIRE_IO, EIO }, { WIRE_FATAL, EREMOTEIO },
	};
	struct ctl_msg answers[2] = { { .type = CTL_HELLO + CTL_ANSWER, .u.hello = { CTL_VERSION, CTL_VERSION, 0 } },
				      { .type = CTL_ERROR } };

	rig_init(&rig, "");
	strcpy(answers[1].u.error.text, "so it is");
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		answers[1].u.error.status = (uint16_t)rows[i].status;
		target_says(answers, 2);
		cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, &rig.attr), rows[i].want, "status %u: %s",
			     rows[i].status, rpmem_errormsg());
		cr_expect(strstr(rpmem_errormsg(), "so it is"), "%s", rpmem_errormsg());
		cr_expect_eq(open_errno("@local", "r.set", RIG_BYTES), rows[i].want, "status %u: %s", rows[i].status,
			     rpmem_errormsg());
	}
	rig_fini(&rig);
}

/* An rpmemd of another time. */
Test(librpmem, errnos_of_other_versions, .timeout = LIMIT)
{
	struct ctl_msg answer = { .type = CTL_HELLO + CTL_ANSWER, .u.hello = { CTL_VERSION + 1, CTL_VERSION + 2, 0 } };

	rig_init(&rig, "");
	target_says(&answer, 1);
	cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, &rig.attr), EPROTONOSUPPORT);
	cr_expect(strstr(rpmem_errormsg(), "versions 2 to 3"), "%s", rpmem_errormsg());
	answer = (struct ctl_msg){ .type = CTL_ERROR, .u.error.status = WIRE_BAD_VERSION };
	target_says(&answer, 1);
	cr_expect_eq(open_errno("@local", "r.set", RIG_BYTES), EPROTONOSUPPORT);
	cr_expect_eq(rpmem_remove("@local", "r.set", 0), -1);
	cr_expect_eq(errno, EPROTONOSUPPORT);
	answer = (struct ctl_msg){ .type = CTL_STATUS + CTL_ANSWER };
	target_says(&answer, 1);
	cr_expect_eq(open_errno("@local", "r.set", RIG_BYTES), EPROTO, "the answer to another question");
	rig_fini(&rig);
}

/* Files that the user at the target may not use. Root may use all while it has the capability to, so its rpmemd gets none. */
Test(librpmem, errno_of_missing_permission, .timeout = LIMIT)
{
	char path[PATH_MAX];

	rig_init(&rig, "");
	cr_assert_eq(rig_create(&rig), 0, "%s", rpmem_errormsg());
	cr_expect_eq(rpmem_close(rig.pool), 0);
	rig.pool = NULL;
	prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE);
	prctl(PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH);
	rig_path(&rig, "part", path);
	cr_assert_eq(chmod(path, 0), 0);
	cr_expect_eq(open_errno("@local", "r.set", RIG_BYTES), EACCES);
	cr_expect(strstr(rpmem_errormsg(), path), "the file is named: %s", rpmem_errormsg());
	rig_path(&rig, "r.set", path);
	cr_assert_eq(chmod(path, 0), 0);
	cr_expect_eq(create_errno("@local", "r.set", RIG_BYTES, &rig.attr), EACCES);
	cr_expect(strstr(rpmem_errormsg(), path), "the file is named: %s", rpmem_errormsg());
	cr_expect_eq(rpmem_remove("@local", "r.set", 0), -1);
	cr_expect_eq(errno, EACCES);
	rig_fini(&rig);
}

Test(librpmem, lanes_are_negotiated_down, .timeout = LIMIT)
{
	rig_init(&rig, "--nthreads 3");
	rig.lanes = 1024;
	cr_assert_eq(rig_create(&rig), 0, "%s", rpmem_errormsg());
	cr_expect_eq(rig.lanes, 3);
	cr_expect_eq(rpmem_close(rig.pool), 0);
	setenv("RPMEM_MAX_NLANES", "2", 1);
	rig.lanes = 1024;
	rig.pool = rpmem_open("@local", "r.set", rig.region, RIG_BYTES, &rig.lanes, NULL);
	cr_assert(rig.pool, "%s", rpmem_errormsg());
	cr_expect_eq(rig.lanes, 2);
	rig_fini(&rig);
}

Test(librpmem, attributes_come_back, .timeout = LIMIT)
{
	struct rpmem_pool_attr attr, other;

	rig_init(&rig, "");
	rig.attr.ro_compat_features = 0x55;
	for (unsigned i = 0; i < 16; i++) {
		rig.attr.poolset_uuid[i] = (unsigned char)(i + 1);
		rig.attr.uuid[i] = (unsigned char)(i + 2);
		rig.attr.next_uuid[i] = (unsigned char)(i + 3);
		rig.attr.prev_uuid[i] = (unsigned char)(i + 4);
		rig.attr.user_flags[i] = (unsigned char)(i + 5);
	}
	cr_assert_eq(rig_create(&rig), 0, "%s", rpmem_errormsg());
	cr_expect_eq(rpmem_close(rig.pool), 0);
	rig.pool = rpmem_open("@local", "r.set", rig.region, RIG_BYTES, &rig.lanes, &attr);
	cr_assert(rig.pool, "%s", rpmem_errormsg());
	cr_expect_arr_eq(&attr, &rig.attr, sizeof(attr));
	other = rig.attr;
	other.major = 99;
	other.uuid[3] = 0xee;
	cr_expect_eq(rpmem_set_attr(rig.pool, &other), 0, "%s", rpmem_errormsg());
	cr_expect_eq(rpmem_set_attr(rig.pool, NULL), -1);
	cr_expect_eq(errno, EINVAL);
	cr_expect_eq(rpmem_close(rig.pool), 0);
	rig.pool = rpmem_open("@local", "r.set", rig.region, RIG_BYTES, &rig.lanes, &attr);
	cr_assert(rig.pool, "%s", rpmem_errormsg());
	cr_expect_arr_eq(&attr, &other, sizeof(attr));
	rig_fini(&rig);
}

/* Without headers all of the pool is data, and attributes do not exist. */
Test(librpmem, pools_without_headers, .timeout = LIMIT)
{
	static const struct rpmem_pool_attr zero;
	struct rpmem_pool_attr attr;

	rig_init(&rig, "");
	rig_file(&rig, "r.set", "PMEMPOOLSET\nOPTION NOHDRS\n%zu %s/part\n", RIG_BYTES, rig.dir);
	rig.attr = zero;
	cr_assert_eq(rig_create(&rig), 0, "%s", rpmem_errormsg());
	rig_fill(&rig, 0, 8192, 1);
	cr_expect_eq(rpmem_persist(rig.pool, 0, 8192, 0, 0), 0, "%s", rpmem_errormsg());
	cr_expect(rig_same(&rig, 0, 8192));
	cr_expect_eq(rpmem_deep_persist(rig.pool, 0, 64, 0), -1);
	cr_expect_eq(errno, EINVAL);
	attr = zero;
	attr.major = 1;
	cr_expect_eq(rpmem_set_attr(rig.pool, &attr), -1);
	cr_expect_eq(errno, EINVAL);
	cr_expect_eq(rpmem_set_attr(rig.pool, NULL), 0, "%s", rpmem_errormsg());
	cr_expect_eq(rpmem_close(rig.pool), 0);
	memset(&attr, 0xff, sizeof(attr));
	rig.pool = rpmem_open("@local", "r.set", rig.region, RIG_BYTES, &rig.lanes, &attr);
	cr_assert(rig.pool, "%s", rpmem_errormsg());
	cr_expect_arr_eq(&attr, &zero, sizeof(attr));
	cr_expect_eq(rpmem_persist(rig.pool, 0, 64, 0, 0), 0, "%s", rpmem_errormsg());
	rig_fini(&rig);
}

/* A pool with headers keeps them, also when it was opened without asking for its attributes. */
Test(librpmem, wrong_arguments_do_not_stick, .timeout = LIMIT)
{
	char buf[64];

	rig_up(&rig, "");
	cr_expect_eq(rpmem_close(rig.pool), 0);
	rig.pool = rpmem_open("@local", "r.set", rig.region, RIG_BYTES, &rig.lanes, NULL);
	cr_assert(rig.pool, "%s", rpmem_errormsg());
#define REFUSED(call) \
	do { \
		errno = 0; \
		cr_expect_eq(call, -1, #call); \
		cr_expect_eq(errno, EINVAL, #call ": %s", strerror(errno)); \
	} while (0)
	REFUSED(rpmem_persist(rig.pool, 0, 64, 0, 0));
	cr_expect_str_eq(rpmem_errormsg(), "offset (0) in pool is less than 4096 bytes");
	REFUSED(rpmem_persist(rig.pool, 2048, 64, 0, 0));
	REFUSED(rpmem_flush(rig.pool, 4095, 64, 0, 0));
	REFUSED(rpmem_deep_persist(rig.pool, 0, 64, 0));
	REFUSED(rpmem_persist(rig.pool, 4096, 64, 0, 2));
	cr_expect_str_eq(rpmem_errormsg(), "invalid flags (0x2)");
	REFUSED(rpmem_flush(rig.pool, 4096, 64, 0, 4));
	REFUSED(rpmem_drain(rig.pool, 0, 1));
	REFUSED(rpmem_persist(rig.pool, RIG_BYTES, 0, 0, 0));
	REFUSED(rpmem_persist(rig.pool, RIG_BYTES - 63, 64, 0, 0));
	REFUSED(rpmem_persist(rig.pool, RIG_BYTES - 64, (size_t)-64, 0, 0));
	REFUSED(rpmem_persist(rig.pool, (size_t)-64, 64, 0, 0));
	REFUSED(rpmem_persist(rig.pool, 4096, 64, rig.lanes, 0));
	REFUSED(rpmem_drain(rig.pool, rig.lanes, 0));
	REFUSED(rpmem_read(rig.pool, buf, RIG_BYTES, 1, 0));
	REFUSED(rpmem_read(rig.pool, buf, RIG_BYTES - 1, 64, 0));
	REFUSED(rpmem_read(rig.pool, buf, 4096, 64, 1u << 31));
	REFUSED(rpmem_read(rig.pool, NULL, 4096, 64, 0));
#undef REFUSED
	cr_expect_eq(rpmem_persist(rig.pool, 4096, 64, 0, 0), 0, "%s", rpmem_errormsg());
	cr_expect_eq(rpmem_persist(rig.pool, 4096, 0, 0, 0), 0);
	cr_expect_eq(rpmem_drain(rig.pool, 1, 0), 0, "nothing was flushed");
	cr_expect_eq(rpmem_read(rig.pool, buf, 0, 64, 0), 0, "the header may be read");
	cr_expect_arr_eq(buf, "RIGTEST", 8);
	rig_fini(&rig);
}

/* Several commands take turns, one for each create, open and remove. */
Test(librpmem, commands_take_turns, .timeout = LIMIT)
{
	char both[2 * sizeof(rig.command)];
	unsigned failed = 0;

	rig_init(&rig, "");
	snprintf(both, sizeof(both), "false|%s", rig.command);
	setenv("RPMEM_CMD", both, 1);
	for (unsigned i = 0; i < 4; i++)
		failed += rpmem_remove("@local", "r.set", RPMEM_REMOVE_FORCE) != 0;
	cr_expect_eq(failed, 2);
	rig_fini(&rig);
}

/* The program's children, handlers and descriptors are its own. */
Test(librpmem, the_program_is_left_alone, .timeout = LIMIT)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGABRT, SIGINT, SIGTERM, SIGCHLD, SIGPIPE };
	struct sigaction before[8], after;
	int status;
	pid_t pid;

	for (unsigned i = 0; i < 8; i++)
		sigaction(signals[i], NULL, &before[i]);
	rig_up(&rig, "");
	cr_expect_eq(rpmem_persist(rig.pool, 4096, 64, 0, 0), 0);
	for (unsigned i = 0; i < 8; i++) {
		sigaction(signals[i], NULL, &after);
		cr_expect_eq(after.sa_handler, before[i].sa_handler, "signal %d", signals[i]);
	}
	pid = fork();
	if (!pid)
		_exit(17);
	cr_assert_gt(pid, 0);
	cr_expect_eq(waitpid(pid, &status, 0), pid);
	cr_expect_eq(WEXITSTATUS(status), 17);
	cr_expect_eq(rpmem_persist(rig.pool, 4096, 64, 0, 0), 0, "a fork changes nothing for the parent");
	rig_fini(&rig);
}

/* What the log says goes where the environment says, and nowhere without it. */
Test(librpmem, log_by_environment, .timeout = LIMIT)
{
	char path[PATH_MAX], text[4096] = "";
	FILE *file;

	rig_init(&rig, "");
	rig_path(&rig, "ours-", path);
	setenv("RPMEM_LOG_FILE", path, 1);
	setenv("RPMEM_LOG_LEVEL", "3", 1);
	cr_assert_eq(rig_create(&rig), 0, "%s", rpmem_errormsg());
	snprintf(path, sizeof(path), "%s/ours-%d", rig.dir, getpid());
	file = fopen(path, "r");
	cr_assert(file, "%s", path);
	cr_expect_gt(fread(text, 1, sizeof(text) - 1, file), 0);
	fclose(file);
	cr_expect(strstr(text, "created") && strstr(text, "provider tcp"), "%s", text);
	rig_fini(&rig);
}

/* Programs that never ask for the message, as libpmemobj and pmempool, have it in the log: what failed, at which target, why. */
Test(librpmem, the_log_says_why_a_call_failed, .timeout = LIMIT)
{
	static const char *const words[] = { "@local none.set: opening pool set none.set: ", "none.set: No such file or directory",
					     "@local: removing none.set: " };
	char path[PATH_MAX], text[4096] = "";
	FILE *file;

	rig_init(&rig, "");
	rig_path(&rig, "ours", path);
	setenv("RPMEM_LOG_FILE", path, 1);
	setenv("RPMEM_LOG_LEVEL", "1", 1);
	cr_expect_eq(open_errno("@local", "none.set", RIG_BYTES), ENOENT);
	cr_expect_eq(rpmem_remove("@local", "none.set", 0), -1);
	file = fopen(path, "r");
	cr_assert(file, "%s", path);
	cr_expect_gt(fread(text, 1, sizeof(text) - 1, file), 0);
	fclose(file);
	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		cr_expect(strstr(text, words[i]), "no '%s' in\n%s", words[i], text);
	rig_fini(&rig);
}
