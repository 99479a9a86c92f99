/* Stack instructions, jumps, calls and returns. */
#include "src/engine/bt/translate.h"

static const ZydisDecodedOperandMem below_rsp = {
	.type = ZYDIS_MEMOP_TYPE_MEM, .base = ZYDIS_REGISTER_RSP, .disp = {.value = -8}};
static const ZydisDecodedOperandMem at_rsp = {.type = ZYDIS_MEMOP_TYPE_MEM,
					      .base = ZYDIS_REGISTER_RSP};
static const ZydisDecodedOperandMem at_rbp = {.type = ZYDIS_MEMOP_TYPE_MEM,
					      .base = ZYDIS_REGISTER_RBP};

static void add_access(struct tr_insn *in, const ZydisDecodedOperandMem *m, bool write)
{
	in->acc[in->naccs++] = (struct tr_access){.m = m, .len = 8, .write = write};
}

static void move_rsp(struct tr *t, int32_t by)
{
	e_lea(t->e, H_GUEST_RSP, H_GUEST_RSP, H_NONE, 0, by);
}

/* reg = linear address of an offset in the current page. */
static void page_address(struct emit *e, unsigned reg, int32_t off)
{
	e_load(e, reg, CPU_OFF(bt.page));
	e_lea(e, reg, reg, H_NONE, 0, off);
}

/* To the target in SCRATCH0; branch: the site of an indirect branch, or NULL. */
static void look_up(struct tr *t, struct bt_site *branch, bool flags_mem)
{
	struct tr_lookup *l = &t->lookup[t->nlookups++];

	l->branch = branch;
	bt_emit_lookup(t->bt->stubs, t->e, flags_mem, l->miss);
}

static void emit_lookup_misses(struct tr *t)
{
	struct emit *e = t->e;

	for (unsigned n = 0; n < t->nlookups && !e->full; n++) {
		struct tr_lookup *l = &t->lookup[n];

		bt_emit_second_lookup(t->bt->stubs, e, l->miss);
		e_mov_imm64(e, SCRATCH1, (uintptr_t)l->branch);
		e_jmp_to(e, t->bt->stubs->lookup_miss);
	}
}

static void add_far(struct tr *t, uint8_t *from, int64_t target, struct bt_site *branch)
{
	if (target != (int32_t)target || t->nfar == ARRAY_SIZE(t->far)) {
		t->failed = true;
		return;
	}
	t->far[t->nfar++] = (struct tr_far){
		.from = from, .target = target, .branch = branch, .mem = t->flags_mem};
}

/* Where a jump inside the page may be joined to its target, and elsewhere the target is looked up.
 */
static void add_exit(struct tr *t, uint8_t *from, int64_t target)
{
	if (target < 0 || target >= (int64_t)PAGE_SIZE)
		add_far(t, from, target, NULL);
	else
		t->exit[t->nexits++] =
			(struct tr_exit){.from = from, .target = target, .mem = t->flags_mem};
}

void tr_exit(struct tr *t, int64_t target, unsigned jcc)
{
	/* Other VCPUs may run the jump while it is patched. */
	e_align_displacement(t->e, jcc == TR_ALWAYS ? 1 : 2);
	add_exit(t, jcc == TR_ALWAYS ? e_jmp(t->e) : e_jcc(t->e, jcc), target);
}

void tr_emit_far(struct tr *t)
{
	for (unsigned n = 0; n < t->nfar && !t->e->full; n++) {
		const struct tr_far *f = &t->far[n];

		e_patch(f->from, t->e->p);
		if (f->branch)
			e_load(t->e, SCRATCH0, CPU_OFF(rip));
		else
			page_address(t->e, SCRATCH0, f->target);
		look_up(t, f->branch, f->mem);
	}
	emit_lookup_misses(t);
}

/* An indirect branch to a non-canonical address must fault itself: bt_run() finds out too late. */
static struct bt_site *branch_site(struct tr *t, const struct tr_insn *in, int32_t undo_rsp)
{
	struct bt_site *s = tr_site(t, in);

	s->undo_rsp = undo_rsp;
	return s;
}

/* --- stack --------------------------------------------------------------------------------- */

static void emit_push(struct tr *t, struct tr_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];
	struct host_mem hm = tr_operand(t, in, &in->acc[0], false);

	if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		e_code(t->e, 0x48 | e_rex_mem(&hm), 0xc7); /* mov qword [mem], imm32 */
		e_modrm(t->e, 0, &hm);
		e32(t->e, o->imm.value.s);
	} else {
		unsigned g = tr_gpr(o->reg.value), h = host_reg_of(g);

		if (h == IN_MEMORY) {
			h = SCRATCH0;
			e_load(t->e, h, GPR_OFF(g));
		}
		e_op_mem(t->e, 0x89, h, &hm);
	}
	move_rsp(t, -8);
}

