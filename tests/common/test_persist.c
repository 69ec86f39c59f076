/* Tests rpmem/persist.c: what each domain does, the range table of PM_FILE, observer and fault hook. */
#include "persist.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/magic.h>

#define PAGE 4096u
#define POOL_PAGES 1024u

static struct pm pm;

static void begin(enum pm_domain domain)
{
	void *base = mmap(NULL, POOL_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(base, MAP_FAILED);
	pm_init(&pm, base, POOL_PAGES * PAGE, domain);
}

Test(persist, bytes_arrive_in_every_domain)
{
	static const enum pm_domain domains[] = { PM_MEMORY, PM_PMEM, PM_FILE };
	static const uint64_t lens[] = { 0, 1, 7, 8, 63, 64, 65, 256, 4096, 5000, 70000 };
	uint8_t src[70000];

	memset(src, 0xa5, sizeof(src));
	for (size_t d = 0; d < 3; d++) {
		begin(domains[d]);
		for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
			uint64_t off = 100000 + i;

			memset(pm.base + off - 1, 0x11, 70002);
			pm_write(&pm, off, src, lens[i]);
			cr_expect_eq(pm_fence(&pm, PM_POINT_DATA), 0);
			cr_expect_eq(memcmp(pm_ptr(&pm, off), src, lens[i]), 0);
			cr_expect_eq(pm.base[off - 1], 0x11);
			cr_expect_eq(pm.base[off + lens[i]], 0x11);
			pm_zero(&pm, off, lens[i]);
			pm_flush(&pm, off, lens[i]);
			cr_expect_eq(pm_fence(&pm, PM_POINT_DATA), 0);
			for (uint64_t at = 0; at < lens[i]; at++)
				cr_assert_eq(pm.base[off + at], 0);
			cr_expect_eq(pm.base[off + lens[i]], 0x11);
		}
	}
}

Test(persist, only_file_remembers_ranges)
{
	begin(PM_MEMORY);
	pm_write(&pm, 0, "x", 1);
	pm_flush(&pm, 0, 9000);
	cr_expect_eq(pm.range_count, 0);
	begin(PM_PMEM);
	pm_write(&pm, 0, "x", 1);
	cr_expect_eq(pm.range_count, 0);
}

static void expect_ranges(const struct pm_range *want, unsigned count)
{
	cr_assert_eq(pm.range_count, count, "%u ranges, not %u", pm.range_count, count);
	for (unsigned i = 0; i < count; i++) {
		cr_expect_eq(pm.ranges[i].off, want[i].off);
		cr_expect_eq(pm.ranges[i].len, want[i].len);
	}
}

/* Ranges are whole pages, sorted, and touching ones become one. */
Test(persist, file_ranges_are_pages_and_merge)
{
	begin(PM_FILE);
	pm_write(&pm, 5 * PAGE + 100, "x", 1);
	expect_ranges((struct pm_range[]){ { 5 * PAGE, PAGE } }, 1);
	pm_zero(&pm, 5 * PAGE, PAGE);
	expect_ranges((struct pm_range[]){ { 5 * PAGE, PAGE } }, 1);
	pm_write(&pm, 3 * PAGE - 1, "xy", 2); /* both sides of a page border */
	expect_ranges((struct pm_range[]){ { 2 * PAGE, 2 * PAGE }, { 5 * PAGE, PAGE } }, 2);
	pm_flush(&pm, 9 * PAGE, 2 * PAGE);
	pm_flush(&pm, 4 * PAGE, 1); /* closes the gap */
	expect_ranges((struct pm_range[]){ { 2 * PAGE, 4 * PAGE }, { 9 * PAGE, 2 * PAGE } }, 2);
	pm_flush(&pm, 7 * PAGE, 0); /* nothing */
	pm_flush(&pm, 0, 20 * PAGE); /* covers all */
	expect_ranges((struct pm_range[]){ { 0, 20 * PAGE } }, 1);
	cr_expect_eq(pm_fence(&pm, PM_POINT_DATA), 0);
	cr_expect_eq(pm.range_count, 0);
}

