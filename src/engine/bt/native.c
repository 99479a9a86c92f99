/*
 * Integer instructions as themselves: the guest's bytes with registers renamed and the memory
 * operand replaced by [SCRATCH0]. Flags are the host's own.
 */
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
	case ZYDIS_MNEMONIC_BTC:
		/* A bit number in a register reaches beyond the operand. */
		return in->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER ||
		       in->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	case ZYDIS_MNEMONIC_POPCNT: return t->bt->isa.popcnt;
	case ZYDIS_MNEMONIC_TZCNT: return t->bt->isa.bmi1;
	case ZYDIS_MNEMONIC_LZCNT: return t->bt->isa.lzcnt;
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

/* The destination keeps its value if the source is zero. */
static bool is_scan(const struct tr_insn *in)
{
	return in->zi.mnemonic == ZYDIS_MNEMONIC_BSF || in->zi.mnemonic == ZYDIS_MNEMONIC_BSR;
}

static bool set_reg(struct tr_insn *in, struct reg_operand *r, const ZydisDecodedOperand *o)
{
	ZydisRegister reg = o->reg.value;
	struct shape *s = &in->shape;

	r->present = true;
	r->write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	/* A narrow or conditional result leaves some of the old value. */
	r->read = (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) || o->size < 32 || is_scan(in) ||
		  (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE);
	if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) {
		r->high8 = true;
		r->guest = reg - ZYDIS_REGISTER_AH;
		r->host = 4 + r->guest;
		return true;
	}
	if (tr_gpr(reg) < 0)
		return false;
	r->guest = tr_gpr(reg);
	r->host = host_reg_of(r->guest);
	r->in_memory = r->host == IN_MEMORY;
	if (o->size == 8 && !r->in_memory && r->host >= 4 && r->host < 8)
		s->low8 = true;
	return true;
}

static bool is_prefix(uint8_t b)
{
	switch (b) {
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x64:
	case 0x65:
	case 0x66:
	case 0x67:
	case 0xf0:
	case 0xf2:
	case 0xf3: return true;
	default: return false;
	}
}

/* Finds acc[0] and the register operands. False: not of a form that can be rewritten. */
static bool find_shape(struct tr_insn *in)
{
	const ZydisDecodedInstruction *zi = &in->zi;
	struct shape *s = &in->shape;

	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || zi->address_width != 64)
		return false;
	for (unsigned n = 0; n < zi->operand_count; n++) {
		const ZydisDecodedOperand *o = &in->op[n];
		bool ok = true;

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (s->mem || o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
			    !tr_can_address(in, &o->mem) || o->size > 64)
				return false;
			s->mem = true;
			in->acc[in->naccs++] = (struct tr_access){
				.m = &o->mem,
				.len = o->size / 8,
				.read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ,
				.write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE,
			};
		} else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
				ok = set_reg(in, &s->reg, o);
			else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
				ok = set_reg(in, &s->rm, o);
			else if (o->encoding == ZYDIS_OPERAND_ENCODING_OPCODE)
				ok = set_reg(in, &s->opc, o);
		}
		if (!ok)
			return false;
	}
	while (is_prefix(in->bytes[s->prefixes]))
		s->prefixes++;
	s->opcode = s->prefixes;
	if ((in->bytes[s->opcode] & 0xf0) == 0x40) {
		s->opcode++;
		/* A prefix behind REX makes it void. */
		if (is_prefix(in->bytes[s->opcode]))
			return false;
	}
	/* AH to BH cannot be named beside a REX prefix, and [r10 + r11] needs one. */
	if ((s->reg.high8 || s->rm.high8 || s->opc.high8) &&
	    (s->mem || s->reg.in_memory || s->rm.in_memory || s->low8 ||
	     (s->reg.present && !s->reg.high8 && s->reg.host >= 8) ||
	     (s->rm.present && !s->rm.high8 && s->rm.host >= 8) || zi->raw.rex.W))
		return false;
	return true;
}

static void fetch(struct tr *t, struct reg_operand *r, unsigned scratch)
{
	if (!r->present || !r->in_memory)
		return;
	r->host = scratch;
	if (scratch == SCRATCH1)
		t->addend = NO_GROUP;
	if (r->read)
		e_load(t->e, scratch, GPR_OFF(r->guest));
}

static void put_back(struct tr *t, const struct reg_operand *r)
{
	if (r->present && r->in_memory && r->write)
		e_store(t->e, r->host, GPR_OFF(r->guest));
}

