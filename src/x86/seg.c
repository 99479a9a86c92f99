#include "src/x86/syscall.h"

#include "src/x86/iret.h"
#include "src/x86/mem.h"

#define SYS_LDT	      0x2
#define SYS_TSS16     0x1
#define SYS_TSS_AVAIL 0x9
#define SYS_TSS_BUSY  0xb

static _Noreturn void raise_sel(struct cpu *cpu, uint8_t vector, uint16_t sel)
{
	cpu_raise_err(cpu, vector, sel & 0xfffc);
}

static bool sel_null(uint16_t sel)
{
	return !(sel & 0xfffc);
}

bool desc_read(struct cpu *cpu, uint16_t sel, struct desc *d)
{
	uint64_t base, raw;
	uint32_t limit;

	if (sel & 4) {
		base = cpu->seg[SEG_LDTR].base;
		limit = cpu->seg[SEG_LDTR].attr & SEG_P ? cpu->seg[SEG_LDTR].limit : 0;
	} else {
		base = cpu->gdtr.base;
		limit = cpu->gdtr.limit;
	}
	if ((uint32_t)(sel | 7) > limit)
		return false;
	d->gva = base + (sel & 0xfff8);
	raw = mem_sys_read(cpu, d->gva, 8);
	d->lo = raw;
	d->hi = raw >> 32;
	return true;
}

void desc_set_accessed(struct cpu *cpu, struct desc *d)
{
	if (d->hi & 0x100)
		return;
	d->hi |= 0x100;
	mem_sys_write(cpu, d->gva + 5, d->hi >> 8 & 0xff, 1);
}

/* Upper half of the base of a 16-byte system descriptor. */
static uint64_t desc_base_high(struct cpu *cpu, const struct desc *d)
{
	return mem_sys_read(cpu, d->gva + 8, 4) << 32;
}

void seg_load_real(struct seg *seg, uint16_t sel)
{
	seg->sel = sel;
	seg->base = (uint64_t)sel << 4;
	/* Limit and attributes stay: that is what makes "unreal" mode. */
	seg->attr |= SEG_P | SEG_S | SEG_RW | SEG_A;
	seg->attr &= ~SEG_DPL;
}

void seg_load(struct cpu *cpu, enum seg_index s, uint16_t sel)
{
	struct desc d;
	unsigned rpl = sel & 3;

	if (cpu_real_mode(cpu)) {
		seg_load_real(&cpu->seg[s], sel);
		return;
	}
	if (sel_null(sel)) {
		/* In 64-bit mode SS may be null below CPL 3. */
		if (s == SEG_SS && (!cpu_code64(cpu) || cpu->cpl == 3 || rpl != cpu->cpl))
			cpu_raise_gp(cpu);
		cpu->seg[s].sel = sel;
		cpu->seg[s].attr = s == SEG_SS ? cpu->cpl << SEG_DPL_SHIFT : 0;
		/* CPUID 8000_0021 EAX bit 6 says so, of FS and GS in long mode, too. */
		cpu->seg[s].base = 0;
		return;
	}
	if (!desc_read(cpu, sel, &d) || desc_is_system(&d))
		raise_sel(cpu, EXC_GP, sel);
	if (s == SEG_SS) {
		if (rpl != cpu->cpl || desc_is_code(&d) || !(desc_type(&d) & 2) ||
		    desc_dpl(&d) != cpu->cpl)
			raise_sel(cpu, EXC_GP, sel);
		if (!desc_present(&d))
			raise_sel(cpu, EXC_SS, sel);
	} else {
		if (desc_is_code(&d) && !(desc_type(&d) & 2))
			raise_sel(cpu, EXC_GP, sel);
		if (!desc_is_conforming(&d) && (desc_dpl(&d) < cpu->cpl || desc_dpl(&d) < rpl))
			raise_sel(cpu, EXC_GP, sel);
		if (!desc_present(&d))
			raise_sel(cpu, EXC_NP, sel);
	}
	desc_set_accessed(cpu, &d);
	seg_from_desc(&cpu->seg[s], sel, &d);
}

