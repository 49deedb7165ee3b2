/* From guest code to a translation: decoding ahead, what flags are wanted where, and the frame
 * around the instructions. A translation follows the code over conditional branches that are not
 * taken, and never beyond its page.
 */
#include "cpu/dbt/translate_internal.h"

#include "cpu/x86/decode.h"
#include "cpu/x86/features.h"
#include "cpu/x86/tlb.h"

#include <stdlib.h>

/* -- Looking ahead ---------------------------------------------------------------------------- */

/* Which of the vCPU's rights a vector instruction needs; ~0: none is enough, it is not for us. */
static unsigned vector_mode(const struct insn *i)
{
	uint32_t attr = insn_table[i->id].attr;

	if (attr & INSN_USES_AVX) {
		if (i->enc == ENC_EVEX)
			return TBM_EVEX;
		/* Mask instructions are VEX-encoded AVX-512. */
		for (unsigned n = 0; n < i->n_opds; n++)
			if (i->opd[n].kind == OPD_KREG)
				return TBM_EVEX;
		return TBM_AVX;
	}
	return attr & INSN_USES_SSE ? TBM_SSE : 0;
}

bool is_x87(const struct insn *i)
{
	return i->op == OP_X87 || i->op == OP_MMX || i->op == OP_FWAIT;
}

static bool is_vector(const struct insn *i)
{
	return (i->op == OP_MMX && insn_table[i->id].attr & INSN_USES_SSE) || i->op == OP_VEC ||
	       i->op == OP_VZERO || i->op == OP_LDMXCSR || i->op == OP_STMXCSR;
}

static bool lower_nop(struct tr *t, const struct insn *i)
{
	return true;
}

static lower_fn lowering(const struct insn *i)
{
	switch (i->op) {
	case OP_BT:
	case OP_BTS:
	case OP_BTR:
	case OP_BTC:
		/* A bit offset in a register leads elsewhere. */
		return i->has_mem && i->opd[1].kind == OPD_GPR ? lower_bit_memory : lower_copy;
	case OP_MOV:
	case OP_MOVZX:
	case OP_MOVSX:
	case OP_XCHG:
	case OP_LAHF:
	case OP_SAHF:
	case OP_CBW:
	case OP_CWD:
	case OP_CMOV:
	case OP_SET:
	case OP_BSWAP:
	case OP_MOVBE:
	case OP_MOVNTI:
	case OP_ADD:
	case OP_OR:
	case OP_ADC:
	case OP_SBB:
	case OP_AND:
	case OP_SUB:
	case OP_XOR:
	case OP_CMP:
	case OP_TEST:
	case OP_INC:
	case OP_DEC:
	case OP_NOT:
	case OP_NEG:
	case OP_MUL:
	case OP_IMUL:
	case OP_IMUL2:
	case OP_IMUL3:
	case OP_DIV:
	case OP_IDIV:
	case OP_ROL:
	case OP_ROR:
	case OP_RCL:
	case OP_RCR:
	case OP_SHL:
	case OP_SHR:
	case OP_SAR:
	case OP_SHLD:
	case OP_SHRD:
	case OP_BSF:
	case OP_BSR:
	case OP_TZCNT:
	case OP_LZCNT:
	case OP_POPCNT:
	case OP_CRC32:
	case OP_ANDN:
	case OP_BEXTR:
	case OP_BLSI:
	case OP_BLSMSK:
	case OP_BLSR:
	case OP_BZHI:
	case OP_PDEP:
	case OP_PEXT:
	case OP_MULX:
	case OP_RORX:
	case OP_SARX:
	case OP_SHLX:
	case OP_SHRX:
	case OP_ADCX:
	case OP_ADOX:
	case OP_CMPXCHG:
	case OP_XADD:
	case OP_CLC:
	case OP_STC:
	case OP_CMC:
	case OP_PAUSE:
	case OP_FENCE:
	case OP_VEC:
	case OP_VZERO:
	case OP_LDMXCSR:
	case OP_STMXCSR:
	case OP_X87:
	case OP_MMX:
	case OP_FWAIT: return lower_copy;
	case OP_NOP:
	case OP_PREFETCH:
	case OP_SERIALIZE: return lower_nop;
	case OP_CLI: return lower_cli;
	case OP_STI: return lower_sti;
	case OP_CLD:
	case OP_STD: return lower_cld;
	case OP_STAC:
	case OP_CLAC: return lower_stac;
	case OP_SWAPGS: return lower_swapgs;
	case OP_RDTSC:
	case OP_RDTSCP: return lower_rdtsc;
	case OP_PUSHF: return lower_pushf;
	case OP_MOVS:
	case OP_STOS: return lower_string;
	case OP_LODS:
	case OP_SCAS:
	case OP_CMPS: return lower_string_step;
	case OP_LEA: return lower_lea;
	case OP_CMPXCHG8B:
	case OP_CMPXCHG16B: return lower_cmpxchg16b;
	case OP_PUSH: return lower_push;
	case OP_POP: return lower_pop;
	case OP_LEAVE: return lower_leave;
	case OP_JMP: return lower_jmp;
	case OP_JCC: return lower_jcc;
	case OP_JCXZ:
	case OP_LOOP: return lower_loop;
	case OP_CALL: return lower_call;
	case OP_JMP_IND: return lower_jmp_ind;
	case OP_CALL_IND: return lower_call_ind;
	case OP_RET: return lower_ret;
	default: return NULL;
	}
}

