/* Which system calls each kind of thread keeps. Each row was wanted by something that this kind of
 * thread does; docs/sandbox.md says by what. Threads share their memory, so what a process could do
 * in the end is the sum of all rows: a row is worth a thought for any kind.
 */
#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "host/sandbox_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <netinet/in.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define K(kind)	 BIT(SANDBOX_##kind)
#define ALL	 (BIT(N_SANDBOX_KINDS) - 1)
#define FILES	 (K(DISK) | K(DISK_WORKER) | K(DISK_NET) | K(MAIN))
#define DISKS	 (K(DISK) | K(DISK_NET))
#define LOOPS	 (K(LOOP) | K(CONTROL) | DISKS | K(NET) | K(VSOCK))
#define STREAMS	 (K(CONTROL) | K(DISK_NET) | K(VSOCK) | K(GDB))
#define SPEAKERS (K(CPU) | K(TIMER) | K(LOOP) | STREAMS | K(MAIN))

/* With a mask, allowed only if (argument arg & mask) == value; several rows of a call: any. */
struct row {
	int nr;
	uint32_t kinds;
	uint8_t arg;
	uint64_t mask, value;
};

#define ANY_BITS  0xffffffffull
#define NULL_ONLY UINT64_MAX, 0

static const struct row rows[] = {
	/* Running at all, malloc, locks, and the terminal's mode when something fails. */
	{ SCMP_SYS(futex), ALL },
	{ SCMP_SYS(rt_sigreturn), ALL },
	{ SCMP_SYS(rt_sigprocmask), ALL },
	{ SCMP_SYS(restart_syscall), ALL },
	{ SCMP_SYS(exit), ALL },
	{ SCMP_SYS(exit_group), ALL },
	{ SCMP_SYS(sched_yield), ALL },
	{ SCMP_SYS(clock_gettime), ALL },
	{ SCMP_SYS(clock_nanosleep), ALL },
	{ SCMP_SYS(gettid), ALL },
	{ SCMP_SYS(getpid), ALL },
	{ SCMP_SYS(brk), ALL },
	{ SCMP_SYS(munmap), ALL },
	{ SCMP_SYS(mremap), ALL },
	{ SCMP_SYS(madvise), ALL },
	{ SCMP_SYS(mmap), ALL, 2, PROT_EXEC, 0 },
	{ SCMP_SYS(mprotect), ALL, 2, PROT_EXEC, 0 },
	{ SCMP_SYS(write), ALL },
	{ SCMP_SYS(ioctl), ALL, 1, ANY_BITS, TCGETS },
	{ SCMP_SYS(ioctl), ALL, 1, ANY_BITS, TCSETSW },
	{ SCMP_SYS(rt_sigaction), ALL, 0, ANY_BITS, SIGSEGV },
	{ SCMP_SYS(rt_sigaction), ALL, 0, ANY_BITS, SIGBUS },
	{ SCMP_SYS(rt_sigaction), ALL, 0, ANY_BITS, SIGFPE },
	{ SCMP_SYS(rt_sigaction), ALL, 0, ANY_BITS, SIGABRT },

	{ SCMP_SYS(poll), LOOPS | K(WRITER) | K(GDB) | K(MAIN) },
	{ SCMP_SYS(read), LOOPS | K(GDB) | K(MAIN) },
	{ SCMP_SYS(close), K(LOOP) | STREAMS | K(MAIN) },
	{ SCMP_SYS(timerfd_settime), K(CONTROL) | DISKS | K(MAIN) },
	{ SCMP_SYS(rt_sigtimedwait), K(SIGNALS) },
	{ SCMP_SYS(getrandom), K(LOOP) | K(DISK_NET) | K(MAIN) },
	{ SCMP_SYS(sysinfo), K(MAIN) }, /* qsort() looks how much memory there is */

	/* Open files. */
	{ SCMP_SYS(preadv), FILES },
	{ SCMP_SYS(pwritev), FILES },
	{ SCMP_SYS(fdatasync), FILES },
	{ SCMP_SYS(fallocate), FILES | K(LOOP) },
	{ SCMP_SYS(ftruncate), DISKS | K(MAIN) },
	{ SCMP_SYS(lseek), DISKS | K(MAIN) },
	{ SCMP_SYS(io_uring_enter), DISKS | K(MAIN) },
	{ SCMP_SYS(fcntl), K(MAIN), 1, ANY_BITS, F_OFD_SETLK },
	{ SCMP_SYS(fcntl), K(CONTROL), 1, ANY_BITS, F_DUPFD_CLOEXEC },

	/* Open sockets. An address would be another way out. */
	{ SCMP_SYS(sendto), SPEAKERS, 4, NULL_ONLY },
	{ SCMP_SYS(recvfrom), K(LOOP) | STREAMS | K(MAIN) },
	{ SCMP_SYS(recvmsg), K(DISK_NET) | K(VSOCK) | K(MAIN) },
	{ SCMP_SYS(sendmsg), K(DISK_NET) | K(MAIN) },
	{ SCMP_SYS(shutdown), K(DISK_NET) | K(VSOCK) | K(MAIN) },
	{ SCMP_SYS(accept4), K(CONTROL) | K(VSOCK) | K(GDB) },
	{ SCMP_SYS(setsockopt), K(GDB), 1, ANY_BITS, IPPROTO_TCP },
	{ SCMP_SYS(getsockopt), K(CONTROL) },
	{ SCMP_SYS(geteuid), K(CONTROL) },

	/* The guest asks vsock for Unix sockets. */
	{ SCMP_SYS(epoll_wait), K(VSOCK) },
	{ SCMP_SYS(epoll_ctl), K(VSOCK) },
	{ SCMP_SYS(socket), K(VSOCK), 0, ANY_BITS, AF_UNIX },
	{ SCMP_SYS(connect), K(VSOCK) },

	/* A tap's frames; a helper's end. */
	{ SCMP_SYS(readv), K(NET) },
	{ SCMP_SYS(writev), K(NET) | K(DISK_NET) | K(MAIN) },
	{ SCMP_SYS(ioctl), K(NET), 1, ANY_BITS, TUNSETOFFLOAD },
	{ SCMP_SYS(wait4), K(NET) | K(MAIN) },
};

