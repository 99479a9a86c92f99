/* Control flow: branches, loops, calls and returns of all sorts, tables, other stacks. */
#include "tests/diff/prog_gen.h"

#define R64(n)	       op_r(ZYDIS_REGISTER_RAX + (n))
#define RSP_AT(disp)   op_m(ZYDIS_REGISTER_RSP, disp, 8)
#define ABSOLUTE(addr) op_m(ZYDIS_REGISTER_NONE, addr, 8)
#define SAVED_RSP(n)   (SAVED_BASE + 8 * (n))
#define OTHER_STACK    (STACK_BASE + 0x800)
#define MAX_DEPTH      3
#define ROOM	       60 /* items that a statement without others in it may need */

static bool room(const struct prog_gen *g)
{
	return g->p->count < PROG_ITEMS - ROOM - 20 * g->depth && g->p->labels < PROG_LABELS - 24 &&
	       g->p->ntable < PROG_TABLE - 8;
}

static void body(struct prog_gen *g, unsigned max)
{
	g->depth++;
	for (unsigned n = 1 + rng_below(&g->r, max); n-- > 0 && room(g);)
		flow_statement(g);
	g->depth--;
}

static void branch(struct prog_gen *g)
{
	uint16_t other = prog_label(g), end = prog_label(g);

	prog_jcc(g, rng_below(&g->r, 16), other);
	body(g, 2);
	if (rng_chance(&g->r, 50)) {
		prog_jmp(g, end);
		prog_place(g, other);
		body(g, 2);
	} else {
		prog_place(g, other);
	}
	prog_place(g, end);
}

static void skip_one(struct prog_gen *g)
{
	uint16_t end = prog_label(g);

	prog_jcc_short(g, rng_below(&g->r, 16), end);
	INS(g, MOV, op_r(prog_reg(g, prog_dst(g), 32)), op_r(prog_reg(g, prog_src(g), 32)));
	prog_place(g, end);
}

static void loop(struct prog_gen *g)
{
	uint16_t head = prog_label(g);
	unsigned guard;

	prog_place(g, head);
	body(g, 3);
	prog_settle(g);
	prog_begin(g);
	guard = prog_guard(g);
	if (rng_chance(&g->r, 30)) {
		INS(g, TEST, R64(FUEL), R64(FUEL));
		prog_jcc(g, 0xf, head); /* greater */
	} else {
		/* Flags live across the way back. */
		prog_jcc(g, rng_below(&g->r, 16), head);
	}
	prog_guard_end(g, guard);
	prog_end(g);
}

/* --- calls ---------------------------------------------------------------------------------- */

static uint16_t callee(struct prog_gen *g)
{
	return g->entry[g->next + rng_below(&g->r, g->functions - g->next)];
}

static void call_indirect(struct prog_gen *g, uint16_t to, bool jump)
{
	ZydisMnemonic m = jump ? ZYDIS_MNEMONIC_JMP : ZYDIS_MNEMONIC_CALL;
	uint32_t entry = prog_table(g, to);
	unsigned r = prog_dst(g);
	prog_op op;

	prog_settle(g);
	prog_begin(g);
	switch (rng_below(&g->r, 4)) {
	case 0:
		INS(g, MOV, R64(r), ABSOLUTE(entry));
		op = R64(r);
		break;
	case 1:
		INS(g, MOV, op_r(ZYDIS_REGISTER_EAX + r), op_i(entry - 40));
		op = op_m(ZYDIS_REGISTER_RAX + r, 40, 8);
		break;
	case 2:
		INS(g, MOV, op_r(ZYDIS_REGISTER_EAX + r), op_i((entry - TABLE_BASE) / 8));
		op = op_mx(ZYDIS_REGISTER_NONE, ZYDIS_REGISTER_RAX + r, 8, TABLE_BASE, 8);
		break;
	default: op = op_m(ZYDIS_REGISTER_RIP, 0, 8); break;
	}
	prog_ins(g, m, 0, 1, &op);
	if (op.type == ZYDIS_OPERAND_TYPE_MEMORY && op.mem.base == ZYDIS_REGISTER_RIP)
		prog_refer(g, REF_DATA, entry);
	if (prog_end(g) && !jump)
		prog_returned(g);
}

static void call(struct prog_gen *g)
{
	if (g->next == g->functions)
		return prog_filler(g);
	if (rng_chance(&g->r, 60))
		prog_call(g, callee(g));
	else
		call_indirect(g, callee(g), false);
}

/* call next; next: pop reg. Or the same as a jump by RET. */
static void return_elsewhere(struct prog_gen *g)
{
	static const uint8_t push[5] = {0x68};
	uint16_t to = prog_label(g);

	prog_settle(g);
	if (rng_chance(&g->r, 40)) {
		prog_call(g, to);
		prog_place(g, to);
		INS(g, POP, R64(prog_dst(g)));
		return;
	}
	prog_begin(g);
	prog_bytes(g, push, sizeof(push));
	prog_refer(g, REF_ABS32, to);
	INS0(g, RET);
	prog_end(g);
	if (rng_chance(&g->r, 50))
		prog_filler(g); /* never reached, but decoded by who looks ahead */
	prog_place(g, to);
}

