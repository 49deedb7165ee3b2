/* libext2fs parses what a guest wrote, so it runs in a child process that has no files, no rights
 * and few system calls. It asks this process for pieces of the disk, and writes the two files that
 * it finds into memory files.
 */
#include "cli/image_boot.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "dev/backend/blk.h"
#include "host/sandbox.h"

#include <errno.h>
#include <ext2fs/ext2fs.h>
#include <fcntl.h>
#include <limits.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define MAX_KERNEL_BYTES (256 * MiB)
#define MAX_INITRD_BYTES (1 * GiB)
#define PIECE_BYTES	 (1 * MiB)
#define CHILD_BYTES	 (1 * GiB) /* of memory that the parser may have */
#define CHILD_SECONDS	 60	   /* of CPU time */
#define MAX_NAME	 255

/* The child's files. */
enum { FD_SOCKET = 3, FD_KERNEL, FD_INITRD, FD_END };

/* What the child says. READ is answered with an int, 0 or -errno; the bytes are in the shared
 * piece. The others are its last word. */
struct word {
	enum { WORD_READ, WORD_FOUND, WORD_FAILED } what;
	uint32_t len; /* READ: at most PIECE_BYTES */
	uint64_t off;
	bool has_initrd; /* FOUND */
	char why[200];	 /* FAILED */
};

/*
 * The child.
 */

struct child {
	uint8_t *piece; /* shared with the parent; borrowed */
};

/* An io_manager's open gets nothing but a name: it is the address of the struct child, in hex. */
static errcode_t disk_open(const char *name, int flags, io_channel *out);

static errcode_t disk_close(io_channel c)
{
	if (--c->refcount > 0)
		return 0;
	free(c->name);
	free(c);
	return 0;
}

static errcode_t disk_set_block(io_channel c, int bytes)
{
	c->block_size = bytes;
	return 0;
}

static errcode_t ask(uint64_t off, uint32_t len)
{
	struct word w = { .what = WORD_READ, .off = off, .len = len };
	int answer;

	if (send(FD_SOCKET, &w, sizeof(w), MSG_NOSIGNAL) != sizeof(w) ||
	    recv(FD_SOCKET, &answer, sizeof(answer), 0) != sizeof(answer))
		return EXT2_ET_SHORT_READ;
	return answer < 0 ? EXT2_ET_SHORT_READ : 0;
}

/* count: blocks, or bytes if it is negative. */
static errcode_t disk_read64(io_channel c, unsigned long long block, int count, void *data)
{
	struct child *child = c->private_data;
	uint64_t len = count < 0 ? -(uint64_t)count : (uint64_t)count * (uint64_t)c->block_size;
	uint64_t off, done = 0;

	if (__builtin_mul_overflow(block, (uint64_t)c->block_size, &off) ||
	    !range_fits(off, len, INT64_MAX))
		return EXT2_ET_SHORT_READ;
	while (done < len) {
		uint32_t n = (uint32_t)MIN(len - done, PIECE_BYTES);
		errcode_t ret = ask(off + done, n);

		if (ret)
			return ret;
		memcpy((uint8_t *)data + done, child->piece, n);
		done += n;
	}
	return 0;
}

static errcode_t disk_read(io_channel c, unsigned long block, int count, void *data)
{
	return disk_read64(c, block, count, data);
}

static errcode_t disk_refuse(io_channel c, unsigned long long block, int count, const void *data)
{
	return EXT2_ET_RO_FILSYS;
}

static errcode_t disk_refuse_old(io_channel c, unsigned long block, int count, const void *data)
{
	return EXT2_ET_RO_FILSYS;
}

static errcode_t disk_flush(io_channel c)
{
	return 0;
}

static struct struct_io_manager disk_manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER,
	.name = "disk",
	.open = disk_open,
	.close = disk_close,
	.set_blksize = disk_set_block,
	.read_blk = disk_read,
	.read_blk64 = disk_read64,
	.write_blk = disk_refuse_old,
	.write_blk64 = disk_refuse,
	.flush = disk_flush,
};

