/* What the fuzz targets share. Each target is one file, fuzz_NAME.c, linked with libFuzzer and the parsers as they are in
 * the programs, under ASan and UBSan. Random bytes rarely carry a right checksum, so a target tries its input as it came and
 * again sealed. What must hold of anything accepted is checked by FUZZ_CHECK; a crash is whatever aborts. */
#ifndef RPMEMFS_TESTS_FUZZ_H
#define RPMEMFS_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define FUZZ_CHECK(holds)                                                                  \
	do {                                                                               \
		if (!(holds)) {                                                            \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #holds); \
			abort();                                                           \
		}                                                                          \
	} while (0)

/* len bytes, the first size of them the input, in memory of exactly that length: one byte past it is an error to ASan. */
static inline void *fuzz_copy(const uint8_t *data, size_t size, size_t len)
{
	uint8_t *copy = calloc(1, len ? len : 1);

	FUZZ_CHECK(copy);
	if (size < len ? size : len)
		memcpy(copy, data, size < len ? size : len);
	return copy;
}

/* Reads every byte: a range that is not all there is an error to ASan. */
static inline void fuzz_touch(const void *bytes, size_t len)
{
	const volatile uint8_t *at = bytes;

	for (size_t i = 0; i < len; i++)
		(void)at[i];
}

#endif
