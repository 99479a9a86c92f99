/* What the parts of memory access share: mem.c, which raises faults, and mem_fill.c. */
#ifndef X86_MEM_INT_H
#define X86_MEM_INT_H

#include "mmu/walk.h"
#include "src/x86/cpu.h"

static inline enum tlb_ctx mem_ctx(const struct cpu *cpu)
{
	return ((uintptr_t)cpu->tlb_cur - (uintptr_t)cpu->tlb.e) / sizeof(cpu->tlb.e[0]);
}

static inline enum tlb_kind mem_kind(bool write)
{
	return write ? TLB_STORES : TLB_LOADS;
}

/* The one of TLB_* that a data access needs. */
static inline unsigned mem_need(enum tlb_ctx ctx, bool write)
{
	return (write ? TLB_WRITE(0) : TLB_READ(0)) << ctx;
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
 * The entry of the TLB's second level for the page of gva, if it allows what is needed (of TLB_*):
 * the one that is there, or one made from what the paging-structure cache knows. Otherwise NULL,
 * and the tables have to be walked; also if gva is not canonical.
 */
const struct tlb2_entry *mem_find(struct cpu *cpu, gva_t gva, unsigned need);

/*
 * What the TLB is to hold of the page of gva. page, word: the frame's entry in the map and its code
 * word, read in this order after the walk.
 */
void mem_tlb_fill(struct cpu *cpu, gva_t gva, const struct walk_result *res, uint64_t page,
		  uint32_t word, struct tlb_fill *fill);

#endif
