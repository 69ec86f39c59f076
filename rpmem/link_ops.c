/* What an owner asks of a link that is UP: operations on lanes, which are queued, and control requests, which block.
 *
 * Pushes, commits and checkpoints use lane 0: order across lanes does not exist. Reads and writes of a copy that is being
 * overwritten go round all lanes. Arguments are checked against the pool's size here, so that a mistake of the caller is
 * its own error and does not end the session at the target. */
#include "link_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "errmsg.h"

/* ---------------------------------------------------------------- lanes */
static int link_ready(const struct repl_link *pub)
{
	if (pub->state == REPL_UP)
		return 0;
	return errmsg_set(pub->state == REPL_DOWN && pub->err ? pub->err : -ENOTCONN, "%s: %s", pub->target,
			  pub->state == REPL_DOWN ? "is down" : "is not connected yet");
}

/* A lane with room for one more operation, waiting for it if need be. */
static int lane_ready(struct link *link, unsigned index, struct lane **out)
{
	int err = link_ready(&link->pub);

	if (!err && index >= link->session->lane_count)
		return errmsg_set(-EOPNOTSUPP, "the session was opened without lanes");
	while (!err && lane_full(link->session->lanes[index]))
		err = link_rest(link, false);
	if (!err)
		*out = link->session->lanes[index];
	return err;
}

/* Ranges lie in the pool, without overflow. */
static int ranges_check(const struct repl_link *pub, const struct repl_range *ranges, unsigned count, bool need_src)
{
	for (unsigned i = 0; i < count; i++) {
		if (ranges[i].off > pub->peer.pool_size || ranges[i].len > pub->peer.pool_size - ranges[i].off)
			return errmsg_set(-EINVAL, "range 0x%" PRIx64 "+0x%x is outside the pool", ranges[i].off,
					  ranges[i].len);
		if (need_src && !ranges[i].src)
			return errmsg_set(-EINVAL, "range 0x%" PRIx64 " has no source", ranges[i].off);
	}
	return 0;
}

/* What a queueing call returned: an error other than memory means that the lane is dead. */
static int queued(struct link *link, int err)
{
	if (err && err != -ENOMEM)
		link_failed(link, err);
	return err;
}

int link_push(struct repl_link *pub, const struct repl_range *ranges, unsigned count)
{
	struct link *link = link_of(pub);
	struct lane *lane;
	int err = lane_ready(link, 0, &lane);

	if (!err && !pub->peer.rma)
		err = errmsg_set(-EOPNOTSUPP, "%s: no one-sided writes", pub->target);
	if (!err)
		err = ranges_check(pub, ranges, count, true);
	return err ? err : queued(link, lane_push(lane, ranges, count));
}

int link_commit(struct repl_link *pub, const struct repl_commit *commit)
{
	struct link *link = link_of(pub);
	struct lane *lane;
	int err = lane_ready(link, 0, &lane);

	if (!err && (!commit->rec_len || commit->rec_len > LANE_RECORD_BYTES_MAX))
		err = errmsg_set(-EINVAL, "a record of %u bytes", commit->rec_len);
	if (!err)
		err = ranges_check(pub, commit->ranges, commit->range_count, false);
	if (!err)
		err = queued(link, lane_commit(lane, commit));
	if (!err)
		pub->count.commits++;
	return err;
}

int link_checkpoint(struct repl_link *pub, uint64_t upto)
{
	struct link *link = link_of(pub);
	struct lane *lane;
	int err = lane_ready(link, 0, &lane);

	return err ? err : queued(link, lane_checkpoint(lane, upto));
}

/* The lane whose turn it is. */
static int lane_turn(struct link *link, struct lane **out)
{
	unsigned turn = link->turn++;
	int err = link_ready(&link->pub);

	return err ? err : lane_ready(link, link->session->lane_count ? turn % link->session->lane_count : 0, out);
}

int link_read(struct repl_link *pub, uint64_t off, void *dst, uint32_t len)
{
	struct link *link = link_of(pub);
	struct repl_range range = { off, len, NULL };
	struct lane *lane;
	int err = lane_turn(link, &lane);

	if (!err)
		err = ranges_check(pub, &range, 1, false);
	return err ? err : queued(link, lane_read(lane, off, dst, len));
}

int link_write(struct repl_link *pub, const struct repl_range *ranges, unsigned count)
{
	struct link *link = link_of(pub);
	struct lane *lane;
	int err = lane_turn(link, &lane);

	if (!err)
		err = ranges_check(pub, ranges, count, true);
	return err ? err : queued(link, lane_write(lane, ranges, count, false));
}

/* How many of the newest `young` reads and writes are on a lane: they take turns. */
static unsigned young_on(const struct link *link, unsigned lane, unsigned young)
{
	unsigned lanes = link->session->lane_count, newest = (link->turn - 1) % lanes;
	unsigned behind = (newest + lanes - lane) % lanes; /* turns between the lane's newest and the newest */

	return young > behind ? (young - behind - 1) / lanes + 1 : 0;
}

/* Whether an operation older than the newest `young` ones is unfinished: each lane finishes its own in order. */
static bool old_unfinished(const struct link *link, unsigned young)
{
	for (unsigned i = 0; i < link->session->lane_count; i++)
		if (lane_ops(link->session->lanes[i]) > young_on(link, i, young))
			return true;
	return false;
}

