#include "mmu/walk.h"

#include "mmu/npt.h"
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

/* One table entry on the path, as read. */
struct step {
	void *host;
	uint64_t value;
	gfn_t table;
};

struct walker {
	struct gmem *gm;
	const struct walk_regs *regs;
	struct step step[MAX_LEVELS];
	unsigned nsteps;
	unsigned entry_size;
	uint64_t rights; /* W and U of all levels, and NX of any */
};

static int read_entry(struct walker *w, gpa_t gpa, uint64_t *value)
{
	uint64_t page = gmem_translate(w->gm, gpa >> PAGE_SHIFT);
	struct step *s = &w->step[w->nsteps++];

	if (!page)
		return -EFAULT;
	s->host = (void *)(npt_hva(page) + (gpa & ~PAGE_MASK));
	s->table = gpa >> PAGE_SHIFT;
	if (w->entry_size == 8)
		s->value = atomic_load_relaxed((uint64_t *)s->host);
	else
		s->value = atomic_load_relaxed((uint32_t *)s->host);
	*value = s->value;
	return 0;
}

/* Sets bits in an entry unless it changed since it was read. */
static bool update_entry(struct walker *w, struct step *s, uint64_t bits)
{
	bool ok;

	if ((s->value & bits) == bits)
		return true;
	if (w->entry_size == 8) {
		uint64_t old = s->value;

		ok = atomic_cas_seq((uint64_t *)s->host, &old, old | bits);
	} else {
		uint32_t old = s->value;

		ok = atomic_cas_seq((uint32_t *)s->host, &old, old | (uint32_t)bits);
	}
	if (ok) {
		s->value |= bits;
		gmem_code_written(w->gm, s->table);
	}
	return ok;
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

/* Whether the accumulated rights allow the access. */
static bool permitted(const struct walk_regs *r, uint64_t rights, unsigned access)
{
	if (access & WALK_USER) {
		if (!(rights & U) || ((access & WALK_WRITE) && !(rights & W)))
			return false;
	} else {
		if ((access & WALK_WRITE) && !(rights & W) && r->wp)
			return false;
		if ((rights & U) && (access & WALK_FETCH) && r->smep)
			return false;
		if ((rights & U) && !(access & WALK_FETCH) && r->smap && !(access & WALK_AC))
			return false;
	}
	return !((access & WALK_FETCH) && (rights & NX) && r->nxe);
}

static int fault(const struct walk_regs *r, unsigned access, uint32_t bits, struct walk_result *res)
{
	res->pf_error = bits;
	if (access & WALK_WRITE)
		res->pf_error |= PF_W;
	if (access & WALK_USER)
		res->pf_error |= PF_U;
	if ((access & WALK_FETCH) && (r->smep || (r->nxe && r->mode != PAGING_32)))
		res->pf_error |= PF_I;
	return -EFAULT;
}

static uint64_t leaf_address(const struct walk_regs *r, unsigned level, uint64_t e)
{
	if (r->mode == PAGING_32)
		return level == 2 ? (e & 0xffc00000u) | (e & 0x1fe000) << 19 : e & 0xfffff000u;
	return e & ADDR_MASK & ~((1ull << (12 + 9 * (level - 1))) - 1);
}

/* 1: an entry changed under us, walk again. */
static int walk_once(struct walker *w, gva_t gva, unsigned access, struct walk_result *res)
{
	const struct walk_regs *r = w->regs;
	unsigned level, bits = r->mode == PAGING_32 ? 10 : 9;
	gpa_t table;
	uint64_t e = 0, page_size;

	w->nsteps = 0;
	w->rights = W | U;
	if (r->mode == PAGING_4LEVEL) {
		level = 4;
		table = r->cr3 & ADDR_MASK;
	} else if (r->mode == PAGING_PAE) {
		uint64_t pdpte = r->pdpte[gva >> 30 & 3];

		if (!(pdpte & P))
			return fault(r, access, 0, res);
		level = 2;
		table = pdpte & ADDR_MASK;
	} else {
		level = 2;
		table = r->cr3 & 0xfffff000u;
	}
	for (;; level--) {
		unsigned shift = 12 + bits * (level - 1);
		unsigned index = gva >> shift & ((1u << bits) - 1);

		if (read_entry(w, table + index * w->entry_size, &e))
			return fault(r, access, PF_P | PF_RSVD, res);
		if (!(e & P))
			return fault(r, access, 0, res);
		if (e & reserved_bits(r, level, e))
			return fault(r, access, PF_P | PF_RSVD, res);
		w->rights = (w->rights & (e | NX)) | (r->mode == PAGING_32 ? 0 : e & NX);
		if (level == 1 || (level < 4 && (e & PS) && (r->mode != PAGING_32 || r->pse))) {
			page_size = 1ull << shift;
			break;
		}
		table = r->mode == PAGING_32 ? e & 0xfffff000u : e & ADDR_MASK;
	}
	if (!permitted(r, w->rights, access))
		return fault(r, access, PF_P, res);
	for (unsigned i = 0; i + 1 < w->nsteps; i++)
		if (!update_entry(w, &w->step[i], A))
			return 1;
	if (!update_entry(w, &w->step[w->nsteps - 1], A | (access & WALK_WRITE ? D : 0)))
		return 1;
	e = w->step[w->nsteps - 1].value;
	res->gpa = leaf_address(r, level, e) | (gva & (page_size - 1));
	res->page_size = page_size;
	res->global = e & G;
	res->write_ok = (e & D) && permitted(r, w->rights, (access & ~WALK_FETCH) | WALK_WRITE);
	return 0;
}

int walk(struct gmem *gm, const struct walk_regs *regs, gva_t gva, unsigned access,
	 struct walk_result *res)
{
	struct walker w = {.gm = gm, .regs = regs, .entry_size = regs->mode == PAGING_32 ? 4 : 8};
	int r;

	if (regs->mode == PAGING_OFF) {
		*res = (struct walk_result){
			.gpa = gva & 0xffffffffu, .page_size = PAGE_SIZE, .write_ok = true};
		return 0;
	}
	do {
		r = walk_once(&w, gva, access, res);
	} while (r == 1);
	return r;
}
