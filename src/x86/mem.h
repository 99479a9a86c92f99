/*
 * Access to guest memory by linear address, with the permissions of the current privilege level.
 * A hit in the software TLB is inline; everything else (miss, fault, page crossing, MMIO, code
 * frame, data breakpoint) is in mem.c. All of them may raise a page fault and then do not return.
 *
 * Guest loads and stores are single host accesses of the same width when they do not cross a page,
 * so the guest gets the host's memory order (TSO) and its atomicity.
 */
#ifndef X86_MEM_H
#define X86_MEM_H

#include "src/x86/cpu.h"
#include "src/x86/insn.h"

uint64_t mem_read_slow(struct cpu *cpu, gva_t gva, unsigned len);
void mem_write_slow(struct cpu *cpu, gva_t gva, uint64_t value, unsigned len);

/*
 * Fills the current context's TLB entry for loads from the page of gva, with write that for stores.
 * True: such an access to that byte now hits the fast path. False: it faults, or needs the slow
 * path for another reason. Nothing is raised, posted or allocated; accessed and dirty bits may be
 * set as the access itself would. Uses general registers only, so that compiled code may call it
 * with the guest's vector registers in the host's.
 */
bool mem_fill(struct cpu *cpu, gva_t gva, bool write);
/* The same for a store that may not come: sets no dirty bit, so is false where that is clear. */
bool mem_fill_clean(struct cpu *cpu, gva_t gva);

static force_inline void *mem_fast_in(struct cpu *c, struct tlb_entry (*ctx)[TLB_SIZE],
				      enum tlb_kind kind, gva_t a, unsigned len)
{
	struct tlb_entry *e = &ctx[kind][tlb_index(a)];

	/* The last byte's page is compared with the first byte's entry: a crossing misses. */
	if (likely(e->tag == (((a + len - 1) & PAGE_MASK) | c->tlb.tag[a >> 63])))
		return (void *)(a + e->addend);
	return NULL;
}

static force_inline void *mem_fast(struct cpu *c, enum tlb_kind kind, gva_t a, unsigned len)
{
	return mem_fast_in(c, c->tlb_cur, kind, a, len);
}

static force_inline void *mem_fast_read(struct cpu *c, gva_t a, unsigned len)
{
	return mem_fast(c, TLB_LOADS, a, len);
}

static force_inline void *mem_fast_write(struct cpu *c, gva_t a, unsigned len)
{
	return mem_fast(c, TLB_STORES, a, len);
}

#define MEM_ACCESSORS(bits)                                                                    \
	static force_inline uint##bits##_t mem_read##bits(struct cpu *c, const struct insn *i, \
							  gva_t a)                             \
	{                                                                                      \
		void *p = mem_fast_read(c, a, bits / 8);                                       \
		if (likely(p))                                                                 \
			return *(volatile uint##bits##_t *)p;                                  \
		c->cur = i;                                                                    \
		return mem_read_slow(c, a, bits / 8);                                          \
	}                                                                                      \
	static force_inline void mem_write##bits(struct cpu *c, const struct insn *i, gva_t a, \
						 uint##bits##_t v)                             \
	{                                                                                      \
		void *p = mem_fast_write(c, a, bits / 8);                                      \
		if (likely(p)) {                                                               \
			*(volatile uint##bits##_t *)p = v;                                     \
			return;                                                                \
		}                                                                              \
		c->cur = i;                                                                    \
		mem_write_slow(c, a, v, bits / 8);                                             \
	}
MEM_ACCESSORS(8)
MEM_ACCESSORS(16)
MEM_ACCESSORS(32)
MEM_ACCESSORS(64)
#undef MEM_ACCESSORS

/*
 * Any length up to a page, with the current privileges; cpu->cur must be set. All or nothing: a
 * fault on the second page leaves the first untouched.
 */
void mem_read(struct cpu *cpu, gva_t gva, void *buf, unsigned len);
void mem_write(struct cpu *cpu, gva_t gva, const void *buf, unsigned len);
/* Raises the fault that a store to [gva, gva + len) would, and stores nothing. */
void mem_probe_write(struct cpu *cpu, gva_t gva, unsigned len);

/* Implicit supervisor accesses (descriptor tables, TSS), whatever the CPL; cpu->cur must be set. */
uint64_t mem_sys_read(struct cpu *cpu, gva_t gva, unsigned len);
void mem_sys_write(struct cpu *cpu, gva_t gva, uint64_t value, unsigned len);
/*
 * Where such an access may be made at once: the host address of [gva, gva + len); else NULL. As
 * mem_fill(), but it does not walk the tables.
 */
void *mem_sys_quick(struct cpu *cpu, gva_t gva, unsigned len, bool write);
/*
 * Whether an access to that byte, of the current context, is a page fault, with its error code. As
 * mem_fill(): false, too, where that cannot be told without more.
 */
bool mem_fault_quick(struct cpu *cpu, gva_t gva, bool write, uint32_t *error);

/*
 * Read-modify-write access: host pointer to [gva, gva + len), writable, or NULL if it is not RAM in
 * one page (then the caller uses mem_read_slow() and mem_write_slow() under the bus lock). After
 * storing through it the caller calls mem_rmw_done(), which does not fault: it goes by the
 * translations that mem_rmw_ptr() made.
 */
void *mem_rmw_ptr(struct cpu *cpu, gva_t gva, unsigned len);
void mem_rmw_done(struct cpu *cpu, gva_t gva, unsigned len);

/*
 * Fetch translation of the page of rip for the current CPL; raises #PF or #GP. NULL: not RAM.
 */
const struct itlb_entry *mem_fetch(struct cpu *cpu, gva_t rip);
/* The same, if it is known without a walk of the tables; else NULL. Uses no vector registers. */
const struct itlb_entry *mem_fetch_quick(struct cpu *cpu, gva_t rip);

/* Code tags of the TLB stand for the address space in use. Uses no vector registers. */
void mem_search_code(struct cpu *cpu);
static inline void mem_settle_code(struct cpu *cpu, gva_t rip)
{
	if (unlikely(!cpu->tlb.code_tag[rip >> 63]))
		mem_search_code(cpu);
}

/* Effective (linear) address of the memory operand, with limit checks where the mode has them. */
gva_t ea_slow(struct cpu *cpu, const struct insn *i, unsigned len, bool write);
/* The same at a distance of offset bytes, wrapping as the address size demands. */
gva_t ea_offset(struct cpu *cpu, const struct insn *i, int64_t offset, unsigned len, bool write);
/* Segment-relative address -> linear, checked as the mode demands; #GP or #SS. */
gva_t seg_linear(struct cpu *cpu, enum seg_index seg, uint64_t off, unsigned len, bool write);

static force_inline gva_t insn_ea(struct cpu *c, const struct insn *i, unsigned len, bool write)
{
	if (unlikely(i->flags & INSN_EA_SLOW))
		return ea_slow(c, i, len, write);
	return c->seg[i->seg].base + c->gpr[i->base] + (c->gpr[i->index] << i->scale) +
	       (int64_t)i->disp;
}

#endif
