/* Engine kvm with guests of a few instructions: they run also on a /dev/kvm that emulates. */
#include "check.h"
#include "flatcpu.h"

#include "base/err.h"
#include "cpu/kvm/dirty.h"
#include "cpu/kvm/probe.h"
#include "cpu/state.h"
#include "cpu/x86/system.h"

#include <pthread.h>
#include <unistd.h>

#define CODE(...) (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ })
#define HLT	  0xf4

/* A KVM that emulates lacks some of what is tested; it is told by the probe. */
static bool is_real;
#define NEEDS_HARDWARE()                                                                           \
	do {                                                                                       \
		if (!is_real)                                                                      \
			skip();                                                                    \
	} while (0)

/* What of a debugger's works: KVM_STOPS_ bits. */
static unsigned stops;
#define NEEDS_STOP(bit)                                                                            \
	do {                                                                                       \
		if (!(stops & (bit)))                                                              \
			skip();                                                                    \
	} while (0)

/* Linear address that leads to where no memory is. */
#define MMIO_VA	 (FLAT_RAM - 2 * MiB)
#define MMIO_GPA 0xd0000000ull
#define GDT_AT	 0x5000
#define IDT_AT	 0x6000
#define HANDLER	 0x7000

static struct flatcpu f;

/* A device that remembers what it was written and reads as it was told. */
static struct port {
	uint64_t read, written[64];
	unsigned n_written, size;
	bool kicks; /* whoever writes is asked to stop */
} dev;

static uint64_t dev_read(void *arg, uint64_t off, unsigned size)
{
	struct port *d = arg;

	d->size = size;
	return d->read >> 8 * off;
}

static void dev_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
	struct port *d = arg;

	d->size = size;
	d->written[d->n_written++ % 64] = val;
	if (d->kicks)
		vcpu_kick(&f.c, KICK_STOP);
}

static const struct io_ops dev_ops = { .read = dev_read, .write = dev_write, .max = 8 };

/* An interrupt controller that has one vector. */
static struct pic {
	int vector;
	uint64_t cr8;
	bool kicks; /* whoever takes the vector is asked to stop */
} pic;

static int pic_ack(void *apic)
{
	int vector = pic.vector;

	pic.vector = -1;
	if (pic.kicks)
		vcpu_kick(&f.c, KICK_STOP);
	return vector;
}

static bool pic_pending(void *apic)
{
	return pic.vector >= 0;
}

static uint64_t pic_get_cr8(void *apic)
{
	return pic.cr8;
}

static void pic_set_cr8(void *apic, uint64_t val)
{
	pic.cr8 = val;
}

static bool pic_read_msr(void *apic, uint32_t msr, uint64_t *val)
{
	*val = msr == 0x1b ? 0xfee00900 : msr;
	return true;
}

static bool pic_write_msr(void *apic, uint32_t msr, uint64_t val)
{
	return true;
}

static bool pic_owns(void *apic, gpa_t gpa)
{
	return false;
}

static void pic_init(void *apic)
{
}

static const struct vcpu_apic_ops pic_ops = { .ack = pic_ack,
					      .pending = pic_pending,
					      .get_cr8 = pic_get_cr8,
					      .set_cr8 = pic_set_cr8,
					      .read_msr = pic_read_msr,
					      .write_msr = pic_write_msr,
					      .owns_gpa = pic_owns,
					      .init_reset = pic_init };

/* Every vector leads to HANDLER; a TSS is not needed at CPL 0. */
static void make_tables(struct flatcpu *to)
{
	static const uint64_t gdt[] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
	struct vcpu *c = &to->c;

	memcpy(to->pm.ram + GDT_AT, gdt, sizeof(gdt));
	for (unsigned v = 0; v < 256; v++)
		store64(to->pm.ram + IDT_AT + 16 * v, HANDLER | 0x10ull << 16 | 0x8eull << 40);
	c->gdtr = (struct dtable){ .base = GDT_AT, .limit = sizeof(gdt) - 1 };
	c->idtr = (struct dtable){ .base = IDT_AT, .limit = 256 * 16 - 1 };
	to->pm.ram[HANDLER] = HLT;
}

static void set_up(struct flatcpu *to, const struct engine *e, const struct cpu_model *model)
{
	uint64_t *pd;

	flat_init(to, e, "host");
	if (model) {
		/* What the other engine shows, too. */
		to->model = *model;
		flat_reset(to, 0);
	}
	pd = (uint64_t *)(to->pm.ram + 0x3000);
	pd[MMIO_VA / (2 * MiB)] = MMIO_GPA | 0x87;
	make_tables(to);
	FLAT_MUST(iospace_map(to->c.pio, 0x100, 8, &dev_ops, &dev, NULL));
	FLAT_MUST(iospace_map(to->c.mmio, MMIO_GPA, 0x1000, &dev_ops, &dev, NULL));
}

