/* File operations that a shell has no words for, for the system tests. One operation a run; exit status 0, or 1 with the
 * failing call and its errno's name on stderr.
 *
 *   fsio store FILE OFFSET TEXT           store TEXT through a shared mapping, msync(MS_SYNC)
 *   fsio stores FILE OFFSET COUNT         COUNT times: 8 bytes that change, msync of their page
 *   fsio dirty FILE OFFSET LENGTH         fills a shared mapping, says "dirty", keeps it until stdin ends, msync(MS_SYNC)
 *   fsio peek FILE OFFSET LENGTH          what a mapping shows, to stdout
 *   fsio rewrite FILE OFFSET LENGTH COUNT [SYNC]
 *                                         COUNT times: LENGTH fresh random bytes at OFFSET, then SYNC: fsync (default),
 *                                         fdatasync, or nothing because the file is open with sync, dsync or direct
 *   fsio append FILE LENGTH COUNT         COUNT times: LENGTH bytes at the end, fdatasync
 *   fsio stage FILE LENGTH                writes LENGTH bytes, says "staged", keeps the file open until stdin ends
 *   fsio unlinked FILE                    writes and reads a file that has no name any more
 *   fsio syncdir DIRECTORY                fsync of a directory
 *   fsio sync FILE                        fsync of a file
 *   fsio replace FILE TEXT                write a new file beside it, fsync, rename over it, fsync of the directory */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096ul
#define BUF_BYTES (1u << 20)

static _Noreturn void fail(const char *call)
{
	fprintf(stderr, "fsio: %s: %s\n", call, strerrorname_np(errno));
	exit(1);
}

static void need(int ok, const char *call)
{
	if (!ok)
		fail(call);
}

static int open_file(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0644);

	need(fd >= 0, "open");
	return fd;
}

static unsigned long number(const char *text)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (!*text || *end) {
		fprintf(stderr, "fsio: %s is not a number\n", text);
		exit(2);
	}
	return value;
}

static void write_all(int fd, const void *data, size_t len, off_t off)
{
	ssize_t done = pwrite(fd, data, len, off);

	if (done >= 0 && (size_t)done != len)
		errno = EIO;
	need(done >= 0 && (size_t)done == len, "pwrite");
}

/* Maps the pages that hold off..off+len and returns the address of off. */
static char *map(int fd, unsigned long off, size_t len, int prot)
{
	unsigned long first = off & ~(PAGE - 1);
	char *base = mmap(NULL, off - first + len, prot, MAP_SHARED, fd, (off_t)first);

	need(base != MAP_FAILED, "mmap");
	return base + (off - first);
}

static void msync_page(char *at, size_t len)
{
	char *page = (char *)((uintptr_t)at & ~(PAGE - 1));

	need(msync(page, (size_t)(at - page) + len, MS_SYNC) == 0, "msync");
}

static void op_store(char **arg)
{
	int fd = open_file(arg[0], O_RDWR);
	char *at = map(fd, number(arg[1]), strlen(arg[2]), PROT_READ | PROT_WRITE);

	memcpy(at, arg[2], strlen(arg[2]));
	msync_page(at, strlen(arg[2]));
}

static void op_stores(char **arg)
{
	int fd = open_file(arg[0], O_RDWR);
	char *at = map(fd, number(arg[1]), 8, PROT_READ | PROT_WRITE);
	unsigned long count = number(arg[2]);
	uint64_t value;

	for (unsigned long i = 0; i < count; i++) {
		need(getrandom(&value, sizeof(value), 0) == sizeof(value), "getrandom");
		memcpy(at, &value, sizeof(value));
		msync_page(at, sizeof(value));
	}
}

static void op_dirty(char **arg)
{
	int fd = open_file(arg[0], O_RDWR);
	size_t len = number(arg[2]);
	char *at = map(fd, number(arg[1]), len, PROT_READ | PROT_WRITE), end;

	memset(at, 'd', len);
	puts("dirty");
	fflush(stdout);
	while (read(0, &end, 1) > 0)
		;
	msync_page(at, len);
}

static void op_peek(char **arg)
{
	int fd = open_file(arg[0], O_RDONLY);
	size_t len = number(arg[2]);

	fwrite(map(fd, number(arg[1]), len, PROT_READ), 1, len, stdout);
}

