/* The life of a handle: opening a session for it, closing, and removing pools.
 *
 *   settings -> session (each provider in turn) -> handle adopts it -> lane 0 connects -> monitor starts
 *
 * Lane 0 is connected at once: a fabric port that a firewall closes is found while the caller can still be told by
 * rpmem_create or rpmem_open, and not by the first persist, whose failure ends programs. The others wait for their
 * first use. What a CREATE made is removed when a later step fails. */
#include "rpool.h"

#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "errmsg.h"
#include "log.h"
#include "poolhdr.h"

/* ---------------------------------------------------------------- errors */
static bool host_unknown(const struct target *target)
{
	struct addrinfo *found = NULL;
	int ret;

	if (target->local)
		return false;
	ret = getaddrinfo(target->host, NULL, NULL, &found);
	if (!ret)
		freeaddrinfo(found);
	return ret;
}

/* Errnos as PMDK's library gives them (include/librpmem.h). */
static int step_errno(int err, enum session_step step, const struct target *target)
{
	if (err == -ENOMEM || err == -EMFILE || err == -ENFILE)
		return err;
	switch (step) {
	case SESSION_REACH:
		return err == -EHOSTUNREACH && host_unknown(target) ? -ENOMEDIUM : err == -E2BIG ? -EINVAL : -ECONNRESET;
	case SESSION_POOL:
		return err == -EBADF || err == -ERANGE || err == -E2BIG ? -EINVAL : err == -ENOMEDIUM ? -EMEDIUMTYPE : err;
	default:
		return err;
	}
}

/* What the caller can do about a pool that the target refuses. */
static const char *remedy(int err, bool create)
{
	switch (err) {
	case -EEXIST: return "; pmempool rm or rpmem_remove(3) takes an old pool away";
	case -ENOENT: return create ? "; the pool set file and the directories of its parts are to be there first"
				    : "; check the name, or bring a lost replica back with pmempool sync";
	case -EBUSY: return "; one program at a time may use it";
	case -EFBIG: return "; its set needs larger parts";
	case -EACCES: return "; who logs in there must be allowed to read and write it";
	case -ENOSPC: return "; make room there, or name another place in the set";
	default: return "";
	}
}

/* ---------------------------------------------------------------- opening */
void rpool_attr_put(const struct rpmem_pool_attr *attr, struct ctl_attr *msg)
{
	memcpy(msg->signature, attr->signature, sizeof(msg->signature));
	msg->major = attr->major;
	msg->compat = attr->compat_features;
	msg->incompat = attr->incompat_features;
	msg->ro_compat = attr->ro_compat_features;
	memcpy(msg->poolset_uuid, attr->poolset_uuid, sizeof(msg->poolset_uuid));
	memcpy(msg->uuid, attr->uuid, sizeof(msg->uuid));
	memcpy(msg->next_uuid, attr->next_uuid, sizeof(msg->next_uuid));
	memcpy(msg->prev_uuid, attr->prev_uuid, sizeof(msg->prev_uuid));
	memcpy(msg->user_flags, attr->user_flags, sizeof(msg->user_flags));
}

static void attr_get(const struct ctl_attr *msg, struct rpmem_pool_attr *attr)
{
	memcpy(attr->signature, msg->signature, sizeof(attr->signature));
	attr->major = msg->major;
	attr->compat_features = msg->compat;
	attr->incompat_features = msg->incompat;
	attr->ro_compat_features = msg->ro_compat;
	memcpy(attr->poolset_uuid, msg->poolset_uuid, sizeof(attr->poolset_uuid));
	memcpy(attr->uuid, msg->uuid, sizeof(attr->uuid));
	memcpy(attr->next_uuid, msg->next_uuid, sizeof(attr->next_uuid));
	memcpy(attr->prev_uuid, msg->prev_uuid, sizeof(attr->prev_uuid));
	memcpy(attr->user_flags, msg->user_flags, sizeof(attr->user_flags));
}

static bool attr_is_zero(const struct ctl_attr *attr)
{
	static const struct ctl_attr zero;

	return !memcmp(attr, &zero, sizeof(zero));
}

static int sync_init(struct rpmem_pool *pool)
{
	pthread_condattr_t attr;
	int err = pthread_condattr_init(&attr);

	if (err)
		return -err;
	err = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	if (!err)
		err = pthread_cond_init(&pool->changed, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&pool->lock, NULL);
	pthread_mutex_init(&pool->control, NULL);
	return -err;
}

static void pool_free(struct rpmem_pool *pool)
{
	for (unsigned i = 0; i < pool->lane_count; i++)
		rlane_fini(&pool->lanes[i]);
	if (pool->route)
		rpool_route_put(pool, pool->route);
	pthread_cond_destroy(&pool->changed);
	pthread_mutex_destroy(&pool->lock);
	pthread_mutex_destroy(&pool->control);
	free(pool->set_name);
	free(pool->command);
	free(pool);
}

