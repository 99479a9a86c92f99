/*
 * Debug registers (SDM volume 3, chapter 18). Data breakpoints keep their pages out of the software
 * TLB, so that only watched pages pay for them; code breakpoints make blocks of one instruction.
 */
#ifndef X86_DEBUG_H
#define X86_DEBUG_H

#include "src/x86/cpu.h"

static inline bool debug_active(const struct cpu *cpu)
{
	return cpu->dr7 & 0xff;
}

/* Length in bytes of breakpoint n. */
static inline unsigned debug_len(const struct cpu *cpu, unsigned n)
{
	static const uint8_t len[] = {1, 2, 8, 4};

	return len[cpu->dr7 >> (18 + 4 * n) & 3];
}

static inline unsigned debug_type(const struct cpu *cpu, unsigned n)
{
	return cpu->dr7 >> (16 + 4 * n) & 3;
}

bool debug_page_watched_slow(const struct cpu *cpu, gva_t gva);
void debug_data_access_slow(struct cpu *cpu, gva_t gva, unsigned len, bool write);
/* DR6 bits of the code breakpoints that match rip. */
uint32_t debug_code_match(const struct cpu *cpu, gva_t rip);

static inline bool debug_page_watched(const struct cpu *cpu, gva_t gva)
{
	return unlikely(debug_active(cpu)) && debug_page_watched_slow(cpu, gva);
}

/* Records a match in dr6_pending; the trap is taken after the instruction. */
static inline void debug_data_access(struct cpu *cpu, gva_t gva, unsigned len, bool write)
{
	if (unlikely(debug_active(cpu)))
		debug_data_access_slow(cpu, gva, len, write);
}

#endif
