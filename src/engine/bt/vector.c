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

unsigned tr_place_check(const struct tr *t, unsigned n)
{
	for (unsigned k = n;; k--) {
		if (!t->in[k].live_in)
			return k;
		if (!k || t->in[k - 1].follow != FOLLOW_NOTHING)
			return n;
	}
}

void tr_place_vec_check(struct tr *t)
{
	unsigned n = 0;

	while (t->in[n].emit != emit_vector)
		n++;
	t->vec_at = tr_place_check(t, n);
}

void tr_emit_vec_check(struct tr *t, struct tr_insn *at)
{
	struct emit *e = t->e;
	uint8_t *retry;

	tr_flags_clobber(t, at->live_in, SCRATCH0);
	retry = e->p;
	t->slow[t->nslow++] = (struct tr_slow){.kind = SLOW_ENTER,
					       .from = bt_emit_vec_below(e, t->vec_level),
					       .retry = retry,
					       .at = at,
					       .vec_level = t->vec_level,
					       .mem = t->flags_mem};
	/* Out of line SCRATCH1 is used. */
	t->addend = NO_GROUP;
}

bool tr_plan_vector(struct tr *t, struct tr_insn *in)
{
	unsigned level = level_of(in);

	if (!level || left_out(in) || !tr_shape(in))
		return false;
	in->x87 = tr_has_mmx(in);
	t->x87 |= in->x87;
	if (in->shape.mem)
		in->acc[0].align = alignment(in);
	t->vec_level = MAX(t->vec_level, level);
	in->emit = emit_vector;
	return true;
}
