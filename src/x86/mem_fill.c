#include "src/x86/mem.h"
#include "mmu/npt.h"
#include "mmu/walk.h"
#include "src/x86/debug.h"

static void walk_regs_get(const struct cpu *cpu, struct walk_regs *r)
{
	*r = (struct walk_regs){
		.cr3 = cpu->cr3,
		.pdpte = cpu->pdpte,
		.pse = cpu->cr4 & CR4_PSE,
		.nxe = cpu->efer & EFER_NXE,
		.wp = cpu->cr0 & CR0_WP,
		.smep = cpu->cr4 & CR4_SMEP,
		.smap = cpu->cr4 & CR4_SMAP,
	};
	if (!(cpu->cr0 & CR0_PG))
		r->mode = PAGING_OFF;
	else
		r->mode = PAGING_4LEVEL;
}
bool mem_fill(struct cpu *cpu, gva_t gva, bool write)
{
	enum tlb_ctx ctx = cpu->ctx;
	struct walk_regs regs;
	struct walk_result res;
	uint64_t page;
	struct tlb_fill fill;

	STAT_INC(cpu->stats, tlb_misses);
	if (!gva_canonical(gva) || ctx == TLB_ALIGN || debug_page_watched(cpu, gva))
		return false;
	walk_regs_get(cpu, &regs);
	if (walk(cpu->gmem, &regs, gva,
		 (ctx == TLB_USER	? WALK_USER
		  : ctx == TLB_SUPER_AC ? WALK_AC
					: 0) |
			 (write ? WALK_WRITE : 0),
		 &res))
		return false;
	page = gmem_translate(cpu->gmem, res.gpa >> PAGE_SHIFT);
	if (!page)
		return false;
	fill = (struct tlb_fill){
		.gva = gva,
		.hva = npt_hva(page) + (gva & ~PAGE_MASK),
		.gfn = res.gpa >> PAGE_SHIFT,
		.global = res.global && (cpu->cr4 & CR4_PGE),
		.page_size = res.page_size,
	};
	fill.write = res.write_ok && !(page & NPT_READONLY) &&
		     code_word_state(gmem_code_word(cpu->gmem, fill.gfn)) == CODE_NONE;
	tlb_insert(&cpu->tlb, ctx, &fill);
	return !write || fill.write;
}
