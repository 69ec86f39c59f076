/* Directories over FUSE: listing, with attributes when the kernel asks for them. Cookies are the core's, so a listing goes
 * on where it stopped whatever happened to the directory meanwhile, and no listing is kept here. */
#include "fuse_front.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

void front_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct front *front = fuse_req_userdata(req);
	int err = fs_opened(front->fs, ino);

	if (err != 0) {
		front_reply_err(req, err);
		return;
	}
	fi->fh = 0;
	fi->cache_readdir = 1;
	fi->keep_cache = 1;
	if (fuse_reply_open(req, fi) == -ENOENT)
		fs_released(front->fs, ino);
}

/* Adds one entry; false when it does not fit. */
typedef bool (*add_entry)(struct front *front, fuse_req_t req, const struct fs_dirent *from, char *buf, size_t room,
			  size_t *len);

static bool add_plain(struct front *front, fuse_req_t req, const struct fs_dirent *from, char *buf, size_t room,
		      size_t *len)
{
	struct stat st = { .st_ino = from->ino, .st_mode = DTTOIF(from->type) };

	(void)front;
	*len = fuse_add_direntry(req, buf, room, from->name, &st, (off_t)from->cookie);
	return *len <= room;
}

/* Each entry but "." and ".." counts as a lookup. One whose attributes cannot be had is listed without them (node id 0:
 * the kernel then looks it up, and gets the error). */
static bool add_plus(struct front *front, fuse_req_t req, const struct fs_dirent *from, char *buf, size_t room,
		     size_t *len)
{
	struct fuse_entry_param entry = { .ino = 0 };
	bool dots = from->cookie < FS_KEY_MIN;

	if (fuse_add_direntry_plus(req, NULL, 0, from->name, NULL, 0) > room)
		return false;
	if (dots || front_entry(front, from->ino, &entry) != 0) {
		entry = (struct fuse_entry_param){ .ino = 0 };
		entry.attr.st_ino = from->ino;
		entry.attr.st_mode = DTTOIF(from->type);
	}
	*len = fuse_add_direntry_plus(req, buf, room, from->name, &entry, (off_t)from->cookie);
	return true;
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, add_entry add)
{
	struct front *front = fuse_req_userdata(req);
	uint64_t cookie = (uint64_t)off;
	struct fs_dirent entry;
	size_t used = 0, len;
	int err = 0;

	if (size > FRONT_WRITE_BYTES_MAX)
		size = FRONT_WRITE_BYTES_MAX;
	while (used < size) {
		err = fs_readdir(front->fs, ino, cookie, &entry);
		if (err != 0 || !add(front, req, &entry, (char *)front->list_buf + used, size - used, &len))
			break;
		used += len;
		cookie = entry.cookie;
	}
	if (err != 0 && err != -ENOENT && used == 0)
		front_reply_err(req, err);
	else
		fuse_reply_buf(req, (const char *)front->list_buf, used);
}

void front_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	list(req, ino, size, off, add_plain);
}

void front_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	list(req, ino, size, off, add_plus);
}
