/* Native stubs: one guest vector or x87 instruction, run by the host on the guest's register state.
 *
 * A stub loads the registers that the instruction names, runs it with its memory operand pointed
 * at a buffer and its general register moved to rAX, and stores what it wrote. It uses no stack,
 * so an exception that the guest has unmasked (SIGFPE) can leave it at any point.
 */
#ifndef CPU_INTERP_STUB_H
#define CPU_INTERP_STUB_H

#include "cpu/vcpu.h"
#include "cpu/x86/insn.h"

struct err;
struct stub_cache;

/* A stub's instruction has this as ModRM.rm, with mod 0, where the guest's has a memory operand. */
#define STUB_RM 6 /* [rsi] */

/* What goes in and out besides struct vcpu_fpu. */
struct stub_io {
	uint64_t gpr;		/* explicit general register operand */
	uint64_t rax, rcx, rdx; /* implicit ones of PCMPxSTRx */
	uint32_t cc;		/* flags, as vcpu.cc */
	uint32_t host_mxcsr;
};

/* Returns 0, or EXC_XM if the instruction raised an unmasked floating-point exception; then no
 * register but MXCSR (or the x87 state) has changed. */
typedef int (*stub_fn)(struct vcpu_fpu *f, void *mem, struct stub_io *io);

int stub_cache_new(struct stub_cache **out, struct err *err);
void stub_cache_free(struct stub_cache *s);

/* True when the cache may not have room for one more block's stubs: flush blocks, then this. */
bool stub_cache_full(const struct stub_cache *s);
void stub_cache_flush(struct stub_cache *s);

/* The stub for i, made if need be; it depends on i's encoding only, but for how memory is
 * addressed. Never NULL while stub_cache_full() is false. */
stub_fn stub_get(struct stub_cache *s, const struct insn *i);

/* Run it, with floating-point traps caught. Sets io->host_mxcsr. */
int stub_run(struct stub_cache *s, stub_fn fn, struct vcpu_fpu *f, void *mem, struct stub_io *io);

/* Where in the stub the guest's instruction stands: what the host puts into the x87 instruction
 * pointer. */
uint64_t stub_insn_addr(const struct stub_cache *s, stub_fn fn);

#endif
