/* See model.h. Arrays and loops: nothing here is clever. */
#include "model.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "trace.h"

#define ROOT 0

/* ---------------------------------------------------------------- names */

static int name_find(const struct model *m, unsigned dir, const char *name)
{
	for (unsigned i = 0; i < MODEL_NAMES_MAX; i++)
		if (m->names[i].used && m->names[i].dir == dir && strcmp(m->names[i].name, name) == 0)
			return (int)i;
	return -ENOENT;
}

/* The directory a path's last name is in; *name is that name. */
static int parent_find(const struct model *m, const char *path, const char **name)
{
	char part[MODEL_NAME_BYTES];
	unsigned dir = ROOT;

	for (path++;; path += strlen(part) + 1) {
		const char *slash = strchr(path, '/');
		int at;

		if (!slash) {
			*name = path;
			return (int)dir;
		}
		snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
		at = name_find(m, dir, part);
		if (at < 0)
			return at;
		dir = m->names[at].inode;
		if (!S_ISDIR(m->inodes[dir].mode))
			return -ENOTDIR;
	}
}

int model_find(const struct model *m, const char *path)
{
	const char *name;
	int dir = parent_find(m, path, &name), at;

	if (dir < 0)
		return dir;
	if (!*name)
		return dir;
	at = name_find(m, (unsigned)dir, name);
	return at < 0 ? at : (int)m->names[at].inode;
}

static void name_add(struct model *m, unsigned dir, const char *name, unsigned inode)
{
	for (unsigned i = 0; i < MODEL_NAMES_MAX; i++) {
		if (m->names[i].used)
			continue;
		m->names[i] = (struct model_name){ .used = true, .dir = dir, .inode = inode };
		snprintf(m->names[i].name, sizeof(m->names[i].name), "%s", name);
		if (S_ISDIR(m->inodes[inode].mode)) {
			m->inodes[inode].parent = dir;
			m->inodes[dir].nlink++;
		}
		return;
	}
	EXPLORE_MUST(-ENOSPC);
}

static void name_remove(struct model *m, int at)
{
	struct model_name *n = &m->names[at];

	if (S_ISDIR(m->inodes[n->inode].mode))
		m->inodes[n->dir].nlink--;
	n->used = false;
}

static unsigned names_in(const struct model *m, unsigned dir)
{
	unsigned count = 0;

	for (unsigned i = 0; i < MODEL_NAMES_MAX; i++)
		count += m->names[i].used && m->names[i].dir == dir;
	return count;
}

/* ---------------------------------------------------------------- life */

void model_init(struct model *m)
{
	memset(m, 0, sizeof(*m));
	m->inodes[ROOT] = (struct model_inode){ .used = true, .ino = FS_ROOT_INO, .mode = S_IFDIR | 0755, .nlink = 2 };
}

void model_copy(struct model *to, const struct model *from)
{
	*to = *from;
	to->states.v = NULL;
	to->states.n = to->states.cap = 0;
	for (unsigned i = 0; i < MODEL_INODES_MAX; i++) {
		struct model_inode *n = &to->inodes[i];

		if (n->target)
			n->target = strdup(n->target);
		if (n->data) {
			n->data = malloc(n->size + 1);
			EXPLORE_MUST(n->data ? 0 : -ENOMEM);
			memcpy(n->data, from->inodes[i].data, n->size);
		}
	}
	if (from->states.n)
		EXPLORE_MUST(vec_push(&to->states, strdup(from->states.v[from->states.n - 1])));
}

void model_free(struct model *m)
{
	for (unsigned i = 0; i < MODEL_INODES_MAX; i++) {
		free(m->inodes[i].data);
		free(m->inodes[i].target);
	}
	for (size_t i = 0; i < m->states.n; i++)
		free(m->states.v[i]);
	vec_free(&m->states);
}

/* ---------------------------------------------------------------- name space */

int model_create(struct model *m, const char *path, mode_t mode, const char *target, uint64_t ino)
{
	const char *name;
	int dir = parent_find(m, path, &name);

	if (dir < 0)
		return dir;
	if (name_find(m, (unsigned)dir, name) >= 0)
		return -EEXIST;
	for (unsigned i = 0; i < MODEL_INODES_MAX; i++) {
		if (m->inodes[i].used)
			continue;
		m->inodes[i] = (struct model_inode){ .used = true, .ino = ino, .mode = mode, .nlink = S_ISDIR(mode) ? 2 : 1 };
		m->inodes[i].linked_hash = view_hash("", 0);
		if (target)
			m->inodes[i].target = strdup(target);
		name_add(m, (unsigned)dir, name, i);
		return 0;
	}
	EXPLORE_MUST(-ENOSPC);
	return -ENOSPC;
}

