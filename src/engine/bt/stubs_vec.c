/*
 * Vector and x87 registers between struct cpu and the host's: stubs that save and load them, and
 * the calls of these around C code that may use such registers.
 */
#include "src/engine/bt/bt_int.h"

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

/* --- x87 ------------------------------------------------------------------------------------ */

#define FX_OFF(field) (CPU_OFF(vec.fx) + (field))

/* fxrstor64 (reg 1) or fxsave64 (reg 0): XMM0-15 and MXCSR as well, which nobody has an interest in
 * where these stubs are called. */
static void fx(struct emit *e, unsigned reg)
{
	e_code(e, 0x65, 0x48, 0x0f, 0xae, 0x04 | reg << 3, 0x25);
	e32(e, FX_OFF(0));
}

/* mov dword gs:[x87_live], v */
static void set_live(struct emit *e, bool v)
{
	e_code(e, 0x65, 0xc7, 0x04, 0x25);
	e32(e, CPU_OFF(bt.x87_live));
	e32(e, v);
}

/* Both called with RAX free and no vector registers in the host's. */
static void emit_x87_save(struct bt_stubs *s)
{
	struct emit *e = &s->e;

	s->x87_save = e->p;
	fx(e, 0);
	e_code(e, 0xdb, 0xe3); /* fninit: the monitor's own x87 state */
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.x87_ip));
	e_code(e, 0x25), e32(e, PAGE_SIZE - 1); /* and eax, imm32 */
	e_gs(e, true, 0x0b, H_RAX, CPU_OFF(bt.x87_page));
	e_store(e, H_RAX, FX_OFF(FX_FIP));
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.x87_ip));
	e_code(e, 0xc1, 0xe8, PAGE_SHIFT); /* shr eax, imm8 */
	e_store16(e, H_RAX, FX_OFF(FX_FOP));
	e_load(e, H_RAX, CPU_OFF(bt.x87_fdp));
	e_store(e, H_RAX, FX_OFF(FX_FDP));
	set_live(e, false);
	e8(e, 0xc3);
}

static void emit_x87_load(struct bt_stubs *s)
{
	struct emit *e = &s->e;

	s->x87_load = e->p;
	e_load(e, H_RAX, FX_OFF(FX_FIP));
	e_code(e, 0x25), e32(e, PAGE_SIZE - 1); /* and eax, imm32 */
	e_gs(e, false, 0x89, H_RAX, CPU_OFF(bt.x87_ip));
	e_load(e, H_RAX, FX_OFF(FX_FIP));
	e_code(e, 0x48, 0x25), e32(e, -(uint32_t)PAGE_SIZE); /* and rax, imm32 */
	e_store(e, H_RAX, CPU_OFF(bt.x87_page));
	e_code(e, 0x65, 0x0f, 0xb7, 0x04, 0x25), e32(e, FX_OFF(FX_FOP)); /* movzx eax, word */
	e_code(e, 0xc1, 0xe0, PAGE_SHIFT);				 /* shl eax, imm8 */
	e_gs(e, false, 0x09, H_RAX, CPU_OFF(bt.x87_ip));
	e_load(e, H_RAX, FX_OFF(FX_FDP));
	e_store(e, H_RAX, CPU_OFF(bt.x87_fdp));
	fx(e, 1);
	set_live(e, true);
	e8(e, 0xc3);
}

/* --- around C code -------------------------------------------------------------------------- */

/* Calls a stub if what is in RAX is not zero. */
static void call_if(struct emit *e, const uint8_t *stub)
{
	e_code(e, 0x85, 0xc0, 0x74, 0x05); /* test eax, eax; jz over the call */
	e_call_to(e, stub);
}

void bt_emit_save_vectors(const struct bt_stubs *s, struct emit *e)
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

void bt_emit_load_vectors(const struct bt_stubs *s, struct emit *e)
{
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.x87_was));
	call_if(e, s->x87_load);
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.vec_was));
	call_if(e, s->vec_load);
}

void bt_emit_vec_stubs(struct bt_stubs *s)
{
	emit_vec_save(s);
	emit_vec_load(s);
	emit_x87_save(s);
	emit_x87_load(s);
}
