/* The child never leaves its signal handler but to run a test: the handler's frame is the state
 * that the kernel will load, so a test is started by writing its registers there and ends by the
 * signal that its last INT3 or its fault raises, with its registers in the next frame.
 *
 * While a test runs the child's FS base is the test's. The handler restores its own first.
 */
#include "native.h"

#include <asm/ldt.h>
#include <asm/processor-flags.h>
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define STACK_BYTES   (256 * KiB)
#define TICK_US	      50000
#define TIMEOUT_MS    20000
#define HWCAP2_FSGS   2
#define XFEATURES     0xe7u /* x87, SSE, AVX, AVX-512 */
#define XSAVE_HEADER  512
#define XSAVE_MAX     4096
#define EFLAGS_LEAVES (X86_EFLAGS_AC | X86_EFLAGS_NT | X86_EFLAGS_ID)

enum { OFF_AVX, OFF_K, OFF_ZMM_HI, OFF_HI16, N_OFFS };

/* The child's. A signal handler is given nothing else. */
static struct {
	struct shared *shared;
	uint8_t *code; /* the code pages, writable */
	uint8_t *ro;   /* the read-only page, writable */
	int go, done;
	uint32_t off[N_OFFS]; /* of the components of the standard XSAVE format */
	uint64_t fs_base;     /* the host's */
	uint32_t tick_test;   /* the test that the last timer tick found running */
	uint32_t in_code;     /* bytes of the code pages that are not INT3 */
	uint16_t code_off;
	bool begun;
} child;

/* ---- state in a signal frame ---- */

/* Component comp of the frame's XSAVE image, or NULL where it was saved as initial. */
static uint8_t *component(uint8_t *x, unsigned comp, uint32_t off)
{
	return load64(x + XSAVE_HEADER) >> comp & 1 ? x + off : NULL;
}

static void take(void *to, const uint8_t *from, size_t n)
{
	if (from)
		memcpy(to, from, n);
	else
		memset(to, 0, n);
}

static void save_x87(struct state *s, uint8_t *x)
{
	memset(s->fx, 0, sizeof(s->fx));
	store16(s->fx, 0x37f);
	if (!component(x, 0, 0))
		return;
	memcpy(s->fx, x, 24);
	memcpy(s->fx + 32, x + 32, 128);
}

static void save_vectors(struct state *s, uint8_t *x)
{
	uint64_t bv = load64(x + XSAVE_HEADER);
	const uint8_t *sse = bv & 2 ? x + 160 : NULL;
	const uint8_t *avx = component(x, 2, child.off[OFF_AVX]);
	const uint8_t *k = component(x, 5, child.off[OFF_K]);
	const uint8_t *hi = component(x, 6, child.off[OFF_ZMM_HI]);
	const uint8_t *hi16 = component(x, 7, child.off[OFF_HI16]);

	for (unsigned n = 0; n < 16; n++) {
		take(s->zmm[n], sse ? sse + n * 16 : NULL, 16);
		take(s->zmm[n] + 16, avx ? avx + n * 16 : NULL, 16);
		take(s->zmm[n] + 32, hi ? hi + n * 32 : NULL, 32);
	}
	take(s->zmm[16], hi16, 16 * 64);
	take(s->k, k, sizeof(s->k));
	s->mxcsr = load32(x + 24);
}

static void load_fpu(const struct state *s, uint8_t *x)
{
	memcpy(x, s->fx, 24);
	store32(x + 24, s->mxcsr);
	memcpy(x + 32, s->fx + 32, 128);
	for (unsigned n = 0; n < 16; n++) {
		memcpy(x + 160 + n * 16, s->zmm[n], 16);
		memcpy(x + child.off[OFF_AVX] + n * 16, s->zmm[n] + 16, 16);
		memcpy(x + child.off[OFF_ZMM_HI] + n * 32, s->zmm[n] + 32, 32);
	}
	memcpy(x + child.off[OFF_HI16], s->zmm[16], 16 * 64);
	memcpy(x + child.off[OFF_K], s->k, sizeof(s->k));
	memset(x + XSAVE_HEADER, 0, 64);
	store64(x + XSAVE_HEADER, XFEATURES);
}

