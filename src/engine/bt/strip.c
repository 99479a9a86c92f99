/*
 * Loops without checks. The unit's first instructions may be a loop: some jump of the unit leads
 * back to its top. Where an access of such a loop moves by a constant distance each time around,
 * its page is looked up once for a strip of as many rounds as stay in that page, and the loop's
 * second copy, for strips, has no check of it. A table that lies where it lies and is read by a
 * short index has two pages at most, which are looked up, too; then the copy only chooses. Checks
 * of other accesses are in both copies.
 *
 * The jump back leads to the strip's head, which sees to it that nobody wants the VCPU, finds the
 * pages and counts the rounds. Whatever it does not find is the business of the first copy.
 */
#include <stdlib.h>

#include "src/engine/bt/strip.h"

#define MAX_STRIDE (PAGE_SIZE / 8)
/* Mean number of rounds of a loop that is worth a second copy. */
#define LONG_RUN 8

/* The instruction that ends the loop, or t->n. */
static unsigned loop_end(const struct tr *t)
{
	unsigned n = 0;

	while (n < t->n && !((tr_is_jcc(&t->in[n]) || tr_is_jump(&t->in[n])) &&
			     tr_target(&t->in[n]) == t->in[0].off))
		n++;
	return n;
}

/*
 * Whether the loop was left seldom as long as that was counted: while it was interpreted. Later
 * code of the unit goes by what was found then.
 */
static bool runs_long(const struct tr *t, const struct tr_insn *end)
{
	int64_t next = tr_next(end);
	const struct block *b;

	if (atomic_load_relaxed(&t->b->native))
		return atomic_load_relaxed(&t->b->runs_long);
	if (tr_is_jump(end) || next >= (int64_t)PAGE_SIZE)
		b = NULL;
	else
		b = code_find(t->bt->bc->code, (t->b->gpa & PAGE_MASK) + next, t->b->key, NO_GFN);
	atomic_store_relaxed(&t->b->runs_long, !b || atomic_load_relaxed(&b->heat) * LONG_RUN <=
							       atomic_load_relaxed(&t->b->heat));
	return atomic_load_relaxed(&t->b->runs_long);
}

bool tr_has_strip(const struct tr *t)
{
	unsigned end = loop_end(t);

	if (end == t->n || t->bt->stubs->single || t->any_half || t->x87 || t->ctx == TLB_ALIGN ||
	    t->in[0].live_in || !runs_long(t, &t->in[end]))
		return false;
	for (unsigned n = 0; n <= end; n++)
		if (!t->in[n].emit || t->in[n].may_leave || t->in[n].barrier)
			return false;
	return true;
}

/* The register that holds a value at the loop's top, and how far it gets in one round. */
static bool register_of(const struct tr *t, uint32_t root, ZydisRegister *r, int64_t *stride)
{
	*r = ZYDIS_REGISTER_NONE;
	*stride = 0;
	if (!root)
		return true;
	for (unsigned n = 0; n < 16; n++) {
		const struct tr_value *before = &t->reg_values[0][n];
		const struct tr_value *after = &t->reg_values[t->n][n];

		if (before->root != root)
			continue;
		*r = ZYDIS_REGISTER_RAX + n;
		*stride = after->delta - before->delta;
		return before->delta == 0 && after->root == root;
	}
	return false;
}

/*
 * m: the group's first byte in the first round, without its index; and how far that gets in one
 * round. False if it is not known.
 */
static bool first_at(const struct tr *t, const struct tr_group *g, ZydisDecodedOperandMem *m,
		     int64_t *stride)
{
	*m = (ZydisDecodedOperandMem){.type = ZYDIS_MEMOP_TYPE_MEM,
				      .segment = ZYDIS_REGISTER_DS,
				      .scale = 1 << g->scale,
				      .disp = {.value = g->lo}};
	return g->seg == SEG_NONE && g->lo == (int32_t)g->lo &&
	       register_of(t, g->base, &m->base, stride);
}

