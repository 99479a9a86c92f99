/*
 * Guest memory access in compiled code: effective address, look-up of the software TLB, host
 * address. A miss of any kind (also page crossing, MMIO, a page with code) hands the instruction
 * over.
 */
#include "src/engine/bt/translate.h"

_Static_assert(sizeof(struct tlb_entry) == 32, "the index is shifted by 5");

#define INDEX_SHIFT (PAGE_SHIFT - 5)
#define INDEX_MASK  ((TLB_SIZE - 1) << 5)

static unsigned host_of(ZydisRegister r)
{
	return host_reg_of(tr_gpr(r));
}

static bool is_none(ZydisRegister r)
{
	return r == ZYDIS_REGISTER_NONE;
}

static int64_t rip_disp(const struct tr *t, const struct tr_insn *in,
			const ZydisDecodedOperandMem *m)
{
	return m->disp.value + t->page_off + in->off + in->zi.length;
}

bool tr_can_address(const struct tr *t, const struct tr_insn *in, const ZydisDecodedOperandMem *m)
{
	int64_t disp = m->base == ZYDIS_REGISTER_RIP ? rip_disp(t, in, m) : m->disp.value;

	return in->zi.address_width == 64 && disp == (int32_t)disp &&
	       m->type == ZYDIS_MEMOP_TYPE_MEM;
}

/* Whether computing the address needs both scratch registers. */
static bool needs_both(const ZydisDecodedOperandMem *m)
{
	if (m->segment == ZYDIS_REGISTER_FS || m->segment == ZYDIS_REGISTER_GS)
		return true;
	return !is_none(m->index) && host_of(m->index) == IN_MEMORY;
}

/* SCRATCH0 = linear address; may use SCRATCH1; flags stay. */
static void emit_address(struct tr *t, const struct tr_insn *in, const ZydisDecodedOperandMem *m)
{
	struct emit *e = t->e;
	unsigned base = H_RSP, index = H_RSP;
	unsigned scale = tr_scale(m);
	int32_t disp = m->disp.value;

	if (m->base == ZYDIS_REGISTER_RIP) {
		e_load(e, SCRATCH0, CPU_OFF(bt.page));
		base = SCRATCH0;
		disp = rip_disp(t, in, m);
	} else if (!is_none(m->base)) {
		base = host_of(m->base);
		if (base == IN_MEMORY) {
			e_load(e, SCRATCH0, GPR_OFF(tr_gpr(m->base)));
			base = SCRATCH0;
		}
	}
	if (!is_none(m->index)) {
		index = host_of(m->index);
		if (index == IN_MEMORY) {
			e_load(e, SCRATCH1, GPR_OFF(tr_gpr(m->index)));
			index = SCRATCH1;
		}
	}
	if (base == H_RSP && index == H_RSP) {
		e8(e, 0x49), e8(e, 0xc7), e8(e, 0xc2); /* mov r10, imm32 */
		e32(e, disp);
	} else if (base == H_RSP) {
		/* lea r10, [index * scale + disp32] */
		e8(e, 0x4c | (index >> 3) << 1);
		e8(e, 0x8d);
		e8(e, 0x04 | (SCRATCH0 & 7) << 3);
		e8(e, scale << 6 | (index & 7) << 3 | 5);
		e32(e, disp);
	} else {
		e_lea(e, SCRATCH0, base, index, scale, disp);
	}
	if (m->segment == ZYDIS_REGISTER_FS || m->segment == ZYDIS_REGISTER_GS) {
		unsigned s = m->segment == ZYDIS_REGISTER_FS ? SEG_FS : SEG_GS;

		e_load(e, SCRATCH1,
		       CPU_OFF(seg) + s * sizeof(struct seg) + offsetof(struct seg, base));
		e_lea(e, SCRATCH0, SCRATCH0, SCRATCH1, 0, 0);
	}
}

static void add_slow(struct tr *t, const struct tr_insn *in, uint8_t *from, bool flags_saved)
{
	struct tr_slow *s = &t->slow[t->nslow++];

	*s = (struct tr_slow){.from = from, .site = tr_site(t, in), .flags_saved = flags_saved};
}

void tr_access(struct tr *t, const struct tr_insn *in, const ZydisDecodedOperandMem *m,
	       unsigned len, bool write)
{
	struct emit *e = t->e;
	bool live = in->live_in, both = needs_both(m);

	emit_address(t, in, m);
	if (both)
		e_store(e, SCRATCH0, CPU_OFF(bt.address));
	if (live)
		emit_save_flags(e);
	/* SCRATCH1 = the entry */
	e_mov_rr(e, SCRATCH1, SCRATCH0);
	e8(e, 0x49), e8(e, 0xc1), e8(e, 0xeb), e8(e, INDEX_SHIFT); /* shr r11, imm8 */
	e8(e, 0x41), e8(e, 0x81), e8(e, 0xe3), e32(e, INDEX_MASK); /* and r11d, imm32 */
	e_gs(e, true, 0x03, SCRATCH1, CPU_OFF(tlb_cur));
	/* SCRATCH0 = the tag that the page of the last byte must have */
	if (len > 1)
		e8(e, 0x49), e8(e, 0x83), e8(e, 0xc2), e8(e, len - 1); /* add r10, imm8 */
	e8(e, 0x49), e8(e, 0x81), e8(e, 0xe2), e32(e, 0xfffff000u);    /* and r10, ~0xfff */
	e_gs(e, true, 0x0b, SCRATCH0, CPU_OFF(tlb.tag) + (t->user ? 0 : 8));
	e_op_mem(e, 0x39, SCRATCH0, SCRATCH1,
		 write ? offsetof(struct tlb_entry, wtag) : offsetof(struct tlb_entry, rtag));
	add_slow(t, in, e_jcc(e, CC_NE), live);
	e_op_mem(e, 0x8b, SCRATCH1, SCRATCH1, offsetof(struct tlb_entry, addend));
	if (live)
		emit_restore_flags(e);
	if (both)
		e_load(e, SCRATCH0, CPU_OFF(bt.address));
	else
		emit_address(t, in, m);
	e_lea(e, SCRATCH0, SCRATCH0, SCRATCH1, 0, 0);
}

void tr_resume_here(struct tr *t, unsigned first)
{
	for (unsigned n = first; n < t->nslow; n++)
		t->slow[n].resume = t->e->p;
}
