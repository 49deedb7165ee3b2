#include "host/sandbox.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"

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
#define LANDLOCK_VERSION_FLAG 1
#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
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

static int limit(int what, uint64_t max, struct err *err)
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

static int drop_privileges(struct err *err)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };

	if (syscall(SYS_capset, &head, none) < 0)
		return err_set(err, errno, "drop capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_set(err, errno, "forbid new privileges");
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_set(err, errno, "forbid core files");
	return 0;
}

/* No path opens any more: all rights that this kernel's Landlock knows are handled, none is given.
 * False where the kernel has none.
 */
static bool landlock(void)
{
	long abi = syscall(__NR_landlock_create_ruleset, NULL, 0, LANDLOCK_VERSION_FLAG);
	struct landlock_rules rules = { .handled_access_fs = BIT(13) - 1 };
	size_t size = 8;

	if (abi < 1)
		return false;
	if (abi >= 2)
		rules.handled_access_fs |= BIT(13); /* REFER */
	if (abi >= 3)
		rules.handled_access_fs |= BIT(14); /* TRUNCATE */
	if (abi >= 5)
		rules.handled_access_fs |= BIT(15); /* IOCTL_DEV */
	if (abi >= 6) {
		rules.scoped = 3; /* abstract sockets and signals of others */
		size = sizeof(rules);
	}

	AUTO_FD int fd = (int)syscall(__NR_landlock_create_ruleset, &rules, size, 0);

	return fd >= 0 && syscall(__NR_landlock_restrict_self, fd, 0) == 0;
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
	int ret = limit(RLIMIT_CORE, 0, err);

	if (ret == 0)
		ret = limit(RLIMIT_NOFILE, cfg->max_fds, err);
	if (ret == 0 && cfg->max_data_bytes)
		ret = limit(RLIMIT_DATA, cfg->max_data_bytes, err);
	if (ret == 0)
		ret = drop_privileges(err);
	if (ret < 0)
		return ret;
	*landlocked = landlock();
	return filter(cfg, err);
}
