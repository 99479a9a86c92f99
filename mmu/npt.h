/*
 * The map from guest frame to host page: a radix tree over 28-bit frame numbers (40-bit guest
 * physical addresses), three levels of 10, 9 and 9 bits.
 *
 * Readers take no lock. Tables and entries are installed by compare-and-swap; the loser of a race
 * frees its copy. An entry, once present, changes only when its slot is removed. Beside each entry
 * lies the code word of the frame (gmem.h).
 */
#ifndef MMU_NPT_H
#define MMU_NPT_H

#include "src/base/types.h"

#define NPT_PRESENT  1ull
#define NPT_READONLY 2ull

#define NPT_GFN_BITS 28

struct npt;

int npt_create(struct npt **npt);
void npt_destroy(struct npt *npt);

/* Host page address | NPT_* flags, or 0. */
uint64_t npt_lookup(struct npt *npt, gfn_t gfn);
/* The same, and the frame's code word if there is an entry. */
uint64_t npt_lookup_code(struct npt *npt, gfn_t gfn, uint32_t *word);
/* 0 or -ENOMEM. If another thread installed the frame first, its entry stays. */
int npt_install(struct npt *npt, gfn_t gfn, uint64_t pte);
/* NULL if nothing near the frame was ever installed. */
uint32_t *npt_code_word(struct npt *npt, gfn_t gfn);

static inline hva_t npt_hva(uint64_t pte)
{
	return pte & PAGE_MASK;
}

#endif
