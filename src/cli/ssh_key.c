/* The key by which `cleave ssh` logs in: ssh/id_ed25519 of the user's store. */
#include "base/err.h"
#include "base/own.h"
#include "cli/image.h"
#include "cli/instance.h"
#include "cli/store.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Under a name of its own first: another process may do the same. */
static int make_key(const char *path, struct err *err)
{
	char temporary[PATH_MAX], public[PATH_MAX], temporary_public[PATH_MAX];
	int len = snprintf(temporary, sizeof(temporary) - 4, "%s.%d", path, (int)getpid());

	if (len < 0 || (size_t)len >= sizeof(temporary) - 4)
		return err_set(err, ENAMETOOLONG, "make an ssh key");
	snprintf(public, sizeof(public), "%.*s.pub", (int)sizeof(public) - 5, path);
	snprintf(temporary_public, sizeof(temporary_public), "%.*s.pub", len, temporary);

	const char *const argv[] = { "ssh-keygen", "-q",     "-t", "ed25519", "-N", "",
				     "-C",	   "cleave", "-f", temporary, NULL };
	AUTO_FREE char *said = image_output(argv);

	if (!said)
		return err_say(err, ENOENT,
			       "ssh-keygen cannot make a key at %s; it is in Debian's package "
			       "openssh-client",
			       path);
	if (rename(temporary_public, public) < 0 || rename(temporary, path) < 0)
		return err_set(err, errno, "make %s", path);
	return 0;
}

char *ssh_key_public(struct err *err)
{
	char path[PATH_MAX - 8], public[PATH_MAX];
	AUTO_FREE char *line = NULL;
	size_t size = 0;
	int ret = store_path(path, sizeof(path), err, "ssh/id_ed25519");

	snprintf(public, sizeof(public), "%s.pub", path);
	if (ret == 0 && (access(path, R_OK) < 0 || access(public, R_OK) < 0))
		ret = make_key(path, err);
	if (ret < 0)
		return NULL;

	FILE *f = fopen(public, "re");
	ssize_t len = f ? getline(&line, &size, f) : -1;

	if (f)
		fclose(f);
	if (len <= 0) {
		err_set(err, errno, "read %s", public);
		return NULL;
	}
	return move_ptr(&line);
}
