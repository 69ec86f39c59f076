/* The part of Criterion's interface our suites use, for builds with SAN=thread: Criterion's own test processes do not
 * start under ThreadSanitizer, whose runtime holds the fixed addresses they map their arena at.
 *
 * A suite is compiled unchanged; this header stands before the system's and brings main() along. Tests run one after
 * another, sorted by name, each in a child forked while the suite has no thread. The parent judges a child by what it
 * left in a shared page (failed checks, skip reason) and by how it ended (.signal, .exit_code, .timeout).
 *
 * main() runs itself once more with TSAN_OPTIONS set, which every process a test starts inherits: reports go to files
 * BINARY.tsan.PID. A file found after a test fails that test and is printed, whoever wrote it: the test, a child that
 * was killed, an rpmemd. Options the user has set follow ours and win, log_path excepted.
 *
 * Differences from Criterion: --verbose is always on; a check that fails in another thread than the test's first ends
 * the whole test; time limits are TSAN_SLOWDOWN times what the suite asks for. */
#ifndef RPMEMFS_TESTS_TSAN_CRITERION_H
#define RPMEMFS_TESTS_TSAN_CRITERION_H

/* What the checks expand to in a suite is warned about no more than with the header this one stands for. */
#pragma GCC system_header

#include <assert.h>
#include <errno.h>
#include <fnmatch.h>
#include <glob.h>
#include <limits.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TSAN_SLOWDOWN 15 /* ThreadSanitizer's manual says 5 to 15 times */
#define TSAN_TESTS_MAX 512

/* A test and a suite take the same options. Zero means not said. */
struct criterion_test_extra_data {
	void (*init)(void);
	void (*fini)(void);
	const char *description;
	double timeout; /* seconds */
	int signal;
	int exit_code;
	bool disabled;
};

struct cr_tsan_entry {
	const char *suite, *name; /* a suite's own options have no name */
	void (*run)(void);
	struct criterion_test_extra_data opt;
};

/* What a test's processes tell the parent. */
struct cr_tsan_shared {
	unsigned failed; /* checks, atomically counted */
	bool skipped;
	char reason[256];
};

struct cr_tsan_state {
	const struct cr_tsan_entry *entries[TSAN_TESTS_MAX];
	unsigned count;
	struct cr_tsan_shared *shared;
	jmp_buf end; /* of the test in its first thread */
	pid_t runner; /* the thread that may jump there */
	char exe[PATH_MAX];
	unsigned passing, failing, crashing;
};

/* Weak: several files of one suite may include this header. */
__attribute__((weak)) struct cr_tsan_state cr_tsan;

static inline void cr_tsan_register(const struct cr_tsan_entry *entry)
{
	assert(cr_tsan.count < TSAN_TESTS_MAX);
	cr_tsan.entries[cr_tsan.count++] = entry;
}

#define CR_TSAN_ENTRY(id, ...)                                                                                         \
	static const struct cr_tsan_entry id = { __VA_ARGS__ };                                                        \
	__attribute__((constructor)) static void id##_register(void)                                                   \
	{                                                                                                              \
		cr_tsan_register(&id);                                                                                 \
	}

#define Test(Suite, Name, ...)                                                                                         \
	static void Suite##_##Name##_impl(void);                                                                       \
	CR_TSAN_ENTRY(Suite##_##Name##_entry, .suite = #Suite, .name = #Name, .run = Suite##_##Name##_impl,            \
		.opt = { __VA_ARGS__ })                                                                                \
	static void Suite##_##Name##_impl(void)

