/* On-media layout of the file system's own metadata: what the blocks of media.h hold when their type is MEDIA_META_FIRST or
 * above. Changed only by commit records; a reader resolves the block first (fs/block.h), so it never sees a half-written
 * one.
 *
 *   state block   at the superblock's root_blk: counters, list heads, identity of the mount, membership and policy
 *   inode table   radix tree of inode blocks, 16 inodes each
 *   file map      radix tree of data blocks, 512 pointers a node, height in the inode
 *   directory     B+tree over 62-bit keys made from names' hashes; leaves of 64-byte slots */
#ifndef RPMEMFS_FSMEDIA_H
#define RPMEMFS_FSMEDIA_H

#include "media.h"

enum fs_type {
	FS_STATE = MEDIA_META_FIRST,
	FS_ITAB_NODE,  /* radix node of the inode table */
	FS_ITAB_LEAF,  /* 16 inodes */
	FS_MAP_NODE,   /* radix node of a file's map */
	FS_DIR_NODE,   /* inner node of a directory */
	FS_DIR_LEAF,
	FS_SYMLINK,    /* target longer than the inode holds */
	FS_XATTR,      /* extended attributes, ACLs */
	FS_TYPE_LAST = FS_XATTR,
};

/* ---------------------------------------------------------------- state block */
#define FS_STATE_MAGIC "RPMEMFS\1"
#define FS_MEMBERS_MAX 16u
#define FS_MEMBER_NAME_BYTES 48u

enum fs_member_state {
	FS_MEMBER_NONE = 0,
	FS_MEMBER_ATTACHED = 1, /* every acknowledgement waits for it */
	FS_MEMBER_DETACHED = 2, /* holds back ring and block reuse from mark on */
	FS_MEMBER_RELEASED = 3, /* nothing is held back: needs a whole resync */
};
enum fs_member_flags { FS_MEMBER_SAME_MACHINE = 1u };

struct fs_member_omf {
	uint8_t name[FS_MEMBER_NAME_BYTES]; /*  0  short name, NUL padded; "local" for the primary's own copy */
	uint8_t instance[16];               /* 48  of its per-copy page when it was last attached */
	le32_t  state;                      /* 64  enum fs_member_state */
	le32_t  mode;                       /* 68  1 synchronous; 2 asynchronous (reserved) */
	le32_t  flags;                      /* 72  enum fs_member_flags */
	le32_t  reserved;                   /* 76 */
	le64_t  mark;                       /* 80  detached: newest sequence it is known to have durable */
	uint8_t zero[40];                   /* 88 */
};
static_assert(sizeof(struct fs_member_omf) == 128, "fs_member_omf size");

struct fs_state_omf {
	uint8_t magic[8];       /*   0 */
	le32_t  version;        /*   8  1 */
	le32_t  itab_height;    /*  12  levels of nodes above the inode blocks */
	le64_t  itab_root;      /*  16  0: no inode yet */
	le64_t  ino_next;       /*  24  inode numbers from here on were never used */
	le64_t  ino_free;       /*  32  head of the list of free inodes, 0: none */
	le64_t  orphan_head;    /*  40  inodes to reclaim: no link left, or the cut-off part of a truncated file */
	le64_t  ino_count;      /*  48  in use, orphans included */
	uint8_t zero0[8];       /*  56 */

	le64_t  epoch;          /*  64 */
	uint8_t epoch_id[16];   /*  72  random, new with the epoch */
	uint8_t mount_nonce[16];/*  88  random, new with each mount */
	le64_t  mount_count;    /* 104 */
	le64_t  mount_ns;       /* 112  time of the newest mount, since 1970 */
	uint8_t zero1[8];       /* 120 */

	le32_t  min_replicas;   /* 128  the rule in force: synchronous replicas an acknowledgement needs */
	le32_t  member_count;   /* 132 */
	uint8_t zero2[120];     /* 136 */

	struct fs_member_omf members[FS_MEMBERS_MAX]; /* 256 */
	uint8_t zero3[1792];    /* 2304 */
};
static_assert(sizeof(struct fs_state_omf) == MEDIA_BLOCK_BYTES, "fs_state_omf size");
static_assert(offsetof(struct fs_state_omf, epoch) == 64, "fs_state_omf epoch");
static_assert(offsetof(struct fs_state_omf, min_replicas) == 128, "fs_state_omf min_replicas");
static_assert(offsetof(struct fs_state_omf, members) == 256, "fs_state_omf members");

/* ---------------------------------------------------------------- inodes */
#define FS_ROOT_INO 1u /* as FUSE has it */
#define FS_INODE_BYTES 256u
#define FS_INODES_PER_BLOCK 16u
#define FS_INLINE_BYTES 64u
#define FS_NAME_BYTES_MAX 255u
#define FS_SYMLINK_BYTES_MAX 4095u
#define FS_LINKS_MAX 65000u
#define FS_INO_MAX (1ull << 40)

