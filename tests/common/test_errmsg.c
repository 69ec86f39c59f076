/* Tests rpmem/errmsg.c. */
#include "errmsg.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

Test(errmsg, set_prefix_clear)
{
	cr_expect_str_eq(errmsg_get(), "");
	errno = EBUSY;
	cr_expect_eq(errmsg_set(-EINVAL, "part %d: %s", 3, "bad"), -EINVAL);
	cr_expect_str_eq(errmsg_get(), "part 3: bad");
	cr_expect_eq(errmsg_prefix(-EIO, "pool %s", "x"), -EIO);
	cr_expect_str_eq(errmsg_get(), "pool x: part 3: bad");
	cr_expect_eq(errno, EBUSY, "errno is libc's");
	errmsg_set(-EIO, "again: %s", errmsg_get());
	cr_expect_str_eq(errmsg_get(), "again: pool x: part 3: bad", "the old text may be an argument");
	errmsg_clear();
	cr_expect_str_eq(errmsg_get(), "");
}

Test(errmsg, long_text_is_cut)
{
	char text[2 * ERRMSG_BYTES_MAX];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	errmsg_set(-EIO, "%s", text);
	cr_expect_eq(strlen(errmsg_get()), ERRMSG_BYTES_MAX - 1);
	for (unsigned i = 0; i < 3; i++) {
		errmsg_prefix(-EIO, "y%u", i);
		cr_expect_eq(strlen(errmsg_get()), ERRMSG_BYTES_MAX - 1);
	}
	cr_expect_eq(strncmp(errmsg_get(), "y2: y1: y0: xx", 14), 0);
	errmsg_prefix(-EIO, "%s", text);
	cr_expect_eq(strlen(errmsg_get()), ERRMSG_BYTES_MAX - 1);
}

static void *other_thread(void *arg)
{
	(void)arg;
	cr_expect_str_eq(errmsg_get(), "");
	errmsg_set(-EIO, "theirs");
	return NULL;
}

Test(errmsg, one_text_per_thread)
{
	pthread_t thread;

	errmsg_set(-EIO, "ours");
	cr_assert_eq(pthread_create(&thread, NULL, other_thread, NULL), 0);
	pthread_join(thread, NULL);
	cr_expect_str_eq(errmsg_get(), "ours");
}
