/*
 * Which accesses share a check. Registers are followed through the unit as numbered values plus
 * constants: MOV, LEA, ADD and SUB with constants, PUSH, POP, CALL and RET keep a value's number,
 * so that [rsp+8] before and after a push, or [rbp-8] after "mov rbp, rsp", are relative to one
 * value.
 *
 * Accesses relative to the same values, at most MAX_SPAN apart, form a group with one check: that
 * the first and the last byte lie in one page that the software TLB has. (A group that was found to
 * cross a page time and again has at most NARROW_SPAN bytes.) Where the check fails for good, the
 * interpreter takes over at the instruction before which it stands, until the end of that block. So
 * a check may stand anywhere before the accesses it is for: nothing is visible of it. It stands
 * where the arithmetic flags are dead, if there is such a place.
 */
#include "src/engine/bt/translate.h"

#define MAX_SPAN    256
#define NARROW_SPAN 8
#define OPEN_GROUPS (ADDEND_SLOTS / 2)

struct pass {
	struct tr *t;
	/* What the registers hold before each instruction. */
	struct tr_value (*reg)[16];
	uint32_t next;			   /* number of the next unknown value */
	unsigned open[OPEN_GROUPS], nopen; /* groups that may still grow, the latest last */
	unsigned barrier;		   /* first instruction behind the last hand-over */
};

static struct tr_value unknown(struct pass *p)
{
	return (struct tr_value){.root = p->next++};
}

static struct tr_value value_of(const struct pass *p, ZydisRegister r, unsigned n)
{
	static const struct tr_value none;

	return r == ZYDIS_REGISTER_NONE || r == ZYDIS_REGISTER_RIP ? none : p->reg[n][tr_gpr(r)];
}

/* --- what an instruction does to registers ------------------------------------------------- */

static bool full_register(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->size == 64 && tr_gpr(o->reg.value) >= 0;
}

/* The new value of the destination of instruction n if it is a known one. */
static bool known_result(const struct pass *p, unsigned n, struct tr_value *v)
{
	const struct tr_insn *in = &p->t->in[n];
	const ZydisDecodedOperand *d = &in->op[0], *s = &in->op[1];
	bool constant = s->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

	if (!full_register(d))
		return false;
	*v = value_of(p, d->reg.value, n);
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_ADD: v->delta += constant ? s->imm.value.s : 0; return constant;
	case ZYDIS_MNEMONIC_SUB: v->delta -= constant ? s->imm.value.s : 0; return constant;
	case ZYDIS_MNEMONIC_INC: v->delta++; return true;
	case ZYDIS_MNEMONIC_DEC: v->delta--; return true;
	case ZYDIS_MNEMONIC_MOV:
		if (!full_register(s))
			return false;
		*v = value_of(p, s->reg.value, n);
		return true;
	case ZYDIS_MNEMONIC_LEA:
		if (in->zi.address_width != 64 || tr_gpr(s->mem.base) < 0 ||
		    s->mem.index != ZYDIS_REGISTER_NONE)
			return false;
		*v = value_of(p, s->mem.base, n);
		v->delta += s->mem.disp.value;
		return true;
	default: return false;
	}
}

/* An instruction that makes it of its first operand leaves less than this there; 0: who knows. */
static uint32_t result_below(const struct tr_insn *in)
{
	const ZydisDecodedOperand *d = &in->op[0], *s = &in->op[1];

	if (d->size < 32)
		return 0;
	if (in->zi.mnemonic == ZYDIS_MNEMONIC_MOVZX)
		return 1u << s->size;
	if (in->zi.mnemonic == ZYDIS_MNEMONIC_AND && s->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
	    s->imm.value.u < PAGE_SIZE)
		return s->imm.value.u + 1;
	return 0;
}

static struct tr_value bounded(struct tr_value v, uint32_t below)
{
	v.below = below;
	return v;
}