/* In 32-bit code: what has other meanings in 64-bit code, or a segment that wants a check. */
static bool fits_32(const struct tr *t, const struct insn *i)
{
	/* A register in the immediate has one bit more there. */
	if (i->enc == ENC_EVEX ||
	    (i->enc == ENC_VEX && i->map == 3 && i->opcode >= 0x4a && i->opcode <= 0x4c))
		return false;
	switch (i->seg) {
	case SEG_CS: return false;
	case SEG_FS: return t->t->mode & TBM_FS;
	case SEG_GS: return t->t->mode & TBM_GS;
	default: return true;
	}
}

/* What lowers the instruction in this mode; NULL if it is surely not for us. */
static lower_fn find_lowering(const struct tr *t, const struct insn *i)
{
	lower_fn fn = lowering(i);
	enum cpu_feature f = insn_table[i->id].feature;
	unsigned need = vector_mode(i) | (is_x87(i) ? TBM_X87 : 0);

	if (!fn || (need & t->t->mode) != need || (t->word == 4 && !fits_32(t, i)))
		return NULL;
	if (!t->k->has[f])
		return NULL;
	if (insn_table[i->id].attr & INSN_NEEDS_VL && i->vl < 64 && !t->k->has[FEAT_AVX512VL])
		return NULL;
	/* FLDCW may unmask exceptions. */
	if (i->op == OP_X87 && i->opcode == 0xd9 && i->has_mem && (i->modrm >> 3 & 7) == 5)
		return NULL;
	for (unsigned n = 0; n < i->n_opds; n++)
		if (i->opd[n].kind == OPD_SREG || i->opd[n].kind == OPD_VSIB)
			return NULL;
	return fn;
}

/* Does nothing ever go on behind i? */
static bool leads_away(const struct insn *i)
{
	return i->op == OP_JMP || i->op == OP_JMP_IND || i->op == OP_CALL || i->op == OP_CALL_IND ||
	       i->op == OP_RET;
}

/* Does i go elsewhere or on? */
static bool may_branch(const struct insn *i)
{
	return i->op == OP_JCC || i->op == OP_JCXZ || i->op == OP_LOOP;
}

/* What i wants in place: LOADED_... */
static uint8_t loads(const struct insn *i)
{
	return (uint8_t)((is_vector(i) ? LOADED_VEC : 0) | (is_x87(i) ? LOADED_X87 : 0));
}