bool strip_moves_evenly(const struct tr *t, const struct tr_group *g, ZydisDecodedOperandMem *m,
			int64_t *stride)
{
	int64_t base, index;

	if (!first_at(t, g, m, &base) || !register_of(t, g->index, &m->index, &index))
		return false;
	*stride = base + (index << g->scale);
	return llabs(*stride) <= (int64_t)MAX_STRIDE && (!g->align || *stride % g->align == 0);
}

int64_t strip_reach(const struct tr_group *g)
{
	return ((int64_t)g->below - 1) << g->scale;
}

bool strip_is_table(const struct tr *t, const struct tr_group *g, ZydisDecodedOperandMem *m)
{
	int64_t span = g->hi - g->lo + 1, stride;

	return g->below && !g->align && first_at(t, g, m, &stride) && !stride &&
	       !(span & (span - 1)) && span <= 1 << g->scale &&
	       strip_reach(g) + span <= (int64_t)PAGE_SIZE;
}

/* --- registers that the loop leaves alone ------------------------------------------------- */

static uint32_t registers_of(const struct tr_insn *in)
{
	uint32_t used = 0;

	for (unsigned k = 0; k < in->zi.operand_count; k++) {
		const ZydisDecodedOperand *o = &in->op[k];
		ZydisRegister r[3] = {o->reg.value};
		unsigned n = 1;

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			r[0] = o->mem.base;
			r[n++] = o->mem.index;
		} else if (o->type != ZYDIS_OPERAND_TYPE_REGISTER) {
			n = 0;
		}
		while (n-- > 0)
			if (tr_gpr(r[n]) >= 0)
				used |= 1u << tr_gpr(r[n]);
	}
	return used;
}

/* Borrows at most max registers that hold nothing the loop needs, to be given back. */
static void borrow(struct tr *t, struct strip *s, unsigned max)
{
	uint32_t used = 1u << RSP;

	for (unsigned n = 0; n < t->n; n++)
		used |= registers_of(&t->in[n]);
	for (unsigned r = 0; r < 16 && s->nborrowed < max; r++)
		if (!(used >> r & 1) && host_reg_of(r) != IN_MEMORY)
			s->borrowed[s->nborrowed++] = r;
}

void strip_undo(struct tr *t, const struct strip *s)
{
	for (unsigned n = 0; n < s->nborrowed; n++)
		e_load(t->e, host_reg_of(s->borrowed[n]), GPR_OFF(s->borrowed[n]));
}

/* Which groups need no checks in the copy; how many. */
static unsigned look_ahead(struct tr *t)
{
	unsigned ahead = 0, tables = 0;
	ZydisDecodedOperandMem m;
	int64_t stride;

	for (unsigned n = 0; n < t->ngroups; n++) {
		struct tr_group *g = &t->group[n];

		if (strip_moves_evenly(t, g, &m, &stride) && ahead < CPU_BT_STRIP) {
			g->ahead = true;
			g->latch = NO_LATCH;
			g->slot = ADDEND_SLOTS + ahead++;
		} else if (strip_is_table(t, g, &m) && tables < CPU_BT_TABLES) {
			g->latch = NO_LATCH;
			g->table = ++tables;
		}
	}
	return ahead + tables;
}

/* Nothing in the copy leaves it, but at its end: no check, no jump, and nothing that may_leave. */
static bool is_closed(const struct tr *t, unsigned ahead)
{
	if (ahead < t->ngroups)
		return false;
	for (unsigned n = 0; n + 1 < t->n; n++)
		if (tr_is_jcc(&t->in[n]))
			return false;
	return true;
}

/* --- addends in registers ------------------------------------------------------------------ */

static bool in_register(ZydisRegister r)
{
	return tr_gpr(r) >= 0 && host_reg_of(tr_gpr(r)) != IN_MEMORY;
}

static bool same_value(struct tr_value a, struct tr_value b)
{
	return a.root == b.root && a.delta == b.delta;
}

