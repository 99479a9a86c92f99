/* Which blocks become one unit: along the hottest way, as long as it stays in the page. */
#include "src/engine/bt/translate.h"

#include "src/engine/interp/ops.h"

/* Adds a block's instructions; false, with nothing added, if they do not decode as before. */
static bool add_block(struct tr *t, const struct block *b)
{
	const struct insn *slot = b->slot;
	unsigned off = 0, first = t->n;

	for (unsigned n = 0; n < b->insns; n++, t->n++) {
		struct tr_insn *in = &t->in[t->n];

		in->block = b;
		in->insn = slot;
		in->off = (b->gpa & ~PAGE_MASK) + off;
		in->bytes = b->code + off;
		in->follow = FOLLOW_NOTHING;
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&t->bt->decoder, in->bytes, b->bytes - off,
							 &in->zi, in->op)) ||
		    slot->exec == op_ud) {
			/* Its handler raises the fault, also where Zydis knows more than the CPU.
			 */
			in->zi = (ZydisDecodedInstruction){0};
		} else if (in->zi.length != slot->len) {
			t->n = first;
			return false;
		}
		off += slot->len;
		slot += slot->exec == op_vector ? 2 : 1;
	}
	t->block[t->nblocks++] = b;
	return true;
}

int64_t tr_target(const struct tr_insn *in)
{
	return tr_next(in) + in->op[0].imm.value.s;
}

static bool in_unit(const struct tr *t, const struct block *b)
{
	for (unsigned n = 0; n < t->nblocks; n++)
		if (t->block[n] == b)
			return true;
	return false;
}

static uint32_t heat(const struct block *b)
{
	return atomic_load_relaxed(&b->heat);
}

/*
 * The block at an offset in the page, if it is decoded, ran often and fits. One that begins with a
 * strip is better entered there.
 */
static const struct block *candidate(const struct tr *t, int64_t off)
{
	const struct block *b;

	if (off < 0 || off >= (int64_t)PAGE_SIZE)
		return NULL;
	b = code_find(t->bt->bc->code, (t->b->gpa & PAGE_MASK) + off, t->b->key, NO_GFN);
	if (!b || in_unit(t, b) || atomic_load_relaxed(&b->strip) ||
	    t->n + b->insns > UNIT_MAX_INSNS || heat(b) < t->bt->hot)
		return NULL;
	return b;
}

/* Chooses how to go on behind the last instruction. */
static const struct block *follow(struct tr *t)
{
	struct tr_insn *last = &t->in[t->n - 1];
	const struct block *next, *target;

	if (!last->zi.length || last->insn->exec == op_vector)
		return NULL;
	/* A block without a branch is cut for its length, or ended by what its handler does. */
	if (last->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE) {
		next = last->block->insns == BLOCK_MAX_INSNS ? candidate(t, tr_next(last)) : NULL;
		last->follow = next ? FOLLOW_NEXT : FOLLOW_NOTHING;
		return next;
	}
	if (!tr_is_jump(last) && !tr_is_jcc(last))
		return NULL;
	target = candidate(t, tr_target(last));
	if (tr_is_jump(last)) {
		last->follow = target ? FOLLOW_TARGET : FOLLOW_NOTHING;
		return target;
	}
	next = candidate(t, tr_next(last));
	if (target && (!next || heat(target) > heat(next))) {
		last->follow = FOLLOW_TARGET;
		return target;
	}
	last->follow = next ? FOLLOW_NEXT : FOLLOW_NOTHING;
	return next;
}

bool tr_unit(struct tr *t, struct block *b)
{
	const struct block *next;

	t->b = b;
	t->n = t->nblocks = 0;
	if (!add_block(t, b))
		return false;
	while (t->nblocks < UNIT_MAX_BLOCKS && (next = follow(t)))
		if (!add_block(t, next)) {
			t->in[t->n - 1].follow = FOLLOW_NOTHING;
			break;
		}
	/* The last may have been given a successor that there was no room for. */
	t->in[t->n - 1].follow = FOLLOW_NOTHING;
	return true;
}
