#include "machine/gdb/gdb_internal.h"

#include "cpu/x86/system.h"

#include <stdio.h>

/* -- The x87's tag word ----------------------------------------------------------------------- */

/* FXSAVE keeps a bit for each register that is not empty; gdb wants two: SDM 1, 8.1.7 and 10.5.1.1.
 */
static uint16_t full_tags(const uint8_t *fx)
{
	unsigned top = load16(fx + 2) >> 11 & 7;
	uint16_t tags = 0;

	for (unsigned phys = 0; phys < 8; phys++) {
		const uint8_t *st = fx + 32 + 16 * ((phys - top) & 7);
		uint16_t exponent = load16(st + 8) & 0x7fff;
		uint64_t fraction = load64(st);
		unsigned tag = exponent == 0x7fff || !(fraction >> 63) ? 2 : 0;

		if (!exponent && !fraction)
			tag = 1;
		if (!(fx[4] >> phys & 1))
			tag = 3;
		tags |= (uint16_t)(tag << 2 * phys);
	}
	return tags;
}

static uint8_t short_tags(uint16_t full)
{
	uint8_t tags = 0;

	for (unsigned phys = 0; phys < 8; phys++)
		if ((full >> 2 * phys & 3) != 3)
			tags |= (uint8_t)(1u << phys);
	return tags;
}

/* -- Kinds of registers ----------------------------------------------------------------------- */

struct kind {
	const char *feature; /* where its first one stands in the description */
	unsigned n, bytes;
	const char *type, *group;
	const char
		*names; /* separated by spaces; a format with one number if n of them are alike */
	void (*get)(const struct vcpu *c, unsigned i, uint8_t *buf);
	bool (*set)(struct vcpu *c, unsigned i, const uint8_t *buf);
};

static const uint8_t gpr_order[] = { REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI,
				     REG_RBP, REG_RSP, REG_R8,	REG_R9,	 REG_R10, REG_R11,
				     REG_R12, REG_R13, REG_R14, REG_R15 };

static void get_gpr(const struct vcpu *c, unsigned i, uint8_t *buf)
{
	store64(buf, c->gpr[gpr_order[i]]);
}

static bool set_gpr(struct vcpu *c, unsigned i, const uint8_t *buf)
{
	c->gpr[gpr_order[i]] = load64(buf);
	return true;
}

/* gdb knows linear addresses only. */
static uint64_t code_base(const struct vcpu *c)
{
	return c->code64 ? 0 : c->seg[SEG_CS].base;
}

static void get_rip(const struct vcpu *c, unsigned i, uint8_t *buf)
{
	store64(buf, c->rip + code_base(c));
}

static bool set_rip(struct vcpu *c, unsigned i, const uint8_t *buf)
{
	c->rip = load64(buf) - code_base(c);
	return true;
}

static void get_flags(const struct vcpu *c, unsigned i, uint8_t *buf)
{
	store32(buf, (uint32_t)vcpu_rflags(c));
}

static bool set_flags(struct vcpu *c, unsigned i, const uint8_t *buf)
{
	vcpu_set_rflags(c, load32(buf));
	vcpu_update_mode(c);
	return true;
}

static void get_seg(const struct vcpu *c, unsigned i, uint8_t *buf)
{
	static const uint8_t order[] = { SEG_CS, SEG_SS, SEG_DS, SEG_ES, SEG_FS, SEG_GS };

	store32(buf, c->seg[order[i]].sel);
}

static void get_st(const struct vcpu *c, unsigned i, uint8_t *buf)
{
	memcpy(buf, c->fpu.fx + 32 + 16 * i, 10);
}

static bool set_st(struct vcpu *c, unsigned i, const uint8_t *buf)
{
	memcpy(c->fpu.fx + 32 + 16 * i, buf, 10);
	return true;
}

