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

/* --- vector registers ---------------------------------------------------------------------- */

/* Between register n and its place in struct cpu; op: 0x11 stores, 0x10 loads. */
static void vec_move(struct emit *e, bool avx, unsigned n, uint8_t op)
{
	e8(e, 0x65);
	if (avx)
		e_code(e, 0xc5, n < 8 ? 0xfc : 0x7c); /* vmovups ymm */
	else
		e_code(e, 0x40 | (n >> 3) << 2, 0x0f); /* movups xmm */
	e_code(e, op, 0x04 | (n & 7) << 3, 0x25);
	e32(e, CPU_OFF(vec.ymm) + 32 * n);
}

/* reg: 2 loads MXCSR, 3 stores it. */
static void vec_mxcsr(struct emit *e, unsigned reg, size_t off)
{
	e_code(e, 0x65, 0x0f, 0xae, 0x04 | reg << 3, 0x25);
	e32(e, off);
}

/* Called with RAX free. Leaves the level that was there in vec_was. */
static void emit_vec_save(struct bt_stubs *s)
{
	struct emit *e = &s->e;

	s->vec_save = e->p;
	for (unsigned n = 0; n < 16; n++)
		vec_move(e, s->isa.avx, n, 0x11);
	vec_mxcsr(e, 3, CPU_OFF(vec.mxcsr));
	vec_mxcsr(e, 2, CPU_OFF(bt.host_mxcsr));
	if (s->isa.avx)
		e_code(e, 0xc5, 0xf8, 0x77); /* vzeroupper: else the monitor's SSE code pays */
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.vec_level));
	e_gs(e, false, 0x89, H_RAX, CPU_OFF(bt.vec_was));
	e_code(e, 0x31, 0xc0); /* xor eax, eax */
	e_gs(e, false, 0x89, H_RAX, CPU_OFF(bt.vec_level));
	e8(e, 0xc3);
}

/*
 * Returns the jump that is taken if some register's upper half is not zero. While one is not, or
 * was loaded by an instruction that might, the processor merges what SSE instructions write with
 * what was there, and so has them wait for that.
 */
static uint8_t *emit_upper_halves(struct emit *e)
{
	for (unsigned n = 0; n < 16; n++) {
		e_code(e, 0x65, 0xc5, 0xf8, n ? 0x56 : 0x10, 0x04, 0x25); /* vorps or vmovups */
		e32(e, CPU_OFF(vec.ymm) + 32 * n + 16);
	}
	e_code(e, 0xc4, 0xe2, 0x79, 0x17, 0xc0); /* vptest xmm0, xmm0 */
	return e_jcc(e, CC_NE);
}

/* Called with RAX free: the level becomes vec_was. */
static void emit_vec_load(struct bt_stubs *s)
{
	struct emit *e = &s->e;
	uint8_t *upper = NULL, *done;

	s->vec_load = e->p;
	vec_mxcsr(e, 2, CPU_OFF(vec.mxcsr));
	if (s->isa.avx) {
		upper = emit_upper_halves(e);
		e_code(e, 0xc5, 0xf8, 0x77); /* vzeroupper */
	}
	for (unsigned n = 0; n < 16; n++)
		vec_move(e, false, n, 0x10);
	if (s->isa.avx) {
		done = e_jmp(e);
		e_patch_here(e, upper);
		for (unsigned n = 0; n < 16; n++)
			vec_move(e, true, n, 0x10);
		e_patch_here(e, done);
	}
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.vec_was));
	e_gs(e, false, 0x89, H_RAX, CPU_OFF(bt.vec_level));
	e8(e, 0xc3);
}

/* Calls a stub if what is in RAX is not zero. */
static void call_if(struct emit *e, const uint8_t *stub)
{
	e_code(e, 0x85, 0xc0, 0x74, 0x05); /* test eax, eax; jz over the call */
	e_call_to(e, stub);
}

/*
 * Before C code that may use vector or x87 registers: saves the guest's if they are in the host's.
 * Clobbers RAX.
 */
static void save_vectors(const struct bt_stubs *s, struct emit *e)
{
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.vec_level));
	e_gs(e, false, 0x89, H_RAX, CPU_OFF(bt.vec_was));
	call_if(e, s->vec_save);
	/* Only now: saving the x87 state wants the host's own MXCSR, and loading it XMM registers.
	 */
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.x87_live));
	e_gs(e, false, 0x89, H_RAX, CPU_OFF(bt.x87_was));
	call_if(e, s->x87_save);
}

/* What vec_was and x87_was say is loaded again. Clobbers RAX. */
static void load_vectors(const struct bt_stubs *s, struct emit *e)
{
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.x87_was));
	call_if(e, s->x87_load);
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.vec_was));
	call_if(e, s->vec_load);
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
	save_vectors(s, e);
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
	save_vectors(s, e);
	e_mov_rr(e, H_RSI, SCRATCH0);
	call_c(e, bt_step);
	e_code(e, 0x83, 0xf8, BT_STEP_ON); /* cmp eax, imm8 */
	leave = e_jcc(e, CC_B);
	load_vectors(s, e);
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
	save_vectors(s, e);
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
		save_vectors(s, e);
	e_mov_rr(e, H_RSI, SCRATCH1);
	e_mov_rr(e, H_RDX, SCRATCH0);
	call_c(e, bt_miss);
	e_code(e, 0x48, 0x85, 0xc0); /* test rax, rax */
	rest = e_jcc(e, CC_E);
	e_mov_rr(e, SCRATCH1, H_RAX);
	if (MISS_SAVES_VECTORS)
		load_vectors(s, e);
	fill(e);
	e_jmp_reg(e, SCRATCH1);
	e_patch_here(e, rest);
	if (!MISS_SAVES_VECTORS)
		save_vectors(s, e);
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
	save_vectors(s, e);
	e_store(e, SCRATCH1, CPU_OFF(bt.check));
	e_mov_rr(e, H_RSI, SCRATCH1);
	call_c(e, bt_vec_enter);
	e_code(e, 0x48, 0x85, 0xc0); /* test rax, rax */
	rest = e_jcc(e, CC_E);
	e_mov_rr(e, SCRATCH1, H_RAX);
	load_vectors(s, e);
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
		save_vectors(s, e);
	e_load(e, H_RDI, CPU_OFF(bt.self));
	e_push(e, H_RAX); /* entries have 16 bytes, so this aligns */
	e_mov_imm64(e, H_RAX, (uintptr_t)fn);
	e_code(e, 0xff, 0xd0); /* call rax */
	e_pop(e, H_RCX);
	e_mov_rr(e, SCRATCH1, H_RAX);
	if (MISS_SAVES_VECTORS)
		load_vectors(s, e);
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
	emit_vec_save(s);
	emit_vec_load(s);
	bt_emit_x87_stubs(s);
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
