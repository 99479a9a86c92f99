/*
 * Arbitrary bytes as kernel or user code, compiled before their first run, on a processor in a
 * state that they choose: nothing may crash the monitor, hang it or store outside of the guest's
 * memory, and the lockstep checker must find that compiled code does what the interpreter does.
 *
 * An input is a header of HEADER bytes, from which the state is drawn, and the code. As a program
 * of its own (fuzz_main.c) it draws inputs that are mostly instructions; libFuzzer brings its own
 * main.
 */
#include "tests/fuzz/fuzz_bt.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "src/base/rcu.h"
#include "src/engine/check/check.h"
#include "src/engine/interp/interp.h"
#include "tests/diff/rng.h"

#define RAM_SIZE MIB(1)
/* Nothing lies around the guest's memory; stores that miss it by less than this are found. */
#define GUARD MIB(64)
/* Mapped one to one: code, stack and data. What is above is for tables, and is not mapped. */
#define MAPPED	 0x80000u
#define TABLES	 0x80000u
#define GDT	 0x90000u
#define IDT	 0x91000u
#define TSS	 0x92000u
#define HANDLERS 0x93000u /* a HLT for every vector */
#define CODE	 0x10000u
#define SYSTEM	 0xffffffff80000000ull /* where the upper half has all memory */
#define SLICES	 24
#define SLICE	 400

struct machine {
	struct cpu *cpu;
	struct interp *in;
	struct gmem gm;
	struct stats stats;
	struct shootdown_queue queue;
	struct shootdown_sink sink;
	uint32_t requests;
	uint8_t *ram;
};

static struct machine machine;

/* --- the world ------------------------------------------------------------------------------ */

static void read_any(struct cpu *cpu, gpa_t gpa, void *data, unsigned len)
{
	memset(data, gpa, len);
}

static void write_any(struct cpu *cpu, gpa_t gpa, const void *data, unsigned len)
{
}

static void pio_read(struct cpu *cpu, uint16_t port, void *data, unsigned len)
{
	memset(data, port, len);
}

static void pio_write(struct cpu *cpu, uint16_t port, const void *data, unsigned len)
{
}

static int no_msr(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	return -EINVAL;
}

static int no_msr_write(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	return -EINVAL;
}

static uint8_t get_cr8(struct cpu *cpu)
{
	return 0;
}

static void set_cr8(struct cpu *cpu, uint8_t value)
{
}

static uint64_t rdtsc(struct cpu *cpu)
{
	return cpu->stats->instructions;
}

static void move_tsc(struct cpu *cpu, uint64_t delta)
{
}

static uint64_t hypercall(struct cpu *cpu, uint64_t nr, const uint64_t arg[4])
{
	return nr;
}

static void cpuid(struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	memset(out, 0, 4 * sizeof(out[0]));
}

static const struct cpu_ops ops = {read_any, write_any,	   pio_read,  pio_write,
				   no_msr,   no_msr_write, get_cr8,   set_cr8,
				   rdtsc,    move_tsc,	   hypercall, cpuid};

static void on_message(void *arg, enum shootdown_kind kind, uint64_t value)
{
	struct machine *m = arg;

	switch (kind) {
	case SHOOTDOWN_DROP_CODE: interp_drop_code(m->in, value); break;
	case SHOOTDOWN_PROTECT: tlb_protect_gfn(&m->cpu->tlb, value); break;
	case SHOOTDOWN_FORGET_CODE: interp_forget_code(m->in); break;
	case SHOOTDOWN_FLUSH_TLB: tlb_flush_all(&m->cpu->tlb); break;
	}
}

static void on_overflow(void *arg)
{
	struct machine *m = arg;

	interp_drop_stale(m->in);
	tlb_flush_all(&m->cpu->tlb);
}

static void on_kick(void *arg)
{
}

static int map_ram(struct machine *m)
{
	uint8_t *p = mmap(NULL, RAM_SIZE + 2 * GUARD, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED || mprotect(p + GUARD, RAM_SIZE, PROT_READ | PROT_WRITE))
		return -ENOMEM;
	m->ram = p + GUARD;
	return 0;
}

