/* Software breakpoints are an INT3 in guest memory: physical memory, since that is what all
 * processes and vCPUs share. Hardware ones and watchpoints are the vCPUs' debug.dr.
 */
#include "machine/gdb/gdb_internal.h"

#include "cpu/engine.h"
#include "cpu/x86/paging.h"
#include "cpu/x86/vmem.h"
#include "machine/machine_internal.h"
#include "machine/move.h"
#include "mem/physmap.h"

#define INT3 0xcc

enum { KIND_SOFT, KIND_HARD, KIND_WRITE, KIND_READ, KIND_ACCESS };

static bool find_gpa(struct vcpu *c, gva_t gva, gpa_t *gpa)
{
	uint64_t size;
	unsigned perm;

	return (!c->long_mode || is_canonical(gva)) &&
	       paging_walk(c, gva, PF_PEEK | PF_AC, gpa, &size, &perm) == EXC_NONE;
}

/* On a vCPU's thread, while the list stands. */
static bool owns_int3(void *arg, struct vcpu *c)
{
	const struct session *s = arg;
	gva_t gva = c->rip + (c->code64 ? 0 : c->seg[SEG_CS].base);
	gpa_t gpa;

	if (!find_gpa(c, gva, &gpa))
		return false;
	for (unsigned i = 0; i < GDB_BREAKS; i++)
		if (s->soft[i].used && s->soft[i].gpa == gpa)
			return true;
	return false;
}

static void tell_vcpus(struct session *s)
{
	bool any = false;

	for (unsigned i = 0; i < GDB_BREAKS; i++)
		any |= s->soft[i].used;
	for (unsigned i = 0; i < s->m->set.n; i++) {
		s->m->set.v[i]->debug.arg = s;
		s->m->set.v[i]->debug.owns_int3 = any ? owns_int3 : NULL;
	}
}

static bool set_soft(struct session *s, gva_t gva)
{
	struct soft_break *b = NULL;
	static const uint8_t int3 = INT3;
	gpa_t gpa;

	if (!find_gpa(s->m->set.v[s->thread], gva, &gpa))
		return false;
	for (unsigned i = 0; i < GDB_BREAKS; i++) {
		if (!s->soft[i].used)
			b = &s->soft[i];
		else if (s->soft[i].gpa == gpa)
			return true;
	}
	if (!b || !physmap_read(&s->m->pm, gpa, &b->was, 1) ||
	    !physmap_write(&s->m->pm, gpa, &int3, 1))
		return false;
	b->used = true;
	b->gva = gva;
	b->gpa = gpa;
	tell_vcpus(s);
	return true;
}

static void remove_soft(struct session *s, struct soft_break *b)
{
	uint8_t now;

	/* Not where the guest has put something else meanwhile. */
	if (physmap_read(&s->m->pm, b->gpa, &now, 1) && now == INT3)
		physmap_write(&s->m->pm, b->gpa, &b->was, 1);
	b->used = false;
}

static bool clear_soft(struct session *s, gva_t gva)
{
	for (unsigned i = 0; i < GDB_BREAKS; i++) {
		if (s->soft[i].used && s->soft[i].gva == gva) {
			remove_soft(s, &s->soft[i]);
			tell_vcpus(s);
			return true;
		}
	}
	return false;
}

/* DR7's fields for a breakpoint: SDM 3B 17.2.4. 0: there is none of the kind and length. */
static uint64_t dr7_bits(unsigned kind, unsigned len)
{
	unsigned rw = kind == KIND_HARD ? 0 : kind == KIND_WRITE ? 1 : 3;
	unsigned bytes = len == 1 ? 0 : len == 2 ? 1 : len == 8 ? 2 : 3;

	if (kind == KIND_HARD)
		bytes = 0;
	else if (len != 1 && len != 2 && len != 4 && len != 8)
		return 0;
	return 1 | (uint64_t)(bytes << 2 | rw) << 16;
}

/* The fields of breakpoint n, as if it were number 0. */
static uint64_t fields_of(uint64_t dr7, unsigned n)
{
	return (dr7 >> 2 * n & 1) | (dr7 >> (16 + 4 * n) & 15) << 16;
}

static uint64_t fields_at(uint64_t bits, unsigned n)
{
	return (bits & 1) << 2 * n | (bits >> 16) << (16 + 4 * n);
}

static bool change_hard(struct session *s, unsigned kind, gva_t gva, unsigned len, bool add)
{
	uint64_t bits = dr7_bits(kind, len), want = add ? 0 : bits;
	const uint64_t *dr = s->m->set.v[0]->debug.dr;
	unsigned n = 0;

	if (!bits)
		return false;
	while (n < 4 && (fields_of(dr[7], n) != want || (!add && dr[n] != gva)))
		n++;
	if (n == 4)
		return false;
	for (unsigned i = 0; i < s->m->set.n; i++) {
		struct vcpu *c = s->m->set.v[i];

		c->debug.dr[n] = gva;
		c->debug.dr[7] ^= fields_at(bits, n);
		vcpu_update_mode(c);
	}
	return true;
}

/* Where KVM does not stop at breakpoints, since the processor that it has is no real one, a
 * software engine holds the guest from the first breakpoint on until the debugger leaves. */
static bool is_stoppable(struct session *s)
{
	const struct engine *now = s->m->set.v[0]->engine;

	if (now != &engine_kvm || s->m->kvm_stops)
		return true;
	if (move_all(&s->m->set, engine_auto(NULL), NULL) < 0)
		return false;
	s->home = now;
	return true;
}

bool breaks_set(struct session *s, unsigned kind, gva_t gva, unsigned len)
{
	if (!is_stoppable(s))
		return false;
	return kind == KIND_SOFT ? set_soft(s, gva) : change_hard(s, kind, gva, len, true);
}

bool breaks_clear(struct session *s, unsigned kind, gva_t gva, unsigned len)
{
	return kind == KIND_SOFT ? clear_soft(s, gva) : change_hard(s, kind, gva, len, false);
}

void breaks_clear_all(struct session *s)
{
	for (unsigned i = 0; i < GDB_BREAKS; i++)
		if (s->soft[i].used)
			remove_soft(s, &s->soft[i]);
	tell_vcpus(s);
	for (unsigned i = 0; i < s->m->set.n; i++) {
		memset(s->m->set.v[i]->debug.dr, 0, sizeof(s->m->set.v[i]->debug.dr));
		vcpu_update_mode(s->m->set.v[i]);
	}
}

void breaks_hide(const struct session *s, gpa_t gpa, uint8_t *buf, size_t len)
{
	for (unsigned i = 0; i < GDB_BREAKS; i++) {
		const struct soft_break *b = &s->soft[i];

		if (b->used && b->gpa - gpa < len && buf[b->gpa - gpa] == INT3)
			buf[b->gpa - gpa] = b->was;
	}
}

void breaks_written(struct session *s, gpa_t gpa, size_t len)
{
	static const uint8_t int3 = INT3;

	for (unsigned i = 0; i < GDB_BREAKS; i++) {
		struct soft_break *b = &s->soft[i];

		if (b->used && b->gpa - gpa < len && physmap_read(&s->m->pm, b->gpa, &b->was, 1))
			physmap_write(&s->m->pm, b->gpa, &int3, 1);
	}
}