static int setup(void **state)
{
	dev = (struct port){ 0 };
	pic = (struct pic){ .vector = -1 };
	set_up(&f, &engine_kvm, NULL);
	return 0;
}

static int setup_without_ring(void **state)
{
	setenv("CLEAVE_KVM_NO_RING", "1", 1);
	return setup(state);
}

static int teardown(void **state)
{
	flat_fini(&f);
	unsetenv("CLEAVE_KVM_NO_RING");
	return 0;
}

static void pull(void)
{
	f.c.engine->pull(&f.c);
}

/* -- Accesses -------------------------------------------------------------------------------- */

TEST(a_halt_comes_back_behind_the_instruction)
{
	CHECK_EQ(flat_run(&f, CODE(0x90, HLT, 0x90)), RUN_HALTED);
	pull();
	CHECK_EQ(f.c.rip, FLAT_CODE + 2);
	CHECK_EQ(f.c.mp_state, MP_HALTED);
}

TEST(a_port_is_written_and_read)
{
	dev.read = 0x1234;
	f.c.gpr[REG_RDX] = 0x100;
	f.c.gpr[REG_RAX] = 0xcafe;
	/* out dx, ax; in ax, dx; hlt */
	CHECK_EQ(flat_run(&f, CODE(0x66, 0xef, 0x66, 0xed, HLT)), RUN_HALTED);
	pull();
	CHECK_EQ(dev.n_written, 1);
	CHECK_EQ(dev.written[0], 0xcafe);
	CHECK_EQ(dev.size, 2);
	CHECK_EQ(f.c.gpr[REG_RAX], 0x1234);
}

TEST(a_repeated_port_access_gives_each_element)
{
	memcpy(f.pm.ram + FLAT_DATA, "abcdefgh", 8);
	f.c.gpr[REG_RDX] = 0x100;
	f.c.gpr[REG_RSI] = FLAT_DATA;
	f.c.gpr[REG_RCX] = 8;
	CHECK_EQ(flat_run(&f, CODE(0xf3, 0x6e, HLT)), RUN_HALTED); /* rep outsb */
	pull();
	CHECK_EQ(dev.n_written, 8);
	for (unsigned i = 0; i < 8; i++)
		CHECK_EQ(dev.written[i], 'a' + i);
	CHECK_EQ(f.c.gpr[REG_RCX], 0);
	CHECK_EQ(f.c.gpr[REG_RSI], FLAT_DATA + 8);
}

TEST(a_device_register_in_memory_is_written_and_read)
{
	dev.read = 0x1122334455667788;
	f.c.gpr[REG_RDI] = MMIO_VA;
	f.c.gpr[REG_RAX] = 0xdeadbeef;
	/* mov [rdi], eax; mov rcx, [rdi]; hlt */
	CHECK_EQ(flat_run(&f, CODE(0x89, 0x07, 0x48, 0x8b, 0x0f, HLT)), RUN_HALTED);
	pull();
	CHECK_EQ(dev.written[0], 0xdeadbeef);
	CHECK_EQ(f.c.gpr[REG_RCX], 0x1122334455667788);
}

TEST(a_store_to_rom_is_dropped)
{
	static uint8_t rom[PAGE_SIZE] __attribute__((aligned(4096)));

	memset(rom, 0x5a, sizeof(rom));
	FLAT_MUST(physmap_add_rom(&f.pm, MMIO_GPA + 0x100000, sizeof(rom), rom, NULL));
	f.c.engine->inval(&f.c, 0, 0);
	f.c.gpr[REG_RDI] = MMIO_VA + 0x100000;
	/* mov byte [rdi], 1; mov al, [rdi]; hlt */
	CHECK_EQ(flat_run(&f, CODE(0xc6, 0x07, 0x01, 0x8a, 0x07, HLT)), RUN_HALTED);
	pull();
	CHECK_EQ(f.c.gpr[REG_RAX] & 0xff, 0x5a);
	CHECK_EQ(rom[0], 0x5a);
}

TEST(memory_that_was_given_back_reads_as_zero)
{
	memset(f.pm.ram + FLAT_DATA, 0xff, PAGE_SIZE);
	f.c.gpr[REG_RDI] = FLAT_DATA;
	CHECK_EQ(flat_run(&f, CODE(0x8a, 0x07, HLT)), RUN_HALTED); /* KVM has it mapped now */
	CHECK_EQ(physmap_discard(&f.pm, f.pm.ram + FLAT_DATA, PAGE_SIZE), PAGE_SIZE);
	pull();
	CHECK_EQ(f.c.gpr[REG_RAX] & 0xff, 0xff);
	f.c.rip = FLAT_CODE;
	f.c.mp_state = MP_RUNNING;
	f.c.engine->push(&f.c);
	CHECK_EQ(f.c.engine->run(&f.c), RUN_HALTED);
	pull();
	CHECK_EQ(f.c.gpr[REG_RAX] & 0xff, 0);
}

