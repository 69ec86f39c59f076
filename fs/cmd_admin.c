/* Commands about a pool: mkfs makes one, info describes one that is not mounted; status and sync speak to a mount. */
#include "cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "errmsg.h"
#include "status.h"
#include "tree.h"

/* ---------------------------------------------------------------- mkfs */

#define MKFS_USAGE "[--force] [--sparse] [--ring SIZE] [--min-replicas N] [--provider NAME] POOLSET"

struct mkfs_args {
	const char *path, *provider;
	bool force, sparse;
	uint64_t ring_bytes, min_replicas;
};

static int mkfs_parse(int argc, char **argv, struct mkfs_args *args)
{
	static const struct option options[] = {
		{ "force", no_argument, NULL, 'f' }, { "sparse", no_argument, NULL, 's' },
		{ "ring", required_argument, NULL, 'r' }, { "min-replicas", required_argument, NULL, 'm' },
		{ "provider", required_argument, NULL, 'p' }, { NULL, 0, NULL, 0 },
	};
	int opt;

	*args = (struct mkfs_args){ .min_replicas = REPLICATION_MIN_RECORDED };
	while ((opt = getopt_long(argc, argv, "f", options, NULL)) != -1) {
		if (opt == 'f')
			args->force = true;
		else if (opt == 's')
			args->sparse = true;
		else if (opt == 'p')
			args->provider = optarg;
		else if (opt == 'r' && poolset_size_parse(optarg, &args->ring_bytes) == 0)
			continue;
		else if (opt != 'm' || !cmd_number("min-replicas", optarg, 0, POOLSET_REPLICAS_MAX - 1, &args->min_replicas))
			return cmd_usage(MKFS_USAGE);
	}
	if (optind != argc - 1)
		return cmd_usage(MKFS_USAGE);
	args->path = argv[optind];
	return CMD_OK;
}

/* Local parts, empty, with headers. */
static int mkfs_pool(const struct poolset *set, const struct mkfs_args *args, struct pool **pool)
{
	struct pool_attr attr = { .signature = POOLHDR_FS_SIGNATURE, .major = POOLHDR_FS_MAJOR };
	unsigned flags = (args->force ? POOL_REPLACE : 0) | (args->sparse ? POOL_SPARSE : 0) | POOL_NOWAIT_LOCK;
	int err;

	if ((set->options & POOLSET_SINGLEHDR) != 0)
		attr.incompat |= POOLHDR_INCOMPAT_SINGLEHDR;
	err = pool_create(set, 0, (set->options & POOLSET_NOHDRS) != 0 ? NULL : &attr, flags, pool);
	if (err == -EEXIST && !args->force)
		return errmsg_set(err, "%s\n  rpmemfs mkfs --force replaces it and everything in it", errmsg_get());
	return err;
}

static uint64_t realtime_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* What mkfs has in hand between its steps. */
struct mkfs {
	const struct poolset *set;
	const struct mkfs_args *args;
	struct fs_state_omf *state;    /* as planned */
	struct copy_page page;         /* of the local copy */
	struct replication_made *made; /* NULL: no replica, or not made yet */
	struct pool *pool;
};

/* What can be refused before anything is touched. */
static int mkfs_plan(struct mkfs *m)
{
	int err;

	m->state = calloc(1, sizeof(*m->state));
	if (m->state == NULL)
		return -ENOMEM;
	m->page.role = MEDIA_ROLE_PRIMARY;
	m->page.state = MEDIA_CONSISTENT;
	csum_random(m->page.instance, sizeof(m->page.instance));
	err = replication_plan(m->set, (uint32_t)m->args->min_replicas, m->page.instance, m->state);
	m->page.fence_epoch = le64_get(m->state->epoch);
	memcpy(m->page.fence_id, m->state->epoch_id, sizeof(m->page.fence_id));
	return err;
}

/* Empty pools on the replicas; nothing when that was done, or when there are none. */
static int mkfs_replicas(struct mkfs *m)
{
	const struct replication_cfg cfg = {
		.provider = m->args->provider, .command = cmd_rpmemd(m->set), .sparse = m->args->sparse,
	};
	int err;

	if (m->set->replica_count == 1 || m->made != NULL)
		return 0;
	err = replication_make(m->set, &cfg, poolset_replica_bytes(m->set, &m->set->replicas[0]), m->args->force, &m->made);
	if (err == -EEXIST)
		errmsg_set(err, "%s\n  rpmemfs mkfs --force replaces it and everything in it", errmsg_get());
	return err;
}

/* With --force: the local pool is not in use, and every replica is there, before old local parts go. */
static int mkfs_before_replacing(struct mkfs *m)
{
	struct pool *old = NULL;
	int err = pool_open(m->set, 0, POOL_NOWAIT_LOCK, &old);

	pool_close(old);
	return err == -EBUSY ? err : mkfs_replicas(m);
}

