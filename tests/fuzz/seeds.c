/* Writes the corpora the fuzzers start from: seeds DIR, one file an input below DIR/TARGET. Run by hand when a format has
 * changed ("make fuzz-seeds"); what it writes is checked in. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "codec.h"
#include "copy.h"
#include "csum.h"
#include "media.h"
#include "persist.h"
#include "poolhdr.h"
#include "redo.h"

static const char *corpus;

static void save(const char *target, const char *name, const void *bytes, size_t len)
{
	char path[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", corpus, target);
	if (mkdir(path, 0777) && errno != EEXIST) {
		perror(path);
		exit(1);
	}
	snprintf(path, sizeof(path), "%s/%s/%s", corpus, target, name);
	file = fopen(path, "w");
	if (!file || fwrite(bytes, 1, len, file) != len || fclose(file)) {
		perror(path);
		exit(1);
	}
}

static void save_text(const char *target, const char *name, const char *text)
{
	save(target, name, text, strlen(text));
}

/* ---------------------------------------------------------------- control */
static void attr_fill(struct ctl_attr *attr)
{
	*attr = (struct ctl_attr){ .signature = "RPMEMFS", .major = 1, .compat = 2, .incompat = 3, .ro_compat = 4 };
	memset(attr->uuid, 0x20, sizeof(attr->uuid));
}

static void payload_fill(struct ctl_msg *m)
{
	static const struct ctl_page page = { .role = MEDIA_ROLE_REPLICA, .state = MEDIA_CONSISTENT, .fence_epoch = 9 };

	switch (m->type) {
	case CTL_HELLO:
	case CTL_HELLO + CTL_ANSWER: m->u.hello = (struct ctl_hello){ 1, 1, 0 }; break;
	case CTL_CREATE:
		m->u.open.has_attr = 1;
		attr_fill(&m->u.open.attr);
		/* fall through */
	case CTL_OPEN:
		m->u.open.lanes = 4;
		strcpy(m->u.open.provider, "tcp");
		strcpy(m->u.open.set_name, "dir/p.set");
		break;
	case CTL_CREATE + CTL_ANSWER:
	case CTL_OPEN + CTL_ANSWER:
		m->u.session = (struct ctl_session){ .session = 77, .pool_size = 1u << 30, .lanes = 4, .port = 7654,
			.address = "127.0.0.1", .method = WIRE_METHOD_GPSPM, .domain = PM_FILE, .caps = CTL_CAP_RMA,
			.msg_bytes_max = LANE_MSG_BYTES_MAX, .rx_slots = LANE_RX_SLOTS };
		attr_fill(&m->u.session.attr);
		break;
	case CTL_STATUS + CTL_ANSWER: m->u.copy_info.page = page; break;
	case CTL_FORMAT: m->u.format.page = page; break;
	case CTL_PAGE: m->u.page = page; break;
	case CTL_SET_ATTR: attr_fill(&m->u.attr); break;
	case CTL_REMOVE: m->u.remove = (struct ctl_remove){ 3, "a.set" }; break;
	case CTL_ERROR: m->u.error = (struct ctl_error){ WIRE_BUSY, "busy" }; break;
	default: break; /* nothing, or numbers that may be zero */
	}
}

static void seeds_ctl(void)
{
	static uint8_t buf[CTL_MSG_BYTES_MAX];

	for (unsigned type = 0; type < 256; type++) {
		struct ctl_msg m = { .type = (uint16_t)type };
		char name[16];
		size_t len;

		payload_fill(&m);
		snprintf(name, sizeof(name), "type-%u", type);
		if (!ctl_encode(&m, buf, &len))
			save("ctl", name, buf, len);
	}
}

static void text_fill(char *text, size_t size)
{
	memset(text, 'x', size - 1);
}

