/* Stack instructions, jumps, calls and returns; leave.c has where these lead. */
#include <stdlib.h>

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

void tr_move_rsp(struct tr *t, int32_t by)
{
	/* So little that displacements relative to it still fit. */
	if (abs(t->rsp_lag) > TR_MAX_MOVE)
		tr_settle_rsp(t);
	t->rsp_lag += by;
}

void tr_settle_rsp(struct tr *t)
{
	if (t->rsp_lag)
		move_rsp(t, t->rsp_lag);
	t->rsp_lag = 0;
}

/* Host operand of an access relative to RSP by an instruction that is rsp_behind. */
static struct host_mem stack_operand(struct tr *t, struct tr_insn *in, const struct tr_access *a)
{
	struct host_mem hm = tr_operand(t, in, a, false);

	hm.disp += t->rsp_lag;
	return hm;
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
	struct host_mem hm = stack_operand(t, in, &in->acc[0]);

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
	tr_move_rsp(t, -8);
}

static void emit_push_mem(struct tr *t, struct tr_insn *in)
{
	struct host_mem hm = tr_operand(t, in, &in->acc[0], false);

	e_op_mem(t->e, 0x8b, SCRATCH0, &hm);
	hm = tr_operand(t, in, &in->acc[1], false);
	e_op_mem(t->e, 0x89, SCRATCH0, &hm);
	move_rsp(t, -8);
}

static bool names_rsp(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && tr_gpr(o->reg.value) == RSP;
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
	in->rsp_behind = o->type != ZYDIS_OPERAND_TYPE_MEMORY && !names_rsp(o);
	add_access(in, &below_rsp, true);
	return true;
}

/* TF, RF and VM are 0 in compiled code. */
static void emit_pushf(struct tr *t, struct tr_insn *in)
{
	struct host_mem hm = tr_operand(t, in, &in->acc[0], false);
	struct emit *e = t->e;

	if (in->live_out)
		bt_emit_flags_save(e, SCRATCH0);
	e8(e, 0x9c); /* pushfq */
	e_pop(e, SCRATCH0);
	e_code(e, 0x41, 0x81, 0xe2), e32(e, ARITH_FLAGS); /* and r10d, imm32 */
	e_gs(e, false, 0x0b, SCRATCH0, CPU_OFF(rflags));  /* or r10d, gs:[rflags] */
	e_code(e, 0x41, 0x83, 0xca, FLAG_ONE);		  /* or r10d, imm8 */
	e_op_mem(e, 0x89, SCRATCH0, &hm);
	move_rsp(t, -8);
	t->flags_mem = in->live_out;
}

static bool plan_pushf(struct tr_insn *in)
{
	add_access(in, &below_rsp, true);
	in->emit = emit_pushf;
	return true;
}

static void emit_pop(struct tr *t, struct tr_insn *in)
{
	unsigned g = tr_gpr(in->op[0].reg.value), h = host_reg_of(g);
	struct host_mem hm = stack_operand(t, in, &in->acc[0]);

	if (h == IN_MEMORY) {
		e_op_mem(t->e, 0x8b, SCRATCH0, &hm);
		e_store(t->e, SCRATCH0, GPR_OFF(g));
	} else {
		e_op_mem(t->e, 0x8b, h, &hm);
	}
	if (h != H_GUEST_RSP)
		tr_move_rsp(t, 8);
}

