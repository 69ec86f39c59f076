/* A growable array: VEC(type) name; vec_push returns 0 or -ENOMEM and leaves the array as it was. */
#ifndef RPMEMFS_FS_VEC_H
#define RPMEMFS_FS_VEC_H

#include <errno.h>
#include <stdlib.h>

#define VEC(type)                                                                                                      \
	struct {                                                                                                       \
		type *v;                                                                                               \
		size_t n, cap;                                                                                         \
	}

static inline int vec_grow(void **v, size_t *cap, size_t need, size_t size)
{
	size_t want = *cap ? *cap : 16;
	void *p;

	if (need <= *cap)
		return 0;
	while (want < need)
		want *= 2;
	p = realloc(*v, want * size);
	if (!p)
		return -ENOMEM;
	*v = p;
	*cap = want;
	return 0;
}

/* Room for more further elements. */
#define vec_reserve(vec, more) vec_grow((void **)&(vec)->v, &(vec)->cap, (vec)->n + (more), sizeof(*(vec)->v))
#define vec_push(vec, value) (vec_reserve(vec, 1) ? -ENOMEM : ((vec)->v[(vec)->n++] = (value), 0))
#define vec_free(vec) (free((vec)->v), (vec)->v = NULL, (vec)->n = (vec)->cap = 0)

#endif
