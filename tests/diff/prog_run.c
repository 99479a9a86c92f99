/*
 * Runs programs on both sides. A fault does not end one: the sides are compared there, the
 * instruction is skipped, and both go on from the state of the bare CPU.
 */
#include <stdio.h>

#include "src/x86/cpu.h"
#include "tests/diff/prog.h"

#define MAX_STOPS 48

struct trial {
	struct guest *guest;
	const struct prog_run *cfg;
	ZydisDecoder dec;
	struct diff_image image;
	struct diff_result native, interp;
	struct diff_state from; /* of the last part run */
	unsigned state, part;	/* which start, and how many stops before */
	int error;		/* of guest_run() */
	bool endless;		/* or of no use otherwise */
	bool parted;		/* in the last part; there is no going on together */
	uint64_t stops;		/* in all programs */
};

/* What is open of the instruction at rip, and which flags are undefined there. */
static unsigned open_at(const struct program *p, uint64_t rip, uint32_t *undefined)
{
	int at = prog_item_at(p, rip, undefined);

	return at >= 0 ? p->item[at].open : 0;
}

static void compare_at(const struct trial *t, const struct program *p, struct compare_options *opt)
{
	opt->open = open_at(p, t->native.st.rip, &opt->undefined);
	/*
	 * At a fault, flags that nothing reads any more need not be exact: docs/bt.md. Where code
	 * was stored to, it is not known which are undefined.
	 */
	if (t->cfg->bt && t->native.vector != EXC_BP &&
	    (!t->cfg->exact_flags || memcmp(native_code(), t->image.code, CODE_SIZE)))
		opt->undefined |= FLAGS_ARITH;
}

/* Hypervisors raise #UD when they interrupt a program whose stack pointer is not canonical. */
static bool derailed(const struct diff_result *native)
{
	return native->vector == EXC_UD && !gva_canonical(native->st.gpr[RSP]);
}

/* The instruction at an offset in some code; false if there is none. */
static bool decode_at(const struct trial *t, const uint8_t *code, uint64_t off,
		      ZydisDecodedInstruction *zi)
{
	return off < CODE_SIZE && ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
					  &t->dec, NULL, code + off, CODE_SIZE - off, zi));
}

/* Whether some of the program's code is not what it was, on one side at least. */
static bool stored_to(const struct trial *t, uint64_t off, unsigned len)
{
	const uint8_t *was = t->image.code + off;

	return memcmp(native_code() + off, was, len) ||
	       memcmp(guest_code(t->guest) + off, was, len);
}

/*
 * Of the system, programs have instructions only by accident: where they stored into code. Why the
 * bare CPU faults at these is the host's business: a far return reads its descriptors, from a table
 * that may have room for more than is mapped, SLDT and INT may be forbidden.
 */
static bool system_code(const struct trial *t)
{
	uint64_t off = t->native.st.rip - CODE_BASE;
	ZydisDecodedInstruction zi;

	if (t->native.vector == EXC_BP || !decode_at(t, native_code(), off, &zi))
		return false;
	return zi.meta.category == ZYDIS_CATEGORY_SYSTEM || zi.mnemonic == ZYDIS_MNEMONIC_INT ||
	       (zi.meta.category == ZYDIS_CATEGORY_RET &&
		zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR);
}

/* A repeated store over itself: a processor may go on with what it has decoded, or not. */
static bool overwrote_itself(const struct trial *t, const struct program *p)
{
	const ZydisInstructionAttributes rep =
		ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
	ZydisDecodedInstruction zi;

	for (unsigned n = 0; n < p->count; n++)
		if (!p->item[n].dropped && decode_at(t, t->image.code, p->offset[n], &zi) &&
		    zi.meta.category == ZYDIS_CATEGORY_STRINGOP && zi.attributes & rep &&
		    stored_to(t, p->offset[n], zi.length))
			return true;
	return false;
}

/* From t->from to the next stop. True if both sides agree there. */
static bool run_part(struct trial *t, const struct program *p, FILE *report)
{
	struct compare_options opt;
	uint32_t undefined;

	native_run(&t->from, &t->native);
	if (t->native.vector == VECTOR_ENDLESS || derailed(&t->native)) {
		t->endless = true;
		return true;
	}
	t->error = guest_run(t->guest, &t->from, &p->pace, &t->interp);
	if (t->error) {
		if (report)
			fprintf(report, "  the interpreter did not stop as it should\n");
		return false;
	}
	compare_at(t, p, &opt);
	t->parted = compare_parted(&t->native, &t->interp, opt.open,
				   open_at(p, t->interp.st.rip, &undefined));
	if (t->parted)
		return true;
	if (!compare_results(&t->native, &t->interp, &opt, report)) {
		t->endless = system_code(t) || overwrote_itself(t, p);
		return t->endless;
	}
	if (!p->patches || !memcmp(native_code(), guest_code(t->guest), CODE_SIZE))
		return true;
	if (report)
		fprintf(report, "  the code differs\n");
	return false;
}

