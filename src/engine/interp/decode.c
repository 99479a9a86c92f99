#include "src/engine/interp/decode.h"

#include "src/base/log.h"
#include "src/engine/interp/ops_branch.h"
#include "src/engine/interp/ops_int.h"
#include "src/engine/interp/ops_string.h"
#include "src/engine/interp/ops_sys.h"
#include "src/x86/seg.h"
#include "src/x86/vec.h"

/* The instruction being decoded, and what Zydis said of it. */
struct dec {
	const ZydisDecodedInstruction *zi;
	const ZydisDecodedOperand *op;
	const uint8_t *bytes;
	struct cpu *cpu;
	struct insn *i;
	bool end; /* the block ends here */
};

void decoder_init(struct decoder *d)
{
	ZydisDecoderInit(&d->d16, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
	ZydisDecoderInit(&d->d32, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&d->d64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	/* The processor model is AMD's: near branches obey the operand-size prefix. */
	ZydisDecoderEnableMode(&d->d64, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
	/* Reserved encodings that became MPX, CET and the like are NOPs where those are absent. */
	ZydisDecoderEnableMode(&d->d16, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(&d->d32, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(&d->d64, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
}

static unsigned size_code(unsigned bits)
{
	switch (bits) {
	case 8: return 0;
	case 16: return 1;
	case 32: return 2;
	default: return 3;
	}
}

/* Byte offset in cpu->gpr of a general register of any width. */
static uint8_t gpr_offset(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
		return (r - ZYDIS_REGISTER_AL) * 8;
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return (r - ZYDIS_REGISTER_AH) * 8 + 1;
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_DIL)
		return (r - ZYDIS_REGISTER_SPL + RSP) * 8;
	if (r >= ZYDIS_REGISTER_R8B && r <= ZYDIS_REGISTER_R15B)
		return (r - ZYDIS_REGISTER_R8B + R8) * 8;
	if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
		return (r - ZYDIS_REGISTER_AX) * 8;
	if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
		return (r - ZYDIS_REGISTER_EAX) * 8;
	if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
		return (r - ZYDIS_REGISTER_RAX) * 8;
	return REG_ZERO * 8;
}

static enum seg_index seg_of(ZydisRegister r)
{
	switch (r) {
	case ZYDIS_REGISTER_ES: return SEG_ES;
	case ZYDIS_REGISTER_CS: return SEG_CS;
	case ZYDIS_REGISTER_SS: return SEG_SS;
	case ZYDIS_REGISTER_DS: return SEG_DS;
	case ZYDIS_REGISTER_FS: return SEG_FS;
	case ZYDIS_REGISTER_GS: return SEG_GS;
	default: return SEG_NONE;
	}
}

static bool is_mem(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY;
}

static bool is_reg(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER;
}

static void set_mem(struct dec *d, const ZydisDecodedOperand *o)
{
	struct insn *i = d->i;
	enum seg_index seg = seg_of(o->mem.segment);

	i->flags |= INSN_MEM;
	i->disp = o->mem.disp.value;
	i->base = gpr_offset(o->mem.base) / 8;
	i->index = gpr_offset(o->mem.index) / 8;
	i->scale = o->mem.scale == 8 ? 3 : o->mem.scale == 4 ? 2 : o->mem.scale == 2 ? 1 : 0;
	/* Zydis 4.0 takes R13D for the base where REX.B does not matter: there is only a
	 * displacement. */
	if (d->zi->address_width == 32 && d->zi->raw.modrm.mod == 0 && d->zi->raw.sib.offset &&
	    (d->zi->raw.sib.base & 7) == 5) {
		i->base = REG_ZERO;
		i->disp = d->zi->raw.disp.value;
	}
	if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP) {
		i->base = REG_PC;
		i->disp += i->off + i->len;
	}
	if (i->mode == 8) {
		i->seg = seg == SEG_FS || seg == SEG_GS ? seg : SEG_NONE;
		if (i->flags & INSN_ADDR32)
			i->flags |= INSN_EA_SLOW;
	} else {
		i->seg = seg;
		i->flags |= INSN_EA_SLOW;
	}
}

/* The r/m operand of one-operand instructions: register in both dst and src. */
static void set_rm(struct dec *d, const ZydisDecodedOperand *o)
{
	if (is_mem(o))
		set_mem(d, o);
	else
		d->i->dst = d->i->src = gpr_offset(o->reg.value);
	d->i->size = size_code(o->size);
}

static void set_dst(struct dec *d, const ZydisDecodedOperand *o)
{
	if (is_mem(o))
		set_mem(d, o);
	else
		d->i->dst = gpr_offset(o->reg.value);
	d->i->size = size_code(o->size);
}

static void set_src(struct dec *d, const ZydisDecodedOperand *o)
{
	if (is_mem(o))
		set_mem(d, o);
	else
		d->i->src = gpr_offset(o->reg.value);
}

static exec_fn *end_with(struct dec *d, exec_fn *fn)
{
	d->end = true;
	return fn;
}

/* Two-operand forms: sets dst, src, imm and the memory operand. */
static enum form set_operands(struct dec *d)
{
	const ZydisDecodedOperand *a = &d->op[0], *b = &d->op[1];

	d->i->size = size_code(a->size);
	if (b->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		d->i->imm = b->imm.value.u;
		set_dst(d, a);
		return is_mem(a) ? FORM_MI : FORM_RI;
	}
	set_dst(d, a);
	d->i->size = size_code(a->size);
	set_src(d, b);
	return is_mem(a) ? FORM_MR : is_mem(b) ? FORM_RM : FORM_RR;
}

static bool locked(const struct dec *d)
{
	return d->zi->attributes & ZYDIS_ATTRIB_HAS_LOCK;
}

static exec_fn *dec_alu(struct dec *d, enum alu_op op)
{
	enum form f = set_operands(d);

	if (locked(d)) {
		d->i->aux = op;
		if (f == FORM_MI)
			d->i->src = REG_ZERO * 8;
		return op_lock_alu;
	}
	return ops_alu(op, f, d->i->size);
}

static exec_fn *dec_unary(struct dec *d, unsigned n, exec_fn *plain)
{
	set_rm(d, &d->op[0]);
	d->i->aux = n;
	return locked(d) ? op_lock_unary : plain;
}

static exec_fn *dec_incdec(struct dec *d, unsigned n)
{
	bool mem = is_mem(&d->op[0]);

	return dec_unary(d, n, n == 0 ? mem ? op_inc : op_inc_r : mem ? op_dec : op_dec_r);
}

static exec_fn *dec_shift(struct dec *d, unsigned op)
{
	set_rm(d, &d->op[0]);
	d->i->aux = op;
	if (is_reg(&d->op[1]))
		return ops_shift_cl();
	d->i->imm = d->op[1].imm.value.u & (d->i->size == 3 ? 63 : 31);
	return ops_shift_imm(op, d->i->size, is_mem(&d->op[0]), d->i->imm);
}

static exec_fn *dec_double_shift(struct dec *d, exec_fn *fn)
{
	set_dst(d, &d->op[0]);
	d->i->src = gpr_offset(d->op[1].reg.value);
	d->i->aux = is_reg(&d->op[2]);
	if (!d->i->aux)
		d->i->imm = d->op[2].imm.value.u;
	return fn;
}

static exec_fn *dec_bt(struct dec *d, unsigned op)
{
	bool by_reg = is_reg(&d->op[1]);

	set_dst(d, &d->op[0]);
	d->i->aux = op;
	if (by_reg)
		d->i->src = gpr_offset(d->op[1].reg.value);
	else
		d->i->imm = d->op[1].imm.value.u;
	if (locked(d)) {
		if (!by_reg)
			d->i->src = REG_ZERO * 8;
		return op_lock_bt;
	}
	return by_reg ? op_bt_reg : op_bt;
}

static unsigned reg_number(const ZydisDecodedOperand *o)
{
	return ZydisRegisterGetId(o->reg.value);
}

static exec_fn *dec_mov(struct dec *d)
{
	const ZydisDecodedOperand *a = &d->op[0], *b = &d->op[1];
	ZydisRegisterClass ca = is_reg(a) ? ZydisRegisterGetClass(a->reg.value) : 0;
	ZydisRegisterClass cb = is_reg(b) ? ZydisRegisterGetClass(b->reg.value) : 0;
	struct insn *i = d->i;
	enum form form;

	if (ca == ZYDIS_REGCLASS_CONTROL || ca == ZYDIS_REGCLASS_DEBUG) {
		i->aux = reg_number(a);
		i->src = gpr_offset(b->reg.value);
		return end_with(d, ca == ZYDIS_REGCLASS_CONTROL ? op_mov_to_cr : op_mov_to_dr);
	}
	if (cb == ZYDIS_REGCLASS_CONTROL || cb == ZYDIS_REGCLASS_DEBUG) {
		i->aux = reg_number(b);
		i->dst = gpr_offset(a->reg.value);
		return cb == ZYDIS_REGCLASS_CONTROL ? op_mov_from_cr : op_mov_from_dr;
	}
	if (ca == ZYDIS_REGCLASS_SEGMENT) {
		i->aux = seg_of(a->reg.value);
		set_src(d, b);
		return i->aux == SEG_CS ? end_with(d, op_ud) : end_with(d, op_mov_to_seg);
	}
	if (cb == ZYDIS_REGCLASS_SEGMENT) {
		i->aux = seg_of(b->reg.value);
		set_dst(d, a);
		return op_mov_from_seg;
	}
	if (d->zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && d->zi->opcode >= 0xa0 &&
	    d->zi->opcode <= 0xa3) {
		const ZydisDecodedOperand *m = is_mem(a) ? a : b;
		enum seg_index seg = seg_of(m->mem.segment);

		i->size = size_code(a->size);
		i->imm = m->mem.disp.value;
		if (d->zi->address_width != 64)
			i->imm &= d->zi->address_width == 32 ? 0xffffffff : 0xffff;
		i->seg = i->mode == 8 && seg != SEG_FS && seg != SEG_GS ? SEG_NONE : seg;
		return is_mem(a) ? op_mov_moffs_store : op_mov_moffs_load;
	}
	form = set_operands(d);
	return ops_mov(form, i->size);
}

static exec_fn *dec_movx(struct dec *d, bool sign)
{
	unsigned from = size_code(d->op[1].size), to = size_code(d->op[0].size);

	set_operands(d);
	/* MOVSXD with a 16-bit destination reads 16 bits. */
	if (from > to)
		from = to;
	return ops_movx(sign, is_mem(&d->op[1]), from, to);
}

static exec_fn *dec_xchg(struct dec *d)
{
	const ZydisDecodedOperand *a = &d->op[0], *b = &d->op[1];

	if (is_mem(b)) {
		const ZydisDecodedOperand *t = a;

		a = b;
		b = t;
	}
	set_dst(d, a);
	d->i->src = gpr_offset(b->reg.value);
	return is_mem(a) ? op_xchg_mem : op_xchg_rr;
}

static exec_fn *dec_push(struct dec *d)
{
	const ZydisDecodedOperand *o = &d->op[0];
	struct insn *i = d->i;

	i->size = size_code(d->zi->operand_width);
	if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		i->imm = o->imm.value.u;
		return i->mode == 8 && i->size == 3 ? op_push_i64 : op_push_imm;
	}
	if (is_reg(o) && ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT) {
		i->aux = seg_of(o->reg.value);
		return op_push_seg;
	}
	set_rm(d, o);
	return is_reg(o) && i->mode == 8 && i->size == 3 ? op_push_r64 : op_push_rm;
}

static exec_fn *dec_pop(struct dec *d)
{
	const ZydisDecodedOperand *o = &d->op[0];
	struct insn *i = d->i;

	if (is_reg(o) && ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT) {
		i->size = size_code(d->zi->operand_width);
		i->aux = seg_of(o->reg.value);
		return end_with(d, op_pop_seg);
	}
	set_rm(d, o);
	return is_reg(o) && i->mode == 8 && i->size == 3 ? op_pop_r64 : op_pop_rm;
}

static exec_fn *dec_branch(struct dec *d, exec_fn *rel64, exec_fn *rel, exec_fn *ind,
			   exec_fn *far_imm, exec_fn *far_mem)
{
	const ZydisDecodedOperand *o = &d->op[0];
	struct insn *i = d->i;

	d->end = true;
	i->size = size_code(d->zi->operand_width);
	if (o->type == ZYDIS_OPERAND_TYPE_POINTER) {
		i->imm = o->ptr.offset;
		i->disp = o->ptr.segment;
		return far_imm;
	}
	if (d->zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
		set_mem(d, o);
		return far_mem;
	}
	if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		i->imm = o->imm.value.s;
		return i->mode == 8 && i->size == 3 ? rel64 : rel;
	}
	set_rm(d, o);
	return ind;
}

static exec_fn *dec_rel(struct dec *d, exec_fn *fn)
{
	d->end = true;
	d->i->size = size_code(d->zi->operand_width);
	d->i->imm = d->op[0].imm.value.s;
	return fn;
}

static exec_fn *dec_ret(struct dec *d)
{
	struct insn *i = d->i;

	d->end = true;
	i->size = size_code(d->zi->operand_width);
	if (d->zi->operand_count_visible)
		i->imm = d->op[0].imm.value.u & 0xffff;
	if (d->zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return op_ret_far;
	return i->mode == 8 && i->size == 3 ? op_ret64 : op_ret;
}

/* dst, vvvv, r/m (in the order of the operands given). */
static exec_fn *dec_vex3(struct dec *d, unsigned vvvv, unsigned rm, exec_fn *fn)
{
	d->i->dst = gpr_offset(d->op[0].reg.value);
	d->i->aux = gpr_offset(d->op[vvvv].reg.value);
	set_src(d, &d->op[rm]);
	d->i->size = size_code(d->op[0].size);
	return fn;
}

static exec_fn *dec_shiftx(struct dec *d, unsigned op)
{
	d->i->dst = gpr_offset(d->op[0].reg.value);
	set_src(d, &d->op[1]);
	d->i->size = size_code(d->op[0].size);
	d->i->aux = op | gpr_offset(d->op[2].reg.value) / 8 << 2;
	return op_shiftx;
}

static exec_fn *dec_bls(struct dec *d, exec_fn *fn)
{
	d->i->dst = gpr_offset(d->op[0].reg.value);
	set_src(d, &d->op[1]);
	d->i->size = size_code(d->op[0].size);
	return fn;
}

static exec_fn *dec_two(struct dec *d, exec_fn *fn)
{
	set_operands(d);
	return fn;
}

static exec_fn *dec_one(struct dec *d, exec_fn *fn)
{
	set_rm(d, &d->op[0]);
	return fn;
}

static exec_fn *dec_aux(struct dec *d, unsigned aux, exec_fn *fn)
{
	d->i->aux = aux;
	return fn;
}

static exec_fn *dec_io(struct dec *d, unsigned data, unsigned port, exec_fn *fn)
{
	d->end = true;
	d->i->size = size_code(d->op[data].size);
	d->i->aux = is_reg(&d->op[port]);
	if (!d->i->aux)
		d->i->imm = d->op[port].imm.value.u & 0xff;
	return fn;
}

static exec_fn *dec_string(struct dec *d)
{
	struct insn *i = d->i;
	bool legacy = i->mode != 8; /* 64-bit mode ignores the other segment prefixes */

	i->size = d->zi->opcode & 1 ? size_code(d->zi->operand_width) : 0;
	/* Port strings have no 64-bit form. */
	if (d->zi->opcode < 0x70 && i->size == 3)
		i->size = 2;
	i->seg = SEG_DS;
	for (unsigned n = 0; n < d->zi->raw.prefix_count; n++) {
		switch (d->zi->raw.prefixes[n].value) {
		case 0xf3: i->flags = (i->flags & ~INSN_REPNE) | INSN_REP; break;
		case 0xf2: i->flags = (i->flags & ~INSN_REP) | INSN_REPNE; break;
		case 0x26: i->seg = legacy ? SEG_ES : i->seg; break;
		case 0x2e: i->seg = legacy ? SEG_CS : i->seg; break;
		case 0x36: i->seg = legacy ? SEG_SS : i->seg; break;
		case 0x3e: i->seg = legacy ? SEG_DS : i->seg; break;
		case 0x64: i->seg = SEG_FS; break;
		case 0x65: i->seg = SEG_GS; break;
		}
	}
	switch (d->zi->opcode & ~1) {
	case 0x6c: return end_with(d, op_ins);
	case 0x6e: return end_with(d, op_outs);
	case 0xa4: return op_movs;
	case 0xa6: return op_cmps;
	case 0xaa: return op_stos;
	case 0xac: return op_lods;
	case 0xae: return op_scas;
	default: return NULL;
	}
}

/* Families that are told apart by opcode. NULL: not one of them. */
static exec_fn *dec_by_opcode(struct dec *d)
{
	const ZydisDecodedInstruction *zi = d->zi;
	uint8_t op = zi->opcode, cc = op & 15;

	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return NULL;
	if (zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT) {
		if ((op >= 0x6c && op <= 0x6f) || (op >= 0xa4 && op <= 0xa7) ||
		    (op >= 0xaa && op <= 0xaf))
			return dec_string(d);
		if (op >= 0x70 && op <= 0x7f)
			return dec_rel(d, ops_jcc(cc, zi->operand_width == 64 ? 8 : 4));
	} else if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F) {
		if (op >= 0x80 && op <= 0x8f)
			return dec_rel(d, ops_jcc(cc, zi->operand_width == 64 ? 8 : 4));
		if (op >= 0x90 && op <= 0x9f) {
			set_rm(d, &d->op[0]);
			return ops_setcc(cc, is_mem(&d->op[0]));
		}
		if (op >= 0x40 && op <= 0x4f) {
			set_operands(d);
			return ops_cmov(cc, is_mem(&d->op[1]), d->i->size);
		}
	}
	return NULL;
}

static exec_fn *dec_integer(struct dec *d)
{
	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_ADD: return dec_alu(d, ALU_ADD);
	case ZYDIS_MNEMONIC_OR: return dec_alu(d, ALU_OR);
	case ZYDIS_MNEMONIC_ADC: return dec_alu(d, ALU_ADC);
	case ZYDIS_MNEMONIC_SBB: return dec_alu(d, ALU_SBB);
	case ZYDIS_MNEMONIC_AND: return dec_alu(d, ALU_AND);
	case ZYDIS_MNEMONIC_SUB: return dec_alu(d, ALU_SUB);
	case ZYDIS_MNEMONIC_XOR: return dec_alu(d, ALU_XOR);
	case ZYDIS_MNEMONIC_CMP: return dec_alu(d, ALU_CMP);
	case ZYDIS_MNEMONIC_TEST: return dec_alu(d, ALU_TEST);
	case ZYDIS_MNEMONIC_INC: return dec_incdec(d, 0);
	case ZYDIS_MNEMONIC_DEC: return dec_incdec(d, 1);
	case ZYDIS_MNEMONIC_NOT: return dec_unary(d, 2, op_not);
	case ZYDIS_MNEMONIC_NEG: return dec_unary(d, 3, op_neg);
	case ZYDIS_MNEMONIC_ROL: return dec_shift(d, 0);
	case ZYDIS_MNEMONIC_ROR: return dec_shift(d, 1);
	case ZYDIS_MNEMONIC_RCL: return dec_shift(d, 2);
	case ZYDIS_MNEMONIC_RCR: return dec_shift(d, 3);
	case ZYDIS_MNEMONIC_SHL: return dec_shift(d, 4);
	case ZYDIS_MNEMONIC_SHR: return dec_shift(d, 5);
	case ZYDIS_MNEMONIC_SAR: return dec_shift(d, 7);
	case ZYDIS_MNEMONIC_SHLD: return dec_double_shift(d, op_shld);
	case ZYDIS_MNEMONIC_SHRD: return dec_double_shift(d, op_shrd);
	case ZYDIS_MNEMONIC_BT: return dec_bt(d, 0);
	case ZYDIS_MNEMONIC_BTS: return dec_bt(d, 1);
	case ZYDIS_MNEMONIC_BTR: return dec_bt(d, 2);
	case ZYDIS_MNEMONIC_BTC: return dec_bt(d, 3);
	case ZYDIS_MNEMONIC_MOV: return dec_mov(d);
	case ZYDIS_MNEMONIC_MOVZX: return dec_movx(d, false);
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD: return dec_movx(d, true);
	case ZYDIS_MNEMONIC_LEA: return dec_two(d, op_lea);
	case ZYDIS_MNEMONIC_XCHG: return dec_xchg(d);
	case ZYDIS_MNEMONIC_XADD: return dec_two(d, op_xadd);
	case ZYDIS_MNEMONIC_CMPXCHG: return dec_two(d, op_cmpxchg);
	case ZYDIS_MNEMONIC_CMPXCHG8B: return dec_one(d, op_cmpxchg8b);
	case ZYDIS_MNEMONIC_CMPXCHG16B: return dec_one(d, op_cmpxchg16b);
	case ZYDIS_MNEMONIC_MUL: return dec_one(d, op_mul);
	case ZYDIS_MNEMONIC_IMUL:
		if (d->zi->operand_count_visible == 1)
			return dec_one(d, op_imul1);
		d->i->dst = gpr_offset(d->op[0].reg.value);
		d->i->size = size_code(d->op[0].size);
		set_src(d, &d->op[1]);
		if (d->zi->operand_count_visible == 2)
			return op_imul2;
		d->i->imm = d->op[2].imm.value.s;
		return op_imul3;
	case ZYDIS_MNEMONIC_DIV: return dec_one(d, op_div);
	case ZYDIS_MNEMONIC_IDIV: return dec_one(d, op_idiv);
	case ZYDIS_MNEMONIC_CBW: d->i->size = 1; return op_cbw;
	case ZYDIS_MNEMONIC_CWDE: d->i->size = 2; return op_cbw;
	case ZYDIS_MNEMONIC_CDQE: d->i->size = 3; return op_cbw;
	case ZYDIS_MNEMONIC_CWD: d->i->size = 1; return op_cwd;
	case ZYDIS_MNEMONIC_CDQ: d->i->size = 2; return op_cwd;
	case ZYDIS_MNEMONIC_CQO: d->i->size = 3; return op_cwd;
	case ZYDIS_MNEMONIC_BSWAP: return dec_one(d, op_bswap);
	case ZYDIS_MNEMONIC_BSF: return dec_two(d, op_bsf);
	case ZYDIS_MNEMONIC_BSR: return dec_two(d, op_bsr);
	case ZYDIS_MNEMONIC_TZCNT: return dec_two(d, op_tzcnt);
	case ZYDIS_MNEMONIC_LZCNT: return dec_two(d, op_lzcnt);
	case ZYDIS_MNEMONIC_POPCNT: return dec_two(d, op_popcnt);
	case ZYDIS_MNEMONIC_MOVBE:
		return dec_two(d, is_mem(&d->op[0]) ? op_movbe_store : op_movbe_load);
	case ZYDIS_MNEMONIC_CRC32:
		set_operands(d);
		d->i->size = size_code(d->op[1].size);
		return op_crc32;
	case ZYDIS_MNEMONIC_ADCX: return dec_two(d, op_adcx);
	case ZYDIS_MNEMONIC_ADOX: return dec_two(d, op_adox);
	case ZYDIS_MNEMONIC_ANDN: return dec_vex3(d, 1, 2, op_andn);
	case ZYDIS_MNEMONIC_BEXTR: return dec_vex3(d, 2, 1, op_bextr);
	case ZYDIS_MNEMONIC_BZHI: return dec_vex3(d, 2, 1, op_bzhi);
	case ZYDIS_MNEMONIC_PDEP: return dec_vex3(d, 1, 2, op_pdep);
	case ZYDIS_MNEMONIC_PEXT: return dec_vex3(d, 1, 2, op_pext);
	case ZYDIS_MNEMONIC_MULX: return dec_vex3(d, 1, 2, op_mulx);
	case ZYDIS_MNEMONIC_BLSI: return dec_bls(d, op_blsi);
	case ZYDIS_MNEMONIC_BLSMSK: return dec_bls(d, op_blsmsk);
	case ZYDIS_MNEMONIC_BLSR: return dec_bls(d, op_blsr);
	case ZYDIS_MNEMONIC_SARX: return dec_shiftx(d, 0);
	case ZYDIS_MNEMONIC_SHLX: return dec_shiftx(d, 1);
	case ZYDIS_MNEMONIC_SHRX: return dec_shiftx(d, 2);
	case ZYDIS_MNEMONIC_RORX: d->i->imm = d->op[2].imm.value.u; return dec_bls(d, op_rorx);
	case ZYDIS_MNEMONIC_DAA: return op_daa;
	case ZYDIS_MNEMONIC_DAS: return op_das;
	case ZYDIS_MNEMONIC_AAA: return op_aaa;
	case ZYDIS_MNEMONIC_AAS: return op_aas;
	case ZYDIS_MNEMONIC_AAM: d->i->imm = d->op[0].imm.value.u; return op_aam;
	case ZYDIS_MNEMONIC_AAD: d->i->imm = d->op[0].imm.value.u; return op_aad;
	case ZYDIS_MNEMONIC_SALC: return op_salc;
	case ZYDIS_MNEMONIC_LAHF: return op_lahf;
	case ZYDIS_MNEMONIC_SAHF: return op_sahf;
	case ZYDIS_MNEMONIC_CLC: return dec_aux(d, 0, op_flag);
	case ZYDIS_MNEMONIC_STC: return dec_aux(d, 1, op_flag);
	case ZYDIS_MNEMONIC_CMC: return dec_aux(d, 2, op_flag);
	case ZYDIS_MNEMONIC_CLD: return dec_aux(d, 3, op_flag);
	case ZYDIS_MNEMONIC_STD: return dec_aux(d, 4, op_flag);
	case ZYDIS_MNEMONIC_XLAT: {
		enum seg_index seg = d->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY
					     ? seg_of(d->op[0].mem.segment)
					     : seg_of(d->op[1].mem.segment);

		d->i->seg = d->i->mode == 8 && seg != SEG_FS && seg != SEG_GS ? SEG_NONE : seg;
		return op_xlat;
	}
	default: return NULL;
	}
}

static exec_fn *dec_control(struct dec *d)
{
	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		return dec_branch(d, op_jmp64, op_jmp, op_jmp_ind, op_jmp_far_imm, op_jmp_far_mem);
	case ZYDIS_MNEMONIC_CALL:
		return dec_branch(d, op_call64, op_call, op_call_ind, op_call_far_imm,
				  op_call_far_mem);
	case ZYDIS_MNEMONIC_RET: return dec_ret(d);
	case ZYDIS_MNEMONIC_JCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ: return dec_rel(d, op_jcxz);
	case ZYDIS_MNEMONIC_LOOP: d->i->aux = 0; return dec_rel(d, op_loop);
	case ZYDIS_MNEMONIC_LOOPE: d->i->aux = 1; return dec_rel(d, op_loop);
	case ZYDIS_MNEMONIC_LOOPNE: d->i->aux = 2; return dec_rel(d, op_loop);
	case ZYDIS_MNEMONIC_PUSH: return dec_push(d);
	case ZYDIS_MNEMONIC_POP: return dec_pop(d);
	case ZYDIS_MNEMONIC_PUSHA: d->i->size = 1; return op_pusha;
	case ZYDIS_MNEMONIC_PUSHAD: d->i->size = 2; return op_pusha;
	case ZYDIS_MNEMONIC_POPA: d->i->size = 1; return op_popa;
	case ZYDIS_MNEMONIC_POPAD: d->i->size = 2; return op_popa;
	case ZYDIS_MNEMONIC_ENTER:
		d->i->size = size_code(d->zi->operand_width);
		d->i->imm = d->op[0].imm.value.u & 0xffff;
		d->i->aux = d->op[1].imm.value.u;
		return op_enter;
	case ZYDIS_MNEMONIC_LEAVE:
		d->i->size = size_code(d->zi->operand_width);
		return d->i->mode == 8 && d->i->size == 3 ? op_leave64 : op_leave;
	case ZYDIS_MNEMONIC_PUSHF: d->i->size = 1; return op_pushf;
	case ZYDIS_MNEMONIC_PUSHFD: d->i->size = 2; return op_pushf;
	case ZYDIS_MNEMONIC_PUSHFQ: d->i->size = 3; return op_pushf;
	case ZYDIS_MNEMONIC_POPF: d->i->size = 1; return end_with(d, op_popf);
	case ZYDIS_MNEMONIC_POPFD: d->i->size = 2; return end_with(d, op_popf);
	case ZYDIS_MNEMONIC_POPFQ: d->i->size = 3; return end_with(d, op_popf);
	case ZYDIS_MNEMONIC_INT:
		d->i->imm = d->op[0].imm.value.u & 0xff;
		return end_with(d, op_int);
	case ZYDIS_MNEMONIC_INT3: return end_with(d, op_int3);
	case ZYDIS_MNEMONIC_INT1: return end_with(d, op_int1);
	case ZYDIS_MNEMONIC_INTO: return end_with(d, op_into);
	case ZYDIS_MNEMONIC_BOUND: return dec_two(d, op_bound);
	case ZYDIS_MNEMONIC_IRET: d->i->size = 1; return end_with(d, op_iret);
	case ZYDIS_MNEMONIC_IRETD: d->i->size = 2; return end_with(d, op_iret);
	case ZYDIS_MNEMONIC_IRETQ: d->i->size = 3; return end_with(d, op_iret);
	case ZYDIS_MNEMONIC_SYSCALL: return end_with(d, op_syscall);
	case ZYDIS_MNEMONIC_SYSRET:
		d->i->size = size_code(d->zi->operand_width);
		return end_with(d, op_sysret);
	case ZYDIS_MNEMONIC_SYSENTER: return end_with(d, op_sysenter);
	case ZYDIS_MNEMONIC_SYSEXIT: return end_with(d, op_sysexit);
	case ZYDIS_MNEMONIC_HLT: return end_with(d, op_hlt);
	case ZYDIS_MNEMONIC_CLI: return op_cli;
	case ZYDIS_MNEMONIC_STI: return op_sti;
	case ZYDIS_MNEMONIC_PAUSE:
		/* F3 90 with REX.B is an exchange with R8. */
		if (d->zi->raw.rex.B) {
			d->i->dst = RAX * 8;
			d->i->src = R8 * 8;
			d->i->size = d->zi->raw.rex.W ? 3 : 2;
			return op_xchg_rr;
		}
		return end_with(d, op_pause);
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2: return end_with(d, op_ud);
	default: return NULL;
	}
}

