/* What the 64-bit test kernels stand on: C in long mode, ring 0, 4 GiB mapped one to one in 2 MiB
 * pages for ring 0, interrupts off. A kernel defines main64; the kernel ends with status 0 through
 * port 0xf4 if all its CHECKs held. Needs lib/runtime.S, lib/long.S and lib/long.c.
 *
 * RAM below 16 MiB is mapped for ring 3 too, at USER_BASE. Exceptions: TRY runs instructions with
 * all exceptions caught, and `got` tells what came; else handler[vector] takes it.
 */
#ifndef ISA_LONG_H
#define ISA_LONG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define NONE	  0xffffffff /* got.vector when nothing happened */
#define USER_BASE 0x8000000000ull
#define USER(p)	  ((u64)(p) + USER_BASE)

#define CODE32	 0x08
#define DATA32	 0x10
#define DATA32_3 0x23
#define CODE32_3 0x1b
#define CODE64	 0x38
#define CODE64_3 0x43
#define TSS_SEL	 0x48

struct regs {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
	u64 vector, error, rip, cs, rflags, rsp, ss;
};

/* The last exception that TRY caught, and its frame's address. */
struct got {
	u64 vector, error, rip, cs, rflags, rsp, ss, cr2, frame;
};

extern struct got got;
extern u64 resume_rip, resume_rsp;
/* Takes an exception or interrupt in place of TRY; on any CPU. */
extern void (*volatile handler[256])(struct regs *r);

void check(u64 have, u64 want, const char *text, int line);
void print(const char *text);
void print_hex(u64 v);

#define CHECK(have, want) check((u64)(have), (u64)(want), #have, __LINE__)

/* Run instructions that may fault; they end at the first fault. Yields the vector, or NONE. RAX is
 * changed before them. */
#define TRY(text, ...)                                                                             \
	({                                                                                         \
		got.vector = NONE;                                                                 \
		__asm__ volatile("movq $771f, resume_rip\n\tmovq %%rsp, resume_rsp\n\t" text       \
				 "\n771:\tmovq $0, resume_rip" __VA_ARGS__);                       \
		got.vector;                                                                        \
	})
#define FAULTS(vec, err)                                                                           \
	do {                                                                                       \
		CHECK(got.vector, vec);                                                            \
		CHECK(got.error, err);                                                             \
	} while (0)

/* Go to code at USER(code) in ring 3 with rflags, RDI = arg and a stack of its own, until an
 * exception; yields its vector. */
u64 user_run(const void *code, u64 rflags, u64 arg);
extern u8 user_stack[4096];

/* The page-table entry for va, making tables (P, W, U) as needed. level: 0 for 4 KiB, 1, 2. */
u64 *pte_of(u64 va, int level);
/* Map with 4 KiB pages and forget the old translation. flags: low bits and NX. */
void map(u64 va, u64 pa, u64 flags);

/* An IDT gate; ist 0 for none. type: 0x8e interrupt, 0x8f trap, with DPL. */
void gate(unsigned vector, void *entry, unsigned type, unsigned ist);
extern u64 tss[]; /* 32-bit words of a 64-bit TSS stand at odd places: see tss_set */
void tss_set(unsigned offset, u64 val);

/* Start the CPU with that APIC id in ap_main(id). xAPIC only. */
void ap_start(unsigned id);
void ap_main(unsigned id);
unsigned cpu_count(void); /* from the MADT */
extern _Atomic u32 cpus_up;

void main64(void);
void *memset(void *p, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);

/* --- instructions --- */

static inline u64 rdmsr(u32 msr)
{
	u32 lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (u64)hi << 32 | lo;
}

static inline void wrmsr(u32 msr, u64 v)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

static inline u64 try_rdmsr(u32 msr)
{
	return TRY("rdmsr", : : "c"(msr) : "rax", "rdx", "memory");
}

static inline u64 try_wrmsr(u32 msr, u64 v)
{
	return TRY("wrmsr", : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

static inline void cpuid(u32 leaf, u32 sub, u32 out[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
			 : "a"(leaf), "c"(sub));
}

static inline u64 rdtsc(void)
{
	u32 lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

#define CR_ACCESS(n)                                                                               \
	static inline u64 read_cr##n(void)                                                         \
	{                                                                                          \
		u64 v;                                                                             \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                     \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_cr##n(u64 v)                                                      \
	{                                                                                          \
		__asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory");                         \
	}                                                                                          \
	static inline u64 try_cr##n(u64 v)                                                         \
	{                                                                                          \
		return TRY("mov %0, %%cr" #n, : : "r"(v) : "rax", "memory");                       \
	}
CR_ACCESS(0)
CR_ACCESS(2)
CR_ACCESS(3)
CR_ACCESS(4)
CR_ACCESS(8)

static inline void invlpg(u64 va)
{
	__asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

static inline void outb(u16 port, u8 v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline u8 inb(u16 port)
{
	u8 v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline void sti(void)
{
	__asm__ volatile("sti" : : : "memory");
}

static inline void cli(void)
{
	__asm__ volatile("cli" : : : "memory");
}

/* Let what is pending come in: STI, its shadow, CLI. */
static inline void let_in(void)
{
	__asm__ volatile("sti; nop; cli" : : : "memory");
}

static inline void pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}

/* Wait for a condition for half a minute; false if it never held. */
#define WAIT(cond)                                                                                 \
	({                                                                                         \
		u64 end_ = rdtsc() + 80000000000ull;                                               \
		bool ok_;                                                                          \
		while (!(ok_ = (cond)) && rdtsc() < end_)                                          \
			pause();                                                                   \
		ok_;                                                                               \
	})

/* --- the local APIC --- */

static inline u32 lapic_read(unsigned reg)
{
	return *(volatile u32 *)(0xfee00000ull + reg);
}

static inline void lapic_write(unsigned reg, u32 v)
{
	*(volatile u32 *)(0xfee00000ull + reg) = v;
}

#define APIC_ID	    0x20
#define APIC_TPR    0x80
#define APIC_PPR    0xa0
#define APIC_EOI    0xb0
#define APIC_LDR    0xd0
#define APIC_DFR    0xe0
#define APIC_SVR    0xf0
#define APIC_ISR    0x100
#define APIC_TMR    0x180
#define APIC_IRR    0x200
#define APIC_ESR    0x280
#define APIC_ICR    0x300
#define APIC_ICR2   0x310
#define APIC_TIMER  0x320
#define APIC_LINT0  0x350
#define APIC_ERROR  0x370
#define APIC_ICOUNT 0x380
#define APIC_CCOUNT 0x390
#define APIC_DIVIDE 0x3e0

#define MSR_APIC_BASE	    0x1b
#define MSR_DEADLINE	    0x6e0
#define MSR_EFER	    0xc0000080
#define MSR_SYSENTER_CS	    0x174
#define MSR_KVM_SYSTEM_TIME 0x12

#endif
