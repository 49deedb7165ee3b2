/* The engine: its run loop, events between instructions, single steps. */
#include "cpu/interp/interp.h"
#include "cpu/interp/interp_internal.h"
#include "cpu/interp/operand.h"
#include "cpu/interp/stub.h"

#include "base/err.h"
#include "base/trace.h"
#include "cpu/engine.h"
#include "cpu/interp/disas.h"
#include "cpu/x86/system.h"
#include "cpu/x86/transfer.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Is the #GP that u raised due to an address that is not canonical, and the stack segment's? Then
 * it is #SS (SDM 3A 6.15, vector 12). Alignment is checked first. */
static bool is_stack_fault(const struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	gva_t gva = uop_ea(c, u);
	unsigned size = 1;

	if (!c->code64 || u->seg != SEG_SS || !i || !i->has_mem)
		return false;
	for (unsigned n = 0; n < i->n_opds; n++)
		if (i->opd[n].kind == OPD_MEM && i->opd[n].size)
			size = i->opd[n].size;
	if (insn_table[i->id].attr & INSN_ALIGNED && gva & (size - 1))
		return false;
	return !is_canonical(gva) || !is_canonical(gva + size - 1);
}

int uop_leave(struct vcpu *c, const struct uop *u, int r)
{
	struct interp *in = interp_of(c);
	bool again = r >= EXC_DE || (r == EXEC_END && in->in_repeat);

	in->left_at = again ? u->off : u->off + 1;
	switch (r) {
	case EXEC_END: return EXEC_NEXT;
	case EXEC_SYNC: c->rip = uop_next_rip(c, u); return EXEC_NEXT;
	case EXEC_HALT: c->rip = uop_next_rip(c, u); return EXEC_HALT;
	default: break;
	}
	c->rip = uop_rip(c, u);
	if (r == EXC_GP && is_stack_fault(c, u))
		r = EXC_SS;
	return r;
}

int uop_jump_miss(struct vcpu *c, const struct uop *u)
{
	if (likely(!c->code64 || is_canonical(c->rip)))
		return EXEC_NEXT;
	c->rip = uop_rip(c, u);
	interp_of(c)->left_at = u->off;
	return raise_gp(c);
}

/* -- Events between instructions -------------------------------------------------------------- */

static void serve_init(struct vcpu *c)
{
	vcpu_init_ipi(c);
	interp_of(c)->in_repeat = false;
	if (c->apic_ops)
		c->apic_ops->init_reset(c->apic);
	c->nmi_pending = 0;
}

/* True if the caller of run() wants it back. */
static bool serve_kicks(struct vcpu *c)
{
	struct interp *in = interp_of(c);
	uint32_t k = atomic_exchange(&c->kick, 0);

	if (k & KICK_DROP)
		tlb_serve_drops(c);
	if (k & KICK_TLB)
		vmem_flush(c, true);
	if (k & KICK_INIT)
		serve_init(c);
	if (k & KICK_SIPI && c->mp_state == MP_WAIT_SIPI)
		vcpu_sipi(c, atomic_load(&c->sipi_vector));
	if (k & KICK_NMI)
		c->nmi_pending = 1;
	if (k & KICK_IRQ)
		in->irq_maybe = true;
	if (k & KICK_UNHALT)
		c->pv.unhalted = true;
	return k & KICK_STOP;
}

/* An event comes in now. Between two iterations of a REP the flags that it saves have RF set, so
 * that an instruction breakpoint does not hit again (SDM 3B 17.3.1.1). */
static void note_repeat(struct vcpu *c)
{
	if (interp_of(c)->in_repeat)
		c->rflags_rest |= RFLAGS_RF;
}

/* Deliver what waits and may come in now: SDM 3A 6.9, priority of simultaneous events. False on
 * triple fault. */
