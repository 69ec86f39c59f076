/* Tests rpmem/poolset.c: the grammar, its edges, and what it makes of a set. */
#include "poolset.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "errmsg.h"

#define HEAD "PMEMPOOLSET\n"

static struct poolset *parsed(const char *text)
{
	struct poolset *set = NULL;
	int err = poolset_parse("t.set", text, strlen(text), &set);

	cr_assert_eq(err, 0, "%s -> %d %s", text, err, errmsg_get());
	return set;
}

Test(poolset, comments_and_blanks)
{
	struct poolset *set = parsed(HEAD "# a comment\n"
					  "\n"
					  "OPTION SINGLEHDR # all in one\n"
					  "1G /none/a#no blank needed\n"
					  "  20MB\t \t/none/b\t\n");

	cr_expect_eq(set->options, POOLSET_SINGLEHDR);
	cr_assert_eq(set->replicas[0].part_count, 2);
	cr_expect_str_eq(set->replicas[0].parts[0].path, "/none/a");
	cr_expect_str_eq(set->replicas[0].parts[1].path, "/none/b");
	cr_expect_eq(set->replicas[0].parts[1].size, 20000000);
	poolset_free(set);
}

Test(poolset, parts_and_replicas)
{
	struct poolset *set = parsed(HEAD "1G /none/a # first\n"
					  "#\n"
					  "\n"
					  " 2097153 \t /none/b \n"
					  "REPLICA\n"
					  "4MiB /none/c\n"
					  "REPLICA user@host:2222 sets/mine.set\n"
					  "REPLICA @local other");

	cr_assert_eq(set->replica_count, 4);
	cr_expect_str_eq(set->path, "t.set");
	cr_expect_eq(set->options, 0);
	cr_expect_eq(set->replicas[0].part_count, 2);
	cr_expect_eq(set->replicas[0].line, 1);
	cr_expect_str_eq(set->replicas[0].name, "local");
	cr_expect_null(set->replicas[0].target);
	cr_expect_str_eq(set->replicas[0].parts[0].path, "/none/a");
	cr_expect_eq(set->replicas[0].parts[0].size, 1ull << 30);
	cr_expect_eq(set->replicas[0].parts[1].size, 2097153);
	cr_expect_eq(set->replicas[0].parts[1].is_dir, false);
	cr_expect_eq(set->replicas[1].line, 6);
	cr_expect_null(set->replicas[1].target);
	cr_expect_str_eq(set->replicas[1].parts[0].path, "/none/c");
	cr_expect_str_eq(set->replicas[2].target, "user@host:2222");
	cr_expect_str_eq(set->replicas[2].set_name, "sets/mine.set");
	cr_expect_str_eq(set->replicas[2].name, "mine");
	cr_expect_eq(set->replicas[2].part_count, 0);
	cr_expect_str_eq(set->replicas[3].target, "@local");
	cr_expect_eq(set->replicas[3].line, 9);
	cr_expect_eq(poolset_find(set, "mine"), &set->replicas[2]);
	cr_expect_eq(poolset_find(set, "other"), &set->replicas[3]);
	cr_expect_null(poolset_find(set, "local"), "only remote replicas are found by name");
	poolset_free(set);
}

Test(poolset, short_names_are_unique)
{
	struct poolset *set = parsed(HEAD "2M /none/a\n"
					  "REPLICA h a.set\nREPLICA h x/a-2\nREPLICA h y/a\nREPLICA h local\nREPLICA h .set\n"
					  "REPLICA h 0123456789012345678901234567890123456789012345678901234567890\n"
					  "REPLICA h 0123456789012345678901234567890123456789012345678901234567890\n");
	static const char *const names[] = { "local", "a", "a-2", "a-3", "local-2", ".set",
					     "01234567890123456789012345678901234567890123456",
					     "012345678901234567890123456789012345678901234-2" };

	cr_assert_eq(set->replica_count, 8);
	for (unsigned i = 0; i < 8; i++)
		cr_expect_str_eq(set->replicas[i].name, names[i]);
	poolset_free(set);
}

