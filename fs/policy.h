/* What the files behind replication.h share: the struct, its slots, and who does what with them.
 *
 *   replication.c  life of links, waiting, status          catchup.c  records from the local ring to one replica
 *   policy.c       what may be acknowledged, poll           members.c  the member table in the state block
 *   attach.c       histories compared, local copy brought up, first commit of a mount
 *
 * A slot is one remote replica of the poolset:
 *
 *   DOWN --timer--> CONNECTING --handshake--> CATCHING --everything posted is sent--> LIVE
 *     ^                 |  failed                 | lost                               | lost
 *     +-----------------+-------------------------+------------------------------------+
 *   handshake shows a copy that must not be used --> REFUSED, until the next mount */
#ifndef RPMEMFS_FS_POLICY_H
#define RPMEMFS_FS_POLICY_H

#include "replication.h"

enum slot_state { SLOT_DOWN, SLOT_CONNECTING, SLOT_CATCHING, SLOT_LIVE, SLOT_REFUSED };

struct slot {
	const struct poolset_replica *conf;
	struct repl_link *link; /* NULL when DOWN or REFUSED */
	enum slot_state state;
	bool same_machine, counts;
	bool differs; /* REFUSED for a different history */
	int post_err; /* the link refused a commit: as good as lost */

	uint32_t member;      /* enum fs_member_state in the running state block */
	uint64_t member_seq;  /* commit that holds it */
	uint8_t instance[16]; /* recorded, or of the newest handshake */
	uint64_t mark;        /* known to be durable there while there is no link */
	uint64_t tail;        /* newest known */

	uint64_t sent;         /* newest record given to the link */
	void *rec;             /* catching up: record `sent`, kept until answered */
	uint64_t inline_until; /* pushes before it went live are unknown there: commits up to here carry the bytes */
	struct fs_waiter sync; /* everything staged before it went live, linked */
	bool sync_taken;

	uint64_t retry_at_ms;
	uint32_t backoff_ms;
	char reason[512];
	struct repl_peer peer;     /* of the newest handshake, for status */
	struct repl_counters past; /* of links closed before */
};

struct replication {
	const struct poolset *set;
	struct replication_cfg cfg;
	char provider[16], command[1024];
	unsigned slot_count;
	struct slot slots[POOLSET_REPLICAS_MAX];

	struct copy *copy; /* from replication_compare on */
	struct fs *fs;     /* from replication_start on */
	uint64_t epoch;    /* ours: of the state block or of the local page's fence, the greater */
	uint8_t epoch_id[16];
	uint64_t posted; /* newest record posted by the core, or local head before */

	uint32_t min_old, min_new; /* rule recorded, rule asked for; equal once the change is durable */
	uint64_t min_seq;          /* commit that holds min_new */
	uint64_t cap;              /* newest sequence that was acknowledgeable: the limit while held back */
	bool lost;                 /* a loss is not in the running state block yet */
	uint64_t lost_seq;         /* commit that holds the newest loss */
	bool members_dirty;        /* attached or released slots are not in the running state block yet */
	bool release_wanted;
	bool fenced;  /* somebody took over: acknowledge and change nothing more */
};

uint64_t policy_now_ms(void);
/* Newest sequence known to be durable on the slot's copy. */
uint64_t slot_acked(const struct slot *slot);
/* Durable on the local and every live copy. */
uint64_t policy_all_durable(const struct replication *r);
/* Newest sequence that may be acknowledged; remembers it as the cap. */
uint64_t policy_ackable(struct replication *r);
/* The rule an acknowledgement has to fulfil now. */
uint32_t policy_min(const struct replication *r);
/* Live slots that count; recorded: only those whose membership is durable. */
unsigned policy_live(const struct replication *r, bool recorded);
/* Closes the link; the slot will not be tried again. reason is kept for status and logged. */
void slot_refuse(struct replication *r, struct slot *slot, const char *reason);
/* Closes the link, remembers what is known of the copy, sets the retry timer. reason as above, not logged. */
void slot_down(struct slot *slot, const char *reason);
int slot_connect(struct replication *r, struct slot *slot);

/* --- catchup.c --- */
/* Sends the next record of the local ring if all before it are answered. 0: sent or nothing to do now; -ENODATA: a
 * record or its data is no longer there, errmsg says which: the replica needs a whole copy; else the link's error. */
int catchup_step(struct replication *r, struct slot *slot);
/* Frees the record once it is answered. */
void catchup_settle(struct slot *slot);

/* --- attach.c --- */
enum verdict {
	VERDICT_IN_LINE,   /* its head is in our history */
	VERDICT_AHEAD,     /* our head is in its history */
	VERDICT_DIFFERENT, /* neither: errmsg explains */
	VERDICT_UNUSABLE,  /* not formatted, inconsistent, other content, out of reach of the ring */
	VERDICT_FENCED,    /* belongs to a newer primary */
	VERDICT_FAILED,    /* the link failed while asking */
};
enum verdict attach_judge(struct replication *r, struct slot *slot);
/* Content of the state block at the copy's head, with the ring's records applied in memory. -EBADMSG. */
int attach_peek_state(const struct copy *copy, struct fs_state_omf *state);

/* --- pull.c --- */
/* Brings the local copy to the head of a link that is ahead. */
int attach_pull(struct copy *copy, struct repl_link *link);
/* Hands the records that `to` lacks on from the ring of another link whose history is longer, one by one. An error
 * leaves it at some whole commit. */
int pull_forward(struct repl_link *from, struct repl_link *to);
/* Shows every record of a link's ring to see, oldest first; see returns 0 or an error that ends the walk. */
int pull_walk(struct repl_link *link, int (*see)(void *arg, const struct redo_view *v), void *arg);
/* The state block at a link's head. */
int pull_peek_state(struct repl_link *link, struct fs_state_omf *state);
/* Puts the record's lines of the block over its content. */
void attach_lines_apply(const struct redo_view *v, uint64_t blk, uint8_t *content);

/* --- members.c --- */
/* Takes the member table over into the slots. */
void members_load(struct replication *r, const struct fs_state_omf *state);
/* Puts the slots into the member table of the running commit and asks for the commit. */
int members_store(struct replication *r);
/* The same for the first commit of a mount: nonce, rule, epoch too. */
int members_mount(struct replication *r);

#endif