/* Index of each register in gregs, in the order of the registers' numbers. */
static const uint8_t greg_of[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				     REG_RSI, REG_RDI, REG_R8,	REG_R9,	 REG_R10, REG_R11,
				     REG_R12, REG_R13, REG_R14, REG_R15 };

/* ---- loading and saving ---- */

static uint64_t read_fs_base(void)
{
	uint64_t v;

	__asm__ volatile("rdfsbase %0" : "=r"(v));
	return v;
}

static void write_fs_base(uint64_t v)
{
	__asm__ volatile("wrfsbase %0" : : "r"(v));
}

static void save_result(struct result *r, int sig, const ucontext_t *uc, uint64_t fs_base)
{
	const greg_t *g = uc->uc_mcontext.gregs;
	uint8_t *x = (uint8_t *)uc->uc_mcontext.fpregs;

	r->vector = (uint8_t)g[REG_TRAPNO];
	if (sig == SIGSYS)
		r->vector = END_SYSCALL;
	if (sig == SIGVTALRM)
		r->vector = END_HUNG;
	r->error = (uint32_t)g[REG_ERR];
	r->cr2 = (uint64_t)g[REG_CR2];
	for (unsigned n = 0; n < 16; n++)
		r->out.gpr[n] = (uint64_t)g[greg_of[n]];
	r->out.rip = (uint64_t)g[REG_RIP];
	r->out.rflags = (uint64_t)g[REG_EFL];
	r->out.fs_base = fs_base;
	__asm__ volatile("rdgsbase %0" : "=r"(r->out.gs_base));
	save_x87(&r->out, x);
	save_vectors(&r->out, x);
	for (unsigned n = 0; n < N_DATA; n++)
		memcpy(r->mem[n], (void *)(WIN_BASE + data_page[n] * WIN_PAGE), WIN_PAGE);
	memset(r->code, 0, sizeof(r->code));
	memcpy(r->code, child.code + child.code_off, child.in_code);
}

static void load_code(const struct test *t)
{
	uint8_t code[TEST_CODE];
	unsigned n = test_code(t, code);

	memset(child.code + child.code_off, 0xcc, child.in_code);
	if (child.shared->smc)
		memset(child.code, 0xcc, N_CODE * WIN_PAGE);
	child.code_off = (uint16_t)(t->code_off - CODE_PAGE * WIN_PAGE);
	/* The last instruction may reach over the end of the code. */
	child.in_code = MIN(n, (unsigned)(N_CODE * WIN_PAGE) - child.code_off);
	memcpy(child.code + child.code_off, code, child.in_code);
}

static void load_data_segs(const struct test *t)
{
	__asm__ volatile("mov %0, %%ds" : : "r"((uint32_t)seg_rows[t->ds].sel));
	__asm__ volatile("mov %0, %%es" : : "r"((uint32_t)seg_rows[t->es].sel));
}

static void load_test(const struct test *t, ucontext_t *uc)
{
	greg_t *g = uc->uc_mcontext.gregs;

	load_code(t);
	for (unsigned n = 0; n < N_DATA; n++)
		memcpy((void *)(WIN_BASE + data_page[n] * WIN_PAGE),
		       child.shared->image[t->image][n], WIN_PAGE);
	for (unsigned n = 0; n < 16; n++)
		g[greg_of[n]] = (greg_t)t->in.gpr[n];
	g[REG_RIP] = (greg_t)t->in.rip;
	g[REG_EFL] = (greg_t)t->in.rflags;
	g[REG_CSGSFS] = (greg_t)(seg_rows[t->cs].sel | (uint64_t)seg_rows[t->ss].sel << 48);
	load_fpu(&t->in, (uint8_t *)uc->uc_mcontext.fpregs);
	load_data_segs(t);
	__asm__ volatile("wrgsbase %0" : : "r"(t->in.gs_base));
	write_fs_base(t->in.fs_base);
}

/* ---- the handler ---- */

