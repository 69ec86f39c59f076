/* libfabric, second of four files: endpoints, their memory, and how they connect.
 *
 *   endpoint:  new -- connect | accept --> established -- fab_ep_shutdown, error --> down -- delete
 *
 * Each endpoint has its own domain, because newer libraries share one lock and one epoll set per domain. A target checks the
 * private data of a request before an endpoint exists, and rejects only then: a rejection after fi_endpoint is a use after
 * free in libfabric 1.17 (#8705). An endpoint that fails after that is closed, and the peer sees its connection end. */
#include "fabric_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "csum.h"
#include "errmsg.h"

/* ---------------------------------------------------------------- memory */
static int mr_register(struct fab_ep *ep, void *base, size_t len, uint64_t access, struct fid_mr **mr)
{
	uint64_t key = 0;
	int ret;

	if (!ep->fab->prov_key)
		csum_random(&key, sizeof(key)); /* knowing the key is the right to use it: never a counter */
	ret = fi_mr_reg(ep->domain, base, len, access, 0, key, 0, mr, NULL);
	return ret ? errmsg_set(fab_errno(ret), "registering %zu bytes with %s: %s%s", len, ep->fab->provider,
				fab_strerror(-ret), ret == -FI_ENOMEM ? " (locked memory limit: ulimit -l)" : "") : 0;
}

static void *pages_new(size_t bytes)
{
	void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		return NULL;
	return mem;
}

static int slots_init(struct fab_ep *ep, struct fab_slots *slots, enum fab_ctx_kind kind, unsigned count, size_t bytes)
{
	int err;

	slots->bytes = (bytes + 63) & ~(size_t)63;
	slots->count = count;
	slots->ctx = calloc(count, sizeof(*slots->ctx));
	slots->mem = pages_new(slots->bytes * count);
	if (!slots->ctx || !slots->mem)
		return errmsg_set(-ENOMEM, "no memory for %u slots of %zu bytes", count, slots->bytes);
	for (unsigned i = 0; i < count; i++)
		slots->ctx[i] = (struct fab_ctx){ kind, i };
	if (!ep->fab->mr_local)
		return 0;
	err = mr_register(ep, slots->mem, slots->bytes * count, FI_SEND | FI_RECV, &slots->mr);
	if (!err)
		slots->desc = fi_mr_desc(slots->mr);
	return err;
}

static void slots_fini(struct fab_slots *slots)
{
	if (slots->mr)
		fi_close(&slots->mr->fid);
	if (slots->mem)
		munmap(slots->mem, slots->bytes * slots->count);
	free(slots->ctx);
}

static int ring_init(struct fab_ep *ep, struct fab_ring *ring, enum fab_ctx_kind kind)
{
	int err;

	for (unsigned i = 0; i < FAB_OPS_MAX; i++)
		ring->ops[i].ctx = (struct fab_ctx){ kind, i };
	if (!ep->fab->mr_local)
		return 0;
	ring->stage = pages_new(FAB_RMA_FLIGHT_BYTES_MAX);
	if (!ring->stage)
		return -ENOMEM;
	err = mr_register(ep, ring->stage, FAB_RMA_FLIGHT_BYTES_MAX, FI_READ | FI_WRITE, &ring->mr);
	if (!err)
		ring->desc = fi_mr_desc(ring->mr);
	return err;
}

static void ring_fini(struct fab_ring *ring)
{
	if (ring->mr)
		fi_close(&ring->mr->fid);
	if (ring->stage)
		munmap(ring->stage, FAB_RMA_FLIGHT_BYTES_MAX);
}

int fab_ep_expose(struct fab_ep *ep, void *base, uint64_t len, bool write, uint64_t *raddr, uint64_t *rkey)
{
	uint64_t access = FI_REMOTE_READ | (write ? FI_REMOTE_WRITE : 0);
	int err;

	assert(!ep->pool_mr);
	err = mr_register(ep, base, len, access, &ep->pool_mr);
	if (err)
		return err;
	*raddr = ep->fab->virt_addr ? (uint64_t)(uintptr_t)base : 0;
	*rkey = fi_mr_key(ep->pool_mr);
	return 0;
}

