#include "cpu/interp/disas.h"

#include "base/trace.h"
#include "cpu/vcpu.h"
#include "cpu/x86/insn.h"
#include "cpu/x86/vmem.h"

#include <Zydis/Zydis.h>

#include <stdio.h>

unsigned disas(unsigned mode, uint64_t rip, const uint8_t *code, size_t n,
	       char text[DISAS_TEXT_BYTES])
{
	ZydisMachineMode machine =
		mode == 8 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32;
	ZydisDisassembledInstruction insn;

	if (ZYAN_SUCCESS(ZydisDisassembleIntel(machine, rip, code, n, &insn))) {
		snprintf(text, DISAS_TEXT_BYTES, "%s", insn.text);
		return insn.info.length;
	}
	strcpy(text, "(bad)");
	return 1;
}

static void trace_regs(const struct vcpu *c)
{
	static const char *const name[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
					      "rsi", "rdi", "r8",  "r9",  "r10", "r11",
					      "r12", "r13", "r14", "r15" };

	for (unsigned n = 0; n < 16; n += 4)
		trace_print(TRACE_REGS, "cpu%u %s=%016llx %s=%016llx %s=%016llx %s=%016llx",
			    c->index, name[n], (unsigned long long)c->gpr[n], name[n + 1],
			    (unsigned long long)c->gpr[n + 1], name[n + 2],
			    (unsigned long long)c->gpr[n + 2], name[n + 3],
			    (unsigned long long)c->gpr[n + 3]);
	trace_print(TRACE_REGS, "cpu%u rflags=%08llx cr0=%08llx cr2=%016llx cr3=%016llx cr4=%08llx",
		    c->index, (unsigned long long)vcpu_rflags(c), (unsigned long long)c->cr0,
		    (unsigned long long)c->cr2, (unsigned long long)c->cr3,
		    (unsigned long long)c->cr4);
}

void disas_trace(struct vcpu *c)
{
	gva_t lin = c->code64 ? c->rip : (c->rip + c->seg[SEG_CS].base) & 0xffffffff;
	ZydisMachineMode mode = c->code_size == 8   ? ZYDIS_MACHINE_MODE_LONG_64
				: c->code_size == 4 ? ZYDIS_MACHINE_MODE_LEGACY_32
						    : ZYDIS_MACHINE_MODE_LEGACY_16;
	uint8_t code[INSN_MAX_LEN];
	ZydisDisassembledInstruction insn;
	unsigned n = 0;

	if (trace_on(TRACE_REGS))
		trace_regs(c);
	while (n < sizeof(code) && vmem_peek(c, lin + n, code + n, 1))
		n++;
	if (n && ZYAN_SUCCESS(ZydisDisassembleIntel(mode, c->rip, code, n, &insn)))
		trace_print(TRACE_DISAS, "cpu%u %04x:%016llx %s", c->index, c->seg[SEG_CS].sel,
			    (unsigned long long)c->rip, insn.text);
	else
		trace_print(TRACE_DISAS, "cpu%u %04x:%016llx (bad)", c->index, c->seg[SEG_CS].sel,
			    (unsigned long long)c->rip);
}
