/* What the parts of memory access share: mem.c, which raises faults, and mem_fill.c. */
#ifndef X86_MEM_INT_H
#define X86_MEM_INT_H

#include "mmu/walk.h"
#include "src/x86/cpu.h"

static inline enum tlb_ctx mem_ctx(const struct cpu *cpu)
{
	return (cpu->tlb_cur - cpu->tlb.e[0]) / TLB_SIZE;
}

static inline unsigned mem_access(enum tlb_ctx ctx, bool write)
{
	return (ctx == TLB_USER || ctx == TLB_ALIGN ? WALK_USER
		: ctx == TLB_SUPER_AC		    ? WALK_AC
						    : 0) |
	       (write ? WALK_WRITE : 0);
}

/* How the tables are to be walked now; points into the CPU. */
void mem_walk_regs(struct cpu *cpu, struct walk_regs *r);

/*
 * What the TLB is to hold of the page of gva. page, word: the frame's entry in the map and its code
 * word, read in this order after the walk.
 */
void mem_tlb_fill(struct cpu *cpu, gva_t gva, const struct walk_result *res, uint64_t page,
		  uint32_t word, struct tlb_fill *fill);

#endif
