/* The status of a mount: gathered in the daemon, fetched and shown by the command. JSON is the one form in between; its
 * keys are stable and documented in rpmemfs(1). */
#include "status.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "errmsg.h"
#include "fuse_front.h"
#include "codec.h"

#define SHORT_HASH_BYTES 4u
#define FETCH_TRIES_MAX 8u
#define STATUS_TEXT_BYTES_MAX (1u << 20)

/* ---------------------------------------------------------------- gathering */

static json_t *counters_json(const struct repl_counters *c)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I}", "commits", (json_int_t)c->commits, "round_trips",
			 (json_int_t)c->round_trips, "bytes_sent", (json_int_t)c->bytes_sent, "peer_rx_bytes",
			 (json_int_t)c->peer_rx_bytes, "peer_rx_msgs", (json_int_t)c->peer_rx_msgs);
}

static const char *member_name(uint32_t member)
{
	switch (member) {
	case FS_MEMBER_ATTACHED:
		return "attached";
	case FS_MEMBER_DETACHED:
		return "detached";
	case FS_MEMBER_RELEASED:
		return "released";
	default:
		return "none";
	}
}

static json_t *replica_json(const struct replication_replica_status *r)
{
	bool met = r->provider[0] != '\0'; /* there has been a connection */

	return json_pack("{s:s,s:s,s:b,s:b,s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:o}", "name", r->name, "target", r->target,
			 "same_machine", r->same_machine, "counts", r->counts, "state", replication_state_name(r->state),
			 "recorded", member_name(r->member), "reason", r->reason, "provider", r->provider, "method",
			 met ? wire_method_name(r->method) : "", "domain", met ? pm_domain_name(r->domain) : "",
			 "acknowledged_seq", (json_int_t)r->acked_seq, "lag", (json_int_t)r->lag, "tail_seq",
			 (json_int_t)r->tail_seq, "counters", counters_json(&r->count));
}

static json_t *replicas_json(const struct replication_status *status)
{
	json_t *list = json_array();

	for (unsigned i = 0; list != NULL && i < status->replica_count; i++) {
		if (json_array_append_new(list, replica_json(&status->replicas[i])) != 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static void hash_short(const struct hash128 *hash, char *text)
{
	for (unsigned i = 0; i < SHORT_HASH_BYTES; i++)
		sprintf(text + 2 * i, "%02x", hash->b[i]);
}

static json_t *local_json(struct fs *fs)
{
	struct copy *copy = fs_copy(fs);
	uint64_t free_bytes, inodes;
	struct statvfs st;

	if (fs_statfs(fs, &st) != 0)
		memset(&st, 0, sizeof(st));
	free_bytes = st.f_bfree * st.f_frsize;
	inodes = st.f_files - st.f_ffree;
	return json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:I}", "domain", pm_domain_name(copy_pm(copy)->domain), "pool_bytes",
			 (json_int_t)copy_pm(copy)->len, "free_bytes", (json_int_t)free_bytes, "inodes",
			 (json_int_t)inodes, "ring_bytes", (json_int_t)copy_geom(copy)->ring_bytes,
			 "ring_used", (json_int_t)copy_ring_used(copy), "tail_seq", (json_int_t)copy_tail(copy).seq);
}

static json_t *mount_json(struct front *front, const struct replication_status *r)
{
	struct copy_point head = copy_head(fs_copy(front->fs));
	int failed = fs_failed(front->fs);
	char hash[2 * SHORT_HASH_BYTES + 1];

	hash_short(&head.hash, hash);
	return json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:s,s:s,s:o,s:I,s:I,s:I,s:b,s:b,s:s,s:I,s:I,s:o}", "pool", front->pool,
			 "mountpoint", front->mountpoint, "pid", (json_int_t)getpid(), "epoch", (json_int_t)head.epoch,
			 "committed_seq", (json_int_t)fs_committed_seq(front->fs), "acknowledged_seq",
			 (json_int_t)fs_acked_seq(front->fs), "history", hash, "failed", failed != 0 ? strerror(-failed) : "",
			 "local", local_json(front->fs), "min_replicas", (json_int_t)r->min_replicas,
			 "min_replicas_wanted", (json_int_t)r->min_wanted, "attached", (json_int_t)r->attached,
			 "as_configured", failed == 0 && r->as_configured, "may_change", failed == 0 && r->may_change, "why_not",
			 r->why_not, "parked_requests", (json_int_t)front->parked_count, "timeout_ms",
			 (json_int_t)front->timeout_ms, "replicas", replicas_json(r));
}

char *status_text(struct front *front)
{
	struct replication_status *r = calloc(1, sizeof(*r));
	json_t *status;
	char *text;

	if (r == NULL)
		return NULL;
	replication_status(front->repl, r);
	status = mount_json(front, r);
	free(r);
	if (status == NULL)
		return NULL;
	text = json_dumps(status, JSON_COMPACT);
	json_decref(status);
	return text;
}

/* ---------------------------------------------------------------- fetching */

