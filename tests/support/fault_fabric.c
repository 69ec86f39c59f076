/* Faults of libfabric: FAULT_POST, FAULT_WAIT and FAULT_EVENT of faults.h, between our code and the library.
 *
 * Linked with -Wl,--wrap=dlvsym it hands out another fi_getinfo and fi_fabric. What fi_fabric opens gets tables of
 * operations in which ours stand before the provider's, and so does what is opened by those. Calls that the library
 * makes among its own parts do not come from our binary and are passed on. One provider is used, so each kind of
 * object has one table of it. */
#include <netinet/in.h>
#include <pthread.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "faults.h"

#define SLEEP_MS_MAX 1
#define FDS_MAX 512

static bool fails(enum fault_kind kind, const void *site)
{
	extern const char __executable_start[], etext[];

	return (const char *)site >= __executable_start && (const char *)site < etext && fault_at(kind, site);
}

/* HOOK(kind, result type, table, operation, parameters, arguments) */
#define HOOK(kind, type, table, op, params, args)                     \
	static type table##_##op params                               \
	{                                                             \
		if (fails(kind, __builtin_return_address(0)))         \
			return -FI_EIO;                               \
		return table.theirs.op args;                          \
	}

#define TABLE(type, table)        \
	static struct {           \
		bool known;       \
		struct type theirs, ours; \
	} table

/* Puts our table in the place of the provider's; the first time *first is true and the caller fills ours. */
#define TAKE(table, ops, ...)                                               \
	do {                                                                \
		if (!table.known) {                                         \
			table.known = true;                                 \
			memcpy(&table.theirs, ops, sizeof(table.theirs));   \
			table.ours = table.theirs;                          \
			__VA_ARGS__;                                        \
		}                                                           \
		ops = &table.ours;                                          \
	} while (0)

static pthread_mutex_t take_lock = PTHREAD_MUTEX_INITIALIZER;

TABLE(fi_ops_fabric, fab);
TABLE(fi_ops_domain, dom);
TABLE(fi_ops_mr, mem);
TABLE(fi_ops, pep_fid);
TABLE(fi_ops_cm, pep_cm);
TABLE(fi_ops, ep_fid);
TABLE(fi_ops_cm, ep_cm);
TABLE(fi_ops_msg, msg);
TABLE(fi_ops_rma, rma);
TABLE(fi_ops_cq, cq);
TABLE(fi_ops_eq, eq);

/* ---------------------------------------------------------------- posting */
HOOK(FAULT_POST, ssize_t, msg, recv,
     (struct fid_ep *ep, void *buf, size_t len, void *desc, fi_addr_t from, void *ctx),
     (ep, buf, len, desc, from, ctx))
HOOK(FAULT_POST, ssize_t, msg, sendmsg, (struct fid_ep *ep, const struct fi_msg *m, uint64_t flags),
     (ep, m, flags))
HOOK(FAULT_POST, ssize_t, msg, inject, (struct fid_ep *ep, const void *buf, size_t len, fi_addr_t to),
     (ep, buf, len, to))
HOOK(FAULT_POST, ssize_t, rma, writemsg, (struct fid_ep *ep, const struct fi_msg_rma *m, uint64_t flags),
     (ep, m, flags))
HOOK(FAULT_POST, ssize_t, rma, readmsg, (struct fid_ep *ep, const struct fi_msg_rma *m, uint64_t flags),
     (ep, m, flags))

/* ---------------------------------------------------------------- waiting */
static _Thread_local bool error_waits; /* the error entry that a queue speaks of is ours */

/* A connection that was begun, and not asked for when listening ends, is never freed by libfabric 1.17. */
extern void __lsan_disable(void) __attribute__((weak));
extern void __lsan_enable(void) __attribute__((weak));

static ssize_t uncounted(ssize_t ret)
{
	if (__lsan_enable)
		__lsan_enable();
	return ret;
}

#define QUEUE(table, op, params, args)                                \
	static ssize_t table##_##op params                            \
	{                                                             \
		const void *site = __builtin_return_address(0);       \
		if (fails(FAULT_WAIT, site))                          \
			return -FI_EIO;                               \
		error_waits = fails(FAULT_EVENT, site);               \
		if (error_waits)                                      \
			return -FI_EAVAIL;                            \
		if (__lsan_disable)                                   \
			__lsan_disable();                             \
		return uncounted(table.theirs.op args);               \
	}

QUEUE(cq, read, (struct fid_cq *q, void *buf, size_t count), (q, buf, count))
QUEUE(cq, sread, (struct fid_cq *q, void *buf, size_t count, const void *cond, int timeout),
      (q, buf, count, cond, timeout))
