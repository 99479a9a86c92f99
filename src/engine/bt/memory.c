/* Guest memory access in compiled code: addresses, and host operands behind the checks. */
#include "src/engine/bt/translate.h"

static unsigned host_of(ZydisRegister r)
{
	return host_reg_of(tr_gpr(r));
}

static bool is_none(ZydisRegister r)
{
	return r == ZYDIS_REGISTER_NONE;
}

static bool has_segment(const ZydisDecodedOperandMem *m)
{
	return m->segment == ZYDIS_REGISTER_FS || m->segment == ZYDIS_REGISTER_GS;
}

/* The displacement, for rip-relative addresses from the start of the page. */
static int64_t page_disp(const struct tr_insn *in, const ZydisDecodedOperandMem *m)
{
	return m->disp.value + (m->base == ZYDIS_REGISTER_RIP ? tr_next(in) : 0);
}

bool tr_can_address(const struct tr_insn *in, const ZydisDecodedOperandMem *m)
{
	int64_t disp = page_disp(in, m);

	return in->zi.address_width == 64 && disp == (int32_t)disp &&
	       m->type == ZYDIS_MEMOP_TYPE_MEM;
}

bool tr_needs_both(const ZydisDecodedOperandMem *m)
{
	return has_segment(m) || (!is_none(m->index) && host_of(m->index) == IN_MEMORY);
}

static size_t place_of(unsigned what)
{
	return what == HELD_PAGE ? CPU_OFF(bt.page) : GPR_OFF(what);
}

void tr_load_held(struct tr *t, unsigned what)
{
	if (tr_held(t) != what)
		e_load(t->e, SCRATCH0, place_of(what));
	tr_hold(t, what);
}

/*
 * out, a scratch register, = what SCRATCH0 could hold. SCRATCH1 is not copied from there: a look-up
 * begins so, and is retried when SCRATCH0 is lost.
 */
static void load(struct tr *t, unsigned out, unsigned what)
{
	if (out == SCRATCH0)
		tr_load_held(t, what);
	else
		e_load(t->e, out, place_of(what));
}

void tr_address(struct tr *t, const struct tr_insn *in, const ZydisDecodedOperandMem *m,
		unsigned out, int64_t more)
{
	struct emit *e = t->e;
	unsigned other = out == SCRATCH0 ? SCRATCH1 : SCRATCH0;
	unsigned base = H_NONE, index = H_NONE;
	int64_t disp = page_disp(in, m) + more;

	if (disp != (int32_t)disp)
		t->failed = true;
	if (m->base == ZYDIS_REGISTER_RIP) {
		load(t, out, HELD_PAGE);
		base = out;
	} else if (!is_none(m->base)) {
		base = host_of(m->base);
		if (base == IN_MEMORY) {
			load(t, out, tr_gpr(m->base));
			base = out;
		}
	}
	if (!is_none(m->index)) {
		index = host_of(m->index);
		if (index == IN_MEMORY) {
			e_load(e, other, GPR_OFF(tr_gpr(m->index)));
			index = other;
		}
	}
	if (base == H_NONE && index == H_NONE) {
		e_mov_imm32(e, out, disp);
	} else if (base == H_NONE) {
		struct host_mem hm = {.index = index, .scale = tr_scale(m), .disp = disp};

		e_code(e, 0x48 | (out >> 3) << 2 | e_rex_mem(&hm), 0x8d); /* lea */
		e_modrm_no_base(e, out, &hm);
	} else if (index != H_NONE || disp) {
		e_lea(e, out, base, index, tr_scale(m), disp);
	} else if (base != out) {
		e_mov_rr(e, out, base);
	}
	if (has_segment(m)) {
		unsigned s = m->segment == ZYDIS_REGISTER_FS ? SEG_FS : SEG_GS;

		e_load(e, other,
		       CPU_OFF(seg) + s * sizeof(struct seg) + offsetof(struct seg, base));
		e_lea(e, out, out, other, 0, 0);
	}
}

static void need_addend(struct tr *t, const struct tr_access *a)
{
	const struct tr_group *g = &t->group[a->group];

	if (t->addend == a->group)
		return;
	if (g->latch == NO_LATCH)
		e_load(t->e, SCRATCH1, CPU_OFF(bt.addend) + 8 * g->slot);
	else
		e_load(t->e, SCRATCH1, TR_LATCH(g->latch, addend));
	t->addend = a->group;
}

/* The register that is the base of an access that is without an index, or HELD_PAGE. */
static unsigned lone_base(const ZydisDecodedOperandMem *m)
{
	return m->base == ZYDIS_REGISTER_RIP ? HELD_PAGE : (unsigned)tr_gpr(m->base);
}

/* Where a register has the group's addend and one of the two of the address. */
static struct host_mem folded_operand(const struct tr_insn *in, const struct tr_group *g,
				      const ZydisDecodedOperandMem *m)
{
	struct host_mem hm = {.disp = page_disp(in, m)};

	if (g->fold == FOLD_INDEX) {
		hm.base = host_of(m->base);
		hm.index = g->reg;
	} else {
		hm.base = g->reg;
		hm.index = host_of(m->index);
		hm.scale = tr_scale(m);
	}
	return hm;
}

struct host_mem tr_operand(struct tr *t, const struct tr_insn *in, const struct tr_access *a,
			   bool one_scratch)
{
	const ZydisDecodedOperandMem *m = a->m;
	struct host_mem hm = {.base = SCRATCH0, .index = SCRATCH1};
	unsigned held = tr_held(t), base;

	if (t->group[a->group].fold != FOLD_NOTHING)
		return folded_operand(in, &t->group[a->group], m);
	if (tr_needs_both(m))
		t->addend = NO_GROUP;
	if (t->group[a->group].fixed) {
		need_addend(t, a);
		tr_hold(t, held);
		return (struct host_mem){
			.base = SCRATCH1, .index = H_NONE, .disp = page_disp(in, m)};
	}
	if (!has_segment(m) && is_none(m->index) && !is_none(m->base)) {
		base = lone_base(m);
		hm.disp = page_disp(in, m);
		if (base == HELD_PAGE || host_reg_of(base) == IN_MEMORY)
			tr_load_held(t, held = base);
		else
			hm.base = host_reg_of(base);
	} else {
		tr_address(t, in, m, SCRATCH0, 0);
		held = NO_REG;
	}
	if (t->group[a->group].reg != NO_REG)
		hm.index = t->group[a->group].reg;
	else
		need_addend(t, a);
	if (one_scratch && hm.base == SCRATCH0) {
		e_lea(t->e, SCRATCH1, SCRATCH0, hm.index, 0, hm.disp);
		t->addend = NO_GROUP;
		hm = (struct host_mem){.base = SCRATCH1, .index = H_NONE};
	}
	tr_hold(t, held);
	return hm;
}

void tr_offset(struct tr *t, const struct tr_insn *in, const struct tr_access *a)
{
	ZydisDecodedOperandMem m = *a->m;

	m.segment = ZYDIS_REGISTER_DS;
	if (tr_needs_both(&m))
		t->addend = NO_GROUP;
	tr_address(t, in, &m, SCRATCH0, 0);
}
