#include "mmu/npt.h"
#include "mmu/psc.h"
#include "src/base/atomic.h"
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
	r->psc = likely(!cpu->overlay) ? &cpu->tlb.psc : NULL;
	r->pse = cpu->cr4 & CR4_PSE;
	if (!(cpu->cr0 & CR0_PG))
		r->mode = PAGING_OFF;
	else if (likely(cpu->efer & EFER_LMA))
		r->mode = PAGING_4LEVEL;
	else
		r->mode = cpu->cr4 & CR4_PAE ? PAGING_PAE : PAGING_32;
}

static force_inline void tlb_fill(struct cpu *cpu, gva_t gva, const struct walk_result *res,
				  uint64_t page, uint32_t word, struct tlb_fill *fill)
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

void mem_tlb_fill(struct cpu *cpu, gva_t gva, const struct walk_result *res, uint64_t page,
		  uint32_t word, struct tlb_fill *fill)
{
	tlb_fill(cpu, gva, res, page, word, fill);
}

/* What a large page is known to say of the page of gva. */
static uint64_t large_leaf(const struct psc_entry *p, gva_t gva, struct walk_result *res)
{
	res->page_size = p->pde & PSC_GIGA ? GIB(1) : MIB(2);
	return p->pde | (gva & (MIB(2) - 1) & PAGE_MASK);
}

static force_inline bool psc_knows(struct cpu *c, gva_t gva)
{
	return psc_entry(&c->tlb.psc, gva)->key == psc_key(&c->tlb.psc, gva);
}

/* What psc_knows() the way to, if that is present and accessed: of the page that gva is in. */
static force_inline bool walk_by_psc(struct cpu *c, gva_t gva, struct walk_result *res)
{
	const struct psc *psc = &c->tlb.psc;
	const struct psc_entry *p = psc_entry(&c->tlb.psc, gva);
	uint64_t e, upper = p->pde;

	res->page_size = PAGE_SIZE;
	if (likely(p->table))
		e = atomic_load_relaxed((uint64_t *)p->table + (gva >> PAGE_SHIFT & 511));
	else
		e = large_leaf(p, gva, res);
	if ((e & (PTE_P | PTE_A | psc->rsvd)) != (PTE_P | PTE_A))
		return false;
	res->allow =
		walk_allow[psc->policy << 3 | (upper & e & (PTE_W | PTE_U)) | (upper | e) >> 63];
	if (!(e & PTE_D))
		res->allow &= ~TLB_WRITES;
	res->gpa = e & ((1ull << GUEST_PHYS_BITS) - 1) & PAGE_MASK;
	res->global = e & PTE_G;
	return true;
}

/*
 * Makes an entry of the second level, in place of old, from a page table that is known. Only where
 * no accessed or dirty bit must be set; a fault is left to a walk of all levels to tell.
 */
static force_inline const struct tlb2_entry *find_by_psc(struct cpu *c, struct tlb2_entry *old,
							 gva_t gva, unsigned need)
{
	struct walk_result res;
	struct tlb_fill fill;
	uint64_t page;
	uint32_t word;

	if (!psc_knows(c, gva) || !walk_by_psc(c, gva, &res) || !(res.allow & need))
		return NULL;
	page = npt_lookup_code(c->gmem->npt, res.gpa >> PAGE_SHIFT, &word);
	if (unlikely(!page))
		return NULL;
	tlb_fill(c, gva & PAGE_MASK, &res, page, word, &fill);
	return fill.allow & need ? tlb2_replace(&c->tlb, old, &fill) : NULL;
}

const struct tlb2_entry *mem_find(struct cpu *c, gva_t gva, unsigned need)
{
	struct tlb2_entry *e;

	if (unlikely(!gva_canonical(gva)))
		return NULL;
	e = tlb2_find(&c->tlb, gva);
	return likely(e && (e->where & need)) ? e : find_by_psc(c, e, gva, need);
}

const struct itlb_entry *mem_fetch_quick(struct cpu *c, gva_t rip)
{
	bool user = c->cpl == 3;
	const struct itlb_entry *e = tlb_fetch_lookup(&c->tlb, rip, user);
	const struct tlb2_entry *e2;

	if (likely(e))
		return e;
	e2 = mem_find(c, rip, user ? TLB_FETCH_USER : TLB_FETCH_SUPER);
	return e2 ? tlb_fetch_copy(&c->tlb, rip, user, e2) : NULL;
}

