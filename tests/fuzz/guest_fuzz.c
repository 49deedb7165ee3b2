/* Random bytes as guest code, in every mode, with random descriptor tables and registers: whatever
 * the guest does, the engine comes back.
 *
 * Input: mode, 16 bytes of registers, then code; its last part also serves as GDT and IDT.
 */
#define FLAT_RAM (4 * MiB)
#include "flatcpu.h"

#include <pthread.h>
#include <time.h>

#define CODE_MAX  4096u
#define TABLES	  0x8000ull /* GDT, LDT, IDT and TSS point here */
#define TICK_NS	  5000000
#define MIN_INPUT 24

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct flatcpu f;

/* Guests may loop: stop them every few milliseconds. */
static void *watchdog(void *arg)
{
	struct timespec t = { .tv_nsec = TICK_NS };

	for (;;) {
		nanosleep(&t, NULL);
		vcpu_kick(&f.c, KICK_STOP);
	}
	return NULL;
}

static void start(void)
{
	pthread_t t;

	flat_init(&f, &engine_interp, "max");
	if (pthread_create(&t, NULL, watchdog, NULL))
		abort();
}

static void set_seg(unsigned seg, uint64_t base, uint32_t limit, uint16_t attr)
{
	f.c.seg[seg] = (struct seg){ .base = base, .limit = limit, .sel = 8, .attr = attr };
}

/* All segments alike but for the code bit. */
static void set_segs(uint32_t limit, uint16_t attr)
{
	for (unsigned s = SEG_ES; s <= SEG_GS; s++)
		set_seg(s, 0, limit, (uint16_t)(attr | (s == SEG_CS ? 0x9b : 0x93)));
}

static void set_mode(uint8_t mode)
{
	struct vcpu *c = &f.c;

	flat_reset(&f, mode & 1 ? 3 : 0);
	switch (mode >> 1 & 7) {
	case 0:
	case 1: break; /* 64-bit code */
	case 2:	       /* compatibility */
		set_segs(~0u, (uint16_t)(ATTR_DB | ATTR_G | (mode & 1 ? ATTR_DPL : 0)));
		break;
	case 3: /* 32-bit, no paging */
		c->cr0 &= ~(uint64_t)CR0_PG;
		c->msr.efer = 0;
		set_segs(~0u, ATTR_DB | ATTR_G);
		break;
	case 4: /* 32-bit with short limits */
		c->cr0 &= ~(uint64_t)CR0_PG;
		c->msr.efer = 0;
		set_segs(0x20ffff, ATTR_DB);
		break;
	case 5: /* 16-bit protected */
		c->cr0 &= ~(uint64_t)CR0_PG;
		c->msr.efer = 0;
		set_segs(0x10ffff, 0);
		break;
	case 6: /* real */
		vcpu_reset(c);
		for (unsigned s = SEG_ES; s <= SEG_GS; s++)
			set_seg(s, 0, 0xffff, 0x93);
		c->rip = 0x1000;
		break;
	default: /* virtual-8086 */
		c->cr0 &= ~(uint64_t)CR0_PG;
		c->msr.efer = 0;
		for (unsigned s = SEG_ES; s <= SEG_GS; s++)
			set_seg(s, 0, 0xffff, 0xf3);
		vcpu_set_rflags(c, RFLAGS_VM | (mode & 0x40 ? RFLAGS_IOPL : 0));
		c->rip = 0x1000;
	}
	if (mode & 0x80)
		vcpu_set_rflags(c, vcpu_rflags(c) | RFLAGS_TF);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vcpu *c = &f.c;
	size_t n;

	if (size < MIN_INPUT)
		return 0;
	if (!c->engine)
		start();
	memset(f.pm.ram, 0, f.pm.ram_bytes);
	flat_page_tables(&f);
	set_mode(data[0]);
	for (unsigned r = 0; r < 16; r++)
		if (r != REG_RSP)
			c->gpr[r] = data[1 + r] & 0x80 ? FLAT_DATA + data[1 + r] * 16ull
						       : (uint64_t)(int8_t)(data[1 + r] << 1);
	c->gdtr = c->idtr = (struct dtable){ .base = TABLES, .limit = 0xfff };
	set_seg(SEG_TR, TABLES, 0x67, data[0] & 0x20 ? 0x8b : 0x83);
	vcpu_update_mode(c);
	n = MIN(size - 17, CODE_MAX);
	physmap_write(&f.pm, c->rip, data + 17, n);
	physmap_write(&f.pm, TABLES, data + 17 + n / 2, n - n / 2);
	c->engine->inval(c, 0, 0);
	c->engine->run(c);
	return 0;
}