QUEUE(eq, read, (struct fid_eq *q, uint32_t *event, void *buf, size_t len, uint64_t flags),
      (q, event, buf, len, flags))
/* Nobody relies on a sleep to last: short ones make a session's end, which waits for the one that accepts, short. */
QUEUE(eq, sread, (struct fid_eq *q, uint32_t *event, void *buf, size_t len, int timeout, uint64_t flags),
      (q, event, buf, len, timeout < SLEEP_MS_MAX ? timeout : SLEEP_MS_MAX, flags))

static ssize_t cq_readerr(struct fid_cq *q, struct fi_cq_err_entry *entry, uint64_t flags)
{
	if (!error_waits)
		return cq.theirs.readerr(q, entry, flags);
	*entry = (struct fi_cq_err_entry){ .err = FI_ECONNABORTED };
	error_waits = false;
	return 1;
}

static ssize_t eq_readerr(struct fid_eq *q, struct fi_eq_err_entry *entry, uint64_t flags)
{
	if (!error_waits)
		return eq.theirs.readerr(q, entry, flags);
	*entry = (struct fi_eq_err_entry){ .err = FI_ECONNABORTED };
	error_waits = false;
	return sizeof(*entry);
}

/* ---------------------------------------------------------------- making, connecting */
HOOK(FAULT_POST, int, ep_fid, bind, (struct fid *fid, struct fid *to, uint64_t flags), (fid, to, flags))
HOOK(FAULT_POST, int, ep_fid, control, (struct fid *fid, int command, void *arg), (fid, command, arg))
HOOK(FAULT_POST, int, ep_cm, connect, (struct fid_ep *ep, const void *addr, const void *data, size_t len),
     (ep, addr, data, len))
HOOK(FAULT_POST, int, ep_cm, accept, (struct fid_ep *ep, const void *data, size_t len), (ep, data, len))
HOOK(FAULT_POST, int, ep_cm, getname, (fid_t fid, void *addr, size_t *len), (fid, addr, len))
HOOK(FAULT_POST, int, ep_cm, getpeer, (struct fid_ep *ep, void *addr, size_t *len), (ep, addr, len))
HOOK(FAULT_POST, int, pep_fid, bind, (struct fid *fid, struct fid *to, uint64_t flags), (fid, to, flags))
HOOK(FAULT_POST, int, pep_cm, listen, (struct fid_pep *pep), (pep))

static _Thread_local uint16_t listened; /* network order */

static int pep_cm_getname(fid_t fid, void *addr, size_t *len)
{
	int ret = fails(FAULT_POST, __builtin_return_address(0)) ? -FI_EIO : pep_cm.theirs.getname(fid, addr, len);

	if (!ret)
		listened = ((const struct sockaddr_in *)addr)->sin_port;
	return ret;
}

void fault_connections_end(void)
{
	struct sockaddr_in name;

	for (int fd = 3; listened && fd < FDS_MAX; fd++) {
		socklen_t len = sizeof(name);

		if (!getsockname(fd, (struct sockaddr *)&name, &len) && name.sin_family == AF_INET && name.sin_port == listened)
			close(fd);
	}
}

HOOK(FAULT_POST, int, mem, reg,
     (struct fid *fid, const void *buf, size_t len, uint64_t access, uint64_t off, uint64_t key, uint64_t flags,
      struct fid_mr **mr, void *ctx),
     (fid, buf, len, access, off, key, flags, mr, ctx))

/* OPEN(table, operation, parameters, arguments, the tables of what was opened taken) */
#define OPEN(table, op, params, args, ...)                       \
	static int table##_##op params                                \
	{                                                             \
		int ret;                                              \
		if (fails(FAULT_POST, __builtin_return_address(0)))   \
			return -FI_EIO;                               \
		ret = table.theirs.op args;                           \
		pthread_mutex_lock(&take_lock);                       \
		if (!ret) {                                           \
			__VA_ARGS__                                   \
		}                                                     \
		pthread_mutex_unlock(&take_lock);                     \
		return ret;                                           \
	}

OPEN(dom, cq_open, (struct fid_domain *d, struct fi_cq_attr *attr, struct fid_cq **q, void *ctx), (d, attr, q, ctx),
     TAKE(cq, (*q)->ops, cq.ours.read = cq_read, cq.ours.sread = cq_sread, cq.ours.readerr = cq_readerr);)