TEST(a_triple_fault_is_a_shutdown)
{
	f.c.idtr.limit = 0;
	CHECK_EQ(flat_run(&f, CODE(0x0f, 0x0b)), RUN_SHUTDOWN);
	CHECK_EQ(f.c.mp_state, MP_SHUTDOWN);
}

/* Are two TSC offsets the same? Where the host's counter is not steady KVM moves them a little. */
static bool is_about(int64_t a, int64_t b)
{
	return llabs(a - b) < 1ll << 32;
}

/* -- Model ---------------------------------------------------------------------------------- */

TEST(an_msr_that_the_model_has_not_faults_and_one_that_is_ours_answers)
{
	f.c.gpr[REG_RCX] = 0xdead;
	CHECK_EQ(flat_run(&f, CODE(0x0f, 0x32, 0x90)), RUN_HALTED); /* rdmsr, to the handler */
	pull();
	CHECK_EQ(f.c.rip, HANDLER + 1);

	flat_reset(&f, 0);
	make_tables(&f);
	f.c.engine->push(&f.c);
	f.c.msr.mtrr_def_type = 0xc06;
	f.c.gpr[REG_RCX] = 0x2ff;
	CHECK_EQ(flat_run(&f, CODE(0x0f, 0x32, HLT)), RUN_HALTED);
	pull();
	CHECK_EQ(f.c.rip, FLAT_CODE + 3);
	CHECK_EQ(f.c.gpr[REG_RAX], 0xc06);
}

TEST(the_time_stamp_counter_that_is_written_is_read)
{
	int64_t before = f.c.tsc_offset;

	NEEDS_HARDWARE(); /* a KVM that emulates shows the host's */
	f.c.gpr[REG_RCX] = 0x10;
	f.c.gpr[REG_RDX] = 0x1000;
	/* wrmsr; rdmsr; hlt */
	CHECK_EQ(flat_run(&f, CODE(0x0f, 0x30, 0x0f, 0x32, HLT)), RUN_HALTED);
	pull();
	CHECK_EQ(f.c.gpr[REG_RDX], 0x1000);
	CHECK(is_about(f.c.tsc_offset, before + (int64_t)f.c.msr.tsc_adjust));
}

TEST(cpuid_is_that_of_the_model)
{
	static const uint32_t leaves[][2] = { { 0, 0 },	   { 1, 0 },	      { 7, 0 },
					      { 0x16, 0 }, { 0x80000001, 0 }, { 0x80000008, 0 } };

	NEEDS_HARDWARE(); /* a KVM that emulates lets CPUID through to the host's */
	for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
		uint32_t want[4];

		flat_reset(&f, 0);
		f.c.engine->push(&f.c);
		sys_cpuid(&f.c, leaves[i][0], leaves[i][1], want);
		f.c.gpr[REG_RAX] = leaves[i][0];
		f.c.gpr[REG_RCX] = leaves[i][1];
		CHECK_EQ(flat_run(&f, CODE(0x0f, 0xa2, HLT)), RUN_HALTED);
		pull();
		CHECK_EQ(f.c.gpr[REG_RAX], want[CPUID_EAX]);
		CHECK_EQ(f.c.gpr[REG_RBX], want[CPUID_EBX]);
		CHECK_EQ(f.c.gpr[REG_RCX], want[CPUID_ECX]);
		CHECK_EQ(f.c.gpr[REG_RDX], want[CPUID_EDX]);
	}
}

/* -- Interrupts ------------------------------------------------------------------------------- */

static void with_pic(int vector)
{
	pic.vector = vector;
	f.c.apic_ops = &pic_ops;
}

static uint64_t saved_rip(void)
{
	return load64(f.pm.ram + f.c.gpr[REG_RSP]);
}

TEST(an_interrupt_comes_when_the_guest_allows_it)
{
	with_pic(0x41);
	/* nop; sti; nop; nop; jmp $ */
	CHECK_EQ(flat_run(&f, CODE(0x90, 0xfb, 0x90, 0x90, 0xeb, 0xfe)), RUN_HALTED);
	pull();
	CHECK_EQ(f.c.rip, HANDLER + 1);
	CHECK(saved_rip() >= FLAT_CODE + 3);
	CHECK_EQ(pic.vector, -1);
}

TEST(an_interrupt_ends_a_halt)
{
	f.c.apic_ops = &pic_ops;
	CHECK_EQ(flat_run(&f, CODE(0xfb, HLT, 0x90)), RUN_HALTED);
	with_pic(0x42);
	vcpu_kick(&f.c, KICK_IRQ);
	CHECK_EQ(f.c.engine->run(&f.c), RUN_HALTED);
	pull();
	CHECK_EQ(f.c.rip, HANDLER + 1);
	CHECK_EQ(saved_rip(), FLAT_CODE + 2);
}

