#include "mmu/walk.h"

#include "mmu/npt.h"
#include "mmu/psc.h"
#include "mmu/tlb.h"
#include "src/base/atomic.h"

#define P  (1ull << 0)
#define W  (1ull << 1)
#define U  (1ull << 2)
#define A  (1ull << 5)
#define D  (1ull << 6)
#define PS (1ull << 7)
#define G  (1ull << 8)
#define NX (1ull << 63)

#define PF_P	(1u << 0)
#define PF_W	(1u << 1)
#define PF_U	(1u << 2)
#define PF_RSVD (1u << 3)
#define PF_I	(1u << 4)

#define PHYS_BITS 40
#define ADDR_MASK (((1ull << PHYS_BITS) - 1) & PAGE_MASK)
/* Address bits 40-51 are reserved in long mode, 40-62 in PAE. */
#define RSVD_HIGH (((1ull << 52) - 1) & ~((1ull << PHYS_BITS) - 1))

#define MAX_LEVELS 4

/* How an attempt ends that is neither good nor a fault. */
enum {
	AGAIN = 1,  /* an entry changed under us */
	MISSING = 2 /* a table's frame is not in the map */
};

/* One table entry on the path, as read. */
struct step {
	void *host;
	uint64_t value;
	gfn_t table;
};

struct walker {
	struct gmem *gm;
	const struct walk_regs *regs;
	gva_t gva;
	unsigned access;
	bool quiet;
	unsigned nstored;
	gfn_t stored[MAX_LEVELS]; /* tables that this attempt stored to */
	gfn_t missing;
};

/* --- rights ----------------------------------------------------------------------------------- */

#define POLICY(i, bit)	 ((i) / 8 / (bit) % 2)
#define MAY_WRITE_SUP(i) (((i)&2) || !POLICY(i, WALK_WP))
#define HIDDEN(i)	 (((i)&4) && POLICY(i, WALK_SMAP))
#define MAY_FETCH(i)	 (!(((i)&1) && POLICY(i, WALK_NXE)))
#define ALLOW(i)                                                                         \
	((((i)&4) ? TLB_READ(TLB_USER) : 0) | (((i)&6) == 6 ? TLB_WRITE(TLB_USER) : 0) | \
	 (HIDDEN(i) ? 0 : TLB_READ(TLB_SUPER)) | TLB_READ(TLB_SUPER_AC) |                \
	 (MAY_WRITE_SUP(i) && !HIDDEN(i) ? TLB_WRITE(TLB_SUPER) : 0) |                   \
	 (MAY_WRITE_SUP(i) ? TLB_WRITE(TLB_SUPER_AC) : 0) |                              \
	 (MAY_FETCH(i) && ((i)&4) ? TLB_FETCH_USER : 0) |                                \
	 (MAY_FETCH(i) && !(((i)&4) && POLICY(i, WALK_SMEP)) ? TLB_FETCH_SUPER : 0))
#define ALLOW4(i)  ALLOW(i), ALLOW((i) + 1), ALLOW((i) + 2), ALLOW((i) + 3)
#define ALLOW16(i) ALLOW4(i), ALLOW4((i) + 4), ALLOW4((i) + 8), ALLOW4((i) + 12)
const uint16_t walk_allow[128] = {ALLOW16(0),  ALLOW16(16), ALLOW16(32), ALLOW16(48),
				  ALLOW16(64), ALLOW16(80), ALLOW16(96), ALLOW16(112)};

/* rights: W and U of all levels, and NX of any, where an entry has them. */
static unsigned allowed(const struct walk_regs *r, uint64_t rights)
{
	return walk_allow[r->policy << 3 | (rights & (W | U)) | rights >> 63];
}

static uint64_t add_rights(uint64_t rights, uint64_t e)
{
	return (rights & e & (W | U)) | ((rights | e) & NX);
}

/* The one of TLB_* that the access needs. */
static unsigned needed(unsigned access)
{
	enum tlb_ctx ctx = access & WALK_USER ? TLB_USER
			   : access & WALK_AC ? TLB_SUPER_AC
					      : TLB_SUPER;

	if (access & WALK_FETCH)
		return access & WALK_USER ? TLB_FETCH_USER : TLB_FETCH_SUPER;
	return access & WALK_WRITE ? TLB_WRITE(ctx) : TLB_READ(ctx);
}

