/*
 * x87 and MMX: the host's own instructions on the guest's registers, which are in the host's while
 * cpu->bt.x87_live is set. As with vector registers (vector.c) that is asked once in a unit. They
 * are loaded only while the guest masks all exceptions, so an instruction raises none, on the host
 * neither.
 *
 * The host's pointers to the last instruction and its operand would be those of host code. The
 * guest's are kept in struct cpu, where something that reads them may come before they change
 * again, and are put in place when the registers are saved.
 */
#include "src/engine/bt/translate.h"

static bool is_mmx_reg(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value >= ZYDIS_REGISTER_MM0 &&
	       o->reg.value <= ZYDIS_REGISTER_MM7;
}

bool tr_has_mmx(const struct tr_insn *in)
{
	for (unsigned n = 0; n < in->zi.operand_count; n++)
		if (is_mmx_reg(&in->op[n]))
			return true;
	return false;
}

/* --- pointers ------------------------------------------------------------------------------ */

/* Whether anything before instruction n + 1 or later, but before the pointers change, leaves. */
static bool pointers_matter(const struct tr *t, unsigned n, bool to_memory)
{
	while (++n < t->n) {
		const struct tr_insn *in = &t->in[n];

		if (!in->emit || in->checks || in->may_leave ||
		    in->zi.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
			return true;
		if (in->x87_data && (in->shape.mem || !to_memory))
			return false;
	}
	return true;
}

static void emit_pointers(struct tr *t, const struct tr_insn *in)
{
	uint8_t modrm = in->bytes[in->zi.raw.modrm.offset];
	uint32_t fop = (in->zi.opcode & 7) << 8 | modrm;
	unsigned n = in - t->in;
	struct emit *e = t->e;

	if (in->shape.mem && pointers_matter(t, n, true)) {
		tr_offset(t, in, &in->acc[0]);
		e_store(e, SCRATCH0, CPU_OFF(bt.x87_fdp));
	}
	if (!pointers_matter(t, n, false))
		return;
	if (!t->x87_paged) {
		e_load(e, SCRATCH0, CPU_OFF(bt.page));
		e_store(e, SCRATCH0, CPU_OFF(bt.x87_page));
		t->x87_paged = true;
	}
	e_code(e, 0x65, 0xc7); /* mov dword gs:[x87_ip], imm32 */
	e_field(e, 0, CPU_OFF(bt.x87_ip), 4);
	e32(e, fop << 12 | in->off);
}

/* --- emission ------------------------------------------------------------------------------ */

static void emit_data(struct tr *t, struct tr_insn *in)
{
	tr_rewrite(t, in);
	emit_pointers(t, in);
}

/* With no exception pending there is nothing to wait for. */
static void emit_wait(struct tr *t, struct tr_insn *in)
{
}

/* Through a copy, which nobody changes between the look at it and the load. */
static void emit_load_control(struct tr *t, struct tr_insn *in)
{
	struct emit *e = t->e;
	struct host_mem hm;

	tr_flags_clobber(t, in->live_in, SCRATCH0);
	hm = tr_operand(t, in, &in->acc[0], false);
	e_code(e, 0x44 | e_rex_mem(&hm), 0x0f, 0xb7); /* movzx r10d, word [mem] */
	e_modrm(e, SCRATCH0, &hm);
	e_store16(e, SCRATCH0, CPU_OFF(bt.x87_cw));
	e_code(e, 0x41, 0xf7, 0xd2);		     /* not r10d */
	e_code(e, 0x41, 0xf6, 0xc2, X87_EXCEPTIONS); /* test r10b, imm8 */
	t->slow[t->nslow++] = (struct tr_slow){
		.kind = SLOW_REST, .from = e_jcc(e, CC_NE), .at = in, .mem = t->flags_mem};
	e_code(e, 0x65, 0xd9); /* fldcw gs:[x87_cw] */
	e_field(e, 5, CPU_OFF(bt.x87_cw), 0);
}

/* --- planning ------------------------------------------------------------------------------ */

void tr_place_x87_check(struct tr *t)
{
	unsigned n = 0;

	while (!t->in[n].x87)
		n++;
	t->x87_at = tr_place_check(t, n);
	t->in[t->x87_at].checks = true;
	if (t->vec_level)
		t->in[t->vec_at].checks = true;
	for (unsigned g = 0; g < t->ngroups; g++)
		t->in[t->group[g].check_at].checks = true;
}

void tr_emit_x87_check(struct tr *t, struct tr_insn *at)
{
	struct emit *e = t->e;
	uint8_t *retry;

	tr_flags_clobber(t, at->live_in, SCRATCH0);
	retry = e->p;
	e_code(e, 0x65, 0x80); /* cmp byte gs:[live], 0 */
	e_field(e, 7, CPU_OFF(bt.x87_live), 1);
	e8(e, 0);
	t->slow[t->nslow++] = (struct tr_slow){.kind = SLOW_ENTER,
					       .from = e_jcc(e, CC_E),
					       .retry = retry,
					       .at = at,
					       .x87 = true,
					       .mem = t->flags_mem};
	/* Out of line SCRATCH1 is used. */
	t->addend = NO_GROUP;
}

bool tr_x87_behind(const struct tr *t, const struct tr_insn *in)
{
	while (++in < t->in + t->n)
		if (in->x87)
			return true;
	return false;
}

/* What it does besides computing, or all that it does, is the handler's business. */
static bool left_out(const struct tr_insn *in)
{
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_FNINIT:
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
	case ZYDIS_MNEMONIC_MASKMOVQ: return true;
	default: return false;
	}
}

/* MMX without a vector register; those with one are in vector.c. */
static bool is_mmx(const struct tr_insn *in)
{
	switch (in->zi.meta.isa_set) {
	case ZYDIS_ISA_SET_PENTIUMMMX:
	case ZYDIS_ISA_SET_SSE2MMX:
	case ZYDIS_ISA_SET_SSSE3MMX: return true;
	default: return false;
	}
}

static bool is_x87(const struct tr_insn *in)
{
	return in->zi.meta.isa_ext == ZYDIS_ISA_EXT_X87 || in->zi.mnemonic == ZYDIS_MNEMONIC_FISTTP;
}

/* As vec_encode_x87() has it: these leave the pointers alone. */
static void choose(struct tr_insn *in)
{
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_FWAIT: in->emit = emit_wait; return;
	case ZYDIS_MNEMONIC_FLDCW:
		in->emit = emit_load_control;
		in->may_leave = true;
		return;
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FNOP:
	case ZYDIS_MNEMONIC_FINCSTP:
	case ZYDIS_MNEMONIC_FDECSTP:
	case ZYDIS_MNEMONIC_FFREE:
	case ZYDIS_MNEMONIC_FFREEP: in->emit = tr_rewrite; return;
	default: in->emit = emit_data; in->x87_data = true;
	}
}

bool tr_plan_x87(struct tr *t, struct tr_insn *in)
{
	bool mmx = is_mmx(in);

	if ((!mmx && !is_x87(in)) || left_out(in) || !tr_shape(in))
		return false;
	if (mmx)
		in->emit = tr_rewrite;
	else
		choose(in);
	in->x87 = t->x87 = true;
	return true;
}
