/*
 * Arithmetic flags on which compiled code and the interpreter need not agree: those that nothing
 * reads before they are overwritten, as far as the code's page tells, and those that the
 * instructions run have left undefined.
 */
#include "mmu/npt.h"
#include "src/engine/check/check_int.h"
#include "src/x86/insn.h"

#define LOOK_AHEAD 32
#define MAX_FORKS  3

struct flow {
	uint64_t reads, writes, undefined;
};

static bool is_shift(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD: return true;
	default: return false;
	}
}

/* By a constant that is not zero; rotations leave flags alone in any case. */
static bool surely_shifts(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op)
{
	return (zi->mnemonic == ZYDIS_MNEMONIC_SHL || zi->mnemonic == ZYDIS_MNEMONIC_SHR ||
		zi->mnemonic == ZYDIS_MNEMONIC_SAR) &&
	       op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
	       (op[1].imm.value.u & (zi->operand_width == 64 ? 63 : 31));
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

static struct flow flow_of(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op)
{
	const ZydisAccessedFlags *f = zi->cpu_flags;
	struct flow w = {0};

	if (keeps_flags(zi->mnemonic))
		return w;
	switch (zi->meta.category) {
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_SYSTEM:
	case ZYDIS_CATEGORY_INVALID: w.reads = FLAGS_ARITH; return w;
	default: break;
	}
	if (!f)
		return w;
	w.reads = f->tested & FLAGS_ARITH;
	w.undefined = f->undefined & FLAGS_ARITH;
	w.writes = (f->modified | f->set_0 | f->set_1 | f->undefined) & FLAGS_ARITH;
	if (is_shift(zi->mnemonic))
		w.undefined |= (FLAG_OF | FLAG_AF) & w.writes;
	/* A count of zero changes nothing. */
	if ((is_shift(zi->mnemonic) && !surely_shifts(zi, op)) ||
	    (zi->attributes & ZYDIS_ATTRIB_HAS_REP) ||
	    (zi->attributes & (ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)))
		w.writes = 0;
	return w;
}

/*
 * Decodes at an offset in the page; false if it does not lie there as a whole, unless it is the
 * unit's own.
 */
static bool decode(const struct check *k, const uint8_t *page, int64_t off,
		   ZydisDecodedInstruction *zi, ZydisDecodedOperand *op)
{
	const struct block *b = k->unit->block[0];
	const uint8_t *bytes = page + off;
	size_t len = PAGE_SIZE - off;

	if (off < 0 || off >= (int64_t)PAGE_SIZE)
		return false;
	if (b->gfn2 != NO_GFN && off == (int64_t)(b->gpa & ~PAGE_MASK)) {
		bytes = b->code;
		len = b->bytes;
	}
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&k->decoder, bytes, len, zi, op));
}

/* Which of these flags something may read from off on. */
static uint64_t may_read(const struct check *k, const uint8_t *page, int64_t off, uint64_t flags,
			 unsigned forks)
{
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	uint64_t found = 0;

	for (unsigned n = 0; n < LOOK_AHEAD && flags; n++) {
		struct flow w;

		if (!decode(k, page, off, &zi, op))
			return found | flags;
		w = flow_of(&zi, op);
		found |= flags & w.reads;
		flags &= ~(w.reads | w.writes);
		off += zi.length;
		if (zi.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
			continue;
		if ((zi.meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
		     zi.meta.category == ZYDIS_CATEGORY_CALL) &&
		    (zi.attributes & ZYDIS_ATTRIB_IS_RELATIVE)) {
			off += op[0].imm.value.s;
			continue;
		}
		if (zi.meta.category != ZYDIS_CATEGORY_COND_BR || !forks--)
			return found | flags;
		found |= may_read(k, page, off + op[0].imm.value.s, flags, forks);
	}
	return found | flags;
}

/* Results that the manuals leave open. */
static bool vague(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_BSWAP: return zi->operand_width == 16;
	/* Is the upper half zeroed of a register that is not written because it differs? */
	case ZYDIS_MNEMONIC_CMPXCHG: return zi->operand_width == 32 && zi->raw.modrm.mod == 3;
	/* These store the last x87 instruction's address. */
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64: return true;
	default: return false;
	}
}

/*
 * Flags that the instructions that were run leave undefined. *read: whether any of them reads a
 * flag that is, or has another result that depends on the processor. half_way: the CPU left at its
 * rip; else that may be where it went to, within what was run.
 */
static uint64_t left_undefined(const struct check *k, bool half_way, bool *read)
{
	uint64_t undefined = 0;

	*read = false;
	for (unsigned n = 0; n < k->nrun; n++) {
		const struct block *b = k->unit->block[n];
		uint64_t start = check_linear(k, b->gpa & ~PAGE_MASK);
		ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction zi;

		for (unsigned off = 0; off < b->bytes; off += zi.length) {
			struct flow w;

			if (half_way && n == k->nrun - 1 && off && start + off == k->cpu->rip)
				return undefined;
			if (ZYAN_FAILED(ZydisDecoderDecodeFull(&k->decoder, b->code + off,
							       b->bytes - off, &zi, op)))
				return undefined;
			w = flow_of(&zi, op);
			*read |= (w.reads & undefined) || vague(&zi);
			undefined = (undefined & ~w.writes) | w.undefined;
		}
	}
	return undefined;
}

bool check_read_undefined(const struct check *k)
{
	bool read;

	left_undefined(k, false, &read);
	return read;
}

/* Flags that nothing reads from the CPU's rip on. */
static uint64_t dead(const struct check *k)
{
	uint64_t rip = k->cpu->rip;
	uint64_t pte = gmem_translate(k->cpu->gmem, k->unit->block[0]->gpa >> PAGE_SHIFT);

	if (k->exact_flags || !pte || (rip ^ check_before(k)->rip) & PAGE_MASK)
		return 0;
	return FLAGS_ARITH & ~may_read(k, (const uint8_t *)npt_hva(pte), rip & ~PAGE_MASK,
				       FLAGS_ARITH, MAX_FORKS);
}

uint64_t check_flags_excused(struct check *k)
{
	const uint64_t rip = k->cpu->rip;
	struct check_excuse *e = &k->excuse[(rip ^ rip >> 12) % CHECK_EXCUSES];
	bool read;

	if (e->unit == k->unit && e->rip == rip && e->nrun == k->nrun && e->gen == k->code_gen)
		return e->flags;
	*e = (struct check_excuse){.unit = k->unit,
				   .rip = rip,
				   .nrun = k->nrun,
				   .gen = k->code_gen,
				   .flags = left_undefined(k, true, &read) | dead(k)};
	return e->flags;
}
