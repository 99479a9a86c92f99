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
#include "src/engine/bt/translate.h"

#define MAX_STRIDE (PAGE_SIZE / 8)
#define MAX_ROUNDS 1024
/* A head costs as much as checks in so many rounds. */
#define MIN_ROUNDS 4
/* Mean number of rounds of a loop that is worth a second copy. */
#define LONG_RUN 8

struct strip {
	const uint8_t *head;
	const uint8_t *undo;		/* gives registers back, and goes to the first copy */
	int counter;			/* a register that tells rounds apart, or -1 */
	bool closed;			/* is_closed() */
	uint8_t borrowed[CPU_BT_STRIP]; /* guest registers */
	unsigned nborrowed;
};

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

/* Whether the group's page can be looked up ahead; m: its first byte in the first round. */
static bool moves_evenly(const struct tr *t, const struct tr_group *g, ZydisDecodedOperandMem *m,
			 int64_t *stride)
{
	int64_t base, index;

	if (!first_at(t, g, m, &base) || !register_of(t, g->index, &m->index, &index))
		return false;
	*stride = base + (index << g->scale);
	return llabs(*stride) <= (int64_t)MAX_STRIDE && (!g->align || *stride % g->align == 0);
}

/* How many bytes the accesses of a group are apart at most, by all that its index may be. */
static int64_t reach(const struct tr_group *g)
{
	return ((int64_t)g->below - 1) << g->scale;
}

/*
 * Whether the group is a table of at most a page whose elements do not cross pages if the first
 * one is aligned; m: that one.
 */
static bool is_table(const struct tr *t, const struct tr_group *g, ZydisDecodedOperandMem *m)
{
	int64_t span = g->hi - g->lo + 1, stride;

	return g->below && !g->align && first_at(t, g, m, &stride) && !stride &&
	       !(span & (span - 1)) && span <= 1 << g->scale &&
	       reach(g) + span <= (int64_t)PAGE_SIZE;
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

/*
 * Borrows at most max registers that hold nothing the loop needs, to be given back by emit_undo().
 * The first counts rounds in the head.
 */
static void borrow(struct tr *t, struct strip *s, unsigned max)
{
	uint32_t used = 1u << RSP;

	for (unsigned n = 0; n < t->n; n++)
		used |= registers_of(&t->in[n]);
	for (unsigned r = 0; r < 16 && s->nborrowed < max; r++)
		if (!(used >> r & 1) && host_reg_of(r) != IN_MEMORY)
			s->borrowed[s->nborrowed++] = r;
}

static void emit_keep(struct tr *t, const struct strip *s)
{
	for (unsigned n = 0; n < s->nborrowed; n++)
		e_store(t->e, host_reg_of(s->borrowed[n]), GPR_OFF(s->borrowed[n]));
}

static void emit_undo(struct tr *t, const struct strip *s)
{
	for (unsigned n = 0; n < s->nborrowed; n++)
		e_load(t->e, host_reg_of(s->borrowed[n]), GPR_OFF(s->borrowed[n]));
}

static void to_first_copy(const struct strip *s, struct emit *e, uint8_t *from)
{
	e_patch_to(e, from, s->undo);
}

/* --- the head ------------------------------------------------------------------------------ */

/* The rounds become less if the page of the first byte, in SCRATCH1, ends before. */
static void emit_rounds(struct tr *t, const struct strip *s, const struct tr_group *g,
			int64_t stride)
{
	unsigned distance = llabs(stride), rounds = host_reg_of(s->borrowed[0]);
	struct emit *e = t->e;

	if (!stride)
		return;
	e_lea(e, SCRATCH0, SCRATCH1, H_NONE, 0, stride > 0 ? g->hi - g->lo : 0);
	if (stride > 0)
		e_code(e, 0x49, 0xf7, 0xd2);			   /* not r10 */
	e_code(e, 0x41, 0x81, 0xe2), e32(e, (uint32_t)~PAGE_MASK); /* and r10d, imm32 */
	if (distance & (distance - 1)) {
		e_code(e, 0x45, 0x69, 0xd2), e32(e, (1u << 16) / distance); /* imul r10d, imm32 */
		e_code(e, 0x41, 0xc1, 0xea, 16);			    /* shr r10d, imm8 */
	} else {
		e_code(e, 0x41, 0xc1, 0xea, __builtin_ctz(distance)); /* shr r10d, imm8 */
	}
	e_code(e, 0x41, 0x83, 0xc2, 1); /* add r10d, imm8 */
	/* Not by a jump, which nobody could predict. */
	e_code(e, 0x44 | rounds >> 3, 0x39, 0xd0 | (rounds & 7)); /* cmp rounds, r10d */
	e_code(e, 0x41 | (rounds >> 3) << 2, 0x0f, 0x47, 0xc2 | (rounds & 7) << 3); /* cmova */
}

/* The page of a group and the rounds that stay in it. */
static void emit_group(struct tr *t, const struct strip *s, const struct tr_group *g,
		       const ZydisDecodedOperandMem *m, int64_t stride)
{
	struct emit *e = t->e;

	tr_address(t, &t->in[0], m, SCRATCH1, 0);
	if (g->align) {
		e_lea(e, SCRATCH0, SCRATCH1, H_NONE, 0,
		      -(int)((g->lo - g->align_at) & (g->align - 1)));
		e_code(e, 0x41, 0xf6, 0xc2, g->align - 1); /* test r10b, imm8 */
		to_first_copy(s, e, e_jcc(e, CC_NE));
	}
	emit_rounds(t, s, g, stride);
	e_lea(e, SCRATCH0, SCRATCH1, H_NONE, 0, g->hi - g->lo);
	to_first_copy(s, e, tr_first_level(t, g));
	e_store(e, SCRATCH1, CPU_OFF(bt.addend) + 8 * g->slot);
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
			tr_address(t, &t->in[0], m, SCRATCH1, reach(g));
		e_lea(e, SCRATCH0, SCRATCH1, H_NONE, 0, last);
		to_first_copy(s, e, tr_first_level(t, g));
		e_store(e, SCRATCH1, TR_TABLE(g, addend[k]));
	}
}

