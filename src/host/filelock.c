#include "host/filelock.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#define BASE_DOES	100
#define BASE_BEARS_NONE 200

/* QEMU's BLK_PERM_*, as bit numbers. */
enum { PERM_CONSISTENT_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3, N_PERMS = 4 };

#define READER_DOES BIT(PERM_CONSISTENT_READ)
#define WRITER_DOES (BIT(PERM_CONSISTENT_READ) | BIT(PERM_WRITE) | BIT(PERM_RESIZE))
#define BEARS_NONE  (BIT(PERM_WRITE) | BIT(PERM_RESIZE))

static int lock_byte(int fd, int cmd, short type, off_t at, struct flock *l)
{
	*l = (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };
	return fcntl(fd, cmd, l) < 0 ? -errno : 0;
}

static int lock_bytes(int fd, off_t base, uint64_t mask)
{
	struct flock l;

	for (unsigned i = 0; i < N_PERMS; i++) {
		if (!(mask & BIT(i)))
			continue;

		int ret = lock_byte(fd, F_OFD_SETLK, F_RDLCK, base + i, &l);

		if (ret < 0)
			return ret;
	}
	return 0;
}

/* Whether somebody else has a lock on one of the bytes. */
static int others(int fd, off_t base, uint64_t mask)
{
	struct flock l;

	for (unsigned i = 0; i < N_PERMS; i++) {
		if (!(mask & BIT(i)))
			continue;

		int ret = lock_byte(fd, F_OFD_GETLK, F_WRLCK, base + i, &l);

		if (ret < 0)
			return ret;
		if (l.l_type != F_UNLCK)
			return -EBUSY;
	}
	return 0;
}

static void unlock(int fd)
{
	struct flock l = { .l_type = F_UNLCK,
			   .l_whence = SEEK_SET,
			   .l_start = BASE_DOES,
			   .l_len = BASE_BEARS_NONE + N_PERMS - BASE_DOES };

	(void)!fcntl(fd, F_OFD_SETLK, &l);
}

static int try_lock(int fd, bool writer)
{
	uint64_t does = writer ? WRITER_DOES : READER_DOES;
	int ret = lock_bytes(fd, BASE_DOES, does);

	if (ret == 0)
		ret = lock_bytes(fd, BASE_BEARS_NONE, BEARS_NONE);
	/* What others do that we do not bear, then what we do that they do not bear. Two that
	 * come at once both lock first, so at least one of them sees the other. */
	if (ret == 0)
		ret = others(fd, BASE_DOES, BEARS_NONE);
	if (ret == 0)
		ret = others(fd, BASE_BEARS_NONE, does);
	if (ret < 0)
		unlock(fd);
	return ret;
}

/* A program that was killed holds its locks a moment longer, while the kernel ends its I/O: one
 * that is started in its place waits for that. */
#define TRIES  50
#define TRY_NS 20000000

int filelock_take(int fd, bool writer, const char *name, struct err *err)
{
	int ret = try_lock(fd, writer);

	for (unsigned n = 1; ret == -EBUSY && n < TRIES; n++) {
		nanosleep(&(struct timespec){ .tv_nsec = TRY_NS }, NULL);
		ret = try_lock(fd, writer);
	}
	if (ret == 0)
		return 0;
	if (ret == -EBUSY || ret == -EAGAIN || ret == -EACCES)
		return err_say(err, EBUSY, "%s is in use: another Cleave or QEMU has it open%s",
			       name, writer ? "" : " for writing");
	log_say(LOG_WARN, "%s cannot be locked here: see that nothing else writes to it", name);
	return 0;
}
