/* Nothing is reached but what is mapped, however well known it is by other names. The translator
 * finds a page by bits 12 to 43 of a linear address: so the pages here are hot (accessed before, at
 * the same privilege and by the same code), and then accessed by every address that shares those
 * bits, across their ends, after their rights have gone, and by sums that wrap around. The right
 * outcome of an access that may succeed is what the same instruction does to a page that has its
 * index for itself.
 */
#include "lib/long.h"

#define VA    0x10000000000 /* the pages under test: bits 44 and up are 0 */
#define REF   0x20000000000 /* two pages to compare with */
#define FS    0x200000001000
#define VALUE 0x1122334455667788
#define SITE  0x100 /* offset of the data accessed */
#define ALIAS (1ull << 44)
#define TOP   0xfffffffffffff000

/* What an instruction does to its memory. */
#define R	0
#define W	1
#define PUSH	2 /* its fault is #SS, with RSP at the end of the data */
#define POP	4 /* with RSP at their start */
#define SS	8
#define ALIGNED 16
#define REP	32  /* not one access: any may fault first, after others (SDM 3, 9.1.1) */
#define FAR	64  /* reaches no further than 2^60 from VA */
#define JUMP	128 /* faults behind the access */

struct op {
	u64 code, end;
	const char *text;
	u32 size, flags;
};

/* Instructions that access `size` bytes at RDI, from any address and at any privilege; RAX is VALUE
 * before and takes what is read. */
#define STR_(x) #x
#define STR(x)	STR_(x)
#define OP(size, flags, text)                                                                      \
	".pushsection .rodata, 1\n\t.quad 1f, 2f, 3f\n\t.long " STR(size) ", " STR(                \
		flags) "\n\t.popsection\n\t.pushsection .rodata, 2\n3:\t.asciz \"" text            \
		       "\"\n\t.popsection\n"                                                       \
		       "1:\tmovabs $" STR(VALUE) ", %rax\n\t" text "\n2:\tud2\n"
#define XMM "movq %rax, %xmm0; punpcklqdq %xmm0, %xmm0; "