static void emit_push_mem(struct tr *t, struct tr_insn *in)
{
	struct host_mem hm = tr_operand(t, in, &in->acc[0], false);

	e_op_mem(t->e, 0x8b, SCRATCH0, &hm);
	hm = tr_operand(t, in, &in->acc[1], false);
	e_op_mem(t->e, 0x89, SCRATCH0, &hm);
	move_rsp(t, -8);
}

static bool plan_push(struct tr_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];

	if (in->zi.operand_width != 64)
		return false;
	in->emit = emit_push;
	if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		if (!tr_can_address(in, &o->mem))
			return false;
		add_access(in, &o->mem, false);
		in->emit = emit_push_mem;
	} else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && tr_gpr(o->reg.value) < 0) {
		return false;
	}
	add_access(in, &below_rsp, true);
	return true;
}

static void emit_pop(struct tr *t, struct tr_insn *in)
{
	unsigned g = tr_gpr(in->op[0].reg.value), h = host_reg_of(g);
	struct host_mem hm = tr_operand(t, in, &in->acc[0], false);

	if (h == IN_MEMORY) {
		e_op_mem(t->e, 0x8b, SCRATCH0, &hm);
		e_store(t->e, SCRATCH0, GPR_OFF(g));
		move_rsp(t, 8);
	} else if (h == H_GUEST_RSP) {
		e_op_mem(t->e, 0x8b, h, &hm);
	} else {
		e_op_mem(t->e, 0x8b, h, &hm);
		move_rsp(t, 8);
	}
}

static bool plan_pop(struct tr_insn *in)
{
	if (in->zi.operand_width != 64 || in->op[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    tr_gpr(in->op[0].reg.value) < 0)
		return false;
	add_access(in, &at_rsp, false);
	in->emit = emit_pop;
	return true;
}

static void emit_leave(struct tr *t, struct tr_insn *in)
{
	struct host_mem hm = tr_operand(t, in, &in->acc[0], false);

	e_lea(t->e, H_GUEST_RSP, H_RBP, H_NONE, 0, 8);
	e_op_mem(t->e, 0x8b, H_RBP, &hm);
}

static bool plan_leave(struct tr_insn *in)
{
	if (in->zi.operand_width != 64)
		return false;
	add_access(in, &at_rbp, false);
	in->emit = emit_leave;
	return true;
}

/* --- branches ------------------------------------------------------------------------------ */

/* SCRATCH0 = the target of an indirect branch; acc[0] is its memory operand if it has one. */
static void load_target(struct tr *t, const struct tr_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];

	if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		struct host_mem hm = tr_operand(t, in, &in->acc[0], false);

		e_op_mem(t->e, 0x8b, SCRATCH0, &hm);
	} else {
		unsigned g = tr_gpr(o->reg.value);

		if (host_reg_of(g) == IN_MEMORY)
			e_load(t->e, SCRATCH0, GPR_OFF(g));
		else
			e_mov_rr(t->e, SCRATCH0, host_reg_of(g));
	}
}

/*
 * The return address goes to the guest's stack, and negated to ours with the host's return address
 * above it (emit_ret() has the other half). A return to here brings it in SCRATCH0. Flags go
 * through calls, returns and other indirect branches in cpu->bt.flags: there they are seldom read.
 */
static void emit_any_call(struct tr *t, struct tr_insn *in, const struct tr_access *stack,
			  bool indirect)
{
	int64_t next = tr_next(in);
	struct emit *e = t->e;
	struct host_mem hm;
	uint8_t *call;

	hm = tr_operand(t, in, stack, false);
	page_address(e, SCRATCH0, next);
	e_op_mem(e, 0x89, SCRATCH0, &hm);
	move_rsp(t, -8);
	e_code(e, 0x49, 0xf7, 0xd2); /* not r10 */
	e_lea(e, SCRATCH0, SCRATCH0, H_NONE, 0, 1);
	e_push(e, SCRATCH0);
	e_align_displacement(e, 1);
	call = e_call(e);
	if (indirect)
		add_far(t, call, 0, branch_site(t, in, 8));
	else
		add_exit(t, call, tr_target(in));
	e_lea(e, H_RSP, H_RSP, H_NONE, 0, 8);
	if (next < (int64_t)PAGE_SIZE) {
		e_lea(e, SCRATCH1, SCRATCH0, H_NONE, 0, -next);
		e_store(e, SCRATCH1, CPU_OFF(bt.page));
		tr_exit(t, next, TR_ALWAYS);
	} else {
		look_up(t, NULL, true);
	}
}

static void emit_call(struct tr *t, struct tr_insn *in)
{
	tr_flags_clobber(t, in->live_out, SCRATCH0);
	emit_any_call(t, in, &in->acc[0], false);
}

static void emit_call_ind(struct tr *t, struct tr_insn *in)
{
	tr_flags_clobber(t, in->live_out, SCRATCH0);
	load_target(t, in);
	/* Nobody reads cpu->rip before the branch is taken. */
	e_store(t->e, SCRATCH0, CPU_OFF(rip));
	emit_any_call(t, in, &in->acc[in->naccs - 1], true);
}

