/* Entries of the GDT, LDT and IDT, as they stand in memory. SDM 3A 3.4.5 "Segment Descriptors",
 * 3.5 "System Descriptor Types", 6.11 "IDT Descriptors".
 */
#ifndef CPU_X86_DESCRIPTOR_H
#define CPU_X86_DESCRIPTOR_H

#include "cpu/vcpu.h"

/* System types in bits 0-3 of attr. */
enum {
	SYS_TSS16 = 1,
	SYS_LDT = 2,
	SYS_TSS16_BUSY = 3,
	SYS_CALL16 = 4,
	SYS_TASK_GATE = 5,
	SYS_INT16 = 6,
	SYS_TRAP16 = 7,
	SYS_TSS32 = 9, /* 64-bit TSS in IA-32e mode, and so on */
	SYS_TSS32_BUSY = 11,
	SYS_CALL32 = 12,
	SYS_INT32 = 14,
	SYS_TRAP32 = 15,
};
#define SYS_BUSY 2 /* the bit that a busy TSS has and an available one has not */

struct desc {
	uint64_t lo, hi; /* hi: upper half of the 16-byte ones of IA-32e mode, else 0 */
	gva_t at;	 /* linear address of lo */
	uint16_t sel;	 /* that it was looked up by */
};

static inline uint16_t desc_attr(const struct desc *d)
{
	return (uint16_t)(d->lo >> 40 & 0xf0ff);
}

static inline unsigned desc_type(const struct desc *d)
{
	return (unsigned)bits_get(d->lo, 40, 4);
}

static inline unsigned desc_dpl(const struct desc *d)
{
	return (unsigned)bits_get(d->lo, 45, 2);
}

static inline bool desc_present(const struct desc *d)
{
	return d->lo & BIT(47);
}

static inline bool desc_is_system(const struct desc *d)
{
	return !(d->lo & BIT(44));
}

static inline bool desc_is_code(const struct desc *d)
{
	return (desc_attr(d) & (ATTR_S | ATTR_CODE)) == (ATTR_S | ATTR_CODE);
}

static inline bool desc_is_conforming(const struct desc *d)
{
	return desc_is_code(d) && desc_attr(d) & ATTR_DOWN;
}

static inline bool desc_is_writable_data(const struct desc *d)
{
	return (desc_attr(d) & (ATTR_S | ATTR_CODE | ATTR_WRITE)) == (ATTR_S | ATTR_WRITE);
}

/* Data, or code that may be read. */
static inline bool desc_is_readable(const struct desc *d)
{
	return desc_attr(d) & ATTR_S && (!desc_is_code(d) || desc_attr(d) & ATTR_WRITE);
}

static inline uint64_t desc_base(const struct desc *d)
{
	return bits_get(d->lo, 16, 24) | bits_get(d->lo, 56, 8) << 24 | d->hi << 32;
}

/* In bytes, G applied. */
static inline uint32_t desc_limit(const struct desc *d)
{
	uint32_t limit = (uint32_t)(bits_get(d->lo, 0, 16) | bits_get(d->lo, 48, 4) << 16);

	return d->lo & BIT(55) ? limit << 12 | 0xfff : limit;
}

/* What a gate points at. */
static inline uint16_t gate_selector(const struct desc *d)
{
	return (uint16_t)bits_get(d->lo, 16, 16);
}

static inline uint64_t gate_offset(const struct desc *d)
{
	return bits_get(d->lo, 0, 16) | bits_get(d->lo, 48, 16) << 16 | d->hi << 32;
}

/* True for the selectors 0-3. */
static inline bool sel_is_null(uint16_t sel)
{
	return !(sel & ~3u);
}

/* The descriptor that sel names, which is not null. *found is false, and d without meaning, where
 * its table does not reach. Returns 0, or EXC_PF of the read.
 */
enum x86_exc desc_find(struct vcpu *c, uint16_t sel, struct desc *d, bool *found);

/* As desc_find, but outside the table is exc with sel as its error code. */
enum x86_exc desc_read(struct vcpu *c, uint16_t sel, enum x86_exc exc, struct desc *d);

/* Read the upper half of a system descriptor in IA-32e mode; nothing to do outside it. exc with
 * d's selector if the table ends there or the upper half's type field is not 0.
 */
enum x86_exc desc_read_upper(struct vcpu *c, enum x86_exc exc, struct desc *d);

/* Set the accessed bit of a code or data segment in memory and in d, with a locked store, unless
 * it is set. */
enum x86_exc desc_set_accessed(struct vcpu *c, struct desc *d);

/* Make a TSS busy or available, likewise; d is not changed. */
enum x86_exc desc_set_busy(struct vcpu *c, const struct desc *d, bool busy);

/* The segment register that d gives, with selector sel. */
struct seg desc_to_seg(const struct desc *d, uint16_t sel);

/* A register loaded with a null selector. dpl is remembered, since SS's is the CPL. */
struct seg seg_null(uint16_t sel, unsigned dpl);

/* SDM 3A 3.4.5: in IA-32e mode a code segment with L set must have D clear. */
static inline bool desc_is_bad_long_code(const struct vcpu *c, const struct desc *d)
{
	return c->long_mode && desc_attr(d) & ATTR_L && desc_attr(d) & ATTR_DB;
}

#endif
