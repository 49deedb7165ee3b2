/* Which exception comes when: priorities, double faults, NMIs, alignment, the FPU's, shadows,
 * single steps and breakpoints. SDM 3A chapter 6, 3B chapter 17.
 */
#include "lib/long.h"

#define TF 0x100
#define RF 0x10000
#define AC 0x40000

static inline void write_dr0(u64 v)
{
	__asm__ volatile("mov %0, %%dr0" : : "r"(v) : "memory");
}

static inline void write_dr6(u64 v)
{
	__asm__ volatile("mov %0, %%dr6" : : "r"(v) : "memory");
}

static inline void write_dr7(u64 v)
{
	__asm__ volatile("mov %0, %%dr7" : : "r"(v) : "memory");
}

static inline u64 read_dr6(void)
{
	u64 v;

	__asm__ volatile("mov %%dr6, %0" : "=r"(v) : : "memory");
	return v;
}

static inline u64 read_dr7(void)
{
	u64 v;

	__asm__ volatile("mov %%dr7, %0" : "=r"(v) : : "memory");
	return v;
}

/* Jump to rip with RFLAGS; ends at an exception. */
static u64 jump_to(u64 rip, u64 rflags)
{
	return TRY("mov %%rsp, %%rax\n\tpushq $0\n\tpushq %%rax\n\tpushq %1\n\tpushq $0x38\n\t"
		   "pushq %0\n\tiretq",
		   :
		   : "r"(rip), "r"(rflags)
		   : "rax", "memory", "cc");
}

extern char bp_ud[], bp_ok[];
__asm__("bp_ud: ud2\n"
	"bp_ok: nop; ud2\n");

static void code_breakpoints(void)
{
	write_dr6(0);
	write_dr0((u64)bp_ud);
	write_dr7(0x401);
	/* A breakpoint before #UD, and without RF in the frame. */
	CHECK(jump_to((u64)bp_ud, 2), 1);
	CHECK(got.rip, bp_ud);
	CHECK(got.rflags, 2);
	CHECK(read_dr6(), 0xffff0ff1);
	/* RF of IRET holds it back; other faults push RF. */
	CHECK(jump_to((u64)bp_ud, 2 | RF), 6);
	CHECK(got.rflags, 2 | RF);
	/* Before the fetch fault too. */
	write_dr0(0x123456789000);
	CHECK(jump_to(0x123456789000, 2), 1);
	CHECK(jump_to(0x123456789000, 2 | RF), 14);
	CHECK(got.error, 0x10);
	CHECK(got.cr2, 0x123456789000);
	/* RF lasts for one instruction. */
	write_dr0((u64)bp_ok + 1);
	CHECK(jump_to((u64)bp_ok, 2 | RF), 1);
	CHECK(got.rip, bp_ok + 1);
	/* MOV SS holds back a breakpoint on what follows. */
	CHECK(TRY("lea 1f(%%rip), %%rax\n\tmov %%rax, %%dr0\n\txor %%eax, %%eax\n\t"
		  "mov %%eax, %%ss\n1:\tnop\n\tud2",
		  :
		  :
		  : "rax", "memory"),
	      6);
	write_dr7(0x400);
	/* An access to debug registers with DR7.GD. */
	write_dr6(0);
	CHECK(TRY("mov %0, %%dr7\n1:\tmov %%dr0, %%rax", : : "r"(0x2400ull) : "rax", "memory"), 1);
	CHECK(read_dr7(), 0x400);
	CHECK(read_dr6(), 0xffff2ff0);
	write_dr6(0);
}

u64 word[8] __attribute__((aligned(64)));