/* All pieces of one text. -ESTALE: another reader came in between. */
static int fetch_text(int fd, char **out, size_t *len)
{
	struct status_ioctl piece = { .off = 0 };
	char *text = NULL;
	uint32_t off = 0, total = 0;
	int err;

	do {
		piece.off = off;
		err = ioctl(fd, STATUS_IOCTL, &piece) == 0 ? 0 : -errno;
		if (err == 0 && (piece.total > STATUS_TEXT_BYTES_MAX || piece.len > sizeof(piece.text) ||
				 piece.len > piece.total - off || (piece.len == 0 && off < piece.total)))
			err = -EPROTO;
		if (err == 0 && text == NULL) {
			total = piece.total;
			text = malloc((size_t)total + 1);
			err = text != NULL ? 0 : -ENOMEM;
		}
		if (err == 0 && piece.total != total)
			err = -EPROTO;
		if (err != 0) {
			free(text);
			return err;
		}
		memcpy(text + off, piece.text, piece.len);
		off += piece.len;
	} while (off < total);
	*out = text;
	*len = total;
	return 0;
}

int status_fetch(int fd, json_t **out)
{
	json_error_t error;
	json_t *status;
	char *text;
	size_t len;
	int err = -ESTALE;

	for (unsigned tries = 0; err == -ESTALE && tries < FETCH_TRIES_MAX; tries++)
		err = fetch_text(fd, &text, &len);
	if (err != 0)
		return err;
	status = json_loadb(text, len, 0, &error);
	free(text);
	if (status == NULL || !json_is_object(status)) {
		json_decref(status);
		return errmsg_set(-EPROTO, "the mount answered something that is not a status: %s", error.text);
	}
	*out = status;
	return 0;
}

bool status_fine(const json_t *status)
{
	return json_is_true(json_object_get(status, "as_configured")) && json_is_true(json_object_get(status, "may_change"));
}

/* ---------------------------------------------------------------- showing */

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text != NULL ? text : "";
}

static int64_t number_of(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static double mib_of(const json_t *object, const char *key)
{
	return (double)number_of(object, key) / (1 << 20);
}

static void print_replica(const json_t *r)
{
	const json_t *c = json_object_get(r, "counters");

	printf("replica %s: %s, %s%s\n", text_of(r, "name"), text_of(r, "target"), text_of(r, "state"),
	       json_is_true(json_object_get(r, "counts")) ? "" : " (does not count towards the rule)");
	if (text_of(r, "reason")[0] != '\0')
		printf("  reason:        %s\n", text_of(r, "reason"));
	if (text_of(r, "provider")[0] == '\0')
		return;
	printf("  connection:    %s, %s, %s\n", text_of(r, "provider"), text_of(r, "method"),
	       json_is_true(json_object_get(r, "same_machine")) ? "same machine" : "another machine");
	printf("  durability:    %s\n", text_of(r, "domain"));
	printf("  acknowledged:  %" PRId64 ", lag %" PRId64 "\n", number_of(r, "acknowledged_seq"), number_of(r, "lag"));
	printf("  sent:          %" PRId64 " commits, %" PRId64 " round trips, %" PRId64 " bytes\n", number_of(c, "commits"),
	       number_of(c, "round_trips"), number_of(c, "bytes_sent"));
	printf("  received:      %" PRId64 " messages, %" PRId64 " bytes, as it reports\n", number_of(c, "peer_rx_msgs"),
	       number_of(c, "peer_rx_bytes"));
}

static void print_rule(const json_t *status)
{
	int64_t min = number_of(status, "min_replicas"), wanted = number_of(status, "min_replicas_wanted");

	printf("rule:            at least %" PRId64 " replica%s, %" PRId64 " attached\n", min, min == 1 ? "" : "s",
	       number_of(status, "attached"));
	if (wanted != min)
		printf("                 asked for: %" PRId64 ", in force once it is durable everywhere\n", wanted);
	if (!json_is_true(json_object_get(status, "may_change")))
		printf("changes:         BLOCKED: %s\n", text_of(status, "why_not"));
}

void status_print(const json_t *status)
{
	const json_t *local = json_object_get(status, "local"), *replicas = json_object_get(status, "replicas"), *replica;
	size_t i;

	printf("pool:            %s on %s (process %" PRId64 ")\n", text_of(status, "pool"), text_of(status, "mountpoint"),
	       number_of(status, "pid"));
	if (text_of(status, "failed")[0] != '\0')
		printf("local copy:      FAILED: %s; see the log, then remount or restore\n", text_of(status, "failed"));
	printf("state:           %s\n", status_fine(status) ? "as configured" : "NOT as configured");
	printf("history:         epoch %" PRId64 ", commit %" PRId64 " (%s), acknowledged %" PRId64 "\n",
	       number_of(status, "epoch"), number_of(status, "committed_seq"), text_of(status, "history"),
	       number_of(status, "acknowledged_seq"));
	printf("local copy:      durability %s, %.1f MiB, %.1f MiB free, %" PRId64 " inodes, journal %.1f of %.1f MiB\n",
	       text_of(local, "domain"), mib_of(local, "pool_bytes"), mib_of(local, "free_bytes"), number_of(local, "inodes"),
	       mib_of(local, "ring_used"), mib_of(local, "ring_bytes"));
	print_rule(status);
	if (json_array_size(replicas) == 0)
		printf("replicas:        none configured\n");
	json_array_foreach(replicas, i, replica)
		print_replica(replica);
}
