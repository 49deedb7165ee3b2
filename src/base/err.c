#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int set(struct err *err, int code, bool with_errno, const char *fmt, va_list ap)
{
	if (!err)
		return -code;
	err->code = code;
	int n = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	if (with_errno && n >= 0 && (size_t)n < sizeof(err->msg)) {
		char buf[128];
		snprintf(err->msg + n, sizeof(err->msg) - (size_t)n, ": %s",
			 strerror_r(code, buf, sizeof(buf)));
	}
	return -code;
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int ret = set(err, code ? code : EINVAL, code != 0, fmt, ap);
	va_end(ap);
	return ret;
}

int err_say(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int ret = set(err, code, false, fmt, ap);
	va_end(ap);
	return ret;
}

int err_wrap(struct err *err, const char *fmt, ...)
{
	if (!err)
		return -EIO;

	char was[ERR_LEN];
	va_list ap;

	memcpy(was, err->msg, sizeof(was));
	va_start(ap, fmt);
	int n = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(err->msg))
		snprintf(err->msg + n, sizeof(err->msg) - (size_t)n, ": %s", was);
	return -err->code;
}
