/* PMDK's pool header: the first 4 KiB of each part, so that PMDK's tools recognise what is made here. Layout, checksum
 * and UUID rings as in PMDK 1.12. */
#ifndef RPMEMFS_POOLHDR_H
#define RPMEMFS_POOLHDR_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include "le.h"

#define POOLHDR_BYTES 4096u
#define POOLHDR_SIG_LEN 8u
#define POOLHDR_UUID_LEN 16u
#define POOLHDR_INCOMPAT_SINGLEHDR 1u
#define POOLHDR_INCOMPAT_CKSUM_2K 2u
#define POOLHDR_INCOMPAT_SDS 4u
#define POOLHDR_CSUM_2K_OFF 2048u /* with CKSUM_2K everything from here counts as zero */

struct poolhdr_omf {
	uint8_t signature[POOLHDR_SIG_LEN];        /*   0 */
	le32_t  major;                             /*   8 */
	le32_t  compat;                            /*  12 */
	le32_t  incompat;                          /*  16 */
	le32_t  ro_compat;                         /*  20 */
	uint8_t poolset_uuid[POOLHDR_UUID_LEN];    /*  24 */
	uint8_t uuid[POOLHDR_UUID_LEN];            /*  40 */
	uint8_t prev_part_uuid[POOLHDR_UUID_LEN];  /*  56 */
	uint8_t next_part_uuid[POOLHDR_UUID_LEN];  /*  72 */
	uint8_t prev_repl_uuid[POOLHDR_UUID_LEN];  /*  88 */
	uint8_t next_repl_uuid[POOLHDR_UUID_LEN];  /* 104 */
	le64_t  crtime;                            /* 120  seconds since 1970 */
	uint8_t arch_flags[16];                    /* 128  alignment descriptor, class, data, machine */
	uint8_t unused[1904];                      /* 144  zero */
	uint8_t unused2[1976];                     /* 2048 zero, not checksummed */
	uint8_t sds[64];                           /* 4024 shutdown state */
	le64_t  csum;                              /* 4088 Fletcher-64 of PMDK */
};
static_assert(sizeof(struct poolhdr_omf) == POOLHDR_BYTES, "poolhdr_omf size");
static_assert(offsetof(struct poolhdr_omf, crtime) == 120, "poolhdr_omf crtime");
static_assert(offsetof(struct poolhdr_omf, unused2) == 2048, "poolhdr_omf unused2");
static_assert(offsetof(struct poolhdr_omf, sds) == 4024, "poolhdr_omf sds");
static_assert(offsetof(struct poolhdr_omf, csum) == 4088, "poolhdr_omf csum");

/* What an initiator hands over and gets back: the fields of struct rpmem_pool_attr. */
struct pool_attr {
	uint8_t  signature[POOLHDR_SIG_LEN];
	uint32_t major, compat, incompat, ro_compat;
	uint8_t  poolset_uuid[POOLHDR_UUID_LEN], uuid[POOLHDR_UUID_LEN];
	uint8_t  next_uuid[POOLHDR_UUID_LEN], prev_uuid[POOLHDR_UUID_LEN];
	uint8_t  user_flags[16];
};

/* Signature, major and features of a file system's pools. */
#define POOLHDR_FS_SIGNATURE "RPMEMFS"
#define POOLHDR_FS_MAJOR 1u

/* PMDK's checksum of len bytes (multiple of 4), the 8 bytes at csum_off and all from skip_off on taken as zero. */
uint64_t poolhdr_fletcher64(const void *buf, size_t len, size_t csum_off, size_t skip_off);

void poolhdr_seal(struct poolhdr_omf *hdr);              /* stores the checksum */
bool poolhdr_sealed(const struct poolhdr_omf *hdr);      /* checksum right */
bool poolhdr_is_zero(const struct poolhdr_omf *hdr);

/* Fills the headers of all parts of one replica: features and arch flags, part ring, replica ring (own uuid where attr
 * has zeros), random uuids for parts after the first, crtime, checksum. */
void poolhdr_fill(struct poolhdr_omf *hdrs, unsigned count, const struct pool_attr *attr, bool singlehdr, uint64_t crtime);

/* Puts attr into existing headers, uuid of the first part and both rings included, keeps SINGLEHDR and crtime, reseals. */
void poolhdr_update(struct poolhdr_omf *hdrs, unsigned count, const struct pool_attr *attr);

/* Checks the headers of one replica against each other. 0, or -EINVAL with errmsg naming part index and field. */
int poolhdr_check(const struct poolhdr_omf *hdrs, unsigned count, struct pool_attr *attr);

#endif