TEST(an_interrupt_that_kvm_has_taken_is_not_lost_by_a_pull)
{
	with_pic(0x43);
	pic.kicks = true;
	vcpu_set_rflags(&f.c, RFLAGS_IF);
	CHECK_EQ(flat_run(&f, CODE(0x90, 0xeb, 0xfe)), RUN_KICKED);
	pull();
	CHECK_EQ(f.c.rip, HANDLER);
	CHECK_EQ(saved_rip(), FLAT_CODE);
	CHECK(!(vcpu_rflags(&f.c) & RFLAGS_IF));
	/* It goes on from there. */
	CHECK_EQ(f.c.engine->run(&f.c), RUN_HALTED);
	pull();
	CHECK_EQ(f.c.rip, HANDLER + 1);
	CHECK_EQ(saved_rip(), FLAT_CODE);
}

TEST(an_nmi_comes_and_blocks_the_next_one)
{
	atomic_fetch_or(&f.c.kick, KICK_NMI);
	CHECK_EQ(flat_run(&f, CODE(0x90, 0x90, HLT)), RUN_HALTED);
	pull();
	CHECK_EQ(f.c.rip, HANDLER + 1);
	CHECK(f.c.nmi_blocked);
	CHECK(!f.c.nmi_pending);
	vcpu_kick(&f.c, KICK_NMI);
	CHECK_EQ(f.c.engine->run(&f.c), RUN_HALTED);
	pull();
	CHECK_EQ(f.c.rip, HANDLER + 1);
	CHECK(f.c.nmi_pending);
}

TEST(the_task_priority_goes_both_ways)
{
	f.c.apic_ops = &pic_ops;
	pic.cr8 = 5;
	/* mov rax, cr8; mov ecx, 9; mov cr8, rcx; hlt */
	CHECK_EQ(flat_run(&f, CODE(0x44, 0x0f, 0x20, 0xc0, 0xb9, 9, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc1,
				   HLT)),
		 RUN_HALTED);
	pull();
	CHECK_EQ(f.c.gpr[REG_RAX], 5);
	CHECK_EQ(pic.cr8, 9);
}

TEST(init_and_start_up_go_to_the_vector)
{
	/* What index 1 does: INIT makes it wait. The code at 0x8000 halts. */
	f.c.apic_ops = &pic_ops;
	f.pm.ram[0x8000] = HLT;
	CHECK_EQ(flat_run(&f, CODE(HLT)), RUN_HALTED);
	f.c.index = 1;
	vcpu_kick(&f.c, KICK_INIT);
	CHECK_EQ(f.c.engine->run(&f.c), RUN_HALTED);
	CHECK_EQ(f.c.mp_state, MP_WAIT_SIPI);
	atomic_store(&f.c.sipi_vector, 8);
	vcpu_kick(&f.c, KICK_SIPI);
	CHECK_EQ(f.c.engine->run(&f.c), RUN_HALTED);
	f.c.index = 0;
	pull();
	CHECK_EQ(f.c.seg[SEG_CS].base, 0x8000);
	CHECK_EQ(f.c.rip, 1);
	CHECK_EQ(f.c.mp_state, MP_HALTED);
}

/* -- Kicks ---------------------------------------------------------------------------------- */

static void *kicker(void *arg)
{
	unsigned *us = arg;

	usleep(*us);
	vcpu_kick(&f.c, KICK_STOP);
	return NULL;
}

TEST(a_kick_ends_a_loop_whenever_it_comes)
{
	physmap_write(&f.pm, FLAT_CODE, CODE(0xeb, 0xfe));
	for (unsigned i = 0; i < 100; i++) {
		unsigned us = i * 7;
		pthread_t t;

		pthread_create(&t, NULL, kicker, &us);
		CHECK_EQ(f.c.engine->run(&f.c), RUN_KICKED);
		pthread_join(t, NULL);
	}
	pull();
	CHECK_EQ(f.c.rip, FLAT_CODE);
}

TEST(a_kick_from_a_device_leaves_the_access_finished)
{
	dev.kicks = true;
	dev.read = 0x77;
	f.c.gpr[REG_RDX] = 0x100;
	/* out dx, al; in al, dx; hlt */
	CHECK_EQ(flat_run(&f, CODE(0xee, 0xec, HLT)), RUN_KICKED);
	pull();
	CHECK_EQ(f.c.rip, FLAT_CODE + 1);
	CHECK_EQ(dev.n_written, 1);
	CHECK_EQ(f.c.engine->run(&f.c), RUN_HALTED);
	pull();
	CHECK_EQ(dev.n_written, 1);
	CHECK_EQ(f.c.gpr[REG_RAX], 0x77);
}

/* -- State ---------------------------------------------------------------------------------- */

