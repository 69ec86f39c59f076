/* A link to a real rpmemd with a throwaway pool directory, for test_link and test_ssh. */
#ifndef RPMEMFS_TESTS_LINK_RIG_H
#define RPMEMFS_TESTS_LINK_RIG_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "errmsg.h"
#include "poolhdr.h"
#include "repl.h"
#include "rpmem/channel.h"
#include "tests/support/chain.h"

#define LINK_RIG_RING (1u << 20)

struct link_rig {
	char dir[64], command[PATH_MAX + 512];
	struct poolset_replica replica;
	struct repl_cfg cfg;
	struct pool_attr attr;
	struct repl_link *link;
	struct chain chain;
};

static inline void file_write(const char *dir, const char *name, const char *text, int mode)
{
	char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "w");
	cr_assert(file, "%s", path);
	fputs(text, file);
	fclose(file);
	chmod(path, (mode_t)mode);
}

static inline void link_rig_init(struct link_rig *rig, const char *options)
{
	char exe[PATH_MAX] = "", text[256], *slash;
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	cr_assert_gt(n, 0);
	for (unsigned i = 0; i < 3; i++) { /* build/tests/rpmem/test_x -> build */
		slash = strrchr(exe, '/');
		cr_assert(slash);
		*slash = '\0';
	}
	strcpy(rig->dir, "/dev/shm/rpmem-link-XXXXXX");
	cr_assert(mkdtemp(rig->dir));
	snprintf(text, sizeof(text), "PMEMPOOLSET\n64M %s/part\n", rig->dir);
	file_write(rig->dir, "r.set", text, 0600);
	snprintf(rig->command, sizeof(rig->command), "%s/rpmemd --poolset-dir %s --log-file %s/log %s", exe, rig->dir, rig->dir,
		 options);
	memcpy(rig->attr.signature, POOLHDR_FS_SIGNATURE, sizeof(rig->attr.signature));
	rig->attr.major = POOLHDR_FS_MAJOR;
	rig->replica = (struct poolset_replica){ .target = (char *)"@local", .set_name = (char *)"r.set", .name = "r" };
	rig->cfg = (struct repl_cfg){ .command = rig->command, .lanes = 1, .notice_ms = 10000, .connect_ms = 30000 };
}

static inline void link_rig_fini(struct link_rig *rig)
{
	const char *names[] = { "r.set", "part", "log", "fail", "key", "key.pub", "host", "host.pub", "other", "other.pub",
				"known", "config", "config.old", "proxy", "sshd.conf", "sshd.log", "authorized" };
	char path[PATH_MAX];

	if (rig->link)
		rig->link->ops->close(rig->link);
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", rig->dir, names[i]);
		unlink(path);
	}
	cr_expect_eq(rmdir(rig->dir), 0, "something was left in %s", rig->dir);
}

static inline int link_rig_open(struct link_rig *rig, bool create)
{
	rig->cfg.create = create;
	rig->cfg.attr = &rig->attr;
	cr_assert_eq(repl_link_open(&rig->replica, &rig->cfg, &rig->link), 0);
	return repl_link_wait(rig->link);
}

static inline void link_rig_close(struct link_rig *rig)
{
	rig->link->ops->close(rig->link);
	rig->link = NULL;
}

/* Creates and formats the replica and starts a chain at sequence 0. */
static inline void link_rig_format(struct link_rig *rig)
{
	struct copy_format fmt = { .hash_seed = CHAIN_SEED, .ring_bytes = LINK_RIG_RING,
				   .page = { .role = MEDIA_ROLE_REPLICA, .state = MEDIA_CONSISTENT } };
	struct media_geom geom;

	memset(fmt.content_uuid, 0x11, sizeof(fmt.content_uuid));
	cr_assert_eq(link_rig_open(rig, true), 0, "%s", rig->link->err_text);
	cr_assert_not(rig->link->peer.formatted);
	cr_assert_eq(rig->link->ops->format(rig->link, &fmt), 0, "%s", errmsg_get());
	cr_assert_eq(rig->link->ops->refresh(rig->link), 0, "%s", errmsg_get());
	cr_assert(rig->link->peer.formatted);
	cr_assert_eq(copy_geometry(rig->link->peer.pool_size, rig->link->peer.ring_bytes, &geom), 0);
	chain_init(&rig->chain, &geom, &rig->link->peer.head);
}

/* Sleeps as an event loop does until the commit is answered or the link is down. */
static inline enum repl_state link_rig_await(struct repl_link *link, uint64_t seq)
{
	enum repl_state state;

	while ((state = link->ops->poll(link)) == REPL_UP && link->acked < seq) {
		struct pollfd fds[2] = { { .events = POLLIN }, { .events = POLLIN } };
		unsigned count;
		int raw[2];

		if (!link->ops->may_block(link))
			continue;
		count = link->ops->fds(link, raw);
		for (unsigned i = 0; i < count; i++)
			fds[i].fd = raw[i];
		poll(fds, count, -1); /* no timeout of its own: the descriptors must be enough */
	}
	return state;
}

/* One commit of a block. Returns its pool offset. */
static inline uint64_t link_rig_commit(struct link_rig *rig)
{
	uint8_t block[MEDIA_BLOCK_BYTES];
	struct repl_range range = { .len = sizeof(block), .src = block };
	struct repl_commit commit = { .ranges = &range, .range_count = 1, .settled = rig->chain.at.seq };
	void *rec;

	commit.seq = rig->chain.at.seq + 1;
	chain_content(commit.seq, block);
	range.off = chain_next(&rig->chain, block, 1, &rec, &commit.rec_len);
	commit.rec = rec;
	cr_assert_eq(rig->link->ops->commit(rig->link, &commit), 0, "%s", errmsg_get());
	link_rig_await(rig->link, commit.seq);
	free(rec);
	return range.off;
}

/* The process whose parent we are. */
static inline pid_t child_find(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	cr_assert(proc);
	while (!found && (entry = readdir(proc))) {
		char path[300], line[512], *paren;
		int ppid = 0;
		FILE *stat;

		snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
		stat = atoi(entry->d_name) ? fopen(path, "r") : NULL;
		if (!stat)
			continue;
		if (fgets(line, sizeof(line), stat) && (paren = strrchr(line, ')')) &&
		    sscanf(paren + 1, " %*c %d", &ppid) == 1 && ppid == getpid())
			found = atoi(entry->d_name);
		fclose(stat);
	}
	closedir(proc);
	return found;
}

#endif
