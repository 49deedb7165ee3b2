/* Code that changes: by itself, behind itself, through another address, by REP, back to data. A
 * processor sees its own stores to code at once. SDM 3A 8.1.3 "Handling Self- and Cross-Modifying
 * Code", 11.6 "Self-Modifying Code".
 */
#include "lib/long.h"

#define VA 0x10000000000ull

static u8 code[3][4096] __attribute__((aligned(4096)));

static u32 call(void *p)
{
	u32 v;

	__asm__ volatile("call *%1"
			 : "=a"(v)
			 : "r"(p)
			 : "rcx", "rdx", "rsi", "rdi", "memory", "cc");
	return v;
}

/* MOV EAX, v; RET */
static void returns(u8 *p, u32 v)
{
	p[0] = 0xb8;
	memcpy(p + 1, &v, 4);
	p[5] = 0xc3;
}

/* The next instruction of the same block changes. */
u32 next_insn(u32 v);
u32 next_twice(void);
u32 behind_rmw(void);
u32 loop_patch(void);
__asm__("	.balign 64\n"
	"next_insn:\n"
	"	movl %edi, 1f+1(%rip)\n"
	"1:	movl $0, %eax\n"
	"	ret\n"
	"next_twice:\n"
	"	movl $0, %ecx\n"
	"1:	incl %ecx\n"
	"	movb %cl, 2f+2(%rip)\n"
	"	xorl %eax, %eax\n"
	"2:	addl $0, %eax\n" /* 83 c0 ib */
	"	cmpl %ecx, %eax\n"
	"	jne 3f\n"
	"	cmpl $100, %ecx\n"
	"	jne 1b\n"
	"3:	ret\n"
	"behind_rmw:\n"
	"	movb $5, 1f+1(%rip)\n"
	"	lock addb $2, 1f+1(%rip)\n"
	"	incb 1f+1(%rip)\n"
	"1:	movl $0, %eax\n"
	"	ret\n"
	/* A branch that turns into a fall-through: JMP 2f becomes NOPs. */
	"loop_patch:\n"
	"	movw $0x02eb, 1f(%rip)\n"
	"	xorl %eax, %eax\n"
	"	movl $3, %ecx\n"
	"4:	decl %ecx\n"
	"	jz 3f\n"
	"1:	jmp 2f\n"
	"	incl %eax; nop\n"
	"2:	movw $0x9090, 1b(%rip)\n"
	"	jmp 4b\n"
	"3:	ret\n");

static void same_block(void)
{
	for (u32 v = 1; v < 200; v++)
		if (next_insn(v * 0x1010101) != v * 0x1010101)
			CHECK(v, 0);
	CHECK(next_twice(), 100);
	for (unsigned n = 0; n < 3; n++)
		CHECK(behind_rmw(), 8);
	for (unsigned n = 0; n < 3; n++)
		CHECK(loop_patch(), 1);
}

static void by_data(void)
{
	/* Data beside code, in its cache line: both go on working. */
	returns(code[0], 1);
	for (u32 n = 0; n < 1000; n++) {
		*(volatile u32 *)(code[0] + 8) = n;
		if (call(code[0]) != 1 || *(volatile u32 *)(code[0] + 8) != n)
			CHECK(n, 0);
	}
	/* The page as data only, then as code again. */
	memset(code[0], 0x90, 4096);
	for (u32 n = 0; n < 100; n++)
		code[0][n * 40] = (u8)n;
	for (u32 n = 0; n < 50; n++) {
		returns(code[0] + n * 16, n);
		CHECK(call(code[0] + n * 16), n);
	}
	for (u32 n = 0; n < 50; n++)
		CHECK(call(code[0] + n * 16), n);
	/* Stores of all widths, and over the end of what is code. */
	returns(code[0], 0);
	CHECK(call(code[0]), 0);
	*(volatile u8 *)(code[0] + 1) = 0x11;
	CHECK(call(code[0]), 0x11);
	*(volatile u16 *)(code[0] + 2) = 0x3322;
	CHECK(call(code[0]), 0x332211);
	*(volatile u32 *)(code[0] + 1) = 0x44332211;
	CHECK(call(code[0]), 0x44332211);
	*(volatile u64 *)(code[0]) = 0x9090c355667788b8;
	CHECK(call(code[0]), 0x55667788);
	write_cr4(read_cr4() | 0x600);
	__asm__ volatile("movdqu (%0), %%xmm0\n\tmovdqu %%xmm0, (%1)\n\t"
			 :
			 : "r"("\xb8\1\2\3\4\xc3..........."), "r"(code[0])
			 : "memory");
	CHECK(call(code[0]), 0x4030201);
	__asm__ volatile("xchg %0, (%1)" : : "r"(0x0102030405060708), "r"(code[1]) : "memory");
	returns(code[1], 3);
	CHECK(call(code[1]), 3);
	__asm__ volatile("lock cmpxchgl %1, (%2)"
			 :
			 : "a"(*(u32 *)code[1]), "r"(0x000007b8), "r"(code[1])
			 : "memory", "cc");
	CHECK(call(code[1]), 7);
	/* PUSH into code. */
	u64 word = 0x9090c300000009b8;

	__asm__ volatile("mov %%rsp, %%rcx\n\tlea 8(%1), %%rsp\n\tpush %0\n\tmov %%rcx, %%rsp"
			 :
			 : "r"(word), "r"(code[1])
			 : "rcx", "memory");
	CHECK(call(code[1]), 9);
}

