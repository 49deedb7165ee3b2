/* Building an image: mmdebstrap installs the packages, mke2fs makes a file system of them inside
 * the same user namespace (data/image/debian.sh), and our own qcow2 code copies that into the
 * image.
 */
#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/disk_image.h"
#include "cli/image.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define RELEASE	       "bookworm"
#define HOST_NAME      "debian"
#define DISK_FD	       9 /* in mmdebstrap and what it starts */
#define PASSWORD_CHARS 14
#define MAX_LINE       1024
#define USUAL_SECONDS  120 /* on a machine of two CPUs */

static const char packages[] =
	"systemd-sysv,dbus,udev,linux-image-cloud-amd64,initramfs-tools,zstd,kmod,openssh-server,"
	"systemd-resolved,iproute2,iputils-ping,netbase,ca-certificates,e2fsprogs,login,procps,less";

/* data/image/debian.sh */
extern const char image_debian_script[];

/* What mmdebstrap and the script say when they begin something, and how much of the time was over
 * then. */
static const struct stage {
	const char *line, *text;
	double share;
} stages[] = {
	{ "I: running apt-get update", "reading the package lists", 0.01 },
	{ "I: downloading packages", "fetching packages", 0.04 },
	{ "I: extracting archives", "unpacking the base system", 0.15 },
	{ "I: installing essential", "installing the base system", 0.20 },
	{ "I: installing remaining", "installing packages", 0.40 },
	{ "I: making the file system", "making the file system", 0.82 },
};
static const struct stage copying = { NULL, "making the image", 0.90 };

struct build {
	const struct image_order *order;
	const char *name;
	uint64_t bytes;
	struct image_sources sources;
	char password[PASSWORD_CHARS + 1];
	int raw; /* the disk as mke2fs makes it; owned */
	struct new_file disk;
	time_t start;
	const struct stage *stage;
	double stage_start;  /* seconds after start */
	char line[MAX_LINE]; /* what was read of mmdebstrap's next line */
	size_t len;
	char complaint[MAX_LINE]; /* its last error, or its last line */
	bool has_error;
};

static double seconds_since(time_t start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start) + (double)now.tv_nsec / 1e9;
}

static void tell(const struct build *b)
{
	double now = seconds_since(b->start);
	double all = b->stage_start + USUAL_SECONDS * (1 - b->stage->share);
	int left = (int)MAX(all - now, 1.0), gone = (int)now;

	fprintf(stderr, "%simage %s: %s (%d:%02d, about %d:%02d left)%s",
		isatty(STDERR_FILENO) ? "\r" : "", b->name, b->stage->text, gone / 60, gone % 60,
		left / 60, left % 60, isatty(STDERR_FILENO) ? "\033[K" : "\n");
}

static void enter_stage(struct build *b, const struct stage *s)
{
	b->stage = s;
	b->stage_start = seconds_since(b->start);
	tell(b);
}

static void take_line(struct build *b)
{
	bool is_error = strncmp(b->line, "E: ", 3) == 0;

	for (unsigned i = 0; i < ARRAY_SIZE(stages); i++)
		if (&stages[i] != b->stage &&
		    strncmp(b->line, stages[i].line, strlen(stages[i].line)) == 0)
			enter_stage(b, &stages[i]);
	/* The first error is the cause; its last ones say that it gave up. */
	if (is_error ? !b->has_error : !b->has_error && strncmp(b->line, "I: ", 3) != 0)
		memcpy(b->complaint, b->line + (is_error ? 3 : 0),
		       sizeof(b->line) - (is_error ? 3 : 0));
	b->has_error |= is_error;
}

static void take_output(struct build *b, const char *buf, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (buf[i] != '\n') {
			if (b->len < MAX_LINE - 1)
				b->line[b->len++] = isprint((unsigned char)buf[i]) ? buf[i] : '?';
			continue;
		}
		b->line[b->len] = 0;
		if (b->len)
			take_line(b);
		b->len = 0;
	}
}

/* Follow the output until its end; a signal ends the installation, too. */
static void follow(struct build *b, int fd, pid_t pid)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	bool told = false;
	char buf[4096];

	for (;;) {
		int n = poll(&p, 1, 1000);

		if (!told && new_file_stopped(&b->disk)) {
			kill(pid, SIGTERM);
			told = true;
		}
		if (n == 0 && isatty(STDERR_FILENO))
			tell(b);
		if (n <= 0)
			continue;

		ssize_t got = read(fd, buf, sizeof(buf));

		if (got <= 0)
			return;
		take_output(b, buf, (size_t)got);
	}
}

