/*
 * Instructions as themselves: the guest's bytes with general registers renamed and the memory
 * operand replaced. Vector, MMX and x87 registers are the host's own, by the same numbers.
 */
#include "src/engine/bt/translate.h"

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

/* The destination keeps its value if the source is zero. */
static bool is_scan(const struct tr_insn *in)
{
	return in->zi.mnemonic == ZYDIS_MNEMONIC_BSF || in->zi.mnemonic == ZYDIS_MNEMONIC_BSR;
}

/* Number of a vector, MMX or x87 register, or -1. */
static int vector_reg(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_XMM0 && r <= ZYDIS_REGISTER_XMM15)
		return r - ZYDIS_REGISTER_XMM0;
	if (r >= ZYDIS_REGISTER_YMM0 && r <= ZYDIS_REGISTER_YMM15)
		return r - ZYDIS_REGISTER_YMM0;
	if (r >= ZYDIS_REGISTER_MM0 && r <= ZYDIS_REGISTER_MM7)
		return r - ZYDIS_REGISTER_MM0;
	if (r >= ZYDIS_REGISTER_ST0 && r <= ZYDIS_REGISTER_ST7)
		return r - ZYDIS_REGISTER_ST0;
	return -1;
}

static bool set_reg(struct tr_insn *in, enum shape_place place, const ZydisDecodedOperand *o)
{
	struct reg_operand *r = &in->shape.reg[place];
	ZydisRegister reg = o->reg.value;

	r->present = true;
	if (vector_reg(reg) >= 0) {
		r->host = vector_reg(reg);
		return true;
	}
	if (tr_gpr(reg) < 0)
		return false;
	r->guest = tr_gpr(reg);
	r->write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	/* A narrow or conditional result leaves some of the old value. */
	r->read = (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) || o->size < 32 || is_scan(in) ||
		  (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE);
	if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) {
		r->high8 = true;
		r->host = 4 + r->guest;
		return true;
	}
	r->host = host_reg_of(r->guest);
	r->in_memory = r->host == IN_MEMORY;
	if (o->size == 8 && !r->in_memory && r->host >= 4 && r->host < 8)
		in->shape.low8 = true;
	return true;
}

static bool set_mem(struct tr_insn *in, const ZydisDecodedOperand *o)
{
	if (in->shape.mem || o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
	    !tr_can_address(in, &o->mem) || o->size > 256 || !o->size)
		return false;
	in->shape.mem = true;
	in->acc[in->naccs++] = (struct tr_access){
		.m = &o->mem,
		.len = o->size / 8,
		.write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE,
	};
	return true;
}

static bool set_operand(struct tr_insn *in, const ZydisDecodedOperand *o)
{
	if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
		return set_mem(in, o);
	if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return true;
	switch (o->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG: return set_reg(in, AT_REG, o);
	case ZYDIS_OPERAND_ENCODING_MODRM_RM: return set_reg(in, AT_RM, o);
	case ZYDIS_OPERAND_ENCODING_OPCODE: return set_reg(in, AT_OPCODE, o);
	case ZYDIS_OPERAND_ENCODING_NDSNDD: return set_reg(in, AT_VVVV, o);
	default: return true;
	}
}

/* AH to BH cannot be named beside a REX prefix, which anything new needs. */
static bool high8_ok(const struct tr_insn *in)
{
	const struct shape *s = &in->shape;
	bool high8 = false, needs_rex = s->mem || s->low8 || in->zi.raw.rex.W;

	for (unsigned n = 0; n < SHAPE_PLACES; n++) {
		const struct reg_operand *r = &s->reg[n];

		high8 |= r->high8;
		needs_rex |= r->in_memory || (r->present && !r->high8 && r->host >= 8);
	}
	return !(high8 && needs_rex);
}

/* Gives registers that are in memory a scratch register each; false: too many. */
static bool assign_scratch(struct shape *s)
{
	unsigned used = 0, max = s->mem ? 1 : 2;

	for (unsigned n = 0; n < SHAPE_PLACES; n++) {
		struct reg_operand *r = &s->reg[n];

		if (!r->in_memory)
			continue;
		r->host = IN_MEMORY;
		for (unsigned k = 0; k < n; k++)
			if (s->reg[k].in_memory && s->reg[k].guest == r->guest)
				r->host = s->reg[k].host;
		if (r->host != IN_MEMORY)
			continue;
		if (used == max)
			return false;
		r->host = used++ ? SCRATCH1 : SCRATCH0;
	}
	return true;
}

bool tr_shape(struct tr_insn *in)
{
	const ZydisDecodedInstruction *zi = &in->zi;
	struct shape *s = &in->shape;

	if ((zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	     zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX) ||
	    zi->address_width != 64)
		return false;
	for (unsigned n = 0; n < zi->operand_count; n++)
		if (!set_operand(in, &in->op[n]))
			return false;
	while (is_prefix(in->bytes[s->prefixes]))
		s->prefixes++;
	s->opcode = s->prefixes;
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		s->opcode = zi->raw.vex.offset + zi->raw.vex.size;
	} else if ((in->bytes[s->opcode] & 0xf0) == 0x40) {
		s->opcode++;
		/* A prefix behind REX makes it void, as does another REX. */
		if (is_prefix(in->bytes[s->opcode]) || (in->bytes[s->opcode] & 0xf0) == 0x40)
			return false;
	}
	return high8_ok(in) && assign_scratch(s);
}

