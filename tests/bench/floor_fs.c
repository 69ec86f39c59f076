/* The composite floor: what the file system's figures are compared with. An in-memory FUSE file system that only copies
 * and, at FSYNC, makes one bare libfabric round trip to a second process: 512 bytes and the data written to the file
 * since its last FSYNC go out in one message, 64 bytes come back. No replica is kept, nothing is allocated, summed,
 * ordered or recoverable. A good program, not a slow one: one thread owns the FUSE descriptor and the endpoint, an
 * FSYNC is answered from its completion while other requests are served, the kernel caches attributes and entries
 * for good, data is sent from where it lies.
 *
 *   --null           no second process: FSYNC answers at once (null-FUSE)
 *   --wait=block     both ends sleep until something arrives
 *   --wait=yield     both ends poll with sched_yield; the target sleeps after 100 us without a request
 *   --bare           the completion queue has no descriptor, which would be written to and read from for every completion;
 *                    sleepers sleep on the connection's socket
 *   --push           a WRITE of 64 KiB or more goes into the target's memory as it arrives, FSYNC follows behind it
 *
 * A flat directory of FILES_MAX files; file i owns the i-th window of one mapping, so its data is found without a map.
 * Node id = index + 2. */
#include <errno.h>
#include <fuse_lowlevel.h>
#include <getopt.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <rdma/fi_rma.h>
#include "peer.h"

#define FILES_MAX 64u
#define WINDOW_BYTES (1ull << 30) /* also the size of the target's memory: an offset is the same on both sides */
#define TIMEOUT_S 86400.0
#define HEADER_BYTES 512u
#define ANSWER_BYTES 64u
#define PACKED_MAX (64u << 10)    /* data inside a message; more goes ahead of it as writes */
#define WRITE_MAX (1u << 20)
#define PUSH_MIN (64u << 10)
#define INFLIGHT_MAX (2u << 20)   /* more per connection is slower on tcp */
#define SYNCS_MAX 16u             /* FSYNCs under way; as many receives are posted on each side */

struct file {
	char name[256]; /* empty: not linked */
	bool used;
	uint64_t lookups;
	mode_t mode;
	uint64_t size;
	struct timespec mtime;
	uint64_t dirty_off, dirty_bytes; /* since the last FSYNC: where it began, how much */
};

static struct {
	bool fabric, push;
	enum peer_wait wait;
	enum peer_cq cq_kind;
	char *data;
	struct file files[FILES_MAX];
	struct peer peer;
	int cq_fd, fuse_fd;
	size_t inflight; /* bytes of writes not yet handed to the socket */
	fuse_req_t syncs[SYNCS_MAX];
	unsigned sync_head, sync_count;
	char header[HEADER_BYTES];
	char answers[SYNCS_MAX][ANSWER_BYTES];
} fl;

static char *data_of(const struct file *file)
{
	return fl.data + (uint64_t)(file - fl.files) * WINDOW_BYTES;
}

/* ---- the round trip ---- */

static void post_answer_buffer(void *buf)
{
	peer_must("fi_recv", fi_recv(fl.peer.ep, buf, ANSWER_BYTES, NULL, 0, buf));
}

/* Takes what has completed: a write frees its bytes, an answer answers the oldest FSYNC. */
static void take_completions(void)
{
	struct fi_cq_msg_entry entries[SYNCS_MAX];
	ssize_t count = fi_cq_read(fl.peer.cq, entries, SYNCS_MAX);

	if (count == -FI_EAGAIN)
		return;
	peer_must("target", count < 0 ? count : 0);
	for (ssize_t i = 0; i < count; i++) {
		if (!(entries[i].flags & FI_RECV)) {
			fl.inflight -= (size_t)entries[i].op_context;
			continue;
		}
		fuse_reply_err(fl.syncs[fl.sync_head], 0);
		fl.sync_head = (fl.sync_head + 1) % SYNCS_MAX;
		fl.sync_count--;
		post_answer_buffer(entries[i].op_context);
	}
	if (!fl.sync_count && !fl.inflight)
		peer_answered(&fl.peer);
}

static void push_data(const struct file *file, uint64_t off, size_t len)
{
	struct iovec iov = { data_of(file) + off, len };
	struct fi_rma_iov remote = { .addr = off, .len = len, .key = PEER_KEY };
	struct fi_msg_rma msg = { .msg_iov = &iov, .iov_count = 1, .rma_iov = &remote, .rma_iov_count = 1,
	                          .context = (void *)len };
	ssize_t ret;

	while (fl.inflight && fl.inflight + len > INFLIGHT_MAX)
		take_completions();
	while ((ret = fi_writemsg(fl.peer.ep, &msg, FI_COMPLETION)) == -FI_EAGAIN)
		take_completions();
	peer_must("fi_writemsg", ret);
	peer_posted(&fl.peer);
	fl.inflight += len;
}

