/* Code that stores to itself: to operands and opcodes ahead, behind and next door. */
#include "tests/diff/prog_gen.h"

#define CC_L 0xc

/* Of binary operations on two registers; all leave the same flags defined but AF. ADC, SBB last. */
static const uint8_t opcodes[] = {0x01, 0x29, 0x31, 0x39, 0x21, 0x09, 0x11, 0x19};

static uint8_t opcode(struct prog_gen *g)
{
	return opcodes[rng_below(&g->r, sizeof(opcodes) - (g->opt->patch_readers ? 0 : 2))];
}

/* Of a conditional jump, or of its opposite. */
static uint8_t jump_opcode(struct prog_gen *g)
{
	return 0x70 | (g->opt->patch_readers ? rng_below(&g->r, 16) : rng_below(&g->r, 2) | CC_L);
}

/* mov r32, imm32 whose immediate is to be stored to. */
static void immediate(struct prog_gen *g, uint16_t label)
{
	uint8_t mov[5] = {0xb8 | rng_below(&g->r, 3)}; /* EAX, ECX, EDX */

	prog_place(g, label);
	prog_bytes(g, mov, sizeof(mov));
}

static void operation(struct prog_gen *g, uint16_t label)
{
	uint8_t op[2] = {opcode(g), 0xc0 | rng_below(&g->r, 3) << 3};
	struct prog_item *i;

	op[1] |= rng_below(&g->r, 3);
	prog_place(g, label);
	prog_begin(g);
	prog_bytes(g, op, sizeof(op));
	/* Whichever of them it becomes. */
	i = g->open;
	i->tested |= FLAG_CF;
	i->undefined |= FLAG_AF;
	i->defined &= ~FLAG_AF;
	prog_end(g);
}

/* A short jump over one item, whose condition is to be stored to. */
static void condition(struct prog_gen *g, uint16_t label)
{
	const uint8_t jcc[2] = {jump_opcode(g)};
	uint16_t over = prog_label(g);

	prog_place(g, label);
	prog_begin(g);
	prog_bytes(g, jcc, sizeof(jcc));
	prog_refer(g, REF_REL8, over);
	g->open->tested |= FLAGS_ARITH & ~FLAG_AF;
	prog_end(g);
	INS(g, MOV, op_r(prog_reg(g, prog_dst(g), 32)), op_r(prog_reg(g, prog_src(g), 32)));
	prog_place(g, over);
}

static void store_immediate(struct prog_gen *g, uint16_t label)
{
	unsigned bits = 8u << rng_below(&g->r, 3);
	prog_op m = op_m(ZYDIS_REGISTER_RIP, 0, bits / 8);
	prog_op s = op_r(prog_reg(g, prog_dst(g), bits));
	unsigned behind = 0;

	prog_begin(g);
	switch (rng_below(&g->r, 6)) {
	case 0:
		INS(g, MOV, m, op_i((int8_t)rng_next(&g->r)));
		behind = bits == 32 ? 4 : bits / 8;
		break;
	case 1: INS(g, ADD, m, s); break;
	case 2: INS(g, XCHG, m, s); break;
	case 3: INS_WITH(g, XADD, ZYDIS_ATTRIB_HAS_LOCK, m, s); break;
	case 4: INS(g, NOT, m); break;
	default: INS(g, MOV, m, s); break;
	}
	prog_refer_disp(g, REF_PATCH, label, 1, behind);
	prog_end(g);
}

static void store_byte(struct prog_gen *g, uint16_t label, uint8_t byte)
{
	prog_begin(g);
	INS(g, MOV, op_m(ZYDIS_REGISTER_RIP, 0, 1), op_i((int8_t)byte));
	prog_refer_disp(g, REF_PATCH, label, 0, 1);
	prog_end(g);
}

/* A store to a page of code that changes no instruction. */
static void store_nearby(struct prog_gen *g)
{
	uint32_t at = CODE_BASE + CODE_SIZE - 8 * (1 + rng_below(&g->r, 4));

	INS(g, MOV, op_m(ZYDIS_REGISTER_NONE, at, 8), op_r(prog_reg(g, prog_src(g), 64)));
}

static void store(struct prog_gen *g, unsigned what, uint16_t label)
{
	switch (what) {
	case 0: store_immediate(g, label); break;
	case 1: store_byte(g, label, opcode(g)); break;
	default: store_byte(g, label, jump_opcode(g)); break;
	}
}

void fill_patch(struct prog_gen *g)
{
	static void (*const target[])(struct prog_gen * g, uint16_t label) = {immediate, operation,
									      condition};
	unsigned what = rng_below(&g->r, 3), stores = 1 + rng_below(&g->r, 2);
	uint16_t label;

	if (g->p->labels >= PROG_LABELS - 24)
		return;
	label = prog_label(g);
	if (rng_chance(&g->r, 25))
		store_nearby(g);
	if (rng_chance(&g->r, 60))
		for (unsigned n = 0; n < stores; n++)
			store(g, what, label);
	if (rng_chance(&g->r, 50))
		fill_flags(g);
	target[what](g, label);
	/* Stores behind it count in loops and in the next call. */
	if (rng_chance(&g->r, 50))
		store(g, what, label);
}
