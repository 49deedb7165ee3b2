/* A guest without manners: random accesses to all that is not memory, tables and stacks where
 * there is none, random registers and random code. Nothing here has a right answer but that the
 * machine lives and this kernel can still end. The numbers are always the same.
 */
#include "lib/long.h"

#define VA    0x10000000000ull
#define TURNS 60000

struct random {
	u64 s;
};

/* xorshift64* */
static u64 next(struct random *r)
{
	r->s ^= r->s >> 12;
	r->s ^= r->s << 25;
	r->s ^= r->s >> 27;
	return r->s * 0x2545f4914f6cdd1d;
}

/* --- ports --- */

/* Would a write end the machine, or shut the A20 gate that this kernel lives behind? Keyboard
 * controller, port 92, debug exit, reset control, PM1 control. */
static bool is_deadly(unsigned port, unsigned size)
{
	static const struct {
		u16 first, last;
	} deadly[] = {
		{ 0x60, 0x60 }, { 0x64, 0x64 },	  { 0x92, 0x92 },
		{ 0xf4, 0xf7 }, { 0xcf9, 0xcf9 }, { 0x604, 0x607 },
	};

	if (port == 0xcf8 && size == 4)
		return false;
	for (unsigned i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++)
		if (port <= deadly[i].last && port + size > deadly[i].first)
			return true;
	return false;
}

static u16 some_port(u64 r)
{
	static const u16 bases[] = { 0x20,  0xa0,  0x40,  0x60,	 0x70,	0x80, 0x3f8, 0x4d0,
				     0x600, 0x608, 0x620, 0xcf8, 0xcfc, 0xf0, 0x92,  0xfffc };

	return r & 0x10 ? (u16)(bases[r & 15] + (r >> 8 & 15)) : (u16)(r >> 8);
}

static void ports(struct random *r)
{
	u8 buf[64];

	for (unsigned n = 0; n < TURNS; n++) {
		u64 x = next(r);
		unsigned size = 1u << (x >> 40) % 3, kind = x >> 44 & 7;
		u16 port = some_port(x);
		u32 val = (u32)next(r);

		if ((kind & 1) && is_deadly(port, size))
			continue;
		if (kind & 1 && size == 4)
			__asm__ volatile("outl %0, %1" : : "a"(val), "d"(port));
		else if (kind & 1 && size == 2)
			__asm__ volatile("outw %w0, %1" : : "a"(val), "d"(port));
		else if (kind & 1)
			__asm__ volatile("outb %b0, %1" : : "a"(val), "d"(port));
		else if (kind == 0) {
			void *p = buf;
			u64 count = x >> 48 & 15;

			__asm__ volatile("rep insl" : "+D"(p), "+c"(count) : "d"(port) : "memory");
		} else if (size == 4)
			__asm__ volatile("inl %1, %0" : "=a"(val) : "d"(port));
		else if (size == 2)
			__asm__ volatile("inw %1, %w0" : "=a"(val) : "d"(port));
		else
			__asm__ volatile("inb %1, %b0" : "=a"(val) : "d"(port));
	}
}

/* --- physical addresses without memory --- */

static u64 some_hole(u64 r)
{
	static const u64 holes[] = { 0xa0000,	 0xe0000000, 0xe0000000, 0xfec00000,
				     0xfee00000, 0xfed00000, 0xc0000000, 0xfffff000 };
	u64 base = holes[r & 7];

	if (base == 0xe0000000)
		return base + (r >> 8 & 0x8fff); /* bus 0's first device, and another */
	if (base == 0xc0000000)
		return base + (r >> 8 & 0x3ffffff0);
	return base + (r >> 8 & 0xfff);
}

/* INIT, start-up and SMI messages would take this CPU away. */
static u32 harmless(u64 addr, u32 val)
{
	if (addr >> 12 == 0xfec00 || addr >> 12 == 0xfee00)
		return (val & ~0x700u) | (val & 0x800 ? 0x400 : 0);
	return val;
}

