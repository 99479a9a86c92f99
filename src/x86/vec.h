/*
 * x87, MMX, SSE and AVX data processing, executed by the host's own instruction on the guest's
 * register state through a generated stub: exact, and no case per instruction.
 *
 * Stubs are generated at decode time, keyed by the instruction with its memory operand replaced by
 * a buffer. All CPUs share them, so that a decoded instruction is good for each.
 */
#ifndef X86_VEC_H
#define X86_VEC_H

#include <Zydis/Zydis.h>

#include "src/x86/cpu.h"
#include "src/x86/insn.h"

/* Any thread. The cache lives until each who got it has put it back. */
int vec_cache_get(struct vec_cache **vc);
void vec_cache_put(struct vec_cache *vc);

/*
 * If the decoded instruction is one that this module executes, sets insn->exec (and imm, aux, size
 * as that needs; addressing fields, off, len, mode and flags are filled in by the caller before)
 * and returns 0. -ENOTSUP if it is not ours or not in the CPUID model: the caller makes it #UD.
 * insn->exec does everything: #UD / #NM by CR0.TS, CR0.EM, CR4.OSFXSR, CR4.OSXSAVE and XCR0,
 * alignment #GP, memory access, execution, #XM or #MF, flags. exec functions return normally; the
 * caller chains them.
 */
int vec_decode(struct cpu *cpu, struct insn *insn, const ZydisDecodedInstruction *zi,
	       const ZydisDecodedOperand *ops, const uint8_t *bytes);

/* Power-on values of x87, MXCSR and the vector registers; INIT leaves them alone. */
void vec_reset(struct vec_state *vec);

#endif