/* Decode from offset at on, as far as the translation shall reach. Returns how many bytes were
 * looked at. */
static unsigned look_ahead(struct tr *t, unsigned at)
{
	unsigned begin = at;

	t->n_insns = 0;
	t->stop.op = OP_INVALID;
	t->cut = false;
	t->t->loaded = 0;
	while (t->n_insns < TB_MAX_INSNS && at < PAGE_SIZE) {
		struct insn *i = &t->insn[t->n_insns];
		enum decode_result r = decode(t->page + at, PAGE_SIZE - at, t->word, i);

		t->off[t->n_insns] = (uint16_t)at;
		t->cut = r == DECODE_MORE;
		if (r != DECODE_OK)
			return MIN(at + INSN_MAX_LEN, (unsigned)PAGE_SIZE) - begin;
		t->fn[t->n_insns] = find_lowering(t, i);
		if (!t->fn[t->n_insns]) {
			t->stop = *i;
			return at + i->len - begin;
		}
		t->t->loaded |= loads(i);
		t->n_insns++;
		at += i->len;
		if (leads_away(i) || (may_branch(i) && t->t->mode & TBM_EXACT))
			break;
	}
	t->off[t->n_insns] = (uint16_t)at;
	return at - begin;
}

/* The same for an instruction that crosses into the next page: it stands alone. */
static unsigned look_across(struct tr *t, unsigned at)
{
	unsigned n = PAGE_SIZE - at;
	uint8_t bytes[2 * INSN_MAX_LEN];
	struct insn *i = &t->insn[0];

	memcpy(bytes, t->page + at, n);
	memcpy(bytes + n, t->page2, INSN_MAX_LEN);
	t->n_insns = 0;
	t->stop.op = OP_INVALID;
	t->cut = false;
	t->t->loaded = 0;
	t->off[0] = (uint16_t)at;
	if (decode(bytes, n + INSN_MAX_LEN, t->word, i) != DECODE_OK)
		return INSN_MAX_LEN;
	t->fn[0] = find_lowering(t, i);
	if (t->fn[0]) {
		t->t->loaded = loads(i);
		t->n_insns = 1;
		t->off[1] = (uint16_t)(at + i->len);
	} else {
		t->stop = *i;
	}
	return i->len;
}

static void mark_lines(struct tr *t, const uint8_t *page, unsigned off, unsigned n)
{
	unsigned first = off / 64, last = (off + n - 1) / 64;
	uint64_t lines = (~0ull << first) & (~0ull >> (63 - last));
	struct page_state *ps = physmap_page(t->k->pm, page);

	if ((atomic_load(&ps->code_lines) & lines) != lines)
		atomic_fetch_or(&ps->code_lines, lines);
	tlb_drop_writes(t->d->c, page);
}

/* May other vCPUs store to the page unseen? With its lines marked nobody becomes one that may. */
static bool has_writers(const struct tr *t, const uint8_t *page)
{
	const struct page_state *ps = physmap_page(t->k->pm, page);

	return atomic_load(&ps->writers) & ~BIT(t->d->c->index);
}

/* Make stores to what was decoded seen from now on. False if one came before. */
static bool settle(struct tr *t)
{
	unsigned off = t->t->off, len = MAX(t->t->len, 1u);
	unsigned n1 = MIN(len, (unsigned)PAGE_SIZE - off);

	mark_lines(t, t->page, off, n1);
	if (t->page2)
		mark_lines(t, t->page2, 0, MAX(len - n1, 1u));
	atomic_thread_fence(memory_order_seq_cst);
	if (t->page2)
		return !t->n_insns || (!memcmp(t->page + off, t->insn[0].bytes, n1) &&
				       !memcmp(t->page2, t->insn[0].bytes + n1, len - n1));
	for (unsigned n = 0; n < t->n_insns; n++)
		if (memcmp(t->page + t->off[n], t->insn[n].bytes, t->insn[n].len))
			return false;
	return true;
}

