/* The explanation that goes with a negative errno: one message per thread, set where the cause is known, read where a
 * human is told. The return code stays the truth; the text only explains the newest failure of this thread. */
#ifndef RPMEMFS_ERRMSG_H
#define RPMEMFS_ERRMSG_H

#define ERRMSG_BYTES_MAX 512u

/* Stores the formatted text (cut at ERRMSG_BYTES_MAX - 1) and returns err unchanged, so that a failing function ends
 * in `return errmsg_set(-EINVAL, "%s:%u: size missing", path, line);`. Keeps libc's errno. */
int errmsg_set(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts "<formatted>: " in front of the stored text; for a caller that knows the context. Returns err unchanged. */
int errmsg_prefix(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The newest text of this thread, "" when none was set; valid until the next call above by the same thread. */
const char *errmsg_get(void);

void errmsg_clear(void);

/* What is said is a failure: clang's analyzer need not follow paths on which it returns 0. */
#ifdef __clang_analyzer__
static inline int errmsg_failure(int err)
{
	__builtin_assume(err < 0);
	return err;
}
#define errmsg_set(err, ...) errmsg_failure((errmsg_set)(err, __VA_ARGS__))
#define errmsg_prefix(err, ...) errmsg_failure((errmsg_prefix)(err, __VA_ARGS__))
#endif

#endif
