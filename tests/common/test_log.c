/* Tests rpmem/log.c through a log file. */
#include "log.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/test_log.XXXXXX";

static void setup(void)
{
	int fd = mkstemp(path);

	cr_assert_geq(fd, 0);
	close(fd);
}

static void teardown(void)
{
	log_close();
	unlink(path);
}

TestSuite(log, .init = setup, .fini = teardown);

/* What stands behind "ident[pid]: " in the given line of the file, without the line end; "" when there is none. */
static const char *line_text(unsigned idx)
{
	static char line[2048];
	FILE *file = fopen(path, "r");
	char *text;

	cr_assert(file);
	for (unsigned i = 0; i <= idx; i++)
		if (!fgets(line, sizeof(line), file))
			line[0] = '\0';
	fclose(file);
	line[strcspn(line, "\n")] = '\0';
	text = strstr(line, "]: ");
	return text ? text + 3 : line;
}

Test(log, levels_and_lines)
{
	cr_assert_eq(log_open("prog", path, LOG_LEVEL_INFO), 0);
	errno = EBUSY;
	log_error("lane %d: cq read: %s", 3, "gone");
	log_debug("not shown");
	log_info("pool: open");
	cr_expect_eq(errno, EBUSY);
	cr_expect_str_eq(line_text(0), "error lane 3: cq read: gone");
	cr_expect_str_eq(line_text(1), "info pool: open");
	cr_expect_str_eq(line_text(2), "");
}

/* One event is one line whatever a peer put into it, cut where it is too long. */
Test(log, hostile_text_stays_one_line)
{
	char text[3000];

	cr_assert_eq(log_open("prog", path, LOG_LEVEL_INFO), 0);
	log_warn("peer: %s", "a\nerror fake: line\r\033[2J");
	cr_expect_str_eq(line_text(0), "warn peer: a?error fake: line??[2J");
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	log_warn("%s", text);
	log_warn("next");
	cr_expect_eq(strncmp(line_text(1), "warn xxx", 8), 0);
	cr_expect_str_eq(line_text(2), "warn next");
}

Test(log, open_failure_keeps_the_old_destination)
{
	cr_assert_eq(log_open("prog", path, LOG_LEVEL_INFO), 0);
	cr_expect_eq(log_open("prog", "/none/there", LOG_LEVEL_ERROR), -ENOENT);
	log_info("still here");
	cr_expect_str_eq(line_text(0), "info still here");
}

static void *writer(void *arg)
{
	for (unsigned i = 0; i < 500; i++)
		log_info("thread %s: line of some length", (const char *)arg);
	return NULL;
}

Test(log, lines_of_threads_do_not_mix)
{
	static char names[4][2] = { "a", "b", "c", "d" };
	unsigned count[4] = { 0 };
	pthread_t threads[4];
	char line[256];
	FILE *file;

	cr_assert_eq(log_open("prog", path, LOG_LEVEL_INFO), 0);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, writer, names[i]), 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	file = fopen(path, "r");
	while (fgets(line, sizeof(line), file)) {
		char who;

		cr_assert_eq(sscanf(line, "%*s %*s info thread %c: line of some length\n", &who), 1, "%s", line);
		count[who - 'a']++;
	}
	fclose(file);
	for (unsigned i = 0; i < 4; i++)
		cr_expect_eq(count[i], 500);
}

Test(log, level_words)
{
	enum log_level level = LOG_LEVEL_DEBUG;

	cr_expect_eq(log_level_parse("err", &level), 0);
	cr_expect_eq(level, LOG_LEVEL_ERROR);
	cr_expect_eq(log_level_parse("error", &level), 0);
	cr_expect_eq(level, LOG_LEVEL_ERROR);
	cr_expect_eq(log_level_parse("warn", &level), 0);
	cr_expect_eq(level, LOG_LEVEL_WARN);
	cr_expect_eq(log_level_parse("notice", &level), 0);
	cr_expect_eq(level, LOG_LEVEL_NOTICE);
	cr_expect_eq(log_level_parse("info", &level), 0);
	cr_expect_eq(level, LOG_LEVEL_INFO);
	cr_expect_eq(log_level_parse("Debug", &level), -EINVAL);
	cr_expect_eq(log_level_parse("", &level), -EINVAL);
	cr_expect_eq(level, LOG_LEVEL_INFO);
	cr_expect_eq(log_level_parse("debug", &level), 0);
	cr_expect_eq(level, LOG_LEVEL_DEBUG);
}
