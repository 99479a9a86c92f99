/*
 * SSE and AVX: the host's own instructions on the guest's registers, which are in the host's while
 * cpu->bt.vec_level says so. That is asked once in a unit, before the first instruction that needs
 * it; until the unit's end only a hand-over could change it, which leaves then. Registers of
 * a level that the guest has not enabled are never loaded, so the right #UD or #NM is raised by the
 * interpreter. Nor are they with an unmasked exception in MXCSR: the host never sees one.
 */
#include "src/engine/bt/translate.h"

#include "src/engine/interp/ops.h"

/* Their memory operand is not what they access, or they do more than compute. */
static bool left_out(const struct tr_insn *in)
{
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_FISTTP: /* x87, for all its feature bit */
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR: return true;
	default: return in->zi.meta.category == ZYDIS_CATEGORY_AVX2GATHER;
	}
}

/* What it needs to be enabled; 0: it is not of these. */
static unsigned level_of(const struct tr_insn *in)
{
	switch (in->zi.meta.isa_set) {
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSEMXCSR:
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSE4:
	case ZYDIS_ISA_SET_SSE42:
	case ZYDIS_ISA_SET_AES:
	case ZYDIS_ISA_SET_PCLMULQDQ:
	case ZYDIS_ISA_SET_SHA: return BT_VEC_SSE;
	case ZYDIS_ISA_SET_AVX:
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVXAES:
	case ZYDIS_ISA_SET_F16C:
	case ZYDIS_ISA_SET_FMA: return BT_VEC_AVX;
	default: return 0;
	}
}

static void emit_vector(struct tr *t, struct tr_insn *in)
{
	tr_rewrite(t, in);
}

/* The alignment that the processor demands of the memory operand. */
static unsigned alignment(const struct tr_insn *in)
{
	return (in->insn[1].flags & INSN_ALIGN) ? in->acc[0].len : 0;
}

static bool has_mmx(const struct tr_insn *in)
{
	for (unsigned n = 0; n < in->zi.operand_count; n++) {
		const ZydisDecodedOperand *o = &in->op[n];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    o->reg.value >= ZYDIS_REGISTER_MM0 && o->reg.value <= ZYDIS_REGISTER_MM7)
			return true;
	}
	return false;
}

void tr_place_vec_check(struct tr *t)
{
	unsigned n = 0, k;

	while (t->in[n].emit != emit_vector)
		n++;
	t->vec_at = n;
	for (k = n;; k--) {
		if (!t->in[k].live_in) {
			t->vec_at = k;
			return;
		}
		if (!k || t->in[k - 1].follow != FOLLOW_NOTHING)
			return;
	}
}

void tr_emit_vec_check(struct tr *t, struct tr_insn *at)
{
	struct emit *e = t->e;
	uint8_t *retry = e->p;
	bool live = at->live_in;

	if (live)
		emit_save_flags(e);
	e_code(e, 0x65, 0x80, 0x3c, 0x25); /* cmp byte gs:[level], imm8 */
	e32(e, CPU_OFF(bt.vec_level));
	e8(e, t->vec_level);
	t->slow[t->nslow++] = (struct tr_slow){
		.kind = SLOW_VEC, .from = e_jcc(e, CC_B), .retry = retry, .at = at, .flags_saved = live};
	if (live)
		emit_restore_flags(e);
	/* Out of line SCRATCH1 is used. */
	t->addend = NO_GROUP;
}

bool tr_plan_vector(struct tr *t, struct tr_insn *in)
{
	unsigned level = level_of(in);

	if (!level || left_out(in) || has_mmx(in) || !tr_shape(in))
		return false;
	if (in->shape.mem)
		in->acc[0].align = alignment(in);
	t->vec_level = MAX(t->vec_level, level);
	in->emit = emit_vector;
	return true;
}