/* What breaks out; for messages. */
static const struct {
	int nr;
	const char *name;
} names[] = {
	{ SCMP_SYS(open), "open" },
	{ SCMP_SYS(openat), "openat" },
	{ SCMP_SYS(openat2), "openat2" },
	{ SCMP_SYS(socket), "socket" },
	{ SCMP_SYS(connect), "connect" },
	{ SCMP_SYS(bind), "bind" },
	{ SCMP_SYS(execve), "execve" },
	{ SCMP_SYS(execveat), "execveat" },
	{ SCMP_SYS(fork), "fork" },
	{ SCMP_SYS(vfork), "vfork" },
	{ SCMP_SYS(ptrace), "ptrace" },
	{ SCMP_SYS(process_vm_readv), "process_vm_readv" },
	{ SCMP_SYS(process_vm_writev), "process_vm_writev" },
	{ SCMP_SYS(kill), "kill" },
	{ SCMP_SYS(tgkill), "tgkill" },
	{ SCMP_SYS(mmap), "mmap" },
	{ SCMP_SYS(mprotect), "mprotect" },
	{ SCMP_SYS(unlinkat), "unlinkat" },
	{ SCMP_SYS(io_uring_setup), "io_uring_setup" },
};

const char *sandbox_call_name(int nr)
{
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].nr == nr)
			return names[i].name;
	return NULL;
}

static int allow(scmp_filter_ctx f, const struct row *r)
{
	struct scmp_arg_cmp cmp = SCMP_CMP64(r->arg, SCMP_CMP_MASKED_EQ, r->mask, r->value);

	return seccomp_rule_add_array(f, SCMP_ACT_ALLOW, r->nr, r->mask ? 1 : 0, &cmp);
}

/* Signals to this process, and the helpers' end. */
static int allow_signals(scmp_filter_ctx f, uint32_t kind, const struct sandbox_threads_cfg *cfg)
{
	struct row self = { SCMP_SYS(tgkill), ALL, 0, ANY_BITS, (uint32_t)getpid() };
	int ret = allow(f, &self);

	self.nr = SCMP_SYS(kill);
	if (kind & K(SIGNALS) && ret == 0)
		ret = allow(f, &self);
	for (unsigned i = 0; kind & (K(NET) | K(MAIN)) && i < cfg->n_helpers && ret == 0; i++)
		ret = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(kill), 2,
				       SCMP_A0_32(SCMP_CMP_EQ, (uint32_t)cfg->helper[i]),
				       SCMP_A1_32(SCMP_CMP_EQ, SIGKILL));
	return ret;
}

