/* Several CPUs: INIT and start-up, IPIs in all directions, locked instructions, code changed by
 * another CPU, TLB shootdown, memory order. SDM 3A chapter 8 "Multiple-Processor Management".
 */
#include "lib/long.h"

#define MAX_CPUS 8

static unsigned n_cpus;

/* --- the same job on all CPUs --- */

static void (*volatile job)(unsigned id);
static volatile u32 job_number;
static _Atomic u32 jobs_done, at_barrier;
static _Atomic u32 n_listening; /* starts of CPUs that will see the next job */

static unsigned my_id(void)
{
	return lapic_read(APIC_ID) >> 24;
}

/* Start a CPU and wait until it looks for jobs: it may be slow on its way there. */
static void start_listening(unsigned id)
{
	u32 before = n_listening;

	ap_start(id);
	CHECK(WAIT(n_listening == before + 1), 1);
}

void ap_main(unsigned id)
{
	u32 seen = job_number;

	n_listening++;
	lapic_write(APIC_SVR, 0x1ff);
	sti();
	for (;;) {
		while (job_number == seen)
			pause();
		seen = job_number;
		job(id);
		jobs_done++;
	}
}

static void run_all(void (*fn)(unsigned id))
{
	jobs_done = 0;
	at_barrier = 0;
	job = fn;
	__atomic_fetch_add(&job_number, 1, __ATOMIC_SEQ_CST);
	fn(0);
	CHECK(WAIT(jobs_done == n_cpus - 1), 1);
}

static void barrier(void)
{
	at_barrier++;
	while (at_barrier < n_cpus)
		pause();
}

/* --- IPIs --- */

static _Atomic u32 came[MAX_CPUS][MAX_CPUS]; /* from, to */
static _Atomic u32 nmis[MAX_CPUS];

static void on_ipi(struct regs *r)
{
	came[r->vector - 0x40][my_id()]++;
	lapic_write(APIC_EOI, 0);
}

static void on_nmi(struct regs *r)
{
	nmis[my_id()]++;
}

static void send(unsigned to, u32 low)
{
	lapic_write(APIC_ICR2, to << 24);
	lapic_write(APIC_ICR, low);
}

static u32 sum(_Atomic u32 v[MAX_CPUS])
{
	u32 n = 0;

	for (unsigned i = 0; i < n_cpus; i++)
		n += v[i];
	return n;
}

static void ids(unsigned id)
{
	CHECK(my_id(), id);
}

static void one_to_one(unsigned id)
{
	sti();
	for (unsigned to = 0; to < n_cpus; to++) {
		send(to, 0x40 + id);
		CHECK(WAIT(came[id][to] == 1), 1);
	}
}

static void broadcasts(unsigned id)
{
	sti();
	lapic_write(APIC_ICR, 0xc0040 + id);
	CHECK(WAIT(sum(came[id]) == n_cpus - 1), 1);
	CHECK(came[id][id], 0);
	lapic_write(APIC_ICR, 0x80040 + id);
	CHECK(WAIT(sum(came[id]) == 2 * n_cpus - 1), 1);
	send(0xff, 0x40 + id);
	CHECK(WAIT(sum(came[id]) == 3 * n_cpus - 1), 1);
}

static void forget(void)
{
	for (unsigned i = 0; i < MAX_CPUS; i++)
		for (unsigned k = 0; k < MAX_CPUS; k++)
			came[i][k] = 0;
}

static void sleep_until_ipi(unsigned id)
{
	if (id == 0)
		return;
	cli();
	while (!came[0][id])
		__asm__ volatile("sti; hlt; cli" : : : "memory");
	sti();
}

static void set_logical(unsigned id)
{
	lapic_write(APIC_LDR, 1u << (24 + id));
}

