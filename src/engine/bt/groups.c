/*
 * Which accesses share a check. Registers are followed through the unit as numbered values plus
 * constants: MOV, LEA, ADD and SUB with constants, PUSH, POP, CALL and RET keep a value's number,
 * so that [rsp+8] before and after a push, or [rbp-8] after "mov rbp, rsp", are relative to one
 * value.
 *
 * Accesses relative to the same values, at most MAX_SPAN apart, form a group with one check: that
 * the first and the last byte lie in one page that the software TLB has. Where the check fails for
 * good, the interpreter takes over at the instruction before which it stands, until the end of that
 * block. So a check may stand anywhere before the accesses it is for: nothing is visible of it. It
 * stands where the arithmetic flags are dead, if there is such a place.
 */
#include "src/engine/bt/translate.h"

#define MAX_SPAN    256
#define OPEN_GROUPS (ADDEND_SLOTS / 2)

struct value {
	uint32_t root; /* number of a value */
	int64_t delta; /* added to it */
};

struct pass {
	struct tr *t;
	struct value reg[16];
	uint32_t next;			   /* number of the next unknown value */
	unsigned open[OPEN_GROUPS], nopen; /* groups that may still grow, the latest last */
	unsigned barrier;		   /* first instruction behind the last hand-over */
	uint16_t changed[16]; /* by register: the first instruction that sees its present value */
};

static struct value unknown(struct pass *p)
{
	return (struct value){.root = p->next++};
}

static struct value value_of(const struct pass *p, ZydisRegister r)
{
	static const struct value none;

	return r == ZYDIS_REGISTER_NONE || r == ZYDIS_REGISTER_RIP ? none : p->reg[tr_gpr(r)];
}

/* --- what an instruction does to registers ------------------------------------------------- */

static bool full_register(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->size == 64 && tr_gpr(o->reg.value) >= 0;
}

/* The new value of the destination if it is a known one. */
static bool known_result(struct pass *p, const struct tr_insn *in, struct value *v)
{
	const ZydisDecodedOperand *d = &in->op[0], *s = &in->op[1];
	bool constant = s->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

	if (!full_register(d))
		return false;
	*v = p->reg[tr_gpr(d->reg.value)];
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_ADD: v->delta += constant ? s->imm.value.s : 0; return constant;
	case ZYDIS_MNEMONIC_SUB: v->delta -= constant ? s->imm.value.s : 0; return constant;
	case ZYDIS_MNEMONIC_INC: v->delta++; return true;
	case ZYDIS_MNEMONIC_DEC: v->delta--; return true;
	case ZYDIS_MNEMONIC_MOV:
		if (!full_register(s))
			return false;
		*v = p->reg[tr_gpr(s->reg.value)];
		return true;
	case ZYDIS_MNEMONIC_LEA:
		if (in->zi.address_width != 64 || tr_gpr(s->mem.base) < 0 ||
		    s->mem.index != ZYDIS_REGISTER_NONE)
			return false;
		*v = p->reg[tr_gpr(s->mem.base)];
		v->delta += s->mem.disp.value;
		return true;
	default: return false;
	}
}

static void set_reg(struct pass *p, unsigned r, struct value v, unsigned n)
{
	p->reg[r] = v;
	p->changed[r] = n + 1;
}

static void stack_effect(struct pass *p, const struct tr_insn *in, unsigned n)
{
	struct value sp = p->reg[RSP];

	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH: sp.delta -= 8; break;
	case ZYDIS_MNEMONIC_POP: sp.delta += 8; break;
	default: sp = unknown(p); break;
	}
	set_reg(p, RSP, sp, n);
}