static void data_breakpoints(void)
{
	u8 *p = (u8 *)word;
	u64 cx, di;

	write_dr0((u64)&word[0]);
	write_dr7(0x400 | 1 | 1 << 16 | 3 << 18); /* 4 bytes, writes */
	CHECK(TRY("mov (%0), %%rax\n\tmovb $1, 3(%0)\n1:\tud2", : : "r"(p) : "rax", "memory"), 1);
	CHECK(read_dr6(), 0xffff0ff1);
	CHECK(word[0], 1ull << 24);
	CHECK(TRY("movb $1, 4(%0)\n\tmovl $1, -3(%0)", : : "r"(p) : "rax", "memory"), 1);
	CHECK(word[0] >> 32, 1);
	/* REP STOS stops behind the iteration that hit, and would go on. */
	cx = 16;
	di = (u64)word + 16;
	write_dr0(di + 5);
	write_dr7(0x400 | 1 | 1 << 16);
	CHECK(TRY("rep stosb\n\tud2", : "+c"(cx), "+D"(di) : : "rax", "memory"), 1);
	CHECK(cx, 10);
	CHECK(di, (u64)word + 22);
	CHECK(*(u16 *)got.rip, 0xaaf3);
	write_dr7(0x400);
	/* MOV SS from a watched operand: the trap waits for one instruction more. */
	word[1] = 0;
	write_dr0((u64)&word[1]);
	write_dr7(0x400 | 1 | 3 << 16 | 1 << 18);
	CHECK(TRY("mov (%0), %%ss\n\tnop\n1:\tud2", : : "r"(&word[1]) : "rax", "memory"), 1);
	write_dr7(0x400);
	/* An I/O breakpoint. */
	write_cr4(read_cr4() | 8);
	write_dr0(0x80);
	write_dr7(0x400 | 1 | 2 << 16);
	write_dr6(0);
	CHECK(TRY("outb %%al, $0x81\n\toutb %%al, $0x80\n\tud2", : : : "rax", "memory"), 1);
	CHECK(read_dr6(), 0xffff0ff1);
	write_dr7(0x400);
	write_cr4(read_cr4() & ~8ull);
}

/* --- single steps --- */

static u64 log_rip[32];
static unsigned n_log;

static void log_step(struct regs *r)
{
	if (n_log < 32)
		log_rip[n_log] = r->rip;
	n_log++;
	/* A code that went astray is stopped. */
	if (n_log > 100)
		r->rflags &= ~(u64)TF;
}

extern char step_popf[], sp1[], sp2[], sp3[], step_rep[], sr1[], sr2[], step_iret[], si2[], si3[],
	step_int[], sn1[], sn2[], step_ss[], sm1[], sm2[];
__asm__("step_popf:\n"
	"	pushfq; orq $0x100, (%rsp); popfq\n" /* no trap: TF was clear */
	"	nop\n"
	"sp1:	pushfq\n"
	"sp2:	andq $~0x100, (%rsp)\n"
	"sp3:	popfq\n"
	"	nop; ret\n" /* one trap behind POPF */
	"step_rep:\n"
	"	mov $3, %ecx; lea word+32, %rdi\n"
	"	pushfq; orq $0x100, (%rsp); popfq\n"
	"sr1:	rep stosb\n"
	"sr2:	pushfq; andq $~0x100, (%rsp); popfq; ret\n"
	"step_iret:\n"
	"	mov %rsp, %rax; push $0; push %rax; pushfq; orq $0x100, (%rsp); push $0x38; push $si1\n"
	"	iretq\n"
	"si1:	mov %rsp, %rax\n"
	"si2:	push $0; push %rax; push $2; push $0x38; push $si3; iretq\n"
	"si3:	nop; ret\n"
	"step_int:\n"
	"	pushfq; orq $0x100, (%rsp); popfq\n"
	"	int $0x80\n"
	"sn1:	pushfq\n"
	"sn2:	andq $~0x100, (%rsp); popfq; ret\n"
	"step_ss:\n"
	"	xor %eax, %eax; pushfq; orq $0x100, (%rsp); popfq\n"
	"	mov %eax, %ss\n"
	"	nop\n"
	"sm1:	pushfq\n"
	"sm2:	andq $~0x100, (%rsp); popfq; ret\n");

static void steps(void *code)
{
	n_log = 0;
	handler[1] = log_step;
	__asm__ volatile("call *%0" : : "r"(code) : "rax", "rcx", "rdi", "r11", "memory", "cc");
	handler[1] = NULL;
}

