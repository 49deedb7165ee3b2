/* Hardware task switching. SDM 3A chapter 7 "Task Management".
 *
 * A switch has two halves. Up to the point where TR changes every fault belongs to the old task
 * and leaves it whole: all memory that will be written is probed first. Behind that point the new
 * task's registers are in c, and what is wrong with its segments is a fault of the new task.
 */
#include "cpu/x86/fault.h"
#include "cpu/x86/paging.h"
#include "cpu/x86/segment.h"
#include "cpu/x86/stack.h"
#include "cpu/x86/transfer.h"
#include "cpu/x86/transfer_internal.h"
#include "cpu/x86/vmem.h"

/* What a TSS says of a task, whatever its width. Segments by SEG_ES ... SEG_GS. */
struct task {
	uint32_t cr3, eip, eflags, gpr[8];
	uint16_t seg[6], ldtr;
	bool trap;
};

/* 32-bit TSS: SDM 3A 7.2.1. 16-bit: 7.6. */
enum {
	T32_CR3 = 0x1c,
	T32_EIP = 0x20,
	T32_EFLAGS = 0x24,
	T32_EAX = 0x28,
	T32_ES = 0x48,
	T32_LDTR = 0x60,
	T32_TRAP = 0x64,
	T32_SIZE = 0x68,
	T16_IP = 0x0e,
	T16_FLAGS = 0x10,
	T16_AX = 0x12,
	T16_ES = 0x22,
	T16_LDTR = 0x2a,
	T16_SIZE = 0x2c,
};

static bool is_32bit(unsigned attr)
{
	return (attr & ATTR_TYPE & ~SYS_BUSY) == SYS_TSS32;
}

static unsigned tss_size(unsigned attr)
{
	return is_32bit(attr) ? T32_SIZE : T16_SIZE;
}

/* -- The TSS in memory ------------------------------------------------------------------------ */

static void decode32(const uint8_t *t, struct task *k)
{
	k->cr3 = load32(t + T32_CR3);
	k->eip = load32(t + T32_EIP);
	k->eflags = load32(t + T32_EFLAGS);
	for (unsigned i = 0; i < 8; i++)
		k->gpr[i] = load32(t + T32_EAX + 4 * i);
	for (unsigned i = 0; i < 6; i++)
		k->seg[i] = load16(t + T32_ES + 4 * i);
	k->ldtr = load16(t + T32_LDTR);
	k->trap = load16(t + T32_TRAP) & 1;
}

static void decode16(const uint8_t *t, struct task *k)
{
	*k = (struct task){ .eip = load16(t + T16_IP),
			    .eflags = load16(t + T16_FLAGS),
			    .ldtr = load16(t + T16_LDTR) };
	/* Upper halves are not in the TSS; processors leave ones there. */
	for (unsigned i = 0; i < 8; i++)
		k->gpr[i] = 0xffff0000 | load16(t + T16_AX + 2 * i);
	for (unsigned i = 0; i < 4; i++)
		k->seg[i] = load16(t + T16_ES + 2 * i);
}

static void encode32(const struct vcpu *c, uint8_t *t, uint32_t eip, uint32_t eflags)
{
	store32(t + T32_EIP, eip);
	store32(t + T32_EFLAGS, eflags);
	for (unsigned i = 0; i < 8; i++)
		store32(t + T32_EAX + 4 * i, (uint32_t)c->gpr[i]);
	for (unsigned i = 0; i < 6; i++)
		store16(t + T32_ES + 4 * i, c->seg[i].sel);
}

static void encode16(const struct vcpu *c, uint8_t *t, uint32_t eip, uint32_t eflags)
{
	store16(t + T16_IP, (uint16_t)eip);
	store16(t + T16_FLAGS, (uint16_t)eflags);
	for (unsigned i = 0; i < 8; i++)
		store16(t + T16_AX + 2 * i, (uint16_t)c->gpr[i]);
	for (unsigned i = 0; i < 4; i++)
		store16(t + T16_ES + 2 * i, c->seg[i].sel);
}

/* Write the dynamic fields only: the rest is the operating system's. */
static enum x86_exc save_task(struct vcpu *c, uint32_t eip, uint32_t eflags)
{
	const struct seg *tr = &c->seg[SEG_TR];
	bool wide = is_32bit(tr->attr);
	unsigned from = wide ? T32_EIP : T16_IP, to = wide ? T32_LDTR : T16_LDTR;
	uint8_t t[T32_SIZE];
	enum x86_exc r = vmem_read(c, tr->base + from, t + from, to - from, AS_SYSTEM);

	if (r)
		return r;
	if (wide)
		encode32(c, t, eip, eflags);
	else
		encode16(c, t, eip, eflags);
	return vmem_write(c, tr->base + from, t + from, to - from, AS_SYSTEM);
}

static enum x86_exc read_task(struct vcpu *c, const struct desc *d, struct task *k)
{
	uint8_t t[T32_SIZE];
	enum x86_exc r = vmem_read(c, desc_base(d), t, tss_size(desc_attr(d)), AS_SYSTEM);

