/* Checks, exceptions, page tables and other CPUs of the 64-bit test kernels. */
#include "long.h"

extern u32 failures;
extern u64 pml4[512];
extern u8 idt64[4096], stubs64[], ap_code[], ap_code_end[];
extern u64 ap_stack;
extern u32 ap_id;
void idt64_init(void);
void on_exception(struct regs *r);
void end64(void);

struct got got;
void (*volatile handler[256])(struct regs *r);

void *memset(void *p, int c, size_t n)
{
	for (u8 *d = p; n; n--)
		*d++ = (u8)c;
	return p;
}

void *memcpy(void *d, const void *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((u8 *)d)[i] = ((const u8 *)s)[i];
	return d;
}

/* --- text --- */

static void put(char c)
{
	while (!(inb(0x3fd) & 0x20))
		pause();
	outb(0x3f8, (u8)c);
}

void print(const char *text)
{
	while (*text)
		put(*text++);
}

void print_hex(u64 v)
{
	int shift = 60;

	while (shift && !(v >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		put("0123456789abcdef"[v >> shift & 15]);
}

static void print_dec(unsigned v)
{
	if (v >= 10)
		print_dec(v / 10);
	put((char)('0' + v % 10));
}

void check(u64 have, u64 want, const char *text, int line)
{
	if (have == want)
		return;
	__atomic_fetch_add(&failures, 1, __ATOMIC_SEQ_CST);
	print("line ");
	print_dec((unsigned)line);
	print(": ");
	print(text);
	print(" is ");
	print_hex(have);
	print(", not ");
	print_hex(want);
	print("\n");
}

/* --- exceptions --- */

void gate(unsigned vector, void *entry, unsigned type, unsigned ist)
{
	u64 *e = (u64 *)(idt64 + 16 * vector), a = (u64)entry;

	e[0] = (a & 0xffff) | CODE64 << 16 | (u64)ist << 32 | (u64)type << 40 |
	       (a >> 16 & 0xffff) << 48;
	e[1] = a >> 32;
}

void idt64_init(void)
{
	for (unsigned v = 0; v < 256; v++)
		gate(v, stubs64 + 16 * v, v == 3 || v == 0x80 ? 0xee : 0x8e, 0);
}

void tss_set(unsigned offset, u64 val)
{
	memcpy((u8 *)tss + offset, &val, 8);
}

void on_exception(struct regs *r)
{
	u8 v = (u8)r->vector;

	if (handler[v]) {
		handler[v](r);
		return;
	}
	if (!resume_rip) {
		print("unexpected exception ");
		print_hex(v);
		print(" error ");
		print_hex(r->error);
		print(" rip ");
		print_hex(r->rip);
		print(" cr2 ");
		print_hex(read_cr2());
		print("\n");
		failures++;
		end64();
	}
	got = (struct got){ v,	   r->error,   r->rip,
			    r->cs, r->rflags,  r->rsp,
			    r->ss, read_cr2(), (u64)r + offsetof(struct regs, error) };
	r->rip = resume_rip;
	r->rsp = resume_rsp;
	r->cs = CODE64;
	r->ss = 0;
	r->rflags = 2;
	resume_rip = 0;
}

/* --- page tables --- */

static u64 pool[64][512] __attribute__((aligned(4096)));
static unsigned pool_used;

u64 *pte_of(u64 va, int level)
{
	u64 *t = pml4;

	for (int l = 3; l > level; l--) {
		u64 *e = &t[va >> (12 + 9 * l) & 511];

		if (!(*e & 1) || *e & 0x80)
			*e = (u64)pool[pool_used++] | 7;
		t = (u64 *)(*e & 0xffffffffff000);
	}
	return &t[va >> (12 + 9 * level) & 511];
}

void map(u64 va, u64 pa, u64 flags)
{
	*pte_of(va, 0) = pa | flags;
	invlpg(va);
}

/* --- other CPUs --- */

static u8 ap_stacks[64][8192] __attribute__((aligned(16)));

void ap_start(unsigned id)
{
	u32 before = cpus_up;

	memcpy((void *)0x8000, ap_code, (size_t)(ap_code_end - ap_code));
	ap_stack = (u64)ap_stacks[id] + sizeof(ap_stacks[id]) - 8;
	ap_id = id;
	lapic_write(APIC_ICR2, id << 24);
	lapic_write(APIC_ICR, 0xc500);
	lapic_write(APIC_ICR2, id << 24);
	lapic_write(APIC_ICR, 0x4608);
	CHECK(WAIT(cpus_up == before + 1), true);
}

/* The number of enabled local APICs. ACPI 6.5, 5.2.12. */
unsigned cpu_count(void)
{
	for (u64 p = 0xe0000; p < 0x100000; p += 4) {
		if (*(u32 *)p != 0x43495041) /* "APIC" */
			continue;

		unsigned n = 0;

		for (u64 e = p + 44; e < p + *(u32 *)(p + 4); e += ((u8 *)e)[1])
			if ((*(u8 *)e == 0 && *(u8 *)(e + 4) & 1) || (*(u8 *)e == 9))
				n++;
		return n;
	}
	return 1;
}