/* One message for the FSYNC. Only the amount of data matters here, so scattered writes are sent as one stretch of their
 * total length from where the first began. */
static void send_sync(fuse_req_t req, struct file *file)
{
	uint64_t off = file->dirty_off, left = file->dirty_bytes;
	struct iovec iov[2] = { { fl.header, HEADER_BYTES } };
	struct fi_msg msg = { .msg_iov = iov, .iov_count = 1 };
	ssize_t ret;

	if (off + left > WINDOW_BYTES)
		off = left < WINDOW_BYTES ? WINDOW_BYTES - left : 0;
	while (left > PACKED_MAX) {
		size_t len = left < WRITE_MAX ? left : WRITE_MAX;

		if (off + len > WINDOW_BYTES)
			off = 0;
		push_data(file, off, len);
		off += len;
		left -= len;
	}
	if (left) {
		iov[1] = (struct iovec){ data_of(file) + off, left };
		msg.iov_count = 2;
	}
	while ((ret = fi_sendmsg(fl.peer.ep, &msg, 0)) == -FI_EAGAIN)
		take_completions();
	peer_must("fi_sendmsg", ret);
	peer_posted(&fl.peer);
	fl.syncs[(fl.sync_head + fl.sync_count++) % SYNCS_MAX] = req;
	file->dirty_bytes = 0;
}

/* ---- files ---- */

static struct file *file_of(fuse_ino_t ino)
{
	return ino >= 2 && ino < 2 + FILES_MAX && fl.files[ino - 2].used ? &fl.files[ino - 2] : NULL;
}

static struct file *find(const char *name)
{
	for (unsigned i = 0; i < FILES_MAX; i++)
		if (fl.files[i].used && strcmp(fl.files[i].name, name) == 0)
			return &fl.files[i];
	return NULL;
}

static void forget(struct file *file, uint64_t lookups)
{
	file->lookups -= lookups;
	if (file->lookups || file->name[0])
		return;
	madvise(data_of(file), WINDOW_BYTES, MADV_DONTNEED);
	memset(file, 0, sizeof(*file));
}

static void fill_stat(struct stat *st, fuse_ino_t ino)
{
	struct file *file = file_of(ino);

	memset(st, 0, sizeof(*st));
	st->st_ino = ino;
	st->st_mode = file ? file->mode : S_IFDIR | 0755;
	st->st_nlink = file ? 1 : 2;
	st->st_blksize = 4096;
	if (file) {
		st->st_size = (off_t)file->size;
		st->st_blocks = (blkcnt_t)((file->size + 511) / 512);
		st->st_mtim = st->st_ctim = file->mtime;
	}
}

static void fill_entry(struct fuse_entry_param *entry, struct file *file)
{
	memset(entry, 0, sizeof(*entry));
	entry->ino = (fuse_ino_t)(file - fl.files) + 2;
	entry->attr_timeout = entry->entry_timeout = TIMEOUT_S;
	fill_stat(&entry->attr, entry->ino);
	file->lookups++;
}

