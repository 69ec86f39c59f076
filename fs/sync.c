/* Who waits for commits, and syncs: what a sync waits for, and when it is answered.
 *
 *   fs_sync_all, streams unlinked --streams up to then linked--> waiters of a commit --acknowledged--> answered
 *   fs_sync_inode, nothing unlinked ---------------------------^
 *
 * Both lists are in the order of what they wait for: the first one decides whether anybody moves. */
#include <errno.h>
#include "fs_impl.h"

void waiters_init(struct fs *fs)
{
	fs->waiters_end = &fs->waiters;
	fs->all_end = &fs->all_waiters;
}

static void waiter_append(struct fs_waiter ***end, struct fs_waiter *waiter, struct fs *fs, uint64_t seq)
{
	waiter->seq = seq;
	waiter->fs = fs;
	waiter->next = NULL;
	waiter->prev = *end;
	**end = waiter;
	*end = &waiter->next;
}

void fs_waiter_cancel(struct fs_waiter *waiter)
{
	struct fs *fs = waiter->fs;

	if (!waiter->prev)
		return;
	*waiter->prev = waiter->next;
	if (waiter->next)
		waiter->next->prev = waiter->prev;
	else if (fs->waiters_end == &waiter->next)
		fs->waiters_end = waiter->prev;
	else
		fs->all_end = waiter->prev;
	waiter->prev = NULL;
}

static void answer(struct fs_waiter *waiter, int err)
{
	fs_waiter_cancel(waiter);
	waiter->done(waiter, err);
}

bool waiters_answer(struct fs *fs)
{
	bool moved = false;

	while (fs->waiters && fs->waiters->seq <= fs->acked) {
		answer(fs->waiters, 0);
		moved = true;
	}
	return moved;
}

void waiters_fail(struct fs_waiter **list, int err)
{
	while (*list)
		answer(*list, err);
}

/* Waits for everything up to now: the running commit is to be closed. */
static void commit_join(struct fs *fs, struct fs_waiter *waiter)
{
	uint64_t seq = commit_is_empty(fs) ? fs->running.seq - 1 : fs->running.seq;

	if (seq > fs->wanted)
		fs->wanted = seq;
	waiter_append(&fs->waiters_end, waiter, fs, seq);
}

bool waiters_move(struct fs *fs)
{
	bool moved = false;

	while (fs->all_waiters && (!fs->dirty_streams || fs->dirty_streams->gen > fs->all_waiters->seq)) {
		struct fs_waiter *waiter = fs->all_waiters;

		fs_waiter_cancel(waiter);
		commit_join(fs, waiter);
		moved = true;
	}
	return moved;
}

int fs_sync_inode(struct fs *fs, uint64_t ino, struct fs_waiter *waiter)
{
	struct vinode *v = vinode_find(fs, ino);
	int err;

	if (fs->failed)
		return -EIO;
	if (v && v->failed)
		return v->failed;
	if (v && v->dirty) {
		err = stream_link_now(fs, v);
		if (err)
			return err;
	}
	commit_join(fs, waiter);
	fs_poll(fs); /* closes the running commit at once when none flies */
	return 0;
}

int fs_sync_all(struct fs *fs, struct fs_waiter *waiter)
{
	if (fs->failed)
		return -EIO;
	if (fs->dirty_streams) {
		fs->link_upto = fs->stream_gen;
		waiter_append(&fs->all_end, waiter, fs, fs->stream_gen);
	} else {
		commit_join(fs, waiter);
	}
	fs_poll(fs);
	return 0;
}