/* Texts as long as they may be. */
static void seeds_ctl_long(void)
{
	struct ctl_msg open = { .type = CTL_OPEN, .u.open.lanes = 1 }, remove = { .type = CTL_REMOVE },
		       error = { .type = CTL_ERROR, .u.error.status = WIRE_BUSY };
	static uint8_t buf[CTL_MSG_BYTES_MAX];
	size_t len;

	text_fill(open.u.open.provider, sizeof(open.u.open.provider));
	text_fill(open.u.open.set_name, sizeof(open.u.open.set_name));
	text_fill(remove.u.remove.set_name, sizeof(remove.u.remove.set_name));
	text_fill(error.u.error.text, sizeof(error.u.error.text));
	if (!ctl_encode(&open, buf, &len))
		save("ctl", "long-open", buf, len);
	if (!ctl_encode(&remove, buf, &len))
		save("ctl", "long-remove", buf, len);
	if (!ctl_encode(&error, buf, &len))
		save("ctl", "long-error", buf, len);
}

/* ---------------------------------------------------------------- lanes */
static void seed_request(const char *name, uint16_t op, unsigned ranges, uint32_t flags, uint32_t rec)
{
	static _Alignas(8) uint8_t buf[8 + 512]; /* the byte before the message chooses a pool */
	struct lane_req_msg *req = (struct lane_req_msg *)(buf + 8);
	struct lane_range_msg *range = (struct lane_range_msg *)(req + 1);
	uint32_t payload = flags & LANE_RANGE_INLINE ? 8 * ranges : 0;
	size_t len = sizeof(*req) + ranges * sizeof(*range) + payload + rec;

	memset(buf, 0, sizeof(buf));
	buf[7] = 1;
	*req = (struct lane_req_msg){ .magic = le32_put(LANE_MAGIC), .op = le16_put(op), .seq = le64_put(1),
		.range_count = le32_put(ranges), .inline_bytes = le32_put(payload), .rec_bytes = le32_put(rec),
		.rec_len = le32_put(rec), .arg = le64_put(5) };
	for (unsigned i = 0; i < ranges; i++)
		range[i] = (struct lane_range_msg){ le64_put(8192 + 64 * i), le32_put(8), le32_put(flags) };
	memset(range + ranges, 0xab, payload + rec);
	lane_req_seal(req, len);
	save("lane", name, buf + 7, 1 + len);
}

static void seeds_lane(void)
{
	struct lane_ack_msg ack = { .magic = le32_put(LANE_MAGIC), .op = le16_put(LANE_WRITE), .seq = le64_put(1) };
	uint8_t buf[1 + sizeof(ack)] = { 0 };

	seed_request("ping", LANE_PING, 0, 0, 0);
	seed_request("commit", LANE_COMMIT, 2, LANE_RANGE_INLINE, 64);
	seed_request("commit-bare", LANE_COMMIT, 0, 0, 64);
	seed_request("write", LANE_WRITE, 3, LANE_RANGE_INLINE, 0);
	seed_request("write-zero", LANE_WRITE, 3, LANE_RANGE_ZERO, 0);
	seed_request("write-pushed", LANE_WRITE, 3, 0, 0);
	seed_request("read", LANE_READ, 1, 0, 0);
	seed_request("checkpoint", LANE_CHECKPOINT, 0, 0, 0);
	seed_request("deep", LANE_DEEP, 1, LANE_RANGE_INLINE, 0);
	lane_ack_seal(&ack);
	memcpy(buf + 1, &ack, sizeof(ack));
	save("lane", "answer", buf, sizeof(buf));
}

/* ---------------------------------------------------------------- text */
static void seeds_text(void)
{
	save_text("poolset", "local", "PMEMPOOLSET\n# a comment\n1G /mnt/a\n512MiB\t/mnt/b # behind\nREPLICA\n2G /mnt/c\n");
	save_text("poolset", "remote", "PMEMPOOLSET\nOPTION SINGLEHDR\n8M /mnt/a\nREPLICA user@host:22 dir/p.set\n"
				       "REPLICA @local p.set\nREPLICA [fe80::1] p.set\n");
	save_text("poolset", "options", "PMEMPOOLSET\nOPTION NOHDRS\nAUTO /dev/dax0.0\n100kB /mnt/b\n");
	save_text("config", "all", "# comment\nlog-file = /var/log/x\npoolset-dir=$HOME/sets\npersist-apm = no\n"
				   "persist-general= yes\nuse-syslog =no\nlog-level = debug\nbind-address=10.0.0.1\n"
				   "idle-ms = 5000\nnthreads=4\n");
	save_text("config", "options", "poolset-dir = /x\n\xff--log-level\ninfo\n-t\n3\n--persist-apm\n--poolset-dir=$HOME\n");
	save_text("config", "remove", "\xff--remove\nx.set\n--force\n-s\n");
}