/* Behind the instruction that faulted. False: there is no going on from there. */
static bool skip(struct trial *t, const struct program *p)
{
	uint64_t off = t->native.st.rip - CODE_BASE;
	ZydisDecodedInstruction zi;
	uint32_t undefined;
	int at;

	if (t->endless || t->parted || t->native.vector == EXC_BP || off >= CODE_SIZE)
		return false;
	at = prog_item_at(p, t->native.st.rip, &undefined);
	if (at >= 0 && p->item[at].fragile)
		return false;
	if (!decode_at(t, native_code(), off, &zi))
		return false;
	t->from = t->native.st;
	t->from.rip += zi.length;
	/* A pending x87 exception would stop the next instruction, too, and so on. */
	if (t->native.vector == EXC_MF)
		t->from.fx[2] = t->from.fx[3] = 0;
	/* Flags that the bare CPU left undefined would differ from here on. */
	t->from.rflags = (t->from.rflags & FLAG_DF) | FLAG_ONE | FLAG_IF | FLAG_CF;
	return true;
}

static bool run_state(struct trial *t, const struct program *p)
{
	t->from = p->init[t->state];
	native_memory(&t->from);
	guest_memory(t->guest, &t->from);
	for (t->part = 0; t->part < MAX_STOPS; t->part++) {
		if (!run_part(t, p, NULL))
			return false;
		if (!skip(t, p))
			break;
		t->stops++;
	}
	return true;
}

/*
 * From both states in turn, twice, with what was translated kept: what the first run did not reach
 * is joined to what it did.
 */
static bool try_program(struct trial *t, struct program *p)
{
	prog_layout(p, &t->image);
	guest_forget(t->guest);
	t->endless = false;
	for (unsigned n = 0; n < 2 * ARRAY_SIZE(p->init) && !t->endless; n++) {
		t->state = n % ARRAY_SIZE(p->init);
		if (!n || p->patches) {
			native_load(&t->image);
			t->error = guest_load(t->guest, &t->image);
			if (t->error)
				return false;
		}
		if (!run_state(t, p))
			return false;
	}
	return true;
}

/* Whether the program still differs without these items, and is still one that must not. */
static bool can_drop(struct trial *t, struct program *p, unsigned from, unsigned n)
{
	bool was[PROG_ITEMS], any = false;

	for (unsigned k = from; k < from + n; k++) {
		was[k] = p->item[k].dropped;
		any |= !was[k];
		p->item[k].dropped = true;
	}
	if (any && prog_valid(p) && !try_program(t, p))
		return true;
	for (unsigned k = from; k < from + n; k++)
		p->item[k].dropped = was[k];
	return false;
}

/* Drops what is not needed for the difference, large pieces first. The last item is the end. */
static void shrink(struct trial *t, struct program *p)
{
	bool again = true;

	for (unsigned n = p->count / 2; n > 1; n /= 2)
		for (unsigned from = 0; from + n < p->count; from += n)
			can_drop(t, p, from, n);
	while (again) {
		again = false;
		for (unsigned n = 0; n < p->count - 1; n++)
			if (!p->item[n].dropped)
				again |= can_drop(t, p, n, 1);
	}
}

/* --- reports -------------------------------------------------------------------------------- */

static void print_item(const struct trial *t, const struct program *p, unsigned n)
{
	const uint8_t *code = t->image.code + p->offset[n];
	ZydisDisassembledInstruction d;

	for (unsigned at = 0; at < p->item[n].len; at += d.info.length) {
		uint64_t rip = CODE_BASE + p->offset[n] + at;

		if (ZYAN_FAILED(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, rip, code + at,
						      15, &d)))
			return;
		printf("%s %08lx  ", p->item[n].label && !at ? " >" : "  ", rip);
		for (unsigned k = 0; k < d.info.length; k++)
			printf("%02x", code[at + k]);
		printf("%*s%s\n", 32 - 2 * d.info.length, "", d.text);
	}
}

