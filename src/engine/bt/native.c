/* Integer instructions that are emitted as themselves. Flags are the host's own. */
#include <stdlib.h>

#include "src/engine/bt/translate.h"

static bool known(const struct tr *t, const struct tr_insn *in)
{
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_CMPXCHG16B:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC: return true;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC: return true;
	case ZYDIS_MNEMONIC_POPCNT: return t->bt->stubs->isa.popcnt;
	case ZYDIS_MNEMONIC_ANDN:
	case ZYDIS_MNEMONIC_BEXTR:
	case ZYDIS_MNEMONIC_BLSI:
	case ZYDIS_MNEMONIC_BLSMSK:
	case ZYDIS_MNEMONIC_BLSR:
	case ZYDIS_MNEMONIC_TZCNT: return t->bt->stubs->isa.bmi1;
	case ZYDIS_MNEMONIC_BZHI:
	case ZYDIS_MNEMONIC_MULX:
	case ZYDIS_MNEMONIC_PDEP:
	case ZYDIS_MNEMONIC_PEXT:
	case ZYDIS_MNEMONIC_RORX:
	case ZYDIS_MNEMONIC_SARX:
	case ZYDIS_MNEMONIC_SHLX:
	case ZYDIS_MNEMONIC_SHRX: return t->bt->stubs->isa.bmi2;
	case ZYDIS_MNEMONIC_MOVBE: return t->bt->stubs->isa.movbe;
	case ZYDIS_MNEMONIC_CRC32: return t->bt->stubs->isa.sse42;
	case ZYDIS_MNEMONIC_ADCX:
	case ZYDIS_MNEMONIC_ADOX: return t->bt->stubs->isa.adx;
	case ZYDIS_MNEMONIC_LZCNT: return t->bt->stubs->isa.lzcnt;
	default:
		return in->zi.meta.category == ZYDIS_CATEGORY_CMOV ||
		       in->zi.meta.category == ZYDIS_CATEGORY_SETCC;
	}
}

static bool is_nop(const struct tr_insn *in)
{
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHW: return true;
	default: return false;
	}
}

/* LEA computes without access: through scratch where a register is in memory. */
static void emit_lea(struct tr *t, struct tr_insn *in)
{
	const ZydisDecodedOperandMem *m = &in->op[1].mem;
	unsigned guest = tr_gpr(in->op[0].reg.value), host = host_reg_of(guest);
	unsigned out = host == IN_MEMORY ? SCRATCH0 : host, index = H_NONE, base = SCRATCH0;
	int64_t disp = m->disp.value;
	unsigned held = tr_held(t);
	struct host_mem hm;

	if (m->base == ZYDIS_REGISTER_RIP) {
		tr_load_held(t, held = HELD_PAGE);
		disp += tr_next(in);
	} else if (m->base != ZYDIS_REGISTER_NONE) {
		base = host_reg_of(tr_gpr(m->base));
		if (base == IN_MEMORY) {
			base = SCRATCH0;
			tr_load_held(t, held = tr_gpr(m->base));
		}
	}
	if (m->index != ZYDIS_REGISTER_NONE)
		index = host_reg_of(tr_gpr(m->index));
	if (index == IN_MEMORY) {
		index = SCRATCH1;
		e_load(t->e, index, GPR_OFF(tr_gpr(m->index)));
		t->addend = NO_GROUP;
	}
	hm = (struct host_mem){.base = base, .index = index, .scale = tr_scale(m), .disp = disp};
	if (m->base == ZYDIS_REGISTER_NONE)
		hm.base = 0;
	/* A 32-bit result is the low half, zero-extended: REX.W off. */
	e_code(t->e, (in->zi.operand_width == 64 ? 0x48 : 0x40) | (out >> 3) << 2 | e_rex_mem(&hm),
	       0x8d);
	if (m->base == ZYDIS_REGISTER_NONE)
		e_modrm_no_base(t->e, out, &hm);
	else
		e_modrm(t->e, out, &hm);
	if (host == IN_MEMORY) {
		e_store(t->e, out, GPR_OFF(guest));
		held = guest;
	}
	tr_hold(t, held);
}

