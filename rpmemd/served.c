/* The served pool: opened, described and closed; control requests on its copy.
 *
 *   plain pool (librpmem)   copy NULL, fs false: plain writes allowed
 *   unformatted fs pool     copy NULL, fs true:  nothing but FORMAT changes it
 *   copy                    copy set             commits; plain writes and RESET only while its page says inconsistent
 *
 * Opening a copy reads it; records stay in the ring until the initiator calls them settled, because lines may be applied in
 * place only when every copy has their record. Every request that touches the copy runs under the engine's lock. */
#include "served.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "copy.h"
#include "errmsg.h"
#include "fabric.h"
#include "incarnation.h"
#include "lanes.h"
#include "log.h"
#include "method.h"
#include "report.h"
#include "store.h"
#include "takeover.h"

#define SERVED_CHECKPOINT_STEP_BYTES (1u << 20)
#define MARKS 2u /* of a plain session: its own, and of the one it replaced */

struct served {
	struct stored store;
	struct copy *copy;
	struct engine *engine;
	struct lanes *lanes;
	bool fs, read_only;
	bool unheard; /* a pool made for lanes, of which the initiator may not know */
	int marks[MARKS]; /* descriptors; 0: none */
};

/* ---------------------------------------------------------------- opening */

static bool is_fs(const struct pool_attr *attr)
{
	return !memcmp(attr->signature, POOLHDR_FS_SIGNATURE, sizeof(attr->signature));
}

static int provider_check(const struct ctl_open *req)
{
	if (req->flags & CTL_OPEN_NO_LANES || !strcmp(req->provider, "tcp") || !strcmp(req->provider, "verbs"))
		return 0;
	return errmsg_set(-ENOMEDIUM, "provider '%s': must be tcp or verbs", req->provider);
}

/* What can be refused before a file is looked at. */
static int request_check(const struct ctl_msg *req)
{
	const struct ctl_open *open = &req->u.open;
	struct pool_attr attr;

	if (req->type == CTL_OPEN && open->flags & (CTL_OPEN_REPLACE | CTL_OPEN_SPARSE))
		return errmsg_set(-ERANGE, "how parts are made goes with create");
	if (open->session_before && (req->type == CTL_CREATE || open->flags & (CTL_OPEN_FS | CTL_OPEN_TAKEOVER)))
		return errmsg_set(-ERANGE, "only a plain session is replaced by its number, and only by an open");
	if (req->type == CTL_CREATE && open->flags & CTL_OPEN_RDONLY)
		return errmsg_set(-ERANGE, "a new pool cannot be read-only");
	store_attr_get(&open->attr, &attr);
	if (req->type == CTL_CREATE && is_fs(&attr) != !!(open->flags & CTL_OPEN_FS))
		return errmsg_set(-ERANGE, "the signature does not go with the kind of pool asked for");
	return provider_check(open);
}

static bool range_is_zero(const struct pm *pm, uint64_t off, uint64_t len)
{
	const uint8_t *p = pm_ptr(pm, off);

	return !*p && !memcmp(p, p + 1, len - 1);
}

/* Made by CREATE, but FORMAT never finished its first store to page or superblocks. */
static bool is_unformatted(const struct pm *pm)
{
	return pm->len >= media_off(MEDIA_RING_BLK) &&
	       range_is_zero(pm, media_off(MEDIA_PAGE_BLK), media_off(MEDIA_RING_BLK) - media_off(MEDIA_PAGE_BLK));
}

static int copy_attach(struct served *s)
{
	struct pool *pool = s->store.pool;
	int err;

	if (s->fs && !is_fs(&pool->attr))
		return errmsg_set(-EMEDIUMTYPE, "%s: not a pool of the file system", s->store.set->path);
	if (!s->fs && is_fs(&pool->attr) && !s->read_only)
		return errmsg_set(-EPERM, "%s: a copy of a file system is no plain pool", s->store.set->path);
	if (!s->fs || is_unformatted(&pool->pm))
		return 0;
	err = copy_open(&pool->pm, s->read_only, &s->copy);
	return err == -EROFS ? -EPERM : err;
}

/* Whether the session's epoch says something about what it may do; see ctl_open. */
static bool epoch_binds(const struct ctl_msg *req)
{
	return req->type == CTL_OPEN && req->u.open.flags & CTL_OPEN_FS &&
	       !(req->u.open.flags & (CTL_OPEN_RDONLY | CTL_OPEN_TAKEOVER | CTL_OPEN_NO_LANES));
}

