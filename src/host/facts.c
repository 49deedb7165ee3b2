#include "host/facts.h"

#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <linux/seccomp.h>

#define FOUND(f, ...) snprintf((f)->found, sizeof((f)->found), __VA_ARGS__)

static void look_kernel(struct fact *f)
{
	struct utsname u;

	uname(&u);
	f->ok = true;
	FOUND(f, "%s %s, %ld CPUs", u.sysname, u.release, sysconf(_SC_NPROCESSORS_ONLN));
}

static void look_memory(struct fact *f)
{
	struct sysinfo si;

	sysinfo(&si);
	f->ok = true;
	FOUND(f, "%llu MiB, %llu MiB free", (unsigned long long)si.totalram * si.mem_unit >> 20,
	      (unsigned long long)si.freeram * si.mem_unit >> 20);
}

static void look_kvm(struct fact *f)
{
	AUTO_FD int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		FOUND(f, "/dev/kvm: %s", strerror(errno));
		return;
	}
	f->ok = ioctl(fd, KVM_GET_API_VERSION, 0) == KVM_API_VERSION;
	FOUND(f, "/dev/kvm, API version %d", ioctl(fd, KVM_GET_API_VERSION, 0));
}

/* Tried in a child, since the namespace cannot be left again. */
static void look_userns(struct fact *f)
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0)
		_exit(unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWNS) ? errno
											 : 0);
	if (pid > 0)
		waitpid(pid, &status, 0);
	f->ok = pid > 0 && status == 0;
	FOUND(f, "user, PID, network and mount namespaces: %s",
	      f->ok ? "can be made" : strerror(WIFEXITED(status) ? WEXITSTATUS(status) : EPERM));
}

static void look_cgroup(struct fact *f)
{
	char line[128] = "";
	FILE *in = fopen("/sys/fs/cgroup/cgroup.controllers", "re");

	if (!in) {
		FOUND(f, "no cgroup v2 at /sys/fs/cgroup");
		return;
	}
	if (fgets(line, sizeof(line), in))
		line[strcspn(line, "\n")] = 0;
	fclose(in);
	f->ok = access("/sys/fs/cgroup", W_OK) == 0;
	FOUND(f, "cgroup v2 (%.80s), %s", *line ? line : "no controllers",
	      f->ok ? "writable" : "not writable");
}

static void look_io_uring(struct fact *f)
{
	/* The call with bad arguments tells whether there is one, and makes none. */
	long r = syscall(SYS_io_uring_setup, 0, NULL);

	f->ok = r < 0 && errno != ENOSYS && errno != EPERM;
	FOUND(f, "io_uring: %s", f->ok ? "there" : strerror(errno));
}

static void look_tap(struct fact *f)
{
	AUTO_FD int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	unsigned features;

	if (fd < 0) {
		FOUND(f, "/dev/net/tun: %s", strerror(errno));
		return;
	}
	f->ok = ioctl(fd, TUNGETFEATURES, &features) == 0;
	FOUND(f, "/dev/net/tun can be opened");
}

static void look_seccomp(struct fact *f)
{
	unsigned action = SECCOMP_RET_KILL_PROCESS;

	f->ok = syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
	FOUND(f, "seccomp filters: %s", f->ok ? "there" : strerror(errno));
}

static void look_landlock(struct fact *f)
{
	long v = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	f->ok = v > 0;
	if (f->ok)
		FOUND(f, "Landlock ABI %ld", v);
	else
		FOUND(f, "Landlock: %s", strerror(errno));
}

/* The translator and the interpreter's stubs need code made at run time. */
static void look_exec_memory(struct fact *f)
{
	AUTO_FD int fd = memfd_create("probe", MFD_CLOEXEC);
	void *p = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, 4096) == 0)
		p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	f->ok = p != MAP_FAILED;
	FOUND(f, "executable memory from a memfd: %s", f->ok ? "allowed" : strerror(errno));
	if (f->ok)
		munmap(p, 4096);
}

static void look_huge(struct fact *f)
{
	char line[64] = "";
	FILE *in = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");

	if (in) {
		if (fgets(line, sizeof(line), in))
			line[strcspn(line, "\n")] = 0;
		fclose(in);
	}
	f->ok = *line && !strstr(line, "[never]");
	FOUND(f, "transparent huge pages: %s", *line ? line : "not there");
}

static const struct {
	const char *id;
	void (*look)(struct fact *f);
	const char *good, *lack;
} looks[] = {
	{ "kernel", look_kernel, "the host", "" },
	{ "memory", look_memory, "for guests and their page tables", "" },
	{ "kvm", look_kvm, "hardware-assisted engine, if its speed proves right",
	  "guests run in software: the interpreter needs nothing of the host" },
	{ "exec-memory", look_exec_memory, "native execution of vector instructions",
	  "no machine can run: vector instructions are executed from generated code" },
	{ "user-namespaces", look_userns, "containers and helpers without root",
	  "containers and sandboxed helpers need root" },
	{ "cgroups", look_cgroup, "limits for containers and machines",
	  "CPU and memory limits cannot be enforced" },
	{ "io_uring", look_io_uring, "fast disk I/O", "disk I/O falls back to threads" },
	{ "tap", look_tap, "networks between guests and host",
	  "only user-mode networking, by address translation" },
	{ "seccomp", look_seccomp,
	  "each thread of a machine keeps the system calls of its kind, and no new privileges",
	  "machines run with --sandbox off only, and keep all system calls" },
	{ "landlock", look_landlock,
	  "machines give up all files, TCP (from ABI 4) and abstract sockets (from ABI 6)",
	  "files are kept from machines by seccomp alone; vsock's thread reaches abstract sockets" },
	{ "huge-pages", look_huge, "less TLB pressure for guest memory",
	  "guest memory access is somewhat slower" },
};

size_t host_facts(struct fact facts[MAX_FACTS])
{
	size_t n = sizeof(looks) / sizeof(looks[0]);

	for (size_t i = 0; i < n; i++) {
		facts[i] = (struct fact){ .id = looks[i].id };
		looks[i].look(&facts[i]);
		facts[i].meaning = facts[i].ok ? looks[i].good : looks[i].lack;
	}
	return n;
}
