#include "host/sandbox.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "host/sandbox_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* Linux Documentation/userspace-api/landlock.rst; the headers of an older kernel lack the later
 * fields. */
struct landlock_rules {
	uint64_t handled_access_fs, handled_access_net, scoped;
};
struct landlock_folder {
	uint64_t allowed_access;
	int32_t parent_fd;
} __attribute__((packed));
#define LANDLOCK_VERSION_FLAG	1
#define LANDLOCK_FS_REMOVE_FILE BIT(5)
#define LANDLOCK_FS_REFER	BIT(13)
#define LANDLOCK_FS_TRUNCATE	BIT(14)
#define LANDLOCK_FS_IOCTL_DEV	BIT(15)
#define LANDLOCK_NET_TCP	3 /* bind, connect */
#define LANDLOCK_PATH_BENEATH	1
/* Not of signals: before Linux 6.15 that takes a thread's right to signal its siblings; the
 * filters see to signals. */
#define LANDLOCK_SCOPE_ABSTRACT BIT(0)
#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
#define __NR_landlock_add_rule	     445
#define __NR_landlock_restrict_self  446
#endif

/* What no part of a program that is shut in calls, unless somebody else has taken it over. */
static const int deadly[] = {
	SCMP_SYS(execve),
	SCMP_SYS(execveat),
	SCMP_SYS(fork),
	SCMP_SYS(vfork),
	SCMP_SYS(clone),
	SCMP_SYS(clone3),
	SCMP_SYS(ptrace),
	SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev),
	SCMP_SYS(kexec_load),
	SCMP_SYS(mount),
	SCMP_SYS(umount2),
	SCMP_SYS(pivot_root),
	SCMP_SYS(chroot),
	SCMP_SYS(unshare),
	SCMP_SYS(setns),
	SCMP_SYS(bpf),
	SCMP_SYS(perf_event_open),
	SCMP_SYS(init_module),
	SCMP_SYS(finit_module),
	SCMP_SYS(keyctl),
	SCMP_SYS(add_key),
	SCMP_SYS(request_key),
	SCMP_SYS(userfaultfd),
	SCMP_SYS(io_uring_setup),
	SCMP_SYS(open_by_handle_at),
	SCMP_SYS(setuid),
	SCMP_SYS(setgid),
	SCMP_SYS(setresuid),
	SCMP_SYS(setresgid),
	SCMP_SYS(pidfd_getfd),
	SCMP_SYS(kill),
};

int sandbox_close_files(unsigned first, struct err *err)
{
	AUTO_FD int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
		return err_set(err, errno, "open /dev/null");
	if (syscall(SYS_close_range, first, ~0u, 0) == 0)
		return 0;
	/* Linux before 5.9. */
	for (long fd = first, n = sysconf(_SC_OPEN_MAX); fd < n; fd++)
		if (fd != null)
			close((int)fd);
	return 0;
}

int sandbox_limit(int what, uint64_t max, struct err *err)
{
	struct rlimit r;

	if (getrlimit(what, &r) < 0)
		return err_set(err, errno, "read a resource limit");
	r.rlim_max = MIN(r.rlim_max, max);
	r.rlim_cur = MIN(r.rlim_cur, r.rlim_max);
	/* Up to the hard limit: a soft limit of 1024 descriptors is common and low. */
	if (what == RLIMIT_NOFILE)
		r.rlim_cur = r.rlim_max;
	return setrlimit(what, &r) < 0 ? err_set(err, errno, "set a resource limit") : 0;
}

int sandbox_drop_privileges(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };

	if (syscall(SYS_capset, &head, none) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return 0;
}

int sandbox_landlock_abi(void)
{
	long abi = syscall(__NR_landlock_create_ruleset, NULL, 0, LANDLOCK_VERSION_FLAG);

	return abi < 1 ? 0 : (int)abi;
}

static int may_remove(int ruleset, int folder)
{
	struct landlock_folder rule = { .allowed_access = LANDLOCK_FS_REMOVE_FILE,
					.parent_fd = folder };

	return (int)syscall(__NR_landlock_add_rule, ruleset, LANDLOCK_PATH_BENEATH, &rule, 0);
}