void seg_load_ldt(struct cpu *cpu, uint16_t sel)
{
	struct desc d;
	uint64_t high = 0;

	if (sel_null(sel)) {
		cpu->seg[SEG_LDTR] = (struct seg){.sel = sel};
		return;
	}
	if ((sel & 4) || !desc_read(cpu, sel, &d) || !desc_is_system(&d) ||
	    desc_type(&d) != SYS_LDT)
		raise_sel(cpu, EXC_GP, sel);
	if (!desc_present(&d))
		raise_sel(cpu, EXC_NP, sel);
	if (cpu_long_mode(cpu))
		high = desc_base_high(cpu, &d);
	seg_from_desc(&cpu->seg[SEG_LDTR], sel, &d);
	cpu->seg[SEG_LDTR].base |= high;
}

void seg_load_tr(struct cpu *cpu, uint16_t sel)
{
	struct desc d;
	uint64_t high = 0;
	bool tss16;

	if (sel_null(sel) || (sel & 4) || !desc_read(cpu, sel, &d) || !desc_is_system(&d))
		raise_sel(cpu, EXC_GP, sel);
	tss16 = desc_type(&d) == SYS_TSS16 && !cpu_long_mode(cpu);
	if (desc_type(&d) != SYS_TSS_AVAIL && !tss16)
		raise_sel(cpu, EXC_GP, sel);
	if (!desc_present(&d))
		raise_sel(cpu, EXC_NP, sel);
	if (cpu_long_mode(cpu))
		high = desc_base_high(cpu, &d);
	d.hi |= 0x200; /* busy */
	mem_sys_write(cpu, d.gva + 5, d.hi >> 8 & 0xff, 1);
	seg_from_desc(&cpu->seg[SEG_TR], sel, &d);
	cpu->seg[SEG_TR].base |= high;
}

/* --- stacks ------------------------------------------------------------------------------- */

static uint64_t stack_mask(const struct cpu *cpu, bool code64, const struct seg *ss)
{
	if (code64)
		return ~0ull;
	return ss->attr & SEG_DB ? 0xffffffff : 0xffff;
}

void stack_current(struct cpu *cpu, struct stack *st)
{
	*st = (struct stack){
		.cpu = cpu,
		.ss = cpu->seg[SEG_SS],
		.sp = cpu->gpr[RSP],
		.mask = stack_mask(cpu, cpu_code64(cpu), &cpu->seg[SEG_SS]),
		.ordinary = true,
	};
}

static gva_t stack_linear(struct stack *st, uint64_t sp, unsigned size)
{
	uint64_t off = sp & st->mask, last = off + size - 1;
	bool ok;

	if (st->mask == ~0ull) {
		if (!gva_canonical(off) || !gva_canonical(last))
			cpu_raise_err(st->cpu, EXC_SS, st->fault);
		return off;
	}
	if ((st->ss.attr & (SEG_CODE | SEG_EC)) == SEG_EC)
		ok = off > st->ss.limit && last <= (st->ss.attr & SEG_DB ? 0xffffffff : 0xffff);
	else
		ok = last <= st->ss.limit;
	if (!ok)
		cpu_raise_err(st->cpu, EXC_SS, st->fault);
	return (uint32_t)(st->ss.base + off);
}

void stack_push(struct stack *st, uint64_t value, unsigned size)
{
	gva_t gva = stack_linear(st, st->sp - size, size);

	if (st->ordinary)
		mem_write(st->cpu, gva, &value, size);
	else
		mem_sys_write(st->cpu, gva, value, size);
	st->sp = (st->sp & ~st->mask) | ((st->sp - size) & st->mask);
}

uint64_t stack_pop(struct stack *st, unsigned size)
{
	gva_t gva = stack_linear(st, st->sp, size);
	uint64_t value = 0;

	if (st->ordinary)
		mem_read(st->cpu, gva, &value, size);
	else
		value = mem_sys_read(st->cpu, gva, size);
	st->sp = (st->sp & ~st->mask) | ((st->sp + size) & st->mask);
	return value;
}

