/* 4-level paging: rights, error codes, A and D bits, page sizes, PCIDs and what is forgotten when.
 * SDM 3A chapter 4 "Paging".
 */
#include "lib/long.h"

#define VA	  0x10000000000ull /* of pages of its own */
#define P	  1
#define W	  2
#define U	  4
#define A	  0x20
#define D	  0x40
#define PS	  0x80
#define G	  0x100
#define NX	  (1ull << 63)
#define PF_P	  1
#define PF_W	  2
#define PF_U	  4
#define PF_RSVD	  8
#define PF_I	  0x10
#define CR4_PGE	  (1 << 7)
#define CR4_PCIDE (1 << 17)
#define CR4_SMEP  (1 << 20)
#define CR4_SMAP  (1 << 21)
#define CR0_WP	  (1 << 16)

static u8 frame[8][4096] __attribute__((aligned(4096)));
static u32 features[4];

static u64 load(u64 va)
{
	return TRY("mov (%0), %%al", : : "r"(va) : "rax", "memory");
}

static u64 store(u64 va)
{
	return TRY("movb $0x5a, (%0)", : : "r"(va) : "rax", "memory");
}

static u64 fetch(u64 va)
{
	return TRY("call *%0", : : "r"(va) : "rax", "memory");
}

#define fault(err, addr)                                                                           \
	do {                                                                                       \
		CHECK(got.error, err);                                                             \
		CHECK(got.cr2, addr);                                                              \
	} while (0)

/* --- rights --- */

extern char u_load[], u_store[], u_jump[];
__asm__("u_load: mov (%rdi), %al; ud2\n"
	"u_store: movb $0x5a, (%rdi); ud2\n"
	"u_jump: jmp *%rdi\n");

static void rights(void)
{
	frame[0][0] = 0xc3;
	frame[1][0] = 0x0f;
	frame[1][1] = 0x0b;
	map(VA, 0, 0);
	CHECK(load(VA), 14);
	fault(0, VA);
	CHECK(store(VA + 8), 14);
	fault(PF_W, VA + 8);
	CHECK(fetch(VA), 14);
	fault(PF_I, VA);
	map(VA, (u64)frame[0], P | W);
	CHECK(fetch(VA), NONE);
	/* NX. */
	map(VA, (u64)frame[0], P | W | NX);
	CHECK(load(VA), NONE);
	CHECK(fetch(VA), 14);
	fault(PF_P | PF_I, VA);
	/* WP. */
	map(VA, (u64)frame[0], P);
	CHECK(store(VA), 14);
	fault(PF_P | PF_W, VA);
	write_cr0(read_cr0() & ~(u64)CR0_WP);
	CHECK(store(VA + 0x10), NONE);
	write_cr0(read_cr0() | CR0_WP);
	CHECK(store(VA + 0x10), 14);
	/* Ring 3: supervisor page, read-only page, NX. */
	CHECK(user_run(u_load, 2, VA), 14);
	fault(PF_P | PF_U, VA);
	CHECK(user_run(u_jump, 2, VA), 14);
	fault(PF_P | PF_U | PF_I, VA);
	map(VA, (u64)frame[1], P | U);
	CHECK(user_run(u_load, 2, VA), 6);
	CHECK(user_run(u_store, 2, VA), 14);
	fault(PF_P | PF_U | PF_W, VA);
	CHECK(user_run(u_jump, 2, VA), 6);
	CHECK(got.rip, VA);
	map(VA, (u64)frame[1], P | U | W | NX);
	CHECK(user_run(u_store, 2, VA + 0x10), 6);
	CHECK(user_run(u_jump, 2, VA), 14);
	fault(PF_P | PF_U | PF_I, VA);
	map(VA, 0, 0);
	CHECK(user_run(u_store, 2, VA), 14);
	fault(PF_U | PF_W, VA);
	/* Rights are those that every level gives. */
	map(VA, (u64)frame[1], P | U | W);
	*pte_of(VA, 1) &= ~(u64)U;
	invlpg(VA);
	CHECK(user_run(u_load, 2, VA), 14);
	fault(PF_P | PF_U, VA);
	*pte_of(VA, 1) = (*pte_of(VA, 1) | U) & ~(u64)W;
	invlpg(VA);
	CHECK(store(VA), 14);
	fault(PF_P | PF_W, VA);
	*pte_of(VA, 1) |= W | NX;
	invlpg(VA);
	CHECK(fetch(VA), 14);
	*pte_of(VA, 1) &= ~NX;
	/* Without NXE the bit is reserved, and no error code tells of fetches. */
	map(VA, (u64)frame[0], P | NX);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~0x800ull);
	CHECK(load(VA), 14);
	fault(PF_P | PF_RSVD, VA);
	map(VA, 0, 0);
	CHECK(fetch(VA), 14);
	fault(0, VA);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 0x800);
}