static int fence_check(const struct served *s, const struct ctl_msg *req)
{
	uint64_t fence = s->copy ? copy_page(s->copy)->fence_epoch : 0;

	if (!epoch_binds(req) || req->u.open.epoch >= fence)
		return 0;
	return errmsg_set(-ESTALE, "fenced at epoch %" PRIu64 ", the session is of epoch %" PRIu64
			  ": another primary has taken over", fence, req->u.open.epoch);
}

/* A CREATE that replaces destroys what is there: first see that the lanes can be had at all. */
static int lanes_probe(const struct served_cfg *cfg, const struct ctl_open *open)
{
	struct fab *fab = NULL;
	uint16_t port;
	int err;

	if (!(open->flags & CTL_OPEN_REPLACE) || open->flags & CTL_OPEN_NO_LANES)
		return 0;
	err = fab_listen(open->provider, cfg->bind_address, &fab, &port);
	fab_close(fab);
	return err;
}

static int store_attach(struct served *s, const struct served_cfg *cfg, const struct ctl_msg *req)
{
	const struct ctl_open *open = &req->u.open;

	s->fs = open->flags & CTL_OPEN_FS;
	s->read_only = open->flags & CTL_OPEN_RDONLY;
	return req->type == CTL_CREATE ? store_create(cfg->config->poolset_dir, open, &s->store)
				       : store_open(cfg->config->poolset_dir, open, &s->store);
}

static int engine_attach(struct served *s, const struct ctl_msg *req)
{
	bool headers = !(s->store.set->options & POOLSET_NOHDRS);

	return engine_new(&(struct engine_cfg){
		.pm = &s->store.pool->pm,
		.copy = s->copy,
		.floor = headers ? POOLHDR_BYTES : 0,
		.read_only = s->read_only,
		.epoch = epoch_binds(req) ? req->u.open.epoch : 0,
		.fs = s->fs,
	}, &s->engine);
}

/* Plain sessions may ask for less patience than the configuration has. */
static uint32_t idle_grant(const struct config *config, const struct ctl_open *open)
{
	uint32_t asked = open->idle_ms < CONFIG_IDLE_MS_MIN ? CONFIG_IDLE_MS_MIN : open->idle_ms;

	return open->flags & CTL_OPEN_FS || !open->idle_ms || asked > config->idle_ms ? config->idle_ms : asked;
}

/* No more lanes than there can be descriptors for: one that is refused later looks like a fault. */
static uint32_t lanes_grant(const struct config *config, const struct ctl_open *open)
{
	uint32_t lanes = open->lanes;
	struct rlimit files;

	if (open->flags & CTL_OPEN_NO_LANES)
		return 0;
	if (config->nthreads && lanes > config->nthreads)
		lanes = config->nthreads;
	if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur >= LANES_FDS_REST + (rlim_t)lanes * LANE_FDS_MAX)
		return lanes;
	return files.rlim_cur < LANES_FDS_REST + LANE_FDS_MAX ? 1 :
		(uint32_t)((files.rlim_cur - LANES_FDS_REST) / LANE_FDS_MAX);
}

static void session_fill(const struct served *s, const struct served_cfg *cfg, const struct ctl_open *open,
	struct ctl_session *session)
{
	*session = (struct ctl_session){
		.pool_size = s->store.pool->pm.len,
		.lanes = lanes_grant(cfg->config, open),
		.idle_ms = idle_grant(cfg->config, open),
		.domain = s->store.pool->pm.domain,
		.msg_bytes_max = LANE_MSG_BYTES_MAX,
		.rx_slots = LANE_RX_SLOTS,
	};
	do
		csum_random(&session->session, sizeof(session->session));
	while (!session->session); /* 0 is none */
	csum_random(session->token, sizeof(session->token));
	strncpy(session->address, cfg->address, sizeof(session->address) - 1);
	store_attr_put(&s->store.pool->attr, &session->attr);
}

static int lanes_attach(struct served *s, const struct served_cfg *cfg, const struct ctl_open *open,
	struct ctl_session *session)
{
	struct lanes_cfg lanes = {
		.provider = open->provider,
		.bind_address = cfg->bind_address,
		.lane_count = session->lanes,
		.session = session->session,
		.pm = &s->store.pool->pm,
		.engine = s->engine,
		.read_only = s->read_only,
		.lazy = !s->fs,
		.connect_ms = SERVED_CONNECT_MS,
		.idle_ms = cfg->config->idle_ms,
		.ended = cfg->lanes_ended,
		.arg = cfg->arg,
	};

