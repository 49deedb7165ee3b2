#include "base/trace.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* See trace.h for why these are process-wide. */
_Atomic uint32_t trace_mask;
static _Atomic int trace_fd = STDERR_FILENO;

static const char *const point_names[N_TRACE_POINTS] = {
#define X(id, name, what) [TRACE_##id] = name,
	TRACE_POINTS(X)
#undef X
};

static const char *const point_texts[N_TRACE_POINTS] = {
#define X(id, name, what) [TRACE_##id] = what,
	TRACE_POINTS(X)
#undef X
};

_Static_assert(N_TRACE_POINTS <= 32, "trace_mask has a bit for each point");

void trace_print(enum trace_point p, const char *fmt, ...)
{
	char line[512];
	size_t len = (size_t)snprintf(line, sizeof(line), "%-5s ", point_names[p]);
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	len = strlen(line);
	line[len++] = '\n';
	if (write(atomic_load_explicit(&trace_fd, memory_order_relaxed), line, len) < 0)
		atomic_store(&trace_mask, 0); /* a full disk must not slow the guest for ever */
}

static int add_word(const char *word, size_t len, uint32_t *mask, struct err *err)
{
	if (len == 3 && memcmp(word, "all", 3) == 0) {
		*mask = (uint32_t)((1ull << N_TRACE_POINTS) - 1);
		return 0;
	}
	for (unsigned i = 0; i < N_TRACE_POINTS; i++) {
		if (strlen(point_names[i]) == len && memcmp(point_names[i], word, len) == 0) {
			*mask |= 1u << i;
			return 0;
		}
	}
	return err_say(err, EINVAL,
		       "there is no trace point '%.*s'; `cleave run --help` lists them, as in "
		       "--trace exc,int",
		       (int)len, word);
}

static int open_file(const char *path, size_t len, struct err *err)
{
	char name[4096];

	if (len == 0 || len >= sizeof(name))
		return err_say(err, EINVAL, "file= needs a path");
	memcpy(name, path, len);
	name[len] = 0;
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0)
		return err_set(err, errno, "open trace file %s", name);
	atomic_store(&trace_fd, fd);
	return 0;
}

int trace_setup(const char *text, struct err *err)
{
	uint32_t mask = 0;

	while (*text) {
		size_t len = strcspn(text, ",");
		int ret = strncmp(text, "file=", 5) == 0 ? open_file(text + 5, len - 5, err)
							 : add_word(text, len, &mask, err);

		if (ret < 0)
			return ret;
		text += len;
		text += *text == ',';
	}
	atomic_store(&trace_mask, mask);
	return 0;
}

void trace_list(void)
{
	for (unsigned i = 0; i < N_TRACE_POINTS; i++)
		printf("  %-7s %s\n", point_names[i], point_texts[i]);
}