static void smep_smap(void)
{
	u64 *pte;

	map(VA, (u64)frame[0], P | W | U);
	frame[0][0] = 0xc3;
	if (features[1] >> 7 & 1) {
		CHECK(fetch(VA), NONE);
		write_cr4(read_cr4() | CR4_SMEP);
		CHECK(fetch(VA), 14);
		fault(PF_P | PF_I, VA);
		CHECK(load(VA), NONE);
		write_cr4(read_cr4() & ~(u64)CR4_SMEP);
		CHECK(fetch(VA), NONE);
	}
	if (!(features[1] >> 20 & 1))
		return;
	write_cr4(read_cr4() | CR4_SMAP);
	CHECK(load(VA), 14);
	fault(PF_P, VA);
	CHECK(store(VA), 14);
	fault(PF_P | PF_W, VA);
	CHECK(fetch(VA), NONE);
	__asm__ volatile("stac" : : : "memory", "cc");
	CHECK(TRY("stac\n\tmovb (%0), %%al\n\tmovb $1, 8(%0)\n\tclac",
		  :
		  : "r"(VA)
		  : "rax", "memory"),
	      NONE);
	__asm__ volatile("clac" : : : "memory", "cc");
	CHECK(load(VA), 14);
	/* Not WP's business: AC does not make a read-only page writable. */
	map(VA, (u64)frame[0], P | U);
	CHECK(TRY("stac\n\tmovb $1, 8(%0)", : : "r"(VA) : "rax", "memory"), 14);
	fault(PF_P | PF_W, VA + 8);
	/* Implicit accesses heed no AC: a GDT of which the kernel's code segment is in a page of
	 * ring 0, and what follows it in a user page. */
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) old, gdtr;

	__asm__ volatile("sgdt %0" : "=m"(old));
	map(VA, (u64)frame[2], P | W);
	map(VA + 0x1000, (u64)frame[3], P | W | U);
	memcpy(frame[2] + 0x1000 - 0x40, (void *)old.base, 0x40);
	memcpy(frame[3], (u8 *)old.base + 0x40, old.limit + 1u - 0x40);
	gdtr.limit = old.limit;
	gdtr.base = VA + 0x1000 - 0x40;
	CHECK(TRY("lgdt %0\n\tstac\n\tverr %w1",
		  :
		  : "m"(gdtr), "r"(CODE64_3)
		  : "rax", "memory", "cc"),
	      14);
	__asm__ volatile("lgdt %0" : : "m"(old));
	fault(PF_P, VA + 0x1000);
	write_cr4(read_cr4() & ~(u64)CR4_SMAP);
	pte = pte_of(VA, 0);
	*pte = 0;
	invlpg(VA);
}

/* --- A and D --- */

static void accessed(void)
{
	u64 *pte = pte_of(VA, 0), *pde = pte_of(VA, 1);

	*pde &= ~(u64)(A | D);
	map(VA, (u64)frame[0], P | W);
	CHECK(load(VA), NONE);
	CHECK(*pte & (A | D), A);
	CHECK(*pde & (A | D), A);
	CHECK(store(VA), NONE);
	CHECK(*pte & (A | D), A | D);
	CHECK(*pde & (A | D), A);
	/* Cleared and forgotten, a store sets D again. */
	map(VA, (u64)frame[0], P | W | A);
	CHECK(load(VA), NONE);
	CHECK(*pte & D, 0);
	CHECK(TRY("lock addb $0, (%0)", : : "r"(VA) : "rax", "memory", "cc"), NONE);
	CHECK(*pte & D, D);
	/* A comparison that fails still writes. */
	map(VA, (u64)frame[0], P | W);
	CHECK(TRY("movl $1, (%1)\n\tmovl $2, %%eax\n\tlock cmpxchgl %%eax, (%0)",
		  :
		  : "r"(VA), "r"(frame[0])
		  : "rax", "memory", "cc"),
	      NONE);
	CHECK(*pte & D, D);
	/* A store that faults sets no D. */
	map(VA, (u64)frame[0], P);
	CHECK(store(VA), 14);
	CHECK(*pte & D, 0);
	/* Fetches set A. */
	map(VA, (u64)frame[0], P);
	frame[0][0] = 0xc3;
	CHECK(fetch(VA), NONE);
	CHECK(*pte & (A | D), A);
	/* A store by REP, and by the stack. */
	map(VA, (u64)frame[0], P | W);
	CHECK(TRY("mov %0, %%rdi\n\tmov $512, %%ecx\n\trep stosq",
		  :
		  : "r"(VA)
		  : "rax", "rcx", "rdi", "memory"),
	      NONE);
	CHECK(*pte & D, D);
	map(VA, (u64)frame[0], P | W);
	CHECK(TRY("mov %%rsp, %%rcx\n\tlea 64(%0), %%rsp\n\tpush %%rax\n\tmov %%rcx, %%rsp",
		  :
		  : "r"(VA)
		  : "rax", "rcx", "memory"),
	      NONE);
	CHECK(*pte & D, D);
}