static void note_int(struct regs *r)
{
	log_rip[20] = r->rip;
	log_rip[21] = r->rflags;
}

static void single_steps(void)
{
	steps(step_popf);
	CHECK(n_log, 4);
	CHECK(log_rip[0], sp1);
	CHECK(log_rip[1], sp2);
	CHECK(log_rip[2], sp3);
	CHECK(log_rip[3], sp3 + 1);
	/* A trap behind every iteration. */
	steps(step_rep);
	CHECK(log_rip[0], sr1);
	CHECK(log_rip[1], sr1);
	CHECK(log_rip[2], sr2);
	CHECK(n_log, 6);
	/* IRET with TF in the frame: the first trap is behind the instruction there. IRET that
	 * began with TF set ends with one. */
	steps(step_iret);
	CHECK(n_log, 7);
	CHECK(log_rip[0], si2);
	CHECK(log_rip[6], si3);
	/* INT n clears TF without a trap; it goes on behind its IRET. */
	handler[0x80] = note_int;
	steps(step_int);
	handler[0x80] = NULL;
	CHECK(log_rip[20], sn1);
	CHECK(log_rip[21] & TF, TF);
	CHECK(log_rip[0], sn2);
	/* MOV SS takes its trap along. */
	steps(step_ss);
	CHECK(log_rip[0], sm1);
	CHECK(log_rip[1], sm2);
	write_dr6(0);
}

extern char sc_user[], sc_after[], sc_entry[];
__asm__("sc_user:\n"
	"	syscall\n"
	"sc_after:\n"
	"	ud2\n"
	"sc_entry:\n"
	"	mov $1, %r10d\n"
	"	ud2\n");

/* SYSCALL and SYSRET look at TF as they leave it. */
static void step_syscalls(void)
{
	wrmsr(0xc0000081, 0x0033003800000000);
	wrmsr(0xc0000082, (u64)sc_entry);
	wrmsr(0xc0000084, TF | 0x200);
	CHECK(user_run(sc_user, 2 | TF, 0), 6);
	CHECK(got.rip, sc_entry + 6);
	wrmsr(0xc0000084, 0x200);
	CHECK(user_run(sc_user, 2 | TF, 0), 1);
	CHECK(got.rip, sc_entry);
	CHECK(got.cs, CODE64);
	/* SYSRET that sets TF traps at its target. */
	got.vector = NONE;
	TRY("mov %0, %%rcx\n\tmov $0x102, %%r11d\n\tsysretq",
	    :
	    : "r"(USER(sc_after))
	    : "rax", "rcx", "r11", "memory");
	CHECK(got.vector, 1);
	CHECK(got.rip, USER(sc_after));
	CHECK(got.cs, CODE64_3);
	write_dr6(0);
}

/* --- interrupts held back --- */

static u64 irq_rip;
static unsigned irqs;

static void on_irq(struct regs *r)
{
	irqs++;
	irq_rip = r->rip;
	lapic_write(APIC_EOI, 0);
}

static void self_ipi(unsigned vector)
{
	lapic_write(APIC_ICR, 0x44000 | vector);
}

extern char sh1[], sh2[], sh3[];
static void shadows(void)
{
	lapic_write(APIC_SVR, 0x1ff);
	handler[0x60] = on_irq;
	/* STI lets one more instruction run. */
	self_ipi(0x60);
	__asm__ volatile("sti; nop\nsh1: nop; cli" : : : "memory");
	CHECK(irq_rip, sh1);
	/* STI; CLI: nothing comes in between. */
	irqs = 0;
	self_ipi(0x60);
	__asm__ volatile("sti; cli; nop; nop" : : : "memory");
	CHECK(irqs, 0);
	/* A second STI does not hold back what the first did not. */
	__asm__ volatile("sti; sti\nsh2: nop; nop; cli" : : : "memory");
	CHECK(irqs, 1);
	CHECK(irq_rip, sh2);
	/* STI, then MOV SS: two instructions. */
	self_ipi(0x60);
	__asm__ volatile("sti; mov %0, %%ss; nop\nsh3: nop; cli" : : "r"(0) : "memory");
	CHECK(irqs, 2);
	CHECK(irq_rip, sh3);
	/* STI; HLT wakes up. */
	self_ipi(0x60);
	__asm__ volatile("sti; hlt; cli" : : : "memory");
	CHECK(irqs, 3);
	/* POPF has no shadow. */
	self_ipi(0x60);
	__asm__ volatile("pushq $0x202; popfq\n	nop; cli" : : : "memory");
	CHECK(irqs, 4);
	handler[0x60] = NULL;
}

