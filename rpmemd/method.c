/* Persistency methods: where each of them proves that bytes are in the pool's persistence domain.
 *
 *            GPSPM (this CPU answers)   APM (a read behind the writes)       COMMIT (FI_COMMIT_COMPLETE of the last write)
 *   verbs    always                     memory; pmem if the administrator    never: the flag is ignored
 *                                       says so (DDIO off, or eADR)
 *   tcp      always                     never: the provider's software       memory, pmem: it writes cache lines back
 *                                       stores, and flushes nothing
 *   file     always                     never: nobody calls msync            never: nobody calls msync
 *
 * The method is wished for by the configuration: persist-method, or persist-apm as in PMDK. persist-force takes a wish for
 * the truth. */
#include "method.h"

#include <string.h>
#include "log.h"
#include "wire.h"

#define DOMAINS 3u

enum proof { NEVER, DECLARED /* the administrator says that the platform does */, ALWAYS };

static const struct {
	const char *provider;
	enum proof proof[WIRE_METHOD_LAST + 1][DOMAINS];
} proofs[] = {
	{ "verbs", {
		[WIRE_METHOD_GPSPM] = { ALWAYS, ALWAYS, ALWAYS },
		[WIRE_METHOD_APM] = { [PM_MEMORY] = ALWAYS, [PM_PMEM] = DECLARED },
	} },
	{ "tcp", {
		[WIRE_METHOD_GPSPM] = { ALWAYS, ALWAYS, ALWAYS },
		[WIRE_METHOD_COMMIT] = { [PM_MEMORY] = ALWAYS, [PM_PMEM] = ALWAYS },
	} },
};

static bool declared(const struct config *config)
{
	return config->persist_apm || config->persist_method == CONFIG_METHOD_APM;
}

static bool proves(const struct config *config, const struct method_case *at, uint32_t method)
{
	for (unsigned i = 0; i < sizeof(proofs) / sizeof(proofs[0]); i++) {
		enum proof proof = proofs[i].proof[method][at->domain];

		if (!strcmp(proofs[i].provider, at->provider))
			return proof == ALWAYS || (proof == DECLARED && declared(config));
	}
	return false;
}

/* The wish for a single method; 0 for auto. */
static uint32_t wish(const struct config *config)
{
	switch (config->persist_method) {
	case CONFIG_METHOD_GENERAL: return WIRE_METHOD_GPSPM;
	case CONFIG_METHOD_APM: return WIRE_METHOD_APM;
	case CONFIG_METHOD_COMMIT: return WIRE_METHOD_COMMIT;
	case CONFIG_METHOD_AUTO: return 0;
	case CONFIG_METHOD_UNSET: break;
	}
	return config->persist_apm ? WIRE_METHOD_APM : WIRE_METHOD_GPSPM;
}

static uint32_t best(const struct config *config, const struct method_case *at)
{
	static const uint32_t order[] = { WIRE_METHOD_APM, WIRE_METHOD_COMMIT };

	for (unsigned i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		if (at->one_sided && proves(config, at, order[i]))
			return order[i];
	}
	return WIRE_METHOD_GPSPM;
}

uint32_t method_choose(const struct config *config, const struct method_case *at)
{
	uint32_t method = wish(config);

	if (!method)
		return best(config, at);
	if (method == WIRE_METHOD_GPSPM)
		return method;
	if (!at->one_sided) {
		log_notice("persist method: %s needs one-sided writes, which there are none of here: general is used",
			method_title(method));
		return WIRE_METHOD_GPSPM;
	}
	if (proves(config, at, method))
		return method;
	if (config->persist_force) {
		log_warn("persist method: %s is forced, though it does not prove persistence with %s in the domain %s",
			method_title(method), at->provider, pm_domain_name(at->domain));
		return method;
	}
	log_notice("persist method: %s does not prove persistence with %s in the domain %s: general is used",
		method_title(method), at->provider, pm_domain_name(at->domain));
	return WIRE_METHOD_GPSPM;
}

const char *method_title(uint32_t method)
{
	switch (method) {
	case WIRE_METHOD_GPSPM: return "General Purpose Server Persistency Method";
	case WIRE_METHOD_APM: return "Appliance Persistency Method";
	case WIRE_METHOD_COMMIT: return "Commit Completion Persistency Method";
	default: return "unknown";
	}
}

const char *method_wish_title(const struct config *config)
{
	uint32_t method = wish(config);

	return method ? method_title(method) : "the best one that holds";
}

const char *method_flush_name(uint32_t method, enum pm_domain domain)
{
	if (method != WIRE_METHOD_GPSPM)
		return "none";
	switch (domain) {
	case PM_PMEM: return "pmem_persist";
	case PM_FILE: return "pmem_msync";
	case PM_MEMORY: break;
	}
	return "none";
}
