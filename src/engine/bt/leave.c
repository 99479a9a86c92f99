/*
 * Ways out of a unit: to an address of its page, where the jump or call may be joined to what is
 * there; to other pages, where a latch says whether the joined one leads there still; and to what
 * is looked up.
 */
#include "src/engine/bt/translate.h"

/* reg = linear address of an offset in the current page. */
void tr_page_address(struct emit *e, unsigned reg, int32_t off)
{
	e_load(e, reg, CPU_OFF(bt.page));
	e_lea(e, reg, reg, H_NONE, 0, off);
}

/* To the target in SCRATCH0; branch: the site of an indirect branch, or NULL. */
void tr_look_up(struct tr *t, struct bt_site *branch, bool flags_mem)
{
	struct tr_lookup *l = &t->lookup[t->nlookups++];

	l->branch = branch;
	bt_emit_lookup(t->bt->stubs, t->e, flags_mem, l->miss);
}

static void emit_lookup_misses(struct tr *t)
{
	struct emit *e = t->e;

	for (unsigned n = 0; n < t->nlookups && !e->full; n++) {
		struct tr_lookup *l = &t->lookup[n];

		bt_emit_lookup_miss(t->bt->stubs, e, l->miss, l->branch);
	}
}

static struct tr_far *add_far(struct tr *t, int64_t target)
{
	struct tr_far *f;

	if (target != (int32_t)target || t->nfar == ARRAY_SIZE(t->far)) {
		t->failed = true;
		return &t->far[0];
	}
	f = &t->far[t->nfar++];
	*f = (struct tr_far){.target = target, .mem = t->flags_mem};
	return f;
}

/* A direct branch to another page; it has a struct bt_far unless latches have run out. */
static struct tr_far *add_direct(struct tr *t, int64_t target)
{
	struct tr_far *f = add_far(t, target);
	struct code_room *room = &t->bt->bc->room;
	uint32_t latch = t->bt->stubs->single ? NO_LATCH : code_alloc_branch_latch(room);

	if (latch == NO_LATCH)
		return f;
	f->far = code_alloc(room, sizeof(*f->far));
	if (f->far)
		*f->far = (struct bt_far){.gpa = NO_FAR_GPA, .key = t->exit_key, .latch = latch};
	else
		t->failed = true;
	return f;
}

bool tr_in_page(int64_t off)
{
	return off >= 0 && off < (int64_t)PAGE_SIZE;
}

static void add_exit(struct tr *t, uint8_t *from, int64_t target)
{
	t->exit[t->nexits++] = (struct tr_exit){
		.from = from, .target = target, .key = t->exit_key, .mem = t->flags_mem};
}

/* The page that code runs in becomes that of the target, or, op 5, what it was before. */
static void emit_page_add(struct emit *e, unsigned op, int32_t target)
{
	e_code(e, 0x65, 0x48, 0x81); /* add or sub qword gs:[page], imm32 */
	e_field(e, op, CPU_OFF(bt.page), 4), e32(e, target & PAGE_MASK);
}

/* The call or jump instruction of the host, to be patched: other VCPUs may run it then. */
static uint8_t *emit_host_call(struct tr *t)
{
	e_align_jmp(t->e);
	return e_call(t->e);
}

static uint8_t *emit_host_jump(struct tr *t)
{
	e_align_jmp(t->e);
	return e_jmp(t->e);
}

/* To another page, by jump or call, if the latch is of the page in use. */
static void emit_far(struct tr *t, struct tr_far *f, uint8_t *(*branch)(struct tr *))
{
	size_t latch = CPU_OFF(tlb.latches.latch) + f->far->latch;
	struct emit *e = t->e;

	/* Where they are dead it does not matter. */
	if (!f->mem)
		bt_emit_flags_save(e, SCRATCH1);
	e_load(e, SCRATCH0, CPU_OFF(bt.page));
	e_gs(e, true, 0x03, SCRATCH0, CPU_OFF(bt.branch_tag));
	e_gs(e, true, 0x3b, SCRATCH0, latch);
	f->from = e_jcc(e, CC_NE);
	f->emitted = true;
	emit_page_add(e, 0, f->target);
	f->far->jump = branch(t);
	f->far->next = e_exec(e, e->p);
}

static void call_far(struct tr *t, int64_t target)
{
	struct tr_far *f = add_direct(t, target);

	f->mem = true;
	if (f->far) {
		emit_far(t, f, emit_host_call);
		f->ret = t->e->p;
	} else {
		f->from = emit_host_call(t);
	}
}

void tr_call(struct tr *t, int64_t target)
{
	if (tr_in_page(target))
		add_exit(t, emit_host_call(t), target);
	else
		call_far(t, target);
}

void tr_call_looked_up(struct tr *t, struct bt_site *branch)
{
	struct tr_far *f = add_far(t, 0);

	f->from = emit_host_call(t);
	f->branch = branch;
}

static void exit_far(struct tr *t, int64_t target, unsigned jcc)
{
	struct tr_far *f = add_direct(t, target);

	if (jcc != TR_ALWAYS)
		f->from = e_jcc(t->e, jcc);
	else if (f->far)
		emit_far(t, f, emit_host_jump);
	else
		f->from = e_jmp(t->e);
}

/* Where a jump inside the page may be joined to its target. */
void tr_exit(struct tr *t, int64_t target, unsigned jcc)
{
	if (!tr_in_page(target)) {
		exit_far(t, target, jcc);
	} else if (jcc == TR_ALWAYS) {
		add_exit(t, emit_host_jump(t), target);
	} else {
		e_align_jcc(t->e);
		add_exit(t, e_jcc(t->e, jcc), target);
	}
}

/*
 * Where the branch leads before it is patched, and where it goes if its latch fails. What a call
 * has pushed is what the call instruction would have.
 */
static void emit_far_miss(struct tr *t, const struct tr_far *f)
{
	struct emit *e = t->e;
	uint8_t *pushed;

	e_patch_here(e, f->far->jump);
	emit_page_add(e, 5, f->target);
	pushed = e_jmp(e);
	e_patch_here(e, f->from);
	if (f->ret) {
		e_code(e, 0x4c, 0x8d, 0x1d); /* lea r11, [rip + disp32] */
		e32(e, 0);
		e_patch_to(e, e->p - 4, f->ret);
		e_push(e, SCRATCH1);
	}
	e_patch_here(e, pushed);
	tr_page_address(e, SCRATCH0, f->target);
	e_mov_imm64(e, SCRATCH1, (uintptr_t)f->far);
	e_jmp_to(e, t->bt->stubs->branch_fill);
}

void tr_emit_far(struct tr *t)
{
	struct emit *e = t->e;

	for (unsigned n = 0; n < t->nfar && !e->full; n++) {
		struct tr_far *f = &t->far[n];

		if (!f->emitted)
			e_patch_here(e, f->from);
		if (f->far) {
			if (!f->emitted)
				emit_far(t, f, emit_host_jump);
			emit_far_miss(t, f);
		} else {
			if (f->branch)
				e_load(e, SCRATCH0, CPU_OFF(rip));
			else
				tr_page_address(e, SCRATCH0, f->target);
			tr_look_up(t, f->branch, f->mem);
		}
	}
	emit_lookup_misses(t);
	if (t->ret_from) {
		e_patch_here(e, t->ret_from);
		e_mov_imm64(e, SCRATCH1, (uintptr_t)t->ret_site);
		e_jmp_to(e, t->bt->stubs->ret_miss);
	}
}