static bool deliver_events(struct vcpu *c)
{
	struct interp *in = interp_of(c);

	if (c->pending_db && !(c->shadow & SHADOW_MOV_SS)) {
		c->mp_state = MP_RUNNING;
		note_repeat(c);
		if (!exc_deliver(c, EXC_DB))
			return false;
	}
	if (c->nmi_pending && !c->nmi_blocked && !c->shadow) {
		c->nmi_pending = 0;
		c->mp_state = MP_RUNNING;
		c->stats.irqs++;
		note_repeat(c);
		return nmi_deliver(c);
	}
	if (in->irq_maybe && c->rflags_rest & RFLAGS_IF && !c->shadow && c->apic_ops) {
		int vector = c->apic_ops->ack(c->apic);

		if (vector < 0) {
			in->irq_maybe = false;
			return true;
		}
		c->mp_state = MP_RUNNING;
		c->stats.irqs++;
		if (trace_on(TRACE_INT))
			trace_print(TRACE_INT, "cpu%u irq %#x at %#llx", c->index, (unsigned)vector,
				    (unsigned long long)c->rip);
		note_repeat(c);
		return irq_deliver(c, (uint8_t)vector);
	}
	return true;
}

/* -- Executing -------------------------------------------------------------------------------- */

#define ALL_DONE UINT16_MAX

static int enter(struct vcpu *c, struct block *b)
{
	struct interp *in = interp_of(c);

	in->running = b;
	in->left_at = ALL_DONE;
	c->gpr[REG_BLOCK] = c->rip;
	c->stats.blocks++;
	if (likely(!c->insn_limit))
		c->stats.insns += b->n_insns;
	return b->uops[0].fn(c, b->uops);
}

/* Instructions of the block that was left that have completed. */
static unsigned n_completed(const struct vcpu *c)
{
	const struct interp *in = interp_of(c);
	const struct block *b = in->running;
	unsigned done = b->n_insns;

	if (in->left_at == ALL_DONE)
		return done;
	/* The last uop is the end of the block. */
	for (unsigned n = b->n_uops - 1u; n-- > 0 && b->uops[n].off >= in->left_at;)
		if (n == 0 || b->uops[n].off != b->uops[n - 1].off)
			done--;
	return done;
}

/* The same, but back here when b ends. */
static int enter_once(struct vcpu *c, struct block *b)
{
	int r;

	atomic_fetch_or(&c->kick, KICK_STEP);
	r = enter(c, b);
	atomic_fetch_and(&c->kick, ~(uint32_t)KICK_STEP);
	if (unlikely(c->insn_limit))
		c->stats.insns += n_completed(c);
	return r;
}

/* One instruction, from a block of its own that is kept for the next time. */
static int run_single(struct vcpu *c)
{
	enum x86_exc exc;
	struct block *b = block_find_single(c, &exc);

	if (!b)
		return (int)exc;
	return b->branches || c->insn_limit ? enter_once(c, b) : enter(c, b);
}

/* In counting mode a block is not left by a chain, does not go beyond the limit, and what needs an
 * exact count is taken out of it. */
static int run_counted(struct vcpu *c, struct block *b)
{
	int r;

	if (b->n_insns > c->insn_limit - c->stats.insns)
		return run_single(c);
	c->no_devices = b->n_insns > 1;
	r = enter_once(c, b);
	c->no_devices = false;
	return r == EXC_ALONE ? run_single(c) : r;
}

static int run_block(struct vcpu *c)
{
	enum x86_exc exc;
	struct block *b = block_find(c, false, &exc);

	if (!b)
		return (int)exc;
	return likely(!c->insn_limit) ? enter(c, b) : run_counted(c, b);
}

static bool must_step(const struct vcpu *c)
{
	return c->rflags_rest & (RFLAGS_TF | RFLAGS_RF) || c->shadow || c->tlb_mode == TLB_SLOW ||
	       (debug_is_armed(c) && (debug_has_code_bp(c) || debug_has_data_bp(c))) ||
	       trace_on(TRACE_DISAS) || trace_on(TRACE_REGS);
}

static gva_t linear_rip(const struct vcpu *c)
{
	return c->code64 ? c->rip : (c->rip + c->seg[SEG_CS].base) & 0xffffffff;
}