int fuzz_init(uint32_t check_every)
{
	struct machine *m = &machine;
	struct memslot slot = {.size = RAM_SIZE};
	struct shootdown_queue *q = &m->queue;
	struct interp_config cfg = {.requests = &m->requests,
				    .cache_bytes = MIB(1),
				    .translate = true,
				    .translate_after = 1,
				    .check_every = check_every};
	int r;

	rcu_thread_init();
	m->cpu = cpu_alloc(sizeof(*m->cpu));
	r = m->cpu ? map_ram(m) : -ENOMEM;
	if (r)
		return r;
	slot.hva = (hva_t)m->ram;
	shootdown_queue_init(q, on_kick, NULL);
	r = gmem_init(&m->gm);
	if (!r)
		r = gmem_add_slot(&m->gm, &slot);
	if (!r)
		r = gmem_set_queues(&m->gm, &q, 1);
	m->cpu->gmem = &m->gm;
	m->cpu->stats = &m->stats;
	m->cpu->ops = &ops;
	if (!r)
		r = cpu_init(m->cpu);
	if (!r)
		r = interp_create(&m->in, m->cpu, &cfg);
	if (r)
		return r;
	m->sink = (struct shootdown_sink){on_message, on_overflow, m};
	shootdown_online(&m->queue, &m->sink);
	interp_enter_thread(m->in);
	return 0;
}

const struct stats *fuzz_stats(void)
{
	return &machine.stats;
}

/* --- one case ------------------------------------------------------------------------------- */

static void put64(struct machine *m, gpa_t gpa, uint64_t v)
{
	memcpy(m->ram + gpa, &v, 8);
}

/* Rights of the mapped pages differ; the upper half has all, for the supervisor. */
static void fill_tables(struct machine *m, struct rng *r)
{
	const uint64_t table = PTE_P | PTE_W | PTE_U;

	put64(m, TABLES, (TABLES + 0x1000) | table);
	put64(m, TABLES + 0x1000, (TABLES + 0x2000) | table);
	put64(m, TABLES + 0x2000, (TABLES + 0x3000) | table);
	put64(m, TABLES + 8 * 511, (TABLES + 0x4000) | table);
	put64(m, TABLES + 0x4000 + 8 * 510, (TABLES + 0x5000) | table);
	put64(m, TABLES + 0x5000, (TABLES + 0x6000) | table);
	for (unsigned n = 0; n < MAPPED / PAGE_SIZE; n++) {
		uint64_t bits = PTE_P | PTE_W | PTE_U;

		if (rng_chance(r, 20))
			bits &= ~(1ull << rng_below(r, 3));
		if (n >= CODE / PAGE_SIZE && n < CODE / PAGE_SIZE + 4)
			bits = PTE_P | PTE_U | (rng_chance(r, 50) ? PTE_W : 0);
		put64(m, TABLES + 0x3000 + 8 * n, (uint64_t)n << PAGE_SHIFT | bits);
	}
	/* The tables themselves are mapped nowhere. */
	for (unsigned n = 0; n < RAM_SIZE / PAGE_SIZE; n++)
		if (n < MAPPED / PAGE_SIZE || n >= GDT / PAGE_SIZE)
			put64(m, TABLES + 0x6000 + 8 * n,
			      (uint64_t)n << PAGE_SHIFT | PTE_P | PTE_A |
				      (n < MAPPED / PAGE_SIZE ? PTE_W | PTE_D : 0));
}

static void fill_gates(struct machine *m)
{
	put64(m, GDT + 8, 0x00209b0000000000ull);
	put64(m, GDT + 16, 0x00cf93000000ffffull);
	put64(m, GDT + 24, 0x0020fb0000000000ull);
	put64(m, GDT + 32, 0x00cff3000000ffffull);
	put64(m, TSS + 4, SYSTEM + MAPPED);
	for (unsigned v = 0; v < 256; v++) {
		uint64_t to = SYSTEM + HANDLERS + 16 * v;

		put64(m, IDT + 16 * v,
		      (to & 0xffff) | 8ull << 16 | 0xee00ull << 32 | (to >> 16 & 0xffff) << 48);
		put64(m, IDT + 16 * v + 8, to >> 32);
		m->ram[HANDLERS + 16 * v] = 0xf4;
	}
}

static uint64_t draw_address(struct rng *r)
{
	switch (rng_below(r, 10)) {
	case 0: return rng_next(r);
	case 1: return rng_below(r, 64);
	case 2: return 0x800000000000ull - rng_below(r, 32);
	case 3: return SYSTEM + rng_below(r, MAPPED);
	case 4: return CODE + rng_below(r, 0x1000);
	case 5: return (rng_below(r, MAPPED) & ~0xfffu) - rng_below(r, 64);
	default: return rng_below(r, MAPPED) & ~7u;
	}
}