void stack_commit(struct stack *st)
{
	st->cpu->gpr[RSP] = st->sp;
}

/* Loads SS for an inner stack; errors are #TS with the selector, but #SS if not present. */
static void inner_ss(struct cpu *cpu, uint16_t sel, unsigned cpl, struct seg *ss)
{
	struct desc d;

	if (sel_null(sel) || !desc_read(cpu, sel, &d) || (sel & 3) != cpl || desc_dpl(&d) != cpl ||
	    desc_is_system(&d) || desc_is_code(&d) || !(desc_type(&d) & 2))
		raise_sel(cpu, EXC_TS, sel);
	if (!desc_present(&d))
		raise_sel(cpu, EXC_SS, sel);
	desc_set_accessed(cpu, &d);
	seg_from_desc(ss, sel, &d);
}

void stack_from_tss(struct cpu *cpu, unsigned cpl, unsigned ist, struct stack *st)
{
	const struct seg *tr = &cpu->seg[SEG_TR];
	unsigned off;

	*st = (struct stack){.cpu = cpu, .ordinary = cpl == 3};
	if (cpu_long_mode(cpu)) {
		off = ist ? 0x24 + 8 * (ist - 1) : 4 + 8 * cpl;
		if (off + 7 > tr->limit)
			raise_sel(cpu, EXC_TS, tr->sel);
		st->sp = mem_sys_read(cpu, tr->base + off, 8);
		st->mask = ~0ull;
		st->ss = (struct seg){.sel = cpl, .attr = cpl << SEG_DPL_SHIFT};
		if (!gva_canonical(st->sp))
			cpu_raise_err(cpu, EXC_SS, 0);
	} else {
		bool tss16 = !(tr->attr & 8);
		uint16_t sel;

		off = tss16 ? 2 + 4 * cpl : 4 + 8 * cpl;
		if (off + (tss16 ? 3 : 5) > tr->limit)
			raise_sel(cpu, EXC_TS, tr->sel);
		st->sp = mem_sys_read(cpu, tr->base + off, tss16 ? 2 : 4);
		sel = mem_sys_read(cpu, tr->base + off + (tss16 ? 2 : 4), 2);
		inner_ss(cpu, sel, cpl, &st->ss);
		st->mask = stack_mask(cpu, false, &st->ss);
		st->fault = sel & 0xfffc;
	}
}

/* --- code segments ------------------------------------------------------------------------ */

static bool target_is64(const struct cpu *cpu, const struct seg *cs)
{
	return cpu_long_mode(cpu) && (cs->attr & SEG_L);
}

static void check_rip(struct cpu *cpu, const struct code_target *t)
{
	if (target_is64(cpu, &t->cs) ? !gva_canonical(t->rip) : t->rip > t->cs.limit)
		cpu_raise_gp(cpu);
}

/* Reads a code descriptor; type, presence and the long-mode L/D rule. Privilege is the caller's. */
static void code_desc(struct cpu *cpu, uint16_t sel, struct desc *d)
{
	if (sel_null(sel))
		cpu_raise_gp(cpu);
	if (!desc_read(cpu, sel, d))
		raise_sel(cpu, EXC_GP, sel);
}

static void code_desc_checks(struct cpu *cpu, uint16_t sel, const struct desc *d)
{
	if (!desc_present(d))
		raise_sel(cpu, EXC_NP, sel);
	if (cpu_long_mode(cpu) && (d->hi & 0x600000) == 0x600000)
		raise_sel(cpu, EXC_GP, sel);
}

static void code_target(struct cpu *cpu, uint16_t sel, struct desc *d, unsigned cpl, uint64_t rip,
			struct code_target *t)
{
	desc_set_accessed(cpu, d);
	seg_from_desc(&t->cs, (sel & 0xfffc) | cpl, d);
	t->cpl = cpl;
	t->rip = rip;
	check_rip(cpu, t);
}