/* Format, first commit, then the same on every replica. */
static int mkfs_copies(struct mkfs *m)
{
	struct copy_format fmt = { .created_ns = realtime_ns(), .ring_bytes = m->args->ring_bytes, .page = m->page };
	struct copy *copy = NULL;
	void *rec = NULL;
	uint32_t len;
	int err;

	csum_random(fmt.content_uuid, sizeof(fmt.content_uuid));
	csum_random(&fmt.hash_seed, sizeof(fmt.hash_seed));
	err = copy_format(&m->pool->pm, &fmt);
	if (err == 0)
		err = copy_open(&m->pool->pm, false, &copy);
	if (err != 0)
		return err;
	err = fs_format(copy, m->state, 0755, getuid(), getgid(), &rec, &len);
	if (err == 0)
		err = mkfs_replicas(m);
	if (err == 0 && m->made != NULL)
		err = replication_format(m->made, copy, m->state, rec, len);
	copy_close(copy);
	free(rec);
	return err;
}

static int mkfs_run(const struct poolset *set, const struct mkfs_args *args)
{
	struct mkfs m = { .set = set, .args = args };
	char why[ERRMSG_BYTES_MAX];
	int err = mkfs_plan(&m);

	if (err == 0 && args->force)
		err = mkfs_before_replacing(&m);
	if (err == 0)
		err = mkfs_pool(set, args, &m.pool);
	if (err == 0)
		err = mkfs_copies(&m);
	snprintf(why, sizeof(why), "%s", errmsg_get());
	replication_made_close(m.made);
	pool_close(m.pool);
	if (err != 0 && m.pool != NULL)
		(void)pool_remove(set, 0, true); /* half a pool is of no use */
	free(m.state);
	return err != 0 && why[0] != '\0' ? errmsg_set(err, "%s", why) : err;
}

int cmd_mkfs(int argc, char **argv)
{
	struct mkfs_args args;
	struct poolset *set;
	int err, code = mkfs_parse(argc, argv, &args);

	if (code != CMD_OK)
		return code;
	err = poolset_read(args.path, &set);
	if (err != 0)
		return cmd_failed(err);
	err = mkfs_run(set, &args);
	poolset_free(set);
	return err != 0 ? cmd_failed(err) : CMD_OK;
}

/* ---------------------------------------------------------------- info */

static void uuid_text(const uint8_t uuid[16], char text[37])
{
	char *at = text;

	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*at++ = '-';
		at += sprintf(at, "%02x", uuid[i]);
	}
}

static void time_text(uint64_t ns, char *text, size_t size)
{
	time_t sec = (time_t)(ns / 1000000000u);
	struct tm tm;

	if (localtime_r(&sec, &tm) == NULL || strftime(text, size, "%Y-%m-%d %H:%M:%S", &tm) == 0)
		snprintf(text, size, "?");
}

static void info_copy(const struct cmd_local *local, uint64_t waiting)
{
	const struct media_geom *geom = copy_geom(local->copy);
	const struct media_sb_omf *sb = copy_sb(local->copy);
	struct copy_point head = copy_head(local->copy);
	char uuid[37], created[32];

	uuid_text(sb->content_uuid, uuid);
	time_text(le64_get(sb->created_ns), created, sizeof(created));
	printf("pool:        %s, %.1f MiB in %u part%s, content %s\n", local->set->path,
	       (double)local->pool->pm.len / (1 << 20), local->pool->part_count, local->pool->part_count == 1 ? "" : "s", uuid);
	printf("created:     %s, format version %u\n", created, le32_get(sb->version));
	printf("features:    compat %#x, read-only %#x, refuse %#x\n", le32_get(sb->feat_compat), le32_get(sb->feat_ro),
	       le32_get(sb->feat_incompat));
	printf("geometry:    %" PRIu64 " blocks of %u bytes, %" PRIu64 " groups, journal %.1f MiB\n", geom->blk_count,
	       MEDIA_BLOCK_BYTES, geom->group_count, (double)geom->ring_bytes / (1 << 20));
	printf("history:     epoch %" PRIu64 ", commit %" PRIu64 " (%02x%02x%02x%02x)\n", head.epoch, head.seq, head.hash.b[0],
	       head.hash.b[1], head.hash.b[2], head.hash.b[3]);
	if (waiting == 0)
		printf("state:       clean\n");
	else
		printf("state:       %" PRIu64 " commit%s in the journal; the next mount replays\n", waiting,
		       waiting == 1 ? " waits" : "s wait");
	printf("durability:  %s\n", pm_domain_name(local->pool->pm.domain));
}

static const char *const member_states[] = {
	[FS_MEMBER_NONE] = "none", [FS_MEMBER_ATTACHED] = "attached", [FS_MEMBER_DETACHED] = "detached",
	[FS_MEMBER_RELEASED] = "released, needs a whole resync",
};

