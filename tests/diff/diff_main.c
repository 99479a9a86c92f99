/*
 * diff_run: runs random sequences on both sides, stops at the first difference and shrinks it.
 *   --seed N      seed of the first sequence (default 1); sequence k has seed N + k
 *   --count N     how many sequences (default 20000)
 *   --len N       instructions in each (default 8)
 *   --compat      32-bit code
 *   --bt          through the binary translator
 *   --exact-flags with flags exact that nothing reads any more; they are then compared at faults
 *   --only MNEM   this mnemonic only
 *   --program K   programs of kind K instead: flow, memory, flags, vector, string, smc or mixed;
 *                 --len is then the number of statements in their main part
 *   --keep-going  report every differing sequence in one line each, and its first instruction
 *   --verbose     print each sequence before it is run
 * Exit status: 0 no difference, 1 difference, 77 this host cannot run the test.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/x86/arch.h"
#include "tests/diff/gen.h"
#include "tests/diff/prog.h"

#define EXIT_SKIP 77

struct run {
	struct guest *guest;
	struct gen_options gen;
	uint64_t seed, count;
	bool keep_going, verbose, bt, exact_flags;
	enum prog_kind kind; /* PROG_KINDS: no programs */
	struct diff_image image;
	uint16_t offset[SEQ_MAX + 1];
	struct diff_result native, interp;
};

static ZydisMachineMode machine_mode(const struct run *r)
{
	return r->gen.compat ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64;
}

static void print_sequence(const struct run *r, const struct sequence *s)
{
	ZydisDisassembledInstruction d;

	for (unsigned n = 0; n < s->count; n++) {
		const uint8_t *p = r->image.code + r->offset[n];

		if (s->dropped[n])
			continue;
		ZydisDisassembleIntel(machine_mode(r), CODE_BASE + r->offset[n], p, 15, &d);
		printf("  %08lx  ", CODE_BASE + r->offset[n]);
		for (unsigned k = 0; k < s->insn[n].len; k++)
			printf("%02x", p[k]);
		printf("%*s%s\n", 32 - 2 * s->insn[n].len, "", d.text);
	}
}

static void print_state(const struct diff_state *st)
{
	for (unsigned n = 0; n < 16; n++)
		printf("  r%-2u %016lx%s", n, st->gpr[n], n % 4 == 3 ? "\n" : "");
	printf("  rflags %08lx mxcsr %08x fcw %02x%02x fsw %02x%02x ftw %02x\n", st->rflags,
	       st->mxcsr, st->fx[1], st->fx[0], st->fx[3], st->fx[2], st->fx[4]);
}

/* Where execution stopped: the index of the instruction at rip, or count. */
static unsigned stopped_at(const struct run *r, const struct sequence *s, uint64_t rip)
{
	for (unsigned n = 0; n < s->count; n++)
		if (!s->dropped[n] && rip == CODE_BASE + r->offset[n])
			return n;
	return s->count;
}

static unsigned open_at(const struct sequence *s, unsigned n)
{
	return n < s->count ? s->insn[n].open : 0;
}

/* True if both sides agree. With report, prints the differences. */
static bool try_sequence(struct run *r, const struct sequence *s, FILE *report)
{
	const struct guest_pace pace = {0};
	struct compare_options opt;
	unsigned last;
	int err;

	gen_layout(s, &r->image, r->offset);
	native_load(&r->image);
	native_memory(&s->init);
	native_run(&s->init, &r->native);
	guest_memory(r->guest, &s->init);
	err = guest_load(r->guest, &r->image);
	if (!err)
		err = guest_run(r->guest, &s->init, &pace, &r->interp);
	if (err) {
		if (report)
			fprintf(report, "  the interpreter did not stop as it should\n");
		return false;
	}
	last = stopped_at(r, s, r->native.st.rip);
	opt.undefined = gen_undefined_at(s, last);
	/* At a fault, flags that nothing reads any more need not be exact: docs/bt.md. */
	if (r->bt && !r->exact_flags && r->native.vector != 3)
		opt.undefined |= FLAGS_ARITH;
	opt.open = open_at(s, last);
	if (compare_parted(&r->native, &r->interp, opt.open,
			   open_at(s, stopped_at(r, s, r->interp.st.rip))))
		return true;
	return compare_results(&r->native, &r->interp, &opt, report);
}

/* Drops every instruction without which the sides still differ. */
static void shrink(struct run *r, struct sequence *s)
{
	bool again = true;

	while (again) {
		again = false;
		for (unsigned n = 0; n < s->count; n++) {
			if (s->dropped[n])
				continue;
			s->dropped[n] = true;
			if (try_sequence(r, s, NULL))
				s->dropped[n] = false;
			else
				again = true;
		}
	}
}

static void report_full(struct run *r, struct sequence *s, uint64_t seed)
{
	printf("difference at --seed %lu --count 1 --len %u%s%s%s%s%s, shrunk to:\n", seed,
	       r->gen.len, r->gen.compat ? " --compat" : "", r->bt ? " --bt" : "",
	       r->exact_flags ? " --exact-flags" : "", r->gen.only ? " --only " : "",
	       r->gen.only ? r->gen.only : "");
	gen_layout(s, &r->image, r->offset);
	print_sequence(r, s);
	printf("initial state:\n");
	print_state(&s->init);
	printf("differences:\n");
	try_sequence(r, s, stdout);
	printf("ended: host vector %u at %lx, interp vector %u at %lx\n", r->native.vector,
	       r->native.st.rip, r->interp.vector, r->interp.st.rip);
}

