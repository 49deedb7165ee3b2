/* A VM of 64 KiB with one vCPU. The first test is the slope of a loop's time between 500 and 2,000
 * turns, which leaves out what an entry and an exit cost. The second executes what a KVM that
 * emulates is likely not to have, and goes to CPL 3 and back in the ways that stock kernels go.
 */
#include "cpu/kvm/probe.h"

#include "cpu/kvm/kvm.h"
#include "cpu/kvm/kvm_internal.h"

#include "base/err.h"
#include "base/own.h"
#include "cpu/x86/regs.h"
#include "host/kick.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MEMORY	   0x10000ull
#define PML4	   0x1000
#define PDPT	   0x2000
#define PD	   0x3000
#define GDT	   0x4000
#define TSS	   0x4100
#define IDT	   0x5000
#define STEP	   0x6000 /* what is being tried */
#define STACK	   0x8000
#define USER_STACK 0x9000
#define CODE	   0xa000

#define CODE64	 0x08
#define DATA64	 0x10
#define DATA64_3 0x1b
#define CODE64_3 0x23
#define TSS_SEL	 0x28

#define SHORT_LOOP 500u
#define LONG_LOOP  2000u
#define ROUNDS	   5
/* Limits of CPU time, since other loads on the host are not KVM's fault. */
#define LOOPS_MS 60 /* for all runs of the loop together */
#define STEPS_MS 40 /* for the function test */
#define MAX_LOAD 10 /* so many times as long by the clock, at most */

/* Runs at CODE. Each step stores its number first. */
__asm__(".pushsection .rodata\n"
	"probe_code:\n"
	"probe_loop:\n"
	"1:	dec %ecx\n"
	"	jnz 1b\n"
	"	hlt\n"
	"probe_steps:\n"
	"	movb $1, 0x6000\n"
	"	movabs $0x123456789abcdef0, %rax\n"
	"	movq %rax, %xmm0\n"
	"	movq %xmm0, %rbx\n"
	"	cmp %rax, %rbx\n"
	"	jne probe_fail\n"
	"	movb $2, 0x6000\n"
	"	addps %xmm0, %xmm0\n"
	"	movb $3, 0x6000\n"
	"	fld1\n"
	"	fstp %st(0)\n"
	"	movb $4, 0x6000\n"
	"	mov $0x10, %eax\n"
	"	verw %ax\n"
	"	jnz probe_fail\n"
	"	movb $5, 0x6000\n"
	"	lar %eax, %ebx\n"
	"	jnz probe_fail\n"
	"	movb $6, 0x6000\n"
	"	lea probe_user(%rip), %rax\n"
	"	push $0x1b\n"
	"	push $0x9000\n"
	"	push $2\n"
	"	push $0x23\n"
	"	push %rax\n"
	"	iretq\n"
	"probe_user:\n"
	"	movb $7, 0x6000\n"
	"	syscall\n"
	"	movb $9, 0x6000\n"
	"	int $0x80\n"
	"probe_syscall:\n"
	"	movb $8, 0x6000\n"
	"	sysretq\n"
	"probe_int80:\n"
	"	movb $10, 0x6000\n"
	"	hlt\n"
	"probe_stop:\n"
	"	nop\n"
	"	movb $0, 0x6000\n"
	"	int3\n"
	"probe_stray:\n"
	"	hlt\n"
	"probe_fail:\n"
	"	ud2\n"
	"probe_end:\n"
	".popsection\n");
extern const uint8_t probe_code[], probe_loop[], probe_steps[], probe_syscall[], probe_int80[],
	probe_stop[], probe_stray[], probe_end[];

static const char *const step_name[] = {
	"entering 64-bit mode", "movq",	   "addps",  "fld",	 "verw", "lar",
	"iretq to CPL 3",	"SYSCALL", "SYSRET", "int 0x80",
};
#define ALL_STEPS ARRAY_SIZE(step_name)

struct probe {
	int kvm, vm, cpu;
	struct kvm_run *run;
	size_t run_bytes;
	uint8_t *ram;
	struct kvm_sregs sregs; /* before the first run */
	timer_t timer;
	bool has_timer;
	int64_t end_ns, end_cpu_ns; /* by the clock, and by the thread's CPU time */
};

