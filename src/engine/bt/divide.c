/*
 * DIV and IDIV as themselves, where they surely raise no #DE; else the interpreter does the rest of
 * the block. Sure is what compilers emit: an unsigned high half below the divisor, or a dividend
 * that is the sign extension of its low half and a divisor other than 0 and -1.
 */
#include "src/engine/bt/translate.h"

/* op a, b on 32 or 64 bits: opcode with the register operand first. */
static void op_rr(struct tr *t, const struct tr_insn *in, uint8_t op, unsigned a, unsigned b)
{
	e_code(t->e, 0x40 | (in->zi.operand_width == 64) << 3 | (a >> 3) << 2 | b >> 3, op,
	       0xc0 | (a & 7) << 3 | (b & 7));
}

static unsigned load_divisor(struct tr *t, struct tr_insn *in)
{
	const struct reg_operand *rm = &in->shape.reg[AT_RM];
	struct host_mem hm;

	if (rm->present && !rm->in_memory)
		return rm->host;
	if (rm->present) {
		e_load(t->e, SCRATCH0, GPR_OFF(rm->guest));
		return SCRATCH0;
	}
	hm = tr_operand(t, in, &in->acc[0], false);
	e_code(t->e, 0x44 | (in->zi.operand_width == 64) << 3 | e_rex_mem(&hm), 0x8b);
	e_modrm(t->e, SCRATCH0, &hm);
	return SCRATCH0;
}

static void emit_divide(struct tr *t, struct tr_insn *in)
{
	bool is_signed = in->zi.mnemonic == ZYDIS_MNEMONIC_IDIV, w = in->zi.operand_width == 64;
	struct emit *e = t->e;
	unsigned d;

	tr_flags_clobber(t, in->live_in, SCRATCH0);
	d = load_divisor(t, in);
	t->addend = NO_GROUP;
	if (is_signed) {
		op_rr(t, in, 0x8b, SCRATCH1, H_RAX);
		e_code(e, w ? 0x49 : 0x41, 0xc1, 0xfb, w ? 63 : 31); /* sar r11, 63 */
		op_rr(t, in, 0x3b, SCRATCH1, H_RDX);
		tr_slow_if(t, in, SLOW_REST, CC_NE);
		/* lea r11, [d + 1]; cmp r11, 1 */
		e_code(e, (w ? 0x4c : 0x44) | d >> 3, 0x8d);
		e_modrm(e, SCRATCH1, &(struct host_mem){.base = d, .index = H_NONE, .disp = 1});
		e_code(e, w ? 0x49 : 0x41, 0x83, 0xfb, 1);
		tr_slow_if(t, in, SLOW_REST, CC_BE);
	} else {
		op_rr(t, in, 0x3b, H_RDX, d);
		tr_slow_if(t, in, SLOW_REST, CC_AE);
	}
	op_rr(t, in, 0xf7, is_signed ? 7 : 6, d);
}

bool tr_plan_divide(struct tr_insn *in)
{
	if ((in->zi.mnemonic != ZYDIS_MNEMONIC_DIV && in->zi.mnemonic != ZYDIS_MNEMONIC_IDIV) ||
	    in->zi.operand_width < 32 || in->op[0].size < 32 || !tr_shape(in))
		return false;
	in->emit = emit_divide;
	in->may_leave = true;
	return true;
}
