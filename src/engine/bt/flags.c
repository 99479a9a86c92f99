/* Which arithmetic flags matter where, so that checks may clobber those that do not. */
#include "mmu/npt.h"
#include "src/engine/bt/translate.h"

#include "src/engine/interp/ops.h"

#define LOOK_AHEAD 8

/* A shift whose count may be zero, which changes nothing. */
static bool counted_shift(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op)
{
	unsigned mask = zi->operand_width == 64 ? 63 : 31;

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
		return op[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !(op[1].imm.value.u & mask);
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD: return true;
	default: return false;
	}
}

/* Processors give the flags that are undefined behind these a value of their own. */
static bool writes_undefined(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV: return true;
	default: return false;
	}
}

/* System instructions that leave the arithmetic flags alone. */
static bool keeps_flags(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_SWAPGS:
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_STAC:
	case ZYDIS_MNEMONIC_CLAC: return true;
	default: return false;
	}
}

/* What an instruction reads of, surely overwrites in, and may overwrite in the arithmetic flags. */
static void flags_of(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op,
		     uint32_t *reads, uint32_t *kills, uint32_t *touches)
{
	const ZydisAccessedFlags *f = zi->cpu_flags;

	*reads = *kills = *touches = 0;
	if (keeps_flags(zi->mnemonic))
		return;
	switch (zi->meta.category) {
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_SYSTEM: *reads = ARITH_FLAGS; return;
	case ZYDIS_CATEGORY_INVALID: *reads = ARITH_FLAGS; return; /* raises #UD */
	default: break;
	}
	if (!f)
		return;
	*reads = f->tested & ARITH_FLAGS;
	*touches = (f->modified | f->set_0 | f->set_1 | f->undefined) & ARITH_FLAGS;
	*kills = *touches;
	/* A count of zero changes nothing; repeated string instructions may do nothing at all. */
	if (counted_shift(zi, op) ||
	    (zi->attributes &
	     (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)))
		*kills = 0;
	/* BSF and BSR of zero, and others that leave "undefined" flags alone: not a kill. */
	if (!writes_undefined(zi))
		*kills &= ~(f->undefined & ~(f->modified | f->set_0 | f->set_1));
}

/* Flags whose value at an address of the same page matters, as far as a short look tells. */
static uint32_t live_at(const struct tr *t, int64_t page_off)
{
	uint64_t pte = gmem_translate(t->bt->cpu->gmem, t->b->gpa >> PAGE_SHIFT);
	uint32_t live = ARITH_FLAGS, unknown = ARITH_FLAGS, found = 0, reads, kills, touches;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;

	if (page_off < 0 || page_off >= (int64_t)PAGE_SIZE || !pte)
		return live;
	for (unsigned n = 0; n < LOOK_AHEAD && unknown; n++) {
		uint8_t buf[INSN_MAX_BYTES];
		unsigned avail = MIN(PAGE_SIZE - page_off, sizeof(buf));

		memcpy(buf, (const void *)(npt_hva(pte) + page_off), avail);
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&t->bt->decoder, buf, avail, &zi, op)))
			break;
		flags_of(&zi, op, &reads, &kills, &touches);
		found |= reads & unknown;
		unknown &= ~(reads | kills);
		if (zi.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
		    zi.meta.category == ZYDIS_CATEGORY_SYSCALL ||
		    zi.meta.category == ZYDIS_CATEGORY_INTERRUPT)
			break;
		page_off += zi.length;
		if (page_off >= (int64_t)PAGE_SIZE)
			break;
	}
	return found | unknown;
}

/* Flags that matter behind the last instruction of a block of the unit. */
static uint32_t live_behind(const struct tr *t, const struct tr_insn *last, uint32_t followed)
{
	if (last->follow == FOLLOW_NEXT) {
		if (last->zi.meta.category == ZYDIS_CATEGORY_COND_BR)
			return followed | live_at(t, tr_target(last));
		return followed;
	}
	if (last->follow == FOLLOW_TARGET) {
		if (last->zi.meta.category == ZYDIS_CATEGORY_COND_BR)
			return followed | live_at(t, tr_next(last));
		return followed;
	}
	if (last->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
		return live_at(t, tr_next(last));
	if (tr_is_jcc(last))
		return live_at(t, tr_next(last)) | live_at(t, tr_target(last));
	return tr_is_jump(last) || tr_is_call(last) ? live_at(t, tr_target(last)) : ARITH_FLAGS;
}

/*
 * Whether flags before the instruction may be seen in the frame of a fault that it raises. Without
 * exact_flags that does not keep them alive: docs/bt.md, "What a guest may notice".
 */
static bool shows_flags(const struct tr *t, const struct tr_insn *in)
{
	return t->bt->stubs->exact_flags &&
	       (in->naccs || in->may_leave || !in->emit || in->insn->exec == op_vector);
}

void tr_flags(struct tr *t)
{
	uint32_t live = 0;

	for (unsigned n = t->n; n-- > 0;) {
		struct tr_insn *in = &t->in[n];

		if (n == t->n - 1 || in->block != in[1].block)
			live = t->bt->stubs->exact_flags ? ARITH_FLAGS : live_behind(t, in, live);
		in->live_out = live;
		flags_of(&in->zi, in->op, &in->flag_reads, &in->flag_kills, &in->flag_touches);
		live = (live & ~in->flag_kills) | in->flag_reads;
		if (shows_flags(t, in))
			live = ARITH_FLAGS;
		in->live_in = live;
	}
}

/* Whether those before the instruction being emitted come from XOR of a register with itself. */
static bool are_of_zero(const struct tr *t)
{
	const struct tr_insn *in = &t->in[t->at];

	do {
		if (in == t->in || !(--in)->emit)
			return false;
	} while (!in->flag_touches);
	return in->zi.mnemonic == ZYDIS_MNEMONIC_XOR && !in->naccs && in->op[0].size >= 32 &&
	       in->op[0].reg.value == in->op[1].reg.value;
}

/* ZF and PF, in one store, which has no 16-bit constant: that would take the decoder longer. */
static void save_zero(struct emit *e)
{
	e_code(e, 0x65, 0xc7); /* mov dword gs:[flags], imm32 */
	e_field(e, 0, CPU_OFF(bt.flags), 4), e32(e, (FLAG_ZF | FLAG_PF | FLAG_ONE) << 8);
}

void tr_flags_clobber(struct tr *t, uint32_t live, unsigned tmp)
{
	if (!live || t->flags_mem)
		return;
	if (are_of_zero(t))
		save_zero(t->e);
	else
		bt_emit_flags_save(t->e, tmp);
	t->flags_mem = true;
}

void tr_flags_before(struct tr *t, const struct tr_insn *in)
{
	uint32_t kept = in->flag_touches ? in->live_out & ~in->flag_kills : 0;

	if (!t->flags_mem || in->flags_anywhere || !(in->flag_reads | kept))
		return;
	bt_emit_flags_restore(t->e, SCRATCH0);
	t->flags_mem = false;
}

void tr_flags_after(struct tr *t, const struct tr_insn *in)
{
	if (in->flag_touches)
		t->flags_mem = false;
}
