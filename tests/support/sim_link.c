/* See sim_link.h. Requests are real lane messages handled by the real engine; only the transport is missing: a list. */
#include "sim_link.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "codec.h"
#include "errmsg.h"
#include "rpmemd/engine.h"

#define MSG_DATA_BYTES (60u << 10)

struct msg {
	struct msg *next;
	size_t len;
	uint64_t commit; /* sequence, 0: another request */
	bool last;       /* of its train */
	uint8_t bytes[] __attribute__((aligned(64)));
};

struct sim_link {
	struct repl_link pub;
	struct sim_target *target;
	struct msg *first, **end;
	uint64_t lane_seq;
	uint64_t acked, tail, ring_free; /* answered, but held back while mute */
	bool create, takeover;
	uint64_t pool_size;
	int cut;
};

struct sim_target sim_targets[SIM_TARGETS_MAX];

/* ---------------------------------------------------------------- targets */

struct sim_target *sim_target_add(const char *name, uint64_t bytes)
{
	for (unsigned i = 0; i < SIM_TARGETS_MAX; i++) {
		struct sim_target *t = &sim_targets[i];
		void *base;

		if (t->name[0])
			continue;
		base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		assert(base != MAP_FAILED);
		*t = (struct sim_target){ .rma = true };
		snprintf(t->name, sizeof(t->name), "%s", name);
		pm_init(&t->pm, base, bytes, PM_MEMORY);
		return t;
	}
	abort();
}

void sim_targets_free(void)
{
	for (unsigned i = 0; i < SIM_TARGETS_MAX; i++) {
		if (sim_targets[i].name[0])
			munmap(sim_targets[i].pm.base, sim_targets[i].pm.len);
		sim_targets[i] = (struct sim_target){ .name = "" };
	}
}

struct copy *sim_copy_get(struct sim_target *t)
{
	struct copy *copy = NULL;

	if (t->copy)
		return t->copy;
	return copy_open(&t->pm, true, &copy) ? NULL : copy;
}

void sim_copy_put(struct sim_target *t, struct copy *copy)
{
	if (copy != t->copy)
		copy_close(copy);
}

void sim_target_cut(struct sim_target *t, int err)
{
	if (t->link)
		t->link->cut = err;
}

/* ---------------------------------------------------------------- messages */

static void msgs_drop(struct sim_link *l)
{
	while (l->first) {
		struct msg *m = l->first;

		l->first = m->next;
		free(m);
	}
	l->end = &l->first;
}

static void session_end(struct sim_link *l)
{
	struct sim_target *t = l->target;

	msgs_drop(l);
	if (!t || t->link != l)
		return;
	engine_delete(t->engine);
	copy_close(t->copy);
	t->engine = NULL;
	t->copy = NULL;
	t->link = NULL;
}

static enum repl_state link_down(struct sim_link *l, int err, const char *text)
{
	l->pub.state = REPL_DOWN;
	l->pub.err = err;
	snprintf(l->pub.err_text, sizeof(l->pub.err_text), "%s: %s", l->pub.name, text);
	session_end(l);
	return REPL_DOWN;
}

/* The target handles one message; its answer is noted. */
static void handle(struct sim_link *l, struct msg *m)
{
	static uint8_t read_buf[LANE_MSG_BYTES_MAX];
	struct lane_ack_msg ack;
	int err, status;

	err = engine_handle(l->target->engine, 0, m->bytes, m->len, &ack, read_buf);
	status = wire_status_err(le16_get(ack.status));
	if (err || status) {
		l->cut = err ? err : status;
		return;
	}
	l->tail = le64_get(ack.tail_seq);
	l->ring_free = le64_get(ack.ring_free);
	l->pub.count.peer_rx_bytes = le64_get(ack.rx_bytes);
	l->pub.count.peer_rx_msgs = le64_get(ack.rx_msgs);
	if (!m->commit || !m->last)
		return;
	l->target->commits++;
	l->acked = m->commit;
	if (l->target->die_after == m->commit)
		l->cut = -ECONNRESET;
}

static void deliver(struct sim_link *l)
{
	while (l->first && !l->cut && !l->target->hold) {
		struct msg *m = l->first;

		l->first = m->next;
		if (!l->first)
			l->end = &l->first;
		if (m->commit && m->commit == l->target->die_before)
			l->cut = -ECONNRESET;
		else
			handle(l, m);
		free(m);
	}
}

