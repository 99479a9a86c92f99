/* What compiled code calls: hand-over to the interpreter, and misses of the software TLB. */
#include "src/engine/bt/bt_int.h"

#include "src/base/atomic.h"
#include "src/engine/interp/ops.h"
#include "src/x86/debug.h"

/* The highest level that the guest has enabled, and that raises no exception. */
static unsigned vec_level(const struct cpu *c)
{
	if ((c->cr0 & (CR0_PE | CR0_EM | CR0_TS)) != CR0_PE || !(c->cr4 & CR4_OSFXSR) ||
	    (c->vec.mxcsr & MXCSR_INIT) != MXCSR_INIT)
		return 0;
	return (c->cr4 & CR4_OSXSAVE) && (c->xcr0 & 6) == 6 ? BT_VEC_AVX : BT_VEC_SSE;
}

/* Whether x87 and MMX instructions raise no exception. */
static bool x87_usable(const struct cpu *c)
{
	uint16_t fcw, fsw;

	memcpy(&fcw, c->vec.fx + FX_FCW, 2);
	memcpy(&fsw, c->vec.fx + FX_FSW, 2);
	return !(c->cr0 & (CR0_EM | CR0_TS)) && (fcw & X87_EXCEPTIONS) == X87_EXCEPTIONS &&
	       !(fsw & FSW_ES);
}

const uint8_t *bt_vec_enter(struct cpu *c, const struct bt_check *k)
{
	unsigned level = vec_level(c);

	bt_of_code(c);
	if (level < k->vec_level || (k->x87 && !x87_usable(c)))
		return NULL;
	if (k->vec_level)
		c->bt.vec_was = level;
	c->bt.x87_was |= k->x87;
	return k->retry;
}

/*
 * After a handler that set cpu->rip: the code to go on with, if there is nothing to do before the
 * next instruction and it is compiled; else NULL, and the run loop takes over.
 */
static const void *next_code(struct bt *bt, struct cpu *c)
{
	const struct jump_entry *j;

	if (c->event || bt->redo || bt->counted || bt->stubs->single || debug_active(c) ||
	    (c->rflags & FLAG_TF) || atomic_load_relaxed(&c->bt.stack_limit) == ~0ull)
		return NULL;
	j = block_find_compiled(bt->bc, c->rip);
	if (!j)
		return NULL;
	c->rflags &= ~FLAG_RF;
	bt_enter_block(bt);
	return j->native;
}

/* State is in struct cpu: to leave with, or to go on with. */
static void handed_over(struct bt *bt, struct cpu *c)
{
	c->bt.other_place = !bt_same_place(bt);
	c->bt.go_on = next_code(bt, c);
	bt->in_cpu = !c->bt.go_on;
}

enum bt_step bt_step(struct cpu *c, struct bt_site *site)
{
	struct bt *bt = bt_of_code(c);
	uint64_t mmio = c->stats->mmio;

	c->gpr[REG_PC] = c->bt.page + site->block_off;
	bt_flags_unpack(c, c->bt.flags);
	c->bt.next = false;
	site->slot[0].exec(c, &site->slot[0]);
	if (site->unit)
		bt_note_by_hand(bt, site, c->stats->mmio != mmio);
	if (!c->bt.next) {
		handed_over(bt, c);
		return BT_STEP_LEAVE;
	}
	c->bt.x87_was &= site->x87;
	if ((c->bt.vec_was && vec_level(c) != c->bt.vec_was) || (c->bt.x87_was && !x87_usable(c))) {
		c->rip = c->gpr[REG_PC] + site->slot[0].off + site->slot[0].len;
		handed_over(bt, c);
		return BT_STEP_LEAVE;
	}
	c->bt.flags = bt_flags_pack(c);
	return BT_STEP_ON;
}

void bt_rest(struct cpu *c, const struct bt_check *k)
{
	struct bt *bt = bt_of_code(c);
	const struct insn *slot = &k->block->slot[k->slot];
	uint64_t mmio = c->stats->mmio;

	c->gpr[REG_PC] = c->bt.page + k->block_off;
	bt_flags_unpack(c, c->bt.flags);
	slot->exec(c, slot);
	if (bt->missed == k && c->stats->mmio != mmio)
		bt_note_device(bt, k);
	handed_over(bt, c);
}
