/* Content of regular files: reading through stream and map, seeking. Writing is in file_write.c.
 *
 * A read hands out pieces of memory where the content lies already: staged blocks and images, committed blocks of the
 * pool, a page of zeros for what is not there. Every block of the pool is verified before its piece is given out; whoever
 * takes the pieces uses them before anything else runs in the core, so nothing changes in between. One damaged block
 * fails the whole read: what was looked up before it is not given out either. */
#include "file_impl.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "csum.h"
#include "errmsg.h"
#include "log.h"

#define READ_PTRS 64u   /* map pointers looked up at once */
#define COPY_PIECES 64u /* pieces of one step of a read that copies ... */
#define COPY_BYTES ((COPY_PIECES - 2) * BLK)

static_assert(FS_READ_PIECES(COPY_BYTES) <= COPY_PIECES, "a copying step and its pieces");

static const uint8_t zeros[BLK] __attribute__((aligned(BLK)));

/* ---------------------------------------------------------------- where content is */

int file_inode(struct fs *fs, uint64_t ino, struct fs_inode_omf *inode)
{
	int err = inode_get(fs, ino, inode);

	if (err)
		return err;
	if (S_ISDIR(le32_get(inode->mode)))
		return -EISDIR;
	return S_ISREG(le32_get(inode->mode)) ? 0 : -EINVAL;
}

int file_damaged(uint64_t ino, uint64_t fblk, int err)
{
	log_error("inode %llu, file block %llu: %s", (unsigned long long)ino, (unsigned long long)fblk, errmsg_get());
	return err == -EBADMSG || err == -EUCLEAN ? -EIO : err;
}

int file_ptrs(struct fs *fs, const struct vinode *v, const struct fs_inode_omf *inode, uint64_t fblk, unsigned count,
	uint64_t *ptrs)
{
	int err = map_get_run(fs, inode, fblk, count, ptrs);

	for (unsigned i = 0; !err && v && v->dirty && i < count; i++)
		if (fblk + i >= v->cut)
			ptrs[i] = 0;
	return err;
}

int file_committed(struct fs *fs, uint64_t ptr, const void **content)
{
	*content = NULL;
	if (ptr == 0 || ptr & FS_PTR_UNWRITTEN)
		return 0;
	return block_get_data(fs, ptr & FS_PTR_BLK_MASK, content);
}

int file_staged(struct fs *fs, const struct staged *staged, const void **content)
{
	const void *p = staged->blk ? pm_ptr(fs->pm, media_off(staged->blk)) : staged->image;

	if (staged->blk && csum_crc32c(0, p, BLK) != staged->csum)
		return errmsg_set(-EBADMSG, "block %#llx (pool offset %#llx): content changed before it was linked",
			(unsigned long long)staged->blk, (unsigned long long)media_off(staged->blk));
	*content = p;
	return 0;
}

/* ---------------------------------------------------------------- reading */

struct reader {
	struct fs *fs;
	struct vinode *v; /* NULL: no stream */
	struct fs_inode_omf inode;
	uint64_t end;        /* behind the last block that is read */
	uint64_t ptrs_fblk;  /* ptrs are of the blocks from here ... */
	unsigned ptrs_count; /* ... so many */
	uint64_t ptrs[READ_PTRS];
	struct iovec *pieces;
	unsigned count;
};

static int reader_init(struct reader *r, struct fs *fs, uint64_t ino, struct iovec *pieces)
{
	struct vinode *v = vinode_find(fs, ino);

	r->fs = fs;
	r->v = v && v->dirty ? v : NULL;
	r->ptrs_count = 0;
	r->pieces = pieces;
	r->count = 0;
	return file_inode(fs, ino, &r->inode);
}

static int reader_ptr(struct reader *r, uint64_t fblk, uint64_t *ptr)
{
	int err;

	if (r->ptrs_count == 0 || fblk - r->ptrs_fblk >= r->ptrs_count) {
		r->ptrs_fblk = fblk;
		r->ptrs_count = r->end - fblk < READ_PTRS ? (unsigned)(r->end - fblk) : READ_PTRS;
		err = file_ptrs(r->fs, r->v, &r->inode, fblk, r->ptrs_count, r->ptrs);
		if (err)
			return err;
	}
	*ptr = r->ptrs[fblk - r->ptrs_fblk];
	return 0;
}

/* Content of a block as the program sees it. */
static int reader_content(struct reader *r, uint64_t fblk, const void **content)
{
	const struct staged *staged = r->v ? stream_find(r->v, fblk) : NULL;
	uint64_t ptr;
	int err;

	if (staged) {
		err = file_staged(r->fs, staged, content);
	} else {
		err = reader_ptr(r, fblk, &ptr);
		if (!err)
			err = file_committed(r->fs, ptr, content);
	}
	if (!err && !*content)
		*content = zeros;
	return err;
}

