/* Branches whose target has to be found: the jump cache, and what fills the latches of branches. */
#include "src/engine/bt/bt_int.h"

/* How many entries of the shadow stack an unexpected return is looked for in. */
#define SEARCHED 24
/* Bytes of entries, of whatever stacks of the guest's, that are not worth their cache lines. */
#define DEEP 2048

#define JUMP_OFF(field) (CPU_OFF(jump) + offsetof(struct jump_entry, field))

/* SCRATCH1 = the offset among entries of the place where the target in SCRATCH0 belongs. */
static void emit_place(struct emit *e)
{
	const uint32_t places = (JUMP_CACHE - 1) * sizeof(struct jump_entry);

	e_gs(e, false, 0x8b, SCRATCH1, CPU_OFF(bt.salt));
	e_code(e, 0xf2, 0x4d, 0x0f, 0x38, 0xf1, 0xda); /* crc32 r11, r10 */
	e_code(e, 0x41, 0x81, 0xe3), e32(e, places);   /* and r11d, imm32 */
}

static void emit_other_place(struct emit *e)
{
	e_code(e, 0x49, 0x83, 0xf3, sizeof(struct jump_entry)); /* xor r11, imm8 */
}

/* reg = a field of the entry. */
static void emit_entry_load(struct emit *e, unsigned reg, size_t field)
{
	e_gs_base(e, 0x8b, reg, SCRATCH1, field);
}

static void emit_jump_native(struct emit *e)
{
	e_code(e, 0x65, 0x41, 0xff, 0xa3), e32(e, JUMP_OFF(native)); /* jmp gs:[r11 + native] */
}

/* cpu->bt.page = the page of the target in SCRATCH0, which goes. */
static void emit_page(struct emit *e)
{
	e_code(e, 0x49, 0x81, 0xe2), e32(e, (uint32_t)PAGE_MASK); /* and r10, imm32 */
	e_store(e, SCRATCH0, CPU_OFF(bt.page));
}

static void emit_same_key(struct emit *e, uint8_t **miss)
{
	e_load(e, SCRATCH0, CPU_OFF(bt.key));
	e_gs_base(e, 0x3b, SCRATCH0, SCRATCH1, JUMP_OFF(key));
	*miss = e_jcc(e, CC_NE);
}

/*
 * To the code of the entry at SCRATCH1 if that is of the target in SCRATCH0, which the second jump
 * out has lost: the entry has it.
 */
static void emit_probe(struct emit *e, uint8_t *miss[2])
{
	e_gs_base(e, 0x3b, SCRATCH0, SCRATCH1, JUMP_OFF(rip));
	miss[0] = e_jcc(e, CC_NE);
	/* Should the key differ nobody needs the old page: an address in the cache is canonical. */
	emit_page(e);
	emit_same_key(e, &miss[1]);
	emit_jump_native(e);
}

/* As emit_probe(), but goes nowhere and leaves cpu->bt.page alone. */
static void emit_compare(struct emit *e, uint8_t *miss[2])
{
	e_gs_base(e, 0x3b, SCRATCH0, SCRATCH1, JUMP_OFF(rip));
	miss[0] = e_jcc(e, CC_NE);
	emit_same_key(e, &miss[1]);
}

/* Where the jumps of emit_probe() lead: falls through with the target in SCRATCH0. */
static void emit_missed(struct emit *e, uint8_t *miss[2])
{
	if (miss[1]) {
		e_patch_here(e, miss[1]);
		emit_entry_load(e, SCRATCH0, JUMP_OFF(rip));
	}
	e_patch_here(e, miss[0]);
}

void bt_emit_lookup(const struct bt_stubs *s, struct emit *e, bool flags_mem, uint8_t *miss[2])
{
	if (!flags_mem)
		bt_emit_flags_save(e, SCRATCH1);
	if (s->single) {
		miss[0] = e_jmp(e);
		miss[1] = NULL;
		return;
	}
	emit_place(e);
	emit_probe(e, miss);
}

void bt_emit_lookup_miss(const struct bt_stubs *s, struct emit *e, uint8_t *miss[2],
			 const struct bt_site *branch)
{
	emit_missed(e, miss);
	if (branch)
		e_mov_imm64(e, SCRATCH1, (uintptr_t)branch);
	else
		e_code(e, 0x45, 0x31, 0xdb); /* xor r11d, r11d */
	e_jmp_to(e, s->second);
}

/*
 * Jumped to with the target in SCRATCH0, which was not in its place, and the branch's struct
 * bt_site (NULL if it is direct) in SCRATCH1: it may be in the other one.
 */
static void emit_second(struct bt_stubs *s)
{
	struct emit *e = &s->e;
	uint8_t *none[2];

	s->second = e->p;
	e_store(e, SCRATCH1, CPU_OFF(bt.branch));
	if (!s->single) {
		emit_place(e);
		emit_other_place(e);
		emit_probe(e, none);
		emit_missed(e, none);
	}
	e_jmp_to(e, s->not_cached);
}

