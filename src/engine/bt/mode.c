/*
 * Changes between user and kernel mode in compiled code. Called with the guest's vector registers in
 * the host's and the general ones that C functions may clobber in struct cpu; this and all it calls
 * use no vector registers.
 */
#include "src/engine/bt/bt_int.h"

#include "src/x86/syscall.h"

/* Where to go on at cpu->rip. */
static const void *target(struct cpu *c)
{
	struct bt *bt = c->bt.owner;
	const struct jump_entry *j;

	bt_enter_block(bt);
	j = block_jump_entry(bt->bc, c->rip);
	if (j->rip != c->rip || j->key != c->bt.key)
		j = block_jump_second(bt->bc, (struct jump_entry *)j);
	if (bt->single || j->rip != c->rip || j->key != c->bt.key || !j->block->native)
		return bt->mode_left;
	return j->block->far_native;
}

/* Whoever waits for a window must see it open: that is the run loop's business. */
static bool may_change(const struct cpu *c)
{
	return !c->event && (c->efer & EFER_SCE);
}

const void *bt_syscall(struct cpu *c, const struct bt_site *site)
{
	const struct insn *i = &site->slot[0];

	if (!may_change(c))
		return NULL;
	bt_flags_unpack(c, c->bt.flags);
	seg_syscall_long(c, c->bt.page + site->block_off + i->off + i->len, c->lstar);
	return target(c);
}

const void *bt_sysret(struct cpu *c, const struct bt_site *site)
{
	if (!may_change(c) || (c->gpr[R11] & FLAG_TF))
		return NULL;
	seg_sysret_long(c, true);
	return target(c);
}