static void table_jump(struct prog_gen *g)
{
	unsigned cases = 2u << rng_below(&g->r, 2), r = prog_dst(g), first = g->p->ntable;
	ZydisRegister index = ZYDIS_REGISTER_RAX + r;
	uint16_t label[4], end = prog_label(g);

	for (unsigned n = 0; n < cases; n++) {
		label[n] = prog_label(g);
		prog_table(g, label[n]);
	}
	prog_settle(g);
	prog_begin(g);
	if (rng_chance(&g->r, 50))
		INS(g, MOV, op_r(ZYDIS_REGISTER_EAX + r), op_r(prog_reg(g, prog_src(g), 32)));
	INS(g, AND, op_r(ZYDIS_REGISTER_EAX + r), op_i(cases - 1));
	if (rng_chance(&g->r, 50)) {
		INS(g, JMP, op_mx(ZYDIS_REGISTER_NONE, index, 8, TABLE_BASE + 8 * first, 8));
	} else {
		INS(g, MOV, op_r(index),
		    op_mx(ZYDIS_REGISTER_NONE, index, 8, TABLE_BASE + 8 * first, 8));
		INS(g, JMP, op_r(index));
	}
	prog_end(g);
	for (unsigned n = 0; n < cases; n++) {
		prog_place(g, label[n]);
		prog_filler(g);
		if (n < cases - 1 && rng_chance(&g->r, 70))
			prog_jmp(g, end);
	}
	prog_place(g, end);
}

/* --- stacks --------------------------------------------------------------------------------- */

static void other_stack(struct prog_gen *g)
{
	unsigned slot = 2 + g->depth;

	INS(g, MOV, ABSOLUTE(SAVED_RSP(slot)), R64(RSP));
	if (rng_chance(&g->r, 50))
		INS(g, MOV, R64(RSP), op_i(OTHER_STACK - 8 * rng_below(&g->r, 8)));
	else
		INS(g, LEA, R64(RSP), RSP_AT(-0x600));
	body(g, 3);
	INS(g, MOV, R64(RSP), ABSOLUTE(SAVED_RSP(slot)));
}

/* To a place in main, out of any depth of calls: by longjmp, or with the stack as it is. */
static void leave_all(struct prog_gen *g)
{
	static const uint8_t jmp[5] = {0xe9};
	unsigned guard;

	prog_settle(g);
	prog_begin(g);
	guard = prog_guard(g);
	if (rng_chance(&g->r, 60))
		INS(g, MOV, R64(RSP), ABSOLUTE(SAVED_RSP(1)));
	else
		INS(g, LEA, R64(RSP), RSP_AT(8));
	prog_bytes(g, jmp, sizeof(jmp));
	prog_refer(g, REF_REL32, g->landing[rng_below(&g->r, ARRAY_SIZE(g->landing))]);
	prog_guard_end(g, guard);
	prog_end(g);
}

/* Pushes and pops that match, with something in between. */
static void push_pop(struct prog_gen *g)
{
	unsigned n = 1 + rng_below(&g->r, 3);

	for (unsigned k = 0; k < n; k++) {
		switch (rng_below(&g->r, 4)) {
		case 0: INS(g, PUSH, op_i((int32_t)rng_next(&g->r))); break;
		case 1: INS(g, PUSH, op_m(prog_pointer(g), 8 * rng_below(&g->r, 8), 8)); break;
		default: INS(g, PUSH, R64(prog_src(g))); break;
		}
	}
	if (rng_chance(&g->r, 50))
		INS(g, ADD, op_m(ZYDIS_REGISTER_RSP, 8 * rng_below(&g->r, n), 8), R64(prog_src(g)));
	prog_filler(g);
	for (unsigned k = 0; k < n; k++) {
		if (rng_chance(&g->r, 25))
			INS(g, POP, op_m(prog_pointer(g), 8 * rng_below(&g->r, 8), 8));
		else
			INS(g, POP, R64(prog_dst(g)));
	}
}

void flow_statement(struct prog_gen *g)
{
	bool control = g->opt->kind == PROG_FLOW || rng_chance(&g->r, 35);

	if (!control || !room(g) || g->depth > MAX_DEPTH || rng_chance(&g->r, 25))
		return prog_filler(g);
	switch (rng_below(&g->r, 16)) {
	case 0:
	case 1: return branch(g);
	case 2: return skip_one(g);
	case 3:
	case 4:
	case 5: return loop(g);
	case 6:
	case 7:
	case 8: return call(g);
	case 9: return table_jump(g);
	case 10: return return_elsewhere(g);
	case 11: return g->in_main ? other_stack(g) : push_pop(g);
	case 12: return g->in_main ? fill_pointers(g) : leave_all(g);
	default: return push_pop(g);
	}
}

