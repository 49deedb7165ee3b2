#include "host/rundir.h"

#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int rundir_path(char *path, size_t size, struct err *err)
{
	const char *base = getenv("XDG_RUNTIME_DIR");
	struct stat st;
	int len = base && base[0] == '/' ? snprintf(path, size, "%s/cleave", base)
					 : snprintf(path, size, "/tmp/cleave-%u", getuid());

	if (len < 0 || (size_t)len >= size)
		return err_set(err, ENAMETOOLONG, "XDG_RUNTIME_DIR");
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_set(err, errno, "make %s", path);
	/* In /tmp anybody could have made it first: a link, or a folder of theirs. */
	if (lstat(path, &st) < 0)
		return err_set(err, errno, "look at %s", path);
	if (!S_ISDIR(st.st_mode) || st.st_uid != getuid() || st.st_mode & 077)
		return err_say(err, EPERM, "%s is not a folder that only you can enter; remove it",
			       path);
	return 0;
}