static void print_program(const struct trial *t, const struct program *p)
{
	for (unsigned n = 0; n < p->count; n++)
		if (!p->item[n].dropped)
			print_item(t, p, n);
}

static void print_state(const struct diff_state *st)
{
	for (unsigned n = 0; n < 16; n++)
		printf("  r%-2u %016lx%s", n, st->gpr[n], n % 4 == 3 ? "\n" : "");
	printf("  rip %08lx rflags %08lx mxcsr %08x fcw %02x%02x fsw %02x%02x ftw %02x\n", st->rip,
	       st->rflags, st->mxcsr, st->fx[1], st->fx[0], st->fx[3], st->fx[2], st->fx[4]);
}

/* The code may have been stored to. */
static void print_bytes(const char *side, const uint8_t *code, uint64_t rip)
{
	uint64_t off = rip - CODE_BASE;

	printf("%s code there:", side);
	for (unsigned n = 0; n < ZYDIS_MAX_INSTRUCTION_LENGTH && off + n < CODE_SIZE; n++)
		printf(" %02x", code[off + n]);
	printf("\n");
}

static void print_line(const struct prog_run *cfg, uint64_t seed)
{
	printf("--program %s --seed %lu --count 1 --len %u%s%s", prog_kind_names[cfg->gen.kind],
	       seed, cfg->gen.len, cfg->bt ? " --bt" : "",
	       cfg->exact_flags ? " --exact-flags" : "");
}

static void report_full(struct trial *t, struct program *p, uint64_t seed)
{
	struct diff_state from;

	printf("difference at ");
	print_line(t->cfg, seed);
	printf(", shrunk to:\n");
	print_program(t, p);
	printf("slices of %u%s; start %u, after %u faults, from:\n", p->pace.slice,
	       p->pace.disturb ? ", disturbed" : "", t->state, t->part);
	print_state(&t->from);
	printf("differences:\n");
	from = t->from;
	/* Once more up to there: what differs is in the results still, but not its report. */
	try_program(t, p);
	if (memcmp(&from, &t->from, sizeof(from)))
		printf("  (not the same when run again)\n");
	if (t->error)
		printf("  the interpreter did not stop as it should\n");
	else {
		struct compare_options opt;

		compare_at(t, p, &opt);
		compare_results(&t->native, &t->interp, &opt, stdout);
	}
	printf("ended: host vector %u at %lx, interp vector %u at %lx\n", t->native.vector,
	       t->native.st.rip, t->interp.vector, t->interp.st.rip);
	print_bytes("host", native_code(), t->native.st.rip);
	print_bytes("interp", guest_code(t->guest), t->interp.st.rip);
}

static void report_line(const struct trial *t, const struct program *p, uint64_t seed)
{
	unsigned left = 0;

	for (unsigned n = 0; n < p->count; n++)
		left += !p->item[n].dropped;
	print_line(t->cfg, seed);
	printf(": %u items, host vector %u at %lx, interp vector %u at %lx\n", left,
	       t->native.vector, t->native.st.rip, t->interp.vector, t->interp.st.rip);
	fflush(stdout);
}

bool prog_run_all(struct guest *g, const struct prog_run *cfg)
{
	static struct trial t;
	static struct program p;
	uint64_t endless = 0, items = 0;
	bool ok = true;

	t = (struct trial){.guest = g, .cfg = cfg};
	ZydisDecoderInit(&t.dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (uint64_t n = 0; n < cfg->count; n++) {
		prog_generate(&p, cfg->seed + n, &cfg->gen);
		items += p.count;
		if (cfg->verbose) {
			prog_layout(&p, &t.image);
			printf("seed %lu\n", cfg->seed + n);
			print_program(&t, &p);
			fflush(stdout);
		}
		if (try_program(&t, &p)) {
			endless += t.endless;
			continue;
		}
		ok = false;
		shrink(&t, &p);
		try_program(&t, &p);
		if (!cfg->keep_going) {
			report_full(&t, &p, cfg->seed + n);
			return false;
		}
		report_line(&t, &p, cfg->seed + n);
	}
	printf("%lu programs of %lu items on average, %lu faults on the way, %lu endless, "
	       "%lu blocks translated\n",
	       cfg->count, items / MAX(cfg->count, 1ul), t.stops, endless, guest_translated(g));
	if (cfg->bt && guest_translated(g) < cfg->count)
		return false;
	/* Programs are made to end: one that does not is a chance in many. */
	return ok && endless <= cfg->count / 100;
}
