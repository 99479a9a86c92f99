/*
 * The vector instructions that ordinary programs execute most - loads, stores, moves and zeroing -
 * in C, without a stub. avx: VEX-encoded, so the rest of the YMM register becomes zero.
 */
#include "src/x86/vec_int.h"

static force_inline void begin(struct cpu *c, const struct insn *i, bool avx)
{
	c->cur = i;
	if (avx)
		vec_check_avx(c);
	else
		vec_check_sse(c);
}

static force_inline gva_t address(struct cpu *c, const struct insn *i, unsigned len, bool write)
{
	gva_t ea = insn_ea(c, i, len, write);

	if ((i->flags & INSN_ALIGN) && unlikely(ea & (len - 1)))
		cpu_raise_gp(c);
	return ea;
}

static force_inline void zero_above(void *reg, unsigned from)
{
	memset((uint8_t *)reg + from, 0, 32 - from);
}

/* reg <- 16 or 32 bytes of memory */
static force_inline void load_wide(struct cpu *c, const struct insn *i, bool avx, unsigned len)
{
	void *reg = vec_reg(c, i->dst), *p;
	gva_t ea;

	begin(c, i, avx);
	ea = address(c, i, len, false);
	p = mem_fast_read(c, ea, len);
	if (unlikely(!p)) {
		mem_read(c, ea, c->vec_buf, len);
		p = c->vec_buf;
	}
	memcpy(reg, p, len);
	if (avx && len < 32)
		zero_above(reg, len);
}

static force_inline void store_wide(struct cpu *c, const struct insn *i, bool avx, unsigned len)
{
	void *reg = vec_reg(c, i->dst), *p;
	gva_t ea;

	begin(c, i, avx);
	ea = address(c, i, len, true);
	p = mem_fast_write(c, ea, len);
	if (likely(p))
		memcpy(p, reg, len);
	else
		mem_write(c, ea, reg, len);
}

static force_inline void move_wide(struct cpu *c, const struct insn *i, bool avx, unsigned len)
{
	void *reg = vec_reg(c, i->dst);

	begin(c, i, avx);
	memmove(reg, vec_reg(c, i->src), len);
	if (avx && len < 32)
		zero_above(reg, len);
}

/* reg <- 4 or 8 bytes of memory, zero above */
static force_inline void load_low(struct cpu *c, const struct insn *i, bool avx, unsigned len)
{
	uint64_t *reg = vec_reg(c, i->dst);
	gva_t ea;

	begin(c, i, avx);
	ea = insn_ea(c, i, len, false);
	reg[0] = len == 4 ? mem_read32(c, i, ea) : mem_read64(c, i, ea);
	reg[1] = 0;
	if (avx)
		zero_above(reg, 16);
}

static force_inline void store_low(struct cpu *c, const struct insn *i, bool avx, unsigned len)
{
	const uint64_t *reg = vec_reg(c, i->dst);
	gva_t ea;

	begin(c, i, avx);
	ea = insn_ea(c, i, len, true);
	if (len == 4)
		mem_write32(c, i, ea, reg[0]);
	else
		mem_write64(c, i, ea, reg[0]);
}

/* reg <- 4 or 8 bytes of a general or vector register (src, at base), zero above */
static force_inline void set_low(struct cpu *c, const struct insn *i, bool avx, uint64_t value)
{
	uint64_t *reg = vec_reg(c, i->dst);

	reg[0] = value;
	reg[1] = 0;
	if (avx)
		zero_above(reg, 16);
}

static force_inline uint64_t *gpr_at(struct cpu *c, uint8_t off)
{
	return (uint64_t *)((uint8_t *)c->gpr + off);
}

static force_inline void from_gpr(struct cpu *c, const struct insn *i, bool avx, unsigned len)
{
	uint64_t v;

	begin(c, i, avx);
	v = *gpr_at(c, i->src);
	set_low(c, i, avx, len == 4 ? (uint32_t)v : v);
}

static force_inline void to_gpr(struct cpu *c, const struct insn *i, bool avx, unsigned len)
{
	uint64_t v;

	begin(c, i, avx);
	v = *(uint64_t *)vec_reg(c, i->dst);
	*gpr_at(c, i->src) = len == 4 ? (uint32_t)v : v;
}

