#include "diff.h"

#include "cpu/x86/decode_tables.h"
#include "cpu/x86/insn.h"

#define LDT(n) ((n) << 3 | 7)

const struct seg_row seg_rows[N_KINDS] = {
	[KIND_NULL] = { .sel = 0 },
	[KIND_CODE64] = { .sel = 0x33, .code = true, .limit = 0xffffffff },
	[KIND_CODE32] = { .sel = 0x23, .code = true, .db = true, .limit = 0xffffffff },
	[KIND_FLAT] = { .sel = 0x2b, .db = true, .writable = true, .limit = 0xffffffff },
	[KIND_BASED16] = { .sel = LDT(0),
			   .ldt = true,
			   .code = true,
			   .base = WIN_BASE,
			   .limit = 0xffff },
	[KIND_BASED32] = { .sel = LDT(1),
			   .ldt = true,
			   .code = true,
			   .db = true,
			   .base = WIN_BASE,
			   .limit = 0xffff },
	[KIND_DATA16] = { .sel = LDT(2),
			  .ldt = true,
			  .writable = true,
			  .base = WIN_BASE,
			  .limit = 0xffff },
	[KIND_DATA32] = { .sel = LDT(3),
			  .ldt = true,
			  .db = true,
			  .writable = true,
			  .base = WIN_BASE,
			  .limit = 0xffff },
	[KIND_LIMITED] = { .sel = LDT(4),
			   .ldt = true,
			   .db = true,
			   .writable = true,
			   .base = WIN_BASE,
			   .limit = 0x97ff },
	[KIND_DOWN] = { .sel = LDT(5),
			.ldt = true,
			.writable = true,
			.down = true,
			.base = WIN_BASE,
			.limit = 0x4fff },
	[KIND_READONLY] = { .sel = LDT(6), .ldt = true, .base = WIN_BASE, .limit = 0xffff },
};

unsigned test_code(const struct test *t, uint8_t *code)
{
	unsigned n = 0;

	for (unsigned k = 0; k < t->n; k++) {
		memcpy(code + n, t->insn[k].bytes, t->insn[k].len);
		n += t->insn[k].len;
	}
	code[n] = 0xcc;
	return n + 1;
}

static bool branches(const struct test *t)
{
	for (unsigned k = 0; k < t->n; k++)
		if (insn_table[t->insn[k].id].attr & INSN_ENDS)
			return true;
	return false;
}

uint16_t test_undefined_flags(const struct test *t, uint64_t rip)
{
	uint64_t at = code_start(t);
	bool astray = branches(t);
	uint16_t undefined = 0;

	for (unsigned k = 0; k < t->n && (astray || at != rip); k++) {
		const struct insn_desc *row = &insn_table[t->insn[k].id];

		if (!astray && !(row->attr & INSN_FL_MAYBE))
			undefined &= (uint16_t)~row->fl_write;
		undefined |= row->fl_undef;
		at += t->insn[k].len;
	}
	return undefined;
}
