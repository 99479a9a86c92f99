/* What compiled code calls: hand-over to the interpreter, and misses of the software TLB. */
#include "src/engine/bt/bt_int.h"

#include "src/engine/interp/ops.h"

/* Page-crossing groups of a unit after which each access gets a check of its own. */
#define MANY_STRADDLES 64

uint16_t bt_flags_pack(const struct cpu *c)
{
	uint64_t f = flags_get(c);

	return (f & 0xff) << 8 | (f & FLAG_OF ? 1 : 0);
}

void bt_flags_unpack(struct cpu *c, uint16_t ax)
{
	flags_set_arith(c, ax >> 8 | (ax & 1 ? FLAG_OF : 0));
}

bool bt_step(struct cpu *c, struct bt_site *site)
{
	struct bt *bt = c->bt.owner;

	c->gpr[REG_PC] = c->bt.page + site->block_off;
	bt_flags_unpack(c, c->bt.flags);
	c->bt.next = false;
	site->slot[0].exec(c, &site->slot[0]);
	if (!c->bt.next) {
		bt->in_cpu = true;
		return false;
	}
	c->bt.flags = bt_flags_pack(c);
	return true;
}

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
	if (!mem_fill(c, lo, k->fill_write))
		return NULL;
	return (k->write ? e->wtag : e->rtag) == tlb_tag(&c->tlb, lo) ? k->retry : NULL;
}

void bt_rest(struct cpu *c, const struct bt_check *k)
{
	const struct insn *slot = &k->block->slot[k->slot];
	struct bt *bt = c->bt.owner;

	c->gpr[REG_PC] = c->bt.page + k->block_off;
	bt_flags_unpack(c, c->bt.flags);
	bt->in_cpu = true;
	slot->exec(c, slot);
}
