/* The code that every compiled block shares: entry, exit, handing over to the interpreter. */
#include "src/engine/bt/bt_int.h"

static void store_regs_but_rax(struct emit *e)
{
	for (unsigned g = RCX; g <= R15; g++)
		if (host_reg_of(g) != IN_MEMORY)
			e_store(e, host_reg_of(g), GPR_OFF(g));
}

/* All guest state to struct cpu; clobbers host RAX. */
static void spill(struct emit *e)
{
	e_store(e, H_RAX, GPR_OFF(RAX));
	e8(e, 0x9f);
	e8(e, 0x0f), e8(e, 0x90), e8(e, 0xc0);
	e_store16(e, H_RAX, CPU_OFF(bt.flags));
	store_regs_but_rax(e);
}

static void fill(struct emit *e)
{
	/* movzx eax, word gs:[flags] */
	e8(e, 0x65), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0x04), e8(e, 0x25);
	e32(e, CPU_OFF(bt.flags));
	e8(e, 0x04), e8(e, 0x7f);
	e8(e, 0x9e);
	for (unsigned g = RAX; g <= R15; g++)
		if (host_reg_of(g) != IN_MEMORY)
			e_load(e, host_reg_of(g), GPR_OFF(g));
}

static void push(struct emit *e, unsigned r)
{
	if (r >= 8)
		e8(e, 0x41);
	e8(e, 0x50 | (r & 7));
}

static void pop(struct emit *e, unsigned r)
{
	if (r >= 8)
		e8(e, 0x41);
	e8(e, 0x58 | (r & 7));
}

static const uint8_t callee_saved[] = {H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15};

/* void enter(void *native) */
static void emit_enter(struct bt *bt)
{
	struct emit *e = &bt->e;

	bt->enter = e->p;
	for (unsigned n = 0; n < ARRAY_SIZE(callee_saved); n++)
		push(e, callee_saved[n]);
	/* Seven words are on the stack: one more keeps it aligned to 16 for calls. */
	push(e, H_RDI);
	e_mov_rr(e, SCRATCH1, H_RDI);
	e_store(e, H_RSP, CPU_OFF(bt.host_rsp));
	fill(e);
	e8(e, 0x41), e8(e, 0xff), e8(e, 0xe3); /* jmp r11 */
}

/* Guest state is in struct cpu already. */
static void emit_return(struct emit *e)
{
	e_load(e, H_RSP, CPU_OFF(bt.host_rsp));
	pop(e, H_RDI);
	for (unsigned n = ARRAY_SIZE(callee_saved); n-- > 0;)
		pop(e, callee_saved[n]);
	e8(e, 0xc3);
}

/* Jumped to with cpu->rip set. */
static void emit_leave(struct bt *bt)
{
	bt->leave = bt->e.p;
	spill(&bt->e);
	emit_return(&bt->e);
}

/* Jumped to with cpu->rip set and the struct bt_exit in SCRATCH0. */
static void emit_chain(struct bt *bt)
{
	bt->chain = bt->e.p;
	e_store(&bt->e, SCRATCH0, CPU_OFF(bt.exit));
	e_jmp_to(&bt->e, bt->leave);
}

/* Called with the struct bt_site in SCRATCH0. */
static void emit_step(struct bt *bt)
{
	struct emit *e = &bt->e;
	uint8_t *done;

	bt->step = e->p;
	spill(e);
	e_load(e, H_RDI, CPU_OFF(bt.self));
	e_mov_rr(e, H_RSI, SCRATCH0);
	/* sub rsp, 8: the call that came here pushed 8 bytes */
	e8(e, 0x48), e8(e, 0x83), e8(e, 0xec), e8(e, 0x08);
	e_mov_imm64(e, H_RAX, (uintptr_t)bt_step);
	e8(e, 0xff), e8(e, 0xd0); /* call rax */
	e8(e, 0x84), e8(e, 0xc0); /* test al, al */
	done = e_jcc(e, CC_E);
	fill(e);
	/* lea rsp, [rsp + 8]; ret: flags stay */
	e8(e, 0x48), e8(e, 0x8d), e8(e, 0x64), e8(e, 0x24), e8(e, 0x08);
	e8(e, 0xc3);
	if (!e->full)
		e_patch(done, e->p);
	emit_return(e);
}

/*
 * Jumped to with the target address in SCRATCH0 and the branch's struct bt_site (NULL if it is
 * direct) in SCRATCH1: through the jump cache to its compiled block, or out. Guest flags are kept.
 */
static void emit_lookup(struct bt *bt)
{
	struct emit *e = &bt->e;
	uint8_t *miss[3];

	bt->lookup = e->p;
	e_store(e, SCRATCH0, CPU_OFF(rip));
	e_store(e, SCRATCH1, CPU_OFF(bt.branch));
	emit_save_flags(e);
	e_mov_rr(e, SCRATCH1, SCRATCH0);
	e8(e, 0x49), e8(e, 0xc1), e8(e, 0xeb), e8(e, 12);	       /* shr r11, 12 */
	e8(e, 0x4d), e8(e, 0x31), e8(e, 0xd3);			       /* xor r11, r10 */
	e_gs(e, true, 0x33, SCRATCH1, CPU_OFF(bt.salt));	       /* xor r11, salt */
	e8(e, 0x41), e8(e, 0x81), e8(e, 0xe3), e32(e, JUMP_CACHE - 1); /* and r11d, mask */
	e8(e, 0x49), e8(e, 0xc1), e8(e, 0xe3), e8(e, 5);	       /* shl r11, 5 */
	e_gs(e, true, 0x03, SCRATCH1, CPU_OFF(bt.jump));
	e_op_mem(e, 0x39, SCRATCH0, SCRATCH1, offsetof(struct jump_entry, rip));
	miss[0] = e_jcc(e, CC_NE);
	e_load(e, SCRATCH0, CPU_OFF(bt.key));
	e_op_mem(e, 0x39, SCRATCH0, SCRATCH1, offsetof(struct jump_entry, key));
	miss[1] = e_jcc(e, CC_NE);
	e_op_mem(e, 0x8b, SCRATCH1, SCRATCH1, offsetof(struct jump_entry, native));
	e8(e, 0x4d), e8(e, 0x85), e8(e, 0xdb); /* test r11, r11 */
	miss[2] = e_jcc(e, CC_E);
	e_load(e, SCRATCH0, CPU_OFF(rip));
	e8(e, 0x49), e8(e, 0x81), e8(e, 0xe2), e32(e, 0xfffff000u); /* and r10, ~0xfff */
	e_store(e, SCRATCH0, CPU_OFF(bt.page));
	emit_restore_flags(e);
	e8(e, 0x41), e8(e, 0xff), e8(e, 0xe3); /* jmp r11 */
	for (unsigned n = 0; n < 3; n++)
		if (!e->full)
			e_patch(miss[n], e->p);
	emit_restore_flags(e);
	e_jmp_to(e, bt->leave);
}

void bt_emit_stubs(struct bt *bt)
{
	emit_leave(bt);
	emit_chain(bt);
	emit_enter(bt);
	emit_step(bt);
	emit_lookup(bt);
}