Test(poolset, refused_texts)
{
	static const struct {
		const char *text;
		const char *message; /* part of it */
	} bad[] = {
		{ "", "first line" },
		{ "PMEMPOOLSE\n2M /a\n", "first line" },
		{ "PMEMPOOLSET \n2M /a\n", "first line" },
		{ "\nPMEMPOOLSET\n2M /a\n", "first line" },
		{ "PMEMPOOLSET", "no parts" },
		{ HEAD, "no parts" },
		{ HEAD "2M /a\n \n", "t.set:3: blank line" },
		{ HEAD "2M /a\n\t# comment\n", "blank line" },
		{ HEAD "2M\n", "t.set:2: expected" },
		{ HEAD "2M /a b\n", "expected" },
		{ HEAD "2M a\n", "not absolute" },
		{ HEAD "0 /a\n", "no size" },
		{ HEAD "2X /a\n", "no size" },
		{ HEAD "-2M /a\n", "no size" },
		{ HEAD "2M /a\n2M /a\n", "twice" },
		{ HEAD "REPLICA\n2M /a\n", "no parts" },
		{ HEAD "2M /a\nREPLICA\n", "replica of line 3 has no parts" },
		{ HEAD "2M /a\nREPLICA\nREPLICA h s\n", "no parts" },
		{ HEAD "2M /a\nREPLICA h\n", "REPLICA takes" },
		{ HEAD "2M /a\nREPLICA h s t\n", "REPLICA takes" },
		{ HEAD "2M /a\nREPLICA h /s\n", "relative" },
		{ HEAD "2M /a\nREPLICA h s/\n", "ends in" },
		{ HEAD "2M /a\nREPLICA h s\n2M /b\n", "remote replica has no parts" },
		{ HEAD "2M /a\nOPTION\n", "OPTION takes" },
		{ HEAD "2M /a\nOPTION SINGLEHDR NOHDRS\n", "OPTION takes" },
		{ HEAD "2M /a\nOPTION singlehdr\n", "unknown option" },
		{ HEAD "OPTION NOHDRS\nOPTION SINGLEHDR\n2M /a\n", "exclude" },
		{ HEAD "2M /a\r\n", "DOS line end" },
		{ HEAD "2M /a\033[31m\n", "control character 0x1b" },
		{ HEAD "8388607T /a\n8388607T /b\n", "too large" },
		{ HEAD "2M /none/a\n2M /tmp\nOPTION SINGLEHDR\n", "mixed" },
		{ HEAD "2M /tmp\n", "needs OPTION SINGLEHDR" },
		{ HEAD "AUTO /tmp\nOPTION SINGLEHDR\n", "AUTO is for device dax" },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct poolset *set = (struct poolset *)&set;
		int err = poolset_parse("t.set", bad[i].text, strlen(bad[i].text), &set);

		cr_expect_eq(err, -EINVAL, "%zu: %d", i, err);
		cr_expect_eq((void *)set, (void *)&set, "%zu: *out was touched", i);
		cr_expect(strstr(errmsg_get(), bad[i].message), "%zu: message is '%s'", i, errmsg_get());
	}
}

/* Every cut of a good text, every NUL in it: refused or parsed, never a crash (run under the address sanitizer). */
Test(poolset, truncation_and_nul_at_every_length)
{
	static const char text[] = HEAD "OPTION NOHDRS\n4M /none/a\nREPLICA\n5MiB /none/b\nREPLICA user@h set/x.set\n";

	for (size_t len = 0; len < sizeof(text); len++) {
		char *copy = malloc(len ? len : 1); /* exact, so that a read behind the end is seen */
		struct poolset *set;

		memcpy(copy, text, len);
		if (!poolset_parse("t.set", copy, len, &set))
			poolset_free(set);
		if (len) {
			copy[len / 2] = '\0';
			cr_expect_eq(poolset_parse("t.set", copy, len, &set), -EINVAL);
		}
		free(copy);
	}
}

static char *many(const char *head, const char *fmt, unsigned count)
{
	char *text = NULL;
	size_t len;
	FILE *file = open_memstream(&text, &len);

	fputs(head, file);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	for (unsigned i = 0; i < count; i++)
		fprintf(file, fmt, i);
#pragma GCC diagnostic pop
	fclose(file);
	return text;
}

static void expect_bound(char *good, char *bad)
{
	struct poolset *set;

	cr_expect_eq(poolset_parse("t.set", good, strlen(good), &set), 0, "%s", errmsg_get());
	poolset_free(set);
	cr_expect_eq(poolset_parse("t.set", bad, strlen(bad), &set), -E2BIG);
	free(good);
	free(bad);
}