/* Flags that i surely gives a new value, defined or not. */
static unsigned flags_killed(const struct insn *i)
{
	const struct insn_desc *d = &insn_table[i->id];

	if (d->attr & INSN_FL_MAYBE) {
		/* A byte with REX.W is still a byte. */
		unsigned count = (unsigned)i->imm & (i->opd[0].size == 8 ? 63 : 31);
		bool by_one = i->n_opds > 1 && i->opd[1].kind == OPD_ONE;
		bool by_imm = i->n_opds > 1 && i->opd[i->n_opds - 1].kind == OPD_IMM && count;

		if (!by_one && !by_imm)
			return 0;
	}
	return d->fl_write | d->fl_undef;
}

static void find_flags(struct tr *t)
{
	unsigned want = RFLAGS_ARITH;

	t->need[t->n_insns] = RFLAGS_ARITH;
	for (unsigned n = t->n_insns; n-- > 0;) {
		const struct insn *i = &t->insn[n];

		if (leads_away(i) || may_branch(i))
			want = RFLAGS_ARITH;
		want = (want & ~flags_killed(i)) | insn_table[i->id].fl_read;
		if (t->t->mode & TBM_EXACT)
			want = RFLAGS_ARITH;
		t->need[n] = (uint16_t)want;
	}
}

/* -- Exits and cold code ---------------------------------------------------------------------- */

uint32_t tr_exit(struct tr *t, enum exit_kind kind, uint16_t off)
{
	return cache_new_exit(t->k, (struct tb_exit){ .tb = tb_number(t->k, t->t),
						      .kind = (uint8_t)kind,
						      .off = off,
						      .n_done = (uint16_t)t->at });
}

void tr_take_exit(struct tr *t, uint32_t exit, bool noflags)
{
	e_mov_imm(&t->e, S_ADDR, exit);
	e_jmp_to(&t->e, noflags ? t->k->stubs.exit_noflags : t->k->stubs.exit);
}

void tr_cold(struct tr *t, struct cold c)
{
	t->cold[t->n_cold++] = c;
}

void tr_reload_fpu(struct tr *t)
{
	if (t->t->loaded & LOADED_VEC)
		e_call_to(&t->e, t->k->stubs.fpu_load);
	if (t->t->loaded & LOADED_X87)
		e_call_to(&t->e, t->k->stubs.x87_load);
}

/* A call of one of the routines that take an exit's number from before the call. */
static void call_numbered(struct tr *t, const struct cold *c, uint32_t routine)
{
	struct emit *e = &t->e;

	if (c->reg == S_ADDR)
		e32(e, c->exit);
	e_patch(e, c->from, emit_at(e));
	if (c->from_too)
		e_patch(e, c->from_too, emit_at(e));
	if (c->reg != S_ADDR) {
		e_mov(e, S_ADDR, c->reg);
		E_BYTES(e, 0xeb, 4);
		e32(e, c->exit);
	}
	e_call_to(e, routine);
}

static void emit_cold(struct tr *t, const struct cold *c)
{
	struct emit *e = &t->e;

	if (c->kind != COLD_FILL)
		e_patch(e, c->from, emit_at(e));
	switch (c->kind) {
	case COLD_FILL:
		call_numbered(t, c, t->k->stubs.fill);
		tr_reload_fpu(t);
		e_jmp_to(e, c->back);
		break;
	case COLD_FPU:
		e_call_to(e, t->k->stubs.fpu_load);
		e_jmp_to(e, c->back);
		break;
	case COLD_X87:
		e_call_to(e, t->k->stubs.x87_load);
		e_jmp_to(e, c->back);
		break;
	case COLD_STACK:
		e_load(e, H_RSP, h_gs(CTX(sp_top)));
		e_jmp_to(e, c->back);
		break;
	case COLD_MISS_CALL:
		E_BYTES(e, 0xe8, 5, 0, 0, 0); /* call over the next */
		e_jmp_to(e, c->back);
		/* fall through */
	case COLD_MISS:
		e_store(e, h_gs(CTX(rip)), S_ADD);
		tr_take_exit(t, c->exit, true);
		break;
	case COLD_FAR: tr_far(t, c); break;
	default: tr_take_exit(t, c->exit, c->noflags);
	}
}