static void ipis(void)
{
	for (unsigned v = 0; v < MAX_CPUS; v++)
		handler[0x40 + v] = on_ipi;
	handler[2] = on_nmi;
	run_all(ids);
	run_all(one_to_one);
	forget();
	run_all(broadcasts);
	forget();
	/* Out of HLT. */
	jobs_done = 0;
	job = sleep_until_ipi;
	job_number++;
	for (u64 end = rdtsc() + 50000000; rdtsc() < end;)
		pause();
	lapic_write(APIC_ICR, 0xc0040);
	CHECK(WAIT(jobs_done == n_cpus - 1), 1);
	forget();
	/* Logical, to two; lowest priority, to one of all. */
	run_all(set_logical);
	send(6, 0x840);
	CHECK(WAIT(came[0][1] && came[0][2]), 1);
	CHECK(sum(came[0]), 2);
	for (u32 n = 1; n <= 20; n++) {
		send(0xe, 0x940);
		CHECK(WAIT(sum(came[0]) == 2 + n), 1);
	}
	CHECK(came[0][0], 0);
	/* NMIs to all others. */
	lapic_write(APIC_ICR, 0xc0400);
	CHECK(WAIT(sum(nmis) == n_cpus - 1), 1);
	CHECK(nmis[0], 0);
	handler[2] = NULL;
	cli();
}

/* --- locked instructions --- */

#define TURNS 10000

static struct {
	u32 inc, xadd, cas, add_u;
	u64 wide[2] __attribute__((aligned(16)));
	u8 bytes[64] __attribute__((aligned(64)));
	u64 bits[16];
	u32 lock, guarded;
} shared __attribute__((aligned(64)));

static void count(unsigned id)
{
	barrier();
	for (unsigned n = 0; n < TURNS; n++) {
		u32 one = 1, old;
		u64 lo, hi;
		u8 ok;

		__asm__ volatile("lock incl %0" : "+m"(shared.inc) : : "memory", "cc");
		__asm__ volatile("lock xaddl %1, %0" : "+m"(shared.xadd), "+r"(one) : : "memory");
		do {
			old = shared.cas;
			__asm__ volatile("lock cmpxchgl %3, %0\n\tsete %2"
					 : "+m"(shared.cas), "+a"(old), "=q"(ok)
					 : "r"(old + 3)
					 : "memory", "cc");
		} while (!ok);
		/* Over a cache line's border. */
		__asm__ volatile("lock addl $2, %0"
				 : "+m"(*(u32 *)(shared.bytes + 30))
				 :
				 : "memory", "cc");
		lo = 0;
		hi = 0;
		do {
			__asm__ volatile("mov %%rax, %%rbx\n\tmov %%rdx, %%rcx\n\tadd $1, %%rbx\n\t"
					 "adc $1, %%rcx\n\tlock cmpxchg16b %0\n\tsete %3"
					 : "+m"(shared.wide), "+a"(lo), "+d"(hi), "=&r"(ok)
					 :
					 : "rbx", "rcx", "memory", "cc");
		} while (!ok);
		/* A spinlock by XCHG, which locks by itself; a plain store frees it. */
		do {
			old = 1;
			__asm__ volatile("xchgl %1, %0"
					 : "+m"(shared.lock), "+r"(old)
					 :
					 : "memory");
		} while (old);
		shared.guarded++;
		__asm__ volatile("movl $0, %0" : "=m"(shared.lock) : : "memory");
		u64 bit = id * 64 + n % 64;

		__asm__ volatile("lock btc %1, %0\n\tsetc %2"
				 : "+m"(shared.bits), "+r"(bit), "=q"(ok)
				 :
				 : "memory", "cc");
		CHECK(ok, n / 64 % 2);
	}
}

static void locked(void)
{
	run_all(count);
	CHECK(shared.inc, TURNS * n_cpus);
	CHECK(shared.xadd, TURNS * n_cpus);
	CHECK(shared.cas, TURNS * n_cpus * 3);
	CHECK(*(u32 *)(shared.bytes + 30), TURNS * n_cpus * 2);
	CHECK(shared.wide[0], TURNS * n_cpus);
	CHECK(shared.wide[1], TURNS * n_cpus);
	CHECK(shared.guarded, TURNS * n_cpus);
}

/* --- memory order: x86-TSO. SDM 3A 8.2.2 --- */

#define RUNS 10000

static struct {
	u32 x __attribute__((aligned(64)));
	u32 y __attribute__((aligned(64)));
} var[RUNS];
static u32 seen[MAX_CPUS][RUNS];