/* --- two pages --- */

static void crossing(void)
{
	u8 before;

	map(VA, (u64)frame[0], P | W);
	map(VA + 0x1000, 0, 0);
	frame[0][0xfff] = 7;
	before = frame[0][0xffe];
	CHECK(TRY("mov -2(%0), %%eax", : : "r"(VA + 0x1000) : "rax", "memory"), 14);
	fault(0, VA + 0x1000);
	CHECK(TRY("movl $-1, -2(%0)", : : "r"(VA + 0x1000) : "rax", "memory"), 14);
	fault(PF_W, VA + 0x1000);
	CHECK(frame[0][0xffe], before);
	CHECK(frame[0][0xfff], 7);
	/* The first one bad: its own address, not the page's. */
	map(VA, 0, 0);
	map(VA + 0x1000, (u64)frame[1], P | W);
	CHECK(TRY("mov -2(%0), %%eax", : : "r"(VA + 0x1000) : "rax", "memory"), 14);
	fault(0, VA + 0xffe);
	/* Both fine and far apart. */
	map(VA, (u64)frame[3], P | W);
	CHECK(TRY("movq %1, -3(%0)\n\tmovq -3(%0), %%rax\n\tcmpq %1, %%rax\n\tje 1f\n\tud2\n1:",
		  :
		  : "r"(VA + 0x1000), "r"(0x1122334455667788)
		  : "rax", "memory", "cc"),
	      NONE);
	CHECK(frame[3][0xffd], 0x88);
	CHECK(frame[3][0xfff], 0x66);
	CHECK(frame[1][0], 0x55);
	CHECK(frame[1][4], 0x11);
	/* Code: MOV EAX, imm32 over the border; RET. */
	frame[3][0xffe] = 0xb8;
	frame[3][0xfff] = 1;
	memcpy(frame[1], "\2\3\4\xc3", 4);
	map(VA, (u64)frame[3], P);
	CHECK(fetch(VA + 0xffe), NONE);
	map(VA + 0x1000, (u64)frame[1], P | NX);
	CHECK(fetch(VA + 0xffe), 14);
	fault(PF_P | PF_I, VA + 0x1000);
	CHECK(got.rip, VA + 0xffe);
	/* The same with another second page. */
	memcpy(frame[2], "\2\3\4\x0f\x0b", 5);
	map(VA + 0x1000, (u64)frame[2], P);
	CHECK(fetch(VA + 0xffe), 6);
	CHECK(got.rip, VA + 0x1003);
	/* #UD that is plain in the first page needs no second one. */
	map(VA + 0x1000, 0, 0);
	memcpy(frame[3] + 0xffe, "\x0f\x0b", 2);
	CHECK(fetch(VA + 0xffe), 6);
	/* REP MOVS stops at the bad page with its registers right. */
	u64 di = VA + 0xff0, cx = 100;

	map(VA, (u64)frame[3], P | W);
	CHECK(TRY("rep stosb", : "+D"(di), "+c"(cx) : : "rax", "memory"), 14);
	CHECK(di, VA + 0x1000);
	CHECK(cx, 84);
	fault(PF_W, VA + 0x1000);
	/* The end of the lower half. */
	map(0x7ffffffff000, (u64)frame[0], P | W);
	CHECK(TRY("mov -8(%0), %%rax", : : "r"(0x800000000000) : "rax", "memory"), NONE);
	CHECK(TRY("mov -4(%0), %%rax", : : "r"(0x800000000000) : "rax", "memory"), 13);
	CHECK(got.error, 0);
	CHECK(TRY("mov -4(%0), %%eax\n\tmov -1(%0), %%eax",
		  :
		  : "r"(0x800000000000)
		  : "rax", "memory"),
	      13);
	CHECK(TRY("mov %0, %%rsp\n\tpop %%rax\n\tpop %%rax",
		  :
		  : "r"(0x7ffffffffff8)
		  : "rax", "memory"),
	      12);
	CHECK(TRY("mov %0, %%rbp\n\tmov (%%rbp), %%rax",
		  :
		  : "r"(1ull << 63)
		  : "rax", "rbp", "memory"),
	      12);
	/* 64-bit mode ignores the prefix: it is still the stack's. */
	CHECK(TRY("mov %0, %%rbp\n\tmov %%ds:(%%rbp), %%rax",
		  :
		  : "r"(1ull << 63)
		  : "rax", "rbp", "memory"),
	      12);
}

