/* What privilege, MSRs and CPUID decide: UMIP, RDMSR and WRMSR, EFER, the fast system calls,
 * SWAPGS, FS and GS bases, TSC_AUX, XCR0 and XSAVE's checks. SDM 2, SDM 4.
 */
#include "lib/long.h"

#define CR4_TSD	     (1 << 2)
#define CR4_UMIP     (1 << 11)
#define CR4_FSGSBASE (1 << 16)
#define CR4_OSXSAVE  (1 << 18)
#define STAR	     0xc0000081
#define LSTAR	     0xc0000082
#define SFMASK	     0xc0000084
#define FS_BASE	     0xc0000100
#define GS_BASE	     0xc0000101
#define KERNEL_GS    0xc0000102
#define TSC_AUX	     0xc0000103
#define BAD	     0x800000000000ull

static u32 f1[4], f7[4], fd1[4], ext[4];

#define USER_TRY(name, rflags) user_run(name, rflags, 0)

#define USER_CODE(name, text)                                                                      \
	extern char name[];                                                                        \
	__asm__(#name ": " text "; ud2\n")

USER_CODE(u_sgdt, "sgdt -32(%rsp)");
USER_CODE(u_sidt, "sidt -32(%rsp)");
USER_CODE(u_sldt, "sldt %eax");
USER_CODE(u_str, "str %eax");
USER_CODE(u_smsw, "smsw %eax");
USER_CODE(u_lgdt, "lgdt -32(%rsp)");
USER_CODE(u_lmsw, "lmsw %ax");
USER_CODE(u_rdmsr, "rdmsr");
USER_CODE(u_wrmsr, "wrmsr");
USER_CODE(u_hlt, "hlt");
USER_CODE(u_clts, "clts");
USER_CODE(u_invlpg, "invlpg (%rsp)");
USER_CODE(u_wbinvd, "wbinvd");
USER_CODE(u_invd, "invd");
USER_CODE(u_cr0, "mov %cr0, %rax");
USER_CODE(u_cr3, "mov %rax, %cr3");
USER_CODE(u_cr8, "mov %cr8, %rax");
USER_CODE(u_dr7, "mov %dr7, %rax");
USER_CODE(u_swapgs, "swapgs");
USER_CODE(u_sysret, "sysretq");
USER_CODE(u_sysexit, "sysexitl");
USER_CODE(u_ltr, "ltr %ax");
USER_CODE(u_lldt, "lldt %ax");
USER_CODE(u_cli, "cli");
USER_CODE(u_in, "inb $0x80, %al");
USER_CODE(u_outs, "outsb");
USER_CODE(u_stac, "stac");
USER_CODE(u_invpcid, "invpcid (%rsp), %rax");
USER_CODE(u_xsetbv, "xsetbv");
USER_CODE(u_rdpmc, "rdpmc");
USER_CODE(u_rdtsc, "rdtsc");
USER_CODE(u_rdtscp, "rdtscp");
USER_CODE(u_ud, "nop");
USER_CODE(u_rdfs, "rdfsbase %rax");
USER_CODE(u_wrgs, "mov $0x123456, %eax; wrgsbase %rax; rdgsbase %rcx; cmp %rax, %rcx; je 1f; "
		  "nop; 1:");
USER_CODE(u_verw, "mov $0x23, %eax; verw %ax; lar %eax, %ecx; lsl %eax, %ecx");

static void privileged(void)
{
	static char *const gp[] = { u_lgdt,   u_lmsw, u_rdmsr, u_wrmsr, u_hlt,	u_clts,	 u_invlpg,
				    u_wbinvd, u_invd, u_cr0,   u_cr3,	u_cr8,	u_dr7,	 u_swapgs,
				    u_ltr,    u_lldt, u_cli,   u_in,	u_outs, u_rdpmc, u_sysret };
	static char *const store[] = { u_sgdt, u_sidt, u_sldt, u_str, u_smsw };

	for (unsigned i = 0; i < sizeof(gp) / sizeof(gp[0]); i++) {
		u64 v = user_run(gp[i], 2, 0);

		if (v != 13 || got.error || got.rip != USER(gp[i]))
			CHECK(i << 8 | v, i << 8 | 13);
	}
	CHECK(USER_TRY(u_verw, 2), 6);
	CHECK(got.rip, USER(u_verw + 14));
	wrmsr(0x174, 0);
	CHECK(USER_TRY(u_sysexit, 2), 13);
	for (unsigned i = 0; i < 5; i++)
		CHECK(user_run(store[i], 2, 0), 6);
	if (!(f7[2] >> 2 & 1)) {
		CHECK(try_cr4(read_cr4() | CR4_UMIP), 13);
	} else {
		write_cr4(read_cr4() | CR4_UMIP);
		for (unsigned i = 0; i < 5; i++) {
			CHECK(user_run(store[i], 2, 0), 13);
			CHECK(got.error, 0);
			CHECK(got.rip, USER(store[i]));
		}
		/* Ring 0 is free. */
		CHECK(TRY("smsw %%eax\n\tstr %%ax\n\tsldt %%ax",
			  :
			  : "r"(0)
			  : "rax", "memory"),
		      NONE);
		write_cr4(read_cr4() & ~(u64)CR4_UMIP);
	}
	if (f7[1] >> 20 & 1)
		CHECK(USER_TRY(u_stac, 2), 6);
	if (f7[1] >> 10 & 1)
		CHECK(USER_TRY(u_invpcid, 2), 13);
	write_cr4(read_cr4() | CR4_TSD);
	CHECK(USER_TRY(u_rdtsc, 2), 13);
	if (ext[3] >> 27 & 1)
		CHECK(USER_TRY(u_rdtscp, 2), 13);
	CHECK(TRY("rdtsc", : : "r"(0) : "rax", "rdx", "memory"), NONE);
	write_cr4(read_cr4() & ~(u64)CR4_TSD);
	CHECK(USER_TRY(u_rdtsc, 2), 6);
	/* CLI by IOPL; the page of a port by the bitmap, which there is none of. */
	CHECK(USER_TRY(u_cli, 0x3002), 6);
	CHECK(USER_TRY(u_in, 0x3002), 6);
}

static void registers(void)
{
	static const u32 absent[] = { 2,	  0x20,	      0x1c,	  0xc0000085,
				      0xc0000104, 0x40000000, 0xffffffff, 0x12345678,
				      0x480,	  0xc0010114, 0x810000 };
	u64 efer = rdmsr(MSR_EFER), v;

	for (unsigned i = 0; i < sizeof(absent) / 4; i++) {
		CHECK(try_rdmsr(absent[i]), 13);
		CHECK(got.error, 0);
		CHECK(try_wrmsr(absent[i], 0), 13);
	}
	/* A fault changes no register. */
	u64 ax = 0x1111222233334444, dx = 0x5555666677778888;

	got.vector = NONE;
	TRY("mov %2, %%rax\n\trdmsr\n\tmov %%rax, %0",
	    : "+r"(ax), "+d"(dx)
	    : "r"(ax), "c"(0x12345678)
	    : "rax", "memory");
	CHECK(got.vector, 13);
	CHECK(dx, 0x5555666677778888);
	/* EFER: LMA is not written; unknown bits are #GP; LME not under paging. */
	CHECK(efer & 0xd01, 0xd01);
	CHECK(try_wrmsr(MSR_EFER, efer ^ 0x100), 13);
	CHECK(try_wrmsr(MSR_EFER, efer | 2), 13);
	CHECK(try_wrmsr(MSR_EFER, efer | 1ull << 40), 13);
	CHECK(rdmsr(MSR_EFER), efer);
	/* Canonical addresses only. */
	static const u32 canonical[] = { LSTAR,	    0xc0000083, FS_BASE, GS_BASE,
					 KERNEL_GS, 0x175,	0x176 };
	for (unsigned i = 0; i < 7; i++) {
		v = rdmsr(canonical[i]);
		CHECK(try_wrmsr(canonical[i], BAD), 13);
		CHECK(rdmsr(canonical[i]), v);
		CHECK(try_wrmsr(canonical[i], 0xffff800000000000), NONE);
		CHECK(rdmsr(canonical[i]), 0xffff800000000000);
		wrmsr(canonical[i], v);
	}
	CHECK(try_wrmsr(SFMASK, 1ull << 32), 13);
	if (f1[3] >> 16 & 1) {
		v = rdmsr(0x277);
		CHECK(try_wrmsr(0x277, (v & ~7ull) | 2), 13);
		CHECK(try_wrmsr(0x277, v | 8), 13);
		CHECK(rdmsr(0x277), v);
	}
	if (f1[3] >> 12 & 1) {
		CHECK(try_wrmsr(0x2ff, 2), 13);
		CHECK(try_wrmsr(0xfe, 0), 13);
		CHECK(try_wrmsr(0x250, 0x0606060606060602), 13);
	}
	if (ext[3] >> 27 & 1) {
		u32 cx;

		CHECK(try_wrmsr(TSC_AUX, 1ull << 32), 13);
		wrmsr(TSC_AUX, 0x89abcdef);
		__asm__ volatile("rdtscp" : "=c"(cx) : : "rax", "rdx");
		CHECK(cx, 0x89abcdef);
		if (f7[2] >> 22 & 1) {
			__asm__ volatile("rdpid %0" : "=r"(v));
			CHECK(v, 0x89abcdef);
		}
	}
	CHECK(TRY("mov %%cr1, %%rax", : : "r"(0) : "rax", "memory"), 6);
	CHECK(TRY("mov %%cr5, %%rax", : : "r"(0) : "rax", "memory"), 6);
	CHECK(try_cr0(read_cr0() | 1ull << 32), 13);
	CHECK(try_cr0((read_cr0() | 1 << 29) & ~(1ull << 30)), 13); /* NW without CD */
	CHECK(try_cr0(read_cr0() & ~1ull), 13);			    /* PG without PE */
	CHECK(try_cr4(read_cr4() & ~0x20ull), 13);		    /* PAE in long mode */
	CHECK(try_cr4(read_cr4() | 1 << 13), 13);		    /* VMXE */
	CHECK(try_cr4(read_cr4() | 1ull << 40), 13);
}

/* --- fast system calls --- */

USER_CODE(u_syscall, "std; syscall");
USER_CODE(u_sysenter, "mov $0x10000, %edx; sysenter");
USER_CODE(k_entry, "pushfq; pop %rax; mov %cs, %edx; mov %ss, %edi");

static u64 sysret(u64 rip, u64 rflags)
{
	return TRY("mov %1, %%r11\n\tsysretq",
		   :
		   : "c"(rip), "r"(rflags)
		   : "rax", "r11", "memory", "cc");
}

static void fast_calls(void)
{
	wrmsr(STAR, 0x0033003800000000);
	wrmsr(LSTAR, (u64)k_entry);
	wrmsr(SFMASK, 0x400);
	CHECK(USER_TRY(u_syscall, 0x202), 6);
	CHECK(got.rip, k_entry + 6);
	CHECK(got.cs, 0x38);
	CHECK(got.ss, 0x40);
	CHECK(got.rflags & 0x600, 0x200);
	/* The user's stack pointer stays. */
	CHECK(got.rsp, USER(user_stack) + 4096);
	/* SYSRET: to ring 3 with what R11 says but RF and VM. */
	CHECK(sysret(USER(u_ud), 0x30202), 6);
	CHECK(got.cs, 0x43);
	CHECK(got.ss, 0x3b);
	CHECK(got.rflags, 0x10202);
	CHECK(got.rip, USER(u_ud + 1));
	/* A non-canonical target is #GP, still in ring 0. */
	CHECK(sysret(BAD, 2), 13);
	CHECK(got.cs, 0x38);
	CHECK(got.error, 0);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
	CHECK(sysret(USER(u_ud), 2), 6);
	CHECK(USER_TRY(u_syscall, 2), 6);
	CHECK(got.rip, USER(u_syscall + 1));
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	/* SYSENTER: off while CS is null. */
	wrmsr(0x174, 3);
	CHECK(USER_TRY(u_sysenter, 2), 13);
	CHECK(got.error, 0);
	wrmsr(0x174, 0x38);
	wrmsr(0x175, (u64)user_stack + 2048);
	wrmsr(0x176, (u64)k_entry);
	CHECK(USER_TRY(u_sysenter, 0x202), 6);
	CHECK(got.rip, k_entry + 6);
	CHECK(got.cs, 0x38);
	CHECK(got.ss, 0x40);
	CHECK(got.rflags & 0x200, 0);
	CHECK(got.rsp, (u64)user_stack + 2048);
	/* SYSEXIT with REX.W. */
	CHECK(TRY("mov %1, %%rcx\n\trex.w sysexit",
		  :
		  : "d"(USER(u_ud)), "r"(USER(user_stack) + 4096)
		  : "rax", "rcx", "memory"),
	      6);
	CHECK(got.cs, 0x38 + 32 + 3);
	CHECK(got.ss, 0x38 + 40 + 3);
	CHECK(TRY("rex.w sysexit", : : "d"(BAD), "c"(0) : "rax", "memory"), 13);
	CHECK(TRY("rex.w sysexit", : : "d"(0), "c"(BAD) : "rax", "memory"), 13);
	/* A non-canonical IRET target: the CS of the fault is ring 0's. */
	CHECK(TRY("pushq $0x23\n\tpushq $0\n\tpushq $2\n\tpushq $0x43\n\tpush %0\n\tiretq",
		  :
		  : "r"(BAD)
		  : "rax", "memory"),
	      13);
	CHECK(got.cs, 0x38);
}

static void bases(void)
{
	wrmsr(GS_BASE, 0x111000);
	wrmsr(KERNEL_GS, 0xffff900000000000);
	__asm__ volatile("swapgs");
	CHECK(rdmsr(GS_BASE), 0xffff900000000000);
	CHECK(rdmsr(KERNEL_GS), 0x111000);
	__asm__ volatile("swapgs");
	/* A selector load sets the base from the table, 32 bits of it. */
	__asm__ volatile("mov %0, %%gs" : : "r"(DATA32));
	CHECK(rdmsr(GS_BASE), 0);
	if (!(f7[1] & 1)) {
		CHECK(try_cr4(read_cr4() | CR4_FSGSBASE), 13);
		return;
	}
	CHECK(USER_TRY(u_rdfs, 2), 6);
	CHECK(got.rip, USER(u_rdfs));
	write_cr4(read_cr4() | CR4_FSGSBASE);
	wrmsr(FS_BASE, 0x777);
	CHECK(USER_TRY(u_rdfs, 2), 6);
	CHECK(got.rip, USER(u_rdfs + 5));
	CHECK(USER_TRY(u_wrgs, 2), 6);
	CHECK(rdmsr(GS_BASE), 0x123456);
	CHECK(TRY("wrfsbase %0", : : "r"(BAD) : "rax", "memory"), 13);
	CHECK(rdmsr(FS_BASE), 0x777);
	/* 32 bits are zero-extended. */
	CHECK(TRY("wrfsbase %k0", : : "r"(~0ull) : "rax", "memory"), NONE);
	CHECK(rdmsr(FS_BASE), 0xffffffff);
	/* An access through a base may be non-canonical, or wrap. */
	wrmsr(FS_BASE, (u64)&f1[0] + 8);
	CHECK(TRY("mov %%fs:(%0), %%eax", : : "r"(-8ull) : "rax", "memory"), NONE);
	wrmsr(FS_BASE, 0x7ffffffff000);
	CHECK(TRY("mov %%fs:(%0), %%eax", : : "r"(0x1000ull) : "rax", "memory"), 13);
	write_cr4(read_cr4() & ~(u64)CR4_FSGSBASE);
}

/* --- XCR0 and XSAVE --- */

static u8 area[8192] __attribute__((aligned(64)));

static u64 xsetbv(u32 n, u64 v)
{
	return TRY("xsetbv", : : "c"(n), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

static u64 xrstor(void *p)
{
	return TRY("mov $-1, %%eax\n\tmov %%eax, %%edx\n\txrstor (%0)",
		   :
		   : "r"(p)
		   : "rax", "rdx", "memory");
}

static void xstate(void)
{
	u64 all;
	u32 d[4];

	write_cr4(read_cr4() | 0x600);
	if (!(f1[2] >> 26 & 1)) {
		CHECK(try_cr4(read_cr4() | CR4_OSXSAVE), 13);
		CHECK(xsetbv(0, 1), 6);
		return;
	}
	CHECK(xsetbv(0, 1), 6);
	CHECK(xrstor(area), 6);
	write_cr4(read_cr4() | CR4_OSXSAVE);
	cpuid(1, 0, d);
	CHECK(d[2] >> 27 & 1, 1);
	cpuid(13, 0, d);
	all = (u64)d[3] << 32 | d[0];
	CHECK(all & 3, 3);
	CHECK(xsetbv(0, all), NONE);
	cpuid(13, 0, d);
	CHECK(d[1], d[2]);
	CHECK(xsetbv(1, 1), 13);
	CHECK(xsetbv(0, 0), 13); /* x87 always */
	CHECK(xsetbv(0, 2), 13);
	if (all & 4)
		CHECK(xsetbv(0, 5), 13); /* AVX without SSE */
	if (all & 0xe0) {
		CHECK(xsetbv(0, 0x27), 13); /* a part of AVX-512 */
		CHECK(xsetbv(0, 0xe3), 13); /* and it without AVX */
	}
	CHECK(xsetbv(0, 1ull << 63 | 3), 13);
	CHECK(USER_TRY(u_xsetbv, 2), 13);
	/* Headers that XRSTOR refuses. */
	CHECK(TRY("mov $-1, %%eax\n\tmov %%eax, %%edx\n\txsave (%0)",
		  :
		  : "r"(area)
		  : "rax", "rdx", "memory"),
	      NONE);
	CHECK(xrstor(area), NONE);
	CHECK(xrstor(area + 8), 13);
	CHECK(TRY("xsave 8(%0)", : : "r"(area) : "rax", "memory"), 13);
	area[512 + 8] = 1; /* XCOMP_BV of a standard area */
	CHECK(xrstor(area), 13);
	area[512 + 8] = 0;
	area[512 + 16] = 1;
	CHECK(xrstor(area), 13);
	area[512 + 16] = 0;
	area[512 + 7] = 0x40; /* XSTATE_BV with what XCR0 has not */
	CHECK(xrstor(area), 13);
	area[512 + 7] = 0;
	area[512] |= 3;
	area[24 + 2] = 1; /* MXCSR */
	CHECK(xrstor(area), 13);
	area[24 + 2] = 0;
	CHECK(xrstor(area), NONE);
	cpuid(13, 1, fd1);
	area[512 + 15] = 0x80; /* compact */
	if (fd1[0] >> 1 & 1) {
		memcpy(area + 512 + 8, area + 512, 7);
		CHECK(xrstor(area), NONE);
		area[512 + 8] = 0; /* a component in use that the format has no place for */
		CHECK(xrstor(area), 13);
	} else {
		CHECK(xrstor(area), 13);
	}
	memset(area + 512, 0, 64);
	CHECK(xrstor(area), NONE);
}

/* --- what CPUID says is what there is --- */

static void features(void)
{
	u64 avx = TRY(".byte 0xc5, 0xfc, 0x57, 0xc0" /* vxorps ymm0 */,
		      :
		      : "r"(0)
		      : "rax", "memory");
	u64 andn = TRY("andn %%eax, %%eax, %%eax", : : "r"(0) : "rax", "memory", "cc");
	u64 movbe = TRY("movbe (%0), %%eax", : : "r"(area) : "rax", "memory");
	u64 popcnt = TRY("popcnt %%eax, %%eax", : : "r"(0) : "rax", "memory", "cc");
	u64 pshufb = TRY("pshufb %%xmm0, %%xmm0", : : "r"(0) : "rax", "memory");
	u64 crc = TRY("crc32l %%eax, %%eax", : : "r"(0) : "rax", "memory");
	u64 cx16 = TRY("lock cmpxchg16b (%0)",
		       :
		       : "r"(area)
		       : "rax", "rbx", "rcx", "rdx", "memory", "cc");
	u64 adx = TRY("adcx %%eax, %%eax", : : "r"(0) : "rax", "memory", "cc");
	u64 aes = TRY("aesenc %%xmm0, %%xmm0", : : "r"(0) : "rax", "memory");
	u64 rdrand = TRY("rdrand %%eax", : : "r"(0) : "rax", "memory", "cc");

	CHECK(avx, f1[2] >> 28 & 1 ? NONE : 6);
	CHECK(andn, f7[1] >> 3 & 1 ? NONE : 6);
	CHECK(movbe, f1[2] >> 22 & 1 ? NONE : 6);
	CHECK(popcnt, f1[2] >> 23 & 1 ? NONE : 6);
	CHECK(pshufb, f1[2] >> 9 & 1 ? NONE : 6);
	CHECK(crc, f1[2] >> 20 & 1 ? NONE : 6);
	CHECK(cx16, f1[2] >> 13 & 1 ? NONE : 6);
	CHECK(adx, f7[1] >> 19 & 1 ? NONE : 6);
	CHECK(aes, f1[2] >> 25 & 1 ? NONE : 6);
	CHECK(rdrand, f1[2] >> 30 & 1 ? NONE : 6);
	CHECK(TRY("monitor", : : "r"(0) : "rax", "memory"), f1[2] >> 3 & 1 ? NONE : 6);
	CHECK(TRY("vmcall", : : "r"(0) : "rax", "memory"), 6);
	CHECK(TRY("rsm", : : "r"(0) : "rax", "memory"), 6);
}

void main64(void)
{
	u32 max[4];

	cpuid(0, 0, max);
	cpuid(1, 0, f1);
	if (max[0] >= 7)
		cpuid(7, 0, f7);
	cpuid(0x80000001, 0, ext);
	privileged();
	registers();
	fast_calls();
	bases();
	xstate();
	features();
}
