/* libfabric, first of four files: loading it and opening a provider, listening or dialling. rpmem/fabric_ep.c makes endpoints
 * and connections, rpmem/fabric_io.c moves the data, rpmem/fabric_wait.c sleeps until there is some.
 *
 * One code path serves "tcp" and "verbs": the memory registration bits a provider returns are obeyed (local buffers to be
 * registered, virtual addresses, provider keys), never its name.
 *
 * Loading costs half a second and installs signal handlers (psm's libraries); they are put back. The MR cache is switched
 * off: it widens access rights and patches munmap in the running process. */
#include "fabric_impl.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "errmsg.h"

#define FAB_API FI_VERSION(1, 17) /* newer libraries then behave like it */

/* ---------------------------------------------------------------- the library */
static struct {
	pthread_mutex_t lock;
	void *handle;
	int (*getinfo)(uint32_t, const char *, const char *, uint64_t, const struct fi_info *, struct fi_info **);
	void (*freeinfo)(struct fi_info *);
	struct fi_info *(*dupinfo)(const struct fi_info *);
	int (*fabric)(struct fi_fabric_attr *, struct fid_fabric **, void *);
	const char *(*strerror)(int);
	uint32_t (*version)(void);
	bool warm; /* the first getinfo, which installs handlers too, is behind us */
} lib = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* The signals that psm's and infinipath's libraries take over. */
static const int taken_signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGABRT, SIGINT, SIGTERM };
#define TAKEN_COUNT (sizeof(taken_signals) / sizeof(taken_signals[0]))

static void signals_save(struct sigaction saved[TAKEN_COUNT])
{
	for (size_t i = 0; i < TAKEN_COUNT; i++)
		sigaction(taken_signals[i], NULL, &saved[i]);
}

static void signals_restore(const struct sigaction saved[TAKEN_COUNT])
{
	for (size_t i = 0; i < TAKEN_COUNT; i++)
		sigaction(taken_signals[i], &saved[i], NULL);
}

void fab_prepare_env(void)
{
	setenv("FI_MR_CACHE_MAX_COUNT", "0", 0);
	setenv("IPATH_NO_BACKTRACE", "1", 0);
	setenv("HFI_NO_BACKTRACE", "1", 0);
}

static int lib_symbol(void *handle, const char *name, const char *version, void *out)
{
	void *sym = dlvsym(handle, name, version);

	if (!sym)
		return errmsg_set(-ENOMEDIUM, "libfabric.so.1 has no %s of version %s", name, version);
	memcpy(out, &sym, sizeof(sym)); /* a function pointer by way of an object pointer, as dlsym(3) shows */
	return 0;
}

static int lib_open(void)
{
	void *handle = dlopen("libfabric.so.1", RTLD_NOW | RTLD_LOCAL);
	int err;

	if (!handle)
		return errmsg_set(-ENOMEDIUM, "libfabric cannot be loaded (install libfabric1): %s", dlerror());
	err = lib_symbol(handle, "fi_getinfo", "FABRIC_1.3", &lib.getinfo);
	if (!err)
		err = lib_symbol(handle, "fi_freeinfo", "FABRIC_1.3", &lib.freeinfo);
	if (!err)
		err = lib_symbol(handle, "fi_dupinfo", "FABRIC_1.3", &lib.dupinfo);
	if (!err)
		err = lib_symbol(handle, "fi_fabric", "FABRIC_1.1", &lib.fabric);
	if (!err)
		err = lib_symbol(handle, "fi_strerror", "FABRIC_1.0", &lib.strerror);
	if (!err)
		err = lib_symbol(handle, "fi_version", "FABRIC_1.0", &lib.version);
	if (err)
		dlclose(handle);
	else
		lib.handle = handle;
	return err;
}

static struct fi_info *hints_new(const char *provider)
{
	struct fi_info *hints = lib.dupinfo(NULL);