/* --- NMI --- */

static unsigned nmis, depth, max_depth;
static bool nmi_breaks;

static void send_nmi(void)
{
	lapic_write(APIC_ICR2, 0);
	lapic_write(APIC_ICR, 0x4400);
}

static void on_nmi(struct regs *r)
{
	depth++;
	if (depth > max_depth)
		max_depth = depth;
	if (nmis++ == 0) {
		send_nmi();
		send_nmi();
		for (int i = 0; i < 100; i++)
			pause();
		/* Blocked until an IRET, whichever. */
		CHECK(nmis, 1);
		if (nmi_breaks) {
			__asm__ volatile("int3");
			CHECK(nmis, 2);
		}
	}
	depth--;
}

static void ignore(struct regs *r)
{
}

static void nmi(void)
{
	handler[2] = on_nmi;
	send_nmi();
	CHECK(WAIT(nmis == 2), true); /* two of the three were one */
	CHECK(max_depth, 1);
	nmis = max_depth = 0;
	nmi_breaks = true;
	handler[3] = ignore;
	send_nmi();
	CHECK(WAIT(nmis == 2), true);
	CHECK(max_depth, 2);
	handler[2] = handler[3] = NULL;
}

/* --- faults in faults --- */

extern u8 stubs64[];
static u8 ist_stack[4096] __attribute__((aligned(16)));

static void double_faults(void)
{
	/* #UD through a gate that is not present: #NP, which names it; EXT, since #UD is not the
	 * program's. INT n is. */
	gate(6, stubs64 + 16 * 6, 0x0e, 0);
	CHECK(TRY("ud2", : : : "rax", "memory"), 11);
	CHECK(got.error, 6 * 8 + 3);
	gate(0x50, stubs64 + 16 * 0x50, 0x0e, 0);
	CHECK(TRY("int $0x50", : : : "rax", "memory"), 11);
	CHECK(got.error, 0x50 * 8 + 2);
	/* Contributory in contributory: #DF. */
	gate(13, stubs64 + 16 * 13, 0x0e, 0);
	CHECK(TRY("mov %0, %%ds", : : "r"(0xfff8) : "rax", "memory"), 8);
	CHECK(got.error, 0);
	gate(13, stubs64 + 16 * 13, 0x8e, 0);
	/* Page fault in contributory is served; the other way round it is not. */
	gate(14, stubs64 + 16 * 14, 0x0e, 0);
	CHECK(TRY("mov 0x123456789000, %%rax", : : : "rax", "memory"), 8);
	gate(14, stubs64 + 16 * 14, 0x8e, 0);
	/* A page fault on the stack while a page fault is delivered. */
	tss_set(0x24, (u64)ist_stack + 4096);
	gate(8, stubs64 + 16 * 8, 0x8e, 1);
	CHECK(TRY("mov $0x123456789000, %%rsp\n\tpush %%rax", : : : "rax", "memory"), 8);
	CHECK(got.rsp, 0x123456789000);
	CHECK(got.frame, (u64)ist_stack + 4096 - 48);
	/* The stack misaligned: IST and no IST align the frame. */
	gate(6, stubs64 + 16 * 6, 0x8e, 1);
	tss_set(0x24, (u64)ist_stack + 4096 - 9);
	CHECK(TRY("ud2", : : : "rax", "memory"), 6);
	CHECK(got.frame, (u64)ist_stack + 4096 - 16 - 48);
	gate(6, stubs64 + 16 * 6, 0x8e, 0);
	gate(8, stubs64 + 16 * 8, 0x8e, 0);
}

/* --- alignment --- */

