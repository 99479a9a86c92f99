/* Misses of the software TLB in compiled code. */
#include "src/engine/bt/bt_int.h"

#include "src/x86/mem.h"

/* Page-crossing groups of a unit, one after the other, after which accesses get checks of their
 * own. */
#define MANY_STRADDLES 64
/* One after the other: so many cycles of the host's clock behind the interpreter's part of the
 * last. */
#define SOON_CYCLES 400

/* A page-crossing group. */
static void note_straddle(struct bt *bt, struct block *unit)
{
	uint64_t now = __builtin_ia32_rdtsc();

	bt->straddled = true;
	if (unit->single_checks)
		return;
	/* A loop over an array crosses now and then, one on a crossing stack frame each time. */
	unit->straddles = now - bt->straddle_end < SOON_CYCLES ? unit->straddles + 1 : 0;
	if (unit->straddles == MANY_STRADDLES) {
		unit->single_checks = true;
		bt->redo = unit;
	}
}

const uint8_t *bt_miss(struct cpu *c, const struct bt_check *k, gva_t lo)
{
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
	if (k->write && !k->fill_write ? mem_fill_clean(c, lo) : mem_fill(c, lo, k->write))
		return k->retry;
	return NULL;
}
