/* Poolset files: PMDK's grammar (poolset(5)), parsed and validated whole.
 *
 *   PMEMPOOLSET
 *   OPTION SINGLEHDR | OPTION NOHDRS
 *   <size> <absolute path>                 parts of the local (first) replica
 *   REPLICA                                a further local replica, parts follow
 *   REPLICA <target> <set name>            a remote replica; target: [user@]host[:port], or @local
 *
 * A remote replica's short name, shown by status and used by commands, is its set name's last component without a
 * ".set" ending; a name that occurs again gets "-2", "-3" ... appended in file order. */
#ifndef RPMEMFS_POOLSET_H
#define RPMEMFS_POOLSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POOLSET_REPLICAS_MAX 16u  /* local one included */
#define POOLSET_PARTS_MAX 1024u   /* of one replica */
#define POOLSET_LINE_BYTES_MAX 8192u
#define POOLSET_FILE_BYTES_MAX (1u << 20)
#define POOLSET_NAME_BYTES_MAX 48u /* short name, with the NUL */
#define POOL_PART_BYTES_MIN (2ull << 20) /* PMDK's RPMEM_MIN_PART */

enum poolset_option { POOLSET_SINGLEHDR = 1u, POOLSET_NOHDRS = 2u };

struct poolset_part {
	char *path;
	uint64_t size; /* bytes as written in the file, 0 for AUTO */
	bool is_dir;   /* set by the parser when the path is an existing directory */
};

struct poolset_replica {
	char *target;   /* NULL for a local replica; "@local" or [user@]host[:port] */
	char *set_name; /* remote: relative name of the set on the target */
	char name[POOLSET_NAME_BYTES_MAX]; /* remote: short name; "local" for the first */
	unsigned line;  /* of its REPLICA line, 1 for the first replica */
	unsigned part_count;
	struct poolset_part *parts;
};

struct poolset {
	char *path;
	unsigned options; /* enum poolset_option */
	unsigned replica_count;
	struct poolset_replica *replicas; /* [0] is the local one */
};

/* Reads and parses a file; *out is freed by poolset_free. On failure errmsg_get() names file, line and cause.
 * -EINVAL: the grammar is broken. -E2BIG: a bound above is exceeded. Else the open(2)/read(2) error. */
int poolset_read(const char *path, struct poolset **out);

/* The same from memory; path is only for messages and need not exist. */
int poolset_parse(const char *path, const char *text, size_t len, struct poolset **out);

void poolset_free(struct poolset *set); /* NULL is allowed */

/* Usable bytes of one local replica: parts rounded down to 4 KiB each, less the headers of parts after the first
 * (facts of PMDK: repsize = sum(floor4K(part)) - (nhdrs - 1) * 4096). Pool offset 0 is the first part's header. */
uint64_t poolset_replica_bytes(const struct poolset *set, const struct poolset_replica *replica);

/* The remote replica of that short name, NULL when there is none. */
const struct poolset_replica *poolset_find(const struct poolset *set, const char *name);

/* "1G", "4096", "64MiB", "1kB" ...: PMDK's suffixes; -EINVAL for anything else, zero or overflow. */
int poolset_size_parse(const char *word, uint64_t *bytes);

#endif
