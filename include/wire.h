/* Wire messages between initiator and target (rpmemd). Little-endian, versioned, checksummed, bounded. Two channels:
 *
 * CONTROL (SSH channel or socket pair): one request, one answer, in turn; the initiator asks. The target first writes
 * four bytes, le32 status: 0, or the errno that kept it from starting. Then each message is ctl_hdr_msg + payload; the
 * payload structures stand below, in the order a session uses them. A message that fails any check ends the session.
 *
 *   HELLO -> HELLO      versions, features                        first, always
 *   CREATE|OPEN -> SESSION   pool, lanes; where and with which token to connect the lanes
 *   PING -> DONE             a sign of life in plain sessions, whose lanes come and go
 *   STATUS -> COPY_INFO      what the copy is: page, tail, head
 *   CHAIN -> POINT           history at one sequence
 *   FORMAT, FENCE, PAGE, CHECKPOINT, RESET, SET_ATTR -> DONE
 *   CLOSE -> DONE            orderly end; closing the channel ends the session as well
 *   REMOVE -> DONE           instead of CREATE|OPEN
 *
 * LANE (fabric endpoint, facts: FI_EP_MSG): request messages of at most the session's msg_bytes_max, each answered by one
 * lane_ack_msg in order, but for the silent ones of a train (LANE_MORE of LANE_WRITE). One-sided writes posted before a
 * request on the same lane have arrived when it is handled. */
#ifndef RPMEMFS_WIRE_H
#define RPMEMFS_WIRE_H

#include <assert.h>
#include <stddef.h>
#include "le.h"

/* ---------------------------------------------------------------- status, both channels */
enum wire_status {
	WIRE_OK,
	WIRE_BAD_PROTO,    /* EPROTO            malformed, out of order, checksum */
	WIRE_BAD_VERSION,  /* EPROTONOSUPPORT   no common version or unknown feature */
	WIRE_BAD_NAME,     /* EBADF             set name absolute or leaving the pool directory */
	WIRE_BAD_SET,      /* EINVAL            poolset file or parts wrong */
	WIRE_BAD_SIZE,     /* EFBIG             remote smaller than asked for */
	WIRE_BAD_ARG,      /* ERANGE            a field out of range */
	WIRE_NO_POOL,      /* ENOENT */
	WIRE_EXISTS,       /* EEXIST */
	WIRE_BUSY,         /* EBUSY             locked by another session */
	WIRE_NO_ACCESS,    /* EACCES */
	WIRE_NO_PROVIDER,  /* ENOMEDIUM         fabric provider not usable there */
	WIRE_NO_SPACE,     /* ENOSPC            no ring space, or file system of the parts full */
	WIRE_NO_MEMORY,    /* ENOMEM */
	WIRE_FENCED,       /* ESTALE            epoch below the copy's fence */
	WIRE_HISTORY,      /* EILSEQ            record does not continue the copy's history */
	WIRE_DAMAGED,      /* EBADMSG           media or record checksum */
	WIRE_STATE,        /* EPERM             not allowed in this state of the copy */
	WIRE_NOT_FS,       /* EMEDIUMTYPE       not a pool of the file system's format */
	WIRE_IO,           /* EIO               the target's medium failed */
	WIRE_FATAL,        /* EREMOTEIO         anything else; the target's log says what */
	WIRE_STATUS_COUNT
};
/* One switch each way (codec.c); an errno without a status becomes WIRE_FATAL. Errnos are negative here. */
enum wire_status wire_status_of(int err);
int wire_status_err(enum wire_status status);

/* ---------------------------------------------------------------- control channel */
#define CTL_MAGIC 0x4c544352u /* "RCTL" */
#define CTL_VERSION 1u
#define CTL_PAYLOAD_BYTES_MAX 4096u
#define CTL_TEXT_BYTES_MAX 256u
#define WIRE_LANES_MAX 1024u
#define WIRE_TOKEN_BYTES 32u
#define WIRE_SET_NAME_BYTES_MAX 256u