static void info_members(const struct fs_state_omf *state, const struct poolset *set)
{
	uint32_t min = le32_get(state->min_replicas);

	printf("rule:        at least %u replica%s\n", min, min == 1 ? "" : "s");
	for (uint32_t i = 1; i < le32_get(state->member_count); i++) {
		const struct fs_member_omf *member = &state->members[i];
		uint32_t known = le32_get(member->state);
		const struct poolset_replica *conf;
		char name[FS_MEMBER_NAME_BYTES + 1];

		snprintf(name, sizeof(name), "%.*s", (int)FS_MEMBER_NAME_BYTES, (const char *)member->name);
		conf = poolset_find(set, name);
		printf("replica:     %s: %s, recorded as %s", name, conf != NULL ? conf->target : "no longer in the poolset",
		       known < sizeof(member_states) / sizeof(member_states[0]) ? member_states[known] : "?");
		if (known == FS_MEMBER_DETACHED)
			printf(" behind commit %" PRIu64, le64_get(member->mark));
		putchar('\n');
	}
}

static int info_content(const struct cmd_local *local)
{
	const struct fs_cfg cfg = { .read_only = true };
	const struct fs_state_omf *state;
	struct statvfs st;
	char mounted[32];
	struct fs *fs;
	int err = fs_open(local->copy, &cfg, &fs);

	if (err != 0)
		return err;
	err = state_get(fs, &state);
	if (err == 0) {
		info_members(state, local->set);
		time_text(le64_get(state->mount_ns), mounted, sizeof(mounted));
		printf("mounts:      %" PRIu64 "%s%s\n", le64_get(state->mount_count),
		       le64_get(state->mount_count) != 0 ? ", newest " : "",
		       le64_get(state->mount_count) != 0 ? mounted : "");
		err = fs_statfs(fs, &st);
	}
	if (err == 0)
		printf("usage:       %.1f of %.1f MiB used, %" PRIu64 " inodes\n",
		       (double)((st.f_blocks - st.f_bfree) * st.f_frsize) / (1 << 20),
		       (double)(st.f_blocks * st.f_frsize) / (1 << 20), (uint64_t)(st.f_files - st.f_ffree));
	fs_close(fs);
	return err;
}

static int info_look(const struct cmd_local *local, uint64_t waiting)
{
	info_copy(local, waiting);
	return info_content(local);
}

int cmd_info(int argc, char **argv)
{
	return cmd_look(argc, argv, info_look);
}

/* ---------------------------------------------------------------- a mount */

/* Opens the root directory of a mount of ours and reads its status. */
static int mount_ask(const char *path, int *fd, json_t **status)
{
	int err;

	*fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*fd < 0 && errno == ENOTCONN)
		return errmsg_set(-ENOTCONN, "%s: its rpmemfs process is gone\n  umount %s, then rpmemfs mount it again", path,
				  path);
	if (*fd < 0)
		return errmsg_set(-errno, "%s: %s", path, strerror(errno));
	err = status_fetch(*fd, status);
	if (err == 0)
		return 0;
	close(*fd);
	if (err == -ENOTTY || err == -EINVAL || err == -ENOSYS)
		return errmsg_set(err, "%s: not the root of an rpmemfs mount", path);
	return errmsg_set(err, "%s: asking the mount: %s", path, strerror(-err));
}

int cmd_status(int argc, char **argv)
{
	static const struct option options[] = { { "json", no_argument, NULL, 'j' }, { NULL, 0, NULL, 0 } };
	bool json = false, fine;
	json_t *status;
	int opt, fd, err;

	while ((opt = getopt_long(argc, argv, "j", options, NULL)) != -1) {
		if (opt != 'j')
			return cmd_usage("[--json] MOUNTPOINT");
		json = true;
	}
	if (optind != argc - 1)
		return cmd_usage("[--json] MOUNTPOINT");
	err = mount_ask(argv[optind], &fd, &status);
	if (err != 0)
		return cmd_failed(err);
	close(fd);
	fine = status_fine(status);
	if (json) {
		json_dumpf(status, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		status_print(status);
	}
	json_decref(status);
	if (fflush(stdout) != 0)
		return cmd_error("writing the status: %s", strerror(errno));
	return fine ? CMD_OK : CMD_NOT_FINE;
}

int cmd_sync(int argc, char **argv)
{
	json_t *status;
	int fd, err;

	if (argc != 2 || argv[1][0] == '-')
		return cmd_usage("MOUNTPOINT");
	err = mount_ask(argv[1], &fd, &status);
	if (err != 0)
		return cmd_failed(err);
	json_decref(status);
	/* first what only the kernel has: dirty pages of mappings; then everything the mount has (fsync of its root) */
	err = syncfs(fd) == 0 && fsync(fd) == 0 ? 0 : -errno;
	close(fd);
	if (err != 0)
		return cmd_error("%s: not everything is durable: %s; rpmemfs status %s says why", argv[1], strerror(-err),
				 argv[1]);
	return CMD_OK;
}