	if (r)
		return r;
	if (is_32bit(desc_attr(d)))
		decode32(t, k);
	else
		decode16(t, k);
	return EXC_NONE;
}

/* -- The old task's half ---------------------------------------------------------------------- */

static enum x86_exc check_new(struct vcpu *c, uint16_t sel, enum task_why why, struct desc *d)
{
	enum x86_exc exc = why == TASK_IRET ? EXC_TS : EXC_GP;
	unsigned busy = why == TASK_IRET ? SYS_BUSY : 0;
	enum x86_exc r;

	if (sel_is_null(sel) || sel & 4)
		return exc_selector(c, exc, sel);
	r = desc_read(c, sel, exc, d);
	if (r)
		return r;
	if (!desc_is_system(d) || (desc_type(d) & ~8u) != (SYS_TSS16 | busy))
		return exc_selector(c, exc, sel);
	if (!desc_present(d))
		return exc_selector(c, EXC_NP, sel);
	if (desc_limit(d) < tss_size(desc_attr(d)) - 1)
		return exc_selector(c, EXC_TS, sel);
	return EXC_NONE;
}

/* Everything that the switch will touch must be there before anything changes. */
static enum x86_exc probe_all(struct vcpu *c, const struct desc *now, const struct desc *next,
			      enum task_why why)
{
	const struct seg *tr = &c->seg[SEG_TR];
	bool nests = why == TASK_CALL || why == TASK_EVENT;
	enum x86_exc r;

	if (tr->attr & ATTR_UNUSABLE || tr->limit < tss_size(tr->attr) - 1)
		return exc_selector(c, EXC_TS, tr->sel);
	r = vmem_probe(c, tr->base, tss_size(tr->attr), true, AS_SYSTEM);
	if (!r)
		r = vmem_probe(c, desc_base(next), tss_size(desc_attr(next)), nests, AS_SYSTEM);
	if (!r && why != TASK_IRET)
		r = vmem_probe(c, next->at, 8, true, AS_SYSTEM);
	if (!r && !nests)
		r = vmem_probe(c, now->at, 8, true, AS_SYSTEM);
	return r;
}

static enum x86_exc leave_old(struct vcpu *c, const struct desc *now, const struct desc *next,
			      enum task_why why, uint32_t eip, uint32_t eflags)
{
	uint16_t link = c->seg[SEG_TR].sel;
	enum x86_exc r = EXC_NONE;

	if (why == TASK_IRET)
		eflags &= ~RFLAGS_NT;
	if (why == TASK_JMP || why == TASK_IRET)
		r = desc_set_busy(c, now, false);
	if (!r)
		r = save_task(c, eip, eflags);
	if (!r && (why == TASK_CALL || why == TASK_EVENT))
		r = vmem_write(c, desc_base(next), &link, 2, AS_SYSTEM);
	if (!r && why != TASK_IRET)
		r = desc_set_busy(c, next, true);
	return r;
}

/* -- The new task's half ---------------------------------------------------------------------- */

static enum x86_exc load_ldtr(struct vcpu *c, uint16_t sel)
{
	struct desc d;
	enum x86_exc r;

	if (sel_is_null(sel))
		return EXC_NONE;
	if (sel & 4)
		return exc_selector(c, EXC_TS, sel);
	r = desc_read(c, sel, EXC_TS, &d);
	if (r)
		return r;
	if (!desc_is_system(&d) || desc_type(&d) != SYS_LDT || !desc_present(&d))
		return exc_selector(c, EXC_TS, sel);
	c->seg[SEG_LDTR] = desc_to_seg(&d, sel);
	return EXC_NONE;
}

static enum x86_exc load_cs(struct vcpu *c, uint16_t sel)
{
	struct desc d;
	enum x86_exc r;

	if (sel_is_null(sel))
		return exc_selector(c, EXC_TS, sel);
	r = desc_read(c, sel, EXC_TS, &d);
	if (r)
		return r;
	if (!desc_is_code(&d) ||
	    (desc_is_conforming(&d) ? desc_dpl(&d) > (sel & 3u) : desc_dpl(&d) != (sel & 3u)))
		return exc_selector(c, EXC_TS, sel);
	if (!desc_present(&d))
		return exc_selector(c, EXC_NP, sel);
	r = desc_set_accessed(c, &d);
	if (!r)
		c->seg[SEG_CS] = desc_to_seg(&d, sel);
	return r;
}

static enum x86_exc load_ss(struct vcpu *c, uint16_t sel, unsigned cpl)
{
	struct desc d;
	enum x86_exc r;

	if (sel_is_null(sel))
		return exc_selector(c, EXC_TS, sel);
	r = desc_read(c, sel, EXC_TS, &d);
	if (r)
		return r;
	if (!desc_is_writable_data(&d) || desc_dpl(&d) != cpl || (sel & 3u) != cpl)
		return exc_selector(c, EXC_TS, sel);
	if (!desc_present(&d))
		return exc_selector(c, EXC_SS, sel);
	r = desc_set_accessed(c, &d);
	if (!r)
		c->seg[SEG_SS] = desc_to_seg(&d, sel);
	return r;
}

