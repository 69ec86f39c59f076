/* The poolset file parser: text in, a validated struct poolset out, or one message that names file, line and cause.
 *
 * Lines are taken one after another; each either opens a replica, adds a part to the newest local replica, or sets an
 * option. What spans lines (option combinations, directories, total sizes, short names) is checked when all are read.
 *
 *   line     = "" | "#" text | body [ "#" text ]
 *   body     = size blank path | "REPLICA" | "REPLICA" blank target blank set-name | "OPTION" blank option
 *
 * As in PMDK, a line of nothing but blanks is refused. Unlike PMDK, SINGLEHDR together with NOHDRS is refused, as its
 * manual says, and control characters are, because paths and names end up in messages. */
#include "poolset.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "errmsg.h"
#include "wire.h"

#define SIGNATURE "PMEMPOOLSET"
#define PAGE_BYTES 4096u
#define TOKENS_MAX 4u /* one more than any line has, so that too many are noticed */

struct parser {
	struct poolset *set;
	unsigned line; /* being read, from 1 */
};

#define fail(p, err, fmt, ...) errmsg_set(err, "%.200s:%u: " fmt, (p)->set->path, (p)->line, ##__VA_ARGS__)

static int fail_memory(void)
{
	return errmsg_set(-ENOMEM, "out of memory");
}

int poolset_size_parse(const char *word, uint64_t *bytes)
{
	static const struct {
		const char *suffix;
		uint64_t unit;
	} units[] = {
		{ "", 1 }, { "B", 1 },
		{ "K", 1ull << 10 }, { "M", 1ull << 20 }, { "G", 1ull << 30 }, { "T", 1ull << 40 }, { "P", 1ull << 50 },
		{ "KiB", 1ull << 10 }, { "MiB", 1ull << 20 }, { "GiB", 1ull << 30 }, { "TiB", 1ull << 40 },
		{ "PiB", 1ull << 50 },
		{ "kB", 1000ull }, { "MB", 1000000ull }, { "GB", 1000000000ull }, { "TB", 1000000000000ull },
		{ "PB", 1000000000000000ull },
	};
	uint64_t count = 0;
	const char *at = word;

	for (; *at >= '0' && *at <= '9'; at++)
		if (__builtin_mul_overflow(count, 10u, &count) ||
		    __builtin_add_overflow(count, (unsigned)(*at - '0'), &count))
			return -EINVAL;
	if (at == word || !count)
		return -EINVAL;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(at, units[i].suffix))
			continue;
		if (__builtin_mul_overflow(count, units[i].unit, &count))
			return -EINVAL;
		*bytes = count;
		return 0;
	}
	return -EINVAL;
}

/* A short name for the newest replica: base, or base with the first free "-2", "-3" ... */
static void replica_name(struct poolset *set, const char *base, size_t base_len)
{
	struct poolset_replica *replica = &set->replicas[set->replica_count - 1];
	char suffix[8] = "";

	for (unsigned next = 2;; next++) {
		size_t room = sizeof(replica->name) - 1 - strlen(suffix);
		bool used = false;

		snprintf(replica->name, sizeof(replica->name), "%.*s%s", (int)(base_len < room ? base_len : room), base,
			 suffix);
		for (struct poolset_replica *other = set->replicas; other < replica && !used; other++)
			used = !strcmp(other->name, replica->name);
		if (!used)
			return;
		assert(next <= POOLSET_REPLICAS_MAX); /* fewer others than suffixes tried */
		snprintf(suffix, sizeof(suffix), "-%u", next);
	}
}

static int replica_add(struct parser *p)
{
	struct poolset *set = p->set;
	struct poolset_replica *grown;

	if (set->replica_count == POOLSET_REPLICAS_MAX)
		return fail(p, -E2BIG, "more than %u replicas", POOLSET_REPLICAS_MAX);
	grown = reallocarray(set->replicas, set->replica_count + 1, sizeof(*grown));
	if (!grown)
		return fail_memory();
	set->replicas = grown;
	grown[set->replica_count++] = (struct poolset_replica){ .line = p->line };
	return 0;
}

