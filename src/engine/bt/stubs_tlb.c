/*
 * Latches that are filled from the software TLB's first level, and misses of that which the second
 * level answers, without a call to C: so few instructions that the processor has the memory
 * accesses behind several of them in flight.
 */
#include "src/engine/bt/bt_int.h"

_Static_assert(sizeof(struct tlb_entry) == 16 && sizeof(struct tlb2_entry) == 16,
	       "indices are shifted by 4");

#define TAG   (CPU_OFF(tlb.e2) + offsetof(struct tlb2_entry, tag))
#define WHERE (CPU_OFF(tlb.e2) + offsetof(struct tlb2_entry, where))

/* SCRATCH0 += the tag of a half of addresses. */
static void emit_tag(struct emit *e, unsigned half)
{
	e_gs(e, true, 0x03, SCRATCH0, CPU_OFF(tlb.tag) + 8 * half);
}

/* ... of the half that it is in. */
static void emit_own_tag(struct emit *e)
{
	uint8_t *upper, *done;

	e_code(e, 0x4d, 0x85, 0xd2); /* test r10, r10 */
	upper = e_jcc(e, CC_S);
	emit_tag(e, 0);
	done = e_jmp(e);
	e_patch_here(e, upper);
	emit_tag(e, 1);
	e_patch_here(e, done);
}

uint8_t *bt_emit_first_level(struct emit *e, enum tlb_ctx ctx, enum tlb_kind kind, unsigned half)
{
	e_code(e, 0x49, 0xc1, 0xeb, BT_INDEX_SHIFT); /* shr r11, imm8 */
	return bt_emit_shifted_level(e, ctx, kind, half);
}

uint8_t *bt_emit_shifted_level(struct emit *e, enum tlb_ctx ctx, enum tlb_kind kind, unsigned half)
{
	size_t entry = CPU_OFF(tlb.e[ctx][kind]);
	uint8_t *other;

	e_code(e, 0x41, 0x81, 0xe3), e32(e, (TLB_SIZE - 1) << 4); /* and r11d, imm32 */
	e_code(e, 0x49, 0x81, 0xe2), e32(e, (uint32_t)PAGE_MASK); /* and r10, imm32 */
	if (half == BT_ANY_HALF)
		emit_own_tag(e);
	else
		emit_tag(e, half);
	e_gs_base(e, 0x39, SCRATCH0, SCRATCH1, entry + offsetof(struct tlb_entry, tag));
	other = e_jcc(e, CC_NE);
	e_gs_base(e, 0x8b, SCRATCH1, SCRATCH1, entry + offsetof(struct tlb_entry, addend));
	return other;
}

/* R11 = the addend; to the first level's entry, whose offset in its array the low bits of RAX are.
 */
static void emit_fill(struct emit *e, enum tlb_ctx ctx, enum tlb_kind kind)
{
	size_t entry = CPU_OFF(tlb.e[ctx][kind]);

	_Static_assert(TLB_SIZE << 4 == 1 << 16, "16 bits of offset");
	e_code(e, 0x0f, 0xb7, 0xc0); /* movzx eax, ax */
	e_gs_base(e, 0x89, SCRATCH0, H_RAX, entry + offsetof(struct tlb_entry, tag));
	e_code(e, 0x49, 0x81, 0xe3), e32(e, (uint32_t)PAGE_MASK); /* and r11, imm32: CF = 0 */
	e_gs_base(e, 0x89, SCRATCH1, H_RAX, entry + offsetof(struct tlb_entry, addend));
}

/* RAX = the offset in the second level. Returns the jump that is taken if the group crosses pages.
 */
static uint8_t *emit_index(struct emit *e)
{
	uint8_t *fail;

	e_code(e, 0x44, 0x89, 0xd0);				  /* mov eax, r10d */
	e_code(e, 0xc1, 0xe8, PAGE_SHIFT - 4);			  /* shr eax, imm8 */
	e_code(e, 0x41, 0x31, 0xc3);				  /* xor r11d, eax */
	e_code(e, 0x41, 0xf7, 0xc3), e32(e, (TLB_SIZE - 1) << 4); /* test r11d, imm32 */
	fail = e_jcc(e, CC_NE);
	e8(e, 0x25), e32(e, (TLB2_SIZE - 1) << 4); /* and eax, imm32 */
	return fail;
}

static void emit_return(struct emit *e)
{
	e_pop(e, H_RAX);
	e8(e, 0xc3);
}