static errcode_t disk_open(const char *name, int flags, io_channel *out)
{
	io_channel c = calloc(1, sizeof(*c));

	if (!c)
		return EXT2_ET_NO_MEMORY;
	c->magic = EXT2_ET_MAGIC_IO_CHANNEL;
	c->manager = &disk_manager;
	c->block_size = 1024;
	c->refcount = 1;
	c->name = strdup(name);
	if (!c->name || sscanf(name, "%p", &c->private_data) != 1) {
		free(c->name);
		free(c);
		return EXT2_ET_NO_MEMORY;
	}
	*out = c;
	return 0;
}

static int copy_file(ext2_filsys fs, ext2_file_t f, int fd, uint64_t max, struct word *w)
{
	AUTO_FREE uint8_t *buf = malloc(PIECE_BYTES);
	unsigned got = 1;

	for (uint64_t done = 0; buf && got && done <= max; done += got) {
		if (ext2fs_file_read(f, buf, PIECE_BYTES, &got) ||
		    write(fd, buf, got) != (ssize_t)got) {
			snprintf(w->why, sizeof(w->why), "its file system is damaged");
			return -EIO;
		}
	}
	return buf ? 0 : -ENOMEM;
}

/* Copy the file at path, links followed, to fd. -ENOENT if there is none. */
static int fetch(ext2_filsys fs, const char *path, int fd, uint64_t max, struct word *w)
{
	struct ext2_inode inode;
	uint64_t bytes;
	ext2_file_t f;
	ext2_ino_t ino;
	int ret;

	if (ext2fs_namei_follow(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, &ino) ||
	    ext2fs_read_inode(fs, ino, &inode) || !LINUX_S_ISREG(inode.i_mode))
		return -ENOENT;
	bytes = EXT2_I_SIZE(&inode);
	if (bytes > max) {
		snprintf(w->why, sizeof(w->why), "%.60s on it has %llu MiB: too large", path,
			 (unsigned long long)(bytes / MiB));
		return -EFBIG;
	}
	if (ext2fs_file_open(fs, ino, 0, &f))
		return -ENOENT;
	ret = copy_file(fs, f, fd, max, w);
	ext2fs_file_close(f);
	return ret;
}

struct newest {
	char version[MAX_NAME + 1]; /* "": none */
};

static int look_at_name(ext2_ino_t dir, int entry, struct ext2_dir_entry *d, int offset,
			int block_bytes, char *buf, void *arg)
{
	static const char prefix[] = "vmlinuz-";
	size_t len = (size_t)ext2fs_dirent_name_len(d), skip = sizeof(prefix) - 1;
	struct newest *n = arg;
	char version[MAX_NAME + 1];

	if (len <= skip || memcmp(d->name, prefix, skip) != 0)
		return 0;
	snprintf(version, sizeof(version), "%.*s", (int)(len - skip), d->name + skip);
	if (strverscmp(version, n->version) > 0)
		memcpy(n->version, version, sizeof(version));
	return 0;
}

/* The newest kernel in /boot. */
static int fetch_newest(ext2_filsys fs, struct word *w, char initrd[MAX_NAME + 32])
{
	struct newest n = { 0 };
	char path[MAX_NAME + 32];
	ext2_ino_t boot;

	if (ext2fs_namei_follow(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, "/boot", &boot) == 0)
		ext2fs_dir_iterate2(fs, boot, 0, NULL, look_at_name, &n);
	if (!n.version[0])
		return -ENOENT;
	snprintf(path, sizeof(path), "/boot/vmlinuz-%s", n.version);
	snprintf(initrd, MAX_NAME + 32, "/boot/initrd.img-%s", n.version);
	return fetch(fs, path, FD_KERNEL, MAX_KERNEL_BYTES, w);
}

