/* Runs the tests registered through the stand-in for Criterion beside this file: in order of registration, each in a
 * process of its own with its suite's and its own init and fini. A test fails by a check, by a signal it did not announce,
 * by its time limit, or by the exit status with which a sanitizer ends a process that had something to report. */
#include "criterion/criterion.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define SKIPPED 77
#define LIMIT_S_DEFAULT 300

static struct plain_test *first, **last = &first;
static volatile bool failed;
static void (*fini)(void); /* of the test under way; NULL once it runs */

void plain_add(struct plain_test *test)
{
	*last = test;
	last = &test->next;
}

static void say(const char *head, const char *fmt, va_list args)
{
	fprintf(stderr, "%s", head);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
}

/* What a test made is taken away however it ends, a crash apart. */
static _Noreturn void end(int status)
{
	void (*once)(void) = fini;

	fini = NULL;
	if (once)
		once();
	exit(failed ? 1 : status);
}

void plain_failed(bool fatal, const char *file, int line, const char *what, const char *fmt, ...)
{
	va_list args;
	char head[512];

	failed = true;
	snprintf(head, sizeof(head), "%s:%d: %s: ", file, line, what);
	va_start(args, fmt);
	say(head, fmt, args);
	va_end(args);
	if (fatal)
		end(1);
}

void plain_skip(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("skipping: ", fmt, args);
	va_end(args);
	end(SKIPPED);
}

static const struct plain_opts *suite_opts(const char *suite)
{
	static const struct plain_opts none;

	for (const struct plain_test *t = first; t; t = t->next)
		if (!t->run && !strcmp(t->suite, suite))
			return &t->opts;
	return &none;
}

static _Noreturn void child(const struct plain_test *test, const struct plain_opts *suite)
{
	double limit = test->opts.timeout ? test->opts.timeout : suite->timeout;
	void (*init)(void) = test->opts.init ? test->opts.init : suite->init;

	fini = test->opts.fini ? test->opts.fini : suite->fini;
	alarm(limit ? (unsigned)limit * 4 + 1 : LIMIT_S_DEFAULT); /* limits are meant for plain builds */
	if (init)
		init();
	test->run();
	end(0);
}

/* 0: passed; 1: failed; SKIPPED. */
static int run(const struct plain_test *test)
{
	const struct plain_opts *suite = suite_opts(test->suite);
	int status = 0, signal_wanted = test->opts.signal ? test->opts.signal : suite->signal;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0) {
		perror("fork");
		return 1;
	}
	if (!pid)
		child(test, suite);
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status) && WTERMSIG(status) != signal_wanted)
		fprintf(stderr, "ended by signal %d\n", WTERMSIG(status));
	if (signal_wanted)
		return !(WIFSIGNALED(status) && WTERMSIG(status) == signal_wanted);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
		return SKIPPED;
	return !(WIFEXITED(status) && WEXITSTATUS(status) == test->opts.exit_code);
}

int main(void)
{
	unsigned tested = 0, passed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (const struct plain_test *t = first; t; t = t->next) {
		int result;

		if (!t->run || t->opts.disabled)
			continue;
		printf("[RUN ] %s::%s\n", t->suite, t->name);
		result = run(t);
		printf("[%s] %s::%s%s\n", result == SKIPPED ? "SKIP" : result ? "FAIL" : "PASS", t->suite, t->name,
		       result == SKIPPED ? ": see its line above" : "");
		tested += result != SKIPPED;
		passed += !result;
	}
	printf("[====] Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: 0\n", tested, passed, tested - passed);
	return tested != passed;
}
