/*
 * Segmentation: descriptor loads with their checks, stacks of either width, and control transfers
 * between segments (AMD64 APM volume 2, chapter 4). Owner thread only; all may unwind.
 * Hardware task switching is not implemented: see docs/architecture.md.
 */
#ifndef X86_SEG_H
#define X86_SEG_H

#include "src/x86/cpu.h"

struct desc {
	uint32_t lo, hi;
	gva_t gva; /* where it was read, for the accessed and busy bits */
};

static inline unsigned desc_dpl(const struct desc *d)
{
	return d->hi >> 13 & 3;
}
static inline unsigned desc_type(const struct desc *d)
{
	return d->hi >> 8 & 0xf;
}
static inline bool desc_present(const struct desc *d)
{
	return d->hi & 1u << 15;
}
static inline bool desc_is_system(const struct desc *d)
{
	return !(d->hi & 1u << 12);
}
static inline bool desc_is_code(const struct desc *d)
{
	return (d->hi & 0x1800) == 0x1800;
}
static inline bool desc_is_conforming(const struct desc *d)
{
	return (d->hi & 0x1c00) == 0x1c00;
}

/* False if the selector lies outside its table. */
bool desc_read(struct cpu *cpu, uint16_t sel, struct desc *d);
/* Sets the accessed bit in memory if it is clear. */
void desc_set_accessed(struct cpu *cpu, struct desc *d);
static inline void seg_from_desc(struct seg *seg, uint16_t sel, const struct desc *d)
{
	seg->sel = sel;
	seg->base = (d->lo >> 16) | (d->hi & 0xff) << 16 | (d->hi & 0xff000000);
	seg->attr = d->hi >> 8 & 0xf0ff;
	seg->limit = (d->lo & 0xffff) | (d->hi & 0xf0000);
	if (seg->attr & SEG_G)
		seg->limit = seg->limit << 12 | 0xfff;
}

/* MOV/POP to a data segment register. */
void seg_load(struct cpu *cpu, enum seg_index seg, uint16_t sel);
/* What real mode does; also used to build initial state. */
void seg_load_real(struct seg *seg, uint16_t sel);
void seg_load_ldt(struct cpu *cpu, uint16_t sel);
void seg_load_tr(struct cpu *cpu, uint16_t sel);

/* A stack being pushed to or popped from before it is committed. */
struct stack {
	struct cpu *cpu;
	struct seg ss;
	uint64_t sp;
	uint64_t mask;
	bool ordinary;	/* accessed as an operand is; else as the supervisor, whatever AC says */
	uint16_t fault; /* selector in the error code of #SS */
};
/* As instructions use it: ordinary. */
void stack_current(struct cpu *cpu, struct stack *st);
void stack_push(struct stack *st, uint64_t value, unsigned size);
uint64_t stack_pop(struct stack *st, unsigned size);
/* RSP, by the stack's width. */
void stack_commit(struct stack *st);
/* The stack for privilege level cpl out of the TSS; for long mode ist 1-7 picks an IST entry. */
void stack_from_tss(struct cpu *cpu, unsigned cpl, unsigned ist, struct stack *st);

/* Code segment and instruction pointer together; checks rip against limit or canonical form. */
struct code_target {
	struct seg cs;
	uint64_t rip;
	unsigned cpl;
};
/* Every change of CS goes through here: cached code is found by rip, so its segment must be known.
 */
static inline void cpu_set_cs(struct cpu *cpu, struct seg cs)
{
	struct seg *cur = &cpu->seg[SEG_CS];

	if (unlikely(cur->base != cs.base || cur->limit != cs.limit))
		cpu->tlb.code_gen++;
	*cur = cs;
}
static inline void cpu_set_cpl(struct cpu *cpu, unsigned cpl)
{
	cpu->cpl = cpl;
	cpu_update_ctx(cpu);
}
static inline void code_commit(struct cpu *cpu, const struct code_target *t)
{
	cpu_set_cs(cpu, t->cs);
	cpu->rip = t->rip;
	if (cpu->cpl != t->cpl)
		cpu_set_cpl(cpu, t->cpl);
}

void far_jump(struct cpu *cpu, uint16_t sel, uint64_t off, unsigned opsize);
void far_call(struct cpu *cpu, uint16_t sel, uint64_t off, unsigned opsize, uint64_t next_rip);
void far_return(struct cpu *cpu, unsigned opsize, unsigned release);
void seg_iret(struct cpu *cpu, unsigned opsize);
void seg_syscall(struct cpu *cpu, uint64_t next_rip);
void seg_sysret(struct cpu *cpu, unsigned opsize);
void seg_sysenter(struct cpu *cpu);
void seg_sysexit(struct cpu *cpu, unsigned opsize);

enum seg_query { SEG_LAR, SEG_LSL, SEG_VERR, SEG_VERW };
/* True (ZF) and a value if the selector passes. */
bool seg_query(struct cpu *cpu, enum seg_query q, uint16_t sel, uint32_t *value);

#endif
