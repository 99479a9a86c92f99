/*
 * System instructions that are short enough to be done in place. What they find seldom goes to the
 * handler: of one instruction (SLOW_STEP), or of the rest of the block (SLOW_REST). While compiled
 * code runs TF, RF and code breakpoints are off and no interrupt shadow is pending.
 */
#include "src/engine/bt/translate.h"

#include "src/engine/interp/ops.h"

/* op gs:[off], imm32; ext: the operation (81 /ext), 32 bits. */
static void gs_imm(struct emit *e, unsigned ext, size_t off, uint32_t imm)
{
	e_code(e, 0x65, 0x81);
	e_field(e, ext, off, 4);
	e32(e, imm);
}

#define EXT_OR	1
#define EXT_AND 4
#define EXT_XOR 6

static void is_zero(struct emit *e, bool w, size_t off)
{
	e_code(e, 0x65, 0x40 | (w ? 8 : 0), 0x83); /* cmp gs:[off], imm8 */
	e_field(e, 7, off, 1);
	e8(e, 0);
}

/* --- interrupts ---------------------------------------------------------------------------- */

/* Interrupts that wait already have asked for the next point where they can be taken. */
static void emit_cli(struct tr *t, struct tr_insn *in)
{
	tr_flags_clobber(t, in->live_in, SCRATCH0);
	gs_imm(t->e, EXT_AND, CPU_OFF(rflags), ~FLAG_IF);
}

/*
 * The next instruction follows in the unit, whose code looks at requests only at its top: so that
 * is the shadow. What waits for IF already is for the handler to see.
 */
static void emit_sti(struct tr *t, struct tr_insn *in)
{
	tr_flags_clobber(t, in->live_in, SCRATCH0);
	is_zero(t->e, false, CPU_OFF(event));
	tr_slow_if(t, in, SLOW_REST, CC_NE);
	gs_imm(t->e, EXT_OR, CPU_OFF(rflags), FLAG_IF);
}

static bool plan_sti(struct tr_insn *in)
{
	if (in->insn[1].exec == op_end)
		return false;
	in->emit = emit_sti;
	in->may_leave = true;
	return true;
}

/* --- flags --------------------------------------------------------------------------------- */

static void emit_direction(struct tr *t, struct tr_insn *in)
{
	bool set = in->zi.mnemonic == ZYDIS_MNEMONIC_STD;

	tr_flags_clobber(t, in->live_in, SCRATCH0);
	gs_imm(t->e, set ? EXT_OR : EXT_AND, CPU_OFF(rflags), set ? FLAG_DF : ~FLAG_DF);
}

/* cpu->bt.flags = the arithmetic flags in SCRATCH0; both scratch registers go. */
static void set_flags(struct emit *e)
{
	e_code(e, 0x45, 0x0f, 0xb6, 0xda); /* movzx r11d, r10b */
	e_code(e, 0x41, 0xc1, 0xe3, 8);	   /* shl r11d, 8: AH */
	e_code(e, 0x41, 0xc1, 0xea, 11);   /* shr r10d, 11 */
	e_code(e, 0x41, 0x83, 0xe2, 1);	   /* and r10d, 1: OF in AL */
	e_code(e, 0x45, 0x09, 0xda);	   /* or r10d, r11d */
	e_store16(e, SCRATCH0, CPU_OFF(bt.flags));
}

/*
 * To the handler: what waits for IF, single steps, another context of accesses, and IF outside CPL
 * 0 where IOPL may allow it.
 */
static void emit_popf(struct tr *t, struct tr_insn *in)
{
	bool cpl0 = block_key_cpl0(t->b->key);
	uint32_t keep = FLAG_DF | FLAG_NT | FLAG_ID | (cpl0 ? FLAG_IOPL | FLAG_IF : 0);
	struct emit *e = t->e;
	struct host_mem hm;

	tr_flags_clobber(t, in->live_in, SCRATCH0);
	hm = tr_operand(t, in, &in->acc[0], false);
	e_op_mem(e, 0x8b, SCRATCH0, &hm);
	is_zero(e, false, CPU_OFF(event));
	tr_slow_if(t, in, SLOW_REST, CC_NE);
	if (!cpl0) {
		e_gs_test(e, CPU_OFF(rflags), FLAG_IOPL);
		tr_slow_if(t, in, SLOW_REST, CC_NE);
	}
	e_code(e, 0x45, 0x89, 0xd3);			 /* mov r11d, r10d */
	e_gs(e, false, 0x33, SCRATCH1, CPU_OFF(rflags)); /* xor r11d, gs:[rflags] */
	e_code(e, 0x41, 0xf7, 0xc3);			 /* test r11d, imm32 */
	e32(e, FLAG_TF | FLAG_AC);
	tr_slow_if(t, in, SLOW_REST, CC_NE);
	e_code(e, 0x41, 0x81, 0xe3); /* and r11d, imm32 */
	e32(e, keep);
	e_gs(e, false, 0x31, SCRATCH1, CPU_OFF(rflags)); /* xor gs:[rflags], r11d */
	set_flags(e);
	e_lea(e, H_GUEST_RSP, H_GUEST_RSP, H_NONE, 0, 8);
	if (in->live_out)
		bt_emit_flags_restore(e, SCRATCH0);
	t->addend = NO_GROUP;
}

