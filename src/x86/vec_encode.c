/* From a decoded instruction to the form that its stub is made from. */
#include "src/x86/vec_int.h"

/* ModRM of [rsi] with the given reg field, and of a register in rm. */
#define MODRM_RSI(reg)	   ((reg) << 3 | 6)
#define MODRM_REG(reg, rm) (0xc0 | (reg) << 3 | (rm))

/* Register numbers in the re-encoded instruction; vec_stub.c loads them. */
#define HOST_VEC_REG  1
#define HOST_VEC_VVVV 2
#define HOST_VEC_RM   3
#define HOST_VEC_IS4  4
#define HOST_GPR_REG  0
#define HOST_GPR_RM   1

static int slot_of(ZydisOperandEncoding enc)
{
	switch (enc) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG: return SLOT_REG;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM: return SLOT_RM;
	case ZYDIS_OPERAND_ENCODING_NDSNDD: return SLOT_VVVV;
	case ZYDIS_OPERAND_ENCODING_IS4: return SLOT_IS4;
	default: return -1;
	}
}

static enum vec_kind kind_of(ZydisRegister reg)
{
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM: return KIND_XMM;
	case ZYDIS_REGCLASS_MMX: return KIND_MMX;
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64: return KIND_GPR;
	default: return KIND_NONE;
	}
}

static void set_selector(struct insn *insn, int slot, uint8_t sel)
{
	switch (slot) {
	case SLOT_REG: insn->dst = sel; break;
	case SLOT_RM: insn->src = sel; break;
	case SLOT_VVVV: insn->aux = sel; break;
	case SLOT_IS4: insn->imm |= (uint64_t)sel << 56; break;
	}
}

static void set_memory(struct vec_form *form, const ZydisDecodedOperand *o)
{
	form->mem_read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
	form->mem_write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	form->mem_len = o->size / 8;
}

static int set_register(struct vec_form *form, struct insn *insn, const ZydisDecodedOperand *o)
{
	enum vec_kind kind = kind_of(o->reg.value);
	int slot = slot_of(o->encoding);
	bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

	if (slot < 0 || !kind)
		return -ENOTSUP;
	form->kind[slot] = kind;
	form->store[slot] = write;
	/*
	 * Legacy SSE instructions keep what they do not write, so the register is loaded first; VEX
	 * ones define all of it.
	 */
	form->load[slot] = (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) ||
			   (kind != KIND_GPR && form->cls != VEC_AVX);
	form->mmx |= kind == KIND_MMX;
	if (kind == KIND_XMM && form->cls == VEC_MMX)
		form->cls = VEC_SSE; /* moves and conversions between the two */
	set_selector(insn, slot, ZydisRegisterGetId(o->reg.value) * 8);
	return 0;
}

static int set_hidden(struct vec_form *form, const ZydisDecodedOperand *o)
{
	if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return -ENOTSUP;
	switch (o->reg.value) {
	case ZYDIS_REGISTER_XMM0:
		form->xmm0_load |= !!(o->actions & ZYDIS_OPERAND_ACTION_MASK_READ);
		form->xmm0_store |= !!(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
		return 0;
	case ZYDIS_REGISTER_EAX:
	case ZYDIS_REGISTER_RAX:
	case ZYDIS_REGISTER_EDX:
	case ZYDIS_REGISTER_RDX: form->str_explicit = true; return 0;
	case ZYDIS_REGISTER_ECX:
	case ZYDIS_REGISTER_RCX: form->str_index = true; return 0;
	case ZYDIS_REGISTER_FLAGS:
	case ZYDIS_REGISTER_EFLAGS:
	case ZYDIS_REGISTER_RFLAGS: form->flags_write = true; return 0;
	default: return -ENOTSUP;
	}
}

/* Instructions that compute in floating point under MXCSR, by the manual's exception classes. */
static bool uses_mxcsr(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE2:
	case ZYDIS_EXCEPTION_CLASS_SSE3:
	case ZYDIS_EXCEPTION_CLASS_AVX2:
	case ZYDIS_EXCEPTION_CLASS_AVX3:
	case ZYDIS_EXCEPTION_CLASS_AVX11: return true;
	default: break;
	}
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_CVTPI2PS:
	case ZYDIS_MNEMONIC_CVTPI2PD:
	case ZYDIS_MNEMONIC_CVTPS2PI:
	case ZYDIS_MNEMONIC_CVTTPS2PI:
	case ZYDIS_MNEMONIC_CVTPD2PI:
	case ZYDIS_MNEMONIC_CVTTPD2PI: return true;
	default: return false;
	}
}

/* Legacy SSE instructions want their 16-byte operands aligned, save these. */
static bool must_align(const struct vec_form *form, ZydisMnemonic mnemonic)
{
	if (form->cls != VEC_SSE || form->mem_len != 16)
		return false;
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM: return false;
	default: return true;
	}
}

static uint8_t host_number(const struct vec_form *form, enum vec_slot s, uint8_t raw)
{
	static const uint8_t vec[] = {HOST_VEC_REG, HOST_VEC_RM, HOST_VEC_VVVV, HOST_VEC_IS4};

	switch (form->kind[s]) {
	case KIND_XMM:
	case KIND_MMX: return vec[s];
	case KIND_GPR: return s == SLOT_REG ? HOST_GPR_REG : HOST_GPR_RM;
	default: return raw;
	}
}