/* A full table joins the closest neighbours and never loses a page. */
Test(persist, file_ranges_full_table_covers_all)
{
	uint8_t dirty[POOL_PAGES] = { 0 };

	begin(PM_FILE);
	srandom(3);
	for (unsigned i = 0; i < 5000; i++) {
		uint64_t page = (uint64_t)random() % POOL_PAGES;

		pm_write(&pm, page * PAGE + 17, "x", 1);
		dirty[page] = 1;
		cr_assert_leq(pm.range_count, PM_FILE_RANGES_MAX);
		for (unsigned r = 0; r + 1 < pm.range_count; r++)
			cr_assert_lt(pm.ranges[r].off + pm.ranges[r].len, pm.ranges[r + 1].off);
		if (i % 97)
			continue;
		for (unsigned p = 0; p < POOL_PAGES; p++) {
			bool covered = false;

			for (unsigned r = 0; r < pm.range_count; r++)
				covered |= p * PAGE >= pm.ranges[r].off && p * PAGE < pm.ranges[r].off + pm.ranges[r].len;
			cr_assert(covered || !dirty[p], "page %u lost after %u stores", p, i);
		}
	}
}

Test(persist, file_ranges_full_table_joins_the_smallest_gap)
{
	begin(PM_FILE);
	for (unsigned i = 0; i < PM_FILE_RANGES_MAX; i++)
		pm_write(&pm, (i < 40 ? i * 4ull : i * 4ull - 1) * PAGE, "x", 1); /* 39 and 40 are one page closer */
	cr_assert_eq(pm.range_count, PM_FILE_RANGES_MAX);
	pm_write(&pm, 1000 * PAGE, "x", 1);
	cr_expect_eq(pm.range_count, PM_FILE_RANGES_MAX);
	cr_expect_eq(pm.ranges[39].off, 156 * PAGE);
	cr_expect_eq(pm.ranges[39].len, 4 * PAGE);
}

/* msync of memory that is not mapped any more is ENOMEM. */
Test(persist, file_fence_failure_is_eio_and_keeps_ranges)
{
	begin(PM_FILE);
	pm_write(&pm, 0, "x", 1);
	pm_write(&pm, 8 * PAGE, "x", 1);
	cr_assert_eq(munmap(pm.base + 8 * PAGE, PAGE), 0);
	cr_expect_eq(pm_fence(&pm, PM_POINT_RECORD), -EIO);
	cr_expect_eq(pm.range_count, 2);
	cr_expect_eq(pm_fence(&pm, PM_POINT_RECORD), -EIO);
}

static int fail_record(enum pm_point point)
{
	return point == PM_POINT_RECORD ? -EIO : 0;
}

Test(persist, fault_hook_fails_its_point_only)
{
	begin(PM_MEMORY);
	pm.fail = fail_record;
	cr_expect_eq(pm_fence(&pm, PM_POINT_DATA), 0);
	cr_expect_eq(pm_fence(&pm, PM_POINT_RECORD), -EIO);
}

Test(persist, store_behind_the_end_aborts, .signal = SIGABRT)
{
	begin(PM_MEMORY);
	pm_write(&pm, POOL_PAGES * PAGE - 1, "xy", 2);
}

Test(persist, overflowing_store_aborts, .signal = SIGABRT)
{
	begin(PM_MEMORY);
	pm_zero(&pm, 64, UINT64_MAX - 32);
}

Test(persist, store_to_read_only_aborts, .signal = SIGABRT)
{
	begin(PM_MEMORY);
	pm.read_only = true;
	pm_write(&pm, 0, "x", 1);
}

struct trace {
	char text[256];
	bool drop;
};

static void on_stored(void *ctx, uint64_t off, const void *bytes, uint64_t len)
{
	struct trace *trace = ctx;
	size_t used = strlen(trace->text);

	snprintf(trace->text + used, sizeof(trace->text) - used, "s%lu+%lu:%c ", (unsigned long)off, (unsigned long)len,
		 *(const char *)bytes ? *(const char *)bytes : '0');
}

static void on_flushed(void *ctx, uint64_t off, uint64_t len)
{
	struct trace *trace = ctx;
	size_t used = strlen(trace->text);

	snprintf(trace->text + used, sizeof(trace->text) - used, "f%lu+%lu ", (unsigned long)off, (unsigned long)len);
}

static bool on_fence(void *ctx, enum pm_point point)
{
	struct trace *trace = ctx;
	size_t used = strlen(trace->text);

	snprintf(trace->text + used, sizeof(trace->text) - used, "|%d ", point);
	return !trace->drop;
}

Test(persist, observer_sees_events_and_drops_fences)
{
	struct trace trace = { "", false };
	char expected[64];
	const struct pm_observer observer = { &trace, on_stored, on_flushed, on_fence };

	begin(PM_FILE);
	pm.observer = &observer;
	pm_write(&pm, 10, "abc", 3);
	pm_zero(&pm, 20, 5);
	pm_flush(&pm, 30, 6);
	cr_expect_eq(pm_fence(&pm, PM_POINT_RECORD), 0);
	snprintf(expected, sizeof(expected), "s10+3:a s20+5:0 f30+6 |%d ", PM_POINT_RECORD);
	cr_expect_str_eq(trace.text, expected);
	cr_expect_eq(pm.range_count, 0);

	trace.drop = true;
	pm_write(&pm, 0, "z", 1);
	cr_expect_eq(pm_fence(&pm, PM_POINT_DATA), 0);
	cr_expect_eq(pm.range_count, 1, "a dropped fence syncs nothing");
}