static void effects(struct pass *p, const struct tr_insn *in, unsigned n)
{
	struct value v = {0};
	bool known = known_result(p, in, &v);

	for (unsigned k = 0; k < in->zi.operand_count; k++) {
		const ZydisDecodedOperand *o = &in->op[k];
		int r = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? tr_gpr(o->reg.value) : -1;

		if (r < 0 || !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		if (k == 0 && known)
			set_reg(p, r, v, n);
		else if (r == RSP && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			stack_effect(p, in, n);
		else
			set_reg(p, r, unknown(p), n);
	}
}

static void forget_all(struct pass *p, unsigned n)
{
	for (unsigned r = 0; r < 16; r++)
		set_reg(p, r, unknown(p), n);
	p->nopen = 0;
	p->barrier = n + 1;
}

/* --- groups -------------------------------------------------------------------------------- */

static uint8_t segment_of(const ZydisDecodedOperandMem *m)
{
	return m->segment == ZYDIS_REGISTER_FS	 ? SEG_FS
	       : m->segment == ZYDIS_REGISTER_GS ? SEG_GS
						 : SEG_NONE;
}

static void make_key(const struct pass *p, const struct tr_insn *in, const struct tr_access *a,
		     struct tr_group *g)
{
	struct value base = value_of(p, a->m->base), index = value_of(p, a->m->index);

	*g = (struct tr_group){.base = base.root, .index = index.root, .seg = segment_of(a->m)};
	g->scale = index.root ? tr_scale(a->m) : 0;
	g->lo = a->m->disp.value + base.delta + (index.delta << g->scale);
	if (a->m->base == ZYDIS_REGISTER_RIP) {
		g->base = ~0u;
		g->lo += tr_next(in);
	}
	g->hi = g->lo + a->len - 1;
	g->write = a->write;
	g->align = a->align;
	g->align_at = g->lo;
}

/* What both demand of the address can be asked in one. */
static bool alignments_agree(const struct tr_group *g, const struct tr_group *key)
{
	return !g->align || !key->align ||
	       (g->align == key->align && !((g->align_at - key->align_at) & (g->align - 1)));
}

static bool joins(const struct tr_group *g, const struct tr_group *key)
{
	return alignments_agree(g, key) && g->base == key->base && g->index == key->index && g->scale == key->scale &&
	       g->seg == key->seg && MAX(g->hi, key->hi) - MIN(g->lo, key->lo) < MAX_SPAN;
}

static bool unchanged_since(const struct pass *p, ZydisRegister r, unsigned n)
{
	return tr_gpr(r) < 0 || p->changed[tr_gpr(r)] <= n;
}

/*
 * Before which instruction the check of a first access at n stands: the latest at which flags are
 * dead and the address's registers already have their values; else n itself. Never before the first
 * access of the group opened last, so that groups come into being in order.
 */
static unsigned place(const struct pass *p, const struct tr_access *a, unsigned n)
{
	const struct tr_insn *in = p->t->in;
	unsigned limit = p->nopen ? p->t->group[p->open[p->nopen - 1]].first : p->barrier;

	for (unsigned k = n;; k--) {
		if (!unchanged_since(p, a->m->base, k) || !unchanged_since(p, a->m->index, k))
			return n;
		if (!in[k].live_in)
			return k;
		if (k <= limit || (k && in[k - 1].follow != FOLLOW_NOTHING))
			return n;
	}
}

static unsigned open_group(struct pass *p, const struct tr_group *key, const struct tr_access *a,
			   unsigned n)
{
	struct tr *t = p->t;
	unsigned id = t->ngroups++;
	struct tr_group *g = &t->group[id];

	*g = *key;
	g->first = g->last = n;
	g->check = a;
	g->check_disp = key->lo;
	g->check_at = place(p, a, n);
	/* In turn: the slot's last owner was closed half a round ago, before the last group's
	 * start. */
	g->slot = id % ADDEND_SLOTS;
	if (p->nopen == OPEN_GROUPS) {
		memmove(p->open, p->open + 1, (OPEN_GROUPS - 1) * sizeof(p->open[0]));
		p->nopen--;
	}
	p->open[p->nopen++] = id;
	return id;
}

static void add_access(struct pass *p, struct tr_insn *in, struct tr_access *a, unsigned n)
{
	struct tr *t = p->t;
	struct tr_group key;

	make_key(p, in, a, &key);
	for (unsigned k = p->nopen; k-- > 0 && !t->b->single_checks;) {
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
	struct pass p = {.t = t, .next = 1};

	t->ngroups = 0;
	forget_all(&p, -1);
	for (unsigned n = 0; n < t->n; n++) {
		struct tr_insn *in = &t->in[n];

		if (!in->emit) {
			forget_all(&p, n);
			continue;
		}
		for (unsigned k = 0; k < in->naccs; k++)
			add_access(&p, in, &in->acc[k], n);
		effects(&p, in, n);
	}
}
