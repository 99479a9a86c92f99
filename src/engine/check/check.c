#include "src/engine/check/check_int.h"

#include <limits.h>
#include <stdlib.h>

#include "src/base/log.h"
#include "src/engine/interp/ops.h"
#include "src/engine/interp/ops_sys.h"
#include "src/x86/exc.h"

/* --- the twin's world: whatever is not memory cannot be asked twice ------------------------- */

static _Noreturn void skip(struct cpu *twin)
{
	/* The jump is to run_twin(), which tells it from a fault by the overlay. */
	twin->overlay->full = true;
	cpu_unwind(twin);
}

static void no_read(struct cpu *twin, gpa_t gpa, void *data, unsigned len)
{
	skip(twin);
}

static void no_write(struct cpu *twin, gpa_t gpa, const void *data, unsigned len)
{
	skip(twin);
}

static void no_pio_read(struct cpu *twin, uint16_t port, void *data, unsigned len)
{
	skip(twin);
}

static void no_pio_write(struct cpu *twin, uint16_t port, const void *data, unsigned len)
{
	skip(twin);
}

static int no_rdmsr(struct cpu *twin, uint32_t msr, uint64_t *value)
{
	skip(twin);
}

static int no_wrmsr(struct cpu *twin, uint32_t msr, uint64_t value)
{
	skip(twin);
}

static uint8_t no_get_cr8(struct cpu *twin)
{
	skip(twin);
}

static void no_set_cr8(struct cpu *twin, uint8_t value)
{
	skip(twin);
}

static uint64_t no_rdtsc(struct cpu *twin)
{
	skip(twin);
}

static void no_move_tsc(struct cpu *twin, uint64_t delta)
{
	skip(twin);
}

static uint64_t no_hypercall(struct cpu *twin, uint64_t nr, const uint64_t arg[4])
{
	skip(twin);
}

static void no_cpuid(struct cpu *twin, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	skip(twin);
}

static const struct cpu_ops no_ops = {
	.mmio_read = no_read,
	.mmio_write = no_write,
	.pio_read = no_pio_read,
	.pio_write = no_pio_write,
	.rdmsr = no_rdmsr,
	.wrmsr = no_wrmsr,
	.get_cr8 = no_get_cr8,
	.set_cr8 = no_set_cr8,
	.rdtsc = no_rdtsc,
	.move_tsc = no_move_tsc,
	.hypercall = no_hypercall,
	.cpuid = no_cpuid,
};

static bool draws_random(const struct block *b)
{
	const struct insn *i = b->slot;

	for (unsigned n = 0; n < b->insns; n++, i += i->exec == op_vector ? 2 : 1)
		if (i->exec == op_rdrand || i->exec == op_rdseed)
			return true;
	return false;
}

/* --- life ----------------------------------------------------------------------------------- */

