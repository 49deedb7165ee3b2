#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Process-wide on purpose, like stderr that it guards: a message has one reader, the person at the
 * terminal, however many machines the process holds.
 */
static _Atomic int chosen_level = LOG_WARN;

static const char *const level_names[] = {
	[LOG_ERROR] = "error",
	[LOG_WARN] = "warn",
	[LOG_INFO] = "info",
	[LOG_DEBUG] = "debug",
};

void log_say(enum log_level level, const char *fmt, ...)
{
	char line[1024] = "cleave: ";
	size_t len = strlen(line);
	va_list ap;

	if ((int)level > atomic_load_explicit(&chosen_level, memory_order_relaxed))
		return;
	va_start(ap, fmt);
	int n = vsnprintf(line + len, sizeof(line) - len - 2, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	len = strlen(line);
	/* A raw terminal does not return the carriage by itself; elsewhere a CR is harmless only on
	 * a terminal, so files do not get it. */
	if (isatty(STDERR_FILENO))
		line[len++] = '\r';
	line[len++] = '\n';
	if (write(STDERR_FILENO, line, len) < 0)
		return; /* nobody is left to be told */
}

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&chosen_level, level, memory_order_relaxed);
}

int log_parse_level(const char *text, enum log_level *level)
{
	for (int i = LOG_ERROR; i <= LOG_DEBUG; i++) {
		if (strcmp(text, level_names[i]) == 0) {
			*level = (enum log_level)i;
			return 0;
		}
	}
	return -1;
}
