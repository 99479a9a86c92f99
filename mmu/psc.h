/*
 * Paging-structure cache of one VCPU, 4-level paging only (SDM volume 3, 4.10.3): what the upper
 * levels of a walk said about 2 MiB of linear addresses, either the page table that maps them or,
 * if a large page covers them, its translation. Owner's thread only.
 *
 * Entries belong to a PCID and to a generation; a flush of any kind begins a new generation, so the
 * cache never outlives what the architecture lets it: INVLPG drops all that belongs to the PCID. So
do changes of the registers that entries depend on.
 * Zeroed memory is an empty cache once psc_flush() was called.
 */
#ifndef MMU_PSC_H
#define MMU_PSC_H

#include "src/base/types.h"

#define PSC_SIZE  512u
#define PSC_SHIFT 21

/* In the key: bits 21-47 of the linear address, the PCID, the generation (from 1). */
#define PSC_REGION_BITS 27
#define PSC_PCID_BITS	12
#define PSC_MAX_GEN	((1ull << (64 - PSC_REGION_BITS - PSC_PCID_BITS)) - 1)

struct psc_entry {
	uint64_t key;
	/*
	 * As a page directory entry would be if all levels' W, U and NX were its own. Of a large
	 * page: the address is that of the 2 MiB asked for, and PSC_GIGA tells of a larger page.
	 */
	uint64_t pde;
	hva_t table; /* the page table in host memory, or 0: a large page */
};

#define PSC_GIGA (1ull << 9)

struct psc {
	uint64_t tag;	 /* generation and PCID, in place */
	uint64_t rsvd;	 /* reserved bits of a page table's entry ... */
	unsigned policy; /* ... and struct walk_regs.policy, when entries were made */
	struct psc_entry e[PSC_SIZE];
};

static inline uint64_t psc_key(const struct psc *psc, gva_t gva)
{
	return psc->tag | (gva >> PSC_SHIFT & ((1ull << PSC_REGION_BITS) - 1));
}

/* The entry that gva may use: valid only if its key is psc_key(). gva is canonical. */
static inline struct psc_entry *psc_entry(struct psc *psc, gva_t gva)
{
	/* Folded: stacks, heaps and libraries tend to begin at round addresses. */
	return &psc->e[(gva >> PSC_SHIFT ^ gva >> (PSC_SHIFT + 9)) % PSC_SIZE];
}

static inline void psc_set_pcid(struct psc *psc, uint16_t pcid)
{
	const unsigned shift = PSC_REGION_BITS + PSC_PCID_BITS;

	psc->tag = psc->tag >> shift << shift | (uint64_t)pcid << PSC_REGION_BITS;
}

/* All PCIDs. */
static inline void psc_flush(struct psc *psc)
{
	const unsigned shift = PSC_REGION_BITS + PSC_PCID_BITS;

	if (psc->tag >> shift == PSC_MAX_GEN) {
		memset(psc->e, 0, sizeof(psc->e));
		psc->tag &= (1ull << shift) - 1;
	}
	psc->tag += 1ull << shift;
}

#endif
