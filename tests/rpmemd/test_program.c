/* The program itself, as scripts and initiators meet it: what it prints where, exit statuses, configuration files, log lines,
 * --remove, and one process taking a lost session over from another. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "poolhdr.h"
#include "tests/support/ctl_peer.h"

#define TEXT_BYTES 16384

static char base[] = "/dev/shm/test_program.XXXXXX";
static char program[PATH_MAX], part[64], log_path[64];
static char out[TEXT_BYTES], err[TEXT_BYTES];

static void put(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", base, name);
	f = fopen(path, "w");
	cr_assert(f && fputs(text, f) >= 0 && !fclose(f));
}

static void get(const char *path, char text[TEXT_BYTES])
{
	FILE *f = fopen(path, "r");
	size_t n = f ? fread(text, 1, TEXT_BYTES - 1, f) : 0;

	text[n] = 0;
	if (f)
		fclose(f);
}

/* The program stands beside the folder of the suites: build/rpmemd, build/tests/rpmemd/test_program. */
static void set_up(void)
{
	char text[256];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 16);

	cr_assert_gt(n, 0);
	program[n] = 0;
	for (unsigned i = 0; i < 3; i++)
		*strrchr(program, '/') = 0;
	strcat(program, "/rpmemd");
	cr_assert(!access(program, X_OK), "%s is not built", program);
	cr_assert(mkdtemp(base));
	snprintf(part, sizeof(part), "%s/part", base);
	snprintf(log_path, sizeof(log_path), "%s/log", base);
	snprintf(text, sizeof(text), "PMEMPOOLSET\n8M %s\n", part);
	put("a.set", text);
	setenv("HOME", base, 1);
	unsetenv("SSH_CONNECTION");
}

static void tear_down(void)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", base);
	cr_assert(!system(cmd));
}

TestSuite(program, .init = set_up, .fini = tear_down, .timeout = 60);

/* ---------------------------------------------------------------- processes */

