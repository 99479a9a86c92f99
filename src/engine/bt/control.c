/* Stack instructions, jumps, calls and returns. */
#include "src/engine/bt/translate.h"

static const ZydisDecodedOperandMem below_rsp = {
	.type = ZYDIS_MEMOP_TYPE_MEM, .base = ZYDIS_REGISTER_RSP, .disp = {.value = -8}};
static const ZydisDecodedOperandMem at_rsp = {.type = ZYDIS_MEMOP_TYPE_MEM,
					      .base = ZYDIS_REGISTER_RSP};
static const ZydisDecodedOperandMem at_rbp = {.type = ZYDIS_MEMOP_TYPE_MEM,
					      .base = ZYDIS_REGISTER_RBP};

static void move_rsp(struct tr *t, int32_t by)
{
	e_lea(t->e, H_GUEST_RSP, H_GUEST_RSP, H_RSP, 0, by);
}

/* reg = linear address of an offset in the current page. */
static void page_address(struct tr *t, unsigned reg, int32_t off)
{
	e_load(t->e, reg, CPU_OFF(bt.page));
	e_lea(t->e, reg, reg, H_RSP, 0, off);
}

static void look_up(struct tr *t, struct bt_site *branch)
{
	if (branch) {
		e_mov_imm64(t->e, SCRATCH1, (uintptr_t)branch);
	} else {
		e8(t->e, 0x41), e8(t->e, 0xbb), e32(t->e, 0); /* mov r11d, 0 */
	}
	e_jmp_to(t->e, t->bt->lookup);
}

/*
 * Leaves the block for an offset relative to its page. Inside the page the jump can be joined to
 * the target later: both are dropped together. Elsewhere the mapping may change, so the target is
 * looked up each time.
 */
void tr_exit(struct tr *t, int64_t target, unsigned jcc)
{
	if (target >= 0 && target < (int64_t)PAGE_SIZE) {
		t->exit[t->nexits].from = jcc == TR_ALWAYS ? e_jmp(t->e) : e_jcc(t->e, jcc);
		t->exit[t->nexits++].target = target;
	} else {
		uint8_t *skip = jcc == TR_ALWAYS ? NULL : e_jcc(t->e, jcc ^ 1);

		if (target != (int32_t)target)
			t->failed = true;
		page_address(t, SCRATCH0, target);
		look_up(t, NULL);
		if (skip && !t->e->full)
			e_patch(skip, t->e->p);
	}
}

static int64_t branch_target(const struct tr *t, const struct tr_insn *in)
{
	return (int64_t)t->page_off + in->off + in->zi.length + in->op[0].imm.value.s;
}

/* An indirect branch to a non-canonical address must fault itself: bt_run() finds out too late. */
static struct bt_site *branch_site(struct tr *t, const struct tr_insn *in, int32_t undo_rsp)
{
	struct bt_site *s = tr_site(t, in);

	s->undo_rsp = undo_rsp;
	return s;
}

static bool emit_push(struct tr *t, const struct tr_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];
	unsigned first = t->nslow;

	if (in->zi.operand_width != 64)
		return false;
	if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		tr_access(t, in, &below_rsp, 8, true);
		e8(t->e, 0x49), e8(t->e, 0xc7), e8(t->e, 0x02); /* mov qword [r10], imm32 */
		e32(t->e, o->imm.value.s);
	} else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && tr_gpr(o->reg.value) >= 0) {
		unsigned g = tr_gpr(o->reg.value), h = host_reg_of(g);

		tr_access(t, in, &below_rsp, 8, true);
		if (h == IN_MEMORY) {
			h = SCRATCH1;
			e_load(t->e, h, GPR_OFF(g));
		}
		e_op_mem(t->e, 0x89, h, SCRATCH0, 0);
	} else {
		return false;
	}
	move_rsp(t, -8);
	tr_resume_here(t, first);
	return true;
}