static uint8_t *emit_refill(struct emit *e, enum tlb_ctx ctx, enum tlb_kind kind)
{
	uint32_t need = (kind == TLB_STORES ? TLB_WRITE(0) : TLB_READ(0)) << ctx;
	uint8_t *start = e->p, *found, *others, *fail[2];

	e_push(e, H_RAX);
	fail[0] = emit_index(e);
	e_gs_base(e, 0x3b, SCRATCH0, H_RAX, TAG);
	others = e_jcc(e, CC_NE);
	found = e->p;
	e_gs_base(e, 0x8b, SCRATCH1, H_RAX, WHERE);
	e_code(e, 0x41, 0xf7, 0xc3), e32(e, need); /* test r11d, imm32 */
	fail[1] = e_jcc(e, CC_E);
	emit_fill(e, ctx, kind);
	emit_return(e);
	e_patch_here(e, others);
	for (unsigned way = 1; way < TLB2_WAYS; way++) {
		unsigned differs = tlb2_other(0, way) ^ tlb2_other(0, way - 1);

		e8(e, 0x35), e32(e, differs << 4); /* xor eax, imm32 */
		e_gs_base(e, 0x3b, SCRATCH0, H_RAX, TAG);
		e_jcc_to(e, CC_E, found);
	}
	for (unsigned n = 0; n < ARRAY_SIZE(fail); n++)
		e_patch_here(e, fail[n]);
	e8(e, 0xf9); /* stc */
	emit_return(e);
	return start;
}

/* mov byte gs:[off], 1 */
static void emit_set(struct emit *e, size_t off)
{
	e_code(e, 0x65, 0xc6, 0x04, 0x25);
	e32(e, off);
	e8(e, 1);
}

/*
 * Makes a latch's tag of the TLB's in SCRATCH0; clobbers RAX. Pages of the upper half that belong
 * to one address space (struct tlb_own) get 0, which no address matches.
 */
static void emit_latch_tag(struct emit *e, bool upper)
{
	if (upper)
		e_mov_rr(e, H_RAX, SCRATCH0);
	e_gs(e, true, 0x03, SCRATCH0, CPU_OFF(tlb.latches.delta) + 8 * upper);
	if (!upper)
		return;
	e_gs(e, true, 0x2b, H_RAX, CPU_OFF(tlb.own.lo));
	e_gs(e, true, 0x3b, H_RAX, CPU_OFF(tlb.own.span));
	e_mov_imm32(e, H_RAX, 0);
	e_code(e, 0x4c, 0x0f, 0x42, 0xd0); /* cmovb r10, rax */
}

/* The latch cpu->bt.latch gets the page in SCRATCH0, as the TLB has it, and the addend in SCRATCH1.
 */
static void emit_latch_store(struct emit *e, bool upper)
{
	size_t latch = CPU_OFF(tlb.latches.latch);

	e_push(e, H_RAX);
	emit_latch_tag(e, upper);
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.latch));
	e_gs_base(e, 0x89, SCRATCH0, H_RAX, latch + offsetof(struct latch, base));
	e_gs_base(e, 0x89, SCRATCH1, H_RAX, latch + offsetof(struct latch, addend));
	bt_emit_touched(e, H_RAX);
	e_pop(e, H_RAX);
}

/* The first level is asked first. Every so often bt_miss() takes a look. */
static uint8_t *emit_latch_fill(const struct bt_stubs *s, struct emit *e, enum tlb_ctx ctx,
				enum tlb_kind kind, bool upper)
{
	uint8_t *start = e->p, *have, *other, *sample;

	other = bt_emit_first_level(e, ctx, kind, upper);
	have = e->p;
	e_code(e, 0x65, 0x83, 0x2c, 0x25); /* sub dword gs:[fills], 1 */
	e32(e, CPU_OFF(bt.fills));
	e8(e, 1);
	sample = e_jcc(e, CC_S);
	emit_latch_store(e, upper);
	emit_set(e, CPU_OFF(tlb.latches.filled) + upper);
	if (kind == TLB_STORES)
		emit_set(e, CPU_OFF(tlb.latches.stored));
	e_code(e, 0xf8, 0xc3); /* clc; ret */
	e_patch_here(e, other);
	e_call_to(e, s->refill[ctx][kind]);
	e_jcc_to(e, CC_AE, have);
	e_patch_here(e, sample);
	e_code(e, 0xf9, 0xc3); /* stc; ret */
	return start;
}

void bt_emit_refill_stubs(struct bt_stubs *s)
{
	for (enum tlb_ctx ctx = 0; ctx < TLB_ALIGN; ctx++) {
		for (enum tlb_kind kind = 0; kind < TLB_KINDS; kind++) {
			s->refill[ctx][kind] = emit_refill(&s->e, ctx, kind);
			for (unsigned upper = 0; upper < 2; upper++)
				s->latch_fill[ctx][kind][upper] =
					emit_latch_fill(s, &s->e, ctx, kind, upper);
		}
	}
}