/* Values in every register that a 64-bit guest can have them in. */
static void fill(struct vcpu *c)
{
	for (unsigned i = 0; i < 16; i++) {
		c->gpr[i] = 0x0101010101010101ull * (i + 1);
		memset(c->fpu.zmm[i], (int)(0x20 + i), 16);
		if (c->model->xcr0_mask & XCR0_AVX)
			memset(c->fpu.zmm[i] + 16, (int)(0x40 + i), 16);
	}
	for (unsigned i = 0; i < 8; i++)
		memset(c->fpu.fx + 32 + 16 * i, (int)(0x60 + i), 10);
	store16(c->fpu.fx, 0x27f);
	c->fpu.fx[4] = 0xff;
	c->fpu.mxcsr = 0x1fa0;
	c->fpu.wide = 0xff;
	vcpu_set_rflags(c, RFLAGS_CF | RFLAGS_ZF | RFLAGS_DF | RFLAGS_IF);
	c->cr2 = 0x123456789000;
	c->dr[0] = 0x1000;
	c->dr[3] = 0x7fff00001000;
	c->msr.star = 0x23001000000000;
	c->msr.lstar = 0xffffffff81000000;
	c->msr.sfmask = 0x47700;
	c->msr.kernel_gs_base = 0xffff888000000000;
	c->msr.sysenter_cs = 0x10;
	c->msr.sysenter_esp = 0x1000; /* AMD's processors have 32 bits */
	c->msr.sysenter_eip = 0x2000;
	c->msr.pat = 0x0407050600070106;
	c->msr.mtrr_def_type = 0xc06;
	c->seg[SEG_FS].base = 0x7f0000001000;
	c->seg[SEG_GS].base = 0xffff888000003000;
	c->nmi_blocked = 1;
	c->tsc_offset = -123456789;
}

/* Copy what a guest can see. */
static void copy_state(struct vcpu *to, const struct vcpu *from)
{
	for (unsigned i = 0; i < n_vcpu_fields; i++)
		memcpy((char *)to + vcpu_fields[i].off, (const char *)from + vcpu_fields[i].off,
		       vcpu_fields[i].size);
	vcpu_set_rflags(to, vcpu_rflags(from));
}

static void check_same(const struct vcpu *a, const struct vcpu *b)
{
	const char *field = vcpu_differs(a, b);

	for (unsigned i = 0; i < 16; i++)
		CHECK_EQ(a->gpr[i], b->gpr[i]);
	CHECK_EQ(a->rip, b->rip);
	if (field)
		fail_msg("%s differs", field);
}

TEST(state_that_was_pushed_is_pulled)
{
	static struct vcpu before;

	fill(&f.c);
	copy_state(&before, &f.c);
	f.c.engine->push(&f.c);
	/* In, and out before the first instruction. */
	dev.kicks = true;
	pic.kicks = true;
	with_pic(-1);
	f.c.gpr[REG_RDX] = before.gpr[REG_RDX] = 0x100;
	CHECK_EQ(flat_run(&f, CODE(0xee, HLT)), RUN_KICKED); /* out dx, al */
	pull();
	CHECK_EQ(f.c.rip, FLAT_CODE + 1);
	before.rip = f.c.rip;
	CHECK(!is_real || is_about(f.c.tsc_offset, before.tsc_offset));
	before.tsc_offset = f.c.tsc_offset; /* a KVM that emulates has none */
	check_same(&f.c, &before);
}

static const uint8_t integers[] = {
	0xb9, 100,  0,	  0, 0, /* mov ecx, 100 */
	0x31, 0xc0,		/* xor eax, eax */
	0x01, 0xc8,		/* l: add eax, ecx */
	0x89, 0x04, 0x8f,	/* mov [rdi + rcx * 4], eax */
	0xff, 0xc9,		/* dec ecx */
	0x75, 0xf7,		/* jnz l */
	0x8e, 0xd9,		/* mov ds, ecx */
	0x50,			/* push rax */
	0x9c,			/* pushf */
	0x5b,			/* pop rbx */
	HLT,
};

static const uint8_t vectors[] = {
	0xdb, 0xe3,		      /* fninit */
	0xb8, 0x78, 0x56, 0x34, 0x12, /* mov eax, 0x12345678 */
	0x66, 0x48, 0x0f, 0x6e, 0xc0, /* movq xmm0, rax */
	0x0f, 0x58, 0xc0,	      /* addps xmm0, xmm0 */
	0x66, 0x44, 0x0f, 0x6f, 0xf8, /* movdqa xmm15, xmm0 */
	0xd9, 0xeb,		      /* fldpi */
	0xd9, 0xfa,		      /* fsqrt */
	0x48, 0x0f, 0x6e, 0xc8,	      /* movq mm1, rax */
	0x0f, 0x77,		      /* emms */
	HLT,
};

