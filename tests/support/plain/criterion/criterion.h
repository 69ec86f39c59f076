/* As much of Criterion's interface as our suites use, without Criterion: it does not start under ThreadSanitizer. Only
 * SAN=thread builds see this header (see the Makefile); runner.c beside it runs what registers here, each test in a process
 * of its own, and reports in Criterion's words, so that scripts/check reads both. */
#ifndef RPMEMFS_TESTS_PLAIN_CRITERION_H
#define RPMEMFS_TESTS_PLAIN_CRITERION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>

struct plain_opts {
	void (*init)(void);
	void (*fini)(void);
	double timeout; /* seconds */
	int signal;     /* that must end the test */
	int exit_code;
	bool disabled;
	const char *description;
};

struct plain_test {
	const char *suite, *name;
	void (*run)(void); /* NULL: options of the suite */
	struct plain_opts opts;
	struct plain_test *next;
};

void plain_add(struct plain_test *test);
void plain_failed(bool fatal, const char *file, int line, const char *what, const char *fmt, ...);
_Noreturn void plain_skip(const char *fmt, ...);

#define PLAIN_REGISTER(id, ...)                                                             \
	static struct plain_test id = __VA_ARGS__;                                          \
	__attribute__((constructor)) static void id##_add(void) { plain_add(&id); }

#define Test(s, n, ...)                                                                     \
	static void s##_##n##_body(void);                                                   \
	PLAIN_REGISTER(s##_##n##_test, { .suite = #s, .name = #n, .run = s##_##n##_body, .opts = { __VA_ARGS__ } }) \
	static void s##_##n##_body(void)
#define TestSuite(s, ...) PLAIN_REGISTER(s##_suite, { .suite = #s, .opts = { __VA_ARGS__ } })

/* The message's arguments are evaluated after the condition, and only when it does not hold, as Criterion does. */
#define PLAIN_CHECK(holds, fatal, what, ...)                                                \
	do {                                                                                \
		if (!(holds))                                                               \
			plain_failed(fatal, __FILE__, __LINE__, what, "" __VA_ARGS__);     \
	} while (0)

#define cr_assert(c, ...)             PLAIN_CHECK(!!(c), true, #c, __VA_ARGS__)
#define cr_expect(c, ...)             PLAIN_CHECK(!!(c), false, #c, __VA_ARGS__)
#define cr_assert_not(c, ...)         PLAIN_CHECK(!(c), true, "not " #c, __VA_ARGS__)
#define cr_expect_not(c, ...)         PLAIN_CHECK(!(c), false, "not " #c, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)       PLAIN_CHECK((a) == (b), true, #a " == " #b, __VA_ARGS__)
#define cr_expect_eq(a, b, ...)       PLAIN_CHECK((a) == (b), false, #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)      PLAIN_CHECK((a) != (b), true, #a " != " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)      PLAIN_CHECK((a) != (b), false, #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)       PLAIN_CHECK((a) < (b), true, #a " < " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)       PLAIN_CHECK((a) < (b), false, #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)      PLAIN_CHECK((a) <= (b), true, #a " <= " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)      PLAIN_CHECK((a) <= (b), false, #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)       PLAIN_CHECK((a) > (b), true, #a " > " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)       PLAIN_CHECK((a) > (b), false, #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)      PLAIN_CHECK((a) >= (b), true, #a " >= " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)      PLAIN_CHECK((a) >= (b), false, #a " >= " #b, __VA_ARGS__)
#define cr_assert_null(p, ...)        PLAIN_CHECK(!(p), true, #p " is NULL", __VA_ARGS__)
#define cr_expect_null(p, ...)        PLAIN_CHECK(!(p), false, #p " is NULL", __VA_ARGS__)
#define cr_assert_not_null(p, ...)    PLAIN_CHECK(!!(p), true, #p " is not NULL", __VA_ARGS__)
#define cr_expect_not_null(p, ...)    PLAIN_CHECK(!!(p), false, #p " is not NULL", __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)   PLAIN_CHECK(!strcmp(a, b), true, #a " is " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)   PLAIN_CHECK(!strcmp(a, b), false, #a " is " #b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...)  PLAIN_CHECK(!!strcmp(a, b), false, #a " is not " #b, __VA_ARGS__)
#define cr_expect_str_empty(a, ...)   PLAIN_CHECK(!*(a), false, #a " is empty", __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) PLAIN_CHECK(!memcmp(a, b, n), true, #a " is " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) PLAIN_CHECK(!memcmp(a, b, n), false, #a " is " #b, __VA_ARGS__)
#define cr_expect_arr_neq(a, b, n, ...) PLAIN_CHECK(!!memcmp(a, b, n), false, #a " is not " #b, __VA_ARGS__)
#define cr_assert_fail(...)           PLAIN_CHECK(false, true, "failure", __VA_ARGS__)
#define cr_skip_test(...)             plain_skip("" __VA_ARGS__)

#endif