/* --- entries ---------------------------------------------------------------------------------- */

static unsigned entry_size(const struct walk_regs *r)
{
	return r->mode == PAGING_32 ? 4 : 8;
}

static int read_entry(struct walker *w, gpa_t gpa, struct step *s)
{
	uint64_t page = npt_lookup(w->gm->npt, gpa >> PAGE_SHIFT);

	if (unlikely(!page)) {
		w->missing = gpa >> PAGE_SHIFT;
		return MISSING;
	}
	s->host = (void *)(npt_hva(page) + (gpa & ~PAGE_MASK));
	s->table = gpa >> PAGE_SHIFT;
	if (entry_size(w->regs) == 8)
		s->value = atomic_load_relaxed((uint64_t *)s->host);
	else
		s->value = atomic_load_relaxed((uint32_t *)s->host);
	return 0;
}

/*
 * Sets bits that an entry lacks unless it changed since it was read: then AGAIN.
 *
 * A quiet walk does so only where nobody needs to be told. Should a decoder protect the table after
 * we looked, its message is drained after this store, as for a store on the fast path.
 */
static int update_entry(struct walker *w, struct step *s, uint64_t bits)
{
	bool ok;

	if (w->quiet && code_word_state(gmem_code_word(w->gm, s->table)) != CODE_NONE)
		return -EAGAIN;
	if (entry_size(w->regs) == 8) {
		uint64_t old = s->value;

		ok = atomic_cas_seq((uint64_t *)s->host, &old, old | bits);
	} else {
		uint32_t old = s->value;

		ok = atomic_cas_seq((uint32_t *)s->host, &old, old | (uint32_t)bits);
	}
	if (!ok)
		return AGAIN;
	s->value |= bits;
	w->stored[w->nstored++] = s->table;
	return 0;
}

static uint64_t reserved_bits(const struct walk_regs *r, unsigned level, uint64_t e)
{
	uint64_t rsvd;

	if (r->mode == PAGING_32) {
		/* A 4 MiB page: bits 13-20 extend the address (PSE-36) to 40 bits, 21 is reserved.
		 */
		return level == 2 && (e & PS) && r->pse ? 1ull << 21 : 0;
	}
	rsvd = RSVD_HIGH;
	if (r->mode == PAGING_PAE)
		rsvd |= ((1ull << 63) - 1) & ~((1ull << 52) - 1);
	if (!r->nxe)
		rsvd |= NX;
	if (level == 4)
		rsvd |= PS;
	else if (level > 1 && (e & PS))
		rsvd |= ((1ull << (12 + 9 * (level - 1))) - 1) & ~((1ull << 13) - 1);
	return rsvd;
}

static uint64_t leaf_address(const struct walk_regs *r, unsigned level, uint64_t e)
{
	if (r->mode == PAGING_32)
		return level == 2 ? (e & 0xffc00000u) | (e & 0x1fe000) << 19 : e & 0xfffff000u;
	return e & ADDR_MASK & ~((1ull << (12 + 9 * (level - 1))) - 1);
}

/* --- one attempt ------------------------------------------------------------------------------ */

static int fault(const struct walker *w, uint32_t bits, struct walk_result *res)
{
	const struct walk_regs *r = w->regs;

	res->pf_error = bits;
	if (w->access & WALK_WRITE)
		res->pf_error |= PF_W;
	if (w->access & WALK_USER)
		res->pf_error |= PF_U;
	if ((w->access & WALK_FETCH) && (r->smep || (r->nxe && r->mode != PAGING_32)))
		res->pf_error |= PF_I;
	return -EFAULT;
}

static uint64_t leaf_bits(const struct walker *w)
{
	return w->access & WALK_WRITE ? A | D : A;
}

/* leaf: the last step, at the given level; rights: of all levels. */
static void fill_cache(struct walker *w, const struct step *leaf, unsigned level, uint64_t rights,
		       const struct walk_result *res)
{
	struct psc *psc = w->regs->psc;
	struct psc_entry *c = psc_entry(psc, w->gva);

	psc->policy = w->regs->policy;
	psc->rsvd = reserved_bits(w->regs, 1, 0);
	c->key = psc_key(psc, w->gva);
	if (level == 1) {
		c->pde = leaf->table << PAGE_SHIFT | rights | P;
		c->table = (hva_t)leaf->host & PAGE_MASK;
	} else {
		c->pde = (res->gpa & ~(MIB(2) - 1)) | (leaf->value & (P | A | D | G)) | rights |
			 (level == 3 ? PSC_GIGA : 0);
		c->table = 0;
	}
}