static void set_environment(const struct build *b)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", DISK_FD);
	setenv("DISK", path, 1);
	setenv("SOURCES", b->sources.sources, 1);
	setenv("APT_CONF", b->sources.guest_conf, 1);
	setenv("PASSWORD", b->password, 1);
	setenv("HOST", HOST_NAME, 1);
	setenv("LC_ALL", "C.UTF-8", 1);
}

static _Noreturn void become_mmdebstrap(const struct build *b, char **argv, int out)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	pthread_sigmask(SIG_UNBLOCK, &b->disk.signals, NULL);
	set_environment(b);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
	    dup2(out, STDERR_FILENO) < 0 || dup2(fcntl(b->raw, F_DUPFD, DISK_FD + 1), DISK_FD) < 0)
		_exit(1);
	execvp(argv[0], argv);
	_exit(127);
}

/* An argument for each line. */
static void put_lines(FILE *f, const char *before, const char *lines)
{
	while (*lines) {
		size_t len = strcspn(lines, "\n");

		fputc(0, f);
		fputs(before, f);
		fwrite(lines, 1, len, f);
		lines += len + (lines[len] == '\n');
	}
}

/* The arguments, as one text: each ends with a zero byte. */
static int put_arguments(const struct build *b, FILE *f)
{
	const struct image_order *o = b->order;

	fputs("mmdebstrap", f);
	fprintf(f, "%c--mode=unshare%c--variant=minbase%c--format=null", 0, 0, 0);
	fprintf(f, "%c--skip=cleanup/mmdebstrap,cleanup/apt,cleanup/reproducible", 0);
	fprintf(f, "%c--dpkgopt=force-unsafe-io%c--include=%s", 0, 0, packages);
	for (unsigned i = 0; i < o->n_packages; i++)
		fprintf(f, ",%s", o->package[i]);
	put_lines(f, "--aptopt=", b->sources.build_conf);
	fprintf(f, "%c--customize-hook=%s%c" RELEASE "%c/dev/null", 0, image_debian_script, 0, 0);
	put_lines(f, "", b->sources.sources);
	fputc(0, f);
	return ferror(f) ? -ENOMEM : 0;
}

static char **cut_arguments(char *text, size_t size)
{
	size_t n = 0;
	char **argv;

	for (size_t i = 0; i < size; i++)
		n += text[i] == 0;
	argv = calloc(n + 1, sizeof(*argv));
	for (size_t i = 0; argv && i < n; i++, text += strlen(text) + 1)
		argv[i] = text;
	return argv;
}

static int install(struct build *b, struct err *err)
{
	AUTO_FREE char *text = NULL;
	AUTO_FREE char **argv = NULL;
	int out[2], status = 0;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	pid_t pid;

	if (f && put_arguments(b, f) == 0 && fclose(f) == 0)
		argv = cut_arguments(text, size);
	if (!argv)
		return err_set(err, ENOMEM, "start mmdebstrap");
	if (pipe2(out, O_CLOEXEC) < 0)
		return err_set(err, errno, "start mmdebstrap");
	enter_stage(b, &stages[0]);
	pid = fork();
	if (pid == 0)
		become_mmdebstrap(b, argv, out[1]);
	close(out[1]);
	if (pid > 0) {
		follow(b, out[0], pid);
		waitpid(pid, &status, 0);
	}
	close(out[0]);
	if (pid < 0)
		return err_set(err, errno, "start mmdebstrap");
	return status ? err_say(err, EIO, "mmdebstrap has failed: %.400s", b->complaint) : 0;
}

/* The user namespace's root is another user than ours and must be able to open the file, but nobody
 * else can: it has no name. */
static int make_raw(struct build *b, const char *folder, struct err *err)
{
	AUTO_FREE char *path = NULL;

	if (asprintf(&path, "%s/.raw.XXXXXX", folder) < 0)
		return err_set(err, ENOMEM, "build an image");
	b->raw = mkostemp(path, O_CLOEXEC);
	if (b->raw < 0)
		return err_set(err, errno, "make a file in %s", folder);
	unlink(path);
	if (fchmod(b->raw, 0666) < 0 || ftruncate(b->raw, (off_t)b->bytes) < 0)
		return err_set(err, errno, "make a disk of %llu MiB in %s",
			       (unsigned long long)(b->bytes / MiB), folder);
	return 0;
}