static void put_byte(struct vec_form *form, uint8_t b)
{
	form->code[form->code_len++] = b;
}

static uint8_t mandatory_prefix(const ZydisDecodedInstruction *zi)
{
	for (unsigned n = 0; n < zi->raw.prefix_count; n++)
		if (zi->raw.prefixes[n].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			return zi->raw.prefixes[n].value;
	return 0;
}

static void put_legacy(struct vec_form *form, const ZydisDecodedInstruction *zi)
{
	uint8_t prefix = mandatory_prefix(zi);

	if (prefix)
		put_byte(form, prefix);
	if ((zi->attributes & ZYDIS_ATTRIB_HAS_REX) && zi->raw.rex.W)
		put_byte(form, 0x48);
	put_byte(form, 0x0f);
	if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		put_byte(form, 0x38);
	else if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		put_byte(form, 0x3a);
}

/* Outside 64-bit mode VEX.W does not widen a general-purpose operand. */
static bool vex_w(const ZydisDecodedInstruction *zi)
{
	if (zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
		return zi->raw.vex.W;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_VCVTSI2SS:
	case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTSS2SI:
	case ZYDIS_MNEMONIC_VCVTSD2SI:
	case ZYDIS_MNEMONIC_VCVTTSS2SI:
	case ZYDIS_MNEMONIC_VCVTTSD2SI:
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VPEXTRQ:
	case ZYDIS_MNEMONIC_VPINSRD:
	case ZYDIS_MNEMONIC_VPINSRQ:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM: return false;
	default: return zi->raw.vex.W;
	}
}

static void put_vex(struct vec_form *form, const ZydisDecodedInstruction *zi)
{
	uint8_t vvvv = form->kind[SLOT_VVVV] ? HOST_VEC_VVVV : 0;

	put_byte(form, 0xc4);
	put_byte(form, 0xe0 | zi->raw.vex.m_mmmm);
	put_byte(form, vex_w(zi) << 7 | (~vvvv & 0xf) << 3 | zi->raw.vex.L << 2 | zi->raw.vex.pp);
}

static int put_code(struct vec_form *form, const ZydisDecodedInstruction *zi)
{
	uint8_t reg = host_number(form, SLOT_REG, zi->raw.modrm.reg);
	uint8_t rm = host_number(form, SLOT_RM, zi->raw.modrm.rm);

	if (!(zi->attributes & ZYDIS_ATTRIB_HAS_MODRM))
		return -ENOTSUP;
	if (form->cls == VEC_AVX)
		put_vex(form, zi);
	else
		put_legacy(form, zi);
	put_byte(form, zi->opcode);
	put_byte(form, form->mem_len ? MODRM_RSI(reg) : MODRM_REG(reg, rm));
	if (form->kind[SLOT_IS4])
		put_byte(form, HOST_VEC_IS4 << 4);
	else if (zi->raw.imm[0].size)
		put_byte(form, zi->raw.imm[0].value.u);
	return 0;
}

/* General-purpose instructions under SSE's name. */
static bool not_vector(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE: return true;
	default: return false;
	}
}

int vec_encode(struct vec_form *form, struct insn *insn, const ZydisDecodedInstruction *zi,
	       const ZydisDecodedOperand *ops)
{
	int err = not_vector(zi->mnemonic) ? -ENOTSUP : 0;

	insn->imm = 0;
	form->fp = uses_mxcsr(zi);
	form->wide = form->cls == VEC_AVX && zi->raw.vex.L;
	for (unsigned n = 0; n < zi->operand_count && !err; n++) {
		const ZydisDecodedOperand *o = &ops[n];

		if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			err = set_hidden(form, o);
		else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
			set_memory(form, o);
		else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER)
			err = set_register(form, insn, o);
	}
	if (err)
		return err;
	form->align = must_align(form, zi->mnemonic);
	insn->flags |= form->align ? INSN_ALIGN : 0;
	return put_code(form, zi);
}

static bool x87_control(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FNOP:
	case ZYDIS_MNEMONIC_FINCSTP:
	case ZYDIS_MNEMONIC_FDECSTP:
	case ZYDIS_MNEMONIC_FFREE:
	case ZYDIS_MNEMONIC_FFREEP: return true;
	default: return false;
	}
}

int vec_encode_x87(struct vec_form *form, struct insn *insn, const ZydisDecodedInstruction *zi,
		   const ZydisDecodedOperand *ops, const uint8_t *bytes)
{
	uint8_t modrm = bytes[zi->raw.modrm.offset];

	insn->imm = 0;
	/* What the last-opcode register will hold: the low bits of both bytes. */
	insn->dst = zi->opcode & 7;
	insn->aux = modrm;
	form->x87_control = x87_control(zi->mnemonic);
	for (unsigned n = 0; n < zi->operand_count; n++)
		if (ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
			set_memory(form, &ops[n]);
	if (zi->cpu_flags) {
		form->flags_read = zi->cpu_flags->tested;
		form->flags_write =
			zi->cpu_flags->modified | zi->cpu_flags->set_0 | zi->cpu_flags->undefined;
	}
	put_byte(form, zi->opcode);
	put_byte(form, form->mem_len ? MODRM_RSI(zi->raw.modrm.reg) : modrm);
	return 0;
}
