/* x87, SSE and AVX in turn, under rounding modes and exception masks that change. */
#include "tests/diff/prog_gen.h"

static bool is_vector(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.isa_set) {
	case ZYDIS_ISA_SET_AES:
	case ZYDIS_ISA_SET_AVX:
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVX2GATHER:
	case ZYDIS_ISA_SET_AVXAES:
	case ZYDIS_ISA_SET_F16C:
	case ZYDIS_ISA_SET_FMA:
	case ZYDIS_ISA_SET_FCMOV:
	case ZYDIS_ISA_SET_PENTIUMMMX:
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE2MMX:
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSE3X87:
	case ZYDIS_ISA_SET_SSE4:
	case ZYDIS_ISA_SET_SSE42:
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSSE3MMX:
	case ZYDIS_ISA_SET_X87: return true;
	default: return false;
	}
}

/* Mostly everything masked; sometimes an exception will be raised. */
static uint32_t draw_mxcsr(struct prog_gen *g)
{
	uint32_t masks = rng_chance(&g->r, 80) ? 0x1f80 : rng_next(&g->r) & 0x1f80;

	return masks | (rng_next(&g->r) & 0xe040) |
	       (rng_chance(&g->r, 20) ? rng_below(&g->r, 64) : 0);
}

static uint16_t draw_fcw(struct prog_gen *g)
{
	uint16_t masks = rng_chance(&g->r, 80) ? 0x3f : rng_below(&g->r, 64);

	return 0x40 | masks | rng_below(&g->r, 16) << 8;
}

/* Through a word on the stack, which every program has. */
static void set_control(struct prog_gen *g)
{
	bool sse = rng_chance(&g->r, 60);

	prog_begin(g);
	g->open->fragile = true;
	INS(g, PUSH, op_i(sse ? draw_mxcsr(g) : draw_fcw(g)));
	if (!sse)
		INS(g, FLDCW, op_m(ZYDIS_REGISTER_RSP, 0, 2));
	else if (rng_chance(&g->r, 50))
		INS(g, LDMXCSR, op_m(ZYDIS_REGISTER_RSP, 0, 4));
	else
		INS(g, VLDMXCSR, op_m(ZYDIS_REGISTER_RSP, 0, 4));
	INS(g, LEA, op_r(ZYDIS_REGISTER_RSP), op_m(ZYDIS_REGISTER_RSP, 8, 8));
	prog_end(g);
}

static void control(struct prog_gen *g)
{
	ZydisRegister p = prog_pointer(g);

	switch (rng_below(&g->r, 10)) {
	case 0: INS(g, STMXCSR, op_m(p, 4, 4)); break;
	case 1: INS(g, FNSTCW, op_m(p, 8, 2)); break;
	case 2: INS(g, FNSTSW, op_r(ZYDIS_REGISTER_AX)); break;
	case 3: INS0(g, EMMS); break;
	case 4: INS0(g, FNINIT); break;
	case 5: INS0(g, FNCLEX); break;
	case 6: INS0(g, VZEROUPPER); break;
	case 7: INS0(g, VZEROALL); break;
	case 8: INS0(g, FWAIT); break;
	default: set_control(g); break;
	}
}

/* Arithmetic on registers, without the many instructions that only move. */
static void arithmetic(struct prog_gen *g)
{
	static const ZydisMnemonic sse[] = {
		ZYDIS_MNEMONIC_ADDPS,  ZYDIS_MNEMONIC_MULPD,	ZYDIS_MNEMONIC_DIVSD,
		ZYDIS_MNEMONIC_SQRTPS, ZYDIS_MNEMONIC_SUBSS,	ZYDIS_MNEMONIC_CVTSD2SS,
		ZYDIS_MNEMONIC_MAXPS,  ZYDIS_MNEMONIC_CVTDQ2PS, ZYDIS_MNEMONIC_CVTPS2DQ,
		ZYDIS_MNEMONIC_PMULLW, ZYDIS_MNEMONIC_UCOMISD,	ZYDIS_MNEMONIC_PSHUFB};
	static const ZydisMnemonic avx[] = {ZYDIS_MNEMONIC_VADDPS, ZYDIS_MNEMONIC_VMULPD,
					    ZYDIS_MNEMONIC_VDIVPS, ZYDIS_MNEMONIC_VFMADD213PD,
					    ZYDIS_MNEMONIC_VPADDQ, ZYDIS_MNEMONIC_VPERMILPS};
	unsigned a = rng_below(&g->r, 16), b = rng_below(&g->r, 16), c = rng_below(&g->r, 16);
	ZydisRegister p = prog_pointer(g);
	int32_t disp = 32 * rng_below(&g->r, 4);

	switch (rng_below(&g->r, 3)) {
	case 0:
		prog_ins(g, sse[rng_below(&g->r, ARRAY_SIZE(sse))], 0, 2,
			 (prog_op[]){op_r(ZYDIS_REGISTER_XMM0 + a), op_r(ZYDIS_REGISTER_XMM0 + b)});
		break;
	case 1:
		prog_ins(g, avx[rng_below(&g->r, ARRAY_SIZE(avx))], 0, 3,
			 (prog_op[]){op_r(ZYDIS_REGISTER_YMM0 + a), op_r(ZYDIS_REGISTER_YMM0 + b),
				     rng_chance(&g->r, 50) ? op_r(ZYDIS_REGISTER_YMM0 + c)
							   : op_m(p, disp, 32)});
		break;
	default:
		INS(g, FLD, op_m(p, disp, 8));
		INS(g, FMUL, op_m(p, disp + 8, 8));
		INS(g, FADDP, op_r(ZYDIS_REGISTER_ST1), op_r(ZYDIS_REGISTER_ST0));
		INS(g, FSTP, op_m(p, disp + 16, 4));
		break;
	}
}

void fill_vector(struct prog_gen *g)
{
	for (unsigned n = 2 + rng_below(&g->r, 5); n-- > 0;) {
		switch (rng_below(&g->r, 10)) {
		case 0:
		case 1: control(g); break;
		case 2:
		case 3:
		case 4: arithmetic(g); break;
		default: fill_by(g, is_vector); break;
		}
	}
	if (rng_chance(&g->r, 15))
		fill_pointers(g);
}