struct fs_inode_omf {
	/* line 0: what a write changes */
	le64_t  size;        /*   0  bytes; directory: entries * 64 */
	le64_t  blocks;      /*   8  data blocks mapped; map and directory blocks are not counted */
	le64_t  mtime;       /*  16  seconds, signed */
	le64_t  ctime;       /*  24 */
	le32_t  mtime_ns;    /*  32 */
	le32_t  ctime_ns;    /*  36 */
	le64_t  root;        /*  40  file: map root; directory: tree root; long symlink: its block; 0: none */
	le32_t  height;      /*  48  levels of nodes above data blocks / leaves */
	le32_t  flags;       /*  52  enum fs_inode_flags */
	le64_t  entries;     /*  56  directory: names in it, "." and ".." not counted */
	/* line 1 */
	le32_t  mode;        /*  64  st_mode; 0: the inode is free */
	le32_t  nlink;       /*  68 */
	le32_t  uid;         /*  72 */
	le32_t  gid;         /*  76 */
	le32_t  gen;         /*  80  +1 each time the number is given out */
	le32_t  rdev;        /*  84 */
	le64_t  btime;       /*  88 */
	le64_t  atime;       /*  96 */
	le32_t  btime_ns;    /* 104 */
	le32_t  atime_ns;    /* 108 */
	le64_t  parent;      /* 112  directory: inode of the directory that holds it */
	uint8_t zero0[8];    /* 120 */
	/* line 2 */
	le64_t  xattr;       /* 128  block of extended attributes, 0: none */
	le64_t  acl_access;  /* 136 */
	le64_t  acl_default; /* 144 */
	le64_t  orphan_prev; /* 152 */
	le64_t  orphan_next; /* 160 */
	le64_t  free_next;   /* 168  free inode: next one */
	uint8_t zero1[16];   /* 176 */
	/* line 3 */
	uint8_t inline_data[FS_INLINE_BYTES]; /* 192  symlink target of at most 64 bytes, no NUL */
};
static_assert(sizeof(struct fs_inode_omf) == FS_INODE_BYTES, "fs_inode_omf size");
static_assert(offsetof(struct fs_inode_omf, mode) == 64, "fs_inode_omf mode");
static_assert(offsetof(struct fs_inode_omf, xattr) == 128, "fs_inode_omf xattr");
static_assert(offsetof(struct fs_inode_omf, inline_data) == 192, "fs_inode_omf inline_data");

enum fs_inode_flags {
	FS_INODE_ORPHAN = 1u, /* on the orphan list */
	FS_INODE_CUT = 2u,    /* carries the cut-off part of a truncated file, never had a name */
};

/* ---------------------------------------------------------------- radix nodes (inode table, file map) */
#define FS_NODE_PTRS 512u
#define FS_NODE_SHIFT 9u
#define FS_HEIGHT_MAX 4u               /* 512^4 blocks: 256 TiB */
#define FS_FILE_BYTES_MAX (1ull << 48)
#define FS_PTR_BLK_MASK ((1ull << 48) - 1)
#define FS_PTR_UNWRITTEN (1ull << 63)  /* allocated, reads as zeros; leaf pointers only */

struct fs_node_omf {
	le64_t ptr[FS_NODE_PTRS]; /* 0: hole */
};
static_assert(sizeof(struct fs_node_omf) == MEDIA_BLOCK_BYTES, "fs_node_omf size");

/* ---------------------------------------------------------------- directories */
/* Key of a name: (csum_hash64(name, seed) >> 2) & ~(FS_KEY_SAME - 1), at least FS_KEY_MIN, plus the smallest ordinal
 * not used in this directory by names of the same hash. Keys are the readdir cookies: unique, stable, positive. */
#define FS_KEY_SAME 256ull
#define FS_KEY_MIN 256ull              /* cookies below are "." and ".." */
#define FS_DIR_SLOTS 63u
#define FS_DIR_NODE_PTRS 255u
#define FS_DIR_HEIGHT_MAX 4u /* of inner nodes: half a billion names even when half full */

struct fs_dir_leaf_omf {
	le64_t used;      /*  0  bit i: slot i in use */
	le64_t start;     /*  8  bit i: slot i starts an entry */
	le32_t magic;     /* 16 */
	le32_t reserved;  /* 20 */
	le64_t ino;       /* 24  of the directory: fsck finds misplaced leaves */
	uint8_t zero[32];
	uint8_t slots[FS_DIR_SLOTS][MEDIA_LINE_BYTES]; /* an entry takes 1..5 slots in a row */
};
static_assert(sizeof(struct fs_dir_leaf_omf) == MEDIA_BLOCK_BYTES, "fs_dir_leaf_omf size");
#define FS_DIR_LEAF_MAGIC 0x4c524944u /* "DIRL" */

struct fs_dirent_omf {
	le64_t  key;      /*  0 */
	le64_t  ino;      /*  8 */
	le32_t  gen;      /* 16 */
	uint8_t type;     /* 20  DT_* */
	uint8_t name_len; /* 21  1..255 */
	uint8_t name[];   /* 22 */
};
#define FS_DIRENT_HEAD_BYTES 22u

struct fs_dir_node_omf {
	le32_t magic;     /*  0 */
	le32_t count;     /*  4  1..FS_DIR_NODE_PTRS */
	le64_t ino;       /*  8 */
	struct {
		le64_t key; /* least key below the child; 0 in the first slot */
		le64_t blk;
	} slot[FS_DIR_NODE_PTRS];
};
static_assert(sizeof(struct fs_dir_node_omf) == MEDIA_BLOCK_BYTES, "fs_dir_node_omf size");
#define FS_DIR_NODE_MAGIC 0x4e524944u /* "DIRN" */

#endif
