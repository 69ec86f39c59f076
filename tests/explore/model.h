/* The model: what a file system with our contract is allowed to hold after a crash.
 *
 * It keeps a tree in plain arrays, with two contents for each file: the one programs see, and the one that was last linked
 * (sync, rename, link, chmod; a link the core made on its own shows as OWN). Each change of the name space or of attributes and each
 * link appends one state: the whole tree as text, with linked contents. A commit holds everything that ran before it, so
 * after recovery the file system must look like one of these states, no earlier than the last acknowledged sync and no
 * later than what was begun: the prefix rule and the whole-content rule at once.
 *
 * Times are not modelled: model_observe takes them from the running file system, and the model says which of them belong to
 * the linked content. */
#ifndef RPMEMFS_TESTS_EXPLORE_MODEL_H
#define RPMEMFS_TESTS_EXPLORE_MODEL_H

#include "fs/fs.h"
#include "fs/vec.h"
#include "view.h"

#define MODEL_INODES_MAX 48u
#define MODEL_NAMES_MAX 96u
#define MODEL_NAME_BYTES 16u

struct model_inode {
	bool used;
	uint64_t ino;
	mode_t mode;
	unsigned nlink, parent;    /* parent: of a directory */
	char *target;
	uint8_t *data;             /* seen by programs */
	uint64_t size;
	bool pending;              /* data is not linked */
	uint64_t order;            /* pending: when its stream was opened */
	uint64_t linked_size, linked_hash;
	struct timespec mtime, ctime;           /* as linked, or of a directory */
	struct timespec seen_mtime, seen_ctime; /* as the running file system shows them */
};

struct model_name {
	bool used;
	unsigned dir, inode;
	char name[MODEL_NAME_BYTES];
};

struct model {
	struct model_inode inodes[MODEL_INODES_MAX]; /* [0] is the root */
	struct model_name names[MODEL_NAMES_MAX];
	uint64_t orders;
	VEC(char *) states;
};

void model_init(struct model *m);
void model_copy(struct model *to, const struct model *from); /* without the states but the newest */
void model_free(struct model *m);

/* Index of the inode a path leads to, or a negative errno. */
int model_find(const struct model *m, const char *path);

/* Operations; the errno is what the real ones must return. ino: what the real one got. */
int model_create(struct model *m, const char *path, mode_t mode, const char *target, uint64_t ino);
int model_link(struct model *m, const char *path, const char *to);
int model_unlink(struct model *m, const char *path, bool dir);
int model_rename(struct model *m, const char *path, const char *to, bool exchange);
void model_write(struct model *m, int inode, uint64_t off, const void *bytes, uint64_t len);
void model_truncate(struct model *m, int inode, uint64_t size);
void model_chmod(struct model *m, int inode, mode_t mode);

/* The file's content is part of the running commit: a new state, when there was anything to link. */
void model_link_content(struct model *m, int inode);
/* The same for every file, oldest stream first. */
void model_link_all(struct model *m);

/* Takes times from the running file system. With `ctime_of` (an inode that lost a name while its content is not linked, else
 * -1) that one's ctime counts although its content does not. */
void model_observe(struct model *m, struct fs *fs, int ctime_of);
/* Appends the tree as it is now; returns its number. */
unsigned model_state(struct model *m);

/* What programs see, without times. malloc'ed. */
char *model_seen(const struct model *m);

#endif
