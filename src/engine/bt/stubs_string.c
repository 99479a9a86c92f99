/*
 * REP MOVS and REP STOS between pages that the software TLB has in its first level, by the host's
 * instructions: RAX, RCX, RSI and RDI are the guest's. Nothing is changed before all is known.
 */
#include "src/engine/bt/bt_int.h"

/*
 * SCRATCH1 = the addend of the page of all bytes from reg on. Returns the jump that is taken if it
 * is not there.
 */
static uint8_t *emit_find(struct emit *e, enum tlb_ctx ctx, enum tlb_kind kind, unsigned reg,
			  unsigned size)
{
	e_lea(e, SCRATCH0, reg, H_RCX, size, -1);
	e_mov_rr(e, SCRATCH1, reg);
	return bt_emit_first_level(e, ctx, kind, BT_ANY_HALF);
}

/* add or sub reg, r */
static void emit_add(struct emit *e, unsigned reg, unsigned r)
{
	e_code(e, 0x4c, 0x01, 0xc0 | (r & 7) << 3 | reg);
}

static void emit_sub(struct emit *e, unsigned reg, unsigned r)
{
	e_code(e, 0x4c, 0x29, 0xc0 | (r & 7) << 3 | reg);
}

static void emit_rep(struct emit *e, uint8_t op, unsigned size)
{
	if (size == 1)
		e8(e, 0x66);
	e8(e, 0xf3);
	if (size == 3)
		e8(e, 0x48);
	e8(e, size ? op | 1 : op);
}

static uint8_t *emit_string(struct emit *e, enum tlb_ctx ctx, bool store, unsigned size)
{
	uint8_t *start = e->p, *fail[3], *none, *nothing;
	unsigned n = 0;

	e_code(e, 0x65, 0xf7); /* test dword gs:[rflags], imm32 */
	e_field(e, 0, CPU_OFF(rflags), 4), e32(e, FLAG_DF);
	fail[n++] = e_jcc(e, CC_NE);
	e_code(e, 0x48, 0x81, 0xf9), e32(e, PAGE_SIZE >> size); /* cmp rcx, imm32 */
	fail[n++] = e_jcc(e, CC_A);
	e_code(e, 0x48, 0x85, 0xc9); /* test rcx, rcx */
	nothing = e_jcc(e, CC_E);
	if (!store) {
		fail[n++] = emit_find(e, ctx, TLB_LOADS, H_RSI, size);
		e_push(e, SCRATCH1);
	}
	none = emit_find(e, ctx, TLB_STORES, H_RDI, size);
	emit_add(e, H_RDI, SCRATCH1);
	if (store) {
		emit_rep(e, 0xaa, size);
	} else {
		e_pop(e, SCRATCH0);
		emit_add(e, H_RSI, SCRATCH0);
		emit_rep(e, 0xa4, size);
		emit_sub(e, H_RSI, SCRATCH0);
	}
	emit_sub(e, H_RDI, SCRATCH1);
	e_patch_here(e, nothing);
	e_code(e, 0xf8, 0xc3); /* clc; ret */
	e_patch_here(e, none);
	if (!store)
		e_pop(e, SCRATCH1);
	while (n-- > 0)
		e_patch_here(e, fail[n]);
	e_code(e, 0xf9, 0xc3); /* stc; ret */
	return start;
}

void bt_emit_string_stubs(struct bt_stubs *s)
{
	for (enum tlb_ctx ctx = 0; ctx < TLB_ALIGN; ctx++)
		for (unsigned n = 0; n < 8; n++)
			s->string[ctx][n / 4][n % 4] = emit_string(&s->e, ctx, n / 4, n % 4);
}