OPEN(dom, endpoint, (struct fid_domain *d, struct fi_info *info, struct fid_ep **ep, void *ctx), (d, info, ep, ctx),
     TAKE(ep_fid, (*ep)->fid.ops, ep_fid.ours.bind = ep_fid_bind, ep_fid.ours.control = ep_fid_control);
     TAKE(ep_cm, (*ep)->cm, ep_cm.ours.connect = ep_cm_connect, ep_cm.ours.accept = ep_cm_accept,
	  ep_cm.ours.getname = ep_cm_getname, ep_cm.ours.getpeer = ep_cm_getpeer);
     TAKE(msg, (*ep)->msg, msg.ours.recv = msg_recv, msg.ours.sendmsg = msg_sendmsg, msg.ours.inject = msg_inject);
     TAKE(rma, (*ep)->rma, rma.ours.writemsg = rma_writemsg, rma.ours.readmsg = rma_readmsg);)

OPEN(fab, domain, (struct fid_fabric *f, struct fi_info *info, struct fid_domain **d, void *ctx), (f, info, d, ctx),
     TAKE(dom, (*d)->ops, dom.ours.cq_open = dom_cq_open, dom.ours.endpoint = dom_endpoint);
     TAKE(mem, (*d)->mr, mem.ours.reg = mem_reg);)

OPEN(fab, passive_ep, (struct fid_fabric *f, struct fi_info *info, struct fid_pep **pep, void *ctx),
     (f, info, pep, ctx),
     TAKE(pep_fid, (*pep)->fid.ops, pep_fid.ours.bind = pep_fid_bind);
     TAKE(pep_cm, (*pep)->cm, pep_cm.ours.listen = pep_cm_listen, pep_cm.ours.getname = pep_cm_getname);)

OPEN(fab, eq_open, (struct fid_fabric *f, struct fi_eq_attr *attr, struct fid_eq **q, void *ctx), (f, attr, q, ctx),
     TAKE(eq, (*q)->ops, eq.ours.read = eq_read, eq.ours.sread = eq_sread, eq.ours.readerr = eq_readerr);)

/* ---------------------------------------------------------------- the library's own functions */
typedef int getinfo_fn(uint32_t, const char *, const char *, uint64_t, const struct fi_info *, struct fi_info **);
typedef int fabric_fn(struct fi_fabric_attr *, struct fid_fabric **, void *);

static getinfo_fn *their_getinfo;
static fabric_fn *their_fabric;

static int our_getinfo(uint32_t version, const char *node, const char *service, uint64_t flags,
		       const struct fi_info *hints, struct fi_info **info)
{
	if (fails(FAULT_POST, __builtin_return_address(0)))
		return -FI_EIO;
	return their_getinfo(version, node, service, flags, hints, info);
}

static int our_fabric(struct fi_fabric_attr *attr, struct fid_fabric **out, void *ctx)
{
	int ret;

	if (fails(FAULT_POST, __builtin_return_address(0)))
		return -FI_EIO;
	ret = their_fabric(attr, out, ctx);
	if (ret)
		return ret;
	pthread_mutex_lock(&take_lock);
	TAKE(fab, (*out)->ops, fab.ours.domain = fab_domain, fab.ours.passive_ep = fab_passive_ep,
	     fab.ours.eq_open = fab_eq_open);
	pthread_mutex_unlock(&take_lock);
	return 0;
}

static void *instead(void *theirs, const char *name)
{
	getinfo_fn *getinfo = our_getinfo;
	fabric_fn *fabric = our_fabric;
	void *ours = theirs;

	if (!strcmp(name, "fi_getinfo")) {
		memcpy(&their_getinfo, &theirs, sizeof(theirs));
		memcpy(&ours, &getinfo, sizeof(ours));
	} else if (!strcmp(name, "fi_fabric")) {
		memcpy(&their_fabric, &theirs, sizeof(theirs));
		memcpy(&ours, &fabric, sizeof(ours));
	}
	return ours;
}

void *__real_dlvsym(void *handle, const char *name, const char *version);
void *__wrap_dlvsym(void *handle, const char *name, const char *version);
void *__wrap_dlvsym(void *handle, const char *name, const char *version)
{
	void *theirs = fault_now(FAULT_POST) ? NULL : __real_dlvsym(handle, name, version);

	return theirs ? instead(theirs, name) : NULL;
}

void *__real_dlopen(const char *name, int flags);
void *__wrap_dlopen(const char *name, int flags);
void *__wrap_dlopen(const char *name, int flags)
{
	return fault_now(FAULT_POST) ? NULL : __real_dlopen(name, flags);
}