static void load2(u32 *a, u32 *b, u32 *ra, u32 *rb)
{
	__asm__ volatile("movl %2, %0\n\tmovl %3, %1"
			 : "=&r"(*ra), "=&r"(*rb)
			 : "m"(*a), "m"(*b)
			 : "memory");
}

/* 0: x=1 y=1; 1 and 2: y then x; 3: x then y */
static void message_passing(unsigned id)
{
	u32 a, b;

	barrier();
	for (unsigned n = 0; n < RUNS; n++) {
		if (id == 0) {
			__asm__ volatile("movl $1, %0\n\tmovl $1, %1"
					 : "=m"(var[n].x), "=m"(var[n].y)
					 :
					 : "memory");
			continue;
		}
		load2(&var[n].y, &var[n].x, &a, &b);
		seen[id][n] = a << 1 | b;
	}
}

static void store_buffering(unsigned id)
{
	u32 r;

	barrier();
	for (unsigned n = 0; n < RUNS && id < 2; n++) {
		u32 *mine = id ? &var[n].y : &var[n].x, *other = id ? &var[n].x : &var[n].y;

		if (n & 1)
			__asm__ volatile("movl $1, %1\n\tmfence\n\tmovl %2, %0"
					 : "=r"(r), "=m"(*mine)
					 : "m"(*other)
					 : "memory");
		else
			__asm__ volatile("movl $1, %1\n\tlock orl $0, (%%rsp)\n\tmovl %2, %0"
					 : "=r"(r), "=m"(*mine)
					 : "m"(*other)
					 : "memory", "cc");
		seen[id][n] = r;
	}
}

static void load_buffering(unsigned id)
{
	u32 r;

	barrier();
	for (unsigned n = 0; n < RUNS && id < 2; n++) {
		u32 *mine = id ? &var[n].y : &var[n].x, *other = id ? &var[n].x : &var[n].y;

		__asm__ volatile("movl %2, %0\n\tmovl $1, %1"
				 : "=&r"(r), "=m"(*mine)
				 : "m"(*other)
				 : "memory");
		seen[id][n] = r;
	}
}

/* Two writers, two readers: all see one order. */
static void two_writers(unsigned id)
{
	u32 a, b;

	barrier();
	for (unsigned n = 0; n < RUNS; n++) {
		if (id == 0)
			__asm__ volatile("movl $1, %0" : "=m"(var[n].x) : : "memory");
		else if (id == 1)
			__asm__ volatile("movl $1, %0" : "=m"(var[n].y) : : "memory");
		else if (id == 2)
			load2(&var[n].x, &var[n].y, &a, &b);
		else
			load2(&var[n].y, &var[n].x, &a, &b);
		if (id >= 2)
			seen[id][n] = a << 1 | b;
	}
}

static void order(void)
{
	unsigned bad = 0;

	for (unsigned turn = 0; turn < 3; turn++) {
		memset(var, 0, sizeof(var));
		run_all(message_passing);
		for (unsigned n = 0; n < RUNS; n++)
			for (unsigned id = 1; id < n_cpus; id++)
				bad += seen[id][n] == 2;
		CHECK(bad, 0);
		memset(var, 0, sizeof(var));
		run_all(store_buffering);
		for (unsigned n = 0; n < RUNS; n++)
			bad += !seen[0][n] && !seen[1][n];
		CHECK(bad, 0);
		memset(var, 0, sizeof(var));
		run_all(load_buffering);
		for (unsigned n = 0; n < RUNS; n++)
			bad += seen[0][n] && seen[1][n];
		CHECK(bad, 0);
		memset(var, 0, sizeof(var));
		run_all(two_writers);
		for (unsigned n = 0; n < RUNS; n++)
			bad += seen[2][n] == 2 && seen[3][n] == 2;
		CHECK(bad, 0);
	}
}

/* --- code that another CPU changes, as Linux's text_poke_bp() does it --- */

__asm__(".balign 64\n"
	"patched:\n"
	"	xor %eax, %eax\n"
	"patch:	.byte 0x0f, 0x1f, 0x44, 0, 0\n" /* a NOP, or MOV EAX, 1 */
	"	ret\n");
u32 patched(void);
extern u8 patch[5];

static _Atomic u32 synced, breaks;
static volatile bool poking;
static volatile u32 now_is;

