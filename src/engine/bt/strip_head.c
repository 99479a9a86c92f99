/*
 * What stands before each strip of a loop: nobody wants the VCPU; the pages of the groups, the
 * number of rounds that stay in them and before the loop's end, and the counter's value then.
 */
#include <stdlib.h>

#include "src/engine/bt/strip.h"

/* If no group moves. */
#define MAX_ROUNDS 1024

static void shift_right(struct emit *e, unsigned reg, unsigned by)
{
	e_code(e, 0x48 | reg >> 3, 0xc1, 0xe8 | (reg & 7), by);
}

static void multiply(struct emit *e, unsigned reg, int32_t by)
{
	e_code(e, 0x48 | (reg >> 3) << 2 | reg >> 3, 0x69, 0xc0 | (reg & 7) << 3 | (reg & 7));
	e32(e, by);
}

/* reg = the less of both, unsigned; not by a jump, which nobody could predict. */
static void at_most(struct emit *e, unsigned reg, unsigned other)
{
	unsigned rex = 0x48 | (reg >> 3) << 2 | other >> 3, rm = (reg & 7) << 3 | (other & 7);

	/* cmp other, reg and not the other way: "below" is one flag, "above" two. */
	e_code(e, rex, 0x39, 0xc0 | rm);
	e_code(e, rex, 0x0f, 0x40 | CC_B, 0xc0 | rm); /* cmovb reg, other */
}

static void to_first_copy(const struct strip *s, struct emit *e, uint8_t *from)
{
	e_patch_to(e, from, s->undo);
}

static unsigned rounds_of(const struct strip *s)
{
	return host_reg_of(s->borrowed[0]);
}

/* --- groups -------------------------------------------------------------------------------- */

/*
 * The rounds, less one, are or become no more than how often the group, whose first byte's address
 * `first` is and whose last one's SCRATCH0, moves on inside its page.
 */
static void emit_rounds(struct tr *t, struct strip *s, const struct tr_group *g, unsigned first,
			int64_t stride)
{
	unsigned distance = llabs(stride), left = g->reg != NO_REG ? g->reg : SCRATCH0;
	bool bmi2 = t->bt->stubs->isa.bmi2;
	struct emit *e = t->e;

	if (!stride)
		return;
	if (!s->limited)
		left = rounds_of(s);
	/* The bytes left in the page, as the upper bits; then as many strides. */
	e_rotr(e, bmi2, left, stride > 0 ? SCRATCH0 : first, PAGE_SHIFT);
	if (stride > 0)
		e_code(e, 0x48 | left >> 3, 0xf7, 0xd0 | (left & 7)); /* not left */
	if (distance & (distance - 1)) {
		shift_right(e, left, 64 - PAGE_SHIFT);
		multiply(e, left, (1u << 16) / distance);
		shift_right(e, left, 16);
	} else {
		shift_right(e, left, 64 - PAGE_SHIFT + __builtin_ctz(distance));
	}
	if (s->limited)
		at_most(e, rounds_of(s), left);
	s->limited = true;
	if (left == SCRATCH0)
		e_lea(e, SCRATCH0, first, H_NONE, 0, g->hi - g->lo);
}

static void emit_aligned(struct tr *t, const struct strip *s, const struct tr_group *g,
			 unsigned first)
{
	unsigned beyond = (g->lo - g->align_at) & (g->align - 1);
	struct emit *e = t->e;

	if (beyond) {
		e_lea(e, SCRATCH0, first, H_NONE, 0, -(int)beyond);
		first = SCRATCH0;
	}
	e_code(e, 0x40 | first >> 3, 0xf6, 0xc0 | (first & 7), g->align - 1); /* test first, imm8 */
	to_first_copy(s, e, e_jcc(e, CC_NE));
}

/* What the copy's accesses add to what moves of their address. */
static void emit_addend(struct tr *t, const struct tr_group *g)
{
	const ZydisDecodedOperandMem *m = g->check->m;
	struct emit *e = t->e;

	if (g->reg == NO_REG)
		e_store(e, SCRATCH1, CPU_OFF(bt.addend) + 8 * g->slot);
	else if (g->fold == FOLD_INDEX)
		e_lea(e, g->reg, SCRATCH1, host_reg_of(tr_gpr(m->index)), tr_scale(m), 0);
	else if (g->fold == FOLD_BASE)
		e_lea(e, g->reg, SCRATCH1, host_reg_of(tr_gpr(m->base)), 0, 0);
	else
		e_mov_rr(e, g->reg, SCRATCH1);
}

/* Whether the address is what a host register holds. */
static bool is_plain(const ZydisDecodedOperandMem *m)
{
	return m->index == ZYDIS_REGISTER_NONE && m->base != ZYDIS_REGISTER_NONE &&
	       !m->disp.value && host_reg_of(tr_gpr(m->base)) != IN_MEMORY;
}

/* The page of a group and the rounds that stay in it. */
static void emit_group(struct tr *t, struct strip *s, const struct tr_group *g,
		       const ZydisDecodedOperandMem *m, int64_t stride)
{
	unsigned first = is_plain(m) ? host_reg_of(tr_gpr(m->base)) : SCRATCH1;
	struct emit *e = t->e;

	if (first == SCRATCH1)
		tr_address(t, &t->in[0], m, SCRATCH1, 0);
	if (g->align)
		emit_aligned(t, s, g, first);
	e_lea(e, SCRATCH0, first, H_NONE, 0, g->hi - g->lo);
	emit_rounds(t, s, g, first, stride);
	if (first == SCRATCH1)
		shift_right(e, SCRATCH1, BT_INDEX_SHIFT);
	else
		e_rotr(e, t->bt->stubs->isa.bmi2, SCRATCH1, first, BT_INDEX_SHIFT);
	to_first_copy(s, e, tr_shifted_level(t, g));
	emit_addend(t, g);
}