__asm__(".pushsection .rodata, 1\n\t.balign 8\nops:\n\t.popsection\n" OP(8, R, "mov (%rdi), %rax")
		OP(8, W, "mov %rax, (%rdi)") OP(1, R, "mov (%rdi), %al") OP(
			2, R, "mov (%rdi), %ax") OP(4, R, "mov (%rdi), %eax")
			OP(1, R,
			   "movzbl (%rdi), %eax") OP(2, R,
						     "movswq (%rdi), %rax") OP(4, R,
									       "movslq (%rdi), %rax") OP(16, R, "movdqu (%rdi), %xmm1; movq %xmm1, %rax") OP(16, R | ALIGNED, "movaps (%rdi), %xmm1; movq %xmm1, %rax") OP(8, R, "movq (%rdi), %xmm1; movq %xmm1, %rax") OP(16, R | ALIGNED, "pxor %xmm1, %xmm1; por (%rdi), %xmm1; movq %xmm1, %rax") OP(8,
																																											  R,
																																											  "add (%rdi), %rax") OP(4,
																																														 R, "cmp %eax, (%rdi); setb %al") OP(1, R, "testb $0x10, (%rdi); setz %al") OP(8, R, "imul (%rdi), %rax") OP(8, R, "fninit; fldl (%rdi)") OP(10, R, "fninit; fldt (%rdi)") OP(1, W, "mov %al, (%rdi)") OP(2,
																																																																							  W, "mov %ax, (%rdi)") OP(4, W, "mov %eax, (%rdi)") OP(8,
																																																																														W, "movq $0x1234567, (%rdi)") OP(8, W, "movnti %rax, (%rdi)") OP(16,
																																																																																						 W,
																																																																																						 XMM "movdqu %xmm0, (%rdi)") OP(16,
																																																																																										W | ALIGNED,
																																																																																										XMM
																																																																																										"movaps %xmm0, (%rdi)") OP(16, W | ALIGNED, XMM "movntdq %xmm0, (%rdi)") OP(16,
																																																																																																			    W | REP,
																																																																																																			    XMM
																																																																																																			    "pcmpeqb %xmm1, %xmm1; maskmovdqu %xmm1, %xmm0") OP(8,
																																																																																																										W, "fninit; fld1; fstpl (%rdi)") OP(10,
																																																																																																														    W | REP,
																																																																																																														    "fninit; fld1; fstpt (%rdi)") OP(512,
																																																																																																																		     W | ALIGNED |
																																																																																																																			     REP,
																																																																																																																		     "fxsave (%rdi)") OP(1,
																																																																																																																					 W, "setb (%rdi)") OP(1, W, "add %al, (%rdi)") OP(2, W, "xor %ax, (%rdi)") OP(4,
																																																																																																																														      W, "sub %eax, (%rdi)") OP(8,
																																																																																																																																		W,
																																																																																																																																		"stc; adc %rax, (%rdi)") OP(8, W, "rolq $5, (%rdi)") OP(4, W,
																																																																																																																																									"notl (%rdi)") OP(8,
																																																																																																																																											  W,
																																																																																																																																											  "decq (%rdi)") OP(1,
																																																																																																																																													    W,
																																																																																																																																													    "lock add %al, (%rdi)") OP(2, W, "lock xor %ax, (%rdi)") OP(4, W, "lock decl (%rdi)") OP(8, W, "lock or %rax, (%rdi)") OP(8,
																																																																																																																																																												      W, "lock xadd %rax, (%rdi)") OP(8, W, "xchg %rax, (%rdi)") OP(1, W, "xchg %al, (%rdi)") OP(8, W, "lock cmpxchg %rax, (%rdi)") OP(4,
																																																																																																																																																																												       W,
																																																																																																																																																																												       "cmpxchg %eax, (%rdi)") OP(8,
																																																																																																																																																																																  W, "lock cmpxchg8b (%rdi)") OP(16,
																																																																																																																																																																																				 W | ALIGNED,
																																																																																																																																																																																				 "lock cmpxchg16b (%rdi)") OP(8,
																																																																																																																																																																																							      W | PUSH,
																																																																																																																																																																																							      "lea 8(%rdi), %rsp; push %rax") OP(8,
																																																																																																																																																																																												 W | PUSH,
																																																																																																																																																																																												 "lea 8(%rdi), %rsp; push $0x123") OP(2,
																																																																																																																																																																																																      W | PUSH,
																																																																																																																																																																																																      "lea 2(%rdi), %rsp; push %ax")
				OP(8, W | PUSH, "lea 8(%rdi), %rsp; call 4f; 4: nop") OP(8, W | PUSH, "lea 5f(%rip), %rcx; lea 8(%rdi), %rsp; call *%rcx; 5: nop") OP(
					8,
					R | POP,
					"mov %rdi, %rsp; pop %rax") OP(2, R | POP,
								       "mov %rdi, %rsp; pop %ax") OP(8, R | POP | JUMP, "mov %rdi, %rsp; ret")
					OP(8, R | POP | JUMP, "mov %rdi, %rsp; ret $16") OP(8, R | SS, "mov %rdi, %rbp; leave; mov %rbp, %rax") OP(
						8,
						R | SS,
						"mov %rdi, %rbp; mov (%rbp), %rax") OP(8, W | SS,
										       "lea -8(%rdi), %rsp; mov %rax, 8(%rsp)") OP(8, R, "push (%rdi); pop %rax")
						OP(8, W, "push %rax; pop (%rdi)") OP(8, R | JUMP, "jmp *(%rdi)") OP(8, R | JUMP, "call *(%rdi)") OP(
							64, R | REP,
							"mov %rdi, %rsi; lea scratch(%rip), %rdi; mov $64, %ecx; rep movsb;"
							"mov -64(%rdi), %rax") OP(64, R | REP,
										  "mov %rdi, %rsi; lea scratch(%rip), %rdi; mov $8, %ecx; rep movsq;"
										  "mov -64(%rdi), %rax")
							OP(64, W | REP, "lea ops(%rip), %rsi; mov $64, %ecx; rep movsb") OP(
								64, W | REP,
								"lea ops(%rip), %rsi; mov $8, %ecx; rep movsq")
								OP(64, W | REP, "mov $64, %ecx; rep stosb") OP(
									64, W | REP,
									"mov $16, %ecx; rep stosl") OP(64, W | REP,
												       "add $60, %rdi; std; mov $16, %ecx; rep stosl; cld")
									OP(8, W, "stosq") OP(4, R, "mov %rdi, %rsi; lodsl") OP(
										64, R | REP,
										"mov $64, %ecx; repne scasb; mov %rcx, %rax")
										OP(8, R, "lea -0x1000(%rdi), %rsi; mov $0x8005, %ecx; bt %rcx, (%rsi); setc %al") OP(
											8,
											W,
											"lea 0x1000(%rdi), %rsi; mov $-0x7ffb, %rcx; bts %rcx, (%rsi)")
											OP(4, W, "lea 0x1000(%rdi), %rsi; mov $-0x7ff0, %ecx; lock btc %ecx, (%rsi)") OP(
												8,
												R | FAR |
													ALIGNED,
												"movabs $" STR(
													VA) ", %rsi; mov %rdi, %rcx; sub %rsi, %rcx; shl $3, %rcx;"
													    "bt %rcx, (%rsi); setc %al")
												OP(8,
												   W | FAR |
													   ALIGNED,
												   "movabs $" STR(
													   VA) ", %rsi; mov %rdi, %rcx; sub %rsi, %rcx; shl $3, %rcx;"
													       "lock btc %rcx, (%rsi)")
	/* Sums, which wrap around for some of the addresses. */
	OP(8, R, "lea -0x7ffffff0(%rdi), %rsi; mov 0x7ffffff0(%rsi), %rax") OP(
		8,
		W,
		"lea 0x7ffffff0(%rdi), %rsi; mov %rax, -0x7ffffff0(%rsi)")
		OP(8, R,
		   "movabs $0x7fffdeadbeef0123, %rsi; mov %rdi, %rcx; sub %rsi, %rcx;"
		   "mov (%rcx, %rsi), %rax") OP(8, W,
						"movabs $0x1fffdeadbeef0123, %rsi; mov %rdi, %rcx; shl $3, %rsi; sub %rsi, %rcx;"
						"shr $3, %rsi; mov %rax, (%rcx, %rsi, 8)")
			OP(8, R, "movabs $-" STR(FS) ", %rsi; mov %fs:(%rsi, %rdi), %rax") OP(
				8,
				W,
				"movabs $-" STR(
					FS) "-0x40, %rsi; add %rdi, %rsi; lock add %rax, %fs:0x40(%rsi)") ".pushsection .rodata, 1\nops_end:\n\t.popsection\n"
													  ".pushsection .data\n\t.balign 64\nscratch:\t.skip 64\n\t.popsection\n");