static void search(ext2_filsys fs, struct word *w)
{
	char initrd[MAX_NAME + 32] = "/initrd.img";
	int ret = fetch(fs, "/vmlinuz", FD_KERNEL, MAX_KERNEL_BYTES, w);

	if (ret == -ENOENT)
		ret = fetch_newest(fs, w, initrd);
	if (ret == -ENOENT)
		snprintf(w->why, sizeof(w->why),
			 "it has neither /vmlinuz nor a kernel in /boot; name one, as in "
			 "--kernel vmlinuz");
	if (ret < 0)
		return;
	ret = fetch(fs, initrd, FD_INITRD, MAX_INITRD_BYTES, w);
	w->has_initrd = ret == 0;
	if (ret == 0 || ret == -ENOENT)
		w->what = WORD_FOUND;
}

static int shut_in(struct err *err)
{
	static const int calls[] = {
		SCMP_SYS(read),	     SCMP_SYS(write),	      SCMP_SYS(close),
		SCMP_SYS(sendto),    SCMP_SYS(recvfrom),      SCMP_SYS(munmap),
		SCMP_SYS(mremap),    SCMP_SYS(madvise),	      SCMP_SYS(brk),
		SCMP_SYS(futex),     SCMP_SYS(exit_group),    SCMP_SYS(exit),
		SCMP_SYS(getrandom), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday),
	};
	struct rlimit cpu = { CHILD_SECONDS, CHILD_SECONDS };
	struct sandbox_call allowed[ARRAY_SIZE(calls)];
	struct sandbox_cfg cfg = { allowed, ARRAY_SIZE(calls), 16, CHILD_BYTES };
	bool landlocked;
	int ret;

	for (unsigned i = 0; i < ARRAY_SIZE(calls); i++)
		allowed[i] = (struct sandbox_call){ .nr = calls[i] };
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (setrlimit(RLIMIT_CPU, &cpu) < 0)
		return err_set(err, errno, "limit a process");
	ret = sandbox_close_files(FD_END, err);
	return ret < 0 ? ret : sandbox_enter(&cfg, &landlocked, err);
}

static _Noreturn void child_main(struct child *child)
{
	struct word w = { .what = WORD_FAILED };
	ext2_filsys fs = NULL;
	char name[32];
	struct err err;

	snprintf(name, sizeof(name), "%p", (void *)child);
	snprintf(w.why, sizeof(w.why), "its file system is damaged");
	if (shut_in(&err) < 0)
		snprintf(w.why, sizeof(w.why), "%.190s", err.msg);
	else if (ext2fs_open2(name, NULL, EXT2_FLAG_64BITS | EXT2_FLAG_IGNORE_CSUM_ERRORS, 0, 0,
			      &disk_manager, &fs) != 0)
		snprintf(w.why, sizeof(w.why),
			 "there is no ext4 file system on it; name a kernel, as in --kernel "
			 "vmlinuz");
	else
		search(fs, &w);
	send(FD_SOCKET, &w, sizeof(w), MSG_NOSIGNAL);
	_exit(0);
}

/*
 * The parent.
 */

struct reader {
	struct blk *blk;  /* owned */
	uint64_t bytes;	  /* of the disk */
	uint8_t *piece;	  /* PIECE_BYTES, shared with the child; owned */
	uint8_t *sectors; /* PIECE_BYTES and two sectors; owned */
	int socket;	  /* owned */
};

/* Bring [off, off+len) of the disk into the piece. */
static int bring(struct reader *r, uint64_t off, uint32_t len)
{
	uint64_t start = off - off % BLK_SECTOR, end;
	struct iovec iov = { .iov_base = r->sectors };
	struct blk_req q = { .op = BLK_READ, .off = start, .iov = &iov, .n_iov = 1 };
	int ret;

	if (len > PIECE_BYTES || !range_fits(off, len, r->bytes))
		return -EINVAL;
	end = ALIGN_UP(off + len, BLK_SECTOR);
	q.len = iov.iov_len = end - start;
	ret = q.len ? blk_do(r->blk, &q) : 0;
	if (ret == 0)
		memcpy(r->piece, r->sectors + (off - start), len);
	return ret;
}