/* The pages of a table's first and last element. */
static void emit_table(struct tr *t, const struct strip *s, const struct tr_group *g,
		       const ZydisDecodedOperandMem *m)
{
	int64_t last = g->hi - g->lo;
	struct emit *e = t->e;

	tr_address(t, &t->in[0], m, SCRATCH1, 0);
	if (last) {
		e_code(e, 0x41, 0xf6, 0xc3, last); /* test r11b, imm8 */
		to_first_copy(s, e, e_jcc(e, CC_NE));
	}
	e_mov_rr(e, SCRATCH0, SCRATCH1);
	e_code(e, 0x49, 0x81, 0xca), e32(e, (uint32_t)~PAGE_MASK); /* or r10, imm32 */
	e_code(e, 0x49, 0x83, 0xc2, 1);				   /* add r10, imm8 */
	e_store(e, SCRATCH0, TR_TABLE(g, second));
	for (unsigned k = 0; k < 2; k++) {
		if (k)
			tr_address(t, &t->in[0], m, SCRATCH1, strip_reach(g));
		e_lea(e, SCRATCH0, SCRATCH1, H_NONE, 0, last);
		to_first_copy(s, e, tr_first_level(t, g));
		e_store(e, SCRATCH1, TR_TABLE(g, addend[k]));
	}
}

static void emit_groups(struct tr *t, struct strip *s)
{
	for (unsigned n = 0; n < t->ngroups; n++) {
		const struct tr_group *g = &t->group[n];
		ZydisDecodedOperandMem m;
		int64_t stride;

		if (g->ahead && strip_moves_evenly(t, g, &m, &stride))
			emit_group(t, s, g, &m, stride);
		else if (g->table && strip_is_table(t, g, &m))
			emit_table(t, s, g, &m);
	}
}

/* --- the end of the strip ------------------------------------------------------------------ */

static void load_limit(struct tr *t, const ZydisDecodedOperand *o)
{
	unsigned g;

	if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		e_mov_imm32(t->e, SCRATCH0, o->imm.value.s);
		return;
	}
	g = tr_gpr(o->reg.value);
	if (host_reg_of(g) == IN_MEMORY)
		e_load(t->e, SCRATCH0, GPR_OFF(g));
	else
		e_mov_rr(t->e, SCRATCH0, host_reg_of(g));
}

/*
 * The rounds, less one, become less if the loop ends before. A counter that steps over its limit is
 * looked at there once more than needed. Then it is less than a stride away from it, or nothing if
 * it began there, and comes to it when it has gone around all numbers, if at all.
 */
static void emit_limit(struct tr *t, const struct strip *s)
{
	unsigned h = host_reg_of(s->counter);
	uint32_t distance = llabs(s->stride);
	struct emit *e = t->e;

	load_limit(t, &s->compare->op[s->limit]);
	if (h == IN_MEMORY)
		e_gs(e, true, 0x2b, SCRATCH0, GPR_OFF(s->counter)); /* sub */
	else
		e_code(e, 0x4c | h >> 3, 0x2b, 0xd0 | (h & 7)); /* sub r10, h */
	if (s->stride < 0)
		e_code(e, 0x49, 0xf7, 0xda); /* neg r10 */
	e_lea(e, SCRATCH0, SCRATCH0, H_NONE, 0, -(int32_t)distance);
	if (distance > 1)
		shift_right(e, SCRATCH0, __builtin_ctz(distance));
	at_most(e, rounds_of(s), SCRATCH0);
}

/* What the counter holds after so many rounds. */
static void emit_bound(struct tr *t, const struct strip *s)
{
	unsigned r = rounds_of(s), h = host_reg_of(s->counter);
	struct emit *e = t->e;

	multiply(e, r, s->stride);
	if (h == IN_MEMORY)
		e_gs(e, true, 0x03, r, GPR_OFF(s->counter)); /* add */
	e_lea(e, r, r, h == IN_MEMORY ? H_NONE : h, 0, s->stride);
	if (!s->closed)
		e_store(e, r, CPU_OFF(bt.bound));
}

void strip_emit_head(struct tr *t, struct strip *s)
{
	struct emit *e = t->e;

	s->head = e->p;
	for (unsigned n = 0; n < s->nborrowed; n++)
		e_store(e, host_reg_of(s->borrowed[n]), GPR_OFF(s->borrowed[n]));
	/* They do not go away in the copy. */
	if (t->vec_level)
		to_first_copy(s, e, bt_emit_vec_below(e, t->vec_level));
	s->again = s->closed ? e->p : s->head;
	to_first_copy(s, e, bt_emit_wanted(e));
	emit_groups(t, s);
	if (!s->limited)
		e_mov_imm32(e, rounds_of(s), MAX_ROUNDS - 1);
	if (s->compare)
		emit_limit(t, s);
	emit_bound(t, s);
	if (!s->closed)
		strip_undo(t, s);
}
