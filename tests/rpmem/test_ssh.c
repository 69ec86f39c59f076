/* Links over SSH to a real sshd with throwaway keys on a loopback port, run as the current user. */
#include "tests/support/link_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include "rpmem/target.h"

#define LIMIT 120
#define SSHD "/usr/sbin/sshd"

static struct link_rig rig;
static unsigned port;
static pid_t sshd;

static void run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *fmt, ...)
{
	char command[4 * PATH_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	cr_assert_eq(system(command), 0, "%s", command);
}

static unsigned port_free(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	close(fd);
	return ntohs(addr.sin_port);
}

static bool port_answers(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool answers = !connect(fd, (struct sockaddr *)&addr, sizeof(addr));

	close(fd);
	return answers;
}

static void sshd_start(void)
{
	char conf[PATH_MAX], text[2048];

	port = port_free();
	snprintf(text, sizeof(text),
		 "ListenAddress 127.0.0.1\nPort %u\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nPidFile none\n"
		 "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
		 "PermitRootLogin prohibit-password\n", port, rig.dir, rig.dir);
	file_write(rig.dir, "sshd.conf", text, 0600);
	snprintf(conf, sizeof(conf), "%s/sshd.conf", rig.dir);
	sshd = fork();
	cr_assert_geq(sshd, 0);
	if (!sshd) {
		char log[PATH_MAX];

		prctl(PR_SET_PDEATHSIG, SIGTERM); /* a test that is killed runs no teardown */
		snprintf(log, sizeof(log), "%s/sshd.log", rig.dir);
		if (!freopen(log, "w", stderr))
			_exit(1);
		execl(SSHD, SSHD, "-D", "-e", "-f", conf, (char *)NULL);
		_exit(127);
	}
	for (unsigned i = 0; i < 500 && !port_answers(); i++)
		nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
	cr_assert(port_answers(), "sshd does not listen");
}

/* Keys, sshd, and the client's configuration: host name "replica", nobody else's files. */
static void setup(void)
{
	char text[2048], path[PATH_MAX];

	if (access(SSHD, X_OK))
		cr_skip_test("no " SSHD);
	if (getuid() == 0 && mkdir("/run/sshd", 0755) && errno != EEXIST)
		cr_skip_test("sshd needs /run/sshd");
	link_rig_init(&rig, "");
	run("ssh-keygen -q -t ed25519 -N '' -f %s/host && ssh-keygen -q -t ed25519 -N '' -f %s/key && "
	    "ssh-keygen -q -t ed25519 -N '' -f %s/other && cp %s/key.pub %s/authorized", rig.dir, rig.dir, rig.dir, rig.dir,
	    rig.dir);
	sshd_start();
	snprintf(text, sizeof(text),
		 "Host replica\n  HostName 127.0.0.1\n  Port %u\n  IdentityFile %s/key\n  UserKnownHostsFile %s/known\n"
		 "  GlobalKnownHostsFile /dev/null\nHost stranger\n  HostName 127.0.0.1\n  Port %u\n  IdentityFile %s/other\n"
		 "  UserKnownHostsFile %s/known\n  GlobalKnownHostsFile /dev/null\n", port, rig.dir, rig.dir, port, rig.dir,
		 rig.dir);
	file_write(rig.dir, "config", text, 0600);
	snprintf(path, sizeof(path), "%s/config", rig.dir);
	setenv("RPMEM_SSH_CONFIG", path, 1);
	unsetenv("SSH_AUTH_SOCK");
	rig.replica.target = (char *)"replica";
	file_write(rig.dir, "known", "", 0600);
}

static void teardown(void)
{
	if (rig.link)
		link_rig_close(&rig);
	if (sshd > 0) {
		kill(sshd, SIGTERM);
		waitpid(sshd, NULL, 0);
	}
	if (*rig.dir)
		link_rig_fini(&rig);
}

/* Makes a host key known under the server's name. */
static void host_known(const char *key)
{
	run("awk '{print \"[127.0.0.1]:%u \" $1 \" \" $2}' %s/%s.pub > %s/known", port, rig.dir, key, rig.dir);
}

static void open_fails(int err, const char *says)
{
	cr_expect_eq(link_rig_open(&rig, false), err, "%d: %s", rig.link->err, rig.link->err_text);
	cr_expect(strstr(rig.link->err_text, says), "%s", rig.link->err_text);
	link_rig_close(&rig);
}

/* Unknown, changed, right: only the last is spoken to, the others are told how to put it right. */
Test(ssh, host_keys_are_strict, .timeout = LIMIT, .init = setup, .fini = teardown)
{
	char hint[64];

	open_fails(-EKEYREJECTED, "not known");
	open_fails(-EKEYREJECTED, " replica");
	host_known("other");
	snprintf(hint, sizeof(hint), "ssh-keygen -R '[127.0.0.1]:%u'", port);
	open_fails(-EKEYREJECTED, hint);
	host_known("host");
	open_fails(-ENOENT, "part");
	link_rig_format(&rig);
	cr_expect_not(rig.link->peer.same_machine);
	for (unsigned i = 0; i < 10; i++)
		link_rig_commit(&rig);
	cr_expect_eq(rig.link->acked, 10, "%s", rig.link->err_text);
	chain_fini(&rig.chain);
}

Test(ssh, failures_behind_the_host_key, .timeout = LIMIT, .init = setup, .fini = teardown)
{
	host_known("host");
	rig.replica.target = (char *)"stranger";
	open_fails(-EACCES, "no key or agent was accepted");
	rig.replica.target = (char *)"replica";
	rig.cfg.command = "no-such-rpmemd";
	open_fails(-ECONNRESET, "RPMEM_CMD");
	rig.cfg.command = "sh -c 'echo boom happened >&2; exit 3'";
	open_fails(-ECONNRESET, "status 3: boom happened");
	rig.cfg.command = "cat";
	rig.cfg.connect_ms = 1500;
	open_fails(-ETIMEDOUT, "does not answer");
	kill(sshd, SIGTERM);
	waitpid(sshd, NULL, 0);
	sshd = 0;
	rig.cfg.connect_ms = 5000;
	open_fails(-EHOSTUNREACH, "connecting");
}

/* The end of the SSH session ends the link, though the fabric may still stand. */
Test(ssh, end_of_the_session_is_noticed, .timeout = LIMIT, .init = setup, .fini = teardown)
{
	uint64_t start;

	host_known("host");
	link_rig_format(&rig);
	link_rig_commit(&rig);
	cr_assert_eq(rig.link->acked, 1);
	start = channel_now_ns();
	run("pkill -KILL -P %d", sshd);
	link_rig_await(rig.link, UINT64_MAX);
	cr_expect_eq(rig.link->err, -ECONNRESET, "%s", rig.link->err_text);
	cr_expect_lt(channel_now_ns() - start, 2000000000ull);
	chain_fini(&rig.chain);
}

/* As with ssh(1), what the target says about the port goes before what the configuration says. */
Test(ssh, port_of_the_target_goes_before_the_configuration, .timeout = LIMIT, .init = setup, .fini = teardown)
{
	char target[64];

	host_known("host");
	run("sed -i 's/Port .*/Port 1/' %s/config", rig.dir);
	snprintf(target, sizeof(target), "replica:%u", port);
	rig.replica.target = target;
	open_fails(-ENOENT, "part");
}

/* A key that needs a passphrase is no key: nobody is asked, neither on the terminal nor on stdin, and nothing waits. PEM
 * is the format whose reader asks by itself. */
Test(ssh, a_key_with_a_passphrase_asks_nobody, .timeout = 30, .init = setup, .fini = teardown)
{
	int silent[2], terminal;
	uint64_t start;

	host_known("host");
	run("rm %s/key %s/key.pub && ssh-keygen -q -t rsa -m PEM -N secret -f %s/key && cp %s/key.pub %s/authorized", rig.dir,
	    rig.dir, rig.dir, rig.dir, rig.dir);
	terminal = open("/dev/tty", O_RDWR | O_CLOEXEC); /* without one, stdin would be asked */
	if (terminal >= 0)
		cr_assert_eq(ioctl(terminal, TIOCNOTTY), 0);
	cr_assert_eq(pipe(silent), 0);
	cr_assert_eq(dup2(silent[0], STDIN_FILENO), STDIN_FILENO);
	rig.cfg.connect_ms = 5000;
	start = channel_now_ns();
	open_fails(-EACCES, "no key or agent was accepted");
	cr_expect_lt(channel_now_ns() - start, 5000000000ull);
}

/* An idle control channel must neither be forgotten by what lies on its way nor outlive the other machine. */
Test(ssh, the_connection_is_kept_alive, .timeout = LIMIT, .init = setup, .fini = teardown)
{
	struct target target = { .host = "replica" };
	struct deadline deadline = deadline_in(10000, NULL);
	struct channel *channel;
	socklen_t len = sizeof(int);
	int on = 0, idle = 0;

	host_known("host");
	cr_assert_eq(ssh_open(&target, "cat", &deadline, &channel), 0, "%s", errmsg_get());
	cr_expect_eq(getsockopt(channel->fd, SOL_SOCKET, SO_KEEPALIVE, &on, &len), 0);
	cr_expect_eq(on, 1);
	cr_expect_eq(getsockopt(channel->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, &len), 0);
	cr_expect_leq(idle, 60);
	channel_end(channel);
}

/* A write to a connection that is gone is an error, not a signal. */
Test(ssh, a_lost_connection_raises_no_signal, .timeout = LIMIT, .init = setup, .fini = teardown)
{
	struct target target = { .host = "replica" };
	struct deadline deadline = deadline_in(10000, NULL);
	struct channel *channel;
	char bytes[1024] = "";
	long n = 0;

	host_known("host");
	signal(SIGPIPE, SIG_DFL);
	cr_assert_eq(ssh_open(&target, "cat", &deadline, &channel), 0, "%s", errmsg_get());
	run("pkill -KILL -P %d", sshd);
	for (unsigned i = 0; i < 200 && n >= 0; i++) {
		n = channel->ops->write(channel, bytes, sizeof(bytes));
		poll(NULL, 0, 5);
	}
	cr_expect_eq(n, -ECONNRESET);
	channel_drop(channel);
}

/* An agent whose machine is away, as forwarded ones are sometimes: its socket takes the question. Who waits, waits no longer
 * than he said; who gives up, no longer at all. */
Test(ssh, an_agent_that_never_answers_holds_nobody, .timeout = LIMIT, .init = setup, .fini = teardown)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint64_t start = channel_now_ns();

	host_known("host");
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/fail", rig.dir);
	cr_assert_eq(bind(agent, (struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_eq(listen(agent, 5), 0);
	setenv("SSH_AUTH_SOCK", addr.sun_path, 1);
	rig.cfg.connect_ms = 1500;
	open_fails(-ETIMEDOUT, "try: ssh ");
	cr_expect_geq(channel_now_ns() - start, 1400000000ull);
	rig.cfg.connect_ms = 600000;
	cr_assert_eq(repl_link_open(&rig.replica, &rig.cfg, &rig.link), 0);
	cr_expect_eq(accept4(agent, NULL, NULL, SOCK_CLOEXEC) < 0, 0, "the first one");
	cr_expect_eq(accept4(agent, NULL, NULL, SOCK_CLOEXEC) < 0, 0, "it waits for the agent");
	link_rig_close(&rig);
	close(agent);
	unsetenv("SSH_AUTH_SOCK");
	open_fails(-ENOENT, "part");
}

/* It has to be told to end, and hears that. */
Test(ssh, a_proxy_that_never_answers_holds_nobody, .timeout = LIMIT, .init = setup, .fini = teardown)
{
	uint64_t start = channel_now_ns();

	host_known("host");
	run("sed -i 's/Port .*/ProxyCommand sleep 1000/' %s/config", rig.dir);
	rig.cfg.connect_ms = 1500;
	open_fails(-ETIMEDOUT, "ssh");
	cr_expect_geq(channel_now_ns() - start, 1400000000ull);
}

/* They hang until they are too many: one that a busy machine does not get so far ends by itself. */
static void hang_until_refused(void)
{
	bool refused = false;

	rig.cfg.connect_ms = 500;
	for (unsigned i = 0; i < 50 && !refused; i++) {
		cr_expect_eq(link_rig_open(&rig, false), -ETIMEDOUT, "%s", rig.link->err_text);
		refused = strstr(rig.link->err_text, "4 earlier attempts");
		link_rig_close(&rig);
	}
	cr_assert(refused);
}

static void open_as_soon_as_allowed(void)
{
	int err = -ETIMEDOUT;

	rig.cfg.connect_ms = 30000;
	while (err == -ETIMEDOUT) {
		err = link_rig_open(&rig, false);
		if (err != -ETIMEDOUT)
			cr_expect_eq(err, -ENOENT, "%s", rig.link->err_text);
		link_rig_close(&rig);
	}
}

/* Attempts that cannot be ended do not pile up, and when they end there are new ones. */
Test(ssh, attempts_that_hang_are_few, .timeout = LIMIT, .init = setup, .fini = teardown)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	host_known("host");
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/fail", rig.dir);
	cr_assert_eq(bind(agent, (struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_eq(listen(agent, 100), 0);
	setenv("SSH_AUTH_SOCK", addr.sun_path, 1);
	hang_until_refused();
	close(agent);
	unsetenv("SSH_AUTH_SOCK");
	open_as_soon_as_allowed();
}

/* Each waits for a line, and does not listen to SIGTERM. */
Test(ssh, proxies_that_do_not_end_are_few, .timeout = LIMIT, .init = setup, .fini = teardown)
{
	char go[PATH_MAX], script[2 * PATH_MAX];
	int fd;

	host_known("host");
	snprintf(go, sizeof(go), "%s/fail", rig.dir);
	cr_assert_eq(mkfifo(go, 0600), 0);
	snprintf(script, sizeof(script), "#!/bin/sh\ntrap '' TERM\nread line <%s\n", go);
	file_write(rig.dir, "proxy", script, 0700);
	run("sed -i.old 's,Port .*,ProxyCommand %s/proxy,' %s/config", rig.dir, rig.dir);
	hang_until_refused();
	run("mv %s/config.old %s/config", rig.dir, rig.dir);
	fd = open(go, O_RDWR | O_CLOEXEC); /* does not wait for one to read */
	cr_assert_geq(fd, 0);
	for (unsigned i = 0; i < 50; i++)
		cr_assert_eq(write(fd, "\n", 1), 1);
	open_as_soon_as_allowed();
	close(fd);
}

static pid_t newest_child(void)
{
	char command[64];
	int pid = 0;
	FILE *out;

	snprintf(command, sizeof(command), "exec pgrep -n -P %d", getpid());
	out = popen(command, "re");
	cr_assert_not_null(out);
	cr_assert_eq(fscanf(out, "%d", &pid), 1);
	pclose(out);
	return pid;
}

/* It ends, and is waited for, when it may run again. */
Test(ssh, a_stopped_proxy_does_not_hold_who_closes, .timeout = LIMIT, .init = setup, .fini = teardown)
{
	struct target target = { .host = "replica" };
	char proxy[PATH_MAX + 64];

	host_known("host");
	snprintf(proxy, sizeof(proxy), SSHD " -i -f %s/sshd.conf", rig.dir);
	run("sed -i 's,Port .*,&\\n  ProxyCommand exec %s,' %s/config", proxy, rig.dir);
	for (int lost = 0; lost < 2; lost++) {
		struct deadline deadline = deadline_in(10000, NULL);
		struct channel *channel;
		uint64_t start;
		pid_t pid;

		cr_assert_eq(ssh_open(&target, "cat", &deadline, &channel), 0, "%s", errmsg_get());
		pid = newest_child();
		cr_assert_neq(pid, sshd);
		cr_assert_eq(kill(pid, SIGSTOP), 0);
		start = channel_now_ns();
		channel->ops->close(channel, lost);
		cr_expect_lt(channel_now_ns() - start, 2000000000ull, "lost %d", lost);
		cr_assert_eq(kill(pid, SIGCONT), 0);
		while (!kill(pid, 0))
			poll(NULL, 0, 5);
	}
}