int model_link(struct model *m, const char *path, const char *to)
{
	const char *name;
	int from = model_find(m, path), dir;

	if (from < 0)
		return from;
	dir = parent_find(m, to, &name);
	if (dir < 0)
		return dir;
	if (name_find(m, (unsigned)dir, name) >= 0)
		return -EEXIST;
	if (S_ISDIR(m->inodes[from].mode))
		return -EPERM;
	model_link_content(m, from);
	m->inodes[from].nlink++;
	name_add(m, (unsigned)dir, name, (unsigned)from);
	return 0;
}

static void link_lost(struct model_inode *n)
{
	n->nlink = S_ISDIR(n->mode) ? 0 : n->nlink - 1;
}

int model_unlink(struct model *m, const char *path, bool want_dir)
{
	const char *name;
	int dir = parent_find(m, path, &name), at;
	unsigned inode;

	if (dir < 0)
		return dir;
	at = name_find(m, (unsigned)dir, name);
	if (at < 0)
		return at;
	inode = m->names[at].inode;
	if (want_dir != S_ISDIR(m->inodes[inode].mode))
		return want_dir ? -ENOTDIR : -EISDIR;
	if (want_dir && names_in(m, inode))
		return -ENOTEMPTY;
	name_remove(m, at);
	link_lost(&m->inodes[inode]);
	return 0;
}

static bool is_above(const struct model *m, unsigned inode, unsigned dir)
{
	while (dir != inode && dir != ROOT)
		dir = m->inodes[dir].parent;
	return dir == inode;
}

static int rename_check(const struct model *m, unsigned dir, unsigned to_dir, unsigned inode, int there, bool exchange)
{
	const struct model_inode *from = &m->inodes[inode], *to = there >= 0 ? &m->inodes[there] : NULL;

	if (exchange && !to)
		return -ENOENT;
	if (dir != to_dir && S_ISDIR(from->mode) && is_above(m, inode, to_dir))
		return -EINVAL;
	if (dir != to_dir && exchange && S_ISDIR(to->mode) && is_above(m, (unsigned)there, dir))
		return -EINVAL;
	if (exchange || !to)
		return 0;
	if (S_ISDIR(from->mode) != S_ISDIR(to->mode))
		return S_ISDIR(from->mode) ? -ENOTDIR : -EISDIR;
	return S_ISDIR(to->mode) && names_in(m, (unsigned)there) ? -ENOTEMPTY : 0;
}

int model_rename(struct model *m, const char *path, const char *to, bool exchange)
{
	const char *name, *to_name;
	int dir = parent_find(m, path, &name), to_dir = dir < 0 ? dir : parent_find(m, to, &to_name), at, to_at, err;
	unsigned inode;

	if (to_dir < 0)
		return to_dir;
	at = name_find(m, (unsigned)dir, name);
	to_at = name_find(m, (unsigned)to_dir, to_name);
	if (at < 0)
		return at;
	inode = m->names[at].inode;
	int there = to_at < 0 ? to_at : (int)m->names[to_at].inode;

	err = rename_check(m, (unsigned)dir, (unsigned)to_dir, inode, there, exchange);
	if (err)
		return err;
	if (there == (int)inode)
		return 0;
	model_link_content(m, (int)inode);
	if (there >= 0)
		model_link_content(m, there);
	name_remove(m, at);
	if (to_at >= 0)
		name_remove(m, to_at);
	name_add(m, (unsigned)to_dir, to_name, inode);
	if (exchange)
		name_add(m, (unsigned)dir, name, (unsigned)there);
	else if (there >= 0)
		link_lost(&m->inodes[there]);
	return 0;
}

/* ---------------------------------------------------------------- content */

static void content_changes(struct model *m, struct model_inode *n)
{
	if (!n->pending)
		n->order = ++m->orders;
	n->pending = true;
}