static int64_t read_clock(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int64_t now_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

static uint64_t where(const uint8_t *label)
{
	return CODE + ((uintptr_t)label - (uintptr_t)probe_code);
}

/* -- The guest ------------------------------------------------------------------------------ */

static void write_memory(uint8_t *ram)
{
	static const uint64_t gdt[] = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff,
					0x00cff3000000ffff, 0x00affb000000ffff,
					/* The TSS, available: limit 0x67. */
					0x0000890000000067 | (uint64_t)TSS << 16, 0 };
	uint64_t handler = where(probe_int80);

	store64(ram + PML4, PDPT | 7);
	store64(ram + PDPT, PD | 7);
	store64(ram + PD, 0x87); /* 2 MiB at 0 */
	memcpy(ram + GDT, gdt, sizeof(gdt));
	store64(ram + TSS + 4, STACK);
	/* An interrupt gate that CPL 3 may use. */
	store64(ram + IDT + 0x80 * 16, handler | (uint64_t)CODE64 << 16 | 0xeeull << 40);
	/* #DB and #BP, which are to end elsewhere. */
	for (unsigned vector = 1; vector <= 3; vector += 2)
		store64(ram + IDT + vector * 16,
			where(probe_stray) | (uint64_t)CODE64 << 16 | 0x8eull << 40);
	memcpy(ram + CODE, probe_code, where(probe_end) - CODE);
}

static struct kvm_segment segment(uint16_t sel, uint8_t type, bool code)
{
	return (struct kvm_segment){ .selector = sel,
				     .limit = 0xffffffff,
				     .type = type,
				     .present = 1,
				     .s = 1,
				     .g = 1,
				     .l = code,
				     .db = !code };
}

static void set_sregs(struct kvm_sregs *s)
{
	s->cs = segment(CODE64, 11, true);
	s->ds = s->es = s->fs = s->gs = s->ss = segment(DATA64, 3, false);
	s->tr = (struct kvm_segment){
		.selector = TSS_SEL, .base = TSS, .limit = 0x67, .type = 11, .present = 1
	};
	s->gdt = (struct kvm_dtable){ .base = GDT, .limit = 7 * 8 - 1 };
	s->idt = (struct kvm_dtable){ .base = IDT, .limit = 0x81 * 16 - 1 };
	s->cr0 = CR0_PE | CR0_PG | CR0_MP | CR0_ET | CR0_NE | CR0_WP;
	s->cr3 = PML4;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	s->efer = EFER_SCE | EFER_LME | EFER_LMA;
}

static bool set_msrs(int cpu)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[3];
	} set = { .head.nmsrs = 3,
		  .entry = { { .index = 0xc0000081, /* STAR: SYSRET to DATA64_3 and CODE64_3 */
			       .data = (uint64_t)DATA64 << 48 | (uint64_t)CODE64 << 32 },
			     { .index = 0xc0000082, .data = where(probe_syscall) },
			     { .index = 0xc0000084, .data = 0 } } };

	return kvm_ioctl(cpu, KVM_SET_MSRS, &set) == 3;
}

static bool set_cpuid(struct probe *p)
{
	const unsigned max = 256;
	AUTO_FREE struct kvm_cpuid2 *t = calloc(1, sizeof(*t) + max * sizeof(t->entries[0]));

	if (!t)
		return false;
	t->nent = max;
	return kvm_ioctl(p->kvm, KVM_GET_SUPPORTED_CPUID, t) == 0 &&
	       kvm_ioctl(p->cpu, KVM_SET_CPUID2, t) == 0;
}

static bool start_at(struct probe *p, uint64_t rip, uint64_t rcx)
{
	struct kvm_regs r = { .rip = rip, .rcx = rcx, .rsp = STACK, .rflags = RFLAGS_FIXED1 };

	return kvm_ioctl(p->cpu, KVM_SET_SREGS, &p->sregs) == 0 &&
	       kvm_ioctl(p->cpu, KVM_SET_REGS, &r) == 0;
}

/* -- Making and ending it ---------------------------------------------------------------------- */