static bool plan_popf(struct tr_insn *in)
{
	static const ZydisDecodedOperandMem at_rsp = {.type = ZYDIS_MEMOP_TYPE_MEM,
						      .base = ZYDIS_REGISTER_RSP};

	in->acc[in->naccs++] = (struct tr_access){.m = &at_rsp, .len = 8};
	in->emit = emit_popf;
	in->may_leave = true;
	return true;
}

/* --- time ---------------------------------------------------------------------------------- */

/*
 * RDTSCP is read when all loads before it are done. Without the host's an LFENCE stands for that,
 * which what follows waits for, too.
 */
static void emit_rdtsc(struct tr *t, struct tr_insn *in)
{
	const size_t scale = CPU_OFF(bt.tsc);
	bool and_aux = in->zi.mnemonic == ZYDIS_MNEMONIC_RDTSCP;
	struct tr_slow *disabled = NULL, *unknown;
	struct emit *e = t->e;

	tr_flags_clobber(t, in->live_in, SCRATCH0);
	if (!block_key_cpl0(t->b->key)) {
		e_gs_test(e, CPU_OFF(cr4), CR4_TSD);
		disabled = tr_slow_if(t, in, SLOW_STEP, CC_NE);
	}
	is_zero(e, true, scale + offsetof(struct clock_scale, mult));
	unknown = tr_slow_if(t, in, SLOW_STEP, CC_E);
	if (and_aux && t->bt->stubs->isa.rdtscp) {
		e_code(e, 0x0f, 0x01, 0xf9); /* rdtscp */
	} else {
		if (and_aux)
			e_code(e, 0x0f, 0xae, 0xe8); /* lfence */
		e_code(e, 0x0f, 0x31);		     /* rdtsc */
	}
	e_code(e, 0x48, 0xc1, 0xe2, 32); /* shl rdx, 32 */
	e_code(e, 0x48, 0x09, 0xd0);	 /* or rax, rdx */
	e_gs(e, true, 0x2b, H_RAX, scale + offsetof(struct clock_scale, tsc0));
	e_gs(e, true, 0xf7, 4, scale + offsetof(struct clock_scale, mult)); /* mul */
	e_code(e, 0x48, 0x0f, 0xac, 0xd0, 32);				    /* shrd rax, rdx, 32 */
	e_gs(e, true, 0x03, H_RAX, scale + offsetof(struct clock_scale, ns0));
	e_mov_rr(e, H_RDX, H_RAX);
	e_code(e, 0x48, 0xc1, 0xea, 32); /* shr rdx, 32 */
	e_code(e, 0x89, 0xc0);		 /* mov eax, eax */
	if (and_aux)
		e_gs(e, false, 0x8b, H_RCX, CPU_OFF(tsc_aux));
	tr_slow_back(t, unknown);
	if (disabled)
		disabled->retry = e->p;
}

/* --- modes --------------------------------------------------------------------------------- */

static enum bt_mode mode_of(const struct tr_insn *in)
{
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_SYSCALL: return BT_SYSCALL;
	case ZYDIS_MNEMONIC_SYSRET: return BT_SYSRET;
	default: return BT_IRET;
	}
}

static void emit_mode(struct tr *t, struct tr_insn *in)
{
	tr_flags_clobber(t, in->live_in, SCRATCH0);
	e_mov_imm64(t->e, SCRATCH0, (uintptr_t)tr_site(t, in));
	e_jmp_to(t->e, t->bt->stubs->mode[mode_of(in)]);
}

static bool plan_mode(struct tr *t, struct tr_insn *in)
{
	in->emit = emit_mode;
	in->ends = t->polls = true;
	return true;
}

/* What depends on the context of accesses, which is part of the key. */
static void set_ctx(struct emit *e, enum tlb_ctx ctx)
{
	e_load(e, SCRATCH0, CPU_OFF(bt.self));
	e_lea(e, SCRATCH0, SCRATCH0, H_NONE, 0,
	      CPU_OFF(tlb.e) + ctx * sizeof(((struct cpu *)0)->tlb.e[0]));
	e_store(e, SCRATCH0, CPU_OFF(tlb_cur));
	e_code(e, 0x65, 0xc6); /* mov byte gs:[ctx], imm8 */
	e_field(e, 0, CPU_OFF(ctx), 1);
	e8(e, ctx);
	gs_imm(e, EXT_XOR, CPU_OFF(bt.key), BLOCK_KEY_CTX(TLB_SUPER ^ TLB_SUPER_AC));
}