int sandbox_ruleset(int abi, bool tcp, const int *remove_in, unsigned n, struct err *err)
{
	struct landlock_rules rules = { .handled_access_fs = BIT(13) - 1 };
	size_t size = sizeof(rules.handled_access_fs);

	if (abi >= 2)
		rules.handled_access_fs |= LANDLOCK_FS_REFER;
	if (abi >= 3)
		rules.handled_access_fs |= LANDLOCK_FS_TRUNCATE;
	if (abi >= 4) {
		rules.handled_access_net = tcp ? 0 : LANDLOCK_NET_TCP;
		size += sizeof(rules.handled_access_net);
	}
	if (abi >= 5)
		rules.handled_access_fs |= LANDLOCK_FS_IOCTL_DEV;
	if (abi >= 6) {
		rules.scoped = LANDLOCK_SCOPE_ABSTRACT;
		size += sizeof(rules.scoped);
	}

	AUTO_FD int fd = (int)syscall(__NR_landlock_create_ruleset, &rules, size, 0);

	if (fd < 0)
		return err_set(err, errno, "make Landlock rules");
	for (unsigned i = 0; i < n; i++)
		if (may_remove(fd, remove_in[i]) < 0)
			return err_set(err, errno, "make a Landlock rule");
	return move_fd(&fd);
}

int sandbox_restrict(int ruleset)
{
	if (ruleset < 0)
		return 0;
	return syscall(__NR_landlock_restrict_self, ruleset, 0) < 0 ? -errno : 0;
}

/* False where the kernel has none. */
static bool landlock(void)
{
	int abi = sandbox_landlock_abi();
	AUTO_FD int fd = abi ? sandbox_ruleset(abi, true, NULL, 0, NULL) : -1;

	return fd >= 0 && sandbox_restrict(fd) == 0;
}

static int allow(scmp_filter_ctx f, const struct sandbox_call *c)
{
	if (!c->mask)
		return seccomp_rule_add(f, SCMP_ACT_ALLOW, c->nr, 0);

	struct scmp_arg_cmp cmp = SCMP_CMP32(c->arg, SCMP_CMP_MASKED_EQ, c->mask, c->value);

	return seccomp_rule_add_array(f, SCMP_ACT_ALLOW, c->nr, 1, &cmp);
}

static int fill(scmp_filter_ctx f, const struct sandbox_cfg *cfg)
{
	static const struct sandbox_call memory[] = {
		{ SCMP_SYS(mmap), 2, PROT_EXEC, 0 },
		{ SCMP_SYS(mprotect), 2, PROT_EXEC, 0 },
	};
	int ret = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(deadly) && ret == 0; i++)
		ret = seccomp_rule_add(f, SCMP_ACT_KILL_PROCESS, deadly[i], 0);
	for (unsigned i = 0; i < ARRAY_SIZE(memory) && ret == 0; i++)
		ret = allow(f, &memory[i]);
	for (unsigned i = 0; i < cfg->n_calls && ret == 0; i++)
		ret = allow(f, &cfg->calls[i]);
	return ret;
}

static int filter(const struct sandbox_cfg *cfg, struct err *err)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int ret = f ? fill(f, cfg) : -ENOMEM;

	/* Another ABI's call numbers mean other calls. */
	if (ret == 0)
		ret = seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (ret == 0)
		ret = seccomp_load(f);
	seccomp_release(f);
	return ret < 0 ? err_set(err, -ret, "load the system call filter") : 0;
}

int sandbox_enter(const struct sandbox_cfg *cfg, bool *landlocked, struct err *err)
{
#ifdef INSTRUMENTED
	/* What watches the program needs memory, files and calls of its own. */
	*landlocked = false;
	return 0;
#endif
	int ret = sandbox_limit(RLIMIT_CORE, 0, err);

	if (ret == 0)
		ret = sandbox_limit(RLIMIT_NOFILE, cfg->max_fds, err);
	if (ret == 0 && cfg->max_data_bytes)
		ret = sandbox_limit(RLIMIT_DATA, cfg->max_data_bytes, err);
	if (ret < 0)
		return ret;
	ret = sandbox_drop_privileges();
	if (ret < 0)
		return err_set(err, -ret, "drop capabilities and forbid new privileges");
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_set(err, errno, "forbid core files");
	*landlocked = landlock();
	return filter(cfg, err);
}
