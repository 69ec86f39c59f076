/* Where log lines go: standard error, a file, or syslog(3).
 *
 *   unopened --log_open--> opened --log_open--> opened elsewhere --log_close--> unopened
 *
 * Unopened, warn and above go to standard error. A line is built in one buffer and handed over in one write(2) to a
 * descriptor opened for appending, so lines of threads and of processes sharing a file do not mix. Text that came from a
 * peer may hold anything: control characters become '?', so that one event stays one line.
 *
 * stderr  "<ident>: <level> <text>"
 * file    "<local time> <ident>[<pid>]: <level> <text>"
 * syslog  "<level> <text>", with ident and pid by syslog itself */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "errmsg.h"

#define LOG_LINE_BYTES_MAX 1024u

enum log_sink { SINK_STDERR, SINK_FILE, SINK_SYSLOG };

static const struct {
	const char *name;
	int priority; /* of syslog(3) */
} levels[] = {
	[LOG_LEVEL_ERROR] = { "error", LOG_ERR },
	[LOG_LEVEL_WARN] = { "warn", LOG_WARNING },
	[LOG_LEVEL_NOTICE] = { "notice", LOG_NOTICE },
	[LOG_LEVEL_INFO] = { "info", LOG_INFO },
	[LOG_LEVEL_DEBUG] = { "debug", LOG_DEBUG },
};
#define LOG_LEVEL_COUNT (sizeof(levels) / sizeof(levels[0]))

/* Read without the lock, so that a line below the level costs one load. */
static _Atomic int threshold = LOG_LEVEL_WARN;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* protects sink, sink_fd, sink_ident */
static enum log_sink sink = SINK_STDERR;
static int sink_fd = STDERR_FILENO;
static const char *sink_ident;

/* Closes the present destination; standard error is left open. Called with the lock held. */
static void sink_leave(void)
{
	if (sink == SINK_FILE)
		close(sink_fd);
	else if (sink == SINK_SYSLOG)
		closelog();
	sink = SINK_STDERR;
	sink_fd = STDERR_FILENO;
}

int log_open(const char *ident, const char *path, enum log_level level)
{
	enum log_sink next = SINK_FILE;
	int fd = STDERR_FILENO;

	if (!path || !strcmp(path, "-"))
		next = SINK_STDERR;
	else if (!strcmp(path, "syslog:"))
		next = SINK_SYSLOG;

	if (next == SINK_FILE) {
		fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0640);
		if (fd < 0) {
			int err = -errno;

			return errmsg_set(err, "log file %s: %s", path, strerror(-err));
		}
	}

	pthread_mutex_lock(&lock);
	sink_leave();
	if (next == SINK_SYSLOG)
		openlog(ident, LOG_PID, LOG_DAEMON);
	sink = next;
	sink_fd = fd;
	sink_ident = ident;
	atomic_store(&threshold, (int)level);
	pthread_mutex_unlock(&lock);
	return 0;
}

void log_close(void)
{
	pthread_mutex_lock(&lock);
	sink_leave();
	sink_ident = NULL;
	atomic_store(&threshold, LOG_LEVEL_WARN);
	pthread_mutex_unlock(&lock);
}

int log_level_parse(const char *word, enum log_level *level)
{
	if (!strcmp(word, "err")) {
		*level = LOG_LEVEL_ERROR;
		return 0;
	}
	for (size_t i = 0; i < LOG_LEVEL_COUNT; i++) {
		if (strcmp(word, levels[i].name))
			continue;
		*level = (enum log_level)i;
		return 0;
	}
	return -EINVAL;
}

/* Puts what stands in front of the level into line. Called with the lock held. */
static size_t line_begin(char *line, size_t max)
{
	const char *ident = sink_ident ? sink_ident : program_invocation_short_name;
	struct timespec now;
	struct tm tm;
	size_t used;

	if (sink == SINK_SYSLOG)
		return 0;
	if (sink == SINK_STDERR)
		return (size_t)snprintf(line, max, "%.64s: ", ident);

	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	used = strftime(line, max, "%Y-%m-%dT%H:%M:%S", &tm);
	used += (size_t)snprintf(line + used, max - used, ".%03ld", now.tv_nsec / 1000000);
	used += strftime(line + used, max - used, "%z", &tm);
	return used + (size_t)snprintf(line + used, max - used, " %.64s[%d]: ", ident, (int)getpid());
}

/* Hands the line over whole. A log that cannot be written has nowhere to complain: the line is lost. */
static void line_write(const char *line, size_t len)
{
	while (len) {
		ssize_t done = write(sink_fd, line, len);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return;
		line += done;
		len -= (size_t)done;
	}
}

static void line_clean(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = '?';
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char line[LOG_LINE_BYTES_MAX], *text;
	int saved = errno;
	size_t used;
	va_list args;

	if ((int)level > atomic_load_explicit(&threshold, memory_order_relaxed))
		return;

	pthread_mutex_lock(&lock);
	used = line_begin(line, sizeof(line));
	text = line + used;
	used += (size_t)snprintf(text, sizeof(line) - used, "%s ", levels[level].name);
	va_start(args, fmt);
	vsnprintf(line + used, sizeof(line) - used - 1, fmt, args); /* one byte is kept for the line's end */
	va_end(args);
	line_clean(text);

	if (sink == SINK_SYSLOG) {
		syslog(levels[level].priority, "%s", text);
	} else {
		used = strlen(line);
		line[used++] = '\n';
		line_write(line, used);
	}
	pthread_mutex_unlock(&lock);
	errno = saved;
}