static void both_engines_agree(const uint8_t *code, size_t n)
{
	static struct flatcpu g;

	set_up(&g, &engine_interp, &f.model);
	f.c.gpr[REG_RDI] = g.c.gpr[REG_RDI] = FLAT_DATA;
	f.c.tsc_offset = g.c.tsc_offset = 0;
	CHECK_EQ(flat_run(&f, code, n), RUN_HALTED);
	CHECK_EQ(flat_run(&g, code, n), RUN_HALTED);
	pull();
	g.c.tsc_offset = f.c.tsc_offset;
	check_same(&f.c, &g.c);
	CHECK_MEM(f.pm.ram + FLAT_DATA, g.pm.ram + FLAT_DATA, 512);
	flat_fini(&g);
}

TEST(a_program_leaves_the_state_that_the_interpreter_leaves)
{
	both_engines_agree(integers, sizeof(integers));
}

TEST(vector_registers_are_left_as_the_interpreter_leaves_them)
{
	NEEDS_HARDWARE();
	both_engines_agree(vectors, sizeof(vectors));
}

/* Stops the guest in the middle, by a port access, and takes state and memory to another VM or
 * engine. */
static void goes_on_elsewhere(const struct engine *e)
{
	/* mov ecx, 10; l: add eax, ecx; out dx, al; dec ecx; jnz l; hlt */
	static const uint8_t code[] = { 0xb9, 10,   0,	  0,	0,    0x01, 0xc8,
					0xee, 0xff, 0xc9, 0x75, 0xf9, HLT };
	static struct flatcpu g;

	dev.kicks = true;
	f.c.gpr[REG_RDX] = 0x100;
	CHECK_EQ(flat_run(&f, code, sizeof(code)), RUN_KICKED);
	pull();
	dev.kicks = false;
	set_up(&g, e, &f.model);
	copy_state(&g.c, &f.c);
	memcpy(g.pm.ram, f.pm.ram, FLAT_RAM);
	g.c.engine->push(&g.c);
	CHECK_EQ(g.c.engine->run(&g.c), RUN_HALTED);
	g.c.engine->pull(&g.c);
	CHECK_EQ(g.c.gpr[REG_RAX] & 0xffffffff, 55);
	CHECK_EQ(dev.n_written, 10);
	flat_fini(&g);
}

TEST(a_new_vm_goes_on_from_a_snapshot)
{
	goes_on_elsewhere(&engine_kvm);
}

TEST(the_interpreter_goes_on_where_kvm_stopped)
{
	goes_on_elsewhere(&engine_interp);
}

TEST(pae_page_directory_pointers_are_kept)
{
	static struct vcpu before;

	NEEDS_HARDWARE(); /* a KVM that emulates stops at it */
	/* 32-bit protected mode with PAE; its PDPTEs in memory say something else by now. */
	flat_seg(&f.c, SEG_CS, 0x10, 0xc09b);
	f.c.msr.efer = 0;
	f.c.cr4 = CR4_PAE;
	f.c.cr3 = 0x4000;
	f.c.rip = FLAT_CODE;
	f.c.pdpte[0] = 0x3001;
	f.c.pdpte[1] = 0x9001;
	store64(f.pm.ram + 0x4000, 0x3001);
	store64(f.pm.ram + 0x4008, 0x9001);
	((uint64_t *)(f.pm.ram + 0x3000))[0] = 0x83;
	vcpu_update_mode(&f.c);
	copy_state(&before, &f.c);
	f.c.engine->push(&f.c);
	CHECK_EQ(flat_run(&f, CODE(HLT)), RUN_HALTED);
	pull();
	CHECK_MEM(f.c.pdpte, before.pdpte, sizeof(before.pdpte));
	CHECK_EQ(f.c.mmu_mode, MMU_PAE);
}

/* -- Dirty pages ------------------------------------------------------------------------------ */

static bool is_dirty(gpa_t gpa)
{
	return atomic_exchange(&f.pm.pages[gpa >> PAGE_SHIFT].dirty, 0);
}

static void clear_dirty(void)
{
	for (uint64_t i = 0; i < FLAT_RAM >> PAGE_SHIFT; i++)
		atomic_store(&f.pm.pages[i].dirty, 0);
}

static void store_at(gpa_t gpa)
{
	flat_reset(&f, 0);
	f.c.gpr[REG_RDI] = gpa;
	f.c.engine->push(&f.c);
	CHECK_EQ(f.c.engine->run(&f.c), RUN_HALTED);
}

