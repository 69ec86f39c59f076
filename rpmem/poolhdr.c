/* Pool headers as PMDK 1.12 writes them: filling, updating and checking the headers of one replica. Works on copies in
 * memory; pool.c brings them to the parts and back.
 *
 *   part ring     hdr[0].uuid -> hdr[1].uuid -> ... -> hdr[0].uuid through next_part, back through prev_part
 *   replica ring  the uuids of the replicas' first parts; equal in all headers of a replica
 *
 * The shutdown state stays zero, which is PMDK's "clean, no unsafe shutdowns known" with a right checksum of zero: crash
 * detection here is the redo chain's business. */
#include "poolhdr.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "csum.h"
#include "errmsg.h"

/* Arch flags of this machine: 4 bits of alignment - 1 for each C type, as PMDK's ALIGNMENT_DESC counts them; equal for
 * all LP64 ABIs this runs on. */
#define ARCH_ALIGNMENT_DESC 0x7f737777310ull
#define ARCH_CLASS_64 2u
#define ARCH_DATA_LE 1u
#define ARCH_DATA_BE 2u
#if defined(__x86_64__)
#define ARCH_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define ARCH_MACHINE EM_AARCH64
#elif defined(__powerpc64__)
#define ARCH_MACHINE EM_PPC64
#elif defined(__riscv)
#define ARCH_MACHINE EM_RISCV
#else
#error "machine number of this architecture is not known"
#endif

uint64_t poolhdr_fletcher64(const void *buf, size_t len, size_t csum_off, size_t skip_off)
{
	uint32_t lo = 0, hi = 0;

	assert(len % sizeof(le32_t) == 0);
	for (size_t off = 0; off < len; off += sizeof(le32_t)) {
		bool zero = off >= skip_off || (off >= csum_off && off < csum_off + sizeof(le64_t));
		le32_t word;

		memcpy(&word, (const uint8_t *)buf + off, sizeof(word));
		lo += zero ? 0 : le32_get(word);
		hi += lo;
	}
	return (uint64_t)hi << 32 | lo;
}

static uint64_t header_csum(const struct poolhdr_omf *hdr)
{
	bool half = le32_get(hdr->incompat) & POOLHDR_INCOMPAT_CKSUM_2K;

	return poolhdr_fletcher64(hdr, sizeof(*hdr), offsetof(struct poolhdr_omf, csum),
				  half ? POOLHDR_CSUM_2K_OFF : sizeof(*hdr));
}

void poolhdr_seal(struct poolhdr_omf *hdr)
{
	hdr->csum = le64_put(header_csum(hdr));
}

bool poolhdr_sealed(const struct poolhdr_omf *hdr)
{
	return le64_get(hdr->csum) == header_csum(hdr);
}

static bool is_zero(const void *bytes, size_t len)
{
	const uint8_t *at = bytes;

	return !at[0] && !memcmp(at, at + 1, len - 1);
}

bool poolhdr_is_zero(const struct poolhdr_omf *hdr)
{
	return is_zero(hdr, sizeof(*hdr));
}

static void own_arch_flags(uint8_t flags[16])
{
	const le64_t alignment = le64_put(ARCH_ALIGNMENT_DESC);
	const le16_t machine = le16_put(ARCH_MACHINE);

	memset(flags, 0, 16);
	memcpy(flags, &alignment, sizeof(alignment));
	flags[8] = ARCH_CLASS_64;
	flags[9] = __BYTE_ORDER == __LITTLE_ENDIAN ? ARCH_DATA_LE : ARCH_DATA_BE;
	memcpy(flags + 14, &machine, sizeof(machine));
}

/* dst = src, or fallback where src is zero. */
static void uuid_or(uint8_t dst[POOLHDR_UUID_LEN], const uint8_t src[POOLHDR_UUID_LEN],
		    const uint8_t fallback[POOLHDR_UUID_LEN])
{
	memcpy(dst, is_zero(src, POOLHDR_UUID_LEN) ? fallback : src, POOLHDR_UUID_LEN);
}

/* A uuid of the random kind (RFC 4122 version 4). */
static void uuid_random(uint8_t uuid[POOLHDR_UUID_LEN])
{
	csum_random(uuid, POOLHDR_UUID_LEN);
	uuid[6] = (uuid[6] & 0x0f) | 0x40;
	uuid[8] = (uuid[8] & 0x3f) | 0x80;
}

/* Stores what all headers of a replica share, links the part ring over the uuids already there, seals. */
static void apply_attr(struct poolhdr_omf *hdrs, unsigned count, const struct pool_attr *attr, bool singlehdr)
{
	uint32_t incompat = attr->incompat | (singlehdr ? POOLHDR_INCOMPAT_SINGLEHDR : 0);

	for (unsigned i = 0; i < count; i++) {
		struct poolhdr_omf *hdr = &hdrs[i];

		memcpy(hdr->signature, attr->signature, sizeof(hdr->signature));
		hdr->major = le32_put(attr->major);
		hdr->compat = le32_put(attr->compat);
		hdr->incompat = le32_put(incompat);
		hdr->ro_compat = le32_put(attr->ro_compat);
		memcpy(hdr->poolset_uuid, attr->poolset_uuid, sizeof(hdr->poolset_uuid));
		memcpy(hdr->prev_part_uuid, hdrs[(i + count - 1) % count].uuid, sizeof(hdr->prev_part_uuid));
		memcpy(hdr->next_part_uuid, hdrs[(i + 1) % count].uuid, sizeof(hdr->next_part_uuid));
		uuid_or(hdr->prev_repl_uuid, attr->prev_uuid, hdrs[0].uuid);
		uuid_or(hdr->next_repl_uuid, attr->next_uuid, hdrs[0].uuid);
		if (is_zero(attr->user_flags, sizeof(attr->user_flags)))
			own_arch_flags(hdr->arch_flags);
		else
			memcpy(hdr->arch_flags, attr->user_flags, sizeof(hdr->arch_flags));
		poolhdr_seal(hdr);
	}
}