/* Room for the lanes that are asked for; those that are not granted are never touched. */
static int pool_new(const struct rpool_cfg *cfg, struct rpmem_pool **out)
{
	struct rpmem_pool *pool = NULL;
	char command[ENV_COMMAND_BYTES_MAX];
	struct env env;
	int err = env_command(command);

	if (err)
		return err;
	env_read(&env);
	if (posix_memalign((void **)&pool, 64, sizeof(*pool) + cfg->lanes * sizeof(pool->lanes[0])))
		return errmsg_set(-ENOMEM, "no memory for %u lanes", cfg->lanes);
	memset(pool, 0, sizeof(*pool) + cfg->lanes * sizeof(pool->lanes[0]));
	err = sync_init(pool);
	if (err) {
		free(pool);
		return err;
	}
	pool->base = cfg->base;
	pool->size = cfg->size;
	pool->notice_ms = env.notice_ms;
	pool->reconnect_ms = env.reconnect_ms;
	pool->window = env.work_queue;
	snprintf(pool->name, sizeof(pool->name), "%.300s %.300s", cfg->target, cfg->set_name);
	pool->set_name = strdup(cfg->set_name);
	pool->command = strdup(command);
	pool->cfg = (struct session_cfg){
		.set_name = pool->set_name,
		.command = pool->command,
		.provider = pool->provider,
		.lanes = cfg->lanes < env.lanes_max ? cfg->lanes : env.lanes_max,
		.notice_ms = env.notice_ms,
		.pool_size = cfg->size,
		.idle_ms = (env.reconnect_ms ? env.reconnect_ms : 2 * env.notice_ms) / 2,
	};
	if (!pool->set_name || !pool->command) {
		pool_free(pool);
		return errmsg_set(-ENOMEM, "no memory");
	}
	*out = pool;
	return 0;
}

/* The first session. A target that cannot use a provider is asked for the next one. */
static int session_first(struct rpmem_pool *pool, const struct rpool_cfg *cfg, struct session **out)
{
	struct deadline deadline = deadline_in(RPOOL_OPEN_MS, NULL);
	struct session_cfg first = pool->cfg;
	const char *providers[ENV_PROVIDERS_MAX];
	unsigned count = env_providers(providers);
	enum session_step step = SESSION_REACH;
	int err = -ENOMEDIUM;

	first.create = cfg->create;
	first.has_attr = cfg->create && cfg->attr;
	first.step = &step;
	if (first.has_attr)
		rpool_attr_put(cfg->attr, &first.attr);
	if (first.has_attr && attr_is_zero(&first.attr))
		first.has_attr = false;
	if (!count)
		return errmsg_set(err, "%s: no fabric provider is left here (RPMEM_ENABLE_SOCKETS, RPMEM_ENABLE_VERBS and FI_PROVIDER"
				  " allow them; verbs needs an RDMA device)", pool->name);
	for (unsigned i = 0; i < count && err == -ENOMEDIUM; i++) {
		snprintf(pool->provider, sizeof(pool->provider), "%s", providers[i]);
		err = session_open(&first, &deadline, out);
	}
	if (!err)
		return 0;
	return errmsg_set(step_errno(err, step, &first.target), "%s: %s%s", pool->name, errmsg_get(),
			  step == SESSION_POOL ? remedy(err, cfg->create) : "");
}

static int pool_adopt(struct rpmem_pool *pool, struct session *session)
{
	const struct ctl_session *info = &session->info;

	pool->remote_size = info->pool_size;
	pool->method = info->method;
	pool->domain = info->domain;
	pool->floor = attr_is_zero(&info->attr) ? 0 : POOLHDR_BYTES;
	memcpy(pool->incarnation, info->incarnation, sizeof(pool->incarnation));
	pool->lane_count = info->lanes;
	for (unsigned i = 0; i < pool->lane_count; i++)
		rlane_init(pool, i);
	return rpool_adopt(pool, session);
}

static int monitor_start(struct rpmem_pool *pool)
{
	sigset_t all, saved;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	err = pthread_create(&pool->monitor, NULL, rpool_monitor, pool);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	return err ? errmsg_set(-err, "%s: no thread", pool->name) : 0;
}

/* Lanes of it stay: they end with the handle. */
static void session_end(struct rpmem_pool *pool)
{
	struct deadline deadline = deadline_in(pool->notice_ms, NULL);

	if (pool->session)
		session_close(pool->session, &deadline);
	pool->session = NULL;
}

static int remove_by(const struct target *target, const char *command, const char *set_name, unsigned flags,
		     const struct deadline *deadline);

/* Everything behind the handshake. No reconnection yet: the caller can be told. */
static int pool_start(struct rpmem_pool *pool)
{
	uint32_t reconnect_ms = pool->reconnect_ms;
	int err;

	pool->reconnect_ms = 0;
	err = rlane_connect(&pool->lanes[0]);
	pool->reconnect_ms = reconnect_ms;
	return err ? err : monitor_start(pool);
}