/*
 * Where look-ups end that found nothing, with the target in SCRATCH0 and cpu->bt.branch set: it may
 * be found yet. Where entries of the jump cache lead whose block is not compiled, with the entry's
 * offset in SCRATCH1. And where to leave with cpu->rip set.
 */
static void emit_not_cached(struct bt_stubs *s)
{
	struct emit *e = &s->e;
	uint8_t *none;

	s->no_native = e->p;
	emit_entry_load(e, SCRATCH0, JUMP_OFF(rip));
	e_store(e, SCRATCH0, CPU_OFF(rip));
	s->mode_left = e->p;
	e_mov_imm32(e, SCRATCH1, 0);
	e_store(e, SCRATCH1, CPU_OFF(bt.branch));
	e_jmp_to(e, s->leave[1]);
	s->not_cached = e->p;
	e_store(e, SCRATCH0, CPU_OFF(rip));
	if (!s->single) {
		bt_emit_quick_call(s, e, bt_find);
		e_code(e, 0x4d, 0x85, 0xdb); /* test r11, r11 */
		none = e_jcc(e, CC_E);
		e_jmp_reg(e, SCRATCH1);
		e_patch_here(e, none);
	}
	e_jmp_to(e, s->leave[1]);
}

/* Jumped to with cpu->rip set and the struct bt_exit in SCRATCH0: leaves, for it to be joined. */
static void emit_chain(struct bt_stubs *s, bool flags_mem)
{
	struct emit *e = &s->e;

	s->chain[flags_mem] = e->p;
	if (!flags_mem)
		bt_emit_flags_save(e, SCRATCH1);
	e_store(e, SCRATCH0, CPU_OFF(bt.exit));
	e_jmp_to(e, s->leave[1]);
}

/* The same, of an exit that cannot be joined: goes by the jump cache. */
static void emit_elsewhere(struct bt_stubs *s, bool flags_mem)
{
	struct emit *e = &s->e;
	uint8_t *miss[2];

	s->elsewhere[flags_mem] = e->p;
	e_load(e, SCRATCH0, CPU_OFF(rip));
	bt_emit_lookup(s, e, flags_mem, miss);
	bt_emit_lookup_miss(s, e, miss, NULL);
}

/*
 * A return that the shadow stack's top did not expect, with its target in SCRATCH0: an entry below
 * may. What lies above that is of returns that were interpreted, or of another stack of the
 * guest's. No further than to a barrier, and not beyond the base, which is one. Clobbers SCRATCH1.
 */
static void emit_search(struct emit *e)
{
	uint8_t *loop, *none[3], *found, *few;

	e_push(e, H_RAX);
	e_lea(e, H_RAX, H_RSP, H_NONE, 0, 8);
	e_lea(e, SCRATCH1, H_RAX, H_NONE, 0, 16 * SEARCHED);
	loop = e->p;
	e_code(e, 0x48, 0x83, 0x78, 0x08, 0x00); /* cmp qword [rax + 8], 0 */
	none[0] = e_jcc(e, CC_E);
	e_code(e, 0x81, 0x78, 0x0c),
		e32(e, SHADOW_AC_BARRIER >> 32); /* cmp dword [rax + 12], imm32 */
	none[1] = e_jcc(e, CC_E);
	e_lea(e, H_RAX, H_RAX, H_NONE, 0, 16);
	e_code(e, 0x4c, 0x3b, 0x50, 0x08); /* cmp r10, [rax + 8] */
	found = e_jcc(e, CC_E);
	e_code(e, 0x4c, 0x39, 0xd8); /* cmp rax, r11 */
	e_jcc_to(e, CC_B, loop);
	none[2] = e_jmp(e);
	e_patch_here(e, found);
	e_load_at(e, SCRATCH1, H_RSP, 0);
	e_mov_rr(e, H_RSP, H_RAX);
	e_mov_rr(e, H_RAX, SCRATCH1);
	e8(e, 0xc3);
	for (unsigned n = 0; n < ARRAY_SIZE(none); n++)
		e_patch_here(e, none[n]);
	e_pop(e, H_RAX);
	e_load(e, SCRATCH1, CPU_OFF(bt.host_rsp));
	e_code(e, 0x49, 0x29, 0xe3);		   /* sub r11, rsp */
	e_code(e, 0x49, 0x81, 0xfb), e32(e, DEEP); /* cmp r11, imm32 */
	few = e_jcc(e, CC_BE);
	bt_emit_shadow_reset(e);
	e_patch_here(e, few);
}

/*
 * Jumped to with the target of a return that the shadow stack did not expect in SCRATCH0 and its
 * struct bt_site in SCRATCH1.
 */