void poolhdr_fill(struct poolhdr_omf *hdrs, unsigned count, const struct pool_attr *attr, bool singlehdr, uint64_t crtime)
{
	struct pool_attr full = *attr;

	assert(count > 0);
	assert(!singlehdr || count == 1);
	if (is_zero(full.poolset_uuid, sizeof(full.poolset_uuid)))
		uuid_random(full.poolset_uuid);
	if (is_zero(full.uuid, sizeof(full.uuid)))
		uuid_random(full.uuid);
	memset(hdrs, 0, count * sizeof(*hdrs));
	for (unsigned i = 0; i < count; i++) {
		uuid_random(hdrs[i].uuid);
		hdrs[i].crtime = le64_put(crtime);
	}
	memcpy(hdrs[0].uuid, full.uuid, sizeof(hdrs[0].uuid));
	apply_attr(hdrs, count, &full, singlehdr);
}

void poolhdr_update(struct poolhdr_omf *hdrs, unsigned count, const struct pool_attr *attr)
{
	bool singlehdr = le32_get(hdrs[0].incompat) & POOLHDR_INCOMPAT_SINGLEHDR;

	assert(count > 0);
	memcpy(hdrs[0].uuid, attr->uuid, sizeof(hdrs[0].uuid));
	apply_attr(hdrs, count, attr, singlehdr);
}

/* Every field that all headers of a replica share: one row each. */
static int check_shared(const struct poolhdr_omf *hdrs, unsigned idx)
{
#define SHARED(field) { #field, offsetof(struct poolhdr_omf, field), sizeof(hdrs->field) }
	static const struct {
		const char *name;
		size_t off, len;
	} shared[] = {
		SHARED(signature), SHARED(major), SHARED(compat), SHARED(incompat), SHARED(ro_compat),
		SHARED(poolset_uuid), SHARED(prev_repl_uuid), SHARED(next_repl_uuid), SHARED(arch_flags),
	};
#undef SHARED
	const uint8_t *first = (const uint8_t *)&hdrs[0], *this = (const uint8_t *)&hdrs[idx];

	for (size_t i = 0; i < sizeof(shared) / sizeof(shared[0]); i++)
		if (memcmp(first + shared[i].off, this + shared[i].off, shared[i].len))
			return errmsg_set(-EINVAL, "part %u: pool header: %s differs from part 0", idx, shared[i].name);
	return 0;
}

static int check_ring(const struct poolhdr_omf *hdrs, unsigned count, unsigned idx)
{
	const struct poolhdr_omf *hdr = &hdrs[idx];

	if (memcmp(hdr->prev_part_uuid, hdrs[(idx + count - 1) % count].uuid, POOLHDR_UUID_LEN))
		return errmsg_set(-EINVAL, "part %u: pool header: prev_part_uuid is not the part before", idx);
	if (memcmp(hdr->next_part_uuid, hdrs[(idx + 1) % count].uuid, POOLHDR_UUID_LEN))
		return errmsg_set(-EINVAL, "part %u: pool header: next_part_uuid is not the part behind", idx);
	return 0;
}

static void attr_get(const struct poolhdr_omf *hdr, struct pool_attr *attr)
{
	memcpy(attr->signature, hdr->signature, sizeof(attr->signature));
	attr->major = le32_get(hdr->major);
	attr->compat = le32_get(hdr->compat);
	attr->incompat = le32_get(hdr->incompat);
	attr->ro_compat = le32_get(hdr->ro_compat);
	memcpy(attr->poolset_uuid, hdr->poolset_uuid, sizeof(attr->poolset_uuid));
	memcpy(attr->uuid, hdr->uuid, sizeof(attr->uuid));
	memcpy(attr->next_uuid, hdr->next_repl_uuid, sizeof(attr->next_uuid));
	memcpy(attr->prev_uuid, hdr->prev_repl_uuid, sizeof(attr->prev_uuid));
	memcpy(attr->user_flags, hdr->arch_flags, sizeof(attr->user_flags));
}

int poolhdr_check(const struct poolhdr_omf *hdrs, unsigned count, struct pool_attr *attr)
{
	assert(count > 0);
	for (unsigned i = 0; i < count; i++) {
		if (poolhdr_is_zero(&hdrs[i]))
			return errmsg_set(-EINVAL, "part %u: pool header is zero", i);
		if (!poolhdr_sealed(&hdrs[i]))
			return errmsg_set(-EINVAL, "part %u: pool header: wrong checksum", i);
	}
	for (unsigned i = 0; i < count; i++) {
		int err = check_shared(hdrs, i);

		if (!err)
			err = check_ring(hdrs, count, i);
		if (err)
			return err;
	}
	if (count > 1 && le32_get(hdrs[0].incompat) & POOLHDR_INCOMPAT_SINGLEHDR)
		return errmsg_set(-EINVAL, "part 0: pool header: incompat says SINGLEHDR, but other parts have headers");
	attr_get(&hdrs[0], attr);
	return 0;
}