static void next_batch(void)
{
	char byte = 0;

	if (child.begun && write(child.done, &byte, 1) != 1)
		_exit(1);
	child.begun = true;
	if (read(child.go, &byte, 1) != 1)
		_exit(0);
	child.shared->current = 0;
	child.tick_test = ~0u;
}

static __attribute__((used)) void on_signal(int sig, siginfo_t *info, void *context)
{
	uint64_t fs_base = read_fs_base();
	struct shared *s = child.shared;
	ucontext_t *uc = context;

	write_fs_base(child.fs_base);
	/* The second tick in one test means that it does not end. */
	if (sig == SIGVTALRM && child.tick_test != s->current) {
		child.tick_test = s->current;
		write_fs_base(fs_base);
		return;
	}
	if (child.begun)
		save_result(&s->native[s->current], sig, uc, fs_base);
	if (!child.begun || ++s->current == s->n)
		next_batch();
	load_test(&s->test[s->current], uc);
}

/* What a test may leave in RFLAGS and the kernel does not clear: AC would fault in the handler, NT
 * and ID would be there in the next test. */
void native_entry(int sig, siginfo_t *info, void *context);
__asm__(".text\n"
	".globl native_entry\n"
	"native_entry:\n\t"
	"pushfq\n\t"
	"andl $~0x244000, (%rsp)\n\t"
	"popfq\n\t"
	"jmp on_signal\n");
_Static_assert(EFLAGS_LEAVES == 0x244000, "native_entry clears them");

/* ---- the child ---- */

static void die(const char *what)
{
	fprintf(stderr, "isa-diff: native: %s: %s\n", what, strerror(errno));
	_exit(2);
}

static void *map(void *at, size_t len, int prot, int fd, off_t off)
{
	int flags = (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) |
		    (at ? MAP_FIXED_NOREPLACE : 0) | MAP_POPULATE;
	void *p = mmap(at, len, prot, flags, fd, off);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

/* Code and the read-only page are written by another address than the tests see. */
static void map_window(void)
{
	size_t code_len = N_CODE * WIN_PAGE;
	int fd = memfd_create("isa-diff", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)(code_len + WIN_PAGE)) < 0)
		die("memfd");
	child.code = map(NULL, code_len, PROT_READ | PROT_WRITE, fd, 0);
	child.ro = map(NULL, WIN_PAGE, PROT_READ | PROT_WRITE, fd, (off_t)code_len);
	memset(child.code, 0xcc, code_len);
	memcpy(child.ro, child.shared->ro_page, WIN_PAGE);
	map((void *)(WIN_BASE + CODE_PAGE * WIN_PAGE), code_len,
	    PROT_READ | PROT_EXEC | (child.shared->smc ? PROT_WRITE : 0), fd, 0);
	map((void *)(WIN_BASE + RO_PAGE * WIN_PAGE), WIN_PAGE, PROT_READ, fd, (off_t)code_len);
	for (unsigned n = 0; n < N_DATA; n++)
		map((void *)(WIN_BASE + data_page[n] * WIN_PAGE), WIN_PAGE, PROT_READ | PROT_WRITE,
		    -1, 0);
}

static void make_ldt(void)
{
	for (unsigned n = 0; n < N_KINDS; n++) {
		const struct seg_row *r = &seg_rows[n];
		struct user_desc d = { .entry_number = r->sel >> 3,
				       .base_addr = r->base,
				       .limit = r->limit,
				       .seg_32bit = r->db,
				       .contents = r->code ? 2u : r->down,
				       .read_exec_only = !r->code && !r->writable,
				       .useable = 1 };

		if (r->ldt && syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)) < 0)
			die("modify_ldt");
	}
}

