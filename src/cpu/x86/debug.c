/* Debug registers. SDM 3B 17.2. */
#include "cpu/x86/fault.h"
#include "cpu/x86/features.h"
#include "cpu/x86/system.h"

#define DR6_WRITABLE 0xe00fu
#define DR7_WRITABLE 0xffff23ffu

enum { RW_EXECUTE, RW_WRITE, RW_IO, RW_ACCESS };

static bool is_armed(const struct vcpu *c, unsigned n)
{
	return c->dr[7] >> (2 * n) & 3;
}

static unsigned kind_of(const struct vcpu *c, unsigned n)
{
	return (unsigned)bits_get(c->dr[7], 16 + 4 * n, 2);
}

static unsigned len_of(const struct vcpu *c, unsigned n)
{
	static const uint8_t bytes[] = { 1, 2, 8, 4 };

	return bytes[bits_get(c->dr[7], 18 + 4 * n, 2)];
}

/* What MOV from and to DR check first. *n loses its alias. */
static enum x86_exc check(struct vcpu *c, unsigned *n)
{
	if (*n > 7)
		return exc_ud(c);
	if (c->cpl)
		return exc_gp0(c);
	if (*n == 4 || *n == 5) {
		if (c->cr4 & CR4_DE)
			return exc_ud(c);
		*n += 2;
	}
	if (c->dr[7] & DR7_GD) {
		c->pending_db |= DR6_BD;
		return exc_raise(c, EXC_DB, 0);
	}
	return EXC_NONE;
}

enum x86_exc dr_read(struct vcpu *c, unsigned n, uint64_t *val)
{
	enum x86_exc r = check(c, &n);

	if (!r)
		*val = c->dr[n];
	return r;
}

enum x86_exc dr_write(struct vcpu *c, unsigned n, uint64_t val)
{
	enum x86_exc r = check(c, &n);

	if (r)
		return r;
	if (n >= 6 && val >> 32)
		return exc_gp0(c);
	if (n == 6)
		val = (val & DR6_WRITABLE) | DR6_FIXED1;
	else if (n == 7)
		val = (val & DR7_WRITABLE) | DR7_FIXED1;
	c->dr[n] = val;
	/* Data breakpoints decide which TLB is used. */
	vcpu_update_mode(c);
	return EXC_NONE;
}

bool debug_has_code_bp(const struct vcpu *c)
{
	for (unsigned n = 0; n < 4; n++)
		if (is_armed(c, n) && kind_of(c, n) == RW_EXECUTE)
			return true;
	return false;
}

bool debug_has_data_bp(const struct vcpu *c)
{
	for (unsigned n = 0; n < 4; n++)
		if (is_armed(c, n) && kind_of(c, n) != RW_EXECUTE)
			return true;
	return false;
}

uint32_t debug_code_hit(const struct vcpu *c, gva_t gva)
{
	uint32_t hit = 0;

	for (unsigned n = 0; n < 4; n++)
		if (is_armed(c, n) && kind_of(c, n) == RW_EXECUTE && c->dr[n] == gva)
			hit |= DR6_B0 << n;
	return hit;
}

static bool kind_matches(const struct vcpu *c, unsigned kind, bool write, bool io)
{
	if (io)
		return kind == RW_IO && c->cr4 & CR4_DE;
	return kind == RW_ACCESS || (kind == RW_WRITE && write);
}

void debug_data_access(struct vcpu *c, uint64_t addr, unsigned len, bool write, bool io)
{
	for (unsigned n = 0; n < 4; n++) {
		uint64_t size = len_of(c, n), first = c->dr[n] & ~(size - 1);

		if (!is_armed(c, n) || !kind_matches(c, kind_of(c, n), write, io))
			continue;
		/* Written so that a range at the end of the address space does not wrap. */
		if (addr - first < size || first - addr < len)
			c->pending_db |= DR6_B0 << n;
	}
}
