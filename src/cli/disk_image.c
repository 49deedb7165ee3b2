#include "cli/disk_image.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/cli.h"
#include "dev/backend/qcow2/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

int disk_source_format(const struct disk_args *a, const char *path, enum blk_format *format,
		       struct err *err)
{
	*format = BLK_RAW;
	if (a->format && !blk_format_parse(a->format, format))
		return err_say(err, EINVAL,
			       "--format: '%s' is not raw or qcow2, as in --format qcow2",
			       a->format);
	if (!a->format && qcow2_has_magic(path))
		return err_say(err, EINVAL,
			       "%s looks like qcow2: say --format qcow2, or --format raw to take "
			       "its bytes as they are",
			       path);
	return 0;
}

int disk_parse_size(const char *text, uint64_t *bytes, struct err *err)
{
	if (parse_bytes(text, bytes) < 0 || *bytes > BLK_MAX_BYTES)
		return err_say(err, EINVAL, "'%s' is not a size, as in 10G", text);
	*bytes = ALIGN_UP(*bytes, BLK_SECTOR);
	return 0;
}

static int make_temporary(struct new_file *f, struct err *err)
{
	const char *slash = strrchr(f->name, '/');
	int folder = slash ? (int)(slash - f->name) + 1 : 0;
	mode_t mask = umask(0);
	int fd;

	umask(mask);
	if (asprintf(&f->temporary, "%.*s.%s.XXXXXX", folder, f->name, f->name + folder) < 0) {
		f->temporary = NULL;
		return err_set(err, ENOMEM, "make %s", f->name);
	}
	fd = mkostemp(f->temporary, O_CLOEXEC);
	if (fd < 0) {
		int code = errno;

		free(f->temporary);
		f->temporary = NULL;
		return err_set(err, code, "make %s", f->name);
	}
	(void)!fchmod(fd, 0666 & ~mask);
	close(fd);
	return 0;
}

int new_file_begin(struct new_file *f, const char *name, bool force, struct err *err)
{
	struct stat st;
	int ret;

	*f = (struct new_file){ .name = name, .force = force };
	if (lstat(name, &st) == 0) {
		if (!force)
			return err_say(err, EEXIST, "%s is there already; --force replaces it",
				       name);
		if (!S_ISREG(st.st_mode))
			return err_say(err, EEXIST, "%s is no file that could be replaced", name);
	}
	sigemptyset(&f->signals);
	sigaddset(&f->signals, SIGINT);
	sigaddset(&f->signals, SIGTERM);
	sigaddset(&f->signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &f->signals, NULL);
	ret = make_temporary(f, err);
	if (ret < 0)
		pthread_sigmask(SIG_UNBLOCK, &f->signals, NULL);
	return ret;
}

bool new_file_stopped(struct new_file *f)
{
	struct timespec now = { 0 };

	if (!f->got) {
		int sig = sigtimedwait(&f->signals, NULL, &now);

		f->got = MAX(sig, 0);
	}
	return f->got != 0;
}

static int give_name(struct new_file *f, struct err *err)
{
	unsigned flags = f->force ? 0 : RENAME_NOREPLACE;
	int ret = renameat2(AT_FDCWD, f->temporary, AT_FDCWD, f->name, flags);

	/* Not all file systems know the flag. */
	if (ret < 0 && errno == EINVAL && flags)
		ret = access(f->name, F_OK) == 0 ? (errno = EEXIST, -1)
						 : rename(f->temporary, f->name);
	return ret < 0 ? err_set(err, errno, "name %s", f->name) : 0;
}

int new_file_end(struct new_file *f, int ret, struct err *err)
{
	if (new_file_stopped(f))
		ret = 128 + f->got;
	if (ret == 0)
		ret = give_name(f, err);
	if (ret != 0)
		unlink(f->temporary);
	free(f->temporary);
	pthread_sigmask(SIG_UNBLOCK, &f->signals, NULL);
	return ret;
}

static int parse_options(const struct disk_args *a, struct qcow2_options *o, struct err *err)
{
	uint64_t cluster = 65536;
	unsigned n;

	if (a->cluster_size && (parse_bytes(a->cluster_size, &cluster) < 0 ||
				cluster & (cluster - 1) || cluster < 512 || cluster > 2 * MiB))
		return err_say(
			err, EINVAL,
			"--cluster-size: '%s' is not a power of two from 512 to 2M, as in --cluster-size 64K",
			a->cluster_size);
	o->cluster_bits = (unsigned)__builtin_ctzll(cluster);
	o->version = 3;
	if (a->compat && parse_number(a->compat, 2, 3, &o->version) < 0)
		return err_say(err, EINVAL, "--compat: '%s' is not 2 or 3, as in --compat 3",
			       a->compat);
	o->refcount_bits = 16;
	if (a->refcount_bits && parse_number(a->refcount_bits, 1, 64, &n) < 0)
		return err_say(
			err, EINVAL,
			"--refcount-bits: '%s' is not a number from 1 to 64, as in --refcount-bits 16",
			a->refcount_bits);
	if (a->refcount_bits)
		o->refcount_bits = n;
	o->backing = a->backing_file;
	o->backing_format = a->backing_format;
	return 0;
}

int disk_make(const struct disk_args *a, const char *path, enum blk_format format, uint64_t bytes,
	      struct err *err)
{
	struct qcow2_options o = { .bytes = bytes };
	int ret;

	if (format == BLK_RAW &&
	    (a->cluster_size || a->compat || a->refcount_bits || a->backing_file))
		return err_say(err, EINVAL,
			       "a raw image has no clusters and no backing file: take qcow2");
	if (format == BLK_RAW)
		return truncate(path, (off_t)bytes) < 0 ? err_set(err, errno, "make %s", path) : 0;
	ret = parse_options(a, &o, err);
	return ret < 0 ? ret : qcow2_create(path, &o, err);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

void progress_begin(struct progress *p, uint64_t total)
{
	*p = (struct progress){ .total = total, .next_ns = now_ns() + 1000000000 };
}

void progress_tell(struct progress *p, uint64_t done)
{
	uint64_t now = now_ns();

	if (now < p->next_ns || !isatty(STDERR_FILENO))
		return;
	p->next_ns = now + 100000000;
	p->shown = true;
	fprintf(stderr, "\r%5.1f %%", p->total ? 100.0 * (double)done / (double)p->total : 100.0);
}

void progress_end(struct progress *p)
{
	if (p->shown)
		fprintf(stderr, "\r       \r");
}

void print_json_string(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c < 0x20 || c >= 0x7f)
			printf("\\u%04x", c);
		else if (c == '"' || c == '\\')
			printf("\\%c", c);
		else
			putchar(c);
	}
	putchar('"');
}

void print_safely(const char *text)
{
	for (; *text; text++)
		putchar((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text);
}
