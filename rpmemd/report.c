/* Log lines about requests and sessions: a heading, then one fact a line, indented by four blanks. */
#include "report.h"

#include <inttypes.h>
#include <string.h>
#include "log.h"
#include "method.h"

#define UUID_TEXT_BYTES 37u

/* As PMDK's tools print it: the first three groups are numbers of a little-endian machine. */
static const char *uuid_text(const uint8_t uuid[16], char text[UUID_TEXT_BYTES])
{
	static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
	char *at = text;

	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*at++ = '-';
		at += snprintf(at, 3, "%02x", uuid[order[i]]);
	}
	return text;
}

/* Nothing for a pool without headers. */
static void report_attr(const struct ctl_attr *attr)
{
	static const struct ctl_attr none;
	char text[UUID_TEXT_BYTES];

	if (!memcmp(attr, &none, sizeof(none)))
		return;
	log_info("pool attributes:");
	log_info("    signature: '%.8s'", (const char *)attr->signature);
	log_info("    major: %u", attr->major);
	log_info("    compat_features: 0x%x", attr->compat);
	log_info("    incompat_features: 0x%x", attr->incompat);
	log_info("    ro_compat_features: 0x%x", attr->ro_compat);
	log_info("    poolset_uuid: %s", uuid_text(attr->poolset_uuid, text));
	log_info("    uuid: %s", uuid_text(attr->uuid, text));
	log_info("    next_uuid: %s", uuid_text(attr->next_uuid, text));
	log_info("    prev_uuid: %s", uuid_text(attr->prev_uuid, text));
}

void report_request(const struct ctl_msg *req)
{
	const struct ctl_open *open = &req->u.open;

	log_info("%s request:", req->type == CTL_CREATE ? "create" : "open");
	log_info("    pool descriptor: '%s'", open->set_name);
	log_info("    pool size: %" PRIu64, open->pool_size);
	log_info("    nlanes: %u", open->lanes);
	log_info("    provider: %s", open->provider);
	log_info("    buff_size: %u", LANE_MSG_BYTES_MAX);
	if (req->type == CTL_CREATE)
		report_attr(&open->attr);
}

void report_session(const struct ctl_msg *req, const struct ctl_session *session)
{
	if (req->type == CTL_OPEN)
		report_attr(&session->attr);
	log_info("persistency policy:");
	log_info("    persist method: %s", method_title(session->method));
	log_info("    persist flush: %s", method_flush_name(session->method, (enum pm_domain)session->domain));
	log_info("session:");
	log_info("    pool size: %" PRIu64, session->pool_size);
	log_info("    nlanes: %u", session->lanes);
	log_info("    port: %u", session->port);
	log_info("    silence: %u ms", session->idle_ms);
}