static force_inline void move_low(struct cpu *c, const struct insn *i, bool avx, unsigned len)
{
	begin(c, i, avx);
	set_low(c, i, avx, *(uint64_t *)vec_reg(c, i->src));
}

/* One 64-bit half of an XMM register; legacy encodings only, the others merge two registers. */
static force_inline void load_half(struct cpu *c, const struct insn *i, unsigned half)
{
	begin(c, i, false);
	((uint64_t *)vec_reg(c, i->dst))[half] = mem_read64(c, i, insn_ea(c, i, 8, false));
}

static void load_half0(struct cpu *c, const struct insn *i)
{
	load_half(c, i, 0);
}

static void load_half1(struct cpu *c, const struct insn *i)
{
	load_half(c, i, 1);
}

static force_inline void store_high(struct cpu *c, const struct insn *i, bool avx, unsigned len)
{
	begin(c, i, avx);
	mem_write64(c, i, insn_ea(c, i, 8, true), ((uint64_t *)vec_reg(c, i->dst))[1]);
}

/* reg <- src xor vvvv; a legacy encoding has vvvv = dst. */
static force_inline void xor_wide(struct cpu *c, const struct insn *i, bool avx, unsigned len)
{
	uint64_t *d = vec_reg(c, i->dst);
	const uint64_t *a = vec_reg(c, i->aux), *b = vec_reg(c, i->src);

	begin(c, i, avx);
	for (unsigned n = 0; n < len / 8; n++)
		d[n] = a[n] ^ b[n];
	if (avx && len < 32)
		zero_above(d, len);
}

/* exec functions: NAME_sse16 (legacy), NAME_avx16 and so on, by width in bytes. */
#define EXEC(name, isa, avx, len)                                          \
	static void name##_##isa##len(struct cpu *c, const struct insn *i) \
	{                                                                  \
		name(c, i, avx, len);                                      \
	}
#define EXEC_WIDE(name) \
	EXEC(name, sse, false, 16) EXEC(name, avx, true, 16) EXEC(name, avx, true, 32)
#define EXEC_LOW(name)            \
	EXEC(name, sse, false, 4) \
	EXEC(name, sse, false, 8) EXEC(name, avx, true, 4) EXEC(name, avx, true, 8)
EXEC_WIDE(load_wide)
EXEC_WIDE(store_wide)
EXEC_WIDE(move_wide)
EXEC_WIDE(xor_wide)
EXEC_LOW(load_low)
EXEC_LOW(store_low)
EXEC_LOW(from_gpr)
EXEC_LOW(to_gpr)
EXEC(move_low, sse, false, 8)
EXEC(move_low, avx, true, 8)
EXEC(store_high, sse, false, 8)
EXEC(store_high, avx, true, 8)

typedef void exec_fn(struct cpu *, const struct insn *);

static exec_fn *pick_wide(unsigned avx, unsigned len, exec_fn *sse16, exec_fn *avx16,
			  exec_fn *avx32)
{
	return !avx ? sse16 : len == 16 ? avx16 : avx32;
}

static exec_fn *pick_low(unsigned avx, unsigned len, exec_fn *const f[4])
{
	return f[2 * avx + (len == 8)];
}

static void movnti(struct cpu *c, const struct insn *i)
{
	gva_t ea = insn_ea(c, i, i->aux, true);

	if (i->aux == 4)
		mem_write32(c, i, ea, *gpr_at(c, i->dst));
	else
		mem_write64(c, i, ea, *gpr_at(c, i->dst));
}

static void vzeroupper(struct cpu *c, const struct insn *i)
{
	begin(c, i, true);
	/* Outside 64-bit mode registers 8-15 do not exist and keep their values. */
	for (unsigned n = 0; n < (i->mode == 8 ? 16 : 8); n++)
		zero_above(c->vec.ymm[n], 16);
}

static void vzeroall(struct cpu *c, const struct insn *i)
{
	begin(c, i, true);
	memset(c->vec.ymm, 0, i->mode == 8 ? 16 * 32 : 8 * 32);
}

static void ldmxcsr(struct cpu *c, const struct insn *i)
{
	uint32_t v;

	begin(c, i, i->aux);
	v = mem_read32(c, i, insn_ea(c, i, 4, false));
	if (v & ~MXCSR_MASK)
		cpu_raise_gp(c);
	c->vec.mxcsr = v;
}

