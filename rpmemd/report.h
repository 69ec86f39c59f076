/* What the log (info) says about requests and sessions, in the words of PMDK's rpmemd, which scripts look for. */
#ifndef RPMEMFS_RPMEMD_REPORT_H
#define RPMEMFS_RPMEMD_REPORT_H

#include "codec.h"

/* CREATE or OPEN, before anything is done about it. */
void report_request(const struct ctl_msg *req);
/* The session that came of it. */
void report_session(const struct ctl_msg *req, const struct ctl_session *session);

#endif