/* A direct far transfer to a code segment keeps the CPL. */
static void direct_target(struct cpu *cpu, uint16_t sel, struct desc *d, uint64_t off,
			  struct code_target *t)
{
	if (desc_is_conforming(d)) {
		if (desc_dpl(d) > cpu->cpl)
			raise_sel(cpu, EXC_GP, sel);
	} else if ((sel & 3u) > cpu->cpl || desc_dpl(d) != cpu->cpl) {
		raise_sel(cpu, EXC_GP, sel);
	}
	code_desc_checks(cpu, sel, d);
	code_target(cpu, sel, d, cpu->cpl, off, t);
}

struct gate {
	uint16_t sel;
	uint64_t off;
	unsigned params;
	unsigned size; /* 2, 4 or 8 */
	struct desc code;
};

/* A call gate: checks the gate and reads the code descriptor behind it. */
static void read_call_gate(struct cpu *cpu, uint16_t sel, const struct desc *d, struct gate *g)
{
	unsigned type = desc_type(d);

	if (type != 0xc && (type != 0x4 || cpu_long_mode(cpu)))
		raise_sel(cpu, EXC_GP, sel);
	if (desc_dpl(d) < cpu->cpl || desc_dpl(d) < (sel & 3u))
		raise_sel(cpu, EXC_GP, sel);
	if (!desc_present(d))
		raise_sel(cpu, EXC_NP, sel);
	g->sel = d->lo >> 16;
	g->off = (d->lo & 0xffff) | (type == 0xc ? d->hi & 0xffff0000 : 0);
	g->params = d->hi & 0x1f;
	g->size = type == 0xc ? 4 : 2;
	if (cpu_long_mode(cpu)) {
		g->off |= desc_base_high(cpu, d);
		g->params = 0;
		g->size = 8;
	}
	code_desc(cpu, g->sel, &g->code);
	if (!desc_is_code(&g->code) || desc_dpl(&g->code) > cpu->cpl)
		raise_sel(cpu, EXC_GP, g->sel);
	if (cpu_long_mode(cpu) && (g->code.hi & 0x600000) != 0x200000)
		raise_sel(cpu, EXC_GP, g->sel);
	if (!desc_present(&g->code))
		raise_sel(cpu, EXC_NP, g->sel);
}

static void real_target(struct cpu *cpu, uint16_t sel, uint64_t off, struct code_target *t)
{
	t->cs = cpu->seg[SEG_CS];
	seg_load_real(&t->cs, sel);
	t->cpl = 0;
	t->rip = off;
	check_rip(cpu, t);
}

void far_jump(struct cpu *cpu, uint16_t sel, uint64_t off, unsigned opsize)
{
	struct code_target t;
	struct desc d;

	if (opsize == 2)
		off &= 0xffff;
	if (cpu_real_mode(cpu)) {
		real_target(cpu, sel, off, &t);
	} else {
		code_desc(cpu, sel, &d);
		if (desc_is_code(&d)) {
			direct_target(cpu, sel, &d, off, &t);
		} else if (desc_is_system(&d)) {
			struct gate g;

			read_call_gate(cpu, sel, &d, &g);
			/* A jump through a gate may not change the CPL. */
			if (!desc_is_conforming(&g.code) && desc_dpl(&g.code) != cpu->cpl)
				raise_sel(cpu, EXC_GP, g.sel);
			code_target(cpu, g.sel, &g.code, cpu->cpl, g.off, &t);
		} else {
			raise_sel(cpu, EXC_GP, sel);
		}
	}
	code_commit(cpu, &t);
}

static void push_return(struct stack *st, uint16_t cs, uint64_t rip, unsigned size)
{
	stack_push(st, cs, size);
	stack_push(st, rip, size);
}