static void on_sync(struct regs *r)
{
	u32 out[4];

	cpuid(0, 0, out); /* serializes */
	synced++;
	lapic_write(APIC_EOI, 0);
}

static void on_break(struct regs *r)
{
	CHECK(r->rip, patch + 1);
	breaks++;
	r->rax = 1;
	r->rip = (u64)patch + 5;
}

static void sync_all(void)
{
	synced = 0;
	lapic_write(APIC_ICR, 0xc0050);
	CHECK(WAIT(synced == n_cpus - 1), 1);
}

static void poke(u32 value)
{
	static const u8 code[2][5] = { { 0x0f, 0x1f, 0x44, 0, 0 }, { 0xb8, 1, 0, 0, 0 } };
	volatile u8 *p = patch;

	p[0] = 0xcc;
	sync_all();
	for (int i = 1; i < 5; i++)
		p[i] = code[value][i];
	sync_all();
	p[0] = code[value][0];
	sync_all();
	CHECK(patched(), value);
}

static void call_patched(unsigned id)
{
	if (id == 0) {
		for (unsigned n = 0; n < 60; n++)
			poke(~n & 1);
		poking = false;
		return;
	}
	while (poking) {
		u32 v = patched();

		if (v > 1)
			CHECK(v, 1);
	}
}

static void see_patched(unsigned id)
{
	CHECK(patched(), now_is);
}

static void cross_modifying(void)
{
	handler[0x50] = on_sync;
	handler[3] = on_break;
	poking = true;
	run_all(call_patched);
	CHECK(breaks > 0, 1);
	for (unsigned n = 0; n < 10; n++) {
		now_is = ~n & 1;
		poke(now_is);
		run_all(see_patched);
	}
	handler[3] = NULL;
}

/* --- TLB shootdown --- */

#define VA 0x10000000000ull

static u32 frames[2][1024] __attribute__((aligned(4096)));
static volatile u32 mapped;

static void on_shootdown(struct regs *r)
{
	invlpg(VA);
	synced++;
	lapic_write(APIC_EOI, 0);
}

static void see_mapped(unsigned id)
{
	CHECK(*(volatile u32 *)(VA + 4 * id), 100 + mapped);
}

static void shootdown(void)
{
	u64 *pte = pte_of(VA, 0);

	for (unsigned f = 0; f < 2; f++)
		for (unsigned i = 0; i < 1024; i++)
			frames[f][i] = 100 + f;
	handler[0x50] = on_shootdown;
	for (unsigned n = 0; n < 40; n++) {
		mapped = n & 1;
		*(volatile u64 *)pte = (u64)frames[n & 1] | 3;
		invlpg(VA);
		sync_all();
		run_all(see_mapped);
		CHECK(*pte & 0x20, 0x20);
	}
}

/* --- INIT of a running CPU, and its new start --- */

static volatile u32 beat;

static void beating(unsigned id)
{
	if (id != 1)
		return;
	for (;;)
		beat++;
}

static bool beat_stands_still(void)
{
	u32 was = beat;

	for (u64 end = rdtsc() + 1000000000; rdtsc() < end;)
		pause();
	return beat == was;
}

static void restart(void)
{
	u32 was;

	jobs_done = 0;
	job = beating;
	job_number++;
	CHECK(WAIT(beat > 1000), 1);
	/* A start-up IPI does nothing to a CPU that runs. */
	send(1, 0x4608);
	was = beat;
	CHECK(WAIT(beat > was + 1000), 1);
	send(1, 0xc500);
	CHECK(WAIT(jobs_done == n_cpus - 2), 1);
	/* A busy host may let that CPU run, and take its INIT, late. */
	CHECK(WAIT(beat_stands_still()), 1);
	/* It takes no interrupt, and its APIC was reset. */
	send(1, 0x40);
	start_listening(1);
	run_all(ids);
}

void main64(void)
{
	n_cpus = cpu_count();
	CHECK(n_cpus, 4);
	lapic_write(APIC_SVR, 0x1ff);
	CHECK(rdmsr(MSR_APIC_BASE) >> 8 & 1, 1);
	for (unsigned id = 1; id < n_cpus; id++)
		start_listening(id);
	ipis();
	locked();
	order();
	cross_modifying();
	shootdown();
	restart();
}