/* "dir/name.set" -> "name"; a component that is nothing but the ending keeps it. */
static int remote_name(struct parser *p, const char *set_name)
{
	const char *slash = strrchr(set_name, '/'), *base = slash ? slash + 1 : set_name;
	size_t len = strlen(base);

	if (!len)
		return fail(p, -EINVAL, "remote set name %s ends in '/'", set_name);
	if (len > 4 && !strcmp(base + len - 4, ".set"))
		len -= 4;
	replica_name(p->set, base, len);
	return 0;
}

static int parse_remote(struct parser *p, const char *target, const char *set_name)
{
	struct poolset_replica *replica = &p->set->replicas[p->set->replica_count - 1];

	if (set_name[0] == '/')
		return fail(p, -EINVAL, "remote set name %s: must be relative to the target's pool directory", set_name);
	if (strlen(set_name) >= WIRE_SET_NAME_BYTES_MAX)
		return fail(p, -E2BIG, "remote set name is longer than %u bytes", WIRE_SET_NAME_BYTES_MAX - 1);
	replica->target = strdup(target);
	replica->set_name = strdup(set_name);
	if (!replica->target || !replica->set_name)
		return fail_memory();
	return remote_name(p, set_name);
}

/* The newest replica is complete: a local one needs parts. */
static int replica_end(struct parser *p)
{
	const struct poolset_replica *replica = &p->set->replicas[p->set->replica_count - 1];

	if (!replica->target && !replica->part_count)
		return fail(p, -EINVAL, "the replica of line %u has no parts", replica->line);
	return 0;
}

static int parse_replica(struct parser *p, char **token, unsigned count)
{
	int err;

	if (count != 1 && count != 3)
		return fail(p, -EINVAL, "REPLICA takes nothing, or a target and a set name");
	err = replica_end(p);
	if (!err)
		err = replica_add(p);
	if (err)
		return err;
	if (count == 3)
		return parse_remote(p, token[1], token[2]);
	replica_name(p->set, "local", strlen("local"));
	return 0;
}

static int parse_option(struct parser *p, char **token, unsigned count)
{
	if (count != 2)
		return fail(p, -EINVAL, "OPTION takes one name");
	if (!strcmp(token[1], "SINGLEHDR"))
		p->set->options |= POOLSET_SINGLEHDR;
	else if (!strcmp(token[1], "NOHDRS"))
		p->set->options |= POOLSET_NOHDRS;
	else
		return fail(p, -EINVAL, "unknown option %s", token[1]);
	if (p->set->options == (POOLSET_SINGLEHDR | POOLSET_NOHDRS))
		return fail(p, -EINVAL, "SINGLEHDR and NOHDRS exclude each other");
	return 0;
}

/* Adds a part; the table grows in powers of two. */
static int part_add(struct parser *p, struct poolset_replica *replica, const char *path, uint64_t size)
{
	unsigned count = replica->part_count;
	struct poolset_part *part;
	struct stat st;

	if (count == POOLSET_PARTS_MAX)
		return fail(p, -E2BIG, "more than %u parts in a replica", POOLSET_PARTS_MAX);
	if (!(count & (count - 1))) {
		struct poolset_part *grown = reallocarray(replica->parts, count ? 2 * count : 1, sizeof(*grown));

		if (!grown)
			return fail_memory();
		replica->parts = grown;
	}
	part = &replica->parts[count];
	*part = (struct poolset_part){ .path = strdup(path), .size = size };
	if (!part->path)
		return fail_memory();
	part->is_dir = !stat(path, &st) && S_ISDIR(st.st_mode);
	replica->part_count++;
	return 0;
}

