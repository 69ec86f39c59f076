/* See known.h. One slot for each value of some bits of the hash; a newer image takes the slot of an older one. Sound as long as
 * 128 bits tell images apart and recovery depends on the image alone: the explorer's core takes no time from a clock. */
#include "known.h"

#include <string.h>
#include <sys/mman.h>
#include "trace.h"

#define SLOTS (1u << 20)

struct slot {
	struct hash128 image, state;
	uint64_t used;
};

static struct slot *slots; /* of this process: memory is taken by what is used */

static struct slot *slot_of(const struct hash128 *image)
{
	uint32_t bits;

	if (!slots) {
		slots = mmap(NULL, SLOTS * sizeof(*slots), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		EXPLORE_MUST(slots == MAP_FAILED ? -ENOMEM : 0);
	}
	memcpy(&bits, image->b, sizeof(bits));
	return &slots[bits % SLOTS];
}

bool known_find(const struct hash128 *image, struct hash128 *state)
{
	const struct slot *s = slot_of(image);

	if (!s->used || memcmp(&s->image, image, sizeof(*image)) != 0)
		return false;
	*state = s->state;
	return true;
}

void known_add(const struct hash128 *image, const struct hash128 *state)
{
	*slot_of(image) = (struct slot){ .image = *image, .state = *state, .used = 1 };
}
