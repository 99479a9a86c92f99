/* One block: decode again with all operands, find live flags, emit, then the parts out of line. */
#include "src/engine/bt/translate.h"

#include "src/engine/interp/ops.h"

static OP(op_bt_next)
{
	c->bt.next = true;
}

/* False: the bytes do not match the interpreter's decoding. */
static bool decode(struct tr *t)
{
	const struct block *b = t->b;
	const struct insn *slot = b->slot;
	unsigned off = 0;

	for (t->n = 0; t->n < b->insns; t->n++) {
		struct tr_insn *in = &t->in[t->n];

		in->insn = slot;
		in->off = off;
		in->bytes = b->code + off;
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&t->bt->decoder, in->bytes, b->bytes - off,
							 &in->zi, in->op)))
			in->zi = (ZydisDecodedInstruction){0}; /* its handler raises the fault */
		else if (in->zi.length != slot->len)
			return false;
		off += slot->len;
		slot += slot->exec == op_vector ? 2 : 1;
	}
	return true;
}

struct bt_site *tr_site(struct tr *t, const struct tr_insn *in)
{
	struct bt_site *s = bt_meta_alloc(t->bt, sizeof(*s));
	unsigned n = in->insn->exec == op_vector ? 2 : 1;

	if (!s) {
		t->failed = true;
		return &t->overflow;
	}
	memcpy(s->slot, in->insn, n * sizeof(struct insn));
	s->slot[n] = (struct insn){.exec = op_bt_next, .mode = 8};
	s->block_off = t->page_off;
	s->behind = t->n - 1 - (in - t->in);
	return s;
}

void tr_hand_over(struct tr *t, const struct tr_insn *in)
{
	e_mov_imm64(t->e, SCRATCH0, (uintptr_t)tr_site(t, in));
	e_call_to(t->e, t->bt->step);
}

static void emit_rip(struct tr *t, int32_t page_off)
{
	e_load(t->e, SCRATCH0, CPU_OFF(bt.page));
	e_lea(t->e, SCRATCH0, SCRATCH0, H_RSP, 0, page_off);
	e_store(t->e, SCRATCH0, CPU_OFF(rip));
}

/* Counts the block's instructions and leaves if the slice is over or somebody kicked. */
static void emit_poll(struct tr *t, bool live, uint8_t *out[2])
{
	struct emit *e = t->e;

	if (live)
		emit_save_flags(e);
	e_gs(e, false, 0x8b, SCRATCH0, CPU_OFF(bt.left));
	e8(e, 0x41), e8(e, 0x83), e8(e, 0xea), e8(e, t->n); /* sub r10d, n */
	out[0] = e_jcc(e, CC_S);
	/* cmp byte gs:[kick], 0 */
	e8(e, 0x65), e8(e, 0x80), e8(e, 0x3c), e8(e, 0x25);
	e32(e, CPU_OFF(bt.kick));
	e8(e, 0);
	out[1] = e_jcc(e, CC_NE);
	e_gs(e, false, 0x89, SCRATCH0, CPU_OFF(bt.left));
	if (live)
		emit_restore_flags(e);
}

static void emit_poll_exit(struct tr *t, uint8_t *const from[2], bool live)
{
	if (!t->e->full) {
		e_patch(from[0], t->e->p);
		e_patch(from[1], t->e->p);
	}
	if (live)
		emit_restore_flags(t->e);
	emit_rip(t, t->page_off);
	e_jmp_to(t->e, t->bt->leave);
}

static void emit_slow_paths(struct tr *t)
{
	struct emit *e = t->e;

	for (unsigned n = 0; n < t->nslow && !e->full; n++) {
		struct tr_slow *s = &t->slow[n];

		e_patch(s->from, e->p);
		if (s->flags_saved)
			emit_restore_flags(e);
		e_mov_imm64(e, SCRATCH0, (uintptr_t)s->site);
		e_call_to(e, t->bt->step);
		e_jmp_to(e, s->resume);
	}
}

static void emit_exits(struct tr *t)
{
	struct emit *e = t->e;

	for (unsigned n = 0; n < t->nexits && !e->full; n++) {
		struct bt_exit *x = bt_meta_alloc(t->bt, sizeof(*x));

		if (!x) {
			t->failed = true;
			return;
		}
		x->jump = t->exit[n].from;
		x->gpa = (t->b->gpa & PAGE_MASK) + t->exit[n].target;
		x->key = t->b->key;
		e_patch(x->jump, e->p);
		emit_rip(t, t->exit[n].target);
		e_mov_imm64(e, SCRATCH0, (uintptr_t)x);
		e_jmp_to(e, t->bt->chain);
	}
}

static void emit_body(struct tr *t)
{
	bool ended = false;

	for (unsigned n = 0; n < t->n; n++) {
		const struct tr_insn *in = &t->in[n];
		bool last = n == t->n - 1u;

		if (!in->zi.length || in->insn->exec == op_vector) {
			tr_hand_over(t, in);
			continue;
		}
		if (tr_control(t, in)) {
			ended = last && in->zi.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
			continue;
		}
		if (!tr_native(t, in))
			tr_hand_over(t, in);
	}
	/* A handler that ends the block does not come back; others fall through to here. */
	if (!ended)
		tr_exit(t, t->page_off + t->b->bytes, TR_ALWAYS);
}

bool bt_translate(struct bt *bt, struct block *b)
{
	struct tr *t = &bt->tr_space->tr;
	uint8_t *start = bt->e.p, *cold = bt->cold.p, *poll[2];
	size_t meta = bt->meta_used;
	bool live;

	t->bt = bt;
	t->e = &bt->e;
	t->b = b;
	t->nslow = t->nexits = 0;
	t->page_off = b->gpa & ~PAGE_MASK;
	t->user = b->key >> 12 & 1;
	t->failed = false;
	if (!decode(t))
		return true;
	tr_flags(t);
	live = t->in[0].live_in;
	emit_poll(t, live, poll);
	emit_body(t);
	t->e = &bt->cold;
	emit_slow_paths(t);
	emit_exits(t);
	emit_poll_exit(t, poll, live);
	if (bt->e.full || bt->cold.full || t->failed) {
		bt->e.p = start;
		bt->cold.p = cold;
		bt->e.full = bt->cold.full = false;
		bt->meta_used = meta;
		return false;
	}
	b->native = e_exec(&bt->e, start);
	STAT_INC(bt->cpu->stats, blocks_compiled);
	return true;
}