/* Whether the register holds the same all the time. */
static bool stays(const struct tr *t, ZydisRegister r)
{
	for (unsigned n = 1; n <= t->n; n++)
		if (!same_value(t->reg_values[n][tr_gpr(r)], t->reg_values[0][tr_gpr(r)]))
			return false;
	return in_register(r);
}

/*
 * What of an address with two registers stays may be part of the addend. All accesses of the group
 * have to name it by the same register.
 */
static enum tr_fold choose_fold(const struct tr *t, unsigned group)
{
	const ZydisDecodedOperandMem *m = t->group[group].check->m;
	bool index = true, base = true;

	if (!in_register(m->base) || !in_register(m->index))
		return FOLD_NOTHING;
	for (unsigned n = 0; n < t->n; n++) {
		for (unsigned k = 0; k < t->in[n].naccs; k++) {
			const struct tr_access *a = &t->in[n].acc[k];

			if (a->group != group)
				continue;
			index &= a->m->index == m->index && in_register(a->m->base);
			base &= a->m->base == m->base && in_register(a->m->index);
		}
	}
	if (index && stays(t, m->index))
		return FOLD_INDEX;
	return base && stays(t, m->base) ? FOLD_BASE : FOLD_NOTHING;
}

/* As far as registers go. */
static void choose_registers(struct tr *t, const struct strip *s)
{
	unsigned next = 1;

	for (unsigned n = 0; n < t->ngroups && next < s->nborrowed; n++) {
		struct tr_group *g = &t->group[n];

		if (!g->ahead)
			continue;
		g->reg = host_reg_of(s->borrowed[next++]);
		g->fold = choose_fold(t, n);
	}
}

/* --- the counter --------------------------------------------------------------------------- */

/* How far a register gets in one round, or 0. */
static int64_t stride_of(const struct tr *t, unsigned gpr)
{
	struct tr_value before = t->reg_values[0][gpr], after = t->reg_values[t->n][gpr];
	int64_t stride = before.root == after.root ? after.delta - before.delta : 0;

	return stride == (int32_t)stride ? stride : 0;
}

/* A register that tells rounds apart: its number, or -1. */
static int counting_register(const struct tr *t)
{
	for (int n = 0; n < 16; n++)
		if (stride_of(t, n))
			return n;
	return -1;
}

/* Whether it is the same in each round. */
static bool may_be_limit(const struct tr *t, const ZydisDecodedOperand *o)
{
	int gpr = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? tr_gpr(o->reg.value) : -1;

	return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ||
	       (gpr >= 0 && same_value(t->reg_values[t->n][gpr], t->reg_values[0][gpr]));
}

/* The loop may end with a comparison of its counter with a limit, and a jump if they differ. */
static void find_compare(struct tr *t, struct strip *s)
{
	struct tr_insn *end = &t->in[t->n - 1], *in = &t->in[MAX(t->n, 2u) - 2];

	if (t->n < 2 || !tr_is_jcc(end) || (end->zi.opcode & 15) != CC_NE ||
	    in->zi.mnemonic != ZYDIS_MNEMONIC_CMP || in->zi.operand_width != 64)
		return;
	for (unsigned k = 0; k < 2; k++) {
		int64_t stride;

		if (in->op[k].type != ZYDIS_OPERAND_TYPE_REGISTER || !may_be_limit(t, &in->op[!k]))
			continue;
		stride = stride_of(t, tr_gpr(in->op[k].reg.value));
		if (!stride || llabs(stride) & (llabs(stride) - 1))
			continue;
		s->compare = in;
		s->limit = !k;
		s->counter = tr_gpr(in->op[k].reg.value);
		s->stride = stride;
	}
}

/* --- the copy ------------------------------------------------------------------------------ */