static int parse_part(struct parser *p, char **token, unsigned count)
{
	struct poolset_replica *replica = &p->set->replicas[p->set->replica_count - 1];
	uint64_t size = 0;

	if (count != 2)
		return fail(p, -EINVAL, "expected <size> <path>, REPLICA or OPTION");
	if (replica->target)
		return fail(p, -EINVAL, "a remote replica has no parts of its own");
	if (strcmp(token[0], "AUTO") && poolset_size_parse(token[0], &size))
		return fail(p, -EINVAL, "%s is no size", token[0]);
	if (token[1][0] != '/')
		return fail(p, -EINVAL, "path %s is not absolute", token[1]);
	for (unsigned i = 0; i < replica->part_count; i++)
		if (!strcmp(replica->parts[i].path, token[1]))
			return fail(p, -EINVAL, "part %s stands twice in a replica", token[1]);
	return part_add(p, replica, token[1], size);
}

/* Acts on one line, a string of its own that may be cut up. */
static int parse_line(struct parser *p, char *line)
{
	char *token[TOKENS_MAX], *rest = NULL;
	unsigned count = 0;

	if (line[0] == '\0' || line[0] == '#')
		return 0;
	line[strcspn(line, "#")] = '\0';
	for (char *at = strtok_r(line, " \t", &rest); at && count < TOKENS_MAX; at = strtok_r(NULL, " \t", &rest))
		token[count++] = at;
	if (!count)
		return fail(p, -EINVAL, "blank line");
	if (!strcmp(token[0], "REPLICA"))
		return parse_replica(p, token, count);
	if (!strcmp(token[0], "OPTION"))
		return parse_option(p, token, count);
	return parse_part(p, token, count);
}

/* Copies the line at text into buf as a string and moves text behind its end. */
static int take_line(struct parser *p, const char **text, const char *end, char buf[POOLSET_LINE_BYTES_MAX])
{
	const char *stop = memchr(*text, '\n', (size_t)(end - *text));
	size_t len = (size_t)((stop ? stop : end) - *text);

	p->line++;
	if (len >= POOLSET_LINE_BYTES_MAX)
		return fail(p, -E2BIG, "line longer than %u bytes", POOLSET_LINE_BYTES_MAX - 1);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)(*text)[i];

		if ((c < ' ' && c != '\t') || c == 0x7f)
			return fail(p, -EINVAL, "control character 0x%02x%s", c, c == '\r' ? " (DOS line end)" : "");
	}
	memcpy(buf, *text, len);
	buf[len] = '\0';
	*text = stop ? stop + 1 : end;
	return 0;
}

/* Directories need one header for all parts, because a part there is a file of our naming, and do not mix with files. */
static int check_directories(struct parser *p)
{
	const struct poolset *set = p->set;
	unsigned dirs = 0, files = 0;

	for (unsigned r = 0; r < set->replica_count; r++)
		for (unsigned i = 0; i < set->replicas[r].part_count; i++) {
			dirs += set->replicas[r].parts[i].is_dir;
			files += !set->replicas[r].parts[i].is_dir;
		}
	if (dirs && files)
		return fail(p, -EINVAL, "directories and files are mixed");
	if (dirs && !(set->options & POOLSET_SINGLEHDR))
		return fail(p, -EINVAL, "a directory needs OPTION SINGLEHDR");
	return 0;
}

static int check_sizes(struct parser *p)
{
	for (unsigned r = 0; r < p->set->replica_count; r++) {
		const struct poolset_replica *replica = &p->set->replicas[r];
		uint64_t sum = 0;

		for (unsigned i = 0; i < replica->part_count; i++) {
			if (replica->parts[i].is_dir && !replica->parts[i].size)
				return fail(p, -EINVAL, "directory %s: AUTO is for device dax", replica->parts[i].path);
			if (__builtin_add_overflow(sum, replica->parts[i].size, &sum) || sum > INT64_MAX)
				return fail(p, -EINVAL, "the parts of line %u on are too large together", replica->line);
		}
	}
	return 0;
}