/* --- functions ------------------------------------------------------------------------------ */

static void recurse(struct prog_gen *g, unsigned self)
{
	unsigned guard;

	prog_settle(g);
	prog_begin(g);
	guard = prog_guard(g);
	INS(g, PUSH, R64(prog_src(g)));
	prog_call(g, g->entry[self]);
	INS(g, POP, R64(prog_dst(g)));
	prog_guard_end(g, guard);
	if (prog_end(g))
		prog_returned(g);
}

/* Returns to another place than where the call came from. */
static void redirect_return(struct prog_gen *g, int32_t where)
{
	unsigned guard;

	prog_settle(g);
	prog_begin(g);
	guard = prog_guard(g);
	INS(g, MOV, RSP_AT(where), op_i(0x7fffffff));
	prog_refer(g, REF_ABS32, g->landing[rng_below(&g->r, ARRAY_SIZE(g->landing))]);
	prog_guard_end(g, guard);
	prog_end(g);
}

static void finish(struct prog_gen *g)
{
	unsigned r = prog_dst(g);

	prog_settle(g);
	switch (rng_below(&g->r, 8)) {
	case 0:
		prog_begin(g);
		INS(g, POP, R64(r));
		INS(g, JMP, R64(r));
		prog_end(g);
		break;
	case 1:
		prog_begin(g);
		INS(g, POP, R64(r));
		INS(g, PUSH, R64(r));
		INS0(g, RET);
		prog_end(g);
		break;
	case 2: INS(g, RET, op_i(8 * rng_below(&g->r, 3))); break;
	case 3: /* a tail call */
		if (g->next < g->functions) {
			if (rng_chance(&g->r, 50))
				prog_jmp(g, callee(g));
			else
				call_indirect(g, callee(g), true);
			break;
		} /* fall through */
	default: INS0(g, RET); break;
	}
}

static void function(struct prog_gen *g, unsigned self)
{
	const bool frame = rng_chance(&g->r, 40);

	g->next = self + 1;
	g->undefined = 0;
	prog_place(g, g->entry[self]);
	if (frame) {
		INS(g, PUSH, R64(RBP));
		INS(g, MOV, R64(RBP), R64(RSP));
		INS(g, SUB, R64(RSP), op_i(48));
		g->rbp_busy = true;
	}
	body(g, 1 + g->opt->len / 4);
	if (rng_chance(&g->r, 50))
		recurse(g, self);
	body(g, 1 + g->opt->len / 8);
	if (rng_chance(&g->r, 20))
		redirect_return(g, frame ? 56 : 0);
	if (frame && rng_chance(&g->r, 50)) {
		INS0(g, LEAVE);
	} else if (frame) {
		INS(g, MOV, R64(RSP), R64(RBP));
		INS(g, POP, R64(RBP));
	}
	g->rbp_busy = false;
	finish(g);
}

/* Half of the functions lie across the end of a page. */
static void place_function(struct prog_gen *g, unsigned first_item, unsigned n)
{
	if (n < CODE_SIZE / PAGE_SIZE - 1 && rng_chance(&g->r, 50))
		g->p->item[first_item].place = (n + 1) * PAGE_SIZE - rng_below(&g->r, 100);
}

static void main_part(struct prog_gen *g)
{
	unsigned statements = 1 + g->opt->len, landed = 0;

	g->in_main = true;
	g->next = 0;
	INS(g, MOV, ABSOLUTE(SAVED_RSP(1)), R64(RSP));
	for (unsigned n = 0; n < statements && g->p->count < PROG_ITEMS / 2; n++) {
		flow_statement(g);
		if (landed < ARRAY_SIZE(g->landing) && rng_chance(&g->r, 30))
			prog_place(g, g->landing[landed++]);
	}
	while (landed < ARRAY_SIZE(g->landing))
		prog_place(g, g->landing[landed++]);
	prog_jmp(g, g->end);
	g->in_main = false;
}

void flow_program(struct prog_gen *g)
{
	static const uint8_t int3[] = {0xcc};

	g->functions = 1 + rng_below(&g->r, 4);
	g->end = prog_label(g);
	for (unsigned n = 0; n < ARRAY_SIZE(g->landing); n++)
		g->landing[n] = prog_label(g);
	for (unsigned n = 0; n < g->functions; n++)
		g->entry[n] = prog_label(g);
	main_part(g);
	for (unsigned n = 0; n < g->functions; n++) {
		unsigned first = g->p->count;

		function(g, n);
		place_function(g, first, n);
	}
	prog_place(g, g->end);
	prog_bytes(g, int3, sizeof(int3));
}
