/*
 * Misses of the software TLB's first level that its second level answers, without a call to C: so
 * few instructions that the processor has the memory accesses behind several of them in flight.
 */
#include "src/engine/bt/bt_int.h"

_Static_assert(sizeof(struct tlb_entry) == 16 && sizeof(struct tlb2_entry) == 16,
	       "indices are shifted by 4");

#define VA_BITS (TLB_VPN_BITS + PAGE_SHIFT)
#define KEY	(CPU_OFF(tlb.e2) + offsetof(struct tlb2_entry, key))
#define WHERE	(CPU_OFF(tlb.e2) + offsetof(struct tlb2_entry, where))

/* op reg, what the array of two at off has for the half of the address, which R11 tells if any. */
static void of_half(struct emit *e, enum bt_half half, uint8_t op, unsigned reg, size_t off)
{
	if (half != BT_ANY_HALF) {
		e_gs(e, true, op, reg, off + (half == BT_UPPER_HALF ? 8 : 0));
		return;
	}
	/* op reg, gs:[r11 * 8 + off] */
	e_code(e, 0x65, 0x4a | (reg >> 3) << 2, op, 0x04 | (reg & 7) << 3, 0xdd);
	e32(e, off);
}

/*
 * The jump that is taken if the address in R11 is not of this half or not canonical; R11 becomes
 * the half's number if it may be any. Clobbers RCX.
 */
static uint8_t *emit_half(struct emit *e, enum bt_half half)
{
	uint8_t *fail;

	e_mov_rr(e, H_RCX, SCRATCH1);
	e_code(e, 0x48, 0xc1, 0xf9, VA_BITS - 1); /* sar rcx, imm8: 0 or -1 */
	if (half != BT_LOWER_HALF)
		e_code(e, 0x48, 0xff, 0xc1); /* inc rcx */
	if (half != BT_ANY_HALF)
		return e_jcc(e, CC_NE);
	e_code(e, 0x48, 0x83, 0xf9, 1); /* cmp rcx, 1 */
	fail = e_jcc(e, CC_A);
	e_code(e, 0x49, 0xc1, 0xeb, 63); /* shr r11, 63 */
	return fail;
}

/* Of the page in RAX: RCX = its key, R10 = the offset of its first place in the second level. */
static void emit_key(struct emit *e, enum bt_half half)
{
	e_mov_rr(e, H_RCX, H_RAX);
	e_code(e, 0x48, 0xc1, 0xe1, 64 - VA_BITS);		/* shl rcx, imm8 */
	e_code(e, 0x48, 0xc1, 0xe9, 64 - VA_BITS + PAGE_SHIFT); /* shr rcx, imm8 */
	e_mov_rr(e, SCRATCH0, H_RCX);
	e_code(e, 0x49, 0xc1, 0xea, TLB2_BITS);		    /* shr r10, imm8 */
	e_code(e, 0x41, 0x31, 0xca);			    /* xor r10d, ecx */
	e_code(e, 0x41, 0x81, 0xe2), e32(e, TLB2_SIZE - 1); /* and r10d, imm32 */
	e_code(e, 0x41, 0xc1, 0xe2, 4);			    /* shl r10d, 4 */
	of_half(e, half, 0x0b, H_RCX, CPU_OFF(tlb.space));  /* or rcx, [space] */
}

/* The first level's entry for the page in RAX gets the addend in R11, whose half's number is R11.
 */
static void emit_fill(struct emit *e, enum tlb_ctx ctx, enum tlb_kind kind, enum bt_half half)
{
	size_t entry = CPU_OFF(tlb.e[ctx][kind]);

	e_code(e, 0x89, 0xc1);				    /* mov ecx, eax */
	e_code(e, 0xc1, 0xe9, PAGE_SHIFT - 4);		    /* shr ecx, imm8 */
	e_code(e, 0x81, 0xe1), e32(e, (TLB_SIZE - 1) << 4); /* and ecx, imm32 */
	of_half(e, half, 0x0b, H_RAX, CPU_OFF(tlb.tag));    /* or rax, [tag] */
	e_gs_base(e, 0x89, H_RAX, H_RCX, entry + offsetof(struct tlb_entry, tag));
	e_mov_rr(e, SCRATCH1, SCRATCH0);
	e_code(e, 0x49, 0x81, 0xe3), e32(e, (uint32_t)PAGE_MASK); /* and r11, imm32: CF = 0 */
	e_gs_base(e, 0x89, SCRATCH1, H_RCX, entry + offsetof(struct tlb_entry, addend));
}

static void emit_return(struct emit *e)
{
	e_pop(e, H_RCX);
	e_pop(e, H_RAX);
	e8(e, 0xc3);
}

static uint8_t *emit_refill(struct emit *e, enum tlb_ctx ctx, enum tlb_kind kind, enum bt_half half)
{
	uint32_t need = (kind == TLB_STORES ? TLB_WRITE(0) : TLB_READ(0)) << ctx;
	uint8_t *start = e->p, *found, *others, *fail[3];

	e_push(e, H_RAX);
	e_push(e, H_RCX);
	e_mov_rr(e, H_RAX, SCRATCH1);
	e_code(e, 0x48, 0x25), e32(e, (uint32_t)PAGE_MASK); /* and rax, imm32 */
	e_code(e, 0x4c, 0x39, 0xd0);			    /* cmp rax, r10 */
	fail[0] = e_jcc(e, CC_NE);
	fail[1] = emit_half(e, half);
	emit_key(e, half);
	e_gs_base(e, 0x3b, H_RCX, SCRATCH0, KEY);
	others = e_jcc(e, CC_NE);
	found = e->p;
	e_gs_base(e, 0x8b, SCRATCH0, SCRATCH0, WHERE);
	e_code(e, 0x41, 0xf7, 0xc2), e32(e, need); /* test r10d, imm32 */
	fail[2] = e_jcc(e, CC_E);
	emit_fill(e, ctx, kind, half);
	emit_return(e);
	e_patch_here(e, others);
	for (unsigned way = 1; way < TLB2_WAYS; way++) {
		unsigned differs = tlb2_other(0, way) ^ tlb2_other(0, way - 1);

		e_code(e, 0x41, 0x81, 0xf2), e32(e, differs << 4); /* xor r10d, imm32 */
		e_gs_base(e, 0x3b, H_RCX, SCRATCH0, KEY);
		e_jcc_to(e, CC_E, found);
	}
	for (unsigned n = 0; n < ARRAY_SIZE(fail); n++)
		e_patch_here(e, fail[n]);
	e8(e, 0xf9); /* stc */
	emit_return(e);
	return start;
}

void bt_emit_refill_stubs(struct bt *bt)
{
	for (enum tlb_ctx ctx = 0; ctx < TLB_ALIGN; ctx++)
		for (enum tlb_kind kind = 0; kind < TLB_KINDS; kind++)
			for (enum bt_half half = 0; half < BT_HALVES; half++)
				bt->stubs->refill[ctx][kind][half] =
					emit_refill(&bt->e, ctx, kind, half);
}