static enum x86_exc load_data(struct vcpu *c, unsigned seg, uint16_t sel, unsigned cpl)
{
	struct desc d;
	enum x86_exc r;

	if (sel_is_null(sel))
		return EXC_NONE;
	r = desc_read(c, sel, EXC_TS, &d);
	if (r)
		return r;
	if (!desc_is_readable(&d) ||
	    (!desc_is_conforming(&d) && (desc_dpl(&d) < cpl || desc_dpl(&d) < (sel & 3u))))
		return exc_selector(c, EXC_TS, sel);
	if (!desc_present(&d))
		return exc_selector(c, EXC_NP, sel);
	r = desc_set_accessed(c, &d);
	if (!r)
		c->seg[seg] = desc_to_seg(&d, sel);
	return r;
}

static enum x86_exc load_segments(struct vcpu *c, const struct task *k)
{
	static const uint8_t data[] = { SEG_DS, SEG_ES, SEG_FS, SEG_GS };
	unsigned cpl = k->seg[SEG_CS] & 3;
	enum x86_exc r = load_ldtr(c, k->ldtr);

	if (r)
		return r;
	if (is_v8086(c)) {
		for (unsigned i = SEG_ES; i <= SEG_GS; i++)
			seg_set_real(c, i, k->seg[i]);
	} else {
		r = load_cs(c, k->seg[SEG_CS]);
		if (!r)
			r = load_ss(c, k->seg[SEG_SS], cpl);
		for (unsigned i = 0; i < ARRAY_SIZE(data) && !r; i++)
			r = load_data(c, data[i], k->seg[data[i]], cpl);
	}
	if (!r && c->rip > c->seg[SEG_CS].limit)
		r = exc_gp0(c);
	return r;
}

static enum x86_exc load_cr3(struct vcpu *c, uint32_t cr3)
{
	enum x86_exc r = EXC_NONE;

	if (!(c->cr0 & CR0_PG))
		return r;
	if (c->cr4 & CR4_PAE)
		r = paging_load_pdptes(c, cr3);
	if (r)
		return r;
	c->cr3 = cr3;
	vmem_switch(c, true);
	return EXC_NONE;
}

static void load_registers(struct vcpu *c, const struct task *k, enum task_why why)
{
	bool nests = why == TASK_CALL || why == TASK_EVENT;
	unsigned cpl = k->seg[SEG_CS] & 3;

	for (unsigned i = 0; i < 8; i++)
		c->gpr[i] = k->gpr[i];
	c->rip = k->eip;
	vcpu_set_rflags(c, k->eflags | (nests ? RFLAGS_NT : 0));
	c->cr0 |= CR0_TS;
	c->dr[7] &= ~0x155ull; /* L0 to L3 and LE are the old task's */
	/* Selectors are all in place, and usable only from where each has passed its checks. */
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		c->seg[i] = seg_null(k->seg[i], i == SEG_SS ? cpl : 0);
	c->seg[SEG_LDTR] = seg_null(k->ldtr, 0);
	if (k->trap)
		c->pending_db |= DR6_BT;
}

static enum x86_exc enter_new(struct vcpu *c, const struct desc *d, const struct task *k,
			      enum task_why why)
{
	enum x86_exc r = EXC_NONE;

	c->seg[SEG_TR] = desc_to_seg(d, d->sel);
	c->seg[SEG_TR].attr |= SYS_BUSY;
	load_registers(c, k, why);
	if (is_32bit(desc_attr(d)))
		r = load_cr3(c, k->cr3);
	if (!r)
		r = load_segments(c, k);
	vcpu_update_mode(c);
	return r;
}

enum x86_exc task_switch(struct vcpu *c, uint16_t sel, enum task_why why, gva_t next_rip,
			 uint64_t rflags)
{
	struct desc now, next;
	struct task k;
	bool found;
	enum x86_exc r = check_new(c, sel, why, &next);

	if (!r)
		r = desc_find(c, c->seg[SEG_TR].sel, &now, &found);
	if (r)
		return r;
	if (!found)
		return exc_selector(c, EXC_TS, c->seg[SEG_TR].sel);
	r = probe_all(c, &now, &next, why);
	if (!r)
		r = leave_old(c, &now, &next, why, (uint32_t)next_rip, (uint32_t)rflags);
	if (!r)
		r = read_task(c, &next, &k);
	return r ? r : enter_new(c, &next, &k, why);
}

enum x86_exc task_return(struct vcpu *c, gva_t next_rip)
{
	uint16_t link;
	enum x86_exc r = vmem_read16(c, c->seg[SEG_TR].base, &link, AS_SYSTEM);

	return r ? r : task_switch(c, link, TASK_IRET, next_rip, vcpu_rflags(c));
}
