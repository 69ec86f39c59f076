/* Replication as a mount uses it: the links to the replicas of one poolset, and the policy that says what may be
 * acknowledged. How a mount uses it, in this order, all on one thread:
 *
 *   replication_epoch    of the local copy, which is open
 *   replication_open     starts connecting to every remote replica
 *   replication_wait     until each is up or has failed, at most the connect timeout
 *   replication_compare  histories compared, the local copy brought up to date, replicas caught up: before fs_open
 *   fs_open              with cfg.repl = &replication_ops, cfg.repl_ctx = the struct replication
 *   replication_start    mount nonce, membership, rule, epoch: into the first commit, which it asks for
 *   loop                 replication_poll, then fs_poll; sleep on replication_fds when replication_may_block, at most
 *                        replication_timeout_ms
 *   replication_close    before fs_close (it takes a waiter back); after it nothing but fs_close may be called
 *
 * Works without any remote replica as well: then nothing waits. Replicas that fail are tried again in the background;
 * one that is refused (REPLICATION_REFUSED) stays out until the next mount. */
#ifndef RPMEMFS_FS_REPLICATION_H
#define RPMEMFS_FS_REPLICATION_H

#include "fs.h"
#include "pool.h"
#include "redo.h"
#include "repl.h"

#define REPLICATION_MIN_RECORDED UINT32_MAX /* no wish: the rule recorded in the pool stays */
#define REPLICATION_RETRY_MS_MIN 1000u
#define REPLICATION_RETRY_MS_MAX 30000u
#define REPLICATION_FDS_MAX (2u * POOLSET_REPLICAS_MAX)

struct replication;

struct replication_cfg {
	const char *provider; /* as in repl_cfg; strings are copied */
	const char *command;
	uint32_t notice_ms;    /* 0: REPL_NOTICE_MS_DEFAULT */
	uint32_t connect_ms;   /* of one attempt; 0: REPL_CONNECT_MS_DEFAULT */
	uint64_t epoch;        /* of the local copy, from replication_epoch: replicas fenced above it are out of reach */
	uint32_t min_replicas; /* rule asked for, or REPLICATION_MIN_RECORDED */
	const char *without;   /* force: comma-separated names of copies declared dead, see replication_compare; NULL: none.
				* Not copied: must outlive the comparison */
	const char *mountpoint; /* for what messages say about mounting; NULL: none. Not copied either */
	bool spin;
	bool sparse;    /* mkfs: parts get space when it is first used */
	bool read_only; /* replicas are opened CTL_OPEN_RDONLY: compare and status only */
	/* Tests: how links are made; NULL: repl_link_open. */
	int (*link_open)(const struct poolset_replica *replica, const struct repl_cfg *cfg, struct repl_link **out);
};

/* Majority of all copies, the local one counted, as replicas needed: 0 of 0, 1 of 1, 1 of 2, 2 of 3, 2 of 4. */
uint32_t replication_default_min(unsigned replica_count);

/* Newest epoch the copy knows: of its state block or of its page's fence. -EBADMSG: damaged. */
int replication_epoch(const struct copy *copy, uint64_t *epoch);

/* set must outlive *out. -ENOMEM, -EAGAIN (no thread). A replica that cannot be reached is not an error here. */
int replication_open(const struct poolset *set, const struct replication_cfg *cfg, struct replication **out);

/* Blocks until every link is up or down, at most timeout_ms. */
void replication_wait(struct replication *r, uint32_t timeout_ms);

/* Compares the copy with every connected replica before the first new commit. Pulls records the local copy lacks, sends
 * replicas the records they lack; blocks while it does. A replica out of line is refused alone when the recorded
 * membership counts without it. Errors refuse the mount, errmsg says why and what to do:
 * -ESTALE: a replica is fenced by a newer epoch: this is an old primary; -EILSEQ: a member that counts has a different
 * history, or is too far ahead to be followed; -EUCLEAN: the local copy is marked inconsistent; -ENOTCONN: fewer replicas in
 * line than the recorded rule (or the one asked for) needs; -EIO, -EBADMSG: local medium. With cfg.read_only nothing is
 * changed. The recorded rule need not be fulfilled when cfg.without names every recorded member that is not in line: the
 * one asked for takes its place then, and the mount raises the epoch. */
