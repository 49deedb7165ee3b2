/* What the program says to the person who runs it, on stderr. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Say one line if level is chosen. The line gets "cleave: " before and a newline behind it; it is
 * written with one write(2), and with a carriage return where the terminal is raw. Never for what
 * a guest can bring about at will: that is a trace point. Any thread.
 */
void log_say(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Choose the lowest level that is said; LOG_WARN at start. */
void log_set_level(enum log_level level);

/* Parse "error", "warn", "info" or "debug" into *level. -1 for anything else. */
int log_parse_level(const char *text, enum log_level *level);

#endif