static int parse_all(struct parser *p, const char *text, const char *end)
{
	char buf[POOLSET_LINE_BYTES_MAX];
	int err = take_line(p, &text, end, buf);

	if (err)
		return err;
	if (strcmp(buf, SIGNATURE))
		return fail(p, -EINVAL, "no poolset file: the first line is not " SIGNATURE);
	err = replica_add(p);
	if (err)
		return err;
	replica_name(p->set, "local", strlen("local"));
	while (text < end) {
		err = take_line(p, &text, end, buf);
		if (!err)
			err = parse_line(p, buf);
		if (err)
			return err;
	}
	err = replica_end(p);
	if (!err)
		err = check_directories(p);
	return err ? err : check_sizes(p);
}

int poolset_parse(const char *path, const char *text, size_t len, struct poolset **out)
{
	struct parser p = { .set = calloc(1, sizeof(*p.set)) };
	int err = -ENOMEM;

	if (!p.set)
		return fail_memory();
	p.set->path = strdup(path);
	if (!p.set->path) {
		fail_memory();
		goto free_set;
	}
	if (len > POOLSET_FILE_BYTES_MAX)
		err = fail(&p, -E2BIG, "file larger than %u bytes", POOLSET_FILE_BYTES_MAX);
	else
		err = parse_all(&p, text, text + len);
	if (err)
		goto free_set;
	*out = p.set;
	return 0;

free_set:
	poolset_free(p.set);
	return err;
}

/* Reads until end of file or until more than the bound is there. */
static int read_all(int fd, char *buf, size_t max, size_t *len)
{
	size_t used = 0;

	while (used < max) {
		ssize_t got = read(fd, buf + used, max - used);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			break;
		used += (size_t)got;
	}
	*len = used;
	return 0;
}

int poolset_read(const char *path, struct poolset **out)
{
	const size_t max = POOLSET_FILE_BYTES_MAX + 1; /* one more shows that the bound is exceeded */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold us up */
	char *text = NULL;
	size_t len = 0;
	int err;

	if (fd < 0) {
		err = -errno;
		return errmsg_set(err, "%s: %s", path, strerror(-err));
	}
	text = malloc(max);
	if (!text) {
		err = fail_memory();
		goto close_fd;
	}
	err = read_all(fd, text, max, &len);
	if (err) {
		errmsg_set(err, "%s: %s", path, strerror(-err));
		goto free_text;
	}
	err = poolset_parse(path, text, len, out);
free_text:
	free(text);
close_fd:
	close(fd);
	return err;
}

void poolset_free(struct poolset *set)
{
	if (!set)
		return;
	for (unsigned r = 0; r < set->replica_count; r++) {
		struct poolset_replica *replica = &set->replicas[r];

		for (unsigned i = 0; i < replica->part_count; i++)
			free(replica->parts[i].path);
		free(replica->parts);
		free(replica->target);
		free(replica->set_name);
	}
	free(set->replicas);
	free(set->path);
	free(set);
}

uint64_t poolset_replica_bytes(const struct poolset *set, const struct poolset_replica *replica)
{
	uint64_t bytes = 0, hdrs = set->options & (POOLSET_SINGLEHDR | POOLSET_NOHDRS) ? 1 : replica->part_count;

	for (unsigned i = 0; i < replica->part_count; i++)
		bytes += replica->parts[i].size & ~(uint64_t)(PAGE_BYTES - 1);
	for (; hdrs > 1 && bytes >= PAGE_BYTES; hdrs--)
		bytes -= PAGE_BYTES;
	return bytes;
}

const struct poolset_replica *poolset_find(const struct poolset *set, const char *name)
{
	for (unsigned r = 0; r < set->replica_count; r++)
		if (set->replicas[r].target && !strcmp(set->replicas[r].name, name))
			return &set->replicas[r];
	return NULL;
}