static struct msg *msg_new(struct sim_link *l, size_t room, uint16_t op)
{
	struct msg *m = aligned_alloc(64, (sizeof(*m) + room + 63) / 64 * 64);
	struct lane_req_msg *req;

	assert(m);
	memset(m, 0, sizeof(*m));
	req = (struct lane_req_msg *)m->bytes;
	*req = (struct lane_req_msg){
		.magic = le32_put(LANE_MAGIC), .op = le16_put(op), .seq = le64_put(++l->lane_seq)
	};
	m->len = sizeof(*req);
	m->last = true;
	return m;
}

static void msg_send(struct sim_link *l, struct msg *m)
{
	lane_req_seal(m->bytes, m->len);
	m->next = NULL;
	*l->end = m;
	l->end = &m->next;
}

/* One message of a train: a range or none, and with the last one the record. */
static void commit_piece(
	struct sim_link *l, const struct repl_commit *c, uint64_t off, const void *src, uint32_t len, bool last)
{
	struct msg *m = msg_new(l, 2 * sizeof(struct lane_req_msg) + MSG_DATA_BYTES + c->rec_len, LANE_COMMIT);
	struct lane_req_msg *req = (struct lane_req_msg *)m->bytes;

	m->commit = c->seq;
	m->last = last;
	req->flags = le16_put(last ? 0 : LANE_MORE);
	req->arg = le64_put(c->seq);
	req->tail = le64_put(c->settled);
	req->rec_len = le32_put(c->rec_len);
	if (len) {
		struct lane_range_msg range = {
			.off = le64_put(off), .len = le32_put(len), .flags = le32_put(src ? LANE_RANGE_INLINE : 0)
		};

		req->range_count = le32_put(1);
		memcpy(m->bytes + m->len, &range, sizeof(range));
		m->len += sizeof(range);
	}
	if (len && src) {
		req->inline_bytes = le32_put(len);
		memcpy(m->bytes + m->len, src, len);
		m->len += len;
	}
	if (last) {
		req->rec_bytes = le32_put(c->rec_len);
		memcpy(m->bytes + m->len, c->rec, c->rec_len);
		m->len += c->rec_len;
	}
	l->pub.count.bytes_sent += m->len;
	msg_send(l, m);
}

/* ---------------------------------------------------------------- operations */

static struct sim_link *of(struct repl_link *pub)
{
	return (struct sim_link *)pub;
}

static void peer_fill(struct sim_link *l)
{
	struct sim_target *t = l->target;
	struct repl_peer *p = &l->pub.peer;

	*p = (struct repl_peer){
		.provider = "sim", .method = WIRE_METHOD_GPSPM, .rma = t->rma, .pool_size = t->pm.len
	};
	if (!t->copy)
		return;
	p->formatted = true;
	p->tail = copy_tail(t->copy);
	p->head = copy_head(t->copy);
	p->page = *copy_page(t->copy);
	p->blk_count = copy_geom(t->copy)->blk_count;
	p->ring_bytes = copy_geom(t->copy)->ring_bytes;
	p->used_blks = copy_used_blks(t->copy);
	memcpy(p->content_uuid, copy_sb(t->copy)->content_uuid, sizeof(p->content_uuid));
	l->acked = l->pub.acked = p->head.seq;
	l->tail = l->pub.tail_seq = p->tail.seq;
	l->ring_free = l->pub.ring_free = copy_ring_free(t->copy);
}

static enum repl_state session_begin(struct sim_link *l)
{
	struct sim_target *t = l->target;
	struct engine_cfg cfg = { .pm = &t->pm, .floor = MEDIA_BLOCK_BYTES, .fs = true };
	int err;

	if (t->unreachable)
		return link_down(l, -EHOSTUNREACH, "not reached");
	if (t->link && l->takeover) { /* its process is ended and waited for; it learns that at its next poll */
		t->link->cut = -ECONNRESET;
		session_end(t->link);
	}
	if (t->link)
		return link_down(l, -EBUSY, "in use");
	if (copy_open(&t->pm, false, &t->copy))
		t->copy = NULL; /* not formatted */
	cfg.copy = t->copy;
	err = engine_new(&cfg, &t->engine);
	assert(!err);
	t->link = l;
	l->pub.state = REPL_UP;
	peer_fill(l);
	return REPL_UP;
}