static exec_fn *dec_load_far(struct dec *d, enum seg_index seg)
{
	set_operands(d);
	d->i->aux = seg;
	return end_with(d, op_load_far);
}

static exec_fn *dec_query(struct dec *d, enum seg_query q)
{
	set_operands(d);
	d->i->size = size_code(d->op[0].size);
	d->i->aux = q;
	return op_seg_query;
}

static exec_fn *dec_verr(struct dec *d, enum seg_query q)
{
	d->i->aux = q;
	return dec_one(d, op_verr);
}

static exec_fn *dec_fsgs(struct dec *d, enum seg_index seg, exec_fn *fn)
{
	set_rm(d, &d->op[0]);
	d->i->aux = seg;
	return fn;
}

static exec_fn *dec_table(struct dec *d, exec_fn *fn)
{
	set_mem(d, &d->op[0]);
	d->i->size = size_code(d->zi->operand_width);
	return fn;
}

static exec_fn *dec_system(struct dec *d)
{
	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_LDS: return dec_load_far(d, SEG_DS);
	case ZYDIS_MNEMONIC_LES: return dec_load_far(d, SEG_ES);
	case ZYDIS_MNEMONIC_LFS: return dec_load_far(d, SEG_FS);
	case ZYDIS_MNEMONIC_LGS: return dec_load_far(d, SEG_GS);
	case ZYDIS_MNEMONIC_LSS: return dec_load_far(d, SEG_SS);
	case ZYDIS_MNEMONIC_SGDT: return dec_table(d, op_sgdt);
	case ZYDIS_MNEMONIC_SIDT: return dec_table(d, op_sidt);
	case ZYDIS_MNEMONIC_LGDT: return dec_table(d, op_lgdt);
	case ZYDIS_MNEMONIC_LIDT: return dec_table(d, op_lidt);
	case ZYDIS_MNEMONIC_SLDT: return dec_one(d, op_sldt);
	case ZYDIS_MNEMONIC_STR: return dec_one(d, op_str);
	case ZYDIS_MNEMONIC_LLDT: return dec_one(d, op_lldt);
	case ZYDIS_MNEMONIC_LTR: return dec_one(d, op_ltr);
	case ZYDIS_MNEMONIC_SMSW: return dec_one(d, op_smsw);
	case ZYDIS_MNEMONIC_LMSW: return end_with(d, dec_one(d, op_lmsw));
	case ZYDIS_MNEMONIC_CLTS: return op_clts;
	case ZYDIS_MNEMONIC_LAR: return dec_query(d, SEG_LAR);
	case ZYDIS_MNEMONIC_LSL: return dec_query(d, SEG_LSL);
	case ZYDIS_MNEMONIC_VERR: return dec_verr(d, SEG_VERR);
	case ZYDIS_MNEMONIC_VERW: return dec_verr(d, SEG_VERW);
	case ZYDIS_MNEMONIC_ARPL: return dec_two(d, op_arpl);
	case ZYDIS_MNEMONIC_INVLPG: set_mem(d, &d->op[0]); return end_with(d, op_invlpg);
	case ZYDIS_MNEMONIC_INVPCID: set_operands(d); return end_with(d, op_invpcid);
	case ZYDIS_MNEMONIC_WBINVD:
	case ZYDIS_MNEMONIC_INVD: return op_wbinvd;
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_CLFLUSHOPT: set_mem(d, &d->op[0]); return op_clflush;
	case ZYDIS_MNEMONIC_CPUID: return end_with(d, op_cpuid);
	case ZYDIS_MNEMONIC_RDMSR: return op_rdmsr;
	case ZYDIS_MNEMONIC_WRMSR: return end_with(d, op_wrmsr);
	case ZYDIS_MNEMONIC_RDTSC: return op_rdtsc;
	case ZYDIS_MNEMONIC_RDTSCP: return op_rdtscp;
	case ZYDIS_MNEMONIC_RDPID: return dec_one(d, op_rdpid);
	case ZYDIS_MNEMONIC_RDPMC: return op_rdpmc;
	case ZYDIS_MNEMONIC_SWAPGS: return op_swapgs;
	case ZYDIS_MNEMONIC_RDFSBASE: return dec_fsgs(d, SEG_FS, op_rdfsbase);
	case ZYDIS_MNEMONIC_RDGSBASE: return dec_fsgs(d, SEG_GS, op_rdfsbase);
	case ZYDIS_MNEMONIC_WRFSBASE: return dec_fsgs(d, SEG_FS, op_wrfsbase);
	case ZYDIS_MNEMONIC_WRGSBASE: return dec_fsgs(d, SEG_GS, op_wrfsbase);
	case ZYDIS_MNEMONIC_STAC: return end_with(d, op_stac);
	case ZYDIS_MNEMONIC_CLAC: return end_with(d, op_clac);
	case ZYDIS_MNEMONIC_IN: return dec_io(d, 0, 1, op_in);
	case ZYDIS_MNEMONIC_OUT: return dec_io(d, 1, 0, op_out);
	case ZYDIS_MNEMONIC_RDRAND: return dec_one(d, op_rdrand);
	case ZYDIS_MNEMONIC_RDSEED: return dec_one(d, op_rdseed);
	case ZYDIS_MNEMONIC_MFENCE: return op_fence;
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL: return end_with(d, op_vmcall);
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR32:
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_RDSSPD:
	case ZYDIS_MNEMONIC_RDSSPQ:
	case ZYDIS_MNEMONIC_CLDEMOTE:
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHW:
	case ZYDIS_MNEMONIC_PREFETCHWT1: return op_nop;
	default: return NULL;
	}
}

