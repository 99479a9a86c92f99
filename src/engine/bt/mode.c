/*
 * Changes between user and kernel mode in compiled code, and targets that the jump cache has not.
 * Called with the guest's vector registers in the host's and the general ones that C functions may
 * clobber in struct cpu; this and all it calls use no vector registers.
 */
#include "src/engine/bt/bt_int.h"

#include "src/base/atomic.h"
#include "src/x86/exc.h"
#include "src/x86/iret.h"
#include "src/x86/syscall.h"

/*
 * Where to go on at cpu->rip with these arithmetic flags. While compiled code runs there are no
 * code breakpoints, so RF holds nothing off.
 */
static const void *target(struct bt *bt, uint64_t flags)
{
	struct cpu *c = bt->cpu;
	const struct jump_entry *j = NULL;

	mem_settle_code(c, c->rip);
	bt_enter_place(bt);
	c->bt.flags = bt_flags_word(flags);
	if (!bt->stubs->single && !block_branches_over(bt->bc))
		j = block_find_compiled(bt->bc, c->rip);
	if (!j)
		return e_exec(&bt->stubs->e, bt->stubs->mode_left);
	c->rflags &= ~FLAG_RF;
	return j->native;
}

const void *bt_find(struct cpu *c)
{
	struct bt *bt = bt_of_code(c);
	const struct jump_entry *j;

	if (bt->redo)
		return NULL;
	j = block_find_compiled(bt->bc, c->rip);
	if (!j || block_branches_over(bt->bc))
		return NULL;
	bt_enter_place(bt);
	return j->native;
}

/* Whoever waits for a window must see it open: that is the run loop's business. */
static bool may_change(const struct cpu *c)
{
	return !c->event && (c->efer & EFER_SCE);
}

/*
 * The returns that user code expects are kept below a barrier for the SYSRET or IRET. They lead to
 * code of this context.
 */
static void keep_returns(struct cpu *c)
{
	if (c->ctx != TLB_USER)
		c->bt.user_rsp = 0;
}

const void *bt_syscall(struct cpu *c, const struct bt_site *site)
{
	struct bt *bt = bt_of_code(c);
	const struct insn *i = &site->slot[0];
	uint64_t flags = c->rflags | FLAG_ONE | bt_flags_arith(c->bt.flags);

	if (!may_change(c))
		return NULL;
	keep_returns(c);
	flags = seg_syscall_long(c, c->bt.page + site->block_off + i->off + i->len, c->lstar,
				 flags);
	return target(bt, flags);
}

const void *bt_sysret(struct cpu *c, const struct bt_site *site)
{
	struct bt *bt = bt_of_code(c);

	if (!may_change(c) || (c->gpr[R11] & FLAG_TF))
		return NULL;
	seg_sysret_long(c, true);
	keep_returns(c);
	return target(bt, c->gpr[R11]);
}

const void *bt_iret(struct cpu *c, const struct bt_site *site)
{
	struct bt *bt = bt_of_code(c);
	uint64_t flags;

	/* To allow NMIs is an event. */
	if (c->event || c->nmi_blocked || !iret_quick(c, &flags))
		return NULL;
	keep_returns(c);
	return target(bt, flags);
}

const void *bt_fault(struct cpu *c, const struct bt_check *k, gva_t gva)
{
	struct bt *bt = bt_of_code(c);
	const struct bt_stubs *s = bt->stubs;
	uint64_t rip = c->bt.page + k->block_off + k->block->slot[k->slot].off;
	uint64_t flags = bt_flags_arith(c->bt.flags);
	bool user = c->cpl == 3;

	/* Handlers that fault for ever need not come to a unit that looks for requests. */
	if (!bt->deliver || c->event || atomic_load_relaxed(&c->bt.stack_limit) == ~0ull)
		return NULL;
	/* What CPL 1 and 2 expect of returns has no place. */
	if (c->cpl && !user)
		return NULL;
	if (!exc_quick_fault(c, gva, k->fill_write, rip, flags))
		return NULL;
	c->bt.go_on = target(bt, flags);
	return e_exec(&s->e, user ? s->fault_user : s->fault_kernel);
}
