/* One explanation per thread, in thread-local storage: no lock, no allocation, so it can be set on any failure path.
 *
 * New text is built aside and copied over, because its arguments may point into the old one. */
#include "errmsg.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char text[ERRMSG_BYTES_MAX];

int (errmsg_set)(int err, const char *fmt, ...)
{
	int saved = errno;
	char next[ERRMSG_BYTES_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(next, sizeof(next), fmt, args);
	va_end(args);
	memcpy(text, next, strlen(next) + 1);
	errno = saved;
	return err;
}

/* Adds as much of more as fits. */
static void append(char to[ERRMSG_BYTES_MAX], const char *more)
{
	size_t used = strlen(to), len = strlen(more), room = ERRMSG_BYTES_MAX - 1 - used;

	if (len > room)
		len = room;
	memcpy(to + used, more, len);
	to[used + len] = '\0';
}

int (errmsg_prefix)(int err, const char *fmt, ...)
{
	int saved = errno;
	char next[ERRMSG_BYTES_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(next, sizeof(next), fmt, args);
	va_end(args);
	append(next, ": ");
	append(next, text);
	memcpy(text, next, strlen(next) + 1);
	errno = saved;
	return err;
}

const char *errmsg_get(void)
{
	return text;
}

void errmsg_clear(void)
{
	text[0] = '\0';
}