static int copy_disk(struct build *b, struct err *err)
{
	struct disk_args a = { 0 };
	struct blk_open from = { .readonly = true, .no_lock = true };
	char path[32];

	enter_stage(b, &copying);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", b->raw);
	from.path = path;
	return disk_copy(&from, &a, BLK_QCOW2, &b->disk, err);
}

static int write_facts(const struct build *b, struct err *err)
{
	char path[PATH_MAX], temporary[PATH_MAX];
	json_t *list = json_array(), *facts;
	AUTO_FD int fd = -1;
	int ret = image_path(path, b->name, "image.json", err);

	if (ret == 0)
		ret = image_path(temporary, b->name, "image.json.new", err);
	for (unsigned i = 0; i < b->order->n_packages; i++)
		json_array_append_new(list, json_string(b->order->package[i]));
	facts = json_pack("{s:s, s:s, s:I, s:I, s:o, s:s}", "name", b->name, "system",
			  b->order->system, "created_s", (json_int_t)time(NULL), "disk_bytes",
			  (json_int_t)b->bytes, "packages", list, "console_password", b->password);
	if (ret == 0)
		fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
			  0600); /* a password */
	if (ret == 0 &&
	    (fd < 0 || json_dumpfd(facts, fd, JSON_INDENT(2)) < 0 || rename(temporary, path) < 0))
		ret = err_set(err, errno, "write %s", path);
	json_decref(facts);
	return ret;
}

/* What builds left that were killed. Needs the lock. */
static void remove_leftovers(const char *folder)
{
	static const char *const begins[] = { ".disk.qcow2.", ".raw." };
	DIR *dir = opendir(folder);
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		for (unsigned i = 0; i < ARRAY_SIZE(begins); i++)
			if (strncmp(e->d_name, begins[i], strlen(begins[i])) == 0)
				unlinkat(dirfd(dir), e->d_name, 0);
	if (dir)
		closedir(dir);
}

/* Without a disk of that name; it gets it when all is done. */
static int build_disk(struct build *b, struct err *err)
{
	char disk[PATH_MAX], folder[PATH_MAX];
	int ret = image_path(disk, b->name, "disk.qcow2", err);

	if (ret == 0)
		ret = image_path(folder, b->name, ".", err);
	if (ret == 0)
		remove_leftovers(folder);
	if (ret == 0)
		ret = new_file_begin(&b->disk, disk, true, err);
	if (ret < 0)
		return ret;
	ret = make_raw(b, folder, err);
	if (ret == 0)
		ret = install(b, err);
	if (ret == 0)
		ret = copy_disk(b, err);
	if (ret == 0)
		ret = write_facts(b, err);
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K");
	ret = new_file_end(&b->disk, ret, err);
	return ret > 0 ? err_say(err, EINTR, "stopped by a signal") : ret;
}

static int make_password(struct build *b, struct err *err)
{
	static const char letters[] = "abcdefghijkmnpqrstuvwxyz23456789";
	uint8_t random[PASSWORD_CHARS];

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return err_set(err, errno, "make a password");
	for (unsigned i = 0; i < PASSWORD_CHARS; i++)
		b->password[i] = letters[random[i] % (sizeof(letters) - 1)];
	return 0;
}

static bool is_there(const char *name)
{
	char path[PATH_MAX];
	json_t *facts;

	if (image_load(&facts, name, NULL) < 0)
		return false;
	json_decref(facts);
	return image_path(path, name, "disk.qcow2", NULL) == 0 && access(path, R_OK) == 0;
}

static int lock(const char *name, int *fd, bool *waited, struct err *err)
{
	char path[PATH_MAX];
	int ret = image_path(path, name, "lock", err);

	if (ret < 0)
		return ret;
	*fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (*fd < 0)
		return err_set(err, errno, "open %s", path);
	*waited = flock(*fd, LOCK_EX | LOCK_NB) < 0;
	if (!*waited)
		return 0;
	fprintf(stderr, "image %s: waiting for the process that builds it\n", name);
	return flock(*fd, LOCK_EX) < 0 ? err_set(err, errno, "lock %s", path) : 0;
}