/* ---- requests ---- */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	conn->max_write = WRITE_MAX;
	conn->want &= ~(unsigned)FUSE_CAP_WRITEBACK_CACHE;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry;
	struct file *file = find(name);

	(void)parent;
	if (!file) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	fill_entry(&entry, file);
	fuse_reply_entry(req, &entry);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
	struct file *file = file_of(ino);

	if (file)
		forget(file, lookups);
	fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	(void)fi;
	fill_stat(&st, ino);
	fuse_reply_attr(req, &st, TIMEOUT_S);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int set, struct fuse_file_info *fi)
{
	struct file *file = file_of(ino);

	(void)fi;
	if (file && (set & FUSE_SET_ATTR_SIZE)) {
		if ((uint64_t)attr->st_size > WINDOW_BYTES) {
			fuse_reply_err(req, EFBIG);
			return;
		}
		if ((uint64_t)attr->st_size < file->size)
			memset(data_of(file) + attr->st_size, 0, file->size - (uint64_t)attr->st_size);
		file->size = (uint64_t)attr->st_size;
	}
	if (file && (set & FUSE_SET_ATTR_MODE))
		file->mode = S_IFREG | (attr->st_mode & 07777);
	op_getattr(req, ino, NULL);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fuse_entry_param entry;
	unsigned i = 0;

	(void)parent;
	while (i < FILES_MAX && fl.files[i].used)
		i++;
	if (i == FILES_MAX || strlen(name) >= sizeof(fl.files[i].name)) {
		fuse_reply_err(req, i == FILES_MAX ? ENOSPC : ENAMETOOLONG);
		return;
	}
	strcpy(fl.files[i].name, name);
	fl.files[i].used = true;
	fl.files[i].mode = S_IFREG | (mode & 07777);
	clock_gettime(CLOCK_REALTIME_COARSE, &fl.files[i].mtime);
	fill_entry(&entry, &fl.files[i]);
	fi->keep_cache = 1;
	fuse_reply_create(req, &entry, fi);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fi->keep_cache = 1;
	fuse_reply_open(req, fi);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct file *file = find(name);

	(void)parent;
	if (file) {
		file->name[0] = '\0';
		forget(file, 0);
	}
	fuse_reply_err(req, file ? 0 : ENOENT);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct file *file = file_of(ino);
	uint64_t at = (uint64_t)off, end = at + size;

	(void)fi;
	if (!file) {
		fuse_reply_err(req, ESTALE);
		return;
	}
	if (end > file->size)
		end = file->size;
	fuse_reply_buf(req, data_of(file) + at, end > at ? end - at : 0);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct file *file = file_of(ino);
	uint64_t at = (uint64_t)off;

	(void)fi;
	if (!file || at + size > WINDOW_BYTES) {
		fuse_reply_err(req, file ? EFBIG : ESTALE);
		return;
	}
	memcpy(data_of(file) + at, buf, size);
	if (at + size > file->size)
		file->size = at + size;
	clock_gettime(CLOCK_REALTIME_COARSE, &file->mtime);
	fuse_reply_write(req, size); /* the writer prepares its next data while these are sent */
	if (fl.push && size >= PUSH_MIN) {
		push_data(file, at, size);
		return;
	}
	if (!file->dirty_bytes)
		file->dirty_off = at;
	file->dirty_bytes += size;
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct file *file = file_of(ino);

	(void)datasync, (void)fi;
	if (file && fl.fabric)
		send_sync(req, file);
	else
		fuse_reply_err(req, file ? 0 : ESTALE);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	char buf[4096];
	size_t used = 0;

	(void)ino, (void)fi;
	if (size > sizeof(buf))
		size = sizeof(buf);
	for (unsigned i = (unsigned)off; i < FILES_MAX; i++) {
		struct stat st;
		size_t need;

		if (!fl.files[i].name[0])
			continue;
		fill_stat(&st, i + 2);
		need = fuse_add_direntry(req, buf + used, size - used, fl.files[i].name, &st, (off_t)i + 1);
		if (need > size - used)
			break;
		used += need;
	}
	fuse_reply_buf(req, buf, used);
}

static const struct fuse_lowlevel_ops ops = {
	.init = op_init, .lookup = op_lookup, .forget = op_forget, .getattr = op_getattr, .setattr = op_setattr,
	.create = op_create, .open = op_open, .unlink = op_unlink, .read = op_read, .write = op_write,
	.fsync = op_fsync, .readdir = op_readdir,
};

/* ---- the loop ---- */

/* While a round trip is under way: is there a request to serve meanwhile? Yielding gives the processor away once;
 * blocking sleeps until a request or the answer is there. */
static bool request_waits(void)
{
	struct pollfd fds[2] = { { .fd = fl.fuse_fd, .events = POLLIN }, { .fd = fl.cq_fd, .events = POLLIN } };
	struct fid *cq = &fl.peer.cq->fid;
	bool room = fl.sync_count < SYNCS_MAX;

	if (!room)
		fds[0].fd = -1;
	if (fl.wait == PEER_YIELD) {
		sched_yield();
		return room && poll(fds, 1, 0) > 0;
	}
	if (fl.cq_kind == PEER_CQ_SOCKET)
		return peer_sleep(&fl.peer, fds[0].fd);
	if (fi_trywait(fl.peer.fabric, &cq, 1) != 0)
		return false;
	return poll(fds, 2, -1) > 0 && fds[0].revents;
}

static int serve(struct fuse_session *se)
{
	struct fuse_buf buf = { 0 };
	int ret = 0;

	while (!fuse_session_exited(se)) {
		if (fl.sync_count) {
			take_completions();
			if (fl.sync_count && !request_waits())
				continue;
		}
		ret = fuse_session_receive_buf(se, &buf);
		if (ret == -EINTR)
			continue;
		if (ret <= 0)
			break;
		fuse_session_process_buf(se, &buf);
	}
	free(buf.mem);
	return ret < 0 && ret != -EINTR ? 1 : 0;
}