/* Instruction breakpoints at c->rip; RF and MOV SS hold them back. */
static uint32_t code_breakpoint(struct vcpu *c, uint8_t shadow)
{
	if (c->rflags_rest & RFLAGS_RF || shadow & SHADOW_MOV_SS || !(c->dr[7] & 0xff))
		return 0;
	return debug_code_hit(c, linear_rip(c));
}

/* Do instructions of this kind decide over RF themselves? */
static bool brings_rf(const struct insn *i)
{
	return i && (i->op == OP_IRET || i->op == OP_INT || i->op == OP_INT3 || i->op == OP_INTO ||
		     i->op == OP_INT1);
}

/* Is a single-step trap due behind i? It is if TF was set when i began (SDM 3B 17.3.1.4), but for
 * interrupts and SYSCALL, which may clear TF; SYSRET sees to its own.
 */
static bool step_trap_due(const struct insn *i, bool tf_before, bool tf_after)
{
	if (!i)
		return tf_before;
	switch (i->op) {
	case OP_INT:
	case OP_INT3:
	case OP_INTO:
	case OP_INT1:
	case OP_SYSCALL: return tf_before && tf_after;
	case OP_SYSRET: return false;
	default: return tf_before;
	}
}

/* One instruction with everything that only matters now and then: TF, RF, shadows, breakpoints. */
static int run_step(struct vcpu *c)
{
	struct interp *in = interp_of(c);
	bool tf = c->rflags_rest & RFLAGS_TF, rf = c->rflags_rest & RFLAGS_RF;
	uint8_t shadow = c->shadow;
	uint32_t hit = code_breakpoint(c, shadow);
	enum x86_exc exc;
	const struct insn *i = NULL;
	struct block *b;
	int r;

	if (debug_stops_at(c, linear_rip(c)))
		return EXEC_NEXT;
	if (hit) {
		c->pending_db |= hit;
		return EXC_DB;
	}
	if (trace_on(TRACE_DISAS) || trace_on(TRACE_REGS))
		disas_trace(c);
	c->shadow = 0;
	in->stepping = true;
	b = block_find(c, true, &exc);
	if (b) {
		i = b->uops[b->n_uops - 2].insn;
		r = enter_once(c, b);
	} else {
		r = (int)exc;
	}
	in->stepping = false;
	if (r >= EXC_DE)
		return r;
	/* IRET brings a new RF; any other instruction that ended has used it up. */
	if (rf && !brings_rf(i))
		c->rflags_rest &= ~(uint64_t)RFLAGS_RF;
	/* A trap behind MOV SS is lost. */
	if (step_trap_due(i, tf, c->rflags_rest & RFLAGS_TF) && !(c->shadow & SHADOW_MOV_SS))
		c->pending_db |= DR6_BS;
	return r;
}

static bool raise(struct vcpu *c, enum x86_exc exc)
{
	c->stats.exceptions++;
	if (trace_on(TRACE_EXC))
		trace_print(TRACE_EXC, "cpu%u vector %u error %#x cr2 %#llx at %#x:%#llx", c->index,
			    EXC_VECTOR(exc), c->exc_error, (unsigned long long)c->exc_cr2,
			    c->seg[SEG_CS].sel, (unsigned long long)c->rip);
	return exc_deliver(c, exc);
}

/* Act on how a block was left. False on triple fault. */
static bool settle(struct vcpu *c, int r)
{
	if (r == EXEC_HALT) {
		c->mp_state = MP_HALTED;
		c->stats.halts++;
		return true;
	}
	return r == EXEC_NEXT || raise(c, (enum x86_exc)r);
}

enum interp_event interp_events(struct vcpu *c)
{
	if (atomic_load_explicit(&c->kick, memory_order_relaxed) && serve_kicks(c))
		return INTERP_KICKED;
	if (c->mp_state == MP_WAIT_SIPI)
		return INTERP_HALTED;
	if (c->mp_state == MP_SHUTDOWN || !deliver_events(c))
		return INTERP_SHUTDOWN;
	interp_of(c)->in_repeat = false;
	if (unlikely(c->pv.unhalted) && c->mp_state == MP_HALTED) {
		c->pv.unhalted = false;
		c->mp_state = MP_RUNNING;
	}
	return c->mp_state == MP_HALTED ? INTERP_HALTED : INTERP_GO;
}

