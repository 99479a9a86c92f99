/* How each instruction of a unit is going to be emitted. */
#include "src/engine/bt/translate.h"

#include "src/engine/interp/ops.h"

bool tr_is_jcc(const struct tr_insn *in)
{
	unsigned map = in->zi.opcode_map, op = in->zi.opcode;

	if (in->zi.meta.category != ZYDIS_CATEGORY_COND_BR || in->zi.operand_width != 64)
		return false;
	return (map == ZYDIS_OPCODE_MAP_DEFAULT && op >= 0x70 && op <= 0x7f) ||
	       (map == ZYDIS_OPCODE_MAP_0F && op >= 0x80 && op <= 0x8f);
}

static bool is_direct(const struct tr_insn *in, ZydisMnemonic m)
{
	return in->zi.mnemonic == m && in->zi.operand_width == 64 &&
	       in->zi.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR &&
	       in->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && in->op[0].imm.is_relative;
}

bool tr_is_jump(const struct tr_insn *in)
{
	return is_direct(in, ZYDIS_MNEMONIC_JMP);
}

bool tr_is_call(const struct tr_insn *in)
{
	return is_direct(in, ZYDIS_MNEMONIC_CALL);
}

void tr_plan(struct tr *t)
{
	for (unsigned n = 0; n < t->n; n++) {
		struct tr_insn *in = &t->in[n];

		in->emit = NULL;
		in->naccs = 0;
		in->ends = in->barrier = in->flags_anywhere = in->rsp_behind = false;
		in->x87 = in->x87_data = in->checks = in->may_leave = false;
		in->shape = (struct shape){0};
		if (!in->zi.length || tr_by_hand(t, n))
			continue;
		if (in->insn->exec == op_vector
			    ? !tr_plan_x87(t, in) && !tr_plan_vector(t, in)
			    : !tr_plan_control(t, in) && !tr_plan_native(t, in) &&
				      !tr_plan_string(t, in) && !tr_plan_segment(t, in) &&
				      !tr_plan_system(t, in)) {
			in->emit = NULL;
			in->naccs = 0;
		}
	}
}