static bool plan_pop(struct tr_insn *in)
{
	if (in->zi.operand_width != 64 || in->op[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    tr_gpr(in->op[0].reg.value) < 0)
		return false;
	add_access(in, &at_rsp, false);
	in->emit = emit_pop;
	in->rsp_behind = !names_rsp(&in->op[0]);
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
 * The return address goes to the guest's stack, and to ours with the host's return address above it
 * (emit_ret() has the other half). A return to here brings it in SCRATCH0. Flags go through calls,
 * returns and other indirect branches in cpu->bt.flags: there they are seldom read.
 */
static void emit_push_return(struct tr *t, struct tr_insn *in, const struct tr_access *stack)
{
	struct host_mem hm = tr_operand(t, in, stack, false);
	struct emit *e = t->e;

	tr_page_address(e, SCRATCH0, tr_next(in));
	e_op_mem(e, 0x89, SCRATCH0, &hm);
	move_rsp(t, -8);
	e_push(e, SCRATCH0);
}

static void emit_returned(struct tr *t, const struct tr_insn *in)
{
	int64_t next = tr_next(in);
	struct emit *e = t->e;

	e_lea(e, H_RSP, H_RSP, H_NONE, 0, 8);
	if (tr_in_page(next)) {
		e_lea(e, SCRATCH1, SCRATCH0, H_NONE, 0, -next);
		e_store(e, SCRATCH1, CPU_OFF(bt.page));
		tr_exit(t, next, TR_ALWAYS);
	} else {
		tr_look_up(t, NULL, true);
	}
}

static void emit_call(struct tr *t, struct tr_insn *in)
{
	tr_flags_clobber(t, in->live_out, SCRATCH0);
	emit_push_return(t, in, &in->acc[0]);
	tr_call(t, tr_target(in));
	/* A return brings flags there, whatever the call did. */
	t->flags_mem = true;
	emit_returned(t, in);
}

static void emit_call_ind(struct tr *t, struct tr_insn *in)
{
	tr_flags_clobber(t, in->live_out, SCRATCH0);
	load_target(t, in);
	/* Nobody reads cpu->rip before the branch is taken. */
	e_store(t->e, SCRATCH0, CPU_OFF(rip));
	emit_push_return(t, in, &in->acc[in->naccs - 1]);
	tr_call_looked_up(t, branch_site(t, in, 8));
	emit_returned(t, in);
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
	tr_look_up(t, branch_site(t, in, 0), true);
}

/*
 * Whether a cycle may close by this jump without another that is noted: one of direct jumps goes
 * back somewhere.
 */
static bool may_close(const struct tr_insn *in)
{
	return tr_target(in) <= in->off;
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
	hm = stack_operand(t, in, &in->acc[0]);
	e_op_mem(e, 0x8b, SCRATCH0, &hm);
	tr_move_rsp(t, release);
	tr_settle_rsp(t);
	/* cmp r10, [rsp + 8]: the address that our stack expects */
	e_op_mem(e, 0x3b, SCRATCH0, &(struct host_mem){.base = H_RSP, .index = H_NONE, .disp = 8});
	t->ret_from = e_jcc(e, CC_NE);
	t->ret_site = branch_site(t, in, -release);
	e8(e, 0xc3);
}

/* A cycle of expected returns has calls; the stub for others looks whether to leave. */
static bool plan_ret(struct tr_insn *in)
{
	if (!near64(in))
		return false;
	add_access(in, &at_rsp, false);
	in->emit = emit_ret;
	in->ends = in->rsp_behind = true;
	return true;
}

static void emit_jcc(struct tr *t, struct tr_insn *in)
{
	unsigned cc = in->zi.opcode & 15, held = tr_held(t);

	switch (in->follow) {
	case FOLLOW_NEXT: tr_exit(t, tr_target(in), cc); break;
	case FOLLOW_TARGET: tr_exit(t, tr_next(in), cc ^ 1); break;
	case FOLLOW_NOTHING:
		tr_exit(t, tr_target(in), cc);
		tr_exit(t, tr_next(in), TR_ALWAYS);
		break;
	}
	tr_hold(t, held);
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
	case ZYDIS_MNEMONIC_PUSHFQ: return plan_pushf(in);
	case ZYDIS_MNEMONIC_POP: return plan_pop(in);
	case ZYDIS_MNEMONIC_LEAVE: return plan_leave(in);
	case ZYDIS_MNEMONIC_CALL: return plan_call(t, in);
	case ZYDIS_MNEMONIC_JMP: return plan_jump(t, in);
	case ZYDIS_MNEMONIC_RET: return plan_ret(in);
	default: return in->zi.meta.category == ZYDIS_CATEGORY_COND_BR && plan_jcc(t, in);
	}
}