/* Runs are interrupted in ms milliseconds from now. False if they cannot be: better none then. */
static bool set_limit(struct probe *p, unsigned ms)
{
	if (p->has_timer)
		kick_timer_stop(p->timer);
	p->has_timer = kick_timer_start(&p->timer, ms, NULL) == 0;
	p->end_ns = now_ns() + MAX_LOAD * ms * 1000000ll;
	p->end_cpu_ns = read_clock(CLOCK_THREAD_CPUTIME_ID) + ms * 1000000ll;
	return p->has_timer;
}

static int make_memory(struct probe *p, struct err *err)
{
	void *ram = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region slot = { .memory_size = MEMORY,
						    .userspace_addr = (uintptr_t)ram };

	if (ram == MAP_FAILED)
		return err_set(err, errno, "memory for the probe");
	p->ram = ram;
	if (kvm_ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return err_set(err, errno, "give KVM memory");
	write_memory(ram);
	return 0;
}

static int make_vm(struct probe *p, struct err *err)
{
	p->kvm = kvm_open(err);
	if (p->kvm < 0)
		return p->kvm;
	p->vm = kvm_ioctl(p->kvm, KVM_CREATE_VM, 0);
	if (p->vm < 0)
		return err_set(err, errno, "make a KVM VM");
	return make_memory(p, err);
}

static int make_cpu(struct probe *p, struct err *err)
{
	int bytes = ioctl(p->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	void *run;

	p->cpu = kvm_ioctl(p->vm, KVM_CREATE_VCPU, 0);
	if (p->cpu < 0 || bytes < (int)sizeof(*p->run))
		return err_set(err, errno, "make a CPU in KVM");
	run = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->cpu, 0);
	if (run == MAP_FAILED)
		return err_set(err, errno, "map KVM's CPU");
	p->run = run;
	p->run_bytes = (size_t)bytes;
	if (!set_cpuid(p) || kvm_ioctl(p->cpu, KVM_GET_SREGS, &p->sregs) < 0)
		return err_set(err, errno, "set up KVM's CPU");
	set_sregs(&p->sregs);
	if (!start_at(p, where(probe_loop), 1) || !set_msrs(p->cpu))
		return err_set(err, errno, "put KVM's CPU into 64-bit mode");
	return 0;
}

static void finish(struct probe *p)
{
	if (p->has_timer)
		kick_timer_stop(p->timer);
	if (p->run)
		munmap(p->run, p->run_bytes);
	if (p->cpu >= 0)
		close(p->cpu);
	if (p->vm >= 0)
		close(p->vm);
	if (p->kvm >= 0)
		close(p->kvm);
	if (p->ram)
		munmap(p->ram, MEMORY);
}

/* -- The tests ------------------------------------------------------------------------------ */

static bool is_over(const struct probe *p)
{
	return now_ns() >= p->end_ns || read_clock(CLOCK_THREAD_CPUTIME_ID) >= p->end_cpu_ns;
}

/* Run until the guest halts. NULL, or what happened in place of that. */
static const char *run_to_halt(struct probe *p)
{
	while (ioctl(p->cpu, KVM_RUN, 0) < 0) {
		if (errno != EINTR && errno != EAGAIN)
			return "KVM refuses to run it";
		if (is_over(p))
			return "time-out";
	}
	switch (p->run->exit_reason) {
	case KVM_EXIT_HLT: return NULL;
	case KVM_EXIT_SHUTDOWN: return "shutdown";
	case KVM_EXIT_INTERNAL_ERROR: return "KVM_EXIT_INTERNAL_ERROR";
	case KVM_EXIT_FAIL_ENTRY: return "KVM_EXIT_FAIL_ENTRY";
	default: return "an unexpected exit";
	}
}

/* Nanoseconds of a loop of n turns, or -1. */
static int64_t time_loop(struct probe *p, unsigned n)
{
	int64_t begin;

	if (!start_at(p, where(probe_loop), n))
		return -1;
	begin = now_ns();
	return run_to_halt(p) ? -1 : now_ns() - begin;
}

static double measure_speed(struct probe *p)
{
	int64_t best[2] = { INT64_MAX, INT64_MAX };

	if (!set_limit(p, LOOPS_MS))
		return 0;
	for (unsigned i = 0; i < 2 * ROUNDS; i++) {
		int64_t ns = time_loop(p, i & 1 ? LONG_LOOP : SHORT_LOOP);

		if (ns < 0)
			break;
		best[i & 1] = MIN(best[i & 1], ns);
	}
	/* Fewer rounds will do where time is short. */
	if (best[0] == INT64_MAX || best[1] == INT64_MAX)
		return 0;
	/* Where a turn costs less than the clock shows, the longer loop may come out shorter. */
	return MAX((double)(best[1] - best[0]) / (LONG_LOOP - SHORT_LOOP), 0.01);
}

static void test_function(struct probe *p, struct kvm_probe *result)
{
	result->failed_at = step_name[0];
	result->failed_how = "KVM refuses its registers, or there is no timer";
	p->ram[STEP] = 0;
	if (!set_limit(p, STEPS_MS) || !start_at(p, where(probe_steps), 0))
		return;
	result->failed_how = run_to_halt(p);
	result->failed_at = NULL;
	if (p->ram[STEP] < ALL_STEPS)
		result->failed_at = step_name[p->ram[STEP]];
	if (result->failed_at && !result->failed_how)
		result->failed_how = "a halt on the way";
}

/* Does the guest stop for a debugger, and with that vector? */
static bool stops(struct probe *p, uint32_t control, uint64_t addr, uint64_t dr7, uint32_t vector)
{
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | control,
				     .arch.debugreg = { addr, [7] = dr7 } };

	if (kvm_ioctl(p->cpu, KVM_SET_GUEST_DEBUG, &d) < 0 || !start_at(p, where(probe_stop), 0) ||
	    !run_to_halt(p))
		return false;
	return p->run->exit_reason == KVM_EXIT_DEBUG && p->run->debug.arch.exception == vector;
}