static enum pm_domain detect_in(const char *dir, bool map_sync)
{
	int fd = open(dir, O_TMPFILE | O_RDWR, 0600);
	enum pm_domain domain;

	cr_assert_geq(fd, 0);
	domain = pm_detect(fd, NULL, 0, map_sync);
	close(fd);
	return domain;
}

Test(persist, detects_memory_on_tmpfs)
{
	struct statfs fs;

	if (statfs("/dev/shm", &fs) || fs.f_type != TMPFS_MAGIC)
		cr_skip_test("/dev/shm is no tmpfs");
	cr_expect_eq(detect_in("/dev/shm", false), PM_MEMORY);
	setenv("PMEM_IS_PMEM_FORCE", "1", 1);
	cr_expect_eq(detect_in("/dev/shm", false), PM_MEMORY, "the environment does not make memory better");
}

Test(persist, detects_file_elsewhere)
{
	struct statfs fs;

	cr_assert_eq(statfs(".", &fs), 0);
	if (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC)
		cr_skip_test("the working directory is in memory");
	cr_expect_eq(detect_in(".", false), PM_FILE);
	cr_expect_eq(detect_in(".", true), PM_PMEM);
}

Test(persist, domains_have_names)
{
	cr_expect_str_eq(pm_domain_name(PM_MEMORY), "memory");
	cr_expect_str_eq(pm_domain_name(PM_PMEM), "pmem");
	cr_expect_str_eq(pm_domain_name(PM_FILE), "file");
}

/* Every start and length around words: exactly those bytes change. */
Test(persist, words_are_copied_at_any_alignment)
{
	static uint8_t mem[PAGE * 2] __attribute__((aligned(4096)));
	uint8_t src[64];
	struct pm words;

	for (unsigned i = 0; i < sizeof(src); i++)
		src[i] = (uint8_t)(i + 1);
	pm_init(&words, mem, sizeof(mem), PM_MEMORY);
	for (unsigned off = 64; off < 80; off++) {
		for (unsigned len = 0; len < 40; len++) {
			memset(mem, 0xee, 256);
			pm_write_words(&words, off, src + len % 3, len);
			cr_assert_arr_eq(mem + off, src + len % 3, len);
			for (unsigned i = 0; i < 256; i++)
				cr_assert(mem[i] == 0xee || (i >= off && i < off + len), "%u+%u: byte %u", off, len, i);
		}
	}
}

/* The child stores new bytes over old ones; stepped from instruction to instruction, every whole word of the range must be
 * old or new. memcpy(3) fails this: where its pieces overlap it stores half a word first. */
static void words_stepped(uint8_t *mem, unsigned off, unsigned len)
{
	const uint64_t old = 0x5555555555555555u, new = 0xaaaaaaaaaaaaaaaau;
	uint64_t *words = (uint64_t *)(void *)mem;
	unsigned first = (off + 7) / 8, end = (off + len) / 8;
	uint8_t src[512];
	struct pm words_pm;
	int status;
	pid_t pid;

	memset(mem, 0x55, PAGE);
	memset(src, 0xaa, sizeof(src));
	pm_init(&words_pm, mem, PAGE, PM_MEMORY);
	pid = fork();
	if (!pid) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
			_exit(77);
		raise(SIGSTOP);
		pm_write_words(&words_pm, off, src, len);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		cr_skip_test("ptrace(2) is not allowed here");
	while (WIFSTOPPED(status) && (!len || words[end - 1] != new)) {
		for (unsigned i = first; i < end; i++)
			cr_assert(words[i] == old || words[i] == new, "%u+%u: word %u is %lx", off, len, i, words[i]);
		cr_assert_eq(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		cr_assert_eq(waitpid(pid, &status, 0), pid);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
}

Test(persist, words_are_never_half_new, .timeout = 120)
{
	static const unsigned lens[] = { 20, 44, 100, 300 };
	uint8_t *mem = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(mem, MAP_FAILED);
	for (unsigned off = 0; off < 8; off++)
		for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++)
			words_stepped(mem, off, lens[i]);
	munmap(mem, PAGE);
}