/* --- large pages --- */

static void large(void)
{
	const u64 va2 = VA + 0x40000000, va1 = VA + 0x8000000000;
	u64 *pde = pte_of(va2, 1), *pdpte;

	*pde = 0x600000 | P | W | PS;
	invlpg(va2);
	*(u64 *)0x612340 = 0xabcdef;
	CHECK(*(volatile u64 *)(va2 + 0x12340), 0xabcdef);
	CHECK(*pde & (A | D), A);
	*(volatile u64 *)(va2 + 0x1ffff8) = 1;
	CHECK(*pde & (A | D), A | D);
	CHECK(*(u64 *)0x7ffff8, 1);
	/* INVLPG of any address in it forgets all of it. */
	*pde = 0x800000 | P | W | PS;
	*(u64 *)0x812340 = 0x1111;
	*(u64 *)0x9ffff8 = 2;
	invlpg(va2 + 0x155555);
	CHECK(*(volatile u64 *)(va2 + 0x12340), 0x1111);
	CHECK(*(volatile u64 *)(va2 + 0x1ffff8), 2);
	/* Reserved bits. */
	*pde = 0x800000 | P | W | PS | 1 << 13;
	invlpg(va2);
	CHECK(load(va2), 14);
	fault(PF_P | PF_RSVD, va2);
	*pde = 0x800000 | P | W | PS | 1ull << 51;
	invlpg(va2);
	CHECK(store(va2), 14);
	fault(PF_P | PF_W | PF_RSVD, va2);
	*pde = 0;
	/* PS in a PML4 entry. */
	u64 *pml4e = pte_of(va1, 3);

	pdpte = pte_of(va1, 2);
	*pml4e |= PS;
	CHECK(load(va1), 14);
	fault(PF_P | PF_RSVD, va1);
	*pml4e &= ~(u64)PS;
	/* 1 GiB, or reserved where there is none. */
	u32 ext[4];

	cpuid(0x80000001, 0, ext);
	*pdpte = P | W | PS;
	invlpg(va1);
	if (!(ext[3] >> 26 & 1)) {
		CHECK(load(va1), 14);
		fault(PF_P | PF_RSVD, va1);
		return;
	}
	CHECK(*(volatile u64 *)(va1 + 0x812340), 0x1111);
	*pdpte = 0;
	invlpg(va1 + 0x12345678);
	CHECK(load(va1 + 0x812340), 14);
	*pdpte = 1 << 29 | P | W | PS;
	CHECK(load(va1), 14);
	fault(PF_P | PF_RSVD, va1);
	/* A table beyond memory reads as ones. */
	*pdpte = 0x3ffffff000 | P | W;
	CHECK(load(va1), 14);
	CHECK(got.error & ~(u64)PF_RSVD & ~(u64)PF_P, 0);
	*pdpte = 0;
}

/* --- what is forgotten --- */

static u64 other_pml4[512] __attribute__((aligned(4096)));
extern u64 pml4[512];

static u8 at_va(void)
{
	return *(volatile u8 *)VA;
}

static void forgetting(void)
{
	u64 cr3 = read_cr3();

	frame[0][0] = 1;
	frame[1][0] = 2;
	map(VA, (u64)frame[0], P | W);
	CHECK(at_va(), 1);
	/* CR3. */
	*pte_of(VA, 0) = (u64)frame[1] | P | W;
	write_cr3(cr3);
	CHECK(at_va(), 2);
	/* CR4.PGE turned forgets global pages too; so does INVLPG. */
	write_cr4(read_cr4() | CR4_PGE);
	map(VA, (u64)frame[0], P | W | G);
	CHECK(at_va(), 1);
	*pte_of(VA, 0) = (u64)frame[1] | P | W | G;
	write_cr4(read_cr4() & ~(u64)CR4_PGE);
	CHECK(at_va(), 2);
	write_cr4(read_cr4() | CR4_PGE);
	CHECK(at_va(), 2);
	*pte_of(VA, 0) = (u64)frame[0] | P | W | G;
	invlpg(VA);
	CHECK(at_va(), 1);
	/* Non-canonical INVLPG does nothing. */
	CHECK(TRY("invlpg (%0)", : : "r"(1ull << 62) : "rax", "memory"), NONE);
	/* CR3's bits above the address. */
	CHECK(try_cr3(cr3 | 1ull << 52), 13);
	CHECK(try_cr3(cr3 | 1ull << 63), 13);
}