enum ctl_type {
	CTL_HELLO = 1, CTL_CREATE, CTL_OPEN, CTL_STATUS, CTL_CHAIN, CTL_FORMAT, CTL_FENCE, CTL_PAGE, CTL_CHECKPOINT,
	CTL_RESET, CTL_SET_ATTR, CTL_CLOSE, CTL_REMOVE, CTL_PING, CTL_REQUEST_LAST = CTL_PING,
	CTL_ANSWER = 64, /* answers carry request type + CTL_ANSWER */
	CTL_ERROR = 127, /* instead of any answer */
};

struct ctl_hdr_msg {
	le32_t magic;   /*  0 */
	le16_t version; /*  4 */
	le16_t type;    /*  6  enum ctl_type */
	le32_t len;     /*  8  payload bytes */
	le32_t csum;    /* 12  CRC32C of this header with 0 here, and the payload */
};
static_assert(sizeof(struct ctl_hdr_msg) == 16, "ctl_hdr_msg size");

/* Payloads are these structures, encoded by codec.c over a bounds-checked cursor field by field in the order given here
 * (integers little-endian, arrays as they are, strings as le16 length + bytes without NUL). Host-order in memory. */
struct ctl_hello { uint16_t version_min, version_max; uint32_t feat_incompat; };
struct ctl_error { uint16_t status; char text[CTL_TEXT_BYTES_MAX]; };

enum ctl_open_flags {
	CTL_OPEN_FS = 1u,       /* a copy of a file system: lane commits allowed, plain writes only while inconsistent */
	CTL_OPEN_TAKEOVER = 2u, /* end the running session of that pool first: process ended and waited for */
	CTL_OPEN_RDONLY = 4u,   /* reads only: shared lock */
	CTL_OPEN_REPLACE = 8u,  /* create: existing parts are replaced */
	CTL_OPEN_NO_LANES = 16u,/* control only: no fabric is loaded */
	CTL_OPEN_SPARSE = 32u,  /* create: parts get space when it is first used */
	CTL_OPEN_FLAGS_ALL = 63u,
};
struct ctl_attr { /* struct pool_attr */
	uint8_t signature[8]; uint32_t major, compat, incompat, ro_compat;
	uint8_t poolset_uuid[16], uuid[16], next_uuid[16], prev_uuid[16], user_flags[16];
};
/* A plain session (librpmem, without CTL_OPEN_FS) connects its lanes when it first uses them, any time while it lasts; no
 * message on the control channel for idle_ms ends it, as it does any session with CTL_OPEN_NO_LANES, and one without a pool
 * yet; an answer of which nothing is taken for so long ends every session. One that was lost may be replaced by its
 * initiator, and by nobody else: the new OPEN names it as session_before, and the target ends its process first, stopped
 * ones included. */
/* A session that could change a copy is refused (WIRE_FENCED) when its epoch is below the copy's fence: an old primary gets no
 * way to store even one byte, neither by a one-sided write nor by the data of a commit that will not be linked. That is an
 * OPEN with CTL_OPEN_FS and none of CTL_OPEN_RDONLY, CTL_OPEN_NO_LANES (looks, or has control requests, which compare
 * themselves) and CTL_OPEN_TAKEOVER (is there to fence). A fence raised during the session is met by its commits. */
struct ctl_open { /* CREATE and OPEN */
	uint32_t flags;     /* enum ctl_open_flags */
	uint32_t lanes;     /* 1..WIRE_LANES_MAX */
	uint64_t pool_size; /* least bytes needed; 0: whatever is there */
	uint64_t epoch;     /* newest one of the initiator's own copy; 0: it has none */
	uint64_t session_before; /* the initiator's own lost session of this pool; 0: none */
	uint32_t idle_ms;   /* plain sessions; 0: the target's own setting, which is also the longest */
	char provider[16];  /* string; "tcp" or "verbs" */
	char set_name[WIRE_SET_NAME_BYTES_MAX]; /* string */
	uint8_t has_attr;
	struct ctl_attr attr; /* all zero unless has_attr; CREATE only */
};
/* How the initiator learns that its bytes are persistent: the target's CPU answers, a one-sided read comes back behind the
 * writes, or the last write completes with FI_COMMIT_COMPLETE. */