/* What cpu/kvm/run.c lists; who stops a vCPU reads its state on the main thread. */
static int allow_kvm(scmp_filter_ctx f)
{
	static const unsigned long requests[] = {
		KVM_RUN,
		KVM_INTERRUPT,
		KVM_NMI,
		KVM_GET_REGS,
		KVM_SET_REGS,
		KVM_GET_SREGS,
		KVM_SET_SREGS,
		KVM_GET_SREGS2,
		KVM_SET_SREGS2,
		KVM_GET_XSAVE,
		KVM_SET_XSAVE,
		KVM_GET_XCRS,
		KVM_SET_XCRS,
		KVM_GET_MSRS,
		KVM_SET_MSRS,
		KVM_GET_DEBUGREGS,
		KVM_SET_DEBUGREGS,
		KVM_SET_GUEST_DEBUG,
		KVM_GET_VCPU_EVENTS,
		KVM_SET_VCPU_EVENTS,
		KVM_GET_DEVICE_ATTR,
		KVM_SET_DEVICE_ATTR,
		KVM_GET_LAPIC,
		KVM_SET_LAPIC,
		KVM_GET_MP_STATE,
		KVM_SET_MP_STATE,
		KVM_SET_SIGNAL_MASK,
		KVM_SET_GSI_ROUTING,
		KVM_IOEVENTFD,
		KVM_HAS_DEVICE_ATTR,
		KVM_RESET_DIRTY_RINGS,
		KVM_SET_USER_MEMORY_REGION,
		KVM_GET_DIRTY_LOG,
		KVM_CLEAR_DIRTY_LOG,
	};
	int ret = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(requests) && ret == 0; i++)
		ret = allow(f, &(struct row){ SCMP_SYS(ioctl), ALL, 1, ANY_BITS, requests[i] });
	return ret;
}

/* Files, not folders; a path that is not below the folder is Landlock's to refuse. */
static int allow_removal(scmp_filter_ctx f, const struct sandbox_threads_cfg *cfg)
{
	int ret = 0;

	for (unsigned i = 0; i < cfg->n_remove_in && ret == 0; i++)
		ret = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(unlinkat), 2,
				       SCMP_A0_32(SCMP_CMP_EQ, (uint32_t)cfg->remove_in[i]),
				       SCMP_A2_32(SCMP_CMP_EQ, 0));
	return ret;
}

/* The C library blocks all signals around these, and a signal for a refused call that is blocked
 * ends the process: so they just fail. */
static int refuse_quietly(scmp_filter_ctx f)
{
	int ret = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 0);

	return ret < 0 ? ret : seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone3), 0);
}

static int fill(scmp_filter_ctx f, uint32_t kind, const struct sandbox_threads_cfg *cfg)
{
	int ret = seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);

	/* A tree: no call has to pass all the others. */
	if (ret == 0)
		ret = seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (unsigned i = 0; i < ARRAY_SIZE(rows) && ret == 0; i++)
		if (rows[i].kinds & kind)
			ret = allow(f, &rows[i]);
	if (ret == 0)
		ret = allow_signals(f, kind, cfg);
	if (ret == 0 && cfg->kvm && kind & (K(CPU) | K(MAIN)))
		ret = allow_kvm(f);
	/* Whoever has an interrupt sends it. */
	if (ret == 0 && cfg->kvm)
		ret = allow(f, &(struct row){ SCMP_SYS(ioctl), ALL, 1, ANY_BITS, KVM_SIGNAL_MSI });
	if (ret == 0 && kind & K(MAIN))
		ret = allow_removal(f, cfg);
	return ret < 0 ? ret : refuse_quietly(f);
}

/* libseccomp writes programs to descriptors only. */
static int export(scmp_filter_ctx f, struct sock_fprog *out)
{
	AUTO_FD int fd = memfd_create("filter", MFD_CLOEXEC);
	struct stat st;
	int ret = fd < 0 ? -errno : seccomp_export_bpf(f, fd);

	if (ret < 0 || fstat(fd, &st) < 0)
		return ret < 0 ? ret : -errno;

	AUTO_FREE struct sock_filter *program = malloc((size_t)st.st_size);

	if (!program || pread(fd, program, (size_t)st.st_size, 0) != st.st_size)
		return program ? -EIO : -ENOMEM;
	*out = (struct sock_fprog){ .len = (unsigned short)((size_t)st.st_size / sizeof(*program)),
				    .filter = move_ptr(&program) };
	return 0;
}

int sandbox_filter(enum sandbox_kind kind, const struct sandbox_threads_cfg *cfg,
		   struct sock_fprog *filter, struct err *err)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_TRAP);
	int ret = f ? fill(f, (uint32_t)BIT(kind), cfg) : -ENOMEM;

	if (ret == 0)
		ret = export(f, filter);
	seccomp_release(f);
	return ret < 0 ? err_set(err, -ret, "make a system call filter") : 0;
}
