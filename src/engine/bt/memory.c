/*
 * Guest memory access in compiled code: the check of a group of accesses against the software TLB,
 * and host operands behind it.
 */
#include "src/engine/bt/translate.h"

_Static_assert(sizeof(struct tlb_entry) == 16, "the index is shifted by 4");

#define INDEX_SHIFT (PAGE_SHIFT - 4)
#define INDEX_MASK  ((TLB_SIZE - 1) << 4)

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

/* Whether computing the address needs both scratch registers. */
static bool needs_both(const ZydisDecodedOperandMem *m)
{
	return has_segment(m) || (!is_none(m->index) && host_of(m->index) == IN_MEMORY);
}

/* out, a scratch register, = linear address + more; flags stay. May use the other one. */
static void emit_address(struct tr *t, const struct tr_insn *in, const ZydisDecodedOperandMem *m,
			 unsigned out, int64_t more)
{
	struct emit *e = t->e;
	unsigned other = out == SCRATCH0 ? SCRATCH1 : SCRATCH0;
	unsigned base = H_NONE, index = H_NONE;
	int64_t disp = page_disp(in, m) + more;

	if (disp != (int32_t)disp)
		t->failed = true;
	if (m->base == ZYDIS_REGISTER_RIP) {
		e_load(e, out, CPU_OFF(bt.page));
		base = out;
	} else if (!is_none(m->base)) {
		base = host_of(m->base);
		if (base == IN_MEMORY) {
			e_load(e, out, GPR_OFF(tr_gpr(m->base)));
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
		/* lea out, [index * scale + disp32] */
		e_code(e, 0x48 | (out >> 3) << 2 | (index >> 3) << 1, 0x8d, 0x04 | (out & 7) << 3,
		       tr_scale(m) << 6 | (index & 7) << 3 | 5);
		e32(e, disp);
	} else if (base != out || index != H_NONE || disp) {
		e_lea(e, out, base, index, tr_scale(m), disp);
	}
	if (has_segment(m)) {
		unsigned s = m->segment == ZYDIS_REGISTER_FS ? SEG_FS : SEG_GS;

		e_load(e, other,
		       CPU_OFF(seg) + s * sizeof(struct seg) + offsetof(struct seg, base));
		e_lea(e, out, out, other, 0, 0);
	}
}

static void emit_tag(struct tr *t)
{
	struct emit *e = t->e;
	uint8_t *upper, *done;

	if (!t->any_half) {
		e_gs(e, true, 0x03, SCRATCH0, CPU_OFF(tlb.tag) + (t->upper ? 8 : 0));
		return;
	}
	e_code(e, 0x4d, 0x85, 0xd2); /* test r10, r10 */
	upper = e_jcc(e, CC_S);
	e_gs(e, true, 0x03, SCRATCH0, CPU_OFF(tlb.tag));
	done = e_jmp(e);
	e_patch_here(e, upper);
	e_gs(e, true, 0x03, SCRATCH0, CPU_OFF(tlb.tag) + 8);
	e_patch_here(e, done);
}

/* From the address of the group's first access, with the registers as at the check. */
static int64_t first_byte(const struct tr_group *g)
{
	return g->lo - g->check_disp + g->check_by;
}

/*
 * SCRATCH1 = the addend of the group's page, or out of line. The number in a tag leaves no room for
 * the bits that must be clear in an aligned address: they are tested apart.
 */
static void emit_check(struct tr *t, struct tr_insn *at, struct tr_group *g)
{
	struct emit *e = t->e;
	size_t entry = CPU_OFF(tlb.e[t->ctx][g->write ? TLB_STORES : TLB_LOADS]);
	/* The last address of the group that has to be aligned: its page is that of the last byte.
	 */
	int64_t last = g->align ? g->hi - ((g->hi - g->align_at) & (g->align - 1)) : g->hi;
	struct tr_slow slow = {.retry = e->p, .g = g, .at = at, .mem = t->flags_mem};

	emit_address(t, &t->in[g->first], g->check->m, SCRATCH1, first_byte(g));
	e_lea(e, SCRATCH0, SCRATCH1, H_NONE, 0, last - g->lo);
	if (g->align) {
		e_code(e, 0x41, 0xf6, 0xc2, g->align - 1); /* test r10b, imm8 */
		slow.from = e_jcc(e, CC_NE);
		t->slow[t->nslow++] = slow;
	}
	e_code(e, 0x49, 0xc1, 0xeb, INDEX_SHIFT);		  /* shr r11, imm8 */
	e_code(e, 0x41, 0x81, 0xe3), e32(e, INDEX_MASK);	  /* and r11d, imm32 */
	e_code(e, 0x49, 0x81, 0xe2), e32(e, (uint32_t)PAGE_MASK); /* and r10, imm32 */
	emit_tag(t);
	e_gs_base(e, 0x39, SCRATCH0, SCRATCH1, entry + offsetof(struct tlb_entry, tag));
	slow.from = e_jcc(e, CC_NE);
	e_gs_base(e, 0x8b, SCRATCH1, SCRATCH1, entry + offsetof(struct tlb_entry, addend));
	slow.done = e->p;
	t->slow[t->nslow++] = slow;
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
	unsigned left = due(t, n);

	if (left)
		tr_flags_clobber(t, in->live_in, SCRATCH0);
	for (; left; left--, t->next_group++) {
		struct tr_group *g = &t->group[t->next_group];

		emit_check(t, in, g);
		t->addend = t->next_group;
		/* It is used at once and never again, or kept. */
		g->kept = g->last != n || needs_both(g->check->m) || in->naccs > 1 || left > 1;
		if (g->kept)
			e_store(e, SCRATCH1, CPU_OFF(bt.addend) + 8 * g->slot);
	}
}

static void need_addend(struct tr *t, const struct tr_access *a)
{
	if (t->addend == a->group)
		return;
	e_load(t->e, SCRATCH1, CPU_OFF(bt.addend) + 8 * t->group[a->group].slot);
	t->addend = a->group;
}

struct host_mem tr_operand(struct tr *t, const struct tr_insn *in, const struct tr_access *a,
			   bool one_scratch)
{
	const ZydisDecodedOperandMem *m = a->m;
	struct host_mem hm = {.base = SCRATCH0, .index = SCRATCH1};

	if (needs_both(m))
		t->addend = NO_GROUP;
	if (!has_segment(m) && is_none(m->index) && !is_none(m->base)) {
		if (m->base == ZYDIS_REGISTER_RIP)
			e_load(t->e, SCRATCH0, CPU_OFF(bt.page));
		else if (host_of(m->base) == IN_MEMORY)
			e_load(t->e, SCRATCH0, GPR_OFF(tr_gpr(m->base)));
		else
			hm.base = host_of(m->base);
		hm.disp = page_disp(in, m);
	} else {
		emit_address(t, in, m, SCRATCH0, 0);
	}
	need_addend(t, a);
	if (one_scratch && hm.base == SCRATCH0) {
		e_lea(t->e, SCRATCH1, SCRATCH0, SCRATCH1, 0, hm.disp);
		t->addend = NO_GROUP;
		hm = (struct host_mem){.base = SCRATCH1, .index = H_NONE};
	}
	return hm;
}

void tr_offset(struct tr *t, const struct tr_insn *in, const struct tr_access *a)
{
	ZydisDecodedOperandMem m = *a->m;

	m.segment = ZYDIS_REGISTER_DS;
	if (needs_both(&m))
		t->addend = NO_GROUP;
	emit_address(t, in, &m, SCRATCH0, 0);
}

static void emit_miss(struct tr *t, const struct tr_slow *s, struct bt_check *c)
{
	const struct tr_group *g = s->g;
	struct emit *e = t->e;

	c->span = g->hi - g->lo;
	c->align = g->align;
	c->align_off = g->align_at - g->lo;
	c->write = g->write;
	c->any_half = t->any_half;
	c->fill_write = g->check->write && g->check_at == g->first;
	if (s->done && t->ctx != TLB_ALIGN) {
		e_call_to(e, t->bt->stubs->refill[t->ctx][g->write ? TLB_STORES : TLB_LOADS]);
		e_jcc_to(e, CC_AE, s->done);
	}
	emit_address(t, &t->in[g->first], g->check->m, SCRATCH0, first_byte(g));
	e_mov_imm64(e, SCRATCH1, (uintptr_t)c);
	e_jmp_to(e, t->bt->stubs->miss[s->mem]);
}

void tr_emit_slow(struct tr *t)
{
	struct emit *e = t->e;

	for (unsigned n = 0; n < t->nslow && !e->full; n++) {
		const struct tr_slow *s = &t->slow[n];
		struct bt_check *c = tr_check(t, s->at);

		e_patch(s->from, e->p);
		/* Back to this very check: those before may have used the same entry of the TLB. */
		c->retry = s->retry ? e_exec(e, s->retry) : NULL;
		if (s->kind == SLOW_MISS) {
			emit_miss(t, s, c);
			continue;
		}
		c->vec_level = s->vec_level;
		c->x87 = s->x87;
		e_mov_imm64(e, SCRATCH1, (uintptr_t)c);
		e_jmp_to(e, s->kind == SLOW_ENTER ? t->bt->stubs->vec_enter[s->mem]
						  : t->bt->stubs->rest[s->mem]);
	}
}
