/* The log of every program here: one line an event, "<level> <object>: <what>", lower case, no full stop.
 * error needs a human, warn is survived, info is lifecycle, debug is the rest; nothing on the per-I/O path.
 * Any thread may log; a line is written whole. */
#ifndef RPMEMFS_LOG_H
#define RPMEMFS_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_NOTICE, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Where lines go: path NULL or "-" is stderr, "syslog:" is syslog(3), anything else a file opened for appending.
 * Before the first call lines of warn and above go to stderr. ident is kept by pointer.
 * Errors: the open(2) error of the file; the old destination stays. */
int log_open(const char *ident, const char *path, enum log_level level);
void log_close(void);

/* "err"/"error", "warn", "notice", "info", "debug"; -EINVAL for another word. */
int log_level_parse(const char *word, enum log_level *level);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_notice(...) log_write(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