static void call_gate(struct cpu *cpu, uint16_t sel, const struct desc *d, uint64_t next_rip)
{
	struct gate g;
	struct code_target t;
	struct stack st, old;
	uint64_t params[32];

	read_call_gate(cpu, sel, d, &g);
	stack_current(cpu, &old);
	if (desc_is_conforming(&g.code) || desc_dpl(&g.code) == cpu->cpl) {
		code_target(cpu, g.sel, &g.code, cpu->cpl, g.off, &t);
		st = old;
		if (cpu_long_mode(cpu))
			st.mask = ~0ull;
		push_return(&st, cpu->seg[SEG_CS].sel, next_rip, g.size);
		stack_commit(&st);
		code_commit(cpu, &t);
		return;
	}
	stack_from_tss(cpu, desc_dpl(&g.code), 0, &st);
	code_target(cpu, g.sel, &g.code, desc_dpl(&g.code), g.off, &t);
	for (unsigned i = 0; i < g.params; i++)
		params[i] = stack_pop(&old, g.size);
	stack_push(&st, cpu->seg[SEG_SS].sel, g.size);
	stack_push(&st, cpu->gpr[RSP], g.size);
	for (unsigned i = g.params; i-- > 0;)
		stack_push(&st, params[i], g.size);
	push_return(&st, cpu->seg[SEG_CS].sel, next_rip, g.size);
	cpu->seg[SEG_SS] = st.ss;
	stack_commit(&st);
	code_commit(cpu, &t);
}

void far_call(struct cpu *cpu, uint16_t sel, uint64_t off, unsigned opsize, uint64_t next_rip)
{
	struct code_target t;
	struct stack st;
	struct desc d;

	if (opsize == 2)
		off &= 0xffff;
	stack_current(cpu, &st);
	if (cpu_real_mode(cpu)) {
		real_target(cpu, sel, off, &t);
	} else {
		code_desc(cpu, sel, &d);
		if (desc_is_system(&d)) {
			call_gate(cpu, sel, &d, next_rip);
			return;
		}
		if (!desc_is_code(&d))
			raise_sel(cpu, EXC_GP, sel);
		direct_target(cpu, sel, &d, off, &t);
	}
	push_return(&st, cpu->seg[SEG_CS].sel, next_rip, opsize);
	stack_commit(&st);
	code_commit(cpu, &t);
}

/* SS for a return to an outer level: errors are #GP, or #SS if not present. */
static void outer_ss(struct cpu *cpu, uint16_t sel, unsigned cpl, bool to64, struct seg *ss)
{
	struct desc d;

	if (sel_null(sel)) {
		if (!to64 || cpl == 3 || (sel & 3) != cpl)
			cpu_raise_gp(cpu);
		*ss = (struct seg){.sel = sel, .attr = cpl << SEG_DPL_SHIFT};
		return;
	}
	if (!desc_read(cpu, sel, &d) || (sel & 3) != cpl || desc_dpl(&d) != cpl ||
	    desc_is_system(&d) || desc_is_code(&d) || !(desc_type(&d) & 2))
		raise_sel(cpu, EXC_GP, sel);
	if (!desc_present(&d))
		raise_sel(cpu, EXC_SS, sel);
	desc_set_accessed(cpu, &d);
	seg_from_desc(ss, sel, &d);
}

/* The code segment of a far return or IRET: RPL is the new CPL and may not be inner. */
static void return_target(struct cpu *cpu, uint16_t sel, uint64_t rip, struct code_target *t)
{
	struct desc d;
	unsigned rpl = sel & 3;

	code_desc(cpu, sel, &d);
	if (!desc_is_code(&d) || rpl < cpu->cpl)
		raise_sel(cpu, EXC_GP, sel);
	if (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl)
		raise_sel(cpu, EXC_GP, sel);
	code_desc_checks(cpu, sel, &d);
	code_target(cpu, sel, &d, rpl, rip, t);
}

static void set_outer_sp(struct cpu *cpu, const struct code_target *t, const struct seg *ss,
			 uint64_t sp, unsigned release)
{
	uint64_t mask = stack_mask(cpu, target_is64(cpu, &t->cs), ss);

	cpu->gpr[RSP] = mask == 0xffff ? (cpu->gpr[RSP] & ~mask) | ((sp + release) & mask)
				       : (sp + release) & mask;
}

