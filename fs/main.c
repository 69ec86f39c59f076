/* rpmemfs: the commands. What the files of this folder do:
 *
 *   commands    main.c         this: which command runs
 *               cmd.c          what commands share: messages, options, the local copy
 *               cmd_admin.c    mkfs, info, status, sync
 *               cmd_fsck.c     fsck           cmd_repair.c fsck --repair
 *               cmd_mount.c    mount: arguments, daemon, start and end
 *               cmd_restore.c  restore, verify
 *               status.c       status of a mount: JSON in between, text for people
 *   FUSE        fuse_ops.c     callbacks      fuse_dir.c   listings      fuse_park.c   requests that wait
 *               loop.c         the event loop of a mount
 *   name space  namei.c        names          rename.c     rename        attr.c        attributes
 *   content     file_*.c       read, write    stream.c     staged changes of a file
 *   structures  itable.c       inode table    map*.c       file maps     dir*.c        directories
 *               orphan.c       what is to be reclaimed                   fsck*.c       every invariant
 *   core        fs.c           open, format   recover.c    what waits in the ring
 *               block.c        shadow blocks  fresh.c      checksums not in the table yet
 *               alloc.c        free blocks    op.c         all or nothing
 *               commit.c       commits        sync.c       who waits for them
 *   replication replication.c  links of a mount            policy.c      what may be acknowledged
 *               members.c      recorded membership         attach.c, catchup.c, pull.c: bringing copies in line
 *               replication_mkfs.c  mkfs of replicas       restore*.c, verify*.c, progress.c, warm.c: rebuilding,
 *               comparing */
#include <stdio.h>
#include <string.h>
#include "cmd.h"
#include "restore.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *what;
} commands[] = {
	{ "mkfs", cmd_mkfs, "make a pool and its replicas" },
	{ "mount", cmd_mount, "mount a pool" },
	{ "status", cmd_status, "what a mount and its replicas are doing" },
	{ "sync", cmd_sync, "make everything of a mount durable" },
	{ "restore", cmd_restore, "rebuild the local parts from a replica" },
	{ "verify", cmd_verify, "compare the replicas" },
	{ "info", cmd_info, "describe a pool that is not mounted" },
	{ "fsck", cmd_fsck, "check every invariant of a pool that is not mounted, and repair it" },
};
#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static void help(FILE *to)
{
	fprintf(to, "usage: rpmemfs COMMAND ...\n\n");
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		fprintf(to, "  %-8s %s\n", commands[i].name, commands[i].what);
	fprintf(to, "\nrpmemfs(1) describes them all.\n");
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		help(stderr);
		return CMD_USAGE;
	}
	if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		help(stdout);
		return CMD_OK;
	}
	for (size_t i = 0; i < COMMAND_COUNT; i++) {
		if (strcmp(argv[1], commands[i].name) == 0) {
			cmd_begin(commands[i].name);
			return commands[i].run(argc - 1, argv + 1);
		}
	}
	fprintf(stderr, "rpmemfs: %s: no such command\n", argv[1]);
	help(stderr);
	return CMD_USAGE;
}
