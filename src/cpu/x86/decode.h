/* Bytes to struct insn, for 16-, 32- and 64-bit code. */
#ifndef CPU_X86_DECODE_H
#define CPU_X86_DECODE_H

#include "cpu/x86/insn.h"

enum decode_result {
	DECODE_OK,
	DECODE_MORE, /* the instruction goes on beyond the n bytes that were given */
	DECODE_UD,   /* not an instruction: #UD. out->len is how far the decoder had to read */
	DECODE_LONG, /* longer than 15 bytes: #GP(0) */
};

/* Decode the instruction at code[0..n). mode: 2, 4, 8 for 16-, 32-, 64-bit code. Depends on
 * nothing but the bytes and the mode: what the CPU model masks, and which modes an instruction
 * needs besides the code size (protected mode, CPL 0), is the engine's to check. out is written
 * whole when the result is DECODE_OK. Any thread. SDM 2A chapter 2, 2D appendix A.
 */
enum decode_result decode(const uint8_t *code, size_t n, unsigned mode, struct insn *out);

#endif
