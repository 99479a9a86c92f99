#include <stdio.h>

#include "src/x86/arch.h"
#include "src/x86/cpu.h"
#include "tests/diff/diff.h"

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					  "r8",	 "r9",	"r10", "r11", "r12", "r13", "r14", "r15"};

struct report {
	FILE *out;
	bool equal;
};

static void check(struct report *r, const char *name, unsigned index, uint64_t native,
		  uint64_t guest)
{
	if (native == guest)
		return;
	r->equal = false;
	if (r->out)
		fprintf(r->out, "  %s[%u]: host %016lx interp %016lx\n", name, index, native,
			guest);
}

static uint64_t get(const uint8_t *p, unsigned n)
{
	uint64_t v = 0;

	memcpy(&v, p, n);
	return v;
}

static void check_bytes(struct report *r, const char *name, const uint8_t *n, const uint8_t *g,
			size_t size)
{
	if (!memcmp(n, g, size))
		return;
	for (size_t k = 0; k < size; k += 8)
		check(r, name, k, get(n + k, 8), get(g + k, 8));
}

/* Tags, status and control words and the registers; the last instruction's address is not kept by
 * all. */
static void check_x87(struct report *r, const struct diff_state *n, const struct diff_state *g)
{
	check(r, "fcw", 0, get(n->fx, 2), get(g->fx, 2));
	check(r, "fsw", 0, get(n->fx + 2, 2), get(g->fx + 2, 2));
	check(r, "ftw", 0, get(n->fx + 4, 1), get(g->fx + 4, 1));
	for (unsigned k = 0; k < 8; k++) {
		check(r, "st.mantissa", k, get(n->fx + 32 + 16 * k, 8),
		      get(g->fx + 32 + 16 * k, 8));
		check(r, "st.exponent", k, get(n->fx + 40 + 16 * k, 2),
		      get(g->fx + 40 + 16 * k, 2));
	}
}

/* The interpreter tells the stack segment from others in 64-bit mode by no means: #SS is #GP. */
static unsigned vector_class(unsigned vector)
{
	return vector == EXC_SS ? EXC_GP : vector;
}

static bool is_memory_fault(const struct diff_result *d)
{
	return d->vector == EXC_PF || vector_class(d->vector) == EXC_GP;
}

/* The operand by RDI has no other segment, and 8 bytes at most; addresses may have 16 bits. */
static bool may_be_by_rdi(const struct diff_result *d)
{
	return d->vector != EXC_PF || (uint16_t)(d->cr2 - d->st.gpr[RDI]) < 8;
}

/* Whether the sides met the faults of two operands: then one of them is by RDI. */
static bool of_another(const struct diff_result *n, const struct diff_result *g)
{
	return is_memory_fault(n) && is_memory_fault(g) && (may_be_by_rdi(n) || may_be_by_rdi(g)) &&
	       (n->cr2 != g->cr2 || vector_class(n->vector) != vector_class(g->vector));
}

static void check_fault(struct report *r, const struct diff_result *n, const struct diff_result *g,
			const struct compare_options *opt)
{
	bool page_only = opt->page_only;

	if (opt->either && of_another(n, g))
		return;
	check(r, "vector", 0, vector_class(n->vector), vector_class(g->vector));
	if (n->vector != EXC_PF || g->vector != EXC_PF)
		return;
	check(r, "cr2", 0, page_only ? n->cr2 & PAGE_MASK : n->cr2,
	      page_only ? g->cr2 & PAGE_MASK : g->cr2);
	/* The host's kernel pretends that all above its users' last page is present. */
	if (n->cr2 < (1ul << 47) - PAGE_SIZE)
		check(r, "error", 0, n->error, g->error);
}

bool compare_results(const struct diff_result *native, const struct diff_result *guest,
		     const struct compare_options *opt, void *out)
{
	const uint32_t flags = (FLAGS_ARITH | FLAG_DF | FLAG_TF | FLAG_IF | FLAG_RF | FLAG_AC |
				FLAG_ID | FLAG_NT) &
			       ~opt->undefined;
	const struct diff_state *n = &native->st, *g = &guest->st;
	struct report r = {.out = out, .equal = true};
	uint64_t gpr_mask = n->compat ? 0xffffffff : ~0ull;
	uint32_t mxcsr_mask;

	check_fault(&r, native, guest, opt);
	check(&r, "rip", 0, n->rip, g->rip);
	for (unsigned k = 0; k < (n->compat ? 8 : 16); k++)
		check(&r, gpr_names[k], 0, n->gpr[k] & gpr_mask, g->gpr[k] & gpr_mask);
	check(&r, "rflags", 0, n->rflags & flags, g->rflags & flags);
	for (unsigned k = 0; k < 64; k++)
		check(&r, "ymm.q", k, get(n->ymm[k / 4] + 8 * (k % 4), 8),
		      get(g->ymm[k / 4] + 8 * (k % 4), 8));
	/*
	 * With an exception unmasked, precision and underflow are approximated (src/x86/vec.c), and
	 * so are denormals between the two steps of a dot product.
	 */
	mxcsr_mask = native->vector == EXC_XM && guest->vector == EXC_XM ? ~0x32u : ~0u;
	check(&r, "mxcsr", 0, n->mxcsr & mxcsr_mask, g->mxcsr & mxcsr_mask);
	check_x87(&r, n, g);
	check_bytes(&r, "data", n->data, g->data, DATA_SIZE);
	check_bytes(&r, "stack", n->stack, g->stack, STACK_SIZE);
	return r.equal;
}
