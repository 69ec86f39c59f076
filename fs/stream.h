/* Streams: all changes of one file's content that no commit holds yet, in order: writes, truncation, times. Linked into a
 * commit whole or not at all.
 *
 *   empty --write, truncate--> staged --stream_link--> part of the running commit (empty again)
 *
 * A staged block is either a freshly allocated pool block, content in place (copy on write), or a 4 KiB DRAM image whose
 * changed lines will ride in the record (small overwrite of a committed block). `cut` is the least file block whose
 * committed mapping no longer counts. One struct vinode per inode that the kernel knows, that is open or that has a
 * stream. */
#ifndef RPMEMFS_FS_STREAM_H
#define RPMEMFS_FS_STREAM_H

#include "fs.h"
#include "hash64.h"

#define STREAM_RING_SHARE 16u /* a stream is linked at once when its record would pass ring_bytes / this */

/* Bounds of a stream's share of a record: inode lines, and what a cut adds: either up to CUT_TRIM_BLKS frees, with as many
 * nodes on each level, and one node a level changed; or the split path's nodes, the old ones changed and new ones beside
 * them, and the orphan that takes the rest, with new blocks of the inode table. */
#define STREAM_BASE_BYTES 512u
#define STREAM_CUT_BYTES (44u << 10)

#define STAGE_CHUNK_BLKS 64u

struct staged {
	uint64_t blk;      /* pool block, 0: DRAM image */
	uint8_t *image;    /* DRAM image of the whole block, malloc'ed; NULL with blk */
	uint32_t csum;     /* of blk's content */
	bool pushed;       /* sent ahead to every attached replica */
};

/* Neighbouring staged blocks together: large writes stage long runs. */
struct stage_chunk {
	uint64_t key;      /* file block / STAGE_CHUNK_BLKS */
	uint64_t present;  /* bit i: at[i] is staged */
	struct staged at[STAGE_CHUNK_BLKS];
	UT_hash_handle hh;
};

struct vinode {
	uint64_t ino;
	uint64_t lookups, handles;
	bool dirty;              /* a stream is there: staged blocks, cut, size or times */
	uint64_t size;           /* while dirty */
	struct timespec mtime, ctime; /* while dirty */
	uint64_t cut;            /* UINT64_MAX: none */
	struct stage_chunk *staged, *staged_last; /* by key; the one used last */
	uint64_t staged_count;   /* all ... */
	uint64_t staged_blks;    /* ... and those with blk: they count in st_blocks */
	uint64_t record_bytes;   /* estimate of its share of a record */
	uint64_t linked_seq;     /* newest commit that holds a link of it */
	uint64_t gen;            /* of the stream: order in which streams were opened */
	uint64_t reserved;       /* blocks reserved for the index blocks it will need */
	uint64_t reserved_node;  /* last map node a reservation was made for; UINT64_MAX: none */
	int failed;              /* errno of a WRITE that failed and was not made good ... */
	uint64_t failed_off, failed_len; /* ... and its range */
	bool stuck;              /* the stream could not be linked: nobody waits for the space that would bring */
	struct vinode *dirty_next, **dirty_prev; /* fs->dirty_streams */
	UT_hash_handle hh;
};

struct vinode *vinode_find(struct fs *fs, uint64_t ino); /* NULL: nothing volatile known */
int vinode_get(struct fs *fs, uint64_t ino, struct vinode **v);
void vinode_put(struct fs *fs, struct vinode *v); /* frees it when nothing holds it any more */

/* Starts a stream if there is none: size and times from the inode. */
int stream_open(struct fs *fs, struct vinode *v);
/* The staged block, NULL when there is none. Pointers stay valid until the stream is linked, cut or dropped. */
struct staged *stream_find(struct vinode *v, uint64_t fblk);
/* Its place, to be filled by stream_put; NULL: no memory. */
struct staged *stream_place(struct vinode *v, uint64_t fblk);
/* Stages a block, in place of what was staged there. Cannot fail after stream_place and room in alloc.wait_ack. */
void stream_put(struct fs *fs, struct vinode *v, uint64_t fblk, const struct staged *staged);
/* First staged block at or behind fblk; false: none. */
bool stream_next(struct vinode *v, uint64_t fblk, uint64_t *found);
/* Drops staged blocks at or behind fblk and moves the cut. */
void stream_cut(struct fs *fs, struct vinode *v, uint64_t fblk);
/* Links the stream into the running commit as part of the current operation (op_begin has been called); the caller makes
 * room first (fs_room). After op_end stream_linked empties it; after op_abort it is as it was. */
int stream_link(struct fs *fs, struct vinode *v, struct fs_inode_omf *inode);
void stream_linked(struct fs *fs, struct vinode *v);
/* Room check and link as an operation of its own. 0 also when there is no stream. -EAGAIN. v may be gone after it. */
int stream_link_now(struct fs *fs, struct vinode *v);
/* Throws the stream away (inode reclaimed). */
void stream_drop(struct fs *fs, struct vinode *v);

/* Makes sure the running commit can take an operation of record_bytes; closes it if need be. -EAGAIN: one is in flight. */
int fs_room(struct fs *fs, uint64_t record_bytes);
/* The same for a change of the state block's own lines, for which there always is room: 0, -EIO, -EROFS. */
int fs_room_state(struct fs *fs);
/* Record bound of one name-space operation: one directory insertion that splits a leaf and every node above it (2 blocks
 * a level), one removal, a few inodes. An eighth of the smallest ring holds it. */
#define FS_OP_RECORD_BYTES (56u << 10)

/* Now, as it goes into time stamps. */
struct timespec fs_now(struct fs *fs);

/* The inode lost its last link and has no handle, or is the cut-off rest of another one: reclaimed from now on, within an
 * operation once that is done. */
int fs_reclaim_later(struct fs *fs, uint64_t ino);

#endif