void far_return(struct cpu *cpu, unsigned opsize, unsigned release)
{
	struct code_target t;
	struct stack st;
	uint64_t rip;
	uint16_t sel;

	stack_current(cpu, &st);
	rip = stack_pop(&st, opsize);
	sel = stack_pop(&st, opsize);
	if (cpu_real_mode(cpu)) {
		real_target(cpu, sel, rip, &t);
	} else {
		return_target(cpu, sel, rip, &t);
		if (t.cpl > cpu->cpl) {
			struct seg ss;
			uint64_t sp;
			uint16_t ss_sel;

			st.sp = (st.sp & ~st.mask) | ((st.sp + release) & st.mask);
			sp = stack_pop(&st, opsize);
			ss_sel = stack_pop(&st, opsize);
			outer_ss(cpu, ss_sel, t.cpl, target_is64(cpu, &t.cs), &ss);
			set_outer_sp(cpu, &t, &ss, sp, release);
			cpu->seg[SEG_SS] = ss;
			code_commit(cpu, &t);
			drop_inner_segments(cpu);
			return;
		}
	}
	st.sp = (st.sp & ~st.mask) | ((st.sp + release) & st.mask);
	stack_commit(&st);
	code_commit(cpu, &t);
}

static void unblock_nmi(struct cpu *cpu)
{
	if (!cpu->nmi_blocked)
		return;
	cpu->nmi_blocked = false;
	cpu->event |= CPU_EVENT_YIELD; /* the next one may be waiting */
}

void seg_iret(struct cpu *cpu, unsigned opsize)
{
	struct code_target t;
	struct stack st;
	struct seg ss = cpu->seg[SEG_SS];
	uint64_t rip, f, sp = 0;
	uint16_t sel, ss_sel;
	unsigned old_cpl = cpu->cpl;
	bool new_stack;

	stack_current(cpu, &st);
	if (!cpu_real_mode(cpu) && (cpu->rflags & FLAG_NT))
		cpu_raise_gp(cpu);
	rip = stack_pop(&st, opsize);
	sel = stack_pop(&st, opsize);
	f = stack_pop(&st, opsize);
	if (cpu_real_mode(cpu)) {
		real_target(cpu, sel, rip, &t);
		stack_commit(&st);
		code_commit(cpu, &t);
		iret_flags(cpu, f, opsize, 0);
		unblock_nmi(cpu);
		return;
	}
	if (opsize > 2 && (f & FLAG_VM) && cpu->cpl == 0 && !cpu_long_mode(cpu))
		cpu_raise_gp(cpu); /* virtual-8086 mode is not implemented */
	return_target(cpu, sel, rip, &t);
	/* 64-bit mode always pops SS:RSP. */
	new_stack = cpu_code64(cpu) || t.cpl > old_cpl;
	if (new_stack) {
		sp = stack_pop(&st, opsize);
		ss_sel = stack_pop(&st, opsize);
		outer_ss(cpu, ss_sel, t.cpl, target_is64(cpu, &t.cs), &ss);
	}
	if (new_stack) {
		set_outer_sp(cpu, &t, &ss, sp, 0);
		cpu->seg[SEG_SS] = ss;
	} else {
		stack_commit(&st);
	}
	iret_commit(cpu, &t, f, opsize);
	unblock_nmi(cpu);
}

/* --- fast system calls -------------------------------------------------------------------- */

void seg_syscall(struct cpu *cpu, uint64_t next_rip)
{
	uint16_t sel = cpu->star >> 32 & 0xfffc;

	if (!(cpu->efer & EFER_SCE) || cpu_real_mode(cpu))
		cpu_raise_ud(cpu);
	if (cpu_long_mode(cpu)) {
		flags_set_arith(cpu, seg_syscall_long(cpu, next_rip,
						      cpu_code64(cpu) ? cpu->lstar : cpu->cstar,
						      flags_get(cpu)));
	} else {
		cpu->gpr[RCX] = next_rip;
		cpu->rip = (uint32_t)cpu->star;
		cpu->rflags &= ~(FLAG_IF | FLAG_RF | FLAG_VM);
		cpu_set_cs(cpu, seg_flat_code(sel, 0, false));
		cpu->seg[SEG_SS] = seg_flat_data(sel + 8, 0);
		cpu_set_cpl(cpu, 0);
	}
	/* The trap is for the target if SFMASK left TF set. */
	cpu->no_step = !(cpu->rflags & FLAG_TF);
}