/* Handlers of src/x86/vec.c look at the operands themselves, but for the address. */
static exec_fn *dec_vector(struct dec *d)
{
	for (unsigned n = 0; n < d->zi->operand_count; n++) {
		if (is_mem(&d->op[n]) && d->op[n].visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN) {
			set_mem(d, &d->op[n]);
			break;
		}
	}
	return vec_decode(d->cpu, d->i, d->zi, d->op, d->bytes) ? NULL : d->i->exec;
}

OP(op_vector)
{
	i++;
	i->exec(c, i);
	NEXT_STORED(c, i);
}

/*
 * Of a line of processors with VEX forms of integer instructions that no other has; to the decoder
 * they have the same names.
 */
static bool of_knights(const ZydisDecodedInstruction *zi)
{
	return zi->meta.isa_ext == ZYDIS_ISA_EXT_KNC || zi->meta.isa_ext == ZYDIS_ISA_EXT_KNCE ||
	       zi->meta.isa_ext == ZYDIS_ISA_EXT_KNCV;
}

int decode_insn(const struct decoder *dec, struct cpu *cpu, unsigned mode, const uint8_t *bytes,
		unsigned avail, unsigned off, struct insn out[2], unsigned *slots)
{
	const ZydisDecoder *zd = mode == 8 ? &dec->d64 : mode == 4 ? &dec->d32 : &dec->d16;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	struct dec d = {.zi = &zi, .op = ops, .bytes = bytes, .cpu = cpu, .i = out};
	exec_fn *fn;
	ZyanStatus st;

	*slots = 1;
	st = ZydisDecoderDecodeFull(zd, bytes, MIN(avail, INSN_MAX_BYTES), &zi, ops);
	*out = (struct insn){.off = off,
			     .len = 1,
			     .dst = REG_ZERO * 8,
			     .src = REG_ZERO * 8,
			     .base = REG_ZERO,
			     .index = REG_ZERO,
			     .seg = SEG_NONE,
			     .mode = mode};
	if (st == ZYDIS_STATUS_NO_MORE_DATA && avail < INSN_MAX_BYTES)
		return -EAGAIN;
	if (st == ZYDIS_STATUS_NO_MORE_DATA || st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) {
		out->exec = op_gp;
		return 1;
	}
	if (!ZYAN_SUCCESS(st)) {
		out->exec = op_ud;
		return 1;
	}
	out->len = zi.length;
	if (of_knights(&zi)) {
		out->exec = op_ud;
		return 1;
	}
	out->flags = zi.address_width == 16   ? INSN_ADDR16
		     : zi.address_width == 32 ? INSN_ADDR32
					      : 0;
	if (locked(&d))
		out->flags |= INSN_LOCK;
	fn = dec_by_opcode(&d);
	if (!fn)
		fn = dec_integer(&d);
	if (!fn)
		fn = dec_control(&d);
	if (!fn)
		fn = dec_system(&d);
	if (!fn) {
		fn = dec_vector(&d);
		if (fn) {
			out[1] = out[0];
			out[1].exec = fn;
			out[0].exec = op_vector;
			*slots = 2;
			return 0;
		}
		log_debug("no handler for %s", ZydisMnemonicGetString(zi.mnemonic));
		fn = op_ud;
		d.end = true;
	}
	out->exec = fn;
	return d.end;
}
