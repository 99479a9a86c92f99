/*
 * Transfers of control in their common form, for compiled code: with the guest's vector registers
 * in the host's, so this and all it calls use none, and nothing here raises a fault.
 */
#include "src/x86/iret.h"
#include "src/x86/mem.h"

/* Of a descriptor's upper half: present, not of the system, used before. */
#define DESC_USUAL (1u << 15 | 1u << 12 | 1u << 8)

/* One of the GDT. */
static bool quick_desc(struct cpu *c, uint16_t sel, struct desc *d)
{
	uint64_t raw;
	const void *p;

	if (!(sel & 0xfffc) || (sel & 4) || (sel | 7u) > c->gdtr.limit)
		return false;
	p = mem_sys_quick(c, c->gdtr.base + (sel & 0xfff8), 8, false);
	if (!p)
		return false;
	raw = *(const volatile uint64_t *)p;
	d->lo = raw;
	d->hi = raw >> 32;
	return (d->hi & DESC_USUAL) == DESC_USUAL;
}

/* A 64-bit code segment. */
static bool quick_code(struct cpu *c, uint16_t sel, struct desc *d)
{
	return quick_desc(c, sel, d) && desc_is_code(d) && (d->hi & 0x600000) == 0x200000;
}

static bool quick_ss(struct cpu *c, uint16_t sel, unsigned cpl, struct seg *ss)
{
	struct desc d;

	if ((sel & 3) != cpl)
		return false;
	if (!(sel & 0xfffc)) {
		*ss = (struct seg){.sel = sel, .attr = cpl << SEG_DPL_SHIFT};
		return cpl != 3;
	}
	if (!quick_desc(c, sel, &d) || desc_is_code(&d) || !(desc_type(&d) & 2) ||
	    desc_dpl(&d) != cpl)
		return false;
	seg_from_desc(ss, sel, &d);
	return true;
}

/* What IRETQ pops. */
struct iret_frame {
	uint64_t rip, cs, flags, sp, ss;
};

static bool read_frame(struct cpu *c, struct iret_frame *f)
{
	gva_t at = c->gpr[RSP];
	const volatile uint64_t *p = mem_fast_read(c, at, sizeof(*f));

	if (!p && mem_fill(c, at, false))
		p = mem_fast_read(c, at, sizeof(*f));
	if (!p)
		return false;
	*f = (struct iret_frame){p[0], p[1], p[2], p[3], p[4]};
	return true;
}

bool iret_quick(struct cpu *c, uint64_t *flags)
{
	struct iret_frame f;
	struct code_target t;
	struct desc cs;
	struct seg ss;

	if ((c->rflags & FLAG_NT) || !read_frame(c, &f) || (f.flags & FLAG_TF))
		return false;
	t.rip = f.rip;
	t.cpl = f.cs & 3;
	if (!quick_code(c, f.cs, &cs) || desc_dpl(&cs) != t.cpl || !gva_canonical(f.rip) ||
	    !quick_ss(c, f.ss, t.cpl, &ss))
		return false;
	seg_from_desc(&t.cs, f.cs, &cs);
	c->gpr[RSP] = f.sp;
	c->seg[SEG_SS] = ss;
	iret_commit(c, &t, f.flags, 8);
	*flags = f.flags;
	return true;
}