/* The memory operand of an indirect branch. */
static bool plan_target(struct tr_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];

	if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		if (!tr_can_address(in, &o->mem))
			return false;
		add_access(in, &o->mem, false);
		return true;
	}
	return tr_gpr(o->reg.value) >= 0;
}

static bool near64(const struct tr_insn *in)
{
	return in->zi.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR && in->zi.operand_width == 64;
}

static bool plan_call(struct tr *t, struct tr_insn *in)
{
	bool indirect = in->op[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE;

	if (!near64(in) || (indirect && !plan_target(in)))
		return false;
	add_access(in, &below_rsp, true);
	in->emit = indirect ? emit_call_ind : emit_call;
	in->ends = t->polls = true;
	return true;
}

static void emit_jump(struct tr *t, struct tr_insn *in)
{
	if (in->follow != FOLLOW_TARGET)
		tr_exit(t, tr_target(in), TR_ALWAYS);
}

static void emit_jump_ind(struct tr *t, struct tr_insn *in)
{
	tr_flags_clobber(t, in->live_out, SCRATCH0);
	load_target(t, in);
	look_up(t, branch_site(t, in, 0), true);
}

/* Whether a cycle may close by this jump without another that is noted. */
static bool may_close(const struct tr_insn *in)
{
	return tr_target(in) <= in->off || tr_target(in) >= (int64_t)PAGE_SIZE ||
	       tr_next(in) >= (int64_t)PAGE_SIZE;
}

static bool plan_jump(struct tr *t, struct tr_insn *in)
{
	if (!near64(in))
		return false;
	if (tr_is_jump(in)) {
		in->emit = emit_jump;
		t->polls |= may_close(in);
	} else {
		if (!plan_target(in))
			return false;
		in->emit = emit_jump_ind;
		t->polls = true;
	}
	in->ends = in->follow == FOLLOW_NOTHING;
	return true;
}

static void emit_ret(struct tr *t, struct tr_insn *in)
{
	int32_t release = 8 + (in->zi.operand_count_visible ? in->op[0].imm.value.u & 0xffff : 0);
	struct emit *e = t->e;
	struct host_mem hm;

	tr_flags_clobber(t, in->live_out, SCRATCH0);
	hm = tr_operand(t, in, &in->acc[0], false);
	e_op_mem(e, 0x8b, SCRATCH0, &hm);
	move_rsp(t, release);
	/*
	 * The address that our stack expects, negated, plus the real one. Across calls and returns
	 * the flags are in cpu->bt.flags.
	 */
	e_mov_rr(e, SCRATCH1, H_RCX);
	e_load_at(e, H_RCX, H_RSP, 8);
	e_lea(e, H_RCX, H_RCX, SCRATCH0, 0, 0);
	e_code(e, 0xe3, 18);	      /* jrcxz over the next three */
	e_mov_rr(e, H_RCX, SCRATCH1); /* 3 bytes */
	e_mov_imm64(e, SCRATCH1, (uintptr_t)branch_site(t, in, -release)); /* 10 */
	e_jmp_to(e, t->bt->stubs->ret_miss);				   /* 5 */
	e_mov_rr(e, H_RCX, SCRATCH1);
	e8(e, 0xc3);
}

static bool plan_ret(struct tr *t, struct tr_insn *in)
{
	if (!near64(in))
		return false;
	add_access(in, &at_rsp, false);
	in->emit = emit_ret;
	in->ends = t->polls = true;
	return true;
}

static void emit_jcc(struct tr *t, struct tr_insn *in)
{
	unsigned cc = in->zi.opcode & 15;

	switch (in->follow) {
	case FOLLOW_NEXT: tr_exit(t, tr_target(in), cc); break;
	case FOLLOW_TARGET: tr_exit(t, tr_next(in), cc ^ 1); break;
	case FOLLOW_NOTHING:
		tr_exit(t, tr_target(in), cc);
		tr_exit(t, tr_next(in), TR_ALWAYS);
		break;
	}
}

static bool plan_jcc(struct tr *t, struct tr_insn *in)
{
	if (!tr_is_jcc(in))
		return false;
	in->emit = emit_jcc;
	in->ends = in->follow == FOLLOW_NOTHING;
	t->polls |= may_close(in);
	return true;
}

bool tr_plan_control(struct tr *t, struct tr_insn *in)
{
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH: return plan_push(in);
	case ZYDIS_MNEMONIC_POP: return plan_pop(in);
	case ZYDIS_MNEMONIC_LEAVE: return plan_leave(in);
	case ZYDIS_MNEMONIC_CALL: return plan_call(t, in);
	case ZYDIS_MNEMONIC_JMP: return plan_jump(t, in);
	case ZYDIS_MNEMONIC_RET: return plan_ret(t, in);
	default: return in->zi.meta.category == ZYDIS_CATEGORY_COND_BR && plan_jcc(t, in);
	}
}
