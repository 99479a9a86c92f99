/* The report of a difference. */
#include <stdarg.h>
#include <stdio.h>

#include "src/base/log.h"
#include "src/engine/check/check_int.h"

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					  "r8",	 "r9",	"r10", "r11", "r12", "r13", "r14", "r15"};

struct text {
	char *p;
	size_t left;
};

static void printf_like(2, 3) add(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->p, t->left, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= t->left) {
		t->left = 0;
		return;
	}
	t->p += n;
	t->left -= n;
}

static void add_block(const struct check *k, struct text *t, const struct block *b)
{
	uint64_t at = check_linear(k, b->gpa & ~PAGE_MASK);
	ZydisDisassembledInstruction d;

	for (unsigned off = 0; off < b->bytes; off += d.info.length) {
		if (ZYAN_FAILED(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, at + off,
						      b->code + off, b->bytes - off, &d))) {
			add(t, "  %016lx  %02x ...\n", at + off, b->code[off]);
			return;
		}
		add(t, "  %016lx  ", at + off);
		for (unsigned n = 0; n < d.info.length; n++)
			add(t, "%02x", b->code[off + n]);
		add(t, "%*s%s\n", 32 - 2 * d.info.length, "", d.text);
	}
}

static void add_value(struct text *t, const char *name, unsigned at, uint64_t before, uint64_t cpu,
		      uint64_t twin)
{
	if (cpu != twin)
		add(t, "  %s+%u: before %016lx, bt %016lx, interp %016lx\n", name, at, before, cpu,
		    twin);
}

static uint64_t value(const void *base, size_t off, size_t size)
{
	uint64_t v = 0;

	memcpy(&v, (const char *)base + off, MIN(size, sizeof(v)));
	return v;
}

static void add_registers(struct check *k, struct text *t)
{
	const struct cpu *b = check_before(k), *c = k->cpu, *w = k->twin;

	if (c->rip != w->rip)
		add_value(t, "rip", 0, b->rip, c->rip, w->rip);
	for (unsigned n = 0; n < 16; n++)
		add_value(t, gpr_names[n], 0, b->gpr[n], c->gpr[n], w->gpr[n]);
	add_value(t, "event", 0, b->event & ~CHECK_WINDOWS, c->event & ~CHECK_WINDOWS,
		  w->event & ~CHECK_WINDOWS);
	if (check_flags_differ(k))
		add_value(t, "arithmetic flags", 0, flags_get(b), flags_get(c), flags_get(w));
	for (unsigned n = 0; n < check_nfields; n++) {
		const struct check_field *f = &check_fields[n];

		for (unsigned at = 0; at < f->size; at += 8)
			add_value(t, f->name, at, value(b, f->off + at, f->size - at),
				  value(c, f->off + at, f->size - at),
				  value(w, f->off + at, f->size - at));
	}
}

static void add_exception(struct text *t, const char *who, const struct cpu *c)
{
	if (c->exc_pending)
		add(t, "  %s raised exception %u, error %x, address %lx\n", who, c->exc.vector,
		    c->exc.error, c->exc.vector == EXC_PF ? c->exc.cr2 : 0);
}

static void add_memory(const struct check *k, struct text *t)
{
	for (unsigned n = 0; n < k->overlay.n; n++) {
		const struct overlay_word *w = &k->overlay.word[n];
		uint64_t now = overlay_memory(w);

		if ((now ^ w->now) & overlay_bits(w->stored))
			add(t, "  memory %lx: before %016lx, bt %016lx, interp %016lx\n", w->gpa,
			    w->seen, now, w->now);
	}
}

static void add_before(const struct check *k, struct text *t)
{
	const struct cpu *b = check_before(k);

	for (unsigned n = 0; n < 16; n++)
		add(t, "  %-3s %016lx%s", gpr_names[n], b->gpr[n], n % 4 == 3 ? "\n" : "");
	add(t, "  rflags %08lx cpl %u cr3 %lx\n", flags_get(b), b->cpl, b->cr3);
}

static void add_trail(const struct check *k, struct text *t)
{
	unsigned n = MIN(k->ntrail, CHECK_TRAIL);

	add(t, "the last blocks:");
	while (n-- > 0)
		add(t, " %lx", k->trail[(k->ntrail - 1 - n) % CHECK_TRAIL]);
	add(t, "\n");
}

void check_make_report(struct check *k)
{
	struct text t = {k->report, sizeof(k->report)};

	add(&t, "the translator and the interpreter differ at %lx (physical %lx):\n",
	    check_before(k)->rip, k->unit->block[0]->gpa);
	add_registers(k, &t);
	add_exception(&t, "bt", k->cpu);
	add_exception(&t, "interp", k->twin);
	add_memory(k, &t);
	add(&t, "before:\n");
	add_before(k, &t);
	add_trail(k, &t);
	add(&t, "blocks compiled together, of which the interpreter ran %u of %u:\n", k->nrun,
	    k->unit->n);
	for (unsigned n = 0; n < k->unit->n; n++)
		add_block(k, &t, k->unit->block[n]);
	log_err("%s", k->report);
}
