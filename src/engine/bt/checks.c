/*
 * The checks of groups of accesses in compiled code: against a latch (mmu/latch.h), and where that
 * fails, or does too often, against the first level of the software TLB.
 */
#include "src/engine/bt/translate.h"

/* --- the look-up ------------------------------------------------------------------------------ */

/* From the address of the group's first access, with the registers as at the check. */
static int64_t first_byte(const struct tr_group *g)
{
	return g->lo - g->check_disp + g->check_by;
}

/* By how much the first byte is beyond an address that has to be aligned. */
static unsigned beyond_aligned(const struct tr_group *g)
{
	return g->align ? (g->lo - g->align_at) & (g->align - 1) : 0;
}

static enum tlb_kind kind_of(const struct tr_group *g)
{
	return g->write ? TLB_STORES : TLB_LOADS;
}

/* SCRATCH1 = address of the first byte, SCRATCH0 = of the last; jumps out if misaligned. */
static void emit_span(struct tr *t, struct tr_slow *s)
{
	const struct tr_group *g = s->g;
	struct emit *e = t->e;

	tr_address(t, &t->in[g->first], g->check->m, SCRATCH1, first_byte(g));
	if (g->align) {
		e_lea(e, SCRATCH0, SCRATCH1, H_NONE, 0, -(int)beyond_aligned(g));
		e_code(e, 0x41, 0xf6, 0xc2, g->align - 1); /* test r10b, imm8 */
		s->miss[s->nmiss++] = e_jcc(e, CC_NE);
	}
	e_lea(e, SCRATCH0, SCRATCH1, H_NONE, 0, g->hi - g->lo);
}

static unsigned half_of(const struct tr *t)
{
	return t->any_half ? BT_ANY_HALF : t->upper;
}

uint8_t *tr_first_level(struct tr *t, const struct tr_group *g)
{
	return bt_emit_first_level(t->e, t->ctx, kind_of(g), half_of(t));
}

uint8_t *tr_shifted_level(struct tr *t, const struct tr_group *g)
{
	return bt_emit_shifted_level(t->e, t->ctx, kind_of(g), half_of(t));
}

/* As tr_first_level(); out of line if it is not there. */
static void emit_lookup(struct tr *t, const struct tr_group *g, struct tr_slow *s)
{
	struct emit *e = t->e;

	s->retry = e->p;
	emit_span(t, s);
	s->other = tr_first_level(t, g);
	s->have = e->p;
}

/* --- latches ---------------------------------------------------------------------------------- */

/*
 * SCRATCH0 = distance from the latch's page. Rotated by the alignment it is small only if it is a
 * multiple of that.
 */
static void emit_latch_check(struct tr *t, const struct tr_group *g, struct tr_slow *s)
{
	struct emit *e = t->e;
	unsigned beyond = beyond_aligned(g), shift = g->align ? __builtin_ctz(g->align) : 0;

	tr_address(t, &t->in[g->first], g->check->m, SCRATCH0, first_byte(g) - beyond);
	e_gs(e, true, 0x03, SCRATCH0, CPU_OFF(tlb.latches.tag) + 8 * t->upper);
	e_gs(e, true, 0x2b, SCRATCH0, TR_LATCH(g->latch, base));
	if (shift)
		e_code(e, 0x49, 0xc1, 0xca, shift); /* ror r10, imm8 */
	e_code(e, 0x49, 0x81, 0xfa);		    /* cmp r10, imm32 */
	e32(e, (PAGE_SIZE - (g->hi - g->lo + 1 + beyond)) >> shift);
	s->from = e_jcc(e, CC_A);
	s->done = e->p;
}

/*
 * Whether the group is at a constant distance from the code's page, and so known to be aligned and
 * in which page it lies. The latch of one that crosses pages is never filled.
 */
static bool is_fixed(const struct tr_group *g)
{
	return g->base == CODE_PAGE && !g->index && g->seg == SEG_NONE &&
	       !(g->align && (g->align_at & (g->align - 1)));
}

/* The distance of a fixed group's page from the code's. */
static int32_t fixed_page(const struct tr_group *g)
{
	return g->lo & PAGE_MASK;
}

/*
 * The latch of a fixed group has the code's page in place of the group's, and as addend what is to
 * be added to a distance from the code's page. So neither the check nor the access needs an
 * address.
 */
