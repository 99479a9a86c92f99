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

#define FCW_MASKS	 0x3fu
#define MXCSR_EXCEPTIONS 0x3fu

/* The x87 register with that number, wherever the stack's top is. */
static const uint8_t *x87_register(const struct diff_state *st, unsigned number)
{
	unsigned top = (get(st->fx + 2, 2) & FSW_TOP) >> FSW_TOP_SHIFT;

	return st->fx + 32 + 16 * ((number - top) & 7);
}

static void check_bytes(struct report *r, const char *name, const uint8_t *n, const uint8_t *g,
			size_t size)
{
	if (!memcmp(n, g, size))
		return;
	for (size_t k = 0; k < size; k += 8)
		check(r, name, k, get(n + k, 8), get(g + k, 8));
}

/*
 * Tags, status and control words and the registers, by number; the last instruction's address is
 * not kept by all.
 */
static void check_x87(struct report *r, const struct diff_state *n, const struct diff_state *g,
		      bool any_top)
{
	uint64_t sw = any_top ? (uint16_t)~FSW_TOP : 0xffff;

	check(r, "fcw", 0, get(n->fx, 2), get(g->fx, 2));
	check(r, "fsw", 0, get(n->fx + 2, 2) & sw, get(g->fx + 2, 2) & sw);
	check(r, "ftw", 0, get(n->fx + 4, 1), get(g->fx + 4, 1));
	for (unsigned k = 0; k < 8; k++) {
		const uint8_t *a = x87_register(n, k), *b = x87_register(g, k);

		check(r, "r.mantissa", k, get(a, 8), get(b, 8));
		check(r, "r.exponent", k, get(a + 8, 2), get(b + 8, 2));
	}
}

/* A vector register's half, or with any_mask what an element's sign says, for all its bits. */
static void check_vector(struct report *r, unsigned k, uint64_t native, uint64_t guest,
			 bool any_mask)
{
	uint64_t low = (int32_t)guest < 0 ? UINT32_MAX : 0, high = (int64_t)guest < 0 ? ~0ull : 0;

	if (any_mask && (!native || native == high || native == (high << 32 | low)))
		return;
	check(r, "ymm.q", k, native, guest);
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

/* Which is one of a page or of the segment's limit. */
static bool wraps(const struct diff_result *n, const struct diff_result *g)
{
	return n->st.compat && n->vector == EXC_PF && vector_class(g->vector) == EXC_GP &&
	       (uint32_t)(n->cr2 + PAGE_SIZE) < 2 * PAGE_SIZE;
}

static void check_fault(struct report *r, const struct diff_result *n, const struct diff_result *g,
			const struct compare_options *opt)
{
	if ((opt->open & OPEN_ORDER && of_another(n, g)) || (opt->open & OPEN_WRAP && wraps(n, g)))
		return;
	check(r, "vector", 0, vector_class(n->vector), vector_class(g->vector));
	if (n->vector != EXC_PF || g->vector != EXC_PF)
		return;
	check(r, "cr2", 0, n->cr2, g->cr2);
	/* The host's kernel pretends that all above its users' last page is present. */
	if (n->cr2 < (1ul << 47) - PAGE_SIZE)
		check(r, "error", 0, n->error, g->error);
}

bool compare_parted(const struct diff_result *native, const struct diff_result *guest,
		    unsigned native_open, unsigned guest_open)
{
	if (native_open & OPEN_PARTS && native->vector != EXC_BP)
		return true;
	if (!is_memory_fault(guest))
		return false;
	if (guest_open & OPEN_MXCSR && native->vector == EXC_XM)
		return true;
	return guest_open & OPEN_STORE && ~get(guest->st.fx, 2) & FCW_MASKS &&
	       (native->st.rip != guest->st.rip || native->vector == EXC_MF);
}

bool compare_results(const struct diff_result *native, const struct diff_result *guest,
		     const struct compare_options *opt, void *out)
{
	unsigned open = is_memory_fault(native) ? opt->open : 0;
	const uint32_t flags = (FLAGS_ARITH | FLAG_DF | FLAG_TF | FLAG_IF | FLAG_RF | FLAG_AC |
				FLAG_ID | FLAG_NT) &
			       ~opt->undefined & (open & OPEN_FLAGS ? ~FLAGS_ARITH : ~0u);
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
		check_vector(&r, k, get(n->ymm[k / 4] + 8 * (k % 4), 8),
			     get(g->ymm[k / 4] + 8 * (k % 4), 8), open & OPEN_MASK);
	/*
	 * With an exception unmasked, precision and underflow are approximated (src/x86/vec.c), and
	 * so are denormals between the two steps of a dot product.
	 */
	mxcsr_mask = open & OPEN_MXCSR ? ~MXCSR_EXCEPTIONS : ~0u;
	if (native->vector == EXC_XM && guest->vector == EXC_XM)
		mxcsr_mask = ~0x32u;
	check(&r, "mxcsr", 0, n->mxcsr & mxcsr_mask, g->mxcsr & mxcsr_mask);
	check_x87(&r, n, g, open & OPEN_TOP);
	check_bytes(&r, "data", n->data, g->data, DATA_SIZE);
	check_bytes(&r, "stack", n->stack, g->stack, STACK_SIZE);
	return r.equal;
}
