#include "src/x86/exc.h"

#include "src/x86/insn.h"
#include "src/x86/mem.h"
#include "src/x86/seg.h"

_Noreturn void cpu_unwind(struct cpu *cpu)
{
	longjmp(*cpu->unwind, 1);
}

static _Noreturn void raise(struct cpu *cpu, uint8_t vector, bool has_error, uint32_t error)
{
	cpu->next_exc =
		(struct cpu_exception){.vector = vector, .has_error = has_error, .error = error};
	cpu_unwind(cpu);
}

_Noreturn void cpu_raise(struct cpu *cpu, uint8_t vector)
{
	raise(cpu, vector, false, 0);
}

_Noreturn void cpu_raise_err(struct cpu *cpu, uint8_t vector, uint32_t error)
{
	raise(cpu, vector, true, error);
}

_Noreturn void cpu_raise_pf(struct cpu *cpu, gva_t gva, uint32_t error)
{
	cpu->next_exc = (struct cpu_exception){
		.vector = EXC_PF, .has_error = true, .error = error, .cr2 = gva};
	cpu_unwind(cpu);
}

static bool contributory(uint8_t vector)
{
	return vector == EXC_DE || (vector >= EXC_TS && vector <= EXC_GP);
}

/* AMD64 APM volume 2, 8.2.9: what an exception during the delivery of another becomes. */
static bool makes_double_fault(const struct cpu_exception *first,
			       const struct cpu_exception *second)
{
	if (first->kind != EXC_KIND_FAULT)
		return false;
	if (contributory(first->vector))
		return contributory(second->vector);
	if (first->vector == EXC_PF)
		return second->vector == EXC_PF || contributory(second->vector);
	return false;
}

void exc_landed(struct cpu *cpu)
{
	struct cpu_exception *next = &cpu->next_exc;

	next->kind = EXC_KIND_FAULT;
	if (!cpu->delivering) {
		/* A trap belongs to an instruction that completes. */
		cpu->event &= ~CPU_EVENT_DATA_BP;
		cpu->dr6_pending = 0;
		cpu->rip = cpu->gpr[REG_PC] + cpu->cur->off;
		if (cpu->cur->mode != 8)
			cpu->rip = (uint32_t)cpu->rip;
	} else if (cpu->exc.vector == EXC_DF && cpu->exc.kind == EXC_KIND_FAULT &&
		   (next->vector == EXC_PF || contributory(next->vector))) {
		cpu->event |= CPU_EVENT_SHUTDOWN;
		cpu->delivering = false;
		return;
	} else if (makes_double_fault(&cpu->exc, next)) {
		if (next->vector == EXC_PF)
			cpu->cr2 = next->cr2;
		*next = (struct cpu_exception){
			.vector = EXC_DF, .has_error = true, .kind = EXC_KIND_FAULT};
	} else if (next->has_error && next->vector != EXC_PF && cpu->exc.kind != EXC_KIND_SOFT) {
		next->error |= 1; /* EXT: not caused by the program */
	}
	cpu->exc = *next;
	cpu->exc_pending = true;
	cpu->event |= CPU_EVENT_EXC;
}