/*
 * Returns that were expected before STAC are expected again, if CLAC stands at the same depth: they
 * lead to code of this context.
 */
static void leave_barrier(struct emit *e)
{
	uint8_t *other, *done;

	e_load_at(e, SCRATCH0, H_RSP, 8);
	e_mov_imm64(e, SCRATCH1, SHADOW_AC_BARRIER);
	e_code(e, 0x4d, 0x39, 0xda); /* cmp r10, r11 */
	other = e_jcc(e, CC_NE);
	e_lea(e, H_RSP, H_RSP, H_NONE, 0, 16);
	done = e_jmp(e);
	e_patch_here(e, other);
	bt_emit_shadow_reset(e);
	e_patch_here(e, done);
}

/* Goes on with the unit of the other context, joined as any in the page. */
static void emit_ac(struct tr *t, struct tr_insn *in)
{
	bool set = in->zi.mnemonic == ZYDIS_MNEMONIC_STAC;
	struct emit *e = t->e;

	tr_flags_clobber(t, in->live_in, SCRATCH0);
	gs_imm(e, set ? EXT_OR : EXT_AND, CPU_OFF(rflags), set ? FLAG_AC : ~FLAG_AC);
	if (!in->ends)
		return;
	if (!set) {
		e_gs_test(e, CPU_OFF(cr4), CR4_SMAP);
		tr_exit(t, tr_next(in), CC_E);
	}
	set_ctx(e, set ? TLB_SUPER_AC : TLB_SUPER);
	if (set)
		bt_emit_barrier(t->bt->stubs, e, SHADOW_AC_BARRIER);
	else
		leave_barrier(e);
	t->exit_key ^= BLOCK_KEY_CTX(TLB_SUPER ^ TLB_SUPER_AC);
	tr_exit(t, tr_next(in), TR_ALWAYS);
	t->exit_key = t->b->key;
}

static bool plan_ac(struct tr *t, struct tr_insn *in)
{
	in->emit = emit_ac;
	in->ends = (in->zi.mnemonic == ZYDIS_MNEMONIC_STAC) == (t->ctx == TLB_SUPER);
	t->polls |= tr_next(in) >= (int64_t)PAGE_SIZE;
	return true;
}

/* --- registers ----------------------------------------------------------------------------- */

static size_t control_register(ZydisRegister r)
{
	switch (r) {
	case ZYDIS_REGISTER_CR0: return CPU_OFF(cr0);
	case ZYDIS_REGISTER_CR2: return CPU_OFF(cr2);
	case ZYDIS_REGISTER_CR3: return CPU_OFF(cr3);
	case ZYDIS_REGISTER_CR4: return CPU_OFF(cr4);
	default: return 0;
	}
}

static void emit_mov_from_cr(struct tr *t, struct tr_insn *in)
{
	unsigned g = tr_gpr(in->op[0].reg.value), h = host_reg_of(g);
	size_t from = control_register(in->op[1].reg.value);

	e_load(t->e, h == IN_MEMORY ? SCRATCH0 : h, from);
	if (h == IN_MEMORY)
		e_store(t->e, SCRATCH0, GPR_OFF(g));
}

static bool plan_mov(struct tr_insn *in)
{
	if (in->op[1].type != ZYDIS_OPERAND_TYPE_REGISTER || tr_gpr(in->op[0].reg.value) < 0 ||
	    !control_register(in->op[1].reg.value))
		return false;
	in->emit = emit_mov_from_cr;
	return true;
}

static bool plan_privileged(struct tr *t, struct tr_insn *in)
{
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_CLI: in->emit = emit_cli; return true;
	case ZYDIS_MNEMONIC_STI: return plan_sti(in);
	case ZYDIS_MNEMONIC_STAC:
	case ZYDIS_MNEMONIC_CLAC: return plan_ac(t, in);
	case ZYDIS_MNEMONIC_MOV: return plan_mov(in);
	case ZYDIS_MNEMONIC_IRETQ: return plan_mode(t, in);
	case ZYDIS_MNEMONIC_SYSRET: return in->zi.operand_width == 64 && plan_mode(t, in);
	default: return false;
	}
}

bool tr_plan_system(struct tr *t, struct tr_insn *in)
{
	in->flags_anywhere = true;
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
		in->emit = emit_rdtsc;
		in->may_leave = true;
		return true;
	case ZYDIS_MNEMONIC_SYSCALL: return plan_mode(t, in);
	case ZYDIS_MNEMONIC_POPFQ: return plan_popf(in);
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD: in->emit = emit_direction; return true;
	default: break;
	}
	return block_key_cpl0(t->b->key) && plan_privileged(t, in);
}