static enum repl_state sim_poll(struct repl_link *pub)
{
	struct sim_link *l = of(pub);

	l->target->polls++;
	if (pub->state == REPL_DOWN)
		return REPL_DOWN;
	if (pub->state == REPL_CONNECTING)
		return session_begin(l);
	deliver(l);
	if (!l->target->mute) {
		if (l->acked > pub->acked)
			pub->count.round_trips++;
		pub->acked = l->acked;
		pub->tail_seq = l->tail;
		pub->ring_free = l->ring_free;
	}
	return l->cut ? link_down(l, l->cut, strerror(-l->cut)) : REPL_UP;
}

void sim_target_release(struct sim_target *t)
{
	t->hold = t->mute = false;
	if (t->link)
		sim_poll(&t->link->pub);
}

static unsigned sim_fds(struct repl_link *pub, int fds[2])
{
	(void)pub;
	(void)fds;
	return 0;
}

static bool sim_may_block(struct repl_link *pub)
{
	return of(pub)->first == NULL;
}

static int sim_push(struct repl_link *pub, const struct repl_range *ranges, unsigned count)
{
	struct sim_link *l = of(pub);

	if (pub->state != REPL_UP || l->target->link != l)
		return -ENOTCONN;
	if (!l->target->rma)
		return -EOPNOTSUPP;
	for (unsigned i = 0; i < count; i++) {
		memcpy(l->target->pm.base + ranges[i].off, ranges[i].src, ranges[i].len);
		l->target->pushes++;
	}
	return 0;
}

static int sim_commit(struct repl_link *pub, const struct repl_commit *c)
{
	struct sim_link *l = of(pub);

	if (pub->state != REPL_UP)
		return -ENOTCONN;
	for (unsigned i = 0; i < c->range_count; i++) {
		const struct repl_range *range = &c->ranges[i];

		for (uint32_t at = 0; at < range->len; at += MSG_DATA_BYTES) {
			uint32_t len = range->len - at < MSG_DATA_BYTES ? range->len - at : MSG_DATA_BYTES;

			commit_piece(l, c, range->off + at, range->src ? (const uint8_t *)range->src + at : NULL, len,
				false);
		}
	}
	commit_piece(l, c, 0, NULL, 0, true);
	pub->count.commits++;
	return 0;
}

static int sim_checkpoint(struct repl_link *pub, uint64_t upto)
{
	struct sim_link *l = of(pub);
	struct msg *m;

	if (pub->state != REPL_UP)
		return -ENOTCONN;
	m = msg_new(l, sizeof(struct lane_req_msg), LANE_CHECKPOINT);
	((struct lane_req_msg *)m->bytes)->arg = le64_put(upto);
	msg_send(l, m);
	return 0;
}

static int sim_read(struct repl_link *pub, uint64_t off, void *dst, uint32_t len)
{
	struct sim_link *l = of(pub);

	if (pub->state != REPL_UP || off + len > l->target->pm.len)
		return errmsg_set(-ENOTCONN, "%s: read of 0x%llx", pub->name, (unsigned long long)off);
	memcpy(dst, l->target->pm.base + off, len);
	return 0;
}

static int sim_write(struct repl_link *pub, const struct repl_range *ranges, unsigned count)
{
	struct sim_link *l = of(pub);

	if (pub->state != REPL_UP || copy_page(l->target->copy)->state != MEDIA_INCONSISTENT)
		return -EPERM;
	for (unsigned i = 0; i < count; i++)
		pm_write(&l->target->pm, ranges[i].off, ranges[i].src, ranges[i].len);
	return pm_fence(&l->target->pm, PM_POINT_WRITE);
}

static int sim_settle(struct repl_link *pub)
{
	return pub->state == REPL_UP ? 0 : -ENOTCONN;
}

static int sim_settle_old(struct repl_link *pub, unsigned young)
{
	(void)young; /* reads are done at once */
	return sim_settle(pub);
}