static struct tr_value stack_effect(struct pass *p, unsigned n)
{
	struct tr_value sp = p->reg[n][RSP];

	switch (p->t->in[n].zi.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_PUSHFQ: sp.delta -= 8; return sp;
	case ZYDIS_MNEMONIC_POP: sp.delta += 8; return sp;
	default: return unknown(p);
	}
}

/* Registers before instruction n + 1. */
static void effects(struct pass *p, unsigned n)
{
	const struct tr_insn *in = &p->t->in[n];
	struct tr_value *after = p->reg[n + 1], v = {0};
	bool known = known_result(p, n, &v), set_rsp = false;

	memcpy(after, p->reg[n], sizeof(p->reg[n]));
	for (unsigned k = 0; k < in->zi.operand_count; k++) {
		const ZydisDecodedOperand *o = &in->op[k];
		int r = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? tr_gpr(o->reg.value) : -1;

		if (r < 0 || !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		if (k == 0 && known)
			after[r] = v;
		else if (r != RSP || o->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			after[r] = bounded(unknown(p), k == 0 ? result_below(in) : 0);
		else if (!set_rsp)
			after[r] = stack_effect(p, n);
		set_rsp |= r == RSP;
	}
}

static void forget_all(struct pass *p, unsigned n)
{
	for (unsigned r = 0; r < 16; r++)
		p->reg[n][r] = unknown(p);
	p->nopen = 0;
	p->barrier = n;
}

/* --- groups -------------------------------------------------------------------------------- */

static uint8_t segment_of(const ZydisDecodedOperandMem *m)
{
	return m->segment == ZYDIS_REGISTER_FS	 ? SEG_FS
	       : m->segment == ZYDIS_REGISTER_GS ? SEG_GS
						 : SEG_NONE;
}

static void make_key(const struct pass *p, unsigned n, const struct tr_access *a,
		     struct tr_group *g)
{
	struct tr_value base = value_of(p, a->m->base, n), index = value_of(p, a->m->index, n);

	*g = (struct tr_group){.base = base.root, .index = index.root, .seg = segment_of(a->m)};
	g->scale = index.root ? tr_scale(a->m) : 0;
	g->below = index.below;
	g->lo = a->m->disp.value + base.delta + (index.delta << g->scale);
	if (a->m->base == ZYDIS_REGISTER_RIP) {
		g->base = CODE_PAGE;
		g->lo += tr_next(&p->t->in[n]);
	}
	g->hi = g->lo + a->len - 1;
	g->write = a->write;
	g->stack = g->base == p->reg[n][RSP].root && !index.root && g->seg == SEG_NONE;
	g->align = a->align;
	g->align_at = g->lo;
}

/* What both demand of the address can be asked in one. */
static bool alignments_agree(const struct tr_group *g, const struct tr_group *key)
{
	return !g->align || !key->align ||
	       (g->align == key->align && !((g->align_at - key->align_at) & (g->align - 1)));
}

/* What is relative to RIP is known to cross pages or not to. */
static bool page_agrees(const struct tr_group *g, const struct tr_group *key)
{
	int64_t lo = MIN(g->lo, key->lo), hi = MAX(g->hi, key->hi);

	return g->base != CODE_PAGE || !((lo ^ hi) & PAGE_MASK);
}

static bool joins(const struct tr_group *g, const struct tr_group *key)
{
	return page_agrees(g, key) && alignments_agree(g, key) && g->base == key->base &&
	       g->index == key->index && g->scale == key->scale && g->seg == key->seg &&
	       MAX(g->hi, key->hi) - MIN(g->lo, key->lo) < (g->narrow ? NARROW_SPAN : MAX_SPAN);
}

/* Whether a register differs between two instructions by a constant only, and by which. */
static bool moved_by(const struct pass *p, ZydisRegister r, unsigned from, unsigned to, int64_t *by)
{
	struct tr_value a = value_of(p, r, from), b = value_of(p, r, to);

	*by = b.delta - a.delta;
	return a.root == b.root;
}

/* Whether the check of an access at n may stand before instruction k; *by: see check_by. */
static bool may_stand(const struct pass *p, const struct tr_access *a, unsigned k, unsigned n,
		      int64_t *by)
{
	int64_t base, index;

	if (!moved_by(p, a->m->base, k, n, &base) || !moved_by(p, a->m->index, k, n, &index))
		return false;
	*by = base + (index << tr_scale(a->m));
	return *by == (int32_t)*by;
}

/*
 * Before which instruction the check of the first access of a group stands: the latest at which
 * flags are dead and the address can be computed; or else where others stand that have to save the
 * flags, too; or else the access itself. Checks come in the order of their groups.
 */
static void place(const struct pass *p, struct tr_group *g, unsigned id)
{
	const struct tr *t = p->t;
	unsigned n = g->first, limit = p->barrier;
	int64_t by;

	if (p->nopen)
		limit = MAX(limit, t->group[id - 1].check_at);
	/* The group before that had this one's slot was closed by then. */
	if (id >= OPEN_GROUPS)
		limit = MAX(limit, t->group[id - OPEN_GROUPS].first);
	g->check_at = n;
	g->check_by = 0;
	for (unsigned k = n; may_stand(p, g->check, k, n, &by); k--) {
		if (!t->in[k].live_in ||
		    (k == limit && p->nopen && t->group[id - 1].check_at == k)) {
			g->check_at = k;
			g->check_by = by;
			return;
		}
		if (k <= limit || t->in[k - 1].follow != FOLLOW_NOTHING)
			return;
	}
}

static unsigned open_group(struct pass *p, const struct tr_group *key, const struct tr_access *a,
			   unsigned n)
{
	struct tr *t = p->t;
	unsigned id = t->ngroups++;
	struct tr_group *g = &t->group[id];

	*g = *key;
	g->reg = NO_REG;
	g->fold = FOLD_NOTHING;
	g->first = g->last = n;
	/* Those that are last in a long unit share one. */
	g->place = MIN(n, BT_LAST_PLACE);
	g->narrow = atomic_load_relaxed(&t->b->narrow) >> g->place & 1;
	g->check = a;
	g->check_disp = key->lo;
	place(p, g, id);
	g->slot = id % ADDEND_SLOTS;
	if (p->nopen == OPEN_GROUPS) {
		memmove(p->open, p->open + 1, (OPEN_GROUPS - 1) * sizeof(p->open[0]));
		p->nopen--;
	}
	p->open[p->nopen++] = id;
	return id;
}

static void add_access(struct pass *p, struct tr_access *a, unsigned n)
{
	struct tr *t = p->t;
	struct tr_group key;

	make_key(p, n, a, &key);
	for (unsigned k = p->nopen; k-- > 0;) {
		struct tr_group *g = &t->group[p->open[k]];

		if (!joins(g, &key))
			continue;
		g->lo = MIN(g->lo, key.lo);
		g->hi = MAX(g->hi, key.hi);
		g->write |= key.write;
		if (key.align) {
			g->align = key.align;
			g->align_at = key.align_at;
		}
		g->last = n;
		a->group = p->open[k];
		return;
	}
	a->group = open_group(p, &key, a, n);
}

void tr_groups(struct tr *t)
{
	struct pass p = {.t = t, .reg = t->reg_values, .next = 1};

	t->ngroups = 0;
	forget_all(&p, 0);
	for (unsigned n = 0; n < t->n; n++) {
		struct tr_insn *in = &t->in[n];

		if (!in->emit) {
			forget_all(&p, n + 1);
			continue;
		}
		for (unsigned k = 0; k < in->naccs; k++)
			add_access(&p, &in->acc[k], n);
		if (in->barrier)
			forget_all(&p, n + 1);
		else
			effects(&p, n);
	}
}
