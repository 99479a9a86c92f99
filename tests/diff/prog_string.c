/* String instructions of all sizes and directions, across pages, and locked read-modify-writes. */
#include "tests/diff/prog_gen.h"

static uint64_t near_edge(struct prog_gen *g)
{
	int off = (int)rng_below(&g->r, 400) - 200;

	switch (rng_below(&g->r, 8)) {
	case 0: return DATA_BASE + DATA_SIZE + off;
	case 1: return RO_BASE + off;
	case 2: return RO_BASE + 512 + off;
	case 3: return DATA_BASE + off;
	default: return DATA_BASE + PAGE_SIZE + off;
	}
}

static uint64_t draw_count(struct prog_gen *g)
{
	switch (rng_below(&g->r, 10)) {
	case 0: return 0;
	case 1: return rng_below(&g->r, 6000);
	case 2: return rng_next(&g->r) >> rng_below(&g->r, 40);
	default: return rng_below(&g->r, 40);
	}
}

static void load(struct prog_gen *g, unsigned reg, uint64_t v)
{
	INS(g, MOV, op_r(ZYDIS_REGISTER_RAX + reg), op_i(v));
}

static void string(struct prog_gen *g)
{
	/* MOVS, STOS, LODS, CMPS, SCAS */
	static const uint8_t opcode[5] = {0xa4, 0xaa, 0xac, 0xa6, 0xae};
	unsigned op = rng_below(&g->r, ARRAY_SIZE(opcode)), size = rng_below(&g->r, 4);
	unsigned rep = rng_below(&g->r, 4);
	uint8_t bytes[4], n = 0;

	if (rep)
		bytes[n++] = rep == 3 ? 0xf2 : 0xf3;
	if (size == 1)
		bytes[n++] = 0x66;
	if (size == 3)
		bytes[n++] = 0x48;
	bytes[n++] = opcode[op] | (size > 0);
	prog_bytes(g, bytes, n);
}

static void strings(struct prog_gen *g)
{
	uint64_t to = near_edge(g);

	if (rng_chance(&g->r, 30))
		rng_chance(&g->r, 50) ? INS0(g, STD) : INS0(g, CLD);
	load(g, RDI, to);
	/* Source and destination often overlap. */
	load(g, RSI, rng_chance(&g->r, 50) ? to + (int)rng_below(&g->r, 64) - 32 : near_edge(g));
	load(g, RCX, draw_count(g));
	for (unsigned n = 1 + rng_below(&g->r, 3); n-- > 0;) {
		string(g);
		if (rng_chance(&g->r, 30))
			load(g, RCX, draw_count(g));
	}
}

/* Naturally aligned: processors differ in what a lock across lines costs and means. */
static void locked(struct prog_gen *g)
{
	unsigned bits = prog_bits(g), wide = MAX(bits, 16u);
	uint64_t at = (near_edge(g) & ~63ull) + (rng_below(&g->r, 64) & ~(wide / 8 - 1));
	prog_op m = op_m(ZYDIS_REGISTER_RDI, 0, bits / 8);
	prog_op s = op_r(prog_reg(g, prog_src(g), bits)), d = op_r(prog_reg(g, prog_dst(g), bits));
	prog_op i = op_i((int8_t)rng_next(&g->r)), bit = op_i(rng_below(&g->r, wide));
	const ZydisInstructionAttributes lock = ZYDIS_ATTRIB_HAS_LOCK;

	load(g, RDI, at);
	switch (rng_below(&g->r, 14)) {
	case 0: INS_WITH(g, ADD, lock, m, s); break;
	case 1: INS_WITH(g, SUB, lock, m, i); break;
	case 2: INS_WITH(g, OR, lock, m, s); break;
	case 3: INS_WITH(g, XOR, lock, m, i); break;
	case 4: INS_WITH(g, ADC, lock, m, s); break;
	case 5: INS_WITH(g, INC, lock, m); break;
	case 6: INS_WITH(g, NEG, lock, m); break;
	case 7: INS_WITH(g, NOT, lock, m); break;
	case 8: INS_WITH(g, XADD, lock, m, d); break;
	case 9: INS(g, XCHG, m, d); break;
	case 10: INS_WITH(g, CMPXCHG, lock, m, s); break;
	case 11: INS_WITH(g, BTS, lock, op_m(ZYDIS_REGISTER_RDI, 0, wide / 8), bit); break;
	case 12: INS_WITH(g, CMPXCHG8B, lock, op_m(ZYDIS_REGISTER_RDI, 0, 8)); break;
	default: INS0(g, MFENCE); break;
	}
}

void fill_string(struct prog_gen *g)
{
	for (unsigned n = 1 + rng_below(&g->r, 2); n-- > 0;) {
		if (rng_chance(&g->r, 60))
			strings(g);
		else
			locked(g);
	}
}