Test(poolset, bounds_hold)
{
	char line[POOLSET_LINE_BYTES_MAX + 40];

	expect_bound(many(HEAD, "2M /none/%u\n", POOLSET_PARTS_MAX), many(HEAD, "2M /none/%u\n", POOLSET_PARTS_MAX + 1));
	expect_bound(many(HEAD "2M /none/a\n", "REPLICA h s%u\n", POOLSET_REPLICAS_MAX - 1),
		     many(HEAD "2M /none/a\n", "REPLICA h s%u\n", POOLSET_REPLICAS_MAX));
	expect_bound(many(HEAD "2M /none/a\n", "REPLICA h %0255u\n", 1), many(HEAD "2M /none/a\n", "REPLICA h %0256u\n", 1));
	for (unsigned over = 0; over < 2; over++) {
		struct poolset *set;

		memset(line, 'x', sizeof(line));
		memcpy(line, HEAD "2M /", 16);
		line[12 + POOLSET_LINE_BYTES_MAX - 1 + over] = '\0';
		cr_expect_eq(poolset_parse("t.set", line, strlen(line), &set), over ? -E2BIG : 0);
		if (!over)
			poolset_free(set);
	}
}

Test(poolset, size_words)
{
	static const struct {
		const char *word;
		uint64_t bytes; /* 0: refused */
	} cases[] = {
		{ "1", 1 }, { "4096", 4096 }, { "7B", 7 }, { "1K", 1024 }, { "1M", 1 << 20 }, { "1G", 1 << 30 },
		{ "1T", 1ull << 40 }, { "1P", 1ull << 50 }, { "2KiB", 2048 }, { "64MiB", 64 << 20 }, { "1GiB", 1 << 30 },
		{ "1TiB", 1ull << 40 }, { "1PiB", 1ull << 50 }, { "1kB", 1000 }, { "3MB", 3000000 }, { "1GB", 1000000000 },
		{ "1TB", 1000000000000 }, { "1PB", 1000000000000000 }, { "18446744073709551615", UINT64_MAX },
		{ "16383P", 16383ull << 50 }, { "007", 7 },
		{ "", 0 }, { "0", 0 }, { "0G", 0 }, { "K", 0 }, { "1k", 0 }, { "1KB", 0 }, { "1kiB", 0 }, { "1 K", 0 },
		{ "1.5G", 0 }, { "+1", 0 }, { "-1", 0 }, { " 1", 0 }, { "1 ", 0 }, { "0x10", 0 }, { "1E", 0 }, { "AUTO", 0 },
		{ "18446744073709551616", 0 }, { "16384P", 0 }, { "99999999999999999999999", 0 }, { "1KiBB", 0 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t bytes = 77;
		int err = poolset_size_parse(cases[i].word, &bytes);

		cr_expect_eq(err, cases[i].bytes ? 0 : -EINVAL, "'%s'", cases[i].word);
		cr_expect_eq(bytes, cases[i].bytes ? cases[i].bytes : 77, "'%s'", cases[i].word);
	}
}

Test(poolset, usable_bytes)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} cases[] = {
		{ HEAD "2M /none/a\n", 2 << 20 },
		{ HEAD "2097153 /none/a\n", 2 << 20 },
		{ HEAD "2M /none/a\n4M /none/b\n4198399 /none/c\n", (2 << 20) + (4 << 20) + (4 << 20) - 2 * 4096 },
		{ HEAD "2M /none/a\n4M /none/b\nOPTION SINGLEHDR\n", 6 << 20 },
		{ HEAD "2M /none/a\n4M /none/b\nOPTION NOHDRS\n", 6 << 20 },
		{ HEAD "AUTO /none/a\n", 0 },
		{ HEAD "1 /none/a\n1 /none/b\n", 0 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct poolset *set = parsed(cases[i].text);

		cr_expect_eq(poolset_replica_bytes(set, &set->replicas[0]), cases[i].bytes, "case %zu", i);
		poolset_free(set);
	}
}

Test(poolset, reads_files)
{
	char dir[] = "/tmp/test_poolset.XXXXXX", path[64], text[256];
	struct poolset *set;
	FILE *file;

	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/a.set", dir);
	cr_expect_eq(poolset_read(path, &set), -ENOENT);
	cr_expect(strstr(errmsg_get(), path));
	cr_expect_eq(poolset_read(dir, &set), -EISDIR);

	file = fopen(path, "w");
	snprintf(text, sizeof(text), HEAD "OPTION SINGLEHDR\n8M %s\n", dir);
	fputs(text, file);
	fclose(file);
	cr_assert_eq(poolset_read(path, &set), 0, "%s", errmsg_get());
	cr_expect_eq(set->replicas[0].parts[0].is_dir, true);
	poolset_free(set);

	cr_assert_eq(truncate(path, POOLSET_FILE_BYTES_MAX + 1), 0);
	cr_expect_eq(poolset_read(path, &set), -E2BIG);
	unlink(path);
	cr_assert_eq(mkfifo(path, 0600), 0);
	cr_expect_eq(poolset_read(path, &set), -EINVAL, "a FIFO is empty, not waited for");
	unlink(path);
	rmdir(dir);
	poolset_free(NULL);
}