	if (!hints)
		return NULL;
	hints->ep_attr->type = FI_EP_MSG;
	hints->caps = FI_MSG | FI_RMA;
	hints->addr_format = FI_SOCKADDR;
	hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
	hints->domain_attr->threading = FI_THREAD_SAFE;
	hints->domain_attr->resource_mgmt = FI_RM_ENABLED;
	hints->tx_attr->msg_order = FI_ORDER_WAW | FI_ORDER_RAW | FI_ORDER_SAW | FI_ORDER_SAS;
	hints->rx_attr->msg_order = hints->tx_attr->msg_order;
	hints->fabric_attr->prov_name = strdup(provider);
	if (!hints->fabric_attr->prov_name) {
		lib.freeinfo(hints);
		return NULL;
	}
	return hints;
}

/* The first getinfo loads the rest of the providers. What it finds does not matter. */
static void lib_warm(void)
{
	struct fi_info *hints = hints_new("tcp"), *info = NULL;

	if (!hints)
		return;
	if (!lib.getinfo(FAB_API, "127.0.0.1", NULL, FI_SOURCE, hints, &info))
		lib.freeinfo(info);
	lib.freeinfo(hints);
	lib.warm = true;
}

int fab_load(void)
{
	struct sigaction saved[TAKEN_COUNT];
	int err = 0;

	pthread_mutex_lock(&lib.lock);
	if (!lib.warm) {
		fab_prepare_env();
		signals_save(saved);
		if (!lib.handle)
			err = lib_open();
		if (!err)
			lib_warm();
		signals_restore(saved);
	}
	pthread_mutex_unlock(&lib.lock);
	return err;
}

const char *fab_strerror(int fi_err)
{
	return lib.strerror(fi_err);
}

void fab_freeinfo(struct fi_info *info)
{
	lib.freeinfo(info);
}

int fab_errno(ssize_t ret)
{
	int err = ret < 0 ? (int)-ret : (int)ret;

	if (err < FI_ERRNO_OFFSET)
		return err == ECANCELED || err == ENOTCONN || err == EPIPE ? -ECONNRESET : -err;
	switch (err) {
	case FI_ETRUNC:
		return -EMSGSIZE;
	case FI_ENOKEY:
		return -EACCES;
	default:
		return -EIO;
	}
}

/* ---------------------------------------------------------------- a provider, one side */
static int no_provider(const char *provider, const char *where, int ret)
{
	const char *filter = getenv("FI_PROVIDER");

	return errmsg_set(-ENOMEDIUM, "fabric provider %s cannot be used for %s: %s%s%s", provider, where,
			  lib.strerror(-ret), filter ? "; FI_PROVIDER allows only " : "", filter ? filter : "");
}

static int fab_getinfo(const char *provider, const char *node, const char *service, uint64_t flags, uint32_t format,
		       struct fi_info **info)
{
	struct fi_info *hints = hints_new(provider);
	int ret;

	if (!hints)
		return -ENOMEM;
	hints->addr_format = format;
	ret = lib.getinfo(FAB_API, node, service, flags, hints, info);
	lib.freeinfo(hints);
	return ret ? no_provider(provider, node ? node : "any address", ret) : 0;
}

static int fab_new(const char *provider, struct fi_info *info, struct fab **out)
{
	struct fab *fab = calloc(1, sizeof(*fab));
	int mode = info->domain_attr->mr_mode;
	int ret;

	if (!fab)
		return -ENOMEM;
	fab->info = info;
	snprintf(fab->provider, sizeof(fab->provider), "%s", provider);
	fab->mr_local = mode & FI_MR_LOCAL;
	fab->virt_addr = mode & FI_MR_VIRT_ADDR;
	fab->prov_key = mode & FI_MR_PROV_KEY;
	fab->own_wait = !strcmp(provider, "tcp") && FI_MAJOR(lib.version()) == 1; /* rpmem/fabric_wait.c */
	fab->inject_max = info->tx_attr->inject_size;
	fab->iov_max = info->tx_attr->rma_iov_limit < info->tx_attr->iov_limit ? info->tx_attr->rma_iov_limit :
										  info->tx_attr->iov_limit;
	fab->msg_max = info->ep_attr->max_msg_size;
	if (!fab->iov_max || fab->msg_max < FAB_RMA_CHUNK_BYTES_MAX) {
		free(fab);
		return errmsg_set(-ENOMEDIUM, "fabric provider %s is too limited", provider);
	}
	ret = lib.fabric(info->fabric_attr, &fab->fabric, NULL);
	if (ret) {
		free(fab);
		return no_provider(provider, "opening", ret);
	}
	*out = fab;
	return 0;
}