#define TestSuite(Suite, ...) \
	CR_TSAN_ENTRY(Suite##_suite_entry, .suite = #Suite, .opt = { __VA_ARGS__ }) \
	static_assert(true, "takes the semicolon")

/* ---------------------------------------------------------------- checks */

static inline void cr_tsan_failed(const char *file, int line, const char *what)
{
	__atomic_fetch_add(&cr_tsan.shared->failed, 1, __ATOMIC_RELAXED);
	fprintf(stderr, "[----] %s:%d: Assertion Failed\n[----]   %s\n", file, line, what);
}

__attribute__((format(printf, 1, 2))) static inline void cr_tsan_say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fputs("[----]   ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
}

/* Ends the test. Its .fini still runs if the test's first thread calls. */
__attribute__((noreturn)) static inline void cr_tsan_end(void)
{
	if (gettid() == cr_tsan.runner)
		longjmp(cr_tsan.end, 1);
	fflush(NULL);
	_exit(1);
}

__attribute__((format(printf, 1, 2), noreturn)) static inline void cr_skip_test(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(cr_tsan.shared->reason, sizeof(cr_tsan.shared->reason), fmt, args);
	va_end(args);
	cr_tsan.shared->skipped = true;
	cr_tsan_end();
}

#define cr_log_error(...) cr_tsan_say(__VA_ARGS__)
#define cr_log_warn(...)  cr_tsan_say(__VA_ARGS__)
#define cr_log_info(...)  cr_tsan_say(__VA_ARGS__)

#define CR_TSAN_CHECK(ok, what, end, ...)                            \
	do {                                                         \
		if (!(ok)) {                                         \
			cr_tsan_failed(__FILE__, __LINE__, what);    \
			__VA_OPT__(cr_tsan_say(__VA_ARGS__);)        \
			end;                                         \
		}                                                    \
	} while (0)

#define CR_TSAN_ASSERT(ok, what, ...) CR_TSAN_CHECK(ok, what, cr_tsan_end() __VA_OPT__(,) __VA_ARGS__)
#define CR_TSAN_EXPECT(ok, what, ...) CR_TSAN_CHECK(ok, what, (void)0 __VA_OPT__(,) __VA_ARGS__)
#define CR_TSAN_OP(kind, a, op, b, ...) kind((a) op (b), #a " " #op " " #b " is false" __VA_OPT__(,) __VA_ARGS__)
#define CR_TSAN_STR(kind, a, op, b, ...) \
	kind(strcmp((a), (b)) op 0, "as strings: " #a " " #op " " #b " is false" __VA_OPT__(,) __VA_ARGS__)
#define CR_TSAN_ARR(kind, a, op, b, size, ...) \
	kind(memcmp((a), (b), (size)) op 0, "as bytes: " #a " " #op " " #b " is false" __VA_OPT__(,) __VA_ARGS__)

#define cr_assert(ok, ...)            CR_TSAN_ASSERT(ok, #ok " is false" __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_not(ok, ...)        CR_TSAN_ASSERT(!(ok), #ok " is true" __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_fail(...)           CR_TSAN_ASSERT(false, "comes here" __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_null(p, ...)        CR_TSAN_ASSERT(!(p), #p " is not null" __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_not_null(p, ...)    CR_TSAN_ASSERT((p) != NULL, #p " is null" __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_eq(a, b, ...)       CR_TSAN_OP(CR_TSAN_ASSERT, a, ==, b __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_neq(a, b, ...)      CR_TSAN_OP(CR_TSAN_ASSERT, a, !=, b __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_lt(a, b, ...)       CR_TSAN_OP(CR_TSAN_ASSERT, a, <, b __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_leq(a, b, ...)      CR_TSAN_OP(CR_TSAN_ASSERT, a, <=, b __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_gt(a, b, ...)       CR_TSAN_OP(CR_TSAN_ASSERT, a, >, b __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_geq(a, b, ...)      CR_TSAN_OP(CR_TSAN_ASSERT, a, >=, b __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)   CR_TSAN_STR(CR_TSAN_ASSERT, a, ==, b __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...)  CR_TSAN_STR(CR_TSAN_ASSERT, a, !=, b __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_str_empty(a, ...)   CR_TSAN_ASSERT(!*(a), #a " is not empty" __VA_OPT__(,) __VA_ARGS__)
#define cr_assert_arr_eq(a, b, ...)   CR_TSAN_ARR(CR_TSAN_ASSERT, a, ==, b, __VA_ARGS__)
#define cr_assert_arr_neq(a, b, ...)  CR_TSAN_ARR(CR_TSAN_ASSERT, a, !=, b, __VA_ARGS__)

#define cr_expect(ok, ...)            CR_TSAN_EXPECT(ok, #ok " is false" __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_not(ok, ...)        CR_TSAN_EXPECT(!(ok), #ok " is true" __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_fail(...)           CR_TSAN_EXPECT(false, "comes here" __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_null(p, ...)        CR_TSAN_EXPECT(!(p), #p " is not null" __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_not_null(p, ...)    CR_TSAN_EXPECT((p) != NULL, #p " is null" __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_eq(a, b, ...)       CR_TSAN_OP(CR_TSAN_EXPECT, a, ==, b __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_neq(a, b, ...)      CR_TSAN_OP(CR_TSAN_EXPECT, a, !=, b __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_lt(a, b, ...)       CR_TSAN_OP(CR_TSAN_EXPECT, a, <, b __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_leq(a, b, ...)      CR_TSAN_OP(CR_TSAN_EXPECT, a, <=, b __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_gt(a, b, ...)       CR_TSAN_OP(CR_TSAN_EXPECT, a, >, b __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_geq(a, b, ...)      CR_TSAN_OP(CR_TSAN_EXPECT, a, >=, b __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)   CR_TSAN_STR(CR_TSAN_EXPECT, a, ==, b __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...)  CR_TSAN_STR(CR_TSAN_EXPECT, a, !=, b __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_str_empty(a, ...)   CR_TSAN_EXPECT(!*(a), #a " is not empty" __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_str_not_empty(a, ...) CR_TSAN_EXPECT(*(a), #a " is empty" __VA_OPT__(,) __VA_ARGS__)
#define cr_expect_arr_eq(a, b, ...)   CR_TSAN_ARR(CR_TSAN_EXPECT, a, ==, b, __VA_ARGS__)
#define cr_expect_arr_neq(a, b, ...)  CR_TSAN_ARR(CR_TSAN_EXPECT, a, !=, b, __VA_ARGS__)

/* ---------------------------------------------------------------- the runner */

/* Prints and removes the reports written since the last call. */
static inline unsigned cr_tsan_reports(void)
{
	char pattern[PATH_MAX + 16], text[4096];
	unsigned count = 0;
	glob_t found;

	snprintf(pattern, sizeof(pattern), "%s.tsan.*", cr_tsan.exe);
	if (glob(pattern, 0, NULL, &found))
		return 0;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		FILE *file = fopen(found.gl_pathv[i], "r");

		while (file && fgets(text, sizeof(text), file))
			fprintf(stderr, "[----] %s", text);
		if (file)
			fclose(file);
		count += !unlink(found.gl_pathv[i]);
	}
	globfree(&found);
	return count;
}

/* The suite's options, none if it has no TestSuite(). */
static inline struct criterion_test_extra_data cr_tsan_suite(const char *name)
{
	for (unsigned i = 0; i < cr_tsan.count; i++)
		if (!cr_tsan.entries[i]->name && !strcmp(cr_tsan.entries[i]->suite, name))
			return cr_tsan.entries[i]->opt;
	return (struct criterion_test_extra_data){ 0 };
}

/* The child. A failed .init ends the test at once, a failed body only itself, as in Criterion. */
__attribute__((noreturn)) static inline void cr_tsan_child(
	const struct cr_tsan_entry *test, const struct criterion_test_extra_data *suite)
{
	cr_tsan.runner = gettid();
	if (setjmp(cr_tsan.end))
		exit(0);
	if (suite->init)
		suite->init();
	if (test->opt.init)
		test->opt.init();
	if (!setjmp(cr_tsan.end))
		test->run();
	if (!setjmp(cr_tsan.end)) {
		if (test->opt.fini)
			test->opt.fini();
		if (suite->fini)
			suite->fini();
	}
	exit(0);
}

/* Waits for the child, not longer than it may take. Returns whether it had to be stopped. */
static inline bool cr_tsan_wait(pid_t pid, double seconds, int *status)
{
	struct pollfd fd = { .fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN };
	bool late = false;

	if (fd.fd < 0) {
		perror("pidfd_open");
		exit(2);
	}
	if (poll(&fd, 1, seconds > 0 ? (int)(seconds * 1000) : -1) == 0) {
		late = true;
		kill(pid, SIGKILL);
	}
	close(fd.fd);
	if (waitpid(pid, status, 0) != pid) {
		perror("waitpid");
		exit(2);
	}
	return late;
}

/* Counts the test and prints the line it is known by. */
static inline void cr_tsan_judge(const struct cr_tsan_entry *test, bool late, int status, double took)
{
	int killed = WIFSIGNALED(status) ? WTERMSIG(status) : 0, code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
	bool ended_well = killed == test->opt.signal && (killed || code == test->opt.exit_code);
	unsigned reports = cr_tsan_reports();

	if (reports)
		fprintf(stderr, "[----] %u processes of this test wrote a report\n", reports);
	if (cr_tsan.shared->skipped && !reports) {
		fprintf(stderr, "[SKIP] %s::%s: %s\n", test->suite, test->name, cr_tsan.shared->reason);
	} else if (ended_well && !late && !reports && !cr_tsan.shared->failed) {
		cr_tsan.passing++;
		fprintf(stderr, "[PASS] %s::%s: (%.2fs)\n", test->suite, test->name, took);
	} else {
		cr_tsan.failing++;
		cr_tsan.crashing += killed && !ended_well && !late;
		fprintf(stderr, "[FAIL] %s::%s: ", test->suite, test->name);
		if (late)
			fputs("Timed out. ", stderr);
		else if (!ended_well)
			fprintf(stderr, "%s %d. ", killed ? "CRASH! Signal" : "Exit status", killed ? killed : code);
		fprintf(stderr, "(%.2fs)\n", took);
	}
}

static inline void cr_tsan_run(const struct cr_tsan_entry *test)
{
	struct criterion_test_extra_data suite = cr_tsan_suite(test->suite);
	double limit = (test->opt.timeout > 0 ? test->opt.timeout : suite.timeout) * TSAN_SLOWDOWN;
	struct timespec begin, end;
	int status = 0;
	pid_t pid;
	bool late;

	if (test->opt.disabled || suite.disabled) {
		fprintf(stderr, "[SKIP] %s::%s: Test is disabled\n", test->suite, test->name);
		return;
	}
	fprintf(stderr, "[RUN ] %s::%s\n", test->suite, test->name);
	memset(cr_tsan.shared, 0, sizeof(*cr_tsan.shared));
	fflush(NULL);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	pid = fork();
	if (pid < 0) {
		perror("fork");
		exit(2);
	}
	if (pid == 0)
		cr_tsan_child(test, &suite);
	late = cr_tsan_wait(pid, limit, &status);
	clock_gettime(CLOCK_MONOTONIC, &end);
	cr_tsan_judge(test, late, status,
		(double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9);
}

static inline int cr_tsan_compare(const void *a, const void *b)
{
	const struct cr_tsan_entry *const *x = a, *const *y = b;
	int by_suite = strcmp((*x)->suite, (*y)->suite);

	return by_suite ? by_suite : strcmp((*x)->name ? (*x)->name : "", (*y)->name ? (*y)->name : "");
}

/* The runtime reads its options before main(): sets them and starts over. */
static inline void cr_tsan_options(char *argv[])
{
	const char *own = getenv("TSAN_OPTIONS");
	char log[PATH_MAX + 32], options[2 * PATH_MAX + 512];
	ssize_t n = readlink("/proc/self/exe", cr_tsan.exe, sizeof(cr_tsan.exe) - 1);

	if (n < 0) {
		perror("/proc/self/exe");
		exit(2);
	}
	cr_tsan.exe[n] = '\0';
	snprintf(log, sizeof(log), "log_path=\"%s.tsan\"", cr_tsan.exe);
	if (own && strstr(own, log))
		return;
	snprintf(options, sizeof(options), "second_deadlock_stack=1:%s:%s", own ? own : "", log);
	setenv("TSAN_OPTIONS", options, 1);
	execv(cr_tsan.exe, argv);
	perror(cr_tsan.exe);
	exit(2);
}

/* Takes and ignores Criterion's options but --filter SUITE/TEST, a shell pattern. */
__attribute__((weak)) int main(int argc, char *argv[])
{
	const char *filter = "*";
	char name[256];

	cr_tsan_options(argv);
	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], "--filter"))
			filter = argv[i + 1];
	setvbuf(stderr, NULL, _IOLBF, 0); /* lines of a test and of its children stay whole */
	cr_tsan.shared = mmap(NULL, sizeof(*cr_tsan.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (cr_tsan.shared == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	if (cr_tsan_reports())
		fputs("[----] Those were left by an earlier run\n", stderr);
	qsort(cr_tsan.entries, cr_tsan.count, sizeof(cr_tsan.entries[0]), cr_tsan_compare);
	for (unsigned i = 0; i < cr_tsan.count; i++) {
		const struct cr_tsan_entry *test = cr_tsan.entries[i];

		snprintf(name, sizeof(name), "%s/%s", test->suite, test->name ? test->name : "");
		if (test->name && !fnmatch(filter, name, 0))
			cr_tsan_run(test);
	}
	if (cr_tsan_reports())
		cr_tsan.failing++;
	fprintf(stderr, "[====] Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: %u \n",
		cr_tsan.passing + cr_tsan.failing, cr_tsan.passing, cr_tsan.failing, cr_tsan.crashing);
	return cr_tsan.failing != 0;
}

#endif