/* KVM itself may be as it should, and the processor that is emulated below it not. */
static void test_stops(struct probe *p, struct kvm_probe *result)
{
	const struct {
		uint32_t bit, control, vector;
		uint64_t addr, dr7;
	} tests[] = {
		{ KVM_STOPS_AT_CODE, KVM_GUESTDBG_USE_HW_BP, 1, where(probe_stop), 0x401 },
		{ KVM_STOPS_AT_DATA, KVM_GUESTDBG_USE_HW_BP, 1, STEP, 0x10401 },
		{ KVM_STOPS_AT_INT3, KVM_GUESTDBG_USE_SW_BP, 3, 0, 0x400 },
	};

	if (!set_limit(p, STEPS_MS))
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(tests); i++)
		if (stops(p, tests[i].control, tests[i].addr, tests[i].dr7, tests[i].vector))
			result->stops |= tests[i].bit;
}

void kvm_probe(struct kvm_probe *result)
{
	struct probe p = { .kvm = -1, .vm = -1, .cpu = -1 };
	int64_t begin = now_ns();
	struct err err;
	int ret = kick_install(&err);

	*result = (struct kvm_probe){ 0 };
	if (ret == 0)
		ret = make_vm(&p, &err);
	if (ret == 0)
		ret = make_cpu(&p, &err);
	if (ret == 0) {
		result->ns_per_turn = measure_speed(&p);
		test_function(&p, result);
		test_stops(&p, result);
	} else {
		snprintf(result->refused, sizeof(result->refused), "%.*s",
			 (int)sizeof(result->refused) - 1, err.msg);
	}
	finish(&p);
	result->took_ms = (double)(now_ns() - begin) / 1e6;
}

/* -- The decision --------------------------------------------------------------------------- */

bool kvm_probe_accepts(const struct kvm_probe *p, char *why, size_t len)
{
	bool is_fast = p->ns_per_turn > 0 && p->ns_per_turn <= KVM_PROBE_MAX_NS;
	char speed[80] = "its loop did not end in time", function[120] = "the function test passes";

	if (*p->refused) {
		snprintf(why, len, "%s", p->refused);
		return false;
	}
	if (p->ns_per_turn > 0)
		snprintf(speed, sizeof(speed), "%.1f ns a turn of a loop (%s %.0f)", p->ns_per_turn,
			 is_fast ? "at most" : "more than", KVM_PROBE_MAX_NS);
	if (p->failed_at)
		snprintf(function, sizeof(function), "the function test fails at %s (%s)",
			 p->failed_at, p->failed_how);
	snprintf(why, len, "%s, %s", speed, function);
	return is_fast && !p->failed_at;
}