/* ---------------------------------------------------------------- media */
#define RECORD_POOL_BYTES (16u << 20)
#define RECORD_RING_BYTES (1u << 20)
#define RECORD_SEED 0x5eedull

static void seed_record(struct redo_builder *builder, const char *name)
{
	struct hash128 prev = { { 0 } }, hash;
	const void *rec;
	uint32_t len;

	if (redo_finish(builder, 1, 0, &prev, 1, &rec, &len, &hash)) {
		fprintf(stderr, "record %s cannot be made\n", name);
		exit(1);
	}
	save("redo", name, rec, len);
}

static void seeds_redo(void)
{
	uint8_t content[MEDIA_BLOCK_BYTES] = { 1, 2, 3 };
	uint32_t csum = csum_crc32c(0, content, sizeof(content));
	struct redo_builder *builder;
	struct media_geom geom;
	uint64_t blk;

	if (copy_geometry(RECORD_POOL_BYTES, RECORD_RING_BYTES, &geom) ||
	    redo_builder_new(RECORD_RING_BYTES / REDO_RING_SHARE, RECORD_SEED, &builder))
		exit(1);
	blk = geom.group0_blk + MEDIA_GROUP_META_BLKS;
	redo_begin(builder);
	seed_record(builder, "empty");
	redo_begin(builder);
	redo_link(builder, blk, MEDIA_DATA, csum);
	redo_link(builder, blk + 1, MEDIA_DATA, csum);
	redo_free(builder, blk + 7);
	redo_lines(builder, blk, MEDIA_DATA, 3, content);
	seed_record(builder, "data");
	redo_begin(builder);
	for (unsigned i = 1; i <= 16; i++)
		redo_free(builder, geom.blk_count - i);
	seed_record(builder, "pool-end");
	redo_begin(builder);
	redo_link(builder, blk + 2, MEDIA_UNWRITTEN, 0);
	redo_link(builder, blk + 3, MEDIA_TYPE_MAX, csum);
	redo_lines(builder, blk + 3, MEDIA_TYPE_MAX, UINT64_MAX, content);
	seed_record(builder, "metadata");
	redo_builder_delete(builder);
}

static void seeds_poolhdr(void)
{
	struct pool_attr attr = { .signature = "RPMEMFS", .major = 1 };
	static struct poolhdr_omf hdrs[2];

	memset(attr.poolset_uuid, 0x11, sizeof(attr.poolset_uuid));
	memset(attr.uuid, 0x22, sizeof(attr.uuid));
	poolhdr_fill(hdrs, 1, &attr, true, 1);
	save("poolhdr", "single", hdrs, sizeof(hdrs[0]));
	poolhdr_fill(hdrs, 2, &attr, false, 1);
	memset(hdrs[1].uuid, 0x33, sizeof(hdrs[1].uuid)); /* the same bytes every time */
	poolhdr_update(hdrs, 2, &attr);
	save("poolhdr", "two-parts", hdrs, sizeof(hdrs));
}

/* Choices, not messages: short ones of everything and of each. */
static void seeds_choices(const char *target)
{
	uint8_t choices[512];
	char name[16];

	for (unsigned seed = 1; seed <= 8; seed++) {
		uint32_t x = seed * 2654435761u;

		for (size_t i = 0; i < sizeof(choices); i++) {
			x ^= x << 13;
			x ^= x >> 17;
			x ^= x << 5;
			choices[i] = (uint8_t)(x >> 8);
		}
		snprintf(name, sizeof(name), "random-%u", seed);
		save(target, name, choices, sizeof(choices));
	}
	memset(choices, 1, sizeof(choices));
	save(target, "ones", choices, sizeof(choices));
	memset(choices, 0, sizeof(choices));
	save(target, "zeros", choices, sizeof(choices));
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s DIR\n", argv[0]);
		return 2;
	}
	corpus = argv[1];
	seeds_ctl();
	seeds_ctl_long();
	seeds_lane();
	seeds_text();
	seeds_redo();
	seeds_poolhdr();
	seeds_choices("engine");
	seeds_choices("image");
	return 0;
}