/* Starts it with both ends of the channel at fd, or, when fd is -1, with outputs in files. */
static pid_t start(int fd, char *const argv[])
{
	char out_path[80], err_path[80];
	pid_t pid = fork();

	if (pid)
		return pid;
	snprintf(out_path, sizeof(out_path), "%s/out", base);
	snprintf(err_path, sizeof(err_path), "%s/err", base);
	if (fd < 0) {
		dup2(open("/dev/null", O_RDONLY), 0);
		dup2(open(out_path, O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
	} else {
		dup2(fd, 0);
		dup2(fd, 1);
	}
	dup2(open(err_path, O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
	execv(program, argv);
	_exit(126);
}

static int wait_for(pid_t pid)
{
	int status;

	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int run_argv(char *const argv[])
{
	char path[80];
	int status = wait_for(start(-1, argv));

	snprintf(path, sizeof(path), "%s/out", base);
	get(path, out);
	snprintf(path, sizeof(path), "%s/err", base);
	get(path, err);
	return status;
}

#define RUN(...) run_argv((char *[]){ (char *)"rpmemd", ##__VA_ARGS__, NULL })
#define ARG(text) ((char *)(uintptr_t)(text))

/* ---------------------------------------------------------------- command line */

Test(program, help_and_version_go_to_stderr)
{
	static const char *const words[] = { "-h", "--help", "-V", "--version" };

	for (unsigned i = 0; i < 4; i++) {
		cr_expect_eq(RUN(ARG(words[i])), 0);
		cr_expect_str_eq(out, "");
		cr_expect(strstr(err, i < 2 ? "usage: " : "rpmemd version "), "%s: %s", words[i], err);
	}
}

Test(program, a_wrong_command_line_is_status_255_and_says_nothing_on_stdout)
{
	static const char *const words[] = { "--unknown", "-x", "stray", "--config", "-t", "--log-level", "--log-level=loud",
		"--persist-method=none" };

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		cr_expect_eq(RUN(ARG(words[i])), 255, "%s", words[i]);
		cr_expect_str_eq(out, "");
		cr_expect(strstr(err, "usage: "), "%s: %s", words[i], err);
		cr_expect(strstr(err, "\nrpmemd: "), "the last line is the cause: %s", err);
		cr_expect_eq(strchr(strstr(err, "\nrpmemd: ") + 1, '\n')[1], '\0', "%s", err);
	}
}

/* What keeps it from starting is the four bytes that the initiator reads first. */
static void expect_status(int status)
{
	le32_t word;
	FILE *f;
	char path[80];

	snprintf(path, sizeof(path), "%s/out", base);
	f = fopen(path, "r");
	cr_assert(f);
	cr_assert_eq(fread(&word, sizeof(word), 1, f), 1);
	cr_expect_eq(fgetc(f), EOF);
	fclose(f);
	cr_expect_eq(le32_get(word), (uint32_t)status);
}

Test(program, a_bad_configuration_is_told_as_status)
{
	RUN(ARG("--config"), ARG("/nonexistent/rpmemd.conf"));
	expect_status(ENOENT);
	RUN(ARG("--poolset-dir"), ARG("relative"));
	expect_status(EINVAL);
	put(".rpmemd.conf", "nonsense\n");
	RUN();
	expect_status(EINVAL);
	cr_expect(strstr(err, ".rpmemd.conf:1"), "%s", err);
}

/* End of input instead of a session: status 0, then an end in order. */
Test(program, the_users_file_is_read_and_the_command_line_wins)
{
	char text[256];

	snprintf(text, sizeof(text), "log-file = %s\nuse-syslog = no\nlog-level = info\npoolset-dir = /from-file\n"
		 "persist-apm = yes # comment\n", log_path);
	put(".rpmemd.conf", text);
	cr_expect_eq(RUN(ARG("--poolset-dir"), ARG("/from-line")), 0);
	expect_status(0);
	get(log_path, out);
	cr_expect(strstr(out, "rpmemd version "), "%s", out);
	cr_expect(strstr(out, "ssh connection: "));
	cr_expect(strstr(out, "user: "));
	cr_expect(strstr(out, "configuration"));
	cr_expect(strstr(out, "    pool set directory: '/from-line'"));
	cr_expect(strstr(out, "    persist method: Appliance Persistency Method"));
	cr_expect(strstr(out, "    number of threads: 0"));
}

/* ---------------------------------------------------------------- remove */

static void make_pool(const char *name)
{
	char cmd[200];

	snprintf(cmd, sizeof(cmd), "truncate -s 8M %s/%s", base, name);
	cr_assert(!system(cmd));
}

static bool there(const char *name)
{
	char path[80];

	snprintf(path, sizeof(path), "%s/%s", base, name);
	return !access(path, F_OK);
}

Test(program, remove_exits_with_an_errno)
{
	int fd;

	cr_expect_eq(RUN(ARG("--remove"), ARG("none.set")), ENOENT);
	cr_expect_eq(RUN(ARG("--remove"), ARG("a.set")), ENOENT, "its part is missing");
	cr_expect_eq(RUN(ARG("--remove"), ARG("none.set"), ARG("--force")), 0);
	make_pool("part");
	cr_expect_eq(RUN(ARG("-r"), ARG("a.set")), 0);
	cr_expect(!there("part") && there("a.set"));
	make_pool("part");
	fd = open(part, O_RDWR);
	cr_assert(!flock(fd, LOCK_EX));
	cr_expect_eq(RUN(ARG("-r"), ARG("a.set"), ARG("-f"), ARG("-s")), EAGAIN, "in use");
	cr_expect(there("part") && there("a.set"));
	cr_expect_str_eq(out, "");
	close(fd);
	cr_expect_eq(RUN(ARG("--remove"), ARG("a.set"), ARG("--pool-set")), 0);
	cr_expect(!there("part") && !there("a.set"));
	cr_expect_eq(RUN(ARG("--remove"), ARG("a.set"), ARG("--force"), ARG("--pool-set")), 0);
	cr_expect_neq(RUN(ARG("--remove"), ARG("../a.set")), 0);
	cr_expect_str_eq(out, "");
}

/* ---------------------------------------------------------------- sessions */

struct session {
	pid_t pid;
	int fd;
	struct ctl_session info;
};

static struct ctl_msg answer;

static void session_start(struct session *s)
{
	char *argv[] = { ARG("rpmemd"), ARG("--log-file"), log_path, ARG("--log-level"), ARG("info"), NULL };
	int fds[2];
	le32_t status;

	cr_assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
	s->pid = start(fds[0], argv);
	s->fd = fds[1];
	close(fds[0]);
	cr_assert_eq(recv(s->fd, &status, sizeof(status), MSG_WAITALL), sizeof(status));
	cr_assert_eq(le32_get(status), 0);
	cr_assert_eq(ctl_peer_hello(s->fd), WIRE_OK);
}

/* Files of its own never become standard descriptors that somebody closed: log lines would go into them. */
Test(program, a_closed_stderr_is_filled)
{
	char *argv[] = { ARG("rpmemd"), NULL }, link[64], target[64] = "";
	int fds[2];
	le32_t status;
	pid_t pid;

	cr_assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
	pid = fork();
	if (!pid) {
		dup2(fds[0], 0);
		dup2(fds[0], 1);
		close(2);
		execv(program, argv);
		_exit(126);
	}
	close(fds[0]);
	cr_assert_eq(recv(fds[1], &status, sizeof(status), MSG_WAITALL), sizeof(status));
	snprintf(link, sizeof(link), "/proc/%d/fd/2", (int)pid);
	cr_expect_gt(readlink(link, target, sizeof(target) - 1), 0);
	cr_expect_str_eq(target, "/dev/null");
	close(fds[1]);
	cr_expect_eq(wait_for(pid), 0);
}

static struct ctl_msg open_msg(unsigned type, uint32_t flags)
{
	struct ctl_msg m = { .type = (uint16_t)type, .u.open = { .flags = flags, .lanes = 3, .pool_size = 8 << 20,
		.provider = "tcp", .set_name = "a.set" } };

	if (type == CTL_CREATE) {
		m.u.open.has_attr = 1;
		memcpy(m.u.open.attr.signature, "PMEMOBJ", 8);
		m.u.open.attr.major = 6;
		m.u.open.attr.incompat = POOLHDR_INCOMPAT_CKSUM_2K | POOLHDR_INCOMPAT_SDS;
		for (unsigned i = 0; i < 16; i++)
			m.u.open.attr.poolset_uuid[i] = (uint8_t)(i * 17);
	}
	return m;
}

static unsigned session_open(struct session *s, unsigned type, uint32_t flags, uint64_t before)
{
	struct ctl_msg m = open_msg(type, flags);
	unsigned status;

	m.u.open.session_before = before;
	status = ctl_peer_ask(s->fd, &m, &answer);
	if (status == WIRE_OK)
		s->info = answer.u.session;
	return status;
}

static int session_close(struct session *s)
{
	ctl_peer_plain(s->fd, CTL_CLOSE, &answer);
	close(s->fd);
	return wait_for(s->pid);
}

Test(program, the_log_says_what_scripts_look_for)
{
	static const char *const lines[] = { "create request:", "    pool descriptor: 'a.set'", "    pool size: 8388608",
		"    nlanes: 3", "    provider: tcp", "    buff_size: ", "pool attributes:", "    signature: 'PMEMOBJ'",
		"    major: 6", "    compat_features: 0x0", "    incompat_features: 0x6", "    ro_compat_features: 0x0",
		"    poolset_uuid: 33221100-5544-7766-8899-aabbccddeeff", "    uuid: ", "    next_uuid: ", "    prev_uuid: ",
		"persistency policy:", "    persist method: General Purpose Server Persistency Method", "    persist flush: none",
		"open request:", "cannot create pool set -- '" };
	struct session s;

	session_start(&s);
	cr_expect_eq(session_open(&s, CTL_CREATE, CTL_OPEN_NO_LANES, 0), WIRE_OK);
	cr_expect_eq(session_close(&s), 0);
	session_start(&s);
	cr_expect_eq(session_open(&s, CTL_CREATE, CTL_OPEN_NO_LANES, 0), WIRE_EXISTS);
	cr_expect_eq(session_open(&s, CTL_OPEN, CTL_OPEN_NO_LANES, 0), WIRE_OK);
	cr_expect_eq(session_close(&s), 0);
	get(log_path, out);
	for (unsigned i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		cr_expect(strstr(out, lines[i]), "no line '%s' in\n%s", lines[i], out);
	cr_expect(strstr(out, "a.set': File exists"), "%s", out);
}

/* Each of them ends a session that holds a pool, in order; a session that broke is status 1. */
Test(program, signals_end_it_in_order_and_a_broken_session_is_status_1)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	struct session s;

	session_start(&s);
	cr_assert_eq(session_open(&s, CTL_CREATE, CTL_OPEN_NO_LANES, 0), WIRE_OK);
	cr_expect_eq(session_close(&s), 0);
	for (unsigned i = 0; i < 3; i++) {
		session_start(&s);
		cr_assert_eq(session_open(&s, CTL_OPEN, CTL_OPEN_NO_LANES, 0), WIRE_OK, "%s", answer.u.error.text);
		cr_assert(!kill(s.pid, signals[i]));
		cr_expect_eq(wait_for(s.pid), 0, "signal %d", signals[i]);
		close(s.fd);
	}
	get(log_path, out);
	cr_expect(strstr(out, "session: told to end"), "%s", out);
	session_start(&s);
	cr_assert_eq(session_open(&s, CTL_OPEN, CTL_OPEN_NO_LANES, 0), WIRE_OK, "%s", answer.u.error.text);
	cr_assert_eq(send(s.fd, "RCTL", 4, 0), 4);
	close(s.fd);
	cr_expect_eq(wait_for(s.pid), 1, "the peer was gone in the middle of a message");
}

/* Started by sshd it listens where the peer reached the machine, and leaves it to the initiator to know that address. */
Test(program, the_address_is_that_of_the_ssh_connection)
{
	struct session s;

	setenv("SSH_CONNECTION", "127.0.0.9 40000 127.0.0.1 22", 1);
	session_start(&s);
	cr_assert_eq(session_open(&s, CTL_CREATE, 0, 0), WIRE_OK, "%s", answer.u.error.text);
	cr_expect_str_eq(s.info.address, "");
	cr_expect_neq(s.info.port, 0);
	cr_expect_eq(s.info.lanes, 3);
	cr_expect_eq(session_close(&s), 0);
	get(log_path, out);
	cr_expect(strstr(out, "ssh connection: 127.0.0.9 40000 127.0.0.1 22"), "%s", out);
	setenv("SSH_CONNECTION", "nonsense", 1);
	RUN();
	expect_status(EINVAL);
	unsetenv("SSH_CONNECTION");
	session_start(&s);
	cr_assert_eq(session_open(&s, CTL_OPEN, 0, 0), WIRE_OK);
	cr_expect_str_eq(s.info.address, "127.0.0.1");
	cr_expect_eq(session_close(&s), 0);
}

/* What the configuration wishes for is what the session gets, where it proves persistence: memory over tcp. */
Test(program, the_method_is_the_configurations_where_it_holds)
{
	static const struct { const char *line; uint32_t method; const char *log; } cases[] = {
		{ "", WIRE_METHOD_GPSPM, "    persist method: General Purpose Server Persistency Method" },
		{ "persist-method = commit\n", WIRE_METHOD_COMMIT, "    persist method: Commit Completion" },
		{ "persist-apm = yes\n", WIRE_METHOD_GPSPM, "Appliance Persistency Method does not prove persistence with tcp" },
		{ "persist-apm = yes\npersist-force = yes\n", WIRE_METHOD_APM, "is forced, though" },
	};
	struct session s;

	session_start(&s);
	cr_assert_eq(session_open(&s, CTL_CREATE, CTL_OPEN_NO_LANES, 0), WIRE_OK);
	session_close(&s);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		put(".rpmemd.conf", cases[i].line);
		remove(log_path);
		session_start(&s);
		cr_assert_eq(session_open(&s, CTL_OPEN, 0, 0), WIRE_OK, "%s", answer.u.error.text);
		cr_expect_eq(s.info.method, cases[i].method, "%s", cases[i].line);
		cr_expect_eq(session_close(&s), 0);
		get(log_path, out);
		cr_expect(strstr(out, cases[i].log), "%s: %s", cases[i].line, out);
	}
}

/* Of a lost session: its own initiator may end it by its number, whatever state it is in, and nobody by another one. */
static void replaced(int signal)
{
	struct session old, new;
	uint8_t before[16];

	session_start(&old);
	cr_assert_eq(session_open(&old, CTL_CREATE, 0, 0), WIRE_OK, "%s", answer.u.error.text);
	cr_assert_eq(ctl_peer_plain(old.fd, CTL_PING, &answer), WIRE_OK);
	memcpy(before, old.info.incarnation, sizeof(before));
	if (signal)
		kill(old.pid, signal);
	session_start(&new);
	cr_expect_eq(session_open(&new, CTL_OPEN, 0, 0), WIRE_BUSY);
	cr_expect_eq(session_open(&new, CTL_OPEN, 0, old.info.session + 1), WIRE_BUSY);
	cr_expect_eq(waitpid(old.pid, NULL, WNOHANG), 0);
	cr_assert_eq(session_open(&new, CTL_OPEN, 0, old.info.session), WIRE_OK, "%s", answer.u.error.text);
	cr_expect_arr_eq(new.info.incarnation, before, 16);
	cr_expect_neq(new.info.session, old.info.session);
	wait_for(old.pid);
	close(old.fd);
	cr_expect_eq(session_close(&new), 0);
}

Test(program, a_lost_session_is_replaced_by_its_number) { replaced(0); }
Test(program, a_stopped_session_is_replaced_by_its_number) { replaced(SIGSTOP); }

/* The answer to the replacement was lost: the initiator still asks by the old number. */
Test(program, a_replacement_nobody_heard_of_is_replaced_by_the_old_number)
{
	struct session first, second, third;

	session_start(&first);
	cr_assert_eq(session_open(&first, CTL_CREATE, 0, 0), WIRE_OK);
	cr_assert_eq(ctl_peer_plain(first.fd, CTL_PING, &answer), WIRE_OK);
	session_start(&second);
	cr_assert_eq(session_open(&second, CTL_OPEN, 0, first.info.session), WIRE_OK);
	session_start(&third);
	cr_expect_eq(session_open(&third, CTL_OPEN, 0, first.info.session), WIRE_OK, "%s", answer.u.error.text);
	wait_for(first.pid);
	wait_for(second.pid);
	close(first.fd);
	close(second.fd);
	cr_expect_eq(session_close(&third), 0);
}

/* The pool was made anew meanwhile: the incarnation tells. */
Test(program, a_pool_made_anew_is_another_incarnation)
{
	struct session s;
	uint8_t before[16];

	session_start(&s);
	cr_assert_eq(session_open(&s, CTL_CREATE, CTL_OPEN_NO_LANES, 0), WIRE_OK);
	memcpy(before, s.info.incarnation, sizeof(before));
	session_close(&s);
	cr_assert_eq(RUN(ARG("-r"), ARG("a.set")), 0);
	session_start(&s);
	cr_assert_eq(session_open(&s, CTL_CREATE, CTL_OPEN_NO_LANES, 0), WIRE_OK);
	cr_expect_arr_neq(s.info.incarnation, before, 16);
	session_close(&s);
}