enum wire_method { WIRE_METHOD_GPSPM = 1, WIRE_METHOD_APM, WIRE_METHOD_COMMIT, WIRE_METHOD_LAST = WIRE_METHOD_COMMIT };
enum ctl_caps {
	CTL_CAP_RMA = 1u,    /* pool memory is registered: one-sided reads and writes */
	CTL_CAP_TRAINS = 2u, /* plain sessions: LANE_WRITE may have LANE_MORE and LANE_BARE */
	CTL_CAPS_ALL = 3u,
};
struct ctl_session {
	uint64_t session;      /* id the lanes present */
	uint64_t pool_size;
	uint32_t lanes;        /* granted, <= asked */
	uint32_t port;         /* fabric; 0 with CTL_OPEN_NO_LANES */
	char address[64];      /* string: numeric address to dial, "" = the host dialled by SSH */
	uint8_t token[WIRE_TOKEN_BYTES];
	uint32_t method;       /* enum wire_method */
	uint32_t domain;       /* enum pm_domain */
	uint32_t caps;         /* enum ctl_caps */
	uint32_t msg_bytes_max, rx_slots;
	uint64_t raddr, rkey;  /* of lane 0's registration when CTL_CAP_RMA; further lanes: in their accept data */
	uint32_t idle_ms;      /* granted */
	uint8_t incarnation[16]; /* of the pool's memory: another one when a part was made anew, or lost what it held */
	struct ctl_attr attr;
};
struct ctl_point { uint64_t seq, epoch; uint8_t hash[16]; };
struct ctl_page { /* struct copy_page */
	uint32_t role, state; uint8_t instance[16]; uint64_t fence_epoch; uint8_t fence_id[16];
	uint8_t sync_hash[16]; uint64_t sync_seq, sync_group;
};
struct ctl_copy_info { /* answer to STATUS */
	struct ctl_point tail, head; struct ctl_page page; uint64_t blk_count, ring_bytes, used_blks; uint8_t content_uuid[16];
};
struct ctl_chain { uint64_t seq; };          /* answer ctl_point; WIRE_BAD_ARG when outside [tail, head] */
struct ctl_format { uint8_t content_uuid[16]; uint64_t hash_seed, created_ns, ring_bytes; struct ctl_page page; };
struct ctl_fence { uint64_t expected_epoch, epoch; uint8_t id[16]; }; /* compare-and-set of the page's fence; WIRE_FENCED */
struct ctl_checkpoint { uint64_t upto; };    /* UINT64_MAX: to head */
struct ctl_reset { struct ctl_point at; uint64_t used_blks; };
struct ctl_remove { uint32_t flags; char set_name[WIRE_SET_NAME_BYTES_MAX]; }; /* 1 force, 2 pool set too */

/* ---------------------------------------------------------------- lanes */
#define LANE_MAGIC 0x454e414cu /* "LANE" */
#define LANE_VERSION 1u
#define LANE_MSG_BYTES_MAX (68u << 10) /* facts: 64 KiB and headers; a session may state less, never below 8 KiB */
#define LANE_MSG_BYTES_MIN (8u << 10)
#define LANE_RX_SLOTS 32u
#define LANE_SILENT_MAX (LANE_RX_SLOTS - 1u) /* messages of a train that are not answered, in a row: more would not fit */
#define LANE_RANGES_MAX 1024u          /* of one message */
#define LANE_RECORD_BYTES_MAX (8u << 20)

/* Private data of the fabric connection request; 48 bytes because verbs carries at most 55. */
struct lane_connect_msg {
	le32_t magic; le16_t version; le16_t lane; le64_t session; uint8_t token[WIRE_TOKEN_BYTES];
};
static_assert(sizeof(struct lane_connect_msg) == 48, "lane_connect_msg size");
/* Private data of the acceptance: this lane's registration. */
struct lane_accept_msg {
	le32_t magic; le16_t version; le16_t lane; le64_t raddr; le64_t rkey;
};
static_assert(sizeof(struct lane_accept_msg) == 24, "lane_accept_msg size");