extern const struct op ops[], ops_end[];

#define LOAD	    (&ops[0])
#define STORE	    (&ops[1])
#define FOR_OPS(op) for (const struct op *op = ops; op < ops_end; op++)

/* How to run. */
enum { KERNEL, USER_MODE, KERNEL_AC };
#define FOR_MODES(m) for (int m = KERNEL; m <= USER_MODE; m++)

/* Frames 0 to 5 are the tests', 6 and 7 are what REF leads to; golden is what is in them before. */
#define N_FRAMES 8
static u64 frame[N_FRAMES][512] __attribute__((aligned(4096)));
static u64 golden[N_FRAMES][512] __attribute__((aligned(4096)));
static u8 handler_stack[8192] __attribute__((aligned(4096)));
static u64 low_pt[512] __attribute__((aligned(4096)));
extern u64 pml4[512];
extern u32 failures;

/* What ended the last run. */
static struct regs regs;
static u64 cr2;

static void caught(struct regs *r)
{
	regs = *r;
	cr2 = read_cr2();
	r->rip = resume_rip;
	r->rsp = resume_rsp;
	r->cs = CODE64;
	r->ss = 0;
	r->rflags = 2;
	resume_rip = 0;
}

#define CLOBBERS                                                                                   \
	"rbx", "rcx", "rdx", "rsi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",   \
		"memory", "cc"

static void jump(u64 code, int mode, u64 arg)
{
	if (mode == USER_MODE)
		user_run((void *)code, 2, arg);
	else if (mode == KERNEL_AC)
		TRY("stac\n\tjmp *%0", : "+a"(code), "+D"(arg) : : CLOBBERS);
	else
		TRY("jmp *%0", : "+a"(code), "+D"(arg) : : CLOBBERS);
}

static void run(const struct op *op, int mode, u64 addr)
{
	jump(op->code, mode, addr);
}

static void verify(const struct op *op, int mode, u64 addr, u64 have, u64 want, const char *what,
		   int line)
{
	if (have == want || failures > 40)
		return;
	print(op->text);
	print(mode == USER_MODE ? ", user, at " : ", kernel, at ");
	print_hex(addr);
	print(": ");
	check(have, want, what, line);
}
#define VERIFY(have, want) verify(op, mode, addr, (u64)(have), (u64)(want), #have, line)

/* -- Memory ----------------------------------------------------------------------------------- */