/* Whether the tables say that code may be fetched from the page, in the frame, and was. */
static bool same_code(struct cpu *c, const struct code_map_page *p)
{
	bool user = p->key & CODE_MAP_USER;
	gva_t page = p->key & PAGE_MASK;
	struct walk_result res;
	struct walk_regs regs;

	if (likely(psc_knows(c, page)))
		return walk_by_psc(c, page, &res) &&
		       (res.allow & (user ? TLB_FETCH_USER : TLB_FETCH_SUPER)) &&
		       res.gpa >> PAGE_SHIFT == p->gfn;
	mem_walk_regs(c, &regs);
	return !walk_quiet(c->gmem, &regs, page, WALK_FETCH | (user ? WALK_USER : 0), &res) &&
	       res.gpa >> PAGE_SHIFT == p->gfn;
}

void mem_search_code(struct cpu *c)
{
	struct code_maps *m = tlb_search_code(&c->tlb, c->cr3 & PAGE_MASK);
	const struct code_map_page *p;

	while ((p = code_maps_ask(m)))
		code_maps_answer(m, same_code(c, p));
	tlb_settle_code(&c->tlb);
}

/* dirty: the walk may set D. */
static never_inline bool fill_by_walk(struct cpu *c, gva_t gva, bool write, bool dirty)
{
	enum tlb_ctx ctx = mem_ctx(c);
	const struct tlb2_entry *e;
	struct walk_result res;
	struct walk_regs regs;
	struct tlb_fill fill;
	uint64_t page;
	uint32_t word;

	if (ctx == TLB_ALIGN)
		return false;
	STAT_INC(c->stats, walks);
	mem_walk_regs(c, &regs);
	if (walk_quiet(c->gmem, &regs, gva, mem_access(ctx, dirty), &res))
		return false;
	page = npt_lookup_code(c->gmem->npt, res.gpa >> PAGE_SHIFT, &word);
	if (unlikely(!page))
		return false;
	tlb_fill(c, gva, &res, page, word, &fill);
	e = tlb2_insert(&c->tlb, &fill);
	if (!(fill.allow & mem_need(ctx, write)))
		return false;
	tlb_copy(&c->tlb, c->tlb_cur, mem_kind(write), gva, e);
	return true;
}

/* old: the entry of the second level, which does not allow the access, or NULL. */
static never_inline bool fill_by_tables(struct cpu *c, gva_t gva, bool write, bool dirty,
					struct tlb2_entry *old)
{
	const struct tlb2_entry *e = find_by_psc(c, old, gva, mem_need(mem_ctx(c), write));

	if (unlikely(!e))
		return fill_by_walk(c, gva, write, dirty);
	tlb_copy(&c->tlb, c->tlb_cur, mem_kind(write), gva, e);
	return true;
}

static force_inline bool fill(struct cpu *c, gva_t gva, bool write, bool dirty)
{
	struct tlb2_entry *e;

	STAT_INC(c->stats, tlb_misses);
	if (unlikely(!gva_canonical(gva)))
		return false;
	e = tlb2_find(&c->tlb, gva);
	if (unlikely(!e || !(e->where & mem_need(mem_ctx(c), write))))
		return fill_by_tables(c, gva, write, dirty, e);
	tlb_copy(&c->tlb, c->tlb_cur, mem_kind(write), gva, e);
	return true;
}

bool mem_fill(struct cpu *c, gva_t gva, bool write)
{
	return fill(c, gva, write, write);
}

bool mem_fill_clean(struct cpu *c, gva_t gva)
{
	return fill(c, gva, true, false);
}

bool mem_fault_quick(struct cpu *c, gva_t gva, bool write, uint32_t *error)
{
	enum tlb_ctx ctx = mem_ctx(c);
	struct walk_result res;
	struct walk_regs regs;

	if (ctx == TLB_ALIGN || !gva_canonical(gva))
		return false;
	STAT_INC(c->stats, walks);
	mem_walk_regs(c, &regs);
	if (walk_quiet(c->gmem, &regs, gva, mem_access(ctx, write), &res) != -EFAULT)
		return false;
	*error = res.pf_error;
	return true;
}

void *mem_sys_quick(struct cpu *c, gva_t gva, unsigned len, bool write)
{
	enum tlb_kind kind = mem_kind(write);
	void *p = mem_fast_in(c, c->tlb.e[TLB_SUPER], kind, gva, len);
	const struct tlb2_entry *e;

	if (likely(p))
		return p;
	e = mem_find(c, gva, mem_need(TLB_SUPER, write));
	if (!e)
		return NULL;
	tlb_copy(&c->tlb, c->tlb.e[TLB_SUPER], kind, gva, e);
	return mem_fast_in(c, c->tlb.e[TLB_SUPER], kind, gva, len);
}
