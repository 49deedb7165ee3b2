/* Debug registers. SDM 3B 17.2. */
#include "cpu/x86/fault.h"
#include "cpu/x86/features.h"
#include "cpu/x86/system.h"

#define DR6_WRITABLE 0xe00fu
#define DR7_WRITABLE 0xffff23ffu

enum { RW_EXECUTE, RW_WRITE, RW_IO, RW_ACCESS };

/* dr is the guest's debug registers, or a debugger's. */

static bool is_armed(const uint64_t *dr, unsigned n)
{
	return dr[7] >> (2 * n) & 3;
}

static unsigned kind_of(const uint64_t *dr, unsigned n)
{
	return (unsigned)bits_get(dr[7], 16 + 4 * n, 2);
}

static unsigned len_of(const uint64_t *dr, unsigned n)
{
	static const uint8_t bytes[] = { 1, 2, 8, 4 };

	return bytes[bits_get(dr[7], 18 + 4 * n, 2)];
}

static bool is_any_armed(const uint64_t *dr, bool code)
{
	for (unsigned n = 0; n < 4; n++)
		if (is_armed(dr, n) && (kind_of(dr, n) == RW_EXECUTE) == code)
			return true;
	return false;
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

bool debug_is_armed(const struct vcpu *c)
{
	return (c->dr[7] | c->debug.dr[7]) & 0xff;
}

bool debug_has_code_bp(const struct vcpu *c)
{
	return is_any_armed(c->dr, true) || is_any_armed(c->debug.dr, true);
}

bool debug_has_data_bp(const struct vcpu *c)
{
	return is_any_armed(c->dr, false) || is_any_armed(c->debug.dr, false);
}

static uint32_t code_hit(const uint64_t *dr, gva_t gva)
{
	uint32_t hit = 0;

	for (unsigned n = 0; n < 4; n++)
		if (is_armed(dr, n) && kind_of(dr, n) == RW_EXECUTE && dr[n] == gva)
			hit |= DR6_B0 << n;
	return hit;
}

uint32_t debug_code_hit(const struct vcpu *c, gva_t gva)
{
	return code_hit(c->dr, gva);
}

void debug_stop(struct vcpu *c, enum debug_stop why)
{
	c->debug.stop = why;
	vcpu_kick(c, KICK_STOP);
}

bool debug_stops_at(struct vcpu *c, gva_t gva)
{
	bool hit = code_hit(c->debug.dr, gva);

	if (hit)
		debug_stop(c, DEBUG_HARD);
	return hit;
}

bool debug_owns_int3(struct vcpu *c)
{
	bool owns = c->debug.owns_int3 && c->debug.owns_int3(c->debug.arg, c);

	if (owns)
		debug_stop(c, DEBUG_SOFT);
	return owns;
}

static bool kind_matches(const struct vcpu *c, unsigned kind, bool write, bool io)
{
	if (io)
		return kind == RW_IO && c->cr4 & CR4_DE;
	return kind == RW_ACCESS || (kind == RW_WRITE && write);
}

/* Those of dr that the access hits, as bits of DR6. */
static uint32_t data_hit(const struct vcpu *c, const uint64_t *dr, uint64_t addr, unsigned len,
			 bool write, bool io)
{
	uint32_t hit = 0;

	for (unsigned n = 0; n < 4; n++) {
		uint64_t size = len_of(dr, n), first = dr[n] & ~(size - 1);

		if (!is_armed(dr, n) || !kind_matches(c, kind_of(dr, n), write, io))
			continue;
		/* Written so that a range at the end of the address space does not wrap. */
		if (addr - first < size || first - addr < len)
			hit |= DR6_B0 << n;
	}
	return hit;
}

void debug_data_access(struct vcpu *c, uint64_t addr, unsigned len, bool write, bool io)
{
	uint32_t hit;

	c->pending_db |= data_hit(c, c->dr, addr, len, write, io);
	hit = io ? 0 : data_hit(c, c->debug.dr, addr, len, write, false);
	if (hit) {
		c->debug.addr = c->debug.dr[__builtin_ctz(hit)];
		debug_stop(c, DEBUG_WATCH);
	}
}