static void stmxcsr(struct cpu *c, const struct insn *i)
{
	begin(c, i, i->aux);
	mem_write32(c, i, insn_ea(c, i, 4, true), c->vec.mxcsr);
}

static bool is_xmm(const ZydisDecodedOperand *o)
{
	ZydisRegisterClass k;

	if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	k = ZydisRegisterGetClass(o->reg.value);
	return k == ZYDIS_REGCLASS_XMM || k == ZYDIS_REGCLASS_YMM;
}

static bool is_gpr(const ZydisDecodedOperand *o)
{
	ZydisRegisterClass k;

	if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	k = ZydisRegisterGetClass(o->reg.value);
	return k == ZYDIS_REGCLASS_GPR32 || k == ZYDIS_REGCLASS_GPR64;
}

static bool is_mem(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY;
}

static uint8_t selector(const ZydisDecodedOperand *o)
{
	return ZydisRegisterGetId(o->reg.value) * 8;
}

/* 16- and 32-byte moves; the memory operand, if any, decides the direction. */
static exec_fn *decode_wide(struct insn *insn, const ZydisDecodedOperand *ops, unsigned avx,
			    bool align)
{
	unsigned len = ops[0].size / 8;

	if (is_mem(&ops[1])) {
		insn->dst = selector(&ops[0]);
		insn->flags |= align ? INSN_ALIGN : 0;
		return pick_wide(avx, len, load_wide_sse16, load_wide_avx16, load_wide_avx32);
	}
	if (is_mem(&ops[0])) {
		insn->dst = selector(&ops[1]);
		insn->flags |= align ? INSN_ALIGN : 0;
		return pick_wide(avx, len, store_wide_sse16, store_wide_avx16, store_wide_avx32);
	}
	insn->dst = selector(&ops[0]);
	insn->src = selector(&ops[1]);
	return pick_wide(avx, len, move_wide_sse16, move_wide_avx16, move_wide_avx32);
}

/* MOVD, MOVQ, MOVSS, MOVSD: forms that copy a low part and zero the rest. */
static exec_fn *decode_low(struct insn *insn, const ZydisDecodedOperand *ops, unsigned avx,
			   unsigned len)
{
	static exec_fn *const load[] = {load_low_sse4, load_low_sse8, load_low_avx4, load_low_avx8};
	static exec_fn *const store[] = {store_low_sse4, store_low_sse8, store_low_avx4,
					 store_low_avx8};
	static exec_fn *const from[] = {from_gpr_sse4, from_gpr_sse8, from_gpr_avx4, from_gpr_avx8};
	static exec_fn *const to[] = {to_gpr_sse4, to_gpr_sse8, to_gpr_avx4, to_gpr_avx8};
	bool x0 = is_xmm(&ops[0]), x1 = is_xmm(&ops[1]);

	insn->dst = selector(x0 ? &ops[0] : &ops[1]);
	if (x0 && is_mem(&ops[1]))
		return pick_low(avx, len, load);
	if (x1 && is_mem(&ops[0]))
		return pick_low(avx, len, store);
	if (x0 && is_gpr(&ops[1])) {
		insn->src = selector(&ops[1]);
		return pick_low(avx, len, from);
	}
	if (x1 && is_gpr(&ops[0])) {
		insn->src = selector(&ops[0]);
		return pick_low(avx, len, to);
	}
	return NULL;
}

static exec_fn *decode_movq(struct insn *insn, const ZydisDecodedOperand *ops, unsigned avx)
{
	if (!is_xmm(&ops[0]) || !is_xmm(&ops[1]))
		return decode_low(insn, ops, avx, 8);
	insn->dst = selector(&ops[0]);
	insn->src = selector(&ops[1]);
	return avx ? move_low_avx8 : move_low_sse8;
}

/* Register forms of MOVSS and MOVSD merge: those go to a stub. */
static exec_fn *decode_scalar(struct insn *insn, const ZydisDecodedOperand *ops, unsigned avx,
			      unsigned len)
{
	return is_mem(&ops[0]) || is_mem(&ops[1]) ? decode_low(insn, ops, avx, len) : NULL;
}

