#include "cpu/state.h"

#include "cpu/vcpu.h"

#define SPAN(text, from, n)                                                                        \
	{                                                                                          \
		.name = text, .off = offsetof(struct vcpu, from), .size = n                        \
	}
#define FIELD(text, f)	 SPAN(text, f, sizeof(((struct vcpu *)0)->f))
#define SEGMENT(text, s) SPAN(text, seg[s], sizeof(struct seg))

_Static_assert(sizeof(struct seg) == 16, "no padding between fields");

const struct vcpu_field vcpu_fields[] = {
	SPAN("gpr", gpr, 16 * 8),
	FIELD("rip", rip),
	SEGMENT("es", SEG_ES),
	SEGMENT("cs", SEG_CS),
	SEGMENT("ss", SEG_SS),
	SEGMENT("ds", SEG_DS),
	SEGMENT("fs", SEG_FS),
	SEGMENT("gs", SEG_GS),
	SEGMENT("ldtr", SEG_LDTR),
	SEGMENT("tr", SEG_TR),
	FIELD("gdtr.base", gdtr.base),
	FIELD("gdtr.limit", gdtr.limit),
	FIELD("idtr.base", idtr.base),
	FIELD("idtr.limit", idtr.limit),
	FIELD("cr0", cr0),
	FIELD("cr2", cr2),
	FIELD("cr3", cr3),
	FIELD("cr4", cr4),
	FIELD("pdptes", pdpte),
	SPAN("dr0-3", dr[0], 4 * 8),
	FIELD("dr6", dr[6]),
	FIELD("dr7", dr[7]),
	SPAN("x87 environment", fpu.fx[0], 24),
	SPAN("x87 registers", fpu.fx[32], 128),
	FIELD("zmm", fpu.zmm),
	FIELD("k", fpu.k),
	FIELD("mxcsr", fpu.mxcsr),
	FIELD("xcr0", fpu.xcr0),
	FIELD("xss", fpu.xss),
	FIELD("msr", msr),
	FIELD("pv", pv),
	FIELD("tsc_offset", tsc_offset),
	FIELD("shadow", shadow),
	FIELD("nmi_blocked", nmi_blocked),
	FIELD("nmi_pending", nmi_pending),
	FIELD("mp_state", mp_state),
	FIELD("pending_db", pending_db),
};

const unsigned n_vcpu_fields = ARRAY_SIZE(vcpu_fields);

/* FNV-1a by words; the rest by bytes. */
static uint64_t hash_bytes(uint64_t h, const uint8_t *p, unsigned n)
{
	for (; n >= 8; n -= 8, p += 8)
		h = (h ^ load64(p)) * 0x100000001b3ull;
	for (; n; n--, p++)
		h = (h ^ *p) * 0x100000001b3ull;
	return h ^ h >> 32;
}

uint64_t vcpu_hash(const struct vcpu *c, uint64_t h)
{
	uint64_t rflags = vcpu_rflags(c);

	for (unsigned n = 0; n < n_vcpu_fields; n++)
		h = hash_bytes(h, (const uint8_t *)c + vcpu_fields[n].off, vcpu_fields[n].size);
	return hash_bytes(h, (const uint8_t *)&rflags, sizeof(rflags));
}

const char *vcpu_differs(const struct vcpu *a, const struct vcpu *b)
{
	if (vcpu_rflags(a) != vcpu_rflags(b))
		return "rflags";
	for (unsigned n = 0; n < n_vcpu_fields; n++) {
		const struct vcpu_field *f = &vcpu_fields[n];

		if (memcmp((const uint8_t *)a + f->off, (const uint8_t *)b + f->off, f->size) != 0)
			return f->name;
	}
	return NULL;
}
