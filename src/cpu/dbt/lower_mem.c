/* Memory operands: the linear address, and the check that makes it a host address. */
#include "cpu/dbt/translate_internal.h"

void tr_save_flags(struct tr *t, uint8_t scratch)
{
	struct emit *e = &t->e;

	e_mov(e, scratch, H_RAX);
	E_BYTES(e, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
	e_store16(e, h_gs(CTX(cc)), H_RAX);
	e_mov(e, H_RAX, scratch);
}

void tr_restore_flags(struct tr *t)
{
	struct emit *e = &t->e;

	e_store(e, h_gs(CTX(tmp)), H_RAX);
	e_op_mem(e, 0, 1, 0xb7, H_RAX, h_gs(CTX(cc))); /* movzx eax, word: as it was stored */
	E_BYTES(e, 0x04, 0x7f, 0x9e);		       /* add al, 0x7f; sahf */
	e_load(e, H_RAX, h_gs(CTX(tmp)));
}

static bool fits32(int64_t v)
{
	return v == (int32_t)v;
}

uint8_t tr_address(struct tr *t, const struct insn *i)
{
	bool wide = i->adsize == 8, segment = i->seg == SEG_FS || i->seg == SEG_GS;
	struct hmem m = { .base = H_NONE, .index = H_NONE, .scale = i->scale };
	struct emit *e = &t->e;
	int64_t disp = i->disp;

	if (i->adsize == 2)
		return H_NONE;
	if (i->base == REG_BLOCK) {
		disp += tr_next_off(t);
		e_load(e, S_ADDR, h_gs(CTX(base)));
		m.base = S_ADDR;
	} else if (i->base != REG_ZERO) {
		m.base = tr_reg(t, i->base, S_ADDR);
	}
	if (i->index != REG_ZERO)
		m.index = tr_reg(t, i->index, S_ADD);
	if (!fits32(disp)) {
		/* An absolute address (MOV's own form). */
		if (m.base != H_NONE || m.index != H_NONE)
			return H_NONE;
		e_mov_imm(e, S_ADDR, wide ? (uint64_t)disp : (uint32_t)disp);
		m.base = S_ADDR;
		disp = 0;
	}
	m.disp = (int32_t)disp;
	if (wide && !segment && m.index == H_NONE && m.base != H_NONE && !m.disp)
		return m.base;
	if (segment && wide && m.index == H_NONE && m.base == H_NONE) {
		e_load(e, S_ADDR, h_gs(CTX(seg_base) + (i->seg == SEG_GS) * 8));
		if (m.disp)
			e_lea(e, S_ADDR, h_at(S_ADDR, m.disp));
		return S_ADDR;
	}
	e_op_mem(e, wide, 0, 0x8d, segment ? S_ADD : S_ADDR, m); /* lea */
	if (segment) {
		e_load(e, S_ADDR, h_gs(CTX(seg_base) + (i->seg == SEG_GS) * 8));
		tr_lea(t, S_ADDR, h_sum(S_ADDR, S_ADD));
	}
	return S_ADDR;
}

/* test low byte of reg, imm8 */
static void test_low(struct emit *e, unsigned reg, uint8_t imm)
{
	if (reg >= 4)
		e8(e, (uint8_t)(0x40 | reg >> 3));
	E_BYTES(e, 0xf6, (uint8_t)(0xc0 | (reg & 7)), imm);
}

void tr_lose_flags(struct tr *t)
{
	if (t->need[t->at] && !t->saved) {
		tr_save_flags(t, S_ADD);
		t->saved = true;
	}
}

/* Load the table entry for the address that stands in S_ADD, turned right by PAGE_SHIFT. */
static void load_entry(struct tr *t, bool write)
{
	struct hmem entry = { .base = H_NONE, .index = S_ADD, .scale = 3, .gs = true };
	struct emit *e = &t->e;

	e_mov32(e, S_ADD, S_ADD);
	entry.disp = TABLE_READ;
	if (write) {
		E_BYTES(e, 0x49, 0xf7, 0xd6); /* not r14 */
		entry.disp = 0;
	}
	e_load(e, S_ADD, entry);
	E_BYTES(e, 0x4d, 0x85, 0xf6); /* test r14, r14 */
}

/* A conditional jump to where c leads; one that leaves for good may come to lead elsewhere. */
static uint32_t jump_out(struct tr *t, unsigned cc, const struct cold *c)
{
	struct tb_exit *x = &t->k->exit[c->exit];

	if (x->kind == EXIT_PLAIN)
		tr_align_rel32(&t->e, 2);
	x->patch_at = e_jcc(&t->e, cc);
	return x->patch_at;
}

void tr_check(struct tr *t, uint8_t reg, unsigned size, bool write, struct cold *crosses,
	      struct cold missing)
{
	struct emit *e = &t->e;

	e_rorx(e, S_ADD, reg, PAGE_SHIFT);
	if (size > 1) {
		/* The offset in the page stands in bits 52 to 63 now. */
		e_op_mem(e, 1, 0, 0x3b, S_ADD, h_gs(CTX(limit) + (int32_t)(size + 1) / 2 * 8));
		if (crosses) {
			crosses->from = jump_out(t, CC_JA, crosses);
			tr_cold(t, *crosses);
		} else {
			missing.from_too = e_jcc(e, CC_JA);
		}
	}
	load_entry(t, write);
	missing.from = jump_out(t, CC_JZ, &missing);
	missing.back = emit_at(e);
	missing.reg = reg;
	tr_cold(t, missing);
}

void tr_access(struct tr *t, uint8_t reg, unsigned size, bool write, bool exact)
{
	uint32_t exit = tr_exit(t, EXIT_INTERP, t->off[t->at]);
	struct cold leave = { .kind = COLD_EXIT, .exit = exit, .noflags = true };

	t->k->exit[exit].fill = write ? FILL_WRITE : FILL_READ;
	t->k->exit[exit].len = (uint8_t)size;
	tr_lose_flags(t);
	if (exact && size > 1) {
		test_low(&t->e, reg, (uint8_t)(size - 1));
		leave.from = e_jcc(&t->e, CC_JNZ);
		tr_cold(t, leave);
		size = 1;
	}
	tr_check(t, reg, size, write, NULL, (struct cold){ .kind = COLD_FILL, .exit = exit });
}

void tr_flags_for(struct tr *t, const struct insn *i)
{
	if (!touches_flags(i))
		return;
	if (t->saved && t->need[t->at])
		tr_restore_flags(t);
	t->saved = false;
}