/* False: there is none. */
static bool first_table(const struct walker *w, unsigned *level, gpa_t *table)
{
	const struct walk_regs *r = w->regs;
	uint64_t e = r->cr3 | P;

	*level = r->mode == PAGING_4LEVEL ? 4 : 2;
	if (r->mode == PAGING_PAE)
		e = r->pdpte[w->gva >> 30 & 3];
	*table = e & (r->mode == PAGING_32 ? 0xfffff000u : ADDR_MASK);
	return e & P;
}

static int walk_tables(struct walker *w, struct walk_result *res)
{
	const struct walk_regs *r = w->regs;
	struct step step[MAX_LEVELS], *s = step;
	unsigned level, shift, allow, bits = r->mode == PAGING_32 ? 10 : 9;
	uint64_t rights = W | U, upper, rsvd = reserved_bits(r, 1, 0);
	uint64_t addr_mask = r->mode == PAGING_32 ? 0xfffff000u : ADDR_MASK;
	bool large;
	gpa_t table;
	int err;

	w->nstored = 0;
	if (!first_table(w, &level, &table))
		return fault(w, 0, res);
	for (;; level--, s++) {
		unsigned index;

		shift = PAGE_SHIFT + bits * (level - 1);
		index = w->gva >> shift & ((1u << bits) - 1);
		err = read_entry(w, table + index * entry_size(r), s);
		if (err)
			return err;
		if (!(s->value & P))
			return fault(w, 0, res);
		large = (s->value & PS) && level > 1 && (r->mode != PAGING_32 || r->pse);
		if (s->value & (large ? reserved_bits(r, level, s->value) : rsvd))
			return fault(w, PF_P | PF_RSVD, res);
		upper = rights;
		rights = add_rights(rights, s->value);
		if (level == 1 || large)
			break;
		table = s->value & addr_mask;
	}
	allow = allowed(r, rights);
	if (!(allow & needed(w->access)))
		return fault(w, PF_P, res);
	for (struct step *t = step; t <= s; t++) {
		uint64_t set = t == s ? leaf_bits(w) : A;

		err = likely((t->value & set) == set) ? 0 : update_entry(w, t, set);
		if (err)
			return err;
	}
	res->page_size = 1ull << shift;
	res->gpa = leaf_address(r, level, s->value) | (w->gva & (res->page_size - 1));
	res->global = s->value & G;
	res->allow = s->value & D ? allow : allow & ~TLB_WRITES;
	if (r->mode == PAGING_4LEVEL && r->psc)
		fill_cache(w, s, level, level == 1 ? upper : rights, res);
	return 0;
}

static void no_paging(gva_t gva, struct walk_result *res)
{
	res->gpa = gva & 0xffffffffu;
	res->page_size = PAGE_SIZE;
	res->allow = TLB_READS | TLB_WRITES | TLB_FETCHES;
	res->global = false;
}

int walk(struct gmem *gm, const struct walk_regs *regs, gva_t gva, unsigned access,
	 struct walk_result *res)
{
	struct walker w;
	int r;

	if (regs->mode == PAGING_OFF) {
		no_paging(gva, res);
		return 0;
	}
	w.gm = gm;
	w.regs = regs;
	w.gva = gva;
	w.access = access;
	w.quiet = false;
	do {
		r = walk_tables(&w, res);
		for (unsigned n = 0; n < w.nstored; n++)
			gmem_code_written(gm, w.stored[n]);
		if (r == MISSING && !gmem_translate(gm, w.missing))
			return fault(&w, PF_P | PF_RSVD, res);
	} while (r > 0);
	return r;
}

int walk_quiet(struct gmem *gm, const struct walk_regs *regs, gva_t gva, unsigned access,
	       struct walk_result *res)
{
	struct walker w;
	int r;

	if (unlikely(regs->mode == PAGING_OFF)) {
		no_paging(gva, res);
		return 0;
	}
	w.gm = gm;
	w.regs = regs;
	w.gva = gva;
	w.access = access;
	w.quiet = true;
	do {
		r = walk_tables(&w, res);
	} while (r == AGAIN);
	return r == MISSING ? -EAGAIN : r;
}
