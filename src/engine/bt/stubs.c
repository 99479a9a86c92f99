/* The code that every compiled block shares: entry, exit, handing over to the interpreter. */
#include "src/engine/bt/bt_int.h"

/* bt_miss() is compiled without vector registers, a sanitizer's runtime is not. */
#ifdef NV_SANITIZED
#define MISS_SAVES_VECTORS true
#else
#define MISS_SAVES_VECTORS false
#endif

static void store_regs_but_rax(struct emit *e)
{
	for (unsigned g = RCX; g <= R15; g++)
		if (host_reg_of(g) != IN_MEMORY)
			e_store(e, host_reg_of(g), GPR_OFF(g));
}

/* All guest state but vectors to struct cpu; clobbers host RAX. */
static void spill(struct emit *e, bool flags_mem)
{
	e_store(e, H_RAX, GPR_OFF(RAX));
	if (!flags_mem) {
		e_code(e, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
		e_store16(e, H_RAX, CPU_OFF(bt.flags));
	}
	store_regs_but_rax(e);
}

static void fill(struct emit *e)
{
	bt_emit_flags_load(e);
	for (unsigned g = RAX; g <= R15; g++)
		if (host_reg_of(g) != IN_MEMORY)
			e_load(e, host_reg_of(g), GPR_OFF(g));
}

static const uint8_t callee_saved[] = {H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15};

void bt_emit_barrier(const struct bt_stubs *s, struct emit *e, uint64_t barrier)
{
	e_mov_imm64(e, SCRATCH0, barrier);
	e_push(e, SCRATCH0);
	e_mov_imm64(e, SCRATCH0, (uintptr_t)e_exec(e, s->underflow));
	e_push(e, SCRATCH0);
}

/*
 * The upper part of the shadow stack stays, for the next time that compiled code is entered: the
 * run loop has returned to the same function by then, more often than not. Clobbers RCX, RSI, RDI.
 */
static void emit_keep_returns(const struct bt_stubs *s, struct emit *e)
{
	if (s->single)
		return;
	e_load(e, H_RCX, CPU_OFF(bt.user_rsp));
	e_code(e, 0x48, 0x29, 0xe1); /* sub rcx, rsp */
	e_store(e, H_RCX, CPU_OFF(bt.kept_user));
	e_load(e, H_RCX, CPU_OFF(bt.host_rsp));
	e_code(e, 0x48, 0x29, 0xe1); /* sub rcx, rsp */
	e_mov_imm32(e, H_RSI, sizeof(((struct cpu *)0)->bt.kept));
	e_code(e, 0x48, 0x39, 0xf1);	   /* cmp rcx, rsi */
	e_code(e, 0x48, 0x0f, 0x47, 0xce); /* cmova rcx, rsi */
	e_store(e, H_RCX, CPU_OFF(bt.kept_bytes));
	e_mov_rr(e, H_RSI, H_RSP);
	e_load(e, H_RDI, CPU_OFF(bt.self));
	e_lea(e, H_RDI, H_RDI, H_NONE, 0, CPU_OFF(bt.kept));
	e_code(e, 0xf3, 0xa4); /* rep movsb */
}

/*
 * They are on the shadow stack again, those of user code as well if all above them are. Whoever
 * does not want that has set kept_bytes to 0, as it is afterwards. Clobbers RCX, RSI, RDI and the
 * flags.
 */
static void emit_expect_kept(const struct bt_stubs *s, struct emit *e)
{
	uint8_t *none, *gone;

	if (s->single)
		return;
	e_load(e, H_RCX, CPU_OFF(bt.kept_bytes));
	e_code(e, 0x48, 0x85, 0xc9); /* test rcx, rcx */
	none = e_jcc(e, CC_E);
	e_code(e, 0x48, 0x29, 0xcc); /* sub rsp, rcx */
	e_load(e, H_RSI, CPU_OFF(bt.self));
	e_lea(e, H_RSI, H_RSI, H_NONE, 0, CPU_OFF(bt.kept));
	e_mov_rr(e, H_RDI, H_RSP);
	e_code(e, 0xf3, 0xa4); /* rep movsb */
	e_load(e, H_RCX, CPU_OFF(bt.kept_user));
	e_gs(e, true, 0x3b, H_RCX, CPU_OFF(bt.kept_bytes));
	gone = e_jcc(e, CC_AE);
	e_lea(e, H_RCX, H_RSP, H_RCX, 0, 0);
	e_store(e, H_RCX, CPU_OFF(bt.user_rsp));
	e_patch_here(e, gone);
	e_mov_imm32(e, H_RCX, 0);
	e_store(e, H_RCX, CPU_OFF(bt.kept_bytes));
	e_patch_here(e, none);
}

/*
 * void enter(void *native). The base of the shadow stack is a barrier.
 */
static void emit_enter(struct bt_stubs *s)
{
	struct emit *e = &s->e;

	s->enter = e->p;
	for (unsigned n = 0; n < ARRAY_SIZE(callee_saved); n++)
		e_push(e, callee_saved[n]);
	e_mov_rr(e, SCRATCH1, H_RDI);
	bt_emit_barrier(s, e, SHADOW_BARRIER);
	e_store(e, H_RSP, CPU_OFF(bt.host_rsp));
	s->entered = e->p;
	bt_emit_forget_user(e);
	emit_expect_kept(s, e);
	fill(e);
	e_jmp_reg(e, SCRATCH1);
}

/* Guest state is in struct cpu already. */
static void emit_return(const struct bt_stubs *s, struct emit *e)
{
	emit_keep_returns(s, e);
	e_load(e, H_RSP, CPU_OFF(bt.host_rsp));
	e_lea(e, H_RSP, H_RSP, H_NONE, 0, 16);
	for (unsigned n = ARRAY_SIZE(callee_saved); n-- > 0;)
		e_pop(e, callee_saved[n]);
	e8(e, 0xc3);
}

/* Jumped to when C code has set cpu->rip, and cpu->bt.go_on, with RSP as between units. */
static void emit_handed_over(struct bt_stubs *s)
{
	struct emit *e = &s->e;
	uint8_t *go_on, *same;

	s->handed_over = e->p;
	e_load(e, SCRATCH1, CPU_OFF(bt.go_on));
	e_code(e, 0x4d, 0x85, 0xdb); /* test r11, r11 */
	go_on = e_jcc(e, CC_NE);
	emit_return(s, e);
	e_patch_here(e, go_on);
	e_code(e, 0x65, 0x80); /* cmp byte gs:[other_place], 0 */
	e_field(e, 7, CPU_OFF(bt.other_place), 1), e8(e, 0);
	same = e_jcc(e, CC_E);
	bt_emit_shadow_reset(e);
	e_patch_here(e, same);
	fill(e);
	e_jmp_reg(e, SCRATCH1);
}

/* Jumped to with cpu->rip set. */
static void emit_leave(struct bt_stubs *s, bool flags_mem)
{
	struct emit *e = &s->e;

	s->leave[flags_mem] = e->p;
	spill(e, flags_mem);
	bt_emit_save_vectors(s, e);
	emit_return(s, e);
}

/* Calls a C function with the CPU as first argument; RBX holds RSP meanwhile. */
static void call_c(struct emit *e, void *fn)
{
	e_load(e, H_RDI, CPU_OFF(bt.self));
	e_mov_rr(e, H_RBX, H_RSP);
	e_code(e, 0x48, 0x83, 0xe4, 0xf0); /* and rsp, -16 */
	e_mov_imm64(e, H_RAX, (uintptr_t)fn);
	e_code(e, 0xff, 0xd0); /* call rax */
	e_mov_rr(e, H_RSP, H_RBX);
}

/* Called with the struct bt_site in SCRATCH0. */
static void emit_step(struct bt_stubs *s, bool flags_mem)
{
	struct emit *e = &s->e;
	uint8_t *leave;

	s->step[flags_mem] = e->p;
	spill(e, flags_mem);
	bt_emit_save_vectors(s, e);
	e_mov_rr(e, H_RSI, SCRATCH0);
	call_c(e, bt_step);
	e_code(e, 0x83, 0xf8, BT_STEP_ON); /* cmp eax, imm8 */
	leave = e_jcc(e, CC_B);
	bt_emit_load_vectors(s, e);
	fill(e);
	e8(e, 0xc3);
	e_patch_here(e, leave);
	/* The site's address is not of the shadow stack. */
	e_lea(e, H_RSP, H_RSP, H_NONE, 0, 8);
	e_jmp_to(e, s->handed_over);
}

/* Jumped to with the struct bt_check in SCRATCH1, from whose instruction to go on. */
static void emit_rest(struct bt_stubs *s, bool flags_mem)
{
	struct emit *e = &s->e;

	s->rest[flags_mem] = e->p;
	spill(e, flags_mem);
	bt_emit_save_vectors(s, e);
	e_mov_rr(e, H_RSI, SCRATCH1);
	call_c(e, bt_rest);
	e_jmp_to(e, s->handed_over);
}

/* Jumped to with the struct bt_check in SCRATCH1 and the first address checked in SCRATCH0. */
static void emit_miss(struct bt_stubs *s, bool flags_mem)
{
	struct emit *e = &s->e;
	uint8_t *rest;

	s->miss[flags_mem] = e->p;
	spill(e, flags_mem);
	e_store(e, SCRATCH1, CPU_OFF(bt.check));
	if (MISS_SAVES_VECTORS)
		bt_emit_save_vectors(s, e);
	e_mov_rr(e, H_RSI, SCRATCH1);
	e_mov_rr(e, H_RDX, SCRATCH0);
	call_c(e, bt_miss);
	e_code(e, 0x48, 0x85, 0xc0); /* test rax, rax */
	rest = e_jcc(e, CC_E);
	e_mov_rr(e, SCRATCH1, H_RAX);
	if (MISS_SAVES_VECTORS)
		bt_emit_load_vectors(s, e);
	fill(e);
	e_jmp_reg(e, SCRATCH1);
	e_patch_here(e, rest);
	if (!MISS_SAVES_VECTORS)
		bt_emit_save_vectors(s, e);
	e_load(e, H_RSI, CPU_OFF(bt.check));
	call_c(e, bt_rest);
	e_jmp_to(e, s->handed_over);
}

/* Jumped to with the struct bt_check in SCRATCH1: loads the registers it is for if that is
 * allowed. */
static void emit_vec_enter(struct bt_stubs *s, bool flags_mem)
{
	struct emit *e = &s->e;
	uint8_t *rest;

	s->vec_enter[flags_mem] = e->p;
	spill(e, flags_mem);
	bt_emit_save_vectors(s, e);
	e_store(e, SCRATCH1, CPU_OFF(bt.check));
	e_mov_rr(e, H_RSI, SCRATCH1);
	call_c(e, bt_vec_enter);
	e_code(e, 0x48, 0x85, 0xc0); /* test rax, rax */
	rest = e_jcc(e, CC_E);
	e_mov_rr(e, SCRATCH1, H_RAX);
	bt_emit_load_vectors(s, e);
	fill(e);
	e_jmp_reg(e, SCRATCH1);
	e_patch_here(e, rest);
	e_load(e, H_RSI, CPU_OFF(bt.check));
	call_c(e, bt_rest);
	e_jmp_to(e, s->handed_over);
}

/* What a C function may clobber of what the guest's registers are in. */
static const uint8_t caller_saved[] = {RAX, RCX, RDX, RSI, RDI, R8, R9};

/* The shadow stack is that of the user code again, or empty. */
static void emit_user_returns(struct emit *e)
{
	e_load(e, SCRATCH0, CPU_OFF(bt.user_rsp));
	e_code(e, 0x4d, 0x85, 0xd2);		       /* test r10, r10 */
	e_code(e, 0x65, 0x4c, 0x0f, 0x44, 0x14, 0x25); /* cmovz r10, gs:[host_rsp] */
	e32(e, CPU_OFF(bt.host_rsp));
	bt_emit_forget_user(e);
	/* Not above what is to stay, not for a moment: signals are handled on this stack. */
	e_mov_rr(e, H_RSP, SCRATCH0);
}

void bt_emit_quick_call(const struct bt_stubs *s, struct emit *e, void *fn)
{
	for (unsigned n = 0; n < ARRAY_SIZE(caller_saved); n++)
		e_store(e, caller_saved[n], GPR_OFF(caller_saved[n]));
	e_mov_rr(e, H_RSI, SCRATCH0);
	if (MISS_SAVES_VECTORS)
		bt_emit_save_vectors(s, e);
	e_load(e, H_RDI, CPU_OFF(bt.self));
	e_push(e, H_RAX); /* entries have 16 bytes, so this aligns */
	e_mov_imm64(e, H_RAX, (uintptr_t)fn);
	e_code(e, 0xff, 0xd0); /* call rax */
	e_pop(e, H_RCX);
	e_mov_rr(e, SCRATCH1, H_RAX);
	if (MISS_SAVES_VECTORS)
		bt_emit_load_vectors(s, e);
	for (unsigned n = 0; n < ARRAY_SIZE(caller_saved); n++)
		e_load(e, caller_saved[n], GPR_OFF(caller_saved[n]));
}

/*
 * Jumped to with the struct bt_site in SCRATCH0 and the flags in cpu->bt.flags; fn is of mode.c.
 * Kernel code expects none of the returns of user code, but these stand until SYSRET or IRET.
 */
static void emit_mode(struct bt_stubs *s, enum bt_mode mode, void *fn)
{
	struct emit *e = &s->e;
	uint8_t *refused;

	s->mode[mode] = e->p;
	e_store(e, SCRATCH0, CPU_OFF(bt.site));
	if (mode == BT_SYSCALL)
		e_store(e, H_RSP, CPU_OFF(bt.user_rsp));
	if (mode == BT_IRET)
		e_store(e, H_GUEST_RSP, GPR_OFF(RSP));
	bt_emit_quick_call(s, e, fn);
	e_code(e, 0x4d, 0x85, 0xdb); /* test r11, r11 */
	refused = e_jcc(e, CC_E);
	if (mode == BT_IRET)
		e_load(e, H_GUEST_RSP, GPR_OFF(RSP));
	if (mode == BT_SYSCALL)
		bt_emit_barrier(s, e, SHADOW_BARRIER);
	else
		emit_user_returns(e);
	e_jmp_reg(e, SCRATCH1);
	e_patch_here(e, refused);
	e_load(e, SCRATCH0, CPU_OFF(bt.site));
	/* It does not come back: the handler ends the block. */
	e_call_to(e, s->step[1]);
}

/*
 * Jumped to with a fault delivered, its handler's code in cpu->bt.go_on and all registers loaded.
 * What user code expects stands until IRET, as with SYSCALL; what the kernel's expects is of the
 * handler's mode.
 */
static void emit_faults(struct bt_stubs *s)
{
	struct emit *e = &s->e;

	s->fault_user = e->p;
	e_store(e, H_RSP, CPU_OFF(bt.user_rsp));
	bt_emit_barrier(s, e, SHADOW_BARRIER);
	s->fault_kernel = e->p;
	e_load(e, SCRATCH1, CPU_OFF(bt.go_on));
	e_jmp_reg(e, SCRATCH1);
}

static void emit_ran(struct bt_stubs *s)
{
	s->ran = s->e.p;
	bt_emit_quick_call(s, &s->e, bt_ran);
	e_jmp_reg(&s->e, SCRATCH1);
}

void bt_emit_stubs(struct bt_stubs *s)
{
	bt_emit_vec_stubs(s);
	bt_emit_refill_stubs(s);
	bt_emit_string_stubs(s);
	emit_handed_over(s);
	for (unsigned mem = 0; mem < 2; mem++) {
		emit_leave(s, mem);
		emit_step(s, mem);
		emit_rest(s, mem);
		emit_miss(s, mem);
		emit_vec_enter(s, mem);
	}
	bt_emit_jump_stubs(s);
	emit_mode(s, BT_SYSCALL, bt_syscall);
	emit_mode(s, BT_SYSRET, bt_sysret);
	emit_mode(s, BT_IRET, bt_iret);
	emit_faults(s);
	emit_ran(s);
	emit_enter(s);
}
