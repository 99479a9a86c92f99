/* What compiled code calls: hand-over to the interpreter, and misses of the software TLB. */
#include "src/engine/bt/bt_int.h"

#include "src/engine/interp/ops.h"

uint16_t bt_flags_pack(const struct cpu *c)
{
	uint64_t f = flags_get(c);

	return (f & 0xff) << 8 | (f & FLAG_OF ? 1 : 0);
}

void bt_flags_unpack(struct cpu *c, uint16_t ax)
{
	flags_set_arith(c, ax >> 8 | (ax & 1 ? FLAG_OF : 0));
}

/* The highest level that the guest has enabled, and that raises no exception. */
static unsigned vec_level(const struct cpu *c)
{
	if ((c->cr0 & (CR0_PE | CR0_EM | CR0_TS)) != CR0_PE || !(c->cr4 & CR4_OSFXSR) ||
	    (c->vec.mxcsr & MXCSR_INIT) != MXCSR_INIT)
		return 0;
	return (c->cr4 & CR4_OSXSAVE) && (c->xcr0 & 6) == 6 ? BT_VEC_AVX : BT_VEC_SSE;
}

const uint8_t *bt_vec_enter(struct cpu *c, const struct bt_check *k)
{
	unsigned level = vec_level(c);

	if (level < k->vec_level)
		return NULL;
	c->bt.vec_was = level;
	return k->retry;
}

enum bt_step bt_step(struct cpu *c, struct bt_site *site)
{
	struct bt *bt = c->bt.owner;

	c->gpr[REG_PC] = c->bt.page + site->block_off;
	bt_flags_unpack(c, c->bt.flags);
	c->bt.next = false;
	site->slot[0].exec(c, &site->slot[0]);
	if (!c->bt.next) {
		bt->in_cpu = true;
		return BT_STEP_LEAVE;
	}
	if (c->bt.vec_was && vec_level(c) != c->bt.vec_was) {
		c->rip = c->gpr[REG_PC] + site->slot[0].off + site->slot[0].len;
		bt->in_cpu = true;
		return BT_STEP_LEAVE;
	}
	c->bt.flags = bt_flags_pack(c);
	return c->bt.vec_was ? BT_STEP_ON_VEC : BT_STEP_ON;
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