/* A create that failed leaves nothing, and says why it failed, not what came of cleaning up. */
static void pool_undo(struct rpmem_pool *pool)
{
	struct deadline deadline = deadline_in(pool->notice_ms, NULL);
	char text[ERRMSG_BYTES_MAX];

	snprintf(text, sizeof(text), "%s", errmsg_get());
	if (remove_by(&pool->cfg.target, pool->command, pool->set_name, RPMEM_REMOVE_FORCE, &deadline))
		log_warn("%s: the parts of the failed create are left: %s", pool->name, errmsg_get());
	errmsg_set(0, "%s", text);
}

int rpool_open(const struct rpool_cfg *cfg, struct rpmem_pool **out, struct rpmem_pool_attr *attr)
{
	struct session *session;
	struct rpmem_pool *pool;
	struct target target;
	int err = target_parse(cfg->target, &target);

	if (err)
		return -EINVAL;
	err = pool_new(cfg, &pool);
	if (err)
		return err;
	pool->cfg.target = target;
	fab_prepare_env();
	err = session_first(pool, cfg, &session);
	if (err)
		goto free_pool;
	if (attr)
		attr_get(&session->info.attr, attr);
	err = pool_adopt(pool, session);
	if (err) {
		session_close(session, NULL);
		goto undo_create;
	}
	err = pool_start(pool);
	if (err)
		goto end_session;
	log_info("%s: %s, %u lanes, provider %s, method %s", pool->name, cfg->create ? "created" : "opened", pool->lane_count,
		 pool->provider, wire_method_name(pool->method));
	*out = pool;
	return 0;
end_session:
	rlane_fini(&pool->lanes[0]);
	session_end(pool);
undo_create:
	if (cfg->create)
		pool_undo(pool);
free_pool:
	pool_free(pool);
	return err;
}

/* ---------------------------------------------------------------- closing */
static void monitor_stop(struct rpmem_pool *pool)
{
	__atomic_store_n(&pool->cancel, true, __ATOMIC_RELEASE);
	pthread_mutex_lock(&pool->lock);
	__atomic_store_n(&pool->stop, true, __ATOMIC_RELEASE); /* also cancels a replacement */
	pthread_cond_broadcast(&pool->changed);
	pthread_mutex_unlock(&pool->lock);
	pthread_join(pool->monitor, NULL);
}

int rpool_close(struct rpmem_pool *pool)
{
	struct deadline deadline;
	struct session *session;
	int err = 0;

	monitor_stop(pool);
	for (unsigned i = 0; i < pool->lane_count; i++)
		rlane_fini(&pool->lanes[i]);
	session = pool->session;
	if (rpool_state(pool) & RPOOL_FAILED)
		err = rpool_error(pool);
	else if (rpool_state(pool) & RPOOL_LOST)
		err = errmsg_set(-ECONNRESET, "%s: the connection was lost: %s", pool->name, pool->cause);
	if (session && err) {
		session_drop(session);
	} else if (session) {
		deadline = deadline_in(pool->notice_ms, NULL);
		err = session_close(session, &deadline);
		if (err)
			err = errmsg_prefix(-ECONNRESET, "%s", pool->name);
	}
	pool_free(pool);
	return err;
}

/* ---------------------------------------------------------------- removing */
static int remove_request(struct channel *channel, const char *set_name, unsigned flags,
			  const struct deadline *deadline, enum session_step *step)
{
	struct ctl_msg hello = { .type = CTL_HELLO, .u.hello = { CTL_VERSION, CTL_VERSION, 0 } };
	struct ctl_msg msg = { .type = CTL_REMOVE, .u.remove.flags = flags }, bye = { .type = CTL_CLOSE }, answer;
	int err = channel_start(channel, deadline);

	*step = SESSION_START;
	if (!err)
		err = channel_request(channel, &hello, &answer, deadline);
	if (err)
		return err;
	*step = SESSION_POOL;
	snprintf(msg.u.remove.set_name, sizeof(msg.u.remove.set_name), "%s", set_name);
	err = channel_request(channel, &msg, &answer, deadline);
	if (!err)
		channel->farewell = channel_request(channel, &bye, &answer, deadline) == 0;
	return err;
}

static int remove_by(const struct target *target, const char *command, const char *set_name, unsigned flags,
		     const struct deadline *deadline)
{
	enum session_step step = SESSION_REACH;
	struct channel *channel;
	int err = channel_open(target, command, deadline, &channel);

	if (err)
		return step_errno(err, step, target);
	err = remove_request(channel, set_name, flags, deadline, &step);
	channel_end(channel);
	return err ? errmsg_prefix(step_errno(err, step, target), "removing %s", set_name) : 0;
}

/* A pool in use: PMDK's library gave what rpmemd --remove exits with. */
static int remove_errno(int err)
{
	return err == -EBUSY ? -EAGAIN : err;
}

int rpool_remove(const char *target_text, const char *set_name, unsigned flags)
{
	struct deadline deadline = deadline_in(RPOOL_OPEN_MS, NULL);
	char command[ENV_COMMAND_BYTES_MAX];
	struct target target;
	int err = target_parse(target_text, &target);

	if (err)
		return -EINVAL;
	err = env_command(command);
	if (!err)
		err = remove_by(&target, command, set_name, flags, &deadline);
	return err ? errmsg_prefix(remove_errno(err), "%s", target_text) : 0;
}