/* Which groups need no checks in the copy; how many. */
static unsigned look_ahead(struct tr *t)
{
	unsigned ahead = 0, tables = 0;
	ZydisDecodedOperandMem m;
	int64_t stride;

	for (unsigned n = 0; n < t->ngroups; n++) {
		struct tr_group *g = &t->group[n];

		if (moves_evenly(t, g, &m, &stride) && ahead < CPU_BT_STRIP) {
			g->ahead = true;
			g->latch = NO_LATCH;
			g->slot = ADDEND_SLOTS + ahead++;
		} else if (is_table(t, g, &m) && tables < CPU_BT_TABLES) {
			g->latch = NO_LATCH;
			g->table = ++tables;
		}
	}
	return ahead + tables;
}

static void emit_groups(struct tr *t, const struct strip *s)
{
	for (unsigned n = 0; n < t->ngroups; n++) {
		const struct tr_group *g = &t->group[n];
		ZydisDecodedOperandMem m;
		int64_t stride;

		if (g->ahead && moves_evenly(t, g, &m, &stride))
			emit_group(t, s, g, &m, stride);
		else if (g->table && is_table(t, g, &m))
			emit_table(t, s, g, &m);
	}
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

/* Then groups have their addends in registers, as far as these go. */
static void emit_addends(struct tr *t, const struct strip *s)
{
	for (unsigned n = 0; n < MIN(t->ngroups, s->nborrowed); n++) {
		struct tr_group *g = &t->group[n];

		if (!g->ahead)
			continue;
		g->reg = host_reg_of(s->borrowed[n]);
		e_load(t->e, g->reg, CPU_OFF(bt.addend) + 8 * g->slot);
	}
}

/* A register that tells rounds apart: its number, or -1. */
static int counting_register(const struct tr *t)
{
	for (int n = 0; n < 16; n++) {
		struct tr_value before = t->reg_values[0][n], after = t->reg_values[t->n][n];

		if (before.root == after.root && before.delta != after.delta)
			return n;
	}
	return -1;
}

/* cpu->bt.bound = what the counting register holds after so many rounds. */
static void emit_bound(struct tr *t, const struct strip *s)
{
	int64_t stride = t->reg_values[t->n][s->counter].delta - t->reg_values[0][s->counter].delta;
	unsigned rounds = host_reg_of(s->borrowed[0]);
	struct emit *e = t->e;

	if (stride != (int32_t)stride)
		t->failed = true;
	e_code(e, 0x4c | rounds >> 3, 0x69, 0xd0 | (rounds & 7)), e32(e, stride); /* imul r10 */
	if (host_reg_of(s->counter) == IN_MEMORY)
		e_gs(e, true, 0x03, SCRATCH0, GPR_OFF(s->counter));
	else
		e_lea(e, SCRATCH0, SCRATCH0, host_reg_of(s->counter), 0, 0);
	e_store(e, SCRATCH0, CPU_OFF(bt.bound));
}

/* To the loop's top unless the counting register has reached the bound. */
static void emit_again(struct tr *t, unsigned counter, const uint8_t *top)
{
	unsigned h = host_reg_of(counter);
	struct emit *e = t->e;

	if (h == IN_MEMORY) {
		h = SCRATCH0;
		e_load(e, h, GPR_OFF(counter));
	}
	e_gs(e, true, 0x3b, h, CPU_OFF(bt.bound));
	e_jcc_to(e, CC_NE, top);
}

static void emit_head(struct tr *t, const struct strip *s)
{
	unsigned rounds = host_reg_of(s->borrowed[0]);
	struct emit *e = t->e;

	emit_keep(t, s);
	to_first_copy(s, e, bt_emit_wanted(e));
	if (t->vec_level)
		to_first_copy(s, e, bt_emit_vec_below(e, t->vec_level));
	e_mov_imm32(e, rounds, MAX_ROUNDS);
	emit_groups(t, s);
	e_code(e, 0x40 | rounds >> 3, 0x83, 0xf8 | (rounds & 7), MIN_ROUNDS); /* cmp rounds, imm8 */
	to_first_copy(s, e, e_jcc(e, CC_B));
	emit_bound(t, s);
	if (s->closed)
		emit_addends(t, s);
	else
		emit_undo(t, s);
}

/* --- the copy ------------------------------------------------------------------------------ */

/* Each round has to be paid for. */
static void emit_count(struct tr *t, const struct strip *s)
{
	struct emit *e = t->e;

	e_gs(e, false, 0x8b, SCRATCH0, CPU_OFF(bt.left));
	e_code(e, 0x41, 0x83, 0xea, t->n); /* sub r10d, n */
	to_first_copy(s, e, e_jcc(e, CC_S));
	e_gs(e, false, 0x89, SCRATCH0, CPU_OFF(bt.left));
}

/* Behind the copy's last instruction, to the loop's top, the head, or what is behind the loop. */
static void emit_end(struct tr *t, const struct strip *s, const uint8_t *top)
{
	struct tr_insn *end = &t->in[t->n - 1];
	unsigned cc = (end->zi.opcode & 15) ^ 1;
	struct emit *e = t->e;
	uint8_t *exit = NULL;

	tr_flags_before(t, end);
	if (tr_is_jcc(end) && s->closed)
		exit = e_jcc(e, cc);
	else if (tr_is_jcc(end))
		tr_exit(t, tr_next(end), cc);
	/* At the top the flags are dead. */
	emit_again(t, s->counter, top);
	if (s->closed)
		emit_undo(t, s);
	e_jmp_to(e, s->head);
	if (!exit)
		return;
	e_patch_here(e, exit);
	emit_undo(t, s);
	tr_exit(t, tr_next(end), TR_ALWAYS);
}

static void emit_copy(struct tr *t, const struct strip *s)
{
	const uint8_t *top = t->e->p;

	t->held = NO_REG;
	if (t->bt->counted)
		emit_count(t, s);
	for (struct tr_insn *in = t->in; in < &t->in[t->n - 1]; in++) {
		if (!in->rsp_behind)
			tr_settle_rsp(t);
		tr_checks(t, in);
		tr_flags_before(t, in);
		in->emit(t, in);
		tr_flags_after(t, in);
	}
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
	ahead = look_ahead(t);
	s->closed = is_closed(t, ahead);
	borrow(t, s, s->closed ? ahead : 1);
	return ahead && s->counter >= 0 && s->nborrowed && !t->in[0].live_in;
}

const uint8_t *tr_emit_strip(struct tr *t)
{
	struct strip s = {0};

	if (!plan(t, &s))
		return NULL;
	s.undo = t->e->p;
	emit_undo(t, &s);
	e_jmp_to(t->e, t->entry_near);
	s.head = t->e->p;
	emit_head(t, &s);
	emit_copy(t, &s);
	return s.head;
}