static void emit_fixed_check(struct tr *t, const struct tr_group *g, struct tr_slow *s)
{
	struct emit *e = t->e;

	tr_load_held(t, HELD_PAGE);
	e_gs(e, true, 0x03, SCRATCH0, CPU_OFF(tlb.latches.tag) + 8 * t->upper);
	e_gs(e, true, 0x3b, SCRATCH0, TR_LATCH(g->latch, base));
	s->from = e_jcc(e, CC_NE);
	s->done = e->p;
}

/* Makes a latch that was filled for a fixed group's page one of the code's. */
static void emit_fix(struct tr *t, const struct tr_group *g)
{
	struct emit *e = t->e;

	e_load(e, SCRATCH0, CPU_OFF(bt.page));
	e_gs(e, true, 0x01, SCRATCH0, TR_LATCH(g->latch, addend)); /* add */
	e_code(e, 0x65, 0x48, 0x81); /* sub qword gs:[latch.base], imm32 */
	e_field(e, 5, TR_LATCH(g->latch, base), 4), e32(e, fixed_page(g));
}

/* The latch's check failed: a stub looks the page up, and puts it into the latch. */
static void emit_latch_fill(struct tr *t, struct tr_slow *s)
{
	const struct tr_group *g = s->g;
	struct emit *e = t->e;
	uint8_t *miss;

	s->retry = e->p;
	emit_span(t, s);
	e_code(e, 0x65, 0xc7); /* mov dword gs:[latch], imm32 */
	e_field(e, 0, CPU_OFF(bt.latch), 4), e32(e, g->latch * sizeof(struct latch));
	e_call_to(e, t->bt->stubs->latch_fill[t->ctx][kind_of(g)][t->upper]);
	if (!g->fixed) {
		e_jcc_to(e, CC_AE, s->done);
		return;
	}
	miss = e_jcc(e, CC_B);
	emit_fix(t, g);
	e_jmp_to(e, s->done);
	e_patch_here(e, miss);
}

/* --- where they stand ------------------------------------------------------------------------- */

static bool wants_latch(const struct tr *t, const struct tr_group *g)
{
	/* Which tag to add is not known, or nothing is ever filled. */
	if (t->any_half || t->ctx == TLB_ALIGN)
		return false;
	if (t->seldom && !g->stack)
		return false;
	return !(atomic_load_relaxed(&t->b->lookups) >> g->place & 1);
}

/* An addend is read from the latch as long as the group is in use: no other group may fill it. */
static uint32_t take_latch(struct tr *t, const struct tr_group *g)
{
	if (g->stack && t->nstack < LATCH_STACK)
		return latch_of_stack(t->upper, g->write, t->b->gpa >> PAGE_SHIFT, t->nstack++);
	return code_alloc_latch(&t->bt->bc->room, t->upper);
}

/* SCRATCH1 = the addend of the page of a table that the access is in. */
static void emit_choice(struct tr *t, const struct tr_group *g)
{
	struct emit *e = t->e;

	tr_address(t, &t->in[g->first], g->check->m, SCRATCH0, first_byte(g));
	e_load(e, SCRATCH1, TR_TABLE(g, addend[0]));
	e_gs(e, true, 0x3b, SCRATCH0, TR_TABLE(g, second));
	e_code(e, 0x65, 0x4c, 0x0f, 0x43); /* cmovae r11, gs:[addend[1]] */
	e_field(e, SCRATCH1, TR_TABLE(g, addend[1]), 0);
}

/* Without a latch SCRATCH1 = the addend of the group's page. */
static void emit_check(struct tr *t, struct tr_insn *at, struct tr_group *g)
{
	struct tr_slow *s;

	if (g->table) {
		emit_choice(t, g);
		return;
	}
	s = &t->slow[t->nslow++];
	*s = (struct tr_slow){.g = g, .at = at, .mem = t->flags_mem};
	g->latch = wants_latch(t, g) ? take_latch(t, g) : NO_LATCH;
	g->fixed = g->latch != NO_LATCH && is_fixed(g);
	if (g->latch == NO_LATCH)
		emit_lookup(t, g, s);
	else if (g->fixed)
		emit_fixed_check(t, g, s);
	else
		emit_latch_check(t, g, s);
}

/* How many groups from the next on are checked before instruction n. */
static unsigned due(const struct tr *t, unsigned n)
{
	unsigned k = t->next_group;

	while (k < t->ngroups && t->group[k].check_at == n)
		k++;
	return k - t->next_group;
}