static void emit_rewritten(struct tr *t, const struct tr_insn *in, const struct host_mem *hm)
{
	const ZydisDecodedInstruction *zi = &in->zi;
	const struct shape *s = &in->shape;
	struct emit *e = t->e;
	bool has_modrm = zi->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	unsigned reg = s->reg.present ? s->reg.host : zi->raw.modrm.reg;
	unsigned rm = s->rm.present ? s->rm.host : zi->raw.modrm.rm;
	unsigned opc_end, rest, rex = 0;

	for (unsigned n = 0; n < s->prefixes; n++) {
		uint8_t b = in->bytes[n];

		if (b == 0x66 || b == 0xf2 || b == 0xf3 || b == 0xf0)
			e8(e, b);
	}
	if (zi->raw.rex.W)
		rex |= 8;
	if (s->reg.present && !s->reg.high8)
		rex |= (reg >> 3) << 2;
	if (s->mem)
		rex |= e_rex_mem(hm);
	else if (s->rm.present && !s->rm.high8)
		rex |= rm >> 3;
	if (s->opc.present && !s->opc.high8)
		rex |= s->opc.host >> 3;
	if (rex || s->low8)
		e8(e, 0x40 | rex);
	if (has_modrm) {
		opc_end = zi->raw.modrm.offset;
		rest = opc_end + 1;
		if (zi->raw.modrm.mod != 3 && zi->raw.modrm.rm == 4)
			rest++;
		rest += zi->raw.disp.size / 8;
	} else {
		opc_end = s->opcode + (zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? 1 : 2);
		rest = opc_end;
	}
	ebytes(e, in->bytes + s->opcode, opc_end - s->opcode);
	if (s->opc.present && !e->full)
		e->p[-1] = (e->p[-1] & ~7) | (s->opc.host & 7);
	if (has_modrm) {
		if (s->mem)
			e_modrm(e, reg, hm);
		else
			e8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
	}
	ebytes(e, in->bytes + rest, zi->length - rest);
}

static void emit_native(struct tr *t, struct tr_insn *in)
{
	struct shape *s = &in->shape;
	struct host_mem hm = {0};

	if (s->mem) {
		hm = tr_operand(t, in, &in->acc[0], s->reg.in_memory);
		fetch(t, &s->reg, SCRATCH0);
	} else {
		fetch(t, &s->reg, SCRATCH0);
		/* One register in both places must be one host register. */
		if (s->rm.in_memory && s->reg.in_memory && s->rm.guest == s->reg.guest) {
			s->rm.host = SCRATCH0;
			if (!s->reg.read && s->rm.read)
				e_load(t->e, SCRATCH0, GPR_OFF(s->rm.guest));
		} else {
			fetch(t, &s->rm, SCRATCH1);
		}
		fetch(t, &s->opc, SCRATCH1);
	}
	emit_rewritten(t, in, &hm);
	put_back(t, &s->reg);
	put_back(t, &s->rm);
	put_back(t, &s->opc);
}

/* LEA computes without access: through scratch where a register is in memory. */
static void emit_lea(struct tr *t, struct tr_insn *in)
{
	const ZydisDecodedOperandMem *m = &in->op[1].mem;
	unsigned guest = tr_gpr(in->op[0].reg.value), host = host_reg_of(guest);
	unsigned out = host == IN_MEMORY ? SCRATCH0 : host, index = H_NONE, base = SCRATCH0;
	int64_t disp = m->disp.value;
	struct host_mem hm;

	if (m->base == ZYDIS_REGISTER_RIP) {
		e_load(t->e, SCRATCH0, CPU_OFF(bt.page));
		disp += tr_next(in);
	} else {
		base = host_reg_of(tr_gpr(m->base));
		if (base == IN_MEMORY) {
			base = SCRATCH0;
			e_load(t->e, base, GPR_OFF(tr_gpr(m->base)));
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
	/* A 32-bit result is the low half, zero-extended: REX.W off. */
	e_code(t->e, (in->zi.operand_width == 64 ? 0x48 : 0x40) | (out >> 3) << 2 | e_rex_mem(&hm),
	       0x8d);
	e_modrm(t->e, out, &hm);
	if (host == IN_MEMORY)
		e_store(t->e, out, GPR_OFF(guest));
}

static bool plan_lea(struct tr_insn *in)
{
	const ZydisDecodedOperandMem *m = &in->op[1].mem;
	int64_t disp = m->disp.value + (m->base == ZYDIS_REGISTER_RIP ? tr_next(in) : 0);

	if (in->zi.address_width != 64 || in->zi.operand_width < 32 ||
	    m->base == ZYDIS_REGISTER_NONE || disp != (int32_t)disp)
		return false;
	in->emit = emit_lea;
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
	if (!known(t, in) || !find_shape(in))
		return false;
	in->emit = emit_native;
	return true;
}
