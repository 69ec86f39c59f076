/* An input taken as a list of choices: small changes of it change one choice, and whatever it is leads somewhere. */
#ifndef RPMEMFS_TESTS_DRAW_H
#define RPMEMFS_TESTS_DRAW_H

#include <stddef.h>
#include <stdint.h>

struct draw {
	const uint8_t *at;
	size_t left;
};

/* 0 .. below - 1; all zero when the input is used up. */
static inline uint32_t draw(struct draw *d, uint32_t below)
{
	uint32_t value = 0;

	for (uint32_t reach = 1; reach < below && d->left && reach; reach <<= 8, d->left--)
		value = value << 8 | *d->at++;
	return value % below;
}

#endif