static int sim_chain(struct repl_link *pub, uint64_t seq, struct copy_point *point)
{
	const struct copy *copy = of(pub)->target->copy;
	const struct copy_rec *rec;

	if (pub->state != REPL_UP)
		return -ENOTCONN;
	rec = copy_find(copy, seq);
	if (!rec && seq != copy_tail(copy).seq)
		return errmsg_set(-ERANGE, "commit %llu is not in the ring there", (unsigned long long)seq);
	*point = rec ? rec->at : copy_tail(copy);
	return 0;
}

static int sim_format(struct repl_link *pub, const struct copy_format *fmt)
{
	struct sim_link *l = of(pub);
	struct sim_target *t = l->target;
	int err;

	if (pub->state != REPL_UP)
		return -ENOTCONN;
	engine_set_copy(t->engine, NULL);
	copy_close(t->copy);
	t->copy = NULL;
	err = copy_format(&t->pm, fmt);
	if (!err)
		err = copy_open(&t->pm, false, &t->copy);
	if (err)
		return err;
	engine_set_copy(t->engine, t->copy);
	peer_fill(l);
	return 0;
}

/* The copy of a session that lives, NULL: the link is down. */
static struct copy *session_copy(struct repl_link *pub)
{
	return pub->state == REPL_UP ? of(pub)->target->copy : NULL;
}

static int sim_fence(struct repl_link *pub, uint64_t expected, uint64_t epoch, const uint8_t id[16])
{
	struct copy *copy = session_copy(pub);
	struct copy_page page;

	if (!copy)
		return errmsg_set(-ENOTCONN, "%s: no session", pub->name);
	page = *copy_page(copy);
	if (page.fence_epoch != expected)
		return -ESTALE;
	page.fence_epoch = epoch;
	memcpy(page.fence_id, id, sizeof(page.fence_id));
	return copy_page_set(copy, &page);
}

static int sim_page(struct repl_link *pub, const struct copy_page *page)
{
	struct copy *copy = session_copy(pub);

	return copy ? copy_page_set(copy, page) : -ENOTCONN;
}

static int sim_checkpoint_all(struct repl_link *pub)
{
	struct copy *copy = session_copy(pub);

	return !copy ? -ENOTCONN : copy_checkpoint(copy, copy_head(copy).seq, UINT64_MAX);
}

static int sim_reset(struct repl_link *pub, const struct copy_point *at, uint64_t used_blks)
{
	struct copy *copy = session_copy(pub);

	return copy ? copy_reset(copy, at, used_blks) : -ENOTCONN;
}

static int sim_refresh(struct repl_link *pub)
{
	if (!session_copy(pub))
		return -ENOTCONN;
	peer_fill(of(pub));
	return 0;
}

static void sim_close(struct repl_link *pub)
{
	struct sim_link *l = of(pub);

	if (pub->state == REPL_UP)
		deliver(l);
	session_end(l);
	free(l);
}

static const struct repl_link_ops sim_ops = {
	.poll = sim_poll,
	.fds = sim_fds,
	.may_block = sim_may_block,
	.push = sim_push,
	.commit = sim_commit,
	.checkpoint = sim_checkpoint,
	.read = sim_read,
	.write = sim_write,
	.settle = sim_settle,
	.settle_old = sim_settle_old,
	.chain = sim_chain,
	.format = sim_format,
	.fence = sim_fence,
	.page = sim_page,
	.checkpoint_all = sim_checkpoint_all,
	.reset = sim_reset,
	.refresh = sim_refresh,
	.close = sim_close,
	.drop = sim_close,
};

int sim_link_open(const struct poolset_replica *replica, const struct repl_cfg *cfg, struct repl_link **out)
{
	struct sim_link *l = calloc(1, sizeof(*l));

	assert(l);
	l->takeover = cfg->open_flags & CTL_OPEN_TAKEOVER;
	l->pub.ops = &sim_ops;
	l->pub.state = REPL_CONNECTING;
	l->end = &l->first;
	snprintf(l->pub.name, sizeof(l->pub.name), "%s", replica->name);
	for (unsigned i = 0; i < SIM_TARGETS_MAX; i++) {
		if (!strcmp(sim_targets[i].name, replica->name))
			l->target = &sim_targets[i];
	}
	assert(l->target);
	*out = &l->pub;
	return 0;
}
