/* Ending the running session of a pool, so that a new one can fence it. Any thread; blocks. */
#ifndef RPMEMFS_RPMEMD_TAKEOVER_H
#define RPMEMFS_RPMEMD_TAKEOVER_H

#include <stdint.h>

#define TAKEOVER_TERM_MS 3000u /* from SIGTERM to SIGKILL */
#define TAKEOVER_SESSION_TERM_MS 500u /* the same for a lost plain session, which has nothing to finish */
#define TAKEOVER_KILL_MS 5000u /* from SIGKILL until giving up: the process may sit in an uninterruptible wait */

/* Ends every process of this program and user that holds a flock on the part (a file, or the files of a directory), and waits until each has ended: then its
 * endpoints, registrations and lock are gone. 0 also when nobody holds it or the file does not exist. -EBUSY: the holder
 * is another program or another user's, or does not end; errmsg says which. */
int takeover_end(const char *part_path);

/* The same, but only if that process serves this plain session, or replaced it: -EBUSY otherwise. */
int takeover_end_session(const char *part_path, uint64_t session);

/* Shows that this process serves the session, as long as the descriptor that is returned is open. */
int takeover_mark(uint64_t session);

#endif