static bool plan_lea(struct tr_insn *in)
{
	const ZydisDecodedOperandMem *m = &in->op[1].mem;
	int64_t disp = m->disp.value + (m->base == ZYDIS_REGISTER_RIP ? tr_next(in) : 0);

	if (in->zi.address_width != 64 || in->zi.operand_width < 32 ||
	    (m->base == ZYDIS_REGISTER_NONE && m->index == ZYDIS_REGISTER_NONE) ||
	    disp != (int32_t)disp)
		return false;
	in->emit = emit_lea;
	return true;
}

/* ADD and SUB of a constant to RSP, if the flags are not read. */
static void emit_move_rsp(struct tr *t, struct tr_insn *in)
{
	int64_t by = in->op[1].imm.value.s;

	if (!in->live_out) {
		tr_move_rsp(t, in->zi.mnemonic == ZYDIS_MNEMONIC_ADD ? by : -by);
		return;
	}
	tr_settle_rsp(t);
	tr_rewrite(t, in);
}

static bool moves_rsp(const struct tr_insn *in)
{
	const ZydisDecodedOperand *o = in->op;
	ZydisMnemonic m = in->zi.mnemonic;

	return (m == ZYDIS_MNEMONIC_ADD || m == ZYDIS_MNEMONIC_SUB) && in->zi.operand_width == 64 &&
	       o[0].type == ZYDIS_OPERAND_TYPE_REGISTER && tr_gpr(o[0].reg.value) == RSP &&
	       o[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && llabs(o[1].imm.value.s) <= TR_MAX_MOVE;
}

/*
 * BT and its kind of a bit whose number is in a register. Numbers within the operand are the
 * processor's business, those of other operands of the string the handler's.
 */
static void emit_bit_string(struct tr *t, struct tr_insn *in)
{
	unsigned g = tr_gpr(in->op[1].reg.value), h = host_reg_of(g), w = in->op[0].size == 64;
	struct emit *e = t->e;
	struct tr_slow *s;

	tr_flags_clobber(t, in->live_in, SCRATCH0);
	if (h == IN_MEMORY) {
		e_code(e, 0x65, 0x40 | w << 3, 0x83); /* cmp gs:[gpr], imm8 */
		e_field(e, 7, GPR_OFF(g), 1);
	} else {
		e_code(e, 0x40 | w << 3 | h >> 3, 0x83, 0xf8 | (h & 7)); /* cmp reg, imm8 */
	}
	e8(e, in->op[0].size - 1);
	s = tr_slow_if(t, in, SLOW_STEP, CC_A);
	tr_flags_before(t, in);
	t->flags_mem = false;
	tr_rewrite(t, in);
	tr_slow_back(t, s);
}

static bool is_bit_string(const struct tr_insn *in)
{
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC: break;
	default: return false;
	}
	return in->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
	       in->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
}

static bool plan_bit_string(struct tr_insn *in)
{
	if (in->zi.operand_width < 32 || !tr_shape(in))
		return false;
	in->acc[0].unsure = true;
	in->emit = emit_bit_string;
	in->may_leave = true;
	return true;
}

static void emit_nothing(struct tr *t, struct tr_insn *in)
{
}

static void emit_copy(struct tr *t, struct tr_insn *in)
{
	ebytes(t->e, in->bytes, in->zi.length);
}

static bool is_fence(const struct tr_insn *in)
{
	return in->zi.mnemonic == ZYDIS_MNEMONIC_LFENCE ||
	       in->zi.mnemonic == ZYDIS_MNEMONIC_SFENCE || in->zi.mnemonic == ZYDIS_MNEMONIC_MFENCE;
}

bool tr_plan_native(struct tr *t, struct tr_insn *in)
{
	if (is_nop(in) || is_fence(in)) {
		in->emit = is_fence(in) ? emit_copy : emit_nothing;
		return true;
	}
	if (in->zi.mnemonic == ZYDIS_MNEMONIC_LEA)
		return plan_lea(in);
	if (is_bit_string(in))
		return plan_bit_string(in);
	if (tr_plan_divide(in))
		return true;
	if (!known(t, in) || !tr_shape(in))
		return false;
	if (in->zi.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B)
		in->acc[0].align = 16;
	in->rsp_behind = moves_rsp(in);
	in->emit = in->rsp_behind ? emit_move_rsp : tr_rewrite;
	return true;
}
