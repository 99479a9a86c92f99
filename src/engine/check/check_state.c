/* What must be the same. */
#include "src/engine/check/check_int.h"

#define FIELD(f)                                                             \
	{                                                                    \
#f, offsetof(struct cpu, f), sizeof(((struct cpu *)NULL)->f) \
	}

/* All but rip, the general registers and the arithmetic flags, which stand first and are special.
 */
const struct check_field check_fields[] = {
	FIELD(rflags),
	FIELD(cpl),
	FIELD(seg),
	FIELD(cr0),
	FIELD(cr2),
	FIELD(cr3),
	FIELD(cr4),
	FIELD(efer),
	FIELD(xcr0),
	FIELD(dr),
	FIELD(dr6),
	FIELD(dr7),
	FIELD(dr6_pending),
	FIELD(pdpte),
	FIELD(gdtr.base),
	FIELD(gdtr.limit),
	FIELD(idtr.base),
	FIELD(idtr.limit),
	FIELD(star),
	FIELD(lstar),
	FIELD(cstar),
	FIELD(sfmask),
	FIELD(kernel_gs_base),
	FIELD(tsc_aux),
	FIELD(sysenter_cs),
	FIELD(sysenter_esp),
	FIELD(sysenter_eip),
	FIELD(pat),
	FIELD(mtrr_deftype),
	FIELD(mtrr_fix),
	FIELD(mtrr_var),
	FIELD(misc_enable),
	FIELD(mcg_status),
	FIELD(tsc_adjust),
	FIELD(hwcr),
	FIELD(syscfg),
	FIELD(vec.ymm),
	/* Of the FXSAVE image what is live in it: not MXCSR, and nothing behind the x87 registers.
	 */
	{"vec.fx", offsetof(struct cpu, vec.fx), 24},
	{"vec.fx.st", offsetof(struct cpu, vec.fx) + 32, 128},
	FIELD(vec.mxcsr),
	FIELD(nmi_blocked),
	FIELD(delivering),
	FIELD(exc_pending),
};
const unsigned check_nfields = ARRAY_SIZE(check_fields);

static bool same_exception(const struct cpu *a, const struct cpu *b)
{
	if (!a->exc_pending)
		return true;
	return a->exc.vector == b->exc.vector && a->exc.kind == b->exc.kind &&
	       a->exc.has_error == b->exc.has_error &&
	       (!a->exc.has_error || a->exc.error == b->exc.error) &&
	       (a->exc.vector != EXC_PF || a->exc.cr2 == b->exc.cr2);
}

uint64_t check_flags_differ(struct check *k)
{
	uint64_t diff = (flags_get(k->cpu) ^ flags_get(k->twin)) & FLAGS_ARITH;

	return diff ? diff & ~check_flags_excused(k) : 0;
}

/* Both are copies of one, so padding differs only where somebody stored. */
static bool same_bytes(const struct cpu *c, const struct cpu *t, size_t from, size_t to)
{
	return !memcmp((const char *)c + from, (const char *)t + from, to - from);
}

static bool same_fields(const struct cpu *c, const struct cpu *t)
{
	for (unsigned n = 0; n < check_nfields; n++) {
		const struct check_field *f = &check_fields[n];

		if (!same_bytes(c, t, f->off, f->off + f->size))
			return false;
	}
	return true;
}

bool check_same_state(struct check *k)
{
	const struct cpu *c = k->cpu, *t = k->twin;

	if (c->rip != t->rip || ((c->event ^ t->event) & ~CHECK_WINDOWS) ||
	    memcmp(c->gpr, t->gpr, 16 * sizeof(c->gpr[0])))
		return false;
	if (check_flags_differ(k) || !same_exception(c, t))
		return false;
	/* Mostly, most of the fields are the same as a whole. */
	if (likely(same_bytes(c, t, offsetof(struct cpu, seg), offsetof(struct cpu, event)) &&
		   c->cpl == t->cpl && c->exc_pending == t->exc_pending &&
		   same_bytes(c, t, offsetof(struct cpu, cr0), offsetof(struct cpu, exc))))
		return true;
	return same_fields(c, t);
}

bool check_same_memory(const struct check *k)
{
	for (unsigned n = 0; n < k->overlay.n; n++) {
		const struct overlay_word *w = &k->overlay.word[n];

		if (w->stored && ((overlay_memory(w) ^ w->now) & overlay_bits(w->stored)))
			return false;
	}
	return true;
}
