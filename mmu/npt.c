#include "mmu/npt.h"

#include <stdlib.h>

#include "src/base/atomic.h"

#define LEAF_BITS 9
#define MID_BITS  9
#define ROOT_BITS 10

_Static_assert(LEAF_BITS + MID_BITS + ROOT_BITS == NPT_GFN_BITS, "levels cover the frame number");

struct leaf {
	uint64_t pte[1 << LEAF_BITS];
	uint32_t code[1 << LEAF_BITS];
};

struct mid {
	struct leaf *leaf[1 << MID_BITS];
};

struct npt {
	struct mid *mid[1 << ROOT_BITS];
};

int npt_create(struct npt **npt)
{
	*npt = calloc(1, sizeof(**npt));
	return *npt ? 0 : -ENOMEM;
}

void npt_destroy(struct npt *npt)
{
	if (!npt)
		return;
	for (unsigned r = 0; r < 1 << ROOT_BITS; r++) {
		if (!npt->mid[r])
			continue;
		for (unsigned m = 0; m < 1 << MID_BITS; m++)
			free(npt->mid[r]->leaf[m]);
		free(npt->mid[r]);
	}
	free(npt);
}

static struct leaf *find_leaf(struct npt *npt, gfn_t gfn)
{
	struct mid *mid;

	if (gfn >> NPT_GFN_BITS)
		return NULL;
	/* Acquire pairs with the installing compare-and-swap: tables are seen zeroed. */
	mid = atomic_load_acquire(&npt->mid[gfn >> (LEAF_BITS + MID_BITS)]);
	if (!mid)
		return NULL;
	return atomic_load_acquire(&mid->leaf[(gfn >> LEAF_BITS) & ((1 << MID_BITS) - 1)]);
}

uint64_t npt_lookup(struct npt *npt, gfn_t gfn)
{
	struct leaf *leaf = find_leaf(npt, gfn);

	return leaf ? atomic_load_relaxed(&leaf->pte[gfn & ((1 << LEAF_BITS) - 1)]) : 0;
}

uint64_t npt_lookup_code(struct npt *npt, gfn_t gfn, uint32_t *word)
{
	struct leaf *leaf = find_leaf(npt, gfn);
	unsigned n = gfn & ((1 << LEAF_BITS) - 1);

	if (unlikely(!leaf))
		return 0;
	*word = atomic_load_seq(&leaf->code[n]);
	return atomic_load_relaxed(&leaf->pte[n]);
}

uint32_t *npt_code_word(struct npt *npt, gfn_t gfn)
{
	struct leaf *leaf = find_leaf(npt, gfn);

	return leaf ? &leaf->code[gfn & ((1 << LEAF_BITS) - 1)] : NULL;
}

/* Returns the table in *slot, allocating it if there is none. */
static void *get_table(void **slot, size_t size)
{
	void *cur = atomic_load_acquire(slot), *fresh;

	if (cur)
		return cur;
	fresh = calloc(1, size);
	if (!fresh)
		return NULL;
	if (atomic_cas_seq(slot, &cur, fresh))
		return fresh;
	free(fresh);
	return cur;
}

int npt_install(struct npt *npt, gfn_t gfn, uint64_t pte)
{
	struct mid *mid;
	struct leaf *leaf;
	uint64_t old = 0;

	if (gfn >> NPT_GFN_BITS)
		return -EINVAL;
	mid = get_table((void **)&npt->mid[gfn >> (LEAF_BITS + MID_BITS)], sizeof(*mid));
	if (!mid)
		return -ENOMEM;
	leaf = get_table((void **)&mid->leaf[(gfn >> LEAF_BITS) & ((1 << MID_BITS) - 1)],
			 sizeof(*leaf));
	if (!leaf)
		return -ENOMEM;
	atomic_cas_seq(&leaf->pte[gfn & ((1 << LEAF_BITS) - 1)], &old, pte);
	return 0;
}