static void copy(u64 *to, const u64 *from)
{
	u64 n = 512;

	__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static bool same(const u64 *a, const u64 *b)
{
	for (u64 i = 0; i < 512; i++)
		if (a[i] != b[i])
			return false;
	return true;
}

static void refill(void)
{
	for (unsigned f = 0; f < N_FRAMES; f++)
		copy(frame[f], golden[f]);
}

/* Has nobody written? */
static void verify_intact(const struct op *op, int mode, u64 addr, int line)
{
	for (unsigned f = 0; f < N_FRAMES; f++)
		VERIFY(same(frame[f], golden[f]), true);
	refill();
}
#define INTACT(op, mode, addr) verify_intact(op, mode, addr, __LINE__)

static void map_frame(u64 va, unsigned f, u64 flags)
{
	map(va, (u64)frame[f], flags);
}

static void unmap(u64 va)
{
	map(va, 0, 0);
}

/* Fill the tables. */
static void heat(u64 va, int mode)
{
	for (unsigned i = 0; i < 4; i++) {
		run(LOAD, mode, va + SITE);
		CHECK(regs.vector, 6);
		run(STORE, mode, va + SITE);
		CHECK(regs.vector, 6);
	}
	refill();
}

/* -- Outcomes --------------------------------------------------------------------------------- */

static bool canonical(u64 a)
{
	return (u64)((int64_t)(a << 16) >> 16) == a;
}

static void verify_fault(const struct op *op, int mode, u64 addr, u64 at, u64 present, int line)
{
	u64 base = mode == USER_MODE ? USER_BASE : 0;
	bool first = regs.rip >= op->code + base && regs.rip < op->end + base;

	if (canonical(at)) {
		VERIFY(regs.vector, 14);
		VERIFY(regs.error, present | (op->flags & W ? 2 : 0) | (mode == USER_MODE ? 4 : 0));
		if (op->flags & REP)
			VERIFY(cr2 - at < op->size, true);
		else
			VERIFY(cr2, at);
	} else {
		VERIFY(regs.vector, op->flags & (PUSH | POP | SS) ? 12 : 13);
		VERIFY(regs.error, 0);
	}
	VERIFY(first, true);
	VERIFY(regs.rax, VALUE);
	if (op->flags & (PUSH | POP))
		VERIFY(regs.rsp, addr + (op->flags & PUSH ? op->size : 0));
}

/* The access faults at `at`. */
#define FAULT(op, mode, addr, at, present)                                                         \
	do {                                                                                       \
		run(op, mode, addr);                                                               \
		verify_fault(op, mode, addr, at, present, __LINE__);                               \
	} while (0)

/* It succeeds, and accesses frame f and, behind its end, g. */
static void verify_success(const struct op *op, int mode, u64 addr, unsigned f, unsigned g,
			   int line)
{
	struct regs want;
	u64 ref = REF + (addr & 0xfff), want_cr2;

	copy(frame[6], golden[f]);
	copy(frame[7], golden[g]);
	run(op, mode, ref);
	want = regs;
	want_cr2 = cr2;
	if (!(op->flags & JUMP))
		VERIFY(want.vector, 6);
	run(op, mode, addr);
	VERIFY(regs.vector, want.vector);
	VERIFY(regs.error, want.error);
	VERIFY(regs.rip, want.rip);
	if (regs.vector == 14)
		VERIFY(cr2, want_cr2);
	VERIFY(regs.rax, want.rax);
	if (!(op->flags & FAR))
		VERIFY(regs.rdi == want.rdi || regs.rdi - addr == want.rdi - ref, true);
	VERIFY(same(frame[f], frame[6]), true);
	VERIFY(same(frame[g], frame[7]), true);
	copy(frame[6], golden[6]);
	copy(frame[7], golden[7]);
	copy(frame[f], golden[f]);
	copy(frame[g], golden[g]);
}
#define SUCCESS(op, mode, addr, f, g) verify_success(op, mode, addr, f, g, __LINE__)

/* -- Aliases ---------------------------------------------------------------------------------- */

/* A choice of the 2^20 numbers above bit 43: the canonical ones, single bits and their complements,
 * and some more. */
static u64 some_k(unsigned i)
{
	if (i < 16)
		return i < 8 ? i : 0xffff0 + i;
	if (i < 36)
		return 1u << (i - 16);
	if (i < 56)
		return 0xfffff & ~(1u << (i - 36));
	return i * 2654435761u >> 12;
}
#define N_SOME 160

static bool in_reach(const struct op *op, u64 addr)
{
	u64 d = addr - VA;

	return !(op->flags & FAR) || (u64)((int64_t)(d << 3) >> 3) == d;
}

/* One page is mapped and hot; its aliases are not there. */
static void aliases(u64 page)
{
	map_frame(page, 0, 7);
	FOR_MODES(m)
	{
		heat(page, m);
		FOR_OPS(op)
		{
			if (in_reach(op, page + SITE))
				SUCCESS(op, m, page + SITE, 0, 1);
			for (unsigned i = 0; i < N_SOME; i++) {
				u64 addr = (page & (ALIAS - 1)) + some_k(i) * ALIAS + SITE;

				if (!(op->flags & ALIGNED) && i & 1)
					addr += 0x133;
				if (addr >> 44 == page >> 44 || !in_reach(op, addr))
					continue;
				FAULT(op, m, addr, addr, 0);
			}
			INTACT(op, m, page);
		}
	}
	unmap(page);
}

/* All of them, by a load and a store. */
static void all_aliases(void)
{
	map_frame(VA, 0, 7);
	FOR_MODES(m)
	{
		heat(VA, m);
		for (u64 k = 1; k < 1 << 20; k += m == KERNEL ? 1 : 3)
			FAULT(&ops[k & 1], m, VA + SITE + k * ALIAS, VA + SITE + k * ALIAS, 0);
		INTACT(LOAD, m, VA);
	}
	unmap(VA);
}

/* Pages that share their index, all mapped: each has its own data. Runs at any privilege, from any
 * address; ends with the number of errors in RAX. */
static __attribute__((noinline)) void alternate(u64 turns)
{
	volatile u64 *p[4] = { (u64 *)(VA + SITE), (u64 *)(VA + SITE + ALIAS),
			       (u64 *)(VA + SITE + 7 * ALIAS), (u64 *)(VA + SITE - ALIAS) };
	u64 errors = 0;

	for (u64 i = 0; i < turns; i++)
		for (unsigned j = 0; j < 4; j++) {
			u64 was = i * 4 + j * 0x123456789ab;

			errors += p[j][0] != was;
			errors += p[j][1] != ~was;
			p[j][0] = was + 2;
			__asm__ volatile("lock addq $2, %0" : "+m"(p[j][0]) : : "cc");
			p[j][1] -= 4;
		}
	__asm__ volatile("ud2" : : "a"(errors));
}

static void shared_index(void)
{
	static const u64 at[4] = { VA, VA + ALIAS, VA + 7 * ALIAS, VA - ALIAS };

	for (unsigned j = 0; j < 4; j++)
		map_frame(at[j], j, 7);
	FOR_MODES(m)
	{
		for (unsigned j = 0; j < 4; j++) {
			frame[j][SITE / 8] = j * 0x123456789ab;
			frame[j][SITE / 8 + 1] = ~(j * 0x123456789ab);
		}
		jump((u64)alternate, m, 20000);
		CHECK(regs.vector, 6);
		CHECK(regs.rax, 0);
		for (unsigned j = 0; j < 4; j++)
			CHECK(frame[j][SITE / 8], 80000 + j * 0x123456789ab);
		refill();
		FOR_OPS(op)
		for (unsigned i = 0; i < 12; i++)
			if (in_reach(op, at[i % 4]))
				SUCCESS(op, m, at[i % 4] + SITE, i % 4, 4);
		INTACT(LOAD, m, VA);
	}
	/* One of them goes, the others stay. */
	FOR_MODES(m)
	{
		for (unsigned j = 0; j < 4; j++)
			heat(at[j], m);
		heat(at[0], m);
		unmap(at[1]);
		FAULT(LOAD, m, at[1] + SITE, at[1] + SITE, 0);
		heat(at[0], m);
		unmap(at[0]);
		FAULT(STORE, m, at[0] + SITE, at[0] + SITE, 0);
		SUCCESS(STORE, m, at[2] + SITE, 2, 4);
		FAULT(STORE, m, at[1] + SITE, at[1] + SITE, 0);
		map_frame(at[0], 0, 7);
		map_frame(at[1], 1, 7);
	}
	for (unsigned j = 0; j < 4; j++)
		unmap(at[j]);
}

/* -- Across the end of a page ----------------------------------------------------------------- */

enum {
	GONE,
	GONE_ALIAS_HOT,
	READ_ONLY,
	SUPERVISOR,
	ELSEWHERE,
	FIRST_GONE,
	FIRST_READ_ONLY,
	N_KINDS
};

static void crossing(void)
{
	const u64 second = VA + 0x1000;

	for (int kind = 0; kind < N_KINDS; kind++)
		FOR_MODES(m) FOR_OPS(op)
		{
			if (op->size == 1 || op->flags & (ALIGNED | REP))
				continue;
			map_frame(VA, 0, 7);
			map_frame(second, 2, 7);
			heat(VA, m);
			heat(second, m);
			switch (kind) {
			case GONE: unmap(second); break;
			case GONE_ALIAS_HOT:
				unmap(second);
				map_frame(second + ALIAS, 3, 7);
				heat(second + ALIAS, m);
				break;
			case READ_ONLY: map_frame(second, 2, 5); break;
			case SUPERVISOR: map_frame(second, 2, 3); break;
			case FIRST_GONE: unmap(VA); break;
			case FIRST_READ_ONLY: map_frame(VA, 0, 5); break;
			}
			for (unsigned d = 1; d < op->size; d++) {
				u64 addr = second - d;
				bool w = op->flags & W;

				if (kind == GONE || kind == GONE_ALIAS_HOT)
					FAULT(op, m, addr, second, 0);
				else if (kind == READ_ONLY && w)
					FAULT(op, m, addr, second, 1);
				else if (kind == SUPERVISOR && m == USER_MODE)
					FAULT(op, m, addr, second, 1);
				else if (kind == FIRST_GONE)
					FAULT(op, m, addr, addr, 0);
				else if (kind == FIRST_READ_ONLY && w)
					FAULT(op, m, addr, addr, 1);
				else if (!(op->flags & FAR))
					SUCCESS(op, m, addr, 0, 2);
			}
			INTACT(op, m, VA);
			unmap(second + ALIAS);
		}
	unmap(VA);
	unmap(second);
}

/* The last page below the hole, and the last of all, before which page 0 is not mapped. */
static void ends(void)
{
	const u64 edge = 0x800000000000;

	map_frame(edge - 0x1000, 0, 7);
	map_frame(TOP, 1, 7);
	FOR_MODES(m)
	{
		heat(edge - 0x1000, m);
		heat(TOP, m);
		FOR_OPS(op)
		{
			if (op->flags & (ALIGNED | REP | FAR))
				continue;
			for (unsigned d = 1; d < op->size; d++) {
				FAULT(op, m, edge - d, edge, 0);
				run(op, m, 0 - (u64)d);
				CHECK(regs.vector >= 12 && regs.vector <= 14, true);
			}
			INTACT(op, m, TOP);
		}
	}
	unmap(edge - 0x1000);
	unmap(TOP);
}

/* REP goes as far as it may. */
static void rep_crossing(void)
{
	FOR_MODES(m) FOR_OPS(op)
	{
		u64 addr = VA + 0x1000 - 24;

		if (!(op->flags & REP) || op->size != 64 || op->text[0] == 'a')
			continue;
		map_frame(VA, 0, 7);
		map_frame(VA + 0x1000, 2, 7);
		heat(VA, m);
		heat(VA + 0x1000, m);
		SUCCESS(op, m, addr, 0, 2);
		unmap(VA + 0x1000);
		run(op, m, addr);
		CHECK(regs.vector, 14);
		CHECK(regs.error, (op->flags & W ? 2 : 0) + (m == USER_MODE ? 4 : 0));
		CHECK(cr2, VA + 0x1000);
		CHECK(same(frame[2], golden[2]), true);
		refill();
	}
	unmap(VA);
}

/* -- Rights that go --------------------------------------------------------------------------- */

/* Forget by INVLPG, a load of CR3, or a change of CR4.PGE. */
static void forget(u64 va, unsigned how)
{
	if (how == 0) {
		invlpg(va);
	} else if (how == 1) {
		write_cr3(read_cr3());
	} else {
		write_cr4(read_cr4() ^ 0x80);
		write_cr4(read_cr4() ^ 0x80);
	}
}

static void revoked(void)
{
	for (unsigned how = 0; how < 3; how++) {
		u64 global = how == 2 ? 0x100 : 0;

		write_cr4((read_cr4() & ~0x80ull) | (how == 2 ? 0x80 : 0));
		FOR_MODES(m) FOR_OPS(op)
		{
			u64 addr = VA + SITE, *pte = pte_of(VA, 0), *pde = pte_of(VA, 1), was;

			map_frame(VA, 0, 7 | global);
			heat(VA, KERNEL);
			heat(VA, USER_MODE);
			SUCCESS(op, m, addr, 0, 1);
			*pte &= ~2ull; /* read-only */
			forget(VA, how);
			if (op->flags & W)
				FAULT(op, m, addr, addr, 1);
			else
				SUCCESS(op, m, addr, 0, 1);
			*pte |= 2;
			heat(VA, KERNEL);
			heat(VA, USER_MODE);
			*pte &= ~4ull; /* for the kernel, which heats it again */
			forget(VA, how);
			heat(VA, KERNEL);
			if (m == USER_MODE)
				FAULT(op, m, addr, addr, 1);
			else
				SUCCESS(op, m, addr, 0, 1);
			*pte |= 4;
			forget(VA, how);
			heat(VA, USER_MODE);
			*pte &= ~1ull; /* gone */
			forget(VA, how);
			FAULT(op, m, addr, addr, 0);
			*pte |= 1;
			heat(VA, m);
			was = *pde; /* its table gone */
			*pde = 0;
			forget(VA, how);
			FAULT(op, m, addr, addr, 0);
			*pde = was;
			heat(VA, m);
			map_frame(VA, 3, 7 | global); /* elsewhere */
			forget(VA, how);
			SUCCESS(op, m, addr, 3, 1);
			INTACT(op, m, addr);
		}
		unmap(VA);
	}
	write_cr4(read_cr4() & ~0x80ull);
}

/* Two address spaces that have different pages at one address, with and without PCIDs. */
static void spaces(void)
{
	static u64 other[512] __attribute__((aligned(4096)));
	u64 cr3[2] = { (u64)pml4, (u64)other };
	u32 id[4];

	cpuid(1, 0, id);
	for (unsigned pcid = 0; pcid < 2; pcid++) {
		if (pcid && !(id[2] & 1u << 17))
			break;
		copy(other, pml4);
		other[VA >> 39 & 511] = 0;
		if (pcid) {
			write_cr4(read_cr4() | 1u << 17);
			cr3[1] |= 1;
		}
		for (unsigned i = 0; i < 2; i++) {
			/* pte_of() works on pml4; what it made moves. */
			write_cr3(cr3[0]);
			pml4[VA >> 39 & 511] = 0;
			map_frame(VA, !i, 7);
			if (!i) {
				other[VA >> 39 & 511] = pml4[VA >> 39 & 511];
				pml4[VA >> 39 & 511] = 0;
				write_cr3(cr3[0]);
			}
		}
		for (unsigned i = 0; i < 2; i++) {
			write_cr3(cr3[i]);
			heat(VA, KERNEL);
			heat(VA, USER_MODE);
		}
		FOR_MODES(m) FOR_OPS(op) for (unsigned i = 0; i < 4; i++)
		{
			write_cr3(cr3[i & 1] | (pcid ? 1ull << 63 : 0));
			SUCCESS(op, m, VA + SITE, i & 1, 4);
		}
		write_cr3(cr3[0]);
		if (pcid)
			write_cr4(read_cr4() & ~(1ull << 17));
	}
	write_cr3(cr3[0]);
	unmap(VA);
}

/* SMAP: what STAC has made hot. */
static void access_control(void)
{
	u32 id[4];

	cpuid(7, 0, id);
	if (!(id[1] & 1u << 20))
		return;
	write_cr4(read_cr4() | 1u << 21);
	map_frame(VA, 0, 7);
	FOR_OPS(op)
	{
		heat(VA, USER_MODE);
		heat(VA, KERNEL_AC);
		run(op, KERNEL_AC, VA + SITE);
		CHECK(regs.vector == 6 || op->flags & JUMP, true);
		refill();
		FAULT(op, KERNEL, VA + SITE, VA + SITE, 1);
		INTACT(op, KERNEL, VA);
	}
	write_cr4(read_cr4() & ~(1ull << 21));
	unmap(VA);
}

/* -- Addresses of the host, and sums that wrap ------------------------------------------------ */

static void everywhere(void)
{
	FOR_MODES(m)
	{
		for (u64 a = 0; a < 0x10000; a += 0x3f8)
			FOR_OPS(op)
		if (!(op->flags & (REP | ALIGNED)) && canonical(a) && (a & 0xfff) < 0xff0)
			FAULT(op, m, a, a, 0);
		/* Where hosts have programs, heaps, libraries, stacks. */
		for (u64 a = 0x550000000000; a < 0x570000000000; a += 0x10004fd50)
			FAULT(&ops[a >> 4 & 1], m, a & ~15ull, a & ~15ull, 0);
		for (u64 a = 0x7e0000000000; a < 0x7ffffffff000; a += 0x10004fd50)
			FAULT(&ops[a >> 4 & 1], m, a & ~15ull, a & ~15ull, 0);
		FAULT(LOAD, m, 0xffffffffff600000, 0xffffffffff600000, 0);
		/* The kernel's own memory, as hot as can be. */
		if (m == USER_MODE)
			FOR_OPS(op)
		FAULT(op, m, (u64)frame[0], (u64)frame[0], 1);
	}
	INTACT(LOAD, KERNEL, 0);
}

/* Code in the last page of all: RIP-relative sums that wrap. And code at aliases. */
static void code(void)
{
	static const u8 load[] = { 0x48, 0xb8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
				   0x48, 0x8b, 0x05, 0,	   0,	 0,    0,    0x0f, 0x0b };
	static const u32 disps[] = { 0x7fffffff, 0x12345678, 0x4000, 0x1001 };
	u8 *at = (u8 *)frame[5];

	map_frame(TOP, 5, 7);
	for (unsigned i = 0; i < 4; i++) {
		u64 addr = TOP + 17 + disps[i];
		bool there = addr >= 0x10000;

		memcpy(at, load, sizeof(load));
		memcpy(at + 13, &disps[i], 4);
		FOR_MODES(m)
		{
			jump(m == USER_MODE ? TOP - USER_BASE : TOP, m, 0);
			if (there && m == KERNEL) {
				CHECK(regs.vector, 6);
				continue;
			}
			CHECK(regs.vector, 14);
			CHECK(regs.error, there + (m == USER_MODE ? 4 : 0));
			CHECK(cr2, addr);
			CHECK(regs.rax, VALUE);
		}
	}
	unmap(TOP);

	/* UD2 in a hot page, reached by its aliases. */
	map_frame(VA, 5, 7);
	memset(at, 0x90, 64);
	at[SITE] = 0x0f;
	at[SITE + 1] = 0x0b;
	FOR_MODES(m)
	{
		u64 base = m == USER_MODE ? USER_BASE : 0;

		for (unsigned i = 0; i < 8; i++) {
			jump(VA + SITE - base, m, 0);
			CHECK(regs.vector, 6);
			CHECK(regs.rip, VA + SITE);
		}
		for (unsigned i = 0; i < 4 * N_SOME; i++) {
			u64 to = VA + SITE + some_k(i) * ALIAS;

			if (to == VA + SITE || (m == USER_MODE && !canonical(to)))
				continue;
			jump(to - base, m, 0);
			CHECK(regs.vector, canonical(to) ? 14 : 13);
			CHECK(regs.rip == VA + SITE, false);
			if (canonical(to)) {
				CHECK(cr2, to);
				CHECK(regs.rip, to);
				CHECK(regs.error, 0x10 + (m == USER_MODE ? 4 : 0));
			}
		}
	}
	unmap(VA);
	refill();
}

void main64(void)
{
	static const u8 vectors[] = { 6, 12, 13, 14 };

	write_cr4(read_cr4() | 0x600);
	__asm__ volatile("mov %0, %%fs" : : "r"(0)); /* else IRET to ring 3 drops its base */
	wrmsr(0xc0000100, FS);
	tss_set(0x2c, (u64)handler_stack + sizeof(handler_stack));
	for (unsigned i = 0; i < sizeof(vectors); i++) {
		extern u8 stubs64[];

		handler[vectors[i]] = caught;
		gate(vectors[i], stubs64 + 16 * vectors[i], 0x8e, 2);
	}
	/* The first 64 KiB are not there. */
	for (unsigned i = 16; i < 512; i++)
		low_pt[i] = (u64)i << 12 | 3;
	*pte_of(0, 1) = (u64)low_pt | 3;
	write_cr3(read_cr3());
	/* Where RET goes to by these, nothing is. */
	for (unsigned f = 0; f < N_FRAMES; f++)
		for (unsigned i = 0; i < 512; i++)
			golden[f][i] = 0x6f0123000000 + f * 0x11111111000 + i * 0x1357;
	refill();
	map_frame(REF, 6, 7);
	map_frame(REF + 0x1000, 7, 7);

	aliases(VA);
	aliases(VA + 3 * ALIAS);
	aliases(VA - ALIAS);
	shared_index();
	crossing();
	rep_crossing();
	ends();
	revoked();
	spaces();
	access_control();
	everywhere();
	code();
	all_aliases();
}