static void holes(struct random *r)
{
	write_cr4(read_cr4() | 0x600);
	__asm__ volatile("fninit");
	for (unsigned n = 0; n < TURNS; n++) {
		u64 x = next(r), addr = some_hole(x);
		u32 v = harmless(addr, (u32)next(r));
		u8 *p = (u8 *)addr;

		/* Wide accesses would need each part of them to be harmless. */
		if (addr >> 12 == 0xfee00 || addr >> 12 == 0xfec00) {
			if (x >> 60 & 1)
				*(volatile u32 *)p = v;
			else
				v = *(volatile u32 *)p;
			continue;
		}
		if (addr + 1024 >= 0x100000000)
			continue;
		switch (x >> 56 & 31) {
		case 0: *(volatile u8 *)p = (u8)v; break;
		case 1: *(volatile u16 *)p = (u16)v; break;
		case 2: *(volatile u32 *)p = v; break;
		case 3: *(volatile u64 *)p = v; break;
		case 4:
			__asm__ volatile("lock addl %0, (%1)" : : "r"(v), "r"(p) : "memory", "cc");
			break;
		case 5:
			__asm__ volatile("xchgq %0, (%1)" : : "r"((u64)v), "r"(p) : "memory");
			break;
		case 6:
			__asm__ volatile("lock cmpxchg8b (%0)"
					 :
					 : "r"(p)
					 : "rax", "rbx", "rcx", "rdx", "memory", "cc");
			break;
		case 7:
			__asm__ volatile("lock cmpxchg16b (%0)"
					 :
					 : "r"((u64)p & ~15ull)
					 : "rax", "rbx", "rcx", "rdx", "memory", "cc");
			break;
		case 8: __asm__ volatile("movdqu %%xmm0, (%0)" : : "r"(p) : "memory"); break;
		case 9: __asm__ volatile("movdqu (%0), %%xmm0" : : "r"(p) : "memory"); break;
		case 10: __asm__ volatile("fldt (%0)\n\tfstpt (%0)" : : "r"(p) : "memory"); break;
		case 11: __asm__ volatile("fxsave (%0)" : : "r"((u64)p & ~15ull) : "memory"); break;
		case 12: {
			void *d = p;
			const void *s = (void *)0x500000;
			u64 count = v & 63;

			__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(count) : : "memory");
			break;
		}
		case 13: {
			void *d = (void *)0x500000;
			const void *s = p;
			u64 count = v & 63;

			__asm__ volatile("rep movsl" : "+D"(d), "+S"(s), "+c"(count) : : "memory");
			break;
		}
		case 14: {
			void *d = p;
			u64 count = v & 63;

			__asm__ volatile("rep stosq" : "+D"(d), "+c"(count) : "a"(v) : "memory");
			break;
		}
		case 15:
			__asm__ volatile("bts %1, (%0)" : : "r"(p), "r"(v & 255) : "memory", "cc");
			break;
		case 16: __asm__ volatile("sgdt (%0)" : : "r"(p) : "memory"); break;
		case 17:
			__asm__ volatile("fnsave (%0)\n\tfnstenv (%0)" : : "r"(p) : "memory");
			break;
		case 18:
			__asm__ volatile("clflush (%0)\n\tprefetcht0 (%0)" : : "r"(p) : "memory");
			break;
		case 19: __asm__ volatile("maskmovdqu %%xmm1, %%xmm0" : : "D"(p) : "memory"); break;
		default: v = *(volatile u32 *)p;
		}
	}
}

/* --- structures in holes --- */

/* Where exceptions go whose frame went nowhere. */
extern char lost_frame[];
__asm__("lost_frame:\n"
	"	mov resume_rsp, %rsp\n"
	"	jmp *resume_rip\n");

extern u8 stubs64[];

static const u64 addresses[] = {
	0xc0000000, 0xd1234000,	 0xe0000000,   0xfec00000,   0xfee00000,
	0xfffff000, 0x100000000, 0x4000000000, 0x7fffffe000, 0xfffffffff000
};
#define N_ADDRESSES (sizeof(addresses) / sizeof(addresses[0]))