/* Serve the child until its last word. */
static int serve(struct reader *r, struct word *w, struct err *err)
{
	for (;;) {
		int answer;

		if (recv(r->socket, w, sizeof(*w), 0) != sizeof(*w))
			return err_say(err, EIO, "its file system cannot be read");
		if (w->what != WORD_READ)
			break;
		answer = bring(r, w->off, w->len);
		if (send(r->socket, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
			return err_set(err, errno, "read it");
	}
	w->why[sizeof(w->why) - 1] = 0;
	for (char *c = w->why; *c; c++)
		if (*c < ' ' || *c == 0x7f)
			*c = '?';
	return w->what == WORD_FOUND ? 0 : err_say(err, ENOENT, "%s", w->why);
}

/* What the child has is at FD_SOCKET to FD_INITRD; none of the sources may be there. */
static _Noreturn void become_child(int socket, const struct image_boot *b, uint8_t *piece)
{
	const int from[] = { socket, b->kernel_fd, b->initrd_fd };
	struct child child = { piece };
	int high[3];

	for (unsigned i = 0; i < 3; i++)
		high[i] = fcntl(from[i], F_DUPFD, FD_END);
	for (unsigned i = 0; i < 3; i++)
		if (dup2(high[i], FD_SOCKET + (int)i) < 0)
			_exit(1);
	child_main(&child);
}

static int read_by_child(struct reader *r, struct image_boot *b, struct err *err)
{
	struct word w;
	int pair[2], ret;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set(err, errno, "make a socket");
	pid = fork();
	if (pid == 0)
		become_child(pair[1], b, r->piece);
	close(pair[1]);
	r->socket = pair[0];
	if (pid < 0)
		return err_set(err, errno, "start a process");
	ret = serve(r, &w, err);
	close(r->socket);
	r->socket = -1;
	waitpid(pid, NULL, 0);
	if (ret == 0 && !w.has_initrd) {
		close(b->initrd_fd);
		b->initrd_fd = -1;
	}
	return ret;
}

static int reader_init(struct reader *r, const struct blk_open *disk, struct err *err)
{
	struct blk_open how = *disk;
	struct blk_info info;
	int ret;

	how.readonly = true;
	r->piece =
		mmap(NULL, PIECE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (r->piece == MAP_FAILED)
		r->piece = NULL;
	r->sectors = malloc(PIECE_BYTES + 2 * BLK_SECTOR);
	if (!r->piece || !r->sectors)
		return err_set(err, ENOMEM, "read a disk");
	ret = blk_open(&r->blk, NULL, &how, err);
	if (ret < 0)
		return ret;
	blk_info(r->blk, &info);
	r->bytes = info.bytes;
	return 0;
}

static void reader_fini(struct reader *r)
{
	blk_close(r->blk, NULL);
	if (r->socket >= 0)
		close(r->socket);
	if (r->piece)
		munmap(r->piece, PIECE_BYTES);
	free(r->sectors);
}

static int make_files(struct image_boot *b, struct err *err)
{
	b->kernel_fd = memfd_create("kernel", MFD_CLOEXEC);
	b->initrd_fd = memfd_create("initrd", MFD_CLOEXEC);
	if (b->kernel_fd < 0 || b->initrd_fd < 0)
		return err_set(err, errno, "make a file in memory");
	snprintf(b->kernel, sizeof(b->kernel), "/proc/self/fd/%d", b->kernel_fd);
	snprintf(b->initrd, sizeof(b->initrd), "/proc/self/fd/%d", b->initrd_fd);
	return 0;
}

int image_boot_read(struct image_boot *out, const struct blk_open *disk, struct err *err)
{
	struct reader r = { .socket = -1 };
	int ret;

	*out = (struct image_boot){ .kernel_fd = -1, .initrd_fd = -1 };
	ret = make_files(out, err);
	if (ret == 0)
		ret = reader_init(&r, disk, err);
	if (ret == 0)
		ret = read_by_child(&r, out, err);
	reader_fini(&r);
	if (ret < 0) {
		image_boot_fini(out);
		return err_wrap(err, "find the kernel on %s", disk->path);
	}
	return 0;
}

void image_boot_fini(struct image_boot *b)
{
	if (b->kernel_fd >= 0)
		close(b->kernel_fd);
	if (b->initrd_fd >= 0)
		close(b->initrd_fd);
	b->kernel_fd = b->initrd_fd = -1;
}
