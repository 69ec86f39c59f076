/* A file system as text, one sorted line a name: what the explorer compares. Two states are the same when their texts are. */
#ifndef RPMEMFS_TESTS_EXPLORE_VIEW_H
#define RPMEMFS_TESTS_EXPLORE_VIEW_H

#include <stdbool.h>
#include "fs/fs.h"

#define VIEW_LINES_MAX 128u
#define VIEW_PATH_BYTES 96u
#define VIEW_READ_BYTES_MAX (256u << 10) /* content of longer files is not looked at */

struct view {
	bool times;
	unsigned count;
	char *lines[VIEW_LINES_MAX];
};

/* One name: st says number, mode, links, size and, with view->times, mtime and ctime. link is a symlink's target, content the
 * hash of a file's content. */
void view_add(struct view *view, const char *path, const struct stat *st, const char *link, uint64_t content);
uint64_t view_hash(const void *bytes, size_t len);
/* Sorts, joins and empties the view. malloc'ed. */
char *view_text(struct view *view);

/* Everything reachable from the root. 0: *text is malloc'ed; else an error, and errmsg says where. */
int view_walk(struct fs *fs, bool times, char **text);

#endif