/* In PATH or where Debian has it. */
static bool has_program(const char *name)
{
	const char *at = getenv("PATH");
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/usr/sbin/%s", name);
	if (access(path, X_OK) == 0)
		return true;
	for (size_t len; at && *at; at += len + (at[len] == ':')) {
		len = strcspn(at, ":");
		snprintf(path, sizeof(path), "%.*s/%s", (int)len, at, name);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

static bool can_unshare(void)
{
	int status = 1;
	pid_t pid = fork();

	if (pid == 0)
		_exit(unshare(geteuid() ? CLONE_NEWUSER : CLONE_NEWNS) < 0);
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

/* Whether a file of ranges has one for the user: lines of NAME-OR-UID:FIRST:COUNT. */
static bool has_range(const char *path)
{
	const struct passwd *user = getpwuid(geteuid());
	FILE *f = fopen(path, "re");
	char line[256], number[16];
	bool found = false;

	snprintf(number, sizeof(number), "%u", (unsigned)geteuid());
	while (f && !found && fgets(line, sizeof(line), f)) {
		line[strcspn(line, ":\n")] = 0;
		found = strcmp(line, number) == 0 || (user && strcmp(line, user->pw_name) == 0);
	}
	if (f)
		fclose(f);
	return found;
}

static int check_host(struct err *err)
{
	static const struct {
		const char *program, *package;
		bool for_root;
	} needed[] = {
		{ "mmdebstrap", "mmdebstrap", true },
		{ "mke2fs", "e2fsprogs", true },
		{ "newuidmap", "uidmap", false },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(needed); i++)
		if ((needed[i].for_root || geteuid()) && !has_program(needed[i].program))
			return err_say(err, ENOENT,
				       "building an image needs %s, which is not here; as root: "
				       "apt-get install %s",
				       needed[i].program, needed[i].package);
	if (geteuid() && (!has_range("/etc/subuid") || !has_range("/etc/subgid")))
		return err_say(
			err, EPERM,
			"building an image needs user ids to give to its files, and /etc/subuid "
			"and /etc/subgid have none for you; as root: usermod --add-subuids "
			"100000-165535 --add-subgids 100000-165535 USER");
	if (!can_unshare())
		return err_say(err, EPERM,
			       "building an image needs namespaces, which this host does not let "
			       "you make: build it elsewhere and take its folder along, or have "
			       "kernel.unprivileged_userns_clone and user.max_user_namespaces set");
	return 0;
}

static bool is_package(const char *name)
{
	return isalnum((unsigned char)*name) &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789+-.") == strlen(name);
}

static int check_order(const struct image_order *o, struct err *err)
{
	if (!image_is_system(o->system))
		return err_say(err, EINVAL, "'%s' cannot be built; what can is " IMAGE_EXAMPLE,
			       o->system);
	if (o->name && !image_is_name(o->name))
		return err_say(err, EINVAL,
			       "--name: '%s' is no name: letters, digits, '.', '_' and '-', as in "
			       "--name web",
			       o->name);
	if (o->bytes && o->bytes < IMAGE_MIN_BYTES)
		return err_say(err, EINVAL, "--size: at least 1G, as in --size 4G");
	for (unsigned i = 0; i < o->n_packages; i++)
		if (!is_package(o->package[i]))
			return err_say(err, EINVAL,
				       "--package: '%s' is no Debian package's name, as in "
				       "--package nginx",
				       o->package[i]);
	return 0;
}

/* Needs the lock. */
static int build(struct build *b, struct err *err)
{
	struct timespec now;
	int ret = image_check_unused(b->name, err);

	if (ret == 0)
		ret = check_host(err);
	clock_gettime(CLOCK_MONOTONIC, &now);
	b->start = now.tv_sec;
	if (ret == 0)
		ret = make_password(b, err);
	if (ret == 0)
		ret = image_sources_find(&b->sources, RELEASE, err);
	if (ret == 0)
		ret = build_disk(b, err);
	if (ret == 0)
		fprintf(stderr, "image %s: built in %.0f seconds\n", b->name,
			seconds_since(b->start));
	if (b->raw >= 0)
		close(b->raw);
	image_sources_fini(&b->sources);
	return ret;
}

int image_build(const struct image_order *o, struct err *err)
{
	struct build b = {
		.order = o,
		.name = o->name ? o->name : o->system,
		.bytes = o->bytes ? o->bytes : IMAGE_DEFAULT_BYTES,
		.raw = -1,
	};
	AUTO_FD int fd = -1;
	bool waited;
	int ret = check_order(o, err);

	if (ret == 0)
		ret = lock(b.name, &fd, &waited, err);
	if (ret == 0 && is_there(b.name) && !o->force)
		return waited ? 0
			      : err_say(err, EEXIST,
					"there is an image %s already; --force replaces it",
					b.name);
	if (ret == 0)
		ret = build(&b, err);
	return ret < 0 ? err_wrap(err, "image %s", b.name) : 0;
}