static void dirty_pages_are_collected(void)
{
	uint64_t n;

	physmap_write(&f.pm, FLAT_CODE, CODE(0xc6, 0x07, 0x01, HLT)); /* mov byte [rdi], 1 */
	store_at(FLAT_DATA); /* accessed bits of the page tables are set now */
	FLAT_MUST(kvm_dirty_start(&f.set, NULL));
	FLAT_MUST(kvm_dirty_collect(&f.set, NULL, NULL));
	clear_dirty();
	for (unsigned i = 0; i < 20; i++)
		store_at(FLAT_DATA + i * PAGE_SIZE);
	FLAT_MUST(kvm_dirty_collect(&f.set, &n, NULL));
	CHECK(n >= 20);
	for (unsigned i = 0; i < 20; i++)
		CHECK(is_dirty(FLAT_DATA + i * PAGE_SIZE));
	CHECK(!is_dirty(FLAT_DATA + 20 * PAGE_SIZE));
	CHECK(!is_dirty(FLAT_CODE));

	/* It is noted again. */
	store_at(FLAT_DATA + 3 * PAGE_SIZE);
	FLAT_MUST(kvm_dirty_collect(&f.set, &n, NULL));
	CHECK(is_dirty(FLAT_DATA + 3 * PAGE_SIZE));
	CHECK(!is_dirty(FLAT_DATA + 4 * PAGE_SIZE));

	kvm_dirty_stop(&f.set);
	clear_dirty();
	store_at(FLAT_DATA + 5 * PAGE_SIZE);
	FLAT_MUST(kvm_dirty_start(&f.set, NULL));
	FLAT_MUST(kvm_dirty_collect(&f.set, &n, NULL));
	CHECK(!is_dirty(FLAT_DATA + 5 * PAGE_SIZE));
	kvm_dirty_stop(&f.set);
}

TEST(dirty_pages_are_collected_from_rings)
{
	if (!kvm_dirty_has_ring(&f.set))
		skip();
	dirty_pages_are_collected();
}

TEST(a_ring_that_is_full_is_emptied)
{
	uint64_t n;

	NEEDS_HARDWARE(); /* a KVM that emulates writes beyond the ring's end before it comes back
			   */
	if (!kvm_dirty_has_ring(&f.set))
		skip();
	FLAT_MUST(kvm_dirty_start(&f.set, NULL));
	clear_dirty();
	/* l: mov [rdi], al; add rdi, 4096; dec ecx; jnz l; hlt */
	f.c.gpr[REG_RCX] = 6000;
	f.c.gpr[REG_RDI] = 8 * MiB;
	CHECK_EQ(flat_run(&f, CODE(0x88, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xff, 0xc9, 0x75,
				   0xf3, HLT)),
		 RUN_HALTED);
	pull();
	CHECK_EQ(f.c.rip, FLAT_CODE + 14);
	CHECK_EQ(f.c.gpr[REG_RCX], 0);
	FLAT_MUST(kvm_dirty_collect(&f.set, &n, NULL));
	for (unsigned i = 0; i < 6000; i++)
		CHECK(is_dirty(8 * MiB + i * PAGE_SIZE));
	kvm_dirty_stop(&f.set);
}

TEST(dirty_pages_are_collected_from_bitmaps)
{
	CHECK(!kvm_dirty_has_ring(&f.set));
	dirty_pages_are_collected();
}

/* -- A debugger ------------------------------------------------------------------------------- */

static gva_t debugger_has; /* an INT3 there is the debugger's */

static bool owns_int3(void *arg, struct vcpu *c)
{
	return c->rip == debugger_has;
}

static void go_on(gva_t rip)
{
	f.c.rip = rip;
	f.c.debug.stop = DEBUG_NONE;
	f.c.mp_state = MP_RUNNING;
	f.c.engine->push(&f.c);
}

/* inc eax; nop; mov [rdi], al; inc eax; hlt */
#define STEPS 0xff, 0xc0, 0x90, 0x88, 0x07, 0xff, 0xc0, HLT

TEST(a_hardware_breakpoint_stops_before_its_instruction)
{
	NEEDS_STOP(KVM_STOPS_AT_CODE);
	f.c.debug.dr[1] = FLAT_CODE + 2;
	f.c.debug.dr[7] = 1 << 2;
	f.c.gpr[REG_RDI] = FLAT_DATA;
	CHECK_EQ(flat_run(&f, CODE(STEPS)), RUN_KICKED);
	CHECK_EQ(f.c.debug.stop, DEBUG_HARD);
	pull();
	CHECK_EQ(f.c.rip, FLAT_CODE + 2);
	CHECK_EQ(f.c.gpr[REG_RAX], 1);
	CHECK_EQ(f.c.dr[7] & 0xff, 0); /* the guest sees none of it */
	f.c.debug.dr[7] = 0;
	go_on(f.c.rip);
	CHECK_EQ(f.c.engine->run(&f.c), RUN_HALTED);
	pull();
	CHECK_EQ(f.c.gpr[REG_RAX], 2);
}