static exec_fn *decode_half(struct insn *insn, const ZydisDecodedOperand *ops, unsigned avx,
			    bool high)
{
	if (is_mem(&ops[0])) {
		insn->dst = selector(&ops[1]);
		if (!high)
			return avx ? store_low_avx8 : store_low_sse8;
		return avx ? store_high_avx8 : store_high_sse8;
	}
	if (avx || !is_mem(&ops[1]))
		return NULL;
	insn->dst = selector(&ops[0]);
	return high ? load_half1 : load_half0;
}

static exec_fn *decode_xor(struct insn *insn, const ZydisDecodedOperand *ops, unsigned avx)
{
	if (!is_xmm(&ops[0]) || !is_xmm(&ops[1 + avx]))
		return NULL;
	insn->dst = selector(&ops[0]);
	insn->aux = selector(&ops[avx]);
	insn->src = selector(&ops[1 + avx]);
	return pick_wide(avx, ops[0].size / 8, xor_wide_sse16, xor_wide_avx16, xor_wide_avx32);
}

static exec_fn *decode_mxcsr(struct insn *insn, exec_fn *fn, unsigned avx)
{
	insn->aux = avx;
	return fn;
}

static exec_fn *decode_movnti(struct insn *insn, const ZydisDecodedOperand *ops)
{
	insn->dst = selector(&ops[1]);
	insn->aux = ops[1].size / 8;
	return movnti;
}

static exec_fn *decode(struct insn *insn, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *ops)
{
	unsigned avx = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_VMOVUPS:
	case ZYDIS_MNEMONIC_VMOVUPD:
	case ZYDIS_MNEMONIC_VMOVDQU:
	case ZYDIS_MNEMONIC_VLDDQU: return decode_wide(insn, ops, avx, false);
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_MOVNTDQA:
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA: return decode_wide(insn, ops, avx, true);
	case ZYDIS_MNEMONIC_MOVD:
	case ZYDIS_MNEMONIC_VMOVD: return decode_low(insn, ops, avx, 4);
	case ZYDIS_MNEMONIC_MOVQ:
	case ZYDIS_MNEMONIC_VMOVQ: return decode_movq(insn, ops, avx);
	case ZYDIS_MNEMONIC_MOVSS:
	case ZYDIS_MNEMONIC_VMOVSS: return decode_scalar(insn, ops, avx, 4);
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_VMOVSD: return decode_scalar(insn, ops, avx, 8);
	case ZYDIS_MNEMONIC_MOVLPS:
	case ZYDIS_MNEMONIC_MOVLPD:
	case ZYDIS_MNEMONIC_VMOVLPS:
	case ZYDIS_MNEMONIC_VMOVLPD: return decode_half(insn, ops, avx, false);
	case ZYDIS_MNEMONIC_MOVHPS:
	case ZYDIS_MNEMONIC_MOVHPD:
	case ZYDIS_MNEMONIC_VMOVHPS:
	case ZYDIS_MNEMONIC_VMOVHPD: return decode_half(insn, ops, avx, true);
	case ZYDIS_MNEMONIC_PXOR:
	case ZYDIS_MNEMONIC_XORPS:
	case ZYDIS_MNEMONIC_XORPD:
	case ZYDIS_MNEMONIC_VPXOR:
	case ZYDIS_MNEMONIC_VXORPS:
	case ZYDIS_MNEMONIC_VXORPD: return decode_xor(insn, ops, avx);
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR: return decode_mxcsr(insn, ldmxcsr, avx);
	case ZYDIS_MNEMONIC_STMXCSR:
	case ZYDIS_MNEMONIC_VSTMXCSR: return decode_mxcsr(insn, stmxcsr, avx);
	case ZYDIS_MNEMONIC_MOVNTI: return decode_movnti(insn, ops);
	case ZYDIS_MNEMONIC_VZEROUPPER: return vzeroupper;
	case ZYDIS_MNEMONIC_VZEROALL: return vzeroall;
	default: return NULL;
	}
}

/* MMX shares some mnemonics and is left to the stubs. */
static bool any_mmx(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	for (unsigned n = 0; n < zi->operand_count; n++)
		if (ops[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(ops[n].reg.value) == ZYDIS_REGCLASS_MMX)
			return true;
	return false;
}

bool vec_move_decode(struct insn *insn, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *ops)
{
	exec_fn *fn;

	if (any_mmx(zi, ops))
		return false;
	fn = decode(insn, zi, ops);
	if (!fn)
		return false;
	insn->exec = fn;
	return true;
}
