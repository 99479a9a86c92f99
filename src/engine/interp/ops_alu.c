#include "src/engine/interp/ops.h"

#define COUT_ADD(a, b, r) (((a) & (b)) | (((a) | (b)) & ~(r)))
#define COUT_SUB(a, b, r) ((~(a) & (b)) | (~((a) ^ (b)) & (r)))

/* Each sets r and the flags from a and b. */
#define DO_ADD(c, bits, a, b, r) \
	r = a + b;               \
	FLAGS_ADDSUB(c, bits, r, COUT_ADD(a, b, r))
#define DO_ADC(c, bits, a, b, r) \
	r = a + b + flag_cf(c);  \
	FLAGS_ADDSUB(c, bits, r, COUT_ADD(a, b, r))
#define DO_SUB(c, bits, a, b, r) \
	r = a - b;               \
	FLAGS_ADDSUB(c, bits, r, COUT_SUB(a, b, r))
#define DO_SBB(c, bits, a, b, r) \
	r = a - b - flag_cf(c);  \
	FLAGS_ADDSUB(c, bits, r, COUT_SUB(a, b, r))
#define DO_AND(c, bits, a, b, r) \
	r = a & b;               \
	FLAGS_LOGIC(c, bits, r)
#define DO_OR(c, bits, a, b, r) \
	r = a | b;              \
	FLAGS_LOGIC(c, bits, r)
#define DO_XOR(c, bits, a, b, r) \
	r = a ^ b;               \
	FLAGS_LOGIC(c, bits, r)