/* To the loop's top unless the counter has reached the bound. */
static void emit_again(struct tr *t, const struct strip *s, const uint8_t *top)
{
	unsigned h = host_reg_of(s->counter), bound = host_reg_of(s->borrowed[0]);
	struct emit *e = t->e;

	if (!s->closed) {
		if (h == IN_MEMORY) {
			h = SCRATCH0;
			e_load(e, h, GPR_OFF(s->counter));
		}
		e_gs(e, true, 0x3b, h, CPU_OFF(bt.bound)); /* cmp h, gs:[bound] */
	} else if (h == IN_MEMORY) {
		e_gs(e, true, 0x39, bound, GPR_OFF(s->counter)); /* cmp gs:[counter], bound */
	} else {
		e_code(e, 0x48 | (bound >> 3) << 2 | h >> 3, 0x39,
		       0xc0 | (bound & 7) << 3 | (h & 7)); /* cmp h, bound */
	}
	e_jcc_to(e, CC_NE, top);
}

/* Each round has to be paid for. */
static void emit_count(struct tr *t, const struct strip *s)
{
	struct emit *e = t->e;

	e_gs(e, false, 0x8b, SCRATCH0, CPU_OFF(bt.left));
	e_code(e, 0x41, 0x83, 0xea, t->n); /* sub r10d, n */
	e_jcc_to(e, CC_S, s->undo);
	e_gs(e, false, 0x89, SCRATCH0, CPU_OFF(bt.left));
}

static void emit_insn(struct tr *t, struct tr_insn *in)
{
	t->at = in - t->in;
	if (!in->rsp_behind)
		tr_settle_rsp(t);
	tr_checks(t, in);
	tr_flags_before(t, in);
	in->emit(t, in);
	tr_flags_after(t, in);
}

/* Behind the copy's last instruction, to the loop's top, the head, or what is behind the loop. */
static void emit_end(struct tr *t, const struct strip *s, const uint8_t *top)
{
	struct tr_insn *end = &t->in[t->n - 1];
	unsigned cc = (end->zi.opcode & 15) ^ 1;
	struct emit *e = t->e;
	uint8_t *exit = NULL;

	if (s->compare) {
		/* All flags that it sets are dead. */
		emit_again(t, s, top);
		emit_insn(t, s->compare);
	}
	tr_flags_before(t, end);
	if (tr_is_jcc(end) && s->closed)
		exit = e_jcc(e, cc);
	else if (tr_is_jcc(end))
		tr_exit(t, tr_next(end), cc);
	/* At the top the flags are dead. */
	if (!s->compare)
		emit_again(t, s, top);
	e_jmp_to(e, s->again);
	if (!exit)
		return;
	e_patch_here(e, exit);
	strip_undo(t, s);
	tr_exit(t, tr_next(end), TR_ALWAYS);
}

static void emit_copy(struct tr *t, const struct strip *s)
{
	const uint8_t *top = t->e->p;

	t->held = NO_REG;
	if (t->bt->counted)
		emit_count(t, s);
	for (struct tr_insn *in = t->in; in < &t->in[t->n - 1]; in++)
		if (in != s->compare)
			emit_insn(t, in);
	tr_settle_rsp(t);
	emit_end(t, s, top);
}

/* False: there is no use. */
static bool plan(struct tr *t, struct strip *s)
{
	unsigned ahead;

	t->n = loop_end(t) + 1;
	t->in[t->n - 1].follow = FOLLOW_NOTHING;
	tr_start_passes(t);
	t->e = &t->bt->e;
	tr_plan(t);
	tr_flags(t);
	tr_groups(t);
	s->counter = counting_register(t);
	if (s->counter < 0)
		return false;
	s->stride = stride_of(t, s->counter);
	ahead = look_ahead(t);
	s->closed = is_closed(t, ahead);
	if (s->closed)
		find_compare(t, s);
	borrow(t, s, s->closed ? 1 + ahead : 1);
	if (s->closed)
		choose_registers(t, s);
	return ahead && s->nborrowed && !t->in[0].live_in;
}

const uint8_t *tr_emit_strip(struct tr *t)
{
	struct strip s = {0};

	if (!plan(t, &s))
		return NULL;
	s.undo = t->e->p;
	strip_undo(t, &s);
	e_jmp_to(t->e, t->entry_near);
	strip_emit_head(t, &s);
	emit_copy(t, &s);
	return s.head;
}