/* Behind the block, in the part of the cache that is rarely run. */
static void emit_cold_part(struct tr *t)
{
	struct code_cache *k = t->k;
	uint8_t *hot = t->e.p;
	struct tb *b = t->t;
	struct emit *e = &t->e;

	e->p = k->code.rw + k->cold_used;
	b->void_exit = emit_at(e);
	t->at = 0;
	tr_take_exit(t, tr_exit(t, EXIT_VOID, b->off), !b->top_host);
	if (!b->entry_host) {
		b->entry_host = emit_at(e);
		tr_save_flags(t, S_ADD);
		e_jmp_to(e, b->entry_saved);
	}
	for (unsigned n = 0; n < t->n_cold; n++)
		emit_cold(t, &t->cold[n]);
	k->cold_used = emit_at(e);
	e->p = hot;
}

/* -- The frame -------------------------------------------------------------------------------- */

/* Go to a cold place if the word of the context is not 0. Takes at least 8 bytes, in one
 * instruction, at the start: that is what cache_redirect() replaces. */
static void check_word(struct tr *t, int32_t word, struct cold c)
{
	struct emit *e = &t->e;

	if (t->t->top_host) {
		e_load32(e, S_ADDR, h_gs(word));
		E_BYTES(e, 0xe3, 0x05); /* jrcxz */
		c.from = e_jmp(e);
	} else {
		e_op_mem(e, 0, 0, 0x83, 7, h_gs(word)); /* cmp dword gs:[word], 0 */
		e8(e, 0);
		c.from = e_jcc(e, CC_JNZ);
	}
	c.back = emit_at(e);
	tr_cold(t, c);
}

/* Flags come from before the block: is the first to touch them the first to do anything that loses
 * them? Then the host's flags are the place where it wants them. */
static bool wants_host_flags(const struct tr *t)
{
	for (unsigned n = 0; n < t->n_insns; n++) {
		const struct insn *i = &t->insn[n];

		if (i->has_mem || i->op == OP_PUSH || i->op == OP_POP || i->op == OP_CALL ||
		    i->op == OP_RET || i->op == OP_LEAVE)
			return false;
		if (touches_flags(i))
			return true;
	}
	return false;
}

static void begin(struct tr *t)
{
	struct emit *e = &t->e;
	struct tb *b = t->t;

	b->top_any = !t->need[0];
	b->top_host = t->need[0] && wants_host_flags(t);
	t->saved = t->need[0] && !b->top_host;
	while (emit_at(e) % 16)
		e8(e, 0xcc);
	b->start = b->entry_jump = emit_at(e);
	e_lea(e, S_ADDR, h_at(S_ADD, -(int32_t)b->off));
	e_store(e, h_gs(CTX(base)), S_ADDR);
	b->entry_saved = emit_at(e);
	if (b->top_host)
		tr_restore_flags(t);
	/* Where flags are wanted in ctx.cc, an entry for the other case stands in the cold part. */
	b->entry_host = t->saved ? 0 : emit_at(e);
	if (b->loaded & LOADED_VEC)
		check_word(t, CTX(fpu_out), (struct cold){ .kind = COLD_FPU });
	if (b->loaded & LOADED_X87)
		check_word(t, CTX(x87_out), (struct cold){ .kind = COLD_X87 });
	e_nop(e, -emit_at(e) & 7);
	b->top = emit_at(e);
	check_word(t, CTX(poll),
		   (struct cold){ .kind = COLD_EXIT,
				  .exit = tr_exit(t, EXIT_POLL, b->off),
				  .noflags = !b->top_host });
}