static u64 invpcid(u64 type, u64 pcid, u64 va)
{
	u64 desc[2] = { pcid, va };

	return TRY("invpcid %0, %1", : : "m"(desc), "r"(type) : "rax", "memory");
}

static void pcids(void)
{
	u64 cr3 = read_cr3(), pcide;
	u32 id[4];

	cpuid(1, 0, id);
	if (!(id[2] >> 17 & 1)) {
		CHECK(try_cr4(read_cr4() | CR4_PCIDE), 13);
		return;
	}
	memcpy(other_pml4, pml4, sizeof(other_pml4));
	/* It cannot be set while CR3 has bits 0-11. */
	write_cr3(cr3 | 0x18);
	CHECK(try_cr4(read_cr4() | CR4_PCIDE), 13);
	write_cr3(cr3);
	write_cr4(read_cr4() | CR4_PCIDE);
	pcide = read_cr4();
	/* Paging cannot end while it is set. */
	CHECK(try_cr0(read_cr0() & ~(1ull << 31)), 13);
	/* Without bit 63 the new PCID's translations go. */
	map(VA, (u64)frame[0], P | W);
	write_cr3(cr3 | 1);
	CHECK(at_va(), 1);
	*pte_of(VA, 0) = (u64)frame[1] | P | W;
	write_cr3(cr3 | 1);
	CHECK(at_va(), 2);
	write_cr3(cr3 | 2 | 1ull << 63);
	CHECK(read_cr3(), cr3 | 2);
	CHECK(at_va(), 2);
	/* INVPCID, each type. The stale translation may live or not; after it, it must not. */
	if (features[1] >> 10 & 1) {
		for (u64 type = 0; type < 4; type++) {
			map(VA, (u64)frame[0], P | W);
			write_cr3(cr3 | 3);
			CHECK(at_va(), 1);
			write_cr3(cr3 | 2);
			*pte_of(VA, 0) = (u64)frame[1] | P | W;
			CHECK(invpcid(type, 3, VA), NONE);
			write_cr3(cr3 | 3 | 1ull << 63);
			CHECK(at_va(), 2);
		}
		CHECK(invpcid(4, 0, 0), 13);
		CHECK(invpcid(0, 0x1000, 0), 13);
		CHECK(invpcid(0, 0, 1ull << 62), 13);
		CHECK(invpcid(1, 0, 1ull << 62), NONE);
		/* One's own, at once. */
		map(VA, (u64)frame[0], P | W);
		CHECK(at_va(), 1);
		*pte_of(VA, 0) = (u64)frame[1] | P | W;
		CHECK(invpcid(1, 3, 0), NONE);
		CHECK(at_va(), 2);
		/* What leaves a large global page alone does not forget that it is large. */
		u64 va2 = VA + 0x40000000, *pde = pte_of(va2, 1);

		*pde = 0x600000 | P | W | PS | G;
		invlpg(va2);
		*(u64 *)0x612340 = 0xabcdef;
		*(u64 *)0x812340 = 0x1111;
		CHECK(*(volatile u64 *)(va2 + 0x12340), 0xabcdef);
		CHECK(invpcid(3, 0, 0), NONE);
		*pde = 0x800000 | P | W | PS | G;
		invlpg(va2 + 0x155555);
		CHECK(*(volatile u64 *)(va2 + 0x12340), 0x1111);
		*pde = 0;
		invlpg(va2);
	}
	/* Many of them, so that any table of them overflows. */
	for (u64 n = 4; n < 64; n++) {
		map(VA, (u64)frame[n & 1], P | W);
		write_cr3(cr3 | n);
		CHECK(at_va(), 1 + (n & 1));
	}
	for (u64 n = 4; n < 64; n++) {
		write_cr3(cr3 | n | 1ull << 63);
		invlpg(VA);
		CHECK(at_va(), 2);
	}
	write_cr3(cr3);
	write_cr4(pcide & ~(u64)CR4_PCIDE);
	CHECK(at_va(), 2);
}

void main64(void)
{
	cpuid(7, 0, features);
	rights();
	smep_smap();
	accessed();
	crossing();
	large();
	forgetting();
	pcids();
}
