/* See view.h. */
#include "view.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "csum.h"
#include "errmsg.h"
#include "trace.h"

#define DEPTH_MAX 8u

uint64_t view_hash(const void *bytes, size_t len)
{
	return csum_crc32c(0, bytes, len); /* four times as fast as the 64-bit hash, and most of what a walk costs */
}

static long long ns_of(struct timespec t)
{
	return (long long)t.tv_sec * 1000000000 + t.tv_nsec;
}

void view_add(struct view *view, const char *path, const struct stat *st, const char *link, uint64_t content)
{
	char line[512];
	int n = snprintf(line, sizeof(line), "%s ino %lu mode %o links %lu size %lu", path, (unsigned long)st->st_ino,
			 st->st_mode, (unsigned long)st->st_nlink, (unsigned long)st->st_size);

	if (view->times)
		n += snprintf(line + n, sizeof(line) - (size_t)n, " mtime %lld ctime %lld", ns_of(st->st_mtim),
			      ns_of(st->st_ctim));
	if (link)
		snprintf(line + n, sizeof(line) - (size_t)n, " -> %.120s", link);
	else if (S_ISREG(st->st_mode))
		snprintf(line + n, sizeof(line) - (size_t)n, " content %08llx", (unsigned long long)content);
	EXPLORE_MUST(view->count < VIEW_LINES_MAX ? 0 : -ENOSPC);
	view->lines[view->count] = strdup(line);
	EXPLORE_MUST(view->lines[view->count++] ? 0 : -ENOMEM);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

char *view_text(struct view *view)
{
	size_t bytes = 1, at = 0;
	char *text;

	qsort(view->lines, view->count, sizeof(*view->lines), by_text);
	for (unsigned i = 0; i < view->count; i++)
		bytes += strlen(view->lines[i]) + 1;
	text = malloc(bytes);
	EXPLORE_MUST(text ? 0 : -ENOMEM);
	text[0] = '\0';
	for (unsigned i = 0; i < view->count; i++) {
		at += (size_t)sprintf(text + at, "%s\n", view->lines[i]);
		free(view->lines[i]);
	}
	view->count = 0;
	return text;
}

/* ---------------------------------------------------------------- walking */

static int content_of(struct fs *fs, const char *path, const struct stat *st, uint64_t *hash)
{
	size_t len = (size_t)st->st_size, got;
	uint8_t *buf;
	int err;

	*hash = 0;
	if (len > VIEW_READ_BYTES_MAX)
		return 0;
	buf = malloc(len + 1);
	if (!buf)
		return -ENOMEM;
	err = fs_read(fs, st->st_ino, 0, buf, len + 1, &got);
	if (!err && got != len)
		err = errmsg_set(-EUCLEAN, "%s: %zu of %zu bytes read", path, got, len);
	if (!err)
		*hash = view_hash(buf, len);
	free(buf);
	return err;
}

static int walk_one(struct fs *fs, struct view *view, const char *path, const struct fs_dirent *entry, struct stat *st)
{
	char link[FS_SYMLINK_BYTES_MAX + 1];
	uint64_t hash = 0;
	size_t len;
	int err = fs_getattr(fs, entry->ino, st, NULL);

	if (err)
		return errmsg_prefix(err, "%s: getattr of inode %llu", path, (unsigned long long)entry->ino);
	if (entry->type != IFTODT(st->st_mode))
		return errmsg_set(-EUCLEAN, "%s: type %u in the directory, mode %o", path, entry->type, st->st_mode);
	if (S_ISREG(st->st_mode))
		err = content_of(fs, path, st, &hash);
	if (S_ISLNK(st->st_mode)) {
		err = fs_readlink(fs, entry->ino, link, sizeof(link) - 1, &len);
		link[err ? 0 : len] = '\0';
	}
	if (err)
		return errmsg_prefix(err, "%s", path);
	view_add(view, path, st, S_ISLNK(st->st_mode) ? link : NULL, hash);
	return 0;
}

static int walk_dir(struct fs *fs, struct view *view, uint64_t dir, const char *path, unsigned depth)
{
	char below[VIEW_PATH_BYTES];
	struct fs_dirent entry;
	struct stat st;
	uint64_t found;
	int err = depth < DEPTH_MAX ? 0 : errmsg_set(-ELOOP, "%s: too deep", path);

	for (uint64_t cookie = 2; !err; cookie = entry.cookie) {
		err = fs_readdir(fs, dir, cookie, &entry);
		if (err == -ENOENT)
			return 0;
		if (!err && snprintf(below, sizeof(below), "%s/%s", path, entry.name) >= (int)sizeof(below))
			err = errmsg_set(-ENAMETOOLONG, "%s", path);
		if (!err)
			err = fs_lookup(fs, dir, entry.name, &found);
		if (!err && found != entry.ino)
			err = errmsg_set(-EUCLEAN, "%s: looked up as another inode than listed", below);
		if (!err)
			err = walk_one(fs, view, below, &entry, &st);
		if (!err && S_ISDIR(st.st_mode))
			err = walk_dir(fs, view, entry.ino, below, depth + 1);
	}
	return err;
}

int view_walk(struct fs *fs, bool times, char **text)
{
	const struct fs_dirent root = { .ino = FS_ROOT_INO, .type = DT_DIR };
	struct view view = { .times = times };
	struct stat st;
	char *all;
	int err = walk_one(fs, &view, "", &root, &st);

	if (!err)
		err = walk_dir(fs, &view, FS_ROOT_INO, "", 0);
	all = view_text(&view);
	if (err) {
		free(all);
		return err;
	}
	*text = all;
	return 0;
}