static void emit_ret_miss(struct bt_stubs *s)
{
	struct emit *e = &s->e;
	uint8_t *miss[2], *leave;

	s->ret_miss = e->p;
	e_store(e, SCRATCH1, CPU_OFF(bt.branch));
	emit_search(e);
	/* Units do not look whether they should leave only because they return. */
	leave = bt_emit_wanted(e);
	bt_emit_lookup(s, e, true, miss);
	emit_missed(e, miss);
	e_load(e, SCRATCH1, CPU_OFF(bt.branch));
	e_jmp_to(e, s->second);
	e_patch_here(e, leave);
	e_jmp_to(e, s->not_cached);
	/* The return that matches the base of the shadow stack, or a barrier. */
	s->underflow = e->p;
	bt_emit_shadow_reset(e);
	e_mov_imm32(e, SCRATCH1, 0);
	e_jmp_to(e, s->ret_miss);
}

/* The latch of the struct bt_far at SCRATCH0 is of this page from now on. Clobbers RAX. */
static void emit_far_latch(struct emit *e)
{
	e_code(e, 0x45, 0x8b, 0x52, offsetof(struct bt_far, latch)); /* mov r10d, [r10 + latch] */
	e_load(e, H_RAX, CPU_OFF(bt.page));
	e_gs(e, true, 0x03, H_RAX, CPU_OFF(bt.branch_tag));
	e_gs_base(e, 0x89, H_RAX, SCRATCH0, CPU_OFF(tlb.latches.latch));
	bt_emit_touched(e, SCRATCH0);
}

/*
 * SCRATCH0 = cpu->bt.far; returns the jump that is taken if its jump does not lead to the code at
 * RAX.
 */
static uint8_t *emit_far_compare(struct emit *e)
{
	e_load(e, SCRATCH0, CPU_OFF(bt.far));
	e_push(e, H_RCX);
	e_push(e, H_RDX);
	e_load_at(e, H_RDX, SCRATCH0, offsetof(struct bt_far, next));
	e_code(e, 0x48, 0x63, 0x4a, 0xfc); /* movsxd rcx, dword [rdx - 4] */
	e_code(e, 0x48, 0x01, 0xd1);	   /* add rcx, rdx */
	e_code(e, 0x48, 0x39, 0xc1);	   /* cmp rcx, rax */
	e_pop(e, H_RDX);
	e_pop(e, H_RCX);
	return e_jcc(e, CC_NE);
}

/*
 * Jumped to with the target of a direct branch in SCRATCH0 and its struct bt_far in SCRATCH1: the
 * latch failed, or the branch leads nowhere yet. Fills the latch and goes to the target if the
 * branch leads there. If it does not, but may, leaves for that to be changed.
 */
static void emit_branch_fill(struct bt_stubs *s)
{
	struct emit *e = &s->e;
	uint8_t *miss[2], *none[2], *found, *go, *other;

	s->branch_fill = e->p;
	e_store(e, SCRATCH1, CPU_OFF(bt.far));
	e_code(e, 0x45, 0x31, 0xdb); /* xor r11d, r11d */
	e_store(e, SCRATCH1, CPU_OFF(bt.branch));
	emit_place(e);
	emit_compare(e, miss);
	found = e->p;
	e_push(e, H_RAX);
	emit_entry_load(e, H_RAX, JUMP_OFF(native));
	other = emit_far_compare(e);
	emit_far_latch(e);
	go = e->p;
	e_pop(e, H_RAX);
	emit_entry_load(e, SCRATCH0, JUMP_OFF(rip));
	emit_page(e);
	emit_jump_native(e);
	e_patch_here(e, other);
	/* cmp rax, [r10 + refused] */
	e_op_mem(e, 0x3b, H_RAX,
		 &(struct host_mem){.base = SCRATCH0,
				    .index = H_NONE,
				    .disp = offsetof(struct bt_far, refused)});
	e_jcc_to(e, CC_E, go);
	e_mov_imm64(e, SCRATCH0, (uintptr_t)e_exec(e, s->no_native));
	e_code(e, 0x4c, 0x39, 0xd0); /* cmp rax, r10 */
	e_jcc_to(e, CC_E, go);
	e_pop(e, H_RAX);
	emit_entry_load(e, SCRATCH0, JUMP_OFF(rip));
	e_store(e, SCRATCH0, CPU_OFF(rip));
	e_store(e, SCRATCH0, CPU_OFF(bt.far_rip));
	e_load(e, SCRATCH0, CPU_OFF(bt.far));
	e_store(e, SCRATCH0, CPU_OFF(bt.far_exit));
	e_jmp_to(e, s->leave[1]);
	emit_missed(e, miss);
	emit_other_place(e);
	emit_compare(e, none);
	e_jmp_to(e, found);
	emit_missed(e, none);
	e_jmp_to(e, s->not_cached);
}

void bt_emit_jump_stubs(struct bt_stubs *s)
{
	emit_not_cached(s);
	emit_second(s);
	for (unsigned mem = 0; mem < 2; mem++) {
		emit_chain(s, mem);
		emit_elsewhere(s, mem);
	}
	emit_ret_miss(s);
	emit_branch_fill(s);
}