	if (open->flags & CTL_OPEN_NO_LANES)
		return 0;
	memcpy(lanes.token, session->token, sizeof(lanes.token));
	return lanes_open(&lanes, session, &s->lanes);
}

/* What makes a plain session replaceable by its initiator: marks of it, and the pool's incarnation. */
static int plain_attach(struct served *s, const struct ctl_open *open, struct ctl_session *session)
{
	const uint64_t shown[MARKS] = { session->session, open->session_before };

	for (unsigned i = 0; i < MARKS && !s->fs; i++) {
		if (!shown[i])
			continue;
		s->marks[i] = takeover_mark(shown[i]);
		if (s->marks[i] < 0)
			return s->marks[i];
	}
	return incarnation_of(s->store.pool, session->incarnation);
}

/* Commits of a file system are answered by the CPU always; who only reads has nothing to persist. */
static uint32_t session_method(const struct served *s, const struct config *config, const struct ctl_open *open,
	const struct ctl_session *session)
{
	struct method_case at = {
		.provider = open->provider,
		.domain = s->store.pool->pm.domain,
		.one_sided = session->caps & CTL_CAP_RMA,
	};

	return s->fs || s->read_only || !s->lanes ? WIRE_METHOD_GPSPM : method_choose(config, &at);
}

/* Everything behind the opened store. */
static int session_attach(struct served *s, const struct served_cfg *cfg, const struct ctl_msg *req,
	struct ctl_session *session)
{
	const struct ctl_open *open = &req->u.open;
	int err = copy_attach(s);

	if (!err)
		err = fence_check(s, req);
	if (!err)
		err = engine_attach(s, req);
	if (err)
		return err;
	if (s->copy && !s->read_only && !(open->flags & CTL_OPEN_NO_LANES))
		pool_ahead_begin(s->store.pool);
	session_fill(s, cfg, open, session);
	err = plain_attach(s, open, session);
	if (!err)
		err = lanes_attach(s, cfg, open, session);
	if (err)
		return err;
	session->method = session_method(s, cfg->config, open, session);
	s->unheard = req->type == CTL_CREATE && !s->fs && s->lanes;
	return 0;
}

int served_open(const struct served_cfg *cfg, const struct ctl_msg *req, struct ctl_session *session, struct served **out)
{
	struct served *s;
	int err = request_check(req);

	assert(req->type == CTL_CREATE || req->type == CTL_OPEN);
	if (err)
		return err;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	report_request(req);
	err = lanes_probe(cfg, &req->u.open);
	if (!err)
		err = store_attach(s, cfg, req);
	if (err)
		goto free_served;
	err = session_attach(s, cfg, req, session);
	if (err)
		goto close_served;
	report_session(req, session);
	*out = s;
	return 0;
close_served:
	if (req->type == CTL_CREATE)
		served_discard(s);
	else
		served_close(s);
	return err;
free_served:
	free(s);
	return err;
}

/* ---------------------------------------------------------------- closing */

/* Whether a lane was asked for. */
static bool detach(struct served *s)
{
	bool asked = s->lanes && lanes_close(s->lanes);

	engine_delete(s->engine);
	if (s->copy)
		copy_close(s->copy);
	return asked;
}

/* The marks go last, when the lock is free: who sees the lock held sees whose it is. */
static void served_free(struct served *s)
{
	for (unsigned i = 0; i < MARKS; i++)
		if (s->marks[i] > 0)
			close(s->marks[i]);
	free(s);
}

void served_heard(struct served *s)
{
	s->unheard = false;
}

void served_close(struct served *s)
{
	if (!s)
		return;
	if (detach(s) || !s->unheard) {
		store_close(&s->store);
	} else {
		log_notice("%s: removed again: nobody has used it since it was made", s->store.set->path);
		store_discard(&s->store);
	}
	served_free(s);
}

void served_discard(struct served *s)
{
	detach(s);
	store_discard(&s->store);
	served_free(s);
}

/* ---------------------------------------------------------------- requests */

struct verb_call {
	struct served *s;
	const struct ctl_msg *req;
	struct ctl_msg *answer;
};

