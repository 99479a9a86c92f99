/*
 * REP MOVS and REP STOS whose bytes all lie in one page, or two: the host's own instruction, behind
 * a stub's look-ups. Whatever else they do is for the handler.
 */
#include "src/engine/bt/translate.h"

static void emit_string(struct tr *t, struct tr_insn *in)
{
	bool store = in->zi.opcode >= 0xaa;
	unsigned size = __builtin_ctz(in->zi.operand_width / 8);

	if (in->zi.opcode == 0xa4 || in->zi.opcode == 0xaa)
		size = 0;
	tr_flags_clobber(t, in->live_in, SCRATCH0);
	e_call_to(t->e, t->bt->stubs->string[t->ctx][store][size]);
	tr_slow_back(t, tr_slow_if(t, in, SLOW_STEP, CC_B));
}

/* MOVS reads from another segment if it is told to. */
static bool is_flat(const struct tr_insn *in)
{
	return !(in->zi.attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS));
}

bool tr_plan_string(struct tr *t, struct tr_insn *in)
{
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_MOVSB:
	case ZYDIS_MNEMONIC_MOVSW:
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_MOVSQ:
	case ZYDIS_MNEMONIC_STOSB:
	case ZYDIS_MNEMONIC_STOSW:
	case ZYDIS_MNEMONIC_STOSD:
	case ZYDIS_MNEMONIC_STOSQ: break;
	default: return false;
	}
	if (!(in->zi.attributes & ZYDIS_ATTRIB_HAS_REP) || in->zi.address_width != 64 ||
	    !is_flat(in) || t->ctx == TLB_ALIGN)
		return false;
	in->emit = emit_string;
	in->may_leave = in->flags_anywhere = true;
	return true;
}