int link_settle_old(struct repl_link *pub, unsigned young)
{
	struct link *link = link_of(pub);
	uint64_t trips = 0;
	int err = link_ready(pub);

	while (!err && old_unfinished(link, young)) {
		err = link_rest(link, trips != pub->count.round_trips);
		trips = pub->count.round_trips;
	}
	for (unsigned i = 0; !err && i < link->session->lane_count; i++)
		err = lane_settled(link->session->lanes[i]);
	return err;
}

int link_settle(struct repl_link *pub)
{
	return link_settle_old(pub, 0);
}

/* ---------------------------------------------------------------- control requests */
struct deadline link_deadline(const struct link *link)
{
	return deadline_in(link->cfg.notice_ms, NULL);
}

/* What only looks is answered at once, and asked by a loop that serves others. What changes the copy may take long, and no
 * lane is answered meanwhile. */
static unsigned request_ms(const struct link *link, uint16_t type)
{
	bool looks = type == CTL_CHAIN || type == CTL_STATUS;

	return looks || link->connect_ms < link->cfg.notice_ms ? link->cfg.notice_ms : link->connect_ms;
}

/* The lanes while a control request is under way. */
struct tending {
	struct session *session;
	bool dead; /* cancels the request */
	int err;
	char text[ERRMSG_BYTES_MAX];
};

/* Takes what comes and sends what is due, so that neither end calls the other silent. */
static void lanes_tend(void *arg)
{
	struct tending *t = arg;

	for (unsigned i = 0; i < t->session->lane_count && !t->dead; i++) {
		lane_excuse(t->session->lanes[i]);
		t->err = lane_poll(t->session->lanes[i]);
		t->dead = t->err;
	}
	if (t->dead)
		snprintf(t->text, sizeof(t->text), "%s", errmsg_get());
}

/* A refused request leaves the link UP; a channel that failed or fell out of step, or a lane that did, does not. */
static int control(struct link *link, const struct ctl_msg *msg, struct ctl_msg *answer)
{
	struct tending tending = { .session = link->session };
	struct deadline deadline = deadline_in(request_ms(link, msg->type), &tending.dead);
	int err = link_ready(&link->pub);

	if (err)
		return err;
	deadline.tend = lanes_tend;
	deadline.arg = &tending;
	err = channel_request(link->session->channel, msg, answer, &deadline);
	if (tending.dead) {
		errmsg_set(tending.err, "%s", tending.text);
		link_failed(link, tending.err);
		return tending.err;
	}
	if (err && answer->type != CTL_ERROR)
		link_failed(link, err);
	for (unsigned i = 0; i < link->session->lane_count; i++)
		lane_excuse(link->session->lanes[i]);
	return err;
}

int link_chain(struct repl_link *pub, uint64_t seq, struct copy_point *point)
{
	struct ctl_msg msg = { .type = CTL_CHAIN, .u.chain = { seq } }, answer = { 0 };
	int err = control(link_of(pub), &msg, &answer);

	if (!err)
		session_point_get(&answer.u.point, point);
	return err;
}

int link_format(struct repl_link *pub, const struct copy_format *fmt)
{
	struct ctl_msg msg = { .type = CTL_FORMAT }, answer = { 0 };
	struct ctl_format *format = &msg.u.format;

	memcpy(format->content_uuid, fmt->content_uuid, sizeof(format->content_uuid));
	format->hash_seed = fmt->hash_seed;
	format->created_ns = fmt->created_ns;
	format->ring_bytes = fmt->ring_bytes;
	session_page_put(&fmt->page, &format->page);
	return control(link_of(pub), &msg, &answer);
}

int link_fence(struct repl_link *pub, uint64_t expected, uint64_t epoch, const uint8_t id[16])
{
	struct ctl_msg msg = { .type = CTL_FENCE, .u.fence = { expected, epoch, { 0 } } }, answer = { 0 };

	memcpy(msg.u.fence.id, id, sizeof(msg.u.fence.id));
	return control(link_of(pub), &msg, &answer);
}

int link_page(struct repl_link *pub, const struct copy_page *page)
{
	struct ctl_msg msg = { .type = CTL_PAGE }, answer = { 0 };
	int err;

	session_page_put(page, &msg.u.page);
	err = control(link_of(pub), &msg, &answer);
	if (!err)
		pub->peer.page = *page;
	return err;
}

int link_checkpoint_all(struct repl_link *pub)
{
	struct ctl_msg msg = { .type = CTL_CHECKPOINT, .u.checkpoint = { UINT64_MAX } }, answer = { 0 };

	return control(link_of(pub), &msg, &answer);
}

int link_reset(struct repl_link *pub, const struct copy_point *at, uint64_t used_blks)
{
	struct ctl_msg msg = { .type = CTL_RESET }, answer = { 0 };

	msg.u.reset.at.seq = at->seq;
	msg.u.reset.at.epoch = at->epoch;
	memcpy(msg.u.reset.at.hash, at->hash.b, sizeof(msg.u.reset.at.hash));
	msg.u.reset.used_blks = used_blks;
	return control(link_of(pub), &msg, &answer);
}

int link_refresh(struct repl_link *pub)
{
	struct link *link = link_of(pub);
	struct deadline deadline = link_deadline(link);
	int err = link_ready(pub);

	if (err)
		return err;
	err = session_status(link->session, &deadline);
	if (err) {
		link_failed(link, err);
		return err;
	}
	pub->peer = link->session->peer;
	pub->acked = pub->peer.head.seq;
	pub->tail_seq = pub->peer.tail.seq;
	return 0;
}