void seg_sysret(struct cpu *cpu, unsigned opsize)
{
	uint16_t sel = cpu->star >> 48;

	if (!(cpu->efer & EFER_SCE) || cpu_real_mode(cpu))
		cpu_raise_ud(cpu);
	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
	if (cpu_long_mode(cpu)) {
		seg_sysret_long(cpu, opsize == 8);
		flags_set_arith(cpu, cpu->gpr[R11]);
		return;
	}
	cpu->rip = (uint32_t)cpu->gpr[RCX];
	cpu->rflags |= FLAG_IF;
	cpu_set_cs(cpu, seg_flat_code(sel | 3, 3, false));
	cpu->seg[SEG_SS] = seg_flat_data((sel + 8) | 3, 3);
	cpu_set_cpl(cpu, 3);
}

/* On AMD processors SYSENTER and SYSEXIT are invalid in long mode (APM volume 3). */
void seg_sysenter(struct cpu *cpu)
{
	uint16_t sel = cpu->sysenter_cs & 0xfffc;

	if (cpu_long_mode(cpu))
		cpu_raise_ud(cpu);
	if (cpu_real_mode(cpu) || !sel)
		cpu_raise_gp(cpu);
	cpu->rflags &= ~(FLAG_IF | FLAG_RF | FLAG_VM);
	cpu_set_cs(cpu, seg_flat_code(sel, 0, false));
	cpu->seg[SEG_SS] = seg_flat_data(sel + 8, 0);
	cpu->gpr[RSP] = (uint32_t)cpu->sysenter_esp;
	cpu->rip = (uint32_t)cpu->sysenter_eip;
	cpu_set_cpl(cpu, 0);
}

void seg_sysexit(struct cpu *cpu, unsigned opsize)
{
	uint16_t sel = cpu->sysenter_cs & 0xfffc;

	if (cpu_long_mode(cpu))
		cpu_raise_ud(cpu);
	if (cpu_real_mode(cpu) || !sel || cpu->cpl != 0)
		cpu_raise_gp(cpu);
	cpu_set_cs(cpu, seg_flat_code((sel + 16) | 3, 3, false));
	cpu->seg[SEG_SS] = seg_flat_data((sel + 24) | 3, 3);
	cpu->gpr[RSP] = (uint32_t)cpu->gpr[RCX];
	cpu->rip = (uint32_t)cpu->gpr[RDX];
	cpu_set_cpl(cpu, 3);
}

/* --- LAR, LSL, VERR, VERW ----------------------------------------------------------------- */

static bool query_type_ok(const struct cpu *cpu, enum seg_query q, const struct desc *d)
{
	unsigned type = desc_type(d);

	if (!desc_is_system(d)) {
		if (q == SEG_VERR)
			return !desc_is_code(d) || (type & 2);
		if (q == SEG_VERW)
			return !desc_is_code(d) && (type & 2);
		return true;
	}
	switch (type) {
	case 2:
	case 9:
	case 11: return q == SEG_LAR || q == SEG_LSL;
	case 12: return q == SEG_LAR;
	case 1:
	case 3: return !cpu_long_mode(cpu) && (q == SEG_LAR || q == SEG_LSL);
	case 4:
	case 5: return !cpu_long_mode(cpu) && q == SEG_LAR;
	default: return false;
	}
}

bool seg_query(struct cpu *cpu, enum seg_query q, uint16_t sel, uint32_t *value)
{
	struct desc d;
	struct seg s;

	if (sel_null(sel) || !desc_read(cpu, sel, &d) || !query_type_ok(cpu, q, &d))
		return false;
	if (!desc_is_conforming(&d) && (desc_dpl(&d) < cpu->cpl || desc_dpl(&d) < (sel & 3u)))
		return false;
	seg_from_desc(&s, sel, &d);
	*value = q == SEG_LSL ? s.limit : d.hi & 0x00f0ff00;
	return true;
}
