/* The grammar of targets, by tables. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "errmsg.h"
#include "rpmem/target.h"

static const struct {
	const char *text, *user, *host;
	uint16_t port;
} good[] = {
	{ "host", "", "host", 0 },
	{ "host:1", "", "host", 1 },
	{ "host.example:65535", "", "host.example", 65535 },
	{ "me@host", "me", "host", 0 },
	{ "me@host:22", "me", "host", 22 },
	{ "10.0.0.1:2222", "", "10.0.0.1", 2222 },
	{ "::1", "", "::1", 0 },
	{ "fe80::1:22", "", "fe80::1:22", 0 },
	{ "[::1]", "", "::1", 0 },
	{ "me@[::1]:1234", "me", "::1", 1234 },
	{ "me@fe80::1%eth0", "me", "fe80::1%eth0", 0 },
	{ "a_b-c@h-1", "a_b-c", "h-1", 0 },
};

static const char *const bad[] = {
	"", "@", "@host", "me@", ":22", "me@:22", "host:", "host:0", "host:65536", "host:99999999999", "host:2x", "host:-1",
	"host: 1", "[::1", "[::1]x", "[::1]:", "[]", "[]:1", "::1]", "a b", "ho\tst", "-oProxyCommand=x", "-l@host", "me@-x",
	"a@b@c", "host/x", "@Local", "@local:1", "ho\nst",
};

Test(target, reads_what_the_grammar_allows)
{
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct target target;

		cr_assert_eq(target_parse(good[i].text, &target), 0, "%s: %s", good[i].text, errmsg_get());
		cr_expect_not(target.local);
		cr_expect_str_eq(target.user, good[i].user);
		cr_expect_str_eq(target.host, good[i].host);
		cr_expect_eq(target.port, good[i].port, "%s", good[i].text);
	}
}

Test(target, refuses_everything_else_and_says_which)
{
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct target target = { .port = 7 };

		cr_expect_eq(target_parse(bad[i], &target), -EINVAL, "'%s' was accepted", bad[i]);
		cr_expect_eq(target.port, 7, "result touched");
		cr_expect(strstr(errmsg_get(), bad[i]));
	}
}

Test(target, local_is_the_exact_word)
{
	struct target target;

	cr_assert_eq(target_parse("@local", &target), 0);
	cr_expect(target.local);
	cr_expect_str_empty(target.host);
}

/* The longest names pass, one byte more does not and nothing is cut silently. */
Test(target, length_bounds)
{
	char text[400], user[64], host[300];
	struct target target;

	for (unsigned extra = 0; extra < 2; extra++) {
		memset(user, 'u', 32 + extra);
		strcpy(user + 32 + extra, "@h");
		cr_expect_eq(target_parse(user, &target), extra ? -ENAMETOOLONG : 0);
		memset(host, 'h', 255 + extra);
		host[255 + extra] = '\0';
		snprintf(text, sizeof(text), "u@%s:1", host);
		cr_expect_eq(target_parse(text, &target), extra ? -ENAMETOOLONG : 0);
	}
}