static bool emit_pop(struct tr *t, const struct tr_insn *in)
{
	unsigned first = t->nslow, h;
	int g;

	if (in->zi.operand_width != 64 || in->op[0].type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	g = tr_gpr(in->op[0].reg.value);
	if (g < 0)
		return false;
	tr_access(t, in, &at_rsp, 8, false);
	e_op_mem(t->e, 0x8b, SCRATCH1, SCRATCH0, 0);
	move_rsp(t, 8);
	h = host_reg_of(g);
	if (h == IN_MEMORY)
		e_store(t->e, SCRATCH1, GPR_OFF(g));
	else
		e_mov_rr(t->e, h, SCRATCH1);
	tr_resume_here(t, first);
	return true;
}

static bool emit_leave(struct tr *t, const struct tr_insn *in)
{
	unsigned first = t->nslow;

	if (in->zi.operand_width != 64)
		return false;
	tr_access(t, in, &at_rbp, 8, false);
	e_op_mem(t->e, 0x8b, SCRATCH1, SCRATCH0, 0);
	e_lea(t->e, H_GUEST_RSP, H_RBP, H_RSP, 0, 8);
	e_mov_rr(t->e, H_RBP, SCRATCH1);
	tr_resume_here(t, first);
	return true;
}

/*
 * The target of an indirect branch to cpu->rip: nobody reads that before the branch is taken, and
 * the handler of a slow path computes it anew.
 */
static bool load_target(struct tr *t, const struct tr_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];

	if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		if (!tr_can_address(t, in, &o->mem))
			return false;
		tr_access(t, in, &o->mem, 8, false);
		e_op_mem(t->e, 0x8b, SCRATCH0, SCRATCH0, 0);
	} else {
		int g = tr_gpr(o->reg.value);

		if (g < 0)
			return false;
		if (host_reg_of(g) == IN_MEMORY)
			e_load(t->e, SCRATCH0, GPR_OFF(g));
		else
			e_mov_rr(t->e, SCRATCH0, host_reg_of(g));
	}
	return true;
}

static void push_return_address(struct tr *t, const struct tr_insn *in)
{
	tr_access(t, in, &below_rsp, 8, true);
	page_address(t, SCRATCH1, t->page_off + in->off + in->zi.length);
	e_op_mem(t->e, 0x89, SCRATCH1, SCRATCH0, 0);
	move_rsp(t, -8);
}

static bool emit_call(struct tr *t, const struct tr_insn *in)
{
	unsigned first = t->nslow;

	if (in->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || in->zi.operand_width != 64)
		return false;
	if (in->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		push_return_address(t, in);
		tr_exit(t, branch_target(t, in), TR_ALWAYS);
	} else {
		if (!load_target(t, in))
			return false;
		e_store(t->e, SCRATCH0, CPU_OFF(rip));
		push_return_address(t, in);
		e_load(t->e, SCRATCH0, CPU_OFF(rip));
		look_up(t, branch_site(t, in, 8));
	}
	/* The handler of a slow path ends the block itself. */
	tr_resume_here(t, first);
	return true;
}

static bool emit_jmp(struct tr *t, const struct tr_insn *in)
{
	unsigned first = t->nslow;

	if (in->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || in->zi.operand_width != 64)
		return false;
	if (in->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		tr_exit(t, branch_target(t, in), TR_ALWAYS);
		return true;
	}
	if (!load_target(t, in))
		return false;
	look_up(t, branch_site(t, in, 0));
	tr_resume_here(t, first);
	return true;
}

static bool emit_ret(struct tr *t, const struct tr_insn *in)
{
	unsigned first = t->nslow;
	int32_t release = 8;

	if (in->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || in->zi.operand_width != 64)
		return false;
	if (in->zi.operand_count_visible)
		release += in->op[0].imm.value.u & 0xffff;
	tr_access(t, in, &at_rsp, 8, false);
	e_op_mem(t->e, 0x8b, SCRATCH0, SCRATCH0, 0);
	move_rsp(t, release);
	look_up(t, branch_site(t, in, -release));
	tr_resume_here(t, first);
	return true;
}

static bool emit_jcc(struct tr *t, const struct tr_insn *in)
{
	unsigned map = in->zi.opcode_map, op = in->zi.opcode;
	bool jcc = (map == ZYDIS_OPCODE_MAP_DEFAULT && op >= 0x70 && op <= 0x7f) ||
		   (map == ZYDIS_OPCODE_MAP_0F && op >= 0x80 && op <= 0x8f);

	if (!jcc || in->zi.operand_width != 64)
		return false;
	tr_exit(t, branch_target(t, in), op & 15);
	tr_exit(t, (int64_t)t->page_off + in->off + in->zi.length, TR_ALWAYS);
	return true;
}

bool tr_control(struct tr *t, const struct tr_insn *in)
{
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH: return emit_push(t, in);
	case ZYDIS_MNEMONIC_POP: return emit_pop(t, in);
	case ZYDIS_MNEMONIC_LEAVE: return emit_leave(t, in);
	case ZYDIS_MNEMONIC_CALL: return emit_call(t, in);
	case ZYDIS_MNEMONIC_JMP: return emit_jmp(t, in);
	case ZYDIS_MNEMONIC_RET: return emit_ret(t, in);
	default: return in->zi.meta.category == ZYDIS_CATEGORY_COND_BR && emit_jcc(t, in);
	}
}