static void op_rewrite(char **arg)
{
	const char *sync = arg[4] ? arg[4] : "fsync";
	int flags = !strcmp(sync, "sync") ? O_SYNC : !strcmp(sync, "dsync") ? O_DSYNC :
		    !strcmp(sync, "direct") ? O_DIRECT | O_DSYNC : 0;
	int fd = open_file(arg[0], O_RDWR | flags);
	size_t len = number(arg[2]);
	unsigned long off = number(arg[1]), count = number(arg[3]);
	char *data = aligned_alloc(PAGE, (len + PAGE - 1) & ~(PAGE - 1));

	need(data != NULL, "aligned_alloc");
	for (unsigned long i = 0; i < count; i++) {
		for (size_t at = 0; at < len; at += 256) /* getrandom gives 256 bytes at once for sure */
			need(getrandom(data + at, len - at < 256 ? len - at : 256, 0) > 0, "getrandom");
		write_all(fd, data, len, (off_t)off);
		if (!strcmp(sync, "fsync"))
			need(fsync(fd) == 0, "fsync");
		else if (!strcmp(sync, "fdatasync"))
			need(fdatasync(fd) == 0, "fdatasync");
	}
	free(data);
}

static void op_append(char **arg)
{
	int fd = open_file(arg[0], O_WRONLY | O_CREAT | O_APPEND);
	size_t len = number(arg[1]);
	unsigned long count = number(arg[2]);
	char *data = malloc(len);

	need(data != NULL, "malloc");
	memset(data, 'a', len);
	for (unsigned long i = 0; i < count; i++) {
		need(write(fd, data, len) == (ssize_t)len, "write");
		need(fdatasync(fd) == 0, "fdatasync");
	}
	free(data);
}

static void op_stage(char **arg)
{
	int fd = open_file(arg[0], O_WRONLY | O_CREAT);
	unsigned long len = number(arg[1]);
	char *data = malloc(BUF_BYTES), end;

	need(data != NULL, "malloc");
	memset(data, 's', BUF_BYTES);
	for (unsigned long off = 0; off < len; off += BUF_BYTES)
		write_all(fd, data, len - off < BUF_BYTES ? len - off : BUF_BYTES, (off_t)off);
	free(data);
	puts("staged");
	fflush(stdout);
	while (read(0, &end, 1) > 0)
		;
}

static void op_unlinked(char **arg)
{
	int fd = open_file(arg[0], O_RDWR | O_CREAT | O_EXCL);
	char text[] = "still here", back[sizeof(text)];
	struct stat st;

	write_all(fd, text, sizeof(text), 0);
	need(unlink(arg[0]) == 0, "unlink");
	need(access(arg[0], F_OK) != 0, "access");
	write_all(fd, text, sizeof(text), 100000);
	need(fsync(fd) == 0, "fsync");
	need(pread(fd, back, sizeof(back), 100000) == sizeof(back) && !memcmp(text, back, sizeof(text)), "pread");
	need(fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_size == 100000 + sizeof(text), "fstat");
}

static void op_syncdir(char **arg)
{
	/* cppcheck-suppress leakNoVarFunctionCall ; the end of the process closes it */
	need(fsync(open_file(arg[0], O_RDONLY | O_DIRECTORY)) == 0, "fsync");
}

static void op_sync(char **arg)
{
	/* cppcheck-suppress leakNoVarFunctionCall ; as above */
	need(fsync(open_file(arg[0], O_RDWR)) == 0, "fsync");
}

static void op_replace(char **arg)
{
	char fresh[4096];
	int fd;

	snprintf(fresh, sizeof(fresh), "%s.new", arg[0]);
	fd = open_file(fresh, O_WRONLY | O_CREAT | O_TRUNC);
	write_all(fd, arg[1], strlen(arg[1]), 0);
	need(fsync(fd) == 0, "fsync");
	need(rename(fresh, arg[0]) == 0, "rename");
	op_syncdir((char *[]){ dirname(fresh) });
}

static const struct {
	const char *name;
	void (*run)(char **arg);
	int args, optional;
} ops[] = {
	{ "store", op_store, 3, 0 },   { "stores", op_stores, 3, 0 },     { "peek", op_peek, 3, 0 },
	{ "dirty", op_dirty, 3, 0 },
	{ "rewrite", op_rewrite, 4, 1 }, { "append", op_append, 3, 0 },   { "stage", op_stage, 2, 0 },
	{ "unlinked", op_unlinked, 1, 0 }, { "syncdir", op_syncdir, 1, 0 }, { "sync", op_sync, 1, 0 },
	{ "replace", op_replace, 2, 0 },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		if (argc < 2 || strcmp(argv[1], ops[i].name) || argc - 2 < ops[i].args ||
		    argc - 2 > ops[i].args + ops[i].optional)
			continue;
		ops[i].run(argv + 2);
		return 0;
	}
	fprintf(stderr, "usage: fsio OPERATION FILE ...\n");
	return 2;
}