static void resize(struct model_inode *n, uint64_t size)
{
	uint8_t *data = realloc(n->data, size + 1);

	EXPLORE_MUST(data ? 0 : -ENOMEM);
	n->data = data;
	if (size > n->size)
		memset(n->data + n->size, 0, size - n->size);
	n->size = size;
}

void model_write(struct model *m, int inode, uint64_t off, const void *bytes, uint64_t len)
{
	struct model_inode *n = &m->inodes[inode];

	content_changes(m, n);
	if (off + len > n->size)
		resize(n, off + len);
	memcpy(n->data + off, bytes, len);
}

void model_truncate(struct model *m, int inode, uint64_t size)
{
	content_changes(m, &m->inodes[inode]);
	resize(&m->inodes[inode], size);
}

void model_chmod(struct model *m, int inode, mode_t mode)
{
	struct model_inode *n = &m->inodes[inode];

	model_link_content(m, inode);
	n->mode = (n->mode & S_IFMT) | mode;
}

void model_link_content(struct model *m, int inode)
{
	struct model_inode *n = &m->inodes[inode];

	if (!n->pending)
		return;
	n->pending = false;
	n->linked_size = n->size;
	n->linked_hash = view_hash(n->data, n->size);
	n->mtime = n->seen_mtime;
	n->ctime = n->seen_ctime;
	model_state(m);
}

void model_link_all(struct model *m)
{
	for (;;) {
		int oldest = -1;

		for (unsigned i = 0; i < MODEL_INODES_MAX; i++)
			if (m->inodes[i].used && m->inodes[i].pending &&
			    (oldest < 0 || m->inodes[i].order < m->inodes[oldest].order))
				oldest = (int)i;
		if (oldest < 0)
			return;
		model_link_content(m, oldest);
	}
}

/* ---------------------------------------------------------------- states */

void model_observe(struct model *m, struct fs *fs, int ctime_of)
{
	for (unsigned i = 0; i < MODEL_INODES_MAX; i++) {
		struct model_inode *n = &m->inodes[i];
		struct stat st;

		if (!n->used || n->nlink == 0)
			continue;
		EXPLORE_MUST(fs_getattr(fs, n->ino, &st, NULL));
		n->seen_mtime = st.st_mtim;
		n->seen_ctime = st.st_ctim;
		if (!n->pending)
			n->mtime = st.st_mtim;
		if (!n->pending || (int)i == ctime_of)
			n->ctime = st.st_ctim;
	}
}

static void view_inode(const struct model *m, unsigned inode, bool linked, const char *path, struct view *view)
{
	const struct model_inode *n = &m->inodes[inode];
	struct stat st = { .st_ino = n->ino, .st_mode = n->mode, .st_nlink = n->nlink, .st_mtim = n->mtime, .st_ctim = n->ctime };
	uint64_t hash = 0;

	if (S_ISDIR(n->mode))
		st.st_size = names_in(m, inode) * 64;
	else if (n->target)
		st.st_size = (off_t)strlen(n->target);
	else
		st.st_size = (off_t)(linked ? n->linked_size : n->size);
	if (S_ISREG(n->mode) && st.st_size <= VIEW_READ_BYTES_MAX)
		hash = linked ? n->linked_hash : view_hash(n->data, n->size);
	view_add(view, path, &st, n->target, hash);
}

static void view_dir(const struct model *m, unsigned dir, bool linked, const char *path, struct view *view)
{
	view_inode(m, dir, linked, path, view);
	for (unsigned i = 0; i < MODEL_NAMES_MAX; i++) {
		const struct model_name *n = &m->names[i];
		char below[VIEW_PATH_BYTES];

		if (!n->used || n->dir != dir)
			continue;
		snprintf(below, sizeof(below), "%s/%s", path, n->name);
		if (S_ISDIR(m->inodes[n->inode].mode))
			view_dir(m, n->inode, linked, below, view);
		else
			view_inode(m, n->inode, linked, below, view);
	}
}

unsigned model_state(struct model *m)
{
	struct view view = { .times = true };

	view_dir(m, ROOT, true, "", &view);
	EXPLORE_MUST(vec_push(&m->states, view_text(&view)));
	return (unsigned)m->states.n - 1;
}

char *model_seen(const struct model *m)
{
	struct view view = { .times = false };

	view_dir(m, ROOT, false, "", &view);
	return view_text(&view);
}
