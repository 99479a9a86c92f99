/*
 * Transfers of control in their common form, for compiled code: with the guest's vector registers
 * in the host's, so this and all it calls use none, and nothing here raises a fault.
 */
#include "src/x86/exc.h"
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

/* --- page faults -------------------------------------------------------------------------- */

struct pf_gate {
	struct code_target t;
	unsigned ist;
	bool trap;
};

static bool quick_gate(struct cpu *c, struct pf_gate *g)
{
	const unsigned off = EXC_PF * 16;
	const volatile uint64_t *p;
	uint64_t lo, hi;
	struct desc cs;

	if (off + 15 > c->idtr.limit)
		return false;
	p = mem_sys_quick(c, c->idtr.base + off, 16, false);
	if (!p)
		return false;
	lo = p[0];
	hi = p[1];
	/* Present, and an interrupt or trap gate. */
	if ((lo >> 40 & 0x9e) != 0x8e || !quick_code(c, lo >> 16, &cs) || desc_dpl(&cs) ||
	    desc_is_conforming(&cs))
		return false;
	seg_from_desc(&g->t.cs, lo >> 16 & 0xfffc, &cs);
	g->t.rip = (lo & 0xffff) | (lo >> 32 & 0xffff0000) | hi << 32;
	g->t.cpl = 0;
	g->ist = lo >> 32 & 7;
	g->trap = lo >> 40 & 1;
	return gva_canonical(g->t.rip);
}

/* The stack pointer out of the TSS. */
static bool tss_rsp(struct cpu *c, unsigned ist, uint64_t *rsp)
{
	unsigned off = ist ? 0x24 + 8 * (ist - 1) : 4;
	const volatile uint64_t *p;

	if (off + 7 > c->seg[SEG_TR].limit)
		return false;
	p = mem_sys_quick(c, c->seg[SEG_TR].base + off, 8, false);
	if (!p)
		return false;
	*rsp = *p;
	return true;
}

/* From the last that is pushed. */
struct pf_frame {
	uint64_t error;
	struct iret_frame ret;
};

bool exc_quick_fault(struct cpu *c, gva_t gva, bool write, uint64_t rip, uint64_t arith)
{
	uint64_t rsp = c->gpr[RSP];
	volatile struct pf_frame *f;
	struct pf_gate g;
	uint32_t error;

	if (!mem_fault_quick(c, gva, write, &error) || !quick_gate(c, &g) ||
	    ((c->cpl || g.ist) && !tss_rsp(c, g.ist, &rsp)))
		return false;
	rsp = (rsp & ~15ull) - sizeof(*f);
	f = mem_sys_quick(c, rsp, sizeof(*f), true);
	if (!f)
		return false;
	f->ret.ss = c->seg[SEG_SS].sel;
	f->ret.sp = c->gpr[RSP];
	f->ret.flags = c->rflags | FLAG_ONE | FLAG_RF | arith;
	f->ret.cs = c->seg[SEG_CS].sel;
	f->ret.rip = rip;
	f->error = error;
	c->cr2 = gva;
	if (c->cpl)
		c->seg[SEG_SS] = (struct seg){0};
	c->gpr[RSP] = rsp;
	exc_enter(c, &g.t, g.trap);
	STAT_INC(c->stats, exceptions);
	STAT_INC(c->stats, page_faults);
	return true;
}