static void report_line(struct run *r, struct sequence *s, uint64_t seed)
{
	ZydisDisassembledInstruction d;

	gen_layout(s, &r->image, r->offset);
	printf("%lu:", seed);
	for (unsigned n = 0; n < s->count; n++) {
		if (s->dropped[n])
			continue;
		ZydisDisassembleIntel(machine_mode(r), CODE_BASE, s->insn[n].bytes, 15, &d);
		printf(" %s;", d.text);
	}
	printf(" vectors %u %u\n", r->native.vector, r->interp.vector);
}

/* Returns whether there was no difference. */
static bool run_all(struct run *r)
{
	static struct sequence s;
	uint64_t faults = 0;
	bool ok = true;

	for (uint64_t n = 0; n < r->count; n++) {
		gen_sequence(&s, r->seed + n, &r->gen);
		if (r->verbose) {
			gen_layout(&s, &r->image, r->offset);
			printf("seed %lu\n", r->seed + n);
			print_sequence(r, &s);
			print_state(&s.init);
			fflush(stdout);
		}
		if (try_sequence(r, &s, NULL)) {
			faults += r->native.vector != 3;
			continue;
		}
		ok = false;
		shrink(r, &s);
		try_sequence(r, &s, NULL);
		if (!r->keep_going) {
			report_full(r, &s, r->seed + n);
			return false;
		}
		report_line(r, &s, r->seed + n);
	}
	printf("%lu sequences of %u instructions, %lu ended in a fault, %lu blocks translated\n",
	       r->count, r->gen.len, faults, guest_translated(r->guest));
	/* A translator that translates nothing would pass. */
	if (r->bt && guest_translated(r->guest) < r->count)
		return false;
	return ok;
}

static bool run_programs(struct run *r)
{
	const struct prog_run cfg = {.gen = {.kind = r->kind,
					     .len = r->gen.len,
					     .patch_readers = !r->bt || r->exact_flags},
				     .seed = r->seed,
				     .count = r->count,
				     .keep_going = r->keep_going,
				     .verbose = r->verbose,
				     .bt = r->bt,
				     .exact_flags = r->exact_flags};

	return !native_watch() && prog_run_all(r->guest, &cfg);
}

static enum prog_kind kind_by_name(const char *name)
{
	unsigned k = 0;

	while (k < PROG_KINDS && strcmp(prog_kind_names[k], name))
		k++;
	return k;
}

static int parse(struct run *r, int argc, char **argv)
{
	static const struct option opts[] = {
		{"seed", required_argument, NULL, 's'},
		{"count", required_argument, NULL, 'c'},
		{"len", required_argument, NULL, 'l'},
		{"only", required_argument, NULL, 'o'},
		{"keep-going", no_argument, NULL, 'k'},
		{"compat", no_argument, NULL, '3'},
		{"bt", no_argument, NULL, 'b'},
		{"exact-flags", no_argument, NULL, 'e'},
		{"verbose", no_argument, NULL, 'v'},
		{"program", required_argument, NULL, 'p'},
		{0},
	};
	int o;

	while ((o = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		switch (o) {
		case 's': r->seed = strtoull(optarg, NULL, 0); break;
		case 'c': r->count = strtoull(optarg, NULL, 0); break;
		case 'l': r->gen.len = strtoul(optarg, NULL, 0); break;
		case 'o': r->gen.only = optarg; break;
		case 'k': r->keep_going = true; break;
		case 'b': r->bt = true; break;
		case 'e': r->exact_flags = true; break;
		case '3': r->gen.compat = true; break;
		case 'v': r->verbose = true; break;
		case 'p':
			r->kind = kind_by_name(optarg);
			if (r->kind == PROG_KINDS)
				return -EINVAL;
			break;
		default: return -EINVAL;
		}
	}
	return optind == argc && r->gen.len >= 1 && r->gen.len <= SEQ_MAX ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	static struct run r = {.seed = 1, .count = 20000, .gen.len = 8, .kind = PROG_KINDS};
	struct guest_options opt;
	bool ok;
	int err;

	if (parse(&r, argc, argv)) {
		fprintf(stderr,
			"usage: diff_run [--seed N] [--count N] [--len 1..%d] [--compat] [--bt] "
			"[--exact-flags] [--only MNEMONIC] [--program KIND] [--keep-going] "
			"[--verbose]\n",
			SEQ_MAX);
		return 2;
	}
	opt = (struct guest_options){.translate = r.bt,
				     .exact_flags = r.exact_flags,
				     .code_writable = r.kind == PROG_SMC || r.kind == PROG_MIXED};
	err = native_init(r.gen.compat, opt.code_writable);
	if (err) {
		fprintf(stderr, "diff_run: cannot run here: %s\n", strerror(-err));
		return err == -ENOTSUP ? EXIT_SKIP : 3;
	}
	err = guest_create(&r.guest, &opt);
	if (err) {
		fprintf(stderr, "diff_run: %s\n", strerror(-err));
		return 3;
	}
	ok = r.kind == PROG_KINDS ? run_all(&r) : run_programs(&r);
	guest_destroy(r.guest);
	return ok ? 0 : 1;
}
