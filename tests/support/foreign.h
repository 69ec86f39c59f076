/* Another history for one copy. */
#ifndef RPMEMFS_TESTS_FOREIGN_H
#define RPMEMFS_TESTS_FOREIGN_H

#include <criterion/criterion.h>
#include "copy.h"
#include "errmsg.h"
#include "redo.h"

/* A commit that no other copy ever sees. */
static inline void foreign_commit(struct pm *where, uint64_t time_ns)
{
	struct copy_point at;
	struct redo_builder *b;
	struct hash128 after;
	struct copy *other;
	const void *rec;
	uint32_t len;

	cr_assert_eq(copy_open(where, false, &other), 0, "%s", errmsg_get());
	at = copy_head(other);
	cr_assert_eq(redo_builder_new(1u << 20, copy_geom(other)->pool_seed, &b), 0);
	redo_begin(b);
	cr_assert_eq(redo_finish(b, at.seq + 1, at.epoch, &at.hash, time_ns, &rec, &len, &after), 0);
	cr_assert_eq(copy_append(other, rec, len), 0, "%s", errmsg_get());
	redo_builder_delete(b);
	copy_close(other);
}

#endif