int fab_eq_open(struct fab *fab, struct fid_eq **eq)
{
	struct fi_eq_attr attr = { .wait_obj = FI_WAIT_FD };
	int ret = fi_eq_open(fab->fabric, &attr, eq, NULL);

	return ret ? errmsg_set(fab_errno(ret), "fabric event queue: %s", lib.strerror(-ret)) : 0;
}

/* verbs substitutes another address silently when it cannot use the one asked for. */
static bool address_granted(const struct fi_info *info, const char *address)
{
	const struct sockaddr *sa = info->src_addr;
	char text[INET6_ADDRSTRLEN] = "";

	if (!sa)
		return false;
	if (sa->sa_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *)sa)->sin_addr, text, sizeof(text));
	else if (sa->sa_family == AF_INET6)
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)sa)->sin6_addr, text, sizeof(text));
	return !strcmp(text, address);
}

static int listen_start(struct fab *fab, const char *address, uint16_t *port)
{
	struct sockaddr_storage addr;
	size_t len = sizeof(addr);
	int err, ret;

	err = fab_eq_open(fab, &fab->eq);
	if (err)
		return err;
	ret = fi_passive_ep(fab->fabric, fab->info, &fab->pep, NULL);
	if (!ret)
		ret = fi_pep_bind(fab->pep, &fab->eq->fid, 0);
	if (!ret)
		ret = fi_listen(fab->pep);
	if (!ret)
		ret = fi_getname(&fab->pep->fid, &addr, &len);
	if (ret)
		return errmsg_set(fab_errno(ret), "fabric provider %s cannot listen on %s: %s", fab->provider,
				  address ? address : "any address", lib.strerror(-ret));
	*port = ntohs(addr.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&addr)->sin6_port :
						   ((struct sockaddr_in *)&addr)->sin_port);
	fab->port = *port;
	fab->fds = opendir("/proc/self/fd");
	return 0;
}

int fab_listen(const char *provider, const char *address, struct fab **out, uint16_t *port)
{
	struct fi_info *info;
	struct fab *fab;
	int err = fab_load();

	if (err)
		return err;
	err = fab_getinfo(provider, address, address ? NULL : "0", FI_SOURCE, address ? FI_SOCKADDR : FI_SOCKADDR_IN,
			  &info);
	if (err)
		return err;
	if (address && !address_granted(info, address)) {
		lib.freeinfo(info);
		return errmsg_set(-EADDRNOTAVAIL, "fabric provider %s cannot listen on %s: it takes another address of this machine",
				 provider, address);
	}
	err = fab_new(provider, info, &fab);
	if (err) {
		lib.freeinfo(info);
		return err;
	}
	err = listen_start(fab, address, port);
	if (err)
		fab_close(fab);
	else
		*out = fab;
	return err;
}

int fab_dial(const char *provider, const char *host, uint16_t port, struct fab **out)
{
	char service[8];
	struct fi_info *info;
	int err = fab_load();

	if (err)
		return err;
	snprintf(service, sizeof(service), "%u", port);
	err = fab_getinfo(provider, host, service, 0, FI_SOCKADDR, &info);
	if (err)
		return err;
	err = fab_new(provider, info, out);
	if (err)
		lib.freeinfo(info);
	return err;
}

void fab_unlisten(struct fab *fab)
{
	if (fab->pep)
		fi_close(&fab->pep->fid);
	if (fab->eq)
		fi_close(&fab->eq->fid);
	if (fab->fds)
		closedir(fab->fds);
	fab->pep = NULL;
	fab->eq = NULL;
	fab->fds = NULL;
}

void fab_close(struct fab *fab)
{
	if (!fab)
		return;
	fab_unlisten(fab);
	fi_close(&fab->fabric->fid);
	lib.freeinfo(fab->info);
	free(fab);
}