enum lane_op {
	LANE_PING = 1,
	LANE_COMMIT,     /* ranges: (1) persist, (2) fence, then the record: (3) copy_append, answer */
	LANE_WRITE,      /* ranges: persist, fence, answer: librpmem's persist; a file system's copy only while inconsistent */
	LANE_READ,       /* one range; its bytes follow the answer in the same message: targets without CTL_CAP_RMA */
	LANE_CHECKPOINT, /* arg: up to that sequence */
	LANE_DEEP,       /* as LANE_WRITE, and out of the platform's own buffers */
	LANE_OP_LAST = LANE_DEEP,
};
/* Requests that carry nobody's data and that nobody waits for: no counter on either side knows them. */
static inline int lane_op_is_upkeep(unsigned op)
{
	return op == LANE_PING || op == LANE_CHECKPOINT;
}

enum lane_flags {
	LANE_MORE = 1u, /* COMMIT: the next message of the lane continues this commit; only the last one acts on the record.
			 * WRITE: the next message of the lane is a WRITE, whose answer is for this one as well */
	LANE_BARE = 2u, /* WRITE: csum covers header and ranges, not the payload, which the transport keeps whole as it does
			 * the bytes of one-sided writes */
};

/* A request: header | range_count * lane_range_msg | payload of inline ranges, in order | piece of the record.
 * A commit larger than one message is a train of COMMIT messages with LANE_MORE, same arg, pieces in order; inline ranges
 * of the train are written as they come (they are unlinked blocks until the record is there), but for a session whose epoch
 * is below the fence by now: WIRE_FENCED, and nothing is stored.
 * In sessions with CTL_CAP_TRAINS messages of LANE_WRITE may be a train as well: those with LANE_MORE are silent, which is
 * to say not answered unless they end the session; the one without it is fenced behind all of them, and its answer has the
 * first error among them, behind which nothing was stored. Nothing but WRITE continues such a train. */
struct lane_req_msg {
	le32_t magic;        /*  0 */
	le16_t op;           /*  4  enum lane_op */
	le16_t flags;        /*  6  enum lane_flags */
	le64_t seq;          /*  8  of this lane, from 1, +1 each message */
	le32_t range_count;  /* 16 */
	le32_t inline_bytes; /* 20 */
	le32_t rec_bytes;    /* 24  of the piece in this message */
	le32_t rec_off;      /* 28  where the piece belongs in the record */
	le32_t rec_len;      /* 32  of the whole record; equal in the train */
	le32_t csum;         /* 36  CRC32C of the message with 0 here */
	le64_t arg;          /* 40  COMMIT: record sequence; CHECKPOINT: up to */
	le64_t tail;         /* 48  COMMIT: sequence up to which every attached copy has answered: may be applied in place */
	uint8_t zero[8];     /* 56 */
};
static_assert(sizeof(struct lane_req_msg) == 64, "lane_req_msg size");

enum lane_range_flags {
	LANE_RANGE_INLINE = 1u, /* bytes are in this message; without it a one-sided write put them there: flush only */
	LANE_RANGE_ZERO = 2u,   /* store zeros, no bytes */
};
struct lane_range_msg {
	le64_t off;   /*  0  pool bytes */
	le32_t len;   /*  8 */
	le32_t flags; /* 12  enum lane_range_flags */
};
static_assert(sizeof(struct lane_range_msg) == 16, "lane_range_msg size");

/* The answer: 64 bytes, sent inject (facts: inject_size is 128). Counters as the target counted them. */
struct lane_ack_msg {
	le32_t magic;     /*  0 */
	le16_t op;        /*  4 */
	le16_t status;    /*  6  enum wire_status */
	le64_t seq;       /*  8  of the request */
	le64_t head_seq;  /* 16  of the copy, durable; 0 for plain pools */
	le64_t tail_seq;  /* 24  both superblocks */
	le64_t ring_free; /* 32  bytes */
	le64_t rx_bytes;  /* 40  received in messages and named as one-sided, since the session began */
	le64_t rx_msgs;   /* 48  request messages since the session began, upkeep not counted */
	le32_t csum;      /* 56  CRC32C of the answer with 0 here */
	le32_t read_bytes;/* 60  LANE_READ: payload that follows */
};
static_assert(sizeof(struct lane_ack_msg) == 64, "lane_ack_msg size");

#endif