bool interp_must_step(const struct vcpu *c)
{
	return must_step(c);
}

bool interp_irq_waits(const struct vcpu *c)
{
	return interp_of(c)->irq_maybe;
}

bool interp_some(struct vcpu *c)
{
	return settle(c, unlikely(must_step(c)) ? run_step(c) : run_block(c));
}

bool interp_one(struct vcpu *c)
{
	return settle(c, unlikely(must_step(c)) ? run_step(c) : run_single(c));
}

static enum run_exit interp_run(struct vcpu *c)
{
	for (;;) {
		if (unlikely(c->insn_limit && c->stats.insns >= c->insn_limit))
			return RUN_LIMIT;
		switch (interp_events(c)) {
		case INTERP_GO: break;
		case INTERP_KICKED: return RUN_KICKED;
		case INTERP_HALTED: return RUN_HALTED;
		case INTERP_SHUTDOWN: goto shutdown;
		}
		if (!interp_some(c))
			break;
	}
shutdown:
	c->mp_state = MP_SHUTDOWN;
	return RUN_SHUTDOWN;
}

/* -- Coming and going ------------------------------------------------------------------------- */

void interp_detach(struct vcpu *c)
{
	struct interp *in = interp_of(c);

	if (!in || --in->users)
		return;
	if (in->arena)
		munmap(in->arena, BLOCK_ARENA_BYTES);
	stub_cache_free(in->stubs);
	free(in);
	c->interp = NULL;
	c->on_code_store = NULL;
}

int interp_attach(struct vcpu *c, struct err *err)
{
	struct interp *in = interp_of(c);
	void *arena;
	int ret;

	if (in) {
		in->users++;
		return 0;
	}
	in = aligned_alloc(64, ALIGN_UP(sizeof(*in), 64));
	if (!in)
		return err_set(err, ENOMEM, "the interpreter of CPU %u", c->index);
	memset(in, 0, sizeof(*in));
	in->users = 1;
	c->interp = in;
	arena = mmap(NULL, BLOCK_ARENA_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (arena == MAP_FAILED) {
		ret = err_set(err, errno, "code cache of CPU %u", c->index);
		interp_detach(c);
		return ret;
	}
	in->arena = arena;
	ret = stub_cache_new(&in->stubs, err);
	if (ret < 0) {
		interp_detach(c);
		return ret;
	}
	in->irq_maybe = true;
	c->on_code_store = block_code_stored;
	return 0;
}

void interp_forget(struct vcpu *c)
{
	interp_of(c)->irq_maybe = true;
	block_flush(interp_of(c));
}

static int interp_init(struct vcpu *c, struct err *err)
{
	int ret = interp_attach(c, err);

	if (ret == 0)
		c->engine_state[ENGINE_INTERP] = c->interp;
	return ret;
}

static void interp_fini(struct vcpu *c)
{
	interp_detach(c);
	c->engine_state[ENGINE_INTERP] = NULL;
}

/* struct vcpu is always whole between two runs. */
static void interp_pull(struct vcpu *c)
{
}

static void interp_push(struct vcpu *c)
{
	interp_forget(c);
	vcpu_update_mode(c);
	vmem_flush(c, true);
}

/* Blocks look at vcpu.kick before they are entered. */
static void interp_kick(struct vcpu *c)
{
}

static void interp_inval(struct vcpu *c, gpa_t gpa, uint64_t len)
{
	vmem_flush(c, true);
	block_flush(interp_of(c));
}

const struct engine engine_interp = {
	.name = "interp",
	.slot = ENGINE_INTERP,
	.init = interp_init,
	.fini = interp_fini,
	.run = interp_run,
	.pull = interp_pull,
	.push = interp_push,
	.kick = interp_kick,
	.inval = interp_inval,
};
