/* Where guest registers live in the host. */
#ifndef CPU_DBT_REGMAP_H
#define CPU_DBT_REGMAP_H

#include "cpu/dbt/emit.h"

/* The host's two scratch registers. */
#define S_ADDR H_RCX /* linear, then host address of an access */
#define S_ADD  H_R14 /* addend of an access; target of a branch */

/* By guest register; H_NONE: in ctx.gpr. Compilers name R9 to R11 least: in 4 % of cc1's
 * instructions, where it is 12 % for R13 to R15. */
static const uint8_t host_reg[16] = {
	H_RAX, H_R13,  H_RDX,  H_RBX,  H_R15, H_RBP, H_RSI, H_RDI,
	H_R8,  H_NONE, H_NONE, H_NONE, H_R12, H_R9,  H_R10, H_R11,
};

#define H_GUEST_RCX H_R13
#define H_GUEST_RSP H_R15

#endif