int check_create(struct check **out, struct cpu *cpu, uint32_t every, bool exact_flags)
{
	struct check *k = aligned_alloc(64, ALIGN_UP(sizeof(*k), 64));
	struct cpu *twin = cpu_alloc(sizeof(*twin));

	if (!k || !twin) {
		log_err("no memory to check the translator with");
		free(k);
		cpu_free(twin, sizeof(*twin));
		return -ENOMEM;
	}
	memset(k, 0, sizeof(*k));
	tlb_init(&twin->tlb);
	twin->gmem = cpu->gmem;
	twin->stats = &k->stats;
	twin->vec_cache = cpu->vec_cache;
	twin->ops = &no_ops;
	twin->overlay = &k->overlay;
	k->cpu = cpu;
	k->twin = twin;
	k->every = MAX(every, 1u);
	k->exact_flags = exact_flags;
	k->code_gen = 1;
	ZydisDecoderInit(&k->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(&k->decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
	ZydisDecoderEnableMode(&k->decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	*out = k;
	return 0;
}

void check_destroy(struct check *k)
{
	if (!k)
		return;
	cpu_free(k->twin, sizeof(*k->twin));
	free(k);
}

void check_forget(struct check *k)
{
	k->code_gen++;
}

const char *check_report(const struct check *k)
{
	return k->report;
}

struct cpu *check_twin(struct check *k)
{
	return k->twin;
}

/* --- a run ---------------------------------------------------------------------------------- */

/* Whether control has come to the block that the unit would go on with. */
static bool goes_on(const struct check *k)
{
	const struct block_unit *u = k->unit;

	return k->nrun < u->n && !k->twin->uncount &&
	       k->twin->rip == check_linear(k, u->block[k->nrun]->gpa & ~PAGE_MASK);
}

/* The first instructions of a block, up to off. */
static const struct insn *first_part(struct check *k, const struct block *b, unsigned off)
{
	struct insn *to = k->part;
	const struct insn *from = b->slot;

	while (from->off < off)
		*to++ = *from++;
	*to = (struct insn){.exec = op_end, .off = off, .mode = 8};
	return k->part;
}

/* As far as the unit goes, or through its first `blocks` blocks and the first `off` bytes of the
 * next. */
static void run_twin(struct check *k, unsigned blocks, unsigned off)
{
	struct cpu *t = k->twin;
	jmp_buf env;

	memcpy(t, k->before, CHECK_STATE);
	/* The interpreter would leave the block after a store. */
	t->event &= ~CHECK_WINDOWS;
	cpu_update_ctx(t);
	k->nrun = 0;
	t->unwind = &env;
	if (_setjmp(env)) {
		if (!k->overlay.full)
			exc_landed(t);
		return;
	}
	do {
		const struct block *b = k->unit->block[k->nrun];
		const struct insn *i = b->slot;

		if (k->nrun == blocks) {
			if (!off)
				break;
			i = first_part(k, b, off);
		}
		k->nrun++;
		if (draws_random(b))
			skip(t);
		t->gpr[REG_PC] = t->rip;
		t->uncount = NULL;
		i->exec(t, i);
	} while (k->nrun <= blocks && goes_on(k));
	/* A repeated instruction was left between two iterations, which may be done elsewhere. */
	if (t->uncount && t->rip == t->gpr[REG_PC] + t->uncount->off)
		k->overlay.full = true;
}

void check_begin(struct check *k, const struct block *b)
{
	k->trail[k->ntrail++ % CHECK_TRAIL] = k->cpu->rip;
	if (k->wait) {
		k->wait--;
		return;
	}
	k->wait = k->every - 1;
	k->unit = b->unit;
	memcpy(k->before, k->cpu, CHECK_STATE);
	overlay_clear(&k->overlay);
	k->armed = true;
	run_twin(k, UINT_MAX, 0);
}

static bool same(struct check *k)
{
	return likely(check_same_state(k) && check_same_memory(k));
}

static bool same_after(struct check *k, unsigned blocks, unsigned off)
{
	overlay_rewind(&k->overlay);
	run_twin(k, blocks, off);
	return same(k);
}

/*
 * Compiled code may leave behind any instruction that it handed over, and at the end of any block
 * of the unit, which it does seldom: then the twin does the same part again.
 */
static bool same_half_way(struct check *k)
{
	unsigned nrun = k->nrun;

	for (unsigned n = 0; n < nrun; n++) {
		const struct block *b = k->unit->block[n];
		uint64_t off = k->cpu->rip - check_linear(k, b->gpa & ~PAGE_MASK);

		if (off < b->bytes && (off || n) && same_after(k, n, off))
			return true;
	}
	/* For the report. */
	same_after(k, UINT_MAX, 0);
	return false;
}

/* A device stored to what the twin had loaded. */
static bool raced(const struct check *k)
{
	for (unsigned n = 0; n < k->overlay.n; n++) {
		const struct overlay_word *w = &k->overlay.word[n];

		if ((overlay_memory(w) ^ w->seen) & overlay_bits(w->loaded & ~w->stored))
			return true;
	}
	return false;
}

/*
 * The code was stored to: flags that it did not read, it may read now, and what is done again need
 * not leave where it did.
 */
static bool changed_code(const struct check *k)
{
	for (unsigned n = 0; n < k->overlay.n; n++)
		if (k->overlay.word[n].stored &&
		    !((k->overlay.word[n].gpa ^ k->unit->block[0]->gpa) & PAGE_MASK))
			return true;
	return false;
}

/* Kicked before the first instruction. */
static bool not_run(const struct check *k)
{
	return k->cpu->rip == check_before(k)->rip && k->cpu->bt.stack_limit == ~0ull &&
	       !memcmp(k->cpu->gpr, check_before(k)->gpr, 16 * sizeof(k->cpu->gpr[0]));
}

/* At a repeated instruction of the unit, perhaps between two iterations of it. */
static bool repeating(const struct check *k)
{
	for (unsigned n = 0; n < k->nrun; n++) {
		const struct block *b = k->unit->block[n];
		uint64_t off = k->cpu->rip - check_linear(k, b->gpa & ~PAGE_MASK);
		const struct insn *i = b->slot;

		if (off >= b->bytes)
			continue;
		while (i->off < off)
			i++;
		if (i->off == off && (i->flags & (INSN_REP | INSN_REPNE)))
			return true;
	}
	return false;
}

bool check_end(struct check *k)
{
	struct stats *st = k->cpu->stats;

	if (!k->armed)
		return true;
	k->armed = false;
	if (k->overlay.full || not_run(k)) {
		STAT_INC(st, blocks_unchecked);
		return true;
	}
	if (same(k)) {
		STAT_INC(st, blocks_checked);
		return true;
	}
	if (raced(k) || changed_code(k) || repeating(k) || check_read_undefined(k)) {
		STAT_INC(st, blocks_unchecked);
		return true;
	}
	if (same_half_way(k)) {
		STAT_INC(st, blocks_checked);
		return true;
	}
	check_make_report(k);
	return false;
}