TEST(a_watchpoint_stops_behind_the_store)
{
	NEEDS_STOP(KVM_STOPS_AT_DATA);
	f.c.debug.dr[0] = FLAT_DATA;
	f.c.debug.dr[7] = 1 | 1 << 16;
	f.c.gpr[REG_RDI] = FLAT_DATA;
	CHECK_EQ(flat_run(&f, CODE(STEPS)), RUN_KICKED);
	CHECK_EQ(f.c.debug.stop, DEBUG_WATCH);
	CHECK_EQ(f.c.debug.addr, FLAT_DATA);
	pull();
	CHECK_EQ(f.c.rip, FLAT_CODE + 5);
	CHECK_EQ(f.pm.ram[FLAT_DATA], 1);
}

TEST(an_int3_of_the_debugger_stops_and_one_of_the_guest_is_delivered)
{
	NEEDS_STOP(KVM_STOPS_AT_INT3);
	debugger_has = FLAT_CODE + 2;
	f.c.debug.owns_int3 = owns_int3;
	/* inc eax; int3; int3; hlt */
	CHECK_EQ(flat_run(&f, CODE(0xff, 0xc0, 0xcc, 0xcc, HLT)), RUN_KICKED);
	CHECK_EQ(f.c.debug.stop, DEBUG_SOFT);
	pull();
	CHECK_EQ(f.c.rip, FLAT_CODE + 2);
	go_on(FLAT_CODE + 3);
	CHECK_EQ(f.c.engine->run(&f.c), RUN_HALTED);
	pull();
	CHECK_EQ(f.c.rip, HANDLER + 1);
	CHECK_EQ(f.c.debug.stop, DEBUG_NONE);
	/* Where the handler returns to. */
	CHECK_EQ(load64(f.pm.ram + f.c.gpr[REG_RSP]), FLAT_CODE + 4);
}

TEST(a_step_of_the_guest_s_own_is_delivered_beside_a_breakpoint)
{
	NEEDS_HARDWARE();
	f.c.debug.dr[1] = FLAT_CODE + 0x100;
	f.c.debug.dr[7] = 1 << 2;
	/* pushfq; or dword [rsp], 0x100; popfq; nop; hlt */
	CHECK_EQ(flat_run(&f, CODE(0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0x90, HLT)),
		 RUN_HALTED);
	pull();
	CHECK_EQ(f.c.rip, HANDLER + 1);
	CHECK_EQ(load64(f.pm.ram + f.c.gpr[REG_RSP]), FLAT_CODE + 10);
	CHECK(f.c.dr[6] & DR6_BS);
}

/* -- All ------------------------------------------------------------------------------------- */

#define K(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		K(a_halt_comes_back_behind_the_instruction),
		K(a_port_is_written_and_read),
		K(a_repeated_port_access_gives_each_element),
		K(a_device_register_in_memory_is_written_and_read),
		K(a_store_to_rom_is_dropped),
		K(memory_that_was_given_back_reads_as_zero),
		K(a_triple_fault_is_a_shutdown),
		K(an_msr_that_the_model_has_not_faults_and_one_that_is_ours_answers),
		K(the_time_stamp_counter_that_is_written_is_read),
		K(cpuid_is_that_of_the_model),
		K(an_interrupt_comes_when_the_guest_allows_it),
		K(an_interrupt_ends_a_halt),
		K(an_interrupt_that_kvm_has_taken_is_not_lost_by_a_pull),
		K(an_nmi_comes_and_blocks_the_next_one),
		K(the_task_priority_goes_both_ways),
		K(init_and_start_up_go_to_the_vector),
		K(a_kick_ends_a_loop_whenever_it_comes),
		K(a_kick_from_a_device_leaves_the_access_finished),
		K(state_that_was_pushed_is_pulled),
		K(a_program_leaves_the_state_that_the_interpreter_leaves),
		K(vector_registers_are_left_as_the_interpreter_leaves_them),
		K(a_new_vm_goes_on_from_a_snapshot),
		K(the_interpreter_goes_on_where_kvm_stopped),
		K(pae_page_directory_pointers_are_kept),
		K(a_hardware_breakpoint_stops_before_its_instruction),
		K(a_watchpoint_stops_behind_the_store),
		K(an_int3_of_the_debugger_stops_and_one_of_the_guest_is_delivered),
		K(a_step_of_the_guest_s_own_is_delivered_beside_a_breakpoint),
		K(dirty_pages_are_collected_from_rings),
		K(a_ring_that_is_full_is_emptied),
		cmocka_unit_test_setup_teardown(dirty_pages_are_collected_from_bitmaps,
						setup_without_ring, teardown),
	};
	struct kvm_probe probe;
	char why[256];
	struct err err;
	int kvm = kvm_open(&err);

	if (kvm < 0) {
		printf("skipped: %s\n", err.msg);
		return 77;
	}
	close(kvm);
	kvm_probe(&probe);
	stops = probe.stops;
	is_real = kvm_probe_accepts(&probe, why, sizeof(why));
	if (!is_real)
		printf("some tests skip, since this KVM is not hardware: %s\n", why);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
