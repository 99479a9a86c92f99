/*
 * One decoded instruction, as the interpreter runs it: 32 bytes, register numbers as byte offsets
 * into cpu->gpr so that AH..BH need no special case.
 */
#ifndef X86_INSN_H
#define X86_INSN_H

#include "src/base/types.h"

struct cpu;

#define INSN_EA_SLOW (1u << 0) /* effective address needs ea_slow(): 16/32-bit or limit checks */
#define INSN_LOCK    (1u << 1)
#define INSN_REP     (1u << 2)
#define INSN_REPNE   (1u << 3)
#define INSN_MEM     (1u << 4) /* has a memory operand */
#define INSN_ADDR16  (1u << 5)
#define INSN_ADDR32  (1u << 6) /* neither: 64-bit addresses */
#define INSN_ALIGN   (1u << 7) /* the memory operand must be naturally aligned (SSE) */

struct insn {
	void (*exec)(struct cpu *cpu, const struct insn *insn);
	uint64_t imm; /* immediate, sign-extended; branch displacement; or a pointer of exec's */
	int32_t disp; /* of the memory operand */
	uint16_t off; /* of this instruction from the block's first byte */
	uint8_t len;
	uint8_t dst;  /* byte offset in cpu->gpr */
	uint8_t src;  /* byte offset in cpu->gpr */
	uint8_t base; /* index in cpu->gpr; REG_ZERO: none; REG_PC: rip-relative, off+len in disp */
	uint8_t index; /* index in cpu->gpr; REG_ZERO: none */
	uint8_t scale : 2,
		size : 3; /* index shift; operand size: 0,1,2,3 = 1,2,4,8 bytes, 4 = 16 */
	uint8_t seg;	  /* enum seg_index; SEG_NONE: flat */
	uint8_t flags;	  /* INSN_* */
	uint8_t aux;	  /* exec's own */
	uint8_t mode;	  /* 2, 4 or 8: bytes of the code segment's default address size */
};

_Static_assert(sizeof(struct insn) == 32, "keep decoded code small");

#endif