static void draw_segments(struct cpu *c, struct rng *r)
{
	for (unsigned s = 0; s < SEG_NONE; s++)
		c->seg[s] = (struct seg){.sel = c->cpl ? 35 : 16,
					 .limit = ~0u,
					 .attr = SEG_P | SEG_S | SEG_RW | SEG_A | SEG_G | SEG_DB |
						 c->cpl << SEG_DPL_SHIFT};
	c->seg[SEG_CS].sel = c->cpl ? 27 : 8;
	c->seg[SEG_CS].attr =
		SEG_P | SEG_S | SEG_RW | SEG_A | SEG_G | SEG_CODE | SEG_L | c->cpl << SEG_DPL_SHIFT;
	c->seg[SEG_FS].base = draw_address(r);
	c->seg[SEG_GS].base = draw_address(r);
	c->seg[SEG_TR] =
		(struct seg){.sel = 40, .base = SYSTEM + TSS, .limit = 0x67, .attr = SEG_P | 0xb};
	c->gdtr = (struct dtable){.base = SYSTEM + GDT, .limit = 0x27};
	c->idtr = (struct dtable){.base = SYSTEM + IDT, .limit = 0xfff};
}

static void draw_state(struct machine *m, struct rng *r)
{
	struct cpu *c = m->cpu;

	cpu_reset(c, true);
	c->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | (rng_chance(r, 80) ? CR0_WP : 0) |
		 (rng_next(r) & CR0_AM);
	c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT |
		 (rng_next(r) & (CR4_PGE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP | CR4_FSGSBASE));
	c->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	c->cr3 = TABLES;
	c->xcr0 = 7;
	c->cpl = rng_chance(r, 60) ? 3 : 0;
	draw_segments(c, r);
	c->rflags = rng_next(r) & (FLAG_IF | FLAG_DF);
	if (rng_chance(r, 10))
		c->rflags |= rng_next(r) & (FLAG_AC | FLAG_NT | FLAG_IOPL);
	flags_set_arith(c, rng_next(r));
	for (unsigned n = RAX; n <= R15; n++)
		c->gpr[n] = draw_address(r);
	if (rng_chance(r, 60))
		c->gpr[RCX] = rng_below(r, 20);
	c->gpr[RSP] = rng_chance(r, 90) ? 0x30000 - 8 * rng_below(r, 600) : draw_address(r);
	for (unsigned n = 0; n < sizeof(c->vec.ymm); n += 8) {
		uint64_t v = rng_next(r) >> rng_below(r, 64);

		memcpy((uint8_t *)c->vec.ymm + n, &v, 8);
	}
	/* A kernel that is entered by SYSCALL, and perhaps left by SYSRET, is code like any other.
	 */
	c->lstar = rng_chance(r, 70) ? SYSTEM + CODE + rng_below(r, PAGE_SIZE) : SYSTEM + HANDLERS;
	c->sfmask = rng_chance(r, 50) ? rng_next(r) & 0x257fd5 : 0;
	c->star = 0x0013000800000000ull;
	c->rip = CODE;
	tlb_flush_all(&c->tlb);
	cpu_update_ctx(c);
}

/*
 * Code may change control registers, its tables' base among them, and from then on use tables that
 * it can store to: what a TLB makes of that is not the checker's business.
 */
static bool own_tables(const struct cpu *c)
{
	return c->cr3 != TABLES || !(c->cr0 & CR0_PG) || !cpu_code64(c);
}

static bool run_slices(struct machine *m, struct rng *r)
{
	for (unsigned n = 0; n < SLICES && !own_tables(m->cpu); n++) {
		shootdown_drain(&m->queue, &m->sink);
		rcu_quiescent();
		switch (interp_run(m->in, 1 + rng_below(r, SLICE), false)) {
		case INTERP_DIFFERS: return false;
		case INTERP_SHUTDOWN: return true;
		case INTERP_HALT:
			/* Behind the fault, if it can be found: most of the code is to be run. */
			m->cpu->rip = CODE + rng_below(r, PAGE_SIZE);
			m->cpu->cpl = 0;
			m->cpu->gpr[RSP] = 0x30000;
			draw_segments(m->cpu, r);
			cpu_update_ctx(m->cpu);
			break;
		default: break;
		}
	}
	return true;
}

bool fuzz_case(const uint8_t *data, size_t size)
{
	struct machine *m = &machine;
	struct rng r = {0};

	if (size <= FUZZ_HEADER)
		return true;
	memcpy(&r.state, data, FUZZ_HEADER);
	size = MIN(size - FUZZ_HEADER, FUZZ_CODE);
	for (unsigned n = 0; n < MAPPED; n += 8)
		put64(m, n, n % 256 ? n * 0x9e3779b97f4a7c15ull >> (n >> 3) % 64 : 0);
	memset(m->ram + CODE, 0x90, FUZZ_CODE);
	memcpy(m->ram + CODE, data + FUZZ_HEADER, size);
	memset(m->ram + TABLES, 0, GDT - TABLES);
	fill_tables(m, &r);
	fill_gates(m);
	gmem_wrote(&m->gm, 0, RAM_SIZE);
	interp_drop_all(m->in);
	shootdown_drain(&m->queue, &m->sink);
	draw_state(m, &r);
	return run_slices(m, &r);
}
