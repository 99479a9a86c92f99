#include "mmu/npt.h"
#include "src/x86/debug.h"
#include "src/x86/mem.h"
#include "src/x86/mem_int.h"

/*
 * All that mem_fill() reaches runs with the guest's vector registers in the host's: no function
 * here or there uses any, allocates, logs or calls the C library (tests/unit/mem_fill_regs.sh).
 */

void mem_walk_regs(struct cpu *cpu, struct walk_regs *r)
{
	_Static_assert(EFER_NXE == WALK_NXE << 11 && CR0_WP == WALK_WP << 15 &&
			       CR4_SMEP == WALK_SMEP << 18 && CR4_SMAP == WALK_SMAP << 18,
		       "bits are moved, not tested");

	r->policy = (cpu->efer >> 11 & WALK_NXE) | (cpu->cr0 >> 15 & WALK_WP) |
		    (cpu->cr4 >> 18 & (WALK_SMEP | WALK_SMAP));
	r->cr3 = cpu->cr3;
	r->pdpte = cpu->pdpte;
	r->psc = &cpu->tlb.psc;
	r->pse = cpu->cr4 & CR4_PSE;
	if (!(cpu->cr0 & CR0_PG))
		r->mode = PAGING_OFF;
	else if (likely(cpu->efer & EFER_LMA))
		r->mode = PAGING_4LEVEL;
	else
		r->mode = cpu->cr4 & CR4_PAE ? PAGING_PAE : PAGING_32;
}

void mem_tlb_fill(struct cpu *cpu, gva_t gva, const struct walk_result *res, uint64_t page,
		  uint32_t word, struct tlb_fill *fill)
{
	fill->gva = gva;
	fill->hva = npt_hva(page) + (gva & ~PAGE_MASK);
	fill->gfn = res->gpa >> PAGE_SHIFT;
	fill->global = res->global && (cpu->cr4 & CR4_PGE);
	fill->page_size = res->page_size;
	fill->allow = res->allow;
	/*
	 * The code word is read after the translation that this entry caches; if a decoder
	 * protects the frame after this load, its message is drained after this fill.
	 */
	if ((page & NPT_READONLY) || code_word_state(word) != CODE_NONE)
		fill->allow &= ~TLB_WRITES;
	/* Data breakpoints see every access to their page. */
	if (debug_page_watched(cpu, gva))
		fill->allow &= TLB_FETCHES;
}

bool mem_fill(struct cpu *c, gva_t gva, bool write)
{
	enum tlb_ctx ctx = mem_ctx(c);
	struct walk_result res;
	struct walk_regs regs;
	struct tlb_fill fill;
	uint64_t page;
	uint32_t word;

	STAT_INC(c->stats, tlb_misses);
	if (likely(tlb_refill(&c->tlb, ctx, gva, write))) {
		STAT_INC(c->stats, tlb_refills);
		return true;
	}
	if (ctx == TLB_ALIGN || !gva_canonical(gva))
		return false;
	STAT_INC(c->stats, walks);
	mem_walk_regs(c, &regs);
	if (walk_quiet(c->gmem, &regs, gva, mem_access(ctx, write), &res))
		return false;
	page = npt_lookup_code(c->gmem->npt, res.gpa >> PAGE_SHIFT, &word);
	if (unlikely(!page))
		return false;
	mem_tlb_fill(c, gva, &res, page, word, &fill);
	tlb_insert(&c->tlb, ctx, &fill);
	return fill.allow & (write ? TLB_WRITE(ctx) : TLB_READ(ctx));
}
