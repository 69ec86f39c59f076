/* Pool headers of one replica's parts. What is accepted can be given other attributes, and is accepted with them. */
#include "fuzz.h"

#include "poolhdr.h"

#define PARTS_MAX 3u

static void check(const struct poolhdr_omf *hdrs, unsigned count)
{
	struct poolhdr_omf *changed;
	struct pool_attr attr, back;

	if (poolhdr_check(hdrs, count, &attr))
		return;
	FUZZ_CHECK(!memcmp(attr.signature, hdrs->signature, sizeof(attr.signature)));
	changed = fuzz_copy((const uint8_t *)hdrs, count * sizeof(*hdrs), count * sizeof(*hdrs));
	attr.major ^= 1;
	memset(attr.uuid, 0x77, sizeof(attr.uuid));
	memset(attr.next_uuid, 0x78, sizeof(attr.next_uuid));
	memset(attr.prev_uuid, 0x79, sizeof(attr.prev_uuid));
	memset(attr.user_flags, 0x7a, sizeof(attr.user_flags));
	poolhdr_update(changed, count, &attr);
	FUZZ_CHECK(!poolhdr_check(changed, count, &back));
	FUZZ_CHECK(!memcmp(&attr, &back, sizeof(attr)));
	free(changed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned count = (unsigned)((size + POOLHDR_BYTES - 1) / POOLHDR_BYTES);
	struct poolhdr_omf *hdrs;

	if (!count || count > PARTS_MAX)
		return 0;
	hdrs = fuzz_copy(data, size, count * sizeof(*hdrs));
	check(hdrs, count);
	for (unsigned i = 0; i < count; i++)
		poolhdr_seal(&hdrs[i]);
	check(hdrs, count);
	free(hdrs);
	return 0;
}