static const uint8_t *iovec_end(const struct iovec *piece)
{
	return (const uint8_t *)piece->iov_base + piece->iov_len;
}

/* Neighbours in memory become one piece: a file written in one go lies in long runs. */
static void reader_add(struct reader *r, const uint8_t *from, size_t len)
{
	if (r->count && iovec_end(&r->pieces[r->count - 1]) == from)
		r->pieces[r->count - 1].iov_len += len;
	else
		r->pieces[r->count++] = (struct iovec){ .iov_base = (void *)from, .iov_len = len };
}

int fs_read_pieces(
	struct fs *fs, uint64_t ino, uint64_t off, size_t len, struct iovec *pieces, unsigned *count, size_t *got)
{
	struct reader r;
	size_t done = 0;
	uint64_t size;
	int err = reader_init(&r, fs, ino, pieces);

	if (err)
		return err;
	size = r.v ? r.v->size : le64_get(r.inode.size);
	if (off >= size)
		len = 0;
	else if (len > size - off)
		len = size - off;
	r.end = (off + len + BLK - 1) >> MEDIA_BLOCK_SHIFT;
	while (done < len) {
		uint64_t fblk = (off + done) >> MEDIA_BLOCK_SHIFT;
		size_t in = (off + done) % BLK, part = BLK - in < len - done ? BLK - in : len - done;
		const void *content;

		err = reader_content(&r, fblk, &content);
		if (err)
			return file_damaged(ino, fblk, err);
		reader_add(&r, (const uint8_t *)content + in, part);
		done += part;
	}
	assert(r.count <= FS_READ_PIECES(len));
	*count = r.count;
	*got = done;
	return 0;
}

int fs_read(struct fs *fs, uint64_t ino, uint64_t off, void *buf, size_t len, size_t *got)
{
	struct iovec pieces[COPY_PIECES];
	uint8_t *to = buf;
	size_t left = len, part;
	unsigned count;

	do {
		size_t want = left < COPY_BYTES ? left : COPY_BYTES;
		int err = fs_read_pieces(fs, ino, off + (len - left), want, pieces, &count, &part);

		if (err)
			return err;
		for (unsigned i = 0; i < count; i++)
			to = mempcpy(to, pieces[i].iov_base, pieces[i].iov_len);
		left -= part;
		if (part < want)
			break;
	} while (left > 0);
	*got = len - left;
	return 0;
}

/* ---------------------------------------------------------------- seeking */

/* Next file block at or behind fblk that holds data: staged, or committed and before the cut. */
static int next_data(struct fs *fs, struct vinode *v, const struct fs_inode_omf *inode, uint64_t fblk, uint64_t *found)
{
	uint64_t best = UINT64_MAX, staged;
	int err = map_next(fs, inode, fblk, &best);

	if (err && err != -ENXIO)
		return err;
	if (err || (v && v->dirty && best >= v->cut))
		best = UINT64_MAX;
	if (v && v->dirty && stream_next(v, fblk, &staged) && staged < best)
		best = staged;
	if (best == UINT64_MAX)
		return -ENXIO;
	*found = best;
	return 0;
}

static bool has_data(struct fs *fs, struct vinode *v, const struct fs_inode_omf *inode, uint64_t fblk, int *err)
{
	uint64_t ptr = 0;

	if (v && v->dirty && stream_find(v, fblk))
		return true;
	*err = file_ptrs(fs, v, inode, fblk, 1, &ptr);
	return ptr != 0;
}

int fs_seek(struct fs *fs, uint64_t ino, uint64_t off, int whence, uint64_t *found)
{
	struct vinode *v = vinode_find(fs, ino);
	struct fs_inode_omf inode;
	uint64_t size, fblk = off >> MEDIA_BLOCK_SHIFT, at;
	int err = file_inode(fs, ino, &inode);

	if (err)
		return err;
	size = v && v->dirty ? v->size : le64_get(inode.size);
	if (off >= size)
		return -ENXIO;
	if (whence == SEEK_DATA) {
		err = next_data(fs, v, &inode, fblk, &at);
		if (err)
			return err;
		if (at << MEDIA_BLOCK_SHIFT >= size)
			return -ENXIO;
		*found = at == fblk ? off : at << MEDIA_BLOCK_SHIFT;
		return 0;
	}
	if (whence != SEEK_HOLE)
		return -EINVAL;
	while (fblk << MEDIA_BLOCK_SHIFT < size && has_data(fs, v, &inode, fblk, &err) && !err)
		fblk++;
	if (err)
		return err;
	at = fblk << MEDIA_BLOCK_SHIFT;
	*found = at < off ? off : at < size ? at : size;
	return 0;
}