static void point_put(const struct copy_point *from, struct ctl_point *to)
{
	to->seq = from->seq;
	to->epoch = from->epoch;
	memcpy(to->hash, from->hash.b, sizeof(to->hash));
}

static void page_put(const struct copy_page *from, struct ctl_page *to)
{
	to->role = from->role;
	to->state = from->state;
	to->fence_epoch = from->fence_epoch;
	to->sync_seq = from->sync_seq;
	to->sync_group = from->sync_group;
	memcpy(to->instance, from->instance, sizeof(to->instance));
	memcpy(to->fence_id, from->fence_id, sizeof(to->fence_id));
	memcpy(to->sync_hash, from->sync_hash.b, sizeof(to->sync_hash));
}

static void page_get(const struct ctl_page *from, struct copy_page *to)
{
	to->role = from->role;
	to->state = from->state;
	to->fence_epoch = from->fence_epoch;
	to->sync_seq = from->sync_seq;
	to->sync_group = from->sync_group;
	memcpy(to->instance, from->instance, sizeof(to->instance));
	memcpy(to->fence_id, from->fence_id, sizeof(to->fence_id));
	memcpy(to->sync_hash.b, from->sync_hash, sizeof(to->sync_hash.b));
}

static int verb_status(struct verb_call *c)
{
	const struct copy *copy = c->s->copy;
	struct ctl_copy_info *info = &c->answer->u.copy_info;
	struct copy_point tail, head;

	*info = (struct ctl_copy_info){ 0 };
	if (!copy)
		return 0;
	tail = copy_tail(copy);
	head = copy_head(copy);
	point_put(&tail, &info->tail);
	point_put(&head, &info->head);
	page_put(copy_page(copy), &info->page);
	info->blk_count = copy_geom(copy)->blk_count;
	info->ring_bytes = copy_geom(copy)->ring_bytes;
	info->used_blks = copy_used_blks(copy);
	memcpy(info->content_uuid, copy_sb(copy)->content_uuid, sizeof(info->content_uuid));
	return 0;
}

static int verb_chain(struct verb_call *c)
{
	struct copy_point tail = copy_tail(c->s->copy), head = copy_head(c->s->copy);
	uint64_t seq = c->req->u.chain.seq;
	const struct copy_rec *rec;

	if (seq == tail.seq || seq == head.seq) {
		point_put(seq == head.seq ? &head : &tail, &c->answer->u.point);
		return 0;
	}
	rec = seq > tail.seq && seq < head.seq ? copy_find(c->s->copy, seq) : NULL;
	if (!rec)
		return errmsg_set(-ERANGE, "sequence %" PRIu64 " is not within %" PRIu64 "..%" PRIu64, seq, tail.seq,
			head.seq);
	point_put(&rec->at, &c->answer->u.point);
	return 0;
}

static int verb_format(struct verb_call *c)
{
	const struct ctl_format *m = &c->req->u.format;
	struct pm *pm = &c->s->store.pool->pm;
	struct copy_format fmt = { .hash_seed = m->hash_seed, .created_ns = m->created_ns, .ring_bytes = m->ring_bytes };
	struct media_geom geom;
	int err;

	if (!c->s->fs || c->s->copy)
		return errmsg_set(-EPERM, "only a new pool of the file system can be formatted");
	if (!fmt.ring_bytes)
		fmt.ring_bytes = copy_ring_bytes_default(pm->len);
	if (copy_geometry(pm->len, fmt.ring_bytes, &geom))
		return errmsg_prefix(-ERANGE, "pool of %" PRIu64 " bytes, ring of %" PRIu64, pm->len, fmt.ring_bytes);
	memcpy(fmt.content_uuid, m->content_uuid, sizeof(fmt.content_uuid));
	page_get(&m->page, &fmt.page);
	err = copy_format(pm, &fmt);
	return err ? err : copy_open(pm, false, &c->s->copy);
}

static int verb_fence(struct verb_call *c)
{
	const struct ctl_fence *m = &c->req->u.fence;
	struct copy_page page = *copy_page(c->s->copy);

	if (page.fence_epoch != m->expected_epoch)
		return errmsg_set(-ESTALE, "fence is at epoch %" PRIu64 ", not %" PRIu64, page.fence_epoch,
			m->expected_epoch);
	if (m->epoch < page.fence_epoch || (m->epoch == page.fence_epoch && memcmp(page.fence_id, m->id, sizeof(m->id))))
		return errmsg_set(-ERANGE, "fence at epoch %" PRIu64 " can only rise, not become another one of epoch %" PRIu64,
			page.fence_epoch, m->epoch);
	page.fence_epoch = m->epoch;
	memcpy(page.fence_id, m->id, sizeof(page.fence_id));
	return copy_page_set(c->s->copy, &page);
}