static void page_tables(struct random *r)
{
	for (unsigned level = 1; level < 4; level++) {
		for (unsigned i = 0; i < N_ADDRESSES; i++) {
			u64 *e = pte_of(VA + 0x200000000000, (int)level), was = *e;

			*e = addresses[i] | 7;
			for (unsigned n = 0; n < 40; n++) {
				u64 va = VA + 0x200000000000 + (next(r) & 0x7fffffffff);

				invlpg(va);
				TRY("mov (%0), %%rax", : : "r"(va) : "rax", "memory");
				TRY("lock incl (%0)", : : "r"(va) : "rax", "memory", "cc");
				TRY("call *%0", : : "r"(va) : "rax", "memory");
			}
			*e = was;
			write_cr3(read_cr3());
		}
	}
}

static void stacks_and_code(void)
{
	static u8 safe[8192] __attribute__((aligned(16)));

	/* Handlers run on a stack of their own, wherever RSP is. */
	tss_set(0x2c, (u64)safe + sizeof(safe));
	for (unsigned v = 0; v < 256; v++)
		gate(v, stubs64 + 16 * v, 0x8e, 2);
	for (unsigned i = 0; i < N_ADDRESSES; i++) {
		/* The APICs would take what a frame holds as commands. */
		bool apic = addresses[i] == 0xfec00000 || addresses[i] == 0xfee00000;
		u64 va = VA + 0x1000;

		map(VA, addresses[i] & 0xfffffff000, 7);
		map(va, addresses[i] & 0xfffffff000, 7);
		TRY("call *%0", : : "r"(va) : "rax", "memory");
		TRY("jmp *%0", : : "r"(va + 0xff0) : "rax", "memory");
		user_run((void *)(va - USER_BASE), 2, 0);
		user_run((void *)(va + 0xffe - USER_BASE), 0x102, 0);
		if (apic)
			continue;
		TRY("lea 0x800(%0), %%rsp\n\tpush %0\n\tpop %%rax\n\tpushfq\n\tpopq %%rax\n\t"
		    "call 1f\n1:\tenter $8, $3\n\tleave\n\tret",
		    :
		    : "r"(va)
		    : "rax", "rbp", "memory", "cc");
		TRY("lea 0x800(%0), %%rsp\n\tiretq", : : "r"(va) : "rax", "memory", "cc");
		TRY("lea 0x800(%0), %%rsp\n\tlretq", : : "r"(va) : "rax", "memory", "cc");
		TRY("lea 0x4(%0), %%rsp\n\tpush %0\n\tud2", : : "r"(va) : "rax", "memory", "cc");
		/* A frame in a hole. */
		tss_set(0x24, va + 0x800);
		gate(6, lost_frame, 0x8e, 1);
		TRY("ud2", : : "r"(0) : "rax", "memory");
		gate(6, stubs64 + 16 * 6, 0x8e, 2);
		/* A GDT whose first half is in memory: the code segments. */
		struct {
			u16 limit;
			u64 base;
		} __attribute__((packed)) old, gdtr;
		static u8 page[4096] __attribute__((aligned(4096)));

		__asm__ volatile("sgdt %0" : "=m"(old));
		memcpy(page + 4096 - 0x40, (void *)old.base, 0x40);
		map(VA, (u64)page, 3);
		gdtr.limit = 0xffff;
		gdtr.base = va - 0x40;
		__asm__ volatile("lgdt %0" : : "m"(gdtr));
		for (u32 sel = 0x40; sel < 0x200; sel += 8) {
			TRY("mov %0, %%es", : : "r"(sel) : "rax", "memory");
			TRY("mov %0, %%fs", : : "r"(sel + 3) : "rax", "memory");
			TRY("verr %w0\n\tlar %0, %%eax\n\tlsl %0, %%eax",
			    :
			    : "r"(sel)
			    : "rax", "memory", "cc");
			TRY("ltr %w0", : : "r"(sel) : "rax", "memory");
			TRY("lldt %w0", : : "r"(sel) : "rax", "memory");
			TRY("push %q0\n\tpush $0\n\tlretq", : : "r"(sel) : "rax", "memory");
		}
		__asm__ volatile("lgdt %0\n\tmov %1, %%es\n\tmov %1, %%fs" : : "m"(old), "r"(0));
		/* A local table and a bitmap of ports. */
		u64 *d = (u64 *)(old.base + 0x58);

		d[0] = 0x0000820000000fff | (va & 0xffffff) << 16 | (va >> 24 & 0xff) << 56;
		d[1] = va >> 32;
		TRY("lldt %w0\n\tmov %1, %%es", : : "r"(0x58), "r"(0xf) : "rax", "memory");
		__asm__ volatile("lldt %w0\n\tmov %0, %%es" : : "r"(0));
	}
}