static void deliver_real(struct cpu *cpu, uint8_t vector, uint64_t rip)
{
	struct seg cs = cpu->seg[SEG_CS];
	struct stack st;
	uint32_t entry;

	if (vector * 4u + 3 > cpu->idtr.limit)
		cpu_raise_err(cpu, EXC_GP, vector * 8 + 2);
	entry = mem_sys_read(cpu, cpu->idtr.base + vector * 4, 4);
	stack_current(cpu, &st);
	stack_push(&st, flags_get(cpu), 2);
	stack_push(&st, cpu->seg[SEG_CS].sel, 2);
	stack_push(&st, rip, 2);
	stack_commit(&st);
	seg_load_real(&cs, entry >> 16);
	cpu_set_cs(cpu, cs);
	cpu->rip = entry & 0xffff;
	cpu->rflags &= ~(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
}

struct idt_gate {
	struct desc d;
	uint64_t off;
	unsigned size; /* of each pushed item */
	unsigned ist;
	bool trap;
};

static void read_idt_gate(struct cpu *cpu, uint8_t vector, struct idt_gate *g)
{
	bool lm = cpu_long_mode(cpu);
	unsigned entry_size = lm ? 16 : 8;
	uint32_t error = vector * 8 + 2;
	uint64_t raw;
	unsigned type;

	if (vector * entry_size + entry_size - 1 > cpu->idtr.limit)
		cpu_raise_err(cpu, EXC_GP, error);
	g->d.gva = cpu->idtr.base + vector * entry_size;
	raw = mem_sys_read(cpu, g->d.gva, 8);
	g->d.lo = raw;
	g->d.hi = raw >> 32;
	type = desc_type(&g->d);
	if (!desc_is_system(&g->d) || ((type & ~1u) != 0xe && ((type & ~1u) != 6 || lm)))
		cpu_raise_err(cpu, EXC_GP, error); /* task gates, too: not implemented */
	if (cpu->exc.kind == EXC_KIND_SOFT && !cpu->exc.privileged && desc_dpl(&g->d) < cpu->cpl)
		cpu_raise_err(cpu, EXC_GP, error);
	if (!desc_present(&g->d))
		cpu_raise_err(cpu, EXC_NP, error);
	g->off = (g->d.lo & 0xffff) | (type & 8 ? g->d.hi & 0xffff0000 : 0);
	g->size = type & 8 ? 4 : 2;
	g->trap = type & 1;
	g->ist = 0;
	if (lm) {
		g->off |= mem_sys_read(cpu, g->d.gva + 8, 4) << 32;
		g->size = 8;
		g->ist = g->d.hi & 7;
	}
}

static void deliver_protected(struct cpu *cpu, uint8_t vector, uint64_t rip, uint64_t flags)
{
	struct idt_gate g;
	struct desc cd;
	struct code_target t;
	struct stack st;
	bool lm = cpu_long_mode(cpu), inner;
	uint16_t sel;
	unsigned cpl;

	read_idt_gate(cpu, vector, &g);
	sel = g.d.lo >> 16;
	if (!(sel & 0xfffc))
		cpu_raise_err(cpu, EXC_GP, 0);
	if (!desc_read(cpu, sel, &cd) || !desc_is_code(&cd) || desc_dpl(&cd) > cpu->cpl ||
	    (lm && (cd.hi & 0x600000) != 0x200000))
		cpu_raise_err(cpu, EXC_GP, sel & 0xfffc);
	if (!desc_present(&cd))
		cpu_raise_err(cpu, EXC_NP, sel & 0xfffc);
	cpl = desc_is_conforming(&cd) ? cpu->cpl : desc_dpl(&cd);
	inner = cpl < cpu->cpl;

	if (inner || g.ist)
		stack_from_tss(cpu, cpl, g.ist, &st);
	else
		stack_current(cpu, &st);
	st.ordinary = cpl == 3;
	if (lm) {
		st.mask = ~0ull;
		st.sp &= ~15ull;
	}
	if (inner || lm) {
		stack_push(&st, cpu->seg[SEG_SS].sel, g.size);
		stack_push(&st, cpu->gpr[RSP], g.size);
	}
	stack_push(&st, flags, g.size);
	stack_push(&st, cpu->seg[SEG_CS].sel, g.size);
	stack_push(&st, rip, g.size);
	if (cpu->exc.has_error)
		stack_push(&st, cpu->exc.error, g.size);

	desc_set_accessed(cpu, &cd);
	seg_from_desc(&t.cs, (sel & 0xfffc) | cpl, &cd);
	t.rip = g.off;
	t.cpl = cpl;
	if (lm ? !gva_canonical(t.rip) : t.rip > t.cs.limit)
		cpu_raise_err(cpu, EXC_GP, 0);
	if (inner)
		cpu->seg[SEG_SS] = st.ss;
	stack_commit(&st);
	exc_enter(cpu, &t, g.trap);
}

static void deliver(struct cpu *cpu, uint64_t rip)
{
	static const struct insn no_insn;
	uint64_t flags = flags_get(cpu);

	/* Nothing below belongs to an instruction; "delivering" tells exc_landed() so. */
	cpu->cur = &no_insn;
	cpu->delivering = true;
	if (cpu->exc.kind == EXC_KIND_FAULT) {
		STAT_INC(cpu->stats, exceptions);
		/* Faults restart their instruction without its code breakpoint. */
		if (cpu->exc.vector != EXC_DB)
			flags |= FLAG_RF;
		if (cpu->exc.vector == EXC_PF) {
			cpu->cr2 = cpu->exc.cr2;
			STAT_INC(cpu->stats, page_faults);
		}
	}
	if (cpu_real_mode(cpu))
		deliver_real(cpu, cpu->exc.vector, rip);
	else
		deliver_protected(cpu, cpu->exc.vector, rip, flags);
	cpu->delivering = false;
	cpu->exc_pending = false;
	cpu->event &= ~(CPU_EVENT_EXC | CPU_EVENT_SHADOW | CPU_EVENT_SS_SHADOW);
}

void exc_deliver(struct cpu *cpu)
{
	deliver(cpu, cpu->rip);
}

void exc_interrupt(struct cpu *cpu, uint8_t vector)
{
	cpu->exc = (struct cpu_exception){.vector = vector, .kind = EXC_KIND_EXTERNAL};
	deliver(cpu, cpu->rip);
}

void exc_soft_interrupt(struct cpu *cpu, uint8_t vector, uint64_t next_rip, bool privileged)
{
	cpu->exc = (struct cpu_exception){
		.vector = vector, .kind = EXC_KIND_SOFT, .privileged = privileged};
	/* A fault in this delivery returns to the INT instruction itself. */
	cpu->rip = cpu->gpr[REG_PC] + cpu->cur->off;
	if (cpu->cur->mode != 8)
		cpu->rip = (uint32_t)cpu->rip;
	deliver(cpu, next_rip);
	cpu->no_step = true; /* SDM volume 3, 18.3.1.4: INT n clears TF before a trap is taken */
}

void exc_debug_trap(struct cpu *cpu, uint64_t dr6_bits)
{
	cpu->dr6 |= dr6_bits;
	cpu->dr7 &= ~(uint64_t)DR7_GD;
	cpu->exc = (struct cpu_exception){.vector = EXC_DB, .kind = EXC_KIND_FAULT};
	deliver(cpu, cpu->rip);
}
