/* The grammar of targets. Strict: what ssh could take for an option or a second word is refused here. */
#include "target.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include "errmsg.h"

static int word_copy(const char *text, const char *what, const char *from, size_t len, char *to, size_t to_bytes)
{
	if (!len)
		return errmsg_set(-EINVAL, "target '%s': %s is empty", text, what);
	if (len >= to_bytes)
		return errmsg_set(-ENAMETOOLONG, "target '%s': %s is longer than %zu bytes", text, what, to_bytes - 1);
	if (*from == '-')
		return errmsg_set(-EINVAL, "target '%s': %s starts with '-'", text, what);
	for (size_t i = 0; i < len; i++)
		if (!isgraph((unsigned char)from[i]) || strchr("@[]/", from[i]))
			return errmsg_set(-EINVAL, "target '%s': bad character in %s", text, what);
	memcpy(to, from, len);
	to[len] = '\0';
	return 0;
}

static int port_parse(const char *text, const char *digits, uint16_t *port)
{
	unsigned value = 0;
	size_t len = strlen(digits);

	for (size_t i = 0; i < len && i < 6; i++)
		value = isdigit((unsigned char)digits[i]) ? value * 10 + (unsigned)(digits[i] - '0') : 100000;
	if (!len || len > 5 || !value || value > UINT16_MAX)
		return errmsg_set(-EINVAL, "target '%s': port must be a number within 1..65535", text);
	*port = (uint16_t)value;
	return 0;
}

/* Finds the end of the host and the port behind it, NULL when there is none. */
static int host_split(const char *text, const char **host, size_t *len, const char **port)
{
	const char *colon;

	*port = NULL;
	if (**host == '[') {
		const char *close = strchr(*host, ']');

		if (!close || (close[1] && close[1] != ':'))
			return errmsg_set(-EINVAL, "target '%s': ']' missing or not last", text);
		(*host)++;
		*len = (size_t)(close - *host);
		if (close[1])
			*port = close + 2;
		return 0;
	}
	colon = strchr(*host, ':');
	*len = colon && !strchr(colon + 1, ':') ? (size_t)(colon - *host) : strlen(*host);
	if (*len != strlen(*host))
		*port = colon + 1;
	return 0;
}

int target_parse(const char *text, struct target *target)
{
	struct target parsed = { 0 };
	const char *at = strchr(text, '@'), *host = at ? at + 1 : text, *port;
	size_t host_len = 0;
	int err = 0;

	if (!strcmp(text, "@local")) {
		*target = (struct target){ .local = true };
		return 0;
	}
	if (at)
		err = word_copy(text, "user", text, (size_t)(at - text), parsed.user, sizeof(parsed.user));
	if (!err)
		err = host_split(text, &host, &host_len, &port);
	if (!err)
		err = word_copy(text, "host", host, host_len, parsed.host, sizeof(parsed.host));
	if (!err && port)
		err = port_parse(text, port, &parsed.port);
	if (!err)
		*target = parsed;
	return err;
}
