/*
 * Groups of accesses relative to one register that stands near the end of a page, near the end of
 * memory, or in memory that may not be written: what a translator may check once for all of them.
 */
#include "tests/diff/prog_gen.h"

struct group {
	ZydisRegister base, index;
	unsigned scale;
	int32_t disp;
};

static uint64_t edge(struct prog_gen *g)
{
	int off = (int)rng_below(&g->r, 160) - 80;

	switch (rng_below(&g->r, 12)) {
	case 0: return DATA_BASE + off;
	case 1: return DATA_BASE + DATA_SIZE + off;
	case 2: return RO_BASE + off;
	case 3: return RO_BASE + RO_SIZE + off;
	case 4: return STACK_BASE + STACK_SIZE + off / 4;
	case 5: return RO_BASE + 256 + off;
	case 6: return (1ul << 47) + off;
	default: return DATA_BASE + PAGE_SIZE + off;
	}
}

static prog_op place(struct prog_gen *g, const struct group *w, unsigned bytes)
{
	int32_t disp = w->disp + (int)rng_below(&g->r, 64) - 32;

	if (rng_chance(&g->r, 15))
		disp = 8 * ((int)rng_below(&g->r, 1024) - 512);
	return op_mx(w->base, w->index, w->scale, disp, bytes);
}

static void access_integer(struct prog_gen *g, const struct group *w)
{
	static const ZydisMnemonic alu[] = {
		ZYDIS_MNEMONIC_ADD,  ZYDIS_MNEMONIC_SUB, ZYDIS_MNEMONIC_XOR,
		ZYDIS_MNEMONIC_AND,  ZYDIS_MNEMONIC_OR,	 ZYDIS_MNEMONIC_CMP,
		ZYDIS_MNEMONIC_TEST, ZYDIS_MNEMONIC_ADC, ZYDIS_MNEMONIC_SBB};
	unsigned bits = prog_bits(g);
	prog_op m = place(g, w, bits / 8), d = op_r(prog_reg(g, prog_dst(g), bits));
	prog_op s = op_r(prog_reg(g, prog_src(g), bits));
	ZydisMnemonic op = alu[rng_below(&g->r, ARRAY_SIZE(alu))];

	switch (rng_below(&g->r, 10)) {
	case 0:
	case 1: INS(g, MOV, d, m); break;
	case 2:
	case 3: INS(g, MOV, m, s); break;
	case 4: INS(g, MOV, m, op_i((int8_t)rng_next(&g->r))); break;
	case 5: prog_ins(g, op, 0, 2, (prog_op[]){m, s}); break;
	case 6:
		if (op != ZYDIS_MNEMONIC_TEST) {
			prog_ins(g, op, 0, 2, (prog_op[]){d, m});
			break;
		} /* fall through */
	case 7: prog_ins(g, op, 0, 2, (prog_op[]){m, op_i((int8_t)rng_next(&g->r))}); break;
	case 8: INS(g, CMOVNBE, d, m); break;
	default: INS(g, IMUL, d, m); break;
	}
}

static void access_other(struct prog_gen *g, const struct group *w)
{
	unsigned bits = prog_bits(g), n = prog_dst(g);
	prog_op m = place(g, w, bits / 8);

	switch (rng_below(&g->r, 12)) {
	case 0: INS(g, MOVZX, op_r(prog_reg(g, n, 32)), place(g, w, 1)); break;
	case 1: INS(g, MOVSX, op_r(prog_reg(g, n, 64)), place(g, w, 2)); break;
	case 2: INS(g, MOVSXD, op_r(prog_reg(g, n, 64)), place(g, w, 4)); break;
	case 3: INS(g, INC, m); break;
	case 4: INS(g, NOT, m); break;
	case 5: INS(g, NEG, m); break;
	case 6: INS(g, SHL, m, op_i(rng_below(&g->r, 9))); break;
	case 7: INS(g, BTS, place(g, w, 4), op_i(rng_below(&g->r, 32))); break;
	case 8: INS(g, SETB, place(g, w, 1)); break;
	case 9: INS(g, XADD, m, op_r(prog_reg(g, n, bits))); break;
	case 10: INS(g, MOVBE, op_r(prog_reg(g, n, 32)), place(g, w, 4)); break;
	default:
		INS(g, PUSH, place(g, w, 8));
		INS(g, POP, place(g, w, 8));
		break;
	}
}

static void access_vector(struct prog_gen *g, const struct group *w)
{
	unsigned n = rng_below(&g->r, 16);
	prog_op x = op_r(ZYDIS_REGISTER_XMM0 + n), y = op_r(ZYDIS_REGISTER_YMM0 + n);

	switch (rng_below(&g->r, 10)) {
	case 0: INS(g, MOVUPS, x, place(g, w, 16)); break;
	case 1: INS(g, MOVUPS, place(g, w, 16), x); break;
	case 2: INS(g, MOVAPS, x, place(g, w, 16)); break;
	case 3: INS(g, MOVDQA, place(g, w, 16), x); break;
	case 4: INS(g, VMOVDQU, y, place(g, w, 32)); break;
	case 5: INS(g, VMOVUPS, place(g, w, 32), y); break;
	case 6: INS(g, MOVQ, place(g, w, 8), x); break;
	case 7: INS(g, MOVSD, x, place(g, w, 8)); break;
	case 8: INS(g, PADDD, x, place(g, w, 16)); break;
	default: INS(g, VPXOR, y, y, place(g, w, 32)); break;
	}
}

/* Moves the register that the group stands on. */
static void move_base(struct prog_gen *g, const struct group *w)
{
	switch (rng_below(&g->r, 4)) {
	case 0: INS(g, ADD, op_r(w->base), op_i((int8_t)rng_next(&g->r))); break;
	case 1: INS(g, LEA, op_r(w->base), op_m(w->base, (int)rng_below(&g->r, 65) - 32, 8)); break;
	case 2: INS(g, INC, op_r(w->base)); break;
	default: INS(g, SUB, op_r(w->base), op_i(8)); break;
	}
}

void fill_memory(struct prog_gen *g)
{
	static const uint8_t bases[] = {RSI, RDI, R8, R9, R10, R11, R15, R12, RAX};
	bool stable = rng_chance(&g->r, 25);
	struct group w = {.index = ZYDIS_REGISTER_NONE, .scale = 1};

	if (stable) {
		w.base = prog_pointer(g);
	} else {
		w.base = ZYDIS_REGISTER_RAX + bases[rng_below(&g->r, sizeof(bases))];
		INS(g, MOV, op_r(w.base), op_i(edge(g)));
	}
	if (rng_chance(&g->r, 25)) {
		w.index = ZYDIS_REGISTER_RCX;
		w.scale = 1u << rng_below(&g->r, 4);
		INS(g, MOV, op_r(ZYDIS_REGISTER_ECX), op_i(rng_below(&g->r, 8)));
	}
	w.disp = rng_chance(&g->r, 60) ? 0 : (int8_t)rng_next(&g->r);
	for (unsigned n = 2 + rng_below(&g->r, 6); n-- > 0;) {
		switch (rng_below(&g->r, 10)) {
		case 0:
			if (!stable)
				move_base(g, &w);
			break;
		case 1:
		case 2: access_vector(g, &w); break;
		case 3:
		case 4: access_other(g, &w); break;
		default: access_integer(g, &w); break;
		}
	}
}