/* ---------------------------------------------------------------- endpoints */
static int queues_open(struct fab_ep *ep)
{
	struct fi_info *info = ep->fab->info;
	struct fi_cq_attr attr = { .format = FI_CQ_FORMAT_DATA,
				   .wait_obj = ep->own_wait ? FI_WAIT_NONE : FI_WAIT_FD };
	int err, ret;

	attr.size = info->tx_attr->size + info->rx_attr->size;
	ret = fi_domain(ep->fab->fabric, info, &ep->domain, NULL);
	if (!ret)
		ret = fi_cq_open(ep->domain, &attr, &ep->cq, NULL);
	if (ret)
		return errmsg_set(fab_errno(ret), "fabric domain: %s", fab_strerror(-ret));
	err = fab_eq_open(ep->fab, &ep->eq);
	return err;
}

int fab_ep_new(struct fab *fab, const struct fab_ep_cfg *cfg, struct fab_ep **out)
{
	struct fab_ep *ep = calloc(1, sizeof(*ep));
	int err;

	if (!ep)
		return -ENOMEM;
	ep->fab = fab;
	ep->sock = ep->wait_fd = -1;
	ep->timeout_ms = cfg->timeout_ms;
	ep->commit = cfg->commit;
	ep->own_wait = fab->own_wait && !cfg->provider_wait;
	ep->spare = ep->own_wait ? FAB_RX_SPARE : 0;
	ep->late_max = cfg->rx_count + ep->spare + cfg->tx_count + 2 * FAB_OPS_MAX;
	ep->late = calloc(ep->late_max, sizeof(*ep->late));
	err = ep->late ? queues_open(ep) : -ENOMEM;
	if (!err)
		err = slots_init(ep, &ep->rx, CTX_RECV, cfg->rx_count + ep->spare, cfg->rx_bytes);
	if (!err)
		err = slots_init(ep, &ep->tx, CTX_SEND, cfg->tx_count, cfg->tx_bytes);
	if (!err && cfg->rma)
		err = ring_init(ep, &ep->writes, CTX_WRITE);
	if (!err && cfg->rma)
		err = ring_init(ep, &ep->reads, CTX_READ);
	if (err)
		fab_ep_delete(ep);
	else
		*out = ep;
	return err;
}

void fab_ep_shutdown(struct fab_ep *ep)
{
	if (!__atomic_exchange_n(&ep->down, true, __ATOMIC_ACQ_REL) && ep->enabled)
		fi_shutdown(ep->ep, 0);
}

void fab_ep_delete(struct fab_ep *ep)
{
	if (!ep)
		return;
	fab_ep_shutdown(ep);
	fab_wait_fini(ep);
	if (ep->ep)
		fi_close(&ep->ep->fid);
	if (ep->pool_mr)
		fi_close(&ep->pool_mr->fid);
	slots_fini(&ep->rx);
	slots_fini(&ep->tx);
	ring_fini(&ep->writes);
	ring_fini(&ep->reads);
	if (ep->cq)
		fi_close(&ep->cq->fid);
	if (ep->eq)
		fi_close(&ep->eq->fid);
	if (ep->domain)
		fi_close(&ep->domain->fid);
	free(ep->late);
	free(ep);
}

/* Endpoint of info on the queues, enabled, receives posted. */
static int ep_start(struct fab_ep *ep, struct fi_info *info)
{
	int ret = fi_endpoint(ep->domain, info, &ep->ep, NULL);

	if (!ret)
		ret = fi_ep_bind(ep->ep, &ep->eq->fid, 0);
	if (!ret)
		ret = fi_ep_bind(ep->ep, &ep->cq->fid, FI_TRANSMIT | FI_SELECTIVE_COMPLETION);
	if (!ret)
		ret = fi_ep_bind(ep->ep, &ep->cq->fid, FI_RECV);
	if (!ret)
		ret = fi_enable(ep->ep);
	if (ret)
		return errmsg_set(fab_errno(ret), "fabric endpoint: %s", fab_strerror(-ret));
	ep->enabled = true;
	for (unsigned i = 0; i < ep->rx.count; i++) {
		int err = fab_recv(ep, i);

		if (err)
			return err;
	}
	return 0;
}

/* ---------------------------------------------------------------- connecting */
int fab_ep_connect(struct fab_ep *ep, const void *data, size_t len)
{
	int err, ret;

	assert(len <= FAB_CM_BYTES_MAX);
	err = ep_start(ep, ep->fab->info);
	if (err)
		return err;
	ret = fi_connect(ep->ep, ep->fab->info->dest_addr, data, len);
	return ret ? errmsg_set(fab_errno(ret), "fabric connect: %s", fab_strerror(-ret)) : 0;
}

