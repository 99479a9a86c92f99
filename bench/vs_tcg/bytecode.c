/*
 * An interpreter of bytecode, once with a switch and once with computed goto. Its program counts
 * primes by trial division.
 */
#include "work.h"

enum op { LOAD, MOVE, ADD, SUB, REMAINDER, JUMP_ZERO, JUMP_LESS, JUMP, HALT };

struct code {
	uint8_t op, a, b, c; /* mostly: register a = register b op register c */
	int32_t value;	     /* a constant, or where to jump */
};

/* Registers of the program: 0 count, 1 candidate, 2 divisor, 3 one, 4 limit, 5 scratch. */
static const struct code program[] = {
	{LOAD, 0, 0, 0, 0},	  /*  0 */
	{LOAD, 1, 0, 0, 2},	  /*  1 */
	{LOAD, 3, 0, 0, 1},	  /*  2 */
	{LOAD, 4, 0, 0, 200},	  /*  3 */
	{LOAD, 2, 0, 0, 2},	  /*  4: the next candidate */
	{SUB, 5, 1, 2, 0},	  /*  5: the next divisor */
	{JUMP_ZERO, 5, 0, 0, 10}, /*  6: prime */
	{REMAINDER, 5, 1, 2, 0},  /*  7 */
	{JUMP_ZERO, 5, 0, 0, 11}, /*  8 */
	{JUMP, 0, 0, 0, 13},	  /*  9 */
	{ADD, 0, 0, 3, 0},	  /* 10 */
	{ADD, 1, 1, 3, 0},	  /* 11 */
	{JUMP_LESS, 1, 4, 0, 4},  /* 12: falls to the end below by way of 13 */
	{JUMP_LESS, 1, 4, 0, 15}, /* 13 */
	{HALT, 0, 0, 0, 0},	  /* 14 */
	{ADD, 2, 2, 3, 0},	  /* 15 */
	{MOVE, 5, 2, 0, 0},	  /* 16 */
	{JUMP, 0, 0, 0, 5},	  /* 17 */
};

static uint64_t switch_unit(void)
{
	const struct code *pc = program;
	int64_t r[8] = {0};

	for (;; pc++)
		switch ((enum op)pc->op) {
		case LOAD: r[pc->a] = pc->value; break;
		case MOVE: r[pc->a] = r[pc->b]; break;
		case ADD: r[pc->a] = r[pc->b] + r[pc->c]; break;
		case SUB: r[pc->a] = r[pc->b] - r[pc->c]; break;
		case REMAINDER: r[pc->a] = (int32_t)r[pc->b] % (int32_t)r[pc->c]; break;
		case JUMP_ZERO: pc = r[pc->a] ? pc : program + pc->value - 1; break;
		case JUMP_LESS: pc = r[pc->a] >= r[pc->b] ? pc : program + pc->value - 1; break;
		case JUMP: pc = program + pc->value - 1; break;
		case HALT: return r[0];
		}
}

#define NEXT	     goto *labels[(++pc)->op]
#define GO_TO(value) goto *labels[(pc = program + (value))->op]

static uint64_t goto_unit(void)
{
	static const void *const labels[] = {&&load,	  &&move,      &&add,  &&sub, &&remainder,
					     &&jump_zero, &&jump_less, &&jump, &&halt};
	const struct code *pc = program;
	int64_t r[8] = {0};

	GO_TO(0);
load:
	r[pc->a] = pc->value;
	NEXT;
move:
	r[pc->a] = r[pc->b];
	NEXT;
add:
	r[pc->a] = r[pc->b] + r[pc->c];
	NEXT;
sub:
	r[pc->a] = r[pc->b] - r[pc->c];
	NEXT;
remainder:
	r[pc->a] = (int32_t)r[pc->b] % (int32_t)r[pc->c];
	NEXT;
jump_zero:
	if (!r[pc->a])
		GO_TO(pc->value);
	NEXT;
jump_less:
	if (r[pc->a] < r[pc->b])
		GO_TO(pc->value);
	NEXT;
jump:
	GO_TO(pc->value);
halt:
	return r[0];
}

const struct work bytecode_works[] = {
	{.name = "bytecode_switch", .ops = 1, .unit = switch_unit},
	{.name = "bytecode_goto", .ops = 1, .unit = goto_unit},
	{},
};
