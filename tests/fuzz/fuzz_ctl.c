/* Control messages, as both ends decode them. Whatever is accepted has one encoding only: encoded again it is the input. */
#include "fuzz.h"

#include "codec.h"
#include "csum.h"

#define FUZZ_TEXT(array) FUZZ_CHECK(memchr(array, 0, sizeof(array)))

static void texts_end(const struct ctl_msg *m)
{
	switch (m->type) {
	case CTL_CREATE:
	case CTL_OPEN:
		FUZZ_TEXT(m->u.open.provider);
		FUZZ_TEXT(m->u.open.set_name);
		break;
	case CTL_CREATE + CTL_ANSWER:
	case CTL_OPEN + CTL_ANSWER: FUZZ_TEXT(m->u.session.address); break;
	case CTL_REMOVE: FUZZ_TEXT(m->u.remove.set_name); break;
	case CTL_ERROR: FUZZ_TEXT(m->u.error.text); break;
	default: break;
	}
}

static void decode(const uint8_t *msg, size_t len)
{
	static uint8_t again[CTL_MSG_BYTES_MAX];
	struct ctl_msg decoded;
	size_t again_len = 0;

	if (ctl_decode(msg, len, &decoded))
		return;
	FUZZ_CHECK(len <= CTL_MSG_BYTES_MAX);
	texts_end(&decoded);
	FUZZ_CHECK(!ctl_encode(&decoded, again, &again_len));
	FUZZ_CHECK(again_len == len);
	FUZZ_CHECK(!memcmp(again, msg, len));
}

/* Magic, version, length and checksum made right: what is left is type and payload. */
static void seal(uint8_t *msg, size_t len)
{
	struct ctl_hdr_msg hdr;

	memcpy(&hdr, msg, sizeof(hdr));
	hdr.magic = le32_put(CTL_MAGIC);
	hdr.version = le16_put(CTL_VERSION);
	hdr.len = le32_put((uint32_t)(len - sizeof(hdr)));
	hdr.csum = le32_put(0);
	memcpy(msg, &hdr, sizeof(hdr));
	hdr.csum = le32_put(csum_crc32c(0, msg, len));
	memcpy(msg, &hdr, sizeof(hdr));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *msg = fuzz_copy(data, size, size);
	uint32_t payload;

	decode(msg, size);
	if (size >= sizeof(struct ctl_hdr_msg)) {
		if (!ctl_peek((const struct ctl_hdr_msg *)msg, &payload))
			FUZZ_CHECK(payload <= CTL_PAYLOAD_BYTES_MAX);
		seal(msg, size);
		decode(msg, size);
	}
	free(msg);
	return 0;
}