int fab_next(struct fab *fab, int timeout_ms, struct fab_request *req)
{
	char buf[sizeof(struct fi_eq_cm_entry) + 256];
	struct fi_eq_cm_entry *entry = (void *)buf;
	struct fi_eq_err_entry error = { 0 };
	uint32_t event;
	ssize_t ret = fi_eq_sread(fab->eq, &event, buf, sizeof(buf), timeout_ms, 0);

	if (ret == -FI_EAVAIL)
		fi_eq_readerr(fab->eq, &error, 0); /* a client that went away: nothing to answer */
	if (ret < (ssize_t)sizeof(*entry) || event != FI_CONNREQ)
		return -EAGAIN;
	req->info = entry->info;
	req->len = (size_t)ret - sizeof(*entry);
	if (req->len > sizeof(req->data))
		req->len = sizeof(req->data);
	memcpy(req->data, entry->data, req->len);
	return 0;
}

void fab_reject(struct fab *fab, struct fab_request *req)
{
	struct fi_info *info = req->info;

	fi_reject(fab->pep, info->handle, NULL, 0);
	fab_freeinfo(info);
}

int fab_ep_accept(struct fab_ep *ep, struct fab_request *req, const void *data, size_t len)
{
	struct fi_info *info = req->info;
	int err, ret;

	assert(len <= FAB_CM_BYTES_MAX);
	err = ep_start(ep, info);
	if (!ep->ep) /* nobody has taken the connection: the peer would wait, and its socket stay here */
		fi_reject(ep->fab->pep, info->handle, NULL, 0);
	fab_freeinfo(info);
	if (err)
		return err;
	ret = fi_accept(ep->ep, data, len);
	return ret ? errmsg_set(fab_errno(ret), "fabric accept: %s", fab_strerror(-ret)) : 0;
}

static int eq_error(struct fab_ep *ep)
{
	struct fi_eq_err_entry error = { 0 };
	int err;

	if (fi_eq_readerr(ep->eq, &error, 0) < 0)
		return errmsg_set(-EIO, "fabric event queue failed");
	err = fab_errno(error.err);
	if (!ep->connected && error.err == ECONNREFUSED)
		return errmsg_set(-EACCES, "the target refused the fabric connection");
	/* what the provider was at when it ended, not why */
	if (!ep->connected && (error.err == EINPROGRESS || err == -ECONNRESET))
		return errmsg_set(-ECONNRESET, "the peer ended the fabric connection while it was being made");
	return errmsg_set(err ? err : -EIO, "fabric connection: %s", fab_strerror(error.err));
}

int fab_eq_check(struct fab_ep *ep, int timeout_ms)
{
	char buf[sizeof(struct fi_eq_cm_entry) + 256];
	struct fi_eq_cm_entry *entry = (void *)buf;
	uint32_t event;
	ssize_t ret = timeout_ms ? fi_eq_sread(ep->eq, &event, buf, sizeof(buf), timeout_ms, 0) :
				   fi_eq_read(ep->eq, &event, buf, sizeof(buf), 0);

	if (ret == -FI_EAGAIN || ret == -FI_EINTR || ret == -FI_ETIMEDOUT)
		return 0;
	if (ret == -FI_EAVAIL)
		return eq_error(ep);
	if (ret < 0)
		return errmsg_set(fab_errno(ret), "fabric event queue: %s", fab_strerror((int)-ret));
	if (event == FI_SHUTDOWN)
		return errmsg_set(-ECONNRESET, "the peer closed the fabric connection");
	if (event == FI_CONNECTED) {
		ep->reply_len = (size_t)ret - sizeof(*entry);
		if (ep->reply_len > sizeof(ep->reply))
			ep->reply_len = sizeof(ep->reply);
		memcpy(ep->reply, entry->data, ep->reply_len);
		ep->connected = true;
	}
	return 0;
}

int fab_ep_established(struct fab_ep *ep, int timeout_ms)
{
	if (!ep->connected) {
		int err = fab_eq_check(ep, timeout_ms);

		if (err)
			return err;
		if (!ep->connected)
			return -EAGAIN;
		return fab_wait_init(ep);
	}
	return 0;
}

size_t fab_ep_reply(const struct fab_ep *ep, void *data, size_t len)
{
	if (len > ep->reply_len)
		len = ep->reply_len;
	memcpy(data, ep->reply, len);
	return len;
}
