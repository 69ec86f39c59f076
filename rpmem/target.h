/* A target as a poolset or a librpmem program names it: [user@]host[:port], [user@][ipv6][:port], or @local. */
#ifndef RPMEMFS_RPMEM_TARGET_H
#define RPMEMFS_RPMEM_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#define TARGET_USER_BYTES_MAX 33u  /* with the NUL; login names have at most 32 bytes */
#define TARGET_HOST_BYTES_MAX 256u /* with the NUL */

struct target {
	bool local;   /* @local: the rest is empty */
	char user[TARGET_USER_BYTES_MAX]; /* "": the user's own choice (ssh configuration, login name) */
	char host[TARGET_HOST_BYTES_MAX]; /* name or address, without brackets */
	uint16_t port; /* 0: not given */
};

/* A host with two or more colons and no brackets is an IPv6 address without port, as in PMDK. -EINVAL with errmsg: empty host
 * or user, missing bracket, port not within 1..65535, blanks or control characters, a leading '-'. -ENAMETOOLONG. */
int target_parse(const char *text, struct target *target);

#endif