/* fctrl fstat ftag fiseg fioff foseg fooff fop: offsets and sizes in the FXSAVE image. */
static const struct {
	uint8_t at, bytes;
} x87_control[] = { { 0, 2 }, { 2, 2 },	 { 4, 1 },  { 12, 4 },
		    { 8, 4 }, { 20, 4 }, { 16, 4 }, { 6, 2 } };
#define X87_TAGS 2

static void get_x87(const struct vcpu *c, unsigned i, uint8_t *buf)
{
	memset(buf, 0, 4);
	memcpy(buf, c->fpu.fx + x87_control[i].at, x87_control[i].bytes);
	if (i == X87_TAGS)
		store32(buf, full_tags(c->fpu.fx));
}

static bool set_x87(struct vcpu *c, unsigned i, const uint8_t *buf)
{
	if (i == X87_TAGS)
		c->fpu.fx[x87_control[i].at] = short_tags(load16(buf));
	else
		memcpy(c->fpu.fx + x87_control[i].at, buf, x87_control[i].bytes);
	return true;
}

static void get_xmm(const struct vcpu *c, unsigned i, uint8_t *buf)
{
	memcpy(buf, c->fpu.zmm[i], 16);
}

static bool set_xmm(struct vcpu *c, unsigned i, const uint8_t *buf)
{
	memcpy(c->fpu.zmm[i], buf, 16);
	c->fpu.wide = 0xff;
	return true;
}

static void get_ymmh(const struct vcpu *c, unsigned i, uint8_t *buf)
{
	memcpy(buf, c->fpu.zmm[i] + 16, 16);
}

static bool set_ymmh(struct vcpu *c, unsigned i, const uint8_t *buf)
{
	memcpy(c->fpu.zmm[i] + 16, buf, 16);
	c->fpu.wide = 0xff;
	return true;
}

static void get_mxcsr(const struct vcpu *c, unsigned i, uint8_t *buf)
{
	store32(buf, c->fpu.mxcsr);
}

static bool set_mxcsr(struct vcpu *c, unsigned i, const uint8_t *buf)
{
	if (load32(buf) >> 16)
		return false;
	c->fpu.mxcsr = load32(buf);
	return true;
}

static void get_base(const struct vcpu *c, unsigned i, uint8_t *buf)
{
	store64(buf, c->seg[SEG_FS + i].base);
}

static bool set_base(struct vcpu *c, unsigned i, const uint8_t *buf)
{
	c->seg[SEG_FS + i].base = load64(buf);
	return true;
}

static void get_control(const struct vcpu *c, unsigned i, uint8_t *buf)
{
	const uint64_t val[] = {
		c->cr0,	    c->cr2, c->cr3, c->cr4, c->apic_ops ? c->apic_ops->get_cr8(c->apic) : 0,
		c->msr.efer
	};

	store64(buf, val[i]);
}

static const struct kind kinds[] = {
	{ "org.gnu.gdb.i386.core", 16, 8, "int64", "general",
	  "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15", get_gpr, set_gpr },
	{ NULL, 1, 8, "code_ptr", "general", "rip", get_rip, set_rip },
	{ NULL, 1, 4, "i386_eflags", "general", "eflags", get_flags, set_flags },
	{ NULL, 6, 4, "int32", "general", "cs ss ds es fs gs", get_seg, NULL },
	{ NULL, 8, 10, "i387_ext", "float", "st0 st1 st2 st3 st4 st5 st6 st7", get_st, set_st },
	{ NULL, 8, 4, "int", "float", "fctrl fstat ftag fiseg fioff foseg fooff fop", get_x87,
	  set_x87 },
	{ "org.gnu.gdb.i386.sse", 16, 16, "vec128", "vector",
	  "xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6 xmm7 xmm8 xmm9 xmm10 xmm11 xmm12 xmm13 xmm14 xmm15",
	  get_xmm, set_xmm },
	{ NULL, 1, 4, "int", "vector", "mxcsr", get_mxcsr, set_mxcsr },
	{ "org.gnu.gdb.i386.segments", 2, 8, "int64", "general", "fs_base gs_base", get_base,
	  set_base },
	{ "org.gnu.gdb.i386.avx", 16, 16, "uint128", "vector",
	  "ymm0h ymm1h ymm2h ymm3h ymm4h ymm5h ymm6h ymm7h ymm8h ymm9h ymm10h ymm11h ymm12h ymm13h "
	  "ymm14h ymm15h",
	  get_ymmh, set_ymmh },
	{ "org.cleave.control", 6, 8, "int64", "system", "cr0 cr2 cr3 cr4 cr8 efer", get_control,
	  NULL },
};

