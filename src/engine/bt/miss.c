/* Misses of the software TLB in compiled code. */
#include "src/engine/bt/bt_int.h"

#include "src/x86/mem.h"

/* Page-crossing groups of a unit after which each access gets a check of its own. */
#define MANY_STRADDLES 64

/* A page-crossing group. */
static void note_straddle(struct bt *bt, struct block *unit)
{
	if (!unit->single_checks && ++unit->straddles == MANY_STRADDLES) {
		unit->single_checks = true;
		bt->redo = unit;
	}
}

const uint8_t *bt_miss(struct cpu *c, const struct bt_check *k, gva_t lo)
{
	const struct tlb_entry *e = &c->tlb_cur[(lo >> PAGE_SHIFT) & (TLB_SIZE - 1)];
	struct bt *bt = c->bt.owner;

	if ((lo ^ (lo + k->span)) & PAGE_MASK) {
		note_straddle(bt, k->unit);
		return NULL;
	}
	if (!k->any_half && lo >> 63 != c->bt.page >> 63) {
		k->unit->any_half = true;
		bt->redo = k->unit;
		return NULL;
	}
	if (k->align && ((lo + k->align_off) & (k->align - 1)))
		return NULL;
	if (!mem_fill(c, lo, k->fill_write))
		return NULL;
	return (k->write ? e->wtag : e->rtag) == tlb_tag(&c->tlb, lo) ? k->retry : NULL;
}