static void mark(struct tr *t)
{
	t->k->mark[t->k->n_marks++] = (struct insn_mark){ .code = emit_at(&t->e),
							  .off = t->off[t->at],
							  .n_done = (uint8_t)t->at };
}

/* Leave for the interpreter at the instruction at work. */
static void hand_over(struct tr *t)
{
	enum exit_kind kind = EXIT_INTERP;
	uint32_t exit;

	if (t->at == t->n_insns) {
		switch (t->stop.op) {
		case OP_SYSCALL: kind = t->word == 8 ? EXIT_SYSCALL : EXIT_INTERP; break;
		case OP_SYSRET: kind = t->word == 8 ? EXIT_SYSRET : EXIT_INTERP; break;
		case OP_IRET: kind = EXIT_IRET; break;
		default: break;
		}
	}
	exit = tr_exit(t, kind, t->off[t->at]);
	t->k->exit[exit].len = t->stop.len;
	t->k->exit[exit].opsize = t->stop.opsize;
	tr_take_exit(t, exit, t->saved);
}

static void body(struct tr *t)
{
	bool ends = false;

	for (t->at = 0; t->at < t->n_insns; t->at++) {
		const struct insn *i = &t->insn[t->at];
		uint8_t *start = t->e.p;
		unsigned n_cold = t->n_cold;
		bool saved = t->saved;

		mark(t);
		groups_before(t);
		if (!t->fn[t->at](t, i)) {
			t->e.p = start;
			t->n_cold = n_cold;
			t->saved = saved;
			hand_over(t);
			return;
		}
		groups_after(t);
		t->k->mark[t->k->n_marks - 1].saved = !touches_flags(i) && t->saved;
		ends = leads_away(i);
	}
	if (ends)
		return;
	/* What follows is not for us, or for another translation. */
	if (t->cut && t->n_insns) {
		t->at = t->n_insns - 1;
		tr_goto_far(t, t->off[t->n_insns]);
	} else if (t->n_insns < TB_MAX_INSNS && t->off[t->n_insns] < PAGE_SIZE &&
		   !(t->n_insns && may_branch(&t->insn[t->n_insns - 1]))) {
		mark(t);
		hand_over(t);
	} else {
		t->at = t->n_insns ? t->n_insns - 1 : 0;
		tr_goto(t, t->off[t->n_insns]);
	}
}

struct tr *translate_new(void)
{
	return calloc(1, sizeof(struct tr));
}

struct tb *translate(struct dbt *d, const uint8_t *host, const uint8_t *host2, uint16_t mode)
{
	struct code_cache *k = d->cache;
	struct tb *b = &k->tb[k->n_tbs];
	struct tr *t = k->work;
	unsigned off = (uintptr_t)host & (PAGE_SIZE - 1);

	t->d = d;
	t->k = k;
	t->t = b;
	t->page = host - off;
	t->page2 = host2;
	t->word = mode & TBM_32 ? 4 : 8;
	t->n_cold = t->at = 0;
	t->x87_noted = t->returned = false;
	*b = (struct tb){
		.host = host, .host2 = host2, .mode = mode, .valid = true, .off = (uint16_t)off
	};
	t->e = (struct emit){ .start = k->code.rw, .p = k->code.rw + k->used };
	do
		b->len = (uint16_t)(host2 ? look_across(t, off) : look_ahead(t, off));
	while (!settle(t));
	if (has_writers(t, t->page) || (t->page2 && has_writers(t, t->page2)))
		return NULL;
	find_flags(t);
	groups_plan(t);
	begin(t);
	body(t);
	emit_cold_part(t);
	b->end = emit_at(&t->e);
	b->n_insns = (uint16_t)t->n_insns;
	k->used = b->end;
	k->n_tbs++;
	d->stats.translations++;
	return b;
}