void tr_checks(struct tr *t, struct tr_insn *in)
{
	struct emit *e = t->e;
	unsigned n = in - t->in;

	for (unsigned left = due(t, n); left; left--, t->next_group++) {
		struct tr_group *g = &t->group[t->next_group];

		if (g->ahead)
			continue;
		tr_settle_rsp(t);
		tr_flags_clobber(t, in->live_in, SCRATCH0);
		emit_check(t, in, g);
		/* A latch's is loaded by who uses it. */
		t->addend = g->latch == NO_LATCH ? t->next_group : NO_GROUP;
		/* It is used at once and never again, or kept. */
		g->kept = g->latch == NO_LATCH &&
			  (g->last != n || tr_needs_both(g->check->m) || in->naccs > 1 || left > 1);
		if (g->kept)
			e_store(e, SCRATCH1, CPU_OFF(bt.addend) + 8 * g->slot);
	}
}

static void emit_miss(struct tr *t, const struct tr_slow *s, struct bt_check *c)
{
	const struct tr_group *g = s->g;
	struct emit *e = t->e;

	c->retry = e_exec(e, s->retry);
	c->span = g->hi - g->lo;
	c->align = g->align;
	c->align_off = g->align_at - g->lo;
	c->write = g->write;
	c->any_half = t->any_half;
	c->fill_write = g->check->write && !g->check->unsure && g->check_at == g->first;
	c->alone = g->check_at == g->first && t->in[g->first].naccs == 1 && !g->check->unsure;
	c->access = g->check_disp - g->lo;
	c->narrow = g->narrow;
	c->place = g->place;
	tr_address(t, &t->in[g->first], g->check->m, SCRATCH0, first_byte(g));
	e_mov_imm64(e, SCRATCH1, (uintptr_t)c);
	e_jmp_to(e, t->bt->stubs->miss[s->mem]);
}

/* A check that failed. */
static void emit_check_slow(struct tr *t, struct tr_slow *s)
{
	struct emit *e = t->e;

	if (s->from) {
		e_patch_here(e, s->from);
		emit_latch_fill(t, s);
	} else {
		e_patch_here(e, s->other);
		if (t->ctx != TLB_ALIGN) {
			e_call_to(e, t->bt->stubs->refill[t->ctx][kind_of(s->g)]);
			e_jcc_to(e, CC_AE, s->have);
		}
	}
	for (unsigned n = 0; n < s->nmiss; n++)
		e_patch_here(e, s->miss[n]);
	emit_miss(t, s, tr_check(t, s->at));
}

/* Vector or x87 registers are not there, or the interpreter is to take over. */
static void emit_other_slow(struct tr *t, const struct tr_slow *s)
{
	struct bt_check *c = tr_check(t, s->at);
	struct emit *e = t->e;

	e_patch_here(e, s->from);
	c->retry = s->retry ? e_exec(e, s->retry) : NULL;
	c->vec_level = s->vec_level;
	c->x87 = s->x87;
	e_mov_imm64(e, SCRATCH1, (uintptr_t)c);
	e_jmp_to(e, s->kind == SLOW_ENTER ? t->bt->stubs->vec_enter[s->mem]
					  : t->bt->stubs->rest[s->mem]);
}

/* A rare case of an instruction: its handler does it. */
static void emit_slow_step(struct tr *t, const struct tr_slow *s)
{
	struct emit *e = t->e;

	e_patch(s->from, e->p);
	e_mov_imm64(e, SCRATCH0, (uintptr_t)tr_site(t, s->at));
	e_call_to(e, t->bt->stubs->step[s->mem]);
	e_jmp_to(e, s->retry);
}

struct tr_slow *tr_slow_if(struct tr *t, const struct tr_insn *in, enum slow_kind kind, unsigned cc)
{
	struct tr_slow *s = &t->slow[t->nslow++];

	*s = (struct tr_slow){.kind = kind, .from = e_jcc(t->e, cc), .at = in, .mem = t->flags_mem};
	return s;
}

void tr_slow_back(struct tr *t, struct tr_slow *s)
{
	s->retry = t->e->p;
	t->x87_paged = false;
	t->addend = NO_GROUP;
	tr_hold(t, NO_REG);
}

void tr_emit_slow(struct tr *t)
{
	for (unsigned n = 0; n < t->nslow && !t->e->full; n++) {
		if (t->slow[n].kind == SLOW_MISS)
			emit_check_slow(t, &t->slow[n]);
		else if (t->slow[n].kind == SLOW_STEP)
			emit_slow_step(t, &t->slow[n]);
		else
			emit_other_slow(t, &t->slow[n]);
	}
}