/* A page made from an older reading must not undo a fence, nor one of another promotion at the same epoch. */
static int verb_page(struct verb_call *c)
{
	const struct copy_page *now = copy_page(c->s->copy);
	struct copy_page page = { 0 };
	bool same_id;

	page_get(&c->req->u.page, &page);
	same_id = !memcmp(page.fence_id, now->fence_id, sizeof(page.fence_id));
	if (page.fence_epoch < now->fence_epoch || (page.fence_epoch == now->fence_epoch && !same_id))
		return errmsg_set(-ESTALE, "fence is at epoch %" PRIu64 ", the page given says %" PRIu64, now->fence_epoch,
			page.fence_epoch);
	return copy_page_set(c->s->copy, &page);
}

static int verb_checkpoint(struct verb_call *c)
{
	uint64_t head = copy_head(c->s->copy).seq, upto = c->req->u.checkpoint.upto;
	int err = 0;

	if (upto > head)
		upto = head;
	while (!err && copy_tail(c->s->copy).seq < upto)
		err = copy_checkpoint(c->s->copy, upto, SERVED_CHECKPOINT_STEP_BYTES);
	return err;
}

static int verb_reset(struct verb_call *c)
{
	const struct ctl_reset *m = &c->req->u.reset;
	struct copy_point at = { .seq = m->at.seq, .epoch = m->at.epoch };

	if (copy_page(c->s->copy)->state != MEDIA_INCONSISTENT)
		return errmsg_set(-EPERM, "only a copy that is being overwritten can be reset");
	if (m->used_blks > copy_geom(c->s->copy)->blk_count)
		return errmsg_set(-ERANGE, "%" PRIu64 " used blocks are more than there are", m->used_blks);
	memcpy(at.hash.b, m->at.hash, sizeof(at.hash.b));
	return copy_reset(c->s->copy, &at, m->used_blks);
}

static int verb_set_attr(struct verb_call *c)
{
	struct pool_attr attr;

	store_attr_get(&c->req->u.attr, &attr);
	if (is_fs(&attr) != c->s->fs)
		return errmsg_set(-ERANGE, "the signature does not go with the kind of pool");
	return store_set_attr(&c->s->store, &attr);
}

static const struct verb {
	int (*run)(struct verb_call *c);
	bool copy, stores, moves; /* needs a copy; changes the pool; makes or moves the copy */
} verbs[CTL_REQUEST_LAST + 1] = {
	[CTL_STATUS] = { .run = verb_status },
	[CTL_CHAIN] = { .run = verb_chain, .copy = true },
	[CTL_FORMAT] = { .run = verb_format, .stores = true, .moves = true },
	[CTL_FENCE] = { .run = verb_fence, .copy = true, .stores = true },
	[CTL_PAGE] = { .run = verb_page, .copy = true, .stores = true },
	[CTL_CHECKPOINT] = { .run = verb_checkpoint, .copy = true, .stores = true },
	[CTL_RESET] = { .run = verb_reset, .copy = true, .stores = true, .moves = true },
	[CTL_SET_ATTR] = { .run = verb_set_attr, .stores = true },
};

static int verb_locked(void *arg)
{
	struct verb_call *c = arg;
	const struct verb *verb = &verbs[c->req->type];
	int err = verb->run(c);

	if (!err && verb->moves)
		engine_set_copy(c->s->engine, c->s->copy);
	return err;
}

int served_handle(struct served *s, const struct ctl_msg *req, struct ctl_msg *answer)
{
	struct verb_call call = { .s = s, .req = req, .answer = answer };
	const struct verb *verb;

	assert(req->type <= CTL_REQUEST_LAST);
	verb = &verbs[req->type];
	assert(verb->run);
	if (!s->fs && req->type != CTL_SET_ATTR)
		return errmsg_set(-EMEDIUMTYPE, "not opened as a copy of a file system");
	if (verb->copy && !s->copy)
		return errmsg_set(-EPERM, "the pool is not formatted yet");
	if (verb->stores && s->read_only)
		return errmsg_set(-EPERM, "opened read-only");
	return engine_locked(s->engine, verb_locked, &call);
}