/* --- emission ------------------------------------------------------------------------------ */

static void fetch(struct tr *t, const struct shape *s)
{
	bool read[16] = {false};

	for (unsigned n = 0; n < SHAPE_PLACES; n++)
		if (s->reg[n].in_memory)
			read[s->reg[n].guest] |= s->reg[n].read;
	for (unsigned n = 0; n < SHAPE_PLACES; n++) {
		const struct reg_operand *r = &s->reg[n];

		if (!r->in_memory)
			continue;
		if (r->host == SCRATCH1)
			t->addend = NO_GROUP;
		if (read[r->guest] && r->host == SCRATCH0)
			tr_load_held(t, r->guest);
		else if (read[r->guest])
			e_load(t->e, r->host, GPR_OFF(r->guest));
		read[r->guest] = false;
	}
}

static void put_back(struct tr *t, const struct shape *s, unsigned held)
{
	for (unsigned n = 0; n < SHAPE_PLACES; n++) {
		const struct reg_operand *r = &s->reg[n];

		if (!r->in_memory)
			continue;
		if (r->write)
			e_store(t->e, r->host, GPR_OFF(r->guest));
		if (r->host == SCRATCH0)
			held = r->guest;
	}
	tr_hold(t, held);
}

/* REX.R, X and B. */
static unsigned rex_bits(const struct shape *s, const struct host_mem *hm)
{
	const struct reg_operand *reg = &s->reg[AT_REG], *rm = &s->reg[AT_RM],
				 *opc = &s->reg[AT_OPCODE];
	unsigned rex = 0;

	if (reg->present && !reg->high8)
		rex |= (reg->host >> 3) << 2;
	if (s->mem)
		rex |= e_rex_mem(hm);
	else if (rm->present && !rm->high8)
		rex |= rm->host >> 3;
	if (opc->present && !opc->high8)
		rex |= opc->host >> 3;
	return rex;
}

static void emit_prefixes(struct tr *t, const struct tr_insn *in, unsigned rex)
{
	const struct shape *s = &in->shape;
	struct emit *e = t->e;

	for (unsigned n = 0; n < s->prefixes; n++) {
		uint8_t b = in->bytes[n];

		if (b == 0x66 || b == 0xf2 || b == 0xf3 || b == 0xf0)
			e8(e, b);
	}
	if (in->zi.raw.rex.W)
		rex |= 8;
	if (rex || s->low8)
		e8(e, 0x40 | rex);
}

/* The three-byte form: W, vvvv, L and pp are in one byte of it. */
static void emit_vex(struct tr *t, const struct tr_insn *in, unsigned rex)
{
	const ZydisDecodedInstructionRawVex *v = &in->zi.raw.vex;
	const struct reg_operand *vvvv = &in->shape.reg[AT_VVVV];
	uint8_t last = in->bytes[v->offset + v->size - 1];

	if (v->size == 2)
		last &= 0x7f;
	if (vvvv->present)
		last = (last & 0x87) | (~vvvv->host & 15) << 3;
	e_code(t->e, 0xc4, (~rex & 7) << 5 | v->m_mmmm, last);
}

static void emit_bytes(struct tr *t, const struct tr_insn *in, const struct host_mem *hm)
{
	const ZydisDecodedInstruction *zi = &in->zi;
	const struct shape *s = &in->shape;
	const struct reg_operand *reg = &s->reg[AT_REG], *rm = &s->reg[AT_RM],
				 *opc = &s->reg[AT_OPCODE];
	bool has_modrm = zi->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	unsigned r = reg->present ? reg->host : zi->raw.modrm.reg;
	unsigned b = rm->present ? rm->host : zi->raw.modrm.rm;
	unsigned opc_end, rest;
	struct emit *e = t->e;

	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		emit_vex(t, in, rex_bits(s, hm));
	else
		emit_prefixes(t, in, rex_bits(s, hm));
	if (has_modrm) {
		opc_end = zi->raw.modrm.offset;
		rest = opc_end + 1;
		if (zi->raw.modrm.mod != 3 && zi->raw.modrm.rm == 4)
			rest++;
		rest += zi->raw.disp.size / 8;
	} else if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		opc_end = rest = s->opcode + 1;
	} else {
		opc_end = s->opcode + (zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? 1 : 2);
		rest = opc_end;
	}
	ebytes(e, in->bytes + s->opcode, opc_end - s->opcode);
	if (opc->present && !e->full)
		e->p[-1] = (e->p[-1] & ~7) | (opc->host & 7);
	if (has_modrm) {
		if (s->mem)
			e_modrm(e, r, hm);
		else
			e8(e, 0xc0 | (r & 7) << 3 | (b & 7));
	}
	ebytes(e, in->bytes + rest, zi->length - rest);
}

/* Whether a scratch register has an operand before the instruction, so that it takes no address. */
static bool reads_memory_register(const struct shape *s)
{
	for (unsigned n = 0; n < SHAPE_PLACES; n++)
		if (s->reg[n].in_memory && s->reg[n].read)
			return true;
	return false;
}

void tr_rewrite(struct tr *t, struct tr_insn *in)
{
	const struct shape *s = &in->shape;
	struct host_mem hm = {0};
	unsigned held;

	if (s->mem)
		hm = tr_operand(t, in, &in->acc[0], reads_memory_register(s));
	held = tr_held(t);
	fetch(t, s);
	emit_bytes(t, in, &hm);
	put_back(t, s, held);
}
