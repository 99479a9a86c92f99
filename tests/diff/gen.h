/* Parts of the generator. */
#ifndef DIFF_GEN_H
#define DIFF_GEN_H

#include <Zydis/Zydis.h>

#include "tests/diff/diff.h"
#include "tests/diff/rng.h"

/* gen_state.c: a machine state full of corner cases. */
void gen_state(struct rng *r, bool compat, struct diff_state *st);
/* An address worth accessing: mostly in the data window, some at its edges or on bad pages. */
uint64_t gen_address(struct rng *r);

/* Registers that gen_state() points into the window, and one that it makes a small number. */
#define POINTER_REGS   6
#define POINTER_REGS32 4 /* the first ones, in 32-bit code */
extern const uint8_t gen_pointer_regs[POINTER_REGS];
#define SMALL_REG 15

/* gen_bytes.c: 15 bytes that may start an instruction. rip_dest: 0 or where [rip + disp] must go.
 */
void gen_bytes(struct rng *r, bool compat, uint8_t bytes[15], uint32_t *rip_dest);

/* gen_filter.c: may the two sides be expected to agree on this instruction? */
bool gen_acceptable(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops);
/* Flags left undefined, tested and surely defined by it; RFLAGS bits. */
void gen_flags(const ZydisDecodedInstruction *zi, struct seq_insn *out, uint32_t *tested);

#endif
