#include "cli/store.h"

#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Make all folders that path goes through; ours are private, what is there stays as it is. */
static int make_folders(char *path, struct err *err)
{
	for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = 0;

		int ret = mkdir(path, 0700) < 0 && errno != EEXIST
				  ? err_set(err, errno, "make %s", path)
				  : 0;

		*p = '/';
		if (ret < 0)
			return ret;
	}
	return 0;
}

int store_path(char *path, size_t size, struct err *err, const char *what, ...)
{
	const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
	va_list args;
	int len, more;

	if (data && data[0] == '/')
		len = snprintf(path, size, "%s/cleave/", data);
	else if (home && home[0] == '/')
		len = snprintf(path, size, "%s/.local/share/cleave/", home);
	else
		return err_say(err, ENOENT, "HOME is not set: there is no place for images");
	if (len < 0 || (size_t)len >= size)
		return err_set(err, ENAMETOOLONG, "the store's folder");
	va_start(args, what);
	more = vsnprintf(path + len, size - (size_t)len, what, args);
	va_end(args);
	if (more < 0 || (size_t)more >= size - (size_t)len)
		return err_set(err, ENAMETOOLONG, "a path in the store");
	return make_folders(path, err);
}