extern char ac_dword[], ac_qword[], ac_byte[], ac_lock[];
__asm__("ac_dword: mov 1(%rsi), %eax; ud2\n"
	"ac_qword: mov %rax, 4(%rsi); ud2\n"
	"ac_byte: movb 1(%rsi), %al; movw 2(%rsi), %ax; movl 4(%rsi), %eax; ud2\n"
	"ac_lock: lock incl 2(%rsi); ud2\n");

extern char ac_code[];
__asm__("ac_code:\n"
	"	lea -64(%rsp), %rsi\n"
	"	cmp $1, %edi; je ac_dword\n"
	"	cmp $2, %edi; je ac_qword\n"
	"	cmp $3, %edi; je ac_byte\n"
	"	jmp ac_lock\n");

static void alignment(void)
{
	write_cr0(read_cr0() | 1 << 18);
	CHECK(user_run(ac_code, 2 | AC, 1), 17);
	CHECK(got.error, 0);
	CHECK(got.rip, USER(ac_dword));
	CHECK(user_run(ac_code, 2 | AC, 2), 17);
	CHECK(user_run(ac_code, 2 | AC, 3), 6);
	CHECK(user_run(ac_code, 2 | AC, 4), 17);
	CHECK(user_run(ac_code, 2, 1), 6);
	/* Not in ring 0. */
	CHECK(TRY("pushfq\n\torq $0x40000, (%%rsp)\n\tpopfq\n\tmov 1(%0), %%eax\n\tud2",
		  :
		  : "r"(word)
		  : "rax", "memory", "cc"),
	      6);
	write_cr0(read_cr0() & ~(1ull << 18));
	CHECK(user_run(ac_code, 2 | AC, 1), 6);
	/* Vector operands that must be aligned. */
	write_cr4(read_cr4() | 0x600);
	CHECK(TRY("movaps 8(%0), %%xmm0", : : "r"(word) : "rax", "memory"), 13);
	CHECK(TRY("fxsave 8(%0)", : : "r"(word) : "rax", "memory"), 13);
}

/* --- FPU --- */

#define MP 2
#define EM 4
#define TS 8
#define NE 0x20

static void with_cr0(u64 bits)
{
	write_cr0((read_cr0() & ~(u64)(MP | EM | TS)) | bits);
}

static void fpu(void)
{
	u32 mxcsr = 0x1f80;

	with_cr0(NE);
	write_cr4(read_cr4() | 0x600);
	with_cr0(TS);
	CHECK(TRY("fld1", : : : "rax", "memory"), 7);
	CHECK(TRY("movaps %%xmm0, %%xmm1", : : : "rax", "memory"), 7);
	CHECK(TRY("fwait", : : : "rax", "memory"), NONE);
	with_cr0(TS | MP);
	CHECK(TRY("fwait", : : : "rax", "memory"), 7);
	with_cr0(EM);
	CHECK(TRY("fld1", : : : "rax", "memory"), 7);
	CHECK(TRY("movaps %%xmm0, %%xmm1", : : : "rax", "memory"), 6);
	CHECK(TRY("paddb %%mm0, %%mm1", : : : "rax", "memory"), 6);
	with_cr0(0);
	write_cr4(read_cr4() & ~0x200ull);
	CHECK(TRY("movaps %%xmm0, %%xmm1", : : : "rax", "memory"), 6);
	write_cr4(read_cr4() | 0x200);
	/* An unmasked x87 exception shows at the next waiting instruction, and there until it is
	 * cleared. */
	u16 cw = 0x37b; /* ZM clear */
	u64 before;

	CHECK(TRY("fninit\n\tfldcw %1\n\tfld1\n\tfldz\n\tfdivrp\n\tlea 1f(%%rip), %0\n"
		  "1:\tfld1",
		  : "=&r"(before)
		  : "m"(cw)
		  : "rax", "memory"),
	      16);
	CHECK(got.rip, before);
	CHECK(TRY("fnstsw %%ax\n\tfwait", : : : "rax", "memory"), 16);
	CHECK(TRY("fnclex\n\tfwait\n\tfninit", : : : "rax", "memory"), NONE);
	/* SIMD exceptions: #XM, or #UD when the system did not say that it takes them. */
	mxcsr = 0x1d80;
	CHECK(TRY("ldmxcsr %0\n\tpcmpeqd %%xmm0, %%xmm0\n\tpsrld $25, %%xmm0\n\t"
		  "pslld $23, %%xmm0\n\txorps %%xmm1, %%xmm1\n\tdivps %%xmm1, %%xmm0",
		  :
		  : "m"(mxcsr)
		  : "rax", "memory"),
	      19);
	__asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
	CHECK(mxcsr & 0x3f, 4);
	write_cr4(read_cr4() & ~0x400ull);
	CHECK(TRY("divps %%xmm1, %%xmm0", : : : "rax", "memory"), 6);
	write_cr4(read_cr4() | 0x400);
	mxcsr = 0x10000;
	CHECK(TRY("ldmxcsr %0", : : "m"(mxcsr) : "rax", "memory"), 13);
	mxcsr = 0x1f80;
	CHECK(TRY("ldmxcsr %0", : : "m"(mxcsr) : "rax", "memory"), NONE);
}

