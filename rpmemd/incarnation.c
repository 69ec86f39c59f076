/* The incarnation of a pool. Whoever replaces a lost session must know whether the pool it finds is the one it wrote to, or one
 * that lost its memory, or was made anew under the same name. Nothing is stored for that: it follows from what identifies the
 * memory itself, hashed over all parts in order.
 *
 *   each part        device, inode, birth (where the file system knows it), bytes; a device dax: the device alone
 *   in memory        the boot, too, and the file system's own number, which is another one for each mount of a tmpfs
 *   with headers     when the pool was created: the file of a pool that was wiped and made again in place is the same
 *
 * A disk's device number may change with a reboot. Then the answer is another one though nothing was lost: the safe side. */
#include "incarnation.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>
#include "csum.h"
#include "errmsg.h"

#define BOOT_ID_PATH "/proc/sys/kernel/random/boot_id"
#define BOOT_ID_BYTES 36u

/* What is hashed: fields of fixed width, zeros between them. */
struct part_identity {
	uint64_t dev_major, dev_minor, rdev_major, rdev_minor, inode, bytes, birth_s, birth_ns, fs_id;
};
struct pool_identity {
	uint64_t part_count, created;
	char boot[BOOT_ID_BYTES + 4];
	struct part_identity parts[];
};

static int part_identify(const struct pool_part *part, bool memory, struct part_identity *id)
{
	struct statfs fs;
	struct statx st;

	if (statx(part->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st))
		return errmsg_set(-errno, "part %s: statx: %s", part->path, strerror(errno));
	if (S_ISCHR(st.stx_mode)) {
		id->rdev_major = st.stx_rdev_major;
		id->rdev_minor = st.stx_rdev_minor;
		return 0;
	}
	id->dev_major = st.stx_dev_major;
	id->dev_minor = st.stx_dev_minor;
	id->inode = st.stx_ino;
	id->bytes = st.stx_size;
	if (st.stx_mask & STATX_BTIME) {
		id->birth_s = (uint64_t)st.stx_btime.tv_sec;
		id->birth_ns = st.stx_btime.tv_nsec;
	}
	if (!memory)
		return 0;
	if (fstatfs(part->fd, &fs))
		return errmsg_set(-errno, "part %s: statfs: %s", part->path, strerror(errno));
	memcpy(&id->fs_id, &fs.f_fsid, sizeof(id->fs_id));
	return 0;
}

static int boot_identify(char boot[BOOT_ID_BYTES])
{
	int fd = open(BOOT_ID_PATH, O_RDONLY | O_CLOEXEC), err = 0;
	ssize_t n;

	if (fd < 0)
		return errmsg_set(-errno, BOOT_ID_PATH ": %s", strerror(errno));
	n = read(fd, boot, BOOT_ID_BYTES);
	if (n != (ssize_t)BOOT_ID_BYTES)
		err = errmsg_set(n < 0 ? -errno : -EIO, BOOT_ID_PATH ": cannot be read");
	close(fd);
	return err;
}

static uint64_t pool_created(const struct pool *pool)
{
	static const struct pool_attr none;
	const struct poolhdr_omf *hdr = pm_ptr(&pool->pm, 0);

	return memcmp(&pool->attr, &none, sizeof(none)) ? le64_get(hdr->crtime) : 0;
}

int incarnation_of(const struct pool *pool, uint8_t incarnation[16])
{
	size_t bytes = sizeof(struct pool_identity) + pool->part_count * sizeof(struct part_identity);
	struct pool_identity *id = calloc(1, bytes);
	bool memory = pool->pm.domain == PM_MEMORY;
	struct hash128 hash;
	int err;

	if (!id)
		return errmsg_set(-ENOMEM, "out of memory");
	id->part_count = pool->part_count;
	id->created = pool_created(pool);
	err = memory ? boot_identify(id->boot) : 0;
	for (unsigned i = 0; i < pool->part_count && !err; i++)
		err = part_identify(&pool->parts[i], memory, &id->parts[i]);
	hash = csum_hash128(id, bytes);
	free(id);
	if (!err)
		memcpy(incarnation, hash.b, sizeof(hash.b));
	return err;
}