/* Register destination. */
#define ALU_R(op, bits)                                                                        \
	static OP(op##_rr##bits)                                                               \
	{                                                                                      \
		uint##bits##_t a = R##bits(c, i->dst), b = R##bits(c, i->src), r;              \
		DO_##op(c, bits, a, b, r);                                                     \
		set_r##bits(c, i->dst, r);                                                     \
		NEXT(c, i);                                                                    \
	}                                                                                      \
	static OP(op##_ri##bits)                                                               \
	{                                                                                      \
		uint##bits##_t a = R##bits(c, i->dst), b = i->imm, r;                          \
		DO_##op(c, bits, a, b, r);                                                     \
		set_r##bits(c, i->dst, r);                                                     \
		NEXT(c, i);                                                                    \
	}                                                                                      \
	static OP(op##_rm##bits)                                                               \
	{                                                                                      \
		uint##bits##_t a, b = mem_read##bits(c, i, insn_ea(c, i, bits / 8, false)), r; \
		a = R##bits(c, i->dst);                                                        \
		DO_##op(c, bits, a, b, r);                                                     \
		set_r##bits(c, i->dst, r);                                                     \
		NEXT(c, i);                                                                    \
	}

/*
 * Memory destination. The operand is loaded and stored through one look-up if the page is
 * writable; otherwise the store may fault, and flags are set only after it.
 */
#define ALU_M_BODY(op, bits, source)                                  \
	gva_t ea = insn_ea(c, i, bits / 8, true);                     \
	volatile uint##bits##_t *p = mem_fast_write(c, ea, bits / 8); \
	uint##bits##_t a, b = source, r;                              \
	if (likely(p)) {                                              \
		a = *p;                                               \
		DO_##op(c, bits, a, b, r);                            \
		*p = r;                                               \
		NEXT(c, i);                                           \
	}                                                             \
	c->cur = i;                                                   \
	mem_probe_write(c, ea, bits / 8);                             \
	a = mem_read_slow(c, ea, bits / 8);                           \
	DO_##op(c, bits, a, b, r);                                    \
	mem_write_slow(c, ea, r, bits / 8);                           \
	NEXT_STORED(c, i);

#define ALU_M(op, bits)                                  \
	static OP(op##_mr##bits)                         \
	{                                                \
		ALU_M_BODY(op, bits, R##bits(c, i->src)) \
	}                                                \
	static OP(op##_mi##bits)                         \
	{                                                \
		ALU_M_BODY(op, bits, i->imm)             \
	}

/* CMP and TEST store nothing. */
#define ALU_NOSTORE(name, op, bits)                                                            \
	static OP(name##_rr##bits)                                                             \
	{                                                                                      \
		uint##bits##_t a = R##bits(c, i->dst), b = R##bits(c, i->src), r;              \
		DO_##op(c, bits, a, b, r);                                                     \
		NEXT(c, i);                                                                    \
	}                                                                                      \
	static OP(name##_ri##bits)                                                             \
	{                                                                                      \
		uint##bits##_t a = R##bits(c, i->dst), b = i->imm, r;                          \
		DO_##op(c, bits, a, b, r);                                                     \
		NEXT(c, i);                                                                    \
	}                                                                                      \
	static OP(name##_rm##bits)                                                             \
	{                                                                                      \
		uint##bits##_t a, b = mem_read##bits(c, i, insn_ea(c, i, bits / 8, false)), r; \
		a = R##bits(c, i->dst);                                                        \
		DO_##op(c, bits, a, b, r);                                                     \
		NEXT(c, i);                                                                    \
	}                                                                                      \
	static OP(name##_mr##bits)                                                             \
	{                                                                                      \
		uint##bits##_t a = mem_read##bits(c, i, insn_ea(c, i, bits / 8, false)), b, r; \
		b = R##bits(c, i->src);                                                        \
		DO_##op(c, bits, a, b, r);                                                     \
		NEXT(c, i);                                                                    \
	}                                                                                      \
	static OP(name##_mi##bits)                                                             \
	{                                                                                      \
		uint##bits##_t a = mem_read##bits(c, i, insn_ea(c, i, bits / 8, false)), b, r; \
		b = i->imm;                                                                    \
		DO_##op(c, bits, a, b, r);                                                     \
		NEXT(c, i);                                                                    \
	}

#define ALL_SIZES(m, ...) m(__VA_ARGS__, 8) m(__VA_ARGS__, 16) m(__VA_ARGS__, 32) m(__VA_ARGS__, 64)

ALL_SIZES(ALU_R, ADD)
ALL_SIZES(ALU_R, OR)
ALL_SIZES(ALU_R, ADC)
ALL_SIZES(ALU_R, SBB)
ALL_SIZES(ALU_R, AND)
ALL_SIZES(ALU_R, SUB)
ALL_SIZES(ALU_R, XOR)
ALL_SIZES(ALU_M, ADD)
ALL_SIZES(ALU_M, OR)
ALL_SIZES(ALU_M, ADC)
ALL_SIZES(ALU_M, SBB)
ALL_SIZES(ALU_M, AND)
ALL_SIZES(ALU_M, SUB)
ALL_SIZES(ALU_M, XOR)
ALL_SIZES(ALU_NOSTORE, CMP, SUB)
ALL_SIZES(ALU_NOSTORE, TEST, AND)

#define SIZES(op, form)                                                           \
	{                                                                         \
		op##_##form##8, op##_##form##16, op##_##form##32, op##_##form##64 \
	}
#define ROW(op)                                                                                  \
	{                                                                                        \
		[FORM_RR] = SIZES(op, rr), [FORM_RM] = SIZES(op, rm), [FORM_RI] = SIZES(op, ri), \
		[FORM_MR] = SIZES(op, mr), [FORM_MI] = SIZES(op, mi),                            \
	}

exec_fn *ops_alu(enum alu_op op, enum form form, unsigned size)
{
	static exec_fn *const table[ALU_OPS][FORMS][4] = {
		[ALU_ADD] = ROW(ADD), [ALU_OR] = ROW(OR),   [ALU_ADC] = ROW(ADC),
		[ALU_SBB] = ROW(SBB), [ALU_AND] = ROW(AND), [ALU_SUB] = ROW(SUB),
		[ALU_XOR] = ROW(XOR), [ALU_CMP] = ROW(CMP), [ALU_TEST] = ROW(TEST),
	};

	return table[op][form][size];
}

/* --- moves -------------------------------------------------------------------------------- */

#define MOV(op, bits)                                                                         \
	static OP(op##_rr##bits)                                                              \
	{                                                                                     \
		set_r##bits(c, i->dst, R##bits(c, i->src));                                   \
		NEXT(c, i);                                                                   \
	}                                                                                     \
	static OP(op##_ri##bits)                                                              \
	{                                                                                     \
		set_r##bits(c, i->dst, i->imm);                                               \
		NEXT(c, i);                                                                   \
	}                                                                                     \
	static OP(op##_rm##bits)                                                              \
	{                                                                                     \
		set_r##bits(c, i->dst, mem_read##bits(c, i, insn_ea(c, i, bits / 8, false))); \
		NEXT(c, i);                                                                   \
	}                                                                                     \
	static OP(op##_mr##bits)                                                              \
	{                                                                                     \
		mem_write##bits(c, i, insn_ea(c, i, bits / 8, true), R##bits(c, i->src));     \
		NEXT_STORED(c, i);                                                            \
	}                                                                                     \
	static OP(op##_mi##bits)                                                              \
	{                                                                                     \
		mem_write##bits(c, i, insn_ea(c, i, bits / 8, true), i->imm);                 \
		NEXT_STORED(c, i);                                                            \
	}
ALL_SIZES(MOV, MOV)

exec_fn *ops_mov(enum form form, unsigned size)
{
	static exec_fn *const table[FORMS][4] = ROW(MOV);

	return table[form][size];
}

#define MOVX(from, to)                                                                          \
	static OP(movzx_r##from##_##to)                                                         \
	{                                                                                       \
		set_r##to(c, i->dst, R##from(c, i->src));                                       \
		NEXT(c, i);                                                                     \
	}                                                                                       \
	static OP(movzx_m##from##_##to)                                                         \
	{                                                                                       \
		set_r##to(c, i->dst, mem_read##from(c, i, insn_ea(c, i, from / 8, false)));     \
		NEXT(c, i);                                                                     \
	}                                                                                       \
	static OP(movsx_r##from##_##to)                                                         \
	{                                                                                       \
		set_r##to(c, i->dst, (int##from##_t)R##from(c, i->src));                        \
		NEXT(c, i);                                                                     \
	}                                                                                       \
	static OP(movsx_m##from##_##to)                                                         \
	{                                                                                       \
		set_r##to(c, i->dst,                                                            \
			  (int##from##_t)mem_read##from(c, i, insn_ea(c, i, from / 8, false))); \
		NEXT(c, i);                                                                     \
	}
MOVX(8, 16)
MOVX(8, 32)
MOVX(8, 64)
MOVX(16, 16)
MOVX(16, 32)
MOVX(16, 64)
MOVX(32, 32)
MOVX(32, 64)

exec_fn *ops_movx(bool sign, bool mem, unsigned from, unsigned to)
{
#define MOVX_ENTRY(f, t, from, to)                            \
	[f][t] = {                                            \
		{movzx_r##from##_##to, movzx_m##from##_##to}, \
		{movsx_r##from##_##to, movsx_m##from##_##to}  \
	}
	static exec_fn *const table[3][4][2][2] = {
		MOVX_ENTRY(0, 1, 8, 16),  MOVX_ENTRY(0, 2, 8, 32),  MOVX_ENTRY(0, 3, 8, 64),
		MOVX_ENTRY(1, 1, 16, 16), MOVX_ENTRY(1, 2, 16, 32), MOVX_ENTRY(1, 3, 16, 64),
		MOVX_ENTRY(2, 2, 32, 32), MOVX_ENTRY(2, 3, 32, 64),
	};

	return table[from][to][sign][mem];
}
