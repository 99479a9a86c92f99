/* A flag is made, much happens that leaves it alone, and then it is read. */
#include "tests/diff/prog_gen.h"

static void make_binary(struct prog_gen *g, prog_op d, prog_op s)
{
	static const ZydisMnemonic op[] = {
		ZYDIS_MNEMONIC_ADD, ZYDIS_MNEMONIC_SUB, ZYDIS_MNEMONIC_CMP,
		ZYDIS_MNEMONIC_ADC, ZYDIS_MNEMONIC_SBB, ZYDIS_MNEMONIC_AND,
		ZYDIS_MNEMONIC_OR,  ZYDIS_MNEMONIC_XOR, ZYDIS_MNEMONIC_TEST};

	prog_ins(g, op[rng_below(&g->r, ARRAY_SIZE(op))], 0, 2, (prog_op[]){d, s});
}

static void make_shift(struct prog_gen *g, prog_op d)
{
	static const ZydisMnemonic op[] = {
		ZYDIS_MNEMONIC_SHL, ZYDIS_MNEMONIC_SHR, ZYDIS_MNEMONIC_SAR, ZYDIS_MNEMONIC_ROL,
		ZYDIS_MNEMONIC_ROR, ZYDIS_MNEMONIC_RCL, ZYDIS_MNEMONIC_RCR};
	prog_op by = rng_chance(&g->r, 40) ? op_r(ZYDIS_REGISTER_CL)
					   : op_i(rng_below(&g->r, 5) ? rng_below(&g->r, 32) : 1);

	prog_ins(g, op[rng_below(&g->r, ARRAY_SIZE(op))], 0, 2, (prog_op[]){d, by});
}

static void make_other(struct prog_gen *g, unsigned bits)
{
	unsigned wide = MAX(bits, 16u);
	prog_op d = op_r(prog_reg(g, prog_dst(g), wide)), s = op_r(prog_reg(g, prog_src(g), wide));
	prog_op word = op_i(((int)rng_below(&g->r, 256) & 0xd5) | 0x202 |
			    (rng_chance(&g->r, 50) ? FLAG_OF : 0));

	switch (rng_below(&g->r, 12)) {
	case 0: INS(g, BT, d, op_i(rng_below(&g->r, 16))); break;
	case 1: INS(g, IMUL, d, s); break;
	case 2: INS(g, BSF, d, s); break;
	case 3: INS(g, POPCNT, d, s); break;
	case 4: INS(g, LZCNT, d, s); break;
	case 5: INS0(g, STC); break;
	case 6: INS0(g, CMC); break;
	case 7: INS0(g, SAHF); break;
	case 8: INS(g, MUL, s); break;
	case 9: INS(g, ADCX, op_r(prog_reg(g, prog_dst(g), 64)), op_r(ZYDIS_REGISTER_RDX)); break;
	case 10: INS(g, XADD, d, op_r(prog_reg(g, prog_dst(g), wide))); break;
	default:
		prog_begin(g);
		g->open->fragile = true;
		INS(g, PUSH, word);
		INS0(g, POPFQ);
		prog_end(g);
		break;
	}
}

static void make(struct prog_gen *g)
{
	unsigned bits = prog_bits(g);
	prog_op d = op_r(prog_reg(g, prog_dst(g), bits)), s = op_r(prog_reg(g, prog_src(g), bits));
	prog_op m = op_m(prog_pointer(g), 8 * rng_below(&g->r, 8), bits / 8);
	prog_op i = op_i((int8_t)rng_next(&g->r));

	switch (rng_below(&g->r, 9)) {
	case 0:
	case 1: make_binary(g, d, s); break;
	case 2: make_binary(g, d, i); break;
	case 3: make_binary(g, m, s); break;
	case 4: INS(g, INC, rng_chance(&g->r, 50) ? d : m); break;
	case 5: INS(g, DEC, d); break;
	case 6: INS(g, NEG, rng_chance(&g->r, 50) ? d : m); break;
	case 7: make_shift(g, rng_chance(&g->r, 80) ? d : m); break;
	default: make_other(g, bits); break;
	}
}

/* Something that no flag notices, though it may take many paths. */
static void carry(struct prog_gen *g)
{
	unsigned bits = prog_bits(g), a = prog_dst(g), b = prog_src(g);
	prog_op d = op_r(prog_reg(g, a, bits)), s = op_r(prog_reg(g, b, bits));
	prog_op m = op_m(prog_pointer(g), 8 * rng_below(&g->r, 8), bits / 8);
	unsigned x = rng_below(&g->r, 16);

	switch (rng_below(&g->r, 13)) {
	case 0: INS(g, MOV, d, s); break;
	case 1:
	case 2: INS(g, MOV, d, m); break;
	case 3:
	case 4: INS(g, MOV, m, s); break;
	case 5:
		INS(g, LEA, op_r(prog_reg(g, a, 64)),
		    op_mx(ZYDIS_REGISTER_RAX + b, ZYDIS_REGISTER_R9, 4, (int8_t)rng_next(&g->r),
			  8));
		break;
	case 6:
		INS(g, PUSH, op_r(prog_reg(g, b, 64)));
		INS(g, POP, op_r(prog_reg(g, a, 64)));
		break;
	case 7: INS(g, XCHG, d, op_r(prog_reg(g, prog_dst(g), bits))); break;
	case 8: INS(g, NOT, rng_chance(&g->r, 50) ? d : m); break;
	case 9: INS(g, MOVUPS, op_r(ZYDIS_REGISTER_XMM0 + x), op_m(prog_pointer(g), 0, 16)); break;
	case 10: INS(g, MOVZX, op_r(prog_reg(g, a, 32)), op_m(prog_pointer(g), 3, 1)); break;
	case 11:
		if (g->next < g->functions && rng_chance(&g->r, 30))
			prog_call(g, g->entry[g->functions - 1]);
		break;
	default: INS(g, BSWAP, op_r(prog_reg(g, a, 64))); break;
	}
}

static void read(struct prog_gen *g)
{
	unsigned cc = rng_below(&g->r, 16), bits = MAX(prog_bits(g), 16u);
	const uint8_t setcc[] = {0x0f, 0x90 | cc, 0xc0 | rng_below(&g->r, 3)}; /* AL, CL, DL */
	prog_op d = op_r(prog_reg(g, prog_dst(g), bits)), s = op_r(prog_reg(g, prog_src(g), bits));
	uint16_t end;

	switch (rng_below(&g->r, 9)) {
	case 0:
	case 1: prog_bytes(g, setcc, sizeof(setcc)); break;
	case 2: INS(g, CMOVL, d, s); break;
	case 3: INS(g, CMOVNBE, d, op_m(prog_pointer(g), 16, bits / 8)); break;
	case 4: INS(g, ADC, d, s); break;
	case 5: INS(g, RCL, d, op_i(1)); break;
	case 6: INS0(g, LAHF); break;
	case 7:
		prog_begin(g);
		INS0(g, PUSHFQ);
		INS(g, POP, op_r(prog_reg(g, prog_dst(g), 64)));
		prog_end(g);
		break;
	default:
		end = prog_label(g);
		prog_jcc_short(g, cc, end);
		carry(g);
		prog_place(g, end);
		break;
	}
}

void fill_flags(struct prog_gen *g)
{
	for (unsigned n = 1 + rng_below(&g->r, 3); n-- > 0;) {
		make(g);
		for (unsigned k = rng_below(&g->r, 4); k-- > 0;)
			carry(g);
		if (g->p->labels < PROG_LABELS - 8)
			read(g);
		if (rng_chance(&g->r, 30))
			read(g);
	}
}
