/* What a running mount tells about itself: JSON text made in the daemon, read through an ioctl on the mount's root
 * directory (so that no path has to be guessed and file permissions apply), shown by `rpmemfs status`. */
#ifndef RPMEMFS_FS_STATUS_H
#define RPMEMFS_FS_STATUS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>

/* One piece. The first is asked for with off 0 and fixes the text; further ones name its serial. Both ends are on one
 * machine, so integers are native. */
struct status_ioctl {
	uint32_t serial;
	uint32_t off;   /* of text in the whole */
	uint32_t len;   /* bytes of text */
	uint32_t total; /* bytes of the whole */
	char text[8176];
};
#define STATUS_IOCTL _IOWR('R', 0x46, struct status_ioctl)

struct front;
/* malloc'ed JSON text; NULL: no memory. */
char *status_text(struct front *front);

/* Reads the status of the mount whose root directory fd is open. -ENOTTY: not one of ours; -EPROTO: not JSON. */
int status_fetch(int fd, json_t **out);
/* Whether everything is as configured. */
bool status_fine(const json_t *status);
void status_print(const json_t *status); /* for people, to stdout */

#endif