/* Instructions on both sides of a page's end. */
static void two_pages(void)
{
	u8 *p = code[1] - 3;

	for (u32 n = 0; n < 20; n++) {
		returns(p, 0x01000000 * n + n);
		CHECK(call(p), 0x01000000 * n + n);
		code[1][1] = 0x7f; /* the immediate's last byte */
		CHECK(call(p), 0x7f000000 + n);
		code[0][4095] = 0x55; /* one in the first page */
		CHECK(call(p), 0x7f000000 + (n & ~0xff00) + 0x5500);
	}
}

/* Another linear address of the page that is code. */
static void aliases(void)
{
	map(VA, (u64)code[0], 3);
	map(VA + 0x1000, (u64)code[0], 3);
	for (u32 n = 0; n < 50; n++) {
		returns((u8 *)VA, n);
		CHECK(call(code[0]), n);
		CHECK(call((void *)(VA + 0x1000)), n);
		returns(code[0], n + 1000);
		CHECK(call((void *)VA), n + 1000);
		*(volatile u8 *)(VA + 0x1001) = 0x77;
		CHECK(call(code[0]), ((n + 1000) & ~0xffu) | 0x77);
	}
	/* The address leads to another page. */
	returns(code[1], 111);
	returns(code[2], 222);
	for (u32 n = 0; n < 20; n++) {
		map(VA, (u64)code[1 + n % 2], 3);
		CHECK(call((void *)VA), n % 2 ? 222 : 111);
	}
	/* A copy of a page, with the same code at the same address as before. */
	memcpy(code[2], code[1], 4096);
	code[2][1] = 5;
	CHECK(call(code[2]), 5);
	CHECK(call(code[1]), 111);
}

/* REP STOS and REP MOVS over code, over themselves too. */
u32 rep_next(void);
extern u8 rep_target[];
__asm__("	.balign 64\n"
	"rep_next:\n"
	"	leaq rep_target(%rip), %rdi\n"
	"	movl $9, %ecx\n"
	"	movb $0x90, %al\n"
	"	rep stosb\n"
	"rep_target:\n"
	"	movl $0xc3c3c3c3, %eax\n" /* gone by then */
	"	ud2\n"
	"	ud2\n"
	"	movl $0x600d, %eax\n"
	"	ret\n");

static void by_rep(void)
{
	static u8 was[9];

	memcpy(was, rep_target, 9);
	for (unsigned n = 0; n < 3; n++) {
		CHECK(rep_next(), 0x600d);
		memcpy(rep_target, was, 9);
	}
	for (u32 n = 0; n < 10; n++) {
		u8 *d = code[0];
		u64 count = 4096;
		const void *s = code[1];

		returns(code[1], n);
		CHECK(call(code[0]) + 0 * n, call(code[0]));
		__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(count) : : "memory");
		CHECK(call(code[0]), n);
		d = code[0];
		count = 512;
		__asm__ volatile("rep stosq"
				 : "+D"(d), "+c"(count)
				 : "a"(0xc300000000b8ull | (u64)n << 8)
				 : "memory");
		CHECK(call(code[0]), n);
	}
}

/* Single steps and breakpoints do not see old code either. */
static void stepped(struct regs *r)
{
}

static void by_steps(void)
{
	handler[1] = stepped;
	for (u32 v = 0; v < 20; v++) {
		u32 got_v;

		__asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq; call next_insn; "
				 "pushfq; andl $~0x100, (%%rsp); popfq"
				 : "=a"(got_v)
				 : "D"(v)
				 : "memory", "cc");
		CHECK(got_v, v);
	}
	handler[1] = NULL;
}

/* Faulting code mends itself: what raised #UD is good the next time. */
static void mends(struct regs *r)
{
	returns((u8 *)r->rip, 0xabc);
}

static void by_handlers(void)
{
	handler[6] = mends;
	for (u32 n = 0; n < 10; n++) {
		memcpy(code[0] + 100 * n, "\x0f\x0b\x0f\x0b\x0f\x0b", 6);
		CHECK(call(code[0] + 100 * n), 0xabc);
		CHECK(call(code[0] + 100 * n), 0xabc);
	}
	handler[6] = NULL;
	/* Too long an instruction becomes one that is not, in its last bytes. */
	memset(code[0], 0x66, 32);
	memcpy(code[0] + 15, "\x90\xc3", 2);
	handler[13] = NULL;
	CHECK(TRY("call *%0", : : "r"(code[0]) : "rax", "memory"), 13);
	memcpy(code[0] + 14, "\x90\xc3", 2);
	CHECK(TRY("call *%0", : : "r"(code[0]) : "rax", "memory"), NONE);
	memset(code[0] + 63, 0x66, 32);
	memcpy(code[0] + 63 + 15, "\x90\xc3", 2);
	CHECK(TRY("call *%0", : : "r"(code[0] + 63) : "rax", "memory"), 13);
	memcpy(code[0] + 63 + 14, "\x90\xc3", 2);
	CHECK(TRY("call *%0", : : "r"(code[0] + 63) : "rax", "memory"), NONE);
}

void main64(void)
{
	same_block();
	by_data();
	two_pages();
	aliases();
	by_rep();
	by_steps();
	by_handlers();
}