static const struct kind *kind_of(unsigned n, unsigned *i)
{
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		if (n < kinds[k].n) {
			*i = n;
			return &kinds[k];
		}
		n -= kinds[k].n;
	}
	return NULL;
}

unsigned regs_count(void)
{
	unsigned n = 0;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++)
		n += kinds[k].n;
	return n;
}

unsigned regs_get(const struct vcpu *c, unsigned n, uint8_t buf[16])
{
	unsigned i;
	const struct kind *k = kind_of(n, &i);

	if (!k)
		return 0;
	k->get(c, i, buf);
	return k->bytes;
}

bool regs_set(struct vcpu *c, unsigned n, const uint8_t buf[16])
{
	unsigned i;
	const struct kind *k = kind_of(n, &i);
	uint8_t now[16];

	if (!k)
		return false;
	if (k->set)
		return k->set(c, i, buf);
	/* All of them are written together, too. */
	k->get(c, i, now);
	return memcmp(now, buf, k->bytes) == 0;
}

/* -- Their description ------------------------------------------------------------------------ */

static const char flags_type[] =
	"<flags id=\"i386_eflags\" size=\"4\">"
	"<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"\" start=\"1\" end=\"1\"/>"
	"<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"AF\" start=\"4\" end=\"4\"/>"
	"<field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"SF\" start=\"7\" end=\"7\"/>"
	"<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" end=\"9\"/>"
	"<field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"OF\" start=\"11\" end=\"11\"/>"
	"<field name=\"NT\" start=\"14\" end=\"14\"/><field name=\"RF\" start=\"16\" end=\"16\"/>"
	"<field name=\"VM\" start=\"17\" end=\"17\"/><field name=\"AC\" start=\"18\" end=\"18\"/>"
	"<field name=\"VIF\" start=\"19\" end=\"19\"/><field name=\"VIP\" start=\"20\" end=\"20\"/>"
	"<field name=\"ID\" start=\"21\" end=\"21\"/></flags>";

static const char vector_types[] =
	"<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
	"<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
	"<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
	"<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
	"<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
	"<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
	"<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>"
	"<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>"
	"<field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>"
	"<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>";

static size_t describe_kind(char *to, size_t size, const struct kind *k)
{
	const char *name = k->names;
	size_t len = 0;

	for (unsigned i = 0; i < k->n; i++) {
		int n = (int)strcspn(name, " ");

		len += (size_t)snprintf(
			to + len, size - len,
			"<reg name=\"%.*s\" bitsize=\"%u\" type=\"%s\" group=\"%s\"/>", n, name,
			8 * k->bytes, k->type, k->group);
		name += n + 1;
	}
	return len;
}

const char *regs_description(void)
{
	static char text[16384];
	size_t len = 0;

	/* On one thread only: the main one. */
	if (text[0])
		return text;
	len += (size_t)snprintf(text, sizeof(text),
				"<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
				"<target><architecture>i386:x86-64</architecture>");
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		const struct kind *kind = &kinds[k];

		if (kind->feature)
			len += (size_t)snprintf(text + len, sizeof(text) - len,
						"%s<feature name=\"%s\">%s", k ? "</feature>" : "",
						kind->feature,
						k == 0				? flags_type
						: strstr(kind->feature, ".sse") ? vector_types
										: "");
		len += describe_kind(text + len, sizeof(text) - len, kind);
	}
	snprintf(text + len, sizeof(text) - len, "</feature></target>");
	return text;
}
