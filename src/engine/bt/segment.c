/*
 * What reads segment registers, and what has to do with the bases of FS and GS. What is rare goes
 * to the handler (SLOW_STEP).
 */
#include "src/engine/bt/translate.h"

#define GS_BASE_OFF (CPU_OFF(seg) + SEG_GS * sizeof(struct seg) + offsetof(struct seg, base))

static size_t segment_off(ZydisRegister r)
{
	switch (r) {
	case ZYDIS_REGISTER_ES: return CPU_OFF(seg[SEG_ES]);
	case ZYDIS_REGISTER_CS: return CPU_OFF(seg[SEG_CS]);
	case ZYDIS_REGISTER_SS: return CPU_OFF(seg[SEG_SS]);
	case ZYDIS_REGISTER_DS: return CPU_OFF(seg[SEG_DS]);
	case ZYDIS_REGISTER_FS: return CPU_OFF(seg[SEG_FS]);
	case ZYDIS_REGISTER_GS: return CPU_OFF(seg[SEG_GS]);
	default: return 0;
	}
}

static void emit_mov_from_seg(struct tr *t, struct tr_insn *in)
{
	size_t from = segment_off(in->op[1].reg.value) + offsetof(struct seg, sel);
	unsigned g = tr_gpr(in->op[0].reg.value), h = host_reg_of(g);
	unsigned out = h == IN_MEMORY ? SCRATCH0 : h;

	e_code(t->e, 0x65, 0x40 | (out >> 3) << 2, 0x0f, 0xb7); /* movzx out, word gs:[sel] */
	e_field(t->e, out, from, 0);
	if (h == IN_MEMORY)
		e_store(t->e, out, GPR_OFF(g));
}

static void emit_store_seg(struct tr *t, struct tr_insn *in)
{
	size_t from = segment_off(in->op[1].reg.value) + offsetof(struct seg, sel);
	struct host_mem hm = tr_operand(t, in, &in->acc[0], true);
	struct emit *e = t->e;

	e_code(e, 0x65, 0x44, 0x0f, 0xb7); /* movzx r10d, word gs:[sel] */
	e_field(e, SCRATCH0, from, 0);
	e_code(e, 0x66, 0x44 | e_rex_mem(&hm), 0x89); /* mov [mem], r10w */
	e_modrm(e, SCRATCH0, &hm);
}

static bool plan_mov_from_seg(struct tr_insn *in)
{
	if (in->op[1].type != ZYDIS_OPERAND_TYPE_REGISTER || !segment_off(in->op[1].reg.value))
		return false;
	if (in->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
		if (!tr_can_address(in, &in->op[0].mem))
			return false;
		in->acc[in->naccs++] =
			(struct tr_access){.m = &in->op[0].mem, .len = 2, .write = true};
		in->emit = emit_store_seg;
		return true;
	}
	if (in->op[0].size < 32)
		return false;
	in->emit = emit_mov_from_seg;
	return true;
}

static size_t base_off(const struct tr_insn *in)
{
	bool fs = in->zi.mnemonic == ZYDIS_MNEMONIC_RDFSBASE ||
		  in->zi.mnemonic == ZYDIS_MNEMONIC_WRFSBASE;

	return CPU_OFF(seg[fs ? SEG_FS : SEG_GS]) + offsetof(struct seg, base);
}

/* The handler raises #UD unless they are enabled. */
static struct tr_slow *need_fsgsbase(struct tr *t, struct tr_insn *in)
{
	tr_flags_clobber(t, in->live_in, SCRATCH0);
	e_gs_test(t->e, CPU_OFF(cr4), CR4_FSGSBASE);
	return tr_slow_if(t, in, SLOW_STEP, CC_E);
}

static void emit_rdbase(struct tr *t, struct tr_insn *in)
{
	struct tr_slow *disabled = need_fsgsbase(t, in);
	unsigned g = tr_gpr(in->op[0].reg.value), h = host_reg_of(g);
	unsigned out = h == IN_MEMORY ? SCRATCH0 : h;

	e_gs(t->e, in->op[0].size == 64, 0x8b, out, base_off(in));
	if (h == IN_MEMORY)
		e_store(t->e, out, GPR_OFF(g));
	tr_slow_back(t, disabled);
}

/* The handler raises #GP for a base that is not canonical. */
static void emit_wrbase(struct tr *t, struct tr_insn *in)
{
	struct tr_slow *disabled = need_fsgsbase(t, in), *other;
	unsigned g = tr_gpr(in->op[0].reg.value), h = host_reg_of(g);
	bool w = in->op[0].size == 64;
	struct emit *e = t->e;

	if (h == IN_MEMORY)
		e_gs(e, w, 0x8b, SCRATCH0, GPR_OFF(g));
	else
		e_code(e, 0x44 | w << 3 | h >> 3, 0x8b, 0xd0 | (h & 7)); /* mov r10, h */
	e_mov_rr(e, SCRATCH1, SCRATCH0);
	e_code(e, 0x49, 0xc1, 0xe3, 16); /* shl r11, imm8 */
	e_code(e, 0x49, 0xc1, 0xfb, 16); /* sar r11, imm8 */
	e_code(e, 0x4d, 0x39, 0xd3);	 /* cmp r11, r10 */
	other = tr_slow_if(t, in, SLOW_STEP, CC_NE);
	e_store(e, SCRATCH0, base_off(in));
	tr_slow_back(t, disabled);
	other->retry = e->p;
}

static bool plan_base(struct tr_insn *in, bool write)
{
	in->emit = write ? emit_wrbase : emit_rdbase;
	in->may_leave = true;
	/* What was checked relative to the segment no longer is. */
	in->barrier = write;
	return true;
}

static void emit_swapgs(struct tr *t, struct tr_insn *in)
{
	struct emit *e = t->e;

	e_load(e, SCRATCH0, GS_BASE_OFF);
	e_load(e, SCRATCH1, CPU_OFF(kernel_gs_base));
	e_store(e, SCRATCH1, GS_BASE_OFF);
	e_store(e, SCRATCH0, CPU_OFF(kernel_gs_base));
	t->addend = NO_GROUP;
}

static bool plan_swapgs(struct tr *t, struct tr_insn *in)
{
	if (!block_key_cpl0(t->b->key))
		return false;
	in->emit = emit_swapgs;
	/* What was checked relative to GS no longer is. */
	in->barrier = true;
	return true;
}

bool tr_plan_segment(struct tr *t, struct tr_insn *in)
{
	in->flags_anywhere = true;
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_MOV: return plan_mov_from_seg(in);
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE: return plan_base(in, false);
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE: return plan_base(in, true);
	case ZYDIS_MNEMONIC_SWAPGS: return plan_swapgs(t, in);
	default: return false;
	}
}