/* ---- the second process ---- */

static void *map_memory(uint64_t bytes)
{
	void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		peer_must("mmap", -errno);
	return mem;
}

/* Receives requests and answers them until the connection ends. */
static int target(void)
{
	static char requests[SYNCS_MAX][HEADER_BYTES + PACKED_MAX], answer[ANSWER_BYTES];
	struct fi_cq_msg_entry entries[SYNCS_MAX];
	struct peer_listener listener;
	struct peer peer;
	size_t count;

	peer_tell_port(peer_listen(&listener));
	peer_accept(&listener, &peer, fl.cq_kind, map_memory(WINDOW_BYTES), WINDOW_BYTES);
	peer_unlisten(&listener);
	for (unsigned i = 0; i < SYNCS_MAX; i++)
		peer_must("fi_recv", fi_recv(peer.ep, requests[i], sizeof(requests[i]), NULL, 0, requests[i]));
	while ((count = peer_wait(&peer, entries, SYNCS_MAX, fl.wait)) > 0) {
		for (size_t i = 0; i < count; i++) {
			void *buf = entries[i].op_context;

			peer_must("fi_recv", fi_recv(peer.ep, buf, sizeof(requests[0]), NULL, 0, buf));
			peer_must("fi_inject", fi_inject(peer.ep, answer, ANSWER_BYTES, 0));
			peer_posted(&peer);
		}
	}
	peer_close(&peer);
	return 0;
}

static void connect_target(int *pid)
{
	const char *argv[] = { "floor_fs", "--target", fl.wait == PEER_YIELD ? "--wait=yield" : "--wait=block",
	                       fl.cq_kind == PEER_CQ_SOCKET ? "--bare" : NULL, NULL };

	peer_connect(&fl.peer, fl.cq_kind, peer_start_target(argv, pid));
	if (fl.cq_kind == PEER_CQ_FD)
		peer_must("FI_GETWAIT", fi_control(&fl.peer.cq->fid, FI_GETWAIT, &fl.cq_fd));
	for (unsigned i = 0; i < SYNCS_MAX; i++)
		post_answer_buffer(fl.answers[i]);
}

static int mount_and_serve(const char *dir)
{
	char name[] = "floor_fs", option[] = "-ofsname=floor_fs", *argv[] = { name, option, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(2, argv);
	struct fuse_session *se = fuse_session_new(&args, &ops, sizeof(ops), NULL);
	int ret = 1;

	if (!se)
		return 1;
	if (fuse_set_signal_handlers(se) == 0) {
		if (fuse_session_mount(se, dir) == 0) {
			fl.fuse_fd = fuse_session_fd(se);
			ret = serve(se);
			fuse_session_unmount(se);
		}
		fuse_remove_signal_handlers(se);
	}
	fuse_session_destroy(se);
	fuse_opt_free_args(&args);
	return ret;
}

static int usage(void)
{
	fprintf(stderr, "usage: floor_fs [--null] [--wait=block|yield] [--bare] [--push] DIRECTORY\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "null", no_argument, NULL, 'n' }, { "wait", required_argument, NULL, 'w' },
		{ "push", no_argument, NULL, 'p' }, { "target", no_argument, NULL, 't' },
		{ "bare", no_argument, NULL, 'b' },
		{ 0 },
	};
	bool is_target = false;
	int opt, ret, pid = -1;

	fl.fabric = true;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'w' && strcmp(optarg, "yield") != 0 && strcmp(optarg, "block") != 0)
			return usage();
		if (opt == 'n')
			fl.fabric = false;
		else if (opt == 'w')
			fl.wait = optarg[0] == 'y' ? PEER_YIELD : PEER_BLOCK;
		else if (opt == 'p')
			fl.push = true;
		else if (opt == 'b')
			fl.cq_kind = PEER_CQ_SOCKET;
		else if (opt == 't')
			is_target = true;
		else
			return usage();
	}
	peer_default_signals();
	if (is_target)
		return target();
	if (optind + 1 != argc || (fl.push && !fl.fabric))
		return usage();
	fl.data = map_memory(FILES_MAX * WINDOW_BYTES);
	if (fl.fabric)
		connect_target(&pid);
	ret = mount_and_serve(argv[optind]);
	if (fl.fabric) {
		peer_close(&fl.peer);
		peer_end_target(pid);
	}
	return ret;
}