/* --- addresses and transfers --- */

static void addresses(void)
{
	u64 bad = 0x800000000000, at;

	CHECK(TRY("mov (%0), %%rax", : : "r"(bad) : "rax", "memory"), 13);
	CHECK(got.error, 0);
	CHECK(TRY("mov %0, %%rbp\n\tmov (%%rbp), %%rax",
		  :
		  : "r"(bad)
		  : "rax", "rbp", "memory"),
	      12);
	CHECK(got.error, 0);
	/* A range that runs out of the canonical half: before its first page is looked at, as the
	 * host's CPU does. */
	CHECK(TRY("mov -4(%0), %%rax", : : "r"(bad) : "rax", "memory"), 13);
	CHECK(got.error, 0);
	/* Branches fault where they are. */
	CHECK(TRY("lea 1f(%%rip), %0\n1:\tjmp *%1", : "=&r"(at) : "r"(bad) : "rax", "memory"), 13);
	CHECK(got.rip, at);
	CHECK(TRY("lea 1f(%%rip), %0\n\tpush %1\n1:\tret",
		  : "=&r"(at)
		  : "r"(bad)
		  : "rax", "memory"),
	      13);
	CHECK(got.rip, at);
	CHECK(TRY("lea 1f(%%rip), %0\n1:\tcall *%1", : "=&r"(at) : "r"(bad) : "rax", "memory"), 13);
	CHECK(got.rip, at);
	CHECK(got.rsp, resume_rsp);
	CHECK(jump_to(bad, 2), 13);
	CHECK(TRY("xor %%edx, %%edx\n\tdiv %0", : : "r"(0) : "rax", "rdx", "memory"), 0);
	CHECK(got.rflags & RF, RF);
	/* More than 15 bytes; LOCK where it may not be. */
	CHECK(TRY(".fill 15, 1, 0x66\n\tnop", : : : "rax", "memory"), 13);
	CHECK(TRY(".fill 14, 1, 0x66\n\tnop", : : : "rax", "memory"), NONE);
	CHECK(TRY(".byte 0xf0\n\tnop", : : : "rax", "memory"), 6);
	CHECK(TRY(".byte 0xf0\n\tmov (%0), %%eax", : : "r"(bad) : "rax", "memory"), 6);
	/* Beyond the IDT. */
	extern u8 idt64[];
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) idtr = { 0x5f * 16 + 15, (u64)idt64 };

	__asm__ volatile("lidt %0" : : "m"(idtr));
	CHECK(TRY("int $0x60", : : : "rax", "memory"), 13);
	CHECK(got.error, 0x60 * 8 + 2);
	idtr.limit = 0xfff;
	__asm__ volatile("lidt %0" : : "m"(idtr));
}

void main64(void)
{
	code_breakpoints();
	data_breakpoints();
	single_steps();
	step_syscalls();
	shadows();
	nmi();
	double_faults();
	alignment();
	fpu();
	addresses();
}