int replication_compare(struct replication *r, struct copy *copy);

/* Puts nonce, membership, rule and, when a member is missing, a new epoch into the running commit and asks for it.
 * Until it is durable on every attached copy nothing is acknowledged. fs is kept until replication_close. Errors: of
 * the core. */
int replication_start(struct replication *r, struct fs *fs);

/* The policy; ctx is the struct replication. */
extern const struct fs_repl_ops replication_ops;

/* Moves links, notices losses, reconnects, catches up, changes membership. True when something moved. Never blocks
 * longer than closing a lost link takes. */
bool replication_poll(struct replication *r);
/* Descriptors worth waking up for; fills at most REPLICATION_FDS_MAX, returns how many. */
unsigned replication_fds(struct replication *r, int *fds);
/* False when an event of a link may already be pending: poll again instead of sleeping. */
bool replication_may_block(struct replication *r);
/* Milliseconds until replication_poll has to be called for its timers (reconnecting); -1: none. */
int replication_timeout_ms(const struct replication *r);

/* ---------------------------------------------------------------- status */

enum replication_state {
	REPLICATION_CONNECTING,  /* handshake under way, or waiting to try again: reason says what failed last */
	REPLICATION_CATCHING_UP, /* connected, in line, records it lacks are being sent */
	REPLICATION_ATTACHED,    /* every acknowledgement waits for it */
	REPLICATION_REFUSED,     /* reachable, but not to be used: reason says why and what to do */
};
const char *replication_state_name(
	enum replication_state state); /* "connecting", "catching-up", "attached", "refused" */

struct replication_replica_status {
	char name[POOLSET_NAME_BYTES_MAX];
	char target[300];
	bool same_machine;
	bool counts; /* towards the rule */
	enum replication_state state;
	uint32_t member;         /* enum fs_member_state as recorded */
	char reason[512];        /* "" when there is nothing to say */
	char provider[16];       /* this and the rest: of the newest connection, "" or zero before there was one */
	uint32_t method, domain; /* enum wire_method, enum pm_domain */
	uint64_t acked_seq;      /* newest sequence known to be durable there */
	uint64_t lag;            /* local head minus acked_seq */
	uint64_t tail_seq;
	struct repl_counters count;
};

struct replication_status {
	unsigned replica_count;
	struct replication_replica_status replicas[POOLSET_REPLICAS_MAX];
	uint32_t min_replicas; /* the rule in force */
	uint32_t min_wanted;   /* the rule asked for; differs until it is durable */
	unsigned attached;     /* replicas that count */
	bool as_configured;    /* every replica attached and recorded so */
	bool may_change;       /* false: changes wait, why_not says for what */
	char why_not[256];
};

void replication_status(const struct replication *r, struct replication_status *status);

/* ---------------------------------------------------------------- mkfs */

/* Fills epoch (1, random id), min_replicas (wish, or the default) and the member table of a state block from the
 * poolset: "local" first, with instance local_instance, then every remote replica with a random instance. -EINVAL: more
 * replicas wanted than named. */
int replication_plan(
	const struct poolset *set, uint32_t min_replicas, const uint8_t local_instance[16], struct fs_state_omf *state);

struct replication_made;

/* Creates an empty pool of at least bytes on every remote replica of the poolset. On failure errmsg names the replica;
 * what was created on others stays (replace: made anew next time). -EEXIST: has one already, and no replace. set must
 * outlive *out. */
int replication_make(const struct poolset *set, const struct replication_cfg *cfg, uint64_t bytes, bool replace,
	struct replication_made **out);
/* Formats each with the local copy's identity and gives it the first commit (rec of fs_format). -EFBIG: one is shorter
 * than the local pool; nothing was formatted. */
int replication_format(struct replication_made *made, struct copy *copy, const struct fs_state_omf *state, const void *rec,
	uint32_t len);
void replication_made_close(struct replication_made *made); /* ends the sessions; NULL is allowed */

/* ---------------------------------------------------------------- end */

/* Ends every session in order and frees. Blocks at most the links' deadline. NULL is allowed. */
void replication_close(struct replication *r);

#endif