/* --- registers --- */

static void registers(struct random *r)
{
	for (unsigned n = 0; n < 20000; n++) {
		u64 x = next(r);
		static const u32 bases[] = { 0,	    0xc0000080, 0x200,	    0x400,
					     0x800, 0x170,	0xc0010000, 0x6e0 };
		u32 msr = bases[x & 7] + (x >> 8 & 0x3f), out[4];

		try_rdmsr(msr);
		if (msr != MSR_EFER && msr != MSR_APIC_BASE)
			try_wrmsr(msr, x & 0x40 ? next(r) : next(r) & 0xff);
		cpuid((u32)x, (u32)(x >> 32), out);
		cpuid((u32)x & 0x8000001f, (u32)(x >> 32) & 7, out);
		TRY("mov %0, %%dr0\n\tmov %0, %%dr6", : : "r"(x) : "rax", "memory");
		TRY("xor %%ecx, %%ecx\n\txsetbv", : : "a"((u32)x), "d"(0) : "rcx", "memory");
		try_cr8(x & 31);
	}
	write_cr8(0);
}

/* --- random code in ring 3, ended by the timer at the latest --- */

static void random_code(struct random *r)
{
	u8 *code = (u8 *)0x600000;
	extern u64 pml4[512];

	map(VA, 0x600000, 5);
	map(VA + 0x1000, 0x601000, 7);
	map(VA + 0x2000, 0xfed00000, 7);
	pml4[1] &= ~4ull;
	write_cr3(read_cr3());
	write_cr4(read_cr4() | 0x10600 | (read_cr4() & 0));
	/* What the random registers left. */
	__asm__ volatile("mov %0, %%dr7" : : "r"(0x400ull));
	wrmsr(MSR_DEADLINE, 0);
	/* SYSCALL and SYSENTER to ring 0 at a random address, and clocks that are written over this
	 * kernel, would be the guest's own doing. */
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
	wrmsr(MSR_SYSENTER_CS, 0);
	try_wrmsr(MSR_KVM_SYSTEM_TIME, 0); /* none with --pv off */
	lapic_write(APIC_SVR, 0x1ff);
	lapic_write(APIC_TPR, 0);
	lapic_write(APIC_DIVIDE, 0xb);
	lapic_write(APIC_ERROR, 0x10000);
	lapic_write(APIC_LINT0, 0x10000);
	lapic_write(APIC_TIMER, 0x200f0);
	lapic_write(APIC_ICOUNT, 1000000);
	for (unsigned n = 0; n < 20000; n++) {
		for (unsigned i = 0; i < 64; i += 8)
			*(u64 *)(code + i) = next(r);
		if (n & 1)
			code[0] =
				(u8[]){ 0xf3, 0xc4, 0xc5, 0x62, 0x66, 0x48, 0xf0, 0x0f }[n / 2 % 8];
		user_run((void *)(VA - USER_BASE), 0x202 | (n % 16 == 0 ? 0x100 : 0),
			 n & 2 ? VA + 0x1800 : VA + 0x2000);
		if (got.vector >= 32)
			lapic_write(APIC_EOI, 0);
	}
}

/* The serial port back from wherever it is. */
static void serial_back(void)
{
	outb(0x3fb, 3);
	outb(0x3f9, 0);
	outb(0x3fc, 0);
}

static void ignore(struct regs *r)
{
}

static _Atomic u32 others_done;

void ap_main(unsigned id)
{
	struct random r = { 0x1234567 + id };

	ports(&r);
	holes(&r);
	others_done++;
}

void main64(void)
{
	struct random r = { 0x9e3779b97f4a7c15 };
	unsigned n = cpu_count();

	handler[2] = ignore;
	lapic_write(APIC_SVR, 0x1ff);
	for (unsigned id = 1; id < n; id++)
		ap_start(id);
	ports(&r);
	holes(&r);
	while (others_done != n - 1)
		pause();
	serial_back();
	page_tables(&r);
	stacks_and_code();
	registers(&r);
	random_code(&r);
	serial_back();
}