static void catch_signals(void)
{
	static const int signals[] = {
		SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGSYS, SIGVTALRM
	};
	stack_t ss = { .ss_sp = map(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, -1, 0),
		       .ss_size = STACK_BYTES };
	struct sigaction sa = { .sa_sigaction = native_entry, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	struct itimerval tick = { { 0, TICK_US }, { 0, TICK_US } };

	sigfillset(&sa.sa_mask);
	if (sigaltstack(&ss, NULL) < 0)
		die("sigaltstack");
	for (size_t n = 0; n < ARRAY_SIZE(signals); n++)
		if (sigaction(signals[n], &sa, NULL) < 0)
			die("sigaction");
	if (setitimer(ITIMER_VIRTUAL, &tick, NULL) < 0)
		die("setitimer");
}

/* A test that jumps astray may meet a SYSCALL or INT 80: nothing comes of it but a signal. */
static void forbid_syscalls(void)
{
#define ALLOW(nr)                                                                                  \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1),                                           \
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(SYS_read),
		ALLOW(SYS_write),
		ALLOW(SYS_rt_sigreturn),
		ALLOW(SYS_exit_group),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
	};
	struct sock_fprog prog = { ARRAY_SIZE(filter), filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
		die("seccomp");
}

static void find_components(void)
{
	static const uint8_t leaf[N_OFFS] = { 2, 5, 6, 7 };

	for (unsigned n = 0; n < N_OFFS; n++) {
		uint32_t a, c, d;

		__cpuid_count(0xd, leaf[n], a, child.off[n], c, d);
		if (!a || child.off[n] > XSAVE_MAX)
			die("XSAVE layout");
	}
}

static _Noreturn void run_child(struct native *n, int go, int done)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	child.shared = n->shared;
	child.go = go;
	child.done = done;
	child.begun = false;
	child.fs_base = read_fs_base();
	find_components();
	map_window();
	make_ldt();
	catch_signals();
	forbid_syscalls();
	__asm__ volatile("int3");
	_exit(3);
}

/* ---- the parent ---- */

const char *native_init(struct native *n)
{
	uint32_t lo = 0, hi = 0, a, b, c, d;

	*n = (struct native){ .pid = -1, .go = -1, .done = -1 };
	if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGS))
		return "the kernel does not allow WRFSBASE";
	__cpuid(1, a, b, c, d);
	if (c & bit_OSXSAVE)
		__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	if ((lo & XFEATURES) != XFEATURES)
		return "the host's CPU has no AVX-512";
	if (syscall(SYS_modify_ldt, 0, NULL, 0) < 0)
		return "the kernel has no modify_ldt";
	n->shared = mmap(NULL, sizeof(*n->shared), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return n->shared == MAP_FAILED ? "no memory" : NULL;
}

const char *native_start(struct native *n)
{
	int go[2], done[2];

	if (pipe2(go, O_CLOEXEC) < 0 || pipe2(done, O_CLOEXEC) < 0)
		return strerror(errno);
	fflush(NULL);
	n->pid = fork();
	if (n->pid < 0)
		return strerror(errno);
	if (!n->pid) {
		close(go[1]);
		close(done[0]);
		run_child(n, go[0], done[1]);
	}
	close(go[0]);
	close(done[1]);
	n->go = go[1];
	n->done = done[0];
	return NULL;
}

void native_go(struct native *n)
{
	char byte = 0;

	/* If it is gone, native_wait will say so. */
	if (write(n->go, &byte, 1) != 1)
		return;
}

/* How the child ended, after making sure that it has. */
static const char *obituary(struct native *n)
{
	static char text[64];
	int status = 0;

	kill(n->pid, SIGKILL);
	waitpid(n->pid, &status, 0);
	close(n->go);
	close(n->done);
	n->pid = -1;
	if (WIFEXITED(status))
		snprintf(text, sizeof(text), "exited with %d", WEXITSTATUS(status));
	else
		snprintf(text, sizeof(text), "was killed: %s", strsignal(WTERMSIG(status)));
	return text;
}

const char *native_wait(struct native *n)
{
	struct pollfd p = { .fd = n->done, .events = POLLIN };
	char byte;
	int r;

	do
		r = poll(&p, 1, TIMEOUT_MS);
	while (r < 0 && errno == EINTR);
	if (r > 0 && read(n->done, &byte, 1) == 1)
		return NULL;
	return obituary(n);
}

void native_stop(struct native *n)
{
	if (n->pid > 0)
		obituary(n);
	munmap(n->shared, sizeof(*n->shared));
}
