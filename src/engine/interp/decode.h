/*
 * From instruction bytes to struct insn. Zydis finds the structure; the choice of handler and every
 * operand field is made here. Pure but for the vector stub cache of the CPU.
 */
#ifndef ENGINE_INTERP_DECODE_H
#define ENGINE_INTERP_DECODE_H

#include <Zydis/Zydis.h>

#include "src/x86/cpu.h"
#include "src/x86/insn.h"

#define INSN_MAX_BYTES 15

struct decoder {
	ZydisDecoder d16, d32, d64;
};

void decoder_init(struct decoder *d);
/*
 * Decodes one instruction of a code segment of mode bytes (2, 4 or 8) at offset off of its block.
 * Returns 0; 1 if the block must end after it; -EAGAIN if avail bytes are too few. An invalid
 * instruction decodes to one that raises its exception.
 *
 * Fills one slot, or two: a vector handler returns, so op_vector stands in front of it and goes on.
 */
int decode_insn(const struct decoder *d, struct cpu *cpu, unsigned mode, const uint8_t *bytes,
		unsigned avail, unsigned off, struct insn out[2], unsigned *slots);
void op_vector(struct cpu *cpu, const struct insn *insn);

#endif
